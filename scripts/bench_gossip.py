"""How well gossip learning merges: rules and first models, speeds, sorted labels; and what it costs with many nodes.

Simulated swarms (`gossipnode.simulation`), one a row, and beside them FedAvg by an ideal server and nodes that train
alone, on the same shards with the same number of trainings. Accuracy is the mean over nodes on the held-out data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from bench.figures import Findings, Spread, environment, tell
from rich.console import Console

from gossipnode.baselines import run_baseline
from gossipnode.compute.inline import InlineSwarm
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.shard import Shard
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.newrun import draft, merged, settings_tables
from gossipnode.simulation import Scenario, SimulationReport, Swarm, signer_of

Tables = Mapping[str, Any]
CLASSES = 10
ALONE = 8  # nodes that are trained alone, evenly spread


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    tables: Tables = field(default_factory=dict)
    kind: str = "gossip"  # or fedavg, alone
    nodes: int | None = None
    partition: str = "iid"
    slowdowns: tuple[float, ...] = (1.0,)
    until_s: float = 0.0  # virtual seconds: all train until then, instead of so often, and classes are told apart
    batch_s: float = 0.002  # virtual seconds of a step of SGD; by default trainings are quick, and nodes rest


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    nodes: int
    seed: int
    accuracy: float  # mean over the nodes
    worst: float  # of one node
    mb: float = 0.0  # sent by all
    mb_to_target: float | None = None  # sent by all when the accuracy asked for was there
    mb_start: float = 0.0  # that a node sent beside models before everybody had trained once
    mb_minute: float = 0.0  # that a node sends in a minute, start and end left out
    mb_minute_models: float = 0.0  # of these, models that were pulled
    virtual_s: float = 0.0
    wall_s: float = 0.0
    curve: Sequence[tuple[float, float]] = ()  # MB that all have sent, accuracy; if a target is asked for
    classes: Sequence[float] = ()  # recall of each class, mean over the nodes, if asked for


@dataclass(frozen=True, slots=True)
class Rates:
    """See Found."""

    mb_start: float
    mb_minute: float
    mb_minute_models: float


@dataclass(frozen=True, slots=True)
class Mark:
    """The swarm at one moment."""

    virtual_s: float
    wire: int  # bytes sent
    models: int  # bytes, of these
    least: int  # trainings of a node
    most: int


def different(rule: str, **gossip: object) -> Tables:
    return {"merging": {"rule": rule}, "gossip": {"init": "different", **gossip}}


def common(rule: str, **gossip: object) -> Tables:
    return {"merging": {"rule": rule}, "gossip": {"init": "common", **gossip}}


RULES = ("mean", "corrected")
TABLES: Mapping[str, Sequence[Row]] = {
    "init": (
        Row("alone, different", {"gossip": {"init": "different"}}, kind="alone"),
        *(Row(f"{rule}, different", different(rule)) for rule in RULES),
        *(Row(f"{rule}, one half own, different", different(rule, beta=0.5)) for rule in RULES),
        *(Row(f"{rule}, common", common(rule)) for rule in RULES),
        Row("FedAvg, ten a round", {"modest": {"trainers": 10}}, kind="fedavg"),
        Row("FedAvg, fifty a round", {"modest": {"trainers": 50}}, kind="fedavg"),
    ),
    "speeds": tuple(
        Row(weighting, common("corrected", weighting=weighting), "gossip", None, "labels", (4.0, 2.0, 1.0), 80.0)
        for weighting in ("samples", "fedfix")
    ),
    "labels": (
        Row("alone, different", {"gossip": {"init": "different"}}, kind="alone", partition="labels"),
        *(
            Row(f"{rule}, {first.__name__}, {share}", first(rule, beta=beta), partition="labels")
            for first in (different, common)
            for share, beta in (("even", 0.0), ("beta .5", 0.5))
            for rule in RULES
        ),
        Row("geometric-median, common", common("geometric-median"), partition="labels"),
        Row("FedAvg, ten a round", {"modest": {"trainers": 10}}, kind="fedavg", partition="labels"),
    ),
    "long": (Row("corrected, different, 8 s a training", different("corrected"), batch_s=1.0),),
    "bytes": tuple(Row(f"{n} nodes", nodes=n) for n in (10, 50, 200)),
}


def measured(row: Row, task: str, nodes: int, trainings: int, seed: int, asked: Tables, target: float) -> Found:
    nodes, began = row.nodes or nodes, time.monotonic()
    tables = merged(
        {"task": task, "protocol": "gossip", "rounds": trainings, "seed": seed, "start_peers": nodes}, row.tables, asked
    )
    scenario = Scenario(
        nodes,
        seed,
        tables if row.kind != "fedavg" else merged(tables, {"protocol": "fedavg"}),
        row.partition,
        slowdowns=row.slowdowns,
        curve=target > 0,
        limit_s=row.until_s or trainings * 60.0,
        batch_s=row.batch_s,
    )
    found = {"fedavg": central, "alone": alone, "gossip": gossiped}[row.kind](row, scenario, target)
    return replace(found, wall_s=time.monotonic() - began)


def central(row: Row, scenario: Scenario, target: float) -> Found:
    report = run_baseline(scenario, evaluate_every=1).report
    return found_of(row, scenario, report, report.accuracy.per_node.values(), target)


def gossiped(row: Row, scenario: Scenario, target: float) -> Found:
    marks: list[Mark] = []
    if row.until_s:
        scenario = replace(scenario, tables=merged(scenario.tables, {"rounds": 0}))
    swarm = Swarm(scenario, lambda tick: marks.append(mark(swarm, tick.virtual_s)))
    report, _ = run_deterministic(swarm.run, seed=scenario.seed)
    for finding in report.broken:
        raise click.ClickException(f"{row.name}: {finding}")
    recalls = recalls_of(swarm) if row.until_s else []
    mine = [fmean(each) for each in recalls] or list(report.accuracy.per_node.values())
    found = found_of(row, scenario, report, mine, target)
    classes = [fmean(each) for each in zip(*recalls, strict=True)]
    return replace(found, classes=classes, **asdict(traffic(marks, scenario.nodes)))


def found_of(row: Row, scenario: Scenario, report: SimulationReport, mine: Collection[float], target: float) -> Found:
    curve = [(point.wire_bytes / 1e6, point.accuracy or 0.0) for point in report.curve]
    enough = [mb for mb, accuracy in curve if accuracy >= target]
    return Found(
        name=row.name,
        nodes=scenario.nodes,
        seed=scenario.seed,
        accuracy=fmean(mine),
        worst=min(mine),
        mb=report.bytes.wire_total / 1e6,
        mb_to_target=enough[0] if target and enough else None,
        curve=curve,
        virtual_s=report.virtual_s,
    )


# -- bytes ------------------------------------------------------------------------------------------------------------
def mark(swarm: Swarm, now_s: float) -> Mark:
    traffic = [life.transport.traffic() for member in swarm.members for life in member.lives]
    ages = [member.node.protocol.round for member in swarm.members]
    models = sum(each.blob_sent for each in traffic)
    return Mark(now_s, swarm.wire_bytes(), models, min(ages), max(ages))


def traffic(marks: Sequence[Mark], nodes: int) -> Rates:
    """Steady: after everybody has trained a quarter of what the quickest does, and before the first has done it all."""
    most = marks[-1].most
    steady = [each for each in marks if each.least >= most / 4 and each.most < most] or [marks[0], marks[-1]]
    first, last = steady[0], steady[-1]
    minutes = max(last.virtual_s - first.virtual_s, 1.0) / 60 * nodes * 1e6
    began = next((each for each in marks if each.least > 0), marks[-1])
    return Rates(
        mb_start=(began.wire - began.models) / 1e6 / nodes,
        mb_minute=(last.wire - first.wire) / minutes,
        mb_minute_models=(last.models - first.models) / minutes,
    )


# -- what they have learned -------------------------------------------------------------------------------------------
def alone(row: Row, scenario: Scenario, target: float) -> Found:
    """Some nodes that never hear of each other."""
    nodes, seed = scenario.nodes, scenario.seed
    manifest = draft(scenario.tables, signer_of(seed, 0).peer)
    swarm = InlineSwarm(LearnerConfig.of(manifest))
    found = []
    for index in range(0, nodes, max(1, nodes // ALONE)):
        data = swarm.engine.data(Shard(index=index, count=nodes, partition=row.partition, seed=seed))
        model = swarm.engine.initial(seed + index)
        for training in range(manifest.rounds):
            model = swarm.engine.train(model, data, seed=1000 * index + training).blob
        found.append(swarm.engine.evaluate(model, data)["accuracy"])
    return Found(name=row.name, nodes=nodes, seed=seed, accuracy=fmean(found), worst=min(found))


@torch.no_grad()
def recalls_of(swarm: Swarm) -> list[list[float]]:
    """Of each node's model, of each class."""
    engine, found = swarm.compute.engine, []
    for member in swarm.members:
        model = member.node.protocol.model
        assert model is not None
        blob = member.blobs.peek(model)
        assert blob is not None
        data = engine.data(Shard(index=member.index, count=len(swarm.members), seed=swarm.scenario.seed))
        engine.evaluate(blob, data)
        labels = data.test[1]
        batches = [tuple(tensor[labels == label] for tensor in data.test) for label in range(CLASSES)]
        found.append([engine.task.metrics(engine.flat.model, batch)["accuracy"] for batch in batches])
    return found


