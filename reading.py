"""reading.py: what other people's sets of photographs mean. Files and tables in, rows out.

One rule: what decides classes, lesions and parts is said. What looks as if it should and is not
understood is an error that shows the header and the option --columns. Folders' names give classes
only where no table does.
"""
import collections
import csv
import functools
import hashlib
import io
import itertools
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jobs import UserError

BICUBIC = Image.Resampling.BICUBIC
Image.MAX_IMAGE_PIXELS = 64_000_000     # of one file, decoded: 192 MB. From here on Pillow warns,
warnings.simplefilter("error", Image.DecompressionBombWarning)     # which refuses the file
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".tsv", ".tab", "")
SHEETS = {".xlsx", ".xls", ".ods", ".json", ".parquet"}
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val",
         "validation": "val", "test": "test", "testing": "test"}

# What the columns of public tables mean, by plain(title); of several the first counts: in ISIC 2020
# few images have a diagnosis.
COLUMN_NAMES = {
    "image": "image imageid imagename isicid imgid img filename file imagepath filepath path",
    "label": "label class benignmalignant dx diagnosis diagnostic diagnosis3 diagnosis1",
    "lesion": "lesionid group lesion lesionno lesionnumber",
    "patient": "patientid patient patientno patientnumber subjectid subject personid",
    "part": "splitbylesion split part subset set partition fold phase usage",
}
# What public sets call a class, by plain(name). HAM10000 files Bowen's disease under akiec too.
CLASS_NAMES = {
    "AK": "ack akiec actinickeratosis solaroractinickeratosis",
    "BCC": "basalcellcarcinoma",
    "BKL": "sek pigmentedbenignkeratosis benignkeratosis seborrheickeratosis solarlentigo "
           "lichenplanuslikekeratosis lichenoidkeratosis",
    "DF": "dermatofibroma",
    "MEL": "melanoma malignantmelanoma melanomainsitu melanomainvasive melanomametastasis",
    "NV": "nev nevus naevus",
    "SCC": "squamouscellcarcinoma squamouscellcarcinomainsitu squamouscellcarcinomainvasive",
    "VASC": "vascularlesion hemangioma angioma angiokeratoma pyogenicgranuloma",
    "UNK": "unknown indeterminate",
    "BENIGN": "benignlesion benignlesions",
    "MALIGNANT": "malignantlesion malignantlesions",
}
# The two-class papers. AK, a precursor, counts as malignant (our choice).
KINDS = dict.fromkeys(("BKL", "DF", "NV", "VASC", "BENIGN"), "benign")
KINDS |= dict.fromkeys(("AK", "BCC", "MEL", "SCC", "MALIGNANT"), "malignant")
KINDS["UNK"] = "unknown"


# ---- Words

def plain(text):
    """Letters and digits alone, all small: "Lesion ID" and lesion_id are one title."""
    return re.sub(r"[\W_]", "", text.casefold())


def class_name(name, binary):
    """A class as the studies call it: "akiec" is AK; binary: benign or malignant."""
    key = plain(name.removesuffix(", NOS"))
    short = key.upper()
    for known, names in CLASS_NAMES.items():
        if key in names.split():
            short = known
    if binary and short not in KINDS:
        raise UserError(f"is class {name} benign or malignant? Say it in a labels.csv (image, "
                        "label), or in CLASS_NAMES of reading.py")
    return KINDS[short] if binary else short


def is_known(name):
    return class_name(name, binary=False) in KINDS


def plain_name(name, place="class"):
    """The name of a class, without path parts, since folders are made of it."""
    if not re.fullmatch(r"[^./\\\n][^/\\\n]*", name):
        raise UserError(f"{place}: {name!r} cannot be the name of a class: rename it there")
    if "\ufffd" in name:
        raise UserError(f"{place}: {name!r} is not in UTF-8: save the table in that encoding")
    return name


def first_of(names, most=8):
    """The first names of a list, as text."""
    return ", ".join(map(str, names[:most])) + ", ..." * (len(names) > most)


def counted(things):
    """["b", "a", "b"] as text: 1 a, 2 b."""
    numbers = sorted(collections.Counter(things).items())
    return first_of([f"{n} {thing}" for thing, n in numbers], 12)


def hash_of(raw):
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


# ---- Files

def kind_of(name):
    """The suffix of a file, ".jpg" of x.JPG."""
    return Path(name).suffix.lower()


