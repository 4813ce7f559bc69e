"""metrics.py: labels and features in, numbers out. Knows nothing of training.

    python metrics.py compare runs/real runs/hybrid     two classifiers, or seeds of RUN-s0, ...
    python metrics.py fid real_photos/ gan_images/      FID, KID and noise floor of two sets
"""
import csv
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import linalg, optimize, stats
from scipy.spatial.distance import cdist, pdist
from torch import nn

import data
import jobs
from jobs import UserError

COLLAPSED = 0.4     # diversity below it: samples differ less than that share of what real images do
DISTINCT = 0.2      # distinctness below it: the same few pictures come again and again
FID_URL = ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
           "pt_inception-2015-12-05-6726825d.pth")


# ---- Measures of one classifier

@np.errstate(all="ignore")
def measures(labels, probabilities, classes, weights):
    """{measure: values (b,)}, nan where undefined. Of two classes also the AUC of the second.
    labels (n,), probabilities (n, k); weights (b, n): how often an image counts, in b versions."""
    k = len(classes)
    truth = np.eye(k)[labels]
    called = np.eye(k)[probabilities.argmax(1)]
    right = weights @ (truth * called)              # (b, k), as these two
    present = weights @ truth
    found = weights @ called

    values = {"accuracy": right.sum(1) / present.sum(1)}
    values["balanced accuracy"] = np.nanmean(right / present, 1)
    for c, name in enumerate(classes):
        values[f"recall {name}"] = (right / present)[:, c]
        values[f"precision {name}"] = (right / found)[:, c]
        values[f"f1 {name}"] = (2 * right / (found + present))[:, c]
    if k == 2:
        values["auc"] = auc(labels, probabilities[:, 1], weights)
    return values


def auc(labels, scores, weights):
    """(b,): area under the ROC curve: P(a positive scores above a negative), ties count half."""
    positive, negative = labels == 1, labels == 0
    gaps = scores[positive][:, None] - scores[negative]
    won = (np.sign(gaps) + 1) / 2                   # 1, a half or 0 for each pair
    positives, negatives = weights[:, positive], weights[:, negative]
    pairs = positives.sum(1) * negatives.sum(1)
    return (positives @ won * negatives).sum(1) / pairs


def roc_curve(labels, scores):
    """(false positive rates, true positive rates), from (0, 0) to (1, 1), by falling threshold."""
    thresholds = np.append(np.inf, np.unique(scores)[::-1])
    positive = scores[:, None] >= thresholds
    return positive[labels == 0].mean(0), positive[labels == 1].mean(0)


def log_loss(labels, probabilities):
    of_truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(of_truth.clip(1e-12)).mean())


# ---- Intervals

class Arm(NamedTuple):
    """One measure of one arm: the same training, repeated with several seeds."""
    values: np.ndarray      # (seeds,)
    boot: np.ndarray        # (seeds, draws): on test lesions drawn anew, the same for all arms
    lesions: int            # how many the measure is taken over
    test: str               # its images and classes: only arms with the same can be compared
    views: float = 1.0      # pictures of a lesion, on average


@functools.lru_cache(maxsize=4)     # all arms on one test set use the same draws
def lesion_weights(groups):
    """(1 + 1000, n): how often each image counts: once; then 1000 times lesions are drawn anew."""
    _, member = np.unique(groups, return_inverse=True)
    lesions = member.max() + 1
    rng = np.random.default_rng(0)
    drawn = rng.integers(lesions, size=(1000, lesions))
    often = np.apply_along_axis(np.bincount, 1, drawn, minlength=lesions)
    return np.insert(often, 0, 1.0, axis=0)[:, member]


def arms_of(runs):
    """{measure: Arm} of one arm's runs, one per seed.
    runs: [(labels (n,), probabilities (n, k), groups (n,): lesions, names of k classes), ...]"""
    tests, seeds = set(), []
    for labels, probabilities, groups, classes in runs:
        tests.add(repr((labels.tolist(), groups.tolist(), classes)))
        weights = lesion_weights(tuple(groups))
        seeds.append(measures(labels, probabilities, classes, weights))
    if len(tests) > 1:
        raise UserError("the seeds of an arm must have the same test images in the same order")

    [test], arms = tests, {}
    views = len(labels) / len(set(groups))
    for name in seeds[0]:
        values = np.stack([one[name] for one in seeds])
        lesions = min(lesions_of(name, *run) for run in runs)
        arms[name] = Arm(values[:, 0], values[:, 1:], lesions, test, views)
    return arms


