import csv
import json
import re
import shutil

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

import data
import metrics
from metrics import PRINTED, cells_of

PAPER = PRINTED["wgan_gp"]
REPORTS = {table["id"]: [float(cell.strip("=d")) for _, [(cell, _, _)] in cells_of(table) if cell != "="]
           for table in PAPER["tables"] if "job" in table}          # the five printed values, then four put right
RECOVERED = {"6": ((426, 34), (37, 367)), "7": ((417, 43), (29, 375)), "8": ((379, 81), (37, 367))}     # row = truth

# 40 labels and scores with ties; the constants below are scikit-learn 1.7's answers for them.
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
                            accuracy=0.55, auc=0.6471354166666666).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    weighted = metrics.auc(LABELS, SCORES, np.stack([WEIGHTS, np.ones(40)]))
    assert weighted[0] == pytest.approx(0.6304347826086957, abs=1e-12)
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

def test_the_bootstrap_draws_lesions_and_covers_the_truth():
    weights = metrics.lesion_weights(np.array(["a", "b", "a", "c"]), 500)
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
    same = arm(0.8, seeds=1)
    assert metrics.difference((same, same)) == [0, 0, 0]
    gain, low, high = metrics.difference((arm(0.7), arm(0.85)))
    assert low > 0 and low < 0.15 < high and gain == pytest.approx(0.15, abs=0.05)
    gains = [metrics.difference((arm(0.8), arm(0.8)), draws=300) for _ in range(100)]
    assert sum(not (low <= 0 <= high) for _, low, high in gains) <= 12     # 5 expected; more than 12: probability .002
    with pytest.raises(data.UserError, match="same test images"):
        metrics.difference((same, [(1 - labels, same[0][1], groups)]))


def test_difference_pairs_the_lesions_of_all_arms():
    rng = np.random.default_rng(5)
    labels, groups = rng.integers(0, 2, 300), np.arange(300)

    def arm(accuracy):
        return [(labels, np.eye(2)[np.where(rng.random(300) < accuracy, labels, 1 - labels)], groups) for _ in range(3)]
    bad, good = arm(0.6), arm(0.8)
    one, both = metrics.difference((bad, good)), metrics.difference((bad, good), (bad, good))
    assert both == pytest.approx(one)                              # the same pair twice is no further evidence
    assert metrics.difference((bad, good), (good, bad))[0] == pytest.approx(0)
    shared = metrics.difference(*((bad, arm(0.8)) for _ in range(8)))
    own = metrics.difference(*((arm(0.6), arm(0.8)) for _ in range(8)))
    assert shared[2] - shared[1] > 1.2 * (own[2] - own[1])         # eight gains over one baseline hang together


# --- paper 000's numbers

@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_the_recovered_matrices_give_the_printed_tables_digit_by_digit(table):
    values = metrics.matrix_measures(RECOVERED[table])
    names = [f"printed_{name}" for name in ("sensitivity", "specificity", "precision", "accuracy", "f1")]
    names += ["sensitivity", "specificity", "precision", "f1"]
    assert [round(float(values[name]), 4) for name in names] == REPORTS[table]
    assert np.sum(RECOVERED[table], 1).tolist() == [460, 404]


