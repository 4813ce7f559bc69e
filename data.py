"""data.py: images in, tensors out. Knows nothing of networks or metrics.

    python data.py lesions --n 80 --size 128 --out drawn/          draw lesions, as a tree of PNG files
    python data.py prepare --built-in 960 --out runs/data          an image set of drawn lesions, split
    python data.py prepare my_photos --size 64 --out runs/data     of class folders, or of images with a csv
    python data.py prepare DIR --for dermagan --out runs/data      the set that a study needs, below DIR
    python data.py check my_photos                                 copies, conflicting labels, leaks

An image set is uint8 RGB images, labels, class names, image ids, lesion ids and a split, in one .npz file or
in a tree [train|val|test/]CLASS/*.png. Preparing 1,000 photographs takes some seconds.
"""
import csv
import collections
import functools
import hashlib
import io
import itertools
import json
import math
import re
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

import jobs
from jobs import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MOST_PIXELS = 64_000_000    # of one file, decoded: 192 MB
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
         "test": "test", "testing": "test"}

# Column names under which the public tables keep the same thing (HAM10000, the ISIC challenges, ours).
COLUMN_NAMES = {
    "image": ("image", "image_id", "isic_id", "filename"),
    "label": ("label", "dx", "diagnosis"),
    "lesion": ("lesion_id", "group"),
    "part": ("split_by_lesion", "split"),
}
# What the public sets call a class -> the name used here. HAM10000 files Bowen's disease under akiec too.
CLASS_NAMES = {
    "akiec": "AK", "actinic_keratosis": "AK", "basal_cell_carcinoma": "BCC", "dermatofibroma": "DF",
    "pigmented_benign_keratosis": "BKL", "seborrheic_keratosis": "BKL", "melanoma": "MEL", "nevus": "NV",
    "squamous_cell_carcinoma": "SCC", "vascular_lesion": "VASC",
}
# The two-class papers: which diagnosis is malignant. AK, a precursor, counts as malignant (our choice).
MALIGNANT = {"AK", "BCC", "MEL", "SCC", "MALIGNANT"}
BENIGN = {"BKL", "DF", "NV", "VASC", "BENIGN"}

TWO = ["benign", "malignant"]
EIGHT = ["AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC"]
# Classes of each study, and the folders below --data that serve it: the paper's own set, then stand-ins.
STUDIES = {
    "wgan_gp": (TWO, ["kaggle_binary", "isic_archive", "ham10000", "isic2019"]),
    "dcgan_cls": (TWO, ["kaggle_binary", "isic_archive", "ham10000", "isic2019"]),
    "acgan_cyclegan": (EIGHT, ["isic2019", "ham10000"]),
    "dermagan": (["AK", "BCC", "BKL", "MEL"], ["its 1,976 images (unpublished)", "isic2019", "ham10000"]),
    "dcgan_inception": (TWO, ["isic_archive", "kaggle_binary", "ham10000", "isic2019"]),
    "controls": (TWO, ["isic2019", "isic_archive", "ham10000", "kaggle_binary"]),
}


# ---- The image set --------------------------------------------------------------------------------------

COLUMNS = ("images", "labels", "ids", "groups", "split")        # what has one entry per image


@dataclass
class ImageSet:
    images: np.ndarray          # uint8 (n, side, side, 3), RGB
    labels: np.ndarray          # int64 (n,), index into classes
    classes: list               # class names
    ids: np.ndarray             # str (n,)
    groups: np.ndarray          # str (n,): lesion id; all pictures of a lesion stay on one side of a split
    split: np.ndarray           # str (n,): "train", "val", "test", or "" where nothing is decided
    info: dict = field(default_factory=dict)    # where the images come from; what a GAN's samples have seen

    def __len__(self):
        return len(self.images)

    def take(self, which):
        """The images that `which` (indices or a mask) selects."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def part(self, name):
        """The images of "train", "val" or "test"; of a set that nobody split, "train" is all of it."""
        if name == "train" and not self.split.any():
            return self
        chosen = self.take(self.split == name)
        if not len(chosen):
            raise UserError(f"{self.info.get('source')}: no image is marked {name}. Make the set with "
                            "`python data.py prepare`, perhaps with a larger --val or --test")
        return chosen

    def of_class(self, name):
        if name not in self.classes:
            raise UserError(f"no class {name}: the classes are {', '.join(self.classes)}")
        return self.take(self.labels == self.classes.index(name))

    def counts(self):
        """{class name: number of images}"""
        return {name: int((self.labels == k).sum()) for k, name in enumerate(self.classes)}

    def share(self, share):
        """This share of each class, whole lesions, in a fixed random order: a larger share holds a smaller."""
        lots = np.array([hash_of(str(group).encode()) for group in self.groups])
        order = np.argsort(lots, kind="stable")
        chosen = []
        for k in range(len(self.classes)):
            of_class = order[self.labels[order] == k]
            chosen.append(of_class[:round(share * len(of_class))])
        return self.take(np.sort(np.concatenate(chosen)))

    def digests(self):
        """A short hash of each image's pixels: equal pictures have equal ones, whatever they are called."""
        return np.array([hash_of(image.tobytes()) for image in self.images])

    def fingerprint(self):
        """One hash of all that decides a result: pixels, labels, lesions, split."""
        names = [self.classes[k] for k in self.labels]
        rows = list(zip(self.digests().tolist(), names, map(str, self.groups), map(str, self.split)))
        return hash_of(repr(rows).encode())

    def save(self, path):
        """One .npz file, or for any other path a new tree [part/]CLASS/id.png with an info.json."""
        path = Path(path)
        if path.suffix == ".npz":
            columns = {name: getattr(self, name) for name in COLUMNS}
            with jobs.replacing(path) as file:
                np.savez(file, **columns, classes=np.array(self.classes), info=json.dumps(self.info))
            return
        if (path / "info.json").exists() or path.exists() and not path.is_dir():
            raise UserError(f"{path} is there already: choose a new folder")
        for image, label, name, part in zip(self.images, self.labels, self.ids, self.split):
            file_name = str(name).replace("/", "_") + ".png"
            with jobs.replacing(path / str(part) / self.classes[label] / file_name) as file:
                Image.fromarray(image).save(file, "PNG")
        jobs.write_json(path / "info.json", self.info)


