"""report.py: papers/*.md and the finished jobs of a results folder -> report.md -> report.html.

    python report.py results/quick

A table of papers/STUDY.md with a column `job` (or `as printed` and `clean`) gets our values below the printed
ones; its other columns say which measure. All other text is copied. The page shows only what a result.json or
a predictions.csv holds; a job that has not run is named in its cell.
"""
import base64
import fnmatch
import html
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

import jobs
import metrics
from jobs import UserError

PAPERS = Path(__file__).resolve().parent / "papers"
STUDIES = ["wgan_gp", "dcgan_cls", "acgan_cyclegan", "dermagan", "dcgan_inception"]
NO_EFFECT = 0.027           # what 2,534 test images can show with 80 % power: "no effect" means less


# ---- Results --------------------------------------------------------------------------------------------

class Results:
    """The finished jobs below a folder: jobs {"study/name": result.json}, damaged [why, ...]."""

    def __init__(self, out):
        self.out, self.jobs, self.damaged, self.cache = Path(out), {}, [], {}
        for file in sorted(self.out.glob("*/*/result.json")):
            name = file.parent.relative_to(self.out).as_posix()
            try:
                result = jobs.read_json(file)
                assert isinstance(result.get("metrics", {}), dict) and isinstance(result.get("config"), dict)
                self.jobs[name] = result
                if (file.parent / "predictions.csv").exists():
                    self.cache[name] = {test: metrics.read_predictions(file.parent, test) for test in result["metrics"]}
            except (UserError, AssertionError, OSError) as problem:
                self.jobs.pop(name, None)
                self.damaged.append(f"{name}: {problem}")

    def names(self, pattern):
        """The jobs of "study/name" (wildcards allowed), without the seeds: [name, ...]."""
        without = dict.fromkeys(re.sub(r"-s\d+$", "", name) for name in self.jobs)
        return fnmatch.filter(without, pattern)

    def seeds(self, name):
        """The result of each seed of a job."""
        return [result for job, result in self.jobs.items() if re.sub(r"-s\d+$", "", job) == name]

    def arms(self, name, test="real"):
        """{measure: Arm} of a job's seeds on one test; {} where it has not run."""
        if (name, test) not in self.cache:
            runs = [tests.get(test) for job, tests in self.cache.items()
                    if isinstance(job, str) and re.sub(r"-s\d+$", "", job) == name]
            runs = [run for run in runs if run]
            arms = metrics.arms_of([run for run, _ in runs], runs[0][1]) if runs else {}
            self.cache[name, test] = arms
        return self.cache[name, test]

    def gain(self, study, before, after, measure="accuracy"):
        """metrics.gain of jobs named as in papers/*.md ("name", "name@test", wildcards); None if one is missing."""
        sides, arms = [], {}
        for names in (before, after):
            side = []
            for name in names.split():
                name, _, test = name.partition("@")
                found = self.names(f"{study}/{name}")
                if not found:
                    return None
                for job in found:
                    if measure in self.arms(job, test or "real"):
                        arms[job, test] = self.arms(job, test or "real")[measure]
                        side.append((job, test))
            sides.append(side)
        if not all(sides):
            return None
        if len({arm.test for arm in arms.values()}) > 1:        # on other test images: no paired interval
            means = [np.mean([arms[name].values.mean() for name in side]) for side in sides]
            return [float(means[1] - means[0]), None, None, None]
        return metrics.gain(arms, *sides)


