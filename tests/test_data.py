"""Image sets: drawn lesions, odd photographs and tables, splits that do not leak, exact preprocessing."""
import csv
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import data
from jobs import UserError


# ---- Drawn lesions

def test_a_drawn_set_depends_on_its_seed_alone_and_not_on_its_length():
    few, many = data.built_in(12, 32, seed=3), data.built_in(24, 32, seed=3)
    assert (few.images == many.images[:12]).all() and list(few.ids) == list(many.ids[:12])
    assert not (few.images == data.built_in(12, 32, seed=4).images).all()


def test_classes_are_balanced_and_a_lesion_has_one_to_three_views():
    drawn = data.built_in(96, 32)
    assert set(drawn.counts().values()) == {12}
    views = np.unique(drawn.groups, return_counts=True)[1]
    assert views.min() == 1 and views.max() == 3 and len(set(drawn.ids)) == 96


def test_a_lesion_is_the_same_at_every_size():
    large, small = (data.draw_lesion(5, 8, 0, size=size).astype(float) for size in (96, 32))
    blocks = large.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.95


def test_artefacts_do_not_know_the_class():
    """The same picture number has the same artefacts whatever lesion is below them."""
    for view in range(6):
        changes = []
        for label in (0, 5):
            clean = data.draw_lesion(label, 40, view, odds=dict.fromkeys(data.ARTEFACTS, 0.0))
            full = data.draw_lesion(label, 40, view, odds=dict.fromkeys(data.ARTEFACTS, 1.0))
            changes.append(full.astype(float).mean(2) / clean.astype(float).mean(2).clip(8))
        assert np.corrcoef(changes[0].ravel(), changes[1].ravel())[0, 1] > 0.9


# ---- Reading

def photo(colour=(200, 120, 90), size=(40, 30), mode="RGB", form="PNG"):
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, form)
    return file.getvalue()


def folder_of(root, files):
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)
    return root


def table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def noise_photos(names):
    rng = np.random.default_rng(0)
    files = {}
    for name in names:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(file, "PNG")
        files[name] = file.getvalue()
    return files


def test_class_folders_a_zip_and_a_csv_give_the_same_set(tmp_path):
    files = noise_photos([f"train/{name}/{k}.png" for name in ("mole", "melanoma") for k in range(3)])
    tree = folder_of(tmp_path / "tree", files)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    flat = folder_of(tmp_path / "flat", {name.replace("/", "_"): raw for name, raw in files.items()})
    table(flat / "labels.csv", [["image", "label", "split"], *(
        [name.replace("/", "_"), name.split("/")[1], "train"] for name in files)])
    sets = [data.load(path, 16) for path in (tree, tmp_path / "set.zip", flat)]
    for one in sets:
        assert one.classes == ["melanoma", "mole"] and set(one.split) == {"train"}
        assert len(one) == 6
        assert dict(zip(one.digests(), one.labels)) == dict(zip(sets[0].digests(), sets[0].labels))


def test_isic_challenge_tables_official_split_rows_of_zeros_and_labels_csv(tmp_path, refused, done):
    """ISIC 2017: three folders of images, three tables, a nevus is a row of zeros."""
    rows = [["image_id", "melanoma", "seborrheic_keratosis"]]
    for part in ("Training", "Validation", "Test_v2"):
        names = [f"ISIC_{part}_{k}" for k in range(4)]
        folder_of(tmp_path, noise_photos([f"ISIC-2017_{part}_Data/{name}.png" for name in names]))
        labels = ["1.0,0.0", "0.0,1.0", "0.0,0.0", "0.0,0.0"]
        lines = [f"{name},{label}".split(",") for name, label in zip(names, labels)]
        table(tmp_path / f"ISIC-2017_{part}_Part3_GroundTruth.csv", rows + lines)
    refused(["line 4", "--zeros"], "data", "prepare", tmp_path, "--out", tmp_path / "job")
    listed = data.read_rows(tmp_path, zeros="nevus")
    assert [row.part for row in listed].count("test") == 4 and [row.part for row in listed].count("val") == 4
    assert [row.label for row in listed].count("nevus") == 6
    names = [row.name for row in listed]
    table(tmp_path / "labels.csv", [["image", "label"], *([name, "mole"] for name in names)])
    assert {row.label for row in data.read_rows(tmp_path)} == {"mole"}      # one's own table wins


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
    assert (data.decode(file.getvalue(), 8)[4, 4] == (0, 0, 255)).all()     # the centre, not squeezed
    turned, exif = io.BytesIO(), Image.Exif()
    exif[274] = 3                                                           # upside down
    half = Image.new("RGB", (20, 20), "white")
    half.paste("black", (0, 0, 20, 10))
    half.save(turned, "PNG", exif=exif)
    assert data.decode(turned.getvalue(), 8)[0].mean() > 200


