"""Sums of signs on the CPU: which kernel does it, in which batches, on how many threads. The sum is the same for all.

int32 additions commute, so any split into batches, blocks and threads gives the same A. Compiled kernels run without
the interpreter's lock, each thread on its own range of words. That A cannot overflow is for its owner to see to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.learn.kernels import plain
from gossipnode.learn.kernels.plan import PLANES, plan, room
from gossipnode.learn.kernels.signs import WORD, Accumulated, Floats, Words
from verify.jit import COMPILES

BATCH: Final = 512  # larger ones gain little, and the plan of this one is read from the first-level cache
ALONE: Final = 500_000  # parameters below which a second thread costs more than it brings
_FULL: Final = np.uint64(2**64 - 1)


class Host:
    """Owns the threads. `compiled=False` runs numpy, also where numba is installed."""

    def __init__(self, threads: int = 1, *, compiled: bool = COMPILES) -> None:
        assert threads > 0
        if compiled:
            from gossipnode.learn.kernels import compiled as kernels

            self._add_batch, self._add_one = kernels.add_batch, kernels.add_one
            self._perturb, self._materialise = kernels.perturb, kernels.materialise
        else:
            self._add_batch, self._add_one = plain.add_batch, plain.add_one
            self._perturb, self._materialise = plain.perturb, plain.materialise
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "signs") if threads > 1 else None

    def add(self, a: Accumulated, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        """a += sum c z(seed); a (d,), the others (n,)."""
        assert a.dtype == np.int32
        assert seeds.shape == coefficients.shape
        for low, high in _batches(np.abs(coefficients)):
            if high - low == 1:
                self._ranges(len(a), partial(self._one, a, seeds[low], np.int32(coefficients[low])))
            else:
                self._add_many(a, seeds[low:high], coefficients[low:high])

    def perturb(self, out: Floats, theta0: Floats, a: Accumulated, *, quantum: float, seed: int, eps: float) -> None:
        """out = theta0 + quantum A + eps z(seed), (d,) each; out may be theta0's own only if it is not needed again."""
        sizes = np.float32(quantum), np.uint64(seed), np.float32(eps)

        def part(low: int, high: int) -> None:
            self._perturb(out[low:high], theta0[low:high], a[low:high], *sizes, low // WORD)

        self._ranges(len(a), part)

    def materialise(self, out: Floats, theta0: Floats, a: Accumulated, *, quantum: float) -> None:
        """out = theta0 + quantum A, (d,) each. quantum is a power of two: the product is exact, only A's own rounding
        to float32 and the sum's count, and both are the same on every IEEE machine."""

        def part(low: int, high: int) -> None:
            self._materialise(out[low:high], theta0[low:high], a[low:high], np.float32(quantum))

        self._ranges(len(a), part)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _one(self, a: Accumulated, seed: np.uint64, coefficient: np.int32, low: int, high: int) -> None:
        self._add_one(a[low:high], seed, coefficient, low // WORD)

    def _add_many(self, a: Accumulated, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        magnitudes = np.abs(coefficients)
        operations = room(len(seeds))
        operations = operations[: plan(magnitudes, operations)]
        flips = np.where(coefficients < 0, _FULL, np.uint64(0))
        total = int(magnitudes.sum())

        def part(low: int, high: int) -> None:
            self._add_batch(a[low:high], operations, seeds, flips, total, low // WORD)

        self._ranges(len(a), part)

    def _ranges(self, length: int, part: Callable[[int, int], None]) -> None:
        """Each thread takes one range, whose ends are those of words."""
        if self._pool is None or length < ALONE:
            part(0, length)
            return
        step = -(-length // (WORD * self.threads)) * WORD
        others = [self._pool.submit(part, low, min(low + step, length)) for low in range(step, length, step)]
        part(0, step)
        for other in others:
            other.result()


def _batches(magnitudes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of at most BATCH, whose sums the planes hold; what they cannot hold alone goes alone."""
    if len(magnitudes) <= BATCH and int(magnitudes.sum()) >> PLANES == 0:
        if len(magnitudes):
            yield 0, len(magnitudes)
        return
    low = total = 0
    for at, magnitude in enumerate(magnitudes.tolist()):
        total += magnitude
        if at - low == BATCH or (total >> PLANES and at > low):
            yield low, at
            low, total = at, magnitude
    if low < len(magnitudes):
        yield low, len(magnitudes)
