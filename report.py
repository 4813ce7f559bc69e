"""report.py: papers/*.md and the finished jobs of a results folder -> report.md -> report.html.

    python report.py results/quick

A table of papers/STUDY.md with a column `job` (or `as printed` and `clean`) gets our values beside the
printed ones; its other columns say which measure. All other text is copied. A job that has not run is
named in its cell.
"""
import jobs      # first of all: from here on Ctrl-C ends the imports quietly
import base64
import contextlib
import fnmatch
import functools
import html
import io
import re
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import metrics
from jobs import UserError

FILES = sorted((Path(__file__).resolve().parent / "papers").glob("*.md"))
PAPERS = {file.stem.partition("_")[2]: file for file in FILES}      # 000_wgan_gp.md: wgan_gp
NO_EFFECT = 0.027           # what 2,534 test images can show with 80 % power: "no effect" means less


# ---- Results

class Results:
    """The finished jobs of a folder. "study/name" stands for its seeds study/name-s0, study/name-s1, ..."""

    def __init__(self, out):
        self.out = Path(out)
        self.jobs = {}      # "study/name-s0": what its result.json holds
        self.seeds = {}     # "study/name": {its job: {test: what read_predictions gives}}
        self.damaged = []
        for file in sorted(self.out.glob("*/*/result.json")):
            job = file.parent.relative_to(self.out).as_posix()
            try:
                self.add(job, file.parent)
            except (UserError, OSError, LookupError, TypeError, ValueError) as problem:
                self.damaged.append(f"{job}: {problem!r}")

    def add(self, job, folder):
        result = jobs.read_json(folder / "result.json")
        found = dict(metrics={}, counts={}, source={}) | result
        kinds = dict.fromkeys(("config", "metrics", "counts", "source"), dict)
        kinds |= dict(seconds=(int, float), command=str)
        for key, kind in kinds.items():
            if not isinstance(found.get(key), kind):
                raise UserError(f"result.json is not of this project: {key}")
        tests = {}
        if "curves" in result and "leaked" in result:           # a classifier
            for test in result["metrics"]:
                tests[test] = metrics.read_predictions(folder, test)
        self.jobs[job] = result
        self.seeds.setdefault(re.sub(r"-s\d+$", "", job), {})[job] = tests

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
        seeds = self.seeds.get(name, {}).values()
        runs = [tests[test] for tests in seeds if test in tests]
        if not runs:
            return {}
        try:
            return metrics.arms_of(runs)
        except UserError as problem:
            self.damaged.append(f"{name}: {problem}")
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
        before = self.accuracies(study, before)
        after = self.accuracies(study, after)
        if not before or not after:
            return None
        try:
            return metrics.gain(before | after, before, after)
        except UserError:                           # on other test images: no paired interval
            low = np.mean([arm.values.mean() for arm in before.values()])
            high = np.mean([arm.values.mean() for arm in after.values()])
            return [high - low, None, None, None]


# ---- One cell

def value(results, study, job, column, row, number):
    """`column` of the job, as text. row: the first cell of its row, which is the table's number-th."""
    name, _, test = job.partition("@")
    seeds = results.of(f"{study}/{name}")
    if not seeds:
        return f"not run: {name}"
    kind, _, label = column.removesuffix(" %").partition(" ")
    if test and "metrics" in seeds[0] and test not in seeds[0]["metrics"]:
        return f"no {test} test"
    if kind in ("output", "parameters"):
        if row == "total":
            number = -1
        _, shape, parameters = seeds[0]["tables"][test][number]
        if kind == "parameters":
            return f"{parameters:,}"
        return " x ".join(map(str, shape)) or "-"
    if kind == "images":
        counts = seeds[0]["counts"].get(label, {})
        counts = {"Sum": sum(counts.values()), **counts}
        return f"{counts.get(row, 0):,}"
    if kind == "distance":
        return distance(seeds[0], label)
    if kind == "loss":
        return f"{np.mean([one['metrics'][test or 'real']['loss'] for one in seeds]):.3f}"
    if kind == "validation":
        return f"{np.mean([one['curves']['val_accuracy'][-1] for one in seeds]):.3f}"
    if kind in ("precision", "recall", "f1") and not label:
        label = row
    arm = results.arms(f"{study}/{name}", test or "real").get(f"{kind} {label}".strip())
    if arm is None:
        return f"no {column} here"
    level = metrics.level(arm)
    if level is None:
        return f"no {label} here" if kind == "recall" else "never predicted"
    if column.endswith("%"):
        return percent(level)
    return "{:.3f} [{:.3f}, {:.3f}]".format(*level)


