import copy
import csv
import hashlib
import urllib.error
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import classify
import data
import metrics
from conftest import result_of

TINY = ["--batch", 16, "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are small: on a busy machine two threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.mark.parametrize("model, parameters", [("mobilenet", 3_206_976 + 2 * 1024 + 2), ("resnet18", 11_177_538),
                                               ("cnn", 93_248 + 8192 * 128 + 128 + 258)])
def test_parameter_counts_and_shape(model, parameters):
    net = classify.NETWORKS[model](2, 64).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net(torch.zeros(3, 3, 64, 64)).shape == (3, 2)


def test_mobilenet_halves_the_image_five_times():
    net = classify.mobilenet_v1(2)
    assert net[:-3](torch.zeros(1, 3, 64, 64)).shape == (1, 1024, 2, 2)


def test_it_learns(tmp_path, cli, prepared):
    """Built-in lesions are learnable: a few epochs of the small CNN beat the larger class by far on training images."""
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


def test_curves_are_means_over_an_epoch_and_validation_is_the_validation_part(tmp_path, cli, prepared, lesions,
                                                                              monkeypatch):
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
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, lr, betas: rates.append(lr) or adam(weights, lr, betas))
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
    counts = lesions.part("train").counts()
    expected = {name: counts[name] + len(m) - held for name, m, held in zip(counts, made, (3, 5))}
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
    refused(["at least two classes"], "classify", "train", "cnn", "--data", tmp_path / "one.npz",
            "--out", tmp_path / "run")
    data.built_in(8, 64).save(tmp_path / "unsplit.npz")
    refused(["no images marked 'train'", "prepare"], "classify", "train", "cnn", "--data", tmp_path / "unsplit.npz",
            "--out", tmp_path / "run")
    data.open_run(tmp_path / "gan", {})
    refused(["gan", "has not made its images yet"], *start, "--synthetic", tmp_path / "gan")
    odd = data.load(synthetic[0])
    odd.classes = ["wart"]
    odd.save(tmp_path / "odd.npz")
    refused(["wart", "not among"], *start, "--synthetic", tmp_path / "odd.npz")
    assert not (tmp_path / "run/result.json").exists()


def test_changed_option_on_a_half_done_job(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    refused(["lr 0.001 -> 0.01"], "classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "run",
            "--steps", 4, *TINY, "--lr", 0.01)
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


# ---------------------------------------------------------------------------------------------------------------------
# The networks of papers 001 to 004

def size_of(net, running=False):
    """Number of parameters; with `running` also BatchNorm's running statistics, which Keras counts."""
    values = [*net.parameters()] + [b for name, b in net.named_buffers() if running and "running" in name]
    return sum(value.numel() for value in values)


@pytest.mark.parametrize("model, keras, biases", [
    ("vgg16", 15_272_644, 0), ("vgg19", 20_582_340, 0), ("mobilenet_flat", 4_311_108, 0),
    ("mobilenet_v2", 3_602_372, 0), ("resnet50_flat", 25_718_532, 26_560)])
def test_flat_networks_have_the_papers_counts(model, keras, biases):
    """Keras counts running statistics too, and its ResNet-50 has 26,560 biases that do nothing, before BatchNorms."""
    net = classify.NETWORKS[model](4, 64)
    assert size_of(net, running=True) + biases == keras
    assert size_of(net.head) == keras - size_of(net.body, running=True) - biases
    assert net.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 4)


