from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from gossipnode.cli import main
from gossipnode.learn.calibration import BFLOAT16, Calibration, Calibrator, Plan, tolerance_for
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from protocols.manifest import Training
from verify.lsh import Tolerance

FEW = Training(epochs=0, steps=5)


def calibrated(training: Training = FEW, **plan: int | bool) -> Calibration:
    config = LearnerConfig(task="digits", training=training)
    return Calibrator(Engine(config), Plan(choosing=3, works=3, trials=6, **plan)).run(lambda _: None)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrated()


def test_honest_work_agrees_and_cheating_does_not(found: Calibration) -> None:
    rates = {row.way: (row.one, row.three, row.escalated) for row in found.rows if not row.honest}
    assert [row.three for row in found.rows if row.honest] == [6, 6, 6, 6]
    assert rates["sign flipped"] == rates["update times ten"] == rates["no update"] == rates["pure noise"] == (0, 0, 0)
    assert rates["another node's shard"] == rates["labels flipped"] == rates["one fifth of the steps"] == (0, 0, 0)


def test_what_each_way_does_to_the_hash(found: Calibration) -> None:
    rows = {row.way: row for row in found.rows}
    assert set(rows["sign flipped"].distances) == {256}
    assert set(rows["update times ten"].distances) == {0}
    assert min(rows["update times ten"].norms) >= 212  # 64 log2(10)
    assert 90 < np.mean(rows["pure noise"].distances) < 166
    assert min(rows["no momentum"].norms) > 40


def test_float32_noise_is_far_below_bfloat16(found: Calibration) -> None:
    assert found.worst < 1e-4
    assert not next(row for row in found.rows if row.way == BFLOAT16).honest
    with_it = calibrated(bfloat16=True)
    assert next(row for row in with_it.rows if row.way == BFLOAT16).honest
    assert with_it.worst > 100 * found.worst
    assert with_it.tolerance.bits > found.tolerance.bits


def test_the_same_seed_gives_the_same_table(found: Calibration) -> None:
    again = calibrated()
    assert [(row.distances, row.norms) for row in again.rows] == [(row.distances, row.norms) for row in found.rows]


def test_without_momentum_none_can_be_left_out() -> None:
    rows = calibrated(Training(epochs=0, steps=5, momentum=0.0)).rows
    assert "no momentum" not in [row.way for row in rows]


def test_tolerance_for_updates_so_far_apart() -> None:
    assert tolerance_for(0.0) == Tolerance(0, 1)
    assert tolerance_for(1e-6) == Tolerance(1, 1)
    assert tolerance_for(0.1) == Tolerance(24, 9)
    assert tolerance_for(2.0).bits > 150


def test_the_command_names_what_to_set() -> None:
    words = ["verify", "calibrate", "--task", "digits", "--works", "2", "--trials", "4", "--set", "training.epochs=0"]
    done = CliRunner().invoke(main, [*words, "--set", "training.steps=5"])
    assert done.exit_code == 0, done.output
    assert "--set audit.tolerance_bits=1 --set audit.tolerance_norm=1" in done.output
    assert "sign flipped" in done.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--task", "digit"], "did you mean 'digits'?"),
        (["--set", "modest.trainers=4"], "--set modest: does not change an update"),
        (["--set", "training.lr=fast"], "training.lr"),
        (["--set", "training.lr=100", "--set", "training.weight_decay=1"], "a lower training.lr may help"),
        (["--set", "training.lr=1e-30"], "training changes nothing; a higher training.lr may help"),
    ],
)
def test_what_the_operator_can_mend(words: list[str], line: str) -> None:
    done = CliRunner().invoke(main, ["verify", "calibrate", *words])
    assert done.exit_code == 2
    assert "error: " in done.output
    assert line in done.output