def test_a_job_inside_a_photo_folder_is_no_class(tmp_path, done):
    folder_of(tmp_path, noise_photos([f"{name}/{k}.png" for name in ("benign", "malignant") for k in range(12)]))
    prepare = ["data", "prepare", tmp_path, "--size", 16, "--out", tmp_path / "job"]
    done(*prepare)
    assert "done before" in done(*prepare)
    assert data.load(tmp_path / "job").classes == ["benign", "malignant"]


@pytest.mark.parametrize("rows, words", [
    ([["picture", "label"], ["a.png", "x"]], ["no column image"]), ([["image", "label"], ["q.png", "x"]], ["line 2", "q.png"]),
    ([["image", "label"], ["a.png", ""]], ["line 2"]), ([["image", "label"], ["a.png", "x"], ["a.png", "x"]], ["line 3"]),
    ([["image", "label", "split"], ["a.png", "x", "holdout"]], ["holdout"]),
    ([["image", "label"], ["a.png", "../x"]], ["../x"])])
def test_bad_tables_name_the_line(tmp_path, refused, rows, words):
    folder_of(tmp_path, noise_photos(["a.png", "b.png"]))
    table(tmp_path / "labels.csv", rows)
    refused(words, "data", "prepare", tmp_path, "--out", tmp_path / "job")


def test_what_a_table_leaves_out_is_said(tmp_path, capsys):
    folder_of(tmp_path, noise_photos([f"{k}.png" for k in range(5)]))
    table(tmp_path / "labels.csv", [["image", "label"], ["0.png", "a"], ["1.png", "b"]])
    assert len(data.read_rows(tmp_path)) == 2 and "3 of 5 images are in no table" in capsys.readouterr().err
    table(tmp_path / "labels.csv", [["image", "label"], *([f"{k}.png", "a"] for k in range(5))])
    table(tmp_path / "lesions.csv", [["image", "lesion_id"], ["0.png", "x"], ["nowhere.png", "y"]])
    table(tmp_path / "other.csv", [["picture", "lesion_id"], ["0.png", "x"]])
    rows = data.read_rows(tmp_path)
    said = capsys.readouterr().err
    assert rows[0].lesion == "x" and rows[1].lesion == "1.png"
    table(tmp_path / "lesions.csv", [["image", "lesion_id"], ["nowhere.png", "y"]])
    data.read_rows(tmp_path)
    assert "5 of 5 images have no lesion id" in capsys.readouterr().err
    assert "4 of 5 images have no lesion id" in said and "other.csv has no column that names images" in said


def test_blanks_around_names_and_values_of_a_table_make_no_new_classes_or_lesions(tmp_path):
    folder_of(tmp_path, noise_photos(["0.png", "1.png"]))
    (tmp_path / "labels.csv").write_text("image, label, lesion_id\n0.png, a , L1\n1.png,a,L1 \n")
    assert {(row.label, row.lesion) for row in data.read_rows(tmp_path)} == {("a", "L1")}


def test_column_names_in_any_case_and_a_single_column_of_zeros_and_ones_is_no_class(tmp_path):
    folder_of(tmp_path, noise_photos(["x.png", "y.png"]))
    table(tmp_path / "isic2020.csv", [["Image_Name", "LESION_ID", "male", "diagnosis", "Benign_Malignant"],
                                      ["x", "L1", "0", "unknown", "benign"], ["y", "L1", "1", "unknown", "malignant"]])
    assert [row[1:3] for row in data.read_rows(tmp_path)] == [("benign", "L1"), ("malignant", "L1")]
    table(tmp_path / "isic2020.csv", [["image", "male"], ["x", "0"], ["y", "1"]])
    assert {row.label for row in data.read_rows(tmp_path)} == {"unlabelled"}


