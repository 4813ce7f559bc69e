"""data.py: images in, tensors out. Knows nothing of networks or metrics.

    python data.py lesions --n 80 --size 128 --out drawn/        draw lesions, a tree of PNG files
    python data.py prepare --built-in 960 --out runs/data        a set of drawn lesions, split
    python data.py prepare my_photos --size 64 --out runs/data   class folders, or images and csv
    python data.py prepare DIR --for dermagan --out runs/data    the set a study needs, below DIR
    python data.py check my_photos                               copies, wrong labels, leaks
    python data.py export runs/data --share 1/2 --out half/      PNG for any other generator
"""
import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path

import numpy as np
import scipy.spatial
import torch
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from torch.nn import functional as F

import jobs
from jobs import UserError, at_least
from reading import COLUMN_NAMES, Row, class_name, counted, first_of, hash_of, plain_name, read_rows

TWO = ["benign", "malignant"]
EIGHT = "AK BCC BKL DF MEL NV SCC VASC".split()
# Classes of each study, and the folders that serve it: the paper's own set, then stand-ins.
STUDIES = {
    "wgan_gp": (TWO, "kaggle_binary, isic_archive, ham10000, isic2019"),
    "dcgan_cls": (TWO, "kaggle_binary, isic_archive, ham10000, isic2019"),
    "acgan_cyclegan": (EIGHT, "isic2019, ham10000"),
    "dermagan": ("AK BCC BKL MEL".split(), "its 1,976 images (unpublished), isic2019, ham10000"),
    "dcgan_inception": (TWO, "isic_archive, kaggle_binary, ham10000, isic2019"),
    "controls": (TWO, "isic2019, isic_archive, ham10000, kaggle_binary"),
}


# ---- The image set

COLUMNS = ("labels", "ids", "groups", "split")      # one entry per image


@dataclass
class ImageSet:
    images: np.ndarray      # uint8 (n, side, side, 3), RGB
    labels: np.ndarray      # int64 (n,), index into classes
    classes: list           # class names
    ids: np.ndarray         # str (n,)
    groups: np.ndarray      # str (n,): lesion; its pictures stay on one side of a split
    split: np.ndarray       # str (n,): "train", "val", "test", or "" where nothing is decided
    info: dict              # where it comes from; what a GAN has seen

    def __len__(self):
        return len(self.images)

    def take(self, which):
        """The images that `which` (indices or a mask) selects."""
        columns = {name: getattr(self, name)[which] for name in COLUMNS}
        return replace(self, images=self.images[which], **columns)

    def part(self, name):
        """The images of "train", "val" or "test"; of a set without a split, "train" is all."""
        if name == "train" and not self.split.any():
            return self
        if name not in self.split:
            raise UserError(f"{self.info.get('source')}: no image is marked {name}. Make the set "
                            "by `data.py prepare`, perhaps with a larger --val or --test")
        return self.take(self.split == name)

    def of_class(self, name):
        if name not in self.classes:
            raise UserError(f"no class {name}: the classes are {', '.join(self.classes)}")
        return self.take(self.labels == self.classes.index(name))

    def counts(self):
        return {name: int((self.labels == k).sum()) for k, name in enumerate(self.classes)}

    def share(self, share):
        """This share of each class, lesion by lesion in a fixed order: a larger holds a smaller."""
        if share >= 1:
            return self
        lots = [hash_of(group.encode()) for group in self.groups]
        order = np.argsort(lots, kind="stable")
        chosen = []
        for label in range(len(self.classes)):
            of_class = order[self.labels[order] == label]
            chosen.extend(of_class[:round(share * len(of_class))])
        return self.take(np.sort(chosen).astype(int))

    def digests(self):
        return np.array([hash_of(image.tobytes()) for image in self.images])

    def fingerprint(self):
        """One hash of all that decides a result: pixels, labels, lesions, split."""
        names = [self.classes[label] for label in self.labels]
        columns = zip(self.digests().tolist(), names, self.groups.tolist(), self.split.tolist())
        return hash_of(repr(list(columns)).encode())

    def save(self, path):
        """A file x.npy with its x.json, or for any other path a new tree CLASS/00000.png."""
        path = Path(path).resolve()
        if path.suffix == ".npy":
            columns = {name: getattr(self, name).tolist() for name in COLUMNS}
            rest = path.with_suffix(".json")
            rest.unlink(missing_ok=True)        # pixels without their labels are no set
            with jobs.replacing(path) as file:
                np.save(file, self.images)
            jobs.write_json(rest, dict(columns, classes=self.classes, info=self.info))
            return

        if path.exists():
            raise UserError(f"{path} is there already: choose a new folder")
        begun = path.with_name(f".{path.name}.part")        # becomes `path` when it is complete
        shutil.rmtree(begun, ignore_errors=True)            # left by a kill
        for k, (image, label) in enumerate(zip(self.images, self.labels)):
            file = begun / self.classes[label] / f"{k:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        jobs.write_json(begun / "info.json", self.info)
        begun.replace(path)


