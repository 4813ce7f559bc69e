"""papers/*.md against a second table of what is printed; marks and arithmetic by integer search."""
import fnmatch
import math
import re

import numpy as np
import pytest
from conftest import ROOT
from test_run_all import listed

import data
import metrics
import report

JOBS = [*report.OURS, "jobs", "before", "after", "before, as printed", "after, as printed"]


def tables_of(study):
    """{heading: its rows, as the report reads them}, without further claims."""
    tables, heading = {}, ""
    for block in report.read_paper(study):
        if block[0] == "#":
            heading = block.lstrip("# ").partition(".")[0]
        elif isinstance(block, list) and "further claim" not in block[0]:
            tables[heading] = block
    return tables


def rows_of(study):
    return sum(tables_of(study).values(), [])


def marks_of(cell):
    """Of ".8674 b": "b"."""
    return "".join(re.findall(r"^[\d.,±]+ ([a-z]+)$", cell))


def numbers(rows, column):
    return [float(row[column].split()[0].replace(",", "")) for row in rows]


# ---- Cells, their jobs, their marks

@pytest.mark.parametrize("study", report.PAPERS)
def test_tables_hold_what_is_printed_every_mark_has_a_reason_and_every_share_holds(study):
    """tests/printed.txt is a second copy of every table but of titles and further claims."""
    cells = []
    for heading, rows in tables_of(study).items():
        columns = [column for column in rows[0] if column != "title"]
        cells += [heading, *columns]
        for row in rows:
            cells += [row[column] for column in columns]
    printed = (ROOT / "tests/printed.txt").read_text(encoding="utf-8")
    printed = printed.partition(f"== {study}\n")[2].partition("== ")[0]
    assert " ".join(cells).replace("not printed", "-").split() == printed.split()
    text = report.PAPERS[study].read_text(encoding="utf-8")
    used = {mark for row in rows_of(study) for cell in row.values() for mark in marks_of(cell)}
    assert sorted(used) == sorted(re.findall(r"(?m)^- \*\*([a-z])\*\* ", text))
    for k, n, share in re.findall(r"(\d+) of (\d+)(?: is|,| =|) \(?(\.\d+)", text):
        assert int(k) in counts(share, int(n)), (k, n, share)


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_job_that_a_file_names_is_one_of_run_all(scale):
    options = {re.sub(r"-s\d+$", "", name): words for _, name, words in listed("--scale", scale)}
    for study in report.PAPERS:
        for row in rows_of(study):
            for name in " ".join(row[column] for column in JOBS if column in row).split():
                name, _, test = name.partition("@")
                found = fnmatch.filter(options, f"{study}/{name}")
                assert found or name == "-", name
                assert test != "mixed" or "--mixed-test" in options[found[0]], name
                assert name != "fid" or f"{study}/{test}" in options, test


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


def matrices(printed, sizes, cut=False):
    """[[tp, fn, fp, tn], ...] of so many (positives, negatives) that give the printed values."""
    p, q = sizes
    tp, tn = np.mgrid[:p + 1, :q + 1].reshape(2, -1)
    shares = {"sensitivity": (tp, p), "specificity": (tn, q), "precision": (tp, tp + q - tn),
              "accuracy": (tp + tn, p + q), "f1": (2 * tp, tp + p + q - tn)}    # part, whole
    fits = np.ones(len(tp), bool)
    for name, text in printed.items():
        part, whole = shares[name]
        low, high = printed_range(text, cut)
        fits &= (low * whole <= part) & (part <= high * whole) & (np.asarray(whole) > 0)
    return np.stack([tp, p - tp, q - tn, tn], 1)[fits].tolist()


def test_the_counts_of_the_notes_and_the_cells_marked_as_impossible():
    impossible = set()
    for line in (ROOT / "tests/counts.txt").read_text().partition("\n\n")[2].splitlines():
        text, n, *expected = line.split("; ")
        found = [counts(text, int(n)), counts(text, int(n), True)]
        assert [" ".join(map(str, some)) or "-" for some in found] == expected, line
        impossible.update([text] * (expected == ["-", "-"]))
    for study, letter in (("wgan_gp", "b"), ("acgan_cyclegan", "a"), ("dcgan_inception", "a")):
        cells = [cell for row in rows_of(study) for cell in row.values()]
        marked = {cell.split()[0] for cell in cells if letter in marks_of(cell)}
        assert marked and marked <= impossible


