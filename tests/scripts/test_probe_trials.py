"""The trials of probes, on a swarm of four."""

from __future__ import annotations

from scripts.probe_trials import KINDS, Trial, table


def test_a_trial_probes_every_update_of_a_round_in_every_way() -> None:
    found = list(Trial("digits", "iid", 4, seed=100).play(rounds=2, every=2))
    assert [kind for kind, _, _ in found] == [*KINDS] * 4
    assert {out for kind, _, out in found if kind == "free-rider"} == {True}
    assert {out for kind, _, out in found if kind == "honest"} == {False}
    lines = list(table(["iid"], {"iid": found}))
    assert lines[2] == "| honest | 0.0% | 0 of 4 (0.0% to 60.2%) |"
    assert len(lines) == 2 + len(KINDS)