def mix(sets):
    """The image sets of a list as one. Classes go by name: the first set must have them all."""
    first = sets[0]
    columns = {}
    for name in ("images", "ids", "groups", "split"):
        columns[name] = np.concatenate([getattr(one, name) for one in sets])
    labels = []
    for one in sets:
        unknown = first_of(sorted(set(one.classes) - set(first.classes)))
        if unknown:
            raise UserError(f"{one.info.get('source')}: classes {unknown} are not among "
                            f"{first_of(first.classes)}")
        numbers = np.array([first.classes.index(name) for name in one.classes])
        labels.append(numbers[one.labels])
    return replace(first, labels=np.concatenate(labels), **columns)


def what_was_seen(*sets):
    """Hashes of pixels and {prepared set: ids} of the sets, and of what their own GANs saw."""
    digests = set()
    ids = defaultdict(set)
    for images in filter(None, sets):
        digests.update(images.digests(), images.info.get("digests", []))
        ids[images.info.get("dataset", "unknown")].update(images.ids)
        for dataset, names in images.info.get("seen_ids", {}).items():
            ids[dataset].update(names)
    seen_ids = {dataset: sorted(names) for dataset, names in ids.items()}
    return dict(digests=sorted(digests), seen_ids=seen_ids)


# ---- Reading and choosing

def load(path, size=None, columns=()):
    """The image set of a file or job's folder; or of photographs, a folder or zip, at `size` px."""
    path = Path(path)
    for name in ("images.npy", "samples.npy"):      # the folder of a `prepare` or a GAN job
        if (path / name).is_file():
            path = path / name
    if path.suffix in (".npy", ".npz"):
        return load_file(path)
    info = {}
    if (path / "info.json").exists():               # whose they are, what their GAN has seen
        info = jobs.read_json(path / "info.json")
    rows, notes = read_rows(path, columns=columns)
    size = info.get("size", size)
    if size is None:
        raise UserError(f"{path} holds image files: prepare it first (data.py prepare)")
    print("\n".join(notes), file=sys.stderr)
    return decoded(rows, size, dict(source=path.name, reading=notes) | info)


def load_file(path):
    """The set of an .npy file, whose pixels stay on the disk, so that all jobs share the system's
    one copy; or, without classes, arr_0 of an .npz file, as diffusion models write it."""
    try:
        if path.suffix == ".npy":
            images = np.asarray(np.load(path, mmap_mode="c"))
            rest = jobs.read_json(path.with_suffix(".json"))
        else:
            images = np.load(path)["arr_0"]
            n = len(images)
            ids = [f"{path.name}/{k}" for k in range(n)]
            rest = dict(classes=["unlabelled"], labels=[0] * n, ids=ids, groups=ids,
                        split=[""] * n, info={})
        columns = {name: np.array(rest[name]) for name in COLUMNS}
        classes = [plain_name(name) for name in rest["classes"]]
        n, side = images.shape[:2]
        assert images.shape == (n, side, side, 3) and images.dtype == np.uint8, "no RGB squares"
        assert {n} == {*map(len, columns.values())}, "another number of labels than of images"
        assert set(rest["labels"]) <= set(range(len(classes))), "labels without a class"
    except Exception as problem:                    # numpy and zipfile raise a dozen types
        raise UserError(f"{path} is not an image set of this project: {problem}") from None
    return ImageSet(images, classes=classes, info=rest["info"], **columns)


def load_synthetic(source, size=None):
    """The images of a generator, as load() reads them; or CLASS=PATH: those of this class in PATH,
    or all, if they are of one class or none. info["generator"]: our job's GAN, else PATH's name."""
    label, _, path = str(source).partition("=")
    if Path(source).exists() or not path:
        path = source
        images = load(path, size)
    else:
        images = load(path, size, [("label", "folder")])    # tables tell nothing
        if len(images.classes) > 1:
            images = images.of_class(label)
        images = replace(images, classes=[label], labels=images.labels * 0)
    if images.classes == ["unlabelled"]:
        raise UserError(f"{source}: of which class? Say CLASS={source}, as benign={source}")
    if "generator" not in images.info or "reading" in images.info:      # or by image files
        images.info |= dict(generator=Path(path).name, path=str(path))
    return images


