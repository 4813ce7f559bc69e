import base64
import contextlib
import hashlib
import http.client
import http.server
import io
import json
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from conftest import ROOT, same_pictures
from data import UserError

RED, GREEN = (200, 30, 40), (20, 180, 60)


def write_image(path, colour=RED, size=(20, 16), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


# --- built-in lesions

def test_lesion_pictures_depend_only_on_seed_and_index():
    few, many = data.built_in(12, 32, seed=3), data.built_in(30, 32, seed=3)
    assert (few.images == many.images[:12]).all() and list(few.ids) == list(many.ids[:12])
    assert not (few.images == data.built_in(12, 32, seed=4).images).all()


def test_lesion_set_is_balanced_and_has_one_to_three_views():
    images = data.built_in(240, 16)
    assert len(images.classes) == 8 and max(images.counts().values()) - min(images.counts().values()) <= 6
    _, views = np.unique(images.groups, return_counts=True)
    assert set(views) == {1, 2, 3}
    for lesion in np.unique(images.groups):                       # a lesion has one class
        assert len(set(images.labels[images.groups == lesion])) == 1
    assert len(set(images.digests())) == 240                      # no picture twice


def test_lesion_is_the_same_picture_at_every_size():
    small, large = data.built_in(6, 32).images, data.built_in(6, 128).images
    shrunk = np.stack([np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BOX)) for i in large])
    assert np.abs(small.astype(float) - shrunk).mean() < 8        # grey levels of 255


def test_artefacts_do_not_know_the_class(monkeypatch):
    """The same lesion number and view drawn as any class gets the same artefacts: same odds, same random numbers."""
    seen = []
    monkeypatch.setattr(data, "artefacts",
                        lambda image, rng, odds: seen.append((rng.bit_generator.state, odds)) or image)
    for label in range(8):
        data.draw_lesion(label, lesion=5, view=1, size=16)
    assert all(call == seen[0] for call in seen) and len(seen) == 8


def test_artefacts_are_drawn_and_can_be_switched_off():
    picture = np.full((32, 32, 3), 0.7, np.float32)
    everything = {name: 1.0 for name in data.ARTEFACTS}
    drawn = [data.artefacts(picture, np.random.default_rng(1), everything) for _ in range(2)]
    assert (drawn[0] == drawn[1]).all() and np.abs(drawn[0] - picture).max() > 0.2
    assert (data.artefacts(picture, np.random.default_rng(1), {name: 0.0 for name in data.ARTEFACTS}) == picture).all()


# --- reading

def test_tree_zip_csv_and_npz_give_the_same_set(tmp_path):
    tree = tmp_path / "tree"
    for part in ("train", "test"):
        for name, colour in (("benign", GREEN), ("malignant", RED)):
            write_image(tree / part / name / f"{part}{name}.png", colour)
    images = data.load(tree, 8)
    assert images.counts() == {"benign": 2, "malignant": 2}
    assert sorted(images.split) == ["test", "test", "train", "train"]
    assert (images.of_class("malignant").images[0, 4, 4] == RED).all()

    (tmp_path / "all.zip").write_bytes(zipped(tree, "top/"))
    packed = data.load(tmp_path / "all.zip", 8)
    assert packed.counts() == images.counts() and sorted(packed.split) == sorted(images.split)

    rows = [f"{file.relative_to(tree).as_posix()},{file.parent.name},lesion{k % 2},{file.parent.parent.name}"
            for k, file in enumerate(sorted(tree.rglob("*.png")))]
    (tree / "labels.csv").write_text("image,label,lesion_id,split\n" + "\n".join(rows))
    listed = data.load(tree, 8)
    assert sorted(set(listed.groups)) == ["lesion0", "lesion1"] and listed.counts() == images.counts()

    images.save(tmp_path / "set.npz")
    again = data.load(tmp_path / "set.npz")
    assert again.fingerprint() == images.fingerprint() and again.info == images.info
    images.save(tmp_path / "as_tree")
    assert data.load(tmp_path / "as_tree", 8).counts() == images.counts()


