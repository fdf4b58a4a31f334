"""`gossipnode export`: the newest model of a home, for use elsewhere. Works beside a running node and without one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from gossipnode.blobfiles import write_blob
from gossipnode.compute.process import WorkerLearner, open_worker
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.journal import Journal
from gossipnode.learn.config import LearnerConfig
from gossipnode.newrun import checked_task
from gossipnode.node import State
from gossipnode.toml import present_in
from protocols.learner import LearnerError, Unfit
from verify.digest import Digest


def export_model(path: Path, target: Path, task: str | None) -> str:
    """What was written, in words. Raises OperatorError."""
    home = Home(path)
    if not home.manifest.exists():
        raise OperatorError(f"{path} holds no run: start a node there first, or name its home with --home")
    if present_in(home.manifest).protocol == "onebyte":
        return _export_chain(home, task or "", target)
    state = Journal(home.state, State).load()
    if state is None or state.held is None:
        raise OperatorError(f"{path} holds no model yet: wait for the node's first round")
    trio.run(_write, home, task or "", Digest(state.held.model), target.absolute())
    return f"wrote the model of round {state.held.round} ({state.held.model.hex()[:12]}) to {target}"


def _export_chain(home: Home, task: str, target: Path) -> str:
    """theta at the newest step: A is replayed, for the node's store has that of checkpoints only."""
    from gossipnode.chainfile import open_chain, replay  # numpy and the kernels: other runs need neither

    file = open_chain(home)
    replayed = replay(file)
    if not replayed.holds:
        raise OperatorError(f"the chain of {home.path} does not hold: see gossipnode chain verify --home {home.path}")
    with tempfile.TemporaryDirectory() as folder:  # not into the store: its node may be running
        store = Home(Path(folder))
        store.blobs.mkdir()
        theta0 = home.blobs / file.manifest.theta0
        if theta0.exists():
            shutil.copyfile(theta0, store.blobs / theta0.name)
        a = write_blob(store.blobs, replayed.a)
        trio.run(_write_sum, home, store, task, a, target.absolute())
    return f"wrote the model of step {file.tip.height} (A {a.hex()[:12]}) to {target}"


async def _write(home: Home, task: str, model: Digest, target: Path) -> None:
    async with _worker(home, home, task, target) as worker:
        await worker.export(model, target)


async def _write_sum(home: Home, store: Home, task: str, a: Digest, target: Path) -> None:
    async with _worker(home, store, task, target) as worker:
        await worker.export_sum(a, target)


@asynccontextmanager
async def _worker(home: Home, store: Home, task: str, target: Path) -> AsyncIterator[WorkerLearner]:
    """For the run of `home`, with the blobs of `store`. Raises OperatorError."""
    manifest = present_in(home.manifest)
    config = msgspec.structs.replace(
        LearnerConfig.of(manifest), task=checked_task(manifest, task), store=str(store.store)
    )
    try:
        async with open_worker(config, lambda digest: None) as worker:
            yield worker
    except (LearnerError, Unfit) as error:
        raise OperatorError(f"cannot export to {target}: {error}") from error
