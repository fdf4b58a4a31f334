"""Every block that any node of a simulated swarm has followed, as an onlooker remembers it after they have forgotten.

Nodes keep what lies above their certified checkpoint; who compares their histories needs the rest too. Invariant: a
block is remembered once, as the first node had it: what it does to A follows from its digest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocols.chain.draws import genesis
from protocols.chain.forks import Node
from protocols.chain.plan import step_of
from protocols.chain.rules import Rules
from protocols.onebyte.conversation import OneByte
from protocols.training import Training
from sampling.peers import PeerId
from verify.digest import Digest

Sums = tuple[NDArray[np.uint64], NDArray[np.int64]]  # seeds and coefficients


class _Seen(NamedTuple):
    height: int
    parent: Digest
    sums: Sums
    counted: frozenset[tuple[PeerId, int]]  # origins and heights


class Branches:
    def __init__(self, rules: Rules, run: bytes) -> None:
        self.genesis = genesis(run)
        self._rules, self._run = rules, run
        self._blocks: dict[Digest, _Seen] = {}

    def learn(self, protocol: Training) -> None:
        """The branch that this node follows. To be told whenever it follows another block: later it may have
        forgotten."""
        assert isinstance(protocol, OneByte)
        node: Node | None = protocol.book.tip
        while node is not None and node.parent is not None and node.digest not in self._blocks:
            self._blocks[node.digest] = self._seen(node, node.parent)
            node = node.parent

    def _seen(self, node: Node, parent: Node) -> _Seen:
        updates = step_of(node, self._rules, self._run).updates
        seeds = np.array([update.seed for update in updates], dtype=np.uint64)
        coefficients = np.array([update.coefficient for update in updates], dtype=np.int64)
        counted = frozenset((entry.origin, entry.height) for entry in node.entries)
        return _Seen(node.height, parent.digest, (seeds, coefficients), counted)

    def height(self, block: Digest) -> int:
        return self._blocks[block].height if block in self._blocks else 0

    def at(self, block: Digest, height: int) -> Digest | None:
        """The ancestor of that height, or the block itself; None if it is lower, or what is between was never seen."""
        while (seen := self._blocks.get(block)) is not None and seen.height > height:
            block = seen.parent
        found = self.height(block) if seen is not None or block == self.genesis else None
        return block if found == height else None

    def path(self, block: Digest, known: Collection[Digest]) -> tuple[Digest, list[Sums]] | None:
        """From the newest ancestor that is `known`, or from the beginning: what the blocks after it add, in order."""
        sums = []
        while block not in known and block != self.genesis:
            if (seen := self._blocks.get(block)) is None:
                return None
            sums.append(seen.sums)
            block = seen.parent
        return block, sums[::-1]

    def counted(self, block: Digest, above: int) -> set[tuple[PeerId, int]]:
        """Whose entries of which heights count in the blocks up to this one, those up to height `above` left out."""
        found = set[tuple[PeerId, int]]()
        while (seen := self._blocks.get(block)) is not None and seen.height > above:
            found |= seen.counted
            block = seen.parent
        return found
