"""What must hold in a swarm of one-byte training, one invariant a class (`gossipnode.checkers` says how they look).

Tips move all the time, and where messages are lost the newest few blocks differ from node to node at almost every
moment. So while training goes on it is branches that are compared, below the newest blocks; that all stand on one tip
with one A is asked for when the last step is over, by the simulation. Certified blocks are compared at all times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from gossipnode.branches import Branches
from gossipnode.checkers import SETTLED_S, Checker, Finding, Seen, World, common_checkers, finding
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Accumulated
from protocols.chain import limits
from protocols.chain.messages import Entry
from protocols.chain.rules import Rules
from protocols.onebyte.book import Book
from protocols.onebyte.conversation import OneByte
from sampling.peers import PeerId
from verify.digest import Digest, digest_of, short

FORKS: Final = 4  # blocks held of one height, on average: more are made only where proposers equivocate
FEW: Final = 200  # entries, of which no share is judged yet
SUMS_KEPT: Final = 64  # blocks whose A is remembered


def onebyte_of(seen: Seen) -> OneByte:
    assert isinstance(seen.node.protocol, OneByte)
    return seen.node.protocol


def book_of(seen: Seen) -> Book:
    return onebyte_of(seen).book


class CertifiedStays:
    """No node leaves what is certified there: neither its certified checkpoint nor its tip, in any of its lives."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._newest: dict[str, tuple[int, int, Digest]] = {}  # by machine: in which life, height, block

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            book = book_of(seen)
            certified, (life, height, block) = book.chain.certified, self._before(seen)
            if seen.life == life and certified.height < height:
                yield self._left(
                    world, seen, height, f"is certified up to height {certified.height} only, after {height}"
                )
            for what, digest in (("tip", book.tip.digest), ("certified block", certified.digest)):
                if self._branches.at(digest, height) not in (None, block):
                    yield self._left(world, seen, height, f"its {what} has left what it had certified, {short(block)}")
            if certified.height >= height:
                self._newest[seen.name] = seen.life, certified.height, certified.digest

    def _before(self, seen: Seen) -> tuple[int, int, Digest]:
        return self._newest.get(seen.name, (seen.life, 0, self._branches.genesis))

    def _left(self, world: World, seen: Seen, height: int, what: str) -> Finding:
        return finding(self, world, height, [seen.name], what)


