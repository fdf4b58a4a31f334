"""Models by digest: whoever names a blob can be asked for it, and what arrives is checked against the name.

A blob is received once however many conversations want it; a broken stream is resumed where it stopped, from the same
source or another, and so is one whose source is too slow (`protocols.pace`). Two lies are possible, both offences: a
size that is not the run's (found before a byte flows), and bytes that do not hash to the digest (found at the end;
nothing of them is kept).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from protocols import limits
from protocols.blobs import Blobs, Partial, StoreFull
from protocols.desk import Accuse
from protocols.pace import Usual, Watch
from protocols.transport import BlobStream, NotHeld, Transport, TransportError
from sampling.peers import PeerId
from verify.digest import Digest, short
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

TRIES_PER_SOURCE = 3  # a broken stream is resumed this often before the source is given up
BATCH_BYTES = 2 * limits.MIB  # for one hop to the thread that hashes and writes: a stream yields 64 KiB at a time
BATCHES_AHEAD = 2  # received and not yet written: the stream does not stop for a slow write, and memory is bounded


Alive = Callable[[PeerId], Awaitable[bool]]


class NotFetched(Exception):
    """None of the sources delivered the blob. Says what each of them did."""


async def _whoever(peer: PeerId) -> bool:
    return True


class ModelExchange:
    """Fetches blobs of exactly `size` bytes: every model of a run has the same (`Manifest.model_bytes`)."""

    def __init__(self, transport: Transport, blobs: Blobs, size: int, accuse: Accuse, alive: Alive = _whoever) -> None:
        """`alive`: does a peer answer? Asked before a source's time-out is risked on it."""
        self._alive = alive
        self._transport = transport
        self._blobs = blobs
        self._size = size
        self._accuse = accuse
        self._kept: dict[str, frozenset[Digest]] = {}
        self._usual = Usual()
        self._under_way: dict[Digest, trio.Event] = {}  # later callers wait for the first

    def of_size(self, size: int) -> ModelExchange:
        """The same for blobs of another size: what either keeps is kept."""
        other = copy.copy(self)
        other._size, other._under_way = size, {}
        return other

    def keep(self, owner: str, digests: Iterable[Digest]) -> None:
        """These blobs must not be evicted while `owner` has use for them; replaces what it kept before."""
        self._kept[owner] = frozenset(digests)
        self._blobs.pin(frozenset[Digest]().union(*self._kept.values()))

    async def obtain(self, digest: Digest, sources: Sequence[PeerId]) -> None:
        """The blob is in the store when this returns. Raises NotFetched, StoreFull."""
        await self._blobs.prove(digest)
        while digest not in self._blobs:
            done = self._under_way.get(digest)
            if done is None:
                return await self._first(digest, sources)
            await done.wait()

    async def obtain_all(self, wanted: Iterable[tuple[Digest, Sequence[PeerId]]]) -> None:
        """Each from its own sources, all at once. Raises NotFetched, StoreFull."""
        failures: list[NotFetched | StoreFull] = []

        async def obtain(digest: Digest, sources: Sequence[PeerId]) -> None:
            try:
                await self.obtain(digest, sources)
            except (NotFetched, StoreFull) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for digest, sources in wanted:
                nursery.start_soon(obtain, digest, sources)
        if failures:
            raise failures[0]

    async def _first(self, digest: Digest, sources: Sequence[PeerId]) -> None:
        done = self._under_way[digest] = trio.Event()
        try:
            await self._from_any(digest, [peer for peer in sources if peer != self._transport.me])
        finally:
            del self._under_way[digest]
            done.set()

    async def _from_any(self, digest: Digest, sources: Sequence[PeerId]) -> None:
        failures: list[str] = []
        slow: list[PeerId] = []
        for place, peer in enumerate(sources):
            # Whoever is named first has usually just been heard.
            if place and not await self._alive(peer):
                failures.append(f"{peer}: silent")
            elif await self._from_source(digest, peer, failures, slow, others=len(sources) > 1):
                return
        for peer in slow:  # nobody else has it: better late than never
            if await self._from_source(digest, peer, failures, [], others=False):
                return
        raise NotFetched(f"blob {short(digest)}: " + ("; ".join(failures) or "nobody to ask"))

    async def _from_source(
        self, digest: Digest, peer: PeerId, failures: list[str], slow: list[PeerId], *, others: bool
    ) -> bool:
        for _ in range(TRIES_PER_SOURCE):
            try:
                if await self._from_one(digest, peer, others=others):
                    return True
                failures.append(f"{peer}: broken promise")
                break
            except NotHeld:
                failures.append(f"{peer}: not held")
                break
            except _TooSlow as error:
                failures.append(f"{peer}: {error}")
                slow.append(peer)
                break
            except TransportError as error:
                failures.append(f"{peer}: {error}")
                if not await self._alive(peer):
                    break
        return False

    async def _from_one(self, digest: Digest, peer: PeerId, *, others: bool) -> bool:
        """True: received and checked. False: the peer lied. Raises TransportError when the stream breaks."""
        partial = await self._blobs.receive(digest, self._size)
        watch = Watch(self._usual.least(others=others))
        resumed = partial.offset > 0
        async with self._transport.fetch(peer, digest, offset=partial.offset) as stream:
            if stream.size != self._size:
                detail = f"blob {short(digest)} of {stream.size} bytes, the run's have {self._size}"
                self._accuse(
                    peer, OffenceKind.OVERSIZE if stream.size > self._size else OffenceKind.UNFIT_MODEL, detail
                )
                return False
            try:
                await _pour(stream, self._size - partial.offset, partial, watch)
                self._usual.measured(watch.got, watch.waited_s)
            except _TooLong:
                self._accuse(peer, OffenceKind.OVERSIZE, f"blob {short(digest)} runs on past its size")
                return False
        return await self._checked(digest, peer, partial, resumed)

    async def _checked(self, digest: Digest, peer: PeerId, partial: Partial, resumed: bool) -> bool:
        if partial.offset < self._size:
            raise TransportError(f"stream ended at {partial.offset} of {self._size} bytes")
        if await partial.commit():
            return True
        if resumed:  # the first part came from elsewhere, so this peer may be innocent: begin again with it alone
            raise TransportError("the parts do not fit together")
        self._accuse(peer, OffenceKind.WRONG_DIGEST, f"what it sent for {short(digest)} hashes to something else")
        return False


