import copy
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import data
import gan
from conftest import ROOT, result_of, same_pictures

TINY = ["--width", 4, "--z-dim", 8, "--batch", 8, "--n-critic", 2, "--log-every", 1, "--checkpoint-every", 1, "--samples", 6, "--device", "cpu"]


def train(cli, prepared, out, *more, steps=4):
    return cli("gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--steps", steps, "--out", out, *TINY, *more)


def latents(n, seed, z_dim=8):
    return gan.noise("wgan_gp", n, z_dim, 1, np.random.default_rng(seed))[0]


# --- networks

@pytest.mark.parametrize("net, parameters", [
    (lambda: gan.wgan_gp_generator(200, 224), 39_473_507), (lambda: gan.wgan_gp_critic(224), 33_767_777),
    (lambda: gan.wgan_gp_critic(64), 2_766_657), (lambda: gan.wgan_gp_generator(200, 64), 4_396_867),
    (lambda: gan.dcgan_generator(100), 5_135_363), (lambda: gan.dcgan_generator(128), 5_364_739),
    (lambda: gan.dcgan_discriminator(), 4_316_545), (lambda: gan.dcgan_generator(100, 128), 18_872_323),
    (lambda: gan.acgan_generator(), 11_465_728), (lambda: gan.acgan_discriminator(8), 2_352_505),
    (lambda: gan.cyclegan_generator(), 11_378_179), (lambda: gan.cyclegan_discriminator(), 2_764_737),
    (lambda: gan.dermagan_generator(), 6_951_808), (lambda: gan.dermagan_discriminator(), 2_765_696)])
def test_parameter_counts(net, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == parameters


def test_the_recipes_are_the_papers_networks():
    """What `train MODEL` builds without options has the counts of the papers."""
    wanted = dict(wgan_gp=(39_473_507, 33_767_777), dcgan_inception=(18_872_323, 17_234_689), dcgan_cls=(5_364_739, 4_316_545), acgan=(11_465_728, 2_352_505),
                  cyclegan=(11_378_179, 2_764_737), dermagan=(6_951_808, 2_765_696))
    for model, counts in wanted.items():
        config = {key: value for key, (value, _) in gan.RECIPES[model].items()} | dict(model=model, size=128)
        with torch.device("meta"):
            assert tuple(sum(p.numel() for p in net.parameters()) for net in gan.networks(config, 8)) == counts, model


@pytest.mark.parametrize("model, size", [(m, 64) for m in gan.RECIPES if m not in gan.SIZES] + [("acgan", 32), ("acgan", 64), ("acgan", 128), ("cyclegan", 32)])
def test_every_model_maps_its_input_to_images_and_images_to_one_logit_each(model, size):
    width = 4 if model != "plain_gan" else 20
    config = dict(model=model, size=size, width=width, z_dim=gan.RECIPES[model].get("z_dim", (0,))[0], blocks=1)
    generator, discriminator = gan.networks(config, 5)
    z = gan.noise(model, 3, config["z_dim"], 5)[0] if model != "cyclegan" else torch.rand(3, 3, size, size)
    images = generator.eval()(z)
    assert images.shape == (3, 3, size, size) and images.abs().max() <= 1
    scores = discriminator[-1](images) if model == "lapgan" else discriminator(images)
    assert len(scores[0] if model == "acgan" else scores) == 3
    if model == "acgan":
        assert scores[1].shape == (3, 5)


def test_patchgan_judges_30_by_30_patches_of_70_pixels():
    judge = gan.cyclegan_discriminator(4).eval()
    for layer in judge:                                             # InstanceNorm looks at the whole image: not for this question
        if isinstance(layer, nn.InstanceNorm2d):
            layer.forward = lambda x: x
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    score = judge(image)
    assert score.shape == (1, 1, 30, 30)
    score[0, 0, 15, 15].backward()
    touched = image.grad[0].abs().sum(0).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [70, 70]


def test_dcgan_weights_start_at_a_deviation_of_002():
    torch.manual_seed(0)
    for net in (gan.dcgan_discriminator(16), gan.acgan_discriminator(8, 16), gan.cyclegan_generator(16, 1)):
        weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02) and abs(weights.mean()) < 1e-3
    assert all(m.eps == 1e-5 for m in gan.dcgan_discriminator(4).modules() if isinstance(m, nn.BatchNorm2d))


def test_shapes_and_range():
    images = gan.wgan_gp_generator(8, 4)(torch.randn(3, 8, 1, 1))
    assert images.shape == (3, 3, 64, 64) and images.abs().max() <= 1
    assert gan.wgan_gp_critic(4)(images).shape == (3,)


def test_critic_scores_an_image_without_looking_at_the_others():
    critic, images = gan.wgan_gp_critic(4), torch.rand(5, 3, 64, 64)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    assert torch.allclose(critic(images)[2], critic(images[2:3])[0], atol=1e-5)


def test_describe_prints_the_three_tables(cli):
    status, out, _ = cli("gan", "describe", "wgan_gp")
    assert status == 0
    for total in ("39,473,507", "33,767,777", "2,766,657", "25,691,904"):
        assert total in out


# --- the gradient penalty

def test_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(3 * 8 * 8)
    penalty = gan.gradient_penalty(lambda x: x.flatten(1) @ weight, torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8), weight=7.0)
    assert penalty.item() == pytest.approx(7 * (weight.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_takes_the_norm_of_each_image_over_all_its_values():
    """D(x) = |x|^2 / 2 has gradient x, so each image has its own norm; a norm over channels or over the batch gives another number."""
    real = torch.rand(5, 3, 8, 8) * torch.arange(1, 6).view(5, 1, 1, 1)
    expected = 10 * (real.flatten(1).norm(dim=1) - 1).square().mean()
    assert gan.gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, real.clone()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_penalty_is_taken_between_real_and_fake(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.25))
    seen = []
    gan.gradient_penalty(lambda x: seen.append(x) or x.flatten(1).sum(1), torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert torch.equal(seen[0], torch.full((2, 3, 4, 4), 0.25))


def test_penalty_is_finite_where_the_gradient_is_zero():
    weight = torch.zeros(12, requires_grad=True)
    gan.gradient_penalty(lambda x: x.flatten(1) @ weight, torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)).backward()
    assert torch.isfinite(weight.grad).all()


# --- steps

def test_a_critic_step_raises_the_gap_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    generator, critic = gan.wgan_gp_generator(8, 4), gan.wgan_gp_critic(4)
    before = copy.deepcopy(dict(generator.named_parameters()))
    optimizer, real = torch.optim.Adam(critic.parameters(), 3e-3, (0.0, 0.9)), torch.rand(8, 3, 64, 64)
    off = torch.autocast("cpu", torch.bfloat16, enabled=False)
    gaps = [gan.critic_step(generator, critic, optimizer, real, 8, 10.0, off) for _ in range(20)]
    assert (gaps[-1][0] - gaps[-1][1]) > 3 * (gaps[0][0] - gaps[0][1]) > 0
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in generator.named_parameters())


