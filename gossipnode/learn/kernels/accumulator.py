"""A: the int32 sum that one-byte training adds to, and the theta0 that it is relative to. theta = theta0 + quantum A.

The digest of A is the BLAKE2b-256 of its elements as little-endian int32, so it is also the content address of a
snapshot. Invariant: no |A_i| exceeds 2^31 - 1. The manifest's range check promises it; here it is asserted, by a bound
that grows with every addition and is measured anew only when it would pass the limit. A may be a memory map: the
kernels go through it block by block, once a call, so a sum larger than the memory is read and written as a file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gossipnode.learn.encoding import Buffer
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Accumulated, Floats, Words
from protocols.learner import Unfit
from verify.digest import Digest, digest_of

if TYPE_CHECKING:
    from torch import Tensor

LARGEST: Final = 2**31 - 1
OVERFLOW: Final = "A could overflow: the manifest's bound on the coefficients must not allow this"


class Accumulator(Protocol):
    """Where A lives: in this process's memory, or on a device."""

    def add(self, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        """A += sum c z(seed), exactly, whatever the order; (n,) each. Negated coefficients take it back."""

    def perturb(self, out: Tensor, seed: int, eps: float) -> None:
        """out = theta0 + quantum A + eps z(seed), (d,)."""

    def materialise(self, out: Tensor) -> None:
        """out = theta0 + quantum A, (d,)."""

    def digest(self) -> Digest: ...

    def snapshot(self) -> bytes:
        """What `digest` is the digest of: 4 d bytes."""

    def restore(self, snapshot: Buffer) -> None:
        """Raises Unfit."""


class Bound:
    """At least as large as every |A_i|."""

    def __init__(self) -> None:
        self.value = 0

    def grow(self, coefficients: NDArray[np.int64]) -> bool:
        """Whether it still promises that nothing has overflowed."""
        self.value += int(np.abs(coefficients).sum())
        return self.value <= LARGEST


class HostAccumulator:
    """In memory, or in `a`, a memory map that the caller made. Owned by one thread at a time."""

    def __init__(self, theta0: Floats, quantum: float, host: Host, a: Accumulated | None = None) -> None:
        self._theta0, self._quantum, self._host = theta0, quantum, host
        self.a = np.zeros(len(theta0), dtype=np.int32) if a is None else a
        assert self.a.shape == theta0.shape
        self._bound = Bound()
        self._bound.value = largest(self.a)

    def add(self, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        if not self._bound.grow(coefficients):
            self._bound.value = largest(self.a)
            assert self._bound.grow(coefficients), OVERFLOW
        self._host.add(self.a, seeds, coefficients)

    def perturb(self, out: Tensor, seed: int, eps: float) -> None:
        self._host.perturb(_floats(out), self._theta0, self.a, quantum=self._quantum, seed=seed, eps=eps)

    def materialise(self, out: Tensor) -> None:
        self._host.materialise(_floats(out), self._theta0, self.a, quantum=self._quantum)

    def digest(self) -> Digest:
        return digest_of(_little(self.a).data.cast("B"))

    def snapshot(self) -> bytes:
        return _little(self.a).tobytes()

    def restore(self, snapshot: Buffer) -> None:
        self.a[:] = elements(snapshot, len(self.a))
        self._bound.value = largest(self.a)


def elements(snapshot: Buffer, length: int) -> NDArray[np.int32]:
    """Of a snapshot, not copied. Raises Unfit."""
    size = memoryview(snapshot).nbytes
    if size != 4 * length:
        raise Unfit(f"a snapshot of {size} bytes, where this run's have {4 * length}")
    found: NDArray[np.int32] = np.frombuffer(snapshot, dtype="<i4")
    if length and int(found.min()) < -LARGEST:
        raise Unfit("an element of the snapshot is below -(2^31 - 1)")
    return found


def largest(a: Accumulated) -> int:
    """max |A_i|."""
    return max(int(a.max()), -int(a.min())) if len(a) else 0


def _floats(out: Tensor) -> Floats:
    """A view: what is written to it is the tensor's."""
    values: Floats = out.detach().numpy()
    return values


def _little(a: Accumulated) -> NDArray[np.int32]:
    return np.ascontiguousarray(a, dtype="<i4")  # no copy where the machine is little-endian
