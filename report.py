"""report.py: papers/*.md and the finished jobs of a results folder -> report.md -> report.html.

    python report.py results/quick
    python report.py results/small --docs docs      docs/small.md, .html: without photographs

A table of papers/STUDY.md with a column `job` (or `as printed`, `clean`) gets our values beside the
printed ones; all other text is copied. A cell of such a column names a job, - none; NAME@mixed is
its result on that test set, NAME@critic on that network. `value` knows what other heads can be,
`pictures_of` and `table_of` what a figure can be. The HTML needs no script and no other file.
"""
import base64
import contextlib
import fnmatch
import functools
import html
import io
import itertools
import re
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

import jobs
import metrics

PAPERS = {file.stem[4:]: file for file in sorted(jobs.HERE.glob("papers/*.md"))}
NO_EFFECT = 0.027           # 2,534 test images can show it with 80 % power: "no effect" is less
FAR = 3                     # times the noise floor: a GAN's distance that is told
COPIES = 0.6                # share nearer to training images, called copying; without it .5
DRAWN = "drawn lesions"     # how the source of such images begins


@contextlib.contextmanager
def leaving_out(say, what):
    """Where a damaged result breaks what is done inside, say so, and go on."""
    try:
        yield
    except Exception as problem:
        say(f"Left out, damaged: {what}: {' '.join(repr(problem).split())}")


# ---- Results

class Study:
    """The finished jobs of one folder. NAME stands for its seeds NAME-s0, NAME-s1, ...; as in
    papers/*.md NAME@mixed is the same on another test, and "cnn_real gan_*" are several."""
    def __init__(self, folder, damaged, public=False):
        self.name = folder.name
        self.public = public        # shows no photographs
        self.seeds = {}     # NAME: of each seed what result.json holds, its folder and tests
        self.arm_names = {}     # (network, share of the images, generator or "", kind): NAME
        self.titles = {}    # generator of an arm: its name for readers
        self.own = {}       # generator that is not of gan.py: its line in the table of GANs
        self.gans = {}      # NAME: {how bad it ended with a seed: its line in that table}
        self.source = "unknown images"
        for file in sorted(folder.glob("*/result.json")):
            with leaving_out(damaged.append, f"{self.name}/{file.parent.name}"):
                self.add(file.parent)

    def add(self, folder):
        result = dict(metrics={}, counts={}, source={}, generators={}, tests={}, folder=folder)
        result |= jobs.read_json(folder / "result.json")
        config, found, source = result["config"], result["metrics"], result["source"]
        name = folder.name.removesuffix(f"-s{config.get('seed')}")
        if folder.name == "data":
            self.source = str(source.get("stand_in") or source["source"])
        if "diversity" in found:
            row = gan_row(name, found, config["steps"])
            failed = not row["state"].startswith("alive")   # it collapsed or copies
            self.gans.setdefault(name, {})[failed, found["collapsed"], -found["diversity"]] = row
        for generator, measures in result["generators"].items():
            if measures:                            # {} of gan.py's own
                self.own[generator] = gan_row(generator, measures)
        if "leaked" in result:                      # a classifier
            result["tests"] = {test: metrics.read_predictions(folder, test) for test in found}
            generator, kind = " + ".join(config["synthetic"]), config["augment"]
            for done in ("alone", "shuffle"):       # with the generator's images
                if config[done]:
                    kind = done
            if generator:
                self.titles[generator] = TITLES.get(generator, generator)
            self.arm_names[config["model"], Fraction(config["share"]), generator, kind] = name
        self.seeds.setdefault(name, []).append(result)

    def names(self, patterns):
        """Names of jobs that fit: "gan_* late@mixed" -> ["gan_AK", "late@mixed"], run or not."""
        found = []
        for pattern in patterns.split():
            pattern, at, test = pattern.partition("@")
            fitting = fnmatch.filter(self.seeds, pattern) or [pattern]
            found += [name + at + test for name in fitting]
        return found

    def of(self, patterns):
        """The results of every seed of the jobs that fit."""
        names = [name.partition("@")[0] for name in self.names(patterns)]
        return sum([self.seeds.get(name, []) for name in names], [])

    @functools.cache
    def arms(self, name):
        """{measure: Arm} of the seeds of NAME or NAME@test; {} where it has not run."""
        name, _, test = name.partition("@")
        test = test or "real"
        runs = [one["tests"][test] for one in self.seeds.get(name, []) if test in one["tests"]]
        return metrics.arms_of(runs) if runs else {}

    def gain(self, before, after):
        """metrics.gain in accuracy of the jobs that fit; None if one has not run."""
        before, after = self.names(before), self.names(after)
        arms = {name: self.arms(name).get("accuracy") for name in before + after}
        if None in arms.values():
            return None
        with contextlib.suppress(jobs.UserError):   # on other test images: no paired interval
            return metrics.gain(arms, before, after)
        low = np.mean([arms[name].values.mean() for name in before])
        high = np.mean([arms[name].values.mean() for name in after])
        return [high - low, None, None, None]

    def after_collapse(self, patterns):
        """A word, if a GAN has collapsed from which these jobs learned: their commands name it."""
        collapsed = {one["folder"].name for one in self.of("*") if one["metrics"].get("collapsed")}
        words = " ".join(one["command"] for one in self.of(patterns)).split()
        return ", a GAN COLLAPSED" if collapsed & {Path(word).name for word in words} else ""


