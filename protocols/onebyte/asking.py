"""Asking for what gossip did not bring, and answering: so that nothing depends on its having arrived.

Tips are compared with a random partner every deadline; while no step comes, or something is known to lack, much sooner,
and ever more rarely if that brings nothing. How soon depends on nothing that is learned: what is repaired late makes
the deadline longer, and a repair that waited for the deadline would make it longer still.
One question carries all of it: where our branch runs, what we lack by name, and which entries we hold; the answer is
cut to one frame. Who asks is given the branch we are on, whatever we think of theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import msgspec
import trio

from protocols.chain.forks import Node
from protocols.chain.messages import id_of
from protocols.chain.plan import Missing
from protocols.onebyte.book import Book
from protocols.onebyte.messages import (
    ANSWER_BYTES,
    LOCATOR,
    PREFIX_BYTES,
    WHOLES,
    AskChain,
    Body,
    ChainIs,
    Lacking,
    Whole,
)
from protocols.onebyte.parts import Parts
from protocols.transport import TransportError
from sampling.patience import Patience
from sampling.peers import PeerId
from verify.digest import Digest

log = logging.getLogger(__name__)

LATE = 0.5  # of the shortest deadline without a new tip, and we wait for one
HASTE = 4  # questions in the shortest deadline, while we wait for something
GROWTH = 1.5  # of the time between two questions that bring nothing
FRUITLESS = 16  # such questions, after which it grows no more
FINISHED_S = 10.0  # between two looks of a member that has finished at how others did
BREATH_S = 0.05  # between two questions to one peer, however urgent: what it rations is more (`protocols.desk`)
AT_ONCE = 3  # questions under way
IN_A_ROW = 256  # questions to one partner while its answers bring us on


class Asker:
    def __init__(self, parts: Parts, book: Book) -> None:
        self._parts, self._book = parts, book
        timing = parts.manifest.timing
        self._patience = Patience(timing.ping_floor_s, timing.ping_ceiling_s)
        self._heights: dict[PeerId, int] = {}  # of the tips of those we have asked
        self.beyond: dict[PeerId, int] = {}  # who is certified where we cannot follow by blocks, and how high
        self.began_s = trio.current_time()
        self._asked_s = self.began_s
        self._jitter = parts.rng.uniform(0.5, 1.5)
        self._wanted: Missing | Digest | None = None  # what we were after when we last asked
        self._asked_at: Digest | None = None  # our tip then
        self._fruitless = 0  # questions in a row that were after the same
        self._lost = 0  # questions in a row without an answer
        self._lacks = False  # we know of something that we do not have
        parts.desk.on(AskChain, self._on_ask)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. A few questions may be under way: one that is lost must not hold up the next."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._until_due()
                self._look()
                if (peer := self._whom()) is not None and len(nursery.child_tasks) < AT_ONCE:
                    nursery.start_soon(self.catch_up_with, peer)
                self._asked_s, self._jitter = trio.current_time(), self._parts.rng.uniform(0.5, 1.5)
                await trio.sleep(BREATH_S)

    def begin(self) -> None:
        """Nobody was late before now, and no question in vain."""
        self.began_s, self._wanted = trio.current_time(), None
        self._asked_at = None

    def _look(self) -> None:
        """Has anything come of the last question?"""
        before, self._wanted, self._asked_at = self._wanted, self._wanting(), self._book.tip.digest
        self._fruitless = self._fruitless + 1 if self._wanted == before else 0
        self._lacks = isinstance(self._wanted, Missing)

    def _wanting(self) -> Missing | Digest:
        """What we are after: what is lacking, or else what comes after the tip. Who names what does not exist must not
        keep us asking often."""
        missing = self._book.chain.missing()
        return missing if any(missing) else self._book.tip.digest

    async def _until_due(self) -> None:
        book = self._book
        while book.named is None and (due_s := self._due_s()) > trio.current_time():
            with trio.move_on_at(due_s):
                await book.bell.until(partial(self._is_not_due, due_s))

    def _is_not_due(self, due_s: float) -> bool:
        """Something has happened that changes when to ask."""
        return self._book.named is not None or self._due_s() != due_s

    def _due_s(self) -> float:
        book, floor_s = self._book, self._parts.manifest.timing.round_floor_s
        deadline_s = max(book.pace.deadline_s, FINISHED_S if book.finished else 0.0)
        fruitless = min(self._fruitless, FRUITLESS) if book.tip.digest == self._asked_at else 0
        soon_s = min(deadline_s, floor_s / HASTE * GROWTH**fruitless)
        late_s = self._asked_s if self._lacks else max(book.pace.came_at(book.tip), self.began_s) + LATE * floor_s
        if book.finished and not self._lacks:
            return self._asked_s + self._jitter * deadline_s
        return min(self._asked_s + self._jitter * deadline_s, max(late_s, self._asked_s + self._jitter * soon_s))

    async def ask_some(self, count: int) -> None:
        """A few at once."""
        partners = self._parts.membership.partners()
        async with trio.open_nursery() as nursery:
            for peer in self._parts.rng.sample(partners, min(count, len(partners))):
                nursery.start_soon(self.ask, peer)

    async def catch_up_with(self, peer: PeerId) -> None:
        for _ in range(IN_A_ROW):
            before = self._book.tip
            if not await self.ask(peer) or self._book.tip is before:
                return
            await trio.sleep(BREATH_S)

    async def ask(self, peer: PeerId) -> bool:
        """One question. True if there is more to be had."""
        book, start = self._book, trio.current_time()
        try:
            answer = await self._parts.desk.ask(peer, self._question(peer), ChainIs, self._patience.after(self._lost))
        except TransportError as error:
            self._lost += 1
            log.debug("%s did not say where it is: %s", peer, error)
            return False
        self._lost = 0
        self._patience.heard(trio.current_time() - start)
        await book.take(peer, answer)
        self._heights[peer] = answer.height
        lacks = answer.root_height > book.chain.certified.height and book.chain.node(answer.root) is None
        if lacks:
            self.beyond[peer] = answer.root_height
            book.bell.ring()
        else:
            self.beyond.pop(peer, None)
        return answer.more or any(book.chain.missing())

    def _whom(self) -> PeerId | None:
        """Who named what we lack, if it is near; else anybody."""
        partners, named = self._parts.membership.partners(), self._book.named
        self._book.named = None
        for gone in self._heights.keys() - set(partners):
            del self._heights[gone]
            self.beyond.pop(gone, None)
        if named in partners:
            return named
        return self._parts.rng.choice(partners) if partners else None

    def _question(self, peer: PeerId) -> AskChain:
        chain = self._book.chain
        missing = chain.missing()
        return AskChain(
            chain.locator()[:LOCATOR],
            tuple(id_of(entry)[:PREFIX_BYTES] for entry in chain.countable()),
            missing.blocks,
            tuple(Lacking(block, places) for block, places in missing.entries),
            whole=self._heights.get(peer, 0) > chain.tip.height + 1,
        )

    # -- answering ----------------------------------------------------------------------------------------------------

    async def _on_ask(self, sender: PeerId, question: AskChain) -> ChainIs:
        chain, room = self._book.chain, _Room(ANSWER_BYTES)
        blocks = [whole for whole in self._lacked(question) if room.take(whole)]
        bodies = [body for body in self._bodies(question) if room.take(body)]
        beyond = chain.after(question.locator, WHOLES)
        following = [whole for node in beyond for whole in _whole(node, entries=question.whole) if room.take(whole)]
        have = set(question.have)
        loose = [] if len(beyond) == WHOLES else [e for e in chain.countable() if id_of(e)[:PREFIX_BYTES] not in have]
        entries = [entry for entry in loose if room.take(entry)]
        return ChainIs(
            chain.certified.digest,
            chain.certified.height,
            chain.tip.height,
            (*blocks, *following),
            tuple(bodies),
            tuple(entries),
            more=room.is_full or len(beyond) == WHOLES,
        )

    def _lacked(self, question: AskChain) -> Iterator[Whole]:
        for digest in question.blocks:
            if (node := self._book.chain.node(digest)) is not None:
                yield from _whole(node, entries=True)

    def _bodies(self, question: AskChain) -> Iterator[Body]:
        for lacking in question.entries:
            found = (self._book.chain.entry_at(Digest(lacking.block), place) for place in lacking.places)
            if entries := tuple(entry for entry in found if entry is not None):
                yield Body(lacking.block, entries)


class _Room:
    """In one answer. Once something did not fit, nothing does: blocks make sense in order only."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.is_full = False

    def take(self, what: msgspec.Struct) -> bool:
        self._left -= len(msgspec.msgpack.encode(what))
        self.is_full = self.is_full or self._left < 0
        return not self.is_full


def _whole(node: Node, *, entries: bool) -> Iterator[Whole]:
    if node.block is not None:
        yield Whole(node.block, node.entries if entries else ())
