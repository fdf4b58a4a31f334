"""Simultaneous perturbation (SPSA; MeZO, arXiv 2305.17333) with one byte a probe: losses in, bytes out, sums in.

A probe measures the slope of the loss along z, g = (L(theta + eps z) - L(theta - eps z)) / (2 eps), each on a batch of
its own. Its byte is -127 g / clip, rounded to the nearest whole number (halves to the even one) and held to -127..127:
how far to go along z. Only the byte is shared, so the losses may differ in their last bits between machines; theta may
not, and does not: it is theta0 + quantum A, where A is a sum of integers (`kernels.accumulator`).

Probes run in evaluation mode. Buffers (a batch norm's statistics) stay what theta0 has: no byte could carry a change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gossipnode.learn.encoding import Buffer, Vector
from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.accumulator import Accumulator, HostAccumulator
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Accumulated, Words
from gossipnode.learn.rules import LEVELS, Rules
from gossipnode.learn.sgd import Stopped
from gossipnode.learn.task import Batch, Data, Task
from protocols.learner import LearnerError
from verify.digest import Digest


@dataclass(frozen=True, slots=True)
class Probed:
    """Of one origin in one step. The loss is for the operator's own eyes: it is not made to be published."""

    scalars: bytes  # K bytes, each a signed number in -127..127
    loss: float  # mean over the probes
    saturated: int  # probes whose slope was beyond the clip


def never() -> bool:
    return False


class Spsa:
    """Owns A, and the flat model that it was given: between calls that is at theta, within `probe` it is not."""

    def __init__(
        self,
        flat: Flat,
        task: Task,
        data: Data,
        theta0: Vector,
        rules: Rules,
        *,
        threads: int = 1,
        a: Accumulated | None = None,
    ) -> None:
        """`theta0`: all that is trainable, (P,). `a`: zeros, perhaps a memory map, to hold A (G,) <= (P,)."""
        self.flat, self.rules = flat, rules
        self._task, self._data = task, data
        flat.load(theta0)
        self._a: Accumulator = HostAccumulator(theta0[: len(flat.learned)].copy(), rules.quantum, Host(threads), a)

    def probe(self, seeds: Sequence[int], batch_seed: int, *, stop: Callable[[], bool] = never) -> Probed:
        """A byte for each seed. Raises LearnerError, and Stopped if `stop()` says so between two probes."""
        draw = torch.Generator().manual_seed(batch_seed % 2**63)
        self.flat.model.eval()
        slopes, losses = [], []
        try:
            for seed in seeds:
                if stop():
                    raise Stopped("stopped between two probes")
                slope, loss = self._slope(seed, self._batch(draw))
                slopes.append(slope)
                losses.append(loss)
        finally:
            self._a.materialise(self.flat.learned)
        scalars, saturated = to_bytes(slopes, self.rules.clip)
        return Probed(scalars, math.fsum(losses) / len(losses), saturated)

    def add(self, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        """A += sum c z(seed), (n,) each; the negated coefficients take it back. c = multiplier * byte."""
        self._a.add(seeds, coefficients)
        self._a.materialise(self.flat.learned)

    def digest(self) -> Digest:
        """BLAKE2b-256 of A as little-endian int32."""
        return self._a.digest()

    def snapshot(self) -> bytes:
        """A as little-endian int32: a blob whose digest is `digest()`."""
        return self._a.snapshot()

    def restore(self, snapshot: Buffer) -> None:
        """Raises Unfit."""
        self._a.restore(snapshot)
        self._a.materialise(self.flat.learned)

    def vector(self) -> Vector:
        """theta and the buffers, as `encode` takes them, (P,). A copy."""
        return self.flat.read().copy()

    def load_into(self, flat: Flat) -> None:
        """theta, into another model of the same task."""
        flat.load(self.flat.read())

    def _batch(self, draw: torch.Generator) -> Batch:
        rows = self._data.rows
        chosen = rows[torch.randperm(len(rows), generator=draw)[: self.rules.batch].to(rows.device)]
        return tuple(tensor[chosen] for tensor in self._data.pool)

    @torch.no_grad()
    def _slope(self, seed: int, batch: Batch) -> tuple[float, float]:
        """Along z(seed), and the mean of the two losses."""
        there = self._loss(seed, self.rules.eps, batch)
        back = self._loss(seed, -self.rules.eps, batch)
        return (there - back) / (2 * self.rules.eps), (there + back) / 2

    def _loss(self, seed: int, eps: float, batch: Batch) -> float:
        self._a.perturb(self.flat.learned, seed, eps)
        loss = float(self._task.loss(self.flat.model, batch))
        if not math.isfinite(loss):
            raise LearnerError(f"the loss became {loss}; a lower multiplier may help")
        return loss


def to_bytes(slopes: Sequence[float], clip: float) -> tuple[bytes, int]:
    """The byte of each slope, and how many slopes were beyond the clip."""
    scaled = np.rint(np.asarray(slopes) * (-LEVELS / clip))
    saturated = int((np.abs(np.asarray(slopes)) > clip).sum())
    return np.clip(scaled, -LEVELS, LEVELS).astype(np.int8).tobytes(), saturated


def from_bytes(scalars: Buffer) -> NDArray[np.int64]:
    """Signed numbers; -128 among them means that the bytes are not from `to_bytes`."""
    return np.frombuffer(scalars, dtype=np.int8).astype(np.int64)
