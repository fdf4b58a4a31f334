"""The accuracy of each merging rule under each lie: 20 trainers, 6 of them liars, digits. Prints a Markdown table.

Cells are means over seeds of the accuracy after the last round, then that of the worst seed. `bench.rounds` says what
the liars do; with `--protocol gossip` whole nodes train without rounds, and `bench.gossips` says it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import get_args

import click
import torch
from bench import gossips
from bench.rounds import LIES, Rounds, Setting

from protocols.merging import OWN, TRUSTING, Merging, Rule


def rules(liars: int, protocol: str) -> Iterator[tuple[str, Merging]]:
    yield "mean", Merging(rule="mean")
    if protocol == "gossip":
        yield "corrected", Merging(rule="corrected")
    for rule in get_args(Rule):
        if rule not in ("auto", *TRUSTING, *OWN):
            for mixing in (False, True):
                yield f"{'NNM + ' * mixing}{rule}", Merging(rule=rule, byzantine=liars, mixing=mixing)


def cells(setting: Setting, merging: Merging, seeds: int, protocol: str, audits: float) -> Iterator[str]:
    for lie in lies_of(protocol):
        if protocol == "gossip":
            found = [gossips.accuracy(setting, lie, seed, merging, audits) for seed in range(seeds)]
        else:
            found = [Rounds(setting, lie, seed).accuracy(merging) for seed in range(seeds)]
        yield f"{statistics.mean(found):.3f} ({min(found):.3f})"


def lies_of(protocol: str) -> Sequence[str]:
    return gossips.LIES if protocol == "gossip" else tuple(LIES)


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=20, type=click.IntRange(1), help="of each run")
@click.option("--trainers", default=20, type=click.IntRange(2), help="in every round")
@click.option("--liars", default=6, type=click.IntRange(0), help="among them")
@click.option("--seeds", default=3, type=click.IntRange(1), help="runs of each cell")
@click.option("--partition", default="iid", help="iid, labels or dirichlet:ALPHA")
@click.option("--only", multiple=True, help="rules whose name contains one of these")
@click.option("--protocol", default="modest", type=click.Choice(["modest", "gossip"]), help="how they train together")
@click.option("--audits", default=0.0, type=click.FloatRange(0, 1), help="audit.fraction, with gossip")
def main(
    rounds: int,
    trainers: int,
    liars: int,
    seeds: int,
    partition: str,
    only: Sequence[str],
    protocol: str,
    audits: float,
) -> None:
    """Measure every rule under every lie."""
    torch.set_num_threads(1)
    setting = Setting(trainers=trainers, liars=liars, rounds=rounds, partition=partition)
    lies = lies_of(protocol)
    click.echo(f"| rule | {' | '.join(lies)} |\n|---|{'---|' * len(lies)}")
    for name, merging in rules(liars, protocol):
        if not only or any(part in name for part in only):
            click.echo(f"| {name} |", nl=False)
            for cell in cells(setting, merging, seeds, protocol, audits):
                click.echo(f" {cell} |", nl=False)
            click.echo()


if __name__ == "__main__":
    main()
