"""The learner of the daemon: calls to a worker process, which is started, watched, interrupted and killed here.

* A call that is cancelled interrupts the worker between two batches; if it does not stop within `grace_s` it is killed.
* A worker that dies fails the calls it was doing with one line, and the next call starts another. The A of one-byte
  training dies with it: only `restore` starts another then.
* What the worker writes to stderr (the task's own output too) goes to the log, line by line.
Invariant: each model that the worker stored is adopted by the daemon's store before the call returns, so that the
store's bound counts it. The daemon imports neither torch nor numpy for this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from gossipnode.compute import calls
from gossipnode.compute.calls import Ask
from gossipnode.compute.child import Adopt, Child
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import TaskError
from protocols.learner import Evaluation, LearnerError, Probed, Trained
from protocols.merging import OWN
from sampling.peers import Round
from verify.digest import Digest
from verify.lsh import Signature

_log = logging.getLogger(__name__)

A = TypeVar("A", bound=calls.Answer)

GRACE_S = 2.0  # between an interrupt and the kill: longer than a batch of any model that fits such a machine


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a new manifest must say of a task, and how much data this node has."""

    parameters: int
    model_bytes: int
    samples: int
    theta0: Digest  # in the store
    source: str  # BLAKE2b-256 of the task's module in hex, "" if built in
    sum_bytes: int  # of A in one-byte training

    def blob_bytes(self, protocol: str) -> int:
        """Of what peers fetch from each other: `Manifest.model_bytes`."""
        return self.sum_bytes if protocol == "onebyte" else self.model_bytes