def decoded(rows, size, info):
    """The image set of these rows. UserError, naming them, if some cannot be read."""
    pictures = np.empty((len(rows), size, size, 3), np.uint8)   # one array: photographs fill memory
    if 2 * pictures.nbytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise MemoryError(f"{len(rows)} images of {size} px do not fit twice into the memory")
    progress = jobs.Progress(f"decoding {info['source']}", len(rows))
    bad = []

    def work(k):
        try:
            pictures[k] = rows[k].picture(size)
        except Exception as problem:                # Pillow and zipfile raise a dozen types
            bad.append(f"{rows[k].name} ({type(problem).__name__})")
        progress(k + 1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, range(len(rows))))
    if bad:
        raise UserError(f"{info['source']}: repair or remove {len(bad)} unreadable images: "
                        f"{first_of(sorted(bad))}")
    names, labels, lesions, parts, *_ = map(np.array, zip(*rows))
    classes, numbers = np.unique(labels, return_inverse=True)
    return ImageSet(pictures, numbers, classes.tolist(), names, lesions, parts, info)


def resized(images, size):
    if size is None or images.images.shape[1] == size:
        return images
    pictures = np.empty((len(images), size, size, 3), np.uint8)
    for picture, image in zip(pictures, images.images):
        picture[:] = Image.fromarray(image).resize((size, size), Image.BICUBIC)
    return replace(images, images=pictures)


def of_classes(rows, classes, notes):
    """The rows of a study's classes, under the study's names; notes says what is left out."""
    named = [row._replace(label=class_name(row.label, binary=classes == TWO)) for row in rows]
    kept = [row for row in named if row.label in classes]
    dropped = [row.label for row, new in zip(rows, named) if new.label not in classes]
    if dropped:
        notes.append(f"left out, not of the classes {', '.join(classes)}: {counted(dropped)}")
    if len({row.label for row in kept}) < 2:
        raise UserError(f"two or more classes of {first_of(classes)} are needed, not "
                        f"{counted(row.label for row in rows)}: is it the right column? --columns "
                        "label=... names another")
    return kept


def choose(rows, limits, seed):
    """At most limits[class] images of a class, whole lesions at random."""
    sizes = Counter((row.label, row.lesion) for row in rows)
    room = Counter(row.label for row in rows)
    if not limits.keys() <= room.keys():
        raise UserError(f"--limit {first_of([*limits])}: the classes are {first_of(sorted(room))}")
    room = dict(room) | limits
    taken = set()
    for label, lesion in np.random.default_rng(seed).permutation(sorted(sizes)):
        if sizes[label, lesion] <= room[label]:
            taken.add((label, lesion))
            room[label] -= sizes[label, lesion]
    return [row for row in rows if (row.label, row.lesion) in taken]


# ---- Splits and copies

def split_by_group(labels, groups, share, seed):
    """Mask of the second part: this share, or from 1 on this number, of each class. Whole groups,
    of their first image's label, come in random order, each to the part that lacks more."""
    names, first, member = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(member)
    second = np.zeros(len(names), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels[first] == label))
        n = sizes[of_class].sum()
        wanted = share if share >= 1 else share * n
        lacking = [n - wanted, wanted]
        for group in of_class:
            second[group] = lacking[1] > lacking[0]
            lacking[int(second[group])] -= sizes[group]
    return second[member]


def with_split(images, val=0.1, test=0.2, seed=0):
    """Every image marked train, val or test. Parts that come with the set are kept, but what they
    share, a picture or lesion, stays in test (else in val) alone; info counts what is dropped."""
    joined = DisjointSet(images.groups)
    first_with = {}
    for group, digest in zip(images.groups, images.digests()):
        joined.merge(first_with.setdefault(digest, group), group)
    groups = np.array([joined[group] for group in images.groups])
    split = np.where(images.split == "", "train", images.split)
    in_test = np.isin(groups, groups[split == "test"])
    in_val = np.isin(groups, groups[split == "val"])
    kept = split == np.select([in_test, in_val], ["test", "val"], split)
    info = images.info | dict(dropped=int(np.sum(~kept)))
    images = replace(images, groups=groups, split=split, info=info).take(kept)
    for name, share, own_seed in (("test", test, seed), ("val", val, seed + 1)):
        if share and name not in images.split:
            free = np.flatnonzero(images.split == "train")
            second = split_by_group(images.labels[free], images.groups[free], share, own_seed)
            images.split[free[second]] = name
    return images