def walk(folder):
    """Every file below a folder. Links are followed last, no folder twice, so that circles end."""
    seen, waiting = set(), [folder]
    while waiting:
        for root, folders, files in os.walk(waiting.pop(0)):
            here, real = Path(root), os.path.realpath(root)
            if real in seen or "config.json" in files and here != folder:   # a job, made in the set
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            waiting += [here / name for name in folders if (here / name).is_symlink()]
            yield from [here / name for name in files]


def files_of(folder):
    """{path: function that opens it} of all files below a folder and in its zips, or of one zip."""
    files = {}
    for file in walk(folder) if folder.is_dir() else [folder]:
        path = file.relative_to(folder).as_posix()
        if kind_of(file) != ".zip":
            files[path] = functools.partial(open, file, "rb")
            continue
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError):
            raise UserError(f"{file} is not a readable zip archive: get it again") from None
        for name in archive.namelist():             # the archive's name may tell the part
            inside = f"{path[:-4]}/{name}".replace("\\", "/").lstrip("/")
            files[inside] = functools.partial(archive.open, name)
    hidden = re.compile(r"(^|/)(\.[^/]|__MACOSX)|/$|^info\.json$")
    return {name: files[name] for name in sorted(files) if not hidden.search(name)}


def contents(open_file):
    with open_file() as file:
        return file.read()


def part_of(folders):
    """The part that folders tell, the nearest to the image first: test, or else one such word in a
    longer name, as of ISIC-2017_Test_v2_Data but not of train_test_split; "" if none."""
    for folder in reversed(folders):
        if folder.lower() in PARTS:
            return PARTS[folder.lower()]
    for folder in reversed(folders):
        words = re.findall("[A-Z]?[a-z]+|[A-Z]+", folder)
        told = [PARTS[word.lower()] for word in words if word.lower() in PARTS]
        if len(told) == 1:
            return told[0]
    return ""


def decode(raw, size):
    """Bytes of an image file -> uint8 (size, size, 3): shorter side to `size`, centre crop.

    Any mode, EXIF rotation, transparency on white.
    """
    with Image.open(io.BytesIO(raw)) as image:
        image.draft("RGB", (2 * size, 2 * size))    # decodes a large JPEG at 1/2, 1/4 or 1/8
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):       # grey of 16 or 32 bits, or float
            grey = np.asarray(image, np.float64)
            bits = int(grey.max()).bit_length()     # used by the camera: 8, 10, 12, 14 or 16
            white = 2 ** max(bits + bits % 2, 8) - 1
            if grey.max() <= 1:
                white = 1
            image = Image.fromarray((grey * 255 / white).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), BICUBIC))


def photograph(open_file, size):
    """(uint8 (size, size, 3), is the file grey of more than 8 bits?)"""
    raw = contents(open_file)
    return decode(raw, size), Image.open(io.BytesIO(raw)).mode.startswith(("I", "F"))


# ---- Tables

class Table(NamedTuple):
    name: str           # path below the set's folder
    header: list
    columns: dict       # meaning: [number of its column]; "classes": of 0 and 1, one for each class
    rows: list          # (line, cells, [images that it names])

    def unused(self):
        """Numbers of the columns that tell nothing."""
        used = set(itertools.chain(*self.columns.values()))
        return [k for k in range(len(self.header)) if k not in used]

    def has_label(self):
        return "label" in self.columns or "classes" in self.columns


def finder(pictures):
    """A function that finds the pictures which a cell means: by path, file name or stem, in any
    case, with either slash, as they lay on any machine. strictly: no folder may disagree."""
    def key_of(path):
        path = path.replace("\\", "/").lower().lstrip("./")
        if kind_of(path) in SUFFIXES:
            path = path.removesuffix(kind_of(path))
        return "/" + path

    by_stem = collections.defaultdict(list)
    for name in pictures:
        key = key_of(name)
        by_stem[key.rpartition("/")[2]].append((key, name))

    def find(cell, folder="", strictly=True):
        wanted, alike = key_of(cell), []
        for key, name in by_stem.get(wanted.rpartition("/")[2], []):
            if key.endswith(wanted) or wanted.endswith(key) or not strictly:
                alike.append(name)
        same_kind = [name for name in alike if kind_of(name) == kind_of(cell)] or alike
        return [name for name in same_kind if name.startswith(folder)] or same_kind

    return find


