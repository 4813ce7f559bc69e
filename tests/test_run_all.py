"""Each arm of each study is what it should be, and the list runs to its report."""
import math
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import classify
import report

# ---- The list: what makes each arm of each study what it is

# Options that a scale may choose. The other words of a command say what the arm is, and stand in this
# table, with those that paper scale chooses: STUDY | NAME | what it is | at paper scale. WORDS
# abbreviates; % is the seed.
CHOSEN = ("--width --batch --lr --steps --epochs --size --beta1 --z-dim --blocks --snapshots --optimizer --samples "
          "--mixed-test --limit --built-in --test").split()
ARMS = r"""
wgan_gp | networks | gan.py describe wgan_gp |
wgan_gp | data | data.py prepare --for wgan_gp | --size 64 --built-in 480
wgan_gp | gan_(benign) | gan.py train wgan_gp --data @data --class \1 | --samples 879
wgan_gp | gan_(malignant) | gan.py train wgan_gp --data @data --class \1 | --samples 888
wgan_gp | (cnn|mobilenet|resnet18)_real-s% | classify.py train \1 --data @data |
wgan_gp | (cnn|mobilenet|resnet18)_hybrid-s% | classify.py train \1 --data @data --synthetic @gan_benign @gan_malignant | --mixed-test 100 104
dcgan_cls | data(|_raw) | data.py prepare --for dcgan_cls --resplit FILTERS\1 | --size 64 --test 0.2581 --built-in 480
dcgan_cls | dcgan_(base|batch100|lr1e3|sgd|sgd_high) | gan.py train dcgan_cls --data @data | --samples 1300 V_\1
dcgan_cls | dcgan_raw | gan.py train dcgan_cls --data @data_raw | --samples 1300
dcgan_cls | (plain_gan|lapgan) | gan.py train \1 --data @data | --samples 1300
dcgan_cls | (base|batch100|lr1e3|sgd|sgd_high)-s% | classify.py train trunk --data @data --from @dcgan_\1 | V_\1
dcgan_cls | base_probe-s% | classify.py train trunk --data @data --from @dcgan_base --frozen-epochs 25 |
dcgan_cls | base_scratch-s% | classify.py train trunk --data @data |
dcgan_cls | raw-s% | classify.py train trunk --data @data_raw --from @dcgan_raw |
dcgan_cls | fid | classify.py score @base_scratch-s0 @dcgan_base @plain_gan @lapgan --data @data |
acgan_cyclegan | data | data.py prepare --for acgan_cyclegan --resplit --val 0.1111 | --size 256 --test 0.1 --built-in 720
acgan_cyclegan | acgan | gan.py train acgan --data @data | --size 128 --samples 24000/20264
acgan_cyclegan | isic0-s% | classify.py train resnet50 --data @data | --size 256
acgan_cyclegan | cycle_(EIGHT) | gan.py train cyclegan --source @acgan --source-class \1 --data @data --class \1 | --samples 1/1 --size 256 --steps 30000
acgan_cyclegan | rank | classify.py rank @isic0-s0 --data @data --class MEL |
acgan_cyclegan | acgan_(2000|4000|8000|16000|24000)-s% | classify.py train resnet50 --data @data --lr-of @isic0-s% --synthetic @acgan --use \1/24000 | --size 256
acgan_cyclegan | cyclegan_(2000|4000|8000|16000|24000)-s% | classify.py train resnet50 --data @data --lr-of @isic0-s% --synthetic @cycle_AK @cycle_BCC @cycle_BKL @cycle_DF @cycle_MEL @cycle_NV @cycle_SCC @cycle_VASC --use \1/24000 | --size 256
acgan_cyclegan | nv2mel_(8|4|2|1) | gan.py train cyclegan --source @data --source-class NV --data @rank --class MEL --top 1/\1 | --samples 7000/10300 --size 256 --steps 30000
acgan_cyclegan | mel_(8|4|2|1)_(500|1000|2000|3000|4000|5000|6000|7000)-s% | classify.py train resnet50 --data @data --lr-of @isic0-s% --synthetic @nv2mel_\1 --use \2/7000 | --size 256
dermagan | data | data.py prepare --for dermagan --resplit --val 0.1 | --size 64 --test 100 --built-in 4400 --limit MEL=509 BKL=513 AK=456 BCC=498
dermagan | (|printed_)gan_(AK|BCC|BKL|MEL) | gan.py train dermagan --data @data --class \2 LEAK_\1 | --samples 100 --steps 6000
dermagan | cnn_real(|_printed)-s% | classify.py train derma_cnn --data @data | FIT STEPS\1
dermagan | cnn_gan(|_printed)-s% | classify.py train derma_cnn --data @data SETS\1 | FIT STEPS\1
dermagan | (mobilenet|resnet50)(|_printed)-s% | classify.py train \1_flat --data @data SETS\2 | FIT STEPS\2
dermagan | (mobilenet_v2|vgg16|vgg19)(|_printed)-s% | classify.py train \1 --data @data SETS\2 | FIT STEPS\2
dermagan | dropout_(0|0.1|0.2|0.3|0.4|0.5)-s% | classify.py train derma_cnn --data @data SETS --dropout \1 | FIT STEPS
dcgan_inception | data | data.py prepare --for dcgan_inception --resplit --val 0.1111 | --size 299 --test 0.1 --built-in 600 --limit malignant=250
dcgan_inception | dcgan | gan.py train dcgan_inception --data @data --class malignant | --samples balance --snapshots 2000
dcgan_inception | original(|_64)-s% | classify.py train inception --data @data THROUGH\1 |
dcgan_inception | augmented(|_64)-s% | classify.py train inception --data @data --synthetic @dcgan THROUGH\1 |
dcgan_inception | judge | classify.py train cnn --data @data | --steps 150 --batch 16
dcgan_inception | fid_curve | classify.py score @judge --data @data --class malignant --over-steps @dcgan |
controls | data | data.py prepare --for controls --resplit --drop-near --val 0.02 | --size 64 --test 0.4 --built-in 3000
controls | (GANS)_(25|50|100)_(benign|malignant)-s% | gan.py train \1 --data @data --share \2/200 --class \3 | --samples 1/1 --steps 6000 --batch 32
controls | (cnn|resnet18)_(25|50|100|200)_real-s% | CONTROL | EQUAL
controls | (cnn|resnet18)_(25|50|100)_classical-s% | CONTROL --augment classical | EQUAL
controls | (cnn|resnet18)_(25|50|100)_(GANS)(|_shuffled|_alone)-s% | CONTROL --synthetic @\3_\2_benign-s% @\3_\2_malignant-s% ARM\4 | EQUAL
controls | (cnn|resnet18)_(100)_mine(|_shuffled|_alone)-s% | CONTROL --synthetic OWN ARM\3 | EQUAL
"""
WORDS = {
    "EIGHT": "AK|BCC|BKL|DF|MEL|NV|SCC|VASC",
    "GANS": "wgan_gp|dcgan_cls|dermagan|dcgan_inception", "FIT": "--lr 2e-4 --beta1 0.5 --batch 64",
    "V_base": "", "V_batch100": "--batch 100", "V_lr1e3": "--lr 0.001", "V_sgd": "--optimizer sgd",
    "V_sgd_high": "--optimizer sgd --lr 0.02", "FILTERS": "--enhance", "FILTERS_raw": "",
    "STEPS": "--steps 3000", "STEPS_printed": "--epochs 100", "LEAK_": "", "LEAK_printed_": "--leak",
    "SETS": "--synthetic @gan_AK @gan_BCC @gan_BKL @gan_MEL", "THROUGH": "", "THROUGH_64": "--through 64",
    "SETS_printed": "--synthetic @printed_gan_AK @printed_gan_BCC @printed_gan_BKL @printed_gan_MEL --allow-leak",
    "ARM": "", "ARM_shuffled": "--shuffle", "ARM_alone": "--alone", "EQUAL": "--steps 20000 --batch 32",
    "CONTROL": r"classify.py train \1 --data @data --share \2/200 --schedule 1cycle"}
