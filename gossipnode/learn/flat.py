"""A torch model whose trainable tensors all lie in one vector, so that loading, saving and SGD are single operations.

Invariant: each trainable tensor is a view of `vector` for as long as the model lives, and each parameter's gradient a
view of `gradient`. Parameters come first, then buffers (a batch norm's running mean travels, but has no gradient). Tied
weights are one tensor and travel once. Buffers that do not travel, integer counters above all, are at every load what
the fresh model has: what a node trained before leaves no trace in what it trains now.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gossipnode.learn.adapters import pairs
from gossipnode.learn.encoding import Vector
from gossipnode.learn.task import Task, TaskError


class Flat:
    """Owns one model and its vector."""

    def __init__(self, task: Task, seed: int, device: torch.device, *, double: bool = False) -> None:
        """`double` is for calibration alone: what is trained travels as float32. Raises TaskError."""
        torch.manual_seed(seed)
        self.model = task.model(seed).to(device)
        tensors = _trainable(task, self.model)
        if double:
            tensors = _doubled(task, self.model, tensors)
        travel = {id(tensor) for _, tensor in tensors}
        self._fresh = [(each, each.clone()) for each in self.model.buffers() if id(each) not in travel]
        self.layout = [(name, tuple(tensor.shape)) for name, tensor in tensors]
        lengths = [tensor.numel() for _, tensor in tensors]
        learned = sum(tensor.numel() for _, tensor in tensors if tensor.requires_grad)
        self.adapters = [pair for pair in pairs(self.layout) if max(pair.a.stop, pair.b.stop) <= learned]
        self.vector = torch.cat([tensor.detach().reshape(-1) for _, tensor in tensors])  # (P,)
        self.gradient = torch.zeros(learned, device=device, dtype=self.vector.dtype)  # (G,), G <= P
        for (_, tensor), values in zip(tensors, torch.split(self.vector, lengths), strict=True):
            tensor.data = values.view(tensor.shape)
        parameters = [tensor for _, tensor in tensors if tensor.requires_grad]
        for parameter, values in zip(parameters, torch.split(self.gradient, lengths[: len(parameters)]), strict=True):
            parameter.grad = values.view(parameter.shape)

    @property
    def learned(self) -> Tensor:
        """The part of the vector that has a gradient, (G,)."""
        return self.vector[: len(self.gradient)]

    def of_rank(self, rank: int, seed: int) -> Tensor:
        """1 where a node that trains `rank` components of each adapter trains, else 0, (G,). Which, the seed draws, so
        that in time every node trains all of them, as those of FedRolex do (Alam et al., 2022, arXiv 2212.01548)."""
        mask = np.ones(len(self.gradient), dtype=np.float32)
        draw = np.random.RandomState([seed % 2**32, seed >> 32])  # whose streams are frozen for good
        for pair in self.adapters:
            part, frozen = pair.adapter(mask), draw.permutation(pair.rank)[rank:]
            part.a[frozen], part.b[:, frozen] = 0.0, 0.0
        return torch.from_numpy(mask).to(self.vector.device)

    def load(self, vector: Vector) -> None:
        for buffer, fresh in self._fresh:
            buffer.copy_(fresh)
        if self.vector.device.type == "cpu":
            np.copyto(self.read(), vector)  # torch would warn of a read-only source
        else:
            self.vector.detach().copy_(torch.from_numpy(vector.copy()))

    def read(self) -> Vector:
        """On a CPU, a view and not a copy: it changes with the model."""
        values: Vector = self.vector.cpu().numpy()
        return values


def _doubled(task: Task, model: nn.Module, tensors: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The same tensors, found again: buffers are replaced."""
    model.double()
    found = task.trainable(model)
    return [(name, found[name]) for name, _ in tensors]


def _trainable(task: Task, model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters by name, then buffers by name; every other parameter is frozen. Raises TaskError."""
    tensors = task.trainable(model)
    chosen = {id(tensor) for tensor in tensors.values()}
    if not tensors or len(chosen) != len(tensors):
        raise TaskError("trainable() must name at least one tensor, and none of them twice")
    if len({tensor.data_ptr() for tensor in tensors.values()}) != len(tensors):
        raise TaskError(
            "trainable() names two tensors that share memory: tie weights by assigning the parameter itself"
        )
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for name, tensor in tensors.items():
        if id(tensor) not in own:
            raise TaskError(f"trainable() must return the model's own parameters and buffers; {name!r} is a copy")
        if tensor.dtype != torch.float32 or tensor.numel() == 0:
            raise TaskError(f"trainable() must return float32 tensors with elements; {name!r} is {tensor.dtype}")
    for parameter in model.parameters():
        if id(parameter) not in chosen:
            parameter.requires_grad_(False)
    return sorted(tensors.items(), key=lambda item: (not item[1].requires_grad, item[0]))
