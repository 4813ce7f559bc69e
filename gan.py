"""gan.py: the papers' GANs, one training step each, one loop, sampling.

    python gan.py describe dcgan_cls                   layer tables with parameter counts
    python gan.py train dcgan_cls --data runs/data --class benign --width 16 --batch 16 \
        --lr 1e-3 --steps 400 --out runs/gan           half a minute on one core
    python gan.py sample runs/gan --n 1000 --out more/        more images, as PNG files

Read GANS below first: a model is one entry; `train GAN --help` lists its numbers and sources.
"""
import copy
import re
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import data
import jobs
import metrics
from data import scaled
from jobs import UserError


# ---- What a training holds: every step below takes one, as m

@dataclass
class Training:
    """Networks and what they learn with. The checkpoint has all their states."""
    config: dict                        # all that decides the result: the recipe and more
    device: torch.device
    autocast: torch.autocast            # bfloat16 inside, where the config says so
    source: data.ImageSet               # what a CycleGAN translates: images of A; else None
    batches: data.Batches               # of real images, to learn from
    generator: nn.Module                # noise -> image; a CycleGAN's: image of A -> of B
    discriminator: nn.Module            # image -> is it real? a CycleGAN's: image of B
    average: nn.Module                  # moving average of the generator: draws the samples
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    record: jobs.Record                 # curves, and what came since their last point
    step: int = 0
    source_batches: data.Batches = None     # from here on a CycleGAN's alone
    back: nn.Module = None              # the generator from B to A
    judge_a: nn.Module = None           # the discriminator of A
    pool_a: jobs.Record = None          # earlier fakes of A
    pool_b: jobs.Record = None          # and of B

    def real(self):
        """The next batch of real images: float (n, 3, side, side) in [-1, 1]."""
        return scaled(self.batches.next()[0])

    def noise(self, n):
        """New (z (n, z_dim, 1, 1), labels (n,) or None where no class is told)."""
        entry, labels = GANS[self.config["model"]], None
        draw_z = dict(normal=torch.randn, uniform=torch.rand)[entry.noise]
        z = draw_z(n, self.config["z_dim"], device=self.device)
        if entry.labels:
            labels = torch.randint(len(self.config["classes"]), (n,), device=self.device)
        return as_inputs(self.config, z, labels), labels


# ---- What the steps share

def descend(optimizer, loss):
    """One step of these weights alone: no gradients of other networks are computed."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[weight for weight in weights if weight.requires_grad])
    optimizer.step()


def bce(logit, target):
    """Binary cross entropy of logits (n,) against 0 or 1: log 2 where the logits are 0."""
    target = torch.full_like(logit, target, dtype=torch.float32)
    return F.binary_cross_entropy_with_logits(logit.float(), target)


def squares(score, target):
    """Least squares instead of cross entropy (LSGAN)."""
    return (score.float() - target).square().mean()


def chance(logit):
    """Mean probability of "real": what the papers write as D(x)."""
    return logit.float().sigmoid().mean()


# ---- 4x4 kernels, 64 px: WGAN-GP (000); without biases DCGAN (003). PyTorch's first weights

def wgan_gp_generator(z_dim=200, width=224, bias=True):
    """Table 3: 39,473,507 parameters. z (n, z_dim, 1, 1) -> image (n, 3, 64, 64) in [-1, 1].
    ReLU as in the table; the text says LeakyReLU."""
    def up(maps, wide, stride=2, pad=1):
        layer = nn.ConvTranspose2d(maps, wide, 4, stride, pad, bias=bias)
        return layer, nn.BatchNorm2d(wide), nn.ReLU()

    return nn.Sequential(
        *up(z_dim, 8 * width, stride=1, pad=0),         # (n, 8 width, 4, 4)
        *up(8 * width, 4 * width),                      # (n, 4 width, 8, 8)
        *up(4 * width, 2 * width),                      # (n, 2 width, 16, 16)
        *up(2 * width, width),                          # (n, width, 32, 32)
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=bias),
        nn.Tanh())                                      # (n, 3, 64, 64)


def conv4_discriminator(width, norm, bias):
    """Image (n, 3, 64, 64) -> score (n,), by 4x4 kernels."""
    def down(maps, wide):
        return nn.Conv2d(maps, wide, 4, 2, 1, bias=bias), norm(wide), nn.LeakyReLU(0.2)

    return nn.Sequential(
        *down(3, width),                                # (n, width, 32, 32)
        *down(width, 2 * width),                        # (n, 2 width, 16, 16)
        *down(2 * width, 4 * width),                    # (n, 4 width, 8, 8)
        *down(4 * width, 8 * width),                    # (n, 8 width, 4, 4)
        nn.Conv2d(8 * width, 1, 4, 1, 0, bias=bias),
        nn.Flatten(0))                                  # (n,)


def wgan_gp_critic(width=224):
    """Table 2 (width 224): 33,767,777 parameters; Table 1 (width 64), whose first row lacks its
    bias: 2,766,657. InstanceNorm as there; the text's BatchNorm would tie a batch together."""
    return conv4_discriminator(width, lambda maps: nn.InstanceNorm2d(maps, affine=True), bias=True)


def gradient_penalty(critic, real, fake, weight=10.0):
    """weight * mean over images of (|grad_x critic(x)| - 1)^2, x between real and fake (eq. 3).
    The constant keeps the root's derivative finite where the gradient is zero."""
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = alpha * real + (1 - alpha) * fake
    between.requires_grad_(True)
    score = critic(between).float().sum()
    gradient, = torch.autograd.grad(score, between, create_graph=True)
    squared = gradient.flatten(1).square().sum(1)
    norm = (squared + 1e-12).sqrt()
    return weight * (norm - 1).square().mean()


