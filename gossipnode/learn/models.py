"""Several models as the rows of a matrix (n, d) that is never in memory as a whole: the passes that merging makes.

A row is anything that gives float32 values for a slice: a vector, or a blob that is decoded piece by piece. Invariant:
the same rows give the same bits on every machine at any number of threads. A pass goes slab by slab, each computed by
one thread, and sums over slabs are taken in their order; within a slab there are only numpy's elementwise operations
(never fused, never reordered) and the kernels of `kernels.robust`. SLAB is part of what a distance is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossipnode.learn.encoding import Vector

T = TypeVar("T")
Doubles = NDArray[np.float64]

SLAB: Final = 16_384  # values of each model at a time: of twenty models 1.3 MB


class Row(Protocol):
    """One model, read-only."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Vector: ...


@dataclass(frozen=True)
class Models:
    """The values low .. high - 1 of each row; n rows, d values."""

    rows: Sequence[Row]
    low: int
    high: int
    threads: int = 1

    @classmethod
    def of(cls, rows: Sequence[Row] | Vector, threads: int = 1) -> Models:
        """All values of each; a matrix (n, d) will do."""
        assert len(rows) > 0
        assert all(len(row) == len(rows[0]) for row in rows)
        return cls(list(rows), 0, len(rows[0]), threads)

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def d(self) -> int:
        return self.high - self.low

    def span(self, low: int, high: int) -> Models:
        """Some of these values, counted from our own first."""
        assert 0 <= low <= high <= self.d
        return replace(self, low=self.low + low, high=self.low + high)

    def around(self, centre: Row | None) -> Models:
        """These, and a centre (zeros if None) as the last row."""
        return replace(self, rows=[*self.rows, _Zeros(self.high) if centre is None else centre])

    def combined(self, coefficients: Sequence[float] | Doubles, divisor: float = 1.0) -> Vector:
        """sum_j coefficient_j row_j / divisor, in float64 in the order of the rows, rounded once, (d,)."""
        out = np.empty(self.d, dtype=np.float32)
        terms = [(row, c) for row, c in zip(self.rows, coefficients, strict=True) if c != 0]
        assert terms

        def work(low: int, high: int) -> None:
            summed = terms[0][0][low:high].astype(np.float64) * terms[0][1]
            for row, coefficient in terms[1:]:
                summed += row[low:high].astype(np.float64) * coefficient
            out[low - self.low : high - self.low] = summed / divisor

        self._run(work)
        return out

    def squares(self, *, star: bool = False) -> Doubles:
        """Squared distances between all rows, or with `star` only of each to the last, (n, n)."""
        from gossipnode.learn.kernels import robust as kernels

        total = np.zeros((self.n, self.n))
        for found in self._each(lambda low, high: kernels.squares(self._stacked(low, high), star)):
            total += found
        return total

    def middle(self, first: int, last: int, mixing: Doubles | None = None) -> Vector:
        """Of each coordinate the mean of its places first .. last - 1 in order, (d,); `mixing` (n, n): of M rows."""
        from gossipnode.learn.kernels import robust as kernels

        assert 0 <= first < last <= self.n
        out, network = np.empty(self.d, dtype=np.float32), sorting_network(self.n)

        def work(low: int, high: int) -> None:
            part = self._stacked(low, high)
            if mixing is not None:
                part = _mixed(part, mixing)
            kernels.middle(part, network, first, last, out[low - self.low : high - self.low])

        self._run(work)
        return out

    def spreads(self) -> Doubles:
        """Mean and population variance of each row's values, (n, 2)."""
        return np.array([spread(row, self.low, self.high) for row in self.rows])

    def _stacked(self, low: int, high: int) -> Vector:
        return np.stack([row[low:high] for row in self.rows])

    def _run(self, work: Callable[[int, int], None]) -> None:
        for _ in self._each(work):
            pass

    def _each(self, work: Callable[[int, int], T]) -> Iterator[T]:
        """What `work` makes of each slab, in order."""
        slabs = [(low, min(low + SLAB, self.high)) for low in range(self.low, self.high, SLAB)]
        if self.threads == 1 or len(slabs) < 2:
            yield from starmap(work, slabs)
            return
        with ThreadPoolExecutor(self.threads, "merge") as pool:
            yield from pool.map(lambda slab: work(*slab), slabs)


@dataclass(frozen=True)
class _Zeros:
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice, /) -> Vector:
        return np.zeros(len(range(*part.indices(self.length))), dtype=np.float32)


def spread(row: Row, low: int, high: int) -> tuple[float, float]:
    """Mean and population variance, of values taken from the first of them so that equal ones have exactly none."""
    from gossipnode.learn.kernels import robust as kernels

    origin, count = float(row[low : low + 1][0]), high - low
    parts = [kernels.moments(row[at : min(at + SLAB, high)], origin) for at in range(low, high, SLAB)]
    first, second = (math.fsum(sums) / count for sums in zip(*parts, strict=True))
    return origin + first, max(second - first * first, 0.0)


def _mixed(part: Vector, mixing: Doubles) -> Vector:
    """M rows, in float64 in the order of the rows; (n, B) each."""
    rows = [Models.of(part).combined(coefficients) for coefficients in mixing]
    return np.stack(rows)


def sorting_network(n: int) -> NDArray[np.int64]:
    """Comparators (c, 2) that sort n values: Batcher's odd-even merge (1968; Knuth, TAOCP 5.2.2, algorithm M)."""
    comparators: list[tuple[int, int]] = []
    top = 1 << max(n - 1, 1).bit_length() - 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return np.array(comparators, dtype=np.int64).reshape(-1, 2)