def near_pairs(images):
    """(a, b), a < b: the pairs whose dHashes differ in at most 2 of their 64 bits: does a pixel of
    a 9 x 8 thumbnail get brighter to the right?"""
    bits = []
    for image in images.images:
        grey = Image.fromarray(image).convert("F").resize((9, 8), Image.LANCZOS)
        bits.append(np.diff(grey).ravel() > 0)
    return scipy.spatial.KDTree(bits).query_pairs(1.5, output_type="ndarray").T     # 2 bits: 1.41


def near_test(images):
    """Mask of the other images that nearly equal a test image."""
    a, b = near_pairs(images)
    test = images.split == "test"
    near = np.zeros(len(images), bool)
    near[a[test[b]]] = True
    near[b[test[a]]] = True
    return near & ~test


def check(args):
    """Copies, conflicting labels, unreadable files, and what the set's own split leaks."""
    rows, notes = read_rows(Path(args.source), args.zeros, args.columns)
    rows = [row._replace(part=row.part or "train") for row in rows]
    images = decoded(rows, 64, dict(source=args.source))
    labels = np.array(images.classes)[images.labels]
    print("\n".join(notes + counts_of_parts(images)[1]))

    a, b = near_pairs(images)
    across = images.split[a] != images.split[b]
    digests = images.digests()
    equal = digests[a] == digests[b]
    conflict = equal & (labels[a] != labels[b])
    print(f"equal pictures: {equal.sum()} pairs, {conflict.sum()} of them under two labels, "
          f"{(equal & across).sum()} across parts")
    for one, other in zip(a[conflict][:10], b[conflict]):
        print(f"    {images.ids[one]} ({labels[one]}) = {images.ids[other]} ({labels[other]})")
    print(f"nearly equal pictures (dHash within 2 bits): {len(a)} pairs, "
          f"{across.sum()} across parts")
    for what in ("lesion", "patient"):
        parts = defaultdict(set)
        for row in rows:
            parts[getattr(row, what)].add(row.part)
        parts.pop("", None)                         # of no known patient
        shared = [name for name, some in parts.items() if len(some) > 1]
        print(f"in more than one part: {len(shared)} {what}s")


# ---- Preprocessing of paper 001

def bilateral(images):
    """Smoothing that keeps edges: uint8 (n, h, w, 3) -> the same. OpenCV's to one grey level: a
    mean of the neighbours within 4 pixels, weighted by exp(-distance^2 / 2 sigma^2) in space and in
    colour, there |dR| + |dG| + |dB|; both sigmas are 75."""
    here = to_tensor(images).float()
    padded = F.pad(here, (4, 4, 4, 4), mode="reflect")
    total = weights = 0
    for dy, dx in product(range(-4, 5), repeat=2):
        if dy ** 2 + dx ** 2 <= 4 ** 2:
            moved = padded.roll((-dy, -dx), (2, 3))
            there = moved[:, :, 4:-4, 4:-4]
            colour = (there - here).abs().sum(1, keepdim=True) / 75
            space = (dy ** 2 + dx ** 2) / 75 ** 2
            weight = torch.exp(-0.5 * (colour ** 2 + space))
            total = total + weight * there
            weights = weights + weight
    return to_uint8(total / weights / 127.5 - 1)


def enhance(images):
    """Paper 001: bilateral filter (OpenCV's usual d and sigmas; not stated), then I^(1 / 1.5)."""
    curve = 255 * (np.arange(256) / 255) ** (1 / 1.5)
    filtered = [bilateral(image[None]) for image in images]     # 64 at once take twice as long
    return np.rint(curve).astype(np.uint8)[np.concatenate(filtered)]


# ---- Drawn lesions

# A data set that needs no download; not a model of disease. A lesion is pigment in skin: brown
# (melanin), red (blood) and blue (deep melanin) absorb light, white (scar, keratin) covers it.
# Lengths are in half frames. Pigment is a function of the place in the lesion, so that a lesion
# is the same in every view and at every size.
ABSORB = np.float32([[0.42, 0.85, 1.25],                    # brown: of red, green and blue light
                     [0.16, 0.95, 0.70],                    # red
                     [1.15, 0.95, 0.62]])                   # blue
WHITE = np.float32([0.96, 0.90, 0.84])

