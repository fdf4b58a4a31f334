"""Token buckets: a peer's own, everybody's, and what is kept for those who are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.rates import Bucket, Grant, Rates


def test_a_bucket_grants_a_burst_and_then_its_pace() -> None:
    bucket = Bucket(10.0, 20.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(21)] == [True] * 20 + [False]
    assert [bucket.take(0.1), bucket.take(0.1)] == [True, False]
    assert sum(bucket.take(100.0) for _ in range(30)) == 20


def test_who_can_wait_is_told_how_long() -> None:
    bucket = Bucket(10.0, 20.0, now=0.0)
    assert bucket.owe(20.0, 0.0) == 0.0
    assert bucket.owe(5.0, 0.0) == 0.5
    assert bucket.owe(5.0, 0.5) == 0.5


def test_a_clock_that_is_set_back_grants_nothing() -> None:
    bucket = Bucket(1.0, 1.0, now=100.0)
    assert bucket.take(100.0)
    assert not bucket.take(0.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_never_more_than_the_burst_and_the_pace(pauses: list[float]) -> None:
    bucket, now, granted = Bucket(3.0, 5.0, now=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        granted += bucket.take(now)
    assert granted <= 5.0 + 3.0 * now + 1e-6


def test_one_that_asks_too_much_takes_nothing_from_the_others() -> None:
    rates = Rates[str](10, 20, remembered=100)
    assert [rates.take("a", 0.0) for _ in range(100)].count(Grant.YES) == 10
    assert rates.take("a", 0.0) is Grant.TOO_FAST
    assert [rates.take("b", 0.0) for _ in range(10)] == [Grant.YES] * 10
    assert rates.take("c", 0.0) is Grant.CROWDED


def test_a_crowd_of_strangers_leaves_half_to_those_who_are_known() -> None:
    rates = Rates[str](10, 20, remembered=1000)
    strangers = [rates.take(f"stranger {i}", 0.0, known=False) for i in range(100)]
    assert strangers.count(Grant.YES) == 10
    assert set(strangers[10:]) == {Grant.CROWDED}
    assert [rates.take("member", 0.0) for _ in range(10)] == [Grant.YES] * 10


def test_who_was_crowded_out_has_lost_nothing_of_its_own() -> None:
    rates = Rates[str](1, 1, remembered=10)
    assert rates.take("a", 0.0) is Grant.YES
    assert [rates.take("b", 0.0) for _ in range(5)] == [Grant.CROWDED] * 5
    assert rates.take("b", 1.0) is Grant.YES


def test_only_so_many_are_remembered_and_all_together_are_bounded_still() -> None:
    rates = Rates[int](1, 50, remembered=10)
    granted = [rates.take(name, 0.0) for name in range(10_000)].count(Grant.YES)
    assert len(rates) == 10
    assert granted == 50
