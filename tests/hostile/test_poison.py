"""Models that are finite, fit by name and shape, and cannot be trained from: whoever hands one in is refused, and where
one was believed all the same the run goes back to before it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.manifest import Audit
from protocols.messages import TrainedModel
from sampling.peers import Round
from sampling.view import Delta
from verify.digest import digest_of
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
MakeStranger = Any
Found = Any
Swarm = Any
Member = Any

CEILING_S = 60.0  # of a round, in conftest's manifest
ToyModel = struct.Struct("<d8s")  # as conftest's
HUGE = (3e38, 1e30, -3e38)


def lies(swarm: Swarm, liar: Member, value: float) -> None:
    """It hands that in whenever it trains."""
    swarm.liars.add(liar.peer)
    liar.learner.hands_in = value


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("count", "aggregators"), [(10, 1), (10, 3), (30, 1), (4, 1)])
async def test_an_absurd_model_is_refused_and_is_its_trainers_offence(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found, value: float, count: int, aggregators: int
) -> None:
    swarm = make_swarm(trainers=3, aggregators=aggregators, start_peers=count, rounds=10)
    members = await found(swarm, count)
    liar = swarm.trainers(2)[0]
    lies(swarm, liar, value)
    last = await swarm.until_finished(6 * CEILING_S)
    assert abs(await members[0].learner.value(last.model)) <= 10
    accused = {offence for member in members if member is not liar for offence in member.offences()}
    assert accused == {(liar.peer, OffenceKind.UNFIT_MODEL)}
    assert all(member.head.retreats == 0 for member in members)


# -- believed all the same --------------------------------------------------------------------------------------------


async def disturb(swarm: Swarm) -> None:
    """A round that is gone back from has two aggregates: no finding while it is the liar's doing."""
    while True:
        swarm.disturbed_s = trio.current_time()
        await trio.sleep(1)


@pytest.mark.parametrize("value", [4e5, -4e5])  # not absurd, and yet nobody can train from the mean
@pytest.mark.parametrize(("count", "aggregators"), [(10, 1), (10, 3), (30, 1)])
async def test_a_run_goes_back_from_what_cannot_be_trained_from_and_on(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found, value: float, count: int, aggregators: int
) -> None:
    swarm = make_swarm(trainers=3, aggregators=aggregators, start_peers=count, rounds=10)
    members = await found(swarm, count)
    liar = swarm.trainers(2)[0]
    lies(swarm, liar, value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb, swarm)
        await swarm.until_round(9, 10 * CEILING_S)
        liar.learner.hands_in = None  # from the last model nobody trains
        last = await swarm.until_finished(10 * CEILING_S)
        nursery.cancel_scope.cancel()
    assert abs(await members[0].learner.value(last.model)) <= 10
    assert any(member.head.retreats for member in members)
    assert all(member.offences() == [] for member in members)
    assert all(member.node.protocol.trainer.failure is None for member in members)


async def test_what_is_handed_in_unbidden_in_every_round_does_not_stop_the_run(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=10, rounds=4, audit=Audit(fraction=0.0))  # no claim need be signed
    members = await found(swarm, 10)
    stranger = await make_stranger(swarm)
    poison = ToyModel.pack(4e5, b"stranger")
    stranger.blobs[digest_of(poison)] = poison
    await stranger.join(*(member.peer for member in members))

    async def insist() -> None:
        while True:
            for member in members:
                known = member.head.known
                offer = TrainedModel(Round(known.round + 1), known.model, digest_of(poison), 10, Delta())
                if known.round < 3:
                    await stranger.say(member.peer, offer, 1.0)
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb, swarm)
        nursery.start_soon(insist)
        last = await swarm.until_finished(20 * CEILING_S)
        nursery.cancel_scope.cancel()
    assert abs(await members[0].learner.value(last.model)) <= 4
    assert any(member.head.retreats for member in members)


def aggregator_of_an_early_round(swarm: Swarm) -> Any:  # noqa: ANN401 - the conftest's own type of a member
    """Not of the last one: nobody trains from its model, so nobody can find out about it."""
    (last,) = swarm.aggregators(12)
    return next(member for round in range(3, 9) for member in swarm.aggregators(round) if member is not last)


async def test_a_lying_aggregator_does_not_stop_the_run(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=10, rounds=12)
    members = await found(swarm, 10)
    liar = aggregator_of_an_early_round(swarm)
    swarm.liars.add(liar.peer)
    liar.learner.bias = 3e38
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb, swarm)
        last = await swarm.until_finished(20 * CEILING_S)
        nursery.cancel_scope.cancel()
    assert abs(await members[0].learner.value(last.model)) <= 12
    assert any(member.head.retreats for member in members)


async def test_who_merges_its_own_poison_does_not_stop_the_run(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=10, rounds=12)
    members = await found(swarm, 10)
    liar = aggregator_of_an_early_round(swarm)
    lies(swarm, liar, 3e38)
    liar.learner.blind = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb, swarm)
        last = await swarm.until_finished(20 * CEILING_S)
        nursery.cancel_scope.cancel()
    assert abs(await members[0].learner.value(last.model)) <= 12


@pytest.mark.parametrize("poisoned", [False, True])
async def test_broken_data_of_our_own_drag_nobody_back_and_the_operator_is_told(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found, poisoned: bool
) -> None:
    swarm = make_swarm(trainers=3, start_peers=10, rounds=10)
    members = await found(swarm, 10)
    broken = swarm.trainers(2)[0]
    broken.learner.own_data_broken = True
    if poisoned:
        lies(swarm, swarm.trainers(3)[1], 4e5)
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        if poisoned:
            nursery.start_soon(disturb, swarm)
        await swarm.until(lambda: "own data" in (broken.node.protocol.trainer.failure or ""))
        told.append(broken.node.protocol.trainer.failure)
        await swarm.until_finished(20 * CEILING_S)
        nursery.cancel_scope.cancel()
    assert broken.head.retreats == 0
    if not poisoned:
        assert all(member.head.retreats == 0 for member in members)
        assert [aggregate.round for aggregate in swarm.believed] == list(range(1, 11))
    assert all(member.offences() == [] for member in members)
