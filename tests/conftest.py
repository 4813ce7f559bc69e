"""What the tests share: the project on the path, one small image set, calls of command lines."""
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["CUDA_VISIBLE_DEVICES"] = ""     # the numbers in the tests are a CPU's
torch.set_num_threads(1)        # tiny networks: more threads only wait for each other

import data, gan, jobs  # noqa: E401, E402

TINY_GAN = ["--width", 4, "--batch", 8, "--steps", 4]


def result_of(folder):
    """A result.json without what time, place and command write."""
    place = "seconds command commit device versions memory_gb gpu_memory_gb".split()
    result = jobs.read_json(Path(folder) / "result.json")
    return {key: value for key, value in result.items() if key not in place}


@pytest.fixture
def done(monkeypatch, capsys):
    """done("gan", "train", ...) as a shell would, with this exit status: what the command says."""
    def call(module, *words, status=0):
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, words)])
        monkeypatch.setattr(jobs.os, "_exit", sys.exit)     # must not end pytest
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            sys.exit(jobs.run_cli(importlib.import_module(module).main))
        while jobs.LOCKS:                       # as if the process had ended
            jobs.LOCKS.popitem()[1].close()
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == status, err
        return err if status else out + err
    return call


@pytest.fixture
def refused(done):
    """The command must end as bad input does: status 2, one line that holds all of `words`."""
    def call(words, *command):
        said = done(*command, status=2)
        assert said.count("\n") == 1 and all(word in said for word in words), said
    return call


@pytest.fixture(scope="session")
def lesions():
    """120 drawn lesions of two classes, split."""
    rows = data.of_classes(data.lesion_rows(120, seed=5), data.TWO, [])
    return data.with_split(data.decoded(rows, 64, dict(source="drawn lesions")), 0.15, 0.25)


@pytest.fixture(scope="session")
def prepared(lesions, tmp_path_factory):
    """The same as a file."""
    file = tmp_path_factory.mktemp("lesions") / "images.npy"
    lesions.save(file)
    return file


@pytest.fixture(scope="session")
def made(prepared, tmp_path_factory):
    """The folder of a tiny DCGAN that has learned from the benign ones."""
    out = tmp_path_factory.mktemp("gans") / "benign"
    train = f"gan.py train dcgan_cls --data {prepared} --class benign --samples 24 --out {out}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*train.split(), *map(str, TINY_GAN)])
        gan.main()
    return out
