import csv

import numpy as np
import pytest
import torch
from PIL import Image

import classify
import data
from conftest import result_of

TINY = ["--batch", 16, "--device", "cpu"]


def train(cli, prepared, out, *more, model="cnn", steps=4):
    return cli("classify", "train", model, "--data", prepared, "--out", out, "--steps", steps, *TINY, *more)


@pytest.fixture
def synthetic(tmp_path, lesions):
    """Two sets that stand for GAN samples: other lesions than the real ones, one class each."""
    folders = []
    for name in lesions.classes:
        made = data.to_binary(data.built_in(60, 64, seed=77)).of_class(name)
        ids = np.array([f"gan/{k}" for k in made.ids])
        made = data.ImageSet(made.images, made.labels * 0, [name], ids, ids, info=dict(source=name, digests=["0"]))
        made.save(tmp_path / f"{name}.npz")
        folders.append(tmp_path / f"{name}.npz")
    return folders


@pytest.mark.parametrize("model, parameters", [("mobilenet", 3_206_976 + 2 * 1024 + 2), ("resnet18", 11_177_538), ("cnn", 93_248 + 8192 * 128 + 128 + 258)])
def test_parameter_counts_and_shape(model, parameters):
    net = classify.NETWORKS[model](2, 64).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net(torch.zeros(3, 3, 64, 64)).shape == (3, 2)


def test_mobilenet_halves_the_image_five_times():
    net = classify.mobilenet_v1(2)
    assert net[:-3](torch.zeros(1, 3, 64, 64)).shape == (1, 1024, 2, 2)


def test_it_learns(tmp_path, cli, prepared):
    """Built-in lesions are learnable: a few epochs of the small CNN beat the larger class by far on its training images."""
    train(cli, prepared, tmp_path / "run", "--lr", 2e-3, steps=60)
    result = result_of(tmp_path / "run")
    assert result["curves"]["accuracy"][-1] > 0.75 and result["curves"]["loss"][-1] < result["curves"]["loss"][0]


@pytest.mark.parametrize("model", ["cnn", "mobilenet"])
def test_two_and_two_steps_are_four(tmp_path, cli, prepared, model):
    train(cli, prepared, tmp_path / "once", model=model)
    train(cli, prepared, tmp_path / "parts", "--stop-after", 2, model=model)
    assert not (tmp_path / "parts/result.json").exists()
    status, out, _ = train(cli, prepared, tmp_path / "parts", model=model)
    assert status == 0 and "going on from step 2" in out
    assert result_of(tmp_path / "once") == result_of(tmp_path / "parts")
    assert (tmp_path / "once/predictions.csv").read_bytes() == (tmp_path / "parts/predictions.csv").read_bytes()
    train(cli, prepared, tmp_path / "again", "--seed", 1, model=model)
    assert result_of(tmp_path / "again")["curves"] != result_of(tmp_path / "once")["curves"]


def test_batchnorm_is_trained_in_every_step(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "run", model="mobilenet", steps=12)             # more than one epoch
    net = torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    assert {int(value) for name, value in net.items() if name.endswith("num_batches_tracked")} == {12}


def test_curves_are_means_over_an_epoch_and_validation_is_the_validation_part(tmp_path, cli, prepared, lesions, monkeypatch):
    step = classify.train_step
    numbers = iter(range(100))

    def numbered(*arguments):
        step(*arguments)
        return torch.tensor([float(next(numbers)), 0.5])
    monkeypatch.setattr(classify, "train_step", numbered)
    epoch = len(lesions.part("train")) // 16
    train(cli, prepared, tmp_path / "run", steps=2 * epoch + 1)
    curves = result_of(tmp_path / "run")["curves"]
    assert curves["loss"] == [pytest.approx(np.arange(k * epoch, (k + 1) * epoch).mean()) for k in (0, 1)] + [2 * epoch]
    saved, val = torch.load(tmp_path / "run/model.pt", weights_only=True), lesions.part("val")
    net = classify.cnn(2, 64)
    net.load_state_dict(saved["net"])
    predicted = classify.probabilities(net, val.images, "cpu").argmax(1)
    assert curves["val_accuracy"][-1] == pytest.approx((predicted == val.labels).mean())


def test_options_reach_the_training(tmp_path, cli, prepared, monkeypatch):
    rates, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr: rates.append(lr) or adam(parameters, lr))
    train(cli, prepared, tmp_path / "plain", "--lr", 0.02)
    train(cli, prepared, tmp_path / "augmented", "--lr", 0.02, "--augment", "classical")
    train(cli, prepared, tmp_path / "half", "--precision", "bf16")
    assert rates == [0.02, 0.02, 0.001]
    assert result_of(tmp_path / "plain")["curves"] != result_of(tmp_path / "augmented")["curves"]


def test_a_network_that_broke_down_is_no_result(tmp_path, cli, prepared):
    status, _, err = train(cli, prepared, tmp_path / "run", "--lr", 1e30, steps=2)
    assert status == 2 and "not a number" in err and not (tmp_path / "run/model.pt").exists()


def test_classical_augmentation_resumes_exactly_too(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "once", "--augment", "classical")
    train(cli, prepared, tmp_path / "parts", "--augment", "classical", "--stop-after", 3)
    train(cli, prepared, tmp_path / "parts", "--augment", "classical")
    assert result_of(tmp_path / "once") == result_of(tmp_path / "parts")


