"""Classifiers are built, trained, tested and used as their papers, or plain textbooks, have it."""
import copy
import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.transforms.v2 import Normalize

import classify
import data
import jobs
import metrics
import reading

TEXT = (ROOT / "tests/networks.txt").read_text()        # what the papers state
STATED = dict(re.findall(r"^(\w.*)\n((?:  .*\n)+)", TEXT, re.MULTILINE))
CLASSES = ["red", "blue", "green"]      # not by alphabet
TINY = ["cnn", "--steps", 4, "--batch", 8, "--size", 16]


def recipe(name, **changes):
    config = {key: value for key, (value, _) in classify.NETWORKS[name].recipe.items()}
    return config | dict(model=name, classes=CLASSES, seed=0) | changes


@pytest.mark.filterwarnings("ignore")       # torchvision's of Inception's initial weights
@pytest.mark.parametrize("key", [key for key in STATED if "layers" in key])
def test_networks_have_the_papers_recipe_and_layers_named_weights_one_device(monkeypatch, key):
    name, _, classes, count, *keras = key.split()
    entry, files = classify.NETWORKS[name], [{}]
    ours = {f"{key}={value}" for key, (value, source) in entry.recipe.items() if source}
    assert ours == set(STATED[name + " recipe"].split())
    assert entry.norm_learns == (name == "resnet50")

    for module in (torch.hub, models._api):
        monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: files.pop())
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    with torch.device("meta"):                          # takes neither time nor memory
        papers = eval(f"[{STATED[key]}]", vars(nn) | vars(classify) | vars(models))
        net = entry.build(recipe(name, classes=[""] * int(classes), weights="DEFAULT"))
    assert not getattr(net, "transform_input", False)
    counted = [*net.parameters(), *(values for values in net.buffers() if keras and values.ndim)]
    assert f"{sum(values.numel() for values in counted):,}" == count
    if keras or name == "resnet50":
        image, normal = torch.rand(1, 3, 2, 2), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert torch.allclose(net.colours(2 * image - 1), Normalize(*normal)(image), atol=1e-5)
        papers = [net.colours, *papers]
    ours, theirs = ([str(layer) for layer in whole.modules() if not list(layer.children())]
                    for whole in (net, nn.ModuleList(papers)))
    assert ours == theirs

    # A step with all tensors on a foreign device: what can be proven without a GPU
    kinds, meta = [], torch.device("meta")
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *_, **__: kinds.append(kind) or torch.enable_grad())
    config = recipe(name, batch=4, weights="none", precision="bf16")
    config["size"] = min(config["size"], 250)           # Inception's second head is made for 299
    images = painted([0, 1, 2, 0], "meta", side=config["size"])
    with torch.device("cpu") if name == "cnn" else meta:            # build carries the cnn there
        m = classify.build(config, images, None, meta)
    assert len(files) == ("weights" not in entry.recipe)    # asked for once, by the named weights
    m.optimizer.step = lambda: None                     # torch's fused ones know real devices alone
    values = classify.train_step(m, 0.1, 0.9)
    assert values.shape == (2,) and {values.device.type, *kinds} == {"meta"}
    assert all(weight.grad.is_meta for weight in m.net.parameters())
    with pytest.raises(NotImplementedError, match="out of meta"):   # the last line alone fetches
        classify.class_probabilities(m.net, images.images, meta)


def test_what_the_layers_do_not_show(monkeypatch):
    x = torch.randn(2, 5, 3, 3)
    both = torch.cat([x.flatten(2).max(2)[0], x.flatten(2).mean(2)], 1)
    assert torch.allclose(classify.MaxAndMean()(x), both)
    net = classify.NETWORKS["derma_cnn"].build(recipe("derma_cnn", dropout=0.35))
    assert str(net).count("Dropout(p=0.35") == 2
    with torch.device("meta"):
        net = classify.NETWORKS["inception"].build(recipe("inception", size=75, weights="none"))
    [spread] = net.AuxLogits._forward_pre_hooks.values()
    assert spread(None, [torch.zeros(1, 768, 3, 3)]).shape == (1, 768, 17, 17)
    many = painted([0] * 300, "many", side=1)
    thinned = [classify.thinned(many, SimpleNamespace(dry_run=dry)) for dry in (False, True)]
    assert list(map(len, thinned)) == [300, 75]
    monkeypatch.setattr(metrics, "inception_features", lambda device: lambda x: (x, device))
    features, *names = classify.feature_extractor("inception", "cpu")
    assert features(many) == (many.images, "cpu") and names == ["FID", "inception"]


