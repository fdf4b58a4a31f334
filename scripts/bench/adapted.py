"""Digits over a frozen backbone with adapters: two layers of fixed random features, each with a trained map of low rank
beside it, and an output layer. For rules that merge adapters, and for nodes that train at different ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from gossipnode.learn.images import CLASSES, UCI, Images
from gossipnode.learn.tasks.sentiment import Adapted

WIDTH: Final = 64
RANK: Final = 8
SEED: Final = 20_221  # of the frozen layers: all nodes have the same


@dataclass(frozen=True)
class Frozen(Images):
    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            layers = nn.Linear(self.source.side**2, WIDTH), nn.Linear(WIDTH, WIDTH)
        first, second = (Adapted(layer, RANK) for layer in layers)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in model.named_parameters() if ".frozen." not in name}


DIGITS = Frozen(UCI, convolutional=False)
