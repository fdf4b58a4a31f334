"""Each checker can fail: a real swarm, one node of which is doctored so that it breaks that very rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gossipnode.checkers import (
    SETTLED_S,
    Belief,
    Bounded,
    BytesOnce,
    Checker,
    Checks,
    Finding,
    NoFalseAccusation,
    Progress,
    World,
)
from gossipnode.modest_checkers import (
    BoundedCommittee,
    Forward,
    NoConvictedAncestor,
    NoForkRemains,
    OneAggregateARound,
    Quorum,
    convicted,
    modest_checkers,
)
from gossipnode.trainings import finished_of
from protocols import limits
from protocols.evidence import Judgement
from protocols.messages import Aggregate, Input
from sampling.peers import PeerId, Round
from verify.digest import digest_of
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
Swarm = Any


def found(checker: Checker, *worlds: World) -> list[Finding]:
    return [finding for world in worlds for finding in checker.look(world)]


def another(aggregate: Aggregate, **changes: Any) -> Aggregate:  # noqa: ANN401 - fields of any type
    """The same round, another model."""
    names = Aggregate.__struct_fields__
    values = {name: getattr(aggregate, name) for name in names} | {"model": digest_of(b"another")} | changes
    return Aggregate(**values)


def later(world: World, by_s: float, **changes: Any) -> World:  # noqa: ANN401 - as above
    return dataclasses.replace(world, now_s=world.now_s + by_s, **changes)


async def sound(make_swarm: MakeSwarm) -> Swarm:
    """Three rounds of five nodes, well after anything disturbed them."""
    swarm = make_swarm(trainers=3, start_peers=5, rounds=3)
    await swarm.start(5)
    await swarm.until_finished()
    await trio.sleep(2 * SETTLED_S)
    return swarm


async def test_a_sound_swarm_breaks_nothing(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    checks = Checks(modest_checkers(progress_s=10.0))
    for _ in range(30):
        checks.look(swarm.world())
        await trio.sleep(1.0)
    assert checks.findings == []
    assert not checks.stuck


async def test_two_aggregates_of_one_round(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    world, last = swarm.world(), swarm.settled(3)
    news = [Belief("1", finished_of(last), world.now_s), Belief("2", finished_of(another(last)), world.now_s)]
    (finding,) = found(OneAggregateARound(), dataclasses.replace(world, news=news))
    assert (finding.round, finding.nodes) == (3, ["1", "2"])
    assert not found(OneAggregateARound(), dataclasses.replace(world, news=news, calm_since_s=None))  # a partition
    assert not found(OneAggregateARound(), dataclasses.replace(world, news=news[:1]))


async def test_a_fork_that_remains(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    doctored, checker = swarm.members[2], NoForkRemains()
    before, doctored.head.known = doctored.head.known, another(doctored.head.known)
    world = swarm.world()
    assert not found(checker, world, later(world, SETTLED_S - 1))
    (finding,) = found(checker, later(world, SETTLED_S + 1))
    assert len(finding.nodes) == 5
    doctored.head.known = before
    assert not found(checker, later(world, 2 * SETTLED_S))


async def test_a_round_without_its_quorum(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    world, last = swarm.world(), swarm.settled(3)
    alone = another(last, inputs=last.inputs[:1])
    (finding,) = found(Quorum(), dataclasses.replace(world, news=[Belief("1", finished_of(alone), 0.0)]))
    assert (finding.round, finding.nodes) == (3, ["1"])
    assert not found(Quorum(), dataclasses.replace(world, news=[Belief("1", finished_of(last), 0.0)]))


async def test_one_trainer_named_twice_is_no_quorum(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    last = swarm.settled(3)
    twice = another(last, inputs=(last.inputs[0], Input(last.inputs[0].trainer, digest_of(b"x"), 1)))
    assert found(Quorum(), dataclasses.replace(swarm.world(), news=[Belief("1", finished_of(twice), 0.0)]))


async def test_held_going_back(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    doctored, checker = swarm.members[1], Forward()
    assert not found(checker, swarm.world())
    doctored.head.held = swarm.settled(2)
    (finding,) = found(checker, swarm.world())
    assert (finding.nodes, finding.what) == (["1"], "held round 3, now 2")


async def test_holding_more_than_is_known(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    doctored = swarm.members[1]
    doctored.head.known = swarm.settled(1)
    (finding,) = found(Forward(), swarm.world())
    assert finding.what == "holds round 3, knows only 1"
    doctored.head.retreats = 1  # reported: its operator was told
    assert not found(Forward(), swarm.world())


async def test_descending_from_a_convicted_aggregate(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    world, checker = swarm.world(), NoConvictedAncestor()
    rounds = [swarm.settled(round) for round in (1, 2, 3)]
    first, *others = ([Belief("1", finished_of(aggregate), 0.0)] for aggregate in rounds)
    wrong = frozenset({rounds[0].model})
    assert not found(checker, dataclasses.replace(world, news=first))
    assert not found(checker, dataclasses.replace(world, convicted=wrong))  # what was believed before is no fault
    findings = found(checker, *(dataclasses.replace(world, news=news, convicted=wrong) for news in others))
    assert [finding.round for finding in findings] == [2, 3]
    beside = another(rounds[2], parent=digest_of(b"elsewhere"))
    news = [Belief("1", finished_of(beside), 0.0)]
    assert not found(checker, dataclasses.replace(world, news=news, convicted=wrong))


async def test_convicted_is_what_every_node_knows_to_be_wrong(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    wrong, nodes = swarm.settled(1), swarm.world().nodes
    for seen in nodes[1:]:
        seen.node.protocol.auditor.judgement = Judgement(wrong={digest_of(b"claim"): wrong})
    assert convicted(nodes) == frozenset()
    nodes[0].node.protocol.auditor.judgement = Judgement(wrong={digest_of(b"claim"): wrong})
    assert convicted(nodes) == {wrong.model}
    assert convicted([]) == frozenset()


async def test_bytes_out_of_nowhere(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    assert not found(BytesOnce(), swarm.world())
    swarm.members[3].node.parts.desk.transport.endpoint.host.received += 7
    (finding,) = found(BytesOnce(), swarm.world())
    assert "-7 bytes" in finding.what


@pytest.mark.parametrize("what", ["view", "links", "store bytes", "votes", "collections"])
async def test_what_grows_beyond_its_limit(
    autojump_clock: MockClock, make_swarm: MakeSwarm, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    swarm = await sound(make_swarm)
    doctored = swarm.members[0]
    match what:
        case "view":
            monkeypatch.setattr(limits, "VIEW_PEERS", 4)
        case "links":
            monkeypatch.setattr(limits, "LINKS", 3)
        case "store bytes":
            doctored.blobs._ledger.total = doctored.blobs.max_bytes + 1
        case "votes":
            votes = {PeerId(f"p{index}"): swarm.settled(3) for index in range(limits.COMMITTEE + 1)}
            doctored.head._votes = {Round(4): votes}
        case "collections":
            doctored.node.protocol.aggregator._collections = dict.fromkeys(map(Round, range(5)))
    findings = found(BoundedCommittee() if what in ("votes", "collections") else Bounded(), swarm.world())
    assert "0" in {name for finding in findings for name in finding.nodes}
    assert {finding.what.partition(":")[0] for finding in findings} >= {what}


async def test_a_node_that_stands_still(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    doctored, checks = swarm.members[4], Checks([Progress(50.0)])
    doctored.head.known = swarm.settled(2)
    world = swarm.world()
    for by_s in (0.0, 20.0, 49.0):
        checks.look(later(world, by_s))
    assert checks.findings == []
    checks.look(later(world, 60.0, calm_since_s=world.now_s + 30.0))  # it is given the whole time after a fault
    assert checks.findings == []
    checks.look(later(world, 81.0, calm_since_s=world.now_s + 30.0))
    assert [finding.nodes for finding in checks.findings] == [["4"]]
    assert checks.stuck


async def test_a_false_accusation(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    accuser, accused = swarm.members[0], swarm.members[1]
    accuser.node.accuse(accused.peer, OffenceKind.FLOOD, "it asked a question")
    (finding,) = found(NoFalseAccusation(), swarm.world())
    assert finding.nodes == ["0", "1"]
    swarm.liars.add(accused.peer)
    assert not found(NoFalseAccusation(), swarm.world())


async def test_a_finding_is_said_once(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = await sound(make_swarm)
    checks = Checks([NoFalseAccusation()])
    swarm.members[0].node.accuse(swarm.members[1].peer, OffenceKind.FLOOD, "it asked a question")
    for _ in range(3):
        checks.look(swarm.world())
        await trio.sleep(1.0)
    assert len(checks.findings) == 1
