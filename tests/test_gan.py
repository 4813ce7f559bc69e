"""Recipes, layers and steps beside the papers' own; samples, resuming, what a GAN has seen."""
import contextlib
import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_GAN, result_of
from PIL import Image
from torch import nn

import data
import gan
import jobs
import metrics

TEXT = Path(__file__).with_name("gans.txt").read_text()     # what the papers state
STATED = dict(re.findall(r"^(\w.*)\n((?:  .*\n)+)", TEXT, re.MULTILINE))


def recipe(name, **changes):
    values = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
    return values | dict(model=name, classes=data.EIGHT) | changes


@pytest.mark.parametrize("name", gan.GANS)
def test_recipes_are_as_stated(name):
    entry, papers = gan.GANS[name], eval(f"dict({STATED[name + ' recipe']})")
    ours = {key: value for key, (value, source) in entry.recipe.items() if source}
    ours |= {key: getattr(entry, key) for key in ("noise", "labels", "translates", "lends", "sizes")}
    assert sorted(map(repr, ours.items())) == sorted(map(repr, papers.items()))


@pytest.mark.parametrize("key", [key for key in STATED if "tor " in key])
def test_networks_are_the_papers_layer_by_layer(key):
    name, network, side, *count = key.split()
    make, values = getattr(gan.GANS[name], network), recipe(name, size=int(side))
    with torch.device("meta"):
        net, papers = make(values), eval(f"[{STATED[key]}]", vars(nn))
    leaves = [layer for layer in net.modules() if not list(layer.children())]
    assert list(map(repr, leaves)) == list(map(repr, papers))
    assert not count or f"{sum(weight.numel() for weight in net.parameters()):,}" == count[0]

    torch.manual_seed(0)                                # the initial weights, of a narrower one
    net = make(values | dict(width=16))
    torch.manual_seed(0)
    for layer in [layer for layer in net.modules() if list(layer.parameters(recurse=False))]:
        if name in ("wgan_gp", "plain_gan", "lapgan", "dermagan"):      # not stated: as PyTorch's
            again = copy.deepcopy(layer)
            again.reset_parameters()
            assert all(map(torch.equal, layer.parameters(), again.parameters()))
        else:                                           # N(0, 0.02), of a BatchNorm N(1, 0.02)
            off = layer.weight.flatten() - float(isinstance(layer, nn.BatchNorm2d))
            error = 0.02 / len(off) ** 0.5
            assert abs(off.mean()) < 5 * error and abs(off.std() - 0.02) < 5 * error
            assert len(off) < 9999 or 0.03 < (off.abs() > 0.04).float().mean() < 0.06
            assert layer.bias is None or not layer.bias.any()


def test_networks_that_are_no_chain_the_printed_tables_and_a_penalty_without_a_slope(done):
    words = done("gan", "describe", "wgan_gp")
    assert all(sum_ in words for sum_ in ("39,473,507", "33,767,777", "2,766,657", "1792 x 4 x 4"))
    torch.manual_seed(0)
    x, z, lapgan = torch.randn(2, 4, 8, 8), torch.randn(2, 5504, 1, 1), training("lapgan").generator
    block, heads, flat = gan.ResidualBlock(4), gan.TwoHeads(8, 3), nn.Parameter(torch.zeros(192))
    assert torch.equal(block(x), x + block.layers(x))
    ends = heads.source(x[0, 0])[:, 0], heads.label(x[0, 0])
    assert all(map(torch.equal, heads(x[0, 0]), ends))
    image = pyramid(lapgan, z.flatten(1))[-1]
    assert image.abs().max() > 1 and torch.allclose(lapgan(z), image.clamp(-1, 1), atol=1e-5)
    penalty = gan.gradient_penalty(lambda x: x.flatten(1) @ flat, *torch.zeros(2, 5, 3, 8, 8), 7.0)
    penalty.backward()
    assert penalty.item() == pytest.approx(7, abs=1e-4) and flat.grad.isfinite().all()


