"""How much of what a round changes is lost when adapters are merged: by the rule flora, and by the mean of the factors.

Five trainers train what is in `bench.adapted` and are merged by flora, round after round. Prints a Markdown table: the
distance of what is merged from the mean of the products B A, as a part of that mean's distance from the round before.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import click
import numpy as np
import torch
from numpy.typing import NDArray

from gossipnode.learn.adapters import Pair
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Vector, decode
from gossipnode.learn.engine import Engine
from gossipnode.learn.merge import mean
from gossipnode.learn.models import Models
from gossipnode.learn.shard import Shard
from protocols.manifest import Training
from protocols.merging import Merging

MARKS = (2, 10, 30)
SEED = 100
NODES, TRAINERS = 10, 5


def product(vector: Vector, pair: Pair) -> NDArray[np.float64]:
    adapter = pair.adapter(vector)
    return adapter.b.astype(np.float64) @ adapter.a.astype(np.float64)


def lost(before: Vector, models: list[Vector], merged: Vector, pair: Pair) -> float:
    wanted = np.mean([product(model, pair) for model in models], axis=0)
    return float(np.linalg.norm(wanted - product(merged, pair)) / np.linalg.norm(wanted - product(before, pair)))


def run(partition: str, ranks: tuple[int, ...]) -> Iterator[tuple[float, float]]:
    """By flora and by the mean of the factors, at each mark; of both layers the mean."""
    training, merging = Training(lr=0.05), Merging(rule="flora")
    engine = Engine(LearnerConfig(task="bench.adapted:DIGITS", seed=SEED, training=training, merging=merging))
    shards = [
        Shard(index=i, count=NODES, partition=partition, seed=SEED, rank=ranks[i % len(ranks)]) for i in range(TRAINERS)
    ]
    data, model = [engine.data(shard) for shard in shards], engine.initial()
    for round in range(1, MARKS[-1] + 1):
        blobs = [engine.train(model, each, seed=997 * round + i).blob for i, each in enumerate(data)]
        before, model = decode(model, engine.template), engine.merge(blobs, [1] * TRAINERS)
        if round in MARKS:
            vectors = [decode(blob, engine.template) for blob in blobs]
            factors = mean(Models.of(vectors), [1] * TRAINERS)
            ours, theirs = (
                statistics.mean(lost(before, vectors, merged, pair) for pair in engine.flat.adapters)
                for merged in (decode(model, engine.template), factors)
            )
            yield ours, theirs


@click.command()
def main() -> None:
    """Measure both on random and on sorted data, with equal and with different ranks."""
    torch.set_num_threads(1)
    click.echo(f"| data, ranks | {' | '.join(f'round {mark}' for mark in MARKS)} |\n|---|{'---|' * len(MARKS)}")
    for partition in ("iid", "labels"):
        for ranks in ((8,), (2, 4, 8)):
            shown = " | ".join(f"{ours:.3f} / {theirs:.3f}" for ours, theirs in run(partition, ranks))
            click.echo(f"| {partition}, {','.join(map(str, ranks))} | {shown} |")


if __name__ == "__main__":
    main()
