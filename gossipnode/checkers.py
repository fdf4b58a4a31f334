"""What must always hold in a swarm, one invariant a class: looked at every tick of every simulation and swarm test.

A checker only reads. It is shown the honest nodes that are alive and can act, what they came to believe since the last
look, and whether a fault is in force, and says what is broken, when and at whom. Each finding is said once.
Invariant: a checker that finds nothing has changed nothing; the trace is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.node import Node
from protocols import limits
from protocols.aggregator import OPEN_COLLECTIONS
from protocols.head import Head
from protocols.messages import Aggregate
from protocols.modest import Modest
from sampling.peers import PeerId, Round
from verify.digest import Digest, short
from verify.standing import OFFENCES_KEPT, PEERS_KEPT

SETTLED_S: Final = 120.0  # after the last fault, two views of the swarm may still name two committees for so long
FINDINGS_KEPT: Final = 100  # one broken rule often breaks at every node in every round
MOST_NEEDED: Final = 2  # models of any quorum whose patience is over


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A checker's word."""

    checker: str
    round: int
    virtual_s: float
    nodes: list[str]
    what: str


def _modest(node: Node) -> Modest:
    """What is simulated here is MoDeST."""
    assert isinstance(node.protocol, Modest)
    return node.protocol


def head_of(node: Node) -> Head:
    return _modest(node).head


@dataclass(frozen=True, slots=True)
class Belief:
    """`node` has come to believe in an aggregate."""

    node: str
    aggregate: Aggregate
    now_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A node that is honest, alive and not frozen."""

    name: str
    node: Node
    blobs: MemoryBlobs
    life: int  # which one of this machine

    @property
    def known(self) -> Aggregate:
        return head_of(self.node).known

    @property
    def held(self) -> Aggregate | None:
        return head_of(self.node).held


@dataclass(frozen=True, slots=True)
class World:
    """The swarm at one moment."""

    now_s: float
    calm_since_s: float | None  # when the last fault struck or ended; None: one is in force that may hold up everybody
    nodes: Sequence[Seen]
    names: Mapping[PeerId, str]  # of every honest node there has been
    news: Sequence[Belief] = ()  # since the last look, of honest nodes
    unaccounted_bytes: int = 0  # see SimulatedNetwork.unaccounted
    convicted: frozenset[Digest] = field(default_factory=frozenset)  # aggregates proved wrong

    @property
    def calm_s(self) -> float:
        """How long there has been no fault."""
        return 0.0 if self.calm_since_s is None else self.now_s - self.calm_since_s


class Checker(Protocol):
    def look(self, world: World) -> Iterator[Finding]: ...


def _finding(checker: Checker, world: World, round: int, nodes: Iterable[str], what: str) -> Finding:
    name = type(checker).__name__
    return Finding(checker=name, round=round, virtual_s=world.now_s, nodes=sorted(set(nodes)), what=what)


class OneAggregateARound:
    """What honest nodes believe of one round is the same model, once the faults that may divide them have settled."""

    def __init__(self) -> None:
        self._believed: dict[Round, dict[Digest, str]] = {}  # and who was the first to

    def look(self, world: World) -> Iterator[Finding]:
        if world.calm_s < SETTLED_S:
            self._believed.clear()
            return
        for belief in world.news:
            round, model = belief.aggregate.round, Digest(belief.aggregate.model)
            models = self._believed.setdefault(round, {})
            models.setdefault(model, belief.node)
            if len(models) == 2:
                texts = " and ".join(short(each) for each in models)
                yield _finding(self, world, round, models.values(), f"two aggregates are believed: {texts}")


class NoForkRemains:
    """Nodes that have long been able to hear each other are on one branch: equal rounds, equal models."""

    def __init__(self) -> None:
        self._since: dict[tuple[Round, frozenset[Digest]], float] = {}

    def look(self, world: World) -> Iterator[Finding]:
        at: dict[Round, dict[Digest, list[str]]] = {}
        for seen in world.nodes:
            at.setdefault(seen.known.round, {}).setdefault(Digest(seen.known.model), []).append(seen.name)
        forks = {(round, frozenset(models)): models for round, models in at.items() if len(models) > 1}
        self._since = {fork: self._since.get(fork, world.now_s) for fork in forks}
        for fork, models in forks.items():
            if min(world.calm_s, world.now_s - self._since[fork]) >= SETTLED_S:
                names = [name for each in models.values() for name in each]
                sizes = ", ".join(f"{short(model)} at {len(each)}" for model, each in models.items())
                yield _finding(self, world, fork[0], names, f"a fork remains: {sizes}")


class Quorum:
    """No aggregate is believed that fewer models made than its quorum: never one model where more peers are known."""

    def look(self, world: World) -> Iterator[Finding]:
        nodes = {seen.node.parts.desk.me: seen for seen in world.nodes}
        for belief in world.news:
            aggregate = belief.aggregate
            if aggregate.round == 0:
                continue  # nobody made theta0; it is gone back to when all that was made of it is lost
            made = len({each.trainer for each in aggregate.inputs})
            if made < MOST_NEEDED and made < self._needed(aggregate, nodes, len(world.nodes)):
                text = f"{len(aggregate.inputs)} models made it, {len(set(aggregate.aggregators))} aggregators"
                yield _finding(self, world, aggregate.round, [belief.node], text)

    def _needed(self, aggregate: Aggregate, nodes: Mapping[PeerId, Seen], living: int) -> int:
        """As `protocols.collection.quorum` has it where patience is over; of its maker's candidates, if it lives."""
        makers = [nodes[peer] for peer in aggregate.aggregators if peer in nodes]
        if not makers:
            return min(MOST_NEEDED, living)
        return min(MOST_NEEDED, *(self._candidates(seen.node, aggregate.round) for seen in makers))

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
            held, life = (seen.held.round if seen.held else -1), (seen.name, seen.life)
            before = self._held.get(life, -1)
            self._held[life] = held
            if held < before and not head_of(seen.node).retreats:
                yield _finding(self, world, held, [seen.name], f"held round {before}, now {held}")
            if held > seen.known.round and not head_of(seen.node).retreats:
                yield _finding(self, world, held, [seen.name], f"holds round {held}, knows only {seen.known.round}")


