"""Blobs by content, on disk; `memoryblobs` keeps them in memory for simulation, by the same rules of space (`ledger`).

A blob is visible only when it is whole and hashed. Layout: `blobs/<hex>` whole files, `partial/<hex>` prefixes of
them, which outlive a restart; nothing else stays. Most blobs are of use for seconds, so only what a checkpoint names is
flushed to the disk (`sync`); what a new process finds is hashed before it is trusted (`prove`). FileBlobs hashes and
writes in threads; the event loop itself only does `read` (of an open file), `adopt` and unlinking small files.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

import trio

from gossipnode import blobfiles
from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from gossipnode.ledger import Arrival, Ledger
from protocols.blobs import StoreFull
from verify.digest import Digest, digest_of, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from protocols.blobs import Slice
    from protocols.transport import BlobSource

_log = logging.getLogger(__name__)
_OPEN_FILES: Final = 32  # kept open for `read`: as many blobs as are likely to be streamed at once


class _Destination(Protocol):
    async def _append(self, digest: Digest, arrival: Arrival, data: bytes) -> None: ...
    async def _commit(self, digest: Digest, arrival: Arrival) -> bool: ...
    def _discard(self, digest: Digest, arrival: Arrival) -> None: ...


class Receiving:
    """Implements `protocols.blobs.Partial`. While anybody refers to it, its space is not given to others."""

    __slots__ = ("__weakref__", "_arrival", "_digest", "_store")

    def __init__(self, store: _Destination, digest: Digest, arrival: Arrival) -> None:
        self._store = store
        self._digest = digest
        self._arrival = arrival

    @property
    def size(self) -> int:
        return self._arrival.size

    @property
    def offset(self) -> int:
        return self._arrival.offset

    async def append(self, data: bytes) -> None:
        assert self.offset + len(data) <= self.size
        await self._store._append(self._digest, self._arrival, data)

    async def commit(self) -> bool:
        assert self.offset == self.size
        return await self._store._commit(self._digest, self._arrival)

    async def discard(self) -> None:
        self._store._discard(self._digest, self._arrival)


class FileBlobs:
    """Implements `protocols.blobs.Blobs` on disk. The constructor clears what a crash left; it raises OperatorError."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.blobs: Final = directory / "blobs"
        self._partials: Final = directory / "partial"
        self._ledger: Final = Ledger(max_bytes)
        self._sizes: dict[Digest, int] = {}  # of the whole ones
        self._slices: Mapping[Digest, Slice] = {}
        self._since: dict[Digest, int] = {}  # which of all that were settled the file is: another may take its place
        self._settled: Final = itertools.count()
        self._unproved: set[Digest] = set()  # those of a former process that were not hashed again yet
        self._arrivals: dict[Digest, Arrival] = {}
        self._left_over: set[Digest] = set()  # partial files of a former process, not hashed again yet
        self._in_hands: WeakValueDictionary[Digest, Receiving] = WeakValueDictionary()
        self._writing: Counter[Digest] = Counter()
        self._open: OrderedDict[Digest, int] = OrderedDict()  # descriptors, least recently used first
        self._resuming: Final = trio.Lock()
        try:
            self._load()
        except OSError as error:
            raise OperatorError(f"cannot keep models in {directory}: {reason(error)}") from error

    def _load(self) -> None:
        for digest, size in blobfiles.tidy(self._partials):
            self._left_over.add(digest)
            self._ledger.enter(digest, size)
        for digest, size in blobfiles.tidy(self.blobs):
            self._settle(digest, size)
            self._unproved.add(digest)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    @property
    def held_bytes(self) -> int:
        """What blobs and partials have claimed of the bound."""
        return self._ledger.total

    def path(self, digest: Digest) -> Path:
        return self.blobs / digest.hex()

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, digest: object) -> bool:
        return digest in self._sizes

    def size(self, digest: Digest) -> int | None:
        return self._sizes[digest] if digest in self._sizes else size_of_slice(self, self._slices.get(digest))

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        if digest not in self._sizes:
            return read_slice(self, self._slices.get(digest), offset, length)
        self._ledger.touch(digest)
        try:
            return os.pread(self._descriptor(digest), length, offset)
        except OSError as error:
            if not blobfiles.is_shortage(error):
                _log.warning("blob %s cannot be read (%s); removed", short(digest), error.strerror)
                self._remove(digest)
            return b""

    def pin(self, digests: Iterable[Digest]) -> None:
        self._ledger.pin(digests)

    def slice(self, slices: Mapping[Digest, Slice]) -> None:
        self._slices = dict(slices)

    async def prove(self, digest: Digest) -> None:
        if digest in self._unproved:
            with contextlib.suppress(KeyError):
                await self.get(digest)
        elif digest in self._slices and self._slices[digest].whole in self._unproved:
            await self.prove(self._slices[digest].whole)

    async def sync(self, digest: Digest) -> None:
        """Make a blob that is held outlive a power cut. Raises OSError."""
        await trio.to_thread.run_sync(blobfiles.sync, self.path(digest))

    async def put(self, data: bytes) -> Digest:
        digest = await trio.to_thread.run_sync(digest_of, data)
        await self.prove(digest)
        if digest in self._sizes:
            self._ledger.touch(digest)
            return digest
        self._claim(digest, len(data))
        with self._held(digest), blobfiles.failing_disk():
            await trio.to_thread.run_sync(lambda: write_whole(self.path(digest), data, durable=False))
            self._settle(digest, len(data))
        return digest

    async def get(self, digest: Digest) -> bytes:
        if digest not in self._sizes:
            raise KeyError(digest)
        self._ledger.touch(digest)
        since = self._since[digest]
        try:
            data = await trio.to_thread.run_sync(blobfiles.read_checked, self.path(digest), digest)
        except OSError as error:
            raise KeyError(digest) from error
        if data is None and self._since.get(digest, since) != since:
            return await self.get(digest)  # what was read is not what lies there by now
        if data is None:
            _log.warning("blob %s is damaged or gone on disk; removed", short(digest))
            self._remove(digest)
            raise KeyError(digest)
        self._unproved.discard(digest)
        return data

    def adopt(self, digest: Digest) -> None:
        """Count a file that the compute worker wrote as `path(digest)`. Raises KeyError if there is none, StoreFull."""
        if digest in self._sizes and digest not in self._unproved:
            self._ledger.touch(digest)
            return
        self._unproved.discard(digest)
        try:
            size = self.path(digest).stat().st_size
        except OSError as error:
            raise KeyError(digest) from error
        try:
            self._claim(digest, size)
        except StoreFull:
            blobfiles.remove(self.path(digest))
            raise
        self._settle(digest, size)

    async def receive(self, digest: Digest, size: int) -> Receiving:
        async with self._resuming:  # two callers must not hash one left-over twice
            partial = self._in_hands.get(digest)
            if partial is None or partial.size != size or digest in self._sizes:
                partial = Receiving(self, digest, await self._arrival(digest, size))
                self._in_hands[digest] = partial
            return partial

    async def _arrival(self, digest: Digest, size: int) -> Arrival:
        if digest in self._sizes:
            return Arrival.complete(size)
        self._claim(digest, size)
        arrival = self._arrivals.get(digest)
        if arrival is None or arrival.size != size:
            with self._held(digest):
                arrival = await self._left_over_of(digest, size) or Arrival(size)
                if arrival.offset == 0:
                    self._forget_arrival(digest)
                self._left_over.discard(digest)
                self._arrivals[digest] = arrival
        return arrival

    async def _left_over_of(self, digest: Digest, size: int) -> Arrival | None:
        if digest not in self._left_over:
            return None
        return await trio.to_thread.run_sync(blobfiles.resume, self._partial(digest), size)

    # -- what Receiving needs -----------------------------------------------------------------------------------------

    async def _append(self, digest: Digest, arrival: Arrival, data: bytes) -> None:
        if digest in self._sizes:
            arrival.skip(len(data))
            return
        if self._arrivals.get(digest) is not arrival:
            raise given_up(digest)
        self._ledger.touch(digest)
        with blobfiles.failing_disk():
            await trio.to_thread.run_sync(blobfiles.append, self._partial(digest), arrival, data)
        if digest not in self._arrivals:  # settled or given up while we wrote
            blobfiles.remove(self._partial(digest))

    async def _commit(self, digest: Digest, arrival: Arrival) -> bool:
        if digest in self._sizes:
            return True
        if self._arrivals.get(digest) is not arrival:
            raise given_up(digest)
        if arrival.hash.digest() != digest:
            self._discard(digest, arrival)
            return False
        with self._held(digest), blobfiles.failing_disk():
            await trio.to_thread.run_sync(blobfiles.promote, self._partial(digest), self.path(digest))
            self._settle(digest, arrival.size)
        return True

    def _discard(self, digest: Digest, arrival: Arrival) -> None:
        if self._arrivals.get(digest) is arrival:
            self._forget_arrival(digest)
            self._ledger.release(digest)

    # -- one place for every change of state --------------------------------------------------------------------------

    def _partial(self, digest: Digest) -> Path:
        return self._partials / digest.hex()

    def _claim(self, digest: Digest, size: int) -> None:
        for victim in self._ledger.claim(digest, size, {*self._in_hands, *self._writing}):
            self._remove(victim)

    def _settle(self, digest: Digest, size: int) -> None:
        self._forget_arrival(digest)
        self._close(digest)  # of what lay there before
        self._sizes[digest] = size
        self._since[digest] = next(self._settled)
        self._ledger.enter(digest, size)

    def _remove(self, digest: Digest) -> None:
        self._unproved.discard(digest)
        self._forget_arrival(digest)
        self._ledger.release(digest)
        self._since.pop(digest, None)
        self._close(digest)
        if (size := self._sizes.pop(digest, None)) is not None:
            blobfiles.evict(self.path(digest), size)

    def _close(self, digest: Digest) -> None:
        if (descriptor := self._open.pop(digest, None)) is not None:
            os.close(descriptor)

    def _forget_arrival(self, digest: Digest) -> None:
        self._in_hands.pop(digest, None)
        if self._arrivals.pop(digest, None) is not None or digest in self._left_over:
            self._left_over.discard(digest)
            blobfiles.remove(self._partial(digest))

    @contextlib.contextmanager
    def _held(self, digest: Digest) -> Iterator[None]:
        """Nobody evicts it inside; if nothing came of it, its claim ends with the last who held it."""
        self._writing[digest] += 1
        try:
            yield
        finally:
            self._writing[digest] -= 1
            if not self._writing[digest]:
                del self._writing[digest]
                if not (digest in self._sizes or digest in self._arrivals or digest in self._left_over):
                    self._ledger.release(digest)

    def _descriptor(self, digest: Digest) -> int:
        descriptor = self._open.pop(digest, None)
        if descriptor is None:
            descriptor = os.open(self.path(digest), os.O_RDONLY)
        self._open[digest] = descriptor
        if len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def given_up(digest: Digest) -> StoreFull:
    return StoreFull(f"the unfinished blob {short(digest)} was given up for another use of its space")


def size_of_slice(source: BlobSource, part: Slice | None) -> int | None:
    return None if part is None or source.size(part.whole) is None else part.size


def read_slice(source: BlobSource, part: Slice | None, offset: int, length: int) -> bytes:
    if part is None or not 0 <= offset < part.size:
        return b""
    return source.read(part.whole, part.start + offset, min(length, part.size - offset))
