"""What must hold in a swarm that trains by MoDeST, one invariant a class (`gossipnode.checkers` says how they look)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gossipnode.checkers import SETTLED_S, Checker, Finding, Seen, World, common_checkers, finding
from gossipnode.node import Node
from gossipnode.trainings import Finished
from protocols import limits
from protocols.aggregator import OPEN_COLLECTIONS
from protocols.head import Head
from protocols.messages import Aggregate
from protocols.modest import Modest
from sampling.peers import PeerId, Round
from verify.digest import Digest, short

MOST_NEEDED: Final = 2  # models of any quorum whose patience is over


def head_of(node: Node) -> Head:
    return _modest(node).head


def known_of(seen: Seen) -> Aggregate:
    return head_of(seen.node).known


def _modest(node: Node) -> Modest:
    assert isinstance(node.protocol, Modest)
    return node.protocol


def _held_round(seen: Seen) -> int:
    held = head_of(seen.node).held
    return held.round if held is not None else -1


def convicted(nodes: Iterable[Seen]) -> frozenset[Digest]:
    """Aggregates that each of them knows to be wrong."""
    protocols = [seen.node.protocol for seen in nodes]
    judged = [each.auditor.judgement for each in protocols if isinstance(each, Modest)]
    found = [frozenset(Digest(each.model) for each in judgement.wrong.values()) for judgement in judged]
    return frozenset.intersection(*found) if found else frozenset()


class OneAggregateARound:
    """What honest nodes believe of one round is the same model, once the faults that may divide them have settled."""

    def __init__(self) -> None:
        self._believed: dict[Round, dict[Digest, str]] = {}  # and who was the first to

    def look(self, world: World) -> Iterator[Finding]:
        if world.calm_s < SETTLED_S:
            self._believed.clear()
            return
        for belief in world.news:
            round, model = Round(belief.made.round), belief.made.digest
            models = self._believed.setdefault(round, {})
            models.setdefault(model, belief.node)
            if len(models) == 2:
                texts = " and ".join(short(each) for each in models)
                yield finding(self, world, round, models.values(), f"two aggregates are believed: {texts}")


class NoForkRemains:
    """Nodes that have long been able to hear each other are on one branch: equal rounds, equal models."""

    def __init__(self) -> None:
        self._since: dict[tuple[Round, frozenset[Digest]], float] = {}

    def look(self, world: World) -> Iterator[Finding]:
        at: dict[Round, dict[Digest, list[str]]] = {}
        for seen in world.nodes:
            at.setdefault(known_of(seen).round, {}).setdefault(Digest(known_of(seen).model), []).append(seen.name)
        forks = {(round, frozenset(models)): models for round, models in at.items() if len(models) > 1}
        self._since = {fork: self._since.get(fork, world.now_s) for fork in forks}
        for fork, models in forks.items():
            if min(world.calm_s, world.now_s - self._since[fork]) >= SETTLED_S:
                names = [name for each in models.values() for name in each]
                sizes = ", ".join(f"{short(model)} at {len(each)}" for model, each in models.items())
                yield finding(self, world, fork[0], names, f"a fork remains: {sizes}")


class Quorum:
    """No aggregate is believed that fewer models made than its quorum: never one model where more peers are known."""

    def look(self, world: World) -> Iterator[Finding]:
        nodes = {seen.node.parts.desk.me: seen for seen in world.nodes}
        for belief in world.news:
            made = belief.made
            if made.round == 0:
                continue  # nobody made theta0; it is gone back to when all that was made of it is lost
            models = len(set(made.trainers))
            if models < MOST_NEEDED and models < self._needed(made, nodes, len(world.nodes)):
                text = f"{len(made.trainers)} models made it, {len(set(made.aggregators))} aggregators"
                yield finding(self, world, made.round, [belief.node], text)

    def _needed(self, made: Finished, nodes: Mapping[PeerId, Seen], living: int) -> int:
        """As `protocols.collection.quorum` has it where patience is over; of its maker's candidates, if it lives."""
        makers = [nodes[peer] for peer in made.aggregators if peer in nodes]
        if not makers:
            return min(MOST_NEEDED, living)
        return min(MOST_NEEDED, *(self._candidates(seen.node, Round(made.round)) for seen in makers))

    def _candidates(self, node: Node, round: Round) -> int:
        """Without those that may have joined only after the round was made: looks come a moment late."""
        view = node.parts.membership.view
        records = [view.registration(peer) for peer in node.parts.sampler.candidates(round)]
        return sum(record is not None and record.round < max(1, round - 1) for record in records)


class Forward:
    """What a node knows and holds never goes back to an earlier round, but by a retreat from what is lost or unfit."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], int] = {}

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            held, life = _held_round(seen), (seen.name, seen.life)
            before = self._held.get(life, -1)
            self._held[life] = held
            if held < before and not head_of(seen.node).retreats:
                yield finding(self, world, held, [seen.name], f"held round {before}, now {held}")
            if held > known_of(seen).round and not head_of(seen.node).retreats:
                yield finding(self, world, held, [seen.name], f"holds round {held}, knows only {known_of(seen).round}")


class NoConvictedAncestor:
    """No aggregate that was proved wrong is believed afterwards, nor anything that descends from it."""

    def __init__(self) -> None:
        self._tainted: set[Digest] = set()
        self._convicted: frozenset[Digest] = frozenset()
        self._children: dict[Digest, set[Digest]] = {}

    def look(self, world: World) -> Iterator[Finding]:
        for belief in world.news:
            self._children.setdefault(belief.made.parent, set()).add(belief.made.digest)
        before = self._convicted
        if self._convicted != world.convicted:
            self._convicted = world.convicted
        self._tainted = set(self._descendants(world.convicted))
        for belief in world.news:
            known_before = self._descendants(before) if before else set()
            if belief.made.digest in self._tainted & known_before:
                text = f"{short(belief.made.digest)} descends from an aggregate that was proved wrong"
                yield finding(self, world, belief.made.round, [belief.node], text)

    def _descendants(self, of: Iterable[Digest]) -> set[Digest]:
        found, waiting = set[Digest](), list(of)
        while waiting:
            if (model := waiting.pop()) not in found:
                found.add(model)
                waiting += self._children.get(model, ())
        return found


class BoundedCommittee:
    """What the work of a round takes stays within its limits."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            for what, size, most in self._sizes(seen.node):
                if size > most:
                    text = f"{what}: {size}, the limit is {most}"
                    yield finding(self, world, known_of(seen).round, [seen.name], text)

    def _sizes(self, node: Node) -> Iterator[tuple[str, int, int]]:
        committee = node.parts.manifest.modest
        yield "votes", head_of(node).votes, limits.COMMITTEE * max(1, committee.aggregators)
        if (aggregator := _modest(node).aggregator) is not None:
            yield "collections", aggregator.open, OPEN_COLLECTIONS


def modest_checkers(progress_s: float) -> list[Checker]:
    return [
        OneAggregateARound(),
        NoForkRemains(),
        Quorum(),
        Forward(),
        NoConvictedAncestor(),
        BoundedCommittee(),
        *common_checkers(progress_s),
    ]
