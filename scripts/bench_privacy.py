"""What bytes reveal of a shard, and what the privacy option costs: digits by 8 seats, all of them with the option.

`bench.membership` says who the observer is and what it computes. The budgets are of a whole run, for a shard of the
usual size, at delta 1e-4; without a budget there is neither noise nor clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from bench.figures import Findings, environment, tell
from bench.membership import Exposure, exposure
from bench.onebyte import Setting, shards
from rich.console import Console

from gossipnode.learn.accountant import Privacy, sigma_for
from gossipnode.learn.task import load_task

DELTA = 1e-4
MARKS = (1, 10, 100, 500, 1000)


def option(setting: Setting, examples: int, budget: float, example_clip: float) -> Privacy | None:
    """With as little noise as the budget allows a shard of so many examples."""
    if budget == 0.0:
        return None
    rate, uses = min(1.0, setting.batch / examples), setting.steps * setting.probes
    return Privacy(example_clip=example_clip, sigma=sigma_for(rate=rate, uses=uses, delta=DELTA, budget=budget))


def watched(
    setting: Setting, sizes: list[int], budgets: list[float], example_clip: float, seed: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    whole = len(shards(load_task(setting.task), setting, seed)[0][0].rows)
    found = []
    for examples in (min(size, whole) for size in sizes):
        for budget in budgets:
            privacy = option(setting, examples, budget, example_clip)
            seen = exposure(setting, seed, examples, privacy, MARKS)
            sigma = 0.0 if privacy is None else privacy.sigma
            found.append({"examples": examples, "budget": budget, "sigma": sigma, **asdict(seen)})
            say(f"{examples} examples, {told(budget)}: {line(seen)}, test accuracy {seen.test:.3f}")
    return found


def told(budget: float) -> str:
    return f"epsilon {budget:g}" if budget else "no option"


def line(seen: Exposure) -> str:
    return ", ".join(f"{area:.3f} after {step}" for step, area in seen.area_by_step.items())


def rows(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    table = []
    for each in found:
        areas = ", ".join(f"{area:.3f} ({step})" for step, area in each["area_by_step"].items())
        whole = f"{areas}; last model {each['area_of_the_model']:.3f}; test accuracy {each['test']:.3f}"
        table.append((f"shard of {each['examples']}, {told(each['budget'])}: area (steps)", whole))
    return table


@click.command(context_settings={"show_default": True})
@click.option("--steps", default=500, type=click.IntRange(1), help="of each run")
@click.option("--probes", default=4, type=click.IntRange(1, 64), help="bytes of a seat in a step")
@click.option("--lr", default=0.15, type=click.FloatRange(0, min_open=True), help="learning rate")
@click.option(
    "--shard", "sizes", default=[1000, 16], multiple=True, type=click.IntRange(1), help="examples of the shard"
)
@click.option(
    "--epsilon", "budgets", default=[0.0, 8.0], multiple=True, type=click.FloatRange(0), help="budget; 0: none"
)
@click.option("--example-clip", default=2.0, type=click.FloatRange(0, min_open=True), help="of one example's slope")
@click.option("--seed", default=0, type=click.IntRange(0), help="of model, shards and batches")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(
    steps: int, probes: int, lr: float, sizes: list[int], budgets: list[float], example_clip: float, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Measure what an observer learns of one shard, and what hiding it costs."""
    console, where = Console(), environment()
    torch.set_num_threads(1)
    setting = Setting(lr=lr, probes=probes, steps=steps)
    found = watched(setting, list(sizes), list(budgets), example_clip, seed, console.print)
    tell(Findings("privacy", rows(found), {"setting": asdict(setting), "runs": found}, []), where, console, json_path)


if __name__ == "__main__":
    main()
