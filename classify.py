"""classify.py: the papers' classifiers, one training loop, prediction, ranking, distances in a network's features.

    python classify.py train cnn --data runs/data --out runs/cnn_real                     real images only
    python classify.py train cnn --data runs/data --synthetic runs/gan_benign runs/gan_malignant --out runs/cnn_hybrid
    python classify.py train trunk --data runs/data --from runs/dcgan --out runs/base     from a DCGAN's discriminator
    python classify.py train resnet50 --data runs/data --synthetic runs/acgan --vary count 2000 4000 --out runs/row
    python classify.py train cnn --data runs/data --steps 400 --arm real --arm gan synthetic=runs/gan --out runs/arms
    python classify.py predict runs/cnn_hybrid photo.jpg                                  one's own photo
    python classify.py rank runs/resnet --data runs/data --class MEL --out runs/ranked    surest melanomas first
    python classify.py score inception runs/dcgan --data runs/data --out runs/fid         FID, KID, inception score

`--data` is a split image set (python data.py prepare). The test images are real and untouched; with --mixed-test the
last images of each synthetic set are held back for a second, mixed test, as in paper 000. `train NET --help` lists
every hyper-parameter with its source. A run that was cut off goes on when its command is given again.
"""
import copy
import csv
import functools
import hashlib
import io
import json
import math
import re
import sys
import time
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import data
import metrics
from data import UserError, scaled

# Each classifier's hyper-parameters and where they come from. Each is an option of `train NET`.
PLAIN = dict(                                                                           # paper 000
    optimizer=("adam", "section II.K"), lr=(1e-3, "not stated; Adam's default, also Keras'"),
    beta1=(0.9, "not stated; Adam's default"), beta2=(0.999, "not stated; Adam's default"),
    augment=("none", "the paper mentions none"))
DERMA = dict(                                                                           # paper 003
    optimizer=("adam", "text"), lr=(2e-4, "text; released code 1e-3"), beta1=(0.5, "text; released code 0.9"),
    beta2=(0.999, "text"), epochs=(100.0, "text; released code 3,300 and 2,650 steps"),
    batch=(64, "text; released code 30"),
    augment=("classical", "text: rotation, flip, scaling, colour; ranges ours; the released code's: keras"))
IMAGENET = dict(weights=("IMAGENET1K_V1", "not stated which; torchvision's name for those of its first release"),
                input=("imagenet", "as the weights were trained; unit: pixels / 255, as in 003's released code"))
FROZEN = IMAGENET | dict(frozen_epochs=(math.inf, "text; epochs that train the head alone, if the base is pretrained"))
RECIPES = {
    "cnn": dict(PLAIN, epochs=(50.0, 'section II.K, "iterations"'), batch=(32, "section II.K")),
    "mobilenet": dict(PLAIN, epochs=(50.0, 'section II.K, "iterations"'), batch=(64, "section II.K")),
    "resnet18": dict(PLAIN, epochs=(100.0, 'section II.K, "iterations"'), batch=(32, "section II.K")),
    "trunk": dict(                                                                      # paper 001
        optimizer=("adam", "Table 4; its other row is sgd"), lr=(2e-4, "Table 3; its other row is 1e-3"),
        beta1=(0.5, "abstract; method section 0.2"), beta2=(0.999, "not stated; Adam's default"),
        epochs=(25.0, "not stated; ours"), batch=(128, "Table 2; its other row is 100"),
        width=(64, "text: 64-128-256-512 maps"), frozen_epochs=(0.0, "the whole net learns; --probe: its head alone"),
        augment=("paper001", "rotation, shear, flip; ranges not stated, ours")),
    "resnet50": dict(                                                                   # paper 002
        optimizer=("adamw", "Adam; fastai's, weight decay 0.01"), lr=(0.0, "0: what the lr finder suggests"),
        beta1=(0.9, "fastai; only for the lr finder, then 1cycle moves it from .95 to .85 and back"),
        beta2=(0.99, "not stated; fastai"), epochs=(11.0, "not stated; ours"), batch=(64, "not stated; fastai"),
        frozen_epochs=(1.0, "not stated; the first of the epochs train the head alone, if the base is pretrained"),
        size=(224, "not stated; what ImageNet networks get"), width=(64, "ResNet-50's; less for a quick look only"),
        augment=("fastai", "not stated; fastai's aug_transforms"), **IMAGENET),
    "derma_cnn": dict(DERMA, dropout=(0.2, "text; Figure 8 varies it")),
    "vgg16": DERMA | FROZEN,
    "vgg19": DERMA | FROZEN,
    "resnet50_flat": DERMA | FROZEN,
    "mobilenet_flat": DERMA | FROZEN | dict(weights=("mobilenet_w1", "not stated which; torchvision has no v1")),
    "mobilenet_v2": DERMA | FROZEN,
    "inception": dict(                                                                  # paper 004
        optimizer=("adagrad", "section 4.1"), lr=(1e-3, "section 4.1"), beta1=(0.9, "for adam only"),
        beta2=(0.999, "for adam only"), epochs=(20.0, "section 4.1"), batch=(128, "section 4.1"),
        size=(299, "not stated; what Inception V3 was made for"), weights=IMAGENET["weights"],
        augment=("flips", "section 4.1: both flips and rotation; range not stated")),
}
OPTIMIZERS = ("adam", "adamw", "sgd", "adagrad")
AUGMENT = {                                         # arguments of data.augment
    "none": None,
    "classical": {},                                # ours: rotation, flip, zoom, shift, light
    "paper001": dict(zoom=0, shift=0, brightness=0, shear=10),      # its Figure 8: rotation, shear, flip; ranges ours
    "fastai": dict(rotate=10, zoom=0.1, shift=0, brightness=0.2),   # aug_transforms, without its perspective warp
    "keras": dict(rotate=40, zoom=0.4, shift=0.2, shear=0.2, brightness=0.2),     # 003's released code. It also shifts
    #                           the channels by 0.2 of 255 grey levels, which is nothing; Keras' shear is in degrees
    "keras_test": dict(rotate=0, zoom=0.4, shift=0, shear=0.2, brightness=0),     # what it did to its test images
    "flips": dict(zoom=0, shift=0, brightness=0),   # 004: a flip and any rotation, which holds the vertical flip
}
INPUTS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "unit": ((0, 0, 0), (1, 1, 1))}   # mean, sd
MOBILENET_W1 = "https://github.com/osmr/imgclsmob/releases/download/v0.0.155/mobilenet_w1-0895-7e1d739f.pth.zip"


