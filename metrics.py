"""metrics.py: numbers in, numbers out; and the page that shows them.

    python metrics.py fid A B                      Frechet distance of two image sets, folders or feature arrays (.npy)
    python metrics.py report results/quick         report.html and report.md from the finished jobs in a folder

The printed tables of the papers are data here (PRINTED), each row with the job that reproduces it. The report only ever
shows what a result.json or a predictions.csv holds; a job that has not run is named in its cell.
"""
import base64
import csv
import html
import json
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.stats

import data
from data import UserError

NAN = float("nan")


# ---------------------------------------------------------------------------------------------------------------------
# Classification

def confusion(labels, predicted, classes):
    """(classes, classes) counts: row = true class, column = predicted class."""
    return np.bincount(np.asarray(labels) * classes + np.asarray(predicted), minlength=classes ** 2).reshape(classes, classes)


def binary_metrics(matrix, positive=1):
    """The five measures of a 2 x 2 confusion matrix (row = truth); nan where nothing was predicted or present.

    matrix: (..., 2, 2) counts or weights, so that a thousand bootstrap matrices are done at once. positive: index of the
    class that sensitivity, precision and F1 are about.
    """
    matrix, p, n = np.asarray(matrix, float), positive, 1 - positive
    tp, fn, fp, tn = matrix[..., p, p], matrix[..., p, n], matrix[..., n, p], matrix[..., n, n]
    with np.errstate(invalid="ignore", divide="ignore"):
        return dict(sensitivity=tp / (tp + fn), specificity=tn / (tn + fp), precision=tp / (tp + fp),
                    accuracy=(tp + tn) / (tp + fn + fp + tn), f1=2 * tp / (2 * tp + fp + fn))


def as_printed(matrix):
    """The five measures as paper 000 computes them: on the transposed matrix, with benign (class 0) as the positive class.

    Its Tables 6-8 have exactly one integer solution each, and in all three the column sums, not the row sums, are the
    class sizes 460 and 404: what it calls sensitivity is the precision for benign, and so on.
    """
    return binary_metrics(np.swapaxes(matrix, -1, -2), positive=0)


def auc(labels, scores, weights=None):
    """Area under the ROC curve: P(a positive scores above a negative), ties count half.

    labels: (n,) 0 or 1; scores: (n,); weights: (b, n) for b weighted versions at once (bootstrap). Returns a float or (b,).
    """
    order = np.argsort(scores, kind="stable")
    weights = np.ones((1, len(order))) if weights is None else weights
    starts = np.flatnonzero(np.diff(np.asarray(scores)[order], prepend=-np.inf))        # first image of each distinct score
    positive = np.add.reduceat(weights[:, order] * np.asarray(labels)[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1 - np.asarray(labels)[order]), starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    with np.errstate(invalid="ignore"):
        area = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return area if len(area) > 1 else float(area[0])


def roc_curve(labels, scores):
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1)."""
    labels, order = np.asarray(labels), np.argsort(-np.asarray(scores), kind="stable")
    last = np.flatnonzero(np.diff(np.asarray(scores)[order], append=np.inf))            # last image of each distinct score
    tp, fp = np.cumsum(labels[order])[last], np.cumsum(1 - labels[order])[last]
    return np.r_[0, fp / max(fp[-1], 1)], np.r_[0, tp / max(tp[-1], 1)]


def lesion_weights(groups, draws, seed=0):
    """(draws, n) bootstrap weights: lesions, not pictures, are drawn with replacement."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    return np.random.default_rng(seed).multinomial(lesions, np.full(lesions, 1 / lesions), draws)[:, member].astype(float)


def measures(labels, probabilities, weights=None):
    """All measures of a two-class test: binary_metrics and AUC with malignant (class 1) positive, and the paper's five.

    labels (n,), probabilities (n, 2), weights (b, n) or None. Returns {name: float or (b,)}.
    """
    labels, predicted = np.asarray(labels), np.asarray(probabilities).argmax(1)
    cell = np.eye(4)[labels * 2 + predicted]                                            # which of the 4 cells, one-hot
    matrix = ((np.ones((1, len(labels))) if weights is None else weights) @ cell).reshape(-1, 2, 2)
    values = binary_metrics(matrix) | {f"printed_{key}": value for key, value in as_printed(matrix).items()}
    values = {key: value if len(value) > 1 else float(value[0]) for key, value in values.items()}
    return values | dict(auc=auc(labels, np.asarray(probabilities)[:, 1], weights))


