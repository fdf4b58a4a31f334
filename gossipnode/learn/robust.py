"""What a round's aggregate is when some of its models are lies: rules, each with its paper and what it withstands.

Of n models f lie, at will and knowing the others. All rules but the two by coordinates see only the models' distances,
and give coefficients: the aggregate is their combination, so one pass over d measures and one combines. Each model has
one vote: a weight is a claim of its trainer's. Invariant: the same distances give the same coefficients on every
machine. Sums are sequential, roots and quotients IEEE's, no logarithm or BLAS; what is tied is decided by the order of
the models. Distances stay exact enough for one model a billion times larger than the rest, which is refused elsewhere.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from gossipnode.learn.encoding import Vector
from gossipnode.learn.models import Doubles, Models

STEPS: Final = 200  # of Weiszfeld's iteration, which is done earlier where coefficients stand still
STILL: Final = 1e-12
SMOOTHING: Final = 1e-4  # of what holds most models: nearer than that, no model draws the median any harder
SWEEPS: Final = 12  # of Jacobi's rotations: six reach the last bit of a matrix of twenty


# -- by coordinates ---------------------------------------------------------------------------------------------------


def coordinate_median(models: Models, mixing: Doubles | None = None) -> Vector:
    """Yin et al., 2018 (arXiv 1803.01498). Withstands f < n / 2."""
    return models.middle((models.n - 1) // 2, models.n // 2 + 1, mixing)


def trimmed_mean(models: Models, byzantine: int, mixing: Doubles | None = None) -> Vector:
    """Yin et al., 2018: without the f largest and the f smallest of each coordinate. Withstands f < n / 2."""
    return models.middle(byzantine, models.n - byzantine, mixing)


# -- by distances: coefficients from squared distances (n, n) ---------------------------------------------------------


def multi_krum(squared: Doubles, byzantine: int) -> Doubles:
    """Blanchard et al., 2017 (arXiv 1703.02757): the mean of the n - f models that lie closest to their n - f nearest,
    themselves among them. So counted (Allouah et al., 2023, arXiv 2302.01772) it withstands f < n / 2; the first paper
    counts n - f - 2 neighbours and proves 2 f + 2 < n."""
    kept = len(squared) - byzantine
    scores = sums(np.sort(squared, axis=1)[:, :kept])
    coefficients = np.zeros(len(squared))
    coefficients[np.argsort(scores, kind="stable")[:kept]] = 1 / kept
    return coefficients


def geometric_median(squared: Doubles) -> Doubles:
    """Whose summed distance to all models is least: Weiszfeld, 1937, smoothed as in RFA (Pillutla et al., 2019, arXiv
    1912.13445). Withstands f < n / 2."""
    coefficients, radius = majority(squared)
    if radius == 0:
        return coefficients  # most models are the same one
    for _ in range(STEPS):
        inverse = 1 / np.maximum(np.sqrt(squared_to(squared, coefficients)), SMOOTHING * radius)
        before, coefficients = coefficients, inverse / sums(inverse)
        if np.abs(coefficients - before).max() <= STILL:
            break
    return coefficients


def majority(squared: Doubles) -> tuple[Doubles, float]:
    """The mean of those in the smallest ball about a model that holds more than half of all, and the ball's radius: a
    start and a scale that a minority cannot choose."""
    held = len(squared) // 2 + 1
    reach = np.sort(squared, axis=1)[:, held - 1]
    middle = int(np.argmin(reach))
    coefficients = np.zeros(len(squared))
    coefficients[np.argsort(squared[middle], kind="stable")[:held]] = 1 / held
    return coefficients, math.sqrt(reach[middle])


def centred_clipping(squared: Doubles, radius: float | None = None, steps: int = 1) -> Doubles:
    """Karimireddy et al., 2021 (arXiv 2012.10333): the centre, which is the last row, and the mean of what the models
    differ from it, each cut to `radius` (None: the median length, so that no scale need be known). One model moves it
    by radius / n at most. Proven for f <= n / 10 from a good centre; by its construction it breaks at f >= n / 2."""
    n = len(squared) - 1
    coefficients: Doubles = np.eye(n + 1)[n]
    for step in range(steps):
        lengths = np.sqrt(squared[:n, n] if step == 0 else squared_to(squared, coefficients)[:n])
        limit = median(lengths) if radius is None else radius
        factors = np.minimum(1.0, limit / np.where(lengths > 0, lengths, np.inf))
        factors[lengths == 0] = 1.0
        coefficients *= 1 - sums(factors) / n
        coefficients[:n] += factors / n
    return coefficients


def flag(squared: Doubles) -> Doubles:
    """The Flag Aggregator (arXiv 2302.05865) of the models' differences from the centre, the last row: the mean of unit
    vectors projected on the ceil((n + 1) / 2) directions in which they agree most, times their median length. This is
    what its authors' code computes in its one iteration, from the Gram matrix of n x n; more iterations lock on single
    models. f liars move it by f / n of the length; liars who share a direction are not projected out: no f is proven.
    """
    n = len(squared) - 1
    lengths = np.sqrt(squared[:n, n])
    used = np.flatnonzero(lengths > 0)
    coefficients: Doubles = np.eye(n + 1)[n]
    if len(used) == 0:
        return coefficients
    unit = gram(squared)[np.ix_(used, used)] / lengths[used] / lengths[used, None]
    agreed = _projected_sum(unit, (len(used) + 2) // 2) / n * median(lengths) / lengths[used]
    coefficients[used] = agreed
    coefficients[n] = 1 - sums(agreed)
    return coefficients


def _projected_sum(unit: Doubles, rank: int) -> Doubles:
    """V V' 1 for the first `rank` eigenvectors V: the coefficients of all columns' projections, summed."""
    from gossipnode.learn.kernels import robust as kernels

    values, vectors = kernels.eigen(unit, SWEEPS)
    first = vectors[:, np.argsort(-values, kind="stable")[:rank]]
    return sums(first * sums(first.T))


# -- before another rule ----------------------------------------------------------------------------------------------


def nearest_neighbours(squared: Doubles, byzantine: int) -> Doubles:
    """NNM (Allouah et al., 2023, arXiv 2302.01772): each model gives way to the mean of its n - f nearest, itself among
    them; the rows of this matrix are their coefficients. It makes every rule that withstands f < n / 2 do so at the
    best rate, and is what lets rules by coordinates stand data that differ from node to node."""
    n = len(squared)
    mixing = np.zeros((n, n))
    nearest = np.argsort(squared, axis=1, kind="stable")[:, : n - byzantine]
    np.put_along_axis(mixing, nearest, 1 / (n - byzantine), axis=1)
    return mixing


def mixed_squares(squared: Doubles, mixing: Doubles) -> Doubles:
    """Squared distances of the rows of M X, if rows of M sum to one: Q_ij - (Q_ii + Q_jj) / 2 of Q = M D M'."""
    q = product(product(mixing, squared), mixing.T)
    own = np.diag(q) / 2
    return np.maximum(q - own - own[:, None], 0.0)


# -- small algebra, whose bits no library decides ---------------------------------------------------------------------


def sums(values: Doubles) -> Doubles:
    """Over the last axis, from its first to its last."""
    total: Doubles = np.add.accumulate(values, axis=-1)[..., -1]
    return total


def product(a: Doubles, b: Doubles) -> Doubles:
    """Of matrices (m, k) and (k, n)."""
    total = np.zeros((len(a), b.shape[1]))
    for column, row in zip(a.T, b, strict=True):
        total += column[:, None] * row
    return total


def squared_to(squared: Doubles, coefficients: Doubles) -> Doubles:
    """From each model to a combination of them whose coefficients sum to one, (n,)."""
    reach = sums(squared * coefficients)
    return np.maximum(reach - sums(coefficients * reach) / 2, 0.0)


def gram(squared: Doubles) -> Doubles:
    """Inner products of all models' differences from the last."""
    n = len(squared) - 1
    to_centre = squared[:n, n]
    return (to_centre + to_centre[:, None] - squared[:n, :n]) / 2


def median(values: Doubles) -> float:
    ordered = np.sort(values)
    return math.fsum(ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]) / (2 - len(ordered) % 2)
