"""Image sets: other people's photographs, splits that do not leak, exact preprocessing."""
import collections
import hashlib
import io
import itertools
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import data
import reading
from jobs import UserError

# ---- Drawn lesions


def test_a_drawn_set_depends_on_its_seed_alone_and_is_balanced_with_one_to_three_views_a_lesion():
    drawn, few = data.built_in(96, 32), data.built_in(12, 32)
    assert (few.images == drawn.images[:12]).all() and list(few.ids) == list(drawn.ids[:12])
    assert not (data.built_in(12, 32, seed=3).images == few.images).all()
    assert drawn.counts() == dict.fromkeys(data.EIGHT, 12) and len(set(drawn.ids)) == 96
    assert drawn.images.mean((0, 1, 2)) == pytest.approx([193.243, 139.046, 136.466], abs=0.01)
    views = np.unique(drawn.groups, return_counts=True)[1]
    assert views.min() == 1 and views.max() == 3
    assert all(name.startswith(group) for name, group in zip(drawn.ids, drawn.groups))


def test_a_lesion_is_the_same_at_every_size_and_artefacts_do_not_know_its_class(monkeypatch):
    large, small = (data.draw_lesion(5, 8, 0, size=size).astype(float) for size in (96, 32))
    blocks = large.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.95
    for view in range(6):
        shown = {}
        for odds, label in itertools.product((0.0, 1.0), (0, 5)):
            monkeypatch.setattr(data, "ARTEFACTS", dict.fromkeys(data.ARTEFACTS, odds))
            shown[odds, label] = data.draw_lesion(label, 40, view).astype(float).mean(2).ravel()
        changes = [shown[1, label] / shown[0, label].clip(8) for label in (0, 5)]
        assert np.corrcoef(changes)[0, 1] > 0.9


# ---- Other people's sets