def test_a_generator_step_raises_the_score_and_leaves_the_critic_alone():
    torch.manual_seed(0)
    generator, critic = gan.wgan_gp_generator(8, 4), gan.wgan_gp_critic(4)
    before, optimizer = copy.deepcopy(critic.state_dict()), torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.9))
    off, z = torch.autocast("cpu", torch.bfloat16, enabled=False), torch.randn(64, 8, 1, 1)
    score = critic(generator(z)).mean().item()
    for _ in range(5):
        gan.generator_step(generator, critic, optimizer, 16, 8, torch.device("cpu"), off)
    assert critic(generator(z)).mean().item() > score
    assert all(torch.equal(before[name], value) for name, value in critic.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in critic.parameters())


# --- losses and steps of the other families

OFF = torch.autocast("cpu", torch.bfloat16, enabled=False)


class Constant(nn.Module):
    """A discriminator that gives the same logit to everything, and remembers the batches that it was shown."""

    def __init__(self, value=0.0, classes=None):
        super().__init__()
        self.value, self.classes, self.seen = nn.Parameter(torch.tensor(value)), classes, []

    def forward(self, x):
        self.seen.append(x)
        score = self.value.expand(len(x)) + 0 * x.flatten(1).sum(1)
        return (score, torch.zeros(len(x), self.classes) + 0 * self.value + 0 * x.flatten(1).sum(1, keepdim=True)) if self.classes else score


def sgd(net, lr=0.0):
    return torch.optim.SGD(net.parameters(), lr)


def test_bce_is_the_cross_entropy_of_a_logit():
    assert gan.bce(torch.zeros(4), 1).item() == pytest.approx(math.log(2))
    assert gan.bce(torch.full((4,), 3.0), 0).item() == pytest.approx(math.log(1 + math.e ** 3))
    assert gan.bce(torch.full((4,), -3.0), 1).item() == pytest.approx(math.log(1 + math.e ** 3))


def test_dcgan_losses_of_a_discriminator_that_knows_nothing():
    generator, judge = gan.dcgan_generator(8, 2), Constant(0.7)
    d_loss, g_loss, on_real, on_fake = gan.dcgan_step(generator, judge, sgd(generator), sgd(judge), torch.rand(4, 3, 64, 64), torch.randn(4, 8, 1, 1), OFF)
    p = 1 / (1 + math.exp(-0.7))
    assert d_loss.item() == pytest.approx(-math.log(p) - math.log(1 - p), rel=1e-5)
    assert g_loss.item() == pytest.approx(-math.log(p), rel=1e-5)   # non-saturating: -log D(G(z)), not log(1 - D(G(z)))
    assert on_real.item() == on_fake.item() == pytest.approx(p)
    assert [len(batch) for batch in judge.seen] == [4, 4, 4]        # real and fake apart: BatchNorm must not mix them


def test_a_dcgan_step_trains_each_network_for_its_own_aim():
    torch.manual_seed(0)
    generator, judge = gan.dcgan_generator(8, 4), gan.dcgan_discriminator(4)
    real, z = torch.rand(16, 3, 64, 64), torch.randn(16, 8, 1, 1)
    frozen = copy.deepcopy(generator.state_dict())
    first = [gan.dcgan_step(generator, judge, sgd(generator), torch.optim.Adam(judge.parameters(), 1e-3), real, z, OFF) for _ in range(15)]
    assert first[-1][0] < first[0][0] / 2                           # the discriminator alone gets better
    assert all(torch.equal(v, frozen[k]) for k, v in generator.state_dict().items() if "running" not in k and "num_b" not in k)
    judged = copy.deepcopy(dict(judge.named_parameters()))
    then = [gan.dcgan_step(generator, judge, torch.optim.Adam(generator.parameters(), 1e-3), sgd(judge), real, z, OFF) for _ in range(15)]
    assert then[-1][1] < then[0][1] / 2 and then[-1][3] > then[0][3]
    assert all(torch.equal(v, judged[k]) and v.requires_grad for k, v in judge.named_parameters())


def test_acgan_class_loss_starts_at_log_k_and_takes_raw_logits():
    generator, judge = gan.acgan_generator(20, 4, 32), Constant(0.0, classes=8)
    z, labels = gan.noise("acgan", 6, 20, 8, np.random.default_rng(0))
    stats = gan.acgan_step(generator, judge, sgd(generator), sgd(judge), torch.rand(6, 3, 32, 32), labels, z, labels, OFF)
    assert stats[2].item() == pytest.approx(math.log(8), rel=1e-5) and stats[3].item() == pytest.approx(math.log(8), rel=1e-5)
    head = gan.TwoHeads(5, 8)
    x = torch.randn(3, 5)
    assert torch.equal(head(x)[1], head.label(x))                   # no softmax inside: cross_entropy would apply it twice
    assert not isinstance(list(gan.acgan_discriminator(8, 4, 32))[-1], (nn.Softmax, nn.LogSoftmax))


def test_acgan_discriminator_learns_the_class_of_fakes_too_and_the_generator_gets_both_gradients():
    """Every term of the losses is there: turning one network into a constant in one respect changes the gradient."""
    class Judge(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.label = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.zeros(2))

        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return self.source * mean, torch.stack([mean * 0, mean], 1) + self.label

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.level = nn.Parameter(torch.tensor(0.25))

        def forward(self, z):
            return self.level.expand(len(z), 3, 4, 4)

    judge, generator = Judge(), Flat()
    grads = {}
    optimizer_d, optimizer_g = sgd(judge), sgd(generator)
    for name, optimizer in (("d", optimizer_d), ("g", optimizer_g)):
        optimizer.step = lambda name=name, net=dict(d=judge, g=generator)[name]: grads.update(
            {f"{name}.{key}": p.grad.clone() for key, p in net.named_parameters()})
    real, labels = torch.full((4, 3, 4, 4), 0.75), torch.tensor([0, 0, 0, 1])
    fake_labels = torch.tensor([1, 1, 1, 1])
    gan.acgan_step(generator, judge, optimizer_g, optimizer_d, real, labels, torch.zeros(4, 1), fake_labels, OFF)

    def p(x):
        return 1 / (1 + math.exp(-x))
    on_real, on_fake = p(0.75), p(0.25)                             # chance of class 1
    wanted = (on_real - 1 / 4) + (on_fake - 1)                      # of real images and of fakes, which shall be class 1
    assert grads["d.label"][1].item() == pytest.approx(wanted, rel=1e-4)
    adversarial, named = -(1 - p(0.5 * 0.25)) * 0.5, on_fake - 1
    assert grads["g.level"].item() == pytest.approx(adversarial + named, rel=1e-4)
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in gan.acgan_discriminator(8, 4, 32)) == 6


