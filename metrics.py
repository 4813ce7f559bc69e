"""metrics.py: labels and features in, numbers out. Knows nothing of training.

    python metrics.py compare runs/real runs/hybrid        two classifiers on the same test images
    python metrics.py fid real_photos/ gan_images/         FID, KID and noise floor of two sets
    python metrics.py fid real_photos/ gan_images/ --net none      the same in mean colours: no FID

Every interval on the report's pages is made by `combine` below; start there.
"""
import csv
import functools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import inception_v3

import data
import jobs
from jobs import UserError

DRAWS = 1000                # bootstrap draws of the test lesions


# ---- Measures of one classifier -------------------------------------------------------------------------

def confusion(labels, predicted, k):
    """(k, k) counts: row = true class, column = predicted class."""
    return np.bincount(np.asarray(labels) * k + predicted, minlength=k * k).reshape(k, k)


def measures(labels, chances, classes, weights=None):
    """{measure: float, or (b,)}; nan where undefined. Of two classes also the AUC of the second.

    labels (n,), chances (n, k); weights: (b, n) for b weighted versions of the test set at once.
    """
    k, labels, predicted = len(classes), np.asarray(labels), chances.argmax(1)
    matrix = confusion(labels, predicted, k)
    if weights is not None:
        matrix = (weights @ np.eye(k * k)[labels * k + predicted]).reshape(-1, k, k)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    found, present = matrix.sum(-2), matrix.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, f1 = hits / present, hits / found, 2 * hits / (found + present)
        values = {"accuracy": hits.sum(-1) / present.sum(-1),
                  "balanced accuracy": np.nansum(recall, -1) / (present > 0).sum(-1)}
    for c, name in enumerate(classes):
        values[f"recall {name}"] = recall[..., c]
        values[f"precision {name}"] = precision[..., c]
        values[f"f1 {name}"] = f1[..., c]
    if k == 2:
        values["auc"] = auc(labels, chances[:, 1], weights)
    return values


def auc(labels, scores, weights=None):
    """Area under the ROC curve: P(a positive scores above a negative), ties count half."""
    order = np.argsort(scores, kind="stable")
    labels, scores = np.asarray(labels)[order], np.asarray(scores)[order]
    weights = np.ones((1, len(order))) if weights is None else weights[:, order]
    starts = np.flatnonzero(np.diff(scores, prepend=-np.inf))       # first image of each distinct score
    positive = np.add.reduceat(weights * labels, starts, axis=1)
    negative = np.add.reduceat(weights * (1 - labels), starts, axis=1)
    with np.errstate(invalid="ignore"):
        below = negative.cumsum(1) - negative / 2
        area = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return area if len(area) > 1 else area[0]


def roc_curve(labels, scores):
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), at every image in falling order."""
    labels = np.asarray(labels)[np.argsort(-np.asarray(scores), kind="stable")]
    positive, negative = labels.cumsum() / max(labels.sum(), 1), (1 - labels).cumsum() / max((1 - labels).sum(), 1)
    return np.r_[0, negative], np.r_[0, positive]


def log_loss(labels, chances):
    return float(-np.log(chances[np.arange(len(labels)), labels].clip(1e-12)).mean())


# ---- Intervals ------------------------------------------------------------------------------------------

class Arm(NamedTuple):
    """One measure of one arm: the same training, repeated with several seeds."""
    values: np.ndarray      # (seeds,)
    boot: np.ndarray        # (seeds, draws): the same on test lesions drawn anew, the same draws for all arms
    lesions: int            # how many the measure is taken over
    test: str               # hash of the test images: only arms with the same can be compared


@functools.lru_cache(maxsize=4)     # all arms on one test set use the same draws
def lesion_weights(groups, draws=DRAWS):
    """(draws, n): how often each image counts when lesions, not pictures, are drawn with replacement."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    rng = np.random.default_rng(0)
    drawn = np.stack([np.bincount(rng.integers(lesions, size=lesions), minlength=lesions) for _ in range(draws)])
    return drawn[:, member].astype(float)