# ---------------------------------------------------------------------------------------------------------------------
# Networks: image (n, 3, size, size) in [-1, 1] -> logits (n, classes). Two classes get two logits and a softmax, which
# is one logit and a sigmoid (paper 001) written otherwise: sigmoid(a - b) = softmax(a, b).

def cnn(classes, size):
    """Paper 000 does not describe its CNN. Ours: three 3x3 convolutions with pooling and one hidden layer."""
    layers, maps = [], 3
    for wide in (32, 64, 128):                                          # size/2, size/4, size/8
        layers += [nn.Conv2d(maps, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        maps = wide
    hidden = nn.Linear(maps * (size // 8) ** 2, 128)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Linear(128, classes))


def mobilenet_v1(classes, size=None):
    """MobileNet v1 (Howard et al. 2017, Table 1): 3,206,976 parameters and the head. torchvision has only v2 and v3."""
    def conv(maps, wide, kernel, stride=1, groups=1):
        layer = nn.Conv2d(maps, wide, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(wide), nn.ReLU()]

    layers, maps = conv(3, 32, 3, stride=2), 32                         # size/2
    for wide, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
                         (1024, 1)):
        layers += conv(maps, maps, 3, stride, groups=maps) + conv(maps, wide, 1)     # depthwise, then pointwise
        maps = wide                                                     # in the end size/32
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes))


def trunk(classes, size=64, width=64):
    """The DCGAN discriminator of paper 001 as a classifier: 4,316,545 parameters with one output, 4,324,738 with two.

    Layer for layer gan.py's dcgan_discriminator, so that its weights fit, and begun like it, from N(0, 0.02).
    """
    layers, maps = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2)], width                     # 32 px
    for wide in (2 * width, 4 * width, 8 * width):                      # 16, 8, 4 px
        layers += [nn.Conv2d(maps, wide, 5, 2, 2), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        maps = wide
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps * math.ceil(size / 16) ** 2, classes))
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)
            nn.init.zeros_(layer.bias)
    return net