def understood(header, named):
    """The columns of a Table, by the user's names, else by those of the public tables."""
    keys = [plain(title) for title in header]
    columns = {}
    for meaning, known in COLUMN_NAMES.items():
        wanted = known.split()
        if meaning in named:
            wanted = [plain(title) for title in named[meaning].split(",")]
        found = [keys.index(key) for key in wanted if key in keys]
        if found:
            columns[meaning] = found[:1]
        if meaning in named and meaning == "label" and len(found) > 1:
            columns["classes"] = found
    classes = [k for k, title in enumerate(header) if is_known(title)]
    if classes and "label" not in {*columns, *named}:       # as in ISIC's challenges
        columns["classes"] = classes
    if "classes" in columns:
        columns.pop("label", None)
    if "lesion" in named:
        columns.pop("patient", None)
    return columns


def not_understood(place, why, header):
    return UserError(
        f"{place} {why}. Its header: {first_of(header, 12)}. Say which columns count: --columns "
        "image=... label=... lesion=... part=... (label=A,B,C: a column of 0 and 1 for each class; "
        "label=folder: the folders are the classes; part=none: no parts), or write a labels.csv "
        "(image, label, lesion_id, split)")


def read_table(place, name, open_file, find, named):
    """The Table; without rows if, by its first lines, it names no image: then no more is read."""
    with io.TextIOWrapper(open_file(), "utf-8-sig", "replace", newline="") as text:
        first = text.readline(1_000_000)
        cells = csv.reader(itertools.chain([first], text), skipinitialspace=True,
                           delimiter=max(",;\t", key=first.count))
        lines = ((cells.line_num, [cell.strip() for cell in row]) for row in cells if any(row))
        top = list(itertools.islice(lines, 20))
        header = top[0][1] if top else []
        columns = understood(header, named)
        if "image" not in columns and any(find(title) for title in header):
            numbers = [str(k + 1) for k in range(len(header))]
            columns = understood(numbers, named)
            if len(header) == 2 and is_known(header[1]):    # ISIC 2016 has no header
                columns = dict(image=[0], label=[1])
            top.insert(0, (0, numbers))
            header = numbers
        del top[:1]
        if "image" not in columns:
            for k, title in enumerate(header):
                told = [row[k] for _, row in top if k < len(row) and not row[k].isdigit()]
                if told and len({*told}) == len(top) and all(map(find, told)):
                    raise not_understood(place, f"names images in column {title}", header)
            return Table(name, header, {}, [])
        lines = [*top, *lines]

    folder = name[:name.rfind("/") + 1]
    for strictly in (True, False):
        rows = []
        for line, row in lines:
            row += [""] * (len(header) - len(row))
            rows.append((line, row, find(row[columns["image"][0]], folder, strictly)))
        if any(names for *_, names in rows):
            break
    return Table(name, header, columns, rows)


def read_tables(folder, files, pictures, named):
    """The Tables of a set."""
    tables, find = [], finder(pictures)
    for name in files:
        if kind_of(name) not in TABLES:
            continue
        try:
            table = read_table(folder / name, name, files[name], find, named)
        except (csv.Error, OSError, RuntimeError, zipfile.BadZipFile) as problem:
            raise UserError(f"{folder / name} cannot be read as a table ({problem})") from None
        if table.columns or kind_of(name):          # LICENSE is none
            tables.append(table)
    titles = {plain(title) for table in tables for title in table.header}
    for title in ",".join(named.values()).split(","):
        if plain(title) not in titles | {"folder", "none", ""}:
            headers = "; ".join(f"{table.name}: {first_of(table.header)}" for table in tables)
            raise UserError(f"no table of {folder} has a column {title}. {headers}")
    own = [table.name for table in tables if table.has_label()
           and Path(table.name).name.lower() == "labels.csv"]
    for table in tables:
        if own and table.name not in own:       # one's own labels win over those of the set
            table.columns.pop("label", None)
            table.columns.pop("classes", None)
    return tables


