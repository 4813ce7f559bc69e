"""run_all.sh: the job list proves itself, its commands work, and the runner skips, fails and reports as it should."""
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

import data
import metrics
from conftest import ROOT


def bash(*arguments, cwd=ROOT, **environment):
    return subprocess.run(["bash", "run_all.sh", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env=dict(os.environ, **environment))


def list_jobs(*arguments):
    lines = bash("list", *arguments).stdout.splitlines()
    fields = [field.strip() for field in lines[0].split("\t")]
    return [dict(zip(fields, (cell.strip() for cell in line.split("\t")))) for line in lines[1:]]


@pytest.mark.parametrize("arguments", [(), ("--scale", "small"), ("--scale", "paper", "--seeds", "2")])
def test_the_list_is_sound(arguments):
    jobs = list_jobs(*arguments)
    names = [job["job"] for job in jobs]
    assert len(set(names)) == len(names) > 9
    made, stage_of = {}, {}
    for job in jobs:                                               # every input was made by a job of an earlier stage
        words = shlex.split(job["command"])
        folder = words[words.index("--out") + 1]
        assert folder.endswith(job["job"])
        for word in words:
            if word.startswith("results/") and word != folder:
                assert word in made and int(stage_of[word]) < int(job["stage"]), (job["job"], word)
        made[folder], stage_of[folder] = job["job"], job["stage"]


def test_every_printed_cell_is_filled_by_exactly_one_job():
    for study, paper in metrics.PRINTED.items():
        filled = {}
        for job in list_jobs(study):
            for cell in job["fills"].split(","):
                assert cell not in filled, f"{cell} is filled twice"
                filled[cell] = re.sub(r"-s\d+$", "", job["job"].split("/")[1])
        wanted = {f"T{table}": "networks" for table, *_ in paper["layers"]}
        for table in paper["tables"]:
            if "job" in table:
                wanted[f"T{table['id']}"] = table["job"]
            else:
                wanted |= {f"T{table['id']}:{label}": cells[0][1] for label, cells in metrics.cells_of(table)}
        for figure, _, _, names in paper["figures"]:
            if figure and len(names) == 1:
                wanted[f"F{figure}"] = names[0]
            elif figure:
                wanted |= {f"F{figure}:{name.split('_')[1]}": name for name in names}
        assert filled == wanted


def test_the_paper_scale_runs_the_recipes_as_they_stand():
    """At paper scale no option changes a recipe: the defaults are the papers' numbers, and the counts close its tables."""
    for job in list_jobs("--scale", "paper"):
        assert not re.search(r"--(width|z-dim|epochs|steps|batch|lr|penalty|n-critic|precision)", job["command"])
    text = bash("list", "--scale", "paper").stdout
    assert "--samples 879" in text and "--samples 888" in text and "--mixed-test 100 104" in text


@pytest.mark.parametrize("arguments, words", [
    (["--nonsense"], "unknown option --nonsense"), (["nostudy"], "unknown word nostudy"), (["--scale", "huge"], "quick, small or paper"),
    (["--data", "/nowhere"], "no such folder"), (["--jobs", "0"], "--jobs 0"), (["--seeds", "x"], "--seeds x"), (["--out"], "needs a value")])
def test_bad_options_end_in_one_line(arguments, words):
    done = bash(*arguments)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_help_and_list_need_no_python(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "python3").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert "--scale quick|small|paper" in bash("--help", PATH=path).stdout
    assert "wgan_gp/cnn_real-s0" in bash("list", PATH=path).stdout


# --- the whole chain, each command of the list in this process with few steps

def test_every_command_of_the_list_runs_and_no_cell_of_the_report_is_empty(tmp_path, cli):
    out = tmp_path / "results"
    tiny = {"gan.py": ["--steps", "1", "--n-critic", "1", "--width", "4"], "classify.py": ["--steps", "1"], "data.py": ["--n", "240"]}
    short = {"--samples": lambda n: ["8"], "--mixed-test": lambda n: ["2"] * n}
    out.mkdir()
    (out / "run.txt").write_text("scale quick\ndata built-in lesions\n")
    for job in list_jobs("--out", out):
        _, _, _, script, *words = shlex.split(job["command"])          # env OMP_NUM_THREADS=1 python gan.py ...
        if "describe" not in words:
            words += tiny[script]
        for option, value in short.items():
            if option in words:
                at = words.index(option) + 1
                count = next((k for k, word in enumerate(words[at:]) if word.startswith("--")), len(words) - at)
                words[at:at + count] = value(count)
        status, _, err = cli(script[:-3], *words)
        assert status == 0, (job["job"], err)
    assert all(job["state"] == "done" for job in list_jobs("--out", out))
    status, text, _ = cli("metrics", "report", out)
    assert status == 0 and text.strip() == f"report: {out}/report.html"
    page, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    for number in range(1, 9):
        assert f"Table {number}." in page and f"Table {number}." in markdown
    for number in range(1, 6):
        assert f"Figure {number}." in page
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert len(cells) > 250 and "" not in cells
    assert not re.search(r"not run|\bNone\b|\bnan\b", page)
    assert page.count("data:image/png") == 3 and "http" not in page
    shutil.rmtree(out / "wgan_gp" / "cnn_hybrid-s0")                # a missing job is named in its cells, not guessed
    cli("metrics", "report", out)
    assert (out / "report.html").read_text().count("not run: cnn_hybrid") > 10


# --- the runner, with a Python that only pretends

FAKE = """#!/bin/bash
# A stand-in for python: "works" for a moment and writes result.json, or fails where the job's name says so.
for word; do case $last in --out) out=$word ;; esac; last=$word; done
case $1 in metrics.py) echo "report: $3"; exit 0 ;; esac
echo "$out" >> calls.txt
case $out in *"$BREAK") echo "first line"; echo "gan.py: something is wrong" >&2; exit 2 ;; esac
mkdir -p "$out"; printf '{\\n "seconds": 7,\\n "x": 1}' > "$out/result.json"
"""


@pytest.fixture
def pretend(tmp_path):
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE)
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    (tmp_path / ".venv" / "ready").touch()
    return tmp_path


