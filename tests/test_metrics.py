"""Measures equal hand counts and trusted packages; intervals hold what they promise."""
import collections
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch.nn import functional as F
from torchvision.models import inception_v3

import data
import metrics
from jobs import UserError


def test_measures_by_hand_and_weights_as_repeated_images():
    labels, scores = np.repeat([0, 1], [6, 4]), np.array([.1, .2, .3, .4, .6, .7, .3, .8, .9, .95])
    pairs = np.stack([1 - scores, scores], 1)
    area = scipy.stats.mannwhitneyu(scores[6:], scores[:6]).statistic / 24
    by_hand = {
        "accuracy": 7 / 10, "balanced accuracy": (3 / 4 + 4 / 6) / 2, "auc": area,
        "recall benign": 4 / 6, "precision benign": 4 / 5, "f1 benign": 8 / 11,
        "recall malignant": 3 / 4, "precision malignant": 3 / 5, "f1 malignant": 6 / 9}
    often = np.random.default_rng(0).integers(1, 4, 10)
    values = metrics.measures(labels, pairs, data.TWO, np.stack([np.ones(10), often]))
    again = np.repeat(np.arange(10), often)
    repeated = metrics.measures(labels[again], pairs[again], data.TWO, np.ones((1, len(again))))
    assert values == {name: pytest.approx([by_hand[name], *repeated[name]]) for name in by_hand}
    assert "auc" not in metrics.measures(labels, np.eye(3)[labels], list("abc"), np.ones((1, 10)))
    alone = metrics.measures(labels, pairs, data.TWO, (labels == 0)[None])      # of one class
    assert alone["balanced accuracy"] == pytest.approx([4 / 6])
    false_positive, true_positive = metrics.roc_curve(labels, scores)
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(area)
    assert false_positive[0] == true_positive[0] == 0


def test_a_result_of_one_test():
    """24 of 24 found is not [1, 1, 1]; a class never found has no precision, not one of zero."""
    labels, lesions = np.repeat([1, 0], [24, 26]), np.arange(50).astype(str)
    found = metrics.evaluate(labels, np.eye(2)[labels] * .8 + .1, lesions, data.TWO)
    assert found["recall malignant"] == pytest.approx(metrics.wilson(1, 24), abs=1e-6)
    pairs = np.repeat(lesions[:25], 2)
    none = metrics.evaluate(labels, np.tile([.9, .1], (50, 1)), pairs, data.TWO)
    assert none["confusion"] == [[26, 0], [24, 0]] and none["n"] == 50 and none["majority"] == .52
    assert none["loss"] == pytest.approx(-(26 * np.log(.9) + 24 * np.log(.1)) / 50)
    assert none["precision malignant"] is None and none["recall malignant"][0] == 0
    called = np.eye(2)[np.repeat([1, 0, 1, 0], [12, 12, 4, 2])]     # of 24 and 6 lesions
    runs = [(labels[:30], of, lesions[:30], data.TWO) for of in (np.eye(2)[labels[:30]], called)]
    over = {"accuracy": 30, "auc": 19, "precision malignant": 16, "recall malignant": 24,
            "f1 malignant": 28}
    assert {kind: metrics.lesions_of(kind, *runs[1]) for kind in over} == over
    assert metrics.arms_of(runs)["precision malignant"].lesions == 16       # the least of them
    other = runs[0], (*runs[0][:2], lesions[:30][::-1], data.TWO)
    pytest.raises(UserError, metrics.arms_of, other).match("same test images")
    again = metrics.lesion_weights.__wrapped__(tuple("aab"))        # the same draws each time
    assert (again == metrics.lesion_weights(tuple("aab"))).all()


def steady(values, lesions=10 ** 6):
    """An arm whose test lesions say the same in every draw."""
    values = np.array(values)
    return metrics.Arm(values, values[:, None] + np.zeros(50), lesions, "t")


