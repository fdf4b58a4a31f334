"""Which aggregate is believed: votes of the aggregators we sample ourselves, or what several peers say alike."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gossipnode.memoryblobs import MemoryBlobs
from protocols.desk import Desk
from protocols.exchange import ModelExchange
from protocols.head import LEAP, Head, Parts
from protocols.learner import LearnerError, Trained, Unfit
from protocols.lineage import theta0
from protocols.manifest import Audit, Manifest, Modest
from protocols.membership import Membership
from protocols.messages import Aggregate, AnyMessage, AskHead, HeadIs, Hello, Input, Ping, Pong, Refused, Welcome
from protocols.signatures import Signer
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role, Round
from sampling.sampler import Sampler
from sampling.view import Registration, View
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

Links = Any  # conftest's
Court = Any

RUN = bytes(32)
MODEL, OTHER = digest_of(b"model"), digest_of(b"other")
PEERS = [PeerId(f"peer{number}") for number in range(8)]
TRAINERS = PEERS[:3]


def manifest(aggregators: int = 1, rounds: int = 0) -> Manifest:
    return Manifest(
        name="test",
        protocol="modest",
        task="toy",
        author=PEERS[0],
        theta0=digest_of(b"theta0").hex(),
        model_bytes=10,
        rounds=rounds,
        modest=Modest(trainers=4, aggregators=aggregators),
        audit=Audit(fraction=0.0),  # nobody here signs anything
    )


class Toy:
    """A learner of which only `check` is asked, and `train` whether it can."""

    unfit = False
    fails = False  # the operator's task

    def __init__(self) -> None:
        self.untrainable: set[Digest] = set()
        self.tried: list[Digest] = []

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        self.tried.append(parent)
        if self.fails:
            raise LearnerError("KeyError: 'label'")
        if parent in self.untrainable:
            raise Unfit("the loss became nan")
        return Trained(parent, 1, 1, 0.5, 0.0)

    async def check(self, model: Digest) -> float:
        if self.unfit:
            raise Unfit("not finite")
        return 1.0

    async def initial(self) -> Digest:
        return digest_of(b"theta0")


class Scene:
    """One node's head, and the peers around it as its view has them."""

    def __init__(self, links: Links, court: Court, aggregators: int = 1, rounds: int = 0) -> None:
        self.links, self.court = links, court
        self.manifest = manifest(aggregators, rounds)
        self.view = View(100)
        for peer in [*PEERS, links.me]:
            self.register(peer)
        rng = random.Random(0)
        desk = Desk(links, court)
        rules = Rules()
        self.membership = Membership(
            desk,
            self.view,
            rules,
            Signer.from_seed(bytes(32)),
            RUN,
            roles=[Role.TRAINER],
            bootstrap=[],
            counter=0,
            patience=Patience(0.25, 5.0),
            rng=rng,
        )
        self.blobs = MemoryBlobs(1000)
        self.learner: Any = Toy()
        self.sampler = Sampler(self.view, rules, RUN, self.membership.ping)
        exchange = ModelExchange(links, self.blobs, 10, court)
        signer, sampler = Signer.from_seed(bytes(32)), self.sampler
        parts = Parts(desk, self.membership, sampler, exchange, self.learner, self.blobs, self.manifest, rng, signer)
        self.saved: list[Aggregate] = []
        self.head = Head(parts, theta0(self.manifest), self.save)

    async def save(self, held: Aggregate) -> None:
        self.saved.append(held)

    def register(self, peer: PeerId, round: int = 0) -> None:
        self.view.register(Registration(peer, 1, True, (Role.TRAINER,), Round(round), (), b""))

    def committee(self, round: int) -> list[PeerId]:
        return self.sampler.order(Round(round + 1))[: self.manifest.modest.aggregators]

    def impostor(self, round: int) -> PeerId:
        return next(peer for peer in PEERS if peer not in self.committee(round))

    def aggregate(self, round: int, model: Digest = MODEL, made_by: list[PeerId] | None = None) -> Aggregate:
        inputs = tuple(Input(peer, model, 1) for peer in TRAINERS)
        return Aggregate(Round(round), model, digest_of(b"parent"), inputs, tuple(made_by or self.committee(round)))

    def all_alive(self) -> None:
        for peer in PEERS:
            self.links.says[peer] = self.alive

    def alive(self, question: AnyMessage) -> AnyMessage:
        return Pong(Round(0)) if isinstance(question, Ping) else Refused("no")

    async def partners(self, heads: dict[PeerId, Aggregate | None]) -> None:
        """Linked peers of our run, and the head that each will name; None: it keeps silent."""
        for peer, head in heads.items():
            answered = await self.membership.desk._reply(peer, b"\x02" + msgspec.msgpack.encode(Hello(RUN, Round(0))))
            assert isinstance(answered, Welcome)
            if head is not None:
                self.links.says[peer] = lambda question, head=head: (
                    HeadIs(head) if isinstance(question, AskHead) else self.alive(question)
                )


