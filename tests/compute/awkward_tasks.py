"""Tasks that misbehave, each in one way. Loaded by worker processes from this folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor, nn

from gossipnode.learn.task import Batch, Data, Shard, Task


class Plain(Task):
    """Four points on a line; the others change one thing."""

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(1, 2)

    def data(self, shard: Shard, path: Path | None) -> Data:
        batch = (torch.arange(4.0).reshape(4, 1), torch.tensor([0, 0, 1, 1]))
        return Data(batch, torch.arange(4), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Moody(Plain):
    """Does what the file of data says at the moment."""

    def data(self, shard: Shard, path: Path | None) -> Data:
        self.path = path
        return super().data(shard, None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.path is not None
        loss = super().loss(model, batch)
        match self.path.read_text():
            case "raise":
                raise ValueError("the batch\nis odd")
            case "nan":
                return loss * float("nan")
            case "print":
                print("seen on stdout")
                os.write(1, b"and below Python\n")
                assert sys.stdin.read() == ""
        return loss


class Dies(Plain):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        print("about to fall", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("not reached")


class Hangs(Plain):
    """Says that it hangs by making a file, then never comes back to where an interrupt is looked at."""

    def data(self, shard: Shard, path: Path | None) -> Data:
        self.path = path
        return super().data(shard, None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.path is not None
        if not self.path.exists():
            self.path.touch()
            threading.Event().wait()
        return super().loss(model, batch)


class Long(Hangs):
    """Says that it trains, and looks at interrupts as every task does."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.path is not None
        self.path.touch()
        return Plain.loss(self, model, batch)


class Wide(Plain):
    """Enough parameters for a second thread to take its share of a sum."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 180_000), nn.Linear(180_000, 2))


class NoData(Plain):
    def data(self, shard: Shard, path: Path | None) -> Data:
        raise FileNotFoundError("no such disk")


class Empty(Plain):
    def data(self, shard: Shard, path: Path | None) -> Data:
        batch = super().data(shard, path).pool
        return Data(batch, torch.arange(0), batch)
