"""The compute seam: models go in and out by digest, so that vectors never travel between processes in a call.

`gossipnode/compute` implements it twice: a worker process that owns torch (the daemon itself never imports it), and
inline for simulation. Blobs lie in the node's store, which both sides can open.

Cancelling a call pre-empts it: the implementation stops between two batches, within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sampling.peers import Round
from verify.digest import Digest


class LearnerError(Exception):
    """The operator's task raised or the worker died. One line fit for a log."""


class Unfit(Exception):
    """A blob is not a model of this run: wrong names, shapes, types or a non-finite value; or training from it gives
    non-finite numbers. The fault of whoever made it, unless theta0 is unfit here too (`protocols.fitness`)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One node's local update: a new model blob, already in the store."""

    model: Digest
    samples: int  # examples the node holds, the weight of its model in the mean
    steps: int  # optimiser steps taken
    loss: float  # mean training loss over those steps
    seconds: float  # wall time inside the learner


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model against the node's own held-out data."""

    model: Digest
    loss: float
    accuracy: float  # 0..1; for tasks without a notion of accuracy, the task's main metric
    samples: int
    metrics: dict[str, float] = field(default_factory=dict)


class Learner(Protocol):
    async def initial(self) -> Digest:
        """theta0 as the manifest's seed makes it: the same bytes on every machine of the same versions. Stored."""

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        """Local SGD from `parent`. `seed` fixes batch order and dropout. Raises LearnerError; Unfit if `parent` is none
        of this run, or loss or update become non-finite."""

    async def merge(self, models: Sequence[Digest], weights: Sequence[int]) -> Digest:
        """Weighted mean, in the given order (so that aggregators agree bit for bit). Raises Unfit."""

    async def check(self, model: Digest) -> float:
        """The model's largest absolute value, exactly. Raises Unfit unless the blob is a model of this run with finite
        values only."""

    async def evaluate(self, model: Digest) -> Evaluation:
        """Raises LearnerError, Unfit."""
