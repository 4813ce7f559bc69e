"""jobs.py: a job is a folder; and the runner: python jobs.py --out FOLDER < list of jobs.

A job's folder holds config.json (what was asked), checkpoint.pt (how far it is) and result.json
(what came out; written last). What was cut off goes on when the same command is given again.
"""
import argparse
import collections
import contextlib
import fcntl
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import resource
import runpy
import shlex
import signal
import sys
import threading
import time
import zipfile
from fractions import Fraction
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SAVE_EVERY = 60.0           # seconds between two checkpoints
LOCKS = {}                  # job folder: its lock file, open until the process ends


# ---- Errors and command lines

class UserError(Exception):
    """Something the user can mend: one line on standard error, exit status 2, no traceback."""


class Parser(argparse.ArgumentParser):
    """argparse whose help is the module's docstring and whose errors end like all bad input."""
    def __init__(self, **options):
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        raise UserError(f"{message} (see python {self.prog} --help)")


def run_cli(main):
    """Run a command line. What the user can mend ends in one line, a closed pipe without a word."""
    status = 2
    try:
        main()
        return sys.stdout.flush()                   # a full disk, a closed pipe show here
    except BrokenPipeError:                         # ... | head
        os._exit(0)
    except KeyboardInterrupt:
        message, status = "stopped. The same command goes on from the last checkpoint", 130
    except UserError as problem:
        message = str(problem)
    except (OSError, MemoryError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "memory" not in str(problem):
            raise                                   # torch lacks memory by RuntimeErrors
        message = f"{problem}. Nothing finished is lost: mend that or use less memory, start again"
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)                # of a full output sys.exit would speak once more


def at_least(low, kind=int, below=1e12):
    """An argparse type: a finite number that is not below `low`."""
    def parse(text):
        with contextlib.suppress(ValueError, ZeroDivisionError):
            if low <= kind(text) < below:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text} is no {kind.__name__} from {low} to {below:g}")
    return parse


fraction = at_least(1e-12, Fraction, below=1 + 1e-12)       # 1/4, 0.25 or 2000/24000, exactly


class Progress:
    """A line on standard error every few seconds: how far, a note, time left."""
    def __init__(self, name, total, start=0, every=5):
        self.name, self.end, self.first, self.every, self.note = name, total, start, every, ""
        self.begun = self.spoke = time.time()

    def __call__(self, step):
        now = time.time()
        if now - self.spoke >= self.every:          # short work says nothing
            self.spoke = now
            left = (now - self.begun) / (step - self.first) * (self.end - step) / 60
            print(f"{self.name} {step}/{self.end} {self.note} {left:.1f} min left", file=sys.stderr)


# ---- Files that are there whole or not at all, and a job's folder of them

