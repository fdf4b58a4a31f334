"""The life of small swarms of real processes: begun, joined, joined in mid-run, finished; left, killed, resumed."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from gossipnode.cli import main
from gossipnode.status.report import Status, decode

Start = Callable[..., Any]  # the fixture of conftest.py
OWN_TASK = "slow_task:TASK"  # trains for 0.1 s without using a core
STOP_S = 5.0  # what a node promises


def gossipnode(*words: str) -> Result:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done


def finished(rounds: int) -> Callable[[Status], bool]:
    def look(status: Status) -> bool:
        learning = status.progress.learning
        return status.progress.state == "finished" and learning is not None and learning.evaluated_round == rounds

    return look


def names(status: Status) -> set[str]:
    return {each.peer for each in status.peers}


def round_of(status: Status) -> int:
    return status.progress.round


def loads_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_two_nodes_train_and_a_third_joins_by_one_address(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 40
    first = start("a", "--task", OWN_TASK, "--rounds", str(rounds), "--shard", "0/3", "--set", "start_peers=2")
    first.says(f"others join it with --peers {first.address}")
    second = start("b", "--peers", first.address, "--task", OWN_TASK, "--shard", "1/3")
    first.shows(lambda status: round_of(status) >= 3)

    (tmp_path / "peers.txt").write_text(f"# the swarm\n\n{second.address}  # the second\n")
    third = start("c", "--peers", str(tmp_path / "peers.txt"), "--task", OWN_TASK, "--shard", "2/3")
    joined = third.shows(lambda status: status.node.joined)
    assert joined.run.run_id == first.status().run.run_id
    assert third.get("/readyz") == (200, b"ready\n")
    assert third.get("/healthz") == (200, b"ok\n")
    assert not any(loads_torch(node.process.pid) for node in (first, second, third))

    ends = [node.shows(finished(rounds)) for node in (first, second, third)]
    assert len({status.progress.head for status in ends}) == 1
    assert all(len(status.peers) == 2 for status in ends)  # the third learnt the first from the second
    trainers = {trainer for each in ends[0].history for trainer in each.trainers}
    assert ends[2].node.peer in trainers  # it did not only look on
    assert [(status.offences, status.warnings) for status in ends] == [([], [])] * 3
    assert all(status.node.loop_lag.p50_ms < 100 for status in ends)

    shown = gossipnode("status", "--home", str(third.home)).output
    assert ends[2].node.peer in shown
    assert f"{rounds} of {rounds}" in shown
    report = decode(gossipnode("status", third.url, "--json").stdout.encode())
    assert report.progress.head == ends[0].progress.head
    assert f"\ngossipnode_round {rounds:.1f}\n".encode() in third.get("/metrics")[1]

    for node in (first, second, third):
        code, seconds = node.ends(signal.SIGINT)
        assert (code, seconds < STOP_S) == (0, True), node.log
        assert "Traceback" not in node.log
        assert not (node.home / "addresses.json").exists()
    target = tmp_path / "model.safetensors"  # after the end, by whoever has the home
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where the task is
    gossipnode("export", "--home", str(third.home), "--task", OWN_TASK, str(target))
    model = safetensors.numpy.load_file(target)
    assert {name: array.shape for name, array in model.items()} == {"weight": (2, 2), "bias": (2,)}
    assert all(math.isfinite(value) for array in model.values() for value in array.flat)


def test_a_node_leaves_is_killed_and_comes_back_as_itself(start: Start) -> None:
    first = start("a", "--task", OWN_TASK, "--shard", "0/2", "--set", "start_peers=2", "--set", "modest.trainers=2")
    second = start("b", "--peers", first.address, "--task", OWN_TASK, "--shard", "1/2")
    me = second.shows(lambda status: round_of(status) >= 3).node.peer

    code, seconds = second.ends(signal.SIGTERM)
    assert (code, seconds < STOP_S) == (0, True), second.log
    first.shows(lambda status: me not in names(status))  # it said goodbye: nobody has to find out
    left = second.saved()
    first.shows(lambda status: round_of(status) > left.held.round)  # alone it goes on

    again = start("b", "--task", OWN_TASK, "--shard", "1/2")  # no --peers: its view has kept the addresses
    back = again.shows(lambda status: status.node.joined and round_of(status) > left.held.round)
    assert back.node.peer == me
    first.shows(lambda status: me in names(status))
    ahead = round_of(first.status())
    again.shows(lambda status: any(me in each.trainers and each.round > ahead for each in status.history))

    again.process.kill()
    again.process.wait()
    killed = again.saved()
    assert killed.counter > left.counter
    once_more = start("b", "--task", OWN_TASK, "--shard", "1/2")
    resumed = once_more.shows(lambda status: status.node.joined and status.progress.head is not None)
    assert resumed.node.peer == me
    assert round_of(resumed) >= killed.held.round
    ahead = round_of(first.status())
    once_more.shows(lambda status: any(me in each.trainers and each.round > ahead for each in status.history))
    assert once_more.saved().counter > killed.counter
    assert "Traceback" not in first.log + again.log + once_more.log
    assert first.status().offences == []
