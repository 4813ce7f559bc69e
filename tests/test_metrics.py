import csv
import json
import re
import shutil

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from PIL import Image

import data
import metrics
from metrics import PRINTED, cells_of, counts

PAPER = PRINTED["wgan_gp"]
REPORTS = {table["id"]: [cell.strip("=d") for _, [(cell, _, _)] in cells_of(table) if cell != "="]
           for table in PAPER["tables"] if "job" in table}          # the five printed values, then four put right
RECOVERED = {"6": ((426, 34), (37, 367)), "7": ((417, 43), (29, 375)), "8": ((379, 81), (37, 367))}     # row = truth

# 40 labels and scores with ties; the constants below are scikit-learn's answers for them (1.7 and 1.9.1).
LABELS = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1,
                   1, 1, 1, 1, 0, 1])
SCORES = np.array([4, 3, 6, 3, 3, 6, 5, 6, 4, 3, 3, 4, 3, 1, 4, 4, 2, 3, 5, 1, 4, 5, 3, 5, 6, 4, 3, 3, 3, 8, 5, 6, 3, 5,
                   4, 3, 7, 5, 6, 6]) / 10
WEIGHTS = np.array([1, 2, 1, 2, 2, 2, 3, 0, 2, 1, 1, 0, 0, 1, 3, 0, 1, 3, 3, 0, 0, 2, 0, 1, 1, 3, 0, 2, 2, 0, 3, 3, 1,
                    3, 2, 3, 3, 2, 1, 0])
CHANCES = np.stack([1 - SCORES, SCORES + 1e-9], 1)                              # a score of .5 counts as malignant


# --- classification

def test_measures_equal_scikit_learn():
    ours = metrics.measures(LABELS, CHANCES)
    for name, value in dict(precision=0.6875, sensitivity=0.4583333333333333, f1=0.55, specificity=0.6875,
                            accuracy=0.55, auc=0.6471354166666666,
                            balanced_accuracy=0.5729166666666666, sensitivity_at_90=0.08333333333333333).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    weighted = metrics.auc(LABELS, SCORES, np.stack([WEIGHTS, np.ones(40)]))
    assert weighted[0] == pytest.approx(0.6304347826086957, abs=1e-12)
    # from its roc_curve, the first point with a false positive rate of .1, .2 or (weighted) .1 at most
    assert metrics.sensitivity_at(LABELS, SCORES, 0.8) == pytest.approx(0.2916666666666667)
    assert metrics.sensitivity_at(LABELS, SCORES, 0.9, np.stack([WEIGHTS, WEIGHTS]))[1] == pytest.approx(10 / 37)
    assert np.isnan(metrics.sensitivity_at([1, 1], [.2, .3])) and np.isnan(metrics.sensitivity_at([0, 0], [.2, .3]))
    x, y = metrics.roc_curve(LABELS, SCORES)
    assert x == pytest.approx([0, 0, 0, .125, .3125, .5, .8125, .875, 1])
    assert y == pytest.approx([0, 1 / 24, 2 / 24, 7 / 24, 11 / 24, 16 / 24, 1, 1, 1])


def test_confusion_rows_are_the_truth():
    assert metrics.confusion([0, 0, 1, 2, 2], [0, 1, 1, 0, 2], 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_weights_are_the_same_as_repeated_images():
    repeated = metrics.measures(np.repeat(LABELS, WEIGHTS), np.repeat(CHANCES, WEIGHTS, 0))
    weighted = metrics.measures(LABELS, CHANCES, np.stack([WEIGHTS, WEIGHTS]).astype(float))
    for name, value in repeated.items():
        assert weighted[name][1] == pytest.approx(value), name


def test_a_class_never_predicted_is_undefined_not_zero_and_json_holds_it():
    chances = np.tile([0.9, 0.1], (40, 1))
    result = metrics.evaluate(LABELS, chances, np.arange(40), ["benign", "malignant"])
    assert result["precision"] is None and result["sensitivity"][0] == 0 and result["auc"][0] == 0.5
    json.dumps(result, allow_nan=False)
    assert "never predicted" == metrics.number(metrics.summary([(LABELS, chances, np.arange(40))])["precision"])


def test_wilson_interval_in_closed_form():
    z, n, p = 1.959963984540054, 50, 0.9
    centre, shrink = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half = shrink * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics.rate(45, 50) == pytest.approx([p, centre - half, centre + half]) and metrics.rate(0, 0) is None
    # statsmodels 0.15.0, proportion_confint(3, 17, method="wilson")
    assert metrics.rate(3, 17) == pytest.approx([3 / 17, 0.061911266376209945, 0.4102945856883413])


def test_measures_of_three_classes_by_hand():
    """Rows (truth) 3 1 0, 0 2 2, 0 0 0: class c never occurs, but is predicted twice."""
    labels, predicted = [0] * 4 + [1] * 4, [0, 0, 0, 1, 1, 1, 2, 2]
    ours = metrics.measures(labels, np.eye(3)[predicted], None, ["a", "b", "c"])
    assert ours["accuracy"] == 5 / 8 and ours["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert (ours["precision:a"], ours["recall:a"], ours["f1:a"]) == (1, 3 / 4, pytest.approx(6 / 7))
    assert (ours["precision:b"], ours["recall:b"], ours["f1:b"]) == (pytest.approx(2 / 3), 2 / 4, pytest.approx(4 / 7))
    assert ours["precision:c"] == 0 and np.isnan(ours["recall:c"]) and "auc" not in ours
    two = metrics.measures(LABELS, CHANCES)
    assert two["recall:malignant"] == two["sensitivity"] and two["recall:benign"] == two["specificity"]
    assert two["precision:benign"] == two["printed_sensitivity"] and two["f1:malignant"] == two["f1"]


def test_evaluate_with_eight_classes():
    labels = np.arange(16) % 8
    result = metrics.evaluate(labels, np.eye(8)[labels], np.arange(16), [f"c{k}" for k in range(8)])
    assert result["accuracy"][0] == 1 and result["per_class"]["c3"]["sensitivity"][0] == 1 and result["loss"] < 1e-6


# --- bootstrap

def difference(*pairs, together=True, **how):
    """contrast of mean gains over pairs (before, after) of runs; together: all their trainings have one spread."""
    arms = {id(runs): metrics.arm(runs, **how) for pair in pairs for runs in pair}
    if together:
        arms = dict(zip(arms, metrics.pooled(list(arms.values()))))
    return metrics.contrast([(sign / len(pairs), arms[id(runs)]) for pair in pairs for sign, runs in zip((-1, 1), pair)])


def test_the_bootstrap_draws_lesions_and_covers_the_truth():
    weights = metrics.lesion_weights(("a", "b", "a", "c"), 500)
    assert (weights[:, 0] == weights[:, 2]).all() and weights[:, [0, 1, 3]].sum(1).tolist() == [3] * 500
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):                                           # accuracy .8 on 150 images, as single lesions
        labels = rng.integers(0, 2, 150)
        right = rng.random(150) < 0.8
        chances = np.eye(2)[np.where(right, labels, 1 - labels)]
        _, low, high = metrics.summary([(labels, chances, np.arange(150))], draws=300)["accuracy"]
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_the_interval_holds_seeds_and_lesions():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300)

    def run(accuracy, groups=np.arange(300)):
        return labels, np.eye(2)[np.where(rng.random(300) < accuracy, labels, 1 - labels)], groups

    def width(runs):
        _, low, high = metrics.summary(runs)["accuracy"]
        return high - low
    bad, good = run(0.7), run(0.9)
    # seeds that differ widen the interval
    assert width([bad, good]) > 1.5 * max(width([bad]), width([good]))
    labels_twice, chances_twice = np.repeat(labels, 4), np.repeat(good[1], 4, 0)
    grouped = width([(labels_twice, chances_twice, np.repeat(np.arange(300), 4))])
    # four views of a lesion tell nothing new
    assert grouped == pytest.approx(width([good]), rel=0.05)
    assert width([(labels_twice, chances_twice, np.arange(1200))]) < 0.6 * grouped


def test_difference_of_an_arm_with_itself_is_zero_and_a_planted_one_is_found():
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 2, 400), np.repeat(np.arange(200), 2)

    def arm(accuracy, seeds=3):
        return [(labels, np.eye(2)[np.where(rng.random(400) < accuracy, labels, 1 - labels)], groups)
                for _ in range(seeds)]
    same = arm(0.8)
    assert difference((same, same)) == [0, 0, 0, 1]
    gain, low, high, p = difference((arm(0.7), arm(0.85)))
    assert p < .05 and 0 < low < 0.15 < high and gain == pytest.approx(0.15, abs=0.05)
    bad, good = arm(0.6), arm(0.8)
    area = difference((bad, good), measure="auc", draws=200)
    assert area[0] == pytest.approx(np.mean([metrics.auc(labels, chances[:, 1]) for _, chances, _ in good])
                                    - np.mean([metrics.auc(labels, chances[:, 1]) for _, chances, _ in bad]))
    one, both = difference((bad, good)), difference((bad, good), (bad, good))
    assert both == pytest.approx(one)                              # the same pair twice is no further evidence
    assert difference((bad, good), (good, bad))[0] == pytest.approx(0)
    shared = difference(*((bad, arm(0.8)) for _ in range(8)))     # eight gains over one baseline hang together
    own = difference(*((arm(0.6), arm(0.8)) for _ in range(8)))
    assert shared[2] - shared[1] > 1.2 * (own[2] - own[1])
    for other in ([(1 - labels, same[0][1], groups)], [(labels, same[0][1], groups[::-1])]):
        with pytest.raises(data.UserError, match="same test images"):
            difference((same, other))
    with pytest.raises(data.UserError, match="seeds of an arm"):
        metrics.arm([same[0], (1 - labels, same[0][1], groups)])
    one_seed = difference((same[:1], good[:1]))            # an interval over lesions, but no p
    assert one_seed[3] is None and one_seed[1] < one_seed[0] < one_seed[2]