# -- votes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aggregators", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3)])
async def test_a_majority_of_the_committee(links: Links, court: Court, aggregators: int, majority: int) -> None:
    scene = Scene(links, court, aggregators)
    aggregate = scene.aggregate(1)
    for number, voter in enumerate(scene.committee(1)[:majority], start=1):
        assert await scene.head.vote(voter, aggregate) == (number == majority)
    assert scene.head.known == aggregate
    assert scene.membership.round == 1
    assert links.asked == []  # whoever ranks first need not be asked whether it is alive


async def test_a_voter_counts_once(links: Links, court: Court) -> None:
    scene = Scene(links, court, 3)
    voter = scene.committee(1)[0]
    for _ in range(3):
        assert not await scene.head.vote(voter, scene.aggregate(1))
    assert scene.head.known.round == 0


async def test_one_liar_of_three_is_outvoted(links: Links, court: Court) -> None:
    scene = Scene(links, court, 3)
    liar, *honest = scene.committee(1)
    assert not await scene.head.vote(liar, scene.aggregate(1, OTHER))
    assert not await scene.head.vote(honest[0], scene.aggregate(1))
    assert await scene.head.vote(honest[1], scene.aggregate(1))
    assert scene.head.known.model == MODEL


async def test_an_equal_digest_with_another_story_is_another_vote(links: Links, court: Court) -> None:
    # The model alone is not enough: who made it, and of what, is believed too.
    scene = Scene(links, court, 3)
    liar, *honest = scene.committee(1)
    story = msgspec.structs.replace(scene.aggregate(1), parent=OTHER)
    assert not await scene.head.vote(honest[0], scene.aggregate(1))
    assert not await scene.head.vote(liar, story)
    assert await scene.head.vote(honest[1], scene.aggregate(1))
    assert scene.head.known == scene.aggregate(1)


