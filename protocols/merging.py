"""The manifest's table on merging: which rule makes one model of a round's, and how many liars it must stand.

The rules themselves, their papers and what each withstands are in `gossipnode.learn`; docs/merging.md measures them.
Invariant: what the table asks for is possible with the fewest models that a round is made of while its trainers live;
where most of them have died, the aggregate stands as many liars as its models allow, fewer than half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from protocols import limits
from protocols.section import Section

Rule: TypeAlias = Literal[
    "auto",
    "mean",
    "corrected",
    "median",
    "trimmed-mean",
    "multi-krum",
    "geometric-median",
    "centred-clipping",
    "flag",
    "bristle",
    "flora",
]
TRUSTING: Final = ("mean", "corrected", "flora")  # a single liar can make anything of them
OWN: Final = ("bristle",)  # weigh models by a node's own examples, so nobody else can make their merges again
COUNTING: Final = ("trimmed-mean", "multi-krum")  # do nothing unless they are told how many lie
CENTRED: Final = ("centred-clipping", "flag")  # look at what a round changed, so they need the model it began with


class Merging(Section, frozen=True, kw_only=True):
    """How an aggregator makes one model of a round's."""

    rule: Annotated[
        Rule,
        Meta(
            description="mean, corrected (variance-corrected), median, trimmed-mean, multi-krum, geometric-median, "
            "centred-clipping, flag, flora (adapters by what they add), in gossip bristle too (output layers, class by "
            "class); auto: mean (in gossip: corrected) if byzantine = 0, else nearest-neighbour mixing and "
            "geometric-median"
        ),
    ] = "auto"
    byzantine: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.COMMITTEE,
            description="liars among a round's trainers that the aggregate must stand; but with mean, corrected "
            "and flora each model has one vote, however many examples it claims",
        ),
    ] = 0
    mixing: Annotated[
        bool, Meta(description="first let each model give way to the mean of its nearest (NNM): better on uneven data")
    ] = False


def settled(merging: Merging, protocol: str = "modest") -> Merging:
    """With what `auto` stands for: in gossip, models may not have found each other yet."""
    if merging.rule != "auto":
        return merging
    if merging.byzantine == 0:
        return msgspec.structs.replace(merging, rule="corrected" if protocol == "gossip" else "mean")
    return msgspec.structs.replace(merging, rule="geometric-median", mixing=True)


def faults(asked: Merging, fewest: int) -> Iterator[str]:
    """Why `asked` cannot be, where an honest round is made of at least `fewest` models."""
    merging = settled(asked)
    if merging.rule in OWN:
        if merging.byzantine or merging.mixing:
            yield f"merging.rule: {merging.rule} takes neither merging.byzantine nor merging.mixing"
        return
    trusting, liars = merging.rule in TRUSTING, merging.byzantine
    if trusting and liars:
        yield f"merging.byzantine: {merging.rule} withstands no liar; choose another merging.rule, or auto"
    if trusting and merging.mixing:
        yield f"merging.mixing: {merging.rule} after it would still follow liars; choose another merging.rule"
    if liars == 0 and not trusting and (merging.mixing or merging.rule in COUNTING):
        what = "merging.mixing" if merging.mixing else merging.rule
        yield f"merging.byzantine: {what} must be told how many liars to stand; give at least 1"
    if 2 * liars >= fewest and liars:
        yield (
            f"merging.byzantine: no rule withstands {liars} liars among the {fewest} models that may make a round;"
            f" at most {(fewest - 1) // 2}, or raise modest.trainers or modest.success_fraction"
        )
