"""Simultaneous perturbation (SPSA; MeZO, arXiv 2305.17333) with one byte a probe: losses in, bytes out, sums in.

A probe measures the slope of the loss along z, g = (L(theta + eps z) - L(theta - eps z)) / (2 eps), each on a batch of
its own. Its byte is -127 g / clip, rounded to the nearest whole number (halves to the even one) and held to -127..127:
how far to go along z. Only the byte is shared, so the losses may differ in their last bits between machines; theta may
not, and does not: it is theta0 + quantum A, where A is a sum of integers (`kernels.accumulator`).

Probes run in evaluation mode. Buffers (a batch norm's statistics) stay what theta0 has: no byte could carry a change,
so a loss that changes them is refused.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossipnode.learn.accountant import Privacy
from gossipnode.learn.encoding import Buffer, Vector
from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.accumulator import Accumulator, HostAccumulator
from gossipnode.learn.kernels.device import DeviceAccumulator
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Accumulated, Floats, Words
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


_CHANCE: Final = secrets.SystemRandom()


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
        privacy: Privacy | None = None,
        a: Accumulated | None = None,
    ) -> None:
        """`theta0`: all that is trainable, (P,). `a`: zeros, perhaps a memory map, to hold A (G,) <= (P,), on a CPU.
        Raises LearnerError."""
        self.flat, self.rules, self.data, self.privacy = flat, rules, data, privacy
        self._task = task
        if len(flat.learned) == 0:
            raise LearnerError("trainable() names only buffers: one-byte training needs parameters")
        flat.load(theta0)
        self._buffers = theta0[len(flat.learned) :].copy()
        self._a = _accumulator(flat, theta0[: len(flat.learned)].copy(), rules.quantum, threads, a)

    def probe(self, seeds: Sequence[int], batch_seed: int, *, stop: Callable[[], bool] = never) -> Probed:
        """A byte for each seed. Raises LearnerError, whatever the task raises, and Stopped if `stop()` says so between
        two probes. With privacy, the batches come from the operating system's chance and `batch_seed` is unused."""
        if len(self.data.rows) == 0:
            raise LearnerError("this node has no examples to train on")
        draw = torch.Generator().manual_seed(batch_seed % 2**63)
        self.flat.model.eval()
        buffers = _versions(self.flat)
        slopes, losses = [], []
        try:
            for seed in seeds:
                if stop():
                    raise Stopped("stopped between two probes")
                if self.privacy is None:
                    slope, loss = self._slope(seed, self._batch(draw))
                else:
                    slope, loss = self._private_slope(seed, self._secret_batch(), self.privacy)
                slopes.append(slope)
                losses.append(loss)
        finally:
            self._a.materialise(self.flat.learned)
        if _versions(self.flat) != buffers:
            raise LearnerError("loss() changes a buffer of the model in evaluation mode: a byte cannot carry that")
        scalars, saturated = to_bytes(slopes, self.rules.clip)
        return Probed(scalars, math.fsum(losses) / len(losses), saturated)

    @contextlib.contextmanager
    def lent(self, data: Data) -> Iterator[None]:
        """Another's examples in place of ours: they are public, so no noise hides them."""
        own = self.data, self.privacy
        self.data, self.privacy = data, None
        try:
            yield
        finally:
            self.data, self.privacy = own

    def example_slopes(self, seed: int, batch: Batch) -> Tensor:
        """What each example would say of z(seed) here, (B,): what an observer can work out for examples it has."""
        self.flat.model.eval()
        try:
            return self._example_slopes(seed, batch)[0]
        finally:
            self._a.materialise(self.flat.learned)

    def add(self, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        """A += sum c z(seed), (n,) each; the negated coefficients take it back. c = multiplier * byte."""
        self._a.add(seeds, coefficients)
        self._a.materialise(self.flat.learned)

    def settle(self) -> None:
        """The model is at theta again, buffers and all, whoever else has used it."""
        self.flat.vector[len(self.flat.learned) :].copy_(torch.from_numpy(self._buffers))
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
        chosen = torch.randperm(len(self.data.rows), generator=draw)[: self.rules.batch]
        return self._examples(chosen)

    def _secret_batch(self) -> Batch:
        """Each example for itself, so that `batch` of them are drawn on average: what the accountant counts on."""
        rate = self.rules.batch / len(self.data.rows)
        chances = np.random.default_rng(secrets.randbits(128)).random(len(self.data.rows))
        return self._examples(torch.from_numpy(np.flatnonzero(chances < rate)))

    def _examples(self, chosen: Tensor) -> Batch:
        rows = self.data.rows[chosen.to(self.data.rows.device)]
        return tuple(tensor[rows] for tensor in self.data.pool)

    @torch.no_grad()
    def _slope(self, seed: int, batch: Batch) -> tuple[float, float]:
        """Along z(seed), and the mean of the two losses."""
        there = self._loss(seed, self.rules.eps, batch)
        back = self._loss(seed, -self.rules.eps, batch)
        return (there - back) / (2 * self.rules.eps), (there + back) / 2

    def _loss(self, seed: int, eps: float, batch: Batch) -> float:
        self._a.perturb(self.flat.learned, seed, eps)
        return _finite(float(self._task.loss(self.flat.model, batch)))

    def _private_slope(self, seed: int, batch: Batch, privacy: Privacy) -> tuple[float, float]:
        """Each example's slope is clipped, so that noise of sigma clips hides whether it was there."""
        slopes, losses = self._example_slopes(seed, batch)
        loss = _finite(float(losses.sum()) / max(len(losses), 1))
        total = float(slopes.clamp(-privacy.example_clip, privacy.example_clip).sum())
        noise = _CHANCE.gauss(0.0, privacy.sigma * privacy.example_clip)
        return (total + noise) / min(self.rules.batch, len(self.data.rows)), loss

    @torch.no_grad()
    def _example_slopes(self, seed: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of each example alone, and its loss; (B,) each."""
        self._a.perturb(self.flat.learned, seed, self.rules.eps)
        there = example_losses(self._task, self.flat.model, batch).double()
        self._a.perturb(self.flat.learned, seed, -self.rules.eps)
        back = example_losses(self._task, self.flat.model, batch).double()
        return (there - back) / (2 * self.rules.eps), (there + back) / 2


def example_losses(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of each example alone, (B,): all at once where the task's operations can, else one after the other."""

    def alone(*example: Tensor) -> Tensor:
        return task.loss(model, tuple(tensor.unsqueeze(0) for tensor in example))

    if len(batch[0]) == 0:
        return torch.zeros(0, device=batch[0].device)
    try:
        losses: Tensor = torch.func.vmap(alone, randomness="different")(*batch)
    except RuntimeError:  # an operation that has no batched form, or whose course depends on the values
        losses = torch.stack([alone(*example) for example in zip(*batch, strict=True)])
    return losses


def to_bytes(slopes: Sequence[float], clip: float) -> tuple[bytes, int]:
    """The byte of each slope, and how many slopes were beyond the clip."""
    scaled = np.rint(np.asarray(slopes) * (-LEVELS / clip))
    saturated = int((np.abs(np.asarray(slopes)) > clip).sum())
    return np.clip(scaled, -LEVELS, LEVELS).astype(np.int8).tobytes(), saturated


def from_bytes(scalars: Buffer) -> NDArray[np.int64]:
    """Signed numbers; -128 among them means that the bytes are not from `to_bytes`."""
    return np.frombuffer(scalars, dtype=np.int8).astype(np.int64)


def _accumulator(flat: Flat, theta0: Floats, quantum: float, threads: int, a: Accumulated | None) -> Accumulator:
    """Beside the model."""
    if flat.vector.device.type == "cpu":
        return HostAccumulator(theta0, quantum, Host(threads), a)
    assert a is None, "A on a device cannot be a memory map"
    return DeviceAccumulator(theta0, quantum, flat.vector.device)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise LearnerError(f"the loss became {loss}; a lower multiplier may help")
    return loss


def _versions(flat: Flat) -> list[int]:
    """Torch counts the changes made to each tensor in place."""
    return [buffer._version for buffer in flat.model.buffers()]
