"""The count of votes: a pure function of order and votes, whatever they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampling.peers import PeerId
from verify.tally import DECIDED, LARGEST, Stage, bench, of_probes, reach, tally

ORDER = [PeerId(f"peer{number:02}") for number in range(20)]


def stage(votes: dict[int, bool], auditors: int = 20) -> Stage:
    cast = {ORDER[rank]: frozenset({kind}) for rank, kind in votes.items()}
    return tally(ORDER[:auditors], cast, 11).stage


def test_one_that_agrees_clears() -> None:
    assert stage({0: True}) is Stage.CLEARED


def test_a_doubt_calls_two_more_and_their_majority_decides() -> None:
    assert stage({0: False}) is Stage.ACCUSED
    assert stage({0: False, 1: True, 2: True}) is Stage.CLEARED
    assert stage({0: False, 1: False, 2: True}) is Stage.APPEALED


def test_the_appeal_needs_a_majority_of_its_whole_bench() -> None:
    doubts = dict.fromkeys(range(5), False)
    assert stage(doubts, auditors=15) is Stage.APPEALED
    assert stage({**doubts, 9: False}, auditors=15) is Stage.EXPELLED
    assert stage({0: False, 1: False, **dict.fromkeys(range(2, 8), True)}, auditors=15) is Stage.ACQUITTED


@given(st.lists(st.booleans(), max_size=20))
def test_probes_decide_as_other_votes_do_but_suspend_and_blame_nobody(kinds: list[bool]) -> None:
    cast = {ORDER[rank]: frozenset({kind}) for rank, kind in enumerate(kinds)}
    proof = tally(ORDER, cast, 11)
    found = of_probes(proof)
    assert found.stage is (Stage.SUSPENDED if proof.stage is Stage.EXPELLED else proof.stage)
    assert (found.stage in DECIDED, found.contradicted) == (proof.stage in DECIDED, ())


@given(st.integers(3, 45), st.data())
def test_less_than_a_third_of_the_members_expel_nobody(auditors: int, data: st.DataObject) -> None:
    """Wherever they stand, and whoever else is silent."""
    members = auditors + 1
    liars = data.draw(st.sets(st.integers(0, auditors - 1), max_size=(members - 1) // 3))
    order = [PeerId(f"peer{number:02}") for number in range(auditors)]
    cast = {order[rank]: frozenset({False}) for rank in liars}
    assert tally(order, cast, 3).stage is not Stage.EXPELLED


def test_a_swarm_of_hundreds_has_no_larger_appeal_than_a_certificate_holds() -> None:
    assert bench(300, 11) == LARGEST
    assert bench(300, 201) == 201


def test_votes_beyond_the_reach_do_not_count() -> None:
    assert reach(15, 11) == 16
    assert reach(30, 11) == 31
    order = [PeerId(f"peer{number:02}") for number in range(60)]
    assert reach(60, 11) == 46
    assert tally(order, {order[46]: frozenset({False})}, 11).stage is Stage.OPEN


def test_nearer_votes_displace_farther_ones() -> None:
    """Six liars with votes by the most distant ranks, while the honest keep silent; then those are heard."""
    liars = dict.fromkeys(range(10, 18), False)
    assert stage(liars) is Stage.EXPELLED
    assert stage({**liars, **dict.fromkeys(range(10), True)}) is not Stage.EXPELLED


def test_two_auditors_are_too_few_to_decide() -> None:
    assert stage({0: False, 1: False}, auditors=2) is Stage.ACCUSED


@given(st.dictionaries(st.integers(0, 19), st.booleans()), st.integers(0, 20))
def test_nobody_is_expelled_without_a_majority_of_the_bench(votes: dict[int, bool], auditors: int) -> None:
    doubts = sum(not kind for rank, kind in votes.items() if rank < auditors)
    if stage(votes, auditors) is Stage.EXPELLED:
        assert 2 * doubts > max(3, bench(auditors, 11))
