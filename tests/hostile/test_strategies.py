"""Adversaries that plan: the adaptive one deviates as far as it may, the grinders choose among what they may say."""

from __future__ import annotations

import numpy as np
import pytest

from gossipnode.adversaries.adaptive import shortened, strongest, turned
from gossipnode.adversaries.grinding import VARIANTS, _choices, variants
from gossipnode.learn.encoding import Template, Vector, decode, encode
from gossipnode.report import Report
from gossipnode.simulation import Scenario, simulate
from protocols.claiming import claim_of
from protocols.evidence import Case, Evidence
from protocols.messages import Aggregate, Input
from sampling.peers import PeerId
from verify.claims import is_drawn
from verify.digest import digest_of
from verify.lsh import SEED_BYTES, Tolerance, agrees
from verify.simhash import signature

DRAW = 0.5  # share of the claims that is audited


def drawn_from(seed: int) -> tuple[Vector, Vector, np.random.Generator]:
    """An update, a harmful one, and chance for both sides."""
    draw = np.random.default_rng(seed)
    update = draw.standard_normal(5000).astype(np.float32)
    return update, -update - draw.standard_normal(5000).astype(np.float32), draw


def passing(update: Vector, made: Vector, tolerance: Tolerance, draw: np.random.Generator) -> float:
    """The share of fresh projections that pass it."""
    seeds = [draw.bytes(SEED_BYTES) for _ in range(200)]
    return sum(agrees(signature(update, seed), signature(made, seed), tolerance) for seed in seeds) / len(seeds)


@pytest.mark.parametrize(("bits", "least", "most"), [(1, 0.005, 0.05), (8, 0.07, 0.16), (13, 0.11, 0.24)])
def test_the_adaptive_one_deviates_as_far_as_half_of_all_projections_let_it(
    bits: int, least: float, most: float
) -> None:
    update, harmful, draw = drawn_from(1)
    made = strongest(update, harmful, Tolerance(bits, 2), draw)
    assert 0.3 < passing(update, made, Tolerance(bits, 2), draw) < 0.7
    assert least < np.linalg.norm(made - update) / np.linalg.norm(update) < most
    assert np.linalg.norm(made) == pytest.approx(np.linalg.norm(update), rel=1e-4)
    assert (made - update) @ harmful > 0


def test_towards_the_opposite_there_is_nothing_but_the_length_to_change() -> None:
    update, _, draw = drawn_from(2)
    made = strongest(update, -update, Tolerance(8, 2), draw, shortened)
    assert 0.01 < 1 - np.linalg.norm(made) / np.linalg.norm(update) < 0.04
    assert np.allclose(turned(update, -update, 0.4), update, atol=1e-5)


def test_variants_are_models_of_digests_of_their_own() -> None:
    template = Template([("w", (30,))], "float32")
    blob = encode(np.linspace(-1, 1, 30, dtype=np.float32), template)
    made = list(variants(blob))
    assert len({digest_of(each) for each in [blob, *made]}) == VARIANTS + 1
    assert np.allclose([decode(each, template) for each in made], decode(blob, template), atol=1e-4)


def test_an_aggregator_may_leave_out_inputs_down_to_two() -> None:
    inputs = tuple(Input(PeerId(f"peer{number}"), digest_of(b""), 1) for number in range(4))
    choices = list(_choices(inputs))
    assert choices[0] == inputs
    assert sorted({len(each) for each in choices}) == [2, 3, 4]
    assert len(choices) == 1 + 4 + 6
    assert list(_choices(inputs[:1])) == [inputs[:1]]


Pairs = list[tuple[Aggregate, Aggregate]]


def played(kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Report, Pairs]:
    """And every aggregate with its successor, as some node drew the audits."""
    pairs: dict[bytes, tuple[Aggregate, Aggregate]] = {}
    honest = Evidence.open

    def opened(self: Evidence, aggregate: Aggregate, successor: Aggregate) -> list[Case]:
        pairs[successor.model] = (aggregate, successor)
        return honest(self, aggregate, successor)

    monkeypatch.setattr(Evidence, "open", opened)
    tables = {
        "task": "digits",
        "rounds": 24,
        "start_peers": 6,
        "modest": {"trainers": 4},
        "audit": {"fraction": DRAW, "policy": "recompute"},  # drawn, but no update is audited: nobody is expelled
    }
    report = simulate(Scenario(nodes=6, seed=2, tables=tables, adversaries=(kind,) * 3, limit_s=2000)).report
    return report, list(pairs.values())


def drawn(report: Report, pairs: Pairs, *, by_parent: bool = False, hostile_beacon: bool = False) -> list[bool]:
    """Of each claim of an adversary's training: was it, or would it be if its parent were the beacon?"""
    return [
        is_drawn(first.parent if by_parent else then.model, claim_of(first.round, first.parent, each).statement, DRAW)
        for first, then in pairs
        for each in first.inputs
        if each.trainer in report.adversaries and (not hostile_beacon or then.aggregators[0] in report.adversaries)
    ]


def test_a_claim_that_is_spared_by_the_newest_beacon_is_not_spared_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report, pairs = played("claim-grinder", monkeypatch)
    assert len(drawn(report, pairs)) > 10
    assert not any(drawn(report, pairs, by_parent=True))
    assert 0.2 < np.mean(drawn(report, pairs)) < 0.8


def test_who_makes_the_beacon_spares_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    report, pairs = played("beacon-grinder", monkeypatch)
    ground = drawn(report, pairs, hostile_beacon=True)
    assert len(ground) > 5
    assert np.mean(ground) < 0.15 < np.mean(drawn(report, pairs))


def test_adaptive_ones_are_expelled_in_the_end_and_set_no_honest_auditors_against_each_other() -> None:
    tables = {
        "task": "digits",
        "rounds": 30,
        "start_peers": 7,
        "modest": {"trainers": 4},
        "audit": {"fraction": 1.0},
    }
    report = simulate(Scenario(nodes=7, seed=3, tables=tables, adversaries=("adaptive",) * 2, limit_s=2000)).report
    assert report.broken == []  # nobody honest was accused
    assert report.expelled  # each audit finds out about half of what they hand in
    assert report.falsely_expelled == []