def painted(labels, name, part="", side=32, seed=0, **info):
    """Noisy pictures in the colour of their class, two of a lesion."""
    labels, rng = np.array(labels), np.random.default_rng(seed)
    paint = 150 * np.eye(3, dtype=int)[[0, 2, 1]][labels][:, None, None]
    images = np.uint8(paint + rng.integers(0, 50, (len(labels), side, side, 3)))
    ids = np.array([f"{name}/{k:03d}.png" for k in range(len(labels))])
    split = np.full(len(labels), part, "U5")
    return data.ImageSet(images, labels, CLASSES, ids, ids[np.arange(len(ids)) // 2], split, info)


def tiny_training(monkeypatch, norm_learns=False, **options):
    """A Training of a small network in which train and eval mode differ."""
    def make(config):
        head = nn.Sequential(nn.Dropout(0.3), nn.Linear(144, 3))
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), head)
        if "second" in config:                          # a second head in training, as Inception's
            net.register_forward_hook(lambda net, _, y: (y, 2 * y.flip(1)) if net.training else y)
        return net

    monkeypatch.setitem(classify.NETWORKS, "tiny", classify.Network({}, make, norm_learns))
    config = recipe("cnn", model="tiny", seed=3, batch=4, lr=0.004, beta1=0.7, beta2=0.97, steps=5,
                    precision="float32", frozen_steps=0, size=8) | options
    images = painted([0, 1, 2, 2, 1, 0, 0, 2, 1, 1], "tiny", side=8)
    torch.manual_seed(7)
    return classify.build(config, images, None, torch.device("cpu"))


def fastai(steps, top):
    """fit_one_cycle: up in a quarter from top / 25, down to top / 1e5; momentum the other way."""
    at = np.arange(steps) / max(steps, 1)
    height = (1 + np.cos(np.pi * np.where(at < 0.25, 1 - at / 0.25, (at - 0.25) / 0.75))) / 2
    low = np.where(at < 0.25, top / 25, top / 1e5)
    return list(zip(low + (top - low) * height, 0.95 - 0.1 * height))


def textbook(net, config, norm_learns, batches):
    """The same training, written out plainly. Returns its losses and accuracies."""
    weights, betas = list(net.parameters()), (config["beta1"], config["beta2"])
    decays = [dict(params=[w], weight_decay=0.01 * (w.ndim > 1)) for w in weights]
    optimizer = dict(
        adam=torch.optim.Adam(weights), sgd=torch.optim.SGD(weights, momentum=betas[0]),
        adagrad=torch.optim.Adagrad(weights),
        adamw=torch.optim.AdamW(decays, eps=1e-5))[config["optimizer"]]
    rates, frozen = [(config["lr"], betas[0])] * 5, config["frozen_steps"]
    if config["schedule"] == "1cycle":
        rates = fastai(frozen, config["lr"]) + fastai(5 - frozen, config["lr"])
    values = []
    for step, (rate, momentum) in enumerate(rates):
        net[1].train(step >= frozen or norm_learns)
        learn = ("4", "1")[:1 + norm_learns]            # the head; BatchNorm
        for name, weight in net.named_parameters():
            weight.requires_grad_(step >= frozen or name.startswith(learn))
        for group in optimizer.param_groups:
            group |= dict(lr=rate, momentum=momentum, betas=(momentum, betas[1]))
        pixels, truth = batches.next()
        x = pixels / 127.5 - 1
        if config["augment"] != "none":
            x = data.augment(x, **eval(f"dict({STATED[config['augment'] + ' ranges']})"))
        with torch.autocast("cpu", torch.bfloat16, enabled=config["precision"] == "bf16"):
            logits = net(x)
        main, second = logits if "second" in config else (logits, logits.detach())
        loss = F.cross_entropy(main.float(), truth)
        values.append([loss.item(), (main.argmax(1) == truth).float().mean().item()])
        optimizer.zero_grad()
        (loss + 0.4 * F.cross_entropy(second.float(), truth)).backward()
        optimizer.step()
    return np.array(values)


