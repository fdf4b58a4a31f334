"""Who is alive: asked once, with a deadline learned from measured round trips (RFC 6298), and remembered.

A peer that was heard from a moment ago is alive without asking. One that missed its deadline is taken for silent, at no
further cost to anybody who wants to know, until it is heard from; meanwhile it is asked again beside, ever more rarely,
and given longer each time, for it may only have become slow. So a dead peer costs each node one learned deadline, not
one a sample, and what it costs does not grow the deadline of the living.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from protocols.backoff import Backoff
from protocols.desk import Desk
from protocols.messages import Ping, Pong
from protocols.transport import TransportError
from sampling.patience import Patience
from sampling.peers import PeerId, Round

FRESH_S = 1.0  # a peer heard from this lately is alive without asking: a wrong guess costs one round's deadline
DIAL_TRIPS = 5  # round trips of TCP, noise, yamux and the question's own stream before an answer over a new link
MOST_SILENT = 4096  # peers remembered as silent; the oldest is asked again


class Liveness:
    def __init__(
        self,
        desk: Desk,
        patience: Patience,
        rng: random.Random,
        round: Callable[[], Round],
        ponged: Callable[[PeerId, Pong, float], None],
    ) -> None:
        """`ponged` is told of each answer, and how many seconds it took."""
        self._desk = desk
        self._linked = patience
        # A peer without a link must be dialled first: several round trips, and another estimate.
        self._dialling = Patience(min(DIAL_TRIPS * patience.floor_s, patience.ceiling_s), patience.ceiling_s)
        self._rng = rng
        self._round = round
        self._ponged = ponged
        self._silent: dict[PeerId, Backoff] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled. Before that, silent peers are not asked again."""
        async with trio.open_nursery() as self._nursery:
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # others may still ask while they are being cancelled

    def heard(self, peer: PeerId) -> None:
        self._silent.pop(peer, None)

    def silent(self, peer: PeerId) -> bool:
        """It missed its deadline and has not been heard from since."""
        return peer in self._silent

    async def is_alive(self, peer: PeerId) -> bool:
        if (backoff := self._silent.get(peer)) is not None:
            self._ask_beside(peer, backoff)
            return False
        if await self._ask(peer, self._patience(peer).deadline_s):
            return True
        backoff = self._silent.setdefault(peer, Backoff())
        if len(self._silent) > MOST_SILENT:
            del self._silent[next(iter(self._silent))]
        self._ask_beside(peer, backoff)  # at once: the question may have been lost
        return False

    def _ask_beside(self, peer: PeerId, backoff: Backoff) -> None:
        if self._nursery is not None and not backoff.busy and trio.current_time() >= backoff.next_at:
            backoff.busy = True
            self._nursery.start_soon(self._ask_again, peer, backoff)

    async def _ask_again(self, peer: PeerId, backoff: Backoff) -> None:
        patience = self._patience(peer)
        longer_s = min(patience.ceiling_s, max(patience.deadline_s, backoff.delay_s))
        if not await self._ask(peer, longer_s):
            backoff.failed(trio.current_time(), self._rng)
        backoff.busy = False

    async def _ask(self, peer: PeerId, timeout_s: float) -> bool:
        patience, start = self._patience(peer), trio.current_time()
        try:
            pong = await self._desk.ask(peer, Ping(self._round()), Pong, timeout_s)  # its answer makes it `heard`
        except TransportError:
            return False
        patience.heard(trio.current_time() - start)
        self._ponged(peer, pong, trio.current_time() - start)
        return True

    def _patience(self, peer: PeerId) -> Patience:
        return self._linked if peer in self._desk.transport.peers() else self._dialling