def summary(runs, draws=2000, alpha=0.05):
    """{measure: [mean over seeds, low, high]} of one or more seeds of the same arm, tested on the same images.

    runs: list of (labels, probabilities, groups). The interval is a bootstrap over seeds and, within the test set, over
    lesions, so it holds both sources of chance.
    """
    seeds = np.random.default_rng(1).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), draws) / len(runs)
    weights = lesion_weights(runs[0][2], draws)
    points = [measures(labels, probabilities) for labels, probabilities, _ in runs]
    spread = [measures(labels, probabilities, weights) for labels, probabilities, _ in runs]
    result = {}
    for key in points[0]:
        value = np.mean([point[key] for point in points])
        boot = sum(seeds[:, s] * spread[s][key] for s in range(len(runs)))
        low, high = np.nanquantile(boot, (alpha / 2, 1 - alpha / 2)) if np.isfinite(boot).any() else (NAN, NAN)
        result[key] = [float(value), float(low), float(high)]
    return result


def wilson(successes, n):
    """95 % Wilson interval of a proportion."""
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(labels, probabilities, groups, classes):
    """What a classifier's result.json keeps of one test set: counts, the confusion matrix, and each measure with its interval.

    Proportions carry Wilson intervals, F1 and AUC bootstrap intervals over lesions. More than two classes: accuracy, and
    precision and sensitivity per class.
    """
    labels, predicted, k = np.asarray(labels), np.asarray(probabilities).argmax(1), len(classes)
    matrix = confusion(labels, predicted, k)
    result = dict(n=len(labels), confusion=matrix.tolist(),
                  loss=float(-np.log(np.clip(np.asarray(probabilities)[np.arange(len(labels)), labels], 1e-12, 1)).mean()),
                  majority=float(np.bincount(labels).max() / len(labels)),
                  accuracy=[float(np.trace(matrix) / len(labels)), *wilson(np.trace(matrix), len(labels))])
    hits, found, present = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    result["per_class"] = {name: dict(sensitivity=rate(hits[c], present[c]), precision=rate(hits[c], found[c]))
                           for c, name in enumerate(classes)}
    if k == 2:
        boot = summary([(labels, probabilities, groups)])
        result.update(sensitivity=rate(hits[1], present[1]), specificity=rate(hits[0], present[0]),
                      precision=rate(hits[1], found[1]), f1=plain(boot["f1"]), auc=plain(boot["auc"]),
                      as_printed={key: plain(boot[f"printed_{key}"]) for key in binary_metrics(matrix)})
    return result


def rate(successes, n):
    """[proportion, low, high] with its Wilson interval; None where there is nothing to count."""
    return [float(successes / n), *wilson(successes, n)] if n else None


def plain(triple):
    """A [value, low, high] that JSON can hold: None where the value is undefined."""
    return None if np.isnan(triple).any() else triple


def difference(before, after, draws=4000):
    """[mean accuracy gain, low, high] of arm `after` over arm `before` on the same test images: paired bootstrap.

    before, after: lists of (labels, probabilities, groups), one per seed. Lesions are drawn once for both arms (that is
    what pairing means); seeds are drawn for each arm. Images must be the same in the same order.
    """
    if any(not np.array_equal(a[0], before[0][0]) or not np.array_equal(a[2], before[0][2]) for a in before + after):
        raise UserError("arms can only be compared on the same test images in the same order")
    weights, rng = lesion_weights(before[0][2], draws, seed=2), np.random.default_rng(3)
    weights /= weights.sum(1, keepdims=True)
    boot = value = 0
    for sign, runs in ((-1, before), (1, after)):
        right = np.array([probabilities.argmax(1) == labels for labels, probabilities, _ in runs], float)   # (seeds, n)
        seeds = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), draws) / len(runs)
        boot, value = boot + sign * (seeds * (weights @ right.T)).sum(1), value + sign * right.mean()
    return [float(value), *map(float, np.quantile(boot, (0.025, 0.975)))]


# ---------------------------------------------------------------------------------------------------------------------
# Distances between image distributions

