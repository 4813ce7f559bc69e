"""metrics.py: labels and features in, numbers out. Knows nothing of training.

    python metrics.py compare runs/real runs/hybrid        two classifiers on the same test images
    python metrics.py fid real_photos/ gan_images/         FID, KID and noise floor of two sets
    python metrics.py fid real_photos/ gan_images/ --net none      the same in mean colours: no FID

Every interval of the report is made by `combine` below; start there.
"""
import jobs      # first of all: from here on Ctrl-C ends the imports quietly
import csv
import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional as F

import data
from jobs import UserError


# ---- Measures of one classifier

@np.errstate(invalid="ignore", divide="ignore")
def measures(labels, chances, classes, weights=None):
    """{measure: value}, nan where undefined. Of two classes also the AUC of the second.

    labels (n,), chances (n, k); weights (b, n): values (b,) of b weighted versions of the test set.
    """
    k = len(classes)
    if weights is None:
        weights = np.ones(len(labels))
    cells = np.asarray(labels) * k + chances.argmax(1)
    matrix = weights @ np.eye(k * k)[cells]
    matrix = matrix.reshape(*weights.shape[:-1], k, k)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    present = matrix.sum(-1)
    found = matrix.sum(-2)
    recall = right / present
    values = {"accuracy": right.sum(-1) / present.sum(-1)}
    values["balanced accuracy"] = np.nanmean(recall, -1)
    for c, name in enumerate(classes):
        values[f"recall {name}"] = recall[..., c]
        values[f"precision {name}"] = (right / found)[..., c]
        values[f"f1 {name}"] = (2 * right / (found + present))[..., c]
    if k == 2:
        values["auc"] = auc(labels, chances[:, 1], weights)
    return values


def auc(labels, scores, weights):
    """Area under the ROC curve: P(a positive scores above a negative), ties count half."""
    order = np.argsort(scores, kind="stable")
    scores, weights, positive = scores[order], weights[..., order], labels[order] == 1
    negatives = np.zeros((*weights.shape[:-1], len(scores) + 1))    # of those before each place
    np.cumsum(weights * ~positive, -1, out=negatives[..., 1:])
    below = negatives[..., np.searchsorted(scores, scores[positive], "left")]
    not_above = negatives[..., np.searchsorted(scores, scores[positive], "right")]
    won = weights[..., positive] * (below + not_above) / 2
    return won.sum(-1) / (weights[..., positive].sum(-1) * negatives[..., -1])


def roc_curve(labels, scores):
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), by falling score."""
    def rate(hits):
        return np.r_[0, hits.cumsum() / max(hits.sum(), 1)]

    order = np.argsort(-np.asarray(scores), kind="stable")
    labels = np.asarray(labels)[order]
    return rate(1 - labels), rate(labels)


def log_loss(labels, chances):
    of_truth = chances[np.arange(len(labels)), labels]
    return float(-np.log(of_truth.clip(1e-12)).mean())


# ---- Intervals

class Arm(NamedTuple):
    """One measure of one arm: the same training, repeated with several seeds."""
    values: np.ndarray      # (seeds,)
    boot: np.ndarray        # (seeds, draws): on test lesions drawn anew, the same for all arms
    lesions: int            # how many the measure is taken over
    test: int               # hash of the test images: only arms with the same can be compared
    views: float = 1.0      # pictures of a lesion, on average


@functools.lru_cache(maxsize=4)     # all arms on one test set use the same draws
def lesion_weights(groups):
    """(1000, n): how often each image counts when lesions are drawn with replacement."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    drawn = np.random.default_rng(0).integers(lesions, size=(1000, lesions))
    return np.apply_along_axis(np.bincount, 1, drawn, minlength=lesions)[:, member]


