"""report.py: papers/*.md and the finished jobs of a results folder -> report.md -> report.html.

    python report.py results/quick
    python report.py results/small --docs docs/     also docs/small.md, without photographs

A table of papers/STUDY.md with a column `job` (or `as printed`, `clean`) gets our values beside the
printed ones; all other text is copied. A cell of such a column names a job, - none; NAME@mixed is its
result on that test set, NAME@critic on that network. The other columns' heads, or the cells of a column
`measure`, say what is shown:

    accuracy, auc, loss, validation accuracy    of a classifier; with % behind it in per cent
    precision, recall, f1 [CLASS]               without CLASS: that of the row's first cell
    called CLASS                                how many of the row's class were called CLASS
    images PART, distance SET                   counts; Frechet distance of a set, by `score`
    resemblance, diversity, ...                 a number in the metrics of a GAN
    layer, output, parameters                   a network, layer by layer

A table of claims names jobs whose accuracies are compared, one of figures a kind (of FIGURES or TABLES
below, or a picture of the job) and jobs.
"""
import base64
import contextlib
import fnmatch
import functools
import html
import io
import re
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

import jobs
import metrics
from jobs import UserError

FILES = sorted((Path(__file__).resolve().parent / "papers").glob("*.md"))
PAPERS = {file.stem.partition("_")[2]: file for file in FILES}      # 000_wgan_gp.md: wgan_gp
NO_EFFECT = 0.027           # what 2,534 test images can show with 80 % power: "no effect" means less
COPIES = 0.75               # that share nearer to training images: half are copies, half of the rest
BROKEN = (UserError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


# ---- Results

class Results:
    """The finished jobs of a folder. "study/name" stands for its seeds study/name-s0, study/name-s1, ..."""

    KINDS = dict(config=dict, metrics=dict, counts=dict, source=dict, generators=dict,
                 seconds=(int, float), command=str)

    def __init__(self, out):
        self.out = Path(out)
        self.jobs = {}      # "study/name-s0": what its result.json holds
        self.seeds = {}     # "study/name": {its job: {test: what read_predictions gives}}
        self.controls = {}  # (network, share of the images, generator or "", kind): name of the arm
        self.own = {}       # generator that is not of gan.py: measures of its images
        self.damaged = []
        for file in sorted(self.out.glob("*/*/result.json")):
            job = file.parent.relative_to(self.out).as_posix()
            try:
                self.add(job, file.parent)
            except BROKEN as problem:
                self.damaged.append(f"{job}: {problem!r}")

    def add(self, job, folder):
        result = dict(metrics={}, counts={}, source={}, generators={})
        result |= jobs.read_json(folder / "result.json")
        for key, kind in self.KINDS.items():
            if not isinstance(result.get(key), kind):
                raise UserError(f"result.json is not of this project: {key}")
        config, tests = result["config"], {}
        name = job.removesuffix(f"-s{config.get('seed')}")
        if "leaked" in result:                      # a classifier
            tests = {test: metrics.read_predictions(folder, test) for test in result["metrics"]}
            if job.startswith("controls/"):
                self.controls[arm_of(config)] = name.removeprefix("controls/")
        self.own |= {who: measures for who, measures in result["generators"].items() if measures}
        self.jobs[job] = result
        self.seeds.setdefault(name, {})[job] = tests

    def names(self, study, patterns):
        """The names of a study that fit: "cnn_real gan_*" -> ["study/cnn_real", "study/gan_AK", ...]."""
        found = []
        for pattern in patterns.split():
            found += fnmatch.filter(self.seeds, f"{study}/{pattern}")
        return found

    def of(self, name):
        """The result of each seed."""
        return [self.jobs[job] for job in self.seeds.get(name, {})]

    @functools.cache
    def arms(self, name, test="real"):
        """{measure: Arm} of the seeds on one test; {} where it has not run."""
        runs = [tests[test] for tests in self.seeds.get(name, {}).values() if test in tests]
        if not runs:
            return {}
        try:
            return metrics.arms_of(runs)
        except BROKEN as problem:
            self.damaged.append(f"{name}: {problem!r}")
            return {}

    def accuracies(self, study, names):
        """{(name, test): Arm} of "name", "name@test" or wildcards; {} if one of them has not run."""
        found = {}
        for pattern in names.split():
            pattern, _, test = pattern.partition("@")
            matches = self.names(study, pattern)
            for name in matches:
                found[name, test] = self.arms(name, test or "real").get("accuracy")
            if not matches or None in found.values():
                return {}
        return found

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
    """(network, share, generator, kind) of a classifier of the controls. kind: what was done with the
    generator's images (shuffle, alone), else the augmentation (none, classical)."""
    kind = config["augment"]
    for option in ("shuffle", "alone"):
        if config[option]:
            kind = option
    return config["model"], Fraction(config["share"]), " + ".join(config["synthetic"]), kind


# ---- One cell

def value(results, study, job, measure, row):
    """A measure of a job, as text. row: the first cell of its row, such as a class."""
    name, _, test = job.partition("@")
    seeds, test = results.of(f"{study}/{name}"), test or "real"
    if not seeds:
        return f"not run: {name}"
    first, found = seeds[0], seeds[0]["metrics"]
    kind, _, label = measure.removesuffix(" %").partition(" ")
    if kind == "images":
        counts = first["counts"].get(label, {})
        return f"{sum(counts.values()) if row == 'Sum' else counts.get(row, 0):,}"
    if kind == "distance":
        rows = {one["set"]: one for one in first["rows"]}
        return distance(first["net"], rows[label]) if label in rows else "not scored"
    if kind in found:                               # a GAN's
        return f"{np.mean([one['metrics'][kind] for one in seeds]):.2f}"
    if test not in found:
        return f"no {test} test"
    if kind == "called":
        classes = first["config"]["classes"]
        return found[test]["confusion"][classes.index(row)][classes.index(label)]
    if kind == "loss":
        return f"{np.mean([one['metrics'][test]['loss'] for one in seeds]):.3f}"
    if kind == "validation":
        return f"{np.mean([one['curves']['val_accuracy'][-1] for one in seeds]):.3f}"

    if kind in ("precision", "recall", "f1"):
        label = label or row
    arm = results.arms(f"{study}/{name}", test).get(f"{kind} {label}".strip())
    if arm is None:
        return f"no {measure} here"
    level = metrics.level(arm)
    if level is None:
        return f"no {label} here" if kind == "recall" else "never predicted"
    return percent(level) if measure.endswith("%") else "{:.3f} [{:.3f}, {:.3f}]".format(*level)


def percent(level):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*np.multiply(level, 100))


