"""report.py: papers/*.md and the finished jobs of a results folder -> report.md -> report.html.

    python report.py results/quick
    python report.py results/small --docs docs/ --licence 'HAM10000, CC BY-NC 4.0'
        also docs/small.md, without photographs

A table of papers/STUDY.md with a column `job` (or `as printed`, `clean`) gets our values beside the
printed ones; all other text is copied. A cell of such a column names a job, - none; NAME@mixed is
its result on that test set, NAME@critic on that network. The other heads, or the cells of a column
`measure`, say what is shown; claims name jobs to compare, figures a kind (see FIGURES) and jobs:

    accuracy, auc, loss, validation accuracy    of a classifier; with % behind it in per cent
    precision, recall, f1 [CLASS]               without CLASS: that of the row's first cell
    called CLASS                                how many of the row's class were called CLASS
    images PART, distance SET                   counts; Frechet distance of a set, by `score`
    resemblance, diversity, ...                 a number in the metrics of a GAN
"""
import contextlib
import fnmatch
import functools
import itertools
import re
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np

import jobs
import metrics
from jobs import UserError
from page import Page, cells_of, interval_chart, line_chart

FILES = sorted((Path(__file__).resolve().parent / "papers").glob("*.md"))
PAPERS = {file.stem.partition("_")[2]: file for file in FILES}      # 000_wgan_gp.md: wgan_gp
NO_EFFECT = 0.027           # 2,534 test images can show it with 80 % power: "no effect" is less
FAR = 3                     # times the noise floor: a GAN's distance that is told
COPIES = 0.6                # share nearer to training images that is called copying; without it .5
DISTANCE = " {distance:.2f} ± {spread:.2f}, noise floor {floor:.2f}, KID {kid:.3g}"
DRAWN = "drawn lesions"     # how the source of such images begins
BROKEN = UserError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError


@contextlib.contextmanager
def leaving_out(say, what=""):
    """Where a damaged result breaks what is done inside, this is said, and the report goes on."""
    try:
        yield
    except BROKEN as problem:
        say(f"Left out, damaged: {what}{' '.join(repr(problem).split())}")


# ---- Results

