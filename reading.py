"""reading.py: what other people's sets of photographs mean. Files and tables in, rows out.

One rule: what decides classes, lesions and parts is said; what looks as if it should and is not
understood is an error that shows the header. Folders give classes only where no table does.
"""
import collections
import contextlib
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

Image.MAX_IMAGE_PIXELS = 64_000_000     # of one file: 192 MB; where Pillow warns, we refuse
warnings.simplefilter("error", Image.DecompressionBombWarning)
csv.field_size_limit(10 ** 9)           # a contour in one cell is no error
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".tsv", ".tab")
TEXTS = ("", ".txt")                    # tables too, if a header or list names images
DEEP = ("I", "F")                       # Pillow's modes of grey of 16 or 32 bits, or float
SHEETS = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".parquet", ".xml", ".yaml", ".yml")
EMPTY = {"", "-", "?", "na", "n/a", "nan", "null"}      # cells that say nothing, in small letters
NO_ID = EMPTY | {"none", "unknown"}
ONE = re.compile(r"(?i)1([.,]0*)?(e[+-]?0+)?|true")
ZERO = re.compile(r"(?i)0([.,]0*)?(e[+-]?0+)?|false")
MASKS = re.compile(r"(?i)(^|/)(masks?|segmentations?|superpixels|ground[\W_]?truth)/")
MASK = re.compile(r"[-_](mask|segmentation|superpixels|seg)(_\d+)?$")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
PATIENT = re.compile(r"(?i)(lesion|patient|subject|case)[\W_]*\d+")
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


def class_name(name, binary=False):
    """A class as the studies call it: "akiec" is AK; binary: benign or malignant."""
    key = plain(name.removesuffix(", NOS"))
    short = key.upper()
    for known, names in CLASS_NAMES.items():
        if key in names.split():
            short = known
    if not binary:
        return short
    if short not in KINDS:
        raise UserError(f"is class {name} benign or malignant? Say it in a labels.csv, or "
                        "name other classes: --columns label=... or label=folder")
    return KINDS[short]


def is_known(name):
    return class_name(name) in KINDS


def plain_name(name, place="class"):
    """The name of a class, without path parts, since folders are made of it."""
    if not re.fullmatch(r"[^./\\\n\ufffd][^/\\\n\ufffd]*", name):
        raise UserError(f"{place}: a class cannot be called {name!r} (empty, a path, or not UTF-8)")
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
    return Path(name).suffix.lower()


def walk(folder, seen):
    """Every file below a folder, links last, but of no job. No folder is seen twice."""
    if (folder / ".lock").exists() or folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.is_dir():
            yield from walk(path, seen)
        else:
            yield path


def files_of(folder):
    """{path: function that reads it} of all files below a folder and in its zips, or of one zip."""
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
        for name in archive.namelist():             # the archive's name may tell the part
            if kind_of(name) == ".zip":
                raise UserError(f"{file} holds another zip, {name}: unpack it")
            inside = f"{path[:-4]}/{name}".replace("\\", "/").lstrip("/")
            files[inside] = functools.partial(archive.read, name)
    hidden = re.compile(r"(^|/)(\.[^/]|__MACOSX)|/$|^info\.json$")
    return {name: files[name] for name in sorted(files) if not hidden.search(name)}


def decode(read, size):
    """What read() gives, an image file -> uint8 (size, size, 3): shorter side to `size`, centre
    crop; any mode, EXIF rotation, transparency on white."""
    with Image.open(io.BytesIO(read())) as image:
        image.draft("RGB", (2 * size, 2 * size))    # decodes a large JPEG at 1/2, 1/4 or 1/8
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(DEEP):
            grey = np.asarray(image, np.float64)
            bits = int(grey.max()).bit_length()     # used by the camera: 8, 10, 12, 14 or 16
            white = 2 ** max(bits + bits % 2, 8) - 1 if grey.max() > 1 else 1
            image = Image.fromarray((grey * 255 / white).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.BICUBIC))


def is_mask(name, stems):
    """Is it no photograph but a mask: by its folder, or by its name beside a picture's?"""
    stem = Path(name).stem.lower()
    picture = MASK.sub("", stem)
    return bool(MASKS.search(name)) or picture != stem and picture in stems


