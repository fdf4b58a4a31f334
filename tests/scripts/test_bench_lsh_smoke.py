"""The trials of signatures, so few that they say nothing, and the figures that a document quotes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_trials(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    script = str(ROOT / "scripts" / "lsh_trials.py")
    command = [sys.executable, script, "--task", "digits", "--works", "2", "--trials", "4", "--json", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=110, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["digits"]
    assert (found["works"], found["trainings"]) == (
        2,
        30 * 5 + 2 * 20,
    )  # `no update` takes none, `adaptive: turned` three
    rows = {row["way"]: row for row in found["rows"]}
    assert rows["sign flipped"]["agreed"]["three"]["count"] == 0
    assert rows["adaptive: turned"]["bits"][1] > 0
    assert rows["two threads"]["agreed"]["three"]["count"] == 4
