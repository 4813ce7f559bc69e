"""data.py: images in, tensors out. Knows nothing of networks or metrics.

    python data.py lesions --n 960 --size 64 --out lesions.npz     built-in lesions, as one array file
    python data.py lesions --n 80 --size 128 --out lesions/        the same, as a class-per-folder tree of PNG
    python data.py prepare DIR --size 64 --out runs/data           a folder, zip or csv-labelled set, split by lesion
    python data.py prepare lesions --n 960 --out runs/data         the built-in lesions, split by lesion
    python data.py prepare DIR --for dermagan --out runs/data      the set that a study needs, found below DIR
    python data.py check DIR                                       copies, wrong labels, leaks, of every set below DIR
    python data.py download isic2019 --to DIR                      or kaggle_binary, ham10000, isic_archive

An image set is uint8 RGB images + labels + class names + image ids + lesion ids + split, in one .npz file or in a
tree [train|val|test/]CLASS/*.png. A job is one folder: config.json (what was asked), checkpoint.pt (how far it is)
and result.json (what came out; written last, so a job with a result.json is a finished job).
"""
import argparse
import base64
import collections
import contextlib
import csv
import errno
import fcntl
import functools
import hashlib
import http.client
import io
import itertools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("LESION_CACHE", Path.home() / ".cache" / "lesions"))   # decoded folders, one .npz each
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# Column names under which the public label files keep the same thing (HAM10000_metadata.csv, ISIC challenge csv, ours).
CSV_COLUMNS = dict(image=("image", "image_id", "isic_id", "filename"), label=("label", "dx", "diagnosis", "target"),
                   group=("lesion_id", "group"), split_by_lesion=("split_by_lesion",), split=("split",))

# What the sets call a class -> the name used here. HAM10000 files actinic keratosis (AK) under akiec, together with
# Bowen's disease, a carcinoma in situ.
ABBREVIATIONS = {"akiec": "AK", "actinic_keratosis": "AK", "basal_cell_carcinoma": "BCC", "dermatofibroma": "DF",
                 "pigmented_benign_keratosis": "BKL", "seborrheic_keratosis": "BKL", "melanoma": "MEL", "nevus": "NV",
                 "squamous_cell_carcinoma": "SCC", "vascular_lesion": "VASC"}
# The two-class papers: which diagnosis is malignant. AK, a precursor, is counted as malignant (our choice).
BINARY = dict.fromkeys(("AK", "BCC", "MEL", "SCC", "MALIGNANT"), "malignant") | dict.fromkeys(
    ("BKL", "DF", "NV", "VASC", "BENIGN"), "benign")

# The forms in which public sets lie on a disk: what layout_of looks for.
LAYOUTS = {
    "kaggle_binary": "train|test/benign|malignant (Kaggle's Skin Cancer: Malignant vs. Benign, 3,297 images)",
    "binary_folders": "train|test/benign|malignant with a table beside them",
    "isic_archive": "isic_archive/benign|malignant (16,194 images of the ISIC archive)",
    "two_folders": "benign|malignant (your own photographs)",
    "isic2019": "the ISIC 2019 ground truth and its images (25,331, 8 classes)",
    "ham10000": "HAM10000's table of diagnoses and its images (10,015, 7 classes)",
    "isic9": "train|test/melanoma|nevus|... (Kaggle's Skin Cancer ISIC, 2,357 images, 9 classes)"}
NOT_KAGGLE = "other images in the folders of Kaggle's Malignant vs. Benign"
OWN = "benign and malignant photographs of your own"
NINE = "Kaggle's Skin Cancer ISIC, with many pictures twice under two labels"
# What a study needs: its classes, and the layouts that serve it, the best one first, with None for the paper's own set,
# or what the stand-in is.
TWO, LESION_CLASSES = ["benign", "malignant"], ["AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC"]
SETS = {
    "wgan_gp": (TWO, {"kaggle_binary": None, "binary_folders": NOT_KAGGLE, "two_folders": OWN}),
    "dcgan_cls": (TWO, {"kaggle_binary": None, "binary_folders": NOT_KAGGLE, "two_folders": OWN}),
    "acgan_cyclegan": (LESION_CLASSES, {
        "isic2019": None, "ham10000": "HAM10000 instead of ISIC 2019: seven classes, no SCC", "isic9": NINE}),
    "dermagan": (["AK", "BCC", "BKL", "MEL"], {
        layout: "the paper's own 1,976 images are not published; instead: " + what
        for layout, what in (("isic2019", "ISIC 2019"), ("ham10000", "HAM10000"), ("isic9", NINE))}),
    "dcgan_inception": (TWO, {
        "isic_archive": None, "kaggle_binary": "Kaggle's 3,297 images instead of 16,194 of the ISIC archive",
        "binary_folders": NOT_KAGGLE + ", instead of 16,194 of the ISIC archive", "two_folders": OWN}),
    "controls": (TWO, dict.fromkeys(("isic2019", "isic_archive", "ham10000", "kaggle_binary", "binary_folders",
                                     "two_folders")))}

# --- Errors, files and jobs ------------------------------------------------------------------------------------------

LOCKS = {}                  # folder: its open lock file


class UserError(Exception):
    """Something the user can mend: ends in one line on standard error and exit status 2, without a traceback."""


class Parser(argparse.ArgumentParser):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message):
        words = itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:3])
        raise UserError(f"{message} (see python {' '.join([self.prog.split()[0], *words])} --help)")


def run_cli(main):
    """Run a command line; bad input and a full disk end in one clear line, Ctrl-C keeps what is saved."""
    try:
        return main()
    except UserError as problem:
        message, status = problem, 2
    except OSError as problem:
        message, status = f"cannot use {problem.filename}: {problem.strerror}", 2
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = (f"cannot write {problem.filename or 'the file'}: {problem.strerror}. Nothing finished is lost: "
                       "free some disk space and start again")
        elif problem.filename is None:
            raise
    except KeyboardInterrupt:
        message, status = "stopped. Start it again to go on from the last checkpoint", 130
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def replacing(path):
    """Open a file for writing that takes the place of `path` only when complete: a kill leaves the old one or none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        problem.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1, allow_nan=False).encode())


def open_run(out, config):
    """Start, continue or recognise the job in folder `out`. Returns its result.json if it is done, else None.

    Refused: a folder begun with another configuration, naming each difference, or at which another process is at work.
    """
    out, config = Path(out), json.loads(json.dumps(config))
    out.mkdir(parents=True, exist_ok=True)
    LOCKS.pop(out, None)
    LOCKS[out] = open(out / ".lock", "w")           # held until the process ends, however it ends
    try:
        fcntl.flock(LOCKS[out], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is at work in {out}: wait for it, or choose another --out") from None
    if not (out / "config.json").exists():
        write_json(out / "config.json", config)
    before = json.loads((out / "config.json").read_text())
    changed = [f"{key} {before.get(key)!r} -> {config.get(key)!r}"
               for key in sorted(before.keys() | config.keys()) if before.get(key) != config.get(key)]
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed)}. "
                        "Give the old ones, choose another --out, or delete the folder to start over.")
    if (out / "result.json").exists():
        print(f"{out}: done before, nothing to do")
        return json.loads((out / "result.json").read_text())


def save_weights(path, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)           # in memory first: on a full disk torch raises an error that does not say so
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_weights(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:                    # torch raises half a dozen types for a cut or foreign file
        raise UserError(f"{path} cannot be read as a checkpoint ({type(problem).__name__}). "
                        "Delete it to train again from the start.") from None


def check_finite(out, parts, step, *values):
    """Stop a run that has broken down: a value, or a weight of a network among `parts`, is not a finite number."""
    weights = [p for part in parts.values() if isinstance(part, torch.nn.Module) for p in part.parameters()]
    if not (np.isfinite(values).all() and all(p.isfinite().all() for p in weights)):
        raise UserError(f"{out}: the loss or a weight is not a number by step {step}. The last good checkpoint is "
                        "kept; a smaller --lr may help (in a new folder)")


def save_checkpoint(out, parts, **rest):
    """Everything that training needs to go on exactly where it is: the states of `parts` (networks, averages,
    optimisers), what else the loop keeps (`rest`: step, curves, ...) and the random states."""
    check_finite(out, parts, rest["step"])          # the last good checkpoint stays
    state = dict(rest, parts={name: part.state_dict() for name, part in parts.items()}, cpu_rng=torch.get_rng_state())
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    save_weights(Path(out) / "checkpoint.pt", state)


def load_checkpoint(out, parts):
    """Put the states of save_checkpoint back into `parts` and the random generators. Returns the rest, {} if none."""
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return {}
    state = load_weights(path)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["cpu_rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    print(f"{out}: going on from step {state['step']}")
    return state


def save_model(out, config, **weights):
    save_weights(Path(out) / "model.pt", dict(weights, config=json.dumps(config)))


def load_model(run, known):
    """(weights, config) of a finished job's model.pt; config["model"] must be among the `known` names."""
    file = Path(run) / "model.pt"
    if not file.exists():
        raise UserError(f"{file} does not exist: train first (`train MODEL --out {run}`)")
    saved = load_weights(file)
    config = json.loads(saved["config"])
    if config["model"] not in known:
        raise UserError(f"{run} is a {config['model']}, not one of {', '.join(known)}")
    return saved, config


def finish_run(out, config, seconds, device, **result):
    """Write result.json, the last act of a job, and drop the checkpoint that nobody needs any more."""
    try:
        commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True,
                                text=True).stdout.strip()
    except OSError:                                 # no git on this machine
        commit = ""
    versions = {name: sys.modules[name].__version__ for name in ("torch", "torchvision", "numpy", "scipy", "PIL")
                if name in sys.modules}
    threads = torch.get_num_threads()               # another number rounds differently
    command = shlex.join(["env", f"OMP_NUM_THREADS={threads}", "python", Path(sys.argv[0]).name, *sys.argv[1:]])
    device = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else (
        f"CPU {platform.machine()}, {threads} thread(s)")
    result = dict(config=config, **result, command=command, seconds=round(seconds, 1), device=device,
                  versions=dict(versions, python=platform.python_version()), commit=commit or "unknown")
    write_json(Path(out) / "result.json", result)
    (Path(out) / "checkpoint.pt").unlink(missing_ok=True)
    return result


