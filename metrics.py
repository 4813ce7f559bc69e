"""metrics.py: numbers in, numbers out; and the page that shows them.

    python metrics.py fid A B                      FID and KID of two image sets, folders or feature arrays (.npy)
    python metrics.py fid A B --net none           the same without a network: in mean colours, which is no FID
    python metrics.py report results/quick         report.html and report.md from the finished jobs in a folder
    python metrics.py audit --n 864 sensitivity=.9201 specificity=.9152 precision=.9261 accuracy=.9178 f1=.9231
                                                   the integer confusion matrices behind a row of printed values

The printed tables of the papers are data here (PRINTED), each row with the job that reproduces it. The report only ever
shows what a result.json or a predictions.csv holds; a job that has not run is named in its cell.
"""
import base64
import csv
import functools
import html
import io
import json
import re
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch
from PIL import Image

import data
from data import UserError


# --- Classification --------------------------------------------------------------------------------------------------

def confusion(labels, predicted, classes):
    """(classes, classes) counts: row = true class, column = predicted class."""
    cell = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(cell, minlength=classes ** 2).reshape(classes, classes)


def matrix_measures(matrix, classes=("benign", "malignant")):
    """{accuracy, balanced_accuracy, recall:CLASS, precision:CLASS, f1:CLASS: float or (b,)} of a confusion matrix
    (k, k), row = truth, or of b at once (b, k, k), counts or weights; nan where undefined.

    Two classes: also sensitivity, specificity, precision and f1 with malignant (class 1) positive; and those of paper
    000, printed_sensitivity and so on: on the transposed matrix with benign positive (mark d of its Tables 6-8).
    """
    matrix = np.asarray(matrix, float)
    hits, found, present = matrix.diagonal(0, -2, -1), matrix.sum(-2), matrix.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, f1 = hits / present, hits / found, 2 * hits / (found + present)
        values = dict(accuracy=hits.sum(-1) / present.sum(-1),
                      balanced_accuracy=np.nansum(recall, -1) / (present > 0).sum(-1))
    for c, name in enumerate(classes):
        values |= {f"recall:{name}": recall[..., c], f"precision:{name}": precision[..., c], f"f1:{name}": f1[..., c]}
    if len(classes) == 2:
        values |= dict(sensitivity=recall[..., 1], specificity=recall[..., 0], precision=precision[..., 1],
                       f1=f1[..., 1], printed_sensitivity=precision[..., 0], printed_specificity=precision[..., 1],
                       printed_precision=recall[..., 0], printed_accuracy=values["accuracy"], printed_f1=f1[..., 0])
    return values


def by_score(labels, scores, weights=None):
    """How many positives, and how many negatives, lie at each distinct score, rising: two arrays (b, scores).

    labels, scores: (n,); weights: (b, n) for b weighted versions at once, None for one version (b = 1).
    """
    order = np.argsort(scores, kind="stable")
    labels, scores = np.asarray(labels)[order], np.asarray(scores)[order]
    weights = np.ones((1, len(order))) if weights is None else weights[:, order]
    starts = np.flatnonzero(np.diff(scores, prepend=-np.inf))           # first image of each distinct score
    return (np.add.reduceat(weights * part, starts, axis=1) for part in (labels, 1 - labels))


def auc(labels, scores, weights=None):
    """Area under the ROC curve: P(a positive scores above a negative), ties count half; float, or (b,) of weights."""
    positive, negative = by_score(labels, scores, weights)
    with np.errstate(invalid="ignore"):
        area = (positive * (negative.cumsum(1) - negative / 2)).sum(1) / (positive.sum(1) * negative.sum(1))
    return area if len(area) > 1 else float(area[0])


def sensitivity_at(labels, scores, specificity=0.9, weights=None):
    """Sensitivity at the lowest threshold with at least this specificity (an image counts as positive from it upward).

    Tells a better ranking from a shifted threshold, which only trades specificity for it. Float, or (b,) of weights.
    """
    missed, passed = (np.pad(part, ((0, 0), (1, 0))).cumsum(1) for part in by_score(labels, scores, weights))
    lowest = (passed >= specificity * passed[:, -1:] - 1e-9).argmax(1)  # columns: below the first score, ..., below all
    with np.errstate(invalid="ignore"):
        found = 1 - missed[np.arange(len(missed)), lowest] / missed[:, -1]
    found[passed[:, -1] == 0] = np.nan                                  # no negatives: any threshold would do
    return found if len(found) > 1 else float(found[0])


def roc_curve(labels, scores):
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1)."""
    positive, negative = by_score(labels, scores)
    return tuple(np.r_[0, part[0, ::-1].cumsum() / max(part.sum(), 1)] for part in (negative, positive))


def measures(labels, probabilities, weights=None, classes=("benign", "malignant")):
    """matrix_measures of labels (n,) and probabilities (n, k); of two classes also auc and sensitivity_at_90, that at a
    specificity of at least 90 %. weights: None or (b, n)."""
    labels, probabilities, k = np.asarray(labels), np.asarray(probabilities), len(classes)
    if weights is None:
        matrix = confusion(labels, probabilities.argmax(1), k)
    else:
        matrix = (weights @ np.eye(k * k)[labels * k + probabilities.argmax(1)]).reshape(-1, k, k)
    values = matrix_measures(matrix, classes)
    if k == 2:
        scores = probabilities[:, 1]
        values |= dict(auc=auc(labels, scores, weights),
                       sensitivity_at_90=sensitivity_at(labels, scores, weights=weights))
    return values


# --- Statistics ------------------------------------------------------------------------------------------------------

def rate(successes, n):
    """[proportion, low, high] with its 95 % Wilson interval; None where there is nothing to count."""
    if not n:
        return None
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return [float(successes / n), float(interval.low), float(interval.high)]


@functools.lru_cache(maxsize=4)         # every arm on one test set draws the same lesions
def lesion_weights(groups, draws, seed=0):
    """(draws, n) bootstrap weights: lesions, not pictures, are drawn with replacement. groups: tuple (n,)."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    drawn = np.random.default_rng(seed).integers(lesions, size=(draws, lesions)) + lesions * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * lesions).reshape(draws, lesions)[:, member].astype(float)


class Arm(NamedTuple):
    """One measure of one arm of an experiment: the same training, repeated with several seeds."""
    values: np.ndarray      # (seeds,)
    boot: np.ndarray        # (seeds, draws): the same with the test lesions drawn anew, the same ones for every arm
    lesions: int
    test: int               # hash of the test images: on others no arm can be compared with this one
    spread: tuple           # (standard deviation of a training, its degrees of freedom; 0: not known)


def arm(runs, measure="accuracy", classes=("benign", "malignant"), draws=2000):
    """The Arm of runs, one per seed: [(labels (n,), probabilities (n, k), groups (n,)), ...] on the same images."""
    tests = {hash((np.asarray(labels).tobytes(), tuple(groups))) for labels, _, groups in runs}
    if len(tests) > 1:
        raise UserError("the seeds of an arm must have the same test images in the same order")
    weights = lesion_weights(tuple(runs[0][2]), draws)
    if measure == "accuracy":                                           # a plain mean: one matrix product
        right = np.array([probabilities.argmax(1) == labels for labels, probabilities, _ in runs], float)
        values, boot = right.mean(1), right @ weights.T / weights.sum(1)
    else:
        values, boot = (np.array([measures(labels, probabilities, some, classes)[measure]
                                  for labels, probabilities, _ in runs]) for some in (None, weights))
    return pooled([Arm(values, boot, len(np.unique(runs[0][2])), tests.pop(), None)])[0]


def pooled(arms):
    """The arms with the spread of a training estimated from all of them: three seeds say little of their own."""
    known = [one for one in arms if len(one.values) > 1 and np.isfinite(one.values).all()]
    df = sum(len(one.values) - 1 for one in known)
    squares = sum(np.square(one.values - one.values.mean()).sum() for one in known)
    return [one._replace(spread=(float(np.sqrt(squares / max(df, 1))), df)) for one in arms]


def contrast(terms):
    """[value, low, high, p] of sum c * mean over seeds, terms [(c, Arm), ...]: 95 % interval, two-sided p against 0.

    Two sources of chance: which lesions the test set holds (bootstrap) and how the trainings went (the arms' spread).
    What a seed gets wrong on its own is in both, so it is taken off the lesions' part (Hillis 2007); it is the least
    that the trainings' part can be, should few seeds agree by luck. Student's t with Satterthwaite's degrees of
    freedom: resampling three seeds gives too narrow intervals. An arm that occurs twice is one arm: its c are added.
    Where a spread is not known (one seed), the interval holds the lesions' chance alone, and p is None.
    """
    arms = {id(one): one for _, one in terms}.values()
    if len({one.test for one in arms}) > 1:
        raise UserError("arms can only be compared on the same test images in the same order")
    terms = [(sum(c for c, other in terms if other is one), one) for one in arms]
    value, weights = float(sum(c * one.values.mean() for c, one in terms)), {}
    if np.isnan(value):
        return [np.nan] * 4
    own = sum(c * c * np.nanvar(one.boot - one.boot.mean(0), 1).sum() / (len(one.boot) - 1) / len(one.boot)
              for c, one in terms if len(one.boot) > 1)
    of_lesions = max(np.nanvar(sum(c * one.boot.mean(0) for c, one in terms)) - own, 0)
    for c, one in terms:                                                # arms with a common spread share its df
        weights[one.spread] = weights.get(one.spread, 0) + c * c / len(one.values)
    lesions = max(terms[0][1].lesions - 1, 1)                           # each part of the variance and its df
    parts = [(sd ** 2 * weight, max(df, 1)) for (sd, df), weight in weights.items()]
    parts = [(of_lesions, lesions), *(parts if sum(part for part, _ in parts) > own else [(own, lesions)])]
    error = np.sqrt(sum(part for part, _ in parts))
    p = None if any(df == 0 for _, df in weights) else 1.0 if abs(value) < 1e-12 else 0.0
    if error < 1e-12:                                                   # e.g. an arm against itself
        return [value, value, value, p]
    student = scipy.stats.t(error ** 4 / sum(part ** 2 / df for part, df in parts))
    half = error * student.ppf(0.975)
    return [value, float(value - half), float(value + half),
            None if p is None else float(2 * student.sf(abs(value) / error))]


def mean_gain(*pairs):
    """The contrast of the mean gain over pairs of Arms (before, after); an Arm with nothing before it counts whole."""
    return contrast([(sign / len(pairs), one) for pair in pairs for sign, one in zip((-1, 1)[-len(pair):], pair)])


def gains_over(pairs):
    """{name: ([value, low, high, p], p corrected for all of them)} of {name: (Arm before, Arm after)}."""
    gains = {name: mean_gain(pair) for name, pair in pairs.items()}
    return dict(zip(gains, zip(gains.values(), holm([gain[3] for gain in gains.values()]))))


def worth(triples):
    """[x, low, high]: what one GAN image is worth in further real images, the ratio of the gains summed over triples of
    Arms (real, real + GAN, real + further real).

    The interval is Fieller's: each x at which the GAN's gain - x * the further real images' gain is not significant. We
    give none (-inf, inf) where those images' own gain is not significant.
    """
    def gain(of_gan, of_real):
        return contrast([(c, one) for triple in triples
                         for c, one in zip((-of_gan - of_real, of_gan, of_real), triple)])

    def end(step):
        while gain(1, -x - step)[3] > 0.05:
            step *= 2
        return float(scipy.optimize.brentq(lambda at: gain(1, -at)[3] - 0.05, x, x + step))
    of_real, _, _, p = gain(0, 1)
    x = gain(1, 0)[0] / of_real if of_real else np.nan
    return [x, end(-1), end(1)] if of_real > 0 and p is not None and p < 0.05 else [x, -np.inf, np.inf]


def summary(runs, classes=("benign", "malignant"), draws=2000):
    """{measure: [mean over seeds, low, high]} of one arm's runs (see `arm`): 95 % intervals over lesions and seeds."""
    weights, lesions = lesion_weights(tuple(runs[0][2]), draws), len(np.unique(runs[0][2]))
    found = [[measures(labels, probabilities, some, classes) for labels, probabilities, _ in runs]
             for some in (None, weights)]
    arms = {key: Arm(*(np.array([values[key] for values in part]) for part in found), lesions, 0, None)
            for key in found[0][0]}
    return {key: np.clip(mean_gain(pooled([one]))[:3], 0, 1).tolist() for key, one in arms.items()}


