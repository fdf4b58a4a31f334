"""Proof that a member broke a rule, which anyone can check who knows the run: two signatures that exclude each other.

Never two entries of one height, never two blocks of one height, never two votes of which one surrounds the other or
that name two checkpoints of one height. An honest member journals what it signs before it is heard, so it can commit
none.
"""

from __future__ import annotations

from protocols.chain.messages import Entry, Evidence, Head, TwoEntries, TwoHeads, Vote, genuine, payload, signer_of
from sampling.peers import PeerId


def culprit(evidence: Evidence) -> PeerId:
    return signer_of(evidence.first)


def holds(evidence: Evidence, run: bytes) -> bool:
    """Four times cheaper checks first; then both signatures."""
    first, second = evidence.first, evidence.second
    if signer_of(first) != signer_of(second) or not excluded(first, second):
        return False
    return genuine(first, run) and genuine(second, run)


def excluded(first: Entry | Head, second: Entry | Head) -> bool:
    """Whether one honest signer cannot have signed both."""
    if payload(first) == payload(second):
        return False
    if first.height == second.height:
        return type(first) is type(second)
    return isinstance(first, Entry) and isinstance(second, Entry) and clash(first.vote, second.vote)


def clash(first: Vote | None, second: Vote | None) -> bool:
    """Casper's two commandments."""
    if first is None or second is None or first == second:
        return False
    low, high = sorted((first, second), key=lambda vote: vote.height)
    return low.height == high.height or high.source < low.source


def against(first: Entry | Head, second: Entry | Head) -> Evidence:
    """In one order, so that everybody who has both writes the same."""
    one, other = sorted((first, second), key=payload)
    if isinstance(one, Entry) and isinstance(other, Entry):
        return TwoEntries(one, other)
    assert isinstance(one, Head)
    assert isinstance(other, Head)
    return TwoHeads(one, other)
