"""reading.py: what other people's sets of photographs mean. Files and tables in, rows out.

One rule: what decides classes, lesions and parts is said; what looks as if it should and is not
understood is an error that shows the header. Folders give classes only where no table does.
"""
import csv
import hashlib
import io
import os
import re
import zipfile
from collections import Counter, defaultdict
from functools import partial
from itertools import chain, islice, product, repeat
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jobs import UserError

csv.field_size_limit(10 ** 9)   # a cell may hold a contour
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".tsv", ".tab")
TEXTS = ("", ".txt")    # tables too, if a header or list names images
SHEETS = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".parquet", ".xml", ".yaml", ".yml")
EMPTY = {"", "-", "?", "na", "n/a", "nan", "null"}
NO_ID = EMPTY | {"none", "unknown"}
ONE = re.compile(r"(?i)1([.,]0*)?(e[+-]?0+)?|true")
ZERO = re.compile(r"(?i)0([.,]0*)?(e[+-]?0+)?|false")
MASKS = re.compile(r"(?i)(^|/)(masks?|segmentations?|superpixels|ground[\W_]?truth)/")
MASK = re.compile(r"[-_](mask|segmentation|superpixels|seg)(_\d+)?$")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
PATIENT = re.compile(r"(?i)(lesion|patient|subject|case)[\W_]*\d+")
ID = re.compile("(lesion|patient|subject|case)(id|nr|no|num|number|code)?$")
PARTS = dict.fromkeys(("train", "training", "trainset"), "train")
PARTS |= dict.fromkeys(("val", "valid", "validation", "valset", "validset", "dev"), "val")
PARTS |= dict.fromkeys(("test", "testing", "testset", "eval", "evaluation", "holdout"), "test")

# What titles mean, by plain(title). The first counts: in ISIC 2020 few images have a diagnosis.
COLUMN_NAMES = {
    "image": "image imageid imagename isicid imgid img filename file imagepath filepath path",
    "label": "label class benignmalignant dx diagnosis diagnostic diagnosis3 diagnosis1",
    "lesion": "lesionid lesionno lesionnumber",
    "patient": "patientid patient patientno patientnumber subjectid subject personid",
    "part": "splitbylesion split part subset set partition fold phase usage",
}
DECISIVE = ("label", "lesion", "patient", "part")

# Names of classes, by plain(name). HAM10000 files Bowen's disease under akiec too.
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
KNOWN = {name: short for short, names in CLASS_NAMES.items() for name in names.split()}
# The two-class papers. AK, a precursor, counts as malignant (our choice).
KINDS = dict.fromkeys(("BKL", "DF", "NV", "VASC", "BENIGN"), "benign")
KINDS |= dict.fromkeys(("AK", "BCC", "MEL", "SCC", "MALIGNANT"), "malignant")
KINDS["UNK"] = "unknown"


# ---- Words

def plain(text):
    """Letters and digits alone, all small: "Lesion ID" and lesion_id are one title."""
    return re.sub(r"[\W_]", "", text.casefold())


def class_name(name, binary=False):
    """A class as the studies call it: "akiec" is AK; binary: benign or malignant."""
    key = plain(name.removesuffix(", NOS"))
    short = KNOWN.get(key, key.upper())
    if not binary:
        return short
    if short not in KINDS:
        raise UserError(f"is class {name} benign or malignant? Write a labels.csv, or "
                        "--columns label=... or label=folder")
    return KINDS[short]


def is_known(name):
    return class_name(name) in KINDS


def plain_name(name, place="class"):
    """The name of a class, without path parts, since folders are made of it."""
    if not re.fullmatch(r"[^./\\\n\ufffd][^/\\\n\ufffd]*", name):
        raise UserError(f"{place}: a class cannot be called {name!r} (empty, a path, not UTF-8)")
    return name


def first_of(names, most=8):
    """["a", "b", "c"] as text: a, b, c, or of more than `most` a, b, ... (400)."""
    return ", ".join(map(str, names[:most])) + f", ... ({len(names)})" * (len(names) > most)


def counted(things):
    """["b", "a", "b"] as text: 1 a, 2 b."""
    numbers = sorted(Counter(things).items())
    return first_of([f"{n} {thing}" for thing, n in numbers], 12)


def hash_of(raw):
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


# ---- Files and folders

def kind_of(name):
    return Path(name).suffix.lower()


def walk(folder, seen):
    """Every file below a folder, links last, no job's, and no folder twice."""
    if (folder / ".lock").exists() or folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.is_dir():
            yield from walk(path, seen)
        else:
            yield path