def critic_step(m):
    """Raise the critic's score of real images over that of fakes, with slope 1 between them."""
    real = m.real()
    z, _ = m.noise(len(real))
    with torch.no_grad(), m.autocast:     # the generator is not trained here
        fake = m.generator(z)
    fake = fake.float()
    with m.autocast:                      # one pass: the critic has no BatchNorm
        score = m.discriminator(torch.cat([real, fake])).float()
        penalty = gradient_penalty(m.discriminator, real, fake, m.config["penalty"])
    on_real, on_fake = score[:len(real)].mean(), score[len(real):].mean()
    descend(m.optimizer_d, on_fake - on_real + penalty)
    return {"D(x)": on_real, "D(G(z))": on_fake, "penalty": penalty}


def wgan_gp_step(m):
    """n_critic critic updates, each on a new batch, then one generator update."""
    for _ in range(m.config["n_critic"]):
        values = critic_step(m)
    z, _ = m.noise(m.config["batch"])
    with m.autocast:
        score = m.discriminator(m.generator(z))
    descend(m.optimizer_g, -score.float().mean())
    return values


# ---- DCGAN: papers 001 and 004, 5x5 kernels, 64 px; its step serves paper 003 too

def dcgan_generator(z_dim=128, width=64):
    """Paper 001: 5,364,739 parameters; 004, width 128, z 100: 18,872,323. z -> (n, 3, 64, 64).
    BatchNorm by channel; paper 001's base code normalises image rows, by a wrong axis."""
    def up(maps, wide):
        layer = nn.ConvTranspose2d(maps, wide, 5, 2, 2, output_padding=1)
        return nn.BatchNorm2d(maps), nn.ReLU(), layer

    return dcgan_init(nn.Sequential(
        nn.Flatten(),
        nn.Linear(z_dim, 8 * width * 16),
        nn.Unflatten(1, (8 * width, 4, 4)),
        *up(8 * width, 4 * width),                      # (n, 4 width, 8, 8)
        *up(4 * width, 2 * width),                      # (n, 2 width, 16, 16)
        *up(2 * width, width),                          # (n, width, 32, 32)
        *up(width, 3),                                  # (n, 3, 64, 64)
        nn.Tanh()))


def dcgan_discriminator(width=64, outputs=1):
    """Paper 001: 4,316,545 parameters. Image (n, 3, 64, 64) -> logit (n,).
    More outputs make it paper 001's classifier, -> (n, outputs)."""
    def down(maps, wide):
        return nn.Conv2d(maps, wide, 5, 2, 2), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)

    layers = [
        nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2),            # (n, width, 32, 32)
        *down(width, 2 * width),                        # (n, 2 width, 16, 16)
        *down(2 * width, 4 * width),                    # (n, 4 width, 8, 8)
        *down(4 * width, 8 * width),                    # (n, 8 width, 4, 4)
        nn.Flatten(),
        nn.Linear(8 * width * 16, outputs)]
    if outputs == 1:
        layers.append(nn.Flatten(0))
    return dcgan_init(nn.Sequential(*layers))


def dcgan_init(net):
    """Weights N(0, 0.02), BatchNorm's N(1, 0.02), biases 0. DCGAN paper; ACGAN, CycleGAN."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    return net


def dcgan_step(m):
    """Discriminator, then generator (non-saturating loss), on the same fakes.
    Real and fake go through it apart, since BatchNorm would mix them."""
    real = m.real()
    z, _ = m.noise(len(real))
    with m.autocast:
        fake = m.generator(z)
        on_real = m.discriminator(real)
        on_fake = m.discriminator(fake.detach())
    d_loss = bce(on_real, 1) + bce(on_fake, 0)
    descend(m.optimizer_d, d_loss)

    with m.autocast:
        score = m.discriminator(fake)
    g_loss = bce(score, 1)
    descend(m.optimizer_g, g_loss)
    return {"D loss": d_loss, "G loss": g_loss, "D(x)": chance(on_real), "D(G(z))": chance(on_fake)}


# ---- The two older models of paper 001's Table 6, 64 px

def plain_generator(z_dim=128, width=1200):
    """Fully connected, Goodfellow et al. 2014. z -> image (n, 3, 64, 64)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(z_dim, width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 3 * 64 * 64), nn.Tanh(),
        nn.Unflatten(1, (3, 64, 64)))


