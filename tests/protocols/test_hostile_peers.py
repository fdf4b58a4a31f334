"""What a member of the swarm may try on those who aggregate: none of it stops them, or the run."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.claiming import sign_claim
from protocols.desk import Declined
from protocols.messages import Ack, Computed, Input, Proposal, TrainedModel
from sampling.peers import Round
from sampling.view import Delta
from verify.claims import Claim
from verify.digest import Digest, digest_of

MakeSwarm = Any  # conftest's
Swarm = Any

ABSENT = digest_of(b"nobody holds this")


async def founded(swarm: Swarm, count: int) -> None:
    await swarm.start(count, train_s=3.0)
    await swarm.see_everyone()


def offered(liar: Any, round: Round, model: Digest) -> TrainedModel:  # noqa: ANN401 - conftest's Member
    """Signed as it should be."""
    parts = liar.node.parts
    claim = Claim(liar.peer, round, ABSENT, b"s0/1", model, 1)
    signature = sign_claim(parts.signer, parts.membership.run_id, claim)
    return TrainedModel(round, ABSENT, model, 1, Delta(), claim.data, signature)


def first_among(swarm: Swarm, rounds: range, victim: Any) -> list[int]:  # noqa: ANN401 - conftest's Member
    """Rounds that `victim` aggregates."""
    order = victim.node.parts.sampler.order
    return [round for round in rounds if order(Round(round + 1))[0] == victim.peer]


async def test_offers_for_far_rounds_do_not_crowd_out_the_next(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=1000)
    await founded(swarm, 4)
    (victim,) = swarm.aggregators(1)
    liar = next(member for member in swarm.alive() if member is not victim)
    await swarm.until(lambda: any(member.learner.trained for member in swarm.alive()))
    for round in first_among(swarm, range(5, 50), victim):
        offer = offered(liar, Round(round), digest_of(bytes([round])))
        try:
            await liar.node.parts.desk.ask(victim.peer, offer, Ack, 10.0)
        except Declined as refusal:
            assert "nearer rounds" in str(refusal)  # noqa: PT017 - only some are declined
    await swarm.until_round(1, within_s=60.0)
    assert len(swarm.settled(1).inputs) == 3


async def test_a_trainer_that_offers_and_offers_is_fetched_from_once(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, start_peers=4)
    await founded(swarm, 4)
    (victim,) = swarm.aggregators(1)
    liar = next(member for member in swarm.alive() if member is not victim)
    declined = 0
    async with trio.open_nursery() as nursery:

        async def offer(number: int) -> None:
            nonlocal declined
            message = offered(liar, Round(1), digest_of(bytes([number])))
            try:
                await liar.node.parts.desk.ask(victim.peer, message, Ack, 10.0)
            except Declined:
                declined += 1

        for number in range(10):
            nursery.start_soon(offer, number)
    assert declined > 0
    assert (await swarm.until_finished(2000.0)).round == 5


PROPOSALS: dict[str, tuple[Input, ...] | None] = {
    "of nothing": (),
    "of what nobody holds": None,
    "of one trainer twice": tuple([Input("x", ABSENT, 1)] * 2),  # type: ignore[arg-type]  # a name is text
}


@pytest.mark.parametrize("inputs", PROPOSALS.values(), ids=PROPOSALS)
async def test_a_proposal_that_cannot_be_computed_is_declined(
    autojump_clock: MockClock, make_swarm: MakeSwarm, inputs: tuple[Input, ...] | None
) -> None:
    swarm = make_swarm(trainers=3, aggregators=3, start_peers=4, rounds=3)
    await founded(swarm, 4)
    first, *others = swarm.aggregators(1)
    committee = tuple(member.peer for member in (first, *others))
    if inputs is None:
        inputs = tuple(Input(peer, ABSENT, 1) for peer in committee)
    proposal = Proposal(Round(1), Digest(bytes.fromhex(swarm.manifest.theta0)), inputs, committee)
    for member in others:
        with pytest.raises(Declined):
            await first.node.parts.desk.ask(member.peer, proposal, Computed, 30.0)
    assert (await swarm.until_finished(2000.0)).round == 3


async def never(*_: object) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("aggregators", [1, 2, 3])
async def test_an_aggregator_that_takes_models_and_merges_none_is_passed_over(
    autojump_clock: MockClock, make_swarm: MakeSwarm, aggregators: int
) -> None:
    """It answers every ping and takes what it is handed, so nobody holds it for dead."""
    swarm = make_swarm(trainers=3, aggregators=aggregators, start_peers=5, rounds=12)
    await founded(swarm, 5)
    (sloth, *_) = swarm.aggregators(4)
    await swarm.until_round(2)
    swarm.liars.add(sloth.peer)
    sloth.node.protocol.aggregator._merge = never
    sloth.node.parts.learner.merge = never
    assert (await swarm.until_finished(4000.0)).round == 12
    assert [aggregate.round for aggregate in swarm.believed] == list(range(1, 13))  # and no round has two


async def test_passing_over_costs_a_few_rounds_time(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=100)
    await founded(swarm, 5)
    await swarm.until_round(20)
    began = trio.current_time()
    await swarm.until_round(24)
    usual_s = (trio.current_time() - began) / 4
    (sloth,) = swarm.aggregators(26)
    swarm.liars.add(sloth.peer)
    sloth.node.protocol.aggregator._merge = never
    await swarm.until_round(25)
    began = trio.current_time()
    await swarm.until_round(26)
    assert trio.current_time() - began < 10 * usual_s


async def test_a_model_that_its_aggregator_never_gives_out_is_made_again(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    """Or that died with it: those who trained still hold what it was made of."""
    swarm = make_swarm(trainers=3, start_peers=6, rounds=6)
    await founded(swarm, 6)
    (miser,) = swarm.aggregators(3)
    swarm.liars.add(miser.peer)
    size, merge, hidden = miser.blobs.size, miser.learner.merge, set()

    async def merge_and_hide(models: Any, weights: Any) -> Digest:  # noqa: ANN401
        merged = await merge(models, weights)
        hidden.add(merged)
        return merged

    miser.learner.merge = merge_and_hide
    miser.blobs.size = lambda digest: None if digest in hidden else size(digest)
    last = await swarm.until_finished(300.0)
    assert last.round == 6
    assert [aggregate.round for aggregate in swarm.believed] == list(range(1, 7))  # nobody went back
