"""Local training from a seed: SGD with momentum and weight decay, as torch.optim.SGD defines them.

Momentum starts at zero in every round: it belongs to this node's own path and does not travel. The update is written
out on the flat vector because the first step of a torch.optim optimiser imports 800 modules and costs 70 MB.
The seed fixes the order of batches and whatever the model draws (dropout).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gossipnode.learn.flat import Flat
from gossipnode.learn.skew import adjusted
from gossipnode.learn.task import Batch, Data, Task
from protocols.learner import LearnerError
from protocols.manifest import Training


class Stopped(LearnerError):
    """`stop()` said so between two batches."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What was done: optimiser steps, and the mean loss over them."""

    steps: int
    loss: float


def train(flat: Flat, task: Task, data: Data, training: Training, *, seed: int, stop: Callable[[], bool]) -> Steps:
    """Change the flat model in place. Raises Stopped, and whatever the task raises."""
    torch.manual_seed(seed)
    mask = flat.of_rank(data.rank, seed) if data.rank else None
    with adjusted(flat.model, task, data.pool, data.rows, training.logit_adjustment):
        return descend(flat, task, data.pool, batches(data.rows, training, seed), training, stop=stop, mask=mask)


def descend(
    flat: Flat,
    task: Task,
    pool: Batch,
    batches: Iterable[Tensor],
    training: Training,
    *,
    stop: Callable[[], bool],
    mask: Tensor | None = None,
) -> Steps:
    """A step for each batch of rows of the pool; where `mask` is 0 nothing changes. Raises as `train` does."""
    flat.model.train()
    velocity = torch.zeros_like(flat.gradient) if training.momentum else flat.gradient
    total = torch.zeros((), device=flat.vector.device)
    steps = 0
    for rows in batches:
        if stop():
            raise Stopped("stopped between two batches")
        flat.gradient.zero_()
        loss = task.loss(flat.model, tuple(tensor[rows] for tensor in pool))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        _step(flat, velocity, training, mask)
        total += loss.detach()
        steps += 1
    return Steps(steps, float(total) / max(steps, 1))


def batches(rows: Tensor, training: Training, seed: int) -> Iterator[Tensor]:
    """The rows of each batch: `epochs` passes in fresh random orders, or `steps` batches in as many passes."""
    draw = torch.Generator().manual_seed(seed)
    left = training.batches(len(rows))
    while left > 0 and len(rows) > 0:
        order = torch.randperm(len(rows), generator=draw).to(rows.device)
        for batch in torch.split(rows[order], training.batch)[:left]:
            left -= 1
            yield batch


@torch.no_grad()
def _step(flat: Flat, velocity: Tensor, training: Training, mask: Tensor | None) -> None:
    """g <- mask * (grad + decay * p);  v <- momentum * v + g;  p <- p - lr * v."""
    learned = flat.learned
    if training.weight_decay:
        flat.gradient.add_(learned, alpha=training.weight_decay)
    if mask is not None:
        flat.gradient.mul_(mask)
    if training.momentum:
        velocity.mul_(training.momentum).add_(flat.gradient)
    learned.add_(velocity, alpha=-training.lr)
