"""Digits over a frozen backbone: a layer of fixed random features, and an output layer that is trained and travels.

For rules that merge output layers class by class (`merging.rule = "bristle"`), beside those that merge any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from gossipnode.learn.images import CLASSES, UCI, Images

FEATURES: Final = 128
SEED: Final = 20_221  # of the frozen features: all nodes have the same


@dataclass(frozen=True)
class Frozen(Images):
    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            backbone = nn.Linear(self.source.side**2, FEATURES)
        return nn.Sequential(nn.Flatten(), backbone, nn.ReLU(), nn.Linear(FEATURES, CLASSES))

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in model.named_parameters() if name.startswith("3.")}


DIGITS = Frozen(UCI, convolutional=False)
