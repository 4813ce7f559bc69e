"""data.py: images in, tensors out. Knows nothing of networks or metrics.

    python data.py lesions --n 80 --size 128 --out drawn/        draw lesions, a tree of PNG files
    python data.py prepare --built-in 960 --out runs/data        a set of drawn lesions, split
    python data.py prepare my_photos --size 64 --out runs/data   class folders, or images and csv
    python data.py prepare DIR --for dermagan --out runs/data    the set a study needs, below DIR
    python data.py check my_photos                               copies, wrong labels, leaks
    python data.py export runs/data --share 1/2 --out half/      PNG for any other generator

Other people's photographs and tables are read in reading.py. An image set is uint8 RGB images,
labels, class names, image ids, lesion ids and a split. On disk: images.npy, which numpy maps as it
is, with the rest in images.json beside it.
"""
import argparse
import collections
import functools
import itertools
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.spatial
import torch
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from torch.nn import functional as F

import jobs
from jobs import UserError
from reading import (BICUBIC, SUFFIXES, Row, class_name, counted, decode, first_of, hash_of, plain,
                     plain_name, read_rows)

TWO = ["benign", "malignant"]
EIGHT = ["AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC"]
# Classes of each study, and the folders that serve it: the paper's own set, then stand-ins.
STUDIES = {
    "wgan_gp": (TWO, ["kaggle_binary", "isic_archive", "ham10000", "isic2019"]),
    "dcgan_cls": (TWO, ["kaggle_binary", "isic_archive", "ham10000", "isic2019"]),
    "acgan_cyclegan": (EIGHT, ["isic2019", "ham10000"]),
    "dermagan": (["AK", "BCC", "BKL", "MEL"],
                 ["its 1,976 images (unpublished)", "isic2019", "ham10000"]),
    "dcgan_inception": (TWO, ["isic_archive", "kaggle_binary", "ham10000", "isic2019"]),
    "controls": (TWO, ["isic2019", "isic_archive", "ham10000", "kaggle_binary"]),
}


# ---- The image set

COLUMNS = ("labels", "ids", "groups", "split")      # what has one entry per image, as `images` has


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
                            "with `python data.py prepare`, perhaps with a larger --val or --test")
        return self.take(self.split == name)

    def of_class(self, name):
        if name not in self.classes:
            raise UserError(f"no class {name}: the classes are {', '.join(self.classes)}")
        return self.take(self.labels == self.classes.index(name))

    def counts(self):
        """{class name: number of images}"""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist()))

    def share(self, share):
        """This share (a Fraction or a float) of each class, in a fixed random order of lesions: a
        larger one holds a smaller. Lesions are whole, but perhaps the last one of each class."""
        if share >= 1:
            return self
        lots = [hash_of(str(group).encode()) for group in self.groups]
        order = np.argsort(lots, kind="stable")
        chosen = []
        for label in range(len(self.classes)):
            of_class = order[self.labels[order] == label]
            chosen.extend(of_class[:round(share * len(of_class))])
        return self.take(np.sort(chosen).astype(int))

    def digests(self):
        """A hash of each image's pixels: equal pictures have equal ones, whatever their names."""
        return np.array([hash_of(image.tobytes()) for image in self.images])

    def fingerprint(self):
        """One hash of all that decides a result: pixels, labels, lesions, split."""
        names = [self.classes[label] for label in self.labels]
        columns = self.digests().tolist(), names, self.groups.tolist(), self.split.tolist()
        return hash_of(repr(list(zip(*columns))).encode())

    def save(self, path):
        """A file x.npy with its x.json, or for any other path a new tree CLASS/0000.png."""
        path = Path(path).resolve()
        if path.suffix == ".npy":
            columns = {name: getattr(self, name).tolist() for name in COLUMNS}
            rest = path.with_suffix(".json")
            rest.unlink(missing_ok=True)        # pixels without their labels are no set
            with jobs.replacing(path) as file:
                np.save(file, self.images)
            jobs.write_json(rest, dict(columns, classes=self.classes, info=self.info))
            return

        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise UserError(f"{path} is there already: choose a new folder")
        begun = path.with_name(f".{path.name}.part")        # becomes `path` when it is complete
        shutil.rmtree(begun, ignore_errors=True)            # left by a kill
        for k, (image, label) in enumerate(zip(self.images, self.labels)):
            folder = begun / self.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{k:05d}.png")
        jobs.write_json(begun / "info.json", self.info)
        begun.replace(path)