async def test_an_impostor_is_ignored(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    scene.all_alive()
    impostor = scene.impostor(1)
    assert not await scene.head.vote(impostor, scene.aggregate(1, made_by=[impostor]))
    assert scene.head.known.round == 0
    assert court.accused == []  # our view may be wrong


async def test_the_next_in_rank_counts_when_the_first_is_dead(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    scene.all_alive()
    first, second = scene.sampler.order(Round(2))[:2]
    del links.says[first]
    if second == links.me:
        pytest.skip("the seed of this test puts us second")
    assert await scene.head.vote(second, scene.aggregate(1, made_by=[second]))


BENT: dict[str, dict[str, Any]] = {
    "no inputs": {"inputs": ()},
    "more inputs than trainers": {"inputs": tuple(Input(peer, MODEL, 1) for peer in PEERS[:5])},
    "a trainer twice": {"inputs": (Input(PEERS[0], MODEL, 1), Input(PEERS[0], OTHER, 1))},
    "no parent": {"parent": b""},
    "half a parent": {"parent": bytes(16)},
    "no aggregators": {"aggregators": ()},
    "too many aggregators": {"aggregators": tuple(PEERS)},
    "beyond the last round": {"round": Round(101)},
}


@pytest.mark.parametrize("bent", BENT.values(), ids=BENT)
async def test_what_cannot_be_is_an_offence(links: Links, court: Court, bent: dict[str, Any]) -> None:
    scene = Scene(links, court, rounds=100)
    voter = scene.committee(1)[0]
    assert not await scene.head.vote(voter, msgspec.structs.replace(scene.aggregate(1), **bent))
    assert court.verdicts == [(voter, OffenceKind.PROTOCOL)]
    assert scene.head.known.round == 0


async def test_voting_for_what_others_made_is_an_offence(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    voter = scene.committee(1)[0]
    assert not await scene.head.vote(voter, scene.aggregate(1, made_by=[scene.impostor(1)]))
    assert court.verdicts == [(voter, OffenceKind.PROTOCOL)]


async def test_old_rounds_change_nothing(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    scene.head.learn(scene.aggregate(5))
    assert not await scene.head.vote(scene.impostor(3), scene.aggregate(3, OTHER))
    assert not await scene.head.vote(scene.impostor(5), scene.aggregate(5, OTHER))
    assert await scene.head.vote(scene.impostor(5), scene.aggregate(5))
    scene.head.learn(scene.aggregate(4, OTHER))
    assert scene.head.known == scene.aggregate(5)
    assert court.accused == []


@pytest.mark.parametrize("round", [LEAP + 1, 40, 10_000, 10**6])
@pytest.mark.parametrize("aggregators", [1, 3])
async def test_who_claims_to_be_active_far_ahead_moves_nobody(
    links: Links, court: Court, round: int, aggregators: int
) -> None:
    scene = Scene(links, court, aggregators)
    scene.all_alive()
    liar = PeerId("liar")
    scene.register(liar, round=round + 1)  # in a registration that it signed itself
    forged = scene.aggregate(round, made_by=[liar])
    if round > 50:
        assert scene.committee(round) == [liar]  # nobody else is a candidate there
    assert not await scene.head.vote(liar, forged)
    assert scene.head.known.round == 0


async def test_votes_for_rounds_to_come_do_not_crowd_out_the_next(links: Links, court: Court) -> None:
    scene = Scene(links, court, 3)
    scene.all_alive()
    first, second, _ = scene.committee(1)
    assert not await scene.head.vote(first, scene.aggregate(1))
    for round in range(2, 60):
        for voter in PEERS:
            await scene.head.vote(voter, scene.aggregate(round, OTHER, made_by=[voter]))
            scene.head.known = theta0(scene.manifest)  # whatever came of it
    assert await scene.head.vote(second, scene.aggregate(1))


# -- catching up ------------------------------------------------------------------------------------------------------


async def caught_up(scene: Scene, heads: dict[PeerId, Aggregate | None]) -> int:
    await scene.partners(heads)
    moved = await scene.head.catch_up()
    assert moved == (scene.head.known.round > 0)
    return scene.head.known.round


async def test_nobody_to_ask(links: Links, court: Court) -> None:
    assert await caught_up(Scene(links, court), {}) == 0


async def test_the_only_partner_is_believed(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    assert await caught_up(scene, {PEERS[0]: scene.aggregate(7)}) == 7


async def test_two_who_agree_are_believed(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    heads = {PEERS[0]: scene.aggregate(6), PEERS[1]: scene.aggregate(7), PEERS[2]: scene.aggregate(7)}
    assert await caught_up(scene, dict(heads)) == 7


@pytest.mark.parametrize("honest", [(9, 9), (9, 10), (9, None), (None, None), (10, 11), (11, 9)])
@pytest.mark.parametrize("claim", [9, 10, 11, 1000])
@pytest.mark.parametrize("forged", sorted(digest_of(bytes([number])) for number in range(4)), ids=lambda d: d.hex()[:2])
async def test_one_liar_among_three_does_not_move_us(
    links: Links, court: Court, honest: tuple[int | None, ...], claim: int, forged: Digest
) -> None:
    scene = Scene(links, court)
    heads: dict[PeerId, Aggregate | None] = {PEERS[0]: scene.aggregate(claim, forged)}
    for peer, round in zip(PEERS[1:], honest, strict=False):
        heads[peer] = None if round is None else scene.aggregate(round)
    await caught_up(scene, heads)
    assert scene.head.known.model in (MODEL, digest_of(b"theta0"))


async def test_who_joins_among_others_that_join_believes_the_only_one_that_knows(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    start = theta0(scene.manifest)
    assert await caught_up(scene, {PEERS[0]: start, PEERS[1]: scene.aggregate(7), PEERS[2]: start}) == 7


async def test_a_head_that_cannot_be_is_not_believed(links: Links, court: Court) -> None:
    scene = Scene(links, court, rounds=100)
    assert await caught_up(scene, {PEERS[0]: scene.aggregate(101)}) == 0


async def test_who_missed_rounds_catches_up_before_it_counts_votes(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    await scene.partners({PEERS[0]: scene.aggregate(39), PEERS[1]: scene.aggregate(39)})
    voter = scene.committee(40)[0]
    links.says.setdefault(voter, scene.alive)
    assert await scene.head.vote(voter, scene.aggregate(40))
    assert scene.head.known.round == 40


# -- holding ----------------------------------------------------------------------------------------------------------

BYTES = b"0123456789"
HELD = digest_of(BYTES)


async def test_holding_fetches_checks_and_tells(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    aggregate = scene.aggregate(1, HELD)
    links.holding(aggregate.aggregators[0], BYTES)
    scene.head.learn(aggregate)
    await scene.head.hold(aggregate)
    assert scene.head.held == aggregate
    assert scene.saved == [aggregate]
    await scene.head.hold(aggregate)
    assert scene.saved == [aggregate]


async def test_an_unfit_aggregate_is_its_makers_offence_and_is_not_held(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    aggregate = scene.aggregate(1, HELD)
    links.holding(aggregate.aggregators[0], BYTES)
    scene.learner.unfit = True
    with pytest.raises(Unfit):
        await scene.head.hold(aggregate)
    assert scene.head.held is None
    assert scene.saved == []
    assert court.verdicts == [(aggregate.aggregators[0], OffenceKind.UNFIT_MODEL)]


async def test_holding_an_older_one_does_not_go_back(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    await scene.blobs.put(BYTES)
    newer, older = scene.aggregate(2, HELD), scene.aggregate(1, HELD)
    await scene.head.hold(newer)
    await scene.head.hold(older)
    assert scene.head.held == newer


async def test_a_lost_model_is_given_up_and_believed_again_when_it_turns_up(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    await scene.blobs.put(BYTES)
    held, lost = scene.aggregate(3, HELD), scene.aggregate(4)
    scene.head.learn(held)
    await scene.head.hold(held)
    assert not await scene.head.retreat()
    scene.head.learn(lost)
    assert await scene.head.retreat()
    assert scene.head.known == held
    await scene.partners({PEERS[0]: lost, PEERS[1]: lost})
    assert not await scene.head.catch_up()  # two say so, but cannot give it
    assert scene.head.known == held
    found = b"here it is"
    again = scene.aggregate(5, digest_of(found))
    scene.head.learn(again)
    assert await scene.head.retreat()
    links.holding(PEERS[0], found)
    assert await scene.head.catch_up()
    assert scene.head.known == again


async def test_all_who_followed_go_back_to_the_newest_that_somebody_has(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    followed = [scene.aggregate(round, digest_of(b"model of %d" % round)) for round in (1, 2, 3, 4)]
    for aggregate in followed:
        scene.head.learn(aggregate)
    await scene.partners({PEERS[0]: followed[3], PEERS[1]: followed[3]})
    links.holding(PEERS[1], b"model of 1")
    links.holding(PEERS[0], b"model of 2")
    assert await scene.head.retreat()
    assert scene.head.known == followed[1]


async def test_without_any_bytes_it_goes_back_to_the_start(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    scene.head.learn(scene.aggregate(4))
    assert await scene.head.retreat()
    assert scene.head.known == theta0(scene.manifest)
    assert not await scene.head.retreat()


async def test_an_unfit_model_is_given_up_for_good(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    await scene.blobs.put(BYTES)
    good, unfit = scene.aggregate(3, HELD), scene.aggregate(4, await scene.blobs.put(b"9876543210"))
    scene.head.learn(good)
    scene.head.learn(unfit)
    await scene.head.hold(unfit)
    assert not await scene.head.retreat()
    scene = Scene(links, court)
    await scene.blobs.put(BYTES)
    await scene.blobs.put(b"9876543210")
    scene.head.learn(good)
    scene.head.learn(unfit)
    await scene.head.hold(unfit)
    scene.learner.untrainable = {unfit.model}
    assert await scene.head.retreat()
    assert scene.head.known == scene.head.held == scene.saved[-1] == good
    await scene.partners({PEERS[0]: unfit, PEERS[1]: unfit})
    assert not await scene.head.catch_up()  # two say so, and could give it
    assert scene.head.known == good
    assert not await scene.head.retreat()


async def test_those_who_made_an_unfit_model_come_last_when_its_round_is_drawn_anew(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    unfit = scene.aggregate(1, await scene.blobs.put(BYTES))
    scene.head.learn(unfit)
    scene.learner.untrainable = {unfit.model}
    assert await scene.head.retreat()
    assert set(scene.sampler.order(Round(1))[-len(TRAINERS) :]) == set(TRAINERS)
    assert scene.sampler.order(Round(2))[-1] == unfit.aggregators[0]


async def test_going_back_stops_at_the_newest_that_is_fit(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    texts = [f"model of {round}".encode() for round in (1, 2, 3, 4)]
    followed = [scene.aggregate(n, await scene.blobs.put(text)) for n, text in enumerate(texts, start=1)]
    for aggregate in followed:
        scene.head.learn(aggregate)
    scene.learner.untrainable = {followed[2].model, followed[3].model}
    assert await scene.head.retreat()
    assert scene.head.known == followed[1]
    scene.head.learn(followed[2])
    assert scene.head.known == followed[1]


async def test_who_can_train_from_nothing_goes_back_from_nothing(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    aggregate = scene.aggregate(1, await scene.blobs.put(BYTES))
    scene.head.learn(aggregate)
    scene.learner.untrainable = {aggregate.model, digest_of(b"theta0")}
    assert not await scene.head.retreat()
    assert scene.head.known == aggregate
    assert "own data" in scene.head.fitness.own_fault
    scene.learner.untrainable = set()
    assert not await scene.head.retreat()  # mended
    assert scene.head.fitness.own_fault is None


async def test_a_task_that_raises_says_nothing_of_the_model(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    aggregate = scene.aggregate(1, await scene.blobs.put(BYTES))
    scene.head.learn(aggregate)
    scene.learner.fails = True
    assert not await scene.head.retreat()
    assert scene.head.fitness.own_fault is None


async def test_a_fit_model_is_tried_once(links: Links, court: Court) -> None:
    scene = Scene(links, court)
    aggregate = scene.aggregate(1, await scene.blobs.put(BYTES))
    scene.head.learn(aggregate)
    for _ in range(5):
        assert not await scene.head.retreat()
    assert scene.learner.tried == [aggregate.model]


async def test_reach_wakes_up(links: Links, court: Court, autojump_clock: MockClock) -> None:
    scene = Scene(links, court)
    reached: list[int] = []

    async def wait(round: int) -> None:
        await scene.head.reach(Round(round))
        reached.append(round)

    async with trio.open_nursery() as nursery:
        for round in (0, 1, 2):
            nursery.start_soon(wait, round)
        await trio.sleep(1)
        assert reached == [0]
        scene.head.learn(scene.aggregate(2))
    assert sorted(reached) == [0, 1, 2]