def percent(level):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*np.multiply(level, 100))


def distance(scores, label):
    for row in scores["rows"]:
        if row["set"] == label:
            return (f"{scores['net']} {row['distance']:.2f} ± {row['spread']:.2f}, "
                    f"noise floor {row['floor']:.2f}, KID {row['kid']:.3g}")
    return "not scored"


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
    xs = np.concatenate([x for _, x, _ in series])
    ys = np.concatenate([y for _, _, y in series])
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

    def table(self, header, rows):
        lines = []
        for row in (header, ["---"] * len(header), *rows):
            cells = [re.sub(r"[|<>\n]", " ", str(cell)) for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
        self.add("\n".join(lines))

    def pictures(self, shown):
        """A row of [(caption, chart as SVG or path of a PNG), ...]."""
        lines = []
        for caption, picture in shown:
            caption = re.sub(r"[\[\]<>\n]", " ", caption)
            if isinstance(picture, str):
                self.charts += 1
                path = self.results.out / f"charts/{self.charts:03d}.svg"
                with jobs.replacing(path) as file:
                    file.write(picture.encode())
                picture = path
            if picture.exists():
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
    curves = result["curves"]
    series = []
    for key, ys in curves.items():
        if key not in ("window", "diversity", "penalty"):
            series.append((key, np.arange(1, len(ys) + 1) * curves["window"], ys))
    return [(caption_of(result, name), line_chart(name, "step", series))]


def training(result, folder, name):
    shown = []
    for key, unit, scale in (("accuracy", " in %", 100), ("loss", "", 1)):
        series = []
        for part, of_part in (("training", key), ("validation", f"val_{key}")):
            ys = np.multiply(result["curves"][of_part], scale)
            series.append((part, np.arange(1, len(ys) + 1), ys))
        chart = line_chart(f"{name}: {key}{unit}", "look at the validation part", series)
        shown.append((name, chart))
    return shown


def roc(result, folder, name):
    labels, chances, _, classes = metrics.read_predictions(folder)
    series = [(f"{classes[1]} positive", *metrics.roc_curve(labels, chances[:, 1]))]
    return [(name, line_chart(f"{name}: ROC", "false positive rate", series))]


def distance_curves(result, folder, name):
    """Distance beside its noise floor, and Inception score, over the steps of a GAN."""
    rows = result["rows"]
    at = [int(row["set"]) for row in rows]

    def line(title, key):
        return title, at, [row[key] for row in rows]

    distances = [line("distance", "distance"), line("noise floor", "floor")]
    scores = [line("Inception score", "inception_score")]
    return [(name, line_chart(result["net"], "step", distances)),
            (name, line_chart("Inception score", "step", scores))]


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
    found = result.get("metrics", {})
    if "diversity" not in found:
        return name
    alarm = ", COLLAPSED" if found["collapsed"] else ""
    return f"{name}: {result['steps']} steps, diversity {found['diversity']:.2f}{alarm}"


def dose(results, names):
    """Accuracy over the number at the end of the names, a line for each kind of name."""
    lines = {}
    for name in filter(results.arms, names):
        kind, _, number = name.split("/")[1].rpartition("_")
        accuracy = results.arms(name)["accuracy"].values.mean()
        lines.setdefault(kind, []).append((float(number), 100 * accuracy))
    series = [(kind, *zip(*sorted(line))) for kind, line in lines.items()]
    if not series:
        return []
    return [("accuracy in %", line_chart("accuracy in %", "number in the job's name", series))]


def confusion_table(page, name, result):
    classes = result["config"]["classes"]
    matrix = result["metrics"]["real"]["confusion"]
    header = [f"{name}: truth", *(f"called {one}" for one in classes)]
    page.table(header, [[truth, *row] for truth, row in zip(classes, matrix)])


def count_table(page, name, result):
    """The images of each class and part."""
    parts = result["counts"]
    if "train" not in parts:                        # a classifier's: its training images
        parts = {"train": parts}
    rows = []
    for label in parts["train"]:
        rows.append([label, *(counts.get(label, 0) for counts in parts.values())])
    page.table([name, *parts], rows)


TABLES = {"confusion": confusion_table, "counts": count_table}


# ---- A paper

def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def paper_section(page, study, judged):
    """papers/STUDY.md with its tables filled, up to the notes, which stay in the file."""
    paper = PAPERS[study].read_text(encoding="utf-8")
    paper = paper.partition("## Stated, silent, changed")[0]
    for block in paper.strip().split("\n\n"):
        if not block.startswith("|"):
            page.add(re.sub("^#", "##", block))
            continue
        header, _, *rows = map(cells_of, block.splitlines())
        for row in rows:
            if len(row) != len(header):
                raise UserError(f"{PAPERS[study]}: {len(row)} cells below {len(header)}: {row}")
        if header[0] == "claim":
            claims(page, study, rows, judged)
        elif header[0] == "figure":
            for row in rows:
                figure(page, study, *row)
        elif "measure" in header:
            fill_beside(page, study, header, rows)
        elif "job" in header or "clean" in header:
            fill_below(page, study, header, rows)
        else:
            page.table(header, rows)
    page.add(f"What the paper states, leaves silent, and what was changed: papers/{PAPERS[study].name}")


OURS = {"job": "ours", "as printed": "ours, as printed", "clean": "ours, clean"}


def fill_beside(page, study, header, rows):
    """A table of single values, ours in further columns."""
    protocols = [name for name in OURS if name in header]
    filled = []
    for number, row in enumerate(rows):
        cell = dict(zip(header, row))
        line = [row[0], cell["measure"], cell["value"]]
        for name in protocols:
            line.append(value(page.results, study, cell[name], cell["measure"], row[0], number))
        filled.append(line)
    page.table([header[0], "measure", "printed", *(OURS[name] for name in protocols)], filled)


def fill_below(page, study, header, rows):
    """A table with a column per measure, ours in rows below the printed one."""
    columns = [name for name in header[1:] if name not in OURS]
    filled = []
    for number, row in enumerate(rows):
        cell = dict(zip(header, row))
        printed = [cell[column] for column in columns]
        if set(printed) - {"-", "not printed"}:
            filled.append([row[0], "printed", *printed])
        for name in OURS:
            if cell.get(name, "-") == "-":
                continue
            line = [row[0], OURS[name]]
            for column in columns:
                line.append(value(page.results, study, cell[name], column, row[0], number))
            filled.append(line)
    page.table([header[0], "", *columns], filled)


def figure(page, study, number, title, kind, patterns):
    results = page.results
    names = results.names(study, patterns)
    if number != "ours":
        title = f"Figure {number}. {title}"
    page.add(f"**{title}**")
    if not names:
        page.add(f"not run: {patterns}")
    elif kind in TABLES:
        for name in names:
            TABLES[kind](page, name.split("/")[1], results.of(name)[0])
    elif kind == "dose":
        page.pictures(dose(results, names))
    else:
        page.pictures(pictures_of(results, kind, names))


def claims(page, study, rows, judged):
    """What became of each claim, on real test images; as printed: by the paper's own protocol."""
    results = page.results
    gains = []
    for _, _, before, after, *_ in rows:
        gain = results.gain(study, before, after)
        arms = results.arms(f"{study}/{after}")
        if before == "-" and arms:                  # not a gain but an accuracy
            gain = [*metrics.level(arms["accuracy"]), None]
        gains.append(gain)
    ps = metrics.holm([gain and gain[3] for gain in gains])
    shown = []
    for (claim, printed, before, _, *own), gain, p in zip(rows, gains, ps):
        clean, as_printed = points(gain), "-"
        if before == "-" and gain:
            clean = f"{percent(gain[:3])} %"
        if own and own[0] != "-":
            as_printed = points(results.gain(study, *own))
        shown.append([claim, printed, clean, as_printed, verdict(printed, gain, p)])
    header = ["claim", "printed", "ours, clean", "ours, as printed", "verdict"]
    columns = 5 if judged else 4
    page.table(header[:columns], [row[:columns] for row in shown])


# ---- The controls

TITLES = {"wgan_gp": "WGAN-GP", "dcgan_cls": "DCGAN (001)", "dermagan": "DCGAN (003)",
          "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "small CNN", "resnet18": "ResNet-18"}


def worth_of(results, net, gans):
    """(worth [x, low, high], gain of GAN images, gain of as many real ones) over all sizes that have run."""
    arms = {}
    triples = []
    for name in results.names("controls", f"{net}_[0-9]*_real"):
        size = int(name.split("_")[-2])
        for gan in gans:
            triple = [name, f"controls/{net}_{size}_{gan}", f"controls/{net}_{2 * size}_real"]
            found = [results.arms(one) for one in triple]
            if all(found):
                triples.append(triple)
                arms |= {one: measures["accuracy"] for one, measures in zip(triple, found)}
    if not triples:
        return None
    real, with_gan, with_real = zip(*triples)
    fake = metrics.gain(arms, real, with_gan)
    more = metrics.gain(arms, real, with_real)
    return metrics.worth(arms, triples), fake, more


def gans_added(results, net="cnn"):
    """{GAN of the controls: its title}: what stands in NET_SIZE_GAN and is no other arm."""
    found = {}
    for name in results.names("controls", f"{net}_*_alone"):
        for gan in re.findall(r"_\d+_(.*)_alone$", name):
            found[gan] = TITLES.get(gan, gan)
    return found


def answer(results):
    """The first sentence of the page."""
    found = worth_of(results, "cnn", gans_added(results))
    if not found:
        return "What one GAN image is worth was not measured here: bash run_all.sh controls"
    (x, low, high), fake, more = found
    what = "photograph"
    if "drawn" in source_of(results):
        what = "drawn lesion"
    if not np.isfinite(low):
        return (f"What one GAN image is worth cannot be told here: as many further real {what}s changed the "
                f"accuracy by {points(more)}, which is not clear of zero.")
    said = "Here GAN images did not help"
    if low > 0:
        said = "Here GAN images helped"
    return (f"{said}: one was worth {x:.2f} of a further real {what} (95 % interval {low:.2f} to {high:.2f}). "
            f"Doubling the training set with GAN images changed a small CNN's accuracy by {points(fake)}, "
            f"with as many further real {what}s by {points(more)}.")


def source_of(results):
    """Where the images of the controls come from; without controls, those of another study."""
    for study in ("controls", *PAPERS):
        for result in results.of(f"{study}/data"):
            return str(result["source"]["source"])
    return "unknown images"


def first_screen(page, scale):
    results = page.results
    page.add("# Do GAN images help a skin-lesion classifier?")
    page.add(answer(results))
    worths = {}
    for gan, title in gans_added(results).items():
        found = worth_of(results, "cnn", [gan])
        if found and np.isfinite(found[0][1]):
            worths[title] = found[0]
    if worths:
        caption = "What one GAN image is worth, in further real images: 0 nothing, 1 as much as a real one"
        page.pictures([(caption, interval_chart("worth of one GAN image", worths))])
    first_pictures(page)
    seconds = sum(result["seconds"] for result in results.jobs.values())
    sources = set()
    for result in results.jobs.values():
        if "source" in result:
            sources.add(str(result["source"].get("stand_in") or result["source"]["source"]))
    page.add(f"Scale {scale}. Images: {'; '.join(sorted(sources))}. {len(results.jobs)} jobs, "
             f"{jobs.readable_time(seconds)} of work. Written {time.strftime('%Y-%m-%d %H:%M')}.")
    if scale == "quick":
        page.add("Quick scale: narrow networks, few steps. The controls answer for these images; the papers' "
                 "tables below are a rehearsal, and none of their numbers can be compared with a printed one.")
    if "drawn" in source_of(results):
        page.add("The same question of your own photographs: `bash run_all.sh --data DIR`, with DIR/benign "
                 "and DIR/malignant")


def first_pictures(page):
    """Real images above those of two GANs, from the first study that has both."""
    results = page.results
    for study in ("controls", *PAPERS):
        data = results.names(study, "data")
        gans = gans_of(results, study)[:2]
        if data and gans:
            [(_, real)] = pictures_of(results, "grid", data)[:1]
            page.pictures([(f"real: {source_of(results)}, a row per class", real)])
            page.pictures(pictures_of(results, "grid", gans))
            return


def controls_section(page):
    results = page.results
    page.add("## The controls: what is one GAN image worth?")
    sizes = []
    for result in results.of("controls/data"):
        for part, counts in result["counts"].items():
            sizes.append(f"{part} {sum(counts.values())}")
    page.add(f"Images: {', '.join(sizes)}. Half of the training part is held back, to show what further "
             "real images would give; sizes are shares of the other half. A GAN is trained on the images "
             "that the classifier beside it has. All arms of a classifier make equally many steps, are "
             "tested on the same real images, and add as many images as there are real ones. Shuffled: GAN "
             "images under permuted labels, a placebo. Intervals: 95 %, over test lesions and seeds.")
    for net in NETS:
        controls_table(page, net)
    gan_table(page, "controls")


def controls_table(page, net):
    """A row for each way to double the training set, a column for each size."""
    results = page.results
    names = results.names("controls", f"{net}_*_real")
    sizes = [int(size) for size in re.findall(r"_(\d+)_real\b", " ".join(names))]
    sizes = sorted(size for size in sizes if 2 * size in sizes)
    if not sizes:
        return
    added = {"real": "as many further real images", "classical": "classical augmentation",
             "copies": "copies of the same images"}
    for gan, title in gans_added(results, net).items():
        added[gan] = f"{title} images"
        added[f"{gan}_shuffled"] = f"{title}, labels shuffled"
        added[f"{gan}_alone"] = f"{title} alone"

    header, nothing = ["added"], ["nothing: accuracy in %"]
    for size in sizes:
        real = f"{net}_{size}_real"
        images = sum(results.of(f"controls/{real}")[0]["counts"].values())
        header.append(f"{images} real images")
        nothing.append(value(results, "controls", real, "accuracy %", "", 0))
    rows = [nothing]
    for arm, words in added.items():
        gains = []
        for size in sizes:
            of = 2 * size if arm == "real" else size
            gains.append(results.gain("controls", f"{net}_{size}_real", f"{net}_{of}_{arm}"))
        if any(gains):
            rows.append([words, *map(points, gains)])
    page.add(f"### {NETS[net]}: gain in accuracy over the real images alone")
    page.table(header, rows)


def gans_of(results, study):
    names = results.names(study, "*")
    return [name for name in names if "diversity" in results.of(name)[0].get("metrics", {})]


def gan_table(page, study):
    """How each GAN of the study ended, and whether it copies."""
    rows = []
    for name in gans_of(page.results, study):
        result = min(page.results.of(name), key=lambda one: one["metrics"]["diversity"])
        found = result["metrics"]
        distance = copies = "-"
        if "fd_8x8_distance" in found:
            distance = f"{found['fd_8x8_distance']:.3f} ({found['fd_8x8_floor']:.3f})"
        if "closer_to_train" in found:
            copies = "{:.2f} [{:.2f}, {:.2f}]".format(*found["closer_to_train"])
        state = "COLLAPSED: its rows count as failed" if found["collapsed"] else "alive"
        rows.append([name.split("/")[1], result["steps"], f"{found['diversity']:.2f}", distance, copies, state])
    if not rows:
        return
    page.add("### The GANs")
    page.table(["GAN", "steps", "diversity", "FD-8x8 (noise floor)", "nearer to training images", "state"], rows)
    page.add("Of several seeds the least diverse. Diversity: mean distance between two samples, each less its "
             "mean colour, over that between two real images; below 0.4 is collapsed. FD-8x8: Frechet distance "
             "in mean colours of an 8 x 8 grid, no FID. Nearer to training images: share of GAN images whose "
             "nearest real image is one that the GAN saw; 0.5 without copying.")


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
        return table_html(lines)
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


def table_html(lines):
    rows = []
    tag = "th"
    for line in [lines[0], *lines[2:]]:
        cells = [f"<{tag}>{inline(cell)}</{tag}>" for cell in cells_of(line)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
        tag = "td"
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def picture_html(line, out):
    """A line ![caption](path): a chart as it is, a PNG as JPEG of at most 1040 px, a fifth of its size."""
    caption, path = re.fullmatch(r"!\[(.*)\]\((.*)\)", line).groups()
    caption = html.escape(caption)
    if path.endswith(".svg"):
        picture = (out / path).read_text()
    else:
        buffer = io.BytesIO()
        with contextlib.suppress(OSError):          # a damaged picture stays empty
            picture = Image.open(out / path).convert("RGB")
            picture.thumbnail((1040, 1040))
            picture.save(buffer, "JPEG", quality=85)
        code = base64.b64encode(buffer.getvalue()).decode()
        picture = f'<img alt="{caption}" src="data:image/jpeg;base64,{code}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def write(out):
    """report.md and report.html of the finished jobs in `out`. Returns the sentence of the answer."""
    results = Results(out)
    if not results.jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    scale = "unknown"
    with contextlib.suppress(OSError, LookupError, UserError):      # missing or damaged
        scale = jobs.read_json(results.out / "config.json")["scale"]
    page = Page(results)
    first_screen(page, scale)
    if results.names("controls", "*"):
        controls_section(page)
    for study in PAPERS:
        if results.names(study, "*"):
            paper_section(page, study, judged=scale != "quick")
            gan_table(page, study)
    for problem in results.damaged:
        page.add(f"Left out, damaged: {' '.join(problem.split())}")
    page.add(FOLD)
    rows = [[job, one["seconds"], f"`{one['command']}`"] for job, one in results.jobs.items()]
    page.table(["job", "seconds", "command"], rows)
    page.add("</details>")
    with jobs.replacing(results.out / "report.md") as file:
        file.write("\n\n".join(page.blocks).encode())
    body = [to_html(block, results.out) for block in page.blocks]
    with jobs.replacing(results.out / "report.html") as file:
        file.write("\n".join([HEAD, *body]).encode())
    return answer(results)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return
    said = write(sys.argv[1])
    print(f"report: {Path(sys.argv[1]) / 'report.html'}")
    print(said)


if __name__ == "__main__":
    jobs.run_cli(main)