def matches(tp, fn, fp, tn, printed):
    """Where all five measures of these counts round to the printed values."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), (tp + tn) / (tp + fn + fp + tn),
                  2 * tp / (2 * tp + fp + fn))
    return np.all([np.abs(v - p) <= 5.0001e-5 for v, p in zip(values, printed)], axis=0)


@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_mark_d_by_integer_search(table):
    printed = REPORTS[table][:5]
    # with the true class sizes: none, whichever class is positive
    for positives, negatives in ((460, 404), (404, 460)):
        tp, tn = np.mgrid[:positives + 1, :negatives + 1]
        assert not matches(tp, positives - tp, negatives - tn, tn, printed).any()
    found = []                                                     # with any class sizes that sum to 864: exactly one
    for correct in (k for k in range(865) if abs(k / 864 - printed[3]) <= 5.0001e-5):
        tp, fn = np.mgrid[:correct + 1, :864 - correct + 1]
        hit = matches(tp, fn, 864 - correct - fn, correct - tp, printed)
        found += [(int(a), int(b), 864 - correct - int(b), correct - int(a)) for a, b in zip(tp[hit], fn[hit])]
    (right_b, wrong_b), (wrong_m, right_m) = RECOVERED[table]
    # transposed: what is called FN are the malignant ones
    assert found == [(right_b, wrong_m, wrong_b, right_m)]


def test_marks_b_and_c_by_search():
    for value in (0.8674, 0.9081):
        assert not any(abs(k / n - value) <= 5.0001e-5 for n in (660, 864, 2637) for k in range(n + 1))
    assert not any(abs(k / 660 - 0.8166) <= 5.0001e-5 for k in range(661)) and int(539 / 660 * 10 ** 4) == 8166


def test_printed_layer_tables_sum_to_the_printed_totals():
    totals = {table: sum(int(count.rstrip("a")) for *_, count in metrics.layers_of(text))
              for table, _, _, text in PAPER["layers"]}
    assert totals == {"1": 2_766_593, "2": 33_767_777, "3": 39_473_507}
    assert 3 * 64 * 16 == 3072                                     # mark a: the printed first row has no bias


# --- the other papers' numbers: each mark, and each value without one, by integer search

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


ROWS_001 = [(f"{number}: {label}", [float(value) for value, _ in cells], [marks for _, marks in cells])
            for number in "234" for label, cells in table_of("dcgan_cls", number)]


@pytest.mark.parametrize("label, values, marks", ROWS_001, ids=[row[0] for row in ROWS_001])
def test_the_marks_of_paper_001_row_by_row(label, values, marks):
    accuracy, precision, recall, f1, area = values
    p, r = np.meshgrid([precision - .005, precision + .005], [recall - .005, recall + .005])
    possible = 2 * p * r / (p + r)
    assert ("a" in marks[3]) == (not possible.min() - .005 <= f1 <= possible.max() + .005)
    assert ("b" in marks[0]) == (not any(fits(k / 851, accuracy) for k in range(852)))
    assert ("c" in marks[0]) == (label in ("2: 128", "3: 0.0002", "4: Adam"))
    for positive, negative in ((471, 380), (380, 471)):            # d: whichever class is positive
        tp, tn = np.mgrid[1:positive + 1, :negative + 1]
        hit = (fits((tp + tn) / 851, accuracy) & fits(tp / (tp + negative - tn), precision, 2)
               & fits(tp / positive, recall, 2))
        assert not hit.any() and "d" in marks[0]
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
    distances = {label: float(cells[0][0].split("±")[0]) for label, cells in table_of("dcgan_cls", "6")}
    assert distances["LAPGAN [16]"] < distances["DCGAN"] < distances["GAN [21]"]         # f


TEST_002 = {label: int(cells[2][0]) for label, cells in table_of("acgan_cyclegan", "1")}


def possible(precision, recall, n):
    """[k] such that recall is k / n and precision k / m for some m, to the three decimals printed."""
    return [k for k in range(n + 1) if fits(k / n, recall) and fits(k / np.arange(max(k, 1), 2535), precision).any()]


def test_table_1_of_paper_002_adds_up():
    *rows, (_, total) = table_of("acgan_cyclegan", "1")
    assert [sum(int(cells[part][0]) for _, cells in rows) for part in range(3)] == [int(value) for value, _ in total]


def test_every_cell_of_table_2_of_paper_002_is_possible_on_its_test_part():
    classes, checked = "MEL NV BCC AK BKL DF VASC SCC".split(), 0
    for label, cells in table_of("acgan_cyclegan", "2"):
        values = [float(value) for value, _ in cells]
        right = [possible(p, r, TEST_002[name]) for name, p, r in zip(classes, values[0:16:2], values[1:16:2])]
        assert all(right) and not any(marks for _, marks in cells), label
        low, high = (sum(pick(ks) for ks in right) / 2534 for pick in (min, max))
        assert low - .0005 <= values[16] <= high + .0005, label    # and the hits add up to the printed accuracy
        checked += len(right)
    assert checked == 88


def test_the_six_marked_cells_of_table_3_of_paper_002_are_the_impossible_ones():
    marked = []
    for label, cells in table_of("acgan_cyclegan", "3")[:-1]:
        for k in (0, 3, 6, 9):
            (_, mark), (precision, mark_p), (recall, mark_r) = cells[k:k + 3]
            assert bool(mark_p or mark_r) == (not possible(float(precision), float(recall), 452)), (label, k)
            assert ("a" in mark_r) == (not any(fits(k / 452, float(recall)) for k in range(453))) and not mark
            marked += [label] if mark_p or mark_r else []
    assert marked == ["500", "3000", "3000", "4000", "4000", "6000"]
    for label, cells in table_of("acgan_cyclegan", "3")[:-1]:      # the note's denominator
        assert any(fits(int(label) / (13918 + int(label)), share)
                   for share in (.035, .067, .1256, .177, .223, .264, .301, .335))


def test_the_accuracies_of_paper_003_are_counts_of_400_cut_off():
    for number in "23":
        for _, ((accuracy, mark), (loss, other)) in table_of("dermagan", number):
            whole = any(fits(100 * k / 400, float(accuracy), 2) for k in range(401))
            assert whole == ("a" not in mark)
            nearest = min(range(401), key=lambda k: abs(k / 4 - float(accuracy)))
            single = float(np.float32(nearest / 400)) * 1e4        # float32(.655) is .65499997
            assert float(accuracy) in (int(single + (1e-6 if whole else 0)) / 100, nearest / 4)
    assert int(.8166 * 1000) == 816 and round(.8166, 3) == .817
    assert dict(table_of("dermagan", "2"))["without GAN images"][1] == (".816", "b")
    matrix = np.array(PRINTED["dermagan"]["matrices"]["9"][0])
    assert matrix.sum(1).tolist() == [100] * 4 and np.trace(matrix) == 107


def test_the_accuracies_of_paper_004_by_search():
    def sizes(value, among):
        return {n for n in among if any(fits(k / n, value, 4) for k in range(n + 1))}
    assert [mark for _, [(_, mark)] in table_of("dcgan_inception", "3")] == ["a", "a"]
    for value in (.8770, .8875):
        assert not sizes(value, range(3238, 3242)) and sizes(value, range(1618, 1622)) == {1618}
    assert fits(1419 / 1618, .8770, 4) and fits(1436 / 1618, .8875, 4)


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
    refused(["no FID weights", "none.pth"], "metrics", "fid", tmp_path / "a.npz", tmp_path / "b.npz",
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
    assert len(cells) > 600 and "" not in cells and not re.search(r"not run|nothing to show|\bNone\b|\bnan\b", page)
    assert HOSTILE not in page and "&lt;script&gt;" in page and path.stat().st_size < 6e6
    for study, paper in list(PRINTED.items())[1:]:
        assert f'id="{study}"' in page and f'href="#{study}"' in page
        for table in paper["tables"]:
            assert f"{'Ours' if table['id'] == 'ours' else 'Table ' + table['id']}. {table['title']}"[:30] in markdown
        for figure, title, *_ in paper["figures"]:
            assert (f"Figure {figure}. {title}" if figure else title) in markdown
    # the first screen: a gain and a verdict for each study
    first = page[:page.index("<nav>")]
    assert first.count(" points") >= 4 and len(re.findall("no difference shown|better|worse", first)) == 4
    assert page.count("no SCC in this data") == 23 + 2             # Table 1: 3, Table 2: 22
    for words in ("Stand-in data: HAM10000 stands in", "its GAN was trained on 7 of", "Trained from random weights",
                  "quoted", "FD-trunk 9.50 ± 0.25", "noise floor (real images against each other) 1.50 at n 20",
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
    assert page.count("not run: fid") == 3 and "nothing to show of dcgan" in page and "13 of 14 have run" in page


def test_quick_numbers_are_not_judged(made_up):
    (made_up / "run.txt").write_text("scale quick\ndata x\n")
    page = metrics.report(made_up).read_text()
    assert "not judged at quick scale" in page and "no difference shown" not in page and "got better" not in page


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
