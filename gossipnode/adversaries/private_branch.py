"""Members of a one-byte run who save their votes and turns for a branch that nobody else sees, and show it when it is
longer than what the others have built since, or has grown old: the strongest of the attacks by timing.

Their bytes are zeros: they probe nothing. They know each other at once, and answer no question about the chain
meanwhile. Whoever comes first among them leads.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.adversaries.chain import block_by, entry_by, publish, withhold
from gossipnode.conduct import Conduct
from gossipnode.node import Node as Member
from protocols import wire
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Entry, id_of
from protocols.messages import Refused
from protocols.onebyte.book import Book
from protocols.onebyte.conversation import OneByte
from protocols.onebyte.messages import AskChain
from protocols.transport import Answer, BlobSource, MayFetch, Transport
from sampling.peers import PeerId

PLOT = 0.25  # of a deadline, between two looks
WORTH, OLD = 3, 12  # blocks of the others since the fork: after so many it may be shown, after more it must
SPREAD_S = 0.3  # over which what was saved is published


def private_branch(gang: Gang) -> Conduct:
    async def live(member: Member) -> None:
        assert isinstance(member.protocol, OneByte), "a strategy of one-byte training"
        gang.nodes.append(member)
        async with trio.open_nursery() as nursery:
            withhold(member.protocol.book, gang, nursery)
            if member is gang.nodes[0]:
                nursery.start_soon(_plot, gang)
            nursery.start_soon(member.run)

    return Conduct(live=live, transport=_silent)


def _silent(honest: Transport) -> Transport:
    """Answers no AskChain: what is saved would be in it."""

    def serve(answer: Answer, blobs: BlobSource, may_fetch: MayFetch) -> None:
        async def but_not_that(sender: PeerId, frame: bytes) -> bytes:
            if isinstance(_decoded(frame), AskChain):
                return wire.encode(Refused("busy"))
            return await answer(sender, frame)

        honest.serve(but_not_that, blobs, may_fetch)

    return bent(honest, serve=serve)


def _decoded(frame: bytes) -> object:
    try:
        return wire.decode(frame)
    except wire.MalformedFrame:
        return None


def _books(gang: Gang) -> list[Book]:
    return [node.protocol.book for node in gang.nodes if isinstance(node.protocol, OneByte)]


async def _plot(gang: Gang) -> None:
    """Until cancelled."""
    leader = _books(gang)[0]
    while True:
        fork = head = leader.tip
        saved: list[tuple[Book, Entry | Block]] = []
        while True:
            await trio.sleep(PLOT * leader.pace.deadline_s)
            head = _extend(_books(gang), head, saved) or head
            ours, theirs = head.height - fork.height, leader.tip.height - fork.height
            if not head.live or (theirs >= WORTH and (ours > theirs or theirs > OLD)):
                break
        await _show(gang, saved)


async def _show(gang: Gang, saved: Sequence[tuple[Book, Entry | Block]]) -> None:
    async with trio.open_nursery() as nursery:
        for book, what in saved:
            nursery.start_soon(publish, book, what, gang.rng.uniform(0.0, SPREAD_S))


def _extend(books: Sequence[Book], base: Node, saved: list[tuple[Book, Entry | Block]]) -> Node | None:
    """One block, of whichever of them ranks first, with the entries of all."""

    def share(book: Book, what: Entry | Block) -> None:
        saved.append((book, what))
        for friend in books:
            friend.hear(book.me, what)

    for book in books:
        node = book.chain.node(base.digest)
        entry = None if node is None else entry_by(book, bytes(book.rules.probes), node)
        if entry is not None:
            share(book, entry)
    order = books[0].chain.proposers(base)
    for book in sorted((each for each in books if each.me in order), key=lambda each: order.index(each.me)):
        node = book.chain.node(base.digest)
        block = None if node is None else block_by(book, node)
        if block is not None:
            share(book, block)
            return books[0].chain.node(id_of(block.head))
    return None
