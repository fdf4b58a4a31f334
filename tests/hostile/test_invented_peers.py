"""Peers that do not exist, by the thousand: whatever a stranger invents, views stay bounded, those who are there stay
in them, a newcomer still gets in, and a round still finds its live peers."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from protocols.messages import Exchange
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View

MakeSwarm = Any  # conftest's
MakeStranger = Any
Found = Any
Swarm = Any


async def invented(swarm: Swarm, make_stranger: MakeStranger, count: int) -> list[Registration]:
    """With fresh keys, rightly signed, each at an address that swallows whatever is sent to it."""
    records = []
    for number in range(1, count + 1):
        ghost = await make_stranger(swarm, number)
        records.append(ghost.registration())
        swarm.network.crash(ghost.peer)
    return records


def entries(count: int) -> list[Registration]:
    """Not signed: for a view, whose door is elsewhere."""
    return [
        Registration(PeerId(f"ghost{i}"), 1, True, (Role.TRAINER,), Round(0), (), i.to_bytes(8, "big"))
        for i in range(count)
    ]


async def tell(stranger: Any, victim: PeerId, records: list[Registration]) -> None:  # noqa: ANN401  # conftest's
    for first in range(0, len(records), 400):
        await stranger.say(victim, Exchange(Round(0), Delta(tuple(records[first : first + 400])), 0))
        await trio.sleep(1)


def test_inventions_fit_a_bounded_view() -> None:
    view = View(1000)
    for entry in entries(5000):
        view.register(entry)
    assert len(view) == 1000
    assert len(view.delta(-1, 10**6)[0].registrations) == 1000


def test_those_who_were_there_first_are_not_pushed_out() -> None:
    view = View(100)
    honest = [entry._replace(peer=PeerId(f"honest{i}")) for i, entry in enumerate(entries(20))]
    for entry in (*honest, *entries(10_000)):
        view.register(entry)
    assert all(entry.peer in view for entry in honest)


async def test_a_round_finds_the_living_among_the_invented(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=6, rounds=4)
    members = await found(swarm, 6)
    stranger = await make_stranger(swarm)
    records = await invented(swarm, make_stranger, 50)
    await stranger.join(*(member.peer for member in members))
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(tell, stranger, member.peer, records)
    assert len(members[0].node.parts.membership.view) >= 50
    assert (await swarm.until_finished(600.0)).round == 4


def test_a_newcomer_takes_the_place_of_the_longest_silent() -> None:
    view = View(100)
    for entry in entries(100):
        view.register(entry)
    newcomer = entries(1)[0]._replace(peer=PeerId("newcomer"), round=Round(1000))
    assert not view.register(newcomer)
    assert view.register(newcomer, quiet_since=950)
    assert len(view) == 100
