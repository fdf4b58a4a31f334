"""Other ways to train together, for comparison with MoDeST only: no node runs them and no message is simulated.

What they share with `simulate`: task, shards, seed, local training, merging, the nodes' places and lines. Ideal is: no
loss, no churn, no handshake, no view, no framing; every node knows from whom to wait for a model, and models are
pushed. Their traffic is models sent times the model's size, and their time that of the slowest chain of computing and
sending, so each comparison is in the baselines' favour.

* `fedavg`: a server samples s nodes a round and takes their mean, weighted by examples (McMahan et al., 1602.05629).
* `d-psgd`: all train, each sends to one peer and takes the mean with what came; the peer is 1, 2, 4, ... places further
  on a ring, round by round: the one-peer exponential graph (Lian et al., 1705.09056; Ying et al., 2110.13363).
* `d-psgd-8`: the same on a random 8-regular graph, fixed by the seed, with Metropolis weights: all 1/9 there.
* `epidemic`: EL-Local (De Vos et al., 2310.01972): all train, each sends to s = log2 n peers that it draws afresh.
* `epidemic-oracle`: EL-Oracle: the same, but everybody receives s models too.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gossipnode.compute.inline import Cost, InlineSwarm
from gossipnode.curves import Point
from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.net.simulated import Conditions
from gossipnode.newrun import draft, merged
from gossipnode.report import Accuracy, Bytes, CommitteeOf, Digests
from gossipnode.simulation import Outcome, Scenario, SimulationReport, Tick, signer_of, simulate
from sampling.peers import PeerId
from verify.digest import digest_of

BASELINES: Final = ("fedavg", "d-psgd", "d-psgd-8", "epidemic", "epidemic-oracle")
SERVER: Final = "server"
DEGREE: Final = 8
EVALUATED: Final = 8  # nodes whose accuracy is measured; the points of a curve are their mean

Senders = Callable[[int], list[list[int]]]  # of a round: from whom each node receives a model


class Step(msgspec.Struct, frozen=True):
    """A round that is over."""

    round: int
    virtual_s: float
    models_sent: int  # since the start
    models: Sequence[bytes]  # that nodes hold now, by node; of FedAvg the one that all hold
    trainers: Sequence[int]


def run(scenario: Scenario, tell: Callable[[Tick], None] = lambda tick: None) -> Outcome:
    """A simulated swarm, or a baseline, as `scenario.tables` ask for. Raises OperatorError, TaskError, LearnerError."""
    if scenario.tables.get("protocol") in BASELINES:
        return run_baseline(scenario, tell)
    return simulate(scenario, tell)


def run_baseline(
    scenario: Scenario, tell: Callable[[Tick], None] = lambda tick: None, *, evaluate_every: int = 1
) -> Outcome:
    """Settings of MoDeST's own are ignored, but for the number of trainers, which is that of FedAvg too.

    Raises OperatorError, TaskError, LearnerError.
    """
    began = time.perf_counter()
    world, steps, curve = World(scenario), [], []
    for step in steps_of(world):
        over = step.round == world.rounds or step.virtual_s > scenario.limit_s
        if over or (scenario.curve and step.round % evaluate_every == 0):
            curve.append(_point(world, step))
        steps.append(msgspec.structs.replace(step, models=()))
        tell(Tick(step.round, step.virtual_s, scenario.nodes if over else 0))
        if over:
            break
    report = _report(world, steps, step.models, curve)
    finished = step.virtual_s <= scenario.limit_s
    wall_s = time.perf_counter() - began
    return Outcome(report, report.trace, report.virtual_s, wall_s, finished, one_model=world.protocol == "fedavg")


class World:
    """What all baselines compute with: one engine, a shard for each node, and lines between them."""

    def __init__(self, scenario: Scenario) -> None:
        """Raises OperatorError, TaskError, LearnerError."""
        self.protocol = str(scenario.tables["protocol"])
        _require_possible(self.protocol, scenario)
        self.nodes, self.seed = scenario.nodes, scenario.seed
        self.peers = [signer_of(scenario.seed, index).peer for index in range(scenario.nodes)]
        self.manifest = draft(merged(scenario.tables, {"protocol": "modest"}), self.peers[0])
        assert self.manifest.rounds > 0, "a baseline ends after some round"
        swarm = InlineSwarm(LearnerConfig.of(self.manifest))
        self.engine, self.theta0 = swarm.engine, swarm.theta0
        self.data = [self.engine.data(scenario.shard(index)) for index in range(scenario.nodes)]
        self.lines = Lines(scenario.conditions, self.peers, len(self.theta0))
        self.cost = Cost()

    @property
    def rounds(self) -> int:
        return self.manifest.rounds

    @property
    def model_bytes(self) -> int:
        return len(self.theta0)

    def draw(self, *what: object) -> random.Random:
        """Chance of its own for each purpose."""
        return random.Random("/".join(map(str, (self.seed, "baseline", *what))))

    def train(self, node: int, model: bytes, round: int) -> tuple[bytes, float]:
        """The new model, and the virtual seconds that it took."""
        update = self.engine.train(model, self.data[node], seed=self.draw("train", node, round).getrandbits(63))
        return update.blob, update.steps * self.cost.batch_s

    def mean(self, models: Sequence[bytes]) -> bytes:
        return self.engine.merge(models, [1] * len(models)) if len(models) > 1 else models[0]

    def accuracy(self, models: Sequence[bytes]) -> dict[int, float]:
        """By node, of some nodes spread evenly."""
        measured = range(0, len(models), max(1, len(models) // EVALUATED))[:EVALUATED]
        return {node: self.engine.evaluate(models[node], self.data[node])["accuracy"] for node in measured}


@dataclass
class Lines:
    """When a model that is sent arrives: one after the other through the sender's line and the receiver's."""

    conditions: Conditions
    peers: Sequence[PeerId]
    model_bytes: int
    _up_free_s: dict[int, float] = field(default_factory=dict)
    _down_free_s: dict[int, float] = field(default_factory=dict)

    def carry(self, source: int, target: int, at_s: float) -> float:
        up, down = (
            self.conditions.bytes_per_s(self.peers[source])[0],
            self.conditions.bytes_per_s(self.peers[target])[1],
        )
        starts_s = max(at_s, self._up_free_s.get(source, 0.0))
        left_s, way_s = starts_s + self.model_bytes / up, self.way_s(source, target)
        begins_s = max(starts_s + way_s, self._down_free_s.get(target, 0.0))
        landed_s = max(left_s + way_s, begins_s + self.model_bytes / down)
        self._up_free_s[source], self._down_free_s[target] = left_s, landed_s
        return landed_s

    def way_s(self, source: int, target: int) -> float:
        """The mean of what jitter makes of it."""
        delay_s = self.conditions.one_way_s(self.peers[source], self.peers[target])
        return delay_s * (1 + self.conditions.jitter / 2)

    def central(self) -> int:
        """The node with the lowest median distance: a FedAvg server stands beside it."""
        others = range(len(self.peers))
        return min(others, key=lambda here: statistics.median(self.way_s(here, there) for there in others))


def steps_of(world: World) -> Iterator[Step]:
    """Its rounds, one after the other. Raises LearnerError."""
    if world.protocol == "fedavg":
        return fedavg(world)
    return decentralised(world, senders_of(world.protocol, world))


def _require_possible(protocol: str, scenario: Scenario) -> None:
    """Raises OperatorError."""
    if scenario.nodes < 2:
        raise OperatorError(f"--nodes {scenario.nodes}: {protocol} needs at least 2")
    if scenario.events:
        raise OperatorError(f"--protocol {protocol}: nothing befalls a baseline; leave --kill, --join and events out")
    if scenario.conditions.request_loss or scenario.conditions.gossip_loss:
        raise OperatorError(f"--protocol {protocol}: a baseline's network loses nothing; leave --loss out")


# -- FedAvg -----------------------------------------------------------------------------------------------------------
def fedavg(world: World) -> Iterator[Step]:
    """The server is at the swarm's centre; its own line and its merging cost nothing but the merging's virtual time."""
    model, now_s, sent = world.theta0, 0.0, 0
    sampled = min(world.manifest.modest.trainers, world.nodes)
    server = world.lines.central()
    for round in range(1, world.rounds + 1):
        trainers = sorted(world.draw("sample", round).sample(range(world.nodes), sampled))
        updates, ends_s = [], []
        for node in trainers:
            update, seconds = world.train(node, model, round)
            updates.append(update)
            ends_s.append(now_s + _there_and_back(world.lines, server, node, seconds))
        model = world.engine.merge(updates, [len(world.data[node].rows) for node in trainers])
        now_s = max(ends_s) + sampled * world.cost.merge_s
        sent += 2 * sampled
        yield Step(round, now_s, sent, [model], trainers)


def _there_and_back(lines: Lines, server: int, node: int, seconds: float) -> float:
    up, down = lines.conditions.bytes_per_s(lines.peers[node])
    ways_s = lines.way_s(server, node) + lines.way_s(node, server)
    return ways_s + lines.model_bytes / down + seconds + lines.model_bytes / up


# -- everybody trains -------------------------------------------------------------------------------------------------
def decentralised(world: World, senders: Senders) -> Iterator[Step]:
    """All train, send, and take the plain mean of their own model and those that came: X <- W (X - lr G)."""
    models, ready_s, sent = [world.theta0] * world.nodes, [0.0] * world.nodes, 0
    everybody = range(world.nodes)
    for round in range(1, world.rounds + 1):
        sources = senders(round)
        trained = [world.train(node, models[node], round) for node in everybody]
        done_s = [began_s + seconds for began_s, (_, seconds) in zip(ready_s, trained, strict=True)]
        models = [world.mean([trained[node][0], *(trained[peer][0] for peer in sources[node])]) for node in everybody]
        ready_s = _exchanged(world, sources, done_s)
        sent += sum(map(len, sources))
        yield Step(round, max(ready_s), sent, models, everybody)


def _exchanged(world: World, sources: Sequence[Sequence[int]], done_s: Sequence[float]) -> list[float]:
    """When each node has received and merged all that is sent to it."""
    ready_s = list(done_s)
    transfers = [(source, target) for target, each in enumerate(sources) for source in each]
    for source, target in sorted(transfers, key=lambda pair: (done_s[pair[0]], pair)):
        ready_s[target] = max(ready_s[target], world.lines.carry(source, target, done_s[source]))
    return [at_s + (1 + len(each)) * world.cost.merge_s for at_s, each in zip(ready_s, sources, strict=True)]


def senders_of(protocol: str, world: World) -> Senders:
    nodes = world.nodes
    if protocol == "d-psgd":
        return one_peer(nodes)
    if protocol == "d-psgd-8":
        graph = regular(nodes, min(DEGREE, (nodes - 1) // 2 * 2), world.draw("graph"))
        return lambda round: graph
    copies = min(nodes - 1, math.ceil(math.log2(nodes)))
    draw = drawn if protocol == "epidemic" else dealt
    return lambda round: draw(nodes, copies, world.draw("peers", round))


def one_peer(nodes: int) -> Senders:
    """In round k from the peer 2^(k mod log2 n) places back: any model reaches all in log2 n rounds."""
    hops = [2**power for power in range(math.ceil(math.log2(nodes)))]
    return lambda round: [[(node - hops[(round - 1) % len(hops)]) % nodes] for node in range(nodes)]


def drawn(nodes: int, copies: int, rng: random.Random) -> list[list[int]]:
    """EL-Local: each draws whom it sends to, so some receive more than others."""
    sources: list[list[int]] = [[] for _ in range(nodes)]
    for node in range(nodes):
        for target in rng.sample([peer for peer in range(nodes) if peer != node], copies):
            sources[target].append(node)
    return sources


def dealt(nodes: int, copies: int, rng: random.Random) -> list[list[int]]:
    """EL-Oracle: everybody sends and receives as many: steps of a ring whose order and steps are drawn afresh.

    E[W'W] depends on the degree alone once the order is uniform, so this mixes as a uniform regular graph does.
    """
    order, steps = rng.sample(range(nodes), nodes), rng.sample(range(1, nodes), copies)
    sources: list[list[int]] = [[] for _ in range(nodes)]
    for place, node in enumerate(order):
        sources[node] = sorted(order[(place - step) % nodes] for step in steps)
    return sources


def regular(nodes: int, degree: int, rng: random.Random) -> list[list[int]]:
    """A random connected graph in which every node has `degree` (even) neighbours.

    From a ring with its nearest chords, edges a-b and c-d become a-d and c-b until chance has mixed them.
    """
    assert degree % 2 == 0
    if degree == 0:  # two nodes
        return [[1], [0]]
    edges = [(node, (node + step) % nodes) for node in range(nodes) for step in range(1, degree // 2 + 1)]
    known = {frozenset(edge) for edge in edges}
    swaps = 10 * len(edges)
    while swaps > 0 or not _connected(neighbours(nodes, edges)):
        _swap(edges, known, rng)
        swaps -= 1
    return neighbours(nodes, edges)


def _swap(edges: list[tuple[int, int]], known: set[frozenset[int]], rng: random.Random) -> None:
    first, second = rng.sample(range(len(edges)), 2)
    (a, b), (c, d) = edges[first], edges[second]
    new = {frozenset((a, d)), frozenset((c, b))}
    if len({a, b, c, d}) == 4 and not new & known:
        known -= {frozenset((a, b)), frozenset((c, d))}
        known |= new
        edges[first], edges[second] = (a, d), (c, b)


def neighbours(nodes: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in edges:
        found[a].append(b)
        found[b].append(a)
    return [sorted(each) for each in found]


def _connected(graph: Sequence[Sequence[int]]) -> bool:
    seen, ahead = {0}, [0]
    while ahead:
        new = set(graph[ahead.pop()]) - seen
        seen |= new
        ahead += sorted(new)
    return len(seen) == len(graph)


# -- the report -------------------------------------------------------------------------------------------------------
def _point(world: World, step: Step) -> Point:
    accuracy = statistics.fmean(world.accuracy(step.models).values())
    wire = step.models_sent * world.model_bytes
    return Point(round=step.round, virtual_s=step.virtual_s, wire_bytes=wire, accuracy=accuracy)


def _report(world: World, steps: Sequence[Step], models: Sequence[bytes], curve: Sequence[Point]) -> SimulationReport:
    """`models` are the last."""
    last, ends_s = steps[-1], [0.0, *(step.virtual_s for step in steps)]
    accuracy = {f"node-{node}": value for node, value in world.accuracy(models).items()}
    values = accuracy.values()
    held = [digest_of(model) for model in models] * (world.nodes // len(models))
    return SimulationReport(
        protocol=world.protocol,
        task=world.manifest.task,
        nodes=world.nodes,
        rounds=last.round,
        seconds=last.virtual_s,
        seconds_per_round=statistics.median(end - began for began, end in itertools.pairwise(ends_s)),
        accuracy=Accuracy(mean=statistics.fmean(values), min=min(values), max=max(values), per_node=accuracy),
        bytes=_bytes(last.models_sent * world.model_bytes, last.round),
        digests=Digests(agreeing=max(map(held.count, held)), distinct=len(set(held))),
        committees=[_committee(step) for step in steps if world.protocol == "fedavg"],
        offences=[],
        seed=world.seed,
        trace=digest_of(b"".join(held)).hex(),
        virtual_s=last.virtual_s,
        events=[],
        curve=list(curve),
        broken=[],
    )


def _bytes(sent: int, rounds: int) -> Bytes:
    """Models and nothing else."""
    each = sent / rounds
    return Bytes(wire_total=sent, model_payload=sent, per_round=each, minimum_per_round=each, ratio=1.0)


def _committee(step: Step) -> CommitteeOf:
    return CommitteeOf(round=step.round, trainers=[f"node-{node}" for node in step.trainers], aggregators=[SERVER])
