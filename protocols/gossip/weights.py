"""How much each model counts in a merge, in whole numbers. Pure.

Our own has the share `beta`, or none but that of its examples; the others share the rest by the examples they claim,
capped as in a round of MoDeST, and, if the manifest says so, by how long a training takes at each
(`protocols.gossip.fedfix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocols.collection import capped
from protocols.gossip.fedfix import fedfix
from protocols.gossip.messages import Offer
from protocols.gossip.rules import Rules

FINE: Final = 1000  # parts of a weight, so that beta is met closely


def of_others(offers: Sequence[Offer], own_samples: int, rules: Rules, window_s: float) -> list[int]:
    """`window_s`: between two merges of ours."""
    samples = capped([offer.samples for offer in offers], beside=[own_samples])
    if rules.weighting == "fedfix" and window_s > 0:
        return fedfix(samples, [offer.train_ms / 1000 for offer in offers], window_s)
    return samples


def with_own(beta: float, own_samples: int, others: Sequence[int]) -> list[int]:
    """Our own first."""
    if beta == 0:
        return [own_samples, *others]
    fine = [FINE * weight for weight in others]
    return [max(1, round(sum(fine) * beta / (1 - beta))), *fine]