# --- statistics

def flat(values, variance=0.0, lesions=100, spread=None, own=0.0):
    """An Arm with these values, whose lesions are worth a given variance of its mean; own: that of each seed for itself."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=1000)
    boot = np.tile(draws * variance ** .5 / draws.std(), (len(values), 1))
    boot = boot + own ** .5 * rng.normal(size=boot.shape)
    return metrics.pooled([metrics.Arm(np.array(values), boot, lesions, 0, None)])[0]._replace(**dict(spread=spread) if spread else {})


def equals(ours, test):
    """Whether a contrast has the interval and the p of one of scipy's t-tests."""
    return ours[1:] == pytest.approx([*test.confidence_interval(), test.pvalue])


def test_contrast_in_closed_form():
    x, y = np.array([.81, .84, .80]), np.array([.86, .88, .85])
    arms = flat(x), flat(y)
    # only the trainings: Student's t-test with pooled variance
    arms = metrics.pooled(arms)
    assert arms[0].spread == pytest.approx((((x.var(ddof=1) + y.var(ddof=1)) / 2) ** .5, 4)) == arms[1].spread
    ours = metrics.contrast([(-1, arms[0]), (1, arms[1])])
    assert ours[0] == pytest.approx(y.mean() - x.mean()) and equals(ours, scipy.stats.ttest_ind(y, x))
    # lesions and trainings: Welch's, whose two variances are theirs
    a, b = np.array([.3, .9, .5, .8, .6]), np.array([.2, .4, .1])
    one = flat([a.mean() - b.mean()] * 3, a.var(ddof=1) / 5, lesions=5, spread=(b.std(ddof=1), 2))
    assert equals(metrics.contrast([(1, one)]), scipy.stats.ttest_ind(a, b, equal_var=False))
    assert metrics.contrast([(1, one), (-1, one)]) == [0, 0, 0, 1]              # one arm, not two
    # two arms of different spread: Welch's again, each with its own
    x, y = np.array([.3, .9, .5, .8, .6]), np.array([.2, .4, .1])
    assert equals(metrics.contrast([(1, flat(x)), (-1, flat(y))]), scipy.stats.ttest_ind(x, y, equal_var=False))
    # what each seed gets wrong for itself is in the spread of the trainings already: not counted twice
    for own, training in ((0, .1 ** 2), (.005, .1 ** 2), (.02, .02)):          # but it is the least
        arm = flat([.8] * 5, .01, 10 ** 6, (.1, 10 ** 6), own)
        half = scipy.stats.norm.ppf(.975) * (.01 + training / 5) ** .5
        assert metrics.contrast([(1, arm)])[2] - .8 == pytest.approx(half, rel=.03)
    assert flat([.8]).spread == (0, 0) and metrics.contrast([(1, flat([.8]))]) == [.8, .8, .8, None]


def simulated(rng, arms, seeds=3, images=300, lesions=200):
    """Runs of arms of given accuracies: hard and easy lesions, good and bad trainings, errors of their own."""
    groups, labels = rng.integers(0, lesions, images), rng.integers(0, 2, images)
    easy, spread = rng.normal(size=lesions)[groups], (1 + .05 ** 2 + .5 ** 2) ** .5
    runs = []
    for accuracy in arms:
        scores = [easy + spread * scipy.stats.norm.ppf(accuracy) + .05 * rng.normal() + .5 * rng.normal(size=images)
                  for _ in range(seeds)]
        runs.append([(labels, np.eye(2)[np.where(score > 0, labels, 1 - labels)], groups) for score in scores])
    return runs


@pytest.mark.parametrize("shuffled", [False, True])
def test_no_more_and_no_fewer_false_alarms_than_announced_and_eight_points_are_found(shuffled):
    """shuffled: the test images' labels are permuted, so that nothing can be learned."""
    rng, alarms, verdicts = np.random.default_rng(0), 0, []
    for _ in range(200):
        both = sum(simulated(rng, [.78, .78]), [])                 # six trainings of one kind, dealt to two arms
        labels = rng.permutation(both[0][0]) if shuffled else both[0][0]
        dealt = [(labels, *both[k][1:]) for k in rng.permutation(6)]
        *gain, p = difference((dealt[:3], dealt[3:]), draws=200)
        alarms += p < .05
        assert (p < .05) == (not gain[1] <= 0 <= gain[2])
        verdicts.append(metrics.verdict(.03, gain, p, "small"))
    fewest, most = scipy.stats.binom(200, .05).ppf([.0005, .9995])
    assert fewest <= alarms <= most and 1 <= fewest
    assert verdicts.count("reproduced") <= scipy.stats.binom(200, .025).ppf(.9995)
    found = sum(difference(simulated(rng, [.78, .86]), draws=200)[1] > 0 for _ in range(100))
    assert found >= 90


def worth_of_runs(triples, **how):
    arms = {id(runs): metrics.arm(runs, **how) for triple in triples for runs in triple}
    arms = dict(zip(arms, metrics.pooled(list(arms.values()))))
    return metrics.worth([[arms[id(runs)] for runs in triple] for triple in triples])


def test_worth_of_gan_images():
    rng = np.random.default_rng(2)
    real, gan, oracle = simulated(rng, [.60, .75, .90], images=2000, lesions=1500)
    x, low, high = worth_of_runs([(real, gan, oracle)], draws=500)
    assert 0 < low < .5 < high < 1 and low < x < high
    assert worth_of_runs([(real, real, oracle)])[0] == 0           # worthless, with an interval around it
    assert worth_of_runs([(real, oracle, oracle)]) == pytest.approx([1, 1, 1])
    # sizes that follow each other: the oracle of one is the real arm of the next, and cancels out
    assert worth_of_runs([(real, gan, gan), (gan, oracle, oracle)]) == pytest.approx([1, 1, 1])
    two = worth_of_runs([(real, gan, gan), (gan, gan, oracle)])
    gain, total = difference((real, gan))[0], difference((real, oracle))[0]
    assert two[0] == pytest.approx(gain / total) and two[1] < two[0] < two[2]
    # trainings without spread: Fieller's quadratic, from the bootstrap's covariance of the two gains
    a, b, c = (metrics.arm(arm[:1])._replace(spread=(0.0, 1)) for arm in (real, gan, oracle))
    gains = np.array([b.values[0] - a.values[0], c.values[0] - a.values[0]])
    limit = np.outer(gains, gains) - scipy.stats.t(a.lesions - 1).ppf(.975) ** 2 * np.cov(
        [b.boot[0] - a.boot[0], c.boot[0] - a.boot[0]], ddof=0)
    roots = sorted(np.roots([limit[1, 1], -2 * limit[0, 1], limit[0, 0]]))
    assert metrics.worth([(a, b, c)]) == pytest.approx([gains[0] / gains[1], *roots])
    assert worth_of_runs([[arm[:1] for arm in (real, gan, oracle)]])[1:] == [-np.inf, np.inf]     # one seed: no interval
    # further real images that do not help: no bounds
    assert worth_of_runs([(real, gan, real)])[1:] == [-np.inf, np.inf]
    assert worth_of_runs([(oracle, gan, real)])[1:] == [-np.inf, np.inf]


def test_mcnemar_and_holm_equal_statsmodels():
    """statsmodels 0.15.0: mcnemar([[30, 12], [5, 20]], exact=True) and multipletests(method="holm")."""
    a, b = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [30, 12, 5, 20], axis=0).astype(bool).T
    assert metrics.mcnemar(a, b) == metrics.mcnemar(b, a) == pytest.approx(0.143463134765625)
    assert metrics.mcnemar(a, a) == 1
    assert metrics.holm([.01, .04, .03, .005, .2]) == pytest.approx([.04, .09, .09, .025, .2])
    assert metrics.holm([.001, None, .3, .3, .02, .9]) == pytest.approx([.005, None, .9, .9, .08, .9])
    assert metrics.holm([None]) == [None] and metrics.holm([]) == []


def test_delong_equals_mlstatkit_and_brute_force():
    other = np.array([5, 6, 9, 3, 4, 6, 7, 6, 5, 0, 5, 5, 5, 1, 3, 6, 3, 4, 5, 2, 4, 3, 4, 4, 4, 3, 3, 1, 1, 9, 7, 7, 3,
                      7, 6, 4, 9, 8, 6, 6]) / 10
    gain, error, p = metrics.delong(LABELS, SCORES, other)         # MLstatkit 0.1.91, Delong_test
    assert (gain, error ** 2, p) == pytest.approx((0.8111979166666667 - 0.6471354166666667, 0.004082023387177939,
                                                   0.010232805798890026))
    labels, a, b = [1, 1, 1, 0, 0], np.array([3, 2, 1, 2, 0]), np.array([1, 5, 2, 1, 4])
    above = [[[(x > y) + (x == y) / 2 for y in scores[3:]] for x in scores[:3]] for scores in (a, b)]
    more = np.array(above[1]) - above[0]
    assert metrics.delong(labels, a, b)[:2] == pytest.approx(
        (more.mean(), (more.mean(1).var(ddof=1) / 3 + more.mean(0).var(ddof=1) / 2) ** .5))
    assert metrics.delong(LABELS, SCORES, SCORES) == (0, 0, 1)


