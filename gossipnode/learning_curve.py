"""How good the swarm's model was after each round, and what it had cost by then.

Measured from outside, without a byte or a virtual second of the swarm's, on the held-out data of a fixed node: each
round's aggregate, from whoever holds it first; or A of whoever follows a step first. In gossip no two nodes have the
same model: then it is the mean over some of them, as they are when the first one has trained so often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossipnode.compute.inline import InlineSwarm
from gossipnode.curves import Point
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import Data
from gossipnode.members import Member
from gossipnode.trainings import Finished
from protocols.gossip.conversation import Gossip
from verify.digest import Digest

SOME = 8  # nodes whose models are measured


class Curve:
    def __init__(self, compute: InlineSwarm, shards: Sequence[Shard]) -> None:
        """`shards`: of the fixed nodes."""
        self.points: list[Point] = []
        self._compute = compute
        self._data = [compute.engine.data(shard) for shard in shards]

    def add(self, made: Finished, by: Member, now_s: float, wire_bytes: int, members: Sequence[Member]) -> None:
        """`by`: who came to believe it just now."""
        if isinstance(by.node.protocol, Gossip):
            accuracy = self._of_many([member for member in members if member.alive and member.honest])
        elif by.node.protocol.chain is not None:
            accuracy = self._of_sum(by)
        else:
            accuracy = self._of_model(made.digest, members)
        self.points.append(Point(round=made.round, virtual_s=now_s, wire_bytes=wire_bytes, accuracy=accuracy))

    def _of_sum(self, by: Member) -> float:
        return self._mean(lambda data: self._compute.score(by.learner.a, data))

    def _of_model(self, model: Digest | None, members: Sequence[Member]) -> float | None:
        if model is None:
            return None
        blob = next((blob for member in members if (blob := member.blobs.peek(model)) is not None), None)
        return None if blob is None else self._mean(lambda data: self._compute.evaluate(model, blob, data))

    def _of_many(self, members: Sequence[Member]) -> float | None:
        some = members[:: max(1, len(members) // SOME)][:SOME]
        found = [each for member in some if (each := self._of_model(member.node.protocol.model, [member])) is not None]
        return sum(found) / len(found) if found else None

    def _mean(self, measured: Callable[[Data], dict[str, float]]) -> float:
        found = [measured(data)["accuracy"] for data in self._data]
        return sum(found) / len(found)
