"""How near two honest signatures are and how near cheating comes: the tolerance that follows, and its error rates.

Works (a model, a shard, a seed) are drawn twice: the tolerance is chosen on the first lot, the error rates are measured
on the second, and each trial draws its projection seeds anew. A trial is three auditors with a seed each, who replay
the work and compare. The rule: let honest updates be MARGIN times as far apart as the worst that was seen, relative to
their length; then one auditor in a million finds more bits to differ than the tolerance, or norms further apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from gossipnode.learn.deviations import Trainings, Way, Work, cheating_ways, honest_ways, in_bfloat16
from gossipnode.learn.encoding import Vector, decode
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from protocols.learner import Unfit
from verify.binomial import at_most, bounds
from verify.lsh import BITS, NO_NORM, NORMS_PER_OCTAVE, SEED_BYTES, Signature, Tolerance, agrees, distance
from verify.simhash import signature

AGES: Final = (0, 6, 40)  # rounds that a model has been trained for: an update's noise grows as its length shrinks
HONEST_ERROR: Final = 1e-6  # of one auditor, on the worst honest work
MARGIN: Final = 2.0  # for machines that are not this one
REFERENCE: Final = "same work"
BFLOAT16: Final = "same work in bfloat16"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is drawn. Each work is trained once for each way."""

    shards: int = 8
    choosing: int = 48  # works to choose on; many, since an honest one jumps only where a ReLU or a pool is at its kink
    works: int = 24  # fresh ones, to report on
    trials: int = 1000  # for each row, over all works
    seed: int = 0
    bfloat16: bool = False  # its noise counts as honest
    only: tuple[str, ...] = ()  # ways to report on; all, if none are named


@dataclass(slots=True)
class Row:
    """One way to come by an update, against the reference: how often auditors agreed."""

    way: str
    honest: bool
    distances: list[int] = field(default_factory=list)  # of every auditor
    norms: list[int] = field(default_factory=list)  # steps
    trials: int = 0
    one: int = 0  # trials in which the first auditor agreed
    three: int = 0  # in which two of three did
    escalated: int = 0  # in which the first did, or else both others

    def count(self, votes: list[bool]) -> None:
        self.trials += 1
        self.one += votes[0]
        self.three += sum(votes) >= 2
        self.escalated += votes[0] or all(votes[1:])


@dataclass(frozen=True, slots=True)
class Calibration:
    worst: float  # honest update seen in choosing: how far from the reference, relative to its length
    tolerance: Tolerance
    rows: list[Row]
    trainings: int
    works: int

    def error(self, row: Row, agreed: int) -> tuple[float, float, float]:
        """The rate, and the bounds within which it lies at 95 %: of false alarms, or of cheating that passes."""
        wrong = row.trials - agreed if row.honest else agreed
        low, high = bounds(wrong, row.trials)
        return wrong / row.trials, low, high


Updates = Mapping[str, Vector]
Knowing = Mapping[str, Callable[[Tolerance], Way]]  # ways of who knows the tolerance, by name


