"""Which aggregates came of which: the line that leads to one, and all that descends from those proved wrong. Pure.

Aggregates name their parent's model, so what a node remembers of them is a tree. Invariant: a line has no gaps; it
begins where memory does.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocols.manifest import Manifest
from protocols.messages import Aggregate
from sampling.peers import Round
from verify.digest import Digest


def theta0(manifest: Manifest) -> Aggregate:
    """Where every line begins."""
    return Aggregate(Round(0), Digest(bytes.fromhex(manifest.theta0)), b"", (), ())


def line(remembered: Iterable[Aggregate], last: Aggregate) -> list[Aggregate]:
    """From the oldest remembered ancestor of `last` to it."""
    by_model = {Digest(each.model): each for each in remembered}
    found = [last]
    while found[-1].round > 0 and (parent := by_model.get(Digest(found[-1].parent))) is not None:
        found.append(parent)
    return found[::-1]


def tainted(wrong: Iterable[Digest], aggregates: Iterable[Aggregate]) -> set[Digest]:
    """Those models, and what descends from them."""
    found = set(wrong)
    for aggregate in sorted(aggregates, key=lambda each: each.round):
        if aggregate.parent in found:
            found.add(aggregate.model)
    return found
