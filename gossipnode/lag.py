"""How late the event loop wakes: it tells an overloaded machine from a bad network.

A task sleeps TICK_S and notes by how much it overslept. Everything else in the daemon (pings, deadlines, links) suffers
the same lateness, so a p99 over WARN_S means that peers will think us dead. Invariant: memory and work are bounded by
the window, WINDOW_S / TICK_S samples; at most one warning in WARN_EVERY_S.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

import trio

log = logging.getLogger(__name__)

TICK_S: Final = 0.075  # 13 wakes a second: under 0.1 % of a core, and a pause of 0.1 s cannot slip through
WINDOW_S: Final = 60.0  # what the figures are about
WARN_S: Final = 0.5  # p99; default pings give up at 0.25 to 5 s
WARN_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds overslept, over the window."""

    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0


def quantile(ordered: list[float], q: float) -> float:
    """Nearest rank: the smallest sample that at least a share q of them does not exceed."""
    return ordered[max(0, ceil(q * len(ordered)) - 1)]


class LoopLag:
    """The newest samples. `note` is O(1); `figures` sorts at most 800 floats."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=int(WINDOW_S / TICK_S))
        self._warned_s = -inf

    def note(self, late_s: float) -> None:
        self._samples.append(max(0.0, late_s))

    def figures(self) -> Lag:
        if not self._samples:
            return Lag()
        ordered = sorted(self._samples)
        return Lag(quantile(ordered, 0.5), quantile(ordered, 0.99), ordered[-1])

    def warning(self, now_s: float) -> str | None:
        """What to tell the operator, if it is due."""
        figures = self.figures()
        if figures.p99_s <= WARN_S or now_s - self._warned_s < WARN_EVERY_S:
            return None
        self._warned_s = now_s
        return (
            f"the event loop is late by {figures.p99_s:.1f} s (p99; worst {figures.max_s:.1f} s): this machine is "
            "overloaded, and peers may think us dead; give training fewer threads"
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due_s = trio.current_time() + TICK_S
            await trio.sleep_until(due_s)
            now_s = trio.current_time()
            self.note(now_s - due_s)
            # Only a late sample can have pushed the p99 over the bound, so the sorting is rare.
            if now_s - due_s > WARN_S and (text := self.warning(now_s)):
                log.warning("%s", text)
