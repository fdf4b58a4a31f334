"""Both stores against one contract: protocols.blobs as its docstrings state it."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

from gossipnode.blobfiles import write_blob
from gossipnode.memoryblobs import MemoryBlobs, _shelf
from gossipnode.store import FileBlobs
from protocols.blobs import Slice, StoreFull
from verify.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from protocols.blobs import Blobs

    Open = Callable[[int], Blobs]


@pytest.fixture(params=["memory", "file"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    opened: list[FileBlobs] = []

    def make(max_bytes: int) -> Blobs:
        if request.param == "memory":
            return MemoryBlobs(max_bytes)
        opened.append(FileBlobs(tmp_path, max_bytes))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def blob(letter: str, size: int = 10) -> bytes:
    return letter.encode() * size


async def test_put_then_get_size_and_read(open_store: Open) -> None:
    store = open_store(100)
    digest = await store.put(b"0123456789")
    assert digest == digest_of(b"0123456789")
    assert digest in store
    assert len(store) == 1
    assert store.size(digest) == 10
    assert await store.get(digest) == b"0123456789"
    assert store.read(digest, 0, 4) == b"0123"
    assert store.read(digest, 8, 4) == b"89"
    assert store.read(digest, 10, 4) == b""


async def test_what_is_not_held(open_store: Open) -> None:
    store = open_store(100)
    digest = digest_of(b"absent")
    assert digest not in store
    assert "no digest at all" not in store
    assert store.size(digest) is None
    assert store.read(digest, 0, 4) == b""
    with pytest.raises(KeyError):
        await store.get(digest)


async def test_an_empty_blob_is_a_blob(open_store: Open) -> None:
    store = open_store(100)
    digest = digest_of(b"")
    partial = await store.receive(digest, 0)
    assert await partial.commit()
    assert await store.get(digest) == b""


async def test_the_least_recently_used_goes_first(open_store: Open) -> None:
    store = open_store(30)
    a, b, c = [await store.put(blob(letter)) for letter in "abc"]
    store.read(a, 0, 1)
    d = await store.put(blob("d"))
    assert b not in store
    assert all(digest in store for digest in (a, c, d))


async def test_putting_again_counts_once_and_is_a_use(open_store: Open) -> None:
    store = open_store(20)
    a, b = await store.put(blob("a")), await store.put(blob("b"))
    assert await store.put(blob("a")) == a
    await store.put(blob("c"))
    assert a in store
    assert b not in store


async def test_pinned_blobs_stay_and_a_full_store_says_so(open_store: Open) -> None:
    store = open_store(20)
    a, b = await store.put(blob("a")), await store.put(blob("b"))
    store.pin([a, b])
    with pytest.raises(StoreFull, match="store_max_bytes"):
        await store.put(blob("c"))
    store.pin([b])
    await store.put(blob("c"))
    assert a not in store
    assert b in store


async def test_nothing_is_evicted_for_what_can_never_fit(open_store: Open) -> None:
    store = open_store(20)
    a = await store.put(blob("a"))
    with pytest.raises(StoreFull):
        await store.put(blob("b", 21))
    assert a in store


async def test_a_blob_received_in_pieces_appears_when_committed(open_store: Open) -> None:
    store = open_store(100)
    digest = digest_of(b"0123456789")
    partial = await store.receive(digest, 10)
    await partial.append(b"01234")
    assert partial.offset == 5
    assert digest not in store
    assert store.size(digest) is None
    await partial.append(b"56789")
    assert await partial.commit()
    assert await store.get(digest) == b"0123456789"


async def test_wrong_bytes_are_refused_and_gone(open_store: Open) -> None:
    store = open_store(10)
    digest = digest_of(b"0123456789")
    partial = await store.receive(digest, 10)
    await partial.append(b"0123456780")
    assert not await partial.commit()
    assert digest not in store
    assert store.held_bytes == 0
    again = await store.receive(digest, 10)
    assert again.offset == 0


async def test_an_abandoned_partial_resumes(open_store: Open) -> None:
    store = open_store(100)
    digest = digest_of(b"0123456789")
    partial = await store.receive(digest, 10)
    await partial.append(b"0123")
    del partial
    partial = await store.receive(digest, 10)
    assert partial.offset == 4
    await partial.append(b"456789")
    assert await partial.commit()


async def test_another_announced_size_begins_anew(open_store: Open) -> None:
    store = open_store(100)
    digest = digest_of(b"0123456789")
    first = await store.receive(digest, 20)
    await first.append(b"0123")
    second = await store.receive(digest, 10)
    assert second.offset == 0
    with pytest.raises(StoreFull, match="given up"):
        await first.append(b"4")
    await second.append(b"0123456789")
    assert await second.commit()
    assert await store.get(digest) == b"0123456789"


async def test_discard_frees_the_space(open_store: Open) -> None:
    store = open_store(10)
    partial = await store.receive(digest_of(b"x" * 10), 10)
    await partial.append(b"x")
    await partial.discard()
    await store.put(blob("a"))


async def test_space_is_claimed_before_the_first_byte(open_store: Open) -> None:
    store = open_store(25)
    a = await store.put(blob("a"))
    partial = await store.receive(digest_of(blob("b")), 10)
    with pytest.raises(StoreFull):
        await store.receive(digest_of(blob("c", 20)), 20)
    assert a in store
    assert partial.offset == 0


async def test_a_partial_in_hands_is_safe_and_an_abandoned_one_is_not(open_store: Open) -> None:
    store = open_store(15)
    partial = await store.receive(digest_of(blob("a")), 10)
    await partial.append(b"aaa")
    with pytest.raises(StoreFull):
        await store.put(blob("b"))
    del partial
    gc.collect()
    await store.put(blob("b"))
    assert (await store.receive(digest_of(b"aaaa"), 4)).offset == 0


async def test_receiving_what_is_held_is_already_done(open_store: Open) -> None:
    store = open_store(100)
    digest = await store.put(blob("a"))
    partial = await store.receive(digest, 10)
    assert partial.offset == 10
    assert await partial.commit()


async def test_a_blob_put_while_it_arrives_ends_the_arrival_well(open_store: Open) -> None:
    store = open_store(30)
    digest = digest_of(blob("a"))
    partial = await store.receive(digest, 10)
    await partial.append(b"aaaa")
    await store.put(blob("a"))
    await partial.append(b"aaaaaa")
    assert partial.offset == 10
    assert await partial.commit()
    assert await store.get(digest) == blob("a")
    assert store.held_bytes == 10


async def test_more_bytes_than_announced_is_our_own_bug(open_store: Open) -> None:
    store = open_store(100)
    partial = await store.receive(digest_of(b"ab"), 2)
    with pytest.raises(AssertionError):
        await partial.append(b"abc")


async def test_a_file_the_worker_wrote_is_adopted(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 20)
    a = await store.put(blob("a"))
    b = write_blob(store.blobs, blob("b"))
    assert b not in store
    store.adopt(b)
    assert await store.get(b) == blob("b")
    c = write_blob(store.blobs, blob("c"))
    store.adopt(c)
    assert a not in store
    assert store.held_bytes == 20
    with pytest.raises(KeyError):
        store.adopt(digest_of(b"never written"))
    store.close()


async def test_adopting_what_does_not_fit_removes_it(tmp_path: Path) -> None:
    store = FileBlobs(tmp_path, 20)
    store.pin([await store.put(blob("a"))])
    digest = write_blob(store.blobs, blob("b", 15))
    with pytest.raises(StoreFull):
        store.adopt(digest)
    assert not store.path(digest).exists()
    assert store.held_bytes == 10


async def test_blobs_in_memory_are_kept_once_for_all_nodes() -> None:
    one, other = MemoryBlobs(10_000), MemoryBlobs(10_000)
    digest = await one.put(bytes(range(250)))
    assert await other.put(bytes(range(250))) == digest
    assert await one.get(digest) is await other.get(digest)
    assert await one.get(digest) == bytes(range(250))
    assert digest in _shelf
    del one, other
    gc.collect()
    assert digest not in _shelf


async def test_a_slice_is_served_out_of_the_whole_while_that_is_held(open_store: Open) -> None:
    store = open_store(30)
    whole = await store.put(b"0123456789")
    name = digest_of(b"34567")
    store.slice({name: Slice(whole, 3, 5)})
    await store.prove(name)
    assert store.size(name) == 5
    assert [store.read(name, 0, 3), store.read(name, 3, 9), store.read(name, 5, 1)] == [b"345", b"67", b""]
    assert name not in store  # whoever wants it for itself fetches it
    assert len(store) == 1
    for letter in "abc":
        await store.put(blob(letter))
    assert whole not in store
    assert store.size(name) is None
    assert store.read(name, 0, 3) == b""


async def test_the_slices_replace_the_former_ones(open_store: Open) -> None:
    store = open_store(30)
    whole = await store.put(b"0123456789")
    first, second = digest_of(b"01"), digest_of(b"23")
    store.slice({first: Slice(whole, 0, 2)})
    store.slice({second: Slice(whole, 2, 2)})
    assert (store.size(first), store.size(second)) == (None, 2)


async def test_a_slice_of_what_rotted_on_the_disk_is_not_served(tmp_path: Path) -> None:
    with contextlib.closing(FileBlobs(tmp_path, 100)) as store:
        whole = await store.put(b"0123456789")
        path = store.path(whole)
    path.write_bytes(b"0123x56789")
    with contextlib.closing(FileBlobs(tmp_path, 100)) as store:
        name = digest_of(b"34567")
        store.slice({name: Slice(whole, 3, 5)})
        await store.prove(name)
        assert store.size(name) is None
