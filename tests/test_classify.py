"""Classifiers are built, trained, tested and used as their papers, or plain textbooks, have it."""
import copy
import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import models

import classify
import data
import gan
import jobs
import metrics

RECIPE = "size optimizer lr beta1 beta2 epochs batch augment schedule frozen_epochs".split()
STATED = {      # a second time: classes and the parameters for so many; the recipe, then its other keys
    "cnn": (2, 1_142_210, "64 adam 0.001 0.9 0.999 50.0 32 none constant 0.0"),
    "mobilenet": (2, 3_209_026, "64 adam 0.001 0.9 0.999 50.0 64 none constant 0.0"),
    "resnet18": (2, 11_177_538, "64 adam 0.001 0.9 0.999 100.0 32 none constant 0.0"),
    "trunk": (2, 4_324_738, "64 adam 0.0002 0.5 0.999 25.0 128 paper001 constant 0.0 width=64"),
    "resnet50": (8, 23_508_032 + 2_110_464, "256 adamw 0.0 0.9 0.99 11.0 64 fastai 1cycle 1.0 "
                 "weights=IMAGENET1K_V1 width=64"),
    "derma_cnn": (4, 521_758, "64 adam 0.0002 0.5 0.999 100.0 64 classical constant 0.0 dropout=0.2"),
    "inception": (2, 24_348_900, "299 adagrad 0.001 0.9 0.999 20.0 128 flips constant 0.0 weights=IMAGENET1K_V1")}
FLAT = dict(    # maps of the body; parameters as Keras counts, whose ResNet-50 has 26,560 biases more
    vgg16=(2048, 15_272_644), vgg19=(2048, 20_582_340), resnet50_flat=(8192, 25_691_972),
    mobilenet_flat=(4096, 4_311_108), mobilenet_v2=(5120, 3_602_372))
for key, (_, count) in FLAT.items():
    STATED[key] = 4, count, "64 adam 0.0002 0.5 0.999 100.0 64 classical constant inf weights=IMAGENET1K_V1"
RANGES = {      # degrees, then fractions; a mirror image half of the time is in all
    "classical": dict(rotate=180, zoom=0.1, shift=0.05, shear=0, brightness=0.1),
    "paper001": dict(rotate=180, zoom=0, shift=0, shear=10, brightness=0),
    "fastai": dict(rotate=10, zoom=0.1, shift=0, shear=0, brightness=0.2),
    "flips": dict(rotate=180, zoom=0, shift=0, shear=0, brightness=0)}
CLASSES = ["red", "blue", "green"]      # not by alphabet


# ---- Recipes and networks

def howard():
    """Table 1 of the MobileNets paper: a convolution, then 13 times depthwise and pointwise."""
    wide, strides = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024], [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    net, maps = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True)], 32
    for more, stride in zip(wide, strides):
        depthwise = nn.Conv2d(maps, maps, 3, stride, 1, groups=maps, bias=False)
        net += [depthwise, nn.BatchNorm2d(maps), nn.ReLU(True)]
        net += [nn.Conv2d(maps, more, 1, bias=False), nn.BatchNorm2d(more), nn.ReLU(True)]
        maps = more
    return net


def papers_layers(name):
    """As the paper or torchvision has them, of three classes."""
    conv, relu, linear, drop, flat = nn.Conv2d, nn.ReLU(), nn.Linear, nn.Dropout, nn.Flatten()
    dense = [relu, linear(256, 128), relu, drop(0.2), linear(128, 3)]
    if name in FLAT or name == "resnet50":
        body = howard()
        if name != "mobilenet_flat":
            theirs = models.get_model(name.removesuffix("_flat"), weights=None)
            body = [theirs.features] if hasattr(theirs, "features") else list(theirs.children())[:-2]
        fastais = [classify.MaxAndMean(), nn.BatchNorm1d(4096), drop(0.25), linear(4096, 512, False), relu,
                   nn.BatchNorm1d(512), drop(0.5), linear(512, 3, False)]
        return [*body, *(fastais if name == "resnet50" else [flat, linear(FLAT[name][0], 256), *dense])]
    first, second, third = [[conv(*maps, 3, 1, 1), nn.MaxPool2d(2), relu] for maps in ((3, 32), (32, 64), (64, 128))]
    return dict(
        cnn=[*first, *second, *third, flat, linear(8192, 128), relu, linear(128, 3)],
        mobilenet=[*howard(), nn.AdaptiveAvgPool2d(1), flat, linear(1024, 3)],
        derma_cnn=[conv(3, 60, 1), nn.MaxPool2d(2), relu, conv(60, 50, 3), nn.MaxPool2d(5), relu, flat,
                   linear(1800, 256), relu, drop(0.2), *dense[1:]],
        trunk=[gan.dcgan_discriminator(64, 3)], resnet18=[models.resnet18(num_classes=3)],
        inception=[models.inception_v3(num_classes=3, init_weights=False)])[name]