def at_least(low, kind=int):
    """An argparse type: a number that is not below `low`."""
    def parse(text):
        if not kind(text) >= low:
            raise argparse.ArgumentTypeError(f"{text} is less than {low}")
        return kind(text)
    parse.__name__ = kind.__name__      # for argparse's own message: "invalid int value"
    return parse


def add_run_options(parser, recipe):
    """The options that every training command shares, after those of its recipe {name: (default, source)}."""
    for key, (value, source) in recipe.items():
        kind = at_least(1) if isinstance(value, int) else at_least(0, float)
        parser.add_argument("--" + key.replace("_", "-"), type=kind, default=value, help=f"{value:g}: {source}")
    parser.add_argument("--out", required=True, help="folder of this job")
    parser.add_argument("--size", type=at_least(8), default=64, help="side of the images in pixels (%(default)s)")
    parser.add_argument("--steps", type=at_least(1), help="optimiser (generator) steps, instead of --epochs")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights, batches and noise (%(default)s)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                        help="bf16: autocast of the networks, never of penalties and metrics (default %(default)s)")
    parser.add_argument("--stop-after", type=at_least(1), metavar="STEP", help="write a checkpoint there and stop")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--deterministic", action="store_true", help="the same bytes twice on one GPU too; slower")


def start_device(args):
    """The torch device of --device, with --deterministic and --seed in force."""
    known = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    name = known[0] if args.device == "auto" else args.device
    if name not in known:
        raise UserError(f"--device {name}: on this machine there is {' and '.join(known)}")
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    return torch.device(name)


class Progress:
    """One line on standard error every few seconds: how far, what the losses said last, how long it still takes."""

    def __init__(self, name, total, start=0, every=5.0):
        self.name, self.total, self.first, self.every, self.note = name, total, start, every, ""
        self.begun = self.shown = time.time()

    def __call__(self, step, note=""):
        self.note = note or self.note
        if time.time() - self.shown < self.every and not (step == self.total and self.shown > self.begun):
            return                                  # short work says nothing
        self.shown = time.time()
        left = (self.shown - self.begun) / max(step - self.first, 1) * (self.total - step)
        print(f"{self.name}  {step}/{self.total}  {self.note}  {readable_time(left)} left", file=sys.stderr, flush=True)


def readable_time(seconds):
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def in_threads(work, items, name):
    """[work(item) for item in items], on all cores, with a progress line."""
    progress, results = Progress(name, len(items)), []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(work, items):
            results.append(result)
            progress(len(results))
    return results


# --- The image set ---------------------------------------------------------------------------------------------------

COLUMNS = ("images", "labels", "ids", "groups", "split")        # what has one entry per image


def hash_of(raw):
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


@dataclass
class ImageSet:
    images: np.ndarray          # uint8 (n, height, width, 3), RGB
    labels: np.ndarray          # int64 (n,), index into classes
    classes: list               # class names
    ids: np.ndarray             # str (n,), one per image
    groups: np.ndarray          # str (n,), lesion id: all pictures of a lesion must stay on one side of a split
    split: np.ndarray = None    # str (n,): "train", "val", "test", or "" where nothing is decided
    info: dict = field(default_factory=dict)   # where the images come from; for GAN samples, the run that made them

    def __post_init__(self):
        if self.split is None:
            self.split = np.full(len(self.images), "", dtype="U5")

    def __len__(self):
        return len(self.images)

    def take(self, which):
        """The images that `which` (indices or a mask) selects, as an image set of its own."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def part(self, name):
        """The images of one part of the split: "train", "val" or "test"."""
        chosen = self.take(self.split == name)
        if not len(chosen):
            raise UserError(f"the image set {self.info.get('source', '')} has no images marked {name!r}; make it with "
                            "`python data.py prepare`, with a larger --val or --test if it has been")
        return chosen

    def of_class(self, name):
        if name not in self.classes:
            raise UserError(f"no class {name!r}: the classes are {', '.join(map(repr, self.classes))}")
        return self.take(self.labels == self.classes.index(name))

    def counts(self):
        return {name: int((self.labels == k).sum()) for k, name in enumerate(self.classes)}

    def digests(self):
        """One short hash per image, over its pixels: equal pictures have equal digests, whatever they are called."""
        return [hash_of(image.tobytes()) for image in self.images]

    def share(self, share):
        """This share of each class, by lesion in a fixed random order, so that a larger share holds a smaller one. All
        lesions are whole but perhaps the last of each class."""
        lots = np.array([hash_of(str(group).encode()) for group in self.groups])
        order = np.argsort(lots, kind="stable")
        by_class = [order[self.labels[order] == k] for k in range(len(self.classes))]
        return self.take(np.sort(np.concatenate([mine[:round(share * len(mine))] for mine in by_class])))

    def fingerprint(self):
        """One hash of everything that decides a result: pixels, labels, class names and the split."""
        parts = zip(self.digests(), (self.classes[k] for k in self.labels), self.groups, self.split)
        return hash_of(repr([tuple(map(str, p)) for p in parts]).encode())

    def save(self, path):
        """Write one .npz file, or, for a path without that ending, a tree [split/]CLASS/id.png and an info.json."""
        path = Path(path)
        if path.suffix == ".npz":
            columns = {name: getattr(self, name) for name in COLUMNS}
            with replacing(path) as file:
                np.savez(file, **columns, classes=np.array(self.classes), info=json.dumps(self.info))
            return
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty: choose a new folder, so that old and new images do not mix")
        for image, label, name, part in zip(self.images, self.labels, self.ids, self.split):
            with replacing(path / str(part) / self.classes[label] / f"{str(name).replace('/', '_')}.png") as file:
                Image.fromarray(image).save(file, "PNG")
        write_json(path / "info.json", self.info)


def mix(real, *more):
    """Image sets joined into one (a real training set and the GAN's images, say). Classes go by name, not by number."""
    sets = [real]
    for other in more:
        if set(other.classes) - set(real.classes):
            raise UserError(f"cannot mix {other.info.get('source', 'a set')}: its classes {', '.join(other.classes)} "
                            f"are not among {', '.join(real.classes)}")
        if other.images.shape[1:] != real.images.shape[1:]:
            raise UserError(f"cannot mix images of {other.images.shape[1]} px with images of {real.images.shape[1]} px")
        translate = np.array([real.classes.index(name) for name in other.classes])
        sets.append(replace(other, labels=translate[other.labels]))
    return replace(real, info=dict(real.info, mixed_with=[other.info.get("source", "") for other in more]),
                   **{name: np.concatenate([getattr(some, name) for some in sets]) for name in COLUMNS})


# --- Reading folders, zip archives and csv-labelled sets -------------------------------------------------------------

def load(path, size=None, skip_bad=False):
    """An image set from an .npz file, a job's folder, a class-per-folder tree, a zip of one, or a csv-labelled folder.

    size: pixels of the side, shorter side scaled and centre crop (bicubic); needed for anything but an .npz.
    """
    path, made = Path(path), array_file(path)
    if not made:
        files = find_images(path)
        return decoded(path, files, read_labels(path, files), size, skip_bad)
    try:
        with np.load(made, allow_pickle=False) as file:
            images = ImageSet(**{name: file[name] for name in COLUMNS}, info=json.loads(str(file["info"])),
                              classes=[str(name) for name in file["classes"]])
        if images.images.dtype != np.uint8 or images.images.shape[3:] != (3,) or not (
                set(images.labels.tolist()) <= set(range(len(images.classes)))):
            raise ValueError("images must be uint8 (n, height, width, 3), labels indices into classes")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise UserError(f"{made} is not an image set of this project ({problem})") from None
    return resized(images, size)


def array_file(path):
    """The .npz of an image set: `path` itself, or that of a job's folder; None where there are image files instead."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give an image set (.npz), a folder or a .zip")
    for name in ("images.npz", "samples.npz"):
        if (path / name).exists():                                # the folder of a `prepare` or a GAN job
            return path / name
    if (path / "config.json").exists():
        raise UserError(f"{path} is a job that has not made its images yet: finish it first")
    return path if path.suffix == ".npz" else None


def find_images(path, layout=None):
    """Every image below a folder, in a zip, or in a zip lying in the folder: {name: function giving its bytes}.
    With one of LAYOUTS: without what else lies in the folder (Kaggle packs train/ twice)."""
    files = {}
    for archive in [path] if path.is_file() else sorted(path.glob("*.zip")):
        try:
            members = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError):
            raise UserError(f"{archive} is neither a readable zip archive nor a folder") from None
        where = "" if path.is_file() else archive.stem + "/"      # two archives may use the same names
        files.update({where + name: functools.partial(members.read, name) for name in sorted(members.namelist())})
    files.update({file.relative_to(path).as_posix(): file.read_bytes for file in sorted(path.rglob("*"))})
    files = {name: read for name, read in files.items() if name.lower().endswith(IMAGE_SUFFIXES)
             and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))}
    if not files:
        raise UserError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    tops = dict(kaggle_binary=("train", "test"), binary_folders=("train", "test"), isic9=("train", "test"),
                isic_archive=("benign", "malignant"), two_folders=("benign", "malignant")).get(layout)
    return {name: read for name, read in files.items() if not tops or name.lower().split("/")[0] in tops}


def read_tables(folder):
    """The csv files of a set that name images: [(file, rows {image|label|group|split|split_by_lesion: text}, classes)].
    They lie beside the images or, as ISIC's archives unpack, in X/X.csv; ISIC has a column of 0.0 and 1.0 per class."""
    tables = []
    for table in sorted([*folder.glob("*.csv"), *(f for f in folder.glob("*/*.csv") if f.stem == f.parent.name)]):
        with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            column = {key: next((name for name in names if name in header), None) for key, names in CSV_COLUMNS.items()}
            try:
                rows = list(reader) if column["image"] else []
            except csv.Error as problem:
                raise UserError(f"{table}: not readable as csv after line {reader.line_num} ({problem})") from None
        if not rows:
            if table.name == "labels.csv" and header:
                raise UserError(f"{table} has no column image, or no row (columns: {', '.join(header)})")
            continue
        plain = [{key: (row[name] or "") if name else "" for key, name in column.items()} for row in rows]
        classes = {row["label"] for row in plain}
        if not column["label"]:
            classes = {name for name in header if all(row[name] in ("0", "0.0", "1", "1.0") for row in rows)}
            for row, new in zip(rows, plain):
                new["label"] = next((name for name in header if name in classes and float(row[name])), "")
        tables.append((table, plain, classes))
    return tables


def read_labels(path, files, split_columns=("split_by_lesion", "split")):
    """[(name, class, lesion, split)] of the images: from a csv beside them, else from the folder names. The lesions may
    stand in a table of their own, as in the ISIC challenges."""
    tables = read_tables(path) if path.is_dir() else []
    lesions = {row["image"]: row["group"] for _, rows, _ in tables for row in rows if row["group"]}
    for table, rows, classes in tables:
        if classes:
            column = next((name for name in split_columns if any(row[name] for row in rows)), split_columns[-1])
            return match_rows(table, rows, column, files, lesions)
    listed = []
    for name in files:
        *_, above, parent, _ = ["", ""] + name.split("/")
        lesion = next((lesions[key] for key in names_of(name) if key in lesions), name)
        listed.append((name, parent or "unlabelled", lesion, SPLIT_NAMES.get(above.lower(), "")))
    classes = {(path / name).parent for name in files if "/" in name and path.is_dir()}
    for folder in sorted({folder for used in classes for folder in used.parent.iterdir() if folder.is_dir()}):
        if not folder.name.startswith((".", "__")) and not any(used.is_relative_to(folder) for used in classes):
            raise UserError(f"{folder} is an empty class: put images into it or remove the folder")
    return listed


def names_of(name):
    """How a table may call an image: by its path, its file name or its stem."""
    return name, Path(name).name, Path(name).stem


def match_rows(table, rows, column, files, lesions):
    by_name = collections.defaultdict(set)
    for name in files:
        for key in names_of(name):
            by_name[key].add(name)
    listed, used = [], set()
    for number, row in enumerate(rows, start=2):
        found = by_name.get(row["image"], set())
        problem = ("there is no image" if not found else "several files are called" if len(found) > 1 else
                   "listed before:" if found <= used else "" if row["label"] else "no label for")
        if problem:
            raise UserError(f"{table} line {number}: {problem} {row['image']!r}")
        used |= found
        [name] = found
        group = lesions.get(row["image"], name)     # without a lesion id: a lesion of its own
        listed.append((name, row["label"], group, SPLIT_NAMES.get(row[column].lower(), "")))
    return listed


def open_rgb(raw, side):
    """Bytes of an image file -> RGB picture: EXIF rotation applied, any mode, transparency on white."""
    with Image.open(io.BytesIO(raw)) as image:
        image.draft("RGB", (side, side))    # faster: a large JPEG at 1/2, 1/4 or 1/8, both sides still above `side` px
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":                                 # 16-bit, 32-bit and float grey: to 8 bit
            grey = np.asarray(image, np.float64)
            grey = grey * 255 / (1 if grey.max() <= 1 else 255 if grey.max() <= 255 else 65535)
            image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def decode(raw, size):
    """Bytes of an image file -> uint8 (size, size, 3): shorter side to `size`, centre crop."""
    return np.asarray(ImageOps.fit(open_rgb(raw, 2 * size), (size, size), Image.Resampling.BICUBIC))


def of_each(work, files, names, title):
    """[work(bytes) for each of the named files]; the reason, a text, for one that cannot be read."""
    def one(name):
        try:
            return work(files[name]())
        except Exception as problem:                # Pillow raises a dozen types for broken files
            return str(problem).split(" <")[0] or type(problem).__name__

    return in_threads(one, names, title)


def decoded(path, files, listed, size, skip_bad=False):
    """The `listed` images among `files` as an image set, from the cache (LESION_CACHE, default ~/.cache/lesions) where
    the same files were decoded before."""
    if size is None:
        raise UserError(f"{path} holds image files: give --size, the side in pixels to decode them to")
    on_disk = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in [path, *path.rglob("*")] if f.is_file()]
    stamp = repr((sorted(on_disk), listed, size, skip_bad))
    cached = CACHE / f"{path.name}_{size}_{hash_of(stamp.encode())}.npz"
    if cached.exists():
        return load(cached)
    results = of_each(lambda raw: decode(raw, size), files, [row[0] for row in listed], f"decoding {path.name}")
    bad = [f"{row[0]} ({result})" for row, result in zip(listed, results) if isinstance(result, str)]
    if bad and not skip_bad:
        raise UserError(f"{path}/{bad[0]}: unreadable image{f', and {len(bad) - 1} more' if len(bad) > 1 else ''}. "
                        "Repair or remove it, or make the set with `python data.py prepare --skip-bad`")
    if bad:
        print(f"skipped {len(bad)} unreadable: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}", file=sys.stderr)
    good = [(picture, *row) for picture, row in zip(results, listed) if not isinstance(picture, str)]
    if not good:
        raise UserError(f"{path}: none of its {len(listed)} images can be read")
    pictures, *columns = zip(*good)
    names, labels, groups, split = map(np.array, columns)
    classes, labels = np.unique(labels, return_inverse=True)
    kept = path / "info.json"
    info = json.loads(kept.read_text()) if kept.exists() else dict(source=path.name)      # GAN samples say their run
    images = ImageSet(np.stack(pictures), labels, classes.tolist(), names, groups, split.astype("U5"),
                      dict(info, skipped=len(bad)))
    images.save(cached)
    return images