# layout, spacing or size, what it adds to brown, red, blue and white
STRUCTURES = {
    "network":    "net   0.15   0.8   0    0    0",
    "dark_dots":  "dots  0.28   1.5   0    0    0",
    "white_dots": "dots  0.22  -0.3  -0.4  0    0.8",
    "nests":      "dots  0.34   0.2   0    1.4  0",
    "lacunae":    "dots  0.26   0     1.5  0.7  0",
    "vessels":    "lines 0.75   0     1.2  0    0",
    "blotch":     "patch 0.45   1.5   0    0.2  0",
    "veil":       "patch 0.45  -0.2   0    0.8  0.1",
    "centre":     "patch 0.50  -0.4  -0.2  0    0.8",
}
# the class it may be mistaken for, radius, wobble of the contour, width of the border, brown, red
# and blue, structures
LESIONS = {
    "AK":   "SCC  0.60  0.10  0.40  0.10  0.38  0     white_dots",
    "BCC":  "AK   0.54  0.12  0.30  0.08  0.30  0     vessels+nests",
    "BKL":  "NV   0.58  0.08  0.06  0.65  0.05  0     white_dots+dark_dots",
    "DF":   "NV   0.44  0.05  0.28  0.60  0.16  0     centre",
    "MEL":  "NV   0.62  0.20  0.08  0.90  0.05  0     network+blotch+veil",
    "NV":   "MEL  0.48  0.05  0.16  0.75  0.12  0     network",
    "SCC":  "AK   0.54  0.11  0.16  0.12  0.60  0     centre",
    "VASC": "BCC  0.40  0.07  0.07  0     0.75  0.20  lacunae",
}


def smooth(x):
    """0 below 0, 1 above 1, without a kink."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def random_field(rng, place, low, high):
    """A random field of variance 1: 16 plane waves of `low` to `high` radians per half frame."""
    frequency = low * (high / low) ** rng.random(16)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 16))
    strength = frequency ** -0.7
    strength *= np.sqrt(2 / np.square(strength).sum())
    waves = np.float32(frequency * [np.cos(angle), np.sin(angle)])
    return np.cos(place @ waves + np.float32(phase)) @ np.float32(strength)


def honeycomb(rng, place, spacing):
    """1 in the middle of the cells of a bent lattice, -0.5 between them: waves at 60 degrees."""
    bend = [random_field(rng, place, 2, 9) for _ in range(2)]
    angle = rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3
    directions = np.stack([np.cos(angle), np.sin(angle)])
    waves = 4 * np.pi / np.sqrt(3) / spacing * directions
    bent = place + np.float32(0.3 * spacing) * np.stack(bend, -1)
    return np.cos(bent @ np.float32(waves)).mean(-1)


def pigment(rng, label, place):
    """Brown, red, blue, white (size, size, 4) of a lesion without skin. place: x, y in it."""
    like, *own_shape, own = LESIONS[label].split()
    _, *other_shape, other = LESIONS[like].split()
    doubt = 0.5 * rng.beta(1, 2)         # 0: a textbook case; .5: half the other class
    shape = (1 - doubt) * np.array(own_shape, float) + doubt * np.array(other_shape, float)
    radius, wobble, border, *colours = shape * np.exp(rng.normal(0, 0.25, 6))
    radius = np.clip(radius, 0.25, 0.72)

    far = np.linalg.norm(place, axis=-1)
    patchy = random_field(rng, place, 2, 60)
    depth = radius - far + wobble * random_field(rng, place, 2, 30)
    inside = smooth(depth / max(border, 0.05) + 0.5)
    uneven = np.maximum(1 + (0.1 + wobble) * patchy, 0.2)
    maps = (inside * uneven)[..., None] * np.float32([*colours, 0])
    inside = inside * smooth(1 + (0.2 + wobble) * patchy)       # structures have gaps
    for name, text in STRUCTURES.items():
        layout, scale, *colour = text.split()
        strength = (1 - doubt) * (name in own) + doubt * (name in other)
        if strength == 0 or rng.random() < 0.1:                 # not all show all
            continue
        strength *= np.exp(rng.normal(0.1, 0.3))
        where = inside * structure(rng, layout, float(scale), place, radius)
        maps += where[..., None] * np.float32(strength * np.array(colour, float))
    return np.maximum(maps, 0)


def structure(rng, layout, scale, place, radius):
    """Where a structure is: (size, size), 0 to 1."""
    if layout == "net":
        return smooth(0.45 - 1.6 * honeycomb(rng, place, scale))
    if layout == "dots":
        return smooth(1.4 * honeycomb(rng, place, scale) - 0.4)
    if layout == "lines":                   # where a noise passes through zero
        return np.exp(-np.square(random_field(rng, place, 2 / scale, 8 / scale) / 0.16))
    middle = np.float32(radius * rng.uniform(-0.4, 0.4, 2))
    far = np.linalg.norm(place - middle, axis=-1)
    edge = radius * scale * (1 + 0.35 * random_field(rng, place, 2, 12))
    return smooth((edge - far) / 0.15 + 0.5)


def turned(place, angle):
    """Points (..., 2) turned about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    return place @ np.float32([[cos, sin], [-sin, cos]])


