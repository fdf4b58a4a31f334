"""When it is whose turn: the deadline is learned, and a block of rank r counts r deadlines after its parent came.

The deadline is learned from how long half of the seats need to be heard on a new tip: not from all, nor two thirds, so
that a hostile third of the members cannot stretch it though chance gives it more seats now and then; and not from the
blocks, whose proposers wait for it themselves. Of the last few such times the median counts: where messages are lost,
the longest contain our own waiting, and learning from them would make us wait longer and longer. Pure: the time is an
argument.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from statistics import median

from protocols.chain.forks import Node
from protocols.chain.tree import Chain
from sampling.patience import Patience
from verify.digest import Digest

FIRST_STEP_S = 5.0  # patience before any step has been measured
STRETCH = 2.0  # a duration counts for no more than so many deadlines: a machine that slept must not teach us to wait
EARLIER = 0.1  # of a deadline: an honest proposer whose parent came a little earlier must not wait for us
MEDIAN_OF = 9
OPEN = 8  # newest tips whose entries are still being timed


class Pace:
    def __init__(self, floor_s: float, ceiling_s: float) -> None:
        self._patience = Patience(floor_s, ceiling_s, FIRST_STEP_S)
        self._came: dict[Digest, float] = {}
        self._times: deque[float] = deque(maxlen=MEDIAN_OF)
        self._open: list[Node] = []
        self._ripening: list[tuple[float, Digest]] = []

    @property
    def deadline_s(self) -> float:
        return self._patience.deadline_s

    def came_at(self, node: Node) -> float:
        """Long ago, if it was read back from a journal."""
        return self._came.get(node.digest, -math.inf)

    def came(self, node: Node, now: float, *, live: bool) -> bool:
        """A block exists here. True if its turn has come; else `due` tells when. `live`: it is news, not the past."""
        self._came[node.digest] = now
        if live and node.rank == 0:  # others may wait, by their deadline, before they follow one of a later rank
            self._open = [*self._open[1 - OPEN :], node]
        before = self.came_at(node.parent) if node.parent is not None else -math.inf
        ripe_at = before + (node.rank - EARLIER) * self.deadline_s
        if node.rank == 0 or ripe_at <= now:
            return True
        heapq.heappush(self._ripening, (ripe_at, node.digest))
        return False

    def next_s(self) -> float:
        return self._ripening[0][0] if self._ripening else math.inf

    def due(self, now: float) -> list[Digest]:
        """Blocks whose turn has come."""
        found = []
        while self._ripening and self._ripening[0][0] <= now:
            found.append(heapq.heappop(self._ripening)[1])
        return found

    def look(self, chain: Chain, now: float) -> None:
        """Has another tip been heard of by half of its seats?"""
        for node in list(self._open):
            heard = sum(entry.base == node.digest for entry in chain.countable(node))
            if 2 * heard >= len(node.state.seats):
                self._times.append(min(now - self.came_at(node), STRETCH * self.deadline_s))
                self._patience.heard(median(self._times))
                self._open.remove(node)

    def forget(self, chain: Chain) -> None:
        """What the chain does not hold any more."""
        self._came = {block: at for block, at in self._came.items() if chain.node(block) is not None}
        self._open = [node for node in self._open if node.digest in self._came]
