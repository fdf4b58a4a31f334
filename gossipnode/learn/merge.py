"""The mean of several models, weighted by examples: what an aggregator does (FedAvg, arXiv 1602.05629, step 3).

Invariant: the same vectors and weights in the same order give the same bits on every machine, at any number of threads,
so that aggregators of one round agree by digest. Sums run in float64, one model after the other, by numpy's elementwise
operations (never fused, never reordered), and are rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossipnode.learn.encoding import Vector

CHUNK = 65_536  # values at a time: half a megabyte of float64 stays in the cache, and memory is bounded for any model


def merge(models: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """sum(weight * model) / sum(weight); all models (P,), at least one, all weights positive."""
    assert len(models) == len(weights) > 0
    assert all(weight > 0 for weight in weights)
    mean = np.empty_like(models[0], subok=False)
    total = np.float64(sum(weights))
    for start in range(0, len(mean), CHUNK):
        part = slice(start, start + CHUNK)
        summed = models[0][part].astype(np.float64) * weights[0]
        for model, weight in zip(models[1:], weights[1:], strict=True):
            summed += model[part].astype(np.float64) * weight
        mean[part] = summed / total
    return mean
