"""The worker process: one is shared by the tests that leave it as it was; each that harms one starts its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import trio

from gossipnode.compute.inline import InlineSwarm
from gossipnode.compute.process import WorkerLearner, open_worker
from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import TaskError
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.store import FileBlobs
from protocols.blobs import StoreFull
from protocols.learner import LearnerError, Unanswerable, Unfit
from protocols.manifest import Training
from protocols.merging import Merging
from sampling.peers import Round
from verify.digest import digest_of

HERE = Path(__file__).parent
ONE = Round(1)
ONE_EPOCH = Training()
SEED = bytes(range(32))
FOREVER = Training(epochs=0, steps=1_000_000)
MEAN = Merging()


@dataclass
class Desk:
    """A worker and the store that it shares with us."""

    learner: WorkerLearner
    store: FileBlobs


@contextlib.asynccontextmanager
async def desk(
    folder: Path,
    task: str,
    training: Training = ONE_EPOCH,
    data: str = "",
    grace_s: float = 30.0,
    room: int = 10**8,
    merging: Merging = MEAN,
) -> AsyncIterator[Desk]:
    store = FileBlobs(folder / "store", room)
    config = LearnerConfig(
        task=task,
        training=training,
        merging=merging,
        store=str(folder / "store"),
        shard=Shard(count=4),
        data=data,
        seed=3,
    )
    try:
        async with open_worker(config, store.adopt, grace_s=grace_s) as learner:
            yield Desk(learner, store)
    finally:
        store.close()


@pytest.fixture(autouse=True)
def awkward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)  # a worker sees what the daemon sees


async def appears(path: Path) -> None:
    """A file is all that a task can tell us while it trains."""
    await becomes_true(path.exists)


async def becomes_true(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 # another process has no trio.Event to set
            await trio.sleep(0.005)


async def test_an_answer_is_what_it_is_inline(tmp_path: Path) -> None:
    swarm, blobs = InlineSwarm(LearnerConfig(task="digits", seed=3)), MemoryBlobs(10**8)
    inline = swarm.learner(Shard(count=4), blobs)
    file = io.BytesIO()
    np.save(file, np.arange(128).reshape(2, 8, 8) % 17)
    async with desk(tmp_path, "digits") as there:
        model = await there.learner.initial()
        assert model == await inline.initial()
        found = await there.learner.answer(model, file.getvalue())
        assert found == await inline.answer(model, file.getvalue())
        assert len(found) == 2 * 10 * 4
        for learner in (there.learner, inline):
            with pytest.raises(Unanswerable, match=r"not a \.npy file"):
                await learner.answer(model, b"no array")
            with pytest.raises(LearnerError):
                await learner.answer(digest_of(b"unknown"), file.getvalue())
        assert there.learner.pid is not None  # a hostile question ends no worker


async def test_a_round_is_what_it_is_inline(tmp_path: Path) -> None:
    """The same blobs, digest for digest, from another process; so two processes agree on theta0, too."""
    swarm = InlineSwarm(LearnerConfig(task="digits", seed=3))
    inline = swarm.learner(Shard(count=4), MemoryBlobs(10**8))
    async with desk(tmp_path, "digits") as there:
        learner, store = there.learner, there.store
        info = await learner.describe()
        assert (info.parameters, info.model_bytes, info.samples, info.source) == (4810, 19_520, 360, "")
        assert info.theta0 == await learner.initial() == await inline.initial()
        assert store.size(info.theta0) == info.model_bytes
        ours = [await learner.train(info.theta0, ONE, seed=seed) for seed in (1, 2)]
        theirs = [await inline.train(info.theta0, ONE, seed=seed) for seed in (1, 2)]
        assert [(t.model, t.samples, t.steps, t.loss) for t in ours] == [
            (t.model, t.samples, t.steps, t.loss) for t in theirs
        ]
        again = await learner.replay(info.theta0, ONE, seed=1, shard="0/4 iid 0", samples=ours[0].samples)
        assert again.model == ours[0].model
        with pytest.raises(Unfit, match="there are 360 examples in that shard, not 361"):
            await learner.replay(info.theta0, ONE, seed=1, shard="0/4 iid 0", samples=361)
        models = [t.model for t in ours]
        assert all(model in store for model in models)
        merged = await learner.merge(models, [1, 3])
        assert merged == await inline.merge(models, [1, 3])
        assert merged != await learner.merge(models, [3, 1])
        assert 0 < await learner.check(merged) < 10
        for parent in (info.theta0, None):
            assert await learner.signature(merged, parent, SEED) == await inline.signature(merged, parent, SEED)
        assert await learner.evaluate(merged) == await inline.evaluate(merged)

        await learner.export(merged, tmp_path / "model.safetensors")
        exported = safetensors.numpy.load_file(tmp_path / "model.safetensors")
        assert {name: array.shape for name, array in exported.items()} == {
            "1.weight": (64, 64),
            "1.bias": (64,),
            "3.weight": (10, 64),
            "3.bias": (10,),
        }
        with pytest.raises(OperatorError, match=r"cannot write .*: No such file"):
            await learner.export(merged, tmp_path / "no" / "where")

        await unfit_and_missing(there)
        await the_daemon_imports_no_torch()


async def test_a_rule_that_tries_models_on_ones_own_examples_gives_what_it_gives_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    task, bristle = "bench.frozen:DIGITS", Merging(rule="bristle")
    config = LearnerConfig(task=task, training=ONE_EPOCH, merging=bristle, shard=Shard(count=4), seed=3)
    async with desk(tmp_path, task, merging=bristle) as there:
        swarm, blobs = InlineSwarm(config), MemoryBlobs(10**8)
        both = there.learner, swarm.learner(config.shard, blobs)
        models = [[(await each.train(await each.initial(), ONE, seed=seed)).model for seed in (1, 2)] for each in both]
        assert models[0] == models[1]
        merged, same = [await each.merge(models[0], [1, 1]) for each in both]
        assert merged == same
        assert merged not in models[0]


async def unfit_and_missing(there: Desk) -> None:
    learner, store = there.learner, there.store
    hostile = await store.put(b"not a model")
    for attempt in (learner.check(hostile), learner.evaluate(hostile), learner.train(hostile, ONE, seed=0)):
        with pytest.raises(Unfit, match="11 bytes where every model of this run has 19520"):
            await attempt
    with pytest.raises(Unfit):
        await learner.merge([await learner.initial(), hostile], [1, 1])
    with pytest.raises(LearnerError, match="cannot be read from the store"):
        await learner.check(digest_of(b"never seen"))
    damaged = await store.put(b"to be damaged")
    store.path(damaged).write_bytes(b"to be changed")
    with pytest.raises(LearnerError, match="is damaged on disk"):
        await learner.check(damaged)


async def the_daemon_imports_no_torch() -> None:
    code = "import sys, gossipnode.compute.process; print('torch' in sys.modules, 'numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True, env=environment)
    assert done.stdout.split() == [b"False", b"False"]


async def test_a_killed_worker_is_one_line_and_the_next_call_starts_another(tmp_path: Path) -> None:
    flag = tmp_path / "training"
    async with desk(tmp_path, "awkward_tasks:Long", FOREVER, data=str(flag)) as there:
        learner, first = there.learner, there.learner.pid
        assert first is not None
        theta0 = await learner.initial()

        async def kill() -> None:
            await appears(flag)
            os.kill(first, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(LearnerError, match="the worker process was ended by SIGKILL"):
                await learner.train(theta0, ONE, seed=0)
        assert learner.pid is None
        assert await learner.initial() == theta0
        assert learner.pid not in (None, first)


async def test_a_segmentation_fault_quotes_the_last_line(tmp_path: Path) -> None:
    async with desk(tmp_path, "awkward_tasks:Dies") as there:
        theta0 = await there.learner.initial()
        with pytest.raises(LearnerError, match="was ended by SIGSEGV; its last line: about to fall"):
            await there.learner.train(theta0, ONE, seed=0)


async def test_cancelling_stops_training_between_two_batches(tmp_path: Path) -> None:
    flag = tmp_path / "training"
    async with desk(tmp_path, "awkward_tasks:Long", FOREVER, data=str(flag)) as there:
        learner, worker = there.learner, there.learner.pid
        theta0 = await learner.initial()
        held = set(there.store.blobs.iterdir())
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: learner.train(theta0, ONE, seed=0))
                await appears(flag)
                await learner.check(theta0)  # is answered while the other trains
                await learner.merge([theta0], [1])
                nursery.cancel_scope.cancel()
            flag.unlink()
        assert (await learner.evaluate(theta0)).samples == 4, "it is free again"
        assert learner.pid == worker, "and was not killed for that"
        assert set(there.store.blobs.iterdir()) == held, "nothing was stored"


async def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    flag = tmp_path / "hanging"
    async with desk(tmp_path, "awkward_tasks:Hangs", data=str(flag), grace_s=0.05) as there:
        learner, worker = there.learner, there.learner.pid
        theta0 = await learner.initial()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: learner.train(theta0, ONE, seed=0))
            await appears(flag)
            nursery.cancel_scope.cancel()
        assert learner.pid is None
        assert (await learner.train(theta0, ONE, seed=0)).samples == 4
        assert learner.pid != worker


async def test_a_task_at_fault_is_named_and_the_worker_lives_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mood = tmp_path / "mood"
    async with desk(tmp_path, "awkward_tasks:Moody", data=str(mood)) as there:
        worker, theta0 = there.learner.pid, await there.learner.initial()
        mood.write_text("raise")
        line = r"^task 'awkward_tasks:Moody' failed in loss\(\): ValueError: the batch is odd$"
        with pytest.raises(LearnerError, match=line):
            await there.learner.train(theta0, ONE, seed=0)
        mood.write_text("nan")
        with pytest.raises(Unfit, match="task 'awkward_tasks:Moody': the loss became nan"):
            await there.learner.train(theta0, ONE, seed=0)
        mood.write_text("print")
        assert (await there.learner.train(theta0, ONE, seed=0)).steps == 1
        assert there.learner.pid == worker
    assert "in loss" in caplog.text, "the operator sees where it happened"
    logged = {record.getMessage() for record in caplog.records}
    assert {"seen on stdout", "and below Python"} <= logged, "what a task prints goes to the log, not into the pipe"


async def test_a_node_without_examples_cannot_train_but_evaluates(tmp_path: Path) -> None:
    async with desk(tmp_path, "awkward_tasks:Empty") as there:
        info = await there.learner.describe()
        assert info.samples == 0
        assert len(info.source) == 64
        with pytest.raises(LearnerError, match="no examples to train on"):
            await there.learner.train(info.theta0, ONE, seed=0)
        await there.learner.evaluate(info.theta0)


@pytest.mark.parametrize(
    ("task", "data", "failure", "line"),
    [
        ("mnits", "", TaskError, "did you mean 'mnist'"),
        ("awkward_tasks:Nothing", "", TaskError, "has no attribute 'Nothing'"),
        ("awkward_tasks:NoData", "", LearnerError, r"failed in data\(\): FileNotFoundError: no such disk"),
        ("digits", "/no/such.npz", TaskError, "data /no/such.npz: not an .npz file"),
    ],
)
async def test_a_worker_that_cannot_start_says_why(
    task: str, data: str, failure: type[Exception], line: str, tmp_path: Path
) -> None:
    with pytest.raises(failure, match=line) as caught:
        async with desk(tmp_path, task, data=data):
            raise AssertionError("not reached")
    assert "\n" not in str(caught.value)


async def test_an_error_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    worker: int | None = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 # the body is what is tested
        async with desk(tmp_path, "awkward_tasks:Plain") as there:
            worker = there.learner.pid
            raise ZeroDivisionError
    assert worker is not None
    assert not alive(worker)


async def test_a_full_store_is_said_to_be_full(tmp_path: Path) -> None:
    async with desk(tmp_path, "digits", room=30_000) as there:
        theta0 = await there.learner.initial()
        there.store.pin([theta0])
        with pytest.raises(StoreFull):
            await there.learner.train(theta0, ONE, seed=0)
        assert [path.name for path in there.store.blobs.iterdir()] == [theta0.hex()]


DAEMON = """
import sys, trio
from pathlib import Path
from gossipnode.learn.config import LearnerConfig
from gossipnode.compute.process import open_worker
async def main():
    store = Path(sys.argv[1])
    config = LearnerConfig(task="awkward_tasks:Hangs", store=str(store), data=sys.argv[2])
    async with open_worker(config, lambda digest: None) as learner:
        print(learner.pid, flush=True)
        await learner.train(await learner.initial(), 1, seed=0)
