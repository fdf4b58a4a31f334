"""What peers do wrong below the seam: counted, reported upwards by kind, and logged in one line without a stack trace.

The transport judges nobody; it says who did what. A log line for the same peer and kind appears at most once in
REPEAT_S, so that a peer which floods us cannot flood the log.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Literal

import trio

from protocols import limits
from sampling.peers import PeerId

log = logging.getLogger("gossipnode.net")

Kind = Literal["garbage", "oversize-gossip", "flood"]
OnFault = Callable[[PeerId | None, str], None]

REPEAT_S: Final = 10.0
REMEMBERED: Final = 1024  # (peer, kind) pairs whose last line we remember; four kinds for every link


class Faults:
    def __init__(self, on_fault: OnFault | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._on_fault = on_fault
        self._said: OrderedDict[tuple[PeerId | None, str], float] = OrderedDict()

    def note(self, peer: PeerId | None, kind: Kind, detail: object) -> None:
        self.counts[kind] += 1
        if self._is_new(peer, kind):
            log.info("%s from %s: %s", kind, peer or "an unknown peer", one_line(detail))
        if self._on_fault is not None:
            self._on_fault(peer, kind)

    def _is_new(self, peer: PeerId | None, kind: str) -> bool:
        now, key = trio.current_time(), (peer, kind)
        if now - self._said.get(key, float("-inf")) < REPEAT_S:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return True


def one_line(detail: object) -> str:
    """An exception by its type and text, anything else as it is; printable, and no longer than a log line bears."""
    text = f"{type(detail).__name__} {detail}" if isinstance(detail, BaseException) else str(detail)
    return "".join(c if c.isprintable() else " " for c in text).strip()[: limits.DETAIL_CHARS]
