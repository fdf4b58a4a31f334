"""What an observer learns from the bytes: whether an example that it holds was in a shard.

The observer knows all that is public (every z, every byte, so every theta) and has the example in question and some
others of its kind. For each probe it works out the slope s of the example, and those of its others, with mean r and
variance v. A slope g that was said is that of a random batch of a shard of n: beside r it has an independent error of
variance v / batch + noise, and one that is the same mixture of examples at every probe, for which the observer's others
stand with weights of variance 1 / n^2. With C the covariance of both over all probes, and m = (s - r) / n, the log of
the likelihood ratio of a shard with the example to one without is (g - r) C^-1 m - m C^-1 m / 2. How well that tells
members from others is the area under its ROC curve: the chance that a member scores higher than an example that was
never there; 0.5 is a coin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from bench.onebyte import Setting, shards, train
from gossipnode.learn.accountant import Privacy
from gossipnode.learn.rules import LEVELS
from gossipnode.learn.spsa import Spsa, example_losses, from_bytes
from gossipnode.learn.task import Batch, Data, load_task

Slopes = NDArray[np.float64]


@dataclass(slots=True)
class Observer:
    """Watches seat 0."""

    candidates: Batch  # members first, C in all
    others: Batch  # of the observer's own, O
    examples: int  # in the shard
    noise: float  # variance of the published slope, beyond that of the batch
    batch: int
    clip: float
    said: list[float] = field(default_factory=list)  # (T,) in the end
    slopes: list[Slopes] = field(default_factory=list)  # (T, C + O)

    def __call__(self, spsa: Spsa, step: int, seat: int, seeds: list[int], scalars: bytes) -> None:
        if seat:
            return
        both = tuple(torch.cat(pair) for pair in zip(self.candidates, self.others, strict=True))
        for seed, byte in zip(seeds, from_bytes(scalars).tolist(), strict=True):
            slopes = spsa.example_slopes(seed, both).numpy()
            if spsa.privacy is not None:
                slopes = slopes.clip(-spsa.privacy.example_clip, spsa.privacy.example_clip)
            self.said.append(-byte * self.clip / LEVELS)
            self.slopes.append(slopes)

    def scores(self, probes: int) -> Slopes:
        """Of the candidates, (C,), after so many probes."""
        slopes = np.array(self.slopes[:probes])
        candidates, others = np.split(slopes, [len(self.candidates[0])], axis=1)
        mean = others.mean(1, keepdims=True)
        error = others.var(1) / self.batch + self.noise
        mixture = (others - mean) / self.examples
        covariance = np.diag(error) + mixture @ mixture.T
        shift = (candidates - mean) / self.examples  # (T, C)
        weighed = np.linalg.solve(covariance, shift)
        found: Slopes = (np.array(self.said[:probes]) - mean[:, 0]) @ weighed - (shift * weighed).sum(0) / 2
        return found


@dataclass(frozen=True, slots=True)
class Exposure:
    """Of one shard, in one run."""

    area_by_step: dict[int, float]
    area_of_the_model: float  # of an observer who looks at the losses of the last model only
    test: float  # accuracy


def exposure(setting: Setting, seed: int, examples: int, privacy: Privacy | None, marks: tuple[int, ...]) -> Exposure:
    """`examples`: the shard of seat 0 is cut to so many."""
    task, rules = load_task(setting.task), setting.rules()
    pieces, held_out, _ = shards(task, setting, seed)
    rows = pieces[0].rows[:examples]
    victim = Data(pieces[0].pool, rows, pieces[0].test)
    half = len(held_out[0]) // 2
    members = tuple(tensor[rows] for tensor in victim.pool)
    batch = min(rules.batch, len(rows))
    noise = (rules.clip / LEVELS) ** 2 / 12  # of the rounding
    if privacy is not None:
        noise += (privacy.sigma * privacy.example_clip / batch) ** 2
    observer = Observer(
        candidates=tuple(torch.cat([own, other[:half]]) for own, other in zip(members, held_out, strict=True)),
        others=tuple(tensor[half:] for tensor in held_out),
        examples=len(rows),
        batch=batch,
        noise=noise,
        clip=rules.clip,
    )
    final: list[Slopes] = []

    def watch(spsa: Spsa, step: int, seat: int, seeds: list[int], scalars: bytes) -> None:
        observer(spsa, step, seat, seeds, scalars)
        if step + 1 == setting.steps and not seat:
            with torch.no_grad():
                final.append(-example_losses(task, spsa.flat.model, observer.candidates).double().numpy())

    trained = train(setting, seed, privacy, watch, victim)
    areas = {step: area(observer.scores(step * rules.probes), len(rows)) for step in marks if step <= setting.steps}
    return Exposure(areas, area(final[0], len(rows)), trained.test)


def area(scores: Slopes, members: int) -> float:
    """Under the ROC curve, the first so many being members."""
    inside, outside = scores[:members, None], scores[None, members:]
    return float((inside > outside).mean() + (inside == outside).mean() / 2)
