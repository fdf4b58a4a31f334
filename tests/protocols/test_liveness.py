"""A silent peer costs one learned deadline, once; a lost question is made good beside."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from protocols.desk import Desk
from protocols.liveness import Liveness
from protocols.messages import Ping, Pong
from protocols.transport import NoAnswer
from sampling.patience import Patience
from sampling.peers import PeerId, Round

PEER, OTHER = PeerId("peer"), PeerId("other")
RTT_S, FLOOR_S, CEILING_S = 0.05, 0.2, 5.0


class World:
    """Two linked peers; `silent` ones answer nothing."""

    def __init__(self) -> None:
        self.silent: set[PeerId] = set()
        self.asked: list[PeerId] = []
        self.transport = self
        self.patience = Patience(FLOOR_S, CEILING_S)
        desk = cast("Desk", self)
        self.liveness = Liveness(desk, self.patience, random.Random(1), lambda: Round(3), lambda *_: None)

    def peers(self) -> set[PeerId]:
        return {PEER, OTHER}

    async def ask(self, peer: PeerId, question: Ping, want: Any, timeout_s: float) -> Pong:  # noqa: ANN401
        self.asked.append(peer)
        if peer in self.silent:
            await trio.sleep(timeout_s)
            raise NoAnswer("silent")
        await trio.sleep(RTT_S)
        self.liveness.heard(peer)
        return Pong(Round(3))

    async def costs(self, peer: PeerId, *, alive: bool) -> float:
        start = trio.current_time()
        assert await self.liveness.is_alive(peer) == alive
        return trio.current_time() - start


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.liveness.run)
        for _ in range(20):
            await world.costs(OTHER, alive=True)
        yield world
        nursery.cancel_scope.cancel()


async def test_a_dead_peer_costs_one_learned_deadline(autojump_clock: MockClock, world: World) -> None:
    world.silent.add(PEER)
    assert await world.costs(PEER, alive=False) == pytest.approx(FLOOR_S)
    for _ in range(100):
        assert await world.costs(PEER, alive=False) == 0
        await trio.sleep(0.3)
    assert world.asked.count(PEER) < 10
    assert world.patience.deadline_s == pytest.approx(FLOOR_S)


async def test_a_lost_question_is_made_good_beside(autojump_clock: MockClock, world: World) -> None:
    world.silent.add(PEER)
    await world.costs(PEER, alive=False)
    world.silent.clear()
    await trio.sleep(2 * RTT_S)
    assert await world.costs(PEER, alive=True) == pytest.approx(RTT_S)


async def test_who_speaks_is_alive(autojump_clock: MockClock, world: World) -> None:
    world.silent.add(PEER)
    await world.costs(PEER, alive=False)
    world.silent.clear()
    world.liveness.heard(PEER)
    assert await world.costs(PEER, alive=True) == pytest.approx(RTT_S)


async def test_what_is_remembered_is_bounded(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.liveness.MOST_SILENT", 3)
    crowd = [PeerId(f"peer {number}") for number in range(5)]
    world.silent.update(crowd)
    for peer in crowd:
        await world.costs(peer, alive=False)
    assert await world.costs(crowd[-1], alive=False) == 0
    assert await world.costs(crowd[0], alive=False) > 0