def arms_of(runs, classes):
    """{measure: Arm} of one arm's runs [(labels (n,), chances (n, k), groups (n,)), ...], one per seed."""
    labels, _, groups = runs[0]
    tests = {data.hash_of(repr((run[0].tolist(), list(run[2]))).encode()) for run in runs}
    if len(tests) > 1:
        raise UserError("the seeds of an arm must have the same test images in the same order")
    plain = [measures(*run[:2], classes) for run in runs]
    drawn = [measures(*run[:2], classes, lesion_weights(tuple(groups))) for run in runs]
    of_class = {name: len(set(groups[labels == c])) for c, name in enumerate(classes)}
    arms = {}
    for name in plain[0]:
        kind, _, label = name.partition(" ")
        lesions = len(set(groups)) if name == "accuracy" else min(of_class.values())
        if label in of_class:
            lesions = of_class[label]
        if kind == "precision":
            lesions = min(lesions, min((run[1].argmax(1) == classes.index(label)).sum() for run in runs))
        arms[name] = Arm(np.array([one[name] for one in plain], float),
                         np.array([one[name] for one in drawn], float), int(lesions), min(tests))
    return arms


def combine(arms, weights):
    """(value, variance, degrees of freedom) of sum weights[name] * mean over seeds of arms[name].

    Two sources of chance. *Lesions*: which ones the test set happens to hold; the variance over the bootstrap
    draws of the whole sum, so that what is easy for all arms cancels. *Trainings*: how each happened to go;
    an arm's variance over its seeds, divided by their number. What one seed gets wrong on its own is in
    both: it is taken off the lesions, and is the least that the trainings can have. An arm with one
    seed says nothing of its trainings: degrees of freedom 0. Else Satterthwaite's: total^2 / sum part^2 / df.

    For example, accuracies .80 .82 .84 without and .85 .86 .87 with GAN images, 400 test lesions, bootstrap
    deviation of the gain .012, of which .004 is the seeds' own: gain .04; lesions .012^2 - .004^2 = .000128,
    trainings .02^2 / 3 + .01^2 / 3 = .000167, own .000016, so variance .000295 (deviation .017), of
    degrees of freedom .000295^2 / (.000128^2 / 399 + .000133^2 / 2 + .000033^2 / 2) = 9.2; Student's t 2.26;
    95 % interval .04 +- .039.
    """
    if len({arms[name].test for name in weights}) > 1:
        raise UserError("only arms on the same test images can be compared")
    value = sum(weight * arms[name].values.mean() for name, weight in weights.items())
    drawn = sum(weight * arms[name].boot.mean(0) for name, weight in weights.items())
    own, trainings = 0.0, []
    for name, weight in weights.items():
        seeds = len(arms[name].values)
        if seeds > 1 and weight:
            apart = arms[name].boot - arms[name].boot.mean(0)
            own += weight ** 2 * np.nanvar(apart, 1).sum() / (seeds - 1) / seeds
            trainings.append((weight ** 2 * arms[name].values.var(ddof=1) / seeds, seeds - 1))
    lesions = min(arms[name].lesions for name in weights)
    parts = [(max(np.nanvar(drawn) - own, 0), max(lesions - 1, 1))]
    if sum(part for part, _ in trainings) > own:
        parts += trainings
    else:
        parts.append((own, max(lesions - 1, 1)))
    variance = sum(part for part, _ in parts)
    if any(len(arms[name].values) == 1 for name in weights):
        return value, variance, 0
    return value, variance, variance ** 2 / max(sum(part ** 2 / df for part, df in parts), 1e-300)


