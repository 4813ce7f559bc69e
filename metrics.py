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
    cell = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(cell, minlength=classes ** 2).reshape(classes, classes)


def binary_metrics(matrix, positive=1):
    """The five measures of a 2 x 2 confusion matrix (row = truth); nan where nothing was predicted or present.

    matrix: (..., 2, 2) counts or weights, so that a thousand bootstrap matrices are done at once. positive: index of
    the class that sensitivity, precision and F1 are about.
    """
    matrix, p, n = np.asarray(matrix, float), positive, 1 - positive
    tp, fn, fp, tn = matrix[..., p, p], matrix[..., p, n], matrix[..., n, p], matrix[..., n, n]
    with np.errstate(invalid="ignore", divide="ignore"):
        return dict(sensitivity=tp / (tp + fn), specificity=tn / (tn + fp), precision=tp / (tp + fp),
                    accuracy=(tp + tn) / (tp + fn + fp + tn), f1=2 * tp / (2 * tp + fp + fn))


def as_printed(matrix):
    """The five measures as paper 000 computes them: on the transposed matrix, with benign (class 0) positive.

    Its Tables 6-8 have exactly one integer solution each, and in all three the column sums, not the row sums, are the
    class sizes 460 and 404: what it calls sensitivity is the precision for benign, and so on.
    """
    return binary_metrics(np.swapaxes(matrix, -1, -2), positive=0)


