"""gan.py: the generators and discriminators of the papers, their losses, one training loop, sampling.

    python gan.py describe dcgan_cls                                   the layer tables with parameter counts
    python gan.py train wgan_gp --data runs/data --class benign --out runs/gan_benign --samples 879
    python gan.py train acgan --data runs/data --size 128 --out runs/acgan --samples 8000
    python gan.py train cyclegan --source runs/acgan --data runs/data --each-class --size 128 --out runs/cyclegan
    python gan.py sample runs/gan_benign --n 100 --out more.npz        more images from a finished run

`train MODEL --help` lists every hyper-parameter with its source. A run that was cut off goes on when its command is
given again. Samples are drawn in eval mode from averaged weights, so image number i is the same in any batch.
"""
import copy
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import data
import metrics
from data import UserError, scaled

# Every hyper-parameter of a model and where it comes from. Each is an option of `train MODEL`.
AVERAGE = (0.999, "ours: decay of the averaged generator that draws the samples")
DCGAN = dict(lr=(2e-4, "DCGAN paper"), beta1=(0.5, "DCGAN paper"), beta2=(0.999, "Adam's default"), average=AVERAGE)
RECIPES = {
    "wgan_gp": dict(                                    # paper 000: Goren & Cinarer
        z_dim=(200, "Table 3: 200 x 1792 x 16 weights + 1792 biases = 5,736,192"),
        width=(224, "Tables 2 and 3: maps of the critic's first and the generator's last hidden layer (Table 1: 64)"),
        batch=(32, "section II.K"),
        epochs=(1000.0, 'section II.K, "iterations"; passes of the critic over the real images'),
        lr=(1e-4, "not stated; WGAN-GP paper"),
        beta1=(0.0, "not stated; WGAN-GP paper"),
        beta2=(0.9, "not stated; WGAN-GP paper"),
        penalty=(10.0, "not stated; lambda of the WGAN-GP paper"),
        n_critic=(5, "not stated; critic steps per generator step, WGAN-GP paper"),
        average=AVERAGE),
    "dcgan_cls": DCGAN | dict(                          # paper 001: Mutepfe et al.
        z_dim=(128, "method; 100 was tried first"),
        width=(64, "method: 512, 256, 128, 64 maps"),
        batch=(128, "method and results; the generator's section says 64"),
        epochs=(3000.0, "results, Figure 14"),
        lr=(2e-4, "Table 3"),
        beta1=(0.5, "abstract; the method says 0.2")),
    "plain_gan": DCGAN | dict(                          # paper 001, Table 6: Goodfellow et al. 2014
        z_dim=(128, "as the DCGAN beside it"),
        width=(1200, "Goodfellow's code: hidden units of the generator (the discriminator has 240)"),
        batch=(128, "as the DCGAN beside it"),
        epochs=(3000.0, "as the DCGAN beside it")),
    "lapgan": DCGAN | dict(                             # paper 001, Table 6: Denton et al. 2015
        z_dim=(5504, "ours: 128 values for the 8 px image, one noise plane each for 16, 32 and 64 px"),
        width=(64, "LAPGAN paper, CIFAR-10: maps of each convolution"),
        batch=(128, "as the DCGAN beside it"),
        epochs=(3000.0, "as the DCGAN beside it")),
    "acgan": DCGAN | dict(                              # paper 002: Fossen-Romsaas et al.; Odena et al. 2017
        z_dim=(110, "ACGAN paper; the first values hold the class, one-hot"),
        width=(64, "ACGAN paper's ImageNet model: 768 = 12 x 64 maps"),
        batch=(100, "not stated; ACGAN paper"),
        epochs=(250.0, "not stated; the ACGAN paper's 50,000 steps of 100 images, for 20,264 images"),
        lr=(2e-4, "not stated; ACGAN paper")),
    "cyclegan": dict(                                   # paper 002; Zhu et al. 2017
        width=(64, "not stated; CycleGAN paper: maps of the first layer"),
        blocks=(9, "not stated; CycleGAN paper at 256 px"),
        batch=(1, "not stated; CycleGAN paper"),
        epochs=(200.0, "not stated; CycleGAN paper: 100 at the full rate and 100 falling to zero"),
        lr=(2e-4, "not stated; CycleGAN paper"),
        beta1=(0.5, "not stated; CycleGAN paper"),
        beta2=(0.999, "Adam's default"),
        cycle=(10.0, "not stated; CycleGAN paper: weight of the cycle loss"),
        identity=(0.5, "not stated; CycleGAN paper: weight of the identity loss, relative to the cycle loss"),
        pool=(50, "not stated; CycleGAN paper: earlier images that the discriminators are shown again"),
        average=(0.0, "CycleGAN paper: no average, the generator itself draws")),
    "dermagan": DCGAN | dict(                           # paper 003
        z_dim=(512, "section on the generator"),
        width=(64, "section on the generator: 512, 256, 128, 64 maps"),
        batch=(64, "section B; the released notebooks use 16"),
        epochs=(200.0, "not stated; the released notebooks"),
        lr=(2e-4, "section B; the released notebooks use 1e-4"),
        beta1=(0.5, "section B")),
    "dcgan_inception": DCGAN | dict(                    # paper 004
        z_dim=(100, "section 3.2: uniform, as in the DCGAN paper"),
        width=(128, "not stated; figure of the DCGAN paper: 1024, 512, 256, 128 maps"),
        batch=(64, "section 4.3"),
        epochs=(300.0, "section 4.3"),
        lr=(2e-4, "not stated; DCGAN paper")),
}
SIZES = dict(acgan=128, cyclegan=256)       # default side, "methods"; the others' networks make 64 px only
ROUNDS = 160                # how often --latents draws: after epochs 41 to 200 in paper 003's notebooks
COLLAPSE = 0.35             # alarm: samples differ from each other less than this fraction of what real images do


# ---------------------------------------------------------------------------------------------------------------------
# Networks with 4x4 kernels: papers 000 and 003, 64 px. Weight init is not stated: PyTorch's default.

def wgan_gp_generator(z_dim=200, width=224, bias=True):
    """Paper 000, Table 3: 39,473,507 parameters. z (n, z_dim, 1, 1) -> image (n, 3, 64, 64) in [-1, 1].

    Every layer has a bias. ReLU as in the table (the text says LeakyReLU).
    """
    layers, maps = [], z_dim
    for wide, stride, pad in ((8 * width, 1, 0), (4 * width, 2, 1), (2 * width, 2, 1), (width, 2, 1)):
        layers += [nn.ConvTranspose2d(maps, wide, 4, stride, pad, bias=bias), nn.BatchNorm2d(wide), nn.ReLU()]
        maps = wide                                                     # 4, 8, 16, 32 px
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=bias), nn.Tanh())   # (n, 3, 64, 64)