def derma_cnn(classes, size=64, dropout=0.2):
    """Paper 003's CNN: 521,758 parameters for 4 classes at 64 px (pooling stride = size, as its code)."""
    return nn.Sequential(
        nn.Conv2d(3, 60, 1), nn.ReLU(), nn.MaxPool2d(2),                # (n, 60, 32, 32)
        nn.Conv2d(60, 50, 3), nn.ReLU(), nn.MaxPool2d(5),               # (n, 50, 6, 6)
        nn.Flatten(), nn.Linear(50 * ((size // 2 - 2) // 5) ** 2, 256), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes))


class Normalise(nn.Module):
    """[-1, 1] -> (x in [0, 1] - mean) / sd of the colours: what a network trained on ImageNet expects."""

    def __init__(self, mean, sd):
        super().__init__()
        for name, value in (("mean", mean), ("sd", sd)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return ((x + 1) / 2 - self.mean) / self.sd


class MaxAndMean(nn.Module):
    """(n, maps, h, w) -> (n, 2 maps): fastai's AdaptiveConcatPool and Flatten."""

    def forward(self, x):
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def imagenet_body(name, width=64):
    """The convolutions of a network for ImageNet, image -> maps at size/32, with the weights' names of torchvision."""
    if name == "mobilenet_flat":
        return mobilenet_v1(1)[:-3]                                     # 1024 maps
    from torchvision import models                                      # here: its import takes 2 s of each job
    if name.startswith("vgg"):                                          # 512 maps
        layers = models.vgg.make_layers(models.vgg.cfgs["D" if name == "vgg16" else "E"])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):                            # as torchvision begins it
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return nn.Sequential(OrderedDict(features=layers))
    if name == "mobilenet_v2":
        return nn.Sequential(OrderedDict(features=models.mobilenet_v2(weights=None).features))      # 1280 maps
    net = models.resnet50(weights=None, width_per_group=width)          # 2048 maps, whatever the width inside
    return nn.Sequential(OrderedDict([*net.named_children()][:-2]))


def resnet50(classes, size=224, input="imagenet", width=64):
    """Paper 002: ResNet-50 under fastai's head, which has 2,110,464 parameters for 8 classes."""
    head = nn.Sequential(MaxAndMean(), nn.BatchNorm1d(4096), nn.Dropout(0.25), nn.Linear(4096, 512, bias=False),
                         nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, classes, bias=False))
    return nn.Sequential(OrderedDict(input=Normalise(*INPUTS[input]), body=imagenet_body("resnet50", width), head=head))


def flat(name, classes, size=64, input="imagenet"):
    """Paper 003's comparison networks: an ImageNet body, flattened, under dense layers 256, 128, classes."""
    body = imagenet_body(name)
    with torch.no_grad():
        maps = body.eval()(torch.zeros(1, 3, size, size)).numel()
    head = nn.Sequential(nn.Flatten(), nn.Linear(maps, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
                         nn.Dropout(0.2), nn.Linear(128, classes))
    return nn.Sequential(OrderedDict(input=Normalise(*INPUTS[input]), body=body, head=head))


def inception(classes, size=299):
    """Paper 004: torchvision's Inception V3, 24,348,900 parameters for 2 classes with the auxiliary head.

    Its weights were trained on [-1, 1], so our input goes in as it is. In training it returns two sets of logits.
    """
    if size < 75:
        raise UserError(f"--size {size}: Inception V3 needs at least 75 px")
    from torchvision import models
    net = models.inception_v3(weights=None, num_classes=classes, transform_input=False, init_weights=True)
    if size < 299:      # the auxiliary head is made for 17 x 17 maps: spread the fewer ones of a smaller image
        net.AuxLogits.register_forward_pre_hook(lambda _, maps: nn.functional.adaptive_avg_pool2d(maps[0], 17))
    return net


def resnet18(classes, size=None):
    """torchvision's ResNet-18, with its 7x7 stem: 11,177,538 parameters for 2 classes."""
    from torchvision import models
    return models.resnet18(num_classes=classes)


NETWORKS = dict(
    cnn=cnn, mobilenet=mobilenet_v1, resnet18=resnet18, trunk=trunk, resnet50=resnet50, derma_cnn=derma_cnn,
    inception=inception,
    **{name: functools.partial(flat, name) for name in (
        "vgg16", "vgg19", "resnet50_flat", "mobilenet_flat", "mobilenet_v2")})


def build(config):
    """The network, with random weights, that a job's config describes."""
    options = {key: config[key] for key in ("width", "dropout", "input") if key in config}
    return NETWORKS[config["model"]](len(config["classes"]), config["size"], **options)


def base(net):
    """The part of a network that pretrained weights fill and that can be frozen; the rest is the head."""
    return net.body if hasattr(net, "body") else net[:-1] if isinstance(net, nn.Sequential) else net


# ---------------------------------------------------------------------------------------------------------------------
# Pretrained weights

def start_weights(net, args):
    """Fill the base of a fresh network as --weights or --from ask. Returns what they were, for the tables."""
    if args.start:
        saved, config = data.load_model(args.start, ("dcgan_cls",))
        state = {name: value for name, value in saved["discriminator"].items() if name in base(net).state_dict()}
        if config.get("width", args.width) != args.width:
            raise UserError(f"--from {args.start} has width {config['width']}: give --width {config['width']}")
        fill(base(net), state, args.start)
        return f"discriminator of {Path(args.start).name} ({hash_of(args.start)})"
    wanted = getattr(args, "weights", "none")
    if wanted == "none":
        return "none (from scratch)"
    from torchvision import models
    name = {"resnet50_flat": "resnet50", "inception": "inception_v3"}.get(args.model, args.model)
    known = ({"mobilenet_w1": MOBILENET_W1} if name == "mobilenet_flat" else
             {entry.name: entry.url for entry in models.get_model_weights(name)})
    if wanted not in known and not Path(wanted).is_file():
        raise UserError(f"--weights {wanted}: give none, {', '.join(known)} or a file")
    file = fetch(known[wanted]) if wanted in known else Path(wanted)
    state = read_weights(file)
    if name == "mobilenet_flat":        # the published file has other names, in the same order
        given = [value for key, value in state.items() if "num_batches" not in key]
        state = dict(zip((key for key in base(net).state_dict() if "num_batches" not in key), given))
    fill(base(net), state, file)
    return wanted


def hash_of(run):
    """A short hash of a job's weights: its folder's name does not say which weights are in it."""
    file = Path(run) / "model.pt"
    if not file.exists():
        raise UserError(f"{file} does not exist: train first (`train MODEL --out {run}`)")
    return hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()


def fetch(url):
    """Path of a published file in torch's usual cache; downloaded if it is not there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as problem:                  # urllib's errors are OSErrors
            raise UserError(f"cannot download {url} ({problem}): put that file into {file.parent}, or give "
                            "--weights none to train from scratch") from None
    return file


def read_weights(file):
    """{name: tensor} of a .pth file or of a zip that holds one. A checksum in its name must be right."""
    try:
        raw, checksum = file.read_bytes(), hashlib.sha256
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                raw, checksum = archive.read(archive.namelist()[0]), hashlib.sha1
        named = re.search(r"-([0-9a-f]{8,64})\.pth", file.name)
        if named and not checksum(raw).hexdigest().startswith(named[1]):
            raise ValueError(f"its checksum is not {named[1]}")
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as problem:                    # zip and torch raise a dozen types for a cut or foreign file
        raise UserError(f"{file} is damaged ({problem}): delete it and start again") from None


def fill(net, state, source):
    """Load all weights of `net` but its classification layers from `state`, which may hold more; shapes must agree."""
    wanted = {name: value for name, value in net.state_dict().items() if "fc." not in name}
    for name, value in wanted.items():
        if "num_batches" not in name and (name not in state or state[name].shape != value.shape):
            raise UserError(f"{source} does not fit this network at {name}, {tuple(value.shape)}")
    net.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def freeze(net, frozen, norm_learns):
    """Keep the base from learning, or let it. norm_learns: its BatchNorm learns all the same, as with fastai."""
    for module in base(net).modules():
        learns = not frozen or norm_learns and isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(learns)


# ---------------------------------------------------------------------------------------------------------------------
# Data of one run

@functools.lru_cache(maxsize=8)         # cleared by every command: --vary decodes each set once
def load_stored(source, size):
    """An image set as it is stored; --size is for folders of image files, which have no size of their own."""
    return data.load(source, None if data.array_file(source) else size)


@functools.lru_cache(maxsize=8)
def load_at(source, size, through=None):
    """The set at `size` px; with `through`, every image is first made that small, as blurred as a GAN's."""
    return data.resized(data.resized(load_stored(source, size), through), size)


def load_parts(args):
    """(training, validation, {name: test}, leaked): test "real" is real images only, "mixed" adds held-back synthetic
    ones, "augmented" is distorted at random. leaked: see count_leaked, of all synthetic sets and of --from."""
    real = load_at(args.data, args.size, args.through)
    train, val, test = real.part("train").share(args.share), real.part("val"), real.part("test")
    if min(train.counts().values()) == 0 or len(train.classes) < 2:
        raise UserError(f"{args.data}: training needs images of at least two classes, it has {train.counts()}")
    if (args.shuffle or args.alone) and not args.synthetic:
        raise UserError("--shuffle and --alone need a --synthetic set")
    count = args.count if not args.per else round((args.count or 0) * len(train) / args.per)
    tests, extra, held_back, sets = {"real": test}, [], [], len(args.synthetic)
    for k, (source, hold) in enumerate(zip(args.synthetic, args.mixed_test or [0] * sets)):
        made = load_at(source, args.size, args.through)
        if hold >= len(made):
            raise UserError(f"--mixed-test {hold}: {source} holds only {len(made)} images")
        used = len(made) - hold if args.count is None else count // sets + (k < count % sets)   # an equal share of each
        if used > len(made) - hold:
            raise UserError(f"--count {count}: {used} images of {source}, which has only {len(made) - hold}")
        extra.append(made.take(slice(0, used)))
        if args.shuffle:
            extra[-1].labels = np.random.default_rng(args.seed).permutation(extra[-1].labels)
        held_back.append(made.take(slice(len(made) - hold, None)))
    first = train.take(slice(0, 0)) if args.alone else train
    training = data.mix(first, *[train] * args.copies, *extra)
    leaked = [count_leaked(source, args) for source in [*args.synthetic, args.start] if source]
    if args.mixed_test:
        tests["mixed"] = data.mix(test, *held_back)
    if args.augmented_test:
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            x = data.augment(scaled(data.to_tensor(test.images)), **AUGMENT["keras_test"])
        tests["augmented"] = replace(test, images=x.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return training, val, tests, None if None in leaked else sum(leaked)


def count_leaked(source, args):
    """How many validation and test images the GAN behind a set was trained on; None where that cannot be told.

    Images are compared by their pixels, at the size at which the GAN had them, and by their names. Any leak is refused
    without --allow-leak.
    """
    made = load_stored(source, args.size)
    real = load_at(args.data, made.images.shape[1])
    seen = np.isin(real.digests(), made.info.get("digests", [])) | np.isin(real.ids, made.info.get("ids", []))
    if not seen.any():
        print(f"{made.info.get('source')} was trained on no image of {args.data}, as far as can be told: no leak check",
              file=sys.stderr)
        return None
    leaked = int((seen & np.isin(real.split, ("val", "test"))).sum())
    if leaked and not args.allow_leak:
        raise UserError(f"{source}: its GAN was trained on {leaked} of the validation and test images, so a test would "
                        "be flattered. Train it on the training part of the same --data, or give --allow-leak")
    return leaked


# ---------------------------------------------------------------------------------------------------------------------
# Training

def train(args):
    """One classifier, or with --vary or --arm one for each value or arm, and a result.json over them."""
    if args.mixed_test and len(args.mixed_test) != len(args.synthetic):
        raise UserError("--mixed-test needs one number for each --synthetic set")
    if args.count is not None and not args.synthetic or args.per and args.count is None and not args.vary:
        raise UserError("--count needs a --synthetic set, and --per a --count")
    if args.frozen_epochs and args.model == "trunk" and not args.start:
        raise UserError("--probe needs --from: a frozen network must have learned something")
    if not args.each:
        return train_one(args)
    out, begun, runs, device = Path(args.out), time.time(), {}, data.start_device(args)
    ignored = ("out", "data", "synthetic", "start", "each", "arm", "stop_after", "device", "checkpoint_every",
               "frozen_epochs")
    config = {key: value for key, value in vars(args).items() if key not in ignored}
    config["data"], *config["synthetic"] = (load_stored(source, args.size).fingerprint()
                                            for source in (args.data, *args.synthetic))
    if args.arm:                                    # a set by its images, not by its path
        config["arms"] = {name: [word for word in words if not word.startswith("synthetic=")] + [
            load_stored(source, args.size).fingerprint() for source in args.each[name].synthetic]
            for name, *words in args.arm}
    config |= dict(start=hash_of(args.start)) if args.start else {}
    config |= dict(lr_of=found_lr(args.lr_of)) if getattr(args, "lr_of", None) else {}
    if data.open_run(out, config):
        return
    chosen = None
    for name, options in args.each.items():
        options.out = str(out / name)
        if chosen and not options.lr:
            options.lr, options.lr_from = chosen
        result = train_one(options)
        if result is None:
            return                                  # stopped as asked
        if "lr_finder" in result:                   # once, for all values: else they would differ in two things
            chosen = result["lr_finder"]["chosen"], name
        runs[name] = dict(accuracy=result["metrics"]["real"]["accuracy"], counts=result["counts"])
    data.finish_run(out, config, time.time() - begun, device, runs=runs)


def train_one(args):
    out, device, begun = Path(args.out), data.start_device(args), time.time()
    if getattr(args, "lr_of", None):
        args.lr = found_lr(args.lr_of)
    training, val, tests, leaked = load_parts(args)
    batches = data.Batches(training, args.batch, args.seed, device)
    steps = args.steps or math.ceil(args.epochs * batches.per_epoch)
    config = {key: getattr(args, key) for key in RECIPES[args.model] if key not in ("epochs", "frozen_epochs")}
    config |= dict(model=args.model, steps=steps, seed=args.seed, precision=args.precision, size=args.size,
                   classes=training.classes, train=training.fingerprint(),
                   tests={name: test.fingerprint() for name, test in tests.items()})
    extras = ("count", "per", "through", "lr_from", "copies", "shuffle", "alone")
    config |= {key: vars(args)[key] for key in extras if vars(args).get(key)}
    config |= dict(share=args.share) if args.share < 1 else {}
    net = build(config)
    weights = config["weights"] = start_weights(net, args)
    share = args.frozen_epochs / args.epochs            # of all steps, however many --steps says
    frozen = config["frozen_steps"] = 0 if weights.startswith("none") else round(steps * min(1, share))
    done_before = data.open_run(out, config)
    if done_before:
        return done_before

    net = net.to(device, memory_format=torch.channels_last)     # on a CPU 1.8 x (CNN, MobileNet), 1.1 x (ResNet-18)
    found, fastai = {}, args.model == "resnet50"
    freeze(net, frozen > 0, norm_learns=fastai)                         # the finder too sees the frozen network
    if fastai and not args.lr and not (out / "checkpoint.pt").exists():
        found = dict(lr_finder=find_lr(net, batches, args))
    optimizer = make_optimizer(net, args, args.lr)
    parts = dict(net=net, optimizer=optimizer)
    saved = data.load_checkpoint(out, parts)
    found = saved.get("found", found)
    top = found["lr_finder"]["chosen"] if found else args.lr
    first, spent = saved.get("step", 0), saved.get("seconds", 0.0)
    curves = saved.get("curves", dict(loss=[], accuracy=[], val_loss=[], val_accuracy=[]))
    history = torch.zeros(steps, 2, device=device)                      # per step: loss, accuracy of the batch
    history[:first] = saved.get("history", 0)

    progress = data.Progress(out.name, steps, first)
    last = min(steps, args.stop_after or steps)
    for step in range(first, last):
        if step in (first, frozen):
            freeze(net, step < frozen, norm_learns=fastai)
        if fastai:                                                      # a cycle for the head, then one for all
            set_rate(optimizer, *one_cycle(step / frozen if step < frozen else (step - frozen) / (steps - frozen), top))
        history[step] = train_step(net, optimizer, *batches(step), args, step < frozen and not fastai)
        done = step + 1
        if done % batches.per_epoch == 0 or done == steps:              # an epoch's end: the only wait for the device
            loss, accuracy = history[step // batches.per_epoch * batches.per_epoch:done].mean(0).tolist()
            values = (loss, accuracy, *loss_and_accuracy(net, val, device))
            data.check_finite(out, parts, done, *values)
            for name, value in zip(curves, values):
                curves[name].append(value)
            progress(done, "  ".join(f"{name} {values[-1]:.3f}" for name, values in curves.items()))
        if done % (batches.per_epoch * args.checkpoint_every) == 0 or done == last < steps:
            data.save_checkpoint(out, parts, step=done, seconds=spent + time.time() - begun, curves=curves,
                                 history=history[:done], found=found)
    if last < steps:
        return print(f"{out}: stopped after step {last} as asked")

    if not args.in_row:                             # of a row of dozens only the measures are wanted: 100 MB each
        data.save_model(out, config, net=net.state_dict())
    results = test_and_save(out, net, tests, device)
    if args.synthetic or args.start:
        found["leaked"] = leaked                                        # None: could not be told
    result = data.finish_run(
        out, config, spent + time.time() - begun, device, counts=training.counts(), data=config["train"], steps=steps,
        images_seen=steps * args.batch, metrics=results, curves=curves, weights=weights,
        parameters=sum(p.numel() for p in net.parameters()), **found)
    shown = results["real"]
    print(f"{out}: accuracy {shown['accuracy'][0]:.3f} on {shown['n']} test images (always the larger class: "
          f"{shown['majority']:.3f}){f'; LEAK: its GAN saw {leaked} of the val and test images' if leaked else ''}")
    return result


def make_optimizer(net, args, lr):
    parameters, betas = list(net.parameters()), (args.beta1, args.beta2)
    if args.optimizer == "adamw":       # as fastai: biases and norms do not decay
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) == many] for many in (True, False))
        return torch.optim.AdamW([dict(params=matrices), dict(params=vectors, weight_decay=0.0)], lr, betas, eps=1e-5,
                                 weight_decay=0.01)
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=args.beta1)     # not stated; beta1 as for the GAN
    if args.optimizer == "adagrad":
        return torch.optim.Adagrad(parameters, lr)
    return torch.optim.Adam(parameters, lr, betas)


def set_rate(optimizer, lr, momentum=None):
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def one_cycle(at, top):
    """(learning rate, momentum) of fastai's 1cycle policy at the share `at`, 0 to 1, of the training.

    Cosines: in the first quarter the rate rises from top / 25 to top, then it falls to top / 100,000; the momentum does
    the opposite, .95 to .85 and back. torch's OneCycleLR is this too, but keeps a state and fails for 4 steps or fewer.
    """
    def cosine(a, b, t):
        return b + (a - b) * (1 + math.cos(math.pi * t)) / 2
    if at < 0.25:
        return cosine(top / 25, top, at / 0.25), cosine(0.95, 0.85, at / 0.25)
    return cosine(top, top / 1e5, (at - 0.25) / 0.75), cosine(0.85, 0.95, (at - 0.25) / 0.75)


def find_lr(net, batches, args, tries=100):
    """fastai's lr finder (2020): a tenth of the rate at which the smoothed loss is lowest. `net` itself is not trained.

    The rate grows from 1e-7 to 10; it ends early where the loss is 4 times its best. fastai's other suggestion, where
    the loss falls most steeply, drowns in noise for a network from random weights. Returns dict(lrs, losses, chosen).
    """
    rates, losses, mean = np.geomspace(1e-7, 10, tries), [], 0.0
    with torch.random.fork_rng():
        trial = copy.deepcopy(net)
        optimizer = make_optimizer(trial, args, rates[0])
        for k, rate in enumerate(rates):
            set_rate(optimizer, rate)
            mean = 0.98 * mean + 0.02 * float(train_step(trial, optimizer, *batches(k), args)[0])
            losses.append(mean / (1 - 0.98 ** (k + 1)))
            if not losses[-1] <= 4 * min(losses):                       # also where it is not a number
                break
    losses, skip = [loss for loss in losses if math.isfinite(loss)], tries // 10
    if len(losses) <= skip:
        raise UserError("the lr finder's loss explodes at once: give --lr")
    lowest = skip + np.argmin(losses[skip:])        # as fastai: the mean of the first few batches is luck
    return dict(lrs=rates[:len(losses)].tolist(), losses=losses, chosen=float(rates[lowest] / 10))


def found_lr(job):
    """The learning rate that the lr finder chose in a finished job."""
    try:
        return json.loads((Path(job) / "result.json").read_text())["lr_finder"]["chosen"]
    except (OSError, KeyError):
        raise UserError(f"--lr-of {job}: there is no finished job with an lr finder") from None


def train_step(net, optimizer, pixels, labels, args, base_rests=False):
    """One update. base_rests: the base's BatchNorm keeps its statistics. Returns (loss, accuracy of the batch)."""
    net.train()
    if base_rests:
        base(net).eval()
    x = scaled(pixels).contiguous(memory_format=torch.channels_last)
    if AUGMENT[args.augment] is not None:
        x = data.augment(x, **AUGMENT[args.augment])
    with torch.autocast(x.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
        logits = net(x)
    logits, *auxiliary = logits if isinstance(logits, tuple) else (logits,)             # Inception has two heads
    loss = nn.functional.cross_entropy(logits.float(), labels)
    total = loss + sum(0.4 * nn.functional.cross_entropy(other.float(), labels) for other in auxiliary)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])


@torch.no_grad()
def probabilities(net, images, device, batch=256):
    """uint8 (n, h, w, 3) -> float64 (n, classes), each row summing to 1. Eval mode, float32 network."""
    net.eval()
    pixels = data.to_tensor(images, device)
    logits = [net(scaled(x).contiguous(memory_format=torch.channels_last)) for x in pixels.split(batch)]
    return torch.cat(logits).double().softmax(1).cpu().numpy()


def features(net, images, device):
    """(what the last linear layer gets (n, d), probabilities (n, classes)), float64, of uint8 images (n, h, w, 3)."""
    seen, last = [], [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].cpu()))
    chances = probabilities(net, images, device)
    hook.remove()
    return torch.cat(seen).double().numpy(), chances