def test_derma_cnn_and_fastai_head():
    assert size_of(classify.derma_cnn(4)) == 521_758
    assert classify.derma_cnn(4, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    dropouts = [layer.p for layer in classify.derma_cnn(4, dropout=0.4) if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [0.4, 0.4]
    net = classify.resnet50(8, 32).eval()
    assert size_of(net.head) == 2_110_464 and size_of(net.body) == 23_508_032
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    assert size_of(classify.resnet50(8, width=16).body) < size_of(net.body) / 3
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(classify.MaxAndMean()(x), torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))


def test_inception_also_below_299_px():
    net = classify.inception(2, 80)
    assert size_of(net) == 24_348_900
    # training: main, auxiliary
    assert [logits.shape for logits in net(torch.zeros(2, 3, 80, 80))] == [(2, 2), (2, 2)]
    with pytest.raises(data.UserError, match="at least 75"):
        classify.inception(2, 64)


def test_trunk_is_the_dcgan_discriminator():
    import gan
    assert size_of(classify.trunk(1)) == 4_316_545 and size_of(classify.trunk(2)) == 4_324_738
    assert classify.trunk(2, 32, width=8)(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
    theirs, ours = gan.dcgan_discriminator(8).eval(), classify.trunk(1, 64, width=8).eval()
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (theirs, ours)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(3, 3, 64, 64) * 2 - 1
    assert torch.equal(classify.base(ours)(x), theirs[:-2](x)) and torch.equal(ours(x).flatten(), theirs(x))


def test_normalise():
    x = torch.tensor([[-1.0, 1.0, 0.0]]).view(1, 3, 1, 1)
    seen = classify.Normalise(*classify.INPUTS["imagenet"])(x).flatten()
    assert seen.tolist() == pytest.approx([-0.485 / 0.229, (1 - 0.456) / 0.224, (0.5 - 0.406) / 0.225])
    assert classify.Normalise(*classify.INPUTS["unit"])(x).flatten().tolist() == [0, 1, 0.5]


# ---------------------------------------------------------------------------------------------------------------------
# Pretrained weights

@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch cache of the test's own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


def test_published_mobilenet(tmp_path, cli, prepared, hub, monkeypatch, refused):
    """A zip of a .pth with foreign names in the same order, as it is published; its base stays frozen in training."""
    state = classify.mobilenet_v1(1000).state_dict()
    renamed = {("output." if name.startswith("84") else "unit.") + name: value for name, value in state.items()}
    torch.save(renamed, tmp_path / "plain.pth")
    raw = (tmp_path / "plain.pth").read_bytes()
    archive = tmp_path / f"mobilenet_w1-0895-{hashlib.sha1(raw).hexdigest()[:8]}.pth.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("mobilenet_w1.pth", raw)
    monkeypatch.setattr(classify, "MOBILENET_W1", archive.as_uri())
    assert train(cli, prepared, tmp_path / "run", "--size", 32, model="mobilenet_flat", steps=2)[0] == 0
    assert (hub / archive.name).exists()
    result, saved = result_of(tmp_path / "run"), torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    assert result["weights"] == "mobilenet_w1" and result["config"]["frozen_steps"] == 2
    assert all(torch.equal(saved["body." + name], value) for name, value in state.items() if "body." + name in saved)
    archive_in_cache = hub / archive.name
    archive_in_cache.rename(hub / archive.name.replace("0895-", "0895-0"))
    monkeypatch.setattr(classify, "MOBILENET_W1", archive.as_uri().replace("0895-", "0895-0"))
    refused(["checksum"], "classify", "train", "mobilenet_flat", "--data", prepared, "--out", tmp_path / "bad")


def test_torchvision_weights(tmp_path, cli, prepared, hub, monkeypatch, refused):
    body = classify.imagenet_body("mobilenet_v2")
    torch.save(dict(body.state_dict(), **{"classifier.1.weight": torch.zeros(1000, 1280)}), tmp_path / "v2.pth")
    assert train(cli, prepared, tmp_path / "run", "--size", 32, "--weights", tmp_path / "v2.pth", model="mobilenet_v2",
                 steps=2)[0] == 0
    saved = torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    assert all(torch.equal(saved["body." + name], value) for name, value in body.state_dict().items())
    start = ["classify", "train", "mobilenet_v2", "--data", prepared, "--out", tmp_path / "no"]
    refused(["v2.pth does not fit", "features.0"], *start[:2], "vgg16", *start[3:], "--weights", tmp_path / "v2.pth")
    refused(["IMAGENET1K_V1", "V9"], *start, "--weights", "V9")

    def offline(*_, **__):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    refused(["cannot download", "no network", str(hub), "--weights none"], *start)
    assert not (tmp_path / "no").exists()
    hub.mkdir(parents=True, exist_ok=True)
    (hub / "mobilenet_v2-b0353104.pth").write_bytes(b"cut off")
    refused(["damaged", "b0353104"], *start)


def test_from_scratch_is_said_and_learns_everywhere(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "run", "--size", 32, "--weights", "none", model="mobilenet_v2", steps=2)
    result = result_of(tmp_path / "run")
    assert result["weights"] == "none (from scratch)" and result["config"]["frozen_steps"] == 0
    saved = torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    assert int(saved["body.features.0.1.num_batches_tracked"]) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Learning rate finder and 1cycle

def small_body(*_):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 4), torch.nn.BatchNorm2d(8), torch.nn.ReLU())


@pytest.fixture
def small_resnet(monkeypatch, tmp_path):
    """resnet50 with a body of one convolution and 8 maps: all of its training, quickly. Returns its weights' file."""
    head = classify.nn.BatchNorm1d, classify.nn.Linear
    monkeypatch.setattr(classify, "imagenet_body", small_body)
    monkeypatch.setattr(classify.nn, "BatchNorm1d", lambda n: head[0](16 if n == 4096 else n))
    monkeypatch.setattr(classify.nn, "Linear", lambda n, m, bias=True: head[1](16 if n == 4096 else n, m, bias))
    monkeypatch.setattr(classify, "features", None)             # it looks for nn.Linear, which is no class here
    torch.save(small_body().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_one_cycle_is_torchs():
    for part, rate, momentum in ((0, 0.04, 0.95), (0.25, 1, 0.85), (1, 1e-5, 0.95)):
        assert classify.one_cycle(part, 1) == (pytest.approx(rate), pytest.approx(momentum))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1.0, (0.9, 0.99))
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=2000, pct_start=0.25, div_factor=25,
                                                 final_div_factor=4000)
    for step in range(2000):
        rate, momentum = classify.one_cycle(step / 2000, 1.0)
        group = optimizer.param_groups[0]
        assert rate == pytest.approx(group["lr"], abs=4e-3) and momentum == pytest.approx(group["betas"][0], abs=4e-4)
        optimizer.step()
        theirs.step()


