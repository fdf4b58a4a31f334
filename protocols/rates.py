"""How often somebody may, and how many at once: for each peer, and for all of them together. Pure: the time is an
argument.

What a peer was granted is taken from its own bucket first and then from the common one, so that one that asks too much
cannot empty what the others share. The last part of the common bucket is kept for those who are known here: a thousand
fresh names at once, each within its own rate, leave the members of the run their turn. Memory is bounded: of the peers
not heard of for longest nothing is remembered, which costs at most one fresh bucket each, and the common one holds.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

KEPT_FOR_KNOWN = 0.5  # of the common bucket

K = TypeVar("K")


class Grant(enum.Enum):
    YES = enum.auto()
    TOO_FAST = enum.auto()  # the peer's own doing
    CROWDED = enum.auto()  # everybody's: it has done nothing wrong


class Bucket:
    """`per_s` sustained, `burst` at once."""

    __slots__ = ("_as_of", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._as_of = now

    def left(self, now: float) -> float:
        # A clock that was set back grants nothing and takes nothing.
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._as_of) * self._per_s)
        self._as_of = max(self._as_of, now)
        return self._tokens

    def take(self, now: float, *, leave: float = 0.0) -> bool:
        """`leave`: what must remain."""
        if self.left(now) < 1.0 + leave:
            return False
        self._tokens -= 1.0
        return True

    def put_back(self) -> None:
        self._tokens += 1.0

    def owe(self, amount: float, now: float) -> float:
        """Take it, also on credit: the seconds until that is paid, for who can wait instead of being refused."""
        self._tokens = self.left(now) - amount
        return max(0.0, -self._tokens / self._per_s)


class Rates(Generic[K]):
    """`per_s` sustained and `burst` at once for each key; `total_per_s` for all, with a burst of as many seconds."""

    def __init__(self, per_s: float, total_per_s: float, *, burst_s: float = 1.0, remembered: int) -> None:
        self._per_s = per_s
        self._burst_s = burst_s
        self._remembered = remembered
        self._buckets: OrderedDict[K, Bucket] = OrderedDict()  # longest unheard of first
        self._total_burst = total_per_s * burst_s
        self._total_per_s = total_per_s
        self._total: Bucket | None = None

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, now: float, *, known: bool = True) -> Grant:
        """May it, now? `known`: of those for whom the last part of the common bucket is kept."""
        own = self._of(key, now)
        if not own.take(now):
            return Grant.TOO_FAST
        if self._total is None:
            self._total = Bucket(self._total_per_s, self._total_burst, now)
        if not self._total.take(now, leave=0.0 if known else KEPT_FOR_KNOWN * self._total_burst):
            own.put_back()
            return Grant.CROWDED
        return Grant.YES

    def _of(self, key: K, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._per_s, self._per_s * self._burst_s, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        return bucket


class Admission(Generic[K]):
    """At most so many at once a peer, and so many in all; where half of all are taken, a quarter as many a peer."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer = per_peer
        self._total = total
        self._open: Counter[K] = Counter()

    def enter(self, key: K) -> Grant:
        """If granted, `leave` is to follow."""
        grant = self._grant(key)
        if grant is Grant.YES:
            self._open[key] += 1
        return grant

    def leave(self, key: K) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    @contextmanager
    def admitted(self, key: K) -> Iterator[Grant]:
        grant = self.enter(key)
        try:
            yield grant
        finally:
            if grant is Grant.YES:
                self.leave(key)

    def _grant(self, key: K) -> Grant:
        if self._open[key] >= self._per_peer:
            return Grant.TOO_FAST
        total = self._open.total()
        crowded = 2 * total >= self._total and self._open[key] >= max(1, self._per_peer // 4)
        return Grant.CROWDED if crowded or total >= self._total else Grant.YES
