"""The manifest's table on gossip learning: how fast, from how many, and what the network may be asked to bear.

Invariant: the models that a node fetches and the announcements that all nodes make are bounded by `pull_bytes_s` and
`announce_bytes_s`, however many nodes there are: with more of them each is heard more rarely. The mesh carries copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from protocols import limits
from protocols.pieces import FRAGMENTS
from protocols.section import Section

MERGED: Final = 32  # models of others in one merge: more bring nothing that a later merge does not
INLINE_BYTES: Final = 56 * limits.KIB  # of a model inside an announcement, which must fit limits.GOSSIP_BYTES


class Rules(Section, frozen=True, kw_only=True):
    """The manifest's section `gossip`."""

    init: Annotated[
        Literal["common", "different"],
        Meta(description="of the nodes' first models: common (theta0), or different, each drawn from seed and peer id"),
    ] = "common"
    every_s: Annotated[
        float, Meta(ge=0.0, le=86_400.0, description="seconds that a training takes at least: who is quicker rests")
    ] = 1.0
    neighbours: Annotated[
        int, Meta(ge=1, le=MERGED, description="most models of others in one merge, and neighbours in a fixed graph")
    ] = 8
    graph: Annotated[
        Literal["fresh", "fixed"],
        Meta(description="whom to merge from: fresh, drawn anew at each pull, or fixed, neighbours in a random graph"),
    ] = "fresh"
    beta: Annotated[
        float,
        Meta(ge=0.0, lt=1.0, description="share of a node's own model in its merges; 0: as any other, by its samples"),
    ] = 0.0
    weighting: Annotated[
        Literal["samples", "fedfix"],
        Meta(description="of others' models: samples, or fedfix, samples times how long a training takes there"),
    ] = "samples"
    pull_bytes_s: Annotated[
        float, Meta(gt=0.0, le=1e12, description="bytes a second of models that a node fetches, on average at most")
    ] = 200_000.0
    announce_bytes_s: Annotated[
        float,
        Meta(gt=0.0, le=1e12, description="bytes a second of announcements by all nodes together, before the mesh"),
    ] = 20_000.0
    inline_bytes: Annotated[
        int, Meta(ge=0, le=INLINE_BYTES, description="a model up to this size may ride in its announcement")
    ] = 32 * limits.KIB
    fragments: Annotated[
        int,
        Meta(
            ge=1,
            le=FRAGMENTS,
            description="pieces that a model is cut into, of which a node pulls one; 1: it pulls whole models",
        ),
    ] = 1


def faults(rules: Rules, byzantine: int) -> Iterator[str]:
    """What no single field's range can say, each as one line for the operator."""
    if rules.graph == "fixed" and rules.neighbours % 2:
        yield (
            f"gossip.neighbours: {rules.neighbours} is odd, and a fixed graph is made of rings, with two neighbours in"
            " each; give an even number, or gossip.graph = fresh"
        )
    of_each = rules.neighbours // rules.fragments
    if 2 * byzantine > of_each:
        among = f"{rules.neighbours} neighbours" if rules.fragments == 1 else f"{of_each} neighbours' pieces"
        yield (
            f"merging.byzantine: {byzantine} liars cannot be stood among {among} and oneself;"
            f" at most {of_each // 2}, or raise gossip.neighbours{' or lower gossip.fragments' * (rules.fragments > 1)}"
        )
