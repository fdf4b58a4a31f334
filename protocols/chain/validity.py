"""Whether an entry or a block holds against the state it is built on: one typed reason for every refusal. Pure.

What can be seen in the bytes alone is looked at first, then the signature, then what needs the state. A refusal says
whose fault it is: the signer's (whoever holds the base or the parent finds the same), the sender's (it passed on what
it should have checked), or nobody's. Only evidence that anyone can check expels (`protocols.chain.evidence`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from protocols.chain import evidence, limits
from protocols.chain.draws import unwind
from protocols.chain.messages import (
    Block,
    Changes,
    Entry,
    Head,
    Here,
    Join,
    Leave,
    Signed,
    WrongBytes,
    digest_of_changes,
    genuine,
    signer_of,
)
from protocols.chain.rules import Rules
from protocols.chain.state import FRESH_EPOCHS, Member, State, proposers, slots
from sampling.peers import PeerId


class Refusal(enum.StrEnum):
    """Why something signed is not taken."""

    KNOWN = "known"  # heard before
    BELOW = "below"  # the certified checkpoint: it can change nothing any more
    AHEAD = "ahead"  # too far above our tip
    FULL = "full"  # as much of this signer as is kept for one height, or no room to let it wait
    NOT_ADMITTED = "not-admitted"  # by the manifest
    FORGED = "forged"  # the signature does not hold
    MALFORMED = "malformed"  # wrong number of scalars, one of -128, a vote that is none, digests that do not fit
    NOT_SEATED = "not-seated"  # on that base
    OUT_OF_TURN = "out-of-turn"  # another has that rank, or none: the signer is no member
    WRONG_HEIGHT = "wrong-height"  # not one above the base or parent, or beyond the end of the run
    WRONG_REVEAL = "wrong-reveal"  # not the link it committed to
    WRONG_COUNT = "wrong-count"  # entries that cannot count there: twice, too old, of no member
    WRONG_CHANGES = "wrong-changes"  # a join, leave, here or expulsion that does not hold


SIGNERS_FAULT: Final = frozenset(
    {
        Refusal.NOT_SEATED,
        Refusal.OUT_OF_TURN,
        Refusal.WRONG_HEIGHT,
        Refusal.WRONG_REVEAL,
        Refusal.WRONG_COUNT,
        Refusal.WRONG_CHANGES,
    }
)
SENDERS_FAULT: Final = frozenset({Refusal.FORGED, Refusal.MALFORMED, Refusal.NOT_ADMITTED})


# -- entries ------------------------------------------------------------------------------------------------------


def malformed_entry(entry: Entry, rules: Rules) -> bool:
    vote = entry.vote
    if len(entry.scalars) != rules.probes or 0x80 in entry.scalars or entry.height < 1:  # -128 is no clipped value
        return True
    return vote is not None and not (
        vote.source < vote.height < entry.height
        and rules.is_checkpoint(vote.source)
        and rules.is_checkpoint(vote.height)
    )


# -- blocks -------------------------------------------------------------------------------------------------------


def malformed_block(block: Block, rules: Rules) -> bool:
    head = block.head
    return (
        head.height < 1
        or len(head.counted) > 2 * rules.seats
        or len(block.changes.expulsions) > limits.EXPULSIONS
        or digest_of_changes(block.changes) != head.changes
    )


def doubt_block(
    block: Block, parent: State, rules: Rules, run: bytes, admits: Callable[[PeerId], bool]
) -> Refusal | None:
    """Everything but the entries, which may not be here yet. The reveal is checked by `Reveals`, which remembers."""
    head = block.head
    if head.height != parent.height + 1 or head.height > rules.steps:
        return Refusal.WRONG_HEIGHT
    order = proposers(parent, rules, run)
    if head.rank >= len(order) or order[head.rank] != head.proposer:
        return Refusal.OUT_OF_TURN
    found = slots(parent, rules, head.counted)
    if found is None or not all(slot.free and slot.origin in parent.members for slot in found):
        return Refusal.WRONG_COUNT
    return None if changes_hold(block.changes, parent, rules, run, admits) else Refusal.WRONG_CHANGES


class Reveals:
    """Checks links of hash chains, remembering the newest good one of each: a gap costs as many hashes as it is long.
    A link belongs to a height, whatever the branch, so this is the same for all of them."""

    def __init__(self) -> None:
        self._newest: dict[tuple[PeerId, bytes], tuple[int, bytes]] = {}

    def holds(self, head: Head, member: Member) -> bool:
        if not in_force(member, head.height):
            return head.reveal == b""
        if len(head.reveal) != len(member.tip):
            return False
        at, link = self._newest.get((head.proposer, member.tip), (member.since, member.tip))
        if head.height <= at:
            return unwind(link, at - head.height) == head.reveal
        if unwind(head.reveal, head.height - at) != link:
            return False
        self._newest[head.proposer, member.tip] = (head.height, head.reveal)
        return True


def in_force(member: Member, height: int) -> bool:
    return bool(member.tip) and member.reveals <= height < member.since + limits.LINKS


# -- changes of membership ----------------------------------------------------------------------------------------


def changes_hold(changes: Changes, parent: State, rules: Rules, run: bytes, admits: Callable[[PeerId], bool]) -> bool:
    culprits = list(map(evidence.culprit, changes.expulsions))
    signed: list[Signed] = [*changes.joins, *changes.leaves, *changes.heres]
    named = [*map(signer_of, signed), *culprits]
    if len(set(named)) < len(named):  # one change a peer and block, so that their order means nothing
        return False
    return (
        len(parent.members) + len(changes.joins) <= limits.MEMBERS
        and all(change_fits(change, parent, rules, admits) for change in signed)
        and all(peer in parent.members for peer in culprits)
        and all(genuine(change, run) for change in signed)
        and sum(isinstance(each, WrongBytes) for each in changes.expulsions) <= limits.CONVICTIONS
        and all(evidence.holds(each, run, parent.members) for each in changes.expulsions)
    )


def change_fits(change: Signed, parent: State, rules: Rules, admits: Callable[[PeerId], bool]) -> bool:
    """Whether it says something that is new in this state, and was said in time."""
    member = parent.members.get(signer_of(change))
    if isinstance(change, Join):
        fresh = parent.height - FRESH_EPOCHS * rules.epoch <= change.height <= parent.height
        before = parent.left.get(change.peer, -1) if member is None else member.since if member.tip else -1
        return fresh and change.height > before and change.peer not in parent.expelled and admits(change.peer)
    if isinstance(change, Leave):
        return member is not None and member.since <= change.height <= parent.height
    if isinstance(change, Here):
        return parent.dormant.get(change.peer, parent.height + 1) <= change.height <= parent.height
    return False
