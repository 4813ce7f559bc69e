"""Stop every kind of job at random moments, start it again, compare with an undisturbed run.

    OMP_NUM_THREADS=1 python tests/kill.py [--times 20] [gan tree ...]      an hour on one core

By SIGKILL, or by SIGINT to its whole group as a terminal sends it; imports are included.
"""
import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = "--data ../data/job --batch 8 --steps 6"
KINDS = {
    "prepare": "data.py prepare --built-in 48 --size 32 --binary",
    "gan": f"gan.py train dcgan_cls --width 4 --snapshots 8 --samples 12 {TINY}",
    "cyclegan": "gan.py train cyclegan --source ../data/job --source-class benign "
                f"--class malignant --size 32 --width 4 --blocks 1 --samples 12 {TINY}",
    "classifier": f"classify.py train cnn {TINY}",
    "tree": "gan.py sample ../finished/job --n 300",
    "run": "jobs.py"}
RUN = [f"study\t{stage}\t{kind}\t{KINDS[kind]} --out job/study/{kind}\n"
       for stage, kind in ((1, "prepare"), (2, "gan"), (2, "classifier"))]


def start(kind, folder):
    """The process that makes FOLDER/job; FOLDER/said: its words."""
    folder.mkdir(exist_ok=True)
    with open(folder / "said", "a") as said, open("list") as jobs:
        return subprocess.Popen(
            [sys.executable, *f"../{KINDS[kind]} --out job".split()], cwd=folder,
            stdin=jobs, stdout=said, stderr=said, start_new_session=True,   # & ignores SIGINT:
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def contents(folder):
    """{file: what is in it} of all that decides anything: no times, logs or bytes of weights."""
    found, varying = {}, r'"(seconds|memory_gb|command)": .*'
    for file in (folder / "job").rglob("*.*"):
        if file.suffix in (".npy", ".csv", ".png", ".json"):
            found[file.relative_to(folder)] = re.sub(varying.encode(), b"", file.read_bytes())
    return found


def check(kind, folder, number, moment, expected):
    """One start that is stopped at that moment, and one that goes on: what is wrong then?"""
    process = start(kind, folder)
    time.sleep(moment)
    if process.poll() is None:
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
    process.wait()
    again = start(kind, folder).wait()              # 2: a tree that was complete is refused
    left = [*folder.rglob(".*.tmp"), *folder.rglob(".*.part"), *folder.rglob("checkpoint.pt")]
    fine = again in (0, 2) and not left and contents(folder) == expected
    print(folder.resolve(), "nothing is lost" if fine else f"WRONG: {again} {left}", flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--times", type=int, default=20)
parser.add_argument("kinds", nargs="*", default=[*KINDS])
args, rng = parser.parse_args(), random.Random(0)
os.chdir(tempfile.mkdtemp(prefix="kill"))
for file in ROOT.glob("*.py"):
    Path(file.name).write_text(file.read_text().replace("SAVE_EVERY = 60.0", "SAVE_EVERY = 0"))
Path("list").write_text("".join(RUN))
for folder, kind in (("data", "prepare"), ("finished", "gan")):
    assert start(kind, Path(folder)).wait() == 0, folder
for kind in args.kinds:
    whole, begun = Path(f"{kind}-whole"), time.time()
    assert start(kind, whole).wait() == 0, whole.resolve()
    seconds = time.time() - begun
    for number in (signal.SIGKILL, signal.SIGINT):
        for k in range(args.times):
            moment = seconds * (k + rng.random()) / args.times
            check(kind, Path(f"{kind}-{number.name}-{k}"), number, moment, contents(whole))