# ---- One cell

def value(study, job, measure, row="", number=0):
    """A measure of a job, as text. row: the first cell of its row, such as a class; its number."""
    seeds, test = study.of(job), job.partition("@")[2] or "real"
    if not seeds:
        return f"not run: {job}"
    first = seeds[0]
    kind, _, label = measure.removesuffix(" %").partition(" ")
    if kind == "images":
        counts = first["counts"].get(label, {})
        return f"{sum(counts.values()) if row == 'Sum' else counts.get(row, 0):,}"
    if kind in ("output", "parameters"):            # of a layer; the total is last
        number = -1 if row == "total" else number
        _, shape, parameters = first["tables"][test][number]
        return f"{parameters:,}" if kind == "parameters" else "x".join(map(str, shape)) or "-"
    if kind == "distance":                          # of NAME@SET, by `score`
        for one in first["rows"]:
            if one["set"] == test:
                return ("{net} {distance:.2f} ± {spread:.2f}, noise floor {floor:.2f}, "
                        "KID {kid:.3g}").format(net=first["net"], **one)
    if kind in first["metrics"]:                    # of a GAN
        return f"{np.mean([one['metrics'][kind] for one in seeds]):.2f}"
    if kind == "called":                            # how many of the row's class
        classes = first["config"]["classes"]
        matrix = first["metrics"][test]["confusion"]
        return f"{matrix[classes.index(row)][classes.index(label)]:,}"
    if kind == "loss":
        return f"{np.mean([one['metrics'][test]['loss'] for one in seeds]):.3f}"
    if kind == "validation":
        return f"{np.mean([one['curves']['val_accuracy'][-1] for one in seeds]):.3f}"
    label = label or row                            # its class: the head's, else the row's
    arms = study.arms(job)
    arm = arms.get(measure.removesuffix(" %"), arms.get(f"{kind} {label}"))
    if arm is None:
        return f"no {measure} here"
    level = metrics.level(arm)
    if level is None:
        return f"no {label} here" if kind == "recall" else "never predicted"
    if measure.endswith("%"):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*np.multiply(level, 100))
    return "{:.3f} [{:.3f}, {:.3f}]".format(*level)


def points(gain):
    """A gain in percentage points as text."""
    if gain is None:
        return "not run"
    value, *ends = [f"{100 * share:+.1f}" for share in gain[:3] if share is not None]
    return f"{value} points [{', '.join(ends)}]" if ends else f"{value} points"


