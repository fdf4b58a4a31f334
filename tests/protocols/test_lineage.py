"""Lines of aggregates, also where a liar names a model again that was there before: they end, and guilt stays apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trio.testing import MockClock

from protocols.learner import Trained
from protocols.lineage import line, place, tainted
from protocols.manifest import Audit
from protocols.messages import Aggregate
from sampling.peers import Round
from verify.digest import Digest, digest_of

THETA0, X, Y = digest_of(b"theta0"), digest_of(b"x"), digest_of(b"y")


def made(round: int, model: Digest, parent: Digest | bytes) -> Aggregate:
    return Aggregate(Round(round), model, parent, (), ())


START = made(0, THETA0, b"")


def test_a_line_has_all_ancestors_that_are_remembered() -> None:
    first, second = made(1, X, THETA0), made(2, Y, X)
    assert line([START, first, made(1, Y, THETA0)], second) == [START, first, second]
    assert line([START], second) == [second]


def test_an_aggregate_that_names_its_own_parents_model_is_no_circle() -> None:
    first, again, last = made(1, X, THETA0), made(2, X, X), made(3, X, X)
    assert line([START, first, again], last) == [START, first, again, last]


def test_an_aggregate_that_names_theta0_is_not_where_everything_began() -> None:
    first, wrong, last = made(1, X, THETA0), made(2, THETA0, X), made(3, Y, THETA0)
    assert line([START, first, wrong], last) == [START, first, wrong, last]
    assert tainted([place(wrong)], [START, first, wrong, last]) == {place(wrong), place(last)}


async def test_a_round_whose_trainers_all_hand_in_what_they_were_given_stops_nobody(
    autojump_clock: MockClock,
    make_swarm: Any,  # noqa: ANN401 - conftest's
) -> None:
    async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
        return Trained(parent, 10, 1, 0.5, 0.0)

    async def merge(models: Sequence[Digest], weights: Sequence[int], parent: Digest | None = None) -> Digest:
        return models[0]

    swarm = make_swarm(trainers=3, rounds=4, audit=Audit(fraction=1e-9))
    for member in await swarm.start(4):
        member.learner.train, member.learner.merge = train, merge
    last = await swarm.until_finished()
    assert (last.round, last.model) == (4, last.parent)