def evaluate(labels, probabilities, groups, classes):
    """What a classifier's result.json keeps of one test set: the confusion matrix and each measure with its interval.

    Proportions carry Wilson intervals, F1 and AUC bootstrap intervals over lesions, None where they are undefined.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    matrix = confusion(labels, probabilities.argmax(1), len(classes))
    hits, found, present = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    right = probabilities[np.arange(len(labels)), labels]               # probability given to the true class
    result = dict(
        n=len(labels), confusion=matrix.tolist(), loss=float(-np.log(right.clip(1e-12)).mean()),
        majority=float(present.max() / len(labels)), accuracy=rate(hits.sum(), len(labels)),
        per_class={name: dict(sensitivity=rate(hits[c], present[c]), precision=rate(hits[c], found[c]))
                   for c, name in enumerate(classes)},
        balanced_accuracy=float(matrix_measures(matrix, classes)["balanced_accuracy"]))
    if len(classes) == 2:
        boot = summary([(labels, probabilities, groups)], classes)
        boot = {key: None if np.isnan(boot[key]).any() else boot[key] for key in ("f1", "auc")}
        result.update(sensitivity=rate(hits[1], present[1]), specificity=rate(hits[0], present[0]),
                      precision=rate(hits[1], found[1]), f1=boot["f1"], auc=boot["auc"])
    return result


def mcnemar(right_a, right_b):
    """Exact two-sided p that two classifiers are right equally often; two (n,) arrays of bool, of the same images."""
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = (right_a & ~right_b).sum(), (right_b & ~right_a).sum()
    return float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def delong(labels, a, b):
    """(AUC of scores b - AUC of scores a, its standard error, two-sided p or None), on the same images, all (n,).

    DeLong et al. 1988: a positive's placement is the share of the negatives below it, and the AUC the mean placement;
    by ranks, as Sun & Xu 2014.
    """
    labels = np.asarray(labels, bool)
    if not 2 <= labels.sum() <= len(labels) - 2:
        return np.nan, np.nan, None                         # one image of a class has no variance

    def placements(scores):
        scores = np.asarray(scores, float)
        above = scipy.stats.rankdata(scores)
        for part in (labels, ~labels):                      # ranks in all - ranks in their own class
            above[part] -= scipy.stats.rankdata(scores[part])
        return above[labels] / (~labels).sum(), 1 - above[~labels] / labels.sum()
    of_positives, of_negatives = (y - x for x, y in zip(placements(a), placements(b)))
    gain, variance = of_positives.mean(), sum(part.var(ddof=1) / len(part) for part in (of_positives, of_negatives))
    if variance < 1e-24:
        return float(gain), 0.0, 1.0 if abs(gain) < 1e-12 else 0.0
    return float(gain), float(np.sqrt(variance)), float(2 * scipy.stats.norm.sf(abs(gain) / np.sqrt(variance)))


def holm(ps):
    """p values adjusted for their number (Holm 1979), in the same order; None stays None and does not count."""
    order = sorted((k for k, p in enumerate(ps) if p is not None), key=lambda k: ps[k])
    adjusted, largest = list(ps), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[k]))
        adjusted[k] = largest
    return adjusted


def is_level(claimed):
    return isinstance(claimed, tuple) and claimed[0] == "level"


def verdict(claimed, gain, p, scale):
    """What became of a claim. claimed: the printed effect, in the unit of gain [value, low, high], or ("none", margin).

    Is zero excluded in the claimed direction (p < .05, corrected by `holm`)? Is the printed effect in the interval?
    Yes, yes: reproduced. Yes, no: same direction. No, no: not reproduced. No, yes: too few images or seeds to tell. A
    claim of no effect is reproduced when the whole interval lies within +-margin, and not when zero is excluded by a
    value beyond the margin; ("level", .935), with the accuracy for gain, when inside its interval.
    """
    if scale == "quick" or gain is None or np.isnan(gain[0]) or p is None and not is_level(claimed):
        return "cannot be tested here"
    value, low, high = gain[:3]
    if is_level(claimed):
        return "reproduced" if low <= claimed[1] <= high else "not reproduced"
    if isinstance(claimed, tuple):
        none, beyond = -claimed[1] <= low <= high <= claimed[1], p < 0.05 and abs(value) > claimed[1]
        return "reproduced" if none else "not reproduced" if beyond else "cannot be tested here"
    if p < 0.05 and value * claimed > 0:
        return "reproduced" if low <= claimed <= high else "same direction"
    return "cannot be tested here" if low <= claimed <= high else "not reproduced"


# --- Distances between image distributions ---------------------------------------------------------------------------

def frechet(x, y):
    """Frechet distance of two feature samples (n, d), (m, d): |mean gap|^2 + tr(Sx + Sy - 2 (Sx Sy)^(1/2)), float64.

    With X, Y centred and divided by sqrt(n - 1), Sx = X'X, and tr (Sx Sy)^(1/2) is the sum of the singular values of
    X Y'. Where n > d, X is first replaced by the triangular factor R of X = QR (R'R = X'X), which keeps the matrix at
    d x d. No matrix square root, so nothing complex, nothing negative, no regulariser.
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
    """(distance, noise floor, n), both at n = min(len(x) // 2, len(y)) images a side.

    The estimate is biased upward for small n, so a distance means something only beside that of x to itself.
    """
    rng, n = np.random.default_rng(seed), min(len(x) // 2, len(y))
    if n < 2:
        raise UserError(f"a Frechet distance needs at least 4 and 2 images, not {len(x)} and {len(y)}")
    x = x[rng.permutation(len(x))]
    return frechet(x[:n], y[rng.permutation(len(y))[:n]]), frechet(x[:n], x[n:2 * n]), n


def kid(x, y):
    """Kernel distance (Binkowski et al. 2018) of features (n, d), (m, d): unbiased MMD^2, kernel (x.y / d + 1)^3."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within_x, within_y, across = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (within_x, within_y))
    return float(within - 2 * across.mean())


def inception_score(probabilities, splits=10):
    """(mean, sd) over splits of exp(mean KL(p(class | image) || p(class))); probabilities (n, classes), rows sum to 1.

    Splits of fewer than 100 images say little: there are fewer of them then, but at least two, so that there is an sd.
    """
    p = np.asarray(probabilities, np.float64)
    if len(p) < 4:
        raise UserError(f"an Inception score needs at least 4 images, not {len(p)}")
    parts = np.array_split(p, max(2, min(splits, len(p) // 100)))
    scores = [np.exp(scipy.stats.entropy(part, part.mean(0, keepdims=True), axis=1).mean()) for part in parts]
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


FID_FILE = "pt_inception-2015-12-05-6726825d.pth"
FID_WEIGHTS = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FID_FILE}"


def fid_network(file=None):
    """The Inception of the FID (TensorFlow's of 2015, ported by mseitzer/pytorch-fid): (n, 3, 299, 299) -> (n, 2048).

    file: None for the published weights (downloaded once and checked). It is torchvision's Inception V3 with 1,008
    classes, but for its pooling branches: averages leave out the padding, and the last block takes the maximum.
    `net.head` is the weight of its last layer, for the Inception score.
    """
    from torchvision.models import inception_v3     # here, because the report has no use for it
    options = dict(map_location="cpu", weights_only=True)
    try:
        weights = torch.load(file, **options) if file else torch.hub.load_state_dict_from_url(
            FID_WEIGHTS, check_hash=True, **options)
    except Exception as problem:                    # no network, a wrong checksum, not a weights file
        where = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(f"no FID weights ({problem}): put {FID_WEIGHTS} into {where}, or give --net none") from None
    net = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    net.load_state_dict(weights)
    average = torch.nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    for name, block in net.named_children():
        if hasattr(block, "branch_pool"):
            replace_pooling(block, torch.nn.MaxPool2d(3, stride=1, padding=1) if name == "Mixed_7c" else average)
    net.head, net.fc = net.fc.weight.detach(), torch.nn.Identity()
    return net.eval()


def replace_pooling(block, pool):
    """Feed the block's pooling branch with pool(input of the block), whatever the block itself pooled."""
    seen = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.branch_pool.register_forward_pre_hook(lambda *_: (pool(seen.pop()),))


@torch.no_grad()
def fid_features(images, net, device="cpu", batch=64):
    """uint8 (n, h, w, 3) -> (features (n, 2048), logits without bias (n, 1008)), float64; to 299 px, bilinear."""
    net, features = net.to(device), []
    for some in torch.as_tensor(images).split(batch):
        x = some.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        features.append(net(torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)))
    features = torch.cat(features).double().cpu()
    return features.numpy(), (features @ net.head.double().cpu().T).numpy()


# --- Copying ---------------------------------------------------------------------------------------------------------

def thumbnails(images):
    """(n, 768): the mean colour of each cell of a 16 x 16 grid, in grey levels, of uint8 images (n, h, w, 3)."""
    if images.shape[1] % 16 or images.shape[2] % 16:
        images = np.stack([Image.fromarray(image).resize((16, 16), Image.BOX) for image in images])
    return 255 * colour_features(images, 16)


def nearest(made, train, held_out, seed=0):
    """Do GAN images copy? Is the image nearest to each of them a training image, or one that the GAN has never seen?

    uint8 images (n, h, w, 3). Distance: root mean square difference in grey levels of 16 x 16 thumbnails. Train and
    held_out are cut to the same number: a larger set has nearer neighbours by its number alone. closer_to_train [share,
    low, high] is .5 without copying; images as near to both do not count (None if all are). Wilson's interval; where a
    few real images are the nearest of many made ones, those count as fewer: as many as would have given the share its
    variance, were the real images dealt anew to the two sides. pairs: the ten made images closest to any training
    image, (index in made, index in train, distance).
    """
    if not (len(made) and len(train) and len(held_out)):
        raise UserError("to look for copies takes generated, training and held-out images: one of them has none")
    made, train, held_out = (thumbnails(images) for images in (made, train, held_out))
    per_side, rng = min(len(train), len(held_out)), np.random.default_rng(seed)
    some, others = rng.permutation(len(train))[:per_side], held_out[rng.permutation(len(held_out))[:per_side]]

    def distances(x, y):
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return np.sqrt(squares.clip(0) / x.shape[1])
    rows = []
    for start in range(0, len(made), 500):                              # 500 rows of the distance matrix at a time
        to_train, to_others = (distances(made[start:start + 500], y) for y in (train, others))
        rows.append((to_train[:, some].min(1), to_train[:, some].argmin(1), to_others.min(1), to_others.argmin(1),
                     to_train.min(1), to_train.argmin(1)))
    inside, a, outside, b, closest, which = map(np.concatenate, zip(*rows))
    neighbour = np.where(inside < outside, a, per_side + b)[inside != outside]
    closer = None
    if len(neighbour):
        variance = 2 * per_side * np.bincount(neighbour, minlength=2 * per_side).var(ddof=1)
        n = round(min(len(neighbour), len(neighbour) ** 2 / max(variance, 1)))
        share = np.mean(neighbour < per_side)
        closer = [float(share), *rate(round(share * n), n)[1:]]
    return dict(closer_to_train=closer, n=len(made), per_side=per_side, distance_train=float(np.median(inside)),
                distance_held_out=float(np.median(outside)),
                pairs=[(int(k), int(which[k]), float(closest[k])) for k in np.argsort(closest, kind="stable")[:10]])


def together(found):
    """`nearest` of a GAN per class as one: shares weighted by the images, their interval as in Zou & Donner 2008."""
    found = [one for one in found if one["closer_to_train"]]
    if not found:
        return dict(closer_to_train=None, n=0)
    n = sum(one["n"] for one in found)
    share, low, high = np.array([one["closer_to_train"] for one in found]).T
    weight = np.array([one["n"] for one in found]) / n
    down, up = (np.sqrt(np.square(weight * (end - share)).sum()) for end in (low, high))
    share = weight @ share
    return dict(closer_to_train=[float(share), float(share - down), float(share + up)], n=n)


# --- Audit: the counts behind printed numbers ------------------------------------------------------------------------

def printed_range(text, cut=False):
    """(low, high): the shares printed as ".9201" or "92.01%" when rounded, either way at a tie, or else cut off."""
    if not re.fullmatch(r"(\d+\.?|\d*\.\d+)%|[01]\.?|[01]?\.\d+", text):
        raise UserError(f"{text!r} is no printed value: give it as .9201 or as 92.01%")
    digits, scale = text.rstrip("%"), 100 if text.endswith("%") else 1
    value, unit = float(digits), 10.0 ** -len(digits.partition(".")[2])
    low, high = (value, value + unit - 3e-9) if cut else (value - unit / 2, value + unit / 2)
    return low / scale - 1e-9, high / scale + 1e-9


def counts(text, n, cut=False):
    """[k, ...] such that k / n is printed like this."""
    low, high = printed_range(text, cut)
    return list(range(max(0, int(np.ceil(low * n))), min(n, int(np.floor(high * n))) + 1))


def matrices(printed, n=None, sizes=None, cut=False):
    """Yield each confusion matrix (tp, fn, fp, tn) that gives the printed values, {measure: ".9201"}.

    Measures: sensitivity, specificity, precision, accuracy, f1. sizes: (positives, negatives), or n: any that sum to n.
    cut: values cut off instead of rounded.
    """
    def span(name, whole):
        return np.array(counts(printed[name], whole, cut), int) if name in printed else np.arange(whole + 1)
    for p, q in [sizes] if sizes else [(p, n - p) for p in range(n + 1)]:
        tp = span("sensitivity", p)[:, None]
        tn = span("accuracy", p + q) - tp if "accuracy" in printed else span("specificity", q)
        tp, tn = np.broadcast_arrays(tp, tn)
        shares = dict(sensitivity=(tp, p), specificity=(tn, q), precision=(tp, tp + q - tn), accuracy=(tp + tn, p + q),
                      f1=(2 * tp, tp + p + q - tn))
        fits = (0 <= tn) & (tn <= q)
        for name, text in printed.items():
            (part, whole), (low, high) = shares[name], printed_range(text, cut)
            fits &= (low * whole <= part) & (part <= high * whole) & (np.asarray(whole) > 0)
        yield from ((int(a), int(p - a), int(q - d), int(d)) for a, d in zip(tp[fits], tn[fits]))


# --- The printed tables, as data -------------------------------------------------------------------------------------
# A row of `rows`: label | job | one printed value per column of the table; several jobs share the columns between them.
# With a `job` for the whole table: label | measure | printed value. {} in a measure is the row's label, {} in a job the
# variant's ending, JOB@TEST another test set than the variant's. A letter behind a value points to the reason, in
# `marks`, why that value cannot be right as it stands; "=" means: not printed, or put right by us from the other
# values; "-": left open in the paper, or a row that the paper quotes. variants: column title, test set, ending of the
# job's name. fills: the name of a cell where the row's label is none. A figure: number (none where it is ours) | title
# | kind of picture | jobs. A claim: text, printed effect in words and as `verdict` wants it, pairs of jobs (before,
# after) in a clean comparison, and in the paper's own where that flatters. The margin of "no effect" is what 2,534 test
# images can show with 80 % power. audit: what the paper's text says, against its own numbers. The tests prove each mark
# and each line of audit.

def rows_of(text):
    """[[part, ...], ...] of a text with one row per line and bars between its parts."""
    return [[" ".join(part.split()) for part in line.split("|")] for line in text.strip().splitlines()]


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
OURS = (("ours", "real", ""),)
BOTH = (("ours, as printed: mixed test", "mixed", ""), ("ours, clean: real test", "real", ""))
FIVE = ("accuracy", "precision:benign", "recall:benign", "f1:benign", "auc")
PRF = ("precision:{}", "recall:{}", "f1:{}")
OWN_64 = (("ours, own resolution, as printed", "real", ""), ("ours, all through 64 px, clean", "real", "_64"))
PRETRAINED = ("resnet50", "vgg16", "vgg19", "resnet50_flat", "mobilenet_flat", "mobilenet_v2", "inception")   # ImageNet
PRINTED = {"wgan_gp": dict(
    title="Gören & Çınarer: Cancer lesion classification with GAN-based image augmentation (WGAN-GP)",
    claims=tuple((f"{name}: GAN images help", printed, gain, [(f"{job}_real", f"{job}_hybrid")],
                  [(f"{job}_real", f"{job}_hybrid@mixed")]) for name, job, printed, gain in (
                      ("CNN", "cnn", "+0.3 points\nin the tables -0.4", 0.0034),
                      ("MobileNet", "mobilenet", "+0.9 points", 0.0086),
                      ("ResNet-18", "resnet18", "+10.1 points", 0.1012))),
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
            | ConvTranspose2d 224x32x32 1605856 | BatchNorm2d 448 | ReLU 0 | ConvTranspose2d 3x64x64 10755
            | Tanh 0""")),
    tables=(
        dict(id="4", title="Trained on real images", columns=("accuracy", "loss", "val_accuracy"), rows="""
            CNN | cnn_real | .8674b .2564 .8900
            MobileNet | mobilenet_real | .9081b .0732 .9200
            ResNet-18 | resnet18_real | .8166c .4212 .9100e"""),
        dict(id="5", title="Trained on real and GAN images", variants=BOTH,
             columns=("accuracy", "loss", "val_accuracy"), rows="""
            CNN | cnn_hybrid | .8634 .2821 .8700
            MobileNet | mobilenet_hybrid | .9167 .1829 .9200
            ResNet-18 | resnet18_hybrid | .9178 .3300 .9100e""",
             note="As printed: 204 of the paper's 864 test images are GAN images. Clean: the real test images of "
                  "Table 4."),
        *(dict(id=number, title=f"{name}'s classification report", job=job, variants=BOTH,
               rows=PAPER_000_REPORT.format(*values.split())) for number, name, job, values in (
            ("6", "ResNet-18", "resnet18_hybrid", ".9201 .9152 .9261 .9178 .9231 .9084 .9261 .9152 .9118"),
            ("7", "MobileNet", "mobilenet_hybrid", ".9350 .8971 .9065 .9167 .9205 .9282 .9065 .8971 .9124"),
            ("8", "CNN", "cnn_hybrid", ".9111 .8192 .8239 .8634 .8653 .9084 .8239 .8192 .8615")))),
    figures=rows_of("""
        1 | Images of the training part | grid | data
        2 | GAN images: benign, then malignant | grid | gan_benign gan_malignant
        3 | ResNet-18 on real and GAN images | curves | resnet18_hybrid
        4 | MobileNet on real and GAN images | curves | mobilenet_hybrid
        5 | CNN on real and GAN images | curves | cnn_hybrid
          | Ours: the critic's scores and the diversity of the samples | gan | gan_benign gan_malignant"""),
    marks=dict(
        a="3 x 64 x 16 = 3,072 has no bias, but every other convolution of the table has one; with it 3,136.",
        b="No k of 660 test images (nor of 864, nor of 2,637 training images) gives this accuracy to four decimals.",
        c="539 of 660 is .81667: .8166 only if cut off instead of rounded.",
        d="No integer matrix with the true class sizes 460 and 404 gives the table's five values. Transposed, with "
          "benign positive, exactly one does: what is printed as sensitivity is the precision for benign, and so on. "
          "Ours is computed in the same way here; the rows put right come from that matrix.",
        e="The same validation accuracy with and without GAN images, while the test accuracy gains 10.1 points."),
    audit=(
        "883 benign and 884 malignant GAN images do not fit the hybrid set's sums; 2,219 + 460 - 1,800 = 879 and "
        "1,981 + 404 - 1,497 = 888 do.",
        "204 of the hybrid set's 864 test images (100 benign, 104 malignant) must be GAN images, so Tables 4 and 5 are "
        "measured on different test sets.",
        "Had all of these 204 been classified rightly, the real 660 would give .8212 (CNN), .8909 (MobileNet) and "
        ".8924 (ResNet-18): the first two are below Table 4.",
        "The abstract's gain of the CNN, 86.00 to 86.34 %, is a loss in Tables 4 and 5 (.8674 to .8634); .8600 is 743 "
        "of the 864 images of the mixed test, and no k of the real 660.")),

"dcgan_cls": dict(
    title="Mutepfe et al.: GAN image synthesis for skin lesion generation and classification (DCGAN)",
    claims=(("the discriminator classifies with 93.5 %", ".935\nelsewhere .915 and .861",
             ("level", 0.935), [("base",)], []),
            ("batch 128 is better than 100", "+3.2 points", 0.032, [("batch100", "base")], []),
            ("learning rate .0002 is better than .001", "+1.2 points", 0.012, [("lr1e3", "base")], []),
            ("Adam is better than SGD", "+3.2 points", 0.032, [("sgd", "base")], [])),
    claim="The DCGAN's discriminator classifies with 93.5 % accuracy and an AUC of .861 (Tables 4 and 5; the 93.5 % "
          "also in the abstract).",
    help="pretraining in the DCGAN", sides=("random weights", "pretrained"),
    arms=(("the DCGAN's discriminator", "base_scratch", "base"),),
    tables=(
        dict(id="2", title="Batch size", columns=FIVE, rows="""
            100 | batch100 | .903bd .91 .84 .87 .844
            128 | base | .935cd .94 .77 .91a .861e"""),
        dict(id="3", title="Learning rate", columns=FIVE, rows="""
            0.001 | lr1e3 | .903bd .94 .84 .87a .861e
            0.0002 | base | .915cd .88g .72g .79g .813g"""),
        dict(id="4", title="Optimiser", columns=FIVE, rows="""
            Adam | base | .935cd .94 .84 .87a .861e
            SGD | sgd | .903bd .92 .71 .80 .830"""),
        dict(id="5", title="Comparison with related work", columns=("accuracy%", "auc"), rows="""
            Haenssle et al. [31] | - | - .86
            XG et al. [2] | - | 81.33 -
            JB et al. [29] | - | - .9150
            This work | base | 93.5c .861e"""),
        dict(id="6", title="Distance to the real images (printed: FID)", job="fid", rows="""
            DCGAN | distance:dcgan_base | 44.41±1.28f
            GAN [21] | distance:plain_gan | 50.93±1.18q
            LAPGAN [16] | distance:lapgan | 41.88±1.08q"""),
        dict(id="ours", title="What the pretraining is worth", columns=FIVE, rows="""
            pretrained in the DCGAN | base | = = = = =
            random weights | base_scratch | = = = = =
            frozen with a linear head | base_probe | = = = = =""")),
    note="Precision, recall and F1 are those of benign: with the printed matrix (Figure 17) the positive class has 471 "
         "of 851 images, which fits the data's 54.6 % benign, and lies 6.8 standard deviations from its 45.4 % "
         "malignant. Table 1 of the paper defines these measures and holds no number.",
    matrices={"17": (((395, 76), (42, 338)), ("benign", "malignant"))},
    figures=rows_of("""
        5 | Images of each class and part | counts | data
        6 | Before and after bilateral filter and gamma correction | before_after | data
        7 | Images of the training part | grid | data
        8 | An image of each class and its augmentations | augmented | data
        11 to 15 | DCGAN images of the same noise: before, at about 13 % and 33 %, and at the end of the training \
                 | steps | dcgan_base
        16 | The DCGAN's losses | gan | dcgan_base
        17 | Confusion matrix | confusion | base
        18 | ROC curve | roc | base
           | Ours: the plain GAN and the LAPGAN of Table 6 | grid | plain_gan lapgan
           | Ours: the DCGANs of Tables 2 to 4 | gan | dcgan_batch100 dcgan_lr1e3 dcgan_sgd"""),
    marks=dict(
        a="Not the F1 of the precision and recall printed beside it: those give .842 to .852 (batch 128), and .882 to "
          ".892 (learning rate .001, and Adam).",
        b="No k of the 851 test images of Figure 17 gives .903. It is the precision that the paper computes from "
          "Figure 17.",
        c="Batch 128, learning rate .0002 and Adam are one configuration, printed with three different rows; the only "
          "confusion matrix (Figure 17) gives 733 of 851 = .861.",
        d="No integer counts of 471 and 380 images (Figure 17), whichever is positive, give this row's accuracy, "
          "precision and recall. The rows imply shares of positive images between .22 and .48, but there is one test "
          "set.",
        e="The same number as the accuracy of Figure 17, 733 of 851.",
        f="Lower than the plain GAN's, as the paper says, but not than LAPGAN's.",
        g="Lower than at .001, though the paper concludes that the lower learning rate did better.",
        q="Quoted from other papers, and measured there on other images."),
    audit=(
        "3,597 images: the data set that it names has 1,800 + 1,497 = 3,297, exactly 300 fewer.",
        "The split is not stated: Figure 17's 851 test images are 25.8 % of 3,297, or 23.7 % of 3,597.",
        "The abstract's 93.5 % lies outside the 95 % interval of Figure 17's 733 of 851: 86.1 [83.6, 88.3] %.",
        "If benign is the positive class, as its share says, 338 of 380 malignant lesions are found (.889), with a "
        "precision of .816; the text has 83 % of them found, which is benign's .839 cut off.",
        "Adam's beta1 is .5 in the abstract and .2 in the method, the batch 128 and 64, the noise 100 and then 128 "
        "numbers; which of them made which table is not said.")),

"acgan_cyclegan": dict(
    title="Fossen-Romsaas et al.: Synthesizing skin lesion images using CycleGANs (ACGAN, CycleGAN)",
    claims=(("ACGAN and CycleGAN images change nothing on average", "-1.1 to +0.8 points", ("none", 0.027),
             [("isic0", f"{kind}_row/count{n}") for kind in ("acgan", "cyclegan")
              for n in (2000, 4000, 8000, 16000, 24000)], []),
            ("melanomas made from nevi change nothing on average", "-0.9 to +0.9 points", ("none", 0.027),
             [("isic0", f"row_{k}/count{n}") for k in (8, 4, 2, 1)
              for n in (500, 1000, 2000, 3000, 4000, 5000, 6000, 7000)], [])),
    claim="No significant benefit of GAN images (discussion); accuracies between .845 and .865 against .856 without.",
    arms=tuple((f"{n} of the {kind}", "isic0", f"{kind.lower()}_row/count{n}")
               for kind in ("ACGAN", "CycleGAN") for n in (2000, 4000, 8000, 16000, 24000)) + tuple(
                   (f"7000 melanomas, alpha {alpha}", "isic0", f"row_{n}/count7000")
                   for n, alpha in ((8, "1/8"), (4, "1/4"), (2, "1/2"), (1, "1"))),
    tables=(
        dict(id="1", title="Images of each class", columns=("count:train:{}", "count:val:{}", "count:test:{}"), rows="""
            NV | data | 10300 1287 1288
            MEL | data | 3618 452 452
            BCC | data | 2658 332 333
            BKL | data | 2099 262 263
            AK | data | 694 87 86
            SCC | data | 502 63 63
            VASC | data | 202 26 25
            DF | data | 191 24 24
            Sum | data | 20264 2533 2534"""),
        dict(id="2", title="Precision and recall of each class, and accuracy",
             columns=(*(f"{measure}:{name}" for name in "MEL NV BCC AK BKL DF VASC SCC".split()
                        for measure in ("precision", "recall")), "accuracy"),
             fills=dict(isic0="ISIC-0", acgan_row="acgan", cyclegan_row="cyclegan"), rows="\n".join(
                 "{0}-0{1} | {0}_row/count{2} | {3}".format(*line.split(None, 3)) for line in """
            acgan .09 2000 .763 .757 .909 .911 .824 .925 .736 .616 .752 .692 .727 .667 .957 .88 .738 .714 .845
            cyclegan .09 2000 .782 .739 .903 .925 .853 .889 .679 .64 .78 .753 .692 .75 1.0 .8 .712 .667 .85
            cyclegan .165 4000 .803 .748 .894 .932 .864 .898 .651 .651 .826 .741 .857 .75 .846 .88 .714 .635 .856
            acgan .165 4000 .811 .701 .883 .94 .845 .883 .675 .605 .795 .738 .783 .75 .95 .76 .695 .651 .847
            cyclegan .283 8000 .797 .748 .892 .93 .861 .895 .671 .64 .785 .722 .762 .667 .84 .84 .804 .651 .851
            acgan .283 8000 .812 .743 .9 .938 .846 .889 .671 .616 .802 .753 .842 .667 .88 .88 .707 .651 .856
            acgan .441 16000 .839 .701 .885 .946 .839 .889 .685 .709 .793 .73 .783 .75 .95 .76 .698 .587 .852
            cyclegan .441 16000 .813 .759 .907 .942 .842 .913 .738 .686 .807 .73 .857 .75 .952 .8 .741 .635 .864
            acgan .542 24000 .806 .706 .896 .932 .844 .91 .638 .698 .785 .734 .8 .667 1.0 .8 .644 .603 .848
            cyclegan .542 24000 .785 .752 .895 .936 .845 .886 .641 .581 .824 .711 .762 .667 .958 .92 .696 .619 .85
            """.strip().splitlines()) + """
            ISIC-0 | isic0 | .823 .721 .894 .939 .854 .877 .761 .628 .786 .783 .708 .708 .913 .84 .683 .683 .856""",
             note="The number behind a name is the share of synthetic images among 20,264 + n: n = 2,000 to 24,000."),
        dict(id="3", title="n melanomas made from nevi by a CycleGAN trained on the best-ranked share alpha",
             columns=("accuracy", "precision:MEL", "recall:MEL") * 4,
             heads=("alpha 1/8", "alpha 1/4", "alpha 1/2", "alpha 1"),
             fills=dict(isic0="ISIC-0", row_8="1/8", row_4="1/4", row_2="1/2", row_1="1"), rows="\n".join(
                 f"{n} | row_8/count{n} row_4/count{n} row_2/count{n} row_1/count{n} | {values}" for n, values in (
                     (500, ".852 .797 .712 .853 .807 .712 .857 .820 .724a .856 .819 .710"),
                     (1000, ".851 .824 .717 .848 .797 .719 .861 .843 .701 .851 .825 .708"),
                     (2000, ".857 .815 .730 .847 .817 .719 .856 .836 .732 .856 .828 .712"),
                     (3000, ".858 .837 .715 .857 .837 .728 .857 .833b .726 .859 .825b .746"),
                     (4000, ".854 .801b .746 .856 .802 .728 .864 .855b .715 .854 .807 .730"),
                     (5000, ".858 .848 .717 .856 .804 .754 .855 .818 .737 .858 .811 .741"),
                     (6000, ".865 .851 .759 .852 .816 .724a .856 .825 .730 .858 .819 .741"),
                     (7000, ".854 .781 .748 .864 .810 .763 .849 .783 .743 .856 .819 .752"))) + """
            ISIC-0 | isic0 | .856 .823 .721 .856 .823 .721 .856 .823 .721 .856 .823 .721""",
             note="The shares that the paper prints beside n (.035 to .335) are of the 13,918 nevi and melanomas + "
                  "n.")),
    note="n is the paper's number of added images; with fewer real images than the paper's 20,264, as many fewer are "
         "added (result.json says how many).",
    figures=rows_of("""
        1 and 7 | Images of each class: real, ACGAN, CycleGAN | grid | data acgan cyclegan
        5 | Images of each class and part | counts | data
        8 | Melanomas that CycleGANs made from nevi: alpha 1/8, 1/4, 1/2, 1 | grid | nv2mel_8 nv2mel_4 nv2mel_2 nv2mel_1
          | Ours: the baseline's confusion matrix, announced in the paper but not printed | confusion | isic0
          | Ours: the baseline's learning-rate finder | lr_finder | isic0
          | Ours: accuracy and melanoma's recall over the number of synthetic images | dose \
          | acgan_row cyclegan_row row_8 row_4 row_2 row_1
          | Ours: losses | gan | acgan nv2mel_1"""),
    marks=dict(
        a="No k of 452 test melanomas gives this recall to three decimals.",
        b="No number of images called melanoma gives this precision together with the recall beside it, of 452 "
          "melanomas."),
    audit=(
        "The best of the 42 models with GAN images, .865 against .856 without (2,193 against 2,168 of 2,534 at most), "
        "is z = 1.01, p = .31 before any correction for 42.",
        "Table 3's 32 accuracies have a standard deviation of .0042, less than the .0070 that a test set of this size "
        "gives by chance.",
        "Table 2's ten models with GAN images have a mean accuracy of .8519 (standard deviation .0055), below .856 "
        "without.",
        "Not in the paper: in Table 3 melanoma's recall rises with their number (Spearman .75, p = 7e-7), precision "
        "and accuracy do not (p = .49, .23). More melanomas shift the threshold: the control is to oversample them.")),

"dermagan": dict(
    title="Sri Sai Teja et al.: DermaGAN",
    claims=(("GAN images help the CNN", "+6.5 points", 0.065, [("cnn_real_fair", "cnn_gan_fair")],
             [("cnn_real_code", "cnn_gan_code")]),
            ("the CNN is better than MobileNet, the paper's best pretrained network", "+3.5 points", 0.035,
             [("mobilenet_fair", "cnn_gan_fair")], [("mobilenet_code@augmented", "cnn_gan_code")])),
    claim="GAN images raise the CNN's accuracy from 65.49 to 72.0 %, above five pretrained networks (Tables 2 and 3).",
    arms=(("CNN, fair: same steps, clean GAN", "cnn_real_fair", "cnn_gan_fair"),
          ("CNN, as in the paper's text", "cnn_real_text", "cnn_gan_text"),
          ("CNN, as in the released code", "cnn_real_code", "cnn_gan_code")),
    tables=(
        dict(id="2", title="The CNN with and without GAN images", columns=("accuracy%", "loss"),
             variants=(("ours, paper's text", "real", "text"), ("ours, released code", "real", "code"),
                       ("ours, fair", "real", "fair")), rows="""
            with GAN images | cnn_gan_{} | 72.0 .714
            without GAN images | cnn_real_{} | 65.49a .816b"""),
        dict(id="3", title="The CNN beside pretrained networks, all with GAN images", columns=("accuracy%", "loss"),
             variants=(("ours, released code", "augmented", "code"), ("ours, fair", "real", "fair")), rows="""
            Proposed model | cnn_gan_{}@real | 72.00 .714
            MobileNet | mobilenet_{} | 68.50 .816
            MobileNetV2 | mobilenet_v2_{} | 68.25 .838
            ResNet50 | resnet50_{} | 47.99a 1.114
            VGG16 | vgg16_{} | 66.75 .844
            VGG19 | vgg19_{} | 65.49a .811""",
             note="In the released code the pretrained networks, and only they, are tested on randomly sheared, zoomed "
                  "and flipped test images; so here. Its CNN without GAN images makes fewer steps (2,650 against "
                  "3,300) and its GAN saw the test images; fair is neither. Below paper scale the pretrained networks "
                  "make fewer steps than the CNN (see Every job).")),
    matrices={"9": (((33, 23, 21, 23), (35, 15, 21, 29), (24, 18, 27, 31), (20, 17, 31, 32)),
                    ("AK", "BCC", "BKL", "MEL"))},
    figures=rows_of("""
        1 | Images of the training part | grid | data
        5 | Images of each class and part | counts | data
        6 | The CNN's training images, those of the GAN among them | counts | cnn_gan_fair
        7 | GAN images: clean, and as in the released code | grid | gan gan_code
        8 | Accuracy over the rate of dropout | dose | dropout
        9 | Confusion matrix; the released notebook's is no better than chance (107 of 400 right): it compares \
            predictions with classes in another order | confusion | cnn_gan_text cnn_gan_code cnn_gan_fair
        10 | Training curves of the CNN as in the paper's text | training | cnn_gan_text
           | Ours: losses of the clean GANs | gan | gan/AK gan/BCC gan/BKL gan/MEL"""),
    marks=dict(
        a="No k of 400 test images gives this. Cut off instead of rounded: 262 of 400 is 65.50 %, 192 of 400 is 48.00 "
          "%.",
        b="Cut off instead of rounded: the released notebook shows .8166."),
    audit=(
        "288 against 262 of 400 right is z = 1.98, p = .047 (Fisher's exact test: .056), with one training each.",
        "In the released code the CNN with GAN images makes 3,300 optimiser steps, that without 2,650: 24.5 % more.",
        "Better than pretrained networks: 288 against MobileNet's 274 of 400 is p = .28.",
        "The notebook's confusion matrix (Figure 9) has 107 of 400 right, no better than chance (chi-squared: p = "
        ".21), against 72 % in Tables 2 and 3.",
        "Pooling with stride 1, as the text says, would make the CNN 41,648,158 parameters; the released notebook has "
        "521,758, with the stride equal to the pool.")),

"dcgan_inception": dict(
    title="Anonymous: Augmenting data with DCGANs to improve skin lesion classification (Inception V3)",
    claims=(("GAN images help Inception V3", "+1.1 points", 0.0105, [("original_64", "augmented_64")],
             [("original", "augmented")]),),
    claim="1,176 malignant GAN images raise the accuracy from .8770 to .8875 (Table 3).",
    arms=(("all images through 64 px", "original_64", "augmented_64"),
          ("own resolution", "original", "augmented")),
    tables=(
        dict(id="1", title="Trained on real images", columns=PRF, variants=OWN_64, rows="""
            benign | original{} | .89 .89 .89
            malignant | original{} | .87 .86 .86"""),
        dict(id="2", title="Trained on real and GAN images", columns=PRF, variants=OWN_64, rows="""
            benign | augmented{} | .90 .89 .90
            malignant | augmented{} | .87 .88 .88"""),
        dict(id="3", title="Accuracy", columns=("accuracy",), variants=OWN_64, rows="""
            original | original{} | .8770a
            augmented | augmented{} | .8875a""")),
    note="Only malignant images are synthetic, and they have 64 px: at its own resolution the network can tell them by "
         "their blur. Through 64 px, every image is as blurred as they are.",
    figures=rows_of("""
        1 | Images of the training part | grid | data_full
        3 | Confusion matrix, trained on real images | confusion | original original_64
        4 | Confusion matrix, trained on real and GAN images | confusion | augmented augmented_64
        5 | The DCGAN's losses | gan | dcgan
        6 | Distance to the real images and Inception score while the DCGAN trains | distance | fid_curve
        7 | Real images (at 64 px) beside those of the DCGAN | grid | data dcgan"""),
    marks=dict(
        a="No k of 3,238 to 3,241 images (a 20 % test part), nor of 1,619 to 1,621 (10 %), gives this when rounded to "
          "four decimals; 1,618 images do (1,419 and 1,436 right). Cut off instead, both values fit 3,238 (2,840 and "
          "2,874) and 1,619 (1,420 and 1,437)."),
    audit=(
        "7,361 + 1,176 malignant images are 8,537, not the 8,833 that would balance the classes: that takes 1,472. "
        "80 % of those, for a training part, would be 1,177.6.",
        "Table 2 with .8875 needs 1.16 to 1.25 benign test images per malignant one, like the data before balancing "
        "(1.20) and not like balanced data (1.00).",
        "The gain of .0105 is z = 0.93, 1.31 or 1.61 on 10, 20 or 30 % of 16,194 images: not significant on any.",
        "The formula of recall is printed as that of precision."))}


def cells_of(table, ending=""):
    """A printed table's cells, for one variant's ending: [(row label, [(printed value, job, measure), ...]), ...]."""
    rows = []
    for label, middle, values in rows_of(table["rows"]):
        if "job" in table:
            rows.append((label, [(values, table["job"], middle)]))
        else:
            jobs, values = middle.format(ending).split(), values.split()
            rows.append((label, [(value, jobs[k * len(jobs) // len(values)], measure.format(label))
                                 for k, (value, measure) in enumerate(zip(values, table["columns"]))]))
    return rows


def wanted_cells(study):
    """{printed cell or figure: the one job that fills it}: T2:CNN, T3:original:64, F5; T6 where one job fills all."""
    paper = PRINTED[study]
    wanted = {f"T{number}": "networks" for number, *_ in paper.get("layers", ())}
    for table in paper["tables"]:
        for _, _, ending in table.get("variants", OURS):
            filled = {}
            for label, cells in cells_of(table, ending):
                for job in (re.split("[@/]", job)[0] for _, job, _ in cells if job != "-"):
                    filled[table.get("fills", {}).get(job, label)] = job
            for label, job in filled.items():
                words = ("ours" if table["id"] == "ours" else f"T{table['id']}",
                         label if len(set(filled.values())) > 1 else "", ending.strip("_"))
                wanted[":".join(filter(None, words)).replace(" ", "-")] = job
    for figure, _, _, jobs in paper["figures"]:
        for job in jobs.split() if figure else ():
            ending = ":" + job.removeprefix("gan_") if " " in jobs else ""
            wanted[f"F{figure}{ending}".replace(" ", "-")] = job
    return wanted


def layers_of(text):
    """The rows of a printed layer table: [(layer, shape, printed count), ...]."""
    rows = []
    for entry in text.split("|"):
        layer, *shape, count = entry.split()
        rows.append((layer, shape[0] if shape else rows[-1][1], count))
    return rows


# --- Reading results -------------------------------------------------------------------------------------------------

class Results:
    """The finished jobs below a results folder.

    jobs: "study/job-s0" or "study/job-s0/sub" -> its result.json; arms: "study/job/sub" -> names in jobs, one per seed.
    """
    def __init__(self, out):
        self.out, self.jobs, self.arms, self.cache = Path(out), {}, {}, {}
        for file in sorted([*self.out.glob("*/*/result.json"), *self.out.glob("*/*/*/result.json")]):
            name = file.parent.relative_to(self.out).as_posix()
            self.jobs[name] = json.loads(file.read_text())
            self.arms.setdefault(re.sub(r"-s\d+(?=/|$)", "", name), []).append(name)

    @functools.cached_property
    def accuracies(self):
        """{(arm, test): Arm} of all classifiers. The spread of a training is pooled over the arms of a study that train
        the same network; in the controls apart for real images, real + GAN, placebos and GAN images alone."""
        kinds = {}
        for name, (first, *_) in self.arms.items():
            if (self.out / first / "predictions.csv").exists():
                study, _, part = name.partition("/")
                kind = part.split("/")[-1] in GANS, part.endswith("_shuffled"), part.endswith("_alone")
                for test in self.jobs[first]["metrics"]:
                    key = study, self.jobs[first]["config"]["model"], test, kind
                    kinds.setdefault(key, {})[name, test] = arm(self.predictions(name, test)[0])
        return {key: one for group in kinds.values() for key, one in zip(group, pooled(list(group.values())))}

    def arm(self, name, test="real"):
        """The Arm of accuracies of a job, the same one each time; None where it has not run."""
        return self.accuracies.get((name, test))

    def seeds(self, arm):
        """The results of an arm, one per seed."""
        return [self.jobs[name] for name in self.arms.get(arm, ())]

    def predictions(self, arm, test):
        """([(labels, probabilities, groups)] per seed, class names) of one test set of an arm."""
        runs, classes = [], []
        for job in self.arms.get(arm, ()):
            with open(self.out / job / "predictions.csv", newline="") as file:
                header, *rows = csv.reader(file)
            rows, classes = [row for row in rows if row[0] == test], header[4:]
            if rows:
                _, _, groups, labels, *chances = map(np.array, zip(*rows))
                runs.append((np.array([classes.index(label) for label in labels]), np.array(chances, float).T, groups))
        return runs, classes

    def value(self, arm, test, measure):
        """One measure of one arm on one test set, as text: the mean over seeds, with its interval where it has one."""
        jobs, short, (what, _, label) = self.seeds(arm), arm.split("/", 1)[1], measure.rstrip("%").partition(":")
        if short == "-":
            return "quoted"
        if not jobs:
            return f"not run: {short}"
        if what == "count":
            part, _, label = label.partition(":")
            counts = jobs[0]["counts"].get(part, {})
            n = sum(counts.values()) if label == "Sum" else counts.get(label, 0)
            return f"{n:,}" if n else f"no {label} in this data"
        if what == "distance":
            row = next((row for row in jobs[0]["rows"] if row["set"] == label), None)
            return (f"{jobs[0]['net']} {row['distance']:.2f} ± {row['spread']:.2f}\nnoise floor "
                    f"{jobs[0]['floor']:.2f}\nKID {row['kid']:.3g}, n {row['n']}") if row else f"not scored: {label}"
        if test not in jobs[0]["metrics"]:
            return f"no {test} test in {short}"
        if what in ("val_accuracy", "loss"):
            last = [job["metrics"][test]["loss"] if what == "loss" else job["curves"][what][-1] for job in jobs]
            return number(np.mean(last))
        if (arm, test) not in self.cache:
            runs, classes = self.predictions(arm, test)
            self.cache[arm, test] = summary(runs, classes), {classes[k] for k in runs[0][0]}
        values, present = self.cache[arm, test]
        if label and label not in present:
            return f"no {label} in this data"
        value = values[measure.rstrip("%")]
        return number(np.multiply(100, value), 2) if measure.endswith("%") else number(value)


# --- Rendering: one table renderer for Markdown and HTML; figures as inline SVG or PNG -------------------------------

def number(value, digits=3):
    """A number or a [value, low, high] as text."""
    if np.isnan(np.ravel(value)[0]):
        return "never predicted"
    if np.ndim(value) == 0:
        return f"{value:.{digits}f}"
    return f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def points(gain):
    """A gain, or [gain, low, high, ...], in percentage points as text."""
    if gain is None:
        return "not run"
    value, *ends = np.multiply(100, np.ravel(gain)[:3])
    return f"{value:+.1f} points" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else "")


def p_text(p):
    return "none" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def called(gain, p, scale):
    """What a gain is called; p: corrected."""
    if scale == "quick" or p is None:
        return "not judged at quick scale" if scale == "quick" else "not judged: one seed"
    return "no difference shown" if p >= 0.05 else "better" if gain[0] > 0 else "worse"


def printed_value(text):
    """A printed value as text: ".8674b" -> "0.8674 (b)", "3072a" -> "3,072 (a)", "=.9084" -> "0.9084", "=" -> words."""
    value, marks = re.fullmatch(r"=?([^a-z]*)([a-z]*)", text).groups()
    if value in ("", "-"):
        return "not printed"
    value = f"0{value}" if value.startswith(".") else f"{int(value):,}" if value.isdigit() else value
    return value + (f" ({', '.join(marks)})" if marks else "")


VERDICTS = {"reproduced": "yes", "better": "yes", "same direction": "part", "not reproduced": "no", "worse": "no",
            "cannot be tested here": "open", "no difference shown": "open", "cannot be told": "open"}      # their style


class Page:
    """The report, written twice at once: as Markdown and as HTML, in which every string is escaped."""

    def __init__(self, out="."):
        self.out, self.markdown, self.html = out, [], []

    def heading(self, level, text, anchor=""):
        self.markdown += ["#" * level + (f' <a id="{anchor}"></a>' if anchor else " ") + text, ""]
        self.html.append(f'<h{level} id="{anchor}">{html.escape(text)}</h{level}>')

    def contents(self, entries):
        """entries: [(anchor, title)]"""
        self.markdown += [*(f"- [{title}](#{anchor})" for anchor, title in entries), ""]
        links = (f'<li><a href="#{anchor}">{html.escape(title)}</a>' for anchor, title in entries)
        self.html.append(f"<nav><ol>{''.join(links)}</ol></nav>")

    def bullets(self, caption, texts):
        self.markdown += [f"**{caption}**", "", *(f"- {text}" for text in texts), ""]
        items = "".join(f"<li>{html.escape(text)}" for text in texts)
        self.html.append(f'<p class="caption">{html.escape(caption)}</p><ul class="note">{items}</ul>')

    def text(self, text, kind="plain"):
        self.markdown += [f"> **{text}**" if kind == "warn" else f"*{text}*" if kind == "note" else text, ""]
        self.html.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def table(self, caption, header, rows, notes=()):
        """header: column names; rows: texts, the row's name first. An interval [a, b] and later lines are small."""
        def cell(text, tag):
            value, *small = re.sub(r" \[(?=.*,)", "\n[", str(text)).split("\n")     # an interval below its value
            kind = "long" if len(value) > 60 else VERDICTS.get(value) or ("words" if re.match("no[t ]", value) else "")
            kind = f' class="{kind}"' if kind else ""
            lines = "".join(f"<small>{html.escape(line)}</small>" for line in small)
            return f"<{tag}{kind}>{html.escape(value)}{lines}</{tag}>"

        def line(cells, tags):
            return "<tr>" + "".join(map(cell, cells, tags)) + "</tr>"

        self.markdown += [f"**{caption}**", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines = (" | ".join(str(text).replace("|", "\\|").replace("\n", "<br>") for text in row) for row in rows)
        self.markdown += [*(f"| {line} |" for line in lines), ""]
        head, body = line(header, ["th"] * len(header)), "".join(line(row, ["th"] + ["td"] * len(row)) for row in rows)
        self.html.append(f'<p class="caption">{html.escape(caption)}</p><div class="scroll"><table>'
                         f"<thead>{head}</thead><tbody>{body}</tbody></table></div>")
        for note in notes:
            self.text(note, "note")

    def figure(self, caption, *parts):
        """parts: SVG text (in the HTML only), or the path of a PNG."""
        title, where = html.escape(caption), " (drawn in report.html)"
        self.html.append('<figure><div class="row">')
        for part in parts:
            if isinstance(part, Path):
                where = ""
                self.markdown += [f"![{caption}]({part.relative_to(self.out).as_posix()})", ""]
                part = f'<img alt="{title}" src="{embedded(part)}">'
            self.html.append(part)
        self.markdown += [f"*{caption}{where}*", ""]
        self.html.append(f"</div><figcaption>{title}</figcaption></figure>")


def embedded(path, limit=200_000):
    """A picture as a data: address; a large PNG as JPEG of at most 900 px, so that the page stays small."""
    raw, kind = path.read_bytes(), "png"
    if len(raw) > limit:
        picture, file, kind = Image.open(path).convert("RGB"), io.BytesIO(), "jpeg"
        picture.thumbnail((900, 1800))
        picture.save(file, "JPEG", quality=85)
        raw = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def svg(title, parts, height=220):
    title = html.escape(title)
    return (f'<svg viewBox="0 0 340 {height:.0f}" role="img" aria-label="{title}">'
            f'<text x="8" y="14" class="t">{title}</text>{"".join(parts)}</svg>')


def svg_text(x, y, text, style=""):
    text = str(text)
    text = html.escape(text if len(text) < 28 else text[:26] + "…")
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{style}">{text}</text>'


def svg_lines(title, series, x_label, y_range=None):
    """A small line chart. series: [(name, xs, ys)]. The page's style gives the colours, so they turn with dark mode."""
    left, right, top, bottom, wide = 44, 330, 26, 186, min(100, 288 / max(len(series), 1))
    xs, ys = (np.concatenate([np.asarray(s[k], float) for s in series]) for k in (1, 2))
    (x0, x1), (y0, y1) = (xs.min(), xs.max()), y_range or (ys.min(), ys.max())
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1
    digits = max(0, 2 - int(np.floor(np.log10(y1 - y0))))
    parts = [svg_text(left, 202, f"{x0:.5g}"), svg_text(right, 202, f"{x1:.5g}", "e"),
             svg_text((left + right) / 2, 202, x_label, "m")]
    for k in range(5):
        y, value = bottom - k / 4 * (bottom - top), y0 + (y1 - y0) * k / 4
        parts += [f'<path d="M{left} {y}H{right}" class="g"/>', svg_text(left - 5, y + 4, f"{value:.{digits}f}", "e")]
    for k, (name, x, y) in enumerate(series):
        x = left + (np.asarray(x) - x0) / (x1 - x0) * (right - left)
        y = bottom - (np.asarray(y) - y0) / (y1 - y0) * (bottom - top)
        points, at = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y)), left + wide * k
        parts += [f'<polyline points="{points}" class="s{k}"/>', f'<path d="M{at:.0f} 214h14" class="s{k}"/>',
                  svg_text(at + 18, 218, name)]
    return svg(title, parts)


def svg_bars(title, rows):
    """Stacked bars, one per row. rows: [(label, {part: count})], the same parts in each row."""
    longest, left = max(sum(parts.values()) for _, parts in rows) or 1, 84
    drawn = [svg_text(left + 70 * k, 32, name, f"c{k}") for k, name in enumerate(rows[0][1])]
    for r, (label, parts) in enumerate(rows):
        x, y = left, 42 + 22 * r
        drawn.append(svg_text(left - 6, y + 13, label, "e"))
        for k, count in enumerate(parts.values()):
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{200 * count / longest:.1f}" height="18" class="c{k}"/>')
            x += 200 * count / longest
        drawn.append(svg_text(x + 5, y + 13, f"{sum(parts.values()):,}"))
    return svg(title, drawn, 52 + 22 * len(rows))


def svg_intervals(title, rows):
    """Values with their intervals, one per row, beside lines at 0 and 1. rows: {label: [value, low, high]}."""
    finite = [value for triple in rows.values() for value in triple if np.isfinite(value)]
    low, high, bottom = max(min([-0.5, *finite]), -3), min(max([1.5, *finite]), 3), 30 + 26 * len(rows)

    def at(value):
        return 110 + 220 * (np.clip(value, low, high) - low) / (high - low)
    parts = [f'<path d="M{at(mark):.0f} 24V{bottom}" class="g"/>{svg_text(at(mark), bottom + 14, mark, "m")}'
             for mark in (0, 1)]
    for y, (label, (value, *ends)) in zip(range(42, bottom + 12, 26), rows.items()):
        parts.append(svg_text(102, y + 4, label, "e"))
        if np.isfinite(ends[0]):
            parts.append(f'<path d="M{at(ends[0]):.1f} {y}H{at(ends[1]):.1f}" class="s0"/>'
                         f'<circle cx="{at(value):.1f}" cy="{y}" r="4" class="c0"/>')
        else:
            parts.append(svg_text(at(0.5), y + 4, "cannot be told", "m"))
    return svg(title, parts, bottom + 24)


def svg_matrix(title, matrix, classes):
    """A confusion matrix: row = truth, column = prediction, shaded by the share of its row."""
    matrix, k = np.asarray(matrix), len(classes)
    side, left, size = max(33, 150 / k), 112 if k < 5 else 56, "n" if k < 5 else "k"
    parts = []
    for r, name in enumerate(classes):
        middle = side * (r + 0.5)
        parts += [svg_text(left, 48 + middle, name, "e"), svg_text(left + 8 + middle, 38, name, "m")]
        for c, count in enumerate(matrix[r]):
            share, x, y = count / max(matrix[r].sum(), 1), left + 8 + side * c, 44 + side * r
            parts += [f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" class="c" '
                      f'fill-opacity="{0.06 + 0.84 * share:.2f}"/>',
                      svg_text(x + side / 2 - 1, y + side / 2 + 4, count, f"m {size}{' w' if share > 0.5 else ''}")]
    return svg(f"{title} (row: truth)", parts, 54 + side * k)


STYLE = """
:root{color-scheme:light dark;--ink:#1d2129;--soft:#5d6673;--line:#dde1e7;--bg:#fff;--panel:#f5f7f9;--s0:#0b6e8f;
 --s1:#c4571b;--s2:#6a8a1f;--s3:#7a4fa3;--warn:#fff3dc;--yes:#2f7d32;--no:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#333a45;--bg:#14171c;--panel:#1c2129;
 --s0:#5cc0de;--s1:#f0945c;--s2:#b2d35f;--s3:#c3a0e8;--warn:#33291a;--yes:#7fd084;--no:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1040px;margin:0 auto;padding:24px 18px 60px}
h1{font-size:1.75rem;line-height:1.2;margin:.4em 0}
h2{margin:2.2em 0 .5em;padding-top:.8em;border-top:1px solid var(--line);font-size:1.35rem;line-height:1.3}
p{max-width:48em}.lead{font-size:1.15rem;font-weight:500}.note{margin:.2em 0}
.soft,.note,figcaption{color:var(--soft);font-size:.87rem}nav ol{padding-left:1.4em}a{color:var(--s0)}
.warn{background:var(--warn);border-left:4px solid #d99a2b;padding:.6em .9em;border-radius:4px}
.scroll{overflow-x:auto;margin:0 0 .4em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
.caption{font-weight:600;margin:1.8em 0 .4em}
th,td{padding:.38em 1.1em .38em 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}tbody th{font-weight:500}
td,tbody th{white-space:nowrap}tr>:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
td.long{white-space:normal;overflow-wrap:break-word;min-width:24em;text-align:left;font:.85em ui-monospace,monospace}
small{color:var(--soft);display:block}tbody th small{white-space:normal;font-weight:400}
td.words,td.yes,td.part,td.no,td.open{white-space:normal;min-width:6em}
td.yes,td.part,td.no{font-weight:600}td.yes{color:var(--yes)}td.part{color:var(--s1)}td.no{color:var(--no)}
td.yes,td.part,td.no,td.open{min-width:10em}td small{font-weight:400}tbody th{min-width:12em;white-space:normal}
figure{margin:1.6em 0}figcaption{margin-top:.5em}.row{display:flex;flex-wrap:wrap;gap:12px}
img{flex:0 1 490px;min-width:0;max-width:100%;height:auto;border-radius:6px;align-self:flex-start}
img:only-child{flex-basis:1000px}
svg{flex:0 1 318px;background:var(--panel);border-radius:8px;padding:6px}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .t{fill:var(--ink);font-weight:600;font-size:12px}
svg .e{text-anchor:end}svg .m{text-anchor:middle}svg .n{fill:var(--ink);font-size:16px}
svg .c{fill:var(--s0)}svg .g{stroke:var(--line);fill:none}svg .k{fill:var(--ink);font-size:12px}svg .w{fill:var(--bg)}
svg .s0,svg .s1,svg .s2,svg .s3{fill:none;stroke-width:2}
svg .s0{stroke:var(--s0)}svg .s1{stroke:var(--s1)}svg .s2{stroke:var(--s2)}svg .s3{stroke:var(--s3)}
svg .c0{fill:var(--s0)}svg .c1{fill:var(--s1)}svg .c2{fill:var(--s2)}svg .c3{fill:var(--s3)}
@media print{body{font-size:10pt}figure,table{break-inside:avoid}.scroll{overflow:visible}}
"""


# --- The claims of the papers, and what became of them ---------------------------------------------------------------

def claims_tested(results, studies, scale):
    """What became of each claim: its `evidence`, p corrected (Holm) for all that could be tested, and a verdict."""
    claims = [evidence(results, study, *claim, scale) for study in studies for claim in PRINTED[study]["claims"]]
    for claim, p in zip(claims, holm([None if claim["why"] else claim["p"] for claim in claims])):
        claim["p"] = p
        claim["verdict"] = verdict(claim["claimed"], None if claim["why"] else claim["gain"], p, scale)
        if claim["verdict"].startswith("cannot"):
            claim["why"] = claim["why"] or "too few images or seeds to tell"
    return claims


def evidence(results, study, text, printed, claimed, clean, flattering, scale):
    """One claim, and the numbers behind it; clean, flattering: pairs of jobs, before and after.

    gain: [value, low, high] on real test images alone; largest: of several comparisons the largest, as text; way: the
    gain by the paper's protocol, as text, where that flatters; why: why it cannot be tested, if so.
    """
    arms = {name: results.arm(f"{study}/{name}") for pair in clean for name in pair}
    jobs = [job for name in arms for job in results.seeds(f"{study}/{name}")]
    scratch = any(job["config"].get("model") in PRETRAINED and job.get("weights", "").startswith("none")
                  for job in jobs)
    missing = [name for name, one in arms.items() if one is None]
    seeds = min(len(one.values) if one else 0 for one in arms.values())
    reasons = {
        f"not run: {', '.join(missing[:2])}{' ...' * (len(missing) > 2)}": missing,
        "quick scale": scale == "quick",
        "one seed does not show training's chance": seeds == 1,
        "the networks start from random weights, not ImageNet's": "pretrained" in text and scratch,
        "needs the paper's own scale": is_level(claimed) and scale != "paper"}
    claim = dict(study=study, text=text, printed=printed, claimed=claimed, seeds=seeds, gain=None, largest="", p=None,
                 way="none", why=next((why for why, holds in reasons.items() if holds), ""))
    if not missing:
        pairs = [[arms[name] for name in pair] for pair in clean]
        *claim["gain"], claim["p"] = mean_gain(*pairs)
        if len(pairs) > 1:
            gain, p = max(gains_over(dict(enumerate(pairs))).values(), key=lambda entry: abs(entry[0][0]))
            claim["largest"] = f"largest of {len(pairs)}: {points(gain[0])}, p {p_text(p)}"
    for names in flattering:
        before, after = (results.arm(f"{study}/{job}", test or "real") for job, _, test in
                         (name.partition("@") for name in names))
        if before and after:                                            # on two test sets there is no paired interval
            claim["way"] = points(mean_gain((before, after)) if before.test == after.test else
                                  after.values.mean() - before.values.mean())
    return claim


def claims_table(page, claims, scale):
    rows = []
    for claim in claims:
        here = number(claim["gain"]) if is_level(claim["claimed"]) and claim["gain"] else points(claim["gain"])
        here += f"\n{claim['largest']}" * bool(claim["largest"])
        rows.append([f"{claim['text']}\n{PRINTED[claim['study']]['title'].split(':')[0]}",
                     f"{claim['verdict']}\n{claim['why']}".strip(), here, claim["printed"], claim["way"],
                     p_text(claim["p"]), claim["seeds"] or "none"])
    page.table(f"The papers' claims, on real test images ({scale} scale)",
               ["claim", "verdict", "found here", "printed", "found by the paper's own protocol", "p", "seeds"], rows,
               ["Reproduced: p < .05 and the printed effect lies in the 95 % interval (a claim of no effect: the whole "
                "interval lies within ±2.7 points; of a level: it lies in the interval). Same direction: p < .05 and "
                "the same sign, but another size. Not reproduced: neither, and the printed effect lies outside the "
                "interval. Cannot be tested: p ≥ .05 and the printed effect lies in the interval, or the reason given. "
                "p is corrected for the number of claims (Holm). The paper's own protocol is shown where it flatters: "
                "GAN images in the test, GANs that saw test images, more steps for one arm."])


# --- The controls: what is one GAN image worth? ----------------------------------------------------------------------

CONTROLS = "The controls: what is one GAN image worth?"
GANS = {"wgan_gp": "WGAN-GP (000)", "dcgan_cls": "DCGAN (001)", "acgan": "ACGAN (002)", "cyclegan": "CycleGAN (002)",
        "dermagan": "DCGAN (003)", "dcgan_inception": "DCGAN (004)"}
NETS = {"cnn": "Small CNN", "resnet18": "ResNet-18"}
WIDEST = 10             # an interval of the worth that is wider says nothing
ENDINGS = {"": "real + {}", "_shuffled": "real + {}, labels shuffled", "_alone": "{} alone"}
ARMS = dict(more="real + as many further real", classical="real, classical augmentation", copies="real + copies") | {
    gan + ending: words.format(name) for ending, words in ENDINGS.items() for gan, name in GANS.items()}


def control_arms(results):
    """{(classifier, size in per cent): {arm: Arm}} of the controls that have run. The arm "more" of a size, real + as
    many further real images, is the arm "real" of twice that size: the sets are nested and the steps equal."""
    arms = {}
    for name, test in results.accuracies:
        found = re.fullmatch(rf"controls/({'|'.join(NETS)})_(\d+)/(\w+)", name)
        if found and test == "real":
            arms.setdefault((found[1], int(found[2])), {})[found[3]] = results.arm(name)
    for net, size in arms:
        if "real" in arms.get((net, 2 * size), ()):
            arms[net, size]["more"] = arms[net, 2 * size]["real"]
    return arms


def worth_of(arms, net, gans, sizes=(25, 50, 100)):
    """(worth [x, low, high], gain [value, low, high, p], [(GAN, size), ...] that have run) of these GANs and sizes
    together; None where nothing has run."""
    found = [(gan, size) for size in sizes for gan in gans if {"real", "more", gan} <= set(arms.get((net, size), ()))]
    triples = [[arms[net, size][name] for name in ("real", gan, "more")] for gan, size in found]
    return (worth(triples), mean_gain(*(triple[:2] for triple in triples)), found) if found else None


def worth_text(found, interval=True):
    if not found:
        return "not run"
    x, low, high = found[0]
    if high - low >= WIDEST:
        return "cannot be told\nno clear gain from further real images"
    return f"{x:+.2f}" + f" [{low:+.2f}, {high:+.2f}]" * interval


def is_collapsed(results, gan, size):
    return results.jobs.get(f"controls/{gan}_{size}", {}).get("metrics", {}).get("collapsed", False)


def the_answer(page, results, arms, scale):
    """The lead: whether GAN images helped, what one was worth, and what else would have helped."""
    found = worth_of(arms, "cnn", GANS)
    if not found:
        return page.text("What one GAN image is worth was not measured here: bash run_all.sh controls.", "lead")
    if scale == "quick":
        return page.text("Quick scale shows that everything runs, and answers nothing. For an answer give photographs "
                         "(--data) and --scale small or paper.", "lead")
    (x, low, high), gain, taken = found
    answer = ("Not judged: one training of each arm" if gain[3] is None else "No help is shown" if gain[3] >= 0.05 else
              "Yes, but less than further real images" if gain[0] > 0 and high < 1 else
              "Yes" if gain[0] > 0 else "No, they did harm")
    amount = "what one is worth cannot be told: even the gain from further real images does not stand out from chance"
    if high - low < WIDEST:
        amount = f"one GAN image was worth {x:.2f} of a further real image (95 % interval {low:.2f} to {high:.2f})"
    gans, sizes = dict.fromkeys(gan for gan, _ in taken), dict.fromkeys(size for _, size in taken)
    bad = sum(is_collapsed(results, gan, size) for gan, size in taken)
    page.text(f"{answer}: doubling the training set with GAN images changed a small CNN's accuracy by {points(gain)}, "
              f"and {amount}. Pooled over {len(gans)} GANs and training sets of {', '.join(map(str, sizes))} %; {bad} "
              f"of the {len(taken)} sets of GAN images are of a collapsed GAN.", "lead")
    others = {"classical": "classical augmentation", "more": "as many further real images",
              "copies": "copies of the real images, where any difference is chance,"}
    shown = [f"{words} {points(mean_gain(*((arms['cnn', size]['real'], arms['cnn', size][name]) for size in sizes)))}"
             for name, words in others.items() if all(name in arms["cnn", size] for size in sizes)]
    page.text(f"In as many steps: {'; '.join(shown)}.", "lead")


def controls_section(page, results, arms, scale):
    page.heading(2, CONTROLS, "controls")
    counts = results.jobs.get("controls/data", {}).get("counts", {})
    whole, test = (sum(counts.get(part, {}).values()) for part in ("train", "test"))
    first = {(net, size): results.seeds(f"controls/{net}_{size}/real")[0] for net, size in sorted(arms)
             if "real" in arms[net, size]}
    passes = ", ".join(f"{NETS[net]} at {size} % {job['images_seen'] / sum(job['counts'].values()):.2g}"
                       for (net, size), job in first.items() if "images_seen" in job)
    seeds = sorted({len(one.values) for group in arms.values() for one in group.values()})
    page.text(f"Half of {whole} training images are held back: they show what further real images would give. Of the "
              "rest, 25, 50 and 100 % are a training set each, and each GAN is trained on the same images as the "
              "classifier beside it. All arms of a classifier make the same number of steps and are tested on the same "
              f"{test} real images; classifier seeds per arm: {', '.join(map(str, seeds)) or 'none yet'}. GAN images "
              "are as many as the real ones, class by class; so are the copies and the further real images. The "
              "CycleGAN translates the ACGAN's images. Shuffled: GAN images under permuted labels, a placebo.")
    page.text(f"Passes of the arm real over its images: {passes or 'not run'}. Many passes over few images invite "
              "overfitting, so what only disturbs the training may help: compare the copies and the placebo. After few "
              "passes a network is unfinished, and variety of any kind, real or not, takes longer to learn.", "note")
    rows, pooled_worth = [], {gan: worth_of(arms, "cnn", [gan]) for gan in GANS}
    for gan, name in GANS.items():
        single = [worth_of(arms, "cnn", [gan], [size]) for size in (25, 50, 100)]
        bad = [f"{size} %" for size in (25, 50, 100) if is_collapsed(results, gan, size)]
        rows.append([name + f"\ncollapsed at {', '.join(bad)}" * bool(bad), worth_text(pooled_worth[gan]),
                     *(worth_text(one, False) for one in single), worth_text(worth_of(arms, "resnet18", [gan]))])
    worths = {GANS[gan]: found[0] for gan, found in pooled_worth.items() if found}
    page.figure("First: one GAN image in further real images, 0 is nothing, 1 as good as a real one; 95 % intervals, "
                "small CNN, all sizes. Others: accuracy over the number of real images.",
                svg_intervals("worth of one GAN image", worths), *learning_curves(arms))
    page.table(f"What one GAN image is worth, in further real images ({scale} scale)",
               ["GAN", "small CNN, all sizes", "at 25 %", "at 50 %", "at 100 %", "ResNet-18, all its sizes"], rows,
               ["The gain in accuracy from the GAN's images over that from as many further real ones, both summed over "
                "the sizes that have run. Fieller's interval: it holds the chance of the test lesions and of the "
                "classifiers' training, not that of another GAN."])
    for net in NETS:
        arms_table(page, arms, net, scale)
        measures_table(page, results, arms, net)
    for title, pattern in (
            ("GAN images of each class, trained on 100 %, in the order of the table", "{}_100/grid.png"),
            ("The ten GAN images closest to a training image, above that image; GANs of the smallest training set, in "
             "the order of the table", "{}_25/**/nearest.png")):
        files = [file for gan in GANS for file in sorted((results.out / "controls").glob(pattern.format(gan)))]
        if files:
            page.figure(title, *files)
    gan_table(page, results, "controls")


def arms_table(page, arms, net, scale):
    """Gain of each arm over the real images alone, by size of the training set; p corrected for the whole table."""
    groups = {size: group for (other, size), group in sorted(arms.items())
              if other == net and "real" in group and set(group) - {"real", "more"}}
    gains = gains_over({(size, name): (group["real"], group[name])
                        for size, group in groups.items() for name in ARMS if name in group})
    rows = [["real alone: accuracy", *(number(mean_gain([group["real"]])[:3]) for group in groups.values())]]
    for name, words in ARMS.items():
        row = [words]
        for size in groups:
            gain, p = gains.get((size, name), (None, None))
            judged = "" if not gain or scale == "quick" else f"\n{called(gain, p, scale)}, p {p_text(p)}"
            row.append(points(gain) + judged)
        if set(row[1:]) - {"not run"}:
            rows.append(row)
    if groups:
        page.table(f"{NETS[net]}: gain in accuracy over the real images alone ({scale} scale)",
                   ["arm", *(f"{size} % of the training set" for size in groups)], rows,
                   ["95 % intervals; the spread of a training is pooled over sizes, apart for real images, real + "
                    "GAN, placebos and GAN images alone; p is corrected (Holm) for all comparisons of this table. "
                    "Copies are the same images twice: any difference there is chance."])


def measures_table(page, results, arms, net):
    keys = dict(accuracy="accuracy", balanced_accuracy="balanced accuracy", auc="AUC",
                sensitivity_at_90="sensitivity at 90 % specificity")
    rows = [[words, *(results.value(f"controls/{net}_100/{name}", "real", key) for key in keys)]
            for name, words in (dict(real="real alone") | ARMS).items()
            if name != "more" and name in arms.get((net, 100), ())]
    if rows:
        page.table(f"{NETS[net]}: more measures of the arms at 100 %", ["arm", *keys.values()], rows)


def learning_curves(arms):
    """Accuracy of the small CNN over the number of real images, a chart for each GAN."""
    charts, groups = [], {size: group for (net, size), group in sorted(arms.items()) if net == "cnn"}
    for gan, name in GANS.items():
        keys = {"real": "real", "+ GAN": gan, "shuffled": f"{gan}_shuffled", "alone": f"{gan}_alone"}
        known = {label: [(size, group[key].values.mean()) for size, group in groups.items() if key in group]
                 for label, key in keys.items()}
        lines = [(label, *zip(*values)) for label, values in known.items() if values]
        charts += [svg_lines(f"{name}: accuracy", lines, "real images, %")] if lines else []
    return charts


# --- The report ------------------------------------------------------------------------------------------------------

def report(out):
    """Write report.md and report.html from the finished jobs in `out`, and return the path of the HTML page."""
    results = Results(out)
    if not results.jobs:
        raise UserError(f"{out} holds no finished job STUDY/JOB of run_all.sh: run `bash run_all.sh` first")
    page, controls = Page(results.out), control_arms(results)
    made = results.out / "run.txt"                  # written by run_all.sh when it first starts in a folder
    scale = made.read_text().split()[1] if made.exists() else "unstated"
    begun = {name.split("/")[0] for name in results.jobs}
    studies = [study for study in PRINTED if study in begun]
    page.heading(1, "Do GAN images help a skin-lesion classifier?")
    the_answer(page, results, controls, scale)
    if studies:
        claims_table(page, claims_tested(results, studies, scale), scale)
    waiting = [f"{study} ({PRINTED[study]['title'].split(':')[0]})" for study in PRINTED if study not in begun]
    if waiting:
        page.text(f"Not run here, so their claims are not judged: {', '.join(waiting)}.", "note")
    what_was_run(page, results, scale)
    page.contents([*[("controls", CONTROLS)] * ("controls" in begun),
                   *((study, PRINTED[study]["title"]) for study in studies), ("jobs", "Every job")])
    if "controls" in begun:
        controls_section(page, results, controls, scale)
    for study in studies:
        page.heading(2, PRINTED[study]["title"], study)
        the_question(page, results, study, scale)
        figures(page, results, study)
        printed_tables(page, results, study, scale)
        page.bullets("What else does not fit in the printed paper", PRINTED[study]["audit"])
        gan_table(page, results, study)
        if "layers" in PRINTED[study]:
            layer_tables(page, results, study)
    page.heading(2, "Every job", "jobs")
    page.text("To rerun a cell, delete its job's folder and give its command with the Python that `bash run_all.sh "
              "list` shows, or start run_all.sh again.")
    page.table("Finished jobs", ["job", "seconds", "optimiser steps", "command"],
               [[name, job["seconds"], job.get("steps", "none"), job.get("command", "not recorded")]
                for name, job in results.jobs.items()])
    head = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
            f'initial-scale=1"><title>Do GAN images help?</title><style>{STYLE}</style><main>')
    for name, lines in (("report.md", page.markdown), ("report.html", [head, *page.html, "</main></html>"])):
        with data.replacing(results.out / name) as file:
            file.write("\n".join(lines).encode())
    return results.out / "report.html"