def distance(net, row):
    return (f"{net} {row['distance']:.2f} ± {row['spread']:.2f}, noise floor {row['floor']:.2f}, "
            f"KID {row['kid']:.3g}")


def points(gain):
    """A gain in percentage points as text."""
    if gain is None or gain[0] is None:
        return "not run"
    shown = f"{100 * gain[0]:+.1f} points"
    if gain[1] is not None:
        shown += f" [{100 * gain[1]:+.1f}, {100 * gain[2]:+.1f}]"
    return shown


def verdict(printed, gain, p):
    """What became of a claim. printed: its cell; gain: [value, low, high, p]; p: corrected by Holm.

    Zero excluded in the claimed direction, and the printed effect in the interval: reproduced. The first
    alone: same direction. Neither: not reproduced. The second alone: too few images or seeds to tell.
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


# ---- Charts, as SVG

COLOURS = ["#0b6e8f", "#c4571b", "#6a8a1f", "#7a4fa3"]


def svg(title, parts, height):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" width="360" '
            'font-family="system-ui,sans-serif" font-size="12" fill="#555">'
            f"{text(6, 16, title, colour='#111')}{''.join(parts)}</svg>")


def text(x, y, words, anchor="start", colour="#555"):
    words = html.escape(str(words))
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def ticks(low, high):
    """Two to five round numbers from low to high."""
    size = 10 ** np.floor(np.log10(high - low))
    for step in (size / 5, size / 2, size, 2 * size):
        found = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(found) <= 5:
            break
    return found.round(12)


def line_chart(title, x_label, series):
    """series: [(name, xs, ys), ...]"""
    xs, ys = (np.concatenate([one[k] for one in series]) for k in (1, 2))
    x0, x1 = xs.min(), max(xs.max(), xs.min() + 1e-2)
    y0, y1 = ys.min(), max(ys.max(), ys.min() + 1e-3)

    def across(x):
        return 50 + 294 * (x - x0) / (x1 - x0)

    def up(y):
        return 180 - 150 * (y - y0) / (y1 - y0)

    parts = [text(197, 212, x_label, "middle")]
    for tick in ticks(y0, y1):
        parts.append(f'<path d="M50 {up(tick):.0f}H344" stroke="#ddd"/>')
        parts.append(text(46, up(tick) + 4, f"{tick:,g}", "end"))
    for tick in ticks(x0, x1):
        parts.append(text(across(tick), 196, f"{tick:,g}", "middle"))
    for k, (name, x, y) in enumerate(series):
        colour = COLOURS[k % 4]
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, y))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(50 + 75 * (k % 4), 230 + 16 * (k // 4), name, colour=colour))
    return svg(title, parts, 240 + 16 * ((len(series) - 1) // 4))


def interval_chart(title, rows):
    """rows: {label: [value, low, high]}, from -1 to 1.5, beside lines at 0 and 1."""
    def across(value):
        return 130 + 86 * (np.clip(value, -1, 1.5) + 1)

    bottom = 34 + 36 * len(rows)
    parts = []
    for mark in (0, 1):
        parts.append(f'<path d="M{across(mark):.0f} 24V{bottom}" stroke="#999" stroke-dasharray="3"/>')
        parts.append(text(across(mark), bottom + 16, mark, "middle"))
    for k, (label, (value, low, high)) in enumerate(rows.items()):
        y = 46 + 36 * k
        line = f"M{across(low):.0f} {y}H{across(high):.0f}"
        parts.append(text(122, y + 4, label, "end"))
        parts.append(text(122, y + 19, f"{value:.2f} [{low:.2f}, {high:.2f}]", "end"))
        parts.append(f'<path d="{line}" stroke="{COLOURS[0]}" stroke-width="3"/>')
        parts.append(f'<circle cx="{across(value):.0f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>')
    return svg(title, parts, bottom + 24)


# ---- The page, as Markdown

class Page:
    """report.md, block by block. Pictures are files beside it."""

    def __init__(self, results):
        self.results = results
        self.blocks = []
        self.charts = 0

    def add(self, words):
        self.blocks.append(words)

    def table(self, rows):
        """rows: [{column: cell}, ...]"""
        lines = []
        for row in (rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)):
            cells = [re.sub(r"[|<>\n]", " ", str(cell)) for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
        self.add("\n".join(lines))

    def pictures(self, shown):
        """A row of [(caption, chart as SVG or path of a PNG), ...]."""
        lines = []
        for caption, picture in shown:
            if isinstance(picture, str):
                self.charts += 1
                path = self.results.out / f"charts/{self.charts:03d}.svg"
                with jobs.replacing(path) as file:
                    file.write(picture.encode())
                picture = path
            if picture.exists():
                caption = re.sub(r"[\[\]<>\n]", " ", caption)
                lines.append(f"![{caption}]({picture.relative_to(self.results.out).as_posix()})")
        self.add("\n".join(lines))


# ---- Figures: functions of (result, folder, name) to [(caption, picture), ...]

def steps(result, folder, name):
    """The first grid of a training, those at about 13 % and 33 %, and the last."""
    grids = sorted(folder.glob("grid_*.png"))
    chosen = {round(share * (len(grids) - 1)) for share in (0, 0.13, 0.33, 1) if grids}
    return [(f"{name}, step {int(grids[k].stem[5:])}", grids[k]) for k in sorted(chosen)]


def losses(result, folder, name):
    """What a GAN's step returned, averaged over windows of steps."""
    curves, series = dict(result["curves"]), []
    window = curves.pop("window")
    for key, ys in curves.items():
        if key != "penalty":
            series.append((key, np.arange(1, len(ys) + 1) * window, ys))
    return [(caption_of(result, name), line_chart(name, "step", series))]


