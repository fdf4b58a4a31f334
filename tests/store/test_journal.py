"""The journal of a node's state: what a restart finds, and what a damaged copy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from gossipnode.journal import Journal, MemoryJournal

if TYPE_CHECKING:
    from pathlib import Path


class State(msgspec.Struct, frozen=True):
    round: int
    head: bytes
    view: list[bytes] = []


class Newer(msgspec.Struct, frozen=True):
    round: int
    head: bytes
    finished: bool = False


ONE, TWO, THREE = State(1, b"a", [b"p"]), State(2, b"b"), State(3, b"c")


def copies(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if not path.name.endswith(".bad"))


async def save(directory: Path, *states: State) -> None:
    journal = Journal(directory, State)
    for state in states:
        await journal.save(state)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert Journal(tmp_path / "new", State).load() is None
    assert MemoryJournal(State).load() is None


async def test_the_latest_is_found_and_two_are_kept(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO, THREE)
    assert Journal(tmp_path, State).load() == THREE
    assert len(copies(tmp_path)) == 2
    await save(tmp_path, ONE)  # a restarted node numbers on
    assert Journal(tmp_path, State).load() == ONE


async def test_memory_keeps_a_copy_not_the_object() -> None:
    journal = MemoryJournal(State)
    state = State(1, b"a", [b"p"])
    await journal.save(state)
    state.view.append(b"later")
    assert journal.load() == ONE


@pytest.mark.parametrize("cut", [0, 1, 18, 19, 30, 59, 60, -1])
async def test_a_torn_copy_is_named_and_the_one_before_it_used(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    await save(tmp_path, ONE, TWO)
    newest = copies(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:cut])
    journal = Journal(tmp_path, State)
    assert journal.load() == ONE
    assert [str(newest) in record.getMessage() for record in caplog.records] == [True]
    await journal.save(THREE)
    assert Journal(tmp_path, State).load() == THREE


async def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO)
    newest = copies(tmp_path)[-1]
    good = newest.read_bytes()
    for index in range(len(good)):
        newest.write_bytes(good[:index] + bytes([good[index] ^ 0x10]) + good[index + 1 :])
        assert Journal(tmp_path, State).load() == ONE


async def test_an_older_copy_under_a_newer_name_is_noticed(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO)
    old, new = copies(tmp_path)
    new.write_bytes(old.read_bytes())
    assert Journal(tmp_path, State).load() == ONE
    assert new.with_name(new.name + ".bad").exists()


async def test_all_damaged_is_none(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO)
    for path in copies(tmp_path):
        path.write_bytes(b"garbage")
    assert Journal(tmp_path, State).load() is None


async def test_the_damaged_copy_is_not_counted_as_one_of_the_two(tmp_path: Path) -> None:
    await save(tmp_path, ONE, TWO)
    copies(tmp_path)[-1].write_bytes(b"garbage")
    journal = Journal(tmp_path, State)
    journal.load()
    await journal.save(THREE)
    copies(tmp_path)[-1].write_bytes(b"garbage")
    assert Journal(tmp_path, State).load() == ONE


async def test_fields_may_be_added_and_dropped(tmp_path: Path) -> None:
    await save(tmp_path, ONE)
    assert Journal(tmp_path, Newer).load() == Newer(1, b"a", finished=False)


async def test_journals_of_two_names_share_a_folder(tmp_path: Path) -> None:
    await Journal(tmp_path, State, "peers").save(ONE)
    await Journal(tmp_path, State, "peer").save(TWO)
    assert Journal(tmp_path, State, "peers").load() == ONE
    assert Journal(tmp_path, State, "peer").load() == TWO
