"""Runs whole swarms in virtual time so that one seed gives one trace, and digests that trace.

Trio shuffles the order of runnable tasks on purpose. Its generator and the switch that sorts tasks before the shuffle
are private names; this is the only file that touches them. No thread may be used below `run_deterministic`: the clock
jumps whenever every task waits, and would jump past a working thread. `Leap` does in one turn of trio's loop what
`trio.testing.MockClock` does in three, and a simulation spends a good part of its time there.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import trio
import trio._core._run as scheduler
from trio.abc import Clock

from sampling.peers import PeerId

T = TypeVar("T")


def run_deterministic(async_fn: Callable[..., Awaitable[T]], *args: object, seed: int) -> T:
    """`trio.run` in virtual time from 0, its scheduling a function of the seed alone."""
    with seeded_scheduler(seed), _rare_collections():
        return trio.run(partial(async_fn, *args), clock=Leap())


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A swarm is a million objects that stay: looking through them all again and again costs a third of its time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Leap(Clock):
    """Time that stands still while any task can run, and leaps to the next deadline when none can."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[Sleeper] = []

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks when every task waits, and expires deadlines right after."""
        for sleeper in self._sleepers:
            if sleeper.asleep and sleeper.due_s < deadline:
                deadline = sleeper.due_s
        if deadline == math.inf:  # only a signal can go on, or a thread of trio's own as the run ends
            return deadline
        self._now = max(self._now, deadline)
        for sleeper in self._sleepers:
            sleeper.wake_if_due(self._now)
        return 0.0

    @contextmanager
    def sleeper(self) -> Iterator[Sleeper]:
        sleeper = Sleeper()
        self._sleepers.append(sleeper)
        try:
            yield sleeper
        finally:
            self._sleepers.remove(sleeper)


class Sleeper:
    """A task that is woken at a time which others may bring forward: cheaper than a cancel scope for each sleep."""

    def __init__(self) -> None:
        self.due_s = math.inf
        self._task: trio.lowlevel.Task | None = None

    @property
    def asleep(self) -> bool:
        return self._task is not None

    async def sleep(self) -> None:
        """Until `due_s`."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake_if_due(self, now: float) -> None:
        if self._task is not None and self.due_s <= now:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _abort(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Runs of trio within it choose among ready tasks by the seed."""
    chance = scheduler._r.getstate()
    switch = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._r.seed(seed)
    setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - declared Final, but made to be switched
    try:
        yield
    finally:
        setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", switch)  # noqa: B010 - as above
        scheduler._r.setstate(chance)


class Trace:
    """A running BLAKE2b over everything that happened on a network: two runs are the same iff their digests are."""

    def __init__(self) -> None:
        self.events = 0
        self._hash = hashlib.blake2b(digest_size=32)

    def record(self, time_s: float, kind: str, source: PeerId, target: PeerId, size: int) -> None:
        self.events += 1
        self._hash.update(f"{time_s!r} {kind} {source} {target} {size}\n".encode())

    def digest(self) -> str:
        """In hexadecimal, of all events so far."""
        return self._hash.hexdigest()
