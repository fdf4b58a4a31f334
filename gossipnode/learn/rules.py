"""The rules of a one-byte run: how a slope becomes a byte, and what a byte weighs. Imports neither torch nor numpy.

A byte q says how far to go along z, in 127ths of `clip`. Block by block, theta gains quantum * multiplier * q * z for
each byte that counts; quantum is a power of two and the multiplier, which the chain's schedule gives, a whole number,
so that the sum stays one of integers. There is no division by the number of bytes: a step with fewer moves less.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols.chain import rules as chain

LEVELS: Final = 127  # -128 is never sent, so that the code is symmetric


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults suit models of some thousands of parameters."""

    probes: Annotated[int, Meta(ge=1, le=256, description="bytes of one origin in a step (K)")] = 16
    eps: Annotated[float, Meta(gt=0.0, le=1.0, description="how far a probe goes each way along z")] = 0.01
    clip: Annotated[float, Meta(gt=0.0, le=1e6, description="slope that the largest byte stands for")] = 16.0
    batch: Annotated[int, Meta(ge=1, le=65_536, description="examples that a probe's two losses are means of")] = 64
    quantum_exponent: Annotated[int, Meta(ge=-60, le=0, description="quantum is 2 to this power")] = -16

    @property
    def quantum(self) -> float:
        return float(2.0**self.quantum_exponent)


def rules_of(section: chain.Rules) -> Rules:
    """Those of a run. When a byte counts, and how much, its chain decides."""
    return Rules(
        probes=section.probes,
        eps=section.epsilon,
        clip=section.clip,
        batch=section.batch,
        quantum_exponent=section.quantum,
    )