def dermagan_generator(z_dim=512, width=64):
    """Paper 003: 6,951,808 parameters. The same layers as paper 000's, without biases."""
    return wgan_gp_generator(z_dim, width, bias=False)


def wgan_gp_critic(width=224):
    """Paper 000, Table 2 (width 224): 33,767,777 parameters; Table 1 (64): 2,766,657. (n, 3, 64, 64) -> score (n,).

    InstanceNorm as in the tables (the text says BatchNorm, which would tie the images of a batch together and make a
    penalty per image meaningless). Table 1 prints its first row without the bias that all its other rows have.
    """
    return conv4_discriminator(width, lambda maps: nn.InstanceNorm2d(maps, affine=True), bias=True)


def dermagan_discriminator(width=64):
    """Paper 003: 2,765,696 parameters. Image (n, 3, 64, 64) -> logit (n,). BatchNorm also after the first layer."""
    return conv4_discriminator(width, nn.BatchNorm2d, bias=False)


def conv4_discriminator(width, norm, bias):
    layers, maps = [], 3
    for wide in (width, 2 * width, 4 * width, 8 * width):               # 32, 16, 8, 4 px
        layers += [nn.Conv2d(maps, wide, 4, 2, 1, bias=bias), norm(wide), nn.LeakyReLU(0.2)]
        maps = wide
    return nn.Sequential(*layers, nn.Conv2d(maps, 1, 4, 1, 0, bias=bias), nn.Flatten(0))         # (n,)


# ---------------------------------------------------------------------------------------------------------------------
# DCGAN with 5x5 kernels, papers 001 (width 64) and 004 (width 128), 64 px. Weights N(0, 0.02) as in the DCGAN paper.

def dcgan_generator(z_dim=128, width=64):
    """Paper 001: 5,364,739 parameters (z 100: 5,135,363); paper 004, width 128, z 100: 18,872,323.

    z (n, z_dim, 1, 1) -> image (n, 3, 64, 64) in [-1, 1]. BatchNorm by channel; paper 001's base code normalises image
    rows instead, by a wrong axis.
    """
    layers, maps = [nn.Flatten(), nn.Linear(z_dim, 8 * width * 16), nn.Unflatten(1, (8 * width, 4, 4))], 8 * width
    for wide in (4 * width, 2 * width, width, 3):                       # 8, 16, 32, 64 px
        layers += [nn.BatchNorm2d(maps), nn.ReLU(), nn.ConvTranspose2d(maps, wide, 5, 2, 2, output_padding=1)]
        maps = wide
    return dcgan_init(nn.Sequential(*layers, nn.Tanh()))


def dcgan_discriminator(width=64):
    """Paper 001: 4,316,545 parameters. Image (n, 3, 64, 64) -> logit (n,). No BatchNorm on the first layer."""
    layers, maps = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2)], width                      # 32 px
    for wide in (2 * width, 4 * width, 8 * width):                      # 16, 8, 4 px
        layers += [nn.Conv2d(maps, wide, 5, 2, 2), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        maps = wide
    return dcgan_init(nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps * 16, 1), nn.Flatten(0)))


def dcgan_init(net):
    """Weights N(0, 0.02), BatchNorm's scale N(1, 0.02), biases 0 (DCGAN paper; also ACGAN's and CycleGAN's)."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
            nn.init.normal_(layer.weight, 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


# ---------------------------------------------------------------------------------------------------------------------
# The two older models of paper 001's Table 6, 64 px

def plain_generator(z_dim=128, width=1200):
    """Fully connected, Goodfellow et al. 2014. z (n, z_dim, 1, 1) -> image (n, 3, 64, 64)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(z_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, 3 * 64 * 64), nn.Tanh(), nn.Unflatten(1, (3, 64, 64)))


def plain_discriminator(width=240):
    """Fully connected with dropout; LeakyReLU where Goodfellow et al. have maxout. (n, 3, 64, 64) -> logit (n,)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, width), nn.LeakyReLU(0.2), nn.Dropout(0.5),
                         nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Dropout(0.5),
                         nn.Linear(width, 1), nn.Flatten(0))


class LaplacianGenerator(nn.Module):
    """LAPGAN, Denton et al. 2015: an 8 px image, then at 16, 32 and 64 px the detail that its enlargement lacks.

    z (n, 5504, 1, 1) holds all the noise: 128 values for the 8 px image and one plane for each later level.
    """
    SIDES = (16, 32, 64)

    def __init__(self, width=64):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(128, 16 * width), nn.ReLU(), nn.Linear(16 * width, 16 * width), nn.ReLU(),
                                  nn.Linear(16 * width, 3 * 8 * 8), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
        self.detail = nn.ModuleList(nn.Sequential(              # (n, 3 + 1, side, side) -> (n, 3, side, side)
            nn.Conv2d(4, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
            nn.Conv2d(width, 3, 5, padding=2)) for _ in self.SIDES)

    def levels(self, z, smaller):
        """The image of each level, 8 to 64 px; level k builds on smaller(k, image of level k - 1)."""
        first, *planes = z.flatten(1).split([128, *(side ** 2 for side in self.SIDES)], 1)
        images = [self.base(first)]
        for k, (side, plane, detail) in enumerate(zip(self.SIDES, planes, self.detail)):
            blurred = F.interpolate(smaller(k, images[-1]), scale_factor=2, mode="bilinear")
            images.append(blurred + detail(torch.cat([blurred, plane.view(-1, 1, side, side)], 1)))
        return images

    def forward(self, z):
        return self.levels(z, lambda k, image: image)[-1].clamp(-1, 1)

    def pairs(self, real, z):
        """(real, fake) of each level. As in the paper each level learns on its own, upon the real smaller image."""
        reals = [F.avg_pool2d(real, 64 // side) for side in (8, 16, 32)] + [real]
        return list(zip(reals, self.levels(z, lambda k, image: reals[k])))


def laplacian_discriminators(width=64):
    """One per level, 8 to 64 px: image -> logit (n,)."""
    return nn.ModuleList(nn.Sequential(
        nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 5, 2, 2), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(width * (side // 4) ** 2, 1), nn.Flatten(0))
        for side in (8, 16, 32, 64))


# ---------------------------------------------------------------------------------------------------------------------
# ACGAN, paper 002: Odena et al. 2017 at 128 px; with fewer layers 64 or 32 px (ours, for the reduced scales)

def acgan_generator(z_dim=110, width=64, size=128):
    """11,465,728 parameters at 128 px. z (n, z_dim, 1, 1), its first entries the one-hot class -> (n, 3, size, size).

    Sides at 128 px: 1, 5, 13, 29, 61, 128. Paper 002 names only the ACGAN paper.
    """
    maps = [width * k for k in (6, 4, 3, 1)][:int(math.log2(size)) - 3]          # 5x5 layers: 4 at 128 px, 2 at 32
    before = 12 * width
    layers = [nn.Flatten(), nn.Linear(z_dim, before), nn.Unflatten(1, (before, 1, 1)), nn.ReLU()]
    for wide in maps:
        layers += [nn.ConvTranspose2d(before, wide, 5, 2, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        before = wide
    return dcgan_init(nn.Sequential(*layers, nn.ConvTranspose2d(before, 3, 8, 2, bias=False), nn.Tanh()))


class TwoHeads(nn.Module):
    """ACGAN's ends: features (n, d) -> logit real or fake (n,), raw class logits (n, classes)."""

    def __init__(self, features, classes):
        super().__init__()
        self.source, self.label = nn.Linear(features, 1), nn.Linear(features, classes)

    def forward(self, x):
        return self.source(x).flatten(), self.label(x)


