"""What must hold in a swarm that trains by gossip, one invariant a class (`gossipnode.checkers` says how they look)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gossipnode.checkers import Checker, Finding, Seen, World, common_checkers, finding
from protocols.gossip.conversation import Gossip
from protocols.gossip.neighbours import KEPT
from protocols.learner import Unfit
from verify.digest import Digest

STARVED: Final = 30  # trainings without a merge, while another node has done as many

Check = Callable[[bytes], float]  # of a blob; raises Unfit


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
            if newest is not None and any(seen.blobs.size(piece) is None for piece in newest.pieces):
                yield finding(self, world, gossip.round, [seen.name], "it offers a piece that nobody can fetch")


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


class SoundOffers:
    """What an honest node offers is a model of the run, and finite."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._sound: set[Digest] = set()

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            newest = gossip_of(seen).trainer.newest
            blob = None if newest is None or newest.model in self._sound else seen.blobs.peek(Digest(newest.model))
            if newest is None or blob is None:
                continue
            try:
                self._check(blob)
                self._sound.add(Digest(newest.model))
            except Unfit as error:
                yield finding(self, world, newest.age, [seen.name], f"offers what nobody can use: {error}")


class OneOfEachOrigin:
    """No merge has two models of one origin, nor more of others than the manifest says."""

    def look(self, world: World) -> Iterator[Finding]:
        most = {seen.name: seen.node.parts.manifest.gossip.neighbours for seen in world.nodes}
        for belief in world.news:
            origins = belief.made.trainers
            if len(set(origins)) < len(origins) or len(origins) > 1 + most.get(belief.node, len(origins)):
                yield finding(self, world, belief.made.round, [belief.node], f"merged models of {', '.join(origins)}")


@dataclass(frozen=True, slots=True)
class Fed:
    """When a life last merged: its merges and age, and everybody's age."""

    merges: int
    age: int
    ages: dict[tuple[str, int], int]


class NobodyStarves:
    """Who trains merges too, as long as there is anybody to merge with and no fault for longer than that takes."""

    def __init__(self) -> None:
        self._fed: dict[tuple[str, int], Fed] = {}

    def look(self, world: World) -> Iterator[Finding]:
        ages = {(seen.name, seen.life): int(gossip_of(seen).round) for seen in world.nodes}
        for seen in world.nodes:
            life, merges = (seen.name, seen.life), gossip_of(seen).trainer.counts.merges
            fed = self._fed.get(life)
            if fed is None or fed.merges != merges or world.calm_s == 0:
                self._fed[life] = Fed(merges, ages[life], ages)
            elif ages[life] - fed.age >= STARVED and _company(seen, fed, ages):
                text = f"{ages[life] - fed.age} trainings without a merge"
                yield finding(self, world, ages[life], [seen.name], text)


def _company(seen: Seen, fed: Fed, ages: dict[tuple[str, int], int]) -> bool:
    """As many others as a merge needs have trained as much meanwhile."""
    others = sum(age - fed.ages.get(life, age) >= STARVED for life, age in ages.items() if life[0] != seen.name)
    return others >= max(1, 2 * seen.node.parts.manifest.merging.byzantine)


def gossip_checkers(progress_s: float, check: Check | None = None) -> list[Checker]:
    """`check`: of the task's blobs."""
    sound = [SoundOffers(check)] if check is not None else []
    own: list[Checker] = [AgeGrows(), OffersHeld(), BoundedSets(), OneOfEachOrigin(), NobodyStarves(), *sound]
    return [*own, *common_checkers(progress_s)]
