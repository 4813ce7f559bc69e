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
TABLES = (".csv", ".tsv", ".tab", "")
DEEP = ("I", "F")          # Pillow's modes of grey of 16 or 32 bits, or float
SHEETS = {".xlsx", ".xls", ".ods", ".json", ".jsonl", ".parquet"}
EMPTY = {"", "-", "?", "na", "n/a", "nan", "null"}      # cells that say nothing, in small letters
NO_ID = EMPTY | {"none", "unknown"}
ONE = re.compile(r"(?i)1([.,]0*)?(e[+-]?0+)?|true")
ZERO = re.compile(r"(?i)0([.,]0*)?(e[+-]?0+)?|false")
MASKS = re.compile(r"(?i)(^|/)(masks?|segmentations?|superpixels|ground[\W_]?truth)/")
MASK = re.compile(r"[-_](mask|segmentation|superpixels|seg)(_\d+)?$")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
PARTS = dict.fromkeys(("train", "training", "trainset"), "train")
PARTS |= dict.fromkeys(("val", "valid", "validation", "valset", "validset", "dev"), "val")
PARTS |= dict.fromkeys(("test", "testing", "testset"), "test")

# What the columns of public tables mean, by plain(title); of several the first counts: in ISIC 2020
# few images have a diagnosis.
COLUMN_NAMES = {
    "image": "image imageid imagename isicid imgid img filename file imagepath filepath path",
    "label": "label class benignmalignant dx diagnosis diagnostic diagnosis3 diagnosis1",
    "lesion": "lesionid group lesion lesionno lesionnumber",
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


def class_name(name, binary):
    """A class as the studies call it: "akiec" is AK; binary: benign or malignant."""
    key = plain(name.removesuffix(", NOS"))
    short = key.upper()
    for known, names in CLASS_NAMES.items():
        if key in names.split():
            short = known
    if binary and short not in KINDS:
        raise UserError(f"is class {name} benign or malignant? Say it in a labels.csv, or "
                        "name other classes: --columns label=... or label=folder")
    return KINDS[short] if binary else short


def is_known(name):
    return class_name(name, binary=False) in KINDS


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


def walk(folder, seen=None):
    """Every file below a folder, links last. No folder is seen twice, so that circles end."""
    seen = seen or set()
    is_job = (folder / "config.json").exists() and (folder / ".lock").exists()
    if folder.resolve() in seen or seen and is_job:     # a job, made inside of the set
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.is_dir():
            yield from walk(path, seen)
        else:
            yield path


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
            raise UserError(f"{file} is not a readable zip: get it again") from None
        for name in archive.namelist():             # the archive's name may tell the part
            inside = f"{path[:-4]}/{name}".replace("\\", "/").lstrip("/")
            files[inside] = functools.partial(archive.open, name)
    hidden = re.compile(r"(^|/)(\.[^/]|__MACOSX)|/$|^info\.json$")
    return {name: files[name] for name in sorted(files) if not hidden.search(name)}


def is_mask(name, stems):
    """Does it mark the lesion of another picture? stems: of all pictures, in small letters."""
    stem = Path(name).stem.lower()
    return MASK.search(stem) and MASK.sub("", stem) in stems


def lists_images(name, open_file, stems):
    """Does a text name pictures, or has the name of one? Plain numbers prove nothing."""
    words = re.findall(r"[^\s,;|]+", contents(open_file).decode(errors="replace"))
    found = stems.intersection(Path(word.lower()).stem for word in [name, *words])
    return not all(map(str.isdigit, found))


def contents(open_file):
    with open_file() as file:
        return file.read()


def photograph(open_file, size):
    return decode(contents(open_file), size)


def part_of(folders):
    """The part that folders tell, the nearest to the image first: test, or else one such word in a
    longer name, as of ISIC-2017_Test_v2_Data but not of train_test_split; "" if none."""
    nearest = folders[::-1]
    longer = map(WORD.findall, nearest)
    for words in [*zip(nearest), *longer]:
        told = [PARTS[word.lower()] for word in words if word.lower() in PARTS]
        if len(told) == 1:
            return told[0]
    return ""


def decode(raw, size):
    """Bytes of an image file -> uint8 (size, size, 3): shorter side to `size`, centre crop; any
    mode, EXIF rotation, transparency on white."""
    with Image.open(io.BytesIO(raw)) as image:
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


def is_deep(open_file):
    """Is it grey of more than 8 bits? By its header alone; what is no image is told later."""
    with contextlib.suppress(Exception), open_file() as file, Image.open(file) as image:
        return image.mode.startswith(DEEP)
    return False


# ---- Tables

class Table(NamedTuple):
    name: str           # path below the set's folder
    header: list
    columns: dict       # {meaning or "unused": [numbers of columns]}, [] where there is none
    rows: list          # (where it stands, cells, [images that it names])
    unknown: list       # titles of columns that name images, where no known one does


def finder(pictures):
    """A function that finds the pictures which a cell means: by path, file name or stem, in any
    case, with either slash, as they lay on any machine. strictly: no folder may disagree."""
    def key_of(path):
        path = "/" + path.replace("\\", "/").lower().lstrip("./")
        if kind_of(path) in SUFFIXES:
            path = path.removesuffix(kind_of(path))
        return path

    by_stem = collections.defaultdict(list)
    for name in pictures:
        by_stem[Path(key_of(name)).name].append(name)

    def find(cell, beside="", strictly=True):
        key, found = key_of(cell), []
        for name in by_stem.get(Path(key).name, []):
            if not strictly or key_of(name).endswith(key) or key.endswith(key_of(name)):
                found.append(name)
        found = [name for name in found if kind_of(name) == kind_of(cell)] or found
        return [name for name in found if name.startswith(beside)] or found

    return find


def understood(header, named):
    """The columns of a Table. A label is one column, or several of 0 and 1, one for each class."""
    keys = [plain(title) for title in header]
    columns = collections.defaultdict(list)
    for meaning, titles in (COLUMN_NAMES | named).items():
        if meaning == "image":          # each table may have its own
            titles += " " + COLUMN_NAMES["image"]
        found = [keys.index(key) for key in titles.split() if key in keys]
        if named.get(meaning) in ("folder", "none"):
            found = []
        several = meaning in named and meaning != "image"
        columns[meaning] = found if several else found[:1]
    if not columns["label"] and "label" not in named:       # as in ISIC's challenges
        columns["label"] = [k for k, title in enumerate(header) if is_known(title)]
    used = set(itertools.chain(*columns.values()))
    columns["unused"] = [k for k in range(len(header)) if k not in used]
    return columns


def not_understood(place, why, header):
    return UserError(
        f"{place} {why}. Its header: {first_of(header, 12)}. Say which columns count: --columns "
        "image=... label=... (or label=A,B,C: of 0 and 1; label=folder) lesion=... patient=... "
        "part=... (or lesion=none, patient=none, part=none, part=folder), or write a labels.csv "
        "(image, label, lesion_id, patient_id, split), or move it out of the set's folder")


def read_table(place, name, open_file, find, named):
    """The Table; without rows if no known column is said to name images: no more is read."""
    with io.TextIOWrapper(open_file(), "utf-8-sig", "replace", newline="") as text:
        first = text.readline(1_000_000)
        if first.startswith("sep="):            # as Excel writes it; line 2 is still line 2
            first = "\n" + text.readline(1_000_000)
        if "\0" in first and kind_of(name):
            raise UserError(f"{place} is not in UTF-8: save it in that encoding")
        comma = max(",;\t|", key=first.count)
        raw = itertools.chain(io.StringIO(first), text)
        cells = csv.reader(raw, delimiter=comma, skipinitialspace=True)
        lines = ((cells.line_num, [cell.strip() for cell in row]) for row in cells if any(row))
        top = list(itertools.islice(lines, 2)) or [(0, [])]
        header = top[0][1]
        columns = understood(header, named)
        if columns["image"] or not any(map(find, header)):
            del top[0]
        else:                                       # no header: numbers are the titles
            header = [str(k + 1) for k in range(len(header))]
            if len(header) == 2 and is_known(top[0][1][1]):     # as of ISIC 2016
                header = ["image", "label"]
            columns = understood(header, named)
        if not columns["image"]:
            seen = itertools.chain(*[zip(header, row) for _, row in top])
            unknown = [title for title, cell in seen if find(cell) and not cell.isdigit()]
            return Table(name, header, columns, [], unknown)
        lines = [*top, *lines]

    beside = name[:name.rfind("/") + 1]
    for strictly in (True, False):
        rows = []
        for line, row in lines:
            if any(row[len(header):]):
                why = f"line {line} has more cells than the header: quote cells that hold {comma!r}"
                why += f", or give the header a title for each. It is: {first_of(header, 12)}"
                raise UserError(f"{place} {why}")
            row += [""] * (len(header) - len(row))
            names = find(row[columns["image"][0]], beside, strictly)
            rows.append((f"{place} line {line}", row, names))
        if any(names for *_, names in rows):
            break
    return Table(name, header, columns, rows, [])


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
        if table.columns["image"] or table.unknown or kind_of(name):    # LICENSE is none
            tables.append(table)
    headers = {table.name: first_of(table.header) for table in tables}
    known = set(map(plain, itertools.chain(*[table.header for table in tables])))
    for title in " ".join(named.values()).split():
        if title not in known | {"folder", "none"}:
            raise UserError(f"no table of {folder} has a column {title}: {headers}")
    own = [table for table in tables if Path(table.name).name.lower() == "labels.csv"]
    for table in own or tables:
        for title in table.unknown:
            raise not_understood(folder / table.name, f"has images in column {title}", table.header)
    for meaning, table in itertools.product(DECISIVE, tables):
        wins = any(says(one, meaning) for one in own)               # what one writes oneself
        if wins and table not in own and table.columns["image"]:
            table.columns["unused"] += table.columns.pop(meaning)
    return tables


def says(table, meaning):
    """Has the table a cell that is not empty in a column of this meaning?"""
    for k in table.columns[meaning]:
        if {row[k].lower() for _, row, _ in table.rows} - NO_ID:
            return True
    return False


def class_of(table, row, place, zeros):
    """The class that a row tells: its label, or the title of the column that holds its 1."""
    titles = [table.header[k] for k in table.columns["label"]]
    cells = [row[k] for k in table.columns["label"]]
    if len(titles) == 1 and not is_known(titles[0]):
        if cells[0].lower() in EMPTY:
            raise not_understood(place, f"has no label in column {titles[0]}", table.header)
        return plain_name(cells[0], place)
    ones = [title for title, cell in zip(titles, cells) if ONE.fullmatch(cell)]
    rest = [cell for cell in cells if ZERO.fullmatch(cell)]
    if len(ones) > 1 or len(ones) + len(rest) < len(cells):
        why = f"holds {first_of(cells)} for {first_of(titles)}, not one 1 among 0"
        raise not_understood(place, why, table.header)
    if not ones and not zeros:
        raise UserError(f"{place}: a row of zeros: if they are a further class, name it by --zeros")
    return (ones or [zeros])[0]


def values_of(tables, files, zeros, named):
    """{(meaning, image): (text, where it stands)}. Two rows that disagree are an error."""
    values = collections.defaultdict(lambda: ("", ""))
    by_name = "part" not in named and not told_by(tables, "part")
    for table in tables:
        of_table = part_of([*Path(table.name).parent.parts, Path(table.name).stem])
        for place, row, names in table.rows:
            if len(names) > 1 and len({hash_of(contents(files[name])) for name in names}) > 1:
                raise UserError(f"{place}: different pictures, give their paths: {first_of(names)}")
            told = {}
            for meaning in ("lesion", "patient", "part"):
                cells = [row[k] for k in table.columns[meaning]]
                told[meaning] = " ".join(cell for cell in cells if cell.lower() not in NO_ID)
            if names and told["part"].lower() not in ("", *PARTS):
                why = f"holds {told['part']!r}, which is not train, val or test"
                raise not_understood(place, why, table.header)
            told["part"] = PARTS.get(told["part"].lower())
            if names and table.columns["label"]:
                told["label"] = class_of(table, row, place, zeros)
            if by_name and (table.columns["label"] or len(table.header) == 1):
                told["part"] = of_table
            for name, meaning in itertools.product(names, filter(told.get, told)):
                text = told[meaning]
                before, where = values.setdefault((meaning, name), (text, place))
                if class_name(before, False) != class_name(text, False):
                    raise UserError(f"{name}: its {meaning} is {before!r} in {where}, but {text!r} "
                                    f"in {place}. Mend one, choose by --columns {meaning}=..., or "
                                    f"write a labels.csv (image, {meaning})")
    return values


# ---- Sets

class Row(NamedTuple):
    """One image of a set before it is decoded."""
    name: str           # path below the set's folder
    label: str
    lesion: str
    part: str           # train, val, test or ""
    patient: str
    picture: Callable   # size -> uint8 (size, size, 3)


def as_class(folder):
    """What class a folder may be: benign if train_benign, but none, "", if train or train_2."""
    if not part_of([folder]):
        return folder
    rest = " ".join(word for word in WORD.findall(folder) if word.lower() not in PARTS)
    return rest if is_known(rest) else ""


def classes_of_folders(pictures):
    """{image: class}: of its folders the nearest that is a known class, or else the nearest; no
    part's folder, and none that all images share."""
    folders = {}
    for name in pictures:
        folders[name] = list(filter(None, map(as_class, name.split("/")[:-1])))
    shared = set.intersection(*map(set, folders.values()))
    labels = {}
    for name, above in folders.items():
        own = [one for one in above if one not in shared]
        if own:
            labels[name] = ([one for one in own if is_known(one)] or own)[-1]
    only = [one for one in shared if is_known(one)] or ["unlabelled"]
    return labels or dict.fromkeys(pictures, only[0])


def meaning_of(title, cells):
    """What a column that is not used should be named, by its title or all of its cells, or ""."""
    if re.search("(lesion|patient|subject)(id|nr|no|num|number|code)$", plain(title)):
        return f"lesion={title}"
    if len(cells) > 1 and all(map(is_known, cells)):
        return f"label={title}"
    if cells <= set(PARTS):
        return f"part={title}"
    flags = all(ONE.fullmatch(cell) or ZERO.fullmatch(cell) for cell in cells)
    if flags and re.sub("^(is|in)", "", plain(title)) in PARTS:
        return "part=none"                          # is_test: its parts need a labels.csv
    return ""


def reaches_no_image(table, told, few):
    """Sentences: what a table tells of no image. told: meanings of columns that reach images; few:
    do folders decide the classes, with fewer than two known names?"""
    keys = [key for key in ("lesion", "patient") if table.columns[key] and key in told]
    for meaning in DECISIVE:            # a list of classes, or a log of phases, decides nothing
        joins = keys or table.columns["image"] or meaning in ("lesion", "patient")
        if table.columns[meaning] and meaning not in told and joins:
            yield f"tells the {meaning} of no image that is here"
    named_here = any(names for *_, names in table.rows)
    if few and (table.columns["unused"] or not named_here):
        yield "may tell classes, but not of images in columns that are known"


def seems_to_decide(table, told, named):
    """Sentences: columns that seem to decide something, but are not used. told: as above."""
    rows = [row for _, row, names in table.rows if names]
    settled = named.keys() | {one.replace("patient", "lesion") for one in told}
    for k in table.columns["lesion"] + table.columns["unused"]:
        title, cells = table.header[k], {row[k].lower() for row in rows} - NO_ID
        words = meaning_of(title, cells) if cells else ""
        if k in table.columns["lesion"] and "lesion" not in named and words.startswith("label"):
            advice = "lesion=none"
            if "label" not in told or k in table.columns["label"]:
                advice = f"{words} lesion=none"
            yield f"holds classes in column {title}: --columns {advice}"
        if words and words.split("=")[0] not in settled:
            yield f"seems to decide something in column {title}: --columns {words}"


def rows_of(labels, files, values, tables, named):
    """A Row of each image that has a label, but one for all files of the same name, class, part and
    content: some archives hold a set twice."""
    rows, spelled = {}, {}
    times = collections.Counter(Path(name).name.lower() for name in labels)
    by_column, patients = told_by(tables, "part"), collections.defaultdict(set)
    for name in labels:
        patients[values["lesion", name][0]].add(values["patient", name][0])
    for name, label in labels.items():
        label = spelled.setdefault(label.casefold(), label)     # Benign is benign
        lesion, patient = values["lesion", name][0], values["patient", name][0]
        if patient and (not lesion or len(patients[lesion] - {""}) > 1):
            lesion = f"patient {patient} {lesion}".strip()      # lesions numbered anew in each
        part = values["part", name][0]
        if not (part and by_column) and named.get("part") != "none":
            part = part_of(name.split("/")[:-1]) or part        # a table's name comes last
        file_name = Path(name).name.lower()
        content = times[file_name] > 1 and hash_of(contents(files[name]))
        picture = functools.partial(photograph, files[name])
        row = Row(name, label, lesion or name, part, patient, picture)
        rows.setdefault((file_name, label, part, content), row)
    return list(rows.values())


def told_by(tables, *meanings):
    """"column dx of HAM10000_metadata.csv", of all tables that tell it; "" if none does."""
    words = []
    for meaning, table in itertools.product(meanings, tables):
        titles = [table.header[k] for k in table.columns[meaning]]
        if titles and any(names for *_, names in table.rows):
            words.append(f"column {first_of(titles, 12)} of {table.name}")
    return first_of(words)


def notes_on(tables, rows, labels, pictures):
    """Sentences on what tells lesions and parts, and on what was not used."""
    lesions = told_by(tables, "lesion", "patient") or "not given"
    alone = sum(row.lesion == row.name for row in rows)
    parts = "not given"
    if any(row.part for row in rows):
        parts = told_by(tables, "part") or "names of folders or tables"
        free = [row for row in rows if not row.part]
        if free:
            parts += f"; {len(free)} images of no part go to train"
    notes = [f"lesions: {lesions}; {alone} of {len(rows)} images count on their own",
             f"parts: {parts}"]
    if told_by(tables, "unused"):
        notes.append(f"not used: {told_by(tables, 'unused')}")
    for name, header, _, lines, _ in tables:
        missing = [names for *_, names in lines].count([])
        if not lines:
            notes.append(f"not used: {name}, no known column names images: {first_of(header)}")
        if missing:
            notes.append(f"left out: {missing} of {len(lines)} rows of {name}: no such image here")
    lost = sorted(set(pictures) - set(labels))
    if lost:
        n_lost = f"{len(lost)} of {len(pictures)} images"
        notes.append(f"left out: {n_lost} of no class: {first_of(lost, 3)}")
    if len(rows) < len(labels):
        notes.append(f"left out: {len(labels) - len(rows)} files of the same name and content")
    return notes


def read_rows(folder, zeros=None, named={}):
    """([Row, ...], [sentences that say how the set was understood]).

    zeros: the class of rows that hold only zeros; named: {meaning: titles of columns} by the user.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist")
    files = files_of(folder)
    images = [name for name in files if kind_of(name) in SUFFIXES]
    stems = {Path(name).stem.lower() for name in images}
    pictures = [name for name in images if not MASKS.search(name)]
    others = [kind_of(name) for name in files if kind_of(name) not in SUFFIXES + TABLES]
    others += ["mask"] * (len(images) - len(pictures))
    if not pictures:
        raise UserError(f"{folder} holds no images, but {counted(others) or 'nothing'}")
    named = {meaning: " ".join(map(plain, titles.split(","))) for meaning, titles in named.items()}
    tables = read_tables(folder, files, pictures, named)
    values = values_of(tables, files, zeros, named)
    labels = {name: text for (what, name), (text, _) in values.items() if what == "label"}
    notes, few = [f"classes: {told_by(tables, 'label')}"], False
    if not labels:
        labels = classes_of_folders([name for name in pictures if not is_mask(name, stems)])
        classes = sorted(set(labels.values()))
        notes = [f"classes: folders {first_of(classes)}"]
        few = sum(map(is_known, classes)) < min(2, len(classes)) and "label" not in named
    told = {meaning for meaning in DECISIVE if told_by(tables, meaning)}
    for table in tables:
        doubts = [*reaches_no_image(table, told, few), *seems_to_decide(table, told, named)]
        if doubts:
            raise not_understood(folder / table.name, doubts[0], table.header)
    sheets = []
    for name in files:
        is_list = few and kind_of(name) == ".txt" and lists_images(name, files[name], stems)
        if kind_of(name) in SHEETS or is_list:
            sheets.append(name)
    if few and sheets:
        raise UserError(f"{folder} has {first_of(sheets, 3)}: save what tells classes as .csv, or "
                        "if folders tell them, --columns label=folder")

    rows = rows_of(labels, files, values, tables, named)
    notes += notes_on(tables, rows, labels, pictures)
    deep = [kind_of(row.name) in (".png", ".tif", ".tiff") and is_deep(files[row.name])
            for row in rows]
    if any(deep):
        notes.append(f"grey of more than 8 bits: {sum(deep)} images, each scaled by its own range")
    if others:
        notes.append(f"left out, no photographs: {counted(others)}")
    return rows, notes
