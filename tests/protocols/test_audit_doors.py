"""The doors of an audit, at one node with signed peers around it: who is called in whose place, what a flood costs and
whom, what cannot be had, who is given the claimed bytes, and what a newcomer believes of a past it has not seen."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gossipnode.memoryblobs import MemoryBlobs
from protocols import claiming, limits, wire
from protocols.audit import FIRST_AUDIT_S, Auditor
from protocols.claiming import (
    claim_of,
    culprit,
    link_of,
    merged_of,
    private_data,
    proof_holds,
    public_data,
    sign_claim,
    sign_vote,
    signed,
)
from protocols.desk import Desk
from protocols.evidence import Case, Judgement
from protocols.exchange import ModelExchange
from protocols.head import Head, Parts
from protocols.learner import LearnerError, Trained
from protocols.lineage import theta0
from protocols.manifest import Audit, Manifest, Modest, Timing
from protocols.membership import Membership
from protocols.messages import (
    Ack,
    Aggregate,
    AnyMessage,
    AskEvidence,
    Certificate,
    Committed,
    EvidenceIs,
    Hello,
    Input,
    Ping,
    Pong,
    Refused,
    Twice,
    Voted,
    Welcome,
)
from protocols.ownclaims import OwnClaims
from protocols.signatures import Signer
from protocols.withheld import Withheld
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role, Round
from sampling.sampler import Sampler
from sampling.view import Registration, View
from verify.claims import COMMITTED, UNBOUND, Vote, auditors, bound, commitment, is_drawn
from verify.digest import Digest, digest_of
from verify.lsh import Signature
from verify.standing import QUARANTINE_STRIKES, Offence, OffenceKind, Standing
from verify.tally import Stage

Links = Any  # conftest's
Court = Any

RUN = bytes(32)
SIGNERS = [Signer.from_seed(bytes([number] * 32)) for number in range(9)]
PEERS = [signer.peer for signer in SIGNERS]
ME, LIAR, OTHER, MAKER = 0, 1, 2, 3  # we; whose claim is drawn; who trained beside it; who merged and drew
FRACTION = 0.5
THETA0 = digest_of(b"theta0")
ROOM = 100  # models that our store holds
SHARD, PRIVATE_DATA = public_data("0/9 iid 0"), private_data(SIGNERS[LIAR], RUN)
HONEST, CLAIMED = b"replayed..", b"claimed..."  # the bytes of two models


class Toy:
    """Replays, and trainings of our own, give `gives`; two models have nothing in common."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self.gives = CLAIMED
        self.replayed_at: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def initial(self) -> Digest:
        return await self._blobs.put(b"theta0")

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        self.replayed_at.append(trio.current_time())
        self.meanwhile()
        return Trained(await self._blobs.put(self.gives), 10, 1, 0.5, 0.0)

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        return await self.replay(parent, round, seed=seed, shard="", samples=10)

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        return Signature(digest_of(seed + model), 0)