def add_artefacts(rng, image, frame):
    """What is in the picture but not of the lesion: of the same odds in every class."""
    far = np.linalg.norm(frame, axis=-1)[..., None]
    if rng.random() < 0.6:                 # vignette
        image *= 1 - 0.2 * far ** 2
    if rng.random() < 0.12:                # the dark rim of the dermoscope
        image *= smooth((1.16 - far) / 0.08)
    if rng.random() < 0.3:                 # hair
        for _ in range(rng.integers(1, 8)):
            place = turned(frame, rng.uniform(0, np.pi))
            middle = rng.uniform(-0.9, 0.9)
            bent = middle + rng.normal(0, 0.25) * place[..., 0] ** 2
            strand = np.exp(-np.square((place[..., 1] - bent) / 0.012))
            image *= 1 - 0.6 * strand[..., None]


def draw_lesion(label, lesion, view, seed=0, size=64):
    """One picture, uint8 (size, size, 3): a view of a lesion of class `label`."""
    rng = np.random.default_rng([seed, lesion])     # of the lesion: the same in all its views
    picture = np.random.default_rng([seed, lesion, view + 1])
    line = np.float32((np.arange(size) + 0.5) * 2 / size - 1)
    frame = np.stack(np.meshgrid(line, line), -1)   # (size, size, 2): x, y from -1 to 1
    zoom = np.float32(np.exp(picture.normal(0, 0.12)))
    shift = np.float32(picture.normal(0, 0.07, 2))
    place = zoom * turned(frame, picture.uniform(0, 2 * np.pi)) + shift

    maps = pigment(rng, label, place)
    skin = 1 + 0.12 * random_field(rng, place, 4, 90)
    maps[..., 0] += skin * (0.05 + 0.6 * rng.beta(1.2, 3))
    maps[..., 1] += skin * rng.uniform(0.1, 0.38)
    image = np.exp(-maps[..., :3] @ ABSORB)
    image += np.minimum(maps[..., 3:], 0.85) * (WHITE - image)

    image = image * picture.normal(1, 0.05, 3)                  # the light
    add_artefacts(picture, image, frame)
    image += picture.normal(0, 0.01, (size, size, 1))           # the camera, last: it knows size
    return np.uint8(np.clip(image, 0, 1) * 255)


def lesion_rows(n, seed):
    """The first n pictures of drawn lesions: 1, 2, 3, 1, 2, ... views, one class after another."""
    rows = []
    views = ((lesion, view) for lesion in range(n) for view in range(lesion % 3 + 1))
    for lesion, view in islice(views, n):
        name = f"lesion{lesion:05d}"
        label = EIGHT[lesion % 8]
        picture = partial(draw_lesion, label, lesion, view, seed)
        rows.append(Row(f"{name}_{view}", label, name, "", "", picture))
    return rows


def built_in(n, size=64, seed=0):
    """The first n drawn lesions: an image set of 8 classes, 1 to 3 views of each lesion."""
    rows = lesion_rows(n, seed)
    return decoded(rows, size, dict(source=f"drawn lesions (seed {seed})"))


# ---- Batches on the device

def to_tensor(images, device="cpu"):
    """uint8 (n, h, w, 3) array -> uint8 (n, 3, h, w) tensor on the device, where it stays."""
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels).to(device)