def test_csv_with_one_column_per_class_and_images_in_a_zip(tmp_path):
    """The ISIC challenges' ground-truth form, and HAM10000's: names without ending, images packed in a zip."""
    for name in ("ISIC_1", "ISIC_2"):
        write_image(tmp_path / "unpacked" / f"{name}.png")
    write_text(tmp_path / "d" / "truth.csv", "image,MEL,NV", "ISIC_1,0.0,1.0", "ISIC_2,1.0,0.0")
    (tmp_path / "d" / "images.zip").write_bytes(zipped(tmp_path / "unpacked", "images/"))
    images = data.load(tmp_path / "d", 8)
    assert [images.classes[k] for k in images.labels] == ["NV", "MEL"]


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_any_pillow_mode(mode):
    grey = Image.fromarray(np.full((10, 14), 130, np.uint8))
    image = Image.fromarray(np.full((10, 14), 130 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    raw = io.BytesIO()
    image.save(raw, dict(CMYK="JPEG", F="TIFF").get(mode, "PNG"))
    decoded = data.decode(raw.getvalue(), 8)
    assert decoded.shape == (8, 8, 3) and decoded.dtype == np.uint8
    assert abs(decoded.mean() - 130) < (130 if mode == "1" else 4)


def test_exif_rotation_and_transparency():
    picture = Image.new("RGB", (16, 16), GREEN)
    picture.paste(RED, (0, 0, 16, 8))                             # top half red
    exif = Image.Exif()
    exif[0x0112] = 3                                              # turned by 180 degrees
    raw = io.BytesIO()
    picture.save(raw, "PNG", exif=exif)
    decoded = data.decode(raw.getvalue(), 16)
    assert (decoded[2, 8] == GREEN).all() and (decoded[13, 8] == RED).all()
    raw = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(raw, "PNG")    # wholly transparent black
    assert data.decode(raw.getvalue(), 8).min() == 255


def test_ambiguous_and_repeated_csv_rows_are_refused(tmp_path, refused):
    write_image(tmp_path / "set" / "a" / "1.png")
    write_image(tmp_path / "set" / "b" / "1.png", GREEN)
    (tmp_path / "set" / "labels.csv").write_text("image,label\n1.png,nevus\n")
    refused(["labels.csv line 2", "several files"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")
    (tmp_path / "set" / "labels.csv").write_text("image,label\na/1.png,nevus\na/1.png,melanoma\n")
    refused(["labels.csv line 3", "listed before"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")


def test_an_image_without_lesion_id_is_a_lesion_of_its_own(tmp_path):
    for k in range(3):
        write_image(tmp_path / f"{k}.png", (k, 0, 0))
    table = "image,label,lesion_id,note\n0.png,nevus,,caf\xe9\n1.png,nevus,,\n2.png,nevus,L2,\n"
    (tmp_path / "labels.csv").write_bytes(table.encode("latin-1"))
    assert sorted(data.load(tmp_path, 8).groups) == ["0.png", "1.png", "L2"]


def test_the_two_class_set_is_found_and_a_nested_copy_of_it_left_out(tmp_path, cli):
    """Kaggle's archive holds the set twice: train/ and test/, and again below data/."""
    kaggle_tree(tmp_path / "archive", n=3)
    kaggle_tree(tmp_path / "archive" / "data", n=3)
    status, _, err = cli("data", "prepare", tmp_path, "--binary", "--size", 8, "--val", 0.4, "--out", tmp_path / "out")
    assert status == 0, err
    counts = json.loads((tmp_path / "out/result.json").read_text())["counts"]
    assert sum(sum(part.values()) for part in counts.values()) == 12


def test_samples_as_a_tree_keep_what_they_know(tmp_path):
    made = data.built_in(4, 16)
    made.info = dict(source="gan", digests=["a", "b"])
    made.save(tmp_path / "tree")
    assert data.load(tmp_path / "tree", 16).info["digests"] == ["a", "b"]


def test_decoding_happens_once_until_the_folder_changes(tmp_path, monkeypatch):
    write_image(tmp_path / "t" / "nevus" / "a.png")
    first = data.load(tmp_path / "t", 8)
    with monkeypatch.context() as patch:
        patch.setattr(data, "decode", lambda *_: pytest.fail("decoded twice"))
        assert data.load(tmp_path / "t", 8).fingerprint() == first.fingerprint()
    write_image(tmp_path / "t" / "nevus" / "b.png", GREEN)
    assert len(data.load(tmp_path / "t", 8)) == 2


# --- splits, mixing

def test_split_keeps_lesions_together_and_shares_each_class_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(1, 4, 400))
    labels = (groups % 5 == 0).astype(int)
    part = data.split_by_group(labels, groups, (0.7, 0.1, 0.2), seed=1)
    for group in np.unique(groups):
        assert len(set(part[groups == group])) == 1
    for label in (0, 1):
        shares = np.bincount(part[labels == label], minlength=3) / (labels == label).sum()
        assert np.abs(shares - (0.7, 0.1, 0.2)).max() < 3 / (labels == label).sum()
    assert (part == data.split_by_group(labels, groups, (0.7, 0.1, 0.2), seed=1)).all()
    assert (part != data.split_by_group(labels, groups, (0.7, 0.1, 0.2), seed=2)).any()


def test_a_given_test_part_is_kept_and_a_lesion_on_both_sides_is_refused(lesions):
    again = data.with_split(lesions, val=0.2)
    assert ((again.split == "test") == (lesions.split == "test")).all()
    lesions = lesions.take(slice(None))
    lesions.groups = lesions.groups.copy()
    first = {part: np.flatnonzero(lesions.split == part)[0] for part in ("train", "test")}
    lesions.groups[first["test"]] = lesions.groups[first["train"]]
    with pytest.raises(UserError, match="in both train and test"):
        data.with_split(lesions)


def test_shares_are_nested_and_hold_whole_lesions_of_each_class(lesions):
    train = lesions.part("train")
    parts = [train.share(share) for share in (0.125, 0.25, 0.5, 1)]
    assert list(parts[-1].ids) == list(train.ids)
    for share, part, larger in zip((0.125, 0.25, 0.5), parts, parts[1:]):
        assert set(part.ids) < set(larger.ids)
        assert part.counts() == {name: round(share * n) for name, n in train.counts().items()}
        left = train.take(~np.isin(train.ids, part.ids))
        assert len(set(part.groups) & set(left.groups)) <= 2            # at most the last lesion of each class is cut
    alone = lesions.take(lesions.labels == 0)                           # a lesion's lot does not depend on the others
    assert set(alone.share(0.3).groups) == set(lesions.share(0.3).of_class("benign").groups)


def test_near_copies_of_test_images_are_counted_and_left_out(tmp_path, cli, lesions):
    images = lesions.take(slice(None))
    train, test = np.flatnonzero(images.split == "train"), np.flatnonzero(images.split == "test")
    before = int(data.near_test(images).sum())
    images.images = images.images.copy()
    for k in range(3):                                                  # nearly the same picture under another lesion's name
        images.images[train[k]] = np.minimum(images.images[test[k]].astype(int) + 1 + k, 255)
    near = data.near_test(images)
    assert near[train[:3]].all() and not near[test].any() and before <= near.sum() <= before + 3
    images.save(tmp_path / "set.npz")
    for extra, dropped in (([], 0), (["--drop-near"], near.sum())):
        out = tmp_path / f"out{len(extra)}"
        status, text, err = cli("data", "prepare", tmp_path / "set.npz", *extra, "--out", out)
        assert status == 0, err
        assert json.loads((out / "result.json").read_text())["source"]["near_test"] == near.sum() and str(near.sum()) in text
        assert len(data.load(out)) == len(images) - dropped
    assert not data.near_test(data.load(tmp_path / "out1")).any()


def test_mix_goes_by_class_name(lesions):
    fake = data.built_in(8, 64, seed=9).of_class("MEL")
    fake.labels, fake.classes = np.zeros(len(fake), np.int64), ["malignant"]
    mixed = data.mix(lesions, fake)
    assert mixed.counts()["malignant"] == lesions.counts()["malignant"] + len(fake)
    fake.classes = ["wart"]
    with pytest.raises(UserError, match="wart"):
        data.mix(lesions, fake)


def test_copies_never_cross_the_split(lesions):
    copied = data.mix(lesions, lesions.part("train").take([0, 1]))  # two training images, as other lesions in test
    copied.split[-2:], copied.groups[-2:] = "test", ["other", "lesions"]
    again = data.with_split(copied, val=0.15)
    digests = np.array(again.digests())
    assert again.info["copies_dropped"] == 2 and len(again) == len(copied) - 2
    assert not set(digests[again.split == "test"]) & set(digests[again.split != "test"])
    free = data.mix(lesions, lesions)                               # every image twice, nothing decided
    free.split[:] = ""
    free.groups = np.array([f"own{k}" for k in range(len(free))])
    parts = data.with_split(free, val=0.2, test=0.2)
    digests = np.array(parts.digests())
    for part in ("train", "val", "test"):
        assert not set(digests[parts.split == part]) & set(digests[parts.split != part])


def test_a_given_validation_part_is_kept(lesions):
    images = lesions.take(lesions.split != "test")
    parts = data.with_split(images, val=0.15, test=0.2)
    assert set(images.part("val").ids) == set(parts.part("val").ids) and len(parts.part("test"))


# --- batches

def test_batches_visit_every_image_once_an_epoch_and_depend_only_on_the_step():
    images = data.built_in(20, 8)
    images.images[:, 0, 0, 0] = np.arange(20)                     # a pixel that tells the image's number
    batches = data.Batches(images, 6, seed=1, device="cpu")
    seen = [batches(step)[0][:, 0, 0, 0].tolist() for step in range(6)]
    for epoch in (seen[:3], seen[3:]):
        assert len(set(sum(epoch, []))) == 18
    assert seen[:3] != seen[3:]
    assert data.Batches(images, 6, seed=1, device="cpu")(4)[0][:, 0, 0, 0].tolist() == seen[4]
    with pytest.raises(UserError, match="too few for a batch of 21"):
        data.Batches(images, 21, 0, "cpu")


def test_augment_is_exact_where_the_answer_is_known():
    x = torch.rand(16, 3, 8, 8) * 2 - 1
    still = data.augment(x, flip=False, rotate=0, zoom=0, shift=0, brightness=0)
    assert torch.allclose(still, x, atol=1e-5)
    mirrored = data.augment(x, rotate=0, zoom=0, shift=0, brightness=0)
    flipped = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(mirrored, x)]
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(mirrored, x)]
    assert all(f != k for f, k in zip(flipped, kept)) and any(flipped) and any(kept)
    flat = data.augment(torch.full((4, 3, 8, 8), 0.3), brightness=0)
    assert torch.allclose(flat, torch.full_like(flat, 0.3), atol=1e-5)
    wild = data.augment(x, shear=20, zoom=0.5, brightness=0.9)
    assert wild.abs().max() <= 1 and not torch.allclose(wild, x)


# --- jobs and files

def test_a_changed_configuration_is_refused_by_name(tmp_path):
    assert data.open_run(tmp_path, dict(lr=0.1, batch=4)) is None
    assert data.open_run(tmp_path, dict(lr=0.1, batch=4)) is None
    with pytest.raises(UserError, match=r"batch 4 -> 8; lr 0.1 -> 0.2"):
        data.open_run(tmp_path, dict(lr=0.2, batch=8))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.json"
    data.write_json(file, {"a": 1})
    with pytest.raises(RuntimeError):
        with data.replacing(file) as half:
            half.write(b"{")
            raise RuntimeError
    assert json.loads(file.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name, action", [
    ("lesions.npz", "data.built_in(24, 32).save(folder + '/lesions.npz')"),
    ("checkpoint.pt", "data.save_checkpoint(folder, {}, step=1, x=data.torch.zeros(9999))")])
def test_full_disk_ends_in_one_line_and_keeps_the_old_file(name, action, tmp_path):
    """A limit on the file size makes the kernel refuse the write, as a full disk does."""
    (tmp_path / name).write_bytes(b"old")
    script = f"import sys, data; folder = sys.argv[1]; data.run_cli(lambda: {action})"
    done = subprocess.run(["bash", "-c", 'ulimit -f 8; exec "$0" -c "$1" "$2"', sys.executable, script, tmp_path],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "cannot write" in done.stderr and name in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and [f.name for f in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


# --- bad input: one clear line, exit 2

def test_bad_sources(tmp_path, refused):
    out = tmp_path / "out"
    refused(["nowhere", "does not exist"], "data", "prepare", tmp_path / "nowhere", "--out", out)
    (tmp_path / "empty").mkdir()
    refused(["empty", "no images"], "data", "prepare", tmp_path / "empty", "--out", out)
    write_image(tmp_path / "hole" / "nevus" / "a.png")
    (tmp_path / "hole" / "melanoma").mkdir()
    refused(["melanoma", "empty class"], "data", "prepare", tmp_path / "hole", "--out", out)
    write_image(tmp_path / "odd" / "wart" / "a.png")
    (tmp_path / "odd.zip").write_bytes(zipped(tmp_path / "odd"))
    refused(["wart", "benign or malignant"], "data", "prepare", tmp_path / "odd.zip", "--binary", "--out", out)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    refused(["bad.zip", "neither"], "data", "prepare", tmp_path / "bad.zip", "--out", out)
    (tmp_path / "bad.npz").write_bytes(b"no npz")
    refused(["bad.npz", "not an image set"], "data", "prepare", tmp_path / "bad.npz", "--out", out)
    data.replace(data.built_in(1, 8), images=np.zeros((1, 8, 8, 3))).save(tmp_path / "float.npz")
    refused(["float.npz", "uint8"], "data", "prepare", tmp_path / "float.npz", "--out", out)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "config.json").write_text("{}")
    refused(["job is a job", "photographs"], "data", "check", tmp_path / "job")
    (tmp_path / "file").write_text("in the way")
    refused(["cannot use", "file"], "data", "prepare", "lesions", "--n", 24, "--size", 8, "--out", tmp_path / "file")
    refused(["--val 1.5", "below 1"], "data", "prepare", "lesions", "--n", 24, "--size", 8, "--val", 1.5, "--out", out)
    refused(["train|test/benign|malignant", "Kaggle", "download kaggle_binary"],
            "data", "prepare", tmp_path / "odd", "--binary", "--out", out)
    refused(["--nonsense"], "data", "prepare", tmp_path / "odd", "--out", out, "--nonsense")
    assert not (out / "result.json").exists()


def test_csv_errors_name_the_line(tmp_path, refused):
    write_image(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "labels.csv").write_text("image,label\na.png,nevus\nb.png,nevus\n")
    refused(["labels.csv line 3", "b.png"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")
    (tmp_path / "set" / "labels.csv").write_text("image,label\na.png,\n")
    refused(["labels.csv line 2", "no label"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")
    (tmp_path / "set" / "labels.csv").write_text("file,diagnosis\na.png,nevus\n")
    refused(["labels.csv has no column image", "file, diagnosis"],
            "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")


def test_broken_images_are_named_or_skipped_and_counted(tmp_path, refused, cli):
    for k in range(12):
        write_image(tmp_path / "set" / ("nevus" if k % 2 else "melanoma") / f"{k}.png", (k, 0, 0))
    whole = (tmp_path / "set" / "nevus" / "1.png").read_bytes()
    (tmp_path / "set" / "nevus" / "cut.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "set" / "melanoma" / "text.jpg").write_text("not an image")
    command = ["data", "prepare", tmp_path / "set", "--size", 8, "--out", tmp_path / "out"]
    refused(["melanoma/text.jpg", "1 more", "--skip-bad"], *command)
    status, _, err = cli(*command, "--skip-bad")
    assert status == 0 and "skipped 2 unreadable" in err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["source"]["skipped"] == 2


def test_ctrl_c_ends_without_a_traceback(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(data, "built_in", interrupted)
    status, _, err = cli("data", "lesions", "--out", "x.npz")
    assert status == 130 and "Start it again" in err


# --- the studies' sets

def kaggle_tree(top, parts=("train", "test"), n=4):
    """The folders of Kaggle's two-class set, with n pictures per folder, all different."""
    for part in parts:
        for k in range(2 * n):
            write_image(top / part / ("benign" if k % 2 else "malignant") / f"{k}.jpg", (12 * k, 9 * len(part), 200))


def isic_set(top, classes, per_class=4, lesion_of=lambda k: k // 2):
    """The form of the ISIC challenges: a truth table of 0.0 and 1.0, a table of lesions, and a folder of pictures."""
    names = [f"ISIC_{k:04d}" for k in range(per_class * len(classes))]
    for k, name in enumerate(names):
        write_image(top / "Training_Input" / f"{name}.jpg", (5 * k % 256, 3 * k % 256, 90))
    hot = [",".join("1.0" if c == k // per_class else "0.0" for c in range(len(classes))) for k in range(len(names))]
    write_text(top / "Truth.csv", "image," + ",".join(classes), *(f"{name},{row}" for name, row in zip(names, hot)))
    write_text(top / "Groups.csv", "image,lesion_id", *(f"{name},L{lesion_of(k)}" for k, name in enumerate(names)))


def write_text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


ISIC2019 = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
HAM = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def prepared_for(cli, source, study, out, *options):
    status, text, err = cli("data", "prepare", source, "--for", study, "--size", 8, "--out", out, *options)
    assert status == 0, err
    return data.load(out), json.loads((out / "result.json").read_text()), text


def test_every_study_finds_its_set_among_others(tmp_path, cli):
    (tmp_path / "d").mkdir()
    kaggle_tree(tmp_path / "d" / "archive")
    kaggle_tree(tmp_path / "d" / "archive" / "data")                        # Kaggle packs it twice
    kaggle_tree(tmp_path / "d" / "a_augmented_copy", n=9)
    isic_set(tmp_path / "d" / "ham", HAM)
    isic_set(tmp_path / "d" / "isic2019", ISIC2019)
    for name in ("benign", "malignant"):
        for k in range(5):
            write_image(tmp_path / "d" / "isic_archive" / name / f"{k}.jpg", (50 * k, len(name), 7))
    expected = {"wgan_gp": 16, "dcgan_cls": 16, "acgan_cyclegan": 32, "dermagan": 16, "dcgan_inception": 10}
    for study, number in expected.items():
        images, result, _ = prepared_for(cli, tmp_path / "d", study, tmp_path / study, "--val", 0.3, "--test", 0.3)
        assert len(images) == number and images.classes == data.SETS[study][0], study
        assert ("stand_in" in result["source"]) == (study == "dermagan")
        for picture in ("grid.png", "augmented.png"):
            with Image.open(tmp_path / study / picture) as sheet:
                assert sheet.height == 96 * len(images.classes)
        assert sum(sum(part.values()) for part in result["counts"].values()) == number
    derma = data.load(tmp_path / "dermagan")
    assert sorted(set(derma.groups)) and all(name.startswith("L") for name in derma.groups)     # from the second table


def test_stand_ins_are_found_and_named(tmp_path, cli):
    isic_set(tmp_path / "d" / "ham", HAM)
    kaggle_tree(tmp_path / "d" / "like_kaggle")
    write_text(tmp_path / "d" / "like_kaggle" / "labels.csv", "image,label,lesion_id,split", *(
        f"{part}/{name}/{k}.jpg,{name},{part}{k},{part}" for part in ("train", "test") for k in range(8)
        for name in [("benign" if k % 2 else "malignant")]))
    shares = ["--val", 0.3, "--test", 0.3]
    images, result, text = prepared_for(cli, tmp_path / "d", "acgan_cyclegan", tmp_path / "a", *shares)
    assert images.classes == ["AK", "BCC", "BKL", "DF", "MEL", "NV", "VASC"]
    assert "no SCC" in result["source"]["stand_in"] and "no SCC" in text
    for study in ("wgan_gp", "dcgan_cls", "dcgan_inception"):
        images, result, _ = prepared_for(cli, tmp_path / "d", study, tmp_path / study, "--val", 0.3)
        assert len(images) == 16 and "Kaggle" in result["source"]["stand_in"]
    _, result, _ = prepared_for(cli, tmp_path / "d", "dermagan", tmp_path / "m", *shares)
    assert result["source"]["left_out"] == {"NV": 4, "DF": 4, "VASC": 4}


def test_two_folders_of_ones_own_serve_the_two_class_studies_and_keep_their_lesions(tmp_path, cli):
    for k in range(24):
        write_image(tmp_path / "d" / "mine" / ("benign" if k % 2 else "malignant") / f"{k}.png", (10 * k, k, 9))
    write_text(tmp_path / "d" / "mine" / "lesions.csv", "image,lesion_id", *(f"{k},L{k // 4}" for k in range(23)))
    for study in ("wgan_gp", "dcgan_cls", "dcgan_inception", "controls"):
        images, result, _ = prepared_for(cli, tmp_path / "d", study, tmp_path / study, "--val", 0.3, "--test", 0.3)
        assert len(images) == 24 and images.classes == data.TWO and set(images.split) == {"train", "val", "test"}
        assert set(images.groups) == {"L0", "L1", "L2", "L3", "L4", "L5", "benign/23.png"}
        assert ("your own" in result["source"].get("stand_in", "")) == (study != "controls")


def test_nine_kaggle_classes_become_eight(tmp_path, cli):
    nine = ["actinic keratosis", "basal cell carcinoma", "dermatofibroma", "melanoma", "nevus",
            "pigmented benign keratosis", "seborrheic keratosis", "squamous cell carcinoma", "vascular lesion"]
    for k in range(72):
        write_image(tmp_path / "d" / ("Test" if k % 2 else "Train") / nine[k // 8] / f"{k}.jpg", (3 * k, k, 9))
    images, result, _ = prepared_for(cli, tmp_path / "d", "acgan_cyclegan", tmp_path / "out", "--val", 0.3)
    assert images.classes == data.LESION_CLASSES and images.counts()["BKL"] == 16
    assert (images.split == "test").sum() == 36 and "twice" in result["source"]["stand_in"]


def test_only_the_images_of_the_study_are_decoded(tmp_path, cli, monkeypatch):
    isic_set(tmp_path / "d", HAM)
    seen, decode = [], data.decode
    monkeypatch.setattr(data, "decode", lambda *args: seen.append(1) or decode(*args))
    images, *_ = prepared_for(cli, tmp_path / "d", "dermagan", tmp_path / "out", "--val", 0.3, "--test", 0.3)
    assert len(seen) == len(images) == 16


def test_nothing_found_names_what_to_get(tmp_path, refused):
    isic_set(tmp_path / "d", HAM[:5])
    refused(["ISIC 2019", "HAM10000", "download isic2019 or ham10000"],
            "data", "prepare", tmp_path / "d", "--for", "acgan_cyclegan", "--out", tmp_path / "out")
    refused(["isic_archive", "download isic_archive or kaggle_binary"],
            "data", "prepare", tmp_path / "d", "--for", "dcgan_inception", "--out", tmp_path / "out")
    refused(["nowhere", "not a folder"],
            "data", "prepare", tmp_path / "nowhere", "--for", "wgan_gp", "--out", tmp_path / "out")


def test_built_in_lesions_take_the_classes_of_the_study(tmp_path, cli):
    for study, (classes, _) in data.SETS.items():
        images, *_ = prepared_for(cli, "lesions", study, tmp_path / study, "--n", 96, "--val", 0.2)
        assert images.classes == classes
        assert len(images) == (48 if study == "dermagan" else 96)


def test_limit_takes_whole_lesions_at_random(tmp_path, cli, refused):
    source = ["lesions", "acgan_cyclegan"]
    one, result, _ = prepared_for(cli, *source, tmp_path / "1", "--n", 120, "--limit", "NV=10", "MEL=5")
    two, *_ = prepared_for(cli, *source, tmp_path / "2", "--n", 120, "--limit", "NV=10", "MEL=5", "--seed", 1)
    full = data.built_in(120, 8)
    assert one.counts()["NV"] in (9, 10) and one.counts()["MEL"] in (4, 5)
    assert one.counts()["BCC"] == full.counts()["BCC"]
    for lesion in set(one.groups):
        assert (one.groups == lesion).sum() == (full.groups == lesion).sum()
    assert set(one.groups) != set(two.groups) and result["config"]["limit"] == dict(NV=10, MEL=5)
    refused(["WART"], "data", "prepare", "lesions", "--limit", "WART=3", "--out", tmp_path / "3")
    refused(["CLASS=N"], "data", "prepare", "lesions", "--limit", "NV", "--out", tmp_path / "3")


def test_a_part_that_gets_no_image_is_named(tmp_path, cli):
    small = ["data", "prepare", "lesions", "--n", 12, "--binary", "--size", 8]
    assert "no image is left for val" in cli(*small, "--out", tmp_path / "none")[1]
    assert "warning" not in cli(*small, "--val", 0.4, "--out", tmp_path / "some")[1]


def test_resplit_forgets_the_split_of_the_set(tmp_path, cli):
    kaggle_tree(tmp_path / "d", n=10)
    kept, *_ = prepared_for(cli, tmp_path / "d", "wgan_gp", tmp_path / "kept")
    new, *_ = prepared_for(cli, tmp_path / "d", "wgan_gp", tmp_path / "new", "--resplit", "--test", 0.25)
    kept, new = kept.part("test").ids, new.part("test").ids
    assert all(name.startswith("test/") for name in kept) and len(kept) == 20
    assert any(name.startswith("train/") for name in new) and len(new) == 10


# --- enhancement

def bilateral_slowly(image, d=9, sigma_color=75, sigma_space=75):
    """The definition, pixel by pixel."""
    r, (h, w, _) = d // 2, image.shape
    wide = np.pad(image.astype(float), ((r, r), (r, r), (0, 0)), "reflect")
    out = np.zeros(image.shape)
    for y in range(h):
        for x in range(w):
            total = weight = 0
            for dy in range(-r, r + 1):
                for dx in range(-r, r + 1):
                    if dy * dy + dx * dx <= r * r:
                        other = wide[y + r + dy, x + r + dx]
                        distance = np.abs(other - image[y, x]).sum()
                        k = np.exp(-(dy * dy + dx * dx) / 2 / sigma_space ** 2 - distance ** 2 / 2 / sigma_color ** 2)
                        total, weight = total + k * other, weight + k
            out[y, x] = total / weight
    return out


def test_bilateral_follows_its_definition_up_to_the_border():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 13, 9, 3)).astype(np.uint8)
    pictures[1] //= 4                                               # close colours: the filter really smooths
    for d, colour, space in ((9, 75, 75), (5, 20, 2)):
        for picture, filtered in zip(pictures, data.bilateral(pictures, d, colour, space)):
            assert np.abs(filtered - bilateral_slowly(picture, d, colour, space)).max() < 0.51


def test_bilateral_gives_the_numbers_of_opencv():
    """cv2.bilateralFilter(picture, 9, 75, 75) of OpenCV 4 at corners, border and centre of a fixed picture."""
    ramp = np.add.outer(np.arange(12) * 37, np.arange(10) * 53)[..., None] * np.array([1, 2, 3]) % 256
    picture = ramp.astype(np.uint8)
    stored = {(0, 0): [1, 2, 3], (0, 5): [16, 30, 45], (11, 9): [143, 209, 100], (6, 4): [176, 113, 37],
              (3, 0): [114, 210, 70]}
    filtered = data.bilateral(picture[None])[0]
    for place, value in stored.items():
        assert same_pictures(filtered[place], np.array(value), 1), place
    smooth = (picture // 8 + 100).astype(np.uint8)
    assert same_pictures(data.bilateral(smooth[None])[0][0, 0], np.array([117, 116, 115]), 1)
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(1).integers(0, 256, (4, 40, 31, 3)).astype(np.uint8)
    for image in (*noise, *(noise // 6 + 90), picture):
        assert same_pictures(data.bilateral(image[None])[0], cv2.bilateralFilter(image, 9, 75, 75), 1)


def test_gamma_brightens_as_the_formula_says(monkeypatch):
    monkeypatch.setattr(data, "bilateral", lambda images: images)
    grey = np.array([0, 1, 64, 200, 255], np.uint8).reshape(1, 1, 5, 1).repeat(3, 3)
    expected = [round(255 * (v / 255) ** (1 / 1.5)) for v in (0, 1, 64, 200, 255)]
    assert data.enhance(grey)[0, 0, :, 0].tolist() == expected


def test_enhanced_sets_are_filtered_at_twice_the_size(tmp_path, cli):
    images, result, _ = prepared_for(cli, "lesions", "dcgan_cls", tmp_path / "e", "--n", 48, "--enhance")
    plain, *_ = prepared_for(cli, "lesions", "dcgan_cls", tmp_path / "p", "--n", 48)
    large = data.built_in(48, 16)
    expected = data.resized(data.replace(large, images=data.enhance(large.images)), 8)
    order = [list(expected.ids).index(name) for name in images.ids]
    assert (images.images == expected.images[order]).all() and images.images.mean() > plain.images.mean() + 10
    assert "16 px" in result["source"]["enhanced"] and (tmp_path / "e/before_after.png").exists()
    assert not (tmp_path / "p/before_after.png").exists()


# --- check

def test_check_finds_copies_wrong_labels_and_leaks(tmp_path, cli):
    top, noise = tmp_path / "d" / "set", np.random.default_rng(0)
    pictures = {name: noise.integers(0, 256, (24, 32, 3)).astype(np.uint8) for name in "abcdef"}
    for name, where in [("a", "train/nevus"), ("b", "train/nevus"), ("c", "train/melanoma"), ("a", "train/melanoma"),
                        ("c", "test/melanoma"), ("d", "test/nevus"), ("e", "test/nevus")]:
        (top / where).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[name]).save(top / where / f"{name}.png")
    Image.fromarray(np.minimum(pictures["b"], 250)).save(top / "test/nevus/nearly_b.png")
    (top / "train/nevus/broken.jpg").write_bytes(b"no picture")
    lesions = dict(a="L1", b="L2", c="L3", d="L2", e="L5")
    write_text(top / "labels.csv", "image,label,lesion_id,split", *(
        f"{file.relative_to(top)},{file.parent.name},{lesions.get(file.stem, file.stem)},{file.parent.parent.name}"
        for file in sorted(top.rglob("*.*g"))))
    kaggle_tree(tmp_path / "d" / "kaggle")
    isic_set(tmp_path / "d" / "ham", HAM)
    write_text(tmp_path / "d" / "wrong" / "labels.csv", "image,label", "gone.png,nevus")
    write_image(tmp_path / "d" / "wrong" / "here.png")
    write_image(tmp_path / "d" / "odd" / "a.png")
    (tmp_path / "d" / "odd" / "labels.csv").write_text("image,label\na.png," + "x" * 200_000)     # csv takes 131,072
    write_text(tmp_path / "d" / "zips" / "bad.zip", "no zip")
    status, text, err = cli("data", "check", tmp_path / "d", "--out", tmp_path / "check.json")
    assert status == 0, err
    found = json.loads((tmp_path / "check.json").read_text())
    assert [Path(folder).name for folder in found] == ["ham", "kaggle", "odd", "set", "wrong", "zips"]
    report = found[str(top)]
    assert list(report["unreadable"]) == ["train/nevus/broken.jpg"] and "train/nevus/broken.jpg" in text
    assert len(report["equal_pairs"]) == 2 and report["label_conflicts"] == 1
    assert report["conflict_kinds"] == {"melanoma/nevus": 1} and report["near_pairs"] == 3
    split = report["splits"]["split"]
    assert split["equal_across"] == 1 and split["near_across"] == 2
    assert split["lesions_across"] == 2 and split["test_images_of_train_lesions"] == 2      # L3 (c), L2 (d)
    assert split["counts"]["train"] == {"melanoma": 2, "nevus": 2} and report["width"] == [32, 32, 32]
    assert list(found[str(tmp_path / "d/kaggle")]["studies"]) == ["wgan_gp", "dcgan_cls", "dcgan_inception", "controls"]
    assert list(found[str(tmp_path / "d/ham")]["studies"]) == ["acgan_cyclegan", "dermagan", "controls"]
    for folder, word in [("wrong", "gone.png"), ("odd", "labels.csv: not readable"), ("zips", "bad.zip")]:
        assert word in found[str(tmp_path / "d" / folder)]["problem"]


def test_check_reports_each_split_of_a_table(tmp_path, cli):
    for k in range(4):
        write_image(tmp_path / "d" / f"{k}.png", (60 * k, 0, 0))
    write_text(tmp_path / "d" / "t.csv", "image,label,lesion_id,split,split_by_lesion", "0.png,nevus,A,train,train",
               "1.png,nevus,A,test,train", "2.png,nevus,B,test,test", "3.png,nevus,C,train,test")
    cli("data", "check", tmp_path / "d", "--out", tmp_path / "check.json")
    [report] = json.loads((tmp_path / "check.json").read_text()).values()
    cli("data", "check", tmp_path / "d" / "..")                     # a folder above it
    assert {name: split["test_images_of_train_lesions"] for name, split in report["splits"].items()} == {
        "split_by_lesion": 0, "split": 1}


def test_near_pairs_equal_a_plain_count():
    signs = np.random.default_rng(0).choice(np.float32([-1, 1]), (90, 64))
    signs[50:60] = signs[:10]
    signs[50:53, :2] *= -1                                          # 2 bits: near; 3 bits: not
    signs[53:56, :3] *= -1
    expected = {(i, j) for i in range(90) for j in range(i + 1, 90) if (signs[i] != signs[j]).sum() <= 2}
    assert set(zip(*data.near_pairs(signs, chunk=32).tolist())) == expected and len(expected) == 7


# --- download

class Server(http.server.ThreadingHTTPServer):
    """A local server with bad habits: files {path: bytes}; cut: bytes after which the first answers end."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.headers, self.asked, self.missing = {}, [], True, {}, [], 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """A client that hangs up early, as one does that finds the disk too small, is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        home, start = self.server, 0
        home.asked.append((self.path, self.headers.get("Range")))
        body = home.files.get(self.path)
        if callable(body):
            body = body()
        if body is None:
            return self.send_error(404, "Not Found")
        if home.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"][6:-1])
            if start >= len(body):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start + home.missing))
        for name, value in home.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[start:][:home.cut.pop(0) if home.cut else None])


@pytest.fixture
def server(monkeypatch):
    home = Server()
    threading.Thread(target=home.serve_forever, daemon=True).start()
    monkeypatch.setattr(data, "PLACES", dict.fromkeys(data.PLACES, home.url))
    monkeypatch.setattr(data, "PAUSE", 0)
    yield home
    home.shutdown()
    home.server_close()


def zipped(folder, prefix=""):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return raw.getvalue()


BLOB = bytes(range(256)) * 4000


def test_fetch_whole_resumed_and_without_ranges(tmp_path, server):
    server.files["/f.bin"] = BLOB
    data.fetch(server.url + "/f.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BLOB
    server.cut, server.asked = [300_000, 200_000], []
    data.fetch(server.url + "/f.bin", tmp_path / "b.bin")           # cut twice, gone on with at once
    assert (tmp_path / "b.bin").read_bytes() == BLOB
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    (tmp_path / "c.bin.part").write_bytes(BLOB[:1000])              # of an earlier command
    server.ranges = False
    data.fetch(server.url + "/f.bin", tmp_path / "c.bin")
    assert (tmp_path / "c.bin").read_bytes() == BLOB
    server.ranges = True
    (tmp_path / "d.bin.part").write_bytes(BLOB + b"more")           # longer than the file: 416, then from the start
    data.fetch(server.url + "/f.bin", tmp_path / "d.bin")
    assert (tmp_path / "d.bin").read_bytes() == BLOB
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "b.bin", "c.bin", "d.bin"]


def test_fetch_refuses_short_and_wrong_files(tmp_path, server):
    server.files["/f.bin"], server.missing = BLOB, 10
    server.ranges = False
    with pytest.raises(UserError, match=f"ended after {len(BLOB)} of {len(BLOB) + 10} bytes"):
        data.fetch(server.url + "/f.bin", tmp_path / "f.bin")
    assert not (tmp_path / "f.bin").exists()
    server.missing, right = 0, hashlib.md5(BLOB).digest()
    for headers, good in [({"x-goog-hash": "crc32c=AAAAAA==, md5=" + base64.b64encode(right).decode()}, True),
                          ({"x-goog-hash": "md5=" + base64.b64encode(bytes(16)).decode()}, False),
                          ({"ETag": '"' + "0" * 32 + '"'}, True)]:  # no storage server that puts an MD5 there
        server.headers = headers
        (tmp_path / "f.bin.part").unlink(missing_ok=True)
        if good:
            data.fetch(server.url + "/f.bin", tmp_path / "f.bin")
        else:
            with pytest.raises(UserError, match="checksum"):
                data.fetch(server.url + "/f.bin", tmp_path / "f.bin")
            assert not (tmp_path / "f.bin.part").exists()


def test_amazon_etag_is_checked_as_md5(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    headers = http.client.HTTPMessage()
    headers["Server"], headers["ETag"] = "AmazonS3", '"900150983cd24fb0d6963f7d28e17f72"'      # MD5 of abc (RFC 1321)
    data.check_md5(tmp_path / "f", "url", headers)
    (tmp_path / "f").write_bytes(b"abd")
    with pytest.raises(UserError, match="checksum"):
        data.check_md5(tmp_path / "f", "url", headers)


def test_no_network_and_full_disk_end_in_one_line(tmp_path, server, refused, monkeypatch):
    server.files["/2019/ISIC_2019_Training_GroundTruth.csv"] = BLOB
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: type("Disk", (), dict(free=1000)))
    refused(["GB are needed", "free"], "data", "download", "isic2019", "--to", tmp_path)
    with contextlib.closing(socket.socket()) as unused:             # a port at which nobody listens
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(data, "PLACES", dict.fromkeys(data.PLACES, f"http://127.0.0.1:{unused.getsockname()[1]}"))
        refused(["127.0.0.1", "network"], "data", "download", "isic2019", "--to", tmp_path)
        refused(["127.0.0.1", "network"], "data", "download", "isic_archive", "--to", tmp_path)
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_a_zip_cannot_write_outside_its_folder(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(UserError, match="outside"):
        data.unpack(tmp_path / "x.zip", tmp_path / "deep" / "x")
    assert [file.name for file in tmp_path.rglob("*")] == ["x.zip"]


def test_zip_bombs_and_damaged_zips_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with pytest.raises(UserError, match="10000000 bytes"):
        data.unpack(tmp_path / "bomb.zip", tmp_path / "bomb")
    kaggle_tree(tmp_path / "k")
    whole = zipped(tmp_path / "k")
    middle = whole.index(b"\xff\xd8") + 60
    (tmp_path / "bad.zip").write_bytes(whole[:middle] + b"XXXXX" + whole[middle + 5:])
    with pytest.raises(UserError, match="damaged"):
        data.unpack(tmp_path / "bad.zip", tmp_path / "bad")
    assert not (tmp_path / "bad").exists() and not (tmp_path / "bad.zip").exists()


def test_downloaded_sets_are_found_by_prepare(tmp_path, server, cli):
    """Small files in the places and forms of the real ones; a second start finds everything there already."""
    kaggle_tree(tmp_path / "k")
    kaggle_tree(tmp_path / "k" / "data")
    server.files["/fanconic/skin-cancer-malignant-vs-benign"] = zipped(tmp_path / "k")
    isic_set(tmp_path / "h", HAM)
    for year, kind, parts in [("2018", "ISIC2018_Task3_Training_", ("GroundTruth.zip", "LesionGroupings.csv")),
                              ("2019", "ISIC_2019_Training_", ("GroundTruth.csv", "Metadata.csv"))]:
        isic_set(tmp_path / year, HAM if year == "2018" else ISIC2019)
        truth = (tmp_path / year / "Truth.csv")
        (tmp_path / year / "t" / f"{kind}GroundTruth").mkdir(parents=True)
        truth.rename(tmp_path / year / "t" / f"{kind}GroundTruth" / f"{kind}GroundTruth.csv")
        packed = zipped(tmp_path / year / "t")
        server.files[f"/{year}/{kind}{parts[0]}"] = packed if year == "2018" else next(
            (tmp_path / year / "t").rglob("*.csv")).read_bytes()
        server.files[f"/{year}/{kind}{parts[1]}"] = (tmp_path / year / "Groups.csv").read_bytes()
        server.files[f"/{year}/{kind}Input.zip"] = zipped(tmp_path / year / "Training_Input", f"{kind}Input/")
    for name, study, images, classes in [("kaggle_binary", "wgan_gp", 16, 2), ("ham10000", "acgan_cyclegan", 28, 7),
                                         ("ham10000", "dermagan", 16, 4), ("isic2019", "acgan_cyclegan", 32, 8)]:
        to, asked = tmp_path / "to" / name, len(server.asked)
        status, text, err = cli("data", "download", name, "--to", to)
        assert status == 0 and f"prepare {to} --for" in text, err
        assert len(server.asked) == asked if study == "dermagan" else len(server.asked) > asked
        found, *_ = prepared_for(cli, to, study, tmp_path / f"{name}{study}", "--val", 0.3, "--test", 0.3)
        assert len(found) == images and len(found.classes) == classes
        assert not list(to.rglob("*.zip")) and not list(to.rglob("*.part"))
        if name != "kaggle_binary":
            assert all(group.startswith("L") for group in found.groups)


def test_kaggle_wanting_a_login_gives_the_steps_by_hand(tmp_path, server, refused):
    by_hand = ["kaggle.com/datasets/fanconic", "unpack into"]
    refused(by_hand, "data", "download", "kaggle_binary", "--to", tmp_path)                 # 404
    server.files["/fanconic/skin-cancer-malignant-vs-benign"] = b"<html>please log in</html>"
    refused(by_hand, "data", "download", "kaggle_binary", "--to", tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_archive_images_are_paged_and_gone_on_with(tmp_path, server, cli, monkeypatch, refused):
    monkeypatch.setattr(data, "ARCHIVE_COUNTS", {"benign": 5, "malignant": 4})
    first = '/images/search/?query=diagnosis_1%3A%22{}%22+AND+image_type%3Adermoscopic&limit=100'
    number = 0
    for label, pages in (("Benign", 3), ("Malignant", 2)):
        for page in range(pages):
            results = []
            for k in range(2):
                number += 1
                raw = io.BytesIO()
                Image.new("RGB", (9, 9), (number * 9, 80, 9)).save(raw, "JPEG")
                server.files[f"/thumb{number}"] = raw.getvalue()
                results.append(dict(isic_id=f"ISIC_{number}", copyright_license="CC-0", attribution="Someone, \"here\"",
                                    files={kind: dict(url=f"{server.url}/{kind[:5]}{number}", size=500)
                                           for kind in ("full", "thumbnail_256")},
                                    metadata=dict(acquisition={}, clinical=dict(lesion_id=f"IL_{number // 2}"))))
            last = page == pages - 1 and label == "Malignant"       # the benign list goes on, the malignant one ends
            answer = dict(results=results, next=None if last else f"{server.url}/{label}{page + 1}")
            server.files[first.format(label) if page == 0 else f"/{label}{page}"] = json.dumps(answer).encode()
    page, _ = server.files.pop("/Malignant1"), server.files.pop("/thumb2")     # a page and an image are out of order
    refused(["/Malignant1", "404"], "data", "download", "isic_archive", "--to", tmp_path / "to")
    refused(["isic_archive"], "data", "prepare", tmp_path / "to", "--for", "dcgan_inception", "--out", tmp_path / "out")
    server.files["/Malignant1"], server.asked = page, []
    status, text, err = cli("data", "download", "isic_archive", "--to", tmp_path / "to")
    assert status == 0 and "benign: 5 images" in text and "malignant: 4 images" in text, err
    assert sorted(path for path, _ in server.asked if "thumb" in path) == ["/thumb10", "/thumb2", "/thumb9"]
    assert "left out" in text and "/thumb2" in text
    found, result, _ = prepared_for(cli, tmp_path / "to", "dcgan_inception", tmp_path / "out", "--val", 0.3)
    assert set(found.ids) == {f"benign/ISIC_{k}.jpg" for k in (1, 3, 4, 5, 6)} | {
        f"malignant/ISIC_{k}.jpg" for k in (7, 8, 9, 10)} and "thumbnail" in result["source"]["source"]
    assert all(group.startswith("IL_") for group in found.groups) and "stand_in" not in result["source"]
    asked = len(server.asked)
    assert cli("data", "download", "isic_archive", "--to", tmp_path / "to")[0] == 0 and len(server.asked) == asked
    server.files[first.format("Benign")] = b'{"unexpected": 1}'
    refused(["unknown form"], "data", "download", "isic_archive", "--to", tmp_path / "again")


# --- Edits of a line that would change a result and nothing else

def test_the_order_of_the_batches_follows_the_seed():
    images = data.built_in(20, 8)
    images.images[:, 0, 0, 0] = np.arange(20)
    one, two = (data.Batches(images, 20, seed, "cpu")(0)[0][:, 0, 0, 0].tolist() for seed in (1, 2))
    assert one != two


def test_a_split_by_lesion_goes_before_a_split_by_image(tmp_path):
    for k in range(3):
        write_image(tmp_path / "d" / f"{k}.png", (60 * k, 0, 0))
    write_text(tmp_path / "d" / "t.csv", "image,label,lesion_id,split,split_by_lesion", "0.png,nevus,A,train,train",
               "1.png,nevus,A,test,train", "2.png,nevus,B,train,test")
    assert data.load(tmp_path / "d", 8).split.tolist() == ["train", "train", "test"]


def test_augment_turns_and_brightens(monkeypatch):
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n))            # every draw at its limit: +1
    still = dict(flip=False, rotate=0, zoom=0, shift=0, brightness=0)
    assert torch.allclose(data.augment(x, **still | dict(rotate=90)), x.rot90(1, (2, 3)), atol=1e-5)
    assert torch.allclose(data.augment(x, **still | dict(brightness=0.5)), ((x + 1) * 1.5 - 1).clamp(-1, 1), atol=1e-5)
    assert torch.allclose(data.augment(x, **still | dict(shift=0.25))[..., :6, :6], x[..., 2:, 2:], atol=1e-5)


def test_which_diagnoses_are_malignant():
    images = data.built_in(48, 8)
    two = data.to_binary(images)
    assert {images.classes[k] for k in images.labels[two.labels == 1]} == {"AK", "BCC", "MEL", "SCC"} and two.classes[1] == "malignant"


def test_the_fingerprint_knows_lesions_labels_and_split(lesions):
    for column, value in (("groups", "x"), ("labels", 1 - lesions.labels[0]), ("split", "val")):
        other = lesions.take(slice(None))
        changed = getattr(other, column).copy()
        changed[0] = value
        assert data.replace(other, **{column: changed}).fingerprint() != lesions.fingerprint(), column


def test_near_copies_in_validation_count_too_before_and_after_the_test_image(lesions):
    val, test = (np.flatnonzero(lesions.split == part) for part in ("val", "test"))
    for mine, other in ((val[0], test[-1]), (val[-1], test[0])):
        images = lesions.take(slice(None))
        images.images = images.images.copy()
        images.images[mine] = images.images[other]
        assert data.near_test(images)[mine]


def test_a_copy_of_a_test_image_in_the_validation_part_is_dropped(lesions):
    copied = data.mix(lesions, lesions.part("val").take([0]))
    copied.split[-1:], copied.groups[-1:] = "test", ["other"]
    again = data.with_split(copied)
    assert again.info["copies_dropped"] == 1 and len(again) == len(copied) - 1


def test_a_wide_picture_is_cut_and_not_squeezed():
    picture, raw = Image.new("RGB", (32, 16), GREEN), io.BytesIO()
    picture.paste(RED, (8, 0, 24, 16))
    picture.save(raw, "PNG")
    assert (data.decode(raw.getvalue(), 16) == RED).all()


def test_a_lesion_in_training_and_validation_is_refused(lesions):
    lesions = lesions.take(slice(None))
    lesions.groups, first = lesions.groups.copy(), {part: np.flatnonzero(lesions.split == part)[0] for part in ("train", "val")}
    lesions.groups[first["val"]] = lesions.groups[first["train"]]
    with pytest.raises(UserError, match="in both train and val"):
        data.with_split(lesions)


def test_the_split_follows_the_seed(tmp_path, cli):
    one, two = (prepared_for(cli, "lesions", "dermagan", tmp_path / str(seed), "--n", 96, "--val", 0, "--seed", 0, "--test", 0.3)[0] for seed in (0, 1))
    assert one.fingerprint() == two.fingerprint()
    data.built_in(96, 8).save(tmp_path / "set.npz")
    for seed in (0, 1):
        assert cli("data", "prepare", tmp_path / "set.npz", "--seed", seed, "--out", tmp_path / f"s{seed}")[0] == 0
    assert (data.load(tmp_path / "s0").split != data.load(tmp_path / "s1").split).any()
