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


def bash(*words, cwd=ROOT, root=ROOT):
    command = ["bash", root / "run_all.sh", *map(str, words)]
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


@pytest.mark.parametrize("scale, mine", [       # such names of folders name no arm
    ("quick", "my own"), ("small", "dermagan"), ("paper", "real"),
    ("quick", "classical"), ("quick", "shuffled"), ("quick", "alone")])
def test_each_arm_is_what_it_should_be(tmp_path, scale, mine):
    """What it may see, its own seed in its command and its GANs, and the numbers of its scale."""
    own = tmp_path / mine
    for name in ("benign", "malignant"):
        (own / name).mkdir(parents=True)
    jobs = [*listed(f"--scale={scale}", "--weights", "none", "--out", "/out", "--synthetic", own)]
    arms = {name: words for _, name, words in jobs}
    stages = {f"/out/{name}": stage for stage, name, _ in jobs}
    assert len(arms) == len(jobs)
    for stage, name, words in jobs:                 # it comes after those that it names
        assert all(stages.get(word, 0) < stage for word in words[:-1]), name
    for pattern, number, command in expected(scale):
        matching = re.compile(pattern.replace("-s%", r"-s(?P<seed>\d+)"))
        command = command.replace("-s%", r"-s\g<seed>") + r" --seed \g<seed>" * ("-s%" in pattern)
        matches = list(filter(None, map(matching.fullmatch, arms)))
        assert len(matches) == number, pattern
        for match in matches:
            study, name = match[0].split("/")
            text = " ".join(arms.pop(match[0])).replace(str(own), "OWN")
            text = re.sub(" --(forget|weights none|precision bf16)", "", text)
            found = options_of(text.replace(f"/out/{study}/", "@").split())
            wanted = options_of(match.expand(command).split()) | {"--out": ["@" + name]}
            assert found == wanted, match[0]
    assert not arms


@pytest.mark.parametrize("words", ["quick", "paper", "paper --weights none"])
def test_weights_are_kept_where_they_are_needed_and_published_ones_taken_if_allowed(words):
    commands = [command for *_, command in listed("--scale", *words.split())]
    text = " ".join(map(" ".join, commands))
    needed = re.findall(r"(?:rank|score|--from) (\S+?)(?:-s\d+)? ", text)
    for command in commands:
        if command[1] == "train":
            arm = re.sub(r"-s\d+$", "", command[-1])
            assert ("--forget" in command) != (arm in needed), command
        if command[:2] == ["classify.py", "train"]:
            pretrained = "weights" in classify.NETWORKS[command[2]].recipe
            assert ("--weights" in command) == (pretrained and words != "paper"), command
    assert text.count("score inception ") == 2 * (words == "paper")
    assert (ROOT / "run_all.sh").read_text().count("--precision") == 1      # only in $BF16


def test_dry_runs_and_own_generators_reach_the_jobs_that_they_are_for(tmp_path):
    for folder in ("vae/benign", "vae/malignant", "half/benign"):
        (tmp_path / folder).mkdir(parents=True)
    found = [*listed("--dry-run", "--synthetic", tmp_path / "vae", "--seeds", 2)]
    for _, name, command in found:
        assert ("--dry-run" in command) == (command[1] in ("train", "rank", "score")), name
        assert "results/quick-dry/" in command[-1]          # no result of the same name is lost
    arms = [f"controls/cnn_100_vae{arm}-s{k}" for arm in ("", "_shuffled", "_alone") for k in "01"]
    assert [name for _, name, _ in found if "vae" in name] == arms
    assert bash("list", "--synthetic", tmp_path / "half").returncode == 2
    for scale in ("small", "paper"):
        names = [name for _, name, _ in listed("--scale", scale, "--seeds", 2)]
        assert {re.sub(".*-s", "", name) for name in names if "-s" in name} == {"0", "1"}


def test_a_run_hands_its_words_on_and_ends_as_its_jobs_do(tmp_path):
    for name in (".venv/bin/python", ".venv/ready", "results/quick/wgan_gp/data/result.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o755)
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    python = "#!/bin/sh\necho $* >> said\n[ $1 = report.py ] || exit $(wc -l)"
    (tmp_path / ".venv/bin/python").write_text(python)
    shown = bash("wgan_gp", "list", root=tmp_path).stdout
    assert re.findall(r"(?m)^done\t(.*?)\tpython", shown) == ["1\twgan_gp/data"]
    for words in ([], ["--dry-run"], ["--data", tmp_path]):
        assert bash("wgan_gp", *words, "--jobs", 4, root=tmp_path).returncode == 10
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
    photos = tmp_path / "my $(echo)  'photos'"
    eight = ["NV=90 MEL=90 BCC=90 BKL=90 AK=90", "MEL=509 BKL=513 AK=456 BCC=498"]
    for name, cycles in (("benign", 0), ("malignant", 0), ("ham10000", 7), ("isic2019", 8)):
        (photos / name).mkdir(parents=True)
        commands = [*listed("--data", photos.name, cwd=tmp_path)]
        assert sum("/cycle_" in name for _, name, _ in commands) == cycles
        data = [options_of(words) for *_, words in commands if "prepare" in words]
        assert {options[""][2] for options in data} == {str(photos)}
        limits = [" ".join(options.get("--limit", [])) for options in data]
        assert limits == ["", "", "", *(eight if cycles else []), "", "benign=1000 malignant=1000"]


# ---- The whole way

def test_a_study_runs_to_its_report_and_every_cell_is_filled(tmp_path):
    """Every command of paper 000's list, with two steps each, on drawn lesions."""
    text = ""
    for stage, name, command in listed("--out", tmp_path, "wgan_gp"):
        command = re.sub(r"--steps \d+", "--steps 2", shlex.join(command))
        text += f"wgan_gp\t{stage}\t{name.split('/')[1]}\t{command}\n"
    command = [sys.executable, "jobs.py", "--out", tmp_path, "--jobs", "2"]
    subprocess.run(command, input=text, text=True, cwd=ROOT, check=True)
    report.write(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "not run" not in markdown.replace("was not measured", "") and "39,473,507" in markdown
