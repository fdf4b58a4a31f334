"""A of the many learners of a simulation: each only refers to its own, and those that are equal are one and the same.

There is one Spsa, at the A of whoever used it last. A sum never changes, so learners that add equal updates to equal
sums share the result, and it is computed once; what nobody is at any more is forgotten. Sharing changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np

from gossipnode.compute.calls import packed
from gossipnode.learn.engine import Engine
from gossipnode.learn.kernels.accumulator import elements
from gossipnode.learn.spsa import Probed
from gossipnode.learn.task import Data
from verify.digest import Digest, digest_of

Updates = Sequence[tuple[int, int]]


class Sum:
    """One A, as a snapshot."""

    __slots__ = ("__weakref__", "digest", "snapshot")

    def __init__(self, snapshot: bytes) -> None:
        self.snapshot = snapshot
        self.digest = digest_of(snapshot)


class Sums:
    def __init__(self, engine: Engine, theta0: bytes, data: Data) -> None:
        """`data` is anybody's. Raises LearnerError."""
        self._engine = engine
        self._spsa = engine.spsa(theta0, data)
        self._known: WeakValueDictionary[Digest, Sum] = WeakValueDictionary()
        self._added: WeakValueDictionary[tuple[Digest, Digest], Sum] = WeakValueDictionary()
        self.zero = self._at = self._one(self._spsa.snapshot())

    def of(self, snapshot: bytes) -> Sum:
        """Raises Unfit."""
        elements(snapshot, len(self._spsa.flat.learned))
        return self._one(snapshot)

    def added(self, a: Sum, updates: Updates) -> Sum:
        """In whatever order: the sum is the same."""
        if not updates:
            return a
        seeds, coefficients = zip(*sorted(updates), strict=True)
        key = a.digest, digest_of(packed("Q", seeds) + packed("q", coefficients))
        found = self._added.get(key)
        if found is None:
            self._go_to(a)
            self._spsa.add(np.array(seeds, dtype=np.uint64), np.array(coefficients, dtype=np.int64))
            found = self._added[key] = self._at = self._one(self._spsa.snapshot())
        return found

    def probe(self, a: Sum, data: Data, seeds: Sequence[int], seed: int) -> Probed:
        """Raises LearnerError."""
        self._go_to(a)
        self._spsa.data = data
        return self._engine.probe(self._spsa, seeds, seed=seed)

    def reprobe(self, a: Sum, data: Data, seeds: Sequence[int], seed: int) -> Probed:
        """With another's data. Raises LearnerError."""
        with self._spsa.lent(data):
            return self.probe(a, data, seeds, seed)

    def score(self, a: Sum, data: Data) -> dict[str, float]:
        """Raises LearnerError."""
        self._go_to(a)
        return self._engine.score(self._spsa, data)

    def _go_to(self, a: Sum) -> None:
        if a is not self._at:
            self._spsa.restore(a.snapshot)
            self._at = a

    def _one(self, snapshot: bytes) -> Sum:
        """The one that is equal, if there is one."""
        found = Sum(snapshot)
        return self._known.setdefault(found.digest, found)
