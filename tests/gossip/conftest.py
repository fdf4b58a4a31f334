"""Swarms of gossip learning on the simulated network: whole nodes, and a learner whose model is one number."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trio

from gossipnode.checkers import Checks, Seen, World
from gossipnode.gossip_checkers import gossip_checkers
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import Conditions, SimulatedNetwork, simulate_network
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import MemoryLog
from protocols.gossip.conversation import Gossip
from protocols.gossip.rules import Rules
from protocols.learner import Evaluation, LearnerError, Trained, Unfit
from protocols.manifest import Audit, Manifest, run_id
from protocols.merging import Merging
from protocols.signatures import Signer
from sampling.peers import PeerId, Role, Round
from verify.digest import Digest, digest_of
from verify.lsh import Signature
from verify.simhash import signature as signature_of
from verify.standing import OffenceKind

MODEL = struct.Struct("<dq")
TRAINABLE = 1e4


class ToyLearner:
    """A model is one number and a stamp. Training adds 1 and takes `train_s`; a merge is the weighted mean."""

    def __init__(self, blobs: MemoryBlobs, index: int) -> None:
        self._blobs, self._index = blobs, index
        self._stamp = 0
        self.train_s = 0.5
        self.samples = 10
        self.hands_in: float | None = None  # whatever it was to train from
        self.fails = False  # the operator's task raises
        self.merges_to: float | None = None
        self.parents: list[float] = []  # that it trained from
        self.merged: list[tuple[list[Digest], list[int]]] = []

    async def value(self, model: Digest) -> float:
        found: float = MODEL.unpack(await self._blobs.get(model))[0]
        return found

    async def initial(self, seed: int | None = None) -> Digest:
        return await self._blobs.put(MODEL.pack(0.0 if seed is None else seed % 100, 0))

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        value = await self.value(parent)
        await trio.sleep(self.train_s)
        if self.fails:
            raise LearnerError("KeyError: 'label'")
        if abs(value) > TRAINABLE:
            raise Unfit("the loss became nan")
        self.parents.append(value)
        value = value + 1 if self.hands_in is None else self.hands_in
        return Trained(await self._put(value), self.samples, 1, 0.5, self.train_s)

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        return Trained(await self._put(await self.value(parent) + 1), 10, 1, 0.5, 0.0)

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        before = 0.0 if parent is None else await self.value(parent)
        return signature_of(np.full(64, await self.value(model) - before, dtype=np.float32), seed)

    async def _put(self, value: float) -> Digest:
        self._stamp += 1
        return await self._blobs.put(MODEL.pack(value, 1000 * self._stamp + self._index))

    async def merge(self, models: Sequence[Digest], weights: Sequence[int], parent: Digest | None = None) -> Digest:
        values = [await self.value(model) for model in models]
        self.merged.append((list(models), list(weights)))
        if self.merges_to is not None:
            return await self._put(self.merges_to)
        return await self._put(sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights))

    async def check(self, model: Digest) -> float:
        await trio.lowlevel.checkpoint()
        if not math.isfinite(value := await self.value(model)):
            raise Unfit("not finite")
        return abs(value)

    async def evaluate(self, model: Digest) -> Evaluation:
        await trio.lowlevel.checkpoint()
        return Evaluation(model, 0.1, 0.9, 10)


@dataclass
class Member:
    """One machine in one life."""

    index: int
    node: Node
    learner: ToyLearner
    blobs: MemoryBlobs
    peer: PeerId
    scope: trio.CancelScope
    saved: list[State] = field(default_factory=list)

    @property
    def gossip(self) -> Gossip:
        assert isinstance(self.node.protocol, Gossip)
        return self.node.protocol

    @property
    def age(self) -> int:
        return self.gossip.round

    def offences(self) -> list[tuple[PeerId, OffenceKind]]:
        return [(each.peer, each.kind) for each in self.node.standing.offences()]


class Swarm:
    def __init__(self, network: SimulatedNetwork, nursery: trio.Nursery, tables: dict[str, Any]) -> None:
        self.network, self._nursery = network, nursery
        self.shard = tables.pop("shard", "0/8 iid 0")  # "": all have data of their own
        self.members: list[Member] = []
        self.liars: set[PeerId] = set()
        self.checks = Checks(gossip_checkers(progress_s=120.0))
        rules = {"every_s": 0.5, "pull_bytes_s": 1000.0, **tables.pop("gossip", {})}
        settings: dict[str, Any] = {
            "rounds": 10,
            "model_bytes": MODEL.size,
            "theta0": digest_of(MODEL.pack(0.0, 0)).hex(),
            "author": signer_of(0).peer,
            "merging": Merging(rule="mean"),
            "audit": Audit(fraction=0.0),
        }
        self.manifest = Manifest(
            name="toy", protocol="gossip", task="digits", gossip=Rules(**rules), **settings | tables
        )

    async def start(
        self, count: int = 1, *, roles: Sequence[Role] = (Role.TRAINER,), slowdown: float = 1.0, **learner: object
    ) -> list[Member]:
        """Returns when they have joined. `learner`: settings of theirs."""
        first = len(self.members)
        return [
            await self._start(first + index, State(), None, roles=roles, slowdown=slowdown, **learner)
            for index in range(count)
        ]

    async def restart(self, member: Member, *, emptied: bool = False) -> Member:
        state = State() if emptied else member.saved[-1]
        return await self._start(member.index, state, member.blobs)

    async def _start(
        self,
        index: int,
        state: State,
        blobs: MemoryBlobs | None,
        *,
        roles: Sequence[Role] = (Role.TRAINER,),
        slowdown: float = 1.0,
        **settings: object,
    ) -> Member:
        blobs = blobs or MemoryBlobs(64 * MODEL.size)
        learner = ToyLearner(blobs, index)
        for name, value in settings.items():
            setattr(learner, name, value)
        member: Member = await self._nursery.start(self._live, index, state, learner, blobs, roles, slowdown)
        self.members[index : index + 1] = [member]
        await member.node.joined.wait()
        return member

    async def _live(
        self,
        index: int,
        state: State,
        learner: ToyLearner,
        blobs: MemoryBlobs,
        roles: Sequence[Role],
        slowdown: float,
        task_status: trio.TaskStatus[Member],
    ) -> None:
        signer, saved = signer_of(index), list[State]()
        others = [member for member in self.alive() if member.index != index]
        bootstrap = others[0].node.parts.desk.transport.addresses() if others else ()

        async def save(state: State) -> None:
            await trio.lowlevel.checkpoint()
            saved.append(state)

        run = Run(
            run_id(self.manifest),
            self.manifest,
            b"signed",
            roles,
            bootstrap,
            evaluate_every=0,
            slowdown=slowdown,
            shard=self.shard,
        )
        with trio.CancelScope() as scope:
            built: list[Node] = []
            on_fault = lambda peer, kind: built[0].fault(peer, kind)  # noqa: E731 - the node comes after its transport
            async with self.network.join(signer.peer, on_fault=on_fault) as transport:
                rng = random.Random(f"test/{index}/{trio.current_time()}")
                node = Node(run, transport, learner, blobs, signer, state=state, save=save, log=MemoryLog(), rng=rng)
                built.append(node)
                transport.serve(node.answer, blobs)
                task_status.started(Member(index, node, learner, blobs, signer.peer, scope, saved))
                await node.run()

    def crash(self, *members: Member) -> None:
        for member in members:
            self.network.crash(member.peer)
            member.scope.cancel()

    def alive(self) -> list[Member]:
        return [member for member in self.members if self.network.alive(member.peer)]

    async def until(self, holds: Callable[[], bool], within_s: float = 300.0) -> None:
        with trio.move_on_after(within_s) as scope:
            while not holds():
                await trio.sleep(0.25)
                self.check()
        assert not scope.cancelled_caught, f"not within {within_s} s: ages {[each.age for each in self.members]}"

    async def until_finished(self, within_s: float = 300.0) -> None:
        await self.until(lambda: all(member.gossip.finished for member in self.alive()), within_s)

    def check(self) -> None:
        honest = [member for member in self.alive() if member.peer not in self.liars]
        world = World(
            now_s=trio.current_time(),
            calm_since_s=None,
            nodes=[Seen(str(each.index), each.node, each.blobs, id(each.node)) for each in honest],
            names={member.peer: str(member.index) for member in self.members if member.peer not in self.liars},
        )
        self.checks.look(world)
        assert not self.checks.findings, "\n".join(map(str, self.checks.findings))


def signer_of(index: int) -> Signer:
    return Signer.from_seed(bytes([index + 1] * 32))


MakeSwarm = Callable[..., Any]


@pytest.fixture
def make_swarm() -> MakeSwarm:
    """`async with make_swarm(rounds=0, gossip={...}) as swarm`: tables of the manifest. The test itself must ask for
    `autojump_clock`, or it runs in real time."""

    @asynccontextmanager
    async def make(conditions: Conditions | None = None, **tables: Any) -> AsyncIterator[Swarm]:  # noqa: ANN401 - as given
        async with (
            simulate_network(conditions or Conditions(), seed=1) as network,
            trio.open_nursery() as nursery,
        ):
            yield Swarm(network, nursery, tables)
            nursery.cancel_scope.cancel()

    return make
