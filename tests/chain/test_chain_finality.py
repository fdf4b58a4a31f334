"""Casper's promise: two conflicting checkpoints are certified only if a third of the members break a commandment."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.chain import finality
from protocols.chain.evidence import clash
from protocols.chain.finality import Finality, carried
from protocols.chain.messages import Vote
from protocols.chain.rules import Rules
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

EPOCH = 4
MEMBERS = [PeerId(f"member{number}") for number in range(7)]
FOUNDER = Signer.from_seed(bytes(32)).peer
RULES = Rules(founders=(FOUNDER,), steps=1000, epoch=EPOCH, window=2)
GENESIS = digest_of(b"genesis")


def checkpoint(branch: int, height: int) -> Digest:
    return digest_of(b"%d at %d" % (branch, height)) if height else GENESIS


def play(seed: int, hostile: int, checkpoints: int = 8) -> list[Finality]:
    """Two branches that part at genesis. Honest members go to either, and vote as the commandments let them; hostile
    ones vote everywhere. Votes reach a branch in any order, or never."""
    rng = random.Random(seed)
    branches = [finality.initial(frozenset(MEMBERS), GENESIS) for _ in range(2)]
    given_votes: dict[PeerId, list[Vote]] = {}
    for height in range(EPOCH, checkpoints * EPOCH, EPOCH):
        for branch in range(2):
            branches[branch] = finality.marked(branches[branch], height, checkpoint(branch, height), frozenset(MEMBERS))
        for _ in range(3 * len(MEMBERS)):
            member, branch = rng.randrange(len(MEMBERS)), rng.randrange(2)
            judged = branches[branch]
            target = rng.choice(judged.marks[-2:])
            source = rng.choice([mark for mark in judged.marks if mark.justified])
            if source.height >= target.height:
                continue
            vote = Vote(source.height, target.height, checkpoint(branch, target.height))
            before = given_votes.setdefault(MEMBERS[member], [])
            if member < hostile or not any(clash(vote, other) for other in before):
                before.append(vote)
                branches[branch] = finality.counted(judged, RULES, vote, MEMBERS[member], height + 2)
    return branches


def conflicting(branches: list[Finality]) -> bool:
    return all(branch.certified.height > 0 for branch in branches)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_with_less_than_a_third_hostile_no_two_branches_are_certified(seed: int) -> None:
    assert not conflicting(play(seed, hostile=2))


def test_with_more_than_a_third_they_can_be() -> None:
    assert any(conflicting(play(seed, hostile=5)) for seed in range(200))


def test_an_honest_swarm_certifies_one() -> None:
    assert any(play(seed, hostile=0)[0].certified.height > 0 for seed in range(200))


def test_one_phase_would_not_do() -> None:
    """Justified alone is not safe: honest members justify two conflicting checkpoints of different heights."""
    assert any(all(branch.justified.height > 0 for branch in play(seed, hostile=0)) for seed in range(300))


@pytest.mark.parametrize(
    ("one", "other", "guilty"),
    [
        ((0, 4, "a"), (0, 4, "a"), False),
        ((0, 4, "a"), (0, 4, "b"), True),
        ((0, 8, "a"), (4, 8, "a"), True),
        ((0, 12, "a"), (4, 8, "b"), True),
        ((4, 8, "a"), (0, 12, "b"), True),
        ((0, 4, "a"), (0, 8, "b"), False),
        ((0, 4, "a"), (4, 8, "b"), False),
    ],
)
def test_the_commandments(one: tuple[int, int, str], other: tuple[int, int, str], guilty: bool) -> None:
    first, second = (Vote(source, height, digest_of(name.encode())) for source, height, name in (one, other))
    assert clash(first, second) is guilty


def test_both_electorates_must_agree() -> None:
    old, new = frozenset(MEMBERS[:3]), frozenset(MEMBERS)
    assert carried(frozenset(MEMBERS[:5]), (new, old))
    assert not carried(frozenset(MEMBERS[1:6]), (new, old))  # five of seven, but two of three
    assert not carried(frozenset(MEMBERS[:4]), (new, new))


def test_who_leaves_does_not_vote_for_later_checkpoints() -> None:
    start = finality.initial(frozenset(MEMBERS[:4]), GENESIS)
    before = finality.marked(start, EPOCH, checkpoint(0, EPOCH), frozenset(MEMBERS[:4]))
    after = finality.departed(before, frozenset(MEMBERS[:1]))
    later = finality.marked(after, 2 * EPOCH, checkpoint(0, 2 * EPOCH), frozenset(MEMBERS[1:4]))
    assert later.marks[1].electors[0] == frozenset(MEMBERS[:4])  # marked before it left
    assert later.marks[2].electors[0] == frozenset(MEMBERS[1:4])


def test_votes_for_what_is_not_open_change_nothing() -> None:
    start = finality.initial(frozenset(MEMBERS), GENESIS)
    marked = finality.marked(start, EPOCH, checkpoint(0, EPOCH), frozenset(MEMBERS))
    for vote in (Vote(0, 2 * EPOCH, GENESIS), Vote(EPOCH, 2 * EPOCH, GENESIS), Vote(EPOCH, EPOCH, GENESIS)):
        assert finality.counted(marked, RULES, vote, MEMBERS[0], 20) is marked
    assert finality.counted(marked, RULES, Vote(0, EPOCH, GENESIS), MEMBERS[0], EPOCH - 1) is marked  # from below it
