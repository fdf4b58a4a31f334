"""Proposing: the first in rank when all seats are in or the deadline has passed, each later rank one deadline later and
only after asking three peers whether there is a block already. So the death of most members delays a step but never
stops the chain, and a block that was merely lost is not proposed against."""

from __future__ import annotations

import trio

from protocols.chain.forks import Node
from protocols.onebyte.asking import Asker
from protocols.onebyte.book import Book

ASKED = 3
LOOK_S = 0.25  # between two looks at who is here before the first step


class Leader:
    def __init__(self, book: Book, asker: Asker) -> None:
        self._book, self._asker = book, asker

    async def run(self) -> None:
        """Until cancelled."""
        book = self._book
        await self._enough_peers()
        while True:
            parent = book.tip
            if (rank := self._rank(parent)) is not None and await self._turn(parent, rank):
                await book.propose(parent)
            await book.bell.until(lambda parent=parent: book.tip is not parent)  # type: ignore[misc]  # mypy#12557

    async def _enough_peers(self) -> None:
        """The first block waits for the peers that the manifest wants to see, but no longer than any round."""
        manifest, view = self._book.parts.manifest, self._book.parts.membership.view
        with trio.move_on_after(manifest.timing.round_ceiling_s):
            while self._book.tip.height == 0 and len(view.present()) < manifest.start_peers:  # noqa: ASYNC110  # a view has no bell
                await trio.sleep(LOOK_S)
        self._asker.begin()

    def _rank(self, parent: Node) -> int | None:
        """None: there is nothing for us to propose on it."""
        order = self._book.chain.proposers(parent)
        if self._book.me not in order or self._book.promises.block > parent.height or self._book.finished:
            return None
        return order.index(self._book.me)

    async def _turn(self, parent: Node, rank: int) -> bool:
        """Waits for our turn. False if there was a block meanwhile."""
        book = self._book
        due_s = max(book.pace.came_at(parent), self._asker.began_s) + (rank + 1) * book.pace.deadline_s
        with trio.move_on_at(due_s):
            await book.bell.until(lambda: book.tip is not parent or (rank == 0 and self._complete(parent)))
        if book.tip is parent and rank > 0:
            await self._asker.ask_some(ASKED)
        return book.tip is parent

    def _complete(self, parent: Node) -> bool:
        chain = self._book.chain
        heard = {entry.origin for entry in chain.countable(parent) if entry.base == parent.digest}
        return heard | chain.equivocators >= set(parent.state.seats)
