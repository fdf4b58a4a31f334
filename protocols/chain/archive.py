"""What of the past a node keeps: the records of checkpoints whose A it knows, and the certificates a joiner needs.

A certificate is made when a checkpoint is certified, from blocks that are then still held; one that changed nothing in
who may vote is replaced by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocols.chain.checkpoints import Certificate, Snapshot, checkpoint_id, checkpoint_of, members_of
from protocols.chain.forks import Node, ancestor
from protocols.chain.messages import Entry, Vote
from protocols.chain.rules import Rules
from verify.digest import Digest

_NO_MODEL: Final = Digest(bytes(32))  # A at height 0 is all zeros: nobody needs its digest


class Archive:
    def __init__(self, rules: Rules, run: bytes, root: Node, snapshot: Snapshot | None) -> None:
        self._rules = rules
        self.floor = root  # the lowest block that is held
        self._certificates = list(snapshot.certificates) if snapshot is not None else []
        self._due: list[tuple[Node, Node]] = []  # certified checkpoint, and the block that certified it
        self._from = root  # where the departures of the next certificate begin: the neighbour of the last
        self._whole = True  # no certificate was passed over
        self._state = root.state
        if snapshot is None:
            first = checkpoint_of(root.state, Digest(run), _NO_MODEL)
            self.known = {root.digest: first}
        else:
            newest = snapshot.certificates[-1]
            self.known = {Digest(each.block): each for each in (newest.checkpoint, newest.child)}

    def settle(self, node: Node, model: Digest) -> None:
        if not self._rules.is_checkpoint(node.height) or node.height - self._rules.epoch < self.floor.height:
            return
        previous = self.known.get(ancestor(node, node.height - self._rules.epoch).digest)
        if previous is not None:
            self.known[node.digest] = checkpoint_of(node.state, checkpoint_id(previous), model)

    def certify(self, certified: Node, by: Node) -> None:
        self._due.append((certified, by))

    def snapshot(self) -> Snapshot | None:
        self.write()
        return Snapshot(tuple(self._certificates), self._state) if self._certificates and self._whole else None

    def write(self) -> None:
        """Certificates of what was certified since, as far as A is known there: the rest waits, in order."""
        while self._due:
            certified, by = self._due[0]
            certificate = self._certificate(certified, by)
            if certificate is None:
                return
            self._due.pop(0)
            if self._certificates and _changed_nothing(self._certificates):
                self._certificates.pop()
            self._certificates.append(certificate)
            self._state = certified.state
            self._from = ancestor(by, certified.height + self._rules.epoch)

    def may_forget(self, applied: Node) -> bool:
        """Not before the certificates are written; but a node that does not know A at a checkpoint it has passed never
        will: it goes on without, and leaves snapshots to others."""
        self.write()
        if self._due and applied.height < self._due[-1][1].height:
            return False
        self._whole = self._whole and not self._due
        self._due.clear()
        return True

    def forget(self, kept: dict[Digest, Node], root: Node) -> None:
        self.floor = root
        self.known = {block: record for block, record in self.known.items() if block in kept}

    def _certificate(self, certified: Node, by: Node) -> Certificate | None:
        child = ancestor(by, certified.height + self._rules.epoch)
        record, next_record = self.known.get(certified.digest), self.known.get(child.digest)
        if record is None or next_record is None:
            return None
        vote = Vote(certified.height, child.height, checkpoint_id(next_record))
        votes: dict[str, Entry] = {e.origin: e for node in _between(child, by) for e in node.entries if e.vote == vote}
        changes = [node.block.changes for node in _between(self._from, child) if node.block is not None]
        leaves = {leave.peer: leave for each in changes for leave in each.leaves}
        expulsions = tuple(proof for each in changes for proof in each.expulsions)
        members = members_of(certified.state)
        return Certificate(record, next_record, tuple(votes.values()), members, tuple(leaves.values()), expulsions)


def _between(lower: Node, upper: Node) -> Iterator[Node]:
    step: Node | None = upper
    while step is not None and step.height > lower.height:
        yield step
        step = step.parent


def _changed_nothing(certificates: list[Certificate]) -> bool:
    """The last one has the members of the one before, and nobody has departed: what comes next stands without it."""
    last = certificates[-1]
    if last.leaves or last.expulsions or len(certificates) < 2:
        return False
    return last.members == certificates[-2].members