class Results:
    """The finished jobs of a folder. "study/name" stands for its seeds study/name-s0, -s1, ..."""

    KINDS = dict(config=dict, metrics=dict, counts=dict, source=dict, generators=dict,
                 seconds=(int, float), command=str)

    def __init__(self, out):
        self.out = Path(out)
        self.jobs = {}      # "study/name-s0": what its result.json holds, its folder and tests
        self.seeds = {}     # "study/name": [the same of each seed, ...]
        self.controls = {}  # (network, share of the images, generator or "", kind): name of the arm
        self.own = {}       # generator in the controls that is not of gan.py: its measures
        self.damaged = []
        for file in sorted(self.out.glob("*/*/result.json")):
            job = file.parent.relative_to(self.out).as_posix()
            with leaving_out(self.damaged.append, f"{job}: "):
                self.add(job, file.parent)

    def add(self, job, folder):
        result = dict(metrics={}, counts={}, source={}, generators={})
        result |= jobs.read_json(folder / "result.json")
        for key, kind in self.KINDS.items():
            if not isinstance(result.get(key), kind):
                raise UserError(f"result.json is not of this project: {key}")
        config, found = result["config"], result["metrics"]
        name = job.removesuffix(f"-s{config.get('seed')}")
        result |= dict(folder=folder, tests={})
        if "diversity" in found:
            gan_row(name, found, result)                        # now, so that nothing lacks later
        if "leaked" in result:                                  # a classifier
            for test in found:
                result["tests"][test] = metrics.read_predictions(folder, test)

        if job.startswith("controls/"):
            if result["tests"]:
                self.controls[arm_of(config)] = name.removeprefix("controls/")
            for generator, measures in result["generators"].items():
                if measures:                                    # {} of gan.py's own
                    gan_row(generator, measures)
                    self.own[generator] = measures
        self.jobs[job] = result
        self.seeds.setdefault(name, []).append(result)

    def names(self, study, patterns):
        """Names of a study that fit: "cnn_real gan_*" -> ["study/cnn_real", "study/gan_AK"]."""
        found = [fnmatch.filter(self.seeds, f"{study}/{pattern}") for pattern in patterns.split()]
        return sum(found, [])

    def of(self, name):
        """The result of each seed."""
        return self.seeds.get(name, [])

    @functools.cache
    def arms(self, name, test="real"):
        """{measure: Arm} of the seeds on one test; {} where it has not run."""
        runs = [one["tests"][test] for one in self.of(name) if test in one["tests"]]
        with leaving_out(self.damaged.append, f"{name}: "):
            return metrics.arms_of(runs) if runs else {}
        return {}

    def accuracies(self, study, names):
        """{(name, test): Arm} of "name", "name@test" or wildcards; {} if one has not run."""
        found = {}
        for pattern in names.split():
            pattern, _, test = pattern.partition("@")
            matches = self.names(study, pattern)
            for name in matches:
                found[name, test] = self.arms(name, test or "real").get("accuracy")
            if not matches or None in found.values():
                return {}
        return found

    def after_collapse(self, study, patterns):
        """A word, if a GAN has collapsed from which these jobs learned: their commands name it."""
        patterns = re.sub(r"@\S+", "", patterns)
        for name in self.names(study, patterns):
            for word in " ".join(one["command"] for one in self.of(name)).split():
                source = self.jobs.get(f"{study}/{Path(word).name}")
                if source and source["metrics"].get("collapsed"):
                    return ", a GAN COLLAPSED"
        return ""

    def gain(self, study, before, after):
        """metrics.gain in accuracy of jobs named as in papers/*.md; None if one has not run."""
        before, after = self.accuracies(study, before), self.accuracies(study, after)
        if not before or not after:
            return None
        try:
            return metrics.gain(before | after, before, after)
        except UserError:                           # on other test images: no paired interval
            low = np.mean([arm.values.mean() for arm in before.values()])
            high = np.mean([arm.values.mean() for arm in after.values()])
            return [high - low, None, None, None]

    def source(self, study):
        """Where the images of a study come from."""
        for result in self.of(f"{study}/data"):
            return str(result["source"].get("stand_in") or result["source"].get("source"))
        return "unknown images"

def arm_of(config):
    """(network, share, generator, kind) of a classifier of the controls. kind: what was done with
    the generator's images (shuffle, alone), else the augmentation (none, classical)."""
    kinds = [option for option in ("shuffle", "alone") if config[option]] + [config["augment"]]
    return config["model"], Fraction(config["share"]), " + ".join(config["synthetic"]), kinds[0]


# ---- One cell

def value(results, study, job, measure, row):
    """A measure of a job, as text. row: the first cell of its row, such as a class."""
    name, _, test = job.partition("@")
    test = test or "real"
    seeds = results.of(f"{study}/{name}")
    if not seeds:
        return f"not run: {name}"
    first = seeds[0]
    kind, _, label = measure.removesuffix(" %").partition(" ")
    if kind == "images":
        counts = first["counts"].get(label, {})
        return f"{sum(counts.values()) if row == 'Sum' else counts.get(row, 0):,}"
    if kind == "distance":
        sets = {one["set"]: one for one in first["rows"]}
        if label not in sets:
            return "not scored"
        return first["net"] + DISTANCE.format(**sets[label])
    if kind in first["metrics"]:                    # a GAN's
        return f"{np.mean([one['metrics'][kind] for one in seeds]):.2f}"
    if test not in first["tests"]:
        return f"no {test} test"

    if kind == "called":
        classes = first["config"]["classes"]
        matrix = first["metrics"][test]["confusion"]
        return f"{matrix[classes.index(row)][classes.index(label)]:,}"
    if kind == "loss":
        return f"{np.mean([one['metrics'][test]['loss'] for one in seeds]):.3f}"
    if kind == "validation":
        return f"{np.mean([one['curves']['val_accuracy'][-1] for one in seeds]):.3f}"
    if kind in ("precision", "recall", "f1"):
        kind = f"{kind} {label or row}"
    arm = results.arms(f"{study}/{name}", test).get(kind)
    if arm is None:
        return f"no {measure} here"
    level = metrics.level(arm)
    if level is None:
        return f"no {label} here" if measure.startswith("recall") else "never predicted"
    return percent(level) if measure.endswith("%") else "{:.3f} [{:.3f}, {:.3f}]".format(*level)