def test_the_worked_example_in_the_docstring_and_welchs_test():
    real, generated = [.80, .82, .84], [.85, .86, .87]
    arms = dict(real=steady(real), gan=steady(generated))
    test = scipy.stats.ttest_ind(generated, real, equal_var=False)
    gain = metrics.gain(arms, ["real"], ["gan"])
    assert gain == pytest.approx([.04, *test.confidence_interval(), test.pvalue])

    draws = np.random.default_rng(0).normal(size=(50, 4))
    shared, *own = np.sqrt(50) * np.linalg.qr(draws - draws.mean(0))[0].T       # of deviation 1
    errors = np.sqrt(.012 ** 2 - .004 ** 2) * shared + .004 * np.sqrt(3) * np.array(own)
    gan = metrics.Arm(np.array(generated), np.array(generated)[:, None] + errors, 400, "t")
    arms, weights = arms | dict(gan=gan), dict(real=-1.0, gan=1.0)
    value, _, high, _ = metrics.difference(arms, weights)
    _, variance, df = metrics.combine(arms, weights)
    for number in (f"{value:.2f}", f"{variance:.6f}", f"{df:.1f}", f"+- {high - value:.3f}"):
        assert number.replace("0.", ".") in metrics.combine.__doc__, number
    half, whole = (metrics.combine(arms, dict(gan=weight))[1] for weight in (0.5, 1.0))
    assert half == pytest.approx(whole / 4)
    alike = gan._replace(values=np.full(3, .86))    # what they get wrong on their own is counted
    assert metrics.combine(dict(alike=alike), dict(alike=1.0))[1] == pytest.approx(.012 ** 2)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Two arms of one kind: no gain, and every measure is the same. A picture, one of two of a
    lesion, is right if that is easy, for both arms or this one, if training went well, by luck."""
    rng, held = np.random.default_rng(2), collections.Counter()
    truth = scipy.stats.norm.cdf(0.7 / np.sqrt(1 + 0.5 ** 2 + 0.1 ** 2 + 0.7 ** 2))
    groups = np.repeat([f"lesion{k}" for k in range(120)], 2)
    for _ in range(200):
        labels, easy = rng.integers(0, 2, 240), np.repeat(rng.normal(size=120), 2)
        arms = {}
        for arm in "ab":
            own, runs = np.repeat(rng.normal(0, 0.5, 120), 2), []
            for _ in range(3):
                ease = easy + own + rng.normal(0.7, 0.1) + rng.normal(0, 0.7, 240)
                called = np.where(ease > 0, labels, 1 - labels)
                runs.append((labels, np.eye(2)[called] * 0.8 + 0.1, groups, data.TWO))
            measured = metrics.arms_of(runs)
            arms[arm] = measured["accuracy"]
        for name, arm in measured.items():
            _, low, high = metrics.level(arm)
            held[name] += low <= truth <= high
        _, low, high, _ = metrics.gain(arms, "a", "b")
        held["gain"] += low <= 0 <= high
    assert measured["accuracy"].views == 2 and measured["accuracy"].lesions == 120
    assert len(held) >= 10 and all(0.92 <= count / 200 <= 0.99 for count in held.values()), held
    half = 0.5 / 50 * scipy.stats.t(49).ppf(0.975)              # half a lesion: the least of chance
    arms = dict(a=steady([.7, .7], 50), b=steady([.7, .7]), c=steady([.7]), d=steady([.7, np.nan]))
    assert metrics.gain(arms, "a", "b") == pytest.approx([0, -half, half, 1])
    assert metrics.gain(arms, "d", "b") == [None] * 4
    assert metrics.gain(arms, "a", "c")[3] is None              # one seed of either arm


def test_holm_and_levels_by_hand_wilson_as_scipys_and_worth_with_fiellers_interval():
    assert metrics.holm([.01, None, .04, .03]) == [.03, None, .06, .06]
    assert metrics.holm([.7, .6]) == [1, 1]
    assert metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(27.6, abs=0.1)
    for k in (0, 30, 40):
        interval = scipy.stats.binomtest(k, 40).proportion_ci(method="wilson")
        assert metrics.wilson(k / 40, 40) == pytest.approx([k / 40, *interval], abs=1e-4)
    boot = 0.7 + np.sqrt(0.7 * 0.3 / 240) * np.array([[-1.0, 1.0]])
    for views, n in ((1.0, 120), (2.0, 240)):       # 2 views of 120 lesions: as sure as 240 images
        level = metrics.level(metrics.Arm(np.array([0.7]), boot, 120, "t", views))
        assert level == pytest.approx(metrics.wilson(0.7, n), abs=1e-4)
    two = metrics.Arm(np.array([0.7, 0.7]), boot.repeat(2, 0), 120, "t")    # as many, of t
    z = scipy.stats.t(119).ppf(0.975)
    assert metrics.level(two) == pytest.approx(metrics.wilson(0.7, 240, z), abs=1e-4)

    luck = np.array([-.003, -.001, 0, .001, .003])
    arms = dict(real=steady(.70 + luck), gan=steady(.72 + luck), more=steady(.80 + luck))
    gain = metrics.gain(arms, ["real", "gan"], ["gan", "more", "more"])     # .71 to .7733
    assert gain[0] == pytest.approx(.19 / 3)
    triples = [("real", "gan", "more")]
    x, low, high = metrics.worth(arms, triples)
    assert x == pytest.approx(0.2) and 0.1 < low < 0.2 < high < 0.3
    for end in (low, high):             # there the gain of GAN images just differs from that share
        weights = dict(gan=1.0, more=-end, real=end - 1)
        assert metrics.difference(arms, weights)[3] == pytest.approx(0.05, abs=1e-4)
    arms["other"] = steady(.76 + luck)  # two GANs upon the same real images
    assert metrics.worth(arms, [*triples, ("real", "other", "more")])[0] == pytest.approx(0.4)
    for right in (.70, .701, .60):              # real images help neither clearly nor at all
        worth = metrics.worth(arms | dict(more=steady(right + luck)), triples)
        assert worth[1:] == [-np.inf, np.inf]


def test_distances_in_closed_form_and_against_sqrtm():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 12)), rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + 1
    sx, sy = np.cov(x.T), np.cov(y.T)
    exact = np.square(x.mean(0) - y.mean(0)).sum()
    exact += np.trace(sx + sy - 2 * scipy.linalg.sqrtm(sx @ sy).real)
    assert metrics.frechet(x, y) == pytest.approx(exact, rel=1e-7)
    assert metrics.kid(np.eye(3)[:2], np.ones((2, 3))) == pytest.approx(1 + 8 - 2 * (4 / 3) ** 3)
    for order, score in ((np.arange(400) % 4, 4), (np.arange(400) // 100, 1)):      # part by part
        assert metrics.inception_score(np.eye(4)[order]) == pytest.approx(score)
    both = np.array([[1, 0], [.5, .5]] * 2)             # KL to (.75, .25): .2877 and .1438
    assert metrics.inception_score(both) == pytest.approx(np.exp((.2877 + .1438) / 2), rel=1e-4)
    row = metrics.distances(rng.normal(size=(200, 50)), rng.normal(size=(150, 50)))
    assert row["n"] == 100 and row["floor"] > 5     # real images to real ones: as far as these
    assert row["distance"] == pytest.approx(row["floor"], rel=0.1)
    rising = np.sort(rng.normal(size=(200, 2)) * [1, 0], 0)     # the halves are drawn at random
    assert metrics.distances(rising, rising)["floor"] < .2


def test_a_generator_is_judged_by_what_is_planted(lesions):
    """The same pictures, paler ones in other light, five in turn, and for each the next one."""
    train, unseen = (lesions.part(part).take(np.arange(30)) for part in ("train", "test"))
    order, light = np.arange(30), np.random.default_rng(0).integers(0, 100, (30, 1, 1, 3))
    same, found, made = train.images, {}, data.replace(train, classes=["all"], labels=order * 0)
    pictures = dict(same=same, pale=same // 2 + light, five=same[order % 5], next=same[order - 1],
                    dim=same * .3)
    for name, images in pictures.items():
        made = data.replace(made, images=images.astype(np.uint8))
        found[name] = metrics.judge_generated(made, train, unseen, source=train)
    for name, share in (("same", 1), ("pale", .5), ("next", 1), ("dim", .3)):
        for measure in ("diversity", "distinctness"):
            assert found[name][measure] == pytest.approx(share, abs=.02), (name, measure)
    assert [name for name in found if found[name]["collapsed"]] == ["five", "dim"]
    assert found["same"]["resemblance"] == 1 and abs(found["next"]["resemblance"]) < .15
    assert found["same"]["fd_8x8_n"] == 15 and found["same"]["fd_8x8_distance"] < 1
    often = np.array([6] * 5 + [0] * 55)            # few that are nearest of many make it less sure
    for name, n in (("same", 30), ("five", 30 ** 2 / (60 * often.var(ddof=1)))):
        assert found[name]["closer_to_train"] == pytest.approx(metrics.wilson(1, n))
    assert "closer_to_train" not in metrics.judge_generated(made, train, unseen.take(order[:0]))
    first = train.images[np.flatnonzero(train.labels)[0]]       # of one class always this
    some = np.where(train.labels[:, None, None, None], first, train.images)
    values = metrics.judge_generated(data.replace(train, images=some), train, unseen)
    assert values["diversity"] == pytest.approx(.5, abs=1e-3) and values["distinctness"] == 0
    twice = metrics.judge_generated(data.mix([train, train]), train.take(order[:10]), unseen)
    assert not twice["collapsed"]                   # measured on as many as there are real ones
    assert metrics.judge_generated(train.take(order[:10]), train, unseen)["distinctness"] < .9
    assert metrics.to_nearest(train.images[np.maximum(order, 16)]) == 0     # as most of them
    assert metrics.DISTINCT == .2 and metrics.COLLAPSED == .4
    noise = np.random.default_rng(0).integers(0, 256, (320, 16, 16, 3), np.uint8)
    copies = metrics.copying(noise[:100], noise[100:300], noise[300:])  # of 200 and 20 as many
    assert .3 < copies["closer_to_train"][0] < .7
    blank = np.concatenate([noise[:20] * 0, noise[:20]])        # any half of these
    assert metrics.copying(noise[:20], blank, noise[300:])["closer_to_train"][0] > .3
    one = train.take(order[:1])                     # has no distance to another
    assert "resemblance" not in metrics.judge_generated(one, train, unseen, source=one)


def test_the_fids_inception_pools_as_tensorflows(monkeypatch):
    """Averages leave out the padding, and the ninth block takes a maximum: not torchvision's."""
    torch.manual_seed(0)
    plain = inception_v3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: plain.state_dict())
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    features_of = metrics.inception_features()
    features_of(255 - images)                       # a batch before it changes nothing
    features, probabilities = features_of(images)

    pools = iter([partial(F.avg_pool2d, count_include_pad=False)] * 8 + [F.max_pool2d])
    monkeypatch.setattr(F, "avg_pool2d", lambda x, **shape: next(pools)(x, **shape))
    head, plain.fc = plain.fc.weight, torch.nn.Identity()
    x = torch.tensor(images).permute(0, 3, 1, 2) / 127.5 - 1
    expected = plain(F.interpolate(x, size=(299, 299), mode="bilinear"))
    assert not [*pools] and features == pytest.approx(expected.detach().numpy(), rel=1e-3)
    expected = (expected @ head.T).softmax(1)       # TensorFlow's head has no bias
    assert probabilities == pytest.approx(expected.detach().numpy(), rel=1e-4)


