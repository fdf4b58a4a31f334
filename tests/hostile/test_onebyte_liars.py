"""Whoever sends wrong bytes in a one-byte run is out by a block: whole nodes, real probes. Auditors that lie expel
nobody."""

from __future__ import annotations

import pytest

from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import Outcome, simulate

LIARS = ("sign-flip", "free-rider", "label-flip", "wrong-shard")  # the others differ more than the second does


def played(kind: str, **audit: object) -> Outcome:
    chain = {"epoch": 8, "probes": 4, "seats": 7, "batch": 8}
    setting = Setting(
        protocol="onebyte",
        nodes=7,
        rounds=24,
        seed=3,
        adversary=(f"{kind}:2",),
        manifest={"onebyte": chain, "audit": audit},
    )
    return simulate(scenario_of(setting))


@pytest.mark.parametrize("kind", LIARS)
def test_wrong_bytes_are_found_by_doing_them_again(kind: str) -> None:
    outcome = played(kind, fraction=0.5)
    report = outcome.report
    assert outcome.succeeded, report.broken
    assert set(report.expelled) == set(report.adversaries)
    assert report.falsely_expelled == []
    assert (report.digests.agreeing, report.digests.distinct) == (5, 1)
    assert all("auditors found others" in each.evidence for each in report.caught)


def test_auditors_that_lie_expel_nobody() -> None:
    outcome = played("lying-auditor", fraction=0.5)
    report = outcome.report
    assert outcome.succeeded, report.broken
    assert report.expelled == []
    assert {each.kind for each in report.offences if each.peer in report.adversaries} == {"false-vote"}


def test_liars_that_vouch_for_each_other_and_accuse_the_rest_are_out() -> None:
    outcome = played("colluding-auditor", fraction=0.5)
    report = outcome.report
    assert outcome.succeeded, report.broken
    assert set(report.expelled) == set(report.adversaries)
    assert report.falsely_expelled == []


def test_without_audits_nobody_is_caught() -> None:
    report = played("sign-flip", fraction=0.0).report
    assert report.caught == []
    assert len(report.missed) == 2