def percent(level):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*np.multiply(level, 100))


def points(gain):
    """A gain in percentage points as text."""
    if gain is None or gain[0] is None:
        return "not run"
    value, *ends = [f"{100 * share:+.1f}" for share in gain[:3] if share is not None]
    return f"{value} points [{', '.join(ends)}]" if ends else f"{value} points"


def verdict(printed, gain, p):
    """What became of a claim. printed: its cell; gain: [value, low, high, p]; p: corrected by Holm.

    Zero excluded in the claimed direction, and the printed effect in the interval: reproduced. The
    first alone: same direction. Neither: not reproduced. The second alone: too few images or seeds.
    """
    if gain is None or gain[1] is None:
        return "cannot be tested here: not run"
    value, low, high, _ = gain
    number = re.match(r"(level )?([+-]?[\d.]+)", printed)
    claimed, inside = 0.0, high > 0                 # "better", without a number
    if number:
        claimed = float(number[2]) / 100
        inside = low <= claimed <= high
    if printed.startswith("level"):
        return "reproduced" if inside else "not reproduced"
    if p is None:
        return "cannot be tested here: one seed does not show training's chance"
    if printed.startswith("no effect"):
        if -NO_EFFECT <= low and high <= NO_EFFECT:
            return "reproduced"
        clear = p < 0.05 and abs(value) > NO_EFFECT
        return "not reproduced" if clear else "cannot be tested here: too few images"
    if p < 0.05 and (value < 0) == (claimed < 0):
        return "reproduced" if number and inside else "same direction"
    return "cannot be tested here: too few images or seeds" if inside else "not reproduced"


# ---- Figures: functions of a result and its name to [(caption, picture), ...]

def steps(result, name):
    """The first grid of a training, those at about 13 % and 33 %, and the last."""
    grids = sorted(result["folder"].glob("grid_*.png"))
    chosen = {round(share * (len(grids) - 1)) for share in (0, 0.13, 0.33, 1)}
    return [(f"{name}, step {int(grids[k].stem[5:])}", grids[k]) for k in sorted(chosen)]


def losses(result, name):
    """What a GAN's step returned, averaged over windows of steps."""
    series = []
    window = result["curves"]["window"]
    for key, ys in result["curves"].items():
        if key not in ("window", "penalty"):
            series.append((key, window * np.arange(1, len(ys) + 1), ys))
    return [(caption_of(result, name), line_chart(name, "step", series))]


def training(result, name):
    curves, shown = result["curves"], []
    looks = np.arange(1, len(curves["loss"]) + 1)
    for key in ("accuracy", "loss"):
        series = [("training", looks, curves[key]), ("validation", looks, curves[f"val_{key}"])]
        chart = line_chart(f"{name}: {key}", "look at the validation part", series)
        shown.append((name, chart))
    return shown


def roc(result, name):
    labels, probabilities, _, classes = result["tests"]["real"]
    series = [(f"{classes[1]} positive", *metrics.roc_curve(labels, probabilities[:, 1]))]
    return [(name, line_chart(f"{name}: ROC", "false positive rate", series))]


def distance_curves(result, name):
    """Distance beside its noise floor, and Inception score, over the steps of a GAN."""
    lines = {}
    at = [int(row["set"]) for row in result["rows"]]
    for key in ("distance", "floor", "inception_score"):
        lines[key] = key.replace("_", " "), at, [row[key] for row in result["rows"]]
    return [(name, line_chart(result["net"], "step", [lines["distance"], lines["floor"]])),
            (name, line_chart("Inception score", "step", [lines["inception_score"]]))]


def curves(result, name):
    return training(result, name) + roc(result, name)