def files_of(folder):
    """{path: function that reads it} of the files of a folder and its zips, or of one zip."""
    files = {}
    for file in walk(folder, set()) if folder.is_dir() else [folder]:
        path = file.relative_to(folder).as_posix()
        if kind_of(file) != ".zip":
            files[path] = file.read_bytes
            continue
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError):
            raise UserError(f"{file} is not a readable zip: get it again") from None
        for name in archive.namelist():     # the archive's name may tell the part
            if kind_of(name) == ".zip":
                raise UserError(f"{file} holds another zip, {name}: unpack it")
            inside = f"{path[:-4]}/{name}".replace("\\", "/").lstrip("/")
            files[inside] = partial(archive.read, name)
    hidden = re.compile(r"(^|/)(\.[^/]|__MACOSX)|/$|^info\.json$")
    return {name: files[name] for name in sorted(files) if not hidden.search(name)}


def decode(read, size):
    """What read() gives, an image file -> uint8 (size, size, 3): shorter side to `size`, centre
    crop; any mode, EXIF rotation, transparency on white."""
    with Image.open(io.BytesIO(read())) as image:
        image.draft("RGB", (2 * size, 2 * size))    # decodes a large JPEG at 1/2, 1/4 or 1/8
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):   # more than 8 bits
            grey = np.asarray(image, np.float64)
            bits = int(grey.max()).bit_length()     # used by the camera: 8, 10, 12, 14 or 16
            white = 2 ** max(bits + bits % 2, 8) - 1 if grey.max() > 1 else 1
            image = Image.fromarray((grey * 255 / white).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.BICUBIC))


def kinds_of(files):
    """{file: its suffix, or "mask": by its folder, or by its name beside a picture's}."""
    kinds = {name: kind_of(name) for name in files}
    stems = {Path(name).stem.lower() for name in files if kinds[name] in SUFFIXES}
    for name, kind in kinds.items():
        stem = Path(name).stem.lower()
        picture = MASK.sub("", stem)
        if kind in SUFFIXES and (MASKS.search(name) or picture != stem and picture in stems):
            kinds[name] = "mask"
    return kinds


def part_of(folders):
    """The part that the nearest folder called so tells, else the nearest with one such word in its
    name (not train_test_split), or ""."""
    nearest = folders[::-1]
    for words in [*([folder] for folder in nearest), *map(WORD.findall, nearest)]:
        told = [PARTS[word.lower()] for word in words if word.lower() in PARTS]
        if len(told) == 1:
            return told[0]
    return ""


def class_of_folder(folder):
    """What class a folder may tell: train_benign benign, train or train_2 none, ""."""
    if not part_of([folder]):
        return folder
    rest = " ".join(word for word in WORD.findall(folder) if word.lower() not in PARTS)
    return rest if is_known(rest) else ""


def classes_of_folders(pictures):
    """{image: class}: its nearest folder of a known class, else its nearest, but none of all."""
    folders, labels = {}, {}
    for name in pictures:
        folders[name] = [*filter(None, map(class_of_folder, name.split("/")[:-1]))]
    shared = set.intersection(*map(set, folders.values()))
    for name, above in folders.items():
        own = sorted((folder for folder in above if folder not in shared), key=is_known)
        if own:                     # the known ones are last
            labels[name] = own[-1]
    only = [*filter(is_known, above)] or ["unlabelled"]  # all share them
    return labels or dict.fromkeys(folders, only[-1])


# ---- Tables

class Table(NamedTuple):
    name: str           # path below the set's folder
    header: list
    columns: dict       # {meaning or "unused": [titles]}, [] where there is none
    rows: list          # (where it stands, {title: cell}, [images]) of rows that name images
    lost: list          # what the other rows call their images


def finder(pictures):
    """A function: cell -> the pictures of its stem whose paths are most like it, as a list."""
    def parts_of(path):
        path = path.replace("\\", "/").lower()
        if kind_of(path) in SUFFIXES:
            path = path.removesuffix(kind_of(path))
        return path.split("/")[::-1]

    by_stem = defaultdict(list)
    for name in pictures:
        by_stem[parts_of(name)[0]].append(name)

    def find(cell, beside=""):
        wanted, likeness = parts_of(cell), {}
        for name in by_stem.get(wanted[0], []):
            common = len(os.path.commonprefix([parts_of(name), wanted]))
            likeness[name] = common, name.startswith(beside), kind_of(name) == kind_of(cell)
        best = max(likeness.values(), default=None)
        return [name for name in likeness if likeness[name] == best]

    return find