def scaled(pixels):
    """uint8 [0, 255] -> float32 [-1, 1], the range of the generators' tanh."""
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(images):
    """float (n, 3, h, w) in [-1, 1] -> uint8 (n, h, w, 3) array."""
    pixels = images.add(1).mul(127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class Batches:
    """Endless shuffled batches. Batch `position` depends on (seed, position) alone, so a resumed
    training needs only its position. An incomplete last batch of an epoch is left out."""
    def __init__(self, images, batch, seed, device, single=False):
        if batch == 1 and not single:
            raise UserError("--batch 1: give 2 or more, since BatchNorm needs them")
        if len(images) < batch:
            raise UserError(f"{len(images)} images are too few for --batch {batch}")
        self.pixels = torch.from_numpy(images.images).to(device)    # (n, h, w, 3): no second copy
        self.labels = torch.from_numpy(images.labels).to(device)
        self.batch, self.seed = batch, seed
        self.per_epoch = len(images) // batch
        self.position, self.epoch = 0, None

    def next(self):
        """(uint8 (batch, 3, h, w), int64 (batch,))"""
        epoch, k = divmod(self.position, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.labels), generator=generator)
            self.order = order.to(self.labels.device)
            self.epoch = epoch
        chosen = self.order[k * self.batch:(k + 1) * self.batch]
        self.position += 1
        pixels = self.pixels[chosen].permute(0, 3, 1, 2).contiguous()
        return pixels, self.labels[chosen]

    def state_dict(self):
        return dict(position=self.position)

    def load_state_dict(self, state):
        self.position = int(state["position"])