# --- Preprocessing: which set, which images, which classes; scaling and enhancing ------------------------------------

def folders_below(root, depth=3):
    """`root` and the folders below it, nearest first; without hidden ones, jobs, and augmented copies of a set."""
    level = [Path(root)]
    for _ in range(depth + 1):
        yield from level
        level = sorted(inner for folder in level for inner in folder.iterdir() if inner.is_dir() and not (
            inner.name.startswith((".", "__")) or "augment" in inner.name.lower() or (inner / "config.json").exists()))


def layout_of(folder):
    """Which of LAYOUTS a folder has, or None."""
    inside = {f"{part.name}/{name.name}".lower().replace(" ", "_") for part in folder.iterdir() if part.is_dir()
              and part.name.lower() in ("train", "test") for name in part.iterdir() if name.is_dir()}
    if {"train/benign", "train/malignant", "test/benign", "test/malignant"} <= inside:
        return "binary_folders" if any(folder.glob("*.csv")) else "kaggle_binary"
    if {"train/melanoma", "train/nevus", "train/basal_cell_carcinoma"} <= inside:
        return "isic9"
    if (folder / "benign").is_dir() and (folder / "malignant").is_dir():
        return "isic_archive" if folder.resolve().name == "isic_archive" else "two_folders"
    try:
        classes = {name.lower() for _, _, names in read_tables(folder) for name in names}
    except UserError:                               # a broken table: whoever reads the set will say so
        return None
    if classes >= {"mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc"}:
        return "isic2019"
    return "ham10000" if classes >= {"mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"} else None


def find_set(root, wanted):
    """(folder, layout) of the first of the `wanted` layouts that lies at or below `root`."""
    if not Path(root).is_dir():
        raise UserError(f"{root} is not a folder: give the one that the data sets lie in, unpacked")
    found = {layout_of(folder): folder for folder in reversed(list(folders_below(root)))}     # the nearest comes last
    for layout in wanted:
        if layout in found:
            return found[layout], layout
    get = " or ".join(layout for layout in wanted if layout in DOWNLOADS)
    raise UserError(f"{root} holds none of: {'; '.join(LAYOUTS[layout] for layout in wanted)}. "
                    f"Get it with python data.py download {get} --to {root}")


def class_name(name, binary=False):
    """A class name as the studies write it: "akiec" is AK, unknown ones in capitals; binary: benign or malignant."""
    key = name.strip().lower().replace(" ", "_")
    short = ABBREVIATIONS.get(key, key.upper())
    if binary and short not in BINARY:
        raise UserError(f"cannot tell whether class {name} is benign or malignant: rename it, or list it in data.py")
    return BINARY[short] if binary else short


def to_binary(images):
    """The same images under two classes, benign and malignant (BINARY above)."""
    numbers = np.array([TWO.index(class_name(name, binary=True)) for name in images.classes])
    return replace(images, labels=numbers[images.labels], classes=TWO)


def choose(listed, classes=None, binary=False, limits=(), resplit=False, seed=0):
    """What `prepare` takes of a list of (name, class, lesion, split): the same tuples, fewer, and {class: left out}.

    classes: those to keep, under the names of this project (None: all, as they are called); binary: two classes;
    limits: {class: n}, at most n images, whole lesions, at random by `seed`; resplit: forget the split of the set.
    """
    listed = [(name, class_name(label, binary) if classes or binary else label, lesion, "" if resplit else part)
              for name, label, lesion, part in listed]
    present = collections.Counter(label for _, label, _, _ in listed)
    unknown = set(limits) - set(present)
    if unknown:
        raise UserError(f"--limit {min(unknown)}: the classes are {', '.join(sorted(present))}")
    room = {label: limits.get(label, n) for label, n in present.items() if not classes or label in classes}
    sizes = collections.Counter((label, lesion) for _, label, lesion, _ in listed)
    taken, lesions = set(), sorted(sizes)
    for k in np.random.default_rng(seed).permutation(len(lesions)):
        label, size = lesions[k][0], sizes[lesions[k]]
        if size <= room.get(label, 0):
            taken.add(lesions[k])
            room[label] -= size
    listed = [row for row in listed if (row[1], row[2]) in taken]
    if not listed:
        raise UserError("no image is left: look at --limit and at the classes of the set")
    return listed, dict(present - collections.Counter(label for _, label, _, _ in listed))


def resized(images, size):
    if size is None or len(images) == 0 or images.images.shape[1] == size:
        return images
    print(f"scaling {len(images)} images from {images.images.shape[1]} to {size} px", file=sys.stderr)
    pictures = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images.images]
    return replace(images, images=np.stack(pictures))


