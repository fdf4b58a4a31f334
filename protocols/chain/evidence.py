"""Proof that a member broke a rule, which anyone can check who knows the run: two signatures that exclude each other,
or an entry whose work so many members have done again that one of them is honest.

Never two entries of one height, never two blocks of one height, never two votes of which one surrounds the other or
that name two checkpoints of one height. An honest member journals what it signs before it is heard, so it can commit
none. Wrong bytes need more than a third of the members against them: that many cannot all be hostile where safety is
claimed, whoever was drawn and whichever votes were left out. Both are a function of the evidence and the members alone.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from protocols.chain import limits
from protocols.chain.messages import (
    Contradiction,
    Entry,
    Evidence,
    Head,
    TwoEntries,
    TwoHeads,
    Vote,
    WrongBytes,
    genuine,
    id_of,
    payload,
    signer_of,
)
from protocols.claiming import vote_holds
from sampling.peers import PeerId
from verify import scalars
from verify.claims import Vote as AuditVote
from verify.tally import PANEL


def culprit(evidence: Evidence) -> PeerId:
    return evidence.entry.origin if isinstance(evidence, WrongBytes) else signer_of(evidence.first)


def holds(evidence: Evidence, run: bytes, members: Collection[PeerId]) -> bool:
    """Cheaper checks first; then the signatures. `members`: where it is to count; two signatures hold anywhere."""
    if isinstance(evidence, WrongBytes):
        auditors = {vote.auditor for vote in evidence.votes}
        among = len(auditors) == len(evidence.votes) and auditors <= set(members)
        return among and enough(len(auditors), len(members)) and contradicted(evidence, run)
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


# -- wrong bytes --------------------------------------------------------------------------------------------------


def enough(auditors: int, members: int) -> bool:
    """Of these many, one is honest. Fewer than a panel and its accused expel nobody."""
    return members > PANEL and 3 * auditors > members


def contradicted(wrong: WrongBytes, run: bytes) -> bool:
    """Its entry is signed, and so is every vote, by another, with figures that bear it out."""
    entry = wrong.entry
    return all(
        vote.auditor != entry.origin
        and len(vote.own) in (0, len(entry.scalars))
        and (not vote.own or scalars.differ(vote.own, entry.scalars))
        for vote in wrong.votes
    ) and (genuine(entry, run) and all(vote_holds(audit_vote(entry, vote), run) for vote in wrong.votes))


def audit_vote(entry: Entry, vote: Contradiction) -> AuditVote:
    """As it was signed: the claim is the entry, whose bytes it need not repeat, and nothing was kept secret."""
    return AuditVote(vote.auditor, id_of(entry), False, vote.own, b"", b"", vote.signature)


def wrong_bytes(entry: Entry, votes: Collection[AuditVote], members: Collection[PeerId]) -> WrongBytes | None:
    """In one order, of no more votes than it takes. None: there are not enough."""
    against = sorted(vote for vote in votes if not vote.agrees and vote.auditor in members)
    needed = len(members) // 3 + 1
    if not enough(len(against), len(members)) or needed > limits.CONTRADICTIONS:
        return None
    return WrongBytes(entry, tuple(Contradiction(vote.auditor, vote.own, vote.signature) for vote in against[:needed]))


def within(evidence: Evidence, members: Collection[PeerId]) -> Evidence | None:
    """What holds where these are the members, of what held where others were."""
    if not isinstance(evidence, WrongBytes):
        return evidence
    votes = tuple(vote for vote in evidence.votes if vote.auditor in members)
    return msgspec.structs.replace(evidence, votes=votes) if enough(len(votes), len(members)) else None
