"""How well gossip learning merges: rules and first models, speeds, sorted labels; and what it costs with many nodes.

Simulated swarms (`gossipnode.simulation`), one a row, and beside them FedAvg by an ideal server and nodes that train
alone, on the same shards with the same number of trainings. Accuracy is the mean over nodes on the held-out data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from gossipnode.simulation import Scenario, Swarm, signer_of

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
    per_class: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    nodes: int
    seed: int
    accuracy: float  # mean over the nodes
    worst: float  # of one node
    mb: float  # sent by all
    kb_node_minute: float
    virtual_s: float
    wall_s: float
    classes: list[float]  # recall of each class, mean over the nodes, if asked for


def different(rule: str, **gossip: object) -> Tables:
    return {"merging": {"rule": rule}, "gossip": {"init": "different", **gossip}}


def common(rule: str, **gossip: object) -> Tables:
    return {"merging": {"rule": rule}, "gossip": {"init": "common", **gossip}}


RULES = ("mean", "corrected")
TABLES: Mapping[str, Sequence[Row]] = {
    "init": (
        Row("alone, different", {"gossip": {"init": "different"}}, kind="alone"),
        *(Row(f"{rule}, different", different(rule)) for rule in RULES),
        *(Row(f"{rule}, different, beta .5", different(rule, beta=0.5)) for rule in RULES),
        *(Row(f"{rule}, common", common(rule)) for rule in RULES),
        Row("FedAvg", kind="fedavg"),
    ),
    "speeds": tuple(
        Row(weighting, common("corrected", weighting=weighting), "gossip", None, "labels", (4.0, 2.0, 1.0), True)
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
        Row("FedAvg", kind="fedavg", partition="labels"),
    ),
    "bytes": tuple(Row(f"{n} nodes", nodes=n) for n in (10, 50, 200)),
}


def measured(row: Row, task: str, nodes: int, trainings: int, seed: int, asked: Tables) -> Found:
    nodes = row.nodes or nodes
    tables = merged(
        {"task": task, "protocol": "gossip", "rounds": trainings, "seed": seed, "start_peers": nodes}, row.tables, asked
    )
    began, rate = time.monotonic(), 0.0
    if row.kind == "fedavg":
        tables = merged(tables, {"protocol": "fedavg", "modest": {"trainers": min(10, nodes)}})
        report = run_baseline(Scenario(nodes, seed, tables, row.partition, curve=False)).report
        mine, mb, virtual_s = list(report.accuracy.per_node.values()), report.bytes.wire_total / 1e6, report.virtual_s
        classes: list[float] = []
    elif row.kind == "alone":
        mine, mb, virtual_s, classes = alone(tables, row.partition, nodes, trainings, seed), 0.0, 0.0, []
    else:
        scenario = Scenario(
            nodes, seed, tables, row.partition, slowdowns=row.slowdowns, curve=False, limit_s=trainings * 60.0
        )
        marks: list[tuple[float, int]] = []
        swarm = Swarm(scenario, lambda tick: marks.append((tick.virtual_s, swarm.wire_bytes())))
        report, _ = run_deterministic(swarm.run, seed=seed)
        for finding in report.broken:
            raise click.ClickException(f"{row.name}: {finding}")
        mine, mb, virtual_s = list(report.accuracy.per_node.values()), report.bytes.wire_total / 1e6, report.virtual_s
        classes = recalls(swarm) if row.per_class else []
        rate = steady(marks, nodes)
    return Found(
        name=row.name,
        nodes=nodes,
        seed=seed,
        accuracy=fmean(mine),
        worst=min(mine),
        mb=mb,
        kb_node_minute=rate,
        virtual_s=virtual_s,
        wall_s=time.monotonic() - began,
        classes=classes,
    )


def steady(marks: Sequence[tuple[float, int]], nodes: int) -> float:
    """kB that a node sends in a minute, start-up and end left out: of the middle half."""
    (from_s, before), (to_s, after) = marks[len(marks) // 4], marks[3 * len(marks) // 4]
    return (after - before) / 1000 / nodes / (to_s - from_s) * 60


def alone(tables: Tables, partition: str, nodes: int, trainings: int, seed: int) -> list[float]:
    """Of some nodes that never hear of each other."""
    swarm = InlineSwarm(LearnerConfig.of(draft(tables, signer_of(seed, 0).peer)))
    found = []
    for index in range(0, nodes, max(1, nodes // ALONE)):
        data = swarm.engine.data(Shard(index=index, count=nodes, partition=partition, seed=seed))
        model = swarm.engine.initial(seed + index)
        for training in range(trainings):
            model = swarm.engine.train(model, data, seed=1000 * index + training).blob
        found.append(swarm.engine.evaluate(model, data)["accuracy"])
    return found


@torch.no_grad()
def recalls(swarm: Swarm) -> list[float]:
    """Of each class, the mean over the nodes' models."""
    engine, right = swarm.compute.engine, [0.0] * CLASSES
    for member in swarm.members:
        model = member.node.protocol.model
        assert model is not None
        blob = member.blobs.peek(model)
        assert blob is not None
        data = engine.data(Shard(index=member.index, count=len(swarm.members), seed=swarm.scenario.seed))
        engine.evaluate(blob, data)
        labels = data.test[1]
        for label in range(len(right)):
            batch = tuple(tensor[labels == label] for tensor in data.test)
            right[label] += engine.task.metrics(engine.flat.model, batch)["accuracy"]
    return [each / len(swarm.members) for each in right]


def line(found: Found) -> str:
    classes = "  ".join(f"{each:.2f}" for each in found.classes)
    return (
        f"{found.name:32} {found.nodes:4} nodes  accuracy {found.accuracy:.4f}, worst {found.worst:.4f}"
        f"  {found.mb:8.1f} MB, {found.kb_node_minute:8.0f} kB a node and minute  {found.wall_s:.0f} s  {classes}"
    )


def findings(found: Sequence[Found]) -> Findings:
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(each.name, []).append(each)
    rows = [(name, Spread.of(each.accuracy for each in group).text()) for name, group in groups.items()]
    return Findings("gossip", rows, {"rows": [asdict(each) for each in found]}, [])


def all_measured(
    rows: Sequence[Row], seeds: range, say: Callable[[str], None], task: str, nodes: int, trainings: int, asked: Tables
) -> list[Found]:
    found = []
    for row in rows:
        for seed in seeds:
            found.append(measured(row, task, nodes, trainings, seed, asked))
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
    settings: Sequence[str],
    json_path: Path | None,
) -> None:
    """Measure one TABLE of docs/gossip.md."""
    console, where = Console(width=200), environment()
    rows = [row for row in TABLES[table] if only in row.name]
    asked = settings_tables(settings)
    chosen, say = range(first_seed, first_seed + seeds), lambda text: console.print(text, highlight=False)
    found = all_measured(rows, chosen, say, task, nodes, trainings, asked)
    tell(findings(found), where, console, json_path)


if __name__ == "__main__":
    main()
