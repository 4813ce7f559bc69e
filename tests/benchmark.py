"""How much faster than the plain way? By hand, on an idle machine: python tests/benchmark.py (a few minutes on 2 cores)

The plain way: the same networks and losses in float32, PNG files read by torch's DataLoader, every value fetched at each
step. Ours: pixels stay on the device, values are fetched now and then, bfloat16. The two take turns; medians of 3 rounds.
"""
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import classify, data, gan, metrics  # noqa: E401, E402


class Files:
    """Batches of the plain way, as data.Batches gives them."""

    def __init__(self, folder, batch):
        images = datasets.ImageFolder(folder, transforms.PILToTensor())
        self.loader = torch.utils.data.DataLoader(images, batch, shuffle=True, drop_last=True)
        self.rest = iter(())

    def next(self):
        for batch in self.rest:
            return batch
        self.rest = iter(self.loader)
        return next(self.rest)


def way(entry, config, folder, plain):
    """A function that makes one training step of a GAN or of a classifier."""
    images, module = data.load(folder, 64), gan if isinstance(entry, gan.GAN) else classify
    recipe = {name: value for name, (value, _) in entry.recipe.items()}
    config = recipe | dict(seed=0, precision="float32" if plain else "bf16", steps=100, classes=images.classes) | config
    m = module.build(config, images, images if getattr(entry, "source", False) else None, torch.device("cpu"))
    if plain:
        for part in vars(m).values():
            if isinstance(part, torch.nn.Module):
                part.to(memory_format=torch.contiguous_format)
        m.batches = m.source_batches = Files(folder, config["batch"])

    def step():
        values = entry.step(m).values() if module is gan else classify.train_step(m, 1e-3, 0.9)
        for value in values if plain else ():
            value.item()
    return step


def plain_frechet(x, y):
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)


def compare(name, plain, ours, times=1, rounds=3):
    """One line: seconds of the plain way, of ours, and the ratio."""
    taken = []
    for work in [plain, ours] * (rounds + 1):
        begun = time.perf_counter()
        for _ in range(times):
            work()
        taken.append((time.perf_counter() - begun) / times)
    slow, fast = taken[2::2], taken[3::2]           # what is done once only is done in the first round
    ratio = statistics.median(a / b for a, b in zip(slow, fast))
    print(f"{name:44}{statistics.median(slow):10.3f}{statistics.median(fast):10.3f}{ratio:8.2f}", flush=True)


with tempfile.TemporaryDirectory() as scratch:
    data.built_in(256, 64).save(folder := f"{scratch}/lesions")
    print(f"{'seconds of a step, of a call':44}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for name, batch, times in (("dcgan_cls", 64, 4), ("wgan_gp", 64, 1), ("acgan", 32, 4), ("cyclegan", 1, 3), ("resnet18", 32, 4)):
        config = dict(model=name, size=64, width=64, batch=batch, of_class=None, frozen_steps=0)
        ways = [way(gan.GANS.get(name) or classify.NETWORKS[name], config, folder, plain) for plain in (True, False)]
        compare(f"{name}, 64 px, width 64, batch {batch}", *ways, times)
    x, y = np.random.default_rng(0).standard_normal((2, 500, 2048))
    compare("Frechet distance, 500 x 2048", lambda: plain_frechet(x, y), lambda: metrics.frechet(x, y))
    numbers, describe = iter(range(99)), [sys.executable, "gan.py", "describe", "wgan_gp"]
    def in_the_runner():
        out = f"{scratch}/{next(numbers)}"
        lines = "".join(f"a\t1\t{name}\tgan.py describe wgan_gp --out {out}/a/{name}\n" for name in "abcdefgh")
        subprocess.run([sys.executable, "jobs.py", "--out", out], input=lines, text=True, cwd=ROOT, capture_output=True)
    compare("eight short jobs, alone and in the runner",
            lambda: [subprocess.run(describe, cwd=ROOT, capture_output=True) for _ in range(8)], in_the_runner, rounds=1)
