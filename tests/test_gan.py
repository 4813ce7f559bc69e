"""Recipes, layers and steps beside the papers' own; samples, resuming, what a GAN has seen."""
import copy
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_GAN, result_of
from torch import nn

import data
import gan
import metrics

TEXT = (ROOT / "tests/gans.txt").read_text()        # what the papers state
STATED = dict(re.findall(r"^(\w.*)\n((?:  .*\n)+)", TEXT, re.MULTILINE))


def recipe(name, **changes):
    values = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
    return values | dict(model=name, classes=data.EIGHT, of_class=None) | changes


@pytest.mark.parametrize("key", [key for key in STATED if "tor " in key])
def test_networks_are_the_papers_layer_by_layer(key):
    name, network, side, *count = key.split()
    entry, values = gan.GANS[name], recipe(name, size=int(side))
    ours = {f"{key}={value}" for key, (value, source) in entry.recipe.items() if source}
    ours |= {f"noise={entry.noise}", f"labels={entry.labels}", f"translates={entry.translates}"}
    assert (entry.z_dims == (5504,)) == (name == "lapgan")
    ours.add("sizes=" + ",".join(map(str, entry.sizes)))
    assert ours == set(STATED[name + " recipe"].split())

    make = getattr(entry, network)
    with torch.device("meta"):
        net = make(values)
        papers = eval(f"[{STATED[key]}]", vars(nn))
    leaves = [layer for layer in net.modules() if not list(layer.children())]
    assert repr(leaves) == repr(papers)
    assert not count or f"{sum(weight.numel() for weight in net.parameters()):,}" == count[0]

    torch.manual_seed(0)    # initial weights: as in the DCGAN (BatchNorm's: about 1), or PyTorch's
    fits = []
    for key, weight in make(values | dict(width=16)).named_parameters():
        mean, spread = (0, 0) if "bias" in key else (float(weight.dim() == 1), 0.02)
        off = weight.mean() - mean, weight.std(correction=0) - spread
        fits.append(max(map(abs, off)) <= 5 * spread / weight.numel() ** 0.5)
    assert all(fits) == (name not in ("wgan_gp", "plain_gan", "lapgan", "dermagan"))


def test_networks_that_are_no_chain_the_printed_tables_and_a_penalty_without_a_slope(done):
    assert "2,352,505" in done("gan", "describe", "acgan")
    words = done("gan", "describe", "wgan_gp")
    assert all(stated in words for stated in ("39,473,507", "2,766,657", "  1792 x 4 x 4"))
    lapgan, z, x = training("lapgan").generator, torch.randn(2, 5504, 1, 1), torch.randn(2, 4, 8, 8)
    assert str(gan.cyclegan_generator(4, blocks=2)).count("ResidualBlock") == 2
    block, heads = gan.ResidualBlock(4), gan.TwoHeads(8, 3)
    assert torch.equal(block(x), x + block.layers(x))
    torch.testing.assert_close(heads(x[0, 0]), (heads.source(x[0, 0])[:, 0], heads.label(x[0, 0])))
    image = lapgan.levels(z, lapgan.levels(z))[-1]      # the largest, upon its own smaller ones
    assert image.abs().max() > 1 and torch.equal(lapgan(z), image.clamp(-1, 1))
    z, told = training("acgan").noise(400)
    assert set(told.tolist()) == set(range(8)) and abs(z[:, 8:].std() - 1) < 0.02
    flat = nn.Parameter(torch.zeros(256))
    gan.gradient_penalty(lambda images: images.flatten(1) @ flat, x, x).backward()
    assert flat.grad.isfinite().all()


@torch.no_grad()
def training(name, device="cpu", **changes):
    """A tiny Training, 12 images, away from every symmetric point: no logit near 0, no bias 0."""
    small = dict(plain_gan=dict(width=20), acgan=dict(size=32), cyclegan=dict(size=32, blocks=1))
    config = recipe(name, seed=3, steps=8, batch=4, width=4, precision="float32")
    config |= small.get(name, {}) | changes
    images = data.built_in(24, config["size"])
    torch.manual_seed(0)
    m = gan.build(config, images.take(slice(12)), images.take(slice(12, 24)), torch.device(device))
    m.images = images.take(slice(12))
    m.nets = [net for net in (m.generator, m.discriminator, m.back, m.judge_a) if net is not None]
    for weight in nn.ModuleList(m.nets).parameters():
        spread = 1.5 * weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.3
        weight += spread * torch.randn_like(weight)
    return m


