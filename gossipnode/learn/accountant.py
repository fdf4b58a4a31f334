"""The privacy option of one-byte training, and how much has been spent: (epsilon, delta) of repeated Gaussian noise.

Renyi differential privacy of whole orders alpha (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, section 3.3): one use
on a Poisson subsample of rate q with noise sigma times the sensitivity costs
    ln( sum_k binom(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 sigma^2)) ) / (alpha - 1),
uses add up, and what they come to at the best order becomes (epsilon, delta) by proposition 12 of Canonne, Kamath,
Steinke 2020 (arXiv 2004.00010). Neighbours are data sets that differ by one example added or removed. Imports neither
torch nor numpy: the status shows what is spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

ORDERS: Final = (*range(2, 64), *range(64, 256, 8), *range(256, 1025, 64))


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """A node's own choice: nobody else can tell, and nobody has to agree."""

    example_clip: Annotated[float, Meta(gt=0.0, le=1e6, description="most that one example's slope may count for")]
    sigma: Annotated[float, Meta(gt=0.0, le=1e6, description="noise, in units of example_clip, in a probe's sum")]

    def spent(self, *, batch: int, examples: int, probes: int, delta: float) -> float:
        """epsilon, after so many probes in the whole life of the data."""
        rate = min(1.0, batch / examples) if examples else 0.0
        return epsilon(rate=rate, sigma=self.sigma, uses=probes, delta=delta) if rate else 0.0


def epsilon(*, rate: float, sigma: float, uses: int, delta: float, orders: Sequence[int] = ORDERS) -> float:
    """Spent by `uses` of the mechanism. Infinite without noise."""
    return composed([(rate, sigma, uses)], delta=delta, orders=orders)


def composed(spent: Iterable[tuple[float, float, int]], *, delta: float, orders: Sequence[int] = ORDERS) -> float:
    """epsilon of mechanisms that differ: (rate, sigma, uses) of each."""
    used = [each for each in spent if each[2]]
    if any(sigma == 0.0 for _, sigma, _ in used):
        return math.inf

    def at(order: int) -> float:
        return math.fsum(uses * divergence(order, rate, sigma) for rate, sigma, uses in used)

    return max(0.0, min(_converted(at(order), order, delta) for order in orders)) if used else 0.0


@lru_cache(maxsize=16 * len(ORDERS))
def divergence(order: int, rate: float, sigma: float) -> float:
    """Of one use, at a whole order of 2 or more."""
    if rate == 1.0:
        return order / (2 * sigma**2)
    terms = [
        _log_binomial(order, k) + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


def sigma_for(*, rate: float, uses: int, delta: float, budget: float) -> float:
    """The least noise, to a thousandth, that spends at most `budget`."""
    low, high = 0.0, 1.0
    while epsilon(rate=rate, sigma=high, uses=uses, delta=delta) > budget:
        low, high = high, 2 * high
    while high - low > 1e-3:
        middle = (low + high) / 2
        if epsilon(rate=rate, sigma=middle, uses=uses, delta=delta) > budget:
            low = middle
        else:
            high = middle
    return high


def _converted(divergence: float, order: int, delta: float) -> float:
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
