"""Verdicts of a chain as files: whom a block has expelled for wrong bytes, checked by anyone without a network.

What counts is what a block counts (`protocols.chain.evidence`): a signed entry, and signed votes of more than a third
of the members with other bytes. Invariant: a file that says OK proves the verdict to whoever trusts its list of
members, the one thing in it that nobody has signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.chain.evidence import audit_vote, enough
from protocols.chain.messages import Contradiction, Entry, genuine, id_of
from protocols.chain.rules import Rules
from protocols.chain.validity import malformed_entry
from protocols.claiming import vote_holds
from protocols.ownclaims import Convicted
from sampling.peers import PeerId
from verify.digest import short
from verify.scalars import STEPS, apart, differ

if TYPE_CHECKING:  # which imports us
    from gossipnode.certificates import Checked


def file_name(convicted: Convicted) -> str:
    entry = convicted.wrong.entry
    return f"{entry.height}-{short(id_of(entry))}"


def check_convicted(found: Checked, convicted: Convicted, run: bytes, rules: Rules) -> None:
    """Adds to what was found."""
    entry, members = convicted.wrong.entry, convicted.members
    found.say(f"entry of {entry.origin}: {len(entry.scalars)} bytes of step {entry.height} on {short(entry.base)}")
    signed = not malformed_entry(entry, rules) and genuine(entry, run)
    found.require(signed, f"signed by it: {short(id_of(entry))}", "it has not signed such an entry")
    counted: set[PeerId] = set()
    for vote in convicted.wrong.votes:
        doubt = _doubt(entry, vote, members, counted, run)
        line = f"vote of …{vote.auditor[-8:]}: {doubt or _found(entry, vote)}"
        if found.require(doubt is None, line, line):
            counted.add(vote.auditor)
    share = f"{len(counted)} of {len(members)} members"
    found.require(
        signed and entry.origin in members and enough(len(counted), len(members)),
        f"verdict: {entry.origin} was expelled by block {short(convicted.block)} of height {convicted.height}: {share}",
        f"{share}, of which it must be one: these votes decide nothing",
    )


def _doubt(
    entry: Entry, vote: Contradiction, members: tuple[PeerId, ...], counted: set[PeerId], run: bytes
) -> str | None:
    if vote.auditor not in members or vote.auditor == entry.origin or vote.auditor in counted:
        return "of no member, of the accused, or a second one"
    if vote.own and (len(vote.own) != len(entry.scalars) or not differ(vote.own, entry.scalars)):
        return "a vote that its own figures do not bear out"
    return None if vote_holds(audit_vote(entry, vote), run) else "a signature that does not hold"


def _found(entry: Entry, vote: Contradiction) -> str:
    if not vote.own:
        return "contradicts: the work cannot be done as claimed"
    return f"contradicts: {apart(vote.own, entry.scalars)} of {len(vote.own)} bytes more than {STEPS} steps apart"
