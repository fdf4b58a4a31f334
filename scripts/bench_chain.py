"""How fast bytes become parameters: generating and adding sign vectors, beside what other programs do, in one run.

Also what a step of SPSA costs beside its two forward passes, and how long 10,000 steps of digits take to replay. Every
figure is the least of its turns. `--plain` times numpy alone, as on a machine without numba.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from bench.chain import Transformer, added, added_naively, perturbed, replayed_with_randn, step, updates
from bench.chain import least as least_of
from bench.figures import Aim, Findings, environment, tell
from rich.console import Console

from gossipnode.learn.kernels.host import Host
from verify.jit import COMPILES

LENGTHS = (10_000, 1_000_000, 22_713_216)  # the last is a MiniLM's
BATCHES = (1, 8, 64, 512)
DIGITS = 4810  # parameters of the task of that name
SEATS, PROBES = 8, 4
# Updates a second, of parameters and batch: two threads for the largest.
AIMS = {
    (22_713_216, 512): 3000,
    (22_713_216, 64): 2000,
    (22_713_216, 8): 500,
    (1_000_000, 512): 60_000,
    (10_000, 512): 2e6,
}
PLAIN_AIMS = {(22_713_216, 512): 100}


def rates(host: Host, largest: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Of each length."""
    found = []
    for length in LENGTHS:
        if length > largest:
            continue
        turns = 3 if length > 2e6 else 20
        here: dict[str, Any] = {
            "length": length,
            "per_s": {batch: batch / added(host, length, batch, turns) for batch in BATCHES},
            "perturb_s": perturbed(host, length, turns),
            "randn_per_s": 1 / replayed_with_randn(length, turns),
            "naive_per_s": 1 / added_naively(length, turns),
        }
        say(f"{length:,} parameters: " + ", ".join(f"{batch} {rate:,.0f}/s" for batch, rate in here["per_s"].items()))
        found.append(here)
    return found


def replay(host: Host, steps: int) -> float:
    """Seconds: the bytes of one step after the other, as a chain's blocks come."""
    a = np.zeros(DIGITS, dtype=np.int32)
    seeds, coefficients = updates(steps * SEATS * PROBES)
    each = [
        (seeds[i : i + SEATS * PROBES], coefficients[i : i + SEATS * PROBES])
        for i in range(0, len(seeds), SEATS * PROBES)
    ]

    def all_steps() -> None:
        for some in each:
            host.add(a, *some)

    return least_of(all_steps, 1)


def compare(threads: int, plain: bool, largest: int, layers: int, steps: int, say: Callable[[str], None]) -> Findings:
    torch.set_num_threads(threads)
    host = Host(threads, compiled=COMPILES and not plain)
    found = rates(host, largest, say)
    replay_s = replay(host, steps)
    say(f"{steps:,} steps of {SEATS * PROBES} bytes, digits: {replay_s:.2f} s")
    parameters, step_s, forward_s = step(Transformer(layers), threads, 5)
    figures = {
        "threads": threads,
        "compiled": COMPILES and not plain,
        "rates": found,
        "replay": {"steps": steps, "seconds": replay_s},
        "step": {"parameters": parameters, "step_s": step_s, "forwards_s": forward_s},
    }
    return Findings("chain", rows(figures), figures, aims(figures))


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    table = [("threads", str(figures["threads"])), ("kernels", "numba" if figures["compiled"] else "numpy")]
    for here in figures["rates"]:
        best = max(here["per_s"].values())
        text = ", ".join(f"{rate:,.0f} ({batch})" for batch, rate in here["per_s"].items())
        table += [
            (f"{here['length']:,} parameters: updates/s, by batch", text),
            (
                "  torch.randn replay, updates/s; the best is",
                f"{here['randn_per_s']:,.0f}; {best / here['randn_per_s']:.0f} times that",
            ),
            (
                "  a loop of numpy, updates/s; the best is",
                f"{here['naive_per_s']:,.0f}; {best / here['naive_per_s']:.0f} times that",
            ),
            ("  theta0 + quantum A + eps z, ms", f"{1e3 * here['perturb_s']:.3f}"),
        ]
    step, steps, replay_s = figures["step"], figures["replay"]["steps"], figures["replay"]["seconds"]
    return [
        *table,
        (f"{steps:,} steps of digits ({SEATS} seats, {PROBES} bytes each), s", f"{replay_s:.2f}"),
        (f"a step, transformer of {step['parameters']:,}, ms of CPU", f"{1e3 * step['step_s']:.0f}"),
        ("  its two forward passes, ms of CPU", f"{1e3 * step['forwards_s']:.0f}"),
    ]


def aims(figures: dict[str, Any]) -> list[Aim]:
    wanted = AIMS if figures["compiled"] else PLAIN_AIMS
    rates = {(here["length"], batch): rate for here in figures["rates"] for batch, rate in here["per_s"].items()}
    step = figures["step"]
    return [
        *(
            Aim(f"{key[0]:,} parameters, {key[1]} in a batch, updates/s", rates[key], bound, at_least=True)
            for key, bound in wanted.items()
            if key in rates
        ),
        Aim("a step / its two forward passes", step["step_s"] / step["forwards_s"], 1.25),
        Aim("10,000 steps of digits, s", 10_000 * figures["replay"]["seconds"] / figures["replay"]["steps"], 2.0),
    ]


@click.command(context_settings={"show_default": True})
@click.option("--threads", default=2, type=click.IntRange(1, 64), help="of the kernels, and of torch")
@click.option("--plain", is_flag=True, help="numpy, whether or not numba is installed")
@click.option("--largest", default=LENGTHS[-1], type=click.IntRange(LENGTHS[0]), help="lengths beyond it are left out")
@click.option(
    "--layers", default=12, type=click.IntRange(1), help="of the transformer; 12 make 22.7 million parameters"
)
@click.option("--steps", default=10_000, type=click.IntRange(1), help="of digits, to replay")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(threads: int, plain: bool, largest: int, layers: int, steps: int, json_path: Path | None) -> None:
    """Time the arithmetic of one-byte training on this machine."""
    console, where = Console(), environment()
    tell(compare(threads, plain, largest, layers, steps, console.print), where, console, json_path)


if __name__ == "__main__":
    main()
