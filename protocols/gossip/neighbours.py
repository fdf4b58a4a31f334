"""Whom to pull from: a bounded, random set of the peers that were lately heard of. Pure: time and chance are arguments.

Of all who announce, those are kept whose ids hash lowest with our own salt (as Brahms' samplers do, Bortnikov et al.,
2009), so that who announces more often is not kept more often: every node is in about as many sets, and as each pull
draws uniformly from its set (Epidemic Learning, arXiv 2310.01972), every node is pulled about equally often. Neighbours
in a fixed graph (`protocols.gossip.graph`) are kept before all others, and pulled from alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from protocols.gossip.messages import Offer
from sampling.peers import PeerId, Round
from verify.digest import digest_of

KEPT: Final = 256  # announcers remembered, 1.5 KB each or with pieces 7: far more than models that any merge takes
FRESH: Final = 4.0  # intervals without a word before a peer is taken for gone
FRESH_S: Final = 30.0  # at least
FRESH_MOST_S: Final = 3600.0  # whatever it says of its own pace


@dataclass(frozen=True, slots=True)
class Heard:
    offer: Offer
    at_s: float
    first_s: float  # of this model


def anybody(peer: PeerId) -> bool:
    return True


class Neighbours:
    def __init__(self, salt: bytes, joins: Callable[[PeerId], bool] = anybody) -> None:
        """`joins`: may models of this peer be merged here?"""
        self._salt, self.joins = salt, joins
        self._heard: dict[PeerId, Heard] = {}
        self._rank: dict[PeerId, bytes] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def hear(self, peer: PeerId, offer: Offer, now_s: float, interval_s: float = 0.0) -> None:
        """`interval_s`: at which everybody announces."""
        before = self._heard.get(peer)
        known = before is not None and before.offer.model == offer.model
        self._heard[peer] = Heard(offer, now_s, before.first_s if before and known else now_s)
        if len(self._heard) <= KEPT:
            return
        for gone in self._heard.keys() - set(self.fresh(now_s, interval_s)):
            self.forget(gone)
        if len(self._heard) > KEPT:
            self.forget(max(self._heard, key=self._ranked))

    def forget(self, peer: PeerId) -> None:
        """It did not answer: until it announces again."""
        self._heard.pop(peer, None)
        self._rank.pop(peer, None)

    def fresh(self, now_s: float, interval_s: float = 0.0) -> list[PeerId]:
        """Sorted, so that a seeded choice among them can be repeated."""
        return sorted(peer for peer, heard in self._heard.items() if _is_fresh(heard, now_s, interval_s))

    def last(self, peer: PeerId) -> Heard | None:
        return self._heard.get(peer)

    def heard(self) -> dict[PeerId, Heard]:
        return dict(self._heard)

    def clock(self, own: Round) -> Round:
        """The lower median of everybody's age: no minority, nor any single speed, sets it."""
        return median_age([own, *(heard.offer.age for heard in self._heard.values())])

    def _ranked(self, peer: PeerId) -> tuple[bool, bytes]:
        if peer not in self._rank:
            self._rank[peer] = digest_of(self._salt + peer.encode())
        return not self.joins(peer), self._rank[peer]


def median_age(ages: Iterable[int]) -> Round:
    return Round(statistics.median_low(ages))


def _is_fresh(heard: Heard, now_s: float, interval_s: float) -> bool:
    quiet_s = FRESH * max(interval_s, heard.offer.train_ms / 1000)
    return now_s - heard.at_s <= min(max(FRESH_S, quiet_s), FRESH_MOST_S)