def test_acgan_learns_the_classes_of_real_images_and_asks_the_generator_for_its_own():
    torch.manual_seed(0)
    labels = torch.arange(16) % 2
    real = labels.view(-1, 1, 1, 1).float().expand(16, 3, 32, 32) * 2 - 1      # black and white
    generator, judge = gan.acgan_generator(20, 4, 32), gan.acgan_discriminator(2, 16, 32)
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    for _ in range(60):
        z, fake_labels = gan.noise("acgan", 16, 20, 2)
        stats = gan.acgan_step(generator, judge, sgd(generator), optimizer, real, labels, z, fake_labels, OFF)
    assert stats[2] < 0.2                                           # class loss on real images, at the start log 2 = 0.69
    optimizer, losses = torch.optim.Adam(generator.parameters(), 2e-3), []
    for _ in range(60):
        losses.append(gan.acgan_step(generator, judge, optimizer, sgd(judge), real, labels, z, fake_labels, OFF)[3].item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_acgan_noise_carries_the_class_one_hot_in_front_and_classes_take_turns():
    z, labels = gan.noise("acgan", 20, 30, 8, np.random.default_rng(1))
    assert labels.tolist() == [k % 8 for k in range(20)]
    assert torch.equal(z[:, :8, 0, 0], nn.functional.one_hot(labels, 8).float()) and z[:, 8:].std() > 0.8
    assert torch.equal(gan.noise("acgan", 5, 30, 8, np.random.default_rng(1))[0], z[:5])


def test_paper_004_draws_uniform_noise():
    for rng in (None, np.random.default_rng(0)):
        z = gan.noise("dcgan_inception", 500, 100, 1, rng)[0]
        assert z.abs().max() <= 1 and z.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)
        assert gan.noise("dcgan_cls", 500, 100, 1, rng)[0].std().item() == pytest.approx(1, rel=0.02)


def test_cyclegan_losses_of_two_generators_that_change_nothing():
    same = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        same.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    other = copy.deepcopy(same)
    judges = [Constant(0.3), Constant(0.3)]
    pools = [gan.ImagePool(4, (3, 8, 8)) for _ in "ab"]
    both = nn.ModuleList([same, other, *judges])
    a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    d_a, d_b, fooled, around, kept = gan.cyclegan_step([same, other, *judges, *pools], sgd(both), sgd(both), a, b, 10, 0.5, OFF)
    assert around.item() == kept.item() == 0
    assert fooled.item() == pytest.approx(2 * (0.3 - 1) ** 2, rel=1e-5)                     # least squares
    assert d_a.item() == d_b.item() == pytest.approx(((0.3 - 1) ** 2 + 0.3 ** 2) / 2, rel=1e-5)
    assert torch.equal(pools[1].images[:2], a) and torch.equal(pools[0].images[:2], b)      # fake A is what B became


def test_cyclegan_weighs_cycle_and_identity():
    """A generator that only adds a number: the gradient of the total loss with respect to it is known."""
    class Add(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.1))

        def forward(self, x):
            return x + self.shift

    forth, back, judges = Add(), Add(), [Constant(0.0), Constant(0.0)]
    optimizer = torch.optim.SGD([forth.shift, back.shift], 1.0)
    pools = [gan.ImagePool(4, (3, 8, 8)) for _ in "ab"]
    gan.cyclegan_step([forth, back, *judges, *pools], optimizer, sgd(judges[0]), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), 3.0, 0.5, OFF)
    assert forth.shift.item() == pytest.approx(0.1 - (2 * 3.0 + 3.0 * 0.5), rel=1e-5)      # two cycles and one identity, slope 1 each


def test_image_pool_returns_new_images_until_it_is_full_and_then_old_ones_half_of_the_time():
    torch.manual_seed(0)
    pool = gan.ImagePool(10, (1, 1, 1))
    numbers = torch.arange(400.0).view(-1, 1, 1, 1)
    assert torch.equal(pool(numbers[:10]), numbers[:10]) and pool.filled == 10
    shown = torch.cat([pool(numbers[k:k + 1]) for k in range(10, 400)]).flatten()
    old = (shown != torch.arange(10.0, 400)).float().mean().item()
    assert 0.4 < old < 0.6 and set(shown.int().tolist()) <= set(range(400))
    late = [k for at, k in enumerate(shown.int().tolist()) if 10 <= k < at + 10]
    assert len(late) > 50                                           # images that came after the first ten are kept and shown again
    again = gan.ImagePool(10, (1, 1, 1))
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.images, pool.images) and again.filled == 10


def test_crop_and_flip_moves_and_mirrors_but_keeps_size_and_range():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    seen = [gan.crop_and_flip(x) for _ in range(12)]
    assert all(y.shape == x.shape and y.abs().max() <= 1 for y in seen)
    assert len({round(y.sum().item(), 3) for y in seen}) > 6
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)           # dark on the left, light on the right
    mirrored = sum(int(y[..., 0].mean() > y[..., -1].mean()) for y in (gan.crop_and_flip(ramp) for _ in range(40)))
    assert 10 < mirrored < 30


