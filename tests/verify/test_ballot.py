"""A set of votes that only grows."""

from __future__ import annotations

from itertools import permutations

from sampling.peers import PeerId
from verify.ballot import Ballot
from verify.claims import Vote
from verify.digest import digest_of


def vote(peer: str, agrees: bool, own: bytes = b"") -> Vote:
    return Vote(PeerId(peer), digest_of(b"claim"), agrees, own, b"", b"", b"")


def ballot(*votes: Vote) -> Ballot:
    made = Ballot()
    for each in votes:
        made.add(each)
    return made


def test_the_order_in_which_votes_come_is_nothing() -> None:
    votes = [vote("c", True), vote("a", False), vote("b", True), vote("a", True)]
    assert {tuple(ballot(*each)) for each in permutations(votes)} == {tuple(sorted(votes, key=lambda v: (v[0], v[2])))}


def test_a_second_vote_that_says_the_same_adds_nothing() -> None:
    made = ballot(vote("a", True, b"1"))
    assert vote("a", True, b"2") in made
    assert vote("a", False) not in made
    assert vote("b", True) not in made
    made.add(vote("a", True, b"2"))
    assert list(made) == [vote("a", True, b"1")]


def test_who_votes_both_ways_is_seen_to() -> None:
    made = ballot(vote("a", True), vote("b", True), vote("b", False))
    assert made.kinds == {"a": {True}, "b": {True, False}}
    assert made.counts == (2, 1)
    assert made.doubted
    assert not ballot(vote("a", True)).doubted
    assert not Ballot().doubted
