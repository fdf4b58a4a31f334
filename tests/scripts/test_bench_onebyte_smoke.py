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


def test_bytes_of_a_scalar(tmp_path: Path) -> None:
    found = figures("bytes", tmp_path, "--only", "scalars", "--probes", "4", "--steps", "2")
    (row,) = found["scalars"]
    assert row["whole"] == pytest.approx(sum(row["by_kind"].values()))
    assert row["by_kind"]["NewEntry"] > 7 * 100 / 4  # seven copies of a hundred bytes for four scalars, at the least


def test_bytes_to_an_accuracy(tmp_path: Path) -> None:
    options = ("--only", "accuracy", "--probes", "16", "--hidden", "64", "--accuracy", "0.3")
    (row,) = figures("bytes", tmp_path, *options)["accuracy"]
    assert row["parameters"] == 4810
    assert set(row["bytes"]) == {"modest", "onebyte, K=16"}
    assert all(0 < each < 10_000_000 for each in row["bytes"].values())
