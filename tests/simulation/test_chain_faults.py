"""One-byte training in simulated swarms of full nodes: what befalls them, and one chain, one A and no broken rule after
it. The seeds are the first ones; those that once broke are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossipnode.cli import main
from gossipnode.events import Event, Heal, Join, Kill, Partition, Restart, told
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import SimulationReport, Swarm
from gossipnode.sweep import tried
from protocols.training import ChainFigures

SMALL = {"onebyte": {"probes": 1, "seats": 4, "epoch": 8, "window": 3}}


def setting_of(*events: Event, nodes: int = 8, rounds: int = 60, loss: float = 0.0, seed: int = 0) -> Setting:
    return Setting(
        protocol="onebyte", nodes=nodes, rounds=rounds, seed=seed, loss=loss, manifest=SMALL, latency="lan",
        limit_s=3600.0, event=tuple(told(event) for event in events),
    )  # fmt: skip


def ran(setting: Setting) -> tuple[SimulationReport, list[ChainFigures]]:
    """To the end, with one A and nothing broken; and what the living say of their chain."""
    swarm = Swarm(scenario_of(setting), lambda tick: None)
    report, finished = run_deterministic(swarm.run, seed=setting.seed)
    assert finished
    assert report.broken == []
    assert (report.digests.distinct, report.digests.agreeing) == (1, report.nodes)
    figures = [member.node.protocol.chain for member in swarm.members if member.alive]
    assert None not in figures
    return report, [each for each in figures if each is not None]


def test_the_command_runs_it_and_reports_it(tmp_path: Path) -> None:
    words = ["simulate", "--protocol", "onebyte", "--nodes", "4", "--latency", "lan", "--seed", "3"]
    words += ["--set", "onebyte.steps=24", "--set", "onebyte.epoch=8", "--kill", "1@20"]
    reports = []
    for name in ("first.json", "second.json"):
        done = CliRunner().invoke(main, [*words, "--json", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        reports.append((tmp_path / name).read_bytes())
    assert reports[0] == reports[1]  # one seed, one trace
    report = json.loads(reports[0])
    assert (report["protocol"], report["rounds"], report["nodes"]) == ("onebyte", 24, 3)
    assert report["digests"] == {"agreeing": 3, "distinct": 1}
    assert report["bytes"]["scalars"] > 24 * 3 * 8
    assert [point["round"] for point in report["curve"]] == list(range(1, 25))
    assert report["curve"][-1]["accuracy"] > 0.5
    assert (report["chain"]["height"], report["chain"]["certified_height"]) == (24, 8)
    assert "chain             height 24, certified up to 8" in done.output


@pytest.mark.parametrize("seed", range(2))
def test_three_in_ten_messages_are_lost(seed: int) -> None:
    _, figures = ran(setting_of(loss=0.3, rounds=40, seed=seed))
    assert min(each.certified_height for each in figures) >= 16


def test_four_in_five_die() -> None:
    report, figures = ran(setting_of(Kill(at_round=30, nodes=0.75)))
    assert (report.nodes, report.rounds) == (2, 60)
    assert not any(each.final for each in figures)
    assert max(each.certified_height for each in figures) <= 32


def test_the_dead_come_back_with_their_journals() -> None:
    report, figures = ran(setting_of(Kill(at_round=30, nodes=0.75), Restart(at_round=36, nodes=6), rounds=100))
    assert report.nodes == 8
    assert all(each.final for each in figures)
    assert all(each.is_member for each in figures)


@pytest.mark.parametrize(("share", "certifies"), [(0.5, False), (0.25, True)])
def test_a_partition_heals(share: float, certifies: bool) -> None:
    """The larger side goes on certifying if it has more than two thirds; the smaller one drops what it did alone."""
    report, figures = ran(
        setting_of(Partition(at_round=30, groups=(share,)), Heal(at_round=62 if certifies else 50), rounds=110)
    )
    (heal,) = (event for event in report.events if event.kind == "heal")
    assert sum(each.dropped is not None for each in figures) >= 2
    assert all(each.final for each in figures)
    assert heal.round >= 50


def test_newcomers_join_and_train() -> None:
    report, figures = ran(setting_of(Join(at_round=10, nodes=2), nodes=4, rounds=60))
    assert report.nodes == 6
    assert {each.members for each in figures} == {6}
    assert report.committees[-1].trainers


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_seed_draws_breaks_nothing(seed: int) -> None:
    setting = Setting(protocol="onebyte", nodes=8, rounds=40, seed=seed, random_faults=True, manifest=SMALL)
    assert tried(setting).faults == ()
