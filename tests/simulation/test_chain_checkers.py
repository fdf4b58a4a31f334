"""Each checker of the chain can fail: a real swarm that is over, one node of which is doctored so that it breaks that
very rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gossipnode.branches import Branches
from gossipnode.chain_checkers import (
    FEW,
    BoundedBook,
    CertifiedStays,
    ExactA,
    FewVoid,
    OneBranch,
    OneHistory,
    book_of,
    chain_checkers,
)
from gossipnode.checkers import SETTLED_S, Checker, Checks, Finding, World
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import Swarm
from protocols.chain.forks import Node, ancestor
from protocols.chain.rules import Rules
from verify.digest import digest_of

SETTING = Setting(
    protocol="onebyte",
    nodes=4,
    rounds=14,
    latency="lan",
    manifest={"onebyte": {"probes": 1, "seats": 4, "epoch": 4, "window": 2}},
)


@pytest.fixture(scope="module")
def over() -> Swarm:
    swarm = Swarm(scenario_of(SETTING), lambda tick: None)
    report, finished = run_deterministic(swarm.run, seed=SETTING.seed)
    assert finished
    assert not report.broken
    return swarm


@pytest.fixture
def world(over: Swarm) -> Iterator[World]:
    """Long after the end. Whatever a test does to its nodes is undone."""
    seen = [member.seen() for member in over.members]
    books = [book_of(each) for each in seen]
    forks = [(book.chain._forks._root, list(book.chain._forks.path())) for book in books]
    names = {member.peer: member.name for member in over.members}
    yield World(now_s=1000.0, calm_since_s=0.0, nodes=seen, names=names)
    for book, (root, path) in zip(books, forks, strict=True):
        book.chain._forks._root, book.chain._forks._path = root, path


@pytest.fixture
def rules(over: Swarm) -> Rules:
    return book_of(over.members[0].seen()).rules


@pytest.fixture
def branches(over: Swarm, rules: Rules, world: World) -> Branches:
    """All that there was, as an onlooker has it who was there from the start."""
    found = Branches(rules, over._signed.run)
    assert over._branches is not None
    found._blocks = dict(over._branches._blocks)
    return found


def found(checker: Checker, *worlds: World) -> list[Finding]:
    return [finding for world in worlds for finding in checker.look(world)]


def tip_of(world: World, index: int) -> Node:
    return book_of(world.nodes[index]).tip


def stray(branches: Branches, world: World, index: int, height: int) -> Node:
    """That node goes over to a branch of its own that begins after `height`, two blocks longer than the others'."""
    forks = book_of(world.nodes[index]).chain._forks
    tip = ancestor(tip_of(world, index), height)
    path = [node for node in forks.path() if node.height <= height]
    for number in range(tip_of(world, index).height + 2 - height):
        newest = msgspec.structs.replace(tip.state.recent[-1], height=tip.height + 1, digest=digest_of(b"%d" % number))
        state = msgspec.structs.replace(tip.state, recent=(*tip.state.recent, newest))
        tip = Node(digest_of(b"stray %d" % number), state, tip, tip.block, ())
        path.append(tip)
    forks._path = path
    branches.learn(world.nodes[index].node.protocol)
    return tip


def test_a_sound_swarm_breaks_nothing(branches: Branches, world: World, rules: Rules) -> None:
    checks = Checks([*chain_checkers(branches, rules, 10_000.0), FewVoid(branches, rules, 0.0)])
    for later_s in (0.0, 200.0, 400.0):
        checks.look(dataclasses.replace(world, now_s=world.now_s + later_s))
    assert checks.findings == []


def test_a_tip_that_has_left_what_is_certified(branches: Branches, world: World) -> None:
    checker = CertifiedStays(branches)
    certified = book_of(world.nodes[1]).chain.certified
    assert not found(checker, world)
    assert certified.height >= 4
    child = branches.at(tip_of(world, 1).digest, certified.height + 1)
    assert child is not None
    other = digest_of(b"another of that height")
    branches._blocks[other] = branches._blocks[certified.digest]
    branches._blocks[child] = branches._blocks[child]._replace(parent=other)
    findings = found(checker, world)
    assert findings
    assert all("has left what it had certified" in each.what for each in findings)


