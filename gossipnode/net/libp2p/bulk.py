"""Blobs by digest over a stream of their own: `/gossipnode/blob/1`.

Asked: digest (32 bytes), offset (8, big-endian). Answered: status (1 byte), size of the whole blob (8); if held, its
bytes from the offset follow, then the stream closes. Nothing is checked here but the number of bytes; digests are
`protocols.exchange`'s. A side that stalls loses the stream, never more.
"""

from __future__ import annotations

import enum
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.network.stream.exceptions import StreamEOF

from gossipnode.net.libp2p.addresses import name_of, peer_id
from gossipnode.net.libp2p.faults import Faults, one_line
from gossipnode.net.libp2p.guards import BROKEN, finish, reset
from gossipnode.net.libp2p.sockets import Tally
from protocols import limits
from protocols.rates import Admission, Grant
from protocols.transport import BlobSource, BlobStream, MayFetch, NoAnswer, NotHeld, to_anybody
from sampling.peers import PeerId
from verify.digest import DIGEST_BYTES, Digest, short

log = logging.getLogger("gossipnode.net")

PROTOCOL: Final = TProtocol("/gossipnode/blob/1")
ASK: Final = struct.Struct(f">{DIGEST_BYTES}sQ")
REPLY: Final = struct.Struct(">BQ")
OPEN_S: Final = 5.0  # to open, ask and be told the size: a few round trips
IDLE_S: Final = 10.0  # without a byte from the sender; twice what yamux itself grants a receiver that does not read
FRAME_BYTES: Final = (
    65_535 - 16 - 12
)  # fills one noise message, with its tag and yamux's header: yamux alone overfills it
CHUNK_S: Final = 60.0  # for one chunk to leave: 17 kB/s, below which yamux gives up anyway


class Status(enum.IntEnum):
    HELD = 0
    NOT_HELD = 1
    BUSY = 2


class Remote:
    """A blob on its way from a peer."""

    def __init__(self, stream: INetStream, peer: PeerId, size: int, offset: int, tally: Tally) -> None:
        self.size = size
        self.left = size - offset
        self._stream = stream
        self._peer = peer
        self._tally = tally

    async def receive_some(self) -> bytes:
        if not self.left:
            await trio.lowlevel.checkpoint()
            return b""
        data = await self._read()
        if not data or len(data) > self.left:
            raise NoAnswer(f"{self._peer} broke off with {self.left} bytes to go")
        self.left -= len(data)
        self._tally.blob_received += len(data)
        return data

    async def _read(self) -> bytes:
        with trio.move_on_after(IDLE_S):
            try:
                return await self._stream.read(min(self.left, limits.CHUNK_BYTES))
            except StreamEOF:  # the same end as b"", on a half-closed stream
                return b""
            except BROKEN as error:
                raise NoAnswer(f"{self._peer} broke off: {one_line(error)}") from error
        raise NoAnswer(f"{self._peer} sent nothing for {IDLE_S:g} s")


class Local:
    """Our own blob, for a node that asks itself."""

    def __init__(self, blobs: BlobSource, digest: Digest, size: int, offset: int) -> None:
        self.size = size
        self._blobs = blobs
        self._digest = digest
        self._offset = offset

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._blobs.read(self._digest, self._offset, limits.CHUNK_BYTES)
        if not data and self._offset < self.size:
            raise NoAnswer(f"our own blob {short(self._digest)} has gone")
        self._offset += len(data)
        return data