def what_was_run(page, results, scale):
    jobs = list(results.jobs.values())
    prepared = {name: job for name, job in results.jobs.items() if isinstance(job.get("source"), dict)}
    sources = sorted({job["source"]["source"] for job in prepared.values()})
    copies = sum(job["source"].get("copies_dropped", 0) for job in prepared.values())
    parents = {name.rsplit("/", 1)[0] for name in results.jobs}         # their seconds are those of their sub-folders
    work = data.readable_time(sum(job["seconds"] for name, job in results.jobs.items() if name not in parents))
    versions = ", ".join(f"{name} {version}" for name, version in jobs[-1]["versions"].items())
    devices, commits = ("; ".join(sorted({job[key] for job in jobs})) for key in ("device", "commit"))
    page.text(f"Scale: {scale}. Data: {', '.join(sources) or 'none yet'}"
              f"{f', without {copies} copies of test images' if copies else ''}. {len(jobs)} jobs, {work} of job "
              f"time in all. Machine: {devices}. {versions}. Code: {commits}. "
              f"Written {time.strftime('%Y-%m-%d %H:%M')}.", "soft")
    checked = {name: job["leaked"] for name, job in results.jobs.items() if "leaked" in job}
    leaky = [name for name, leak in checked.items() if leak != 0]
    near = [f"{name} {job['source'].get('near_test', 'not counted')}"
            f"{', left out' * (job['config'].get('drop_near', False) and job['source'].get('near_test') != 0)}"
            for name, job in prepared.items()]
    page.text(f"Leaks: {len(checked)} classifiers used a GAN; for {len(checked) - len(leaky)} it saw no validation or "
              f"test image, by pixels and names{'; the others: ' * bool(leaky)}{', '.join(leaky)}. Training and "
              f"validation images that nearly equal a test image: {'; '.join(near) or 'no data yet'}.", "soft")
    if any(source.startswith("built-in") for source in sources):
        page.text("These are computer-drawn lesions, not photographs: where this page says real images, it means drawn "
                  "ones, as against those of a GAN. The numbers show that the code runs, and nothing about skin.",
                  "warn")
    if scale == "quick":
        page.text("Quick scale: narrow networks and few steps, to show that everything works. "
                  "No number here can be compared with a printed one.", "warn")


