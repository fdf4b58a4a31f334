"""`gossipnode ask` beside real nodes: most of three are believed, a liar is shown, and what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gossipnode.ask import Answers
from gossipnode.cli import main
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import load_task
from gossipnode.start import ADVERSARY
from gossipnode.status.report import Status
from protocols import limits
from protocols.signatures import verify
from sampling.peers import PeerId, Round
from verify.claims import ANSWERED, Answered
from verify.digest import digest_of

Start = Callable[..., Any]  # the fixture of conftest.py
ROUNDS = 12


def ask(*words: str) -> Result:
    return CliRunner().invoke(main, ("ask", *words))


def finished(status: Status) -> bool:
    learning = status.progress.learning
    return status.progress.state == "finished" and learning is not None and learning.evaluated_round == ROUNDS


def refused(words: tuple[str, ...], line: str) -> None:
    done = ask(*words)
    assert done.exit_code == 2, done.output
    assert line in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def image(path: Path) -> None:
    """One that the model has never seen."""
    np.save(path, load_task("digits").data(Shard(), None).test[0][0, 0].numpy())


def test_most_of_three_are_believed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = tmp_path / "image.npy", tmp_path / "answers.json"
    image(path)
    new = ("--task", "digits", "--rounds", str(ROUNDS), "--set", "start_peers=3", "--set", "audit.fraction=0")
    first = start("a", *new, "--shard", "0/3", "--answers")
    second = start("b", "--peers", first.address, "--shard", "1/3", "--answers")
    monkeypatch.setenv(ADVERSARY, "false-answer")
    liar = start("c", "--peers", first.address, "--shard", "2/3", "--answers")
    ends = [node.shows(finished) for node in (first, second, liar)]

    done = ask("--peers", second.address, "--input", str(path), "--json", str(target))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("DISAGREES")] == [
        line for line in lines if ends[2].node.peer in line
    ]
    assert {line.split()[1] for line in lines if line.startswith("agrees")} == {each.node.peer for each in ends[:2]}
    found = every_answer_is_signed(target, path.read_bytes())
    assert (found.round, found.model) == (ROUNDS, ends[0].progress.head)
    model = (first.home / "blobs" / found.model).read_bytes()
    scores = np.frombuffer(Engine(LearnerConfig(task="digits")).answer(model, path.read_bytes()), "<f4")
    assert np.allclose(scores, found.scores[0], atol=1e-4)
    assert f"answer    class {scores.argmax()} (" in done.stdout

    for name, data in {"garbage": b"no array", "large": bytes(limits.QUESTION_BYTES + 1)}.items():
        (tmp_path / name).write_bytes(data)
    peers = ("--peers", first.address)
    refused((*peers, "--input", str(tmp_path / "none.npy")), f"--input {tmp_path}/none.npy: No such file")
    refused((*peers, "--input", str(tmp_path / "large")), f"1 to {limits.QUESTION_BYTES} bytes")
    refused((*peers, "--input", str(tmp_path / "garbage")), "no input of the task digits: not a .npy file")
    second.process.kill()
    second.process.wait()
    refused((*peers, "--input", str(path)), "2 of 3 peers answered, 3 are needed")
    refused(("--peers", second.address, "--input", str(path)), "--peers: nobody could be reached")
    assert not any("Traceback" in node.log for node in (first, liar))


def every_answer_is_signed(target: Path, question: bytes) -> Answers:
    """By whoever is said to have given it, over what is said."""
    found = msgspec.json.decode(target.read_bytes(), type=Answers)
    assert (found.question, len(found.answers)) == (digest_of(question).hex(), 3)
    for each in found.answers:
        peer, output = PeerId(each.peer), digest_of(bytes.fromhex(each.output))
        claim = Answered(peer, Round(each.round), bytes.fromhex(each.model), digest_of(question), output)
        assert verify(peer, ANSWERED, bytes.fromhex(found.run), claim.statement, bytes.fromhex(each.signature))
    return found


def test_a_task_that_is_not_on_this_machine(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "point.npy"
    np.save(path, np.zeros((1, 2)))
    only = start("a", "--task", "slow_task:TASK", "--answers", "--set", "start_peers=2")
    refused(("--peers", only.address, "--input", str(path)), "this run trains slow_task:TASK, which is not built in")