def caption_of(result, name):
    """With the steps and the diversity of a GAN."""
    found = result["metrics"]
    if "diversity" not in found:
        return name
    alarm = ", COLLAPSED" if found["collapsed"] else ""
    return f"{name}: {result['config']['steps']} steps, diversity {found['diversity']:.2f}{alarm}"


def dose(results, names):
    """Accuracy over the number at the end of the names, a line for each kind of name."""
    lines = {}
    for name in names:
        kind, _, number = name.split("/")[1].rpartition("_")
        accuracy = results.arms(name)["accuracy"].values.mean()
        lines.setdefault(kind, []).append((float(number), 100 * accuracy))
    series = [(kind, *zip(*sorted(line))) for kind, line in lines.items()]
    return [("accuracy in %", line_chart("accuracy in %", "number in the job's name", series))]


def confusion(results, study, name):
    """Of the first seed: a row per true class, a column for what it was called."""
    result, rows = results.of(f"{study}/{name}")[0], []
    classes = result["config"]["classes"]
    for truth, called in zip(classes, result["metrics"]["real"]["confusion"]):
        rows.append({name: truth} | {f"called {one}": n for one, n in zip(classes, called)})
    return rows


def counts(results, study, name):
    """The images of each class by part; of a classifier also those that GANs have drawn."""
    parts = results.of(f"{study}/{name}")[0]["counts"]
    if "train" not in parts:
        real = results.of(f"{study}/data")[0]["counts"]
        added = Counter(parts) - Counter(real["train"])
        parts = {"train real": real["train"], "train from GANs": added, "test": real["test"]}
    first, *_ = parts.values()
    rows = []
    for label in first:
        rows.append({name: label} | {part: of.get(label, 0) for part, of in parts.items()})
    return rows


FIGURES = {"steps": steps, "gan": losses, "training": training, "roc": roc, "curves": curves,
           "distance": distance_curves}
TABLES = {"confusion": confusion, "counts": counts}


def pictures_of(results, kind, names):
    """The pictures of the first seed of each name; a kind that is not above is a PNG of the job."""
    shown = []
    for name in names:
        result, name = results.of(name)[0], name.split("/")[1]
        if kind in FIGURES:
            shown += FIGURES[kind](result, name)
        else:
            shown.append((caption_of(result, name), result["folder"] / f"{kind}.png"))
    return shown


# ---- A paper

@functools.cache
def read_paper(study):
    """papers/STUDY.md up to the notes, which stay in the file: [text or rows of a table, ...]."""
    blocks = []
    paper = PAPERS[study].read_text(encoding="utf-8").partition("## Stated, silent, changed")[0]
    for block in paper.strip().split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = map(cells_of, block.splitlines())
            block = [dict(zip(header, row, strict=True)) for row in rows]
        blocks.append(block)
    return blocks


OURS = {"job": "ours", "as printed": "ours, as printed", "clean": "ours, clean"}


def paper_section(page, results, study):
    """A paper's text with its tables filled."""
    for block in read_paper(study):
        if isinstance(block, str):
            page.add(re.sub("^#", "##", block))
            continue
        with leaving_out(page.add):
            fill(page, results, study, block)
    page.add("What the paper states, leaves silent, and what was changed: "
             f"papers/{PAPERS[study].name}")
    gan_table(page, results, study)


def fill(page, results, study, rows):
    first, *others = rows[0]
    if first == "figure":
        for row in rows:
            figure(page, results, study, *row.values())
        return
    if first == "claim":
        rows = claims_of(results, study, "verdict")             # which is on the first screen
    elif first == "layer":
        rows = layers(results, study, rows)
    elif "measure" in others:
        rows = ours_beside(results, study, first, rows)
    elif OURS.keys() & set(others):
        rows = ours_below(results, study, first, rows)
    page.table(rows)


def layers(results, study, rows):
    """The layers of a network, ours beside the printed ones, in their order; the total is last."""
    name, _, network = rows[0]["job"].partition("@")
    ours = [["", [f"not run: {name}"], 0]] * len(rows)
    for result in results.of(f"{study}/{name}"):
        ours = result["tables"][network]
    filled = []
    for row, (_, shape, parameters) in zip(rows, [*ours[:len(rows) - 1], ours[-1]]):
        output = "x".join(map(str, shape)) or "-"
        filled.append({
            "layer": row["layer"], "output, printed": row["output"], "ours": output,
            "parameters, printed": row["parameters"], "our parameters": f"{parameters:,}"})
    return filled