def is_deep(read):
    """Is it grey of more than 8 bits? What is no image is told later."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(read())) as image:
        return image.mode.startswith(DEEP)
    return False


# ---- Folders

def part_of(folders):
    """The part that folders tell, the nearest to the image first: test, or else one such word in a
    longer name, as of ISIC-2017_Test_v2_Data but not of train_test_split; "" if none."""
    nearest = folders[::-1]
    longer = map(WORD.findall, nearest)
    for words in [*([folder] for folder in nearest), *longer]:
        told = [PARTS[word.lower()] for word in words if word.lower() in PARTS]
        if len(told) == 1:
            return told[0]
    return ""


def class_of_folder(folder):
    """What class a folder may be: benign if train_benign, but none, "", if train or train_2."""
    if not part_of([folder]):
        return folder
    rest = " ".join(word for word in WORD.findall(folder) if word.lower() not in PARTS)
    return rest if is_known(rest) else ""


def classes_of_folders(pictures):
    """{image: class}: of its folders the nearest that is a known class, or else the nearest; no
    part's folder, and none that all images share."""
    folders, labels = {}, {}
    for name in pictures:
        folders[name] = [*filter(None, map(class_of_folder, name.split("/")[:-1]))]
    shared = set.intersection(*map(set, folders.values()))
    for name, above in folders.items():
        own = [folder for folder in above if folder not in shared]
        nearest = [*filter(is_known, own)] or own
        if nearest:
            labels[name] = nearest[-1]
    only = [*filter(is_known, above)] or ["unlabelled"]     # all share their folders: the last's
    return labels or dict.fromkeys(folders, only[-1])


# ---- Tables

class Table(NamedTuple):
    name: str           # path below the set's folder
    header: list
    columns: dict       # {meaning or "unused": [titles]}, [] where there is none
    rows: list          # (where it stands, {title: cell}, [images]) of the rows that name images
    lost: list          # what the other rows call their images


def finder(pictures):
    """A function that finds the pictures which a cell means: of those of its stem, in any case, the
    ones whose paths end most like the cell, then those below the table's folder."""
    def parts_of(path):
        path = path.replace("\\", "/").lower()
        if kind_of(path) in SUFFIXES:
            path = path.removesuffix(kind_of(path))
        return path.split("/")[::-1]

    by_stem = collections.defaultdict(list)
    for name in pictures:
        by_stem[parts_of(name)[0]].append(name)

    def find(cell, beside=""):
        def likeness(name):
            common = os.path.commonprefix([parts_of(name), parts_of(cell)])
            return len(common), name.startswith(beside), kind_of(name) == kind_of(cell)

        names = by_stem.get(parts_of(cell)[0], [])
        best = max(map(likeness, names), default=None)
        return [name for name in names if likeness(name) == best]

    return find


def understood(header, named):
    """The columns of a Table. A label is one column, or several of 0 and 1, one for each class."""
    keys = {plain(title): title for title in header}
    columns = {}
    for meaning, titles in (COLUMN_NAMES | named).items():
        if meaning == "image":          # each table may have its own
            titles += " " + COLUMN_NAMES["image"]
        found = [keys[key] for key in titles.split() if key in keys]
        columns[meaning] = found if meaning in named else found[:1]
    if not columns["label"] and "label" not in named:       # as in ISIC's challenges
        columns["label"] = [*filter(is_known, header)]
    used = set(itertools.chain(*columns.values()))
    columns["unused"] = [title for title in header if title not in used]
    return columns


def not_understood(place, why, header):
    return UserError(
        f"{place} {why}. Its header: {first_of(header, 12)}. Say which columns count: --columns "
        "image=... label=... (or label=A,B,C: of 0 and 1; label=folder) lesion=... patient=... "
        "part=... (or lesion=none, patient=none, part=none: no column), or write a labels.csv "
        "(image, label, lesion_id, patient_id, split), or move it out of the set's folder")


def lines_of(place, name, raw, find):
    """(mark between the cells, iterator of (number of a line, its cells)) of a table."""
    text = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", "replace", newline="")
    first = text.readline()
    if first.startswith("sep="):                # as Excel writes it; line 2 is still line 2
        first = "\n" + text.readline()
    if "\0" in first and kind_of(name) in TABLES:
        raise UserError(f"{place} is not in UTF-8: save it in that encoding")
    mark = max(",;\t|", key=first.count)
    if kind_of(name) in TEXTS and mark not in first and not find(first.strip()):
        mark = " "                              # a list such as "nevus/1.jpg 0"
    both = itertools.chain(io.StringIO(first), text)
    cells = csv.reader(both, delimiter=mark, skipinitialspace=True)
    return mark, ((cells.line_num, [cell.strip() for cell in row]) for row in cells if any(row))


