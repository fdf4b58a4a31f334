"""SAMPLE(k, count) of MoDeST (arXiv 2302.13837, Algorithm 1): the first `count` live candidates in the hash order of k.

Candidates are asked for a sign of life in rank order, `count` at a time; each one that stays silent is replaced by the
next. Fewer than `count` are returned only when nobody is left to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import trio

from sampling.admission import Rules
from sampling.peers import PeerId, Round
from sampling.ranking import ranking
from sampling.view import View

Ping = Callable[[PeerId], Awaitable[bool]]  # True: the peer answered before its deadline


class Sampler:
    def __init__(
        self, view: View, rules: Rules, salt: bytes, ping: Ping, trusted: Callable[[PeerId], bool] = lambda _: True
    ) -> None:
        self._view = view
        self._rules = rules
        self._salt = salt
        self._ping = ping
        self._trusted = trusted  # False for peers that are quarantined: they are not sampled

    def candidates(self, round: Round) -> list[PeerId]:
        """The paper's CANDIDATES(k), sorted by id."""
        return [peer for peer in self._view if self._trusted(peer) and self._eligible(peer, round)]

    def order(self, round: Round) -> list[PeerId]:
        return list(self._in_order(round))

    def first(self, round: Round, count: int) -> list[PeerId]:
        """The beginning of `order`, at the cost of the beginning."""
        return list(islice(self._in_order(round), count))

    def _in_order(self, round: Round) -> Iterator[PeerId]:
        for peer in ranking(self._view.names(), round, self._salt):
            if self._trusted(peer) and self._eligible(peer, round):
                yield peer

    async def sample(self, round: Round, count: int) -> list[PeerId]:
        """At most `count` live peers, in rank order."""
        order = self.order(round)
        waiting = iter(order)
        live: set[PeerId] = set()
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._find_one, waiting, live)
        return [peer for peer in order if peer in live]

    async def _find_one(self, waiting: Iterator[PeerId], live: set[PeerId]) -> None:
        for peer in waiting:
            if await self._ping(peer):
                live.add(peer)
                return

    def _eligible(self, peer: PeerId, round: Round) -> bool:
        registration = self._view.registration(peer)
        assert registration is not None
        return self._rules.eligible(registration, self._view.last_active(peer), round)
