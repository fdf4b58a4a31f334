"""What an aggregator has gathered, when it is enough, and what each model weighs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.collection import ABSURD, CAP, Collection, absurd, quorum, weights
from protocols.messages import Input
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of

X, Y = sorted((digest_of(b"x"), digest_of(b"y")))


def update(trainer: str, samples: int = 1) -> Input:
    return Input(PeerId(trainer), digest_of(trainer.encode()), samples)


def collected(*offers: tuple[str, Digest], most: int = 10) -> Collection:
    collection = Collection(Round(1), 0.0, most)
    for now, (trainer, parent) in enumerate(offers):
        collection.offered[PeerId(trainer)] = update(trainer).model
        collection.ready(PeerId(trainer), parent, update(trainer), 1.0, float(now))
    return collection


def names(collection: Collection) -> list[str]:
    return [each.trainer for each in collection.inputs()]


def test_an_empty_one_has_no_parent() -> None:
    assert collected().parent() is None
    assert collected().inputs() == ()


def test_the_largest_group_counts() -> None:
    collection = collected(("c", X), ("b", Y), ("a", Y))
    assert collection.parent() == Y
    assert names(collection) == ["a", "b"]


def test_a_tie_goes_to_the_lower_parent() -> None:
    assert names(collected(("a", Y), ("b", X))) == names(collected(("b", X), ("a", Y))) == ["b"]


@given(st.permutations([("a", X), ("b", X), ("c", X), ("d", Y)]))
def test_the_order_of_arrival_does_not_matter(offers: list[tuple[str, Digest]]) -> None:
    assert names(collected(*offers)) == ["a", "b", "c"]


def test_no_more_are_merged_than_a_round_has_trainers() -> None:
    # Everybody refuses an aggregate of more; the first to come are taken, so that a low name is no advantage.
    assert names(collected(("d", X), ("c", X), ("b", X), ("a", X), most=2)) == ["c", "d"]


def test_a_trainer_counts_once() -> None:
    collection = collected(("a", X), ("b", X))
    later = Input(PeerId("a"), digest_of(b"later"), 5)
    collection.ready(PeerId("a"), X, later, 1.0, 9.0)
    assert collection.inputs() == (later, update("b"))
    assert collection.latest_at == 9.0


def test_what_is_withdrawn_does_not_count_and_can_be_offered_again() -> None:
    collection = collected(("a", X), ("b", X))
    collection.withdraw(PeerId("a"))
    collection.withdraw(PeerId("stranger"))
    assert names(collection) == ["b"]
    assert list(collection.offered) == ["b"]


def test_a_trainer_has_one_model_under_way() -> None:
    collection = Collection(Round(1), 0.0, 10)
    a = PeerId("a")
    assert not collection.fetching(a)
    collection.offered[a] = X
    assert collection.fetching(a)
    collection.ready(a, Y, update("a"), 1.0, 1.0)
    assert not collection.fetching(a)


@pytest.mark.parametrize(
    ("live", "candidates", "fraction", "models"),
    [
        (10, 100, 1.0, 10),
        (10, 100, 0.8, 8),
        (10, 100, 0.81, 9),
        (3, 3, 1 / 3, 2),
        (10, 100, 0.1 + 0.2, 3),  # 0.30000000000000004
        (1, 5, 1.0, 2),  # one model is no agreement
        (0, 5, 1.0, 2),
        (1, 1, 1.0, 1),
        (0, 1, 1.0, 1),
        (0, 0, 1.0, 1),  # never nothing at all
        (10, 100, 1e-6, 2),
    ],
)
def test_quorum(live: int, candidates: int, fraction: float, models: int) -> None:
    assert quorum(live, candidates, fraction) == models


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 1.0))
def test_a_quorum_is_at_least_one_and_at_most_what_can_be(live: int, candidates: int, fraction: float) -> None:
    assert 1 <= quorum(live, candidates, fraction) <= max(live, 2)


def test_weights_are_the_samples() -> None:
    assert weights([update("a", 3), update("b", 5)]) == [3, 5]


def test_no_claim_drowns_the_others() -> None:
    assert weights([update("a", 100), update("b", 110), update("c", 10**9)]) == [100, 110, 110 * CAP]
    assert weights([update("a", 1)] * 3 + [update("b", 10**9)] * 2) == [1, 1, 1, CAP, CAP]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
def test_weights_are_positive_and_no_larger_than_claimed(samples: list[int]) -> None:
    found = weights(update("a", each) for each in samples)
    assert all(1 <= weight <= claimed for weight, claimed in zip(found, samples, strict=True))


# -- what is not merged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "found"),
    [
        ({}, ""),
        ({"a": 1e30}, ""),  # a swarm of one
        ({"a": 1e30, "b": 1.0}, "a"),
        ({"a": 1e30, "b": 0.0, "c": 2.0}, "a"),
        ({"a": 0.0, "b": 0.0, "c": 1e6}, ""),  # two liars that hand in zeros
        ({"a": 5e3, "b": ABSURD, "c": 2e3}, ""),
        ({"a": 1e12, "b": 2e12, "c": 3e12}, ""),  # a task whose values are that large
    ],
)
def test_what_is_absurdly_larger_than_the_others(largest: dict[str, float], found: str) -> None:
    assert absurd({PeerId(name): value for name, value in largest.items()}) == list(found)


def test_whoever_is_expelled_is_replaced_and_merged_no_more() -> None:
    collection = collected(("a", X), ("b", X), ("c", X))
    collection.ready(PeerId("b"), X, update("b"), 1e30, 3.0)
    assert collection.absurd() == ["b"]
    collection.expel(PeerId("b"))
    assert names(collection) == ["a", "c"]
    assert collection.absurd() == []
    assert collection.excused == collection.expelled == {"b"}