@pytest.mark.parametrize("gain, p, expected", [
    ([.09, .05, .13], .001, "reproduced"), ([.05, .02, .08], .01, "same direction"),
    ([.01, -.03, .05], .6, "not reproduced"), ([-.06, -.09, -.03], .01, "not reproduced"),
    ([.04, -.03, .11], .2, "cannot be tested here"), ([.05, .005, .11], .06, "cannot be tested here"),   # Holm's p
    (None, None, "cannot be tested here"), ([np.nan] * 3, np.nan, "cannot be tested here")])
def test_verdicts_on_a_claim_of_ten_points(gain, p, expected):
    assert metrics.verdict(.1, gain, p, "small") == expected
    assert metrics.verdict(-.1, gain and [-gain[0], -gain[2], -gain[1]], p, "paper") == expected
    assert metrics.verdict(.1, gain, p, "quick") == "cannot be tested here"


@pytest.mark.parametrize("gain, p, expected", [
    ([.002, -.008, .009], .7, "reproduced"), ([.006, .003, .009], .001, "reproduced"),
    ([.03, .01, .05], .01, "not reproduced"), ([.03, -.02, .05], .2, "cannot be tested here"),
    ([.008, .004, .012], .01, "cannot be tested here"), (None, None, "cannot be tested here")])
def test_verdicts_on_a_claim_of_no_effect(gain, p, expected):
    assert metrics.verdict(("none", .01), gain, p, "small") == expected


# --- copying

def blobs(rng, n, side=32):
    """Smooth random images, uint8 (n, side, side, 3)."""
    return rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8).repeat(side // 4, 1).repeat(side // 4, 2)


def test_nearest_finds_copies_and_nothing_else():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):                                            # though train has three times as many images
        train, held_out, made = blobs(rng, 120), blobs(rng, 40), blobs(rng, 200)
        _, low, high = metrics.nearest(made, train, held_out)["closer_to_train"]
        alarms += not low <= .5 <= high
    assert alarms <= scipy.stats.binom(60, .05).ppf(.9995)
    train, held_out, made = blobs(rng, 300), blobs(rng, 100), blobs(rng, 620)
    fair = metrics.nearest(made, train, held_out)
    assert (fair["n"], fair["per_side"]) == (620, 100)
    assert fair["distance_train"] == pytest.approx(fair["distance_held_out"], rel=.05) and fair["distance_train"] > 20
    assert metrics.nearest(made, train, held_out) == fair != metrics.nearest(made, train, held_out, seed=1)
    json.dumps(fair, allow_nan=False)
    copies = metrics.nearest(train[::-1][:100], train, blobs(rng, 300))
    assert copies["closer_to_train"][0] == 1 and copies["distance_train"] == pytest.approx(0, abs=1e-4)
    made[7] = train[11] // 2 + train[11] // 2                      # one copy, off by a grey level here and there
    (which, of, distance), *others = metrics.nearest(made, train, held_out)["pairs"]
    assert (which, of) == (7, 11) and distance < 1 and len(others) == 9 and min(others, key=lambda x: x[2])[2] > 10
    gap = metrics.nearest(np.full((1, 40, 40, 3), 9, np.uint8), *np.full((2, 3, 40, 40, 3), 4, np.uint8))   # 16 x 2.5
    assert gap["pairs"][0] == (0, 0, 5) and gap["closer_to_train"] is None and gap["distance_held_out"] == 5
    with pytest.raises(data.UserError, match="none"):
        metrics.nearest(made, train, held_out[:0])


# --- paper 000's numbers

@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_the_recovered_matrices_give_the_printed_tables_digit_by_digit(table):
    values = metrics.matrix_measures(RECOVERED[table])
    names = [f"printed_{name}" for name in ("sensitivity", "specificity", "precision", "accuracy", "f1")]
    names += ["sensitivity", "specificity", "precision", "f1"]
    assert [f"{values[name]:.4f}".lstrip("0") for name in names] == REPORTS[table]
    assert np.sum(RECOVERED[table], 1).tolist() == [460, 404]


@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_mark_d_by_integer_search(table):
    printed = dict(zip(("sensitivity", "specificity", "precision", "accuracy", "f1"), REPORTS[table]))
    for sizes in ((460, 404), (404, 460)):                         # the true class sizes, whichever class is positive
        assert not [*metrics.matrices(printed, sizes=sizes), *metrics.matrices(printed, sizes=sizes, cut=True)]
    (right_b, wrong_b), (wrong_m, right_m) = RECOVERED[table]      # any sizes: one, and its columns are the true sizes
    assert list(metrics.matrices(printed, n=864)) == [(right_b, wrong_m, wrong_b, right_m)]


def says(study, *texts):
    """Assert that the study's audit holds each text; texts without a leading zero, as in the papers."""
    lines = "\n".join(PRINTED[study]["audit"])
    for text in texts:
        assert text.replace("0.", ".") in lines.replace("0.", "."), text


def z_and_p(k, n, other_k, other_n):
    """Two shares, unpaired: z and its two-sided p."""
    both = (k + other_k) / (n + other_n)
    z = (k / n - other_k / other_n) / (both * (1 - both) * (1 / n + 1 / other_n)) ** .5
    return z, 2 * scipy.stats.norm.sf(abs(z))


def test_the_other_marks_and_the_audit_of_paper_000():
    real, hybrid = (dict(table_of("wgan_gp", number)) for number in "45")
    for name, ((accuracy, marks), _, (validation, other)) in real.items():
        fits = [counts(accuracy, n, cut) for n in (660, 864, 2637) for cut in (False, True)]
        assert ("b" in marks) == (not any(fits)) and ("c" in marks) == (fits[0] == [] and fits[1] == [539])
        gain, same = float(hybrid[name][0][0]) - float(accuracy), hybrid[name][2][0] == validation
        assert (other == "e") == (hybrid[name][2][1] == "e") == (same and round(gain, 3) == .101)
    right = [counts(cells[0][0], 864) for cells in hybrid.values()]
    assert right == [[746], [792], [793]]                          # Table 5 is the mixed test: 660 has none of them
    fewer = [(k - 204) / 660 for k, in right]
    assert [share < float(cells[0][0]) for share, cells in zip(fewer, real.values())] == [True, True, False]
    assert counts(".8600", 864) == [743] and not counts(".8600", 660) and real["CNN"][0][0] > hybrid["CNN"][0][0]
    says("wgan_gp", f"2,219 + 460 - 1,800 = {2219 + 460 - 1800}", f"1,981 + 404 - 1,497 = {1981 + 404 - 1497}",
         f"{460 - 360} benign, {404 - 300} malignant", f"{864 - 660} of the hybrid set", *(f"{x:.4f}" for x in fewer))


def test_printed_layer_tables_sum_to_the_printed_totals():
    totals = {table: sum(int(count.rstrip("a")) for *_, count in metrics.layers_of(text))
              for table, _, _, text in PAPER["layers"]}
    assert totals == {"1": 2_766_593, "2": 33_767_777, "3": 39_473_507}
    assert 3 * 64 * 16 == 3072                                     # mark a: the printed first row has no bias


# --- the other papers' numbers: each mark, each value without one, and each line of the audit

def fits(value, printed, digits=3):
    """Where a value rounds to the printed one, either way at a tie."""
    return np.abs(value - printed) <= 0.5 * 10.0 ** -digits + 1e-9


def split_mark(text):
    value, marks = re.fullmatch(r"=?([^a-z]*)([a-z]*)", text).groups()
    return value, marks


def table_of(study, number):
    """[(label, [(value as text, marks), ...])] of a printed table."""
    table = next(table for table in PRINTED[study]["tables"] if table["id"] == number)
    return [(label, [split_mark(value) for value, *_ in cells]) for label, cells in cells_of(table)]


ROWS_001 = [(f"{number}: {label}", [value for value, _ in cells], [marks for _, marks in cells])
            for number in "234" for label, cells in table_of("dcgan_cls", number)]


@pytest.mark.parametrize("label, values, marks", ROWS_001, ids=[row[0] for row in ROWS_001])
def test_the_marks_of_paper_001_row_by_row(label, values, marks):
    printed = dict(zip(("accuracy", "precision", "sensitivity"), values))
    accuracy, precision, recall, f1, area = map(float, values)
    p, r = np.meshgrid([precision - .005, precision + .005], [recall - .005, recall + .005])
    possible = 2 * p * r / (p + r)
    assert ("a" in marks[3]) == (not possible.min() - .005 <= f1 <= possible.max() + .005)
    assert ("b" in marks[0]) == (not counts(values[0], 851))
    assert ("c" in marks[0]) == (label in ("2: 128", "3: 0.0002", "4: Adam"))
    for sizes in ((471, 380), (380, 471)):                         # d: whichever class is positive
        assert not list(metrics.matrices(printed, sizes=sizes)) and "d" in marks[0]
    assert ("e" in marks[4]) == (area == round(733 / 851, 3))
    share = [(1 - a) / (1 - rr + rr * (1 - pp) / pp) for a in (accuracy - .0005, accuracy + .0005)
             for pp, rr in zip(p.flat, r.flat)]
    assert .215 < min(share) and max(share) < .485                 # the shares of positive images that mark d states
    if label in ("2: 100", "2: 128"):                              # .38 to .42 and .22 to .24: not one test set
        assert (min(share) > .38) == (label == "2: 100") and (max(share) < .25) == (label == "2: 128")


