"""Merging low-rank adapters of different ranks without loss: FLoRA (Wang et al., 2024, arXiv 2409.05976).

The mean of A's times the mean of B's is not the mean of the products B A; stacked, they are exactly that: with the rows
of A_k scaled by p_k, [B_1 ... B_K] [p_1 A_1; ...; p_K A_K] = sum p_k B_k A_k, whatever the ranks. The stack is added to
the frozen weights and everybody begins with fresh adapters. Invariant: sums in float64, in the order of the adapters
and, within one, of its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """Adds b a to a weight of (outputs, inputs)."""

    a: Matrix  # (rank, inputs)
    b: Matrix  # (outputs, rank)

    def __post_init__(self) -> None:
        assert self.b.shape[1] == self.a.shape[0] > 0

    @property
    def rank(self) -> int:
        return len(self.a)


def stacked(adapters: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """Of the summed rank; p_k = weight_k / sum(weights)."""
    total = sum(weights)
    rows = [each.a.astype(np.float64) * (weight / total) for each, weight in zip(adapters, weights, strict=True)]
    return Adapter(np.concatenate(rows).astype(np.float32), np.concatenate([each.b for each in adapters], axis=1))


def folded(weight: Matrix, adapter: Adapter) -> Matrix:
    """weight + b a, rounded once."""
    total = weight.astype(np.float64)
    for column, row in zip(adapter.b.T.astype(np.float64), adapter.a.astype(np.float64), strict=True):
        total += column[:, None] * row
    return total.astype(np.float32)
