"""What a member signs, and what it promises by that. The promise is journalled before anybody hears the signature."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.chain import validity
from protocols.chain.checkpoints import Promises
from protocols.chain.messages import (
    Block,
    Changes,
    Entry,
    Head,
    Vote,
    digest_of_changes,
    digest_of_ids,
    id_of,
    sign,
)
from protocols.chain.rules import Rules
from protocols.chain.state import State, proposers
from protocols.signatures import Signer


def entry_on(
    base: State, rules: Rules, run: bytes, *, signer: Signer, scalars: bytes, vote: Vote | None, promises: Promises
) -> tuple[Entry, Promises] | None:
    """None: no seat, the run is over, or I have promised otherwise."""
    height, me = base.height + 1, signer.peer
    if me not in base.seats or not promises.entry < height <= rules.steps:
        return None
    entry = sign(Entry(height, base.recent[-1].digest, scalars, vote, me, b""), signer, run)
    return entry, Promises(height, promises.block, vote or promises.vote)


def block_on(
    parent: State,
    rules: Rules,
    run: bytes,
    *,
    signer: Signer,
    reveal: bytes,
    counted: tuple[Sequence[int], Sequence[Entry]],
    changes: Changes,
    promises: Promises,
) -> tuple[Block, Promises] | None:
    """None: I am no member, the run is over, or I have promised otherwise. `counted`: numbers and entries."""
    height, order = parent.height + 1, proposers(parent, rules, run)
    if signer.peer not in order or not promises.block < height <= rules.steps:
        return None
    unsigned = Head(
        parent=parent.recent[-1].digest,
        height=height,
        rank=order.index(signer.peer),
        reveal=reveal if validity.in_force(parent.members[signer.peer], height) else b"",
        counted=tuple(counted[0]),
        entries=digest_of_ids([id_of(entry) for entry in counted[1]]),
        changes=digest_of_changes(changes),
        proposer=signer.peer,
        signature=b"",
    )
    return Block(sign(unsigned, signer, run), changes), Promises(promises.entry, height, promises.vote)
