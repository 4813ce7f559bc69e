"""Image sets: other people's photographs, splits that do not leak, exact preprocessing."""
import io
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import data
from jobs import UserError, read_json
from reading import class_name, counted, decode, first_of, hash_of, read_rows


def test_drawn_lesions_depend_on_their_seed_alone_and_are_balanced(tmp_path, done, monkeypatch):
    drawn, few, others = [data.built_in(n, 32, seed) for n, seed in ((96, 0), (12, 0), (12, 3))]
    assert few.fingerprint() == drawn.take(slice(12)).fingerprint()
    assert drawn.counts() == dict.fromkeys(data.EIGHT, 12) and len(set(drawn.ids)) == 96
    assert set(np.unique(drawn.groups, return_counts=True)[1]) == {1, 2, 3}
    assert drawn.images.mean((0, 1, 2)) == pytest.approx([193.243, 139.046, 136.466], abs=0.01)
    assert others.images.mean((0, 1, 2)) == pytest.approx([182.264, 125.841, 116.963], abs=0.01)
    done("data", "lesions", "--n", 12, "--size", 32, "--seed", 3, "--out", tmp_path / "drawn")
    assert sorted(data.load(tmp_path / "drawn", 32).digests()) == sorted(others.digests())
    monkeypatch.setattr(data.os, "sysconf", lambda _: 96)   # as if 96 x 96 bytes were all memory
    assert len(data.built_in(24, 8)) == 24                  # 24 x 8 x 8 x 3 bytes twice
    pytest.raises(MemoryError, data.built_in, 25, 8).match("25 images of 8 px")