@pytest.mark.filterwarnings("ignore")       # torchvision's of Inception's initial weights
@pytest.mark.parametrize("name", STATED)
def test_a_network_has_the_papers_recipe_and_layers_and_takes_the_weights_that_are_named(monkeypatch, name):
    (classes, count, words), entry = STATED[name], classify.NETWORKS[name]
    stated = dict(zip(RECIPE, words.split())) | dict(word.split("=") for word in words.split()[len(RECIPE):])
    assert {key: str(value) for key, (value, source) in entry.recipe.items() if source} == stated
    config = {key: value for key, (value, _) in entry.recipe.items()} | dict(classes=CLASSES)
    with torch.device("meta"):                          # takes neither time nor memory
        counted, papers = entry.build(config | dict(weights="none", classes=CLASSES[:1] * classes)), papers_layers(name)
        get_model, asked = models.get_model, []

        def published(name, weights):
            asked.append(weights)
            net = get_model(name, weights=None)
            net.transform_input = True                  # as Inception has it with weights
            return net

        monkeypatch.setattr(models, "get_model", published)
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: asked.append("IMAGENET1K_V1") or {})
        net = entry.build(config)
    keras = [buffer for key, buffer in counted.named_buffers() if "running" in key and name in FLAT]
    assert sum(weight.numel() for weight in [*counted.parameters(), *keras]) == count
    assert asked == ["IMAGENET1K_V1"] * ("weights" in config) and not getattr(net, "transform_input", False)
    if name in FLAT or name == "resnet50":
        grey, means = torch.full((1, 3, 1, 1), 2 * 0.485 - 1), np.array([0.485, 0.456, 0.406])
        normal = (0.485 - means) / [0.229, 0.224, 0.225]
        assert net.colours(grey).flatten().tolist() == pytest.approx(normal, abs=1e-5)
        papers = [net.colours, *papers]
    ours, papers = [[str(layer) for part in parts for layer in part.modules() if not list(layer.children())]
                    for parts in ([net], papers)]
    assert ours == papers and entry.norm_learns == (name == "resnet50")


@pytest.mark.parametrize("name", STATED)
def test_a_step_of_every_network_mixes_no_devices(monkeypatch, name):
    """All tensors on a foreign device, at the paper's size: what can be proven of a GPU without one."""
    kinds, meta, recipe = [], torch.device("meta"), classify.NETWORKS[name].recipe
    monkeypatch.setattr(torch, "autocast", lambda kind, *_, **__: kinds.append(kind) or torch.enable_grad())
    config = {key: value for key, (value, _) in recipe.items()} | dict(batch=4, weights="none", precision="bf16")
    images = painted([0, 1, 2, 0], "meta", side=config["size"])
    with torch.device("cpu") if name == "cnn" else meta:            # build carries the cnn there
        m = classify.build(config | dict(model=name, classes=CLASSES, seed=0), images, None, meta)
    m.optimizer.step = lambda: None                     # torch's fused ones know real devices alone
    classify.freeze(m, False)
    values = classify.train_step(m, 0.1, 0.9)
    assert values.shape == (2,) and {values.device.type, *kinds} == {"meta"}
    assert all(weight.grad.is_meta for weight in m.net.parameters())
    with pytest.raises(NotImplementedError, match="out of meta"):       # the last line alone fetches
        classify.class_probabilities(m.net, images.images, meta)


