"""Which aggregates came of which: the line that leads to one, and all that descends from those proved wrong. Pure.

Aggregates name their parent's model, so what a node remembers of them is a tree. A model alone is no name: a liar, or
trainers that all hand in what they were given, may make one again that was there before. Invariant: a line has no gaps,
its rounds are one apart, so it ends; it begins where memory does.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocols.manifest import Manifest
from protocols.messages import Aggregate
from sampling.peers import Round
from verify.digest import Digest

Place = tuple[int, bytes]  # round and model


def theta0(manifest: Manifest) -> Aggregate:
    """Where every line begins."""
    return Aggregate(Round(0), Digest(bytes.fromhex(manifest.theta0)), b"", (), ())


def place(aggregate: Aggregate) -> Place:
    return aggregate.round, aggregate.model


def before(aggregate: Aggregate) -> Place:
    """Its parent's."""
    return aggregate.round - 1, aggregate.parent


def line(remembered: Iterable[Aggregate], last: Aggregate) -> list[Aggregate]:
    """From the oldest remembered ancestor of `last` to it."""
    by_place = {place(each): each for each in remembered}
    found = [last]
    while (parent := by_place.get(before(found[-1]))) is not None:
        found.append(parent)
    return found[::-1]


def tainted(wrong: Iterable[Place], aggregates: Iterable[Aggregate]) -> set[Place]:
    """Those, and what descends from them."""
    found = set(wrong)
    for aggregate in sorted(aggregates, key=lambda each: each.round):
        if before(aggregate) in found:
            found.add(place(aggregate))
    return found
