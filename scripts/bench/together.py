"""Local training of all trainers of a round at once, as `learn.sgd` does one after the other: ten times quicker.

For the built-in perceptron of one hidden layer only. Batches, momentum and order are `learn.sgd`'s own; sums run in
another order, so results differ in the last bits (`tests/scripts/test_bench_parts.py` compares the two).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gossipnode.learn.sgd import batches
from gossipnode.learn.task import Data
from protocols.manifest import Training


def trained(
    parent: Tensor, shapes: Sequence[Sequence[int]], data: Sequence[Data], scale: float, training: Training,
    seeds: Sequence[int],
) -> Tensor:  # fmt: skip
    """Everybody's model, (n, P). `shapes`: of hidden bias and weight, output bias and weight."""
    n = len(data)
    theta = parent.repeat(n, 1).requires_grad_()
    velocity = torch.zeros_like(theta)
    orders = [list(batches(each.rows, training, seed)) for each, seed in zip(data, seeds, strict=True)]
    for step in range(max(map(len, orders))):
        x, y, share = _batch(data, [order[step] if step < len(order) else order[0][:0] for order in orders], scale)
        losses = cross_entropy(_scores(theta, shapes, x).flatten(0, 1), y.flatten(), reduction="none")
        (gradient,) = torch.autograd.grad((losses.view_as(share) * share).sum(), theta)
        working = (share.sum(1) > 0)[:, None]
        velocity = torch.where(working, training.momentum * velocity + gradient, velocity)
        with torch.no_grad():
            theta -= training.lr * velocity * working
    return theta.detach()


def _batch(data: Sequence[Data], rows: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (n, B, pixels), labels and each example's share of its own batch's mean (n, B); short batches are filled
    up with examples that have none."""
    longest = max(map(len, rows))
    share = torch.zeros(len(rows), longest)
    index = torch.zeros(len(rows), longest, dtype=torch.int64)
    for node, each in enumerate(rows):
        index[node, : len(each)], share[node, : len(each)] = each, 1 / max(len(each), 1)
    labels = torch.stack([each.pool[1][index[node]] for node, each in enumerate(data)])
    return data[0].pool[0][index].flatten(2).float() * scale, labels, share


def _scores(theta: Tensor, shapes: Sequence[Sequence[int]], x: Tensor) -> Tensor:
    parts = torch.split(theta, [torch.Size(shape).numel() for shape in shapes], dim=1)
    b1, w1, b2, w2 = (part.view(len(theta), *shape) for part, shape in zip(parts, shapes, strict=True))
    hidden = torch.baddbmm(b1[:, None], x, w1.transpose(1, 2)).relu()
    return torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
