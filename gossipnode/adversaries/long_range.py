"""Members of a one-byte run who tell everybody that a later checkpoint is certified than there is, and give those who
ask for it a snapshot of a history of their own: the honest certificates, and one more that only they have signed.

The long-range attack as far as a hostile third can carry it: with the keys of two thirds of a former electorate the
last certificate would hold (`protocols.chain.checkpoints`).
"""

from __future__ import annotations

import msgspec

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.conduct import Conduct
from gossipnode.node import Node
from protocols import wire
from protocols.chain.checkpoints import Certificate, Snapshot, checkpoint_id, encode_snapshot
from protocols.chain.messages import Entry, Vote, sign
from protocols.messages import AnyMessage
from protocols.onebyte.book import Book
from protocols.onebyte.conversation import OneByte
from protocols.onebyte.messages import PART_BYTES, AskSnapshot, ChainIs, SnapshotIs
from protocols.transport import Answer, BlobSource, MayFetch, Transport
from sampling.peers import PeerId
from verify.digest import digest_of

EPOCHS_ON = 8  # the invented checkpoint is so many later than the certified one


def long_range(gang: Gang) -> Conduct:
    def transport(honest: Transport) -> Transport:
        def serve(answer: Answer, blobs: BlobSource, may_fetch: MayFetch) -> None:
            async def lie(sender: PeerId, frame: bytes) -> bytes:
                told = await answer(sender, frame)
                forged = None if sender == honest.me else _forged(gang, honest.me)
                return told if forged is None else _instead(frame, told, forged)

            honest.serve(lie, blobs, may_fetch)

        return bent(honest, serve=serve)

    async def live(member: Node) -> None:
        assert isinstance(member.protocol, OneByte), "a strategy of one-byte training"
        gang.nodes.append(member)
        await member.run()

    return Conduct(transport=transport, live=live)


def _instead(frame: bytes, told: bytes, forged: Snapshot) -> bytes:
    """Of what an honest member would answer."""
    asked, answer, checkpoint = _decoded(frame), _decoded(told), forged.checkpoint
    if isinstance(answer, ChainIs):
        higher = checkpoint.height + 1
        return wire.encode(
            msgspec.structs.replace(answer, root=checkpoint.block, root_height=checkpoint.height, height=higher)
        )
    if isinstance(asked, AskSnapshot):
        data = encode_snapshot(forged)
        return wire.encode(SnapshotIs(digest_of(data), len(data), data[asked.offset : asked.offset + PART_BYTES]))
    return told


def _decoded(frame: bytes) -> AnyMessage | None:
    try:
        return wire.decode(frame)
    except wire.MalformedFrame:
        return None


def _forged(gang: Gang, me: PeerId) -> Snapshot | None:
    """None before anything is certified."""
    books = [node.protocol.book for node in gang.nodes if isinstance(node.protocol, OneByte)]
    own = next((book for book in books if book.me == me), None)
    snapshot = None if own is None else own.chain.snapshot()
    if own is None or snapshot is None:
        return None
    last, epoch = snapshot.certificates[-1], own.rules.epoch
    checkpoint = msgspec.structs.replace(
        last.checkpoint,
        height=last.checkpoint.height + EPOCHS_ON * epoch,
        block=digest_of(b"another history" + last.checkpoint.block),
        previous=checkpoint_id(last.checkpoint),
    )
    child = msgspec.structs.replace(
        last.child,
        height=checkpoint.height + epoch,
        block=digest_of(b"after it" + last.child.block),
        previous=checkpoint_id(checkpoint),
    )
    vote = Vote(checkpoint.height, child.height, checkpoint_id(child))
    votes = tuple(_vote(book, vote, child.block) for book in books)
    return Snapshot((*snapshot.certificates, Certificate(checkpoint, child, votes, last.members)), snapshot.state)


def _vote(book: Book, vote: Vote, base: bytes) -> Entry:
    entry = Entry(vote.height + 1, digest_of(base), bytes(book.rules.probes), vote, book.me, b"")
    return sign(entry, book.parts.signer, book.run)
