"""Audits without rounds: who lies is out wherever its work was done again, and nobody is out on anybody's word."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from protocols.claiming import sign_claim
from protocols.gossip import claims
from protocols.gossip.messages import AskWork, Doubted, Offer, Part, Work, WorkIs
from protocols.manifest import Audit
from protocols.messages import AnyMessage, Refused
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind, Repute
from verify.tally import Stage

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]
Member = Any  # of conftest.py

ALWAYS = {"audit": Audit(fraction=1.0), "rounds": 0, "start_peers": 4}
PULLED = {"gossip": {"inline_bytes": 0}}


def expelled(member: Member, peer: PeerId) -> bool:
    return bool(member.node.standing.repute(peer, Round(0)) is Repute.EXPELLED)


@pytest.mark.parametrize("tables", [{}, PULLED], ids=["inline", "pulled"])
@pytest.mark.parametrize("init", ["common", "different"])
async def test_honest_nodes_do_each_others_work_again_and_doubt_nobody(
    make_swarm: MakeSwarm, autojump_clock: MockClock, tables: dict[str, Any], init: str
) -> None:
    gossip = {**tables.get("gossip", {}), "init": init}
    async with make_swarm(**ALWAYS, gossip=gossip) as swarm:
        members = await swarm.start(4)
        await swarm.until(lambda: all(member.gossip.auditor.audited >= 10 for member in members))
        assert [member.offences() for member in members] == [[]] * 4
        assert {member.gossip.auditor.doubted for member in members} == {0}
        assert sum(member.gossip.auditor.unable for member in members) <= 2
        assert members[0].gossip.audits.verdicts == ()


async def test_who_comes_back_from_a_pause_says_truly_what_it_went_on_from(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(**ALWAYS, gossip={"inline_bytes": 0}) as swarm:
        *others, stopped = await swarm.start(4)
        await swarm.until(lambda: stopped.age >= 5)
        stopped.learner.train_s = 30.0
        await trio.sleep(31)
        stopped.learner.train_s, merge = 0.5, stopped.learner.merge

        async def slowly(*args: Any) -> Digest:  # noqa: ANN401 - the learner's own
            await trio.sleep(3.0)  # new models of the others come meanwhile
            return await merge(*args)

        stopped.learner.merge = slowly
        await swarm.until(lambda: stopped.gossip.trainer.counts.caught_up > 0)
        stopped.learner.merge = merge
        await trio.sleep(30)
        assert [member.offences() for member in others] == [[]] * 3
        assert {member.gossip.auditor.doubted for member in others} == {0}


@pytest.mark.parametrize("tables", [{}, PULLED], ids=["inline", "pulled"])
async def test_who_offers_what_it_did_not_train_is_out_everywhere(
    make_swarm: MakeSwarm, autojump_clock: MockClock, tables: dict[str, Any]
) -> None:
    async with make_swarm(**ALWAYS, **tables) as swarm:
        *honest, liar = [*await swarm.start(4), *await swarm.start(hands_in=50.0)]
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: all(expelled(member, liar.peer) for member in honest))
        for member in honest:
            assert {each for each in member.offences() if each[0] != liar.peer} == set()
            (verdict,) = member.gossip.audits.verdicts
            assert (verdict.peer, verdict.stage, verdict.contradict) == (liar.peer, Stage.EXPELLED, 2)
        merged = [len(member.learner.merged) for member in honest]
        await trio.sleep(10)
        for member, before in zip(honest, merged, strict=True):
            later = [model for models, _ in member.learner.merged[before + 1 :] for model in models]
            assert later
            assert 50.0 not in [await member.learner.value(model) for model in later if model in member.blobs]


async def test_one_audit_is_enough_for_all_to_look(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    """Only one node draws an audit; the others are told of a doubt, and look for themselves."""
    tables = {**ALWAYS, "audit": Audit(fraction=1e-9)}
    async with make_swarm(**tables) as swarm:
        *honest, liar = [*await swarm.start(4), *await swarm.start(hands_in=50.0)]
        swarm.liars.add(liar.peer)
        await trio.sleep(10)
        assert {member.gossip.auditor.audited for member in honest} == {0}
        honest[0].gossip.auditor._owing.add(liar.peer)
        await swarm.until(lambda: all(expelled(member, liar.peer) for member in honest))


async def test_a_lie_in_a_model_that_is_never_offered_is_found_in_what_follows(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    """Every second model is a lie that nobody is shown; from it the next is trained honestly."""
    async with make_swarm(**ALWAYS) as swarm:
        *honest, liar = [*await swarm.start(4), *await swarm.start()]
        swarm.liars.add(liar.peer)
        making, train = liar.gossip.making, liar.learner.train
        shown: list[Offer | None] = [None]

        async def lie(parent: Digest, round: Round, *, seed: int) -> Any:  # noqa: ANN401 - a Trained
            liar.learner.hands_in = 50.0 if round % 2 else None
            return await train(parent, round, seed=seed)

        def trained(*what: Any) -> Offer:  # noqa: ANN401 - passed on
            offer = type(making).trained(making, *what)
            if not offer.age % 2:
                shown[0] = offer
            return shown[0] or offer

        liar.learner.train, making.trained = lie, trained
        liar.gossip.inbox.take = list  # it merges nothing, so that nothing dilutes the poison
        await swarm.until(lambda: all(expelled(member, liar.peer) for member in honest))


async def test_a_doubt_that_does_not_hold_costs_its_teller_and_nobody_else(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(**{**ALWAYS, "audit": Audit(fraction=1e-9)}) as swarm:
        *honest, accused, liar = await swarm.start(5)
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: accused.age > 3)
        for _ in range(2):
            making = accused.gossip.making
            doubt = Doubted(accused.peer, making.newest, making.of(making.newest.model))
            await liar.node.parts.desk.tell(liar.node.parts.membership.topic, doubt)
            await trio.sleep(2)  # strikes are forgiven with time
        for member in honest:
            assert set(member.offences()) == {(liar.peer, OffenceKind.FALSE_VOTE)}
            assert member.node.standing.quarantined(liar.peer, member.node.parts.membership.round)
            assert member.gossip.auditor.trusts(accused.peer)


async def test_a_doubt_of_what_nobody_claimed_is_refused(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(**{**ALWAYS, "audit": Audit(fraction=1e-9)}) as swarm:
        *honest, accused, liar = await swarm.start(5)
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: accused.age > 3)
        making = accused.gossip.making
        true, work = making.newest, making.of(making.newest.model)
        for offer, told in (
            (msgspec.structs.replace(true, model=Digest(digest_of(b"forged"))), work),
            (true, Work()),
            (msgspec.structs.replace(true, signature=b""), work),
        ):
            await liar.node.parts.desk.tell(liar.node.parts.membership.topic, Doubted(accused.peer, offer, told))
        await trio.sleep(5)
        for member in honest:
            assert set(member.offences()) == {(liar.peer, OffenceKind.BAD_SIGNATURE)}
            assert member.gossip.audits.refused == 3
            assert member.gossip.auditor.audited == 0


async def test_who_does_not_show_its_work_is_not_merged_until_it_does(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(**ALWAYS) as swarm:
        *honest, shy = await swarm.start(4)
        desk = shy.node.parts.desk
        shows = desk._replies[AskWork]

        async def refuse(sender: PeerId, question: AskWork) -> AnyMessage:
            await trio.lowlevel.checkpoint()
            return Refused("no")

        desk._replies[AskWork] = refuse
        await swarm.until(lambda: all(not member.gossip.auditor.trusts(shy.peer) for member in honest))
        assert [member.offences() for member in honest] == [[]] * 3
        desk._replies[AskWork] = shows
        await swarm.until(lambda: all(member.gossip.auditor.trusts(shy.peer) for member in honest))


async def test_work_that_is_not_what_was_signed_is_an_offence(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(**ALWAYS) as swarm:
        *honest, liar = await swarm.start(4)
        swarm.liars.add(liar.peer)

        async def other(sender: PeerId, question: AskWork) -> AnyMessage:
            await trio.lowlevel.checkpoint()
            return WorkIs(Work((Part(sender, Offer(question.model, Round(1), 1, 1), 1),)))

        liar.node.parts.desk._replies[AskWork] = other
        await swarm.until(lambda: all((liar.peer, OffenceKind.UNFOUNDED) in each.offences() for each in honest))
        assert all(not member.gossip.auditor.trusts(liar.peer) for member in honest)


async def test_own_work_on_data_that_nobody_can_have_does_not_hide_a_lie(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    """Whose claims are of a shard again, but follow one on private data: that one cannot be looked at."""
    async with make_swarm(**ALWAYS) as swarm:
        *honest, liar = await swarm.start(4)
        swarm.liars.add(liar.peer)
        making, trained = liar.gossip.making, liar.gossip.making.trained

        def now_and_then(*what: Any) -> Offer:  # noqa: ANN401 - passed on
            making._data = b"p" + bytes(32) if what[1] % 2 else b"s0/8 iid 0"
            return trained(*what)

        making.trained = now_and_then
        await swarm.until(lambda: all(not member.gossip.auditor.trusts(liar.peer) for member in honest))


async def test_doubts_of_what_cannot_be_had_cost_one_attempt_a_training(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(**{**ALWAYS, "audit": Audit(fraction=1e-9)}) as swarm:
        *honest, liar = await swarm.start(4)
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: honest[0].age > 3)
        ages = [member.age for member in honest]
        for number in range(40):  # a friend doubts what the liar has signed, and neither hands it out
            doubt = Doubted(liar.peer, nowhere(liar, number), Work())
            for member in honest:
                await member.gossip.auditor.on_doubted(PeerId("friend"), doubt)
            await trio.sleep(0.1)
        for member, before in zip(honest, ages, strict=True):
            assert 1 <= member.gossip.auditor.unable <= member.age - before + 1


def nowhere(liar: Member, number: int) -> Offer:
    """The liar's signed claim of a model that does not exist."""
    making = liar.gossip.making
    offer = Offer(Digest(digest_of(b"%d" % number)), Round(1), 10, 1, claims.digest(Work()), b"s0/8 iid 0")
    return msgspec.structs.replace(
        offer, signature=sign_claim(making._signer, making._run, claims.claim_of(liar.peer, offer))
    )