def by_seed(before, after, classes):
    """The exact tests of single trainings, seed beside seed, as text: they know the chance of the test images alone."""
    texts = []
    for (labels, a, _), (_, b, _) in zip(before, after):
        p = mcnemar(a.argmax(1) == labels, b.argmax(1) == labels)
        texts.append(p_text(p) + (f", {p_text(delong(labels, a[:, 1], b[:, 1])[2])}" if classes == 2 else ""))
    return "\n".join(texts)


def the_question(page, results, study, scale):
    """Real images against real and GAN images (or what else the study adds), on the same real test images."""
    paper, rows, verdicts, longer, test, classes = PRINTED[study], [], [], [], np.zeros(0, int), 2
    helper, sides = paper.get("help", "GAN images"), paper.get("sides", ("real", "real + GAN"))
    pairs = {label: [results.arm(f"{study}/{name}") for name in names] for label, *names in paper["arms"]}
    gains = gains_over({label: pair for label, pair in pairs.items() if all(pair)})
    for label, *names in paper["arms"]:
        shown = ["not run"] * 4
        if label in gains:
            gain, p = gains[label]
            before, after = (results.predictions(f"{study}/{name}", "real")[0] for name in names)
            test, classes = before[0][0], before[0][1].shape[1]
            shown = [points(gain), called(gain, p, scale), p_text(p), by_seed(before, after, classes)]
            verdicts.append(shown[1])
            without, with_gan = (results.seeds(f"{study}/{name}")[0]["steps"] for name in names)
            longer += [label] * (with_gan > without)
        rows.append([label, *shown, *(results.value(f"{study}/{name}", "real", "accuracy") for name in names)])
    page.text(f"Printed claim: {paper['claim']}")
    if any(not one.startswith("not judged") for one in verdicts):
        page.text(f"Here, on real test images only: with {helper} {verdicts.count('better')} of {len(verdicts)} "
                  f"classifiers got better, {verdicts.count('worse')} worse, and for "
                  f"{verdicts.count('no difference shown')} no difference is shown.", "lead")
    notes = ["95 % intervals: lesions by bootstrap, paired for the gain; classifier seeds by Student's t, their spread "
             "pooled over the arms of this study with the same network; there is one GAN of each kind. p: corrected "
             "(Holm) for this table. By seed: one training against one, by exact McNemar"
             f"{' and, for the AUC, by DeLong' * (classes == 2)}, which take each image for a lesion of its own."]
    if longer:
        notes += [f"With {helper} there were more optimiser steps, so the comparison leans that way: "
                  f"{', '.join(longer)}."]
    if len(test):
        largest = number(np.bincount(test).max() / len(test))
        rows.append(["always the larger class", "+0.0 points", "by definition", "none", "none", largest, largest])
    page.table(f"Accuracy on {f'the {len(test)} ' * (len(test) > 0)}real test images ({scale} scale, mean over seeds)",
               ["classifier", f"gain from {helper}", "verdict", "p", "p by seed", *sides], rows,
               notes + provenance(results, study, [name for _, *names in paper["arms"] for name in names]))