@contextlib.contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` when it is complete and on the disk."""
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


@contextlib.contextmanager
def used(path):
    """Where a file is read and put to use: what fails is the fault of the file."""
    try:
        yield
    except Exception as problem:                    # json, zipfile and torch raise a dozen types
        raise UserError(f"{path} cannot be used ({problem}): mend it, or delete its folder and run "
                        "that job again, without --forget") from None


def write_json(path, value):
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1, allow_nan=False).encode())


def read_json(path):
    with used(path):
        return dict(json.loads(Path(path).read_text()))


def save_state(path, state):
    """torch.save; in memory first, because on a full disk torch does not say that it is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_state(path, device="cpu"):
    """What save_state wrote. torch checks no checksum, but the zip archive in the file has some."""
    with used(path):
        if zipfile.ZipFile(path).testzip() is not None:
            raise ValueError("wrong checksum")
        return torch.load(path, map_location=device, weights_only=True)


def start_job(out, config):
    """Begin, continue or recognise the job in folder `out`: its result if it is done, else None.
    UserError, naming each difference, if it was begun with another config; or if it is at work."""
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
    before, result = read_json(out / "config.json"), None
    if (out / "result.json").exists():
        result = read_json(out / "result.json")
    changed = [f"{key} {before.get(key)!r} -> {config.get(key)!r}"
               for key in sorted(before | config) if before.get(key) != config.get(key)]
    if changed:
        raise UserError(f"{out} was begun with other options: {'; '.join(changed)}. Give the old "
                        "ones or another --out, or delete the folder")
    if result:
        (out / "checkpoint.pt").unlink(missing_ok=True)         # left by a kill in finish_job
        print(f"{out}: done before, nothing to do")
    return result


def finish_job(out, config, seconds, device, **result):
    """Write result.json, the last act of a job."""
    packages = "torch", "torchvision", "numpy", "scipy", "pillow"
    versions = {name: importlib.metadata.version(name) for name in packages}
    threads = f"OMP_NUM_THREADS={torch.get_num_threads()}"  # another number rounds differently
    commit = f"git -C {shlex.quote(str(HERE))} describe --always --dirty 2>/dev/null"
    processor = f"CPU {os.uname().machine}"
    if torch.device(device).type == "cuda":
        processor = torch.cuda.get_device_name(device)
    write_json(Path(out) / "result.json", dict(
        config=config, **result, seconds=round(seconds, 1), device=processor,
        memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        gpu_memory_gb=torch.cuda.max_memory_reserved() / 1e9,
        versions=dict(versions, torch=torch.__version__, python=sys.version.split()[0]),
        commit=os.popen(commit).read().strip() or "unknown",
        command=shlex.join([threads, "python", Path(sys.argv[0]).name, *sys.argv[1:]])))
    (Path(out) / "checkpoint.pt").unlink(missing_ok=True)


# ---- A training: options, device, checkpoints

def add_training_options(parser, recipe, **choices):
    """The options of every training. recipe: {name: (default, its source)}; choices: of a name."""
    kinds = {int: at_least(1), float: at_least(0, float), str: str, "epochs": at_least(1e-6, float)}
    kinds |= dict.fromkeys(("beta1", "beta2", "average"), at_least(0, float, below=1))
    for name, (value, source) in recipe.items():
        kind = kinds.get(name, kinds[type(value)])
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value,
                            choices=choices.get(name), help=f"{value}: {source}")
    parser.add_argument("--out", required=True, help="folder of this job")
    parser.add_argument("--forget", action="store_true", help="keep no weights in it")
    parser.add_argument("--share", type=fraction, default=Fraction(1), help="1/4, say, by lesion")
    parser.add_argument("--steps", type=kinds[int], help="(generator) steps, instead of --epochs")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                        help="bf16: autocast of the networks, not of losses, norms, metrics")
    parser.add_argument("--stop-after", type=kinds[int], metavar="STEP", help="save there and stop")
    add_common_options(parser)


def add_common_options(parser):
    parser.add_argument("--seed", type=at_least(0), default=0, help="of all that is random (0)")
    parser.add_argument("--dry-run", action="store_true", help="two steps at full size: the cost?")


def start_device(args):
    """The GPU if there is one, with --seed in force. Without: CUDA_VISIBLE_DEVICES= python ..."""
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.deterministic = True       # the same numbers again; as fast, on an H200
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Record(dict):
    """A dictionary with the two methods by which checkpoints know networks and optimisers."""
    state_dict, load_state_dict = dict.copy, dict.update


def save_checkpoint(out, parts, **rest):
    """All that a training needs to go on: what of its fields has a state, and its times."""
    check_finite(out, parts, rest["step"])          # if not, the last good checkpoint stays
    states = {key: part.state_dict() for key, part in parts.items() if hasattr(part, "state_dict")}
    random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]       # of each GPU
    save_state(Path(out) / "checkpoint.pt", dict(rest, parts=states, random=random))


def load_checkpoint(out, parts, device, begun):
    """Put the states back. Returns (step, when it would have begun, had it never been cut off)."""
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return 0, begun
    state = load_state(path, device)
    with used(path):
        for name, saved in state["parts"].items():
            parts[name].load_state_dict(saved)
        of_cpu, *of_gpus = [one.cpu() for one in state["random"]]
        torch.set_rng_state(of_cpu)
        torch.cuda.set_rng_state_all(of_gpus)
        print(f"{out}: going on from step {state['step']}", file=sys.stderr)
        return int(state["step"]), begun - float(state["seconds"])


def check_finite(out, parts, step, *values):
    """UserError if a training has broken down: a loss or a weight is not a finite number."""
    nets = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    finite = [weight.isfinite().all() for weight in torch.nn.ModuleList(nets).parameters()]
    if not all(finite) or not all(map(math.isfinite, values)):
        raise UserError(f"{out}: loss or weight is not a finite number at step {step}: lower --lr")


def config_of(args, names, recipe, epoch_steps):
    """What the options say of a result: these names, and the recipe with steps for its epochs."""
    config = {name: getattr(args, name, None) for name in [*names, *recipe] if "epochs" not in name}
    config |= {name: str(value) for name, value in config.items() if isinstance(value, Fraction)}
    config["steps"] = args.steps or max(1, math.ceil(args.epochs * epoch_steps))
    if args.dry_run:
        config |= dict(steps=2, dry_run_of=config["steps"])
    return config


def timed(step, args):
    """(step, {}); in a dry run the step leaves the seconds of its last call in the dictionary."""
    cost = {}
    def timed_step(*inputs):
        begun = time.perf_counter()
        values = step(*inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        cost["step_seconds"] = time.perf_counter() - begun
        return values
    return (timed_step if args.dry_run else step), cost


def steps_to_do(out, parts, begun, first, last, stop_after):
    """Yield first ... last - 1. Saves every minute, and on Ctrl-C or --stop-after, to end there."""
    stop, saved = threading.Event(), time.time()
    signals = signal.SIGINT, signal.SIGTERM         # they wait: no step is cut in the middle
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        for step in range(first, last):
            yield step
            if step + 1 == stop_after:
                stop.set()
            if stop.is_set() or time.time() - saved > SAVE_EVERY:
                saved = time.time()
                save_checkpoint(out, parts, step=step + 1, seconds=saved - begun)
            if stop.is_set():
                raise KeyboardInterrupt
        check_finite(out, parts, last)
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


def add_point(record, out, step, point):
    """Add {name: number} to the curves in `record`. Returns it as text. UserError: not finite."""
    check_finite(out, {}, step, *point.values())
    for name, value in point.items():
        record["curves"].setdefault(name, []).append(value)
    record["recent"] = []                           # what came since the last point is used up
    return "  ".join(f"{name} {value:.2f}" for name, value in point.items())


def load_run(run, known):
    """(weights, config) of a finished training whose model is among the known ones."""
    config = read_json(Path(run) / "config.json")
    if config.get("model") not in known:
        raise UserError(f"{run} is not one of {', '.join(known)}")
    return load_state(Path(run) / "model.pt"), config


# ---- The runner

Job = collections.namedtuple("Job", "study stage name words result")    # words: after "python"


def in_child(job):
    """What `python gan.py train ...` does, in a process forked from one that has torch already."""
    def die_with_parent():                          # a killed run leaves no job behind
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = open(job.result.with_name("log.txt"), "a", buffering=1)
    sys.argv = job.words
    runpy.run_path(str(HERE / job.words[0]), run_name="__main__")


def run_jobs(jobs, slots):
    """Do the jobs, `slots` at once, a study's stages in turn. Returns how many are left undone."""
    os.environ.update(OMP_NUM_THREADS=str(max(1, os.cpu_count() // slots)), PYTHONPATH=str(HERE))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan", "classify"])     # as `import gan, classify`
    todo = [job for job in jobs if not job.result.exists()]
    running, progress = {}, Progress("jobs", len(todo), every=0)
    try:
        while True:
            undone = [job for job in jobs if not job.result.exists()]
            stages = {job.study: job.stage for job in reversed(undone)}     # a study's earliest
            ready = [job for job in todo if job.stage == stages.get(job.study)]
            for job in ready[:slots - len(running)]:
                todo.remove(job)
                job.result.parent.mkdir(parents=True, exist_ok=True)
                child = context.Process(target=in_child, args=(job,))
                child.start()
                running[child.sentinel] = child, job
            if not running:                         # done, or what is left needs a job that failed
                break
            for sentinel in multiprocessing.connection.wait(list(running)):
                child, job = running.pop(sentinel)
                child.join()
                progress.note = f"{job.study}/{job.name}"
                progress(progress.end - len(todo) - len(running))
                if not job.result.exists():
                    log = job.result.with_name("log.txt").read_text(errors="replace").splitlines()
                    print("FAILED, so later stages wait:", *log[-5:], sep="\n    ", flush=True)
    finally:                                        # Ctrl-C: what runs saves and ends
        for child in multiprocessing.active_children():
            child.terminate()
        for child in multiprocessing.active_children():
            child.join()
    print(f"{len(jobs) - len(undone)} of {len(jobs)} jobs are done")
    return len(undone)


def dry_run(jobs, slots):
    """Run the last job of each kind, and those whose folders it names; say what all would cost."""
    kinds = [(job.study, job.stage, *job.words[:3]) for job in jobs]    # gan.py, train, acgan
    last = dict(zip(kinds, jobs))
    needed = list(last.values())
    for job in needed:                              # which grows meanwhile
        needed += [one for one in jobs if str(one.result.parent) in job.words and one not in needed]
    missing = run_jobs([job for job in jobs if job in needed], slots)

    all_hours = all_disk = 0
    for kind, job in last.items():
        if job.result.exists():
            result, number = read_json(job.result), kinds.count(kind)
            seconds = result.get("cost", {}).get("step_seconds", 0)
            hours = result["config"].get("dry_run_of", 0) * seconds / 3600
            disk = sum(file.stat().st_size for file in job.result.parent.rglob("*")) / 1e9
            memory = "GB: RAM {memory_gb:.1f}, GPU {gpu_memory_gb:.1f}".format(**result)
            print(f"{number:4} x {job.study}/{job.name}: {seconds:.3g} s a step, {hours:.3g} h, "
                  f"{memory}, disk {disk:.3g}")
            all_hours, all_disk = all_hours + number * hours, all_disk + number * disk
    print(f"all {len(jobs)} jobs, one after another: {all_hours:.3g} h, {all_disk:.3g} GB of disk")
    return missing


def main():
    parser = Parser(prog="jobs.py", description=__doc__)
    parser.add_argument("--out", required=True, help="results folder")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="jobs at once")
    parser.add_argument("--scale", default="quick", help="kept beside the results")
    parser.add_argument("--data", default="drawn lesions", help="kept beside the results")
    parser.add_argument("--dry-run", action="store_true", help="one job of each kind, then costs")
    args = parser.parse_args()
    start_job(args.out, dict(scale=args.scale, data=args.data))     # refused if of another scale
    jobs = []
    for line in sys.stdin:                          # STUDY <tab> STAGE <tab> NAME <tab> COMMAND
        study, stage, name, command = line.rstrip("\n").split("\t")
        result = Path(args.out, study, name, "result.json")
        jobs.append(Job(study, int(stage), name, shlex.split(command), result))
    function = dry_run if args.dry_run else run_jobs
    sys.exit(function(jobs, args.jobs) > 0)


if __name__ == "__main__":
    run_cli(main)
