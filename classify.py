"""classify.py: the papers' classifiers, one training loop, prediction.

    python classify.py train cnn --data runs/data --out runs/cnn_real                     real images only
    python classify.py train cnn --data runs/data --synthetic runs/gan_benign runs/gan_malignant --out runs/cnn_hybrid
    python classify.py predict runs/cnn_hybrid photo.jpg                                  one's own photo

`--data` is a split image set (python data.py prepare). The test images are real and untouched; with --mixed-test the
last images of each synthetic set are held back for a second, mixed test, as in paper 000. A run that was cut off goes
on when its command is given again.
"""
import csv
import io
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision import models

import data
import metrics
from data import UserError, scaled

# Each classifier's hyper-parameters and where they come from (paper 000). Each is an option of `train MODEL`.
ADAM = dict(lr=(1e-3, "not stated; Adam's default, also Keras'"))
RECIPES = {
    "cnn": dict(ADAM, epochs=(50.0, 'section II.K, "iterations"'), batch=(32, "section II.K")),
    "mobilenet": dict(ADAM, epochs=(50.0, 'section II.K, "iterations"'), batch=(64, "section II.K")),
    "resnet18": dict(ADAM, epochs=(100.0, 'section II.K, "iterations"'), batch=(32, "section II.K")),
}


# ---------------------------------------------------------------------------------------------------------------------
# Networks: image (n, 3, size, size) in [-1, 1] -> logits (n, classes)

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


def resnet18(classes, size=None):
    """torchvision's ResNet-18 with its 7x7 stem, from random weights: 11,177,538 parameters for 2 classes."""
    return models.resnet18(weights=None, num_classes=classes)


NETWORKS = dict(cnn=cnn, mobilenet=mobilenet_v1, resnet18=resnet18)


# ---------------------------------------------------------------------------------------------------------------------
# Data of one run

def load_parts(args):
    """(training, validation, {name: test}): test "real" is real images only, "mixed" adds held-back synthetic ones."""
    real = data.load(args.data, args.size)
    train, val, test = real.part("train"), real.part("val"), real.part("test")
    if min(train.counts().values()) == 0 or len(train.classes) < 2:
        raise UserError(f"{args.data}: training needs images of at least two classes, it has {train.counts()}")
    tests, extra, held_back = {"real": test}, [], []
    for source, hold in zip(args.synthetic, args.mixed_test or [0] * len(args.synthetic)):
        made = data.load(source, args.size)
        check_leak(made, val, test)
        if hold >= len(made):
            raise UserError(f"--mixed-test {hold}: {source} holds only {len(made)} images")
        extra.append(made.take(slice(0, len(made) - hold)))
        held_back.append(made.take(slice(len(made) - hold, None)))
    if args.mixed_test:
        tests["mixed"] = data.mix(test, *held_back)
    return data.mix(train, *extra) if extra else train, val, tests


def check_leak(made, *untouched):
    """Refuse synthetic images whose GAN was trained on an image of the validation or test part."""
    seen = set(made.info.get("digests", ()))
    if not seen:
        print(f"{made.info.get('source')} does not say what its GAN was trained on: no leak check", file=sys.stderr)
    leaked = sum(digest in seen for part in untouched for digest in part.digests())
    if leaked:
        raise UserError(f"{made.info.get('source')}: its GAN was trained on {leaked} of the validation and test "
                        "images, so a test would be flattered. Train it on the training part of the same --data")


# ---------------------------------------------------------------------------------------------------------------------
# Training