def lesions_of(measure, labels, probabilities, groups, classes):
    """How many lesions a measure of one run is taken over."""
    kind, _, name = measure.partition(" ")
    if measure == "accuracy":
        return len(set(groups))
    if name not in classes:             # a mean over the classes: as sure as so many lesions alike
        of_class = [len(set(groups[labels == c])) for c in range(len(classes))]
        return round(len(of_class) * stats.hmean(of_class))             # 0: undefined
    c = classes.index(name)
    true = labels == c
    called = probabilities.argmax(1) == c
    over = {"recall": true, "precision": called}.get(kind, true | called)      # f1: both
    return len(set(groups[over]))


def combine(arms, weights):
    """(value, variance, degrees of freedom) of sum weights[name] * mean over seeds of arms[name].

    Two sources of chance. *Lesions*: which ones the test set happens to hold; the variance over the
    bootstrap draws of the whole sum, so that what is easy for all arms cancels. *Trainings*: how
    each happened to go; an arm's variance over its seeds, divided by their number. A seed's own
    luck with these lesions is in both: it is taken off lesions, and trainings are at least that.
    Degrees of freedom: Satterthwaite's; 0 if an arm has one seed.

    Accuracies .80 .82 .84 without and .85 .86 .87 with GAN images, 400 lesions, bootstrap deviation
    of the gain .012, of which .004 is the seeds' own: gain .04; lesions .012^2 - .004^2 = .000128,
    trainings .02^2 / 3 + .01^2 / 3 = .000167, together .000295; degrees of freedom .000295^2 /
    (.000128^2 / 399 + .000133^2 / 2 + .000033^2 / 2) = 9.2; 95 % interval .04 +- .039."""
    used = [arms[name] for name in weights]
    if len({arm.test for arm in used}) > 1:
        raise UserError("only arms on the same test images can be compared")
    value, drawn, own = 0.0, 0.0, 0.0
    trainings = []                                  # (variance, degrees of freedom)
    for name, weight in weights.items():
        arm = arms[name]
        seeds = len(arm.values)
        value += weight * arm.values.mean()
        drawn += weight * arm.boot.mean(0)
        if seeds > 1:
            errors = arm.boot - arm.boot.mean(0)
            own += weight ** 2 * np.nanvar(errors, 1).sum() / (seeds - 1) / seeds
            training = weight ** 2 * arm.values.var(ddof=1) / seeds
            trainings.append((training, seeds - 1))

    of_lesions = max(min(arm.lesions for arm in used) - 1, 1)
    if sum(part for part, _ in trainings) <= own:
        trainings = [(own, of_lesions)]             # seeds that differ less than that are luck
    lesions = max(np.nanvar(drawn) - own, 0)
    parts = [(lesions, of_lesions), *trainings]
    variance = sum(part for part, _ in parts)
    if min(len(arm.values) for arm in used) == 1:
        return value, variance, 0
    squares = sum(part ** 2 / df for part, df in parts)
    df = variance ** 2 / squares if squares else of_lesions
    return value, variance, df


def difference(arms, weights):
    """[value, low, high, p]: 95 % interval and two-sided p of a sum of arms; p None: one seed."""
    if any(np.isnan(arms[name].values).any() for name in weights):
        return [None] * 4
    value, variance, df = combine(arms, weights)
    lesions = max(min(arms[name].lesions for name in weights), 1)
    deviation = max(np.sqrt(variance), 0.5 / lesions)           # half a lesion: the least of chance
    student = stats.t(df or np.inf)                 # infinite: the normal distribution
    half = deviation * student.ppf(0.975)
    p = 2 * student.sf(abs(value) / deviation) if df else None
    return [value, value - half, value + half, p]


def gain(arms, before, after):
    """difference() of the mean of the arms named in `after` to the mean of those in `before`."""
    weights = dict.fromkeys([*before, *after], 0.0)
    for names, sign in ((before, -1), (after, 1)):
        for name in names:
            weights[name] += sign / len(names)
    return difference(arms, weights)


def level(arm):
    """[value, low, high] of one arm; None if undefined. Wilson's interval, within 0 and 1, of that
    n which gives combine's variance, but of no more than the images, once for each seed."""
    if np.isnan(arm.values).any() or arm.lesions < 1:
        return None
    value, variance, df = combine(dict(arm=arm), dict(arm=1.0))
    if variance == 0:                               # all right or all wrong
        return wilson(value, arm.lesions)
    images = arm.lesions * arm.views * len(arm.values)
    n = min(images, value * (1 - value) / variance)
    return wilson(value, n, z=stats.t(df or np.inf).ppf(0.975))


