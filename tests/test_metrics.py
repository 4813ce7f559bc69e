import json

import numpy as np
import pytest
import scipy.linalg

import data
import metrics
from metrics import PRINTED, cells_of

PAPER = PRINTED["wgan_gp"]
REPORTS = {table["id"]: [float(cell.strip("=d")) for _, [(cell, _, _)] in cells_of(table) if cell != "="]
           for table in PAPER["tables"] if "job" in table}                      # per table: the five printed values, then four put right

# 40 labels and scores with ties; the constants below are scikit-learn 1.7's answers for them.
LABELS = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1])
SCORES = np.array([4, 3, 6, 3, 3, 6, 5, 6, 4, 3, 3, 4, 3, 1, 4, 4, 2, 3, 5, 1, 4, 5, 3, 5, 6, 4, 3, 3, 3, 8, 5, 6, 3, 5, 4, 3, 7, 5, 6, 6]) / 10
WEIGHTS = np.array([1, 2, 1, 2, 2, 2, 3, 0, 2, 1, 1, 0, 0, 1, 3, 0, 1, 3, 3, 0, 0, 2, 0, 1, 1, 3, 0, 2, 2, 0, 3, 3, 1, 3, 2, 3, 3, 2, 1, 0])
CHANCES = np.stack([1 - SCORES, SCORES + 1e-9], 1)                              # a score of .5 counts as malignant


# --- classification

def test_measures_equal_scikit_learn():
    ours = metrics.measures(LABELS, CHANCES)
    for name, value in dict(precision=0.6875, sensitivity=0.4583333333333333, f1=0.55, specificity=0.6875, accuracy=0.55,
                            auc=0.6471354166666666).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    assert metrics.auc(LABELS, SCORES, np.stack([WEIGHTS, np.ones(40)]))[0] == pytest.approx(0.6304347826086957, abs=1e-12)
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
    assert "undefined" in metrics.number(metrics.summary([(LABELS, chances, np.arange(40))])["precision"])


def test_wilson_interval_in_closed_form():
    z, n, p = 1.959963984540054, 50, 0.9
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics.wilson(45, 50) == pytest.approx((centre - half, centre + half))


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
    assert width([bad, good]) > 1.5 * max(width([bad]), width([good]))              # seeds that differ widen the interval
    labels_twice, chances_twice = np.repeat(labels, 4), np.repeat(good[1], 4, 0)
    grouped = width([(labels_twice, chances_twice, np.repeat(np.arange(300), 4))])
    assert grouped == pytest.approx(width([good]), rel=0.05)                        # four views of a lesion tell nothing new
    assert width([(labels_twice, chances_twice, np.arange(1200))]) < 0.6 * grouped


def test_difference_of_an_arm_with_itself_is_zero_and_a_planted_one_is_found():
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 2, 400), np.repeat(np.arange(200), 2)

    def arm(accuracy, seeds=3):
        return [(labels, np.eye(2)[np.where(rng.random(400) < accuracy, labels, 1 - labels)], groups) for _ in range(seeds)]
    same = arm(0.8, seeds=1)
    assert metrics.difference(same, same) == [0, 0, 0]
    gain, low, high = metrics.difference(arm(0.7), arm(0.85))
    assert low > 0 and low < 0.15 < high and gain == pytest.approx(0.15, abs=0.05)
    found = sum(not (low <= 0 <= high) for low, high in (metrics.difference(arm(0.8), arm(0.8), draws=300)[1:] for _ in range(100)))
    assert found <= 12                                             # 5 expected; more than 12 has probability .002
    with pytest.raises(data.UserError, match="same test images"):
        metrics.difference(same, [(1 - labels, same[0][1], groups)])


# --- paper 000's numbers

@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_the_recovered_matrices_give_the_printed_tables_digit_by_digit(table):
    matrix = np.array(PAPER["recovered"][table])
    assert [round(float(v), 4) for v in metrics.as_printed(matrix).values()] == REPORTS[table][:5]
    right = metrics.binary_metrics(matrix, positive=1)
    assert [round(float(right[m]), 4) for m in ("sensitivity", "specificity", "precision", "f1")] == REPORTS[table][5:]
    assert matrix.sum(1).tolist() == [460, 404]


