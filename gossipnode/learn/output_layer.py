"""Where a run's models have their output layer, for rules that merge it class by class (`gossipnode.learn.bristle`).

A task has one if nothing else is trained: one weight of (classes, width) and one bias of (classes,). What each model is
worth is tried on a few held-out examples of the classes that a node has itself. Invariant: rows, then vector, is the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from gossipnode.learn.bristle import Doubles
from gossipnode.learn.encoding import Template, Vector
from gossipnode.learn.task import Data

EXAMPLES: Final = 10  # of each class (kappa)


@dataclass(frozen=True)
class OutputLayer:
    """Two parts of the vector: `weight` of classes x width values, `bias` of classes."""

    classes: int
    weight: slice
    bias: slice

    @classmethod
    def of(cls, template: Template) -> OutputLayer | None:
        """None: more is trained, or something else."""
        shapes = [shape for _, shape in template.layout]
        if sorted(map(len, shapes)) != [1, 2] or len({shape[0] for shape in shapes}) != 1:
            return None
        first, whole = template.lengths[0], template.parameters
        parts = {len(shapes[0]): slice(0, first), len(shapes[1]): slice(first, whole)}
        return cls(shapes[0][0], weight=parts[2], bias=parts[1])

    def rows(self, vector: Vector) -> Doubles:
        """(C, width + 1)"""
        weight = vector[self.weight].reshape(self.classes, -1)
        return np.concatenate([weight, vector[self.bias, None]], axis=1).astype(np.float64)

    def vector(self, rows: Doubles) -> Vector:
        found = np.empty(rows.size, dtype=np.float32)
        found[self.weight], found[self.bias] = rows[:, :-1].ravel(), rows[:, -1]
        return found


def familiar(data: Data, classes: int) -> list[int]:
    """Classes of which a node has as many examples as are looked at; or those it has most of."""
    counts = np.bincount(data.pool[-1][data.rows].cpu().numpy(), minlength=classes)
    return [int(label) for label in np.flatnonzero(counts >= min(EXAMPLES, counts.max()))]


def examples(data: Data, labels: list[int]) -> tuple[torch.Tensor, ...]:
    """The first EXAMPLES held-out ones of each class."""
    rows = [torch.nonzero(data.test[-1] == label)[:EXAMPLES, 0] for label in labels]
    return tuple(tensor[torch.cat(rows)] for tensor in data.test)


def f1_scores(said: torch.Tensor, true: torch.Tensor, labels: list[int]) -> Doubles:
    """Of each class: 2 TP / (2 TP + FP + FN), (F,)."""
    hits = [float(((said == label) & (true == label)).sum()) for label in labels]
    named = [float((said == label).sum() + (true == label).sum()) for label in labels]
    return np.array([2 * hit / count if count else 0.0 for hit, count in zip(hits, named, strict=True)])
