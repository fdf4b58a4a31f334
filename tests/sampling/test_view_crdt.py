"""The view is a CRDT: whatever the order, the duplication or the cut of the news, who heard the same knows the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View

MANY = 10_000
PEERS = [PeerId(name) for name in "abcde"]

peers = st.sampled_from(PEERS)
rounds = st.integers(0, 20).map(Round)


def registration(
    peer: str, counter: int = 1, *, present: bool = True, round: int = 0, signature: bytes = b"s"
) -> Registration:
    return Registration(PeerId(peer), counter, present, (Role.TRAINER,), Round(round), (), signature)


@st.composite
def registrations(draw: st.DrawFn) -> Registration:
    """A peer signs one record a counter unless it cheats; then the signatures differ."""
    peer, counter, present, round = draw(peers), draw(st.integers(0, 3)), draw(st.booleans()), draw(rounds)
    signature = f"{peer}{counter}{present}{round}".encode()
    return registration(peer, counter, present=present, round=round, signature=signature)


changes = st.lists(st.one_of(registrations(), st.tuples(peers, rounds)), max_size=25)


def view_of(steps: list[Registration | tuple[PeerId, Round]], capacity: int = MANY, first_version: int = 0) -> View:
    view = View(capacity, first_version)
    for step in steps:
        apply(view, step)
    return view


def apply(view: View, step: Registration | tuple[PeerId, Round]) -> None:
    if isinstance(step, Registration):
        view.register(step)
    else:
        view.touch(*step)


def everything(view: View) -> Delta:
    return view.delta(-1, MANY)[0]


def merged(*views: View) -> View:
    result = View(MANY)
    for view in views:
        result.merge(everything(view))
    return result


@given(changes, changes)
def test_merging_is_commutative(one: list[Registration], other: list[Registration]) -> None:
    a, b = view_of(one), view_of(other)
    assert merged(a, b) == merged(b, a)


@given(changes, changes, changes)
def test_merging_is_associative(one: list[Registration], two: list[Registration], three: list[Registration]) -> None:
    a, b, c = view_of(one), view_of(two), view_of(three)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


@given(changes, changes)
def test_merging_is_idempotent(one: list[Registration], other: list[Registration]) -> None:
    a = view_of(one)
    assert merged(a, a) == merged(a) == a
    both = merged(a, view_of(other))
    assert merged(both, a) == both


@given(changes)
def test_merging_what_is_known_is_no_news(steps: list[Registration]) -> None:
    view = view_of(steps)
    before = view.version
    view.merge(everything(view))
    assert view.version == before


# A script of two views that go on changing while they exchange deltas of at most `most` entries.
@given(
    st.lists(st.tuples(st.booleans(), st.one_of(registrations(), st.tuples(peers, rounds), st.none())), max_size=40),
    st.integers(1, 3),
)
def test_truncated_deltas_converge(script: list[tuple[bool, Registration | None]], most: int) -> None:
    one, other = View(MANY, 1000), View(MANY, 5000)
    have = {0: -1, 1: -1}  # what the other is known to hold of one, and one of the other
    sides = (one, other)
    for first, step in script:
        side = 0 if first else 1
        if step is None:
            delta, have[side] = sides[side].delta(have[side], most)
            sides[1 - side].merge(delta)
        else:
            apply(sides[side], step)
    for _ in range(200):
        for side in (0, 1):
            delta, have[side] = sides[side].delta(have[side], most)
            sides[1 - side].merge(delta)
    assert one == other
    assert one.delta(have[0], most)[0] == Delta()


def test_the_higher_counter_wins() -> None:
    view = view_of([registration("a", 2), registration("a", 1, present=False)])
    assert view.present() == ["a"]
    assert view.register(registration("a", 3, present=False))
    assert view.present() == []
    assert "a" in view
    assert len(view) == 1


def test_of_two_records_with_one_counter_the_higher_signature_wins() -> None:
    low, high = registration("a", signature=b"1"), registration("a", present=False, signature=b"2")
    assert view_of([low, high]) == view_of([high, low])
    assert view_of([low, high]).registration(PeerId("a")) == high


def test_activity_is_a_maximum() -> None:
    view = view_of([registration("a", round=3)])
    a = PeerId("a")
    assert view.last_active(a) == 3
    assert not view.touch(a, Round(2))
    assert view.touch(a, Round(5))
    assert not view.touch(a, Round(5))
    view.register(registration("a", 2, round=1))
    assert view.last_active(a) == 5


def test_strangers_are_not_touched() -> None:
    view = View(MANY)
    assert not view.touch(PeerId("a"), Round(1))
    assert view.registration(PeerId("a")) is None
    assert view == View(MANY)


def test_it_iterates_in_the_order_of_the_ids() -> None:
    assert list(view_of([registration("c"), registration("a"), registration("b")])) == ["a", "b", "c"]


def test_a_version_of_another_life_means_everything() -> None:
    view = view_of([registration("a"), registration("b")], first_version=1000)
    for since in (-1, 0, 999, view.version + 1):
        assert view.delta(since, MANY)[0] == everything(view)
    assert view.delta(view.version, MANY) == (Delta(), view.version)


def test_activity_never_travels_ahead_of_its_registration() -> None:
    view = view_of([registration("a"), (PeerId("a"), Round(9)), registration("b"), registration("a", 2)])
    other, have = View(MANY), -1
    for _ in range(6):
        delta, have = view.delta(have, 1)
        other.merge(delta)
    assert other == view


@given(changes, st.integers(1, 4))
def test_capacity_bounds_it(steps: list[Registration], capacity: int) -> None:
    view = View(capacity)
    for step in steps:
        apply(view, step)
        assert len(view) <= capacity
        delta = everything(view)
        assert {each.peer for each in delta.registrations} == set(view)
        assert {peer for peer, _ in delta.activity} == set(view)


def test_a_full_view_forgets_the_longest_silent_that_left() -> None:
    view = View(3)
    view.register(registration("a", present=False, round=5))
    view.register(registration("b", present=False, round=2))
    view.register(registration("c", round=0))
    assert view.register(registration("d"))
    assert list(view) == ["a", "c", "d"]


def test_a_full_view_of_present_peers_takes_no_more_but_their_own_news() -> None:
    view = view_of([registration("a"), registration("b")], capacity=2)
    assert not view.register(registration("c"))
    assert list(view) == ["a", "b"]
    assert view.register(registration("a", 2, present=False))
    assert view.register(registration("c"))
    assert list(view) == ["b", "c"]


def test_the_seal_tells_equal_registrations_whatever_their_order() -> None:
    records = [
        Registration(PeerId(f"peer {index}"), index, True, (Role.TRAINER,), Round(0), (), bytes([index]) * 64)
        for index in range(5)
    ]
    one, other = View(10), View(10)
    for record in records:
        one.register(record)
    for record in reversed(records):
        other.register(record)
    assert one.seal == other.seal != 0
    other.register(records[0]._replace(counter=9, signature=b"later" * 12))
    assert one.seal != other.seal
    other.touch(PeerId("peer 1"), Round(40))
    one.register(records[0]._replace(counter=9, signature=b"later" * 12))
    assert one.seal == other.seal