ROWS = [re.split(r" \|(?: |$)", re.sub("GANS|EIGHT|CONTROL", lambda word: WORDS[word[0]], line))
        for line in ARMS.strip().splitlines()]
SEEDS = dict(quick=(1, 3), small=(3, 5), paper=(5, 5))          # of a paper's study, of the controls


def spelled_out(text):
    return re.sub(r"\b[A-Z]+(_\w*)?", lambda word: WORDS.get(word[0], word[0]), text).split()


def bash(*words, cwd=ROOT):
    command = ["bash", ROOT / "run_all.sh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def listed(*words, **place):
    """[(stage, STUDY/NAME, words of the command), ...]"""
    rows = [line.split("\t") for line in bash("list", *words, **place).stdout.splitlines()[1:]]
    return [(int(stage), name, shlex.split(command)[1:]) for _, stage, name, command in rows]


def options_of(words):
    """{option: its values}, the first words under ""; of an option given twice the last counts."""
    found, option = {"": []}, ""
    for word in words:
        if word.startswith("--"):
            option, found[word] = word, []
        else:
            found[option].append(word)
    return found


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """{scale: {STUDY/NAME with % for the seed: [(options, what the scale chose, seed), ...]}}"""
    own, found = tmp_path_factory.mktemp("own") / "my own", {}
    for name in ("benign", "malignant"):
        (own / name).mkdir(parents=True)
    for scale in SEEDS:
        found[scale] = {}
        everything = "--weights", "none", "--out", "/out", "--synthetic", own
        for _, name, words in listed("--scale", scale, *everything):
            arm, seed = re.fullmatch(r"(.*?)(?:-s(\d+))?", name).groups()
            folder = f"/out/{name.split('/')[0]}/"
            words = [word.replace(str(own), "OWN").replace(folder, "@") for word in words]
            if seed:
                arm = f"{arm}-s%"
                words = [re.sub(rf"^(@.*)-s{seed}$", r"\1-s%", word) for word in words]
            options = options_of(words)
            assert options.pop("--out") == ["@" + arm.split("/")[1]], name
            assert options.pop("--seed", [None]) == [seed], name
            chosen = {option: options.pop(option) for option in CHOSEN if option in options}
            found[scale].setdefault(arm, []).append((options, chosen, seed))
    return found


@pytest.mark.parametrize("scale", SEEDS)
def test_each_arm_is_what_it_should_be(lists, scale):
    """What it may see, its own seed in its command and its GANs, no choice of paper scale's."""
    arms, free = dict(lists[scale]), ("--forget", "--weights", "--precision")
    for study, pattern, *texts in ROWS:
        matches = list(filter(None, [re.fullmatch(f"{study}/{pattern}", arm) for arm in arms]))
        if scale == "paper" or study != "controls":
            choices = [part.count("|") + 1 for part in re.findall(r"\(.*?\)", pattern)]
            assert len(matches) == math.prod(choices), pattern
        for match in matches:
            name, jobs_of = match[0], arms.pop(match[0])
            seeds = SEEDS[scale][study == "controls"] if name.endswith("%") else 1
            assert [int(seed or 0) for *_, seed in jobs_of] == list(range(seeds)), name
            what, at_paper = (options_of(spelled_out(match.expand(text))) for text in texts)
            for options, chosen, _ in jobs_of:
                assert {key: options[key] for key in options if key not in free} == what, name
                assert scale != "paper" or {"": []} | chosen == at_paper, name
    assert not arms


@pytest.mark.parametrize("scale", ["quick", "small"])
def test_arms_differ_at_every_scale_in_what_they_differ_in_at_paper_scale(lists, scale):
    """Equal steps and rates stay equal; an arm called batch100 differs in its batch alone."""
    def differing(arms, a, b):
        a, b = arms[a][0][1], arms[b][0][1]
        return {option for option in a | b if a.get(option) != b.get(option)}

    first = {}
    for arm, ((options, *_), *_) in lists[scale].items():
        other = first.setdefault((arm.split("/")[0], *options[""]), arm)
        here, there = differing(lists[scale], other, arm), differing(lists["paper"], other, arm)
        few_steps = arm.startswith("dermagan") and not {"derma_cnn", "dermagan"} & {*options[""]}
        if few_steps or scale == "quick" and "nv2mel" in arm:       # below paper scale; shorter
            here, there = here - {"--steps", "--epochs"}, there - {"--steps", "--epochs"}
        assert here == there, (arm, other)


@pytest.mark.parametrize("scale", SEEDS)
def test_mixed_tests_hold_the_papers_share_and_every_control_its_oracle(lists, scale):
    arms = lists[scale]
    mixed = arms["wgan_gp/cnn_hybrid-s%"][0][1]["--mixed-test"]
    for name, held, share in zip(("benign", "malignant"), mixed, (100 / 879, 104 / 888)):
        samples, = arms[f"wgan_gp/gan_{name}"][0][1]["--samples"]
        assert int(held) / int(samples) == pytest.approx(share, abs=0.006)
    found = [re.fullmatch(r"controls/cnn_(\d+)_real-s%", arm) for arm in arms]
    sizes = sorted(int(match[1]) for match in found if match)
    assert sizes[1:] == [2 * size for size in sizes[:-1]] and sizes[-3:] == [50, 100, 200]
    assert "controls/cnn_50_dcgan_cls_alone-s%" in arms


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
    assert ("inception" in needed) == (words == "paper")


def test_dry_runs_and_own_generators_reach_the_jobs_that_they_are_for(tmp_path):
    for name in ("vae/benign", "vae/malignant", "dermagan/benign", "dermagan/malignant"):
        (tmp_path / name).mkdir(parents=True)
    found = listed("--dry-run", "--synthetic", tmp_path / "vae", "--seeds", 2)
    for _, name, command in found:
        assert ("--dry-run" in command) == (command[1] in ("train", "rank", "score")), name
    arms = [f"controls/cnn_100_vae{arm}-s" for arm in ("", "_shuffled", "_alone")]
    assert {name for _, name, _ in found if "vae" in name} == {arm + seed for arm in arms for seed in "01"}
    taken = listed("controls", "--synthetic", tmp_path / "dermagan")    # a name of an arm's
    assert "controls/cnn_100_mine-s0" in [name for _, name, _ in taken]


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
    studies = {name.split("/")[0] for name in commands}         # without those of eight classes
    assert studies == {"wgan_gp", "dcgan_cls", "dcgan_inception", "controls"}


# ---- The whole way, and the README's examples

def test_a_study_runs_to_its_report_and_every_cell_is_filled(tmp_path):
    """Every command of paper 000's list, with two steps each, on drawn lesions."""
    text = ""
    for stage, name, command in listed("--out", tmp_path, "wgan_gp"):
        if "--steps" in command:
            command[command.index("--steps") + 1] = "2"
        text += f"wgan_gp\t{stage}\t{name.split('/')[1]}\t{shlex.join(command)}\n"
    found = subprocess.run([sys.executable, "jobs.py", "--out", tmp_path, "--jobs", "2"], input=text,
                           capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout
    report.write(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "not run" not in markdown.replace("was not measured", "") and "39,473,507" in markdown


@pytest.mark.parametrize("example, before, after, command", [
    (r"```python\n(.*?)```", "# ---- Noise, averages", "%s\n\n# ---- Noise, averages",
     "gan.py train lsgan --width 4 --class benign"),
    (r'`("efficientnet_b0": .*?)`', "NETWORKS = {\n", "NETWORKS = {\n    %s\n",
     "classify.py train efficientnet_b0")])
def test_the_readmes_examples_run(tmp_path, prepared, example, before, after, command):
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    file, *words = command.split()
    readme, text = (ROOT / "README.md").read_text(), (tmp_path / file).read_text()
    [example] = re.findall(example, readme, re.DOTALL)
    assert text.count(before) == 1
    (tmp_path / file).write_text(text.replace(before, after % example))
    words += ["--data", prepared, "--steps", "2", "--batch", "4", "--out", tmp_path / "job"]
    found = subprocess.run([sys.executable, file, *words], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and (tmp_path / "job" / "result.json").exists(), found.stderr
