"""Which block is the tip: LMD-GHOST (arXiv 2003.03052, section 4) over the blocks that are held, kept up to date vote
by vote. A block's weight is the number of electors whose latest vote lies in its subtree; from the highest justified
checkpoint the heaviest child is followed, of equally heavy ones that of lower rank, then of lower digest.

Speed, length and the number of bytes buy nothing. Who was caught signing twice weighs nothing. A vote that moves up
its branch costs as many additions as it moves blocks, a new tip costs one step; only a checkpoint costs a full count.
"""

from __future__ import annotations

from protocols.chain.messages import Block, Entry
from protocols.chain.state import State
from sampling.peers import PeerId
from verify.digest import Digest


class Node:
    """A block that is held with its entries and ancestors. `block` is None at genesis and where a snapshot began."""

    __slots__ = (
        *("best", "block", "children", "digest", "entries"),
        *("early", "height", "live", "parent", "rank", "state", "weight"),
    )

    def __init__(
        self, digest: Digest, state: State, parent: Node | None, block: Block | None, entries: tuple[Entry, ...]
    ) -> None:
        self.digest, self.state, self.parent, self.block, self.entries = digest, state, parent, block, entries
        self.height = state.height
        self.rank = block.head.rank if block is not None else 0
        self.children: list[Node] = []
        self.weight = 0
        self.best: Node | None = None
        self.early = self.rank > 0  # not followed for being there, until its turn has come
        self.live: bool = parent is None or parent.live  # descends from the root of the choice

    def __repr__(self) -> str:
        return f"Node({self.height}, {self.digest.hex()[:8]}, weight {self.weight})"


class Forks:
    def __init__(self, root: Node, electors: frozenset[PeerId]) -> None:
        self._votes: dict[PeerId, dict[int, Node]] = {}  # by the height of the entry
        self._latest: dict[PeerId, tuple[int, Node]] = {}
        self._banned: set[PeerId] = set()
        self.reroot(root, electors)

    # -- what changes it ------------------------------------------------------------------------------------------

    def add(self, node: Node) -> None:
        assert node.parent is not None
        node.parent.children.append(node)
        self._compare(node)

    def vote(self, peer: PeerId, height: int, node: Node) -> None:
        self._votes.setdefault(peer, {})[height] = node
        at, before = self._latest.get(peer, (-1, None))
        if height <= at or not node.live or peer in self._banned or peer not in self._electors:
            return
        self._latest[peer] = height, node
        self._move(before, node)

    def ripen(self, node: Node) -> None:
        node.early = False
        self._compare(node)

    def ban(self, peer: PeerId) -> None:
        self._banned.add(peer)
        _, before = self._latest.pop(peer, (0, None))
        self._move(before, None)

    def justify(self, node: Node) -> None:
        """The choice starts from the highest justified checkpoint, of two of one height that of lower digest: whoever
        voted for it has no vote on a branch without it."""
        mark = node.state.finality.justified
        if (mark.height, self._start.digest) > (self._start.height, mark.block):
            self.start(ancestor(node, mark.height))

    def start(self, node: Node) -> None:
        assert node.live
        self._start = node
        self._path = []
        step: Node | None = node
        while step is not None and step is not self._root:
            self._path.append(step)
            step = step.parent
        self._path.append(self._root)
        self._path.reverse()

    def reroot(self, root: Node, electors: frozenset[PeerId]) -> None:
        """At a newly certified checkpoint: forget the branches that leave it, and count anew."""
        self._root, self._electors = root, electors
        top = root
        while top.parent is not None:
            top = top.parent
        for node in subtree(top):
            node.live, node.weight, node.best = False, 0, None
        for node in subtree(root):
            node.live = True
        self._latest = {}
        for peer, votes in self._votes.items():
            live = [height for height, node in votes.items() if node.live]
            if live and peer in electors and peer not in self._banned:
                self._latest[peer] = max(live), votes[max(live)]
        for _, node in self._latest.values():
            self._lift(node)
        for node in subtree(root):
            node.best = self._heaviest(node.children)
        self.start(root)

    def forget_dead(self) -> None:
        """Votes for blocks that are being dropped."""
        for peer, votes in list(self._votes.items()):
            self._votes[peer] = {height: node for height, node in votes.items() if node.live}
            if not self._votes[peer]:
                del self._votes[peer]

    # -- what it says ---------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        return self._root

    @property
    def tip(self) -> Node:
        tip = self._path[-1]
        while tip.best is not None:
            tip = tip.best
            self._path.append(tip)
        return tip

    def path(self) -> list[Node]:
        """From the root to the tip, both included. Not to be changed."""
        assert self.tip is self._path[-1]
        return self._path

    def on_path(self, node: Node) -> bool:
        index = node.height - self._root.height
        return 0 <= index < len(self._path) and self._path[index] is node

    # -- weights --------------------------------------------------------------------------------------------------

    def _move(self, before: Node | None, after: Node | None) -> None:
        """Take a vote from one block's ancestry and give it to another's, down to where the two meet."""
        while before is not after:
            if after is not None and (before is None or after.height > before.height):
                after.weight += 1
                self._compare(after)
                after = self._below(after)
            else:
                assert before is not None
                before.weight -= 1
                self._compare(before)
                before = self._below(before)

    def _heaviest(self, children: list[Node]) -> Node | None:
        """Of those whose turn has come, or which more than a third voted for: somebody honest has waited for it."""
        ready = [child for child in children if not child.early or 3 * child.weight > len(self._electors)]
        return max(ready, key=_merit) if len(ready) > 1 else next(iter(ready), None)

    def _below(self, node: Node) -> Node | None:
        return None if node is self._root else node.parent

    def _lift(self, node: Node) -> None:
        step: Node | None = node
        while step is not None:
            step.weight += 1
            step = self._below(step)

    def _compare(self, node: Node) -> None:
        """Its weight has changed: is it, or is it no more, the best child? Where it changes, the path is cut."""
        parent = node.parent
        if parent is None or node is self._root or not node.live:
            return
        best = self._heaviest(parent.children)
        if best is not parent.best:
            parent.best = best
            if parent.height >= self._start.height and self.on_path(parent):
                del self._path[parent.height - self._root.height + 1 :]


def ancestor(node: Node, height: int) -> Node:
    while node.height > height:
        assert node.parent is not None, "it lies below what is kept"
        node = node.parent
    return node


def subtree(root: Node) -> list[Node]:
    found = [root]
    for node in found:
        found.extend(node.children)
    return found


def _merit(node: Node) -> tuple[int, int, bytes]:
    return node.weight, -node.rank, bytes(255 - byte for byte in node.digest)
