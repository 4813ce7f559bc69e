"""jobs.py: a job is a folder; and the runner that works through a list of jobs.

    bash run_all.sh                                    the usual way: it feeds the runner its list
    python jobs.py run --out results/quick < list      the same by hand: lines STUDY, STAGE, NAME, COMMAND
    python jobs.py list --out results/quick < list     what is done, begun and to do; runs nothing

A job's folder holds config.json (what was asked), checkpoint.pt (how far it is) and result.json (what came
out). result.json is written last, so a job that has one is done. Whatever is cut off goes on when the same
command is given again. This file needs the standard library alone; torch is imported where it is used.
"""
import argparse
import contextlib
import errno
import fcntl
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SAVE_EVERY = 60.0           # seconds between two checkpoints
SPEAK_EVERY = 5.0           # seconds between two lines of progress
LOCKS = {}                  # job folder: its open lock file, held until the process ends


# ---- Errors and command lines ---------------------------------------------------------------------------

class UserError(Exception):
    """Something the user can mend: one line on standard error, exit status 2, no traceback."""


class Parser(argparse.ArgumentParser):
    """argparse, with the module's docstring as help and errors that end like every other bad input."""

    def __init__(self, **options):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message):
        raise UserError(f"{message} (see python {self.prog} --help)")


def run_cli(main):
    """Run a command line. Bad input and a full disk end in one line; Ctrl-C and a closed pipe quietly."""
    try:
        return main()
    except UserError as problem:
        message, status = str(problem), 2
    except BrokenPipeError:                         # ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as problem:
        if problem.filename is None:
            raise
        message, status = f"cannot use {problem.filename}: {problem.strerror}", 2
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message += ". Nothing finished is lost: free some disk space and start again"
    except KeyboardInterrupt:
        message, status = "stopped. The same command goes on from the last checkpoint", 130
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


def at_least(low, kind=int):
    """An argparse type: a finite number that is not below `low`."""
    def parse(text):
        value = kind(text)
        if not low <= value < 1e12:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and 1e12")
        return value

    parse.__name__ = kind.__name__                  # for argparse's own words: "invalid int value"
    return parse


