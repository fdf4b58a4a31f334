"""A whole swarm in one process under virtual time, running the daemon's own node code over the simulated network, with
compute inline, while the events of a scenario befall it and the checkers look on.

One seed gives one trace, so a failing run is replayed by its command line. A run has succeeded when everything has
happened, every node that is still alive holds and has evaluated the same last model, and no checker has found anything.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio

from gossipnode.adversaries.bent import Gang
from gossipnode.adversaries.kinds import KINDS
from gossipnode.branches import Branches
from gossipnode.chain_checkers import FewVoid, chain_checkers
from gossipnode.checkers import Belief, Checker, Checks, Finding, World
from gossipnode.compute.inline import Cost, InlineLearner, InlineSwarm
from gossipnode.compute.process import TaskInfo
from gossipnode.conduct import HONEST
from gossipnode.curves import Point
from gossipnode.events import Event
from gossipnode.faults import Faults, Happened
from gossipnode.gossip_checkers import gossip_checkers
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import task_source
from gossipnode.learn.shard import Shard
from gossipnode.learning_curve import Curve
from gossipnode.members import Member, live, models_kept
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.modest_checkers import convicted, modest_checkers
from gossipnode.net.simulated import Conditions, Trace, simulate_network
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.newrun import draft
from gossipnode.node import Node, Run
from gossipnode.report import ChainOf, Report, agreed, chain_of, report_of
from gossipnode.status.report import Status
from gossipnode.trainings import Finished
from protocols.amendments import SignedManifest, present, sign
from protocols.bell import Bell
from protocols.manifest import Manifest, chain_rules
from protocols.signatures import Signer
from sampling.peers import Round

NEWCOMERS = 100  # that are given the same member's address; it has room for limits.LINKS links
TICK_S = 1.0  # virtual seconds between two looks at the swarm
AGREE_S = 300.0  # virtual seconds in which all who are done must come to one last model
VOID_SHARE = 0.02
PROGRESS_S = 900.0  # virtual seconds in which every living node must move on once the last fault is over


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. `tables` are the manifest's, as an operator would give them."""

    nodes: int
    seed: int
    tables: Mapping[str, Any]
    partition: str = "iid"
    conditions: Conditions = field(default_factory=Conditions)
    limit_s: float = 86_400.0  # virtual seconds after which the swarm has failed
    events: Sequence[Event] = ()
    progress_s: float = PROGRESS_S
    curve: bool = True  # evaluate the model of every round
    slowdowns: Sequence[float] = (1.0,)  # of the nodes in turn; in gossip
    ranks: Sequence[int] = (0,)  # of what the nodes train of each adapter, in turn; 0: all
    batch_s: float = Cost().batch_s  # virtual seconds of a step of SGD
    void_share: float = VOID_SHARE  # of honest entries in a chain that may count for nothing
    adversaries: Sequence[str] = ()  # kinds of the last nodes; the others are honest

    def shard(self, index: int) -> Shard:
        """A newcomer's data is a copy of somebody's, so that the shards of the others are what they would be anyway."""
        piece, rank = index % self.nodes, self.ranks[index % len(self.ranks)]
        return Shard(index=piece, count=self.nodes, partition=self.partition, seed=self.seed, rank=rank)


class SimulationReport(Report, frozen=True, kw_only=True):
    """Of the nodes that are alive at the end; bytes and rounds are of all there have been."""

    seed: int
    trace: str  # digest of every delivery: equal for equal seeds
    virtual_s: float
    events: list[Happened]
    curve: list[Point]
    broken: list[Finding]  # what the checkers found
    chain: ChainOf | None = None
    entries: int = 0  # of one-byte training, undisturbed, of which the certified history tells whether they count
    void: int = 0  # of them, those that count for nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    report: SimulationReport
    trace: str
    virtual_s: float
    wall_s: float
    finished: bool  # every living node, before the time was over
    one_model: bool = True  # all are to hold the same at the end; not so in some of the baselines
    deliveries: int = 0  # packets

    @property
    def succeeded(self) -> bool:
        return self.finished and (agreed(self.report) or not self.one_model) and not self.report.broken


@dataclass(frozen=True, slots=True)
class Tick:
    """Told every TICK_S."""

    round: int
    virtual_s: float
    finished: int  # nodes


