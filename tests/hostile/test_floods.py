"""Too much of everything: questions, gossip, dials, bytes that are no message. The honest finish their rounds while it
goes on, the offender's link is closed, and what is remembered of it is bounded."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols import limits, wire
from protocols.messages import Ack, Aggregate, AnyMessage, AskHead, HeadIs, Input, Ping, Registered, Settled
from protocols.transport import LinkDown, Unreachable
from sampling.peers import PeerId, Round
from verify.digest import digest_of
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
MakeStranger = Any
Found = Any

ABSENT = digest_of(b"nobody holds this")
FAR = Round(2**40)
KEPT_BYTES = 2 * limits.MIB  # more than this must not be left of an attack by one peer


def invented(round: int, maker: PeerId) -> Aggregate:
    return Aggregate(Round(round), ABSENT, ABSENT, (Input(maker, ABSENT, 1),), (maker,))


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


Burst = Callable[[Any, PeerId], AnyMessage | bytes]

QUESTIONS: dict[str, Burst] = {
    "pings": lambda stranger, victim: Ping(Round(0)),
    "heads asked for": lambda stranger, victim: AskHead(),
    "garbage": lambda stranger, victim: b"\x02" + bytes(50),
    "another version": lambda stranger, victim: b"\x63" + bytes(50),
    "settled rounds": lambda stranger, victim: Settled(invented(1, stranger.peer)),
}


@pytest.mark.parametrize("kind", QUESTIONS)
async def test_a_flood_of_questions_stops_nobody(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found, kind: str
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=4)
    members = await found(swarm, 5)
    stranger, victim = await make_stranger(swarm), members[0]
    await stranger.join(victim.peer)
    message = QUESTIONS[kind](stranger, victim.peer)
    async with trio.open_nursery() as nursery:

        async def pester() -> None:
            while True:
                if victim.peer not in stranger.transport.peers():
                    await stranger.transport.dial(victim.node.parts.desk.transport.addresses()[0])
                async with trio.open_nursery() as volley:
                    for _ in range(40):
                        volley.start_soon(stranger.say, victim.peer, message, 1.0)
                await trio.sleep(0.1)

        nursery.start_soon(pester)
        assert (await swarm.until_finished()).round == 4
        nursery.cancel_scope.cancel()
    assert len(victim.node.standing.offences()) <= 1000


async def test_the_flooding_peers_link_is_closed(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5)
    members = await found(swarm, 3)
    stranger, victim = await make_stranger(swarm), members[0]
    await stranger.join(victim.peer)
    async with victim.node.parts.desk.transport.links() as changes:
        for _ in range(20):
            async with trio.open_nursery() as volley:
                for _ in range(15):
                    volley.start_soon(stranger.say, victim.peer, Settled(invented(1, stranger.peer)), 1.0)
        seen = [changes.receive_nowait() for _ in range(changes.statistics().current_buffer_used)]
    assert LinkDown(stranger.peer) in seen
    assert (stranger.peer, OffenceKind.FLOOD) in victim.offences()


async def test_others_are_answered_during_a_flood(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5)
    victim, member, _ = await found(swarm, 3)
    stranger = await make_stranger(swarm)
    await stranger.join(victim.peer)
    async with trio.open_nursery() as volley:
        for _ in range(200):
            volley.start_soon(stranger.say, victim.peer, Settled(invented(1, stranger.peer)), 1.0)
        settled = Settled(invented(1, member.peer))
        assert await member.node.parts.desk.ask(victim.peer, settled, Ack, 5.0) == Ack()


async def test_a_flood_of_gossip_is_not_listened_to(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=4)
    members = await found(swarm, 5)
    stranger = await make_stranger(swarm)
    await stranger.join(members[0].peer)
    async with trio.open_nursery() as nursery:

        async def shout() -> None:
            while True:
                for _ in range(20):
                    await stranger.shout(HeadIs(invented(1, stranger.peer)))
                await trio.sleep(0.1)

        nursery.start_soon(shout)
        assert (await swarm.until_finished()).round == 4
        nursery.cancel_scope.cancel()
    assert members[0].node.parts.desk.gossip_rationed > 0


@pytest.mark.parametrize("kind", ["head", "registration", "garbage"])
async def test_a_flood_of_gossip_leaves_nothing_behind(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found, kind: str
) -> None:
    swarm = make_swarm(trainers=3, start_peers=9)
    members = await found(swarm, 2)
    stranger = await make_stranger(swarm)
    await stranger.join(members[0].peer)
    what: Callable[[int], AnyMessage | bytes] = {
        "head": lambda i: HeadIs(invented(i + 1, stranger.peer)),
        "registration": lambda i: Registered(stranger.registration(counter=i + 2)),
        "garbage": lambda i: bytes([1, i % 256]) * 100,
    }[kind]

    async def shout(first: int) -> None:
        for i in range(first, first + 500):
            await stranger.shout(what(i))
            await trio.sleep(0.02)

    await shout(0)
    tracemalloc.start()
    try:
        before = held_bytes()
        await shout(500)
        assert held_bytes() - before < KEPT_BYTES
    finally:
        tracemalloc.stop()


async def test_a_thousand_names_each_within_their_own_rate_leave_the_members_their_turn(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5)
    (victim, member) = await found(swarm, 2)
    desk = victim.node.parts.desk
    frames = [HeadIs(invented(1, PeerId(f"p{i}"))) for i in range(1000)]
    for i, message in enumerate(frames):
        for _ in range(20):
            await desk._overhear(PeerId(f"p{i}"), wire.encode(message))
    rationed = desk.gossip_rationed
    assert rationed > 18_000
    await desk._overhear(member.peer, wire.encode(HeadIs(invented(1, member.peer))))
    assert desk.gossip_rationed == rationed


async def test_connections_are_bounded_and_the_linked_stay_linked(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=3)
    members = await found(swarm, 5)
    victim = members[0]
    address = victim.node.parts.desk.transport.addresses()[0]

    async def knock(number: int) -> None:
        stranger = await make_stranger(swarm, number)
        with trio.move_on_after(5):
            with suppress(Unreachable):
                await stranger.transport.dial(address)

    async with trio.open_nursery() as nursery:
        for number in range(400):
            nursery.start_soon(knock, number)
    assert len(victim.node.parts.desk.transport.peers()) <= limits.LINKS
    assert (await swarm.until_finished()).round == 3


async def test_the_log_does_not_grow_with_the_flood(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    caplog: pytest.LogCaptureFixture,
) -> None:
    swarm = make_swarm(trainers=3, start_peers=9)
    (victim,) = await found(swarm, 1)
    stranger = await make_stranger(swarm)
    with caplog.at_level(logging.INFO):
        for i in range(2000):
            victim.node.accuse(stranger.peer, OffenceKind.MALFORMED_FRAME, f"{i}")
    assert len(caplog.records) < 20