def png(image, form="PNG", **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pictures(names):
    """{name: bytes of a picture that no other name has}."""
    return {name: png(Image.new("RGB", (12, 12), (k % 250, k // 250, 9))) for k, name in enumerate(names)}


def folder_of(root, files):
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return root


def zip_of(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)


def filled(form, k):
    """Image k: benign and malignant in turn (b, m), two in turn of a lesion l, three of a patient p."""
    part, half = ("train", "test")[k // 4 % 2], k // 2
    return form.format(k=k, kind=data.TWO[k % 2], ab="ab"[k % 2], part=part, b=1 - k % 2, m=k % 2,
                       yes=k % 2 == 0, no=k % 2 == 1, l=half, p=k // 3)


def table(form, ks=range(6)):
    """Rows of images k, of "title=form of a cell, ..."."""
    titles, cells = zip(*[column.split("=") for column in form.split(", ")])
    return "".join(",".join(row) + "\n" for row in [titles, *([filled(cell, k) for cell in cells] for k in ks)])


def named(form):
    return [filled(form, k) for k in range(6)]


FLAT = named("images/I{k}.png")


def case(tables, names=FLAT, said="", options={}, **differs):
    """Files, words, and what differs from 3 benign + 3 malignant images of 6 lesions in no part."""
    expected = dict(counts=dict(benign=3, malignant=3), lesions=6, parts={"": 6}) | differs
    files = {"m.csv": tables} if isinstance(tables, str) else tables
    return files, names, said.split("; "), options, expected


def by(zeros=None, **columns):
    return dict(zeros=zeros, named=columns)


TREE, AB = named("{kind}/I{k}.png"), named("{ab}/I{k}.png")
PARTED, SPLIT = named("{part}/{kind}/I{k}.png"), {"train": 4, "test": 2}
SPLITS = "patient_id,split\nP0,test\nP1,train\n"
LABEL = "image=I{k}, label={kind}"
LABELS, PIXELS = table(LABEL), "pixel0\tlabel\n" + "1\t3\n" * 9
SUFFIXES = ("a.JPG", "b.jfif", "c.jpe", "d.TIFF", "e.PNG", "f.webp")
READ = {
    "suffixes": case({"m": table("isic_id=I{k}, diagnosis={kind}"), "LICENSE": "All, rights", "p.tsv": PIXELS,
                      "l.tab": table("image_id=I{k}, lesion_id=L{l}").replace(",", "\t")}, lesions=3,
                     said="column diagnosis of m; lesion_id of l.tab; p.tsv, no known column names images: pixel0"),
    "BOM": case("\ufeff" + table(' "Image" =I{k}.png, "Label"= {kind}, "Lesion ID"="a;{l}"').replace(",", ";"), lesions=3),
    "patients": case({"train_meta.csv": table("image_name=I{k}, patient_id=P{p}, benign_malignant={kind}, dx=x")},
                     lesions=2, parts={"train": 6}, said="lesions: column patient_id of train_meta.csv"),
    "lesions": case(table("patient_id=P, lesion_id={l}, img_id=I{k}.png, diagnostic={kind}"), lesions=3),
    "ISIC 2016": case("\ufeff" + LABELS.partition("\n")[2]),
    "ISIC 2019": case({"Truth.csv": table("image=I{k}, benign={b}.000, malignant={m}.0, UNK=0.0, weight=0.5"),
                       "Meta.csv": table("image=I{k}, age=50, lesion_id=L{l}")}, lesions=3,
                      said="column benign, malignant, UNK of Truth.csv; not used: column age of Meta.csv"),
    "True": case(table("image=I{k}, benign={yes}, malignant={no}")),
    "zeros": case(table("image=I{k}, malignant={m}, patient_id=P"), options=by("nevus"), lesions=1,
                  counts=dict(nevus=3, malignant=3)),
    "dummies": case(table("image=I{k}, f={b}, m={m}"), TREE, "folders benign, malignant; column f, m"),
    "lesion table": case(table("image=I{k}, lesion_id={l}"), AB, counts=dict(a=3, b=3), lesions=3),
    "machines": case(table("path=/content/My Drive/images/I{k}.png, class={kind}")),
    "folders": case(table("path=D:\\photos\\i{k}.JPG, class={kind}")),
    "paths": case(table("image=a/{k}.png, label=benign", range(9)) + "b/0,malignant\nb/1,malignant\nb/2,malignant\n",
                  named("{ab}/{l}.png"), said="6 of 12 rows of m.csv"),
    "complements": case({"train.csv": table(LABEL, range(4)), "test.csv": table(LABEL, (4, 5, 8))}, parts=SPLIT),
    "agree": case({"a.csv": LABELS, "b.csv": table("image=I{k}, dx={kind}").upper()}),
    "own labels": case({"labels.csv": LABELS, "other.csv": table("image=I{k}, dx=nevus")}),
    "a split": case(table(LABEL + ", split_by_lesion={part}ing, split=val"), parts=SPLIT,
                    said="column split_by_lesion of m.csv; not used: column split of m.csv"),
    "own folders": case({f"{part}/labels.csv": table("image={k}, label={kind}", range(2)) for part in SPLIT},
                        [f"{part}/img/{k}.png" for part in SPLIT for k in range(2)], lesions=4,
                        counts=dict(benign=2, malignant=2), parts={"train": 2, "test": 2}),
    "column": case(table("image=I{k}, split=val"), PARTED, parts={"val": 6}),
    "no parts": case({"test.csv": LABELS}, PARTED, options=by(part="none")),
    "parts": case({}, named("all/{part}/{kind}/batch{k}/I{k}.png"), said="names of folders", parts=SPLIT),
    "parts flat": case({}, named("{part}_{kind}/I{k}.png"), parts=SPLIT),
    "sets flat": case({}, named("x/{part}set 2/{kind}/I{k}.png"), parts=SPLIT),
    "kinds": case({"b/x.heic": "?", "b/y.HEIC": "?", "notes.txt": "?"}, said="2 .heic, 1 .txt", names=[
        f"{data.TWO[k % 2]}/{name}" for k, name in enumerate(SUFFIXES)]),
    "one case": case({}, ["Benign/I0.png", *TREE[1:]], counts=dict(Benign=3, malignant=3)),
    "outside": case({}, [*TREE, "preview.png"], said="1 of 7 images; preview.png"),
    "label": case(table("code=I{k}, finding={kind}"), options=by(image="code", label="finding")),
    "one-hot": case(table("image=I{k}, x={b}, y={m}"), options=by(label="x,y"), counts=dict(x=3, y=3)),
    "second": case(table("image=I{k}, dx=x, sort={kind}"), options=by(label="sort")),
    "folder": case(table("image=I{k}, x=?"), AB, options=by(label="folder"), counts=dict(a=3, b=3)),
    "lesion": case(table(LABEL + ", patient_id=P"), options=by(lesion="image")),
    "two names": case({"a.csv": LABELS, "b.csv": table("picture=I{k}, lesion_id={l}")}, lesions=3, options=by(image="picture")),
    "absent rows": case({"train.csv": LABELS, "more.csv": "image,label\nJ1,x\n"}, parts={"train": 6}),
    "own table": case({"labels.csv": table(LABEL + ", lesion_id={l}, split=val"), "x.csv": "photo,finding\nI1,x\n",
                       "y.csv": table("image=I{k}, lesion_id=?, split=test")}, lesions=3, parts={"val": 6},
                      said="x.csv, no known column names images: photo"),
    "bars": case(table("image=I{k}, lesion_id={l}").replace(",", "|"), TREE, lesions=3),
    "of Excel": case("sep=;\n" + table("image=I{k}, lesion_id={l}").replace(",", ";"), TREE, lesions=3),
    "long cell": case(table(LABEL + ", contour=" + "9 " * 70_000)),
    "no ids": case(table(LABEL + ", lesion_id=NA, patient_id=unknown, split=-")),
    "masks": case({}, [*TREE, "benign/I0_Segmentation_1.png", "malignant/I1-mask.bmp", "masks/benign/I2.png",
                       "Ground Truth/x/benign/I9.png"], said="no photographs: 2 mask; 2 of 8 images of no class"),
    "named as lesions": case({}, [*TREE[:4], "benign/I0_lesion.png", "malignant/I1_roi.png"]),
    "named as a mask": case(LABELS.replace("I5,", "I0_mask,"), [*FLAT[:5], "images/I0_mask.png"]),
    "own, but empty": case({"labels.csv": table(LABEL + ", lesion_id=, split="),
                            "m.csv": table("image=I{k}, lesion_id=L{l}, split={part}")}, lesions=3, parts=SPLIT),
    "of no image": case({"n.csv": "class,count\nx,3\n", "log.csv": "phase,epoch\na,1\n", "x.txt": "I0.png 1"}, TREE),
    "family": case("image,family\nI0,\nI1,melanoma\nI2,melanoma\n", TREE),
    "folder": case(table("image=I{k}, folder=x"), TREE, options=by(label="folder")),
    "a text": case({"x.txt": "words of 1"}, named("{ab}/{k}.png"), counts=dict(a=3, b=3)),
    "one class": case({"x.json": "?"}, named("benign/I{k}.png"), counts=dict(benign=6)),
    "no masks": case({}, [*TREE[1:], "benign/I7_lesion.png"]),
    "not ours": case({"benign/config.json": "?"}, TREE, said="1 .json"),
    "part=": case(table(LABEL + ", data_split={part}, is_test=?"), parts=SPLIT, options=by(part="data_split")),
    "lesion=": case(table(LABEL + ", lesion_nr={l}"), lesions=3, options=by(lesion="lesion_nr")),
    "label=": case(table("image=I{k}, lesion={kind}"), options=by(label="lesion", lesion="none")),
    "weights": case(table(LABEL + ", validation_weight={m}, group=-")),
    "other names": case({"x.txt": "?", "n.csv": "nr,finding\n1,x\n"}, AB, counts=dict(a=3, b=3), options=by(label="folder")),
    "about": case({"README.txt": "?", "licenses/CC-0.txt": "?"}, AB, counts=dict(a=3, b=3)),
    "anew": case(table(LABEL + ", patient_id=P{p}, lesion_number={m}"), lesions=4),
    "no part": case({}, [*PARTED, "benign/I7.png"], counts=dict(benign=4, malignant=3), lesions=7, parts=SPLIT | {"": 1},
                    said="1 images of no part go to train"),
    "lists": case({"labels.csv": LABELS, "train.csv": table("image=I{k}", range(4)), "test.csv": table("image=I{k}", (4, 5))},
                  parts=SPLIT, said="parts: names of folders or tables"),
    "settled": case(table(LABEL + ", lesion_nr={l}, data_split={part}"), options=by(lesion="none", part="none")),
    "told": case(table(LABEL + ", patient_id={p}, lesion_nr={l}, split=dev, data_split={part}"), lesions=2, parts={"val": 6}),
    "unknown flat": case({}, named("{part}_v{ab}/I{k}.png"), counts=dict(unlabelled=6), parts=SPLIT),
    "photo": case(table("image=?, photo=I{k}, label={kind}"), options=by(image="photo"), said="not used: column image of m.csv"),
    "folders first": case({"test.csv": LABELS}, PARTED, parts=SPLIT),
    "lesion none": case(table(LABEL + ", lesion={kind}, patient_id={p}"), options=by(lesion="none"), lesions=2),
    "no patients": case({"m.csv": LABELS, "p.csv": SPLITS}, options=by(patient="none", part="none")),
    "part folder": case({"p.csv": SPLITS}, PARTED, parts=SPLIT, options=by(patient="none", part="folder")),
}
ONES = "image=I{k}, NV=0, MEL="
REFUSED = {
    "unknown": case(table("code=I{k}, finding={kind}"), said="m.csv; column code; code, finding; --columns"),
    "no suffix": case({"m": table("code=I{k}, finding={kind}")}, TREE, said="m has images in column code; code, finding"),
    "no label": case(table("image=I{k}, finding=?"), said="m.csv; image, finding; --columns"),
    "finding": case(table("image=I{k}, finding={kind}"), TREE, said="image, finding; --columns"),
    "not here": case(table("image=J{k}, label={kind}"), TREE, said="label of no image that is here; --columns"),
    "a join": case({"l.csv": "lesion_id,dx\n0,nv\n", "i.csv": table("image_id=I{k}, lesion_id={l}")}, AB,
                   said="l.csv tells the label of no image; lesion_id, dx; label=folder; labels.csv"),
    "numbers": case({"m.csv": LABELS, "n.csv": table("image=7, lesion_id={l}, file=I{k}")}, said="n.csv tells the lesion of no image"),
    "first absent": case({"m.csv": LABELS, "n.csv": "photo,patient_id\nJ1,1\n"}, said="n.csv tells the patient of no image; patient=none"),
    "a patient's part": case({"m.csv": table(LABEL + ", patient_id=P{p}"), "p.csv": SPLITS}, said="p.csv tells the part of no image; part=none"),
    "empty": case(LABELS.replace("I2,benign", "I2,NaN"), said="m.csv line 4 has no label; image, label; label=folder"),
    "a comma": case(LABELS.replace("I2", "Fig, I2"), said="m.csv line 4 has more cells; quote; ','; image, label"),
    "a path": case(LABELS.replace("I2,benign", "I2,a/b"), said="m.csv line 4; a class cannot be called 'a/b'"),
    "masks": case({}, ["masks/I1.png", "GroundTruth/I1.png"], said="no images; 2 mask"),
    "zeros": case(table(ONES + "{m}"), said="m.csv line 2; --zeros"),
    "two ones": case(table("image=I{k}, NV=1, MEL=1"), said="line 2; 1, 1 for NV, MEL"),
    "no ones": case(table(ONES + "0.7"), said="line 2; 0, 0.7 for NV, MEL; --columns"),
    "disagree": case({"x.csv": LABELS, "y.csv": LABELS.replace("2,b", "2,x")}, said="I2.png; x.csv line 4; y.csv line 4"),
    "lesions": case({"x.csv": LABELS, "y.csv": "image,lesion_id\nI1,A\nI1,B\n"}, said="lesion; y.csv line 3"),
    "a part": case(table(LABEL + ", split=holdout"), said="line 2; holdout; --columns"),
    "no UTF-8": case({"x": LABELS.replace("malignant", "Nävus").encode("cp1252")}, said="x line 3; UTF-8"),
    "UTF-16": case({"x.csv": LABELS.encode("utf-16")}, TREE, said="x.csv is not in UTF-8"),
    "a sheet": case({"x.xlsx": "?"}, AB, said="x.xlsx; as .csv; label=folder"),
    "own patients": case({"labels.csv": table(LABEL + ", patient_id=P{p}"), "p.csv": "patient_id,split\nP0,test\n"},
                         said="p.csv tells the part of no image"),
    "yolo": case({"labels/I1.txt": "0 .5 .5"}, named("images/I{k}.png"), said="set has labels/I1.txt: save"),
    "a list": case({"x.txt": "I1.png 0", "readme.txt": "?"}, said="set has x.txt: save; as .csv; label=folder"),
    "a tables": case("nr,finding\n1,x\n", AB, said="m.csv may tell classes; nr, finding; label=folder"),
    "parts": case(table(LABEL + ", data_split={part}"), said="column data_split; --columns part=data_split; part=none"),
    "flags": case(table(LABEL + ", is_test={m}"), said="column is_test; --columns part=none; labels.csv"),
    "lesion numbers": case(table(LABEL + ", lesion_nr={l}"), said="column lesion_nr; --columns lesion=lesion_nr; lesion=none"),
    "classes too": case(table("image=I{k}, dx={kind}, group={kind}"), said="column group: --columns lesion=none"),
    "classes": case(table("image=I{k}, lesion={kind}"), options=by(label="lesion"), said="--columns label=lesion lesion=none"),
    "one name": case(LABELS, ["a/I1.png", "b/I1.png"], said="different; paths; a/I1.png, b/I1.png"),
    "no images": case({"x.heic": "?"}, [], said="no images; 1 .heic"),
    "no zip": case({"x.zip": "?"}, TREE, said="x.zip is not a readable zip"),
    "no column": case(LABELS, options=by(label="finding"), said="no table; column finding; image, label"),
    "no meaning": case(LABELS, options=by(kind="label"), said="kind=label"),
}


def summary(rows):
    labels, parts = (collections.Counter(getattr(row, what) for row in rows) for what in ("label", "part"))
    return dict(counts=dict(labels), lesions=len({row.lesion for row in rows}), parts=dict(parts))


@pytest.mark.parametrize("layout", READ)
def test_sets_are_read_as_they_are_meant_and_aloud(tmp_path, layout):
    tables, names, said, options, expected = READ[layout]
    rows, notes = reading.read_rows(folder_of(tmp_path, pictures(names) | tables), **options)
    assert summary(rows) == expected
    assert all(words in "\n".join(notes) for words in said), notes


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_not_understood_is_refused_with_its_own_remedy(tmp_path, cli, layout):
    tables, names, said, options, _ = REFUSED[layout]
    folder_of(tmp_path / "set", pictures(names) | tables)
    columns = [f"--columns={meaning}={title}" for meaning, title in options.get("named", {}).items()]
    status, _, error = cli("data", "prepare", tmp_path / "set", "--out", tmp_path / "job", *columns)
    assert status == 2 and error.count("\n") == 1 and all(words in error for words in said), error
    assert ("--zeros" in error) == (layout == "zeros")


def test_columns_that_are_named_twice_add(tmp_path, done):
    tables = {"a.csv": table("photo=I{k}, label={kind}"), "b.csv": table("picture=I{k}, lesion_id={l}, patient_id=P")}
    folder_of(tmp_path / "set", pictures(FLAT) | tables)
    done("data", "prepare", tmp_path / "set", "--out", tmp_path / "job", "--columns", "image=photo", "patient=none",
         "--columns", "image=picture")
    assert len(set(data.load(tmp_path / "job").groups)) == 3


def test_a_part_that_was_asked_for_and_is_empty_is_said(tmp_path, done):
    folder_of(tmp_path / "set", pictures(FLAT) | {"m.csv": table(LABEL + ", lesion_id=one")})
    out = done("data", "prepare", tmp_path / "set", "--out", tmp_path / "job", "--val", 0)
    assert "warning: test has no image" in out and "val has no image" not in out


@pytest.mark.parametrize("folders, part", [
    ("Training/benign", "train"), ("benign/valid", "val"), ("test_benign", "test"), ("contest/benign", ""),
    ("train_test_split/test_x/benign", "test"), ("train_test_split/benign", ""), ("test/val_images/benign", "test"),
    ("ISIC-2017_Test_v2_Data/TrainTest/benign", "test"), ("test/train/benign", "train")])
def test_the_nearest_folder_tells_the_part_exact_names_first_else_the_only_such_word(folders, part):
    assert reading.part_of(folders.split("/")) == part


def test_zips_links_circles_and_second_copies(tmp_path):
    files = pictures(PARTED)
    test = {name.removeprefix("test/"): raw for name, raw in files.items() if name.startswith("test")}
    train = {name: raw for name, raw in files.items() if name.startswith("train")}
    zip_of(tmp_path / "zips" / "deep" / "test.zip", test)
    zip_of(tmp_path / "zips" / "x.zip", {name.replace("/", "\\"): raw for name, raw in train.items()})
    zip_of(tmp_path / "one.zip", files | {"__MACOSX/train/benign/._I0.png": b"?", "m.csv": "image,lesion_id\nI1,A\nI3,A"})
    linked = folder_of(tmp_path / "linked", train)
    (linked / "test").symlink_to(folder_of(tmp_path / "real", test))
    (linked / "train" / "round").symlink_to(linked)
    (linked / "a_link").symlink_to(linked / "train")
    folder_of(tmp_path / "twice", files | {f"again/{name}": raw for name, raw in files.items()})
    halves = {f"part_{k % 2}/I{k}.png": raw for k, raw in enumerate(files.values())}
    copies = {"part_0/I1.png": halves["part_1/I1.png"], "job/config.json": "", "job/.lock": "", "job/I1.png": halves["part_0/I0.png"]}
    folder_of(tmp_path / "table", halves | copies | {"m.csv": LABELS})
    for name, n, parts in (("zips", 6, SPLIT), ("one.zip", 5, SPLIT), ("linked", 6, SPLIT), ("twice", 6, SPLIT), ("table", 6, {"": 6})):
        rows, notes = reading.read_rows(tmp_path / name)
        assert summary(rows) == dict(counts=dict(benign=3, malignant=3), lesions=n, parts=parts), name
    assert "left out: 1 files of the same name and content" in notes


def test_a_table_that_names_no_image_is_not_read_whole():
    class Counted(io.BytesIO):
        def read1(self, n=-1):
            taken.append(n)
            return super().read1(n)

    raw, taken = b"pixel0,pixel1,label\n" + b"1,2,3\n" * 500_000, []
    read = reading.read_table("x.csv", "x.csv", lambda: Counted(raw), reading.finder(FLAT), {})
    assert read.rows == [] and 0 < sum(taken) < 100_000 and min(taken) > 0


# A second table of the names, so that none is filed under a wrong class.
FILED = {
    "AK": "akiec/AK/ACK/actinic keratosis/Solar or actinic keratosis", "DF": "df/dermatofibroma", "NV": "nv/NEV/nevus/Nevus",
    "BCC": "bcc/basal_cell_carcinoma/Basal cell carcinoma", "BKL": "bkl/SEK/seborrheic keratosis/pigmented_benign_keratosis",
    "MEL": "mel/melanoma/Melanoma, NOS/Melanoma Invasive/Melanoma in situ", "VASC": "vasc/vascular lesion/Hemangioma",
    "SCC": "scc/squamous cell carcinoma/Squamous cell carcinoma, NOS", "BENIGN": "benign/Benign lesion", "MALIGNANT": "Malignant",
    "UNK": "UNK/unknown"}


def test_public_names_are_filed_under_their_class_and_kind():
    for short, names in FILED.items():
        kind = data.TWO[short in ("AK", "BCC", "MEL", "SCC", "MALIGNANT")] if short != "UNK" else "unknown"
        for name in names.split("/"):
            assert (data.class_name(name, False), data.class_name(name, True)) == (short, kind), name


def test_for_a_study_what_is_dropped_is_counted_by_class_and_said(tmp_path, done, refused):
    classes = ("Nevus", "Melanoma, NOS", "Solar or actinic keratosis")
    folder_of(tmp_path / "ham10000", pictures(f"{name}/{k}.png" for name in classes for k in range(12)))
    prepare = ["data", "prepare", tmp_path, "--size", 16]
    out = done(*prepare, "--for", "dermagan", "--out", tmp_path / "four")
    assert data.load(tmp_path / "four").classes == ["AK", "MEL"] and "AK, BCC, BKL, MEL: 12 Nevus" in out
    out = done(*prepare, "--for", "wgan_gp", "--out", tmp_path / "two")
    assert data.load(tmp_path / "two").counts() == dict(benign=12, malignant=24)
    assert "ham10000 instead of kaggle_binary" in out and "left out" not in out
    folder_of(tmp_path / "x", pictures(AB))
    prepare = ["data", "prepare", tmp_path / "x", "--out", tmp_path / "job"]
    refused(["is class a benign or malignant", "labels.csv", "label=folder"], *prepare, "--binary")
    refused(["two or more classes", "3 a, 3 b", "--columns"], *prepare, "--for", "dermagan")


def test_prepare_keeps_a_sets_own_test_part_and_says_and_keeps_what_it_understood(tmp_path, done):
    names = [f"{('train', 'test')[k % 3 // 2]}/{data.TWO[k % 2]}/{k}.png" for k in range(60)]
    folder_of(tmp_path, pictures([*names, *(f"test/rare/{k}.png" for k in range(6))]))

    def prepared(name, *words):
        out = done("data", "prepare", tmp_path, "--size", 16, *words, "--out", tmp_path / name)
        return out, data.jobs.read_json(tmp_path / name / "result.json")

    out, result = prepared("job", "--val", 0.25)
    assert result["lesions"] == 66 and list(result["counts"]["test"].values()) == [10, 10, 6]
    assert list(result["counts"]["val"].values()) == [5, 5, 0]
    for words in ("train has no image of rare", "rare has only 6 images", "parts: names of folders"):
        assert words in out and words in "\n".join(result["source"]["reading"])
    assert "done before" in prepared("job", "--val", 0.25)[0]
    again = prepared("again", "--resplit", "--test", 0.5, "--limit", "benign=7")[1]["counts"]
    assert list(again["test"].values()) == [3, 15, 3] and sum(part["benign"] for part in again.values()) == 7


def test_check_tells_copies_two_labels_what_parts_share_and_what_was_left_out(tmp_path, done):
    files = pictures([f"train/{name}/{k}.png" for name in ("nevus", "melanoma") for k in range(4)])
    groups = "image,lesion_id,patient_id\ncopy,L,P\ntrain/nevus/1,L,P\ntrain/nevus/2,M,P"
    files |= {"test/nevus/copy.png": files["train/melanoma/0.png"], "x.heic": b"?", "m.csv": groups}
    files["train/nevus/deep.png"] = png(Image.fromarray(np.full((9, 9), 4000, np.uint16)))
    out = done("data", "check", folder_of(tmp_path, files))
    for words in ("1 pairs, 1 of them under two labels, 1 across parts", "1 .heic", "test has no image of melanoma",
                  "test/nevus/copy.png (nevus) = train/melanoma/0.png (melanoma)",
                  "more than one part: 1 lesions", "more than one part: 1 patients",
                  "more than 8 bits: 1 images"):
        assert words in out, out


# ---- Pixels of a file

def test_photographs_of_every_kind_become_squares():
    for mode in ("L", "1", "P", "CMYK", "I;16", "LA"):
        form = "JPEG" if mode == "CMYK" else "PNG"
        made = data.decode(png(Image.new("RGB", (40, 30), "red").convert(mode), form), 16)
        assert made.shape == (16, 16, 3) and made.dtype == np.uint8, mode
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert (data.decode(png(clear), 8) == 255).all()    # white
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    assert (data.decode(png(wide), 8)[:, 1:-1] == (0, 0, 255)).all()    # not squeezed
    half, exif = Image.new("RGB", (20, 20), "white"), Image.Exif()
    half.paste("black", (0, 0, 20, 10))
    exif[274] = 3                                       # upside down
    assert data.decode(png(half, exif=exif), 8)[0].mean() > 200


@pytest.mark.parametrize("bits, whites", [
    (8, (200, 255)), (10, (256, 300, 1023)), (12, (1024, 1500, 4095)), (14, (9000, 16383)), (16, (20000, 65535))])
def test_grey_of_many_bits_is_scaled_by_the_power_of_two_of_its_range(bits, whites):
    for white in whites:
        made = data.decode(png(Image.fromarray(np.full((2, 2), white, np.uint16))), 2)
        assert abs(int(made[0, 0, 0]) - white * 255 / (2 ** bits - 1)) <= 1


def test_unreadable_and_huge_files_are_named(tmp_path, refused, monkeypatch):
    broken = {"a/broken.png": png(Image.new("RGB", (40, 30)))[:40], "b/empty.png": b""}
    folder_of(tmp_path / "set", pictures(f"{'ab'[k % 2]}/{k}.png" for k in range(24)) | broken)
    words = ["2 unreadable", "a/broken.png", "b/empty.png", "remove"]
    refused(words, "data", "prepare", tmp_path / "set", "--size", 16, "--out", tmp_path / "job")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(Image.DecompressionBombError, match="pixels"):
        data.decode(png(Image.new("RGB", (40, 30))), 8)


# ---- Files of image sets

def cut_off(save, path, monkeypatch):
    """Ctrl-C comes when a .json is to be written."""
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data.jobs, "write_json", stop)
        save(path)


def test_a_set_comes_back_from_its_file_whole_or_is_refused(tmp_path, lesions, monkeypatch):
    file, n = tmp_path / "set.npy", len(lesions)
    lesions.save(file)
    again = data.load(file)
    assert again.fingerprint() == lesions.fingerprint() and list(again.ids) == list(lesions.ids)
    assert isinstance(again.images.base, np.memmap) and again.info == lesions.info
    for name in ("images", "labels", "groups", "split"):
        other = data.replace(lesions, **{name: getattr(lesions, name)[::-1]})
        assert other.fingerprint() != lesions.fingerprint(), name
    cut_off(lesions.save, file, monkeypatch)
    with pytest.raises(UserError, match="set.json cannot be read"):
        data.load(file)
    for change in (dict(images=lesions.images[:, :32]), dict(images=lesions.images / 2), dict(ids=lesions.ids[:3]), {},
                   dict(labels=lesions.labels + 5), dict(classes=["a", "a"]), dict(classes=["../a", "b"]),
                   dict(split=np.full(n, "holdout"))):
        data.replace(lesions, **change).save(file)
        if not change:
            file.write_bytes(b"nothing")
        with pytest.raises(UserError, match="set.npy is not an image set"):
            data.load(file)
    with pytest.raises(UserError, match="marked val"):
        data.replace(lesions, split=np.full(n, "")).part("val")


def test_a_tree_is_whole_or_not_there_and_keeps_what_a_gan_has_seen(tmp_path, monkeypatch, lesions):
    few = data.replace(lesions.take(slice(4)), info=dict(digests=["x"], size=64))
    cut_off(few.save, tmp_path / "tree", monkeypatch)
    assert not (tmp_path / "tree").exists()
    few.save(tmp_path / "tree")
    again = data.load(tmp_path / "tree")
    assert sorted(again.digests()) == sorted(few.digests()) and again.info["digests"] == ["x"]
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="new folder"):
        few.save(tmp_path / "tree")


def test_images_of_any_generator(tmp_path, lesions):
    notes = {"metadata.csv": "file_name,prompt\n0.png,a mole\n", "x.json": ""}
    folder_of(tmp_path / "flat", pictures(["x/0.png", "x/1.png"]) | notes)
    folder_of(tmp_path / "mine", pictures(TREE))
    np.savez(tmp_path / "samples.npz", lesions.images[:5])
    lesions.save(tmp_path / "set.npy")
    both = data.load_synthetic(tmp_path / "mine", folder_size=16)
    assert both.counts() == dict(benign=3, malignant=3) and both.info["generator"] == "mine"
    ours = lesions.of_class("malignant")
    for path, n in (("samples.npz", 5), ("flat", 2), ("mine", 3), ("set.npy", len(ours))):
        one = data.load_synthetic(f"malignant={tmp_path / path}", folder_size=64)
        assert one.counts() == dict(malignant=n) and one.info["generator"] == path
        assert path != "samples.npz" or (one.images == lesions.images[:5]).all()
    assert (one.images == ours.images).all()
    with pytest.raises(UserError, match="CLASS="):
        data.load_synthetic(tmp_path / "samples.npz")
    for images in (lesions.images[:5, :32], lesions.images[:5] / 255):
        np.savez(tmp_path / "wrong.npz", images)
        with pytest.raises(UserError, match="wrong.npz is not an image set"):
            data.load_synthetic(f"a={tmp_path}/wrong.npz")


def test_export_gives_a_generator_its_share_and_what_it_will_have_seen(tmp_path, done, lesions):
    data.replace(lesions, info=dict(dataset="that")).save(tmp_path / "set.npy")
    out = done("data", "export", tmp_path / "set.npy", "--share", "1/2", "--out", tmp_path / "out")
    assert "run_all.sh controls" in out and "--synthetic" in out
    half, again = lesions.part("train").share(0.5), data.load(tmp_path / "out")
    assert sorted(again.digests()) == sorted(half.digests()) == again.info["digests"]
    assert again.counts() == half.counts() and again.info["seen_ids"] == dict(that=sorted(half.ids))


# ---- Splits and copies

def set_of(groups, colours, split=""):
    """Images of one colour each."""
    n, split = len(groups), split.split() or [""] * len(groups)
    images = np.zeros((n, 8, 8, 3), np.uint8) + np.uint8(colours)[:, None, None, None]
    ids, labels = np.array([f"image{k}" for k in range(n)]), np.zeros(n, np.int64)
    return data.ImageSet(images, labels, ["a", "b"], ids, np.array(groups), np.array(split), {})


def test_lesions_stay_whole_also_if_an_equal_picture_joins_them_and_shares_of_each_class_are_met():
    fillers = [f"filler{k}" for k in range(20)]     # the first edition often parted B
    images = set_of(["A", "A", "B", "B", *fillers], [1, 2, 2, 3, *range(10, 30)])
    for seed in range(40):
        assert len(set(data.with_split(images, val=0.25, test=0.25, seed=seed).split[:4])) == 1
    whole = data.built_in(480, 8)
    drawn = data.with_split(whole, val=0.1, test=0.2)
    for name, low, high in (("train", 40, 48), ("val", 4, 8), ("test", 10, 14)):
        assert not set(drawn.groups[drawn.split == name]) & set(drawn.groups[drawn.split != name])
        assert all(low <= n <= high for n in drawn.part(name).counts().values())
    marks = "rrrrrrreerrrrrrrrrrrrrrrrrrrrrrrrrrrerrrrrraarrrrrraaarrrrrrerrrrrreer"
    assert "".join(part[1] for part in drawn.split[:70]) == marks
    assert (data.with_split(whole, seed=1).split != drawn.split).any()
    assert set(data.with_split(whole, val=0.1, test=7).part("test").counts().values()) <= {6, 7, 8}


def test_copies_across_given_parts_stay_in_test_else_in_val_and_limits_take_whole_lesions():
    images = set_of(list("abcdefg"), [1, 2, 3, 1, 5, 6, 3], "train train val test test train train")
    kept = data.with_split(images)
    assert " ".join(kept.split) == "train val test test train" and kept.info["dropped"] == 2
    rows = data.lesion_rows(240, 0)
    for limit in range(1, 12):
        assert sum(row.label == "NV" for row in data.choose(rows, dict(NV=limit), limit)) <= limit
    few = data.choose(rows, dict(NV=8), 0)
    taken = {row.lesion for row in few if row.label == "NV"}
    assert [row for row in rows if row.lesion in taken or row.label != "NV"] == few
    assert 6 < sum(row.label == "NV" for row in few) <= 8 < len({row.lesion for row in few}) - 80


def test_a_larger_share_holds_a_smaller_one_by_lesions_in_the_order_of_their_hash():
    def lots(images):
        return {hashlib.blake2b(group.encode(), digest_size=8).hexdigest() for group in images.groups}

    train = data.built_in(480, 8)
    small, large = train.share(Fraction(1, 4)), train.share(0.5)
    assert set(small.ids) < set(large.ids) < set(train.ids) and len(small) == 8 * 15
    for name in data.EIGHT:
        taken = lots(small.of_class(name))
        assert max(taken) < min(lots(train.of_class(name)) - taken)


def test_near_copies_of_test_images_are_found_and_dropped_if_asked(lesions, tmp_path, done):
    test = lesions.part("test")
    darker = (test.images * 0.97).astype(np.uint8)
    copy = data.replace(test, split=np.full(len(test), "train"), images=darker)
    for sets, order in (([copy, test], 1), ([test, copy], -1)):
        near = data.near_test(data.mix(sets))[::order]
        assert near[:len(copy)].mean() > 0.9 and not near[len(copy):].any(), order
    both = data.replace(data.mix([copy, test]), split=np.full(2 * len(test), "test"))
    assert data.near_test(lesions).mean() < 0.1 and not data.near_test(both).any()
    files = {"test/x/a": test.images[0], "train/x/b": darker[0], "train/y/c": lesions.images[1], "train/y/d": lesions.images[2]}
    folder_of(tmp_path / "set", {f"{name}.png": png(Image.fromarray(image)) for name, image in files.items()})
    for options, n in (([], 4), (["--drop-near"], 3)):
        out = done("data", "prepare", tmp_path / "set", "--val", 0, "--out", tmp_path / str(n), *options)
        assert "leaves them out): 1" in out and len(data.load(tmp_path / str(n))) == n


def test_classes_go_by_name_when_sets_are_mixed_and_no_set_is_touched(lesions):
    sets = [lesions, data.replace(lesions, classes=lesions.classes[::-1])]
    mixed = data.mix(sets)
    assert len(sets) == 2 and (mixed.labels[len(lesions):] == 1 - lesions.labels).all()
    assert (mixed.images == np.concatenate([lesions.images] * 2)).all() and list(mixed.ids) == list(lesions.ids) * 2
    with pytest.raises(UserError, match="mole"):
        data.mix([lesions, data.replace(lesions, classes=["benign", "mole"])])


def test_what_was_seen_goes_by_prepared_set_and_along_a_chain_of_gans():
    one = dict(dataset="one", digests=["x"], seen_ids={"two": ["q"]})
    sets = [data.replace(set_of("ab", [1, 2]), info=one), data.replace(set_of("c", [3]), info=dict(dataset="two"))]
    seen = data.what_was_seen(sets[0], None, sets[1])
    assert seen["seen_ids"] == dict(one=["image0", "image1"], two=["image0", "q"])
    assert set(seen["digests"]) == {"x", *sets[0].digests(), *sets[1].digests()}


# ---- What is done to pixels

def test_bilateral_follows_its_definition_and_gamma_brightens_as_the_formula_says():
    image = np.random.default_rng(0).integers(0, 255, (1, 12, 12, 3)).astype(np.uint8)
    made, y, x = data.bilateral(image)[0, 5, 6].astype(int), 5, 6
    total, weights = np.zeros(3), 0.0
    for dy, dx in itertools.product(range(-4, 5), repeat=2):
        if dy * dy + dx * dx <= 16:
            there, here = image[0, y + dy, x + dx].astype(float), image[0, y, x].astype(float)
            distance = np.abs(there - here).sum()
            weight = np.exp(-0.5 * (distance ** 2 + dy * dy + dx * dx) / 75 ** 2)
            total, weights = total + weight * there, weights + weight
    assert np.abs(made - total / weights).max() <= 0.51
    flat = np.full((1, 16, 16, 3), 64, np.uint8)
    assert (data.enhance(flat) == round(255 * (64 / 255) ** (1 / 1.5))).all()


def affine(**ranges):
    """The maps that augment drew, (n, 2, 3): the pixels tell where they were."""
    torch.manual_seed(0)
    line = (torch.arange(64) + 0.5) / 32 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    picture = torch.stack([x, y, x * 0]) * 0.3
    still = dict(rotate=0, zoom=0, shift=0, shear=0, brightness=0)
    seen = data.augment(picture.expand(300, 3, 64, 64).clone(), **still | ranges)[:, :2] / 0.3
    middle = (slice(24, 40), slice(24, 40))
    places = torch.stack([x[middle].ravel(), y[middle].ravel(), torch.ones(256)], 1)
    return torch.linalg.lstsq(places.expand(300, -1, -1), seen[:, :, *middle].flatten(2).mT).solution.mT.numpy()


def spread(values, limit):
    """Uniform from -limit to limit, one draw for each image."""
    return abs(values).max() <= limit * 1.001 and np.std(values) == pytest.approx(limit / 3 ** 0.5, rel=0.1)


def test_augmentation_turns_zooms_shifts_shears_and_mirrors_each_image_by_itself():
    still = affine()
    assert 120 < (still[:, 0, 0] > 0).sum() < 180 and np.allclose(abs(still), [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    turned = affine(rotate=20, zoom=0.2)
    mirror, angle = np.sign(turned[:, 0, 0]), np.degrees(np.arctan2(-turned[:, 0, 1], turned[:, 1, 1]))
    scale = np.hypot(turned[:, 0, 1], turned[:, 1, 1])
    assert spread(angle, 20) and spread(scale - 1, 0.2) and abs(np.corrcoef(angle, scale)[0, 1]) < 0.2
    assert np.allclose(mirror * turned[:, 1, 0], -turned[:, 0, 1], atol=1e-3) and np.allclose(mirror * turned[:, 0, 0], turned[:, 1, 1], atol=1e-3)
    shifted, sheared = affine(shift=0.1)[:, :, 2], affine(shear=10)
    assert spread(shifted[:, 0], 0.2) and spread(shifted[:, 1], 0.2) and abs(np.corrcoef(shifted.T)[0, 1]) < 0.2
    assert spread(np.degrees(np.arctan(sheared[:, 0, 1])), 10) and np.allclose(sheared[:, 1, 1], 1, atol=1e-4)
    light = (data.augment(torch.full((300, 3, 8, 8), -0.5), brightness=0.1).mean((1, 2, 3)) + 1) / 0.5 - 1
    assert spread(light.numpy(), 0.1) and data.augment(torch.full((300, 3, 8, 8), 0.99), brightness=0.1).max() == 1


def test_batches_are_the_images_with_their_labels_shuffled_anew_by_epoch_and_seed(lesions):
    images = data.replace(lesions, images=lesions.images.copy())
    images.images[:, 0, 0, 0] = np.arange(len(images))  # the red of a corner tells which it is

    def order(seed, start, n):
        batches, seen = data.Batches(images, 8, seed, "cpu"), []
        batches.load_state_dict(dict(position=start))
        for _ in range(n):
            pixels, labels = batches.next()
            which = pixels[:, 0, 0, 0].tolist()
            assert (pixels.permute(0, 2, 3, 1).numpy() == images.images[which]).all()
            assert (labels.numpy() == images.labels[which]).all() and pixels.dtype == torch.uint8
            seen += which
        assert batches.state_dict() == dict(position=start + n)
        return seen

    n, one = len(images), len(images) // 8
    through = order(1, 0, 2 * one)
    epochs = [through[:n], through[n:], order(2, 0, one)]
    assert through[n + 24:] == order(1, one + 3, one - 3) and epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert all(sorted(epoch) == list(range(n)) != epoch for epoch in epochs)
    with pytest.raises(UserError, match="--batch"):
        data.Batches(images, 1, 1, "cpu")


def test_scaling_goes_from_minus_one_to_one_and_back():
    pixels = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3) + 64
    tensor = data.scaled(data.to_tensor(pixels))
    assert tensor.shape == (1, 3, 8, 8) and tensor.max() == 1 and tensor[0, 2, 0, 0].item() == pytest.approx(66 / 127.5 - 1)
    assert (data.to_uint8(tensor) == pixels).all() and data.to_uint8(tensor * 0 - 1).max() == 0