@torch.no_grad()
def training(name, device="cpu", **changes):
    """A tiny Training, 12 images, away from every symmetric point: no logit near 0, no bias 0."""
    small = dict(plain_gan=dict(width=20), acgan=dict(size=32), cyclegan=dict(size=32, blocks=1))
    config = recipe(name, seed=3, steps=8, batch=4, width=4, precision="float32")
    config |= small.get(name, {}) | changes
    images = data.built_in(24, config["size"])
    source = images.take(slice(12, 24)) if name == "cyclegan" else None
    torch.manual_seed(0)
    m = gan.build(config, images.take(slice(12)), source, torch.device(device))
    m.nets = [net for net in (m.generator, m.discriminator, m.back, m.judge_a) if net is not None]
    for weight in nn.ModuleList(m.nets).parameters():
        spread = 1.5 * weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.3
        weight += spread * torch.randn_like(weight)
    return m


def bce(logit, target):
    probability = 1 / (1 + torch.exp(-logit))
    return -torch.log(probability if target else 1 - probability).mean()


class Textbook:
    """The same networks in float64, the same batches and noise; gradient descent written out."""

    def __init__(self, m):
        self.__dict__.update(m.config, momentum={}, pools=([], []))
        self.nets = [copy.deepcopy(net).double() for net in m.nets]
        self.batches = data.Batches(m.images, self.batch, 3, "cpu")
        self.sources = data.Batches(m.source or m.images, self.batch, 4, "cpu")

    def real(self, of="batches"):
        pixels, labels = getattr(self, of).next()
        return pixels.double() / 127.5 - 1, labels

    def noise(self):
        shape, labels = (self.batch, self.z_dim), None
        uniform = self.model == "dcgan_inception"
        z = 2 * torch.rand(shape).double() - 1 if uniform else torch.randn(shape).double()
        if self.model == "acgan":
            labels = torch.randint(8, (self.batch,))
            z[:, :8] = torch.eye(8)[labels]
        return z[:, :, None, None], labels

    def descend(self, loss, *nets):
        weights = [weight for net in nets for weight in net.parameters()]
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights)):
            self.momentum[weight] = self.beta1 * self.momentum.get(weight, 0) + slope
            weight.data -= self.lr * self.momentum[weight]

    def wgan_gp(self):
        """Gulrajani et al. 2017, algorithm 1."""
        for _ in range(self.n_critic):
            (real, _), (z, _), G, D = self.real(), self.noise(), *self.nets
            fake, alpha = G(z).detach(), torch.rand(self.batch, 1, 1, 1).double()
            x = (alpha * real + (1 - alpha) * fake).requires_grad_()
            slope, = torch.autograd.grad(D(x).sum(), x, create_graph=True)
            penalty = (((slope ** 2).sum((1, 2, 3)) ** 0.5 - 1) ** 2).mean()
            self.descend(D(fake).mean() - D(real).mean() + self.penalty * penalty, D)
        self.descend(-D(G(self.noise()[0])).mean(), G)

    def dcgan(self):
        """Goodfellow et al. 2014, algorithm 1, with the generator's non-saturating loss."""
        (real, _), (z, _), G, D = self.real(), self.noise(), *self.nets
        fake = G(z)
        self.descend(bce(D(real), 1) + bce(D(fake.detach()), 0), D)
        self.descend(bce(D(fake), 1), G)

    def acgan(self):
        """Odena et al. 2017: D raises L_S + L_C of real and of fake, G raises L_C - L_S."""
        def class_loss(logits, labels):
            return (torch.logsumexp(logits, 1) - logits[range(len(labels)), labels]).mean()

        (real, labels), (z, told), G, D = self.real(), self.noise(), *self.nets
        fake = G(z)
        (on_real, real_class), (on_fake, fake_class) = D(real), D(fake.detach())
        of_class = class_loss(real_class, labels) + class_loss(fake_class, told)
        self.descend(bce(on_real, 1) + bce(on_fake, 0) + of_class, D)
        score, named = D(fake)
        self.descend(bce(score, 1) + class_loss(named, told), G)

    def lapgan(self):
        """Denton et al. 2015: a GAN for each level, upon the real smaller image."""
        (real, _), (z, _), G, D = self.real(), self.noise(), *self.nets
        reals = [nn.functional.avg_pool2d(real, squares) for squares in (8, 4, 2, 1)]
        fakes = pyramid(G, z.flatten(1), reals)
        on_reals = sum(bce(D[k](reals[k]), 1) for k in range(4))
        on_fakes = sum(bce(D[k](fakes[k].detach()), 0) for k in range(4))
        self.descend(on_reals + on_fakes, D)
        self.descend(sum(bce(D[k](fakes[k]), 1) for k in range(4)), G)

    def cyclegan(self):
        """Zhu et al. 2017, eq. 1 to 3 with least squares; the identity loss of section 5.2."""
        self.lr = {2: 0.002, 6: 0.001, 7: 0.0005}[self.step]    # it falls from step 4 to 8
        G, D, F, D_A = self.nets
        a, b = self.jittered(self.real("sources")[0]), self.jittered(self.real()[0])
        fake_b, fake_a = G(a), F(b)
        fooled = ((D(fake_b) - 1) ** 2).mean() + ((D_A(fake_a) - 1) ** 2).mean()
        cycle = (F(fake_b) - a).abs().mean() + (G(fake_a) - b).abs().mean()
        identity = (F(a) - a).abs().mean() + (G(b) - b).abs().mean()
        self.descend(fooled + 3 * cycle + 3 * 0.7 * identity, G, F)
        old_a, old_b = self.old(fake_a, self.pools[0]), self.old(fake_b, self.pools[1])
        d_a = (((D_A(a) - 1) ** 2).mean() + (D_A(old_a) ** 2).mean()) / 2
        d_b = (((D(b) - 1) ** 2).mean() + (D(old_b) ** 2).mean()) / 2
        self.descend(d_a + d_b, D_A, D)

    def jittered(self, real):
        """Its code: 286 / 256 times as large (32: 36), a random window of it, perhaps mirrored."""
        large = nn.Upsample(36, mode="bicubic")(real).clamp(-1, 1)
        top, left, mirrored = (int(torch.randint(number, ())) for number in (5, 5, 2))
        window = large[:, :, top:top + 32, left:left + 32]
        return window.flip(3) if mirrored else window

    def old(self, fakes, pool):
        """Its code: new fakes until the pool is full, then half of the time an old one."""
        shown = []
        for fake in fakes.detach():
            if len(pool) < self.pool:
                pool.append(fake)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.pool, ()))
                fake, pool[place] = pool[place], fake
            shown.append(fake)
        return torch.stack(shown)


