"""Liars among whole nodes that gossip: those kinds that make sense without rounds are played, the others refused."""

from __future__ import annotations

import pytest

from gossipnode.adversaries.kinds import KINDS, cast_of, kinds_for
from gossipnode.errors import OperatorError
from gossipnode.simulation import Outcome, Scenario, simulate

GOSSIP = kinds_for("gossip")


def played(*adversaries: str, nodes: int = 6, **tables: object) -> Outcome:
    settings = {"protocol": "gossip", "task": "digits", "rounds": 4, "start_peers": nodes, **tables}
    return simulate(Scenario(nodes=nodes, seed=2, tables=settings, adversaries=adversaries, limit_s=2000, curve=False))


@pytest.mark.parametrize("kind", GOSSIP)
def test_a_swarm_with_two_of_them_ends_and_says_who_they_were(kind: str) -> None:
    outcome = played(kind, kind)
    report = outcome.report
    assert outcome.succeeded, report.broken
    assert list(report.accuracy.per_node) == ["node-0", "node-1", "node-2", "node-3"]
    assert list(report.adversaries.values()) == [kind, kind]
    assert report.falsely_expelled == []
    caught = {each.peer for each in report.caught}
    assert caught.isdisjoint(report.missed)
    assert caught | set(report.missed) == set(report.adversaries)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - set(GOSSIP)))
def test_what_needs_rounds_or_a_chain_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(OperatorError, match=f"--adversary {kind}: not in gossip runs, which have sign-flip, "):
        cast_of([f"{kind}:1"], 6, "gossip")


def test_a_rule_that_stands_two_liars_holds_where_the_default_does_not() -> None:
    """Updates ten times too long: the mean of such models is thrown about, the median of them is not."""
    liars = ("scaling",) * 2
    tables = {"rounds": 8, "training": {"lr": 0.1}, "audit": {"fraction": 0.0}}
    trusting = played(*liars, nodes=8, **tables).report.accuracy.mean
    robust = played(*liars, nodes=8, **tables, merging={"byzantine": 2}).report.accuracy.mean
    assert robust > trusting + 0.1


@pytest.mark.parametrize("kind", ["sign-flip", "label-flip"])
def test_audits_expel_a_liar_and_nobody_else(kind: str) -> None:
    report = played(kind, rounds=14, audit={"fraction": 1.0}).report
    assert [each.kind for each in report.caught] == [kind]
    assert report.caught[0].evidence
    assert set(report.expelled) == set(report.adversaries)
    assert report.falsely_expelled == report.missed == []