def test_laplacian_levels_add_up_and_learn_apart():
    torch.manual_seed(0)
    generator = gan.LaplacianGenerator(4)
    z, real = gan.noise("lapgan", 2, 5504, 1)[0], torch.rand(2, 3, 64, 64) * 2 - 1
    pairs = generator.pairs(real, z)
    assert [fake.shape[-1] for _, fake in pairs] == [r.shape[-1] for r, _ in pairs] == [8, 16, 32, 64]
    with torch.no_grad():
        for detail in generator.detail:                             # no detail: each level is its smaller image enlarged
            detail[-1].weight.zero_()
            detail[-1].bias.zero_()
        small = generator.base(z.flatten(1)[:, :128])
        enlarged = small
        for _ in range(3):
            enlarged = nn.functional.interpolate(enlarged, scale_factor=2, mode="bilinear")
        assert torch.allclose(generator(z), enlarged, atol=1e-6)
    pairs = generator.pairs(real, z)
    assert torch.allclose(pairs[3][1], nn.functional.interpolate(pairs[2][0], scale_factor=2, mode="bilinear"))   # built on the real one
    pairs[3][1].sum().backward()
    assert generator.base[0].weight.grad is None                    # a level's loss reaches no other level


def test_five_latents_draw_160_rounds_over_the_last_four_fifths():
    torch.manual_seed(0)
    drawn, latents = [], []

    def generator(z):
        drawn.append(1)
        latents.append(z.clone())
        return torch.full((5, 3, 8, 8), len(drawn) / 200)
    for steps in (1000, 37):
        drawn.clear()
        five = gan.FiveLatents(5, 8, 8)
        counts = []
        for step in range(1, steps + 1):
            five(generator, step, steps)
            counts.append(len(drawn))
        assert counts[steps // 5 - 1] == 0 and counts[-1] == 160 and counts[-2] < 160      # the final generator draws too
        assert all(torch.equal(z, five.z) for z in latents[-160:]) and len(five.z) == 5
        assert five.choose(30, 0).shape == (30, 8, 8, 3) and len(np.unique(five.images[:, 0, 0, 0, 0])) > 100


# --- averaged weights and sampling

def test_average_takes_weights_and_batchnorm_statistics():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    average = copy.deepcopy(net)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    old = copy.deepcopy(average.state_dict())
    gan.update_average(average, net, step=10 ** 6, decay=0.9)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, old[name] + 0.1, atol=1e-6), name
    assert average[1].num_batches_tracked == 1
    gan.update_average(average, net, step=0, decay=0.9)             # early: almost all new
    assert torch.allclose(average[1].running_mean, old["1.running_mean"] + 0.1 + 0.9 * 0.9, atol=1e-6)


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in():
    torch.manual_seed(0)
    generator = gan.wgan_gp_generator(8, 4)
    for _ in range(40):                                             # gives BatchNorm its statistics, so that images differ
        generator(torch.randn(32, 8, 1, 1))
    generator.eval()
    together, alone = gan.draw(generator, latents(9, 3), batch=9), gan.draw(generator, latents(9, 3), batch=1)
    assert same_pictures(together, alone, tolerance=1)              # 1 grey level: sums in another order may round differently
    assert same_pictures(together[:4], gan.draw(generator, latents(4, 3)), tolerance=1)
    assert not same_pictures(together, gan.draw(generator, latents(9, 4)), tolerance=1)


def test_diversity_alarm():
    real = data.built_in(32, 64).images
    assert gan.diversity(real, real) == 1
    assert gan.diversity(np.repeat(real[:1], 32, 0), real) == 0 < gan.COLLAPSE
    assert gan.diversity(real // 4 + 96, real) < gan.COLLAPSE


@pytest.mark.parametrize("n", [3, 8, 11])
def test_a_grid_is_that_of_torchvision(tmp_path, n):
    from torchvision.utils import make_grid
    images = np.random.default_rng(0).integers(0, 256, (n, 5, 5, 3), np.uint8)
    gan.save_grid(tmp_path / "grid.png", images)
    want = make_grid(torch.from_numpy(images).permute(0, 3, 1, 2), nrow=8, padding=1).permute(1, 2, 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), want)


def test_one_picture_per_class_counts_as_collapsed(tmp_path):
    real = data.built_in(192, 32)
    by_class = [real.images[real.labels == k][:8] for k in range(8)]
    log = gan.Log(tmp_path, 4, dict(d_loss="D loss"), by_class, {}, "cpu")
    log(1, 1, lambda: np.stack([some[k % 8] for k in range(8) for some in by_class]))      # as varied as the real ones
    log(2, 1, lambda: np.stack([some[0] for _ in range(8) for some in by_class]))          # eight classes, eight pictures
    assert log.diversity[0][1] == pytest.approx(1, abs=0.02) and log.diversity[1][1] == 0 < gan.COLLAPSE


# --- jobs

def test_the_options_reach_the_training(tmp_path, cli, prepared, monkeypatch):
    """What the command line says is what the optimisers, the penalty and the batches get; real images come in [-1, 1]."""
    adams, weights, reals, steps = [], [], [], []
    adam, penalty, batch = torch.optim.Adam, gan.gradient_penalty, data.Batches.__call__
    monkeypatch.setattr(torch.optim, "Adam", lambda *a: adams.append(a[1:]) or adam(*a))
    monkeypatch.setattr(gan, "gradient_penalty", lambda c, real, f, w: weights.append(w) or reals.append(real) or penalty(c, real, f, w))
    monkeypatch.setattr(data.Batches, "__call__", lambda self, step: steps.append(step) or batch(self, step))
    assert train(cli, prepared, tmp_path / "run", "--penalty", 3, "--lr", 0.002, "--beta1", 0.1)[0] == 0
    assert adams == [(0.002, (0.1, 0.9))] * 2 and weights == [3.0] * 8
    assert steps == list(range(8))                                  # 4 steps of 2 critic updates, each on a new batch
    assert torch.stack(reals).min() < -0.5 and torch.stack(reals).max() > 0.5 and torch.stack(reals).abs().max() <= 1


def test_bf16_leaves_the_penalty_in_float32_and_resumes_exactly(tmp_path, cli, prepared, monkeypatch):
    seen, penalty = [], gan.gradient_penalty
    monkeypatch.setattr(gan, "gradient_penalty", lambda c, r, f, w: penalty(lambda x: seen.append(c(x)) or seen[-1], r, f, w))
    half = ["--precision", "bf16"]
    train(cli, prepared, tmp_path / "once" / "run", *half)
    train(cli, prepared, tmp_path / "parts" / "run", *half, "--stop-after", 3)
    train(cli, prepared, tmp_path / "parts" / "run", *half)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "parts/run") and {s.dtype for s in seen} == {torch.float32}


