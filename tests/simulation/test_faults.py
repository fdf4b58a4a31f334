"""What befalls a simulated swarm: each event strikes whom it should, is written down, and the swarm goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gossipnode.events import Churn, Event, Freeze, Heal, Join, Kill, Leave, Partition, Restart, Slow
from gossipnode.net.simulated import Conditions
from gossipnode.scenario import Setting
from gossipnode.simulation import Outcome, Scenario, simulate
from gossipnode.sweep import Result, faults_of, seeds_of, sweep, table, tried

ROOT = Path(__file__).parents[2]


def ran(*events: Event, nodes: int = 8, rounds: int = 8, seed: int = 1) -> Outcome:
    """Without training: what is learnt is no matter here."""
    tables = {
        "task": "digits",
        "rounds": rounds,
        "start_peers": nodes,
        "modest": {"trainers": 3},
        "training": {"epochs": 0, "steps": 1},
    }
    conditions = Conditions(delay=0.02, bandwidth=1e7)
    return simulate(Scenario(nodes=nodes, seed=seed, tables=tables, conditions=conditions, events=events))


def kinds(outcome: Outcome) -> list[tuple[str, int]]:
    return [(each.kind, len(each.nodes)) for each in outcome.report.events]


@pytest.mark.parametrize(
    ("events", "happened", "left"),
    [
        ((Kill(at_round=3, nodes=0.5),), [("kill", 4)], 4),
        ((Kill(at_round=3, nodes=2, for_s=30.0),), [("kill", 2), ("restart", 2)], 8),
        ((Kill(at_round=2, nodes=3), Restart(at_round=4, nodes=2)), [("kill", 3), ("restart", 2)], 7),
        ((Leave(at_round=3, nodes=2),), [("leave", 2)], 6),
        ((Leave(at_round=3, nodes=2, for_s=20.0),), [("leave", 2), ("restart", 2)], 8),
        ((Join(at_round=3, nodes=4),), [("join", 4)], 12),
        ((Slow(at_round=2, nodes=0.25, latency=10.0, bandwidth=100.0),), [("slow", 2)], 8),
        ((Slow(at_round=2, nodes=2, latency=10.0, for_s=5.0),), [("slow", 2), ("quick again", 2)], 8),
        ((Freeze(at_round=3, nodes=3, for_s=5.0),), [("freeze", 3), ("thaw", 3)], 8),
        ((Partition(at_round=3, groups=(0.75, 0.25), for_s=5.0),), [("partition", 6), ("heal", 0)], 8),
        ((Partition(at_round=3, groups=(0.25,), one_way=True, for_s=2.0),), [("partition", 2), ("heal", 0)], 8),
        ((Partition(at_round=3, groups=(0.25,)), Heal(at_s=30.0)), [("partition", 2), ("heal", 0)], 8),
        ((Kill(at_s=4.0, nodes=1),), [("kill", 1)], 7),
    ],
    ids=lambda each: each[0].kind if isinstance(each, tuple) else "",
)
def test_each_event_strikes_and_the_swarm_goes_on(
    events: tuple[Event, ...], happened: list[tuple[str, int]], left: int
) -> None:
    outcome = ran(*events)
    assert kinds(outcome) == happened
    assert outcome.report.broken == []
    assert outcome.succeeded
    assert outcome.report.nodes == left
    assert outcome.report.rounds == 8


def test_churn_kills_one_and_brings_back_the_one_before() -> None:
    outcome = ran(Churn(at_round=2, every_s=10.0, for_s=35.0))
    assert outcome.succeeded
    assert [kind for kind, _ in kinds(outcome)] == ["kill", *["restart", "kill"] * 3, "restart"]
    killed = [each.nodes for each in outcome.report.events if each.kind == "kill"]
    back = [each.nodes for each in outcome.report.events if each.kind == "restart"]
    assert killed == back
    assert outcome.report.nodes == 8


def test_the_last_two_are_never_struck() -> None:
    outcome = ran(Kill(at_round=2, nodes=50), nodes=4)
    assert kinds(outcome) == [("kill", 2)]
    assert outcome.succeeded


def test_what_is_slow_costs_time() -> None:
    quick, slow = ran(), ran(Slow(at_round=0, nodes=8, latency=20.0))
    assert slow.virtual_s > 2 * quick.virtual_s


def test_the_report_tells_what_it_cost_and_how_good_it_became() -> None:
    report = ran(Kill(at_round=3, nodes=2)).report
    curve = report.curve
    assert [point.round for point in curve] == list(range(1, 9))
    assert all(0.0 <= (point.accuracy or 0.0) <= 1.0 for point in curve)
    assert [point.virtual_s for point in curve] == sorted(point.virtual_s for point in curve)
    assert [point.wire_bytes for point in curve] == sorted(point.wire_bytes for point in curve)
    assert 0 < curve[-1].wire_bytes <= report.bytes.wire_total  # those of the dead are counted
    assert (report.seed, report.nodes) == (1, 6)


SCENARIO = """
nodes = 6
rounds = 4
loss = 0.02
event = [
  {kind = "kill", at_round = 1, nodes = 0.3},
  {kind = "join", at_round = 2, nodes = 2},
  {kind = "partition", at_round = 3, groups = [0.6], for_s = 5},
]