def training(result, folder, name):
    shown = []
    for key in ("accuracy", "loss"):
        series = []
        for part, of_part in (("training", key), ("validation", f"val_{key}")):
            ys = result["curves"][of_part]
            series.append((part, np.arange(1, len(ys) + 1), ys))
        shown.append((name, line_chart(f"{name}: {key}", "look at the validation part", series)))
    return shown


def roc(result, folder, name):
    labels, probabilities, _, classes = metrics.read_predictions(folder)
    series = [(f"{classes[1]} positive", *metrics.roc_curve(labels, probabilities[:, 1]))]
    return [(name, line_chart(f"{name}: ROC", "false positive rate", series))]


def distance_curves(result, folder, name):
    """Distance beside its noise floor, and Inception score, over the steps of a GAN."""
    shown = []
    for keys in (("distance", "floor"), ("inception_score",)):
        series = []
        for key in keys:
            points = [(int(row["set"]), row[key]) for row in result["rows"]]
            series.append((key.replace("_", " "), *zip(*points)))
        shown.append((name, line_chart(result["net"], "step", series)))
    return shown


FIGURES = {"steps": [steps], "gan": [losses], "training": [training], "roc": [roc],
           "curves": [training, roc], "distance": [distance_curves]}


def pictures_of(results, kind, names):
    """The pictures of the first seed of each name; a kind that is not above is a PNG of the job."""
    shown = []
    for name in names:
        job = min(results.seeds[name])
        result, folder, name = results.jobs[job], results.out / job, name.split("/")[1]
        for draw in FIGURES.get(kind, []):
            shown += draw(result, folder, name)
        if kind not in FIGURES:
            shown.append((caption_of(result, name), folder / f"{kind}.png"))
    return shown


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
    chart = line_chart("accuracy in %", "number in the job's name", series)
    return [("accuracy in %", chart)]