def plain_discriminator(width=240):
    """Fully connected with dropout; LeakyReLU where Goodfellow et al. have maxout."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 64 * 64, width), nn.LeakyReLU(0.2), nn.Dropout(0.5),
        nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Dropout(0.5),
        nn.Linear(width, 1), nn.Flatten(0))


LEVELS = (16, 32, 64)       # sides that LAPGAN sharpens; it begins at 8 px


class LaplacianGenerator(nn.Module):
    """LAPGAN, Denton et al. 2015: an 8 px image; at each level the detail its enlargement lacks.
    z (n, 5504, 1, 1): 128 values for 8 px, one plane of noise for each level."""
    def __init__(self, width=64):
        super().__init__()
        self.base = nn.Sequential(
            nn.Linear(128, 16 * width), nn.ReLU(),
            nn.Linear(16 * width, 16 * width), nn.ReLU(),
            nn.Linear(16 * width, 3 * 8 * 8), nn.Tanh(),
            nn.Unflatten(1, (3, 8, 8)))
        self.detail = nn.ModuleList()
        for _ in LEVELS:
            self.detail.append(nn.Sequential(           # 3 colours + 1 noise -> 3
                nn.Conv2d(4, width, 5, padding=2), nn.ReLU(),
                nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
                nn.Conv2d(width, 3, 5, padding=2)))

    def levels(self, z, smaller=None):
        """Images of 8 to 64 px, each built on the one before, or on the real ones `smaller`."""
        first, *planes = z.flatten(1).split([128, 256, 1024, 4096], 1)
        images = [self.base(first)]
        below = smaller or images         # without real ones: what grows here
        for k, side in enumerate(LEVELS):
            blurred = F.interpolate(below[k], scale_factor=2, mode="bilinear")
            plane = planes[k].view(-1, 1, side, side)
            detail = self.detail[k](torch.cat([blurred, plane], 1))
            images.append(blurred + detail)
        return images

    def forward(self, z):
        return self.levels(z)[-1].clamp(-1, 1)


def laplacian_discriminators(width=64):
    """One per level, 8 to 64 px: image -> logit (n,)."""
    nets = nn.ModuleList()
    for side in (8, *LEVELS):
        nets.append(nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(width * (side // 4) ** 2, 1), nn.Flatten(0)))
    return nets


def lapgan_step(m):
    """As dcgan_step for every level, upon real smaller images: they share no weights."""
    real = m.real()
    z, _ = m.noise(len(real))
    reals = [F.avg_pool2d(real, smaller) for smaller in (8, 4, 2, 1)]

    def loss(images, target):
        with m.autocast:
            logits = [judge(x) for judge, x in zip(m.discriminator, images)]
        return sum(bce(logit, target) for logit in logits)

    with m.autocast:
        fakes = m.generator.levels(z, reals)
    d_loss = loss(reals, 1) + loss([fake.detach() for fake in fakes], 0)
    descend(m.optimizer_d, d_loss)
    g_loss = loss(fakes, 1)
    descend(m.optimizer_g, g_loss)
    return {"D loss": d_loss, "G loss": g_loss}


# ---- ACGAN: paper 002, Odena et al. 2017 at 128 px; with fewer layers 64 or 32 px (ours)

def acgan_generator(z_dim=110, width=64, size=128):
    """11,465,728 parameters at 128 px. z (n, z_dim, 1, 1), in front the one-hot class -> image.
    Sides at 128 px: 1, 5, 13, 29, 61, 128. Paper 002 names only the ACGAN paper."""
    maps = 12 * width
    layers = [
        nn.Flatten(),
        nn.Linear(z_dim, maps),
        nn.Unflatten(1, (maps, 1, 1)), nn.ReLU()]
    middle = {128: 4, 64: 3, 32: 2}[size]
    for wide in (6 * width, 4 * width, 3 * width, width)[:middle]:
        layers.append(nn.ConvTranspose2d(maps, wide, 5, 2, bias=False))
        layers += [nn.BatchNorm2d(wide), nn.ReLU()]
        maps = wide
    layers += [nn.ConvTranspose2d(maps, 3, 8, 2, bias=False), nn.Tanh()]
    return dcgan_init(nn.Sequential(*layers))


class TwoHeads(nn.Module):
    """ACGAN's ends: features (n, d) -> logit of real (n,), raw class logits (n, classes)."""
    def __init__(self, features, classes):
        super().__init__()
        self.source = nn.Linear(features, 1)
        self.label = nn.Linear(features, classes)

    def forward(self, x):
        return self.source(x).flatten(), self.label(x)


