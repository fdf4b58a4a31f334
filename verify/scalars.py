"""Whether two entries' bytes are of the same work: what honest hardware may differ by, and what it does not.

A byte is a slope, rounded; on another machine a slope differs in its last bits, so that now and then it rounds to the
neighbour. The rule and its error rates were measured by `scripts/bench_onebyte_audit.py` (docs/audits.md). Invariant:
a pure function of the two strings of bytes, the same for every run, so that anyone can say whether a vote's figures
bear it out.
"""

from __future__ import annotations

from typing import Final

STEPS: Final = 2  # by which an honest byte may differ: bytes that differ by more are apart
PROBES: Final = 16  # for each so many bytes one may be apart; with more they are of other work


def differ(own: bytes, claimed: bytes) -> bool:
    """Both of one length, each byte a signed number."""
    return apart(own, claimed) > len(own) // PROBES


def apart(own: bytes, claimed: bytes) -> int:
    """Bytes that are."""
    return sum(abs(_signed(one) - _signed(other)) > STEPS for one, other in zip(own, claimed, strict=True))


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
