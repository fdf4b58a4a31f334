"""Rounds without a network: trainers, some of them liars, and a rule that merges. For tables of merging rules.

The liars know all honest models of the round and agree on what to say. Each lie's strength is its paper's, or that of
the byzfl library, chosen before any rule was measured; none is tuned against the rule that judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from bench.together import trained
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Vector, decode, encode
from gossipnode.learn.engine import Engine
from gossipnode.learn.images import UCI
from gossipnode.learn.merge import Shape, merged
from gossipnode.learn.models import Models
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import Data
from protocols.learner import Unfit
from protocols.manifest import Training
from protocols.merging import Merging

Updates = NDArray[np.float64]  # differences from the round's parent, (n, d)
Lie = Callable[
    [Updates, Updates, np.random.RandomState], Updates
]  # honest, the liars' own honest work -> what they say

SCALE: Final = 100.0  # what an unclipped mean follows at once
ALIE_Z: Final = 1.5  # deviations; Baruch et al., 2019 (arXiv 1902.06156); byzfl's default
IPM: Final = 2.0  # Xie et al., 2020 (arXiv 1903.03936); byzfl's default
NOISE: Final = 1.0  # deviation of each value; byzfl's default


def everywhere(update: Updates, liars: int) -> Updates:
    return np.repeat(update[None], liars, axis=0)


LIES: Final[dict[str, Lie | None]] = {
    "none": None,
    "sign flip": lambda honest, own, draw: -own,
    "scaling": lambda honest, own, draw: SCALE * own,
    "noise": lambda honest, own, draw: draw.normal(0, NOISE, own.shape),
    "ALIE": lambda honest, own, draw: everywhere(honest.mean(0) - ALIE_Z * honest.std(0), len(own)),
    "IPM": lambda honest, own, draw: everywhere(-IPM * honest.mean(0), len(own)),
    "label flip": lambda honest, own, draw: own,  # their labels are c -> 9 - c
}


@dataclass(frozen=True)
class Setting:
    trainers: int = 20
    liars: int = 6
    rounds: int = 20
    partition: str = "iid"
    lr: float = 0.1


class Rounds:
    """One engine, and each trainer's data; liars are the first trainers, or there are none."""

    def __init__(self, setting: Setting, lie: str, seed: int) -> None:
        self.setting, self.lie, self.seed = setting, LIES[lie], seed
        self.engine = Engine(LearnerConfig(task="digits", seed=seed, training=Training(lr=setting.lr)))
        shards = (
            Shard(index=index, count=setting.trainers, partition=setting.partition, seed=seed)
            for index in range(setting.trainers)
        )
        self.data = [self.engine.data(shard) for shard in shards]
        if lie == "label flip":
            self.data[: setting.liars] = [flipped(data) for data in self.data[: setting.liars]]

    def accuracy(self, merging: Merging) -> float:
        """After the last round; that of chance if the model became unfit."""
        template, liars = self.engine.template, self.setting.liars
        shape = Shape(template.lengths, len(self.engine.flat.learned))
        model, draw = self.engine.initial(), np.random.RandomState(self.seed)
        try:
            for round in range(self.setting.rounds):
                parent = decode(model, template)
                models = self.trained(parent, round)
                if self.lie is not None:
                    updates = models.astype(np.float64) - parent
                    models[:liars] = parent + self.lie(updates[liars:], updates[:liars], draw)
                weights = [len(data.rows) for data in self.data]
                model = encode(merged(Models.of(models), weights, merging, shape, parent), template)
            return self.engine.evaluate(model, self.data[-1])["accuracy"]
        except (Unfit, ValueError):  # not finite
            return 0.1

    def trained(self, parent: Vector, round: int) -> Vector:
        """What all make of it, (n, P)."""
        shapes = [shape for _, shape in self.engine.template.layout]
        start, training = torch.from_numpy(parent.copy()), self.engine.config.training
        seeds = [self.seed_of(node, round) for node in range(self.setting.trainers)]
        found: Vector = trained(start, shapes, self.data, 1 / UCI.white, training, seeds).numpy()
        return found

    def seed_of(self, node: int, round: int) -> int:
        return 1_000_003 * self.seed + 1009 * round + node


def flipped(data: Data) -> Data:
    x, y = data.pool
    return Data((x, 9 - y), data.rows, data.test)
