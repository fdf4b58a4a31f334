"""Weights for nodes of different speeds: FedFix (Fraboni et al., 2022, arXiv 2206.10189).

Whoever merges every `window_s` hears a node that needs t seconds only in one of ceil(t / window_s) windows; weighted by
that count it has, over time, the part that its examples deserve. Invariant: whole numbers, so that all who know the
same durations compute the same weights. A duration that a peer claims is bounded: it buys CEILING times its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

CEILING: Final = 64  # windows: a node slower than that, or one that says so, has no more weight


def fedfix(samples: Sequence[int], durations_s: Sequence[float], window_s: float) -> list[int]:
    """samples_i * ceil(duration_i / window), of the models that came in one window."""
    assert window_s > 0
    return [count * windows(each, window_s) for count, each in zip(samples, durations_s, strict=True)]


def windows(duration_s: float, window_s: float) -> int:
    """How many pass while a node computes, 1 to CEILING. Exact: 0.3 / 0.1 is not 3.0 in floating point."""
    assert duration_s >= 0
    if duration_s >= CEILING * window_s:
        return CEILING
    ratio = Fraction(str(duration_s)) / Fraction(str(window_s))
    return min(max(1, -(-ratio.numerator // ratio.denominator)), CEILING)