def readable_time(seconds):
    """40 s, 12 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# ---- Files that are there whole or not at all -----------------------------------------------------------

@contextlib.contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` only when it is complete and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        problem.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1, allow_nan=False).encode())


def read_json(path):
    """The dictionary in a file. UserError if the file holds none."""
    try:
        value = json.loads(Path(path).read_text())
    except (ValueError, RecursionError):            # not text, or not JSON
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: delete its folder to run that job again")
    return value


# ---- A job's folder -------------------------------------------------------------------------------------

def start_job(out, config):
    """Begin, continue or recognise the job in folder `out`. Returns its result if it is done, else None.

    config: what decides the result. UserError, naming each difference, if the folder was begun with
    another one; or if another process is at work in it.
    """
    out = Path(out)
    config = json.loads(json.dumps(config))         # tuples become lists, as in the file
    out.mkdir(parents=True, exist_ok=True)
    LOCKS.pop(out, None)
    LOCKS[out] = open(out / ".lock", "w")
    try:
        fcntl.flock(LOCKS[out], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is at work in {out}: wait, or choose another --out") from None

    if not (out / "config.json").exists():
        write_json(out / "config.json", config)
    before = read_json(out / "config.json")
    changed = [f"{key} {before.get(key)!r} -> {config.get(key)!r}"
               for key in sorted(before.keys() | config.keys()) if before.get(key) != config.get(key)]
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed)}. Give the old ones, "
                        "choose another --out, or delete the folder to start over")
    if not (out / "result.json").exists():
        return None
    (out / "checkpoint.pt").unlink(missing_ok=True)         # a kill just after the last line of finish_job
    print(f"{out}: done before, nothing to do")
    return read_json(out / "result.json")


def finish_job(out, config, seconds, device, **result):
    """Write result.json, the last act of a job. Returns what it holds."""
    out = Path(out)
    packages = ("torch", "torchvision", "numpy", "scipy", "PIL")
    versions = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    threads = sys.modules["torch"].get_num_threads()        # another number of threads rounds differently
    result = dict(
        config=config, **result,
        command=shlex.join([f"OMP_NUM_THREADS={threads}", "python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        seconds=round(seconds, 1), device=device_name(device), versions=versions,
        python=platform.python_version(), commit=commit())
    write_json(out / "result.json", result)
    (out / "checkpoint.pt").unlink(missing_ok=True)
    return result


def commit():
    """The git commit of this code, "-dirty" if it was changed; "unknown" without git."""
    try:
        asked = ["git", "-C", HERE, "describe", "--always", "--dirty"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


# ---- Options, device and checkpoints of a training ------------------------------------------------------

def add_training_options(parser, recipe):
    """The options of every training: first those of its recipe, {name: (default, source of the default)}."""
    for name, (value, source) in recipe.items():
        kind = at_least(0, float)
        if isinstance(value, int):
            kind = at_least(1)
        if isinstance(value, str):
            kind = str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, help=f"{value}: {source}")
    parser.add_argument("--out", required=True, help="folder of this job")
    parser.add_argument("--steps", type=at_least(1), help="(generator) steps, instead of --epochs")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights, batches, noise (default 0)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                        help="bf16: autocast of the networks, never of losses, penalties and metrics")
    parser.add_argument("--stop-after", type=at_least(1), metavar="STEP", help="save there and stop")
    add_device_options(parser)


def add_device_options(parser):
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--deterministic", action="store_true", help="same bytes twice on a GPU too; slower")


def start_device(args):
    """The torch device of --device, with --seed and --deterministic in force."""
    import torch
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU on this machine")
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not args.deterministic
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"   # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    return torch.device(name)


def device_name(device):
    import torch
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"


def save_state(path, state):
    """torch.save, whole or not at all. In memory first: on a full disk torch does not say that it is full."""
    import io
    import torch
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_state(path):
    """A dictionary written by save_state. torch checks no checksum, but the zip archive in the file has some."""
    import zipfile
    import torch
    if not Path(path).exists():
        raise UserError(f"{path} does not exist: train first, with --out {Path(path).parent}")
    try:
        if zipfile.ZipFile(path).testzip() is not None:
            raise ValueError("wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:                    # zipfile and torch raise a dozen types for a bad file
        raise UserError(f"{path} is damaged ({problem}): delete it to train again from the start") from None


def save_checkpoint(out, parts, **rest):
    """All that a training needs to go on exactly where it is.

    parts: {name: whatever has a state_dict}; rest: step, seconds, curves, ... Random states are added.
    """
    import torch
    check_finite(out, parts, rest["step"])          # if not, the last good checkpoint stays
    states = {name: part.state_dict() for name, part in parts.items()}
    random = dict(cpu_random=torch.get_rng_state())
    if torch.cuda.is_available():
        random["cuda_random"] = torch.cuda.get_rng_state()
    save_state(Path(out) / "checkpoint.pt", dict(rest, parts=states, **random))


def load_checkpoint(out, parts):
    """Put the states back into `parts` and the random generators. Returns the rest; {} without checkpoint."""
    import torch
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return {}
    state = load_state(path)
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["cpu_random"])
        if "cuda_random" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_random"])
        print(f"{out}: going on from step {state['step']}", file=sys.stderr)
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError) as problem:
        raise UserError(f"{path} does not belong to this job ({problem}): delete it to train again") from None
    return state


def check_finite(out, parts, step, *values):
    """Stop a training that has broken down: a loss or a weight is not a finite number."""
    numbers = [math.isfinite(value) for value in values]
    for part in parts.values():
        if hasattr(part, "parameters"):
            numbers += [bool(weight.isfinite().all()) for weight in part.parameters()]
    if not all(numbers):
        raise UserError(f"{out}: a loss or a weight is not a finite number by step {step}. A smaller --lr may "
                        "help, in a new folder")


def steps_to_do(first, last, save):
    """Yield the steps first ... last - 1. Calls save(steps done) every minute and, before it stops, on Ctrl-C.

    The signal only sets a mark, so that a step is never cut in the middle; a second Ctrl-C does cut.
    """
    asked_to_stop = threading.Event()

    def note(number, _):
        if asked_to_stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked_to_stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    saved = time.time()
    try:
        for step in range(first, last):
            yield step
            if asked_to_stop.is_set() or time.time() - saved > SAVE_EVERY:
                save(step + 1)
                saved = time.time()
            if asked_to_stop.is_set():
                raise KeyboardInterrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A line on standard error every few seconds: how far, the last losses, how long it still takes."""

    def __init__(self, name, total, start=0):
        self.name, self.total, self.first = name, total, start
        self.note = ""
        self.begun = self.spoke = time.time()

    def __call__(self, step, note=""):
        self.note = note or self.note
        now = time.time()
        if now - self.spoke < SPEAK_EVERY:
            return                                  # short work says nothing
        self.spoke = now
        left = (now - self.begun) / max(step - self.first, 1) * (self.total - step)
        print(f"{self.name}  {step}/{self.total}  {self.note}  {readable_time(left)} left", file=sys.stderr)


