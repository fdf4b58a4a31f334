"""`gossipnode simulate`: one seed, one trace; a report with every promised key; exit codes that tell how it went."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossipnode.cli import main
from gossipnode.errors import OperatorError
from gossipnode.report import Report, agreed, report_of, require_writable
from gossipnode.simulation import Scenario, simulate

# What scripts rely on, whoever wrote the report.
KEYS = {
    "protocol": None,
    "task": None,
    "nodes": None,
    "rounds": None,
    "seconds": None,
    "seconds_per_round": None,
    "accuracy": {"mean", "min", "max", "per_node"},
    "bytes": {"wire_total", "model_payload", "per_round", "minimum_per_round", "ratio"},
    "digests": {"agreeing", "distinct"},
    "committees": {"round", "trainers", "aggregators"},
    "offences": None,
    "adversaries": None,
    "caught": None,
    "expelled": None,
    "falsely_expelled": None,
    "missed": None,
}
SIMULATED = {"seed", "trace", "virtual_s", "events", "curve", "broken", "chain", "entries", "void"}
SMALL = ("--nodes", "5", "--rounds", "3", "--task", "digits")


def ran(*words: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *words])


def trace(done: Result) -> str:
    assert done.exit_code == 0, done.output
    found = re.search(r"trace\s+([0-9a-f]+)", done.output)
    assert found is not None
    return found[1]


def test_one_seed_one_trace_and_a_whole_report(tmp_path: Path) -> None:
    first, second = (ran(*SMALL, "--seed", "3", "--json", str(tmp_path / name)) for name in ("a.json", "b.json"))
    assert trace(first) == trace(second)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    report = json.loads((tmp_path / "a.json").read_bytes())
    assert report.keys() == KEYS.keys() | SIMULATED
    for key, inner in KEYS.items():
        if inner is not None:
            table = report[key][0] if isinstance(report[key], list) else report[key]
            assert inner <= table.keys(), key
    assert (report["protocol"], report["task"], report["nodes"], report["rounds"]) == ("modest", "digits", 5, 3)
    assert report["digests"] == {"agreeing": 5, "distinct": 1}
    assert len(report["accuracy"]["per_node"]) == 5
    assert [each["round"] for each in report["committees"]] == [1, 2, 3]
    assert all(len(each["trainers"]) == 4 and len(each["aggregators"]) == 1 for each in report["committees"])
    assert report["bytes"]["model_payload"] < report["bytes"]["wire_total"]
    assert report["offences"] == []


def test_seeds_distance_and_loss_change_the_trace() -> None:
    options = [(), ("--seed", "8"), ("--latency", "lan"), ("--loss", "0.05"), ("--bandwidth", "1")]
    assert len({trace(ran(*SMALL, *option)) for option in options}) == len(options)


def test_lossy_swarms_finish_all_the_same() -> None:
    done = ran("--nodes", "8", "--rounds", "4", "--loss", "0.2", "--set", "modest.trainers=3")
    assert done.exit_code == 0, done.output
    assert "8 of 8 nodes hold the same, 1 distinct" in done.output


def test_a_swarm_that_does_not_finish_has_failed() -> None:
    done = ran(*SMALL, "--limit", "0.5")
    assert done.exit_code == 1
    assert "not finished after" in done.output


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--task", "digitz"), "unknown task 'digitz': did you mean 'digits'?"),
        (("--set", "training.lrr=1"), "unknown key `training.lrr`; did you mean `training.lr`?"),
        (("--set", "modest.trainers=0"), "modest.trainers: expected int >= 1"),
        (("--partition", "odd"), "unknown partition 'odd'"),
        (("--json", "/nowhere/report.json"), "--json /nowhere/report.json: no file can be written there"),
    ],
)
def test_what_is_wrong_is_one_line(options: tuple[str, ...], line: str) -> None:
    done = ran(*SMALL, *options)
    assert done.exit_code == 2
    assert f"error: {line}" in done.stderr or line in done.stderr
    assert done.stderr.count("\n") == 1


def test_progress_is_told() -> None:
    ticks: list[int] = []
    tables = {"task": "digits", "rounds": 2, "start_peers": 3, "modest": {"trainers": 3}}
    outcome = simulate(Scenario(nodes=3, seed=1, tables=tables), lambda tick: ticks.append(tick.finished))
    assert outcome.finished
    assert agreed(outcome.report)
    assert ticks[-1] == 3


def test_a_report_needs_a_run() -> None:
    with pytest.raises(ValueError, match="no node has joined a run"):
        report_of({}, 1.0)


def test_where_a_report_goes(tmp_path: Path) -> None:
    require_writable(None)
    require_writable(tmp_path / "new.json")
    with pytest.raises(OperatorError, match="no file can be written there"):
        require_writable(tmp_path / "missing" / "new.json")


def test_the_keys_are_those_of_the_type() -> None:
    assert set(Report.__struct_fields__) == KEYS.keys()
