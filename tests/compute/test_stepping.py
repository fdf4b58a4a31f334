"""The worker's side of one-byte training, in this process."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gossipnode.blobfiles import write_blob
from gossipnode.compute import calls
from gossipnode.compute.stepping import Stepping
from gossipnode.compute.worker import Bench
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard
from protocols.learner import LearnerError
from verify.digest import Digest, digest_of

CONFIG = LearnerConfig(task="digits", rules=Rules(probes=2))
UPDATES = [(index, index - 9000) for index in range(2 * calls.UPDATES + 1)]


def bench(folder: Path, config: LearnerConfig = CONFIG) -> Bench:
    made = Bench()
    made.engine, made.blobs = Engine(config), folder / "blobs"
    made.blobs.mkdir()
    made.data = made.engine.data(Shard())
    made.stepping = Stepping(made)
    return made


def answer(bench: Bench, ask: calls.StepAsk) -> calls.Answer:
    return bench.do(ask, lambda: False)[0]


def digest(bench: Bench) -> Digest:
    summed = answer(bench, calls.Sum(store=False))
    assert isinstance(summed, calls.Summed)
    return Digest(summed.digest)


def test_nothing_is_added_before_the_last_frame(tmp_path: Path) -> None:
    asks = list(calls.adds(UPDATES))
    assert [(len(ask.seeds), len(ask.coefficients), ask.more) for ask in asks] == [
        (32768, 32768, True),
        (32768, 32768, True),
        (8, 8, False),
    ]
    here = bench(tmp_path)
    zero = digest(here)
    for ask in asks[:-1]:
        answer(here, ask)
        assert digest(here) == zero
    answer(here, asks[-1])
    there = digest(here)
    assert there != zero
    for ask in calls.adds([(seed, -coefficient) for seed, coefficient in reversed(UPDATES)]):
        answer(here, ask)
    assert digest(here) == zero


def test_frames_are_small() -> None:
    assert all(len(calls.framed(calls.Call(0, ask))) < 66_000 for ask in calls.adds(UPDATES))


def test_no_updates_are_no_frames() -> None:
    assert list(calls.adds([])) == []


def test_an_addition_that_fails_loses_a_until_it_is_restored(tmp_path: Path) -> None:
    here = bench(tmp_path)
    zero = digest(here)
    with pytest.raises(AssertionError, match="could overflow"):
        answer(here, next(calls.adds([(1, 2**31 - 1), (2, 1)])))
    for ask in (calls.Sum(store=True), calls.Score(), calls.Probe(calls.packed("Q", [1]), 0), *calls.adds([(1, 1)])):
        with pytest.raises(LearnerError, match="lost in an addition that failed"):
            answer(here, ask)
    answer(here, calls.Restore(b""))
    assert digest(here) == zero
    answer(here, next(calls.adds([(1, 1)])))


def test_theta0_is_the_runs_and_not_this_machines(tmp_path: Path) -> None:
    """Another seed stands for another machine, whose torch draws other numbers."""
    theta0 = Engine(msgspec.structs.replace(CONFIG, seed=8)).initial()
    here = bench(tmp_path, msgspec.structs.replace(CONFIG, theta0=digest_of(theta0)))
    with pytest.raises(LearnerError, match=r"this machine's theta0 is .*, not the run's .* cannot be read"):
        answer(here, calls.Sum(store=False))
    write_blob(here.blobs, theta0)
    scored = answer(here, calls.Score())
    assert isinstance(scored, calls.Scored)
    assert scored.metrics == here.engine.evaluate(theta0, here.data)
    answer(here, calls.ExportSum(b"", str(tmp_path / "model")))
    assert (tmp_path / "model").read_bytes() == theta0


def test_a_theta0_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    here = bench(tmp_path, msgspec.structs.replace(CONFIG, theta0=digest_of(b"no model")))
    write_blob(here.blobs, b"no model")
    with pytest.raises(LearnerError, match="theta0 is no model of task 'digits': 8 bytes where"):
        answer(here, calls.Score())


def test_threads_come_to_the_same_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of enough parameters that the second thread takes its share."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    found = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        wide = LearnerConfig(task="awkward_tasks:Wide", threads=threads, rules=Rules())
        here = bench(folder, wide)
        for ask in (*calls.adds(UPDATES[:600]), *calls.adds(UPDATES[-1:])):
            answer(here, ask)
        assert here.stepping._spsa._a._host.threads == threads  # type: ignore[attr-defined]  # on a CPU it is the host's
        found.append(digest(here))
    assert found[0] == found[1] != digest_of(bytes(4 * len(here.engine.flat.learned)))