trio.run(main)
"""


async def test_the_worker_ends_with_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """Even while it is stuck in the task's own code."""
    flag = tmp_path / "hanging"
    (tmp_path / "blobs").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    daemon = subprocess.Popen(  # noqa: ASYNC220 # it is to outlive nothing, and is killed below
        [sys.executable, "-c", DAEMON, str(tmp_path), str(flag)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert daemon.stdout is not None
        worker = int(await trio.to_thread.run_sync(daemon.stdout.readline))
        await appears(flag)
        assert alive(worker)
    finally:
        daemon.kill()
        daemon.communicate()
    await becomes_true(lambda: not alive(worker))


def alive(pid: int | None) -> bool:
    """A zombie that nobody has reaped is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_a_rule_that_looks_at_the_parent_gets_it(tmp_path: Path) -> None:
    merging = Merging(rule="centred-clipping", byzantine=1)
    swarm = InlineSwarm(LearnerConfig(task="digits", seed=3, merging=merging))
    inline = swarm.learner(Shard(count=4), MemoryBlobs(10**8))
    async with desk(tmp_path, "digits", merging=merging) as there:
        theta0 = await there.learner.initial()
        assert theta0 == await inline.initial()
        for learner in (there.learner, inline):
            models = [(await learner.train(theta0, ONE, seed=seed)).model for seed in (1, 2, 3)]
        merged = await there.learner.merge(models, [1, 1, 1], theta0)
        assert merged == await inline.merge(models, [1, 1, 1], theta0)
        assert merged != await there.learner.merge(models, [1, 1, 1], models[0])
