from __future__ import annotations

import math

import pytest

from verify.binomial import at_most, bounds


def test_against_the_definition() -> None:
    for chance in (0.0, 0.01, 0.5, 0.93, 1.0):
        total = 0.0
        for k in range(21):
            total += math.comb(20, k) * chance**k * (1 - chance) ** (20 - k)
            assert at_most(k, 20, chance) == pytest.approx(total)


def test_bounds_that_are_known() -> None:
    # scipy.stats.binomtest(k, n).proportion_ci()
    assert bounds(0, 10_000) == pytest.approx((0.0, 3.6882e-4), rel=1e-3)
    assert bounds(10_000, 10_000) == pytest.approx((1 - 3.6882e-4, 1.0), rel=1e-6)
    assert bounds(7, 50) == pytest.approx((0.05819, 0.26739), rel=1e-3)