def test_a_table_in_a_zip_is_read(tmp_path):
    files = noise_photos(["0.png", "1.png"]) | {"labels.csv": b"image,label\n0,a\n1,b\n"}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    for source in (tmp_path, tmp_path / "set.zip"):
        assert [row.label for row in data.read_rows(source)] == ["a", "b"]


def test_unreadable_images_are_named_or_left_out_and_counted(tmp_path, refused, done):
    folder_of(tmp_path / "set", noise_photos([f"{name}/{k}.png" for name in ("a", "b") for k in range(12)]))
    (tmp_path / "set" / "a" / "broken.png").write_bytes(photo()[:40])
    refused(["a/broken.png"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "job")
    done("data", "prepare", tmp_path / "set", "--size", 16, "--skip-bad", "--out", tmp_path / "job")
    assert len(data.load(tmp_path / "job")) == 24


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(Image.DecompressionBombError, match="pixels"):
        data.decode(photo(), 8)


def test_an_npz_that_is_no_image_set_is_refused(tmp_path, lesions):
    for change in (dict(labels=lesions.labels.astype(float)), dict(images=lesions.images[:, :32]),
                   dict(labels=lesions.labels + 5), dict(ids=lesions.ids[:3]), dict(classes=["a", "a"]),
                   dict(split=np.full(len(lesions), "holdout"))):
        data.replace(lesions, **change).save(tmp_path / "set.npz")
        with pytest.raises(UserError, match="set.npz"):
            data.load(tmp_path / "set.npz")
    (tmp_path / "set.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="set.npz"):
        data.load(tmp_path / "set.npz")


def test_a_large_set_stays_on_disk_and_a_flipped_bit_is_seen(tmp_path, monkeypatch, lesions):
    monkeypatch.setattr(data, "LARGE", 0)
    lesions.save(tmp_path / "set.npz")
    again = data.load(tmp_path / "set.npz")
    assert again.fingerprint() == lesions.fingerprint() and isinstance(again.images.base, np.memmap)
    raw = bytearray((tmp_path / "set.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "set.npz").write_bytes(raw)
    with pytest.raises(UserError, match="wrong checksum"):
        data.load(tmp_path / "set.npz")


def test_samples_as_a_tree_keep_what_their_gan_has_seen(tmp_path, made):
    samples = data.load(made["benign"])
    samples.save(tmp_path / "tree")
    again = data.load(tmp_path / "tree", 64)
    assert again.info["digests"] == samples.info["digests"] and again.classes == ["benign"]
    with pytest.raises(UserError, match="new folder"):
        samples.save(tmp_path / "tree")


def test_a_tree_is_whole_or_not_there_and_no_two_ids_share_a_file(tmp_path, monkeypatch, lesions):
    few = data.replace(lesions.take(slice(2)), ids=np.array(["a/b", "a_b"]), labels=np.zeros(2, int))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data.jobs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        lesions.save(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    few.save(tmp_path / "tree")
    again = data.load(tmp_path / "tree", 64)
    assert sorted(again.digests()) == sorted(few.digests()) and len(list(tmp_path.iterdir())) == 1


def test_studies_find_their_set_by_its_folders_name_and_name_a_stand_in(tmp_path, done):
    folder_of(tmp_path / "ham10000", noise_photos([f"{name}/{k}.png" for name in ("nv", "mel", "akiec", "bkl")
                                                   for k in range(12)]))
    out = done("data", "prepare", tmp_path, "--for", "wgan_gp", "--size", 16, "--out", tmp_path / "two")
    assert data.load(tmp_path / "two").classes == data.TWO and "ham10000 instead of kaggle_binary" in out
    done("data", "prepare", tmp_path, "--for", "acgan_cyclegan", "--size", 16, "--out", tmp_path / "eight")
    assert data.load(tmp_path / "eight").classes == ["AK", "BKL", "MEL", "NV"]


# ---- Splits and copies

def set_of(groups, pictures, labels=None, split=None):
    n = len(groups)
    images = np.zeros((n, 8, 8, 3), np.uint8) + np.array(pictures, np.uint8)[:, None, None, None]
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


def test_shares_of_each_class_are_met_by_whole_lesions(lesions):
    drawn = data.with_split(data.built_in(480, 8), val=0.1, test=0.2)
    for name in ("train", "val", "test"):
        others = drawn.groups[drawn.split != name]
        assert not set(drawn.groups[drawn.split == name]) & set(others)
    test = drawn.part("test").counts()
    assert all(10 <= n <= 14 for n in test.values())
    some = data.with_split(data.built_in(480, 8), val=0.1, test=7)
    assert set(some.part("test").counts().values()) <= {6, 7, 8}


def test_copies_across_given_parts_stay_in_test_alone():
    images = set_of(list("abcdef"), [1, 2, 3, 1, 5, 6], split=["train", "train", "val", "test", "test", "train"])
    with_val = data.with_split(images)
    assert list(with_val.split) == ["train", "val", "test", "test", "train"] and with_val.info["dropped"] == 1


def test_a_larger_share_holds_a_smaller_one(lesions):
    train = lesions.part("train")
    small, large = train.share(0.25), train.share(0.5)
    assert set(small.ids) < set(large.ids) < set(train.ids)
    assert len(small) == pytest.approx(len(train) / 4, abs=2)


def test_near_copies_are_found_in_both_orders(lesions):
    copy = data.replace(lesions.part("test"), split=np.full((lesions.split == "test").sum(), "train", "U5"))
    brighter = data.replace(copy, images=(copy.images * 0.97).astype(np.uint8))
    both = data.mix([brighter, lesions.part("test")])
    near = data.near_test(both)
    assert near[:len(copy)].mean() > 0.9 and not near[len(copy):].any()


def test_check_counts_equal_pictures_under_two_labels_and_across_parts(tmp_path, done):
    files = noise_photos([f"train/{name}/{k}.png" for name in ("nevus", "melanoma") for k in range(4)])
    files["test/nevus/copy.png"] = files["train/melanoma/0.png"]
    out = done("data", "check", folder_of(tmp_path, files))
    assert "1 pairs, 1 of them under two labels, 1 across parts" in out and "1 melanoma / nevus" in out


def test_classes_go_by_name_when_sets_are_mixed(lesions):
    other = data.replace(lesions, classes=lesions.classes[::-1])
    mixed = data.mix([lesions, other])
    assert (mixed.labels[len(lesions):] == 1 - lesions.labels).all()


# ---- What is done to pixels

def test_bilateral_follows_its_definition_and_keeps_edges():
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


def test_gamma_brightens_as_the_formula_says():
    flat = np.full((1, 16, 16, 3), 64, np.uint8)
    assert (data.enhance(flat) == round(255 * (64 / 255) ** (1 / 1.5))).all()


def test_augmentation_is_exact_where_the_answer_is_known():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 16, 16) * 2 - 1
    still = dict(rotate=0, zoom=0, shift=0, brightness=0)
    flipped = data.augment(x, **still)
    same = torch.isclose(flipped, x, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(flipped, x.flip(-1), atol=1e-5).flatten(1).all(1)
    assert (same | mirrored).all() and 16 < same.sum() < 48
    ratio = (data.augment(x * 0 - 0.5, **still | dict(brightness=0.1)) + 1) / 0.5
    assert 0.9 <= ratio.min() < 0.95 and 1.05 < ratio.max() <= 1.1001


def test_batches_visit_every_image_once_an_epoch_and_go_on_from_a_position(lesions):
    batches = data.Batches(lesions, 8, seed=1, device="cpu")
    first = [batches.next()[0].float().sum().item() for _ in range(batches.per_epoch)]
    assert len(set(first)) == batches.per_epoch
    later = [batches.next()[0] for _ in range(5)]
    again = data.Batches(lesions, 8, seed=1, device="cpu")
    again.load_state_dict(dict(position=batches.per_epoch))
    assert all(torch.equal(again.next()[0], one) for one in later)
    assert torch.equal(data.to_tensor(lesions.images[:2]).permute(0, 2, 3, 1), torch.from_numpy(lesions.images[:2]))


def test_which_diagnoses_are_malignant():
    assert [data.class_name(name, binary=True) for name in ("akiec", "BCC", "melanoma", "SCC")] == ["malignant"] * 4
    assert [data.class_name(name, binary=True) for name in ("nevus", "bkl", "df", "vasc")] == ["benign"] * 4
    with pytest.raises(UserError, match="mole"):
        data.class_name("mole", binary=True)
