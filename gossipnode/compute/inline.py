"""The learner for simulation: it computes in the calling thread, then lets virtual time pass as if that took a while.

Hundreds of learners share one engine (one model, one copy of the data); its own a learner has only the rows of its
shard. One torch thread and deterministic algorithms: a seed gives one trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import trio

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import Batch, Data
from protocols.blobs import Blobs
from protocols.learner import Evaluation, LearnerError, Trained
from sampling.peers import Round
from verify.digest import Digest, short

EVALUATIONS_KEPT = 64  # results shared by learners with one test set: every node evaluates each round's aggregate


@dataclass(frozen=True, slots=True)
class Cost:
    """Virtual seconds. The defaults are those of one slow core with a small CNN."""

    batch_s: float = 0.002  # a step of SGD
    merge_s: float = 0.001  # for each model merged
    check_s: float = 0.0005
    evaluate_s: float = 0.03


class InlineSwarm:
    """What the learners of one process share. `config` describes any of them; each gets its own shard."""

    def __init__(self, config: LearnerConfig) -> None:
        """Raises TaskError, LearnerError."""
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        self.engine = Engine(config)
        self.theta0 = self.engine.initial()
        self._evaluations: OrderedDict[Digest, tuple[Batch, dict[str, float]]] = OrderedDict()

    def learner(self, shard: Shard, blobs: Blobs, cost: Cost = Cost()) -> InlineLearner:
        """Raises TaskError, LearnerError."""
        return InlineLearner(self, self.engine.data(shard), blobs, cost)

    def evaluate(self, model: Digest, blob: bytes, data: Data) -> dict[str, float]:
        """A pure function of model and test set, so learners with the same test set share what they find."""
        test, metrics = self._evaluations.get(model, ((), {}))
        if not test or test[0] is not data.test[0]:
            metrics = self.engine.evaluate(blob, data)
            self._evaluations[model] = data.test, metrics
            if len(self._evaluations) > EVALUATIONS_KEPT:
                self._evaluations.popitem(last=False)
        return metrics


class InlineLearner:
    """A `protocols.learner.Learner`. Cancelled while the time of a call passes, it stores nothing."""

    def __init__(self, swarm: InlineSwarm, data: Data, blobs: Blobs, cost: Cost) -> None:
        self._swarm, self._engine, self._data, self._blobs, self._cost = swarm, swarm.engine, data, blobs, cost

    async def initial(self) -> Digest:
        return await self._blobs.put(self._swarm.theta0)

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        update = self._engine.train(await self._blob(parent), self._data, seed=seed)
        seconds = update.steps * self._cost.batch_s
        await trio.sleep(seconds)
        model = await self._blobs.put(update.blob)
        return Trained(model, update.samples, update.steps, update.loss, seconds)

    async def merge(self, models: Sequence[Digest], weights: Sequence[int]) -> Digest:
        merged = self._engine.merge([await self._blob(model) for model in models], weights)
        await trio.sleep(len(models) * self._cost.merge_s)
        return await self._blobs.put(merged)

    async def check(self, model: Digest) -> float:
        largest = self._engine.check(await self._blob(model))
        await trio.sleep(self._cost.check_s)
        return largest

    async def evaluate(self, model: Digest) -> Evaluation:
        metrics = self._swarm.evaluate(model, await self._blob(model), self._data)
        await trio.sleep(self._cost.evaluate_s)
        return Evaluation(model, metrics["loss"], metrics["accuracy"], len(self._data.test[0]), dict(metrics))

    async def _blob(self, digest: Digest) -> bytes:
        try:
            return await self._blobs.get(digest)
        except KeyError as error:
            raise LearnerError(f"model {short(digest)} is not in the store") from error