def confusion(results, study, name, test):
    """Of the first seed: a row per true class, a column for what it was called."""
    result, rows = results.of(f"{study}/{name}")[0], []
    classes = result["config"]["classes"]
    for truth, called in zip(classes, result["metrics"][test]["confusion"]):
        rows.append({name: truth} | {f"called {one}": n for one, n in zip(classes, called)})
    return rows


def counts(results, study, name, test):
    """The images of each class, by part; of a classifier, also by where its training images are from."""
    parts = results.of(f"{study}/{name}")[0]["counts"]
    if "train" not in parts:
        of_data = results.of(f"{study}/data")[0]["counts"]
        added = Counter(parts) - Counter(of_data["train"])
        parts = {"train, real": of_data["train"], "train, GAN": added, "test": of_data["test"]}
    first, *_ = parts.values()
    return [{name: label} | {part: parts[part].get(label, 0) for part in parts} for label in first]


TABLES = {"confusion": confusion, "counts": counts}


# ---- A paper

def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@functools.cache
def read_paper(study):
    """papers/STUDY.md up to the notes, which stay in the file: [text or rows of a table, ...]."""
    blocks = []
    paper = PAPERS[study].read_text(encoding="utf-8").partition("## Stated, silent, changed")[0]
    for block in paper.strip().split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = map(cells_of, block.splitlines())
            if {len(row) for row in rows} != {len(header)}:
                raise UserError(f"{PAPERS[study]}: a row has more or fewer cells than {header}")
            block = [dict(zip(header, row)) for row in rows]
        blocks.append(block)
    return blocks


OURS = {"job": "ours", "as printed": "ours, as printed", "clean": "ours, clean"}


def paper_section(page, study, judged):
    """A paper's text with its tables filled. What cannot be shown is named and left out."""
    for block in read_paper(study):
        if isinstance(block, str):
            page.add(re.sub("^#", "##", block))
            continue
        try:
            fill(page, study, block, judged)
        except BROKEN as problem:
            page.add(f"Left out, its jobs' results are damaged: {problem!r}")
    page.add(f"What the paper states, leaves silent, and what was changed: papers/{PAPERS[study].name}")
    gan_table(page, study)


def fill(page, study, rows, judged):
    first, *others = rows[0]
    if first == "claim":
        rows = claims_of(page.results, study)
        if not judged:
            rows = [{column: row[column] for column in row if column != "verdict"} for row in rows]
    elif first == "layer":
        rows = layers(page.results, study, rows)
    elif "measure" in others:
        rows = ours_beside(page.results, study, first, rows)
    elif OURS.keys() & set(others):
        rows = ours_below(page.results, study, first, rows)
    if first != "figure":
        return page.table(rows)
    for row in rows:
        figure(page, study, *row.values())


def layers(results, study, rows):
    """The layers of a network, ours beside the printed ones, in their order; the total comes last."""
    name, _, network = rows[0]["job"].partition("@")
    ours = [["", [f"not run: {name}"], 0]] * len(rows)
    for result in results.of(f"{study}/{name}"):
        ours = result["tables"][network]
    filled = []
    for row, (_, shape, parameters) in zip(rows, ours, strict=True):
        filled.append({
            "layer": row["layer"],
            "output, printed": row["output"],
            "ours": " x ".join(map(str, shape)) or "-",
            "parameters, printed": row["parameters"],
            "our parameters": f"{parameters:,}"})
    return filled


