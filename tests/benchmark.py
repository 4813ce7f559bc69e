"""How much faster than the plain way? Not a test: run it by hand, on an idle machine.

    python tests/benchmark.py               a few minutes on 2 CPU cores; --quick-run adds the whole quick run

The plain way: the same networks and losses in float32, pictures read from PNG files by torch's
DataLoader, every value fetched with .item() at each step. Ours: pixels stay on the device, values
are fetched now and then, bfloat16 where run_all.sh uses it. The two take turns; a ratio is the
median of the rounds' ratios.
"""
import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.linalg
import torch
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import classify  # noqa: E402
import data  # noqa: E402
import gan  # noqa: E402
import metrics  # noqa: E402

ROUNDS = 3
MODELS = {                              # side, width, batch, steps a round
    "dcgan_cls": (64, 64, 64, 4),
    "wgan_gp": (64, 64, 64, 1),
    "acgan": (64, 64, 32, 4),
    "cyclegan": (64, 64, 1, 3),
}


class Files:
    """Batches of the plain way, as data.Batches gives them."""

    def __init__(self, folder, batch):
        images = datasets.ImageFolder(folder, transforms.PILToTensor())
        self.loader = torch.utils.data.DataLoader(images, batch, shuffle=True, drop_last=True)
        self.rest = iter(())

    def next(self):
        try:
            return next(self.rest)
        except StopIteration:
            self.rest = iter(self.loader)
            return next(self.rest)


def gan_way(name, precision, folder, plain):
    """A function that makes one training step of a GAN."""
    side, width, batch, _ = MODELS[name]
    images = data.load(folder, side)
    recipe = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
    config = recipe | dict(
        model=name, seed=0, precision=precision, size=side, width=width, batch=batch, steps=1000,
        samples=8, snapshots=0, classes=images.classes, of_class=None)
    source = images if gan.GANS[name].source else None
    m = gan.build(config, Path(folder), images, source, torch.device("cpu"))
    m.step = 0
    if plain:
        for part in m.parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(memory_format=torch.contiguous_format)
        m.batches = m.source_batches = Files(folder, batch)

    def step():
        values = m.train_step(m)
        if plain:
            for value in values.values():
                value.item()

    return step


def resnet_way(precision, folder, plain):
    """A function that makes one training step of ResNet-18, 64 px, batch 32."""
    images = data.load(folder, 64)
    recipe = {key: value for key, (value, _) in classify.NETWORKS["resnet18"].recipe.items()}
    args = SimpleNamespace(**dict.fromkeys(classify.DECIDES), **recipe)
    vars(args).update(model="resnet18", precision=precision, seed=0, epochs=1, steps=100, dry_run=False,
                      lr_of=None, start=None, probe=False)
    m = classify.set_up(args, images, {}, torch.device("cpu"))
    m.base_rests = False
    if plain:
        m.net = m.net.to(memory_format=torch.contiguous_format)
        m.batches = Files(folder, args.batch)

    def step():
        values = classify.train_step(m, 1e-3, 0.9)
        if plain:
            for value in values:
                value.item()

    return step


def plain_frechet(x, y):
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    return gap + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)


def seconds(work, times=1):
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times


def compare(name, plain, ours, times=1):
    """One line: seconds of the plain way, of ours, and the ratio."""
    plain(), ours()                     # what is done once only
    pairs = [(seconds(plain, times), seconds(ours, times)) for _ in range(ROUNDS)]
    slow, fast = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name:44}{slow:10.3f}{fast:10.3f}{ratio:8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick-run", action="store_true", help="also the seconds of the whole quick run")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16", help="ours")
    args = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    folder = f"{scratch.name}/lesions"
    data.built_in(256, 64).save(folder)

    print(f"{'seconds of a step, of a call':44}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for name, (side, width, batch, times) in MODELS.items():
        plain = gan_way(name, "float32", folder, plain=True)
        ours = gan_way(name, args.precision, folder, plain=False)
        compare(f"{name}, {side} px, width {width}, batch {batch}", plain, ours, times)
    compare("resnet18, 64 px, batch 32", resnet_way("float32", folder, plain=True),
            resnet_way(args.precision, folder, plain=False), 4)

    x, y = np.random.default_rng(0).standard_normal((2, 500, 2048))
    compare("Frechet distance, 500 x 2048", lambda: plain_frechet(x, y), lambda: metrics.frechet(x, y))

    line = "study\t1\t{}\tgan.py describe wgan_gp --out " + scratch.name + "/study/{}\n"
    text = "".join(line.format(name, name) for name in "abcdefgh")
    alone = [sys.executable, "gan.py", "describe", "wgan_gp"]
    runner = [sys.executable, "jobs.py", "run", "--out", scratch.name]
    begun = time.perf_counter()
    subprocess.run(runner, input=text, text=True, cwd=ROOT, capture_output=True, check=True)
    ours = (time.perf_counter() - begun) / 8
    plain = seconds(lambda: subprocess.run(alone, cwd=ROOT, capture_output=True, check=True), 3)
    print(f"{'a short job, alone and as one of 8':44}{plain:10.3f}{ours:10.3f}{plain / ours:8.2f}")

    if args.quick_run:
        whole = ["bash", "run_all.sh", "--out", f"{scratch.name}/quick"]
        taken = seconds(lambda: subprocess.run(whole, cwd=ROOT, capture_output=True, check=True))
        print(f"{'the whole quick run':54}{taken:10.0f}")


if __name__ == "__main__":
    main()
