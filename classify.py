"""classify.py: the papers' classifiers, one training loop, prediction, ranking, scores of GANs.

    python classify.py train cnn --data runs/data --out runs/real        a minute on one core
    python classify.py train cnn --data runs/data --synthetic runs/gan --out runs/hybrid
    python classify.py predict runs/real photo.jpg my_photos/ --csv out.csv
    python classify.py score runs/real runs/gan --data runs/data --out runs/score

Test images are real, and a GAN that saw one is refused. Read NETWORKS first: one entry each.
"""
import codecs
import copy
import csv
import functools
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms.v2 import Normalize

import data
import gan
import jobs
import metrics
from jobs import UserError
from reading import SUFFIXES, decode

AUGMENT = {                 # arguments of data.augment
    "none": None,
    "classical": {},        # ours: rotation, flip, zoom, shift, light
    "paper001": dict(zoom=0, shift=0, brightness=0, shear=10),  # ranges ours
    "fastai": dict(rotate=10, zoom=0.1, shift=0, brightness=0.2),   # but for warp and contrast
    "flips": dict(zoom=0, shift=0, brightness=0),   # 004: with any rotation both flips
}
MOBILENET_V1 = ("https://github.com/osmr/imgclsmob/releases/download/v0.0.155/"
                "mobilenet_w1-0895-7e1d739f.pth.zip")


# ---- Networks: image (n, 3, size, size) in [-1, 1] -> logits (n, classes)

