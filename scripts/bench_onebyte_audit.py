"""How far the bytes of one piece of work lie apart: computed honestly on other hardware, and by each way of cheating.

A run is trained in one process; at every LOOKS-th step each seat's probes are done again, honestly otherwise (threads,
kernels, order of the batch, float64, bfloat16) and dishonestly. A row says in how many entries so many probes, or more,
are more than STEPS apart, and how often the rule of `verify.scalars` errs: doubts an honest entry, or passes another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from bench.figures import Findings, environment, tell
from bench.onebyte import Setting, seed_of, train
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from gossipnode.adversaries.bent import bent
from gossipnode.learn.deviations import _widened
from gossipnode.learn.spsa import Spsa
from gossipnode.learn.task import Batch, Data, Task
from verify.binomial import bounds
from verify.scalars import PROBES, STEPS

LOOKS: Final = 20  # steps between two entries of one seat that are looked at
Bytes = NDArray[np.int16]


@dataclass(slots=True)
class Entry:
    """One piece of work: a seat's probes at a step."""

    spsa: Spsa
    seeds: list[int]
    batch_seed: int
    others: Data
    first: Bytes  # what the seat ever sent first
    rng: np.random.Generator

    def bytes(self) -> Bytes:
        return np.frombuffer(self.spsa.probe(self.seeds, self.batch_seed).scalars, dtype=np.int8).astype(np.int16)


Way = Callable[[Entry], Bytes]


@dataclass(slots=True)
class Row:
    way: str
    honest: bool
    apart: list[Bytes] = field(default_factory=list)  # |difference| of each probe, an array an entry


# -- honest ways ------------------------------------------------------------------------------------------------------


def two_threads(entry: Entry) -> Bytes:
    torch.set_num_threads(2)
    try:
        return entry.bytes()
    finally:
        torch.set_num_threads(1)


def other_kernels(entry: Entry) -> Bytes:
    enabled, *_ = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        return entry.bytes()
    finally:
        torch.backends.mkldnn.set_flags(enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]  # as above


def by(loss: Callable[[Task, nn.Module, Batch], Tensor]) -> Way:
    def way(entry: Entry) -> Bytes:
        honest = entry.spsa._task
        entry.spsa._task = bent(honest, loss=lambda model, batch: loss(honest, model, batch))
        try:
            return entry.bytes()
        finally:
            entry.spsa._task = honest

    return way


def turned(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    return task.loss(model, tuple(each.flip(0) for each in batch))


def in_float64(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    wide = copy.deepcopy(model).double()
    wide.register_forward_pre_hook(_widened)
    return task.loss(wide, batch)


def in_bfloat16(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return task.loss(model, batch)


HONEST: Final[dict[str, Way]] = {
    "same again": Entry.bytes,
    "two threads": two_threads,
    "other kernels": other_kernels,
    "batch in another order": by(turned),
    "float64": by(in_float64),
    "bfloat16": by(in_bfloat16),
}


# -- dishonest ways ---------------------------------------------------------------------------------------------------


def with_data(spsa: Spsa, seeds: list[int], batch_seed: int, data: Data) -> Bytes:
    with spsa.lent(data):
        found = spsa.probe(seeds, batch_seed)
    return np.frombuffer(found.scalars, dtype=np.int8).astype(np.int16)


def mislabelled(entry: Entry) -> Bytes:
    data = entry.spsa.data
    *inputs, labels = data.pool
    flipped = Data((*inputs, labels.max() - labels), data.rows, data.test)
    return with_data(entry.spsa, entry.seeds, entry.batch_seed, flipped)


def other_batches(entry: Entry) -> Bytes:
    return with_data(entry.spsa, entry.seeds, entry.batch_seed + 1, entry.spsa.data)


LIARS: Final[dict[str, Way]] = {
    "sign-flip": lambda entry: -entry.bytes(),
    "scaling": lambda entry: np.clip(10 * entry.bytes(), -127, 127),
    "lazy, noise": lambda entry: entry.rng.integers(-127, 128, len(entry.seeds)).astype(np.int16),
    "stale": lambda entry: entry.first,
    "free-rider": lambda entry: np.zeros(len(entry.seeds), dtype=np.int16),
    "label-flip": mislabelled,
    "wrong-shard": lambda entry: with_data(entry.spsa, entry.seeds, entry.batch_seed, entry.others),
    "other batches": other_batches,
}


# -- measuring --------------------------------------------------------------------------------------------------------


def measured(setting: Setting, seed: int) -> list[Row]:
    rows = [Row(way, way in HONEST) for way in (*HONEST, *LIARS)]
    ways, data, firsts = {**HONEST, **LIARS}, dict[int, Data](), dict[int, Bytes]()
    rng = np.random.default_rng(seed)

    def watch(spsa: Spsa, step: int, seat: int, seeds: list[int], scalars: bytes) -> None:
        own = np.frombuffer(scalars, dtype=np.int8).astype(np.int16)
        data[seat] = spsa.data
        first = firsts.setdefault(seat, own)
        if step % LOOKS != LOOKS // 2:  # every seat's data are known by then
            return
        others = data[(seat + 1) % setting.seats]
        entry = Entry(spsa, seeds, seed_of(seed, step, seat), others, first, rng)
        for row in rows:
            row.apart.append(np.abs(ways[row.way](entry) - own))

    train(setting, seed, watch=watch)
    return rows


def told(rows: list[Row], steps: int) -> Iterator[tuple[str, str]]:
    """Of each way: in how many entries 1, 2, 3 or more probes lie more than `steps` apart, and the rule's errors."""
    for row in rows:
        apart = np.stack(row.apart)
        count = (apart > steps).sum(axis=1)
        shares = ", ".join(f"{least}+: {(count >= least).mean():.4f}" for least in (1, 2, 3, 4, 6, 8))
        most = apart.shape[1] // PROBES
        wrong = int((count > most).sum()) if row.honest else int((count <= most).sum())
        low, high = bounds(wrong, len(count))
        name = row.way if row.honest else f"  {row.way}"
        yield name, f"{shares}; furthest {apart.max()}; wrong: {wrong} of {len(count)} ({low:.1e} to {high:.1e})"


@click.command(context_settings={"show_default": True})
@click.option("--task", default="digits")
@click.option("--seeds", default="0:2", help="A:B")
@click.option("--steps", default=400, type=click.IntRange(LOOKS))
@click.option("--lr", default=0.3)
@click.option("--probes", default=16, type=click.IntRange(1))
@click.option("--apart", default=STEPS, type=click.IntRange(0), help="more than so many steps is a difference")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(task: str, seeds: str, steps: int, lr: float, probes: int, apart: int, json_path: Path | None) -> None:
    """Do the same probes again in many ways, and say how far the bytes lie apart."""
    torch.set_num_threads(1)
    first, _, end = seeds.partition(":")
    setting = Setting(lr=lr, probes=probes, steps=steps, task=task)
    rows: list[Row] = []
    for seed in range(int(first), int(end)):
        found = measured(setting, seed)
        rows = found if not rows else [_joined(*both) for both in zip(rows, found, strict=True)]
    figures = {row.way: [sorted(map(int, each), reverse=True) for each in row.apart] for row in rows}
    found_all = Findings("onebyte-audit", list(told(rows, apart)), {"apart": figures}, [])
    tell(found_all, environment(), Console(width=200), json_path)


def _joined(one: Row, other: Row) -> Row:
    return Row(one.way, one.honest, one.apart + other.apart)


if __name__ == "__main__":
    main()