def test_lr_finder_changes_nothing_and_finds_a_rate_that_works():
    def batches(k):
        """Bright and dark images, one in ten under the wrong label."""
        rng = np.random.default_rng(k)
        labels = rng.integers(0, 2, 16)
        pixels = rng.integers(0, 150, (16, 3, 16, 16)) + 100 * labels[:, None, None, None]
        return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels ^ (rng.random(16) < 0.1))
    args = SimpleNamespace(optimizer="adamw", beta1=0.9, beta2=0.99, augment="classical", precision="float32")
    torch.manual_seed(0)
    net = classify.cnn(2, 16)
    before, random = [p.clone() for p in net.parameters()], torch.get_rng_state()
    found = classify.find_lr(net, batches, args)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    assert torch.equal(random, torch.get_rng_state())
    lrs, losses = found["lrs"], found["losses"]
    assert len(lrs) == len(losses) and lrs[0] == pytest.approx(1e-7) and losses[-1] > 1.1 * min(losses)
    assert found["chosen"] == pytest.approx(lrs[int(np.argmin(losses))] / 10) and 1e-4 < found["chosen"] < 0.05
    linear = classify.find_lr(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2)), batches, args)
    # stopped when it exploded
    assert len(linear["losses"]) < 100 and linear["losses"][-1] > 4 * min(linear["losses"])
    result = {}
    for rate in (found["chosen"], 1e-6, 1.0):
        trial = copy.deepcopy(net)
        optimizer = classify.make_optimizer(trial, args, rate)
        result[rate] = np.mean([float(classify.train_step(trial, optimizer, *batches(k), args)[0])
                                for k in range(60)][40:])
    assert result[found["chosen"]] < 0.5 < 0.65 < min(result[1e-6], result[1.0])


def test_resnet_finds_its_rate_and_follows_the_cycle(tmp_path, cli, prepared, small_resnet, monkeypatch):
    rates, real = [], classify.set_rate
    monkeypatch.setattr(classify, "set_rate", lambda optimizer, *values: rates.append(values)
                        or real(optimizer, *values))
    run = ["--size", 16, "--weights", small_resnet, "--checkpoint-every", 1]
    status, _, err = train(cli, prepared, tmp_path / "once", *run, model="resnet50", steps=22)
    assert status == 0, err
    result = result_of(tmp_path / "once")
    found, trained = result["lr_finder"], rates[len(result["lr_finder"]["lrs"]):]
    frozen = result["config"]["frozen_steps"]
    assert frozen == 2 and len(trained) == 22                           # one epoch in eleven for the head alone
    assert trained[0] == trained[2] == (pytest.approx(found["chosen"] / 25), 0.95)
    assert max(rate for rate, _ in trained) == pytest.approx(found["chosen"]) and trained[-1][0] < found["chosen"] / 20
    rates.clear()
    train(cli, prepared, tmp_path / "parts", *run, "--stop-after", 1, model="resnet50", steps=22)
    train(cli, prepared, tmp_path / "parts", *run, "--stop-after", 9, model="resnet50", steps=22)
    train(cli, prepared, tmp_path / "parts", *run, model="resnet50", steps=22)
    assert result_of(tmp_path / "parts") == result and len(rates) == len(found["lrs"]) + 22     # found once
    train(cli, prepared, tmp_path / "given", *run, "--lr", 0.01, model="resnet50", steps=4)
    assert "lr_finder" not in result_of(tmp_path / "given")


def test_frozen_epoch_trains_the_head_and_batchnorm_alone(tmp_path, cli, prepared, small_resnet):
    before = torch.load(small_resnet, weights_only=True)
    train(cli, prepared, tmp_path / "run", "--size", 16, "--weights", small_resnet, "--lr", 0.01, "--frozen-epochs", 11,
          model="resnet50", steps=3)
    after = torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    same = {name for name, value in before.items() if torch.equal(value, after["body." + name])}
    assert same == {"0.weight", "0.bias"}


# ---------------------------------------------------------------------------------------------------------------------
# Synthetic images: how many, from which GAN

