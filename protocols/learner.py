"""The compute seam: models go in and out by digest, so that vectors never travel between processes in a call.

`gossipnode/compute` implements it twice: a worker process that owns torch (the daemon itself never imports it), and
inline for simulation. Blobs lie in the node's store, which both sides can open.

Cancelling a call pre-empts it: the implementation stops between two batches, within a second. Only `add` and `restore`
are not given up once they have begun: cancelled before that they change nothing, later they still return. Where A was
lost (the worker died), every call of a StepLearner but `restore` raises LearnerError: nobody begins at zero unawares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sampling.peers import Round
from verify.digest import Digest
from verify.lsh import Signature


class LearnerError(Exception):
    """The operator's task raised or the worker died. One line fit for a log."""


class Unfit(Exception):
    """A blob is not a model of this run: wrong names, shapes, types or a non-finite value; or training from it gives
    non-finite numbers. The fault of whoever made it, unless theta0 is unfit here too (`protocols.fitness`)."""


class Unanswerable(Exception):
    """The bytes are no input of this task. One line, told to whoever asked."""


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
    """One node's bytes of one step."""

    scalars: bytes  # a signed byte a probe, in -127..127
    loss: float  # mean over the probes: for the operator's own eyes, not made to be published
    saturated: int  # probes whose slope was beyond the clip
    seconds: float  # wall time inside the learner


class Learner(Protocol):
    async def initial(self, seed: int | None = None) -> Digest:
        """theta0 as the manifest's seed makes it: the same bytes on every machine of the same versions. Stored.
        `seed`: the same model with other random numbers, in what travels of it."""

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        """Local SGD from `parent`. `seed` fixes batch order and dropout. Raises LearnerError; Unfit if `parent` is none
        of this run, or loss or update become non-finite."""

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        """As `train`, on another's shard by its description. Raises Unfit also if there is no such shard, or, before it
        trains, if that has not so many examples."""

    async def merge(self, models: Sequence[Digest], weights: Sequence[int], parent: Digest | None = None) -> Digest:
        """By the manifest's rule, in the given order (so that aggregators agree bit for bit). Rules that look at what
        a round changed (`merging.CENTRED`) need the `parent` that the models were trained from. Raises Unfit."""

    async def check(self, model: Digest) -> float:
        """The model's largest absolute value, exactly. Raises Unfit unless the blob is a model of this run with finite
        values only."""

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        """Of the update model - parent, or of the model itself. `seed` is 32 bytes (`verify.lsh.SEED_BYTES`). Raises
        LearnerError; Unfit if either is no model of this run, or the update is beyond float32."""

    async def evaluate(self, model: Digest) -> Evaluation:
        """Raises LearnerError, Unfit."""

    async def answer(self, model: Digest, question: bytes) -> bytes:
        """What it makes of an input file: little-endian float32 scores, a row an example. In one-byte training the
        model is a snapshot of A. Raises Unanswerable, LearnerError; Unfit if it is no model of this run."""


class StepLearner(Protocol):
    """One-byte training. theta = theta0 + quantum * A; the learner keeps A, which begins at zero. Any LearnerError of
    `add` and `restore` means that A is unknown: restore it and add again what came since."""

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        """A byte for each of `seeds`, at the present A; `seed` fixes the batches. Raises LearnerError."""

    async def reprobe(self, seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
        """As `probe`, on another's shard by its description. Raises Unfit if there is no such shard, LearnerError."""

    async def add(self, updates: Sequence[tuple[int, int]]) -> None:
        """A += coefficient * z(seed) for each (seed, coefficient); negated ones take it back. Raises LearnerError."""

    async def digest(self) -> Digest:
        """Of A. Raises LearnerError."""

    async def snapshot(self) -> Digest:
        """A as a blob in the store, whose digest is that of A. Raises LearnerError, StoreFull."""

    async def restore(self, a: Digest | None) -> None:
        """From a blob in the store; None: zeros. Raises Unfit, LearnerError."""

    async def score(self) -> Evaluation:
        """At the present A; `Evaluation.model` is its digest. Raises LearnerError."""
