"""EXERCISES.md and README.md: each change fits the code and runs; what they name is there."""
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

README, TEXT = [(ROOT / name).read_text() for name in ("README.md", "EXERCISES.md")]


def changes():
    """[(file, lines before, lines after, its command), ...] of the README and the exercises."""
    [lsgan] = re.findall(r"(?s)```python\n(.*?)```", README)
    [net] = re.findall(r'`("efficientnet_b0": .*?)`', README)
    below, above = "\n\n# ---- Noise, averages", "NETWORKS = {\n"
    found = [("gan.py", below, f"\n\n{lsgan}{below}", "gan.py train lsgan --width 4"),
             ("classify.py", above, f"{above}{net}\n", "classify.py train efficientnet_b0")]
    for text in TEXT.split("\n## "):
        for file, lines in re.findall(r"(?s)of (\w+\.py):\n```diff\n(.*?)```", text):
            before = "".join(re.findall(r"(?m)^-(.*\n)", lines))
            after = "".join(re.findall(r"(?m)^\+(.*\n)", lines))
            commands = re.findall(r"python ((?:gan|data)\.py [^`\n]*)", text)
            found.append((file, before, after, commands[-1]))
    return found


@pytest.mark.parametrize("file, before, after, command", changes())
def test_a_change_fits_and_runs(tmp_path, prepared, file, before, after, command):
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert before in text
    (tmp_path / file).write_text(text.replace(before, after, 1))
    [draw] = re.findall(r'(?m)^DRAW="(.*)"$', TEXT)
    tiny = f" --data {prepared} --steps 2 --batch 4" + " --samples 8" * command.startswith("gan.py")
    command += " --built-in 60" if "prepare" in command else tiny       # the last one counts
    words = command.replace("$DRAW", draw).split()
    subprocess.run([sys.executable, *words, "--out", tmp_path / "job"], cwd=tmp_path, check=True)


def test_the_changes_the_tests_that_they_name_and_the_claims_of_docs_are_found():
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", TEXT)
    assert len(changes()) == 7 and len(named) >= 5
    assert all(f"def {name}(" in tests for name in named)
    claims = re.compile(r"(?m)^\| paper \| claim .*\n(?:\|.*\n){10,}")
    assert claims.findall(README) == claims.findall((ROOT / "docs/small.md").read_text()) != []