class _TooLong(Exception):
    """More bytes than the stream's own size."""


class _TooSlow(TransportError):
    """Bytes come, but not enough of them."""


Failure = TransportError | StoreFull | _TooLong


async def _pour(stream: BlobStream, left: int, partial: Partial, watch: Watch) -> None:
    """Hash and write one batch while the next arrives. What came before a break is kept. Raises a Failure."""
    failures: list[Failure] = []
    send, receive = trio.open_memory_channel[bytes](BATCHES_AHEAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, stream, left, send, failures, watch)
        with receive:
            try:
                async for batch in receive:
                    await partial.append(batch)
            except StoreFull as error:
                failures.append(error)
                nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _read(
    stream: BlobStream, left: int, send: trio.MemorySendChannel[bytes], failures: list[Failure], watch: Watch
) -> None:
    batch: list[bytes] = []
    with send:
        try:
            while left > 0 and (data := await _next(stream, left, watch)):
                left -= len(data)
                if left < 0:
                    raise _TooLong
                batch.append(data)
                if sum(map(len, batch)) >= BATCH_BYTES:
                    await send.send(b"".join(batch))
                    batch = []
        except (TransportError, _TooLong) as error:
            failures.append(error)
        if batch:
            await send.send(b"".join(batch))


async def _next(stream: BlobStream, left: int, watch: Watch) -> bytes:
    since = trio.current_time()
    data = await stream.receive_some()
    if not watch.came(len(data), trio.current_time() - since) and len(data) < left:
        raise _TooSlow(f"{watch.got} bytes in {watch.waited_s:.0f} s are too few")
    return data
