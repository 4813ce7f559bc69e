"""papers/*.md against a second table of what is printed; marks and arithmetic by integer search."""
import fnmatch
import functools
import itertools
import math
import re
import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import stats

import classify
import data
import gan
import metrics
import report

parts = re.split(r"== (\w+)\n", (ROOT / "tests/printed.txt").read_text(encoding="utf-8"))
PRINTED = dict(zip(parts[1::2], parts[2::2]))       # study: its tables


def text_of(study):
    return report.PAPERS[study].read_text(encoding="utf-8")


@functools.cache
def tables_of(study):
    """{heading: [{column: (text, marks)}, ...]}: ".8674 b" is (".8674", "b"), others (text, "")."""
    tables, heading, header = {}, "", None
    for line in text_of(study).splitlines():
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if line.startswith("#"):
            heading = line.lstrip("# ").partition(".")[0]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header, rows = cells, []
            name = header[0] if header[0] == "further claim" else heading
            assert tables.setdefault(name, rows) is rows        # one of that name
        elif not line.startswith("| ---"):
            marked = [re.fullmatch(r"([\d.,±]+) ([a-z]+)", cell) for cell in cells]
            pairs = [found.groups() if found else (cell, "") for found, cell in zip(marked, cells)]
            rows.append(dict(zip(header, pairs, strict=True)))
    return tables


def rows_of(study):
    return sum(tables_of(study).values(), [])


def numbers(rows, column):
    return np.array([float(row[column][0].replace(",", "")) for row in rows])


def short(value, digits=3):
    return f"{value + 1e-8:.{digits}f}".removeprefix("0")       # .8415 is .842


@functools.cache
def listed(scale):
    """{STUDY/NAME without its seed: command} of the jobs of run_all.sh."""
    command = ["bash", "run_all.sh", "list", "--scale", scale]
    shown = subprocess.check_output(command, cwd=ROOT, text=True)
    jobs = re.findall(r"(\S+\.py .* --out \S+/(\w+/[\w.-]+?)(?:-s\d+)?)$", shown, re.MULTILINE)
    return {name: command for command, name in jobs}


# ---- Cells, their jobs, their marks

@pytest.mark.parametrize("study", report.PAPERS)
def test_tables_hold_what_is_printed_and_name_their_jobs(study):
    """Against tests/printed.txt, a second copy of every table."""
    cells = []
    for heading, rows in tables_of(study).items():
        columns = [column for column in rows[0] if column != "title"]
        if heading != "further claim":
            cells += [heading, *columns]
            for row, column in itertools.product(rows, columns):
                cells += row[column]
    assert " ".join(cells).replace("not printed", "-").split() == PRINTED[study].split()


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
@pytest.mark.parametrize("study", report.PAPERS)
def test_every_job_that_a_file_names_is_one_of_run_all(study, scale):
    columns = "job|as printed|clean|before|after|before, as printed|after, as printed|jobs"
    for row in rows_of(study):
        names = " ".join(row[column][0] for column in columns.split("|") if column in row).split()
        names += [name.partition("@")[2] for name in names if name.startswith("fid@")]
        for name, _, test in (name.partition("@") for name in names if name != "-"):
            found = fnmatch.filter(listed(scale), f"{study}/{name}")
            assert found, name
            assert test != "mixed" or "--mixed-test" in listed(scale)[found[0]], name


@pytest.mark.parametrize("study", report.PAPERS)
def test_every_mark_has_a_reason_and_every_sum_and_share_holds(study):
    """Sums such as "460 - 360 = 100", shares such as "539 of 660 is .81667"."""
    used = [marks for row in rows_of(study) for _, marks in row.values()]
    reasons = re.findall(r"^- \*\*([a-z])\*\* ", text_of(study), re.MULTILINE)
    assert sorted(set("".join(used))) == sorted(reasons)
    sums = r"([\d,]+(?: [-+x] [\d,]+)+)(?: =| malignant images are) ([\d,]*\d)"
    for terms, total in re.findall(sums, text_of(study)):
        assert eval(terms.replace(",", "").replace("x", "*")) == int(total.replace(",", "")), terms
    for k, n, share in re.findall(r"(\d+) of (\d+)(?: is|,| =|) \(?(\.\d+)", text_of(study)):
        assert int(k) in counts(share, int(n)), (k, n, share)


# ---- Which counts are printed like this?

def printed_range(text, cut=False):
    """(low, high): the shares printed as ".9201" when rounded, or else cut off."""
    value, unit = float(text), 10.0 ** -len(text.partition(".")[2])
    if cut:
        return value - 1e-9, value + unit - 2e-9
    return value - unit / 2 - 1e-9, value + unit / 2 + 1e-9


def counts(text, n, cut=False):
    """[k, ...] such that k / n is printed like this."""
    low, high = printed_range(text, cut)
    return [k for k in range(n + 1) if low * n <= k <= high * n]