def refuse_other_images(place, row, own, find):
    """UserError: a cell names pictures that are not the row's own."""
    for title, cell in row.items():
        meant = find(cell)
        if meant and not cell.isdigit() and set(meant).isdisjoint(own):
            raise not_understood(place, f"has images in column {title}", [*row])


def read_table(place, name, raw, find, named, strict):
    """The Table, without rows if no known column names images: its first rows alone are parsed.
    strict: where the user named no such column, no further one may name other images."""
    find = functools.partial(find, beside=name[:name.rfind("/") + 1])
    mark, lines = lines_of(place, name, raw, find)
    top = next(lines, (0, []))
    header = top[1]
    if any(map(find, header)) and not understood(header, {})["image"]:
        # There is no header: columns are called by their numbers
        lines = itertools.chain([top], lines)
        header = [str(k + 1) for k in range(len(header))]
        of_two = len(header) == 2 and is_known(top[1][1])       # as of ISIC 2016
        if "image" not in named and (len(header) == 1 or of_two):
            header = ["image", "label"][:len(header)]
    columns, rows, lost = understood(header, named), [], []
    image = "".join(columns["image"][:1])
    strict = strict and not (image and "image" in named)
    for k, (line, cells) in enumerate(lines):
        if image and any(cells[len(header):]):
            why = f"line {line} has more cells than the header: quote those that hold {mark!r}"
            raise not_understood(place, why, header)
        row = dict(zip(header, itertools.chain(cells, itertools.repeat(""))))
        names = []
        if image:
            names = find(row[image])
        elif k == 20:
            break
        if strict and k < 20:
            refuse_other_images(place, row, names, find)
        if names:
            rows.append((f"{place} line {line}", row, names))
        elif image:
            lost.append(row[image])
    for meaning in ("lesion", "patient", "part"):
        cells = {row[title].lower() for title in columns[meaning] for _, row, _ in rows}
        if rows and cells <= NO_ID:                 # an empty column is none
            columns[meaning] = []
    return Table(name, header, columns, rows, lost)


def read_tables(folder, files, find, named):
    """The Tables of a set. What a labels.csv tells counts in no other."""
    tables, own = [], [name for name in files if Path(name).name.lower() == "labels.csv"]
    for name in files:
        if kind_of(name) not in (*TABLES, *TEXTS):
            continue
        strict = not own or name in own
        try:
            table = read_table(folder / name, name, files[name](), find, named, strict)
        except (csv.Error, OSError, RuntimeError, zipfile.BadZipFile) as problem:
            raise UserError(f"{folder / name} cannot be read as a table ({problem})") from None
        if kind_of(name) in TABLES or table.columns["image"]:
            tables.append(table)
    titles = set(map(plain, itertools.chain(*[table.header for table in tables])))
    for title in " ".join(named.values()).split():
        if title not in titles:
            headers = {table.name: first_of(table.header) for table in tables}
            raise UserError(f"no table of {folder} has a column {title}: {headers}")
    for meaning, table in itertools.product(DECISIVE, tables):
        if table.name not in own and any(one.columns[meaning] for one in tables if one.name in own):
            table.columns["unused"] += table.columns[meaning]
            table.columns[meaning] = []
    return tables


def class_of(table, row, place, zeros):
    """The class that a row tells: its label, or the title of the column that holds its 1."""
    titles = table.columns["label"]
    cells = [row[title] for title in titles]
    if len(titles) == 1 and not is_known(titles[0]):
        if cells[0].lower() in EMPTY:
            raise not_understood(place, f"has no label in column {titles[0]}", table.header)
        return plain_name(cells[0], place)
    ones = [title for title, cell in zip(titles, cells) if ONE.fullmatch(cell)]
    rest = [cell for cell in cells if ZERO.fullmatch(cell) or ones and cell == ""]
    if len(ones) > 1 or len(ones) + len(rest) < len(cells):
        why = f"holds {first_of([*map(repr, cells)])} for {first_of(titles)}, not one 1 among 0"
        raise not_understood(place, why, table.header)
    if not ones and not zeros:
        raise UserError(f"{place}: a row of zeros: if they are a further class, name it by --zeros")
    return (ones or [zeros])[0]


