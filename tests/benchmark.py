"""How much faster than the plain way? By hand, on an idle machine: python tests/benchmark.py

The plain way: the same networks and losses in float32, PNG files read by torch's DataLoader. Ours:
pixels stay on the device, on a CPU in bfloat16.
"""
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data, gan  # noqa: E401, E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_of(step, training):
    taken = []                                      # the first step warms up
    for _ in range(7):
        begun = time.perf_counter()
        torch.stack([*step(training).values()]).tolist()        # waits for the device
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


with tempfile.TemporaryDirectory() as folder:
    images = data.built_in(256, 64)
    images.save(folder + "/lesions")
    files = datasets.ImageFolder(folder + "/lesions", transforms.PILToTensor())
    for name in ("dcgan_cls", "wgan_gp", "acgan"):
        config = {key: value for key, (value, _) in gan.GANS[name].recipe.items()}
        config |= dict(model=name, size=64, batch=32, seed=0, classes=images.classes, of_class=None)
        plain = gan.build(config | dict(precision="float32"), images, None, DEVICE)
        loader = torch.utils.data.DataLoader(files, config["batch"], shuffle=True)
        plain.batches.next = lambda: [part.to(DEVICE) for part in next(iter(loader))]
        config["precision"] = "bf16" if DEVICE.type == "cpu" else "float32"
        ours = gan.build(config, images, None, DEVICE)
        slow, fast = (seconds_of(gan.GANS[name].step, way) for way in (plain, ours))
        print(f"{name:10} a step: {slow:.3f} s plain, {fast:.3f} s ours, {slow / fast:.2f} times")
