"""Variance-corrected averaging (Vanishing Variance, arXiv 2404.04616): a mean of models that have not yet found each
other, which does not shrink.

The mean of n uncorrelated models has 1 / n of their variance, and training starts again from too small weights; so each
tensor is stretched about its mean until its variance is that of the models. Two guards that the paper lacks: the target
is the median of the models' variances, so that no minority steers it, and the stretch stays between 1/2 and sqrt(n),
the most that averaging can have shrunk (the authors saw a factor of 1.01 too much end in NaN). Models that agree have a
stretch of one. It withstands no liar: its directions are the mean's. Same bits everywhere, as `learn.merge`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from gossipnode.learn.encoding import Vector
from gossipnode.learn.models import SLAB, Models, spread
from gossipnode.learn.robust import median

LEAST: Final = 0.5


def corrected_mean(models: Models, weights: Sequence[int], lengths: Sequence[int]) -> Vector:
    """The weighted mean, each tensor stretched; tensors of `lengths` follow each other, those beyond d are not ours."""
    out = models.combined(weights, float(sum(weights)))
    low = 0
    for length in lengths:
        if low == models.d:
            break
        variances = models.span(low, low + length).spreads()[:, 1]
        centre, variance = spread(out, low, low + length)
        stretch_about(out[low : low + length], centre, factor(median(variances), variance, models.n))
        low += length
    return out


def factor(target: float, variance: float, n: int) -> float:
    """Of the deviations of a mean of n models, whose own variance is `variance`."""
    if variance == 0.0:
        return 1.0
    return min(max(math.sqrt(target / variance), LEAST), math.sqrt(n))


def stretch_about(values: Vector, centre: float, by: float) -> None:
    """In place."""
    for low in range(0, len(values), SLAB):
        part = values[low : low + SLAB]
        part[:] = (part.astype(np.float64) - centre) * by + centre
