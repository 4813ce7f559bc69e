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
    pairs = np.stack([1 - scores, scores], 1)
    values = metrics.measures(labels, pairs, CLASSES, np.ones((1, 10)))
    wins = sum((p > n) + (p == n) / 2 for p in scores[6:] for n in scores[:6])
    by_hand = {
        "accuracy": 0.7, "recall malignant": 0.75, "recall benign": 4 / 6,
        "precision malignant": 0.6, "balanced accuracy": (0.75 + 4 / 6) / 2,
        "f1 malignant": 2 * 3 / 9, "auc": wins / 24}
    for name, value in by_hand.items():
        assert values[name] == pytest.approx([value]), name
    assert np.trapezoid(*metrics.roc_curve(labels, scores)[::-1]) == pytest.approx(wins / 24)


def test_weights_are_the_same_as_repeated_images():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 30), rng.dirichlet([1, 1], 30)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    drawn = metrics.measures(labels, probabilities, CLASSES, weights)
    for k in range(5):
        which = np.repeat(np.arange(30), weights[k].astype(int))
        once = np.ones((1, len(which)))
        plain = metrics.measures(labels[which], probabilities[which], CLASSES, once)
        assert all(drawn[name][k] == pytest.approx(plain[name][0]) for name in plain)


def test_a_class_never_predicted_is_undefined_and_not_zero():
    called_benign = np.array([[.9, .1]] * 3)
    result = metrics.evaluate(np.array([0, 0, 1]), called_benign, np.array(list("abc")), CLASSES)
    assert result["precision malignant"] is None and result["recall malignant"][0] == 0
    assert result["confusion"] == [[2, 0], [1, 0]] and result["majority"] == pytest.approx(2 / 3)


# ---- Intervals

def runs_of(rng, labels, groups, seeds=3, skill=0.7, spread=0.0, easy=0.0):
    """Runs of one arm: a picture is right if its lesion is easy, for all arms (easy) and for this
    one, and the training went well (spread), and by luck."""
    _, lesion = np.unique(groups, return_inverse=True)
    own, runs = rng.normal(0, 0.5, lesion.max() + 1), []
    for _ in range(seeds):
        ease = easy + own[lesion] + rng.normal(skill, spread) + rng.normal(0, 0.7, len(labels))
        predicted = np.where(ease > 0, labels, 1 - labels)
        runs.append((labels, np.eye(2)[predicted] * 0.8 + 0.1, groups, CLASSES))
    return runs


def a_test(rng, lesions, views=1):
    """(labels, groups) of a test set."""
    names = [f"lesion{k}" for k in range(lesions)]
    return rng.integers(0, 2, lesions * views), np.repeat(names, views)


def test_the_worked_example_in_the_docstring():
    def arm(*values):
        return metrics.Arm(np.array(values), np.array(values)[:, None] + np.zeros(2), 400, "same")

    arms = dict(real=arm(.80, .82, .84), gan=arm(.85, .86, .87))
    value, variance, df = metrics.combine(arms, dict(real=-1.0, gan=1.0))
    lesions, trainings = .012 ** 2 - .004 ** 2, np.array([.02 ** 2 / 3, .01 ** 2 / 3])
    assert value == pytest.approx(.04) and variance == pytest.approx(trainings.sum())
    assert df == pytest.approx(trainings.sum() ** 2 / (trainings ** 2 / 2).sum())
    total = lesions + trainings.sum()
    freedom = total ** 2 / (lesions ** 2 / 399 + (trainings ** 2 / 2).sum())
    half = np.sqrt(total) * scipy.stats.t(freedom).ppf(.975)
    for number in (f"{lesions:.6f}", f"{total:.6f}", f"{freedom:.1f}", f"{half:.3f}"):
        assert number.lstrip("0") in metrics.combine.__doc__, number


def test_an_arm_against_itself_is_zero_and_other_test_images_are_refused():
    rng = np.random.default_rng(0)
    arm, other = (metrics.arms_of(runs_of(rng, *a_test(rng, 50)))["accuracy"] for _ in "ab")
    value, low, high, p = metrics.gain(dict(a=arm), ["a"], ["a"])
    assert value == 0 and p == 1 and -0.03 < low < 0 < high < 0.03
    perfect = metrics.Arm(np.ones(3), np.ones((3, 50)), 50, arm.test)       # no variance, but three seeds
    assert metrics.gain(dict(a=perfect, b=perfect), ["a"], ["b"])[3] == 1
    with pytest.raises(UserError, match="same test images"):
        metrics.gain(dict(a=arm, b=other), ["a"], ["b"])


