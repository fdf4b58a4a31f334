"""The daemon's many tasks share one worker: calls of its two lanes go out at the same moment."""

from __future__ import annotations

from pathlib import Path

import trio

from gossipnode.compute.process import open_worker
from gossipnode.learn.config import LearnerConfig
from gossipnode.store import FileBlobs


async def test_an_evaluation_and_a_check_begin_at_once(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 10**8)
    config = LearnerConfig(task="digits", store=str(tmp_path), seed=3)
    async with open_worker(config, store.adopt) as learner:
        theta0 = await learner.initial()
        for _ in range(40):  # whether the two collide on the pipe is trio's draw: each time a half
            async with trio.open_nursery() as nursery:
                nursery.start_soon(learner.evaluate, theta0)
                nursery.start_soon(learner.check, theta0)
    store.close()
