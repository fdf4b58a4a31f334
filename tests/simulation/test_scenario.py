"""Scenario files and the options that go with them: what combines, what wins, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossipnode.cli import main
from gossipnode.errors import OperatorError
from gossipnode.events import Churn, Freeze, Join, Kill, Partition, Restart, Slow, event_of, option_events, told
from gossipnode.random_faults import random_events, random_loss
from gossipnode.scenario import scenario_of, setting_of, with_events

ROOT = Path(__file__).parents[2]
READY = sorted((ROOT / "scenarios").glob("*.toml"))

FILE = """
nodes = 6
rounds = 30
loss = 0.1

[manifest.modest]
trainers = 3

[[event]]
kind = "kill"
at_round = 4
nodes = 0.5
for_s = 60

[[event]]
kind = "slow"
at_s = 12.5
nodes = 2
latency = 10
bandwidth = 100
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "it.toml"
    path.write_text(text)
    return path


def refused(*words: str) -> str:
    done: Result = CliRunner().invoke(main, ["simulate", *words])
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    return done.stderr.strip().removeprefix("error: ")


def test_options_win_over_the_file_and_events_add_up(tmp_path: Path) -> None:
    options = {"nodes": 9, "rounds": None, "seed": 3}
    setting = setting_of(written(tmp_path, FILE), options, {"modest": {"pull_every": 2}})
    setting = with_events(setting, option_events(["2@5"], ["3@6"], ["1@7"]), "simulate")
    scenario = scenario_of(setting)
    assert (scenario.nodes, scenario.seed, scenario.tables["rounds"]) == (9, 3, 30)
    assert scenario.tables["modest"] == {"trainers": 3, "pull_every": 2}
    assert (scenario.conditions.request_loss, scenario.conditions.gossip_loss) == (0.1, 0.1)
    assert list(scenario.events) == [
        Kill(at_round=4, nodes=0.5, for_s=60.0),
        Slow(at_s=12.5, nodes=2, latency=10.0, bandwidth=100.0),
        Kill(at_round=5, nodes=2),
        Join(at_round=6, nodes=3),
        Restart(at_round=7, nodes=1),
    ]


def test_without_a_file_the_defaults_are_the_commands() -> None:
    scenario = scenario_of(setting_of(None, {}, {}))
    assert (scenario.nodes, scenario.seed, scenario.tables["rounds"], scenario.tables["task"]) == (20, 7, 20, "digits")
    assert scenario.tables["modest"] == {"trainers": 4}
    assert not scenario.events


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_those_that_come_along_hold_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert f"gossipnode simulate --scenario scenarios/{path.name}" in text
    assert scenario_of(setting_of(path, {}, {})).events


