"""classify.py: the papers' classifiers, one training loop, prediction, ranking, distances in features.

    python classify.py train cnn --data runs/data --out runs/real                  a minute on one core
    python classify.py train cnn --data runs/data --synthetic runs/gan_benign runs/gan_malignant --out runs/hybrid
    python classify.py predict runs/real photo.jpg
    python classify.py rank runs/real --data runs/data --class MEL --out runs/ranked     surest melanomas first
    python classify.py score runs/real runs/gan --data runs/data --out runs/score        FD, KID, IS of a GAN

--data is a split image set (python data.py prepare). Test images are real and untouched, and a GAN that saw
one of them is refused. `train NET --help` lists every hyper-parameter and where it comes from. Read NETWORKS
below first: each classifier is one entry.
"""
import copy
import csv
import hashlib
import io
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms.v2.functional import normalize

import data
import gan
import jobs
import metrics
from data import scaled
from jobs import UserError

AUGMENT = {                                         # arguments of data.augment
    "none": None,
    "classical": {},                                # ours: rotation, flip, zoom, shift, light
    "paper001": dict(zoom=0, shift=0, brightness=0, shear=10),      # rotation, shear, flip; ranges ours
    "fastai": dict(rotate=10, zoom=0.1, shift=0, brightness=0.2),   # aug_transforms, but for its warp
    "flips": dict(zoom=0, shift=0, brightness=0),   # 004: a flip and any rotation, so both flips
}
MOBILENET_V1 = ("https://github.com/osmr/imgclsmob/releases/download/v0.0.155/"
                "mobilenet_w1-0895-7e1d739f.pth.zip")


# ---- Networks: image (n, 3, size, size) in [-1, 1] -> logits (n, classes) -------------------------------
# Two classes get two logits and a softmax: one logit and a sigmoid, written otherwise.