def verdict(printed, gain, p):
    """What became of a claim. printed: its cell; gain: [value, low, high, p]; p: by Holm.
    "level" claims an accuracy, "no effect" one of less than NO_EFFECT."""
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


# ---- Figures

def pictures_of(study, kind, name):
    """[(caption, chart or file), ...] of the first seed. Without a chart: a job's PNG."""
    result, series, charts = study.of(name)[0], [], []
    curves = result.get("curves", {})
    if kind == "steps":
        grids = sorted(result["folder"].glob("grid_*.png"))
        chosen = {round(share * (len(grids) - 1)) for share in (0, 0.13, 0.33, 1)}
        return [(f"{name}, step {int(grids[k].stem[5:])}", grids[k]) for k in sorted(chosen)]
    if kind == "gan":                               # what its steps returned, means of windows
        for key, ys in curves.items():
            if key not in ("window", "penalty"):
                steps = curves["window"] * np.arange(1, len(ys) + 1)
                series.append((key, np.minimum(steps, result["config"]["steps"]), ys))
        charts.append(line_chart(name, "step", series))
    if kind == "distance":                          # over the steps of a GAN
        at = [int(row["set"]) for row in result["rows"]]
        for key in ("distance", "floor", "inception_score"):
            series.append((key.replace("_", " "), at, [row[key] for row in result["rows"]]))
        charts.append(line_chart(result["net"], "step", series[:2]))
        charts.append(line_chart("Inception score", "step", series[2:]))
    if kind in ("training", "curves"):
        looks = np.arange(1, len(curves["loss"]) + 1)
        for key in ("accuracy", "loss"):
            series = [("training", looks, curves[key]), ("validation", looks, curves[f"val_{key}"])]
            charts.append(line_chart(f"{name}: {key}", "look at the validation part", series))
    if kind in ("roc", "curves"):
        labels, probabilities, _, classes = result["tests"]["real"]
        series = [(f"{classes[1]} positive", *metrics.roc_curve(labels, probabilities[:, 1]))]
        charts.append(line_chart(f"{name}: ROC", "false positive rate", series))
    picture = result["folder"] / f"{kind}.png"
    if study.public and not study.source.startswith(DRAWN) and not charts:
        if "diversity" not in result["metrics"]:    # photographs
            return []
        if "source" in result["config"]:            # grid.png has above what a CycleGAN translated
            picture = max(result["folder"].glob("grid_*.png"))
    return [(name, shown) for shown in charts or [picture]]


def dose(study, names):
    """Accuracy over the number at the end of the names, a line for each kind of name."""
    lines = {}
    for name in names:
        kind, _, number = name.rpartition("_")
        accuracy = study.arms(name)["accuracy"].values.mean()
        lines.setdefault(kind, []).append((float(number), 100 * accuracy))
    series = [(kind, *zip(*sorted(line))) for kind, line in lines.items()]
    return [("accuracy in %", line_chart("accuracy in %", "number in the job's name", series))]


def table_of(study, kind, name):
    """A row per class of the first seed: what it was called, or its images by part."""
    result = study.of(name)[0]
    classes, parts = result["config"].get("classes"), result["counts"]
    if kind == "confusion":
        called = np.transpose(result["metrics"]["real"]["confusion"])
        parts = {f"called {label}": dict(zip(classes, of)) for label, of in zip(classes, called)}
    elif "train" not in parts:
        real = study.of("data")[0]["counts"]        # parts: what a classifier learned from
        added = Counter(parts) - Counter(real["train"])
        parts = {"train real": real["train"], "train from GANs": added, "test": real["test"]}
    rows = []
    for label in next(iter(parts.values())):
        rows.append({name: label} | {part: of.get(label, 0) for part, of in parts.items()})
    return rows


