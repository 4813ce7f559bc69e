"""Networks have the papers' parameter counts, losses known answers, and a training resumes exactly."""
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_GAN, result_of
from torch import nn

import data
import gan
import jobs


def parameters(net):
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize("net, count", [
    (lambda: gan.wgan_gp_generator(), 39_473_507), (lambda: gan.wgan_gp_critic(), 33_767_777),
    (lambda: gan.wgan_gp_critic(64), 2_766_657), (lambda: gan.dcgan_discriminator(), 4_316_545),
    (lambda: gan.dcgan_generator(100), 5_135_363), (lambda: gan.dcgan_generator(128), 5_364_739),
    (lambda: gan.dcgan_generator(100, 128), 18_872_323), (lambda: gan.acgan_generator(), 11_465_728),
    (lambda: gan.acgan_discriminator(), 2_352_505), (lambda: gan.cyclegan_generator(), 11_378_179),
    (lambda: gan.cyclegan_discriminator(), 2_764_737), (lambda: gan.wgan_gp_generator(512, 64, bias=False), 6_951_808),
    (lambda: gan.conv4_discriminator(64, nn.BatchNorm2d, bias=False), 2_765_696)])
def test_parameter_counts(net, count):
    assert parameters(net()) == count


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_acgans_judge_ends_on_13_or_14_pixels_at_every_size(size):
    """Ending at 1 x 1, as the first edition's did at 32 px, a BatchNorm over fakes alone makes them look real."""
    judge = gan.acgan_discriminator(8, 16, size)
    features = judge[:-2](torch.randn(2, 3, size, size))
    assert features.shape[1] == 128 and features.shape[2] in (13, 14)


@pytest.mark.parametrize("name", gan.GANS)
def test_recipes_build_networks_that_fit_each_other(name):
    entry = gan.GANS[name]
    config = {key: value for key, (value, _) in entry.recipe.items()}
    config |= dict(model=name, classes=data.EIGHT, width=8)
    side = config.get("size", 64)
    inputs = torch.randn(2, 3, side, side) if entry.source else gan.noise(config, 2)[0]
    image = entry.generator(config).eval()(inputs)
    assert image.shape == (2, 3, side, side) and image.abs().max() <= 1
    if name != "lapgan":
        judged = entry.discriminator(config).eval()(image)
        assert len(judged) == 2
    assert all(source for _, source in entry.recipe.values())


def test_patchgan_judges_30_by_30_patches_of_70_pixels():
    judge = gan.cyclegan_discriminator(4).eval()
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    convolutions = nn.Sequential(*(layer for layer in judge if not isinstance(layer, nn.InstanceNorm2d)))
    scores = convolutions(x)
    scores[0, 0, 15, 15].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()
    assert scores.shape == (1, 1, 30, 30) and int(rows.max() - rows.min()) + 1 == 70


# ---- Losses

class Linear(nn.Module):
    """critic(x) = weight . x: its gradient is the weight, everywhere."""

    def __init__(self, norm):
        super().__init__()
        weight = torch.randn(3 * 64 * 64)
        self.weight = nn.Parameter(norm * weight / weight.norm())

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_is_known(norm):
    real, fake = torch.randn(2, 5, 3, 64, 64)
    penalty = gan.gradient_penalty(Linear(norm), real, fake, weight=10.0)
    assert penalty.item() == pytest.approx(10 * (norm - 1) ** 2, abs=1e-4)


def test_the_penalty_takes_one_norm_per_image_over_all_its_values():
    scale = torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)

    def critic(x):                              # gradient of image i: scale[i] / 8 in each of its 64 values
        return (x * scale / 8).sum((1, 2, 3))

    penalty = gan.gradient_penalty(critic, torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), 1.0)
    assert float(penalty) == pytest.approx(((0.5 - 1) ** 2 + (2 - 1) ** 2) / 2, abs=1e-5)


