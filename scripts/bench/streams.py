"""The same bytes by our exchange, by our stream alone, by a bare libp2p stream and by TCP, each between two processes.

`python -m bench.streams FOLDER BYTES` is our sending side: it puts a blob of random bytes into a store, serves it, says
where on one line of JSON, and ends when its input does. The bare stream has processes of its own (`bare`), because our
transport changes libp2p where it is loaded.
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

from gossipnode.net.libp2p.transport import open_libp2p
from gossipnode.store import FileBlobs
from protocols import limits
from protocols.exchange import ModelExchange
from protocols.transport import Transport
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind

GO = b"!"
STORE_BYTES = 64 * 1024 * limits.MIB
SCRIPTS = Path(__file__).parent.parent
Way = Callable[[], Awaitable[float]]  # fetches the bytes once, and says how many seconds that took


@dataclass(frozen=True, slots=True)
class Where:
    """What our sending side says of itself."""

    digest: str
    address: str
    tcp: int  # port


# -- sending ----------------------------------------------------------------------------------------------------------


async def send(folder: Path, size: int) -> None:
    data = os.urandom(size)
    blobs = FileBlobs(folder, STORE_BYTES)
    digest = await blobs.put(data)

    async def send_tcp(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(data)

    async with open_libp2p(os.urandom(32)) as transport, trio.open_nursery() as nursery:
        transport.serve(nobody_asks, blobs)
        listeners = await nursery.start(trio.serve_tcp, send_tcp, 0)
        port = listeners[0].socket.getsockname()[1]
        print(json.dumps({"digest": digest.hex(), "address": transport.addresses()[0], "tcp": port}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def nobody_asks(peer: PeerId, frame: bytes) -> bytes:
    raise AssertionError("no question is part of this")


# -- receiving --------------------------------------------------------------------------------------------------------


@contextmanager
def spawned(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that we talk to by lines; it ends when its input does."""
    with subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=SCRIPTS, text=True, bufsize=1
    ) as process:
        yield process


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def bare(size: int) -> Iterator[Callable[[], float]]:
    """A bare stream between two processes; each call is one turn."""
    with (
        spawned("bench/bare.py", "send", str(size)) as sender,
        spawned("bench/bare.py", "receive", str(size), line_of(sender)) as receiver,
    ):

        def turn() -> float:
            assert receiver.stdin is not None
            receiver.stdin.write("go\n")
            return float(line_of(receiver))

        yield turn


@asynccontextmanager
async def ways(folder: Path, size: int) -> AsyncIterator[dict[str, Way]]:
    """By name. Connections are made before."""
    with spawned("-m", "bench.streams", str(folder / "there"), str(size)) as sender, bare(size) as bare_turn:
        where = Where(**json.loads(line_of(sender)))
        async with open_libp2p(os.urandom(32)) as transport:
            transport.serve(nobody_asks, FileBlobs(folder / "unused", STORE_BYTES))
            ours = Ours(transport, await transport.dial(where.address), Digest(bytes.fromhex(where.digest)), size)
            tcp = await trio.open_tcp_stream("127.0.0.1", where.tcp)

            async def raw() -> None:
                await tcp.send_all(GO)
                left = size
                while left:
                    left -= len(await tcp.receive_some(limits.CHUNK_BYTES))

            yield {
                "exchange": lambda: ours.exchange(folder / "here"),
                "our stream": lambda: timed(ours.stream()),
                "bare stream": lambda: trio.to_thread.run_sync(bare_turn),
                "raw TCP": lambda: timed(raw()),
            }


async def timed(way: Awaitable[None]) -> float:
    began = time.monotonic()
    await way
    return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Ours:
    transport: Transport
    peer: PeerId
    digest: Digest
    size: int

    async def exchange(self, folder: Path) -> float:
        """Into an empty store."""

        def accuse(peer: PeerId, kind: OffenceKind, detail: str) -> None:
            raise AssertionError(detail)

        exchange = ModelExchange(self.transport, FileBlobs(folder, STORE_BYTES), self.size, accuse)
        seconds = await timed(exchange.obtain(self.digest, [self.peer]))
        await trio.to_thread.run_sync(rmtree, folder)
        return seconds

    async def stream(self) -> None:
        async with self.transport.fetch(self.peer, self.digest) as blob:
            while await blob.receive_some():
                pass


if __name__ == "__main__":
    trio.run(send, Path(sys.argv[1]), int(sys.argv[2]))