def difference(arms, weights):
    """[value, low, high, p]: 95 % interval and two-sided p of a sum of arms against 0. p None: one seed."""
    if any(np.isnan(arms[name].values).any() for name in weights):
        return [None] * 4
    value, variance, df = combine(arms, weights)
    if not any(weights.values()):                   # an arm against itself
        return [0.0, 0.0, 0.0, 1.0]
    lesions = min(arms[name].lesions for name in weights)
    deviation = max(np.sqrt(variance), 0.5 / max(lesions, 1))       # half a lesion is the least that chance moves
    student = scipy.stats.t(df) if df else scipy.stats.norm()
    half = deviation * student.ppf(0.975)
    p = float(2 * student.sf(abs(value) / deviation)) if df else None
    return [float(value), float(value - half), float(value + half), p]


def gain(arms, before, after):
    """difference() of the mean of the arms named in `after` to the mean of those in `before`."""
    weights = dict.fromkeys([*before, *after], 0.0)
    for name in before:
        weights[name] -= 1 / len(before)
    for name in after:
        weights[name] += 1 / len(after)
    return difference(arms, weights)


def level(arm):
    """[value, low, high] of one arm: Wilson's interval for as many lesions as give the variance of combine.

    So it stays within 0 and 1, and has a width even where every lesion is right. None where undefined.
    """
    if np.isnan(arm.values).any() or arm.lesions < 1:
        return None
    value, variance, df = combine({"": arm}, {"": 1.0})
    n = arm.lesions
    if variance > 0 and 0 < value < 1:
        n = value * (1 - value) / variance
    squared = (scipy.stats.t(df) if df else scipy.stats.norm()).ppf(0.975) ** 2
    middle = (value + squared / (2 * n)) / (1 + squared / n)
    half = np.sqrt(squared) / (1 + squared / n) * np.sqrt(value * (1 - value) / n + squared / (4 * n * n))
    return [float(value), float(max(middle - half, 0)), float(min(middle + half, 1))]


def evaluate(labels, chances, groups, classes):
    """What result.json keeps of one test: n, confusion matrix, loss, and each measure with its interval."""
    matrix = confusion(labels, chances.argmax(1), len(classes))
    values = dict(n=len(labels), confusion=matrix.tolist(), loss=log_loss(labels, chances),
                  majority=float(matrix.sum(1).max() / len(labels)))
    arms = arms_of([(np.asarray(labels), chances, np.asarray(groups))], classes)
    return values | {name: level(arm) for name, arm in arms.items()}


def wilson(successes, n):
    """[proportion, low, high]"""
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return [successes / n, float(interval.low), float(interval.high)]


def holm(ps):
    """p values corrected for their number (Holm 1979), in the same order; None stays None, uncounted."""
    order = sorted((k for k, p in enumerate(ps) if p is not None), key=lambda k: ps[k])
    corrected, largest = list(ps), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[k]))
        corrected[k] = largest
    return corrected


def worth(arms, triples):
    """[x, low, high]: what one GAN image is worth in further real images, or infinite ends.

    triples: names of (real, real + GAN, real + as many further real images); x is the ratio of the two gains,
    each summed over the triples. The interval is Fieller's: every x at which gain of GAN images - x * gain
    of real ones does not differ from 0. Infinite where real images' own gain is not clear.
    """
    def at(of_gan, of_real):
        weights = dict.fromkeys([name for triple in triples for name in triple], 0.0)
        for real, with_gan, with_real in triples:
            weights[with_gan] += of_gan
            weights[with_real] += of_real
            weights[real] -= of_gan + of_real
        return difference(arms, weights)

    def end(step):
        while at(1, -x - step)[3] > 0.05:
            step *= 2
        return float(scipy.optimize.brentq(lambda y: at(1, -y)[3] - 0.05, x, x + step))

    of_real, _, _, p = at(0, 1)
    x = at(1, 0)[0] / of_real if of_real else np.nan
    if of_real <= 0 or p is None or p >= 0.05:
        return [x, -np.inf, np.inf]
    return [x, end(-1), end(1)]


