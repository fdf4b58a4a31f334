from __future__ import annotations

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from gossipnode.compute.inline import Cost, InlineLearner, InlineSwarm
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import encode
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs
from protocols.learner import Learner, LearnerError, Unfit
from protocols.manifest import Training
from sampling.peers import Round
from verify.digest import digest_of
from verify.lsh import NO_NORM, distance

COST = Cost(batch_s=0.5, merge_s=1.0, check_s=0.25, evaluate_s=2.0)


@pytest.fixture(scope="module")
def swarm() -> InlineSwarm:
    return InlineSwarm(LearnerConfig(task="digits", seed=1, training=Training(lr=0.1)))


async def test_virtual_time_passes_as_the_cost_says(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    learner: Learner = swarm.learner(Shard(index=2, count=8), MemoryBlobs(10**8), COST)
    theta0 = await learner.initial()
    began = trio.current_time()

    def passed() -> float:
        nonlocal began
        seconds, began = trio.current_time() - began, trio.current_time()
        return seconds

    done = await learner.train(theta0, Round(1), seed=0)
    assert (done.samples, done.steps, done.seconds) == (180, 9, 4.5)
    assert passed() == pytest.approx(4.5)
    merged = await learner.merge([done.model, theta0, theta0], [1, 1, 1])
    assert passed() == pytest.approx(3.0)
    await learner.check(merged)
    assert passed() == pytest.approx(0.25)
    await learner.evaluate(merged)
    assert passed() == pytest.approx(2.0)


async def test_two_hundred_learners_share_a_model_and_the_data(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    blobs = MemoryBlobs(10**8)
    learners = [swarm.learner(Shard(index=i, count=200, partition="dirichlet:0.5"), blobs) for i in range(200)]
    model = await learners[0].initial()
    before = (await learners[7].evaluate(model)).accuracy
    for round in range(30):
        trained = [await learners[(20 * round + i) % 200].train(model, Round(round), seed=i) for i in range(20)]
        model = await learners[0].merge([t.model for t in trained], [t.samples for t in trained])
    after = await learners[9].evaluate(model)
    assert after.accuracy > before + 0.4
    assert after == await learners[10].evaluate(model)


async def test_what_a_learner_does_does_not_depend_on_the_others(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    blobs = MemoryBlobs(10**8)
    one, two = (swarm.learner(Shard(index=i, count=2), blobs) for i in range(2))
    theta0 = await one.initial()
    alone = await one.train(theta0, Round(1), seed=7)
    await two.train(alone.model, Round(1), seed=8)
    await two.evaluate(alone.model)
    assert await one.train(theta0, Round(1), seed=7) == alone


async def test_anothers_training_is_done_again_on_as_many_examples_as_it_says(
    swarm: InlineSwarm, autojump_clock: MockClock
) -> None:
    blobs = MemoryBlobs(10**8)
    maker, auditor = (swarm.learner(Shard(index=i, count=8), blobs) for i in range(2))
    theta0 = await maker.initial()
    made = await maker.train(theta0, Round(1), seed=7)
    again = await auditor.replay(theta0, Round(1), seed=7, shard="0/8 iid 0", samples=made.samples)
    assert again.model == made.model
    began = trio.current_time()
    with pytest.raises(Unfit, match=f"there are {made.samples} examples in that shard, not {made.samples + 1}"):
        await auditor.replay(theta0, Round(1), seed=7, shard="0/8 iid 0", samples=made.samples + 1)
    assert trio.current_time() == began  # nobody trained for that


async def test_the_signature_of_an_update(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    blobs = MemoryBlobs(10**8)
    learner: Learner = swarm.learner(Shard(index=2, count=8), blobs)
    theta0 = await learner.initial()
    one, two = [await learner.train(theta0, Round(1), seed=seed) for seed in (0, 1)]
    update = await learner.signature(one.model, theta0, bytes(32))
    assert update == await learner.signature(one.model, theta0, bytes(32))
    assert update != await learner.signature(one.model, theta0, bytes([1] * 32))
    assert distance(update, await learner.signature(two.model, theta0, bytes(32))) > 10
    assert update.norm < (await learner.signature(one.model, None, bytes(32))).norm
    assert (await learner.signature(theta0, theta0, bytes(32))).norm == NO_NORM


async def test_an_update_beyond_float32_is_unfit(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    blobs = MemoryBlobs(10**8)
    learner, length = swarm.learner(Shard(count=8), blobs), swarm.engine.template.parameters
    huge = np.full(length, 3e38, dtype=np.float32)
    up, down = [await blobs.put(encode(vector, swarm.engine.template)) for vector in (huge, -huge)]
    with pytest.raises(Unfit, match="no signature: a value is not finite, or too large"):
        await learner.signature(up, down, bytes(32))


async def test_a_cancelled_call_stores_nothing(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    blobs = MemoryBlobs(10**8)
    learner = swarm.learner(Shard(count=8), blobs, COST)
    theta0 = await learner.initial()
    held = blobs.held_bytes
    with trio.move_on_after(1.0) as scope:
        await learner.train(theta0, Round(1), seed=0)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1.0)
    assert blobs.held_bytes == held


async def test_unfit_and_missing_models(swarm: InlineSwarm) -> None:
    blobs = MemoryBlobs(10**8)
    learner: InlineLearner = swarm.learner(Shard(count=8), blobs)
    hostile = await blobs.put(b"not a model")
    for attempt in (
        learner.check(hostile),
        learner.evaluate(hostile),
        learner.train(hostile, Round(1), seed=0),
        learner.merge([hostile], [1]),
        learner.signature(hostile, None, bytes(32)),
        learner.signature(await learner.initial(), hostile, bytes(32)),
    ):
        with pytest.raises(Unfit):
            await attempt
    with pytest.raises(LearnerError, match="not in the store"):
        await learner.check(digest_of(b"never seen"))
