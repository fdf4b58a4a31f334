"""Blobs in chunks: they take turns with each other and with frames on the sender's uplink, and stop at a full window.

Invariant: the chunks of one stream arrive in order, because they share one delay; a stream ends with all its bytes, or
raises NoAnswer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from gossipnode.net.simulated_conditions import CHUNK_OVERHEAD_BYTES, FAREWELL_BYTES, REQUEST_OVERHEAD_BYTES
from gossipnode.net.simulated_links import Carried, Endpoint, Link
from protocols import limits
from protocols.transport import BlobSource, BlobStream, MayFetch, NoAnswer, NotHeld, to_anybody
from verify.digest import DIGEST_BYTES, Digest

WANT_BYTES: Final = DIGEST_BYTES + 8  # digest and offset


class Stream:
    """A blob on its way; both ends share this object, so that the window opens without a packet of its own."""

    def __init__(self, link: Link, receiver: Endpoint, digest: Digest, offset: int, delay_s: float) -> None:
        self.link = link
        self.receiver = receiver
        self.sender = link.far(receiver)
        self.digest = digest
        self.offset = offset  # of the next byte to send
        self.delay_s = delay_s
        self.total: int | None = None
        self.unread = 0  # bytes sent and not yet read
        self.stalled = False  # the sender waits for the window
        self.closed = False  # by the receiver, or broken
        self.not_held = False
        self.proceed: Callable[[], None] | None = None  # makes the sender look at the stream again
        self._chunks: deque[bytes] = deque()
        self._news = trio.Event()

    @property
    def size(self) -> int:
        assert self.total is not None, "a stream is handed out after its head has come"
        return self.total

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self.closed:
                raise NoAnswer(f"{self.sender.me} broke off a blob")
            await self.news(self.receiver.wire.conditions.stall_s)
        data = self._chunks.popleft()
        if not data:
            self._chunks.append(data)  # the end stays the end
        self.unread -= len(data)
        if self.stalled and self.unread < self.receiver.wire.conditions.window_bytes:
            self.wake_sender()
        return data

    def wake_sender(self) -> None:
        if self.proceed is not None:
            self.stalled = False
            self.sender.wire.at(trio.current_time(), self.sender.host, self.proceed)

    async def news(self, timeout_s: float) -> None:
        self._news = trio.Event()
        with trio.move_on_after(timeout_s) as stall:
            await self._news.wait()
        if stall.cancelled_caught:
            raise NoAnswer(f"{self.sender.me} sent nothing for {timeout_s:g} s")

    def head(self, total: int | None) -> None:
        self.total = total
        self.not_held = total is None
        self._news.set()

    def land(self, data: bytes) -> None:
        self._chunks.append(data)
        self._news.set()

    def broken(self) -> None:
        self.closed = True
        self._news.set()


class OwnBlob:
    """Our own blob, read without the network."""

    def __init__(self, source: BlobSource, digest: Digest, size: int, offset: int) -> None:
        self.size = size
        self._source = source
        self._digest = digest
        self._offset = offset

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._source.read(self._digest, self._offset, limits.CHUNK_BYTES)
        if not data and self._offset < self.size:
            raise NoAnswer("our own blob has gone")
        self._offset += len(data)
        return data


class Want(Carried):
    __slots__ = ("stream",)
    kind = "want"

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.link, stream.receiver, WANT_BYTES + REQUEST_OVERHEAD_BYTES)
        self.stream = stream


class _Downstream(Carried):
    """From the sender of a blob to its receiver."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream, size: int) -> None:
        super().__init__(stream.link, stream.sender, size)
        self.stream = stream
        self.delay_s = stream.delay_s


class Head(_Downstream):
    """What the blob measures, or that it is not held."""

    __slots__ = ("total",)
    kind = "head"

    def __init__(self, stream: Stream, total: int | None) -> None:
        super().__init__(stream, 8 + REQUEST_OVERHEAD_BYTES)
        self.total = total


class Chunk(_Downstream):
    __slots__ = ("data",)
    kind = "chunk"

    def __init__(self, stream: Stream, data: bytes) -> None:
        super().__init__(stream, len(data) + CHUNK_OVERHEAD_BYTES)
        self.data = data


class Reset(_Downstream):
    __slots__ = ()
    kind = "reset"

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, FAREWELL_BYTES)