def arms_of(runs):
    """{measure: Arm} of one arm's runs, one per seed.

    runs: [(labels (n,), chances (n, k), groups (n,), names of the k classes), ...]; groups: lesions.
    """
    tests = {hash((tuple(labels), tuple(groups))) for labels, _, groups, _ in runs}
    if len(tests) > 1:
        raise UserError("the seeds of an arm must have the same test images in the same order")
    labels, _, groups, classes = runs[0]
    drawn = lesion_weights(tuple(groups))
    weights = np.vstack([np.ones(len(labels)), drawn])      # first the test images as they are
    seeds = [measures(labels, chances, classes, weights) for _, chances, *_ in runs]
    arms = {}
    for name in seeds[0]:
        values = np.stack([one[name] for one in seeds])
        lesions = lesions_of(name, runs)
        views = len(labels) / len(set(groups))
        arms[name] = Arm(values[:, 0], values[:, 1:], lesions, min(tests), views)
    return arms


def lesions_of(measure, runs):
    """How many lesions a measure is taken over; of several seeds the fewest."""
    labels, _, groups, classes = runs[0]
    kind, _, name = measure.partition(" ")
    if measure == "accuracy":
        return len(set(groups))
    if name not in classes:             # a mean over the classes: as sure as so many lesions alike
        of_class = [len(set(groups[labels == c])) for c in range(len(classes))]
        return round(len(of_class) * scipy.stats.hmean(of_class))       # 0: undefined
    numbers = []
    for _, chances, *_ in runs:
        over = labels == classes.index(name)
        called = chances.argmax(1) == classes.index(name)
        if kind == "precision":
            over = called
        elif kind == "f1":
            over = over | called
        numbers.append(len(set(groups[over])))
    return min(numbers)


def combine(arms, weights):
    """(value, variance, degrees of freedom) of sum weights[name] * mean over seeds of arms[name].

    Two sources of chance. *Lesions*: which ones the test set happens to hold; the variance over the
    bootstrap draws of the whole sum, so that what is easy for all arms cancels. *Trainings*: how each
    happened to go; an arm's variance over its seeds, divided by their number. What one seed gets wrong
    on its own is in both: it is taken off the lesions, and is the least that the trainings can have.
    Degrees of freedom: Satterthwaite's, total^2 / sum part^2 / df; 0 if an arm has one seed, which
    says nothing of its trainings.

    For example, accuracies .80 .82 .84 without and .85 .86 .87 with GAN images, 400 test lesions,
    bootstrap deviation of the gain .012, of which .004 is the seeds' own: gain .04; lesions
    .012^2 - .004^2 = .000128, trainings .02^2 / 3 + .01^2 / 3 = .000167, own .000016, so variance
    .000295 (deviation .017), of degrees of freedom .000295^2 / (.000128^2 / 399 + .000133^2 / 2 +
    .000033^2 / 2) = 9.2; Student's t 2.26; 95 % interval .04 +- .039.
    """
    if len({arms[name].test for name in weights}) > 1:
        raise UserError("only arms on the same test images can be compared")
    value, drawn, own = 0.0, 0.0, 0.0
    trainings = []                                  # (variance, degrees of freedom)
    for name, weight in weights.items():
        arm = arms[name]
        seeds = len(arm.values)
        value += weight * arm.values.mean()
        drawn += weight * arm.boot.mean(0)
        if seeds > 1:
            apart = arm.boot - arm.boot.mean(0)
            own += weight ** 2 * np.nanvar(apart, 1).sum() / (seeds - 1) / seeds
            training = weight ** 2 * arm.values.var(ddof=1) / seeds
            trainings.append((training, seeds - 1))

    of_lesions = max(fewest_lesions(arms, weights) - 1, 1)
    if sum(part for part, _ in trainings) <= own:
        trainings = [(own, of_lesions)]
    lesions = max(np.nanvar(drawn) - own, 0)
    parts = [(lesions, of_lesions), *trainings]
    variance = sum(part for part, _ in parts)
    if min(len(arms[name].values) for name in weights) == 1:
        return value, variance, 0
    squares = sum(part ** 2 / df for part, df in parts)
    return value, variance, variance ** 2 / squares if squares else of_lesions


def fewest_lesions(arms, names):
    return min(arms[name].lesions for name in names)


def student(df):
    """Student's t; the normal distribution where the degrees of freedom are not known."""
    return scipy.stats.t(df) if df else scipy.stats.norm()


