"""What the cost of audits is computed from: counts, seconds and bytes of one seed played twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gossipnode.scenario import setting_of

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_more_is_beside_the_same_seed_without_audits() -> None:
    from bench_audits import Pair, Spent, findings

    plain = Spent(rounds=10, calls=Counter(train=40, merge=10), wire=1000, models=800)
    audited = Spent(
        rounds=10, calls=Counter(train=44, merge=10, signature=4, replay=4), audits=4, wire=1030, models=824
    )
    audited.took_s = {"train": [0.1, 0.1], "merge": [0.0], "signature": [0.01]}
    pair = Pair(0, audited, plain)
    assert pair.bytes == pytest.approx(0.03)
    assert pair.compute({"train": 0.1, "merge": 0.0, "signature": 0.01}) == pytest.approx(0.11)
    aims = findings([pair], "toy").aims
    assert [aim.met for aim in aims] == [False, True]


def test_a_swarm_that_audits_everything_does_its_work_twice() -> None:
    from bench_audits import spent

    options = {"nodes": 4, "rounds": 2, "seed": 0}
    plain, audited = (spent(setting_of(None, options, {"audit": {"fraction": each}})) for each in (0.0, 1.0))
    assert (plain.audits, plain.calls["replay"], plain.calls["train"]) == (0, 0, 8)
    assert audited.audits > 0
    assert audited.calls["train"] - audited.calls["replay"] == 8
    assert audited.frames["Voted"] > 0
    assert plain.frames["Voted"] == 0