def hash_of(raw):
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def plain_name(name):
    """A class or file name without path parts, since folders are made of it."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\n" in name:
        raise UserError(f"{name!r} cannot be the name of a class: rename it")
    return name


def mix(first, *more):
    """Image sets joined into one. Classes go by name: those of `more` must be among those of `first`."""
    sets = [first]
    for other in more:
        unknown = set(other.classes) - set(first.classes)
        if unknown:
            raise UserError(f"{other.info.get('source')}: its classes {', '.join(sorted(unknown))} are "
                            f"not among {', '.join(first.classes)}")
        numbers = np.array([first.classes.index(name) for name in other.classes])
        sets.append(replace(other, labels=numbers[other.labels]))
    columns = {name: np.concatenate([getattr(one, name) for one in sets]) for name in COLUMNS}
    return replace(first, **columns)


# ---- Reading --------------------------------------------------------------------------------------------

def load(path, size=None):
    """The image set of an .npz file, a job's folder, a folder of images or a zip, its images `size` px wide.

    size: None leaves an .npz as it is; a folder of photographs needs one.
    """
    path = Path(path)
    for name in ("images.npz", "samples.npz"):      # the folder of a `prepare` or a GAN job
        if (path / name).is_file():
            path = path / name
    if path.suffix == ".npz":
        return resized(load_npz(path), size)
    if (path / "config.json").exists():
        raise UserError(f"{path} is a job that has not made its images: finish it first")
    if size is None:
        raise UserError(f"{path} holds image files: prepare it first, or give --size")
    return decoded(path, read_rows(path), size)


def load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS}
            images = ImageSet(**columns, classes=[plain_name(str(name)) for name in file["classes"]],
                              info=json.loads(str(file["info"])))
        n, height, width, colours = images.images.shape
        labels = images.labels
        assert images.images.dtype == np.uint8 and height == width and colours == 3
        assert labels.dtype == np.int64 and set(labels.tolist()) <= set(range(len(images.classes)))
        assert isinstance(images.info, dict)
        assert all(column.shape[:1] == (n,) for column in columns.values())
        assert all(columns[name].ndim == 1 for name in COLUMNS[1:])
    except (OSError, ValueError, KeyError, EOFError, AssertionError, zipfile.BadZipFile) as problem:
        reason = problem or "wrong types or shapes"
        raise UserError(f"{path} is not an image set of this project: {reason}") from None
    return images


class Row(NamedTuple):
    """One image of a set before it is decoded."""
    name: str           # path below the set's folder
    label: str
    lesion: str
    part: str           # train, val, test or ""


def image_files(folder):
    """{path: function giving its bytes} of every image below a folder, in a zip, or in a zip in the folder."""
    files = {}
    archives = sorted(folder.glob("*.zip")) if folder.is_dir() else [folder]
    for archive in archives:
        try:
            opened = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError):
            raise UserError(f"{archive} is neither a readable zip archive nor a folder") from None
        for name in sorted(opened.namelist()):      # the archive's name may be the only word on its part
            files[f"{archive.stem}/{name}"] = functools.partial(opened.read, name)
    jobs_inside = {file.parent for file in folder.rglob("config.json")}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not jobs_inside & set(file.parents):
            files[file.relative_to(folder).as_posix()] = file.read_bytes

    def is_image(name):
        hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        return name.lower().endswith(SUFFIXES) and not hidden

    files = {name: read for name, read in files.items() if is_image(name)}
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return files


def part_of(path):
    """The part of a split that a path names, such as ISIC-2017_Test_v2_Data/x.jpg; "" if none."""
    for word in re.split(r"[^a-z]+", str(path).lower().rpartition("/")[0]):
        if word in PARTS:
            return PARTS[word]
    return ""


def read_tables(folder):
    """The csv tables below a folder that name images: [(file, [{column of COLUMN_NAMES: text, ...}, ...])]."""
    tables = []
    for file in sorted(folder.rglob("*.csv")):
        try:
            with open(file, newline="", encoding="utf-8-sig", errors="replace") as opened:
                rows = list(csv.DictReader(opened))
        except csv.Error as problem:
            raise UserError(f"{file} cannot be read as csv ({problem})") from None
        header = list(rows[0]) if rows else []
        found = {}
        for column, names in COLUMN_NAMES.items():
            found[column] = next((name for name in names if name in header), None)
        if found["image"] is None:
            if file.name == "labels.csv":
                raise UserError(f"{file} has no column image, or no row: its columns are {header}")
            continue
        plain = [{column: row[name] or "" for column, name in found.items() if name} for row in rows]
        classes = [name for name in header if all(row[name] in ("0", "0.0", "1", "1.0") for row in rows)]
        if not found["label"] and classes:          # as ISIC: a column of 0.0 and 1.0 for each class
            for row, new in zip(rows, plain):
                new["label"] = "+".join(name for name in classes if float(row[name]))
        tables.append((file, plain))
    return tables


def read_rows(folder, zeros=None):
    """[Row, ...] of a set: labels from labels.csv, else from the other tables, else from the class folders.

    The lesions may stand in a table of their own. zeros: the class of images whose row holds only zeros.
    """
    files = image_files(folder)
    tables = read_tables(folder) if folder.is_dir() else []
    lesions = {row["image"]: row["lesion"] for _, rows in tables for row in rows if row.get("lesion")}
    labelled = [(file, rows) for file, rows in tables if rows and "label" in rows[0]]
    labelled = [table for table in labelled if table[0].name == "labels.csv"] or labelled
    if labelled:
        return match_rows(files, labelled, lesions, zeros)
    rows = []
    for name in files:
        label = Path(name).parent.name or "unlabelled"
        lesion = next((lesions[key] for key in keys_of(name) if key in lesions), name)
        rows.append(Row(name, plain_name(label), lesion, part_of(Path(name).parent)))
    return rows


def keys_of(name):
    """How a table may call an image: by its path, its file name or its stem."""
    return name, Path(name).name, Path(name).stem


def match_rows(files, tables, lesions, zeros):
    by_key = collections.defaultdict(set)
    for name in files:
        for key in keys_of(name):
            by_key[key].add(name)
    rows, used = [], set()
    for table, entries in tables:
        for number, entry in enumerate(entries, start=2):
            found, label = by_key.get(entry["image"], set()), entry["label"] or zeros
            problem = ""
            if len(found) != 1:
                problem = f"{len(found)} images are called so"
            elif found <= used:
                problem = "it is listed twice"
            elif not label:
                problem = "it has no class; --zeros CLASS gives such rows one"
            elif "+" in label:
                problem = f"it has two classes, {label}"
            if problem:
                raise UserError(f"{table} line {number}, image {entry['image']!r}: {problem}")
            name = found.pop()
            used.add(name)
            part = PARTS.get(entry.get("part", "").lower(), "")
            if entry.get("part") and not part:
                raise UserError(f"{table} line {number}: {entry['part']!r} is not train, val or test")
            part = part or part_of(name) or part_of(f"{table.stem}/")
            rows.append(Row(name, plain_name(label), lesions.get(entry["image"], name), part))
    return rows


def open_rgb(raw, side):
    """Bytes of an image file -> RGB picture: EXIF rotation applied, any mode, transparency on white."""
    with Image.open(io.BytesIO(raw)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        image.draft("RGB", (side, side))            # a large JPEG is decoded at 1/2, 1/4 or 1/8: faster
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":                   # 16-bit, 32-bit and float grey
            grey = np.asarray(image, np.float64)
            top = min(top for top in (1, 255, 65535, math.inf) if grey.max() <= top)
            image = Image.fromarray((grey * 255 / min(top, 65535)).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def decode(raw, size):
    """Bytes of an image file -> uint8 (size, size, 3): shorter side to `size`, bicubic, centre crop."""
    return np.asarray(ImageOps.fit(open_rgb(raw, 2 * size), (size, size), Image.Resampling.BICUBIC))


def in_threads(work, files, rows, title):
    """[work(bytes) of each row's file, or the reason, a text, why it cannot be read], on all cores."""
    def one(row):
        try:
            return work(files[row.name]())
        except Exception as problem:                # Pillow raises a dozen types for broken files
            return str(problem).split(" <")[0] or type(problem).__name__

    progress, results = jobs.Progress(title, len(rows)), []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(one, rows):
            results.append(result)
            progress(len(results))
    return results


def decoded(folder, rows, size, skip_bad=False):
    """The image set of these rows. An unreadable image ends the work, or is left out and counted."""
    results = in_threads(lambda raw: decode(raw, size), image_files(folder), rows, f"decoding {folder.name}")
    bad = [f"{row.name} ({result})" for row, result in zip(rows, results) if isinstance(result, str)]
    if bad and not skip_bad or len(bad) == len(rows):
        raise UserError(f"{folder}/{bad[0]}: unreadable, and {len(bad) - 1} more. Repair or remove it, or "
                        "use `python data.py prepare --skip-bad`")
    good = [k for k, result in enumerate(results) if not isinstance(result, str)]
    names, labels, lesions, parts = (np.array(column) for column in zip(*(rows[k] for k in good)))
    classes, labels = np.unique(labels, return_inverse=True)
    info = dict(source=folder.name, skipped=bad)
    if (folder / "info.json").exists():             # GAN samples as a tree: what their GAN has seen
        info |= jobs.read_json(folder / "info.json")
    return ImageSet(np.stack([results[k] for k in good]), labels.astype(np.int64), classes.tolist(),
                    names, lesions, parts.astype("U5"), info)


def resized(images, size):
    """The set with images `size` px wide, bicubic."""
    if size is None or len(images) == 0 or images.images.shape[1] == size:
        return images
    pictures = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
                for image in images.images]
    return replace(images, images=np.stack(pictures))


