"""Image sets: other people's photographs and tables, splits that do not leak, exact preprocessing."""
import collections
import io
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


def test_a_drawn_set_depends_on_its_seed_alone_and_not_on_its_length():
    few, many = data.built_in(12, 32, seed=3), data.built_in(24, 32, seed=3)
    assert (few.images == many.images[:12]).all() and list(few.ids) == list(many.ids[:12])
    assert not (few.images == data.built_in(12, 32, seed=4).images).all()
    assert few.images.mean((0, 1, 2)) == pytest.approx([182.3, 125.8, 117.0], abs=0.2)      # as ever


def test_classes_are_balanced_and_a_lesion_has_one_to_three_views():
    drawn = data.built_in(96, 32)
    assert drawn.counts() == dict.fromkeys(data.EIGHT, 12)
    views = np.unique(drawn.groups, return_counts=True)[1]
    assert views.min() == 1 and views.max() == 3 and len(set(drawn.ids)) == 96
    assert all(name.startswith(group) for name, group in zip(drawn.ids, drawn.groups))


def test_a_lesion_is_the_same_at_every_size():
    large, small = (data.draw_lesion(5, 8, 0, size=size).astype(float) for size in (96, 32))
    blocks = large.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.95


def test_artefacts_do_not_know_the_class(monkeypatch):
    """The same picture number has the same artefacts whatever lesion is below them."""
    for view in range(6):
        changes = []
        for label in (0, 5):
            shown = []
            for odds in (0.0, 1.0):
                monkeypatch.setattr(data, "ARTEFACTS", dict.fromkeys(data.ARTEFACTS, odds))
                shown.append(data.draw_lesion(label, 40, view).astype(float).mean(2))
            changes.append(shown[1] / shown[0].clip(8))
        assert np.corrcoef(changes[0].ravel(), changes[1].ravel())[0, 1] > 0.9


# ---- Other people's sets

def photo(colour=(200, 120, 90), size=(40, 30), mode="RGB", form="PNG"):
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, form)
    return file.getvalue()