def loss_and_accuracy(net, images, device):
    seen = probabilities(net, images.images, device)
    right = seen[np.arange(len(images)), images.labels]
    return float(-np.log(right.clip(1e-12)).mean()), float((seen.argmax(1) == images.labels).mean())


def test_and_save(out, net, tests, device):
    """Measure each test set and write predictions.csv, one line per image: what paired tests between arms need."""
    results, table = {}, io.StringIO()
    lines = csv.writer(table)
    for name, test in tests.items():
        seen = probabilities(net, test.images, device)
        results[name] = metrics.evaluate(test.labels, seen, test.groups, test.classes)
        if table.tell() == 0:
            lines.writerow(["test", "image", "lesion", "label", *test.classes])
        for image, lesion, label, chances in zip(test.ids, test.groups, test.labels, seen):
            lines.writerow([name, image, lesion, test.classes[label], *map(float, chances)])
    with data.replacing(out / "predictions.csv") as file:
        file.write(table.getvalue().encode())
    return results


# ---------------------------------------------------------------------------------------------------------------------
# Finished networks at work: prediction, ranking, distances

def load_net(run, device="cpu"):
    saved, config = data.load_model(run, NETWORKS)
    net = build(config)
    net.load_state_dict(saved["net"])
    return net.to(device, memory_format=torch.channels_last), config


