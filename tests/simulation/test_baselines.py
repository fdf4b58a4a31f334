"""The protocols that MoDeST is compared with: what they compute, what they send, and how their time passes."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from gossipnode import baselines
from gossipnode.baselines import BASELINES, Lines, Senders, World, run_baseline, senders_of, steps_of
from gossipnode.cli import main
from gossipnode.errors import OperatorError
from gossipnode.learn.encoding import decode, encode
from gossipnode.learn.shard import Shard
from gossipnode.net.simulated import Conditions
from gossipnode.newrun import merged
from gossipnode.simulation import Scenario, SimulationReport
from sampling.peers import PeerId

ONE_STEP = {"training": {"epochs": 0, "steps": 1, "batch": 2000}}  # a batch that holds any shard
LEFT, RIGHT = PeerId("left"), PeerId("right")


def scenario(
    protocol: str,
    nodes: int = 6,
    rounds: int = 3,
    seed: int = 5,
    *,
    conditions: Conditions | None = None,
    **tables: dict[str, Any],
) -> Scenario:
    asked = {"protocol": protocol, "task": "digits", "rounds": rounds, "seed": seed, "modest": {"trainers": 4}}
    return Scenario(nodes=nodes, seed=seed, tables=merged(asked, tables), conditions=conditions or Conditions())


def mixing(sources: list[list[int]]) -> NDArray[np.float64]:
    """W: row i holds the weights with which node i mixes all models."""
    matrix = np.zeros((len(sources), len(sources)))
    for node, each in enumerate(sources):
        assert len(set(each)) == len(each)
        assert node not in each
        matrix[node, [node, *each]] = 1 / (1 + len(each))
    return matrix


def senders(protocol: str, nodes: int) -> Senders:
    world = World.__new__(World)  # its graph needs no engine
    world.nodes, world.seed = nodes, 3
    return senders_of(protocol, world)


@pytest.mark.parametrize("nodes", [2, 3, 9, 20, 50])
@pytest.mark.parametrize("protocol", ["d-psgd", "d-psgd-8", "epidemic-oracle"])
def test_mixing_is_doubly_stochastic(protocol: str, nodes: int) -> None:
    of_round = senders(protocol, nodes)
    for round in range(1, 12):
        matrix = mixing(of_round(round))
        assert np.allclose(matrix.sum(axis=0), 1)
        assert np.allclose(matrix.sum(axis=1), 1)


@pytest.mark.parametrize("nodes", [9, 10, 50])
def test_the_regular_graph_is_one(nodes: int) -> None:
    matrix = mixing(senders("d-psgd-8", nodes)(1))
    assert (matrix == matrix.T).all()
    assert ((matrix > 0).sum(axis=1) == 9).all()
    assert (np.linalg.matrix_power(matrix, nodes) > 0).all()  # connected


def test_the_regular_graph_is_mixed() -> None:
    ring = [(node, (node + step) % 50) for node in range(50) for step in range(1, 5)]
    gap = [
        1 - np.linalg.eigvalsh(mixing(graph))[-2]
        for graph in (baselines.neighbours(50, ring), senders("d-psgd-8", 50)(1))
    ]
    assert gap[1] > 3 * gap[0]


def test_one_peer_averages_exactly_in_log_n_rounds() -> None:
    of_round = senders("d-psgd", 8)
    product = np.linalg.multi_dot([mixing(of_round(round)) for round in (1, 2, 3)])
    assert np.allclose(product, 1 / 8)
    assert of_round(4) == of_round(1)


def test_epidemic_learning_draws_whom_it_sends_to() -> None:
    of_round = senders("epidemic", 20)
    sources = of_round(1)
    sent = [sum(node in each for each in sources) for node in range(20)]
    assert sent == [math.ceil(math.log2(20))] * 20
    assert len({len(each) for each in sources}) > 1
    assert of_round(2) != sources
    assert of_round(1) == sources


def test_fedavg_of_everybody_with_one_step_is_central_sgd() -> None:
    world = World(scenario("fedavg", modest={"trainers": 6}, **ONE_STEP))
    central, everything = world.theta0, world.engine.data(Shard())
    for step in steps_of(world):
        central = world.engine.train(central, everything, seed=0).blob
        ours, theirs = (decode(blob, world.engine.template) for blob in (step.models[0], central))
        assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours - decode(world.theta0, world.engine.template)).max() > 1e-3


class Drifting(World):
    """Training adds noise of the node's own."""

    def train(self, node: int, model: bytes, round: int) -> tuple[bytes, float]:
        rng = np.random.default_rng((node, round))
        vector = decode(model, self.engine.template)
        return encode(vector + rng.normal(size=vector.shape).astype(np.float32), self.engine.template), 1.0


@pytest.mark.parametrize("protocol", ["d-psgd", "d-psgd-8", "epidemic-oracle"])
def test_mixing_keeps_the_mean(protocol: str) -> None:
    world = Drifting(scenario(protocol, nodes=10, rounds=3))
    expected = decode(world.theta0, world.engine.template).astype(np.float64)
    for step in steps_of(world):
        drawn = [np.random.default_rng((node, step.round)).normal(size=expected.shape) for node in range(10)]
        expected = expected + np.mean(drawn, axis=0)
        found = np.mean([decode(model, world.engine.template) for model in step.models], axis=0)
        assert np.abs(found - expected).max() < 1e-5
    assert len(set(step.models)) == 10


