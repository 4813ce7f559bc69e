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
    assert len(set(names)) == len(names) > 60
    made, stage_of = {}, {}
    for job in jobs:                                               # every input was made by a job of an earlier stage
        words = shlex.split(job["command"])
        folder = words[words.index("--out") + 1]
        assert folder.endswith(job["job"])
        for word in (word.removeprefix("synthetic=") for word in words):
            assert not word.startswith("@") and "=@" not in word
            if word.startswith("results/") and word != folder:
                assert word in made and int(stage_of[word]) < int(job["stage"]), (job["job"], word)
        made[folder], stage_of[folder] = job["job"], job["stage"]


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_printed_cell_is_filled_by_exactly_one_job(scale):
    jobs = list_jobs("--scale", scale)
    for study in metrics.PRINTED:
        filled = {}
        for job in jobs:
            if job["job"].startswith(study + "/") and job["fills"] != "-" and not re.search(r"-s[1-9]\d*$", job["job"]):
                for cell in job["fills"].split(","):
                    assert cell not in filled, f"{cell} is filled twice"
                    filled[cell] = re.sub(r"-s0$", "", job["job"].split("/")[1])
        assert filled == metrics.wanted_cells(study), study
    assert {job["job"].split("/")[0] for job in jobs} == {*metrics.PRINTED, "controls"}


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_controls_compare_like_with_like(scale):
    """Each size of training set: all arms in one job, with the same number of steps, each GAN trained on the same part as its classifier."""
    jobs = {job["job"].removeprefix("controls/"): shlex.split(job["command"])[3:] for job in list_jobs("controls", "--scale", scale)}
    share = {name: words[words.index("--share") + 1] for name, words in jobs.items() if "--share" in words}
    gans = ("wgan_gp", "dcgan_cls", "acgan", "cyclegan", "dermagan", "dcgan_inception")
    for size, part in (("25", "0.125"), ("50", "0.25"), ("100", "0.5")):
        assert all(share[f"{name}_{size}"] == part for name in gans)
        words = " ".join(jobs[f"cnn_{size}-s0"]) + " "
        assert share[f"cnn_{size}-s0"] == part and words.count("--steps") == words.count("--batch") == 1
        for arm in ("real", "classical augment=classical", "copies copies=1"):
            assert f"--arm {arm} " in words
        for name in gans:
            made = f"synthetic=results/{scale}/controls/{name}_{size} "
            for arm in (f"{name} {made}", f"{name}_shuffled shuffle {made}", f"{name}_alone alone {made}"):
                assert f"--arm {arm}" in words
    assert share["cnn_200-s0"] == share["resnet18_200-s0"] == "1"       # all that was held back: the last oracle
    assert len({jobs[f"{net}-s0"][jobs[f"{net}-s0"].index("--steps") + 1] for net in ("cnn_25", "cnn_200", "resnet18_100", "resnet18_200")}) == 1


def test_the_paper_scale_runs_the_recipes_as_they_stand():
    """At paper scale no option changes a recipe, but for what the paper itself varies: the defaults are its numbers."""
    varied = {"dcgan_batch100": {"--batch"}, "batch100": {"--batch"}, "dcgan_lr1e3": {"--lr"}, "lr1e3": {"--lr"}, "dcgan_sgd": {"--optimizer"},
              "sgd": {"--optimizer"}}
    for job in list_jobs("--scale", "paper"):
        study, name = job["job"].split("/")
        options = set(re.findall(r"--(?:width|z-dim|epochs|steps|batch|lr(?!-)|penalty|n-critic|precision|optimizer|weights|limit)\b", job["command"]))
        if study not in ("dermagan", "controls"):                   # presets are what is compared; equal steps
            allowed = varied.get(re.sub(r"-s\d+$", "", name), set()) | ({"--limit"} if study == "dcgan_inception" else set())
            if "train cyclegan" in job["command"]:                  # its 200 epochs would be 15 million steps
                allowed = {"--steps", "--precision"}
            assert options <= allowed, job
    text = bash("list", "--scale", "paper").stdout
    for words in ("--samples 879", "--samples 888", "--mixed-test 100 104", "--steps 2650", "--steps 3300", "--keep 0.125", "--samples balance",
                  "--vary count 2000 4000 8000 16000 24000", "--vary count 500 1000 2000 3000 4000 5000 6000 7000", "--test 0.2581"):
        assert words in text, words