def ours_beside(results, study, first, rows):
    """A table of single values, ours in further columns."""
    filled = []
    for row in rows:
        line = {first: row[first], "measure": row["measure"], "printed": row["value"]}
        for name in filter(row.__contains__, OURS):
            line[OURS[name]] = value(results, study, row[name], row["measure"], row[first])
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
                filled.append({first: row[first], "": words})
                for column in columns:
                    filled[-1][column] = value(results, study, row[name], column, row[first])
    return filled


def figure(page, study, number, title, kind, patterns):
    patterns, _, test = patterns.partition("@")
    names = page.results.names(study, patterns)
    page.add(f"**{title}**" if number == "ours" else f"**Figure {number}. {title}**")
    if not names:
        page.add(f"not run: {patterns}")
    elif kind in TABLES:
        for name in names:
            page.table(TABLES[kind](page.results, study, name.split("/")[1], test or "real"))
    elif kind == "dose":
        page.pictures(dose(page.results, names))
    else:
        page.pictures(pictures_of(page.results, kind, names))


def claims_of(results, study):
    """[{claim, printed, ours, ..., verdict}, ...]: what became of each on real test images; and by the
    paper's own protocol."""
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
        before, after = row["before, as printed"], row["after, as printed"]
        as_printed = points(results.gain(study, before, after)) if before != "-" else "-"
        clean = points(gain)
        if row["before"] == "-" and gain:
            clean = f"{percent(gain[:3])} %"
        found.append({
            "claim": row["claim"], "printed": row["printed"], "ours, clean": clean,
            "ours, as printed": as_printed, "verdict": verdict(row["printed"], gain, p)})
    return found


# ---- The controls

