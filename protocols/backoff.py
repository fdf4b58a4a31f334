"""When to try a peer again: soon at first, ever more rarely, for ever. Pure: clock and draw are arguments."""

from __future__ import annotations

import random
from dataclasses import dataclass

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0  # a peer that returns after a night is found within half a minute


@dataclass(slots=True)
class Backoff:
    """Of one target."""

    next_at: float = 0.0
    delay_s: float = BACKOFF_FIRST_S
    busy: bool = False

    @property
    def first(self) -> bool:
        """Nothing has failed since the last success."""
        return self.delay_s == BACKOFF_FIRST_S

    def failed(self, now: float, rng: random.Random) -> None:
        self.next_at = now + self.delay_s * rng.uniform(0.5, 1.5)
        self.delay_s = min(2 * self.delay_s, BACKOFF_MOST_S)

    def succeeded(self) -> None:
        self.delay_s, self.next_at = BACKOFF_FIRST_S, 0.0
