"""A task of one's own, as an operator writes it: two noisy spirals. The brief says about 30 lines; these are they."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gossipnode.learn.task import Batch, Data, Shard, Task, rows_of


class Spirals(Task):
    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def data(self, shard: Shard, path: Path | None) -> Data:
        train, test = spirals(400, seed=1), spirals(100, seed=2)
        return Data(train, rows_of(shard, train[1]), test)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        points, arms = batch
        return nn.functional.cross_entropy(model(points), arms)


def spirals(count: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    arm = torch.arange(count) % 2
    angle = torch.rand(count, generator=draw) * 4
    turned = angle + arm * torch.pi
    return torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1), arm


TASK = Spirals()