def test_the_scenarios_are_those_that_the_issue_names() -> None:
    names = {path.stem for path in READY}
    assert names >= {
        "partition", "asymmetric", "flash_crowd", "eighty_percent", "slow_links", "rolling_churn", "return_after_hours",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("node = 4", "it.toml: unknown key `node`; did you mean `nodes`?"),
        ("nodes = 0", "it.toml: nodes: expected int >= 1"),
        ("nodes = [", "it.toml is not TOML"),
        ('latency = "far"', "it.toml: latency: invalid enum value 'far'"),
        (
            "[manifest.modest]\ntrainer = 2",
            "the new run: unknown key `modest.trainer`; did you mean `modest.trainers`?",
        ),
        ("event = 3", "it.toml: write each event as a table [[event]]"),
        ("manifest = 3", "it.toml: write the settings of the run as a table [manifest]"),
        ("[[event]]\nat_round = 3", "it.toml: event 1: `kind` is one of kill, leave, restart"),
        ('[[event]]\nkind = "kil"\nat_round = 3', "it.toml: event 1: `kind` is one of kill"),
        (
            '[[event]]\nkind = "kill"\nat_round = 3\nnode = 1',
            "event 1 (kill): unknown key `node`; did you mean `nodes`?",
        ),
        ('[[event]]\nkind = "kill"\nat_round = 3\nnodes = 1.5', "nodes = 1.5 is neither a share below 1 nor a whole"),
        ('[[event]]\nkind = "kill"\nat_round = 3\nnodes = -1', "event 1 (kill): nodes: expected float > 0.0"),
        ('[[event]]\nkind = "kill"\nnodes = 1', "event 1 (kill): give at_round or at_s, one of them"),
        ('[[event]]\nkind = "kill"\nnodes = 1\nat_s = 1\nat_round = 1', "give at_round or at_s, one of them"),
        ('[[event]]\nkind = "kill"\nnodes = 1\nat_round = 99', "the run ends at round 20, before round 99"),
        (
            '[[event]]\nkind = "partition"\nat_round = 1\ngroups = [0.7, 0.7]',
            "groups are shares above 0 that add up to 1",
        ),
        ('[[event]]\nkind = "partition"\nat_round = 1\ngroups = [1.0]', "one group of all nodes is no partition"),
        ('[[event]]\nkind = "slow"\nat_round = 1\nnodes = 1\nlatency = 1000', "latency: expected float <= 100.0"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert line in refused("--scenario", str(written(tmp_path, text)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--kill", "half@3"), "--kill half@3: expected NODES@ROUND, as in --kill 3@40"),
        (("--kill", "0.5"), "--kill 0.5: expected NODES@ROUND"),
        (("--join", "0.5@3"), "--join 0.5@3 (join): nodes: expected int, got float"),
        (("--restart", "3@x"), "--restart 3@x: expected NODES@ROUND"),
        (("--kill", "0.5@30"), "simulate: event 1 (kill): the run ends at round 20, before round 30: give more rounds"),
        (("--rank", "2,0"), "--rank 2,0: expected whole numbers from 1 to 9999, as 2,4,8"),
        (("--rank", "2,4"), "--rank 2: task 'digits' has no adapters; leave it out"),
        (("--protocol", "fedavg", "--rank", "2"), "--rank 2: task 'digits' has no adapters; leave it out"),
        (("--seeds", "5"), "--seeds 5: expected FROM:TO"),
        (("--seeds", "5:5"), "--seeds 5:5: expected FROM:TO"),
        (("--plot", "/nowhere/a.png"), "--plot /nowhere/a.png: no file can be written there"),
        (("--scenario", "/nowhere/a.toml"), "cannot read /nowhere/a.toml: No such file or directory"),
        (("--seeds", "0:3", "--task", "digitz"), "unknown task 'digitz': did you mean 'digits'?"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line(words: tuple[str, ...], line: str) -> None:
    assert line in refused(*words)


@pytest.mark.parametrize(
    "event",
    [
        Kill(at_round=3, nodes=0.5),
        Partition(at_s=3.0, groups=(0.5, 0.5), one_way=True, for_s=2.0),
        Freeze(at_round=1, nodes=2, for_s=3.0),
        Churn(at_round=0, every_s=1.0, for_s=10.0),
    ],
    ids=lambda event: event.kind,
)
def test_an_event_is_told_as_it_is_written(event: Kill) -> None:
    assert event_of(told(event), "here") == event


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("nurseries", [KeyboardInterrupt()])])
def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr("gossipnode.simulate.run", interrupted)
    done = CliRunner().invoke(main, ["simulate", "--nodes", "3"])
    assert done.exit_code == 130
    assert done.output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in done.output


def test_random_faults_are_drawn_from_the_seed() -> None:
    drawn = [random_events(seed, 10, 12) for seed in range(200)]
    assert drawn == [random_events(seed, 10, 12) for seed in range(200)]
    assert {event.kind for events in drawn for event in events} >= {
        "kill", "leave", "restart", "join", "partition", "slow", "freeze", "churn",
    }  # fmt: skip
    assert all(1 <= (event.at_round or 0) <= 12 for events in drawn for event in events)
    assert len({random_loss(seed) for seed in range(50)}) > 2


def test_what_is_wrong_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="unknown key"):
        setting_of(written(tmp_path, "roundz = 3"), {}, {})