def test_samples_come_from_the_averaged_generator(tmp_path, cli, prepared, monkeypatch):
    seen, update = [], gan.update_average
    monkeypatch.setattr(gan, "update_average", lambda average, net, *rest: seen.append((average, net)) or update(average, net, *rest))
    train(cli, prepared, tmp_path / "run", "--lr", 0.01, steps=12)
    average, net = seen[-1]
    made = data.load(tmp_path / "run/samples.npz").images
    assert same_pictures(made, gan.draw(average, latents(6, 1))) and not same_pictures(made, gan.draw(net.eval(), latents(6, 1)), tolerance=1)


def test_two_and_two_steps_are_four_and_the_same_seed_gives_the_same_bytes(tmp_path, cli, prepared):
    for name in ("once", "again"):
        assert train(cli, prepared, tmp_path / name / "run")[0] == 0
    train(cli, prepared, tmp_path / "parts" / "run", "--stop-after", 2)
    assert not (tmp_path / "parts/run/result.json").exists()
    status, out, _ = train(cli, prepared, tmp_path / "parts" / "run")
    assert status == 0 and "going on from step 2" in out
    for name in ("again", "parts"):
        assert result_of(tmp_path / "once/run") == result_of(tmp_path / name / "run")
        assert (tmp_path / "once/run/samples.npz").read_bytes() == (tmp_path / name / "run/samples.npz").read_bytes()
        ours, theirs = (torch.load(tmp_path / which / "run/model.pt", weights_only=True) for which in ("once", name))
        assert all(torch.equal(ours["average"][key], theirs["average"][key]) for key in ours["average"])
    train(cli, prepared, tmp_path / "strict" / "run", "--deterministic")
    torch.use_deterministic_algorithms(False)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "strict/run")
    train(cli, prepared, tmp_path / "other" / "run", "--seed", 1)
    assert result_of(tmp_path / "other/run")["curves"] != result_of(tmp_path / "once/run")["curves"]
    assert not (tmp_path / "once/run/checkpoint.pt").exists()


def test_kill_9_and_start_again_gives_the_same_result(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "whole" / "run", steps=12)
    options = ["--data", prepared, "--class", "benign", "--steps", "12", "--out", tmp_path / "killed" / "run", *TINY]
    command = [sys.executable, str(ROOT / "gan.py"), "train", "wgan_gp", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
    end = time.time() + 60
    while not (tmp_path / "killed/run/checkpoint.pt").exists() and time.time() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/run/result.json").exists()
    _, out, _ = train(cli, prepared, tmp_path / "killed" / "run", steps=12)
    assert "going on from step" in out
    assert result_of(tmp_path / "killed/run") == result_of(tmp_path / "whole/run")


def test_a_done_job_is_skipped_and_a_half_done_one_refuses_other_options(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    refused(["lr 0.0001 -> 0.5", "width 4 -> 6"], "gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--steps", 4,
            "--out", tmp_path / "run", *TINY, "--lr", 0.5, "--width", 6)
    train(cli, prepared, tmp_path / "run")
    stamp = (tmp_path / "run/result.json").stat().st_mtime_ns
    assert "done before" in train(cli, prepared, tmp_path / "run")[1] and (tmp_path / "run/result.json").stat().st_mtime_ns == stamp


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, cli, prepared, monkeypatch):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    good = (tmp_path / "run/checkpoint.pt").read_bytes()
    monkeypatch.setattr(gan, "critic_step", lambda *_: torch.full((3,), float("nan")))
    status, _, err = train(cli, prepared, tmp_path / "run")
    assert status == 2 and "not a number by step 3" in err and len(err.strip().splitlines()) == 1
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == good


def test_stopping_between_two_log_points_changes_nothing(tmp_path, cli, prepared):
    coarse = ["--log-every", 3, "--checkpoint-every", 3]
    train(cli, prepared, tmp_path / "once" / "run", *coarse, steps=6)
    train(cli, prepared, tmp_path / "parts" / "run", *coarse, "--stop-after", 2, steps=6)
    train(cli, prepared, tmp_path / "parts" / "run", *coarse, steps=6)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "parts/run")