def read_predictions(folder, test="real"):
    """((labels, chances, groups), classes) of one test in a job's predictions.csv; None if it has no such test."""
    file = Path(folder) / "predictions.csv"
    try:
        with open(file, newline="") as opened:
            (_, _, _, _, *classes), *rows = csv.reader(opened)
        rows = [row for row in rows if row[0] == test]
        labels = np.array([classes.index(row[3]) for row in rows], int)
        chances = np.array([row[4:] for row in rows], float).reshape(len(rows), len(classes))
        assert np.isfinite(chances).all()
    except (OSError, ValueError, IndexError, AssertionError) as problem:
        raise UserError(f"{file} cannot be used ({problem}): delete its folder to run that job again") from None
    if not rows:
        return None
    return (labels, chances, np.array([row[2] for row in rows])), classes


# ---- Distances between sets of images -------------------------------------------------------------------

def frechet(x, y):
    """Frechet distance of feature samples (n, d), (m, d): |mean gap|^2 + tr(Sx + Sy - 2 (Sx Sy)^(1/2)).

    With X, Y centred and divided by sqrt(n - 1), Sx = X'X, and tr (Sx Sy)^(1/2) is the sum of the singular
    values of X Y'. If n > d, X is first replaced by R of X = QR (R'R = X'X), which keeps the matrix at
    d x d. No matrix square root: nothing complex, nothing negative, no regulariser. float64.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gap, total, roots = np.square(x.mean(0) - y.mean(0)).sum(), 0.0, []
    for z in (x, y):
        z = (z - z.mean(0)) / np.sqrt(len(z) - 1)
        total += np.square(z).sum()
        if len(z) > z.shape[1]:
            z = scipy.linalg.qr(z, mode="r")[0][:z.shape[1]]
        roots.append(z)
    return float(gap + total - 2 * scipy.linalg.svdvals(roots[0] @ roots[1].T).sum())


def kid(x, y):
    """Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x.y / d + 1)^3."""
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def inception_score(chances, splits=10):
    """exp(mean KL(p(class | image) || p(class))), mean over splits of 100 images or more, at least two."""
    parts = np.array_split(np.asarray(chances, np.float64), max(2, min(splits, len(chances) // 100)))
    scores = [np.exp(scipy.stats.entropy(part, part.mean(0, keepdims=True), axis=1).mean()) for part in parts]
    return float(np.mean(scores))


def distances(x, y, chances=None, seed=0, draws=5):
    """Frechet distance of y to n = len(y) (at most half) of x, noise floor of x to itself at that n, KID, IS.

    The estimate is biased upwards for small n: it means something only beside its noise floor.
    """
    n, rng, rows = min(len(x) // 2, len(y)), np.random.default_rng(seed), []
    if n < 2:
        raise UserError(f"a distance needs 4 and 2 images or more, not {len(x)} and {len(y)}")
    if not max(np.abs(x).max(), np.abs(y).max()) < 1e9 or x.std(0).max() < 1e-9:     # also if not numbers
        raise UserError("these features are constant or infinite: take another network, or train it longer")
    for _ in range(draws):
        order = rng.permutation(len(x))
        y = y[rng.permutation(len(y))]
        rows.append((frechet(x[order[:n]], y[:n]), frechet(x[order[:n]], x[order[n:2 * n]])))
    (distance, floor), (spread, _) = np.mean(rows, 0), np.std(rows, 0)
    row = dict(distance=float(distance), spread=float(spread), floor=float(floor), n=n, kid=kid(x, y))
    return row | ({} if chances is None else dict(inception_score=inception_score(chances)))


def colour_features(images, side=8):
    """(n, 192): mean colour of each cell of an 8 x 8 grid, in [0, 1]. Needs no network; distances: FD-8x8."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return F.adaptive_avg_pool2d(pixels, side).flatten(1).double().numpy()


def colour_distance(images, made):
    """FD-8x8 of a GAN's samples to its training images; {} where they are too few."""
    if len(images) < 4 or len(made) < 2:
        return {}
    row = distances(colour_features(images), colour_features(made), draws=1)
    return {f"fd_8x8_{key}": row[key] for key in ("distance", "floor", "n", "kid")}


