"""jobs.py: a job is a folder; and the runner that works through a list of jobs.

    bash run_all.sh                                   the usual way: it feeds the runner its list
    python jobs.py run --out results/quick < list     lines STUDY, STAGE, NAME, COMMAND
    python jobs.py list --out results/quick < list    what is done, begun and to do; runs nothing

A job's folder holds config.json (what was asked), checkpoint.pt (how far it is) and result.json
(what came out), which is written last: a job that has one is done. Whatever is cut off goes on when
the same command is given again. The runner needs the standard library alone.
"""
import os
import signal
import sys

# One of our commands imports for seconds. Until run_cli listens, Ctrl-C ends it without a word.
started = os.path.dirname(getattr(sys.modules["__main__"], "__file__", ""))
if (started, signal.getsignal(signal.SIGINT)) == (os.path.dirname(__file__), signal.default_int_handler):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
import argparse
import atexit
import collections
import contextlib
import errno
import fcntl
import io
import json
import math
import multiprocessing
import platform
import re
import resource
import runpy
import shlex
import subprocess
import threading
import time
import zipfile
import zlib
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SAVE_EVERY = 60.0           # seconds between two checkpoints
SPEAK_EVERY = 5.0           # seconds between two lines of progress
LOCKS = {}                  # job folder: its lock file, open until the process ends


# ---- Errors and command lines

class UserError(Exception):
    """Something the user can mend: one line on standard error, exit status 2, no traceback."""


class Parser(argparse.ArgumentParser):
    """argparse whose help is the module's docstring and whose errors end like all bad input."""

    def __init__(self, **options):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=form, allow_abbrev=False, **options)

    def error(self, message):
        raise UserError(f"{message} (see python {self.prog} --help)")


def run_cli(main):
    """Run a command line. What the user can mend ends in one line; Ctrl-C and a closed pipe quietly."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    try:
        main()
        return sys.stdout.flush()                   # not later: a full disk, a closed pipe show here
    except UserError as problem:
        message, status = str(problem), 2
    except OSError as problem:
        if problem.filename is None:
            if problem.errno is None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is closed or full
        message, status = f"cannot use {problem.filename or 'the output'}: {problem.strerror}", 2
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message += ". Nothing finished is lost: free some disk space and start again"
        if problem.errno == errno.EPIPE:            # ... | head
            sys.exit(0)
    except (MemoryError, RuntimeError) as problem:  # torch's own are RuntimeErrors
        if isinstance(problem, RuntimeError) and not re.search("memory|overflow", str(problem)):
            raise
        message, status = f"too little memory for images or networks of that size ({problem})", 2
    except KeyboardInterrupt:
        message, status = "stopped. The same command goes on from the last checkpoint", 130
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def check_memory(n, side):
    """UserError, before and not after hours of work, if n images would not fit twice."""
    if 2 * n * side ** 2 * 3 > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise UserError(f"{n} images of {side} x {side} px are more than fits into the memory")


def at_least(low, kind=int, below=1e12):
    """An argparse type: a finite number that is not below `low`."""
    def parse(text):
        value = kind(text)
        if not low <= value < below:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {below:g}")
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


class Progress:
    """A line on standard error every few seconds: how far, the last losses, how long it still takes."""

    def __init__(self, name, total, start=0):
        self.name, self.total, self.first, self.note = name, total, start, ""
        self.begun = self.spoke = time.time()

    def __call__(self, step):
        now = time.time()
        if now - self.spoke < SPEAK_EVERY:
            return                                  # short work says nothing
        self.spoke = now
        left = (now - self.begun) / max(step - self.first, 1) * (self.total - step)
        words = (self.name, f"{step}/{self.total}", self.note, f"{readable_time(left)} left")
        print("  ".join(words), file=sys.stderr)


# ---- Files that are there whole or not at all

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


def checksum(value):
    return zlib.crc32(json.dumps(value, allow_nan=False).encode())


def write_json(path, value):
    with replacing(path) as file:
        file.write(json.dumps(dict(value, checksum=checksum(value)), indent=1).encode())


def read_json(path):
    """What write_json wrote. UserError if, by its checksum, the file holds something else."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        value = json.loads(Path(path).read_text())
        if value.pop("checksum") == checksum(value):
            return value
    raise UserError(f"{path} is damaged or not ours: remove it; of a job, the whole folder")