def pictures(names):
    """{name: bytes of a picture that no other name has}."""
    return {name: photo((k % 250, k // 250, 9), (12, 12)) for k, name in enumerate(names)}


def folder_of(root, files):
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return root


def zip_of(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in files.items():
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            archive.writestr(entry, raw)


def lines(header, form, ks=range(6)):
    """A table: image k is benign, malignant in turn; two in turn are of a lesion, three of a patient."""
    rows = [header] if header else []
    for k in ks:
        kind = data.TWO[k % 2]
        rows.append(form.format(k=k, kind=kind, b=1 - k % 2, m=k % 2, l=k // 2, p=k // 3))
    return "\n".join(rows) + "\n"


FLAT = [f"images/I{k}.png" for k in range(6)]
TREE = [f"{data.TWO[k % 2]}/I{k}.png" for k in range(6)]
CALLED = [f"{'ab'[k % 2]}/I{k}.png" for k in range(6)]
PARTED = [f"{('train', 'test')[k // 4]}/{data.TWO[k % 2]}/I{k}.png" for k in range(6)]
LABELS = lines("image,label", "I{k},{kind}")
HALVES = {"": 6}
PARTS = {"train": 4, "test": 2}

# name: (images, tables, what differs from 3 benign + 3 malignant of 6 lesions in no part)
READ = {
    "tab": (FLAT, {"meta.tab": lines("image_id\tdx\tlesion_id", "I{k}\t{kind}\tL{l}")},
            dict(lesions=3, said=["column dx of meta.tab", "column lesion_id of meta.tab"])),
    "tsv": (FLAT, {"meta.tsv": lines("image\tlabel", "I{k}\t{kind}")}, {}),
    "no suffix": (FLAT, {"meta": lines("isic_id,diagnosis", "I{k},{kind}"), "LICENSE": "All, rights"},
                  dict(said=["column diagnosis of meta"])),
    "BOM, quotes, semicolons, blanks": (FLAT, {"x.csv": "\ufeff" + lines(
        '"Image"; "Label";"Lesion ID"', '"I{k}.png" ; {kind} ;"a;{l}"')}, dict(lesions=3)),
    "patients": (FLAT, {"train_meta.csv": lines("image_name,patient_id,benign_malignant", "I{k},P{p},{kind}")},
                 dict(lesions=2, parts={"train": 6}, said=["no lesion_id, else column patient_id"])),
    "lesions before patients": (FLAT, {"m.csv": lines("patient_id,lesion_id,img_id,diagnostic",
                                                      "P{p},{l},I{k}.png,{kind}")}, dict(lesions=3)),
    "ISIC 2016": (FLAT, {"x.csv": lines("", "I{k},{kind}")}, {}),
    "ISIC 2019": (FLAT, {"GroundTruth.csv": lines("image,benign,malignant,UNK,score_weight,benign_weight",
                                                  "I{k},{b}.000,{m}.0,0.0,0.5,1.0"),
                         "Metadata.csv": lines("image,age_approx,lesion_id,sex", "I{k},50,L{l},male")},
                  dict(lesions=3, said=["not used: column age_approx, sex of Metadata.csv"])),
    "True and False": (FLAT, {"x.csv": lines("image,benign,malignant", "I{k},False,True", (1, 3, 5))
                              + lines("", "I{k},True,False", (0, 2, 4))}, {}),
    "dummies beside classes": (TREE, {"m.csv": lines("image,sex_female,sex_male", "I{k},{b},{m}")},
                               dict(said=["folders benign, malignant", "column sex_female, sex_male of m.csv"])),
    "a lesion table beside folders": (CALLED, {"m.csv": lines("image,lesion_id", "I{k},{l}")},
                                      dict(counts=dict(a=3, b=3), lesions=3)),
    "pixels": (FLAT, {"m.csv": LABELS, "pixels.csv": "pixel0,pixel1,label\n" + "1,2,3\n" * 9},
               dict(said=["not used: pixels.csv, which names no image: pixel0, pixel1, label"])),
    "the whole": (FLAT, {"m.csv": lines("image,label", "I{k},{kind}", range(16))},
                  dict(said=["10 of 16 rows of m.csv"])),
    "other machines": (FLAT, {"m.csv": lines("path,class", "/content/My Drive/images/I{k}.png,{kind}")}, {}),
    "other folders": (FLAT, {"m.csv": lines("path,class", "D:\\photos\\i{k}.JPG,{kind}")}, {}),
    "paths": ([f"{'xy'[k % 2]}/{k // 2}.png" for k in range(6)],
              {"m.csv": lines("image,label", "x/{k}.png,benign", range(9)) + "y/0,malignant\ny/1,malignant\ny/2.png,malignant\n"},
              dict(said=["6 of 12 rows"])),
    "complements": (FLAT, {"train.csv": lines("image,label", "I{k},{kind}", range(4)),
                           "test.csv": lines("image,label", "I{k},{kind}", (3, 4, 5)).replace("I3", "I9")},
                    dict(parts=PARTS)),
    "agree": (FLAT, {"a.csv": LABELS, "b.csv": lines("image,dx", "I{k},{kind}").upper()}, {}),
    "own labels": (FLAT, {"labels.csv": LABELS, "other.csv": lines("image,dx", "I{k},nevus")}, {}),
    "a split": (FLAT, {"m.csv": lines("image,label,split", "I{k},{kind},Training", range(4))
                       + "I4,benign,testing\nI5,malignant,test\n"}, dict(parts=PARTS, said=["column split of m.csv"])),
    "split by lesion": (FLAT, {"m.csv": lines("image,label,split,split_by_lesion", "I{k},{kind},val,train")},
                        dict(parts={"train": 6})),
    "tables of their folders": ([f"{part}/img/{k}.png" for part in ("train", "test") for k in range(2)],
                                {f"{part}/labels.csv": "image,label\n0,benign\n1,malignant\n" for part in ("train", "test")},
                                dict(counts=dict(benign=2, malignant=2), lesions=4, parts={"train": 2, "test": 2})),
    "parts": (PARTED, {}, dict(parts=PARTS, said=["names of folders"])),
    "parts below the class": ([f"{data.TWO[k % 2]}/{('train', 'test')[k // 4]}/I{k}.png" for k in range(6)], {},
                              dict(parts=PARTS)),
    "parts of two words": ([f"train_test_split/{name}" for name in PARTED], {}, dict(parts=PARTS)),
    "one word": ([name.replace("train/", "ISIC-2017_Training_Data/").replace("test/", "TestImages/")
                  for name in PARTED], {}, dict(parts=PARTS)),
    "the nearest": ([f"test_data/{name}" for name in PARTED], {}, dict(parts=PARTS)),
    "suffixes": ([f"{data.TWO[k % 2]}/{k}.{s}" for k, s in enumerate(("JPG", "jfif", "jpe", "TIFF", "PNG", "webp"))],
                 {"benign/x.heic": "?", "benign/y.HEIC": "?", "notes.txt": "?"}, dict(said=["2 .heic, 1 .txt"])),
    "batches below classes": ([f"all/{data.TWO[k % 2]}/batch{k}/I{k}.png" for k in range(6)], {}, {}),
    "one case": ([f"{('Benign', 'malignant', 'benign')[k % 3]}/I{k}.png" for k in range(6)], {},
                 dict(counts=dict(Benign=4, malignant=2))),
    "outside the classes": ([*TREE, "preview.png"], {}, dict(said=["1 of 7 images", "preview.png"])),
}
NAMED = {
    "label": ({"m.csv": lines("code,finding", "I{k},{kind}")}, dict(image="code", label="finding"), {}),
    "one-hot": ({"m.csv": lines("image,mole,wart", "I{k},{b},{m}")}, dict(label="mole,wart"), dict(mole=3, wart=3)),
    "one of two": ({"m.csv": lines("image,dx,sort", "I{k},x,{kind}")}, dict(label="sort"), {}),
    "folder": ({"m.csv": lines("image,remark", "I{k},?")}, dict(label="folder"), dict(a=3, b=3)),
}
REFUSED = {
    "not understood": (FLAT, {"x.csv": lines("code,finding", "I{k},{kind}")}, ["x.csv", "column code", "code, finding", "--columns"]),
    "no label": (FLAT, {"x.csv": lines("image,finding", "I{k},?")}, ["x.csv", "image, finding", "--columns"]),
    "dummies": (CALLED, {"x.csv": lines("image,f,m", "I{k},{b},{m}")}, ["x.csv", "image, f, m", "--columns"]),
    "classes under another title": (TREE, {"x.csv": lines("image,finding", "I{k},{kind}")}, ["column finding", "--columns"]),
    "none is here": (TREE, {"x.csv": lines("image,label", "J{k},{kind}")}, ["names no image that is here", "--columns"]),
    "an empty label": (FLAT, {"x.csv": LABELS.replace("I2,benign", "I2,")}, ["x.csv line 4", "empty"]),
    "a row of zeros": (FLAT, {"x.csv": lines("image,NV,MEL", "I{k},0,{m}")}, ["x.csv line 2", "--zeros"]),
    "two ones": (FLAT, {"x.csv": lines("image,NV,MEL", "I{k},1,1")}, ["line 2", "NV and MEL"]),
    "no ones": (FLAT, {"x.csv": lines("image,NV,MEL", "I{k},0.3,0.7")}, ["line 2", "0.3", "column NV", "--columns"]),
    "disagree": (FLAT, {"x.csv": LABELS, "y.csv": LABELS.replace("I2,benign", "I2,malignant")}, ["I2.png", "x.csv line 4", "y.csv line 4"]),
    "twice": (FLAT, {"x.csv": LABELS + "I2,malignant\n"}, ["line 4", "line 8"]),
    "lesions disagree": (FLAT, {"x.csv": LABELS, "y.csv": "image,lesion_id\nI1,A\nI1,B\n"}, ["its lesion", "y.csv line 3"]),
    "a part": (FLAT, {"x.csv": lines("image,label,split", "I{k},{kind},holdout")}, ["line 2", "holdout", "--columns"]),
    "parts disagree": (PARTED, {"test.csv": LABELS}, ["folder of train", "test.csv line 2", "part=none"]),
    "a path as a class": (FLAT, {"x.csv": LABELS.replace("malignant", "../x")}, ["../x"]),
    "one name": (["a/I1.png", "b/I1.png"], {"x.csv": LABELS}, ["2 different pictures", "a/I1.png and b/I1.png"]),
    "no images": ([], {"x.heic": "?"}, ["no images", "1 .heic"]),
    "no zip": (TREE, {"x.zip": "?"}, ["x.zip is not a readable zip"]),
}


def summary(rows):
    counts = dict(collections.Counter(row.label for row in rows))
    return counts, len({row.lesion for row in rows}), dict(collections.Counter(row.part for row in rows))


@pytest.mark.parametrize("layout", READ)
def test_sets_are_read_as_they_are_meant_and_aloud(tmp_path, layout):
    names, tables, differs = READ[layout]
    expected = dict(counts=dict(benign=3, malignant=3), lesions=6, parts=HALVES, said=[]) | differs
    rows, notes = reading.read_rows(folder_of(tmp_path, pictures(names) | tables))
    assert summary(rows) == (expected["counts"], expected["lesions"], expected["parts"])
    for words in expected["said"]:
        assert words in "\n".join(notes), notes


@pytest.mark.parametrize("case", NAMED)
def test_columns_named_by_the_user_count(tmp_path, case):
    tables, named, counts = NAMED[case]
    rows, _ = reading.read_rows(folder_of(tmp_path, pictures(CALLED) | tables), named=named)
    assert summary(rows)[0] == (counts or dict(benign=3, malignant=3))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_with_its_own_remedy(tmp_path, refused, case):
    names, tables, words = REFUSED[case]
    folder_of(tmp_path / "set", pictures(names) | tables)
    refused(words, "data", "prepare", tmp_path / "set", "--out", tmp_path / "job")
    with pytest.raises(UserError) as problem:
        reading.read_rows(tmp_path / "set")
    assert ("--zeros" in str(problem.value)) == (case == "a row of zeros")


def test_a_column_that_is_nowhere_is_refused_and_rows_of_zeros_get_the_class_that_is_named(tmp_path, refused):
    folder_of(tmp_path, pictures(FLAT) | {"x.csv": lines("image,malignant", "I{k},{m}")})
    refused(["no table", "column finding", "image, malignant"], "data", "prepare", tmp_path,
            "--columns", "label=finding", "--out", tmp_path / "job")
    refused(["kind=x"], "data", "prepare", tmp_path, "--columns", "kind=x", "--out", tmp_path / "job")
    rows, _ = reading.read_rows(tmp_path, zeros="nevus")
    assert summary(rows)[0] == dict(nevus=3, malignant=3)


def test_zips_links_circles_and_second_copies(tmp_path):
    files = pictures(PARTED)
    test = {name.removeprefix("test/"): raw for name, raw in files.items() if name.startswith("test")}
    zip_of(tmp_path / "zips" / "deep" / "test.zip", test)
    zip_of(tmp_path / "zips" / "x.zip", {name.replace("/", "\\"): raw for name, raw in files.items() if name[1] == "r"})
    zip_of(tmp_path / "one.zip", files | {"__MACOSX/train/benign/._I0.png": b"?"})
    folder_of(tmp_path / "real", test)
    linked = folder_of(tmp_path / "linked", {name: raw for name, raw in files.items() if name[1] == "r"})
    (linked / "test").symlink_to(tmp_path / "real")
    (linked / "train" / "round").symlink_to(linked)
    (linked / "a_link").symlink_to(linked / "train")
    twice = folder_of(tmp_path / "twice", files | {f"again/{name}": raw for name, raw in files.items()})
    table = folder_of(tmp_path / "table", {f"part_{k % 2}/I{k}.png": raw for k, raw in enumerate(files.values())})
    folder_of(table, {"part_0/I1.png": list(files.values())[1], "m.csv": LABELS})
    for name, parts in (("zips", PARTS), ("one.zip", PARTS), ("linked", PARTS), ("twice", PARTS), ("table", HALVES)):
        rows, notes = reading.read_rows(tmp_path / name)
        assert summary(rows) == (dict(benign=3, malignant=3), 6, parts), name
    assert "left out: 1 further files of the same name and content" in notes


def test_a_table_that_names_no_image_is_not_read_whole():
    taken = []

    def open_file():
        file = io.BytesIO(b"pixel0,pixel1,label\n" + b"1,2,3\n" * 500_000)
        read = file.read1
        file.read1 = lambda n=-1: taken.append(n) or read(n)
        return file

    class Counted(io.BytesIO):
        def read1(self, n=-1):
            taken.append(len(some := super().read1(n)))
            return some

    raw = b"pixel0,pixel1,label\n" + b"1,2,3\n" * 500_000
    table = reading.read_table("x.csv", "x.csv", lambda: Counted(raw), reading.finder(FLAT), {})
    assert table.rows == [] and 0 < sum(taken) < 100_000


# A second table of the names, so that none is filed under a wrong class.
FILED = {
    "AK": ["akiec", "AK", "ACK", "actinic keratosis", "Solar or actinic keratosis", "AKIEC"],
    "BCC": ["bcc", "BCC", "basal cell carcinoma", "Basal cell carcinoma"],
    "BKL": ["bkl", "BKL", "SEK", "seborrheic keratosis", "seborrheic_keratosis", "pigmented benign keratosis"],
    "DF": ["df", "dermatofibroma"], "NV": ["nv", "NEV", "nevus", "Nevus"], "UNK": ["UNK", "unknown"],
    "MEL": ["mel", "MEL", "melanoma", "Melanoma, NOS", "Melanoma Invasive", "Melanoma in situ"],
    "SCC": ["scc", "squamous cell carcinoma", "Squamous cell carcinoma, NOS"],
    "VASC": ["vasc", "vascular lesion", "Hemangioma"], "BENIGN": ["benign", "Benign lesion"], "MALIGNANT": ["Malignant"],
}


def test_public_names_are_filed_under_their_class_and_kind():
    for short, names in FILED.items():
        kind = dict(UNK="unknown").get(short, "malignant" if short in ("AK", "BCC", "MEL", "SCC", "MALIGNANT") else "benign")
        for name in names:
            assert (data.class_name(name, False), data.class_name(name, True)) == (short, kind), name
    with pytest.raises(UserError, match="mole"):
        data.class_name("mole", binary=True)


def test_for_a_study_what_is_dropped_is_counted_by_class_and_said(tmp_path, done, refused):
    names = [f"{name}/{k}.png" for name in ("Nevus", "Melanoma, NOS", "Solar or actinic keratosis") for k in range(12)]
    folder_of(tmp_path / "ham10000", pictures(names))
    prepare = ["data", "prepare", tmp_path, "--size", 16]
    out = done(*prepare, "--for", "dermagan", "--out", tmp_path / "four")
    assert data.load(tmp_path / "four").classes == ["AK", "MEL"] and "AK, BCC, BKL, MEL: 12 Nevus" in out
    out = done(*prepare, "--for", "wgan_gp", "--out", tmp_path / "two")
    assert data.load(tmp_path / "two").counts() == dict(benign=12, malignant=24)
    assert "ham10000 instead of kaggle_binary" in out and "left out" not in out
    folder_of(tmp_path / "x", pictures([f"{k % 2}/{k}.png" for k in range(6)]))
    refused(["is class 0 benign or malignant", "labels.csv"], "data", "prepare", tmp_path / "x", "--binary", "--out", tmp_path / "job")


def test_prepare_keeps_a_sets_own_test_part_and_says_and_keeps_what_it_understood(tmp_path, done):
    names = [f"{('train', 'test')[k % 3 // 2]}/{data.TWO[k % 2]}/{k}.png" for k in range(60)]
    folder_of(tmp_path, pictures([*names, *(f"test/rare/{k}.png" for k in range(6))]))
    out = done("data", "prepare", tmp_path, "--size", 16, "--val", 0.25, "--out", tmp_path / "job")
    result = reading_of(tmp_path / "job")
    assert result["counts"]["test"] == dict(benign=10, malignant=10, rare=6)
    assert result["counts"]["val"] == dict(benign=5, malignant=5, rare=0) and result["lesions"] == 66
    for words in ("train has no image of rare", "class rare has only 6 images", "parts: names of folders"):
        assert words in out and words in "\n".join(result["source"]["reading"])
    assert "done before" in done("data", "prepare", tmp_path, "--size", 16, "--val", 0.25, "--out", tmp_path / "job")
    done("data", "prepare", tmp_path, "--size", 16, "--resplit", "--test", 0.5, "--out", tmp_path / "again")
    assert reading_of(tmp_path / "again")["counts"]["test"] == dict(benign=15, malignant=15, rare=3)
    done("data", "prepare", tmp_path, "--size", 16, "--limit", "benign=7", "--out", tmp_path / "few")
    assert data.load(tmp_path / "few").counts() == dict(benign=7, malignant=30, rare=6)


def reading_of(folder):
    return data.jobs.read_json(folder / "result.json")


def test_check_tells_copies_two_labels_what_parts_share_and_what_was_left_out(tmp_path, done):
    files = pictures([f"train/{name}/{k}.png" for name in ("nevus", "melanoma") for k in range(4)])
    files["test/nevus/copy.png"] = files["train/melanoma/0.png"]
    files["test/nevus/x.heic"] = b"?"
    files["train/nevus/broken.png"] = b"?"
    deep = io.BytesIO()
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(deep, "PNG")
    files["train/nevus/deep.png"] = deep.getvalue()
    files["m.csv"] = "image,lesion_id,patient_id\ntest/nevus/copy,L,P\ntrain/nevus/1,L,P\ntrain/nevus/2,M,P"
    out = done("data", "check", folder_of(tmp_path, files))
    for words in ("1 pairs, 1 of them under two labels, 1 across parts", "1 melanoma / nevus", "1 .heic",
                  "test has no image of melanoma", "more than 8 bits: 1 images", "broken.png",
                  "more than one part: 1 lesions, 1 patients"):
        assert words in out, out


# ---- Pixels of a file

def test_photographs_of_every_kind_become_squares():
    for mode, form in (("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("I;16", "PNG"), ("LA", "PNG")):
        made = data.decode(photo(mode=mode, form=form), 16)
        assert made.shape == (16, 16, 3) and made.dtype == np.uint8, mode
    rgba = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(rgba, "PNG")
    assert (data.decode(rgba.getvalue(), 8) == 255).all()                   # transparent: white
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    file = io.BytesIO()
    wide.save(file, "PNG")
    assert (data.decode(file.getvalue(), 8)[:, 1:-1] == (0, 0, 255)).all()         # the centre, not squeezed
    turned, exif = io.BytesIO(), Image.Exif()
    exif[274] = 3                                                           # upside down
    half = Image.new("RGB", (20, 20), "white")
    half.paste("black", (0, 0, 20, 10))
    half.save(turned, "PNG", exif=exif)
    assert data.decode(turned.getvalue(), 8)[0].mean() > 200


@pytest.mark.parametrize("white, half", [(255, 127), (1023, 511), (4095, 2047), (16383, 8191), (65535, 32767)])
def test_grey_of_many_bits_is_scaled_by_the_power_of_two_of_its_range(white, half):
    file = io.BytesIO()
    Image.fromarray(np.array([[white, half], [0, half]], np.uint16)).save(file, "PNG")
    made = data.decode(file.getvalue(), 2)[..., 0].astype(int)
    assert abs(made - [[255, 127], [0, 127]]).max() <= 1


def test_unreadable_and_huge_files_are_named_or_left_out_and_counted(tmp_path, refused, done, monkeypatch):
    folder_of(tmp_path / "set", pictures(f"{'ab'[k % 2]}/{k}.png" for k in range(24)) | {"a/broken.png": photo()[:40]})
    refused(["a/broken.png", "--skip-bad"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "job")
    out = done("data", "prepare", tmp_path / "set", "--size", 16, "--skip-bad", "--out", tmp_path / "job")
    assert len(data.load(tmp_path / "job")) == 24 and "unreadable: a/broken.png" in out
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(Image.DecompressionBombError, match="pixels"):
        data.decode(photo(), 8)


# ---- Files of image sets

def test_a_set_comes_back_from_its_file_mapped_and_whole(tmp_path, lesions, monkeypatch):
    lesions.save(tmp_path / "set.npy")
    again = data.load(tmp_path / "set.npy")
    assert again.fingerprint() == lesions.fingerprint() and list(again.ids) == list(lesions.ids)
    assert isinstance(again.images.base, np.memmap) and again.info == lesions.info
    assert data.load(tmp_path / "set.npy", 16).images.shape[1] == 16
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):      # cut off between the two files
        patch.setattr(data.jobs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        lesions.save(tmp_path / "set.npy")
    with pytest.raises(UserError, match="set.json is missing"):
        data.load(tmp_path / "set.npy")


def test_a_file_that_is_no_image_set_is_refused(tmp_path, lesions):
    for change in (dict(images=lesions.images[:, :32]), dict(images=lesions.images / 2), dict(labels=lesions.labels + 5),
                   dict(ids=lesions.ids[:3]), dict(classes=["a", "a"]), dict(classes=["../a", "b"]),
                   dict(split=np.full(len(lesions), "holdout"))):
        data.replace(lesions, **change).save(tmp_path / "set.npy")
        with pytest.raises(UserError, match="set.npy|../a"):
            data.load(tmp_path / "set.npy")
    lesions.save(tmp_path / "set.npy")
    (tmp_path / "set.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="set.npy is not an image set"):
        data.load(tmp_path / "set.npy")


def test_a_tree_is_whole_or_not_there_and_keeps_what_a_gan_has_seen(tmp_path, monkeypatch, lesions):
    few = data.replace(lesions.take(slice(4)), info=dict(digests=["x"], size=64))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data.jobs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        few.save(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    few.save(tmp_path / "tree")
    again = data.load(tmp_path / "tree")
    assert sorted(again.digests()) == sorted(few.digests()) and again.info["digests"] == ["x"]
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="new folder"):
        few.save(tmp_path / "tree")


def test_images_of_any_generator(tmp_path, lesions):
    folder_of(tmp_path / "mine", pictures(TREE))
    folder_of(tmp_path / "flat", pictures(["x/0.png", "x/1.png"]))
    np.savez(tmp_path / "samples.npz", lesions.images[:5])
    np.savez(tmp_path / "wide.npz", lesions.images[:5, :32])
    both = data.load_synthetic(tmp_path / "mine", folder_size=16)
    assert both.counts() == dict(benign=3, malignant=3) and both.info["generator"] == "mine"
    for path, n in (("samples.npz", 5), ("flat", 2)):
        one = data.load_synthetic(f"malignant={tmp_path / path}", folder_size=64)
        assert one.counts() == dict(malignant=n) and one.info["generator"] == path
        with pytest.raises(UserError, match="CLASS="):
            data.load_synthetic(tmp_path / path, folder_size=64)
    assert (data.load_synthetic(f"a={tmp_path}/samples.npz").images == lesions.images[:5]).all()
    with pytest.raises(UserError, match="arr_0"):
        data.load_synthetic(f"a={tmp_path}/wide.npz")
    lesions.save(tmp_path / "set.npy")
    assert (data.load_synthetic(f"benign={tmp_path}/set.npy").images == lesions.of_class("benign").images).all()


def test_export_gives_any_generator_the_training_share_and_what_it_will_have_seen(tmp_path, done, prepared, lesions):
    lesions = data.replace(lesions, info=dict(dataset="that"))
    lesions.save(tmp_path / "set.npy")
    out = done("data", "export", tmp_path / "set.npy", "--share", "1/2", "--out", tmp_path / "out")
    assert "run_all.sh controls" in out and "--synthetic" in out
    half, again = lesions.part("train").share(0.5), data.load(tmp_path / "out")
    assert sorted(again.digests()) == sorted(half.digests()) == again.info["digests"]
    assert again.counts() == half.counts() and again.info["seen_ids"]["that"] == sorted(half.ids)


# ---- Splits and copies

def set_of(groups, colours, labels=None, split=None):
    n = len(groups)
    images = np.zeros((n, 8, 8, 3), np.uint8) + np.array(colours, np.uint8)[:, None, None, None]
    labels = np.zeros(n, np.int64) if labels is None else np.array(labels)
    split = np.full(n, "", "U5") if split is None else np.array(split, "U5")
    names = np.array([f"image{k}" for k in range(n)])
    return data.ImageSet(images, labels, ["a", "b"], names, np.array(groups), split, {})


@pytest.mark.parametrize("seed", range(40))
def test_a_lesion_joined_to_another_by_an_equal_picture_does_not_leak(seed):
    """The first edition put lesion B on two sides for half of the seeds."""
    fillers = [f"filler{k}" for k in range(20)]
    images = set_of(["A", "A", "B", "B", *fillers], [1, 2, 2, 3, *range(10, 30)])
    parts = data.with_split(images, val=0.25, test=0.25, seed=seed).split
    assert len(set(parts[:4])) == 1


def test_shares_of_each_class_are_met_by_whole_lesions_and_another_seed_splits_otherwise():
    whole = data.built_in(480, 8)
    drawn = data.with_split(whole, val=0.1, test=0.2)
    for name in ("train", "val", "test"):
        assert not set(drawn.groups[drawn.split == name]) & set(drawn.groups[drawn.split != name])
    assert all(10 <= n <= 14 for n in drawn.part("test").counts().values())
    assert all(4 <= n <= 8 for n in drawn.part("val").counts().values())
    assert (data.with_split(whole, seed=1).split != drawn.split).any()
    some = data.with_split(whole, val=0.1, test=7)
    assert set(some.part("test").counts().values()) <= {6, 7, 8}


def test_copies_across_given_parts_stay_in_test_else_in_val():
    images = set_of(list("abcdefg"), [1, 2, 3, 1, 5, 6, 3], split=["train", "train", "val", "test", "test", "train", "train"])
    kept = data.with_split(images)
    assert list(kept.split) == ["train", "val", "test", "test", "train"] and kept.info["dropped"] == 2


def test_a_larger_share_holds_a_smaller_one_by_whole_lesions_and_a_fraction_is_its_float():
    train = data.built_in(480, 8)
    small, large = train.share(0.25), train.share(Fraction(1, 2))
    assert set(small.ids) < set(large.ids) < set(train.ids) and len(small) == pytest.approx(120, abs=4)
    assert list(train.share(Fraction(1, 4)).ids) == list(small.ids)
    rest = set(train.groups[~np.isin(train.ids, small.ids)])
    assert len(set(small.groups) & rest) <= 8 and set(small.labels) == set(range(8))


def test_near_copies_are_found_in_both_orders_and_not_among_others(lesions):
    test = lesions.part("test")
    copy = data.replace(test, split=np.full(len(test), "train"), images=(test.images * 0.97).astype(np.uint8))
    near = data.near_test(data.mix([copy, test]))
    assert near[:len(copy)].mean() > 0.9 and not near[len(copy):].any()
    near = data.near_test(data.mix([test, copy]))
    assert near[len(copy):].mean() > 0.9 and not near[:len(copy)].any()
    assert data.near_test(lesions).mean() < 0.1


def test_classes_go_by_name_when_sets_are_mixed_and_no_set_is_touched(lesions):
    other = data.replace(lesions, classes=lesions.classes[::-1])
    sets = [lesions, other]
    mixed = data.mix(sets)
    assert len(sets) == 2 and (mixed.labels[len(lesions):] == 1 - lesions.labels).all()
    assert (mixed.images == np.concatenate([lesions.images] * 2)).all() and list(mixed.ids) == list(lesions.ids) * 2
    with pytest.raises(UserError, match="mole"):
        data.mix([lesions, data.replace(lesions, classes=["benign", "mole"])])


def test_what_was_seen_goes_by_prepared_set_and_along_a_chain_of_gans():
    first = data.replace(set_of("ab", [1, 2]), info=dict(dataset="one", digests=["x"], seen_ids={"two": ["q"]}))
    seen = data.what_was_seen(first, None)
    assert seen["seen_ids"] == dict(one=["image0", "image1"], two=["q"])
    assert set(seen["digests"]) == {"x", *first.digests()}


# ---- What is done to pixels

def test_bilateral_follows_its_definition_and_gamma_brightens_as_the_formula_says():
    image = np.random.default_rng(0).integers(0, 255, (1, 12, 12, 3)).astype(np.uint8)
    made, y, x = data.bilateral(image)[0, 5, 6].astype(int), 5, 6
    total, weights = np.zeros(3), 0.0
    for dy in range(-4, 5):
        for dx in range(-4, 5):
            if dy * dy + dx * dx <= 16:
                there, here = image[0, y + dy, x + dx].astype(float), image[0, y, x].astype(float)
                distance = np.abs(there - here).sum()
                weight = np.exp(-0.5 * (distance ** 2 + dy * dy + dx * dx) / 75 ** 2)
                total, weights = total + weight * there, weights + weight
    assert np.abs(made - total / weights).max() <= 0.51
    flat = np.full((1, 16, 16, 3), 64, np.uint8)
    assert (data.enhance(flat) == round(255 * (64 / 255) ** (1 / 1.5))).all()


def affine(**ranges):
    """The maps that augment drew: (n, 2, 3), read off a picture whose pixels tell where they were."""
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
    mirror = np.sign(still[:, 0, 0])
    assert 120 < (mirror > 0).sum() < 180 and np.allclose(abs(still), [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    turned = affine(rotate=20)
    mirror = np.sign(turned[:, 0, 0])
    angle = np.degrees(np.arctan2(-turned[:, 0, 1], turned[:, 1, 1]))
    assert spread(angle, 20) and np.allclose(np.degrees(np.arctan2(turned[:, 1, 0] * mirror, turned[:, 0, 0] * mirror)), angle, atol=.1)
    zoomed = affine(zoom=0.2)
    assert spread(zoomed[:, 1, 1] - 1, 0.2) and np.allclose(abs(zoomed[:, 0, 0]), zoomed[:, 1, 1], atol=1e-4)
    shifted = affine(shift=0.1)[:, :, 2]
    assert spread(shifted[:, 0], 0.2) and spread(shifted[:, 1], 0.2) and abs(np.corrcoef(shifted.T)[0, 1]) < 0.2
    sheared = affine(shear=10)
    assert spread(np.degrees(np.arctan(sheared[:, 0, 1])), 10) and np.allclose(sheared[:, 1, 1], 1, atol=1e-4)
    torch.manual_seed(0)
    light = (data.augment(torch.full((300, 3, 8, 8), -0.5), brightness=0.1).mean((1, 2, 3)) + 1) / 0.5 - 1
    assert spread(light.numpy(), 0.1)
    assert data.augment(torch.full((300, 3, 8, 8), 0.99), brightness=0.1).max() == 1


def test_batches_are_the_images_with_their_labels_shuffled_anew_by_epoch_and_seed(lesions):
    images = data.replace(lesions, images=lesions.images.copy())
    images.images[:, 0, 0, 0] = np.arange(len(images))          # the red of a corner tells which image it is

    def orders(seed, n):
        batches, seen = data.Batches(images, 8, seed, "cpu"), []
        for _ in range(n):
            pixels, labels = batches.next()
            which = pixels[:, 0, 0, 0].long()
            assert torch.equal(pixels.permute(0, 2, 3, 1), torch.from_numpy(images.images[which])) and pixels.dtype == torch.uint8
            assert torch.equal(labels, torch.from_numpy(images.labels[which]))
            seen += which.tolist()
        return seen

    one = len(images) // 8
    first, second = np.split(np.array(orders(1, 2 * one)), 2)
    assert sorted(first) == sorted(second) == list(range(len(images))) == sorted(orders(2, one))
    assert len({tuple(first), tuple(second), tuple(range(len(images))), tuple(orders(2, one))}) == 4
    again = data.Batches(images, 8, 1, "cpu")
    again.load_state_dict(dict(position=one + 3))
    assert again.next()[0][:, 0, 0, 0].tolist() == list(second[24:32]) and again.state_dict() == dict(position=one + 4)
    with pytest.raises(UserError, match="--batch"):
        data.Batches(images, 1, 1, "cpu")


def test_scaling_goes_from_minus_one_to_one_and_back():
    pixels = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3) + 64
    tensor = data.scaled(data.to_tensor(pixels))
    assert tensor.shape == (1, 3, 8, 8) and tensor.max() == 1 and tensor[0, 2, 0, 0].item() == pytest.approx(66 / 127.5 - 1)
    assert (data.to_uint8(tensor) == pixels).all() and data.to_uint8(tensor * 0 - 1).max() == 0