def auc(labels, scores, weights=None):
    """Area under the ROC curve: P(a positive scores above a negative), ties count half.

    labels: (n,) 0 or 1; scores: (n,); weights: (b, n) for b weighted versions at once. Returns a float or (b,).
    """
    order = np.argsort(scores, kind="stable")
    labels, scores = np.asarray(labels)[order], np.asarray(scores)[order]
    weights = np.ones((1, len(order))) if weights is None else weights[:, order]
    starts = np.flatnonzero(np.diff(scores, prepend=-np.inf))           # first image of each distinct score
    positive = np.add.reduceat(weights * labels, starts, axis=1)
    negative = np.add.reduceat(weights * (1 - labels), starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    with np.errstate(invalid="ignore"):
        area = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return area if len(area) > 1 else float(area[0])


def roc_curve(labels, scores):
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    labels, scores = np.asarray(labels)[order], np.asarray(scores)[order]
    last = np.flatnonzero(np.diff(scores, append=np.inf))               # last image of each distinct score
    tp, fp = np.cumsum(labels)[last], np.cumsum(1 - labels)[last]
    return np.r_[0, fp / max(fp[-1], 1)], np.r_[0, tp / max(tp[-1], 1)]


def lesion_weights(groups, draws, seed=0):
    """(draws, n) bootstrap weights: lesions, not pictures, are drawn with replacement."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    drawn = np.random.default_rng(seed).multinomial(lesions, np.full(lesions, 1 / lesions), draws)
    return drawn[:, member].astype(float)


def measures(labels, probabilities, weights=None):
    """All measures of a two-class test: binary_metrics and AUC with malignant (class 1) positive, and the paper's five.

    labels (n,), probabilities (n, 2), weights (b, n) or None. Returns {name: float or (b,)}.
    """
    labels, predicted = np.asarray(labels), np.asarray(probabilities).argmax(1)
    cell = np.eye(4)[labels * 2 + predicted]                            # which of the 4 cells, one-hot
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
    """What a classifier's result.json keeps of one test set: the confusion matrix and each measure with its interval.

    Proportions carry Wilson intervals, F1 and AUC bootstrap intervals over lesions. More than two classes: accuracy,
    and precision and sensitivity per class.
    """
    labels, probabilities, k = np.asarray(labels), np.asarray(probabilities), len(classes)
    matrix = confusion(labels, probabilities.argmax(1), k)
    right = probabilities[np.arange(len(labels)), labels]               # probability given to the true class
    result = dict(n=len(labels), confusion=matrix.tolist(), loss=float(-np.log(right.clip(1e-12)).mean()),
                  majority=float(matrix.sum(1).max() / len(labels)), accuracy=rate(np.trace(matrix), len(labels)))
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


def mean_accuracy(runs):
    return float(np.mean([(probabilities.argmax(1) == labels).mean() for labels, probabilities, _ in runs]))


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

    With X, Y centred and divided by sqrt(n - 1), Sx = X'X, and tr (Sx Sy)^(1/2) is the sum of the singular values of
    X Y'. This holds for any n; where n > d, X is first replaced by the triangular factor R of X = QR (R'R = X'X), which
    keeps the matrix at d x d. No matrix square root, so nothing complex, nothing negative, no regulariser.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    total = np.square(x).sum() + np.square(y).sum()
    x, y = (scipy.linalg.qr(z, mode="r")[0][:z.shape[1]] if len(z) > z.shape[1] else z for z in (x, y))
    return float(gap + total - 2 * scipy.linalg.svdvals(x @ y.T).sum())


def colour_features(images, side=8):
    """(n, 192): mean colour of each cell of an 8 x 8 grid, in [0, 1]. Needs no network: distances in it are FD-8x8."""
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
# The printed tables, as data. A row of `rows`: label | job | one printed value per column of the table. With a `job` for
# the whole table, a row is: label | measure | printed value. A letter behind a value points to the reason, in `marks`,
# why that value cannot be right as it stands; "=" means: not printed, or put right by us from the other values.

PAPER_000_REPORT = """sensitivity | printed_sensitivity | {}d
                      specificity | printed_specificity | {}d
                      precision | printed_precision | {}d
                      accuracy | accuracy | {}
                      F1 score | printed_f1 | {}d
                      put right: malignant found (sensitivity) | sensitivity | ={}
                      put right: benign found (specificity) | specificity | ={}
                      put right: precision for malignant | precision | ={}
                      put right: F1 for malignant | f1 | ={}
                      AUC | auc | ="""
BOTH = (("ours, as printed: mixed test", "mixed"), ("ours, clean: real test", "real"))      # column title, test set
PRINTED = {"wgan_gp": dict(
    title="Gören & Çınarer: Cancer lesion classification with GAN-based image augmentation (WGAN-GP)",
    claim="GAN images raise accuracy: CNN 86.00 to 86.34 %, MobileNet 90.81 to 91.67 %, ResNet-18 81.66 to 91.78 % "
          "(abstract; for the CNN without GAN images Table 4 prints 86.74 %).",
    arms=(("CNN", "cnn_real", "cnn_hybrid"), ("MobileNet", "mobilenet_real", "mobilenet_hybrid"),
          ("ResNet-18", "resnet18_real", "resnet18_hybrid")),
    layers=(        # table, title, image side that the printed shapes belong to, rows (no shape: as in the row above)
        ("1", "The critic, width 64", 128, """
            Conv2d 64x64x64 3072a | InstanceNorm2d 128 | LeakyReLU 0 | Conv2d 128x32x32 131200 | InstanceNorm2d 256
            | LeakyReLU 0 | Conv2d 256x16x16 524544 | InstanceNorm2d 512 | LeakyReLU 0 | Conv2d 512x8x8 2097664
            | InstanceNorm2d 1024 | LeakyReLU 0 | Conv2d 1x5x5 8193"""),
        ("2", "The discriminator, width 224", 224, """
            Conv2d 224x112x112 10976 | InstanceNorm2d 448 | LeakyReLU 0 | Conv2d 448x56x56 1606080 | InstanceNorm2d 896
            | LeakyReLU 0 | Conv2d 896x28x28 6423424 | InstanceNorm2d 1792 | LeakyReLU 0 | Conv2d 1792x14x14 25691904
            | InstanceNorm2d 3584 | LeakyReLU 0 | Conv2d 1x11x11 28673"""),
        ("3", "The generator, width 224, z 200", 64, """
            ConvTranspose2d 1792x4x4 5736192 | BatchNorm2d 3584 | ReLU 0 | ConvTranspose2d 896x8x8 25691008
            | BatchNorm2d 1792 | ReLU 0 | ConvTranspose2d 448x16x16 6422976 | BatchNorm2d 896 | ReLU 0
            | ConvTranspose2d 224x32x32 1605856 | BatchNorm2d 448 | ReLU 0 | ConvTranspose2d 3x64x64 10755 | Tanh 0""")),
    tables=(
        dict(id="4", title="Trained on real images", tests=(("ours", "real"),),
             columns=("accuracy", "loss", "val_accuracy"), rows="""
            CNN | cnn_real | .8674b .2564 .8900
            MobileNet | mobilenet_real | .9081b .0732 .9200
            ResNet-18 | resnet18_real | .8166c .4212 .9100"""),
        dict(id="5", title="Trained on real and GAN images", tests=BOTH,
             columns=("accuracy", "loss", "val_accuracy"), rows="""
            CNN | cnn_hybrid | .8634 .2821 .8700
            MobileNet | mobilenet_hybrid | .9167 .1829 .9200
            ResNet-18 | resnet18_hybrid | .9178 .3300 .9100""",
             note="As printed: 204 of the paper's 864 test images are GAN images. Clean: the real test images of Table 4."),
        dict(id="6", title="ResNet-18's classification report", job="resnet18_hybrid", tests=BOTH,
             rows=PAPER_000_REPORT.format(
                 ".9201", ".9152", ".9261", ".9178", ".9231", ".9084", ".9261", ".9152", ".9118")),
        dict(id="7", title="MobileNet's classification report", job="mobilenet_hybrid", tests=BOTH,
             rows=PAPER_000_REPORT.format(
                 ".9350", ".8971", ".9065", ".9167", ".9205", ".9282", ".9065", ".8971", ".9124")),
        dict(id="8", title="CNN's classification report", job="cnn_hybrid", tests=BOTH,
             rows=PAPER_000_REPORT.format(
                 ".9111", ".8192", ".8239", ".8634", ".8653", ".9084", ".8239", ".8192", ".8615"))),
    recovered={"6": ((426, 34), (37, 367)), "7": ((417, 43), (29, 375)), "8": ((379, 81), (37, 367))},    # row = truth
    figures=(("1", "Images of the training part", "grid", ("data",)),
             ("2", "GAN images: benign, then malignant", "grid", ("gan_benign", "gan_malignant")),
             ("3", "ResNet-18 on real and GAN images", "curves", ("resnet18_hybrid",)),
             ("4", "MobileNet on real and GAN images", "curves", ("mobilenet_hybrid",)),
             ("5", "CNN on real and GAN images", "curves", ("cnn_hybrid",)),
             ("", "Ours: the critic's scores and the diversity of the samples", "gan", ("gan_benign", "gan_malignant"))),
    marks=dict(
        a="3 x 64 x 16 = 3,072 has no bias, but every other convolution of the table has one; with it 3,136.",
        b="No k of 660 test images (nor of 864, nor of 2,637 training images) gives this accuracy to four decimals.",
        c="539 of 660 is .81667: .8166 only if cut off instead of rounded.",
        d="No integer matrix with the true class sizes 460 and 404 gives the table's five values. Transposed, with benign "
          "positive, exactly one does: what is printed as sensitivity is the precision for benign, and so on. Ours is "
          "computed in the same way here; the rows put right come from that matrix."))}


def cells_of(table):
    """The cells of a printed table: [(row label, [(printed value, job, measure), ...]), ...]."""
    rows = []
    for line in table["rows"].strip().splitlines():
        label, middle, values = (part.strip() for part in line.split("|"))
        if "job" in table:
            rows.append((label, [(values, table["job"], middle)]))
        else:
            rows.append((label, [(value, middle, column) for value, column in zip(values.split(), table["columns"])]))
    return rows


def layers_of(text):
    """The rows of a printed layer table: [(layer, shape, printed count), ...]."""
    rows = []
    for entry in text.split("|"):
        layer, *shape, count = entry.split()
        rows.append((layer, shape[0] if shape else rows[-1][1], count))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Reading results

class Results:
    """The finished jobs below a results folder: jobs maps "study/job" to its result.json."""

    def __init__(self, out):
        self.out, self.cache = Path(out), {}
        files = sorted(self.out.glob("*/*/result.json"))
        self.jobs = {"/".join(file.parts[-3:-1]): json.loads(file.read_text()) for file in files}

    def seeds(self, name):
        """The results of job `name`, or of name-s0, name-s1, ... where there is one per seed."""
        return [job for key, job in self.jobs.items() if key == name or key.rpartition("-s")[0] == name]

    def predictions(self, name, test):
        """[(labels, probabilities, groups)], one per seed, on one of the job's test sets, from its predictions.csv."""
        runs = []
        for job in (key for key in self.jobs if key.rpartition("-s")[0] == name):
            with open(self.out / job / "predictions.csv", newline="") as file:
                header, *rows = csv.reader(file)
            rows = [row for row in rows if row[0] == test]
            labels = np.array([header[4:].index(row[3]) for row in rows])
            runs.append((labels, np.array([row[4:] for row in rows], float), np.array([row[2] for row in rows])))
        return runs

    def value(self, name, test, measure):
        """One measure of one arm on one test set, as text: the mean over seeds, with its interval where it has one."""
        if not self.seeds(name):
            return f"not run: {name.split('/')[1]}"
        if measure == "val_accuracy":
            return number(np.mean([job["curves"]["val_accuracy"][-1] for job in self.seeds(name)]))
        if measure == "loss":
            return number(np.mean([job["metrics"][test]["loss"] for job in self.seeds(name)]))
        if (name, test) not in self.cache:
            self.cache[name, test] = summary(self.predictions(name, test))
        return number(self.cache[name, test][measure])


# ---------------------------------------------------------------------------------------------------------------------
# Rendering: one table renderer for Markdown and HTML; figures as inline SVG or PNG

def number(value, digits=3):
    """A number or a [value, low, high] as text."""
    if np.isnan(np.ravel(value)[0]):
        return "undefined: class never predicted"
    if np.ndim(value) == 0:
        return f"{value:.{digits}f}"
    return f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def printed_value(text):
    """A printed value as text: ".8674b" -> "0.8674 (b)", "3072a" -> "3,072 (a)", "=.9084" -> "0.9084", "=" -> words."""
    value = text.strip("=abcd")
    if not value:
        return "not printed"
    value, mark = f"0{value}" if value.startswith(".") else f"{int(value):,}", text.lstrip("=.0123456789")
    return value + (f" ({mark})" if mark else "")


class Page:
    """The report, written twice at once: as Markdown and as HTML, in which every string is escaped."""

    def __init__(self):
        self.markdown, self.html = [], []

    def heading(self, level, text):
        self.markdown += ["#" * level + " " + text, ""]
        self.html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text, kind="plain"):
        self.markdown += [f"> **{text}**" if kind == "warn" else f"*{text}*" if kind == "note" else text, ""]
        self.html.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def table(self, caption, header, rows, notes=()):
        """header: column names; rows: lists of texts, the row's name first. An interval [a, b] is set smaller."""
        def cell(text, tag):
            if len(str(text)) > 60:             # a command, not a value: may be broken into lines
                return f'<{tag} class="long">{html.escape(str(text))}</{tag}>'
            value, bracket, interval = html.escape(str(text)).partition(" [")
            return f"<{tag}>{value}{f' <small>[{interval}</small>' if bracket else ''}</{tag}>"

        def line(cells, tags):
            return "<tr>" + "".join(map(cell, cells, tags)) + "</tr>"

        self.markdown += [f"**{caption}**", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        self.markdown += ["| " + " | ".join(str(text).replace("|", "\\|") for text in row) + " |" for row in rows] + [""]
        head, body = line(header, ["th"] * len(header)), "".join(line(row, ["th"] + ["td"] * len(row)) for row in rows)
        self.html.append(f'<p class="caption">{html.escape(caption)}</p><div class="scroll"><table>'
                         f"<thead>{head}</thead><tbody>{body}</tbody></table></div>")
        for note in notes:
            self.text(note, "note")

    def figure(self, caption, *parts):
        """parts: SVG text (in the HTML only), or paths of PNG files below the report's folder."""
        title, where = html.escape(caption), " (drawn in report.html)"
        self.html.append('<figure><div class="row">')
        for part in parts:
            if isinstance(part, Path):
                where = ""
                self.markdown += [f"![{caption}]({'/'.join(part.parts[-3:])})", ""]
                picture = base64.b64encode(part.read_bytes()).decode()
                part = f'<img alt="{title}" src="data:image/png;base64,{picture}">'
            self.html.append(part)
        self.markdown += [f"*{caption}{where}*", ""]
        self.html.append(f"</div><figcaption>{title}</figcaption></figure>")


def svg(title, parts):
    title = html.escape(title)
    return (f'<svg viewBox="0 0 340 220" role="img" aria-label="{title}"><text x="8" y="14" class="t">{title}</text>'
            + "".join(parts) + "</svg>")


def svg_text(x, y, text, style=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{style}">{html.escape(str(text))}</text>'


def svg_lines(title, series, x_label, y_range=None):
    """A small line chart. series: [(name, xs, ys)]. The page's style gives the colours, so they turn with dark mode."""
    left, right, top, bottom = 44, 330, 26, 186
    xs, ys = (np.concatenate([np.asarray(s[k], float) for s in series]) for k in (1, 2))
    (x0, x1), (y0, y1) = (xs.min(), xs.max()), y_range or (ys.min(), ys.max())
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1
    parts = [svg_text(left, 202, f"{x0:.3g}"), svg_text(right, 202, f"{x1:.4g}", "e"),
             svg_text((left + right) / 2, 202, x_label, "m")]
    for k in range(5):
        y = bottom - k / 4 * (bottom - top)
        parts += [f'<path d="M{left} {y}H{right}" class="g"/>', svg_text(left - 5, y + 4, f"{y0 + (y1 - y0) * k / 4:.3g}", "e")]
    for k, (name, x, y) in enumerate(series):
        x = left + (np.asarray(x) - x0) / (x1 - x0) * (right - left)
        y = bottom - (np.asarray(y) - y0) / (y1 - y0) * (bottom - top)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
        parts += [f'<polyline points="{points}" class="s{k}"/>', f'<path d="M{left + 100 * k} 214h14" class="s{k}"/>',
                  svg_text(left + 18 + 100 * k, 218, name)]
    return svg(title, parts)


def svg_matrix(title, matrix, classes):
    """A confusion matrix: row = truth, column = prediction, shaded by the share of its row."""
    matrix, side = np.asarray(matrix), 150 / len(classes)
    parts = [svg_text(195, 34, "predicted", "m")]
    for r, name in enumerate(classes):
        parts += [svg_text(112, 54 + side * (r + 0.5), name, "e"), svg_text(120 + side * (r + 0.5), 47, name, "m")]
        for c, count in enumerate(matrix[r]):
            share = count / max(matrix[r].sum(), 1)
            parts += [f'<rect x="{120 + side * c}" y="{52 + side * r}" width="{side - 2}" height="{side - 2}" class="c" '
                      f'fill-opacity="{0.06 + 0.84 * share:.2f}"/>',
                      svg_text(120 + side * (c + 0.5), 57 + side * (r + 0.5), count, "m n w" if share > 0.5 else "m n")]
    return svg(title, parts)


STYLE = """
:root{color-scheme:light dark;--ink:#1d2129;--soft:#5d6673;--line:#dde1e7;--bg:#fff;--panel:#f5f7f9;--s0:#0b6e8f;
 --s1:#c4571b;--s2:#6a8a1f;--warn:#fff3dc}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#333a45;--bg:#14171c;--panel:#1c2129;
 --s0:#5cc0de;--s1:#f0945c;--s2:#b2d35f;--warn:#33291a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1040px;margin:0 auto;padding:24px 18px 60px}
h1{font-size:1.75rem;line-height:1.2;margin:.4em 0}
h2{margin:2.2em 0 .5em;padding-top:.8em;border-top:1px solid var(--line);font-size:1.35rem;line-height:1.3}
p{max-width:48em}.lead{font-size:1.15rem;font-weight:500}.soft,.note,figcaption{color:var(--soft);font-size:.87rem}.note{margin:.2em 0}
.warn{background:var(--warn);border-left:4px solid #d99a2b;padding:.6em .9em;border-radius:4px}
.scroll{overflow-x:auto;margin:0 0 .4em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
.caption{font-weight:600;margin:1.8em 0 .4em}
th,td{padding:.38em 1.1em .38em 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}tbody th{font-weight:500}td,tbody th{white-space:nowrap}
tr>:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
td.long{white-space:normal;overflow-wrap:break-word;min-width:24em;text-align:left;font:.85em ui-monospace,monospace}
small{color:var(--soft);display:block}
figure{margin:1.6em 0}figcaption{margin-top:.5em}.row{display:flex;flex-wrap:wrap;gap:12px}
img{flex:0 1 490px;min-width:0;max-width:100%;height:auto;border-radius:6px;align-self:flex-start}
img:only-child{flex-basis:1000px}
svg{flex:0 1 318px;background:var(--panel);border-radius:8px;padding:6px}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .t{fill:var(--ink);font-weight:600;font-size:12px}
svg .e{text-anchor:end}svg .m{text-anchor:middle}svg .n{fill:var(--ink);font-size:16px}svg .w{fill:var(--bg)}
svg .c{fill:var(--s0)}svg .g{stroke:var(--line);fill:none}svg .s0,svg .s1,svg .s2{fill:none;stroke-width:2}
svg .s0{stroke:var(--s0)}svg .s1{stroke:var(--s1)}svg .s2{stroke:var(--s2)}
@media print{body{font-size:10pt}figure,table{break-inside:avoid}.scroll{overflow:visible}}
"""


# ---------------------------------------------------------------------------------------------------------------------
# The report

def report(out):
    """Write report.md and report.html from the finished jobs in `out`. Returns the path of the HTML page.

    The scale comes from run.txt, which run_all.sh writes when it first starts in a folder.
    """
    results, page = Results(out), Page()
    made = results.out / "run.txt"
    scale = made.read_text().split()[1] if made.exists() else "unstated"
    if not results.jobs:
        raise UserError(f"{out} holds no finished job: run `bash run_all.sh` first")
    page.heading(1, "Do GAN images help a skin-lesion classifier?")
    what_was_run(page, results, scale)
    for study, paper in PRINTED.items():
        if any(name.startswith(study + "/") for name in results.jobs):
            page.heading(2, paper["title"])
            the_question(page, results, study, scale)
            figures(page, results, study)
            printed_tables(page, results, study, scale)
            gan_table(page, results, study)
            layer_tables(page, results, study)
    page.heading(2, "Every job")
    page.text("To rerun a cell, delete its job's folder and give its command with the Python that `bash run_all.sh list` "
              "shows, or start run_all.sh again.")
    page.table("Finished jobs", ["job", "seconds", "optimiser steps", "command"],
               [[name, job["seconds"], job.get("steps", "none"), job.get("command", "not recorded")] for name, job in results.jobs.items()])
    with data.replacing(results.out / "report.md") as file:
        file.write("\n".join(page.markdown).encode())
    with data.replacing(results.out / "report.html") as file:
        head = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
                f'content="width=device-width,initial-scale=1"><title>Do GAN images help?</title><style>{STYLE}</style><main>')
        file.write("\n".join([head, *page.html, "</main></html>"]).encode())
    return results.out / "report.html"


def what_was_run(page, results, scale):
    jobs = list(results.jobs.values())

    def all_of(key):
        return "; ".join(sorted({job[key] for job in jobs}))
    sources = sorted({job["source"]["source"] for job in jobs if "source" in job})
    versions = ", ".join(f"{name} {version}" for name, version in jobs[-1]["versions"].items())
    work = data.readable_time(sum(job["seconds"] for job in jobs))
    copies = sum(job["source"].get("copies_dropped", 0) for job in jobs if "source" in job)
    page.text(f"Scale: {scale}. Data: {', '.join(sources) or 'none yet'}"
              f"{f', without {copies} copies of test images' if copies else ''}. {len(jobs)} jobs, {work} of job time in all. "
              f"Machine: {all_of('device')}. {versions}. Code: {all_of('commit')}. "
              f"Written {time.strftime('%Y-%m-%d %H:%M')}.", "soft")
    if any(source.startswith("built-in") for source in sources):
        page.text("These are computer-drawn lesions, not photographs: where this page says real images, it means drawn ones, "
                  "as against those of a GAN. The numbers show that the code runs, and nothing about skin.", "warn")
    if scale == "quick":
        page.text("Quick scale: narrow networks and few steps, to show that everything works. "
                  "No number here can be compared with a printed one.", "warn")


def the_question(page, results, study, scale):
    """Real images against real and GAN images, on the same real test images."""
    paper, rows, test = PRINTED[study], [], np.zeros(0, int)
    for label, *names in paper["arms"]:
        without, with_gan = (results.predictions(f"{study}/{name}", "real") for name in names)
        gain = verdict = flattered = "not run"
        if without and with_gan:
            test, (value, low, high) = without[0][0], difference(without, with_gan)
            gain = f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
            verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
            mixed = results.predictions(f"{study}/{names[1]}", "mixed")
            flattered = f"{100 * (mean_accuracy(mixed) - mean_accuracy(without)):+.1f} points" if mixed else "none"
        rows.append([label, gain, "not judged at quick scale" if scale == "quick" else verdict, flattered,
                     *(results.value(f"{study}/{name}", "real", "accuracy") for name in names)])
    page.text(f"Printed claim: {paper['claim']}")
    if scale != "quick":
        count = {word: sum(row[2] == word for row in rows) for word in ("better", "worse", "no difference shown")}
        page.text(f"Here, on real test images only: with GAN images {count['better']} of {len(rows)} classifiers got better, "
                  f"{count['worse']} worse, and for {count['no difference shown']} no difference is shown.", "lead")
    if len(test):
        largest = number(np.bincount(test).max() / len(test))
        rows.append(["always the larger class", "+0.0 points", "by definition", "none", largest, largest])
    page.table(f"Accuracy on the {len(test)} real test images ({scale} scale, mean over seeds)",
               ["classifier", "gain from GAN images", "verdict", "gain by the paper's method", "real", "real + GAN"], rows,
               ["The paper's method: the classifier with GAN images is tested on the mixed test, which holds GAN images too, "
                "the other one on the real test. The difference between the two gains is what that test adds.",
                "95 % intervals: bootstrap over lesions and classifier seeds, paired by lesion for the gain; there is one GAN "
                "per class. Both arms run the same number of epochs, as the paper does, so the one with GAN images makes "
                "more optimiser steps: the comparison leans towards the GAN. Not corrected for comparing several times."])


def layer_tables(page, results, study):
    """The printed layer tables beside the networks as built."""
    built = next((job["tables"] for job in results.seeds(f"{study}/networks")), {})
    missing = "not run: networks"
    for table, title, px, text in PRINTED[study]["layers"]:
        ours = next((rows for name, rows in built.items() if name.startswith(f"Table {table}")), [])
        printed = layers_of(text)
        rows = [[layer, shape.replace("x", "×"), "×".join(map(str, ours[k][1])) if ours else missing,
                 printed_value(count), f"{ours[k][2]:,}" if ours else missing] for k, (layer, shape, count) in enumerate(printed)]
        rows.append(["total", f"{px} px image", "64 px image", f"{sum(int(count.rstrip('abcd')) for *_, count in printed):,}",
                     f"{sum(row[2] for row in ours):,}" if ours else missing])
        page.table(f"Table {table}. {title}", ["layer", "output, printed", "ours", "parameters, printed", "ours"], rows,
                   explain(study, (count for *_, count in printed)))
    page.text("The printed shapes of Tables 1 and 2 belong to images of 128 and 224 px, but the generator of Table 3 makes "
              "64 px.", "note")


def explain(study, values):
    """The reasons behind the marks on printed values."""
    marks = PRINTED[study]["marks"]
    return [f"({mark}) {marks[mark]}" for mark in sorted(set("".join(values)) & set(marks))]


def printed_tables(page, results, study, scale):
    """Each printed table in the paper's shape, ours beside printed, in each protocol that it has."""
    def tests_of(table, measure):       # validation images are real in both protocols
        return (("ours", "real"),) if measure == "val_accuracy" else table["tests"]

    for table in PRINTED[study]["tables"]:
        columns, rows, values = table.get("columns", ()), [], []
        for label, cells in cells_of(table):
            row = [label]
            for value, name, measure in cells:
                values.append(value)
                row.append(printed_value(value))
                row += [results.value(f"{study}/{name}", test, measure) for _, test in tests_of(table, measure)]
            rows.append(row)
        header = ["model"] if columns else ["measure", "printed", *(title for title, _ in table["tests"])]
        for column in columns:
            name = column.replace("_", " ")
            header += [f"{name}, printed", *(f"{name}, {title}" for title, _ in tests_of(table, column))]
        notes = explain(study, values) + ([table["note"]] if "note" in table else [])
        page.table(f"Table {table['id']}. {table['title']} (ours: {scale} scale)", header, rows, notes)


def gan_table(page, results, study):
    """How each GAN of the study ended."""
    rows = []
    for name, job in results.jobs.items():
        values = job.get("metrics", {})
        if name.startswith(study + "/") and "diversity" in values:
            distance = "not measured" if "fd_8x8" not in values else (
                f"{values['fd_8x8']:.3f} (noise floor {values['fd_8x8_floor']:.3f}, n {values['fd_8x8_n']})")
            rows.append([name.split("/")[1], job["steps"], number(values["d_real"], 2), number(values["d_fake"], 2),
                         number(values["diversity"], 2), distance, "COLLAPSED" if values["collapsed"] else "no"])
    page.table("The GANs (ours)", ["GAN", "generator steps", "D(x)", "D(G(z))", "diversity", "FD-8x8", "collapsed"],
               rows or [["not run"] * 7],
               ["D(x), D(G(z)): the critic's mean score of real and of GAN images at the end. Diversity: mean distance between "
                "two samples over that between two real images; below 0.35 counts as collapsed. FD-8x8: Frechet distance to "
                "the training images in the mean colours of an 8 x 8 grid, which needs no network and is no FID; the noise "
                "floor is the distance of the real images to each other at the same n."])


def figures(page, results, study):
    for figure, title, kind, names in PRINTED[study]["figures"]:
        caption, parts = f"Figure {figure}. {title}" if figure else title, []
        for name in names:
            job = next(iter(results.seeds(f"{study}/{name}")), None)
            if job is None:
                caption += f" (not run: {name})"
            elif kind == "grid":
                parts.append(results.out / study / name / "grid.png")
            elif kind == "gan":
                parts += gan_curves(name, job)
            else:
                tests = [(f"{test} test", *results.predictions(f"{study}/{name}", test)[0]) for test in job["metrics"]]
                parts += classifier_curves(job, tests)
        page.figure(caption, *parts)


def classifier_curves(job, tests):
    """Accuracy and loss while training, confusion matrices, ROC: of the first seed. tests: (name, labels, ..., groups)."""
    curves, classes = job["curves"], job["config"]["classes"]
    epochs = np.arange(1, len(curves["loss"]) + 1)
    charts = [svg_lines(f"({letter}) {what}", [("train", epochs, curves[what]), ("validation", epochs, curves[f"val_{what}"])],
                        "epoch") for letter, what in (("a", "accuracy"), ("b", "loss"))]
    charts += [svg_matrix(f"(c) confusion, {name}", confusion(labels, chances.argmax(1), len(classes)), classes)
               for name, labels, chances, _ in tests]
    rates = [(name, *roc_curve(labels, chances[:, 1])) for name, labels, chances, _ in tests]
    return charts + [svg_lines(f"(d) ROC, {classes[1]} positive", rates, "false positive rate", (0, 1))]


def gan_curves(name, job):
    curves, alarm = job["curves"], " COLLAPSED" if job["metrics"]["collapsed"] else ""
    steps = np.arange(1, len(curves["d_real"]) + 1) * curves["window"]
    scores = [("D(x)", steps, curves["d_real"]), ("D(G(z))", steps, curves["d_fake"])]
    spread = [("diversity", *np.transpose(curves["diversity"]))]
    return [svg_lines(f"{name}: critic{alarm}", scores, "generator step"),
            svg_lines(f"{name}: diversity (1 = as real images)", spread, "generator step")]


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def read_features(path, size):
    path = Path(path)
    if path.suffix != ".npy":
        return colour_features(data.load(path, size if path.suffix != ".npz" else None).images), "FD-8x8"
    try:
        return np.load(path, allow_pickle=False), "FD"
    except (OSError, ValueError, EOFError) as problem:
        raise UserError(f"{path} is not a feature array ({problem})") from None


def main():
    parser = data.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("fid", help="Frechet distance of two sets; of image files and sets in "
                            "mean colours (FD-8x8: no network, no FID), of arrays in the given features")
    p.add_argument("a", help="real images: folder, zip, image set, or feature array (.npy, n x d)")
    p.add_argument("b", help="generated images, likewise")
    p.add_argument("--size", type=data.at_least(8), default=64, help="side to decode image files to (default %(default)s)")
    p = commands.add_parser("report", help="report.html and report.md")
    p.add_argument("out", help="results folder")
    args = parser.parse_args()
    if args.command == "report":
        print(f"report: {report(args.out)}")
        return
    (a, name), (b, other) = read_features(args.a, args.size), read_features(args.b, args.size)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or name != other:
        raise UserError(f"{args.a} gives features of shape {a.shape}, {args.b} of shape {b.shape}: "
                        "they cannot be compared")
    distance, floor, n = distance_with_floor(a, b)
    meaning = "mean colours of an 8 x 8 grid; not an FID" if name == "FD-8x8" else "of the given features"
    print(f"{name} {distance:.4f}   noise floor {floor:.4f} (A against itself)   n {n} a side   {meaning}")


if __name__ == "__main__":
    data.run_cli(main)