def test_the_other_marks_of_paper_001():
    (positive, wrong), (missed, negative) = PRINTED["dcgan_cls"]["matrices"]["17"][0]
    assert positive + wrong + missed + negative == 851 and positive + negative == 733 and round(733 / 851, 3) == .861
    rows = [row[1] for row in ROWS_001 if row[0] in ("2: 128", "3: 0.0002", "4: Adam")]
    assert len({tuple(row) for row in rows}) == 3                  # c: one configuration, three rows
    assert int(1000 * positive / (positive + missed)) == 903       # b: the precision of Figure 17, cut off
    share = 1800 / 3297                                            # benign; a random test part without replacement:
    spread = (851 * share * (1 - share) * (3297 - 851) / 3296) ** .5
    assert [round((positive + wrong - 851 * p) / spread, 1) for p in (share, 1 - share)] == [.5, 6.8]
    before, after = (dict(((row[0], row) for row in ROWS_001))[f"3: {rate}"] for rate in ("0.001", "0.0002"))
    assert [mark == "g" for mark in after[2]] == [float(b) < float(a) for a, b in zip(before[1], after[1])]
    distances = {label: float(cells[0][0].split("±")[0]) for label, cells in table_of("dcgan_cls", "6")}
    assert distances["LAPGAN [16]"] < distances["DCGAN"] < distances["GAN [21]"]         # f
    assert f"{positive / (positive + wrong):.3f}" == "0.839"
    says("dcgan_cls", f"1,800 + 1,497 = {1800 + 1497:,}, exactly {3597 - 3297} fewer",
         f"{85100 / 3297:.1f} % of 3,297, or {85100 / 3597:.1f} % of 3,597",
         "{:.1f} [{:.1f}, {:.1f}] %".format(*np.multiply(100, metrics.rate(positive + negative, 851))),
         f"{negative} of {missed + negative} malignant", f"({negative / (missed + negative):.3f})",
         f"{negative / (negative + wrong):.3f}")


TEST_002 = {label: int(cells[2][0]) for label, cells in table_of("acgan_cyclegan", "1")}


def possible(precision, recall, n):
    """{k} such that recall is k / n and precision k / m for some m, to the three decimals printed (.88 is .880)."""
    printed = {name: f"{float(text):.3f}" for name, text in (("precision", precision), ("sensitivity", recall))}
    return {tp for tp, *_ in metrics.matrices(printed, sizes=(n, 2534 - n))}


def test_table_1_of_paper_002_adds_up():
    *rows, (_, total) = table_of("acgan_cyclegan", "1")
    assert [sum(int(cells[part][0]) for _, cells in rows) for part in range(3)] == [int(value) for value, _ in total]


def test_every_cell_of_table_2_of_paper_002_is_possible_on_its_test_part():
    classes, checked = "MEL NV BCC AK BKL DF VASC SCC".split(), 0
    for label, cells in table_of("acgan_cyclegan", "2"):
        values = [value for value, _ in cells]
        right = [possible(p, r, TEST_002[name]) for name, p, r in zip(classes, values[0:16:2], values[1:16:2])]
        assert all(right) and not any(marks for _, marks in cells), label
        low, high = (sum(pick(ks) for ks in right) / 2534 for pick in (min, max))
        assert low - .0005 <= float(values[16]) <= high + .0005, label    # and the hits add up to the printed accuracy
        checked += len(right)
    assert checked == 88


def test_the_six_marked_cells_of_table_3_of_paper_002_are_the_impossible_ones():
    marked = []
    for label, cells in table_of("acgan_cyclegan", "3")[:-1]:
        for k in (0, 3, 6, 9):
            (_, mark), (precision, mark_p), (recall, mark_r) = cells[k:k + 3]
            assert bool(mark_p or mark_r) == (not possible(precision, recall, 452)), (label, k)
            assert ("a" in mark_r) == (not counts(recall, 452)) and not mark
            marked += [label] if mark_p or mark_r else []
    assert marked == ["500", "3000", "3000", "4000", "4000", "6000"]
    for label, cells in table_of("acgan_cyclegan", "3")[:-1]:      # the note's denominator
        assert any(fits(int(label) / (13918 + int(label)), share)
                   for share in (.035, .067, .1256, .177, .223, .264, .301, .335))


def test_the_audit_of_paper_002():
    baseline, best = (counts(text, 2534) for text in (".856", ".865"))
    z, p = z_and_p(max(best), 2534, min(baseline), 2534)
    rows = [(label, [float(value) for value, _ in cells]) for label, cells in table_of("acgan_cyclegan", "3")[:-1]]
    n = np.repeat([int(label) for label, _ in rows], 4)
    accuracy, precision, recall = np.array([values for _, values in rows]).reshape(-1, 3).T
    with_gan = np.array([float(cells[16][0]) for _, cells in table_of("acgan_cyclegan", "2")[:-1]])
    assert len(with_gan) + len(n) == 42 and accuracy.max() == .865 > with_gan.max()
    trends = [scipy.stats.spearmanr(n, values) for values in (recall, precision, accuracy)]
    says("acgan_cyclegan", f"{max(best):,} against {min(baseline):,} of 2,534", f"z = {z:.2f}, p = {p:.2f}",
         f"deviation of {accuracy.std(ddof=1):.4f}", f"{(.856 * .144 / 2534) ** .5:.4f}",
         f"{with_gan.mean():.4f} (standard deviation {with_gan.std(ddof=1):.4f})",
         f"Spearman {trends[0][0]:.2f}, p = {trends[0][1]:.0e}".replace("e-0", "e-"),
         f"p = {trends[1][1]:.2f}, {trends[2][1]:.2f}".replace(", 0", ", "))


def test_the_accuracies_of_paper_003_are_counts_of_400_cut_off():
    for number in "23":
        for _, ((accuracy, mark), (loss, other)) in table_of("dermagan", number):
            whole = bool(counts(f"{float(accuracy):.2f}%", 400))
            assert whole == ("a" not in mark)
            nearest = min(range(401), key=lambda k: abs(k / 4 - float(accuracy)))
            single = float(np.float32(nearest / 400)) * 1e4        # float32(.655) is .65499997
            assert float(accuracy) in (int(single + (1e-6 if whole else 0)) / 100, nearest / 4)
    assert int(.8166 * 1000) == 816 and round(.8166, 3) == .817
    assert dict(table_of("dermagan", "2"))["without GAN images"][1] == (".816", "b")
    matrix = np.array(PRINTED["dermagan"]["matrices"]["9"][0])
    assert matrix.sum(1).tolist() == [100] * 4 and np.trace(matrix) == 107
    z, p = z_and_p(288, 400, 262, 400)
    exact = scipy.stats.fisher_exact([[288, 112], [262, 138]]).pvalue
    sides = (64 - 1 - 2 - 4, (64 // 2 - 2) // 5)                   # pool 2, 3 x 3, pool 5: stride 1, or as the pool
    weights = [4 * 60 + (9 * 60 + 1) * 50 + (side ** 2 * 50 + 1) * 256 + 257 * 128 + 129 * 4 for side in sides]
    says("dermagan", f"z = {z:.2f}, p = {p:.3f} (Fisher's exact test: {exact:.3f})",
         f"{330000 / 2650 - 100:.1f} % more", f"274 of 400 is p = {z_and_p(288, 400, 274, 400)[1]:.2f}",
         f"{weights[0]:,} parameters", f"{weights[1]:,}",
         f"chi-squared: p = {scipy.stats.chi2_contingency(matrix).pvalue:.2f}")


def test_the_mark_and_the_audit_of_paper_004_by_search():
    values = [cells[0] for _, cells in table_of("dcgan_inception", "3")]
    assert values == [(".8770", "a"), (".8875", "a")]
    for n in (*range(1618, 1622), *range(3238, 3242)):
        rounded, cut = ([counts(value, n, cut) for value, _ in values] for cut in (False, True))
        assert rounded == ([[1419], [1436]] if n == 1618 else [[], []])
        assert cut == {1618: rounded, 1619: [[1420], [1437]], 3238: [[2840], [2874]]}.get(n, [[], []])
    as_benign, as_malignant = (
        set(metrics.matrices(dict(precision=p, sensitivity=r, f1=f, accuracy=".8875"), n=1618))
        for _, ((p, _), (r, _), (f, _)) in table_of("dcgan_inception", "2"))
    ratios = [(tp + fn) / (fp + tn) for tp, fn, fp, tn in as_benign if (tn, fp, fn, tp) in as_malignant]
    assert 1.16 < min(ratios) and max(ratios) < 1.25 and f"{8833 / 7361:.2f}" == "1.20"
    zs = [z_and_p(.8875 * n, n, .8770 * n, n) for n in (1619, 3239, 4858)]
    assert min(p for _, p in zs) > .1
    says("dcgan_inception", f"7,361 + 1,176 malignant images are {7361 + 1176:,}", f"takes {8833 - 7361:,}",
         f"{.8 * (8833 - 7361):,.1f}", "z = {:.2f}, {:.2f} or {:.2f}".format(*(z for z, _ in zs)))


def test_audit_command(cli, refused):
    row = "sensitivity=.9201 specificity=.9152 precision=.9261 accuracy=.9178 f1=.9231".split()
    matrix = "positives: 426 right, 37 wrong; negatives: 367 right, 34 wrong\n"
    assert cli("metrics", "audit", "--n", 864, *row)[1] == matrix
    assert cli("metrics", "audit", "--sizes", 460, 404, *row)[1] == "no integer counts give these values\n"
    assert cli("metrics", "audit", "--n", 400, "accuracy=72.0%")[1] == "288 of 400 right\n"
    assert "cut off, not rounded:\n2840 of 3238 right" in cli("metrics", "audit", "--n", 3238, "accuracy=.8770")[1]
    assert cli("metrics", "audit", "--n", 3238, "accuracy=.9")[1].count("\n") == 11     # ten of many, and dots
    refused(["acc=.9", "MEASURE=VALUE", "sensitivity"], "metrics", "audit", "--n", 9, "acc=.9")
    refused(["--n", "--sizes"], "metrics", "audit", "accuracy=.9")
    refused(["'high'", ".9201"], "metrics", "audit", "--n", 9, "accuracy=high")
    refused(["92.01", "92.01%"], "metrics", "audit", "--n", 9, "sensitivity=92.01")


def test_every_letter_of_a_printed_value_has_its_reason_and_every_reason_is_used():
    for study, paper in PRINTED.items():
        values = [value for table in paper["tables"] for _, cells in cells_of(table) for value, *_ in cells]
        values += [count for *_, text in paper.get("layers", ()) for *_, count in metrics.layers_of(text)]
        assert set("".join(split_mark(value)[1] for value in values)) == set(paper["marks"]), study


def test_wanted_cells():
    names = [name for study in PRINTED for name in metrics.wanted_cells(study)]
    assert len(names) > 90 and not any(re.search(r"[\s,]", name) for name in names)
    assert metrics.wanted_cells("wgan_gp")["T5:CNN"] == "cnn_hybrid"
    assert metrics.wanted_cells("wgan_gp")["F2:benign"] == "gan_benign"
    cells = metrics.wanted_cells("acgan_cyclegan")
    expected = {"T2:ISIC-0": "isic0", "T2:acgan": "acgan_row", "T3:1/8": "row_8", "T1": "data", "F5": "data"}
    assert expected.items() <= cells.items()
    assert metrics.wanted_cells("dcgan_inception")["T3:original:64"] == "original_64"
    assert metrics.wanted_cells("dcgan_cls")["T5"] == "base"       # its other rows are quotations


# --- Frechet distance

def reference(x, y):
    """The textbook formula with scipy's matrix square root."""
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * np.real(root))


def test_frechet_of_equal_sets_is_zero():
    rng = np.random.default_rng(0)
    for n, d in ((50, 8), (8, 50)):
        x = rng.normal(size=(n, d))
        assert abs(metrics.frechet(x, x)) < 1e-8 and abs(metrics.frechet(x, x[rng.permutation(n)])) < 1e-8


def test_frechet_of_gaussians_in_closed_form():
    """Equal covariance: squared mean gap. Diagonal covariances a^2 and b^2: mean gap + sum (a - b)^2."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 6))
    white = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T          # sample covariance exactly 1
    gap, a, b = np.arange(6.0), np.linspace(0.5, 2, 6), np.linspace(1.5, 0.2, 6)
    assert metrics.frechet(x, x + gap) == pytest.approx((gap ** 2).sum())
    assert metrics.frechet(white * a, white * b + gap) == pytest.approx((gap ** 2).sum() + ((a - b) ** 2).sum())


def test_frechet_agrees_with_sqrtm():
    rng = np.random.default_rng(2)
    mixing = rng.normal(size=(64, 64))
    x, y = rng.normal(size=(300, 64)) @ mixing, rng.normal(size=(200, 64)) * 1.3 + 0.2
    assert metrics.frechet(x, y) == pytest.approx(reference(x, y), rel=1e-8)


@pytest.mark.parametrize("n", [29, 30, 31, 32, 60])
def test_both_ways_of_the_trace_agree_around_n_equal_d(n):
    """d = 30: the cross matrix of the images (n <= d) and the triangular factors (n > d) give the same number."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 30)), rng.normal(size=(45, 30)) @ rng.normal(size=(30, 30))
    eigenvalues = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real.clip(0)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T))
    assert metrics.frechet(x, y) == pytest.approx(expected - 2 * np.sqrt(eigenvalues).sum(), rel=1e-6)
    assert metrics.frechet(x, y) == pytest.approx(metrics.frechet(y, x), rel=1e-10)
    assert metrics.frechet(x, y) == pytest.approx(metrics.frechet(x[rng.permutation(n)], y), rel=1e-10)