@pytest.mark.parametrize("norm_learns, options", [
    (False, dict(augment="classical")),
    (False, dict(augment="paper001", optimizer="sgd", schedule="1cycle", frozen_steps=2)),
    (True, dict(augment="fastai", optimizer="adamw", schedule="1cycle", frozen_steps=2)),
    (False, dict(augment="flips", optimizer="adagrad", schedule="1cycle", second=True)),
    (False, dict(precision="bf16", optimizer="sgd", lr=0.1))])
def test_a_training_is_the_textbooks(monkeypatch, tmp_path, norm_learns, options):
    m = tiny_training(monkeypatch, norm_learns, **options)
    plain, batches = copy.deepcopy(m.net), copy.copy(m.batches)
    val = painted([0, 1, 2, 1] * 70, "val", side=8)
    torch.manual_seed(5)
    classify.loop(m, tmp_path, classify.train_step, val, 0, range(5))   # tests at every other step
    torch.manual_seed(5)
    values = textbook(plain, m.config, norm_learns, batches)
    torch.testing.assert_close(m.net.state_dict(), plain.state_dict(), rtol=0, atol=2e-6)
    curves = m.record["curves"]
    means = np.array([values[:2].mean(0), values[2:4].mean(0), values[4]])
    assert np.array([curves["loss"], curves["accuracy"]]).T == pytest.approx(means, abs=1e-5)
    x = torch.tensor(val.images).permute(0, 3, 1, 2) / 127.5 - 1
    logits, truth = plain.eval()(x), torch.tensor(val.labels)
    last = F.cross_entropy(logits, truth).item(), (logits.argmax(1) == truth).float().mean().item()
    assert [curves["val_loss"][2], curves["val_accuracy"][2]] == pytest.approx(last, abs=1e-5)
    assert m.batches.seed == 3


def test_the_lr_finder_takes_the_lowest_smoothed_loss(monkeypatch):
    m, lrs, asked = tiny_training(monkeypatch, lr=0.0), np.geomspace(1e-7, 10, 100), []
    script = [0.9, *[3.0] * 9, *[1.2] * 30, *[2.5] * 30, *[500.0] * 30]    # the first tenth: luck
    monkeypatch.setattr(
        classify, "train_step", lambda *args: asked.append(args) or (script[len(asked) - 1], 0))
    smoothed = [np.average(script[:k], weights=0.98 ** np.arange(k)[::-1]) for k in range(1, 101)]
    stop = next(k for k in range(100) if smoothed[k] > 4 * min(smoothed[:k + 1]))
    lowest = 10 + np.argmin(smoothed[10:stop])
    assert classify.learning_rates(m) == [(pytest.approx(lrs[lowest] / 10), 0.7)] * 5
    assert m.record["lr_finder"]["losses"] == pytest.approx(smoothed[:stop])
    assert [args[1:] for args in asked] == [(pytest.approx(rate), 0.7) for rate in lrs[:stop + 1]]
    script, asked[:], m.record["lr_finder"] = [1.0] + [float("nan")] * 9, [], {}
    with pytest.raises(jobs.UserError, match="give --lr"):
        classify.learning_rates(m)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """(image set whose classes anyone can tell, its file); its first image is of the last class."""
    parts = [painted(np.repeat([2, 0, 1], counts), part, part, seed=len(part), dataset="colours")
             for part, counts in (("train", (8, 12, 20)), ("val", (3, 2, 4)), ("test", (4, 5, 3)))]
    file = tmp_path_factory.mktemp("colours") / "images.npy"
    data.mix(parts).save(file)
    return data.load(file), file


@pytest.fixture
def train(tmp_path, done, refused, colours):
    """train(job, net, option, ...): what a training said and left; or it must end in `refusal`."""
    def call(job, net, *options, refusal=()):
        folder = tmp_path / job
        command = ["train", net, "--data", colours[1], *options, "--out", folder]
        if refusal:
            return refused(refusal, "classify", *command)
        said = done("classify", *command)
        weights = folder / "model.pt"
        return SimpleNamespace(
            folder=folder, said=said, rows=list(csv.reader(open(folder / "predictions.csv"))),
            state=weights.exists() and torch.load(weights, weights_only=True)["net"],
            **jobs.read_json(folder / "result.json"))

    return call