def pyramid(net, z, below=None):
    """LAPGAN's images, 8 to 64 px: each adds detail to the enlarged `below`, else its own last."""
    images = [net.base(z[:, :128])]
    for k, (begin, side) in enumerate([(128, 16), (384, 32), (1408, 64)]):
        large = nn.Upsample(scale_factor=2, mode="bilinear")((below or images)[k])
        plane = z[:, begin:begin + side ** 2].reshape(-1, 1, side, side)
        images.append(large + net.detail[k](torch.cat([large, plane], 1)))
    return images


@pytest.mark.parametrize("name", gan.GANS)
def test_three_steps_are_the_textbooks(name, monkeypatch):
    for kind in (nn.ReLU, nn.LeakyReLU):        # smooth: at a kink rounding would choose the slope
        monkeypatch.setattr(kind, "forward", lambda self, x: nn.functional.silu(x))
    textbook, *resting, expected = eval(f"[{STATED[name + ' step']}]")
    m, asked = training(name, optimizer="sgd", lr=0.002, beta1=0.4, penalty=7.0, n_critic=2,
                        cycle=3.0, identity=0.7, pool=5), []
    t, before = Textbook(m), Textbook(m).nets
    m.discriminator[0].register_forward_pre_hook(lambda _, x: asked.append(x[0].requires_grad))
    for t.step in (2, 6, 7):
        m.step = t.step
        torch.manual_seed(t.step)
        gan.GANS[name].step(m)
        torch.manual_seed(t.step)
        getattr(t, textbook)()
    assert asked == 3 * expected

    for k, net in enumerate(m.nets):
        was, theirs = before[k].state_dict(), t.nets[k].state_dict()
        for key, value in net.state_dict().items():
            assert torch.allclose(value.double(), theirs[key].double(), 1e-5, 1e-5), (k, key)
            moved = (theirs[key] - was[key]).abs().max() > 1e-9         # in float64
            assert moved != (key.removesuffix(".bias") in resting[k % 2].split()), (k, key)