def test_the_penalty_is_taken_between_real_and_fake_and_is_finite_at_zero_gradient():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return (x * 0).sum((1, 2, 3))

    penalty = gan.gradient_penalty(critic, torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2), 1.0)
    assert math.isfinite(float(penalty)) and 0 < seen[0].min() < 0.2 and 0.8 < seen[0].max() < 1
    assert (seen[0] == seen[0][:, :, :1, :1]).all()         # one alpha per image


def model(name, generator, discriminator, **config):
    """A model as gan.build makes it, with given networks; batches of ones."""
    full = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
    full |= dict(model=name, classes=data.EIGHT, of_class=None, batch=6, width=4) | config
    pixels = torch.full((6, 3, 64, 64), 200, dtype=torch.uint8)
    m = SimpleNamespace(config=full, generator=generator, discriminator=discriminator, step=0)
    m.batches = SimpleNamespace(next=lambda: (pixels, torch.arange(6)))
    m.real = lambda: data.scaled(m.batches.next()[0])
    m.noise = lambda n: gan.noise(full, n)
    m.autocast = nullcontext()
    m.optimizer_g = torch.optim.SGD(generator.parameters(), 1e-3)
    m.optimizer_d = torch.optim.SGD(discriminator.parameters(), 1e-3)
    return m


class Constant(nn.Module):
    """A judge that knows nothing: every logit is the same; with classes, the ACGAN's two heads."""

    def __init__(self, classes=0):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))
        self.classes = classes

    def forward(self, x):
        score = self.logit + 0 * x.flatten(1).sum(1)
        if self.classes:
            return score, score[:, None].expand(-1, self.classes)
        return score


def test_dcgan_losses_of_a_judge_that_knows_nothing():
    m = model("dcgan_cls", gan.dcgan_generator(128, 4), Constant())
    values = gan.dcgan_step(m)
    assert float(values["D loss"]) == pytest.approx(2 * math.log(2), abs=1e-6)
    assert float(values["G loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(values["D(x)"]) == float(values["D(G(z))"]) == 0.5


@pytest.mark.parametrize("name, step", [("dcgan_cls", gan.dcgan_step), ("acgan", gan.acgan_step)])
def test_real_and_fake_images_pass_the_discriminator_apart(name, step):
    """BatchNorm would mix them: no batch may hold real images (here all of one colour) and fakes."""
    judge, seen = Constant(8 if name == "acgan" else 0), []
    judge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    generator = gan.acgan_generator(110, 4, 64) if name == "acgan" else gan.dcgan_generator(128, 4)
    step(model(name, generator, judge, size=64))
    colour = 200 / 127.5 - 1
    real = [int(torch.isclose(batch, torch.tensor(colour)).flatten(1).all(1).sum()) for batch in seen]
    assert real == [6, 0, 0]                    # real, fake for the judge, fake for the generator


def test_the_acgans_class_loss_of_a_judge_that_knows_nothing_is_log_k():
    """It takes raw logits: softmax twice, as popular code has it, would give log K too, so shift one logit."""
    m = model("acgan", gan.acgan_generator(110, 4, 64), Constant(8), size=64)
    values = gan.acgan_step(m)
    assert float(values["class real"]) == pytest.approx(math.log(8), abs=1e-6)
    assert float(values["class fake"]) == pytest.approx(math.log(8), abs=1e-6)

    sure = Constant(8)
    sure.forward = lambda x: (0 * x.flatten(1).sum(1) + sure.logit, 20 * torch.eye(8)[:6] + sure.logit)
    m = model("acgan", gan.acgan_generator(110, 4, 64), sure, size=64)
    assert float(gan.acgan_step(m)["class real"]) < 1e-6    # softmax twice could not go below 1.27


def test_the_real_acgan_does_not_start_at_log_k():
    """Its class logits have a large deviation at the start: the first edition's note on this was wrong."""
    torch.manual_seed(0)
    _, logits = gan.acgan_discriminator(8, 64, 128)(torch.randn(16, 3, 128, 128))
    loss = nn.functional.cross_entropy(logits, torch.arange(16) % 8)
    assert float(loss) > 1.5 * math.log(8)


def test_cyclegan_losses_of_generators_that_change_nothing(monkeypatch):
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.weight

    monkeypatch.setattr(gan, "crop_and_flip", lambda x: x)
    m = model("cyclegan", Same(), Constant(), steps=10)
    m.back, m.judge_a, m.source_batches = Same(), Constant(), m.batches
    m.pool_a, m.pool_b = jobs.Record(images=[]), jobs.Record(images=[])
    values = gan.cyclegan_step(m)
    assert float(values["cycle"]) == float(values["identity"]) == 0
    assert float(values["adversarial"]) == 2                # two scores of 0, wanted 1
    assert float(values["D_A"]) == float(values["D_B"]) == 0.5
    m.step = 9
    gan.cyclegan_step(m)
    assert m.optimizer_g.param_groups[0]["lr"] == pytest.approx(2e-4 * 0.2)     # falls to zero at step 10


@pytest.mark.parametrize("name, step", [("dcgan_cls", gan.dcgan_step), ("wgan_gp", gan.wgan_gp_step),
                                        ("lapgan", gan.lapgan_step), ("dermagan", gan.dcgan_step)])
def test_a_step_trains_both_networks_and_leaves_them_trainable(name, step):
    entry = gan.GANS[name]
    m = model(name, *(build(model_config(name)) for build in (entry.generator, entry.discriminator)))
    before = [weight.clone() for net in (m.generator, m.discriminator) for weight in net.parameters()]
    step(m)
    after = [weight for net in (m.generator, m.discriminator) for weight in net.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after)]
    assert np.mean(moved) > 0.9                 # biases in front of a BatchNorm have no gradient
    assert all(weight.requires_grad and weight.isfinite().all() for weight in after)


def model_config(name):
    config = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
    return config | dict(width=4, classes=data.EIGHT)


def test_a_critic_step_leaves_the_generator_alone_and_there_is_no_batchnorm_in_a_critic():
    m = model("wgan_gp", gan.wgan_gp_generator(200, 4), gan.wgan_gp_critic(4))
    before = [weight.clone() for weight in m.generator.parameters()]
    gan.critic_step(m)
    assert all(torch.equal(a, b) for a, b in zip(before, m.generator.parameters()))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in m.discriminator.modules())
    critic, x = gan.wgan_gp_critic(4), torch.randn(4, 3, 64, 64)
    assert torch.allclose(critic(x)[:1], critic(x[:1]), atol=1e-5)      # no image looks at the others