def understood(header, named):
    """The columns of a Table. A label is one column, or a column of 0 and 1 for each class."""
    keys = {plain(title): title for title in header}
    columns = {}
    for meaning, titles in (COLUMN_NAMES | named).items():
        if meaning == "image":          # each table may have its own
            titles += " " + COLUMN_NAMES["image"]
        found = [keys[key] for key in titles.split() if key in keys]
        columns[meaning] = found if meaning in named else found[:1]
    if not columns["label"] and "label" not in named:       # as in ISIC's challenges
        columns["label"] = [*filter(is_known, header)]
    columns["unused"] = [title for title in header if title not in chain(*columns.values())]
    return columns


def unclear(place, why, header):
    return UserError(
        f"{place} {why}. Its header: {first_of(header, 12)}. Say --columns image=... label=... (or "
        "label=A,B,C of 0 and 1, label=folder) lesion=... patient=... part=... (or lesion=none, "
        "part=none), or write a labels.csv (image, label, lesion_id, patient_id, split), or move "
        "it away")


def lines_of(place, name, raw, find):
    """(mark between the cells, iterator of (number of a line, its cells)) of a table."""
    text = re.sub("^sep=.*", "", raw.decode("utf-8-sig", "replace"))    # Excel's first line
    first = text.lstrip().partition("\n")[0]
    if "\0" in first and kind_of(name) in TABLES:
        raise UserError(f"{place} is not in UTF-8: save it so")
    mark = max(",;\t|", key=first.count)
    if kind_of(name) in TEXTS and mark not in first and not find(first.strip()):
        mark = " "          # a list such as "nevus/1.jpg 0"
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    return mark, ((cells.line_num, [cell.strip() for cell in row]) for row in cells if any(row))


def read_table(place, name, raw, find, named, strict):
    """The Table; without rows if no known column names images: other columns must not, either."""
    find = partial(find, beside=name[:name.rfind("/") + 1])
    mark, lines = lines_of(place, name, raw, find)
    top = next(lines, (0, []))
    header, rows, lost = top[1], [], []
    if any(map(find, header)) and not understood(header, {})["image"]:      # no header
        lines = chain([top], lines)
        header = ["image", "label"][:len(header)]       # a list, or as of ISIC 2016
        if "image" in named or len(top[1]) > 2 or not all(map(is_known, top[1][1:])):
            header = [str(k + 1) for k in range(len(top[1]))]
    columns = understood(header, named)
    if not columns["image"]:
        first = [zip(header, cells) for _, cells in islice(lines, 20)]
        for title, cell in chain(*first):
            if strict and find(cell) and not cell.isdigit():
                raise unclear(place, f"has images in column {title}", header)
        return Table(name, header, columns, rows, lost)
    for line, cells in lines:
        if any(cells[len(header):]):
            why = f"line {line} has more cells than the header: quote those that hold {mark!r}"
            raise unclear(place, why, header)
        row = dict(zip(header, chain(cells, repeat(""))))
        names = find(row[columns["image"][0]])
        if names:
            rows.append((f"{place} line {line}", row, names))
        else:
            lost.append(row[columns["image"][0]])
    for meaning in ("lesion", "patient", "part"):
        cells = {row[title].lower() for title in columns[meaning] for _, row, _ in rows}
        if rows and cells <= NO_ID:         # an empty column is none
            columns[meaning] = []
    return Table(name, header, columns, rows, lost)


def read_tables(folder, files, kinds, find, named):
    """The Tables of a set. What a labels.csv tells counts in no other."""
    tables, own = [], [name for name in files if Path(name).name.lower() == "labels.csv"]
    for name in filter(lambda name: kinds[name] in (*TABLES, *TEXTS), files):
        try:
            table = read_table(folder / name, name, files[name](), find, named, not own)
        except (csv.Error, OSError, RuntimeError, zipfile.BadZipFile) as problem:
            raise UserError(f"{folder / name} cannot be read ({problem})") from None
        if kind_of(name) in TABLES or table.columns["image"]:
            tables.append(table)
            kinds[name] = "table"
    titles = set(map(plain, chain(*[table.header for table in tables])))
    missing = set(" ".join(named.values()).split()) - titles
    if missing:
        headers = {table.name: first_of(table.header) for table in tables}
        raise UserError(f"no table of {folder} has a column {first_of(sorted(missing))}: {headers}")
    for meaning, table in product(DECISIVE, tables):
        if table.name not in own and any(one.columns[meaning] for one in tables if one.name in own):
            table.columns["unused"] += table.columns[meaning]
            table.columns[meaning] = []
    return tables