def at_size(images, config):
    """An image set as a job's network saw its images."""
    return data.resized(data.resized(images, config.get("through")), config["size"])


def predict(args):
    net, config = load_net(args.run)
    unreadable, size = [], config["size"]
    for name in args.images:
        try:
            image = data.decode(Path(name).read_bytes(), config.get("through", size))
        except Exception as problem:                # Pillow raises a dozen types for broken files
            unreadable.append(f"{name} ({getattr(problem, 'strerror', None) or 'not a readable image'})")
            continue
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        chances = probabilities(net, image[None], "cpu")[0]
        ranked = sorted(zip(chances, config["classes"]), reverse=True)
        print(f"{name}: " + ", ".join(f"{label} {chance:.1%}" for chance, label in ranked))
    print("A research model's opinion, not a diagnosis: show a skin change to a doctor.")
    if unreadable:
        raise UserError(f"cannot read {', '.join(unreadable)}")


def rank(args):
    """Path-Rank-Filter, paper 002: a class's training images, those the network is surest of first, in images.npz.

    The images keep their stored size. The network was trained on them, as in the paper, so it is too sure of itself.
    """
    out, device, begun = Path(args.out), data.start_device(args), time.time()
    net, config = load_net(args.run, device)
    images = load_stored(args.data, config["size"]).part("train").of_class(args.of_class)
    if args.of_class not in config["classes"]:
        raise UserError(f"--class {args.of_class}: {args.run} knows {', '.join(config['classes'])}")
    asked = dict(command="rank", run=Path(args.run).name, weights=hash_of(args.run), of_class=args.of_class,
                 data=images.fingerprint())
    if data.open_run(out, asked):
        return
    seen, number = probabilities(net, at_size(images, config).images, device), config["classes"].index(args.of_class)
    sure = seen[:, number]
    order = np.argsort(-sure, kind="stable")
    replace(images.take(order), info=dict(images.info, ranked_by=Path(args.run).name)).save(out / "images.npz")
    predicted = float((seen.argmax(1) == number).mean())
    data.finish_run(out, asked, time.time() - begun, device, n=len(images), probability=sure[order].tolist(),
                    predicted_as_class=predicted)
    print(f"{out}: {len(images)} images of {args.of_class}, probability {sure.max():.3f} down to {sure.min():.3f}; "
          f"{predicted:.0%} are predicted as {args.of_class}")


