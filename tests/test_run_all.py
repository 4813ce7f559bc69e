"""Each arm of each study is what it should be, and the list runs to its report."""
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import classify
import report


def bash(*words, cwd=ROOT):
    command = ["bash", ROOT / "run_all.sh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def listed(*words, **place):
    """(stage, STUDY/NAME, words of the command) of each job."""
    for line in bash("list", *words, **place).stdout.splitlines()[1:]:
        _, stage, name, command = line.split("\t")
        yield int(stage), name, shlex.split(command)[1:]


def options_of(words):
    """{option: its values}, the first words under ""; of an option given twice the last counts."""
    found, option = {"": []}, ""
    for word in words:
        if word.startswith("--"):
            option, found[word] = word, []
        else:
            found[option].append(word)
    return found


# ---- The list

def expected(scale):
    """(pattern of names, number of jobs, their command) of each row of tests/arms.txt."""
    for line in (ROOT / "tests" / "arms.txt").read_text().split("\n\n")[1].splitlines():
        name, _, words = line.strip().partition(" |")
        if not line.startswith(" "):
            pattern, command = name, words
        elif name.split()[0] == scale:
            yield pattern, int(name.split()[1]), command + words


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_each_arm_is_what_it_should_be(tmp_path, scale):
    """What it may see, its own seed in its command and its GANs, and the numbers of its scale."""
    own = tmp_path / "my own"
    for name in ("benign", "malignant"):
        (own / name).mkdir(parents=True)
    jobs = [*listed(f"--scale={scale}", "--weights", "none", "--out", "/out", "--synthetic", own)]
    arms, stages = {name: words for _, name, words in jobs}, {}
    assert len(arms) == len(jobs)
    for stage, name, words in jobs:                 # it comes after those that it names
        stages[f"/out/{name}"] = stage
        named = [word for word in words if word.startswith("/out/") and word != f"/out/{name}"]
        assert all(stages.get(word, stage) < stage for word in named), name
    for pattern, number, command in expected(scale):
        matching = re.compile(pattern.replace("-s%", r"-s(?P<seed>\d+)"))
        matches = list(filter(None, map(matching.fullmatch, arms)))
        assert len(matches) == number, pattern
        for match in matches:
            study, name = match[0].split("/")
            words = [re.sub(f"^/out/{study}/", "@", word) for word in arms.pop(match[0])]
            found = options_of(["OWN" if word == str(own) else word for word in words])
            seed = match.groupdict().get("seed", "")
            wanted = options_of(match.expand(command.replace("-s%", f"-s{seed}")).split())
            wanted |= {"--out": ["@" + name]} | ({"--seed": [seed]} if seed else {})
            for option in ("--forget", "--weights", "--precision"):
                found.pop(option, None)
            assert found == wanted, match[0]
    assert not arms


@pytest.mark.parametrize("words", ["quick", "paper", "paper --weights none"])
def test_weights_are_kept_where_they_are_needed_and_published_ones_taken_if_allowed(words):
    commands = [command for *_, command in listed("--scale", *words.split())]
    needed = {command[2] for command in commands if command[1] in ("rank", "score")}
    needed |= {options["--from"][0] for options in map(options_of, commands) if "--from" in options}
    of_arms = {re.sub(r"-s\d+$", "", name) for name in needed}
    for command in commands:
        if command[1] == "train":
            out = re.sub(r"-s\d+$", "", options_of(command)["--out"][0])
            assert ("--forget" in command) != (out in of_arms), command
        if command[:2] == ["classify.py", "train"]:
            pretrained = "weights" in classify.NETWORKS[command[2]].recipe
            assert ("--weights" in command) == (pretrained and words != "paper"), command
    judges = [command[2] for command in commands if command[1] == "score"]
    assert judges.count("inception") == 2 * (words == "paper")
    assert (ROOT / "run_all.sh").read_text().count("--precision") == 1      # only in $BF16


def test_dry_runs_and_own_generators_reach_the_jobs_that_they_are_for(tmp_path):
    taken = "dermagan", "real", "classical", "shuffled", "alone"        # names of arms
    for name in ("vae", *taken):
        (tmp_path / name / "benign").mkdir(parents=True)
        (tmp_path / name / "malignant").mkdir()
    found = [*listed("--dry-run", "--synthetic", tmp_path / "vae", "--seeds", 2)]
    for _, name, command in found:
        assert ("--dry-run" in command) == (command[1] in ("train", "rank", "score")), name
        assert "results/quick-dry/" in command[-1]          # no result of the same name is lost
    arms = [f"controls/cnn_100_vae{arm}-s{k}" for arm in ("", "_shuffled", "_alone") for k in "01"]
    assert [name for _, name, _ in found if "vae" in name] == arms
    for name in taken:
        found = listed("controls", "--synthetic", tmp_path / name)
        assert "controls/cnn_100_mine-s0" in [name for _, name, _ in found]
    (tmp_path / "half" / "benign").mkdir(parents=True)
    assert bash("list", "--synthetic", tmp_path / "half").returncode == 2
    for scale in ("small", "paper"):
        names = [name for _, name, _ in listed("--scale", scale, "--seeds", 2)]
        assert {re.sub(".*-s", "", name) for name in names if "-s" in name} == {"0", "1"}


def test_a_run_hands_its_words_on_and_ends_as_its_jobs_do(tmp_path):
    python = tmp_path / ".venv/bin/python"
    done = tmp_path / "results/quick/wgan_gp/data/result.json"
    for file in (python, done):
        file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    (tmp_path / ".venv/ready").touch()
    done.touch()
    python.write_text("#!/bin/sh\necho $* >> said\n[ $1 = report.py ] || exit $(wc -l)")
    python.chmod(0o755)
    script = ["bash", tmp_path / "run_all.sh", "wgan_gp"]
    shown = subprocess.run([*script, "list"], capture_output=True, text=True).stdout
    assert re.findall(r"(?m)^done\t(.*?)\tpython", shown) == ["1\twgan_gp/data"]
    for words in ([], ["--dry-run"], ["--data", tmp_path]):
        assert subprocess.run([*script, *words, "--jobs", "4"]).returncode == 10
    jobs = "jobs.py --out results/quick{} --jobs 4 --scale quick{}"
    said = [jobs.format("", ""), "report.py results/quick", jobs.format("-dry", " --dry-run"),
            jobs.format(f"-{tmp_path.name}", f" --data {tmp_path}"),
            f"report.py results/quick-{tmp_path.name}"]
    assert (tmp_path / "said").read_text().splitlines() == said


@pytest.mark.parametrize("words, said", [
    ("--scale huge", "huge"), ("nonsense", "nonsense"), ("--seeds 0", "--seeds"),
    ("--out", "--out needs a value"), ("--data /nowhere", "/nowhere"), ("--weights some", "some"),
    ("--synthetic /", "benign")])
def test_bad_options_end_in_one_line(words, said):
    found = bash("list", *words.split())
    assert found.returncode == 2 and said in found.stderr
    assert found.stderr.startswith(("run_all.sh", "realpath"))


def test_photographs_are_found_from_any_folder_and_with_odd_names(tmp_path):
    photos = "my $(echo)  'photos'"
    for name in ("benign", "malignant"):
        (tmp_path / photos / name).mkdir(parents=True)
    commands = {name: command for _, name, command in listed("--data", photos, cwd=tmp_path)}
    assert commands["wgan_gp/data"][2] == str(tmp_path / photos)
    assert options_of(commands["controls/data"])["--limit"] == ["benign=1000", "malignant=1000"]
    assert "--limit" not in commands["dcgan_inception/data"]
    studies = {name.split("/")[0] for name in commands}         # without those of eight classes
    assert studies >= {"wgan_gp", "dcgan_cls", "dcgan_inception", "controls"}
    assert studies.isdisjoint(["acgan_cyclegan", "dermagan"])
    for name, classes in (("ham10000", 7), ("isic2019", 8)):
        (tmp_path / photos / name).mkdir()
        commands = {name: words for _, name, words in listed("--data", photos, cwd=tmp_path)}
        assert sum("/cycle_" in name for name in commands) == classes
        limits = options_of(commands["acgan_cyclegan/data"])["--limit"]
        assert limits == ["NV=90", "MEL=90", "BCC=90", "BKL=90", "AK=90"]


# ---- The whole way

def test_a_study_runs_to_its_report_and_every_cell_is_filled(tmp_path):
    """Every command of paper 000's list, with two steps each, on drawn lesions."""
    text = ""
    for stage, name, command in listed("--out", tmp_path, "wgan_gp"):
        if "--steps" in command:
            command[command.index("--steps") + 1] = "2"
        text += f"wgan_gp\t{stage}\t{name.split('/')[1]}\t{shlex.join(command)}\n"
    command = [sys.executable, "jobs.py", "--out", tmp_path, "--jobs", "2"]
    subprocess.run(command, input=text, text=True, cwd=ROOT, check=True)
    report.write(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "not run" not in markdown.replace("was not measured", "") and "39,473,507" in markdown