def test_weights_none_reaches_every_network_that_is_pretrained_otherwise():
    nets = r"train (resnet50|vgg16|vgg19|resnet50_flat|mobilenet_flat|mobilenet_v2|inception)\b"
    for arguments, none in ((["--scale", "small"], False), (["--scale", "small", "--weights", "none"], True), ([], True)):
        found = [job["command"] for job in list_jobs(*arguments) if re.search(nets, job["command"])]
        assert len(found) >= 20 and all(("--weights none" in command) == none for command in found)
        assert any("score inception" in job["command"] for job in list_jobs(*arguments)) != none


@pytest.mark.parametrize("arguments, words", [
    (["--nonsense"], "unknown option --nonsense"), (["nostudy"], "unknown word nostudy"), (["--scale", "huge"], "quick, small or paper"),
    (["--data", "/nowhere"], "no such folder"), (["--jobs", "0"], "--jobs 0"), (["--seeds", "x"], "--seeds x"), (["--weights", "some"], "--weights some"), (["--out"], "needs a value")])
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

def shortened(script, words):
    """The command of a job with as little work as its networks allow."""
    short = {"--samples": ["16"], "--mixed-test": ["2", "2"], "--snapshots": ["8"], "--keep": ["0.5"], "--limit": None,
             "--steps": None, "--width": None, "--blocks": None, "--epochs": None, "--z-dim": None, "--batch": ["4"], "--pool": ["2"], "--n": ["240"]}
    if "--per" in words:                                            # must stay as many as the rows will ask for
        short.pop("--samples")
    kept, skip = [], False
    for word in words:
        if word.startswith("--"):
            skip = word in short
            if skip and short[word] is None:
                continue
            if skip and not (word == "--samples" and words[words.index(word) + 1] in ("balance", "all")):
                kept += [word, *short[word]]
                continue
            skip = False
        if not skip:
            kept.append(word)
    model = words[1] if len(words) > 1 else ""
    if script == "gan.py" and words[0] == "train":
        kept += ["--steps", "10" if model == "dcgan_inception" else "1", "--width", "20" if model == "plain_gan" else "4"]
        kept += ["--batch", "1", "--blocks", "1"] if model == "cyclegan" else ["--batch", "4"]
        kept += ["--n-critic", "1"] if model == "wgan_gp" else []
    elif script == "classify.py" and words[0] == "train":
        kept += ["--steps", "1", "--batch", "8"] + (["--width", "4"] if model == "trunk" else [])
    elif words[0] == "prepare" and "dcgan_inception" in words:
        kept += ["--limit", "malignant=100"]
    return kept


def test_every_command_of_the_list_runs_and_no_cell_of_the_report_is_empty(tmp_path, cli):
    out = tmp_path / "results"
    out.mkdir()
    (out / "run.txt").write_text("scale quick\ndata built-in lesions\n")
    for job in list_jobs("--out", out):
        _, _, _, script, *words = shlex.split(job["command"])          # env OMP_NUM_THREADS=1 python gan.py ...
        status, _, err = cli(script[:-3], *shortened(script, words))
        assert status == 0, (job["job"], err)
    assert all(job["state"] == "done" for job in list_jobs("--out", out))
    status, text, _ = cli("metrics", "report", out)
    assert status == 0 and text.strip() == f"report: {out}/report.html"
    page, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    for table, papers in {1: 3, 2: 5, 3: 5, 4: 2, 5: 2, 6: 2, 7: 1, 8: 1}.items():      # how many papers have a Table 1, 2, ...
        assert page.count(f">Table {table}.") >= papers and markdown.count(f"**Table {table}.") >= papers, table
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert len(cells) > 900 and "" not in cells
    assert not re.search(r"not run|\bNone\b|\bnan\b", re.sub(r'src="[^"]*"', "", page))
    assert page.count("data:image/") > 20 and "http" not in page
    shutil.rmtree(out / "wgan_gp" / "cnn_hybrid-s0")                # a missing job is named in its cells, not guessed
    shutil.rmtree(out / "acgan_cyclegan" / "row_4-s0")
    cli("metrics", "report", out)
    page = (out / "report.html").read_text()
    assert page.count("not run: cnn_hybrid") > 10 and page.count("not run: row_4") > 10


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
    done = bash("wgan_gp", cwd=pretend, BREAK="none")
    assert done.returncode == 0 and done.stdout.strip().endswith("report: results/quick")
    first = calls(pretend)
    assert len(first) == len(set(first)) == 10
    shutil.rmtree(pretend / "results/quick/wgan_gp/resnet18_hybrid-s0")
    again = bash("wgan_gp", cwd=pretend, BREAK="none")
    assert "9 jobs were done before" in again.stdout and calls(pretend)[10:] == ["resnet18_hybrid-s0"]
    listed = bash("list", "wgan_gp", cwd=pretend).stdout
    assert listed.count("done") == 10 and re.search(r"done\s+7\s", listed)