@pytest.mark.parametrize("name", gan.GANS)
def test_every_weight_has_its_adam_and_a_step_in_bf16_or_on_another_device(name, monkeypatch):
    m, c, seen = training(name, precision="bf16"), recipe(name), []
    for k, optimizer in enumerate([m.optimizer_g, m.optimizer_d]):
        weights = list(nn.ModuleList(m.nets[k::2]).parameters())
        adam = torch.optim.Adam(weights, c["lr"], (c["beta1"], c["beta2"]), fused=True)
        assert type(optimizer) is type(adam) and optimizer.defaults == adam.defaults
        assert set(optimizer.param_groups[0]["params"]) == set(weights)
        layers = [one for one in m.nets[k].modules() if list(one.parameters(recurse=False))]
        layers[0].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    assert {value.dtype for value in gan.GANS[name].step(m).values()} == {torch.float32}
    assert set(seen) == {torch.bfloat16}

    # On meta tensors mixing devices fails as on a GPU. Its autocast and fused Adam do not exist.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    m = training(name, "meta", optimizer="sgd", pool=4)
    for _ in range(2):
        assert {value.device.type for value in gan.GANS[name].step(m).values()} == {"meta"}


@pytest.fixture
def command(tmp_path, prepared):
    """command("acgan --size 32", "run"): the words of a tiny training on DATA, into that folder."""
    def words(options, out, tiny=TINY_GAN):
        name, *options = options.replace("DATA", str(prepared)).split()
        return ["gan", "train", name, "--data", prepared, *tiny, *options, "--out", tmp_path / out]
    return words


@torch.no_grad()
def drawn(net, inputs, images):
    """Are these the images that the net makes of the inputs? But for a half, rounded either way."""
    expected = ((net(inputs) + 1) * 127.5).numpy().transpose(0, 2, 3, 1)
    return images.shape == expected.shape and np.abs(images - expected).max() < 0.51


