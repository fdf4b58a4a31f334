"""Training by bytes in one process, without a network: what the seats of a chain would send, and what A becomes.

All replicas are equal, so one stands for all, and takes the data of each seat in turn. Learning rates are chosen on a
fifth of the training examples that no shard holds; the test split is looked at once, at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gossipnode.learn.accountant import Privacy
from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.signs import Floats, signs
from gossipnode.learn.rules import LEVELS, Rules
from gossipnode.learn.shard import Shard
from gossipnode.learn.spsa import Spsa, from_bytes
from gossipnode.learn.task import Batch, Data, Task, load_task

HELD_OUT = 5  # one training example in five is for validation


@dataclass(frozen=True, slots=True)
class Setting:
    """`lr` is that of the mean over all bytes of a step, as the literature gives it; it falls to a tenth, evenly."""

    lr: float
    probes: int
    clip: float = 16.0
    eps: float = 0.01
    batch: int = 64
    seats: int = 8
    steps: int = 500
    partition: str = "iid"
    quantum_exponent: int = -16
    task: str = "digits"

    def rules(self) -> Rules:
        return Rules(
            probes=self.probes,
            eps=self.eps,
            clip=self.clip,
            batch=self.batch,
            quantum_exponent=self.quantum_exponent,
        )

    @property
    def multiplier(self) -> int:
        """Of the first step: the nearest to the learning rate."""
        return max(1, round(self.lr / (self.probes * self.seats) * self.clip / LEVELS / 2.0**self.quantum_exponent))

    def multiplier_at(self, step: int) -> int:
        """`step` counts from 0."""
        fallen = (self.multiplier - max(1, self.multiplier // 10)) * min(step, self.steps) // self.steps
        return self.multiplier - fallen


@dataclass(frozen=True, slots=True)
class Trained:
    """Accuracies on the two splits that were not trained on."""

    validation: float
    test: float
    saturated: float = 0.0  # share of the bytes
    reach: int = 0  # max |A_i|


def seed_of(*what: int) -> int:
    """64 bits of BLAKE2b: never a counter."""
    text = " ".join(map(str, what)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def shards(task: Task, setting: Setting, seed: int) -> tuple[list[Data], Batch, Batch]:
    """Of each seat; the validation examples; the test examples."""
    whole = task.data(Shard(), None)
    order = torch.randperm(len(whole.rows), generator=torch.Generator().manual_seed(seed + 1))
    kept, out = order[len(order) // HELD_OUT :], order[: len(order) // HELD_OUT]
    pool = tuple(tensor[whole.rows[kept]] for tensor in whole.pool)
    labels = pool[1].numpy()
    cuts = [Shard(index=i, count=setting.seats, partition=setting.partition, seed=seed) for i in range(setting.seats)]
    pieces = [Data(pool, torch.from_numpy(cut.rows(labels)), whole.test) for cut in cuts]
    return pieces, tuple(tensor[whole.rows[out]] for tensor in whole.pool), whole.test


def never(spsa: Spsa, step: int, seat: int, seeds: list[int], scalars: bytes) -> None:
    """Nobody watches."""


def train(
    setting: Setting,
    seed: int,
    privacy: Privacy | None = None,
    watch: Callable[[Spsa, int, int, list[int], bytes], None] = never,
    victim: Data | None = None,
) -> Trained:
    """By bytes. `watch` sees the model and what each seat publishes; `victim` replaces the data of seat 0."""
    task, rules = load_task(setting.task), setting.rules()
    pieces, validation, test = shards(task, setting, seed)
    pieces[0] = victim or pieces[0]
    flat = Flat(task, seed, torch.device("cpu"))
    spsa = Spsa(flat, task, pieces[0], flat.read().copy(), rules, privacy=privacy)
    saturated = 0
    for step in range(setting.steps):
        seeds, scalars = [], []
        for seat, spsa.data in enumerate(pieces):
            own = [seed_of(seed, step, seat, probe) for probe in range(rules.probes)]
            probed = spsa.probe(own, seed_of(seed, step, seat))
            watch(spsa, step, seat, own, probed.scalars)
            saturated += probed.saturated
            seeds += own
            scalars.append(from_bytes(probed.scalars))
        spsa.add(np.array(seeds, dtype=np.uint64), np.concatenate(scalars) * setting.multiplier_at(step))
    share = saturated / (setting.steps * setting.seats * rules.probes)
    reach = int(np.abs(np.frombuffer(spsa.snapshot(), dtype="<i4")).max())
    return Trained(accuracy(task, flat, validation), accuracy(task, flat, test), share, reach)


@torch.no_grad()
def train_with_floats(setting: Setting, seed: int) -> Trained:
    """The same steps and batches with slopes as they are: neither clipped nor rounded, theta a sum of floats."""
    task, rules = load_task(setting.task), setting.rules()
    pieces, validation, test = shards(task, setting, seed)
    flat = Flat(task, seed, torch.device("cpu"))
    flat.model.eval()
    theta = flat.read()
    unit = LEVELS * rules.quantum / rules.clip
    for step in range(setting.steps):
        gained = np.zeros_like(theta)
        for seat, data in enumerate(pieces):
            draw = torch.Generator().manual_seed(seed_of(seed, step, seat) % 2**63)
            for probe in range(rules.probes):
                z = signs(seed_of(seed, step, seat, probe), len(theta)).astype(np.float32)
                rows = data.rows[torch.randperm(len(data.rows), generator=draw)[: rules.batch]]
                batch = tuple(tensor[rows] for tensor in data.pool)
                gained -= _slope(task, flat, batch, theta, rules.eps * z, rules.eps) * z
        theta += unit * setting.multiplier_at(step) * gained
    return Trained(accuracy(task, flat, validation), accuracy(task, flat, test))


def _slope(task: Task, flat: Flat, batch: Batch, theta: Floats, move: Floats, eps: float) -> np.float32:
    before = theta.copy()
    np.add(before, move, out=theta)
    there = float(task.loss(flat.model, batch))
    np.subtract(before, move, out=theta)
    back = float(task.loss(flat.model, batch))
    theta[:] = before
    return np.float32((there - back) / (2 * eps))


@torch.no_grad()
def accuracy(task: Task, flat: Flat, examples: Batch) -> float:
    flat.model.eval()
    return float(task.metrics(flat.model, examples)["accuracy"])