def difference(arms, weights):
    """[value, low, high, p]: 95 % interval and two-sided p of a sum of arms; p None: one seed."""
    if any(np.isnan(arms[name].values).any() for name in weights):
        return [None] * 4
    value, variance, df = combine(arms, weights)
    half_a_lesion = 0.5 / max(fewest_lesions(arms, weights), 1)     # the least that chance moves
    deviation = max(np.sqrt(variance), half_a_lesion)
    half = deviation * student(df).ppf(0.975)
    p = None
    if df:
        p = float(2 * student(df).sf(abs(value) / deviation))
    low, high = value - half, value + half
    return [float(value), float(low), float(high), p]


def gain(arms, before, after):
    """difference() of the mean of the arms named in `after` to the mean of those in `before`."""
    weights = dict.fromkeys([*before, *after], 0.0)
    for name in before:
        weights[name] -= 1 / len(before)
    for name in after:
        weights[name] += 1 / len(after)
    return difference(arms, weights)


def level(arm):
    """[value, low, high] of one arm; None if undefined. Wilson's interval, so within 0 and 1.

    Of as many images as give the variance of combine: n = value * (1 - value) / variance; but no
    more than there are, once for each seed, since a few failures say little of their variance.
    """
    if np.isnan(arm.values).any() or arm.lesions < 1:
        return None
    value, variance, df = combine({"": arm}, {"": 1.0})
    z = student(df).ppf(0.975)
    if not 0 <= value <= 1:                         # no share, such as a negative kappa
        return [value, value - z * np.sqrt(variance), value + z * np.sqrt(variance)]
    if variance == 0 or value in (0, 1):            # all right or all wrong: Wilson as he stands
        return wilson(value, arm.lesions)
    n = min(arm.lesions * arm.views * len(arm.values), value * (1 - value) / variance)
    return wilson(value, n, z)


def wilson(share, n, z=1.96):
    """[share, low, high] of a share of n, by Wilson: never without width, never beyond 0 and 1."""
    shrink = 1 + z ** 2 / n
    middle = (share + z ** 2 / (2 * n)) / shrink
    half = z / shrink * np.sqrt(share * (1 - share) / n + z ** 2 / (4 * n * n))
    return np.clip([share, middle - half, middle + half], 0, 1).tolist()


def evaluate(labels, chances, groups, classes):
    """What result.json keeps of one test: counts, loss, and each measure's interval."""
    k = len(classes)
    matrix = np.bincount(labels * k + chances.argmax(1), minlength=k * k).reshape(k, k)
    values = {
        "n": len(labels),
        "confusion": matrix.tolist(),
        "loss": log_loss(labels, chances),
        "majority": float(matrix.sum(1).max() / len(labels))}
    arms = arms_of([(labels, chances, groups, classes)])
    return values | {name: level(arm) for name, arm in arms.items()}


def holm(ps):
    """p values corrected for their number (Holm 1979), in the same order; None stays None."""
    rising = sorted((p, k) for k, p in enumerate(ps) if p is not None)
    corrected = list(ps)
    largest = 0.0
    for rank, (p, k) in enumerate(rising):
        largest = max(largest, (len(rising) - rank) * p)
        corrected[k] = min(largest, 1.0)
    return corrected


def worth(arms, triples):
    """[x, low, high]: what one GAN image is worth in further real images, or infinite ends.

    triples: names of (real, real + GAN, real + as many further real images); x is the ratio of the two
    gains, each summed over the triples. The interval is Fieller's: every x at which gain of GAN images
    - x * gain of real ones does not differ from 0. Infinite where real images' own gain is not clear.
    """
    def at(of_gan, of_real):
        weights = dict.fromkeys(np.ravel(triples), 0.0)
        for real, with_gan, with_real in triples:
            weights[with_gan] += of_gan
            weights[with_real] += of_real
            weights[real] -= of_gan + of_real
        return difference(arms, weights)

    def p_above(y):
        return at(1, -y)[3] - 0.05

    def end(step):
        while p_above(x + step) > 0:
            step *= 2
        return float(scipy.optimize.brentq(p_above, x, x + step))

    of_real, _, _, p = at(0, 1)
    x = np.nan
    if of_real:
        x = at(1, 0)[0] / of_real
    if p is None or p >= 0.05 or of_real <= 0:
        return [x, -np.inf, np.inf]
    return [x, end(-1), end(1)]


