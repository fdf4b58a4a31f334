"""The trials of probes, on a swarm of four."""

from __future__ import annotations

from scripts.probe_trials import FORGES, Trial, table


def test_a_trial_probes_every_update_of_a_round_in_every_way() -> None:
    found = list(Trial("digits", "iid", 4, seed=100).play(rounds=2, every=2))
    kinds = ["honest", *FORGES, "stale", "free-rider", "label-flip", "lazy"]
    assert [kind for kind, _, _ in found] == 4 * kinds
    assert {out for kind, _, out in found if kind == "free-rider"} == {True}
    assert {out for kind, _, out in found if kind == "honest"} == {False}
    lines = list(table(["iid"], {"iid": found}))
    assert lines[2] == "| honest | 0.0% | 0 of 4 (0.0% to 60.2%) |"
    assert len(lines) == 2 + len(kinds)
