"""Bristle's integrator (Verbraeken et al., 2021, arXiv 2110.11006): merging output layers class by class.

For models whose other layers are frozen and equal. A node tries each output layer on a few examples of the classes that
it has itself (the familiar ones): a row for a familiar class counts by how well it did there, rows for foreign classes
by how well their model did in all, and a model that does worse than our own counts next to nothing. Invariant: the
result depends on this node's own examples, so it is never an aggregate that others could make again. The paper's text
leaves open what a worse score does; here, as in a public re-implementation, it is taken for minus infinity.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

CERTAIN: Final = 3  # phi: the best familiar classes by which a model's certainty is judged
FLOOR: Final = 1e-3  # no row counts less


def integrated(rows: Doubles, f1: Doubles, familiar: NDArray[np.bool_]) -> Doubles:
    """The new output layer (C, w), of `rows` (1 + n, C, w), our own first: weights and bias of each class. `f1`
    (1 + n, F): each model's F1 in our familiar classes, in the order in which `familiar` (C,) names them."""
    assert f1.shape == (len(rows), np.count_nonzero(familiar))
    certainty = certainties(f1)
    gains = np.where(f1 >= f1[0], (10 * (f1 - f1[0])) ** 3, -np.inf)[1:]  # (n, F)
    weights = np.empty(rows.shape[:2])  # (1 + n, C)
    weights[0] = max(certainty[0], 1 / max(len(rows) - 1, 1))
    weights[1:, familiar] = preference(gains) * certainty[1:, None]
    weights[1:, ~familiar] = (preference(gains.sum(axis=1)) * certainty[1:])[:, None]
    merged: Doubles = (weights[:, :, None] * rows).sum(axis=0) / weights.sum(axis=0)[:, None]
    return merged


def certainties(f1: Doubles) -> Doubles:
    """Mean less deviation of each model's best familiar classes, (1 + n,)."""
    best = np.sort(f1, axis=1)[:, -CERTAIN:]
    certain: Doubles = np.maximum(best.mean(axis=1) - best.std(axis=1), 0.0)
    return certain


def preference(gain: Doubles) -> Doubles:
    """1 where a model does as well as ours, nearly 6 where it does far better, next to nothing where it does worse."""
    return np.maximum(FLOOR, 10 / (1 + np.exp(-gain / 100)) - 4)