class WorkerLearner:
    """A `protocols.learner.Learner` and a StepLearner, and what only the daemon asks: `describe`, `export`,
    `export_sum`, `spent`. Made by `open_worker`."""

    def __init__(self, config: LearnerConfig, adopt: Adopt, nursery: trio.Nursery, grace_s: float) -> None:
        self._config, self._adopt, self._nursery, self._grace_s = config, adopt, nursery, grace_s
        self._child: Child | None = None
        self._bearer: Child | None = None  # who has A; dead: nobody has it
        self._ready = calls.Ready(0, 0, 0, "", None, 0)
        self._starting, self._model, self._blobs = trio.Lock(), trio.Lock(), trio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the worker process, if one is alive."""
        return None if self._child is None or self._child.ended.is_set() else self._child.process.pid

    async def describe(self) -> TaskInfo:
        """Stores theta0. Raises LearnerError, StoreFull."""
        ready, theta0 = self._ready, await self.initial()
        return TaskInfo(ready.parameters, ready.model_bytes, ready.samples, theta0, ready.source, ready.sum_bytes)

    def blob_bytes(self, protocol: str) -> int:
        """As TaskInfo has it, of the task as it is here."""
        return self._ready.sum_bytes if protocol == "onebyte" else self._ready.model_bytes

    async def initial(self, seed: int | None = None) -> Digest:
        return (await self._ask(self._model, calls.Initial(seed), calls.Done))[1]

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        done, model = await self._ask(self._model, calls.Train(parent, seed), calls.Improved)
        return Trained(model, done.samples, done.steps, done.loss, done.seconds)

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        done, model = await self._ask(self._model, calls.Replay(parent, seed, shard, samples), calls.Improved)
        return Trained(model, done.samples, done.steps, done.loss, done.seconds)

    async def merge(self, models: Sequence[Digest], weights: Sequence[int], parent: Digest | None = None) -> Digest:
        if self._config.merging.rule in OWN:
            return (await self._ask(self._model, calls.Integrate(list(models)), calls.Done))[1]
        ask = calls.Merge(list(models), list(weights), parent or b"")
        return (await self._ask(self._blobs, ask, calls.Done))[1]

    async def check(self, model: Digest) -> float:
        checked, _ = await self._ask(self._blobs, calls.Check(model), calls.Checked)
        return checked.largest

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        sketched, _ = await self._ask(self._blobs, calls.Sketch(model, parent or b"", seed), calls.Sketched)
        return Signature.of(sketched.signature)

    async def evaluate(self, model: Digest) -> Evaluation:
        scored, _ = await self._ask(self._model, calls.Evaluate(model), calls.Scored)
        return _evaluation(scored)

    async def answer(self, model: Digest, question: bytes) -> bytes:
        return (await self._ask(self._model, calls.Infer(model, question), calls.Inferred))[0].output

    async def export(self, model: Digest, path: Path) -> None:
        """Write the model as float32 safetensors. Raises OperatorError if that fails, Unfit, LearnerError."""
        await self._ask(self._model, calls.Export(model, str(path)), calls.Done)

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        probed, _ = await self._ask_bearer(calls.Probe(calls.packed("Q", seeds), seed), calls.Probed)
        self._ready = msgspec.structs.replace(self._ready, spent=probed.spent)
        return Probed(probed.scalars, probed.loss, probed.saturated, probed.seconds)

    async def reprobe(self, seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
        ask = calls.Reprobe(calls.packed("Q", seeds), seed, shard)
        probed, _ = await self._ask_bearer(ask, calls.Probed)
        return Probed(probed.scalars, probed.loss, probed.saturated, probed.seconds)

    async def add(self, updates: Sequence[tuple[int, int]]) -> None:
        async with self._model:
            child = self._with_a()
            with trio.CancelScope(shield=True):  # else nobody would know whether it was added
                for ask in calls.adds(updates):
                    await child.call(ask, self._grace_s)

    async def digest(self) -> Digest:
        return Digest((await self._ask_bearer(calls.Sum(store=False), calls.Summed))[0].digest)

    async def snapshot(self) -> Digest:
        return (await self._ask_bearer(calls.Sum(store=True), calls.Summed))[1]

    async def restore(self, a: Digest | None) -> None:
        async with self._model:
            child = await self._alive()
            with trio.CancelScope(shield=True):
                await child.call(calls.Restore(a or b""), self._grace_s)
            self._bearer = child

    async def score(self) -> Evaluation:
        scored, _ = await self._ask_bearer(calls.Score(), calls.Scored)
        return _evaluation(scored)

    async def export_sum(self, a: Digest | None, path: Path) -> None:
        """Write theta0 + quantum * A as float32 safetensors, with A from a snapshot, or of zeros. Leaves the learner's
        own A alone. Raises OperatorError if that fails, Unfit, LearnerError."""
        await self._ask(self._model, calls.ExportSum(a or b"", str(path)), calls.Done)

    def spent(self) -> float | None:
        """epsilon, at `learn.spending.DELTA`, of all private probes of this home; None without the privacy option."""
        return self._ready.spent

    async def start(self) -> None:
        """Raises TaskError if task or data are at fault, LearnerError."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "gossipnode.compute.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(self._config.threads),
        )
        self._child = Child(process, self._adopt)
        self._nursery.start_soon(self._child.attend)
        began = time.monotonic()
        try:
            reply = await self._child.call(calls.Start(self._config), grace_s=0)
        except Exception:
            await self._child.kill()  # it is of no use
            raise
        assert isinstance(reply.answer, calls.Ready)
        self._bearer = self._bearer or self._child  # only the first begins at zero
        self._ready = reply.answer
        _log.debug("worker %d is ready after %.1f s", process.pid, time.monotonic() - began)

    async def close(self) -> None:
        if self._child is not None:
            await self._child.close()

    async def _ask(self, lane: trio.Lock, ask: Ask, kind: type[A]) -> tuple[A, Digest]:
        async with lane:
            reply = await (await self._alive()).call(ask, self._grace_s)
        assert isinstance(reply.answer, kind)
        return reply.answer, Digest(reply.stored)

    async def _ask_bearer(self, ask: calls.StepAsk, kind: type[A]) -> tuple[A, Digest]:
        async with self._model:
            reply = await self._with_a().call(ask, self._grace_s)
        assert isinstance(reply.answer, kind)
        return reply.answer, Digest(reply.stored)

    def _with_a(self) -> Child:
        if self._bearer is None or self._bearer.ended.is_set():
            raise LearnerError("A was lost with the worker process that had it: it must be restored")
        return self._bearer

    async def _alive(self) -> Child:
        async with self._starting:
            if self.pid is None:
                try:
                    await self.start()
                except TaskError as error:  # it was fine when the daemon started: not the moment to end the daemon
                    raise LearnerError(f"the worker cannot be started again: {error}") from error
        assert self._child is not None
        return self._child


@contextlib.asynccontextmanager
async def open_worker(config: LearnerConfig, adopt: Adopt, *, grace_s: float = GRACE_S) -> AsyncIterator[WorkerLearner]:
    """A learner whose worker has loaded its task and data. Raises TaskError if it cannot, LearnerError if it died."""
    try:
        async with trio.open_nursery() as nursery:
            learner = WorkerLearner(config, adopt, nursery, grace_s)
            await learner.start()
            try:
                yield learner
            finally:
                with trio.CancelScope(shield=True):
                    await learner.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the nursery's own wrapping: its other tasks raise nothing
        if len(group.exceptions) != 1:
            raise
        raise group.exceptions[0] from None


def _evaluation(scored: calls.Scored) -> Evaluation:
    metrics = scored.metrics
    return Evaluation(Digest(scored.model), metrics["loss"], metrics["accuracy"], scored.samples, metrics)


def _environment(threads: int) -> dict[str, str]:
    """The worker imports what the daemon would, and every library that it loads keeps to its threads."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(path), "MALLOC_ARENA_MAX": "2"}
