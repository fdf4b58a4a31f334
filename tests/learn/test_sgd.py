from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossipnode.learn.central import train_central
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import encode
from gossipnode.learn.engine import Engine
from gossipnode.learn.flat import Flat
from gossipnode.learn.sgd import Stopped, batches, train
from gossipnode.learn.task import Batch, Data, Shard, Task, TaskError, load_task
from protocols.collection import absurd
from protocols.learner import LearnerError, Unfit
from protocols.manifest import Training
from sampling.peers import PeerId

CPU = torch.device("cpu")


class Normed(Task):
    """Has a parameter that is frozen, a batch norm's buffers, and dropout."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def data(self, shard: Shard, path: Path | None) -> Data:
        draw = torch.Generator().manual_seed(3)
        batch = (torch.randn(30, 3, generator=draw), torch.arange(30) % 2)
        return Data(batch, torch.arange(30), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Adapter(Normed):
    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: p for name, p in model.named_parameters() if name.startswith("3.")}


def run(task: Task, training: Training, seed: int = 0) -> tuple[Flat, bytes]:
    flat = Flat(task, 0, CPU)
    train(flat, task, task.data(Shard(), None), training, seed=seed, stop=lambda: False)
    return flat, flat.read().tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_the_update_is_that_of_torch(momentum: float, weight_decay: float) -> None:
    training = Training(lr=0.1, momentum=momentum, weight_decay=weight_decay, batch=7, epochs=2)
    task = Normed()
    flat, _ = run(task, training, seed=4)
    torch.manual_seed(0)
    model = task.model(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    data = task.data(Shard(), None)
    torch.manual_seed(4)
    model.train()
    for rows in batches(data.rows, training, 4):
        optimiser.zero_grad()
        task.loss(model, (data.pool[0][rows], data.pool[1][rows])).backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
    theirs = dict([*model.named_parameters(), *model.named_buffers()])
    for name, ours in task.trainable(flat.model).items():
        assert torch.allclose(ours, theirs[name], atol=1e-6), name


def test_a_seed_fixes_batches_and_dropout() -> None:
    training = Training(batch=8)
    assert run(Normed(), training, seed=1)[1] == run(Normed(), training, seed=1)[1]
    assert run(Normed(), training, seed=1)[1] != run(Normed(), training, seed=2)[1]


def test_batches_cover_an_epoch_once_each_in_a_new_order() -> None:
    epochs = list(batches(torch.arange(10), Training(batch=4, epochs=2), 0))
    assert [len(batch) for batch in epochs] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(epochs[:3]).tolist(), torch.cat(epochs[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_steps_instead_of_epochs(steps: int) -> None:
    assert len(list(batches(torch.arange(10), Training(batch=4, epochs=0, steps=steps), 0))) == steps


def test_stop_is_asked_between_batches() -> None:
    asked = iter([False, False, True])
    flat, task = Flat(Normed(), 0, CPU), Normed()
    with pytest.raises(Stopped):
        train(flat, task, task.data(Shard(), None), Training(batch=3), seed=0, stop=lambda: next(asked))
    assert next(asked, None) is None


def test_only_the_trainable_travels_and_the_rest_stays_as_it_was() -> None:
    flat, _ = run(Adapter(), Training())
    fresh = Flat(Adapter(), 0, CPU)
    assert [name for name, _ in flat.layout] == ["3.bias", "3.weight"]
    assert torch.equal(flat.model[0].weight, fresh.model[0].weight)  # type: ignore[index]  # a Sequential
    assert not torch.equal(flat.vector, fresh.vector)


def test_buffers_travel_but_do_not_decay() -> None:
    flat, _ = run(Normed(), Training(lr=0.0001, momentum=0.0, weight_decay=1.0))
    names = [name for name, _ in flat.layout]
    assert names[-2:] == ["1.running_mean", "1.running_var"]
    other = Flat(Normed(), 9, CPU)
    other.load(flat.read())
    assert torch.equal(
        dict(other.model.named_buffers())["1.running_var"], dict(flat.model.named_buffers())["1.running_var"]
    )


class Odd(Normed):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        weight = dict(model.named_parameters())["3.weight"]
        double = nn.Parameter(weight.detach().double())
        model.register_parameter("wide", double)
        kinds: dict[str, dict[str, Tensor]] = {
            "empty": {},
            "twice": {"a": weight, "b": weight},
            "copy": {"a": weight.detach().clone()},
            "double": {"a": double},
        }
        return kinds[self.kind]


@pytest.mark.parametrize(
    ("kind", "line"),
    [("empty", "at least one"), ("twice", "twice"), ("copy", "'a' is a copy"), ("double", "float32 tensors")],
)
def test_a_trainable_that_cannot_be_is_refused(kind: str, line: str) -> None:
    with pytest.raises(TaskError, match=line):
        Flat(Odd(kind), 0, CPU)


def test_threads_do_not_change_a_merge() -> None:
    engine = Engine(LearnerConfig(task="mnist-mlp"))
    data = engine.data(Shard(index=1, count=40))
    models = [engine.train(engine.initial(), data, seed=seed).blob for seed in range(3)]
    before = torch.get_num_threads()
    merged = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        merged.append(engine.merge(models, [3, 1, 2]))
    torch.set_num_threads(before)
    assert merged[0] == merged[1]


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
def test_an_engine_forgets_what_it_did_before(encoding: str) -> None:
    engine = Engine(LearnerConfig(task="digits", encoding=encoding))  # type: ignore[arg-type]  # one of the three
    data = engine.data(Shard())
    theta0 = engine.initial()
    update = engine.train(theta0, data, seed=5)
    engine.evaluate(update.blob, data)
    assert engine.initial() == theta0
    assert engine.train(theta0, data, seed=5) == update
    assert len(update.blob) == engine.template.size
    assert (update.samples, update.steps) == (1438, 72)
    assert engine.evaluate(update.blob, data)["accuracy"] > 0.8


def test_a_loss_that_explodes_names_the_remedy() -> None:
    engine = Engine(LearnerConfig(task="digits", training=Training(lr=100.0, weight_decay=1.0)))
    with pytest.raises(Unfit, match=r"task 'digits'.*a lower training.lr may help"):
        engine.train(engine.initial(), engine.data(Shard()), seed=0)


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_a_finite_parent_that_nobody_can_train_from_is_unfit(value: float) -> None:
    engine = Engine(LearnerConfig(task="digits"))
    vector = np.full(engine.template.parameters, value, np.float32)
    vector[::2] *= -1
    blob = encode(vector, engine.template)
    assert engine.check(blob) == float(np.float32(value))
    with pytest.raises(Unfit, match="the loss became"):
        engine.train(blob, engine.data(Shard()), seed=0)


class Unlabelled(Normed):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise KeyError("label")


class Blank(Normed):
    """As a file of data that was read wrongly."""

    def data(self, shard: Shard, path: Path | None) -> Data:
        data = super().data(shard, path)
        return Data((data.pool[0] * math.nan, data.pool[1]), data.rows, data.test)


@pytest.mark.parametrize(("task", "failure"), [("Unlabelled", LearnerError), ("Blank", Unfit)])
def test_a_task_that_raises_is_told_from_numbers_that_are_not_finite(
    task: str, failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossipnode.learn.engine.load_task", lambda spec: globals()[task]())
    engine = Engine(LearnerConfig(task="digits"))
    with pytest.raises(failure):
        engine.train(engine.initial(), engine.data(Shard()), seed=0)


@pytest.mark.parametrize(("lr", "larger"), [(0.05, 1.0), (5.0, 1.0), (0.05, 100.0)])
@pytest.mark.parametrize("task", ["digits", "normed"])
def test_an_honest_model_is_not_absurd(task: str, lr: float, larger: float) -> None:
    # Among models of ordinary data: one whose learning rate, or whose inputs, are a hundred times as large.
    largest: dict[PeerId, float] = {}
    for name, (rate, factor) in {"a": (0.05, 1.0), "b": (0.05, 1.0), "odd": (lr, larger)}.items():
        chosen = Normed() if task == "normed" else load_task(task)
        flat, data = Flat(chosen, 0, CPU), chosen.data(Shard(index=0, count=8), None)
        wild = Data((data.pool[0] * factor, data.pool[1]), data.rows, data.test)
        train(flat, chosen, wild, Training(lr=rate, epochs=2), seed=1, stop=lambda: False)
        largest[PeerId(name)] = float(flat.vector.detach().abs().max())
    assert absurd(largest) == []
    assert absurd({PeerId("a"): 1.0, PeerId("b"): 1.0, PeerId("liar"): 1e30}) == ["liar"]


def test_a_hostile_parent_is_unfit() -> None:
    engine = Engine(LearnerConfig(task="digits"))
    blob = bytearray(engine.initial())
    blob[-4:] = np.float32(math.nan).tobytes()
    data = engine.data(Shard())
    for attempt in (
        lambda: engine.train(blob, data, seed=0),
        lambda: engine.evaluate(blob, data),
        lambda: engine.merge([blob], [1]),
        lambda: engine.check(blob),
    ):
        with pytest.raises(Unfit):
            attempt()


def test_central_training_learns() -> None:
    accuracies = [metrics["accuracy"] for metrics in train_central(LearnerConfig(task="digits"), epochs=4)]
    assert len(accuracies) == 4
    assert accuracies[-1] > 0.93