class Scene:
    """Our auditor, with PEERS in its view. Nothing of what follows from its judgements is done: see `judged`."""

    def __init__(self, links: Links, accuse: Any) -> None:  # noqa: ANN401 - a Court, or a judge
        links.me = PEERS[ME]
        self.links, view, rules, rng = links, View(100), Rules(), random.Random(0)
        for peer in PEERS:
            view.register(Registration(peer, 1, True, (Role.TRAINER,), Round(0), (), b""))
        manifest = Manifest(
            name="test",
            protocol="modest",
            task="toy",
            author=PEERS[0],
            theta0=THETA0.hex(),
            model_bytes=len(CLAIMED),
            modest=Modest(trainers=4),
            timing=Timing(round_floor_s=1.0, round_ceiling_s=60.0),
            audit=Audit(fraction=FRACTION),
        )
        self.desk = Desk(links, accuse)
        self.desk.known = lambda peer: peer in PEERS
        self.membership = Membership(
            self.desk,
            view,
            rules,
            SIGNERS[ME],
            RUN,
            roles=[Role.TRAINER],
            bootstrap=[],
            counter=0,
            patience=Patience(0.25, 5.0),
            rng=rng,
        )
        self.data = SHARD  # that LIAR claims to have trained on
        self.blobs = MemoryBlobs(ROOM * len(CLAIMED))
        self.learner: Any = Toy(self.blobs)
        exchange = ModelExchange(links, self.blobs, len(CLAIMED), accuse)
        sampler = Sampler(view, rules, RUN, self.membership.ping)
        parts = Parts(
            self.desk, self.membership, sampler, exchange, self.learner, self.blobs, manifest, rng, SIGNERS[ME]
        )
        self.head = Head(parts, theta0(manifest), self._save)
        self.withheld = Withheld(lambda: self.head.known.round, lambda: False, lambda model: False)
        self.judged: list[Judgement] = []
        self.saved = 0
        claims = OwnClaims((), (), self._claimed)
        self.auditor = Auditor(parts, self.head, self.withheld, claims, lambda: False, self.judged.append)

    async def _save(self, held: Aggregate) -> None: ...

    async def _claimed(self) -> None:
        self.saved += 1

    @asynccontextmanager
    async def audits(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.auditor.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    async def round(self, model: bytes = CLAIMED, rank: int = 0) -> Case:
        """A round in which LIAR hands in `model`; and the next, whose model draws that claim alone. `rank`: ours."""
        parent = self.head.known
        first = after(parent, [made_by(LIAR, model, parent, self.data), made_by(OTHER, b"other.....", parent)])
        second = drawing(first, rank)
        for each in (first, second):
            self.head.learn(each)
            await self.blobs.put(named(each))
        return Case(first, link_of(second), next(each for each in first.inputs if each.trainer == PEERS[LIAR]))

    def leaves(self, index: int = ME) -> None:
        """From now on, as our view has it."""
        left = Registration(PEERS[index], 2, False, (Role.TRAINER,), Round(0), (), b"")
        self.membership.view.register(left)

    async def hears(self, peer: PeerId, message: AnyMessage) -> None:
        await self.desk._overhear(peer, wire.encode(message))

    async def is_asked(self, peer: PeerId, message: AnyMessage) -> AnyMessage:
        return await self.desk._reply(peer, wire.encode(message))

    @property
    def votes(self) -> list[Vote]:
        """Ours."""
        return [message.vote for _, message in self.links.published if isinstance(message, Voted)]


def made_by(index: int, model: bytes, parent: Aggregate, data: bytes = SHARD) -> Input:
    round = Round(parent.round + 1)
    unsigned = Input(PEERS[index], digest_of(model), 10, data)
    signature = sign_claim(SIGNERS[index], RUN, claim_of(round, parent.model, unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def aggregate(parent: Aggregate, inputs: Sequence[Input], number: int = 0) -> Aggregate:
    """`number`: any, for other bytes of the model."""
    round = Round(parent.round + 1)
    model = digest_of(mean(round, number))
    return signed(Aggregate(round, model, parent.model, tuple(inputs), (PEERS[MAKER],)), SIGNERS[MAKER], RUN)


def mean(round: int, number: int) -> bytes:
    return b"%04d%06d" % (round, number)


def named(aggregate: Aggregate) -> bytes:
    """The bytes of its model."""
    return next(
        b for b in (mean(aggregate.round, each) for each in itertools.count()) if digest_of(b) == aggregate.model
    )


def after(parent: Aggregate, inputs: Sequence[Input]) -> Aggregate:
    """Its successor, as a beacon that draws nothing of it."""
    every = (aggregate(parent, inputs, number) for number in itertools.count())
    return next(each for each in every if not any(is_drawn(each.model, claim, FRACTION) for claim in claims(parent)))


def drawing(first: Aggregate, rank: int) -> Aggregate:
    """Its successor, as a beacon that draws the claim of LIAR and nothing else, and calls us at that rank."""
    inputs, (wanted, *others) = [made_by(OTHER, b"next......", first)], claims(first)
    for number in itertools.count():
        found = aggregate(first, inputs, number)
        order = auditors((peer for peer in PEERS if peer != PEERS[LIAR]), found.model, wanted)
        drawn = [is_drawn(found.model, claim, FRACTION) for claim in (wanted, *others)]
        if order[rank] == PEERS[ME] and drawn == [True] + [False] * len(others):
            return found
    raise AssertionError


def claims(of: Aggregate) -> list[Digest]:
    """Those that can be drawn of it."""
    trained = [claim_of(of.round, of.parent, each).statement for each in of.inputs]
    return [*trained, merged_of(of).statement] if of.aggregators else []


def vote(index: int, case: Case, *, agrees: bool, own: bytes = bytes(32)) -> Vote:
    mine = bytes(Signature(own, 0))
    claimed = mine if agrees else bytes(Signature(b"\xff" * 32, 0))
    return sign_vote(SIGNERS[index], RUN, Vote(PEERS[index], case.claim, agrees, mine, claimed, bytes(16), b""))


def ranked(case: Case) -> list[int]:
    """Signers of its auditors, in order."""
    return [
        PEERS.index(peer) for peer in auditors((p for p in PEERS if p != case.accused), case.beacon.model, case.claim)
    ]


@pytest.fixture
async def scene(links: Links, court: Court) -> Scene:
    return Scene(links, court)


# -- who is called ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
async def test_each_silent_auditor_is_replaced_after_one_deadline(
    autojump_clock: MockClock, scene: Scene, rank: int
) -> None:
    await scene.round(rank=rank)
    async with scene.audits():
        await trio.sleep(100.0)
    assert scene.learner.replayed_at == [pytest.approx(rank * FIRST_AUDIT_S, abs=0.1)]
    assert [each.agrees for each in scene.votes] == [True]


async def test_who_is_not_needed_does_no_work(autojump_clock: MockClock, scene: Scene) -> None:
    case = await scene.round(rank=1)
    async with scene.audits():
        first = ranked(case)[0]
        await scene.hears(PEERS[first], Voted(case.round, vote(first, case, agrees=True)))
        await trio.sleep(100.0)
    assert (scene.learner.replayed_at, scene.votes) == ([], [])


async def test_who_is_out_already_is_audited_no_more(autojump_clock: MockClock, scene: Scene) -> None:
    """Its update changes nothing any more, and its bytes would be slow to come."""
    start = scene.head.known
    await scene.round(rank=1)
    async with scene.audits():
        await scene.auditor.prove(
            Twice(Round(1), start.model, made_by(LIAR, b"one", start), made_by(LIAR, b"other", start))
        )
        assert expels(scene) == [PEERS[LIAR]]
        await trio.sleep(100.0)
    assert (scene.learner.replayed_at, scene.votes) == ([], [])


async def test_a_doubt_calls_the_next_two_at_once_and_no_more(autojump_clock: MockClock, scene: Scene) -> None:
    case = await scene.round(rank=2)
    async with scene.audits():
        first = ranked(case)[0]
        await trio.sleep(3.0)
        await scene.hears(PEERS[first], Voted(case.round, vote(first, case, agrees=False)))
        await trio.sleep(1.0)
    assert scene.learner.replayed_at == [pytest.approx(3.0, abs=0.1)]


async def test_who_leaves_is_called_no_more(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.round(rank=1)
    async with scene.audits():
        await trio.sleep(FIRST_AUDIT_S / 2)
        scene.leaves()
        await trio.sleep(100.0)
    assert (scene.learner.replayed_at, scene.votes) == ([], [])


async def test_who_leaves_while_it_does_the_work_votes_no_more(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.round(rank=0)
    scene.learner.meanwhile = scene.leaves
    async with scene.audits():
        await trio.sleep(100.0)
    assert len(scene.learner.replayed_at) == 1
    assert scene.votes == []
    assert scene.auditor.figures.audited == 0


# -- floods -----------------------------------------------------------------------------------------------------------


class Judge:
    """A standing in place of the court: whoever has gone too far is not heard."""

    def __init__(self) -> None:
        self.standing, self.round = Standing(), 1

    def __call__(self, peer: PeerId, kind: OffenceKind, detail: str) -> None:
        self.standing.record(Offence(peer, kind, self.round, detail))

    def shuns(self, peer: PeerId) -> bool:
        return self.standing.quarantined(peer, self.round)


class Checked:
    """How many signatures under votes were looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        claiming.vote_holds.cache_clear()
        honest = claiming.verify

        def verify(peer: PeerId, domain: bytes, run: bytes, statement: bytes, signature: bytes) -> bool:
            self.count += 1
            return honest(peer, domain, run, statement, signature)

        monkeypatch.setattr(claiming, "verify", verify)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
async def judged_scene(links: Links, judge: Judge) -> Scene:
    scene = Scene(links, judge)
    scene.desk.shunned = judge.shuns
    return scene


def forged(index: int, case: Case, number: int) -> Vote:
    """A doubt that it says somebody else signed."""
    return vote(index, case, agrees=False, own=digest_of(b"%d" % number))._replace(signature=bytes(64))


async def test_a_flood_of_forged_doubts_is_rationed_and_paid_for_by_whoever_sends_it(
    autojump_clock: MockClock, judged_scene: Scene, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, burst = judged_scene, int(limits.GOSSIP_PER_PEER_PER_S * limits.GOSSIP_BURST_S)
    case = await scene.round(rank=7)
    flooder, slandered, honest = ranked(case)[:3]
    async with scene.audits():
        checked = Checked(monkeypatch)
        for number in range(2 * burst):
            await scene.hears(PEERS[flooder], Voted(case.round, forged(slandered, case, number)))
        assert (scene.auditor.figures.refused, scene.desk.gossip_rationed) == (burst, burst)
        assert checked.count == burst
        await scene.hears(PEERS[honest], Voted(case.round, vote(honest, case, agrees=True)))
        assert scene.auditor.evidence.cases[case.claim].ballot.counts == (1, 0)  # the others are heard meanwhile
        judge.round += 1  # of one kind, one round's strikes are not enough
        await trio.sleep(limits.GOSSIP_BURST_S)
        for number in range(burst):
            await scene.hears(PEERS[flooder], Voted(case.round, forged(slandered, case, 2 * burst + number)))
    assert judge.shuns(PEERS[flooder])
    assert scene.auditor.figures.refused == burst + 2
    assert judge.standing.strikes(PEERS[slandered], judge.round) == 0


async def test_one_auditor_has_one_doubt_of_a_claim_however_often_it_says_so(
    autojump_clock: MockClock, scene: Scene, court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = await scene.round(rank=7)
    doubter = ranked(case)[0]
    async with scene.audits():
        checked = Checked(monkeypatch)
        for number in range(100):
            cast = vote(doubter, case, agrees=False, own=digest_of(b"%d" % number))
            await scene.hears(PEERS[doubter], Voted(case.round, cast))
    held = scene.auditor.evidence.cases[case.claim]
    assert (held.ballot.counts, checked.count, court.verdicts) == ((0, 1), 1, [])
    assert scene.auditor.evidence.verdict(held).stage is Stage.ACCUSED


async def test_of_a_certificate_with_forged_votes_the_first_is_enough(
    autojump_clock: MockClock, scene: Scene, court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = await scene.round(rank=7)
    flooder, slandered, *_ = ranked(case)
    async with scene.audits():
        checked = Checked(monkeypatch)
        votes = tuple(forged(slandered, case, number) for number in range(limits.VOTES))
        told = msgspec.structs.replace(case.certificate(), votes=votes)
        await scene.hears(PEERS[flooder], EvidenceIs((told, told, told)))
    assert checked.count == 1
    assert court.verdicts == [(PEERS[flooder], OffenceKind.BAD_SIGNATURE)]
    assert not scene.auditor.evidence.doubted()


async def test_who_asks_for_evidence_again_and_again_is_refused_and_struck(
    autojump_clock: MockClock, judged_scene: Scene, judge: Judge
) -> None:
    scene, ration = judged_scene, int(limits.ACTS_PER_PEER_PER_S * limits.ACTS_BURST_S)
    await scene.round(rank=7)
    async with scene.audits():
        for _ in range(2):
            answers = [await scene.is_asked(PEERS[4], AskEvidence(())) for _ in range(2 * ration)]
            assert sum(isinstance(each, EvidenceIs) for each in answers) == ration
            judge.round += 1
            await trio.sleep(limits.ACTS_BURST_S)
        assert judge.standing.count(PEERS[4], OffenceKind.FLOOD) > 2 * ration / 2
        assert judge.standing.strikes(PEERS[4], judge.round) == QUARANTINE_STRIKES
        assert isinstance(await scene.is_asked(PEERS[4], AskEvidence(())), Refused)
        assert isinstance(await scene.is_asked(PEERS[5], AskEvidence(())), EvidenceIs)


# -- what cannot be had -----------------------------------------------------------------------------------------------


def polite(question: AnyMessage) -> AnyMessage:
    return Pong(Round(0)) if isinstance(question, Ping) else Ack()


async def test_bytes_that_nobody_gives_cost_a_strike_each_time_and_the_audit_ends(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    scene.learner.gives = HONEST
    for peer in PEERS[1:]:
        scene.links.says[peer] = polite
    async with scene.audits():
        for _ in range(3):
            await scene.round(b"%010d" % scene.head.known.round)
            await trio.sleep(100.0)
    assert court.verdicts == [(PEERS[LIAR], OffenceKind.BROKEN_PROMISE)] * 3
    assert (scene.auditor.unable, scene.auditor.audited, scene.votes) == (3, 0, [])
    assert not any(each.expelled for each in scene.judged)
    assert len(scene.learner.replayed_at) == 3  # each was tried once, and is not begun again
    assert not scene.auditor._attended


async def test_bytes_of_a_round_that_nobody_audits_any_more_are_owed_by_nobody(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    scene.learner.gives = HONEST
    scene.learner.meanwhile = lambda: rounds_pass(scene, limits.CLAIM_ROUNDS)
    await scene.round()
    async with scene.audits():
        await trio.sleep(100.0)
    assert (scene.auditor.unable, scene.votes, court.verdicts) == (1, [], [])


async def test_who_has_not_heard_of_the_draw_yet_is_asked_again_before_it_is_blamed(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    """It may know the round of the beacon a moment after us, and gives its update to nobody before."""
    committed: list[AnyMessage] = []

    def behind(question: AnyMessage) -> AnyMessage:
        if not isinstance(question, Committed):
            return polite(question)
        committed.append(question)
        if len(committed) < 2:
            return Refused("not a claim that you audit, as far as I know")
        scene.links.holding(PEERS[LIAR], CLAIMED)
        return Ack()

    scene.learner.gives = HONEST
    scene.links.says[PEERS[LIAR]] = behind
    await scene.round()
    async with scene.audits():
        await trio.sleep(100.0)
    assert (len(committed), len(scene.votes), court.verdicts) == (2, 1, [])


def rounds_pass(scene: Scene, count: int) -> None:
    for _ in range(count):
        known = scene.head.known
        scene.head.learn(after(known, [made_by(OTHER, b"%010d" % known.round, known)]))


@pytest.mark.parametrize(("data", "signed"), [(SHARD, 2), (PRIVATE_DATA, 3)])
async def test_what_an_audit_looks_at_makes_no_room_for_other_models(
    autojump_clock: MockClock, scene: Scene, court: Court, data: bytes, signed: int
) -> None:
    scene.data, scene.learner.gives = data, HONEST
    scene.links.says[PEERS[LIAR]] = polite
    scene.links.holding(PEERS[LIAR], CLAIMED)
    honest, there = scene.learner.signature, []

    async def signature(model: Digest, parent: Digest, seed: bytes) -> Signature:
        await fill(scene)
        there.append((parent in scene.blobs, model in scene.blobs))
        found: Signature = await honest(model, parent, seed)
        return found

    scene.learner.signature = signature
    rounds_pass(scene, 1)
    await scene.blobs.put(named(scene.head.known))  # the parent
    await scene.round()
    async with scene.audits():
        await trio.sleep(100.0)
    assert there == [(True, True)] * signed
    assert (len(scene.votes), court.verdicts) == (1, [])


async def test_bytes_that_had_to_make_room_all_the_same_are_nobodys_fault(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    scene.data, scene.learner.gives = PRIVATE_DATA, HONEST

    async def signature(model: Digest, parent: Digest, seed: bytes) -> Signature:
        raise LearnerError("the model is not in the store")

    scene.learner.signature = signature
    await scene.round()
    async with scene.audits():
        await trio.sleep(100.0)
    assert (scene.auditor.unable, scene.votes, court.verdicts) == (1, [], [])


async def test_what_is_owed_to_auditors_makes_no_room_until_it_is_decided(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.data = PRIVATE_DATA
    await scene.blobs.put(CLAIMED)  # we have merged it
    case = await scene.round(rank=7)
    async with scene.audits():
        await fill(scene)
        assert case.model in scene.blobs
        first = ranked(case)[0]
        cast = vote(first, case, agrees=True)
        await scene.hears(PEERS[first], Voted(case.round, cast))
        await fill(scene)
    assert case.model not in scene.blobs


async def fill(scene: Scene) -> None:
    for number in range(2 * ROOM):
        await scene.blobs.put(b"%010d" % number)


async def test_a_parent_that_nobody_has_is_nobodys_fault(autojump_clock: MockClock, scene: Scene, court: Court) -> None:
    scene.head.learn(aggregate(scene.head.known, [made_by(OTHER, b"before....", scene.head.known)]))  # and lost
    async with scene.audits():
        await scene.round()
        await trio.sleep(100.0)
    assert (scene.auditor.unable, scene.votes, scene.learner.replayed_at) == (1, [], [])
    assert court.verdicts == []


# -- commit before seeing ---------------------------------------------------------------------------------------------


def committed(index: int, case: Case, own: bytes = b"own") -> Committed:
    return signed_commitment(index, case, commitment(PEERS[index], case.claim, own, bytes(16)))


def signed_commitment(index: int, case: Case, to: Digest) -> Committed:
    signature = SIGNERS[index].sign(COMMITTED, RUN, bound(case.round, case.claim, to))
    return Committed(case.round, case.claim, to, signature)


async def test_the_claimed_bytes_are_given_to_auditors_who_have_committed_and_to_nobody_else(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    case = await scene.round(rank=7)
    model, (one, other, *_) = Digest(case.model), ranked(case)
    async with scene.audits():
        assert not any(scene.withheld.may_fetch(peer, model) for peer in PEERS)
        assert await scene.is_asked(PEERS[one], committed(one, case)) == Ack()
        assert [peer for peer in PEERS if scene.withheld.may_fetch(peer, model)] == [PEERS[one]]
        for _ in range(limits.CLAIM_ROUNDS // 2):  # then it is no longer audited
            assert not scene.withheld.may_fetch(PEERS[other], model)
            await scene.round()
    assert scene.withheld.may_fetch(PEERS[other], model)
    assert court.verdicts == []


async def test_a_commitment_binds_and_must_be_its_auditors_own(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    case = await scene.round(rank=7)
    one, other, *_ = ranked(case)
    async with scene.audits():
        forged = committed(one, case)
        assert isinstance(await scene.is_asked(PEERS[other], forged), Refused)
        assert court.verdicts == [(PEERS[other], OffenceKind.BAD_SIGNATURE)]
        assert isinstance(await scene.is_asked(PEERS[LIAR], committed(LIAR, case)), Refused)  # no auditor of its own
        assert await scene.is_asked(PEERS[one], committed(one, case)) == Ack()
        assert await scene.is_asked(PEERS[one], committed(one, case)) == Ack()  # asked again, after a lost answer
        assert isinstance(await scene.is_asked(PEERS[one], committed(one, case, b"another")), Refused)
    assert court.verdicts[1:] == []
    assert not scene.withheld.may_fetch(PEERS[other], Digest(case.model))


async def test_who_votes_on_another_result_than_it_committed_to_is_expelled_by_both_signatures(
    autojump_clock: MockClock, scene: Scene
) -> None:
    case = await scene.round(rank=7)
    one, other, *_ = ranked(case)
    kept = vote(other, case, agrees=True)
    async with scene.audits():
        assert await scene.is_asked(PEERS[one], committed(one, case)) == Ack()
        assert await scene.is_asked(PEERS[other], signed_commitment(other, case, kept.commitment)) == Ack()
        await scene.hears(PEERS[other], Voted(case.round, kept))
        assert expels(scene) == []
        await scene.hears(PEERS[one], Voted(case.round, vote(one, case, agrees=True)))
        assert expels(scene) == [PEERS[one]]
    (told,) = [message for _, message in scene.links.published if isinstance(message, EvidenceIs)]
    assert [culprit(proof) for proof in told.proofs] == [PEERS[one]]  # all others learn of it, and can check it
    assert all(proof_holds(proof, RUN) for proof in told.proofs)


async def test_nobody_is_given_the_bytes_of_a_training_for_a_commitment_that_binds_to_nothing(
    autojump_clock: MockClock, scene: Scene
) -> None:
    case = await scene.round(rank=7)
    one, *_ = ranked(case)
    async with scene.audits():
        assert isinstance(await scene.is_asked(PEERS[one], signed_commitment(one, case, UNBOUND)), Refused)
    assert not scene.withheld.may_fetch(PEERS[one], Digest(case.model))


async def test_an_audit_that_gives_another_result_when_it_is_done_again_is_no_vote(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """A machine whose bits depend on chance: its second result must not convict it, nor the trainer."""
    scene.learner.gives = HONEST
    case = await scene.round()
    await scene.auditor._auditing._claims.commit(case.claim, digest_of(b"of the first time, before a crash"))
    async with scene.audits():
        await trio.sleep(100.0)
    assert (scene.votes, scene.auditor.unable, scene.saved) == ([], 1, 1)


@pytest.mark.parametrize(("data", "agrees"), [(SHARD, False), (PRIVATE_DATA, True)])
async def test_we_commit_to_a_result_of_our_own_before_we_ask_for_the_bytes(
    autojump_clock: MockClock, scene: Scene, data: bytes, agrees: bool
) -> None:
    scene.data, scene.learner.gives = data, HONEST
    source = scene.links.holding(PEERS[LIAR], CLAIMED)
    seen: list[tuple[AnyMessage, int]] = []

    def commits(question: AnyMessage) -> AnyMessage:
        if isinstance(question, Committed):
            seen.append((question, len(source.offsets)))
        return polite(question)

    scene.links.says[PEERS[LIAR]] = commits
    case = await scene.round()
    async with scene.audits():
        await trio.sleep(100.0)
    ((message, asked_before),), (cast,) = seen, scene.votes
    assert scene.saved == 1  # a restart must not make us say another
    assert isinstance(message, Committed)
    assert (asked_before, source.offsets) == (0, [0])
    assert message.commitment == cast.commitment  # what it votes is what it had bound itself to
    assert (message.claim, cast.agrees) == (case.claim, agrees)


# -- newcomers --------------------------------------------------------------------------------------------------------


async def linked(scene: Scene, *indices: int) -> None:
    for index in indices:
        assert isinstance(await scene.is_asked(PEERS[index], Hello(RUN, Round(0))), Welcome)


def conviction(name: bytes = b"") -> Certificate:
    """Of LIAR by all others, in rounds 5 and 6."""
    first = aggregate(Aggregate(Round(4), digest_of(b"old"), b"", (), ()), [made_by_of_old(name)])
    for number in itertools.count():
        second = aggregate(first, [made_by(OTHER, b"next......", first)], number)
        case = Case(first, link_of(second), first.inputs[0])
        if is_drawn(second.model, case.claim, FRACTION):
            votes = tuple(vote(index, case, agrees=False) for index in ranked(case) if index != ME)
            return msgspec.structs.replace(case.certificate(), votes=votes)
    raise AssertionError


def made_by_of_old(name: bytes) -> Input:
    return made_by(LIAR, CLAIMED + name, Aggregate(Round(4), digest_of(b"old"), b"", (), ()))


def newest(scene: Scene) -> None:
    """We have just joined: of the run we know its round."""
    before = Aggregate(Round(39), digest_of(b"before"), b"", (), ())
    scene.head.learn(aggregate(before, [made_by(OTHER, b"newest....", before)]))


def expels(scene: Scene) -> list[PeerId]:
    return list(scene.auditor.judgement.expelled)


async def test_a_newcomer_believes_of_the_past_what_two_peers_tell_alike(
    autojump_clock: MockClock, scene: Scene, court: Court
) -> None:
    newest(scene)
    async with scene.audits():
        await linked(scene, 4, 5, 6)
        told = EvidenceIs((conviction(),))
        for _ in range(3):
            await scene.hears(PEERS[4], told)
        assert expels(scene) == []  # one is not enough, however often
        await scene.hears(PEERS[5], EvidenceIs((conviction(b"of another past"),)))
        assert expels(scene) == []  # nor are two that tell different things
        await scene.hears(PEERS[6], told)
        assert expels(scene) == [PEERS[LIAR]]
    assert court.verdicts == []


async def test_nobody_is_believed_against_what_we_remember_or_on_what_is_yet_to_come(
    autojump_clock: MockClock, scene: Scene
) -> None:
    start = scene.head.known
    first = after(start, [made_by(LIAR, CLAIMED, start), made_by(OTHER, b"other.....", start)])
    scene.head.learn(first)
    scene.head.learn(after(first, [made_by(OTHER, b"next......", first)]))  # spares the liar
    drawn = Case(first, link_of(drawing(first, 7)), first.inputs[0])  # by another second round, says a majority
    votes = tuple(vote(index, drawn, agrees=False) for index in ranked(drawn) if index != ME)
    async with scene.audits():
        await linked(scene, 4, 5, 6)
        for index in (4, 5, 6):
            told = msgspec.structs.replace(drawn.certificate(), votes=votes)
            await scene.hears(PEERS[index], EvidenceIs((told, conviction())))
    assert expels(scene) == []
