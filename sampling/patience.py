"""How long to wait for an answer: the deadline learned from measured durations, between a floor and a ceiling. Pure.

RFC 6298's estimator (Jacobson, Karels): smoothed mean plus four mean deviations; a missed deadline doubles the next one
until something is heard again. Nobody has to guess a time-out, and a dead peer costs one learned deadline.
"""

from __future__ import annotations

ALPHA = 1 / 8  # gain of the mean
BETA = 1 / 4  # gain of the deviation
MOST_GROWTH = 8  # of a deadline that is repeated: after long trouble the first good chance is not slept through
K = 4  # deviations waited beyond the mean


class Patience:
    def __init__(self, floor_s: float, ceiling_s: float, first_s: float | None = None) -> None:
        """`first_s`: the deadline while nothing was heard yet; the ceiling unless given."""
        assert 0 < floor_s <= ceiling_s
        self._first_s = ceiling_s if first_s is None else min(max(first_s, floor_s), ceiling_s)
        self.floor_s = floor_s
        self.ceiling_s = ceiling_s
        self.mean_s: float | None = None  # None until something was heard
        self._deviation_s = 0.0
        self._backoff = 1.0

    def heard(self, duration_s: float) -> None:
        self._backoff = 1.0
        if self.mean_s is None:
            self.mean_s, self._deviation_s = duration_s, duration_s / 2
            return
        self._deviation_s += BETA * (abs(duration_s - self.mean_s) - self._deviation_s)
        self.mean_s += ALPHA * (duration_s - self.mean_s)

    def missed(self) -> None:
        self._backoff = min(2 * self._backoff, self.ceiling_s / self.floor_s)

    def after(self, tries: int) -> float:
        """The deadline of what has been asked for `tries` times in vain and will be heard, or measured, in the end."""
        return min(self.ceiling_s, self.deadline_s * float(min(2**tries, MOST_GROWTH)))

    @property
    def deadline_s(self) -> float:
        learned_s = self._first_s if self.mean_s is None else max(self.floor_s, self.mean_s + K * self._deviation_s)
        return min(self.ceiling_s, learned_s * self._backoff)
