"""How much faster than the plain way? By hand, on an idle machine: python tests/benchmark.py

The plain way: the same networks and losses in float32, PNG files read by torch's DataLoader, every
value fetched at each step. Ours: pixels stay on the device, values are fetched now and then, on a
CPU bfloat16. The two take turns; medians of 3 rounds. A few minutes on 2 cores, seconds on a GPU.
"""
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import classify, data, gan  # noqa: E401, E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Files:
    """Batches of the plain way, as data.Batches gives them."""
    def __init__(self, folder, batch):
        images = datasets.ImageFolder(folder, transforms.PILToTensor())
        self.loader = torch.utils.data.DataLoader(images, batch, shuffle=True, drop_last=True)
        self.rest = iter(())

    def next(self):
        for pixels, labels in self.rest:
            return pixels.to(DEVICE), labels.to(DEVICE)
        self.rest = iter(self.loader)
        return self.next()


def way(entry, config, folder, plain):
    """A function that makes one training step of a GAN or of a classifier."""
    images, module = data.load(folder, 64), gan if isinstance(entry, gan.GAN) else classify
    recipe = {name: value for name, (value, _) in entry.recipe.items()}
    config = recipe | dict(seed=0, precision="bf16", steps=100, classes=images.classes) | config
    source = images if getattr(entry, "source", False) else None
    if plain or DEVICE.type == "cuda":              # where run_all.sh takes no bfloat16
        config["precision"] = "float32"
    m = module.build(config, images, source, DEVICE)
    if plain:
        m.batches = m.source_batches = Files(folder, config["batch"])
        for part in vars(m).values():
            if isinstance(part, torch.nn.Module):
                part.to(memory_format=torch.contiguous_format)

    def step():
        values = classify.train_step(m, 1e-3, 0.9) if module is classify else entry.step(m).values()
        for value in values if plain else ():
            value.item()
    return step


def compare(name, plain, ours, times):
    """One line: seconds of the plain way, of ours, and the ratio."""
    taken = []
    for work in [plain, ours] * 4:
        begun = time.perf_counter()
        for _ in range(times):
            work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - begun) / times)
    slow, fast = taken[2::2], taken[3::2]               # the first round is no measure
    ratio = statistics.median(a / b for a, b in zip(slow, fast))
    print(f"{name:12}{statistics.median(slow):10.3f}{statistics.median(fast):10.3f}{ratio:8.2f}")


with tempfile.TemporaryDirectory() as scratch:
    data.built_in(256, 64).save(f"{scratch}/lesions")
    print(f"{'a step, s':12}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for name, batch, times in (("dcgan_cls", 64, 4), ("wgan_gp", 64, 1), ("acgan", 32, 4),
                               ("cyclegan", 1, 3), ("resnet18", 32, 4)):
        config = dict(model=name, size=64, width=64, batch=batch, of_class=None, frozen_steps=0)
        entry = gan.GANS.get(name) or classify.NETWORKS[name]
        ways = [way(entry, config, f"{scratch}/lesions", plain) for plain in (True, False)]
        compare(name, *ways, times)
