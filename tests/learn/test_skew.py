"""Logit adjustment: what it makes of a shard, that it leaves no trace, and for which tasks it cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.images import DIGITS
from gossipnode.learn.shard import Shard
from gossipnode.learn.skew import adjusted, shares
from gossipnode.learn.task import Batch, Data, Task, TaskError, classes_of
from protocols.manifest import Training

SKEWED = Shard(index=0, count=10, partition="labels", seed=0)


def engine_of(tau: float) -> Engine:
    return Engine(LearnerConfig(task="digits", training=Training(logit_adjustment=tau)))


def trained(tau: float, shard: Shard) -> bytes:
    engine = engine_of(tau)
    return engine.train(engine.initial(), engine.data(shard), seed=1).blob


def test_scores_are_raised_by_the_log_of_the_smoothed_shares() -> None:
    pool = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 3, 3, 7]))
    model = DIGITS.model(0).requires_grad_(False)
    pi = torch.full((10,), 0.05)
    pi[3] += 0.375
    pi[7] += 0.125
    expected = cross_entropy(model(pool[0]) + 2 * pi.log(), pool[1])
    plain = DIGITS.loss(model, pool)
    with adjusted(model, DIGITS, pool, torch.arange(4), 2.0):
        assert DIGITS.loss(model, pool) == pytest.approx(float(expected), rel=1e-5)
    assert DIGITS.loss(model, pool) == plain
    with pytest.raises(ZeroDivisionError), adjusted(model, DIGITS, pool, torch.arange(4), 2.0):
        raise ZeroDivisionError
    assert DIGITS.loss(model, pool) == plain


def test_shares_are_of_the_shards_own_labels() -> None:
    assert shares(torch.tensor([1, 1]), 4).tolist() == pytest.approx([0.125, 0.625, 0.125, 0.125])
    assert shares(torch.arange(4), 4).tolist() == pytest.approx([0.25] * 4)


def test_classes_that_a_shard_lacks_are_pushed_down_less() -> None:
    engine, whole = engine_of(1.0), Shard()
    data = engine.data(SKEWED)
    lacked = [label for label in range(10) if not (data.pool[1][data.rows] == label).any()]
    theta = engine.train(engine.initial(), engine.data(whole), seed=0).blob

    def recall(tau: float) -> float:
        engine = engine_of(tau)
        engine.evaluate(engine.train(theta, data, seed=1).blob, data)  # loads it
        rows = torch.isin(data.test[1], torch.tensor(lacked))
        with torch.no_grad():
            return DIGITS.metrics(engine.flat.model, tuple(tensor[rows] for tensor in data.test))["accuracy"]

    assert recall(1.0) > recall(0.0) + 0.2


def test_the_same_work_gives_the_same_bytes_to_whoever_does_it_again() -> None:
    engine = engine_of(1.0)
    again = engine.train(engine.initial(), engine.others(SKEWED.text), seed=1).blob
    assert again == trained(1.0, SKEWED) != trained(0.0, SKEWED)


class Own(Task):
    """Two of three classes in its shard; whether it says that they are classes is up to the test."""

    said = 0

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(2, 3)

    def data(self, shard: Shard, path: Path | None) -> Data:
        batch = (torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))
        return Data(batch, torch.arange(4), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def classes(self) -> int:
        return self.said


def test_a_task_that_names_no_classes_is_refused_and_one_that_does_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossipnode.learn.engine.load_task", lambda spec: Own())
    with pytest.raises(TaskError, match=r"training.logit_adjustment: .* classes\(\)"):
        engine_of(1.0)
    engine_of(0.0)
    monkeypatch.setattr(Own, "said", 3)
    engine = engine_of(1.0)
    done = engine.train(engine.initial(), engine.data(Shard()), seed=0)
    assert math.isfinite(done.loss)


def test_who_wrote_only_the_five_methods_names_no_classes() -> None:
    assert classes_of(object()) == 0  # type: ignore[arg-type]  # whatever an operator wrote
    assert classes_of(DIGITS) == 10