def where(row: Row, task: str, nodes: int, seed: int) -> str:
    """Which part of each class lies on the nodes of each speed."""
    tables = {"task": task, "protocol": "gossip", "seed": seed}
    engine = InlineSwarm(LearnerConfig.of(draft(tables, signer_of(seed, 0).peer))).engine
    held = {slowdown: torch.zeros(CLASSES) for slowdown in row.slowdowns}
    for index in range(nodes):
        data = engine.data(Shard(index=index, count=nodes, partition=row.partition, seed=seed))
        held[row.slowdowns[index % len(row.slowdowns)]] += torch.bincount(data.pool[1][data.rows], minlength=CLASSES)
    whole = sum(held.values(), torch.zeros(CLASSES))
    parts = {slowdown: "  ".join(f"{part:.2f}" for part in each / whole) for slowdown, each in held.items()}
    return "\n".join(
        f"{f'of each class, on nodes slowed {slowdown:g} times':100}{text}" for slowdown, text in parts.items()
    )


def line(found: Found) -> str:
    classes = "  ".join(f"{each:.2f}" for each in found.classes)
    to = "" if found.mb_to_target is None else f", {found.mb_to_target:.1f} to the target"
    return (
        f"{found.name:32} {found.nodes:4} nodes  accuracy {found.accuracy:.4f}, worst {found.worst:.4f}"
        f"  {found.mb:8.1f} MB{to}; a node {found.mb_start:.2f} to begin, {found.mb_minute:.2f} a minute"
        f" ({found.mb_minute_models:.2f} models)  {found.wall_s:.0f} s  {classes}"
    )