def acgan_discriminator(classes=8, width=64, size=128):
    """2,352,505 parameters for 8 classes at 128 px. Image (n, 3, size, size) -> (logit (n,), class logits)."""
    layers, maps, side = [], 3, size
    for k, wide in enumerate((1, 2, 4, 8, 16, 32)):                     # strides 2, 1, ...: 64, 62, 31, 29, 15, 13 px
        wide, stride, pad = wide * width // 4, 2 - k % 2, 1 - k % 2
        norm = [nn.BatchNorm2d(wide)] if k else []
        layers += [nn.Conv2d(maps, wide, 3, stride, pad, bias=False), *norm, nn.LeakyReLU(0.2), nn.Dropout(0.5)]
        maps, side = wide, (side + 2 * pad - 3) // stride + 1
    return dcgan_init(nn.Sequential(*layers, nn.Flatten(), TwoHeads(maps * side ** 2, classes)))


# ---------------------------------------------------------------------------------------------------------------------
# CycleGAN, paper 002: Zhu et al. 2017, any side divisible by 4. InstanceNorm without weights; every layer has a bias.

class ResidualBlock(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.layers = nn.Sequential(*conv_norm(maps, maps, 3, reflect=1), nn.ReLU(),
                                    *conv_norm(maps, maps, 3, reflect=1))

    def forward(self, x):
        return x + self.layers(x)


def conv_norm(maps, wide, kernel, stride=1, pad=0, reflect=0):
    edge = [nn.ReflectionPad2d(reflect)] if reflect else []
    return [*edge, nn.Conv2d(maps, wide, kernel, stride, pad), nn.InstanceNorm2d(wide)]


def cyclegan_generator(width=64, blocks=9):
    """11,378,179 parameters. Image (n, 3, side, side) in [-1, 1] -> image of the other kind, same shape."""
    layers = [*conv_norm(3, width, 7, reflect=3), nn.ReLU()]
    for maps in (width, 2 * width):                                     # side/2, side/4
        layers += [*conv_norm(maps, 2 * maps, 3, stride=2, pad=1), nn.ReLU()]
    layers += [ResidualBlock(4 * width) for _ in range(blocks)]
    for maps in (4 * width, 2 * width):                                 # side/2, side
        layers += [nn.ConvTranspose2d(maps, maps // 2, 3, 2, 1, output_padding=1)]
        layers += [nn.InstanceNorm2d(maps // 2), nn.ReLU()]
    return dcgan_init(nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()))


def cyclegan_discriminator(width=64):
    """The 70 x 70 PatchGAN: 2,764,737 parameters. Image -> one score per patch, (n, 1, 30, 30) at 256 px."""
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for maps, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [*conv_norm(maps, 2 * maps, 4, stride, 1), nn.LeakyReLU(0.2)]
    return dcgan_init(nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1)))


class ImagePool(nn.Module):
    """The last `size` fake images: half of the time a discriminator is shown one of these instead of the newest.

    A module so that its images (buffers) travel with the checkpoint. No draw depends on values on the device.
    """

    def __init__(self, size, shape):
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))        # on the CPU: read at every step

    def _apply(self, function, recurse=True):                           # `filled` stays on the CPU
        self.images = function(self.images)
        return self

    def forward(self, new):
        shown = []
        for image in new.detach():
            if self.filled < len(self.images):                          # not full yet: keep it and show it
                self.images[self.filled] = image
                self.filled += 1
            elif torch.rand(()) < 0.5:                                  # show an old one, keep the new one in its place
                k = torch.randint(len(self.images), ())
                image, self.images[k] = self.images[k].clone(), image
            shown.append(image)
        return torch.stack(shown)


# ---------------------------------------------------------------------------------------------------------------------
# One training step of each family. Each returns its statistics as one tensor on the device: nothing waits for it.

def gradient_penalty(critic, real, fake, weight=10.0):
    """weight * mean over images of (|grad_x critic(x)| - 1)^2, at x between real and fake (WGAN-GP paper, eq. 3).

    The norm runs over all of channels, height and width of one image. float32; the small constant under the root
    keeps the derivative finite where the gradient is zero.
    """
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    gradient, = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return weight * (norm - 1).square().mean()


def critic_step(generator, critic, optimizer, real, z_dim, weight, autocast):
    """One critic update on a batch of real images. Returns (D(x), D(G(z)), penalty), on the device."""
    with torch.no_grad(), autocast:                                     # the generator is not trained here
        fake = generator(torch.randn(len(real), z_dim, 1, 1, device=real.device))
    fake = fake.float()
    with autocast:
        score = critic(torch.cat([real, fake])).float()                 # one pass: the critic has no BatchNorm
    on_real, on_fake = score[:len(real)].mean(), score[len(real):].mean()
    penalty = gradient_penalty(critic, real, fake, weight)              # outside autocast: float32
    descend(optimizer, on_fake - on_real + penalty)
    return torch.stack([on_real, on_fake, penalty]).detach()


def generator_step(generator, critic, optimizer, n, z_dim, device, autocast):
    """One generator update: raise the critic's score of the generator's images."""
    critic.requires_grad_(False)                                        # saves its weight gradients
    with autocast:
        loss = -critic(generator(torch.randn(n, z_dim, 1, 1, device=device))).float().mean()
    descend(optimizer, loss)
    critic.requires_grad_(True)


