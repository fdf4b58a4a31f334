"""Robust merging beside the byzfl library (0.0.11), in one run: time, CPU time, and how far the results are apart.

Both get the same models as one float32 matrix, in memory, and the same number of threads; theirs as a torch tensor, the
faster of the two kinds that it takes. Runs alternate, so that what else the machine does falls on both; of each the
fastest counts. byzfl is no dependency: `pip install byzfl==0.0.11 --no-deps`, and scipy.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from bench.figures import Findings, environment, tell
from rich.console import Console

from gossipnode.learn import robust
from gossipnode.learn.encoding import Vector
from gossipnode.learn.models import Models

RADIUS = 100.0  # byzfl's default


@dataclass(frozen=True)
class Contest:
    name: str
    ours: Callable[[Models], Vector]
    theirs: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Timed:
    """The fastest of some runs."""

    wall_s: float
    cpu_s: float


def contests(byzfl: Any, byzantine: int) -> list[Contest]:  # noqa: ANN401 - an untyped library
    def mixed(models: Models) -> Vector:
        return robust.trimmed_mean(models, byzantine, robust.nearest_neighbours(models.squares(), byzantine))

    def clipped(models: Models) -> Vector:
        around = models.around(None)
        return around.combined(robust.centred_clipping(around.squares(star=True), RADIUS))

    return [
        Contest("median", robust.coordinate_median, byzfl.Median()),
        Contest("trimmed mean", lambda models: robust.trimmed_mean(models, byzantine), byzfl.TrMean(byzantine)),
        Contest(
            "multi-Krum",
            lambda models: models.combined(robust.multi_krum(models.squares(), byzantine)),
            byzfl.MultiKrum(byzantine),
        ),
        Contest(
            "geometric median",
            lambda models: models.combined(robust.geometric_median(models.squares())),
            byzfl.GeometricMedian(),  # three iterations; ours goes on until it stands still
        ),
        Contest("centred clipping", clipped, lambda x: byzfl.CenteredClipping(tau=RADIUS)(x)),
        Contest("NNM + trimmed mean", mixed, lambda x: byzfl.TrMean(byzantine)(byzfl.NNM(byzantine)(x))),
    ]


def timed(work: Callable[[], object]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu)


def measured(contest: Contest, models: Vector, threads: int, runs: int) -> dict[str, Any]:
    tensor, rows = torch.from_numpy(models), Models.of(models, threads)
    apart = float(np.abs(contest.ours(rows) - contest.theirs(tensor).numpy()).max())
    pairs = [(timed(lambda: contest.ours(rows)), timed(lambda: contest.theirs(tensor))) for _ in range(runs)]
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        "rule": contest.name,
        "apart": apart,
        "ours_s": min(each.wall_s for each in ours),
        "theirs_s": min(each.wall_s for each in theirs),
        "ours_cpu_s": min(each.cpu_s for each in ours),
        "theirs_cpu_s": min(each.cpu_s for each in theirs),
    }


def aggregators() -> Any:  # noqa: ANN401 - an untyped library
    """byzfl's, without the rest of it, which needs torchvision and downloads data sets."""
    found = importlib.util.find_spec("byzfl")
    if found is None:
        raise click.ClickException("byzfl is missing: pip install byzfl==0.0.11 --no-deps, and scipy")
    package = types.ModuleType("byzfl")
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators")


def line(found: dict[str, Any]) -> str:
    return (
        f"{1000 * found['ours_s']:.0f} ms, byzfl {1000 * found['theirs_s']:.0f} ms; "
        f"CPU {1000 * found['ours_cpu_s']:.0f} and {1000 * found['theirs_cpu_s']:.0f} ms; apart {found['apart']:.1e}"
    )


@click.command(context_settings={"show_default": True})
@click.option("--models", "n", default=20, type=click.IntRange(3))
@click.option("--parameters", "d", default=1_000_000, type=click.IntRange(1))
@click.option("--byzantine", default=6, type=click.IntRange(1), help="liars that the rules count on")
@click.option("--threads", default=2, type=click.IntRange(1))
@click.option("--runs", default=7, type=click.IntRange(1), help="of which the fastest counts")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(n: int, d: int, byzantine: int, threads: int, runs: int, json_path: Path | None) -> None:
    """Time each rule beside byzfl's."""
    console, where = Console(), environment()
    torch.set_num_threads(threads)
    models = np.random.RandomState(0).standard_normal((n, d)).astype(np.float32)
    found = [measured(each, models, threads, runs) for each in contests(aggregators(), byzantine)]
    rows = [(each["rule"], line(each)) for each in found]
    tell(
        Findings("robust", rows, {"models": n, "parameters": d, "threads": threads, "runs": found}, []),
        where,
        console,
        json_path,
    )


if __name__ == "__main__":
    main()
