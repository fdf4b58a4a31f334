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
from gossipnode.trainings import Finished
from protocols import limits
from protocols.chain.messages import Entry
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OFFENCES_KEPT, PEERS_KEPT

SETTLED_S: Final = 120.0  # after the last fault, two views of the swarm may still name two committees for so long
FINDINGS_KEPT: Final = 100  # one broken rule often breaks at every node in every round


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A checker's word."""

    checker: str
    round: int
    virtual_s: float
    nodes: list[str]
    what: str


@dataclass(frozen=True, slots=True)
class Belief:
    """`node` has come to believe that a round is over, and what was made of it."""

    node: str
    made: Finished
    now_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A node that is honest, alive and not frozen."""

    name: str
    node: Node
    blobs: MemoryBlobs
    life: int  # which one of this machine
    a: Digest | None = None  # of its learner, in one-byte training
    entries: Sequence[Entry] = ()  # that it has signed since the last look


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


def finding(checker: Checker, world: World, round: int, nodes: Iterable[str], what: str) -> Finding:
    name = type(checker).__name__
    return Finding(checker=name, round=round, virtual_s=world.now_s, nodes=sorted(set(nodes)), what=what)


class BytesOnce:
    """What was sent was received, was lost, or is under way: nothing is counted twice or forgotten."""

    def look(self, world: World) -> Iterator[Finding]:
        if world.unaccounted_bytes:
            yield finding(self, world, 0, [], f"{world.unaccounted_bytes} bytes too many were sent")


class Bounded:
    """What a node keeps stays within the limit that names it, whatever its peers do."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            for what, size, most in self._sizes(seen):
                if size > most:
                    text = f"{what}: {size}, the limit is {most}"
                    yield finding(self, world, seen.node.protocol.round, [seen.name], text)

    def _sizes(self, seen: Seen) -> Iterator[tuple[str, int, int]]:
        node = seen.node
        membership = node.parts.membership
        yield "view", len(membership.view), limits.VIEW_PEERS
        yield "links", len(node.parts.desk.transport.peers()), limits.LINKS
        yield "partners", len(membership.partners()), limits.LINKS
        yield "offences", len(node.standing.offences()), OFFENCES_KEPT
        yield "peers with a record", node.standing.summary().peers, PEERS_KEPT
        yield "store bytes", seen.blobs.held_bytes, seen.blobs.max_bytes


class Progress:
    """Every honest living node moves on within a stated time once the last fault is over, until the run has ended."""

    def __init__(self, within_s: float) -> None:
        self.within_s: Final = within_s
        self._moved: dict[tuple[str, int], tuple[int, float]] = {}  # by life: its round, and since when

    def look(self, world: World) -> Iterator[Finding]:
        moved, self._moved = self._moved, {}
        for seen in world.nodes:
            life, round = (seen.name, seen.life), seen.node.protocol.round
            before = moved.get(life)
            since_s = before[1] if before is not None and before[0] == round else world.now_s
            self._moved[life] = round, since_s
            still_s = world.now_s - max(since_s, world.now_s - world.calm_s)
            if still_s >= self.within_s and not seen.node.protocol.finished:
                yield finding(
                    self, world, round, [seen.name], f"at round {round} for {self.within_s:g} s without a fault"
                )


class NoFalseAccusation:
    """No honest node has an offence on its record at another honest one."""

    def look(self, world: World) -> Iterator[Finding]:
        for seen in world.nodes:
            for offence in seen.node.standing.offences():
                if (accused := world.names.get(offence.peer)) is not None:
                    text = f"{seen.name} holds {offence.kind} against {accused}: {offence.detail}"
                    yield finding(self, world, offence.round, [seen.name, accused], text)


def common_checkers(progress_s: float) -> list[Checker]:
    return [BytesOnce(), Bounded(), Progress(progress_s), NoFalseAccusation()]


class Checks:
    """All of them, and what they have found."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        self.findings: list[Finding] = []
        self._checkers = checkers
        self._said: set[tuple[str, int, tuple[str, ...], str]] = set()

    @property
    def stuck(self) -> bool:
        """Nothing more is to be expected of this swarm."""
        return any(found.checker == Progress.__name__ for found in self.findings)

    def look(self, world: World) -> None:
        for checker in self._checkers:
            for found in checker.look(world):
                key = (found.checker, found.round, tuple(found.nodes), found.what)
                if key not in self._said and len(self.findings) < FINDINGS_KEPT:
                    self._said.add(key)
                    self.findings.append(found)
