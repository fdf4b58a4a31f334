"""The compute seam: models go in and out by digest, so that vectors never travel between processes in a call.

`gossipnode/compute` implements it twice: a worker process that owns torch (the daemon itself never imports it), and
inline for simulation. Blobs lie in the node's store, which both sides can open.

Cancelling a call pre-empts it: the implementation stops between two batches, within a second. Only `add` and `restore`
are not given up once they have begun: A is where it was, or where it was to be.
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


@dataclass(frozen=True, slots=True)
class Probed:
    """What one origin has to say in one step. The loss is for its own operator: it is not made to be published."""

    scalars: bytes  # one for each seed, each a signed number in -127..127
    loss: float  # mean over the probes
    saturated: int  # probes whose slope was beyond the clip
    seconds: float  # wall time inside the learner


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


class StepLearner(Protocol):
    """For one-byte training: theta = theta0 + quantum * A. The learner keeps A, which begins at zero.

    Where A was lost (the worker died), every call but `restore` raises LearnerError: nobody goes on from zero unawares.
    """

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        """At the present A, along z of each of the 64-bit `seeds`; `seed` fixes the batches. Raises LearnerError."""

    async def add(self, updates: Sequence[tuple[int, int]]) -> None:
        """(seed, coefficient) each: A += coefficient * z(seed), in any order. The negated ones take it back. All or
        nothing: if it is cancelled, it had not begun. Raises LearnerError."""

    async def digest(self) -> Digest:
        """Of A as little-endian int32. Raises LearnerError."""

    async def snapshot(self) -> Digest:
        """A as a blob in the store, whose digest is that of A. Raises LearnerError, StoreFull."""

    async def restore(self, a: Digest | None) -> None:
        """A from a blob in the store; None: zeros. Raises Unfit, and then A is what it was, and LearnerError."""

    async def score(self) -> Evaluation:
        """At the present A, whose digest is the Evaluation's `model`. Raises LearnerError."""
