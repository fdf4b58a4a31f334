"""To whom gossip is not pushed: those who have shown that they hear it otherwise, until they ask."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import combinations

import pytest
import trio
import trio.testing
from libp2p.pubsub.pb import rpc_pb2

from gossipnode.net.libp2p import addresses
from gossipnode.net.libp2p.pubsub import GuardedPubsub
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from gossipnode.net.libp2p.trees import ORIGINS, Trees
from protocols.transport import Gossip

TOPIC = "t"
NODES = 5


@pytest.fixture
def trees() -> Trees[str]:
    return Trees("me")


def pushed(trees: Trees[str], message_id: bytes, origin: str = "o") -> set[str]:
    return trees.pushed(origin, ["a", "b"], [TOPIC], message_id)


def test_who_repeats_is_not_pushed_to_but_told(trees: Trees[str]) -> None:
    assert pushed(trees, b"1") == {"a", "b"}
    assert trees.announcements() == {}
    trees.repeated("o", "a")
    assert pushed(trees, b"2") == {"b"}
    assert pushed(trees, b"3") == {"b"}
    assert pushed(trees, b"4", origin="another") == {"a", "b"}
    assert trees.announcements() == {}  # it may still be on its way
    assert trees.announcements() == {"a": {TOPIC: [b"3"]}}
    assert trees.announcements() == {}


def test_who_asks_is_pushed_to_again(trees: Trees[str]) -> None:
    trees.repeated("o", "a")
    trees.wanted("o", "a")
    trees.wanted("o", "stranger")
    assert pushed(trees, b"1") == {"a", "b"}


def test_a_new_link_begins_anew(trees: Trees[str]) -> None:
    trees.repeated("o", "a")
    pushed(trees, b"1")
    trees.announcements()
    pushed(trees, b"1")
    trees.gone("a")
    assert trees.announcements() == trees.announcements() == {}
    assert pushed(trees, b"2") == {"a", "b"}


def test_our_own_words_go_to_all(trees: Trees[str]) -> None:
    trees.repeated("me", "a")
    assert pushed(trees, b"1", origin="me") == {"a", "b"}


def test_what_is_remembered_of_a_neighbour_is_bounded(trees: Trees[str]) -> None:
    for number in range(ORIGINS + 1):
        trees.repeated(f"o{number}", "a")
    assert pushed(trees, b"1", origin="o0") == {"a", "b"}
    assert pushed(trees, b"1", origin="o1") == {"b"}


# -- over real sockets ------------------------------------------------------------------------------------------------


class Copies:
    """Of messages, that any of the nodes has sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.frames: list[rpc_pb2.RPC] = []
        write = GuardedPubsub.write_msg

        async def counted(pubsub: GuardedPubsub, stream: object, rpc: rpc_pb2.RPC) -> bool:
            self.count += len(rpc.publish)
            written: bool = await write(pubsub, stream, rpc)  # type: ignore[arg-type]  # handed on as it came
            self.frames.append(rpc)
            return written

        monkeypatch.setattr(GuardedPubsub, "write_msg", counted)


async def full_mesh(stack: AsyncExitStack) -> list[Libp2pTransport]:
    nodes = [await stack.enter_async_context(open_libp2p(bytes([i + 1]) * 32)) for i in range(NODES)]
    for node in nodes:
        await stack.enter_async_context(node.subscribe(TOPIC))
    for a, b in combinations(nodes, 2):
        await a.dial(b.addresses()[0])
        for one, other in ((a, b), (b, a)):
            raw = addresses.peer_id(other.me)
            await one._pubsub.wait_for_peer(raw)
            await one._pubsub.wait_for_mesh(raw, TOPIC)
    return nodes


async def hear(channel: trio.MemoryReceiveChannel[Gossip], frame: bytes) -> None:
    with trio.fail_after(20):
        while (await channel.receive()).frame != frame:
            pass


async def test_a_swarm_learns_to_send_each_message_once_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    async with AsyncExitStack() as stack:
        nodes = await full_mesh(stack)
        channels = [await stack.enter_async_context(node.subscribe(TOPIC)) for node in nodes[1:]]
        counts = []
        for number in range(10):
            before = copies.count
            await nodes[0].publish(TOPIC, b"%d" % number)
            for channel in channels:
                await hear(channel, b"%d" % number)
            await trio.testing.wait_all_tasks_blocked(0.05)
            counts.append(copies.count - before)
    assert counts[0] >= NODES - 1
    assert min(counts) == NODES - 1
    assert sum(counts[-5:]) <= 5 * (NODES - 1) + 2  # a heartbeat may announce what is still on its way
    message = copies.frames[-1]
    assert not message.HasField("senderRecord")
    assert not any(each.key for frame in copies.frames for each in frame.publish)


async def test_who_has_lost_its_other_way_asks_and_is_pushed_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        nodes = await full_mesh(stack)
        origin, lost, *relays = nodes
        raw = addresses.peer_id
        tables = [relay._pubsub.service.trees for relay in relays]
        for trees in tables:  # each believes that `lost` hears the origin without it
            trees.repeated(raw(origin.me), raw(lost.me))
        await origin.drop(lost.me)
        heard = await stack.enter_async_context(lost.subscribe(TOPIC))
        await origin.publish(TOPIC, b"late")
        await hear(heard, b"late")  # announced, asked for
        assert any(raw(lost.me) in trees.pushed(raw(origin.me), [raw(lost.me)], [TOPIC], b"next") for trees in tables)