# ---- Training, beside a textbook's

def painted(labels, name, part="", side=32, seed=0, **info):
    """Noisy pictures in the colour of their class, two of a lesion."""
    labels, rng = np.array(labels), np.random.default_rng(seed)
    noise = rng.integers(0, 50, (len(labels), side, side, 3))
    images = np.uint8(noise + 150 * np.eye(3, dtype=int)[[0, 2, 1]][labels][:, None, None])
    ids = np.array([f"{name}/{k:03d}.png" for k in range(len(labels))])
    lesions = np.array([f"{name} {label} {k // 2}" for k, label in enumerate(labels)])
    return data.ImageSet(images, labels, CLASSES, ids, lesions, np.full(len(labels), part, "U5"), info)


def tiny_training(monkeypatch, norm_learns=False, **options):
    """A Training of a small network in which train and eval mode differ."""
    def make(config):
        net = nn.Sequential()
        net.conv, net.norm, net.relu, net.flat = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        net.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(144, 3))
        if "second" in config:                          # a second head in training, as Inception's
            net.register_forward_hook(lambda net, _, y: (y, 2 * y.flip(1)) if net.training else y)
        return net

    monkeypatch.setitem(classify.NETWORKS, "tiny", classify.Network({}, make, norm_learns))
    config = dict(model="tiny", seed=3, batch=4, lr=0.004, beta1=0.7, beta2=0.97, steps=5, augment="none",
                  precision="float32", optimizer="adam", schedule="constant", frozen_steps=0) | options
    images = painted([0, 1, 2, 2, 1, 0, 0, 2, 1, 1], "tiny", side=8)
    images.images[:] = np.random.default_rng(1).integers(0, 256, images.images.shape)
    torch.manual_seed(7)
    return classify.build(config, images, None, torch.device("cpu"))


def fastai(steps, top):
    """fit_one_cycle: cosine up in a quarter from top / 25, down to top / 1e5; momentum the other way."""
    cycle = []
    for at in np.arange(steps) / steps:
        low, phase = (top / 25, 1 - at / 0.25) if at < 0.25 else (top / 1e5, (at - 0.25) / 0.75)
        height = (1 + np.cos(np.pi * phase)) / 2
        cycle.append((low + (top - low) * height, 0.95 - 0.1 * height))
    return cycle