def class_of(table, row, place, zeros):
    """The class that a row tells: its label, or the title of the column that holds its 1."""
    if "label" in table.columns:
        label = row[table.columns["label"][0]]
        if not label:
            raise UserError(f"{place}: the label is empty. Fill it in, take the row out, or name "
                            "another column: --columns label=...")
        return plain_name(label, place)
    ones = []
    for k in table.columns["classes"]:
        number = row[k].lower().replace("true", "1").replace("false", "0").replace(",", ".")
        if not re.fullmatch(r"[01](\.0*)?(e[+-]?0+)?", number):
            why = f"holds {row[k]!r} in column {table.header[k]}, neither 0 nor 1"
            raise not_understood(place, why, table.header)
        if number.startswith("1"):
            ones.append(table.header[k])
    if len(ones) > 1:
        raise UserError(f"{place}: one class is needed, not {' and '.join(ones)}: mend the row")
    if not ones and not zeros:
        raise UserError(f"{place}: a row of zeros. If such rows are of one further class, "
                        "--zeros CLASS names it")
    return (ones or [zeros])[0]


def values_of(folder, tables, files, zeros):
    """{meaning: {image: (text, where it stands)}} of all tables. Two that disagree are an error."""
    values = collections.defaultdict(dict)
    for table in tables:
        by_name = part_of(table.name.rpartition(".")[0].split("/"))
        for line, row, names in table.rows:
            if not names:
                continue
            place, told = f"{folder / table.name} line {line}", {}
            for meaning in ("lesion", "patient", "part"):
                told[meaning] = "".join(row[k] for k in table.columns.get(meaning, []))
            if told["part"]:
                if told["part"].lower() not in PARTS:
                    why = f"holds {told['part']!r}, which is not train, val or test"
                    raise not_understood(place, why, table.header)
                told["part"] = PARTS[told["part"].lower()]
            if table.has_label():
                told |= dict(label=class_of(table, row, place, zeros), table=by_name)
            if len({hash_of(contents(files[name])) for name in names[1:] and names}) > 1:
                raise UserError(f"{place}: {len(names)} different pictures are called so, "
                                f"{names[0]} and {names[1]}: name them by their paths")
            for name, meaning in itertools.product(names, told):
                if not told[meaning]:
                    continue
                before, where = values[meaning].setdefault(name, (told[meaning], place))
                if class_name(before, False) != class_name(told[meaning], False):
                    raise UserError(f"{name}: its {meaning} is {before!r} in {where}, but "
                                    f"{told[meaning]!r} in {place}. Mend or take out one of them, "
                                    f"or say which counts: --columns {meaning}=...")
    return values


# ---- Sets

class Row(NamedTuple):
    """One image of a set before it is decoded."""
    name: str           # path below the set's folder
    label: str
    lesion: str
    part: str           # train, val, test or ""
    patient: str
    picture: Callable   # size -> (uint8 (size, size, 3), is it grey of more than 8 bits?)


def classes_of_folders(pictures):
    """{image: class}: of its folders the nearest that is a known class, or else the nearest; no
    part's folder, and none that all images share."""
    folders = {}
    for name in pictures:
        folders[name] = [one for one in name.split("/")[:-1] if not part_of([one])]
    shared = set.intersection(*map(set, folders.values()))
    labels = {}
    for name, above in folders.items():
        own = [one for one in above if one not in shared]
        if own:
            labels[name] = ([one for one in own if is_known(one)] or own)[-1]
    only = [one for one in shared if is_known(one)] or ["unlabelled"]
    return labels or dict.fromkeys(pictures, only[0])


def check_folders(folder, tables, classes):
    """UserError if a table looks as if it, and not the folders, should say the classes."""
    for table in tables:
        place, rows = folder / table.name, [row for _, row, names in table.rows if names]
        if not rows and (table.has_label() or len(classes) < 2):
            raise not_understood(place, "names no image that is here", table.header)
        for k in table.unused() if rows else []:
            if all(is_known(row[k]) for row in rows):
                why = f"holds classes in column {table.header[k]}, whose title is unknown"
                raise not_understood(place, why, table.header)
            if sum(map(is_known, classes)) < 2:
                raise not_understood(place, "names images, but not their classes", table.header)


def without_copies(rows, files):
    """The rows without further files of the same name, class, part and content: some archives hold
    a set twice."""
    keys = [(Path(row.name).name.lower(), row.label, row.part) for row in rows]
    alike, kept, seen = collections.Counter(keys), [], set()
    for row, key in zip(rows, keys):
        if alike[key] > 1:
            key = (*key, hash_of(contents(files[row.name])))
        if key not in seen:
            kept.append(row)
        seen.add(key)
    return kept


