"""What hostile peers may announce, answer and hand out in gossip learning: an offence each, and never more."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from protocols import limits
from protocols.gossip.messages import AskNewest, NewestIs, NewModel, Offer
from protocols.gossip.neighbours import KEPT
from protocols.transport import TransportError
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]
Swarm = Member = Any  # of conftest.py

BLOB = struct.pack("<dq", 3.0, 77)
TRUE = Offer(Digest(digest_of(BLOB)), Round(3), 10, 500)


async def announced(swarm: Swarm, liar: Member, *messages: NewModel) -> None:
    swarm.liars.add(liar.peer)
    desk, topic = liar.node.parts.desk, liar.node.parts.membership.topic
    for message in messages:
        await desk.tell(topic, message)
    await trio.sleep(2)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (NewModel(msgspec.structs.replace(TRUE, age=Round(2**60))), OffenceKind.MALFORMED_FRAME),
        (NewModel(msgspec.structs.replace(TRUE, samples=-1)), OffenceKind.MALFORMED_FRAME),
        (NewModel(msgspec.structs.replace(TRUE, train_ms=2**50)), OffenceKind.MALFORMED_FRAME),
        (NewModel(msgspec.structs.replace(TRUE, work=bytes(40))), OffenceKind.MALFORMED_FRAME),
        (NewModel(TRUE, BLOB[:-1] + b"x"), OffenceKind.WRONG_DIGEST),
        (NewModel(TRUE, BLOB[:-1]), OffenceKind.UNFIT_MODEL),
        (NewModel(TRUE, BLOB + b"x"), OffenceKind.OVERSIZE),
    ],
    ids=["age", "samples", "pace", "work", "digest", "short", "long"],
)
async def test_a_lie_in_an_announcement_is_an_offence(
    make_swarm: MakeSwarm, autojump_clock: MockClock, message: NewModel, kind: OffenceKind
) -> None:
    async with make_swarm(rounds=0, start_peers=3) as swarm:
        *honest, liar = await swarm.start(3)
        await announced(swarm, liar, message)
        assert all((liar.peer, kind) in member.offences() for member in honest)
        ages = [member.age for member in honest]
        await trio.sleep(5)
        assert all(member.age > age for member, age in zip(honest, ages, strict=True))


async def test_an_announcement_that_names_what_is_not_there_costs_a_question(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(rounds=0, start_peers=3, gossip={"inline_bytes": 0}) as swarm:
        *honest, liar = await swarm.start(3)
        lie = msgspec.structs.replace(TRUE, model=Digest(bytes(32)), age=Round(2**40))
        await announced(swarm, liar, *[NewModel(lie)] * 5)
        assert all(member.node.parts.membership.round < 100 for member in honest)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize("inline", [0, 1000], ids=["pulled", "inline"])
async def test_a_model_that_is_not_finite_or_absurd_is_merged_by_nobody(
    make_swarm: MakeSwarm, autojump_clock: MockClock, value: float, inline: int
) -> None:
    async with make_swarm(rounds=20, start_peers=4, gossip={"inline_bytes": inline}) as swarm:
        *honest, liar = [*await swarm.start(3), *await swarm.start(hands_in=value)]
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: all(member.gossip.finished for member in honest))
        for member in honest:
            assert (liar.peer, OffenceKind.UNFIT_MODEL) in member.offences()
            assert await member.learner.value(member.gossip.model) < 100


async def test_a_flood_of_announcements_is_rationed_and_nothing_grows(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(rounds=0, start_peers=3) as swarm:
        *honest, liar = await swarm.start(3)
        flood = [NewModel(msgspec.structs.replace(TRUE, age=Round(age))) for age in range(1500)]
        await announced(swarm, liar, *flood)
        for member in honest:
            assert member.node.parts.desk.gossip_rationed > 500
            assert len(member.gossip.neighbours) <= 3
        ages = [member.age for member in honest]
        await trio.sleep(5)
        assert all(member.age > age for member, age in zip(honest, ages, strict=True))


async def test_a_thousand_invented_announcers_do_not_grow_what_is_kept(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(rounds=0, start_peers=1) as swarm:
        (member,) = await swarm.start()
        for number in range(1000):
            await member.gossip._on_model(PeerId(f"invented-{number}"), NewModel(TRUE, BLOB))
        assert len(member.gossip.neighbours) == KEPT
        assert len(member.gossip.inbox) == swarm.manifest.gossip.neighbours


async def test_whoever_asks_too_often_is_refused(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(rounds=0, start_peers=2) as swarm:
        honest, liar = await swarm.start(2)
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: honest.age > 1)
        refused: list[TransportError] = []

        async def ask() -> None:
            try:
                await liar.node.parts.desk.ask(honest.peer, AskNewest(), NewestIs, 5.0)
            except TransportError as error:
                refused.append(error)

        for _ in range(12):  # waves, for so many at once are cut off further below
            async with trio.open_nursery() as nursery:
                for _ in range(limits.INBOUND_REQUESTS_PER_PEER // 2):
                    nursery.start_soon(ask)
        assert refused
        assert (liar.peer, OffenceKind.FLOOD) in honest.offences()
