"""Neighbours in a fixed graph: what every node works out for itself, and that nobody else's model is merged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from protocols.gossip.graph import neighbours_of
from protocols.gossip.messages import Offer
from protocols.gossip.neighbours import KEPT, Neighbours
from protocols.gossip.rules import Rules, faults
from protocols.manifest import run_id
from sampling.peers import PeerId, Role, Round
from verify.digest import Digest, digest_of

MakeSwarm = Callable[..., AbstractAsyncContextManager[Any]]
Edges = dict[PeerId, frozenset[PeerId]]

swarms = st.sets(st.text(min_size=1, max_size=4).map(PeerId), min_size=3, max_size=40)
runs = st.binary(min_size=1, max_size=4)
rings = st.integers(1, 4)


def graph(members: set[PeerId], count: int, run: bytes) -> Edges:
    return {peer: neighbours_of(peer, members, count, run) for peer in members}


def reached(edges: Edges) -> set[PeerId]:
    ahead = [next(iter(edges))]
    seen = set(ahead)
    while ahead:
        new = edges[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


@given(swarms, rings, runs)
def test_all_work_out_one_connected_graph_of_bounded_degree(members: set[PeerId], count: int, run: bytes) -> None:
    edges = graph(members, count, run)
    for peer, near in edges.items():
        assert peer not in near
        assert 2 <= len(near) <= 2 * count
        assert all(peer in edges[other] for other in near)
    assert reached(edges) == members


@given(swarms, rings, runs)
def test_who_leaves_changes_one_neighbour_a_ring_of_two_others(members: set[PeerId], count: int, run: bytes) -> None:
    gone = min(members)
    before, after = graph(members, count, run), graph(members - {gone}, count, run)
    changed = [peer for peer in after if before[peer] - {gone} != after[peer]]
    assert len(changed) <= 2 * count
    assert all(len(after[peer] - before[peer]) <= count for peer in after)
    assert sum(len(after[peer] - before[peer]) for peer in after) <= 2 * count


def test_the_graph_is_of_the_run_and_nearly_regular_in_a_large_swarm() -> None:
    members = {PeerId(f"peer-{number}") for number in range(200)}
    one, other = graph(members, 4, b"one"), graph(members, 4, b"other")
    assert one != other
    assert sum(map(len, one.values())) / 200 > 7.8


def test_a_swarm_of_two_and_a_node_alone() -> None:
    one, two = PeerId("one"), PeerId("two")
    assert neighbours_of(one, [two], 4, b"run") == {two}
    assert neighbours_of(one, [], 4, b"run") == frozenset()


@pytest.mark.parametrize("inline_bytes", [0, 1000])
async def test_nobody_merges_but_what_its_neighbours_have(
    make_swarm: MakeSwarm, autojump_clock: MockClock, inline_bytes: int
) -> None:
    rules = {"graph": "fixed", "neighbours": 2, "inline_bytes": inline_bytes}
    async with make_swarm(gossip=rules, start_peers=6) as swarm:
        members = await swarm.start(6)
        await swarm.start(roles=[Role.OBSERVER])  # nobody's neighbour: it has nothing to give
        await swarm.until_finished()
        edges = graph({member.peer for member in members}, 1, run_id(swarm.manifest))
        for member in members:
            makers = {part.maker for part in member.gossip.making.work.parts} - {member.peer}
            assert makers <= edges[member.peer]
            assert member.gossip.trainer.counts.models > 10


def test_neighbours_are_remembered_before_all_others() -> None:
    near = PeerId("near")
    known = Neighbours(b"salt", lambda peer: peer == near)
    for peer in [near, *(PeerId(f"peer-{number}") for number in range(2 * KEPT))]:
        known.hear(peer, Offer(Digest(digest_of(peer.encode())), Round(1), 10, 1000), 0.0)
    assert len(known) == KEPT
    assert known.last(near) is not None


def test_rings_give_an_even_number_of_neighbours() -> None:
    assert not list(faults(Rules(neighbours=6, graph="fixed"), 0))
    assert not list(faults(Rules(neighbours=7), 0))
    (fault,) = faults(Rules(neighbours=7, graph="fixed"), 0)
    assert "gossip.neighbours" in fault
