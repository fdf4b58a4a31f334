"""What the gossip bench computes with: bytes in steady state, apart from the start and the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_start_and_end_are_left_out_of_what_a_minute_costs() -> None:
    from bench_gossip import Mark, traffic

    million = 1_000_000
    marks = [
        Mark(0.0, 0, 0, 0, 0),
        Mark(10.0, 50 * million, 10 * million, 1, 2),  # all have trained once: 40 MB were not models
        Mark(20.0, 60 * million, 15 * million, 4, 6),  # a quarter of the sixteen is done by all
        Mark(80.0, 180 * million, 105 * million, 12, 15),
        Mark(90.0, 999 * million, 999 * million, 15, 16),  # somebody has finished
    ]
    found = traffic(marks, nodes=10)
    assert found.mb_start == pytest.approx(4.0)
    assert found.mb_minute == pytest.approx(12.0)
    assert found.mb_minute_models == pytest.approx(9.0)


def test_a_run_too_short_to_be_steady_is_measured_whole() -> None:
    from bench_gossip import Mark, traffic

    found = traffic([Mark(0.0, 0, 0, 0, 0), Mark(60.0, 4_000_000, 1_000_000, 1, 1)], nodes=2)
    assert found.mb_minute == pytest.approx(2.0)
