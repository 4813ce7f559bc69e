"""Give broken files and odd option values to the commands that read them; count what comes of it.

    OMP_NUM_THREADS=1 python tests/fuzz.py --tries 1000          some minutes on one core

A try breaks one file of a small finished project, or gives one option a random value, and runs one
command in this process. "Silently wrong": a cut file or a flipped bit was read without a word and
the result is another one. "Slow" were stopped after 20 seconds: they work, for long. A bit flipped in
the user's own table is not tried: what it makes is another table, and nobody can tell.
"""
import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from conftest import MODULES, jobs
from kill import contents

GAN = "gan train dcgan_cls --data data/job --width 4 --batch 8 --steps 4 --samples 8"
HALF = f"{GAN} --out half/job"
NET = "classify train cnn --data data/job --batch 8 --steps 2 --keep"
PREPARE = "data prepare photos --size 16 --val 0.3 --test 0.3"
SET_UP = [
    "data prepare --built-in 48 --size 64 --binary --out data/job",
    "data lesions --n 24 --size 24 --out photos", f"{GAN} --out gan/job", f"{HALF} --stop-after 2",
    f"{NET} --out results/wgan_gp/cnn_real-s0", f"{NET} --seed 1 --out results/wgan_gp/cnn_gan-s0",
    "metrics fid gan/job data/job --net none"]
# [file to break, command that reads it, folder whose job it makes]
READ = [
    ("gan/job/result.json", f"{GAN} --out gan/job", "gan"),
    ("gan/job/config.json", f"{GAN} --out gan/job", "gan"),
    ("half/job/checkpoint.pt", HALF, "half"),
    ("gan/job/model.pt", "gan sample gan/job --n 4 --out new/job", "new"),
    ("results/wgan_gp/cnn_real-s0/model.pt",
     "classify predict results/wgan_gp/cnn_real-s0 one.png", ""),
    ("gan/job/samples.npz", "metrics fid data/job gan/job --net none", ""),
    ("data/job/images.npz", f"{NET} --out new/job", "new"),
    ("results/wgan_gp/cnn_real-s0/predictions.csv",
     "metrics compare results/wgan_gp/cnn_real results/wgan_gp/cnn_gan", ""),
    ("results/wgan_gp/cnn_real-s0/predictions.csv", "report results", "results"),
    ("results/wgan_gp/cnn_real-s0/result.json", "report results", "results"),
    ("photos/labels.csv", f"{PREPARE} --out new/job", "new"),
    ("photos.zip", PREPARE.replace("photos", "photos.zip") + " --out new/job", "new"),
    ("photos/AK/lesion00000_0.png", f"{PREPARE} --out new/job", "new"),
    ("photos/info.json", f"{PREPARE} --out new/job", "new")]
CYCLE = ("gan train cyclegan --data data/job --source data/job --width 4 --batch 1 --blocks 1 "
         "--steps 2")
OPTIONS = [PREPARE, "data lesions", GAN, NET, CYCLE, "gan sample gan/job --n 4", "jobs list",
           "gan train acgan --data data/job --size 32 --width 4 --batch 8 --z-dim 9 --steps 2",
           "classify score results/wgan_gp/cnn_real-s0 gan/job --data data/job"]
VALUES = ["-1", "0", "1", "3", "nan", "inf", "-inf", "1e9", "1000000000", "1e20", "9" * 20,
          "1e-300", "0.5", "٣", "²", "x", "", "../x", "a=-1", "/dev/null", "new\nline"]
ODD = [None, -1, 1e308, "x", "../../x", [], {}, True, [[1]], 10 ** 20]


class TooLong(BaseException):
    pass


def call(words):
    """(exit status or "slow" or "traceback", standard output, standard error)."""
    def stop(*_):
        raise TooLong

    module, *rest = words
    sys.stdin = io.StringIO("")
    sys.argv, status = [f"{module}.py", *rest], 0
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            jobs.run_cli(MODULES[module].main)
    except SystemExit as end:
        status = end.code or 0
    except TooLong:
        status = "slow"
    except BaseException:
        status = "traceback"
        err.write(traceback.format_exc())
    signal.alarm(0)
    for folder in list(jobs.LOCKS):
        jobs.LOCKS.pop(folder).close()
    return status, out.getvalue(), err.getvalue()


def put_odd(place, rng, values):
    """Replace a value anywhere in nested dictionaries."""
    key = rng.choice(list(place))
    if isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        return put_odd(place[key], rng, values)
    place[key] = rng.choice(values)


def odd_json(raw, rng):
    value = json.loads(raw)
    put_odd(value, rng, ODD)
    return json.dumps(value).encode()


def odd_state(raw, rng):
    state, file = torch.load(io.BytesIO(raw), weights_only=True), io.BytesIO()
    put_odd(state, rng, [*ODD, torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)])
    torch.save(state, file)
    return file.getvalue()