async def test_an_unsigned_offer_is_an_offence_where_the_run_audits(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(**ALWAYS) as swarm:
        *honest, liar = await swarm.start(4)
        swarm.liars.add(liar.peer)
        liar.gossip.making._signer = type("Mute", (), {"sign": lambda *what: b""})()
        await swarm.until(lambda: all((liar.peer, OffenceKind.BAD_SIGNATURE) in each.offences() for each in honest))


async def test_expulsions_and_claims_outlive_a_restart(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(**ALWAYS) as swarm:
        *honest, liar = [*await swarm.start(4), *await swarm.start(hands_in=50.0)]
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: all(expelled(member, liar.peer) for member in honest))
        await trio.sleep(10)
        swarm.crash(honest[-1])
        back = await swarm.restart(honest[-1])
        await swarm.until(lambda: expelled(back, liar.peer), within_s=2.0)
        audited = sum(member.gossip.auditor.audited for member in honest[:-1])
        await swarm.until(lambda: sum(member.gossip.auditor.audited for member in honest[:-1]) > audited + 30)
        assert all(each.gossip.auditor.trusts(back.peer) for each in honest[:-1])
        assert (back.peer, OffenceKind.FALSE_CLAIM) not in [found for each in honest[:-1] for found in each.offences()]


async def test_an_expulsion_lapses_when_the_manifest_says_so(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(**{**ALWAYS, "audit": Audit(fraction=1e-9, readmit_rounds=10)}) as swarm:
        member, *_ = await swarm.start(4)
        swarm.liars.add(peer := PeerId("somebody"))
        member.gossip.auditor._out[peer] = (Round(member.age), digest_of(b"claim"))
        member.gossip.auditor.judge()
        assert expelled(member, peer)
        await swarm.until(lambda: not expelled(member, peer))


@pytest.mark.parametrize("policy", ["auto", "replay"])
async def test_work_on_private_data_is_not_audited_and_merged_only_if_that_is_allowed(
    make_swarm: MakeSwarm, autojump_clock: MockClock, policy: str
) -> None:
    tables = {**ALWAYS, "rounds": 10, "audit": msgspec.convert({"fraction": 1.0, "policy": policy}, Audit)}
    async with make_swarm(**tables, shard="") as swarm:
        members = await swarm.start(4)
        await swarm.until_finished()
        assert {member.gossip.auditor.audited for member in members} == {0}
        assert any(member.gossip.trainer.counts.merges for member in members) is (policy == "auto")


def test_a_claim_binds_every_model_and_weight_of_its_work() -> None:
    offers = [Offer(Digest(digest_of(b"%d" % number)), Round(3), 10, 500) for number in range(2)]
    work = Work((Part(PeerId("a"), offers[0], 2), Part(PeerId("b"), offers[1], 1)))
    others = [
        Work(),
        Work(work.parts[::-1]),
        Work(work.parts[:1]),
        Work((msgspec.structs.replace(work.parts[0], weight=1), work.parts[1])),
        Work((msgspec.structs.replace(work.parts[0], maker=PeerId("c")), work.parts[1])),
    ]
    assert len({claims.digest(each) for each in [work, *others]}) == 6
