"""How well bytes train: digits by 8 seats, bytes beside slopes that stay floats, and shards sorted by label.

Without a network: what the network adds is which bytes count, and the chain decides that. The learning rate of each row
is the one of its grid with the best mean accuracy on validation examples, which are in no shard; the figure is the
accuracy on the test split, with that learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch
from bench.figures import Aim, Findings, Spread, environment, tell
from bench.onebyte import Setting, Trained, train, train_with_floats
from rich.console import Console


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    setting: Setting
    lrs: tuple[float, ...]
    aim: float
    floats: bool = False  # also without rounding and clipping


ROWS = (
    Row("iid, K=4", Setting(lr=0.15, probes=4), (0.1, 0.15, 0.2), 0.93, floats=True),
    Row("iid, K=16", Setting(lr=0.3, probes=16), (0.2, 0.3, 0.4), 0.95, floats=True),
    Row("sorted by label, K=4", Setting(lr=0.05, probes=4, partition="labels"), (0.025, 0.05, 0.1), 0.90),
    Row("sorted by label, K=16", Setting(lr=0.1, probes=16, partition="labels"), (0.05, 0.1, 0.2), 0.90),
)


def measured(row: Row, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole grid, the choice, and, if asked for, floats at the choice."""
    grid: dict[float, list[Trained]] = {}
    for lr in row.lrs:
        grid[lr] = [train(replace(row.setting, lr=lr), seed) for seed in range(seeds)]
        validation, test = (Spread.of(getattr(one, split) for one in grid[lr]) for split in ("validation", "test"))
        say(f"{row.name}, lr {lr}: validation {validation.text()}, test {test.text()}")
    best = max(grid, key=lambda lr: mean(one.validation for one in grid[lr]))
    chosen = replace(row.setting, lr=best)
    floats = [train_with_floats(chosen, seed) for seed in range(seeds)] if row.floats else []
    if floats:
        say(f"{row.name}, lr {best}, floats: test {Spread.of(one.test for one in floats).text()}")
    return {
        "name": row.name,
        "setting": asdict(chosen),
        "multiplier": chosen.multiplier,
        "grid": {lr: [asdict(one) for one in found] for lr, found in grid.items()},
        "test": [one.test for one in grid[best]],
        "floats": [one.test for one in floats],
        "aim": row.aim,
    }


def findings(found: list[dict[str, Any]]) -> Findings:
    rows, aims = [], []
    for row in found:
        size = f"lr {row['setting']['lr']}, multiplier {row['multiplier']}"
        rows.append(
            (f"{row['name']}: test accuracy", f"{mean(row['test']):.3f}: {Spread.of(row['test']).text()}; {size}")
        )
        if row["floats"]:
            rows.append(
                ("  slopes as floats, the same steps", f"{mean(row['floats']):.3f}: {Spread.of(row['floats']).text()}")
            )
        aims.append(Aim(f"{row['name']}, mean test accuracy", mean(row["test"]), row["aim"], at_least=True))
    return Findings("onebyte", rows, {"rows": found}, aims)


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default=3, type=click.IntRange(1), help="of each setting")
@click.option("--steps", default=500, type=click.IntRange(1), help="of each run")
@click.option("--only", default="", help="rows whose name contains this")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(seeds: int, steps: int, only: str, json_path: Path | None) -> None:
    """Train digits by bytes, and say how well."""
    console, where = Console(), environment()
    torch.set_num_threads(1)
    rows = [replace(row, setting=replace(row.setting, steps=steps)) for row in ROWS if only in row.name]
    if not rows:
        raise click.BadParameter(
            f"no row contains {only!r}: {', '.join(row.name for row in ROWS)}", param_hint="--only"
        )
    tell(findings([measured(row, seeds, console.print) for row in rows]), where, console, json_path)


if __name__ == "__main__":
    main()