@pytest.mark.parametrize("report_of, figure", [
    ("Table 6", "Figure 3"), ("Table 7", "Figure 4"), ("Table 8", "Figure 5")])
def test_one_matrix_gives_tables_6_to_8_but_not_as_the_paper_names_its_values(report_of, figure):
    rows = tables_of("wgan_gp")[f"{figure} (c), recovered"]
    matrix = np.array([numbers(rows, "called benign"), numbers(rows, "called malignant")], int).T
    truth, called = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], matrix.ravel(), axis=1)
    values = metrics.measures(truth, np.eye(2)[called], data.TWO, np.ones((1, len(truth))))
    words, row = tables_of("wgan_gp")[report_of]
    columns = list(row)[3:-1]                       # the last is the AUC, not printed
    for column in columns:
        share = f"{values[column][0] + 1e-8:.4f}".removeprefix("0")
        assert row[column].removeprefix("put right: ").split()[0] == share
    printed = {words[name].replace("F1 score", "f1"): row[name].split()[0] for name in columns[:5]}
    for sizes in ((460, 404), (404, 460)):          # whichever class is positive
        assert matrices(printed, sizes) == matrices(printed, sizes, cut=True) == []
    found = []
    for p in range(865):                            # of any sizes one, its columns the true sizes
        if counts(printed["sensitivity"], p) and counts(printed["specificity"], 864 - p):
            found += matrices(printed, (p, 864 - p))
    assert found == [matrix.T.ravel().tolist()]


@pytest.mark.parametrize("number", (2, 3, 4))
@pytest.mark.parametrize("k", (0, 1))
def test_the_marks_of_paper_001(number, k):
    rows = tables_of("dcgan_cls")[f"Table {number}"]
    row = rows[k]
    columns = ["accuracy", "precision malignant", "recall malignant"]
    names = "accuracy", "precision", "sensitivity"          # for the search
    printed = {name: row[column].split()[0] for name, column in zip(names, columns)}
    _, *ends = [printed_range(text) for text in printed.values()]
    f1s = [2 * p * r / (p + r) for p, r in zip(*ends)]
    low, high = printed_range(row["f1 malignant"].split()[0])
    of_accuracy = "b" * (counts(printed["accuracy"], 851) == []) + "c" * (row["job"] == "base")
    assert marks_of(row["accuracy"]) == of_accuracy + "d"
    assert ("a" in marks_of(row["f1 malignant"])) == (f1s[1] < low or high < f1s[0])
    assert ("e" in marks_of(row["auc"])) == row["auc"].startswith(".861")     # 733 / 851
    for column in [*columns, "f1 malignant", "auc"]:
        lower = numbers([row], column) < numbers(rows[:1], column)
        assert ("g" in marks_of(row[column])) == (number == 3 and lower)
    for sizes in ((471, 380), (380, 471)):          # d: all rounded, all cut off
        assert matrices(printed, sizes) == matrices(printed, sizes, cut=True) == []


def hits(precision, recall, n, cut=False):
    """[k, ...]: recall is k / n and precision k / m for some m, to three decimals (.88 is .880)."""
    precision, recall = (f"{float(cell.split()[0]):.3f}" for cell in (precision, recall))
    low, high = printed_range(precision, cut)
    return [k for k in counts(recall, n, cut) if math.ceil(k / high) <= math.floor(k / low)]


def test_the_impossible_cells_of_paper_002_are_marked():
    tables = tables_of("acgan_cyclegan")
    for row in tables["Table 2"]:
        for one in tables["Table 1"][:-1]:
            name, size = one["class"], int(one["images test"])
            assert hits(row[f"precision {name}"], row[f"recall {name}"], size)
    rows = sum((tables[name][:-1] for name in tables if name.startswith("Table 3")), [])
    for row in rows:
        cells = row["precision MEL"], row["recall MEL"]
        possible = hits(*cells, 452) or hits(*cells, 452, True)
        assert bool(possible) == (marks_of(cells[0]) + marks_of(cells[1]) == ""), row
