"""A bare libp2p stream between two processes: what `bench_exchange` compares with. It imports nothing of ours.

`python bare.py send BYTES` is one side, `python bare.py receive BYTES ADDRESS` the other: py-libp2p's own host as it
comes, noise and yamux, one stream a turn, no digest and no disk. The receiver prints the seconds of a turn for each
line that it reads.
"""

from __future__ import annotations

import os
import sys
import time

import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no stubs

PROTOCOL = TProtocol("/bench/bytes/1")
GO = b"!"
CHUNK_BYTES = 1024 * 1024  # of a write, and at most of a read


async def send(size: int) -> None:
    data = os.urandom(size)

    async def serve(stream: INetStream) -> None:
        await stream.read(len(GO))
        for at in range(0, size, CHUNK_BYTES):
            await stream.write(data[at : at + CHUNK_BYTES])
        await stream.close()

    host = new_host()
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler(PROTOCOL, serve)
        print(host.get_addrs()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def receive(size: int, address: str) -> None:
    host = new_host()
    peer = info_from_p2p_addr(Multiaddr(address))
    async with host.run(listen_addrs=[]):
        await host.connect(peer)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            began, left = time.monotonic(), size
            stream = await host.new_stream(peer.peer_id, [PROTOCOL])
            await stream.write(GO)
            while left:
                left -= len(await stream.read(min(left, CHUNK_BYTES)))
            await stream.close()
            print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        trio.run(send, int(sys.argv[2]))
    else:
        trio.run(receive, int(sys.argv[2]), sys.argv[3])