def test_fid_command(tmp_path, cli, refused):
    rng = np.random.default_rng(3)
    np.save(tmp_path / "a.npy", rng.normal(size=(40, 5)))
    np.save(tmp_path / "b.npy", rng.normal(size=(40, 5)) + 3)
    status, out, _ = cli("metrics", "fid", tmp_path / "a.npy", tmp_path / "b.npy")
    assert status == 0 and out.startswith("FD ") and "n 20 a side" in out
    distance, floor = float(out.split()[1]), float(out.split("floor")[1].split()[0])
    assert distance == pytest.approx(45, rel=0.3) and floor < 3
    data.built_in(40, 32).save(tmp_path / "lesions.npz")
    data.built_in(16, 32, seed=1).save(tmp_path / "tree")
    _, out, _ = cli("metrics", "fid", tmp_path / "lesions.npz", tmp_path / "tree", "--size", 32, "--net", "none")
    assert out.startswith("FD-8x8") and "not an FID" in out and "KID" in out
    refused(["32 px", "48 px", "cannot be compared"], "metrics", "fid", tmp_path / "lesions.npz", tmp_path / "tree",
            "--size", 48, "--net", "none")
    np.save(tmp_path / "c.npy", np.zeros((9, 4)))
    refused(["cannot be compared"], "metrics", "fid", tmp_path / "a.npy", tmp_path / "c.npy")
    (tmp_path / "d.npy").write_text("no array")
    refused(["d.npy", "not a feature array"], "metrics", "fid", tmp_path / "d.npy", tmp_path / "c.npy")


# --- KID, Inception score, and the network of the FID

