"""Loop lag, with a clock that jumps as a blocked loop would see it."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gossipnode import lag
from gossipnode.lag import Lag, LoopLag


def test_no_samples_no_lag() -> None:
    assert LoopLag().figures() == Lag()


def test_quantiles_by_nearest_rank() -> None:
    monitor = LoopLag()
    for late_s in range(1, 101):
        monitor.note(late_s)
    assert monitor.figures() == Lag(50, 99, 100)


def test_memory_is_bounded_and_old_samples_are_forgotten() -> None:
    monitor = LoopLag()
    monitor.note(1000.0)
    for _ in range(int(lag.WINDOW_S / lag.TICK_S)):
        monitor.note(0.001)
    assert monitor.figures().max_s == 0.001


async def overslept(clock: MockClock, late_s: float) -> None:
    """Lets the monitor wake `late_s` after it meant to."""
    await wait_all_tasks_blocked()
    clock.jump(lag.TICK_S + late_s)
    await wait_all_tasks_blocked()


async def test_it_measures_how_much_the_loop_overslept(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    monitor = LoopLag()
    nursery.start_soon(monitor.run)
    for late_s in (0.0, 0.2, 0.1):
        await overslept(mock_clock, late_s)
    figures = monitor.figures()
    assert (figures.p50_s, figures.max_s) == pytest.approx((0.1, 0.2))


async def test_it_warns_at_most_once_a_minute(
    mock_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = LoopLag()
    nursery.start_soon(monitor.run)
    with caplog.at_level(logging.WARNING):
        await overslept(mock_clock, 0.4)
        assert not caplog.records
        for _ in range(10):
            await overslept(mock_clock, 2.0)
        assert len(caplog.records) == 1
        for _ in range(30):
            await overslept(mock_clock, 2.0)
    assert len(caplog.records) == 2
    assert "overloaded" in caplog.text


def test_one_pause_in_a_minute_is_no_warning() -> None:
    monitor = LoopLag()
    for _ in range(500):
        monitor.note(0.001)
    monitor.note(3.0)
    assert monitor.warning(100.0) is None