def bce(logit, target):
    return -nn.functional.logsigmoid(logit if target else -logit).mean()


class Textbook:
    """The same networks in float64, the same batches and noise; gradient descent written out."""

    def __init__(self, m):
        self.__dict__.update(m.config, m=m, momentum={}, pools=([], []))
        self.nets = [copy.deepcopy(net).double() for net in m.nets]
        self.batches = data.Batches(m.images, self.batch, 3, "cpu")
        self.sources = data.Batches(m.source, self.batch, 4, "cpu")

    def real(self, batches):
        pixels, labels = batches.next()
        return pixels.double() / 127.5 - 1, labels

    def noise(self):
        z, labels = self.m.noise(self.batch)
        assert (z.abs().max() <= 1) == (self.model == "dcgan_inception")        # uniform
        return z.double(), labels

    def descend(self, loss, *nets):
        weights = [weight for net in nets for weight in net.parameters()]
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights)):
            self.momentum[weight] = self.beta1 * self.momentum.get(weight, 0) + slope
            weight.data -= self.lr * self.momentum[weight]

    def wgan_gp(self, G, D):
        """Gulrajani et al. 2017, algorithm 1."""
        for _ in range(self.n_critic):
            real, _ = self.real(self.batches)
            fake = G(self.noise()[0]).detach()
            alpha = torch.rand(self.batch, 1, 1, 1).double()
            x = (alpha * real + (1 - alpha) * fake).requires_grad_()
            slope, = torch.autograd.grad(D(x).sum(), x, create_graph=True)
            penalty = self.penalty * (((slope ** 2).sum((1, 2, 3)) ** 0.5 - 1) ** 2).mean()
            values = {"D(x)": D(real).mean(), "D(G(z))": D(fake).mean(), "penalty": penalty}
            self.descend(values["D(G(z))"] - values["D(x)"] + penalty, D)
        self.descend(-D(G(self.noise()[0])).mean(), G)
        return values

    def dcgan(self, G, D):
        """Goodfellow et al. 2014, algorithm 1, with the generator's non-saturating loss."""
        real, _ = self.real(self.batches)
        fake = G(self.noise()[0])
        on_real, on_fake = D(real), D(fake.detach())
        self.descend(d_loss := bce(on_real, 1) + bce(on_fake, 0), D)
        self.descend(g_loss := bce(D(fake), 1), G)
        return self.chances(on_real, on_fake) | {"D loss": d_loss, "G loss": g_loss}

    def chances(self, on_real, on_fake):
        return {"D(x)": torch.sigmoid(on_real).mean(), "D(G(z))": torch.sigmoid(on_fake).mean()}

    def acgan(self, G, D):
        """Odena et al. 2017: D raises L_S + L_C of real and of fake, G raises L_C - L_S."""
        class_loss = nn.functional.cross_entropy
        (real, labels), (z, told) = self.real(self.batches), self.noise()
        fake = G(z)
        (on_real, real_class), (on_fake, fake_class) = D(real), D(fake.detach())
        of_class = class_loss(real_class, labels) + class_loss(fake_class, told)
        self.descend((d_loss := bce(on_real, 1) + bce(on_fake, 0)) + of_class, D)
        score, named = D(fake)
        self.descend((g_loss := bce(score, 1)) + (fooled := class_loss(named, told)), G)
        classes = {"class real": class_loss(real_class, labels), "class fake": fooled}
        return self.chances(on_real, on_fake) | classes | {"D loss": d_loss, "G loss": g_loss}

    def lapgan(self, G, D):
        """Denton et al. 2015: a GAN a level; it adds detail to the real, enlarged smaller image."""
        real, _ = self.real(self.batches)
        reals = [nn.functional.avg_pool2d(real, squares) for squares in (8, 4, 2, 1)]
        z = self.noise()[0].flatten(1)
        fakes = [G.base(z[:, :128])]
        for k, (begin, side) in enumerate([(128, 16), (384, 32), (1408, 64)]):
            large = nn.Upsample(scale_factor=2, mode="bilinear")(reals[k])
            plane = z[:, begin:begin + side ** 2].reshape(-1, 1, side, side)
            fakes.append(large + G.detail[k](torch.cat([large, plane], 1)))
        on_reals = sum(bce(D[k](reals[k]), 1) for k in range(4))
        on_fakes = sum(bce(D[k](fakes[k].detach()), 0) for k in range(4))
        self.descend(on_reals + on_fakes, D)
        self.descend(g_loss := sum(bce(D[k](fakes[k]), 1) for k in range(4)), G)
        return {"D loss": on_reals + on_fakes, "G loss": g_loss}

    def cyclegan(self, G, D, F, D_A):
        """Zhu et al. 2017, eq. 1 to 3 with least squares; the identity loss of section 5.2."""
        self.lr = {2: 0.002, 6: 0.001, 7: 0.0005}[self.m.step]    # it falls from step 4 to 8
        a = self.jittered(self.real(self.sources)[0])
        b = self.jittered(self.real(self.batches)[0])
        fake_b, fake_a = G(a), F(b)
        fooled = ((D(fake_b) - 1) ** 2).mean() + ((D_A(fake_a) - 1) ** 2).mean()
        cycle = (F(fake_b) - a).abs().mean() + (G(fake_a) - b).abs().mean()
        identity = (F(a) - a).abs().mean() + (G(b) - b).abs().mean()
        self.descend(fooled + 3 * cycle + 3 * 0.7 * identity, G, F)
        old_a, old_b = map(self.old, (fake_a, fake_b), self.pools)
        d_a = ((D_A(a) - 1) ** 2).mean() / 2 + (D_A(old_a) ** 2).mean() / 2
        d_b = ((D(b) - 1) ** 2).mean() / 2 + (D(old_b) ** 2).mean() / 2
        self.descend(d_a + d_b, D_A, D)
        return dict(D_A=d_a, D_B=d_b, adversarial=fooled, cycle=cycle, identity=identity)

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


