"""The privacy accountant against published values."""

from __future__ import annotations

import math

import pytest

from gossipnode.learn.accountant import ORDERS, Privacy, divergence, epsilon, sigma_for


def classic(rate: float, sigma: float, uses: int, delta: float) -> float:
    """The conversion of Mironov 2017 (proposition 3), which the published values were computed with."""
    return min(uses * divergence(order, rate, sigma) + math.log(1 / delta) / (order - 1) for order in ORDERS)


@pytest.mark.parametrize(
    ("rate", "sigma", "uses", "published"),
    [
        (0.01, 4.0, 10_000, 1.26),  # Abadi et al. 2016 (arXiv 1607.00133), section 3.1
        (256 / 60_000, 1.3, 15 * 60_000 // 256, 1.19),  # TensorFlow Privacy's tutorial on MNIST, three rows
        (256 / 60_000, 1.1, 60 * 60_000 // 256, 3.01),
        (256 / 60_000, 0.7, 45 * 60_000 // 256, 7.10),  # they use fractional orders too: a little less
    ],
)
def test_published_epsilons(rate: float, sigma: float, uses: int, published: float) -> None:
    found = classic(rate, sigma, uses, 1e-5)
    assert found == pytest.approx(published, rel=0.005)
    assert 0.7 * found < epsilon(rate=rate, sigma=sigma, uses=uses, delta=1e-5) < found  # the later conversion


def test_published_epsilon_of_opacus() -> None:
    """Its documentation: 1 % of the examples, noise 1.0, 300 steps, delta 1e-5: 2.39 at order 5."""
    found = epsilon(rate=0.01, sigma=1.0, uses=300, delta=1e-5, orders=(2, 5, 10, 20, 100))
    assert found == pytest.approx(2.39, abs=0.005)
    assert found == epsilon(rate=0.01, sigma=1.0, uses=300, delta=1e-5, orders=(5,))


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    assert divergence(8, 1.0, 2.0) == 1.0
    assert divergence(8, 1 - 1e-12, 2.0) == pytest.approx(1.0)


def test_more_noise_or_fewer_uses_cost_less() -> None:
    costs = [epsilon(rate=0.1, sigma=sigma, uses=100, delta=1e-5) for sigma in (0.5, 1, 2, 4, 100)]
    assert costs == sorted(costs, reverse=True)
    assert epsilon(rate=0.1, sigma=1.0, uses=0, delta=1e-5) == 0.0
    assert math.isinf(epsilon(rate=0.1, sigma=0.0, uses=1, delta=1e-5))


def test_the_noise_for_a_budget_spends_it_and_no_more() -> None:
    sigma = sigma_for(rate=0.44, uses=2000, delta=1e-3, budget=8.0)
    assert 7.9 < epsilon(rate=0.44, sigma=sigma, uses=2000, delta=1e-3) <= 8.0


def test_what_a_node_has_spent() -> None:
    privacy = Privacy(example_clip=1.0, sigma=2.0)
    assert privacy.spent(batch=64, examples=640, probes=50, delta=1e-5) == epsilon(
        rate=0.1, sigma=2.0, uses=50, delta=1e-5
    )
    assert privacy.spent(batch=64, examples=10, probes=1, delta=1e-5) == epsilon(rate=1, sigma=2, uses=1, delta=1e-5)
    assert privacy.spent(batch=64, examples=0, probes=0, delta=1e-5) == 0.0