def test_commands(tmp_path, done, refused, prepared, monkeypatch):
    real, sizes = data.load(prepared), []
    colours = metrics.colour_features(real.images)
    np.savez(tmp_path / "b.npz", data.resized(real, 32).images[:24])
    fid = ["metrics", "fid", prepared, tmp_path / "b.npz"]
    floor = metrics.distances(colours, colours[:24])["floor"]
    assert f"floor {floor:.4g} n 24 kid" in done(*fid, "--net", "none")
    monkeypatch.setattr(metrics, "inception_features", lambda: lambda images: (
        sizes.append(images.shape[1]) or metrics.colour_features(images), None))
    assert f"floor {floor:.4g} n 24 kid" in done(*fid) and sizes == [64, 64]

    names = "a-small", "a-s0", "a-s10", "b-s0", "b-s1"
    files = [tmp_path / name / "predictions.csv" for name in names]
    for file, right in zip(files, (2, 6, 8, 7, 9)):     # so many of 10 are called what they are
        rows = ["test,image,lesion,label,benign,malignant", "mixed,i,l,benign,1,0"]
        for k in range(10):
            benign = int((k % 2 == 0) == (k < right))
            rows.append(f"real,i{k},l{k},{data.TWO[k % 2]},{benign},{1 - benign}")
        file.parent.mkdir()
        file.write_text("\n".join(rows))
    labels, probabilities, groups, classes = metrics.read_predictions(file.parent)
    assert [*labels] == [0, 1] * 5 and [*groups] == [f"l{k}" for k in range(10)]
    assert [*probabilities.argmax(1)] == [0, 1] * 4 + [0, 0] and classes == data.TWO
    compare = ["metrics", "compare", tmp_path / "a", tmp_path / "b"]
    assert "0.700  0.800   +0.100 [" in done(*compare)
    assert "one seed" in done("metrics", "compare", *[file.parent] * 2)
    for file in files[3:]:                          # one image less: of a seed, then of both
        file.write_text("\n".join(rows[:-1]))
        refused(["same test images"], *compare)
    for bad in (rows[:2], [*rows, "real,i,l,benign,nan,1"]):
        file.write_text("\n".join(bad))
        refused(["predictions.csv cannot be used"], *compare)