def test_hybrid_training_and_both_test_sets(tmp_path, cli, prepared, lesions, synthetic):
    status, _, err = train(cli, prepared, tmp_path / "run", "--synthetic", *synthetic, "--mixed-test", 3, 5)
    assert status == 0, err
    result, made = result_of(tmp_path / "run"), [data.load(path) for path in synthetic]
    expected = {name: count + len(m) - held for (name, count), m, held in zip(lesions.part("train").counts().items(), made, (3, 5))}
    assert result["counts"] == expected
    real, mixed = result["metrics"]["real"], result["metrics"]["mixed"]
    assert real["n"] == len(lesions.part("test")) and mixed["n"] == real["n"] + 8
    assert np.sum(real["confusion"], 1).tolist() == list(lesions.part("test").counts().values())
    with open(tmp_path / "run/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["test"] == "real" for row in rows) == real["n"] and len(rows) == real["n"] + mixed["n"]
    held = {str(k) for m, h in zip(made, (3, 5)) for k in m.ids[-h:]}
    assert {row["image"] for row in rows if row["test"] == "mixed"} - set(map(str, lesions.ids)) == held
    for row in rows:
        assert float(row["benign"]) + float(row["malignant"]) == pytest.approx(1, abs=2e-6)


def test_predictions_do_not_depend_on_the_batch(prepared, lesions):
    torch.manual_seed(0)
    net, images = classify.mobilenet_v1(2), lesions.images[:20]
    whole = classify.probabilities(net, images, "cpu")
    assert np.allclose(whole, classify.probabilities(net, images, "cpu", batch=3), atol=1e-5)


def test_a_gan_that_saw_a_test_image_is_refused(tmp_path, lesions, prepared, synthetic, refused):
    made = data.load(synthetic[0])
    made.info["digests"] = lesions.part("test").digests()[:2] + lesions.part("train").digests()[:5]
    made.save(synthetic[0])
    command = ["classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "run", "--synthetic", *synthetic]
    refused(["trained on 2 of the validation and test images"], *command)
    made.info["digests"] = lesions.part("val").digests()[:3]
    made.save(synthetic[0])
    refused(["trained on 3 of the validation and test images"], *command)


def test_bad_classifier_options(tmp_path, prepared, synthetic, refused, lesions):
    start = ["classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "run"]
    refused(["--mixed-test needs one number"], *start, "--synthetic", *synthetic, "--mixed-test", 3)
    refused(["malignant.npz holds only 29"], *start, "--synthetic", *synthetic, "--mixed-test", 3, 400)
    refused(["too few for a batch of 9999"], *start, "--batch", 9999)
    refused(["invalid choice", "hugenet"], "classify", "train", "hugenet")
    lesions.of_class("benign").save(tmp_path / "one.npz")
    refused(["at least two classes"], "classify", "train", "cnn", "--data", tmp_path / "one.npz", "--out", tmp_path / "run")
    data.built_in(8, 64).save(tmp_path / "unsplit.npz")
    refused(["no images marked 'train'", "prepare"], "classify", "train", "cnn", "--data", tmp_path / "unsplit.npz", "--out", tmp_path / "run")
    data.open_run(tmp_path / "gan", {})
    refused(["gan", "has not made its images yet"], *start, "--synthetic", tmp_path / "gan")
    odd = data.load(synthetic[0])
    odd.classes = ["wart"]
    odd.save(tmp_path / "odd.npz")
    refused(["wart", "not among"], *start, "--synthetic", tmp_path / "odd.npz")
    assert not (tmp_path / "run/result.json").exists()


def test_changed_option_on_a_half_done_job(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    refused(["lr 0.001 -> 0.01"], "classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "run", "--steps", 4, *TINY, "--lr", 0.01)
    assert (tmp_path / "run/checkpoint.pt").exists()


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, cli, prepared, monkeypatch):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    good = (tmp_path / "run/checkpoint.pt").read_bytes()
    monkeypatch.setattr(classify, "train_step", lambda *_: torch.full((2,), float("nan")))
    status, _, err = train(cli, prepared, tmp_path / "run")
    assert status == 2 and "not a number" in err and (tmp_path / "run/checkpoint.pt").read_bytes() == good


def test_predict_ones_own_photo(tmp_path, cli, prepared, lesions, refused):
    train(cli, prepared, tmp_path / "run")
    Image.fromarray(lesions.images[0]).resize((300, 200)).save(tmp_path / "my photo.jpg")
    status, out, _ = cli("classify", "predict", tmp_path / "run", tmp_path / "my photo.jpg")
    assert status == 0 and "benign" in out and "malignant" in out and "not a diagnosis" in out
    status, out, err = cli("classify", "predict", tmp_path / "run", tmp_path / "nothing.jpg", tmp_path / "my photo.jpg")
    assert status == 2 and "nothing.jpg" in err and "my photo.jpg: " in out                # the good ones are answered
    refused(["is a cnn, not one of wgan_gp"], "gan", "sample", tmp_path / "run", "--out", tmp_path / "more.npz")
    refused(["model.pt"], "classify", "predict", tmp_path, tmp_path / "my photo.jpg")
