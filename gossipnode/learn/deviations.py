"""What else could come of the same work: honestly, on other hardware, or by each way of cheating that leaves an update.

For calibration: how far apart may two honest updates be, and how near does cheating come? An update is what training
adds to its parent, as float32. The reference is what a trainer and an auditor with one CPU thread compute. Invariant:
the same work and the same way give the same update, in whatever order they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossipnode.learn import sgd
from gossipnode.learn.encoding import Template, Vector, decode, encode
from gossipnode.learn.engine import REMEDY, never
from gossipnode.learn.flat import Flat
from gossipnode.learn.skew import adjusted
from gossipnode.learn.task import Batch, Task
from protocols.learner import Unfit
from protocols.manifest import Training

NOISE: Final = 0.1  # of the update's own length


@dataclass(frozen=True, slots=True)
class Work:
    """What a trainer is asked for in a round."""

    parent: Vector  # (P,)
    rows: Tensor  # of its shard
    others: Tensor  # another node's
    seed: int


class Trainings:
    """One task, trained in whatever way. `count` says how often."""

    def __init__(self, task: Task, pool: Batch, training: Training, template: Template) -> None:
        self.task, self.pool, self.training, self.template = task, pool, training, template
        self.count = 0
        self._flats: dict[tuple[str, bool], Flat] = {}

    def update(self, work: Work, **how: Any) -> Vector:  # noqa: ANN401  # as `trained` takes them
        return self.trained(work, **how) - work.parent

    def trained(
        self,
        work: Work,
        *,
        rows: Tensor | None = None,
        training: Training | None = None,
        cut: Callable[[list[Tensor]], list[Tensor]] | None = None,
        pool: Batch | None = None,
        device: str = "cpu",
        double: bool = False,
    ) -> Vector:
        """(P,), as it travels. `cut` makes other batches of those that are due. Raises Unfit."""
        self.count += 1
        flat, training = self._flat(device, double), training or self.training
        flat.load(work.parent)
        torch.manual_seed(work.seed)
        rows = work.rows if rows is None else rows
        batches = list(sgd.batches(rows, training, work.seed))
        batches = [batch.to(device) for batch in (cut(batches) if cut else batches)]
        moved = tuple(tensor.to(device) for tensor in pool or self.pool)
        with adjusted(flat.model, self.task, moved, rows.to(device), training.logit_adjustment):
            sgd.descend(flat, self.task, moved, batches, training, stop=never)
        try:
            return decode(encode(flat.read().astype(np.float32), self.template), self.template)
        except ValueError as error:
            raise Unfit(f"after training, {error}; {REMEDY}") from error

    def _flat(self, device: str, double: bool) -> Flat:
        if (device, double) not in self._flats:
            flat = Flat(self.task, 0, torch.device(device), double=double)
            if double:
                flat.model.register_forward_pre_hook(_widened)
            self._flats[device, double] = flat
        return self._flats[device, double]


Way = Callable[[Trainings, Work], Vector]


def honest_ways() -> Mapping[str, Way]:
    """Those that this machine can show, in float32 or better."""
    ways: dict[str, Way] = {
        "two threads": _on_two_threads,
        "other kernels": _with_other_kernels,
        "float64": lambda trainings, work: trainings.update(work, double=True),
        "each batch in another order": lambda trainings, work: trainings.update(work, cut=_turned),
    }
    if torch.cuda.is_available():
        ways["GPU"] = lambda trainings, work: trainings.update(work, device="cuda")
    return ways


def in_bfloat16(trainings: Trainings, work: Work) -> Vector:
    """Matrix products in bfloat16, as autocast does it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return trainings.update(work)


def cheating_ways() -> Mapping[str, Way]:
    """The rows of what a signature must see; `scaled` and the like are what a liar does to an honest update."""
    return {
        "honest update + 10% noise": _noisy,
        "four fifths of the steps": lambda trainings, work: trainings.update(work, cut=_some_of(4 / 5)),
        "no momentum": _without_momentum,
        "one fifth of the steps": lambda trainings, work: trainings.update(work, cut=_some_of(1 / 5)),
        "other batch seed": _of_another_seed,
        "another node's shard": lambda trainings, work: trainings.update(work, rows=work.others),
        "labels flipped": lambda trainings, work: trainings.update(work, pool=_flipped(trainings.pool)),
        "pure noise": lambda trainings, work: _noise(trainings.update(work), work.seed),
        "sign flipped": lambda trainings, work: -trainings.update(work),
        "update times ten": lambda trainings, work: trainings.update(work) * np.float32(10),
        "no update": lambda trainings, work: np.zeros_like(work.parent),
    }


def _on_two_threads(trainings: Trainings, work: Work) -> Vector:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return trainings.update(work)
    finally:
        torch.set_num_threads(threads)


def _with_other_kernels(trainings: Trainings, work: Work) -> Vector:
    enabled, *_ = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        return trainings.update(work)
    finally:
        torch.backends.mkldnn.set_flags(enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]  # as above


def _turned(batches: list[Tensor]) -> list[Tensor]:
    return [batch.flip(0) for batch in batches]


def _some_of(share: float) -> Callable[[list[Tensor]], list[Tensor]]:
    return lambda batches: batches[: max(1, round(share * len(batches)))]


def _without_momentum(trainings: Trainings, work: Work) -> Vector:
    return trainings.update(work, training=msgspec.structs.replace(trainings.training, momentum=0.0))


def _of_another_seed(trainings: Trainings, work: Work) -> Vector:
    return trainings.update(Work(work.parent, work.rows, work.others, work.seed + 1))


def _noisy(trainings: Trainings, work: Work) -> Vector:
    update = trainings.update(work)
    return update + np.float32(NOISE) * _noise(update, work.seed)


def _noise(update: Vector, seed: int) -> Vector:
    """Of the update's length."""
    noise = np.random.default_rng(seed).standard_normal(len(update))
    scaled: Vector = (noise * (np.linalg.norm(update) / np.linalg.norm(noise))).astype(np.float32)
    return scaled


def _flipped(pool: Batch) -> Batch:
    """The last label for the first, and so on."""
    return (*pool[:-1], pool[-1].max() - pool[-1])


def _widened(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
