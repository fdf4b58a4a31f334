"""What local training does about a shard whose labels are not the swarm's: logit adjustment, if the manifest says so.

While a node trains, its scores are z_c + tau log pi_c, pi the shares of the classes in its own shard (Menon et al.,
arXiv 2007.07314, section 5; federated: Zhang et al., 2209.00189). So what the labels' frequency explains is not
learned, and classes that it lacks are pushed down less. pi is half the shard's and half even: with nothing of a class
log 0 would hide it from training altogether. Invariant: it depends on the shard alone, so that others can do the work
again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gossipnode.learn.task import Batch, Task, classes_of


@contextlib.contextmanager
def adjusted(model: nn.Module, task: Task, pool: Batch, rows: Tensor, tau: float) -> Iterator[None]:
    """Inside, the model's scores are those of training on these rows."""
    if tau == 0:
        yield
        return
    offset = tau * torch.log(shares(pool[-1][rows], classes_of(task))).float()
    hook = model.register_forward_hook(lambda model, given, scores: scores + offset.to(scores.dtype))
    try:
        yield
    finally:
        hook.remove()


def shares(labels: Tensor, classes: int) -> Tensor:
    """Of each class, half the shard's and half even, (classes,) float64."""
    counts = torch.bincount(labels, minlength=classes).double()
    return (counts / counts.sum() + 1 / classes) / 2
