"""How fast a source must be to be waited for. Pure: seconds and bytes are arguments.

A source that drips a byte now and then keeps any idle limit satisfied for years. So its speed is measured over a few
seconds of waiting for it (not of writing to our own disk), against a floor that any line reaches, and, as long as there
are others to ask, against what sources have usually been like. Slowness is no offence: the bytes that came are kept.
"""

from __future__ import annotations

from protocols import limits

GAIN = 1 / 4  # of the newest measurement in what is usual


class Usual:
    """The speed of the sources so far, smoothed."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None

    def measured(self, got: int, waited_s: float) -> None:
        """Half a look's worth says nothing: small blobs are all latency."""
        if waited_s < limits.FETCH_LOOK_S / 10 and got < limits.MIB:
            return
        speed = got / max(waited_s, 1e-3)
        self.bytes_per_s = speed if self.bytes_per_s is None else self.bytes_per_s + GAIN * (speed - self.bytes_per_s)

    def least(self, *, others: bool) -> float:
        """Bytes a second below which a source is given up. `others`: there is someone else to ask."""
        if not others or self.bytes_per_s is None:
            return limits.FETCH_BYTES_PER_S
        return max(limits.FETCH_BYTES_PER_S, self.bytes_per_s / limits.FETCH_SLOWER)


class Watch:
    """One source at work."""

    def __init__(self, least: float) -> None:
        self.got = 0
        self.waited_s = 0.0
        self._least = least
        self._look_got = 0
        self._look_s = 0.0

    def came(self, size: int, waited_s: float) -> bool:
        """False if it is too slow."""
        self.got += size
        self.waited_s += waited_s
        self._look_got += size
        self._look_s += waited_s
        if self._look_s < limits.FETCH_LOOK_S:
            return True
        enough = self._look_got >= self._least * self._look_s
        self._look_got, self._look_s = 0, 0.0
        return enough