@torch.no_grad()
def by_hand(job, images):
    """[what its last layer sees, probabilities]: of a cnn for 16 px through 8 px."""
    net = classify.cnn(3, 16)
    net.load_state_dict(job.state)
    images = data.resized(data.resized(images, 8), 16).images
    x = torch.tensor(images).permute(0, 3, 1, 2) / 127.5 - 1
    hidden = net[:-1](x)
    return [hidden.numpy(), net[-1](hidden).softmax(1).numpy()]


@pytest.fixture
def job(train):
    return train("job", *TINY, "--lr", 2e-4, "--steps", 150, "--batch", 20, "--through", 8)


def test_a_known_set_is_learned_and_new_photographs_are_told(tmp_path, job, done, refused, colours):
    test, val = map(colours[0].part, ("test", "val"))
    rows = [["real", *row] for row in zip(test.ids, test.groups, np.array(CLASSES)[test.labels])]
    assert job.metrics["real"]["confusion"] == np.diag([5, 3, 4]).tolist()
    loss = metrics.log_loss(val.labels, by_hand(job, val)[1])
    assert job.curves["val_loss"][-1] == pytest.approx(loss, abs=1e-5)
    assert len(job.curves["loss"]) == 50 and job.counts == dict(red=12, blue=20, green=8)
    assert "accuracy 1.000, of the larger class 0.417" in job.said
    assert job.rows[0] == ["test", "image", "lesion", "label", *CLASSES]
    assert [row[:4] for row in job.rows[1:]] == rows
    printed = np.array([row[4:] for row in job.rows[1:]], float)
    assert printed == pytest.approx(by_hand(job, test)[1], abs=1e-5)
    known = metrics.evaluate(test.labels, printed, test.groups, CLASSES)["accuracy"]
    assert job.metrics["real"]["accuracy"] == pytest.approx(known)      # by lesions, not by images

    deep, table = tmp_path / "deep", tmp_path / "out.csv"
    files = [tmp_path / "red.webp", deep / "blue.PNG", deep / "er/green.jpg"]
    (deep / "er").mkdir(parents=True)
    for path, k in zip([*files, deep / "notes.gif"], (4, -1, 0, 0)):
        Image.fromarray(test.images[k]).resize((100, 70)).save(path)
    said = done("classify", "predict", job.folder, files[0], deep, "--csv", table)
    rows = list(csv.reader(open(table)))
    assert rows[0] == ["image", "called", *CLASSES]
    assert [row[:2] for row in rows[1:]] == [[str(path), path.stem] for path in files]
    images = np.stack([reading.decode(path.read_bytes, 8) for path in files])
    printed = np.array([row[2:] for row in rows[1:]], float)
    assert printed == pytest.approx(by_hand(job, data.replace(test, images=images))[1], abs=1e-5)
    assert all("  ".join(row) in said for row in rows) and "not a diagnosis" in said
    refused(["unreadable", __file__], "classify", "predict", job.folder, __file__)


def test_a_class_is_ranked_surest_first_and_scores_are_distances_in_the_last_layer(
        monkeypatch, tmp_path, job, done, refused, colours):
    (whole, file), hashed = colours, classify.weights_hash(job.folder)
    shades = painted([0, 1] * 6, "shades", "train")
    shades.images[:, :, :, 0] = np.arange(220, -1, -20)[:, None, None]      # the last is bluest
    data.mix([shades, whole.part("test")]).save(tmp_path / "shades.npy")
    done("classify", "rank", job.folder, "--class", "blue", "--data", tmp_path / "shades.npy",
         "--out", tmp_path / "rank")
    surest_first = shades.of_class("blue").take([5, 4, 3, 2, 1, 0])
    assert data.load(tmp_path / "rank").fingerprint() == surest_first.fingerprint()
    assert jobs.read_json(tmp_path / "rank/config.json")["weights"] == hashed

    drawn = painted([1] * 12, "drawn", side=24, seed=9)
    drawn.save(tmp_path / "gan/snapshots/000005.npy")
    calls, distances = [], metrics.distances
    monkeypatch.setattr(metrics, "distances", lambda *args: calls.append(args) or distances(*args))
    drawn.save(tmp_path / "v1.2/samples.npy")
    done("classify", "score", job.folder, file, tmp_path / "v1.2", "--over-steps", tmp_path / "gan",
         "--data", file, "--class", "blue", "--seed", 6, "--out", tmp_path / "score")
    score, (large, _, (*ours, seed)) = jobs.read_json(tmp_path / "score/result.json"), calls
    assert [(row["set"], row["n"]) for row in score["rows"]] == [
        ("images", 10), ("v1.2", 10), ("000005", 10)]
    assert score["net"] == "FD-cnn" and seed == score["config"]["seed"] == 6
    assert score["config"]["net"] == hashed
    rng, blue = np.random.default_rng(6), data.resized(whole.part("train").of_class("blue"), 24)
    real, first, _, some = [rng.permutation(n)[:20] for n in (20, 61, 12, 12)]    # half of 20
    expected = by_hand(job, blue.take(real))[0], *by_hand(job, drawn.take(some[:10]))
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(ours, expected, strict=True))
    small = by_hand(job, data.resized(whole.take(first[:10]), 24))[0]       # as all the others
    assert large[1] == pytest.approx(small, abs=1e-5)
    refused(["unlike names"], "classify", "score", job.folder, file, file, "--data", file,
            "--out", tmp_path / "twice")


