"""scripts/testnet.py: real processes agree, its report has the promised keys, and its nodes never outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
MARK = "TESTNET_OF"  # in the environment of a testnet, its nodes and their workers
REPORT = {  # beside plain figures: the keys of its tables
    "accuracy": {"mean", "min", "max", "per_node"},
    "bytes": {"wire_total", "model_payload", "per_round", "minimum_per_round", "ratio"},
    "digests": {"agreeing", "distinct"},
    "committees": {"round", "trainers", "aggregators"},
}
FIGURES = {"protocol", "task", "nodes", "rounds", "seconds", "seconds_per_round", "offences"} | {
    "adversaries",
    "caught",
    "expelled",
    "falsely_expelled",
    "missed",
}


def run_testnet(mark: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "testnet.py"), "--task", "digits", "--no-central", *options]
    environment = {**os.environ, MARK: str(mark), "TMPDIR": str(mark), "COLUMNS": "80"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def of(mark: Path) -> list[int]:
    """Living processes of that testnet."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def eventually(what: Callable[[], bool], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


def test_hostile_processes_are_named_and_only_the_honest_count(tmp_path: Path) -> None:
    path, homes = tmp_path / "report.json", tmp_path / "homes"
    liars = ("--adversary", "sign-flip:1", "--adversary", "label-flip:1")
    done = run_testnet(tmp_path, "--nodes", "4", "--rounds", "3", *liars, "--json", str(path), "--keep", str(homes))
    said, _ = done.communicate(timeout=2 * PATIENCE_S)
    assert done.returncode == 0, said
    report = json.loads(path.read_bytes())
    assert list(report["adversaries"].values()) == ["sign-flip", "label-flip"]
    assert list(report["accuracy"]["per_node"]) == ["node-0", "node-1"]
    assert report["digests"] == {"agreeing": 2, "distinct": 1}
    assert report["falsely_expelled"] == []
    for name, kind in (("node-2", "sign-flip"), ("node-3", "label-flip")):
        assert f"GOSSIPNODE_ADVERSARY={kind}: this node works AGAINST its run" in (homes / name / "log.txt").read_text()
    assert of(tmp_path) == []


def test_nodes_agree_and_the_report_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = run_testnet(
        tmp_path, "--nodes", "3", "--rounds", "4", "--json", str(path), "--keep", str(tmp_path / "homes")
    )
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, said
    assert max(len(line) for line in said.splitlines() if line[:1] in "┏┃┡│└") <= 80  # the terminal's width
    assert "3 of 3 nodes hold the same, 1 distinct" in said
    report = json.loads(path.read_bytes())
    assert report.keys() == FIGURES | REPORT.keys()
    for key, inner in REPORT.items():
        assert inner <= (report[key][0] if isinstance(report[key], list) else report[key]).keys()
    assert (report["nodes"], report["rounds"], report["digests"]["agreeing"]) == (3, 4, 3)
    assert report["accuracy"]["per_node"].keys() == {"node-0", "node-1", "node-2"}
    assert report["bytes"]["ratio"] >= 1.0
    assert all("said goodbye" in log.read_text() for log in (tmp_path / "homes").glob("*/log.txt"))
    assert of(tmp_path) == []


def test_one_is_killed_and_one_joins(tmp_path: Path) -> None:
    done = run_testnet(tmp_path, "--nodes", "4", "--rounds", "30", "--kill", "1@3", "--join", "1@5")
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 0, said
    assert "joined node-4" in said
    assert "4 of 4 nodes hold the same, 1 distinct" in said
    assert sum("killed" in line for line in said.splitlines() if line[:1] == "│") == 1


def test_what_cannot_befall_it_is_said_before_it_begins(tmp_path: Path) -> None:
    done = run_testnet(tmp_path, "--nodes", "2", "--rounds", "4", "--kill", "1@9")
    said, _ = done.communicate(timeout=PATIENCE_S)
    assert done.returncode != 0
    assert "the run ends at round 4" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    running = run_testnet(tmp_path, "--nodes", "2", "--rounds", "100000", "--keep", str(tmp_path / "homes"))
    eventually(lambda: len(list(tmp_path.glob("homes/*/addresses.json"))) == 2, lambda: of(tmp_path))
    running.send_signal(number)
    said, _ = running.communicate(timeout=PATIENCE_S)
    if number == signal.SIGKILL:
        eventually(lambda: of(tmp_path) == [], lambda: of(tmp_path))  # they are told, and end by themselves
    else:
        assert running.returncode == 128 + number, said
        assert of(tmp_path) == []


def test_a_node_that_dies_ends_it_all(tmp_path: Path) -> None:
    running = run_testnet(tmp_path, "--nodes", "2", "--rounds", "100000", "--keep", str(tmp_path / "homes"))
    second = tmp_path / "homes" / "node-1" / "addresses.json"
    eventually(second.exists, lambda: of(tmp_path))
    os.kill(json.loads(second.read_bytes())["pid"], signal.SIGKILL)
    said, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 1
    assert "node-1 ended with exit code -9" in said
    assert of(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--set", "modest.trainer=1"), "exit code 2: error: --set: unknown key `modest.trainer`; did you mean"),
        (("--json", "/nowhere/report.json"), "--json /nowhere/report.json: no file can be written there"),
        (("--keep", str(ROOT)), "name a new folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    failing = run_testnet(tmp_path, "--nodes", "2", *options)
    said, _ = failing.communicate(timeout=PATIENCE_S)
    assert failing.returncode == 1
    assert line in " ".join(said.split())
    assert "Traceback" not in said
    assert of(tmp_path) == []
