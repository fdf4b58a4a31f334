"""What the sweep of liars computes with: who was convicted of which lie, percentiles, and the table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_a_percentile_is_one_of_the_values() -> None:
    from hostile_modest import percentile

    assert percentile([5, 1, 3], 0.5) == 3
    assert percentile(range(1, 11), 0.9) == 9
    assert percentile([7], 0.9) == 7


def test_the_table_counts_lies_and_liars() -> None:
    from bench.witness import Liar, Told
    from hostile_modest import table

    clean = Told(
        kind="none",
        seed=0,
        rounds=9,
        accuracy=0.9,
        liars=[],
        audited=3,
        unable=0,
        verdicts={},
        suspended=0,
        expelled=0,
        accused={},
        broken=[],
        seconds=1.0,
    )
    caught = Liar(lies=3, drawn=1, convicted=True, shunned=5, expelled=6)
    free = Liar(lies=1, drawn=0, convicted=False, shunned=None, expelled=None)
    hostile = msgspec.structs.replace(clean, kind="lazy", liars=[caught, free], accuracy=0.88)
    row = table([clean, hostile])[-1]
    assert row == "| lazy | 1 | 1, 1 of 2 | 5, - | 4 | 0.250 (0.006 to 0.806) | 1 of 1 | 0, 0 | +2.0 (+2.0) |"


def test_who_knows_the_liars_sees_them_convicted() -> None:
    from bench.witness import told

    from gossipnode.scenario import setting_of

    options = {"nodes": 5, "rounds": 6, "seed": 0, "adversary": ("sign-flip:1",)}
    found = told(setting_of(None, options, {"audit": {"fraction": 1.0}}), "sign-flip")
    (liar,) = found.liars
    assert (liar.lies, liar.drawn, liar.convicted) == (1, 1, True)
    assert liar.shunned is not None
    assert (found.suspended, found.expelled, found.broken) == (0, 0, [])
