"""Stop every kind of job at random moments, start it again, compare with an undisturbed run.

    OMP_NUM_THREADS=1 python tests/kill.py [20] [gan tree ...]       two hours on one core

Three series: SIGKILL to the process, SIGINT to its whole group as a terminal sends it, and a disk
that is full (a limit on the size of files). The moments are spread over a run's whole duration,
imports included. A copy of the project is used that saves a checkpoint after every step.
"""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = "--batch 8 --steps 6 --samples 12"
KINDS = {
    "prepare": "data.py prepare --built-in 48 --size 32 --binary",
    "gan": f"gan.py train dcgan_cls --data data/job --width 4 --snapshots 8 {TINY}",
    "acgan": f"gan.py train acgan --data data/job --size 32 --width 4 --z-dim 16 {TINY}",
    "cyclegan": "gan.py train cyclegan --data data/job --source data/job --class malignant --size 32 "
                f"--source-class benign --width 4 --blocks 1 {TINY}",
    "classifier": "classify.py train cnn --data data/job --batch 8 --steps 6",
    "tree": "gan.py sample finished/job --n 300",
    "run": "jobs.py",
}
LIST = [("study", 1, "data", KINDS["prepare"]), ("study", 2, "gan", KINDS["gan"]),
        ("study", 2, "cnn", KINDS["classifier"])]


def start(kind, folder, limit=-1):
    """The process that makes FOLDER/job; FOLDER/said: its words. limit: of its files, in bytes."""
    out = Path(folder, "job")
    out.parent.mkdir(exist_ok=True)
    words = [sys.executable, *KINDS[kind].split(), "--out", out]
    lines = ["\t".join([study, str(stage), name, f"{command} --out {out}/{study}/{name}"])
             for study, stage, name, command in LIST]

    def set_up():
        signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's & ignores it
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))

    with open(out.parent / "said", "a") as said:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=said, stderr=said,
                                   text=True, start_new_session=True, preexec_fn=set_up)
    process.stdin.write("\n".join(lines) + "\n" if kind == "run" else "")
    process.stdin.close()
    return process


def contents(folder):
    """{file: what is in it} of all that decides anything: no times, logs or bytes of weights."""
    found, out = {}, Path(folder) / "job"
    for file in out.rglob("*"):
        name = str(file.relative_to(out))
        if file.name == "result.json":
            result = json.loads(file.read_text())
            found[name] = {key: value for key, value in result.items()
                           if key not in ("seconds", "memory_gb", "command")}
        elif file.suffix in (".npy", ".csv", ".png", ".json"):
            found[name] = file.read_bytes()
    return found


def disturb(kind, folder, series, share, seconds):
    """One start that is stopped at this share of its time, or of the sizes of its files."""
    if series == "full":
        start(kind, folder, limit=int(10 ** (2 + 3.5 * share))).wait()     # 100 bytes to 300 KB
        return
    process = start(kind, folder)
    try:
        process.wait(share * seconds)
    except subprocess.TimeoutExpired:
        if series == "SIGKILL":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
    process.wait()


def series_of(kind, series, times, expected, seconds, rng):
    """[stopped, different, tracebacks, left-overs, not done after two more starts]"""
    row = [0] * 5
    for k in range(times):
        folder = Path(f"{kind}-{series}-{k}")
        disturb(kind, folder, series, (k + rng.random()) / times, seconds)
        starts, done = 0, 1
        while done not in (0, 2) and starts < 2:    # 2: a tree that was complete is refused
            done = start(kind, folder).wait()
            starts += 1
        logs = [folder / "said", *folder.rglob("log.txt")]
        said = "\n".join(log.read_text()[-1500:] for log in logs)
        left = [*folder.rglob(".*.tmp"), *folder.rglob(".*.part")]      # what was to be renamed
        left += [file for file in folder.rglob("checkpoint.pt")
                 if file.with_name("result.json").exists()]
        faults = [contents(folder) != expected, "Traceback" in said, bool(left), starts > 1]
        row = [total + fault for total, fault in zip(row, [True, *faults])]
        if any(faults):
            print(f"{folder}: {faults} {left}\n{said}", flush=True)
        else:
            shutil.rmtree(folder)
    return row


def main():
    words = sys.argv[1:]
    times = int(words.pop(0)) if words[:1] and words[0].isdigit() else 20
    scratch = Path(tempfile.mkdtemp(prefix="kill"))
    for file in ROOT.glob("*.py"):
        text = file.read_text().replace("SAVE_EVERY = 60.0 ", "SAVE_EVERY = 0.0 ")
        (scratch / file.name).write_text(text)
    os.chdir(scratch)
    for folder, kind in (("data", "prepare"), ("finished", "gan")):
        assert start(kind, folder).wait() == 0, Path(folder, "said").read_text()
    print(f"in {scratch}: kind, series, stopped, different, traceback, left over, more starts")
    for kind in words or KINDS:
        begun = time.time()
        assert start(kind, f"{kind}-whole").wait() == 0, Path(f"{kind}-whole", "said").read_text()
        seconds, expected, rng = time.time() - begun, contents(f"{kind}-whole"), random.Random(0)
        for series in ("SIGKILL", "SIGINT", "full"):
            print(kind, series, *series_of(kind, series, times, expected, seconds, rng), flush=True)


if __name__ == "__main__":
    main()
