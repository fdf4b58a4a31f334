"""A bell: whoever waits is woken by the next ring, and looks at the state itself: nothing travels with a ring."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Bell:
    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds()` is true; it is looked at now and after every ring."""
        while not holds():
            await self._rung.wait()
        await trio.lowlevel.checkpoint()