def score(args):
    """Frechet distance, kernel distance and inception score of each set, in the features of one network.

    The distance depends on the number of images, so all sets are cut to the same number, and beside them stands the
    noise floor: real against other real images, as many. Each value is the mean over 5 random draws of the real images,
    `spread` their standard deviation. Features of the FID's Inception give FID, those of another network FD-<net>.
    """
    out, device, begun = Path(args.out), data.start_device(args), time.time()
    steps = sorted(Path(args.over_steps).glob("snapshots/*.npz")) if args.over_steps else []
    sets = {Path(source).name: load_stored(source, 64) for source in args.sets}
    if len(sets) < len(args.sets) or args.over_steps and not steps or not args.sets and not steps:
        raise UserError("score: give image sets of different names, or --over-steps a GAN job with a folder snapshots")
    sets |= {int(file.stem): load_stored(file, 64) for file in steps}
    real = load_stored(args.data, 64).part("train")
    if args.of_class:                               # samples of a GAN without labels are taken as they are
        real = real.of_class(args.of_class)
        sets = {name: made if made.classes == ["unlabelled"] else made.of_class(args.of_class)
                for name, made in sets.items()}
    n = min(len(real) // 2, *map(len, sets.values()))
    if n < 4:
        raise UserError(f"score: each set needs 4 images and --data 8, but these have {n} and {len(real)}")
    judge = args.net if args.net == "inception" else hash_of(args.net)
    config = dict(command="score", net=judge, of_class=args.of_class, n=n, seed=args.seed,
                  data=real.fingerprint(), sets={str(name): made.fingerprint() for name, made in sets.items()})
    name, how, look = feature_network(args.net, device)     # before the job is begun: its weights may be missing
    if data.open_run(out, config):
        return
    rng, rows = np.random.default_rng(args.seed), []
    x = look(real.take(rng.permutation(len(real))))[0]
    for label, made in sets.items():
        y, chances = look(made.take(rng.permutation(len(made))[:n]))
        if not max(np.abs(x).max(), np.abs(y).max()) < 1e9:             # also where they are not numbers
            raise UserError(f"score: the features of {args.net} are too large to be compared: train it for longer, or "
                            "take another network")
        draws = [metrics.distance_with_floor(x, y, args.seed + draw)[:2] for draw in range(5)]
        (distance, floor), (spread, _) = np.mean(draws, 0).tolist(), np.std(draws, 0, ddof=1).tolist()
        rows.append({"set": label, "distance": distance, "spread": spread, "kid": metrics.kid(x[:n], y),
                     "is": [float(value) for value in metrics.inception_score(chances)], "n": n})
        print(f"{label}: {name} {distance:.2f} +- {spread:.2f}  KID {rows[-1]['kid']:.4f}  IS {rows[-1]['is'][0]:.2f}")
    print(f"noise floor {floor:.2f}: {n} real images against {n} others")
    part = f"the training part{f', class {args.of_class}' if args.of_class else ''}"
    data.finish_run(out, config, time.time() - begun, device, net=name, rows=rows, floor=floor, floor_n=n,
                    provenance=f"{how}; {n} made images against {n} of {len(real)} real ones of {part}, drawn 5 times")


def feature_network(net, device):
    """(name of the distance, provenance, function: image set -> (features (n, d), probabilities (n, k)))."""
    if net == "inception":
        try:
            inception_2015 = metrics.fid_network()
        except UserError as problem:
            raise UserError(f"{problem}. `score` takes a classifier job in place of `inception`") from None

        def look(images):
            seen, logits = metrics.fid_features(images.images, inception_2015, device)
            return seen, torch.from_numpy(logits).softmax(1).numpy()
        return "FID", "Inception with the weights of pytorch-fid, images to 299 px bilinear", look
    trained, config = load_net(net, device)
    how = f"{config['model']} {Path(net).name}, weights from {config['weights']}, images to {config['size']} px bicubic"
    return f"FD-{config['model']}", how, lambda images: features(trained, at_size(images, config).images, device)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def add_train_options(p, model, recipe):
    p.set_defaults(start=None, frozen_epochs=0.0, each={}, in_row=False)        # where a network has no such option
    p.add_argument("--data", required=True, help="split image set: a `prepare` job, an .npz or a tree")
    p.add_argument("--synthetic", nargs="*", default=[], metavar="SET", help="GAN jobs or image sets to add")
    p.add_argument("--count", type=data.at_least(0), metavar="N", help="add only the first N of them, in equal shares")
    p.add_argument("--per", type=data.at_least(1), metavar="M", help="N is for M training images: scale it to ours")
    p.add_argument("--vary", nargs="+", metavar=("OPTION", "V"), help="a run for each value V of --OPTION: OUT/OPTIONV")
    p.add_argument("--arm", nargs="+", action="append", metavar=("NAME", "OPTION=V"),
                   help="a run with these options beside the others: OUT/NAME; again for each arm")
    p.add_argument("--share", type=data.at_least(0, float), default=1.0,
                   help="train on this share of each class, by lesion; a larger one holds a smaller (%(default)s)")
    p.add_argument("--copies", type=data.at_least(0), default=0, metavar="N", help="each training image N times more")
    p.add_argument("--shuffle", action="store_true", help="permute the labels of the synthetic images: a placebo")
    p.add_argument("--alone", action="store_true", help="train on the synthetic images alone")
    p.add_argument("--mixed-test", nargs="*", type=data.at_least(0), metavar="N",
                   help="hold back the last N images of each SET for a second, mixed test")
    p.add_argument("--augmented-test", action="store_true",
                   help="test also on images with random shear, zoom and flip, as 003's code did")
    p.add_argument("--allow-leak", action="store_true", help="go on if the GAN saw test images; their number is kept")
    p.add_argument("--through", type=data.at_least(8), metavar="PX",
                   help="bring every image to PX first: no class can be told by its blur alone")
    if model == "trunk":
        p.add_argument("--from", dest="start", metavar="GAN_JOB", help="start as its discriminator (last layer new)")
        p.add_argument("--probe", dest="frozen_epochs", action="store_const", const=math.inf,
                       help="train the head alone")
    if model == "resnet50":
        p.add_argument("--lr-of", metavar="JOB", help="the learning rate that the finder chose in this job")
    numbers = {key: value for key, value in recipe.items() if key != "size" and not isinstance(value[0], str)}
    for key, choices in (("optimizer", OPTIMIZERS), ("augment", AUGMENT), ("input", INPUTS), ("weights", None)):
        if key in recipe:
            value, source = recipe[key]
            p.add_argument("--" + key, default=value, choices=choices, help=f"{value}: {source}",
                           metavar=None if choices else "NAME|none|FILE")
    p.add_argument("--checkpoint-every", type=data.at_least(1), default=5, help="epochs between two (%(default)s)")
    data.add_run_options(p, numbers)
    if "size" in recipe:
        p.set_defaults(size=recipe["size"][0])


def main():
    parser = data.Parser(prog="classify.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train_parser = commands.add_parser("train", help="train and test one classifier")
    networks = train_parser.add_subparsers(dest="model", required=True)
    for model, recipe in RECIPES.items():
        add_train_options(networks.add_parser(model), model, recipe)
    p = commands.add_parser("predict", help="class probabilities of one's own photos")
    p.add_argument("run", help="folder of a finished classifier")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="a photo of any size; it is scaled as those of the job")
    for command, first, purpose in (("rank", "run", "order a class's training images by a network's certainty"),
                                    ("score", "net", "FID, KID and inception score of image sets")):
        p = commands.add_parser(command, help=purpose)
        p.add_argument(first, help="a finished classifier" + (", or `inception` for the FID" if first == "net" else ""))
        p.add_argument("--data", required=True, help="split image set; its training part is used")
        p.add_argument("--class", dest="of_class", required=command == "rank", help="this class alone")
        if command == "score":
            p.add_argument("sets", nargs="*", metavar="SET", help="GAN jobs or image sets")
            p.add_argument("--over-steps", metavar="GAN_JOB", help="judge the job's snapshots, one row each")
        p.add_argument("--out", required=True, help="folder of this job")
        p.add_argument("--seed", type=data.at_least(0), default=0)
        p.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
        p.set_defaults(deterministic=False)
    args, rest = parser.parse_known_args()
    if args.command == "score" and not any(word.startswith("-") for word in rest):
        args.sets += rest                           # argparse loses positional words that follow an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if vars(args).get("vary") and args.arm:
        raise UserError("give either --vary or --arm")
    if vars(args).get("vary"):
        option, *values = args.vary
        if not values or any("/" in value for value in values):
            raise UserError("--vary: give an option and its values, such as --vary count 2000 4000")
        row = {option + value: [f"--{option}={value}"] for value in values}
    else:
        arms = vars(args).get("arm") or ()
        row = {name: [f"--{option}" for option in options] for name, *options in arms}
        if len(row) < len(arms) or not all(re.fullmatch(r"\w[\w.-]*", name) for name in row):
            raise UserError(f"--arm {' '.join(arm[0] for arm in arms)}: give each a plain name of its own")
    if row:
        args.each = {name: parser.parse_args([*sys.argv[1:], *words]) for name, words in row.items()}
        for options in args.each.values():
            options.in_row = True
    load_stored.cache_clear(), load_at.cache_clear()
    {"train": train, "predict": predict, "rank": rank, "score": score}[args.command](args)


if __name__ == "__main__":
    data.run_cli(main)