def figure(page, study, number, title, kind, patterns):
    if number != "ours":
        title = f"Figure {number}. {title}"
    page.add(f"**{title}**")
    names = [name for name in study.names(patterns) if study.of(name)]
    if not names:
        page.add(f"not run: {patterns}")
    elif kind == "dose":
        page.pictures(dose(study, names))
    elif kind in ("confusion", "counts"):
        for name in names:
            page.table(table_of(study, kind, name))
    else:
        page.pictures(sum([pictures_of(study, kind, name) for name in names], []))


# ---- A paper

@functools.cache
def read_paper(study):
    """papers/STUDY.md up to the notes: [text or rows of a table, ...]."""
    blocks = []
    paper = PAPERS[study].read_text(encoding="utf-8").partition("## Stated, silent, changed")[0]
    for block in paper.strip().split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = map(cells_of, block.splitlines())
            block = [dict(zip(header, row, strict=True)) for row in rows]
        blocks.append(block)
    return blocks


OURS = {"job": "ours", "as printed": "ours, as printed", "clean": "ours, clean"}


def paper_section(page, study):
    """A paper's text with its tables filled."""
    for block in read_paper(study.name):
        if isinstance(block, str):
            page.add(re.sub("^#", "##", block))
        elif "figure" in block[0]:
            for row in block:
                figure(page, study, *row.values())
        elif "claim" in block[0]:
            page.table(claims_of(study, "verdict"))     # which is on the first screen
        elif OURS.keys() & block[0].keys():
            page.table(filled(study, block))
        else:
            page.table(block)
    page.add("What the paper states, leaves silent, and what was changed: "
             f"papers/{PAPERS[study.name].name}")
    gan_table(page, study)


def filled(study, rows):
    """A table with our values in rows below the printed ones."""
    table, first = [], next(iter(rows[0]))
    columns = [name for name in rows[0] if name not in (first, *OURS)]
    for k, row in enumerate(rows):
        cells = {column: row[column] for column in columns}
        if set(cells.values()) - {"-", "not printed"}:
            table.append({first: row[first], "": "printed"} | cells)
        for name, words in OURS.items():
            if row.get(name, "-") != "-":
                cells = {head: value(study, row[name], head, row[first], k) for head in columns}
                table.append({first: row[first], "": words} | cells)
    return table


def claims_of(study, hidden):
    """A row for each claim: {column: cell}, without the hidden column."""
    rows = next((block for block in read_paper(study.name) if "claim" in block[0]), [])
    gains, table = [], []
    for row in rows:
        gain, arms = study.gain(row["before"], row["after"]), study.arms(row["after"])
        clean, as_printed = points(gain), "-"
        if row["before"] == "-" and arms:           # not a gain but an accuracy
            gain = [*metrics.level(arms["accuracy"]), None]
            clean = f"{value(study, row['after'], 'accuracy %')} %"
        if row.get("before, as printed", "-") != "-":
            before, after = row["before, as printed"], row["after, as printed"]
            as_printed = points(study.gain(before, after))
            as_printed += study.after_collapse(f"{before} {after}")
        gains.append(gain)
        clean += study.after_collapse(f"{row['before']} {row['after']}")
        table.append({"claim": row["claim"], "printed": row["printed"],
                      "ours, clean": clean, "ours, as printed": as_printed})

    corrected = metrics.holm([gain and gain[3] for gain in gains])
    for row, cells, gain, p in zip(rows, table, gains, corrected):
        cells["verdict"] = verdict(row["printed"], gain, p)
        arms = study.of(f"{row['before']} {row['after']}")
        weights = {one["config"].get("weights") for one in arms}
        if gain and {None, "none"} <= weights:      # the paper took one of the networks pretrained
            cells["verdict"] = "cannot be tested here: without published weights"
        del cells[hidden]
    return table


# ---- The controls

