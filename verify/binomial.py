"""The binomial distribution, for thresholds and for what a count of trials shows (Clopper and Pearson 1934)."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

HALVINGS = 60  # of an interval of probabilities: down to the last bits of a float


def at_most(successes: int, trials: int, chance: float) -> float:
    """P(X <= successes)."""
    if successes < 0:
        return 0.0
    if successes >= trials or chance <= 0.0:
        return 1.0
    if chance >= 1.0:
        return 0.0
    scale = lgamma(trials + 1)
    up, down = log(chance), log1p(-chance)
    terms = (
        exp(scale - lgamma(k + 1) - lgamma(trials - k + 1) + k * up + (trials - k) * down) for k in range(successes + 1)
    )
    return min(1.0, sum(terms))


def bounds(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's: the chances between which the true one lies, with at least that confidence."""
    doubt = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _chance(successes - 1, trials, 1 - doubt)
    high = 1.0 if successes == trials else _chance(successes, trials, doubt)
    return low, high


def _chance(successes: int, trials: int, probability: float) -> float:
    """At which `at_most` is that probability; it falls as the chance grows."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(successes, trials, middle) > probability else (low, middle)
    return low