def bilateral(images, d=9, sigma_color=75.0, sigma_space=75.0):
    """Smoothing that keeps edges: uint8 (n, h, w, 3) -> the same shape.

    A pixel becomes the mean of its neighbours within d // 2 pixels, weighted by exp(-distance^2 / 2 sigma^2) in space
    and in colour (|dR| + |dG| + |dB|); mirrored at the border. Equals OpenCV's bilateralFilter to one grey level.
    """
    r, (_, h, w, _) = d // 2, images.shape
    by_colour = np.exp(-0.5 * (np.arange(3 * 256) / sigma_color) ** 2).astype(np.float32)
    # A weight belongs to a pair of pixels, so half of the neighbours is enough: each weight is used from both ends.
    half = [(dy, dx) for dy in range(r + 1) for dx in range(-r, r + 1)
            if (dy, dx) > (0, 0) and dy ** 2 + dx ** 2 <= r ** 2]

    def one(image):
        here = np.pad(image, ((r, r), (r, r), (0, 0)), "reflect").transpose(2, 0, 1).copy()
        total, weight = here.astype(np.float32), np.ones(here.shape[1:], np.float32)
        for dy, dx in half:
            there, back = np.roll(here, (-dy, -dx), (1, 2)), np.roll(here, (dy, dx), (1, 2))
            distance = (np.maximum(here, there) - np.minimum(here, there)).sum(0, dtype=np.uint16)
            pair = by_colour[distance] * np.float32(np.exp(-0.5 * (dy ** 2 + dx ** 2) / sigma_space ** 2))
            total += pair * there
            weight += pair
            pair = np.roll(pair, (dy, dx), (0, 1))
            total += pair * back
            weight += pair
        mean = np.rint(total / weight).astype(np.uint8)
        return mean[:, r:r + h, r:r + w].transpose(1, 2, 0)

    return np.stack(in_threads(one, images, "bilateral filter"))


def enhance(images, gamma=1.5):
    """Paper 001: bilateral filter (not stated; OpenCV's usual d 9, sigmas 75), then O = I^(1 / gamma), I in [0, 1]."""
    curve = np.rint(255 * (np.arange(256) / 255) ** (1 / gamma)).astype(np.uint8)
    return curve[bilateral(images)]


# --- Checking sets: copies, wrong labels, leaks ----------------------------------------------------------------------

def sets_below(root):
    """The data sets at or below a folder: csv-labelled ones, class-per-folder trees, folders of images or of zips."""
    def holds(folder, suffixes=IMAGE_SUFFIXES):
        return any(file.suffix.lower() in suffixes for file in folder.iterdir() if file.is_file())

    found = []
    for folder in folders_below(root):
        classes = [part for part in folder.iterdir() if part.is_dir() and not holds(part, (".csv",))]
        classes += [name for part in classes if part.name.lower() in SPLIT_NAMES for name in part.iterdir()
                    if name.is_dir()]
        if not any(outer in folder.parents for outer in found) and (
                holds(folder, (*IMAGE_SUFFIXES, ".zip")) or any(map(holds, classes)) or layout_of(folder)):
            found.append(folder)
    return found


def look_at(raw):
    """(width, height, digest of the RGB pixels, dHash) of an image file."""
    with Image.open(io.BytesIO(raw)) as image:
        width, height = image.size
    picture = open_rgb(raw, 256)
    return width, height, hash_of(picture.tobytes() + str(picture.size).encode()), dhash(picture)


def dhash(picture):
    """64 signs, float32 -1 or 1: does each pixel of a 9x8 grey thumbnail of a Pillow image get brighter to the right?
    The thumbnail is not rounded, so that no sign hangs on a tie."""
    grey = np.asarray(picture.convert("L").convert("F").resize((9, 8), Image.Resampling.LANCZOS))
    return np.where(np.diff(grey) > 0, np.float32(1), np.float32(-1)).ravel()


def near_pairs(signs, most=2, chunk=2048):
    """(a, b), a < b: the pairs of rows of `signs` (n, 64; -1 or 1) that differ in at most `most` places."""
    pairs = []
    for start in range(0, len(signs), chunk):
        a, b = np.nonzero(signs[start:start + chunk] @ signs[start:].T >= signs.shape[1] - 2 * most)
        pairs.append(np.stack([a, b])[:, a < b] + start)
    return np.concatenate(pairs, 1)


def near_test(images):
    """Mask of the training and validation images whose dHash differs from a test image's in at most 2 bits."""
    a, b = near_pairs(np.stack([dhash(Image.fromarray(image)) for image in images.images]))
    test, near = images.split == "test", np.zeros(len(images), bool)
    near[np.concatenate([a[test[b] & ~test[a]], b[test[a] & ~test[b]]])] = True
    return near


def examine(folder):
    """What `check` finds in one set, as a dictionary. Near pairs include the equal ones."""
    layout = layout_of(folder)
    report = dict(layout=layout, studies={study: layouts[layout] or "the set itself" for study, (_, layouts)
                                          in SETS.items() if layout in layouts})
    splits = {}             # the part of each image: its column; a table may hold two splits, folders make one
    try:
        files = find_images(folder, layout)
        for column in ("split_by_lesion", "split"):
            listed = read_labels(folder, files, [column])
            splits[tuple(row[3] or "all" for row in listed)] = column
    except UserError as problem:
        return dict(report, problem=str(problem))
    if len(splits) == 2:
        splits = {parts: column for parts, column in splits.items() if set(parts) != {"all"}}
    seen = of_each(look_at, files, [row[0] for row in listed], f"checking {folder.name}")
    report["unreadable"] = {row[0]: one for row, one in zip(listed, seen) if isinstance(one, str)}
    good = [k for k, one in enumerate(seen) if not isinstance(one, str)]
    if not good:
        return dict(report, problem="no image can be read")
    width, height, digests, signs = zip(*(seen[k] for k in good))
    names, labels, lesions, _ = np.array(listed)[good].T
    a, b = near_pairs(np.stack(signs))
    equal = np.array(digests)[a] == np.array(digests)[b]
    conflict = equal & (labels[a] != labels[b])
    kinds = collections.Counter("/".join(sorted(pair)) for pair in zip(labels[a[conflict]], labels[b[conflict]]))
    for key, sides in (("width", width), ("height", height)):
        report[key] = [min(sides), int(np.median(sides)), max(sides)]
    report.update(near_pairs=len(a), equal_pairs=np.stack([names[a], names[b]], 1)[equal].tolist(),
                  label_conflicts=int(conflict.sum()), conflict_kinds=dict(kinds), splits={})
    for parts, column in splits.items():
        part = np.array(parts)[good]
        train, test = part == "train", part == "test"
        across = (train[a] & test[b]) | (test[a] & train[b])
        leaked = np.isin(lesions, lesions[train]) & test
        counts = {name: dict(sorted(collections.Counter(labels[part == name].tolist()).items()))
                  for name in ("train", "val", "test", "all") if name in part}
        report["splits"][column] = dict(
            counts=counts, equal_across=int((across & equal).sum()), near_across=int(across.sum()),
            lesions_across=len(set(lesions[leaked])), test_images_of_train_lesions=int(leaked.sum()))
    return report


def check(args):
    if not Path(args.source).is_dir():
        raise UserError(f"{args.source} is not a folder")
    if (Path(args.source) / "config.json").exists():
        raise UserError(f"{args.source} is a job: give the folder of the photographs that it was made of")

    def say(topic, text):
        print(f"  {topic:11} {text}")

    reports, folders = {}, sets_below(args.source)
    print(f"{args.source}: {len(folders)} data set{'s' * (len(folders) != 1)}")
    for folder in folders:
        reports[str(folder)] = report = examine(folder)
        print(f"\n{folder}")
        say("form", LAYOUTS.get(report["layout"], "a set of your own"))
        for study, what in report["studies"].items():
            say("serves", f"{study}: {what}")
        for name, reason in report.get("unreadable", {}).items():
            say("unreadable", f"{name} ({reason})")
        if "problem" in report:
            say("unusable", report["problem"])
            continue
        (low, wide, high), (short, tall, long) = report["width"], report["height"]
        say("pixels", f"{low}-{high} wide, {short}-{long} high, median {wide}x{tall}")
        kinds = "".join(f", {n} {kind}" for kind, n in report["conflict_kinds"].items())
        say("equal", f"{len(report['equal_pairs'])} pairs, {report['label_conflicts']} of them under two labels{kinds}")
        for pair in report["equal_pairs"][:3]:
            say("", " = ".join(pair))
        say("near", f"{report['near_pairs']} pairs whose dHashes differ in 2 bits or fewer, equal ones included")
        for column, split in report["splits"].items():
            for part, counts in split["counts"].items():
                say(part, f"{sum(counts.values())}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
            if len(split["counts"]) > 1:
                say("across", f"{split['equal_across']} equal and {split['near_across']} near pairs between train and "
                    f"test ({column}); {split['test_images_of_train_lesions']} test images of "
                    f"{split['lesions_across']} lesions that are in train")
    if args.out:
        write_json(args.out, reports)


# --- Downloads -------------------------------------------------------------------------------------------------------

PLACES = {"challenge": "https://isic-challenge-data.s3.amazonaws.com", "archive": "https://api.isic-archive.com/api/v2",
          "kaggle": "https://www.kaggle.com/api/v1/datasets/download"}
DOWNLOADS = {       # set: its files, as place/path; zips are unpacked
    "kaggle_binary": ["kaggle/fanconic/skin-cancer-malignant-vs-benign"],
    "ham10000": ["challenge/2018/ISIC2018_Task3_Training_GroundTruth.zip",
                 "challenge/2018/ISIC2018_Task3_Training_LesionGroupings.csv",
                 "challenge/2018/ISIC2018_Task3_Training_Input.zip"],       # the same 10,015 images
    "isic2019": ["challenge/2019/ISIC_2019_Training_GroundTruth.csv", "challenge/2019/ISIC_2019_Training_Metadata.csv",
                 "challenge/2019/ISIC_2019_Training_Input.zip"],
    "isic_archive": []}                                                     # image by image: see fetch_archive
ARCHIVE_COUNTS = {"benign": 8833, "malignant": 7361}        # paper 004
PAUSE = 2.0                 # seconds before the second try, twice that before the third, ...


def open_url(url, **headers):
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "data.py", **headers})
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as problem:
        if problem.code == 416:                     # "range not satisfiable": for fetch
            raise
        raise UserError(f"{url}: the server answers {problem.code} {problem.reason}. Try again later") from None
    except (OSError, http.client.HTTPException) as problem:
        raise UserError(f"{url}: no answer ({getattr(problem, 'reason', problem)}). Is there a network?") from None