def read_predictions(folder, test="real"):
    """(labels, chances, groups, classes) of one test in predictions.csv."""
    file = Path(folder) / "predictions.csv"
    try:
        raw = file.read_bytes()
        known = jobs.read_json(file.with_name("result.json")).get("predictions")
        if known not in (None, data.hash_of(raw)):
            raise ValueError("it is not what the job wrote")
        header, *rows = csv.reader(io.StringIO(raw.decode(), newline=""))
        classes = header[4:]
        rows = [row for row in rows if row[0] == test]
        groups = np.array([row[2] for row in rows])
        labels = np.array([classes.index(row[3]) for row in rows], int)
        chances = np.asarray_chkfinite([row[4:] for row in rows], float)
        chances = chances.reshape(len(rows), len(classes))
    except (OSError, ValueError, IndexError, csv.Error) as problem:
        raise UserError(f"{file} cannot be used ({problem}): delete its folder, run it again") from None
    if not rows:
        raise UserError(f"{file} has no test {test}")
    return labels, chances, groups, classes


# ---- Distances between sets of images

KERNEL = 5000       # images of each set in the KID: its kernel has 5,000 x 5,000 values, 200 MB


def frechet(x, y):
    """Frechet distance of features (n, d), (m, d): |mean gap|^2 + tr(Sx + Sy - 2 (Sx Sy)^(1/2)).

    With X, Y centred and divided by sqrt(n - 1), Sx = X'X, and tr (Sx Sy)^(1/2) is the sum of the
    singular values of X Y'. If n > d, X is first replaced by R of X = QR (R'R = X'X), which keeps the
    matrix at d x d. No matrix square root: nothing complex, nothing negative. float64.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    traces, roots = 0.0, []
    for z in (x, y):
        z = (z - z.mean(0)) / np.sqrt(len(z) - 1)
        traces += np.square(z).sum()
        if len(z) > z.shape[1]:
            z = np.linalg.qr(z, mode="r")
        roots.append(z)
    common = np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    return float(gap + traces - 2 * common)


def kid(x, y):
    """Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x.y / d + 1)^3."""
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    across = kernel(x, y).mean()
    return float(within(x) + within(y) - 2 * across)


def inception_score(chances):
    """exp(mean KL(p(class | image) || p(class))), mean over 2 to 10 splits, of 100 images."""
    splits = np.clip(len(chances) // 100, 2, 10)
    scores = []
    for part in np.array_split(np.asarray(chances, np.float64), splits):
        divergence = scipy.stats.entropy(part, part.mean(0, keepdims=True), axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def distances(x, y, chances=None, seed=0, draws=5):
    """Frechet distance of y to n = len(y) (at most half) of x, noise floor of x to itself, KID, IS.

    The estimate is biased upwards for small n: it means something only beside its noise floor.
    """
    n = min(len(x) // 2, len(y))
    if n < 2:
        raise UserError(f"a distance needs 4 and 2 images or more, not {len(x)} and {len(y)}")
    largest = max(np.abs(x).max(), np.abs(y).max())
    if not largest < 1e9 or x.std(0).max() < 1e-9:  # also if not numbers
        raise UserError("these features are constant or infinite: "
                        "take another network, or train it longer")
    rng = np.random.default_rng(seed)
    apart, floors = [], []
    for _ in range(draws):
        x_drawn = x[rng.permutation(len(x))]
        y = y[rng.permutation(len(y))]
        apart.append(frechet(x_drawn[:n], y[:n]))
        floors.append(frechet(x_drawn[:n], x_drawn[n:2 * n]))
    row = {
        "distance": float(np.mean(apart)),
        "spread": float(np.std(apart)),
        "floor": float(np.mean(floors)),
        "n": n,
        "kid": kid(x_drawn[:KERNEL], y[:KERNEL])}
    if chances is not None:
        row["inception_score"] = inception_score(chances)
    return row


def colour_features(images, side=8):
    """(n, 192): mean colour of each cell of an 8 x 8 grid, in [0, 1]. Distances in it: FD-8x8."""
    means = []
    for pixels in torch.from_numpy(images).split(256):      # as floats all at once fill memory
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        means.append(F.adaptive_avg_pool2d(pixels, side).flatten(1))
    return torch.cat(means).double().numpy()


def colour_distance(images, made):
    """FD-8x8 of a GAN's samples to its training images; {} where they are too few."""
    if len(images) < 4 or len(made) < 2:
        return {}
    row = distances(colour_features(images), colour_features(made), draws=1)
    return {f"fd_8x8_{key}": row[key] for key in ("distance", "floor", "n", "kid")}


