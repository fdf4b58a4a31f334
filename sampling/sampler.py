"""SAMPLE(k, count) of MoDeST (arXiv 2302.13837, Algorithm 1): the first `count` live candidates in the hash order of k.

Candidates are asked for a sign of life in rank order, `count` at a time; those that stay silent are replaced by the
next, and by ever more at once, so that n dead ones cost log n deadlines. Fewer than `count` are returned only when
nobody is left to ask. A round that went wrong is drawn anew: those who took part then come last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice

import trio

from sampling.admission import Rules
from sampling.peers import PeerId, Round
from sampling.ranking import ranking
from sampling.view import View

SET_BACK_ROUNDS = 64  # rounds of which it is remembered who comes last; a run goes back from few

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
        self._set_back: dict[Round, Counter[PeerId]] = {}

    def candidates(self, round: Round) -> list[PeerId]:
        """The paper's CANDIDATES(k), sorted by id."""
        return [peer for peer in self._view if self._trusted(peer) and self._eligible(peer, round)]

    def order(self, round: Round) -> list[PeerId]:
        return list(self._in_order(round))

    def first(self, round: Round, count: int) -> list[PeerId]:
        """The beginning of `order`, at the cost of the beginning."""
        return list(islice(self._in_order(round), count))

    def set_back(self, round: Round, peers: Iterable[PeerId]) -> None:
        """They come last in the order of that round, after all who were set back less often: with whoever spoils it
        each time in the end behind everybody else."""
        self._set_back.setdefault(round, Counter()).update(peers)
        while len(self._set_back) > SET_BACK_ROUNDS:
            del self._set_back[min(self._set_back)]

    def is_set_back(self, round: Round, peer: PeerId) -> bool:
        return round in self._set_back and peer in self._set_back[round]

    def _ranked(self, round: Round) -> Iterable[PeerId]:
        ranked = ranking(self._view.names(), round, self._salt)
        times = self._set_back.get(round)
        return ranked if times is None else sorted(ranked, key=times.__getitem__)

    def _in_order(self, round: Round) -> Iterator[PeerId]:
        for peer in self._ranked(round):
            if self._trusted(peer) and self._eligible(peer, round):
                yield peer

    async def sample(self, round: Round, count: int) -> list[PeerId]:
        """At most `count` live peers, in rank order."""
        waiting, live = self._in_order(round), list[PeerId]()
        width, spare = count, 1
        while width > 0 and (asked := list(islice(waiting, width))):
            live += await self.alive(asked)
            width, spare = spare * (count - len(live)), 2 * spare
        return live[:count]

    async def alive(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Those that answer, in the same order, asked all at once."""
        live: set[PeerId] = set()

        async def ask(peer: PeerId) -> None:
            if await self._ping(peer):
                live.add(peer)

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(ask, peer)
        return [peer for peer in peers if peer in live]

    def _eligible(self, peer: PeerId, round: Round) -> bool:
        registration = self._view.registration(peer)
        assert registration is not None
        return self._rules.eligible(registration, self._view.last_active(peer), round)
