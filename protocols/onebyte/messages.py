"""What nodes of a one-byte run say to each other beside what members sign (`protocols.chain.messages`): entries, blocks
and changes as gossip; questions for what a node lacks or for the newest snapshot, and their answers.

All of it may be lost: whatever gossip did not bring is asked for, and an answer that was cut to size says so.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from protocols import limits as wire
from protocols.chain import limits
from protocols.chain.messages import Block, Entry, Height, Here, Join, Leave, Optional32
from protocols.fields import Bytes32, Message
from sampling.peers import PeerId
from verify.claims import Vote as AuditVote

LOCATOR: Final = 64  # blocks ever farther apart: reaches back 2^62
LACKING: Final = 64  # blocks, and bodies, asked for at once; as many as `Chain.missing` names
WHOLES: Final = 64  # blocks in one answer
ANSWER_BYTES: Final = 160 * wire.KIB  # of what is packed into an answer, so that the frame stays below its limit
PART_BYTES: Final = 128 * wire.KIB  # of a snapshot
PREFIX_BYTES: Final = 8  # of an id, to say that one holds it: chance confuses two of a run's millions once in 10^6 runs

VOTES: Final = 128  # of audits, in one answer: 100 KB with the longest entries

NOBODY: Final = PeerId("")

Prefix = Annotated[bytes, Meta(min_length=PREFIX_BYTES, max_length=PREFIX_BYTES)]
Place = Annotated[int, Meta(ge=0, lt=limits.COUNTED)]
Entries = Annotated[tuple[Entry, ...], Meta(max_length=limits.COUNTED)]
SnapshotBytes = Annotated[int, Meta(ge=0, le=limits.SNAPSHOT_BYTES)]


class NewEntry(Message, frozen=True, tag=40):
    """Gossip: an origin has probed, and votes for the base. It has no name: it is of whoever began the gossip."""

    entry: Entry

    @classmethod
    def of(cls, entry: Entry) -> NewEntry:
        return cls(replace(entry, origin=NOBODY))

    def by(self, origin: PeerId) -> Entry:
        return replace(self.entry, origin=origin)


class NewBlock(Message, frozen=True, tag=41):
    """Gossip: a proposer's next block. Who has heard its entries needs nothing else. Its head has no name either."""

    block: Block

    @classmethod
    def of(cls, block: Block) -> NewBlock:
        return cls(replace(block, head=replace(block.head, proposer=NOBODY)))

    def by(self, proposer: PeerId) -> Block:
        return replace(self.block, head=replace(self.block.head, proposer=proposer))


class NewChange(Message, frozen=True, tag=42):
    """Gossip: somebody joins (or commits to a new hash chain), leaves, or is back."""

    change: Join | Leave | Here


class Lacking(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of a block, the entries at these places of `Head.counted`."""

    block: Bytes32
    places: Annotated[tuple[Place, ...], Meta(max_length=limits.COUNTED)]


class AskChain(Message, frozen=True, tag=43):
    """Anyone to anyone, all the time: here is where my branch runs, what I lack, and which entries I hold for the next
    block. What do you have beyond? Answered by ChainIs."""

    locator: Annotated[tuple[Bytes32, ...], Meta(max_length=LOCATOR)]
    have: Annotated[tuple[Prefix, ...], Meta(max_length=limits.COUNTED)] = ()
    blocks: Annotated[tuple[Bytes32, ...], Meta(max_length=LACKING)] = ()
    entries: Annotated[tuple[Lacking, ...], Meta(max_length=LACKING)] = ()
    whole: bool = False  # I am far behind: blocks with their entries, please


class Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Entries of a block."""

    block: Bytes32
    entries: Entries


class Whole(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block, and its entries if they were asked for."""

    block: Block
    entries: Entries = ()


class ChainIs(Message, frozen=True, tag=44):
    """Answer to AskChain: what was lacking, the next blocks of my branch, and entries that may still count. `root`: my
    certified checkpoint, below which I can give nothing; `more`: ask again."""

    root: Bytes32
    root_height: Height
    height: Height  # of my tip
    blocks: Annotated[tuple[Whole, ...], Meta(max_length=LACKING + WHOLES)] = ()
    bodies: Annotated[tuple[Body, ...], Meta(max_length=LACKING)] = ()
    entries: Entries = ()
    more: bool = False


class AskSnapshot(Message, frozen=True, tag=45):
    """A joiner, or one that is too far behind: your newest snapshot (`digest` empty), or the next part of the one that
    you have begun to give me. Answered by SnapshotIs, or Refused while there is none."""

    digest: Optional32 = b""
    offset: SnapshotBytes = 0


class SnapshotIs(Message, frozen=True, tag=46):
    """Answer to AskSnapshot: the bytes from `offset` on, of so many in all."""

    digest: Bytes32
    size: SnapshotBytes
    data: Annotated[bytes, Meta(max_length=PART_BYTES)]


class AskVotes(Message, frozen=True, tag=47):
    """To a random link now and then: these votes I have on entries that somebody doubts. Answered by VotesAre."""

    have: Annotated[tuple[Prefix, ...], Meta(max_length=wire.EVIDENCE)] = ()


class VotesAre(Message, frozen=True, tag=48):
    """Answer to AskVotes: votes that you lack."""

    votes: Annotated[tuple[AuditVote, ...], Meta(max_length=VOTES)] = ()