def textbook(net, config, norm_learns, batches):
    """The same training, written out plainly."""
    weights, betas, frozen = list(net.parameters()), (config["beta1"], config["beta2"]), config["frozen_steps"]
    matrices, vectors = [w for w in weights if w.ndim > 1], [w for w in weights if w.ndim < 2]
    fastais = torch.optim.AdamW([dict(params=matrices), dict(params=vectors, weight_decay=0)], weight_decay=0.01, eps=1e-5)
    optimizer = dict(adam=torch.optim.Adam(weights), sgd=torch.optim.SGD(weights, momentum=betas[0]),
                     adagrad=torch.optim.Adagrad(weights), adamw=fastais)[config["optimizer"]]
    rates = [(config["lr"], betas[0])] * config["steps"]
    if config["schedule"] == "1cycle":
        rates = fastai(frozen, config["lr"]) + fastai(config["steps"] - frozen, config["lr"])
    for step, (rate, momentum) in enumerate(rates):
        net.norm.train(step >= frozen or norm_learns)
        for name, weight in net.named_parameters():
            weight.requires_grad_(step >= frozen or name.startswith(("head", "norm")[:1 + norm_learns]))
        for group in optimizer.param_groups:
            group |= dict(lr=rate, betas=(momentum, betas[1]))
        pixels, truth = batches.next()
        x = pixels / 127.5 - 1
        if config["augment"] != "none":
            x = data.augment(x, **RANGES[config["augment"]])
        with torch.autocast("cpu", torch.bfloat16, enabled=config["precision"] == "bf16"):
            logits = net(x)
        main, second = logits if "second" in config else (logits, logits)
        loss = F.cross_entropy(main.float(), truth) + 0.4 * ("second" in config) * F.cross_entropy(second.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("norm_learns, options", [
    (False, dict(augment="classical")), (False, dict(augment="paper001", optimizer="sgd", frozen_steps=2)),
    (True, dict(augment="fastai", optimizer="adamw", schedule="1cycle", frozen_steps=2)),
    (False, dict(augment="flips", optimizer="adagrad", second=True)),
    (False, dict(schedule="1cycle", frozen_steps=3)), (False, dict(precision="bf16", optimizer="sgd", lr=0.1)),
    (True, dict(frozen_steps=5, optimizer="sgd", schedule="1cycle"))])
def test_a_training_is_the_textbooks_whatever_is_tested_meanwhile(monkeypatch, tmp_path, norm_learns, options):
    m = tiny_training(monkeypatch, norm_learns, **options)
    plain, batches, val = copy.deepcopy(m.net), copy.copy(m.batches), painted([0, 1, 2, 1] * 70, "val", side=8)
    torch.manual_seed(5)
    classify.loop(m, tmp_path, classify.train_step, val, 0, range(5))      # tests after every other step
    torch.manual_seed(5)
    textbook(plain, m.config, norm_learns, batches)
    for (name, ours), theirs in zip(m.net.state_dict().items(), plain.state_dict().values()):
        assert torch.allclose(ours.double(), theirs.double(), rtol=0, atol=2e-6), name
    logits = plain.eval()(torch.tensor(val.images).permute(0, 3, 1, 2) / 127.5 - 1)
    loss = F.cross_entropy(logits, torch.tensor(val.labels)).item()
    assert [len(curve) for curve in m.record["curves"].values()] == [3] * 4 and m.batches.seed == 3
    assert m.record["curves"]["val_loss"][-1] == pytest.approx(loss, abs=1e-5)


def test_one_cycle_is_fastais_and_the_lr_finder_takes_the_lowest_smoothed_loss(monkeypatch):
    for steps in (40, 7, 1, 0):
        assert np.array(classify.one_cycle(steps, 0.5)) == pytest.approx(np.array(fastai(steps, 0.5)), abs=1e-9)
    m, lrs = tiny_training(monkeypatch, augment="classical", lr=0.0), np.geomspace(1e-7, 10, 100)
    before, state = str(m.net.state_dict()), torch.get_rng_state()
    assert len(classify.find_lr(m)["losses"]) > 10      # of a copy; nothing else has changed
    assert before == str(m.net.state_dict()) and not m.optimizer.state
    assert torch.equal(torch.get_rng_state(), state) and m.batches.position == 0

    script, asked = [0.9, *[3.0] * 9, *[1.2] * 30, *[2.5] * 30, *[500.0] * 30], []
    monkeypatch.setattr(classify, "train_step", lambda *args: asked.append(args[1:]) or (script[len(asked) - 1], 0))
    smoothed = [np.average(script[:k + 1], weights=0.98 ** np.arange(k, -1, -1)) for k in range(100)]
    stop = next(k for k in range(100) if smoothed[k] > 4 * min(smoothed[:k + 1]))
    lowest = 10 + np.argmin(smoothed[10:stop])          # the first tenth is luck, here the lowest of all
    assert classify.learning_rates(m) == [(pytest.approx(lrs[lowest] / 10), 0.7)] * 5
    assert asked == [(pytest.approx(rate), 0.7) for rate in lrs[:stop + 1]]
    script, asked[:], m.record["lr_finder"] = [1.0] + [float("nan")] * 9, [], {}
    with pytest.raises(jobs.UserError, match="give --lr"):
        classify.learning_rates(m)


# ---- Sets whose answer is known

TINY = ["cnn", "--steps", 4, "--batch", 8, "--size", 16]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """(image set whose classes anyone can tell, its file); the first image is of the last class."""
    parts = [painted(np.repeat([2, 0, 1], counts), part, part, seed=len(part), dataset="colours")
             for part, counts in (("train", (8, 12, 20)), ("val", (3, 2, 4)), ("test", (4, 5, 3)))]
    file = tmp_path_factory.mktemp("colours") / "images.npy"
    data.mix(parts).save(file)
    return data.load(file), file


@pytest.fixture
def train(monkeypatch, tmp_path, done, colours):
    """train(job, net, option, ...): what the job said, learned from (images) and left: result.json and more."""
    def call(job, *options):
        seen, batches, folder = [], data.Batches, tmp_path / job
        monkeypatch.setattr(data, "Batches", lambda *args: seen.append(args) or batches(*args))
        said = done("classify", "train", options[0], "--data", colours[1], *options[1:], "--out", folder)
        rows, state, model = list(csv.reader(open(folder / "predictions.csv"))), {}, folder / "model.pt"
        if model.exists():
            state = {key: value.tolist() for key, value in torch.load(model, weights_only=True)["net"].items()}
        return SimpleNamespace(folder=folder, said=said, images=seen[-1][0], rows=rows, state=state,
                               **jobs.read_json(folder / "result.json"))

    return call


def at(images, *sizes):
    for size in sizes:
        images = data.resized(images, size)
    return images


def by_hand(state, images):
    """(what a cnn's last layer sees, probabilities) of an image set."""
    x, state = torch.tensor(images.images).permute(0, 3, 1, 2) / 127.5 - 1, {k: torch.tensor(w) for k, w in state.items()}
    for k in "036":
        x = F.max_pool2d(F.conv2d(x, state[f"{k}.weight"], state[f"{k}.bias"], padding=1).relu(), 2)
    hidden = F.linear(x.flatten(1), state["10.weight"], state["10.bias"]).relu()
    return hidden.numpy(), F.linear(hidden, state["12.weight"], state["12.bias"]).softmax(1).numpy()


def test_a_known_set_is_trained_on_tested_predicted_ranked_and_scored(monkeypatch, tmp_path, done, refused, train, colours):
    whole, file = colours
    job = train("job", *TINY, "--lr", 2e-4, "--steps", 150, "--batch", 20, "--through", 8, "--seed", 4)
    test, (header, *rows) = whole.part("test"), job.rows
    truth = [CLASSES[label] for label in test.labels]
    assert job.metrics["real"]["confusion"] == np.diag([5, 3, 4]).tolist() and len(job.curves["loss"]) == 50
    assert "accuracy 1.000 (always the larger class: 0.417), balanced 1.000, n 12" in job.said
    assert "of blue found: 1.000" in job.said and job.counts == dict(red=12, blue=20, green=8)
    assert header == ["test", "image", "lesion", "label", *CLASSES]
    assert [row[:4] for row in rows] == [["real", *row] for row in zip(test.ids, test.groups, truth)]
    assert np.array([row[4:] for row in rows], float) == pytest.approx(by_hand(job.state, at(test, 8, 16))[1], abs=1e-5)

    (tmp_path / "deep" / "er").mkdir(parents=True)
    files = [tmp_path / "red.webp", tmp_path / "deep/blue.PNG", tmp_path / "deep/er/green.jpg"]
    for path, k in zip([*files, tmp_path / "deep/notes.gif"], (4, -1, 0, 0)):
        Image.fromarray(test.images[k]).resize((100, 70)).save(path)
    said = done("classify", "predict", job.folder, files[0], tmp_path / "deep", "--csv", tmp_path / "out.csv")
    header, *rows = csv.reader(open(tmp_path / "out.csv"))
    photos = data.replace(test, images=np.stack([data.decode(path.read_bytes(), 8) for path in files]))
    assert header == ["image", "called", *CLASSES] and "not a diagnosis" in said
    assert [row[:2] for row in rows] == [[str(path), path.stem] for path in files]
    assert np.array([row[2:] for row in rows], float) == pytest.approx(by_hand(job.state, at(photos, 16))[1], abs=1e-5)
    assert all(f"{path}: {path.stem} " in said for path in files)
    refused(["holds no images"], "classify", "predict", job.folder, job.folder)

    shades, best = painted([0, 1, 0, 0, 2, 0, 0], "shades", "train"), [2, 5, 6, 0, 3]
    shades.images[[0, 2, 3, 5, 6], :, :, 2] = np.array([200, 110, 255, 140, 170])[:, None, None]      # blue in red
    data.mix([shades, test]).save(tmp_path / "shades.npy")
    done("classify", "rank", job.folder, "--data", tmp_path / "shades.npy", "--class", "red", "--out", tmp_path / "rank")
    sure, result = by_hand(job.state, at(shades.take(best), 8, 16))[1][:, 0], jobs.read_json(tmp_path / "rank/result.json")
    assert (np.diff(sure) < -1e-3).all() and result["probability"] == pytest.approx(sure, abs=1e-5)
    assert data.load(tmp_path / "rank").fingerprint() == shades.take(best).fingerprint()

    drawn, calls, distances = painted([1] * 9, "drawn", side=24, seed=9), [], metrics.distances
    drawn.save(tmp_path / "drawn.npy")
    painted([1] * 10, "early", side=24).save(tmp_path / "gan/snapshots/000005.npy")
    monkeypatch.setattr(metrics, "distances", lambda *args: calls.append(args) or distances(*args))
    done("classify", "score", job.folder, tmp_path / "drawn.npy", "--over-steps", tmp_path / "gan", "--data", file,
         "--class", "blue", "--seed", 6, "--out", tmp_path / "score")
    result = jobs.read_json(tmp_path / "score/result.json")
    assert result["net"] == "FD-cnn" and [(row["set"], row["n"]) for row in result["rows"]] == [("drawn", 9), ("000005", 9)]
    (x, y, probabilities, seed), _ = calls
    blue = by_hand(job.state, at(whole.part("train").of_class("blue"), 24, 8, 16))[0]
    for ours, theirs in zip((x, y, probabilities), (blue, *by_hand(job.state, at(drawn, 8, 16)))):
        assert seed == 6 and np.sort(ours, 0) == pytest.approx(np.sort(theirs, 0), abs=1e-5)


def test_synthetic_images_are_added_held_back_shuffled_judged_and_named(tmp_path, train, colours):
    real, test = [colours[0].part(name) for name in ("train", "test")]
    a = painted([0] * 24, "a", side=16, digests=[], generator="dcgan_cls")
    b = painted([2, 1] * 8, "b", side=16, digests=[], generator="acgan")
    c = painted([1] * 5, "c", side=16, digests=[], generator="dcgan_cls")
    for name, images in dict(a=a, b=b, c=c).items():
        images.save(tmp_path / f"{name}.npy")
    add = [*TINY, "--synthetic", *(tmp_path / f"{name}.npy" for name in "abc")]
    job = train("mixed", *add, "--use", "1/4", "--mixed-test", 4, 2, 0, "--share", "1/2", "--through", 8)
    parts = [real.share(0.5), a.take(slice(5)), b.take(slice(4)), c.take(slice(1))]
    held = [test, a.take(slice(20, 24)), b.take(slice(14, 16))]
    tests = {name: data.mix([at(one, 8, 16) for one in sets]) for name, sets in dict(real=[test], mixed=held).items()}
    assert job.images.fingerprint() == job.config["train"] == data.mix([at(one, 8, 16) for one in parts]).fingerprint()
    assert job.config["tests"] == {name: one.fingerprint() for name, one in tests.items()}
    assert [row[:2] for row in job.rows[1:]] == [[name, key] for name, one in tests.items() for key in one.ids]
    assert job.metrics["mixed"]["n"] == 18 and job.generators == dict(dcgan_cls={}, acgan={})
    assert job.config | dict(synthetic=["acgan", "dcgan_cls"], share="1/2", use="1/4", shuffle=False) == job.config

    truth, ids = [*real.labels, *a.labels, *b.labels, *c.labels], [*real.ids, *a.ids, *b.ids, *c.ids]
    placebos = [train(f"placebo{seed}", *add, "--shuffle", "--seed", seed).images for seed in (0, 1)]
    assert len({tuple(labels) for labels in (truth, placebos[0].labels, placebos[1].labels)}) == 3
    for images in placebos:
        assert images.labels[:40].tolist() == truth[:40] and sorted(images.labels) == sorted(truth)
        assert images.ids.tolist() == ids
    alone = train("alone", *add, "--alone")
    assert alone.images.fingerprint() == data.mix([a, b, c]).fingerprint() and list(alone.metrics) == ["real"]

    data.replace(b, info={}).save(tmp_path / "diffusion")           # from here on of one's own generator
    data.replace(a, info={}).save(tmp_path / "reds")
    np.savez(tmp_path / "flow.npz", arr_0=c.images)
    job = train("own", *TINY, "--synthetic", tmp_path / "diffusion", f"red={tmp_path}/reds/red", f"blue={tmp_path}/flow.npz")
    assert job.config["synthetic"] == sorted(job.generators) == ["diffusion", "flow.npz", "red"]
    assert job.counts == dict(red=12 + 24, blue=20 + 8 + 5, green=8 + 8) and job.leaked == 0
    judged = metrics.judge_generated(data.replace(a, classes=["red"]), at(real, 16), at(test, 16))
    assert job.generators["red"] == judged and {"diversity", "distinctness", "collapsed", "closer_to_train"} <= judged.keys()


def test_leaks_are_told_by_pixels_by_ids_of_the_same_set_and_of_the_start(tmp_path, train, refused, colours, made, prepared):
    whole, file = colours
    held = at(whole.take(whole.split != "train"), 8)    # 9 to validate with, 12 to test, as the GAN sees them
    seen, own = held.digests().tolist(), at(whole.part("train"), 8).digests().tolist()
    fakes = painted([1] * 8, "fakes", side=8)
    for k, (images, info, leaked) in enumerate([
            (fakes, dict(digests=[seen[0], seen[1], seen[12]]), 3), (fakes, dict(digests=own), 0),
            (data.replace(fakes, images=held.images[-8:]), {}, 8),
            (fakes, dict(digests=seen[:1], seen_ids=dict(colours=held.ids[3:9].tolist())), 7),
            (data.replace(fakes, ids=held.ids[:8]), dict(digests=[], seen_ids=dict(other=held.ids.tolist())), 0)]):
        data.replace(images, info=info).save(tmp_path / f"{k}.npy")
        options = [*TINY, "--synthetic", tmp_path / f"{k}.npy"]
        if leaked:
            refused([f"{leaked} validation and test"], "classify", "train", *options, "--data", file, "--out", tmp_path / "no")
        job = train(f"job{k}", *options, *["--allow-leak"][:leaked])
        assert job.leaked == leaked and (f"LEAK: its GANs saw {leaked} " in job.said) == (leaked > 0)

    shutil.copytree(made["benign"], tmp_path / "leaky")
    samples = data.load(made["benign"])
    samples.info["digests"] += data.load(prepared).part("val").digests()[:2].tolist()
    samples.save(tmp_path / "leaky" / "samples.npy")
    start = ["trunk", "--data", prepared, "--steps", 1, "--batch", 8, "--width", 4, "--from", tmp_path / "leaky"]
    refused(["leaky", "2 validation"], "classify", "train", *start, "--out", tmp_path / "no")
    assert train("yes", *start, "--allow-leak").leaked == 2


# ---- Jobs

def test_a_gans_discriminator_rests_or_learns_and_two_and_two_steps_are_four(tmp_path, train, done, refused, made, prepared):
    saved = torch.load(made["benign"] / "model.pt", weights_only=True)["discriminator"]
    start = ["trunk", "--data", prepared, "--width", 4, "--batch", 8, "--from", made["benign"], "--epochs", 1]
    rested = train("rested", *start, "--frozen-epochs", 2)
    assert rested.config["frozen_steps"] == rested.config["steps"] == len(rested.images) // 8
    assert all(rested.state[key] == saved[key].tolist() for key in rested.state if not key.startswith("12."))
    start += ["--frozen-epochs", 0.25, "--steps", 4, "--schedule", "1cycle"]
    other = ["resnet50", "--weights", "none", "--steps", 4, "--batch", 8, "--size", 32, "--width", 8, "--lr", 0.01]
    for name, net in dict(start=start, resnet=other, finder=[*TINY, "--lr", 0, "--augment", "classical"]).items():
        done("classify", "train", net[0], "--data", prepared, *net[1:], "--out", tmp_path / "cut" / name, "--stop-after", 2)
        a, b = [train(f"{folder}{name}", net[0], "--data", prepared, *net[1:]) for folder in ("", "cut/")]
        assert (a.state, a.rows, a.curves, a.lr_finder) == (b.state, b.rows, b.curves, b.lr_finder)
        assert a.config["frozen_steps"] == (name == "start") and a.seconds
    assert a.config["lr"] == 0 and train("of", *TINY, "--lr-of", tmp_path / "finder").config["lr"] == a.lr_finder["chosen"]
    options = ["--data", prepared, "--out", tmp_path / "no"]
    refused(["no lr finder"], "classify", "train", *TINY, "--lr-of", tmp_path / "of", *options)
    refused(["--width"], "classify", "train", *start, "--width", 8, *options)


def test_published_weights_rest_and_a_finished_network_needs_no_file(monkeypatch, tmp_path, train, done, refused, colours):
    theirs = classify.mobilenet_v1(1000).state_dict()
    files = [{f"other.{key}": value for key, value in theirs.items()}]
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: files.pop())
    job = train("job", "mobilenet_flat", "--size", 32, "--batch", 8, "--epochs", 0.2)
    body = {key.removeprefix("body."): value for key, value in job.state.items() if key.startswith("body.")}
    assert job.config["frozen_steps"] == 1 and len(body) == len(theirs) - 2
    assert all(value == theirs[key].tolist() for key, value in body.items())
    Image.fromarray(colours[0].images[0]).save(tmp_path / "photo.png")
    assert "photo.png: " in done("classify", "predict", job.folder, tmp_path / "photo.png")      # builds it without the file

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    refused(["no network", "checkpoints", "--weights none"], "classify", "train", "mobilenet_v2", "--data", colours[1],
            "--size", 32, "--batch", 8, "--out", tmp_path / "no")


