"""How good the swarm's model was after each round, and what it had cost by then.

Measured from outside, without a byte or a virtual second of the swarm's: each round's aggregate is taken from whoever
holds it first and evaluated on the held-out data of a fixed node. Equal models are evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence

from gossipnode.compute.inline import InlineSwarm
from gossipnode.curves import Point
from gossipnode.learn.shard import Shard
from gossipnode.members import Member
from protocols.messages import Aggregate
from verify.digest import Digest


class Curve:
    def __init__(self, compute: InlineSwarm, shards: Sequence[Shard]) -> None:
        """`shards`: of the fixed nodes."""
        self.points: list[Point] = []
        self._compute = compute
        self._data = [compute.engine.data(shard) for shard in shards]

    def add(self, aggregate: Aggregate, now_s: float, wire_bytes: int, members: Sequence[Member]) -> None:
        blob = _found(Digest(aggregate.model), members)
        accuracy = None if blob is None else self._accuracy(Digest(aggregate.model), blob)
        self.points.append(Point(round=aggregate.round, virtual_s=now_s, wire_bytes=wire_bytes, accuracy=accuracy))

    def _accuracy(self, model: Digest, blob: bytes) -> float:
        found = [self._compute.evaluate(model, blob, data)["accuracy"] for data in self._data]
        return sum(found) / len(found)


def _found(model: Digest, members: Sequence[Member]) -> bytes | None:
    return next((blob for member in members if (blob := member.blobs.peek(model)) is not None), None)
