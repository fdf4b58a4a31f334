"""Blobs by content, in memory: what a simulated node keeps, by the same rules of space as on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from gossipnode.ledger import Arrival, Ledger
from gossipnode.store import Receiving, given_up, read_slice, size_of_slice
from verify.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from protocols.blobs import Slice


class _Shared:
    """Bytes that can be referred to weakly."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


_shelf: Final[WeakValueDictionary[Digest, _Shared]] = WeakValueDictionary()


def _shared(digest: Digest, data: bytes | bytearray) -> _Shared:
    """The blob as some other node of this process keeps it already: a thousand of them hold one model but once."""
    blob = _shelf.get(digest)
    if blob is None:
        blob = _shelf[digest] = _Shared(bytes(data))
    return blob


class MemoryBlobs:
    """Implements `protocols.blobs.Blobs` without threads or files, so that virtual time stays true."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: Final = max_bytes
        self._ledger: Final = Ledger(max_bytes)
        self._blobs: dict[Digest, _Shared] = {}
        self._slices: Mapping[Digest, Slice] = {}
        self._arrivals: dict[Digest, tuple[Arrival, bytearray]] = {}
        self._in_hands: WeakValueDictionary[Digest, Receiving] = WeakValueDictionary()

    @property
    def held_bytes(self) -> int:
        return self._ledger.total

    def __len__(self) -> int:
        return len(self._blobs)

    def __contains__(self, digest: object) -> bool:
        return digest in self._blobs

    def size(self, digest: Digest) -> int | None:
        blob = self._blobs.get(digest)
        return size_of_slice(self, self._slices.get(digest)) if blob is None else len(blob.data)

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        if digest not in self._blobs:
            return read_slice(self, self._slices.get(digest), offset, length)
        self._ledger.touch(digest)
        return self._blobs[digest].data[offset : offset + length]

    def peek(self, digest: Digest) -> bytes | None:
        """For who looks on from outside: not counted as a use."""
        blob = self._blobs.get(digest)
        return None if blob is None else blob.data

    async def prove(self, digest: Digest) -> None:
        """Nothing to do: memory does not rot."""

    def pin(self, digests: Iterable[Digest]) -> None:
        self._ledger.pin(digests)

    def slice(self, slices: Mapping[Digest, Slice]) -> None:
        self._slices = dict(slices)

    async def put(self, data: bytes) -> Digest:
        digest = digest_of(data)
        if digest not in self._blobs:
            self._claim(digest, len(data))
            self._settle(digest, data)
        self._ledger.touch(digest)
        return digest

    async def get(self, digest: Digest) -> bytes:
        blob = self._blobs[digest].data
        self._ledger.touch(digest)
        return blob

    def adopt(self, digest: Digest) -> None:
        """Inline compute puts its blobs here itself; this only holds it to that. Raises KeyError."""
        if digest not in self._blobs:
            raise KeyError(digest)
        self._ledger.touch(digest)

    async def receive(self, digest: Digest, size: int) -> Receiving:
        partial = self._in_hands.get(digest)
        if partial is None or partial.size != size or digest in self._blobs:
            partial = Receiving(self, digest, self._arrival(digest, size))
            self._in_hands[digest] = partial
        return partial

    def _arrival(self, digest: Digest, size: int) -> Arrival:
        if digest in self._blobs:
            return Arrival.complete(size)
        self._claim(digest, size)
        arrival, data = self._arrivals.get(digest, (Arrival(size), bytearray()))
        if arrival.size != size:
            arrival, data = Arrival(size), bytearray()
        self._arrivals[digest] = arrival, data
        return arrival

    async def _append(self, digest: Digest, arrival: Arrival, data: bytes) -> None:
        if digest in self._blobs:
            arrival.skip(len(data))
            return
        self._data_of(digest, arrival).extend(data)
        self._ledger.touch(digest)
        arrival.take(data)

    async def _commit(self, digest: Digest, arrival: Arrival) -> bool:
        if digest in self._blobs:
            return True
        data = self._data_of(digest, arrival)
        if arrival.hash.digest() != digest:
            self._discard(digest, arrival)
            return False
        self._settle(digest, data)
        return True

    def _discard(self, digest: Digest, arrival: Arrival) -> None:
        if digest in self._arrivals and self._arrivals[digest][0] is arrival:
            self._forget_arrival(digest)
            self._ledger.release(digest)

    def _data_of(self, digest: Digest, arrival: Arrival) -> bytearray:
        known, data = self._arrivals.get(digest, (None, bytearray()))
        if known is not arrival:
            raise given_up(digest)
        return data

    def _claim(self, digest: Digest, size: int) -> None:
        for victim in self._ledger.claim(digest, size, set(self._in_hands)):
            self._blobs.pop(victim, None)
            self._forget_arrival(victim)

    def _settle(self, digest: Digest, data: bytes | bytearray) -> None:
        self._forget_arrival(digest)
        self._blobs[digest] = _shared(digest, data)
        self._ledger.enter(digest, len(data))

    def _forget_arrival(self, digest: Digest) -> None:
        self._in_hands.pop(digest, None)
        self._arrivals.pop(digest, None)