def png(image, form="PNG", **options):
    """A function that reads a picture file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue


def pictures(names):
    """{name: bytes of a picture that no other name has}."""
    return {name: png(Image.new("RGB", (12, 12), (k, 0, 9)))() for k, name in enumerate(names)}


def folder_of(root, files):
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return root


def of_picture(form, k):
    part, kind = ("train", "test")[k // 4 % 2], data.TWO[k % 2]
    return form.format(k=k, kind=kind, ab="ab"[k % 2], part=part, l=k // 2, p=k // 3,
                       b=1 - k % 2, m=k % 2, yes=k % 2 == 0, no=k % 2 == 1, long="9 " * 70_000)


def layout(block):
    """(name, dict of its files, options and what it must be read as) of a block of layouts.txt."""
    name, *lines = block.splitlines()
    case = dict(files={}, images="images/I{k}.png", columns="", zeros=None, says="", refused="",
                reads="3 benign, 3 malignant; 6 lesions; 6 in no part")
    for line in lines:
        word, mark, rest = re.fullmatch("(.*?)(: |> )(.*)", line).groups()
        if word in case:
            case[word] = rest
        elif mark == ": ":
            titles, cells = zip(*[column.split("=") for column in rest.split(", ")])
            rows = [of_picture(",".join(cells), k) for k in range(6)]
            case["files"][word] = "\n".join([",".join(titles), *rows])
        else:
            case["files"][word] = rest.encode().decode("unicode_escape").encode("latin-1")
    return name, case


LAYOUTS = dict(map(layout, (ROOT / "tests/layouts.txt").read_text().split("\n== ")[1:]))


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
def test_sets_are_read_as_they_are_meant_and_aloud_or_refused_with_their_remedy(tmp_path, case):
    names = [of_picture(form, k) for form in case["images"].split(", ") for k in range(6)]
    folder_of(tmp_path, pictures(dict.fromkeys(names)) | case["files"])
    columns = [word.split("=") for word in case["columns"].split()]
    try:
        rows, notes = read_rows(tmp_path, case["zeros"], columns)
        _, labels, lesions, parts, *_ = zip(*rows)
        parts = counted(part or "in no part" for part in parts)
        found = f"{counted(labels)}; {len(set(lesions))} lesions; {parts}"
        assert found == case["reads"] and not case["refused"]
        words, said = case["says"], "\n".join(notes)
    except UserError as error:
        words, said = case["refused"], str(error)
        assert words and ("--zeros" in said) == ("--zeros" in words), said
    assert all(word in said for word in words.split("; ")), said


def test_zips_links_circles_jobs_and_second_copies(tmp_path):
    names = [of_picture("{part}/{kind}/I{k}.png", k) for k in range(6)]
    files = pictures(names)
    linked = folder_of(tmp_path / "linked", files)
    real = (linked / "test").rename(tmp_path / "real")
    shutil.make_archive(tmp_path / "zips" / "deep" / "test", "zip", real)
    with zipfile.ZipFile(tmp_path / "zips" / "x.zip", "w") as archive:
        archive.writestr("__MACOSX/train/benign/I0.png", b"?")
        for name in names[:4]:
            archive.writestr(name.replace("/", "\\"), files[name])
    (linked / "test").symlink_to(real)
    (linked / "train" / "round").symlink_to(linked)
    (linked / "a_link").symlink_to(linked / "train")
    copies = {f"again/{name}": raw for name, raw in files.items()}
    copies |= {"job/.lock": "", "job/benign/I1.png": files[names[1]]}
    folder_of(tmp_path / "twice", files | copies)
    for folder in ("zips", "linked", "twice"):
        rows, notes = read_rows(tmp_path / folder)
        found = sorted(f"{row.part}/{row.label}" for row in rows)
        assert found == sorted(name[:name.rindex("/")] for name in names), folder
    assert re.search(r"second files of one content: test/benign/I4.png, .* \(6\)", notes[-1])
    assert "of no class" not in str(notes)
    assert len(read_rows(tmp_path / "zips" / "x.zip")[0]) == 4
    shutil.make_archive(tmp_path / "outer", "zip", tmp_path / "zips")
    pytest.raises(UserError, read_rows, tmp_path / "outer.zip").match("holds another zip, .*: unp")


def test_classes_are_filed_by_public_names_and_what_a_study_drops_is_said(tmp_path, done):
    assert first_of("abcdefgh") == "a, b, c, d, e, f, g, h"
    for line in (ROOT / "tests/classes.txt").read_text().splitlines()[2:]:
        short, kind, names = line.split(maxsplit=2)
        for name in names.split(" / "):
            assert (class_name(name), class_name(name, binary=True)) == (short, kind), name

    def prepared(source, name, study):
        options = ["--size", 16, "--test", 0, "--zeros", "NV", "--out", tmp_path / name]
        return done("data", "prepare", source, *options, "--for", study)

    for name in ("Nevus", "Melanoma, NOS", "Solar or actinic keratosis"):
        folder_of(tmp_path / "ham10000", pictures([f"{name}/{k}.png" for k in range(12)]))
    assert "AK, BCC, BKL, MEL: 12 Nevus" in prepared(tmp_path, "four", "dermagan")
    assert data.load(tmp_path / "four").classes == ["AK", "MEL"]
    files = pictures(["1.png", "2.png"]) | {"m.csv": "image,MEL\n1,1\n2,0"}
    mine = folder_of(tmp_path / "isic2019", files)
    out = prepared(tmp_path, "two", "wgan_gp")
    assert data.load(tmp_path / "two").counts() == dict(benign=12, malignant=24)
    assert "two: ham10000 instead of kaggle_binary" in out and "left out" not in out
    assert "own: isic2019. " in prepared(mine, "own", "controls")
    assert "your own isic2019 instead of" in prepared(mine, "my", "wgan_gp")


def test_prepare_keeps_what_it_is_told_and_understands(tmp_path, monkeypatch, done, refused):
    files = pictures([f"images/I{k}.png" for k in range(6)])
    folder_of(tmp_path / "set", files | LAYOUTS["what is said twice adds"]["files"])
    plain = ["data", "prepare", tmp_path / "set", "--val", 0, "--out", tmp_path / "columns"]
    twice = [*plain, "--columns", "image=photo", "patient=none", "--columns", "image=picture"]
    for nonsense in ("kind=label", "label=..."):
        refused([f"column value: '{nonsense}'"], *plain, "--columns", nonsense)
    refused(["is class a benign or malignant", "labels.csv", "label=folder"], *twice, "--binary")
    refused(["two or more classes", "3 a, 3 b", "--columns"], *twice, "--for", "dermagan")
    refused(["--limit mole: the classes are a, b"], *twice, "--limit", "mole=1")
    done(*twice)
    assert read_json(tmp_path / "columns" / "result.json")["lesions"] == 3

    turned = []
    monkeypatch.setattr(data, "augment", lambda x, **ranges: turned.append((ranges, x)) or x)
    parts = ("train", "train", "test")
    names = [f"{parts[k % 3]}/{data.TWO[k % 2]}/{k}.png" for k in range(60)]
    names += [f"test/rare/{k}.png" for k in range(6)]
    prepare = ["data", "prepare", folder_of(tmp_path / "p", pictures(names)), "--size", 16, "--out"]
    job = [*prepare, tmp_path / "job", "--val", 0.25]
    out, result = done(*job), read_json(tmp_path / "job" / "result.json")
    counts = [list(count.values()) for count in result["counts"].values()]
    assert counts == [[15, 15, 0], [5, 5, 0], [10, 10, 6]]
    for words in ("train has no image of rare", "rare has only 6 images", "names of folders"):
        assert words in out and words in "\n".join(result["source"]["reading"])
    assert "done before" in done(*job)
    (ranges, copies), = turned
    assert ranges == dict(zoom=0, shift=0, shear=10, brightness=0)      # of paper 001
    assert len(copies) == 16 and (copies == copies[0]).all()
    shown = np.array(Image.open(tmp_path / "job" / "grid.png"))[8::17, 8::17, 0].ravel()
    assert len(shown) == 16 and (shown % 3 < 2).all()           # of the training part
    for seed in "01":
        resplit = ["--resplit", "--test", 0.5, "--limit", "benign=7", "--seed", seed]
        done(*prepare, tmp_path / seed, *resplit)
    first, again = [data.load(tmp_path / seed) for seed in "01"]
    assert again.counts()["benign"] == 7 and [*again.part("test").counts().values()] == [3, 15, 3]
    assert set(first.of_class("benign").ids) != set(again.of_class("benign").ids)
    assert set(first.part("test").ids) != set(again.part("test").ids) and torch.initial_seed() == 1


def test_check_tells_copies_leaks_what_was_left_out_and_what_is_broken(tmp_path, done, refused):
    files = pictures([f"train/{name}/{k}.png" for name in ("nevus", "melanoma") for k in range(4)])
    files |= {"train/melanoma/3.png": files["train/nevus/3.png"],       # of one name, two labels
              "val/melanoma/1.png": files["train/melanoma/1.png"],      # two parts
              "nevus/loose.png": files["train/nevus/2.png"]}            # of no part: to train
    deep = png(Image.fromarray(np.full((9, 9), 999, np.uint16)))()
    files |= {"test/nevus/copy.png": files["train/melanoma/0.png"], "x.heic": b"?", "README": b"?",
              "test/nevus/deep.png": deep, "test/nevus/deep.tif": deep,
              "m.csv": "image,lesion_id,patient_id\ncopy,L,P\ntrain/nevus/1,L,P\n"
                       "train/nevus/2,M,Q\ndeep.png,N,Q\nloose,M,Q"}
    out = done("data", "check", folder_of(tmp_path, files))
    for words in ("13 images of 11 lesions", "2 of them under two labels, 2 across parts",
                  "test/nevus/copy.png (nevus) = train/melanoma/0.png (melanoma)", "1 .heic",
                  "val has no image of nevus", "part: 1 lesions", "part: 2 patients"):
        assert words in out, out
    refused(["no table", "column finding"], "data", "check", tmp_path, "--columns", "label=finding")
    folder_of(tmp_path, {"a/broken.png": deep[:40], "b/empty.png": b""})
    refused(["2 unreadable", "a/broken.png", "b/empty.png", "remove"], "data", "check", tmp_path)


def test_photographs_of_every_kind_become_squares():
    for mode in ("L", "1", "P", "CMYK", "I;16", "LA"):
        made = decode(png(Image.new("RGB", (40, 30), "red").convert(mode), "TIFF"), 16)
        assert made.shape == (16, 16, 3) and made.dtype == np.uint8, mode
    wide, exif = Image.new("RGB", (90, 30), "red"), Image.Exif()
    wide.paste("white", (30, 0, 60, 12))
    wide.paste("blue", (30, 12, 60, 30))
    exif[274] = 3                                       # upside down
    assert (decode(png(wide, exif=exif), 8)[:3, 1:-1] == (0, 0, 255)).all()     # not squeezed
    glass = Image.new("RGBA", (9, 9), (200, 0, 0, 51))                  # a fifth of it, on white
    assert (decode(png(glass), 8) == (244, 204, 204)).all()
    assert abs(decode(png(glass.convert("LA")), 8) - 216.0).max() <= 1
    for grey, bits in ((99, 8), (256, 10), (1024, 12), (4095, 12), (9000, 14), (2e4, 16), (0.5, 1)):
        deep = Image.fromarray(np.full((2, 2), grey, np.uint16 if bits > 1 else np.float32))
        assert abs(decode(png(deep, "TIFF"), 2) - grey * 255 / (2 ** bits - 1)).max() <= 1
    stripes = np.arange(64) // np.array([[1], [4]]) % 2 * np.full((64, 1, 1), 255)
    fine, bars = map(Image.fromarray, stripes.swapaxes(0, 1).astype(np.uint8))
    assert abs(decode(png(fine), 16).mean() - 127) < 20         # means, not every fourth
    assert decode(png(bars, "JPEG"), 16).std() > 80             # nor blurred


def test_sets_are_shared_by_lesions_mixed_by_name_and_come_back(tmp_path, lesions, monkeypatch):
    for name, n in lesions.counts().items():        # by a fixed order: a larger holds a smaller
        groups = sorted(lesions.of_class(name).groups, key=lambda group: hash_of(group.encode()))
        assert sorted(lesions.share(0.25).of_class(name).groups) == sorted(groups[:round(n / 4)])
    other = data.replace(lesions, classes=lesions.classes[::-1], info={})
    mixed = data.mix([lesions, other])
    assert mixed.classes == lesions.classes and mixed.info == lesions.info
    for one, half in ((lesions, slice(120)), (other, slice(120, 240))):
        assert mixed.take(half).fingerprint() == one.fingerprint()
    assert list(mixed.ids) == list(lesions.ids) * 2
    moles = data.replace(lesions, classes=["benign", "mole"])
    pytest.raises(UserError, data.mix, [lesions, moles]).match("mole are not among benign, malig")

    file, tree = tmp_path / "set.npy", tmp_path / "tree"
    lesions.save(file)
    again = data.load(file)
    assert again.fingerprint() == lesions.fingerprint() and list(again.ids) == list(lesions.ids)
    assert isinstance(again.images.base, np.memmap) and again.info == lesions.info
    pytest.raises(UserError, data.built_in(3, 8).part, "val").match("marked val")
    for name in ("images", "labels", "classes", "groups", "split"):
        other = data.replace(lesions, **{name: getattr(lesions, name)[::-1]})
        assert other.fingerprint() != lesions.fingerprint(), name
    for change in (dict(images=lesions.images[:, :32]), dict(images=lesions.images / 2),
                   dict(ids=lesions.ids[:3]), dict(labels=lesions.labels + 5),
                   dict(classes=["../a", "b"])):
        data.replace(lesions, **change).save(file)
        pytest.raises(UserError, data.load, file).match("set.npy is not an image set")
    monkeypatch.setattr(data.jobs, "write_json", lambda *_: 1 / 0)          # cut off here
    for path in (file, tree):
        pytest.raises(ZeroDivisionError, lesions.save, path)
    assert not file.with_suffix(".json").exists() and not tree.exists()
    pytest.raises(UserError, data.load, file).match("set.npy is not an image set")


def test_a_generator_gets_its_share_and_gives_any_form(tmp_path, done, refused, lesions):
    info = dict(dataset="that", digests=["x"], seen_ids=dict(two=["q"], that=["p"]))
    data.replace(lesions, info=info).save(tmp_path / "set.npy")
    export = ["data", "export", tmp_path / "set.npy", "--share", "1/2", "--out", tmp_path / "out"]
    assert "run_all.sh controls --data ... --synthetic MINE" in done(*export)
    half, again = lesions.part("train").share(0.5), data.load(tmp_path / "out", 32)
    assert sorted(again.digests()) == sorted(half.digests()) and again.counts() == half.counts()
    refused(["new folder"], *export)
    folder_of(tmp_path / ".val.part", pictures(["benign/left_by_a_kill.png"]))
    done(*export[:3], "--part", "val", "--out", tmp_path / "val")
    val = data.replace(lesions.part("val"), info=dict(dataset="two"))
    tree = data.load(tmp_path / "val")
    assert sorted(tree.digests()) == sorted(val.digests()) and "not used" not in str(tree.info)
    seen = dict(that=sorted(["p", *half.ids]), two=sorted(["q", *val.ids]), unknown=[*again.ids])
    digests = sorted(["x", *half.digests(), *val.digests()])
    assert data.what_was_seen(again, None, val) == dict(digests=digests, seen_ids=seen)

    notes = {"metadata.csv": "file_name,prompt\n0.png,a mole\n", "x.json": ""}
    folder_of(tmp_path / "flat", pictures(["x/0.png", "x/1.png"]) | notes)
    folder_of(tmp_path / "mine", pictures([f"{name}/{k}.png" for name in data.TWO for k in "123"]))
    folder_of(tmp_path / "mine", {"info.json": '{"generator": "acgan"}'})       # by our `sample`
    np.savez(tmp_path / "samples.npz", lesions.images[:5])
    data.replace(lesions, info=dict(generator="acgan")).save(tmp_path / "set.npy")
    for path, n, generator in (("flat", 2, "flat"), ("mine", 3, "mine"),
                               ("set.npy", 58, "acgan"), ("samples.npz", 5, "samples.npz")):
        one = data.load_synthetic(f"malignant={tmp_path / path}", 64)
        assert one.counts() == dict(malignant=n) and one.info["generator"] == generator
    assert (one.images == lesions.images[:5]).all() and one.ids[2] == "samples.npz/2"
    nevi = f"nevus={tmp_path / 'mine'}"
    pytest.raises(UserError, data.load_synthetic, nevi, 64).match("no class nevus: .* benign, mal")
    pytest.raises(UserError, data.load_synthetic, tmp_path / "samples.npz").match("CLASS=")


def test_lesions_stay_whole_in_splits_in_given_parts_and_under_limits():
    images = data.built_in(24, 8).take([0, 1, 1, *range(3, 24)])
    groups = np.array(["A", "A", "B", "B", *map(str, range(20))])
    images = data.replace(images, labels=images.labels * 0, groups=groups)
    for seed in range(40):
        assert len(set(data.with_split(images, 0.25, 0.25, seed).split[:4])) == 1
    whole = data.built_in(480, 8).take(np.random.default_rng(0).permutation(480))
    drawn = data.with_split(whole, val=0.1, test=0.2)
    for name, low, high in (("train", 40, 48), ("val", 4, 8), ("test", 10, 14)):
        part = drawn.split == name
        assert not set(drawn.groups[part]) & set(drawn.groups[~part])
        assert all(low <= n <= high for n in drawn.part(name).counts().values())
    assert (data.with_split(whole, seed=1).split != drawn.split).any()
    assert set(data.with_split(whole, test=7).part("test").counts().values()) <= {6, 7, 8}
    assert len(data.with_split(whole, test=1).part("test")) < 3 * 8

    given = np.array("train train val test test train train val".split())
    images = data.built_in(8, 8).take([0, 1, 2, 0, 4, 5, 2, 4])
    kept = data.with_split(data.replace(images, split=given, groups=np.array(list("abcdefgh"))))
    assert " ".join(kept.split) == "train val test test train" and kept.info["dropped"] == 3
    rows = data.lesion_rows(240, 0)
    for limit in range(3, 12):
        few = data.choose(rows, dict(NV=limit), seed=limit)
        taken = [row.lesion for row in few if row.label == "NV"]
        assert [row for row in rows if row.lesion in taken or row.label != "NV"] == few
        assert limit - 2 < len(taken) <= limit
    assert data.choose(rows, dict(NV=limit), seed=0) != few


def test_near_copies_of_test_images_are_found_and_left_out(lesions, tmp_path, done, monkeypatch):
    test = lesions.part("test")
    copy = data.replace(test, images=np.uint8(test.images * 0.9), split=np.full(len(test), "train"))
    near = data.near_test(data.mix([copy, test, test, copy])).reshape(4, -1)
    assert near[[0, 3]].mean() > 0.9 and not near[[1, 2]].any()
    val = data.replace(test, split=np.full(len(test), "val"))
    assert not data.near_test(data.mix([copy, copy, val])).any()        # but no test image
    grey = np.tile(np.arange(9, dtype=np.uint8) * 20, (4, 8, 1))
    grey[np.tri(4, 8, -1, bool), 8] = 0                 # its dHash changes in 0, 1, 2, 3 bits
    steps = data.replace(test, images=grey.repeat(9, 1).repeat(8, 2)[..., None].repeat(3, 3))
    assert len(data.near_pairs(steps)[0]) == 5          # all but the first and the last
    monkeypatch.setattr(data, "near_test", lambda images: images.split == "val")
    prepare = "data prepare --built-in 48 --size 8 --val 0.2 --out".split()
    for options, parts in (([], 3), (["--drop-near"], 2)):
        assert "leaves them out): 4\n" in done(*prepare, tmp_path / str(parts), *options)
        assert len(set(data.load(tmp_path / str(parts)).split)) == parts


def test_bilateral_and_gamma_follow_their_formulas_and_come_before_reduction(tmp_path, done):
    noise, ring = np.random.default_rng(0).integers(0, 255, (2, 12, 12, 3)).astype(np.uint8)
    space = np.square(np.mgrid[-4:5, -4:5]).sum(0)
    ring[:] = 100, 99, 98
    ring[:6, 2:11, 0] += np.uint8(110 * (space[3:] > 5))
    for image in (noise, ring):
        framed = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")
        there = framed[1:10, 6:15].astype(float)            # the square around (1, 6)
        colour = np.abs(there - image[1, 6]).sum(2)
        weights = np.exp(-0.5 * (colour ** 2 + space) / 75 ** 2) * (space <= 16)
        expected = np.tensordot(weights, there) / weights.sum()
        assert np.abs(data.bilateral(image[None])[0, 1, 6] - expected).max() <= 0.51
    flat = np.full((1, 16, 16, 3), 64, np.uint8)
    assert (data.enhance(flat) == round(255 * (64 / 255) ** (1 / 1.5))).all()
    done(*"data prepare --built-in 240 --size 8 --enhance --seed 3 --out".split(), tmp_path)
    drawn = data.with_split(data.built_in(240, 16, 3), 0.1, 0.2, 3)
    filtered = data.enhance(drawn.images)
    shown = np.array(Image.open(tmp_path / "before_after.png"))
    assert shown.shape == (35, 137, 3) and (shown[18:34, 18:34] == filtered[1]).all()
    reduced = [Image.fromarray(image).resize((8, 8), Image.BICUBIC) for image in filtered]
    made = data.load(tmp_path)
    assert (made.images == np.stack(reduced)).all() and (made.split == drawn.split).all()


def test_augmentation_turns_zooms_shifts_shears_mirrors_and_lights_each_image_by_itself():
    """The pixels of a picture tell where they were before: a map of each image."""
    torch.manual_seed(0)
    y, x = torch.meshgrid([(torch.arange(64) + 0.5) / 32 - 1] * 2, indexing="ij")
    picture = torch.stack([x, y, x * 0]).expand(300, 3, 64, 64) * 0.3
    seen = data.augment(picture, rotate=20, zoom=0.2, shift=0.1, shear=10, brightness=0) / 0.3
    corners = seen[:, :2, 24:40:15, 24:40:15].numpy()            # of the middle, 15 pixels apart
    right, down = corners.mean((2, 3)).T
    (a, c), (b, d) = [np.diff(corners, axis=k).mean((2, 3)).T * 32 / 15 for k in (3, 2)]
    mirror, scale = np.sign(a * d - b * c), np.hypot(a, c)
    angle = np.arctan2(mirror * c, mirror * a)
    slant = np.arctan(mirror * (a * b + c * d) / scale ** 2)
    assert abs(a * d - b * c) == pytest.approx(scale ** 2, rel=1e-3)
    assert 120 < (mirror > 0).sum() < 180
    lit = data.augment(torch.zeros(300, 3, 8, 8), brightness=0.1).mean((1, 2, 3)).numpy()
    drawn = {"rotate": (np.degrees(angle), 20), "zoom": (scale - 1, 0.2), "right": (right, 0.2),
             "down": (down, 0.2), "shear": (np.degrees(slant), 10), "light": (lit, 0.1)}
    for name, (values, limit) in drawn.items():             # uniform from -limit to limit
        assert abs(values).max() <= limit * 1.002, name
        assert np.std(values) == pytest.approx(limit / 3 ** 0.5, rel=0.1), name
    together = np.corrcoef([mirror, *[values for values, _ in drawn.values()]])
    assert abs(together - np.eye(7)).max() < 0.2
    assert data.augment(torch.full((300, 3, 8, 8), 0.99), brightness=0.1).max() == 1
    assert 0.01 < np.mean(np.abs(seen[:, 0].numpy()) > 0.98) < 0.04     # mirrored at the edges


def test_batches_are_the_images_with_their_labels_shuffled_anew_by_epoch_and_seed(lesions):
    images = data.replace(lesions, images=lesions.images.copy())
    images.images[:, 0, 0, 0] = np.arange(len(images))  # the red of a corner tells which it is

    def order(seed, start, n):
        batches = data.Batches(images, 8, seed, "cpu")
        batches.load_state_dict(dict(position=start))
        pixels, labels = map(torch.cat, zip(*[batches.next() for _ in range(n)]))
        which = pixels[:, 0, 0, 0].tolist()
        assert (pixels.permute(0, 2, 3, 1).numpy() == images.images[which]).all()
        assert (labels.numpy() == images.labels[which]).all() and pixels.dtype == torch.uint8
        assert batches.state_dict() == dict(position=start + n)
        return which

    through, other = order(1, 0, 30), order(2, 0, 15)           # of 120 images, 15 batches an epoch
    first, second, known = through[:120], through[120:], list(range(120))
    assert through[144:] == order(1, 18, 12)
    assert sorted(first) == sorted(second) == sorted(other) == known
    assert len({tuple(some) for some in (first, second, other, known)}) == 4
    assert data.Batches(images, 7, 1, "cpu").per_epoch == 17       # 119 of them
    assert data.scaled(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    pytest.raises(UserError, data.Batches, images, 1, 1, "cpu").match("--batch")
