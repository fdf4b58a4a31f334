"""Every system call of a write fails once, and once more as a crash would: what was readable before stays readable."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gossipnode.blobfiles import promote, sync
from gossipnode.compute.worker import Bench
from gossipnode.files import create_whole, write_whole
from gossipnode.journal import Journal
from gossipnode.store import FileBlobs
from protocols.blobs import StoreFull
from verify.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS = ("open", "write", "pwrite", "fsync", "close", "replace", "link")
ABC = b"abcdefghij"


class State(msgspec.Struct, frozen=True):
    round: int
    head: bytes


class Fault:
    """The n-th of the named calls raises; a crash makes every later call raise too, clean-up included."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int, crash: bool) -> None:
        self.at, self.code, self.crash, self.count = at, code, crash, 0
        for name in (*CALLS, "unlink", "ftruncate"):
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    @property
    def happened(self) -> bool:
        return self.count > self.at

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: object, **options: object) -> object:
            fails = self.count == self.at or (self.crash and self.count > self.at)
            self.count += name in CALLS
            if fails and name == "close":
                real(*arguments, **options)  # the kernel closes it all the same
            if fails:
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **options)

        return call


@pytest.fixture(params=[False, True], ids=["error", "crash"])
def crash(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


STEPS = range(12)  # more than any of the writes has; the tests check that they were all reached


@pytest.mark.parametrize("step", STEPS)
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, step: int, crash: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.EIO, crash)
        try:
            write_whole(path, b"new ", b"bytes")
        except OSError:
            assert fault.happened
        else:
            assert not fault.happened
    assert path.read_bytes() in ((b"old", b"new bytes") if fault.happened else (b"new bytes",))
    if not crash:
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", STEPS)
def test_a_created_file_is_whole_or_absent(tmp_path: Path, step: int, crash: bool) -> None:
    path = tmp_path / "file"
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.EIO, crash)
        try:
            create_whole(path, b"secret", mode=0o600)
        except OSError:
            assert fault.happened
        else:
            assert not fault.happened
    if path.exists():
        assert path.read_bytes() == b"secret"
        assert path.stat().st_mode & 0o777 == 0o600
    else:
        assert fault.happened


@pytest.mark.parametrize("step", STEPS)
async def test_a_state_save_that_fails_leaves_a_readable_state(tmp_path: Path, step: int, crash: bool) -> None:
    journal = Journal(tmp_path, State)
    old, new = State(1, b"one"), State(2, b"two")
    await journal.save(old)
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.ENOSPC, crash)
        try:
            await journal.save(new)
        except OSError:
            assert fault.happened
        else:
            assert not fault.happened
    assert Journal(tmp_path, State).load() in ((old, new) if fault.happened else (new,))
    await journal.save(State(3, b"three"))  # and the next round is saved as if nothing had been
    assert Journal(tmp_path, State).load() == State(3, b"three")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", STEPS)
async def test_a_put_that_fails_harms_nothing(tmp_path: Path, step: int, code: int) -> None:
    store = FileBlobs(tmp_path, 1000)
    kept = await store.put(b"kept")
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, code, crash=False)
        try:
            await store.put(ABC)
        except StoreFull:
            assert fault.happened
        else:
            assert not fault.happened
    assert store.held_bytes == (4 if fault.happened else 14)
    assert await store.get(kept) == b"kept"
    digest = await store.put(ABC)
    assert await store.get(digest) == ABC
    assert sorted(path.name for path in store.blobs.iterdir()) == sorted([kept.hex(), digest.hex()])


@pytest.mark.parametrize("step", STEPS)
async def test_an_append_that_fails_can_be_made_again(tmp_path: Path, step: int) -> None:
    store = FileBlobs(tmp_path, 1000)
    partial = await store.receive(digest_of(ABC), 10)
    await partial.append(ABC[:3])
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.ENOSPC, crash=False)
        try:
            await partial.append(ABC[3:])
        except StoreFull:
            assert fault.happened
            assert partial.offset == 3
    if partial.offset == 3:
        await partial.append(ABC[3:])
    assert await partial.commit()
    assert await store.get(digest_of(ABC)) == ABC


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_during_a_commit_loses_at_most_the_name(tmp_path: Path, step: int) -> None:
    store = FileBlobs(tmp_path, 1000)
    partial = await store.receive(digest_of(ABC), 10)
    await partial.append(ABC)
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.EIO, crash=True)
        try:
            await partial.commit()
        except StoreFull:
            assert fault.happened
    after = FileBlobs(tmp_path, 1000)
    again = await after.receive(digest_of(ABC), 10)
    assert again.offset == 10
    assert await again.commit()
    assert await after.get(digest_of(ABC)) == ABC


async def test_the_steps_cover_the_longest_write(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, 10**6, errno.EIO, crash=False)
        await Journal(tmp_path, State).save(State(1, b""))
        assert 0 < fault.count < len(STEPS)


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_we_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    write_whole(tmp_path / "file", b"x")
    assert calls == ["write", "fsync", "replace", "fsync"]
    calls.clear()
    (tmp_path / "partial").write_bytes(b"x")
    promote(tmp_path / "partial", tmp_path / "blob")
    assert calls == ["replace"]  # whoever needs it after a power cut says so:
    sync(tmp_path / "blob")
    assert calls == ["replace", "fsync", "fsync"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_cannot_write_says_so_and_leaves_nothing(tmp_path: Path, step: int, code: int) -> None:
    bench = Bench()
    bench.blobs = tmp_path
    kept = bench.store(b"kept")
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, code, crash=False)
        try:
            bench.store(ABC)
        except StoreFull:  # the daemon hears of it by this name
            assert fault.happened
        else:
            assert not fault.happened
    names = {kept.hex()} if fault.happened else {kept.hex(), digest_of(ABC).hex()}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert bench.read(bench.store(ABC)) == ABC


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_in_a_checkpoint_leaves_a_state_whose_model_is_there(tmp_path: Path, step: int) -> None:
    """As the daemon saves: first the model is made durable, then the state that names it."""
    store, journal = FileBlobs(tmp_path, 1000), Journal(tmp_path / "state", State)
    old, new = State(1, await store.put(b"one")), State(2, await store.put(b"two"))

    async def save(state: State) -> None:
        await store.sync(digest_of(b"one" if state.round == 1 else b"two"))
        await journal.save(state)

    await save(old)
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, step, errno.EIO, crash=True)
        try:
            await save(new)
        except OSError:
            assert fault.happened
    found = Journal(tmp_path / "state", State).load()
    assert found in (old, new)
    assert found is not None
    assert await FileBlobs(tmp_path, 1000).get(Digest(found.head)) in (b"one", b"two")