def value(results, study, cell, measure, row, number):
    """One cell of a filled table as text. row: the row's first cell, number: its place in the table."""
    name, _, test = cell.partition("@")
    if name == "-":
        return "quoted"
    seeds, job = results.seeds(f"{study}/{name}"), f"{study}/{name}"
    if not seeds:
        return f"not run: {name}"
    kind, _, label = measure.removesuffix(" %").partition(" ")
    percent = 100 if measure.endswith("%") else 1
    if kind in ("output", "parameters"):
        _, shape, count = seeds[0]["tables"][test][number]
        return f"{count:,}" if kind == "parameters" else " x ".join(map(str, shape))
    if kind == "images":
        counts = seeds[0]["counts"].get(label, {})
        return f"{counts.get(row, sum(counts.values()) if row == 'Sum' else 0):,}"
    if kind == "distance":
        found = [one for one in seeds[0]["rows"] if one["set"] == label]
        return (f"{seeds[0]['net']} {found[0]['distance']:.2f} ± {found[0]['spread']:.2f}, "
                f"noise floor {found[0]['floor']:.2f}, KID {found[0]['kid']:.3g}") if found else "not scored"
    if measure in ("loss", "validation accuracy"):
        last = [one["metrics"][test or "real"]["loss"] if kind == "loss" else one["curves"]["val_accuracy"][-1]
                for one in seeds]
        return f"{np.mean(last):.3f}"
    if kind in ("precision", "recall", "f1") and not label:
        label = row
    arm = results.arms(job, test or "real").get(f"{kind} {label}".strip())
    level = metrics.level(arm) if arm else None
    if level is None:
        return f"no {label} here" if arm is None or kind == "recall" else "never predicted"
    value, low, high = (percent * number for number in level)
    digits = 1 if percent == 100 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def points(gain):
    """A gain in percentage points as text."""
    if gain is None or gain[0] is None:
        return "not run"
    shown = f"{100 * gain[0]:+.1f} points"
    return shown if gain[1] is None else f"{shown} [{100 * gain[1]:+.1f}, {100 * gain[2]:+.1f}]"


def verdict(printed, gain, p):
    """What became of a claim. printed: the cell of papers/*.md; gain: [value, low, high, p]; p corrected.

    Zero excluded in the claimed direction, and the printed effect in the interval: reproduced. The first
    alone: same direction. Neither: not reproduced. The second alone: too few images or seeds to tell.
    """
    if gain is None or gain[1] is None:
        return "cannot be tested here: not run"
    value, low, high, _ = gain
    if printed.startswith("level"):
        claimed = float(re.search(r"[\d.]+", printed)[0]) / 100
        return "reproduced" if low <= claimed <= high else "not reproduced"
    if p is None:
        return "cannot be tested here: one seed does not show training's chance"
    if printed.startswith("no effect"):
        if -NO_EFFECT <= low and high <= NO_EFFECT:
            return "reproduced"
        return "not reproduced" if p < 0.05 and abs(value) > NO_EFFECT else "cannot be tested here: too few images"
    found = re.match(r"[+-][\d.]+", printed)
    claimed = float(found[0]) / 100 if found else None
    sign = -1 if claimed and claimed < 0 else 1
    if p < 0.05 and value * sign > 0:
        return "reproduced" if claimed and low <= claimed <= high else "same direction"
    inside = low <= claimed <= high if claimed else high > 0
    return "cannot be tested here: too few images or seeds" if inside else "not reproduced"


# ---- Charts ---------------------------------------------------------------------------------------------

COLOURS = ["#0b6e8f", "#c4571b", "#6a8a1f", "#7a4fa3"]


def svg(title, parts, height):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" width="360" '
            f'font-family="system-ui,sans-serif" font-size="12" fill="#555">'
            f'<text x="6" y="16" fill="#111" font-weight="600">{html.escape(title)}</text>{"".join(parts)}</svg>')


