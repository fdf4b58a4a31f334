"""Audits of entries: a liar is out on every node by a block, whoever audits; the honest never are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from gossipnode.certificates import Filed, check_certificate, read_certificate, write_certificates
from protocols.amendments import sign
from protocols.claiming import public_data
from protocols.learner import LearnerError, Probed
from protocols.manifest import Audit
from protocols.messages import Voted
from protocols.onebyte.cases import Cases
from protocols.onebyte.messages import AskVotes, VotesAre
from verify.standing import OffenceKind

LIAR = 7  # the last of eight


def shard(index: int) -> bytes:
    return public_data(f"{index}/8 iid 0")


def flipped(probed: Probed) -> Probed:
    scalars = (-np.frombuffer(probed.scalars, dtype=np.int8)).tobytes()
    return Probed(scalars, probed.loss, probed.saturated, probed.seconds)


def lying(member: Any, *methods: str) -> None:  # noqa: ANN401  # conftest's
    """Its probes, or those that it does again for others, come out negated."""
    for name in methods:
        honest = getattr(member.learner, name)

        async def twisted(seeds: Sequence[int], *, honest: Any = honest, **how: Any) -> Probed:  # noqa: ANN401
            return flipped(await honest(seeds, **how))

        setattr(member.learner, name, twisted)


def expelled(swarm: Any) -> list[frozenset[str]]:  # noqa: ANN401
    return [member.node.book.tip.state.expelled for member in swarm.alive()]


@pytest.fixture(params=[0.25, 1.0])
def audit(request: Any) -> Audit:  # noqa: ANN401
    return Audit(fraction=request.param, policy="replay")


async def test_wrong_bytes_are_out_everywhere_and_the_older_ones_stay(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
    audit: Audit,
) -> None:
    swarm = make_swarm(audit=audit, data=shard)
    members = await swarm.start(8)
    liar, honest = members[LIAR], members[:LIAR]
    swarm.equivocators.add(liar.peer)
    own = liar.learner.probe
    lying(liar, "probe")
    liar.learner.reprobe = lambda seeds, *, seed, shard: own(seeds, seed=seed)  # as an auditor it is honest
    await swarm.until(lambda: set(expelled(swarm)) == {frozenset({liar.peer})})
    await swarm.until_height(members[0].height + 20)
    for member in honest:
        assert list(member.judgements[-1].expelled) == [liar.peer]
        assert "auditors found others" in member.judgements[-1].expelled[liar.peer]
        assert member.node.book.tip.state.members.keys() == {each.peer for each in honest}
    assert sum(member.learner.reprobed for member in honest) > 3
    swarm.crash(liar)
    await swarm.until_one()


async def test_an_honest_swarm_doubts_nobody(make_swarm: Any, autojump_clock: MockClock, audit: Audit) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=audit, data=shard)
    members = await swarm.start(8)
    await swarm.until_height(40)
    await swarm.until_one()
    figures = [member.node.audits for member in members]
    assert not any(figure.doubted or figure.unable or figure.refused for figure in figures)
    drawn = 4 * 30 * audit.fraction
    assert 0.5 * drawn < sum(figure.audited for figure in figures) < 2 * drawn, "one audits each entry"
    assert not any(expelled(swarm))


async def test_auditors_that_lie_expel_nobody(make_swarm: Any, autojump_clock: MockClock, audit: Audit) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=audit, data=shard)
    members = await swarm.start(8)
    for liar in members[6:]:
        swarm.equivocators.add(liar.peer)
        lying(liar, "reprobe")
    await swarm.until_height(40)
    await swarm.until_one()
    assert not any(expelled(swarm))
    kinds = {(peer, kind) for member in members[:6] for peer, kind, _ in member.offences}
    assert kinds == {(liar.peer, OffenceKind.FALSE_VOTE) for liar in members[6:]}


async def test_three_in_ten_messages_are_lost(lossy_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = lossy_swarm(audit=Audit(fraction=0.5), data=shard)
    members = await swarm.start(8)
    swarm.equivocators.add(members[LIAR].peer)
    lying(members[LIAR], "probe")
    await swarm.until(lambda: set(expelled(swarm)) == {frozenset({members[LIAR].peer})})
    swarm.crash(members[LIAR])
    await swarm.until_one()


@pytest.mark.parametrize("policy", ["auto", "replay"])
async def test_private_data_are_audited_only_where_they_are_not_allowed(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
    policy: Any,  # noqa: ANN401
) -> None:
    swarm = make_swarm(
        audit=Audit(fraction=1.0, policy=policy), data=lambda index: b"" if index == LIAR else shard(index)
    )
    members = await swarm.start(8)
    secretive = members[LIAR]
    await swarm.until_height(24)
    assert not any(expelled(swarm))
    assert bool(secretive.node.troubles) == (policy == "replay")
    before = secretive.node.chain.scalars_sent
    await swarm.until_height(36)
    assert (secretive.node.chain.scalars_sent > before) == (policy == "auto"), "kept back where nobody could check them"
    swarm.equivocators.add(secretive.peer)
    secretive.node.book._is_open = lambda base: True
    if policy == "replay":
        await swarm.until(lambda: set(expelled(swarm)) == {frozenset({secretive.peer})})
    else:
        await swarm.until_height(60)
        assert not any(expelled(swarm))


async def test_a_shard_that_does_not_exist_is_a_lie(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    nowhere = public_data("a shard that nobody can make")
    swarm = make_swarm(audit=Audit(fraction=1.0), data=lambda index: nowhere if index == LIAR else shard(index))
    members = await swarm.start(8)
    swarm.equivocators.add(members[LIAR].peer)
    await swarm.until(lambda: set(expelled(swarm)) == {frozenset({members[LIAR].peer})})


async def test_a_member_that_comes_back_with_other_data_says_so_first(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
) -> None:
    swarm = make_swarm(audit=Audit(fraction=1.0, policy="replay"), data=shard)
    members = await swarm.start(8)
    await swarm.until_height(20)
    swarm.crash(members[3])
    swarm.data = lambda index: shard(index + 1)
    back = await swarm.restart(members[3])
    await swarm.until(lambda: back.node.book.tip.state.members[back.peer].data == shard(4))
    await swarm.until(lambda: back.node.chain.scalars_sent > 3)
    assert not any(expelled(swarm))


async def test_an_auditor_whose_task_fails_says_nothing(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=Audit(fraction=1.0), data=shard)
    members = await swarm.start(8)

    async def fail(seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
        await trio.lowlevel.checkpoint()
        raise LearnerError("no such file")

    members[0].learner.reprobe = fail
    await swarm.until(lambda: members[0].node.audits.unable > 2)
    assert members[0].node.audits.audited == 0
    await swarm.until_height(members[0].height + 10)
    await swarm.until_one()
    assert not any(expelled(swarm))


async def test_votes_that_gossip_lost_are_asked_for(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=Audit(fraction=1.0), data=shard)
    members = await swarm.start(8)
    liar, deaf = members[LIAR], members[0]
    swarm.equivocators.add(liar.peer)

    async def nothing(*heard: object) -> None:
        await trio.lowlevel.checkpoint()

    deaf.parts.desk._listeners[Voted] = nothing
    lying(liar, "probe")
    await swarm.until(lambda: deaf.judgements)
    answer = await members[1].node.auditor._on_ask_votes(deaf.peer, AskVotes())
    assert isinstance(answer, VotesAre)
    assert {vote.agrees for vote in answer.votes} <= {True, False}
    assert len(answer.votes) > 3
    have = tuple(vote.statement[:8] for vote in answer.votes)
    assert await members[1].node.auditor._on_ask_votes(deaf.peer, AskVotes(have)) == VotesAre()


async def test_a_restarted_node_knows_whom_its_blocks_expelled(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=Audit(fraction=1.0), data=shard)
    members = await swarm.start(8)
    liar = members[LIAR]
    swarm.equivocators.add(liar.peer)
    lying(liar, "probe")
    await swarm.until(lambda: bool(members[1].judgements))
    swarm.crash(members[1])
    back = await swarm.restart(members[1])
    await swarm.until(lambda: bool(back.judgements))
    assert "auditors found others" in back.judgements[-1].expelled[liar.peer]
    (verdict,) = [each for each in back.node.audits.verdicts if each.stage == "expelled"]
    assert (verdict.peer, verdict.agree) == (liar.peer, 0)


# -- what is heard, and what is written -------------------------------------------------------------------------------


async def convicted(swarm: Any) -> Any:  # noqa: ANN401
    """The first member, once it has seen the last expelled."""
    members = await swarm.start(8)
    swarm.equivocators.add(members[LIAR].peer)
    lying(members[LIAR], "probe")
    await swarm.until(lambda: bool(members[0].judgements))
    return members[0]


async def test_votes_that_do_not_hold_are_refused(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=Audit(fraction=1.0), data=shard)
    member = await convicted(swarm)
    book, cases = member.node.book, member.node.auditor.cases
    case = next(each for each in cases.all() if each.ballot.counts[1] > 2)
    vote = next(each for each in case.ballot if not each.agrees)
    fresh = Cases(swarm.run_id, book.rules, Audit(fraction=1.0))
    (again,) = [each for each in fresh.open(case.drawn) if each.claim == case.claim]
    state = case.base.state
    doubts = [
        fresh.vote(again, vote._replace(agrees=True), state),
        fresh.vote(again, vote._replace(own=vote.own + b"\x01"), state),
        fresh.vote(again, vote._replace(own=case.entry.scalars), state),
        fresh.vote(again, vote._replace(signature=bytes(64)), state),
        fresh.vote(again, vote._replace(auditor=case.accused), state),
        fresh.vote(again, vote._replace(claimed=case.entry.scalars), state),
    ]
    assert None not in doubts
    assert (fresh.refused, again.ballot.counts) == (6, (0, 0))
    assert fresh.vote(again, vote, state) is None
    assert fresh.proof(again, state) is None


async def test_the_verdict_can_be_checked_offline(make_swarm: Any, autojump_clock: MockClock, tmp_path: Path) -> None:  # noqa: ANN401
    swarm = make_swarm(audit=Audit(fraction=1.0), data=shard)
    member = await convicted(swarm)
    write_certificates(tmp_path, sign(swarm.manifest, swarm.members[0].signer), member.node.docket)
    (path,) = tmp_path.iterdir()  # noqa: ASYNC240  # nothing else runs meanwhile
    filed = read_certificate(path)
    found, _, _ = check_certificate(filed, swarm.run_id)
    assert found.holds, found.lines
    assert found.lines[-1].startswith(f"ok    verdict: {swarm.members[LIAR].peer} was expelled by block")
    wrong = filed.convicted.wrong  # type: ignore[union-attr]  # it is there
    spoilt = [
        msgspec.structs.replace(wrong, votes=wrong.votes[1:]),
        msgspec.structs.replace(wrong, votes=wrong.votes[:2] + wrong.votes[:1]),
        msgspec.structs.replace(wrong, entry=msgspec.structs.replace(wrong.entry, signature=bytes(64))),
        msgspec.structs.replace(wrong, votes=(msgspec.structs.replace(wrong.votes[0], own=b"\x01"), *wrong.votes[1:])),
        msgspec.structs.replace(wrong, votes=(msgspec.structs.replace(wrong.votes[0], own=b"long"), *wrong.votes[1:])),
    ]
    for each in spoilt:
        changed = msgspec.structs.replace(filed.convicted, wrong=each)  # type: ignore[type-var]  # as above
        assert not check_certificate(Filed(filed.version, filed.manifest, (), convicted=changed))[0].holds
