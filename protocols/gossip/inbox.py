"""Models that have come and wait to be merged: at most one of each origin, and at most so many in all.

Pulled ones are in the store and were checked; those that rode in announcements come unasked, so of them a uniform
sample is kept, as bytes, until the next merge. Pure but for the chance that is passed in, and a bell for who waits.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Final

from protocols.bell import Bell
from protocols.gossip.messages import Offer
from sampling.peers import PeerId
from verify.digest import Digest

MOST_TELLERS: Final = 10_000  # origins counted; more would only be kept a little too often


@dataclass(frozen=True, slots=True)
class Came:
    """A model of `origin`, or a piece of one; `blob` if it is not in the store yet."""

    origin: PeerId
    offer: Offer
    blob: bytes = b""
    piece: int | None = None  # that it is of the model; None: all of it

    @property
    def name(self) -> Digest:
        """Of its bytes."""
        return Digest(self.offer.model if self.piece is None else self.offer.pieces[self.piece])


class Inbox:
    def __init__(self, most: int, rng: random.Random) -> None:
        self.bell = Bell()  # rung when anything comes or is taken
        self._most = most
        self._rng = rng
        self._pulled: dict[PeerId, Came] = {}
        self._told: dict[PeerId, Came] = {}
        self._tellers: set[PeerId] = set()  # whose models came inside announcements since the last merge

    def __len__(self) -> int:
        return min(self._most, len(self._pulled.keys() | self._told.keys()))

    def __contains__(self, peer: object) -> bool:
        return peer in self._pulled or peer in self._told

    @property
    def full(self) -> bool:
        return len(self) >= self._most

    @property
    def stored(self) -> list[Digest]:
        """Those that are in the store already."""
        return [came.name for came in self._pulled.values()]

    @property
    def waiting(self) -> Counter[int | None]:
        """How many, by piece; None: whole models."""
        return Counter(came.piece for came in {**self._told, **self._pulled}.values())

    def holds(self, needed: int) -> bool:
        """So many of some one piece, at least, whole models counted."""
        waiting = self.waiting
        whole = waiting.pop(None, 0)
        return whole + max(waiting.values(), default=0) >= needed

    def put(self, came: Came) -> None:
        self._pulled[came.origin] = came
        self.bell.ring()

    def tell(self, came: Came) -> None:
        """Algorithm R over origins, so that each is as likely to stay, however often it announces."""
        origin = came.origin
        known = origin in self._tellers
        if not known and len(self._tellers) < MOST_TELLERS:
            self._tellers.add(origin)
        if origin in self._told or len(self._told) < self._most:
            self._told[origin] = came
        elif not known and self._rng.randrange(len(self._tellers)) < self._most:
            del self._told[self._rng.choice(sorted(self._told))]
            self._told[origin] = came
        self.bell.ring()

    def take(self) -> list[Came]:
        """All of them, sorted by origin; pulled and told together no more than fit one merge."""
        whole = list({**self._told, **self._pulled}.values())
        chosen = self._rng.sample(whole, self._most) if len(whole) > self._most else whole
        self._pulled.clear()
        self._told.clear()
        self._tellers.clear()
        self.bell.ring()
        return sorted(chosen, key=lambda came: came.origin)
