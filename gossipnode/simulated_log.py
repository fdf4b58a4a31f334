"""Log lines of a simulated swarm: virtual time, which node, level, what. Silent unless asked for.

Each node's tasks carry its name in a context variable, and so do the answers it gives, so that a line of the shared
loggers tells whose it is.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import trio

from gossipnode.log import printable, short

whose: ContextVar[str] = ContextVar("whose", default="-")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        try:
            now = f"{trio.current_time():12.3f}"
        except RuntimeError:  # before the simulation, or after it
            now = f"{'-':>12}"
        text = printable(record.getMessage())
        line = f"{now} {whose.get():<9} {record.levelname.lower():<8} {short(record.name)}: {text}"
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


@contextlib.contextmanager
def logged(level: str | None) -> Iterator[None]:
    """While in it, lines of that level and above go to stderr; None: nothing does but errors of our own."""
    handler, root = logging.StreamHandler(sys.stderr), logging.getLogger()
    handler.setFormatter(_Line())
    handler.setLevel((level or "critical").upper())
    before = root.level
    root.addHandler(handler)
    root.setLevel(handler.level if level else before)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
