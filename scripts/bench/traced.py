"""`gossipnode`, but noting when each step of a round happened: traced.py OUT start --home ...

The steps are wrapped, not changed, and the clock is the machine's monotonic one, so the marks of several processes lie
on one time line. `bench_round` reads them; it takes its headline figures from nodes that run without this.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gossipnode.cli import main
from gossipnode.compute.process import WorkerLearner
from protocols import wire
from protocols.aggregator import Aggregator
from protocols.collection import Collection
from protocols.head import Head
from protocols.messages import AnyMessage
from protocols.trainer import Assignment, Trainer

Step = tuple[str, int, float]  # what, round, when
STEPS: list[Step] = []
SAID: dict[str, list[int]] = {}  # questions and gossip by kind: how many, and their bytes


def note(what: str, round: int) -> None:
    STEPS.append((what, round, time.monotonic()))


def after(owner: type, method: str, what: str, round_of: Callable[..., int]) -> None:
    """Note `what` each time that async method has succeeded."""
    inner: Callable[..., Awaitable[Any]] = getattr(owner, method)

    @functools.wraps(inner)
    async def traced(*args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the wrapped method takes
        result = await inner(*args, **options)
        note(what, round_of(*args))
        return result

    setattr(owner, method, traced)


def before(owner: type, method: str, what: str, round_of: Callable[..., int]) -> None:
    """Note `what` each time that plain method is called."""
    inner: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(inner)
    def traced(*args: Any, **options: Any) -> Any:  # noqa: ANN401  # as above
        note(what, round_of(*args))
        return inner(*args, **options)

    setattr(owner, method, traced)


def assigned_round(trainer: Trainer, assignment: Assignment) -> int:
    return assignment.round


def count_messages() -> None:
    """Frames that leave through the transport, by the kind of message."""
    encode = wire.encode

    def counted(message: AnyMessage) -> bytes:
        frame = encode(message)
        tally = SAID.setdefault(type(message).__name__, [0, 0])
        tally[0] += 1
        tally[1] += len(frame)
        return frame

    setattr(wire, "encode", counted)  # noqa: B010  # a module's function, replaced on purpose


def trace() -> None:
    before(Trainer, "assign", "assigned", assigned_round)
    after(Head, "hold", "held", lambda head, aggregate: aggregate.round)
    after(WorkerLearner, "train", "trained", lambda learner, parent, round: round)
    before(Collection, "ready", "gathered", lambda collection, *rest: collection.round)
    after(Aggregator, "_mean", "merged", lambda aggregator, round, *rest: round)
    count_messages()


if __name__ == "__main__":
    trace()
    out = Path(sys.argv.pop(1))
    try:
        main()
    finally:
        out.write_text(json.dumps({"steps": STEPS, "said": SAID}))
