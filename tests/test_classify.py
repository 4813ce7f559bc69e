"""Classifiers have the papers' parameter counts, see only what they may, and go on exactly."""
import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import result_of
from PIL import Image
from torch import nn

import classify
import data
import gan

TINY = ["--steps", 4, "--batch", 8]


def parameters(net):
    return sum(weight.numel() for weight in net.parameters())


def build(name, classes, **options):
    config = {key: value for key, (value, _) in classify.NETWORKS[name].recipe.items()}
    return classify.NETWORKS[name].build(config | dict(n_classes=classes, weights="none") | options)


@pytest.mark.parametrize("name, classes, count", [
    ("resnet18", 2, 11_177_538), ("mobilenet", 2, 3_209_026), ("trunk", 2, 4_324_738),
    ("derma_cnn", 4, 521_758), ("inception", 2, 24_348_900)])
def test_parameter_counts(name, classes, count):
    assert parameters(build(name, classes)) == count


@pytest.mark.parametrize("name, keras", [
    ("vgg16", 15_272_644), ("mobilenet_flat", 4_311_108), ("mobilenet_v2", 3_602_372)])
def test_paper_003s_networks_have_keras_counts(name, keras):
    """Keras counts BatchNorm's running statistics too, and its ResNet has biases that torchvision's lacks."""
    net = build(name, 4)
    buffers = sum(buffer.numel() for key, buffer in net.named_buffers() if key.endswith(("mean", "var")))
    assert parameters(net) + buffers == keras


def test_fastais_head_and_paper_002s_network():
    net = build("resnet50", 8)
    assert parameters(net.head) == 2_110_464 and parameters(net.body) == 23_508_032


@pytest.mark.parametrize("name", classify.NETWORKS)
def test_every_network_gives_logits_and_names_the_source_of_every_number(name):
    size = dict(inception=80).get(name, 64)
    options = dict(width=8) if name in ("trunk", "resnet50") else {}
    net = build(name, 3, size=size, **options).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, size, size)).shape == (2, 3)
    assert all(source for _, source in classify.NETWORKS[name].recipe.values())


def test_the_trunk_is_the_dcgans_discriminator():
    old, new = gan.dcgan_discriminator(4), build("trunk", 2, width=4)
    new[:-1].load_state_dict(old[:-2].state_dict())
    x = torch.randn(3, 3, 64, 64)
    assert torch.equal(old[:-2].eval()(x), new[:-1].eval()(x))


def test_imagenet_networks_get_imagenets_colours():
    net = classify.for_imagenet(nn.Identity(), nn.Identity())
    grey = torch.full((1, 3, 2, 2), 2 * 0.485 - 1)
    assert net(grey)[0, :, 0, 0].tolist() == pytest.approx(
        [0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225], abs=1e-5)


# ---- Schedules

def test_one_cycle_is_fastais():
    rates = classify.one_cycle(40, 1.0)
    lrs, momenta = zip(*rates)
    assert lrs[0] == pytest.approx(1 / 25) and max(lrs) == pytest.approx(1.0) == lrs[10]
    assert momenta[0] == pytest.approx(.95) and momenta[10] == pytest.approx(.85)

    optimizer = torch.optim.Adam([torch.zeros(1)])
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=41, pct_start=11 / 41, div_factor=25,
                                                 final_div_factor=4000, base_momentum=.85, max_momentum=.95)
    for lr, momentum in rates:
        group = optimizer.param_groups[0]
        assert (lr, momentum) == pytest.approx((group["lr"], group["betas"][0]), abs=1e-12)
        optimizer.step()
        torchs.step()

    def fastai(at):
        if at < .25:
            return 1 + (1 / 25 - 1) * (1 + np.cos(np.pi * at / .25)) / 2
        return 1e-5 + (1 - 1e-5) * (1 + np.cos(np.pi * (at - .25) / .75)) / 2

    assert lrs == pytest.approx([fastai(k / 40) for k in range(40)], abs=1e-6)
    assert classify.one_cycle(0, 1.0) == [] and len(classify.one_cycle(1, 1.0)) == 1


def test_the_lr_finder_finds_a_rate_that_works_is_not_fooled_by_luck_and_changes_nothing(tmp_path, done, prepared):
    train = ["classify", "train", "resnet50", "--data", prepared, "--size", 32, "--width", 8, "--weights", "none", *TINY]
    done(*train, "--out", tmp_path / "found")
    found = result_of(tmp_path / "found")["lr_finder"]
    assert 5e-8 < found["chosen"] < 0.5 and len(found["lrs"]) == len(found["losses"])
    lowest = 10 + int(np.argmin(found["losses"][10:]))
    assert found["chosen"] == pytest.approx(found["lrs"][lowest] / 10)
    done(*train, "--lr-of", tmp_path / "found", "--out", tmp_path / "taken")
    assert result_of(tmp_path / "taken")["config"]["lr"] == found["chosen"]
    a, b = (list(csv.reader(open(tmp_path / name / "predictions.csv"))) for name in ("found", "taken"))
    assert a == b