def wilson(share, n, z=1.96):
    """[share, low, high] of a share of n, by Wilson: never without width, never beyond 0 and 1."""
    half_z = z ** 2 / (2 * n)
    shrink = 1 + 2 * half_z
    middle = (share + half_z) / shrink
    variance = share * (1 - share) / n + half_z / (2 * n)
    half = z / shrink * np.sqrt(variance)
    return np.clip([share, middle - half, middle + half], 0, 1).tolist()


def evaluate(labels, probabilities, groups, classes):
    """What result.json keeps of one test: counts, loss, and each measure's interval."""
    one = np.eye(len(classes), dtype=int)
    matrix = one[labels].T @ one[probabilities.argmax(1)]       # [true class][called class]
    values = dict(
        n=len(labels),
        confusion=matrix.tolist(),
        loss=log_loss(labels, probabilities),
        majority=np.bincount(labels).max() / len(labels))
    for name, arm in arms_of([(labels, probabilities, groups, classes)]).items():
        values[name] = level(arm)
    return values


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
    """[x, low, high]: what one GAN image is worth in further real images.

    triples: names of (real, real + GAN, real + as many further real images); x: ratio of the gains,
    each summed over the triples. Fieller's interval: every x at which gain of GAN images - x * gain
    of real ones does not differ from 0; [nan, -inf, inf] if the latter is not clear."""
    def at(gan_weight, real_weight):
        weights = dict.fromkeys(np.ravel(triples), 0.0)
        for real, with_gan, with_real in triples:
            weights[with_gan] += gan_weight
            weights[with_real] += real_weight
            weights[real] -= gan_weight + real_weight
        return difference(arms, weights)

    def p_above(y):
        return at(1, -y)[3] - 0.05

    def end(step):
        while p_above(x + step) > 0:
            step *= 2
        return optimize.brentq(p_above, x, x + step)

    of_real, _, _, p = at(0, 1)
    if p is None or p >= 0.05 or of_real <= 0:
        return [np.nan, -np.inf, np.inf]
    of_gan, *_ = at(1, 0)
    x = of_gan / of_real
    return [x, end(-1), end(1)]


def read_predictions(folder, test="real"):
    """(labels, probabilities, groups, classes) of one test in predictions.csv."""
    file = Path(folder) / "predictions.csv"
    with jobs.used(file), open(file, encoding="utf-8", newline="") as lines:
        table = np.array(list(csv.reader(lines)))           # a row of another length: ValueError
        classes = table[0, 4:].tolist()
        table = table[table[:, 0] == test]
        labels = np.array([classes.index(name) for name in table[:, 3]])
        probabilities = np.asarray_chkfinite(table[:, 4:], float)
        if not len(table):
            raise ValueError(f"it has no test {test}")
    return labels, probabilities, table[:, 2], classes


# ---- Generated images: distances to real ones, copying, collapse

def frechet(x, y):
    """Frechet distance of float64 (n, d), (m, d): |mean gap|^2 + tr(Sx + Sy - 2 (Sx Sy)^(1/2)).

    With X centred and divided by sqrt(n - 1), X = QR, Sx = X'X = R'R; the trace of (Sx Sy)^(1/2) is
    the sum of the singular values of Rx Ry'. So no matrix square root, which might be complex."""
    distance = np.square(x.mean(0) - y.mean(0)).sum()
    roots = []
    for z in (x, y):
        centred = (z - z.mean(0)) / np.sqrt(len(z) - 1)
        distance += np.square(centred).sum()
        roots.append(np.linalg.qr(centred, mode="r"))
    common = linalg.svdvals(roots[0] @ roots[1].T)
    return float(distance - 2 * common.sum())


def kid(x, y):
    """Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x.y / d + 1)^3."""
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = 0.0
    for a in (x, y):
        k = kernel(a, a)
        others = k.sum() - k.trace()
        within += others / len(k) / (len(k) - 1)
    return within - 2 * kernel(x, y).mean()


