"""The two factorisations behind merging adapters: Householder's QR, and Jacobi's one-sided SVD of a small matrix.

LAPACK's bits differ from build to build and with the number of threads. Invariant: the same bits on every machine, as
in `kernels.robust`: IEEE additions, multiplications, quotients and roots in float64, in the order written here, that
numba neither fuses nor reorders. Golub and Van Loan, 5.1 and 5.2 (QR), 8.6.3 (Hestenes' rotations).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from verify.jit import jit

Doubles = NDArray[np.float64]

SWEEPS: Final = 40  # ten reach the last bit of any matrix that was tried
ORTHOGONAL: Final = 1e-15  # rows are orthogonal when the cosine between them is no more
NOTHING: Final = 1e-32  # of the whole's square: a row that holds no more of it is what rounding left


@jit
def reflect(v: Doubles, x: Doubles, row: int, column: int) -> None:
    """x <- (1 - 2 v v' / v'v) x, for the rows of x from `row` and its columns from `column`, where v is."""
    length = 0.0
    for i in range(row, len(v)):
        length += v[i] * v[i]
    if length == 0.0:
        return
    along = np.zeros(x.shape[1] - column)
    for i in range(row, len(v)):
        values, factor = x[i, column:], v[i]
        for j in range(len(along)):
            along[j] += factor * values[j]
    for i in range(row, len(v)):
        values, factor = x[i, column:], 2.0 * v[i] / length
        for j in range(len(along)):
            values[j] -= factor * along[j]


@jit
def qr(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Q (m, l) of orthonormal columns, R (l, k), l = min(m, k), of a matrix (m, k) of any rank."""
    m, k = matrix.shape
    count = min(m, k)
    r, reflectors = matrix.copy(), np.zeros((count, m))
    for j in range(count):
        v = reflectors[j]
        length = 0.0
        for i in range(j, m):
            v[i] = r[i, j]
            length += v[i] * v[i]
        v[j] += np.sqrt(length) if v[j] >= 0.0 else -np.sqrt(length)
        reflect(v, r, j, j)
    q = np.eye(m, count)
    for j in range(count - 1, -1, -1):
        reflect(reflectors[j], q, j, 0)
    for j in range(count):
        r[j + 1 :, j] = 0.0
    return q, r[:count].copy()


@jit
def turn(first: Doubles, second: Doubles, c: float, s: float) -> None:
    for k in range(len(first)):
        x, y = first[k], second[k]
        first[k], second[k] = c * x - s * y, s * x + c * y


@jit
def orthogonalised(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """J M (p, q), whose rows are orthogonal, and the rotation J (p, p): the rows of J M are s v', those of J are u'."""
    rows = matrix.copy()
    p, q = rows.shape
    turned, whole = np.eye(p), 0.0
    for i in range(p):
        for k in range(q):
            whole += rows[i, k] * rows[i, k]
    for _ in range(SWEEPS):
        still = True
        for i in range(p):
            for j in range(i + 1, p):
                first, second, a, b, ab = rows[i], rows[j], 0.0, 0.0, 0.0
                for k in range(q):
                    a += first[k] * first[k]
                    b += second[k] * second[k]
                    ab += first[k] * second[k]
                if min(a, b) <= NOTHING * whole or abs(ab) <= ORTHOGONAL * np.sqrt(a * b):
                    continue
                still = False
                zeta = (b - a) / (2.0 * ab)
                t = (1.0 if zeta >= 0.0 else -1.0) / (abs(zeta) + np.sqrt(zeta * zeta + 1.0))
                c = 1.0 / np.sqrt(t * t + 1.0)
                turn(first, second, c, c * t)
                turn(turned[i], turned[j], c, c * t)
        if still:
            break
    return rows, turned