def provenance(results, study, arms):
    """Notes on what the shown arms had to replace (data, weights), and on test images that a GAN has seen."""
    notes = [f"Stand-in data: {job['source']['stand_in']}" for name in ("data", "data_full")
             for job in results.seeds(f"{study}/{name}") if job["source"].get("stand_in")]
    jobs = {arm.split("/")[0]: job for arm in arms for job in results.seeds(f"{study}/{arm}")[:1]}
    scratch = [arm for arm, job in jobs.items() if job["config"].get("model") in PRETRAINED
               and job.get("weights", "").startswith("none")]
    if scratch:
        notes.append(f"Trained from random weights, not from ImageNet's: {', '.join(scratch)}.")
    for arm, job in jobs.items():
        if job.get("leaked", 0) != 0:
            notes.append(f"{arm}: its GAN was trained on {job['leaked'] or 'nobody knows how many'} of the validation "
                         "and test images.")
        if "floor_n" in job:
            notes.append(f"{job['net']}: {job['provenance']}; noise floor (real images against each other) "
                         f"{job['floor']:.2f} at n {job['floor_n']}.")
    return list(dict.fromkeys(notes))


def layer_tables(page, results, study):
    """The printed layer tables beside the networks as built."""
    tables = next((job["tables"] for job in results.seeds(f"{study}/networks")), {})
    for table, title, px, text in PRINTED[study]["layers"]:
        printed, missing = layers_of(text), "not run: networks"
        built = next((rows for name, rows in tables.items() if name.startswith(f"Table {table}")), [])
        ours = [("×".join(map(str, shape)), f"{count:,}") for _, shape, count in built]
        ours = ours or [(missing, missing)] * len(printed)
        rows = [[layer, shape.replace("x", "×"), our_shape, printed_value(count), our_count]
                for (layer, shape, count), (our_shape, our_count) in zip(printed, ours)]
        total, ours = sum(int(count.rstrip("abcd")) for *_, count in printed), sum(count for *_, count in built)
        rows.append(["total", f"{px} px image", "64 px image", f"{total:,}", f"{ours:,}" if built else missing])
        page.table(f"Table {table}. {title}", ["layer", "output, printed", "ours", "parameters, printed", "ours"],
                   rows, explain(study, (count for *_, count in printed)))
    page.text("The printed shapes of Tables 1 and 2 belong to images of 128 and 224 px, but the generator of Table 3 "
              "makes 64 px.", "note")