# ---- What a training sees

@pytest.mark.parametrize("name, options", [
    ("cnn", ["--augment", "classical", "--schedule", "1cycle"]), ("mobilenet", ["--precision", "bf16"]),
    ("resnet50", ["--size", 32, "--width", 8, "--weights", "none"])])
def test_two_and_two_steps_are_four(tmp_path, done, prepared, name, options):
    train = ["classify", "train", name, "--data", prepared, *TINY, *options, "--keep"]
    done(*train, "--out", tmp_path / "whole")
    done(*train, "--out", tmp_path / "parts", "--stop-after", 2)
    done(*train, "--out", tmp_path / "parts")
    assert result_of(tmp_path / "whole") == result_of(tmp_path / "parts")


def test_a_small_network_learns(tmp_path, done, prepared):
    out = done("classify", "train", "cnn", "--data", prepared, "--steps", 60, "--batch", 16, "--out", tmp_path / "job")
    result = result_of(tmp_path / "job")
    assert result["curves"]["accuracy"][-1] > 0.8 and "balanced" in out


def test_a_test_part_that_lacks_a_class_is_said_and_not_fatal(tmp_path, done, lesions):
    lacks = lesions.take((lesions.split != "test") | (lesions.labels == 0))
    lacks.save(tmp_path / "lacks.npy")
    said = done("classify", "train", "cnn", "--data", tmp_path / "lacks.npy", "--out", tmp_path / "net", *TINY)
    assert "balanced undefined: a class is missing" in said


def test_images_of_a_gan_are_added_held_back_and_shuffled(tmp_path, done, prepared, lesions, made):
    train = ["classify", "train", "cnn", "--data", prepared, *TINY, "--synthetic", made["benign"], made["malignant"]]
    real = lesions.part("train").counts()
    done(*train, "--mixed-test", 4, 6, "--use", 1, "--of", 2, "--out", tmp_path / "mixed")
    result = result_of(tmp_path / "mixed")
    assert result["counts"] == dict(benign=real["benign"] + 10, malignant=real["malignant"] + 9)
    assert result["metrics"]["mixed"]["n"] == result["metrics"]["real"]["n"] + 10 and result["leaked"] == 0
    done(*train, "--alone", "--shuffle", "--seed", 3, "--out", tmp_path / "placebo")
    assert result_of(tmp_path / "placebo")["counts"] == dict(benign=24, malignant=24)
    done("classify", "train", "cnn", "--data", prepared, *TINY, "--copies", 1, "--share", 0.5, "--out", tmp_path / "copies")
    half = lesions.part("train").share(0.5).counts()
    assert result_of(tmp_path / "copies")["counts"] == {name: 2 * n for name, n in half.items()}