def class_of(table, row, place, zeros):
    """The class of a row: its label, or the title of the column that holds its 1."""
    titles = table.columns["label"]
    cells = [row[title] for title in titles]
    if len(titles) == 1 and not is_known(titles[0]):
        if cells[0].lower() in EMPTY:
            raise unclear(place, f"has no label in column {titles[0]}", table.header)
        return plain_name(cells[0], place)
    ones = [title for title, cell in zip(titles, cells) if ONE.fullmatch(cell)]
    rest = [cell for cell in cells if ZERO.fullmatch(cell) or ones and cell == ""]
    if len(ones) > 1 or len(ones) + len(rest) < len(cells):
        why = f"holds {first_of([*map(repr, cells)])} for {first_of(titles)}, not one 1 among 0"
        raise unclear(place, why, table.header)
    if not ones and not zeros:
        raise UserError(f"{place}: a row of zeros: if it is a further class, name it by --zeros")
    return (ones or [zeros])[0]


def values_of(tables, files, zeros, named):
    """{(meaning, image): text}. Two rows that disagree are an error."""
    values = defaultdict(str)
    for table in tables:
        of_table = part_of(Path(table.name).with_suffix("").parts)
        for place, row, names in table.rows:
            if len(names) > 1 and len({hash_of(files[name]()) for name in names}) > 1:
                raise UserError(f"{place}: different pictures, give paths: {first_of(names)}")
            told = {}
            for meaning in ("lesion", "patient", "part"):
                cells = [row[title] for title in table.columns[meaning]]
                told[meaning] = " ".join(cell for cell in cells if cell.lower() not in NO_ID)
            if told["part"].lower() not in ("", *PARTS):
                why = f"holds {told['part']!r}, which is not train, val or test"
                raise unclear(place, why, table.header)
            told["part"] = PARTS.get(told["part"].lower())
            if table.columns["label"]:
                told["label"] = class_of(table, row, place, zeros)
            # train.csv tells the part if it lists images, or tells classes; no metadata table does
            a_list = table.header[0] == "1" or len(table.header) == 1
            if "part" not in named and (a_list or understood(table.header, {})["label"]):
                told["table"] = of_table
            for name, meaning in product(names, filter(told.get, told)):
                text = told[meaning]
                before = values.setdefault((meaning, name), text)
                same = class_name(before) == class_name(text) and meaning == "label"
                if before != text and not same:
                    what = meaning.replace("table", "part")
                    raise UserError(f"{place}: {what} of {name} is {text!r}, elsewhere {before!r}: "
                                    f"--columns {what}=..., or a labels.csv (image, {what})")
    return values


def told_by(tables, *meanings):
    """"column dx of HAM10000_metadata.csv", or "" if no table tells it."""
    words = []
    for meaning, table in product(meanings, tables):
        if table.columns[meaning] and table.rows:
            words.append(f"column {first_of(table.columns[meaning], 12)} of {table.name}")
    return first_of(words)


def refuse_doubts(folder, files, tables, labels, named):
    """UserError: something seems to tell classes, lesions or parts, but does not."""
    told = {meaning for meaning in DECISIVE if told_by(tables, meaning)}
    settled = told | named.keys()
    if "patient" in settled:
        settled.add("lesion")
    for meaning, table in product(DECISIVE, tables):
        if table.columns[meaning] and meaning not in told:
            why = f"tells the {meaning} of no image here, of {first_of(table.lost, 2) or 'none'}"
            raise unclear(folder / table.name, why, table.header)
    for table, title in [(table, title) for table in tables for title in table.columns["unused"]]:
        cells = {row[title].lower() for _, row, _ in table.rows} - NO_ID
        seems = ""
        is_part = re.sub("^(is|in)", "", plain(title)) in PARTS     # is_test
        if is_part or cells <= set(PARTS):
            seems = "part"
        if ID.search(plain(title)):
            seems = "lesion"
        if len(cells) > 1 and all(map(is_known, cells)):
            seems = "label"
        if cells and seems and seems not in settled:
            why = f"seems to tell the {seems} in column {title}: --columns {seems}={title} or none"
            raise unclear(folder / table.name, why, table.header)

    headers = [f"{table.name} ({first_of(table.header)})" for table in tables]
    headers += [f"{name} (save it as .csv)" for name in files if kind_of(name) in SHEETS]
    classes = set(labels.values())
    if headers and "label" not in settled and sum(map(is_known, classes)) < min(2, len(classes)):
        raise unclear(folder, "has tables that tell no class", headers)
    folders = {folder for name in labels for folder in name.split("/")[:-1]}
    seem = sorted(filter(PATIENT.fullmatch, folders))
    if seem and "lesion" not in settled:
        raise UserError(f"folders {first_of(seem)} seem to tell lesions or patients: write a "
                        "labels.csv (image, label, patient_id), or --columns patient=none")


