"""One-byte training by real processes: one sum, whoever is killed on the way, and a chain that can be replayed."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from click.testing import CliRunner, Result

from gossipnode.cli import main
from gossipnode.home import Home
from gossipnode.identity import create_identity
from gossipnode.journal import Journal
from gossipnode.node import Hashed, State
from gossipnode.recordlog import read_records
from gossipnode.status.report import Status

Start = Callable[..., Any]  # the fixture of conftest.py
STEPS = 80
RULES = ("onebyte.founders={}", "onebyte.epoch=8", "onebyte.probes=4", "onebyte.batch=16", "timing.round_floor_s=0.3")


def ran(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def founded(folder: Path, *names: str) -> list[str]:
    """Options that make these homes the founders."""
    homes = [Home(folder / name) for name in names]
    for home in homes:
        home.create()
    peers = ",".join(f'"{create_identity(home.identity).peer}"' for home in homes)
    return [word for rule in RULES for word in ("--set", rule.format(f"[{peers}]"))]


def finished(status: Status) -> bool:
    learning = status.progress.learning
    return status.progress.state == "finished" and learning is not None and learning.evaluated_round == STEPS


def test_three_nodes_hold_one_sum_though_one_is_killed(start: Start, tmp_path: Path) -> None:
    rules = founded(tmp_path, "a", "b", "c")
    new = ("--task", "digits", "--protocol", "onebyte", "--steps", str(STEPS), "--set", "start_peers=3", "--answers")
    first = start("a", *new, *rules, "--shard", "0/3", "--privacy-clip", "1.0", "--privacy-noise", "2.0")
    second = start("b", "--peers", first.address, "--shard", "1/3", "--answers")
    third = start("c", "--peers", first.address, "--shard", "2/3")
    me = third.shows(lambda status: status.progress.round >= 30).node.peer
    third.process.kill()
    third.process.wait()
    before = len(list(read_records(third.home / "chain.log")))
    assert before > 0
    third = start("c", "--shard", "2/3", "--answers")  # no --peers: its state has kept the addresses

    ends = [node.shows(finished) for node in (first, second, third)]
    assert len({status.progress.head for status in ends}) == 1
    assert ends[2].node.peer == me
    assert all(status.chain.height == status.run.rounds == STEPS for status in ends)
    assert all(status.chain.is_member and not status.chain.expelled for status in ends)
    assert not any(status.offences for status in ends)
    assert ends[0].chain.scalars_sent > 4 * 10
    assert ends[0].chain.wire_per_scalar > ends[0].chain.bytes_per_scalar > 1
    assert ends[0].node.epsilon > 0
    assert ends[1].node.epsilon is None
    assert {peer for each in ends[0].history for peer in each.trainers} == {status.node.peer for status in ends}
    assert "gossipnode_scalars_sent_total" in first.get("/metrics")[1].decode()

    shown = ran("chain", "--home", str(third.home))  # beside the running node
    assert shown.exit_code == 0
    assert shown.output.splitlines()[-1].split()[0] == str(STEPS)
    np.save(tmp_path / "image.npy", np.arange(64).reshape(8, 8) % 17)
    asked = ran("ask", "--peers", second.address, "--input", str(tmp_path / "image.npy"))
    assert asked.exit_code == 0, asked.output
    assert asked.output.count("agrees ") == 3  # from A of one checkpoint
    for node in (first, second, third):
        assert node.ends(signal.SIGINT)[0] == 0, node.log
        assert "Traceback" not in node.log
    every_home_can_be_verified([node.home for node in (first, second, third)], ends[0].progress.head)
    a_lie_is_seen(first.home, tmp_path)
    it_can_be_exported(second.home, tmp_path / "model.safetensors")


def every_home_can_be_verified(homes: list[Path], head: str) -> None:
    for home in homes:
        done = ran("chain", "verify", "--home", str(home))
        assert done.exit_code == 0, done.output
        tip = next(line for line in done.output.splitlines() if line.split()[:1] == [str(STEPS)])
        assert tip.split()[1:] == ["A", head[:12], "the", "tip;", "as", "this", "node", "had", "hashed", "it"]
        assert "the members voted" in done.output or "certified" in done.output


def a_lie_is_seen(home: Path, folder: Path) -> None:
    lied = folder / "lied"
    shutil.copytree(home, lied)
    path = max((lied / "state").glob("state.*"))
    state = Journal(lied / "state", State).load()
    assert state is not None
    assert state.hashed is not None
    wrong = Hashed(height=state.hashed.height, block=state.hashed.block, model=bytes(32))
    write_state(path, msgspec.structs.replace(state, hashed=wrong))
    done = ran("chain", "--home", str(lied), "verify")
    assert done.exit_code == 1
    assert "MISMATCH: the tip; this node had 000000000000" in done.output
    assert done.output.splitlines()[-1] == "it does not hold"


def write_state(path: Path, state: State) -> None:
    journal = Journal(path.parent, State)
    journal._write(int(path.suffix[1:], 16) + 1, msgspec.msgpack.encode(state))


def it_can_be_exported(home: Path, target: Path) -> None:
    done = ran("export", "--home", str(home), str(target))
    assert done.exit_code == 0, done.output
    assert f"wrote the model of step {STEPS}" in done.output
    model = safetensors.numpy.load_file(target)
    assert all(math.isfinite(value) for array in model.values() for value in array.flat)
