"""The accuracy of each merging rule under each lie: 20 trainers, 6 of them liars, digits. Prints a Markdown table.

Cells are means over seeds of the accuracy after the last round, then that of the worst seed. `bench.rounds` says what
the liars do.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import get_args

import click
import torch
from bench.rounds import LIES, Rounds, Setting

from protocols.merging import TRUSTING, Merging, Rule


def rules(liars: int) -> Iterator[tuple[str, Merging]]:
    yield "mean", Merging(rule="mean")
    for rule in get_args(Rule):
        if rule not in ("auto", *TRUSTING):
            for mixing in (False, True):
                yield f"{'NNM + ' * mixing}{rule}", Merging(rule=rule, byzantine=liars, mixing=mixing)


def cells(setting: Setting, merging: Merging, seeds: int) -> Iterator[str]:
    for lie in LIES:
        found = [Rounds(setting, lie, seed).accuracy(merging) for seed in range(seeds)]
        yield f"{statistics.mean(found):.3f} ({min(found):.3f})"


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=20, type=click.IntRange(1), help="of each run")
@click.option("--trainers", default=20, type=click.IntRange(2), help="in every round")
@click.option("--liars", default=6, type=click.IntRange(0), help="among them")
@click.option("--seeds", default=3, type=click.IntRange(1), help="runs of each cell")
@click.option("--partition", default="iid", help="iid, labels or dirichlet:ALPHA")
@click.option("--only", default="", help="rules whose name contains this")
def main(rounds: int, trainers: int, liars: int, seeds: int, partition: str, only: str) -> None:
    """Measure every rule under every lie."""
    torch.set_num_threads(1)
    setting = Setting(trainers=trainers, liars=liars, rounds=rounds, partition=partition)
    click.echo(f"| rule | {' | '.join(LIES)} |\n|---|{'---|' * len(LIES)}")
    for name, merging in rules(liars):
        if only in name:
            click.echo(f"| {name} | {' | '.join(cells(setting, merging, seeds))} |")


if __name__ == "__main__":
    main()
