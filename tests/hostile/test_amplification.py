"""A word that makes us ask others is worth more to an attacker than it costs: what one peer can make us say is bounded,
by every door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols import limits
from protocols.messages import Aggregate, Aggregated, HeadIs, Input, Proposal, Settled, TrainedModel
from sampling.peers import PeerId, Round
from sampling.view import Delta
from verify.digest import Digest, digest_of

MakeSwarm = Any  # conftest's
MakeStranger = Any
Found = Any
Stranger = Any

ABSENT = digest_of(b"nobody holds this")
ATTACK_S = 20.0
WORDS_PER_S = 200


def named(number: int, maker: PeerId) -> Aggregate:
    model = digest_of(number.to_bytes(8, "big"))
    return Aggregate(Round(1 + number % 2), Digest(model), ABSENT, (Input(maker, ABSENT, 1),), (maker,))


Word = Callable[[Stranger, PeerId, int], Awaitable[None]]


async def head(stranger: Stranger, victim: PeerId, number: int) -> None:
    await stranger.shout(HeadIs(named(number, stranger.peer)))


async def settled(stranger: Stranger, victim: PeerId, number: int) -> None:
    await stranger.say(victim, Settled(named(number, stranger.peer)), 1.0)


async def aggregated(stranger: Stranger, victim: PeerId, number: int) -> None:
    await stranger.say(victim, Aggregated(named(number, stranger.peer), number % 3, Delta()), 1.0)


async def trained(stranger: Stranger, victim: PeerId, number: int) -> None:
    model = Digest(digest_of(number.to_bytes(8, "big")))
    await stranger.say(victim, TrainedModel(Round(1 + number % 9), ABSENT, model, 1, Delta()), 1.0)


async def proposed(stranger: Stranger, victim: PeerId, number: int) -> None:
    inputs = (Input(victim, Digest(digest_of(number.to_bytes(8, "big"))), 1),)
    await stranger.say(victim, Proposal(Round(1 + number % 9), ABSENT, inputs, (stranger.peer, victim)), 1.0)


@pytest.mark.parametrize("word", [head, settled, aggregated, trained, proposed])
async def test_what_one_peer_makes_us_ask_is_bounded(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    word: Word,
) -> None:
    swarm = make_swarm(trainers=3, aggregators=1, start_peers=20)  # no round begins
    members = await found(swarm, 4)
    victim = members[0]
    stranger = await make_stranger(swarm)
    await stranger.join(victim.peer)
    asked = 0
    request = victim.node.parts.desk.transport.request

    async def counted(peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        nonlocal asked
        asked += peer != victim.peer
        return bytes(await request(peer, frame, timeout_s=timeout_s))

    monkeypatch.setattr(victim.node.parts.desk.transport, "request", counted)
    await trio.sleep(5)
    asked = 0
    await trio.sleep(ATTACK_S)
    usual, asked = asked, 0
    said = 0
    async with trio.open_nursery() as nursery:

        async def speak() -> None:
            nonlocal said
            while True:
                for _ in range(WORDS_PER_S // 20):
                    nursery.start_soon(word, stranger, victim.peer, said)
                    said += 1
                await trio.sleep(0.05)

        nursery.start_soon(speak)
        await trio.sleep(ATTACK_S)
        nursery.cancel_scope.cancel()
    assert said > ATTACK_S * WORDS_PER_S * 0.9
    assert asked - usual <= limits.ACTS_PER_PEER_PER_S * (ATTACK_S + limits.ACTS_BURST_S)
    assert asked - usual < said / 5