# ---- The runner -----------------------------------------------------------------------------------------

class Job(NamedTuple):
    study: str
    stage: int              # needs the earlier stages of its study, nothing else
    name: str
    words: list             # what comes after "python": gan.py train ...
    folder: Path

    @property
    def kind(self):
        """Jobs of one kind take about as long as each other."""
        return self.study, re.sub(r"[\d.]+", "", self.name), *self.words[:3]

    @property
    def done(self):
        return (self.folder / "result.json").exists()


def read_jobs(lines, out):
    """[Job, ...] from lines STUDY <tab> STAGE <tab> NAME <tab> COMMAND."""
    jobs = []
    for line in lines:
        study, stage, name, command = line.rstrip("\n").split("\t")
        jobs.append(Job(study, int(stage), name, shlex.split(command), Path(out) / study / name))
    return jobs


def run_in_child(words, log):
    """What `python gan.py train ...` does, in a process forked from one that has torch imported already."""
    parent = multiprocessing.parent_process().sentinel
    def die_with_parent():
        multiprocessing.connection.wait([parent])
        os._exit(1)                                 # as a killed run leaves its jobs: they go on next time
    threading.Thread(target=die_with_parent, daemon=True).start()

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = list(words)
    runpy.run_path(str(HERE / words[0]), run_name="__main__")


