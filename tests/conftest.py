"""What the tests share: the project on the path, one small image set, a way to call a command line."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)        # tiny networks: more threads only wait for each other

import classify  # noqa: E402
import data  # noqa: E402
import gan  # noqa: E402
import jobs  # noqa: E402
import metrics  # noqa: E402
import report  # noqa: E402

MODULES = dict(data=data, gan=gan, classify=classify, metrics=metrics, report=report, jobs=jobs)


@pytest.fixture
def cli(monkeypatch, capsys):
    """cli("gan", "train", ...) as a shell would: (exit status, standard output, standard error)."""
    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, words)])
        monkeypatch.setattr(jobs.os, "_exit", sys.exit)
        capsys.readouterr()
        status = 0
        try:
            jobs.run_cli(MODULES[module].main)
        except SystemExit as stop:
            status = stop.code or 0
        for folder in list(jobs.LOCKS):         # as if the process had ended
            jobs.LOCKS.pop(folder).close()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def done(cli):
    """As cli, but the command must succeed; returns its standard output."""
    def call(*words):
        status, out, err = cli(*words)
        assert status == 0, err
        return out

    return call


@pytest.fixture
def refused(cli):
    """The command must end as bad input does: status 2, one line that holds every one of `words`."""
    def call(words, *command):
        status, _, err = cli(*command)
        assert status == 2 and len(err.strip().splitlines()) == 1, err
        for word in words:
            assert word in err, err

    return call


@pytest.fixture(scope="session")
def lesions():
    """120 drawn lesions of two classes, split."""
    drawn = data.built_in(120, 64, seed=5)
    malignant = [data.class_name(drawn.classes[label], binary=True) == "malignant" for label in drawn.labels]
    two = data.replace(drawn, labels=np.array(malignant, np.int64), classes=data.TWO)
    return data.with_split(two, val=0.15, test=0.25)


@pytest.fixture(scope="session")
def prepared(lesions, tmp_path_factory):
    """The same as a file."""
    file = tmp_path_factory.mktemp("lesions") / "images.npy"
    lesions.save(file)
    return file


TINY_GAN = ["--width", 4, "--batch", 8, "--steps", 4]


@pytest.fixture(scope="session")
def made(prepared, tmp_path_factory):
    """{class: folder} of two tiny trained GANs with 24 samples each."""
    folders = {}
    for name in data.TWO:
        folders[name] = tmp_path_factory.mktemp("gans") / name
        words = ["gan.py", "train", "dcgan_cls", "--data", prepared, "--class", name, "--samples", 24,
                 *TINY_GAN, "--out", folders[name]]
        sys.argv, before = list(map(str, words)), sys.argv
        gan.main()
        sys.argv = before
    return folders


def result_of(folder):
    """A result.json without what time, place and command write."""
    result = json.loads((Path(folder) / "result.json").read_text())
    for key in ("seconds", "command", "commit", "device", "versions", "checksum", "memory_gb"):
        result.pop(key)
    return result