def cnn(classes, size):
    """Paper 000 does not describe its CNN. Ours: three convolutions with pooling, one hidden layer."""
    layers, maps = [], 3
    for wide in (32, 64, 128):                                              # size / 2, / 4, / 8
        layers += [nn.Conv2d(maps, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        maps = wide
    hidden = nn.Linear(maps * (size // 8) ** 2, 128)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Linear(128, classes))


def mobilenet_v1(classes):
    """Howard et al. 2017, Table 1: 3,206,976 parameters and the head. torchvision has only v2 and v3."""
    layers, maps = [Conv2dNormActivation(3, 32, 3, 2)], 32                  # size / 2, in the end size / 32
    for wide, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
                         (1024, 2), (1024, 1)):
        depthwise = Conv2dNormActivation(maps, maps, 3, stride, groups=maps)
        layers += [depthwise, Conv2dNormActivation(maps, wide, 1)]
        maps = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes))


def derma_cnn(classes, size=64, dropout=0.2):
    """Paper 003's CNN: 521,758 parameters for 4 classes at 64 px (pooling stride = size, as its code)."""
    return nn.Sequential(
        nn.Conv2d(3, 60, 1), nn.ReLU(), nn.MaxPool2d(2),                    # (n, 60, 32, 32)
        nn.Conv2d(60, 50, 3), nn.ReLU(), nn.MaxPool2d(5),                   # (n, 50, 6, 6)
        nn.Flatten(), nn.Linear(50 * ((size // 2 - 2) // 5) ** 2, 256), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes))


class ForImagenet(nn.Sequential):
    """From [-1, 1] to what a network trained on ImageNet expects, then its body, then a head of ours."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x):
        return super().forward(normalize((x + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def torchvision_net(name, weights, **options):
    """A network of torchvision's, with its published weights unless these are "none"."""
    if weights == "none":
        return models.get_model(name, weights=None, **options)
    try:
        return models.get_model(name, weights=weights)
    except (OSError, ValueError, KeyError) as problem:      # no network, no such weights
        raise UserError(f"--weights {weights} for {name}: {problem}. With --weights none it starts from "
                        "random weights, and the tables say so") from None


class MaxAndMean(nn.Module):
    """(n, maps, h, w) -> (n, 2 maps): fastai's AdaptiveConcatPool and Flatten."""

    def forward(self, x):
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def fastai_head(classes):
    """2,110,464 parameters for 8 classes."""
    return nn.Sequential(
        MaxAndMean(), nn.BatchNorm1d(4096), nn.Dropout(0.25), nn.Linear(4096, 512, bias=False),
        nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, classes, bias=False))


def resnet50_body(weights, width=64):
    """The convolutions of torchvision's ResNet-50: 2,048 maps, whatever the width inside."""
    options = dict(width_per_group=width) if width != 64 else {}
    return nn.Sequential(*list(torchvision_net("resnet50", weights, **options).children())[:-2])


def flat(body, classes, size):
    """Paper 003's comparison networks: an ImageNet body, flattened, dense layers 256, 128, classes."""
    with torch.no_grad():
        maps = body.eval()(torch.zeros(1, 3, size, size)).numel()
    head = nn.Sequential(nn.Flatten(), nn.Linear(maps, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
                         nn.Dropout(0.2), nn.Linear(128, classes))
    return ForImagenet(body, head)


def mobilenet_v1_body(weights):
    """MobileNet v1 without its head; the published file has other names, in the same order."""
    body = mobilenet_v1(1)[:-3]
    if weights == "none":
        return body
    try:
        state = torch.hub.load_state_dict_from_url(MOBILENET_V1, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise UserError(f"{MOBILENET_V1}: {problem}. Put that file into {torch.hub.get_dir()}/checkpoints, "
                        "or give --weights none") from None
    values = [value for name, value in state.items() if "num_batches" not in name]
    names = [name for name in body.state_dict() if "num_batches" not in name]
    body.load_state_dict(dict(zip(names, values)), strict=False)
    return body


def inception(classes, size, weights):
    """Paper 004: torchvision's Inception V3, 24,348,900 parameters for 2 classes with the auxiliary head.

    Its weights were trained on [-1, 1], so our input goes in as it is. In training it gives two logits.
    """
    if size < 75:
        raise UserError(f"--size {size}: Inception V3 needs at least 75 px")
    net = torchvision_net("inception_v3", weights, init_weights=True)
    net.transform_input = False
    net.fc, net.AuxLogits.fc = nn.Linear(2048, classes), nn.Linear(768, classes)
    if size < 299:          # the auxiliary head is made for 17 x 17 maps: spread the fewer of a smaller image
        net.AuxLogits.register_forward_pre_hook(lambda _, maps: F.adaptive_avg_pool2d(maps[0], 17))
    return net


# ---- The classifiers: one entry each --------------------------------------------------------------------

@dataclass
class Network:
    recipe: dict                    # hyper-parameter: (default, source); each is an option of `train`
    build: callable                 # config -> network
    imagenet: bool = False          # its body can start from ImageNet's weights, and rest
    norm_learns: bool = False       # a resting body's BatchNorm learns all the same, as with fastai


PLAIN = dict(
    size=(64, "the papers' 64 px"), optimizer=("adam", "000, section II.K"),
    lr=(1e-3, "not stated; Adam's default, also Keras'"), beta1=(0.9, "not stated; Adam's default"),
    beta2=(0.999, "not stated; Adam's default"), epochs=(50.0, '000, section II.K, "iterations"'),
    batch=(32, "000, section II.K"), augment=("none", "the paper mentions none"),
    schedule=("constant", "not stated; the other is 1cycle"), frozen_epochs=(0.0, "all layers learn"))
DERMA = PLAIN | dict(
    optimizer=("adam", "text"), lr=(2e-4, "text; released code 1e-3"), beta1=(0.5, "text; released code 0.9"),
    beta2=(0.999, "text"), epochs=(100.0, "text"), batch=(64, "text; released code 30"),
    augment=("classical", "text: rotation, flip, scaling, colour; ranges ours"))
IMAGENET = dict(weights=("IMAGENET1K_V1", "not stated which; those of torchvision's first release"))
FROZEN = DERMA | IMAGENET | dict(frozen_epochs=(100.0, "text: the base rests, the head learns"))

NETWORKS = {
    "cnn": Network(PLAIN, lambda c: cnn(c["n_classes"], c["size"])),                        # paper 000
    "mobilenet": Network(
        PLAIN | dict(batch=(64, "section II.K")), lambda c: mobilenet_v1(c["n_classes"])),
    "resnet18": Network(                            # 7x7 stem; 11,177,538 parameters for 2 classes
        PLAIN | dict(epochs=(100.0, 'section II.K, "iterations"')),
        lambda c: models.resnet18(num_classes=c["n_classes"])),
    "trunk": Network(                               # paper 001: the DCGAN's discriminator
        PLAIN | dict(
            optimizer=("adam", "Table 4; its other row is sgd"), lr=(2e-4, "Table 3; its other row is 1e-3"),
            beta1=(0.5, "abstract; method section 0.2"), epochs=(25.0, "not stated; ours"),
            batch=(128, "Table 2; its other row is 100"), width=(64, "text: 64-128-256-512 maps"),
            augment=("paper001", "rotation, shear, flip; ranges not stated, ours")),
        lambda c: gan.dcgan_discriminator(c["width"], c["n_classes"])),
    "resnet50": Network(                            # paper 002
        PLAIN | IMAGENET | dict(
            size=(256, "not stated; that of the CycleGAN's images"), width=(64, "ResNet-50's"),
            optimizer=("adamw", "Adam; fastai's, weight decay 0.01"),
            lr=(0.0, "0: what the lr finder suggests"), beta2=(0.99, "not stated; fastai"),
            epochs=(11.0, "not stated; ours"), frozen_epochs=(1.0, "not stated; the first, head alone"),
            batch=(64, "not stated; fastai"), augment=("fastai", "not stated; fastai's aug_transforms"),
            schedule=("1cycle", "the paper")),
        lambda c: ForImagenet(resnet50_body(c["weights"], c["width"]), fastai_head(c["n_classes"])),
        imagenet=True, norm_learns=True),
    "derma_cnn": Network(                           # paper 003
        DERMA | dict(dropout=(0.2, "text; Figure 8 varies it")),
        lambda c: derma_cnn(c["n_classes"], c["size"], c["dropout"])),
    "vgg16": Network(FROZEN, lambda c: flat(
        torchvision_net("vgg16", c["weights"]).features, c["n_classes"], c["size"]), imagenet=True),
    "vgg19": Network(FROZEN, lambda c: flat(
        torchvision_net("vgg19", c["weights"]).features, c["n_classes"], c["size"]), imagenet=True),
    "resnet50_flat": Network(FROZEN, lambda c: flat(
        resnet50_body(c["weights"]), c["n_classes"], c["size"]), imagenet=True),
    "mobilenet_flat": Network(FROZEN, lambda c: flat(
        mobilenet_v1_body(c["weights"]), c["n_classes"], c["size"]), imagenet=True),
    "mobilenet_v2": Network(FROZEN, lambda c: flat(
        torchvision_net("mobilenet_v2", c["weights"]).features, c["n_classes"], c["size"]), imagenet=True),
    "inception": Network(                           # paper 004
        PLAIN | IMAGENET | dict(
            size=(299, "not stated; what Inception V3 was made for"), optimizer=("adagrad", "section 4.1"),
            lr=(1e-3, "section 4.1"), epochs=(20.0, "section 4.1"), batch=(128, "section 4.1"),
            augment=("flips", "section 4.1: both flips and rotation; range not stated")),
        lambda c: inception(c["n_classes"], c["size"], c["weights"]), imagenet=True),
}


def base_of(net):
    """The part of a network that comes with weights and can rest; the rest of it is the head."""
    return net.body if hasattr(net, "body") else net[:-1]


def freeze(net, frozen, norm_learns):
    """Keep the base from learning, or let it."""
    for module in base_of(net).modules():
        learns = not frozen or norm_learns and isinstance(module, nn.BatchNorm2d)
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(learns)


def start_from_gan(net, run):
    """Fill all but the last layer with the weights of a DCGAN's discriminator. Returns a hash of them."""
    saved, config = gan.load_run(run)
    state = {name: saved["discriminator"].get(name) for name in base_of(net).state_dict()}
    try:
        base_of(net).load_state_dict(state)
    except (RuntimeError, AttributeError):
        raise UserError(f"--from {run}: the discriminator of {config['model']}, width {config.get('width')}, "
                        "does not fit this network: give the same --width") from None
    return weights_hash(run)


def weights_hash(run):
    """A short hash of a job's weights: its folder's name does not say which are in it."""
    jobs.load_state(Path(run) / "model.pt")
    return hashlib.blake2b((Path(run) / "model.pt").read_bytes(), digest_size=8).hexdigest()


# ---- The images of one training -------------------------------------------------------------------------

def at_size(source, args):
    """The set at --size; with --through, every image is first made that small, as blurred as a GAN's."""
    return data.resized(data.resized(data.load(source, args.size), args.through), args.size)


def load_parts(args):
    """(training, validation, {name: test}, number of validation and test images that the GANs saw).

    Test "real" is real images alone; "mixed" adds the held-back synthetic ones of --mixed-test.
    """
    real = at_size(args.data, args)
    train, val, test = real.part("train").share(args.share), real.part("val"), real.part("test")
    if min(train.counts().values()) == 0 or len(train.classes) < 2:
        raise UserError(f"{args.data}: training needs images of two classes or more, not {train.counts()}")
    held_back = args.mixed_test or [0] * len(args.synthetic)
    if len(held_back) != len(args.synthetic):
        raise UserError("--mixed-test needs one number for each --synthetic set")
    if (args.shuffle or args.alone or args.use) and not args.synthetic:
        raise UserError("--shuffle, --alone and --use need a --synthetic set")

    added, mixed, leaked = [], [], 0
    for source, hold in zip(args.synthetic, held_back):
        leaked += count_leaked(source, real, args)
        made = at_size(source, args)
        n = len(made) - hold
        if args.use:                                # nested: the first n of each set
            n = round(n * args.use / (args.of or n))
        if n < 0 or n + hold > len(made):
            raise UserError(f"{source} holds {len(made)} images, but {n} + {hold} are asked for")
        some = made.take(slice(0, n))
        added.append(some)
        mixed.append(made.take(slice(len(made) - hold, None)))
    if args.start:
        leaked += count_leaked(args.start, real, args)

    fakes = data.mix(train.take(slice(0, 0)), *added)
    if args.shuffle:                                # a placebo: the same images under permuted labels
        fakes.labels = np.random.default_rng(args.seed).permutation(fakes.labels)
    kept = [train] * (1 + args.copies)
    training = fakes if args.alone else data.mix(*kept, fakes)
    tests = {"real": test}
    if args.mixed_test:
        tests["mixed"] = data.mix(test, *mixed)
    return training, val, tests, leaked


def count_leaked(source, real, args):
    """How many validation and test images the GAN behind a set has seen, or the set itself holds.

    By pixels, at the size at which the GAN had them, and by names. Refused without --allow-leak.
    """
    made = data.load(source, args.size)
    held_out = real.take(np.isin(real.split, ("val", "test")))
    size = made.info.get("size", args.size)
    as_seen = held_out
    if size != args.size or args.through:
        as_seen = data.load(args.data, size)
        as_seen = as_seen.take(np.isin(as_seen.split, ("val", "test")))
    seen = np.isin(as_seen.digests(), made.info.get("digests", []))
    seen |= np.isin(as_seen.ids, made.info.get("seen_ids", []))
    seen |= np.isin(held_out.digests(), data.resized(made, args.size).digests())
    if "digests" not in made.info:
        print(f"{source} does not say what its GAN was trained on: only its own images can be checked",
              file=sys.stderr)
    if seen.any() and not args.allow_leak:
        raise UserError(f"{source}: {seen.sum()} validation and test images were in its training or are in it, "
                        "so a test would be flattered. Train the GAN on the training part of the same --data, "
                        "or give --allow-leak")
    return int(seen.sum())


# ---- Training -------------------------------------------------------------------------------------------

# What decides a classifier's result, besides its recipe and the images.
DECIDES = ("model", "seed", "precision", "share", "use", "of", "copies", "shuffle", "alone", "through")


def train(args):
    """Set up, train, test, and write result.json and predictions.csv."""
    device, begun, out = jobs.start_device(args), time.time(), Path(args.out)
    entry = NETWORKS[args.model]
    training, val, tests, leaked = load_parts(args)
    keys = [*DECIDES, *(key for key in entry.recipe if key not in ("epochs", "frozen_epochs"))]
    config = {key: getattr(args, key) for key in keys}
    config |= dict(classes=training.classes, n_classes=len(training.classes), train=training.fingerprint(),
                   tests={name: test.fingerprint() for name, test in tests.items()})
    if args.lr_of:
        config["lr"] = found_lr(args.lr_of)
    m = SimpleNamespace(entry=entry, config=config, device=device)
    m.batches = data.Batches(training, args.batch, args.seed, device)
    config["steps"] = args.steps or math.ceil(args.epochs * m.batches.per_epoch)
    m.net = entry.build(config)
    pretrained = bool(args.start) or config.get("weights", "none") != "none"
    config["start"] = start_from_gan(m.net, args.start) if args.start else "none"
    rests = min(1.0, args.frozen_epochs / args.epochs) if pretrained else 0.0       # share of the steps
    m.frozen = config["frozen_steps"] = config["steps"] if args.probe else round(config["steps"] * rests)
    done = jobs.start_job(out, config)
    if done:
        return done

    m.net = m.net.to(device, memory_format=torch.channels_last)
    if m.frozen:
        freeze(m.net, True, entry.norm_learns)
    m.top = config["lr"]
    m.optimizer = make_optimizer(m.net, config, m.top)
    m.record = Record()
    m.parts = dict(net=m.net, optimizer=m.optimizer, batches=m.batches, record=m.record)
    first, spent = jobs.load_checkpoint(out, m.parts)
    if not m.top and not m.record.finder:
        m.record.finder = find_lr(m)
    m.top = m.top or m.record.finder["chosen"]

    def save(done):
        jobs.save_checkpoint(out, m.parts, step=done, seconds=spent + time.time() - begun)

    last = min(config["steps"], args.stop_after or config["steps"])
    loop(m, out, val, first, last, save)
    if last < config["steps"]:
        save(last)
        print(f"{out}: stopped after step {last} as asked")
        return None
    if args.keep:
        jobs.save_state(out / "model.pt", dict(net=m.net.state_dict(), config=json.dumps(config)))
    values = test_and_save(out, m.net, tests, device)
    result = jobs.finish_job(
        out, config, spent + time.time() - begun, device, steps=config["steps"], counts=training.counts(),
        metrics=values, curves=m.record.curves, leaked=leaked, lr_finder=m.record.finder, scratch=entry.imagenet and not pretrained,
        parameters=sum(weight.numel() for weight in m.net.parameters()))
    say_result(out, values["real"], training.classes, leaked)
    return result


class Record:
    """What a training keeps besides its weights: the curves, and what the lr finder saw."""

    def __init__(self):
        self.curves = dict(loss=[], accuracy=[], val_loss=[], val_accuracy=[])
        self.values, self.finder = [], {}           # values: since the last point of the curves

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def loop(m, out, val, first, last, save):
    """The training: rate, batch, step; now and then a look at the validation part."""
    steps, every = m.config["steps"], max(m.batches.per_epoch, m.config["steps"] // 50)
    rates = learning_rates(m.config["schedule"], steps, m.frozen, m.top)
    progress = jobs.Progress(out.name, steps, first)
    for step in jobs.steps_to_do(first, last, save):
        if m.frozen and step in (first, m.frozen):
            freeze(m.net, step < m.frozen, m.entry.norm_learns)
        set_rate(m.optimizer, *rates[step])
        pixels, labels = m.batches.next()
        base_rests = step < m.frozen and not m.entry.norm_learns
        m.record.values.append(train_step(m.net, m.optimizer, m.config, pixels, labels, base_rests))
        if (step + 1) % every == 0 or step + 1 == steps:            # only here the loop waits for the device
            loss, accuracy = torch.stack(m.record.values).mean(0).tolist()
            values = (loss, accuracy, *loss_and_accuracy(m.net, val, m.device))
            jobs.check_finite(out, m.parts, step + 1, *values)
            for curve, value in zip(m.record.curves.values(), values):
                curve.append(value)
            m.record.values = []
            progress(step + 1, f"loss {loss:.3f}  accuracy {accuracy:.3f}  validation {values[3]:.3f}")
        progress(step + 1)


def train_step(net, optimizer, config, pixels, labels, base_rests=False):
    """One update. base_rests: the base's BatchNorm keeps its statistics. Returns (loss, accuracy)."""
    net.train()
    if base_rests:
        base_of(net).eval()
    x = scaled(pixels).contiguous(memory_format=torch.channels_last)
    ranges = AUGMENT[config["augment"]]
    if ranges is not None:
        x = data.augment(x, **ranges)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config["precision"] == "bf16"):
        logits = net(x)
    loss = total = 0
    if isinstance(logits, tuple):                   # Inception's second head counts 0.4, as in its paper
        logits, auxiliary = logits
        total = 0.4 * F.cross_entropy(auxiliary.float(), labels)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    (loss + total).backward()
    optimizer.step()
    return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])


def make_optimizer(net, config, lr):
    weights, betas = list(net.parameters()), (config["beta1"], config["beta2"])
    if config["optimizer"] == "adam":
        return torch.optim.Adam(weights, lr, betas)
    if config["optimizer"] == "sgd":                # not stated; momentum beta1, as for the GAN
        return torch.optim.SGD(weights, lr, momentum=config["beta1"])
    if config["optimizer"] == "adagrad":
        return torch.optim.Adagrad(weights, lr)
    matrices = [weight for weight in weights if weight.ndim > 1]
    vectors = [weight for weight in weights if weight.ndim <= 1]    # as fastai: these do not decay
    groups = [dict(params=matrices), dict(params=vectors, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr, betas, eps=1e-5, weight_decay=0.01)


def set_rate(optimizer, lr, momentum=None):
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def learning_rates(schedule, steps, frozen, top):
    """[(learning rate, momentum or None) of each step]. 1cycle: one cycle for the head alone, one for all."""
    if schedule == "constant":
        return [(top, None)] * steps
    return one_cycle(frozen, top) + one_cycle(steps - frozen, top)


def one_cycle(steps, top):
    """fastai's numbers in torch's OneCycleLR: a quarter upwards from top / 25, then down to top / 100,000,
    the momentum from .95 to .85 and back, all on cosines."""
    if steps == 0:
        return []
    optimizer = torch.optim.AdamW([torch.zeros(1)], top)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, top, total_steps=steps + 1, pct_start=(steps / 4 + 1) / (steps + 1), div_factor=25,
        final_div_factor=4000, base_momentum=0.85, max_momentum=0.95)
    rates = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["betas"][0]))
        optimizer.step()
        schedule.step()
    return rates


def find_lr(m, tries=100):
    """fastai's lr finder (2020): a tenth of the rate at which the smoothed loss is lowest.

    A copy of the network trains while the rate grows from 1e-7 to 10; it ends where the loss is 4 times its
    best. The first tenth is left out, as fastai does: the mean of so few batches is luck. Returns
    dict(lrs, losses, chosen). Random states and batches are left as they were.
    """
    rates, losses, mean, position = np.geomspace(1e-7, 10, tries), [], 0.0, m.batches.position
    with torch.random.fork_rng():
        trial = copy.deepcopy(m.net)
        optimizer = make_optimizer(trial, m.config, rates[0])
        for k, rate in enumerate(rates):
            set_rate(optimizer, rate)
            mean = 0.98 * mean + 0.02 * float(train_step(trial, optimizer, m.config, *m.batches.next())[0])
            smoothed = mean / (1 - 0.98 ** (k + 1))
            if not smoothed <= 4 * min([smoothed, *losses]):        # also where it is not a number
                break
            losses.append(smoothed)
    m.batches.position, m.batches.epoch = position, None
    skip = tries // 10
    if len(losses) <= skip:
        raise UserError("the lr finder's loss explodes at once: give --lr")
    lowest = skip + np.argmin(losses[skip:])
    return dict(lrs=rates[:len(losses)].tolist(), losses=losses, chosen=float(rates[lowest] / 10))


def found_lr(job):
    """The learning rate that the lr finder chose in a finished job."""
    try:
        return float(jobs.read_json(Path(job) / "result.json")["lr_finder"]["chosen"])
    except (OSError, KeyError, TypeError):
        raise UserError(f"--lr-of {job}: there is no finished job with an lr finder") from None


# ---- Testing --------------------------------------------------------------------------------------------

@torch.no_grad()
def probabilities(net, images, device, batch=256):
    """uint8 (n, h, w, 3) -> float64 (n, classes), rows summing to 1. Eval mode, float32."""
    net.eval()
    pixels = data.to_tensor(images, device)
    logits = [net(scaled(x).contiguous(memory_format=torch.channels_last)) for x in pixels.split(batch)]
    return torch.cat(logits).double().softmax(1).cpu().numpy()


def loss_and_accuracy(net, images, device):
    chances = probabilities(net, images.images, device)
    return metrics.log_loss(images.labels, chances), float((chances.argmax(1) == images.labels).mean())


def test_and_save(out, net, tests, device):
    """The measures of each test set, and predictions.csv: a line per image, for paired comparisons."""
    values, text = {}, io.StringIO()
    lines = csv.writer(text)
    for name, test in tests.items():
        chances = probabilities(net, test.images, device)
        values[name] = metrics.evaluate(test.labels, chances, test.groups, test.classes)
        if not text.tell():
            lines.writerow(["test", "image", "lesion", "label", *test.classes])
        for k in range(len(test)):
            numbers = [f"{chance:.9g}" for chance in chances[k]]
            lines.writerow([name, test.ids[k], test.groups[k], test.classes[test.labels[k]], *numbers])
    with jobs.replacing(out / "predictions.csv") as file:
        file.write(text.getvalue().encode())
    return values


def say_result(out, values, classes, leaked):
    """Accuracy beside what hides behind it: the larger class, each class's sensitivity."""
    found = "  ".join(f"{name} {values['recall ' + name][0]:.2f}" for name in classes if values["recall " + name])
    print(f"{out}: accuracy {values['accuracy'][0]:.3f} (always the larger class: {values['majority']:.3f}), "
          f"balanced accuracy {values['balanced accuracy'][0]:.3f}, n {values['n']}\nfound of each class: {found}")
    if leaked:
        print(f"LEAK: its GANs saw {leaked} validation and test images")


# ---- Finished networks at work --------------------------------------------------------------------------

def load_net(run, device="cpu"):
    """(network, config) of a finished classifier."""
    saved, config = gan.load_run(run, NETWORKS)
    net = NETWORKS[config["model"]].build(config | dict(weights="none"))
    net.load_state_dict(saved["net"])
    return net.to(device, memory_format=torch.channels_last), SimpleNamespace(**config)


def predict(args):
    """Class probabilities of one's own photographs."""
    net, config = load_net(args.run)
    for name in args.images:
        try:
            image = data.decode(Path(name).read_bytes(), config.through or config.size)
        except Exception as problem:                # Pillow raises a dozen types for broken files
            raise UserError(f"{name} cannot be read as an image ({problem})") from None
        image = np.asarray(Image.fromarray(image).resize((config.size,) * 2, Image.Resampling.BICUBIC))
        ranked = sorted(zip(probabilities(net, image[None], "cpu")[0], config.classes), reverse=True)
        print(f"{name}: " + ", ".join(f"{label} {chance:.1%}" for chance, label in ranked))
    print("A research model's opinion, not a diagnosis: show a skin change to a doctor.")


def rank(args):
    """Path-Rank-Filter, paper 002: a class's training images, those the network is surest of first.

    The network was trained on them, as in the paper, so it is too sure of itself.
    """
    out, device, begun = Path(args.out), jobs.start_device(args), time.time()
    net, config = load_net(args.run, device)
    images = data.load(args.data).part("train").of_class(args.of_class)
    asked = dict(command="rank", weights=weights_hash(args.run), data=images.fingerprint())
    if jobs.start_job(out, asked):
        return
    small = data.resized(data.resized(images, config.through), config.size)
    sure = probabilities(net, small.images, device)[:, config.classes.index(args.of_class)]
    order = np.argsort(-sure, kind="stable")
    images.take(order).save(out / "images.npz")
    jobs.finish_job(out, asked, time.time() - begun, device, n=len(images), probability=sure[order].tolist())
    print(f"{out}: {len(images)} images of {args.of_class}, probability {sure.max():.3f} to {sure.min():.3f}")


def score(args):
    """Frechet distance, KID and Inception score of sets against the training part, in a network's features.

    Distances depend on the number of images: all sets are cut to the same, and the noise floor is real
    images against as many other real ones. The mean of 5 draws. FID's Inception gives FID; others FD-<net>.
    """
    out, device, begun = Path(args.out), jobs.start_device(args), time.time()
    files = [Path(source) for source in args.sets]
    if args.over_steps:
        files += sorted(Path(args.over_steps).glob("snapshots/*.npz"))
    sets = {file.stem if file.suffix else file.name: data.load(file) for file in files}
    real = data.load(args.data).part("train")
    if args.of_class:
        real = real.of_class(args.of_class)
    n = min([len(real) // 2, *map(len, sets.values())])
    if n < 4 or not sets:
        raise UserError("score: give sets (or --over-steps) of 4 images or more, and --data with 8 or more")
    net = "inception" if args.net == "inception" else weights_hash(args.net)
    config = dict(command="score", net=net, n=n, seed=args.seed, data=real.fingerprint(),
                  sets={label: made.fingerprint() for label, made in sets.items()})
    look, name, how = look_of(args.net, device)
    if jobs.start_job(out, config):
        return
    rng, rows = np.random.default_rng(args.seed), []
    x, _ = look(real.take(rng.permutation(len(real))).images)
    for label, made in sets.items():
        y, chances = look(made.take(rng.permutation(len(made))[:n]).images)
        row = metrics.distances(x, y, chances, args.seed)
        rows.append(dict(row, set=label))
        print(f"{label}: {name} {row['distance']:.2f} (noise floor {row['floor']:.2f})  KID {row['kid']:.4f}")
    jobs.finish_job(out, config, time.time() - begun, device, net=name, rows=rows,
                    provenance=f"{how}; n {n} a side, 5 draws of {len(real)} real images")


def look_of(run, device):
    """(function images -> (features (n, d), probabilities), name of the distance, provenance)."""
    if run == "inception":
        return metrics.fid_look(device), "FID", "weights of pytorch-fid, images to 299 px bilinear"
    net, config = load_net(run, device)
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]

    def look(images):
        seen, small = [], [Image.fromarray(image).resize((config.size,) * 2, Image.Resampling.BICUBIC)
                           for image in images]
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].cpu()))
        chances = probabilities(net, np.stack(small), device)
        hook.remove()
        return torch.cat(seen).double().numpy(), chances

    return look, f"FD-{config.model}", f"{config.model} {Path(run).name}, images to {config.size} px"


