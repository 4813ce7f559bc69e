"""The list is sound, the runner runs each job once and goes on, the report shows what is there and no more."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import jobs
import report


def bash(*words, **options):
    options = dict(capture_output=True, text=True, cwd=ROOT) | options
    return subprocess.run(["bash", "run_all.sh", *map(str, words)], **options)


def listed(*words):
    """[(stage, STUDY/NAME, words of the command), ...]"""
    lines = bash("list", *words).stdout.splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(int(stage), name, command.split()) for _, stage, name, command in rows]


# ---- The list

@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_job_has_a_name_of_its_own_and_needs_earlier_jobs_alone(scale, tmp_path):
    jobs_of = listed("--scale", scale, "--out", tmp_path)
    stages = {name: stage for stage, name, _ in jobs_of}
    assert len(stages) == len(jobs_of) > 150
    for stage, name, command in jobs_of:
        needed = [word for word in command if word.startswith(str(tmp_path)) and not word.endswith(name)]
        for word in needed:
            other = word.removeprefix(f"{tmp_path}/")
            assert stages[other] < stage and other.split("/")[0] == name.split("/")[0], (name, other)


def test_the_paper_scale_runs_the_recipes_as_they_stand():
    """No width, batch, rate or z of a GAN is given at paper scale, but for the arms that vary them."""
    arms = ("batch100", "lr1e3", "sgd_high")
    for _, name, command in listed("--scale", "paper", "--data", "/tmp"):
        if command[1] == "gan.py" and not name.endswith(arms) and not name.startswith("controls"):
            assert not {"--width", "--batch", "--lr", "--z-dim"} & set(command), name


def test_pairs_of_the_controls_differ_in_what_is_added_alone():
    commands = {name: command for _, name, command in listed("--scale", "small")}
    real = commands["controls/cnn_50_real-s2"][:-2]
    for arm in ("classical", "copies", "wgan_gp", "wgan_gp_shuffled", "dermagan_alone"):
        other = commands[f"controls/cnn_50_{arm}-s2"][:-2]
        added = [word for word in other if word not in real]
        assert [word for word in other if word in real] == real and added
    assert commands["controls/cnn_100_real-s0"][7] == "0.5" and commands["controls/cnn_50_real-s0"][7] == "0.25"


def test_weights_none_reaches_every_network_that_is_pretrained_otherwise():
    for _, name, command in listed("--scale", "paper", "--weights", "none"):
        if command[1:3] == ["classify.py", "train"] and command[3] not in ("cnn", "mobilenet", "resnet18", "trunk",
                                                                             "derma_cnn"):
            assert "none" in command, name


@pytest.mark.parametrize("words, said", [
    (["--scale", "huge"], "huge"), (["nonsense"], "nonsense"), (["--seeds", "0"], "--seeds"),
    (["--data", "/nowhere"], "/nowhere"), (["--weights", "some"], "some"), (["--out"], "--out needs a value")])
def test_bad_options_end_in_one_line(words, said):
    found = bash("list", *words)
    assert found.returncode == 2 and said in found.stderr and found.stderr.startswith(("run_all.sh", "realpath"))


def test_photographs_are_found_from_any_folder_and_with_odd_names(tmp_path):
    photos = tmp_path / "my $(echo) 'photos'"
    (photos / "benign").mkdir(parents=True)
    (photos / "malignant").mkdir()
    found = subprocess.run(["bash", str(ROOT / "run_all.sh"), "list", "--data", photos.name, "wgan_gp"],
                           capture_output=True, text=True, cwd=tmp_path)
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    prepare = next(shlex.split(row[3]) for row in rows if row[2] == "wgan_gp/data")
    assert prepare[prepare.index("prepare") + 1] == str(photos)


# ---- The runner

def lines(tmp_path, *rows):
    return "".join(f"{study}\t{stage}\t{name}\t{command} --out {tmp_path}/{study}/{name}\n"
                   for study, stage, name, command in rows)


def run_jobs(tmp_path, text, *words):
    return subprocess.run([sys.executable, "jobs.py", "run", "--out", tmp_path, "--jobs", "2", *words],
                          input=text, capture_output=True, text=True, cwd=ROOT)


LESIONS = "data.py prepare --built-in 120 --size 16 --binary"


def test_the_runner_runs_by_stages_goes_on_and_names_what_failed(tmp_path):
    text = lines(tmp_path, ("a", 1, "data", LESIONS), ("a", 2, "bad", "gan.py train dcgan_cls --data nowhere"),
                 ("a", 3, "late", LESIONS), ("b", 1, "data", LESIONS), ("b", 2, "more", LESIONS + " --seed 1"))
    found = run_jobs(tmp_path, text)
    assert found.returncode == 1, found.stderr
    assert "FAILED" in found.stdout and "nowhere does not exist" in found.stdout and "alone: python gan.py" in found.stdout
    assert "3 of 5 jobs are done" in found.stdout and not (tmp_path / "a" / "late" / "result.json").exists()
    again = run_jobs(tmp_path, text.replace("gan.py train dcgan_cls --data nowhere", LESIONS))
    assert again.returncode == 0 and "3 of 5 jobs were done before" in again.stdout and "5 of 5 jobs" in again.stdout


def test_a_job_gives_the_same_bytes_alone_and_in_the_runner(tmp_path, prepared):
    train = f"classify.py train cnn --data {prepared} --steps 5 --batch 8"
    run_jobs(tmp_path, lines(tmp_path, ("a", 1, "cnn", train)))
    subprocess.run([sys.executable, *train.split(), "--out", str(tmp_path / "alone")], cwd=ROOT,
                   env=dict(os.environ, OMP_NUM_THREADS=str(max(1, os.cpu_count() // 2))))
    assert (tmp_path / "alone" / "predictions.csv").read_bytes() == (tmp_path / "a" / "cnn" / "predictions.csv").read_bytes()


def test_a_folder_of_other_results_is_refused(tmp_path):
    assert run_jobs(tmp_path, "", "--scale", "quick").returncode == 0
    other = run_jobs(tmp_path, "", "--scale", "small")
    assert other.returncode == 2 and "quick" in other.stderr and "small" in other.stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_run_leaves_no_job_behind_and_the_next_start_goes_on(tmp_path, prepared, kind):
    text = lines(tmp_path, ("a", 1, "gan", f"gan.py train dcgan_cls --data {prepared} --width 4 --batch 8 --steps 4000"))
    process = subprocess.Popen([sys.executable, "jobs.py", "run", "--out", str(tmp_path), "--jobs", "2"], cwd=ROOT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    process.stdin.write(text)
    process.stdin.close()
    log = tmp_path / "a" / "gan" / "log.txt"
    while not log.exists() or "/4000" not in log.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(kind)
    process.wait(timeout=30)
    time.sleep(1)
    jobs.start_job(tmp_path / "a" / "gan", jobs.read_json(tmp_path / "a" / "gan" / "config.json"))
    jobs.LOCKS.pop(tmp_path / "a" / "gan").close()          # nobody holds the job's lock any more
    if kind == signal.SIGINT:
        assert process.returncode == 130 and (tmp_path / "a" / "gan" / "checkpoint.pt").exists()


def test_a_half_written_file_never_takes_the_place_of_a_whole_one(tmp_path):
    jobs.write_json(tmp_path / "a.json", dict(old=1))
    with pytest.raises(ValueError):
        jobs.write_json(tmp_path / "a.json", dict(new=float("nan")))
    assert jobs.read_json(tmp_path / "a.json") == dict(old=1) and len(list(tmp_path.iterdir())) == 1


def test_two_processes_never_share_a_job(tmp_path, prepared):
    train = [sys.executable, "gan.py", "train", "dcgan_cls", "--data", str(prepared), "--width", "4", "--batch", "8",
             "--steps", "4000", "--out", str(tmp_path / "job")]
    first = subprocess.Popen(train, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "job" / "config.json").exists():
        assert first.poll() is None
        time.sleep(0.1)
    second = subprocess.run(train, cwd=ROOT, capture_output=True, text=True)
    first.kill()
    assert second.returncode == 2 and "another process is at work" in second.stderr


# ---- The dry run

def test_the_first_step_is_counted_and_the_second_is_timed():
    cost = {}
    step = jobs.measured(lambda a, b: torch.sin(a @ b).sum().backward(), cost)
    for _ in range(2):
        a = torch.ones(8, 16, requires_grad=True)
        b = torch.ones(16, 4, requires_grad=True)
        step(a, b)
    assert cost["gflop"] == pytest.approx(3 * 2 * 8 * 16 * 4 / 1e9)     # there, back to a, back to b
    assert cost["kernels"] >= 6 and 0 < cost["step_seconds"] < 1


def test_a_dry_run_makes_two_steps_of_one_job_of_each_kind_and_adds_up_the_whole(tmp_path, prepared):
    net = f"classify.py train cnn --data {prepared} --steps 720000 --batch 8 --dry-run"
    text = ""
    for name in ("cnn_1-s0", "cnn_2-s0", "cnn_2-s1"):
        text += lines(tmp_path, ("study", 1, name, f"{net} --seed {name[-1]}"))
    done = run_jobs(tmp_path, text, "--dry-run")
    assert [folder.name for folder in (tmp_path / "study").iterdir()] == ["cnn_2-s0"], done.stderr

    result = jobs.read_json(tmp_path / "study/cnn_2-s0/result.json")
    assert result["config"]["steps"] == 2 and result["config"]["dry_run_of"] == 720000
    row, total = done.stdout.splitlines()[-2:]
    assert row.split()[:3] == ["study/cnn_2-s0", "3", "720,000"]
    hours = 3 * 200 * result["cost"]["step_seconds"]    # 720,000 steps are 200 hours of seconds
    assert float(total.split()[6]) == pytest.approx(hours, rel=0.02) and total.split()[5] == "3"


def test_a_dry_run_of_the_list_leaves_out_what_trains_nothing():
    commands = {name: command for _, name, command in listed("--dry-run", "--scale", "paper")}
    assert "--dry-run" in commands["wgan_gp/gan_benign"] and "--dry-run" in commands["dcgan_cls/fid"]
    assert "--dry-run" not in commands["wgan_gp/data"] + commands["wgan_gp/networks"]


# ---- What goes wrong outside of a job

@pytest.mark.parametrize("library", ["_multiarray_umath", "libtorch_cpu"])
def test_ctrl_c_while_importing_is_quiet(library):
    process = subprocess.Popen([sys.executable, "report.py", "nowhere"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while library not in Path(f"/proc/{process.pid}/maps").read_text():     # it is being loaded
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGINT


def test_a_full_disk_and_a_closed_pipe_at_the_output():
    describe = [sys.executable, "gan.py", "describe", "acgan"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(describe, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2 and len(found.stderr.splitlines()) == 1 and "No space left" in found.stderr
    process = subprocess.Popen(describe, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


@pytest.mark.parametrize("command", [
    "data lesions --n 1000000000 --out x.npy", "data prepare --built-in 80 --size 1000000 --out x",
    "gan train dcgan_cls --data {data} --samples 1000000000 --out x", "metrics fid {data} {data} --net none --size 1000000",
    "gan sample {gan} --n 1000000000 --out x.npy", "gan train dcgan_cls --data {data} --width 10000000 --out x"])
def test_too_much_memory_is_refused_before_it_is_taken(command, monkeypatch, tmp_path, refused, prepared, made):
    monkeypatch.chdir(tmp_path)
    refused(["memory"], *command.format(data=prepared, gan=made["benign"]).split())


def test_a_result_of_another_job_or_with_another_digit_is_refused_and_left_overs_go(tmp_path, done, refused):
    prepare = ["data", "prepare", "--built-in", 40, "--size", 16, "--out"]
    done(*prepare, tmp_path / "a")
    done(*prepare, tmp_path / "b", "--seed", 1)
    (tmp_path / "a" / ".images.npy.77.tmp").write_text("left by a kill")
    done(*prepare, tmp_path / "a")
    assert not list((tmp_path / "a").glob(".*.tmp"))
    own, other = (tmp_path / name / "result.json" for name in "ab")
    text = own.read_text()
    own.write_bytes(other.read_bytes())
    refused(["another job"], *prepare, tmp_path / "a")
    own.write_text(text.replace('"lesions": ', '"lesions": 1'))
    refused(["result.json is damaged or not ours"], *prepare, tmp_path / "a")


# ---- The report

def fake_run(out, study, name, accuracy, seed=0, n=400, test="real", lesions="lesion"):
    """A finished two-class classifier that is right in about this share of its tests."""
    folder = out / study / f"{name}-s{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, int(1000 * accuracy)])
    truth = np.random.default_rng(0).integers(0, 2, n)
    right = np.random.default_rng(1).permutation(n) < accuracy * n + rng.normal(0, 2)
    rows = ["test,image,lesion,label,benign,malignant"]
    for k in range(n):
        malignant = 0.9 if truth[k] == right[k] else 0.1
        rows.append(f"{test},i{k},{lesions}{k},{('benign', 'malignant')[truth[k]]},{1 - malignant:.1f},{malignant}")
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    curves = dict(loss=[1, .5], accuracy=[.6, .7], val_loss=[1, .6], val_accuracy=[.5, .7])
    result = dict(config=dict(classes=["benign", "malignant"], model="cnn"), seconds=1.0, command="python x", steps=10,
                  counts=dict(benign=50, malignant=50), curves=curves, leaked=0, metrics={test: dict(loss=.5, confusion=[[1, 2], [3, 4]])})
    jobs.write_json(folder / "result.json", result)


def page_of(out, scale="small"):
    jobs.write_json(out / "config.json", dict(scale=scale, data="photos"))
    said = report.write(out)
    return (out / "report.md").read_text(), (out / "report.html").read_text(), said


def controls(out, real, gan, more):
    for seed in range(3):
        fake_run(out, "controls", "cnn_100_real", real, seed)
        fake_run(out, "controls", "cnn_200_real", more, seed)
        fake_run(out, "controls", "cnn_100_dcgan_cls", gan, seed)
        fake_run(out, "controls", "cnn_100_dcgan_cls_alone", 0.6, seed)


def test_the_worth_that_was_planted_is_found(tmp_path):
    controls(tmp_path, 0.70, 0.75, 0.80)
    report.write(tmp_path)
    (x, low, high), fake, more = report.worth_of(report.Results(tmp_path), "cnn", ["dcgan_cls"])
    assert low < 0.5 < high and 0.3 < x < 0.7 and fake[1] > 0 and more[1] > 0.05


def test_no_worth_without_a_gain_from_real_images(tmp_path):
    controls(tmp_path, 0.70, 0.75, 0.70)
    markdown, _, _ = page_of(tmp_path)
    assert "cannot be told here" in markdown


def test_a_missing_job_is_named_and_verdicts_are_given_where_judged(tmp_path):
    for seed in range(3):
        fake_run(tmp_path, "wgan_gp", "resnet18_real", 0.70, seed)
        fake_run(tmp_path, "wgan_gp", "resnet18_hybrid", 0.80, seed)
    markdown, page, _ = page_of(tmp_path)
    claim = next(line for line in markdown.splitlines() if line.startswith("| GAN images help ResNet-18"))
    assert claim.rstrip(" |").endswith("reproduced") and "+10" in claim
    assert "not run: cnn_real" in markdown and "not run: networks" in markdown
    quick, _, _ = page_of(tmp_path, "quick")
    assert "reproduced" not in quick.split("## The controls")[0] and "rehearsal" in quick


@pytest.mark.parametrize("printed, gain, p, expected", [
    ("+10.1 points", [.10, .05, .15, .01], .01, "reproduced"), ("+10.1 points", [.03, .01, .05, .01], .01, "same direction"),
    ("+10.1 points", [.01, -.02, .04, .5], .5, "not reproduced"), ("+10.1 points", [.05, -.05, .15, .3], .3, "cannot"),
    ("+10.1 points", [-.1, -.2, -.05, .01], .01, "not reproduced"), ("+10.1 points", [.1, .05, .15, None], None, "cannot"),
    ("no effect (-1 to 1)", [.001, -.01, .012, .9], .9, "reproduced"), ("no effect", [.05, .03, .07, .01], .01, "not reproduced"),
    ("no effect", [.01, -.03, .05, .5], .5, "cannot"), ("level 93.5 %", [.93, .92, .95, None], None, "reproduced"),
    ("level 93.5 %", [.86, .84, .88, None], None, "not reproduced"),
    ("better, no number printed", [.05, .02, .08, .01], .01, "same direction"),
    ("better, no number printed", [-.05, -.08, -.02, .01], .01, "not reproduced")])
def test_verdicts(printed, gain, p, expected):
    assert report.verdict(printed, gain, p).startswith(expected)


def test_a_broken_job_is_left_out_and_named_and_every_string_is_escaped(tmp_path):
    fake_run(tmp_path, "wgan_gp", "cnn_real", 0.7)
    fake_run(tmp_path, "wgan_gp", "cnn_hybrid", 0.7)
    (tmp_path / "wgan_gp" / "cnn_hybrid-s0" / "result.json").write_text('{"config": 3')
    fake_run(tmp_path, "wgan_gp", "mobilenet_real", 0.7)
    (tmp_path / "wgan_gp" / "mobilenet_real-s0" / "predictions.csv").write_text("test,image\nreal")
    evil = jobs.read_json(tmp_path / "wgan_gp" / "cnn_real-s0" / "result.json")
    evil["command"] = "python <script>alert(1)</script> | x"
    jobs.write_json(tmp_path / "wgan_gp" / "cnn_real-s0" / "result.json", evil)
    fake_run(tmp_path, "wgan_gp", "resnet18_real", 0.7)
    (tmp_path / "wgan_gp" / "resnet18_real-s0" / "predictions.csv").unlink()
    for key, value in (("metrics", 3), ("seconds", "a"), ("source", 3)):
        fake_run(tmp_path, "controls", f"cnn_{key}_real", 0.7)
        file = tmp_path / "controls" / f"cnn_{key}_real-s0" / "result.json"
        jobs.write_json(file, jobs.read_json(file) | {key: value})
    markdown, page, _ = page_of(tmp_path)
    assert all(f"cnn_{key}_real-s0" in markdown for key in ("metrics", "seconds", "source"))
    assert "resnet18_real-s0" in markdown and "cnn_hybrid-s0" in markdown and "mobilenet_real-s0" in markdown and "damaged" in markdown
    assert "<script" not in page and "http" not in re.sub(r'xmlns="[^"]*"', "", page).split("<body>")[0][:3000]


def test_a_report_of_nothing_says_so(tmp_path):
    with pytest.raises(jobs.UserError, match="run_all.sh"):
        report.write(tmp_path)


# ---- The whole way, and the README's examples

def test_a_study_runs_to_its_report_and_every_cell_is_filled(tmp_path):
    """Every command of paper 000's list, with two steps each, on drawn lesions."""
    text = ""
    for stage, name, command in listed("--scale", "quick", "--out", tmp_path, "wgan_gp"):
        words = command[1:]
        if "--steps" in words:
            words[words.index("--steps") + 1] = "2"
        text += f"wgan_gp\t{stage}\t{name.split('/')[1]}\t{' '.join(words)}\n"
    found = run_jobs(tmp_path, text)
    assert found.returncode == 0, found.stdout
    markdown, _, _ = page_of(tmp_path, "quick")
    assert "not run" not in markdown.replace("was not measured", "") and "39,473,507" in markdown


def readme_example(name):
    """The code block of the README below a line that names it."""
    text = (ROOT / "README.md").read_text()
    return re.search(rf"\*\*{re.escape(name)}.*?```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize("name, file, before, command", [
    ("An LSGAN", "gan.py", "# ---- Noise, averages, samples", ["gan.py", "train", "lsgan", "--width", "4", "--class", "benign"]),
    ("Another classifier", "classify.py", "def base_of(net):", ["classify.py", "train", "efficientnet_b0"])])
def test_the_readmes_examples_run(tmp_path, prepared, name, file, before, command):
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(before) == 1
    (tmp_path / file).write_text(text.replace(before, readme_example(name) + "\n\n" + before))
    found = subprocess.run([sys.executable, *command, "--data", str(prepared), "--steps", "2", "--batch", "4", "--out",
                            str(tmp_path / "job")], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and (tmp_path / "job" / "result.json").exists(), found.stderr