def save_state(path, state):
    """torch.save; in memory first, because on a full disk torch does not say that it is full."""
    import torch
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_state(path, device="cpu"):
    """What save_state wrote. torch checks no checksum, but the zip archive in the file has some."""
    import torch
    if not Path(path).exists():
        raise UserError(f"{path} does not exist: train first, with --out {Path(path).parent}; a "
                        "classifier with --keep, a GAN without --forget")
    try:
        if zipfile.ZipFile(path).testzip() is not None:
            raise ValueError("wrong checksum")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as problem:                    # zipfile and torch raise a dozen types
        raise UserError(f"{path} is damaged ({problem}): delete it to train again") from None


@contextlib.contextmanager
def used(path):
    """Where the states in a file are put to use: what fails is the fault of the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        raise UserError(f"{path} is of another job ({problem}): delete it to train again") from None


# ---- A job's folder

def start_job(out, config):
    """Begin, continue or recognise the job in folder `out`. Returns its result if it is done, else None.

    config: what decides the result. UserError, naming each difference, if the folder was begun with
    another one; or if another process is at work in it.
    """
    out = Path(out)
    config = json.loads(json.dumps(config))         # tuples become lists, as in the file
    out.mkdir(parents=True, exist_ok=True)
    LOCKS[out] = open(out / ".lock", "w")
    try:
        fcntl.flock(LOCKS[out], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is at work in {out}: wait, or give a new --out") from None
    for left_over in [*out.glob(".*.tmp"), *out.glob("*/.*.tmp")]:      # by a kill while writing
        left_over.unlink()
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
    result = read_json(out / "result.json")
    if result.get("config") != config:
        raise UserError(f"{out}/result.json is of another job: delete {out} to run this one")
    (out / "checkpoint.pt").unlink(missing_ok=True)         # left by a kill at the end of finish_job
    print(f"{out}: done before, nothing to do")
    return result


def finish_job(out, config, seconds, device, **result):
    """Write result.json, the last act of a job."""
    import torch
    packages = ("torch", "torchvision", "numpy", "scipy", "PIL")
    versions = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    threads = f"OMP_NUM_THREADS={torch.get_num_threads()}"  # another number rounds differently
    memory = dict(memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    name = f"CPU {platform.machine()}"
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory["gpu_memory_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    result = dict(
        config=config, **result, seconds=round(seconds, 1), device=name, **memory, commit=commit(),
        command=shlex.join([threads, "python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions=dict(versions, python=platform.python_version()))
    write_json(Path(out) / "result.json", result)
    (Path(out) / "checkpoint.pt").unlink(missing_ok=True)


def commit():
    """The git commit of this code, "-dirty" if it was changed; "unknown" without git."""
    command = f"git -C {shlex.quote(str(HERE))} describe --always --dirty 2>/dev/null"
    return subprocess.getoutput(command) or "unknown"


# ---- A training: options, device, checkpoints

def add_training_options(parser, recipe, **choices):
    """The options of every training: first its recipe's, {name: (default, its source)}, of `choices`."""
    kinds = {int: at_least(1), float: at_least(0, float), str: str, "size": at_least(8),
             "epochs": at_least(1e-6, float)}
    kinds |= dict.fromkeys(("beta1", "beta2", "average"), at_least(0, float, below=1))
    for name, (value, source) in recipe.items():
        kind = kinds.get(name, kinds[type(value)])
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value,
                            choices=choices.get(name), help=f"{value}: {source}")
    parser.add_argument("--out", required=True, help="folder of this job")
    parser.add_argument("--steps", type=kinds[int], help="(generator) steps, instead of --epochs")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                        help="bf16: autocast of the networks, never of losses, penalties, metrics")
    parser.add_argument("--stop-after", type=kinds[int], metavar="STEP", help="save there and stop")
    add_common_options(parser)


def add_common_options(parser):
    parser.add_argument("--seed", type=at_least(0), default=0, help="of all that is random (default 0)")
    parser.add_argument("--dry-run", action="store_true",
                        help="two steps at full size, few images drawn and tested: what does it cost?")


