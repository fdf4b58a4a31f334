"""Streams over real sockets that are broken off, never closed, or filled beyond their window: the link survives what is
nobody's fault, nothing of them stays behind, and who sends more than it may loses the link."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_DATA, YAMUX_HEADER_FORMAT

from gossipnode.net.libp2p import addresses, bulk, quick
from gossipnode.net.libp2p.guards import BROKEN
from gossipnode.net.libp2p.questions import PROTOCOL as ASK
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from protocols import limits
from protocols.transport import LinkDown, LinkUp, NotHeld, TransportError
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

ABSENT = digest_of(b"nobody holds this")
BLOB = bytes(4 * limits.MIB)


class Shelf:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return len(BLOB) if digest == digest_of(BLOB) else None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        return BLOB[offset : offset + length]


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Libp2pTransport, Libp2pTransport]]:
    with trio.fail_after(20):
        async with open_libp2p(b"1" * 32) as asker, open_libp2p(b"2" * 32) as other:
            for node in (asker, other):
                node.serve(echo, Shelf())
            await asker.dial(other.addresses()[0])
            yield asker, other


def muxer(node: Libp2pTransport) -> Any:  # noqa: ANN401  # py-libp2p's, by its attributes
    (conn,) = node._pubsub.host.get_network().get_connections()
    return conn.muxed_conn


async def open_to(node: Libp2pTransport, other: Libp2pTransport, protocol: TProtocol) -> Any:  # noqa: ANN401  # as above
    return await node._pubsub.host.new_stream(addresses.peer_id(other.me), [protocol])


async def quiet(node: Libp2pTransport) -> int:
    """Streams of a node's only link once nothing but gossip is left on it."""
    with trio.move_on_after(3):
        while len(muxer(node).streams) > 2:  # noqa: ASYNC110  # yamux has no event for it
            await trio.sleep(0.01)
    return len(muxer(node).streams)


async def fetch_some(asker: Libp2pTransport, other: Libp2pTransport, digest: Digest) -> None:
    async with asker.fetch(other.me, digest) as stream:
        while await stream.receive_some():
            pass


async def refused(asker: Libp2pTransport, other: Libp2pTransport) -> None:
    with pytest.raises(NotHeld):
        await fetch_some(asker, other, ABSENT)


async def abandoned(asker: Libp2pTransport, other: Libp2pTransport) -> None:
    await fetch_some(asker, other, digest_of(BLOB))


async def asked(asker: Libp2pTransport, other: Libp2pTransport) -> None:
    await asker.request(other.me, bytes(200_000), timeout_s=5)


Deed = Callable[[Libp2pTransport, Libp2pTransport], Awaitable[None]]


@pytest.mark.parametrize("deed", [refused, abandoned, asked])
async def test_what_is_cancelled_at_any_moment_costs_neither_the_link_nor_a_stream(deed: Deed) -> None:
    rng = random.Random(7)
    async with pair() as (asker, other), asker.links() as changes:

        async def cut_short() -> None:
            with trio.move_on_after(rng.random() * 0.02):
                with suppress(TransportError):
                    await deed(asker, other)

        for _ in range(15):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(cut_short)
        assert await asker.request(other.me, b"still", timeout_s=5) == b"still"
        assert await quiet(asker) <= 2
        assert await quiet(other) <= 2
        seen: list[LinkUp | LinkDown] = []
        while changes.statistics().current_buffer_used:
            seen.append(changes.receive_nowait())
        assert seen == [LinkUp(other.me)]


async def test_streams_that_the_asker_never_closes_leave_nothing_behind() -> None:
    async with pair() as (asker, other):
        for _ in range(100):
            stream = await open_to(asker, other, ASK)
            await stream.write(b"\x03\x00hi")
            await stream.read(4)
        assert await quiet(other) <= 2
        assert await asker.request(other.me, b"still", timeout_s=5) == b"still"


async def test_a_question_with_a_tail_leaves_nothing_behind() -> None:
    async with pair() as (asker, other):
        for _ in range(10):
            stream = await open_to(asker, other, ASK)
            await stream.write(b"\x03\x00hi" + bytes(200_000))
        assert await asker.request(other.me, b"still", timeout_s=5) == b"still"
        assert await quiet(other) <= 2
        assert sum(map(len, muxer(other).stream_buffers.values())) == 0


async def test_who_overfills_a_window_loses_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "OPEN_S", 60.0)
    async with pair() as (asker, other), other.links() as changes:
        stream = await open_to(asker, other, bulk.PROTOCOL)  # whoever serves it reads 40 bytes, and not yet
        muxed, sent = muxer(asker), 0
        frame = bytes(60_000)
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream.muxed_stream.stream_id, len(frame))
        monkeypatch.setattr(other._bulk, "_reply", _never)
        with suppress(*BROKEN):
            while sent < 50 * limits.MIB:
                await muxed._write_frame(header + frame)
                sent += len(frame)
        assert sent < 10 * limits.MIB  # what the sockets' own buffers hold
        assert [await changes.receive(), await changes.receive()] == [LinkUp(asker.me), LinkDown(asker.me)]


async def _never(*_: object, **__: object) -> None:
    await trio.sleep_forever()


async def test_a_frame_of_sixteen_megabytes_loses_the_link() -> None:
    async with pair() as (asker, other), other.links() as changes:
        await changes.receive()
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, FLAG_SYN, 9999, quick.FRAME_BYTES + 1)
        await muxer(asker)._write_frame(header)
        assert await changes.receive() == LinkDown(asker.me)
