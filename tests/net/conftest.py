"""One contract, two networks: the swarms that `test_contract.py` runs on.

The simulated swarm runs in virtual time; the real one on loopback sockets and the real clock, where nothing sleeps but
waits for events under a deadline. Test modules cannot import from here, so what they need comes as a fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations

import pytest
import trio
from trio.abc import Clock

from gossipnode.net.simulated import simulate_network
from protocols.transport import Answer, BlobSource, Transport
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

REAL_DEADLINE_S = 20.0
STRANGER = PeerId("12D3KooWL3hwtanTFomj8bT4KQEHukZW7QxNMqtopYFKae2cJ7Nr")  # a well-formed name that nobody bears


class Shelf:
    """Blobs in memory. `cut_at` is the offset at which they vanish while being read."""

    def __init__(self, *blobs: bytes, cut_at: int | None = None) -> None:
        self.blobs = {digest_of(blob): blob for blob in blobs}
        self.cut_at = cut_at

    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        end = offset + length if self.cut_at is None else min(offset + length, self.cut_at)
        return self.blobs[digest][offset:end]


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


async def link_all(nodes: Sequence[Transport]) -> None:
    async with trio.open_nursery() as nursery:
        for a, b in combinations(nodes, 2):
            nursery.start_soon(a.dial, b.addresses()[0])
    for node in nodes:
        await linked_to(node, {other.me for other in nodes if other is not node})


async def linked_to(node: Transport, peers: set[PeerId]) -> None:
    """Wait until it is linked to exactly these."""
    async with node.links() as changes:
        while node.peers() != peers:
            await changes.receive()


class SimulatedSwarm:
    """Makes n transports that answer alike, every two of them linked, or none."""

    nowhere = f"/memory/999/p2p/{STRANGER}"  # a well-formed address at which nobody listens
    stranger = STRANGER

    @asynccontextmanager
    async def __call__(
        self, n: int, *, answer: Answer = echo, blobs: BlobSource | None = None, linked: bool = True
    ) -> AsyncIterator[list[Transport]]:
        async with simulate_network(seed=n) as network, AsyncExitStack() as stack:
            nodes: list[Transport] = [
                await stack.enter_async_context(network.join(PeerId(f"peer{i}"))) for i in range(n)
            ]
            for node in nodes:
                node.serve(answer, blobs or Shelf())
            if linked:
                await link_all(nodes)
            yield nodes


class RealSwarm:
    """The same over libp2p."""

    nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}"
    stranger = STRANGER

    @asynccontextmanager
    async def __call__(
        self, n: int, *, answer: Answer = echo, blobs: BlobSource | None = None, linked: bool = True
    ) -> AsyncIterator[list[Transport]]:
        from gossipnode.net.libp2p.transport import open_libp2p  # slow to import, and not needed for the other half

        with trio.fail_after(REAL_DEADLINE_S):
            async with AsyncExitStack() as stack:
                nodes: list[Transport] = [
                    await stack.enter_async_context(open_libp2p(bytes([i]) * 32)) for i in range(1, n + 1)
                ]
                for node in nodes:
                    node.serve(answer, blobs or Shelf())
                if linked:
                    await link_all(nodes)
                yield nodes


@pytest.fixture(params=["simulated", "libp2p"])
def network(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def clock(network: str, request: pytest.FixtureRequest) -> Clock | None:
    """Virtual time for the simulated network only."""
    return request.getfixturevalue("autojump_clock") if network == "simulated" else None


@pytest.fixture
def swarm(network: str) -> SimulatedSwarm | RealSwarm:
    return SimulatedSwarm() if network == "simulated" else RealSwarm()


@pytest.fixture
def shelf() -> Callable[..., Shelf]:
    return Shelf
