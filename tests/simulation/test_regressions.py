"""Scenarios that once broke the swarm, each as small as it was when it was found."""

from __future__ import annotations

import pytest

from gossipnode.events import Event, Join, Kill, Leave, Partition, Restart, told
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import simulate
from gossipnode.sweep import faults_of

QUICK = {"training": {"epochs": 0, "steps": 1}}

# What was broken, and where: (nodes, rounds, seed, events).
Case = tuple[int, int, int, tuple[Event, ...]]

MENDED: dict[str, Case] = {
    # A node of round 0 waited for `start_peers` before it asked anybody how far the run is.
    "back in a shrunken swarm": (
        8, 10, 1, (Leave(at_round=1, nodes=1, for_s=300.0), Kill(at_round=2, nodes=2), Leave(at_round=2, nodes=1)),
    ),
    "a newcomer to a shrunken swarm": (8, 10, 2, (Kill(at_round=3, nodes=3), Join(at_round=9, nodes=2))),
    # A model that died with its aggregator was waited for at length, then given up.
    "four in five are killed": (10, 10, 3, (Kill(at_round=3, nodes=0.8), Restart(at_round=7, nodes=4))),
    # Both sides of a partition were at the same round, and nobody changed sides until the round's ceiling had passed.
    "two sides at one round": (8, 8, 1, (Partition(at_round=3, groups=(0.75, 0.25), for_s=20.0),)),
    # The same after the last round: they never agreed.
    "two sides at the end": (8, 8, 1, (Partition(at_round=3, groups=(0.25,), one_way=True, for_s=20.0),)),
    "divided at the last round": (8, 6, 1, (Partition(at_round=5, groups=(0.5, 0.5), for_s=200.0),)),
    # Each side had links enough of its own, so that nobody ever looked for the other.
    "two sides that need nobody": (26, 8, 1, (Partition(at_round=5, groups=(0.5, 0.5), for_s=60.0),)),
}  # fmt: skip


def found(case: Case) -> list[str]:
    nodes, rounds, seed, events = case
    setting = Setting(
        nodes=nodes, rounds=rounds, seed=seed, manifest=QUICK | {"modest": {"trainers": 3}}, limit_s=5000.0,
        event=tuple(told(event) for event in events),
    )  # fmt: skip
    return faults_of(simulate(scenario_of(setting)))


@pytest.mark.parametrize("name", MENDED)
def test_what_was_mended_stays_so(name: str) -> None:
    assert found(MENDED[name]) == []
