"""The passes of robust merging that numpy is too slow for: distances, order statistics, variances, and eigenvectors.

Invariant: the same bits on every machine. Every sum runs in float64 in the order written here, by IEEE additions and
multiplications that numba neither fuses nor reorders (no fastmath); comparators only choose. The lanes of a sum are
part of its definition: 256 partial sums, folded in halves, whatever the width of the vector unit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from verify.jit import jit

LANES: Final = 256  # partial sums of one distance: with these the additions wait for memory and not for each other
BLOCK: Final = 8 * LANES  # values of each model at a time: twenty models of float64 are 330 KB, a second-level cache
STRIP: Final = 1024  # values that are sorted at a time
Values = NDArray[np.float32]
Doubles = NDArray[np.float64]


@jit
def fold(lanes: Doubles) -> None:
    """Leave in the first lane the sum of all, by halves."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2


@jit
def square(lanes: Doubles, a: Doubles, b: Doubles) -> float:
    """|a - b|^2 of two blocks."""
    for lane in range(LANES):
        difference = a[lane] - b[lane]
        lanes[lane] = difference * difference
    for start in range(LANES, BLOCK, LANES):
        for lane in range(LANES):
            difference = a[start + lane] - b[start + lane]
            lanes[lane] += difference * difference
    fold(lanes)
    return float(lanes[0])


@jit
def moments(values: Values, origin: float) -> tuple[float, float]:
    """The sums of (x - origin) and of (x - origin)^2."""
    first, second = np.zeros(LANES), np.zeros(LANES)
    for start in range(0, len(values), LANES):
        for lane in range(min(LANES, len(values) - start)):
            difference = float(values[start + lane]) - origin
            first[lane] += difference
            second[lane] += difference * difference
    fold(first)
    fold(second)
    return float(first[0]), float(second[0])


@jit
def squares(part: Values, star: bool) -> Doubles:
    """Squared distances between all models of `part` (m, B), or with `star` only of each to the last: (m, m)."""
    m, length = part.shape
    found = np.zeros((m, m))
    block = np.zeros((m, BLOCK))
    lanes = np.empty(LANES)
    for start in range(0, length, BLOCK):
        count = min(BLOCK, length - start)
        for i in range(m):
            for at in range(count):
                block[i, at] = part[i, start + at]
            block[i, count:] = 0.0
        for i in range(m):
            for j in range(m - 1 if star else i + 1, m):
                found[i, j] += square(lanes, block[i], block[j])
    for i in range(m):
        for j in range(i + 1, m):
            found[j, i] = found[i, j]
    return found


@jit
def middle(part: Values, network: NDArray[np.int64], low: int, high: int, out: Values) -> None:
    """Of each coordinate of `part` (n, B), the mean of what is at the places low .. high - 1 in order; sorts `part`.

    `network` (c, 2) is a sorting network: rows of comparators, which leave the lesser value in the first of the two."""
    _, length = part.shape
    total = np.empty(STRIP)
    for start in range(0, length, STRIP):
        count = min(STRIP, length - start)
        strip = part[:, start : start + count]
        for c in range(len(network)):
            first, second = strip[network[c, 0]], strip[network[c, 1]]
            for at in range(count):
                a, b = first[at], second[at]
                first[at] = min(a, b)
                second[at] = max(a, b)
        total[:count] = 0.0
        for place in range(low, high):
            row = strip[place]
            for at in range(count):
                total[at] += row[at]
        for at in range(count):
            out[start + at] = total[at] / (high - low)


@jit
def eigen(matrix: Doubles, sweeps: int) -> tuple[Doubles, Doubles]:
    """Eigenvalues (m,) and eigenvectors (m, m), one a column, of a symmetric matrix: Jacobi's cyclic rotations
    (Golub and Van Loan, 8.5), because LAPACK's bits differ from build to build."""
    a, v = matrix.copy(), np.eye(len(matrix))
    m = len(a)
    for _ in range(sweeps):
        for p in range(m):
            for q in range(p + 1, m):
                if a[p, q] == 0.0:
                    continue
                theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                sign = 1.0 if theta >= 0.0 else -1.0
                t = sign / (abs(theta) + np.sqrt(theta * theta + 1.0))
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for k in range(m):
                    x, y = a[k, p], a[k, q]
                    a[k, p], a[k, q] = c * x - s * y, s * x + c * y
                for k in range(m):
                    x, y = a[p, k], a[q, k]
                    a[p, k], a[q, k] = c * x - s * y, s * x + c * y
                for k in range(m):
                    x, y = v[k, p], v[k, q]
                    v[k, p], v[k, q] = c * x - s * y, s * x + c * y
    return np.diag(a).copy(), v