def matches(tp, fn, fp, tn, printed):
    """Where all five measures of these counts round to the printed values."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), (tp + tn) / (tp + fn + fp + tn), 2 * tp / (2 * tp + fp + fn))
    return np.all([np.abs(v - p) <= 5.0001e-5 for v, p in zip(values, printed)], axis=0)


@pytest.mark.parametrize("table", ["6", "7", "8"])
def test_mark_d_by_integer_search(table):
    printed = REPORTS[table][:5]
    for positives, negatives in ((460, 404), (404, 460)):          # with the true class sizes: none, whichever class is positive
        tp, tn = np.mgrid[:positives + 1, :negatives + 1]
        assert not matches(tp, positives - tp, negatives - tn, tn, printed).any()
    found = []                                                     # with any class sizes that sum to 864: exactly one
    for correct in (k for k in range(865) if abs(k / 864 - printed[3]) <= 5.0001e-5):
        tp, fn = np.mgrid[:correct + 1, :864 - correct + 1]
        hit = matches(tp, fn, 864 - correct - fn, correct - tp, printed)
        found += [(int(a), int(b), 864 - correct - int(b), correct - int(a)) for a, b in zip(tp[hit], fn[hit])]
    (right_b, wrong_b), (wrong_m, right_m) = PAPER["recovered"][table]
    assert found == [(right_b, wrong_m, wrong_b, right_m)]         # transposed: what is called FN are the malignant ones


def test_marks_b_and_c_by_search():
    for value in (0.8674, 0.9081):
        assert not any(abs(k / n - value) <= 5.0001e-5 for n in (660, 864, 2637) for k in range(n + 1))
    assert not any(abs(k / 660 - 0.8166) <= 5.0001e-5 for k in range(661)) and int(539 / 660 * 10 ** 4) == 8166


def test_printed_layer_tables_sum_to_the_printed_totals():
    totals = {table: sum(int(count.rstrip("a")) for *_, count in metrics.layers_of(text)) for table, _, _, text in PAPER["layers"]}
    assert totals == {"1": 2_766_593, "2": 33_767_777, "3": 39_473_507}
    assert 3 * 64 * 16 == 3072                                     # mark a: the printed first row has no bias


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
    """d = 30: the cross matrix of the images (n <= d) and the triangular factors (n > d) are two roads to one number."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 30)), rng.normal(size=(45, 30)) @ rng.normal(size=(30, 30))
    eigenvalues = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real.clip(0)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * np.sqrt(eigenvalues).sum()
    assert metrics.frechet(x, y) == pytest.approx(expected, rel=1e-6)
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
    _, out, _ = cli("metrics", "fid", tmp_path / "lesions.npz", tmp_path / "tree", "--size", 32)
    assert out.startswith("FD-8x8") and "not an FID" in out
    np.save(tmp_path / "c.npy", np.zeros((9, 4)))
    refused(["cannot be compared"], "metrics", "fid", tmp_path / "a.npy", tmp_path / "c.npy")
    (tmp_path / "d.npy").write_text("no array")
    refused(["d.npy", "not a feature array"], "metrics", "fid", tmp_path / "d.npy", tmp_path / "c.npy")


# --- report

def test_the_report_escapes_every_string():
    page = metrics.Page()
    page.heading(2, "<b>")
    page.text("<script>", "warn")
    page.table("<i>", ["a", "<u>"], [["<x>", "0.5 [0.4, 0.6]"], ["y", "<img onerror=1>"]], ["<note>"])
    page.figure("<fig>", metrics.svg_lines("<svgtitle>", [("<name>", [0, 1], [0, 1])], "<label>"), metrics.svg_matrix("<m>", [[1]], ["<class>"]))
    body = "\n".join(page.html)
    for text in ("<b>", "<script>", "<i>", "<u>", "<x>", "<img onerror", "<note>", "<fig>", "<svgtitle>", "<name>", "<label>", "<m>", "<class>"):
        assert text not in body, text
    assert "<small>[0.4, 0.6]</small>" in body


def test_printed_values_as_text():
    assert [metrics.printed_value(v) for v in (".8674b", "3072a", "128", ".9", "=.9084", "=")] == [
        "0.8674 (b)", "3,072 (a)", "128", "0.9", "0.9084", "not printed"]


def test_a_report_of_nothing_says_so(tmp_path, refused):
    refused(["no finished job", "run_all.sh"], "metrics", "report", tmp_path)