# ---- Which images, which classes ------------------------------------------------------------------------

def class_name(name, binary=False):
    """A class as the studies call it: "akiec" is AK; binary: benign or malignant."""
    key = name.strip().lower().replace(" ", "_")
    short = CLASS_NAMES.get(key, key.upper())
    if not binary:
        return short
    if short in MALIGNANT:
        return "malignant"
    if short in BENIGN:
        return "benign"
    raise UserError(f"cannot tell whether class {name} is benign or malignant: list it in data.py")


def find_set(root, study):
    """(folder of the set that serves a study, what it stands in for or None).

    A folder's name is its set's name; without such a folder, root itself is a set of the user's own.
    """
    own, *others = STUDIES[study][1]
    for name in (own, *others):
        if (root / name).is_dir():
            return root / name, None if name == own or study == "controls" else f"{name} instead of {own}"
    return root, None if study == "controls" else f"your own {root.name} instead of {own}"


def choose(rows, classes=None, binary=False, limits=None, seed=0):
    """The rows of these classes under our names; limits {class: n}: n images at most, whole lesions at random."""
    limits = limits or {}
    if classes or binary:
        rows = [row._replace(label=class_name(row.label, binary)) for row in rows]
    present = collections.Counter(row.label for row in rows)
    if set(limits) - set(present):
        raise UserError(f"--limit {min(set(limits) - set(present))}: the classes are {sorted(present)}")
    room = {label: limits.get(label, n) for label, n in present.items() if not classes or label in classes}
    sizes = collections.Counter((row.label, row.lesion) for row in rows)
    lesions, taken = sorted(sizes), set()
    for k in np.random.default_rng(seed).permutation(len(lesions)):
        label, size = lesions[k][0], sizes[lesions[k]]
        if size <= room.get(label, 0):
            taken.add(lesions[k])
            room[label] -= size
    rows = [row for row in rows if (row.label, row.lesion) in taken]
    if len({row.label for row in rows}) < min(2, len(classes or [1])):
        raise UserError(f"classes {', '.join(classes or [])} are needed, the set has {dict(present)}")
    return rows