def test_a_gan_that_saw_test_images_is_refused_by_pixels_and_by_name(tmp_path, done, refused, prepared, lesions):
    gan_job = ["gan", "train", "dcgan_cls", "--width", 4, "--steps", 1, "--batch", 8, "--class", "benign"]
    done(*gan_job, "--data", prepared, "--leak", "--out", tmp_path / "leaky")
    train = ["classify", "train", "cnn", "--data", prepared, *TINY]
    refused(["--allow-leak"], *train, "--synthetic", tmp_path / "leaky", "--out", tmp_path / "job")
    done(*train, "--synthetic", tmp_path / "leaky", "--allow-leak", "--out", tmp_path / "allowed")
    held_out = lesions.split != "train"
    assert result_of(tmp_path / "allowed")["leaked"] == (held_out & (lesions.labels == 0)).sum()

    renamed = data.replace(lesions, ids=np.array([f"x{k}" for k in range(len(lesions))]),
                           split=np.full(len(lesions), "", "U5"))
    renamed.save(tmp_path / "renamed.npy")                      # the same pixels under other names
    done(*gan_job, "--data", tmp_path / "renamed.npy", "--out", tmp_path / "other")
    refused(["would be flattered"], *train, "--synthetic", tmp_path / "other", "--out", tmp_path / "job")
    touched = data.replace(renamed, ids=lesions.ids, images=lesions.images // 2)
    touched.save(tmp_path / "touched.npy")                      # other pixels under the same names
    done(*gan_job, "--data", tmp_path / "touched.npy", "--out", tmp_path / "named")
    refused(["would be flattered"], *train, "--synthetic", tmp_path / "named", "--out", tmp_path / "job")


def test_test_images_passed_off_as_synthetic_are_refused(tmp_path, refused, prepared, lesions):
    stolen = lesions.part("test").of_class("benign")
    data.replace(stolen, split=np.full(len(stolen), "", "U5"), info={}).save(tmp_path / "stolen.npy")
    refused(["would be flattered"], "classify", "train", "cnn", "--data", prepared, *TINY,
            "--synthetic", tmp_path / "stolen.npy", "--out", tmp_path / "job")


def test_a_placebo_has_its_labels_permuted_and_through_a_size_all_are_blurred(monkeypatch, tmp_path, done, prepared, made):
    seen, batches = [], data.Batches

    def note(images, *rest):
        seen.append(images)
        return batches(images, *rest)

    monkeypatch.setattr(data, "Batches", note)
    train = ["classify", "train", "cnn", "--data", prepared, *TINY, "--synthetic", made["benign"], made["malignant"]]
    done(*train, "--alone", "--shuffle", "--out", tmp_path / "placebo")
    truth = np.array([0] * 24 + [1] * 24)
    assert sorted(seen[0].labels) == sorted(truth) and 12 < (seen[0].labels != truth).sum() < 36
    done("classify", "train", "cnn", "--data", prepared, *TINY, "--through", 16, "--out", tmp_path / "blurred")
    small = data.resized(data.resized(data.load(prepared).part("train"), 16), 64)
    assert (seen[1].images == small.images).all()
    data.resized(small, 16).save(tmp_path / "small.npy")        # as a GAN's: not enlarged before it is blurred
    made = classify.at_size(data.load(tmp_path / "small.npy"), SimpleNamespace(size=64, through=16))
    assert (made.images == data.resized(data.resized(small, 16), 64).images).all()


def test_predictions_csv_holds_truth_lesion_and_chances_of_every_test_image(tmp_path, done, prepared, lesions):
    done("classify", "train", "cnn", "--data", prepared, *TINY, "--out", tmp_path / "job")
    header, *rows = csv.reader(open(tmp_path / "job" / "predictions.csv"))
    test = lesions.part("test")
    assert header == ["test", "image", "lesion", "label", *test.classes] and len(rows) == len(test)
    assert [row[1] for row in rows] == list(test.ids) and [row[2] for row in rows] == list(test.groups)
    assert [row[3] for row in rows] == [test.classes[k] for k in test.labels]
    assert all(sum(map(float, row[4:])) == pytest.approx(1) for row in rows)


# ---- Starting from a GAN, resting bases

def test_a_probe_trains_the_head_alone_and_a_pretrained_trunk_starts_as_the_discriminator(tmp_path, done, prepared, made):
    train = ["classify", "train", "trunk", "--data", prepared, "--width", 4, *TINY, "--from", made["benign"], "--keep"]
    done(*train, "--probe", "--out", tmp_path / "probe")
    saved, _ = gan.load_run(made["benign"])
    probe = torch.load(tmp_path / "probe" / "model.pt", weights_only=True)["net"]
    body = [name for name in probe if not name.startswith("12.")]
    assert all(torch.equal(probe[name], saved["discriminator"][name]) for name in body)
    done(*train, "--out", tmp_path / "whole")
    whole = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)["net"]
    assert not torch.equal(whole["0.weight"], saved["discriminator"]["0.weight"])


def test_a_wrong_width_is_refused(tmp_path, refused, prepared, made):
    refused(["--width"], "classify", "train", "trunk", "--data", prepared, "--width", 8, *TINY,
            "--from", made["benign"], "--out", tmp_path / "job")


# ---- Finished networks

def test_predict_rank_and_score(tmp_path, done, refused, prepared, lesions, made):
    done("classify", "train", "cnn", "--data", prepared, "--steps", 30, "--batch", 16, "--keep", "--out", tmp_path / "job")
    Image.fromarray(lesions.images[0]).resize((200, 150)).save(tmp_path / "photo.jpg")
    out = done("classify", "predict", tmp_path / "job", tmp_path / "photo.jpg")
    assert "benign" in out and "not a diagnosis" in out
    (tmp_path / "text.jpg").write_text("no picture")
    refused(["text.jpg"], "classify", "predict", tmp_path / "job", tmp_path / "text.jpg")

    done("classify", "rank", tmp_path / "job", "--data", prepared, "--class", "malignant", "--out", tmp_path / "ranked")
    sure = json.loads((tmp_path / "ranked" / "result.json").read_text())["probability"]
    assert sure == sorted(sure, reverse=True) and len(data.load(tmp_path / "ranked")) == len(sure)

    done("classify", "score", tmp_path / "job", made["benign"], "--data", prepared, "--out", tmp_path / "score")
    result = result_of(tmp_path / "score")
    row = result["rows"][0]
    assert result["net"] == "FD-cnn" and row["distance"] > row["floor"] > 0 and row["set"] == "benign"


@pytest.mark.parametrize("words, options", [
    (["--mixed-test"], ["cnn", "--mixed-test", 5]), (["--synthetic"], ["cnn", "--shuffle"]),
    (["75 px"], ["inception", "--weights", "none"]), (["does not exist"], ["cnn", "--data", "nowhere"]),
    (["--size"], ["cnn", "--size", 3]), (["--augment"], ["cnn", "--augment", "all"]), (["--schedule"], ["cnn", "--schedule", "cycle"])])
def test_bad_options_end_in_one_line(tmp_path, refused, prepared, words, options):
    name, *rest = options
    refused(words, "classify", "train", name, "--data", prepared, "--size", 64, *TINY, *rest, "--out", tmp_path / "job")