def augment(x, rotate=180.0, zoom=0.1, shift=0.05, shear=0.0, brightness=0.1):
    """A random affine map and brightness for each image of x, float (n, 3, h, w) in [-1, 1].
    rotate, shear: largest angle in degrees; others: fraction."""
    def uniform(limit):
        return (torch.rand(len(x), device=x.device) * 2 - 1) * limit

    angle = torch.deg2rad(uniform(rotate))
    slant = torch.tan(torch.deg2rad(uniform(shear)))
    scale = 1 + uniform(zoom)
    mirror = torch.where(uniform(1) < 0, -1.0, 1.0)
    cos = torch.cos(angle) * scale
    sin = torch.sin(angle) * scale
    row_x = torch.stack([cos * mirror, slant * cos - sin, 2 * uniform(shift)], 1)
    row_y = torch.stack([sin * mirror, slant * sin + cos, 2 * uniform(shift)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), x.shape, align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    light = 1 + uniform(brightness)
    brightened = (x + 1) * light.view(-1, 1, 1, 1)
    return (brightened - 1).clamp(-1, 1)


def save_grid(path, images):
    """uint8 (n, side, side, 3) as one PNG, eight in a row, white lines around them."""
    from torchvision.utils import make_grid     # not above: the report would wait 1.5 s for it
    sheet = make_grid(to_tensor(images), nrow=8, padding=1, pad_value=255)
    with jobs.replacing(path) as file:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(file, "PNG")


# ---- Command line

def lesions(args):
    """Draw lesions."""
    built_in(args.n, args.size, args.seed).save(args.out)


def gather(args, size):
    """The images that `prepare` was asked for; info says how the set was read."""
    classes, sets = STUDIES.get(args.study, (args.classes, ""))
    stand_in = None
    notes = []
    if args.built_in:
        rows = lesion_rows(args.built_in, args.seed)
        source = f"drawn lesions (seed {args.seed})"
    else:
        root = Path(args.source)
        names = sets.split(", ")
        found = next((name for name in names if (root / name).is_dir()), "")
        if found != names[0] and args.study != "controls":
            stand_in = f"{found or 'your own ' + root.name} instead of {names[0]}"
        source = (root / found).name
        rows, notes = read_rows(root / found, args.zeros, args.columns)
    if classes:
        rows = of_classes(rows, classes, notes)
    if args.resplit:
        rows = [row._replace(part="") for row in rows]
    rows = choose(rows, dict(args.limit), args.seed)
    return decoded(rows, size, dict(source=source, reading=notes, stand_in=stand_in))


def prepare(args):
    """Decode a set once, split it by lesion, and write it as images.npy, the folder of a job."""
    begun = time.time()
    out = Path(args.out)
    images = gather(args, args.size * (1 + args.enhance))       # filtered first, then reduced
    images = with_split(images, args.val, args.test, args.seed)
    if "train" not in images.split:
        raise UserError("no image is left to train on: a smaller --val or --test, or --resplit")
    near = near_test(images)
    if args.drop_near:
        images = images.take(~near)
    info = images.info
    info["dataset"] = images.fingerprint()          # ids tell a leak only within one prepared set
    counts, notes = counts_of_parts(images)
    info["reading"] += notes

    decisive = "study size val test resplit limit enhance drop_near seed"
    config = {name: getattr(args, name) for name in decisive.split()}
    config |= dict(command="prepare", data=info["dataset"])
    if jobs.start_job(out, config):
        return
    if args.enhance:
        filtered = enhance(images.images)
        shown = np.concatenate([images.images[:8], filtered[:8]])
        save_grid(out / "before_after.png", shown)
        images = resized(replace(images, images=filtered), args.size)
    train = images.part("train")
    shown = np.concatenate([train.of_class(name).images[:8] for name in train.classes])
    save_grid(out / "grid.png", shown)
    torch.manual_seed(args.seed)
    copies = scaled(to_tensor(shown[[0] * 16]))
    copies = augment(copies, zoom=0, shift=0, shear=10, brightness=0)       # as paper 001 does
    save_grid(out / "augmented.png", to_uint8(copies))
    images.save(out / "images.npy")
    jobs.finish_job(out, config, time.time() - begun, "cpu", counts=counts, source=info,
                    lesions=len(set(images.groups)))

    print("\n".join(info["reading"]))
    print(f"{out}: {info['stand_in'] or info['source']}. Dropped, since their lesion or picture is "
          f"also in a later part: {info['dropped']}. "
          f"Near copies of test images (--drop-near leaves them out): {near.sum()}")


def counts_of_parts(images):
    """{part: {class: number of images}}, and sentences: what is in them, and what is lacking."""
    counts = {}
    notes = [f"{len(images)} images of {len(set(images.groups))} lesions"]
    for part in ("train", "val", "test"):
        if part in images.split:
            counts[part] = images.part(part).counts()
            notes.append(f"{part}: {counts[part]}")
            absent = [name for name, n in counts[part].items() if n == 0]
            notes += [f"warning: {part} has no image of {name}" for name in absent]
    for name, n in images.counts().items():
        if n < 10:
            notes.append(f"warning: class {name} has only {n} images")
    return counts, notes


def export(args):
    """A part of a prepared set as class folders of PNG, for any other generator to learn from."""
    images = load(args.run).part(args.part).share(args.share)
    info = dict(source=f"{args.part} of {args.run}", size=images.images.shape[1])
    info |= what_was_seen(images)
    replace(images, info=info).save(args.out)
    print(f"{args.out}: {images.counts()}. Put what your generator draws into folders of these "
          "names in MINE, info.json too; then bash run_all.sh controls --data ... --synthetic MINE")


def class_limit(text):
    name, _, number = text.rpartition("=")
    return name, int(number)


def column(text):
    meaning, _, title = text.partition("=")
    if meaning not in COLUMN_NAMES or not any(map(str.isalnum, title)):
        raise ValueError
    return meaning, title


def main():
    parser = jobs.Parser(prog="data.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for function in (lesions, prepare, check, export):
        text = function.__doc__
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
    drawn, p, c, e = commands.choices.values()
    number = at_least(1, below=1e6)
    drawn.add_argument("--n", type=number, default=80, help="number of pictures (80)")

    one = p.add_mutually_exclusive_group(required=True)
    one.add_argument("source", nargs="?", help="class folders, images with a csv, or a zip")
    one.add_argument("--built-in", type=number, metavar="N", help="N drawn lesions")
    add = p.add_argument
    share = at_least(0, float)
    add("--for", dest="study", choices=STUDIES, help="the set and classes of a study")
    add("--binary", dest="classes", action="store_const", const=TWO, help="two classes")
    add("--test", type=share, default=0.2, help="share, or images a class, if not given")
    add("--val", type=share, default=0.1, help="the same, of what --test leaves (0.1)")
    add("--resplit", action="store_true", help="forget the set's own split")
    add("--limit", type=class_limit, nargs="+", default=[], metavar="CLASS=N",
        help="at most N images of this class, whole lesions")
    add("--drop-near", action="store_true", help="drop near copies of test images")
    add("--enhance", action="store_true", help="bilateral filter, gamma 1.5 (001)")

    c.add_argument("source", help="a data set")
    for command in (p, c):
        command.add_argument("--zeros", metavar="CLASS", help="class of rows that hold only zeros")
        command.add_argument("--columns", type=column, nargs="+", default=[], action="extend",
                             metavar="X=COLUMN", help="X: image, label, lesion, patient, part")

    e.add_argument("run", help="folder of a `prepare` job")
    e.add_argument("--part", default="train", help="train, val or test")
    e.add_argument("--share", type=jobs.fraction, default=1, help="of each class, such as 1/2 (1)")
    for command in (drawn, p):
        command.add_argument("--size", type=at_least(8), default=64, help="pixels (64)")
        command.add_argument("--seed", type=at_least(0), default=0)
    for command in (drawn, p, e):
        command.add_argument("--out", required=True, help="a new folder (lesions: or .npy file)")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
