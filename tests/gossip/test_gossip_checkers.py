"""Each checker of gossip learning can fail: a real swarm, one node of which is doctored so that it breaks that rule."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from gossipnode.checkers import Belief, Checker, Finding, Seen, World
from gossipnode.gossip_checkers import STARVED, AgeGrows, NobodyStarves, OffersHeld, OneOfEachOrigin, SoundOffers
from gossipnode.trainings import Finished
from protocols.learner import Unfit
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]
Swarm = Any  # of conftest.py


def world_of(swarm: Swarm, *news: Belief, calm_s: float = 0.0) -> World:
    seen = [Seen(str(each.index), each.node, each.blobs, 1) for each in swarm.members]
    now_s = trio.current_time()
    return World(now_s=now_s, calm_since_s=now_s - calm_s, nodes=seen, names={}, news=news)


def found(checker: Checker, *worlds: World) -> list[Finding]:
    return [finding for world in worlds for finding in checker.look(world)]


async def test_an_age_that_falls(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=2) as swarm:
        member, _ = await swarm.start(2)
        await swarm.until_finished()
        checker = AgeGrows()
        assert found(checker, world_of(swarm), world_of(swarm)) == []
        member.gossip.trainer.age = Round(3)
        assert [each.nodes for each in found(checker, world_of(swarm))] == [["0"]]


async def test_an_offer_that_is_not_there_or_not_sound(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    def check(blob: bytes) -> float:
        if blob == rotten:
            raise Unfit("not finite")
        return 1.0

    async with make_swarm(start_peers=2) as swarm:
        member, _ = await swarm.start(2)
        await swarm.until_finished()
        rotten = b""
        assert found(OffersHeld(), world_of(swarm)) == found(SoundOffers(check), world_of(swarm)) == []
        rotten = await member.blobs.get(member.gossip.trainer.newest.model)
        assert [each.nodes for each in found(SoundOffers(check), world_of(swarm))] == [["0"]]
        missing = Digest(digest_of(b"missing"))
        member.gossip.trainer.newest = msgspec.structs.replace(member.gossip.trainer.newest, model=missing)
        assert [each.nodes for each in found(OffersHeld(), world_of(swarm))] == [["0"]]


async def test_one_origin_twice_in_a_merge(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=1, gossip={"neighbours": 2}) as swarm:
        await swarm.start()
        digest = Digest(digest_of(b"any"))
        a, b, c, d = (PeerId(name) for name in "abcd")
        for origins, wrong in (([a, b, c], False), ([a, b, b], True), ([a, b, c, d], True)):
            belief = Belief("0", Finished(1, origins, [a], digest, digest), 0.0)
            assert bool(found(OneOfEachOrigin(), world_of(swarm, belief))) is wrong


async def test_a_node_that_trains_and_never_merges(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(rounds=0, start_peers=3) as swarm:
        starved, *_ = await swarm.start(3)
        checker, sound = NobodyStarves(), []
        for _ in range(2 * STARVED):
            await trio.sleep(0.5)
            sound += found(checker, world_of(swarm, calm_s=100.0))
        assert sound == []
        starved.gossip.inbox.take = list  # nothing that waits is taken
        for _ in range(3 * STARVED):
            await trio.sleep(0.5)
            sound += found(checker, world_of(swarm, calm_s=100.0))
        assert {tuple(each.nodes) for each in sound} == {("0",)}


async def test_a_node_alone_does_not_starve(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(rounds=0, start_peers=1) as swarm:
        await swarm.start()
        checker = NobodyStarves()
        for _ in range(3 * STARVED):
            await trio.sleep(0.5)
            assert found(checker, world_of(swarm, calm_s=100.0)) == []
