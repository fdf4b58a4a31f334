"""What is merged by which rule: what was learned, what was measured, output layers; and by what weights."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gossipnode.learn.bristle import certainties, integrated
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import BLOCK, Encoding, Template, Vector, decode, encode, opened
from gossipnode.learn.engine import Engine
from gossipnode.learn.flat import Flat
from gossipnode.learn.merge import Shape, mean, merged
from gossipnode.learn.models import Models
from gossipnode.learn.task import Batch, Data, Shard, Task, TaskError
from gossipnode.learn.variance import corrected_mean, factor
from protocols.gossip.fedfix import CEILING, fedfix, windows
from protocols.manifest import Training
from protocols.merging import Merging

CPU = torch.device("cpu")


def some(n: int, d: int, seed: int = 0) -> Vector:
    return np.random.RandomState(seed).standard_normal((n, d)).astype(np.float32)


# -- blobs, slice by slice --------------------------------------------------------------------------------------------

LAYOUT = [("a", (3, BLOCK)), ("b", (7,)), ("c", (BLOCK + 1,)), ("d", ())]


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
@given(data=st.data())
def test_a_slice_of_a_blob_is_that_of_what_is_decoded(encoding: Encoding, data: st.DataObject) -> None:
    template = Template(LAYOUT, encoding)
    blob = encode(some(1, template.parameters)[0], template)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, template.parameters)] * 2)))
    assert opened(blob, template)[low:high].tobytes() == decode(blob, template)[low:high].tobytes()


def test_models_are_never_all_in_memory() -> None:
    template = Template([("a", (1_000_000,))], "bfloat16")
    blobs = [encode(row, template) for row in some(2, 1_000_000)] * 4
    krum = Merging(rule="multi-krum", byzantine=2)
    merged(Models.of(some(3, 9)), [1] * 3, krum, Shape((9,), 9))  # what compiling needs is not counted
    tracemalloc.start()
    try:
        rows = [opened(blob, template) for blob in blobs]
        merged(Models.of(rows), [1] * 8, krum, Shape(template.lengths, 1_000_000))
        assert tracemalloc.get_traced_memory()[1] < 14_000_000  # one model decoded to be checked, where eight are 32 MB
    finally:
        tracemalloc.stop()


# -- what was measured ------------------------------------------------------------------------------------------------


def test_running_statistics_are_averaged_by_examples_or_their_median_where_liars_are_feared() -> None:
    models = np.array([[0, 0, 4.0], [0, 0, 1.0], [0, 0, 1e9]], dtype=np.float32)
    shape = Shape((2, 1), learned=2)
    assert merged(Models.of(models[:2]), [3, 1], Merging(), shape)[2] == 3.25
    assert merged(Models.of(models[:2]), [3, 1], Merging(rule="corrected"), shape)[2] == 3.25
    for rule in ("median", "multi-krum", "flag"):
        merging = Merging(rule=rule, byzantine=1)  # type: ignore[arg-type]  # one of its names
        parent = np.ones(3, dtype=np.float32)
        assert merged(Models.of(models), [3, 1, 1], merging, shape, parent)[2] == 4.0


def test_fewer_models_than_a_round_should_have_stand_fewer_liars() -> None:
    models, shape = some(2, 6), Shape((6,), 6)
    found = merged(Models.of(models), [1, 5], Merging(rule="trimmed-mean", byzantine=3), shape)
    assert found.tobytes() == mean(Models.of(models), [1, 1]).tobytes()
    for rule in ("trimmed-mean", "multi-krum", "geometric-median", "median"):
        merging = Merging(rule=rule, byzantine=3, mixing=True)  # type: ignore[arg-type]  # one of its names
        assert merged(Models.of(models[:1]), [1], merging, shape) == pytest.approx(models[0])


def test_the_mean_is_the_same_when_it_is_cut_where_buffers_begin() -> None:
    models = some(3, 100)
    whole = mean(Models.of(models), [1, 2, 3]).tobytes()
    assert merged(Models.of(models), [1, 2, 3], Merging(), Shape((60, 40), 60)).tobytes() == whole


# -- variance ---------------------------------------------------------------------------------------------------------


def test_the_mean_of_strangers_keeps_their_variance() -> None:
    models = some(9, 5000) * np.float32(0.3) + np.float32(2)
    lengths = (3000, 2000)
    plain, kept = mean(Models.of(models), [1] * 9), corrected_mean(Models.of(models), [1] * 9, lengths)
    assert plain[:3000].var() == pytest.approx(0.09 / 9, rel=0.1)
    assert kept[:3000].var() == pytest.approx(0.09, rel=0.05)
    assert kept[3000:].mean() == pytest.approx(plain[3000:].mean(), abs=1e-5)


def test_models_that_agree_are_not_stretched() -> None:
    model = some(1, 500)[0]
    assert corrected_mean(Models.of([model] * 4), [1, 2, 3, 4], (500,)) == pytest.approx(model, abs=1e-6)
    constant = np.ones(50, dtype=np.float32)  # a layer norm's gains
    assert corrected_mean(Models.of([constant] * 3), [1] * 3, (50,)).tobytes() == constant.tobytes()


def test_one_liar_does_not_choose_the_variance() -> None:
    models = some(9, 4000)
    honest = corrected_mean(Models.of(models), [1] * 9, (4000,))
    models[0] *= 3
    assert corrected_mean(Models.of(models), [1] * 9, (4000,)).var() == pytest.approx(honest.var(), rel=0.05)
    assert factor(1e9, 1.0, 9) == 3.0
    assert factor(0.0, 1.0, 9) == 0.5
    assert factor(1.0, 0.0, 9) == 1.0


# -- speeds -----------------------------------------------------------------------------------------------------------


def test_nodes_of_every_speed_have_the_part_of_their_examples() -> None:
    """Fraboni et al.: the weights that a node has had, over many windows, are as its examples."""
    samples, durations_s = (100, 100, 50, 200), (0.5, 1.0, 2.0, 4.0)
    had = [0] * 4
    for window in range(8):
        came = [i for i in range(4) if (window + 1) % windows(durations_s[i], 1.0) == 0]
        given_ = fedfix([samples[i] for i in came], [durations_s[i] for i in came], 1.0)
        for i, weight in zip(came, given_, strict=True):
            had[i] += weight
    assert [each / 8 for each in had] == list(samples)


def test_windows_are_whole_bounded_and_exact() -> None:
    assert windows(0.3, 0.1) == 3
    assert windows(0.0, 5.0) == 1
    assert windows(1e-9, 5.0) == 1
    assert windows(1e300, 1e-9) == CEILING


# -- output layers, class by class ------------------------------------------------------------------------------------


def test_a_better_model_decides_and_a_worse_one_hardly_counts() -> None:
    rows = np.array([[[0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0]], [[-1.0], [-1.0], [-1.0]]])
    familiar = np.array([True, True, False])
    f1 = np.array([[0.2, 0.2], [0.9, 0.9], [0.1, 0.1]])
    merged_rows = integrated(rows, f1, familiar)
    assert (merged_rows > 0.6).all()
    assert (integrated(rows, f1[:, ::-1], familiar)[2] == merged_rows[2]).all()


def test_alone_nothing_changes_and_a_liar_far_worse_is_nearly_ignored() -> None:
    own = np.arange(6.0).reshape(1, 3, 2)
    familiar = np.array([True, True, True])
    assert integrated(own, np.array([[0.5, 0.6, 0.7]]), familiar) == pytest.approx(own[0])
    liars = np.concatenate([own, np.full((4, 3, 2), 1e3)])
    f1 = np.array([[0.8, 0.8, 0.8]] + [[0.3, 0.3, 0.3]] * 4)
    assert np.abs(integrated(liars, f1, familiar) - own[0]).max() < 2
    assert certainties(np.zeros((2, 3))).tolist() == [0, 0]
    assert np.isfinite(integrated(liars, np.zeros((5, 3)), familiar)).all()


# -- buffers and tied weights -----------------------------------------------------------------------------------------


class Awkward(Task):
    """A batch norm that counts its batches, and a weight used twice."""

    def __init__(self, tied: str = "parameter") -> None:
        self.tied = tied

    def model(self, seed: int) -> nn.Module:
        first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if self.tied == "parameter":
            second.weight = first.weight
        else:
            second.weight.data = first.weight.data
        return nn.Sequential(first, nn.BatchNorm1d(4, momentum=None), second)  # the mean over all batches it counts

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def data(self, shard: Shard, path: object) -> Data:
        draw = torch.Generator().manual_seed(1)
        batch = torch.randn(40, 4, generator=draw), torch.arange(40) % 4
        return Data(batch, torch.arange(40), batch)


@pytest.fixture
def awkward(monkeypatch: pytest.MonkeyPatch) -> Callable[[Merging], Engine]:
    monkeypatch.setattr("gossipnode.learn.engine.load_task", lambda spec: Awkward())

    def engine(merging: Merging) -> Engine:
        return Engine(LearnerConfig(task="awkward", training=Training(batch=10), merging=merging))

    return engine


def test_tied_weights_travel_once_and_stay_tied() -> None:
    flat = Flat(Awkward(), 0, CPU)
    assert [name for name, _ in flat.layout] == ["0.weight", "1.bias", "1.weight", "1.running_mean", "1.running_var"]
    flat.load(np.arange(len(flat.vector), dtype=np.float32))
    assert torch.equal(flat.model[0].weight, flat.model[2].weight)  # type: ignore[index]  # a Sequential
    with pytest.raises(TaskError, match="share memory"):
        Flat(Awkward("memory"), 0, CPU)


def test_what_was_counted_before_leaves_no_trace(awkward: Callable[[Merging], Engine]) -> None:
    one = awkward(Merging())
    data = one.data(Shard())
    first, again = (one.train(one.initial(), data, seed=3).blob for _ in range(2))
    assert first == again
    counter = one.flat.model[1].num_batches_tracked  # type: ignore[index]  # a Sequential
    assert int(counter) == 4


@pytest.mark.parametrize("rule", ["mean", "corrected", "median", "trimmed-mean", "multi-krum", "centred-clipping"])
def test_a_merged_batch_norm_can_be_evaluated_and_trained(rule: str, awkward: Callable[[Merging], Engine]) -> None:
    liars = 0 if rule in ("mean", "corrected") else 1
    one = awkward(Merging(rule=rule, byzantine=liars))  # type: ignore[arg-type]  # one of its names
    data, parent = one.data(Shard()), one.initial()
    models = [one.train(parent, data, seed=seed).blob for seed in range(3)]
    blob = one.merge(models, [1, 2, 3], parent)
    assert one.evaluate(blob, data)["loss"] < one.evaluate(parent, data)["loss"]
    assert one.train(blob, data, seed=5).loss > 0
    vectors = [decode(each, one.template)[-4:] for each in models]
    assert all(np.min(vectors, axis=0) <= decode(blob, one.template)[-4:])


def test_the_order_of_models_decides_ties_alone() -> None:
    models = some(4, 50)
    shape = Shape((50,), 50)
    merging = Merging(rule="trimmed-mean", byzantine=1)
    found = {merged(Models.of(models[list(order)]), [1] * 4, merging, shape).tobytes()
             for order in itertools.permutations(range(4))}  # fmt: skip
    assert len(found) == 1