# ---- Splits and copies ----------------------------------------------------------------------------------

def joined_groups(groups, digests):
    """One group name per image: images are joined by a common lesion or by equal pixels, and so on along."""
    _, lesion = np.unique(groups, return_inverse=True)
    _, picture = np.unique(digests, return_inverse=True)
    lesions, n = lesion.max() + 1, lesion.max() + picture.max() + 2
    edges = scipy.sparse.coo_array((np.ones(len(lesion)), (lesion, lesions + picture)), shape=(n, n))
    _, component = scipy.sparse.csgraph.connected_components(edges, directed=False)
    _, first, member = np.unique(component[lesion], return_index=True, return_inverse=True)
    return np.asarray(groups)[first][member]


def split_by_group(labels, groups, share, seed):
    """Mask of the images that go to the second part: about this share of each class, whole groups; a share
    of 1 or more is a number of images of each class.

    A group counts under the label of its first image. Within a class the groups come in random order and
    each goes to the part that is furthest below its share.
    """
    labels = np.asarray(labels)
    names, first, member = np.unique(groups, return_index=True, return_inverse=True)
    sizes, second = np.bincount(member), np.zeros(len(names), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels[first] == label))
        n = sizes[of_class].sum()
        wanted = share * n if share < 1 else share
        missing = np.array([n - wanted, wanted], float)
        for group in of_class:
            part = int(missing.argmax())
            second[group] = part == 1
            missing[part] -= sizes[group]
    return second[member]


def with_split(images, val=0.1, test=0.2, seed=0):
    """The image set with every image marked train, val or test. Parts that come with the set are kept.

    Lesions, joined by equal pictures, stay whole. If a set's own parts share a lesion or a picture, it stays
    in test (else in val) and is dropped from the others; info counts that.
    """
    groups = joined_groups(images.groups, images.digests())
    rank = np.array([{"test": 2, "val": 1}.get(part, 0) for part in images.split.tolist()])
    _, member = np.unique(groups, return_inverse=True)
    highest = np.zeros(member.max() + 1, int)
    np.maximum.at(highest, member, rank)
    keep = rank == highest[member]
    images, groups = images.take(keep), groups[keep]

    split = images.split.astype("U5")
    for name, other, share, own_seed in (("test", "val", test, seed), ("val", "test", val, seed + 1)):
        if share and not (split == name).any():
            inside = np.flatnonzero(split != other)
            chosen = split_by_group(images.labels[inside], groups[inside], share, own_seed)
            split[inside] = np.where(chosen, name, "train")
    split[split == ""] = "train"
    return replace(images, groups=groups, split=split, info=images.info | dict(dropped=int((~keep).sum())))


def dhash(picture):
    """64 signs, -1 or 1: does each pixel of a 9 x 8 grey thumbnail get brighter to the right?"""
    grey = np.asarray(picture.convert("F").resize((9, 8), Image.Resampling.LANCZOS))
    return np.where(np.diff(grey) > 0, np.float32(1), np.float32(-1)).ravel()


def near_pairs(signs, most=2):
    """(a, b), a < b: the pairs of rows of signs (n, 64) that differ in at most `most` places."""
    pairs = []
    for start in range(0, len(signs), 2048):        # 2048 rows of the matrix at a time
        a, b = np.nonzero(signs[start:start + 2048] @ signs[start:].T >= signs.shape[1] - 2 * most)
        pairs.append(np.stack([a, b])[:, a < b] + start)
    return np.concatenate(pairs, 1)


def near_test(images):
    """Mask of the training and validation images that nearly equal a test image (dHash within 2 bits)."""
    a, b = near_pairs(np.stack([dhash(Image.fromarray(image)) for image in images.images]))
    test, near = images.split == "test", np.zeros(len(images), bool)
    near[a[test[b] & ~test[a]]] = True
    near[b[test[a] & ~test[b]]] = True
    return near


def check(args):
    """Copies, conflicting labels, unreadable files, and what a split that comes with the set leaks."""
    folder = Path(args.source)
    rows = read_rows(folder, args.zeros)
    seen = in_threads(look_at, image_files(folder), rows, f"checking {folder.name}")
    for row, one in zip(rows, seen):
        if isinstance(one, str):
            print(f"unreadable: {row.name} ({one})")
    good = [k for k, one in enumerate(seen) if not isinstance(one, str)]
    if not good:
        raise UserError(f"{folder}: no image can be read")
    names, labels, lesions, parts = (np.array(column) for column in zip(*(rows[k] for k in good)))
    sides, digests, signs = zip(*(seen[k] for k in good))
    print(f"images: {len(good)}, shorter side {min(sides)} to {max(sides)} px, of {len(set(lesions))} lesions")
    for part in sorted(set(parts)):
        print(f"{part or 'no split'}: {dict(sorted(collections.Counter(labels[parts == part].tolist()).items()))}")

    a, b = near_pairs(np.stack(signs))
    equal = np.array(digests)[a] == np.array(digests)[b]
    conflict = equal & (labels[a] != labels[b])
    across = parts[a] != parts[b]
    print(f"equal pictures: {equal.sum()} pairs, {conflict.sum()} of them under two labels, "
          f"{(equal & across).sum()} across parts")
    kinds = collections.Counter(" / ".join(sorted(pair)) for pair in zip(labels[a[conflict]], labels[b[conflict]]))
    for kind, n in kinds.items():
        print(f"    {n} {kind}")
    for first, second in list(zip(names[a[equal]], names[b[equal]]))[:5]:
        print(f"    {first} = {second}")
    print(f"nearly equal pictures (dHash within 2 bits): {len(a)} pairs, {across.sum()} across parts")
    leaked = np.isin(lesions, lesions[parts == "train"]) & (parts == "test")
    print(f"test images of lesions that are in train: {leaked.sum()}")


