"""One-byte training as the simulation computes it: many learners, one model, and as many A as differ."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from gossipnode.compute.inline import Cost, InlineLearner, InlineSwarm
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard
from gossipnode.learn.spsa import from_bytes
from gossipnode.memoryblobs import MemoryBlobs
from protocols.learner import LearnerError, StepLearner, Unfit
from sampling.peers import Round
from verify.digest import digest_of

CONFIG = LearnerConfig(task="digits", seed=1, rules=Rules(probes=4))
UPDATES = [(2**64 - 1, 127 * 19), (3, -5), (2**63, 1), (99, -127 * 19)]
SEEDS = [5, 6, 2**64 - 7, 8]
ZERO = digest_of(bytes(4 * 4810))


@pytest.fixture(scope="module")
def swarm() -> InlineSwarm:
    return InlineSwarm(CONFIG)


def learners(swarm: InlineSwarm, count: int) -> list[InlineLearner]:
    blobs = MemoryBlobs(10**8)
    return [swarm.learner(Shard(index=i, count=count), blobs) for i in range(count)]


async def test_a_begins_at_zero_and_what_is_taken_back_is_gone(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    learner: StepLearner = learners(swarm, 4)[0]
    assert await learner.digest() == ZERO
    await learner.add(UPDATES)
    there = await learner.digest()
    assert there != ZERO
    await learner.add([(seed, -coefficient) for seed, coefficient in UPDATES])
    assert await learner.digest() == ZERO
    for update in reversed(UPDATES):
        await learner.add([update])
    assert await learner.digest() == there
    await learner.add([])
    assert await learner.digest() == there


async def test_the_probes_of_another_are_done_again(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    one, two = learners(swarm, 2)
    for learner in (one, two):
        await learner.add(UPDATES)
    theirs, own = await two.probe(SEEDS, seed=3), await one.probe(SEEDS, seed=3)
    assert await one.reprobe(SEEDS, seed=3, shard="1/2 iid 0") == theirs != own
    assert await one.probe(SEEDS, seed=3) == own, "its own data are its own again"
    for nowhere in ("2/2 iid 0", "elsewhere"):
        with pytest.raises(Unfit):
            await one.reprobe(SEEDS, seed=3, shard=nowhere)


async def test_learners_that_share_a_model_find_what_each_finds_alone(
    swarm: InlineSwarm, autojump_clock: MockClock
) -> None:
    """Whatever the others did with the model in between: probing, scoring, training whole models."""
    one, two = learners(swarm, 2)
    alone = InlineSwarm(CONFIG).learner(Shard(index=0, count=2), MemoryBlobs(10**8))
    theta0 = await two.initial()
    for step, update in enumerate(UPDATES):
        await two.add([(step, 5000)])
        await two.probe(SEEDS, seed=step)
        await one.add([update])
        await two.score()
        await two.train(theta0, Round(1), seed=step)
        await alone.add([update])
        assert await one.probe(SEEDS, seed=step) == await alone.probe(SEEDS, seed=step)
        await two.evaluate(theta0)
        assert await one.score() == await alone.score()
    assert await one.digest() == await alone.digest() != await two.digest()


async def test_theta_is_theta0_and_the_quanta(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    learner = learners(swarm, 4)[1]
    theta0 = await learner.evaluate(await learner.initial())
    score = await learner.score()
    assert (score.model, score.loss, score.accuracy) == (ZERO, theta0.loss, theta0.accuracy)
    await learner.add(UPDATES)
    a = await learner.snapshot()
    exported = swarm.engine.exported_sum(swarm.theta0, await learner._blobs.get(a))
    assert (await learner.score()).loss == (await learner.evaluate(await learner._blobs.put(exported))).loss


async def test_it_learns_and_equal_steps_are_computed_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = InlineSwarm(CONFIG)
    crowd = learners(swarm, 8)
    sums = swarm.sums(crowd[0]._data)
    added = 0

    def counted(seeds: np.ndarray, coefficients: np.ndarray) -> None:  # type: ignore[type-arg]
        nonlocal added
        added += 1
        add(seeds, coefficients)

    add = sums._spsa.add
    monkeypatch.setattr(sums._spsa, "add", counted)
    before = (await crowd[0].score()).loss
    for step in range(12):
        updates = []
        for seat, learner in enumerate(crowd):
            seeds = [int.from_bytes(digest_of(b"%d %d %d" % (step, seat, probe))[:8], "little") for probe in range(4)]
            probed = await learner.probe(seeds, seed=step)
            assert (len(probed.scalars), probed.seconds) == (4, 4 * Cost().probe_s)
            updates += zip(seeds, (76 * from_bytes(probed.scalars)).tolist(), strict=True)
        for learner in crowd:
            await learner.add(updates)
            updates = [*updates[1:], updates[0]]
    assert added == 12
    assert len(sums._known) == 2, "zero and where all are: nobody is anywhere else"
    scores = [await learner.score() for learner in crowd]
    assert all(score == scores[0] for score in scores)
    assert scores[0].loss < before - 0.2


async def test_a_snapshot_takes_another_there(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    old, new = learners(swarm, 2)
    await old.add(UPDATES)
    a = await old.snapshot()
    assert a == await old.digest()
    await new.add([(1, 1)])
    await new.restore(a)
    assert await new.digest() == a
    await new.restore(None)
    assert await new.digest() == ZERO


async def test_what_is_no_snapshot_changes_nothing(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    learner = learners(swarm, 2)[0]
    await learner.add(UPDATES)
    before = await learner.digest()
    for blob in (b"", bytes(8), bytes(4 * 4809), b"\x00\x00\x00\x80" * 4810):
        with pytest.raises(Unfit):
            await learner.restore(await learner._blobs.put(blob))
    with pytest.raises(LearnerError, match="not in the store"):
        await learner.restore(digest_of(b"never seen"))
    assert await learner.digest() == before


async def test_cancelled_calls_do_nothing_and_take_their_time(swarm: InlineSwarm, autojump_clock: MockClock) -> None:
    cost = Cost(probe_s=1.0, add_s=2.0, sum_s=0.5, evaluate_s=3.0)
    learner = swarm.learner(Shard(count=8), MemoryBlobs(10**8), cost)
    began = trio.current_time()
    await learner.probe(SEEDS, seed=0)
    await learner.add(UPDATES)
    await learner.score()
    await learner.restore(await learner.snapshot())
    assert trio.current_time() - began == pytest.approx(4 + 8 + 3 + 0.5 + 0.5)
    before = await learner.digest()
    with trio.move_on_after(5) as scope:
        await learner.add([(9, 9), (10, 10), (11, 11)])
    assert scope.cancelled_caught
    assert await learner.digest() == before


async def test_theta0_of_another_machine_is_refused(autojump_clock: MockClock) -> None:
    theta0 = Engine(CONFIG).initial()
    ours = InlineSwarm(msgspec.structs.replace(CONFIG, theta0=digest_of(theta0)))
    assert await learners(ours, 1)[0].digest() == ZERO
    other = InlineSwarm(msgspec.structs.replace(CONFIG, theta0=digest_of(theta0), seed=2))
    with pytest.raises(LearnerError, match="theta0"):
        await learners(other, 1)[0].digest()