def copying(made, train, held_out, seed=0):
    """{closer_to_train: [share, low, high]}: is a GAN image's nearest real image one that it was trained on?

    Of as many training as held-out images, by 16 x 16 thumbnails: .5 without copying. Where a few real images
    are the nearest of many made ones, these count as fewer. {} where there is nothing to compare.
    """
    n, rng = min(len(train), len(held_out)), np.random.default_rng(seed)
    if n < 2:
        return {}
    real = np.concatenate([train[rng.permutation(len(train))[:n]], held_out[rng.permutation(len(held_out))[:n]]])
    apart = scipy.spatial.distance.cdist(colour_features(made, 16), colour_features(real, 16))
    closer = apart[:, :n].min(1) < apart[:, n:].min(1)
    chosen = np.bincount(apart.argmin(1), minlength=2 * n)
    counted = min(len(made), round(len(made) ** 2 / max(2 * n * chosen.var(ddof=1), 1)))
    return dict(closer_to_train=[float(closer.mean()), *wilson(round(closer.mean() * counted), counted)[1:]])


FID_WEIGHTS = ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
               "pt_inception-2015-12-05-6726825d.pth")


def fid_network(file=None):
    """The FID's Inception (TensorFlow's of 2015, weights by pytorch-fid): (n, 3, 299, 299) -> (n, 2048).

    torchvision's Inception V3 with 1,008 classes, but for its pooling branches: averages leave out the
    padding, and the last block takes the maximum. net.head: weights of the last layer, for the IS.
    """
    try:
        weights = torch.load(file, weights_only=True) if file else torch.hub.load_state_dict_from_url(
            FID_WEIGHTS, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as problem:                    # no network, a wrong checksum, not a weights file
        raise UserError(f"no FID weights ({problem}): put {FID_WEIGHTS} into {torch.hub.get_dir()}/checkpoints, "
                        "or do without them (metrics.py fid --net none, classify.py score JOB)") from None
    net = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    net.load_state_dict(weights)
    average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    for name, block in net.named_children():
        if hasattr(block, "branch_pool"):
            replace_pooling(block, nn.MaxPool2d(3, stride=1, padding=1) if name == "Mixed_7c" else average)
    net.head, net.fc = net.fc.weight.detach(), nn.Identity()
    return net.eval()


def replace_pooling(block, pool):
    """Feed the block's pooling branch with pool(input of the block), whatever the block itself pooled."""
    seen = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.branch_pool.register_forward_pre_hook(lambda *_: (pool(seen.pop()),))


def fid_look(device="cpu", file=None):
    """A function: uint8 (n, h, w, 3) -> (features (n, 2048), probabilities (n, 1008)); to 299 px, bilinear."""
    net = fid_network(file).to(device)

    @torch.no_grad()
    def look(images):
        seen = []
        for pixels in torch.from_numpy(images).split(64):
            x = data.scaled(pixels.to(device).permute(0, 3, 1, 2))
            x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
            seen.append(net(x).double().cpu())
        seen = torch.cat(seen)
        return seen.numpy(), (seen @ net.head.double().cpu().T).softmax(1).numpy()

    return look


# ---- Audit: the counts behind printed numbers -----------------------------------------------------------

def printed_range(text, cut=False):
    """(low, high): the shares that are printed as ".9201" or "92.01%" when rounded, or else when cut off."""
    digits, scale = text.rstrip("%"), 100 if text.endswith("%") else 1
    value, unit = float(digits), 10.0 ** -len(digits.partition(".")[2])
    low, high = (value, value + unit - 3e-9) if cut else (value - unit / 2, value + unit / 2)
    return low / scale - 1e-9, high / scale + 1e-9


def counts(text, n, cut=False):
    """[k, ...] such that k / n is printed like this."""
    low, high = printed_range(text, cut)
    return [k for k in range(n + 1) if low * n <= k <= high * n]


def matrices(printed, sizes, cut=False):
    """[(tp, fn, fp, tn), ...]: the matrices of (positives, negatives) images that give the printed values.

    printed: {sensitivity, specificity, precision, accuracy or f1: ".9201"}.
    """
    p, q = sizes
    tp, tn = np.mgrid[:p + 1, :q + 1].reshape(2, -1)
    shares = dict(sensitivity=(tp, p), specificity=(tn, q), precision=(tp, tp + q - tn),
                  accuracy=(tp + tn, p + q), f1=(2 * tp, tp + p + q - tn))
    fits = np.ones(len(tp), bool)
    for name, text in printed.items():
        (part, whole), (low, high) = shares[name], printed_range(text, cut)
        fits &= (low * whole <= part) & (part <= high * whole) & (np.asarray(whole) > 0)
    return [(int(a), int(p - a), int(q - d), int(d)) for a, d in zip(tp[fits], tn[fits])]


# ---- Command line ---------------------------------------------------------------------------------------

def seeds_of(run):
    """The folders of a run and its seeds: RUN, or RUN-s0, RUN-s1, ..."""
    run = Path(run)
    if (run / "predictions.csv").exists():
        return [run]
    found = sorted(folder for folder in run.parent.glob(f"{run.name}-s*") if re.fullmatch(r".*-s\d+", folder.name))
    if not found:
        raise UserError(f"{run} is no finished classifier: it has no predictions.csv")
    return found


def compare(args):
    """Every measure of two classifiers on the same test images, with the interval of their difference."""
    arms = {}
    for side, run in (("a", args.a), ("b", args.b)):
        found = [read_predictions(folder, args.test) for folder in seeds_of(run)]
        if None in found:
            raise UserError(f"{run} has no test {args.test}")
        for name, arm in arms_of([run for run, _ in found], found[0][1]).items():
            arms[name, side] = arm
    print(f"{'':24}{'A':>7}{'B':>7}   B - A [95 % interval]     p")
    for name in [name for name, side in arms if side == "a"]:
        a, b = arms[name, "a"], arms.get((name, "b"))
        if b is None or np.isnan(a.values).any() or np.isnan(b.values).any():
            print(f"{name:24}  undefined: a class is never found, or unknown to B")
            continue
        value, low, high, p = gain(arms, [(name, "a")], [(name, "b")])
        shown = "one seed: chance of the test lesions alone" if p is None else f"{p:.3f}"
        print(f"{name:24}{a.values.mean():7.3f}{b.values.mean():7.3f}   {value:+.3f} [{low:+.3f}, {high:+.3f}]   {shown}")


def fid(args):
    """Frechet distance, KID and noise floor of two sets of images (folders, zips, image sets)."""
    if args.net not in ("inception", "none") and not Path(args.net).is_file():
        raise UserError(f"--net {args.net}: give inception, none or a weights file")
    a, b = (data.load(path, args.size).images for path in (args.a, args.b))
    name, look = "FD-8x8 (mean colours of an 8 x 8 grid; no FID)", lambda images: (colour_features(images), None)
    if args.net != "none":
        name, look = "FID", fid_look(file=None if args.net == "inception" else args.net)
    row = distances(look(a)[0], look(b)[0])
    print(f"{name} {row['distance']:.4f}   noise floor {row['floor']:.4f} (A against itself)   n {row['n']} a side, "
          f"images {args.size} px   KID {row['kid']:.5f}")


def main():
    parser = jobs.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("compare", help="two classifiers", description=compare.__doc__)
    p.set_defaults(function=compare)
    p.add_argument("a", help="folder of a finished classifier, or of its seeds without -s0, -s1, ...")
    p.add_argument("b")
    p.add_argument("--test", default="real", help="real (default) or mixed")
    p = commands.add_parser("fid", help="two sets of images", description=fid.__doc__)
    p.set_defaults(function=fid)
    p.add_argument("a", help="real images")
    p.add_argument("b", help="generated images")
    p.add_argument("--net", default="inception", help="inception (default): FID; none; or a weights file")
    p.add_argument("--size", type=jobs.at_least(8), default=64, help="side to bring images to (default 64)")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
