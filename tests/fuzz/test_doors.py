"""Every door holds: its valid examples, everything in its corpus, and a counted, seeded number of mutations of both.

`python scripts/fuzz.py` looks for as long as it is given, and adds what it finds to the corpus.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

SCRIPTS = Path(__file__).parents[2] / "scripts"
INPUTS = 150  # to each of the cheapest doors

sys.path.insert(0, str(SCRIPTS))
try:
    import fuzz
    from fuzzing import doors, mutations, watch
finally:
    sys.path.remove(str(SCRIPTS))

DOORS = doors.all_doors()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Refusals are what most inputs get, and some of them are logged."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    yield
    logging.disable(before)


@pytest.mark.parametrize("name", DOORS)
def test_a_door_holds(name: str) -> None:
    door = DOORS[name]
    known = [*door.examples, *watch.corpus(name).values()]

    @settings(
        max_examples=max(5, round(INPUTS / door.cost)), derandomize=True, deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutations.nearly(known, door.tokens))
    def offer(data: bytes) -> None:
        watch.enter(door, data)

    with watch.watching():
        for data in known:
            watch.enter(door, data)
        offer()


@pytest.mark.parametrize("name", sorted(DOORS.keys() - {"status-report", "home", "address"}))
def test_what_is_valid_is_let_in(name: str) -> None:
    with watch.watching():
        assert "accepted" in {watch.enter(DOORS[name], example) for example in DOORS[name].examples}


def a_door(enter: Any) -> Any:  # noqa: ANN401  # the modules of scripts have no types here
    return watch.Door("a", [b"x"], enter, (KeyError,))


def raise_(error: Exception) -> None:
    raise error


def test_the_watch_sees_what_a_door_may_not_do() -> None:
    kept: list[bytearray] = []
    bad = {
        "raised ValueError": lambda data: raise_(ValueError("no")),
        "raised RecursionError": lambda data: raise_(RecursionError()),
        "raised AssertionError": lambda data: raise_(AssertionError()),
        "allocated": lambda data: kept.append(bytearray(watch.ALLOCATION_BYTES + 1)),
    }
    with watch.watching():
        for why, enter in bad.items():
            with pytest.raises(watch.Broken, match=why):
                watch.enter(a_door(enter), b"x")
        assert watch.enter(a_door(lambda data: raise_(KeyError("a 'b' 3"))), b"x").startswith("KeyError")
        assert watch.enter(a_door(lambda data: None), b"x") == "accepted"


def test_the_watch_sees_a_door_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 10.0 + watch.SECONDS + 0.1])
    monkeypatch.setattr(watch.time, "thread_time", lambda: next(now))
    with watch.watching(), pytest.raises(watch.Broken, match="took"):
        watch.enter(a_door(lambda data: None), b"x")


def test_what_is_found_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch, "CORPUS", tmp_path)
    path = watch.save("wire", b"abc", "broken")
    assert path.parent == tmp_path / "wire"
    assert watch.corpus("wire") == {path.name: b"abc"}
    assert watch.corpus("other") == {}


def test_a_door_that_breaks_is_told_with_its_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch, "CORPUS", tmp_path)

    def enter(data: bytes) -> None:
        if len(data) > 3:
            raise ValueError("too long for me")

    tally = fuzz.Tally()
    with watch.watching():
        fuzz.batch(watch.Door("picky", [b"abcd"], enter, ()), tally, [b"abcd"])
    assert "too long for me" in tally.broken[0]
    [data] = [data for file, data in watch.corpus("picky").items() if file.startswith("broken")]
    assert len(data) == 4  # shrunk
