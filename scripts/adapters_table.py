"""Rules that merge adapters over a frozen backbone, where all nodes train at one rank and where they do not.

Ten nodes train what is in `bench.adapted`: in rounds of five trainers, and in gossip. Prints a Markdown table; a cell
is the mean over nodes and seeds, then the worst seed.
"""

from __future__ import annotations

import statistics
from typing import Any

import click

from gossipnode.simulated_log import logged
from gossipnode.simulation import Scenario, simulate

ROWS = (("modest", "mean"), ("modest", "flora"), ("gossip", "corrected"), ("gossip", "flora"))
PARTITIONS = ("iid", "labels")
RANKS = ((8,), (2, 4, 8))
FIRST_SEED = 100  # others than those by which the rule was chosen


def accuracy(tables: dict[str, Any], partition: str, ranks: tuple[int, ...], nodes: int, seed: int) -> float:
    whole = {"task": "bench.adapted:DIGITS", "seed": seed, "start_peers": nodes, "audit": {"fraction": 0.0}}
    with logged(None):
        scenario = Scenario(nodes, seed, whole | tables, partition, ranks=ranks, curve=False)
        return simulate(scenario).report.accuracy.mean


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=10, type=click.IntRange(5))
@click.option("--rounds", default=40, type=click.IntRange(1), help="of five trainers each")
@click.option("--trainings", default=30, type=click.IntRange(1), help="of each node, in gossip")
@click.option("--lr", default=0.05)
@click.option("--seeds", default=3, type=click.IntRange(1), help="of each cell")
def main(nodes: int, rounds: int, trainings: int, lr: float, seeds: int) -> None:
    """Measure every rule on every partition with equal and with different ranks."""
    columns = [(partition, ranks) for partition in PARTITIONS for ranks in RANKS]
    titles = " | ".join(f"{partition}, {','.join(map(str, ranks))}" for partition, ranks in columns)
    click.echo(f"| protocol | rule | {titles} |\n|---|---|{'---|' * len(columns)}")
    for protocol, rule in ROWS:
        tables: dict[str, Any] = {"protocol": protocol, "merging": {"rule": rule}, "training": {"lr": lr}}
        if protocol == "modest":
            tables |= {"rounds": rounds, "modest": {"trainers": 5}}
        else:
            tables |= {"rounds": trainings}
        click.echo(f"| {protocol} | {rule} |", nl=False)
        for partition, ranks in columns:
            found = [accuracy(tables, partition, ranks, nodes, FIRST_SEED + seed) for seed in range(seeds)]
            click.echo(f" {statistics.mean(found):.3f} ({min(found):.3f}) |", nl=False)
        click.echo()


if __name__ == "__main__":
    main()
