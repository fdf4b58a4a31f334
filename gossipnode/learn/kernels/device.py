"""The same sums on a GPU, in torch's int64 operations, which wrap around as C's do: A and theta0 stay on the device.

`words`, `bits` and `DeviceAccumulator` give on any device what `signs`, `reference_sum` and the host's kernels give; a
test compares them on whatever there is. Records are added in groups, so that the scratch stays within SCRATCH elements.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossipnode.learn.encoding import Buffer
from gossipnode.learn.kernels.accumulator import LARGEST, OVERFLOW, Bound, elements
from gossipnode.learn.kernels.signs import GAMMA, MIX1, MIX2, WORD, Floats, Words
from verify.digest import Digest, digest_of

SCRATCH: Final = 2**24  # int64 elements of the words that are made at once: 128 MiB, and as much again to unpack them


def signed(value: int) -> int:
    """The int64 with these 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def words(seeds: Tensor, first: int, count: int) -> Tensor:
    """Words first .. first + count of each stream, (n, count) int64, for seeds (n,) int64 that hold unsigned bits."""
    index = torch.arange(first + 1, first + 1 + count, device=seeds.device)
    x = seeds[:, None] + index[None, :] * signed(GAMMA)
    x = (x ^ _shifted(x, 30)) * signed(MIX1)
    x = (x ^ _shifted(x, 27)) * signed(MIX2)
    return x ^ _shifted(x, 31)


def bits(stream: Tensor) -> Tensor:
    """0 or 1 for each parameter: (count,) words to (64 count,) int64."""
    places = torch.arange(WORD, device=stream.device)
    return ((stream[:, None] >> places) & 1).reshape(-1)  # the sign that an arithmetic shift brings in is masked out


def add(a: Tensor, seeds: Tensor, coefficients: Tensor) -> None:
    """a += sum c z(seed); a (d,) int32, the others (n,) int64 on its device."""
    for some, c in zip(torch.split(seeds, 512), torch.split(coefficients, 512), strict=True):
        step = max(SCRATCH // len(some), 1)
        for first in range(0, -(-len(a) // WORD), step):
            piece = a[first * WORD : (first + step) * WORD]
            stream = words(some, first, -(-len(piece) // WORD))
            sums = torch.empty((stream.shape[1], WORD), dtype=torch.int32, device=a.device)
            for place in range(WORD):
                counted = (((stream >> place) & 1) * c[:, None]).sum(0)
                sums[:, place] = 2 * counted - c.sum()
            piece += sums.reshape(-1)[: len(piece)]


class DeviceAccumulator:
    """An `Accumulator` whose A is a tensor beside the model."""

    def __init__(self, theta0: Floats, quantum: float, device: torch.device) -> None:
        self._theta0 = torch.from_numpy(theta0.copy()).to(device)
        self._quantum = quantum
        self.a = torch.zeros(len(theta0), dtype=torch.int32, device=device)
        self._bound = Bound()

    def add(self, seeds: Words, coefficients: NDArray[np.int64]) -> None:
        if not self._bound.grow(coefficients):
            self._bound.value = self._largest()
            assert self._bound.grow(coefficients), OVERFLOW
        device = self.a.device
        add(self.a, torch.from_numpy(seeds.view(np.int64)).to(device), torch.from_numpy(coefficients).to(device))

    def perturb(self, out: Tensor, seed: int, eps: float) -> None:
        self.materialise(out)
        one = torch.tensor([signed(seed)], device=self.a.device)
        step = SCRATCH // WORD
        for first in range(0, -(-len(out) // WORD), step):
            piece = out[first * WORD : (first + step) * WORD]
            z = bits(words(one, first, -(-len(piece) // WORD))[0])[: len(piece)] * 2 - 1
            piece += z.to(torch.float32) * float(np.float32(eps))

    def materialise(self, out: Tensor) -> None:
        torch.mul(self.a, self._quantum, out=out)
        out += self._theta0

    def digest(self) -> Digest:
        return digest_of(self.snapshot())

    def snapshot(self) -> bytes:
        return self.a.cpu().numpy().astype("<i4", copy=False).tobytes()

    def restore(self, snapshot: Buffer) -> None:
        self.a.copy_(torch.from_numpy(elements(snapshot, len(self.a)).astype(np.int32)))
        self._bound.value = self._largest()

    def _largest(self) -> int:
        found = max(int(self.a.max()), -int(self.a.min()))
        assert found <= LARGEST
        return found


def _shifted(x: Tensor, places: int) -> Tensor:
    """A logical shift to the right: torch's own is arithmetic."""
    low: int = 2 ** (64 - places) - 1
    return (x >> places) & low