def test_samples_come_from_the_average_and_know_their_class(tmp_path, command, done, lesions):
    run, more, turns = tmp_path / "run", tmp_path / "more.npy", [0, 1] * 34
    done(*command("acgan --size 32 --steps 5 --lr 0.02 --average 0.25 --seed 3 --samples 67 "
                  "--snapshots 3", "run"))
    torch.manual_seed(3)
    config, train = jobs.read_json(run / "config.json"), data.resized(lesions.part("train"), 32)
    m = gan.build(config, train, None, torch.device("cpu"))
    average, curve = copy.deepcopy(m.generator.state_dict()), []
    for keep in (1 / 10, 2 / 11, 3 / 12, 1 / 4, 1 / 4):         # at first less than --average
        curve.append(gan.acgan_step(m)["D loss"].item())
        for key, weight in m.generator.state_dict().items():
            average[key] = keep * average[key] + (1 - keep) * weight
    assert result_of(run)["curves"]["D loss"] == pytest.approx(curve)
    saved, net = torch.load(run / "model.pt")["average"], m.generator.eval()
    for key, weight in saved.items():
        assert not weight.is_floating_point() or torch.allclose(weight, average[key], 1e-5, 1e-6)
    net.load_state_dict(average)

    def inputs(seed, labels):
        z = np.random.default_rng(seed).standard_normal((len(labels), 110), np.float32)
        z[:, :2] = np.eye(2)[labels]
        return torch.from_numpy(z)[:, :, None, None]

    samples, snapshot = data.load(run), data.load(run / "snapshots/000005.npy")
    assert samples.classes == data.TWO and samples.info["generator"] == "acgan"
    assert samples.labels.tolist() == turns[:67] and not samples.split.any()
    assert drawn(net, inputs(4, turns[:67]), samples.images)
    assert drawn(net, inputs(5, turns[:3]), snapshot.images)
    grid = np.asarray(Image.open(run / "grid.png"))[None, :32, :32]
    assert drawn(net, inputs(3, turns[:1]), grid) and m.discriminator[-1].label.out_features == 2
    done("gan", "sample", run, "--n", 4, "--seed", 9, "--class", "malignant", "--out", more)
    more = data.load(more)
    assert more.labels.tolist() == [1] * 4 and drawn(net, inputs(9, [1] * 4), more.images)
    z = gan.inputs_of(recipe("dcgan_inception"), None, np.zeros(9, int), 7)[:, :, 0, 0]
    assert np.allclose(z, 2 * np.random.default_rng(7).random((9, 100), np.float32) - 1)


def test_what_a_cyclegan_translates(tmp_path, command, done, refused, lesions, prepared):
    run, (benign, malignant) = tmp_path / "run", map(lesions.part("train").of_class, data.TWO)
    done(*command("cyclegan --size 64 --blocks 1 --batch 1 --class malignant --top 1/4 "
                  "--source DATA --source-class benign --samples 1/2", "run"))
    samples, net = data.load(run), gan.cyclegan_generator(4, 1)
    assert len(samples) == round(len(benign) / 2) and samples.classes == ["malignant"]
    top = malignant.take(slice(round(len(malignant) / 4)))
    assert set(samples.info["digests"]) == {*top.digests(), *benign.digests()}
    net.load_state_dict(torch.load(run / "model.pt")["average"])
    pixels = torch.from_numpy(benign.images).permute(0, 3, 1, 2) / 127.5 - 1
    assert drawn(net, pixels[:len(samples)], samples.images)
    sample = ["gan", "sample", run, "--source", prepared, "--out", tmp_path / "more.npy", "--n"]
    done(*sample, len(benign))
    assert drawn(net, pixels, data.load(tmp_path / "more.npy").images)
    refused([f"has {len(benign)}"], *sample, len(benign) + 1)


def test_samples_as_many_as_asked(tmp_path, command, done, lesions):
    train = lesions.part("train")
    n, half = train.counts(), train.share(0.5).counts()
    few, many = sorted(data.TWO, key=n.get)
    one = f"dcgan_cls --class {few} --samples "
    cases = {one + "5": [5], one + "3/2": [round(n[few] * 1.5)], one + "1/999": [1],
             one + "balance": [n[many] - n[few]],
             one + "balance --share 1/2": [half[many] - half[few]],
             "acgan --size 32 --samples balance": [n[many] - n[name] for name in data.TWO],
             "acgan --size 32 --samples 5": [3, 2]}
    for k, (options, numbers) in enumerate(cases.items()):
        done(*command(options, f"run{k}"))
        assert list(data.load(tmp_path / f"run{k}").counts().values()) == numbers


@pytest.mark.parametrize("options", [
    "wgan_gp", "dcgan_cls --optimizer sgd", "plain_gan --width 20", "lapgan", "acgan --size 32",
    "cyclegan --size 32 --blocks 1 --pool 2 --source DATA", "dermagan --precision bf16"])
