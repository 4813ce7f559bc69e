"""What the tests share: the project's root on the path, a private cache, and a way to run a command line in this process."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)      # tiny networks: more threads only wait for each other

import classify  # noqa: E402
import data  # noqa: E402
import gan  # noqa: E402
import metrics  # noqa: E402

MODULES = {"data": data, "gan": gan, "classify": classify, "metrics": metrics}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")


@pytest.fixture
def cli(monkeypatch, capsys):
    """cli("gan", "train", ...) runs a command line as a shell would: returns (exit status, standard output, standard error)."""
    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            data.run_cli(MODULES[module].main)
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err
    return run


@pytest.fixture
def refused(cli):
    """Assert that a command ends as bad input must: exit status 2, one line on standard error that holds every `word`."""
    def run(words, module, *arguments):
        status, _, err = cli(module, *arguments)
        assert status == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
        for word in words:
            assert word in err, f"{word!r} is not in {err!r}"
    return run


@pytest.fixture(scope="session")
def lesions():
    """144 built-in lesions, two classes, split; made once."""
    return data.with_split(data.to_binary(data.built_in(144, 64, seed=5)), val=0.15, test=0.25)


@pytest.fixture
def prepared(tmp_path, lesions):
    """The folder of a finished `prepare` job."""
    lesions.save(tmp_path / "prepared" / "images.npz")
    return tmp_path / "prepared"


def result_of(folder):
    """A result.json without the fields that time, place and commit write."""
    import json
    result = json.loads((Path(folder) / "result.json").read_text())
    for key in ("seconds", "command", "commit", "device", "versions"):
        result.pop(key)
    return result


def same_pictures(a, b, tolerance=0):
    return np.abs(a.astype(int) - b.astype(int)).max() <= tolerance
