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

from gossipnode.checkers import Seen
from gossipnode.compute.inline import InlineLearner
from gossipnode.conduct import HONEST, Conduct
from gossipnode.journal import MemoryJournal
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import SimulatedNetwork, SimulatedTransport
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import MemoryLog
from gossipnode.simulated_log import whose
from gossipnode.snapshot import snapshot
from gossipnode.status.report import NodeStatus, Status, StoreStatus
from gossipnode.trainings import Finished
from protocols.audit import COMMITTEES_OWED
from protocols.chain.messages import Entry
from protocols.manifest import Manifest
from protocols.onebyte.journal import signed_in
from protocols.signatures import Signer
from sampling.peers import PeerId

MODELS_KEPT = 24  # blobs of memory a simulated node has at least: what audits are owed of four trainers, and the rest:
MODELS_BESIDE = 12  # those that audits are not owed
MERGES_KEPT = 7  # in gossip: what came and is merged, what the last models were made of, and what is audited
GOODBYE_S = 5.0  # in which a node that leaves must have said so, as the daemon has it


class WitnessedLog(MemoryLog):
    """A journal of the chain beside which an onlooker writes down what its owner signs."""

    def __init__(self) -> None:
        super().__init__()
        self.signed: list[Entry] = []

    async def append(self, record: bytes, *, durable: bool) -> None:
        if durable:
            self.signed += signed_in(record)
        await super().append(record, durable=durable)


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
    learner: InlineLearner
    blobs: MemoryBlobs
    run: Run
    journal: MemoryJournal[State] = field(default_factory=lambda: MemoryJournal(State))
    log: WitnessedLog = field(default_factory=lambda: WitnessedLog())  # of the chain
    lives: list[Life] = field(default_factory=list)
    alive: bool = False
    gone: bool = False  # it has left or was killed, and is not back
    frozen: bool = False
    kind: str | None = None  # of adversary; None: honest
    conduct: Conduct = HONEST

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    @property
    def honest(self) -> bool:
        return self.kind is None

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
        protocol, learning = self.node.protocol, self.node.learning
        return protocol.state == "finished" and learning is not None and learning.evaluated_round == protocol.round

    def seen(self) -> Seen:
        """For the checkers. What it has signed is told once."""
        entries, self.log.signed = self.log.signed, []
        a = self.learner.a.digest if self.node.protocol.chain is not None else None
        return Seen(self.name, self.node, self.blobs, len(self.lives), a, entries)

    def statuses(self) -> list[Status]:
        """One for each life."""
        return [snapshot(life.node, NodeStatus(peer=self.peer), StoreStatus()) for life in self.lives]


def models_kept(manifest: Manifest) -> int:
    if manifest.protocol == "gossip":
        return MODELS_KEPT + MERGES_KEPT * (manifest.gossip.neighbours + 1)
    return max(MODELS_KEPT, MODELS_BESIDE + COMMITTEES_OWED * manifest.modest.trainers)


Learnt = Callable[[Member, Finished], None]


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
    """One life, from start to crash, goodbye or the simulation's end. `learnt` hears of each round that is over."""
    whose.set(member.name)
    life_seed = f"{seed}/node/{member.peer}" + (f"/{len(member.lives)}" if member.lives else "")
    with trio.CancelScope() as scope:
        async with network.join(member.peer, on_fault=lambda peer, kind: member.node.fault(peer, kind)) as own:
            transport = member.conduct.transport(own)
            node = Node(
                member.run,
                transport,
                member.conduct.learner(member.learner, member.blobs),
                member.blobs,
                member.signer,
                state=member.journal.load() or State(),
                save=member.journal.save,
                log=member.log,
                rng=random.Random(life_seed),
            )
            node.believed = partial(learnt, member)
            member.lives.append(Life(node, own, scope, trio.current_time()))
            member.alive, member.gone = True, False
            transport.serve(partial(_answer, member.name, node), member.blobs, node.may_fetch)
            task_status.started()
            await member.conduct.live(node)


async def _answer(name: str, node: Node, sender: PeerId, frame: bytes) -> bytes:
    whose.set(name)
    return await node.answer(sender, frame)


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
    member.log.signed = []  # what it signed as it went nobody may have heard
