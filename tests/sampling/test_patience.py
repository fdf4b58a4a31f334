"""Deadlines against RFC 6298's arithmetic, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.patience import Patience

durations_s = st.floats(0.0, 1e6)


def test_the_ceiling_while_nothing_was_heard() -> None:
    assert Patience(0.25, 5.0).deadline_s == 5.0


@pytest.mark.parametrize(("first_s", "deadline_s"), [(2.0, 2.0), (0.1, 0.25), (60.0, 5.0)])
def test_the_first_deadline_is_clipped(first_s: float, deadline_s: float) -> None:
    assert Patience(0.25, 5.0, first_s).deadline_s == deadline_s


def test_the_first_duration_sets_mean_and_half_deviation() -> None:
    patience = Patience(0.01, 100.0)
    patience.heard(1.0)
    assert patience.mean_s == 1.0
    assert patience.deadline_s == 1.0 + 4 * 0.5


def test_the_estimator_moves_as_in_the_rfc() -> None:
    patience = Patience(0.01, 100.0)
    patience.heard(1.0)
    patience.heard(2.0)
    deviation_s = 3 / 4 * 0.5 + 1 / 4 * abs(1.0 - 2.0)  # RTTVAR is updated before SRTT
    mean_s = 7 / 8 * 1.0 + 1 / 8 * 2.0
    assert patience.mean_s == pytest.approx(mean_s)
    assert patience.deadline_s == pytest.approx(mean_s + 4 * deviation_s)


def test_steady_durations_bring_it_down_to_the_floor() -> None:
    patience = Patience(0.25, 5.0)
    for _ in range(100):
        patience.heard(0.01)
    assert patience.deadline_s == 0.25


def test_a_missed_deadline_doubles_the_next_until_something_is_heard() -> None:
    patience = Patience(0.25, 5.0)
    for _ in range(100):
        patience.heard(0.01)
    seen = []
    for _ in range(6):
        patience.missed()
        seen.append(patience.deadline_s)
    assert seen == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    patience.heard(0.01)
    assert patience.deadline_s == 0.25


def test_it_learns_a_network_that_has_become_slow() -> None:
    patience = Patience(0.25, 60.0)
    for _ in range(50):
        patience.heard(0.1)
    misses = 0
    while patience.deadline_s < 8.0:  # an answer takes 8 s now, and is heard only if it is waited for
        patience.missed()
        misses += 1
    assert misses <= 6
    for _ in range(50):
        patience.heard(8.0)
    assert 8.0 <= patience.deadline_s < 9.0


@given(st.lists(st.one_of(durations_s, st.none())), durations_s)
def test_it_stays_between_floor_and_ceiling(events: list[float | None], first_s: float) -> None:
    patience = Patience(0.5, 30.0, first_s)
    for event in events:
        if event is None:
            patience.missed()
        else:
            patience.heard(event)
        assert 0.5 <= patience.deadline_s <= 30.0


def test_a_deadline_that_is_repeated_grows_by_a_bound() -> None:
    patience = Patience(1.0, 60.0)
    for _ in range(100):
        patience.heard(0.1)
    assert [patience.after(tries) for tries in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert Patience(1.0, 5.0, 2.0).after(9) == 5.0