def test_kid_in_closed_form():
    x, y = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([[0.0, 0], [2, 0]])
    # off-diagonal kernels of x: (1,2) twice; (1,3), (2,3) twice
    inside = (.5 * 0 + 1) ** 3 * 2 + 4 * (.5 * 1 + 1) ** 3
    across = np.mean([(a @ b / 2 + 1) ** 3 for a in x for b in y])
    assert metrics.kid(x, y) == pytest.approx(inside / 6 + 1 - 2 * across)
    rng = np.random.default_rng(0)
    same = [metrics.kid(*rng.normal(size=(2, 40, 5))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 200 ** .5       # unbiased: zero on average, and of either sign
    assert min(same) < 0 < max(same) and metrics.kid(rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 2) > max(same)


def test_inception_score_in_closed_form():
    # every image the same guess
    assert metrics.inception_score(np.full((400, 5), .2)) == pytest.approx((1, 0))
    # sure, and all classes alike
    assert metrics.inception_score(np.eye(5)[np.arange(1000) % 5]) == pytest.approx((5, 0))
    half = np.array([[.75, .25], [.25, .75]] * 200)
    assert metrics.inception_score(half)[0] == pytest.approx(np.exp(.75 * np.log(1.5) + .25 * np.log(.5)))
    with pytest.raises(data.UserError, match="at least 4"):
        metrics.inception_score(half[:3])


@pytest.fixture(scope="module")
def fid_weights(tmp_path_factory):
    """A file of random weights with the published ones' names and shapes, the same on every machine."""
    from torchvision.models import inception_v3
    rng, net = np.random.default_rng(7), inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    weights = net.state_dict()
    for name, value in weights.items():
        if name.endswith("conv.weight") or name == "fc.weight":
            scale = np.float32((2 / value[0].numel()) ** 0.5)
            weights[name] = torch.from_numpy(rng.standard_normal(value.shape, np.float32) * scale)
        elif name.endswith(("running_var", "bn.weight")):
            weights[name] = torch.ones_like(value)
        elif name.endswith(("running_mean", "bias")):
            weights[name] = torch.from_numpy(rng.standard_normal(value.shape, np.float32) / 10)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(weights, path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                # two threads wait for each other on a busy machine
    yield path
    torch.set_num_threads(threads)


def test_the_fid_network_gives_the_features_of_pytorch_fid(fid_weights):
    """The numbers are those of pytorch-fid 0.3.0 with these weights; torchvision's own pooling is off by up to 2.2."""
    images = np.random.default_rng(8).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    net = metrics.fid_network(fid_weights)
    features, logits = metrics.fid_features(images, net, batch=1)
    assert features.shape == (2, 2048) and features.dtype == np.float64 and logits.shape == (2, 1008)
    assert features[0, :4] == pytest.approx([2.3431742191314697, 0, 0.025481779128313065, 0], abs=1e-4)
    assert features[1, -4:] == pytest.approx([4.079399108886719, 3.0193941593170166, 3.7556018829345703,
                                              1.2811236381530762], abs=1e-4)
    assert features.mean(1) == pytest.approx([0.7066206932067871, 0.6945877075195312], abs=1e-5)
    head = torch.load(fid_weights, weights_only=True)["fc.weight"].double().numpy()
    assert logits == pytest.approx(features @ head.T, abs=1e-6)


def test_fid_command_with_weights_and_without_a_network(fid_weights, tmp_path, cli, refused, monkeypatch):
    data.built_in(8, 32).save(tmp_path / "a.npz")
    data.built_in(4, 32, seed=1).save(tmp_path / "b.npz")
    status, out, _ = cli("metrics", "fid", tmp_path / "a.npz", tmp_path / "b.npz", "--net", fid_weights)
    assert status == 0 and out.startswith("FID ") and "random.pth" in out and "32 px, resized to 299" in out
    assert "n 4 a side" in out

    def offline(*_, **__):
        raise OSError("no network")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    refused(["no network", "pt_inception-2015-12-05-6726825d.pth", "checkpoints", "--net none"], "metrics", "fid",
            tmp_path / "a.npz", tmp_path / "b.npz")
    refused(["none.pth", "inception, none or a weights file"], "metrics", "fid", tmp_path / "a.npz", tmp_path / "b.npz",
            "--net", tmp_path / "none.pth")


# --- report

HOSTILE = "<script>alert(1)</script>"
BASE = dict(command=f"env OMP_NUM_THREADS=1 python x.py train {HOSTILE} | more", seconds=12.3, device="CPU",
            commit="abc", steps=100, versions=dict(python="3"))


def write_job(folder, pictures=(), **result):
    folder.mkdir(parents=True, exist_ok=True)
    for name in pictures:
        Image.new("RGB", (20, 20)).save(folder / f"{name}.png")
    (folder / "result.json").write_text(json.dumps(dict(BASE, config={}) | result))


def write_classifier(folder, classes, rng, **result):
    tests = ("real", "augmented") if folder.name.partition("-")[0].endswith("_code") else ("real",)
    labels = np.arange(40) % len(classes)
    chances = rng.dirichlet(np.ones(len(classes)), 40) + np.eye(len(classes))[labels]
    curves = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), [0.5, 0.7])
    write_job(folder, config=dict(model="resnet50", classes=classes), metrics={test: dict(loss=0.5) for test in tests},
              counts={name: 9 for name in classes}, curves=curves, **result)
    with open(folder / "predictions.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["test", "image", "lesion", "label", *classes])
        for test in tests:
            lines.writerows([test, f"{HOSTILE}{k}", f"lesion{k // 2}", classes[labels[k]], *chances[k]]
                            for k in range(40))


@pytest.fixture
def made_up(tmp_path):
    """A results folder with every job of the four later studies, 40 test images each, and hostile strings."""
    rng, out = np.random.default_rng(0), tmp_path / "results"
    classes = dict(dcgan_cls=["benign", "malignant"], acgan_cyclegan="NV MEL BCC BKL AK VASC DF".split(),
                   dermagan="AK BCC BKL MEL".split(), dcgan_inception=["benign", "malignant"])
    for study, names in classes.items():
        paper = PRINTED[study]
        gans = {name for _, _, kind, jobs in paper["figures"] if kind in ("gan", "grid", "steps")
                for name in jobs.split()} - {"data", "data_full"}
        jobs = set(metrics.wanted_cells(study).values()) | {name for _, *pair in paper["arms"] for name in pair}
        jobs |= {job for table in paper["tables"] for _, cells in cells_of(table) for _, job, _ in cells if "/" in job}
        for name in sorted(jobs - gans):
            if name.startswith("data"):
                write_job(out / study / name, ("grid", "before_after", "augmented"), counts={
                    part: {label: 20 + k for k, label in enumerate(names)} for part in ("train", "val", "test")},
                    source=dict(source=HOSTILE, stand_in="HAM10000 stands in" * (study == "acgan_cyclegan")))
            elif name in ("fid", "fid_curve"):
                sets = ("dcgan_base", "plain_gan", "lapgan") if name == "fid" else (0, 50, 100)
                write_job(out / study / name, net="FD-trunk", provenance=HOSTILE, floor=1.5, floor_n=20, rows=[
                    {"set": made, "distance": 9.5, "spread": 0.25, "kid": 0.1, "is": [2.0, 0.1], "n": 20}
                    for made in sets])
            else:
                folder, _, part = name.partition("/")
                write_classifier(out / study / f"{folder}-s0" / part, names, rng, weights="none (from scratch)",
                                 lr_finder=dict(lrs=[1e-4, 1e-3, 1e-2], losses=[2.0, 1, 3], chosen=1e-3),
                                 leaked=7 if name == "cnn_gan_code" else 0, steps=120 if name == "augmented" else 100)
        for name in gans:
            write_job(out / study / name, ("grid", *(f"grid_{step:06d}" for step in range(0, 110, 10))),
                      metrics=dict(d_loss=1.0, g_loss=2.0, diversity=0.2, collapsed=True),
                      curves=dict(d_loss=[1.0, 1], g_loss=[2.0, 2], window=50, diversity=[[50, .5], [100, .2]]))
    for rate in (0, 0.1, 0.5):
        write_classifier(out / "dermagan" / "dropout" / f"dropout{rate}", classes["dermagan"], rng)
    shutil.move(out / "dermagan" / "dropout-s0" / "result.json", out / "dermagan" / "dropout")
    (out / "run.txt").write_text("scale small\ndata x\n")
    return out


def test_the_report_of_four_studies_is_complete(made_up):
    path = metrics.report(made_up)
    page, markdown = path.read_text(), path.with_suffix(".md").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert len(cells) > 600 and "" not in cells and not re.search(r"nothing to show|\bNone\b|\bnan\b", page)
    assert "not run" not in page[page.index("<nav>"):]
    assert HOSTILE not in page and "&lt;script&gt;" in page and path.stat().st_size < 6e6
    for study, paper in list(PRINTED.items())[1:]:
        assert f'id="{study}"' in page and f'href="#{study}"' in page
        for table in paper["tables"]:
            assert f"{'Ours' if table['id'] == 'ours' else 'Table ' + table['id']}. {table['title']}"[:30] in markdown
        for figure, title, *_ in paper["figures"]:
            assert (f"Figure {figure}. {title}" if figure else title) in markdown
    # the first screen: a row and a verdict for each claim of what has run; none can be tested with 40 images and one seed
    first = page[:page.index("<nav>")]
    claims = sum(len(paper["claims"]) for study, paper in PRINTED.items() if study != "wgan_gp")
    assert claims >= 9 and first.count(">cannot be tested here<") == claims
    assert "not judged: wgan_gp (Gören" in first and "one seed does not show" in first
    assert "bash run_all.sh controls" in first                      # the answer is missing, and how to get it
    for paper in list(PRINTED.values())[1:]:
        assert all(f"- {line}" in markdown for line in paper["audit"])
    assert page.count("no SCC in this data") == 23 + 2             # Table 1: 3, Table 2: 22
    for words in ("Stand-in data: HAM10000 stands in", "its GAN was trained on 7 of", "Trained from random weights",
                  "quoted", "FD-trunk 9.50 ± 0.25", "KID 0.1, n 20", "noise floor 1.50", "noise floor (real images against each other) 1.50 at n 20",
                  "COLLAPSED", "pretraining in the DCGAN",
                  "there were more optimiser steps, so the comparison leans that way: own resolution."):
        assert words in page, words
    assert markdown.count("(dcgan_cls/dcgan_base/grid_") == 4      # steps 0, 10, 30 and 100


def test_a_missing_job_and_a_missing_class_are_named(made_up):
    shutil.rmtree(made_up / "acgan_cyclegan" / "row_8-s0")
    shutil.rmtree(made_up / "dermagan" / "vgg19_code-s0")
    shutil.rmtree(made_up / "dcgan_cls" / "fid")
    (made_up / "dcgan_inception" / "dcgan" / "grid.png").unlink()
    page = metrics.report(made_up).read_text()
    assert page.count("not run: row_8/count500<") == 3 and page.count("not run: vgg19_code") == 2
    assert page.count("not run: fid") == 3 and "nothing to show of dcgan" in page


def write_planted(out, jobs, seeds=3, n=900, classes=("benign", "malignant"), seed=0):
    """{job: accuracy}: predictions of several seeds on the same n images, with as many errors as that needs, but for chance."""
    rng = np.random.default_rng(seed)
    labels, hardness = np.arange(n) % 2, rng.random(n)
    for job, accuracy in jobs.items():
        folder, _, part = job.partition("/")
        for k in range(seeds):
            right = hardness + 0.2 * rng.standard_normal(n) < np.quantile(hardness + 0.2 * rng.standard_normal(n), accuracy)
            chances = np.eye(2)[np.where(right, labels, 1 - labels)] * 0.6 + 0.2 * rng.random((n, 2))
            path = out / f"{folder}-s{k}" / part
            write_job(path, config=dict(model="cnn", classes=classes), metrics=dict(real=dict(loss=0.5)),
                      counts=dict(benign=9, malignant=9), leaked=0,
                      curves=dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), [0.5, 0.7]))
            with open(path / "predictions.csv", "w", newline="") as file:
                csv.writer(file).writerows([["test", "image", "lesion", "label", *classes], *(
                    ["real", k, f"lesion{k // 2}", classes[labels[k]], *chances[k]] for k in range(n))])
    (out.parent / "run.txt").write_text("scale small\ndata x\n")


def planted_controls(out, share, seeds=3):
    """Controls in which a GAN image is worth this share of a further real one, and shuffled or lone GAN images nothing."""
    real = {25: .60, 50: .70, 100: .80, 200: .90}
    jobs = {f"cnn_{size}/real": accuracy for size, accuracy in real.items()}
    for size in (25, 50, 100):
        gain = real[2 * size] - real[size]
        jobs |= {f"cnn_{size}/{arm}": real[size] for arm in metrics.ARMS if arm != "more"}
        jobs |= {f"cnn_{size}/{gan}": real[size] + share * gain for gan in metrics.GANS}
    write_planted(out / "controls", jobs, seeds)