def values_of(tables, files, zeros, named):
    """{(meaning, image): (text, where it stands)}. Two rows that disagree are an error."""
    values = collections.defaultdict(lambda: ("", ""))
    for table in tables:
        of_table = part_of([*Path(table.name).parent.parts, Path(table.name).stem])
        for place, row, names in table.rows:
            if len(names) > 1 and len({hash_of(files[name]()) for name in names}) > 1:
                raise UserError(f"{place}: different pictures, give their paths: {first_of(names)}")
            told = {}
            for meaning in ("lesion", "patient", "part"):
                cells = [row[title] for title in table.columns[meaning]]
                told[meaning] = " ".join(cell for cell in cells if cell.lower() not in NO_ID)
            if told["part"].lower() not in ("", *PARTS):
                why = f"holds {told['part']!r}, which is not train, val or test"
                raise not_understood(place, why, table.header)
            told["part"] = PARTS.get(told["part"].lower())
            if table.columns["label"]:
                told["label"] = class_of(table, row, place, zeros)
            # train.csv is a part if it lists images, or tells classes, but not as a metadata table
            a_list = table.header[0] == "1" or len(table.header) == 1
            if "part" not in named and (a_list or understood(table.header, {})["label"]):
                told["table"] = of_table
            for name, meaning in itertools.product(names, filter(told.get, told)):
                text = told[meaning]
                before, where = values.setdefault((meaning, name), (text, place))
                same = class_name(before) == class_name(text) and meaning == "label"
                if before != text and not same:
                    what = meaning.replace("table", "part")
                    raise UserError(f"{name}: its {what} is {before!r} in {where}, but {text!r} in "
                                    f"{place}. Mend one, choose by --columns {what}=..., or write "
                                    f"a labels.csv (image, {what})")
    return values


def told_by(tables, *meanings):
    """"column dx of HAM10000_metadata.csv", of all tables that tell it; "" if none does."""
    words = []
    for meaning, table in itertools.product(meanings, tables):
        if table.columns[meaning] and table.rows:
            words.append(f"column {first_of(table.columns[meaning], 12)} of {table.name}")
    return first_of(words)


def doubts_of(table, told, named):
    """Sentences: what a table seems to tell, but does not. told: meanings that reach images."""
    for meaning in DECISIVE:
        if table.columns[meaning] and meaning not in told:
            names = first_of(table.lost, 2) or "no names"
            yield f"tells the {meaning} of no image that is here: it has {names}"
    settled = {meaning.replace("patient", "lesion") for meaning in told | named.keys()}
    for title in table.columns["unused"]:
        cells = {row[title].lower() for _, row, _ in table.rows} - NO_ID
        seems, chosen = "", title
        if re.sub("^(is|in)", "", plain(title)) in PARTS:       # is_test
            seems, chosen = "part", "none"                      # 0 and 1 are no parts
        if cells <= set(PARTS):
            seems, chosen = "part", title
        if re.search("(lesion|patient|subject|case)(id|nr|no|num|number|code)?$", plain(title)):
            seems, chosen = "lesion", title
        if len(cells) > 1 and all(map(is_known, cells)):
            seems, chosen = "label", title
        if cells and seems and seems not in settled:
            yield f"seems to tell the {seems} in column {title}: --columns {seems}={chosen}"


# ---- Sets

class Row(NamedTuple):
    """One image of a set before it is decoded."""
    name: str           # path below the set's folder
    label: str
    lesion: str
    part: str           # train, val, test or ""
    patient: str
    picture: Callable   # size -> uint8 (size, size, 3)


def rows_of(labels, files, values):
    """A Row of each image that has a label, but one for all files of the same name, class, part and
    content: some archives hold a set twice."""
    rows, spelled = {}, {}
    times = collections.Counter(Path(name).name.lower() for name in labels)
    patients = collections.defaultdict(set)         # of each lesion, "" for none
    for name in labels:
        patients[values["lesion", name][0]].add(values["patient", name][0])
    unsure = patients[""]
    for name, label in labels.items():
        label = spelled.setdefault(label.casefold(), label)     # Benign is benign
        lesion, patient = values["lesion", name][0], values["patient", name][0]
        if patient and patient in unsure:       # a picture without a lesion may be of any of his
            lesion = ""
        # Lesion 1 of patient A is not lesion 1 of patient B
        if patient and (not lesion or len(patients[lesion] - {""}) > 1):
            lesion = f"patient {patient} {lesion}".strip()
        in_folder = part_of(name.split("/")[:-1])
        part = values["part", name][0] or in_folder or values["table", name][0]
        file_name = Path(name).name.lower()
        content = times[file_name] > 1 and hash_of(files[name]())
        picture = functools.partial(decode, files[name])
        row = Row(name, label, lesion or name, part, patient, picture)
        rows.setdefault((file_name, label, part, content), row)
    return list(rows.values())


