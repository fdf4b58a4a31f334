"""Averaging models that begin apart: digits, 10 nodes that train, then merge their own model with their neighbours'.

A perceptron of two hidden layers (64-64-64-10), because each layer that shrinks makes it worse. Prints a Markdown table
of the nodes' mean accuracy after some rounds, over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch
from torch import nn

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.images import UCI, Images
from gossipnode.learn.shard import Shard
from protocols.manifest import Training
from protocols.merging import Merging, Rule

MARKS = (1, 5, 10, 20, 30)


class Deep(Images):
    def model(self, seed: int) -> nn.Module:
        hidden = [layer for _ in range(2) for layer in (nn.Linear(64, 64), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


DEEP = Deep(UCI, convolutional=False)


@dataclass(frozen=True)
class Row:
    name: str
    rule: Rule | None  # None: no merging
    common: bool  # initialisation
    neighbours: int


def rows() -> Iterator[Row]:
    yield Row("alone", None, False, 0)
    for neighbours in (9, 2):
        yield Row("mean, one initialisation", "mean", True, neighbours)
        yield Row("mean", "mean", False, neighbours)
        yield Row("corrected", "corrected", False, neighbours)
    yield Row("corrected, one initialisation", "corrected", True, 9)


def run(row: Row, seed: int, nodes: int = 10) -> Iterator[float]:
    """Mean accuracy of all nodes at each mark, after merging."""
    merging = Merging(rule=row.rule or "mean")
    training = Training()  # the manifest's own defaults
    made = [
        Engine(
            LearnerConfig(
                task="merge_table:DEEP", seed=100 * seed + node * (not row.common), training=training, merging=merging
            )
        )
        for node in range(nodes)
    ]
    models = [each.initial() for each in made]
    one = made[0]
    data = [one.data(Shard(index=node, count=nodes, seed=seed)) for node in range(nodes)]
    for round in range(1, MARKS[-1] + 1):
        models = [one.train(models[node], data[node], seed=997 * round + node).blob for node in range(nodes)]
        if row.rule is not None:
            models = [one.merge(group, [len(data[0].rows)] * len(group)) for group in groups(models, row.neighbours)]
        if round in MARKS:
            yield statistics.mean(one.evaluate(model, data[0])["accuracy"] for model in models)


def groups(models: list[bytes], neighbours: int) -> Iterator[list[bytes]]:
    """Each node's own model and those of its neighbours on a ring, or of all."""
    n = len(models)
    steps = range(n) if neighbours == n - 1 else range(-(neighbours // 2), neighbours // 2 + 1)
    return ([models[(node + step) % n] for step in steps] for node in range(n))


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default=3, type=click.IntRange(1), help="runs of each cell")
def main(seeds: int) -> None:
    """Measure plain and corrected averaging."""
    torch.set_num_threads(1)
    click.echo(
        f"| rule | neighbours | {' | '.join(f'round {mark}' for mark in MARKS)} |\n|---|---|{'---|' * len(MARKS)}"
    )
    for row in rows():
        found = zip(*(run(row, seed) for seed in range(seeds)), strict=True)
        shown = " | ".join(f"{statistics.mean(each):.3f}" for each in found)
        click.echo(f"| {row.name} | {row.neighbours or '-'} | {shown} |")


if __name__ == "__main__":
    main()
