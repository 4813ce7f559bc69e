import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import data
from conftest import ROOT
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
    monkeypatch.setattr(data, "artefacts", lambda image, rng, odds: seen.append((rng.bit_generator.state, odds)) or image)
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
    assert images.counts() == {"benign": 2, "malignant": 2} and sorted(images.split) == ["test", "test", "train", "train"]
    assert (images.of_class("malignant").images[0, 4, 4] == RED).all()

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in tree.rglob("*.png"):
            archive.write(file, f"top/{file.relative_to(tree)}")
    zipped = data.load(tmp_path / "all.zip", 8)
    assert zipped.counts() == images.counts() and sorted(zipped.split) == sorted(images.split)

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
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("ISIC_1", "ISIC_2"):
            raw = io.BytesIO()
            Image.new("RGB", (9, 9), RED).save(raw, "PNG")
            archive.writestr(f"images/{name}.png", raw.getvalue())
    (tmp_path / "truth.csv").write_text("image,MEL,NV\nISIC_1,0.0,1.0\nISIC_2,1.0,0.0\n")
    images = data.load(tmp_path, 8)
    assert [images.classes[k] for k in images.labels] == ["NV", "MEL"]


@pytest.mark.parametrize("mode, options", [("L", {}), ("P", {}), ("1", {}), ("RGBA", {}), ("LA", {}), ("CMYK", dict(format="JPEG")), ("I;16", {}), ("F", dict(format="TIFF"))])
def test_any_pillow_mode(mode, options, tmp_path):
    grey = Image.fromarray(np.full((10, 14), 130, np.uint8))
    image = Image.fromarray(np.full((10, 14), 130 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    raw = io.BytesIO()
    image.save(raw, options.get("format", "PNG"))
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
    (tmp_path / "labels.csv").write_bytes("image,label,lesion_id,note\n0.png,nevus,,caf\xe9\n1.png,nevus,,\n2.png,nevus,L2,\n".encode("latin-1"))
    assert sorted(data.load(tmp_path, 8).groups) == ["0.png", "1.png", "L2"]


def test_the_two_class_set_is_found_and_a_nested_copy_of_it_left_out(tmp_path, cli):
    """Kaggle's archive holds the set twice: train/ and test/, and again below data/."""
    for top in ("", "data/"):
        for part in ("train", "test"):
            for k in range(6):
                write_image(tmp_path / "archive" / f"{top}{part}" / ("benign" if k % 2 else "malignant") / f"{k}.png", (40 * k, len(part), 9))
    status, out, err = cli("data", "prepare", tmp_path, "--binary", "--size", 8, "--val", 0.4, "--out", tmp_path / "out")
    assert status == 0, err
    assert sum(sum(part.values()) for part in json.loads((tmp_path / "out/result.json").read_text())["counts"].values()) == 12


def test_samples_as_a_tree_keep_what_they_know(tmp_path):
    made = data.built_in(4, 16)
    made.info = dict(source="gan", digests=["a", "b"])
    made.save(tmp_path / "tree")
    assert data.load(tmp_path / "tree", 16).info["digests"] == ["a", "b"]


def test_decoding_happens_once(tmp_path, monkeypatch):
    write_image(tmp_path / "t" / "nevus" / "a.png")
    first = data.load(tmp_path / "t", 8)
    monkeypatch.setattr(data, "decode", lambda *_: pytest.fail("decoded twice"))
    assert data.load(tmp_path / "t", 8).fingerprint() == first.fingerprint()


def test_a_changed_folder_is_decoded_again(tmp_path):
    write_image(tmp_path / "t" / "nevus" / "a.png")
    data.load(tmp_path / "t", 8)
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
    lesions.groups[np.flatnonzero(lesions.split == "test")[0]] = lesions.groups[np.flatnonzero(lesions.split == "train")[0]]
    with pytest.raises(UserError, match="in both train and test"):
        data.with_split(lesions)


def test_mix_goes_by_class_name(lesions):
    fake = data.built_in(8, 64, seed=9).of_class("MEL")
    fake.labels, fake.classes = np.zeros(len(fake), np.int64), ["malignant"]
    mixed = data.mix(lesions, fake)
    assert mixed.counts()["malignant"] == lesions.counts()["malignant"] + len(fake)
    fake.classes = ["wart"]
    with pytest.raises(UserError, match="wart"):
        data.mix(lesions, fake)


def test_copies_never_cross_the_split(lesions):
    copied = data.mix(lesions, lesions.part("train").take([0, 1]))  # two training images again, as other lesions in test
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
    assert set(images.ids[images.split == "val"]) == set(parts.ids[parts.split == "val"]) and (parts.split == "test").any()


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


@pytest.mark.parametrize("name, action", [("lesions.npz", "data.built_in(24, 32).save(folder + '/lesions.npz')"),
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
    zip_of(tmp_path / "odd")
    refused(["wart", "benign or malignant"], "data", "prepare", tmp_path / "odd.zip", "--binary", "--out", out)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    refused(["bad.zip", "neither"], "data", "prepare", tmp_path / "bad.zip", "--out", out)
    (tmp_path / "bad.npz").write_bytes(b"no npz")
    refused(["bad.npz", "not an image set"], "data", "prepare", tmp_path / "bad.npz", "--out", out)
    np.savez(tmp_path / "float.npz", **{**np.load(zero_set(tmp_path)), "images": np.zeros((1, 8, 8, 3))})
    refused(["float.npz", "uint8"], "data", "prepare", tmp_path / "float.npz", "--out", out)
    (tmp_path / "file").write_text("in the way")
    refused(["cannot use", "file"], "data", "prepare", "lesions", "--n", 24, "--size", 8, "--out", tmp_path / "file")
    refused(["--val 1.5", "below 1"], "data", "prepare", "lesions", "--n", 24, "--size", 8, "--val", 1.5, "--out", out)
    refused(["train/benign", "Kaggle"], "data", "prepare", tmp_path / "odd", "--binary", "--out", out)
    refused(["--nonsense"], "data", "prepare", tmp_path / "odd", "--out", out, "--nonsense")
    assert not (out / "result.json").exists()


def zero_set(folder):
    data.built_in(1, 8).save(folder / "zero.npz")
    return folder / "zero.npz"


def zip_of(folder):
    with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))


def test_csv_errors_name_the_line(tmp_path, refused):
    write_image(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "labels.csv").write_text("image,label\na.png,nevus\nb.png,nevus\n")
    refused(["labels.csv line 3", "b.png"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")
    (tmp_path / "set" / "labels.csv").write_text("image,label\na.png,\n")
    refused(["labels.csv line 2", "no label"], "data", "prepare", tmp_path / "set", "--out", tmp_path / "out")


def test_broken_images_are_named_or_skipped_and_counted(tmp_path, refused, cli):
    for k in range(12):
        write_image(tmp_path / "set" / ("nevus" if k % 2 else "melanoma") / f"{k}.png", (k, 0, 0))
    whole = (tmp_path / "set" / "nevus" / "1.png").read_bytes()
    (tmp_path / "set" / "nevus" / "cut.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "set" / "melanoma" / "text.jpg").write_text("not an image")
    refused(["melanoma/text.jpg", "1 more", "--skip-bad"], "data", "prepare", tmp_path / "set", "--size", 8, "--out", tmp_path / "out")
    status, _, err = cli("data", "prepare", tmp_path / "set", "--size", 8, "--skip-bad", "--out", tmp_path / "out")
    assert status == 0 and "skipped 2 unreadable" in err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["source"]["skipped"] == 2


def test_ctrl_c_ends_without_a_traceback(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(data, "built_in", interrupted)
    status, _, err = cli("data", "lesions", "--out", "x.npz")
    assert status == 130 and "Start it again" in err
