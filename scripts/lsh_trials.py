"""What a signature sees: each row of the table of `gossipnode verify calibrate` over 10,000 trials, for two tasks.

A trial draws three projection seeds anew, one an auditor; works and trainings are shared by many trials, and their
numbers stand beside the rates. The tolerance is chosen on works of their own. Rates have Clopper-Pearson bounds of 95 %
over trials: they tell how well the rate of *these* works is known.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace
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
from verify.lsh import Tolerance


@dataclass(frozen=True, slots=True)
class Lot:
    task: str
    choosing: int
    works: int


LOTS = (Lot("digits", 30, 120), Lot("mnist", 30, 15))
TOLERANCES = (Tolerance(1, 1), Tolerance(4, 2), Tolerance(8, 2), Tolerance(16, 5), Tolerance(24, 9))


def measured(lot: Lot, trials: int, seed: int, bfloat16: bool, console: Console) -> Calibration:
    plan = Plan(choosing=lot.choosing, works=lot.works, trials=trials, seed=seed, bfloat16=bfloat16)
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


def by_tolerance(found: Calibration) -> list[str]:
    """What one auditor would do under others, the trials being the same."""
    ways = [row for row in found.rows if row.honest or passing(row, TOLERANCES[-1]) > 0]
    lines = ["| bits, norm steps | " + " | ".join(row.way for row in ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for each in sorted({*TOLERANCES, found.tolerance}, key=astuple):
        rates = [f"{100 * passing(row, each):.2f}%" for row in ways]
        lines.append(f"| {each.bits}, {each.norm} | " + " | ".join(rates) + " |")
    return lines


def passing(row: Row, tolerance: Tolerance) -> float:
    """The share of all auditors who would agree."""
    pairs = zip(row.distances, row.norms, strict=True)
    return sum(bits <= tolerance.bits and norm <= tolerance.norm for bits, norm in pairs) / len(row.norms)


def figures(found: Calibration) -> dict[str, Any]:
    return {
        "worst": found.worst,
        "tolerance": asdict(found.tolerance),
        "agreed by tolerance": by_tolerance(found),
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
@click.option("--works", type=int, help="Of each task.  [120 and 15]")
@click.option("--bfloat16", is_flag=True, help="Count as honest who multiplies matrices in bfloat16.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(trials: int, seed: int, tasks: tuple[str, ...], works: int | None, bfloat16: bool, path: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    report: dict[str, Any] = {"environment": environment(), "seed": seed}
    for lot in LOTS:
        if tasks and lot.task not in tasks:
            continue
        found = measured(replace(lot, works=works or lot.works), trials, seed, bfloat16, console)
        console.print(f"\n{lot.task}: {found.works} works, {found.trainings} trainings, {trials} trials a row\n")
        for line in [*markdown(found), "", *summary(found), "", *by_tolerance(found)]:
            console.print(line, markup=False)
        report[lot.task] = figures(found)
        if path is not None:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
