"""Measures equal hand counts and closed forms; intervals hold what they promise."""
import collections

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torchvision.models import inception_v3

import data
import metrics
from jobs import UserError

CLASSES = ["benign", "malignant"]


# ---- Measures

def test_measures_by_hand():
    labels = np.array([0] * 6 + [1] * 4)
    scores = np.array([.1, .2, .3, .4, .6, .7, .3, .8, .9, .95])
    values = metrics.measures(labels, np.stack([1 - scores, scores], 1), CLASSES, np.ones((1, 10)))
    assert values["accuracy"] == 0.7 and values["recall malignant"] == 0.75
    assert values["precision malignant"] == 0.6 and values["recall benign"] == pytest.approx(4 / 6)
    assert values["balanced accuracy"] == pytest.approx((0.75 + 4 / 6) / 2)
    assert values["f1 malignant"] == pytest.approx(2 * 3 / 9)
    wins = sum((p > n) + (p == n) / 2 for p in scores[6:] for n in scores[:6])
    assert values["auc"] == pytest.approx(wins / 24)


def test_weights_are_the_same_as_repeated_images():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 30), rng.dirichlet([1, 1], 30)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    drawn = metrics.measures(labels, probabilities, CLASSES, weights)
    for k in range(5):
        which = np.repeat(np.arange(30), weights[k].astype(int))
        plain = metrics.measures(labels[which], probabilities[which], CLASSES, np.ones((1, len(which))))
        assert all(drawn[name][k] == pytest.approx(plain[name]) for name in plain)


def test_a_class_never_predicted_is_undefined_and_not_zero():
    result = metrics.evaluate(np.array([0, 0, 1]), np.array([[.9, .1]] * 3), np.array(list("abc")), CLASSES)
    assert result["precision malignant"] is None and result["recall malignant"][0] == 0
    assert result["confusion"] == [[2, 0], [1, 0]] and result["majority"] == pytest.approx(2 / 3)


# ---- Intervals

def runs_of(rng, labels, groups, seeds=3, skill=0.7, spread=0.0, easy=0.0):
    """Runs of one arm: a picture is right if its lesion is easy, for all arms (easy) and for this one, and
    the training went well (spread), and by luck."""
    _, lesion = np.unique(groups, return_inverse=True)
    own, runs = rng.normal(0, 0.5, lesion.max() + 1), []
    for _ in range(seeds):
        ease = easy + own[lesion] + rng.normal(skill, spread) + rng.normal(0, 0.7, len(labels))
        predicted = np.where(ease > 0, labels, 1 - labels)
        runs.append((labels, np.eye(2)[predicted] * 0.8 + 0.1, groups, CLASSES))
    return runs


def a_test(rng, lesions, views=1):
    """(labels, groups) of a test set."""
    return rng.integers(0, 2, lesions * views), np.repeat([f"lesion{k}" for k in range(lesions)], views)


def test_the_worked_example_in_the_docstring():
    def arm(values, own, draws):
        boot = np.array(values)[:, None] + draws
        return metrics.Arm(np.array(values), boot, 400, "same")

    text = metrics.combine.__doc__
    real = arm([.80, .82, .84], 0, np.zeros((3, 2)))
    gan = arm([.85, .86, .87], 0, np.zeros((3, 2)))
    value, variance, df = metrics.combine(dict(real=real, gan=gan), dict(real=-1.0, gan=1.0))
    assert value == pytest.approx(.04) and variance == pytest.approx(.02 ** 2 / 3 + .01 ** 2 / 3)
    assert df == pytest.approx(variance ** 2 / ((.02 ** 2 / 3) ** 2 / 2 + (.01 ** 2 / 3) ** 2 / 2))
    lesions, trainings = .012 ** 2 - .004 ** 2, np.array([.02 ** 2 / 3, .01 ** 2 / 3])
    total = lesions + trainings.sum()
    freedom = total ** 2 / (lesions ** 2 / 399 + (trainings ** 2 / 2).sum())
    half = np.sqrt(total) * scipy.stats.t(freedom).ppf(.975)
    for number in (f"{lesions:.6f}", f"{trainings.sum():.6f}", f"{freedom:.1f}", f"{half:.3f}"):
        assert number.lstrip("0") in text, number


def test_an_arm_against_itself_is_zero_and_other_test_images_are_refused():
    rng = np.random.default_rng(0)
    arm, other = (metrics.arms_of(runs_of(rng, *a_test(rng, 50)))["accuracy"] for _ in "ab")
    value, low, high, p = metrics.gain(dict(a=arm), ["a"], ["a"])
    assert value == 0 and p == 1 and -0.03 < low < 0 < high < 0.03
    perfect = metrics.Arm(np.ones(3), np.ones((3, 50)), 50, arm.test)       # no variance, but three seeds
    assert metrics.gain(dict(a=perfect, b=perfect), ["a"], ["b"])[3] == 1
    with pytest.raises(UserError, match="same test images"):
        metrics.gain(dict(a=arm, b=other), ["a"], ["b"])