[manifest.training]
epochs = 0
steps = 2
"""


def started(folder: Path, hash_seed: str) -> subprocess.Popen[str]:
    scenario, report = folder / "it.toml", folder / f"{hash_seed}.json"
    scenario.write_text(SCENARIO)
    command = [sys.executable, "-m", "gossipnode", "simulate", "--scenario", str(scenario), "--json", str(report)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_one_seed_one_trace_in_processes_of_different_hash_seeds(tmp_path: Path) -> None:
    processes = {hash_seed: started(tmp_path, hash_seed) for hash_seed in ("1", "2")}
    for process in processes.values():
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    first, second = ((tmp_path / f"{hash_seed}.json").read_bytes() for hash_seed in processes)
    assert first == second  # the trace, the curve, every offence, to the byte
    assert [event["kind"] for event in json.loads(first)["events"]] == ["kill", "join", "partition", "heal"]


# -- sweeps -----------------------------------------------------------------------------------------------------------

TINY = Setting(nodes=4, rounds=3, random_faults=True, manifest={"training": {"epochs": 0, "steps": 1}})


def test_a_seed_alone_gives_what_it_gives_in_a_sweep() -> None:
    first, second = tried(TINY), tried(TINY)
    assert (first.trace, first.faults, first.events) == (second.trace, second.faults, second.events)
    assert first.trace


def test_a_sweep_ends_with_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # in this process: what a pool adds is no matter here
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115 - the console writes there
    settled = Setting(nodes=3, rounds=2, manifest={"training": {"epochs": 0, "steps": 1}})
    assert sweep(settled, range(3), "gossipnode simulate", console) == 0
    console.file.close()
    assert "3 of 3 seeds went well" in console.export_text()


def test_a_seed_that_fails_is_replayed_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115 - as above
    hopeless = Setting(nodes=3, rounds=5, limit_s=0.5)
    assert sweep(hopeless, range(4, 6), "gossipnode simulate --nodes 3 --limit 0.5", console) == 1
    console.file.close()
    text = console.export_text()
    assert "FAILED gossipnode simulate --nodes 3 --limit 0.5 --seed 5\n" in text
    assert "not finished after" in text
    assert "0 of 2 seeds went well" in text


def test_a_bug_in_one_seed_is_that_seeds_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(scenario: Scenario) -> Outcome:
        raise ExceptionGroup("nurseries", [AssertionError("never so")])

    monkeypatch.setattr("gossipnode.sweep.run", breaks)
    assert tried(TINY).faults == ("raised AssertionError: never so",)


def test_the_table_shows_all_of_a_few_and_the_failed_of_many() -> None:
    few = [Result(seed, ()) for seed in range(3)]
    assert len(table(few, 1.0)) == 5
    many = [Result(seed, ("broken",) if seed == 7 else ()) for seed in range(100)]
    lines = table(many, 1.0)
    assert len(lines) == 3
    assert lines[1].endswith("FAILED")
    assert lines[-1] == "99 of 100 seeds went well, in 1 s"


def test_seeds_and_verdicts() -> None:
    assert seeds_of("3:6") == range(3, 6)
    assert faults_of(ran(nodes=3, rounds=2)) == []
