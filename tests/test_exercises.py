"""EXERCISES.md: each change fits the code and runs; each test that it names is there."""
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

TEXT = (ROOT / "EXERCISES.md").read_text()


def changes():
    """[(file, lines before, lines after, first command), ...] of the exercises that are a change."""
    found = []
    for text in re.split(r"\n## ", TEXT):
        block = re.search(r"of (\w+\.py):\n```diff\n(.*?)```\n(.*)", text, re.DOTALL)
        if block:
            file, lines, rest = block.groups()
            before = re.findall(r"^-(.*\n)", lines, re.MULTILINE)
            after = re.findall(r"^\+(.*\n)", lines, re.MULTILINE)
            command = re.findall(r"python ((?:gan|data)\.py [^`\n]*)", rest)[-1]
            found.append((file, "".join(before), "".join(after), command))
    return found


@pytest.mark.parametrize("file, before, after, command", changes())
def test_a_change_fits_and_runs(tmp_path, prepared, file, before, after, command):
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(before) == 1
    (tmp_path / file).write_text(text.replace(before, after))
    [draw] = re.findall(r'^DRAW="(.*)"$', TEXT, re.MULTILINE)
    words = command.replace("$DRAW", draw).split()
    words += ["--out", tmp_path / "job"]                # of an option given twice the last counts
    if "prepare" in words:
        words += ["--built-in", 60]
    else:
        words += ["--data", prepared, "--steps", 2, "--batch", 4, "--samples", 8]
    ran = subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and (tmp_path / "job" / "result.json").exists(), ran.stderr


def test_the_changes_are_found_and_the_tests_that_they_name_are_there():
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", TEXT)
    assert len(changes()) == 5 and len(named) >= 5
    assert all(f"def {name}(" in tests for name in named)
    assert len(TEXT.splitlines()) <= 120