def start_device(args):
    """The GPU if there is one, with --seed in force. Without: CUDA_VISIBLE_DEVICES= python ..."""
    import torch
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Record(dict):
    """A dictionary that travels with the checkpoint, as networks and optimisers do."""
    state_dict = dict.copy

    def load_state_dict(self, state):
        """TypeError if a value, or one inside a dictionary, is of a type that no training writes."""
        for name, value in state.items():
            inside = set()
            if isinstance(value, dict):
                inside = {type(one) for one in value.values()}
            if type(value) is not type(self.get(name, value)) or inside - {list, float}:
                raise TypeError(f"{name} is of the wrong type")
        self.update(state)


def save_checkpoint(out, parts, **rest):
    """All that a training needs to go on exactly where it is.

    parts: {name: whatever has a state_dict}; rest: step, seconds. Random states are added.
    """
    import torch
    check_finite(out, parts, rest["step"])          # if not, the last good checkpoint stays
    state = dict(rest, parts={name: part.state_dict() for name, part in parts.items()})
    state["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["random_on_gpu"] = torch.cuda.get_rng_state()
    save_state(Path(out) / "checkpoint.pt", state)


def load_checkpoint(out, parts, device, begun):
    """Put the states back into `parts` and the random generators.

    Returns (step, when it would have begun if it had never been cut off).
    """
    import torch
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return 0, begun
    state = load_state(path, device)
    with used(path):
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["random"].cpu())
        if "random_on_gpu" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random_on_gpu"].cpu())
        print(f"{out}: going on from step {state['step']}", file=sys.stderr)
        return int(state["step"]), begun - float(state["seconds"])


def check_finite(out, parts, step, *values):
    """Stop a training that has broken down: a loss or a weight is not a finite number."""
    fine = all(math.isfinite(value) for value in values)
    for part in parts.values():
        if hasattr(part, "parameters"):
            fine = fine and all(weight.isfinite().all() for weight in part.parameters())
    if not fine:
        raise UserError(f"{out}: a loss or a weight is not a finite number by step {step}. "
                        "A smaller --lr may help, in a new folder")


def planned(args, epoch):
    """What a config says of the number of steps, `epoch` in an epoch; --dry-run makes two of them."""
    steps = args.steps or max(1, math.ceil(args.epochs * epoch))
    if args.dry_run:
        return dict(steps=2, dry_run_of=steps)
    return dict(steps=steps)