def test_a_network_with_a_nan_does_not_replace_a_good_checkpoint(tmp_path):
    net = nn.Linear(2, 2)
    data.save_checkpoint(tmp_path, dict(net=net), step=1)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    with pytest.raises(data.UserError, match="not a number by step 2"):
        data.save_checkpoint(tmp_path, dict(net=net), step=2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_the_gan_sees_the_training_part_only_and_says_so(tmp_path, cli, prepared, lesions):
    train(cli, prepared, tmp_path / "run")
    made, benign = data.load(tmp_path / "run/samples.npz"), lesions.part("train").of_class("benign")
    assert made.info["digests"] == sorted(benign.digests()) and made.classes == ["benign"] and len(made) == 6
    assert not set(made.info["digests"]) & set(lesions.part("test").digests())
    assert result_of(tmp_path / "run")["counts"]["benign"] == len(benign)


def test_two_processes_never_share_a_folder(tmp_path, cli, prepared, refused):
    script = f"import data, time; data.open_run({str(tmp_path / 'run')!r}, {{}}); print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    refused(["another process is at work"], "gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--out", tmp_path / "run", *TINY)
    other.kill()
    other.wait()
    (tmp_path / "run/config.json").unlink()
    assert train(cli, prepared, tmp_path / "run")[0] == 0           # a killed process leaves no lock behind


def test_samples_do_not_mix_with_older_files(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run")
    assert cli("gan", "sample", tmp_path / "run", "--n", 3, "--out", tmp_path / "tree")[0] == 0
    refused(["tree is not empty"], "gan", "sample", tmp_path / "run", "--n", 3, "--out", tmp_path / "tree")


def test_a_gan_of_an_unsplit_set_warns(tmp_path, cli):
    data.built_in(40, 64).save(tmp_path / "all.npz")
    _, out, err = cli("gan", "train", "wgan_gp", "--data", tmp_path / "all.npz", "--steps", 1, "--out", tmp_path / "run", *TINY)
    assert "has no split" in err and "no --class" in err and "1 steps, 6 samples" in out


def test_more_samples_from_a_finished_run(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "run")
    status, _, _ = cli("gan", "sample", tmp_path / "run", "--n", 5, "--seed", 1, "--out", tmp_path / "more.npz")
    drawn, first = data.load(tmp_path / "more.npz"), data.load(tmp_path / "run/samples.npz")
    assert status == 0 and same_pictures(drawn.images, first.images[:5], tolerance=1) and drawn.info["digests"] == first.info["digests"]


SMALL = ["--log-every", 2, "--checkpoint-every", 100, "--device", "cpu", "--batch", 4]


@pytest.mark.parametrize("model, more", [
    ("dcgan_cls", ["--width", 4, "--z-dim", 8]), ("plain_gan", ["--width", 20, "--z-dim", 8]), ("lapgan", ["--width", 4]),
    ("acgan", ["--width", 4, "--size", 32]), ("dermagan", ["--width", 4, "--z-dim", 8, "--class", "benign", "--latents", 5]),
    ("dcgan_inception", ["--width", 4, "--z-dim", 8, "--snapshots", 4]), ("dcgan_cls", ["--width", 4, "--z-dim", 8, "--optimizer", "sgd"]),
    ("cyclegan", ["--width", 4, "--blocks", 1, "--size", 32, "--pool", 3, "--source-class", "malignant", "--class", "benign"])])
def test_every_family_resumes_exactly(tmp_path, cli, prepared, model, more):
    more = [*more, *(["--source", prepared] if model == "cyclegan" else [])]
    for name, stop in (("once", []), ("parts", ["--stop-after", 3]), ("parts", [])):
        status, _, err = cli("gan", "train", model, "--data", prepared, "--steps", 6, "--samples", 8, "--out", tmp_path / name / "run", *SMALL, *more, *stop)
        assert status == 0, err
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "parts/run")
    assert (tmp_path / "once/run/samples.npz").read_bytes() == (tmp_path / "parts/run/samples.npz").read_bytes()
    made = data.load(tmp_path / "once/run")
    assert len(made) == 8 and set(made.labels) <= set(range(len(made.classes)))
    assert (tmp_path / "once/run/grid_000000.png").exists() and (tmp_path / "once/run/grid.png").exists()
    assert len(list((tmp_path / "once/run").glob("snapshots/*.npz"))) == (6 if model == "dcgan_inception" else 0)


def test_cyclegan_learning_rate_is_constant_and_then_falls_to_zero(monkeypatch):
    config = dict(model="cyclegan", width=2, blocks=1, size=8, pool=2, batch=1, seed=0, lr=1.0, beta1=0.5, beta2=0.9, cycle=1, identity=0, optimizer="adam")
    images = data.built_in(4, 8)
    parts = dict(zip(("generator", "discriminator"), gan.networks(config, 1)))
    batches = data.Batches(images, 1, 0, "cpu", least=1)
    update, _ = gan.cyclegan_update(config, parts, images, batches, 10, "cpu", OFF)
    rates = []
    monkeypatch.setattr(gan, "cyclegan_step", lambda nets, g, d, *rest: rates.append((g.param_groups[0]["lr"], d.param_groups[0]["lr"])))
    for step in range(10):
        update(step)
    assert [g for g, _ in rates] == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]) and all(g == d for g, d in rates)


def test_each_class_gets_its_own_gan_and_the_samples_take_turns(tmp_path, cli, prepared, lesions):
    command = ["gan", "train", "dermagan", "--data", prepared, "--each-class", "--steps", 2, "--samples", 9, "--width", 4, "--z-dim", 8,
               "--out", tmp_path / "run", *SMALL]
    assert cli(*command, "--stop-after", 1)[0] == 0 and not (tmp_path / "run/result.json").exists()
    assert cli(*command)[0] == 0
    made = data.load(tmp_path / "run")
    assert made.classes == ["benign", "malignant"] and made.labels.tolist() == [k % 2 for k in range(18)]
    assert set(made.info["digests"]) == set(lesions.part("train").digests())
    assert (tmp_path / "run/benign/result.json").exists() and result_of(tmp_path / "run")["steps"] == 4
    assert "done before" in cli(*command)[1]
    status, _, err = cli(*command, "--leak", "--lr", 0.5)
    assert status == 2 and "leak False -> True" in err and "lr 0.0002 -> 0.5" in err


def test_samples_per_training_images(tmp_path, cli, prepared, lesions):
    train_part = lesions.part("train")
    cli("gan", "train", "acgan", "--data", prepared, "--size", 32, "--width", 4, "--steps", 1, "--samples", 300, "--per", 1000, "--out", tmp_path / "a",
        *SMALL)
    assert len(data.load(tmp_path / "a")) == round(300 * len(train_part) / 1000)
    cli("gan", "train", "cyclegan", "--source", tmp_path / "a", "--data", prepared, "--each-class", "--samples", "all", "--size", 32, "--width", 4,
        "--blocks", 1, "--steps", 1, "--out", tmp_path / "c", *SMALL)
    a, c = data.load(tmp_path / "a"), data.load(tmp_path / "c")
    assert a.counts() == c.counts() and (a.labels == c.labels).all()


