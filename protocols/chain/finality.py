"""Which checkpoints are certified: Casper the Friendly Finality Gadget (arXiv 1710.09437) over one branch. Pure.

A vote is a link from a justified checkpoint to a later one; more than two thirds of the electors justify its target,
and certify its source if the two are neighbours. Two phases are needed: with one, members who have switched branches
before they heard of the other's quorum certify a conflicting checkpoint without anybody breaking a rule.
Votes count when the entry they ride in counts, so the outcome is a function of the blocks. Electors are the members at
the last certified checkpoint, and those at the one before it: a link needs two thirds of both, so two branches that
differ by one certification still share an electorate. Who joins has no vote before that; who leaves or is expelled is
taken out at the next checkpoint, which is safe because a leaver promises to sign nothing above its last entry.
Invariant: two conflicting checkpoints are certified only if a third of an electorate broke the two commandments: never
two votes for one height, never a vote whose link surrounds another (`protocols.chain.evidence` proves it).
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from protocols.chain.messages import Height, Vote
from protocols.chain.rules import Rules
from protocols.fields import Bytes32, Peer
from sampling.peers import PeerId
from verify.digest import Digest

Electors = tuple[frozenset[Peer], frozenset[Peer]]
_OPEN: Final = 2  # newest checkpoints that are voted on


class Mark(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A checkpoint on this branch: who was a member there and still is, who may vote for it. `agreed`: the id of its
    `Checkpoint` once it is justified (empty at genesis)."""

    height: Height
    block: Bytes32
    members: frozenset[Peer]
    electors: Electors
    agreed: bytes = b""
    justified: bool = False


class Ballot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The votes of one content."""

    vote: Vote
    voters: frozenset[Peer]


class Finality(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`marks`: the certified checkpoint first, then the justified ones and the newest two, ascending."""

    marks: tuple[Mark, ...]
    electors: Electors  # of the next checkpoint
    ballots: tuple[Ballot, ...] = ()

    @property
    def certified(self) -> Mark:
        return self.marks[0]

    @property
    def justified(self) -> Mark:
        """The highest."""
        return next(mark for mark in reversed(self.marks) if mark.justified)


def initial(founders: frozenset[PeerId], block: Digest) -> Finality:
    electors = (founders, founders)
    return Finality((Mark(0, block, founders, electors, justified=True),), electors)


def marked(finality: Finality, height: int, block: Digest, members: frozenset[PeerId]) -> Finality:
    """The block is a checkpoint: it can be voted for from now on, and the third newest only if it is justified."""
    marks = (*finality.marks, Mark(height, block, members, finality.electors))
    open_from = len(marks) - _OPEN
    return _with_marks(finality, tuple(m for i, m in enumerate(marks) if i == 0 or m.justified or i >= open_from))


def departed(finality: Finality, peers: frozenset[PeerId]) -> Finality:
    """From now on; who may vote for the checkpoints that are marked already stays."""
    current, previous = (electorate.difference(peers) for electorate in finality.electors)
    marks = tuple(msgspec.structs.replace(mark, members=mark.members.difference(peers)) for mark in finality.marks)
    return msgspec.structs.replace(finality, electors=(current, previous), marks=marks)


def counted(finality: Finality, rules: Rules, vote: Vote, voter: PeerId, base_height: int) -> Finality:
    """One vote more; one that is about nothing open changes nothing."""
    by_height = {mark.height: mark for mark in finality.marks}
    source, target = by_height.get(vote.source), by_height.get(vote.height)
    if source is None or target is None or not source.justified or vote.height > base_height:
        return finality
    if vote.source >= vote.height or (target.justified and target.agreed != vote.checkpoint):
        return finality
    voters = next((ballot.voters for ballot in finality.ballots if ballot.vote == vote), frozenset()) | {voter}
    others = tuple(ballot for ballot in finality.ballots if ballot.vote != vote)
    finality = msgspec.structs.replace(finality, ballots=(*others, Ballot(vote, voters)))
    return _linked(finality, rules, source, target, vote) if carried(voters, target.electors) else finality


def carried(voters: frozenset[PeerId], electors: Electors) -> bool:
    return all(3 * len(voters & electorate) > 2 * len(electorate) for electorate in electors)


def _linked(finality: Finality, rules: Rules, source: Mark, target: Mark, vote: Vote) -> Finality:
    justified = msgspec.structs.replace(target, agreed=vote.checkpoint, justified=True)
    marks = tuple(justified if mark.height == target.height else mark for mark in finality.marks)
    if source.height + rules.epoch != target.height or source.height == finality.certified.height:
        return _with_marks(finality, marks)
    electors = (source.members, finality.electors[0])
    certified = tuple(mark for mark in marks if mark.height >= source.height)
    return _with_marks(msgspec.structs.replace(finality, electors=electors), certified)


def _with_marks(finality: Finality, marks: tuple[Mark, ...]) -> Finality:
    heights = {mark.height for mark in marks}
    ballots = tuple(b for b in finality.ballots if b.vote.height in heights and b.vote.source in heights)
    return msgspec.structs.replace(finality, marks=marks, ballots=ballots)