def test_the_worth_that_was_planted_is_found_and_nothing_else_is_called_better(tmp_path):
    planted_controls(tmp_path, 0.6)
    page = metrics.report(tmp_path).read_text()
    arms = metrics.control_arms(metrics.Results(tmp_path))
    found = {gan: metrics.worth_of(arms, "cnn", [gan])[0] for gan in metrics.GANS}
    assert all(low < 0.6 < high and low > 0 for _, low, high in found.values()), found
    assert metrics.Results(tmp_path).arm("controls/cnn_25/real").spread[1] == 2 * (4 + 3 + 3)    # real, classical, copies
    first = page[:page.index("<nav>")]
    assert "Yes, but less than further real images:" in first and "over 6 GANs and training sets of 25, 50, 100 %" in first
    x, low, high = metrics.worth_of(arms, "cnn", metrics.GANS)[0]
    assert f"was worth {x:.2f} of a further real image (95 % interval {low:.2f} to {high:.2f})" in first and high - low < 0.5
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in (tmp_path / "report.md").read_text().splitlines()[::-1]}
    for name, words in metrics.ARMS.items():                        # better: most cells of the GANs, none of the placebos
        assert "better" not in rows[words] and "worse" not in rows[words] or name in (*metrics.GANS, "more"), rows[words]
    assert sum(rows[metrics.ARMS[gan]].count("better") for gan in metrics.GANS) >= 16
    assert rows["real + as many further real"].count("better") == 3
    assert page.count(">not run<") >= 6                              # ResNet-18
    assert "reproduced" not in re.sub("[Nn]ot reproduced|Reproduced:", "", first)


def test_no_worth_no_answer(tmp_path):
    planted_controls(tmp_path, 0.0)
    first = metrics.report(tmp_path).read_text().partition("<nav>")[0]
    assert "No help is shown:" in first and "Yes" not in first
    for arm in ("cnn_50/real", "cnn_100/real", "cnn_200/real"):         # the further real images too give nothing
        write_planted(tmp_path / "controls", {arm: .60})
    first = metrics.report(tmp_path).read_text().partition("<nav>")[0]
    assert "what one is worth cannot be told" in first and "was worth" not in first
    assert "Yes:" in first                                              # yet the GAN's .70 and .80 now are better than .60


def test_controls_with_one_seed_or_in_parts_are_shown_and_not_judged(tmp_path):
    planted_controls(tmp_path, 0.6, seeds=1)
    page = metrics.report(tmp_path).read_text()
    assert "Not judged: one training of each arm" in page and "Yes" not in page[:page.index("<nav>")]
    assert "better" not in page[page.index('id="controls"'):page.index("Passes of")] and "not judged: one seed" in page
    for size in (50, 100, 200):
        shutil.rmtree(tmp_path / f"controls/cnn_{size}-s0")             # no arm "more" any longer
    page = metrics.report(tmp_path).read_text()
    assert "was not measured here" in page and "small CNN" in page
    shutil.rmtree(tmp_path / "controls/cnn_25-s0/real")
    shutil.move(tmp_path / "controls/cnn_25-s0", tmp_path / "controls/resnet18_25-s0")
    assert "ResNet-18" in metrics.report(tmp_path).read_text()
    write_planted(tmp_path / "controls", {"cnn_25/real": .6, "cnn_25/wgan_gp": .6}, n=700)
    write_planted(tmp_path / "controls", {"cnn_50/real": .6}, n=900)
    with pytest.raises(data.UserError, match="same test images"):
        metrics.report(tmp_path)


def test_the_claims_agree_with_the_printed_tables():
    def cells(study, table):
        rows = [cells for entry in PRINTED[study]["tables"] if entry["id"] == table for _, cells in cells_of(entry)]
        return [[float(value.rstrip("abcdefgh")) for value, *_ in row] for row in rows]
    claims = {study: {claim[0]: claim for claim in paper["claims"]} for study, paper in PRINTED.items()}
    for claim, before, after in zip(PRINTED["wgan_gp"]["claims"][1:], cells("wgan_gp", "4")[1:], cells("wgan_gp", "5")[1:]):
        assert claim[2] == pytest.approx(after[0] - before[0], abs=1e-9)
    assert claims["wgan_gp"]["CNN: GAN images help"][2] == pytest.approx(.8634 - .86)
    for table, claim in zip("234", PRINTED["dcgan_cls"]["claims"][1:]):
        rows = [row[0] for row in cells("dcgan_cls", table)]
        assert claim[2] == pytest.approx(abs(rows[0] - rows[1]))
    for table, claim in zip("23", PRINTED["acgan_cyclegan"]["claims"]):
        *rows, base = ([value for k, value in enumerate(row) if k % 3 == 0] if table == "3" else row[-1:]
                       for row in cells("acgan_cyclegan", table))
        gains = [100 * (value - base[0]) for row in rows for value in row]
        assert claim[1] == f"{min(gains):+.1f} to {max(gains):+.1f} points" and len(gains) == len(claim[3])
    assert claims["dermagan"]["GAN images help the CNN"][2] == pytest.approx(.72 - .655)
    assert [claim[2] for claim in PRINTED["dermagan"]["claims"]][1] == pytest.approx(.72 - .685)
    assert PRINTED["dcgan_inception"]["claims"][0][2] == pytest.approx(.8875 - .8770)


def test_claims_get_the_verdict_that_was_planted(tmp_path):
    study = tmp_path / "wgan_gp"
    write_planted(study, dict(cnn_real=.75, cnn_hybrid=.75, mobilenet_real=.75, mobilenet_hybrid=.66, resnet18_real=.75, resnet18_hybrid=.85))
    def judged(scale="small"):
        claims = metrics.claims_tested(metrics.Results(tmp_path), ["wgan_gp"], scale)
        return {claim["text"].split(":")[0]: claim for claim in claims}
    claims = judged()
    assert claims["ResNet-18"]["verdict"] == "reproduced" and claims["ResNet-18"]["p"] < .001 and claims["ResNet-18"]["seeds"] == 3
    assert claims["MobileNet"]["verdict"] == "not reproduced" and claims["MobileNet"]["gain"][2] < 0
    assert claims["CNN"]["verdict"] == "cannot be tested here" and "too few" in claims["CNN"]["why"]
    raw = metrics.evidence(metrics.Results(tmp_path), "wgan_gp", *PRINTED["wgan_gp"]["claims"][1], "small")["p"]
    assert 0 < raw < claims["MobileNet"]["p"] <= 3 * raw            # corrected for three claims
    assert {claim["verdict"] for claim in judged("quick").values()} == {"cannot be tested here"}
    page = metrics.report(tmp_path).read_text()
    assert '<td class="yes">reproduced' in page and '<td class="no">not reproduced' in page
    shutil.rmtree(study / "resnet18_real-s1"), shutil.rmtree(study / "resnet18_real-s2")
    assert "one seed" in judged()["ResNet-18"]["why"] and judged()["ResNet-18"]["p"] is None


def test_quick_numbers_are_not_judged(made_up):
    (made_up / "run.txt").write_text("scale quick\ndata x\n")
    page = metrics.report(made_up).read_text()
    assert "not judged at quick scale" in page and "no difference shown" not in page and "got better" not in page
    assert page.count(">cannot be tested here<small>quick scale") >= 8 and "answers nothing" not in page


def test_a_large_picture_is_embedded_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    Image.fromarray(noise[:50, :50]).save(tmp_path / "small.png")
    assert metrics.embedded(tmp_path / "small.png").startswith("data:image/png")
    large = metrics.embedded(tmp_path / "large.png")
    assert large.startswith("data:image/jpeg") and len(large) < 900_000


def test_a_confusion_matrix_of_eight_classes_stays_legible():
    drawing = metrics.svg_matrix("m", np.full((8, 8), 1288), "NV MEL BCC BKL AK SCC VASC DF".split())
    sides = [float(side) for side in re.findall(r'<rect [^>]*width="([\d.]+)"', drawing)]
    right = max(float(x) + side for x, side in zip(re.findall(r'<rect x="([\d.]+)"', drawing), sides))
    assert len(sides) == 64 and min(sides) >= 30 and right <= 340


def test_the_report_escapes_every_string():
    page = metrics.Page()
    page.heading(2, "<b>")
    page.text("<script>", "warn")
    page.table("<i>", ["a", "<u>"], [["<x>", "0.5 [0.4, 0.6]"], ["y", "<img onerror=1>"]], ["<note>"])
    page.figure("<fig>", metrics.svg_lines("<svgtitle>", [("<name>", [0, 1], [0, 1])], "<label>"),
                metrics.svg_matrix("<m>", [[1]], ["<class>"]))
    body = "\n".join(page.html)
    for text in ("<b>", "<script>", "<i>", "<u>", "<x>", "<img onerror", "<note>", "<fig>", "<svgtitle>", "<name>",
                 "<label>", "<m>", "<class>"):
        assert text not in body, text
    assert "<small>[0.4, 0.6]</small>" in body


def test_printed_values_as_text():
    assert [metrics.printed_value(v) for v in (".8674b", "3072a", "128", ".9", "=.9084", "=")] == [
        "0.8674 (b)", "3,072 (a)", "128", "0.9", "0.9084", "not printed"]


def test_a_report_of_nothing_says_so(tmp_path, refused):
    refused(["no finished job", "run_all.sh"], "metrics", "report", tmp_path)


# --- Edits of a line that would change a result and nothing else

def test_evaluate_by_hand():
    labels, first = np.array([0, 0, 0, 0, 1, 1]), np.array([.9, .8, .3, .4, .2, .7])
    result = metrics.evaluate(labels, np.stack([first, 1 - first], 1), np.arange(6), ["benign", "malignant"])
    assert result["loss"] == pytest.approx(-np.log([.9, .8, .3, .4, .8, .3]).mean()) and result["majority"] == 4 / 6
    assert result["specificity"][0] == 2 / 4 and result["sensitivity"][0] == 1 / 2 and result["precision"][0] == 1 / 3
    assert [part["precision"][0] for part in result["per_class"].values()] == pytest.approx([2 / 3, 1 / 3])