def look_at(raw):
    """(shorter side, digest of the pixels, dHash) of an image file."""
    picture = open_rgb(raw, 256)
    return min(picture.size), hash_of(picture.tobytes() + str(picture.size).encode()), dhash(picture.convert("L"))


# ---- Preprocessing of paper 001 -------------------------------------------------------------------------

def bilateral(images, d=9, sigma_colour=75.0, sigma_space=75.0):
    """Smoothing that keeps edges: uint8 (n, h, w, 3) -> the same. Equals OpenCV's to one grey level.

    A pixel becomes the mean of its neighbours within d // 2 pixels, weighted by exp(-distance^2 / 2 sigma^2)
    in space and in colour, where the distance is |dR| + |dG| + |dB|. The border is mirrored.
    """
    radius, (_, height, width, _) = d // 2, images.shape
    here = to_tensor(images).float()
    padded = F.pad(here, (radius,) * 4, mode="reflect")
    total, weights = torch.zeros_like(here), torch.zeros_like(here[:, :1])
    for dy, dx in itertools.product(range(-radius, radius + 1), repeat=2):
        if dy ** 2 + dx ** 2 > radius ** 2:
            continue
        there = padded[:, :, radius + dy:radius + dy + height, radius + dx:radius + dx + width]
        colour = (there - here).abs().sum(1, keepdim=True) / sigma_colour
        weight = torch.exp(-0.5 * (colour ** 2 + (dy ** 2 + dx ** 2) / sigma_space ** 2))
        total += weight * there
        weights += weight
    return to_uint8(total / weights / 127.5 - 1)


def enhance(images, gamma=1.5):
    """Paper 001: bilateral filter (d and sigmas not stated; OpenCV's usual ones), then I^(1 / gamma)."""
    curve = np.rint(255 * (np.arange(256) / 255) ** (1 / gamma)).astype(np.uint8)
    return np.concatenate([curve[bilateral(images[k:k + 64])] for k in range(0, len(images), 64)])


# ---- Drawn lesions --------------------------------------------------------------------------------------

# A data set that needs no download; not a model of disease. A lesion is pigment in skin: brown (melanin), red
# (blood) and blue (deep melanin) absorb light, white (scar, keratin, cysts) covers it. Lengths are in half
# frames. What is drawn depends on continuous fields, so a lesion is the same in every view and at every size.
VIEWS = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]    # (lesion, view) of six pictures: 1, 2, 3 views
ABSORB = np.float32([[0.42, 0.85, 1.25], [0.16, 0.95, 0.70], [1.15, 0.95, 0.62]])   # of red, green, blue light
WHITE = np.float32([0.96, 0.90, 0.84])
ARTEFACTS = dict(hair=0.3, ruler=0.1, vignette=0.6, corners=0.12)   # odds, the same in every class

# Structures: how they are laid out, their spacing or size, what they add to (brown, red, blue, white).
STRUCTURES = {
    "network": ("net", 0.13, (0.9, 0, 0, 0)), "globules": ("spots", 0.19, (1.3, 0, 0, 0)),
    "milia": ("spots", 0.26, (-0.3, 0, 0, 0.7)), "comedo": ("spots", 0.30, (1.6, 0, 0, 0)),
    "nests": ("spots", 0.34, (0.2, 0, 1.2, 0)), "lacunae": ("spots", 0.22, (0, 1.3, 0.5, 0)),
    "follicles": ("spots", 0.20, (0, -0.5, 0, 0.5)), "fissures": ("lines", 0.30, (1.0, 0, 0, 0)),
    "vessels": ("lines", 0.75, (0, 1.4, 0, 0)), "blotch": ("patch", 0.45, (1.6, 0, 0.2, 0)),
    "veil": ("patch", 0.45, (-0.2, 0, 0.9, 0.1)), "regression": ("patch", 0.40, (-0.8, 0, 0.1, 0.4)),
    "ulcer": ("patch", 0.22, (0.6, 1.2, 0, 0)), "keratin": ("centre", 0.50, (-0.1, -0.2, 0, 0.8)),
    "scar": ("centre", 0.50, (-0.6, -0.1, 0, 0.5)),
}
# Classes: which others each resembles; radius, wobble of the contour, width of the border, brown, red, blue;
# the strength of its structures.
LESIONS = {
    "AK": ("SCC BKL", (0.60, 0.10, 0.40, 0.10, 0.38, 0), dict(follicles=1.2, keratin=0.3)),
    "BCC": ("AK MEL VASC", (0.54, 0.12, 0.30, 0.08, 0.30, 0.10), dict(vessels=0.9, nests=0.8, ulcer=0.7)),
    "BKL": ("NV SCC MEL", (0.58, 0.08, 0.08, 0.65, 0.08, 0), dict(milia=0.9, comedo=0.8, fissures=0.6)),
    "DF": ("NV BCC", (0.44, 0.05, 0.28, 0.45, 0.16, 0), dict(network=0.4, scar=1.2)),
    "MEL": ("NV NV BKL", (0.62, 0.18, 0.08, 0.90, 0.12, 0.12),
            dict(network=0.6, globules=0.5, blotch=0.9, veil=0.8, regression=0.7)),
    "NV": ("MEL MEL DF", (0.48, 0.05, 0.16, 0.80, 0.12, 0), dict(network=0.9, globules=0.5)),
    "SCC": ("AK BKL", (0.54, 0.11, 0.16, 0.12, 0.60, 0.05), dict(keratin=1.2, ulcer=0.8, vessels=0.4)),
    "VASC": ("BCC MEL", (0.40, 0.07, 0.07, 0.00, 0.75, 0.20), dict(lacunae=1.1)),
}


def smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def waves(rng, x, y, low, high, count=24):
    """Noise of variance 1 at x, y: plane waves of `low` to `high` radians per half frame, weaker if higher."""
    frequency = low * (high / low) ** rng.random(count)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
    strength = frequency ** -0.7
    strength *= np.sqrt(2 / np.square(strength).sum())
    fx, fy = np.float32([frequency * np.cos(angle), frequency * np.sin(angle)])
    total = np.zeros_like(x)
    for k in range(count):
        total += np.float32(strength[k]) * np.cos(fx[k] * x + fy[k] * y + np.float32(phase[k]))
    return total


def honeycomb(rng, x, y, spacing, patch):
    """From -0.5 between the cells of a bent hexagonal lattice to 1 in their middle: three waves at 60 degrees."""
    turn = rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3
    shift = rng.uniform(0, 2 * np.pi, 2)
    k = 4 * np.pi / np.sqrt(3) / spacing
    bend = 0.9 * patch
    phases = (shift[0], shift[1], shift[1] - shift[0])      # so that the three meet in one point
    return sum(np.cos(k * (np.cos(a) * x + np.sin(a) * y) + p + bend) for a, p in zip(turn, phases)) / 3


def traits(rng, label):
    """(shape, structures) of one lesion: its class, mixed with one that it resembles, each stronger or weaker."""
    like, shape, structures = LESIONS[EIGHT[label]]
    _, other_shape, other_structures = LESIONS[rng.choice(like.split())]
    severity = 0.5 * rng.beta(1, 2)                 # 0: a textbook case; .5: half the other class
    mixed = (1 - severity) * np.array(shape) + severity * np.array(other_shape)
    mixed *= np.exp(rng.normal(0, 0.25, len(mixed)))
    strength = {}
    for name in STRUCTURES:
        own = (1 - severity) * structures.get(name, 0) + severity * other_structures.get(name, 0)
        seen = rng.random() < 0.85                  # few lesions show every structure of their class
        strength[name] = own * seen * np.exp(rng.normal(0, 0.3))
    return mixed, strength


def pigment(rng, label, x, y):
    """Maps (4, size, size) of a lesion without its skin at lesion coordinates x, y: brown, red, blue, white."""
    (radius, wobble, edge, *colours), strength = traits(rng, label)
    radius = min(max(radius, 0.25), 0.72)
    fine, patch = waves(rng, x, y, 10, 90), waves(rng, x, y, 3, 12)
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    contour = radius * np.ones_like(x)
    for k in range(2, 8):
        contour += radius * rng.normal(0, wobble) * 2 / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    depth = contour - distance + wobble * (0.25 * fine + 0.3 * patch)   # inside the border; negative outside
    inside = smoothstep(depth / max(edge, 0.05) + 0.5)
    uneven = np.maximum(1 + (0.1 + 1.5 * wobble) * (patch + 0.5 * fine), 0.2)
    maps = np.stack([*(amount * inside * uneven for amount in colours), 0 * inside])

    for name, (layout, scale, change) in STRUCTURES.items():
        own = np.random.default_rng(rng.integers(2 ** 32))      # so that one structure does not move the next
        if strength[name] < 0.05:
            continue
        if layout in ("net", "spots"):
            cells = honeycomb(own, x, y, scale * own.uniform(0.8, 1.25), patch)
            where = smoothstep(0.45 - 1.6 * cells) if layout == "net" else smoothstep(3 * cells - 0.9)
            where = where * smoothstep(1.1 + (0.3 + 2 * wobble) * waves(own, x, y, 4, 15, 8))     # with gaps
        elif layout == "lines":                     # where a noise passes through zero
            where = np.exp(-np.square(waves(own, x, y, 2 / scale, 8 / scale, 12) / 0.16))
        else:
            far = radius * own.uniform(0.3, 0.7) * (layout == "patch")
            at = own.uniform(0, 2 * np.pi)
            gap = np.hypot(x - far * np.cos(at), y - far * np.sin(at))
            where = smoothstep((radius * scale * own.uniform(0.7, 1.3) * (1 + 0.35 * patch) - gap) / 0.15 + 0.5)
        maps += strength[name] * np.float32(change)[:, None, None] * (inside * where)
    return np.maximum(maps, 0)


def add_artefacts(rng, image, px, py, odds):
    """What is in the picture but not of the lesion, drawn without knowing the class."""
    on = {name: rng.random() < chance for name, chance in odds.items()}
    far = np.hypot(px, py)
    if on["hair"]:
        heading = rng.uniform(0, np.pi)
        for _ in range(rng.integers(1, 9)):
            turn, offset, curve = heading + rng.normal(0, 0.5), rng.uniform(-0.9, 0.9), rng.normal(0, 0.25)
            along, off = px * np.cos(turn) + py * np.sin(turn), py * np.cos(turn) - px * np.sin(turn)
            strand = np.exp(-np.square((off - offset - curve * along ** 2) / 0.016))
            image = image * (1 - 0.8 * strand[..., None])
    if on["ruler"]:
        ticks = (np.mod(py / rng.uniform(0.1, 0.16), 1) < 0.2) & (px > 0.86)
        image = image * (1 - 0.7 * np.rot90(ticks, rng.integers(4))[..., None])
    if on["vignette"]:
        image = image * (1 - 0.2 * far ** 2)[..., None]
    if on["corners"]:                               # the dark rim of the dermoscope
        image = image * (1 - 0.95 * smoothstep((far - 1.08) / 0.08))[..., None]
    return image


