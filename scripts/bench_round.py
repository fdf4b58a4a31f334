"""How long a MoDeST round takes in real processes, what it costs, and where its time goes.

By default four nodes train the perceptron 784-128-10 (101,770 parameters) on 500 images each, one epoch in batches of
20, s = 4, a = 1. Compared with the same training by the same workers without a network, taken before and after in the
same run. A second, shorter swarm of traced nodes tells the pieces of a round.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from bench import swarm, timeline, usage
from bench.compute import rounds_alone
from bench.figures import Aim, Findings, Spread, environment, tell
from processes import Failed
from rich.console import Console

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.shard import Shard
from gossipnode.report import Report, report_of
from gossipnode.status.report import Status

WARM_UP = 3  # rounds left out: connections are made, caches filled, deadlines learned
TRACED = 20  # rounds of the traced swarm, at most


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one swarm."""

    seconds: list[float]  # of each round after the warm-up, as the node that saw most of them measured it
    cpu_s: float  # a round, all processes
    cores: float  # used on average
    report: Report


def plan_of(nodes: int, task: str, shards: int, rounds: int) -> swarm.Plan:
    modest = [f"modest.trainers={nodes}", "modest.aggregators=1", "training.epochs=1", "training.batch=20"]
    return swarm.Plan(nodes, task, shards, [*modest, f"start_peers={nodes}", f"rounds={rounds}"])


def measured(plan: swarm.Plan, rounds: int, console: Console, traces: Path | None = None) -> Measured:
    with swarm.running(plan, traces) as peers:
        console.print(f"{plan.nodes} nodes are starting" + (" (traced)" if traces else ""))
        first = peers[:1]
        swarm.wait_until(lambda: swarm.round_of(peers[0]) >= WARM_UP, peers, first, "in round 3")
        pids = [pid for peer in peers for pid in usage.tree(peer.process.pid)]
        cpu_s, began, from_round = usage.cpu_s(pids), time.monotonic(), swarm.round_of(peers[0])
        last = rounds - 1  # the CPU's reading shall not lie in the idle time after the end
        swarm.wait_until(lambda: swarm.round_of(peers[0]) >= last, peers, first, f"in round {last}", poll_s=0.1)
        used_s, lasted_s = usage.cpu_s(pids) - cpu_s, time.monotonic() - began
        done = max(1, swarm.round_of(peers[0]) - from_round)
        swarm.wait_until(lambda: all(peer.done for peer in peers), peers, peers, "finished")
        statuses = {peer.name: peer.status for peer in peers if peer.status is not None}
    console.print(f"{rounds} rounds done")
    return Measured(seconds_of(statuses), used_s / done, used_s / lasted_s, report_of(statuses, math.nan))


def seconds_of(statuses: dict[str, Status]) -> list[float]:
    """The durations that the most complete history tells."""
    histories = ([each for each in status.history if each.round > WARM_UP] for status in statuses.values())
    return [each.seconds for each in max(histories, key=len)]


def traced(plan: swarm.Plan, rounds: int, console: Console) -> tuple[dict[str, float], list[tuple[str, float, float]]]:
    """The pieces of a round, and what was said in one."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measured(plan, rounds, console, Path(folder))
        nodes: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return timeline.pieces(nodes, skip=WARM_UP), timeline.said(nodes, rounds)


def compare(nodes: int, task: str, shards: int, rounds: int, repeats: int, console: Console) -> Findings:
    config = LearnerConfig(task=task, shard=Shard(count=shards))
    alone: list[float] = []
    swarms: list[Measured] = []
    for repeat in range(repeats):
        console.print(f"part {repeat + 1} of {repeats}: compute alone, then the swarm")
        alone += rounds_alone(config, nodes, max(3, rounds // 2), console.print)
        swarms.append(measured(plan_of(nodes, task, shards, rounds), rounds, console))
    alone += rounds_alone(config, nodes, max(3, rounds // 2), console.print)
    few = min(rounds, TRACED)
    where, messages = traced(plan_of(nodes, task, shards, few), few, console)
    return findings(swarms, alone, where, messages)


def findings(
    swarms: list[Measured],
    alone: list[float],
    where: dict[str, float],
    messages: list[tuple[str, float, float]],
) -> Findings:
    seconds = [each for one in swarms for each in one.seconds]
    round_s, alone_s = Spread.of(seconds), Spread.of(alone)
    data = [one.report.bytes for one in swarms]
    ratio, per_round = statistics.fmean(each.ratio for each in data), statistics.fmean(each.per_round for each in data)
    minimum = statistics.fmean(each.minimum_per_round for each in data)
    cpu_s = statistics.fmean(one.cpu_s for one in swarms)
    rows = [
        ("seconds a round", round_s.text()),
        ("  mean", f"{statistics.fmean(seconds):.3f}"),
        ("  each swarm's median", ", ".join(f"{statistics.median(one.seconds):.3f}" for one in swarms)),
        ("compute alone, seconds a round", alone_s.text()),
        ("round / compute alone", f"{round_s.median / alone_s.median:.2f}"),
        ("CPU seconds a round, all processes", f"{cpu_s:.3f}"),
        ("cores busy", f"{statistics.fmean(one.cores for one in swarms):.2f}"),
        ("wire bytes a round", f"{per_round:,.0f}"),
        ("  minimum (models that must move)", f"{minimum:,.0f}"),
        ("  ratio", f"{ratio:.4f}"),
        *((f"piece: {piece}", f"{1e3 * piece_s:.0f} ms") for piece, piece_s in where.items()),
        *((f"said: {kind}", f"{count:.1f} a round, {size:,.0f} bytes") for kind, count, size in messages[:8]),
    ]
    figures = {
        "round_s": seconds,
        "compute_alone_s": alone,
        "cpu_s_per_round": [one.cpu_s for one in swarms],
        "cores_busy": [one.cores for one in swarms],
        "wire_bytes_per_round": [each.per_round for each in data],
        "minimum_bytes_per_round": [each.minimum_per_round for each in data],
        "pieces_s": where,
        "said_per_round": messages,
    }
    aims = [Aim("median seconds a round", round_s.median, 0.3), Aim("wire bytes / minimum", ratio, 1.05)]
    return Findings("round", rows, figures, aims)


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=4, type=click.IntRange(2, 64), help="processes; all of them train in each round")
@click.option("--task", default="mnist-mlp", help="what they learn")
@click.option("--shards", default=8, type=click.IntRange(2), help="parts of the data, of which each node has one")
@click.option("--rounds", default=30, type=click.IntRange(WARM_UP + 2), help="of each swarm")
@click.option("--repeats", default=3, type=click.IntRange(1), help="swarms to measure")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(nodes: int, task: str, shards: int, rounds: int, repeats: int, json_path: Path | None) -> None:
    """Measure rounds of real nodes on this machine."""
    console, where = Console(), environment()
    try:
        found = compare(nodes, task, max(nodes, shards), rounds, repeats, console)
    except Failed as failure:
        raise click.ClickException(str(failure)) from failure
    tell(found, where, console, json_path)


if __name__ == "__main__":
    main()
