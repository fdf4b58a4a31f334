"""What must hold in a swarm that trains by gossip, one invariant a class (`gossipnode.checkers` says how they look)."""

from __future__ import annotations

from collections.abc import Iterator

from gossipnode.checkers import Checker, Finding, Seen, World, common_checkers, finding
from protocols.gossip.conversation import Gossip
from protocols.gossip.neighbours import KEPT


def gossip_of(seen: Seen) -> Gossip:
    assert isinstance(seen.node.protocol, Gossip)
    return seen.node.protocol


class AgeGrows:
    """In one life a node's age never falls."""

    def __init__(self) -> None:
        self._ages: dict[tuple[str, int], int] = {}

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            age, life = gossip_of(seen).round, (seen.name, seen.life)
            before = self._ages.get(life, 0)
            self._ages[life] = age
            if age < before:
                yield finding(self, world, age, [seen.name], f"its age fell from {before}")


class OffersHeld:
    """Whatever a node offers, and whatever its checkpoint names, is in its store."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            gossip = gossip_of(seen)
            newest, held = gossip.trainer.newest, gossip.held
            named = [each.model for each in (newest, held) if each is not None]
            if not all(model in seen.blobs for model in named):
                yield finding(self, world, gossip.round, [seen.name], "it offers a model that it does not have")


class BoundedSets:
    """Who is remembered, and what waits, stays within its limits."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            gossip = gossip_of(seen)
            most = seen.node.parts.manifest.gossip.neighbours
            for what, size, limit in (
                ("neighbours", len(gossip.neighbours), KEPT),
                ("models waiting", len(gossip.inbox), most),
            ):
                if size > limit:
                    yield finding(self, world, gossip.round, [seen.name], f"{what}: {size}, the limit is {limit}")


def gossip_checkers(progress_s: float) -> list[Checker]:
    return [AgeGrows(), OffersHeld(), BoundedSets(), *common_checkers(progress_s)]
