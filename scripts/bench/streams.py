"""The same bytes three ways between two processes: our exchange, a bare libp2p stream, a bare TCP connection.

`python -m bench.streams FOLDER BYTES` is the sending side: it puts a blob of random bytes into a store, serves it in
all three ways, says where on one line of JSON, and ends when its input does. The bare stream is py-libp2p's own host
with noise and yamux as it comes, one stream, no digest and no disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no stubs

from gossipnode.net.libp2p.transport import open_libp2p
from gossipnode.store import FileBlobs
from protocols import limits
from protocols.exchange import ModelExchange
from protocols.transport import Transport
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind

BARE = TProtocol("/bench/bytes/1")
GO = b"!"
STORE_BYTES = 64 * 1024 * limits.MIB
Way = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Where:
    """What the sending side says of itself."""

    digest: str
    ours: str  # multiaddress
    bare: str  # multiaddress
    tcp: int  # port


# -- sending ----------------------------------------------------------------------------------------------------------


async def send(folder: Path, size: int) -> None:
    data = os.urandom(size)
    blobs = FileBlobs(folder, STORE_BYTES)
    digest = await blobs.put(data)
    async with open_libp2p(os.urandom(32)) as transport, bare_host() as host, trio.open_nursery() as nursery:
        transport.serve(nobody_asks, blobs)
        host.set_stream_handler(BARE, lambda stream: _send_bare(stream, data))
        listeners = await nursery.start(trio.serve_tcp, lambda stream: _send_tcp(stream, data), 0)
        where = {
            "digest": digest.hex(),
            "ours": transport.addresses()[0],
            "bare": str(host.get_addrs()[0]),
            "tcp": listeners[0].socket.getsockname()[1],
        }
        print(json.dumps(where), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def nobody_asks(peer: PeerId, frame: bytes) -> bytes:
    raise AssertionError("no question is part of this")


async def _send_bare(stream: INetStream, data: bytes) -> None:
    await stream.read(len(GO))
    for at in range(0, len(data), limits.CHUNK_BYTES):
        await stream.write(data[at : at + limits.CHUNK_BYTES])
    await stream.close()


async def _send_tcp(stream: trio.SocketStream, data: bytes) -> None:
    async for _ in stream:
        await stream.send_all(data)


@asynccontextmanager
async def bare_host() -> AsyncIterator[IHost]:
    host = new_host()
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host


# -- receiving --------------------------------------------------------------------------------------------------------


@contextmanager
def sender(folder: Path, size: int) -> Iterator[Where]:
    """The sending side as a process of its own."""
    command = [sys.executable, "-m", "bench.streams", str(folder), str(size)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent, text=True
    ) as process:  # leaving closes its input, and waits
        assert process.stdout is not None
        yield Where(**json.loads(process.stdout.readline()))


@asynccontextmanager
async def ways(where: Where, folder: Path, size: int) -> AsyncIterator[dict[str, Way]]:
    """By name, each fetches the bytes once; connections are made before."""
    async with open_libp2p(os.urandom(32)) as transport, bare_host() as host:
        transport.serve(nobody_asks, FileBlobs(folder / "unused", STORE_BYTES))
        peer = await transport.dial(where.ours)
        info = info_from_p2p_addr(Multiaddr(where.bare))
        await host.connect(info)
        tcp = await trio.open_tcp_stream("127.0.0.1", where.tcp)
        digest = Digest(bytes.fromhex(where.digest))

        async def exchange() -> None:
            await _exchange(transport, folder / "received", digest, size, peer)

        async def stream() -> None:
            async with transport.fetch(peer, digest) as blob:
                while await blob.receive_some():
                    pass

        async def bare() -> None:
            stream = await host.new_stream(info.peer_id, [BARE])
            await stream.write(GO)
            left = size
            while left:
                left -= len(await stream.read(min(left, limits.CHUNK_BYTES)))
            await stream.close()

        async def raw() -> None:
            await tcp.send_all(GO)
            left = size
            while left:
                left -= len(await tcp.receive_some(limits.CHUNK_BYTES))

        yield {"exchange": exchange, "our stream": stream, "bare stream": bare, "raw TCP": raw}
        await tcp.aclose()


async def _exchange(transport: Transport, folder: Path, digest: Digest, size: int, peer: PeerId) -> None:
    """Into an empty store, durably."""

    def accuse(peer: PeerId, kind: OffenceKind, detail: str) -> None:
        raise AssertionError(detail)

    await ModelExchange(transport, FileBlobs(folder, STORE_BYTES), size, accuse).obtain(digest, [peer])


async def timed(way: Way, folder: Path) -> float:
    """Seconds; what was stored is removed afterwards."""
    began = time.monotonic()
    await way()
    seconds = time.monotonic() - began
    await trio.to_thread.run_sync(lambda: rmtree(folder / "received", ignore_errors=True))
    return seconds


if __name__ == "__main__":
    trio.run(send, Path(sys.argv[1]), int(sys.argv[2]))
