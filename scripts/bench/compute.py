"""The training of a round without a network: as many workers as trainers, all at once, on one store; then the merge.

No round on the same machine can be faster: the daemon's own worker processes do the same work at the same concurrency,
and what one has stored another reads at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio
from processes import Failed

from gossipnode.compute.process import WorkerLearner, open_worker
from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.shard import Shard
from protocols.learner import LearnerError, Trained
from sampling.peers import Round
from verify.digest import Digest


def rounds_alone(config: LearnerConfig, nodes: int, rounds: int, tell: Callable[[str], None]) -> list[float]:
    """Seconds of each round after the first. Raises Failed."""
    try:
        return trio.run(_rounds, config, nodes, rounds, tell)[1:]
    except* (LearnerError, OperatorError) as errors:
        raise Failed(str(errors.exceptions[0])) from None


async def _rounds(config: LearnerConfig, nodes: int, rounds: int, tell: Callable[[str], None]) -> list[float]:
    with TemporaryDirectory(prefix="bench-") as folder:
        (Path(folder) / "blobs").mkdir()
        async with AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(open_worker(_own(config, index, folder), lambda digest: None))
                for index in range(nodes)
            ]
            tell(f"{nodes} workers are ready")
            head, seconds = await workers[0].initial(), []
            for number in range(rounds + 1):
                began = time.monotonic()
                head = await _round(workers, head, Round(number + 1))
                seconds.append(time.monotonic() - began)
    return seconds


def _own(config: LearnerConfig, index: int, folder: str) -> LearnerConfig:
    shard = Shard(index=index, count=config.shard.count, seed=config.seed)
    return msgspec.structs.replace(config, shard=shard, store=folder)


async def _round(workers: list[WorkerLearner], head: Digest, round: Round) -> Digest:
    """One aggregate from the other."""
    trained: list[Trained] = []

    async def train(worker: WorkerLearner) -> None:
        trained.append(await worker.train(head, round, seed=round))

    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(train, worker)
    return await workers[0].merge([each.model for each in trained], [each.samples for each in trained])