def ours_beside(results, study, first, rows):
    """A table of single values, ours in further columns."""
    filled = []
    for row in rows:
        line = {first: row[first], "measure": row["measure"], "printed": row["value"]}
        for name, words in OURS.items():
            if name in row:
                line[words] = value(results, study, row[name], row["measure"], row[first])
        filled.append(line)
    return filled


def ours_below(results, study, first, rows):
    """A table with a column per measure, ours in rows below the printed one."""
    columns = [name for name in rows[0] if name not in {first, *OURS}]
    filled = []
    for row in rows:
        printed = {column: row[column] for column in columns}
        if set(printed.values()) - {"-", "not printed"}:
            filled.append({first: row[first], "": "printed"} | printed)
        for name, words in OURS.items():
            if row.get(name, "-") != "-":
                line = {first: row[first], "": words}
                for column in columns:
                    line[column] = value(results, study, row[name], column, row[first])
                filled.append(line)
    return filled


def figure(page, results, study, number, title, kind, patterns):
    names = results.names(study, patterns)
    page.add(f"**{title}**" if number == "ours" else f"**Figure {number}. {title}**")
    if not names:
        page.add(f"not run: {patterns}")
    elif kind in TABLES:
        for name in names:
            page.table(TABLES[kind](results, study, name.split("/")[1]))
    elif kind == "dose":
        page.pictures(dose(results, names))
    else:
        page.pictures(pictures_of(results, kind, names))


def claims_of(results, study, hidden):
    """[{column: cell}, ...] without the hidden one: the paper's claims and what became of them."""
    rows, gains = [], []
    for block in read_paper(study):
        if isinstance(block, list) and "claim" in block[0]:
            rows += block
    for row in rows:
        gain = results.gain(study, row["before"], row["after"])
        arms = results.arms(f"{study}/{row['after']}")
        if row["before"] == "-" and arms:           # not a gain but an accuracy
            gain = [*metrics.level(arms["accuracy"]), None]
        gains.append(gain)

    found = []
    corrected = metrics.holm([gain and gain[3] for gain in gains])
    for row, gain, p in zip(rows, gains, corrected):
        clean, as_printed = points(gain), "-"
        if row["before"] == "-" and gain:
            clean = f"{percent(gain[:3])} %"
        if gain:
            clean += results.after_collapse(study, f"{row['before']} {row['after']}")
        before, after = row.get("before, as printed", "-"), row.get("after, as printed", "-")
        if before != "-":
            as_printed = points(results.gain(study, before, after))
            as_printed += results.after_collapse(study, f"{before} {after}")
        said = verdict(row["printed"], gain, p)
        if gain and lacks_weights(results, study, row):
            said = "cannot be tested here: without published weights"
        found.append({
            "claim": row["claim"], "printed": row["printed"], "ours, clean": clean,
            "ours, as printed": as_printed, "verdict": said})
        del found[-1][hidden]
    return found


def lacks_weights(results, study, row):
    """Does a claim compare a network that the paper took pretrained, here from random weights, with
    one that it did not?"""
    weights = set()
    for name in results.names(study, f"{row['before']} {row['after']}"):
        for result in results.of(name):
            weights.add(result["config"].get("weights"))
    return {None, "none"} <= weights


# ---- The controls