def test_a_folder_of_other_results_is_refused(pretend, tmp_path):
    (tmp_path / "mine").mkdir()
    assert bash("wgan_gp", "--out", "here", cwd=pretend, BREAK="none").returncode == 0
    for other in (["--data", "mine"], ["--scale", "small"]):
        done = bash("--out", "here", *other, cwd=pretend, BREAK="none")
        assert done.returncode == 2 and "here holds results of scale quick data built-in lesions" in done.stderr
    assert len(calls(pretend)) == 10
    done = bash("wgan_gp", "--data", "mine", cwd=pretend, BREAK="none")       # by default real data get a folder of their own
    assert done.returncode == 0 and (pretend / "results/quick-mine/wgan_gp/data/result.json").exists()


def test_threads_do_not_depend_on_how_many_jobs_are_left(pretend):
    cores = int(subprocess.check_output(["nproc"]))
    for jobs in (1, 2, 64):
        threads = {int(re.search(r"OMP_NUM_THREADS=(\d+)", job["command"]).group(1)) for job in list_jobs("--jobs", jobs)}
        assert threads == {max(cores // jobs, 1)}
    bash("wgan_gp", cwd=pretend, BREAK="none")
    commands = [line.split("\t")[5] for line in bash("list", cwd=pretend).stdout.splitlines()[1:]]
    shutil.rmtree(pretend / "results/quick/wgan_gp/cnn_hybrid-s0")
    assert commands == [line.split("\t")[5] for line in bash("list", cwd=pretend).stdout.splitlines()[1:]]


def test_interrupting_stops_the_jobs_and_starting_again_finishes(pretend):
    slow = pretend / ".venv/bin/python"
    slow.write_text(FAKE.replace('echo "$out" >> calls.txt', 'echo "$out" >> calls.txt; [ -f go ] || exec sleep 60'))
    process = subprocess.Popen(["bash", "run_all.sh", "wgan_gp"], cwd=pretend, stdout=subprocess.PIPE, text=True, env=dict(os.environ, BREAK="none"))
    while not (pretend / "calls.txt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(10) == 130 and "the same command goes on from the last checkpoints" in process.stdout.read()
    (pretend / "go").touch()
    assert bash("wgan_gp", cwd=pretend, BREAK="none").returncode == 0         # the lock is free again, so no job was left behind


def test_a_failing_job_shows_its_last_lines_and_how_to_run_it_alone(pretend):
    done = bash("wgan_gp", cwd=pretend, BREAK="gan_benign")
    assert done.returncode == 1
    assert "gan_benign" in done.stdout and "FAILED (exit status 2)" in done.stdout and "| gan.py: something is wrong" in done.stdout
    alone = re.search(r"alone:\s+(.*)", done.stdout).group(1)
    assert shlex.split(alone)[3:6] == ["gan.py", "train", "wgan_gp"]
    assert "not started" in done.stdout and not any("hybrid" in name for name in calls(pretend))
    assert "gan_malignant" in calls(pretend) and "report: results/quick" in done.stdout        # its neighbours ran, and the report was made
    assert bash("wgan_gp", cwd=pretend, BREAK="none").returncode == 0


def test_studies_run_side_by_side_but_each_in_the_order_of_its_stages(pretend):
    python = pretend / ".venv/bin/python"
    python.write_text(FAKE.replace('echo "$out" >> calls.txt', 'echo "$out" >> calls.txt; case $out in *wgan_gp/data) sleep 3;; esac'))
    done = bash("wgan_gp", "dcgan_cls", cwd=pretend, BREAK="dcgan_cls/dcgan_base")
    order = [line.removeprefix("results/quick/") for line in (pretend / "calls.txt").read_text().split()]
    stage = {job["job"]: int(job["stage"]) for job in list_jobs()}
    for study in ("wgan_gp", "dcgan_cls"):
        own = [stage[name] for name in order if name.startswith(study)]
        assert own == sorted(own)
    assert order.index("dcgan_cls/data") < order.index("wgan_gp/gan_benign")               # did not wait for the other study
    assert done.returncode == 1 and "wgan_gp/cnn_hybrid-s0" in order and "dcgan_cls/base-s0" not in order
    assert "dcgan_cls: 7 jobs not started, they need what failed" in done.stdout


def test_seeds_jobs_and_odd_paths(pretend, tmp_path):
    odd = tmp_path / "my data & more"
    odd.mkdir()
    done = bash("wgan_gp", "--seeds=2", "--jobs", "3", "--data", odd, "--out", tmp_path / "out dir", cwd=pretend, BREAK="none")
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


# --- Edits of a line that would change a result and nothing else

def words_of(*arguments):
    """{job: its command's words, folders by their names}"""
    return {job["job"]: [word.rsplit("/", 1)[-1] for word in shlex.split(job["command"])[3:]] for job in list_jobs(*arguments)}


EACH_JOB = {"wgan_gp/gan_malignant": "--class malignant", "wgan_gp/cnn_hybrid-s0": "--synthetic gan_benign gan_malignant --mixed-test",
            "dcgan_cls/data": "--enhance", "dcgan_cls/batch100-s0": "--from dcgan_batch100 --batch 100", "dcgan_cls/lr1e3-s0": "--from dcgan_lr1e3 --lr 0.001",
            "dcgan_cls/sgd-s0": "--from dcgan_sgd --optimizer sgd", "dcgan_cls/base_probe-s0": "--from dcgan_base --probe",
            "acgan_cyclegan/acgan_row-s0": "--lr-of isic0-s0 --synthetic acgan --vary", "acgan_cyclegan/cyclegan_row-s0": "--lr-of isic0-s0 --synthetic cyclegan --vary",
            **{f"acgan_cyclegan/row_{k}-s0": f"--lr-of isic0-s0 --synthetic nv2mel_{k} --vary" for k in (1, 2, 4, 8)},
            **{f"acgan_cyclegan/nv2mel_{k}": "--source data --source-class NV --data rank --class MEL" for k in (1, 2, 4, 8)},
            "dermagan/gan_code": "--leak --latents 5", "dermagan/vgg16_fair-s0": "--synthetic gan --lr 2e-4", "dermagan/vgg16_code-s0": "--synthetic gan_code --allow-leak",
            "dcgan_inception/original_64-s0": "--through 64", "dcgan_inception/augmented_64-s0": "--synthetic dcgan --through 64",
            "dcgan_inception/fid_curve": "--class malignant --over-steps dcgan", "controls/data": "--resplit --drop-near"}


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_each_job_gets_what_its_name_says(scale):
    jobs = words_of("--scale", scale)
    assert not {job: part for job, part in EACH_JOB.items() if part not in " ".join(jobs[job])}


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_arms_of_a_pair_differ_in_the_gan_images_alone(scale):
    jobs = words_of("--scale", scale)
    for preset in ("fair", "text", "code"):
        without, with_gan = (jobs[f"dermagan/cnn_{kind}_{preset}-s0"] for kind in ("real", "gan"))
        assert [some[some.index("--lr"):some.index("--augment") + 2] for some in (without, with_gan)] == [without[5:13]] * 2
        assert preset == "code" or {*with_gan} - {*without} == {"--synthetic", "gan", f"cnn_gan_{preset}-s0"}


def test_each_seed_is_another_one():
    for name, words in words_of("--scale", "small", "--seeds", 3).items():
        seed = re.search(r"-s(\d)$", name)
        if seed:
            assert words[words.index("--seed") + 1] == seed[1] and ("--lr-of" not in words or f"isic0-s{seed[1]}" in words), name


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_controls_take_each_gan_at_its_own_size(scale):
    shares = {"25": "0.125", "50": "0.25", "100": "0.5", "200": "1"}
    for name, words in words_of("controls", "--scale", scale).items():
        size, value = name.split("_")[-1].partition("-")[0], lambda key: words[words.index(key) + 1]
        assert "--share" not in words or value("--share") == shares[size], name
        assert words[0] != "gan.py" or value("--samples") == "all", name
        assert "--source" not in words or value("--source") == f"acgan_{size}", name