# ---- Command line ---------------------------------------------------------------------------------------

def add_train_options(p, name, entry):
    count = jobs.at_least(0)
    p.add_argument("--data", required=True, help="split image set: a `prepare` job or an .npz file")
    p.add_argument("--synthetic", nargs="*", default=[], metavar="SET", help="GAN jobs or image sets to add")
    p.add_argument("--use", type=count, metavar="N", help="add only the first N images of each SET")
    p.add_argument("--of", type=count, metavar="M", help="--use is meant for sets of M images: scale it to ours")
    p.add_argument("--share", type=jobs.at_least(0, float), default=1.0,
                   help="train on this share of each class, by lesion; a larger one holds a smaller")
    p.add_argument("--copies", type=count, default=0, metavar="N", help="each training image N times more")
    p.add_argument("--shuffle", action="store_true", help="permute the synthetic images' labels: a placebo")
    p.add_argument("--alone", action="store_true", help="train on the synthetic images alone")
    p.add_argument("--mixed-test", nargs="*", type=count, metavar="N",
                   help="hold back the last N images of each SET for a second, mixed test")
    p.add_argument("--allow-leak", action="store_true", help="go on if a GAN saw test images; counted")
    p.add_argument("--through", type=jobs.at_least(8), metavar="PX",
                   help="bring every image to PX first: no class can be told by its blur")
    p.add_argument("--keep", action="store_true", help="keep the weights, for predict, rank and score")
    p.add_argument("--lr-of", metavar="JOB", help="the learning rate that the lr finder chose in this job")
    if name == "trunk":
        p.add_argument("--from", dest="start", metavar="GAN_JOB", help="start as its discriminator")
    p.add_argument("--probe", action="store_true", help="train the last layer alone")
    p.set_defaults(start=None)
    jobs.add_training_options(p, entry.recipe)


