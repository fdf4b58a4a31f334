"""When an update of private data is suspect: beside what an auditor made of the same parent on data of its own.

Nobody can do that work again, but honest updates of one parent are kin: about as long, and seldom opposed. What is
compared are signatures as a replay signs them (`verify.lsh`). Other data make other updates, so one auditor's suspicion
is worth little, and a majority of an appeal goes by the median of many. Invariant: whoever holds both signatures finds
the same. The bounds were settled on digits, seeds 100 to 105; docs/audits.md says what they miss.
"""

from __future__ import annotations

from typing import Final

from verify.lsh import NO_NORM, NORMS_PER_OCTAVE, Signature, distance

OPPOSED: Final = 161  # bits of 256, a cosine of -0.4: with uneven data some honest updates are opposed a little
LONGER: Final = 2 * NORMS_PER_OCTAVE  # steps: four times as long; of honest medians the largest was 2.6 times


def suspects(own: Signature, claimed: Signature) -> bool:
    """An update of zeros is suspect where others find something to learn."""
    if NO_NORM in (own.norm, claimed.norm):
        return own.norm != claimed.norm == NO_NORM
    return distance(own, claimed) > OPPOSED or claimed.norm - own.norm > LONGER
