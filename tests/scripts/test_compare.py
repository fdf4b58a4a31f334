"""scripts/compare.py: what a table's figures are made of, and one comparison too small to say anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import compare  # noqa: E402  # a script, found by the line above

from gossipnode.baselines import BASELINES  # noqa: E402
from gossipnode.curves import Point  # noqa: E402


def curve(*accuracies: float, bytes_a_round: int = 1_000_000, every: int = 1) -> list[Point]:
    return [
        Point(round=k * every, virtual_s=2.0 * k * every, wire_bytes=k * every * bytes_a_round, accuracy=accuracy)
        for k, accuracy in enumerate(accuracies, start=1)
    ]


def done(label: str, seed: int, points: list[Point], lr: float = 0.1) -> compare.Done:
    return compare.Done(label, seed, lr, points, points[-1].accuracy or 0.0, 1.0)


SLOW = [done("d-psgd", seed, curve(0.1, 0.5, 0.5, 0.9, bytes_a_round=10_000_000)) for seed in (0, 1)]
QUICK = [done("modest", 0, curve(0.1, 0.9, 0.9)), done("modest", 1, curve(0.1, 0.2, 0.9))]


def test_a_lucky_round_is_not_held() -> None:
    points = curve(0.5, 0.9, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9)
    found = compare.held(points, 0.8)
    assert found is points[5]  # 0.9 0.5 0.9 0.9 0.9
    sparse = curve(0.1, 0.9, 0.9, every=3)
    assert compare.held(sparse, 0.8) is sparse[2]
    assert compare.held(points, 0.95) is None


def test_a_row_needs_every_seed() -> None:
    row = compare.row_of(QUICK, 0.9)
    assert row.rounds is not None
    assert row.megabytes is not None
    assert (row.rounds.min, row.rounds.max, row.megabytes.median) == (2, 3, 2.5)
    half = compare.row_of([QUICK[0], done("modest", 1, curve(0.1))], 0.9)
    assert half.rounds is None
    assert half.final.count == 2


def test_ratios_are_taken_seed_by_seed() -> None:
    runs = {"modest": QUICK, "d-psgd": SLOW}
    found = compare.ratio(runs, "d-psgd", "modest", "wire_bytes", 0.9)
    assert found is not None
    assert (found.min, found.max) == (pytest.approx(40 / 3), 20)
    assert compare.ratio(runs, "d-psgd", "modest", "wire_bytes", 0.95) is None
    [aim] = compare.aims(runs, 0.9)
    assert aim.met
    assert compare.table_of([compare.row_of(each, 0.9) for each in runs.values()], 0.9).row_count == 2


def test_curves_are_averaged_round_by_round() -> None:
    [first, second] = compare.mean_curve([curve(0.1, 0.4), curve(0.3, 0.6)])
    assert first == {"round": 1, "virtual_s": 2, "wire_bytes": 1e6, "accuracy": pytest.approx(0.2)}
    assert second["accuracy"] == pytest.approx(0.5)


def test_the_best_rate_comes_first() -> None:
    runs = [done("epidemic", 9, curve(0.1, 0.2, 0.9), lr=0.02), done("epidemic", 9, curve(0.1, 0.9), lr=0.1)]
    best, other = compare.chosen(runs, 0.9)
    assert "lr 0.1 " in best
    assert "lr 0.02" in other


def test_what_is_run() -> None:
    tables = {"task": "digits", "rounds": 3, "modest": {"trainers": 4}}
    lean = compare.job_of(compare.LEAN, 2, 8, tables, 1e6, None)
    assert lean.tables["protocol"] == "modest"
    assert lean.tables["modest"] == {"pull_every": 1_000_000, "trainers": 4}
    assert "training" not in lean.tables
    assert compare.job_of("d-psgd", 2, 8, tables, 1e6, 0.7).tables["training"] == {"lr": 0.7}
    assert set(compare.RATES) == set(BASELINES) - {"fedavg"}
    assert {compare.TUNED, *compare.RATES.values()} <= set(compare.GRID)


def test_a_comparison(tmp_path: Path) -> None:
    words = "--task digits --nodes 4 --trainers 3 --rounds 3 --seeds 0:1 --target 0.3 --workers 1"
    paths = ["--json", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.png")]
    only = ["--protocol", "modest", "--protocol", "fedavg"]
    command = [sys.executable, str(SCRIPTS / "compare.py"), *words.split(), *only, *paths]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    whole = json.loads((tmp_path / "c.json").read_text())
    assert [run["label"] for run in whole["figures"]["runs"]] == ["modest", "fedavg"]
    assert all(run["curve"][-1]["round"] == 3 for run in whole["figures"]["runs"])
    assert (tmp_path / "c.png").stat().st_size > 1000
