"""Adapters merged by what they add: exact where the rank suffices, nearest where it does not, and never dead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from gossipnode.learn.adapters import LARGEST, Adapter, Pair, pairs, stacked, svd
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Vector, decode
from gossipnode.learn.engine import Engine
from gossipnode.learn.kernels import lowrank
from gossipnode.learn.merge import Shape, mean, merged
from gossipnode.learn.models import Models
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard, shard_named
from gossipnode.learn.task import Batch, Data, Task, TaskError
from gossipnode.learn.tasks.sentiment import Adapted
from protocols.learner import Unfit
from protocols.manifest import Training
from protocols.merging import Merging, faults

FLORA = Merging(rule="flora")
Array = NDArray[np.float64]


def model(a: NDArray[np.floating], b: NDArray[np.floating], rest: Sequence[float] = (1.0,)) -> Vector:
    return np.concatenate([a.ravel(), b.ravel(), rest]).astype(np.float32)


def layout(rank: int, inputs: int, outputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("x.down", (rank, inputs)), ("x.up", (outputs, rank)), ("z", (1,))]


def merge(
    models: Sequence[Vector], weights: Sequence[int], rank: int, inputs: int, outputs: int
) -> tuple[Vector, Pair]:
    [pair] = pairs(layout(rank, inputs, outputs))
    d = rank * (inputs + outputs) + 1
    return merged(Models.of(list(models)), weights, FLORA, Shape((d,), d, [pair])), pair


def added(vector: Vector, pair: Pair) -> Array:
    adapter = pair.adapter(vector)
    return adapter.b.astype(np.float64) @ adapter.a.astype(np.float64)


def sum_of(models: Sequence[Vector], weights: Sequence[int], pair: Pair) -> Array:
    total: Array = sum(w / sum(weights) * added(m, pair) for m, w in zip(models, weights, strict=True))  # type: ignore[assignment]  # never empty
    return total


def drawn(draw: np.random.RandomState, used: int, rank: int, inputs: int, outputs: int) -> Vector:
    """Of a rank no more than `used`: what is beyond it begins as fresh adapters do."""
    b = draw.standard_normal((outputs, rank))
    b[:, used:] = 0
    return model(draw.standard_normal((rank, inputs)), b)


# -- the rule ---------------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))


@settings(max_examples=60, deadline=None)
@given(sizes, st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50)), min_size=1, max_size=6))
def test_the_product_is_the_nearest_to_the_weighted_sum_of_products(
    size: tuple[int, int, int, int], trained: list[tuple[int, int]]
) -> None:
    rank, inputs, outputs, seed = size
    draw = np.random.RandomState(seed)
    models = [drawn(draw, used, rank, inputs, outputs) for used, _ in trained]
    weights = [weight for _, weight in trained]
    found, pair = merge(models, weights, rank, inputs, outputs)
    wanted = sum_of(models, weights, pair)
    values = np.linalg.svd(wanted, compute_uv=False)
    beyond = float(np.sqrt((values[rank:] ** 2).sum()))  # Eckart and Young; none if the rank suffices
    assert np.linalg.norm(added(found, pair) - wanted) == pytest.approx(beyond, abs=1e-5 * (1 + values[0]))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 2**31))
def test_the_order_of_models_does_not_matter(order: list[int], seed: int) -> None:
    draw = np.random.RandomState(seed)
    models, weights = [drawn(draw, 3, 3, 7, 6) for _ in order], [1, 2, 3, 4, 5]
    found, pair = merge(models, weights, 3, 7, 6)
    again, _ = merge([models[i] for i in order], [weights[i] for i in order], 3, 7, 6)
    assert added(again, pair) == pytest.approx(added(found, pair), abs=1e-6 * np.abs(added(found, pair)).max())


def test_different_ranks_lose_nothing_while_they_fit() -> None:
    draw = np.random.RandomState(3)
    models = [drawn(draw, used, 7, 9, 12) for used in (1, 2, 4)]
    found, pair = merge(models, [5, 1, 2], 7, 9, 12)
    assert added(found, pair) == pytest.approx(sum_of(models, [5, 1, 2], pair), abs=1e-6)


def test_what_is_no_adapter_is_the_weighted_mean() -> None:
    draw = np.random.RandomState(3)
    models = [model(draw.standard_normal((2, 3)), draw.standard_normal((4, 2)), [rest]) for rest in (1.0, 5.0)]
    assert merge(models, [3, 1], 2, 3, 4)[0][-1] == 2.0


def test_fresh_adapters_are_the_mean_and_stay_finite() -> None:
    draw = np.random.RandomState(3)
    models = [model(draw.standard_normal((2, 3)), np.zeros((4, 2))) for _ in range(3)]
    found, _ = merge(models, [1, 1, 1], 2, 3, 4)
    assert found.tobytes() == mean(Models.of(models), [1, 1, 1]).tobytes()
    zeros = [np.zeros(15, dtype=np.float32)] * 2
    assert merge(zeros, [1, 1], 2, 3, 4)[0].tobytes() == zeros[0].tobytes()


def test_components_without_weight_can_still_learn() -> None:
    draw = np.random.RandomState(3)
    models = [drawn(draw, 1, 3, 5, 4)] * 2
    found, pair = merge(models, [1, 2], 3, 5, 4)
    adapter = pair.adapter(found)
    assert (adapter.b[:, 1:] == 0).all()
    assert np.abs(adapter.a[1:] - pair.adapter(models[0]).a[1:]).max() < 1e-6


def test_rows_of_a_keep_their_length_and_come_by_falling_weight() -> None:
    draw = np.random.RandomState(3)
    models = [drawn(draw, 3, 3, 5, 4) for _ in range(3)]
    found, pair = merge(models, [1, 1, 1], 3, 5, 4)
    adapter = pair.adapter(found)
    squares = [(pair.adapter(each).a ** 2).sum() for each in models]
    assert (adapter.a**2).sum(axis=1) == pytest.approx([np.mean(squares) / 3] * 3, rel=1e-5)
    lengths = np.linalg.norm(adapter.b, axis=0)
    assert (np.diff(lengths) < 0).all()
    again, _ = merge([found], [1], 3, 5, 4)
    assert np.abs(again - found).max() < 1e-5, "what was merged stays what it is"


def test_absurd_values_give_finite_ones() -> None:
    huge = np.full(15, 3e38, dtype=np.float32)
    tiny = np.full(15, 1e-38, dtype=np.float32)
    for models in ([huge, huge], [tiny, tiny], [huge, tiny]):
        found, _ = merge(models, [1, 1], 2, 3, 4)
        assert np.isfinite(found).all()
        assert np.abs(found[:-1]).max() <= LARGEST


# -- the stack --------------------------------------------------------------------------------------------------------


def test_stacked_adapters_are_the_mean_of_their_products() -> None:
    draw = np.random.RandomState(0)
    # Whole numbers, so that equality is exact.
    adapters = [
        Adapter(draw.randint(-8, 8, (rank, 6)).astype(np.float32), draw.randint(-8, 8, (5, rank)).astype(np.float32))
        for rank in (1, 4, 2)
    ]
    weights = [1, 2, 1]
    one = stacked(adapters, weights)
    assert one.rank == 7
    expected = sum(w / 4 * (each.b @ each.a) for each, w in zip(adapters, weights, strict=True))
    assert (one.b @ one.a).tolist() == expected.tolist()  # type: ignore[union-attr]  # never empty


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(30, 20, 8), (5, 20, 40), (20, 5, 40), (1, 1, 3), (7, 7, 7)])
def test_its_values_are_those_of_the_product(outputs: int, inputs: int, rank: int) -> None:
    draw = np.random.RandomState(1)
    adapter = Adapter(draw.standard_normal((rank, inputs)), draw.standard_normal((outputs, rank)))
    u, s, v = svd(adapter, rank)
    count = min(outputs, inputs, rank)
    assert s == pytest.approx(np.linalg.svd(adapter.b @ adapter.a, compute_uv=False)[:count])
    assert (u * s) @ v.T == pytest.approx(adapter.b @ adapter.a)
    assert u.T @ u == pytest.approx(np.eye(count), abs=1e-12)
    assert v.T @ v == pytest.approx(np.eye(count), abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1)])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_any_matrix_is_q_times_r(shape: tuple[int, int], rank: int) -> None:
    draw = np.random.RandomState(1)
    matrix = draw.standard_normal((shape[0], rank)) @ draw.standard_normal((rank, shape[1]))
    q, r = lowrank.qr(matrix)
    assert q @ r == pytest.approx(matrix, abs=1e-12)
    assert q.T @ q == pytest.approx(np.eye(min(shape)), abs=1e-12)
    assert (np.tril(r, -1) == 0).all()


# -- where they are ---------------------------------------------------------------------------------------------------


def test_an_adapter_is_two_names_that_fit() -> None:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("a.down", (2, 5)),
        ("a.up", (3, 2)),
        ("b.down", (4, 5)),  # has no other half
        ("c.down", (2, 5)),  # another rank than its other half
        ("c.up", (3, 4)),
        ("d.down", (2,)),
        ("d.up", (3, 2)),
        ("down", (2, 5)),
        ("e.down", ()),
    ]
    assert list(pairs(shapes)) == [Pair(2, slice(0, 10), slice(10, 16))]


# -- nodes of different ranks ------------------------------------------------------------------------------------------

WIDTH, R = 6, 3


class Low(Task):
    """A frozen layer with an adapter, and an output layer."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(Adapted(nn.Linear(WIDTH, 5), R), nn.Linear(5, 2))

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in model.named_parameters() if "frozen" not in name}

    def data(self, shard: Shard, path: Path | None) -> Data:
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(60, WIDTH, generator=draw)
        batch = x, (x.sum(1) > 0).long()
        return Data(batch, torch.arange(60), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("gossipnode.learn.engine.load_task", lambda spec: Low())
    training = Training(lr=0.1, momentum=0.9, weight_decay=0.01, batch=10)
    return Engine(LearnerConfig(task="low", training=training, merging=FLORA))


def changed(low: Engine, before: bytes, after: bytes) -> set[int]:
    """The components that were trained: of both factors, or of none."""
    [pair] = low.flat.adapters
    was, now = (pair.adapter(decode(blob, low.template)) for blob in (before, after))
    found = set(np.flatnonzero((was.a != now.a).all(axis=1)).tolist())
    assert found == set(np.flatnonzero((was.b != now.b).all(axis=0)).tolist())
    kept = [index for index in range(R) if index not in found]
    assert (was.a[kept] == now.a[kept]).all()
    assert (was.b[:, kept] == now.b[:, kept]).all()
    return found


def test_a_node_of_a_smaller_rank_trains_so_many_components_alone(low: Engine) -> None:
    before = low.train(low.initial(), low.data(Shard()), seed=1).blob  # so that B is not zero
    trained = [changed(low, before, low.train(before, low.data(Shard(rank=2)), seed=seed).blob) for seed in range(8)]
    assert {len(each) for each in trained} == {2}
    assert set.union(*trained) == set(range(R)), "others with other seeds"
    whole = low.train(before, low.data(Shard(rank=R)), seed=2).blob
    assert whole == low.train(before, low.data(Shard()), seed=2).blob


def test_a_claim_names_the_rank_so_that_the_work_can_be_done_again(low: Engine) -> None:
    shard = Shard(index=3, count=8, seed=7, rank=2)
    assert shard.text == "3/8 iid 7 rank 2"
    assert shard_named(shard.text) == shard
    before = low.initial()
    own = low.train(before, low.data(shard), seed=2).blob
    assert low.train(before, low.others(shard.text), seed=2).blob == own
    for text in (
        "3/8 iid 7 rank 0",
        "3/8 iid 7 rank -1",
        "3/8 iid 7 rank 99999",
        "3/8 iid 7rank 2",
        "3/8 iid 7 rank 4",
    ):
        with pytest.raises(Unfit):
            low.others(text)


def test_a_rank_that_cannot_be_is_one_line(low: Engine) -> None:
    with pytest.raises(TaskError, match=r"^--rank 4: the adapters of task 'low' have rank 3; give 1 to 3$"):
        low.data(Shard(rank=4))
    onebyte = Engine(msgspec.structs.replace(low.config, rules=Rules()))
    with pytest.raises(TaskError, match=r"^--rank 2: one-byte runs move every parameter; leave it out$"):
        onebyte.data(Shard(rank=2))


def test_a_task_without_adapters_is_refused_in_one_line() -> None:
    with pytest.raises(TaskError, match=r"^merging.rule: flora needs a task with adapters, and 'digits' has none"):
        Engine(LearnerConfig(task="digits", merging=FLORA))
    with pytest.raises(TaskError, match=r"^--rank 2: task 'digits' has no adapters; leave it out$"):
        Engine(LearnerConfig(task="digits")).data(Shard(rank=2))
    assert list(faults(Merging(rule="flora", byzantine=1), 4)) == [
        "merging.byzantine: flora withstands no liar; choose another merging.rule, or auto"
    ]


def test_what_is_merged_can_be_trained_on(low: Engine) -> None:
    data = [low.data(Shard(rank=rank)) for rank in (1, 2, 3)]
    model = low.initial()
    losses = [low.evaluate(model, data[0])["loss"]]
    for _ in range(4):
        model = low.merge([low.train(model, each, seed=5).blob for each in data], [1, 2, 3])
        losses.append(low.evaluate(model, data[0])["loss"])
    assert losses == sorted(losses, reverse=True)
