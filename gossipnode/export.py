"""`gossipnode export`: the newest model of a home, for use elsewhere. Works beside a running node and without one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from gossipnode.compute.process import open_worker
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.journal import Journal
from gossipnode.learn.config import LearnerConfig
from gossipnode.newrun import checked_task
from gossipnode.node import State
from gossipnode.toml import present_in
from protocols.learner import LearnerError, Unfit
from protocols.messages import Aggregate


def export_model(path: Path, target: Path, task: str | None) -> str:
    """What was written, in words. Raises OperatorError."""
    home = Home(path)
    if not home.manifest.exists():
        raise OperatorError(f"{path} holds no run: start a node there first, or name its home with --home")
    state = Journal(home.state, State).load()
    if state is None or state.held is None:
        raise OperatorError(f"{path} holds no model yet: wait for the node's first round")
    trio.run(_write, home, task or "", state.held, target.absolute())
    return f"wrote the model of round {state.held.round} ({state.held.model.hex()[:12]}) to {target}"


async def _write(home: Home, task: str, held: Aggregate, target: Path) -> None:
    manifest = present_in(home.manifest)
    config = msgspec.structs.replace(
        LearnerConfig.of(manifest), task=checked_task(manifest, task), store=str(home.store)
    )
    try:
        async with open_worker(config, lambda digest: None) as worker:
            await worker.export(held.model, target)
    except (LearnerError, Unfit) as error:
        raise OperatorError(f"cannot export to {target}: {error}") from error