def matrices(printed, sizes, cut=()):
    """[[tp, fn, fp, tn], ...] that give the printed values, {"precision": ".9201", ...}.

    sizes: (positives, negatives); cut: names of those values that are cut off, not rounded.
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
        low, high = printed_range(text, name in cut)
        fits &= (low * whole <= part) & (part <= high * whole) & (np.asarray(whole) > 0)
    return np.stack([tp, p - tp, q - tn, tn], 1)[fits].tolist()


MARKED = [          # the cells with a mark that says: no share of so many, rounded or cut off
    ("wgan_gp", "b", [".8674", ".9081"], (660, 864, 2637)),
    ("acgan_cyclegan", "a", [".724", ".724"], (452,)),
    ("dcgan_inception", "a", [".8770", ".8875"], (3239, 3240, 3241, 1620, 1621))]


@pytest.mark.parametrize("study, letter, marked, sizes", MARKED)
def test_no_count_gives_the_cells_marked_as_impossible(study, letter, marked, sizes):
    cells = [cell for row in rows_of(study) for cell in row.values()]
    assert [text for text, marks in cells if letter in marks] == marked
    for text, n in itertools.product(marked, sizes):
        assert counts(text, n) == counts(text, n, True) == []


# ---- 000: WGAN-GP

RECOVERED = {       # benign called benign, called malignant; malignant called benign, malignant
    "Table 6": (426, 34, 37, 367), "Table 7": (417, 43, 29, 375), "Table 8": (379, 81, 37, 367)}


@pytest.mark.parametrize("table", RECOVERED)
def test_one_matrix_gives_tables_6_to_8_but_not_as_the_paper_names_its_values(table):
    right_b, wrong_b, wrong_m, right_m = RECOVERED[table]
    truth, called = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], RECOVERED[table], axis=1)
    values = metrics.measures(truth, np.eye(2)[called], data.TWO, np.ones((1, len(truth))))
    words, row = tables_of("wgan_gp")[table]
    columns = list(row)[3:-1]                       # the last is the AUC, not printed
    for column in columns:
        assert row[column][0].removeprefix("put right: ") == short(values[column][0], 4)
    printed = {words[name][0].replace("F1 score", "f1"): row[name][0] for name in columns[:5]}
    for sizes in ((460, 404), (404, 460)):          # whichever class is positive
        assert matrices(printed, sizes) == matrices(printed, sizes, printed) == []
    found = []
    for p in range(865):                            # of any sizes one, its columns the true sizes
        if counts(printed["sensitivity"], p) and counts(printed["specificity"], 864 - p):
            found += matrices(printed, (p, 864 - p))
    assert found == [[right_b, wrong_m, wrong_b, right_m]]


@pytest.mark.parametrize("table, build, shape, total", [
    ("Table 1", lambda: gan.wgan_gp_critic(64), (3, 128, 128), 2766657),
    ("Table 2", gan.wgan_gp_critic, (3, 224, 224), 33767777),
    ("Table 3", gan.wgan_gp_generator, (200, 1, 1), 39473507)])
def test_the_printed_layers_are_those_of_our_networks(table, build, shape, total):
    rows = tables_of("wgan_gp")[table][:-1]
    with torch.device("meta"):
        built = gan.layer_table(build(), shape)
    printed = numbers(rows, "parameters").astype(int)
    printed[0] += 64 * (table == "Table 1")         # mark a: a bias
    assert printed.sum() == built[-1][2] == total
    for row, count, (layer, sides, own) in zip(rows, printed, built):
        assert layer in row["layer"][0] and count == own
        assert row["output"][0] == "x".join(map(str, sides))


def test_tables_4_and_5_are_of_two_test_sets():
    for text, right in ((".8634", 746), (".9167", 792), (".9178", 793), (".8600", 743)):
        assert counts(text, 864) == [right]
        assert not counts(text, 660) or text == ".9167"
    assert counts(".8166", 660, True) == [539]


# ---- 001: DCGAN

COLUMNS = ["accuracy", "precision malignant", "recall malignant", "f1 malignant", "auc"]
NAMES = ["accuracy", "precision", "sensitivity"]        # what the search takes, in that order
WAYS = [()] + [cut for k in (1, 2, 3) for cut in itertools.combinations(NAMES, k)]     # cut off
SIZES = [(471, 380), (380, 471), (300, 360), (360, 300)]    # Figure 17; Kaggle's test part


def marks_of(row, first):
    """Of accuracy, precision, recall, F1 and AUC of a row; first: the first row of its table."""
    accuracy, precision, recall, f1, area = (row[column][0] for column in COLUMNS)
    ends = zip(printed_range(precision), printed_range(recall))
    low, high = (2 * p * r / (p + r) for p, r in ends)
    bcd = "b" * (counts(accuracy, 851) == []) + "c" * (row["job"][0] == "base") + "d"
    a = "a" * (high < printed_range(f1)[0] or printed_range(f1)[1] < low)
    assert not a or (short(low), short(high)) in [(".842", ".852"), (".882", ".892")]
    e = "e" * (area == short(733 / 851))
    lower = [float(row[column][0]) < float(first[column][0]) for column in COLUMNS]
    return [mark + "g" * less for mark, less in zip((bcd, "", "", a, e), lower)]


def test_the_marks_of_paper_001_and_the_matrices_that_fit_its_rows():
    possible, shares = {}, []
    for number, k in itertools.product((2, 3, 4), (0, 1)):
        rows = tables_of("dcgan_cls")[f"Table {number}"]
        first = rows[0] if number == 3 else rows[k]     # g: only Table 3 praises lower values
        assert [rows[k][column][1] for column in COLUMNS] == marks_of(rows[k], first)
        ends = itertools.product(*(printed_range(rows[k][column][0]) for column in COLUMNS[:3]))
        # the share of positives that a row implies: wrong = missed + false alarms
        shares.append([(1 - a) / (1 - r + r * (1 - p) / p) for a, p, r in ends])
        printed = {name: rows[k][column][0] for name, column in zip(NAMES, COLUMNS)}
        for sizes, way in itertools.product(SIZES, WAYS):
            if found := matrices(printed, sizes, way):
                possible[number, k, sizes, way] = [(tp, tn) for tp, _, _, tn in found]
    # one row fits Kaggle's test part, in every way, and Figure 17's sizes in mixed ways alone (d)
    assert {key[:3] for key in possible} == {(3, 0, (380, 471)), (3, 0, (300, 360))}
    assert possible[3, 0, (300, 360), ()] == [(251, 345), (252, 344), (253, 343)]
    assert possible[3, 0, (300, 360), WAYS[-1]] == [(252, 344)]
    assert possible[3, 0, (380, 471), ("accuracy",)] == [(318, 451), (319, 450), (320, 449)]
    assert not {(3, 0, (380, 471), way) for way in (WAYS[0], WAYS[-1])} & possible.keys()
    low, high = np.min(shares, 1), np.max(shares, 1)
    assert (short(low.min(), 2), short(high.max(), 2)) == (".22", ".48")
    assert ((low < 1497 / 3297) & (1497 / 3297 < high)).tolist() == [0, 0, 1, 0, 0, 0]
    assert (short(low[2], 2), short(high[2], 2)) == (".43", ".48")


def test_figure_17_of_paper_001():
    tp, fn, fp, tn, benign = 395, 76, 42, 338, 1800 / 3297
    assert (tp + fn, fp + tn, tp + tn) == (471, 380, 733) and counts(".903", 851, True) == [769]
    deviation = math.sqrt(851 * benign * (1 - benign) * 2446 / 3296)    # without replacement
    away = [abs(471 - 851 * share) / deviation for share in (benign, 1 - benign)]
    assert away[0] < 1 and f"{away[1]:.1f}" == "6.8"
    found = [tp / 437, tp / 471, tn / 380, tn / (tn + fn), 851 / 3297, 851 / 3597]
    assert list(map(short, found)) == [".904", ".839", ".889", ".816", ".258", ".237"]


# ---- 002: ACGAN and CycleGAN

def hits(precision, recall, n, cut=False):
    """[k, ...]: recall is k / n and precision k / m for some m, to three decimals (.88 is .880)."""
    low, high = printed_range(f"{float(precision):.3f}", cut)
    found = counts(f"{float(recall):.3f}", n, cut)
    return [k for k in found if math.ceil(k / high) <= math.floor(k / low)]


def test_every_cell_of_table_2_of_paper_002_is_possible_and_they_add_up():
    *classes, _ = tables_of("acgan_cyclegan")["Table 1"]
    parts = np.array([numbers(classes, f"images {part}") for part in ("train", "val", "test")])
    assert np.abs(parts - np.outer([0.8, 0.1, 0.1], parts.sum(0))).max() < 1    # 80/10/10 of each
    assert parts.sum(1).tolist() == [20264, 2533, 2534]
    for row in tables_of("acgan_cyclegan")["Table 2"]:
        right = []
        for one, size in zip(classes, parts[2].astype(int)):
            name = one["class"][0]
            right.append(hits(row[f"precision {name}"][0], row[f"recall {name}"][0], size))
        low, high = printed_range(f"{float(row['accuracy'][0]):.3f}")
        assert all(right) and sum(map(min, right)) <= 2534 * high
        assert sum(map(max, right)) >= 2534 * low
        n, share = int("0" + row["job"][0].partition("_")[2]), float(row["model"][0].split("-")[1])
        assert n / (20264 + n) == pytest.approx(share, abs=0.0005)


def melanomas():
    """The rows of Table 3 with GAN images."""
    tables = tables_of("acgan_cyclegan")
    return sum((tables[name][:-1] for name in tables if name.startswith("Table 3")), [])


def test_the_other_impossible_cells_of_table_3_of_paper_002_are_marked():
    for row in melanomas():
        (precision, b), (recall, a) = row["precision MEL"], row["recall MEL"]
        possible = hits(precision, recall, 452) or hits(precision, recall, 452, True)
        assert b == "b" * (a == "" and not possible), row
    assert counts(".825", 408, True) == counts(".746", 452) == [337]
    n = np.array([500, *range(1000, 8000, 1000)])
    shares = [0.035, 0.067, 0.1256, 0.177, 0.223, 0.264, 0.301, 0.335]
    assert np.allclose(n / (10300 + 3618 + n), shares, rtol=0, atol=0.0006)


def z_and_p(k, other, n):
    """Two shares of n, unpaired: z as text and its two-sided p."""
    both = (k + other) / (2 * n)
    z = (k - other) / n / math.sqrt(2 * both * (1 - both) / n)
    return f"{z:.2f}", 2 * stats.norm.sf(abs(z))


def test_the_trend_and_the_power_of_paper_002():
    rows = melanomas()
    trend = stats.spearmanr(numbers(rows, "n"), numbers(rows, "recall MEL"))
    assert f"{trend.statistic:.2f} {trend.pvalue:.0e}" == "0.75 7e-07"
    assert (max(counts(".865", 2534)), min(counts(".856", 2534))) == (2193, 2168)
    assert "{} {:.2f}".format(*z_and_p(2193, 2168, 2534)) == "1.01 0.31"
    other = 0.856 + np.arange(-0.05, 0.05, 1e-5)    # gains that are found with less than 80 % power
    both = (other + 0.856) / 2
    needed = stats.norm.ppf(0.975) * np.sqrt(2 * both * (1 - both))
    needed += stats.norm.ppf(0.8) * np.sqrt(0.856 * 0.144 + other * (1 - other))
    hidden = 100 * (other - 0.856)[abs(other - 0.856) < needed / math.sqrt(2534)]
    assert f"{hidden.min():.1f} {hidden.max():.1f}" == "-2.9 2.7" and report.NO_EFFECT == 0.027


# ---- 003: DermaGAN

def test_the_arithmetic_of_paper_003():
    rows = tables_of("dermagan")["Figure 9"]
    matrix = np.array([numbers(rows, f"called {row['class'][0]}") for row in rows])
    assert np.trace(matrix) == 107 and matrix.sum(0).tolist() == [100] * 4
    found = [stats.chi2_contingency(matrix).pvalue, z_and_p(288, 262, 400)[1]]
    found += [z_and_p(288, 274, 400)[1], stats.fisher_exact([[288, 112], [262, 138]]).pvalue]
    assert list(map(short, found)) == [".214", ".047", ".279", ".056"]
    config = dict(z_dim=512, width=64)
    with torch.device("meta"):
        nets = [gan.GANS["dermagan"].generator(config), gan.GANS["dermagan"].discriminator(config)]
        nets.append(classify.derma_cnn(4))
    weights = [sum(weight.numel() for weight in net.parameters()) for net in nets]
    assert weights == [6951808, 2765696, 521758]


# ---- 004: DCGAN and Inception

def test_the_counts_behind_table_3_of_paper_004():
    for n, rounded, cut in ((1618, [1419, 1436], []), (1619, [], [1420, 1437]), (3238, [], [2840, 2874])):
        assert counts(".8770", n) + counts(".8875", n) == rounded
        assert n == 1618 or counts(".8770", n, True) + counts(".8875", n, True) == cut


def test_the_class_sizes_behind_table_2_of_paper_004():
    """Every matrix of n images, so many of them right, that gives the table's six values."""
    ratios = []
    for n, right in [(1618, 1436), (1619, 1437), (3238, 2874)]:
        hit, lost = np.mgrid[:right + 1, :n - right + 1]        # benign called benign, malignant
        fit = np.ones(hit.shape, bool)
        for row in tables_of("dcgan_inception")["Table 2"]:     # benign, then malignant
            wholes = (n - right - lost + hit, hit + lost, hit + (n - right) / 2)
            for name, whole in zip(("precision", "recall", "f1"), wholes):
                low, high = printed_range(row[name][0])
                fit &= (low * whole <= hit) & (hit <= high * whole)
            hit, lost = right - hit, n - right - lost
        ratios += ((hit + lost)[fit] / (n - hit - lost)[fit]).tolist()
    assert f"{min(ratios):.2f} {max(ratios):.2f} {8833 / 7361:.2f}" == "1.16 1.25 1.20"