def mix(sets):
    """The image sets of a list as one. Classes go by name: the first set must have them all."""
    first = sets[0]
    if len(sets) == 1:
        return first
    labels = []
    for one in sets:
        unknown = sorted(set(one.classes) - set(first.classes))
        if unknown:
            raise UserError(f"{one.info.get('source')}: its classes {', '.join(unknown)} are not "
                            f"among {', '.join(first.classes)}")
        numbers = np.array([first.classes.index(name) for name in one.classes])
        labels.append(numbers[one.labels])
    columns = {}
    for name in ("images", "ids", "groups", "split"):
        columns[name] = np.concatenate([getattr(one, name) for one in sets])
    return replace(first, labels=np.concatenate(labels), **columns)


def what_was_seen(*sets):
    """Hashes of the pixels, and {prepared set: ids}, of what a GAN learned from or translated; with
    what the GANs saw that made some of it."""
    digests, ids = set(), {}
    for images in filter(None, sets):
        digests.update(images.digests().tolist(), images.info.get("digests", []))
        own = {images.info.get("dataset", "unknown"): images.ids.tolist()}
        for dataset, names in [*own.items(), *images.info.get("seen_ids", {}).items()]:
            ids[dataset] = sorted({*ids.get(dataset, []), *names})
    return dict(digests=sorted(digests), seen_ids=ids)


# ---- Reading

def load(path, size=None, folder_size=None, label=None):
    """The image set of an .npy file, a job's folder, a folder of images or a zip, `size` px wide.

    size: None leaves an .npy as it is, and a tree of GAN images at their GAN's size; any other
    folder needs one, or a folder_size of its own. label: the class of all images of a folder.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give an image set (.npy), a folder or a zip")
    for name in ("images.npy", "samples.npy"):      # the folder of a `prepare` or a GAN job
        if (path / name).is_file():
            path = path / name
    if path.suffix == ".npy":
        return resized(load_npy(path), size)
    if (path / "config.json").exists():
        raise UserError(f"{path} is a job that has not made its images: finish it first")
    info = {}
    if (path / "info.json").exists():               # whose they are, what their GAN has seen
        info = jobs.read_json(path / "info.json")
    size = size or info.get("size") or folder_size
    if size is None:
        raise UserError(f"{path} holds image files: prepare it first, or give --size")
    rows, notes = read_rows(path, label=label)
    print("\n".join(notes), file=sys.stderr)
    return decoded(rows, size, dict(source=path.name, reading=notes) | info)


def load_npy(path):
    """The set whose pixels stay on the disk: what is taken of them is read then, and all jobs share
    the system's one copy in memory."""
    rest = path.with_suffix(".json")
    if not rest.exists():
        raise UserError(f"{rest} is missing: its job was cut off, or only {path} was copied")
    try:
        images = np.asarray(np.load(path, mmap_mode="c"))
        rest = jobs.read_json(rest)
        columns = {name: np.array(rest[name], str) for name in COLUMNS if name != "labels"}
        labels = np.array(rest["labels"], np.int64)
        classes = [plain_name(name) for name in rest["classes"]]
        n, side = images.shape[:2]
        sizes = {n, len(labels), *map(len, columns.values())}
        assert images.shape == (n, side, side, 3), "no RGB squares"
        assert images.dtype == np.uint8, "no bytes"
        assert sizes == {n}, "labels and images differ in number"
        assert set(labels.tolist()) <= set(range(len(classes))), "labels without a class"
        assert len(set(classes)) == len(classes), "two classes of one name"
        assert set(rest["split"]) <= {"", "train", "val", "test"}, "unknown parts"
    except (ValueError, LookupError, TypeError, EOFError, AssertionError) as problem:
        raise UserError(f"{path} is not an image set of this project: {problem}") from None
    return ImageSet(images, labels, classes, info=dict(rest["info"]), **columns)


def load_synthetic(source, size=None, folder_size=None):
    """The images of a generator: a GAN job, an image set or class folders; or CLASS=PATH, all of
    one class, PATH any folder of images, a job, or an .npz whose arr_0 is uint8 (n, side, side, 3).

    info["generator"] is the GAN's model, else the name of the folder or file.
    """
    label, _, path = str(source).partition("=")
    if Path(source).exists() or not path:
        label, path = None, source
    path = Path(path)
    if path.suffix == ".npz":
        images = resized(load_samples(path), size)
    else:
        images = load(path, size, folder_size, label)
    if label is None and images.classes == ["unlabelled"]:
        raise UserError(f"{source} does not say of which class its images are: give "
                        f"CLASS={source}, such as benign={source}")
    if label and len(images.classes) > 1:
        images = images.of_class(label)
    if label:
        images = replace(images, classes=[label], labels=images.labels * 0)
    return replace(images, info=dict(generator=path.name, source=path.name) | images.info)


