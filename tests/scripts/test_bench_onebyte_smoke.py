"""The benchmarks of one-byte training run, at a size that says nothing, and write the figures that documents quote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


def figures(name: str, folder: Path, *options: str) -> dict[str, Any]:
    path = folder / "figures.json"
    command = [sys.executable, str(SCRIPTS / f"bench_{name}.py"), *options, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["benchmark"] == name
    assert all(aim["what"] in done.stdout.replace("\n", "") for aim in found["aims"])
    return dict(found["figures"])


def test_chain(tmp_path: Path) -> None:
    found = figures(
        "chain", tmp_path, "--largest", "10000", "--layers", "1", "--steps", "10", "--threads", "1", "--plain"
    )
    assert not found["compiled"]
    assert [each["length"] for each in found["rates"]] == [10_000]
    assert set(found["rates"][0]["per_s"]) == {"1", "8", "64", "512"}
    assert min(found["step"]["forwards_s"], found["step"]["step_s"]) > 0


def test_onebyte(tmp_path: Path) -> None:
    found = figures("onebyte", tmp_path, "--seeds", "1", "--steps", "3", "--only", "iid, K=4")
    (row,) = found["rows"]
    assert len(row["grid"]) == 3
    assert len(row["test"]) == len(row["floats"]) == 1
    assert row["test"][0] == pytest.approx(row["floats"][0], abs=0.1)


def test_privacy(tmp_path: Path) -> None:
    found = figures("privacy", tmp_path, "--steps", "2", "--shard", "16", "--epsilon", "0", "--epsilon", "8")
    bare, hidden = found["runs"]
    assert bare["sigma"] == 0 < hidden["sigma"]
    assert all(0 <= each["area_by_step"]["1"] <= 1 for each in (bare, hidden))