@pytest.mark.parametrize("seeds, views, spread", [(3, 1, 0.1), (3, 3, 0.1), (5, 1, 0.0)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds, views, spread):
    """Two arms of one kind, again and again: 95 % intervals of their gain hold 0."""
    rng, held, pairs = np.random.default_rng(1), 0, 200
    for _ in range(pairs):
        labels, groups = a_test(rng, 120, views)
        easy = np.repeat(rng.normal(size=120), views)
        arms = {}
        for name in "ab":
            runs = runs_of(rng, labels, groups, seeds, 0.7, spread, easy)
            arms[name] = metrics.arms_of(runs)["accuracy"]
        _, low, high, _ = metrics.gain(arms, "a", "b")
        held += low <= 0 <= high
    assert 0.92 <= held / pairs <= 0.985


@pytest.mark.parametrize("seeds, views, spread", [(1, 1, 0.0), (3, 1, 0.1), (3, 2, 0.1)])
def test_the_interval_of_every_measure_holds_its_truth(seeds, views, spread):
    """A recall's lesions are those of its class, and so on: with those of the smallest class up to 100 %."""
    rng, held, tests = np.random.default_rng(3), collections.Counter(), 200
    truth = scipy.stats.norm.cdf(0.7 / np.sqrt(1 + 0.5 ** 2 + spread ** 2 + 0.7 ** 2))
    for _ in range(tests):
        labels, groups = a_test(rng, 120, views)
        easy = np.repeat(rng.normal(size=120), views)
        runs = runs_of(rng, labels, groups, seeds, 0.7, spread, easy)
        for name, arm in metrics.arms_of(runs).items():
            _, low, high = metrics.level(arm)
            held[name] += low <= truth <= high
    assert len(held) == 9 and all(0.92 <= count / tests <= 0.99 for count in held.values()), held


def test_views_of_a_lesion_that_say_something_each_make_a_level_surer():
    """Two views of each of 120 lesions, as sure as 240 images: not as 120 (it held 98 % then)."""
    boot = 0.7 + np.sqrt(0.7 * 0.3 / 240) * np.array([[-1.0, 1.0]])
    arm = metrics.Arm(np.array([0.7]), boot, 120, 0, views=2.0)
    assert metrics.level(arm) == pytest.approx(metrics.wilson(0.7, 240), abs=1e-4)
    assert metrics.level(arm._replace(views=1.0)) == pytest.approx(metrics.wilson(0.7, 120), abs=1e-4)


def test_one_unsteady_arm_among_steady_ones_is_not_called_different():
    """Five arms of .6 points and one of 6: with a pooled spread it was called different in 17-21 %."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(300):
        steady = [metrics.Arm(rng.normal(.8, .006, 3), np.full((3, 50), .8), 10 ** 6, "t") for _ in range(5)]
        shaky = metrics.Arm(rng.normal(.8, .06, 3), np.full((3, 50), .8), 10 ** 6, "t")
        arms = dict(enumerate(steady)) | dict(shaky=shaky)
        alarms += metrics.gain(arms, [0], ["shaky"])[3] < 0.05
    assert alarms / 300 < 0.09


def test_no_interval_is_without_width():
    """24 of 24 found: the first edition gave [1, 1, 1]; Wilson gives [.86, 1]."""
    labels = np.array([1] * 24 + [0] * 24)
    runs = [(labels, np.eye(2)[labels], np.array([f"l{k}" for k in range(48)]), CLASSES)]
    level = metrics.level(metrics.arms_of(runs)["recall malignant"])
    assert level == pytest.approx(metrics.wilson(1, 24), abs=1e-6) and level[1] == pytest.approx(0.862, abs=1e-3)


def test_pictures_of_one_lesion_do_not_count_as_independent():
    """Each lesion three times: the interval of evaluate is that of the lesions, not of three times as many."""
    rng = np.random.default_rng(3)
    labels, right = rng.integers(0, 2, 100), rng.random(100) < 0.8
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
    names = np.array([f"l{k}" for k in range(100)])
    once = metrics.evaluate(labels, probabilities, names, CLASSES)["accuracy"]
    thrice = metrics.evaluate(labels.repeat(3), probabilities.repeat(3, 0), names.repeat(3), CLASSES)["accuracy"]
    assert thrice == pytest.approx(once, abs=0.01)
    assert once == pytest.approx(metrics.wilson(right.mean(), 100), abs=0.02)


def test_holm_by_hand_and_wilson_as_scipys():
    assert metrics.holm([.01, None, .04, .03]) == [.03, None, .06, .06]
    for k in (0, 30, 40):
        interval = scipy.stats.binomtest(k, 40).proportion_ci(method="wilson")
        assert metrics.wilson(k / 40, 40) == pytest.approx([k / 40, *interval], abs=1e-4)


def test_worth_is_the_ratio_of_the_gains_with_fiellers_interval():
    rng = np.random.default_rng(4)

    def arm(mean):
        values = mean + rng.normal(0, .002, 5)
        return metrics.Arm(values, np.full((5, 50), mean), 10 ** 6, "t")

    arms = dict(real=arm(.70), gan=arm(.72), more=arm(.80))
    x, low, high = metrics.worth(arms, [("real", "gan", "more")])
    assert low < 0.2 < high and x == pytest.approx(0.2, abs=0.03) and high - low < 0.2
    flat = arms | dict(more=arm(.70))
    assert metrics.worth(flat, [("real", "gan", "more")])[1:] == [-np.inf, np.inf]


# ---- Distances

def test_frechet_in_closed_form_and_against_sqrtm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12))
    assert metrics.frechet(x, x) == pytest.approx(0, abs=1e-8)
    assert metrics.frechet(x, x + 3) == pytest.approx(9 * 12, abs=1e-6)         # equal covariances
    assert metrics.frechet(x, 2 * x - x.mean(0)) == pytest.approx(np.trace(np.cov(x.T)), abs=1e-6)
    y = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + 1
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    exact = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert metrics.frechet(x, y) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("n", [30, 31, 32, 33, 34])
def test_both_ways_of_the_trace_agree_around_n_equal_d(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 32)), rng.normal(size=(n + 5, 32))
    wide = [np.hstack([z, np.zeros((len(z), 40))]) for z in (x, y)]             # now n < d for certain
    assert metrics.frechet(x, y) == pytest.approx(metrics.frechet(*wide), rel=1e-9)


def test_kid_and_inception_score_in_closed_form():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    within_x, within_y, across = 1.0, 8.0, 1.5 ** 3
    assert metrics.kid(x, y) == pytest.approx(within_x + within_y - 2 * across)
    assert metrics.inception_score(np.eye(4)[np.arange(200) % 4]) == pytest.approx(4)
    assert metrics.inception_score(np.full((200, 4), .25)) == pytest.approx(1)


def test_a_distance_has_the_noise_floor_of_the_real_images_beside_it():
    rng = np.random.default_rng(0)
    row = metrics.distances(rng.normal(size=(200, 50)), rng.normal(size=(150, 50)))
    assert row["n"] == 100 and row["distance"] == pytest.approx(row["floor"], rel=0.1) and row["floor"] > 5
    with pytest.raises(UserError, match="constant"):
        metrics.distances(np.ones((20, 3)), np.ones((20, 3)))


def test_copies_are_found_and_nothing_else():
    rng = np.random.default_rng(0)
    train, unseen, fresh = rng.integers(0, 255, (3, 60, 32, 32, 3)).astype(np.uint8)
    assert metrics.copying(train, train, unseen)["closer_to_train"][0] == 1
    share, low, high = metrics.copying(fresh, train, unseen)["closer_to_train"]
    assert low < 0.5 < high
    assert metrics.copying(fresh, train, unseen[:0]) == {}


def test_the_fids_inception_pools_as_tensorflows(tmp_path, monkeypatch):
    """Averages leave out the padding, and the last block takes a maximum: not as in torchvision's."""
    torch.manual_seed(0)
    plain = inception_v3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    weights = tmp_path / "checkpoints" / metrics.FID_WEIGHTS.rpartition("/")[2]
    weights.parent.mkdir()
    torch.save(plain.state_dict(), weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    ours = metrics.fid_network()
    x = torch.randn(1, 192, 35, 35)
    block, other = ours.Mixed_5b, plain.Mixed_5b
    average = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    pooled, old = block(x)[:, -32:], other(x)[:, -32:]
    assert torch.allclose(pooled, other.branch_pool(average), atol=1e-5)
    assert not torch.allclose(pooled, old, atol=1e-5)
    features, probabilities = metrics.inception_features()(np.zeros((2, 64, 64, 3), np.uint8))
    assert features.shape == (2, 2048) and probabilities.shape == (2, 1008) and probabilities.sum(1) == pytest.approx([1, 1])


# ---- Commands

def test_fid_command_without_a_network(tmp_path, done, refused, lesions):
    lesions.save(tmp_path / "a")
    data.replace(lesions, images=255 - lesions.images).save(tmp_path / "b")
    out = done("metrics", "fid", tmp_path / "a", tmp_path / "b", "--net", "none")
    assert "FD-8x8" in out and "noise floor" in out
    refused(["--net", "here"], "metrics", "fid", tmp_path / "a", tmp_path / "b", "--net", "here")


def test_compare_command(tmp_path, done, refused, prepared):
    for name in ("a-s0", "a-s1", "b-s0", "b-s1"):
        done("classify", "train", "cnn", "--data", prepared, "--steps", 2, "--batch", 8, "--seed", name[-1],
             "--out", tmp_path / name)
    out = done("metrics", "compare", tmp_path / "a", tmp_path / "b")
    accuracy = next(line for line in out.splitlines() if line.startswith("accuracy"))
    assert "+0.000 [" in accuracy and accuracy.rstrip().endswith("1.000")       # the same trainings
    refused(["predictions.csv"], "metrics", "compare", tmp_path / "c", tmp_path / "b")
    file = tmp_path / "b-s1" / "predictions.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))       # one image less
    refused(["same test images"], "metrics", "compare", tmp_path / "a", tmp_path / "b")