def need_disk(folder, size):
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {size / 1e9:.1f} GB are needed for the download and what is packed in it, "
                        f"{free / 1e9:.1f} GB are free. Give another --to, or free some space")


def fetch(url, target, tries=5):
    """Download a file, going on with the target.part that a cut left; the size and a stated checksum must be right."""
    part, size, total = target.with_name(target.name + ".part"), 0, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    for number in range(tries):
        time.sleep(number * PAUSE)
        had = part.stat().st_size if part.exists() else 0
        try:
            answer = open_url(url, **{"Range": f"bytes={had}-"} if had else {})
        except urllib.error.HTTPError:              # the part is not shorter than the file: not to be trusted
            part.unlink()
            continue
        with answer, open(part, "ab" if answer.status == 206 else "wb") as file:
            length = int(answer.headers.get("Content-Length") or 0)
            total = length + file.tell()            # a server that does not know ranges sends everything again
            need_disk(target.parent, length + total)
            progress = Progress(f"{target.name} (MB)", total >> 20, file.tell() >> 20)
            with contextlib.suppress(http.client.HTTPException, ConnectionError, TimeoutError):     # a cut
                while block := answer.read(1 << 18):
                    file.write(block)
                    progress(file.tell() >> 20)
        size = part.stat().st_size
        if size == total or not length:
            check_md5(part, url, answer.headers)
            os.replace(part, target)
            return
    raise UserError(f"{url}: ended after {size} of {total} bytes, {tries} times. The same command goes on there")


def check_md5(file, url, headers):
    """Delete and refuse a file that has not the MD5 that its storage server (Google, Amazon) states, if it does."""
    google = ",".join(headers.get_all("x-goog-hash", [])).partition("md5=")[2].partition(",")[0]
    stated, tag = base64.b64decode(google).hex(), headers.get("ETag", "").strip('"')
    if headers.get("Server") == "AmazonS3" and len(tag) == 32:      # longer: stored in parts, not an MD5
        stated = tag
    md5 = hashlib.md5()
    with open(file, "rb") as opened:
        while stated and (block := opened.read(1 << 20)):
            md5.update(block)
    if stated and md5.hexdigest() != stated:
        file.unlink()
        raise UserError(f"{url}: what came has not the checksum that the server states; deleted. Try again")


def unpack(archive, folder):
    """Unpack a zip into a new folder, without the top folder if it is called like the zip; then delete the zip.
    Refused: members that would lie outside, and more than 100 times the size of the zip."""
    half = folder.with_name(f".{folder.name}.part")
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [m for m in packed.infolist() if not m.is_dir() and "__MACOSX" not in m.filename.split("/")]
            for member in members:
                steps = member.filename.replace("\\", "/").split("/")
                if steps[0] == "" or ".." in steps or ":" in steps[0]:
                    raise UserError(f"{archive}: its member {member.filename!r} would lie outside: not unpacked")
            size = sum(member.file_size for member in members)
            if size > 100 * archive.stat().st_size:
                raise UserError(f"{archive}: {size} bytes packed to less than a hundredth: not unpacked")
            shutil.rmtree(half, ignore_errors=True)
            need_disk(archive.parent, size)
            progress = Progress(f"unpacking {archive.name}", len(members))
            for number, member in enumerate(members, 1):
                member.filename = member.filename.removeprefix(folder.name + "/")
                packed.extract(member, half)        # never more than the declared size, and CRC-checked
                progress(number)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as problem:
        archive.unlink()
        raise UserError(f"{archive}: a damaged zip ({problem}); deleted. Try again") from None
    os.replace(half, folder)
    archive.unlink()