def calls(folder):
    return [Path(line).name for line in (folder / "calls.txt").read_text().split()]


def test_the_runner_runs_each_job_once_and_skips_what_is_done(pretend):
    done = bash(cwd=pretend, BREAK="none")
    assert done.returncode == 0 and done.stdout.strip().endswith("report: results/quick")
    first = calls(pretend)
    assert len(first) == len(set(first)) == 10
    shutil.rmtree(pretend / "results/quick/wgan_gp/resnet18_hybrid-s0")
    again = bash(cwd=pretend, BREAK="none")
    assert "9 jobs were done before" in again.stdout and calls(pretend)[10:] == ["resnet18_hybrid-s0"]
    listed = bash("list", cwd=pretend).stdout
    assert listed.count("done") == 10 and re.search(r"done\s+7\s", listed)


def test_a_folder_of_other_results_is_refused(pretend, tmp_path):
    (tmp_path / "mine").mkdir()
    assert bash("--out", "here", cwd=pretend, BREAK="none").returncode == 0
    for other in (["--data", "mine"], ["--scale", "small"]):
        done = bash("--out", "here", *other, cwd=pretend, BREAK="none")
        assert done.returncode == 2 and "here holds results of scale quick data built-in lesions" in done.stderr
    assert len(calls(pretend)) == 10
    done = bash("--data", "mine", cwd=pretend, BREAK="none")       # by default real data get a folder of their own
    assert done.returncode == 0 and (pretend / "results/quick-mine/wgan_gp/data/result.json").exists()


def test_threads_do_not_depend_on_how_many_jobs_are_left(pretend):
    cores = int(subprocess.check_output(["nproc"]))
    for jobs in (1, 2, 64):
        threads = {int(re.search(r"OMP_NUM_THREADS=(\d+)", job["command"]).group(1)) for job in list_jobs("--jobs", jobs)}
        assert threads == {max(cores // jobs, 1)}
    bash(cwd=pretend, BREAK="none")
    commands = [line.split("\t")[5] for line in bash("list", cwd=pretend).stdout.splitlines()[1:]]
    shutil.rmtree(pretend / "results/quick/wgan_gp/cnn_hybrid-s0")
    assert commands == [line.split("\t")[5] for line in bash("list", cwd=pretend).stdout.splitlines()[1:]]


def test_interrupting_stops_the_jobs_and_starting_again_finishes(pretend):
    slow = pretend / ".venv/bin/python"
    slow.write_text(FAKE.replace('echo "$out" >> calls.txt', 'echo "$out" >> calls.txt; [ -f go ] || exec sleep 60'))
    process = subprocess.Popen(["bash", "run_all.sh"], cwd=pretend, stdout=subprocess.PIPE, text=True, env=dict(os.environ, BREAK="none"))
    while not (pretend / "calls.txt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(10) == 130 and "the same command goes on from the last checkpoints" in process.stdout.read()
    (pretend / "go").touch()
    assert bash(cwd=pretend, BREAK="none").returncode == 0         # the lock is free again, so no job was left behind


def test_a_failing_job_shows_its_last_lines_and_how_to_run_it_alone(pretend):
    done = bash(cwd=pretend, BREAK="gan_benign")
    assert done.returncode == 1
    assert "gan_benign" in done.stdout and "FAILED (exit status 2)" in done.stdout and "| gan.py: something is wrong" in done.stdout
    alone = re.search(r"alone:\s+(.*)", done.stdout).group(1)
    assert shlex.split(alone)[3:6] == ["gan.py", "train", "wgan_gp"]
    assert "not started" in done.stdout and not any("hybrid" in name for name in calls(pretend))
    assert "gan_malignant" in calls(pretend) and "report: results/quick" in done.stdout        # its neighbours ran, and the report was made
    assert bash(cwd=pretend, BREAK="none").returncode == 0


def test_seeds_jobs_and_odd_paths(pretend, tmp_path):
    odd = tmp_path / "my data & more"
    odd.mkdir()
    done = bash("--seeds", "2", "--jobs", "3", "--data", odd, "--out", tmp_path / "out dir", cwd=pretend, BREAK="none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out dir/wgan_gp/cnn_hybrid-s1/result.json").exists()
    listed = bash("list", "--data", odd, cwd=pretend).stdout
    assert shlex.split(next(line for line in listed.splitlines() if "prepare" in line).split("\t")[5])[5] == str(odd)


def test_a_machine_without_git_finishes_its_jobs(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli("gan", "describe", "wgan_gp", "--out", tmp_path / "job")[0] == 0
    assert json.loads((tmp_path / "job/result.json").read_text())["commit"] == "unknown"


def test_results_are_json_with_the_promised_fields(tmp_path, cli):
    cli("data", "prepare", "lesions", "--n", 60, "--binary", "--size", 32, "--out", tmp_path / "data")
    result = json.loads((tmp_path / "data/result.json").read_text())
    for key in ("config", "counts", "data", "seconds", "device", "versions", "commit", "command"):
        assert result[key], key
    images = data.load(tmp_path / "data")
    assert result["data"] == images.fingerprint() and sum(result["counts"]["test"].values()) == (images.split == "test").sum()
