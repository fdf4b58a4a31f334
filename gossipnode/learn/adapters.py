"""Merging low-rank adapters by what they add, not by their factors: FLoRA (Wang et al., 2024, arXiv 2409.05976).

The mean of A's times the mean of B's is not the mean of the products B A; stacked, they are exactly that: with the rows
of A_k scaled by p_k, [B_1 ... B_K] [p_1 A_1; ...; p_K A_K] = sum p_k B_k A_k, whatever the ranks. The paper folds the
stack into the frozen weights and begins anew; here these do not travel, so it is brought back to the rank R of the run
by the nearest matrix of that rank (Eckart and Young, 1936), which is the stack itself if its rank is no more than R.
Invariant: no matrix of outputs x inputs is ever made, and the same adapters give the same bits on every machine.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gossipnode.learn.encoding import Vector
from gossipnode.learn.models import Doubles, Models, Row
from gossipnode.learn.robust import product, sums

Layout: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]

DOWN, UP = ".down", ".up"  # how the names of A and B end
NOISE: Final = 2.0**-20  # of the largest singular value: what is less may be the rounding of float32
LARGEST: Final = 2.0**127  # fits every encoding


@dataclass(frozen=True)
class Adapter:
    """Adds b a to a weight of (outputs, inputs)."""

    a: NDArray[np.floating]  # (rank, inputs)
    b: NDArray[np.floating]  # (outputs, rank)

    def __post_init__(self) -> None:
        assert self.b.shape[1] == self.a.shape[0] > 0

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Pair:
    """Where an adapter lies in a model's vector."""

    rank: int
    a: slice
    b: slice

    def adapter(self, row: Row) -> Adapter:
        return Adapter(row[self.a].reshape(self.rank, -1), row[self.b].reshape(-1, self.rank))

    def put(self, vector: Vector, adapter: Adapter) -> None:
        for part, values in ((self.a, adapter.a), (self.b, adapter.b)):
            vector[part] = np.clip(values, -LARGEST, LARGEST).ravel()


def pairs(layout: Layout) -> Iterator[Pair]:
    """The adapters of a model: what trainable() calls NAME.down, (rank, inputs), and NAME.up, (outputs, rank)."""
    ends = list(itertools.accumulate(int(np.prod(shape)) for _, shape in layout))
    where = {name: (shape, slice(low, end)) for (name, shape), low, end in zip(layout, [0, *ends], ends, strict=False)}
    for name, (shape, a) in where.items():
        if name.endswith(DOWN) and (up := where.get(name.removesuffix(DOWN) + UP)):
            (other, b), rank = up, shape[0] if shape else 0
            if len(shape) == len(other) == 2 and other[1] == rank:
                yield Pair(rank, a, b)


def flora(models: Models, weights: Sequence[int], pair: Pair, mean: Vector) -> Adapter:
    """Of the pair's rank, nearest to sum p_k B_k A_k. `mean` of the models: what has nothing to say begins from it."""
    adapters = [pair.adapter(row) for row in models.rows]
    squares = [math.fsum(sums(each.a.astype(np.float64) ** 2)) for each in adapters]  # |A_k|^2
    square = math.fsum(map(operator.mul, squares, weights)) / sum(weights) / pair.rank
    return lowered(stacked(adapters, weights), pair.adapter(mean).a, math.sqrt(square))


def stacked(adapters: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """Of the summed rank, in float64; p_k = weight_k / sum(weights)."""
    total = sum(weights)
    rows = [each.a.astype(np.float64) * (weight / total) for each, weight in zip(adapters, weights, strict=True)]
    return Adapter(np.concatenate(rows), np.concatenate([each.b.astype(np.float64) for each in adapters], axis=1))


def lowered(adapter: Adapter, fresh: NDArray[np.floating], length: float) -> Adapter:
    """The nearest of the rank of `fresh` (R, inputs), by falling singular values: A' = length V', B' = U S / length.

    `length` is that of the rows of A as they came: how fast a component learns goes by it, so that a merge that shared
    S out evenly would slow down all that are still small. Components that the product lacks are as in a fresh adapter,
    whose B is zero: with both factors zero neither could ever learn.
    """
    u, s, v = svd(adapter, len(fresh))
    rank = int(np.count_nonzero(s > NOISE * s[0]))
    a, b = fresh.astype(np.float64), np.zeros((len(u), len(fresh)))
    a[:rank], b[:, :rank] = length * v[:, :rank].T, u[:, :rank] * s[:rank] / length
    return Adapter(a, b)


def svd(adapter: Adapter, most: int) -> tuple[Doubles, Doubles, Doubles]:
    """U (outputs, l), S (l,), V (inputs, l) of b a, for the `most` largest singular values, from the QR of both factors
    and the SVD of a small core. Without a value, columns mean nothing. The largest entry of each of V is positive."""
    from gossipnode.learn.kernels import lowrank

    left, core_left = lowrank.qr(np.ascontiguousarray(adapter.b))
    right, core_right = lowrank.qr(np.ascontiguousarray(adapter.a.T))
    core = product(core_left, core_right.T)
    scale = float(np.abs(core).max())
    rows, turned = lowrank.orthogonalised(core / (scale or 1.0))
    s = np.sqrt(sums(rows * rows))
    order = np.argsort(-s, kind="stable")[: min(*core.shape, most)]
    s, u = s[order], product(left, turned[order].T)
    v = product(right, rows[order].T) / np.where(s > 0, s, 1.0)
    signs = np.where(np.take_along_axis(v, np.abs(v).argmax(0)[None], 0) < 0, -1.0, 1.0)
    return u * signs, s * scale, v * signs