def acgan_discriminator(classes=8, width=64, size=128):
    """2,352,505 parameters for 8 classes at 128 px. Image -> (logit (n,), class logits).
    A smaller image gets the last layers alone: at 1 x 1 px BatchNorm would hide fakes."""
    rows = [                                    # maps, stride, padding
        (width // 4, 2, 1),                     # (n, width / 4, 64, 64) at 128 px
        (width // 2, 1, 0),                     # (n, width / 2, 62, 62)
        (width, 2, 1),                          # (n, width, 31, 31)
        (2 * width, 1, 0),                      # (n, 2 width, 29, 29)
        (4 * width, 2, 1),                      # (n, 4 width, 15, 15)
        (8 * width, 1, 0)]                      # (n, 8 width, 13, 13)
    first = {128: 0, 64: 2, 32: 4}[size]
    layers, maps, side = [], 3, size
    for wide, stride, pad in rows[first:]:
        layers.append(nn.Conv2d(maps, wide, 3, stride, pad, bias=False))
        if maps != 3:                     # as in the DCGAN: none on the first layer
            layers.append(nn.BatchNorm2d(wide))
        layers += [nn.LeakyReLU(0.2), nn.Dropout(0.5)]
        maps = wide
        side = (side + 2 * pad - 3) // stride + 1
    heads = TwoHeads(maps * side ** 2, classes)
    return dcgan_init(nn.Sequential(*layers, nn.Flatten(), heads))


def acgan_step(m):
    """As dcgan_step, and the discriminator names the class too, of real and fake (eq. 2 and 3).
    Without knowledge a class loss is log K."""
    pixels, labels = m.batches.next()
    z, fake_labels = m.noise(len(pixels))
    with m.autocast:
        fake = m.generator(z)
        on_real, real_class = m.discriminator(scaled(pixels))
        on_fake, fake_class = m.discriminator(fake.detach())
    d_loss = bce(on_real, 1) + bce(on_fake, 0)
    class_real = F.cross_entropy(real_class.float(), labels)
    class_fake = F.cross_entropy(fake_class.float(), fake_labels)
    descend(m.optimizer_d, d_loss + class_real + class_fake)

    with m.autocast:
        score, named = m.discriminator(fake)
    g_loss = bce(score, 1)
    g_class = F.cross_entropy(named.float(), fake_labels)
    descend(m.optimizer_g, g_loss + g_class)
    return {"D loss": d_loss, "G loss": g_loss, "class real": class_real, "class fake": g_class,
            "D(x)": chance(on_real), "D(G(z))": chance(on_fake)}


# ---- CycleGAN: paper 002, Zhu et al. 2017, any side divisible by 4

class ResidualBlock(nn.Module):
    def __init__(self, maps):
        super().__init__()

        def convolution():
            return nn.ReflectionPad2d(1), nn.Conv2d(maps, maps, 3), nn.InstanceNorm2d(maps)

        self.layers = nn.Sequential(*convolution(), nn.ReLU(), *convolution())

    def forward(self, x):
        return x + self.layers(x)


def cyclegan_generator(width=64, blocks=9):
    """11,378,179 parameters. Image (n, 3, side, side) in [-1, 1] -> image of the other kind."""
    def down(maps):
        return nn.Conv2d(maps, 2 * maps, 3, 2, 1), nn.InstanceNorm2d(2 * maps), nn.ReLU()

    def up(maps):
        layer = nn.ConvTranspose2d(maps, maps // 2, 3, 2, 1, output_padding=1)
        return layer, nn.InstanceNorm2d(maps // 2), nn.ReLU()

    middle = [ResidualBlock(4 * width) for _ in range(blocks)]
    return dcgan_init(nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7),
        nn.InstanceNorm2d(width), nn.ReLU(),            # (n, width, side, side)
        *down(width),                                   # side / 2
        *down(2 * width),                               # side / 4
        *middle,
        *up(4 * width),                                 # side / 2
        *up(2 * width),                                 # side
        nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()))


def cyclegan_discriminator(width=64):
    """The 70 x 70 PatchGAN: 2,764,737 parameters. Image -> a score per patch."""
    def down(maps, stride):
        layer = nn.Conv2d(maps, 2 * maps, 4, stride, 1)
        return layer, nn.InstanceNorm2d(2 * maps), nn.LeakyReLU(0.2)

    return dcgan_init(nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),    # (n, width, 128, 128) at 256 px
        *down(width, 2),                                # (n, 2 width, 64, 64)
        *down(2 * width, 2),                            # (n, 4 width, 32, 32)
        *down(4 * width, 1),                            # (n, 8 width, 31, 31)
        nn.Conv2d(8 * width, 1, 4, 1, 1)))              # (n, 1, 30, 30)


def show_old(pool, size, new):
    """Each new fake, or half of the time an earlier one. pool: the last `size` fakes."""
    shown = []
    for image in new.detach():
        if len(pool["images"]) < size:
            pool["images"].append(image)
        elif torch.rand(()) < 0.5:        # show an old one, keep the new one in its place
            k = int(torch.randint(size, ()))
            image, pool["images"][k] = pool["images"][k], image
        shown.append(image)
    return torch.stack(shown)


def crop_and_flip(x):
    """Enlarge by 286/256, cut a random window, mirror at random (its code)."""
    side = x.shape[-1]
    large = F.interpolate(x, size=round(side * 286 / 256), mode="bicubic").clamp(-1, 1)
    room = large.shape[-1] - side + 1
    top, left, mirror = (int(torch.randint(k, ())) for k in (room, room, 2))
    window = large[..., top:top + side, left:left + side]
    return window.flip(-1) if mirror else window


def judge_loss(judge, real, fake, pool, size):
    """Least squares of a discriminator, halved: real images to 1, fakes of the pool to 0."""
    old = show_old(pool, size, fake.float())
    return (squares(judge(real), 1) + squares(judge(old), 0)) / 2


def cyclegan_step(m):
    """Both generators, then both discriminators. Eq. 1 to 3, and the paper's identity loss."""
    config = m.config
    falling = 2 - 2 * m.step / config["steps"]      # the rate: constant for half, then to 0
    for optimizer in (m.optimizer_g, m.optimizer_d):
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * min(1, falling)
    a = crop_and_flip(scaled(m.source_batches.next()[0]))
    b = crop_and_flip(m.real())
    with m.autocast:
        fake_b, fake_a = m.generator(a), m.back(b)
        back_a, back_b = m.back(fake_b), m.generator(fake_a)
        same_a, same_b = m.back(a), m.generator(b)
        fooled = squares(m.discriminator(fake_b), 1) + squares(m.judge_a(fake_a), 1)
    cycle = F.l1_loss(back_a.float(), a) + F.l1_loss(back_b.float(), b)
    identity = F.l1_loss(same_a.float(), a) + F.l1_loss(same_b.float(), b)
    g_loss = fooled + config["cycle"] * cycle
    g_loss = g_loss + config["cycle"] * config["identity"] * identity
    descend(m.optimizer_g, g_loss)

    with m.autocast:
        d_a = judge_loss(m.judge_a, a, fake_a, m.pool_a, config["pool"])
        d_b = judge_loss(m.discriminator, b, fake_b, m.pool_b, config["pool"])
    descend(m.optimizer_d, d_a + d_b)
    return {"D_A": d_a, "D_B": d_b, "adversarial": fooled, "cycle": cycle, "identity": identity}


# ---- The models: one entry each