class Calibrator:
    """One task. Raises TaskError, LearnerError where the task does, and Unfit if it cannot be trained so."""

    def __init__(self, engine: Engine, plan: Plan, knowing: Knowing = MappingProxyType({})) -> None:
        torch.set_num_threads(1)
        self._plan, self._engine, self._knowing = plan, engine, knowing
        self._shards = [engine.data(Shard(index=i, count=plan.shards)) for i in range(plan.shards)]
        self.trainings = Trainings(engine.task, self._shards[0].pool, engine.config.training, engine.template)
        self._honest: dict[str, Way] = dict(honest_ways())
        cheating = dict(cheating_ways())
        if engine.config.training.momentum == 0:
            del cheating["no momentum"]
        (self._honest if plan.bfloat16 else cheating)[BFLOAT16] = in_bfloat16
        self._ways = self._asked_for({**self._honest, **cheating})
        self._rng = np.random.default_rng(plan.seed)

    def run(self, say: Callable[[str], None]) -> Calibration:
        parents = self._parents()
        say(f"training {self._plan.choosing} works in {len(self._honest)} honest ways, to choose the tolerance")
        worst = max(furthest(self._updates(work, self._honest)) for work in self._works(parents, "choosing"))
        tolerance = tolerance_for(MARGIN * worst)
        self._ways |= self._asked_for({name: make(tolerance) for name, make in self._knowing.items()})
        say(f"training {self._plan.works} fresh works in {len(self._ways)} ways, to see what it is worth")
        fresh = [self._updates(work, self._ways) for work in self._works(parents, "fresh")]
        say(f"{self._plan.trials} trials a row")
        rows = self._tried(fresh, tolerance)
        return Calibration(worst, tolerance, rows, self.trainings.count, len(fresh))

    def _asked_for(self, ways: Mapping[str, Way]) -> dict[str, Way]:
        only = self._plan.only
        return {name: way for name, way in ways.items() if not only or name in only}

    def _parents(self) -> list[Vector]:
        """Models of several ages, each trained on one shard after the other."""
        engine, blob, found = self._engine, self._engine.initial(), []
        for age in range(max(AGES) + 1):
            if age in AGES:
                found.append(decode(blob, engine.template))
            blob = engine.train(blob, self._shards[age % len(self._shards)], seed=age).blob
        return found

    def _works(self, parents: list[Vector], lot: str) -> Iterator[Work]:
        """The two lots share models, but no batch seed."""
        count, first = (self._plan.choosing, 0) if lot == "choosing" else (self._plan.works, 2**20)
        for number in range(count):
            own = int(self._rng.integers(len(self._shards)))
            other = (own + int(self._rng.integers(1, len(self._shards)))) % len(self._shards)
            parent, seed = parents[number % len(parents)], first + 2 * number + 2**21 * self._plan.seed
            yield Work(parent, self._shards[own].rows, self._shards[other].rows, seed)

    def _updates(self, work: Work, ways: Mapping[str, Way]) -> Updates:
        return {
            REFERENCE: self.trainings.update(work),
            **{way: make(self.trainings, work) for way, make in ways.items()},
        }

    def _tried(self, works: list[Updates], tolerance: Tolerance) -> list[Row]:
        rows = [Row(name, name in self._honest) for name in self._ways]
        for trial in range(self._plan.trials):
            votes = [self._compare(works[trial % len(works)], rows, tolerance) for _ in range(3)]
            for row, each in zip(rows, zip(*votes, strict=True), strict=True):
                row.count(list(each))
        return rows

    def _compare(self, updates: Updates, rows: list[Row], tolerance: Tolerance) -> list[bool]:
        """One auditor, with a seed of its own, on each row."""
        seed = self._rng.bytes(SEED_BYTES)
        ours = signature(updates[REFERENCE], seed)
        theirs = [signature(updates[row.way], seed) for row in rows]
        for row, found in zip(rows, theirs, strict=True):
            row.distances.append(distance(ours, found))
            row.norms.append(steps_between(ours, found))
        return [agrees(ours, found, tolerance) for found in theirs]


def furthest(updates: Updates) -> float:
    """From the reference, relative to its length. Raises Unfit if it has none."""
    ours = updates[REFERENCE].astype(np.float64)
    if not ours.any():
        raise Unfit("training changes nothing; a higher training.lr may help")
    return max(float(np.linalg.norm(each - ours)) for each in updates.values()) / float(np.linalg.norm(ours))


def tolerance_for(relative: float) -> Tolerance:
    """For updates that are so far apart: at an angle of asin(relative) at most, and 1 + relative in length."""
    chance = math.asin(min(relative, 1.0)) / math.pi
    bits = next(bits for bits in range(BITS + 1) if 1 - at_most(bits, BITS, chance) <= HONEST_ERROR)
    return Tolerance(bits, 1 + int(NORMS_PER_OCTAVE * math.log2(1 + relative)))


def steps_between(a: Signature, b: Signature) -> int:
    """Of the norm; what has none is an octave of octaves away."""
    return NORMS_PER_OCTAVE**2 if NO_NORM in (a.norm, b.norm) else abs(a.norm - b.norm)
