"""What a signature sees: each row of the table of `gossipnode verify calibrate` over 10,000 trials, for two tasks.

A trial draws three projection seeds anew, one an auditor; works and trainings are shared by many trials, and their
numbers stand beside the rates. The tolerance is chosen on works of their own. Rates have Clopper-Pearson bounds of 95 %
over trials: they tell how well the rate of *these* works is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from bench.figures import environment
from rich.console import Console

from gossipnode.calibrate import rate, summary
from gossipnode.learn.calibration import Calibration, Calibrator, Plan, Row
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from verify.binomial import bounds


@dataclass(frozen=True, slots=True)
class Lot:
    task: str
    works: int


LOTS = (Lot("digits", 120), Lot("mnist", 30))


def measured(lot: Lot, trials: int, seed: int, bfloat16: bool, console: Console) -> Calibration:
    plan = Plan(choosing=max(1, lot.works // 4), works=lot.works, trials=trials, seed=seed, bfloat16=bfloat16)
    return Calibrator(Engine(LearnerConfig(task=lot.task)), plan).run(console.print)


def markdown(found: Calibration) -> list[str]:
    """A line a row, as docs/verification.md has them."""
    lines = ["| what the other did | bits | norm steps | one auditor errs | two of three err | escalation errs |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found.rows:
        name = f"**same work: {row.way}**" if row.honest else row.way
        spans = [f"{min(each)}-{max(each)}" for each in (row.distances, row.norms)]
        rates = [rate(found, row, agreed) for agreed in (row.one, row.three, row.escalated)]
        lines.append("| " + " | ".join([name, *spans, *rates]) + " |")
    return lines


def figures(found: Calibration) -> dict[str, Any]:
    return {
        "worst": found.worst,
        "tolerance": asdict(found.tolerance),
        "works": found.works,
        "trainings": found.trainings,
        "rows": [figures_of(row) for row in found.rows],
    }


def figures_of(row: Row) -> dict[str, Any]:
    agreed = {"one": row.one, "three": row.three, "escalated": row.escalated}
    return {
        "way": row.way,
        "honest": row.honest,
        "trials": row.trials,
        "bits": [min(row.distances), max(row.distances)],
        "norms": [min(row.norms), max(row.norms)],
        "agreed": {name: {"count": count, "bounds": bounds(count, row.trials)} for name, count in agreed.items()},
    }


@click.command(help=__doc__)
@click.option("--trials", default=10_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--task", "tasks", multiple=True, help="Only these.  [digits and mnist]")
@click.option("--works", type=int, help="Of each task.  [120 and 30]")
@click.option("--bfloat16", is_flag=True, help="Count as honest who multiplies matrices in bfloat16.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(trials: int, seed: int, tasks: tuple[str, ...], works: int | None, bfloat16: bool, path: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    report: dict[str, Any] = {"environment": environment(), "seed": seed}
    for lot in LOTS:
        if tasks and lot.task not in tasks:
            continue
        found = measured(Lot(lot.task, works or lot.works), trials, seed, bfloat16, console)
        console.print(f"\n{lot.task}: {found.works} works, {found.trainings} trainings, {trials} trials a row\n")
        for line in [*markdown(found), "", *summary(found)]:
            console.print(line, markup=False)
        report[lot.task] = figures(found)
        if path is not None:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