def cnn(classes, size):
    """Paper 000 does not describe its CNN. Ours: 1,142,210 parameters for 2 classes at 64 px.
    Pooling before ReLU: the same result for a quarter of ReLU's work."""
    layers, maps = [], 3
    for wide in (32, 64, 128):                                  # size / 2, / 4, / 8
        layers += [nn.Conv2d(maps, wide, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        maps = wide
    hidden = nn.Linear(maps * (size // 8) ** 2, 128)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Linear(128, classes))


def mobilenet_v1(classes):
    """Howard et al. 2017, Table 1: 3,206,976 parameters and the head."""
    layers, maps = [Conv2dNormActivation(3, 32, 3, 2)], 32      # size / 2, in the end size / 32
    for wide in (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024):
        stride = 1 if wide in (64, maps) else 2                 # more maps, smaller maps
        layers.append(Conv2dNormActivation(maps, maps, 3, stride, groups=maps))
        layers.append(Conv2dNormActivation(maps, wide, 1))
        maps = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes))


def derma_cnn(classes, size=64, dropout=0.2):
    """Paper 003's CNN: 521,758 parameters for 4 classes at 64 px (pooling as in its code)."""
    return nn.Sequential(
        nn.Conv2d(3, 60, 1), nn.MaxPool2d(2), nn.ReLU(),        # (n, 60, 32, 32)
        nn.Conv2d(60, 50, 3), nn.MaxPool2d(5), nn.ReLU(),       # (n, 50, 6, 6)
        nn.Flatten(),
        nn.Linear(50 * ((size // 2 - 2) // 5) ** 2, 256), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes))


def for_imagenet(body, head):
    """From [-1, 1] to the colours of ImageNet's networks, the body, a head of ours."""
    colours = Normalize(2 * np.array([0.485, 0.456, 0.406]) - 1, [0.458, 0.448, 0.450])
    return nn.Sequential(OrderedDict(colours=colours, body=body, head=head))


def published(name, weights, **options):
    """A network of torchvision's, with weights or "none"."""
    if weights == "none":
        weights = None
    return models.get_model(name, weights=weights, **options)


def resnet50_body(weights, width=64):
    """The convolutions of ResNet-50, 23,508,032 parameters: 2,048 maps at any width."""
    net = published("resnet50", weights, width_per_group=width)
    return nn.Sequential(*list(net.children())[:-2])


class MaxAndMean(nn.Module):
    """(n, maps, h, w) -> (n, 2 maps): fastai's AdaptiveConcatPool and Flatten."""
    def forward(self, x):
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def resnet50(classes, weights, width=64):
    """Paper 002: ResNet-50 under fastai's head, which has 2,110,464 parameters for 8 classes."""
    body = resnet50_body(weights, width)
    head = nn.Sequential(
        MaxAndMean(), nn.BatchNorm1d(4096), nn.Dropout(0.25), nn.Linear(4096, 512, bias=False),
        nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, classes, bias=False))
    return for_imagenet(body, head)


def flat(body, config):
    """Paper 003's comparison networks: an ImageNet body under its notebooks' head."""
    with torch.no_grad():
        image = torch.zeros(1, 3, config["size"], config["size"])
        maps = body.eval()(image).numel()
    head = nn.Sequential(
        nn.Flatten(), nn.Linear(maps, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(128, len(config["classes"])))
    return for_imagenet(body, head)


def mobilenet_v1_body(weights):
    """MobileNet v1 without its head; the published file has other names in this order."""
    body = mobilenet_v1(1)[:-3]
    if weights != "none":
        state = torch.hub.load_state_dict_from_url(
            MOBILENET_V1, map_location="cpu", weights_only=True)
        values = [state[name] for name in state if "num_batches" not in name]
        names = [name for name in body.state_dict() if "num_batches" not in name]
        body.load_state_dict(dict(zip(names, values)), strict=False)
    return body


def inception(classes, size, weights):
    """Paper 004: Inception V3, 24,348,900 parameters for 2 classes with the auxiliary head, which
    gives logits too in training. Its weights, too, were trained on [-1, 1]."""
    net = published("inception_v3", weights, init_weights=weights == "none")
    net.transform_input = False
    net.fc = nn.Linear(2048, classes)
    net.AuxLogits.fc = nn.Linear(768, classes)
    if size < 299:          # the auxiliary head is made for 17 x 17 maps: spread smaller ones
        net.AuxLogits.register_forward_pre_hook(lambda _, x: F.adaptive_avg_pool2d(x[0], 17))
    return net


# ---- The classifiers: one entry each

@dataclass
class Network:
    recipe: dict                # hyper-parameter: (default, source); an option of `train`
    build: Callable             # config -> network; its `weights`: ImageNet's
    norm_learns: bool = False   # a resting body's BatchNorm learns, as with fastai


PLAIN = dict(
    size=(64, "000 II.B; 001 caption of Figure 6; 003 III.D"),
    optimizer=("adam", "000, section II.K"),
    lr=(1e-3, "not stated; Adam's default, also Keras'"),
    beta1=(0.9, "not stated; Adam's default"),
    beta2=(0.999, "not stated; Adam's default"),
    epochs=(50.0, '000, section II.K: "iteration number"'),
    batch=(32, "000, section II.K"),
    augment=("none", "not stated; no augmentation but the GAN's is named"),
    schedule=("constant", "not stated; the other is 1cycle"),
    frozen_epochs=(0.0, "000, section II.K: from scratch; 001, 004 not stated: all learn"))
DERMA = PLAIN | dict(
    optimizer=("adam", "section IV.B"),
    lr=(2e-4, "section IV.B; the released notebooks: 1e-3"),
    beta1=(0.5, "section IV.B; the released notebooks: 0.9"),
    beta2=(0.999, "section IV.B"),
    epochs=(100.0, "section IV.B"),
    batch=(64, 'section IV.B: "64 batches"; the released notebooks: 30'),
    augment=("classical", "section III.B: rotation, flip, scaling, colour; ranges ours"))
IMAGENET = dict(weights=("IMAGENET1K_V1", "not stated which; torchvision's first"))
FROZEN = DERMA | IMAGENET | dict(
    frozen_epochs=(float("inf"), "not stated; the released notebooks: the base rests"))
for name in ("optimizer", "lr", "beta1", "beta2", "epochs", "batch"):
    FROZEN[name] = DERMA[name][0], "not stated; the CNN's"

NETWORKS = {
    "cnn": Network(PLAIN, lambda c: cnn(len(c["classes"]), c["size"])),        # paper 000
    "mobilenet": Network(
        PLAIN | dict(batch=(64, "section II.K")),
        lambda c: mobilenet_v1(len(c["classes"]))),
    "resnet18": Network(                # 7x7 stem; 11,177,538 parameters for 2 classes
        PLAIN | dict(epochs=(100.0, 'section II.K: "iteration number"')),
        lambda c: models.resnet18(num_classes=len(c["classes"]))),
    "trunk": Network(                   # paper 001: the DCGAN's discriminator
        PLAIN | dict(
            optimizer=("adam", "Table 4; its other row is sgd"),
            lr=(2e-4, "abstract, Table 3; its other row is 1e-3"),
            beta1=(0.5, "abstract; Details of DCGAN architecture: 0.2"),
            epochs=(25.0, "not stated; ours"),
            batch=(128, "Table 2; its other row is 100"),
            width=(64, "Discriminator definition: 64, 128, 256, 512 maps"),
            augment=("paper001", "Data augmentation: rotation, shear, flip; ranges ours")),
        lambda c: gan.dcgan_discriminator(c["width"], len(c["classes"]))),
    "resnet50": Network(                # paper 002
        PLAIN | IMAGENET | dict(
            size=(256, "not stated; that of the CycleGAN's images"),
            width=(64, "A ResNet-based skin lesion classifier: ResNet of 50 layers"),
            optimizer=("adamw", "A ResNet-based ...: Adam; weight decay 0.01 not stated, fastai"),
            lr=(0.0, "A ResNet-based ...: 0 is what the lr finder suggests"),
            beta2=(0.99, "not stated; fastai"),
            epochs=(11.0, "not stated; ours"),
            batch=(64, "not stated; fastai"),
            frozen_epochs=(1.0, "not stated; fastai: first the head alone"),
            augment=("fastai", "not stated; fastai's aug_transforms"),
            schedule=("1cycle", "A ResNet-based skin lesion classifier")),
        lambda c: resnet50(len(c["classes"]), c["weights"], c["width"]), norm_learns=True),
    "derma_cnn": Network(               # paper 003
        DERMA | dict(dropout=(0.2, "section III.D; Figure 8 varies it")),
        lambda c: derma_cnn(len(c["classes"]), c["size"], c["dropout"])),
    "vgg16": Network(FROZEN, lambda c: flat(published("vgg16", c["weights"]).features, c)),
    "vgg19": Network(FROZEN, lambda c: flat(published("vgg19", c["weights"]).features, c)),
    "resnet50_flat": Network(FROZEN, lambda c: flat(resnet50_body(c["weights"]), c)),
    "mobilenet_flat": Network(FROZEN, lambda c: flat(mobilenet_v1_body(c["weights"]), c)),
    "mobilenet_v2": Network(
        FROZEN, lambda c: flat(published("mobilenet_v2", c["weights"]).features, c)),
    "inception": Network(               # paper 004
        PLAIN | IMAGENET | dict(
            size=(299, "not stated; what Inception V3 was made for"),
            weights=("IMAGENET1K_V1", "not stated whether pretrained; ours"),
            optimizer=("adagrad", "section 4.1"),
            lr=(1e-3, "section 4.1"),
            epochs=(20.0, "section 4.1"),
            batch=(128, "section 4.1"),
            augment=("flips", "section 4.1: both flips and rotation; range not stated")),
        lambda c: inception(len(c["classes"]), c["size"], c["weights"])),
}


# ---- What a training holds: the functions below take one, as m

@dataclass
class Training:
    config: dict                        # all that decides the result
    device: torch.device
    net: nn.Module
    optimizer: torch.optim.Optimizer
    batches: data.Batches
    record: jobs.Record                 # curves, values since their last point, lr finder
    base_rests: bool = False            # the body neither learns nor updates its BatchNorm


def base_of(net):
    """All but the last part, the head: what comes with weights and can rest."""
    return nn.Sequential(*list(net.children())[:-1])


def freeze(m, frozen):
    """frozen: only the head learns, and a body's BatchNorm, if this network's learns."""
    norm_learns = NETWORKS[m.config["model"]].norm_learns
    m.base_rests = frozen and not norm_learns
    base = base_of(m.net).requires_grad_(not frozen)
    for layer in base.modules():
        if norm_learns and isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(True)


def weights_hash(run):
    return data.hash_of((Path(run) / "model.pt").read_bytes())


# ---- The images of one training

def at_size(images, options):
    """The set at --size; with --through first so small, as blurred as a GAN's."""
    return data.resized(data.resized(images, options.through), options.size)


def thinned(images, args):
    """The images; in a dry run some 64: two steps take less time."""
    every = max(1, len(images) // 64) if args.dry_run else 1
    return images.take(slice(None, None, every))


def load_images(args):
    """(training images, validation images, {"real": test images, "mixed": and synthetic ones},
    what result.json keeps of generators)."""
    prepared = data.load(args.data, args.through or args.size)
    real = at_size(prepared, args)
    training = real.part("train").share(args.share)
    counts = training.counts()
    if len(counts) < 2 or 0 in counts.values():
        raise UserError(f"{args.data}: training needs two classes or more, not {counts}")
    val = thinned(real.part("val"), args)
    tests = dict(real=thinned(real.part("test"), args))
    added, held_back, of_gans = load_synthetic(args, prepared)
    if args.mixed_test:
        tests["mixed"] = data.mix([tests["real"], *held_back])
    if args.alone:
        training = training.take(slice(0))
    mixed = data.mix([training, *added])
    if args.shuffle:                    # a placebo: these images under permuted labels
        labels = mixed.labels[len(training):]
        labels[:] = np.random.default_rng(args.seed).permutation(labels)
    return mixed, val, tests, of_gans


def load_synthetic(args, prepared):
    """([images to add], [images of the mixed test], what result.json keeps of generators)."""
    if (args.shuffle or args.alone or args.use != 1) and not args.synthetic:
        raise UserError("--shuffle, --alone and --use need a --synthetic set")
    for_test = args.mixed_test or [0] * len(args.synthetic)
    if len(for_test) != len(args.synthetic):
        raise UserError("--mixed-test needs one number for each --synthetic set")
    held_out = prepared.take(prepared.split != "train")
    leaked, generators = 0, {}
    added, held_back = [], []
    if args.start:
        leaked = count_leaked(args.start, data.load(args.start), held_out, args)
    for source, last in zip(args.synthetic, for_test):
        whole = data.load_synthetic(source, args.through or args.size)
        leaked += count_leaked(source, whole, held_out, args)
        name = whole.info["generator"]
        path = whole.info.get("path")   # None: by gan.py, which measured it
        if path and name in gan.GANS | generators:
            name = path                 # no two share a name
        generators[name] = {}
        if path:
            side = whole.images.shape[1]
            seen = data.resized(prepared.part("train").share(args.share), side)
            unseen = data.resized(prepared.part("test"), side)
            generators[name] = metrics.judge_generated(whole, seen, unseen)
        most = len(whole) - last
        n = round(most * args.use)      # nested: the first n of each set
        if most < 0:
            raise UserError(f"{source} has {len(whole)} images: --mixed-test {last} is too many")
        added.append(at_size(whole.take(slice(n)), args))
        held_back.append(at_size(whole.take(slice(most, None)), args))
    return added, held_back, dict(leaked=leaked, generators=generators)


def count_leaked(source, whole, held_out, args):
    """How many validation and test images the set's GAN has seen, or the set holds: by pixels at
    the GAN's size, and by ids of the same prepared set. Refused without --allow-leak."""
    held_out = data.resized(held_out, whole.images.shape[1])
    known = [*whole.info.get("digests", []), *whole.digests()]
    names = whole.info.get("seen_ids", {}).get(held_out.info.get("dataset"), [])
    seen = np.isin(held_out.digests(), known) | np.isin(held_out.ids, names)
    if seen.any() and not args.allow_leak:
        raise UserError(f"{source}: {seen.sum()} validation and test images were seen: let a GAN "
                        "learn from the training part of --data, or give --allow-leak")
    if seen.any():
        print(f"LEAK: {source}: {seen.sum()} validation and test images were seen")
    if "digests" not in whole.info:
        print(f"{source}: only its own images can be checked for leaks", file=sys.stderr)
    return int(seen.sum())


# ---- Training

def train(args):
    out, begun = Path(args.out), time.time()
    device = jobs.start_device(args)
    training, val, tests, of_gans = load_images(args)
    names = "model seed precision shuffle alone through share use".split()
    epoch_steps = len(training) // args.batch
    config = jobs.config_of(args, names, NETWORKS[args.model].recipe, epoch_steps)
    config |= dict(
        classes=training.classes, train=training.fingerprint(), start="none",
        tests={name: test.fingerprint() for name, test in tests.items()})
    if args.start:
        config["start"] = weights_hash(args.start)
    if args.lr_of:
        found = jobs.read_json(Path(args.lr_of) / "result.json").get("lr_finder")
        if not found:
            raise UserError(f"--lr-of {args.lr_of}: that job used no lr finder")
        config["lr"] = found["chosen"]
    frozen = 0.0                        # share of the steps in which the head learns alone
    if args.start or config.get("weights", "none") != "none":
        frozen = min(1.0, args.frozen_epochs / args.epochs)
    config["frozen_steps"] = round(config["steps"] * frozen)
    config["synthetic"] = sorted(of_gans["generators"])
    m = build(config, training, args.start, device)     # first: weights may be missing
    if jobs.start_job(out, config):
        return

    step, cost = jobs.timed(train_step, args)
    first, begun = jobs.load_checkpoint(out, vars(m), device, begun)
    to_do = jobs.steps_to_do(out, vars(m), begun, first, config["steps"], args.stop_after)
    loop(m, out, step, val, first, to_do)
    if not args.forget:
        jobs.save_state(out / "model.pt", dict(net=m.net.state_dict()))
    values = test_and_save(out, m.net, tests, device)
    jobs.finish_job(
        out, config, time.time() - begun, device, counts=training.counts(), metrics=values,
        curves=m.record["curves"], **of_gans, lr_finder=m.record["lr_finder"], cost=cost)


def build(config, training, start, device):
    """A Training ready for its first step. start: a GAN job to begin as its discriminator."""
    batches = data.Batches(training, config["batch"], config["seed"], device)
    try:
        net = NETWORKS[config["model"]].build(config)
        net.eval()(torch.zeros(1, 3, config["size"], config["size"]))   # too small?
    except (OSError, ValueError, LookupError, RuntimeError) as problem:
        raise UserError(f"{problem!s:.200}: give a larger --size, put the --weights into "
                        f"{torch.hub.get_dir()}/checkpoints, or take --weights none") from None
    if start:                           # all but the last layer
        saved, _ = jobs.load_run(start, gan.GANS)
        state, base = saved["discriminator"], base_of(net)
        try:
            base.load_state_dict({name: state[name] for name in base.state_dict()})
        except (KeyError, RuntimeError):
            raise UserError(f"--from {start}: take a dcgan_cls of the same --width") from None
    net = net.train().to(device, memory_format=torch.channels_last)
    record = jobs.Record(curves={}, lr_finder={}, recent=[])
    return Training(config, device, net, make_optimizer(net, config), batches, record)


def loop(m, out, train_step, val, first, steps_to_do):
    steps, frozen = m.config["steps"], m.config["frozen_steps"]
    every = max(m.batches.per_epoch, steps // 50)
    progress = jobs.Progress(out.name, steps, first)
    freeze(m, first < frozen)
    rates = learning_rates(m)
    for step in steps_to_do:
        if step == frozen:
            freeze(m, False)
        m.record["recent"].append(train_step(m, *rates[step]))
        if (step + 1) % every == 0 or step + 1 == steps:    # only here it waits for the device
            recent = torch.stack(m.record["recent"])
            loss, accuracy = recent.mean(0).tolist()
            probabilities = class_probabilities(m.net, val.images, m.device)
            right = probabilities.argmax(1) == val.labels
            point = dict(
                loss=loss, accuracy=accuracy,
                val_loss=metrics.log_loss(val.labels, probabilities),
                val_accuracy=float(right.mean()))
            progress.note = jobs.add_point(m.record, out, step + 1, point)
        progress(step + 1)


def train_step(m, rate, momentum):
    """One update. Returns (loss, accuracy) on the device."""
    for group in m.optimizer.param_groups:
        group |= dict(lr=rate, momentum=momentum, betas=(momentum, m.config["beta2"]))
    m.net.train()
    if m.base_rests:                    # its BatchNorm keeps its statistics
        base_of(m.net).eval()

    pixels, labels = m.batches.next()
    x = data.scaled(pixels)
    if m.config["augment"] != "none":
        x = data.augment(x, **AUGMENT[m.config["augment"]])
    with torch.autocast(x.device.type, torch.bfloat16, enabled=m.config["precision"] == "bf16"):
        logits = m.net(x)
    extra = 0
    if isinstance(logits, tuple):       # not stated; Inception's second head usually counts 0.4
        logits, auxiliary = logits
        extra = 0.4 * F.cross_entropy(auxiliary.float(), labels)
    loss = F.cross_entropy(logits.float(), labels)
    gan.descend(m.optimizer, loss + extra)
    right = logits.argmax(1) == labels
    return torch.stack([loss.detach(), right.float().mean()])


def make_optimizer(net, config):
    """Rate and momentum come with each step from learning_rates."""
    if config["optimizer"] == "adagrad":
        return torch.optim.Adagrad(net.parameters())
    if config["optimizer"] != "adamw":  # adam or sgd; its momentum, beta1, is not stated
        return gan.make_optimizer(config, net)
    matrices = [weight for weight in net.parameters() if weight.ndim > 1]
    vectors = [weight for weight in net.parameters() if weight.ndim <= 1]   # no decay, as fastai
    groups = [dict(params=matrices), dict(params=vectors, weight_decay=0.0)]
    return torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.01, fused=True)


def learning_rates(m):
    """[(rate, momentum), ...]. 1cycle: one cycle for the head alone, one for all."""
    steps, frozen = m.config["steps"], m.config["frozen_steps"]
    top = m.config["lr"]
    if top == 0:
        m.record["lr_finder"] = m.record["lr_finder"] or find_lr(m)
        top = m.record["lr_finder"]["chosen"]
    if m.config["schedule"] == "constant":
        return [(top, m.config["beta1"])] * steps
    return one_cycle(frozen, top) + one_cycle(steps - frozen, top)


def one_cycle(steps, top):
    """fastai: a quarter up from top / 25, then down to top / 100,000; momentum .95 .85 .95."""
    phase = np.interp(np.arange(steps), [0, steps / 4, steps], [0, 1, 2])
    height = (1 - np.cos(np.pi * phase)) / 2        # 0, then 1 at the quarter, 0 at the end
    low = np.where(phase < 1, top / 25, top / 100_000)
    rates = low + (top - low) * height
    return np.stack([rates, 0.95 - 0.1 * height], 1).tolist()


def find_lr(m):
    """fastai's lr finder (2020): a copy of the network trains while the rate grows, until the
    smoothed loss is 4 times its best; a tenth of the best rate, but for the first tenth's luck."""
    rates = np.geomspace(1e-7, 10, 100).tolist()
    if "dry_run_of" in m.config:
        rates = rates[:2]
    losses, mean = [], 0.0
    net = copy.deepcopy(m.net)
    trial = replace(m, net=net, optimizer=make_optimizer(net, m.config),
                    batches=copy.copy(m.batches))
    with torch.random.fork_rng():
        for k, rate in enumerate(rates):
            loss, _ = train_step(trial, rate, m.config["beta1"])
            mean = 0.98 * mean + 0.02 * float(loss)
            smoothed = mean / (1 - 0.98 ** (k + 1))
            if not smoothed <= 4 * min([smoothed, *losses]):    # also where it is not a number
                break
            losses.append(smoothed)
    skip = len(rates) // 10
    if len(losses) <= skip:
        raise UserError("the lr finder's loss explodes at once: give --lr")
    lowest = skip + np.argmin(losses[skip:])
    return dict(losses=losses, chosen=rates[lowest] / 10)


# ---- Testing, and finished networks at work

@torch.no_grad()
def class_probabilities(net, images, device):
    """uint8 (n, h, w, 3) -> float64 (n, classes), rows summing to 1. Eval mode, float32."""
    net.eval()
    pixels = data.to_tensor(images, device)
    logits = [net(data.scaled(some)) for some in pixels.split(256)]
    return torch.cat(logits).double().softmax(1).cpu().numpy()


def test_and_save(out, net, tests, device):
    """The measures of each test set; predictions.csv, for paired tests."""
    classes, values = tests["real"].classes, {}
    lines = [["test", "image", "lesion", "label", *classes]]
    for name, test in tests.items():
        probabilities = class_probabilities(net, test.images, device)
        values[name] = metrics.evaluate(test.labels, probabilities, test.groups, classes)
        labels = [classes[label] for label in test.labels]
        for *line, row in zip(test.ids, test.groups, labels, probabilities):
            lines.append([name, *line, *(f"{probability:.9g}" for probability in row)])
    write_csv(out / "predictions.csv", lines)
    real = values["real"]
    print(f"{out}: accuracy {real['accuracy'][0]:.3f}, of the larger class {real['majority']:.3f}")
    return values


def load_net(run, device="cpu"):
    """(network, config) of a finished classifier."""
    saved, config = jobs.load_run(run, NETWORKS)
    with jobs.used(Path(run) / "model.pt"):
        net = NETWORKS[config["model"]].build(config | dict(weights="none"))
        net.load_state_dict(saved["net"])
    return net.to(device, memory_format=torch.channels_last), SimpleNamespace(**config)


def predict(args):
    """Class probabilities of photographs: files, or all below folders; not filtered (--enhance)."""
    net, config = load_net(args.run)
    rows = []
    for path in map(Path, args.images):
        below = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES]
        for file in below or [path]:
            picture = functools.partial(decode, file.read_bytes)
            rows.append(data.Row(str(file), "", "", "", "", picture))
    images = data.decoded(rows, config.through or config.size, dict(source="photographs"))
    lines = [["image", "called", *config.classes]]
    probabilities = class_probabilities(net, at_size(images, config).images, "cpu")
    for file, row in zip(images.ids, probabilities):
        called = config.classes[row.argmax()]
        lines.append([file, called, *(f"{probability:.6f}" for probability in row)])
    print("\n".join(map("  ".join, lines)))
    if args.csv:
        write_csv(args.csv, lines)
    print("A research model's opinion, not a diagnosis: show a skin change to a doctor.")


def write_csv(path, lines):
    with jobs.replacing(path) as file:
        csv.writer(codecs.getwriter("utf-8")(file)).writerows(lines)


def rank(args):
    """A class's training images, surest first: paper 002's Path-Rank-Filter."""
    out, begun = Path(args.out), time.time()
    device = jobs.start_device(args)
    net, config = load_net(args.run, device)
    images = thinned(gan.training_part(args.data, args.of_class), args)
    if args.of_class not in config.classes:
        raise UserError(f"--class: {args.run} knows {', '.join(config.classes)}")
    asked = dict(command="rank", weights=weights_hash(args.run), data=images.fingerprint())
    if jobs.start_job(out, asked):
        return
    probabilities = class_probabilities(net, at_size(images, config).images, device)
    sure = probabilities[:, config.classes.index(args.of_class)]
    order = np.argsort(-sure, kind="stable")    # too sure, as in the paper: it learned them
    images.take(order).save(out / "images.npy")
    jobs.finish_job(out, asked, time.time() - begun, device)
    print(f"{out}: {len(images)} images, surest first")


def score(args):
    """FID (FD-<net> in another network), KID, IS of sets; at most half the training part."""
    out, begun = Path(args.out), time.time()
    device = jobs.start_device(args)
    files = [*map(Path, args.sets)]
    if args.over_steps:
        files += sorted(Path(args.over_steps).glob("snapshots/*.npy"))
    sets = {file.name.removesuffix(".npy"): thinned(data.load(file), args) for file in files}
    real = thinned(gan.training_part(args.data, args.of_class), args)
    n = min([len(real) // 2, *map(len, sets.values())])
    if n < 4 or not 0 < len(sets) == len(files):
        raise UserError("score: sets of 4 images, of unlike names, and --data with 8")
    features, name, weights = feature_extractor(args.run, device)
    config = dict(
        command="score", net=weights, n=n, seed=args.seed, data=real.fingerprint(),
        sets={label: made.fingerprint() for label, made in sets.items()})
    if jobs.start_job(out, config):
        return

    side = min(made.images.shape[1] for made in sets.values())
    real = data.resized(real, side)     # all as blurred as the smallest
    rng, rows = np.random.default_rng(args.seed), []
    x, _ = features(real.take(rng.permutation(len(real))))
    for label, made in sets.items():
        some = made.take(rng.permutation(len(made))[:n])
        y, probabilities = features(data.resized(some, side))
        row = metrics.distances(x, y, probabilities, args.seed)
        rows.append(row | dict(set=label))
        print(f"{label}: {name} {row['distance']:.2f} (noise floor {row['floor']:.2f})  "
              f"KID {row['kid']:.4f}  IS {row['inception_score']:.2f}")
    jobs.finish_job(out, config, time.time() - begun, device, net=name, rows=rows)


def feature_extractor(run, device):
    """(function: image set -> (features, probabilities), name of the distance, weights)."""
    if run == "inception":
        fid = metrics.inception_features(device)
        return lambda images: fid(images.images), "FID", run
    net, config = load_net(run, device)
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].cpu()))

    def features(images):
        seen.clear()
        probabilities = class_probabilities(net, at_size(images, config).images, device)
        return torch.cat(seen).double().numpy(), probabilities

    return features, f"FD-{config.model}", weights_hash(run)


def main():
    parser = jobs.Parser(prog="classify.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    networks = commands.add_parser("train", help="train and test")
    networks = networks.add_subparsers(dest="model", required=True)
    for name, entry in NETWORKS.items():
        p = networks.add_parser(name)
        p.set_defaults(function=train)
        add = p.add_argument
        add("--data", required=True, help="a `prepare` job or an .npy file")
        add("--synthetic", nargs="*", default=[],
            help="images to add: GAN jobs, class folders, CLASS=flat folder or .npz")
        add("--use", type=jobs.fraction, default="1", help="the first 1/4, say, of each set")
        add("--shuffle", action="store_true", help="permute their labels: a placebo")
        add("--alone", action="store_true", help="train on these alone")
        add("--mixed-test", nargs="*", type=jobs.at_least(0),
            help="so many of each set's end into a second test")
        add("--allow-leak", action="store_true", help="go on if a GAN saw test images")
        add("--through", type=jobs.at_least(8), help="so many px first, blurred as a GAN's")
        add("--from", dest="start", help="a GAN job: start as its discriminator (trunk)")
        add("--lr-of", help="a job: take the rate of its lr finder")
        jobs.add_training_options(
            p, entry.recipe, augment=AUGMENT, schedule=("constant", "1cycle"),
            optimizer=("adam", "adamw", "sgd", "adagrad"))

    for function in (predict, rank, score):
        p = commands.add_parser(function.__name__, description=function.__doc__)
        p.set_defaults(function=function)
        p.add_argument("run", help="a finished classifier; for the FID: inception")
        if function is predict:
            p.add_argument("images", nargs="+", help="photographs, or folders of them")
            p.add_argument("--csv", help="write the probabilities here")
            continue
        p.add_argument("--class", dest="of_class", required=function is rank, help="of this alone")
        p.add_argument("--data", required=True, help="split image set: its training part")
        p.add_argument("--out", required=True, help="folder of this job")
        jobs.add_common_options(p)
    p.add_argument("sets", nargs="*", help="GAN jobs or image sets")    # of score, the last
    p.add_argument("--over-steps", help="a GAN job: judge its snapshots too")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
