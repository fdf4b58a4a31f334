"""When an update of private data is suspect: beside what an auditor makes of the same parent on data of its own.

Nobody can do that work again, but honest updates of one parent are kin: seldom opposed, and none much longer than what
a learner makes that has everything to learn yet. So the ruler is the longer of the auditor's own two updates, of this
parent and of the run's first model (whose data are learned makes hardly any update, and others' are no lie for that),
times the steps that the claim took for each of the auditor's own, if it took more.
Other data make other updates, so one auditor's suspicion is worth little, and a majority of an appeal goes by the
median of many. The bounds were settled on such medians of 13,000 honest updates (digits and mnist, seeds below 160);
docs/audits.md says what they miss.
"""

from __future__ import annotations

import math
from typing import Final

from verify.lsh import NO_NORM, NORMS_PER_OCTAVE, Signature, distance

OPPOSED: Final = 180  # bits of 256, a cosine of -0.6: of honest updates no appeal's median was beyond 167
LEARNED: Final = NORMS_PER_OCTAVE  # steps: half as long as its first; a shorter update points anywhere
LONGER: Final = 9 * NORMS_PER_OCTAVE // 4  # steps: 4.8 times as long; of honest ones no median was beyond 3.1 times


def suspects(own: Signature, claimed: Signature, first: int, times: float = 1.0) -> bool:
    """`first`: norm of the auditor's update of the run's first model; `times`: claimed steps for one of its own. An
    update of zeros is suspect where others find something to learn."""
    if claimed.norm == NO_NORM:
        return own.norm != NO_NORM
    opposed = own.norm >= first - LEARNED and distance(own, claimed) > OPPOSED
    more = NORMS_PER_OCTAVE * math.log2(max(times, 1.0))
    return opposed or claimed.norm > max(own.norm, first) + more + LONGER


def suspicious(own: Signature, claimed: Signature) -> bool:
    """Could an auditor suspect it? Its `first` and its steps nobody else knows."""
    return suspects(own, claimed, NO_NORM)