class Bulk:
    def __init__(self, host: BasicHost, tally: Tally, faults: Faults) -> None:
        self._host = host
        self._tally = tally
        self._faults = faults
        self._admission = Admission[PeerId](limits.INBOUND_FETCHES_PER_PEER, limits.INBOUND_FETCHES)
        self._blobs: BlobSource | None = None
        self._may_fetch: MayFetch = to_anybody

    # -- serving ------------------------------------------------------------------------------------------------------

    def serve(self, blobs: BlobSource, may_fetch: MayFetch = to_anybody) -> None:
        self._blobs, self._may_fetch = blobs, may_fetch
        self._host.set_stream_handler(PROTOCOL, self._serve)

    async def _serve(self, stream: INetStream) -> None:
        try:
            with trio.fail_after(OPEN_S):
                digest, offset = ASK.unpack(await read_exactly(stream, ASK.size))
            peer = name_of(stream.muxed_conn.peer_id)
            with self._admission.admitted(peer) as admitted:
                await self._reply(stream, peer, Digest(digest), offset, admitted=admitted is Grant.YES)
            await stream.close()
        except (trio.TooSlowError, *BROKEN) as error:
            log.debug("serving a blob ended: %s", one_line(error))
            await reset(stream)

    async def _reply(self, stream: INetStream, peer: PeerId, digest: Digest, offset: int, *, admitted: bool) -> None:
        assert self._blobs is not None
        await self._blobs.prove(digest)
        size = self._blobs.size(digest) if self._may_fetch(peer, digest) else None
        with trio.fail_after(CHUNK_S):
            if not admitted:
                await stream.write(REPLY.pack(Status.BUSY, 0))
                return
            if size is None or offset > size:
                await stream.write(REPLY.pack(Status.NOT_HELD, 0))
                return
            await stream.write(REPLY.pack(Status.HELD, size))
        await self._send(stream, digest, offset, size)

    async def _send(self, stream: INetStream, digest: Digest, offset: int, size: int) -> None:
        assert self._blobs is not None
        while offset < size:
            chunk = self._blobs.read(digest, offset, min(limits.CHUNK_BYTES, size - offset))
            if not chunk:
                raise IncompleteReadError("the blob has gone meanwhile")
            with trio.fail_after(CHUNK_S):
                await stream.write(chunk)
            offset += len(chunk)
            self._tally.blob_sent += len(chunk)

    # -- fetching -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def fetch(self, peer: PeerId, digest: Digest, offset: int) -> AsyncIterator[BlobStream]:
        """Over an existing link. Raises NoAnswer or NotHeld on entry."""
        stream: INetStream | None = None
        remote: Remote | None = None
        try:
            with trio.move_on_after(OPEN_S):
                stream = await self._host.new_stream(peer_id(peer), [PROTOCOL])
                await stream.write(ASK.pack(digest, offset))
                remote = self._accept(peer, digest, offset, await read_exactly(stream, REPLY.size), stream)
            if remote is None:
                raise NoAnswer(f"{peer} did not answer within {OPEN_S:g} s")
        except BROKEN as error:
            await _end(stream, finished=False)
            raise NoAnswer(f"{peer} broke off: {one_line(error)}") from error
        except BaseException:
            await _end(stream, finished=False)
            raise
        try:
            yield remote
        finally:
            await _end(stream, finished=not remote.left)

    def _accept(self, peer: PeerId, digest: Digest, offset: int, reply: bytes, stream: INetStream) -> Remote:
        status, size = REPLY.unpack(reply)
        if status == Status.NOT_HELD:
            raise NotHeld(f"{peer} does not hold {short(digest)} from byte {offset}")
        if status == Status.BUSY:
            raise NoAnswer(f"{peer} is busy")
        if status != Status.HELD or not offset <= size <= limits.BLOB_BYTES:
            self._faults.note(peer, "garbage", f"blob status {status}, size {size}")
            raise NoAnswer(f"{peer} answered nonsense")
        return Remote(stream, peer, size, offset, self._tally)

    @asynccontextmanager
    async def fetch_my_own(self, digest: Digest, offset: int) -> AsyncIterator[BlobStream]:
        await trio.lowlevel.checkpoint()
        size = None if self._blobs is None else self._blobs.size(digest)
        if self._blobs is None or size is None or offset > size:
            raise NotHeld(f"we do not hold {short(digest)} from byte {offset}")
        yield Local(self._blobs, digest, size, offset)


async def _end(stream: INetStream | None, *, finished: bool) -> None:
    """Close what was read to its end, reset what was not: the sender must not go on."""
    if stream is not None:
        await (finish if finished else reset)(stream)
