"""Rules that merge output layers over a frozen backbone, on data cut ever more unevenly. Prints a Markdown table.

Ten nodes gossip (`bench.frozen` is what they train); a cell is the mean over nodes and seeds, then the worst seed.
"""

from __future__ import annotations

import statistics

import click

from gossipnode.simulated_log import logged
from gossipnode.simulation import Scenario, simulate

PARTITIONS = ("iid", "dirichlet:0.5", "labels")
RULES = ("mean", "corrected", "bristle")


def accuracy(rule: str, partition: str, nodes: int, trainings: int, seed: int) -> float:
    tables = {
        "protocol": "gossip",
        "task": "bench.frozen:DIGITS",
        "rounds": trainings,
        "seed": seed,
        "start_peers": nodes,
        "audit": {"fraction": 0.0},
        "merging": {"rule": rule},
        "training": {"lr": 0.1},
    }
    with logged(None):
        return simulate(Scenario(nodes, seed, tables, partition, curve=False)).report.accuracy.mean


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=10, type=click.IntRange(2))
@click.option("--trainings", default=30, type=click.IntRange(1), help="of each node")
@click.option("--seeds", default=2, type=click.IntRange(1), help="of each cell")
def main(nodes: int, trainings: int, seeds: int) -> None:
    """Measure every rule on every partition."""
    click.echo(f"| rule | {' | '.join(PARTITIONS)} |\n|---|{'---|' * len(PARTITIONS)}")
    for rule in RULES:
        click.echo(f"| {rule} |", nl=False)
        for partition in PARTITIONS:
            found = [accuracy(rule, partition, nodes, trainings, seed) for seed in range(seeds)]
            click.echo(f" {statistics.mean(found):.3f} ({min(found):.3f}) |", nl=False)
        click.echo()


if __name__ == "__main__":
    main()