def draw_lesion(label, lesion, view, seed=0, size=64, odds=ARTEFACTS):
    """One picture, uint8 (size, size, 3): view number `view` of lesion number `lesion`, of class `label`."""
    rng = np.random.default_rng([seed, lesion])             # of the lesion and its skin: the same in all views
    picture = np.random.default_rng([seed, lesion, view + 1])
    line = np.float32((np.arange(size) + 0.5) * 2 / size - 1)
    px, py = np.meshgrid(line, line)
    angle, zoom, (left, up) = picture.uniform(0, 2 * np.pi), np.exp(picture.normal(0, 0.12)), picture.normal(0, 0.07, 2)
    x = np.float32(zoom * (np.cos(angle) * px - np.sin(angle) * py) + left)
    y = np.float32(zoom * (np.sin(angle) * px + np.cos(angle) * py) + up)

    maps = pigment(rng, label, x, y)
    rough = rng.uniform(0.4, 1.5)
    maps[0] += (0.05 + 0.6 * rng.beta(1.2, 3)) * (1 + 0.15 * rough * waves(rng, x, y, 4, 90))     # the skin
    maps[1] += rng.uniform(0.1, 0.38) * (1 + 0.15 * rough * waves(rng, x, y, 3, 60))
    image = np.exp(-np.moveaxis(maps[:3], 0, -1) @ ABSORB)
    image += np.minimum(maps[3], 0.85)[..., None] * (WHITE - image)

    image = image * np.float32(picture.uniform(0.9, 1.1) * (1 + picture.normal([0, -0.01, 0.03], 0.04)))  # light
    image = add_artefacts(picture, image, px, py, odds)
    image = image + picture.normal(0, 0.01, (size, size, 1))            # the camera's noise
    return np.uint8(np.clip(image, 0, 1) * 255)