TITLES = {"wgan_gp": "WGAN-GP", "dcgan_cls": "DCGAN (001)", "dermagan": "DCGAN (003)",
          "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "small CNN", "resnet18": "ResNet-18"}


def generators_of(results, net="cnn"):
    """{generator whose images stand in the controls: its title}; one's own come first."""
    found = {generator for model, _, generator, _ in results.controls if generator and model == net}
    order = sorted(found, key=lambda generator: (generator not in results.own, generator))
    return {generator: TITLES.get(generator, generator) for generator in order}


def sizes_of(results, net):
    """The shares that were trained with and without as many further real images, rising."""
    shares = {share for model, share, *arm in results.controls if model == net and arm == ["", "none"]}
    return sorted(share for share in shares if 2 * share in shares)


def worth_of(results, net, generators):
    """(worth [x, low, high], gain of GAN images, gain of as many real ones) over all sizes that have run."""
    arms, triples = {}, []
    for share in sizes_of(results, net):
        for generator in generators:
            keys = (net, share, "", "none"), (net, share, generator, "none"), (net, 2 * share, "", "none")
            triple = [f"controls/{results.controls.get(key)}" for key in keys]
            found = [results.arms(name) for name in triple]
            if all(found):
                triples.append(triple)
                arms |= {name: measures["accuracy"] for name, measures in zip(triple, found)}
    if not triples:
        return None
    real, with_gan, with_real = zip(*triples)
    return metrics.worth(arms, triples), metrics.gain(arms, real, with_gan), metrics.gain(arms, real, with_real)


def answer(results):
    """The first sentences of the page: of each generator of one's own by name, then of our GANs."""
    generators = generators_of(results)
    ours = [name for name in generators if name not in results.own]
    said = []
    for name in [name for name in generators if name in results.own]:
        state = state_of(results.own[name]).replace("alive", "")
        said.append(sentence(results, [name], f"images of {name}{state and f' ({state})'}"))
    if ours or not said:
        said.append(sentence(results, ours, "GAN images"))
    return " ".join(said)


def sentence(results, generators, images):
    found = worth_of(results, "cnn", generators)
    if not found:
        return f"What {images} are worth was not measured here: bash run_all.sh controls"
    (x, low, high), generated, more = found
    what = "drawn lesion" if "drawn" in results.source("controls") else "photograph"
    if not np.isfinite(low):
        return (f"What {images} are worth cannot be told here: as many further real {what}s changed the "
                f"accuracy by {points(more)}, which is not clear of zero.")
    helped = "helped" if low > 0 else "did not help"
    return (f"Here {images} {helped}: one was worth {x:.2f} of a further real {what} (95 % interval "
            f"{low:.2f} to {high:.2f}). Doubling the training set with them changed a small CNN's accuracy "
            f"by {points(generated)}, with as many further real {what}s by {points(more)}.")


def state_of(measures):
    if measures["collapsed"]:
        return "COLLAPSED, its rows count as failed"
    copied = measures.get("closer_to_train", [0, 0, 0])[1] > COPIES
    return "COPIES its training images" if copied else "alive"


def controls_section(page):
    results = page.results
    page.add("## The controls: what is one GAN image worth?")
    sizes = []
    for result in results.of("controls/data"):
        sizes = [f"{part} {sum(counts.values())}" for part, counts in result["counts"].items()]
    page.add(f"Images: {', '.join(sizes)}. Half of the training part is held back, to show what further "
             "real images would give. A GAN is trained on the images that the classifier beside it has. "
             "All arms of a classifier make equally many steps, are tested on the same real images, and add "
             "as many images as there are real ones. Shuffled: GAN images under permuted labels, a placebo. "
             "Intervals: 95 %, over test lesions and seeds.")
    for net in NETS:
        if sizes_of(results, net):
            controls_table(page, net)
    gan_table(page, "controls")


def controls_table(page, net):
    """A row for each way to double the training set, a column for each size."""
    results, controls = page.results, page.results.controls
    arms = {"as many further real images": (2, "", "none"), "classical augmentation": (1, "", "classical")}
    for generator, title in generators_of(results, net).items():
        arms[f"{title} images"] = 1, generator, "none"
        arms[f"{title}, labels shuffled"] = 1, generator, "shuffle"
        arms[f"{title} alone"] = 1, generator, "alone"
    rows = [{"added": "nothing: accuracy in %"}, *({"added": words} for words in arms)]
    for share in sizes_of(results, net):
        real = controls[net, share, "", "none"]
        images = sum(results.of(f"controls/{real}")[0]["counts"].values())
        column = f"{images} real images"
        rows[0][column] = value(results, "controls", real, "accuracy %", "")
        for row, (times, *arm) in zip(rows[1:], arms.values()):
            other = controls.get((net, times * share, *arm), "")
            row[column] = points(results.gain("controls", real, other))
    page.add(f"### {NETS[net]}: gain in accuracy over the real images alone")
    page.table([row for row in rows if set(row.values()) != {row["added"], "not run"}])


def gans_of(results, study):
    return [name for name in results.names(study, "*") if "diversity" in results.of(name)[0]["metrics"]]


def gan_table(page, study):
    """How each GAN of the study ended, and whether it copies; in the controls also one's own generators."""
    results, found, rows = page.results, {}, []
    if study == "controls":
        found = {name: ("-", measures) for name, measures in results.own.items()}
    for name in gans_of(results, study):
        measures = sorted(results.of(name), key=lambda one: one["metrics"]["diversity"])
        worst = max(measures, key=lambda one: one["metrics"]["collapsed"])      # else the least diverse
        found[name.split("/")[1]] = worst["config"]["steps"], worst["metrics"]
    for name, (steps, measures) in found.items():
        distance = copies = "-"
        if "fd_8x8_distance" in measures:
            distance = "{fd_8x8_distance:.3f} ({fd_8x8_floor:.3f})".format(**measures)
        if "closer_to_train" in measures:
            copies = "{:.2f} [{:.2f}, {:.2f}]".format(*measures["closer_to_train"])
        rows.append({
            "GAN": name, "steps": steps,
            "diversity": f"{measures['diversity']:.2f}",
            "distinctness": f"{measures['distinctness']:.2f}",
            "FD-8x8 (noise floor)": distance, "nearer to training images": copies,
            "state": state_of(measures)})
    if not rows:
        return
    page.add("### The GANs")
    page.table(rows)
    page.add("Of several seeds the worst. Diversity: mean distance between two samples, each less its mean "
             f"colour, over that between two real images; below {metrics.COLLAPSED} it has collapsed. "
             f"Distinctness: the same for a sample and its nearest other one; below {metrics.DISTINCT} a few "
             "pictures come again and again. FD-8x8: Frechet distance in mean colours of an 8 x 8 grid, no "
             "FID. Nearer to training images: share of GAN images whose nearest real image is one that the "
             "GAN saw; 0.5 without copying.")


# ---- The first screen, and the last

def first_screen(page, scale):
    results = page.results
    page.add("# Do GAN images help a skin-lesion classifier?")
    page.add(answer(results))
    worths = {}
    for generator, title in generators_of(results).items():
        found = worth_of(results, "cnn", [generator])
        if found and np.isfinite(found[0][1]):
            worths[title] = found[0]
    if worths:
        caption = "What one GAN image is worth, in further real images: 0 nothing, 1 as much as a real one"
        page.pictures([(caption, interval_chart("worth of one GAN image", worths))])
    if scale == "quick":
        page.add("Quick scale: narrow networks, few steps. The controls answer for these images; the papers' "
                 "tables below are a rehearsal, and none of their numbers can be compared with a printed one.")
    else:
        all_claims(page)
    for study in ("controls", *PAPERS):             # real images above those of two GANs
        data, gans = results.names(study, "data"), gans_of(results, study)[:2]
        if data and gans:
            [(_, real)] = pictures_of(results, "grid", data)
            page.pictures([(f"real: {results.source(study)}, a row per class", real)])
            page.pictures(pictures_of(results, "grid", gans))
            break
    if "drawn" in results.source("controls"):
        page.add("The same question of your own photographs: `bash run_all.sh --data DIR`, with DIR/benign "
                 "and DIR/malignant")


def all_claims(page):
    """One table of what the papers claim and what became of it."""
    rows = []
    for study in PAPERS:
        if page.results.names(study, "*"):
            for row in claims_of(page.results, study):
                del row["ours, as printed"]
                rows.append({"paper": PAPERS[study].stem[:3]} | row)
    if rows:
        page.table(rows)


def how_it_was_made(page, config):
    """The command, the commits, the seconds of each study."""
    results, rows = page.results, []
    command = f"bash run_all.sh --scale {config['scale']}"
    if config["data"] != "drawn lesions":
        command += " --data DIR"
    if results.own:
        command += " --synthetic MINE"
    commits = {str(result.get("commit")) for result in results.jobs.values()}
    page.add("## How this was made")
    page.add(f"`{command}`; commit {', '.join(sorted(commits))}; written {time.strftime('%Y-%m-%d %H:%M')}.")
    for study in (*PAPERS, "controls"):
        seconds = [one["seconds"] for job, one in results.jobs.items() if job.startswith(f"{study}/")]
        if seconds:
            rows.append({"study": study, "images": results.source(study), "jobs": len(seconds),
                         "seconds, added up": f"{sum(seconds):,.0f}"})
    page.table(rows)


# ---- From Markdown to HTML

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>Do GAN images help?</title><style>
body{margin:0 auto;max-width:960px;padding:12px;font:16px/1.5 system-ui,sans-serif;color:#1d2129}
h1{line-height:1.2}h1+p{font-size:1.2rem;font-weight:500}h2{margin-top:2.5em;border-top:1px solid #ddd}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3em .8em .3em 0;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}
tr>:first-child{position:sticky;left:0;background:#fff;min-width:6em;max-width:38vw;overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:14px}figure{margin:.5em 0;max-width:100%}img{width:460px}
img,svg{max-width:100%;height:auto}figcaption{color:#555;font-size:.85rem;max-width:460px}
code{background:#f3f5f7;overflow-wrap:anywhere}summary{cursor:pointer}
</style>"""
FOLD = "<details><summary>Every job and its command</summary>"


def inline(words):
    """Escaped text with **bold**, *italics* and `code`."""
    words = html.escape(words, quote=False)
    words = re.sub(r"`(.+?)`", r"<code>\1</code>", words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", words)
    return re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"<i>\1</i>", words)


def to_html(block, out):
    """One block of the Markdown that the page uses. Every string is escaped; pictures are embedded."""
    lines = block.splitlines()
    if block in ("", FOLD, "</details>"):
        return block
    if block.startswith("|"):
        rows = [cells_html(lines[0], "th"), *(cells_html(line, "td") for line in lines[2:])]
        return f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    if block.startswith("!["):
        pictures = [picture_html(line, out) for line in lines]
        return f'<div class="row">{"".join(pictures)}</div>'
    if block.startswith("- "):
        items = [f"<li>{inline(line[2:])}</li>" for line in lines]
        return f"<ul>{''.join(items)}</ul>"
    if block.startswith("#"):
        marks, _, words = block.partition(" ")
        return f"<h{len(marks)}>{inline(words)}</h{len(marks)}>"
    return f"<p>{inline(' '.join(lines))}</p>"


def cells_html(line, tag):
    cells = [f"<{tag}>{inline(cell)}</{tag}>" for cell in cells_of(line)]
    return f"<tr>{''.join(cells)}</tr>"


def caption_and_path(line):
    return re.fullmatch(r"!\[(.*)\]\((.*)\)", line).groups()


def picture_html(line, out):
    """A line ![caption](path): a chart as it is, a PNG as JPEG."""
    caption, path = caption_and_path(line)
    caption = html.escape(caption)
    if path.endswith(".svg"):
        picture = (out / path).read_text()
    else:
        code = base64.b64encode(jpeg(out / path, 1040)).decode()
        picture = f'<img alt="{caption}" src="data:image/jpeg;base64,{code}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def jpeg(path, width, top=0):
    """A picture without its first `top` lines, at most that wide, as JPEG: a fifth of a PNG's size."""
    buffer = io.BytesIO()
    with contextlib.suppress(OSError):              # a damaged picture stays empty
        picture = Image.open(path).convert("RGB")
        picture = picture.crop((0, top, *picture.size))
        picture.thumbnail((width, width))
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# ---- For the repository

def write_docs(page, scale, folder):
    """docs/SCALE.md; its charts, and GAN images as JPEG, in docs/SCALE/. No photographs, and no commands
    of single jobs, which hold paths of this machine."""
    pictures = Path(folder) / scale
    for old in [*pictures.glob("*.svg"), *pictures.glob("*.jpg")]:
        old.unlink()
    blocks = []
    for block in page.blocks[:page.blocks.index(FOLD)]:
        if block.startswith("!["):
            block = docs_pictures(page.results, block.splitlines(), pictures)
        blocks.append(block)
    with jobs.replacing(pictures.with_suffix(".md")) as file:
        file.write("\n\n".join(filter(None, blocks)).encode())


def docs_pictures(results, lines, folder):
    """The same pictures as files in `folder`, with captions, and a line on the origin of GAN images."""
    shown, origin = [], ""
    for caption, path in map(caption_and_path, lines):
        file, job = results.out / path, results.jobs.get(path.rpartition("/")[0])
        name, raw = f"{file.stem}.svg", file.read_bytes()
        if job:
            source, top = results.source(path.split("/")[0]), 0
            if "diversity" in job["metrics"]:
                origin = f"*GAN images trained on {source}*"
            elif "drawn" not in source:
                continue                            # photographs
            if "source" in job["config"] and file.name == "grid.png":
                top = Image.open(file).height // 2  # what the CycleGAN has translated
            name, raw = f"{path[:-4].replace('/', '-')}.jpg", jpeg(file, 520, top)
        with jobs.replacing(folder / name) as opened:
            opened.write(raw)
        shown.append(f"![{caption}]({folder.name}/{name})\\\n{caption}\n")
    if "ham10000" in origin.lower():
        origin += "*; HAM10000 is CC BY-NC 4.0*"
    return "\n".join([*shown, origin]).strip()


# ---- Command line

def write(out, docs=None):
    """report.md and report.html of the finished jobs in `out`. Returns the sentences of the answer."""
    results = Results(out)
    if not results.jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    config = dict(scale="unknown", data="unknown")
    with contextlib.suppress(UserError):            # missing or damaged
        config |= jobs.read_json(results.out / "config.json")
    page, scale = Page(results), str(config["scale"])
    first_screen(page, scale)
    if results.names("controls", "*"):
        controls_section(page)
    for study in PAPERS:
        if results.names(study, "*"):
            paper_section(page, study, judged=scale != "quick")
    for problem in results.damaged:
        page.add(f"Left out, damaged: {' '.join(problem.split())}")
    how_it_was_made(page, config)
    page.add(FOLD)
    page.table([{"job": job, "seconds": result["seconds"], "command": f"`{result['command']}`"}
                for job, result in results.jobs.items()])
    page.add("</details>")

    body = [to_html(block, results.out) for block in page.blocks]
    for name, blocks in (("report.md", page.blocks), ("report.html", [HEAD, *body])):
        with jobs.replacing(results.out / name) as file:
            file.write("\n\n".join(blocks).encode())
    if docs:
        write_docs(page, scale, docs)
    return answer(results)


def main():
    parser = jobs.Parser(prog="report.py", description=__doc__)
    parser.add_argument("out", help="results folder")
    parser.add_argument("--docs", help="a folder for it as Markdown, charts and GAN images")
    args = parser.parse_args()
    said = write(args.out, args.docs)
    print(f"report: {Path(args.out) / 'report.html'}")
    print(said)


if __name__ == "__main__":
    jobs.run_cli(main)