def load_samples(path):
    """arr_0 of an .npz file, as diffusion models write their samples, without a class."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["arr_0"]
        n, side = images.shape[:2]
        assert images.shape == (n, side, side, 3), images.shape
        assert images.dtype == np.uint8, images.dtype
    except Exception as problem:                    # numpy and zipfile raise a dozen types
        raise UserError(f"{path} holds no arr_0 of uint8 (n, side, side, 3): {problem}") from None
    ids = np.array([f"{path.name}/{k}" for k in range(n)])
    labels, no_part = np.zeros(n, np.int64), np.full(n, "", "U5")
    return ImageSet(images, labels, ["unlabelled"], ids, ids, no_part, {})


def decoded(rows, size, info, skip_bad=False):
    """The image set of these rows. An unreadable image ends the work, or is left out and named."""
    jobs.check_memory(len(rows), size)
    pictures = np.empty((len(rows), size, size, 3), np.uint8)   # one array: photographs fill memory
    deep = np.zeros(len(rows), bool)

    def work(k):
        pictures[k], deep[k] = rows[k].picture(size)

    good, bad = [], []
    progress = jobs.Progress(f"decoding {info['source']}", len(rows))
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(work, k) for k in range(len(rows))]
        for k, future in enumerate(futures):
            problem = future.exception()
            if problem:
                reason = str(problem).partition(" <")[0]    # without an address in memory
                bad.append(f"{rows[k].name} ({reason})")
            else:
                good.append(k)
            progress(k + 1)
    if bad and not (skip_bad and good):
        raise UserError(f"{info['source']}/{bad[0]}: unreadable, and {len(bad) - 1} more. Repair "
                        "or remove it, or use `python data.py prepare --skip-bad`")
    if bad:
        rows, pictures = [rows[k] for k in good], pictures[good]
    names, labels, lesions, parts, *_ = map(list, zip(*rows))
    classes, numbers = np.unique(labels, return_inverse=True)
    columns = [np.array(column) for column in (names, lesions, parts)]
    info = dict(skipped=bad, deep_grey=int(deep.sum())) | info
    return ImageSet(pictures, numbers, classes.tolist(), *columns, info)


def resized(images, size):
    """The set with images `size` px wide, bicubic."""
    if size is None or images.images.shape[1] == size:
        return images
    jobs.check_memory(len(images), size)
    pictures = np.empty((len(images), size, size, 3), np.uint8)
    for k, image in enumerate(images.images):
        pictures[k] = Image.fromarray(image).resize((size, size), BICUBIC)
    return replace(images, images=pictures)


# ---- Which images, which classes

def of_classes(rows, classes, notes):
    """The rows of a study's classes, under the study's names; notes says what is left out."""
    kept, dropped = [], []
    for row in rows:
        label = class_name(row.label, binary=classes == TWO)
        if label in classes:
            kept.append(row._replace(label=label))
        else:
            dropped.append(row.label)
    if dropped:
        notes.append(f"left out, not of the classes {', '.join(classes)}: {counted(dropped)}")
    present = {row.label for row in kept}
    if len(present) < 2:
        found = counted(row.label for row in rows)
        raise UserError(f"two or more of the classes {', '.join(classes)} are needed; the set has "
                        f"{found}. Is it the right column? --columns label=... names another")
    return kept


def find_set(root, study):
    """(the folder below root that serves a study, what it stands in for or None)."""
    names = STUDIES[study][1]
    found = [name for name in names if (root / name).is_dir()]
    folder, name = root, f"your own {root.name}"
    if found:
        folder, name = root / found[0], found[0]
    if name == names[0] or study == "controls":
        return folder, None
    return folder, f"{name} instead of {names[0]}"


def choose(rows, limits, seed):
    """At most limits[class] images of a class, whole lesions at random."""
    sizes = collections.Counter((row.label, row.lesion) for row in rows)
    room = dict(collections.Counter(row.label for row in rows))
    unknown = sorted(set(limits) - set(room))
    if unknown:
        raise UserError(f"--limit {unknown[0]}: the classes are {sorted(room)}")
    room |= limits

    lesions = sorted(sizes)
    taken = set()
    for k in np.random.default_rng(seed).permutation(len(lesions)):
        label, _ = lesions[k]
        if sizes[lesions[k]] <= room[label]:
            taken.add(lesions[k])
            room[label] -= sizes[lesions[k]]
    return [row for row in rows if (row.label, row.lesion) in taken]


# ---- Splits and copies

def joined_groups(groups, digests):
    """One group name per image: a common lesion or equal pixels join images, and so on along."""
    joined, lesion_with = DisjointSet(groups), {}
    for group, digest in zip(groups, digests):
        joined.merge(lesion_with.setdefault(digest, group), group)
    return np.array([joined[group] for group in groups])


def split_by_group(labels, groups, share, seed):
    """Mask of the images that go to the second part: about this share of each class, whole
    groups; a share of 1 or more is a number of images of each class.

    A group counts under the label of its first image. Within a class the groups come in random
    order and each goes to the part that lacks more.
    """
    names, first, member = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(member)
    second = np.zeros(len(names), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels[first] == label))
        n = sizes[of_class].sum()
        wanted = share if share >= 1 else share * n
        others = n - wanted
        for group in of_class:
            second[group] = wanted > others
            if second[group]:
                wanted -= sizes[group]
            else:
                others -= sizes[group]
    return second[member]


def with_split(images, val=0.1, test=0.2, seed=0):
    """Every image marked train, val or test. Parts that come with the set are kept.

    Lesions, joined by equal pictures, stay whole. If a set's own parts share a lesion or a
    picture, it stays in test (else in val) and is dropped from the others; info counts that.
    """
    groups = joined_groups(images.groups, images.digests())
    split = images.split.astype("U5")
    in_test = np.isin(groups, groups[split == "test"])
    in_val = np.isin(groups, groups[split == "val"]) & ~in_test
    drop = in_test & (split != "test") | in_val & (split != "val")
    if drop.any():
        images, groups, split = images.take(~drop), groups[~drop], split[~drop]

    for name, share, own_seed in (("test", test, seed), ("val", val, seed + 1)):
        if share and name not in split:
            free = np.flatnonzero((split == "") | (split == "train"))
            second = split_by_group(images.labels[free], groups[free], share, own_seed)
            split[free[second]] = name
    split[split == ""] = "train"
    info = images.info | dict(dropped=int(drop.sum()))
    return replace(images, groups=groups, split=split, info=info)


def near_pairs(images):
    """(a, b), a < b: the pairs whose dHashes differ in at most 2 of their 64 bits.

    A bit: does a pixel of a 9 x 8 thumbnail get brighter to the right?
    """
    bits = []
    for image in images.images:
        grey = Image.fromarray(image).convert("F").resize((9, 8), Image.Resampling.LANCZOS)
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
    folder = Path(args.source)
    rows, notes = read_rows(folder, args.zeros, dict(args.columns))
    images = decoded(rows, 64, dict(source=folder.name), skip_bad=True)
    labels, parts = np.array(images.classes)[images.labels], images.split
    print("\n".join(notes + warnings_of(images)))
    print(f"images: {len(images)} of {len(set(images.groups))} lesions")
    for part, counts in counts_of_parts(images).items():
        print(f"{part}: {counts}")

    a, b = near_pairs(images)
    across = parts[a] != parts[b]
    digests = images.digests()
    equal = digests[a] == digests[b]
    conflict = equal & (labels[a] != labels[b])
    print(f"equal pictures: {equal.sum()} pairs, {conflict.sum()} of them under two labels, "
          f"{(equal & across).sum()} across parts")
    kinds = collections.Counter()
    for pair in zip(labels[a[conflict]], labels[b[conflict]]):
        kinds[" / ".join(sorted(pair))] += 1
    for kind, n in kinds.items():
        print(f"    {n} {kind}")
    for first, second in zip(images.ids[a[equal]][:5], images.ids[b[equal]][:5]):
        print(f"    {first} = {second}")
    print(f"nearly equal pictures (dHash within 2 bits): {len(a)} pairs, "
          f"{across.sum()} across parts")
    print(f"in more than one part: {in_two_parts(rows, 'lesion')} lesions, "
          f"{in_two_parts(rows, 'patient')} patients")


def in_two_parts(rows, what):
    """How many lesions or patients have images in more than one part."""
    parts = collections.defaultdict(set)
    for row in rows:
        parts[getattr(row, what)].add(row.part)
    parts.pop("", None)                             # of no known patient
    return sum(len(some) > 1 for some in parts.values())


# ---- Preprocessing of paper 001

def bilateral(images):
    """Smoothing that keeps edges: uint8 (n, h, w, 3) -> the same. OpenCV's to one grey level.

    A mean of the neighbours within 4 pixels, weighted by exp(-distance^2 / 2 sigma^2) in space and
    in colour, there |dR| + |dG| + |dB|; both sigmas are 75. The border is mirrored.
    """
    here = to_tensor(images).float()
    padded = F.pad(here, (4, 4, 4, 4), mode="reflect")
    total, weights = 0, 0
    for dy, dx in itertools.product(range(-4, 5), repeat=2):
        if dy ** 2 + dx ** 2 <= 4 ** 2:
            there = padded.roll((-dy, -dx), (2, 3))[:, :, 4:-4, 4:-4]
            colour = (there - here).abs().sum(1, keepdim=True) / 75
            space = (dy ** 2 + dx ** 2) / 75 ** 2
            weight = torch.exp(-0.5 * (colour ** 2 + space))
            total = total + weight * there
            weights = weights + weight
    return to_uint8(total / weights / 127.5 - 1)


def enhance(images):
    """Paper 001: bilateral filter (OpenCV's usual d and sigmas; not stated), then I^(1 / 1.5)."""
    curve = np.rint(255 * (np.arange(256) / 255) ** (1 / 1.5)).astype(np.uint8)
    filtered = [bilateral(image[None]) for image in images]     # 64 at once take twice as long
    return curve[np.concatenate(filtered)]


# ---- Drawn lesions

# A data set that needs no download; not a model of disease. A lesion is pigment in skin: brown
# (melanin), red (blood) and blue (deep melanin) absorb light, white (scar, keratin) covers it.
# Lengths are in half frames. Pigment is a function of the place in the lesion, so that a lesion
# is the same in every view and at every size.
ABSORB = np.float32([[0.42, 0.85, 1.25], [0.16, 0.95, 0.70], [1.15, 0.95, 0.62]])   # of R, G, B
WHITE = np.float32([0.96, 0.90, 0.84])
ARTEFACTS = dict(hair=0.3, vignette=0.6, corners=0.12)      # odds, the same in every class

# How a structure is laid out, its spacing or size, what it adds to (brown, red, blue, white).
STRUCTURES = {
    "network": ("net", 0.15, (0.8, 0, 0, 0)),
    "dark dots": ("dots", 0.28, (1.5, 0, 0, 0)),
    "white dots": ("dots", 0.22, (-0.3, -0.4, 0, 0.8)),
    "nests": ("dots", 0.34, (0.2, 0, 1.4, 0)),
    "lacunae": ("dots", 0.26, (0, 1.5, 0.7, 0)),
    "vessels": ("lines", 0.75, (0, 1.2, 0, 0)),
    "blotch": ("patch", 0.45, (1.5, 0, 0.2, 0)),
    "veil": ("patch", 0.45, (-0.2, 0, 0.8, 0.1)),
    "centre": ("patch", 0.50, (-0.4, -0.2, 0, 0.8)),
}
# The class it may be mistaken for; radius, wobble of the contour, width of the border, brown, red
# and blue; structures.
LESIONS = {
    "AK": ("SCC", (0.60, 0.10, 0.40, 0.10, 0.38, 0), ["white dots"]),
    "BCC": ("AK", (0.54, 0.12, 0.30, 0.08, 0.30, 0), ["vessels", "nests"]),
    "BKL": ("NV", (0.58, 0.08, 0.06, 0.65, 0.05, 0), ["white dots", "dark dots"]),
    "DF": ("NV", (0.44, 0.05, 0.28, 0.60, 0.16, 0), ["centre"]),
    "MEL": ("NV", (0.62, 0.20, 0.08, 0.90, 0.05, 0), ["network", "blotch", "veil"]),
    "NV": ("MEL", (0.48, 0.05, 0.16, 0.75, 0.12, 0), ["network"]),
    "SCC": ("AK", (0.54, 0.11, 0.16, 0.12, 0.60, 0), ["centre"]),
    "VASC": ("BCC", (0.40, 0.07, 0.07, 0, 0.75, 0.20), ["lacunae"]),
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
    bend = [random_field(rng, place, 2, 9), random_field(rng, place, 2, 9)]
    angle = rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3
    waves = 4 * np.pi / np.sqrt(3) / spacing * np.stack([np.cos(angle), np.sin(angle)])
    bent = place + np.float32(0.3 * spacing) * np.stack(bend, -1)
    return np.cos(bent @ np.float32(waves)).mean(-1)


def pigment(rng, label, place):
    """Brown, red, blue, white (size, size, 4) of a lesion without skin. place: x, y in it."""
    like, own_shape, own = LESIONS[EIGHT[label]]
    _, other_shape, other = LESIONS[like]
    severity = 0.5 * rng.beta(1, 2)         # 0: a textbook case; .5: half the other class
    shape = (1 - severity) * np.array(own_shape) + severity * np.array(other_shape)
    radius, wobble, border, *colours = shape * np.exp(rng.normal(0, 0.25, 6))
    radius = np.clip(radius, 0.25, 0.72)

    far = np.linalg.norm(place, axis=-1)
    patchy = random_field(rng, place, 2, 60)
    depth = radius - far + wobble * random_field(rng, place, 2, 30)
    inside = smooth(depth / max(border, 0.05) + 0.5)
    uneven = np.maximum(1 + (0.1 + wobble) * patchy, 0.2)
    maps = (inside * uneven)[..., None] * np.float32([*colours, 0])
    inside = inside * smooth(1 + (0.2 + wobble) * patchy)       # structures have gaps
    for name, (layout, scale, colour) in STRUCTURES.items():
        strength = (1 - severity) * (name in own) + severity * (name in other)
        if strength == 0 or rng.random() < 0.1:                 # not all show all
            continue
        strength *= np.exp(rng.normal(0.1, 0.3))
        where = inside * structure(rng, layout, scale, place, radius)
        maps += where[..., None] * np.float32(strength * np.array(colour))
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
    """What is in the picture but not of the lesion, drawn without knowing the class."""
    far = np.linalg.norm(frame, axis=-1)[..., None]
    if rng.random() < ARTEFACTS["vignette"]:
        image = image * (1 - 0.2 * far ** 2)
    if rng.random() < ARTEFACTS["corners"]:      # the dark rim of the dermoscope
        image = image * smooth((1.16 - far) / 0.08)
    if rng.random() < ARTEFACTS["hair"]:
        for _ in range(rng.integers(1, 8)):
            place = turned(frame, rng.uniform(0, np.pi))
            middle = rng.uniform(-0.9, 0.9) + rng.normal(0, 0.25) * place[..., 0] ** 2
            strand = np.exp(-np.square((place[..., 1] - middle) / 0.012))
            image = image * (1 - 0.6 * strand[..., None])
    return image


def draw_lesion(label, lesion, view, seed=0, size=64):
    """One picture, uint8 (size, size, 3): a view of a lesion of class number `label`."""
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
    image = add_artefacts(picture, image, frame)
    image = image + picture.normal(0, 0.01, (size, size, 1))    # the camera, last: it knows size
    return np.uint8(np.clip(image, 0, 1) * 255)


def lesion_rows(n, seed):
    """The first n pictures of drawn lesions: 1, 2, 3, 1, 2, ... views, one class after another."""
    rows = []
    for lesion in itertools.count():
        for view in range(lesion % 3 + 1):
            if len(rows) == n:
                return rows
            name, label = f"lesion{lesion:05d}", EIGHT[lesion % 8]
            picture = functools.partial(drawn, lesion, view, seed)
            rows.append(Row(f"{name}_{view}", label, name, "", "", picture))


def drawn(lesion, view, seed, size):
    """As photograph() gives one."""
    return draw_lesion(lesion % 8, lesion, view, seed, size), False


def built_in(n, size=64, seed=0):
    """The first n drawn lesions: an image set of 8 classes, 1 to 3 views of each lesion."""
    jobs.check_memory(n, size)
    return decoded(lesion_rows(n, seed), size, dict(source=f"drawn lesions (seed {seed})"))


# ---- Batches on the device

def to_tensor(images, device="cpu"):
    """uint8 (n, h, w, 3) array -> uint8 (n, 3, h, w) tensor on the device, where it stays."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


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
            raise UserError("--batch 1: BatchNorm needs at least 2 images")
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
    """Classical augmentation on the device: a random affine map and brightness for each image.

    x: float (n, 3, h, w) in [-1, 1]. rotate, shear: largest angle, degrees; others: fraction.
    """
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
    return ((x + 1) * light.view(-1, 1, 1, 1) - 1).clamp(-1, 1)


def save_grid(path, images):
    """uint8 (n, side, side, 3) as one PNG, eight in a row."""
    n, side = images.shape[:2]
    columns = min(8, n)
    step = side + 1                                 # a white line between two images
    sheet = Image.new("RGB", (columns * step, -(-n // columns) * step), "white")
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        sheet.paste(Image.fromarray(image), (column * step, row * step))
    with jobs.replacing(path) as file:
        sheet.save(file, "PNG")


# ---- Command line

def gather(args, size):
    """The images that `prepare` was asked for, `size` px wide; info says how the set was read."""
    folder, stand_in, classes = Path(args.source or "."), None, None
    if args.binary:
        classes = TWO
    if args.study:
        classes = STUDIES[args.study][0]
    if args.study and args.source:
        folder, stand_in = find_set(folder, args.study)

    if args.built_in:
        jobs.check_memory(args.built_in, size)
        rows, notes = lesion_rows(args.built_in, args.seed), []
        source = f"drawn lesions (seed {args.seed})"
    else:
        rows, notes = read_rows(folder, args.zeros, dict(args.columns))
        source = folder.name
    if classes:
        rows = of_classes(rows, classes, notes)
    if args.resplit:
        rows = [row._replace(part="") for row in rows]
    rows = choose(rows, dict(args.limit), args.seed)
    info = dict(source=source, reading=notes, stand_in=stand_in)
    return decoded(rows, size, info, args.skip_bad)


def prepare(args):
    """Decode a set once, split it by lesion, and write it as images.npy, the folder of a job."""
    out, begun = Path(args.out), time.time()
    images = gather(args, 2 * args.size if args.enhance else args.size)
    if args.enhance:
        before = images.images[:8]
        images = replace(images, images=enhance(images.images))
        before_after = np.concatenate([before, images.images[:8]])
    images = with_split(resized(images, args.size), args.val, args.test, args.seed)
    if "train" not in images.split:
        raise UserError("no image is left to train on: give a smaller --val or --test, or "
                        "--resplit if the set marks all of its images val or test")
    near = near_test(images)
    if args.drop_near:
        images = images.take(~near)
    info = images.info
    info["near_test"] = int(near.sum())
    info["dataset"] = images.fingerprint()          # ids tell a leak only within one prepared set
    info["reading"] += warnings_of(images)

    decisive = ("study", "size", "val", "test", "resplit", "limit", "enhance", "drop_near", "seed")
    config = {name: getattr(args, name) for name in decisive}
    config |= dict(command="prepare", data=info["dataset"])
    if jobs.start_job(out, config):
        return
    if args.enhance:
        save_grid(out / "before_after.png", before_after)
    show_training_images(images, out, args.seed)
    images.save(out / "images.npy")
    counts = counts_of_parts(images)
    lesions = len(set(images.groups))
    jobs.finish_job(out, config, time.time() - begun, "cpu", counts=counts, source=info,
                    lesions=lesions)

    print("\n".join(info["reading"]))
    for part, count in counts.items():
        print(f"{part:6} {sum(count.values()):6}  {count}")
    print(f"{out}: {len(images)} images of {lesions} lesions. Dropped, because the lesion or the "
          f"picture is also in a later part: {info['dropped']}. "
          f"Near copies of test images (--drop-near leaves them out): {near.sum()}")
    if info["stand_in"]:
        print(f"stand-in: {info['stand_in']}")


def counts_of_parts(images):
    """{part: {class: number of images}}; a set without parts has one called "all"."""
    if not images.split.any():
        return {"all": images.counts()}
    parts = [part for part in ("train", "val", "test") if part in images.split]
    return {part: images.part(part).counts() for part in parts}


def warnings_of(images):
    """Sentences on what makes a set hard to learn from or to test on."""
    notes = []
    for part, counts in counts_of_parts(images).items():
        absent = [name for name, n in counts.items() if n == 0]
        if absent:
            notes.append(f"warning: {part} has no image of {first_of(absent)}")
    for name, n in images.counts().items():
        if n < 10:
            notes.append(f"warning: class {name} has only {n} images")
    if images.info["deep_grey"]:
        notes.append(f"grey of more than 8 bits: {images.info['deep_grey']} images, each scaled by "
                     "the power of two that holds its range")
    if images.info["skipped"]:
        notes.append(f"left out, unreadable: {first_of(images.info['skipped'])}")
    return notes


def export(args):
    """A part of a prepared set as class folders of PNG, for any other generator to learn from."""
    images = load(args.run).part(args.part).share(args.share)
    info = dict(source=f"{args.part} of {args.run}", size=images.images.shape[1])
    info |= what_was_seen(images)
    replace(images, info=info).save(args.out)
    print(f"{args.out}: {images.counts()}. Let your generator learn from each class, and write its "
          f"images to MINE/{' and MINE/'.join(images.classes)}, with a copy of "
          f"{args.out}/info.json, which says what it has seen. Then:\n"
          "bash run_all.sh controls --data ... --synthetic MINE")


def show_training_images(images, out, seed):
    """grid.png, 8 training images of each class; augmented.png, 16 copies of one image."""
    train = images.part("train")
    shown = np.concatenate([train.of_class(name).images[:8] for name in train.classes])
    save_grid(out / "grid.png", shown)
    torch.manual_seed(seed)
    copies = scaled(to_tensor(shown[[0] * 16]))
    copies = augment(copies, zoom=0, shift=0, shear=10, brightness=0)
    save_grid(out / "augmented.png", to_uint8(copies))


def class_limit(text):
    """An argparse type: CLASS=N."""
    name, _, number = text.rpartition("=")
    return name, int(number)


def column(text):
    """An argparse type: image, label, lesion or part = the name of a column."""
    meaning, _, title = text.partition("=")
    if meaning not in ("image", "label", "lesion", "part") or not plain(title):
        raise argparse.ArgumentTypeError(f"{text} is not image=, label=, lesion= or part= and a "
                                         "column's name")
    return meaning, title


def main():
    parser = jobs.Parser(prog="data.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    share, count = jobs.at_least(0, float), jobs.at_least(1)

    def draw(args):
        built_in(args.n, args.size, args.seed).save(args.out)

    lesions = commands.add_parser("lesions", help="draw lesions")
    lesions.set_defaults(function=draw)
    lesions.add_argument("--n", type=count, default=80, help="number of pictures (default 80)")

    p = commands.add_parser("prepare", help="decode and split", description=prepare.__doc__)
    p.set_defaults(function=prepare)
    one = p.add_mutually_exclusive_group(required=True)
    one.add_argument("source", nargs="?", help="class folders, images with a csv, or a zip")
    one.add_argument("--built-in", type=count, metavar="N", help="N drawn lesions instead")
    p.add_argument("--for", dest="study", choices=STUDIES, help="the set and classes of a study")
    p.add_argument("--binary", action="store_true", help="two classes, benign and malignant")
    p.add_argument("--val", type=share, default=0.1, help="share for validation (default 0.1)")
    p.add_argument("--test", type=share, default=0.2, help="share for test, or images per class, "
                   "if the set has no test part (default 0.2)")
    p.add_argument("--resplit", action="store_true", help="forget the set's own split")
    p.add_argument("--limit", type=class_limit, nargs="+", default=[], metavar="CLASS=N",
                   help="at most N images of this class, whole lesions")
    p.add_argument("--drop-near", action="store_true", help="drop near copies of test images")
    p.add_argument("--enhance", action="store_true", help="bilateral filter, gamma 1.5 (001)")
    p.add_argument("--skip-bad", action="store_true", help="go on without unreadable images")

    c = commands.add_parser("check", help="copies, wrong labels", description=check.__doc__)
    c.set_defaults(function=check)
    c.add_argument("source", help="a data set")
    for command in (p, c):
        command.add_argument("--zeros", metavar="CLASS", help="class of rows that hold only zeros")
        command.add_argument("--columns", type=column, nargs="+", default=[], metavar="X=COLUMN",
                             help="what columns of the tables mean, X: image, label, lesion, part")

    e = commands.add_parser("export", help="class folders of PNG", description=export.__doc__)
    e.set_defaults(function=export)
    e.add_argument("run", help="folder of a `prepare` job")
    e.add_argument("--part", choices=("train", "val", "test"), default="train")
    e.add_argument("--share", type=jobs.fraction, default=1, help="of each class, such as 1/2 (1)")
    e.add_argument("--out", required=True, help="a new folder")
    for command in (lesions, p):
        command.add_argument("--size", type=jobs.at_least(8), default=64, help="pixels (64)")
        command.add_argument("--seed", type=jobs.at_least(0), default=0)
        command.add_argument("--out", required=True, help="a new folder (lesions: or .npy file)")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