def descend(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def bce(logit, target):
    """Binary cross entropy of logits (n,) against one target, 0 or 1: log 2 where the logits are 0."""
    return F.binary_cross_entropy_with_logits(logit.float(), torch.full_like(logit, target, dtype=torch.float32))


def dcgan_step(generator, discriminator, optimizer_g, optimizer_d, real, z, autocast):
    """Discriminator, then generator (non-saturating loss), on the same fakes. Returns (D loss, G loss, D(x), D(G(z))).

    Real and fake go through the discriminator apart, since BatchNorm would mix them. LAPGAN has one pair and one
    discriminator per level; their weights are separate, so one optimiser on the sum trains each level on its own.
    """
    with autocast:
        if isinstance(generator, LaplacianGenerator):
            pairs, judges = generator.pairs(real, z), list(discriminator)
        else:
            pairs, judges = [(real, generator(z))], [discriminator]
        on_real = [judge(x) for (x, _), judge in zip(pairs, judges)]
        on_fake = [judge(fake.detach()) for (_, fake), judge in zip(pairs, judges)]
    d_loss = sum(bce(x, 1) for x in on_real) + sum(bce(x, 0) for x in on_fake)
    descend(optimizer_d, d_loss)
    discriminator.requires_grad_(False)
    with autocast:
        g_loss = sum(bce(judge(fake), 1) for (_, fake), judge in zip(pairs, judges))
    descend(optimizer_g, g_loss)
    discriminator.requires_grad_(True)
    chances = [x[-1].float().sigmoid().mean() for x in (on_real, on_fake)]
    return torch.stack([d_loss, g_loss, *chances]).detach()


def acgan_step(generator, discriminator, optimizer_g, optimizer_d, real, labels, z, fake_labels, autocast):
    """As dcgan_step, and the discriminator also names the class, of real and of fake images (ACGAN paper, eq. 2 and 3).

    cross_entropy takes the raw logits, so at the start the class loss is log K. Returns (D loss, G loss, class loss on
    real, class loss on fake, D(x), D(G(z))); the first two without the class losses.
    """
    with autocast:
        fake = generator(z)
        (on_real, real_class), (on_fake, fake_class) = discriminator(real), discriminator(fake.detach())
    d_loss = bce(on_real, 1) + bce(on_fake, 0)
    d_class, f_class = F.cross_entropy(real_class.float(), labels), F.cross_entropy(fake_class.float(), fake_labels)
    descend(optimizer_d, d_loss + d_class + f_class)
    discriminator.requires_grad_(False)
    with autocast:
        score, named = discriminator(fake)
    g_loss, g_class = bce(score, 1), F.cross_entropy(named.float(), fake_labels)
    descend(optimizer_g, g_loss + g_class)
    discriminator.requires_grad_(True)
    chances = [x.float().sigmoid().mean() for x in (on_real, on_fake)]
    return torch.stack([d_loss, g_loss, d_class, g_class, *chances]).detach()


def cyclegan_step(nets, optimizer_g, optimizer_d, a, b, cycle, identity, autocast):
    """Both generators, then both discriminators (least squares). Returns D_A, D_B, adversarial, cycle, identity losses.

    nets: a_to_b, b_to_a, judge_a, judge_b, pool_a, pool_b. CycleGAN paper, eq. 1 to 3, and its identity loss.
    """
    a_to_b, b_to_a, judge_a, judge_b, pool_a, pool_b = nets

    def square(score, target):
        return (score.float() - target).square().mean()

    for judge in (judge_a, judge_b):
        judge.requires_grad_(False)
    with autocast:
        fake_b, fake_a = a_to_b(a), b_to_a(b)
        back_a, back_b = b_to_a(fake_b), a_to_b(fake_a)
        same_a, same_b = b_to_a(a), a_to_b(b)
        fooled = square(judge_b(fake_b), 1) + square(judge_a(fake_a), 1)
    around = F.l1_loss(back_a.float(), a) + F.l1_loss(back_b.float(), b)
    same = F.l1_loss(same_a.float(), a) + F.l1_loss(same_b.float(), b)
    descend(optimizer_g, fooled + cycle * around + cycle * identity * same)
    for judge in (judge_a, judge_b):
        judge.requires_grad_(True)
    with autocast:
        d_a = (square(judge_a(a), 1) + square(judge_a(pool_a(fake_a.float())), 0)) / 2
        d_b = (square(judge_b(b), 1) + square(judge_b(pool_b(fake_b.float())), 0)) / 2
    descend(optimizer_d, d_a + d_b)
    return torch.stack([d_a, d_b, fooled, around, same]).detach()


def crop_and_flip(x):
    """Enlarge by 286/256, cut a random window of the old side, mirror at random (CycleGAN's code); once per batch."""
    side = x.shape[-1]
    large = F.interpolate(x, size=round(side * 286 / 256), mode="bicubic").clamp(-1, 1)
    top, left, mirror = (int(torch.randint(k, ())) for k in (large.shape[-1] - side + 1, large.shape[-1] - side + 1, 2))
    window = large[..., top:top + side, left:left + side]
    return window.flip(-1) if mirror else window


# ---------------------------------------------------------------------------------------------------------------------
# What all families share: averaged weights, sampling, pictures

@torch.no_grad()
def update_average(average, net, step, decay):
    """Exponential moving average of the weights AND of BatchNorm's running statistics, which must belong together.

    The decay rises from 0.1 to its full value, so that a short run does not drag its random start along.
    """
    keep = min(decay, (1 + step) / (10 + step))
    for mean, new in zip(average.state_dict().values(), net.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - keep)
        else:
            mean.copy_(new)


def noise(model, n, z_dim, classes, rng=None, device="cpu", labels=None):
    """(z (n, z_dim, 1, 1), labels (n,)): normal, for paper 004 uniform in [-1, 1]; for the ACGAN the class in front.

    With a numpy generator `rng` the noise of image i does not depend on n, and classes take turns unless labels are
    given; else all is random.
    """
    uniform = model == "dcgan_inception"
    if rng is not None:
        z = rng.random((n, z_dim), np.float32) if uniform else rng.standard_normal((n, z_dim), np.float32)
        z = torch.from_numpy(z).to(device)
        labels = torch.arange(n, device=device) % classes if labels is None else labels.to(device)
    else:
        z = torch.rand(n, z_dim, device=device) if uniform else torch.randn(n, z_dim, device=device)
        labels = torch.randint(classes, (n,), device=device)
    z = z * 2 - 1 if uniform else z
    if model == "acgan":
        z[:, :classes] = F.one_hot(labels, classes)
    return z.view(n, z_dim, 1, 1), labels


@torch.no_grad()
def draw(generator, z, batch=64):
    """Images of a generator in eval mode for inputs z (noise, or images to translate): uint8 (n, h, w, 3)."""
    device = next(generator.parameters()).device
    return to_uint8(torch.cat([generator(part.to(device)).float().cpu() for part in z.split(batch)]))


def to_uint8(images):
    return images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def diversity(images, real):
    """Mean pixel distance between two samples over that between two real images: near 0 means collapsed."""
    apart = [torch.pdist(torch.from_numpy(x).flatten(1).float()).mean().item() for x in (images, real)]
    return apart[0] / apart[1]


def save_grid(path, images, columns=8):
    """uint8 (n, h, w, 3) as one picture, row by row: torchvision's make_grid, whose import takes 2 s of each job."""
    n, height, width, _ = images.shape
    sheet = Image.new("RGB", (min(columns, n) * (width + 1) + 1, math.ceil(n / columns) * (height + 1) + 1))
    for k, image in enumerate(images):
        sheet.paste(Image.fromarray(image), (k % columns * (width + 1) + 1, k // columns * (height + 1) + 1))
    with data.replacing(path) as file:
        sheet.save(file, "PNG")


class FiveLatents(nn.Module):
    """How paper 003's notebooks made their images: a few fixed latents, drawn again and again while training goes on.

    After each epoch of the last 80 % one image per latent, with the generator in training mode, so BatchNorm uses the
    statistics of this small batch. A module so that the candidates travel with the checkpoint.
    """

    def __init__(self, latents, z_dim, size):
        super().__init__()
        self.register_buffer("z", torch.randn(latents, z_dim, 1, 1))
        self.register_buffer("images", torch.zeros(ROUNDS, latents, 3, size, size, dtype=torch.uint8))

    @torch.no_grad()
    def __call__(self, generator, step, steps):
        """After `step` of `steps`: draw if one of the 160 rounds falls on it (short runs draw several at once)."""
        begin = steps / 5
        first, last = (int(max(0, done - begin) / (steps - begin) * ROUNDS) for done in (step - 1, step))
        for k in range(first, last):
            self.images[k] = generator(self.z).float().add(1).mul(127.5).round().byte()

    def choose(self, n, seed):
        """n of the candidates, at random."""
        candidates = self.images.flatten(0, 1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return candidates[np.random.default_rng(seed).permutation(len(candidates))[:n]]


# ---------------------------------------------------------------------------------------------------------------------
# Training

def networks(config, classes):
    """(generator, discriminator) of a configuration or of parsed options; the CycleGAN's is a list of two pairs."""
    model, width, size = config["model"], config["width"], config["size"]
    if model == "wgan_gp":
        return wgan_gp_generator(config["z_dim"], width), wgan_gp_critic(width)
    if model == "dermagan":
        return dermagan_generator(config["z_dim"], width), dermagan_discriminator(width)
    if model == "plain_gan":
        return plain_generator(config["z_dim"], width), plain_discriminator(width // 5)
    if model == "lapgan":
        return LaplacianGenerator(width), laplacian_discriminators(width)
    if model == "acgan":
        return acgan_generator(config["z_dim"], width, size), acgan_discriminator(classes, width, size)
    if model == "cyclegan":
        return cyclegan_generator(width, config["blocks"]), cyclegan_discriminator(width)
    return dcgan_generator(config["z_dim"], width), dcgan_discriminator(width)


def train(args):
    """One GAN, or with --each-class one per class, whose samples are put together."""
    if not args.each_class:
        return train_one(args, Path(args.out), args.of_class)
    out = Path(args.out)
    classes = [name for name, n in training_images(args, None).counts().items() if n]
    paths = ("command", "data", "source", "out", "of_class", "stop_after", "device", "checkpoint_every")
    config = {key: value for key, value in vars(args).items() if key not in paths}
    config |= dict(classes=classes, data=training_images(args, None).fingerprint())
    config |= dict(source=source_images(args, None).fingerprint()) if args.model == "cyclegan" else {}
    if data.open_run(out, config):
        return
    for name in classes:
        train_one(args, out / name, name)
        if not (out / name / "result.json").exists():                   # --stop-after
            return
    parts = [data.load(out / name) for name in classes]
    runs = [json.loads((out / name / "result.json").read_text()) for name in classes]
    seconds, steps = (sum(run[key] for run in runs) for key in ("seconds", "steps"))
    spread = min(run["metrics"]["diversity"] for run in runs)
    every = data.mix(replace(parts[0], classes=classes, labels=parts[0].labels), *parts[1:])
    turn = np.concatenate([np.arange(len(part)) for part in parts])     # first image of each class, second of each, ...
    every = every.take(np.argsort(turn, kind="stable"))
    seen = {key: sorted({entry for part in parts for entry in part.info[key]}) for key in ("digests", "ids")}
    every.info = dict(source=f"{args.model} {out.name}", **seen)
    every.save(out / "samples.npz")
    rows = [part.images[:8] for part in parts if len(part) >= 8]            # one row per class
    save_grid(out / "grid.png", np.concatenate(rows or [every.images[:8]]))
    copied = {} if any("copying" not in run for run in runs) else dict(
        copying=metrics.together([run["copying"] for run in runs]))
    values = dict(diversity=spread, collapsed=spread < COLLAPSE) | colour_distance(training_images(args, None), every)
    data.finish_run(out, config, seconds, data.start_device(args), steps=steps, counts=every.counts(), curves={},
                    metrics=values, **copied)
    print(f"{out}: {len(every)} samples of {len(classes)} classes, {data.readable_time(seconds)}; see {out}/grid.png")


def train_one(args, out, of_class):
    device, begun = data.start_device(args), time.time()
    images = training_images(args, of_class)
    classes = len(images.classes) if args.model == "acgan" else 1
    source = source_images(args, of_class) if args.model == "cyclegan" else None
    samples = number_of_samples(args, of_class, images, source)
    if args.latents and samples > args.latents * ROUNDS:
        raise UserError(f"--samples {samples}: --latents {args.latents} gives {args.latents * ROUNDS} candidates only")
    batches = data.Batches(images, args.batch, args.seed, device, least=2 if source is None else 1)
    per_step = getattr(args, "n_critic", 1)
    per_epoch = batches.per_epoch if source is None else max(batches.per_epoch, len(source) // args.batch)
    steps = args.steps or math.ceil(args.epochs * per_epoch / per_step)
    log_every = args.log_every or min(50, max(1, steps // 5))
    config = run_config(args, images, source)
    config |= dict(of_class=of_class, steps=steps, samples=samples, log_every=log_every)
    if data.open_run(out, config):
        return

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")
    generator, discriminator = (net.to(device) for net in networks(config, classes))
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    parts = dict(generator=generator, discriminator=discriminator, average=average)
    if source is None:
        update, names = noise_update(config, parts, classes, batches, device, autocast)
        like = torch.from_numpy(images.labels) if args.samples == "all" and classes > 1 else None       # class by class
        z, labels = noise(args.model, samples, args.z_dim, classes, np.random.default_rng(args.seed + 1), device, like)
        shown, _ = noise(args.model, 64, args.z_dim, classes, np.random.default_rng(args.seed), device)
    else:
        update, names = cyclegan_update(config, parts, source, batches, steps, device, autocast)
        z = sources(source, samples)
        shown, labels = z[:16], torch.zeros(len(z), dtype=torch.long)
    if args.latents:
        parts["latents"] = FiveLatents(args.latents, args.z_dim, args.size).to(device)
    seen = images_seen(images, source)

    saved = data.load_checkpoint(out, parts)
    first, spent = saved.get("step", 0), saved.get("seconds", 0.0)
    mixed = images.take(np.random.default_rng(args.seed).permutation(len(images)))
    real = [mixed.images[mixed.labels == k][:16] for k in range(classes)] if classes > 1 else [mixed.images[:64]]
    log = Log(out, steps, names, real, saved, device)
    if first == 0:
        save_grid(out / "grid_000000.png", draw(average, shown))        # what untrained weights make of the noise
    last = min(steps, args.stop_after or steps)
    for step in range(first, last):
        log.history[step] = update(step)
        update_average(average, generator, step, args.average)
        done = step + 1
        if args.latents:
            parts["latents"](generator, done, steps)
        if done % log_every == 0 or done == steps:                      # only here the loop waits for the device
            log(done, log_every, lambda: draw(average, shown))
        log.progress(done)
        if args.snapshots and done * 30 // steps > step * 30 // steps:  # thirty in all, for distances over the training
            some, their = noise(args.model, args.snapshots, args.z_dim, classes, np.random.default_rng(args.seed + 2))
            snapshot = sample_set(out, config, draw(average, some), their, seen, f"step{done}")
            snapshot.save(out / f"snapshots/{done:06d}.npz")
        if done % args.checkpoint_every == 0 or done == last < steps:
            data.save_checkpoint(out, parts, step=done, seconds=spent + time.time() - begun, **log.state(done))
    if last < steps:
        return print(f"{out}: stopped after step {last} as asked")

    data.check_finite(out, parts, steps)
    data.save_model(out, config, average=average.state_dict(), discriminator=discriminator.state_dict())
    save_grid(out / "grid.png", grid_of(source, shown, draw(average, shown)))
    pictures = parts["latents"].choose(samples, args.seed) if args.latents else draw(average, z)
    made = sample_set(out, config, pictures, labels, seen, str(args.seed + 1))
    made.save(out / "samples.npz")
    result = log.result()
    result["metrics"] |= colour_distance(images, made)
    copied = copying(args, images, made, out)
    data.finish_run(out, config, spent + time.time() - begun, device, counts=images.counts(), data=config["data"],
                    steps=steps, images_seen=steps * per_step * args.batch, **copied, **result)
    spread = result["metrics"]["diversity"]
    print(f"{out}: {steps} steps, {len(made)} samples, diversity {spread:.2f}; see {out}/grid.png")


def run_config(args, images, source):
    """The options that decide a run's result, as they stand in config.json; steps stands for epochs."""
    keys = {*RECIPES[args.model], "model", "seed", "size", "optimizer", "leak", "precision"} - {"epochs"}
    config = {key: getattr(args, key) for key in sorted(keys)} | dict(data=images.fingerprint())
    config |= dict(classes=images.classes) if args.model == "acgan" else {}
    config |= {key: getattr(args, key) for key in ("latents", "snapshots") if getattr(args, key)}
    return config | (dict(source=source.fingerprint(), keep=args.keep) if source is not None else {})


def images_seen(images, source):
    """Digests and ids of what a GAN is trained on. A source made by another GAN brings what that one has seen."""
    seen = dict(digests=set(images.digests()), ids=set(map(str, images.ids)))
    if source is not None:
        seen["digests"] |= set(source.info.get("digests") or source.digests())
        seen["ids"] |= set(source.info.get("ids") or map(str, source.ids))
    return seen


def colour_distance(images, made):
    """FD-8x8 of the samples, its noise floor, n, and KID in the same features; nothing where images are too few."""
    if len(images) < 4 or len(made) < 2:
        return {}
    real, fake = (metrics.colour_features(some.images) for some in (images, made))
    return dict(zip(("fd_8x8", "fd_8x8_floor", "fd_8x8_n"), metrics.distance_with_floor(real, fake)),
                kid_8x8=metrics.kid(real, fake))


def copying(args, images, made, out):
    """dict(copying=metrics.nearest(...)) of samples against training and test images, and nearest.png: the ten samples
    closest to a training image, above that image. Nothing where no test image was kept from the GAN."""
    whole = data.load(args.data, args.size)
    if args.leak or "test" not in whole.split:
        return {}
    held_out = whole.part("test").take(np.isin(whole.part("test").labels, images.labels))
    if min(map(len, (held_out, images))) < 2:
        return {}
    found = metrics.nearest(made.images, images.images, held_out.images, args.seed)
    mine, theirs, _ = zip(*found["pairs"])
    with data.replacing(out / "nearest.png") as file:
        rows = {"GAN": made.images[list(mine)], "nearest real": images.images[list(theirs)]}
        data.contact_sheet(rows).save(file, "PNG")
    return dict(copying=found)


def adam(config, *nets):
    weights = [weight for net in nets for weight in net.parameters()]
    if config["optimizer"] == "sgd":                                    # paper 001, Table 4; momentum is not stated
        return torch.optim.SGD(weights, config["lr"], momentum=config["beta1"])
    return torch.optim.Adam(weights, config["lr"], (config["beta1"], config["beta2"]))


def noise_update(config, parts, classes, batches, device, autocast):
    """(one step of a GAN that starts from noise: step number -> statistics, {key of a statistic: name in the log})."""
    generator, discriminator, model = parts["generator"], parts["discriminator"], config["model"]
    both = optimizer_g, optimizer_d = adam(config, generator), adam(config, discriminator)
    parts.update(optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    z_dim, batch = config["z_dim"], config["batch"]
    scores = dict(d_real="D(x)", d_fake="D(G(z))")

    def wgan_gp_update(step):
        for k in range(config["n_critic"]):
            real = scaled(batches(step * config["n_critic"] + k)[0])
            stats = critic_step(generator, discriminator, optimizer_d, real, z_dim, config["penalty"], autocast)
        generator_step(generator, discriminator, optimizer_g, batch, z_dim, device, autocast)
        return stats

    def dcgan_update(step):
        z, _ = noise(model, batch, z_dim, classes, device=device)
        return dcgan_step(generator, discriminator, *both, scaled(batches(step)[0]), z, autocast)

    def acgan_update(step):
        pixels, labels = batches(step)
        z, fake_labels = noise(model, batch, z_dim, classes, device=device)
        return acgan_step(generator, discriminator, *both, scaled(pixels), labels, z, fake_labels, autocast)

    if model == "wgan_gp":
        return wgan_gp_update, scores | dict(penalty="penalty")
    if model == "acgan":
        return acgan_update, dict(d_loss="D loss", g_loss="G loss", d_class="class real", g_class="class fake") | scores
    return dcgan_update, dict(d_loss="D loss", g_loss="G loss") | scores


def cyclegan_update(config, parts, source, batches, steps, device, autocast):
    """The same for a CycleGAN from the source images (A) to the training images (B)."""
    back, judge_a = (net.to(device) for net in networks(config, 1))
    pools = [ImagePool(config["pool"], (3, config["size"], config["size"])).to(device) for _ in "ab"]
    nets = [parts["generator"], back, judge_a, parts["discriminator"], *pools]
    optimizer_g, optimizer_d = adam(config, *nets[:2]), adam(config, *nets[2:4])
    parts.update(back=back, judge_a=judge_a, pool_a=pools[0], pool_b=pools[1])
    parts.update(optimizer_g=optimizer_g, optimizer_d=optimizer_d)
    from_batches = data.Batches(source, config["batch"], config["seed"] + 1, device, least=1)

    def update(step):
        for group in optimizer_g.param_groups + optimizer_d.param_groups:        # constant, then linearly to zero
            group["lr"] = config["lr"] * min(1, 2 - 2 * step / steps)
        a, b = (crop_and_flip(scaled(some(step)[0])) for some in (from_batches, batches))
        return cyclegan_step(nets, optimizer_g, optimizer_d, a, b, config["cycle"], config["identity"], autocast)

    return update, dict(d_a="D_A", d_b="D_B", gan="adversarial", cycle="cycle", identity="identity")


class Log:
    """A GAN's record: statistics of every step, kept on the device; grids, diversity and alarms at log points.

    names: {key in result.json: name in the log line} of the statistics; real: some real images of each class, to
    compare diversity within it: an ACGAN with one picture per class has collapsed too, though its pictures differ.
    """

    def __init__(self, out, steps, names, real, saved, device):
        self.out, self.steps, self.names, self.real = out, steps, names, real
        self.history = torch.zeros(steps, len(names), device=device)
        self.history[:saved.get("step", 0)] = saved.get("history", 0)
        self.diversity = saved.get("diversity", [])                     # [step, diversity] at each log point
        self.progress = data.Progress(out.name, steps, saved.get("step", 0))

    def __call__(self, done, every, show):
        means = dict(zip(self.names.values(), self.history[max(0, done - every):done].mean(0).tolist()))
        data.check_finite(self.out, {}, done, *means.values())
        samples = show()
        classes = len(self.real)                                        # samples take turns over the classes
        spread = float(np.nanmean([diversity(samples[k::classes], some) for k, some in enumerate(self.real)]))
        self.diversity.append([done, spread])
        words = [f"{name} {value:.2f}" for name, value in dict(means, diversity=spread).items()]
        self.progress(done, "  ".join(words) + ("  COLLAPSED" if spread < COLLAPSE else ""))
        if done * 10 // self.steps > (done - every) * 10 // self.steps:     # ten grids in all, whatever the length
            save_grid(self.out / f"grid_{done:06d}.png", samples)

    def state(self, done):
        return dict(history=self.history[:done], diversity=self.diversity)

    def result(self):
        """The curves, averaged over windows so that there are at most about 200 points, and the last values."""
        window = max(1, self.steps // 200)
        curves = self.history[:self.steps // window * window].view(-1, window, len(self.names)).mean(1).T.tolist()
        last = dict(zip(self.names, (curve[-1] for curve in curves)), diversity=self.diversity[-1][1])
        return dict(metrics=dict(last, collapsed=last["diversity"] < COLLAPSE),
                    curves=dict(zip(self.names, curves), window=window, diversity=self.diversity))


# ---------------------------------------------------------------------------------------------------------------------
# Images in and out

def training_images(args, of_class):
    """The training part of --data (with --leak, or where nothing is split, all of it), of one class if one is named."""
    if args.model not in SIZES and args.size != 64:
        raise UserError(f"{args.model} makes and judges images of 64 px, not {args.size}: leave --size at 64")
    if args.model == "acgan" and args.size not in (32, 64, 128):
        raise UserError(f"the ACGAN makes images of 32, 64 or 128 px, not {args.size}")
    images = data.load(args.data, args.size)
    if args.leak:
        print("--leak: validation and test images are used for training too", file=sys.stderr)
    elif (images.split != "").any():
        images = images.part("train").share(args.share)
    else:
        print(f"{args.data} has no split: this GAN sees every image, so no classifier can be tested on them "
              "(`python data.py prepare` makes a split)", file=sys.stderr)
    if not of_class and not args.each_class and len(images.classes) > 1 and args.model != "acgan":
        print("no --class: one GAN for all classes, whose samples have no label", file=sys.stderr)
    images = images.of_class(of_class) if of_class else images
    return images.take(slice(0, max(1, int(args.keep * len(images)))))   # CycleGAN: the best of a ranked set


def number_of_samples(args, of_class, images, source):
    """--samples as a number: balance by the classes of --data, all by the source or else the training images, N --per M
    by the training part."""
    if args.samples == "all":
        return len(images if source is None else source)
    if args.samples == "balance":
        counts = data.load(args.data, args.size).part("train").counts()
        if max(counts.values()) > counts.get(of_class, math.inf):
            return max(counts.values()) - counts[of_class]
    if isinstance(args.samples, str):
        raise UserError(f"--samples {args.samples}: balance needs --class and more images of another class")
    if not args.per:
        return args.samples
    real = data.load(args.data if source is None else args.source, args.size).part("train")
    return round(args.samples * len(real) / args.per)


def source_images(args, of_class):
    """What a CycleGAN translates: --source, its training part, of --source-class or (--each-class) the class itself."""
    source = data.load(args.source, args.size)
    source = source.part("train") if (source.split != "").any() else source
    wanted = args.source_class or (of_class if args.each_class else None)
    return source.of_class(wanted) if wanted else source


def sources(source, n):
    """The first n images to translate, float (n, 3, h, w). Where there are fewer, they come again, turned and mirrored:
    a lesion has no upright, so each gives eight."""
    if n > 8 * len(source):
        raise UserError(f"--samples {n}: {len(source)} source images can be turned and mirrored into "
                        f"{8 * len(source)} only")
    turned = [np.rot90(image, k % 4)[:, ::1 - 2 * (k // 4)]
              for k in range(math.ceil(n / len(source))) for image in source.images]
    return scaled(data.to_tensor(np.stack(turned[:n])))


def grid_of(source, shown, drawn):
    """Samples; for a CycleGAN rows of the source images and of what became of them in turn."""
    if source is None:
        return drawn
    rows = [some[k:k + 8] for k in range(0, len(drawn), 8) for some in (to_uint8(shown), drawn)]
    return np.concatenate(rows)


def sample_set(out, config, pictures, labels, seen, tag):
    """Samples as an image set that carries its run, and the digests and ids of the images that its GAN has seen."""
    classes = config.get("classes") or [config["of_class"] or "unlabelled"]
    names = np.array([f"{out.name}/{tag}/{k:05d}" for k in range(len(pictures))])
    info = dict(source=f"{config['model']} {out.name}", run=config,
                digests=sorted(seen["digests"]), ids=sorted(seen["ids"]))
    return data.ImageSet(pictures, labels[:len(pictures)].cpu().numpy(), classes, ids=names, groups=names, info=info)


def sample(args):
    run, (saved, config) = Path(args.run), data.load_model(args.run, RECIPES)
    classes = len(config.get("classes", "1"))
    generator = networks(config, classes)[0].eval()
    generator.load_state_dict(saved["average"])
    if config["model"] == "cyclegan":
        if not args.source:
            raise UserError(f"{run} is a CycleGAN, which translates images: give --source")
        z = sources(data.load(args.source, config["size"]), args.n)
        labels = torch.zeros(len(z), dtype=torch.long)
    else:
        z, labels = noise(config["model"], args.n, config["z_dim"], classes, np.random.default_rng(args.seed))
    made = sample_set(run, config, draw(generator, z), labels, data.load(run / "samples.npz").info, str(args.seed))
    made.save(args.out)
    print(f"{args.out}: {len(made)} images")


# ---------------------------------------------------------------------------------------------------------------------
# Layer tables

def layer_table(net, shape):
    """(layer, output shape, parameters) of each layer for one input of this shape; costs no memory (meta tensors)."""
    rows, x = [], torch.empty(1, *shape, device="meta")
    for number, layer in enumerate(net.to("meta").eval()):
        x = layer(x)
        shown, count = x[1] if isinstance(x, tuple) else x, sum(p.numel() for p in layer.parameters())
        rows.append((f"{type(layer).__name__}-{number}", list(shown.shape[1:]), count))
    return rows


def describe(args):
    """The layer tables of a model: for paper 000 its Tables 1 to 3."""
    config = {key: getattr(args, key) for key in ("model", "width", "z_dim", "size", "blocks") if hasattr(args, key)}
    generator, discriminator = networks(config, args.classes)
    z, image = (config.get("z_dim"), 1, 1), (3, args.size, args.size)
    if args.model == "wgan_gp":
        tables = {"Table 1, critic, width 64": layer_table(wgan_gp_critic(64), image),
                  f"Table 2, discriminator, width {args.width}": layer_table(discriminator, image),
                  f"Table 3, generator, width {args.width}, z {args.z_dim}": layer_table(generator, z)}
    elif args.model == "lapgan":
        tables = {"generator, 8 px": layer_table(generator.base, (128,))}
        for side, net in zip((16, 32, 64), generator.detail):
            tables[f"generator, {side} px"] = layer_table(net, (4, side, side))
        for side, net in zip((8, 16, 32, 64), discriminator):
            tables[f"discriminator, {side} px"] = layer_table(net, (3, side, side))
    else:
        tables = {"generator": layer_table(generator, image if args.model == "cyclegan" else z),
                  "discriminator": layer_table(discriminator, image)}
    for title, rows in tables.items():
        print(title)
        for name, shape, count in rows:
            print(f"    {name:22}{' x '.join(map(str, shape)):>16}{count:>14,}")
        print(f"    {'total':38}{sum(row[2] for row in rows):>14,}\n")
    config["command"] = "describe"
    if args.out and not data.open_run(args.out, config):
        data.finish_run(args.out, config, 0.0, "cpu", tables=tables)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def count_or_word(text):
    return text if text in ("balance", "all") else data.at_least(1)(text)


def add_train_options(p, model, recipe):
    count = data.at_least(1)
    p.add_argument("--data", required=True, help="image set (.npz), job folder, class tree or zip")
    p.add_argument("--class", dest="of_class", help="train on this class alone")
    p.add_argument("--each-class", action="store_true", help="one GAN per class, in sub-folders of --out")
    p.add_argument("--samples", type=count_or_word, default=64, help="images to draw at the end (default %(default)s);"
                   " balance: as many as --class has fewer than the largest class; all: one for each training image, "
                   "or of each --source image")
    p.add_argument("--per", type=count, metavar="M", help="--samples is meant for M training images: scale it to ours")
    p.add_argument("--share", type=data.at_least(0, float), default=1.0,
                   help="train on this share of each class, by lesion; a larger one holds a smaller (%(default)s)")
    p.add_argument("--snapshots", type=count, help="thirty times over the training keep this many samples")
    p.add_argument("--leak", action="store_true", help="train on validation and test images too, as 003's code did")
    p.add_argument("--latents", type=count, help="draw from so many latents over the training, as that code")
    p.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="sgd has momentum beta1 (default adam)")
    p.add_argument("--log-every", type=count, help="steps between log lines (default 50, or a fifth of all steps)")
    p.add_argument("--checkpoint-every", type=count, default=200, help="steps between checkpoints (%(default)s)")
    if model == "cyclegan":
        p.add_argument("--source", required=True, help="image set to translate from; --data is the set to translate to")
        p.add_argument("--source-class", help="class of --source (default: all; with --each-class the same class)")
        p.add_argument("--keep", type=data.at_least(0, float), default=1.0, help="use this first part of --data, which "
                       "`classify.py rank` has sorted: paper 002's alpha (default %(default)s)")
    else:
        p.set_defaults(keep=1.0)
    data.add_run_options(p, recipe)
    p.set_defaults(size=SIZES.get(model, 64))


def main():
    parser = data.Parser(prog="gan.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, purpose in (("train", "train a GAN and draw samples"), ("describe", "print its layer tables")):
        models = commands.add_parser(command, help=purpose).add_subparsers(dest="model", required=True)
        for model, recipe in RECIPES.items():
            p = models.add_parser(model)
            if command == "train":
                add_train_options(p, model, recipe)
                continue
            numbers = {key: recipe[key][0] for key in ("width", "z_dim", "blocks") if key in recipe}
            numbers |= dict(size=SIZES.get(model, 64), classes=8)
            for key, value in numbers.items():
                option = "--" + key.replace("_", "-")
                p.add_argument(option, type=data.at_least(1), default=value, help=f"default {value}")
            p.add_argument("--out", help="folder for a result.json with the tables")
    p = commands.add_parser("sample", help="draw more images from a finished run")
    p.add_argument("run")
    p.add_argument("--n", type=data.at_least(1), default=64, help="number of images (default %(default)s)")
    p.add_argument("--seed", type=data.at_least(0), default=1000, help="of the noise (default %(default)s)")
    p.add_argument("--source", help="CycleGAN: images to translate")
    p.add_argument("--out", required=True, help="a file ending in .npz, or a folder for a tree of PNG")
    args = parser.parse_args()
    {"train": train, "sample": sample, "describe": describe}[args.command](args)


if __name__ == "__main__":
    data.run_cli(main)
