"""Swarms that pull a piece of a model each time: all learn from all with fewer bytes; a wrong piece is an offence."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from gossipnode.simulation import Scenario, SimulationReport, simulate
from protocols.blobs import Slice
from protocols.gossip.fragments import Fragments
from protocols.gossip.messages import NewModel, Offer
from protocols.manifest import BadManifest, validated
from protocols.merging import Merging
from protocols.signatures import Signer
from sampling.peers import Role, Round
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]
Swarm = Member = Any  # of conftest.py

PIECES = 4
CUT = {"inline_bytes": 0, "pull_bytes_s": 100_000.0, "fragments": PIECES}
NAMES = tuple(Digest(digest_of(b"%d" % number)) for number in range(70))
OFFER = Offer(Digest(digest_of(b"model")), Round(3), 10, 500, pieces=NAMES[:PIECES])


async def pulled_bytes(make_swarm: MakeSwarm, fragments: int) -> list[int]:
    async with make_swarm(wide=True, gossip={**CUT, "fragments": fragments}, start_peers=4) as swarm:
        members = await swarm.start(4)
        await swarm.until_finished()
        values = [await member.learner.value(member.gossip.model) for member in members]
        assert max(values) - min(values) < 1.5
        assert min(values) > 5  # ten, if all that others learned came at once
        assert all(member.gossip.trainer.counts.merges >= 5 for member in members)
        assert not any(member.offences() for member in members)
        return [member.node.parts.desk.transport.traffic().blob_received for member in members]


async def test_all_learn_from_all_and_everybody_pulls_fewer_bytes(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    whole, cut = [await pulled_bytes(make_swarm, fragments) for fragments in (1, PIECES)]
    assert max(cut) < min(whole) / 2


async def test_only_pieces_are_pulled_each_about_as_often(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=5, rounds=30) as swarm:
        members = await swarm.start(5)
        await swarm.until_finished()
        merged = [
            sum(counts) for counts in zip(*[each for one in members for each in one.learner.gathered], strict=True)
        ]
        assert len(merged) == PIECES
        assert max(merged) < 1.3 * min(merged)


async def test_no_piece_is_merged_with_fewer_models_than_its_liars_need(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    merging = Merging(rule="trimmed-mean", byzantine=1)
    async with make_swarm(wide=True, merging=merging, gossip=CUT, start_peers=6, rounds=20) as swarm:
        members = await swarm.start(6)
        await swarm.until_finished()
        others = Counter(count for member in members for each in member.learner.gathered for count in each)
        assert others.keys() >= {0, 2}  # nothing came of some, which stay as they are
        assert 1 not in others


async def test_a_newcomer_and_whoever_comes_back_go_on_from_whole_models(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=3, rounds=60) as swarm:
        *_, victim = await swarm.start(3)
        await swarm.until(lambda: victim.age >= 15)
        swarm.crash(victim)
        (late,) = await swarm.start()
        await trio.sleep(10)
        back = await swarm.restart(victim)
        for member, least in ((late, 8), (back, victim.saved[-1].held.round + 5)):
            await swarm.until(lambda member=member: member.gossip.trainer.counts.caught_up == 1)
            await swarm.until(lambda member=member: len(member.learner.parents) > 0)
            assert member.learner.parents[0] > least
        await swarm.until_finished()


async def test_what_was_offered_before_a_restart_can_still_be_fetched(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=2, rounds=3) as swarm:
        one, _ = await swarm.start(2)
        await swarm.until_finished()
        swarm.crash(one)
        back = await swarm.restart(one)
        assert len(back.gossip.trainer.newest.pieces) == PIECES
        assert [back.blobs.size(piece) for piece in back.gossip.trainer.newest.pieces] == [1024] * PIECES


async def test_an_observer_has_whole_models(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=3) as swarm:
        await swarm.start(3)
        (observer,) = await swarm.start(roles=[Role.OBSERVER])
        await swarm.until_finished()
        assert await observer.learner.value(observer.gossip.model) > 5
        assert observer.learner.gathered == []


async def test_models_inside_announcements_are_merged_with_every_piece(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    tables = {**CUT, "inline_bytes": 5000, "announce_bytes_s": 1e6, "pull_bytes_s": 0.001}
    async with make_swarm(wide=True, gossip=tables, start_peers=3) as swarm:
        members = await swarm.start(3)
        await swarm.until_finished()
        gathered = [each for member in members for each in member.learner.gathered]
        assert gathered
        assert all(min(each) >= 1 for each in gathered)


# -- hostile peers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ((), OffenceKind.UNFIT_MODEL),
        (NAMES[: PIECES - 1], OffenceKind.UNFIT_MODEL),
        (NAMES[: PIECES + 1], OffenceKind.UNFIT_MODEL),
        (NAMES[:65], OffenceKind.MALFORMED_FRAME),
        ((b"short", *NAMES[: PIECES - 1]), OffenceKind.MALFORMED_FRAME),
    ],
    ids=["none", "fewer", "more", "too many", "no digest"],
)
async def test_an_offer_that_is_cut_wrongly_is_an_offence(
    make_swarm: MakeSwarm, autojump_clock: MockClock, pieces: tuple[Digest, ...], kind: OffenceKind
) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=3, rounds=0) as swarm:
        *honest, liar = await swarm.start(3)
        swarm.liars.add(liar.peer)
        message = NewModel(msgspec.structs.replace(OFFER, pieces=pieces))
        await liar.node.parts.desk.tell(liar.node.parts.membership.topic, message)
        await trio.sleep(2)
        assert all((liar.peer, kind) in member.offences() for member in honest)


async def test_pieces_where_models_are_whole_are_an_offence(make_swarm: MakeSwarm, autojump_clock: MockClock) -> None:
    async with make_swarm(start_peers=2, rounds=0) as swarm:
        honest, liar = await swarm.start(2)
        swarm.liars.add(liar.peer)
        await liar.node.parts.desk.tell(liar.node.parts.membership.topic, NewModel(OFFER))
        await trio.sleep(2)
        assert (liar.peer, OffenceKind.UNFIT_MODEL) in honest.offences()


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (lambda part: replace(part, start=part.start ^ 1024), OffenceKind.WRONG_DIGEST),  # another piece's bytes
        (lambda part: replace(part, start=part.start % 64, size=part.size + 1), OffenceKind.OVERSIZE),
        (lambda part: replace(part, size=part.size - 1), OffenceKind.UNFIT_MODEL),
    ],
    ids=["bytes", "long", "short"],
)
async def test_a_wrong_piece_is_refused_and_never_merged(
    make_swarm: MakeSwarm, autojump_clock: MockClock, lie: Callable[[Slice], Slice], kind: OffenceKind
) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=4, rounds=20) as swarm:
        *honest, liar = await swarm.start(4)
        swarm.liars.add(liar.peer)
        serve = liar.blobs.slice
        liar.blobs.slice = lambda slices: serve({name: lie(part) for name, part in slices.items()})
        await swarm.until(lambda: all(member.gossip.finished for member in honest))
        assert {kind} <= {kind for member in honest for peer, kind in member.offences() if peer == liar.peer}
        for member in honest:
            assert {peer for peer, _ in member.offences()} <= {liar.peer}
            assert 5 < await member.learner.value(member.gossip.model) < 21


@pytest.mark.parametrize("value", [math.nan, 1e300])
async def test_a_piece_that_is_not_finite_or_absurd_is_merged_by_nobody(
    make_swarm: MakeSwarm, autojump_clock: MockClock, value: float
) -> None:
    async with make_swarm(wide=True, gossip=CUT, start_peers=4, rounds=20) as swarm:
        *honest, liar = [*await swarm.start(3), *await swarm.start(hands_in=value)]
        swarm.liars.add(liar.peer)
        await swarm.until(lambda: all(member.gossip.finished for member in honest))
        for member in honest:
            assert (liar.peer, OffenceKind.UNFIT_MODEL) in member.offences()
            assert await member.learner.value(member.gossip.model) < 100


# -- which piece ------------------------------------------------------------------------------------------------------


async def test_the_dice_fill_what_others_wait_for_and_then_what_there_is_least_of(
    make_swarm: MakeSwarm, autojump_clock: MockClock
) -> None:
    async with make_swarm(
        wide=True, gossip={**CUT, "neighbours": 16}, merging=Merging(rule="median", byzantine=2)
    ) as swarm:
        (member,) = await swarm.start()
        fragments: Fragments = member.gossip.fragments
        rng, waiting = random.Random(1), Counter[int | None]()
        for _ in range(16):
            waiting[fragments.drawn(waiting, rng)] += 1
            assert sum(0 < count < 4 for count in waiting.values()) <= 1
        assert waiting == dict.fromkeys(range(PIECES), 4)
        firsts = Counter(fragments.drawn(Counter(), rng) for _ in range(400))
        assert all(count == pytest.approx(100, abs=35) for count in firsts.values())
        assert len(firsts) == PIECES


# -- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, r"gossip\.fragments, audit\.fraction: .*set audit\.fraction = 0"),
        ({"audit": {"fraction": 0.0}, "encoding": "int8"}, r"gossip\.fragments, encoding: .*bfloat16"),
        ({"audit": {"fraction": 0.0}, "merging": {"rule": "bristle"}}, r"gossip\.fragments: bristle"),
        ({"audit": {"fraction": 0.0}, "merging": {"rule": "flora"}}, r"gossip\.fragments: flora"),
        ({"audit": {"fraction": 0.0}, "merging": {"rule": "median", "byzantine": 2}}, r"at most 1.*gossip\.fragments"),
        ({"gossip": {"fragments": 65}}, r"gossip\.fragments"),
    ],
)
def test_what_does_not_go_with_pieces_is_refused_with_the_remedy(tables: dict[str, Any], said: str) -> None:
    author = Signer.from_seed(bytes(32)).peer
    common = {"name": "run", "task": "digits", "protocol": "gossip", "author": author, "theta0": "0" * 64}
    with pytest.raises(BadManifest, match=said):
        validated({**common, "model_bytes": 100_000, "gossip": {"fragments": 4}, **tables})


# -- a real model -----------------------------------------------------------------------------------------------------


def trained(fragments: int) -> SimulationReport:
    tables = {
        "task": "digits",
        "protocol": "gossip",
        "rounds": 8,
        "start_peers": 5,
        "audit": {"fraction": 0.0},
        "gossip": {"init": "different", "fragments": fragments},
    }
    return simulate(Scenario(nodes=5, seed=4, tables=tables, limit_s=500, curve=False)).report


def test_digits_are_learned_from_pieces_with_half_the_bytes() -> None:
    whole, cut = trained(1), trained(4)
    assert cut.broken == []
    assert cut.accuracy.mean > whole.accuracy.mean - 0.05
    assert cut.bytes.wire_total < whole.bytes.wire_total / 2
