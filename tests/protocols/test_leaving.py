"""A node that leaves is asked until its last moment: it refuses the work, and nothing that was under way falls over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols import wire
from protocols.messages import AnyMessage, AskHead, Exchange, Exchanged, Refused, Settled, Unable
from sampling.peers import Round
from sampling.view import Delta

MakeSwarm = Callable[..., Any]


async def test_work_is_refused_and_news_of_the_members_are_still_exchanged(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    swarm = make_swarm(trainers=2, rounds=0)
    first, second = await swarm.start(2)
    await swarm.until_round(2)
    first.scope.cancel()  # as a signal does; its transport would still be there
    await trio.testing.wait_all_tasks_blocked()

    async def answered(question: AnyMessage) -> AnyMessage:
        return wire.decode(await first.node.answer(second.peer, wire.encode(question)))

    for question in (AskHead(), Settled(second.head.known), Unable(Round(second.round + 1))):
        assert await answered(question) == Refused("we are leaving")
    assert isinstance(await answered(Exchange(Round(2), Delta(), 0)), Exchanged)


async def test_an_answer_under_way_is_broken_off(
    make_swarm: MakeSwarm, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(trainers=2, rounds=0)
    first, second = await swarm.start(2)
    await swarm.until_round(2)
    reached, answers = trio.Event(), []

    async def slow(*_: object) -> list[object]:
        """Pings, say, that are not answered."""
        reached.set()
        await trio.sleep_forever()
        return []

    async def ask() -> None:
        answers.append(wire.decode(await first.node.answer(second.peer, wire.encode(Unable(Round(first.round + 3))))))

    monkeypatch.setattr(first.head, "aggregators", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await reached.wait()
        first.scope.cancel()
    assert answers == [Refused("we are leaving")]
