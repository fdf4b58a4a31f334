"""A trainer that deviates as far as it may and still pass: it knows the tolerance and, since an auditor's projection is
drawn after the claim, tries its update against projections of its own drawing.

It turns its honest update u towards -m, m being the mean of its trainings from other seeds ("Fall of Empires", arXiv
1903.03936), by the largest share at which half of them pass it, found by halving. The length stays that of u: a step
towards -u itself would change nothing but the length, of which the tolerance lets a few per cent pass (`shortened`).
Invariant: what it hands in passes at least half of the projections that it tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np

from gossipnode.adversaries.bent import Gang
from gossipnode.adversaries.vectors import REPLAYS, Draw, Updates, conduct_of
from gossipnode.conduct import Conduct
from gossipnode.learn.encoding import Vector
from gossipnode.node import Node
from protocols.manifest import Audit
from verify.lsh import SEED_BYTES, Tolerance, agrees
from verify.simhash import signature

PROJECTIONS: Final = 31  # that it tries: the share that passes is known within 0.09
HALVINGS: Final = 12  # a 4096th of the way to the harmful update

Blend = Callable[[Vector, Vector, float], Vector]  # update, harmful one, share of the way


def turned(update: Vector, harmful: Vector, share: float) -> Vector:
    """Towards the harmful one, at the update's own length."""
    between = shortened(update, harmful, share)
    length = float(np.linalg.norm(between))
    result: Vector = between * np.float32(float(np.linalg.norm(update)) / length if length else 1.0)
    return result


def shortened(update: Vector, harmful: Vector, share: float) -> Vector:
    """Straight towards it: if that is -u, the same direction until half of the way."""
    result: Vector = np.float32(1.0 - share) * update + np.float32(share) * harmful
    return result


def strongest(update: Vector, harmful: Vector, tolerance: Tolerance, draw: Draw, blend: Blend = turned) -> Vector:
    """That still passes half of the projections."""
    seeds = [draw.bytes(SEED_BYTES) for _ in range(PROJECTIONS)]
    honest = [signature(update, seed) for seed in seeds]

    def passes(share: float) -> bool:
        made = blend(update, harmful, share)
        pairs = zip(honest, seeds, strict=True)
        return 2 * sum(agrees(own, signature(made, seed), tolerance) for own, seed in pairs) >= PROJECTIONS

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        low, high = (share, high) if passes(share) else (low, share)
    return blend(update, harmful, low)


def adaptive(gang: Gang) -> Conduct:
    audit = [Audit()]  # of the run, once its node knows it

    def forge(updates: Updates, draw: Draw) -> Vector:
        tolerance = Tolerance(audit[0].tolerance_bits, audit[0].tolerance_norm)
        return strongest(updates[0], -updates[1:].mean(axis=0), tolerance, draw)

    async def live(node: Node) -> None:
        audit[:] = [node.parts.manifest.audit]
        await node.run()

    return dataclasses.replace(conduct_of(gang, forge, lambda scalars, draw: scalars, REPLAYS), live=live)
