"""What an aggregator makes of a round's models: the manifest's rule, and what it is applied to.

The rule merges what SGD learned. Buffers that travel (a batch norm's running mean and variance) are measured and not
learned: with the mean they are averaged by examples (FedAvg, arXiv 1602.05629, for all that travels), and with a rule
that stands liars each coordinate is the median of what was handed in, so that they neither steer distances nor are
steered. Tied weights are one tensor here; integer buffers never travel (`learn.flat`).
Invariant: the same models, weights and parent in the same order give the same bits on every machine, at any number of
threads, so that aggregators agree by digest and anybody can make an aggregate again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gossipnode.learn import robust
from gossipnode.learn.adapters import Pair, flora
from gossipnode.learn.encoding import Vector
from gossipnode.learn.models import Models, Row
from gossipnode.learn.variance import corrected_mean
from protocols.merging import CENTRED, TRUSTING, Merging, settled


@dataclass(frozen=True)
class Shape:
    """Of a model: its tensors' lengths, how many values SGD learns (those come first), and where adapters lie."""

    lengths: Sequence[int]
    learned: int
    adapters: Sequence[Pair] = ()

    def part(self, low: int, high: int) -> Shape:
        """Of the values low .. high - 1."""
        tensors = zip(accumulate(self.lengths), self.lengths, strict=True)
        inside = [min(end, high) - max(end - length, low) for end, length in tensors]
        return Shape([length for length in inside if length > 0], max(0, min(self.learned, high) - low))


def mean(models: Models, weights: Sequence[int]) -> Vector:
    """sum(weight * model) / sum(weight), weights positive. Withstands no liar."""
    assert len(weights) == models.n
    assert all(weight > 0 for weight in weights)
    return models.combined(weights, float(sum(weights)))


def merged(models: Models, weights: Sequence[int], asked: Merging, shape: Shape, parent: Row | None = None) -> Vector:
    """`parent`: what the models were trained from, for the rules that need it."""
    merging = settled(asked)
    learned, measured = models.span(0, shape.learned), models.span(shape.learned, models.d)
    out = np.empty(models.d, dtype=np.float32)
    if merging.rule == "mean":
        out[: shape.learned] = mean(learned, weights)
    elif merging.rule == "corrected":
        out[: shape.learned] = corrected_mean(learned, weights, shape.lengths)
    elif merging.rule == "flora":
        out[: shape.learned] = mean(learned, weights)
        for pair in shape.adapters:
            pair.put(out, flora(models, weights, pair, out))
    else:
        byzantine = min(merging.byzantine, (models.n - 1) // 2)  # a round whose trainers died has fewer models
        out[: shape.learned] = by_rule(learned, merging.rule, byzantine, merging.mixing, parent)
    if measured.d:
        trusting = merging.rule in TRUSTING
        out[shape.learned :] = mean(measured, weights) if trusting else robust.coordinate_median(measured)
    return out


def by_rule(models: Models, rule: str, byzantine: int, mixing: bool = False, parent: Row | None = None) -> Vector:
    """One of those rules of `learn.robust` that stand liars."""
    if rule in CENTRED:
        return _centred(models, rule, byzantine, mixing, parent)
    squared = models.squares() if mixing or rule in ("multi-krum", "geometric-median") else np.zeros((0, 0))
    mix = robust.nearest_neighbours(squared, byzantine) if mixing else None
    match rule:
        case "median":
            return robust.coordinate_median(models, mix)
        case "trimmed-mean":
            return robust.trimmed_mean(models, byzantine, mix)
    seen = squared if mix is None else robust.mixed_squares(squared, mix)
    chosen = robust.multi_krum(seen, byzantine) if rule == "multi-krum" else robust.geometric_median(seen)
    return models.combined(chosen if mix is None else robust.product(chosen[None], mix)[0])


def _centred(models: Models, rule: str, byzantine: int, mixing: bool, parent: Row | None) -> Vector:
    assert parent is not None, "this rule needs the model that the round began with"
    around = models.around(parent)
    squared = around.squares(star=rule == "centred-clipping" and not mixing)
    mix = np.eye(models.n + 1)
    if mixing:
        mix[:-1, :-1] = robust.nearest_neighbours(squared[:-1, :-1], byzantine)
        squared = robust.mixed_squares(squared, mix)
    chosen = robust.centred_clipping(squared) if rule == "centred-clipping" else robust.flag(squared)
    return around.combined(robust.product(chosen[None], mix)[0])
