"""MoDeST beside FedAvg, D-PSGD and epidemic learning: rounds, bytes and virtual time until a target accuracy.

MoDeST is the real thing: full nodes over the simulated network, start-up, views, pings and pulls counted. The baselines
(`gossipnode.baselines`) send nothing but models and lose none. All have the same shards, theta0, local work and places.
MoDeST and FedAvg keep the manifest's learning rate unless `--tuned`; the others have the best of a grid, chosen by
`--choose` on a seed that the comparison does not use.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from bench.figures import Aim, Spread, environment
from rich.console import Console
from rich.table import Table

from gossipnode.baselines import BASELINES, run_baseline
from gossipnode.curves import Point, plot, reached
from gossipnode.errors import OperatorError
from gossipnode.net.simulated import Conditions
from gossipnode.net.simulated_places import regions
from gossipnode.newrun import Tables, merged, settings_tables
from gossipnode.simulation import Scenario, simulate
from gossipnode.sweep import faults_of, seeds_of

MODEST: Final = "modest"
LEAN: Final = "modest, no pulls"  # as in the paper: nodes outside the committee fetch nothing before the last round
VARIANTS: Final[Mapping[str, Tables]] = {MODEST: {}, LEAN: {"modest": {"pull_every": 1_000_000}}}
ALL: Final = (*VARIANTS, *BASELINES)
GRID: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
# Of `--choose --seeds 100:101 --rounds 50`: 100 nodes on mnist, 10 trainers; docs/simulation.md has what it found.
RATES: Final[Mapping[str, float]] = {"d-psgd": 0.1, "d-psgd-8": 0.2, "epidemic": 0.2, "epidemic-oracle": 0.2}
TUNED: Final = 0.2  # FedAvg's of `--choose`, for it and for MoDeST, whose rounds are the same
EVALUATE_EVERY: Final = 2  # rounds, where all nodes train: eight models each time
WIDTH: Final = 125  # columns of the table, whatever the terminal
WINDOW: Final = 5  # rounds whose mean must reach the target for it to be held


@dataclass(frozen=True, slots=True)
class Job:
    """One run, sent to a process of its own."""

    label: str
    seed: int
    nodes: int
    tables: Tables
    bandwidth: float  # bytes/s


@dataclass(frozen=True, slots=True)
class Done:
    label: str
    seed: int
    lr: float
    curve: list[Point]
    final: float  # accuracy after the last round
    wall_s: float
    faults: tuple[str, ...] = ()  # its figures are worth nothing then


def job_of(label: str, seed: int, nodes: int, tables: Tables, bandwidth: float, lr: float | None) -> Job:
    protocol = MODEST if label in VARIANTS else label
    own: Tables = {"protocol": protocol, "seed": seed, "start_peers": nodes}
    return Job(
        label,
        seed,
        nodes,
        merged(own, VARIANTS.get(label, {}), tables, {"training": {"lr": lr}} if lr else {}),
        bandwidth,
    )


def done(job: Job) -> Done:
    """Raises OperatorError."""
    conditions = Conditions(delay=regions(job.seed), bandwidth=job.bandwidth)
    scenario = Scenario(nodes=job.nodes, seed=job.seed, tables=job.tables, conditions=conditions)
    if job.label in VARIANTS:
        outcome = simulate(scenario)
    else:
        outcome = run_baseline(scenario, evaluate_every=1 if job.label == "fedavg" else EVALUATE_EVERY)
    rate = float(job.tables.get("training", {}).get("lr", math.nan))
    report = outcome.report
    faults = tuple(faults_of(outcome))
    return Done(job.label, job.seed, rate, report.curve, report.accuracy.mean, outcome.wall_s, faults)


def all_done(jobs: Sequence[Job], workers: int, console: Console) -> list[Done]:
    """In the order of the jobs."""
    found: dict[int, Done] = {}
    context = multiprocessing.get_context("spawn")  # forking torch's threads is not safe
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        asked = {pool.submit(done, job): number for number, job in enumerate(jobs)}
        for future in as_completed(asked):
            found[asked[future]] = one = future.result()
            told = f"{len(found)} of {len(jobs)}: {one.label}, seed {one.seed}, {one.wall_s:.0f} s, {one.final:.4f}"
            console.print(told, highlight=False)
            for fault in one.faults:
                console.print(f"FAILED {one.label}, seed {one.seed}: {fault}", highlight=False, markup=False)
    return [found[number] for number in range(len(jobs))]


# -- what they come to ------------------------------------------------------------------------------------------------
def held(curve: Sequence[Point], target: float) -> Point | None:
    """The first point whose window of rounds has a mean at or above the target: no lucky round counts."""
    for point in curve:
        window = [each.accuracy for each in curve if point.round - WINDOW < each.round <= point.round]
        if statistics.fmean(value or 0.0 for value in window) >= target:
            return point
    return None


@dataclass(frozen=True, slots=True)
class Row:
    """Of one protocol over all seeds; None: some seed did not get there."""

    label: str
    lr: float
    rounds: Spread | None
    megabytes: Spread | None
    virtual_s: Spread | None
    held_rounds: Spread | None
    final: Spread


def row_of(runs: Sequence[Done], target: float) -> Row:
    first = [point for each in runs if (point := reached(each.curve, target))]
    there = first if len(first) == len(runs) else []
    lasting = [point for each in runs if (point := held(each.curve, target))]
    return Row(
        runs[0].label,
        runs[0].lr,
        _spread([point.round for point in there]),
        _spread([point.wire_bytes / 1e6 for point in there]),
        _spread([point.virtual_s for point in there]),
        _spread([point.round for point in lasting] if len(lasting) == len(runs) else []),
        Spread.of(each.final for each in runs),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def ratio(runs: Mapping[str, Sequence[Done]], over: str, under: str, key: str, target: float) -> Spread | None:
    """Of two protocols' costs at the target, seed by seed."""
    found = []
    for a, b in zip(runs[over], runs[under], strict=True):
        ends = reached(a.curve, target), reached(b.curve, target)
        if ends[0] is None or ends[1] is None:
            return None
        found.append(getattr(ends[0], key) / getattr(ends[1], key))
    return Spread.of(found)


