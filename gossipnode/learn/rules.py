"""The rules of a one-byte run: how a slope becomes a byte, and a byte a step. Imports neither torch nor numpy.

A byte q says how far to go along z, in 127ths of `clip`. Block by block, theta gains quantum * multiplier(step) * q * z
for each byte that counts; quantum is a power of two and the multiplier a whole number, so that the sum stays one of
integers. There is no division by the number of bytes: a step with fewer of them moves less.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols.chain import rules as chain

LEVELS: Final = 127  # -128 is never sent, so that the code is symmetric


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults suit models of some thousands of parameters, eight seats and some hundreds of steps."""

    probes: Annotated[int, Meta(ge=1, le=256, description="bytes of one origin in a step (K)")] = 16
    eps: Annotated[float, Meta(gt=0.0, le=1.0, description="how far a probe goes each way along z")] = 0.01
    clip: Annotated[float, Meta(gt=0.0, le=1e6, description="slope that the largest byte stands for")] = 16.0
    batch: Annotated[int, Meta(ge=1, le=65_536, description="examples that a probe's two losses are means of")] = 64
    quantum_exponent: Annotated[int, Meta(ge=-60, le=0, description="quantum is 2 to this power")] = -16
    multiplier: Annotated[int, Meta(ge=1, le=2**20, description="of the bytes of the first step")] = 19
    multiplier_last: Annotated[int, Meta(ge=1, le=2**20, description="of the last; in between it falls evenly")] = 2
    steps: Annotated[int, Meta(ge=1, le=2**40, description="steps over which the multiplier falls")] = 500

    @property
    def quantum(self) -> float:
        return float(2.0**self.quantum_exponent)

    def multiplier_at(self, step: int) -> int:
        """Whole numbers only: every machine finds the same. `step` counts from 0."""
        fallen = (self.multiplier - self.multiplier_last) * min(step, self.steps) // self.steps
        return self.multiplier - fallen

    def reach(self, seats: int, steps: int) -> int:
        """The largest |A_i| that `steps` full steps can make: below 2^31, or the rules are refused."""
        falling = sum(map(self.multiplier_at, range(min(steps, self.steps))))
        return LEVELS * self.probes * seats * (falling + max(0, steps - self.steps) * self.multiplier_last)


def rules_of(section: chain.Rules) -> Rules:
    """Those of a run. When a byte counts, and how much, its chain decides: the multipliers here are not used."""
    return Rules(
        probes=section.probes,
        eps=section.epsilon,
        clip=section.clip,
        batch=section.batch,
        quantum_exponent=section.quantum,
        steps=section.steps,
    )


def multiplier_for(lr: float, *, probes: int, seats: int, clip: float, quantum_exponent: int) -> int:
    """The nearest to a learning rate as the literature has it, of the mean over all the bytes of a full step."""
    return max(1, round(lr / (probes * seats) * clip / LEVELS / 2.0**quantum_exponent))