@dataclass
class GAN:
    recipe: dict                # hyper-parameter: (default, source); an option of that type
    generator: Callable         # config -> network
    discriminator: Callable     # config -> network
    step: Callable              # one training step: Training -> {name: value on the device}
    noise: str = "normal"       # or "uniform", in [-1, 1]
    labels: bool = False        # the generator is told the class
    translates: bool = False    # images of a second set, instead of starting from noise
    sizes: tuple = (64,)        # what --size can be
    z_dims: tuple = None        # what --z-dim can be; None: any


DCGAN = dict(
    size=(64, "000 II.B; 001 Generator definition; 003 III.C; 004 section 4.3"),
    lr=(2e-4, "not stated; DCGAN paper"), beta1=(0.5, "not stated; DCGAN paper"),
    beta2=(0.999, "not stated; Adam's default"),
    average=(0.999, "not stated; ours: decay of the averaged generator that draws"))
BESIDE_DCGAN = DCGAN | dict(
    batch=(128, "not stated; as the DCGAN beside it"),
    epochs=(3000.0, "not stated; as the DCGAN beside it"))

GANS = {
    "wgan_gp": GAN(     # paper 000: Goren & Cinarer
        recipe=DCGAN | dict(
            z_dim=(200, "Table 3: 200 x 1792 x 16 weights + 1792 biases = 5,736,192"),
            width=(224, "Tables 2 and 3; section II.D and Table 1 have 64"),
            batch=(32, "section II.K"),
            epochs=(1000.0, 'section II.K: "iteration number"; ours: passes of the critic'),
            lr=(1e-4, "not stated; WGAN-GP paper"),
            beta1=(0.0, "not stated; WGAN-GP paper"),
            beta2=(0.9, "not stated; WGAN-GP paper"),
            penalty=(10.0, "not stated; lambda of the WGAN-GP paper"),
            n_critic=(5, "not stated; WGAN-GP paper")),
        generator=lambda c: wgan_gp_generator(c["z_dim"], c["width"]),
        discriminator=lambda c: wgan_gp_critic(c["width"]),
        step=wgan_gp_step),
    "dcgan_cls": GAN(   # paper 001: Mutepe et al.
        recipe=DCGAN | dict(
            z_dim=(128, "Results, Produced images; 100 was tried first"),
            width=(64, "Generator definition: 512, 256, 128, 64 maps"),
            batch=(128, "Details of DCGAN architecture, Table 2; Generator definition: 64"),
            epochs=(3000.0, "captions of Figures 14 and 15"),
            lr=(2e-4, "abstract; Details of DCGAN architecture"),
            beta1=(0.5, "abstract; Details of DCGAN architecture: 0.2"),
            optimizer=("adam", "Table 4; its other row is sgd, ours with momentum beta1")),
        generator=lambda c: dcgan_generator(c["z_dim"], c["width"]),
        discriminator=lambda c: dcgan_discriminator(c["width"]),
        step=dcgan_step),
    "plain_gan": GAN(   # paper 001, Table 6: Goodfellow et al. 2014
        recipe=BESIDE_DCGAN | dict(
            z_dim=(128, "not stated; as the DCGAN beside it"),
            width=(1200, "not stated; Goodfellow's code: hidden units, a fifth to discriminate")),
        generator=lambda c: plain_generator(c["z_dim"], c["width"]),
        discriminator=lambda c: plain_discriminator(c["width"] // 5),
        step=dcgan_step),
    "lapgan": GAN(      # paper 001, Table 6: Denton et al. 2015
        recipe=BESIDE_DCGAN | dict(
            z_dim=(5504, "not stated; ours: 128 for 8 px, a plane each for 16, 32, 64 px"),
            width=(64, "not stated; LAPGAN paper, CIFAR-10: maps of each convolution")),
        generator=lambda c: LaplacianGenerator(c["width"]),
        discriminator=lambda c: laplacian_discriminators(c["width"]),
        step=lapgan_step, z_dims=(5504,)),
    "acgan": GAN(       # paper 002: Fossen-Romsaas et al.
        recipe=DCGAN | dict(
            size=(128, "Data and data preparation"),
            z_dim=(110, "not stated; ACGAN paper; the first values hold the class, one-hot"),
            width=(64, "not stated; ACGAN paper's ImageNet model: 768 = 12 x 64 maps"),
            batch=(100, "not stated; ACGAN paper"),
            epochs=(250.0, "not stated; the ACGAN paper's 50,000 steps, for 20,264 images"),
            lr=(2e-4, "not stated; ACGAN paper")),
        generator=lambda c: acgan_generator(c["z_dim"], c["width"], c["size"]),
        discriminator=lambda c: acgan_discriminator(len(c["classes"]), c["width"], c["size"]),
        step=acgan_step, labels=True, sizes=(32, 64, 128)),
    "cyclegan": GAN(    # paper 002; Zhu et al. 2017
        recipe=DCGAN | dict(
            size=(256, "Data and data preparation"),
            width=(64, "not stated; CycleGAN paper: maps of the first layer"),
            blocks=(9, "not stated; CycleGAN paper at 256 px"),
            batch=(1, "not stated; CycleGAN paper"),
            epochs=(200.0, "not stated; CycleGAN paper: half of them with a falling rate"),
            lr=(2e-4, "not stated; CycleGAN paper"),
            cycle=(10.0, "not stated; CycleGAN paper: weight of the cycle loss"),
            identity=(0.5, "not stated; CycleGAN paper: its weight relative to the cycle loss"),
            pool=(50, "not stated; CycleGAN paper: fakes that the discriminators see again"),
            average=(0.0, "not stated; CycleGAN paper: the generator itself draws")),
        generator=lambda c: cyclegan_generator(c["width"], c["blocks"]),
        discriminator=lambda c: cyclegan_discriminator(c["width"]),
        step=cyclegan_step, translates=True, sizes=(32, 64, 96, 128, 256)),
    "dermagan": GAN(    # paper 003: 6,951,808 and 2,765,696 parameters
        recipe=DCGAN | dict(
            z_dim=(512, "section III.C"),
            width=(64, "section III.C: first 512 and first 64 maps; the rest from the notebooks"),
            batch=(64, "section III.C; the released notebooks use 16"),
            epochs=(200.0, "not stated; the released notebooks"),
            lr=(2e-4, "section III.C, of the discriminator; the released notebooks: 1e-4"),
            beta1=(0.5, "section III.C, of the discriminator"),
            beta2=(0.999, "section III.C, of the discriminator")),
        generator=lambda c: wgan_gp_generator(c["z_dim"], c["width"], bias=False),
        discriminator=lambda c: conv4_discriminator(c["width"], nn.BatchNorm2d, bias=False),
        step=dcgan_step),
    "dcgan_inception": GAN(  # paper 004
        recipe=DCGAN | dict(
            z_dim=(100, "section 3.2: uniform"),
            width=(128, "not stated; DCGAN paper's figure: 1024, 512, 256, 128 maps"),
            batch=(64, "section 4.3"),
            epochs=(300.0, "section 4.3")),
        generator=lambda c: dcgan_generator(c["z_dim"], c["width"]),
        discriminator=lambda c: dcgan_discriminator(c["width"]),
        step=dcgan_step, noise="uniform"),
}


# ---- Noise, averages, samples

def as_inputs(config, z, labels):
    """Noise (n, z_dim) -> (n, z_dim, 1, 1): uniform noise in [-1, 1], a told class in front."""
    entry, classes = GANS[config["model"]], len(config["classes"])
    if entry.noise == "uniform":
        z = z * 2 - 1
    if entry.labels:
        z[:, :classes] = F.one_hot(labels, classes)
    return z[:, :, None, None]


def drawn_classes(config):
    """The classes of samples: all if the model is told, else the one it learned."""
    if GANS[config["model"]].labels:
        return config["classes"]
    return [config["of_class"] or "unlabelled"]


def in_turn(config, n):
    """Labels (n,) of samples: the classes take turns."""
    return np.arange(n) % len(drawn_classes(config))


@torch.no_grad()
def update_average(average, net, step, decay):
    """Moving average of the weights AND of BatchNorm's running statistics.
    The decay rises from 0.1 to its full value: a short run does not drag its start along."""
    keep = min(decay, (1 + step) / (10 + step))
    for mean, new in zip(average.state_dict().values(), net.state_dict().values()):
        if mean.is_floating_point():      # all but BatchNorm's count of batches
            mean.lerp_(new, 1 - keep)


@torch.no_grad()
def draw(generator, inputs):
    """Images of a generator in eval mode (the same in any batch), of noise or images: uint8."""
    device = next(generator.parameters()).device
    images = []
    for some in inputs.split(64):
        if some.dtype == torch.uint8:               # as floats thousands would fill memory
            some = scaled(some)
        images.append(data.to_uint8(generator(some.to(device)).float()))
    return np.concatenate(images)


def sample_set(name, config, generator, source, labels, seed, **seen):
    """Samples of these labels, at most as many as `source` has; `seen` goes with them."""
    model, classes = config["model"], drawn_classes(config)
    if source is None:
        rng = np.random.default_rng(seed)
        draw_z = dict(normal=rng.standard_normal, uniform=rng.random)[GANS[model].noise]
        z = draw_z((len(labels), config["z_dim"]), np.float32)
        inputs = as_inputs(config, torch.from_numpy(z), torch.as_tensor(labels))
    else:
        inputs = data.to_tensor(source.images[:len(labels)])
    few = 4 if "dry_run_of" in config else None         # repeated
    pictures = draw(generator, inputs[:few])
    pictures = np.resize(pictures, (len(inputs), *pictures.shape[1:]))

    ids = np.array([f"{name}/{k:05d}" for k in range(len(pictures))])
    no_part = np.zeros(len(ids), "U5")
    info = dict(source=f"{model} {name}", generator=model, size=config["size"]) | seen
    return data.ImageSet(pictures, labels[:len(ids)], classes, ids, ids, no_part, info)


# ---- Training

def training_part(path, of_class=None, size=None):
    images = data.load(path, size).part("train")
    if of_class:
        images = images.of_class(of_class)
    return data.resized(images, size)


def load_images(args):
    """(images to learn from, unseen test images), of --class if given. --leak: all, none."""
    whole = data.load(args.data, args.size)
    if not whole.split.any():
        print(f"{args.data} has no split: this GAN learns from every image", file=sys.stderr)
    if args.of_class:
        whole = whole.of_class(args.of_class)
    images = whole if args.leak else whole.part("train")
    images = images.share(args.share)
    unseen = whole.take((whole.split == "test") & (not args.leak))
    if "top" in args:
        images = images.take(slice(round(args.top * len(images))))
    return data.resized(images, args.size), data.resized(unseen, args.size)


def labels_to_draw(args, config, like):
    """(n,) class numbers of what --samples asks for; 1/1: as many as `like` has."""
    classes = drawn_classes(config)
    if args.samples == "balance":         # in turn, until each has as many as the largest class
        counts = training_part(args.data, size=args.size).share(args.share).counts()
        if not set(classes) <= set(counts):
            raise UserError("--samples balance: give --class, the one that lacks images")
        lacking = [max(counts.values()) - counts[name] for name in classes]
        turns = [(k, label) for label, n in enumerate(lacking) for k in range(n)]
        return np.array([label for _, label in sorted(turns)] or [0])
    if not re.fullmatch(r"[1-9]\d{,6}(/[1-9]\d*)?", args.samples):
        raise UserError(f"--samples {args.samples}: give a number, a multiple (3/2) or balance")
    number = Fraction(args.samples)
    if "/" in args.samples:
        number = number * len(like)
    return in_turn(config, max(1, round(number)))


def train(args):
    entry, out, begun = GANS[args.model], Path(args.out), time.time()
    device = jobs.start_device(args)
    images, unseen = load_images(args)
    to_draw, source = images, None        # --samples is a multiple of these
    if entry.translates:
        to_draw = source = training_part(args.source, args.source_class, args.size)
    epoch_steps = max(len(images), len(to_draw)) / args.batch / getattr(args, "n_critic", 1)
    names = "model seed precision leak share of_class snapshots source_class top".split()
    config = jobs.config_of(args, names, entry.recipe, epoch_steps)
    config |= dict(classes=images.classes, data=images.fingerprint())
    if entry.translates:
        config["source"] = source.fingerprint()
    if entry.labels and (args.of_class or args.z_dim < len(images.classes)):
        raise UserError(f"{args.model} is told all classes in z: without --class, "
                        f"with --z-dim from {len(images.classes)}")
    labels = labels_to_draw(args, config, to_draw)
    if entry.translates and len(labels) > len(source):
        raise UserError(f"--samples {args.samples}: --source has {len(source)} images")
    config["samples"] = len(labels)
    m = build(config, images, source, device)       # it may refuse --batch
    if jobs.start_job(out, config):
        return

    train_step, cost = jobs.timed(entry.step, args)
    first, begun = jobs.load_checkpoint(out, vars(m), device, begun)
    steps = jobs.steps_to_do(out, vars(m), begun, first, config["steps"], args.stop_after)
    loop(m, out, train_step, steps, jobs.Progress(out.name, config["steps"], first))

    if not args.forget:
        jobs.save_state(out / "model.pt", dict(
            average=m.average.state_dict(), discriminator=m.discriminator.state_dict()))
    seen = data.what_was_seen(images, source)
    generated = sample_set(out.name, config, m.average, source, labels, args.seed + 1, **seen)
    generated.save(out / "samples.npy")
    values = metrics.judge_generated(generated, images, unseen, args.seed, source)
    jobs.finish_job(out, config, time.time() - begun, device, counts=images.counts(),
                    metrics=values, curves=m.record["curves"], cost=cost)
    state = "COLLAPSED" if values["collapsed"] else "alive"
    print(f"{out}: {len(generated)} samples, {state}, see {out}/grid.png")


def build(config, images, source, device):
    """A Training ready for its first step."""
    entry = GANS[config["model"]]

    def net(make):      # channels_last: a step of a DCGAN or LAPGAN is 1.1 to 1.4 times as fast
        return make(config).to(device, memory_format=torch.channels_last)

    generator, discriminator = net(entry.generator), net(entry.discriminator)
    bf16 = config["precision"] == "bf16"
    m = Training(
        config, device, torch.autocast(device.type, torch.bfloat16, enabled=bf16), source,
        batches=data.Batches(images, config["batch"], config["seed"], device, entry.translates),
        generator=generator, discriminator=discriminator,
        average=copy.deepcopy(generator).eval().requires_grad_(False),
        optimizer_g=make_optimizer(config, generator),
        optimizer_d=make_optimizer(config, discriminator),
        record=jobs.Record(recent=[], curves={}))
    if entry.translates:                    # the way back, from B to A
        m.source_batches = data.Batches(source, config["batch"], config["seed"] + 1, device, True)
        m.back, m.judge_a = net(entry.generator), net(entry.discriminator)
        m.optimizer_g = make_optimizer(config, generator, m.back)
        m.optimizer_d = make_optimizer(config, m.judge_a, discriminator)
        m.pool_a, m.pool_b = jobs.Record(images=[]), jobs.Record(images=[])
    return m


def make_optimizer(config, *nets):
    """Adam in one kernel for all weights (fused): a step is 1.02 to 1.12 times as fast."""
    weights = [weight for net in nets for weight in net.parameters()]
    if config.get("optimizer") == "sgd":
        return torch.optim.SGD(weights, config["lr"], momentum=config["beta1"])
    return torch.optim.Adam(weights, config["lr"], (config["beta1"], config["beta2"]), fused=True)


def loop(m, out, train_step, steps_to_do, progress):
    """A step on a new batch, average, log; steps_to_do saves."""
    steps, seed = m.config["steps"], m.config["seed"]
    drawn = out.name, m.config, m.average, m.source
    window = max(1, steps // 200)         # steps between two points of the curves
    m.record["curves"]["window"] = window
    for m.step in steps_to_do:
        values = train_step(m)
        update_average(m.average, m.generator, m.step, m.config["average"])
        m.record["recent"].append(torch.stack(list(values.values())).detach())
        done = m.step + 1
        if done % window == 0 or done == steps:     # only here the loop waits for the device
            means = torch.stack(m.record["recent"]).float().mean(0).tolist()
            progress.note = jobs.add_point(m.record, out, done, dict(zip(values, means)))
        if done * 10 // steps > m.step * 10 // steps:       # every tenth of the training
            samples = sample_set(*drawn, in_turn(m.config, 16), seed).images
            data.save_grid(out / f"grid_{done:06d}.png", samples[:8])
            if m.source is not None:      # sources above what became of them
                samples = np.concatenate([m.source.images[:8], samples[:8]])
            data.save_grid(out / "grid.png", samples)
            labels = in_turn(m.config, m.config["snapshots"])
            if len(labels):               # paper 004, Figure 6
                more = sample_set(*drawn, labels, seed + 2)
                more.save(out / f"snapshots/{done:06d}.npy")
        progress(done)


# ---- More samples, layer tables

def sample(args):
    """More images of a finished run. They, too, say what the GAN has seen."""
    run, device = Path(args.run), jobs.start_device(args)
    saved, config = jobs.load_run(run, GANS)
    entry, classes, source = GANS[config["model"]], drawn_classes(config), None
    with jobs.used(run / "model.pt"):
        generator = entry.generator(config).eval().to(device)
        generator.load_state_dict(saved["average"])
    labels = in_turn(config, args.n)
    if args.of_class:
        if args.of_class not in classes:
            raise UserError(f"--class {args.of_class}: {run} draws {', '.join(classes)}")
        labels[:] = classes.index(args.of_class)
    if entry.translates:
        if not args.source:
            raise UserError(f"{run} is a {config['model']}: give --source, what to translate")
        source = training_part(args.source, config["source_class"], config["size"])
        if args.n > len(source):
            raise UserError(f"--n {args.n}: {args.source} has {len(source)} images")
    seen = data.what_was_seen(data.load(run / "samples.npy"), source)
    generated = sample_set(
        f"{run.name}/{args.seed}", config, generator, source, labels, args.seed, **seen)
    generated.save(args.out)
    print(f"{args.out}: {len(generated)} images, {generated.counts()}")


def layer_table(net, shape):
    """[[layer, output shape, parameters], ...]; on meta tensors, without memory."""
    rows, x = [], torch.empty(1, *shape, device="meta")
    for layer in net.to("meta").eval().children():
        sides = []
        if isinstance(net, nn.Sequential):          # LAPGAN's levels stand side by side
            x = layer(x)
            if isinstance(x, tuple):                # ACGAN's two heads
                x = x[-1]
            sides = list(x.shape)[1:]
        rows.append([type(layer).__name__, sides, sum(p.numel() for p in layer.parameters())])
    return [*rows, ["total", [], sum(count for _, _, count in rows)]]


def describe(args):
    """The layer tables of a model; of paper 000 also its Table 1."""
    entry = GANS[args.model]
    config = {name: value for name, (value, _) in entry.recipe.items()} | dict(classes=data.EIGHT)
    image = (3, config["size"], config["size"])
    z = image if entry.translates else (config["z_dim"], 1, 1)
    tables = dict(discriminator=layer_table(entry.discriminator(config), image),
                  generator=layer_table(entry.generator(config), z))
    if args.model == "wgan_gp":
        tables["critic"] = layer_table(wgan_gp_critic(64), image)
    for name, rows in tables.items():
        print(f"{name} of {args.model}")
        for layer, sides, count in rows:
            print(f"    {layer:20}{' x '.join(map(str, sides)):>18}{count:>14,}")
    config = dict(command="describe", model=args.model)
    if args.out and not jobs.start_job(args.out, config):
        jobs.finish_job(args.out, config, 0.0, "cpu", tables=tables)


def main():
    parser = jobs.Parser(prog="gan.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    models = commands.add_parser("train", help="train a GAN, draw samples")
    models = models.add_subparsers(dest="model", required=True)
    for name, entry in GANS.items():
        p = models.add_parser(name)
        p.set_defaults(function=train)
        add = p.add_argument
        add("--data", required=True, help="a `prepare` job, an .npy file or a folder")
        add("--class", dest="of_class", help="learn this class alone")
        add("--samples", default="64", help="how many to draw (64); 3/2: a multiple of the images "
            "to learn from, or to translate; balance: what its classes lack")
        add("--leak", action="store_true", help="train on validation and test images too")
        add("--snapshots", type=jobs.at_least(0), default=0, help="keep so many at each tenth")
        if entry.translates:
            add("--source", required=True, help="set to translate from")
            add("--source-class", help="translate from this class alone")
            add("--top", type=jobs.fraction, default=Fraction(1), help="first part, by rank: alpha")
        jobs.add_training_options(p, entry.recipe, optimizer=("adam", "sgd"), size=entry.sizes,
                                  z_dim=entry.z_dims)

    p = commands.add_parser("describe", help="print layer tables")
    p.set_defaults(function=describe)
    p.add_argument("model", choices=GANS)
    p.add_argument("--out", help="folder for its result.json")

    p = commands.add_parser("sample", help="draw more images")
    p.set_defaults(function=sample)
    p.add_argument("run", help="folder of a finished GAN")
    p.add_argument("--n", type=jobs.at_least(1, below=1e7), default=64, help="how many (64)")
    p.add_argument("--class", dest="of_class", help="of an ACGAN: draw this class alone")
    p.add_argument("--seed", type=jobs.at_least(0), default=1000, help="of the noise (1000)")
    p.add_argument("--source", help="of a CycleGAN: translate the training part of this set")
    p.add_argument("--out", required=True, help="an .npy file, or a folder for PNG files")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