@pytest.mark.parametrize("name", [key[:-5] for key in STATED if key.endswith(" step")])
def test_three_steps_are_the_textbooks(name, monkeypatch):
    for kind in (nn.ReLU, nn.LeakyReLU):        # smooth: at a kink rounding would choose the slope
        monkeypatch.setattr(kind, "forward", lambda self, x: nn.functional.silu(x))
    step, (algorithm, *expected) = gan.GANS[name].step, STATED[name + " step"].split()
    m = training(name, optimizer="sgd", lr=0.002, beta1=0.4, penalty=7.0, n_critic=2,
                 cycle=3.0, identity=0.7, pool=5)
    textbook, asked = Textbook(m), []
    m.discriminator[0].register_forward_pre_hook(lambda _, x: asked.append(str(x[0].requires_grad)))
    for m.step in (2, 6, 7):
        torch.manual_seed(m.step)
        values = step(m)
        torch.manual_seed(m.step)
        theirs = getattr(textbook, algorithm)(*textbook.nets)
        torch.testing.assert_close(values, theirs, rtol=1e-4, atol=1e-12, check_dtype=False)
    assert asked == 3 * expected
    ours, theirs = (nn.ModuleList(nets).double() for nets in (m.nets, textbook.nets))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)

    half = training(name, precision="bf16")
    with half.autocast:
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
    kinds, loss = [], nn.functional.cross_entropy
    monkeypatch.setattr(gan.F, "cross_entropy", lambda x, y: kinds.append(x.dtype) or loss(x, y))
    values = step(half).values()
    assert {*kinds, *[value.dtype for value in values]} == {torch.float32}
    # On meta tensors mixing devices fails as on a GPU. Its autocast and fused Adam do not exist.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())
    values = step(training(name, "meta", optimizer="sgd", pool=2)).values()
    assert {value.device.type for value in values} == {"meta"}