def simulate(scenario: Scenario, tell: Callable[[Tick], None] = lambda tick: None) -> Outcome:
    """Raises OperatorError for a task that cannot be loaded or settings that do not hold."""
    began = time.perf_counter()
    swarm = Swarm(scenario, tell)
    report, finished = run_deterministic(swarm.run, seed=scenario.seed)
    wall_s, deliveries = time.perf_counter() - began, swarm.network.deliveries
    return Outcome(
        report,
        report.trace,
        report.virtual_s,
        wall_s,
        finished,
        one_model=swarm.one_model,
        deliveries=deliveries,
    )


class Swarm:
    def __init__(self, scenario: Scenario, tell: Callable[[Tick], None]) -> None:
        self.scenario = scenario
        self.members: list[Member] = []
        self.highest = Round(0)
        self.one_model = scenario.tables.get("protocol") != "gossip"
        self._tell = tell
        self._trace = Trace()
        self._author = signer_of(scenario.seed, 0)
        config = LearnerConfig.of(draft(scenario.tables, self._author.peer))
        self.compute = InlineSwarm(msgspec.structs.replace(config, theta0=b""))  # as the seed makes it
        self._computes = {self.compute.engine.config: self.compute}  # adversaries may have others
        self._gangs = {kind: Gang(random.Random(f"{scenario.seed}/{kind}")) for kind in scenario.adversaries}
        self._bell = Bell()  # rung when `highest` has risen
        self._news: list[Belief] = []
        self._curve = Curve(self.compute, [self.scenario.shard(0)])
        self._faults = Faults(self, scenario.events, scenario.seed)
        self._checks: Checks
        self._branches: Branches | None = None  # of a chain
        self._few_void: FewVoid | None = None

    async def run(self) -> tuple[SimulationReport, bool]:
        scenario = self.scenario
        self._signed = await self._manifest(self._author)
        self._checks = Checks(self._checkers(present(self._signed)))
        async with (
            simulate_network(scenario.conditions, seed=scenario.seed, trace=self._trace) as self.network,
            trio.open_nursery() as self._nursery,
        ):
            for index in range(scenario.nodes):
                bootstrap = self.members[index // NEWCOMERS].addresses() if index else ()
                await self.newcomer(bootstrap)
            self._nursery.start_soon(self._faults.run)
            finished = await self._watch()
            report = self._report(trio.current_time())
            self._nursery.cancel_scope.cancel()
        return report, finished

    # -- the stage on which faults strike -----------------------------------------------------------------------------

    async def reached(self, round: Round) -> None:
        """Returns once some node believes that this round is over."""
        await self._bell.until(lambda: self.highest >= round)

    async def newcomer(self, bootstrap: Sequence[str]) -> Member:
        member = self._machine(len(self.members), bootstrap)
        self.members.append(member)
        await self.start(member)
        return member

    async def start(self, member: Member) -> None:
        """Returns when its process is there; it has yet to join."""
        await self._nursery.start(partial(live, self.network, member, self.scenario.seed, self._learnt))

    def _machine(self, index: int, bootstrap: Sequence[str]) -> Member:
        run = self._run(index, bootstrap)
        blobs = MemoryBlobs(models_kept(run.manifest) * run.manifest.model_bytes)
        kind = self._kind(index)
        conduct = HONEST if kind is None else KINDS[kind](self._gangs[kind])
        learner = self._learner(conduct.config(self._config(index)), blobs)
        signer = signer_of(self.scenario.seed, index)
        return Member(index, signer, learner, blobs, run, kind=kind, conduct=conduct)

    def _run(self, index: int, bootstrap: Sequence[str]) -> Run:
        return Run(
            self._signed.run,
            present(self._signed),
            self._signed.encode(),
            bootstrap=bootstrap,
            shard=self.scenario.shard(index).text,
            slowdown=self.scenario.slowdowns[index % len(self.scenario.slowdowns)],
        )

    def _kind(self, index: int) -> str | None:
        """The last ones of the start are hostile; newcomers are not."""
        hostile = index - self.scenario.nodes + len(self.scenario.adversaries)
        return self.scenario.adversaries[hostile] if 0 <= hostile < len(self.scenario.adversaries) else None

    def _learner(self, config: LearnerConfig, blobs: MemoryBlobs) -> InlineLearner:
        """All that learn alike share an engine."""
        common = msgspec.structs.replace(config, shard=Shard())
        if common not in self._computes:
            self._computes[common] = InlineSwarm(common)
        return self._computes[common].learner(config.shard, blobs, Cost(batch_s=self.scenario.batch_s))

    def _config(self, index: int) -> LearnerConfig:
        return msgspec.structs.replace(self.compute.engine.config, shard=self.scenario.shard(index))

    async def _manifest(self, author: Signer) -> SignedManifest:
        blobs = MemoryBlobs(2**40)
        theta0 = await self.compute.learner(self.scenario.shard(0), blobs).initial()
        size = blobs.size(theta0)
        assert size is not None
        found = TaskInfo(
            0, size, 0, theta0, task_source(str(self.scenario.tables["task"])), self.compute.engine.sum_bytes
        )
        return sign(draft(self.scenario.tables, author.peer, found), author)

    # -- looking on ---------------------------------------------------------------------------------------------------

    def _checkers(self, manifest: Manifest) -> list[Checker]:
        within_s = self.scenario.progress_s
        if manifest.protocol == "onebyte":
            rules = chain_rules(manifest)
            self._branches = Branches(rules, self._signed.run)
            self._few_void = FewVoid(self._branches, rules, self.scenario.void_share)
            return [*chain_checkers(self._branches, rules, within_s), self._few_void]
        if manifest.protocol == "gossip":
            return gossip_checkers(within_s, self.compute.engine.check)
        return modest_checkers(within_s)

    def _learnt(self, member: Member, made: Finished) -> None:
        if not member.honest:
            return
        self._news.append(Belief(member.name, made, trio.current_time()))
        self._witness(member.node)
        if made.round > self.highest:
            self.highest = Round(made.round)
            if self.scenario.curve:
                self._curve.add(made, member, trio.current_time(), self.wire_bytes(), self.members)
            self._bell.ring()

    def _witness(self, node: Node) -> None:
        if self._branches is not None:
            self._branches.learn(node.protocol)

    def wire_bytes(self) -> int:
        return sum(life.transport.traffic().wire_sent for member in self.members for life in member.lives)

    async def _watch(self) -> bool:
        """Until all has happened and every living node has evaluated the last model; False if that takes too long."""
        done_since_s = 0.0
        while True:
            self._check()
            living = [member for member in self._honest() if member.alive]
            done = sum(member.done() for member in living)
            now = trio.current_time()
            self._tell(Tick(self.highest, now, done))
            if done < len(living) or not self._faults.over:
                done_since_s = now
            elif self._agreed(living) or now - done_since_s > AGREE_S:
                return True
            if now > self.scenario.limit_s or self._checks.stuck:
                return False
            await trio.sleep(TICK_S)

    def _honest(self) -> list[Member]:
        return [member for member in self.members if member.honest]

    def _agreed(self, living: Sequence[Member]) -> bool:
        """Where nodes are to end with one model."""
        return not self.one_model or len({member.node.protocol.model for member in living}) <= 1

    def _check(self) -> None:
        news, self._news = self._news, []
        seen = [member.seen() for member in self._honest() if member.alive and not member.frozen]
        for each in seen:
            self._witness(each.node)
        world = World(
            now_s=trio.current_time(),
            calm_since_s=self._faults.calm_since,
            nodes=seen,
            names={member.peer: member.name for member in self._honest()},
            news=news,
            unaccounted_bytes=self.network.unaccounted(),
            convicted=convicted(seen),
        )
        self._checks.look(world)

    def _report(self, now_s: float) -> SimulationReport:
        statuses = {member.name: member.statuses() for member in self.members}
        living = {member.name: statuses[member.name][-1] for member in self.members if member.alive}
        every = {f"{name}/{number}": status for name, lives in statuses.items() for number, status in _numbered(lives)}
        seconds = max((sum(each.seconds for each in status.history) for status in living.values()), default=0.0)
        hostile = {member.name: member.kind for member in self.members if member.kind is not None}
        report, whole = report_of(living, seconds, adversaries=hostile), report_of(every, seconds)
        return SimulationReport(
            **{name: getattr(report, name) for name in Report.__struct_fields__}
            | {"bytes": whole.bytes, "rounds": whole.rounds, "committees": whole.committees},
            seed=self.scenario.seed,
            trace=self._trace.digest(),
            virtual_s=now_s,
            events=self._faults.happened,
            curve=self._curve.points,
            broken=self._checks.findings,
            chain=chain_of({name: status for name, status in living.items() if name not in hostile}),
            entries=0 if self._few_void is None else self._few_void.judged,
            void=0 if self._few_void is None else self._few_void.void,
        )


def _numbered(lives: Sequence[Status]) -> list[tuple[int, Status]]:
    return list(enumerate(lives, start=1))


def signer_of(seed: int, index: int) -> Signer:
    return Signer.from_seed(hashlib.blake2b(f"{seed}/identity/{index}".encode(), digest_size=32).digest())
