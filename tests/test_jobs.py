"""A job's folder tells the truth, whatever cut it off; the runner does each job once."""
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT

import jobs
from jobs import UserError


@pytest.mark.parametrize("problem, status, said", [
    (UserError("mend\n  it"), 2, "x.py: mend it\n"),
    (BrokenPipeError(), 0, ""),
    (KeyboardInterrupt(), 130, "goes on from the last checkpoint"),
    (PermissionError(13, "Denied", "f"), 2, "Denied: 'f'. Nothing finished is lost"),
    (MemoryError(), 2, "use less memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "use less memory")])
def test_what_can_be_mended_ends_in_one_line(monkeypatch, capsys, problem, status, said):
    monkeypatch.setattr(sys, "argv", ["/a/x.py"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    end = pytest.raises(SystemExit, jobs.run_cli, Mock(side_effect=problem))
    assert end.value.code == status and said in capsys.readouterr().err
    pytest.raises(RuntimeError, jobs.run_cli, Mock(side_effect=RuntimeError("a mistake of ours")))
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))
    pytest.raises(SystemExit, jobs.run_cli, lambda: print("more than fits"))
    assert "No space left" in capsys.readouterr().err


def test_options_config_progress_and_cost_of_a_training(monkeypatch, capsys):
    parser = jobs.Parser()
    recipe = dict(z_dim=(5, ""), beta1=(.5, ""), size=(9, ""), epochs=(2.0, ""))
    jobs.add_training_options(parser, recipe, size=(9, 16))
    wrong = ("--z-dim 0|--z-dim 1.5|--beta1 1|--beta1 -.1|--beta1 nan|--size 10|--epochs 0|--see 1|"
             "--steps 0|--steps 1000000000000|--share 0|--share 5/4|--share 1/0|--share x")
    for words in wrong.split("|"):
        pytest.raises(UserError, parser.parse_args, ["--out", "x", *words.split()]).match("--help")
    for words, steps in (("", dict(steps=5)), ("--steps 7", dict(steps=7)),
                         ("--dry-run", dict(steps=2, dry_run_of=5))):
        args = parser.parse_args(f"--out x --z-dim 1 --share 2/8 {words}".split())
        config = jobs.config_of(args, ["share", "top"], recipe, 2.2)
        assert config == dict(share="1/4", top=None, z_dim=1, beta1=.5, size=9) | steps
    assert (args.seed, args.precision, args.forget, args.stop_after) == (0, "float32", False, None)
    jobs.start_device(SimpleNamespace(seed=7))
    assert torch.initial_seed() == 7 and torch.backends.cudnn.deterministic

    tick = iter([0, 60, 64, 120, 0, 10, 20, 23]).__next__
    monkeypatch.setattr(jobs, "time", SimpleNamespace(time=tick, perf_counter=tick))
    progress = jobs.Progress("job", 10, 2)                  # of 10 steps 2 were done before
    for step in (4, 5, 6):
        progress(step)
    assert capsys.readouterr().err == "job 4/10  3.0 min left\njob 6/10  2.0 min left\n"
    step, cost = jobs.timed(lambda a, b: a + b, args)       # the last are of a dry run
    assert (step(1, 2), step(3, 4), cost) == (3, 7, dict(step_seconds=3))


def test_a_half_written_or_foreign_file_never_takes_the_place_of_a_whole_one(tmp_path):
    file = tmp_path / "a.json"
    jobs.write_json(file, dict(old=1))
    pytest.raises(ValueError, jobs.write_json, file, dict(new=float("nan")))
    with pytest.raises(OSError, match="full: '.*a.json"), jobs.replacing(file) as half:
        half.write(b"{")
        assert jobs.read_json(file) == dict(old=1)                  # until it is complete
        raise OSError(28, "full")
    assert jobs.read_json(file) == dict(old=1) and list(tmp_path.iterdir()) == [file]
    for text in (b"[1]", b"{", b"\xff", b"[" * 100000):
        file.write_bytes(text)
        pytest.raises(UserError, jobs.read_json, file).match(f"{file} cannot be used")
    jobs.write_json(tmp_path / "config.json", dict(model="vae"))
    pytest.raises(UserError, jobs.load_run, tmp_path, ["cnn", "mlp"]).match("not one of cnn, mlp")


def test_a_job_is_done_once_continued_or_refused_by_naming_each_difference(tmp_path, monkeypatch):
    out, config = tmp_path / "job", dict(lr=1, sizes=(2, 3))
    assert [jobs.start_job(out, config) for _ in range(2)] == [None, None]
    changed = pytest.raises(UserError, jobs.start_job, out, dict(lr=2, n=5))
    changed.match(r": lr 1 -> 2; n None -> 5; sizes \[2, 3\] -> None\.")
    with open(out / ".lock") as ours, pytest.raises(BlockingIOError):     # held until the end
        fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
    jobs.LOCKS.clear()                                  # as if the process had ended
    with open(out / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        pytest.raises(UserError, jobs.start_job, out, config).match("another process is at work")
    (out / "snapshots").mkdir()
    monkeypatch.setattr(sys, "argv", ["/a/gan.py", "train", "a b"])
    jobs.finish_job(out, config, 1.23, "cpu", n=4)
    for file in (".images.npy.77.tmp", "snapshots/.a.tmp", "checkpoint.pt"):
        (out / file).write_text("left by a kill")
    result = jobs.start_job(out, config)
    files = sorted(file.name for file in out.rglob("*") if file.is_file())
    assert files == [".lock", "config.json", "result.json"]
    assert result | dict(config=dict(lr=1, sizes=[2, 3]), n=4, seconds=1.2) == result
    assert result["command"] == "OMP_NUM_THREADS=1 python gan.py train 'a b'"
    assert result["versions"]["torch"] and result["commit"] and result["memory_gb"] > 0.01


def test_all_of_a_job_is_there_before_it_counts(monkeypatch, tmp_path, prepared, done):
    def write_json(path, value, write=jobs.write_json):
        there[path.parent.name, path.name] = {file.name for file in path.parent.iterdir()}
        write(path, value)

    there, tiny = {}, ["--data", prepared, "--steps", 2, "--batch", 8, "--out"]
    monkeypatch.setattr(jobs, "write_json", write_json)
    monkeypatch.setattr(jobs, "SAVE_EVERY", -1)
    done("gan", "train", "plain_gan", "--width", 5, *tiny, tmp_path / "gan")
    done("classify", "train", "cnn", *tiny, tmp_path / "cnn")
    assert there["gan", "result.json"] >= {"checkpoint.pt", "model.pt", "samples.npy", "grid.png"}
    assert there["cnn", "result.json"] >= {"checkpoint.pt", "model.pt", "predictions.csv"}


def parts_of(seed):
    torch.manual_seed(seed)
    record = jobs.Record(curves=dict(loss=[seed]))
    return dict(net=torch.nn.Linear(2, 2), record=record, last=torch.nn.Linear(1, 1))


def test_a_checkpoint_holds_all_and_a_broken_state_never_takes_its_place(tmp_path):
    parts, file = parts_of(1), tmp_path / "checkpoint.pt"
    weights, drawn = parts["net"].weight.tolist(), torch.get_rng_state()
    assert jobs.load_checkpoint(tmp_path, parts, "cpu", 5.0) == (0, 5.0)
    jobs.save_checkpoint(tmp_path, parts, step=3, seconds=10.0)
    parts["net"].weight.data[0, 0] = float("nan")
    broken = pytest.raises(UserError, jobs.save_checkpoint, tmp_path, parts, step=4, seconds=11)
    broken.match("number at step 4")
    point = parts["record"], tmp_path, 6, dict(loss=float("inf"))
    pytest.raises(UserError, jobs.add_point, *point).match("number at step 6")
    assert jobs.add_point(parts["record"], tmp_path, 7, dict(loss=.5)) == "loss 0.50"
    assert parts["record"] == dict(curves=dict(loss=[1, 0.5]), recent=[])
    other = parts_of(2)
    assert jobs.load_checkpoint(tmp_path, other, "cpu", 100.0) == (3, 90.0)
    assert other["net"].weight.tolist() == weights and torch.equal(torch.get_rng_state(), drawn)
    assert other["record"] == dict(curves=dict(loss=[1]))
    for wrong in ({}, other | dict(net=torch.nn.Linear(3, 2))):
        damaged = pytest.raises(UserError, jobs.load_checkpoint, tmp_path, wrong, "cpu", 1)
        damaged.match(f"{file} cannot be used")
    one = torch.tensor(weights[0][:1]).numpy().tobytes()
    file.write_bytes(file.read_bytes().replace(one, b"1234"))
    damaged = pytest.raises(UserError, jobs.load_checkpoint, tmp_path, other, "cpu", 1)
    damaged.match("wrong checksum")


@pytest.mark.parametrize("sent", [None, signal.SIGINT, signal.SIGTERM])
def test_a_training_saves_what_it_has_done_and_stops_where_it_is_asked(tmp_path, monkeypatch, sent):
    done, saved, parts = [], [], parts_of(1)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        for step in jobs.steps_to_do(tmp_path, parts, time.time() - 50, 2, 9, None if sent else 5):
            done.append(step)
            if sent and step == 4:
                os.kill(os.getpid(), sent)
    state = torch.load(tmp_path / "checkpoint.pt")
    assert done == [2, 3, 4] and state["step"] == 5 and state["seconds"] >= 50
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert before == after and after[0] != signal.SIG_DFL
    monkeypatch.setattr(jobs, "save_checkpoint", lambda *_, step, seconds: saved.append(step))
    for every in (1e9, -1):
        monkeypatch.setattr(jobs, "SAVE_EVERY", every)
        assert list(jobs.steps_to_do(tmp_path, parts, 0, 0, 3, None)) == [0, 1, 2]
    parts["net"].weight.data[0, 0] = float("nan")
    steps = jobs.steps_to_do(tmp_path, parts, 0, 9, 9, None)
    pytest.raises(UserError, list, steps).match("at step 9")
    assert saved == [1, 2, 3]


LESIONS = "data.py prepare --built-in 120 --size 16 --binary"
JOB = """import pathlib, sys, time
out = pathlib.Path(sys.argv[-1])
order = open(out.parent.parent / "order", "a+", buffering=1)
order.write(f"{out.parent.name}/{out.name}\\n")
while order.seek(0) or len(order.readlines()) < 2:          # until another one is at work
    time.sleep(0.1)
time.sleep(1 + (out.parent.name == "b"))
order.write("end\\n")
if out.name == "bad" and "--good" not in sys.argv:
    sys.exit("1\\n2\\n3\\n4\\n5\\nit is broken")
(out / "result.json").write_text("{}")
"""


def start_runner(out, rows, *words):
    """The runner at work on rows of (study, stage, name, command)."""
    process = subprocess.Popen(
        [sys.executable, "jobs.py", "--out", out, "--jobs", "2", *words], text=True, cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for study, stage, name, command in rows:
        process.stdin.write(f"{study}\t{stage}\t{name}\t{command} --out {out}/{study}/{name}\n")
    return process


def test_the_runner_runs_two_at_once_by_stages_goes_on_and_names_what_failed(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    names = [*zip("aaaabb", "122312", "data bad other late data more".split())]
    process = start_runner(tmp_path, [(*name, tmp_path / "job.py") for name in names])
    said = process.communicate()[0]
    order = (tmp_path / "order").read_text().split()
    assert max(k - 2 * order[:k].count("end") for k in range(len(order))) == 2      # at work
    begun = [job for job in order if job != "end"]
    assert sorted(begun[:2]) == ["a/data", "b/data"], said
    assert sorted(begun[2:]) == ["a/bad", "a/other", "b/more"]      # a/late needs all before it
    assert process.returncode == 1 and "4 of 6 jobs are done" in said
    assert said.count("FAILED") == said.count("it is broken") == 1
    assert re.findall(r"jobs (\d)/6 ./\w+ .* min left", said) == [*"12345"]
    good = [(*name, f"{tmp_path}/job.py --good") for name in names]
    assert "6 of 6 jobs are done" in start_runner(tmp_path, good).communicate()[0]
    assert (tmp_path / "order").read_text().split()[10:] == ["a/bad", "end", "a/late", "end"]
    assert "it is broken" in (tmp_path / "a/bad/log.txt").read_text()       # a log only grows


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_run_leaves_no_job_behind_and_saves_if_it_can(tmp_path, prepared, kind):
    job = tmp_path / "a" / "gan"
    train = f"gan.py train dcgan_cls --data {prepared} --width 4 --batch 8 --steps 4000"
    process = start_runner(tmp_path, [("a", 1, "gan", train), ("a", 2, "late", LESIONS)])
    process.stdin.close()
    while not (job / "log.txt").exists() or "/4000" not in (job / "log.txt").read_text():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(kind)
    process.wait()
    with open(job / ".lock") as lock:                   # free as soon as nobody works there
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert not (job / "result.json").exists() and not (tmp_path / "a" / "late").exists()
    if kind == signal.SIGINT:
        assert process.returncode == 130 and 0 < torch.load(job / "checkpoint.pt")["step"] < 4000
        assert "stopped. The same command goes on" in (job / "log.txt").read_text()


def test_a_dry_run_makes_the_last_of_each_kind_and_what_it_needs(tmp_path, refused):
    train = f"classify.py train cnn --data {tmp_path}/study/data --batch 8 --dry-run --steps"
    rows = [("study", 1, "data", LESIONS), ("study", 1, "other", LESIONS),
            ("study", 2, "a", f"{train} 1"), ("study", 2, "b", f"{train} 720000")]
    said = start_runner(tmp_path, rows, "--dry-run").communicate()[0]
    assert {job.name for job in (tmp_path / "study").iterdir()} == {"data", "other", "b"}, said
    job = tmp_path / "study" / "b"
    result = jobs.read_json(job / "result.json")
    assert result["command"].startswith(f"OMP_NUM_THREADS={max(1, os.cpu_count() // 2)} python")
    seconds = result["cost"]["step_seconds"]
    disk, of_data = [sum(file.stat().st_size for file in folder.iterdir()) / 1e9
                     for folder in (job, job.with_name("other"))]
    for words in (f"   2 x study/b: {seconds:.3g} s a step, {200 * seconds:.3g} h, GB: RAM",
                  f"disk {disk:.3g}\n", f"one after another: {400 * seconds:.3g} h, "
                  f"{2 * disk + 2 * of_data:.3g} GB of disk"):
        assert words in said
    refused(["data 'drawn lesions' -> 'x'; scale 'quick' -> 'small'"], "jobs", "--out", tmp_path,
            "--scale", "small", "--data", "x")
