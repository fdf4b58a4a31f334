"""What a node is told of others, and what it holds against them, is there again after a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trio.testing import MockClock

from verify.standing import OffenceKind, Repute

MakeSwarm = Callable[..., Any]


async def test_a_crash_is_no_acquittal(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    swarm = make_swarm(trainers=2, rounds=0)
    members = await swarm.start(3)
    first, _, third = members
    await swarm.until_round(2)
    swarm.crash(third)  # so that no later checkpoint of a round saves it by chance
    swarm.liars.add(third.peer)
    first.learner.train_s = 10.0**6
    for kind in (OffenceKind.UNFIT_MODEL, OffenceKind.WRONG_DIGEST):
        for _ in range(2):
            first.node.accuse(third.peer, kind, "it lied")
    await swarm.until(lambda: bool(first.saved[-1].past.marks))
    swarm.crash(first)
    again = await swarm.restart(first)
    assert again.node.standing.repute(third.peer, again.round) == Repute.QUARANTINED
    assert again.offences() == first.offences()
    assert again.node.standing.summary().total == 4


async def test_counters_go_on_and_the_round_is_the_present_one(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    swarm = make_swarm(trainers=2, rounds=0)
    first, _, _ = await swarm.start(3)
    await swarm.until_round(3)
    saved = first.saved[-1]
    swarm.crash(first)
    await swarm.until_round(8)
    again = await swarm.restart(first)
    assert again.node.parts.membership.counter > saved.counter
    await swarm.until(lambda: again.round >= max(swarm.rounds()) - 1, within_s=10.0)
    assert again.head.held is not None
    assert again.head.held.round >= saved.held.round
