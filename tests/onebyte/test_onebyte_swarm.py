"""Whole swarms of one-byte training under virtual time: one chain, one A."""

from __future__ import annotations

from typing import Any

from trio.testing import MockClock


async def test_eight_nodes_go_on_with_one_a(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm()
    await swarm.start(8)
    await swarm.until_height(60)
    await swarm.until_one()
    assert min(member.node.certified_height for member in swarm.members) >= 32
    assert all(member.node.final for member in swarm.members)