def frechet(x, y):
    """Frechet distance of two feature samples (n, d), (m, d): |mean gap|^2 + tr(Sx + Sy - 2 (Sx Sy)^(1/2)), float64.

    With X, Y centred and divided by sqrt(n - 1), Sx = X'X, and tr (Sx Sy)^(1/2) is the sum of the singular values of X Y'.
    This holds for any n; where n > d, X is first replaced by the triangular factor R of X = QR (R'R = X'X), which keeps
    the matrix at d x d. No matrix square root, so nothing complex, nothing negative, no regulariser.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    total = np.square(x).sum() + np.square(y).sum()
    x, y = (scipy.linalg.qr(z, mode="r", check_finite=False)[0][:z.shape[1]] if len(z) > z.shape[1] else z for z in (x, y))
    return float(gap + total - 2 * scipy.linalg.svdvals(x @ y.T).sum())


def colour_features(images, side=8):
    """(n, 192): mean colour in an 8 x 8 grid of each image, in [0, 1]. A network-free feature: distances in it are FD-8x8."""
    n, height, width, _ = images.shape
    if height % side or width % side:
        raise UserError(f"images of {height} px cannot be cut into {side} x {side} cells: use a multiple of {side}")
    return images.reshape(n, side, height // side, side, width // side, 3).mean((2, 4)).reshape(n, -1) / 255


def distance_with_floor(x, y, seed=0):
    """(distance, noise floor, n): x and y cut to the same n; the floor is the distance between two halves' worth of x.

    The estimate is biased upward for small n, so a distance means something only beside the distance of x to itself at
    the same n. Both use n = min(len(x) // 2, len(y)) images a side.
    """
    rng, n = np.random.default_rng(seed), min(len(x) // 2, len(y))
    if n < 2:
        raise UserError(f"a Frechet distance needs at least 4 and 2 images, not {len(x)} and {len(y)}")
    x = x[rng.permutation(len(x))]
    return frechet(x[:n], y[rng.permutation(len(y))[:n]]), frechet(x[:n], x[n:2 * n]), n


# ---------------------------------------------------------------------------------------------------------------------
# The printed tables, as data. A row: label | job that reproduces it | printed values. A mark (a, b, ...) behind a value
# points to the reason why that value cannot be right as it stands.

PRINTED = {"wgan_gp": dict(
    title="Goren & Cinarer, WGAN-GP: Cancer lesion classification with GAN-based image augmentation",
    claim="GAN images raise accuracy: CNN 86.00 to 86.34 %, MobileNet 90.81 to 91.67 %, ResNet-18 81.66 to 91.78 %",
    classifiers=(("CNN", "cnn", 8), ("MobileNet", "mobilenet", 7), ("ResNet-18", "resnet18", 6)),    # label, job, table, in order
    layers={
        "1": """Conv2d 3072a | InstanceNorm2d 128 | LeakyReLU 0 | Conv2d 131200 | InstanceNorm2d 256 | LeakyReLU 0 | Conv2d 524544
                | InstanceNorm2d 512 | LeakyReLU 0 | Conv2d 2097664 | InstanceNorm2d 1024 | LeakyReLU 0 | Conv2d 8193""",
        "2": """Conv2d 10976 | InstanceNorm2d 448 | LeakyReLU 0 | Conv2d 1606080 | InstanceNorm2d 896 | LeakyReLU 0 | Conv2d 6423424
                | InstanceNorm2d 1792 | LeakyReLU 0 | Conv2d 25691904 | InstanceNorm2d 3584 | LeakyReLU 0 | Conv2d 28673""",
        "3": """ConvTranspose2d 5736192 | BatchNorm2d 3584 | ReLU 0 | ConvTranspose2d 25691008 | BatchNorm2d 1792 | ReLU 0
                | ConvTranspose2d 6422976 | BatchNorm2d 896 | ReLU 0 | ConvTranspose2d 1605856 | BatchNorm2d 448 | ReLU 0
                | ConvTranspose2d 10755 | Tanh 0"""},
    table_4="""CNN | cnn_real | .8674b .2564 .8900
               MobileNet | mobilenet_real | .9081b .0732 .9200
               ResNet-18 | resnet18_real | .8166c .4212 .9100""",
    table_5="""CNN | cnn_hybrid | .8634 .2821 .8700
               MobileNet | mobilenet_hybrid | .9167 .1829 .9200
               ResNet-18 | resnet18_hybrid | .9178 .3300 .9100""",
    reports={6: (.9201, .9152, .9261, .9178, .9231), 7: (.9350, .8971, .9065, .9167, .9205),
             8: (.9111, .8192, .8239, .8634, .8653)},       # sensitivity, specificity, precision, accuracy, F1
    recovered={6: ((426, 34), (37, 367)), 7: ((417, 43), (29, 375)), 8: ((379, 81), (37, 367))},   # row = truth, benign first
    marks=dict(
        a="3 x 64 x 16 = 3,072 has no bias, but every other convolution of the table has one; with it 3,136.",
        b="No k of 660 test images (nor of 864, nor of 2,637 training images) gives this accuracy to four decimals.",
        c="539 of 660 is .81667: .8166 only if cut off instead of rounded.",
        d="With the real class sizes 460 and 404 no integer matrix gives these five values. Transposed, exactly one does."))}


# ---------------------------------------------------------------------------------------------------------------------
# Reading results

def read_jobs(out):
    """{"study/job": result.json} of every finished job below `out`."""
    return {"/".join(file.parts[-3:-1]): json.loads(file.read_text()) for file in sorted(Path(out).glob("*/*/result.json"))}


def seeds_of(jobs, name):
    """The names of the jobs that are `name` with one seed each: name-s0, name-s1, ..."""
    return [job for job in jobs if job.rpartition("-s")[0] == name]


def read_arm(out, jobs, name, test):
    """[(labels, probabilities, groups)] of one arm on one of its test sets, one per seed, from the predictions.csv files."""
    runs = []
    for job in seeds_of(jobs, name):
        with open(Path(out) / job / "predictions.csv", newline="") as file:
            header, *rows = csv.reader(file)
        rows = [row for row in rows if row[0] == test]
        classes = header[4:]
        runs.append((np.array([classes.index(row[3]) for row in rows]), np.array([row[4:] for row in rows], float),
                     np.array([row[2] for row in rows])))
    return runs


# ---------------------------------------------------------------------------------------------------------------------
# Rendering: one table renderer for Markdown and HTML, and figures as inline SVG or PNG

def number(value, digits=3):
    """A number or a [value, low, high] as text."""
    if value is None or np.isnan(np.ravel(value)[0]):
        return "undefined (class never predicted)"
    if np.ndim(value) == 0:
        return f"{value:.{digits}f}"
    return f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def printed_value(text):
    """A printed value as it stands, its mark raised: ".8674b" -> "0.8674 (b)"."""
    value = text.rstrip("abcd")
    return ("0" if value.startswith(".") else "") + value + (f" ({text[len(value):]})" if value != text else "")


class Page:
    """The report, written twice at once: Markdown lines and HTML parts. Every string that goes into the HTML is escaped."""

    def __init__(self):
        self.markdown, self.html = [], []

    def heading(self, level, text):
        self.markdown += ["#" * level + " " + text, ""]
        self.html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text, kind="p"):
        self.markdown += [f"> **{text}**" if kind == "warn" else text, ""]
        self.html.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def table(self, caption, header, rows, notes=()):
        """header: column names; rows: lists of texts, the first being the row's name. An interval "[a, b]" is set smaller."""
        self.markdown += [f"**{caption}**", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        self.markdown += ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""] + [f"*{note}*  " for note in notes] + [""]

        def cell(text, tag):
            text = html.escape(str(text))
            value, bracket, interval = text.partition(" [")
            return f"<{tag}>{value}{f' <small>[{interval}</small>' if bracket else ''}</{tag}>"
        self.html.append(f'<div class="scroll"><table><caption>{html.escape(caption)}</caption><thead><tr>'
                         + "".join(cell(h, "th") for h in header) + "</tr></thead><tbody>"
                         + "".join("<tr>" + "".join(cell(c, "td" if k else "th") for k, c in enumerate(row)) + "</tr>" for row in rows)
                         + "</tbody></table></div>" + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes))

    def figure(self, caption, *parts):
        """parts: SVG text, or the path of a PNG below the report's folder."""
        shown = []
        for part in parts:
            if isinstance(part, Path):
                self.markdown += [f"![{caption}]({'/'.join(part.parts[-3:])})", ""]
                part = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(part.read_bytes()).decode()}">'
            shown.append(part)
        self.markdown += [f"*{caption}*" + ("" if any(isinstance(p, Path) for p in parts) else " (drawn in report.html)"), ""]
        self.html.append(f'<figure><div class="row">{"".join(shown)}</div><figcaption>{html.escape(caption)}</figcaption></figure>')