def copying(made, train, held_out, seed=0):
    """{closer_to_train: [share, low, high]}: is a GAN image's nearest real image one it has seen?

    Of as many training as held-out images, by 16 x 16 thumbnails: .5 without copying. Where a few real
    images are the nearest of many made ones, these count as fewer. {} if there is nothing to compare.
    """
    n = min(len(train), len(held_out))
    if n < 2:
        return {}
    rng = np.random.default_rng(seed)
    real = [images[rng.permutation(len(images))[:n]] for images in (train, held_out)]
    apart = cdist(colour_features(made, 16), colour_features(np.concatenate(real), 16))
    nearest = apart.argmin(1)                       # the first n are training images
    often = np.bincount(nearest, minlength=2 * n)
    counted = len(made) ** 2 / max(2 * n * often.var(ddof=1), 1)
    return {"closer_to_train": wilson((nearest < n).mean(), min(len(made), counted))}


FID_WEIGHTS = ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
               "pt_inception-2015-12-05-6726825d.pth")


def fid_network(file=None):
    """The FID's Inception (TensorFlow's, weights by pytorch-fid): (n, 3, 299, 299) -> (n, 2048).

    torchvision's Inception V3 with 1,008 classes, but for its pooling branches: averages leave out the
    padding, and the last block takes the maximum. net.head: weights of the last layer, for the IS.
    """
    from torchvision.models import inception_v3     # not above: the report would wait 1.5 s for it
    try:
        if file is None:
            weights = torch.hub.load_state_dict_from_url(
                FID_WEIGHTS, map_location="cpu", check_hash=True, weights_only=True)
        else:
            weights = torch.load(file, weights_only=True)
    except Exception as problem:                    # no network, wrong checksum, not a weights file
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(f"no FID weights ({problem}): put {FID_WEIGHTS} into {folder}, "
                        "or do without (metrics.py fid --net none)") from None
    net = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    net.load_state_dict(weights)
    for name, block in net.named_children():
        if name == "Mixed_7c":
            replace_pooling(block, nn.MaxPool2d(3, stride=1, padding=1))
        elif hasattr(block, "branch_pool"):
            replace_pooling(block, nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))
    net.head = net.fc.weight.detach()
    net.fc = nn.Identity()
    return net.eval()


def replace_pooling(block, pool):
    """Feed the block's pooling branch with pool(its input), whatever the block itself pooled."""
    seen = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.branch_pool.register_forward_pre_hook(lambda *_: (pool(seen.pop()),))


def fid_look(device="cpu", file=None):
    """A function: uint8 (n, h, w, 3) -> (features (n, 2048), probabilities (n, 1008))."""
    net = fid_network(file).to(device)

    @torch.no_grad()
    def look(images):
        features = []
        for pixels in torch.from_numpy(images).split(64):
            pixels = pixels.to(device).permute(0, 3, 1, 2)
            x = data.scaled(pixels)
            x = F.interpolate(x, size=(299, 299), mode="bilinear")
            features.append(net(x).double().cpu())
        features = torch.cat(features)
        logits = features @ net.head.double().cpu().T
        return features.numpy(), logits.softmax(1).numpy()

    return look


# ---- Audit: the counts behind printed numbers

def printed_range(text, cut=False):
    """(low, high): the shares printed as ".9201" or "92.01%" when rounded, or else cut off."""
    value = float(text.rstrip("%"))
    decimals = text.rstrip("%").partition(".")[2]
    unit = 10.0 ** -len(decimals)
    low, high = value - unit / 2, value + unit / 2
    if cut:
        low, high = value, value + unit - 3e-9
    scale = 100 if text.endswith("%") else 1
    return low / scale - 1e-9, high / scale + 1e-9