class Bulk:
    def __init__(self, endpoint: Endpoint) -> None:
        self.sent = 0  # payload bytes
        self.received = 0
        self._endpoint = endpoint
        self._source: BlobSource | None = None
        self._may_fetch: MayFetch = to_anybody
        self._receiving: list[Stream] = []
        self._sending: list[Stream] = []
        endpoint.on(Want, self._wanted)
        endpoint.on(Head, lambda head: head.stream.head(head.total))
        endpoint.on(Chunk, self._landed)
        endpoint.on(Reset, lambda reset: reset.stream.broken())
        endpoint.on_down(self._broken)

    def serve(self, source: BlobSource, may_fetch: MayFetch) -> None:
        self._source, self._may_fetch = source, may_fetch

    # -- receiving ----------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def fetch(self, link: Link, digest: Digest, offset: int) -> AsyncIterator[BlobStream]:
        delay_s = self._endpoint.wire.draw_delay_s(link.far(self._endpoint).host, self._endpoint.me)
        stream = Stream(link, self._endpoint, digest, offset, delay_s)
        self._receiving.append(stream)
        try:
            self._endpoint.wire.send(Want(stream))
            await stream.news(self._endpoint.wire.conditions.open_s)
            if stream.closed:
                raise NoAnswer(f"{stream.sender.me} broke off")
            if stream.not_held:
                raise NotHeld(f"{stream.sender.me} does not hold that blob from byte {offset}")
            yield stream
        finally:
            stream.closed = True
            self._receiving.remove(stream)
            if stream.stalled:
                stream.wake_sender()

    def own(self, digest: Digest, offset: int) -> OwnBlob:
        """Our own blob, without the network. Raises NotHeld."""
        size = self._source.size(digest) if self._source is not None else None
        if self._source is None or size is None or not 0 <= offset <= size:
            raise NotHeld(f"we do not hold that blob from byte {offset}")
        return OwnBlob(self._source, digest, size, offset)

    def _landed(self, chunk: Chunk) -> None:
        self.received += len(chunk.data)
        chunk.stream.land(chunk.data)

    def _broken(self, link: Link) -> None:
        for stream in self._receiving:
            if stream.link is link:
                stream.broken()
        self._sending = [stream for stream in self._sending if stream.link is not link]

    # -- sending ------------------------------------------------------------------------------------------------------
    def _wanted(self, want: Want) -> None:
        stream = want.stream
        to_it = sum(other.receiver is stream.receiver for other in self._sending)
        if to_it >= limits.INBOUND_FETCHES_PER_PEER or len(self._sending) >= limits.INBOUND_FETCHES:
            self._endpoint.wire.send(Reset(stream))
            return
        allowed = self._source is not None and self._may_fetch(stream.receiver.me, stream.digest)
        size = self._source.size(stream.digest) if self._source is not None and allowed else None
        held = size is not None and 0 <= stream.offset <= size
        self._endpoint.wire.send(Head(stream, size if held else None))
        if held:
            stream.total = size
            stream.proceed = partial(self._send_next, stream)
            self._sending.append(stream)
            self._send_next(stream)

    def _send_next(self, stream: Stream) -> None:
        """One chunk; the next follows when it has left, so that others get their turn."""
        if stream not in self._sending:
            return
        conditions = self._endpoint.wire.conditions
        stream.stalled = stream.unread >= conditions.window_bytes and not stream.closed
        if stream.stalled:
            return
        data = self._read(stream, min(conditions.chunk_bytes, stream.size - stream.offset))
        ended = not data and stream.offset == stream.size
        if stream.closed or not data:
            self._sending.remove(stream)
        if data or ended:
            left_s = self._send_chunk(stream, data)
            self._endpoint.wire.at(left_s, self._endpoint.host, partial(self._send_next, stream))
        elif not stream.closed:
            self._endpoint.wire.send(Reset(stream))  # the blob has gone meanwhile

    def _read(self, stream: Stream, length: int) -> bytes:
        if stream.closed or self._source is None or length == 0:
            return b""
        return self._source.read(stream.digest, stream.offset, length)

    def _send_chunk(self, stream: Stream, data: bytes) -> float:
        stream.offset += len(data)
        stream.unread += len(data)
        self.sent += len(data)
        return self._endpoint.wire.send(Chunk(stream, data))