def part_told(name, values, named):
    """The part of an image: by a column, else by its folders, else by its table's name."""
    column, _ = values["part"].get(name, ("", ""))
    folder = part_of(name.split("/")[:-1])
    table, place = values["table"].get(name, ("", ""))
    if named.get("part") == "none":
        return ""
    if not column and folder and table not in ("", folder):
        raise UserError(f"{name} lies in a folder of {folder}, but is listed in {place}. Rename "
                        "one, or --columns part=none")
    return column or folder or table


def told_by(tables, meaning):
    """"column dx of HAM10000_metadata.csv", of all tables that tell it; "" if none does."""
    words = []
    for table in tables:
        titles = [table.header[k] for k in table.columns.get(meaning, [])]
        if titles and table.rows:
            words.append(f"column {first_of(titles)} of {table.name}")
    return first_of(words)


def what_was_left(tables, rows, pictures, others, n_copies):
    """Sentences on what was not used, and why."""
    notes = []
    for table in tables:
        titles = first_of([table.header[k] for k in table.unused()], 12)
        missing = [names for *_, names in table.rows].count([])
        if not table.columns:
            notes.append(f"not used: {table.name}, which names no image: {titles}")
        elif titles:
            notes.append(f"not used: column {titles} of {table.name}")
        if missing:
            notes.append(f"left out: {missing} of {len(table.rows)} rows of {table.name}, whose "
                         "images are not here")
    lacking = sorted(set(pictures) - {row.name for row in rows})
    if lacking:
        notes.append(f"left out: {len(lacking)} of {len(pictures)} images, which no table or "
                     f"folder gives a class: {first_of(lacking, 3)}")
    if others:
        notes.append(f"left out, no images: {counted(others)}")
    if n_copies:
        notes.append(f"left out: {n_copies} further files of the same name and content")
    return notes


def what_decides(tables, rows, classes):
    """Sentences on what tells classes, lesions and parts."""
    lesions, patients = told_by(tables, "lesion"), told_by(tables, "patient")
    alone = sum(row.lesion == row.name for row in rows)
    if patients:
        lesions = f"{lesions or 'no lesion_id'}, else {patients}, whose images stay together"
    parts = "not given"
    if any(row.part for row in rows):
        parts = told_by(tables, "part") or "names of folders or tables"
    return [f"classes: {classes}",
            f"lesions: {lesions or 'not given'}; {alone} of {len(rows)} images count on their own",
            f"parts: {parts}"]


def read_rows(folder, zeros=None, named=None, label=None):
    """([Row, ...], [sentences that say how the set was understood]).

    zeros: the class of rows that hold only zeros; named: {meaning: titles of columns} by the user;
    label: the class of all images, whatever tables and folders say.
    """
    named = named or {}
    if not folder.exists():
        raise UserError(f"{folder} does not exist")
    files = files_of(folder)
    pictures = [name for name in files if kind_of(name) in SUFFIXES]
    others = [kind_of(name) for name in files if kind_of(name) not in SUFFIXES + TABLES]
    if not pictures:
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)}), but "
                        f"{counted(others) or 'nothing'}")
    if label:
        pictures = {name: functools.partial(photograph, files[name]) for name in pictures}
        return [Row(name, label, name, "", "", pictures[name]) for name in pictures], []
    tables = read_tables(folder, files, pictures, named)
    values = values_of(folder, tables, files, zeros)
    labels = {name: label for name, (label, _) in values["label"].items()}
    told = told_by(tables, "label") or told_by(tables, "classes")
    if not labels:
        labels = classes_of_folders(pictures)
        classes = sorted(set(labels.values()))
        told = f"folders {first_of(classes)}"
        if named.get("label") != "folder":
            check_folders(folder, tables, classes)
        if classes == ["unlabelled"] and SHEETS.intersection(others):
            raise UserError(f"{folder} has no class folders, but {counted(others)}: save the sheet "
                            "that tells the classes as .csv")

    rows, spelled = [], {}
    for name, label in labels.items():
        label = spelled.setdefault(label.casefold(), label)     # Benign is benign
        part = part_told(name, values, named)
        lesion, _ = values["lesion"].get(name, ("", ""))
        patient, _ = values["patient"].get(name, ("", ""))
        if patient and not lesion:
            lesion = f"patient {patient}"
        picture = functools.partial(photograph, files[name])
        rows.append(Row(name, label, lesion or name, part, patient, picture))
    kept = without_copies(rows, files)
    n_copies = len(rows) - len(kept)
    left = what_was_left(tables, rows, pictures, others, n_copies)
    return kept, what_decides(tables, rows, told) + left
