"""What a user implements to train something of their own, about 30 lines: see tests/learn/outside_task.py.

A task says what the model is, what the data is, what is to be minimised and what is to be reported. Everything else
(sampling, SGD, merging, encoding, the network) is the same for all tasks. A task runs in the worker process; what it
prints goes to the daemon's log, and what it raises becomes one line there.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from gossipnode.learn.arrays import numbers
from gossipnode.learn.names import BUILT_IN, TaskError, last_line, search_here, task_source, where
from gossipnode.learn.shard import Shard

__all__ = ["Batch", "Data", "Shard", "Task", "TaskError", "load_task", "task_source"]

Batch: TypeAlias = tuple[Tensor, ...]  # the first dimension of each counts the examples; (inputs, targets) to classify

METHODS = ("model", "data", "loss", "trainable", "metrics")
EVALUATION_ROWS = 500  # examples per forward pass of `metrics`: 500 images of 28 x 28 need 12 MB in a small CNN


@dataclass(frozen=True, slots=True)
class Data:
    """A node's examples. `pool` may be shared by many nodes of one process; `rows` says which of it are this node's."""

    pool: Batch  # (N, ...) each
    rows: Tensor  # (n,) int64, n <= N: the training examples
    test: Batch  # (T, ...) each: never trained on
    rank: int = 0  # of the adapters, what is trained on them; 0: all. Set by the engine, not by tasks


class Task(Protocol):
    """Inherit from this to get the defaults; or write all five methods."""

    def model(self, seed: int) -> nn.Module:
        """A fresh model. Torch's generator has just been seeded with `seed`: ordinary initialisation is repeatable."""
        ...

    def data(self, shard: Shard, path: Path | None) -> Data:
        """This node's data: from `path` if the operator gave one. Raise TaskError with one clear line if that fails."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar to be differentiated."""
        ...

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained and travels, by name: float32 tensors of the model itself. Leave out what all peers have.
        Two named NAME.down, (rank, inputs), and NAME.up, (outputs, rank), are an adapter: --rank and flora know it."""
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}

    def classes(self) -> int:
        """How many there are, if `loss` is the cross entropy of what the model gives, (B, classes), and the labels in
        the batch's last tensor. 0: it is something else, and training.logit_adjustment cannot be had."""
        return 0

    def metrics(self, model: nn.Module, test: Batch) -> dict[str, float]:
        """`loss` and `accuracy` (or, under that name, the task's main metric), and whatever else is worth a line."""
        right, loss = 0, 0.0
        for x, y in zip(*(torch.split(tensor, EVALUATION_ROWS) for tensor in test), strict=True):
            scores = model(x)  # (B, classes)
            right += int((scores.argmax(1) == y).sum())
            loss += float(nn.functional.cross_entropy(scores, y, reduction="sum"))
        return {"accuracy": right / len(test[1]), "loss": loss / len(test[1])}

    def question(self, data: bytes) -> Batch:
        """What `gossipnode ask` was given, as the model takes it: here a .npy file of numbers, its first dimension
        counting the examples. `data` may be hostile. Raise Unanswerable with one clear line if it is no input."""
        return (numbers(data),)

    def answer(self, scores: Tensor) -> str:
        """What the scores of one example, (C,), mean, in a line."""
        best, chance = int(scores.argmax()), scores.softmax(0)
        return f"class {best} ({float(chance[best]):.1%})"


def load_task(spec: str) -> Task:
    """The task that `spec` names: built in, or an instance (or class) at package.module:attribute. Raises TaskError."""
    module, attribute = where(spec)
    if spec not in BUILT_IN:
        search_here()
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # importing runs the operator's own code, which may raise anything
        raise TaskError(f"task {spec!r}: cannot import {module}: {last_line(error)}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise TaskError(f"task {spec!r}: {module} has no attribute {attribute!r}")
        found = getattr(found, name)
    return _as_task(spec, found)


def _as_task(spec: str, found: object) -> Task:
    if isinstance(found, type):
        made = found
        try:
            found = made()
        except Exception as error:  # the operator's own code, as above
            raise TaskError(f"task {spec!r}: {made.__name__}() failed: {last_line(error)}") from error
    if missing := [name for name in METHODS if not callable(getattr(found, name, None))]:
        raise TaskError(f"task {spec!r} lacks {', '.join(missing)}: inherit from gossipnode.learn.task.Task")
    return cast("Task", found)


def classes_of(task: Task) -> int:
    """0 for a task that says nothing of it."""
    said = getattr(task, "classes", None)
    return int(said()) if callable(said) else 0


def rows_of(shard: Shard, labels: Tensor) -> Tensor:
    """The rows of a shard, as Data wants them, from the labels of the pool."""
    return torch.from_numpy(shard.rows(labels.numpy()))
