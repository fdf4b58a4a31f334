"""`gossipnode verify calibrate`: the table of what a signature sees, and the lines for a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.newrun import settings_tables
from gossipnode.toml import typed
from protocols.learner import LearnerError, Unfit

if TYPE_CHECKING:  # torch takes seconds to import, and a mistyped option should not
    from gossipnode.learn.calibration import Calibration, Row


def calibrate_command(
    *, task: str, settings: tuple[str, ...], data: Path | None, shards: int, works: int, trials: int, seed: int,
    bfloat16: bool,
) -> None:  # fmt: skip
    """Raises OperatorError."""
    config = config_of(task, data, settings)
    from gossipnode.learn.calibration import Calibrator, Plan
    from gossipnode.learn.engine import Engine

    console, errors = Console(), Console(stderr=True)
    plan = Plan(shards=shards, works=works, trials=trials, seed=seed, bfloat16=bfloat16)
    try:
        found = Calibrator(Engine(config), plan).run(errors.print)
    except (LearnerError, Unfit) as error:
        raise OperatorError(str(error)) from error
    console.print(table_of(found, task))
    for line in summary(found):
        console.print(line, highlight=False)


def config_of(task: str, data: Path | None, settings: Sequence[str]) -> LearnerConfig:
    """Raises OperatorError."""
    tables = {**settings_tables(settings), "task": task, "data": str(data or "")}
    if beside := sorted(tables.keys() - {"task", "data", "seed", "encoding", "training"}):
        raise OperatorError(f"--set {beside[0]}: does not change an update; seed, encoding and training.* do")
    return typed(tables, LearnerConfig, "--set")


def table_of(found: Calibration, task: str) -> Table:
    table = Table(
        title=f"{task}: {found.works} works, {found.trainings} trainings, {found.rows[0].trials} trials a row"
    )
    for heading in ("what the other did", "bits", "norm steps", "one auditor errs", "two of three err"):
        table.add_column(heading, justify="left" if heading.startswith("what") else "right")
    for row in found.rows:
        table.add_row(*cells(found, row), style="green" if row.honest else "")
    return table


def cells(found: Calibration, row: Row) -> tuple[str, ...]:
    """The rates with the upper bound of 95 % (Clopper and Pearson)."""
    name = f"same work: {row.way}" if row.honest else row.way
    bits, norms = (f"{min(each)}-{max(each)}" for each in (row.distances, row.norms))
    return name, bits, norms, rate(found, row, row.one), rate(found, row, row.three)


def rate(found: Calibration, row: Row, agreed: int) -> str:
    share, _, high = found.error(row, agreed)
    return f"{100 * share:.2f}% (<{100 * high:.2f})"


def summary(found: Calibration) -> list[str]:
    tolerance = found.tolerance
    return [
        f"Honest updates were at most {found.worst:.2g} of their length apart; an error is an honest peer accused "
        "(same work) or a cheat that passes.",
        f"For the manifest: --set audit.tolerance_bits={tolerance.bits} --set audit.tolerance_norm={tolerance.norm}",
    ]