@pytest.fixture
def command(tmp_path, prepared):
    """command("acgan --size 32", "run"): the words of a tiny training on DATA, into that folder."""
    def words(options, out, tiny=TINY_GAN):
        options = options.replace("DATA", str(prepared)).split()
        return ["gan", "train", *options, "--data", prepared, *tiny, "--out", tmp_path / out]
    return words


def test_samples_come_from_the_average_and_know_their_class(tmp_path, command, done, lesions):
    run, more, turns = tmp_path / "run", tmp_path / "more.npy", [0, 1] * 34
    done(*command("acgan --size 32 --lr 0.02 --beta2 0.9 --average 0.25 --seed 3 "
                  "--samples 67 --snapshots 3", "run"))
    torch.manual_seed(3)
    result, train = result_of(run), data.resized(lesions.part("train"), 32)
    m = gan.build(result["config"], train, None, torch.device("cpu"))
    assert m.optimizer_d.defaults["lr"] == 0.02 and m.optimizer_g.defaults["betas"] == (0.5, 0.9)
    average, curve = copy.deepcopy(m.generator.state_dict()), []
    for keep in (1 / 10, 2 / 11, 1 / 4, 1 / 4):         # at first less than --average
        curve.append(gan.acgan_step(m)["D loss"].item())
        for key, weight in m.generator.state_dict().items():
            average[key] = keep * average[key] + (1 - keep) * weight
    assert result["curves"]["D loss"] == pytest.approx(curve)
    m.generator.eval().load_state_dict(average)
    done("gan", "sample", run, "--n", 4, "--seed", 9, "--class", "malignant", "--out", more)
    for file, seed, labels in ((run / "samples.npy", 4, turns[:67]),
                               (run / "snapshots/000004.npy", 5, turns[:3]), (more, 9, [1] * 4)):
        z = np.random.default_rng(seed).standard_normal((len(labels), 110), np.float32)
        z[:, :2] = np.eye(2)[labels]
        expected = gan.draw(m.generator, torch.from_numpy(z)[:, :, None, None])
        samples = data.load(file)
        assert np.abs(samples.images - expected.astype(float)).max() <= 1       # rounded
        assert samples.classes == data.TWO and samples.labels.tolist() == labels
    assert set(train.digests()) <= set(samples.info["digests"])
    m = training("dcgan_inception")
    samples = gan.sample_set("name", m.config, m.average, None, np.zeros(9, int), 7)
    z = torch.from_numpy(2 * np.random.default_rng(7).random((9, 100), np.float32) - 1)
    assert (samples.images == gan.draw(m.average, z[:, :, None, None])).all()
    m = training("cyclegan")
    pixels = torch.from_numpy(m.source.images).permute(0, 3, 1, 2) / 127.5 - 1
    for n in (5, 99):
        samples = gan.sample_set("name", m.config, m.average, m.source, np.zeros(n, int), 0)
        assert (samples.images == gan.draw(m.average, pixels[:n])).all()