class OneHistory:
    """No two nodes ever certify checkpoints that are not on one branch."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._certified: dict[int, tuple[Digest, str]] = {}  # by height: the block, and who was first

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            certified = book_of(seen).chain.certified
            block, first = self._certified.setdefault(certified.height, (certified.digest, seen.name))
            if block == certified.digest and first != seen.name:
                continue  # it was compared with the others when the first one had it
            for height, (other, name) in self._certified.items():
                higher, lower = (certified.digest, other) if certified.height >= height else (other, certified.digest)
                if self._branches.at(higher, min(height, certified.height)) not in (None, lower):
                    text = f"{short(other)} and {short(certified.digest)} are both certified"
                    yield finding(self, world, certified.height, [name, seen.name], text)


class OneBranch:
    """Nodes that have long been able to hear each other differ in the newest blocks only: no deeper below the lowest
    of their tips than an entry may lie below the block that counts it."""

    def __init__(self, branches: Branches, rules: Rules) -> None:
        self._branches, self._depth = branches, rules.window
        self._since_s: float | None = None

    def look(self, world: World) -> Iterator[Finding]:
        tips = {seen.name: book_of(seen).tip for seen in world.nodes}
        height = max(0, min((tip.height for tip in tips.values()), default=0) - self._depth)
        there = {name: self._branches.at(tip.digest, height) for name, tip in tips.items()}
        parted = set(there.values()) - {None}
        if len(parted) <= 1:
            self._since_s = None
            return
        self._since_s = world.now_s if self._since_s is None else self._since_s
        if min(world.calm_s, world.now_s - self._since_s) >= SETTLED_S:
            yield finding(self, world, height, there, f"{len(parted)} branches part below height {height}")
            self._since_s = world.now_s


class ExactA:
    """A of every learner is what the chain says: the sum over all blocks up to the one it is at, computed anew."""

    def __init__(self, branches: Branches) -> None:
        self._branches, self._host = branches, Host()
        self._sums: dict[Digest, Accumulated] = {}
        self._digests: dict[Digest, Digest] = {}

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            at = onebyte_of(seen).follower.at
            if at is None or seen.a is None or (expected := self._digest(at, seen)) is None:
                continue
            if seen.a != expected:
                height = self._branches.height(at)
                text = f"A at height {height} is {short(seen.a)}, the chain makes it {short(expected)}"
                yield finding(self, world, height, [seen.name], text)

    def _digest(self, block: Digest, seen: Seen) -> Digest | None:
        """None: some of the blocks below were never seen."""
        if block not in self._digests:
            path = self._branches.path(block, self._sums)
            if path is None:
                return None
            below, steps = path
            a = self._sums[below].copy() if below in self._sums else self._zero(seen)
            for seeds, coefficients in steps:
                self._host.add(a, seeds, coefficients)
            self._sums[block], self._digests[block] = a, digest_of(a.astype("<i4").tobytes())
            for old in list(self._sums)[:-SUMS_KEPT]:
                del self._sums[old]
        return self._digests[block]

    def _zero(self, seen: Seen) -> Accumulated:
        return np.zeros(seen.node.parts.manifest.model_bytes // 4, dtype=np.int32)


class BoundedBook:
    """What a node keeps of the chain is bounded: what waits by its limits, the rest by the blocks above what is
    certified."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            book = book_of(seen)
            heights = book.tip.height - book.chain.certified.height + 2 * self._rules.epoch
            blocks = FORKS * heights
            most = blocks, blocks * 2 * self._rules.seats, 2 * limits.BLOCKS_WAITING, limits.ENTRIES_WAITING
            names = "blocks", "entries", "blocks that wait", "entries that wait"
            for what, size, limit in zip(names, book.chain.sizes(), most, strict=True):
                if size > limit:
                    yield finding(self, world, book.tip.height, [seen.name], f"{what}: {size}, the limit is {limit}")


class FewVoid:
    """Of what honest nodes signed while nothing disturbed them, at most a stated share counts for nothing in the
    certified history. What a fault may have made void, one branch of a partition say, is not judged."""

    def __init__(self, branches: Branches, rules: Rules, most: float) -> None:
        self._branches, self._window, self._most = branches, rules.window, most
        self._open: list[Entry] = []
        self._counted: set[tuple[PeerId, int]] = set()
        self._upto = 0
        self.judged = 0
        self.void = 0

    def look(self, world: World) -> Iterator[Finding]:
        if world.calm_s < SETTLED_S and world.calm_since_s != 0.0:  # 0: there was none yet
            self._open.clear()
            return
        self._open += [entry for seen in world.nodes for entry in seen.entries]
        newest = max(
            (book_of(seen).chain.certified for seen in world.nodes), key=lambda node: node.height, default=None
        )
        if newest is None or newest.height <= self._upto:
            return
        self._counted |= self._branches.counted(newest.digest, self._upto)
        self._upto = newest.height
        decided = [entry for entry in self._open if entry.height - 1 + self._window <= self._upto]
        self._open = [entry for entry in self._open if entry.height - 1 + self._window > self._upto]
        self.judged += len(decided)
        self.void += sum((entry.origin, entry.height) not in self._counted for entry in decided)
        if self.judged >= FEW and self.void > self._most * self.judged:
            share = f"{self.void} of {self.judged} entries count for nothing, more than {self._most:.1%}"
            yield finding(self, world, self._upto, [], share)


def chain_checkers(branches: Branches, rules: Rules, progress_s: float) -> list[Checker]:
    """But for FewVoid. `branches` is to be told of every block that any node follows."""
    return [
        CertifiedStays(branches),
        OneHistory(branches),
        OneBranch(branches, rules),
        ExactA(branches),
        BoundedBook(rules),
        *common_checkers(progress_s),
    ]