def main():
    parser = jobs.Parser(prog="classify.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    networks = commands.add_parser("train", help="train and test").add_subparsers(dest="model", required=True)
    for name, entry in NETWORKS.items():
        p = networks.add_parser(name)
        p.set_defaults(function=train)
        add_train_options(p, name, entry)

    p = commands.add_parser("predict", help="class probabilities of photographs")
    p.set_defaults(function=predict)
    p.add_argument("run", help="folder of a finished classifier that was trained with --keep")
    p.add_argument("images", nargs="+", metavar="IMAGE")
    p = commands.add_parser("rank", help="sort a class by certainty", description=rank.__doc__)
    p.set_defaults(function=rank)
    p.add_argument("run", help="folder of a finished classifier")
    p.add_argument("--class", dest="of_class", required=True)
    s = commands.add_parser("score", help="FID, KID, IS", description=score.__doc__)
    s.set_defaults(function=score)
    s.add_argument("net", help="a finished classifier, or the word inception for the FID")
    s.add_argument("sets", nargs="*", metavar="SET", help="GAN jobs or image sets")
    s.add_argument("--over-steps", metavar="GAN_JOB", help="judge this job's snapshots too")
    s.add_argument("--class", dest="of_class", help="compare with this class alone")
    for p in (p, s):
        p.add_argument("--data", required=True, help="split image set; its training part is used")
        p.add_argument("--out", required=True, help="folder of this job")
        jobs.add_common_options(p)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