class NoConvictedAncestor:
    """No aggregate that was proved wrong is believed afterwards, nor anything that descends from it."""

    def __init__(self) -> None:
        self._tainted: set[Digest] = set()
        self._convicted: frozenset[Digest] = frozenset()
        self._children: dict[Digest, set[Digest]] = {}

    def look(self, world: World) -> Iterator[Finding]:
        for belief in world.news:
            self._children.setdefault(Digest(belief.aggregate.parent), set()).add(Digest(belief.aggregate.model))
        before = self._convicted
        if self._convicted != world.convicted:
            self._convicted = world.convicted
        self._tainted = set(self._descendants(world.convicted))
        for belief in world.news:
            known_before = self._descendants(before) if before else set()
            if Digest(belief.aggregate.model) in self._tainted & known_before:
                text = f"{short(Digest(belief.aggregate.model))} descends from an aggregate that was proved wrong"
                yield _finding(self, world, belief.aggregate.round, [belief.node], text)

    def _descendants(self, of: Iterable[Digest]) -> set[Digest]:
        found, waiting = set[Digest](), list(of)
        while waiting:
            if (model := waiting.pop()) not in found:
                found.add(model)
                waiting += self._children.get(model, ())
        return found


class BytesOnce:
    """What was sent was received, was lost, or is under way: nothing is counted twice or forgotten."""

    def look(self, world: World) -> Iterator[Finding]:
        if world.unaccounted_bytes:
            yield _finding(self, world, 0, [], f"{world.unaccounted_bytes} bytes too many were sent")


class Bounded:
    """What a node keeps stays within the limit that names it, whatever its peers do."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            for what, size, most in self._sizes(seen):
                if size > most:
                    yield _finding(self, world, seen.known.round, [seen.name], f"{what}: {size}, the limit is {most}")

    def _sizes(self, seen: Seen) -> Iterator[tuple[str, int, int]]:
        node = seen.node
        membership, head = node.parts.membership, head_of(node)
        committee = node.parts.manifest.modest
        yield "view", len(membership.view), limits.VIEW_PEERS
        yield "links", len(node.parts.desk.transport.peers()), limits.LINKS
        yield "partners", len(membership.partners()), limits.LINKS
        yield "offences", len(node.standing.offences()), OFFENCES_KEPT
        yield "peers with a record", node.standing.summary().peers, PEERS_KEPT
        yield "store bytes", seen.blobs.held_bytes, seen.blobs.max_bytes
        yield "votes", head.votes, limits.COMMITTEE * max(1, committee.aggregators)
        if (aggregator := _modest(node).aggregator) is not None:
            yield "collections", aggregator.open, OPEN_COLLECTIONS


class Progress:
    """Every honest living node moves on within a stated time once the last fault is over, until the run has ended."""

    def __init__(self, within_s: float) -> None:
        self.within_s: Final = within_s
        self._moved: dict[tuple[str, int], tuple[int, float]] = {}  # by life: its round, and since when

    def look(self, world: World) -> Iterator[Finding]:
        moved, self._moved = self._moved, {}
        for seen in world.nodes:
            life, round = (seen.name, seen.life), seen.known.round
            before = moved.get(life)
            since_s = before[1] if before is not None and before[0] == round else world.now_s
            self._moved[life] = round, since_s
            still_s = world.now_s - max(since_s, world.now_s - world.calm_s)
            if still_s >= self.within_s and not head_of(seen.node).finished:
                yield _finding(
                    self, world, round, [seen.name], f"at round {round} for {self.within_s:g} s without a fault"
                )


class NoFalseAccusation:
    """No honest node has an offence on its record at another honest one."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            for offence in seen.node.standing.offences():
                if (accused := world.names.get(offence.peer)) is not None:
                    text = f"{seen.name} holds {offence.kind} against {accused}: {offence.detail}"
                    yield _finding(self, world, offence.round, [seen.name, accused], text)


def all_checkers(progress_s: float) -> list[Checker]:
    return [
        OneAggregateARound(),
        NoForkRemains(),
        Quorum(),
        Forward(),
        NoConvictedAncestor(),
        BytesOnce(),
        Bounded(),
        Progress(progress_s),
        NoFalseAccusation(),
    ]


class Checks:
    """All of them, and what they have found."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        self.findings: list[Finding] = []
        self._checkers = checkers
        self._said: set[tuple[str, int, tuple[str, ...], str]] = set()

    @property
    def stuck(self) -> bool:
        """Nothing more is to be expected of this swarm."""
        return any(finding.checker == Progress.__name__ for finding in self.findings)

    def look(self, world: World) -> None:
        for checker in self._checkers:
            for finding in checker.look(world):
                key = (finding.checker, finding.round, tuple(finding.nodes), finding.what)
                if key not in self._said and len(self.findings) < FINDINGS_KEPT:
                    self._said.add(key)
                    self.findings.append(finding)
