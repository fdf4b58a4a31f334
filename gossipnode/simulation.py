"""`gossipnode simulate`: a whole swarm in one process under virtual time, running the daemon's own node code over the
simulated network, with compute inline. One seed gives one trace, so a failing run is replayed by its command line.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from gossipnode.compute.inline import InlineSwarm
from gossipnode.compute.process import TaskInfo
from gossipnode.journal import MemoryJournal
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import task_source
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import Conditions, SimulatedNetwork, Trace, simulate_network
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.newrun import draft
from gossipnode.node import Node, Run, State
from gossipnode.report import Report, report_of
from gossipnode.snapshot import snapshot
from gossipnode.status.report import NodeStatus, Status, StoreStatus
from protocols.amendments import SignedManifest, present, sign
from protocols.signatures import Signer

TICK_S = 1.0  # virtual seconds between two looks at the swarm
MODELS_KEPT = 24  # blobs of memory a simulated node has: two committees' models and the pinned ones


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. `tables` are the manifest's, as an operator would give them."""

    nodes: int
    seed: int
    tables: Mapping[str, Any]
    partition: str = "iid"
    conditions: Conditions = field(default_factory=Conditions)
    limit_s: float = 86_400.0  # virtual seconds after which the swarm has failed


@dataclass(frozen=True, slots=True)
class Outcome:
    report: Report
    trace: str  # digest of every delivery: equal for equal seeds
    virtual_s: float
    wall_s: float
    finished: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Told every TICK_S."""

    round: int
    virtual_s: float
    finished: int  # nodes


def simulate(scenario: Scenario, tell: Callable[[Tick], None] = lambda tick: None) -> Outcome:
    """Raises OperatorError for a task that cannot be loaded or settings that do not hold."""
    began = time.perf_counter()
    swarm = _Swarm(scenario, tell)
    statuses, virtual_s, finished = run_deterministic(swarm.run, seed=scenario.seed)
    seconds = max((sum(each.seconds for each in status.history) for status in statuses.values()), default=0.0)
    report = report_of(statuses, seconds)
    return Outcome(report, swarm.trace.digest(), virtual_s, time.perf_counter() - began, finished)


class _Swarm:
    def __init__(self, scenario: Scenario, tell: Callable[[Tick], None]) -> None:
        self.scenario = scenario
        self.tell = tell
        self.trace = Trace()
        self.signers = [_signer(scenario.seed, index) for index in range(scenario.nodes)]
        self.compute = InlineSwarm(LearnerConfig.of(draft(scenario.tables, self.signers[0].peer)))
        self.nodes: list[Node] = []

    async def run(self) -> tuple[dict[str, Status], float, bool]:
        scenario = self.scenario
        signed = await self._manifest(self.signers[0])
        async with (
            simulate_network(scenario.conditions, seed=scenario.seed, trace=self.trace) as network,
            trio.open_nursery() as nursery,
        ):
            for index, signer in enumerate(self.signers):
                bootstrap = self.nodes[0].parts.desk.transport.addresses() if index else ()
                nursery.start_soon(self._live, network, signed, signer, index, bootstrap)
                while len(self.nodes) <= index:
                    await trio.lowlevel.checkpoint()
            finished = await self._watch()
            statuses = {f"node-{index}": _status(node) for index, node in enumerate(self.nodes)}
            virtual_s = trio.current_time()
            nursery.cancel_scope.cancel()
        return statuses, virtual_s, finished

    async def _manifest(self, author: Signer) -> SignedManifest:
        blobs = MemoryBlobs(2**40)
        theta0 = await self.compute.learner(self._shard(0), blobs).initial()
        size = blobs.size(theta0)
        assert size is not None
        found = TaskInfo(0, size, 0, theta0, task_source(str(self.scenario.tables["task"])))
        return sign(draft(self.scenario.tables, author.peer, found), author)

    async def _live(
        self, network: SimulatedNetwork, signed: SignedManifest, signer: Signer, index: int, bootstrap: Sequence[str]
    ) -> None:
        """One node, from joining to the end of the simulation."""
        run = Run(signed.run, present(signed), signed.encode(), bootstrap=bootstrap)
        blobs = MemoryBlobs(MODELS_KEPT * run.manifest.model_bytes)
        journal = MemoryJournal(State)
        rng = random.Random(f"{self.scenario.seed}/node/{signer.peer}")
        learner = self.compute.learner(self._shard(index), blobs)
        nodes = self.nodes
        async with network.join(signer.peer, on_fault=lambda peer, kind: nodes[index].fault(peer, kind)) as transport:
            node = Node(run, transport, learner, blobs, signer, state=State(), save=journal.save, rng=rng)
            nodes.append(node)
            transport.serve(node.answer, blobs)
            await node.run()

    async def _watch(self) -> bool:
        """Until every node has finished and evaluated the last model; False if that takes too long."""
        while True:
            finished = sum(_done(node) for node in self.nodes)
            now, round = trio.current_time(), max(node.protocol.head.known.round for node in self.nodes)
            self.tell(Tick(round, now, finished))
            if finished == self.scenario.nodes:
                return True
            if now > self.scenario.limit_s:
                return False
            await trio.sleep(TICK_S)

    def _shard(self, index: int) -> Shard:
        scenario = self.scenario
        return Shard(index=index, count=scenario.nodes, partition=scenario.partition, seed=scenario.seed)


def _signer(seed: int, index: int) -> Signer:
    return Signer.from_seed(hashlib.blake2b(f"{seed}/identity/{index}".encode(), digest_size=32).digest())


def _status(node: Node) -> Status:
    return snapshot(node, NodeStatus(peer=node.parts.desk.me), StoreStatus())


def _done(node: Node) -> bool:
    head, learning = node.protocol.head, node.learning
    return head.finished and head.held == head.known and bool(learning and learning.evaluated_round == head.known.round)
