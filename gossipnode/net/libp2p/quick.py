"""libp2p's connections with fewer turns of the event loop and fewer frames, within what the specifications say.

* Locks: trio's yields even if it is free, and py-libp2p takes a hundred of them for one question and its answer: a
  hundred turns of the event loop, each with a system call. Ours yields only if it must wait, and now and then.
* Yamux, reading: py-libp2p tells the sender of every few bytes that were read, here of every half window, as go-yamux.
* Yamux, writing: a frame fills one noise message (py-libp2p's is 17 bytes longer and takes two), and a writer whose
  window is used up is woken when it opens, not up to 10 ms later. A frame that was begun is written to its end,
  whoever is cancelled: half a frame, or one that noise has counted and nobody sent, would end the whole link.
* A peer that sends more than its window allows loses the link: py-libp2p would go on buffering.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import ISecureConn
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection import swarm_connection
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, TYPE_DATA, YAMUX_HEADER_FORMAT, Yamux, YamuxStream

from protocols.limits import KIB, MIB

INBOUND_WINDOW_BYTES: Final = MIB  # of a stream that the peer opened: nothing big comes in on one
FRAME_BYTES: Final = 4 * MIB  # of any implementation that keeps to its window; libp2p's own limit is 16 MiB
YIELD_EVERY: Final = 32  # times that a lock is taken: about a millisecond of work
PAYLOAD_BYTES: Final = 65_535 - 16 - HEADER_SIZE  # of a frame: a noise message less its tag and yamux's header
STALL_S: Final = 5.0  # a peer that reads nothing for so long has stopped; py-libp2p's own patience
WRITE_S: Final = 20.0  # for one frame to leave: 3 kB/s, and as long as a silent link is kept
SLACK_BYTES: Final = 256 * KIB  # beyond a window before the peer is a liar and not only bad at counting
LOOK_S: Final = 0.1  # a closed stream opens no window: how often a waiting writer looks for that


class TooMuch(trio.TooSlowError):
    """The peer sends more than it may. By this kind of error, and by no other, yamux ends a connection."""


class Lock:
    """First come, first served."""

    def __init__(self) -> None:
        self._inner = trio.Lock()
        self._taken = 0

    async def __aenter__(self) -> None:
        self._taken += 1
        if self._taken % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        try:
            self._inner.acquire_nowait()
        except trio.WouldBlock:
            await self._inner.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._inner.release()


class QuickYamuxStream(YamuxStream):
    def __init__(self, stream_id: int, conn: Yamux, is_initiator: bool) -> None:
        self._opened = trio.Event()
        self._recv_window = 0
        self.conn = conn  # before its own: the setters below look at it
        self.stream_id = stream_id
        self.is_initiator = is_initiator
        super().__init__(stream_id, conn, is_initiator)
        self.window_lock = Lock()  # type: ignore[assignment]  # used as a context manager only
        self.close_lock = Lock()  # type: ignore[assignment]  # as above
        self._writing = Lock()

    @property
    def recv_window(self) -> int:
        """Bytes that the peer may still send."""
        return self._recv_window

    @recv_window.setter
    def recv_window(self, size: int) -> None:
        if size < 0 and len(self.conn.stream_buffers.get(self.stream_id, b"")) > self.target_recv_window + SLACK_BYTES:
            raise TooMuch(f"{self.conn.peer_id} fills a window that is closed")
        self._recv_window = size

    @property
    def target_recv_window(self) -> int:
        """To what the window is opened again. It grows while the reader keeps up."""
        return self._target_recv_window

    @target_recv_window.setter
    def target_recv_window(self, size: int) -> None:
        self._target_recv_window = size if self.is_initiator else min(size, INBOUND_WINDOW_BYTES)

    @property
    def send_window(self) -> int:
        """Bytes that the peer still takes."""
        return self._send_window

    @send_window.setter
    def send_window(self, size: int) -> None:
        self._send_window = size
        if size > 0:
            self._opened.set()

    async def write(self, data: bytes) -> None:
        """One writer at a time. Raises MuxedStreamError."""
        view = memoryview(data)
        async with self._writing:
            while view:
                await self._writable()
                size = min(self.send_window, PAYLOAD_BYTES, len(view))
                self.send_window -= size
                header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, self.stream_id, size)
                await self.conn._write_frame(header + view[:size])
                view = view[size:]

    async def _writable(self) -> None:
        with trio.move_on_after(STALL_S):
            while not (self.send_closed or self.closed):
                if self.send_window > 0:
                    return
                self._opened = trio.Event()
                with trio.move_on_after(LOOK_S):
                    await self._opened.wait()
            raise MuxedStreamError("Stream is closed for sending")
        raise MuxedStreamError(f"Timed out waiting for window update after {STALL_S:g} seconds.")

    async def forget(self) -> None:
        """Nobody reads or writes it any more: keep nothing for it, whatever the peer does with its end."""
        async with self.conn.streams_lock:
            self.closed = self.send_closed = self.recv_closed = True
            self.conn._finalize_stream_locked(self, fully_closed=False)
            self.conn.streams.pop(self.stream_id, None)
            self.conn.stream_buffers.pop(self.stream_id, None)
            if (event := self.conn.stream_events.pop(self.stream_id, None)) is not None:
                event.set()

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        unread = len(self.conn.stream_buffers.get(self.stream_id, b""))
        if 2 * (self.recv_window + unread) <= self.target_recv_window:
            await super()._auto_tune_and_send_window_update(bytes_read=bytes_read)


class QuickYamux(Yamux):
    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator, on_close)
        self.streams_lock = Lock()  # type: ignore[assignment]  # used as a context manager only
        self._write_lock = Lock()  # type: ignore[assignment]  # as above

    async def open_stream(self) -> YamuxStream:
        """Raises MuxedStreamError. Whoever is cancelled has opened none: half a one would keep its place for ever."""
        await self.stream_backlog_semaphore.acquire()
        self.stream_backlog_semaphore.release()  # for what follows, which is not to be cancelled, to take
        with trio.CancelScope(shield=True):
            return await super().open_stream()

    async def _read_data_body(self, length: int) -> bytes:
        if length > FRAME_BYTES:
            raise TooMuch(f"{self.peer_id} announces a frame of {length} bytes")
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        """Raises MuxedConnError, besides what a broken connection raises."""
        async with self._write_lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_S) as begun:
                await self.secured_conn.write(data)
            if begun.cancelled_caught:
                await self.secured_conn.close()
                raise MuxedConnError(f"{self.peer_id} has read nothing for {WRITE_S:g} s")
            # Not a place to be cancelled: what the frame says has been said, and the caller must note it.
            await trio.lowlevel.cancel_shielded_checkpoint()


class QuickStream(NetStream):
    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # NetStream's own
        super().__init__(*args, **options)
        self._state_lock = Lock()  # type: ignore[assignment]  # as above


def tcp_stream(wire: Any) -> TrioTCPStream:  # noqa: ANN401  # a Wire, by its methods
    stream = TrioTCPStream(wire)
    stream.read_lock = Lock()  # type: ignore[assignment]  # as above
    stream.write_lock = Lock()  # type: ignore[assignment]  # as above
    return stream


def quicken() -> None:
    """libp2p makes connections and streams by these names of its modules, whatever classes it is given."""
    setattr(muxer_multistream, "Yamux", QuickYamux)  # noqa: B010  # not exported
    setattr(yamux, "YamuxStream", QuickYamuxStream)  # noqa: B010  # as above
    setattr(swarm_connection, "NetStream", QuickStream)  # noqa: B010  # as above