def archive_page(url, kind):
    """A page of the ISIC archive: [(name, address, bytes, lesion, licence, whom to name)], the address of the next."""
    try:
        with open_url(url) as answer:
            page = json.load(answer)
        images = []
        for image in page["results"]:
            file, facts = image["files"][kind], image["metadata"].get("clinical", {})
            images.append((Path(image["isic_id"]).name, file["url"], file.get("size") or 0,
                           facts.get("lesion_id"), image.get("copyright_license"), image.get("attribution")))
        return images, page["next"]
    except (OSError, http.client.HTTPException, KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{url}: a cut answer, or one of an unknown form ({problem!r}). Try again later") from None


def fetch_archive(folder, full):
    """The first dermoscopic images of each class in the order of the ISIC archive, with a table of their lesions: full
    (tens of GB), or with a longer side of 256 px. An image that cannot be had is named and the next one taken."""
    kind, table = "full" if full else "thumbnail_256", [["image", "label", "lesion_id", "licence", "attribution"]]
    half = folder.with_name(f".{folder.name}.{kind}.part")

    def get(image):
        try:
            path = half / label / f"{image[0]}.jpg"
            return None if path.exists() else fetch(image[1], path)
        except UserError as problem:
            return problem

    for label, wanted in ARCHIVE_COUNTS.items():
        (half / label).mkdir(parents=True, exist_ok=True)
        query = dict(query=f'diagnosis_1:"{label.capitalize()}" AND image_type:dermoscopic', limit=100)
        url = f"{PLACES['archive']}/images/search/?{urllib.parse.urlencode(query)}"
        progress, got = Progress(f"{label} images", wanted), 0
        while url and got < wanted:
            images, url = archive_page(url, kind)
            images = images[:wanted - got]
            need_disk(half, sum(image[2] for image in images) // max(len(images), 1) * (wanted - got))
            with ThreadPoolExecutor(8) as pool:
                problems = list(pool.map(get, images))
            if images and all(problems):
                raise problems[0]
            for problem in filter(None, problems):
                print(f"left out: {problem}")
            table += [[f"{label}/{image[0]}.jpg", label, *image[3:]] for image, problem in zip(images, problems)
                      if not problem]
            got += problems.count(None)
            progress(got)
        print(f"{label}: {got} images{'' if got == wanted else f' (the archive has no more; {wanted} were wanted)'}")
    with open(half / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    write_json(half / "info.json", dict(source=f"isic_archive ({kind.replace('_', ' ')}; the first {len(table) - 1} of "
                                        "today's archive: which ones the paper took is not published)"))
    os.replace(half, folder)


def download(args):
    folder = Path(args.to) / args.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if args.name == "isic_archive":
        print(f"{folder}: there already") if folder.exists() else fetch_archive(folder, args.full)
    for file in DOWNLOADS[args.name]:
        place, path = file.split("/", 1)
        target = folder / (Path(path).name if Path(path).suffix else Path(path).name + ".zip")
        done = target.with_suffix("") if target.suffix == ".zip" else target
        if done.exists():
            print(f"{done}: there already")
            continue
        try:
            if not target.exists():
                fetch(f"{PLACES[place]}/{path}", target)
            if target.suffix == ".zip":
                unpack(target, done)
        except UserError as problem:
            if place != "kaggle":
                raise
            raise UserError(f"{problem} (by hand: open https://www.kaggle.com/datasets/{path}, press Download, and "
                            f"unpack into {folder})") from None
    studies = [study for study, (_, layouts) in SETS.items() if args.name in layouts]
    print(f"{folder}: complete. Next: python data.py prepare {args.to} --for {studies[0]} --out FOLDER")


# --- Built-in lesions ------------------------------------------------------------------------------------------------

# A lesion is pigment in skin. Five maps make a picture: melanin (brown), blood (red) and deep melanin (blue-grey)
# absorb light; yellow (keratin, wax) and white (scar, cysts) cover it. Lengths are in half frames: a picture spans
# [-1, 1] at every size. A data set that needs no download, not a model of disease.
VIEWS = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]  # (lesion, view) of six pictures: 1, 2 and 3 views
# how much melanin, blood and deep melanin of density 1 absorb of red, green and blue (natural logarithm)
ABSORB = np.float32([[0.42, 0.85, 1.25], [0.16, 0.95, 0.70], [1.15, 0.95, 0.62]])
YELLOW, WHITE = np.float32([0.93, 0.82, 0.58]), np.float32([0.97, 0.92, 0.91])
ARTEFACTS = dict(hair=0.3, bubbles=0.12, ruler=0.1, vignette=0.6, corners=0.12)  # odds, in every class alike

# The classes: which ones each is mistaken for (see look); its shape and pigments, in the order of SHAPE: radius,
# stretch (oval), wobble (of the contour), edge (width of the border), ragged (border), patchy (uneven pigment), broken
# (irregular structures), pigment densities, wax; then the strengths of the structures below. What is not named is 0.
SHAPE = "radius stretch wobble edge ragged patchy broken melanin blood deep wax".split()
PROFILES = {
    "AK": (["SCC", "BKL"], (0.62, 0.10, 0.12, 0.45, 0.20, 0.50, 0, 0.08, 0.34, 0, 0), dict(strawberry=1.2, scale=0.5)),
    "BCC": (["AK", "MEL", "VASC"], (0.55, 0.12, 0.12, 0.35, 0.16, 0.40, 0, 0.06, 0.28, 0.08, 0),
            dict(vessels=0.9, nests=0.8, ulcer=0.5)),
    "BKL": (["NV", "SCC", "MEL"], (0.58, 0.14, 0.10, 0.10, 0.10, 0.40, 0, 0.65, 0.08, 0, 0.20),
            dict(milia=0.8, comedo=0.9, fissures=0.7)),
    "DF": (["NV", "BCC"], (0.44, 0.06, 0.05, 0.30, 0.07, 0.30, 0, 0.42, 0.18, 0, 0), dict(network=0.4, scar=1.2)),
    "MEL": (["NV", "NV", "BKL"], (0.62, 0.14, 0.16, 0.10, 0.13, 0.60, 1, 0.95, 0.12, 0.12, 0),
            dict(network=0.8, globules=0.5, streaks=0.7, blotch=0.9, veil=0.8, regression=0.6)),
    "NV": (["MEL", "MEL", "DF"], (0.50, 0.12, 0.06, 0.17, 0.06, 0.25, 0, 0.80, 0.12, 0, 0),
           dict(network=0.9, globules=0.6)),
    "SCC": (["AK", "BKL"], (0.55, 0.10, 0.12, 0.18, 0.13, 0.50, 0, 0.12, 0.58, 0.05, 0),
            dict(keratin=1.4, scale=0.4, rim=1.0, ulcer=0.8)),
    "VASC": (["BCC", "MEL"], (0.38, 0.10, 0.07, 0.08, 0.06, 0.35, 0, 0, 0.75, 0.20, 0), dict(lacunae=1.0)),
}
TRAITS = SHAPE + sorted({name for _, _, structures in PROFILES.values() for name in structures})
# Soft areas: distance from the centre, least and greatest radius (all in lesion radii), softness of the border; then
# what they add to melanin, blood, deep, yellow, white.
AREAS = {
    "blotch": (0.5, 0.3, 0.6, 0.15, [1.4, 0, 0.1]),
    "veil": (0.4, 0.3, 0.6, 0.35, [-0.3, 0, 0.8, 0, 0.15]),
    "regression": (0.6, 0.2, 0.4, 0.30, [-0.7, 0, 0.1, 0, 0.3]),
    "ulcer": (0.3, 0.1, 0.25, 0.06, [0.5, 0.9]),
    "keratin": (0.2, 0.3, 0.55, 0.25, [-0.1, -0.1, 0, 0.5, 0.15]),
    "scale": (0.3, 0.4, 0.9, 0.90, [0, 0, 0, 0, 0.3]),
    "scar": (0.1, 0.3, 0.5, 0.25, [-0.5, -0.1, 0, 0, 0.35]),
}
# Dots on a honeycomb: least and greatest spacing, jitter, least and greatest dot (both in spacings), share of
# the dots that is there, free core (in lesion radii); what the dots add, what the ground between them adds.
DOTS = {
    "network": (0.08, 0.12, 0.16, 0.25, 0.34, 1.0, 0.0, [-0.85], [0.4]),
    "globules": (0.13, 0.20, 0.24, 0.15, 0.30, 0.9, 0.0, [1.2], []),
    "nests": (0.18, 0.30, 0.40, 0.10, 0.35, 0.4, 0.0, [0, 0, 1.0], []),
    "milia": (0.16, 0.26, 0.40, 0.06, 0.15, 0.5, 0.0, [-0.2, 0, 0, 0, 0.7], []),
    "comedo": (0.16, 0.26, 0.40, 0.06, 0.20, 0.4, 0.0, [1.5], []),
    "strawberry": (0.13, 0.20, 0.20, 0.14, 0.26, 0.9, 0.0, [0, -0.6, 0, 0.35, 0.05], [0, 0.25]),
    "rim": (0.09, 0.14, 0.35, 0.12, 0.25, 0.7, 0.6, [0, 1.0], []),
    "lacunae": (0.12, 0.20, 0.20, 0.25, 0.42, 1.0, 0.0, [0, 1.1, 0.4], [0, -0.15]),
}


def smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def pixels(size):
    return ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)


# A plane wave and a round Gaussian dot both factor into (a function of x) * (a function of y), also when the
# camera turns and zooms. So the sum of any number of them is one matrix product: all is drawn with these two.
def outer_sum(a, b):
    """sum_i outer(a[i], b[i]), few rows at a time: on a larger product BLAS starts threads, slower here."""
    rows = max(1, 2 ** 17 // b.shape[1] ** 2)
    return sum(a[i:i + rows].T @ b[i:i + rows] for i in range(0, len(a), rows))


def waves(rng, cam, size, low, high, slope=0.6, count=64):
    """Noise of variance 1: waves of `low` to `high` radians per half frame, amplitude ~ frequency^-slope."""
    freq = low * (high / low) ** rng.random(count)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
    amp = freq ** -slope
    amp *= np.sqrt(2 / np.sum(amp ** 2))
    amp *= np.exp(-(freq * cam["zoom"] * 2 / size) ** 2 / 24)  # a pixel averages over its area
    k = freq[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    phase = np.float32(phase + k @ cam["shift"])[:, None]
    kx, ky = np.float32(k @ cam["turn"]).T[:, :, None] * pixels(size)
    cos, sin = np.float32(amp)[:, None] * [np.cos(ky + phase), -np.sin(ky + phase)]
    return outer_sum(cos, np.cos(kx)) + outer_sum(sin, np.sin(kx))  # cos(kx x + ky y + phase), expanded


def dots(xy, sigma, cam, size, amp=1.0):
    """Sum of Gaussian dots at lesion coordinates xy (n, 2). A dot below pixel size gets wider and fainter."""
    xy = np.float32((xy - cam["shift"]) @ cam["turn"] / cam["zoom"] ** 2)  # lesion to picture coordinates
    sigma = sigma / cam["zoom"]
    wide = np.maximum(sigma, 1.2 / size)
    amp = np.broadcast_to(amp * (sigma / wide) ** 2, len(xy)).astype(np.float32)
    gap = (pixels(size) - xy.T[:, :, None]) / np.reshape(np.float32(wide), (-1, 1))
    gx, gy = np.exp(-0.5 * np.minimum(gap * gap, 50))  # the limit keeps out denormal numbers, which are slow
    return outer_sum(gy * amp[:, None], gx)


def strokes(rng, start, heading, length, curl, width, cam, size, steps=60):
    """Tapering lines from start (n, 2) as rows of dots: a map that is about 1 on them, and their points."""
    bend = rng.normal(0, curl / steps ** 0.5, (len(start), steps))
    bend = np.reshape(heading, (-1, 1)) + np.cumsum(bend, 1)
    step = np.broadcast_to(np.reshape(length, (-1, 1)) / steps, bend.shape)
    xy = start[:, None] + np.cumsum(step[..., None] * np.stack([np.cos(bend), np.sin(bend)], -1), 1)
    wide = np.broadcast_to(width * np.linspace(1.1, 0.6, steps), bend.shape)
    row = dots(xy.reshape(-1, 2), wide.ravel(), cam, size, (step / (2.5 * wide)).ravel())
    return np.minimum(row, 1), xy


def honeycomb(rng, spacing, jitter, radius):
    """Centres of a hexagonal lattice inside a circle, each moved by about `jitter` spacings."""
    n = int(1.2 * radius / spacing) + 1
    i, j = np.mgrid[-n:n + 1, -n:n + 1].reshape(2, -1)
    xy = spacing * (np.stack([i + 0.5 * j, 0.866 * j], 1) + rng.normal(0, jitter, (len(i), 2)))
    return xy[np.sum(xy ** 2, 1) < radius ** 2]


def look(rng, label):
    """The traits of one lesion: its class, mixed with one it resembles, each stronger or weaker."""
    like, *own = PROFILES[LESION_CLASSES[label]]
    _, *other = PROFILES[like[rng.integers(len(like))]]
    own, other = (dict(zip(SHAPE, shape)) | structures for shape, structures in (own, other))
    severity = 0.55 * rng.beta(1.0, 2.0)  # 0 is a textbook case; above 0.5 it looks more like the other class
    vary = np.exp(rng.normal(0, 0.3, len(TRAITS)))
    seen = rng.random(len(TRAITS)) < 0.85  # few lesions show every structure of their class
    seen[:len(SHAPE)] = True
    p = {t: float(((1 - severity) * own.get(t, 0) + severity * other.get(t, 0)) * v * s)
         for t, v, s in zip(TRAITS, vary, seen)}
    return p | dict(radius=min(max(p["radius"], 0.25), 0.75))


def pigment(rng, p, cam, size):
    """The maps (5, size, size) of a lesion without its skin: melanin, blood, deep, yellow, white."""
    px, py, radius = pixels(size)[None, :], pixels(size)[:, None], p["radius"]
    x, y = np.float32([t[0] * px + t[1] * py + s for t, s in zip(cam["turn"], cam["shift"])])
    fine = waves(rng, cam, size, 10, 120)
    patch = waves(rng, cam, size, 2.5 / radius, 12 / radius)
    wobble, lag = rng.normal(0, p["wobble"], 6) / np.arange(2, 8), rng.uniform(0, 2 * np.pi, 6)
    wobble[0] += p["stretch"]
    terms = list(zip(range(2, 8), wobble.tolist(), lag.tolist()))

    def contour(angle):
        return radius * (1 + sum(a * np.cos(k * angle + b) for k, a, b in terms))

    # how deep a pixel lies inside the border; negative is outside
    depth = contour(np.arctan2(y, x)) - np.hypot(x, y) + p["ragged"] * (0.3 * fine + 0.4 * patch)
    inside = smoothstep(depth / max(p["edge"], 3 / size) + 0.5)
    uneven = np.maximum(1 + p["patchy"] * (0.6 * patch + 0.5 * fine), 0.15)
    base = inside * uneven * (0.75 + 0.35 * smoothstep(depth / (0.8 * radius)))
    maps = np.stack([p[key] * base for key in ["melanin", "blood", "deep", "wax"]] + [0 * base])

    def add(name, change, where):
        for i, c in enumerate(change):
            if c:
                maps[i] += p[name] * c * where

    shown = [name for name in TRAITS[len(SHAPE):] if p[name] > 0.08]
    for name, (far, low, high, soft, change) in AREAS.items():
        if name not in shown:
            continue
        angle, far = rng.uniform(0, 2 * np.pi), radius * far * rng.uniform(0.6, 1.2)
        gap, r = np.hypot(x - far * np.cos(angle), y - far * np.sin(angle)), radius * rng.uniform(low, high)
        area = smoothstep((r - gap + r * (0.3 * patch + 0.12 * fine)) / soft + 0.5)
        add(name, change, inside * area * (1 + 0.25 * fine))
    some = inside * smoothstep(0.75 + (0.25 + 0.5 * p["broken"]) * patch) * (1 + 0.2 * fine)  # with gaps
    for name, (near, wide, jitter, low, high, share, core, change, ground) in DOTS.items():
        if name not in shown:
            continue
        spacing = rng.uniform(near, wide)
        xy = honeycomb(rng, spacing, jitter + 0.15 * p["broken"], 1.1 * radius)
        there = (rng.random(len(xy)) < share) & (np.hypot(*xy.T) > core * radius)
        sigma, amp = spacing * rng.uniform(low, high, len(xy)), there * rng.uniform(0.4, 1.2, len(xy))
        add(name, change, some * smoothstep(dots(xy, sigma, cam, size, amp)))
        add(name, ground, some)
    if "fissures" in shown:  # valleys where a noise passes through 0
        ridge = waves(rng, cam, size, 12, 60, 0.8)
        add("fissures", [0.8], some * uneven * (np.exp(-(ridge / 0.7) ** 2) - 0.45))
    if "streaks" in shown:  # along one side, outwards
        angle = rng.uniform(0, 2 * np.pi) + np.linspace(-0.8, 0.8, 11) + rng.normal(0, 0.06, 11)
        start, length = 0.75 * contour(angle), radius * rng.uniform(0.25, 0.55, 11)
        start = start[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        add("streaks", [1.1], uneven * strokes(rng, start, angle, length, 0.4, 0.016, cam, size, 24)[0])
    if "vessels" in shown:  # two trunks from the border inwards, five branches on each
        angle = rng.uniform(0, 2 * np.pi, 2)
        start, inwards = radius * np.stack([np.cos(angle), np.sin(angle)], 1), angle + np.pi
        trunk, xy = strokes(rng, start, inwards, 1.4 * radius, 1.0, 0.012, cam, size)
        fork = xy[:, rng.integers(8, 60, 5)].reshape(-1, 2)
        away = np.repeat(inwards, 5) + rng.choice([-1, 1], 10) * rng.uniform(0.5, 1.1, 10)
        twig = strokes(rng, fork, away, radius * rng.uniform(0.3, 0.7, 10), 0.9, 0.008, cam, size, 40)[0]
        add("vessels", [0, 1], np.maximum(trunk, twig) * smoothstep(0.8 + 0.4 * patch))
    return np.maximum(maps, 0)


def artefacts(img, rng, odds):
    """Add what is in the picture but not of the lesion, without knowing the class. `odds` as in ARTEFACTS."""
    size, still = len(img), dict(turn=np.eye(2), zoom=1.0, shift=np.zeros(2))  # picture coordinates
    on = {name: u < odds[name] for name, u in zip(ARTEFACTS, rng.random(len(ARTEFACTS)))}
    own = rng.integers(2 ** 32, size=3)  # a seed for each: switching one off leaves the others as they were
    r2 = pixels(size)[:, None] ** 2 + pixels(size)[None, :] ** 2
    if on["hair"]:
        rng = np.random.default_rng(own[0])
        n = int(1 + 11 * rng.random() ** 1.5)
        heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.7, n)
        start = rng.uniform(-0.9, 0.9, (n, 2)) - 0.8 * np.stack([np.cos(heading), np.sin(heading)], 1)
        hair, _ = strokes(rng, start, heading, rng.uniform(0.7, 2.2, n), 0.5, 0.011, still, size, 120)
        img = img * (1 - rng.uniform(0.5, 0.9) * hair[..., None] * np.float32([0.85, 0.95, 1]))
    if on["bubbles"]:  # in the gel: faint rings, each with a specular spot
        rng = np.random.default_rng(own[1])
        xy, radius = rng.uniform(-1, 1, (8, 2)), 0.02 + 0.1 * rng.random(8) ** 3
        disc = np.minimum(dots(xy, radius, still, size, 1.5), 1)
        spot = np.minimum(dots(xy + 0.6 * radius[:, None], 0.25 * radius + 0.006, still, size), 1)
        img = img + (0.35 * disc * (1 - disc) + 0.5 * spot)[..., None]
    if on["ruler"]:  # ticks along one side, every fifth longer
        rng = np.random.default_rng(own[2])
        tick, spacing, side = np.arange(-14, 15), rng.uniform(0.08, 0.14), rng.integers(4)
        start, length = np.stack([0 * tick - 0.98, tick * spacing], 1), np.where(tick % 5 == 0, 0.16, 0.09)
        ticks, _ = strokes(rng, start, 0 * tick, length, 0, 0.01, still, size, 12)
        img = img * (1 - 0.7 * np.rot90(ticks, side)[..., None])
    if on["vignette"]:
        img = img * (1 - 0.2 * r2)[..., None]
    if on["corners"]:  # the dark rim of the dermoscope
        img = img * (1 - 0.95 * smoothstep((np.sqrt(r2) - 1.1) / 0.08))[..., None]
    return img


def draw_lesion(label, lesion, view, seed=0, size=64, odds=ARTEFACTS):
    """One picture, uint8 (size, size, 3): view number `view` of lesion number `lesion`, of class `label`."""
    rng = np.random.default_rng([seed, lesion])  # for the lesion and its skin: the same in all views
    pic = np.random.default_rng([seed, lesion, view + 1])  # the picture; [seed, lesion, 0] equals rng
    angle, zoom = pic.uniform(0, 2 * np.pi), np.exp(pic.normal(0, 0.12))
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cam = dict(turn=turn, zoom=zoom, shift=pic.normal(0, 0.07, 2))  # lesion = turn @ picture + shift

    maps = pigment(rng, look(rng, label), cam, size)
    melanin, blood, rough = 0.05 + 0.6 * rng.beta(1.2, 3), rng.uniform(0.1, 0.38), rng.uniform(0.4, 1.5)
    maps[0] += melanin + rough * (0.02 + 0.12 * melanin) * waves(rng, cam, size, 4, 130, 0.5)
    maps[1] += blood + rough * 0.15 * blood * waves(rng, cam, size, 3, 80, 0.5)
    img = np.exp(-np.moveaxis(maps[:3], 0, -1) @ ABSORB)
    for amount, colour in [(maps[3], YELLOW), (maps[4], WHITE)]:
        img = img + np.minimum(amount, 0.85)[..., None] * (colour - img)

    img = img * np.float32(pic.uniform(0.9, 1.1) * (1 + pic.normal([0, -0.01, 0.03], 0.04)))  # exposure, cast
    img = artefacts(img, pic, odds)
    img = img + pic.normal(0, 0.01, (size, size, 1))  # camera noise: all that depends on the size
    return np.uint8(np.clip(img, 0, 1) * 255)


def built_in(n, size=64, seed=0):
    """The first n built-in lesions as an image set of 8 classes with 1 to 3 views per lesion."""
    where = [(3 * (i // 6) + VIEWS[i % 6][0], VIEWS[i % 6][1]) for i in range(n)]  # independent of n
    labels = np.array([lesion % len(LESION_CLASSES) for lesion, _ in where], np.int64)
    images = np.stack([draw_lesion(label, *place, seed, size) for label, place in zip(labels, where)])
    ids, groups = np.array([(f"lesion{lesion:05d}_{view}", f"lesion{lesion:05d}") for lesion, view in where]).T
    return ImageSet(images, labels, LESION_CLASSES, ids, groups,
                    info=dict(source=f"built-in lesions (n {n}, seed {seed})"))


# --- Splits ----------------------------------------------------------------------------------------------------------

def split_by_group(labels, groups, fractions, seed):
    """Part number of each image; every group (lesion) goes to one part as a whole, and each class is shared out alike.

    labels (n,), groups (n,), fractions: size of each part, summing to 1. Returns int (n,). A group counts under the
    label of its first image. Within a class the groups come in random order and each goes to the part that is furthest
    below its share, so the shares are met to within one group.
    """
    labels, (names, first, member) = np.asarray(labels), np.unique(groups, return_index=True, return_inverse=True)
    sizes, part_of_group = np.bincount(member), np.zeros(len(names), int)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels[first] == label))
        missing = np.array(fractions, float) * sizes[mine].sum()
        for group in mine:
            part_of_group[group] = missing.argmax()
            missing[part_of_group[group]] -= sizes[group]
    return part_of_group[member]


def with_split(images, val=0.1, test=0.2, seed=0):
    """The image set with every image marked train, val or test. A test or val part that comes with the set is kept.

    Equal pictures count as one lesion, so that no copy of a training image is tested on; where the set's own test part
    already holds copies, it is the copies outside that are dropped. Their number is kept in info.
    """
    if val >= 1 or test >= 1:
        raise UserError(f"--val {val} --test {test}: give shares below 1")
    digests = np.array(images.digests())
    copies = (images.split != "test") & np.isin(digests, digests[images.split == "test"])
    images, digests = images.take(~copies), digests[~copies]
    _, first, member = np.unique(digests, return_index=True, return_inverse=True)
    labels, groups, split = images.labels, images.groups[first][member], images.split.astype("U5")
    for name, other, share, own_seed in (("test", "val", test, seed), ("val", "test", val, seed + 1)):
        if share and not (split == name).any():
            inside = np.flatnonzero(split != other)
            chosen = split_by_group(labels[inside], groups[inside], (1 - share, share), own_seed)
            split[inside] = np.where(chosen == 1, name, "train")
    split[split == ""] = "train"
    for a, b in itertools.combinations(("train", "val", "test"), 2):
        both = set(groups[split == a]) & set(groups[split == b])
        if both:
            raise UserError(f"{len(both)} lesions are in both {a} and {b} of {images.info.get('source')}, "
                            f"such as {min(both)}")
    return replace(images, groups=groups, split=split, info=dict(images.info, copies_dropped=int(copies.sum())))


# --- Batches on the device -------------------------------------------------------------------------------------------

def to_tensor(images, device="cpu"):
    """uint8 (n, h, w, 3) array -> uint8 (n, 3, h, w) tensor on the device, where the whole set stays."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def scaled(pixels):
    """uint8 [0, 255] -> float32 [-1, 1], the range of the generators' tanh."""
    return pixels.float().div_(127.5).sub_(1)


class Batches:
    """Endless shuffled batches. Batch number `step` depends only on (seed, step), so a resumed run needs only its step.
    Every epoch is a fresh permutation without its last, incomplete batch."""

    def __init__(self, images, batch, seed, device, least=2):
        if batch < least:
            raise UserError(f"--batch {batch}: a batch needs at least {least} images")
        if len(images) < batch:
            raise UserError(f"{len(images)} images are too few for a batch of {batch}: "
                            "give a smaller --batch or more images")
        self.pixels, self.labels = to_tensor(images.images, device), torch.from_numpy(images.labels).to(device)
        self.batch, self.seed, self.per_epoch, self.epoch = batch, seed, len(images) // batch, None

    def __call__(self, step):
        """(uint8 (batch, 3, h, w), int64 (batch,)) of this step."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order, self.epoch = torch.randperm(len(self.labels), generator=generator).to(self.labels.device), epoch
        chosen = self.order[k * self.batch:(k + 1) * self.batch]
        return self.pixels[chosen], self.labels[chosen]


def augment(x, flip=True, rotate=180.0, zoom=0.1, shift=0.05, shear=0.0, brightness=0.1):
    """Classical augmentation of a batch on its device: one random affine map and one brightness per image.

    x: float (n, 3, h, w) in [-1, 1]. rotate, shear: largest angle, degrees; zoom, shift, brightness: largest fraction.
    """
    def uniform(limit):
        return (torch.rand(len(x), device=x.device) * 2 - 1) * limit

    angle, slant, scale = torch.deg2rad(uniform(rotate)), torch.tan(torch.deg2rad(uniform(shear))), 1 + uniform(zoom)
    mirror = torch.sign(uniform(1)) if flip else torch.ones(len(x), device=x.device)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos * mirror, slant * cos - sin, 2 * uniform(shift)], 1),
            torch.stack([sin * mirror, slant * sin + cos, 2 * uniform(shift)], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return ((x + 1) * (1 + uniform(brightness)).view(-1, 1, 1, 1) - 1).clamp(-1, 1)


# --- Command line ----------------------------------------------------------------------------------------------------

def contact_sheet(rows, tile=96):
    """Pictures, uint8 (n, size, size, 3), in rows {name: pictures} with the names beside them."""
    sheet = Image.new("RGB", (90 + tile * max(map(len, rows.values())), len(rows) * tile), "white")
    for row, (name, pictures) in enumerate(rows.items()):
        ImageDraw.Draw(sheet).text((6, row * tile + tile // 2 - 5), name[:14], fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture).resize((tile, tile)), (90 + column * tile, row * tile))
    return sheet


def augmented(picture, seed):
    """A picture (1, size, size, 3) and nine augmentations of it, as in paper 001 (Fig 8: rotation, shear, flip)."""
    if not len(picture):
        return picture
    torch.manual_seed(seed)
    x = scaled(to_tensor(np.repeat(picture, 9, 0)))
    x = augment(x, zoom=0, shift=0, shear=10, brightness=0).add(1).mul(127.5).round().byte()
    return np.concatenate([picture, x.permute(0, 2, 3, 1).numpy()])


def class_number(text):
    """An argparse type: CLASS=N."""
    name, _, number = text.rpartition("=")
    if not name or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not of the form CLASS=N")
    return name, int(number)


def gather(args, size):
    """The images that `prepare` was asked for, at `size` px; info says what was left out and what is a stand-in."""
    classes, layouts = SETS[args.study] if args.study else (None, dict.fromkeys(SETS["wgan_gp"][1]))
    options = dict(classes=classes, binary=args.binary or classes == TWO, limits=dict(args.limit),
                   resplit=args.resplit, seed=args.seed)
    folder, layout = Path(args.source), None
    if args.study and args.source != "lesions" or args.binary and folder.is_dir() and not any(folder.glob("*.csv")):
        folder, layout = find_set(folder, layouts)
    if args.source == "lesions" or layout is None and array_file(folder):
        images = built_in(args.n, size, args.seed) if args.source == "lesions" else load(folder, size)
        names = [images.classes[k] for k in images.labels]
        listed, left = choose(zip(range(len(images)), names, images.groups, images.split), **options)
        which, names, _, split = map(list, zip(*listed))
        classes, labels = np.unique(names, return_inverse=True)
        images = replace(images.take(which), labels=labels, classes=classes.tolist(), split=np.array(split, "U5"))
    else:
        files = find_images(folder, layout)
        listed, left = choose(read_labels(folder, files), **options)
        images = decoded(folder, files, listed, size, args.skip_bad)
    said = dict(left_out=left, stand_in=layouts[layout] if layout else None, limits=dict(args.limit))
    return replace(images, info=images.info | {key: value for key, value in said.items() if value})


def prepare(args):
    out, begun, sheets = Path(args.out), time.time(), {}
    images = gather(args, 2 * args.size if args.enhance else args.size)
    if args.enhance:
        large, images = images, replace(images, images=enhance(images.images))
        pairs = np.stack([large.images, images.images], 1)
        sheets["before_after.png"] = {name: np.concatenate(pairs[images.labels == k][:5])
                                      for k, name in enumerate(images.classes)}
        images = resized(images, args.size)
        images.info["enhanced"] = f"bilateral filter (d 9, sigmas 75) and gamma 1.5 at {2 * args.size} px"
    images = with_split(images, args.val, args.test, args.seed)
    near = near_test(images)
    images.info["near_test"] = int(near.sum())
    if args.drop_near:
        images = images.take(~near)
    config = dict(command="prepare", size=args.size, val=args.val, test=args.test, binary=args.binary, seed=args.seed,
                  source=images.info["source"], data=images.fingerprint())
    extra = dict(study=args.study, resplit=args.resplit, limit=dict(args.limit), enhance=args.enhance,
                 drop_near=args.drop_near)
    config |= {key: value for key, value in extra.items() if value}
    if open_run(out, config):
        return
    train = images.part("train")
    by_class = {name: train.of_class(name).images for name in images.classes}
    sheets["grid.png"] = {name: pictures[:10] for name, pictures in by_class.items()}
    sheets["augmented.png"] = {name: augmented(pictures[:1], args.seed) for name, pictures in by_class.items()}
    for name, rows in sheets.items():
        with replacing(out / name) as file:
            contact_sheet(rows).save(file, "PNG")
    images.save(out / "images.npz")
    lesions, copies = len(set(images.groups)), len(images) - len(set(images.digests()))
    counts = {part: images.part(part).counts() for part in ("train", "val", "test") if part in images.split}
    finish_run(out, config, time.time() - begun, "cpu", counts=counts, data=config["data"], source=images.info,
               lesions=lesions)
    for part, count in counts.items():
        print(f"{part:6}" + "  ".join(f"{name} {k}" for name, k in count.items()))
    print(f"{out}: {len(images)} images of {lesions} lesions; {images.info['copies_dropped']} copies "
          f"of test images dropped, {copies} other copies kept together on one side; {near.sum()} near copies of test "
          f"images {'dropped' if args.drop_near else 'kept (--drop-near leaves them out)'}")
    for part in sorted({"train", "val", "test"} - set(images.split)):
        print(f"warning: no image is left for {part}, which a classifier needs: too few lesions for this --val, --test")
    if images.info.get("stand_in"):
        print(f"stand-in for the set of {args.study}: {images.info['stand_in']}")
    if images.classes == ["unlabelled"]:
        print("no class folders: every image is 'unlabelled', which is enough for a GAN but not for a classifier")


def main():
    parser = Parser(prog="data.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    drawn = commands.add_parser("lesions", help="draw built-in lesions")
    drawn.set_defaults(run=lambda args: built_in(args.n, args.size, args.seed).save(args.out))
    drawn.add_argument("--out", required=True, help="a file ending in .npz, or a folder for a tree of PNG")

    p = commands.add_parser("prepare", help="decode a set once, split it by lesion, write an image set",
                            description="Photographs become squares: shorter side to --size, centre crop; transparency "
                            "becomes white. Without a lesion_id column every photograph counts as a lesion of its own.")
    p.set_defaults(run=prepare)
    p.add_argument("source", help="a folder, a .zip, an .npz, or the word lesions for the built-in ones")
    p.add_argument("--out", required=True, help="folder to write images.npz, grid.png and result.json to")
    kind = p.add_mutually_exclusive_group()
    kind.add_argument("--for", dest="study", choices=SETS, help="find this study's set, or a stand-in, below SOURCE")
    kind.add_argument("--binary", action="store_true", help="two classes; looks for [train|test/]benign|malignant")
    p.add_argument("--resplit", action="store_true", help="forget the split that comes with the set")
    p.add_argument("--limit", type=class_number, nargs="+", default=[], metavar="CLASS=N",
                   help="at most N images of this class, whole lesions")
    p.add_argument("--drop-near", action="store_true", help="leave out training images that look like a test image: "
                   "their dHashes differ in at most 2 of 64 bits")
    p.add_argument("--enhance", action="store_true", help="bilateral filter and gamma 1.5 (paper 001)")
    share = at_least(0, float)
    p.add_argument("--val", type=share, default=0.1, help="share of the training lesions for validation (%(default)s)")
    p.add_argument("--test", type=share, default=0.2, help="share of lesions for test, if there is none (%(default)s)")
    p.add_argument("--skip-bad", action="store_true", help="go on without unreadable images, and count them")
    for each in (drawn, p):
        each.add_argument("--size", type=at_least(8), default=64, help="side in pixels (default %(default)s)")
        each.add_argument("--n", type=at_least(1), default=960, help="number of built-in images (default %(default)s)")
        each.add_argument("--seed", type=at_least(0), default=0)

    p = commands.add_parser("check", help="look for copies, wrong labels and leaks in every set below a folder")
    p.set_defaults(run=check)
    p.add_argument("source", help="a data set, or a folder that holds several")
    p.add_argument("--out", help="write what was found to this .json file too")

    p = commands.add_parser("download", help="get a public data set; a second start goes on where the first was cut")
    p.set_defaults(run=download)
    p.add_argument("name", choices=DOWNLOADS)
    p.add_argument("--to", required=True, help="folder in which the set gets a folder of its own name")
    p.add_argument("--full", action="store_true", help="isic_archive: the original files, tens of GB, instead "
                   "of thumbnails of 256 px, which are enough for 64 px but not for 299")

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_cli(main)