def test_synthetic_images_are_added_held_back_shuffled_alone_and_judged(tmp_path, train, colours):
    real, test = [data.resized(colours[0].part(name), 16) for name in ("train", "test")]
    a = painted([0] * 24, "a", side=16, digests=[], generator="dcgan_cls")
    b = painted([2, 1] * 8, "b", side=16, digests=[], generator="acgan")
    large = painted([1] * 5, "c", side=24)              # judged at its own size
    for images in (a, b, large):
        images.save(tmp_path / f"{images.ids[0][0]}.npy")
    c = data.resized(large, 16)
    add = [*TINY, "--synthetic", tmp_path / "a.npy", tmp_path / "b.npy", f"blue={tmp_path}/c.npy"]
    job = train("mixed", *add, "--use", "1/4", "--mixed-test", 4, 2, 0, "--share", "1/2")
    learned = data.mix([real.share(0.5), a.take(slice(5)), b.take(slice(4)), c.take(slice(1))])
    held = data.mix([test, a.take(slice(20, 24)), b.take(slice(14, 16))])
    assert job.config["train"] == learned.fingerprint() and job.counts == learned.counts()
    assert job.config["tests"] == dict(real=test.fingerprint(), mixed=held.fingerprint())
    assert [row[1] for row in job.rows[1:]] == [*test.ids, *held.ids]
    assert job.config["synthetic"] == ["acgan", "c.npy", "dcgan_cls"]
    blue = data.replace(large, classes=["blue"], labels=c.labels * 0)
    seen, unseen = [data.resized(colours[0].part(name), 24) for name in ("train", "test")]
    judged = metrics.judge_generated(blue, seen.share(0.5), unseen)
    assert job.generators == {"dcgan_cls": {}, "acgan": {}, "c.npy": judged}

    whole = data.mix([real, a, b, c])
    placebo = train("placebo", *add, "--shuffle", "--seed", 2)      # of the synthetic labels
    whole.labels[40:] = np.random.default_rng(2).permutation(whole.labels[40:])
    assert placebo.config["train"] == whole.fingerprint()
    assert (placebo.state["0.weight"] - job.state["0.weight"]).abs().max() > 0.1    # another start
    alone = train("alone", *add, "--alone", "--through", 8)
    blurred = data.mix([data.resized(data.resized(one, 8), 16) for one in (a, b, large)])
    assert alone.config["train"] == blurred.fingerprint() and list(alone.metrics) == ["real"]
    for numbers in ([5], [1] * 4):
        train("no", *add, "--mixed-test", *numbers, refusal=["--mixed-test needs"])
    train("no", *add, "--mixed-test", 0, 17, 0, refusal=["16 images", "17 is too many"])
    train("no", *TINY, "--share", "1/20", refusal=["two classes"])       # no green one is left
    for words in (["--alone"], ["--shuffle"], ["--use", "1/2"]):
        train("no", *TINY, *words, refusal=[words[0], "--synthetic"])
    names = ["lapgan", "x/out", "y/out"]            # called as one of ours, or as each other
    for name in names:
        c.save(tmp_path / name)
    job = train("clash", *TINY, "--synthetic", *[f"blue={tmp_path}/{name}" for name in names])
    assert job.generators.keys() == {f"{tmp_path}/lapgan", "out", f"{tmp_path}/y/out"}


