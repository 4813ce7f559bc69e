"""EXERCISES.md: each change fits the code and runs; each test that it names is there."""
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

TEXT = (ROOT / "EXERCISES.md").read_text()


def changes():
    """[(file, lines before, lines after, its command), ...] of the exercises that are a change."""
    found = []
    for text in TEXT.split("\n## "):
        for file, lines in re.findall(r"of (\w+\.py):\n```diff\n(.*?)```", text, re.DOTALL):
            before = "".join(re.findall(r"^-(.*\n)", lines, re.MULTILINE))
            after = "".join(re.findall(r"^\+(.*\n)", lines, re.MULTILINE))
            commands = re.findall(r"python ((?:gan|data)\.py [^`\n]*)", text)
            found.append((file, before, after, commands[-1]))
    return found


@pytest.mark.parametrize("file, before, after, command", changes())
def test_a_change_fits_and_runs(tmp_path, prepared, file, before, after, command):
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(before) == 1
    (tmp_path / file).write_text(text.replace(before, after))
    [draw] = re.findall(r'^DRAW="(.*)"$', TEXT, re.MULTILINE)
    words = command.replace("$DRAW", draw).split() + ["--out", tmp_path / "job"]    # counts, as last
    tiny = ["--data", prepared, "--steps", "2", "--batch", "4", "--samples", "8"]
    words += ["--built-in", "60"] if "prepare" in words else tiny
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
    assert (tmp_path / "job" / "result.json").exists()


def test_the_changes_are_found_and_the_tests_that_they_name_are_there():
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", TEXT)
    assert len(changes()) == 5 and len(named) >= 5
    assert all(f"def {name}(" in tests for name in named)
