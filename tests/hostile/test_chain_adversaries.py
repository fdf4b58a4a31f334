"""Strategies against the chain in whole nodes, short: no certified block is left, all honest nodes end on one model,
and whoever signs twice is out. `python -m scripts.hostile` plays them longer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from gossipnode.adversaries.kinds import CHAIN, ONLY
from gossipnode.events import Event, Join
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import Outcome, simulate

STEPS = 24
LEFT = {"CertifiedStays", "OneHistory", "ExactA", "OneBranch"}


def played(kind: str, *, hostile: int = 2, steps: int = STEPS, events: Sequence[Event] = ()) -> Outcome:
    adversary = (f"{kind}:{hostile}",) if hostile else ()
    chain = {"epoch": 8, "probes": 1, "seats": 4, "batch": 8}
    setting = Setting(
        protocol="onebyte", nodes=7, rounds=steps, seed=3, adversary=adversary, manifest={"onebyte": chain}
    )
    return simulate(dataclasses.replace(scenario_of(setting), events=events))


@pytest.mark.parametrize("kind", sorted(kind for kind, where in ONLY.items() if where == CHAIN))
def test_the_honest_end_on_one_history(kind: str) -> None:
    outcome = played(kind)
    report = outcome.report
    assert LEFT.isdisjoint(finding.checker for finding in report.broken), report.broken
    assert report.rounds == STEPS
    assert (report.digests.agreeing, report.digests.distinct) == (5, 1)
    assert report.falsely_expelled == []
    assert list(report.adversaries.values()) == [kind, kind]


def test_whoever_signs_twice_is_expelled_everywhere() -> None:
    report = played("double-sign").report
    assert set(report.expelled) == set(report.adversaries)
    assert {each.evidence.partition(":")[0] for each in report.caught} == {"equivocation"}


def test_whoever_withholds_proposes_nothing_and_the_others_go_on() -> None:
    report = played("withholding").report
    assert {each.aggregators[0] for each in report.committees}.isdisjoint(report.adversaries)
    assert {origin for each in report.committees for origin in each.trainers}.isdisjoint(report.adversaries)


def test_a_censor_counts_its_own_kind_only() -> None:
    report = played("censor").report
    own = [each for each in report.committees if each.aggregators[0] in report.adversaries]
    assert own
    assert all(set(each.trainers) <= report.adversaries.keys() for each in own)


def test_bytes_that_come_late_beyond_the_window_count_for_nothing() -> None:
    late, never = played("late-reveal").report, played("late-reveal", hostile=0).report
    counts = [sum(len(each.trainers) for each in report.committees) for report in (late, never)]
    assert counts[0] < counts[1]


def test_a_snapshot_of_another_history_convinces_no_newcomer() -> None:
    report = played("long-range", steps=40, events=[Join(nodes=1, at_round=30)]).report
    assert {(each.peer, each.kind) for each in report.offences} <= {(peer, "unfounded") for peer in report.adversaries}
    assert report.offences
    assert (report.digests.agreeing, report.digests.distinct) == (6, 1)
