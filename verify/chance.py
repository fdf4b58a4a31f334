"""Whether auditors who disagree on one claim may all be honest: its deviation lies near the tolerance, and they drew
different projections.

Of one deviation, the bits that differ under independent seeds are binomial with one chance (`verify.lsh`); so, given
their sum over all auditors, one's own are binomial too, with chance 1/n: an exact test that needs no angle. Norms of
one deviation were measured to spread by 0.4 steps and 0.08 for each differing bit. Invariant: among honest auditors
one fails the test of its bits in at most ERROR of the claims, whatever the claimant does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

from verify.binomial import at_most
from verify.lsh import Signature, distance

ERROR: Final = 1e-3  # two such in a few rounds are a quarantine; a lie just beyond the default tolerance is below it
NORM_SLACK: Final = 2.0  # steps from the median, and for each bit that differs so many more:
NORM_SLACK_PER_BIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """What one auditor measured."""

    bits: int
    norm: int  # steps by which the claimed one is longer

    @classmethod
    def of(cls, own: Signature, claimed: Signature) -> Figures:
        return cls(distance(own, claimed), claimed.norm - own.norm)


def explains(one: Figures, others: Sequence[Figures]) -> bool:
    """Could chance alone make `one` of the deviation that the others measured?"""
    if not others:
        return False
    total, share = one.bits + sum(each.bits for each in others), 1 / (len(others) + 1)
    fewer, more = at_most(one.bits, total, share), 1.0 - at_most(one.bits - 1, total, share)
    slack = NORM_SLACK + NORM_SLACK_PER_BIT * mean(each.bits for each in others)
    near = abs(one.norm - median(each.norm for each in others)) <= slack
    return 2 * min(fewer, more) >= ERROR and near