def test_what_gans_learn_from_and_draw(tmp_path, monkeypatch, command, done, refused, lesions):
    asked, judge = [], metrics.judge_generated
    monkeypatch.setattr(metrics, "judge_generated", lambda *x: asked.append(x) or judge(*x))
    train = lesions.part("train")               # 40 benign, 38 malignant
    benign, malignant = map(train.of_class, data.TWO)
    cases = {                   # learns from, translates, steps in 9 epochs by 8, draws
        "wgan_gp --samples 5": (train, None, 18, 5),
        "acgan --size 32 --samples balance": (data.resized(train, 32), None, 88, 2),
        "dcgan_cls --leak --class benign --samples 3/2": (lesions.of_class("benign"), None, 70, 93),
        "dcgan_cls --class malignant --share 1/2 --samples balance": (
            malignant.share(0.5), None, 22, 1),
        "cyclegan --size 64 --class malignant --top 1/4 --source DATA --source-class benign "
        "--samples 1/2": (malignant.take(slice(10)), benign, 45, 20)}
    for options in ("dcgan_cls --samples many", "dcgan_cls --samples balance", "acgan --z-dim 1",
                    "acgan --class benign", "dcgan_cls --samples 12345678",
                    "acgan --share .03 --batch 8", "cyclegan --source DATA --size 32 --samples 99"):
        refused(options.split()[-2:-1], *command(options, "no"))
    assert not (tmp_path / "no").exists()       # so another --batch is no other job
    tiny = ["--width", 4, "--batch", 8, "--epochs", 9, "--dry-run", "--forget"]
    for options, (learned, translated, steps, number) in cases.items():
        run = tmp_path / options
        done(*command(options, run, tiny))
        config, samples = result_of(run)["config"], data.load(run)
        assert not (run / "model.pt").exists()
        assert (config["dry_run_of"], len(samples)) == (steps, number)
        assert result_of(run)["cost"]["step_seconds"] > 0
        seen = data.what_was_seen(learned, translated) | dict(generator=options.split()[0])
        assert samples.info | seen == samples.info and result_of(run)["counts"] == learned.counts()
        _, known, unseen, _, source = asked.pop()
        test = data.resized(lesions.part("test"), unseen.images.shape[1]).digests()
        assert config["data"] == known.fingerprint() == learned.fingerprint()
        assert {*unseen.digests()} <= {*test}
        assert (len(unseen) > 0) == ("--leak" not in options)
        assert config.get("source") == (source and source.fingerprint())
    assert config.keys() >= {"leak", "share", "source_class", "top", "samples"}
    data.built_in(15, 8).save(tmp_path / "uneven.npy")      # of eight classes 1 2 3 1 2 3 1 2
    words = command("acgan --size 32 --samples balance", "uneven", tiny)
    said = done(*words, "--data", tmp_path / "uneven.npy")
    assert data.load(tmp_path / "uneven").labels.tolist() == [0, 1, 3, 4, 6, 7, 0, 3, 6]
    assert sum(result_of(tmp_path / "uneven")["counts"].values()) == 15 and "has no split" in said


def test_a_loop_keeps_means_ten_snapshots_and_pictures_of_the_average(tmp_path, monkeypatch):
    monkeypatch.setattr(gan, "update_average", lambda *_: None)
    m = training("cyclegan", steps=451, snapshots=2)
    gan.loop(m, tmp_path, lambda m: dict(x=torch.tensor(float(m.step))), range(451),
             gan.jobs.Progress("", 451, 0))
    assert m.record["curves"] == dict(window=2, x=[*np.arange(0.5, 450, 2), 450])
    assert len([*tmp_path.glob("snapshots/*.npy")]) == len([*tmp_path.glob("grid_*.png")]) == 10
    made = gan.draw(m.average, data.to_tensor(m.source.images[:16]))[:8]
    data.save_grid(tmp_path / "expected.png", np.concatenate([m.source.images[:8], made]))
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


@pytest.mark.parametrize("options", [
    "wgan_gp", "dcgan_cls --optimizer sgd --precision bf16", "acgan --size 32",
    "cyclegan --size 32 --blocks 1 --pool 2 --source DATA --source-class benign --samples 9"])
def test_two_and_two_steps_are_four_and_a_cyclegan_translates_its_class(
        tmp_path, command, done, lesions, options):
    whole = tmp_path / "whole"
    done(*command(options, "whole"))
    done(*command(options + " --stop-after 2", "parts"), status=130)
    done(*command(options, "parts"))
    assert result_of(whole) == result_of(tmp_path / "parts")        # the samples' measures, too
    if "cyclegan" in options:
        other = data.resized(lesions.part("test"), 32)      # not those that it learned from
        data.replace(other, split=np.full(len(other), "train")).save(tmp_path / "other.npy")
        done("gan", "sample", whole, "--source", tmp_path / "other.npy", "--n", 3,
             "--out", tmp_path / "made.npy")
        made = data.load(tmp_path / "made.npy")
        seen = data.what_was_seen(data.load(whole), other.of_class("benign"))
        assert made.info | seen == made.info
        assert made.ids[0] == "whole/1000/00000"            # no --seed: not that of a training