def aims(runs: Mapping[str, Sequence[Done]], target: float) -> Iterator[Aim]:
    for label in VARIANTS:
        for other in ("d-psgd", "d-psgd-8"):
            if label in runs and other in runs and (found := ratio(runs, other, label, "wire_bytes", target)):
                yield Aim(f"bytes of {other} / those of {label}, median", found.median, 3.0, at_least=True)
        if label in runs and "fedavg" in runs and (found := ratio(runs, label, "fedavg", "round", target)):
            yield Aim(f"rounds of {label} / those of fedavg, median", found.median, 1.1)


# -- telling ----------------------------------------------------------------------------------------------------------
def table_of(rows: Sequence[Row], target: float) -> Table:
    table = Table(title=f"until {target:g}: median (least-most)", title_justify="left")
    for heading in ("protocol", "lr", "rounds", "held", "MB sent", "virtual s", "final accuracy", "bytes / modest"):
        table.add_column(heading, justify="left" if heading == "protocol" else "right")
    base = next((row.megabytes for row in rows if row.label == MODEST), None)
    for row in rows:
        times = f"{row.megabytes.median / base.median:.2f}" if base and row.megabytes else "-"
        rate = "default" if math.isnan(row.lr) else f"{row.lr:g}"
        counts = _text(row.rounds, 0), _text(row.held_rounds, 0), _text(row.megabytes, 0), _text(row.virtual_s, 1)
        table.add_row(row.label, rate, *counts, _text(row.final, 4), times)
    return table


def _text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "not reached"
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f}-{spread.max:.{digits}f})"


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[dict[str, float]]:
    """Over the seeds, round by round."""
    by_round: dict[int, list[Point]] = defaultdict(list)
    for point in (point for curve in curves for point in curve if point.accuracy is not None):
        by_round[point.round].append(point)
    keys = ("round", "virtual_s", "wire_bytes", "accuracy")
    return [
        {key: statistics.fmean(getattr(point, key) for point in by_round[round]) for key in keys}
        for round in sorted(by_round)
    ]


