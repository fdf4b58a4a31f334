"""Swarms of gossip learning: all learn from all, nobody waits, and comings and goings cost what they must."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from protocols.gossip.claims import Memory
from protocols.gossip.trainer import BEHIND, CATCH_UP_S
from protocols.merging import Merging
from protocols.messages import Held
from sampling.peers import Role, Round

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]

BY_PULL = {"inline_bytes": 0}


async def test_everybody_trains_as_often_as_asked_and_merges_what_others_have(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(gossip=BY_PULL, start_peers=4) as swarm:
        members = await swarm.start(4)
        await swarm.until_finished()
        for member in members:
            counts = member.gossip.trainer.counts
            assert member.age == 10
            assert counts.merges >= 2
            assert member.gossip.puller.pulled > 0
            assert member.saved[-1].held.round == 10
            assert member.saved[-1].held.model == member.gossip.model
            assert member.node.learning.evaluated_round == 10
        assert sum(member.gossip.trainer.counts.models for member in members) > 20


async def test_questions_are_answered_from_what_a_node_has_trained(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(rounds=1, start_peers=2) as swarm:
        one, _ = await swarm.start(2)
        assert one.gossip.models == []  # theta0 has learnt nothing
        await swarm.until_finished()
        assert one.gossip.models == [Held(Round(1), one.gossip.model)]


async def test_until_it_is_merged_what_was_just_trained_is_shown_to_nobody(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    """It knows the node's own data best: on sorted labels it names little else."""
    async with make_swarm(rounds=0, start_peers=2, gossip={"every_s": 5.0}) as swarm:
        one, _ = await swarm.start(2)
        await swarm.until(lambda: one.age == 3 and one.gossip.state == "idle")
        trained, shown = one.gossip.trainer.newest.model, one.gossip.model
        assert await one.learner.value(trained) == await one.learner.value(shown) + 1
        assert one.gossip.models == [Held(Round(2), shown)]
        await one.node.leave()
        assert one.saved[-1].held.model == shown  # what is exported


