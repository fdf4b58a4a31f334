"""The numbers of a chain, fixed by the manifest: who begins, how many sit, how long a byte counts, how far it moves A.

Invariant: no sequence of valid blocks can make an element of A leave int32, because every seat of every height counts
at most once, with at most 127 * probes * multiplier(height).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from protocols.chain import limits
from protocols.section import Section
from protocols.signatures import public_key_of
from sampling.peers import PeerId

INT32: Final = 2**31
LARGEST_SCALAR: Final = 127


class Rules(Section, frozen=True, kw_only=True):
    """The manifest's section `onebyte`: the chain's numbers and the arithmetic's (`gossipnode.learn.rules`). The
    defaults suit models of some thousands of parameters."""

    founders: Annotated[
        tuple[PeerId, ...],
        Meta(max_length=limits.MEMBERS, description="members from the start; if none is named, the author"),
    ] = ()
    steps: Annotated[int, Meta(ge=1, le=10**9, description="the run ends after so many blocks")] = 500
    probes: Annotated[
        int, Meta(ge=1, le=limits.PROBES, description="projected gradients of an entry, one byte each")
    ] = 16
    seats: Annotated[int, Meta(ge=1, le=limits.SEATS, description="members that probe in a step")] = 8
    window: Annotated[
        int, Meta(ge=1, le=limits.WINDOW, description="a byte counts up to so many blocks after its base")
    ] = 4
    epoch: Annotated[int, Meta(ge=4, le=limits.EPOCH, description="blocks between two checkpoints")] = 32
    dormant_after: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="seats missed in a row after which a member gets none until it says it is here"
        ),
    ] = 3
    schedule: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=limits.MULTIPLIER)], ...],
        Meta(min_length=1, max_length=limits.STAGES, description="multiplier of the bytes, stage by stage"),
    ] = tuple(range(19, 1, -1))
    stage: Annotated[int, Meta(ge=1, le=10**9, description="blocks that a multiplier lasts; the last one stays")] = 28
    clip: Annotated[float, Meta(gt=0.0, le=1e6, description="projected gradients beyond it are cut off")] = 16.0
    quantum: Annotated[int, Meta(ge=-60, le=0, description="theta moves by 2 to this power times A")] = -16
    epsilon: Annotated[float, Meta(gt=0.0, le=1.0, description="how far a probe goes to either side")] = 0.01
    batch: Annotated[int, Meta(ge=1, le=65_536, description="examples that a probe's two losses are means of")] = 64

    def multiplier(self, height: int) -> int:
        return self.schedule[min((height - 1) // self.stage, len(self.schedule) - 1)]

    def is_checkpoint(self, height: int) -> bool:
        return height % self.epoch == 0


def faults(rules: Rules) -> Iterator[str]:
    """What no single field's range can say, each as one line for the operator."""
    if rules.window >= rules.epoch:
        yield f"onebyte.window: {rules.window} must be below onebyte.epoch, {rules.epoch}"
    if rules.epoch * rules.seats < len(rules.founders):
        yield (
            f"onebyte.epoch: in {rules.epoch} blocks of {rules.seats} seats not all {len(rules.founders)} founders "
            "sit, so that no checkpoint would be certified: make it longer"
        )
    if len(set(rules.founders)) < len(rules.founders):
        yield "onebyte.founders: names a peer twice"
    for peer in rules.founders:
        if public_key_of(peer) is None:
            yield f"onebyte.founders: {peer[:60]!a} is not the id of an Ed25519 key (12D3KooW...)"
    if (most := largest_a(rules)) >= INT32:
        yield (
            f"onebyte.schedule: A could reach {most}, int32 ends at {INT32 - 1}: lower the multipliers (and raise "
            "onebyte.quantum), the steps, seats or probes"
        )


def largest_a(rules: Rules) -> int:
    """127 * probes * seats * the sum of multiplier(height) over all heights."""
    whole = [min(rules.stage, max(0, rules.steps - index * rules.stage)) for index in range(len(rules.schedule))]
    rest = max(0, rules.steps - rules.stage * len(rules.schedule))
    total = sum(map(int.__mul__, rules.schedule, whole)) + rest * rules.schedule[-1]
    return LARGEST_SCALAR * rules.probes * rules.seats * total
