"""A task outside the package with a big model and little else: 11 million float32 parameters, 44 MB, made-up data.

It is for measuring how models travel; what it learns (to answer with zeros) is of no interest.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gossipnode.learn.task import Batch, Data, Shard, Task, rows_of

INPUTS, OUTPUTS = 1000, 11_000
EXAMPLES, TESTS = 64, 8


class Wide(Task):
    def model(self, seed: int) -> nn.Module:
        return nn.Linear(INPUTS, OUTPUTS, bias=False)

    def data(self, shard: Shard, path: Path | None) -> Data:
        train, test = points(EXAMPLES, seed=1), points(TESTS, seed=2)
        return Data(train, rows_of(shard, train[1]), test)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        answers: Tensor = model(batch[0])  # (B, OUTPUTS)
        return answers.square().mean()

    def metrics(self, model: nn.Module, test: Batch) -> dict[str, float]:
        return {"loss": float(self.loss(model, test)), "accuracy": 0.0}


def points(count: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, INPUTS, generator=draw), torch.arange(count) % 2


TASK = Wide()
