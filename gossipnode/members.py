"""The machines of a simulated swarm: each with its identity, journal and store, living one or more lives as a node.

A life is one process: it begins when its machine starts, and ends by a crash, by a goodbye or with the simulation.
What a machine keeps between lives is what a real one would: journal and blobs. Invariant: a machine lives once at a
time, and every life there has been stays countable (its traffic, what it had learnt).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from gossipnode.checkers import head_of
from gossipnode.journal import MemoryJournal
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import SimulatedNetwork, SimulatedTransport
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import MemoryLog
from gossipnode.simulated_log import whose
from gossipnode.snapshot import snapshot
from gossipnode.status.report import NodeStatus, Status, StoreStatus
from gossipnode.trainings import AnyLearner
from protocols.messages import Aggregate
from protocols.signatures import Signer
from sampling.peers import PeerId

MODELS_KEPT = 24  # blobs of memory a simulated node has: two committees' models and the pinned ones
GOODBYE_S = 5.0  # in which a node that leaves must have said so, as the daemon has it


@dataclass(slots=True)
class Life:
    """One process."""

    node: Node
    transport: SimulatedTransport
    scope: trio.CancelScope
    began_s: float


@dataclass(slots=True)
class Member:
    """One machine."""

    index: int
    signer: Signer
    learner: AnyLearner
    blobs: MemoryBlobs
    run: Run
    journal: MemoryJournal[State] = field(default_factory=lambda: MemoryJournal(State))
    log: MemoryLog = field(default_factory=MemoryLog)  # of the chain
    lives: list[Life] = field(default_factory=list)
    alive: bool = False
    gone: bool = False  # it has left or was killed, and is not back
    frozen: bool = False

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    @property
    def peer(self) -> PeerId:
        return self.signer.peer

    @property
    def node(self) -> Node:
        """Of its newest life."""
        return self.lives[-1].node

    def addresses(self) -> Sequence[str]:
        return self.lives[-1].transport.addresses()

    def done(self) -> bool:
        """It holds and has evaluated the last model."""
        head, learning = head_of(self.node), self.node.learning
        evaluated = bool(learning and learning.evaluated_round == head.known.round)
        return head.finished and head.held == head.known and evaluated

    def statuses(self) -> list[Status]:
        """One for each life."""
        return [snapshot(life.node, NodeStatus(peer=self.peer), StoreStatus()) for life in self.lives]


Learnt = Callable[[Member, Aggregate], None]


class Started(Protocol):
    """trio.TaskStatus[None], which the stubs that libp2p brings along do not know."""

    def started(self) -> None: ...


async def live(
    network: SimulatedNetwork,
    member: Member,
    seed: int,
    learnt: Learnt,
    task_status: Started,
) -> None:
    """One life, from start to crash, goodbye or the simulation's end. `learnt` hears of each aggregate it believes."""
    whose.set(member.name)
    life_seed = f"{seed}/node/{member.peer}" + (f"/{len(member.lives)}" if member.lives else "")
    with trio.CancelScope() as scope:
        async with network.join(member.peer, on_fault=lambda peer, kind: member.node.fault(peer, kind)) as transport:
            node = Node(
                member.run,
                transport,
                member.learner,
                member.blobs,
                member.signer,
                state=member.journal.load() or State(),
                save=member.journal.save,
                log=member.log,
                rng=random.Random(life_seed),
            )
            member.lives.append(Life(node, transport, scope, trio.current_time()))
            member.alive, member.gone = True, False
            transport.serve(partial(_answer, member.name, node), member.blobs, node.may_fetch)
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_follow, member, node, learnt)
                await node.run()


async def _answer(name: str, node: Node, sender: PeerId, frame: bytes) -> bytes:
    whose.set(name)
    return await node.answer(sender, frame)


async def _follow(member: Member, node: Node, learnt: Learnt) -> None:
    head = head_of(node)
    known = head.known
    while True:
        known = await head.known_other_than(known)
        learnt(member, known)


def crash(network: SimulatedNetwork, member: Member) -> None:
    """The machine loses its power: nobody is told."""
    network.crash(member.peer)
    _end(member)


async def leave(network: SimulatedNetwork, member: Member) -> None:
    """The operator stops it."""
    member.gone = True
    life = member.lives[-1]
    with trio.move_on_after(GOODBYE_S):
        await life.node.leave()
    if member.lives[-1] is life and member.alive:  # nobody has pulled the plug meanwhile
        network.leave(member.peer)
        _end(member)


def _end(member: Member) -> None:
    member.alive, member.gone, member.frozen = False, True, False
    member.lives[-1].scope.cancel()
