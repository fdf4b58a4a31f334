"""Audits in whole swarms: who lies is out everywhere, who does not stays, and nobody is judged by a liar's word."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from protocols.manifest import Audit
from verify.standing import Repute

MakeSwarm = Any  # conftest's

ALWAYS = Audit(fraction=1.0)


def expelled(member: Any) -> set[str]:  # noqa: ANN401  # conftest's
    return set(member.node.standing.expelled)


async def test_who_hands_in_what_it_did_not_train_is_expelled_everywhere(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, rounds=30, audit=ALWAYS)
    await swarm.start(8)
    await swarm.see_everyone()
    liar = swarm.members[3]
    swarm.liars.add(liar.peer)
    liar.learner.hands_in = -7.0
    honest = [member for member in swarm.members if member is not liar]
    await swarm.until(lambda: all(expelled(member) == {liar.peer} for member in honest))
    assert {member.node.standing.repute(liar.peer, member.round) for member in honest} == {Repute.EXPELLED}


@pytest.mark.parametrize("seed", range(3))
async def test_an_honest_swarm_expels_nobody(autojump_clock: MockClock, make_swarm: MakeSwarm, seed: int) -> None:
    swarm = make_swarm(trainers=3, rounds=10, audit=ALWAYS, seed=seed)
    await swarm.start(8)
    await swarm.until_finished()
    assert [expelled(member) for member in swarm.members] == [set()] * 8
    assert sum(member.node.protocol.auditor.audited for member in swarm.members) > 20
