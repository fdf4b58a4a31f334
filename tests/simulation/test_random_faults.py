"""The first seeds of `make sim-sweep`, and those that once broke: faults drawn from the seed, under the checkers."""

from __future__ import annotations

import pytest

from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import simulate
from gossipnode.sweep import faults_of

BROKE = (155, 167, 195, 247, 271, 295, 454)


@pytest.mark.parametrize("seed", [*range(20), *BROKE])
def test_whatever_the_seed_draws_breaks_nothing(seed: int) -> None:
    setting = Setting(nodes=10, rounds=12, seed=seed, random_faults=True)
    assert faults_of(simulate(scenario_of(setting))) == []