def test_an_arm_counts_lesions_not_pictures():
    assert metrics.arm([(LABELS, CHANCES, np.arange(40) // 2)]).lesions == 20


def test_a_mean_gain_is_a_mean_and_gains_are_corrected_together():
    pairs = [(flat([.80, .82, .81]), flat([.83 + k / 100, .84, .86])) for k in range(3)]
    single = [metrics.mean_gain(pair) for pair in pairs]
    assert metrics.mean_gain(*pairs)[0] == pytest.approx(np.mean([gain[0] for gain in single]))
    found = metrics.gains_over(dict(enumerate(pairs)))
    assert [p for _, p in found.values()] == metrics.holm([gain[3] for gain in single]) != [gain[3] for gain in single]


def test_verdicts_on_a_level():
    for level, expected in ((.8, "reproduced"), (.9, "not reproduced"), (.7, "not reproduced")):
        assert metrics.verdict(("level", level), [.8, .75, .85], None, "paper") == expected


def test_a_level_needs_the_papers_scale_and_pretrained_networks_their_weights(tmp_path):
    write_planted(tmp_path / "r" / "dcgan_cls", dict(base=.93))
    write_planted(tmp_path / "r" / "dermagan", dict(mobilenet_fair=.7, cnn_gan_fair=.75))
    for file in tmp_path.glob("r/dermagan/mobilenet*/result.json"):
        job = json.loads(file.read_text()) | dict(config=dict(model="mobilenet_flat"), weights="none (from scratch)")
        file.write_text(json.dumps(job))
    why = {(study, scale): metrics.evidence(metrics.Results(tmp_path / "r"), study, *PRINTED[study]["claims"][k], scale)["why"]
           for study, k in (("dcgan_cls", 0), ("dermagan", 1)) for scale in ("small", "paper")}
    assert why["dcgan_cls", "small"] == "needs the paper's own scale" and why["dcgan_cls", "paper"] == ""
    assert "random weights" in why["dermagan", "paper"]


def test_a_claim_over_several_rows_is_about_their_mean_and_names_the_largest(tmp_path):
    rows = {f"{kind}_row/count{n}": .75 for kind in ("acgan", "cyclegan") for n in (2000, 4000, 8000, 16000, 24000)}
    write_planted(tmp_path / "acgan_cyclegan", dict(rows, isic0=.75) | {"cyclegan_row/count24000": .60})
    claim = metrics.evidence(metrics.Results(tmp_path), "acgan_cyclegan", *PRINTED["acgan_cyclegan"]["claims"][0], "small")
    arms = {name: metrics.Results(tmp_path).arm(f"acgan_cyclegan/{name}").values.mean() for name in ("isic0", *rows)}
    assert claim["gain"][0] == pytest.approx(np.mean([arms[name] for name in rows]) - arms["isic0"])
    assert claim["largest"].startswith("largest of 10: -1")


def with_mixed_test(folder):
    """cnn_real and cnn_hybrid planted at .75; cnn_hybrid also has a mixed test, 90 of 100 right, loss .125."""
    write_planted(folder / "wgan_gp", dict(cnn_real=.75, cnn_hybrid=.75))
    for file in (folder / "wgan_gp").glob("cnn_hybrid-*/result.json"):
        file.write_text(file.read_text().replace('"metrics": {', '"metrics": {"mixed": {"loss": 0.125}, '))
        with open(file.with_name("predictions.csv"), "a") as rows:
            rows.writelines(f"mixed,{k},{k},benign,{'.9,.1' if k < 90 else '.1,.9'}\n" for k in range(100))
    return metrics.Results(folder)


def test_the_mixed_test_is_kept_apart(tmp_path):
    results = with_mixed_test(tmp_path)
    shown = [results.value("wgan_gp/cnn_hybrid", test, key)[:5] for key in ("accuracy", "loss") for test in ("real", "mixed")]
    assert shown[0].startswith("0.7") and shown[1:] == ["0.900", "0.500", "0.125"]
    assert results.value("wgan_gp/cnn_hybrid", "real", "val_accuracy") == "0.700"       # of the last epoch


def test_the_mixed_test_is_the_papers_own_protocol(tmp_path):
    results = with_mixed_test(tmp_path)
    assert results.arm("wgan_gp/cnn_hybrid").spread[1] == 4 and results.arm("wgan_gp/cnn_hybrid", "mixed").spread[1] == 2
    way = metrics.evidence(results, "wgan_gp", *PRINTED["wgan_gp"]["claims"][0], "small")["way"]
    assert 12 < float(way.split()[0]) < 18                              # .90 - .75


def test_the_spread_is_pooled_over_arms_of_one_network(tmp_path):
    write_planted(tmp_path / "wgan_gp", dict(cnn_real=.7, cnn_hybrid=.7, resnet18_real=.8))
    for file in tmp_path.glob("wgan_gp/resnet18_real-*/result.json"):
        file.write_text(file.read_text().replace('"cnn"', '"resnet18"'))
    results = metrics.Results(tmp_path)
    assert [results.arm(f"wgan_gp/{name}").spread[1] for name in ("cnn_real", "cnn_hybrid", "resnet18_real")] == [4, 4, 2]


def test_together_weighs_the_classes_by_their_images():
    found = [dict(closer_to_train=[.5, .4, .6], n=300), dict(closer_to_train=[.9, .8, .95], n=100), dict(closer_to_train=None, n=5)]
    share, low, high = metrics.together(found)["closer_to_train"]
    assert share == pytest.approx(.6) and metrics.together(found)["n"] == 400
    assert (low, high) == pytest.approx((.6 - np.hypot(.075, .025), .6 + np.hypot(.075, .0125)))


def test_the_noise_floor_is_one_half_against_the_other():
    x = np.random.default_rng(0).normal(size=(40, 5))
    mixed = x[np.random.default_rng(7).permutation(40)]
    distance, floor, n = metrics.distance_with_floor(x, x + 3, seed=7)
    assert n == 20 and floor == metrics.frechet(mixed[:20], mixed[20:]) > 0.01


def test_inception_score_is_taken_within_each_split():
    one = np.repeat(np.eye(2), 100, 0)                                  # each split of 100 has a class of its own
    assert metrics.inception_score(one) == pytest.approx((1, 0))
    half = np.concatenate([np.full((100, 2), .5), np.eye(2)[np.arange(100) % 2]])
    assert metrics.inception_score(half) == pytest.approx((1.5, .5 ** .5))      # 1 and 2


def test_the_gan_table(tmp_path):
    values = dict(diversity=.2, fd_8x8=9.5, fd_8x8_floor=1.25, fd_8x8_n=20, kid_8x8=.03)
    for name in ("bad", "good"):
        write_job(tmp_path / "dcgan_cls" / name, metrics=dict(values, collapsed=name == "bad"), curves={})
    page = metrics.Page()
    metrics.gan_table(page, metrics.Results(tmp_path), "dcgan_cls")
    bad, good = (line for line in "\n".join(page.markdown).splitlines() if line.startswith(("| bad", "| good")))
    assert "9.500<br>noise floor 1.250" in bad and bad.endswith("COLLAPSED |") and good.endswith("| no |")


def test_the_larger_class_and_the_tests_by_seed(tmp_path):
    write_planted(tmp_path / "wgan_gp", dict(cnn_real=.7, cnn_hybrid=.8), seeds=2)
    for file in tmp_path.rglob("predictions.csv"):
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header, *rows[::2][:300], *rows[1::2][:100]]))       # 300 benign, 100 malignant
    page, results = metrics.Page(), metrics.Results(tmp_path)
    metrics.the_question(page, results, "wgan_gp", "small")
    assert re.search(r"always the larger class .* 0.750 \| 0.750 \|", "\n".join(page.markdown))
    (labels, a, _), (_, b, _) = (results.predictions(f"wgan_gp/{name}", "real")[0][0] for name in ("cnn_real", "cnn_hybrid"))
    p = metrics.mcnemar(a.argmax(1) == labels, b.argmax(1) == labels), metrics.delong(labels, a[:, 1], b[:, 1])[2]
    assert metrics.by_seed([(labels, a, 0)], [(labels, b, 0)], 2) == ", ".join(map(metrics.p_text, p))


def test_harm_is_called_harm(tmp_path):
    planted_controls(tmp_path, -0.6)
    first = metrics.report(tmp_path).read_text().partition("<nav>")[0]
    assert "No, they did harm: doubling" in first and "Yes" not in first
    gain = metrics.worth_of(metrics.control_arms(metrics.Results(tmp_path)), "cnn", metrics.GANS)[1]
    assert f"accuracy by {metrics.points(gain)}" in first and "as many further real images +" in first


def test_the_measures_of_the_controls_are_those_at_100_per_cent(tmp_path):
    planted_controls(tmp_path, 0.0, seeds=1)
    page, results = metrics.Page(), metrics.Results(tmp_path)
    metrics.measures_table(page, results, metrics.control_arms(results), "cnn")
    assert re.search(r"\| real alone \| 0\.(7[5-9]|8[0-4])\d ", "\n".join(page.markdown))           # .60 at 25 %, .80 at 100 %


def test_a_leak_that_cannot_be_told_is_said(tmp_path):
    write_planted(tmp_path / "wgan_gp", dict(cnn_real=.7, cnn_hybrid=.7), seeds=1)
    file = tmp_path / "wgan_gp/cnn_hybrid-s0/result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(leaked=None)))
    page = metrics.report(tmp_path).read_text()
    assert "trained on nobody knows how many of the validation" in page
    assert "for 1 it saw no validation" in page and "the others: wgan_gp/cnn_hybrid-s0" in page