TITLES = {"wgan_gp": "WGAN-GP", "dcgan_cls": "DCGAN (001)", "dermagan": "DCGAN (003)",
          "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "small CNN", "resnet18": "ResNet-18"}


def generators_of(results, net="cnn"):
    """{generator whose images stand in the controls: its title}; one's own come first."""
    found = {generator for model, _, generator, _ in results.controls if model == net} - {""}
    order = sorted(found, key=lambda generator: (generator in TITLES, generator))
    return {generator: TITLES.get(generator, generator) for generator in order}


def sizes_of(results, net):
    """The shares that were trained with and without as many further real images, rising."""
    real = {share for model, share, *arm in results.controls if [model, *arm] == [net, "", "none"]}
    return sorted(share for share in real if 2 * share in real)


def worth_of(results, net, generators):
    """(worth [x, low, high], gain of GAN images, gain of as many real ones) over all sizes."""
    arms, triples = {}, []
    for share, generator in itertools.product(sizes_of(results, net), generators):
        triple = []
        for arm in ((share, ""), (share, generator), (2 * share, "")):
            triple.append(f"controls/{results.controls.get((net, *arm, 'none'))}")
        found = [results.arms(name) for name in triple]
        if all(found):
            triples.append(triple)
            arms |= {name: of["accuracy"] for name, of in zip(triple, found)}
    if not triples:
        return None
    real, with_gan, more = zip(*triples)
    generated = metrics.gain(arms, real, with_gan)
    return metrics.worth(arms, triples), generated, metrics.gain(arms, real, more)


def answer(results):
    """The first sentences of the page: of each generator of one's own by name, then of our GANs."""
    said = []
    for name, measures in results.own.items():
        said.append(sentence(results, [name], f"images of {name}"))
        if state_of(measures) != "alive":
            said.append(f"But {name}: {state_of(measures)}.")
    ours = generators_of(results).keys() - results.own
    if ours or not said:
        said.append(sentence(results, sorted(ours), "GAN images"))
    return " ".join(said)


def sentence(results, generators, images):
    found = worth_of(results, "cnn", generators)
    if not found:
        return f"What {images} are worth was not measured here: bash run_all.sh controls"
    (x, low, high), generated, more = found
    what = "drawn lesion" if results.source("controls").startswith(DRAWN) else "photograph"
    if not np.isfinite(low):
        return (f"What {images} are worth cannot be told here: as many further real {what}s "
                f"changed the accuracy by {points(more)}, which is not clear of zero.")
    helped = "helped" if low > 0 else "did not help"
    return (f"Here {images} {helped}: one was worth {x:.2f} of a further real {what} "
            f"(95 % interval {low:.2f} to {high:.2f}). Doubling the training set with them changed "
            f"a small CNN's accuracy by {points(generated)}, with as many further real {what}s by "
            f"{points(more)}.")


def controls_section(page, results):
    page.add("## The controls: what is one GAN image worth?")
    sizes = []
    for result in results.of("controls/data"):
        sizes = [f"{part} {sum(of.values())}" for part, of in result["counts"].items()]
    seeds = {len(results.of(f"controls/{name}")) for name in results.controls.values()}
    seeds = " or ".join(map(str, sorted(seeds))) or "0"
    page.add(f"Images: {', '.join(sizes)}; half of the training part is held back as further real "
             "images. Each GAN learns from the images that the classifier beside it has. All arms "
             "of a classifier make equally many steps, are tested on the same real images, and add "
             "as many images as there are real ones. Shuffled: under permuted labels, a placebo. "
             f"Intervals: 95 %, over test lesions and each arm's {seeds} seeds.")
    for net in NETS:
        if sizes_of(results, net):
            controls_table(page, results, net)
    gan_table(page, results, "controls")


def controls_table(page, results, net):
    """A row for each way to double the training set, a column for each size."""
    arms = {"as many further real images": (2, "", "none"),
            "classical augmentation": (1, "", "classical")}
    for generator, title in generators_of(results, net).items():
        arms[f"{title} images"] = 1, generator, "none"
        arms[f"{title}, labels shuffled"] = 1, generator, "shuffle"
        arms[f"{title} alone"] = 1, generator, "alone"
    rows = [{"added": words} for words in ("nothing: accuracy in %", *arms)]
    for share in sizes_of(results, net):
        real = results.controls[net, share, "", "none"]
        images = sum(results.of(f"controls/{real}")[0]["counts"].values())
        column = f"{images} real images"
        rows[0][column] = value(results, "controls", real, "accuracy %", "")
        for row, (times, generator, kind) in zip(rows[1:], arms.values()):
            other = results.controls.get((net, times * share, generator, kind), "")
            row[column] = points(results.gain("controls", real, other))
            row[column] += results.after_collapse("controls", other)
    page.add(f"### {NETS[net]}: gain in accuracy over the real images alone")
    page.table(rows)


# ---- The GANs

def gans_of(results, study):
    names = results.names(study, "*")
    return [name for name in names if "diversity" in results.of(name)[0]["metrics"]]


def gan_table(page, results, study):
    """How each GAN of the study ended; in the controls also one's own generators."""
    rows = []
    if study == "controls":
        rows = [gan_row(name, measures) for name, measures in results.own.items()]
    for name in gans_of(results, study):
        seeds = sorted(results.of(name), key=lambda one: one["metrics"]["diversity"])
        worst = max(seeds, key=lambda one: one["metrics"]["collapsed"])     # else the least diverse
        rows.append(gan_row(name.split("/")[1], worst["metrics"], worst))
    if rows:
        page.add("### The GANs (columns: see the end)")
        page.table(rows)


def gan_row(name, measures, result=None):
    """One line of the table. result: of a training of ours."""
    steps, seconds, distance, copies = "-", "-", "-", "-"
    state = state_of(measures)
    if result:
        steps, seconds = result["config"]["steps"], f"{result['seconds']:.0f}"
    if "fd_8x8_distance" in measures:
        distance = "{fd_8x8_distance:.3f} ({fd_8x8_floor:.3f})".format(**measures)
        if state == "alive" and measures["fd_8x8_distance"] > FAR * measures["fd_8x8_floor"]:
            state = "alive, but far"
    if "closer_to_train" in measures:
        copies = "{:.2f} [{:.2f}, {:.2f}]".format(*measures["closer_to_train"])
    return {
        "GAN": name, "steps": steps, "seconds": seconds,
        "diversity": f"{measures['diversity']:.2f}",
        "distinctness": f"{measures['distinctness']:.2f}", "FD-8x8 (noise floor)": distance,
        "nearer to training images": copies, "state": state}


def state_of(measures):
    """How a generator ended: copying comes first, since who copies a few looks collapsed."""
    states = []
    if measures.get("closer_to_train", [0, 0, 0])[1] > COPIES:
        states.append("COPIES its training images")
    if measures.get("collapsed"):
        states.append("COLLAPSED: its rows count as failed")
    return "; ".join(states) or "alive"


# ---- The first screen, and the last

def first_screen(page, results, scale):
    page.add("# Do GAN images help a skin-lesion classifier?")
    page.add(answer(results))
    if scale == "quick":
        page.add("Quick scale: narrow networks, few steps. The controls answer for these images; "
                 "the papers' tables below are a rehearsal, and none of their numbers can be "
                 "compared with a printed one.")
    claims = []
    for study in PAPERS:
        if scale != "quick" and results.names(study, "*"):
            with leaving_out(page.add, f"{study}: "):
                for row in claims_of(results, study, "ours, as printed"):
                    claims.append({"paper": PAPERS[study].stem[:3]} | row)
    if claims:
        page.table(claims)

    worths = {}
    for generator, title in generators_of(results).items():
        found = worth_of(results, "cnn", [generator])
        if found and np.isfinite(found[0][1]):
            worths[title] = found[0]
    if worths:
        chart = interval_chart("worth of one GAN image", worths)
        page.pictures([("in further real images: 0 nothing, 1 as much as a real one", chart)])
    for study in ("controls", *PAPERS):
        data, gans = results.names(study, "data"), gans_of(results, study)[:2]
        if data and gans:
            (_, real), *generated = pictures_of(results, "grid", data + gans)
            page.pictures([(f"real: {results.source(study)}, a row per class", real), *generated])
            break


def last_screen(page, results, config):
    """What the GANs' columns mean; the command; commits, devices, seconds of each study."""
    page.add("## The columns of the GANs")
    page.add("Of several seeds the worst. Diversity: distance between two samples, each less its "
             f"mean colour, over that of real images; below {metrics.COLLAPSED} it has collapsed. "
             "Distinctness: the same of a sample and its nearest other one; below "
             f"{metrics.DISTINCT} a few pictures come again. FD-8x8: Frechet distance in mean "
             f"colours of an 8 x 8 grid, no FID; far: over {FAR} noise floors. Nearer to training "
             "images: share of GAN images whose nearest real image is one that the GAN saw; 0.5 "
             "without copying.")
    page.add("## How this was made")
    command = f"bash run_all.sh --scale {config['scale']}"
    if config["data"] != "drawn lesions":
        command += " --data DIR"
    if results.own:
        command += " --synthetic MINE"
    weights = [result["config"].get("weights") for result in results.jobs.values()]
    if "none" in weights and config["scale"] != "quick":
        command += " --weights none"
    written = time.strftime("%Y-%m-%d %H:%M")
    page.add(f"`{command}`; written {written}. The command of each job is in its result.json. "
             "To try what decides such numbers: EXERCISES.md, ten experiments.")
    rows = []
    for study in (*PAPERS, "controls"):
        found = [one for job, one in results.jobs.items() if job.startswith(f"{study}/")]
        if found:
            commits = sorted({str(one.get("commit")) for one in found})
            devices = Counter(str(one.get("device")) for one in found)
            seconds = sum(one["seconds"] for one in found)
            rows.append({"study": study, "images": results.source(study),
                         "jobs": ", ".join(f"{n} on {name}" for name, n in devices.items()),
                         "commit": ", ".join(commits), "seconds, added up": f"{seconds:,.0f}"})
    page.table(rows)


# ---- For the repository

def public(results, licence, path):
    """(a picture to publish in place of `path`, or None: photographs; a line on its origin)."""
    result = results.jobs.get(path.parent.relative_to(results.out).as_posix())
    if result is None:                              # a chart
        return path, ""
    source = results.source(path.parent.parent.name)
    if "diversity" not in result["metrics"]:
        return path if source.startswith(DRAWN) else None, ""
    if "source" in result["config"]:                # in a CycleGAN's grid.png its sources are above
        path = max(path.parent.glob("grid_*.png"))
    return path, f"Drawn by GANs that learned {licence or source}"


# ---- Command line

def write(out, docs=None, licence=""):
    """report.md and report.html of the finished jobs in `out`. Returns the answer's sentences.
    docs: a folder for it as Markdown; there the licence of the photographs stands below images."""
    results = Results(out)
    if not results.jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    config = dict(scale="unknown", data="unknown")
    with contextlib.suppress(UserError):            # missing or damaged
        config |= jobs.read_json(results.out / "config.json")
    page, scale = Page(results.out), str(config["scale"])
    with leaving_out(page.add):
        first_screen(page, results, scale)
    if results.names("controls", "*"):
        with leaving_out(page.add, "controls: "):
            controls_section(page, results)
    for study in PAPERS:
        if results.names(study, "*"):
            with leaving_out(page.add, f"{study}: "):
                paper_section(page, results, study)
    page.blocks += results.damaged
    last_screen(page, results, config)

    for name, words in (("report.md", "\n\n".join(page.blocks)), ("report.html", page.html())):
        with jobs.replacing(results.out / name) as file:
            file.write(words.encode())
    if docs:
        if config["data"] != DRAWN and not licence:
            raise UserError("--docs: say what the GANs learned: --licence 'HAM10000, CC BY-NC 4.0'")
        page.publish(Path(docs) / scale, functools.partial(public, results, licence))
    return answer(results)


def main():
    parser = jobs.Parser(prog="report.py", description=__doc__)
    parser.add_argument("out", help="results folder")
    parser.add_argument("--docs", help="a folder for it as Markdown, charts and GAN images")
    parser.add_argument("--licence", help="below the GAN images in docs: the photographs' source "
                        "and licence, such as 'HAM10000, CC BY-NC 4.0'")
    args = parser.parse_args()
    said = write(args.out, args.docs, args.licence)
    print(f"report: {Path(args.out) / 'report.html'}")
    print(said)


if __name__ == "__main__":
    jobs.run_cli(main)
