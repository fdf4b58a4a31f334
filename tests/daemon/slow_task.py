"""An operator's own task: two blobs of points. Trains slowly without using a core, and obeys the file given as data."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from gossipnode.learn.task import Batch, Data, Shard, Task, rows_of

BATCH_S = 0.02


class Blobs(Task):
    mood: Path | None = None

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(2, 2)

    def data(self, shard: Shard, path: Path | None) -> Data:
        self.mood = path
        train, test = blobs(200, seed=1), blobs(100, seed=2)
        return Data(train, rows_of(shard, train[1]), test)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(BATCH_S)
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        match self.mood.read_text() if self.mood else "":
            case "raise":
                raise ValueError("the batch\nis odd")
            case "nan":
                return loss * float("nan")
        return loss

    def metrics(self, model: nn.Module, test: Batch) -> dict[str, float]:
        if self.mood and self.mood.read_text() == "unmeasured":
            raise ZeroDivisionError("no scale")
        return super().metrics(model, test)


def blobs(count: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    return torch.randn(count, 2, generator=draw) + 3.0 * label[:, None], label


TASK = Blobs()