def test_the_seed_decides_the_weights_and_what_is_asked_is_kept(tmp_path, train, refused, colours):
    a, b, c = [train(f"seed{k}", "derma_cnn", "--steps", 1, "--batch", 8, "--lr", 1e-12, "--seed", seed, "--size", 32)
               for k, seed in enumerate((0, 0, 1))]
    first = [np.array(job.state["0.weight"]) for job in (a, b, c)]
    assert a.state == b.state and np.abs(first[0] - first[2]).max() > 0.01
    job = train("forgotten", "cnn", "--dry-run", "--forget", "--size", 16, "--augment", "flips")
    recipe = dict(size=16, optimizer="adam", lr=1e-3, beta1=0.9, beta2=0.999, batch=32, augment="flips", schedule="constant")
    kept = dict(model="cnn", seed=0, precision="float32", shuffle=False, alone=False, through=None, share="1", use="1",
                classes=CLASSES, start="none", steps=2, dry_run_of=50, frozen_steps=0, synthetic=[])
    assert {key: job.config[key] for key in job.config.keys() - {"train", "tests"}} == recipe | kept
    assert not job.state and job.cost["step_seconds"] > 0
    refused(["--forget"], "classify", "predict", job.folder, __file__)


def test_a_test_part_that_lacks_a_class_is_said_and_not_fatal(tmp_path, train, colours):
    whole, _ = colours
    whole.take((whole.split != "test") | (whole.labels == 0)).save(tmp_path / "lacks.npy")
    assert "balanced undefined: a class is missing" in train("job", *TINY, "--data", tmp_path / "lacks.npy").said


@pytest.mark.parametrize("words, options", [
    ("--mixed-test needs", ["cnn", "--mixed-test", 5]), ("--synthetic", ["cnn", "--shuffle"]),
    ("--synthetic", ["cnn", "--alone"]), ("--synthetic", ["cnn", "--use", "1/2"]),
    ("75 px", ["inception", "--weights", "none"]), ("does not exist", ["cnn", "--data", "nowhere"]),
    ("--size", ["cnn", "--size", 3]), ("--augment", ["cnn", "--augment", "all"]),
    ("--schedule", ["cnn", "--schedule", "cycle"]), ("--weights none", ["resnet50", "--width", 8])])
def test_bad_options_end_in_one_line(tmp_path, refused, colours, words, options):
    name, *rest = options
    refused([words], "classify", "train", name, "--data", colours[1], "--size", 64, *TINY[1:5], *rest, "--out", tmp_path / "job")
