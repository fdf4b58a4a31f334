"""Updates are withheld from those who might copy them; aggregates never are, whoever calls one of them an update."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from protocols.manifest import Audit
from protocols.withheld import Withheld
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of

MakeSwarm = Any  # conftest's
Member = Any

A, B = PeerId("A"), PeerId("B")
UPDATE, AGGREGATE = digest_of(b"update"), digest_of(b"aggregate")


def test_an_update_is_for_those_who_are_granted_it() -> None:
    withheld = Withheld(lambda: Round(3), lambda: False, lambda model: model == AGGREGATE)
    withheld.withhold(UPDATE, Round(3))
    withheld.grant(A, [UPDATE])
    assert withheld.may_fetch(A, UPDATE)
    assert not withheld.may_fetch(B, UPDATE)


def test_an_aggregate_is_anybodys_also_where_somebody_claims_to_have_trained_it() -> None:
    withheld = Withheld(lambda: Round(3), lambda: False, lambda model: model == AGGREGATE)
    withheld.withhold(AGGREGATE, Round(3))
    assert withheld.may_fetch(B, AGGREGATE)


def merges_the_first_alone(member: Member) -> None:
    merge = member.learner.merge

    async def first(models: list[Digest], weights: list[int], *rest: Any) -> Digest:  # noqa: ANN401 - the learner's
        await merge(models, weights, *rest)
        return models[0]

    member.learner.merge = first


async def test_who_calls_an_update_the_mean_does_not_stop_the_run(
    autojump_clock: MockClock, make_swarm: MakeSwarm, caplog: pytest.LogCaptureFixture
) -> None:
    swarm = make_swarm(trainers=3, rounds=12, audit=Audit(fraction=1e-9))
    await swarm.start(6)
    await swarm.see_everyone()
    for member in swarm.members[3:]:
        swarm.liars.add(member.peer)
        merges_the_first_alone(member)
    await swarm.until_finished()
    assert "not held" not in caplog.text