async def test_a_checkpoint_goes_with_the_work_it_was_made_by(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    """Whenever it is saved: else a node that comes back is taken for a liar, for its next claim names another work."""
    async with make_swarm(rounds=0, start_peers=2, gossip={"every_s": 5.0}) as swarm:
        one, _ = await swarm.start(2)
        await swarm.until(lambda: one.gossip.held is not None and one.gossip.model != one.gossip.held.model)
        await one.node.save()
        saved = one.saved[-1]
        work = msgspec.msgpack.decode(saved.docket.gossip, type=Memory).work
        values = [await one.learner.value(part.offer.model) for part in work.parts]
        assert await one.learner.value(saved.held.model) == sum(values) / len(values)


async def test_small_models_ride_in_announcements(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(gossip={"pull_bytes_s": 0.001}) as swarm:
        members = await swarm.start(4)
        await swarm.until_finished()
        assert all(member.gossip.trainer.counts.models > member.gossip.puller.pulled for member in members)


async def test_a_node_alone_keeps_training(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm() as swarm:
        (alone,) = await swarm.start()
        await swarm.until_finished(within_s=30)
        assert alone.gossip.trainer.counts.merges == 0
        assert alone.learner.parents == list(range(10))


async def test_the_run_begins_with_those_that_the_manifest_wants_to_see(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=3) as swarm:
        await swarm.start(2)
        await trio.sleep(20)
        assert [member.age for member in swarm.members] == [0, 0]
        await swarm.start()
        await swarm.until_finished()


async def test_nobody_waits_for_the_slow_who_goes_on_with_the_finished(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=4, gossip=BY_PULL) as swarm:
        *quick, slow = [*await swarm.start(3), *await swarm.start(slowdown=8.0)]
        began = trio.current_time()
        await swarm.until(lambda: all(member.gossip.finished for member in quick))
        assert trio.current_time() - began < 15
        assert slow.age <= 3
        before, trained = slow.gossip.trainer.counts.models, slow.age
        await swarm.until_finished()
        # Their last models are merged each time: it does not drift away from them.
        assert slow.gossip.trainer.counts.models - before >= len(quick) * (slow.age - trained)


async def test_a_slow_link_means_fewer_merges_and_no_waiting(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=4, gossip={"inline_bytes": 0, "pull_bytes_s": 4.0}) as swarm:
        await swarm.start(4)
        began = trio.current_time()
        await swarm.until_finished()
        assert trio.current_time() - began < CATCH_UP_S + 15
        assert all(1 <= member.gossip.trainer.counts.models <= 8 for member in swarm.members)


async def test_first_models_may_differ(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=3, gossip={"init": "different"}, rounds=15) as swarm:
        await swarm.start(3)
        await swarm.until_finished()
        firsts = [member.learner.parents[0] for member in swarm.members]
        lasts = [member.learner.parents[-1] for member in swarm.members]
        assert len(set(firsts)) > 1
        assert max(lasts) - min(lasts) < max(firsts) - min(firsts)  # and find each other


async def test_what_is_merged_is_as_fresh_as_ones_own(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    """Offered before the rest and merged after it: each turn then builds on all that the last one has learned."""
    async with make_swarm(start_peers=4, gossip={"every_s": 5.0, "inline_bytes": 0}) as swarm:
        await swarm.start(4)
        await swarm.until_finished()
        for member in swarm.members:
            assert await member.learner.value(member.gossip.model) > 8.5  # ten, if nothing waited


async def test_the_wait_for_others_does_not_count_as_a_slow_training(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=2, rounds=1, gossip={"every_s": 1.0}) as swarm:
        await swarm.start()
        await trio.sleep(30)
        await swarm.start()
        await swarm.until_finished()
        assert [member.gossip.trainer.newest.train_ms for member in swarm.members] == [1000, 1000]


async def test_who_has_nothing_yet_does_not_keep_others_from_merging(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=6, rounds=6, gossip=BY_PULL) as swarm:
        members = await swarm.start(6)
        await swarm.until_finished()
        assert sum(member.gossip.trainer.counts.merges for member in members) >= 2 * len(members)


async def test_who_is_hardly_behind_keeps_what_it_began_with(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(rounds=40, gossip={"init": "different", "every_s": 2.0}) as swarm:
        await swarm.start(2)
        await swarm.until(lambda: min(member.age for member in swarm.members) >= 2)
        (late,) = await swarm.start()
        assert max(member.age for member in swarm.members) < BEHIND
        await swarm.until(lambda: late.age == 3)
        assert late.gossip.trainer.counts.caught_up == 0
        assert late.gossip.trainer.counts.merges > 0


async def test_a_killed_node_comes_back_with_its_age_and_goes_on_from_the_others(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=3, rounds=60) as swarm:
        *_, victim = await swarm.start(3)
        await swarm.until(lambda: victim.age >= 15)
        swarm.crash(victim)
        saved = victim.saved[-1].held.round
        assert saved >= 1
        await trio.sleep(10)
        back = await swarm.restart(victim)
        assert back.age == saved
        await swarm.until(lambda: back.gossip.trainer.counts.caught_up == 1)
        await swarm.until(lambda: len(back.learner.parents) > 0)
        assert back.learner.parents[0] > saved + 5  # from their models, not from its own of old
        await swarm.until_finished()


async def test_a_newcomer_goes_on_from_the_others(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=3, rounds=30) as swarm:
        await swarm.start(3)
        await swarm.until(lambda: min(member.age for member in swarm.members) >= 12)
        (late,) = await swarm.start()
        await swarm.until(lambda: late.age >= 1)
        assert late.learner.parents[0] >= 8
        await swarm.until_finished()
        assert late.age == 30  # of its own


async def test_a_node_that_was_stopped_for_a_minute_catches_up(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=3, rounds=0) as swarm:
        *_, stopped = await swarm.start(3)
        await swarm.until(lambda: stopped.age >= 5)
        stopped.learner.train_s = 30.0  # its machine sleeps
        await trio.sleep(31)
        stopped.learner.train_s = 0.5
        behind = max(member.age for member in swarm.members) - stopped.age
        assert behind > 20
        own = stopped.learner.parents[-1]
        await swarm.until(lambda: stopped.gossip.trainer.counts.caught_up > 0)
        await swarm.until(lambda: stopped.learner.parents[-1] > own + 20)


async def test_two_sides_of_a_partition_train_on_and_find_each_other(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=4, rounds=0) as swarm:
        members = await swarm.start(4)
        await swarm.until(lambda: min(member.age for member in members) >= 5)
        sides = members[:2], members[2:]
        swarm.network.partition([[member.peer for member in side] for side in sides])
        before = [member.age for member in members]
        await trio.sleep(40)
        assert all(member.age > age + 30 for member, age in zip(members, before, strict=True))
        swarm.network.heal()

        def across() -> bool:
            heard = [member.gossip.neighbours.fresh(trio.current_time()) for member in sides[0]]
            return all(any(other.peer in each for other in sides[1]) for each in heard)

        await swarm.until(across, within_s=120)


async def test_an_observer_has_what_the_others_have(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=4) as swarm:
        await swarm.start(4)
        (observer,) = await swarm.start(roles=[Role.OBSERVER])
        await swarm.until_finished()
        assert observer.learner.parents == []
        assert await observer.learner.value(observer.gossip.model) > 5


async def test_a_merge_that_cannot_be_trained_from_costs_that_merge(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(start_peers=3) as swarm:
        *_, member = await swarm.start(3)
        member.learner.merges_to = 1e6
        await swarm.until_finished()
        assert member.age == 10
        assert member.gossip.troubles == []


async def test_a_task_that_fails_is_told_and_tried_again(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=2) as swarm:
        _, broken = await swarm.start(2)
        broken.learner.fails = True
        await swarm.until(lambda: broken.gossip.troubles == ["the task fails: KeyError: 'label'"])
        broken.learner.fails = False
        await swarm.until_finished()
        assert broken.gossip.troubles == []


async def test_no_merge_has_fewer_models_than_its_liars_need(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    merging = Merging(rule="trimmed-mean", byzantine=2)
    async with make_swarm(start_peers=5, merging=merging, rounds=20, gossip={"inline_bytes": 0}) as swarm:
        await swarm.start(5)
        await swarm.until_finished()
        sizes = [len(models) for member in swarm.members for models, _ in member.learner.merged]
        assert sizes
        assert min(sizes) >= 5