# ---- Sets

class Row(NamedTuple):
    name: str           # path below the set's folder
    label: str
    lesion: str
    part: str           # train, val, test or ""
    patient: str
    picture: Callable   # size -> uint8 (size, size, 3)


def rows_of(labels, files, values):
    """A Row of each image, but one of all of the same name, class, part and content."""
    rows, spelled = {}, {}
    times = Counter(Path(name).name.lower() for name in labels)
    patients = defaultdict(set)         # of each lesion
    for name in labels:
        patients[values["lesion", name]].add(values["patient", name])
    for name, label in labels.items():
        label = spelled.setdefault(label.casefold(), label)     # Benign is benign
        lesion, patient = values["lesion", name], values["patient", name]
        # Lesion 1 of patient A is not lesion 1 of patient B
        if patient and (not lesion or len(patients[lesion] - {""}) > 1):
            lesion = f"patient {patient} {lesion}".strip()
        part = values["part", name] or part_of(name.split("/")[:-1]) or values["table", name]
        file_name = Path(name).name.lower()
        content = times[file_name] > 1 and hash_of(files[name]())
        picture = partial(decode, files[name])
        row = Row(name, label, lesion or name, part, patient, picture)
        rows.setdefault((file_name, label, part, content), row)
    return list(rows.values())


def notes_on(tables, rows, labels, kinds):
    """Sentences: what tells classes, lesions and parts, and what was not used."""
    classes = told_by(tables, "label") or f"folders {first_of(sorted(set(labels.values())))}"
    lesions = told_by(tables, "lesion", "patient") or "not given"
    alone = sum(row.lesion == row.name for row in rows)
    free = sum(not row.part for row in rows)
    parts = "not given"
    if free < len(rows):
        parts = told_by(tables, "part") or "names of folders or tables"
    notes = [f"classes: {classes}",
             f"lesions: {lesions}; {alone} of {len(rows)} images are on their own",
             f"parts: {parts}; {free} of {len(rows)} images have none"]

    lost = [name for name, kind in kinds.items() if kind in SUFFIXES and name not in labels]
    twice = sorted(labels.keys() - {row.name for row in rows})
    others = [kind for kind in kinds.values() if kind not in ("", "table", *SUFFIXES)]
    unused = {"images of no class": first_of(lost, 3), "no photographs": counted(others),
              "second files of one content": first_of(twice, 3)}
    for table in tables:
        unused[f"columns of {table.name}"] = first_of(table.columns["unused"], 12)
        unused[f"rows of {table.name}, no such images here"] = first_of(table.lost, 3)
    return notes + [f"not used, {what}: {text}" for what, text in unused.items() if text]


def read_rows(folder, zeros=None, columns=()):
    """([Row, ...], [sentences on how the set was read]). zeros: the class of rows of zeros;
    columns: what they mean, as ("label", "dx") or ("part", "none")."""
    files = files_of(folder)
    kinds = kinds_of(files)
    pictures = [name for name, kind in kinds.items() if kind in SUFFIXES]
    if not pictures:
        found = counted(filter(None, kinds.values())) or "nothing"
        raise UserError(f"{folder} does not exist, is not done, or holds no images but {found}")
    named = dict.fromkeys((meaning for meaning, _ in columns), "")
    for meaning, titles in columns:                 # what is said twice adds
        if titles not in ("folder", "none"):
            named[meaning] += " ".join(map(plain, titles.split(","))) + " "

    tables = read_tables(folder, files, kinds, finder(pictures), named)
    values = values_of(tables, files, zeros, named)
    labels = {name: text for (what, name), text in values.items() if what == "label"}
    labels = labels or classes_of_folders(pictures)
    refuse_doubts(folder, files, tables, labels, named)
    rows = rows_of(labels, files, values)
    return rows, notes_on(tables, rows, labels, kinds)
