"""One-byte training in the worker process: the same A as inline, never half of an addition, never zero unawares."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import safetensors.numpy
import trio

from gossipnode.compute import calls
from gossipnode.compute.inline import InlineLearner, InlineSwarm
from gossipnode.compute.process import WorkerLearner, open_worker
from gossipnode.errors import OperatorError
from gossipnode.learn.accountant import Privacy
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.store import FileBlobs
from protocols.learner import LearnerError, StepLearner, Unfit
from sampling.peers import Round
from verify.digest import digest_of

HERE = Path(__file__).parent
DIGITS = LearnerConfig(task="digits", seed=3, shard=Shard(count=4), rules=Rules(probes=3))
PLAIN = LearnerConfig(task="awkward_tasks:Plain", rules=Rules(batch=2))
UPDATES = [(2**64 - 1, 127 * 19), (3, -5), (2**63, 1)]
MANY = [(int.from_bytes(digest_of(b"%d" % i)[:8], "little"), i % 255 - 127) for i in range(2 * calls.UPDATES + 7)]
SEEDS = [7, 2**64 - 2, 12]
LOST = "A was lost with the worker process that had it: it must be restored"


@dataclass
class Desk:
    """A worker and the store that it shares with us."""

    learner: WorkerLearner
    store: FileBlobs


@contextlib.asynccontextmanager
async def desk(folder: Path, config: LearnerConfig) -> AsyncIterator[Desk]:
    store = FileBlobs(folder, 10**8)
    try:
        async with open_worker(msgspec.structs.replace(config, store=str(folder)), store.adopt, grace_s=30) as learner:
            yield Desk(learner, store)
    finally:
        store.close()


@pytest.fixture(autouse=True)
def awkward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)  # a worker sees what the daemon sees


def inline(config: LearnerConfig) -> InlineLearner:
    return InlineSwarm(config).learner(config.shard, MemoryBlobs(10**8))


async def becomes_true(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 # another process has no trio.Event to set
            await trio.sleep(0.005)


async def kill(learner: WorkerLearner) -> None:
    assert learner.pid is not None
    os.kill(learner.pid, signal.SIGKILL)
    await becomes_true(lambda: learner.pid is None)


async def all_fail(learner: StepLearner, line: str) -> None:
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: learner.probe(SEEDS, seed=0),
        lambda: learner.add(UPDATES),
        lambda: learner.add([]),
        learner.digest,
        learner.snapshot,
        learner.score,
    ]
    for attempt in attempts:
        with pytest.raises(LearnerError, match=line):
            await attempt()


async def test_a_step_is_what_it_is_inline(tmp_path: Path) -> None:
    """The same bytes from another process, whatever else its model is used for."""
    alone = inline(DIGITS)
    async with desk(tmp_path, DIGITS) as there:
        learner = there.learner
        theta0 = await learner.initial()
        assert await learner.digest() == await alone.digest()
        for updates in (UPDATES, MANY):
            await learner.add(updates)
            await alone.add(updates)
            assert await learner.digest() == await alone.digest()
            ours, theirs = await learner.probe(SEEDS, seed=9), await alone.probe(SEEDS, seed=9)
            assert (ours.scalars, ours.loss, ours.saturated) == (theirs.scalars, theirs.loss, theirs.saturated)
            again = await learner.reprobe(SEEDS, seed=9, shard="0/4 iid 0")
            other = await learner.reprobe(SEEDS, seed=9, shard="1/4 iid 0")
            assert again.scalars == ours.scalars != other.scalars
            await learner.train(theta0, Round(1), seed=0)
            assert await learner.score() == await alone.score()
            await learner.evaluate(theta0)
        a = await learner.snapshot()
        assert a == await alone.snapshot() == await learner.digest()
        assert await there.store.get(a) == await alone._blobs.get(a)
        await restored_or_not(there)
        await exported(there, tmp_path / "model.safetensors")
        assert learner.spent() is None


async def restored_or_not(there: Desk) -> None:
    learner, store = there.learner, there.store
    a = await learner.digest()
    for blob in (bytes(8), bytes(4 * 4811), b"\x00\x00\x00\x80" * 4810):
        with pytest.raises(Unfit, match="snapshot"):
            await learner.restore(await store.put(blob))
    damaged = await store.put(bytes(4 * 4810))
    store.path(damaged).write_bytes(b"\x01" * 4 * 4810)
    for digest in (damaged, digest_of(b"never seen")):
        with pytest.raises(LearnerError, match=r"cannot be read|is damaged"):
            await learner.restore(digest)
    assert await learner.digest() == a, "nothing of that has moved it"
    await learner.restore(None)
    assert await learner.digest() == digest_of(bytes(4 * 4810))
    await learner.restore(a)
    assert await learner.digest() == a


async def exported(there: Desk, path: Path) -> None:
    """From a snapshot: the learner stays where it is."""
    learner, a = there.learner, await there.learner.digest()
    score = await learner.score()
    await learner.restore(None)
    await learner.export_sum(a, path)
    assert await learner.digest() != a
    arrays = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in arrays.items()}["1.weight"] == (64, 64)
    assert (await learner.evaluate(await there.store.put(await trio.Path(path).read_bytes()))).loss == score.loss
    await learner.export_sum(None, path)
    assert digest_of(await trio.Path(path).read_bytes()) == await learner.initial(), "float32: theta0 as it is"
    with pytest.raises(OperatorError, match=r"cannot write .*: No such file"):
        await learner.export_sum(a, path.parent / "no" / "where")


async def test_a_lost_worker_has_lost_a(tmp_path: Path) -> None:
    """Whatever starts another one: nothing but a restored A is gone on from. Spent privacy is not lost with it."""
    privacy = Privacy(example_clip=1.0, sigma=2.0)
    async with desk(tmp_path, msgspec.structs.replace(PLAIN, privacy=privacy)) as there:
        learner = there.learner
        assert learner.spent() == 0.0
        await learner.add(UPDATES)
        await learner.probe(SEEDS, seed=0)
        spent = learner.spent()
        await learner.reprobe(SEEDS, seed=0, shard="0/1 iid 0")
        assert learner.spent() == spent, "the examples of others are public"
        assert spent == pytest.approx(privacy.spent(batch=2, examples=4, probes=3, delta=1e-5))
        a = await learner.snapshot()
        await kill(learner)
        await all_fail(learner, LOST)
        assert learner.pid is None, "nobody starts another for that"
        await learner.restore(None)
        await learner.add(UPDATES)
        assert await learner.digest() == a
        assert learner.spent() == spent

        await kill(learner)
        await learner.initial()
        assert learner.pid is not None
        with pytest.raises(Unfit):
            await learner.restore(await there.store.put(b"no snapshot"))
        await all_fail(learner, LOST)
        await learner.restore(a)
        assert await learner.digest() == a
        await cannot_be_counted(learner, tmp_path / "privacy.json")


async def cannot_be_counted(learner: WorkerLearner, path: Path) -> None:
    """Then no byte comes out."""
    spent = learner.spent()
    await trio.Path(path).unlink()
    await trio.Path(path).mkdir()
    with pytest.raises(LearnerError, match=r"private probes cannot be counted in .*privacy\.json"):
        await learner.probe(SEEDS, seed=0)
    assert learner.spent() == spent


async def test_a_probe_is_interrupted_and_an_addition_is_not(tmp_path: Path) -> None:
    flag = tmp_path / "probing"
    async with desk(tmp_path, msgspec.structs.replace(PLAIN, task="awkward_tasks:Long", data=str(flag))) as there:
        learner, first = there.learner, there.learner.pid
        await learner.add(UPDATES)
        a = await learner.digest()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: learner.probe(range(2**20), seed=0))  # for minutes
            await becomes_true(flag.exists)
            with trio.move_on_after(0.01) as scope:
                await learner.add(MANY)
            assert scope.cancelled_caught, "it had not begun"
            nursery.cancel_scope.cancel()
        assert await learner.digest() == a
        assert learner.pid == first, "it stopped between two probes"

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_once_busy, learner, scope)
                await learner.add(MANY)  # returns: what follows is cancelled
                added = True
        assert added
        assert scope.cancel_called
        await learner.add([(seed, -coefficient) for seed, coefficient in MANY])
        assert await learner.digest() == a


async def cancel_once_busy(learner: WorkerLearner, scope: trio.CancelScope) -> None:
    assert learner._child is not None
    while not learner._child._pending:  # nothing tells us that a call has begun
        await trio.lowlevel.checkpoint()
    scope.cancel()
