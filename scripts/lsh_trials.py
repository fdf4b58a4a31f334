"""What a signature sees: each row of the table of `gossipnode verify calibrate` over 10,000 trials, for two tasks; and
two rows more, of an adversary that knows the tolerance and goes as far as half of its own trials let pass.

A trial draws three projection seeds anew, one an auditor; works and trainings are shared by many trials, and their
numbers stand beside the rates. The tolerance is chosen on works of their own. Rates have Clopper-Pearson bounds of 95 %
over trials: they tell how well the rate of *these* works is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from bench.figures import environment
from rich.console import Console

from gossipnode.adversaries.adaptive import Blend, shortened, strongest, turned
from gossipnode.calibrate import rate, summary
from gossipnode.learn.calibration import Calibration, Calibrator, Plan, Row
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.deviations import Trainings, Way, Work
from gossipnode.learn.encoding import Vector
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


Harm = Callable[[Trainings, Work, Vector], Vector]  # an update that would do harm, given one's own


def opposite(trainings: Trainings, work: Work, update: Vector) -> Vector:
    return -update


def against(trainings: Trainings, work: Work, update: Vector) -> Vector:
    """The mean of two trainings from other seeds, turned round: what `adaptive` of `gossipnode.adversaries` does."""
    others = [trainings.update(replace(work, seed=work.seed + number)) for number in (1, 2)]
    result: Vector = -np.mean(others, axis=0)
    return result


@dataclass(slots=True)
class Adaptive:
    """A way to cheat that goes as far as the tolerance lets it; and how far that was."""

    blend: Blend
    harm: Harm
    sizes: list[float] = field(default_factory=list)  # of the deviation, relative to the update

    def knowing(self, tolerance: Tolerance) -> Way:
        draw = np.random.default_rng(0)

        def way(trainings: Trainings, work: Work) -> Vector:
            update = trainings.update(work)
            made = strongest(update, self.harm(trainings, work, update), tolerance, draw, self.blend)
            self.sizes.append(float(np.linalg.norm(made - update) / np.linalg.norm(update)))
            return made

        return way


def measured(lot: Lot, plan: Plan, adaptive: Mapping[str, Adaptive], console: Console) -> Calibration:
    knowing = {name: each.knowing for name, each in adaptive.items()}
    return Calibrator(Engine(LearnerConfig(task=lot.task)), plan, knowing).run(console.print)


def sized(adaptive: Mapping[str, Adaptive]) -> list[str]:
    return [
        f"{name}: {100 * np.median(each.sizes):.2f} % of the update's length in the median of the works "
        f"({100 * min(each.sizes):.2f}-{100 * max(each.sizes):.2f})"
        for name, each in adaptive.items()
        if each.sizes
    ]


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
@click.option("--way", "only", multiple=True, help="Only these rows.  [all]")
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(
    trials: int,
    seed: int,
    tasks: tuple[str, ...],
    works: int | None,
    bfloat16: bool,
    only: tuple[str, ...],
    path: Path | None,
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    report: dict[str, Any] = {"environment": environment(), "seed": seed}
    for lot in LOTS:
        if tasks and lot.task not in tasks:
            continue
        adaptive = {"adaptive: shortened": Adaptive(shortened, opposite), "adaptive: turned": Adaptive(turned, against)}
        plan = Plan(
            choosing=lot.choosing, works=works or lot.works, trials=trials, seed=seed, bfloat16=bfloat16, only=only
        )
        found = measured(lot, plan, adaptive, console)
        console.print(f"\n{lot.task}: {found.works} works, {found.trainings} trainings, {trials} trials a row\n")
        for line in [*markdown(found), "", *summary(found), "", *by_tolerance(found), "", *sized(adaptive)]:
            console.print(line, markup=False)
        report[lot.task] = figures(found)
        if path is not None:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    main()