def test_leaks_are_told_by_pixels_and_ids(tmp_path, train, colours, made, lesions):
    whole, fakes = data.resized(colours[0], 8), painted([1] * 8, "fakes", side=8)   # a GAN's 8 px
    own, held = whole.part("train"), whole.take(whole.split != "train")
    seen, ids = held.digests().tolist(), held.ids.tolist()          # 9 to validate, 12 to test
    clean, shown, told = [tmp_path / f"{name}.npy" for name in ("clean", "shown", "told")]
    data.replace(fakes, ids=held.ids[:8], info=dict(
        digests=own.digests().tolist(), seen_ids=dict(other=ids))).save(clean)
    data.replace(fakes, images=held.images[-8:]).save(shown)
    data.replace(fakes, info=dict(
        digests=[seen[0], seen[12]], seen_ids=dict(colours=ids[3:9]))).save(told)
    for file in (shown, told):
        train("no", *TINY, "--synthetic", file, refusal=["8 validation and test"])
    for name, leaked, *files in ("clean", 0, clean), ("both", 16, shown, told):
        job = train(name, *TINY, "--synthetic", *files, *["--allow-leak"][:leaked])
        assert job.leaked == leaked and ("LEAK" in job.said) == bool(leaked)

    turned = data.replace(lesions, split=np.where(lesions.split == "val", "train", "val"))
    data.mix([turned, lesions.part("test")]).save(tmp_path / "turned.npy")
    leaked = lesions.part("train").counts()["benign"]
    train("no", "trunk", "--width", 4, "--data", tmp_path / "turned.npy", "--from", made,
          refusal=[str(made), f"{leaked} validation"])


def test_a_start_rests_and_two_and_two_steps_are_four(tmp_path, train, done, made, prepared):
    saved = torch.load(made / "model.pt", weights_only=True)["discriminator"]
    start = ["trunk", "--data", prepared, "--width", 4, "--batch", 8, "--from", made]
    rested = train("rested", *start, "--epochs", 1, "--frozen-epochs", 2)
    assert rested.config["frozen_steps"] == rested.config["steps"] == 9         # 78 images by 8
    assert rested.config["start"] == classify.weights_hash(made)
    body = [key for key in saved if not key.startswith("12.")]
    assert all(torch.equal(rested.state[key], saved[key]) for key in body)
    train("no", *start, "--width", 8, refusal=["--width"])

    start += "--epochs 4 --frozen-epochs 1 --steps 4 --optimizer adamw --schedule 1cycle".split()
    finder = [*TINY, "--data", prepared, "--lr", 0, "--augment", "classical", "--frozen-epochs", 25]
    for name, net in ("start", start), ("finder", finder):
        done("classify", "train", *net, f"--out={tmp_path}/2/{name}", "--stop-after=2", status=130)
        a, b = [train(folder + name, *net) for folder in ("", "2/")]
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
        assert (a.rows, a.curves, a.lr_finder) == (b.rows, b.curves, b.lr_finder)
        assert a.config["frozen_steps"] == (name == "start")     # cut after it, too
    b = train("taken", *net, "--lr-of", tmp_path / "finder")        # a finder changes nothing else
    assert a.config["lr"] == 0 and b.config["lr"] == a.lr_finder["chosen"]
    torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
    train("no", *net, "--lr-of", tmp_path / "taken", refusal=["no lr finder"])


def test_published_weights_rest_and_what_is_asked_is_kept_or_refused(monkeypatch, train):
    theirs = {key: 2 * value for key, value in classify.mobilenet_v1(1)[:-3].state_dict().items()}
    files = [{f"other.{key}": value for key, value in theirs.items()}]
    for module in (torch.hub, models._api):
        monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: files.pop())
    net = ["--size", 32, "--batch", 8, "--epochs", 0.2]
    job = train("job", "mobilenet_flat", *net)
    assert job.config["frozen_steps"] == 1
    body = classify.load_net(job.folder)[0].body
    torch.testing.assert_close(dict(body.state_dict()), theirs, rtol=0, atol=0)
    for files in [], [models.resnet50(num_classes=2).state_dict()]:         # none, or others
        train("no", "resnet50", *net, refusal=["checkpoints", "--weights none"])

    job = train("forgotten", *TINY, "--dry-run", "--forget")
    assert not job.state and job.cost["step_seconds"] > 0
    decide = "size augment precision use share shuffle alone through start frozen_steps synthetic"
    assert job.config.keys() >= set(decide.split())
    train("no", "inception", "--weights", "none", "--size", 74, "--batch", 4, refusal=["--size"])