def test_image_pool_shows_new_images_until_it_is_full_and_then_old_ones_half_of_the_time():
    torch.manual_seed(0)
    pool = jobs.Record(images=[])
    shown = [int(gan.show_old(pool, 10, torch.full((1, 1), k))) for k in range(400)]
    assert shown[:10] == list(range(10))
    old = np.mean([value < k for k, value in enumerate(shown)][10:])
    assert 0.4 < old < 0.6 and len(pool["images"]) == 10


# ---- Noise, averages, samples

def test_noise_of_each_kind():
    config = dict(model="acgan", z_dim=110, classes=data.EIGHT)
    z, labels = gan.noise(config, 20, np.random.default_rng(0))
    assert labels.tolist() == [k % 8 for k in range(20)]
    assert torch.equal(z[:, :8, 0, 0].argmax(1), labels) and float(z[:, :8].sum()) == 20
    few, _ = gan.noise(config, 5, np.random.default_rng(0))
    assert torch.equal(few, z[:5])                          # image i does not depend on n
    uniform, _ = gan.noise(dict(model="dcgan_inception", z_dim=100, classes=["malignant"]), 50)
    assert -1 <= uniform.min() < -0.9 and 0.9 < uniform.max() <= 1


def test_the_average_takes_weights_and_batchnorm_statistics():
    net, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    net.weight.data.fill_(3.0)
    net.running_mean.fill_(5.0)
    gan.update_average(average, net, 1000, decay=0.75)
    assert torch.allclose(average.weight, torch.full((2,), 1.5))
    assert torch.allclose(average.running_mean, torch.full((2,), 1.25))


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in():
    generator = gan.dcgan_generator(16, 4).eval()
    z = torch.randn(70, 16, 1, 1)
    together, alone = gan.draw(generator, z), gan.draw(generator, z[66:67])
    assert np.abs(together[66].astype(int) - alone[0]).max() <= 1


