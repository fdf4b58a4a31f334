"""Gossip learning by real processes: three paces and first models of their own, one killed, one that comes later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from gossipnode.cli import main
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import load_task
from gossipnode.status.report import Status

Start = Callable[..., Any]  # the fixture of conftest.py
NEW = ("--task", "digits", "--protocol", "gossip", "--rounds", "40", "--set", "start_peers=3")
AHEAD = 12  # trainings: more than a node mends by merging alone
OWN = ("--set", "gossip.init=different", "--set", "gossip.every_s=0.25")


def finished(status: Status) -> bool:
    learning = status.progress.learning
    return status.progress.state == "finished" and learning is not None and learning.evaluated_round == 40


def answers_of_several_models(address: str, peers: list[str], folder: Path) -> None:
    """Each has a model of its own, and says which."""
    images, labels = load_task("digits").data(Shard(), None).test
    zero = int((labels == 0).nonzero()[0])  # which no model of these takes for another
    np.save(folder / "image.npy", images[zero, 0].numpy())
    words = ["ask", "--peers", address, "--input", str(folder / "image.npy")]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "answer    class 0 (" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "its model is" in line]
    assert sorted(line.split()[1].rstrip(":") for line in lines) == sorted(peers)
    assert all(line.startswith(("agrees ", "DISAGREES ")) for line in lines)


def test_nodes_of_three_paces_learn_together_though_one_is_killed(start: Start, tmp_path: Path) -> None:
    first = start("a", *NEW, *OWN, "--shard", "0/4", "--answers")
    second = start("b", "--peers", first.address, "--shard", "1/4", "--slowdown", "2", "--answers")
    third = start("c", "--peers", first.address, "--shard", "2/4", "--slowdown", "4")
    before = third.shows(lambda status: status.gossip is not None and status.store.checkpoint_round)
    third.process.kill()
    third.process.wait()
    for node in (first, second):  # so far that whoever comes then has something to catch up with
        node.shows(lambda status: status.progress.round >= AHEAD)
    late = start("d", "--peers", second.address, "--shard", "3/4", "--answers")
    third = start("c", "--shard", "2/4", "--slowdown", "2")
    back = third.shows(lambda status: status.progress.round >= before.store.checkpoint_round > 0)
    assert back.node.peer == before.node.peer

    ends = [node.shows(finished) for node in (first, second, third, late)]
    assert all(status.gossip.models_merged > 0 for status in ends)
    assert sum(status.gossip.models_merged for status in ends) > 40
    assert ends[3].gossip.caught_up >= 1  # the one that came later
    assert all(status.progress.learning.accuracy > 0.85 for status in ends)
    assert len({status.progress.head for status in ends}) > 1
    assert not any(status.offences for status in ends)
    assert "gossipnode_models_merged_total" in first.get("/metrics")[1].decode()
    answers_of_several_models(first.address, [status.node.peer for status in (ends[0], ends[1], ends[3])], tmp_path)
    for node in (first, second, third, late):
        assert node.ends(signal.SIGINT)[0] == 0, node.log
        assert "Traceback" not in node.log


def test_nodes_that_pull_pieces_learn_together_and_one_that_comes_late_begins_with_whole_models(start: Start) -> None:
    cut = ("--set", "gossip.fragments=4", "--set", "gossip.inline_bytes=0", "--set", "audit.fraction=0")
    first = start("a", *NEW, *OWN, *cut, "--set", "start_peers=2", "--shard", "0/3")
    second = start("b", "--peers", first.address, "--shard", "1/3")
    first.shows(lambda status: status.progress.round >= 12)
    late = start("c", "--peers", first.address, "--shard", "2/3")
    ends = [node.shows(finished) for node in (first, second, late)]
    assert all(status.gossip.models_merged > 0 for status in ends)
    assert ends[2].gossip.caught_up >= 1
    assert all(status.progress.learning.accuracy > 0.85 for status in ends)
    assert not any(status.offences for status in ends)
    for node in (first, second, late):
        assert node.ends(signal.SIGINT)[0] == 0, node.log
        assert "Traceback" not in node.log