class Runner:
    """Works through jobs, `slots` at a time. A job waits for the earlier stages of its study."""

    def __init__(self, jobs, slots):
        self.jobs, self.slots = jobs, slots
        self.todo = [job for job in jobs if not job.done]
        self.running = {}                           # process: (job, time it began)
        self.broken = set()                         # studies with a failed job
        self.took = {}                              # kind of job: seconds of each that has ended
        self.ended = len(jobs) - len(self.todo)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["gan", "classify", "report"])

    def run(self):
        """Returns the number of jobs that failed or could not be started."""
        begun = time.time()
        if self.ended:
            print(f"{self.ended} of {len(self.jobs)} jobs were done before")
        try:
            while self.start_jobs() or self.running:
                sentinels = [process.sentinel for process in self.running]
                multiprocessing.connection.wait(sentinels, timeout=1)
                for process in [one for one in self.running if not one.is_alive()]:
                    self.end_job(process)
                self.show_live()
        finally:
            for process in self.running:            # Ctrl-C: they save and end
                process.terminate()
            for process in self.running:
                process.join()
        for study in sorted(self.broken):
            left = sum(job.study == study for job in self.todo)
            self.say(f"{study}: {left} jobs not started, they need what failed")
        self.say(f"{self.ended} of {len(self.jobs)} jobs are done, {readable_time(time.time() - begun)}")
        return len(self.jobs) - self.ended

    def start_jobs(self):
        """Start what may start. Returns whether anything was started."""
        started = False
        waiting = self.todo + [job for job, _ in self.running.values()]
        for job in list(self.todo):
            earlier = [other for other in waiting if other.study == job.study and other.stage < job.stage]
            if len(self.running) == self.slots or job.study in self.broken or earlier:
                continue
            job.folder.mkdir(parents=True, exist_ok=True)
            process = self.context.Process(target=run_in_child, args=(job.words, job.folder / "log.txt"))
            process.start()
            self.running[process] = job, time.time()
            self.todo.remove(job)
            started = True
        return started

    def end_job(self, process):
        """One line; for a failure its last words and how to run it alone."""
        job, begun = self.running.pop(process)
        seconds = time.time() - begun
        label = f"{job.study}/{job.name}"
        if process.exitcode == 0 and job.done:
            self.ended += 1
            self.took.setdefault(job.kind, []).append(seconds)
            self.say(f"[{self.ended}/{len(self.jobs)}] {label:36}{readable_time(seconds):>7}{self.time_left()}")
            return
        self.broken.add(job.study)
        self.say(f"FAILED after {readable_time(seconds)}: {label} (exit status {process.exitcode})")
        last_words = (job.folder / "log.txt").read_text(errors="replace").splitlines()[-5:]
        for line in last_words:
            print(f"    | {line}")
        print(f"    alone: python {shlex.join(job.words)}\n    log:   {job.folder / 'log.txt'}")

    def progress(self, job):
        """(share done, last line) as the log of a running job says; the share is 0 where nothing is known."""
        try:
            *_, last = (job.folder / "log.txt").read_text(errors="replace").splitlines()
        except (OSError, ValueError):
            return 0.0, ""
        found = re.search(r"  (\d+)/(\d+)  ", last)
        return (int(found[1]) / int(found[2]), last) if found else (0.0, last)

    def time_left(self):
        """", about 4 min left" from what jobs of the same kind took, or will have taken by their own steps."""
        took = {kind: list(seconds) for kind, seconds in self.took.items()}
        left = 0.0
        for job, begun in self.running.values():
            share, elapsed = self.progress(job)[0], time.time() - begun
            if share > 0.02:
                took.setdefault(job.kind, []).append(elapsed / share)
                left -= elapsed
        known = [seconds for values in took.values() for seconds in values]
        if not known:
            return ""
        usual = sum(known) / len(known)
        for job in self.todo + [job for job, _ in self.running.values()]:
            values = took.get(job.kind, [usual])
            left += sum(values) / len(values)
        return f", about {readable_time(max(left, 0) / self.slots)} left"

    def show_live(self):
        """On a terminal: the last line of a running job, written over and over."""
        if not sys.stdout.isatty() or not self.running:
            return
        job, _ = next(iter(self.running.values()))
        line = self.progress(job)[1] or f"{job.study}/{job.name}"
        print(f"\r\033[K[{self.ended}/{len(self.jobs)}] {line}"[:os.get_terminal_size().columns], end="", flush=True)

    def say(self, line):
        erase = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{erase}{line}", flush=True)


def run_command(args):
    """Run the jobs on standard input; refuse a folder that holds results of another scale or data set."""
    out = Path(args.out)
    about = dict(scale=args.scale, data=args.data or "built-in lesions")
    if start_job(out, about):
        raise UserError(f"{out} is a job's folder: give another --out")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    os.environ["PYTHONPATH"] = str(HERE)            # where the forked processes find our modules
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if Runner(read_jobs(sys.stdin, out), args.jobs).run():
        sys.exit(1)


def list_command(args):
    """One line per job: state, seconds, stage, name, command."""
    print("state\tseconds\tstage\tjob\tcommand")
    for job in read_jobs(sys.stdin, args.out):
        state, seconds = "todo", "?"
        if job.folder.exists():
            state = "begun"
        if job.done:
            state, seconds = "done", read_json(job.folder / "result.json").get("seconds", "?")
        command = shlex.join([args.python, *job.words])
        print(f"{state}\t{seconds}\t{job.stage}\t{job.study}/{job.name}\t{command}")


def main():
    parser = Parser(prog="jobs.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run_command), ("list", list_command)):
        command = commands.add_parser(name, description=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--out", required=True, help="results folder")
        command.add_argument("--jobs", type=at_least(1), default=1, help="jobs at once")
        command.add_argument("--scale", default="quick", help="kept beside the results")
        command.add_argument("--data", default="", help="kept beside the results")
        command.add_argument("--python", default="python", help="how `list` writes its commands")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    run_cli(main)
