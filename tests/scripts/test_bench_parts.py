"""What the benchmarks compute with: aims, spreads, the time line of a round, and what a process tree uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_an_aim_is_a_bound_from_above_or_below() -> None:
    from bench.figures import Aim

    assert Aim("seconds", 0.3, 0.3).met
    assert not Aim("seconds", 0.31, 0.3).met
    assert Aim("ratio", 0.8, 0.8, at_least=True).met
    assert "MISSED" in Aim("ratio", 0.79, 0.8, at_least=True).line()


def test_a_spread_says_its_middle_and_its_ends() -> None:
    from bench.figures import Spread

    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0  (1.0 to 3.0, 3 times)"


def test_the_pieces_of_a_round_add_up_to_it() -> None:
    from bench.timeline import PIECES, pieces

    aggregator = [("merged", 1, 10.0), ("gathered", 2, 14.0), ("gathered", 2, 14.5), ("merged", 2, 15.0)]
    slow = [("assigned", 2, 11.0), ("held", 1, 11.5), ("trained", 2, 13.0)]
    quick = [("assigned", 2, 10.5), ("held", 1, 11.0), ("trained", 2, 12.0), ("assigned", 2, 14.9)]
    nodes = [{"steps": steps, "said": {}} for steps in (aggregator, slow, quick)]
    found = pieces(nodes, skip=0)
    assert found == dict(zip(PIECES, [1.0, 0.5, 1.5, 1.5, 0.5], strict=True))
    assert sum(found.values()) == 15.0 - 10.0


def test_a_round_of_which_too_little_was_seen_is_left_out() -> None:
    from bench.timeline import pieces

    assert pieces([{"steps": [("merged", 2, 1.0)], "said": {}}], skip=0) == {}


def test_what_was_said_is_counted_over_all_nodes() -> None:
    from bench.timeline import said

    nodes = [{"steps": [], "said": {"Ping": [2, 20]}}, {"steps": [], "said": {"Ping": [2, 20], "Ack": [4, 100]}}]
    assert said(nodes, rounds=4) == [("Ack", 1.0, 25.0), ("Ping", 1.0, 10.0)]


def test_a_tree_is_a_process_and_its_descendants() -> None:
    from bench import usage

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = usage.tree(os.getpid())
        assert found[0] == os.getpid()
        assert child.pid in found
        assert usage.memory([child.pid]).resident > 0
    assert usage.memory([child.pid]) == usage.Memory()  # it has ended
    assert usage.cpu_s([os.getpid()]) > 0


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5"])
def test_trainers_together_do_what_each_does_alone(partition: str) -> None:
    import numpy as np
    from bench.rounds import Rounds, Setting

    from gossipnode.learn.encoding import decode

    rounds = Rounds(Setting(trainers=6, liars=2, partition=partition), "label flip", seed=1)
    parent = rounds.engine.initial()
    together = rounds.trained(decode(parent, rounds.engine.template), 3)
    for node, data in enumerate(rounds.data):
        alone = rounds.engine.train(parent, data, seed=rounds.seed_of(node, 3)).blob
        assert np.abs(decode(alone, rounds.engine.template) - together[node]).max() < 1e-6
    assert np.abs(together[0] - together[1]).max() > 1e-3
