"""The whole of it on a real task, as the simulation computes it: losses in, bytes out, one A that learns."""

from __future__ import annotations

from typing import Any

import msgspec
from trio.testing import MockClock

from gossipnode.compute.inline import InlineLearner, InlineSwarm
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs

NODES = 8
PARAMETERS = 4810


async def test_digits_are_learnt_with_one_a(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    inline: list[InlineSwarm] = []

    def learner(blobs: MemoryBlobs, index: int) -> InlineLearner:
        return inline[0].learner(Shard(index=index, count=NODES), blobs)

    settings = {"steps": 40, "probes": 8, "seats": 8, "epoch": 8, "stage": 3}
    swarm = make_swarm(make_learner=learner, a_bytes=4 * PARAMETERS, **settings)
    config = msgspec.structs.replace(LearnerConfig.of(swarm.manifest), theta0=b"")  # as the seed makes it
    inline.append(InlineSwarm(config))
    await swarm.start(NODES)
    before = await swarm.members[0].learner.score()
    await swarm.until(lambda: all(member.node.finished for member in swarm.members))
    digests = {await member.learner.digest() for member in swarm.members}
    assert len(digests) == 1
    after = await swarm.members[0].learner.score()
    assert before.accuracy < 0.2
    assert after.accuracy > 0.5
    assert {member.node.certified_height for member in swarm.members} == {24}