def chosen(runs: Sequence[Done], target: float) -> list[str]:
    """For each protocol what each rate came to, the best one first."""
    by_rate: dict[tuple[str, float], list[Done]] = defaultdict(list)
    for each in runs:
        by_rate[each.label, each.lr].append(each)
    lines = []
    for (label, rate), group in by_rate.items():
        row = row_of(group, target)
        lines.append((label, row.rounds.median if row.rounds else math.inf, -row.final.median, rate, row))
    return [
        f"{label:<16} lr {rate:<5g} rounds {_text(row.rounds, 0)}, final accuracy {_text(row.final, 4)}"
        for label, _, _, rate, row in sorted(lines, key=lambda line: line[:4])
    ]


@click.command(context_settings={"show_default": True})
@click.option("--task", default="mnist", help="what they train")
@click.option("--nodes", default=100, type=click.IntRange(2), help="how many there are")
@click.option("--rounds", default=60, type=click.IntRange(1), help="rounds of each run")
@click.option("--seeds", default="0:3", metavar="A:B", help="from A up to B, B not included")
@click.option("--target", default=0.93, type=click.FloatRange(0, 1), help="accuracy to be reached")
@click.option("--trainers", default=10, type=click.IntRange(1), help="a round, of MoDeST and of FedAvg")
@click.option("--bandwidth", default=0.0, type=click.FloatRange(0), help="MB/s of each node's line; 0: unlimited")
@click.option("--protocol", "labels", multiple=True, type=click.Choice(ALL), help="only these; repeatable")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="of the run's settings, for all of them")
@click.option("--tuned", is_flag=True, help="MoDeST and FedAvg with a chosen learning rate too, not the default")
@click.option("--choose", is_flag=True, help="learning rates instead: a grid for each protocol; use other seeds")
@click.option("--workers", default=os.cpu_count() or 1, type=click.IntRange(1), help="processes")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write all curves")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path, dir_okay=False), help="where to draw their means")
def main(
    task: str,
    nodes: int,
    rounds: int,
    seeds: str,
    target: float,
    trainers: int,
    bandwidth: float,
    labels: Sequence[str],
    settings: Sequence[str],
    tuned: bool,
    choose: bool,
    workers: int,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Compare MoDeST with other ways to train together. Exit code 1 if a run did not end as it should."""
    console, where = Console(width=max(Console().width, WIDTH)), environment()
    try:
        asked = merged(
            {"task": task, "rounds": rounds, "modest": {"trainers": min(trainers, nodes)}}, settings_tables(settings)
        )
        own = {**(dict.fromkeys(ALL, TUNED) if tuned else {}), **RATES}
        jobs = [
            job_of(label, seed, nodes, asked, bandwidth * 1e6 or math.inf, rate)
            for label in labels or (BASELINES if choose else ALL)
            for rate in (GRID if choose else (own.get(label),))
            for seed in seeds_of(seeds)
        ]
        runs = all_done(jobs, workers, console)
        if choose:
            for line in chosen(runs, target):
                console.print(line, highlight=False)
            return
        _tell(runs, target, where, console, json_path)
        if plot_path is not None:
            plot(
                {label: {"curve": mean_curve([each.curve for each in group])} for label, group in _grouped(runs)},
                plot_path,
            )
            console.print(f"picture in {plot_path}")
        sys.exit(1 if any(each.faults for each in runs) else 0)
    except OperatorError as error:
        raise click.ClickException(str(error)) from error


def _grouped(runs: Sequence[Done]) -> list[tuple[str, list[Done]]]:
    groups: dict[str, list[Done]] = defaultdict(list)
    for each in runs:
        groups[each.label].append(each)
    return list(groups.items())


def _tell(runs: Sequence[Done], target: float, where: dict[str, Any], console: Console, json_path: Path | None) -> None:
    groups = _grouped(runs)
    rows = [row_of(group, target) for _, group in groups]
    console.print(table_of(rows, target))
    met = list(aims(dict(groups), target))
    for aim in met:
        console.print(aim.line(), highlight=False)
    if json_path is not None:
        whole = {
            "benchmark": "compare",
            "environment": where,
            "figures": {"target": target, "rows": [asdict(row) for row in rows], "runs": msgspec.to_builtins(runs)},
            "aims": [{**asdict(aim), "met": aim.met} for aim in met],
        }
        json_path.write_text(json.dumps(whole, indent=1) + "\n")
        console.print(f"figures in {json_path}")


if __name__ == "__main__":
    main()