def test_cyclegan_translates_in_the_order_of_the_source_and_knows_what_both_sides_have_seen(tmp_path, cli, prepared, lesions):
    cli("gan", "train", "cyclegan", "--source", prepared, "--source-class", "benign", "--data", prepared, "--class", "malignant", "--keep", 0.5,
        "--size", 32, "--width", 4, "--blocks", 1, "--steps", 2, "--samples", 70, "--out", tmp_path / "run", *SMALL)
    made, train_part = data.load(tmp_path / "run"), lesions.part("train")
    benign, malignant = train_part.of_class("benign"), train_part.of_class("malignant")
    assert len(made) == 70 > len(benign) and made.classes == ["malignant"]
    half = malignant.take(slice(0, len(malignant) // 2))
    assert result_of(tmp_path / "run")["counts"]["malignant"] == len(half)
    assert set(made.info["digests"]) == {d for some in (benign, half) for d in data.resized(some, 32).digests()}


def test_sources_come_again_turned_and_mirrored():
    images = data.built_in(5, 16)
    z = gan.sources(images, 40)
    assert len({z[k].numpy().tobytes() for k in range(40)}) == 40       # 8 pictures of each, all different
    first = gan.to_uint8(z[:5])
    assert same_pictures(first, images.images, tolerance=1)
    assert all(sorted(z[k].flatten().tolist()) == sorted(z[k % 5].flatten().tolist()) for k in range(40))
    with pytest.raises(data.UserError, match="--samples 41"):
        gan.sources(images, 41)


def test_a_share_of_the_training_part_and_one_sample_for_each_of_its_images(tmp_path, cli, prepared, lesions):
    part = lesions.part("train").share(0.5)
    cli("gan", "train", "dermagan", "--data", prepared, "--share", 0.5, "--samples", "all", "--each-class", "--steps", 1, "--width", 4, "--z-dim", 8,
        "--out", tmp_path / "run", *SMALL)
    made = data.load(tmp_path / "run")
    assert made.counts() == part.counts() and set(made.info["ids"]) == set(part.ids) and set(made.info["digests"]) == set(part.digests())
    few = lesions.take(~((lesions.labels == 0) & (np.arange(len(lesions)) % 3 > 0)))               # far fewer benign ones
    few.save(tmp_path / "few.npz")
    cli("gan", "train", "acgan", "--data", tmp_path / "few.npz", "--samples", "all", "--size", 32, "--width", 4, "--steps", 1,
        "--out", tmp_path / "acgan", *SMALL)
    made, counts = data.load(tmp_path / "acgan"), few.part("train").counts()
    assert made.counts() == counts and counts["benign"] < counts["malignant"] / 2       # not half of each


def test_copying_is_measured_against_test_images_of_the_same_class(tmp_path, cli, prepared, lesions, monkeypatch):
    options = ["--data", prepared, "--class", "benign", "--steps", 1, "--samples", 20, "--width", 4, "--z-dim", 8, *SMALL]
    cli("gan", "train", "dermagan", "--out", tmp_path / "run", *options)
    found = result_of(tmp_path / "run")["copying"]
    assert found["n"] == 20 and found["per_side"] == min(len(lesions.part(name).of_class("benign")) for name in ("train", "test"))
    assert len(found["pairs"]) == 10 and Image.open(tmp_path / "run/nearest.png").width > 900
    train_part = lesions.part("train").of_class("benign")
    monkeypatch.setattr(gan, "draw", lambda generator, z: train_part.images[:len(z)])           # a GAN that only copies
    cli("gan", "train", "dermagan", "--out", tmp_path / "thief", *options)
    stolen = result_of(tmp_path / "thief")["copying"]
    assert stolen["closer_to_train"][1] > 0.5 and stolen["pairs"][0][2] == 0
    cli("gan", "train", "dermagan", "--leak", "--out", tmp_path / "leak", *options)             # it has seen the test images
    assert "copying" not in result_of(tmp_path / "leak")


def test_balance_fills_the_smaller_class_up(tmp_path, cli, prepared, lesions, refused):
    counts = lesions.part("train").counts()
    small, large = sorted(counts, key=counts.get)
    options = ["--data", prepared, "--steps", 1, "--samples", "balance", "--width", 4, "--z-dim", 8, *SMALL]
    cli("gan", "train", "dcgan_inception", "--class", small, "--out", tmp_path / "run", *options)
    assert len(data.load(tmp_path / "run")) == counts[large] - counts[small] > 0
    refused(["--samples balance"], "gan", "train", "dcgan_inception", "--class", large, "--out", tmp_path / "other", *options)


def test_leak_trains_on_everything_and_says_so(tmp_path, cli, prepared, lesions):
    _, _, err = cli("gan", "train", "dermagan", "--data", prepared, "--class", "benign", "--leak", "--steps", 1, "--width", 4, "--z-dim", 8,
                    "--out", tmp_path / "run", *SMALL)
    assert "validation and test images are used" in err
    assert set(lesions.part("test").of_class("benign").digests()) <= set(data.load(tmp_path / "run").info["digests"])


def test_more_samples_of_an_acgan_and_a_cyclegan(tmp_path, cli, prepared, refused):
    cli("gan", "train", "acgan", "--data", prepared, "--size", 32, "--width", 4, "--steps", 2, "--samples", 6, "--out", tmp_path / "a", *SMALL)
    cli("gan", "sample", tmp_path / "a", "--n", 5, "--seed", 1, "--out", tmp_path / "more.npz")
    drawn, first = data.load(tmp_path / "more.npz"), data.load(tmp_path / "a")
    assert same_pictures(drawn.images, first.images[:5], tolerance=1) and drawn.labels.tolist() == [0, 1, 0, 1, 0] and drawn.classes == first.classes
    cli("gan", "train", "cyclegan", "--source", tmp_path / "a", "--data", prepared, "--size", 32, "--width", 4, "--blocks", 1, "--steps", 2,
        "--samples", 6, "--out", tmp_path / "c", *SMALL)
    refused(["give --source"], "gan", "sample", tmp_path / "c", "--out", tmp_path / "x.npz")
    cli("gan", "sample", tmp_path / "c", "--source", tmp_path / "a", "--n", 6, "--out", tmp_path / "c.npz")
    assert same_pictures(data.load(tmp_path / "c.npz").images, data.load(tmp_path / "c").images, tolerance=1)


def test_describe_every_model(cli):
    for model in gan.RECIPES:
        status, out, err = cli("gan", "describe", model)
        assert status == 0 and out.count("total") >= 2, err
    assert "2,352,505" in cli("gan", "describe", "acgan")[1] and "1 x 30 x 30" in cli("gan", "describe", "cyclegan")[1]


def test_bad_gan_options(tmp_path, prepared, refused):
    out = ["--class", "benign", "--out", tmp_path / "run", *TINY]
    refused(["no class 'wart'", "'benign', 'malignant'"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--class", "wart")
    refused(["too few for a batch of 5000"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--batch", 5000)
    refused(["nowhere", "does not exist"], "gan", "train", "wgan_gp", "--data", tmp_path / "nowhere", *out)
    refused(["--steps", "0 is less than 1"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--steps", 0)
    refused(["--lr", "less than 0"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--lr=-1")
    refused(["--width", "invalid int"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--width", "wide")
    refused(["at least 2 images"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--batch", 1)
    refused(["--penalti"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--penalti", 3)
    refused(["--device tpu"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--device", "tpu")
    derma = ["gan", "train", "dermagan", "--data", prepared, "--class", "benign", "--out", tmp_path / "five", "--latents", 5]
    refused(["--samples 801", "gives 800 candidates"], *derma, "--samples", 801)
    assert not (tmp_path / "five").exists()                         # refused before the folder is begun
    refused(["64 px"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--size", 32)
    refused(["model.pt"], "gan", "sample", tmp_path / "run", "--out", tmp_path / "more.npz")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/model.pt").write_bytes(b"cut off")
    refused(["model.pt", "cannot be read"], "gan", "sample", tmp_path / "run", "--out", tmp_path / "more.npz")


# --- Edits of a line that would change a result and nothing else

def test_each_cyclegan_judge_gets_its_own_domain():
    shifts = [nn.Conv2d(3, 3, 1) for _ in "ab"]
    judges, pools = [Constant(0.3), Constant(0.6)], [gan.ImagePool(4, (3, 8, 8)) for _ in "ab"]
    both = nn.ModuleList([*shifts, *judges])
    a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        fake_b, fake_a = shifts[0](a), shifts[1](b)
    gan.cyclegan_step([*shifts, *judges, *pools], sgd(both), sgd(both), a, b, 10, 0.5, OFF)
    for judge, seen in zip(judges, ((fake_a, a, fake_a), (fake_b, b, fake_b))):             # generators' turn, then its own
        assert len(judge.seen) == 3 and all(torch.allclose(x, y, atol=1e-6) for x, y in zip(judge.seen, seen))


def test_sgd_is_sgd_with_momentum():
    net = nn.Linear(2, 2)
    made = gan.adam(dict(optimizer="sgd", lr=0.1, beta1=0.5, beta2=0.9), net)
    assert isinstance(made, torch.optim.SGD) and (made.defaults["lr"], made.defaults["momentum"]) == (0.1, 0.5)
    assert gan.adam(dict(optimizer="adam", lr=0.1, beta1=0.5, beta2=0.9), net).defaults["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("model", ["dcgan_cls", "acgan", "cyclegan"])
def test_every_step_gets_a_new_batch(tmp_path, cli, prepared, monkeypatch, model):
    steps, batch = [], data.Batches.__call__
    monkeypatch.setattr(data.Batches, "__call__", lambda self, step: steps.append(step) or batch(self, step))
    more = dict(cyclegan=["--source", prepared, "--blocks", 1, "--size", 32], acgan=["--size", 32]).get(model, [])
    assert cli("gan", "train", model, "--data", prepared, "--width", 4, "--steps", 3, "--out", tmp_path / "run", *SMALL, *more)[0] == 0
    assert steps == ([0, 0, 1, 1, 2, 2] if model == "cyclegan" else [0, 1, 2])


def test_a_set_of_gans_is_as_collapsed_as_its_worst(tmp_path, cli, prepared):
    cli("gan", "train", "dermagan", "--data", prepared, "--each-class", "--steps", 2, "--samples", 9, "--width", 4, "--z-dim", 8, "--out", tmp_path / "run", *SMALL)
    whole, parts = result_of(tmp_path / "run"), [result_of(tmp_path / "run" / name) for name in ("benign", "malignant")]
    spread = min(part["metrics"]["diversity"] for part in parts)
    assert whole["metrics"]["diversity"] == spread and whole["metrics"]["collapsed"] == (spread < gan.COLLAPSE)
    train_part, made = data.load(prepared).part("train"), data.load(tmp_path / "run")
    assert whole["metrics"]["kid_8x8"] == gan.colour_distance(train_part, made)["kid_8x8"]
    assert whole["copying"]["n"] == 18


def test_the_colour_distance_has_the_floor_of_the_real_images():
    real, made = data.built_in(40, 32), data.built_in(16, 32, seed=1)
    made.images = made.images // 2
    x, y = (gan.metrics.colour_features(some.images) for some in (real, made))
    found = gan.colour_distance(real, made)
    assert (found["fd_8x8"], found["fd_8x8_floor"], found["fd_8x8_n"]) == gan.metrics.distance_with_floor(x, y)


def test_what_the_first_gan_saw_goes_with_its_images_into_a_cyclegan(lesions):
    made = lesions.take(slice(0, 3))
    made.info = dict(digests=["first"], ids=["gan"])
    seen = gan.images_seen(lesions.take(slice(5, 9)), made)
    assert "first" in seen["digests"] and "gan" in seen["ids"] and set(lesions.digests()[5:9]) < seen["digests"]
    made.info = {}
    assert set(made.digests()) < gan.images_seen(lesions.take(slice(5, 9)), made)["digests"]


def test_samples_of_a_cyclegan_are_scaled_by_its_source(tmp_path, lesions):
    lesions.save(tmp_path / "all.npz"), lesions.of_class("malignant").save(tmp_path / "one.npz")
    args = SimpleNamespace(
        samples=300, per=1000, data=tmp_path / "one.npz", source=tmp_path / "all.npz", size=64)
    assert gan.number_of_samples(args, None, None, lesions) == round(300 * len(lesions.part("train")) / 1000)


def test_copying_compares_with_test_images_of_the_class(tmp_path, prepared, lesions, monkeypatch):
    seen = []
    monkeypatch.setattr(gan.metrics, "nearest", lambda *some: seen.append(some) or dict(pairs=[(0, 0, 1.0)]))
    benign = lesions.part("train").of_class("benign")
    args = SimpleNamespace(data=prepared, size=64, leak=False, seed=0)
    gan.copying(args, benign, benign, tmp_path)
    assert np.array_equal(seen[0][2], lesions.part("test").of_class("benign").images)


def test_snapshots_come_from_the_averaged_generator(tmp_path, cli, prepared):
    cli("gan", "train", "dcgan_inception", "--data", prepared, "--class", "benign", "--width", 4, "--z-dim", 8, "--steps", 6, "--lr", 0.01, "--snapshots", 4,
        "--out", tmp_path / "run", *SMALL)
    cli("gan", "sample", tmp_path / "run", "--n", 4, "--seed", 2, "--out", tmp_path / "more.npz")
    assert same_pictures(data.load(tmp_path / "run/snapshots/000006.npz").images, data.load(tmp_path / "more.npz").images, tolerance=1)


def test_the_numbers_that_the_wgan_gp_paper_gives():
    assert {key: gan.RECIPES["wgan_gp"][key][0] for key in ("lr", "beta1", "beta2", "penalty", "n_critic")} == dict(
        lr=1e-4, beta1=0, beta2=0.9, penalty=10, n_critic=5)


def test_five_latents_are_drawn_in_training_mode():
    generator, modes = gan.dcgan_generator(8, 2), []
    generator.register_forward_pre_hook(lambda net, _: modes.append(net.training))
    gan.FiveLatents(5, 8, 64)(generator, 10, 10)
    assert modes and all(modes)


def test_the_alarm_is_in_the_result(tmp_path):
    log = gan.Log(tmp_path, 2, dict(d_loss="D loss"), [data.built_in(16, 32).images], {}, "cpu")
    log(2, 1, lambda: np.repeat(log.real[0][:1], 8, 0))
    assert log.result()["metrics"]["collapsed"] is True