@pytest.mark.parametrize(
    ("protocol", "models"), [("fedavg", 8), ("d-psgd", 6), ("d-psgd-8", 24), ("epidemic", 18), ("epidemic-oracle", 18)]
)
def test_bytes_are_models_times_size(protocol: str, models: int) -> None:
    done = run_baseline(scenario(protocol))
    size = World(scenario(protocol)).model_bytes
    assert [point.wire_bytes for point in done.report.curve] == [models * size * round for round in (1, 2, 3)]
    assert done.report.bytes.wire_total == done.report.bytes.model_payload == 3 * models * size


@pytest.mark.parametrize("protocol", BASELINES)
def test_one_seed_one_result(protocol: str) -> None:
    first, second, other = (run_baseline(scenario(protocol, rounds=2, seed=seed)) for seed in (1, 1, 2))
    assert (first.trace, first.report) == (second.trace, second.report)
    assert first.trace != other.trace


@pytest.mark.parametrize("protocol", BASELINES)
def test_they_learn(protocol: str) -> None:
    done = run_baseline(scenario(protocol, rounds=9), evaluate_every=4)
    assert done.report.accuracy.mean > 0.85
    assert [point.round for point in done.report.curve] == [4, 8, 9]
    assert done.report.curve[-1].accuracy == pytest.approx(done.report.accuracy.mean)
    assert 0 < done.report.curve[0].virtual_s < done.report.curve[1].virtual_s
    assert done.report.digests.agreeing == (6 if protocol == "fedavg" else 1)


def test_a_round_of_fedavg_lasts_as_long_as_its_slowest_trainer() -> None:
    size = World(scenario("fedavg")).model_bytes
    near = Conditions(delay=0.1, jitter=0.0, bandwidth=size / 2)  # two seconds a model
    done = run_baseline(scenario("fedavg", rounds=2, conditions=near, modest={"trainers": 3}, **ONE_STEP))
    assert done.report.seconds_per_round == pytest.approx(0.1 + 2 + 0.002 + 0.1 + 2 + 3 * 0.001)


def test_models_pass_a_line_one_after_the_other() -> None:
    lines = Lines(Conditions(delay=0.5, jitter=0.0, bandwidth=100.0), [LEFT, RIGHT, PeerId("third")], 200)
    assert lines.carry(0, 1, 0.0) == 2.5
    assert lines.carry(0, 2, 0.0) == 4.5  # the uplink was busy
    assert lines.carry(2, 1, 0.0) == 4.5  # the downlink was busy
    assert lines.carry(1, 0, 10.0) == 12.5


def test_a_slow_downlink_holds_a_fast_uplink_back() -> None:
    slow = Conditions(delay=0.0, downlink=50.0)
    assert Lines(slow, [LEFT, RIGHT], 200).carry(0, 1, 1.0) == pytest.approx(4.0 + 1.0)


def test_the_server_stands_in_the_middle() -> None:
    places = {PeerId(name): place for name, place in (("a", 0.0), ("b", 0.4), ("c", 0.5), ("d", 0.6), ("e", 1.0))}
    line = Conditions(delay=lambda source, target: abs(places[source] - places[target]))
    assert Lines(line, list(places), 1).central() == 2


def test_a_slow_line_holds_up_a_round() -> None:
    world = World(scenario("d-psgd", nodes=8, rounds=2))
    slow, size = world.peers[0], world.model_bytes
    even = [step.virtual_s for step in steps_of(world)]
    world.lines = Lines(Conditions(bandwidth=lambda peer: size / 100 if peer == slow else math.inf), world.peers, size)
    ends_s = [step.virtual_s for step in steps_of(world)]
    assert even[1] < 1
    assert [round(end_s, -2) for end_s in ends_s] == [100, 200]


def test_a_lonely_node_has_nobody_to_learn_with() -> None:
    with pytest.raises(OperatorError, match="--nodes 1: d-psgd needs at least 2"):
        run_baseline(scenario("d-psgd", nodes=1))


def test_what_a_baseline_cannot_suffer_is_refused() -> None:
    for options, wrong in ((["--kill", "1@2"], "nothing befalls"), (["--loss", "0.1"], "leave --loss out")):
        done = CliRunner().invoke(main, ["simulate", "--protocol", "epidemic", *options])
        assert done.exit_code == 2
        assert wrong in done.stderr


def test_the_command_knows_every_baseline(tmp_path: Path) -> None:
    option = next(each for each in main.commands["simulate"].params if each.name == "protocol")
    assert option.type.choices == ("modest", "onebyte", "gossip", *BASELINES)
    for protocol in ("fedavg", "d-psgd"):
        words = ["--protocol", protocol, "--nodes", "4", "--rounds", "2", "--json", str(tmp_path / protocol)]
        done = CliRunner().invoke(main, ["simulate", *words])
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / protocol).read_bytes())
        assert report.keys() == set(SimulationReport.__struct_fields__)
        assert (report["protocol"], len(report["curve"])) == (protocol, 2)


def test_time_runs_out() -> None:
    done = run_baseline(replace(scenario("d-psgd", rounds=50), limit_s=0.3))
    assert not done.finished
    assert done.report.rounds < 50


def test_swaps_keep_degrees() -> None:
    graph = baselines.regular(12, 4, random.Random(1))
    assert [len(each) for each in graph] == [4] * 12