def train(args):
    out, device, begun = Path(args.out), data.start_device(args), time.time()
    if args.mixed_test and len(args.mixed_test) != len(args.synthetic):
        raise UserError("--mixed-test needs one number for each --synthetic set")
    training, val, tests = load_parts(args)
    batches = data.Batches(training, args.batch, args.seed, device)
    steps = args.steps or math.ceil(args.epochs * batches.per_epoch)
    config = dict(model=args.model, lr=args.lr, batch=args.batch, steps=steps, augment=args.augment, seed=args.seed,
                  precision=args.precision, size=args.size, classes=training.classes, train=training.fingerprint(),
                  tests={name: test.fingerprint() for name, test in tests.items()})
    if data.open_run(out, config):
        return

    net = NETWORKS[args.model](len(training.classes), args.size)
    net = net.to(device, memory_format=torch.channels_last)     # on a CPU 1.8 x (CNN, MobileNet), 1.1 x (ResNet-18)
    optimizer = torch.optim.Adam(net.parameters(), args.lr)
    parts = dict(net=net, optimizer=optimizer)
    saved = data.load_checkpoint(out, parts)
    first, spent = saved.get("step", 0), saved.get("seconds", 0.0)
    curves = saved.get("curves", dict(loss=[], accuracy=[], val_loss=[], val_accuracy=[]))
    history = torch.zeros(steps, 2, device=device)                      # per step: loss, accuracy of the batch
    history[:first] = saved.get("history", 0)

    progress = data.Progress(out.name, steps, first)
    last = min(steps, args.stop_after or steps)
    for step in range(first, last):
        history[step] = train_step(net, optimizer, *batches(step), args)
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
                                 history=history[:done])
    if last < steps:
        return print(f"{out}: stopped after step {last} as asked")

    data.save_model(out, config, net=net.state_dict())
    results = test_and_save(out, net, tests, device)
    data.finish_run(out, config, spent + time.time() - begun, device, counts=training.counts(), data=config["train"],
                    steps=steps, images_seen=steps * args.batch, metrics=results, curves=curves,
                    parameters=sum(p.numel() for p in net.parameters()))
    shown = results["real"]
    print(f"{out}: accuracy {shown['accuracy'][0]:.3f} on {shown['n']} test images "
          f"(always the larger class: {shown['majority']:.3f})")


def train_step(net, optimizer, pixels, labels, args):
    """One update. Returns (loss, accuracy of the batch), on the device."""
    net.train()
    x = scaled(pixels).contiguous(memory_format=torch.channels_last)
    if args.augment == "classical":
        x = data.augment(x)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
        logits = net(x).float()
    loss = nn.functional.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])


@torch.no_grad()
def probabilities(net, images, device, batch=256):
    """uint8 (n, h, w, 3) -> float64 (n, classes), each row summing to 1. Eval mode, float32 network."""
    net.eval()
    pixels = data.to_tensor(images, device)
    logits = [net(scaled(x).contiguous(memory_format=torch.channels_last)) for x in pixels.split(batch)]
    return torch.cat(logits).double().softmax(1).cpu().numpy()


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
# Command line

def predict(args):
    saved, config = data.load_model(args.run, NETWORKS)
    net = NETWORKS[config["model"]](len(config["classes"]), config["size"])
    net.load_state_dict(saved["net"])
    unreadable = []
    for name in args.images:
        try:
            image = data.decode(Path(name).read_bytes(), config["size"])
        except Exception:                           # Pillow raises a dozen types for broken files
            unreadable.append(name)
            continue
        chances = probabilities(net, image[None], "cpu")[0]
        ranked = sorted(zip(chances, config["classes"]), reverse=True)
        print(f"{name}: " + ", ".join(f"{label} {chance:.1%}" for chance, label in ranked))
    print("A research model's opinion, not a diagnosis: show a skin change to a doctor.")
    if unreadable:
        raise UserError(f"not a readable image: {', '.join(unreadable)}")


def main():
    parser = data.Parser(prog="classify.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train_parser = commands.add_parser("train", help="train and test one classifier")
    networks = train_parser.add_subparsers(dest="model", required=True)
    for model, recipe in RECIPES.items():
        p = networks.add_parser(model)
        p.add_argument("--data", required=True, help="split image set: a `prepare` job, an .npz or a tree")
        p.add_argument("--synthetic", nargs="*", default=[], metavar="SET", help="GAN jobs or image sets to add")
        p.add_argument("--mixed-test", nargs="*", type=data.at_least(0), metavar="N",
                       help="hold back the last N images of each SET for a second, mixed test")
        p.add_argument("--augment", choices=("none", "classical"), default="none",
                       help="classical: rotation, flip, zoom, shift, light (default %(default)s, as in paper 000)")
        p.add_argument("--checkpoint-every", type=data.at_least(1), default=5, help="epochs between checkpoints (%(default)s)")
        data.add_run_options(p, recipe)
    p = commands.add_parser("predict", help="class probabilities of one's own photos")
    p.add_argument("run")
    p.add_argument("images", nargs="+")
    args = parser.parse_args()
    {"train": train, "predict": predict}[args.command](args)


if __name__ == "__main__":
    data.run_cli(main)
