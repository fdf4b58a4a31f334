"""What a store finds again after a restart, and what it does about what a crash or a bad disk left."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from gossipnode import blobfiles
from gossipnode import store as store_module
from gossipnode.blobfiles import write_blob
from gossipnode.errors import OperatorError
from gossipnode.ledger import Arrival
from gossipnode.store import FileBlobs
from protocols.blobs import StoreFull
from verify.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ABC = b"abcdefghij"


def files_below(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


async def test_blobs_outlive_a_restart_and_old_ones_go_first(tmp_path: Path) -> None:
    first = FileBlobs(tmp_path, 20)
    a, b = await first.put(b"a" * 10), await first.put(b"b" * 10)
    os.utime(first.path(b), ns=(0, 0))
    second = FileBlobs(tmp_path, 20)
    assert await second.get(a) == b"a" * 10
    assert second.held_bytes == 20
    os.utime(first.path(a), ns=(1, 1))
    third = FileBlobs(tmp_path, 20)
    await third.put(b"c" * 10)
    assert b not in third
    assert a in third


async def test_a_partial_outlives_a_restart(tmp_path: Path) -> None:
    partial = await FileBlobs(tmp_path, 100).receive(digest_of(ABC), 10)
    await partial.append(ABC[:4])
    store = FileBlobs(tmp_path, 100)
    assert store.held_bytes == 4
    partial = await store.receive(digest_of(ABC), 10)
    assert partial.offset == 4
    assert store.held_bytes == 10
    await partial.append(ABC[4:])
    assert await partial.commit()
    assert await store.get(digest_of(ABC)) == ABC


async def test_a_left_over_longer_than_announced_is_dropped(tmp_path: Path) -> None:
    partial = await FileBlobs(tmp_path, 100).receive(digest_of(ABC), 30)
    await partial.append(b"x" * 20)
    store = FileBlobs(tmp_path, 100)
    partial = await store.receive(digest_of(ABC), 10)
    assert partial.offset == 0
    await partial.append(ABC)
    assert await partial.commit()


async def test_left_overs_make_room(tmp_path: Path) -> None:
    partial = await FileBlobs(tmp_path, 20).receive(digest_of(ABC), 20)
    await partial.append(b"x" * 20)
    store = FileBlobs(tmp_path, 20)
    await store.put(ABC)
    assert store.held_bytes == 10
    assert files_below(tmp_path) == [digest_of(ABC).hex()]


async def test_two_callers_resume_one_left_over_together(tmp_path: Path) -> None:
    partial = await FileBlobs(tmp_path, 100).receive(digest_of(ABC), 10)
    await partial.append(ABC[:4])
    store = FileBlobs(tmp_path, 100)
    got = []

    async def receive() -> None:
        got.append(await store.receive(digest_of(ABC), 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
    assert got[0] is got[1]
    assert got[0].offset == 4


async def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    FileBlobs(tmp_path, 100)
    (tmp_path / "blobs" / f".{'0' * 64}.1.0.tmp").write_bytes(b"torn")
    (tmp_path / "blobs" / "note.txt").write_bytes(b"garbage")
    (tmp_path / "partial" / "short").write_bytes(b"garbage")
    FileBlobs(tmp_path, 100)
    assert files_below(tmp_path) == []


async def test_a_damaged_blob_is_never_given_out_by_get(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FileBlobs(tmp_path, 100)
    digest = await store.put(ABC)
    store.path(digest).write_bytes(b"abcdefghiJ")
    with pytest.raises(KeyError):
        await store.get(digest)
    assert digest not in store
    assert store.held_bytes == 0
    assert not store.path(digest).exists()
    assert len(caplog.records) == 1
    assert await store.put(ABC) == digest
    assert await store.get(digest) == ABC


async def test_what_a_power_cut_tore_is_not_served_after_it(tmp_path: Path) -> None:
    first = FileBlobs(tmp_path, 100)
    torn, whole = await first.put(ABC), await first.put(b"whole")
    first.path(torn).write_bytes(bytes(10))
    store = FileBlobs(tmp_path, 100)
    for digest in (torn, whole):
        await store.prove(digest)
    assert torn not in store
    assert store.read(whole, 0, 5) == b"whole"
    assert await store.put(ABC) == torn
    assert store.read(torn, 0, 10) == ABC


async def test_a_worker_writes_over_what_is_torn(tmp_path: Path) -> None:
    first = FileBlobs(tmp_path, 100)
    digest = await first.put(ABC)
    first.path(digest).write_bytes(bytes(10))
    store = FileBlobs(tmp_path, 100)
    store.adopt(write_blob(store.blobs, ABC))
    assert await store.get(digest) == ABC


async def test_a_blob_removed_behind_our_back_reads_as_absent(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 100)
    digest = await store.put(ABC)
    store.path(digest).unlink()
    assert store.read(digest, 0, 10) == b""
    assert digest not in store
    assert store.held_bytes == 0


async def test_read_keeps_a_bounded_number_of_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_OPEN_FILES", 2)
    store = FileBlobs(tmp_path, 100)
    before = len(os.listdir("/proc/self/fd"))
    digests = [await store.put(bytes([letter]) * 10) for letter in range(5)]
    for digest in digests * 2:
        assert len(store.read(digest, 0, 10)) == 10
    assert len(store._open) == 2
    assert len(os.listdir("/proc/self/fd")) == before + 2
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_stream_that_is_evicted_under_way_ends(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 10)
    digest = await store.put(ABC)
    assert store.read(digest, 0, 5) == ABC[:5]
    await store.put(b"x" * 10)
    assert store.read(digest, 5, 5) == b""


async def test_the_bound_holds_for_whatever_is_done(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 50)
    for step in range(60):
        data = bytes([step]) * (step % 20)
        with_room = [store.put, store.receive][step % 2]
        try:
            if with_room == store.put:
                await store.put(data)
            else:
                partial = await store.receive(digest_of(data), len(data))
                await partial.append(data[: step % 7])
        except StoreFull:
            pass
        assert bytes_below(tmp_path) <= store.held_bytes <= 50


async def test_a_blob_put_during_a_write_of_its_partial_leaves_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileBlobs(tmp_path, 100)
    partial = await store.receive(digest_of(ABC), 10)
    write = blobfiles.append

    def put_first(path: Path, arrival: Arrival, data: bytes) -> None:
        trio.from_thread.run(store.put, ABC)
        write(path, arrival, data)

    monkeypatch.setattr(blobfiles, "append", put_first)
    await partial.append(ABC)
    assert await partial.commit()
    assert files_below(tmp_path / "partial") == []


async def test_a_big_file_is_freed_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobfiles, "_FREED_BESIDE_BYTES", 10)
    started: list[Callable[[], object]] = []
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", lambda work, deliver, name: started.append(work))
    store = FileBlobs(tmp_path, 10)
    digest = await store.put(ABC)
    store.adopt(write_blob(store.blobs, b"x" * 10))
    assert not store.path(digest).exists()
    assert len(files_below(tmp_path)) == 2
    started.pop()()
    assert len(files_below(tmp_path)) == 1


def test_a_store_that_cannot_be_kept_there(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(OperatorError, match=f"cannot keep models in {tmp_path}"):
        FileBlobs(tmp_path, 100)


async def test_cancelling_a_put_leaves_no_claim(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 50)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.put(ABC)
    assert store.held_bytes == 0


def test_write_blob_twice_is_one_file(tmp_path: Path) -> None:
    assert write_blob(tmp_path, ABC) == write_blob(tmp_path, memoryview(ABC))
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_worker_writes_over_what_is_torn_to_another_size(tmp_path: Path) -> None:
    first = FileBlobs(tmp_path, 100)
    digest = await first.put(ABC)
    first.path(digest).write_bytes(b"abc")
    store = FileBlobs(tmp_path, 100)
    assert store.read(digest, 0, 10) == b"abc"  # its descriptor is open now
    store.adopt(write_blob(store.blobs, ABC))
    assert store.size(digest) == 10  # another size would be held against us
    assert store.held_bytes == 10
    assert store.read(digest, 0, 10) == ABC


async def test_a_blob_made_anew_while_the_torn_one_is_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FileBlobs(tmp_path, 100)
    digest = await first.put(ABC)
    first.path(digest).write_bytes(bytes(10))
    store = FileBlobs(tmp_path, 100)
    read = blobfiles.read_checked

    def overtaken(path: Path, wanted: Digest) -> bytes | None:
        found = read(path, wanted)
        if found is None:
            trio.from_thread.run_sync(store.adopt, write_blob(store.blobs, ABC))
        return found

    monkeypatch.setattr(blobfiles, "read_checked", overtaken)
    await store.prove(digest)
    assert digest in store
    assert store.read(digest, 0, 10) == ABC


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
async def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = FileBlobs(tmp_path, 100)
    digest = await store.put(ABC)

    def short(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        patch.setattr("pathlib.Path.read_bytes", short)
        assert store.read(digest, 0, 10) == b""
        with pytest.raises(KeyError):
            await store.get(digest)
    assert await store.get(digest) == ABC