def explain(study, values):
    """The reasons behind the marks on printed values."""
    marks = PRINTED[study]["marks"]
    return [f"({mark}) {marks[mark]}" for mark in sorted(set("".join(values)) & set(marks))]


def printed_tables(page, results, study, scale):
    """Each printed table in the paper's shape, ours beside printed, in each protocol that it has."""
    for table in PRINTED[study]["tables"]:
        variants = [(title, test, cells_of(table, ending)) for title, test, ending in table.get("variants", OURS)]
        columns, heads, rows, values, arms = table.get("columns", ("",)), table.get("heads", ("",)), [], [], []
        wide, header = len(columns) > 3, ["measure" if "job" in table else ""]      # wide: ours and printed in one cell
        for c, column in enumerate(columns):
            what = re.sub("count:|:?{}", "", column).replace("_", " ").replace(":", " ").replace("%", " in %")
            what = f"{heads[c * len(heads) // len(columns)]}: {what}".removeprefix(": ")
            titles = ["printed", *(title for title, *_ in variants)][:2 if column == "val_accuracy" else None]
            header += [what] if wide else [f"{what}, {title}".strip(", ") for title in titles]
        for r, (label, printed) in enumerate(variants[0][2]):
            row = [label]
            for c, (value, _, measure) in enumerate(printed):
                shown = []
                for _, test, cells in variants[:1 if measure == "val_accuracy" else None]:      # always a real one
                    arm, _, own_test = cells[r][1][c][1].partition("@")
                    arms.append(arm)
                    shown.append(results.value(f"{study}/{arm}", own_test or test, measure))
                values.append(value)
                text = printed_value(value)
                row += [f"{shown[0]}\n{'printed ' * (text[0] != 'n')}{text}"] if wide else [text, *shown]
            rows.append(row)
        caption = "Ours" if table["id"] == "ours" else f"Table {table['id']}"
        notes = [*explain(study, values), *filter(None, [table.get("note")]), *provenance(results, study, arms)]
        page.table(f"{caption}. {table['title']} (ours: {scale} scale)", header, rows, notes)
    if "note" in PRINTED[study]:
        page.text(PRINTED[study]["note"], "note")