def test_two_and_two_steps_are_four(tmp_path, command, done, options):
    done(*command(options, "whole"))
    done(*command(options + " --stop-after 2", "parts"))
    assert not (tmp_path / "parts" / "result.json").exists()
    done(*command(options, "parts"))
    assert result_of(tmp_path / "whole") == result_of(tmp_path / "parts")
    assert (data.load(tmp_path / "whole").images == data.load(tmp_path / "parts").images).all()


def test_a_job_and_what_it_leaves(tmp_path, command, done, refused):
    done(*command("dcgan_cls", "job"))
    saved = torch.load(tmp_path / "job" / "model.pt")
    gan.dcgan_discriminator(4).load_state_dict(saved.pop("discriminator"))
    assert list(saved) == ["average"] and "done before" in done(*command("dcgan_cls", "job"))
    changes = {"lr 0.1": "lr 0.0002 -> 0.1", "seed 1": "seed 0 -> 1", "leak": "leak False -> True",
               "class benign": "of_class None -> 'benign'", "precision bf16": "-> 'bf16'",
               "share 1/2": "share '1' -> '1/2'; data '"}
    for option, words in changes.items():
        refused(words.split("; "), *command("dcgan_cls --" + option, "job"))


def test_epochs_count_passes_of_the_critic_and_of_the_larger_set(tmp_path, command, done, lesions):
    passes, tiny = 9 * len(lesions.part("train")) / 8, ["--width", 4, "--batch", 8, "--epochs", 9]
    for options, steps in {"wgan_gp": passes / 5, "acgan --size 32": passes,
                           "cyclegan --size 32 --class benign --source DATA": passes}.items():
        done(*command(options + " --dry-run", options[:5], tiny))
        assert result_of(tmp_path / options[:5])["config"]["dry_run_of"] == np.ceil(steps)


def test_samples_tell_what_was_seen(tmp_path, command, done, lesions, made, monkeypatch):
    samples, train = data.load(made["benign"]), lesions.part("train").of_class("benign")
    assert samples.info["digests"] == sorted(train.digests()) and samples.classes == ["benign"]
    assert samples.info["seen_ids"] == {train.info.get("dataset", "unknown"): sorted(train.ids)}
    done("gan", "sample", made["benign"], "--n", 3, "--out", tmp_path / "more.npy")
    assert data.load(tmp_path / "more.npy").info["digests"] == samples.info["digests"]
    for options in (f"cyclegan --size 64 --blocks 1 --source {made['benign']}",
                    f"dcgan_cls --data {made['benign']}"):
        done(*command(options + " --samples 2", options[:5]))
        chain = data.load(tmp_path / options[:5])   # what the first GAN saw, and its own images
        assert {*train.digests(), *samples.digests()} <= set(chain.info["digests"])
        assert chain.classes == ["unlabelled"]

    judged, judge = [], metrics.judge_generated
    monkeypatch.setattr(metrics, "judge_generated", lambda *x: judged.append(x) or judge(*x))
    for leak in ("", " --leak"):
        done(*command("dcgan_cls --class benign --share 1/2" + leak, "leak" + leak[2:]))
    (_, half, test, *_), (_, of_all, none, *_) = judged
    assert set(half.ids) == set(train.share(0.5).ids) and len(none) == 0
    assert set(test.ids) == set(lesions.part("test").of_class("benign").ids)
    assert set(of_all.ids) == set(lesions.of_class("benign").share(0.5).ids)


@pytest.mark.parametrize("words, options", [
    ("--size", "dcgan_cls --size 63"), ("no class mole", "dcgan_cls --class mole"),
    ("--batch 1", "dcgan_cls --batch 1"), ("too few", "dcgan_cls --batch 5000"),
    ("--samples many", "dcgan_cls --samples many"), ("give --class", "dcgan_cls --samples balance"),
    ("images to translate", "cyclegan --source DATA --size 32 --samples 99"),
    ("--z-dim 1", "acgan --size 32 --z-dim 1"), ("--lr", "dcgan_cls --lr nan")])
def test_bad_options_end_in_one_line(command, refused, words, options):
    refused([words], *command(options, "job"))