def test_diversity():
    real = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3)).astype(np.uint8)
    assert gan.diversity(real, real) == pytest.approx(1)
    assert gan.diversity(real[:1].repeat(8, 0), real) == 0
    light = np.arange(0, 80, 10, dtype=np.uint8).reshape(8, 1, 1, 1)
    assert gan.diversity(real[:1] // 2 + light, real) == pytest.approx(0, abs=1e-6)


# ---- Training

FAMILIES = [("wgan_gp", ["--width", 4]), ("dcgan_cls", ["--width", 4, "--optimizer", "sgd"]),
            ("lapgan", ["--width", 4]), ("acgan", ["--size", 32, "--width", 4]),
            ("cyclegan", ["--size", 32, "--width", 4, "--blocks", 1, "--pool", 2]),
            ("dcgan_inception", ["--width", 4, "--precision", "bf16"])]


@pytest.mark.parametrize("name, options", FAMILIES)
def test_two_and_two_steps_are_four(tmp_path, done, prepared, name, options):
    train = ["gan", "train", name, "--data", prepared, "--batch", 4, "--steps", 4, "--samples", 8, *options]
    if name == "cyclegan":
        train += ["--source", prepared, "--source-class", "benign", "--class", "malignant"]
    done(*train, "--out", tmp_path / "whole")
    done(*train, "--out", tmp_path / "parts", "--stop-after", 2)
    assert not (tmp_path / "parts" / "result.json").exists()
    done(*train, "--out", tmp_path / "parts")
    assert result_of(tmp_path / "whole") == result_of(tmp_path / "parts")
    whole, parts = (data.load(tmp_path / name) for name in ("whole", "parts"))
    assert (whole.images == parts.images).all()


def test_kill_9_or_ctrl_c_and_the_same_command_again_gives_the_same_result(tmp_path, prepared):
    def start(out):
        words = [sys.executable, str(ROOT / "gan.py"), "train", "dcgan_cls", "--data", str(prepared),
                 "--width", "4", "--batch", "4", "--steps", "60", "--out", str(out)]
        code = "import jobs, runpy, sys; jobs.SAVE_EVERY = 0; sys.argv = sys.argv[1:]; " \
               "runpy.run_path(sys.argv[0], run_name='__main__')"
        return subprocess.Popen([words[0], "-c", code, *words[1:]], cwd=ROOT, stderr=subprocess.PIPE,
                                env=dict(os.environ, OMP_NUM_THREADS="1"), text=True)

    assert start(tmp_path / "whole").wait() == 0
    checkpoint = tmp_path / "cut" / "checkpoint.pt"
    for kind in (signal.SIGKILL, signal.SIGINT):
        process, before = start(tmp_path / "cut"), checkpoint.exists() and checkpoint.stat().st_mtime_ns
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(kind)
        words = process.communicate()[1]
        if kind == signal.SIGINT:
            assert process.returncode == 130 and words.splitlines()[-1].startswith("gan.py: stopped")
    assert start(tmp_path / "cut").wait() == 0
    assert result_of(tmp_path / "whole") == result_of(tmp_path / "cut")


def test_a_gan_sees_the_training_part_alone_and_its_samples_say_so(tmp_path, done, lesions, made, prepared):
    samples = data.load(made["benign"])
    train = lesions.part("train").of_class("benign")
    assert set(samples.info["digests"]) == set(train.digests()) and samples.classes == ["benign"]
    assert set(samples.info["seen_ids"]) == set(train.ids)
    done("gan", "sample", made["benign"], "--n", 3, "--out", tmp_path / "more.npy")
    assert data.load(tmp_path / "more.npy").info["digests"] == samples.info["digests"]
    done("gan", "train", "cyclegan", "--source", made["benign"], "--data", prepared, "--class", "malignant",
         "--size", 64, "--width", 4, "--blocks", 1, "--steps", 1, "--samples", 2, "--out", tmp_path / "cycle")
    chain = set(data.load(tmp_path / "cycle").info["digests"])
    assert set(train.digests()) < chain             # what the first GAN saw, and its own images
    done("gan", "train", "dcgan_cls", "--data", made["benign"], *TINY_GAN, "--out", tmp_path / "second")
    assert set(train.digests()) < set(data.load(tmp_path / "second").info["digests"])   # a GAN of a GAN
    done("gan", "sample", tmp_path / "cycle", "--source", prepared, "--n", 9, "--out", tmp_path / "all.npy")
    assert set(lesions.digests()) <= set(data.load(tmp_path / "all.npy").info["digests"])


def test_samples_as_many_as_asked(tmp_path, done, lesions, prepared):
    counts = lesions.part("train").counts()
    few, many = sorted(counts, key=counts.get)
    train = ["gan", "train", "dcgan_cls", "--data", prepared, "--class", few, *TINY_GAN]
    done(*train, "--samples", "balance", "--out", tmp_path / "balance")
    assert len(data.load(tmp_path / "balance")) == max(1, counts[many] - counts[few])
    done(*train, "--samples", 3, "--per", 2, "--out", tmp_path / "per")
    assert len(data.load(tmp_path / "per")) == round(counts[few] * 1.5)


def test_a_changed_option_is_refused_by_name_and_a_done_job_is_skipped(tmp_path, done, refused, prepared):
    train = ["gan", "train", "dcgan_cls", "--data", prepared, *TINY_GAN, "--out", tmp_path / "job"]
    done(*train)
    assert "done before" in done(*train)
    refused(["lr 0.0002 -> 0.1"], *train, "--lr", 0.1)


def test_a_broken_down_training_keeps_its_last_good_checkpoint(tmp_path, cli, prepared):
    train = ["gan", "train", "dcgan_cls", "--data", prepared, *TINY_GAN, "--optimizer", "sgd", "--lr", 1e11]
    status, _, err = cli(*train, "--out", tmp_path / "job")
    assert status == 2 and "not a finite number" in err and not (tmp_path / "job" / "result.json").exists()


@pytest.mark.parametrize("words, options", [
    (["--size", "63"], ["dcgan_cls", "--size", 63]), (["no class mole"], ["dcgan_cls", "--class", "mole"]),
    (["--batch 1"], ["dcgan_cls", "--batch", 1]), (["too few"], ["dcgan_cls", "--batch", 5000]),
    (["--samples many"], ["dcgan_cls", "--samples", "many"]), (["--lr"], ["dcgan_cls", "--lr", "nan"]),
    (["--optimizer"], ["dcgan_cls", "--optimizer", "adma"]), (["--size"], ["cyclegan", "--source", "x", "--size", 16]),
    (["--z-dim 1"], ["acgan", "--size", 32, "--z-dim", 1])])
def test_bad_options_end_in_one_line(tmp_path, refused, prepared, words, options):
    name, *rest = options
    refused(words, "gan", "train", name, "--data", prepared, "--out", tmp_path / "job", *rest)


def test_weights_can_be_left_out(tmp_path, done, prepared):
    done("gan", "train", "dcgan_cls", "--data", prepared, *TINY_GAN, "--forget", "--out", tmp_path)
    assert (tmp_path / "samples.npy").exists() and not (tmp_path / "model.pt").exists()


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, refused, made):
    saved = torch.load(made["benign"] / "model.pt")
    shutil.copy(made["benign"] / "config.json", tmp_path)
    name = next(iter(saved["average"]))
    for state in ({}, 3, saved["average"] | {name: "x"}):
        jobs.save_state(tmp_path / "model.pt", saved | dict(average=state))
        refused(["model.pt is of another job"], "gan", "sample", tmp_path, "--out", tmp_path / "x.npy")


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path, done, refused, prepared):
    train = ["gan", "train", "dcgan_cls", "--data", prepared, *TINY_GAN, "--out", tmp_path / "job"]
    done(*train, "--stop-after", 2)
    file = tmp_path / "job" / "checkpoint.pt"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(raw)
    refused(["checkpoint.pt is damaged"], *train)
