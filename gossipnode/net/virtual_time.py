"""Runs whole swarms in virtual time so that one seed gives one trace, and digests that trace.

Trio shuffles the order of runnable tasks on purpose. Its generator and the switch that sorts tasks before the shuffle
are private names; this is the only file that touches them. No thread may be used below `run_deterministic`: the clock
jumps whenever every task waits, and would jump past a working thread. `Leap` does in one turn of trio's loop what
`trio.testing.MockClock` does in three, and a simulation spends a good part of its time there.
"""

from __future__ import annotations

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
    with _seeded_scheduler(seed):
        return trio.run(partial(async_fn, *args), clock=Leap())


class Leap(Clock):
    """Time that stands still while any task can run, and leaps to the next deadline when none can."""

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks when every task waits, and expires deadlines right after."""
        if deadline == math.inf:  # only a signal can go on, or a thread of trio's own as the run ends
            return deadline
        self._now = max(self._now, deadline)
        return 0.0


@contextmanager
def _seeded_scheduler(seed: int) -> Iterator[None]:
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
