"""MoDeST rounds among whole nodes on the simulated network: who trains, who dies, who lies, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.messages import Aggregate, HeadIs, Input, Settled
from sampling.peers import PeerId, Role, Round
from sampling.view import Registration
from verify.digest import digest_of
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
Member = Any
Swarm = Any


def inputs(aggregate: Aggregate) -> set[PeerId]:
    return {each.trainer for each in aggregate.inputs}


async def founded(swarm: Swarm, count: int, **learner: float) -> None:
    """Nobody begins before all have met, so that their samples agree (`start_peers`)."""
    await swarm.start(count, **learner)
    await swarm.see_everyone()


@pytest.mark.parametrize(("count", "trainers", "aggregators"), [(1, 1, 1), (2, 2, 1), (4, 3, 1), (8, 4, 1), (6, 4, 3)])
async def test_a_run_goes_to_its_end_and_all_agree(
    autojump_clock: MockClock, make_swarm: MakeSwarm, count: int, trainers: int, aggregators: int
) -> None:
    swarm = make_swarm(trainers=trainers, aggregators=aggregators, start_peers=count)
    await founded(swarm, count)
    last = await swarm.until_finished()
    assert last.round == 5
    for round in range(1, 6):
        aggregate = swarm.settled(round)
        assert len(aggregate.inputs) == trainers
        assert len(aggregate.aggregators) == aggregators
        assert aggregate.parent == (
            swarm.settled(round - 1).model if round > 1 else bytes.fromhex(swarm.manifest.theta0)
        )
    for member in swarm.alive():
        assert await member.learner.value(last.model) == 5.0
        assert member.learner.evaluated == [last.model]
        assert member.offences() == []


async def test_a_dead_trainer_is_replaced(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=6)
    await founded(swarm, 6, train_s=5.0)
    (aggregator,) = swarm.aggregators(1)
    dead = next(member for member in swarm.trainers(1) if member is not aggregator)
    await swarm.until(lambda: dead.learner.begun == [1])
    swarm.crash(dead)
    await swarm.until_round(1)
    assert len(swarm.settled(1).inputs) == 3
    assert dead.peer not in inputs(swarm.settled(1))
    last = await swarm.until_finished()
    assert last.round == 5


async def test_a_dead_aggregator_is_replaced_and_nothing_is_lost(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=7)
    await founded(swarm, 7, train_s=5.0)
    trainers, (aggregator,) = swarm.trainers(1), swarm.aggregators(1)
    # One is quicker than all others, so that the aggregator dies with its model alone in its hands.
    quick = [next(member for member in trainers if member is not aggregator)]
    for member in swarm.alive():
        member.learner.train_s = 5.0 if member in quick else 15.0
    await swarm.until(lambda: all(member.learner.trained == [1] for member in quick))
    await trio.sleep(1.0)
    swarm.crash(aggregator)
    await swarm.until_round(1)
    settled = swarm.settled(1)
    assert {member.peer for member in quick} <= inputs(settled)
    assert aggregator.peer not in settled.aggregators
    assert all(member.learner.begun.count(1) == 1 for member in quick)  # trained once, handed in again
    assert (await swarm.until_finished()).round == 5


async def test_when_all_trainers_die_the_round_is_taken_up_again(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=8)
    await founded(swarm, 8, train_s=5.0)
    doomed = swarm.trainers(1)
    await swarm.until(lambda: all(member.learner.begun == [1] for member in doomed))
    swarm.crash(*doomed)
    await swarm.until_round(1)
    assert not inputs(swarm.settled(1)) & {member.peer for member in doomed}
    assert (await swarm.until_finished()).round == 5


async def test_when_trainers_and_aggregators_die_in_mid_run_it_goes_on(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=8, pull_every=1)
    await founded(swarm, 8, train_s=5.0)
    await swarm.until_round(2)
    await trio.sleep(1.0)
    swarm.crash(*{member.peer: member for member in [*swarm.trainers(3), *swarm.aggregators(3)]}.values())
    assert (await swarm.until_finished(2000.0)).round == 5


async def test_a_run_whose_newest_model_died_with_its_holders_goes_on(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=8)
    await founded(swarm, 8, train_s=5.0)
    await swarm.until_round(2)
    await trio.sleep(1.0)
    swarm.crash(*{member.peer: member for member in [*swarm.trainers(3), *swarm.aggregators(3)]}.values())
    assert (await swarm.until_finished(2000.0)).round == 5


async def test_a_starved_round_is_never_reported_as_done(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=50)
    await founded(swarm, 4)
    await swarm.until_round(2)
    survivor, *others = swarm.alive()
    swarm.crash(*others)
    await trio.sleep(5.0)
    before = survivor.round
    await trio.sleep(5000.0)
    assert survivor.round <= before + 1  # what was gathered before they died may still have been merged
    assert survivor.node.protocol.stalled
    assert survivor.round == 0 or survivor.head.known.inputs[1:]  # never a mean of one


async def test_a_starved_round_goes_on_when_peers_return(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=12)
    await founded(swarm, 4)
    await swarm.until_round(2)
    _, *others = swarm.alive()
    swarm.crash(*others)
    await trio.sleep(300.0)
    for member in others:
        await swarm.restart(member)
    assert (await swarm.until_finished(2000.0)).round == 12


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_lying_aggregator_of_three_is_outvoted(
    autojump_clock: MockClock, make_swarm: MakeSwarm, place: int
) -> None:
    swarm = make_swarm(trainers=3, aggregators=3, start_peers=6, rounds=3)
    await founded(swarm, 6, train_s=3.0)
    liar = swarm.aggregators(1)[place]
    liar.learner.bias = 1000.0
    last = await swarm.until_finished(2000.0)
    assert last.round == 3
    for member in swarm.alive():
        assert await member.learner.value(last.model) == 3.0


async def test_a_newer_round_pre_empts_training(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=3, success_fraction=0.6)
    await founded(swarm, 3)
    slow = next(member for member in swarm.alive() if member not in swarm.aggregators(1))
    slow.learner.train_s = 10_000.0
    last = await swarm.until_finished()
    assert last.round == 5
    assert slow.learner.trained == []
    assert len(slow.learner.begun) > 1  # it began anew with each round that it was in
    assert slow.head.held == last


async def test_a_joiner_in_mid_run(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=4, start_peers=3, rounds=15)
    await founded(swarm, 3)
    await swarm.until_round(3)
    (joiner,) = await swarm.start()
    registered_at = joiner.node.parts.membership.view.registration(joiner.peer).round
    assert registered_at >= 3  # not a founder
    last = await swarm.until_finished()
    assert joiner.learner.trained
    assert min(joiner.learner.trained) > 3  # nothing is trained for rounds gone by
    assert joiner.peer in inputs(last)
    assert all(member.offences() == [] for member in swarm.alive())


async def test_newcomers_wait_out_the_delay(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    from protocols.manifest import Admission

    swarm = make_swarm(trainers=4, start_peers=3, rounds=15, admission=Admission(delay_rounds=5))
    await founded(swarm, 3)
    await swarm.until_round(3)
    (joiner,) = await swarm.start()
    registered_at = joiner.node.parts.membership.view.registration(joiner.peer).round
    await swarm.until_finished()
    rounds = [each.round for each in swarm.believed if joiner.peer in inputs(each)]
    assert rounds
    assert min(rounds) >= registered_at + 5


async def test_joiners_together_find_the_one_that_knows(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=4, rounds=100)
    await swarm.start(train_s=0.5)
    await swarm.until_round(10)
    await swarm.start(3)
    await swarm.until_round(40)
    assert not [each for each in swarm.believed if each.round < 10 and len(each.inputs) > 1]  # no second run beside it


async def test_an_observer_holds_every_nth_and_the_last(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=8, pull_every=3)
    await founded(swarm, 4)
    (observer,) = await swarm.start(roles=[Role.OBSERVER])
    last = await swarm.until_finished()
    saved = [state.held.round for state in observer.saved if state.held]  # now and then beside
    assert list(dict.fromkeys(saved))[-3:] == [3, 6, 8]
    assert observer.learner.begun == []
    assert observer.learner.evaluated == [last.model]
    held = [round for round in range(1, 9) if swarm.settled(round).model in observer.blobs]
    assert held == [3, 6, 8]


async def test_a_model_that_is_not_finite_is_its_senders_offence(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=6)
    await founded(swarm, 6, train_s=3.0)
    (aggregator,) = swarm.aggregators(1)
    mad = next(member for member in swarm.trainers(1) if member is not aggregator)
    swarm.liars.add(mad.peer)
    mad.learner.poison, mad.learner.train_s = True, 1.0  # and it is the first to be done
    last = await swarm.until_finished(2000.0)
    assert not [each for each in swarm.believed if mad.peer in inputs(each)]
    found = {offence for member in swarm.alive() for offence in member.offences()}
    assert found == {(mad.peer, OffenceKind.UNFIT_MODEL)}
    assert await mad.learner.value(last.model) == 5.0


async def test_a_task_that_raises_leaves_the_node_up_and_the_round_goes_on(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=6)
    await founded(swarm, 6, train_s=3.0)
    broken = swarm.trainers(1)[0]
    broken.learner.fails = True
    last = await swarm.until_finished(100.0)  # it says so and is replaced: nobody waits out a ceiling for it
    assert broken.head.held == last
    assert broken.node.protocol.trainer.failure == "KeyError: 'label'"
    assert not [each for each in swarm.believed if broken.peer in inputs(each)]
    assert all(member.offences() == [] for member in swarm.alive())


@pytest.mark.parametrize("aggregators", [1, 3])
async def test_forged_news_of_a_far_future_head_is_ignored(
    autojump_clock: MockClock, make_swarm: MakeSwarm, aggregators: int
) -> None:
    swarm = make_swarm(trainers=3, aggregators=aggregators, start_peers=5, rounds=30)
    await founded(swarm, 5)
    await swarm.until_round(2)
    liar, *honest = swarm.alive()
    swarm.liars.add(liar.peer)
    desk, membership = liar.node.parts.desk, liar.node.parts.membership
    membership.round = Round(2**40)  # it says that it is active in a round far ahead, in all that it sends and signs
    membership.prepare()
    await membership.join()
    for ahead in (5, 20, 1000):
        model = digest_of(bytes([ahead % 256]))
        forged = Aggregate(
            Round(2 + ahead),
            model,
            digest_of(b""),
            tuple(Input(each.peer, model, 1) for each in honest[:3]),
            (liar.peer,),
        )
        await desk.tell(membership.topic, HeadIs(forged))
        for member in honest:
            await desk.ask(member.peer, Settled(forged), object, 10.0)
    await trio.sleep(0.5)
    assert max(member.round for member in honest) < 7
    await swarm.until(lambda: all(member.head.finished for member in honest))
    assert {len(member.head.known.inputs) for member in honest} == {3}


async def test_who_leaves_is_not_sampled_again(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=4, start_peers=4, rounds=12)
    await founded(swarm, 4)
    await swarm.until_round(2)
    leaver = swarm.alive()[-1]
    await leaver.node.leave()
    leaver.scope.cancel()
    swarm.network.leave(leaver.peer)
    left_at = max(swarm.rounds())
    last = await swarm.until_finished()
    assert leaver.peer not in inputs(last)
    late = [each.round for each in swarm.believed if leaver.peer in inputs(each)]
    assert max(late) <= left_at + 1
    for member in swarm.alive():
        registration: Registration = member.node.parts.membership.view.registration(leaver.peer)
        assert not registration.present


async def test_a_restarted_swarm_resumes(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=12)
    await founded(swarm, 4)
    await swarm.until_round(4)
    members = swarm.alive()
    swarm.crash(*members)
    held = {member.peer: member.saved[-1].held for member in members}
    resumed = {peer: aggregate.round if aggregate else 0 for peer, aggregate in held.items()}
    fresh = [await swarm.restart(member) for member in members]
    assert max(resumed.values()) >= 4
    assert (await swarm.until_finished(2000.0)).round == 12
    for member in fresh:  # what was over before the crash is not history of this life
        assert all(entry.round > resumed[member.peer] for entry in member.node.history)


async def test_a_newcomer_to_what_is_left_of_a_swarm_learns_of_its_last_model(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    """Fewer are left than the first round had to wait for."""
    swarm = make_swarm(trainers=2, start_peers=4, rounds=3)
    await swarm.start(4)
    last = await swarm.until_finished()
    for member in swarm.members[2:]:
        await member.node.leave()
        swarm.crash(member)
    await swarm.start(1)
    assert await swarm.until_finished(100.0) == last


@pytest.mark.parametrize("trainers", [2, 4])
async def test_a_frozen_peer_slows_the_first_rounds_and_no_more(
    autojump_clock: MockClock, make_swarm: MakeSwarm, trainers: int
) -> None:
    """As SIGSTOP: its kernel keeps the links up, and it is a candidate until the activity window has passed."""
    swarm = make_swarm(trainers=trainers, start_peers=6, rounds=0)
    await swarm.start(6)
    await swarm.until_round(20)

    async def time_of(rounds: int) -> float:
        began, first = trio.current_time(), max(swarm.rounds())
        others = [member for member in swarm.members if member is not frozen]
        await swarm.until(lambda: min(member.round for member in others) >= first + rounds)
        return (trio.current_time() - began) / rounds

    frozen = None
    usual_s = await time_of(10)
    frozen = swarm.members[3]
    swarm.network.pause(frozen.peer)
    await time_of(5)
    assert await time_of(20) < 1.5 * usual_s