def test_a_node_that_forgets_what_is_certified(branches: Branches, world: World) -> None:
    checker, chain = CertifiedStays(branches), book_of(world.nodes[2]).chain
    assert not found(checker, world)
    height = chain.certified.height
    chain._forks._root = _Lower()  # type: ignore[assignment]  # of a node it is asked for two fields only
    (finding,) = (each for each in found(checker, world) if "only" in each.what)
    assert (finding.nodes, finding.round) == (["node-2"], height)
    again = dataclasses.replace(world, nodes=[dataclasses.replace(each, life=2) for each in world.nodes])
    assert not [each for each in found(checker, again) if "only" in each.what]  # its journal was behind, no more


class _Lower:
    height, digest = 1, digest_of(b"another")


def test_two_histories(branches: Branches, world: World) -> None:
    checker = OneHistory(branches)
    assert not found(checker, world)
    certified = book_of(world.nodes[0]).chain.certified
    branches._blocks[digest_of(b"x")] = branches._blocks[certified.digest]
    checker._certified = {certified.height: (digest_of(b"x"), "node-3")}
    findings = found(checker, world)
    assert findings[0].nodes == ["node-0", "node-3"]
    assert "are both certified" in findings[0].what


def test_branches_that_stay_apart(branches: Branches, world: World, rules: Rules) -> None:
    stray(branches, world, 3, tip_of(world, 3).height - rules.window - 2)
    checker, later = OneBranch(branches, rules), dataclasses.replace(world, now_s=world.now_s + SETTLED_S + 1)
    assert not found(checker, world)
    assert "2 branches part" in found(checker, later)[0].what
    assert not found(OneBranch(branches, rules), world, dataclasses.replace(later, calm_since_s=None))  # a partition


def test_the_newest_blocks_may_differ(branches: Branches, world: World, rules: Rules) -> None:
    stray(branches, world, 3, tip_of(world, 3).height - rules.window)
    assert not found(OneBranch(branches, rules), world, dataclasses.replace(world, now_s=9999.0))


def test_an_a_that_is_not_the_chains(branches: Branches, world: World) -> None:
    assert not found(ExactA(branches), world)
    wrong = dataclasses.replace(world.nodes[1], a=digest_of(b"wrong"))
    (finding,) = found(ExactA(branches), dataclasses.replace(world, nodes=[world.nodes[0], wrong]))
    assert finding.nodes == ["node-1"]


def test_a_book_that_grows(world: World, rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(BoundedBook(rules), world)
    chain = book_of(world.nodes[0]).chain
    sizes: Any = (10**6, 0, 0, 0)
    monkeypatch.setattr(type(chain), "sizes", lambda self: sizes if self is chain else (0, 0, 0, 0))
    (finding,) = found(BoundedBook(rules), world)
    assert finding.what.startswith("blocks: 1000000")


def test_entries_that_count_for_nothing(branches: Branches, world: World, rules: Rules) -> None:
    entry = next(entry for node in (tip_of(world, 0), tip_of(world, 0).parent) if node for entry in node.entries)
    lost = [msgspec.structs.replace(entry, height=1, origin=f"nobody {number}") for number in range(FEW)]
    seen = [dataclasses.replace(world.nodes[0], entries=lost), *world.nodes[1:]]
    (finding,) = found(FewVoid(branches, rules, 0.02), dataclasses.replace(world, nodes=seen))
    assert finding.what.startswith(f"{FEW} of {FEW} entries count for nothing")
    disturbed = dataclasses.replace(world, nodes=seen, calm_since_s=None)
    assert not found(FewVoid(branches, rules, 0.02), disturbed)