def measured(step, cost):
    """The function `step`, of which the first call is counted and the second timed, into `cost`.

    gflop: of convolutions and matrix products, there and back; kernels: operations that write.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            cost["kernels"] += not operation.is_view
            if operation.overloadpacket in flop_registry:
                flops = flop_registry[operation.overloadpacket]
                cost["gflop"] += flops(*args, **(kwargs or {}), out_val=result) / 1e9
            return result

    def step_with_cost(*args):
        if "gflop" not in cost:
            cost.update(gflop=0.0, kernels=0)
            with Counter():
                return step(*args)

        begun = time.time()
        values = step(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        cost["step_seconds"] = time.time() - begun
        return values

    return step_with_cost


def steps_to_do(out, parts, begun, first, last, stop_after):
    """Yield the steps first ... last - 1. Saves every minute and, to stop, on Ctrl-C or after a step.

    The signal only sets a mark, so that no step is cut in the middle; a second Ctrl-C does cut.
    """
    stop, saved = threading.Event(), time.time()

    def mark(number, _):
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = [(number, signal.signal(number, mark)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        for step in range(first, last):
            yield step
            asked = step + 1 == stop_after
            if asked or stop.is_set() or time.time() - saved > SAVE_EVERY:
                saved = time.time()
                save_checkpoint(out, parts, step=step + 1, seconds=saved - begun)
            if asked:
                sys.exit()
            if stop.is_set():
                raise KeyboardInterrupt
    finally:
        for number, handler in before:
            signal.signal(number, handler)


# ---- The runner

class Job(NamedTuple):
    study: str
    stage: int              # needs the earlier stages of its study, nothing else
    name: str
    words: list             # what comes after "python": gan.py train ...
    folder: Path

    def is_done(self):
        return (self.folder / "result.json").exists()

    def kind(self):
        """Jobs of one kind take about as long as each other: their names differ in numbers alone."""
        return self.study, re.sub(r"[\d.]+", "", self.name)


def read_jobs(out):
    """[Job, ...] from standard input: STUDY <tab> STAGE <tab> NAME <tab> COMMAND."""
    jobs = []
    for line in sys.stdin:
        study, stage, name, command = line.rstrip("\n").split("\t")
        jobs.append(Job(study, int(stage), name, shlex.split(command), Path(out) / study / name))
    return jobs


def in_child(words, log):
    """What `python gan.py train ...` does, in a process forked from one that has torch already."""
    parent = multiprocessing.parent_process().sentinel

    def die_with_parent():                          # a killed run leaves no job behind
        wait([parent])
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = list(words)
    runpy.run_path(str(HERE / words[0]), run_name="__main__")


def one_of_each_kind(jobs):
    """[(job, how many are of its kind), ...]: the last, which is the largest, of the first seed."""
    numbers = collections.Counter(job.kind() for job in jobs)
    chosen = {}
    for job in jobs:
        if not re.search(r"-s[1-9]\d*$", job.name):
            chosen[job.kind()] = job
    return [(job, numbers[kind]) for kind, job in chosen.items()]


def cost_of(job):
    """{column: number}: what two steps of a job say of all its steps. Hours: of the steps alone.

    An H200's are no measurement: at 25 TFLOP/s in float32, 250 in bfloat16, and 5 us a kernel.
    """
    result = read_json(job.folder / "result.json")
    config, cost = result["config"], collections.Counter(result.get("cost", {}))
    steps = config.get("dry_run_of", 0)
    flops = 25e12
    if config.get("precision") == "bf16":
        flops = 250e12
    h200_step = max(cost["gflop"] * 1e9 / flops, cost["kernels"] * 5e-6)
    files = [file for file in job.folder.rglob("*") if file.is_file()]
    return {
        "steps": steps,
        "s/step": cost["step_seconds"],
        "GFLOP": cost["gflop"],
        "kernels": cost["kernels"],
        "hours": steps * cost["step_seconds"] / 3600,
        "H200 h": steps * h200_step / 3600,
        "disk MB": sum(file.stat().st_size for file in files) / 1e6,
        "RAM GB": result["memory_gb"],
        "GPU GB": result.get("gpu_memory_gb", 0)}


def print_costs(kinds):
    """The table of a dry run; its last line: sums of hours and disk over all jobs, most memory."""
    def line(name, number, values):
        print(f"{name:40}{number:>6}", *(f"{value:>8}" for value in values))

    def short(value):
        if value >= 100:
            return f"{value:,.0f}"
        return f"{value:.3g}"

    rows = [(job, number, cost_of(job)) for job, number in kinds]
    print()
    line("job", "jobs", rows[0][2])
    for job, number, cost in rows:
        line(f"{job.study}/{job.name}", number, map(short, cost.values()))
    total = dict.fromkeys(rows[0][2], "")
    for name in ("hours", "H200 h", "disk MB"):
        total[name] = short(sum(number * cost[name] for _, number, cost in rows))
    for name in ("RAM GB", "GPU GB"):
        total[name] = short(max(cost[name] for _, _, cost in rows))
    line("all jobs, one after another", sum(number for _, number, _ in rows), total.values())


class Runner:
    """Works through jobs, some at once. A failed job keeps the later stages of its study from starting."""

    def __init__(self, jobs, slots):
        self.jobs, self.slots = jobs, slots
        self.todo = [job for job in jobs if not job.is_done()]
        self.running = {}                           # process: (job, when it began)
        self.took = {}                              # kind of job: [seconds of each that has ended]
        self.broken = set()                         # studies with a failed job
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["gan", "classify"])    # as `import gan, classify`
        listening = signal.signal(signal.SIGINT, signal.SIG_IGN)    # its processes inherit this:
        multiprocessing.forkserver.ensure_running()                 # Ctrl-C comes to us, and from
        signal.signal(signal.SIGINT, listening)                     # us to them as "save and end"

    def run(self):
        """Returns how many jobs are not done."""
        begun = time.time()
        if len(self.todo) < len(self.jobs):
            print(f"{len(self.jobs) - len(self.todo)} of {len(self.jobs)} jobs were done before")
        try:
            self.start()
            while self.running:
                wait([process.sentinel for process in self.running])
                for process in [one for one in self.running if not one.is_alive()]:
                    self.end(process)
                self.start()
        finally:
            for process in self.running:            # Ctrl-C: they save and end
                process.terminate()
            for process in self.running:
                process.join()
        done = sum(job.is_done() for job in self.jobs)
        print(f"{done} of {len(self.jobs)} jobs are done, {readable_time(time.time() - begun)}")
        return len(self.jobs) - done

    def start(self):
        """Start what may start."""
        waiting = self.todo + [job for job, _ in self.running.values()]
        for job in list(self.todo):
            earlier = [one for one in waiting if one.study == job.study and one.stage < job.stage]
            if earlier or job.study in self.broken or len(self.running) == self.slots:
                continue
            job.folder.mkdir(parents=True, exist_ok=True)
            process = self.context.Process(target=in_child, args=(job.words, job.folder / "log.txt"))
            process.start()
            self.running[process] = job, time.time()
            self.todo.remove(job)

    def end(self, process):
        """One line; for a failure its last words and how to run it alone."""
        job, begun = self.running.pop(process)
        seconds = time.time() - begun
        label = f"{job.study}/{job.name}"
        if process.exitcode == 0 and job.is_done():
            self.took.setdefault(job.kind(), []).append(seconds)
            ended = len(self.jobs) - len(self.todo) - len(self.running)
            line = f"[{ended}/{len(self.jobs)}] {label:36}{readable_time(seconds):>7}"
            if len(sum(self.took.values(), [])) >= 5:           # fewer tell nothing of the rest
                line += f", about {readable_time(self.time_left())} left"
            print(line, flush=True)
            return
        self.broken.add(job.study)
        print(f"FAILED after {readable_time(seconds)}: {label}; the rest of {job.study} waits for it")
        for line in (job.folder / "log.txt").read_text(errors="replace").splitlines()[-5:]:
            print(f"    | {line}")
        print(f"    alone: python {shlex.join(job.words)}", flush=True)

    def time_left(self):
        """Seconds, by what jobs of the same kind took in this run; of an unknown kind, by all jobs."""
        known = sum(self.took.values(), [])
        left = sum(began - time.time() for _, began in self.running.values())
        for job in self.todo + [job for job, _ in self.running.values()]:
            alike = self.took.get(job.kind(), known)
            left += sum(alike) / len(alike)
        return max(left, 0) / self.slots


def run_command(args):
    """Run the jobs on standard input. Refuses a folder with results of another scale or data set."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // args.jobs))
    os.environ["PYTHONPATH"] = str(HERE)            # where the forked processes find our modules
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start_job(args.out, dict(scale=args.scale, data=args.data or "drawn lesions"))
    todo = read_jobs(args.out)
    if args.dry_run:
        kinds = one_of_each_kind(todo)
        todo = [job for job, _ in kinds]
    missing = Runner(todo, args.jobs).run()
    if args.dry_run and missing < len(todo):
        print_costs([kind for kind in kinds if kind[0].is_done()])
    if missing:
        sys.exit(1)


def list_command(args):
    """One line per job: state, stage, name, command."""
    print("state\tstage\tjob\tcommand")
    for job in read_jobs(args.out):
        state = "begun" if job.folder.exists() else "todo"
        if job.is_done():
            state = "done"
        command = shlex.join([args.python, *job.words])
        print(f"{state}\t{job.stage}\t{job.study}/{job.name}\t{command}")


def main():
    parser = Parser(prog="jobs.py", description=__doc__)
    parser.add_argument("command", choices=("run", "list"))
    parser.add_argument("--out", required=True, help="results folder")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="jobs at once")
    parser.add_argument("--scale", default="quick", help="kept beside the results")
    parser.add_argument("--data", default="", help="kept beside the results")
    parser.add_argument("--dry-run", action="store_true", help="one job of each kind, then the costs")
    parser.add_argument("--python", default="python", help="how `list` writes its commands")
    args = parser.parse_args()
    if args.command == "run":
        run_command(args)
    else:
        list_command(args)


if __name__ == "__main__":
    run_cli(main)