def odd_arrays(raw, rng):
    arrays, file = dict(np.load(io.BytesIO(raw))), io.BytesIO()
    name = rng.choice(list(arrays))
    array = np.atleast_1d(arrays[name])
    arrays[name] = rng.choice([array[:-1], array[None], array.astype(str), array.ravel(), array[:0],
                               np.zeros(array.shape), np.full(array.shape, "x" * 9)])
    np.savez(file, **arrays)
    if rng.random() < 0.3:                  # a header that promises more than any machine holds
        header = io.BytesIO()
        shape = dict(descr="|u1", fortran_order=False, shape=(10 ** 9, 64, 64, 3))
        np.lib.format.write_array_header_1_0(header, shape)
        with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings(action="ignore"):
            archive.writestr("images.npy", header.getvalue())
    return file.getvalue()


def odd_table(raw, rng):
    rows = [line.split(",") for line in raw.decode().splitlines()]
    row = rng.choice(rows)
    values = ["", "nan", "inf", "-1", "2", "x", "../x", "\0", '"', "é", "x" * 200_000]
    row[rng.randrange(len(row))] = rng.choice(values)
    return "\n".join(map(",".join, rows)).encode()


def odd_image(raw, rng):
    """A PNG whose header promises a square of so many pixels."""
    side = rng.choice([60_000, 0, 2 ** 31 - 1])
    return raw[:16] + side.to_bytes(4, "big") * 2 + raw[24:]


def odd_zip(raw, rng):
    file = io.BytesIO(raw)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        names = ["../out.png", "/abs/out.png", "AK/bomb.png", "AK/", "a\\b.png", "AK/x.csv"]
        name = rng.choice(names)
        archive.writestr(name, bytes(rng.choice([0, 10, 50_000_000])))
    return file.getvalue()


ODDLY = {".json": odd_json, ".npz": odd_arrays, ".pt": odd_state, ".csv": odd_table,
         ".png": odd_image, ".zip": odd_zip}


def broken(file, rng):
    """(kind of damage, bytes)"""
    raw = file.read_bytes()
    kind = rng.choice(["cut", "emptied", "flipped", "flipped", "foreign", "odd", "odd", "odd"])
    if kind == "flipped" and file.name == "labels.csv":
        kind = "odd"
    if kind == "cut":
        raw = raw[:rng.randrange(1, len(raw))]
    elif kind == "emptied":
        raw = b""
    elif kind == "flipped":
        flipped = bytearray(raw)
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        raw = bytes(flipped)
    elif kind == "foreign":
        others = [Path(name).read_bytes() for name, _, _ in READ]
        raw = rng.choice([*others, b"[1, 2]", b"{}", rng.randbytes(999), b"PK\x03\x04" + bytes(99)])
    else:
        raw = ODDLY[file.suffix](raw, rng)
    return kind, raw


def set_up():
    """A small project: a set, photographs, finished jobs and a half-done one."""
    for command in SET_UP:
        status, _, err = call(command.split())
        assert status == 0, err
    rows = ["image,label,lesion,split"]
    for file in Path("photos").rglob("*.png"):
        rows.append(f"{file.name},{file.parent.name},{file.stem[:11]},")
    Path("photos/labels.csv").write_text("\n".join(rows))
    shutil.make_archive("photos", "zip", "photos")
    shutil.copy("photos/AK/lesion00000_0.png", "one.png")


def outcome(command, folder, scratch, change=lambda: None):
    """(status, what the command printed and made, its errors), in a fresh copy of the project."""
    os.chdir(scratch)
    shutil.rmtree("try", ignore_errors=True)
    shutil.copytree("whole", "try")
    os.chdir("try")
    change()
    status, out, err = call(command)
    made = contents(folder) if folder and status == 0 else {}
    if folder == "results" and status == 0:
        made = Path("results/report.md").read_text()
    return status, (out, made), err


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, -1))
    rng, table = random.Random(args.seed), collections.defaultdict(collections.Counter)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz"))
    (scratch / "whole").mkdir()
    os.chdir(scratch / "whole")
    set_up()
    whole = [outcome(command.split(), folder, scratch) for _, command, folder in READ]
    for k in range(args.tries):
        if rng.random() < 0.4:
            words = rng.choice(OPTIONS).split()
            options = re.findall(r"--[a-z][\w-]+", call([*words, "--help"])[1])
            words += ["--out", "new/job", rng.choice(options), rng.choice(VALUES)]
            row, kind = "option values", " ".join(words)
            status, _, err = outcome(words, "", scratch)
        else:
            number = rng.randrange(len(READ))
            file, command, folder = READ[number]
            os.chdir(scratch / "whole")
            kind, raw = broken(Path(file), rng)
            row = f"{Path(file).name} ({command.split()[0]})"
            status, made, err = outcome(command.split(), folder, scratch,
                                         lambda: Path(file).write_bytes(raw))
            named = "Left out, damaged" in str(made) or "left out" in err
            same = made == whole[number][1] or kind not in ("cut", "flipped")
            if status == 0 and not same and not named:
                status = "silently wrong"
        name = {0: "worked", 2: "refused"}.get(status, status)
        table[row][name] += 1
        if name not in ("worked", "refused"):
            print(f"{k} {row} {kind}: {name} {err[-400:]}\n", flush=True)

    columns = ["refused", "worked", "slow", "silently wrong", "traceback"]
    print(f"{'what':36}{'tries':>8}" + "".join(f"{column:>16}" for column in columns))
    for row, counts in table.items():
        print(f"{row:36}{counts.total():8}" + "".join(f"{counts[column]:16}" for column in columns))


if __name__ == "__main__":
    main()
