"""Bristle in a learner: which tasks have an output layer alone, and what its merge does to a node's own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Template, Vector, decode, encode
from gossipnode.learn.engine import Engine
from gossipnode.learn.output_layer import OutputLayer, examples, f1_scores, familiar
from gossipnode.learn.task import Batch, Data, Shard, Task, TaskError
from gossipnode.simulation import Scenario, simulate
from protocols.manifest import BadManifest, Training, validated
from protocols.merging import Merging

CLASSES, WIDTH = 4, 6
BRISTLE = Merging(rule="bristle")


class Blobs(Task):
    """Four clouds about four corners; only a linear layer is learned."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.Linear(WIDTH, CLASSES))

    def data(self, shard: Shard, path: Path | None) -> Data:
        draw = torch.Generator().manual_seed(1)
        y = torch.arange(400) % CLASSES
        x = nn.functional.one_hot(y, WIDTH) * 3 + torch.randn(400, WIDTH, generator=draw)
        rows = torch.nonzero(y[:200] // 2 == shard.index % 2)[:, 0]  # two of the classes
        return Data((x[:200], y[:200]), rows, (x[200:], y[200:]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


HERE = Blobs()


def engine(monkeypatch: pytest.MonkeyPatch, merging: Merging = BRISTLE) -> Engine:
    monkeypatch.setattr("gossipnode.learn.engine.load_task", lambda name: HERE)
    return Engine(LearnerConfig(task="here", training=Training(lr=0.1), merging=merging))


def test_an_output_layer_is_one_weight_and_one_bias() -> None:
    for layout in ([("b", (4,)), ("w", (4, 6))], [("w", (4, 6)), ("z", (4,))]):
        template = Template(layout, "float32")
        layer = OutputLayer.of(template)
        assert layer is not None
        vector = np.arange(template.parameters, dtype=np.float32)
        assert (layer.vector(layer.rows(vector)) == vector).all()
        assert layer.rows(vector)[2, -1] == vector[layer.bias][2]
    for layout in ([("w", (4, 6))], [("b", (3,)), ("w", (4, 6))], [("a", (4,)), ("b", (4, 6)), ("c", (4,))]):
        assert OutputLayer.of(Template(layout, "float32")) is None


def test_a_task_that_trains_more_is_refused_in_one_line() -> None:
    with pytest.raises(TaskError, match=r"^merging.rule: bristle needs a task that trains nothing but its output"):
        Engine(LearnerConfig(task="digits", merging=BRISTLE))


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"protocol": "modest"}, "merging.rule: bristle goes by a node's own examples: only with protocol gossip"),
        ({"merging": {"rule": "bristle", "byzantine": 1}}, "takes neither merging.byzantine nor merging.mixing"),
        ({"audit": {}}, "audit.fraction: merges by bristle cannot be made again by others; set it to 0"),
        ({"audit": {"policy": "probe"}, "merging": {}}, "audit.policy: gossip replays models or audits none"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tables: dict[str, object], line: str) -> None:
    author = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    whole = {"name": "a", "task": "sentiment", "author": author, "theta0": "0" * 64, "model_bytes": 10}
    settings = {"protocol": "gossip", "merging": {"rule": "bristle"}, "audit": {"fraction": 0.0}}
    assert validated(whole | settings).merging.rule == "bristle"
    with pytest.raises(BadManifest, match=line):
        validated(whole | settings | tables)


def test_f1_of_each_familiar_class() -> None:
    said, true = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0])
    assert f1_scores(said, true, [0, 1, 3]) == pytest.approx([0.5, 2 / 3, 0.0])


def test_what_is_tried_are_held_out_examples_of_ones_own_classes() -> None:
    data = HERE.data(Shard(index=0), None)
    assert familiar(data, CLASSES) == [0, 1]
    x, y = examples(data, [0, 1])
    assert (len(x), y.tolist()) == (20, [0] * 10 + [1] * 10)
    assert all((x == row).all(1).any() for row in data.test[0][:1] if int(data.test[1][0]) in (0, 1))


def accuracy(engine: Engine, blob: bytes, data: Data) -> float:
    return engine.evaluate(blob, data)["accuracy"]


def test_a_merge_learns_the_other_classes_and_hardly_hears_a_liar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have all four classes; a node has two of them."""
    e = engine(monkeypatch)
    mine = e.data(Shard(index=0))
    whole = Data(mine.pool, torch.arange(200), mine.test)
    own = e.train(e.initial(), mine, seed=1).blob
    for seed in range(2, 6):
        own = e.train(own, mine, seed=seed).blob
    others = [e.initial(), e.initial()]
    for seed in range(10):
        others = [e.train(each, whole, seed=100 * seed + k).blob for k, each in enumerate(others)]
    alone, merged = accuracy(e, own, mine), accuracy(e, e.integrate([own, *others], mine), mine)
    assert alone < 0.6
    assert merged > 0.8
    liar: Vector = -10 * decode(others[0], e.template)
    beside = e.integrate([own, *others, encode(liar, e.template)], mine)
    assert accuracy(e, beside, mine) > merged - 0.1


def test_nodes_gossip_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    tables = {
        "protocol": "gossip",
        "task": "bench.frozen:DIGITS",
        "rounds": 3,
        "start_peers": 4,
        "merging": {"rule": "bristle"},
        "audit": {"fraction": 0.0},
    }
    outcome = simulate(Scenario(4, 1, tables, "dirichlet:0.5", curve=False))
    assert outcome.succeeded
    assert outcome.report.accuracy.mean > 0.3
