"""What a published message costs a node: on the simulated mesh about as much as on GossipSub over real sockets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import combinations

import pytest
import trio

from gossipnode.net.simulated import Conditions, simulate_network
from gossipnode.net.virtual_time import run_deterministic
from protocols.transport import BlobSource, Gossip, Transport
from sampling.peers import PeerId
from verify.digest import Digest

NODES, MESSAGES, BYTES = 8, 10, 300
TOPIC = "/gossipnode/1/" + "ab" * 8
MEASURED_BYTES = 500  # sent by a node for each message in this swarm (462 to 599): py-libp2p 0.8.1, loopback


class Empty:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        raise AssertionError


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


def sent(nodes: list[Transport]) -> int:
    return sum(node.traffic().wire_sent for node in nodes)


async def hear(channel: trio.MemoryReceiveChannel[Gossip], frame: bytes) -> None:
    while (await channel.receive()).frame != frame:
        pass


async def all_hear(nodes: list[Transport], channels: list[trio.MemoryReceiveChannel[Gossip]], number: int) -> bool:
    origin = nodes[number % len(nodes)]
    frame = bytes([number]) * BYTES
    await origin.publish(TOPIC, frame)
    with trio.move_on_after(2.0):
        async with trio.open_nursery() as nursery:
            for node, channel in zip(nodes, channels, strict=True):
                if node is not origin:
                    nursery.start_soon(hear, channel, frame)
        return True
    return False


async def cost(nodes: list[Transport]) -> float:
    """Bytes that a node sends for a message which all of them hear, every two of them linked."""
    empty: BlobSource = Empty()
    for node in nodes:
        node.serve(echo, empty)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for a, b in combinations(nodes, 2):
            nursery.start_soon(a.dial, b.addresses()[0])
        channels = [await stack.enter_async_context(node.subscribe(TOPIC)) for node in nodes]
        for number in range(len(nodes)):
            while not await all_hear(nodes, channels, number):
                pass  # until everybody knows everybody's subscription
        before = sent(nodes)
        for number in range(MESSAGES):
            assert await all_hear(nodes, channels, number)
        return (sent(nodes) - before) / MESSAGES / len(nodes)


async def simulated_cost() -> float:
    async with simulate_network(Conditions(delay=0.001)) as network, AsyncExitStack() as stack:
        return await cost([await stack.enter_async_context(network.join(PeerId(f"n{i}"))) for i in range(NODES)])


async def real_cost() -> float:
    from gossipnode.net.libp2p.transport import open_libp2p  # slow to import, and not needed for the other half

    async with AsyncExitStack() as stack:
        return await cost([await stack.enter_async_context(open_libp2p(bytes([i]) * 32)) for i in range(1, NODES + 1)])


def test_a_message_costs_on_the_simulated_mesh_what_was_measured() -> None:
    assert run_deterministic(simulated_cost, seed=1) == pytest.approx(MEASURED_BYTES, rel=0.1)


async def test_a_message_costs_on_the_real_mesh_what_the_simulation_says() -> None:
    with trio.fail_after(60):
        assert await real_cost() == pytest.approx(MEASURED_BYTES, rel=0.5)