SCORES = dict(d_real="D(x)", d_fake="D(G(z))")      # of a critic; other GANs have losses


def loss_curves(job):
    return [key for key in job["curves"] if key not in ("window", "diversity", "penalty")]


def gan_table(page, results, study):
    """How each GAN of the study ended, and whether it copies."""
    rows = []
    for name, job in results.jobs.items():
        values = job.get("metrics", {})
        if name.startswith(study + "/") and name.count("/") == 1 and "diversity" in values:
            distance = "not measured" if "kid_8x8" not in values else (
                "{fd_8x8:.3f}\nnoise floor {fd_8x8_floor:.3f}\nKID {kid_8x8:.2g}, n {fd_8x8_n}".format(**values))
            losses = [f"{SCORES.get(key, key)} {values[key]:.2f}" for key in loss_curves(job)] or ["one GAN per class"]
            copying = job.get("copying", {}).get("closer_to_train")
            rows.append([name.split("/", 1)[1], job["steps"], f"{losses[0]}\n{', '.join(losses[1:])}".strip(),
                         number(values["diversity"], 2), distance, number(copying, 2) if copying else "not measured",
                         "COLLAPSED" if values["collapsed"] else "no"])
    page.table("The GANs (ours)", ["GAN", "generator steps", "last losses or scores", "diversity", "FD-8x8",
                                   "nearer to training images", "collapsed"], rows or [["not run"] * 7],
               ["D(x), D(G(z)): the critic's mean score of real and of GAN images. Diversity: mean distance between "
                "two samples over that between two real images; below 0.35 counts as collapsed. FD-8x8: Frechet "
                "distance to the training images in the mean colours of an 8 x 8 grid, which needs no network and is "
                "no FID; the noise floor is the distance of the real images to each other at the same n. Nearer to "
                "training images: the share of GAN images whose nearest real image (16 x 16 px) is a training image, "
                "not one of as many test images; 0.5 without copying."])