def svg_lines(title, series, x_label, y_range=None):
    """A small line chart. series: [(name, xs, ys)]. Colours come from the page's style, so that it turns with dark mode."""
    w, h, left, top, bottom = 340, 220, 44, 26, 34
    xs = np.concatenate([np.asarray(x, float) for _, x, _ in series])
    ys = np.concatenate([np.asarray(y, float) for _, _, y in series])
    (x0, x1), (y0, y1) = (xs.min(), xs.max()), y_range or (ys.min(), ys.max())
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1

    def place(x, y):
        return left + (x - x0) / (x1 - x0) * (w - left - 10), h - bottom - (y - y0) / (y1 - y0) * (h - top - bottom)
    parts = [f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{html.escape(title)}"><text x="{left}" y="14" class="t">{html.escape(title)}</text>']
    for k in range(5):
        value = y0 + (y1 - y0) * k / 4
        _, y = place(x0, value)
        parts.append(f'<path d="M{left} {y:.1f}H{w - 10}" class="g"/><text x="{left - 5}" y="{y + 4:.1f}" class="e">{value:.3g}</text>')
    parts.append(f'<text x="{left}" y="{h - 18}">{x0:.3g}</text><text x="{w - 10}" y="{h - 18}" class="e">{x1:.4g}</text>'
                 f'<text x="{(left + w) / 2:.0f}" y="{h - 18}" class="m">{html.escape(x_label)}</text>')
    for k, (name, x, y) in enumerate(series):
        points = " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in zip(x, np.clip(y, y0, y1)))
        parts.append(f'<polyline points="{points}" class="s{k}"/><path d="M{left + 100 * k} {h - 6}h14" class="s{k}"/>'
                     f'<text x="{left + 18 + 100 * k}" y="{h - 2}">{html.escape(name)}</text>')
    return "".join(parts) + "</svg>"


def svg_matrix(title, matrix, classes):
    """A confusion matrix: row = truth, column = prediction, shaded by the share of its row."""
    matrix, k = np.asarray(matrix), len(classes)
    side, left, top = 150 / k, 84, 50
    parts = [f'<svg viewBox="0 0 260 220" role="img" aria-label="{html.escape(title)}"><text x="8" y="14" class="t">{html.escape(title)}</text>'
             f'<text x="{left + 75}" y="32" class="m">predicted</text>']
    for r in range(k):
        parts.append(f'<text x="{left - 6}" y="{top + side * (r + .5) + 4:.0f}" class="e">{html.escape(classes[r])}</text>'
                     f'<text x="{left + side * (r + .5):.0f}" y="45" class="m">{html.escape(classes[r])}</text>')
        for c in range(k):
            share = matrix[r, c] / max(matrix[r].sum(), 1)
            parts.append(f'<rect x="{left + side * c:.1f}" y="{top + side * r:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" class="c" fill-opacity="{0.06 + 0.84 * share:.2f}"/>'
                         f'<text x="{left + side * (c + .5):.0f}" y="{top + side * (r + .5) + 5:.0f}" class="m n{" w" if share > .55 else ""}">{matrix[r, c]}</text>')
    return "".join(parts) + "</svg>"


STYLE = """
:root{color-scheme:light dark;--ink:#1d2129;--soft:#5d6673;--line:#dde1e7;--bg:#fff;--panel:#f5f7f9;--s0:#0b6e8f;--s1:#c4571b;--s2:#6a8a1f;--warn:#fff3dc;--warnline:#d99a2b}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#333a45;--bg:#14171c;--panel:#1c2129;--s0:#5cc0de;--s1:#f0945c;--s2:#b2d35f;--warn:#33291a;--warnline:#d99a2b}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 18px 60px}h1{font-size:1.75rem;line-height:1.2;margin:.4em 0}h2{margin:2.2em 0 .5em;padding-top:.6em;border-top:1px solid var(--line);font-size:1.35rem;line-height:1.3}
h3{margin:2em 0 .4em;font-size:1.08rem}p{max-width:46em}.soft,.note,figcaption{color:var(--soft);font-size:.87rem}.note{margin:.2em 0}
.warn{background:var(--warn);border-left:4px solid var(--warnline);padding:.6em .9em;border-radius:4px}.lead{font-size:1.12rem}
.scroll{overflow-x:auto;margin:1em 0 .4em}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}caption{text-align:left;font-weight:600;padding:0 0 .5em}
th,td{padding:.38em .8em .38em 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}thead th{color:var(--soft);font-weight:500;vertical-align:bottom}
tbody th{font-weight:500}tr>:first-child{text-align:left}small{color:var(--soft);white-space:nowrap;display:block}
figure{margin:1.4em 0}.row{display:flex;flex-wrap:wrap;gap:14px}svg{width:100%;max-width:340px;background:var(--panel);border-radius:8px;padding:6px}
img{max-width:100%;height:auto;border-radius:6px;flex:0 1 470px;min-width:0}figcaption{margin-top:.5em}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .t{fill:var(--ink);font-weight:600;font-size:12px}svg .e{text-anchor:end}svg .m{text-anchor:middle}
svg .n{fill:var(--ink);font-size:17px}svg .w{fill:var(--bg)}svg .c{fill:var(--s0)}svg .g{stroke:var(--line);fill:none}
svg .s0,svg .s1,svg .s2{fill:none;stroke-width:2}svg .s0{stroke:var(--s0)}svg .s1{stroke:var(--s1)}svg .s2{stroke:var(--s2)}code{font-size:.85em;overflow-wrap:anywhere}
@media print{body{font-size:11pt}figure,table{break-inside:avoid}.scroll{overflow:visible}}
"""


# ---------------------------------------------------------------------------------------------------------------------
# The report

def report(out, scale):
    """Write report.md and report.html from the finished jobs in `out`. Returns the path of the HTML page."""
    out, page = Path(out), Page()
    jobs = read_jobs(out)
    if not jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    page.heading(1, "Do GAN images help a skin-lesion classifier?")
    what_was_run(page, jobs, scale)
    if any(name.startswith("wgan_gp/") for name in jobs):
        report_wgan_gp(page, out, jobs, scale)
    page.heading(2, "Every job")
    page.text("A job can be run alone with its command from `bash run_all.sh list`; delete its folder first to run it afresh.")
    page.table("Finished jobs", ["job", "seconds", "steps", "precision"],
               [[name, job["seconds"], job.get("steps", "none"), job["config"].get("precision", "none")] for name, job in jobs.items()])
    with data.replacing(out / "report.md") as file:
        file.write("\n".join(page.markdown).encode())
    body = "\n".join(page.html)
    with data.replacing(out / "report.html") as file:
        file.write(('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
                    f"<title>Do GAN images help?</title><style>{STYLE}</style><main>{body}</main></html>").encode())
    return out / "report.html"


def what_was_run(page, jobs, scale):
    latest = list(jobs.values())[-1]
    hours = sum(job["seconds"] for job in jobs.values())
    versions = ", ".join(f"{name} {version}" for name, version in latest["versions"].items())
    sources = {job["source"]["source"] for job in jobs.values() if "source" in job}
    page.text(f"Scale {scale}. Data: {', '.join(sorted(sources)) or 'none yet'}. {len(jobs)} jobs, {data.readable_time(hours)} of work on "
              f"{latest['device']}. {versions}. Code {latest['commit']}. Report of {time.strftime('%Y-%m-%d %H:%M')}.", "soft")
    if scale == "quick":
        page.text("Quick scale: narrow networks and few steps, to show that everything works. "
                  "No number here can be compared with a printed one.", "warn")


def report_wgan_gp(page, out, jobs, scale):
    """Tables 1-8 and Figures 1-5 of paper 000, ours beside printed, in both protocols."""
    paper, study = PRINTED["wgan_gp"], "wgan_gp/"
    arms = {(name, test): read_arm(out, jobs, study + name, test) for _, net, _ in paper["classifiers"]
            for name, test in ((f"{net}_real", "real"), (f"{net}_hybrid", "real"), (f"{net}_hybrid", "mixed"))}
    values = {key: summary(runs) for key, runs in arms.items() if runs}

    def ours(name, test, measure):
        if (name, test) not in values:
            return f"not run: {name}"
        if measure in values[name, test]:
            return number(values[name, test][measure])
        of_seeds = [jobs[job] for job in seeds_of(jobs, study + name)]
        if measure == "val_accuracy":
            return number(np.mean([job["curves"]["val_accuracy"][-1] for job in of_seeds]))
        return number(np.mean([job["metrics"][test]["loss"] for job in of_seeds]))

    page.heading(2, paper["title"])
    page.text(f"Printed claim. {paper['claim']}.")
    page.heading(3, "The question: real images, or real and GAN images?")
    rows = []
    for label, net, _ in paper["classifiers"]:
        real, hybrid = arms[f"{net}_real", "real"], arms[f"{net}_hybrid", "real"]
        if not (real and hybrid):
            rows.append([label, *[f"not run: {net}_{'hybrid' if real else 'real'}"] * 3, "none"])
            continue
        gain = difference(real, hybrid)
        word = "better" if gain[1] > 0 else "worse" if gain[2] < 0 else "no difference shown"
        rows.append([label, ours(f"{net}_real", "real", "accuracy"), ours(f"{net}_hybrid", "real", "accuracy"),
                     f"{100 * gain[0]:+.1f} points [{100 * gain[1]:+.1f}, {100 * gain[2]:+.1f}]", word])
    tested = next(iter(arms.values()))
    majority = max(np.bincount(tested[0][0]) / len(tested[0][0])) if tested else NAN
    rows.append(["always the larger class", number(majority), number(majority), "+0.0 points [+0.0, +0.0]", "by definition"])
    page.table(f"Accuracy on the {len(tested[0][0]) if tested else 0} real test images, {scale} scale",
               ["classifier", "real", "real + GAN", "gain", "verdict"], rows,
               ["95 % intervals: bootstrap over lesions and seeds; the gain is paired by lesion. Both arms run the paper's epochs, so the "
                "hybrid arm makes more optimiser steps: the comparison leans towards the GAN."])

    network_tables(page, paper, jobs.get(study + "networks"))
    marks = paper["marks"]
    printed = {k: [line.split("|") for line in paper[f"table_{k}"].splitlines()] for k in (4, 5)}
    rows = []
    for label, name, cells in printed[4]:
        name = name.strip()
        rows.append([label.strip()] + [text for measure, value in zip(("accuracy", "loss", "val_accuracy"), cells.split())
                                       for text in (printed_value(value), ours(name, "real", measure))])
    page.table("Table 4. Trained on real images, tested on real images",
               ["model", "accuracy, printed", "ours", "loss, printed", "ours", "val accuracy, printed", "ours"], rows,
               [f"({mark}) {marks[mark]}" for mark in "bc"])
    rows = []
    for label, name, cells in printed[5]:
        name, (accuracy, loss, val) = name.strip(), cells.split()
        rows.append([label.strip(), printed_value(accuracy), ours(name, "mixed", "accuracy"), ours(name, "real", "accuracy"),
                     printed_value(loss), ours(name, "mixed", "loss"), ours(name, "real", "loss"),
                     printed_value(val), ours(name, "real", "val_accuracy")])
    page.table("Table 5. Trained on real and GAN images; in both protocols",
               ["model", "accuracy, printed", "ours, as printed: mixed test", "ours, clean: real test", "loss, printed", "mixed test",
                "real test", "val accuracy, printed", "ours"], rows,
               ["As printed: 204 of the paper's 864 test images are GAN images. Clean: the same real test images as Table 4."])
    for label, net, table in paper["classifiers"][::-1]:
        name, right = f"{net}_hybrid", binary_metrics(paper["recovered"][table])
        rows = [[measure.replace("f1", "F1"), f"{value:.4f} (d)", number(right[measure], 4), ours(name, "mixed", f"printed_{measure}"),
                 ours(name, "mixed", measure), ours(name, "real", measure)]
                for measure, value in zip(right, paper["reports"][table])]
        rows.append(["AUC", "not printed", "no scores printed", ours(name, "mixed", "auc"), ours(name, "mixed", "auc"), ours(name, "real", "auc")])
        page.table(f"Table {table}. {label}, trained on real and GAN images",
                   ["measure", "printed", "printed, put right", "ours, as printed: mixed test", "ours, right, mixed test", "ours, clean: real test"],
                   rows, [f"(d) {marks['d']}", "As printed: on the transposed matrix with benign positive. Right and clean: malignant is the positive class."])
        figure_wgan_gp(page, arms, jobs, study + name, f"Figure {table - 3}. {label} on real and GAN images")
    for caption, names in (("Figure 1. Real images, training part", ["data"]),
                           ("Figure 2. GAN images, benign (first) and malignant", ["gan_benign", "gan_malignant"])):
        found = [out / study / name / "grid.png" for name in names if study + name in jobs]
        page.figure(caption if found else f"{caption}: not run", *found)
    charts = [svg_lines(f"{name}: {what}", [(label, np.arange(len(ys)) * job["curves"]["window"], ys) for label, ys in series], "generator step")
              for name in ("gan_benign", "gan_malignant") if (job := jobs.get(study + name))
              for what, series in (("critic", [("D(x)", job["curves"]["d_real"]), ("D(G(z))", job["curves"]["d_fake"])]),)]
    collapsed = [name for name, job in jobs.items() if job.get("metrics", {}).get("collapsed")]
    page.figure("The critic's scores while training" + (f". COLLAPSED: {', '.join(collapsed)}" if collapsed else ""), *charts)


def network_tables(page, paper, job):
    """Tables 1-3: printed against built parameters, layer by layer."""
    for table, text in paper["layers"].items():
        built = next((rows for title, rows in (job or {}).get("tables", {}).items() if title.startswith(f"Table {table}")), None)
        rows, printed_total = [], 0
        for k, entry in enumerate(text.split("|")):
            layer, value = entry.split()
            printed_total += int(value.rstrip("abcd"))
            count = value.rstrip("abcd")
            rows.append([layer, printed_value(value).replace(count, f"{int(count):,}"),
                         f"{built[k][2]:,}" if built else "not run: networks", " x ".join(map(str, built[k][1])) if built else "not run: networks"])
        total = f"{sum(row[2] for row in built):,}" if built else "not run: networks"
        rows.append(["total", f"{printed_total:,}", total, "64 px images"])
        names = {"1": "critic (width 64)", "2": "discriminator (width 224)", "3": "generator (width 224, z 200)"}
        page.table(f"Table {table}. The {names[table]}", ["layer", "parameters, printed", "built", "output, ours"], rows,
                   [f"(a) {paper['marks']['a']}"] if table == "1" else [])


def figure_wgan_gp(page, arms, jobs, name, caption):
    """Figures 3-5: accuracy and loss while training, confusion matrices in both protocols, ROC; of the first seed."""
    job = next((jobs[job] for job in seeds_of(jobs, name)), None)
    if job is None:
        return page.text(f"{caption}: not run: {name}")
    curves, classes, short = job["curves"], job["config"]["classes"], name.split("/")[1]
    epochs = np.arange(1, len(curves["loss"]) + 1)
    roc = [(test, *roc_curve(labels, chances[:, 1])) for test in ("real", "mixed") for labels, chances, _ in arms[short, test][:1]]
    page.figure(f"{caption}: (a) accuracy, (b) loss, (c) confusion matrices, (d) ROC; seed {job['config']['seed']}",
                svg_lines("accuracy", [("train", epochs, curves["accuracy"]), ("validation", epochs, curves["val_accuracy"])], "epoch"),
                svg_lines("loss", [("train", epochs, curves["loss"]), ("validation", epochs, curves["val_loss"])], "epoch"),
                *[svg_matrix(title, job["metrics"][test]["confusion"], classes) for test, title in
                  (("mixed", "as printed: mixed test"), ("real", "clean: real test"))],
                svg_lines("ROC, malignant positive", [(test, x, y) for test, x, y in roc], "false positive rate", (0, 1)))


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def read_features(path, size):
    path = Path(path)
    if path.suffix != ".npy":
        return colour_features(data.load(path, size if path.suffix != ".npz" else None).images), "FD-8x8"
    try:
        return np.load(path, allow_pickle=False), "FD"
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is not a feature array ({problem})") from None


def main():
    parser = data.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("fid", help="Frechet distance of two sets")
    p.add_argument("a", help="real images: folder, zip, image set, or feature array (.npy, n x d)")
    p.add_argument("b", help="generated images, likewise")
    p.add_argument("--size", type=int, default=64, help="side to decode image files to (default %(default)s)")
    p = commands.add_parser("report", help="report.html and report.md")
    p.add_argument("out", help="results folder")
    p.add_argument("--scale", default="quick", choices=("quick", "small", "paper"), help="named in the report (default %(default)s)")
    args = parser.parse_args()
    if args.command == "report":
        print(f"report: {report(args.out, args.scale)}")
        return
    (a, name), (b, other) = read_features(args.a, args.size), read_features(args.b, args.size)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or name != other:
        raise UserError(f"{args.a} gives features of shape {a.shape}, {args.b} of shape {b.shape}: they cannot be compared")
    distance, floor, n = distance_with_floor(a, b)
    meaning = "mean colours of an 8 x 8 grid; not an FID" if name == "FD-8x8" else "of the given features"
    print(f"{name} {distance:.4f}   noise floor {floor:.4f} (A against itself)   n {n} a side   {meaning}")


if __name__ == "__main__":
    data.run_cli(main)