def text(x, y, words, anchor="start", colour="#555"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{html.escape(str(words))}</text>'


def ticks(low, high):
    """About four round numbers from low to high."""
    step = 10 ** np.floor(np.log10((high - low) / 2))
    step *= min((k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5), default=10)
    return np.arange(np.ceil(low / step - 1e-9), high / step + 1e-9) * step


def line_chart(title, series, x_label):
    """series: [(name, xs, ys), ...]"""
    xs, ys = (np.concatenate([np.asarray(one[k], float) for one in series]) for k in (1, 2))
    x0, x1, y0, y1 = xs.min(), max(xs.max(), xs.min() + 1e-9), ys.min(), max(ys.max(), ys.min() + 1e-3)

    def place(x, y):
        return 44 + 300 * (x - x0) / (x1 - x0), 180 - 150 * (y - y0) / (y1 - y0)

    parts = [text(194, 212, x_label, "middle")]
    for tick in ticks(y0, y1):
        y = place(x0, tick)[1]
        parts += [f'<path d="M44 {y:.0f}H344" stroke="#ddd"/>', text(40, y + 4, f"{tick:.4g}", "end")]
    for tick in ticks(x0, x1):
        parts.append(text(place(tick, y0)[0], 196, f"{tick:,.5g}", "middle"))
    for k, (name, x, y) in enumerate(series):
        at = [place(a, b) for a, b in zip(x, y)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        colour = COLOURS[k % 4]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(44 + 75 * (k % 4), 230 + 16 * (k // 4), name, colour=colour))
    return svg(title, parts, 236 + 16 * ((len(series) - 1) // 4))


def interval_chart(title, rows, low, high):
    """rows: {label: [value, low, high]} beside lines at 0 and 1."""
    def at(value):
        return 130 + 215 * (min(max(value, low), high) - low) / (high - low)

    bottom = 34 + 28 * len(rows)
    parts = [f'<path d="M{at(mark):.0f} 24V{bottom}" stroke="#999" stroke-dasharray="3"/>' for mark in (0, 1)]
    parts += [text(at(mark), bottom + 16, mark, "middle") for mark in (0, 1)]
    for k, (label, (value, *ends)) in enumerate(rows.items()):
        y = 46 + 28 * k
        parts += [text(122, y + 4, label, "end"),
                  f'<path d="M{at(ends[0]):.0f} {y}H{at(ends[1]):.0f}" stroke="{COLOURS[0]}" stroke-width="3"/>',
                  f'<circle cx="{at(value):.0f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>']
    return svg(title, parts, bottom + 24)


def pictures(results, study, kind, patterns):
    """[(caption, chart as SVG or path of a PNG), ...] of a row of a Figures table; of the first seed."""
    names = [name for pattern in patterns.split() for name in results.names(f"{study}/{pattern}")]
    if kind == "dose":
        return dose_charts(results, names)
    shown = []
    for name in names:
        folder = next(job for job in results.jobs if re.sub(r"-s\d+$", "", job) == name)
        result, short = results.jobs[folder], name.split("/")[1]
        curves, folder = result.get("curves", {}), results.out / folder
        if kind == "gan":
            diverse = result["metrics"]["diversity"]
            caption = f"{short}, {result['steps']} steps, diversity {diverse:.2f}"
            losses = [key for key in curves if key not in ("window", "diversity", "penalty")]
            steps = np.arange(1, len(curves[losses[0]]) + 1) * curves["window"]
            shown.append((caption, line_chart(short, [(key, steps, curves[key]) for key in losses], "step")))
        if kind in ("curves", "training"):
            epochs = np.arange(1, len(curves["loss"]) + 1)
            for what in ("accuracy", "loss"):
                lines = [("training", epochs, curves[what]), ("validation", epochs, curves[f"val_{what}"])]
                shown.append((short, line_chart(f"{short}: {what}", lines, "look at the validation part")))
        if kind in ("curves", "roc"):
            run, classes = metrics.read_predictions(folder, "real")
            lines = [(f"{classes[1]} positive", *metrics.roc_curve(run[0], run[1][:, 1]))]
            shown.append((short, line_chart(f"{short}: ROC", lines, "false positive rate")))
        if kind == "lr_finder" and result.get("lr_finder"):
            found = result["lr_finder"]
            lines = [("loss", np.log10(found["lrs"][:len(found["losses"])]), found["losses"])]
            shown.append((short, line_chart(f"chosen {found['chosen']:.2g}", lines, "log10 of the rate")))
        if kind == "distance":
            steps = [int(row["set"]) for row in result["rows"]]
            for key, title in (("distance", result["net"]), ("inception_score", "Inception score")):
                lines = [(key, steps, [row[key] for row in result["rows"]])]
                if key == "distance":
                    lines.append(("noise floor", steps, [row["floor"] for row in result["rows"]]))
                shown.append((short, line_chart(title, lines, "step")))
        if kind in ("grid", "before_after", "augmented"):
            caption = short
            if "diversity" in result.get("metrics", {}):
                alarm = ", COLLAPSED" if result["metrics"]["collapsed"] else ""
                caption = f"{short}: {result['steps']} steps, diversity {result['metrics']['diversity']:.2f}{alarm}"
            shown.append((caption, folder / f"{kind}.png"))
        if kind == "steps":
            grids = sorted(folder.glob("grid_*.png"))
            chosen = dict.fromkeys(grids[round(share * (len(grids) - 1))] for share in (0, 0.13, 0.33, 1))
            shown += [(f"{short}, step {int(grid.stem[5:])}", grid) for grid in chosen if grids]
    return [(caption, part) for caption, part in shown if isinstance(part, str) or part.exists()]


def dose_charts(results, names):
    """Accuracy over the number at the end of the jobs' names, a line for each kind of name."""
    lines = {}
    for name in names:
        kind, _, number = name.split("/")[1].rpartition("_")
        arms = results.arms(name)
        if arms and re.fullmatch(r"[\d.]+", number):
            lines.setdefault(kind, []).append((float(number), arms["accuracy"].values.mean()))
    series = [(kind, *zip(*sorted(at))) for kind, at in lines.items()]
    return [("accuracy", line_chart("accuracy", series, "number in the job's name"))] if series else []


# ---- The page, as Markdown ------------------------------------------------------------------------------

class Page:
    """report.md, line by line. Charts and pictures are files; captions are plain words."""

    def __init__(self, results):
        self.results, self.lines, self.charts = results, [], 0

    def add(self, *lines):
        self.lines += [*lines, ""]

    def table(self, header, rows):
        def line(cells):
            words = (re.sub(r"[|<>\n]", " ", str(cell)) for cell in cells)
            return f"| {' | '.join(words)} |"

        self.add(line(header), line(["---"] * len(header)), *(line(row) for row in rows))

    def figure(self, shown):
        for caption, part in shown:
            if isinstance(part, str):
                self.charts += 1
                part, chart = self.results.out / "charts" / f"{self.charts:03d}.svg", part
                with jobs.replacing(part) as file:
                    file.write(chart.encode())
            caption = re.sub(r"[\[\]<>\n]", " ", caption)
            self.lines.append(f"![{caption}]({part.relative_to(self.results.out).as_posix()})")
        self.add()


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def paper_section(page, study, judged):
    """papers/STUDY.md with its tables filled, up to the notes, which stay in the file."""
    lines = (PAPERS / f"{study}.md").read_text(encoding="utf-8").splitlines()
    k = 0
    while k < len(lines) and lines[k] != "## Stated, silent, changed":
        if not lines[k].startswith("|"):
            page.lines.append(re.sub("^#", "##", lines[k]) if lines[k].startswith("#") else lines[k])
            k += 1
            continue
        table = []
        while k < len(lines) and lines[k].startswith("|"):
            table.append(cells_of(lines[k]))
            k += 1
        header, rows = table[0], table[2:]
        if header[0] == "claim":
            claims_table(page, study, rows, judged)
        elif header[0] == "figure":
            for number, title, kind, names in rows:
                figure_row(page, study, f"Figure {number}. {title}" if number != "ours" else title, kind, names)
        elif {"job", "clean"} & set(header):
            fill_table(page, study, header, rows)
        else:
            page.table(header, rows)
    page.add(f"What the paper states, leaves silent, and what was changed: papers/{study}.md")


def fill_table(page, study, header, rows):
    """A printed table with our values: a row of ours below each printed row, or columns beside single values."""
    protocols = [name for name in ("job", "as printed", "clean") if name in header]
    titles = {"job": "ours", "as printed": "ours, as printed", "clean": "ours, clean"}
    filled = []
    if "measure" in header:
        for number, row in enumerate(rows):
            cell = dict(zip(header, row))
            ours = [value(page.results, study, cell[name], cell["measure"], row[0], number) for name in protocols]
            filled.append([row[0], cell["measure"], cell["value"], *ours])
        page.table([header[0], "measure", "printed", *(titles[name] for name in protocols)], filled)
        return
    columns = [name for name in header[1:] if name not in protocols]
    for number, row in enumerate(rows):
        cell = dict(zip(header, row))
        printed = [cell[column] for column in columns]
        if set(printed) - {"not printed", "-"}:
            filled.append([row[0], "printed", *printed])
        for name in protocols:
            ours = [value(page.results, study, cell[name], column, row[0], number) for column in columns]
            if cell[name] != "-":
                filled.append([row[0], titles[name], *ours])
    page.table([header[0], "", *columns], filled)


def figure_row(page, study, title, kind, names):
    page.add(f"**{title}**")
    if kind in ("confusion", "counts"):
        for name in names.split():
            for result in page.results.seeds(f"{study}/{name}")[:1]:
                count_table(page, name, kind, result)
        return
    shown = pictures(page.results, study, kind, names)
    if shown:
        page.figure(shown)
    else:
        page.add(f"not run: {names}")


def count_table(page, name, kind, result):
    """A confusion matrix (row: truth), or the images of each class and part."""
    if kind == "confusion":
        classes = result["config"]["classes"]
        rows = zip(classes, result["metrics"]["real"]["confusion"])
        page.table([f"{name}: truth", *(f"called {one}" for one in classes)], [[one, *row] for one, row in rows])
        return
    counts = result["counts"] if "train" in result["counts"] else {"train": result["counts"]}
    classes = dict.fromkeys(one for part in counts.values() for one in part)
    page.table([name, *counts], [[one, *(part.get(one, 0) for part in counts.values())] for one in classes])


def claims_table(page, study, rows, judged):
    """What became of each claim, on real test images; as printed: by the paper's own protocol."""
    tested = []
    for claim, printed, before, after, *own in rows:
        gain = page.results.gain(study, before, after) if before != "-" else level_gain(page.results, study, after)
        way = points(page.results.gain(study, *own)) if own[0] != "-" else "-"
        tested.append((claim, printed, gain, way))
    ps = metrics.holm([gain[3] if gain else None for _, _, gain, _ in tested])
    shown = []
    for (claim, printed, gain, way), p in zip(tested, ps):
        here = points(gain)
        if printed.startswith("level") and gain:
            here = f"{100 * gain[0]:.1f} % [{100 * gain[1]:.1f}, {100 * gain[2]:.1f}]"
        row = [claim, printed, here, way]
        if judged:
            row.append(verdict(printed, gain, p))
        shown.append(row)
    page.table(["claim", "printed", "ours, clean", "ours, as printed", *["verdict"] * judged], shown)


def level_gain(results, study, name):
    arms = results.arms(f"{study}/{name}")
    level = metrics.level(arms["accuracy"]) if arms else None
    return [*level, None] if level else None


# ---- The controls ---------------------------------------------------------------------------------------

GANS = {"wgan_gp": "WGAN-GP", "dcgan_cls": "DCGAN (001)", "dermagan": "DCGAN (003)",
        "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "small CNN", "resnet18": "ResNet-18"}


def worth_of(results, net, gans):
    """(worth [x, low, high], gain of GAN images, gain of as many real ones) over all sizes that have run."""
    arms, triples = {}, []
    for name in results.names(f"controls/{net}_*_real"):
        size = int(name.split("_")[-2])
        for gan in gans:
            three = [f"controls/{net}_{at}_{arm}" for at, arm in ((size, "real"), (size, gan), (2 * size, "real"))]
            found = [results.arms(one).get("accuracy") for one in three]
            if all(found):
                arms.update(zip(three, found))
                triples.append(three)
    if not triples:
        return None
    real, fake, more = ([triple[k] for triple in triples] for k in range(3))
    return metrics.worth(arms, triples), metrics.gain(arms, real, fake), metrics.gain(arms, real, more)


def answer(results):
    """The first sentence of the page; None without controls."""
    found = worth_of(results, "cnn", GANS)
    if not found:
        return None
    (x, low, high), fake, more = found
    what = "drawn lesion" if "drawn" in source_of(results) else "photograph"
    if not np.isfinite(low):
        return (f"What one GAN image is worth cannot be told here: as many further real {what}s changed the "
                f"accuracy by {points(more)}, which is not clear of zero.")
    said = "Here GAN images were worth nothing that could be seen"
    if low > 0:
        said = "Here GAN images helped"
    if high < 0:
        said = "Here GAN images did harm"
    return (f"{said}: one was worth {x:.2f} of a further real {what} (95 % interval {low:.2f} to {high:.2f}). "
            f"Doubling the training set with GAN images changed a small CNN's accuracy by {points(fake)}, with "
            f"as many further real {what}s by {points(more)}.")


def source_of(results):
    data_jobs = [result for name, result in results.jobs.items() if name.endswith("/data")]
    control = results.jobs.get("controls/data") or next(iter(data_jobs), {})
    return str(control.get("source", {}).get("source", "unknown images"))


def first_screen(page, scale):
    results = page.results
    page.add("# Do GAN images help a skin-lesion classifier?", "")
    page.add(answer(results) or "What one GAN image is worth was not measured here: bash run_all.sh controls")
    worths = {name: worth_of(results, "cnn", [gan]) for gan, name in GANS.items()}
    worths = {name: found[0] for name, found in worths.items() if found and np.isfinite(found[0][1])}
    shown = []
    if worths:
        shown.append(("What one GAN image is worth, in further real images: 0 nothing, 1 as much as a real one",
                      interval_chart("worth of one GAN image", worths, -1, 1.5)))
    page.figure(shown)
    grids = pictures(results, "controls", "grid", "data *_100_benign *_100_malignant")
    page.figure([grids[k] for k in range(min(3, len(grids)))])
    seconds = sum(result["seconds"] for result in results.jobs.values())
    sources = sorted({str(result["source"]["source"]) for result in results.jobs.values() if "source" in result})
    stand_ins = sorted({result["source"]["stand_in"] for result in results.jobs.values()
                        if "source" in result and result["source"].get("stand_in")})
    page.add(f"Scale {scale}. Images: {'; '.join(sources)}. {len(results.jobs)} jobs, "
             f"{jobs.readable_time(seconds)} of work. Written {time.strftime('%Y-%m-%d %H:%M')}.")
    if stand_ins:
        page.add(f"Stand-ins: {'; '.join(stand_ins)}.")
    if scale == "quick":
        page.add("Quick scale: narrow networks, few steps. The controls answer for these images; the papers' tables "
                 "below are a rehearsal, and none of their numbers can be compared with a printed one.")
    if "drawn" in source_of(results):
        page.add("The same question of your own photographs: `bash run_all.sh --data DIR`, with DIR/benign and DIR/malignant")
    for problem in results.damaged:
        page.add(f"Left out, damaged: {problem}")


def controls_section(page):
    results = page.results
    page.add("## The controls: what is one GAN image worth?")
    counts = results.jobs.get("controls/data", {}).get("counts", {})
    page.add(f"Images: {', '.join(f'{part} {sum(one.values())}' for part, one in counts.items())}. Half of the "
             "training part is held back, to show what further real images would give; sizes are shares of the other "
             "half. A GAN is trained on the images that the classifier beside it has. All arms of a classifier make "
             "equally many steps, are tested on the same real images, and add as many images as there are real ones. "
             "Shuffled: GAN images under permuted labels, a placebo. Intervals: 95 %, over test lesions and seeds.")
    for net, title in NETS.items():
        sizes = sorted({int(name.split("_")[1]) for name in results.names(f"controls/{net}_*_real")})
        sizes = [size for size in sizes if results.arms(f"controls/{net}_{2 * size}_real")]
        rows, cells = [], {}
        arms = {"classical": "classical augmentation", "copies": "copies of the same images"}
        for gan, name in GANS.items():
            arms |= {gan: f"{name} images", f"{gan}_shuffled": f"{name}, labels shuffled", f"{gan}_alone": f"{name} alone"}
        for size in sizes:
            for arm in arms:
                cells[arm, size] = results.gain("controls", f"{net}_{size}_real", f"{net}_{size}_{arm}")
            cells["more", size] = results.gain("controls", f"{net}_{size}_real", f"{net}_{2 * size}_real")
        for arm, words in {"more": "as many further real images", **arms}.items():
            if any(cells.get((arm, size)) for size in sizes):
                rows.append([words, *(points(cells[arm, size]) for size in sizes)])
        levels = [value(results, "controls", f"{net}_{size}_real", "accuracy %", "", 0) for size in sizes]
        if rows:
            page.add(f"### {title}: gain in accuracy over the real images alone")
            heads = [f"{images_of(results, f'controls/{net}_{size}_real')} real images" for size in sizes]
            page.table(["added", *heads], [["nothing: accuracy in %", *levels], *rows])
    gan_table(page, "controls")


def images_of(results, name):
    return sum(results.seeds(name)[0]["counts"].values())


def gan_table(page, study):
    """How each GAN of the study ended, and whether it copies."""
    rows = []
    for name in page.results.names(f"{study}/*"):
        result = page.results.seeds(name)[0]
        found = result.get("metrics", {})
        if "diversity" in found:
            copies = found.get("closer_to_train")
            rows.append([name.split("/")[1], result["steps"], f"{found['diversity']:.2f}",
                         f"{found.get('fd_8x8_distance', 0):.3f} ({found.get('fd_8x8_floor', 0):.3f})",
                         f"{copies[0]:.2f} [{copies[1]:.2f}, {copies[2]:.2f}]" if copies else "-",
                         "COLLAPSED: its rows count as failed" if found["collapsed"] else "alive"])
    if rows:
        page.add("### The GANs", "")
        page.table(["GAN", "steps", "diversity", "FD-8x8 (noise floor)", "nearer to training images", "state"], rows)
        page.add("Diversity: mean distance between two samples over that between two real images; below 0.4 is "
                 "collapsed. FD-8x8: Frechet distance in mean colours of an 8 x 8 grid, no FID. Nearer to training "
                 "images: share of GAN images whose nearest real image is one that the GAN saw; 0.5 without copying.")


# ---- From Markdown to HTML ------------------------------------------------------------------------------

STYLE = """
body{margin:0 auto;max-width:960px;padding:16px;font:16px/1.5 system-ui,sans-serif;color:#1d2129;background:#fff}
h1{font-size:1.7rem;line-height:1.2}h2{margin-top:2.5em;border-top:1px solid #ddd;padding-top:.8em}
h1+p{font-size:1.2rem;font-weight:500}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3em .8em .3em 0;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}
th{color:#555;font-weight:500}td:first-child{position:sticky;left:0;background:#fff;min-width:7em}
.figure{display:flex;flex-wrap:wrap;gap:14px}figure{margin:.5em 0;max-width:100%}
figure img,figure svg{max-width:100%;height:auto;display:block}figure img{width:460px;image-rendering:auto}
figcaption{color:#555;font-size:.85rem;max-width:460px}code{font-size:.9em;background:#f3f5f7;padding:0 .2em}
summary{cursor:pointer;color:#0b6e8f}@media(max-width:600px){body{padding:10px}figure img{width:100%}}
"""


def inline(line):
    """Escaped text with **bold** and `code`."""
    line = html.escape(line, quote=False)
    line = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", line)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", line)


def to_html(lines, out):
    """The subset of Markdown that the page uses. Every string is escaped; pictures are embedded."""
    body, k = [], 0

    def block(start):
        nonlocal k
        found = []
        while k < len(lines) and lines[k].startswith(start):
            found.append(lines[k])
            k += 1
        return found

    while k < len(lines):
        line = lines[k]
        heading = re.match(r"(#+) (.*)", line)
        if line.startswith("| "):
            header, _, *rows = (cells_of(row) for row in block("|"))
            head = "".join(f"<th>{inline(cell)}</th>" for cell in header)
            lines_of = ["".join(f"<td>{inline(cell)}</td>" for cell in row) for row in rows]
            body.append(f'<div class="scroll"><table><tr>{head}</tr><tr>{"</tr><tr>".join(lines_of)}</tr></table></div>')
        elif line.startswith("!["):
            figures = [figure_html(*re.fullmatch(r"!\[(.*)\]\((.*)\)", one).groups(), out) for one in block("![")]
            body.append(f'<div class="figure">{"".join(figures)}</div>')
        elif line.startswith("- "):
            body.append("<ul>" + "".join(f"<li>{inline(one[2:])}</li>" for one in block("- ")) + "</ul>")
        elif line in ("<details>", "</details>") or line.startswith("<summary>"):
            body.append(line)
            k += 1
        elif heading:
            level = len(heading[1])
            body.append(f"<h{level}>{inline(heading[2])}</h{level}>")
            k += 1
        elif line:
            words = [line]
            k += 1
            while k < len(lines) and lines[k] and lines[k][0] not in "|!-#<":
                words.append(lines[k])
                k += 1
            body.append(f"<p>{inline(' '.join(words))}</p>")
        else:
            k += 1
    return "\n".join(body)


def figure_html(caption, path, out):
    raw, caption = (out / path).read_bytes(), html.escape(caption)
    picture = raw.decode() if path.endswith(".svg") else (
        f'<img alt="{caption}" src="data:image/png;base64,{base64.b64encode(raw).decode()}">')
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def write(out):
    """report.md and report.html of the finished jobs in `out`. Returns the sentence of the answer."""
    results = Results(out)
    if not results.jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    about = results.out / "config.json"
    scale = jobs.read_json(about).get("scale", "unknown") if about.exists() else "unknown"
    page = Page(results)
    first_screen(page, scale)
    begun = Counter(name.split("/")[0] for name in results.jobs)
    if "controls" in begun:
        controls_section(page)
    for study in STUDIES:
        if study in begun:
            paper_section(page, study, judged=scale != "quick")
            gan_table(page, study)
    page.add("<details>", "<summary>Every job and its command</summary>", "")
    page.table(["job", "seconds", "command"],
               [[name, one["seconds"], f"`{one['command']}`"] for name, one in results.jobs.items()])
    page.add("</details>")
    head = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
            'content="width=device-width,initial-scale=1"><title>Do GAN images help?</title>'
            f"<style>{STYLE}</style>")
    with jobs.replacing(results.out / "report.md") as file:
        file.write("\n".join(page.lines).encode())
    with jobs.replacing(results.out / "report.html") as file:
        file.write((head + to_html(page.lines, results.out)).encode())
    return answer(results)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return
    said = write(sys.argv[1])
    print(f"report: {Path(sys.argv[1]) / 'report.html'}")
    if said:
        print(said)


if __name__ == "__main__":
    jobs.run_cli(main)
