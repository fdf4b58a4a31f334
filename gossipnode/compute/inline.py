"""The learner for simulation: it computes in the calling thread, then lets virtual time pass as if that took a while.

Hundreds of learners share one engine (one model, one copy of the data); its own a learner has only the rows of its
shard, and which A it is at. One torch thread and deterministic algorithms: a seed gives one trace, unless the privacy
option draws its noise, from the system's own chance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import trio

from gossipnode.compute.sums import Sum, Sums
from gossipnode.learn import spsa
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import Batch, Data
from protocols.blobs import Blobs
from protocols.learner import Evaluation, LearnerError, Probed, Trained
from protocols.merging import OWN
from sampling.peers import Round
from verify.digest import Digest, digest_of, short
from verify.lsh import Signature

EVALUATIONS_KEPT = 64  # results shared by learners with one test set: every node evaluates each round's aggregate


@dataclass(frozen=True, slots=True)
class Cost:
    """Virtual seconds. The defaults are those of one slow core with a small CNN."""

    batch_s: float = 0.002  # a step of SGD
    merge_s: float = 0.001  # for each model merged
    check_s: float = 0.0005
    sketch_s: float = 0.0005
    evaluate_s: float = 0.03
    answer_s: float = 0.002
    probe_s: float = 0.0015  # two forward passes
    add_s: float = 0.00001  # for each update
    sum_s: float = 0.0005  # to hash, store or restore A


class InlineSwarm:
    """What the learners of one process share. `config` describes any of them; each gets its own shard."""

    def __init__(self, config: LearnerConfig) -> None:
        """Raises TaskError, LearnerError."""
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        self.engine = Engine(config)
        self.theta0 = self.engine.initial()
        self._evaluations: OrderedDict[Digest, tuple[Batch, dict[str, float]]] = OrderedDict()
        self._shards: dict[tuple[str, int | None], Data] = {}  # that were replayed
        self._sums: Sums | None = None

    def learner(self, shard: Shard, blobs: Blobs, cost: Cost = Cost()) -> InlineLearner:
        """Raises TaskError, LearnerError."""
        return InlineLearner(self, self.engine.data(shard), blobs, cost)

    def others(self, shard: str, samples: int | None = None) -> Data:
        """Raises Unfit, LearnerError."""
        if (shard, samples) not in self._shards:
            self._shards[shard, samples] = self.engine.others(shard, samples)
        return self._shards[shard, samples]

    def sums(self, data: Data) -> Sums:
        """Made at the first call, with whoever's data: other protocols need none. Raises LearnerError."""
        if self._sums is None:
            wanted = self.engine.config.theta0
            if wanted and wanted != digest_of(self.theta0):
                raise LearnerError(f"this machine's theta0 is {short(digest_of(self.theta0))}, not {short(wanted)}")
            self._sums = Sums(self.engine, self.theta0, data)
        return self._sums

    def evaluate(self, model: Digest, blob: bytes, data: Data) -> dict[str, float]:
        return self._evaluated(model, data, lambda: self.engine.evaluate(blob, data))

    def score(self, a: Sum, data: Data) -> dict[str, float]:
        return self._evaluated(a.digest, data, lambda: self.sums(data).score(a, data))

    def _evaluated(self, model: Digest, data: Data, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A pure function of model, or A, and test set: learners with the same test set share what they find."""
        test, metrics = self._evaluations.get(model, ((), {}))
        if not test or test[0] is not data.test[0]:
            metrics = compute()
            self._evaluations[model] = data.test, metrics
            if len(self._evaluations) > EVALUATIONS_KEPT:
                self._evaluations.popitem(last=False)
        return metrics


class InlineLearner:
    """A `protocols.learner.Learner` and StepLearner. Cancelled while the time of a call passes, it does nothing."""

    def __init__(self, swarm: InlineSwarm, data: Data, blobs: Blobs, cost: Cost) -> None:
        self._swarm, self._engine, self._data, self._blobs, self._cost = swarm, swarm.engine, data, blobs, cost
        self._a: Sum | None = None  # zeros
        self._stepping = trio.Lock()  # one call after the other, as with a worker

    @property
    def a(self) -> Sum:
        """A as it is now, for who looks on from outside."""
        return self._sums()[1]

    async def initial(self, seed: int | None = None) -> Digest:
        return await self._blobs.put(self._swarm.theta0 if seed is None else self._engine.initial(seed))

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        return await self._trained(parent, self._data, seed)

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        return await self._trained(parent, self._swarm.others(shard, samples), seed)

    async def _trained(self, parent: Digest, data: Data, seed: int) -> Trained:
        update = self._engine.train(await self._blob(parent), data, seed=seed)
        seconds = update.steps * self._cost.batch_s
        await trio.sleep(seconds)
        model = await self._blobs.put(update.blob)
        return Trained(model, update.samples, update.steps, update.loss, seconds)

    async def merge(self, models: Sequence[Digest], weights: Sequence[int], parent: Digest | None = None) -> Digest:
        centre = None if parent is None else await self._blob(parent)
        blobs = [await self._blob(model) for model in models]
        if self._engine.config.merging.rule in OWN:
            merged = self._engine.integrate(blobs, self._data)
        else:
            merged = self._engine.merge(blobs, weights, centre)
        await trio.sleep(len(models) * self._cost.merge_s)
        return await self._blobs.put(merged)

    async def check(self, model: Digest) -> float:
        largest = self._engine.check(await self._blob(model))
        await trio.sleep(self._cost.check_s)
        return largest

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        before = await self._blob(parent) if parent else None
        found = self._engine.signature(await self._blob(model), before, seed)
        await trio.sleep(self._cost.sketch_s)
        return found

    async def evaluate(self, model: Digest) -> Evaluation:
        return await self._evaluation(model, self._swarm.evaluate(model, await self._blob(model), self._data))

    async def answer(self, model: Digest, question: bytes) -> bytes:
        theta0 = self._swarm.theta0 if self._engine.config.rules is not None else None
        output = self._engine.answer(await self._blob(model), question, theta0)
        await trio.sleep(self._cost.answer_s)
        return output

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        async with self._stepping:
            sums, a = self._sums()
            return await self._probed(sums.probe(a, self._data, seeds, seed))

    async def reprobe(self, seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
        async with self._stepping:
            sums, a = self._sums()
            return await self._probed(sums.reprobe(a, self._swarm.others(shard), seeds, seed))

    async def _probed(self, done: spsa.Probed) -> Probed:
        seconds = len(done.scalars) * self._cost.probe_s
        await trio.sleep(seconds)
        return Probed(done.scalars, done.loss, done.saturated, seconds)

    async def add(self, updates: Sequence[tuple[int, int]]) -> None:
        async with self._stepping:
            sums, a = self._sums()
            added = sums.added(a, updates)
            await trio.sleep(len(updates) * self._cost.add_s)
            self._a = added

    async def digest(self) -> Digest:
        async with self._stepping:
            await trio.sleep(self._cost.sum_s)
            return self._sums()[1].digest

    async def snapshot(self) -> Digest:
        async with self._stepping:
            await trio.sleep(self._cost.sum_s)
            return await self._blobs.put(self._sums()[1].snapshot)

    async def restore(self, a: Digest | None) -> None:
        async with self._stepping:
            sums, _ = self._sums()
            restored = sums.zero if a is None else sums.of(await self._blob(a))
            await trio.sleep(self._cost.sum_s)
            self._a = restored

    async def score(self) -> Evaluation:
        async with self._stepping:
            _, a = self._sums()
            return await self._evaluation(a.digest, self._swarm.score(a, self._data))

    def _sums(self) -> tuple[Sums, Sum]:
        """All, and ours."""
        sums = self._swarm.sums(self._data)
        return sums, self._a or sums.zero

    async def _evaluation(self, model: Digest, metrics: dict[str, float]) -> Evaluation:
        await trio.sleep(self._cost.evaluate_s)
        return Evaluation(model, metrics["loss"], metrics["accuracy"], len(self._data.test[0]), dict(metrics))

    async def _blob(self, digest: Digest) -> bytes:
        try:
            return await self._blobs.get(digest)
        except KeyError as error:
            raise LearnerError(f"model {short(digest)} is not in the store") from error