@pytest.mark.parametrize("seeds, views, spread", [(1, 1, 0.0), (3, 1, 0.1), (3, 3, 0.1), (5, 1, 0.0)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds, views, spread):
    """Of two arms of one kind, again and again: the gain is 0, and every measure is the same. A
    recall's lesions are those of its class, and so on: with others up to 100 % hold it."""
    rng, held, tests = np.random.default_rng(2), collections.Counter(), 200
    truth = scipy.stats.norm.cdf(0.7 / np.sqrt(1 + 0.5 ** 2 + spread ** 2 + 0.7 ** 2))
    for _ in range(tests):
        labels, groups = a_test(rng, 120, views)
        easy = np.repeat(rng.normal(size=120), views)
        arms = {}
        for name in "ab":
            runs = runs_of(rng, labels, groups, seeds, 0.7, spread, easy)
            arms[name] = metrics.arms_of(runs)
        for name, arm in arms["a"].items():
            _, low, high = metrics.level(arm)
            held[name] += low <= truth <= high
        both = {name: of["accuracy"] for name, of in arms.items()}
        _, low, high, _ = metrics.gain(both, "a", "b")
        held["gain"] += low <= 0 <= high
    gain = held.pop("gain") / tests
    assert seeds == 1 or 0.92 <= gain <= 0.985      # of one seed it leaves the trainings out
    assert len(held) == 9 and all(0.92 <= count / tests <= 0.99 for count in held.values()), held


def test_what_can_be_negative_has_the_interval_of_a_difference():
    """Cohen's kappa, say, which Wilson's interval would cut at zero."""
    boot = -0.2 + 0.05 * np.random.default_rng(0).standard_normal((1, 1000))
    low = metrics.Arm(np.array([-0.2]), boot, 100, "t")
    assert metrics.level(low) == pytest.approx([-0.2, -0.298, -0.102], abs=0.005)


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
        arms = []
        for spread in [.006] * 5 + [.06]:
            values = rng.normal(.8, spread, 3)
            arms.append(metrics.Arm(values, np.full((3, 50), .8), 10 ** 6, "t"))
        alarms += metrics.gain(dict(enumerate(arms)), [0], [5])[3] < 0.05
    assert alarms / 300 < 0.09


def test_no_interval_is_without_width():
    """24 of 24 found: not [1, 1, 1]; Wilson gives [.86, 1]."""
    labels = np.array([1] * 24 + [0] * 24)
    names = np.array([f"l{k}" for k in range(48)])
    level = metrics.evaluate(labels, np.eye(2)[labels], names, CLASSES)["recall malignant"]
    assert level == pytest.approx(metrics.wilson(1, 24), abs=1e-6)
    assert level[1] == pytest.approx(0.862, abs=1e-3)


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
    wide = [np.hstack([z, np.zeros((len(z), 400))]) for z in (x, y)]            # fewer than features
    assert metrics.frechet(*wide) == pytest.approx(exact, rel=1e-7)


def test_kid_and_inception_score_in_closed_form():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    within_x, within_y, across = 1.0, 8.0, 1.5 ** 3
    assert metrics.kid(x, y) == pytest.approx(within_x + within_y - 2 * across)
    assert metrics.inception_score(np.eye(4)[np.arange(200) % 4]) == pytest.approx(4)
    assert metrics.inception_score(np.full((200, 4), .25)) == pytest.approx(1)


def test_a_distance_has_the_noise_floor_of_the_real_images_beside_it():
    rng = np.random.default_rng(0)
    row = metrics.distances(rng.normal(size=(200, 50)), rng.normal(size=(150, 50)))
    assert row["n"] == 100 and row["floor"] > 5
    assert row["distance"] == pytest.approx(row["floor"], rel=0.1)
    for features in (np.ones((20, 3)), np.full((20, 3), np.inf)):
        with pytest.raises(UserError, match="constant"):
            metrics.distances(features, features)


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
    average = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    pooled, old = ours.Mixed_5b(x)[:, -32:], plain.Mixed_5b(x)[:, -32:]
    assert torch.allclose(pooled, plain.Mixed_5b.branch_pool(average), atol=1e-5)
    assert not torch.allclose(pooled, old, atol=1e-5)
    features, probabilities = metrics.inception_features()(np.zeros((2, 64, 64, 3), np.uint8))
    assert features.shape == (2, 2048) and probabilities.shape == (2, 1008)
    assert probabilities.sum(1) == pytest.approx([1, 1])


# ---- Commands

def test_fid_command_without_a_network(tmp_path, done, refused, lesions):
    lesions.save(tmp_path / "a")
    data.replace(lesions, images=255 - lesions.images).save(tmp_path / "b")
    out = done("metrics", "fid", tmp_path / "a", tmp_path / "b", "--net", "none")
    assert "FD-8x8" in out and "noise floor" in out
    refused(["--net", "here"], "metrics", "fid", tmp_path / "a", tmp_path / "b", "--net", "here")


def test_compare_command(tmp_path, done, refused, prepared):
    for name in ("a-s0", "a-s1", "b-s0", "b-s1"):
        done("classify", "train", "cnn", "--data", prepared, "--steps", 2, "--batch", 8,
             "--seed", name[-1], "--out", tmp_path / name)
    out = done("metrics", "compare", tmp_path / "a", tmp_path / "b")
    accuracy = next(line for line in out.splitlines() if line.startswith("accuracy"))
    assert "+0.000 [" in accuracy and accuracy.rstrip().endswith("1.000")       # the same trainings
    refused(["predictions.csv"], "metrics", "compare", tmp_path / "c", tmp_path / "b")
    file = tmp_path / "b-s1" / "predictions.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))       # one image less
    refused(["same test images"], "metrics", "compare", tmp_path / "a", tmp_path / "b")