def built_in(n, size=64, seed=0):
    """The first n drawn lesions: an image set of 8 classes, 1 to 3 views of each lesion."""
    where = [(3 * (k // 6) + VIEWS[k % 6][0], VIEWS[k % 6][1]) for k in range(n)]     # independent of n
    labels = np.array([lesion % len(EIGHT) for lesion, _ in where], np.int64)
    progress, images = jobs.Progress("drawing lesions", n), np.empty((n, size, size, 3), np.uint8)
    for k, (lesion, view) in enumerate(where):
        images[k] = draw_lesion(labels[k], lesion, view, seed, size)
        progress(k + 1)
    groups = np.array([f"lesion{lesion:05d}" for lesion, _ in where])
    ids = np.array([f"lesion{lesion:05d}_{view}" for lesion, view in where])
    return ImageSet(images, labels, EIGHT, ids, groups, np.full(n, "", "U5"),
                    dict(source=f"drawn lesions (n {n}, seed {seed})"))


# ---- Batches on the device ------------------------------------------------------------------------------

def to_tensor(images, device="cpu"):
    """uint8 (n, h, w, 3) array -> uint8 (n, 3, h, w) tensor on the device, where the whole set stays."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def scaled(pixels):
    """uint8 [0, 255] -> float32 [-1, 1], the range of the generators' tanh."""
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(images):
    """float (n, 3, h, w) in [-1, 1] -> uint8 (n, h, w, 3) array."""
    return images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


class Batches:
    """Endless shuffled batches. Batch `position` depends on (seed, position) alone, so a resumed training
    needs only its position. Every epoch is a fresh permutation without its last, incomplete batch."""

    def __init__(self, images, batch, seed, device, single=False):
        if batch == 1 and not single:
            raise UserError("--batch 1: BatchNorm needs at least 2 images")
        if len(images) < batch:
            raise UserError(f"{len(images)} images are too few for --batch {batch}")
        self.pixels = to_tensor(images.images, device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.batch, self.seed, self.per_epoch = batch, seed, len(images) // batch
        self.position, self.epoch = 0, None

    def next(self):
        """(uint8 (batch, 3, h, w), int64 (batch,))"""
        epoch, k = divmod(self.position, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.labels), generator=generator).to(self.labels.device)
            self.epoch = epoch
        chosen = self.order[k * self.batch:(k + 1) * self.batch]
        self.position += 1
        return self.pixels[chosen], self.labels[chosen]

    def state_dict(self):
        return dict(position=self.position)

    def load_state_dict(self, state):
        self.position = state["position"]


def augment(x, flip=True, rotate=180.0, zoom=0.1, shift=0.05, shear=0.0, brightness=0.1):
    """Classical augmentation of a batch on its device: a random affine map and brightness for each image.

    x: float (n, 3, h, w) in [-1, 1]. rotate, shear: largest angle, degrees; the others: largest fraction.
    """
    def uniform(limit):
        return (torch.rand(len(x), device=x.device) * 2 - 1) * limit

    angle, slant = torch.deg2rad(uniform(rotate)), torch.tan(torch.deg2rad(uniform(shear)))
    scale = 1 + uniform(zoom)
    mirror = torch.ones(len(x), device=x.device)
    if flip:
        mirror = torch.where(uniform(1) < 0, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos * mirror, slant * cos - sin, 2 * uniform(shift)], 1),
            torch.stack([sin * mirror, slant * sin + cos, 2 * uniform(shift)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return ((x + 1) * (1 + uniform(brightness)).view(-1, 1, 1, 1) - 1).clamp(-1, 1)


def save_grid(path, images, columns=8):
    """uint8 (n, side, side, 3) as one PNG, row by row."""
    n, side = images.shape[:2]
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    sheet = np.full((rows * columns, side + 1, side + 1, 3), 255, np.uint8)
    sheet[:n, :side, :side] = images
    sheet = sheet.reshape(rows, columns, side + 1, side + 1, 3).swapaxes(1, 2)
    picture = Image.fromarray(sheet.reshape(rows * (side + 1), columns * (side + 1), 3))
    with jobs.replacing(path) as file:
        picture.save(file, "PNG")


# ---- Command line ---------------------------------------------------------------------------------------

def gather(args, size):
    """The images that `prepare` was asked for, `size` px wide; info says what is a stand-in."""
    classes, binary, stand_in = None, args.binary, None
    folder = Path(args.source or ".")
    if args.study:
        classes = STUDIES[args.study][0]
        binary = classes == TWO
        if args.source:
            folder, stand_in = find_set(folder, args.study)
    options = dict(classes=classes, binary=binary, limits=dict(args.limit), seed=args.seed)

    if args.source and not folder.exists():
        raise UserError(f"{folder} does not exist: give a folder or a zip of photographs, or --built-in N")
    if args.source:
        rows = read_rows(folder, args.zeros)
        images = decoded(folder, choose(rows, **options), size, args.skip_bad)
    else:
        images = built_in(args.built_in, size, args.seed)
        rows = [Row(k, images.classes[label], group, "") for k, (label, group)
                in enumerate(zip(images.labels, images.groups))]
        chosen = choose(rows, **options)
        names, labels = np.unique([row.label for row in chosen], return_inverse=True)
        images = replace(images.take([row.name for row in chosen]), labels=labels, classes=names.tolist())
    if args.resplit:
        images = replace(images, split=np.full(len(images), "", "U5"))
    return replace(images, info=images.info | dict(stand_in=stand_in))


def prepare(args):
    """Decode a set once, split it by lesion, and write it as images.npz, the folder of a job."""
    if bool(args.source) == bool(args.built_in):
        raise UserError("prepare: give either a folder of photographs or --built-in N")
    out, begun = Path(args.out), time.time()
    images = gather(args, 2 * args.size if args.enhance else args.size)
    if args.enhance:
        before, images = images, replace(images, images=enhance(images.images))
        shown = np.concatenate([before.images[:8], images.images[:8]])
        save_grid(out / "before_after.png", shown)
        images = resized(images, args.size)
    images = with_split(images, args.val, args.test, args.seed)
    near = near_test(images)
    if args.drop_near:
        images = images.take(~near)
    images.info["near_test"] = int(near.sum())

    keys = ("study", "size", "val", "test", "resplit", "limit", "enhance", "drop_near", "seed")
    config = {key: vars(args)[key] for key in keys} | dict(command="prepare", data=images.fingerprint())
    if jobs.start_job(out, config):
        return
    train = images.part("train")
    pictures = [train.of_class(name).images[:8] for name in images.classes]
    save_grid(out / "grid.png", np.concatenate([some for some in pictures if len(some) == 8] or pictures))
    torch.manual_seed(args.seed)
    turned = augment(scaled(to_tensor(train.images[:1].repeat(16, 0))), zoom=0, shift=0, shear=10, brightness=0)
    save_grid(out / "augmented.png", to_uint8(turned))
    images.save(out / "images.npz")
    parts = [part for part in ("train", "val", "test") if part in images.split]
    counts = {part: images.part(part).counts() for part in parts}
    jobs.finish_job(out, config, time.time() - begun, "cpu", counts=counts, source=images.info,
                    lesions=len(set(images.groups)), drop_near=args.drop_near)

    for part, count in counts.items():
        print(f"{part:6} {sum(count.values()):6}  " + "  ".join(f"{name} {n}" for name, n in count.items()))
    print(f"{out}: {len(images)} images of {len(set(images.groups))} lesions. Dropped: {images.info['dropped']} "
          f"images whose lesion or picture is also in a later part. Near copies of test images: {near.sum()}"
          f"{', dropped' if args.drop_near else ' (--drop-near leaves them out)'}")
    if images.info["stand_in"]:
        print(f"stand-in: {images.info['stand_in']}")


def class_limit(text):
    """An argparse type: CLASS=N."""
    name, _, number = text.rpartition("=")
    if not name or not number.isdecimal():
        raise jobs.argparse.ArgumentTypeError(f"{text} is not of the form CLASS=N")
    return name, int(number)


def main():
    parser = jobs.Parser(prog="data.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    share, count = jobs.at_least(0, float), jobs.at_least(1)

    p = commands.add_parser("lesions", help="draw lesions")
    p.set_defaults(function=lambda args: built_in(args.n, args.size, args.seed).save(args.out))
    p.add_argument("--n", type=count, default=80, help="number of pictures (default %(default)s)")
    p.add_argument("--size", type=jobs.at_least(8), default=64, help="side in pixels (default %(default)s)")
    p.add_argument("--seed", type=jobs.at_least(0), default=0)
    p.add_argument("--out", required=True, help="a file ending in .npz, or a new folder for PNG files")

    p = commands.add_parser("prepare", help="decode a set, split it by lesion", description=prepare.__doc__)
    p.set_defaults(function=prepare)
    p.add_argument("source", nargs="?", help="class folders, images with a csv, or a zip")
    p.add_argument("--built-in", type=count, metavar="N", help="N drawn lesions instead of photographs")
    p.add_argument("--for", dest="study", choices=STUDIES, help="the set and the classes of this study")
    p.add_argument("--binary", action="store_true", help="two classes, benign and malignant")
    p.add_argument("--size", type=jobs.at_least(8), default=64, help="side in pixels (default %(default)s)")
    p.add_argument("--val", type=share, default=0.1, help="share for validation (default %(default)s)")
    p.add_argument("--test", type=share, default=0.2, help="share for test, or images per class, if the set has no test part")
    p.add_argument("--resplit", action="store_true", help="forget the split that comes with the set")
    p.add_argument("--limit", type=class_limit, nargs="+", default=[], metavar="CLASS=N",
                   help="at most N images of this class, whole lesions")
    p.add_argument("--drop-near", action="store_true", help="leave out near copies of test images")
    p.add_argument("--enhance", action="store_true", help="bilateral filter and gamma 1.5 (paper 001)")
    p.add_argument("--zeros", metavar="CLASS", help="class of the rows that hold only zeros (ISIC: nevus)")
    p.add_argument("--skip-bad", action="store_true", help="go on without unreadable images")
    p.add_argument("--seed", type=jobs.at_least(0), default=0)
    p.add_argument("--out", required=True, help="folder for images.npz, grid.png and result.json")

    p = commands.add_parser("check", help="look for copies, wrong labels, leaks", description=check.__doc__)
    p.set_defaults(function=check)
    p.add_argument("source", help="a data set")
    p.add_argument("--zeros", metavar="CLASS", help="as for prepare")

    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
