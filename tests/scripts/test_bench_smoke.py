"""Each benchmark runs, at a size that says nothing about speed, and writes the figures that the documents quote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
NAMES = ("round", "exchange", "idle", "start", "faults", "simulator")


def run(name: str, *options: str) -> str:
    command = [sys.executable, str(SCRIPTS / f"bench_{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figures(name: str, folder: Path, *options: str) -> dict[str, Any]:
    path = folder / "figures.json"
    said = run(name, *options, "--json", str(path))
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["benchmark"] == name
    assert {"date", "cores", "python", "libraries", "load_before", "load_after"} <= found["environment"].keys()
    assert found["aims"]
    for aim in found["aims"]:
        assert aim["what"] in said  # a line of its own, met or not
    return found["figures"]


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_is_measured(name: str) -> None:
    assert "--json" in run(name, "--help")


def test_exchange(tmp_path: Path) -> None:
    found = figures("exchange", tmp_path, "--megabytes", "1.5", "--repeats", "1")
    assert found["bytes"] == 1_500_000
    assert {name: len(times) for name, times in found["seconds"].items()} == {
        "exchange": 1,
        "our stream": 1,
        "bare stream": 1,
        "raw TCP": 1,
    }


def test_round(tmp_path: Path) -> None:
    options = ("--nodes", "2", "--shards", "2", "--task", "digits", "--rounds", "6", "--repeats", "1")
    found = figures("round", tmp_path, *options)
    assert len(found["round_s"]) == 3  # those after the warm-up
    assert found["minimum_bytes_per_round"][0] > 0
    assert set(found["pieces_s"]) == {"hand out", "fetch", "train", "hand in", "merge"}
    assert min(found["cpu_s_per_round"]) >= 0


def test_idle(tmp_path: Path) -> None:
    found = figures("idle", tmp_path, "--nodes", "2", "--task", "digits", "--seconds", "0.2")
    assert found["pss_mib"] > 10
    assert set(found["alone"]["memory"]) == {"daemon", "worker"}


def test_simulator(tmp_path: Path) -> None:
    found = figures("simulator", tmp_path, "--nodes", "6", "--rounds", "2", "--profile")
    assert found["finished"]
    assert found["packets"] > 100
    assert found["node_kib"] > 0
    assert sum(found["where"].values()) == pytest.approx(1.0)


def test_start(tmp_path: Path) -> None:
    found = figures("start", tmp_path, "--task", "digits", "--repeats", "1")
    assert all(len(times) == 1 and times[0] > 0 for times in found["seconds"].values())


def test_faults(tmp_path: Path) -> None:
    options = (
        "--nodes",
        "3",
        "--task",
        "digits",
        "--rounds",
        "3",
        "--repeats",
        "1",
        "--late-task",
        "digits",
        "--most",
        "5",
    )
    found = figures("faults", tmp_path, *options)
    assert [each["kind"] for each in found["faults"]] == ["kill", "freeze"]
    assert all(each["before"] and each["first"] for each in found["faults"])
    assert 0 < found["late"][0]["loaded_s"] < found["late"][0]["whole_s"]