def counts(text, n, cut=False):
    """[k, ...] such that k / n is printed like this."""
    low, high = printed_range(text, cut)
    return [k for k in range(n + 1) if low * n <= k <= high * n]


def matrices(printed, sizes, cut=False):
    """[(tp, fn, fp, tn), ...]: the matrices of so many images that give the printed values.

    printed: {sensitivity, specificity, precision, accuracy or f1: ".9201"}; sizes: (positives, negatives).
    """
    p, q = sizes
    tp, tn = np.mgrid[:p + 1, :q + 1].reshape(2, -1)
    shares = {                                      # part, whole
        "sensitivity": (tp, p),
        "specificity": (tn, q),
        "precision": (tp, tp + q - tn),
        "accuracy": (tp + tn, p + q),
        "f1": (2 * tp, tp + p + q - tn)}
    fits = np.ones(len(tp), bool)
    for name, text in printed.items():
        part, whole = shares[name]
        low, high = printed_range(text, cut)
        fits &= (low * whole <= part) & (part <= high * whole)
        fits &= np.asarray(whole) > 0
    found = np.stack([tp, p - tp, q - tn, tn], 1)[fits]
    return [tuple(row) for row in found.tolist()]


# ---- Command line

def arms_of_job(run):
    """arms_of a finished classifier: of the folder RUN, or of RUN-s0, RUN-s1, ..."""
    run = Path(run)
    folders = sorted(run.parent.glob(f"{run.name}-s[0-9]*")) or [run]
    if not (folders[0] / "predictions.csv").exists():
        raise UserError(f"{run} is no finished classifier: it has no predictions.csv")
    return arms_of([read_predictions(folder) for folder in folders])


def compare(args):
    """Every measure of two classifiers on the same test images, and their difference."""
    of_a, of_b = arms_of_job(args.a), arms_of_job(args.b)
    print(f"{'':24}{'A':>7}{'B':>7}   B - A [95 % interval]     p")
    for name, a in of_a.items():
        b = of_b.get(name, a._replace(values=a.values * np.nan))
        value, low, high, p = gain({"a": a, "b": b}, ["a"], ["b"])
        if value is None:
            print(f"{name:24}  undefined: a class is never found, or unknown to B")
            continue
        shown = "one seed: chance of the test lesions alone"
        if p is not None:
            shown = f"{p:.3f}"
        means = f"{a.values.mean():7.3f}{b.values.mean():7.3f}"
        print(f"{name:24}{means}   {value:+.3f} [{low:+.3f}, {high:+.3f}]   {shown}")


def fid(args):
    """Frechet distance, KID and noise floor of two sets of images (folders, zips, image sets)."""
    a = data.load(args.a, args.size).images
    b = data.load(args.b, args.size).images
    if args.net == "none":
        name = "FD-8x8 (mean colours of an 8 x 8 grid; no FID)"
        row = distances(colour_features(a), colour_features(b))
    else:
        name, look = "FID", fid_look()
        row = distances(look(a)[0], look(b)[0])
    print(f"{name} {row['distance']:.4f}   noise floor {row['floor']:.4f} (A against itself)   "
          f"n {row['n']} a side, images {args.size} px   KID {row['kid']:.5f}")


def main():
    parser = jobs.Parser(prog="metrics.py", description=__doc__)
    commands = parser.add_subparsers(required=True)

    p = commands.add_parser("compare", help="two classifiers", description=compare.__doc__)
    p.set_defaults(function=compare)
    p.add_argument("a", help="folder of a finished classifier, with or without its -s0")
    p.add_argument("b", help="without: all its seeds")

    p = commands.add_parser("fid", help="two sets of images", description=fid.__doc__)
    p.set_defaults(function=fid)
    p.add_argument("a", help="real images")
    p.add_argument("b", help="generated images")
    p.add_argument("--net", choices=("inception", "none"), default="inception", help="none: no FID")
    p.add_argument("--size", type=jobs.at_least(8), default=64, help="side of the images (64 px)")

    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    jobs.run_cli(main)