TITLES = {"wgan_gp": "WGAN-GP", "dcgan_cls": "DCGAN (001)", "dermagan": "DCGAN (003)",
          "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "small CNN", "resnet18": "ResNet-18"}


def sizes_of(controls, net):
    """The shares that were trained with and without as many further real images, rising."""
    real = {arm[1] for arm in controls.arm_names if (arm[0], *arm[2:]) == (net, "", "none")}
    return sorted(share for share in real if 2 * share in real)


def worth_of(controls, generators):
    """(worth [x, low, high], gain of GAN images, gain of as many real ones) over all sizes."""
    triples = []
    for share, generator in itertools.product(sizes_of(controls, "cnn"), generators):
        arms = (share, ""), (share, generator), (2 * share, "")
        triple = [controls.arm_names.get(("cnn", *arm, "none")) for arm in arms]
        if all(triple):
            triples.append(triple)
    if not triples:
        return None
    real, with_gan, more = map(" ".join, zip(*triples))
    arms = {name: controls.arms(name)["accuracy"] for name in sum(triples, [])}
    return metrics.worth(arms, triples), controls.gain(real, with_gan), controls.gain(real, more)


def answer(controls):
    """The first sentences: of each generator of one's own by name, then of our GANs."""
    said = []
    for name, row in controls.own.items():
        said.append(sentence(controls, [name], f"images of {name}"))
        if not row["state"].startswith("alive"):
            said.append(f"But {name}: {row['state']}.")
    ours = controls.titles.keys() - controls.own
    if ours or not said:
        said.append(sentence(controls, sorted(ours), "GAN images"))
    return " ".join(said)


def sentence(controls, generators, images):
    found = worth_of(controls, generators)
    if not found:
        return f"What {images} are worth was not measured here: bash run_all.sh controls"
    (x, low, high), generated, more = found
    what = "drawn lesion" if controls.source.startswith(DRAWN) else "photograph"
    if not np.isfinite(low):
        return (f"What {images} are worth cannot be told here: as many further real {what}s "
                f"changed the accuracy by {points(more)}, which is not clear of zero.")
    helped = "helped" if low > 0 else "did not help"
    return (f"Here {images} {helped}: one was worth {x:.2f} of a further real {what} "
            f"(95 % interval {low:.2f} to {high:.2f}). Doubling the training set with them changed "
            f"a small CNN's accuracy by {points(generated)}, with as many further real {what}s by "
            f"{points(more)}.")


def controls_section(page, controls):
    page.add("## The controls: what is one GAN image worth?")
    sizes = [f"{part} {sum(of.values())}" for part, of in controls.of("data")[0]["counts"].items()]
    seeds = max(len(controls.seeds[name]) for name in controls.arm_names.values())
    page.add(f"Images: {', '.join(sizes)}; half of the training part is held back as further real "
             "images. Each GAN learns from the images that the classifier beside it has. All arms "
             "of a classifier make equally many steps, are tested on the same real images, and add "
             "as many images as there are real ones. Shuffled: under permuted labels, a placebo. "
             f"Intervals: 95 %, over test lesions and each arm's seeds, up to {seeds}.")
    for net, title in NETS.items():
        if sizes_of(controls, net):
            page.add(f"### {title}: gain in accuracy over the real images alone")
            page.table(controls_of(controls, net))
    gan_table(page, controls)


def controls_of(controls, net):
    """A row for each way to double the training set, a column for each size."""
    arms = {"as many further real images": (2, "", "none"),
            "classical augmentation": (1, "", "classical")}
    for generator, title in controls.titles.items():
        arms[f"{title} images"] = 1, generator, "none"
        arms[f"{title}, labels shuffled"] = 1, generator, "shuffle"
        arms[f"{title} alone"] = 1, generator, "alone"
    rows = [{"added": words} for words in ("nothing: accuracy in %", *arms)]
    for share in sizes_of(controls, net):
        real = controls.arm_names[net, share, "", "none"]
        column = f"{sum(controls.of(real)[0]['counts'].values())} real images"
        rows[0][column] = value(controls, real, "accuracy %")
        for row, (times, generator, kind) in zip(rows[1:], arms.values()):
            other = controls.arm_names.get((net, times * share, generator, kind), "-")
            row[column] = points(controls.gain(real, other)) + controls.after_collapse(other)
    return rows


# ---- The GANs

def gan_table(page, study):
    """How each GAN ended, of several seeds the worst; also one's own generators."""
    rows = list(study.own.values())
    rows += [seeds[max(seeds)] for seeds in study.gans.values()]
    if rows:
        page.add("### The GANs (columns: see the end)")
        page.table(rows)


def gan_row(name, measures, steps="-"):
    """A line of that table. Copying comes last: who copies a few pictures looks collapsed."""
    state, copies, distance = "alive", "-", "-"
    if "fd_8x8_distance" in measures:               # not of a single image
        distance = "{fd_8x8_distance:.3f} ({fd_8x8_floor:.3f})".format(**measures)
        if measures["fd_8x8_distance"] > FAR * measures["fd_8x8_floor"]:
            state = "alive, but far"
    if measures["collapsed"]:
        state = "COLLAPSED: its rows count as failed"
    if "closer_to_train" in measures:
        copies = "{:.2f} [{:.2f}, {:.2f}]".format(*measures["closer_to_train"])
        if measures["closer_to_train"][1] > COPIES:
            state = "COPIES its training images"
    return {
        "GAN": name, "steps": steps, "diversity": f"{measures['diversity']:.2f}",
        "distinctness": f"{measures['distinctness']:.2f}",
        "FD-8x8 (noise floor)": distance, "nearer to training images": copies, "state": state}


# ---- The first screen, and the last

def first_screen(page, studies, scale):
    controls = studies["controls"]
    page.add("# Do GAN images help a skin-lesion classifier?")
    page.add(answer(controls))
    if scale == "quick":
        page.add("Quick scale: narrow networks, few steps. The controls answer for these images; "
                 "the papers' tables are a rehearsal, no number compares with a printed one.")
    claims = []
    for name, paper in PAPERS.items():
        if scale != "quick" and studies[name].seeds:
            with leaving_out(page.add, name):
                for row in claims_of(studies[name], "ours, as printed"):
                    claims.append({"paper": paper.stem[:3]} | row)
    if claims:
        page.table(claims)

    worths = {}
    for generator, title in controls.titles.items():
        found = worth_of(controls, [generator])
        if found and np.isfinite(found[0][1]):
            worths[title] = found[0]
    if worths:
        chart = interval_chart("worth of one GAN image", worths)
        page.pictures([("in further real images: 0 nothing, 1 as much as a real one", chart)])
    if controls.of("data"):
        title = f"A row per class of {controls.source}, and what GANs draw"
        figure(page, controls, "ours", title, "grid", " ".join(["data", *list(controls.gans)[:2]]))


def last_screen(page, studies, scale):
    page.add("## The columns of the GANs")
    page.add("Of several seeds the worst. Diversity: distance between two samples, each less its "
             f"mean colour, over that of real images; below {metrics.COLLAPSED} it has collapsed. "
             "Distinctness: the same of a sample and its nearest other one; below "
             f"{metrics.DISTINCT} a few pictures come again. FD-8x8: Frechet distance in mean "
             f"colours of an 8 x 8 grid, no FID; far: over {FAR} noise floors. Nearer to training "
             "images: GAN images whose nearest real one is one that it saw; 0.5 without copying.")
    rows = []
    for name in (*PAPERS, "controls"):
        found = studies[name].of("*")
        if found:
            commits = sorted({str(one.get("commit")) for one in found})
            devices = Counter(str(one.get("device")) for one in found)
            rows.append({"study": name, "images": studies[name].source,
                         "jobs": ", ".join(f"{n} on {device}" for device, n in devices.items()),
                         "commit": ", ".join(commits)})
    page.add("## How this was made")
    page.add(f"Scale {scale}; written {time.strftime('%Y-%m-%d %H:%M')}. A job's command is in "
             "its result.json. GAN images have the licence of what the GANs learned.")
    page.table(rows)


# ---- Charts, as SVG

COLOURS = ["#0b6e8f", "#c4571b", "#6a8a1f", "#7a4fa3"]


def svg(title, parts, height):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" width="360" '
            'font-family="system-ui,sans-serif" font-size="12" fill="#555">'
            f"{text(6, 16, title, colour='#111')}{''.join(parts)}</svg>")


