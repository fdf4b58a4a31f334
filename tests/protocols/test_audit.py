"""Audits in whole swarms: who lies is out everywhere, who does not stays, and nobody is judged by a liar's word."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
from trio.testing import MockClock

from protocols.claiming import private_data, public_data
from protocols.learner import Trained
from protocols.manifest import Audit
from protocols.messages import Ack
from protocols.signatures import Signer
from protocols.transport import TransportError
from sampling.view import Delta
from verify.lsh import Signature
from verify.standing import OffenceKind, Repute
from verify.tally import Stage

MakeSwarm = Any  # conftest's
Member = Any
Swarm = Any

ALWAYS = Audit(fraction=1.0)


def expelled(member: Member) -> set[str]:
    return set(member.node.standing.expelled)


def auditor(member: Member) -> Any:  # noqa: ANN401  # protocols.audit's
    return member.node.protocol.auditor


async def founded(make_swarm: MakeSwarm, count: int = 8, **tables: object) -> Swarm:
    swarm = make_swarm(trainers=3, **{"rounds": 40, "audit": ALWAYS} | tables)
    await swarm.start(count)
    await swarm.see_everyone()
    return swarm


def lying(swarm: Swarm, *numbers: int) -> list[Member]:
    """The others are honest, and returned."""
    liars = [swarm.members[number] for number in numbers]
    swarm.liars.update(member.peer for member in liars)
    return [member for member in swarm.members if member not in liars]


def all_expel(honest: Iterable[Member], *liars: Member) -> bool:
    return all(expelled(member) == {liar.peer for liar in liars} for member in honest)


async def test_who_hands_in_what_it_did_not_train_is_expelled_everywhere(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = await founded(make_swarm)
    liar, honest = swarm.members[3], lying(swarm, 3)
    liar.learner.hands_in = -7.0
    await swarm.until(lambda: all_expel(honest, liar))
    assert {member.node.standing.repute(liar.peer, member.round) for member in honest} == {Repute.EXPELLED}
    round = max(member.round for member in honest)
    await swarm.until(lambda: min(member.round for member in honest) >= round + 6)
    late = [each for each in swarm.believed if each.round > round + 2]
    assert late
    assert not any(liar.peer in (*(made.trainer for made in each.inputs), *each.aggregators) for each in late)


async def test_a_shard_that_is_too_large_to_be_audited_is_not_merged(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, rounds=12, audit=Audit(fraction=1.0, examples=50), start_peers=8)
    members = await swarm.start(8)
    members[3].learner.samples = 51
    await swarm.until(lambda: all(member.head.finished for member in members))
    merged = {each.trainer for aggregate in members[0].head.line() for each in aggregate.inputs}
    assert members[3].learner.trained
    assert members[3].peer not in merged
    assert [expelled(member) for member in members] == [set()] * 8


@pytest.mark.parametrize("seed", range(3))
async def test_an_honest_swarm_expels_nobody(autojump_clock: MockClock, make_swarm: MakeSwarm, seed: int) -> None:
    swarm = await founded(make_swarm, rounds=10, seed=seed)
    await swarm.until_finished()
    assert [expelled(member) for member in swarm.members] == [set()] * 8
    assert sum(auditor(member).audited for member in swarm.members) > 20
    assert [case for member in swarm.members for case in auditor(member).evidence.doubted()] == []


async def test_a_wrong_aggregate_is_rolled_back_and_its_maker_expelled(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = make_swarm(trainers=3, rounds=14, audit=ALWAYS, start_peers=8)
    await swarm.start(8)
    (liar,) = swarm.aggregators(5)  # they are named by hash, and it has to come in before the end
    honest = lying(swarm, liar.index)
    merges_wrongly(liar)
    await swarm.until(lambda: all_expel(honest, liar))
    wrong = {case.model for case in auditor(honest[0]).evidence.doubted()}
    assert wrong
    swarm.convicted = frozenset(wrong)
    await swarm.until(lambda: all(each.head.finished and each.head.held == each.head.known for each in honest))
    assert {await member.learner.value(member.head.known.model) for member in honest} == {14.0}  # nothing is left of it


def merges_wrongly(member: Member) -> None:
    """As an aggregator only: what it audits it audits well."""
    aggregator = member.node.protocol.aggregator
    mean = aggregator._mean

    async def biased(*args: Any) -> Any:  # noqa: ANN401  # protocols' own types
        member.learner.bias = 1000.0
        try:
            return await mean(*args)
        finally:
            member.learner.bias = 0.0

    aggregator._mean = biased


async def test_an_auditor_that_lies_is_contradicted_and_loses_its_standing(
    autojump_clock: MockClock, make_swarm: MakeSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = await founded(make_swarm, rounds=60)
    liar, honest = swarm.members[4], lying(swarm, 4)
    slander(liar, monkeypatch)
    await swarm.until(lambda: all(m.node.standing.quarantined(liar.peer, m.round) for m in honest), 2000.0)
    assert {expelled(member).issubset(set()) for member in honest} == {True}
    assert {kind for member in honest for peer, kind in member.offences()} == {OffenceKind.FALSE_VOTE}


def slander(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """It contradicts whatever it audits."""
    auditing = auditor(member)._auditing

    async def audit(case: Any) -> Any:  # noqa: ANN401  # protocols' own types
        made = auditing._nonce(case)
        if case.made is None:
            return auditing._vote(case, bytes(32), case.model, made, agrees=False)
        if case.probed:
            own, claimed = Signature(bytes(32), 0), Signature(b"\xff" * 32, 0)
            return auditing._vote(case, bytes(own), bytes(claimed), made, agrees=False)
        return auditing._vote(case, b"", b"", made, agrees=False)

    monkeypatch.setattr(auditing, "audit", audit)


@pytest.mark.parametrize(("seed", "policy"), [(0, "auto"), (1, "auto"), (0, "probe"), (1, "probe")])
async def test_a_minority_of_colluding_auditors_puts_nobody_out(
    autojump_clock: MockClock, make_swarm: MakeSwarm, monkeypatch: pytest.MonkeyPatch, seed: int, policy: str
) -> None:
    swarm = await founded(make_swarm, count=9, rounds=6, seed=seed, audit=Audit(fraction=1.0, policy=policy))
    honest = lying(swarm, 1, 5, 7)
    for number in (1, 5, 7):
        slander(swarm.members[number], monkeypatch)

    def stages() -> set[Stage]:
        return {verdict.stage for member in honest for verdict in auditor(member).figures.verdicts}

    def settled() -> bool:
        shunned = [member.node.standing.quarantined(other.peer, member.round) for member in honest for other in honest]
        assert not any(shunned)  # not even for a while
        return all(member.head.finished for member in honest) and stages() <= {Stage.CLEARED, Stage.ACQUITTED}

    await swarm.until(settled, 900.0)
    assert stages()  # they did doubt


async def test_expulsions_outlive_a_restart_and_newcomers_learn_of_them(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = await founded(make_swarm, rounds=60)
    liar, honest = swarm.members[3], lying(swarm, 3)
    liar.learner.hands_in = -7.0
    await swarm.until(lambda: all_expel(honest, liar))
    await swarm.until(lambda: all(member.saved[-1].docket.certificates for member in honest))
    swarm.crash(swarm.members[5])
    back = await swarm.restart(swarm.members[5])
    assert back.node.standing.expelled == {} or expelled(back) == {liar.peer}
    await swarm.until(lambda: expelled(back) == {liar.peer}, 1.0)
    (newcomer,) = await swarm.start()
    await swarm.until(lambda: expelled(newcomer) == {liar.peer})
    assert liar.peer not in newcomer.node.parts.sampler.candidates(newcomer.round)


async def test_of_private_data_who_is_far_from_all_others_is_suspended_everywhere_and_nobody_is_blamed(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = await founded(make_swarm, rounds=16, audit=PROBING)
    liar, honest = swarm.members[3], lying(swarm, 3)
    liar.learner.hands_in = -7.0
    await swarm.until(lambda: all(suspended(member, liar) for member in honest))
    assert {member.node.standing.repute(liar.peer, member.round) for member in honest} == {Repute.SUSPENDED}
    assert "auditors suspect it, which is no proof" in honest[0].node.standing.why(liar.peer)
    await swarm.until(lambda: all(member.head.finished for member in honest))
    assert [expelled(member) for member in honest] == [set()] * 7
    assert {offence for member in honest for offence in member.offences()} == set()  # a vote may err
    assert {replay for member in honest for replay in member.learner.replayed} == set()


PROBING = Audit(fraction=1.0, policy="probe")


def suspended(member: Member, other: Member) -> bool:
    found: bool = member.node.standing.suspended(other.peer, member.round)
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_probes_of_an_honest_swarm_suspect_nobody_and_can_all_be_done(
    autojump_clock: MockClock, make_swarm: MakeSwarm, seed: int
) -> None:
    swarm = await founded(make_swarm, rounds=20, seed=seed, audit=PROBING)
    await swarm.until_finished()
    figures = [auditor(member).figures for member in swarm.members]
    assert sum(each.audited for each in figures) > 40
    assert [(each.unable, each.verdicts) for each in figures] == [(0, ())] * 8
    assert {offence for member in swarm.members for offence in member.offences()} == set()


async def test_who_still_learns_is_not_suspected_by_those_who_have_learned(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm = await founded(make_swarm, rounds=20, audit=PROBING)
    for member in swarm.members[1:]:
        member.learner.step = 0.01
    await swarm.until_finished()
    figures = [auditor(member).figures for member in swarm.members]
    assert sum(each.audited for each in figures) > 40
    assert [(each.unable, each.doubted) for each in figures] == [(0, 0)] * 8


@pytest.mark.parametrize(
    ("policy", "data"),
    [("probe", public_data("3/99")), ("replay", private_data(Signer.from_seed(bytes([3] * 32)), bytes(32)))],
)
async def test_what_the_policy_cannot_audit_is_not_merged(
    autojump_clock: MockClock, make_swarm: MakeSwarm, policy: str, data: bytes
) -> None:
    swarm = await founded(make_swarm, rounds=6, audit=Audit(fraction=1.0, policy=policy))
    other = swarm.members[3]
    trainer = other.node.protocol.trainer
    trainer._parts = dataclasses.replace(trainer._parts, data=data)
    await swarm.until_finished()
    late = [each for each in swarm.believed if each.round > 1]
    assert other.learner.trained
    assert late
    assert other.peer not in {made.trainer for each in late for made in each.inputs}


async def test_two_results_of_one_piece_of_work_are_proof(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, rounds=8, audit=Audit(fraction=1e-9), start_peers=6)
    await swarm.start(6, train_s=30.0)
    await swarm.see_everyone()
    (victim,) = swarm.aggregators(1)
    liar = next(member for member in swarm.trainers(1) if member is not victim)
    honest = lying(swarm, liar.index)
    liar.learner.train_s = 0.1
    gathering = victim.node.protocol.aggregator._collections
    await swarm.until(lambda: any(liar.peer in each._ready for each in gathering.values()))
    other = await liar.learner._put(5.0, "another")
    parts, trainer = liar.node.parts, liar.node.protocol.trainer
    offer = trainer._offer(trainer._begun, Trained(other, 10, 1, 0.5, 1.0), Delta())
    with contextlib.suppress(TransportError):  # the victim may close the link before it has answered
        await parts.desk.ask(victim.peer, offer, Ack, 10.0)
    await swarm.until(lambda: all_expel(honest, liar), 60.0)