def figures(page, results, study):
    for figure, title, kind, names in PRINTED[study]["figures"]:
        caption, parts = f"Figure {figure}. {title}" if figure else title, []
        for name in names.split():
            jobs = results.arms.get(f"{study}/{name}")
            shown = drawn(results, study, name, kind) if jobs else []
            caption += "" if shown else f" ({'nothing to show of' if jobs else 'not run:'} {name})"
            parts += shown
        if figure in PRINTED[study].get("matrices", ()):
            parts.append(svg_matrix("printed", *PRINTED[study]["matrices"][figure]))
        page.figure(caption, *parts)


def drawn(results, study, name, kind):
    """The charts of one job, or else its pictures (of its first seed)."""
    job = results.seeds(f"{study}/{name}")[0]
    if kind == "gan":
        return gan_curves(name, job)
    if kind == "dose":
        return dose_chart(results, study, name)
    if kind in ("curves", "training", "confusion", "roc"):
        charts = classifier_curves(results, study, name, job)
        return sum(charts.values(), []) if kind == "curves" else charts[kind]
    if kind == "counts":
        counts = job["counts"] if "train" in job["counts"] else {"train": job["counts"]}
        classes = dict.fromkeys(label for part in counts.values() for label in part)
        rows = [(label, {part: n.get(label, 0) for part, n in counts.items()}) for label in classes]
        return [svg_bars("images", rows)]
    if kind == "lr_finder":
        found = job.get("lr_finder")            # none where the learning rate was given
        return [svg_lines(f"chosen: {found['chosen']:.2g}", [("loss", np.log10(found["lrs"]), found["losses"])],
                          "log10 of the learning rate")] if found else []
    if kind == "distance":
        net, rows = job["net"], job["rows"]
        steps = [int(re.sub(r"\D", "", str(row["set"]))) for row in rows]
        lines = [(net, steps, [row["distance"] for row in rows]), ("noise floor", steps, [job["floor"]] * len(rows))]
        score = "Inception score" if net == "FID" else net.replace("FD", "IS", 1)
        kid_line = [("KID", steps, [row["kid"] for row in rows])]
        return [svg_lines(f"{net} to the real images", lines, "generator step"),
                svg_lines("KID" if net == "FID" else net.replace("FD", "KID", 1), kid_line, "generator step"),
                svg_lines(score, [("score", steps, [row["is"][0] for row in rows])], "generator step")]
    files = sorted((results.out / results.arms[f"{study}/{name}"][0]).glob(f"{kind.replace('steps', 'grid_*')}.png"))
    if kind == "steps" and files:               # the first, those nearest 13 % and 33 %, and the last
        steps = [int(file.stem.split("_")[1]) for file in files]
        nearest = [min(steps, key=lambda step: abs(step - share * steps[-1])) for share in (0, 0.13, 0.33, 1)]
        files = [files[steps.index(step)] for step in dict.fromkeys(nearest)]
    return files


def classifier_curves(results, study, name, job):
    """Accuracy and loss while training, a confusion matrix and a ROC curve for each test."""
    curves, charts, rates = job["curves"], dict(training=[], confusion=[], roc=[]), []
    epochs = np.arange(1, len(curves["loss"]) + 1)
    for what in ("accuracy", "loss"):
        lines = [("train", epochs, curves[what]), ("validation", epochs, curves[f"val_{what}"])]
        charts["training"].append(svg_lines(f"{name}: {what}", lines, "epoch"))
    for test in job["metrics"]:
        runs, classes = results.predictions(f"{study}/{name}", test)
        labels, chances, _ = runs[0]
        matrix = confusion(labels, chances.argmax(1), len(classes))
        charts["confusion"].append(svg_matrix(f"{name}: {test} test", matrix, classes))
        rates.append((f"{test} test", *roc_curve(labels, chances[:, 1])))
    if len(classes) == 2:
        charts["roc"] = [svg_lines(f"{name}: ROC, {classes[1]} positive", rates, "false positive rate", (0, 1))]
    return charts


def dose_chart(results, study, name):
    """Accuracy, and melanoma's recall where it is one of many classes, over what the job's sub-folders vary."""
    points = []
    for arm in (arm for arm in results.arms if arm.startswith(f"{study}/{name}/")):
        runs, classes = results.predictions(arm, "real")
        option, value = re.fullmatch(r"(.*?)([\d.]+)", arm.rsplit("/", 1)[1]).groups()
        shown = ["accuracy", "recall:MEL"] if len(classes) > 4 and "MEL" in classes else ["accuracy"]
        means = [np.mean([measures(*run[:2], None, classes)[key] for run in runs]) for key in shown]
        points.append((float(value), *means))
    if not points:
        return []
    xs, *lines = zip(*sorted(points))
    return [svg_lines(name, [(key.replace(":", " "), xs, ys) for key, ys in zip(shown, lines)], option)]


def gan_curves(name, job):
    """Losses (or a critic's scores), two to a chart, and the diversity of the samples."""
    curves, title = job["curves"], name + " COLLAPSED" * bool(job["metrics"].get("collapsed"))
    lines = [(SCORES.get(key, key), np.arange(1, len(curves[key]) + 1) * curves["window"], curves[key])
             for key in loss_curves(job)]
    charts = [svg_lines(title, lines[k:k + 2], "generator step") for k in range(0, len(lines), 2)]
    spread = [("diversity", *np.transpose(curves["diversity"]))]
    return charts + [svg_lines(f"{name}: diversity (1 = as real images)", spread, "generator step")]


# --- Command line ----------------------------------------------------------------------------------------------------

def read_features(path, size, net):
    """(features, name of the distance, side of the images) of an image set, or of a feature array."""
    path = Path(path)
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False), "FD", None
        except (OSError, ValueError, EOFError) as problem:
            raise UserError(f"{path} is not a feature array ({problem})") from None
    images = data.load(path, size if path.suffix != ".npz" else None).images
    if net is None:
        return colour_features(images), "FD-8x8", images.shape[1]
    return fid_features(images, net)[0], "FID", images.shape[1]


def fid_command(args):
    arrays = args.a.endswith(".npy") and args.b.endswith(".npy")
    if args.net not in ("inception", "none") and not Path(args.net).is_file():
        raise UserError(f"--net {args.net}: give inception, none or a weights file")
    net = None if arrays or args.net == "none" else fid_network(args.net if args.net != "inception" else None)
    (a, name, side), (b, other, other_side) = (read_features(path, args.size, net) for path in (args.a, args.b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or (name, side) != (other, other_side):
        raise UserError(f"{args.a} gives {name} features of shape {a.shape} (images of {side} px), {args.b} {other} of "
                        f"shape {b.shape} ({other_side} px): they cannot be compared")
    distance, floor, n = distance_with_floor(a, b)
    weights = FID_FILE if args.net == "inception" else args.net
    meaning = {"FD-8x8": "mean colours of an 8 x 8 grid; not an FID", "FD": "of the given features",
               "FID": f"weights {weights}; images of {side} px, resized to 299 (bilinear)"}[name]
    print(f"{name} {distance:.4f}   noise floor {floor:.4f} (A against itself)   n {n} a side   "
          f"KID {kid(a, b):.5f} (n {len(a)}, {len(b)})   {meaning}")


def audit_command(args):
    printed = dict(pair.partition("=")[::2] for pair in args.values)
    known = "sensitivity specificity precision accuracy f1".split()
    if not set(printed) <= set(known):
        raise UserError(f"{' '.join(args.values)}: give values as MEASURE=VALUE, the measures being {', '.join(known)}")
    if (args.n is None) == (args.sizes is None):
        raise UserError("give either --n, all the test images, or --sizes, the positives and the negatives")
    for cut in (False, True):
        if list(printed) == ["accuracy"]:
            n = args.n or sum(args.sizes)
            found = (f"{k} of {n} right" for k in counts(printed["accuracy"], n, cut))
        else:
            found = (f"positives: {tp} right, {fn} wrong; negatives: {tn} right, {fp} wrong"
                     for tp, fn, fp, tn in matrices(printed, args.n, args.sizes, cut))
        lines = [*islice(found, 10), *("..." for _ in islice(found, 1))]
        if lines:
            return print("\n".join(["values cut off, not rounded:"] * cut + lines))
    print("no integer counts give these values")


def main():
    parser = data.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("fid", help="Frechet distance and KID of two sets, with the noise floor at the same n")
    p.set_defaults(run=fid_command)
    p.add_argument("a", help="real images: folder, zip, image set, or feature array (.npy, n x d)")
    p.add_argument("b", help="generated images, likewise")
    p.add_argument("--net", default="inception", help="inception (default): FID; none: FD-8x8; or a weights file")
    p.add_argument("--size", type=data.at_least(8), default=64, help="side to decode image files to (%(default)s)")
    p = commands.add_parser("report", help="report.html and report.md")
    p.set_defaults(run=lambda args: print(f"report: {report(args.out)}"))
    p.add_argument("out", help="results folder")
    p = commands.add_parser("audit", help="the integer counts behind printed values of a two-class test")
    p.set_defaults(run=audit_command)
    p.add_argument("values", nargs="+", metavar="MEASURE=VALUE",
                   help="sensitivity, specificity, precision, accuracy or f1, as printed: .9201 or 92.01%%")
    p.add_argument("--n", type=data.at_least(1), help="all the test images, for any class sizes")
    p.add_argument("--sizes", type=data.at_least(0), nargs=2, metavar=("POSITIVES", "NEGATIVES"), help="of each class")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    data.run_cli(main)