def text(x, y, words, anchor="start", colour="#555"):
    words = html.escape(str(words))
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def line_chart(title, x_label, series):
    """series: [(name, xs, ys), ...]"""
    xs = np.concatenate([x for _, x, _ in series])
    ys = np.concatenate([y for _, _, y in series])
    left, bottom = xs.min(), ys.min()
    width, height = max(np.ptp(xs), 1e-2), max(np.ptp(ys), 1e-3)

    parts = [text(197, 212, x_label, "middle")]
    for share in (0, 0.5, 1):
        y = 180 - 150 * share
        parts.append(f'<path d="M50 {y}H344" stroke="#ddd"/>')
        parts.append(text(46, y + 4, f"{bottom + share * height:.3g}", "end"))
        parts.append(text(50 + 294 * share, 196, f"{left + share * width:,g}", "middle"))
    for k, (name, x, y) in enumerate(series):
        colour = COLOURS[k % 4]
        across = 50 + 294 * (np.array(x) - left) / width
        up = 180 - 150 * (np.array(y) - bottom) / height
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(50 + 75 * (k % 4), 230 + 16 * (k // 4), name, colour=colour))
    return svg(title, parts, 240 + 16 * ((len(series) - 1) // 4))


def interval_chart(title, rows):
    """rows: {label: [value, low, high]}, from -1 to 1.5, beside lines at 0 and 1."""
    bottom = 34 + 36 * len(rows)
    parts = []
    for mark in (0, 1):
        x = 216 + 86 * mark
        parts.append(f'<path d="M{x} 24V{bottom}" stroke="#999" stroke-dasharray="3"/>')
        parts.append(text(x, bottom + 16, mark, "middle"))
    for k, (label, interval) in enumerate(rows.items()):
        y = 46 + 36 * k
        x, low, high = 216 + 86 * np.clip(interval, -1, 1.5)
        parts.append(text(122, y + 4, label, "end"))
        parts.append(text(122, y + 19, "{:.2f} [{:.2f}, {:.2f}]".format(*interval), "end"))
        parts.append(f'<path d="M{low:.0f} {y}H{high:.0f}" stroke="#0b6e8f" stroke-width="3"/>')
        parts.append(f'<circle cx="{x:.0f}" cy="{y}" r="5" fill="#0b6e8f"/>')
    return svg(title, parts, bottom + 24)


# ---- The page: Markdown, and HTML from it

class Page:
    """Blocks of Markdown for place.md; its pictures are files of the folder `place`."""
    def __init__(self, place):
        self.place = place
        self.blocks = []
        self.add = self.blocks.append
        self.charts = itertools.count(1)

    def table(self, rows):
        """rows: [{column: cell}, ...]"""
        header = rows[0].keys()
        lines = []
        for cells in (header, ["---"] * len(header), *(row.values() for row in rows)):
            cells = [re.sub(r"[|<>\n]", " ", str(cell)) for cell in cells]
            lines.append(f"| {' | '.join(cells)} |")
        self.add("\n".join(lines))

    def pictures(self, shown):
        """A row of [(caption, chart as SVG or path of a job's PNG), ...]; each becomes a file."""
        lines = []
        for caption, picture in shown:
            if isinstance(picture, str):
                name, content = f"{next(self.charts):03d}.svg", picture.encode()
            else:
                name, content = "-".join(picture.with_suffix(".jpg").parts[-3:]), jpeg(picture)
            with jobs.replacing(self.place / name) as file:
                file.write(content)
            caption = re.sub(r"[\[\]<>\n]", " ", caption)
            lines += [f"![{caption}]({self.place.name}/{name})", caption]
        self.add("\\\n".join(lines))                # a backslash breaks a line


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def jpeg(path):
    """A PNG as JPEG, at most 1,040 px wide: a fifth of its size."""
    buffer = io.BytesIO()
    with contextlib.suppress(OSError):              # a damaged or missing picture stays empty
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((1040, 1040))
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Do GAN images help?</title><style>
body{margin:0 auto;max-width:960px;padding:12px;font:16px/1.5 system-ui,sans-serif;color:#1d2129}
h1+p{font-size:1.2rem}h2{margin-top:2.5em;border-top:1px solid #ddd}
.scroll{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3em .8em .3em 0;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}
tr>:first-child{position:sticky;left:0;background:#fff;min-width:3.5em;max-width:38vw}
code,tr>:first-child{overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:14px}figure{margin:.5em 0;max-width:460px}
img{max-width:100%;height:auto}figcaption{color:#555;font-size:.85rem}</style>"""


def inline(words):
    """Escaped text with **bold**, *italics* and `code`."""
    words = html.escape(words, quote=False)
    words = re.sub(r"`(.+?)`", r"<code>\1</code>", words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", words)
    return re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"<i>\1</i>", words)


def to_html(block, folder):
    """One block of our Markdown. Every string is escaped; pictures are embedded."""
    lines = block.splitlines()
    if block.startswith("|"):
        rows = []
        for tag, line in zip(["th", *["td"] * len(lines)], [lines[0], *lines[2:]]):
            cells = [f"<{tag}>{inline(cell)}</{tag}>" for cell in cells_of(line)]
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    if block.startswith("!["):
        shown = []
        for caption, path in re.findall(r"!\[(.*)\]\((.*)\)", block):
            kind = {".svg": "svg+xml", ".jpg": "jpeg"}[Path(path).suffix]
            content = base64.b64encode((folder / path).read_bytes()).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/{kind};base64,{content}">'
            shown.append(f"<figure>{image}<figcaption>{inline(caption)}</figcaption></figure>")
        return f'<div class="row">{"".join(shown)}</div>'
    if block.startswith("- "):
        items = [f"<li>{inline(line[2:])}</li>" for line in lines]
        return f"<ul>{''.join(items)}</ul>"
    if block.startswith("#"):
        marks, _, words = block.partition(" ")
        return f"<h{len(marks)}>{inline(words)}</h{len(marks)}>"
    return f"<p>{inline(' '.join(lines))}</p>"


# ---- Command line

def write(out, docs=None):
    """Makes the page of the jobs in `out`. Returns its first sentences and the HTML file."""
    out, damaged, scale = Path(out), [], "unknown"
    studies = {name: Study(out / name, damaged, bool(docs)) for name in ("controls", *PAPERS)}
    if not any(study.seeds for study in studies.values()):
        raise jobs.UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    with contextlib.suppress(jobs.UserError, KeyError):         # missing or damaged
        scale = str(jobs.read_json(out / "config.json")["scale"])
    page = Page(Path(docs, scale)) if docs else Page(out / "report")
    with leaving_out(page.add, "first screen"):
        first_screen(page, studies, scale)
    for study in studies.values():
        if study.seeds:
            with leaving_out(page.add, study.name):
                section = controls_section if study.name == "controls" else paper_section
                section(page, study)
    page.blocks += damaged
    last_screen(page, studies, scale)

    as_html = "\n".join([HEAD, *(to_html(block, page.place.parent) for block in page.blocks)])
    for suffix, words in ((".md", "\n\n".join(page.blocks)), (".html", as_html)):
        path = page.place.with_suffix(suffix)
        with jobs.replacing(path) as file:
            file.write(words.encode())
    return page.blocks[1], path


def main():
    parser = jobs.Parser(prog="report.py", description=__doc__)
    parser.add_argument("out", help="results folder")
    parser.add_argument("--docs", help="a folder for the page without photographs")
    args = parser.parse_args()
    print(*write(args.out, args.docs), sep="\n")


if __name__ == "__main__":
    jobs.run_cli(main)