def refuse_other_tables(folder, files, tables, classes):
    """UserError: folders are to tell the classes, but know few, and a table may know them."""
    headers = {name: ["unread, save it as .csv"] for name in files if kind_of(name) in SHEETS}
    for table in sorted(tables, key=lambda table: len(table.rows)):
        headers[table.name] = table.header
    if headers and sum(map(is_known, classes)) < min(2, len(classes)):
        name, header = headers.popitem()            # of most images
        raise not_understood(folder / name, "tells no class of these images", header)


def refuse_folders_of_patients(names):
    """UserError: a folder such as patient_07 seems to tell what no table does."""
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    seem = sorted(folder for folder in folders if PATIENT.fullmatch(folder))
    if seem:
        raise UserError(f"folders {first_of(seem)} seem to tell lesions or patients: write them "
                        "into a labels.csv (image, label, patient_id), or --columns patient=none")


def notes_on(tables, rows, labels, pictures):
    """Sentences on what tells classes, lesions and parts, and on what was not used."""
    classes = told_by(tables, "label") or f"folders {first_of(sorted(set(labels.values())))}"
    lesions = told_by(tables, "lesion", "patient") or "not given"
    alone = sum(row.lesion == row.name for row in rows)
    free = sum(not row.part for row in rows)
    parts = "not given"
    if free < len(rows):
        parts = told_by(tables, "part") or "names of folders or tables"
        parts += f"; {free} images of no part go to train" * (free > 0)
    notes = [f"classes: {classes}",
             f"lesions: {lesions}; {alone} of {len(rows)} images count on their own",
             f"parts: {parts}"]
    if told_by(tables, "unused"):
        notes.append(f"not used: {told_by(tables, 'unused')}")
    for name, header, columns, found, lost in tables:
        if not columns["image"]:
            notes.append(f"not used: {name}, no known column names images: {first_of(header)}")
        if lost:
            of = f"{len(lost)} of {len(lost) + len(found)} rows of {name}"
            notes.append(f"left out: {of}: no such image here: {first_of(lost, 3)}")
    lost = sorted(set(pictures) - set(labels))
    if lost:
        of = f"{len(lost)} of {len(pictures)} images"
        notes.append(f"left out: {of} of no class: {first_of(lost, 3)}")
    if len(rows) < len(labels):
        notes.append(f"left out: {len(labels) - len(rows)} files of the same name and content")
    return notes


def read_rows(folder, zeros=None, columns=()):
    """([Row, ...], [sentences that say how the set was understood]).

    zeros: the class of rows that hold only zeros; columns: what the user says that they mean, as
    ("label", "dx") or ("part", "none").
    """
    files = files_of(folder)
    images = [name for name in files if kind_of(name) in SUFFIXES]
    stems = {Path(name).stem.lower() for name in images}
    pictures = [name for name in images if not is_mask(name, stems)]
    masks = ["mask"] * (len(images) - len(pictures))
    others = [name for name in files if kind_of(name) not in (*SUFFIXES, *TABLES, "")]
    if not pictures:
        found = counted([*map(kind_of, others), *masks]) or "nothing"
        raise UserError(f"{folder} does not exist, is not done, or holds no images but {found}")
    named = dict.fromkeys((meaning for meaning, _ in columns), "")
    for meaning, titles in columns:                 # what is said twice adds
        if titles not in ("folder", "none"):
            named[meaning] += " ".join(map(plain, titles.split(","))) + " "

    find = finder(pictures)
    tables = read_tables(folder, files, find, named)
    values = values_of(tables, files, zeros, named)
    told = {meaning for meaning in DECISIVE if told_by(tables, meaning)}
    for table in tables:
        for doubt in doubts_of(table, told, named):
            raise not_understood(folder / table.name, doubt, table.header)
    labels = {name: text for (what, name), (text, _) in values.items() if what == "label"}
    if not labels:
        labels = classes_of_folders(pictures)
        if "label" not in named:
            refuse_other_tables(folder, files, tables, set(labels.values()))

    rows = rows_of(labels, files, values)
    if not {"lesion", "patient"} & (told | named.keys()):
        refuse_folders_of_patients(labels)
    notes = notes_on(tables, rows, labels, pictures)
    may_be = [row.name for row in rows if kind_of(row.name) in (".png", ".tif", ".tiff")]
    deep = sum(is_deep(files[name]) for name in may_be)
    if deep:
        notes.append(f"grey of more than 8 bits: {deep} images, each scaled by its own range")
    read = {table.name for table in tables}
    others = [kind_of(name) for name in others if name not in read] + masks
    if others:
        notes.append(f"left out, no photographs: {counted(others)}")
    return rows, notes
