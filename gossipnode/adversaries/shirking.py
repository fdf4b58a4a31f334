"""Trainers that do less than they say, or something else with what they have.

* lazy: one step of SGD; in one-byte training, bytes drawn without a probe. stale: hands in the first model it ever
  trained, again and again. free-rider: hands in what it was given. copycat: hands in what another made of the round
  before. wrong-shard: trains on its neighbour's data. label-flip: trains with label l turned into (most - l).

They claim the examples that an honest trainer of theirs would. The data stay where they are: label-flip is a task of
its own (`gossipnode.adversaries.mislabelled`), which also a worker process can import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.adversaries.mislabelled import spec_of
from gossipnode.conduct import Conduct
from gossipnode.learn.config import LearnerConfig
from gossipnode.node import Node
from gossipnode.trainings import AnyLearner
from protocols.blobs import Blobs
from protocols.exchange import NotFetched
from protocols.learner import Probed, Trained
from sampling.peers import Round
from verify.digest import Digest

_replace = msgspec.structs.replace


def lazy(gang: Gang) -> Conduct:
    def config(config: LearnerConfig) -> LearnerConfig:
        return _replace(config, training=_replace(config.training, epochs=0, steps=1))

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def probe(seeds: Sequence[int], *, seed: int) -> Probed:
            return Probed(bytes(gang.rng.randrange(1, 256) for _ in seeds), 0.0, 0, 0.0)

        return bent(honest, probe=probe)

    return Conduct(config=config, learner=learner)


def stale(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        old: list[tuple[Trained, bytes]] = []
        bytes_of_old: list[Probed] = []

        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            if not old:
                trained = await honest.train(parent, round, seed=seed)
                old.append((trained, await blobs.get(trained.model)))
            await blobs.put(old[0][1])  # the store may have dropped it meanwhile
            return old[0][0]

        async def probe(seeds: Sequence[int], *, seed: int) -> Probed:
            if not bytes_of_old:
                bytes_of_old.append(await honest.probe(seeds, seed=seed))
            return bytes_of_old[0]

        return bent(honest, train=train, probe=probe)

    return Conduct(learner=learner)


def free_rider(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        samples: list[int] = []  # it must train once to know how many it has

        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            if not samples:
                samples.append((await honest.train(parent, round, seed=seed)).samples)
            return Trained(parent, samples[0], 1, 0.0, 0.0)

        async def probe(seeds: Sequence[int], *, seed: int) -> Probed:
            return Probed(bytes(len(seeds)), 0.0, 0, 0.0)

        return bent(honest, train=train, probe=probe)

    return Conduct(learner=learner)


def copycat(gang: Gang) -> Conduct:
    """In one-byte training another's byte is worth nothing at one's own probe: there it is honest."""
    alive: list[Node] = []

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            own = await honest.train(parent, round, seed=seed)
            stolen = await _stolen(alive[0])
            return own if stolen is None else dataclasses.replace(own, model=stolen)

        return bent(honest, train=train)

    async def live(node: Node) -> None:
        alive[:] = [node]
        await node.run()

    return Conduct(learner=learner, live=live)


async def _stolen(node: Node) -> Digest | None:
    """A model of the round before by another trainer, if it can still be had."""
    held = node.protocol.held
    others = [each for each in held.inputs if each.trainer != node.parts.desk.me] if held is not None else []
    for each in others:
        try:
            await node.parts.exchange.obtain(each.model, [each.trainer, *held.aggregators] if held else [])
        except NotFetched:
            continue
        return Digest(each.model)
    return None


def wrong_shard(gang: Gang) -> Conduct:
    def config(config: LearnerConfig) -> LearnerConfig:
        shard = config.shard
        return _replace(config, shard=_replace(shard, index=(shard.index + 1) % shard.count))

    return Conduct(config=config)


def label_flip(gang: Gang) -> Conduct:
    return Conduct(config=lambda config: _replace(config, task=spec_of(config.task)))