def findings(found: Sequence[Found]) -> Findings:
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(each.name, []).append(each)
    rows = [(name, Spread.of(each.accuracy for each in group).text()) for name, group in groups.items()]
    return Findings("gossip", rows, {"rows": [asdict(each) for each in found]}, [])


def all_measured(
    rows: Sequence[Row],
    seeds: range,
    say: Callable[[str], None],
    task: str,
    nodes: int,
    trainings: int,
    asked: Tables,
    target: float,
) -> list[Found]:
    found = []
    for row in rows:
        for seed in seeds:
            if row.until_s and row is rows[0]:
                say(where(row, task, nodes, seed))
            found.append(measured(row, task, nodes, trainings, seed, asked, target))
            say(line(found[-1]))
    return found


@click.command(context_settings={"show_default": True})
@click.argument("table", type=click.Choice(list(TABLES)))
@click.option("--task", default="digits", help="what they learn")
@click.option("--nodes", default=10, type=click.IntRange(2), help="of each swarm")
@click.option("--trainings", default=40, type=click.IntRange(1), help="of each node, or rounds of FedAvg")
@click.option("--seeds", default=1, type=click.IntRange(1), help="of each row")
@click.option("--first-seed", default=1, type=click.IntRange(0), help="the others follow it")
@click.option("--only", default="", help="rows whose name contains this")
@click.option("--target", default=0.0, type=click.FloatRange(0, 1), help="accuracy: what it costs to get there")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="of the manifest, for all rows")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(
    table: str,
    task: str,
    nodes: int,
    trainings: int,
    seeds: int,
    first_seed: int,
    only: str,
    target: float,
    settings: Sequence[str],
    json_path: Path | None,
) -> None:
    """Measure one TABLE of docs/gossip.md."""
    console, machine = Console(width=240), environment()
    rows = [row for row in TABLES[table] if only in row.name]
    asked = settings_tables(settings)
    chosen, say = range(first_seed, first_seed + seeds), lambda text: console.print(text, highlight=False)
    found = all_measured(rows, chosen, say, task, nodes, trainings, asked, target)
    tell(findings(found), machine, console, json_path)


if __name__ == "__main__":
    main()