def inception_score(probabilities):
    """exp(mean KL(p(class | image) || p(class))), mean over 2 to 10 splits, of 100 images."""
    splits = np.clip(len(probabilities) // 100, 2, 10)
    scores = []
    for part in np.array_split(probabilities, splits):
        divergence = stats.entropy(part, part.mean(0, keepdims=True), axis=1)
        scores.append(np.exp(divergence.mean()))
    return np.mean(scores)


def distances(x, y, probabilities=None, seed=0, draws=5):
    """Frechet distance of y (n, d) to as many of x (at most half of it), noise floor of x to itself
    (a small n biases both upwards), kernel distance, Inception score. x, y: float64."""
    n = min(len(x) // 2, len(y))
    if n < 2:
        raise UserError(f"a distance needs 4 and 2 images or more, not {len(x)} and {len(y)}")
    rng = np.random.default_rng(seed)
    gaps, floors = [], []
    for _ in range(draws):
        some = rng.permutation(x)
        y = rng.permutation(y)
        gaps.append(frechet(some[:n], y[:n]))
        floors.append(frechet(some[:n], some[n:2 * n]))
    row = dict(
        distance=np.mean(gaps),
        spread=np.std(gaps),
        floor=np.mean(floors),
        n=n,
        kid=kid(some[:5000], y[:5000]))             # of more its kernel fills memory
    if probabilities is not None:
        row["inception_score"] = inception_score(probabilities)
    return row


def colour_features(images, side=8):
    """(n, 192): mean colour of each cell of an 8 x 8 grid, in [0, 1]. Distances in it: FD-8x8."""
    means = []
    for pixels in torch.from_numpy(images).split(256):      # as floats all at once fill memory
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        means.append(nn.functional.adaptive_avg_pool2d(pixels, side).flatten(1))
    return torch.cat(means).double().numpy()


def some_of(images, n, rng):
    """At most n of them at random; a copy of all, in another order, would fill memory."""
    return images[rng.permutation(len(images))[:n]]


def copying(generated, train, held_out, seed=0):
    """{closer_to_train: [share, low, high]} of GAN images whose nearest real one, in 16 x 16
    thumbnails, was learned from and not held out: .5 without copying. {} without images."""
    n = min(len(train), len(held_out))
    if n < 2:
        return {}
    rng = np.random.default_rng(seed)
    seen = some_of(train, n, rng)
    unseen = some_of(held_out, n, rng)
    real = colour_features(np.concatenate([seen, unseen]), 16)
    nearest = cdist(colour_features(generated, 16), real).argmin(1)
    often = np.bincount(nearest, minlength=2 * n)
    share = (nearest < n).mean()                    # the first n are training images
    spread_out = len(generated) ** 2 / max(2 * n * often.var(ddof=1), 1)
    counted = min(len(generated), spread_out)       # as many as count: a few nearest of many, once
    return {"closer_to_train": wilson(share, counted)}


def spread(images):
    """Mean pixel distance of two images, each less its mean colour: the skin is not the lesion."""
    pixels = images.astype(np.float32)
    pixels -= pixels.mean((1, 2), keepdims=True)
    return pdist(pixels.reshape(len(images), -1)).mean()


def to_nearest(images):
    """Median distance to the nearest other image, in 8 x 8 mean colours: noise makes no other."""
    colours = colour_features(images).reshape(len(images), 3, -1)
    colours -= colours.mean(2, keepdims=True)
    colours = colours.reshape(len(images), -1)
    rising = np.sort(cdist(colours, colours), 1)            # the first is its distance to itself
    return np.median(rising[:, 1])


def judge_generated(generated, train, held_out, seed=0, source=None):
    """{measure: value} of generated images. held_out: never seen; source: what was translated."""
    rng = np.random.default_rng(seed)
    diversity, distinctness = [], []
    for name in generated.classes:
        samples, real = generated.of_class(name).images, train.images
        if name in train.classes:
            real = train.of_class(name).images
        samples = some_of(samples, 128, rng)
        real = some_of(real, 128, rng)
        n = min(len(samples), len(real))            # the more images, the nearer the nearest
        if n > 1:                                   # one image differs from nothing
            diversity.append(spread(samples) / max(spread(real), 1e-9))
            distinctness.append(to_nearest(samples[:n]) / max(to_nearest(real[:n]), 1e-9))
    diversity = np.mean(diversity or [1.0])
    distinctness = min(distinctness or [1.0])
    collapsed = diversity < COLLAPSED or distinctness < DISTINCT
    values = dict(diversity=diversity, distinctness=distinctness, collapsed=bool(collapsed))

    if source is not None and len(generated) > 1:
        n = min(len(generated), 128)                # 1: nothing is changed; 0: as another original
        before = source.images[:n].reshape(n, -1).astype(np.float32)
        moved = np.linalg.norm(generated.images[:n].reshape(n, -1) - before, axis=1)
        values["resemblance"] = float(1 - moved.mean() / max(pdist(before).mean(), 1e-9))
    if len(train) >= 4 and len(generated) >= 2:     # the least that distances takes
        real = colour_features(train.images)
        row = distances(real, colour_features(generated.images), draws=1)
        for key in ("distance", "floor", "n", "kid"):
            values[f"fd_8x8_{key}"] = row[key]
    some = some_of(generated.images, 2000, rng)         # of 24,000 it takes minutes
    return values | copying(some, train.images, held_out.images, seed)


def inception_features(device="cpu"):
    """The FID's Inception, a function: uint8 (n, h, w, 3) -> (features (n, 2048), probabilities (n,
    1008)). torchvision's, with TensorFlow's weights (by pytorch-fid) and its pooling branches."""
    from torchvision.models import inception_v3     # not above: the report would wait 1.5 s for it
    try:
        weights = torch.hub.load_state_dict_from_url(FID_URL, check_hash=True, weights_only=True)
    except Exception as problem:                    # no network, wrong checksum, not a weights file
        raise UserError(f"no FID weights ({problem}): put {FID_URL} into "
                        f"{torch.hub.get_dir()}/checkpoints, or take --net none") from None
    net = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    net.load_state_dict(weights)
    for name, block in net.named_children():
        if name == "Mixed_7c":
            replace_pooling(block, nn.MaxPool2d(3, 1, padding=1))
        elif hasattr(block, "branch_pool"):
            replace_pooling(block, nn.AvgPool2d(3, 1, padding=1, count_include_pad=False))
    head = net.fc.weight.detach().double()
    net.fc = nn.Identity()
    net.eval().to(device)

    @torch.no_grad()
    def features_of(images):
        features = []
        for pixels in torch.from_numpy(images).split(64):
            x = data.scaled(pixels.to(device).permute(0, 3, 1, 2))
            x = nn.functional.interpolate(x, 299, mode="bilinear")
            features.append(net(x).double().cpu())
        features = torch.cat(features)
        return features.numpy(), (features @ head.T).softmax(1).numpy()

    return features_of


def replace_pooling(block, pool):
    """Feed the block's pooling branch with pool(its input), whatever the block itself pooled."""
    seen = []
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.branch_pool.register_forward_pre_hook(lambda *_: (pool(seen.pop()),))


# ---- Command line

def compare(args):
    both = []
    for run in map(Path, args.folders):
        folders = sorted(run.parent.glob(f"{run.name}-s[0-9]*")) or [run]
        both.append(arms_of([read_predictions(folder) for folder in folders]))
    print(f"{'':24}{'A':>7}{'B':>7}   B - A [95 % interval]     p")
    for name, a in both[0].items():
        b = both[1][name]
        value, low, high, p = gain(dict(a=a, b=b), "a", "b")
        if value is not None:                       # nor undefined: a class is never found
            chance = "one seed: chance of the test lesions alone" if p is None else f"{p:.3f}"
            print(f"{name:24}{a.values.mean():7.3f}{b.values.mean():7.3f}   "
                  f"{value:+.3f} [{low:+.3f}, {high:+.3f}]   {chance}")


def fid(args):
    a, b = (data.resized(data.load(path, args.size), args.size).images for path in args.folders)
    if args.net == "none":
        name = "FD-8x8 (mean colours of an 8 x 8 grid; no FID)"
        row = distances(colour_features(a), colour_features(b))
    else:
        name, features = "FID", inception_features()
        row = distances(features(a)[0], *features(b))
    print(f"{name}, {args.size} px:", *[f"{key} {value:.4g}" for key, value in row.items()])


def main():
    parser = jobs.Parser(prog="metrics.py", description=__doc__)
    add = parser.add_argument
    add("command", choices=("compare", "fid"))
    add("folders", nargs=2, help="A, then B")
    add("--net", choices=("inception", "none"), default="inception",
        help="of fid; none: mean colours, no FID")
    add("--size", type=jobs.at_least(8), default=64, help="of the images of fid (64 px)")
    args = parser.parse_args()
    dict(compare=compare, fid=fid)[args.command](args)


if __name__ == "__main__":
    jobs.run_cli(main)
