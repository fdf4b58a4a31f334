"""Could private data be audited by signs? How often two honest members' bytes agree in sign on the same directions.

At every LOOKS-th step each seat's directions are probed again on every other seat's data, with batches of their own.
Were honest signs to agree much more often than not, whoever disagrees for long would be suspect. Bytes of 2 steps or
less are left out: their signs are chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import click
import numpy as np
import torch
from bench.onebyte import Setting, seed_of, train
from bench_onebyte_audit import LOOKS, with_data

from gossipnode.learn.spsa import Spsa
from gossipnode.learn.task import Data
from verify.scalars import STEPS

PHASE: Final = 100  # steps told together
FEW: Final = 20  # signs of a pair, of which no share is told
LRS: Final = {"iid": 0.3, "labels": 0.1, "dirichlet:0.5": 0.1}

Pair = tuple[int, int, int]  # phase, seat and other seat


def counted(partition: str, steps: int, seed: int) -> tuple[Counter[Pair], Counter[Pair]]:
    """Signs that agree, and signs."""
    agree, every, data = Counter[Pair](), Counter[Pair](), dict[int, Data]()

    def watch(spsa: Spsa, step: int, seat: int, seeds: list[int], scalars: bytes) -> None:
        own = np.frombuffer(scalars, dtype=np.int8).astype(np.int16)
        data[seat] = spsa.data
        for other in data if step % LOOKS == LOOKS // 2 else ():
            if other != seat:
                theirs = with_data(spsa, seeds, seed_of(seed, step, seat, other), data[other])
                told = (np.abs(own) > STEPS) & (np.abs(theirs) > STEPS)
                pair = step // PHASE, seat, other
                agree[pair] += int((np.sign(own) == np.sign(theirs))[told].sum())
                every[pair] += int(told.sum())

    train(Setting(lr=LRS[partition], probes=16, steps=steps, partition=partition), seed, watch=watch)
    return agree, every


def told(partition: str, agree: Counter[Pair], every: Counter[Pair]) -> Iterator[str]:
    for phase in sorted({pair[0] for pair in every}):
        pairs = [pair for pair in every if pair[0] == phase]
        count = sum(every[pair] for pair in pairs)
        shares = [agree[pair] / every[pair] for pair in pairs if every[pair] > FEW]
        share = sum(agree[pair] for pair in pairs) / max(1, count)
        span = f"pairs {min(shares):.2f} to {max(shares):.2f}" if shares else "too few of any pair"
        yield f"{partition:14} steps {phase * PHASE:4} on: {share:.3f} of {count} signs agree; {span}"


@click.command(context_settings={"show_default": True})
@click.option("--steps", default=300, type=click.IntRange(LOOKS))
@click.option("--seed", default=0)
def main(steps: int, seed: int) -> None:
    """Digits, by 8 seats, in three partitions."""
    torch.set_num_threads(1)
    for partition in LRS:
        for line in told(partition, *counted(partition, steps, seed)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
