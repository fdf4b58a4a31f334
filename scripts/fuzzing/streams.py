"""Doors that are streams: a peer's request for a blob, a peer's answer to ours, and raw bytes at the status server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamEOF

from fuzzing.watch import Door
from gossipnode.net.libp2p.addresses import peer_id
from gossipnode.net.libp2p.bulk import ASK, REPLY, Bulk
from gossipnode.net.libp2p.faults import Faults
from gossipnode.net.libp2p.sockets import Tally
from gossipnode.status.http import serve_status
from gossipnode.status.report import NodeStatus, Status
from protocols.signatures import Signer
from protocols.transport import NoAnswer, NotHeld
from verify.digest import Digest, digest_of

BLOB = bytes(3000)
OFFSET = 10  # from which we ask
PEER = Signer.from_seed(bytes(32)).peer
ANSWER_S = 5.0  # in which the status server has answered a good question
SILENCE_S = 0.05  # after which it is taken to have nothing to say to a bad one: it waits for more


class HeardStream:
    """A peer that has said `data` and closed its side."""

    def __init__(self, data: bytes) -> None:
        self._left = data
        self.said = b""
        self.muxed_conn = SimpleNamespace(peer_id=peer_id(PEER))

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StreamEOF
        found, self._left = self._left[:n], self._left[len(self._left[:n]) :]
        return found

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.said += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


class OneBlob:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return len(BLOB) if digest == digest_of(BLOB) else None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        assert 0 <= offset <= len(BLOB)
        return BLOB[offset : offset + length]


class Host:
    def set_stream_handler(self, protocol: str, handler: object) -> None:
        pass


def _bulk() -> Bulk:
    bulk = Bulk(cast("Any", Host()), Tally(), Faults())
    bulk.serve(OneBlob())
    return bulk


def ask_door() -> Door:
    examples = [ASK.pack(digest_of(BLOB), 0), ASK.pack(digest_of(BLOB), 1000), ASK.pack(bytes(32), 0)]

    def enter(data: bytes) -> None:
        stream = HeardStream(data)
        trio.run(_bulk()._serve, cast("INetStream", stream))
        assert len(stream.said) <= REPLY.size + len(BLOB)

    return Door("ask", examples, enter, (), cost=10.0)


def reply_door() -> Door:
    examples = [REPLY.pack(0, len(BLOB)) + BLOB[OFFSET:], REPLY.pack(1, 0), REPLY.pack(2, 0), REPLY.pack(0, 2**40)]

    def enter(data: bytes) -> None:
        trio.run(_take_reply, data)

    return Door("reply", examples, enter, (NoAnswer, NotHeld), cost=10.0)


async def _take_reply(data: bytes) -> None:
    reply = data[: REPLY.size].ljust(REPLY.size, b"\0")  # it is read exactly
    stream = cast("INetStream", HeardStream(data[REPLY.size :]))
    remote = _bulk()._accept(PEER, digest_of(BLOB), OFFSET, reply, stream)
    while await remote.receive_some():
        assert remote.left >= 0


def http_door() -> Door:
    examples = [
        b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"POST /status?history=3 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /metrics HTTP/1.1\r\nHost: [::1]:1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    tokens = [
        b"HTTP/1.1\r\n",
        b"Host: ",
        b"Content-Length: 99999999999999999999\r\n",
        b"Expect: 100-continue\r\n",
        b"h2c",
    ]
    return Door("http", examples, lambda data: trio.run(_say_to_server, data), (), tokens, cost=40.0)


async def _say_to_server(data: bytes) -> None:
    """It may answer anything or nothing, and afterwards answers others."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_status, lambda: Status(node=NodeStatus(peer="me")), "127.0.0.1:0", None)
        port = int(url.rpartition(":")[2])
        with trio.move_on_after(SILENCE_S):
            await _said_back(port, data)
        with trio.fail_after(ANSWER_S):
            healthy = await _said_back(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert healthy.startswith(b"HTTP/1.1 200"), healthy[:100]
        nursery.cancel_scope.cancel()


async def _said_back(port: int, data: bytes) -> bytes:
    heard = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(data)
            await stream.send_eof()
            async for piece in stream:
                heard += piece
        except trio.BrokenResourceError:  # it hung up first
            pass
    return heard
