"""Models that are finite, fit by name and shape, and cannot be trained from: whoever hands one in is refused, and where
one was believed all the same the run goes back to before it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from verify.digest import Digest
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
Found = Any
Swarm = Any
Member = Any

CEILING_S = 60.0  # of a round, in conftest's manifest
HUGE = (3e38, 1e30, -3e38)


def lies(swarm: Swarm, liar: Member, value: float) -> None:
    """It hands that in whenever it trains."""
    swarm.liars.add(liar.peer)
    liar.learner.hands_in = value


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("count", "aggregators"), [(10, 1), (10, 3), (30, 1), (4, 1)])
async def test_an_absurd_model_is_refused_and_is_its_trainers_offence(
    autojump_clock: MockClock, make_swarm: MakeSwarm, found: Found, value: float, count: int, aggregators: int
) -> None:
    swarm = make_swarm(trainers=3, aggregators=aggregators, start_peers=count, rounds=10)
    members = await found(swarm, count)
    liar = swarm.trainers(2)[0]
    lies(swarm, liar, value)
    last = await swarm.until_finished(6 * CEILING_S)
    assert abs(await members[0].learner.value(last.model)) <= 10
    accused = {offence for member in members if member is not liar for offence in member.offences()}
    assert accused == {(liar.peer, OffenceKind.UNFIT_MODEL)}
    assert all(member.head.retreats == 0 for member in members)