def test_vary_count(tmp_path, cli, prepared, lesions, synthetic, monkeypatch, refused):
    seen, batches, loads, load = {}, data.Batches, [], data.load

    def watched(images, *rest):
        seen[len(images)] = list(images.ids)
        return batches(images, *rest)
    monkeypatch.setattr(data, "Batches", watched)
    monkeypatch.setattr(data, "load", lambda *args: loads.append(args) or load(*args))
    command = ["--synthetic", *synthetic, "--vary", "count", 0, 7, 40]
    n = len(lesions.part("train"))
    status, _, err = train(cli, prepared, tmp_path / "row", *command, "--stop-after", 2)
    assert status == 0 and not (tmp_path / "row/result.json").exists()
    loads.clear()
    assert train(cli, prepared, tmp_path / "row", *command, steps=4)[0] == 0
    assert len(loads) == 3                                              # each set is read once for all runs
    result = result_of(tmp_path / "row")
    assert [sum(run["counts"].values()) - n for run in result["runs"].values()] == [0, 7, 40]
    assert list(result["runs"]) == ["count0", "count7", "count40"]
    assert result_of(tmp_path / "row/count7")["config"]["count"] == 7
    few, many = (ids[n:] for ids in (seen[n + 7], seen[n + 40]))
    assert few == [*many[:4], *many[20:23]]                             # nested: the first of each set, shared evenly
    alone = train(cli, prepared, tmp_path / "alone", "--synthetic", *synthetic, "--count", 7)
    assert alone[0] == 0 and result_of(tmp_path / "alone") == result_of(tmp_path / "row/count7")
    assert "done before" in train(cli, prepared, tmp_path / "row", *command)[1]
    again = ["classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "row", "--steps", 4, *TINY]
    refused(["begun with other options", "lr"], *again, *command, "--lr", 0.5)
    refused(["begun with other options", "synthetic"], *again, "--synthetic", synthetic[1], synthetic[0], *command[3:])


def test_vary_any_option_and_count_per(tmp_path, cli, prepared, lesions, synthetic, refused):
    assert train(cli, prepared, tmp_path / "drop", "--vary", "dropout", 0, 0.5, model="derma_cnn")[0] == 0
    runs = [result_of(tmp_path / f"drop/dropout{rate}") for rate in ("0", "0.5")]
    assert [run["config"]["dropout"] for run in runs] == [0, 0.5] and runs[0]["curves"] != runs[1]["curves"]
    n = len(lesions.part("train"))
    train(cli, prepared, tmp_path / "per", "--synthetic", *synthetic, "--count", 1000, "--per", 20_264)
    assert sum(result_of(tmp_path / "per")["counts"].values()) == n + round(1000 * n / 20_264)
    start = ["classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "no", *TINY]
    refused(["unrecognized", "--colour"], *start, "--vary", "colour", "red")
    refused(["--vary"], *start, "--vary", "lr")
    refused(["--count 500", "only 31"], *start, "--synthetic", *synthetic, "--count", 500)
    refused(["--count needs a --synthetic"], *start, "--count", 5)


def test_arms_differ_in_their_images_alone(tmp_path, cli, prepared, lesions, synthetic, monkeypatch, refused):
    seen, batches = [], data.Batches
    monkeypatch.setattr(data, "Batches", lambda images, *rest: seen.append(images) or batches(images, *rest))
    both = data.mix(replace(data.load(synthetic[0]), classes=lesions.classes), data.load(synthetic[1]))
    both.save(tmp_path / "both.npz")
    both = tmp_path / "both.npz"
    arms = ["--arm", "real", "--arm", "classical", "augment=classical", "--arm", "copies", "copies=1", "--arm", "gan", f"synthetic={both}",
            "--arm", "placebo", "shuffle", f"synthetic={both}", "--arm", "alone", "alone", f"synthetic={both}"]
    status, _, err = train(cli, prepared, tmp_path / "arms", "--share", 0.5, *arms)
    assert status == 0, err
    part, made = lesions.part("train").share(0.5), data.load(both)
    real, classical, copies, gan_arm, placebo, alone = seen
    assert list(real.ids) == list(classical.ids) == list(part.ids) and list(copies.ids) == [*part.ids, *part.ids]
    assert list(gan_arm.ids) == list(placebo.ids) == [*part.ids, *made.ids] and list(alone.ids) == list(made.ids)
    assert (placebo.labels[:len(part)] == part.labels).all()
    shuffled = placebo.labels[len(part):]
    assert (shuffled != made.labels).any() and sorted(shuffled) == sorted(made.labels)
    results = {name: result_of(tmp_path / "arms" / name) for name in ("real", "classical", "copies", "gan", "placebo", "alone")}
    assert len({result["steps"] for result in results.values()}) == len({result["config"]["tests"]["real"] for result in results.values()}) == 1
    assert results["classical"]["config"]["augment"] == "classical" and results["real"]["config"]["augment"] == "none"
    assert not list((tmp_path / "arms").rglob("model.pt")) and list(result_of(tmp_path / "arms")["runs"]) == list(results)
    single = train(cli, prepared, tmp_path / "single", "--share", 0.5, "--synthetic", both)
    assert single[0] == 0 and result_of(tmp_path / "single") == results["gan"]          # an arm is an ordinary run
    other = [word.replace(str(both), str(synthetic[0])) for word in arms]
    start = ["classify", "train", "cnn", "--data", prepared, "--steps", 4, *TINY]
    refused(["begun with other options", "arms"], *start, "--out", tmp_path / "arms", "--share", 0.5, *other)
    other = ["copies=2" if word == "copies=1" else word for word in arms]
    refused(["begun with other options", "arms"], *start, "--out", tmp_path / "arms", "--share", 0.5, *other)
    refused(["plain name"], *start, "--out", tmp_path / "no", "--arm", "..")
    refused(["either --vary or --arm"], *start, "--out", tmp_path / "no", "--arm", "x", "--vary", "batch", 8)
    refused(["--alone need a --synthetic"], *start, "--out", tmp_path / "no", "--arm", "x", "alone")
    refused(["plain name of its own"], *start, "--out", tmp_path / "no", "--arm", "x", "--arm", "x", "copies=1")
    refused(["unrecognized", "colour"], *start, "--out", tmp_path / "no", "--arm", "x", "colour=red")


def test_lr_finder_is_not_taken_in_by_a_lucky_first_batch(monkeypatch):
    fall = [0.9] + [2 - k / 100 for k in range(1, 70)] + [1.3 + k / 3 for k in range(30)]
    monkeypatch.setattr(classify, "train_step", lambda net, optimizer, k, args: [fall[k]])
    found = classify.find_lr(torch.nn.Linear(2, 2), lambda k: (k,), SimpleNamespace(optimizer="sgd", beta1=0, beta2=0))
    assert found["losses"][0] == min(found["losses"]) and 1e-4 < found["chosen"] < 1e-2


def test_lr_finder_runs_once_for_a_row(tmp_path, cli, prepared, small_resnet):
    train(cli, prepared, tmp_path / "row", "--size", 16, "--weights", "none", "--vary", "seed", 0, 1, model="resnet50",
          steps=2)
    first, second = (result_of(tmp_path / f"row/seed{seed}") for seed in (0, 1))
    assert second["config"]["lr"] == first["lr_finder"]["chosen"] and second["config"]["lr_from"] == "seed0"
    assert "lr_finder" not in second


@pytest.fixture
def dcgan(tmp_path, lesions):
    """What a finished DCGAN of width 8 leaves, as far as a classifier needs it."""
    import gan
    net = gan.dcgan_discriminator(8)
    data.save_model(tmp_path / "dcgan", dict(model="dcgan_cls", width=8), discriminator=net.state_dict())
    made = data.ImageSet(lesions.images[:9], lesions.labels[:9] * 0, ["unlabelled"], lesions.ids[:9], lesions.ids[:9],
                         info=dict(source="dcgan", digests=lesions.part("train").digests()))
    made.save(tmp_path / "dcgan/samples.npz")
    return tmp_path / "dcgan", net.state_dict()


def test_trunk_from_a_gan_and_its_probe(tmp_path, cli, prepared, lesions, dcgan, refused):
    job, before = dcgan
    for name, more in (("fine", []), ("probe", ["--probe"])):
        status, _, err = train(cli, prepared, tmp_path / name, "--from", job, "--width", 8, *more, model="trunk")
        assert status == 0, err
        result, after = result_of(tmp_path / name), torch.load(tmp_path / name / "model.pt", weights_only=True)["net"]
        same = {key for key in before if not key.startswith("12.") and torch.equal(before[key], after[key])}
        assert same == (set(before) - {"12.weight", "12.bias"} if more else set())
        assert result["weights"] == f"discriminator of dcgan ({classify.hash_of(job)})" and result["leaked"] == 0
    assert result["config"]["frozen_steps"] == 4 and after["12.weight"].shape == (2, 1024)
    start = ["classify", "train", "trunk", "--data", prepared, "--out", tmp_path / "no", *TINY]
    refused(["--probe needs --from"], *start, "--probe")
    refused(["--width 8"], *start, "--from", job)
    made = data.load(job)
    made.info["digests"] += lesions.part("test").digests()[:2]
    made.save(job / "samples.npz")
    refused(["trained on 2 of"], *start, "--from", job, "--width", 8)


def test_a_leak_can_be_allowed_and_is_counted(tmp_path, cli, prepared, lesions, synthetic, refused):
    made = data.load(synthetic[0])
    made.info["digests"] = lesions.digests()
    made.save(synthetic[0])
    n = len(lesions) - len(lesions.part("train"))
    status, out, _ = train(cli, prepared, tmp_path / "run", "--synthetic", synthetic[0], "--allow-leak")
    assert status == 0 and result_of(tmp_path / "run")["leaked"] == n and f"saw {n} of" in out
    assert train(cli, prepared, tmp_path / "other", "--synthetic", synthetic[1])[0] == 0
    assert result_of(tmp_path / "other")["leaked"] is None              # foreign digests: it cannot be told
    start = ["classify", "train", "cnn", "--data", prepared, "--out", tmp_path / "no", *TINY,
             "--synthetic", synthetic[0]]
    made.info["digests"] = data.resized(lesions, 32).digests()          # a GAN of 32 px is compared at 32 px
    data.resized(made, 32).save(synthetic[0])
    status, _, err = cli(*start)
    assert status == 2 and f"trained on {n} of" in err
    made.info.update(digests=["0"], ids=[str(k) for k in lesions.part("val").ids])
    made.save(synthetic[0])
    refused([f"trained on {len(lesions.part('val'))} of"], *start)
    # A CycleGAN upon a leaking GAN: its own real images are known by their pixels, the first GAN's only by their names.
    made.info.update(digests=lesions.part("train").digests(), ids=[str(k) for k in lesions.part("test").ids])
    data.resized(made, 64).save(synthetic[0])
    refused([f"trained on {len(lesions.part('test'))} of"], *start)


def test_through_a_smaller_size_and_augmented_test(tmp_path, cli, prepared, lesions, synthetic):
    args = SimpleNamespace(data=str(prepared), size=64, through=16, share=1.0, copies=0, shuffle=False, alone=False, synthetic=[str(synthetic[0])], mixed_test=None,
                           count=None, per=None, start=None, augmented_test=True, allow_leak=False, seed=0)
    training, val, tests, _ = classify.load_parts(args)
    expected = data.resized(data.resized(lesions, 16), 64)
    assert np.array_equal(val.images, expected.part("val").images)
    assert np.array_equal(tests["real"].images, expected.part("test").images)
    made = data.resized(data.resized(data.load(synthetic[0]), 16), 64)
    assert np.array_equal(training.images, np.concatenate([expected.part("train").images, made.images]))
    assert tests["augmented"].images.shape == tests["real"].images.shape
    assert (tests["augmented"].images != tests["real"].images).any()
    assert np.array_equal(tests["augmented"].images, classify.load_parts(args)[2]["augmented"].images)


def test_every_optimizer_and_augmentation(lesions):
    torch.manual_seed(0)
    pixels, labels = data.to_tensor(lesions.images[:8]), torch.from_numpy(lesions.labels[:8])
    for optimizer in classify.OPTIMIZERS:
        net = classify.derma_cnn(2)
        args = SimpleNamespace(optimizer=optimizer, augment="none", precision="float32", beta1=0.5, beta2=0.9)
        made = classify.make_optimizer(net, args, 0.01)
        assert type(made).__name__.lower() == optimizer and made.param_groups[0].get("betas", (0.5, 0.9)) == (0.5, 0.9)
        start = net[-1].bias.clone()
        classify.train_step(net, made, pixels, labels, args)
        assert not torch.equal(net[-1].bias, start)
    for name, options in classify.AUGMENT.items():
        assert options is None or data.augment(data.scaled(pixels), **options).shape == pixels.shape
    assert {recipe["augment"][0] for recipe in classify.RECIPES.values()} <= set(classify.AUGMENT)


# ---------------------------------------------------------------------------------------------------------------------
# Ranking and scoring

def test_rank(tmp_path, cli, prepared, lesions, refused):
    train(cli, prepared, tmp_path / "run")
    status, _, err = cli("classify", "rank", tmp_path / "run", "--data", prepared, "--class", "malignant",
                         "--out", tmp_path / "ranked")
    assert status == 0, err
    ranked, net = data.load(tmp_path / "ranked"), classify.load_net(tmp_path / "run")[0]
    sure = classify.probabilities(net, ranked.images, "cpu")[:, 1]
    assert set(ranked.ids) == set(lesions.part("train").of_class("malignant").ids) and (np.diff(sure) <= 1e-9).all()
    assert result_of(tmp_path / "ranked")["probability"] == pytest.approx(sure.tolist())
    refused(["no class 'wart'"], "classify", "rank", tmp_path / "run", "--data", prepared, "--class", "wart",
            "--out", tmp_path / "no")


def test_score(tmp_path, cli, prepared, lesions, synthetic, refused):
    train(cli, prepared, tmp_path / "run")
    for step in (10, 200):
        lesions.take(slice(step % 11, step % 11 + 30)).save(tmp_path / f"gan/snapshots/{step:06d}.npz")
    command = ["classify", "score", tmp_path / "run", "--data", prepared]
    status, _, err = cli(*command, synthetic[0], "--over-steps", tmp_path / "gan", "--out", tmp_path / "score")
    assert status == 0, err
    result, net = result_of(tmp_path / "score"), classify.load_net(tmp_path / "run")[0]
    assert result["net"] == "FD-cnn" and [row["set"] for row in result["rows"]] == ["benign.npz", 10, 200]
    train_part, made = lesions.part("train"), data.load(synthetic[0])
    n = result["floor_n"]
    assert n == min(len(train_part) // 2, 30, len(made)) and all(row["n"] == n for row in result["rows"])
    (x, _), (y, chances) = (classify.features(net, images.images, "cpu") for images in (train_part, made))
    assert x.shape == (len(train_part), 128) and np.allclose(chances, classify.probabilities(net, made.images, "cpu"))
    rng = np.random.default_rng(0)
    x, y = x[rng.permutation(len(x))], y[rng.permutation(len(y))[:n]]
    values, floors = zip(*(metrics.distance_with_floor(x, y, seed)[:2] for seed in range(5)))
    row = result["rows"][0]
    assert row["distance"] == pytest.approx(np.mean(values)) and row["spread"] == pytest.approx(np.std(values, ddof=1))
    real = x[np.random.default_rng(0).permutation(len(x))[:n]]          # one of the five draws, by the plain formula
    assert values[0] == pytest.approx(metrics.frechet(real, y)) and result["floor"] == pytest.approx(np.mean(floors))
    assert row["kid"] == pytest.approx(metrics.kid(x[:n], y))
    order = np.random.default_rng(0)
    order.permutation(len(x))
    assert row["is"] == pytest.approx(metrics.inception_score(chances[order.permutation(len(made))[:n]]))
    assert "bicubic" in result["provenance"]
    cli(*command, synthetic[0], "--class", "benign", "--out", tmp_path / "one class")
    assert "class benign" in result_of(tmp_path / "one class")["provenance"]
    refused(["no class 'malignant'"], *command, synthetic[0], "--class", "malignant", "--out", tmp_path / "no")
    refused(["give image sets"], *command, "--out", tmp_path / "no")
    refused(["different names"], *command, synthetic[0], synthetic[0], "--out", tmp_path / "no")
    refused(["snapshots"], *command, synthetic[0], "--over-steps", tmp_path / "run", "--out", tmp_path / "no")
    refused(["snapshots"], *command, "--over-steps", tmp_path / "run", "--out", tmp_path / "no")


def test_score_refuses_features_that_are_no_numbers(tmp_path, cli, prepared, synthetic, monkeypatch, refused):
    train(cli, prepared, tmp_path / "net")
    monkeypatch.setattr(classify, "features", lambda net, images, device: (np.full((len(images), 4), np.inf), np.full((len(images), 2), 0.5)))
    refused(["too large to be compared"], "classify", "score", tmp_path / "net", synthetic[0], "--data", prepared, "--out", tmp_path / "score")


def test_score_with_the_fids_inception(tmp_path, cli, prepared, synthetic, monkeypatch, refused):
    def offline():
        raise data.UserError("no FID weights")
    monkeypatch.setattr(metrics, "fid_network", offline)
    refused(["no FID weights", "a classifier job"], "classify", "score", "inception", "--data", prepared, synthetic[0],
            "--out", tmp_path / "fid")
    assert not (tmp_path / "fid").exists()
    monkeypatch.setattr(metrics, "fid_network", lambda: "the network")
    looks = []

    def fid_features(images, net, device):
        looks.append((net, len(images)))
        small = metrics.colour_features(images)[:, :20]
        return small, small * 3
    monkeypatch.setattr(metrics, "fid_features", fid_features)
    status, _, err = cli("classify", "score", "inception", "--data", prepared, synthetic[0], "--out", tmp_path / "fid")
    assert status == 0, err
    result = result_of(tmp_path / "fid")
    assert result["net"] == "FID" and looks[0][0] == "the network" and "299" in result["provenance"]
    assert [count for _, count in looks][1:] == [result["floor_n"]] and result["rows"][0]["is"][0] > 1


# --- Edits of a line that would change a result and nothing else

def test_predictions_csv_holds_the_truth_and_the_lesion(tmp_path, cli, prepared, lesions):
    train(cli, prepared, tmp_path / "run")
    test = lesions.part("test")
    with open(tmp_path / "run/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["lesion"], row["label"]) for row in rows] == [
        (*pair, test.classes[k]) for *pair, k in zip(test.ids, test.groups, test.labels)]
    seen = np.array([[row["benign"], row["malignant"]] for row in rows], float)
    assert result_of(tmp_path / "run")["metrics"]["real"] == metrics.evaluate(test.labels, seen, test.groups, test.classes)


def test_the_placebo_is_shuffled_by_the_seed(tmp_path, cli, prepared, synthetic, monkeypatch, lesions):
    seen, batches = [], data.Batches
    monkeypatch.setattr(data, "Batches", lambda images, *rest: seen.append(images.labels) or batches(images, *rest))
    data.mix(replace(data.load(synthetic[0]), classes=lesions.classes), data.load(synthetic[1])).save(tmp_path / "both.npz")
    for seed in (0, 1):
        train(cli, prepared, tmp_path / f"s{seed}", "--synthetic", tmp_path / "both.npz", "--shuffle", "--seed", seed, steps=1)
    assert (seen[0] != seen[1]).any()


def test_what_is_done_to_the_images_is_what_the_recipe_says(tmp_path, cli, prepared, monkeypatch):
    seen, augment = [], data.augment
    monkeypatch.setattr(data, "augment", lambda x, **options: seen.append(options) or augment(x, **options))
    train(cli, prepared, tmp_path / "run", "--augmented-test", "--augment", "keras", steps=1)
    assert seen == [classify.AUGMENT["keras_test"], classify.AUGMENT["keras"]]


def test_the_body_learns_after_the_frozen_steps(tmp_path, cli, prepared, small_resnet):
    before = torch.load(small_resnet, weights_only=True)
    train(cli, prepared, tmp_path / "run", "--size", 16, "--weights", small_resnet, "--lr", 0.01, model="resnet50", steps=22)
    after = torch.load(tmp_path / "run/model.pt", weights_only=True)["net"]
    assert not torch.equal(before["0.weight"], after["body.0.weight"])


def test_inceptions_second_head_counts_four_tenths():
    class Two(torch.nn.Linear):
        def forward(self, x):
            return (super().forward(x.flatten(1)),) * heads
    net, args, grads = Two(12, 2), SimpleNamespace(augment="none", precision="float32"), []
    for heads in (1, 2):
        optimizer = SimpleNamespace(zero_grad=lambda **_: net.zero_grad(), step=lambda: grads.append(net.bias.grad.clone()))
        classify.train_step(net, optimizer, torch.full((4, 3, 2, 2), 200, dtype=torch.uint8), torch.tensor([0, 0, 0, 1]), args)
    assert torch.allclose(grads[1], 1.4 * grads[0])


def test_optimisers_have_momentum_and_decay_matrices_alone():
    net = classify.derma_cnn(2)
    args = SimpleNamespace(optimizer="sgd", beta1=0.5, beta2=0.9)
    assert classify.make_optimizer(net, args, 0.01).defaults["momentum"] == 0.5
    args.optimizer = "adamw"
    decays = {p.ndim > 1: group["weight_decay"] for group in classify.make_optimizer(net, args, 0.01).param_groups for p in group["params"]}
    assert decays == {True: 0.01, False: 0}


def test_score_of_a_class_is_that_class_alone(tmp_path, cli, prepared, lesions):
    train(cli, prepared, tmp_path / "run")
    part = lesions.part("train")
    part.take(slice(None)).save(tmp_path / "mixed.npz"), part.of_class("benign").save(tmp_path / "one" / "mixed.npz")
    for data_, made, out, more in ((prepared, tmp_path / "mixed.npz", "a", ["--class", "benign"]), (tmp_path / "benign.npz", tmp_path / "one/mixed.npz", "b", [])):
        lesions.of_class("benign").save(tmp_path / "benign.npz")
        assert cli("classify", "score", tmp_path / "run", "--data", data_, made, *more, "--out", tmp_path / out)[0] == 0
    a, b = (result_of(tmp_path / name) for name in "ab")
    assert (a["rows"], a["floor"]) == (b["rows"], b["floor"])


def test_rank_and_score_see_images_as_the_network_did(tmp_path, cli, prepared, lesions):
    train(cli, prepared, tmp_path / "run", "--through", 16, "--size", 32)
    cli("classify", "rank", tmp_path / "run", "--data", prepared, "--class", "malignant", "--out", tmp_path / "ranked")
    ranked, (net, _) = data.load(tmp_path / "ranked"), classify.load_net(tmp_path / "run")
    small = data.resized(data.resized(ranked, 16), 32)
    assert result_of(tmp_path / "ranked")["probability"] == pytest.approx(classify.probabilities(net, small.images, "cpu")[:, 1].tolist())


def test_lr_of_takes_the_rate_that_the_other_job_found(tmp_path, cli, prepared, small_resnet, monkeypatch):
    common = ["--size", 16, "--weights", "none"]
    train(cli, prepared, tmp_path / "first", *common, model="resnet50", steps=2)
    train(cli, prepared, tmp_path / "then", *common, "--seed", 1, "--lr-of", tmp_path / "first", model="resnet50", steps=2)
    assert result_of(tmp_path / "then")["config"]["lr"] == result_of(tmp_path / "first")["lr_finder"]["chosen"]


def test_images_seen(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "run", steps=3)
    assert result_of(tmp_path / "run")["images_seen"] == 3 * 16


def test_batches_of_a_classifier_follow_the_seed(tmp_path, cli, prepared, monkeypatch):
    seeds, batches = [], data.Batches
    monkeypatch.setattr(data, "Batches", lambda images, batch, seed, device: seeds.append(seed) or batches(images, batch, seed, device))
    train(cli, prepared, tmp_path / "run", "--seed", 7, steps=1)
    assert seeds == [7]
