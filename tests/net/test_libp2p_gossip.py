"""Gossip over real sockets: tuned so that nothing is lost that need not be, and deaf to every known attack.

The attacker is a node of our own whose streams are written by hand.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed
from libp2p.utils.varint import encode_uvarint

from gossipnode.net.libp2p import addresses
from gossipnode.net.libp2p.gossip import Topics
from gossipnode.net.libp2p.pubsub import OUTBOUND_RPCS, GuardedRouter
from gossipnode.net.libp2p.sockets import Tally
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from protocols import limits
from protocols.transport import Gossip
from sampling.peers import PeerId

TOPIC = "t"


class Reports:
    """What a node's `on_fault` was told."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[PeerId | None, str]](1000)

    def __call__(self, peer: PeerId | None, kind: str) -> None:
        self._send.send_nowait((peer, kind))

    async def next(self) -> tuple[PeerId | None, str]:
        with trio.fail_after(5):
            return await self._receive.receive()


async def meshed(*pairs: tuple[Libp2pTransport, Libp2pTransport]) -> None:
    """Both ends of each link would send the topic's gossip to the other."""
    for one, other in pairs:
        for a, b in ((one, other), (other, one)):
            raw = addresses.peer_id(b.me)
            await a._pubsub.wait_for_peer(raw)
            await a._pubsub.wait_for_mesh(raw, TOPIC)


@asynccontextmanager
async def linked(*edges: tuple[int, int], reports: Reports | None = None) -> AsyncIterator[list[Libp2pTransport]]:
    """Nodes joined by these edges, all hearing TOPIC; the first of them reports faults."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_libp2p(bytes([i + 1]) * 32, on_fault=reports if i == 0 else None))
            for i in range(1 + max(max(edge) for edge in edges))
        ]
        for one in nodes:
            await stack.enter_async_context(one.subscribe(TOPIC))
        for i, j in edges:
            await nodes[i].dial(nodes[j].addresses()[0])
        await meshed(*((nodes[i], nodes[j]) for i, j in edges))
        yield nodes


async def take(heard: trio.MemoryReceiveChannel[Gossip], count: int) -> list[bytes]:
    with trio.fail_after(20):
        return [(await heard.receive()).frame for _ in range(count)]


# -- nothing lost that need not be --------------------------------------------------------------------------------


async def test_a_burst_arrives_whole_and_in_order() -> None:
    """libp2p's outbound queues hold 32 and its subscriptions 32: a burst of 300 used to leave about 60."""
    frames = [str(i).encode() for i in range(300)]
    async with linked((0, 1)) as [a, b], b.subscribe(TOPIC) as heard, trio.open_nursery() as nursery:

        async def burst() -> None:
            for frame in frames:
                await a.publish(TOPIC, frame)

        nursery.start_soon(burst)
        assert await take(heard, len(frames)) == frames


async def test_a_relay_passes_a_burst_on() -> None:
    """Spam protection would drop what exceeds ten messages a second from one neighbour."""
    frames = [str(i).encode() for i in range(60)]
    async with linked((0, 1), (1, 2)) as [a, _, c], c.subscribe(TOPIC) as heard:
        for frame in frames:
            await a.publish(TOPIC, frame)
        assert await take(heard, len(frames)) == frames


async def test_a_subscribed_peer_outside_the_mesh_is_told_too() -> None:
    async with linked((0, 1)) as [a, b], b.subscribe(TOPIC) as heard:
        a._pubsub.router.mesh[TOPIC].clear()  # as it is between a peer's subscription and its graft
        await a.publish(TOPIC, b"early")
        assert await take(heard, 1) == [b"early"]


async def test_a_neighbours_queue_holds_more_than_libp2ps_own() -> None:
    """A relay cannot pace what it passes on."""
    async with linked((0, 1)) as [a, b]:
        queue = a._pubsub.peer_queues[addresses.peer_id(b.me)]
        with trio.fail_after(5):
            while queue._queue.max_size < OUTBOUND_RPCS:  # the queue's task has just begun
                await trio.lowlevel.checkpoint()
        assert all(queue.push(rpc_pb2.RPC()) for _ in range(200))


async def test_copies_from_two_neighbours_are_heard_once() -> None:
    """One after another: in a burst both neighbours may leave it to each other, until the next heartbeat mends that."""
    async with linked((0, 1), (0, 2), (1, 3), (2, 3)) as [a, _, _, d], d.subscribe(TOPIC) as heard:
        for i in range(10):
            await a.publish(TOPIC, b"%d" % i)
            assert await take(heard, 1) == [b"%d" % i]


async def test_a_restarted_node_is_heard_however_much_it_said_before() -> None:
    """With libp2p's own counter the second life repeats the ids of the first, and is dropped as seen."""
    async with open_libp2p(b"\x02" * 32) as b, b.subscribe(TOPIC) as heard:
        for life in range(2):
            frames = [b"%d/%d" % (life, i) for i in range(40)]
            async with open_libp2p(b"\x01" * 32) as a, a.subscribe(TOPIC):
                await a.dial(b.addresses()[0])
                await meshed((a, b))
                for frame in frames:
                    await a.publish(TOPIC, frame)
                assert await take(heard, len(frames)) == frames


def test_a_slow_subscriber_loses_the_oldest_and_repeats_are_not_delivered() -> None:
    tally = Tally()
    topics = Topics(tally)
    with topics.subscriber(TOPIC) as slow:
        for i in range(limits.GOSSIP_QUEUE + 5):
            for _ in range(2):
                topics.deliver(TOPIC, b"id%d" % i, PeerId("p"), b"%d" % i)
        assert slow.receive.receive_nowait().frame == b"5"
        assert tally.gossip_dropped == 5
    topics.deliver(TOPIC, b"late", PeerId("p"), b"")  # nobody is there any more
    assert topics.count(TOPIC) == 0


async def test_two_subscribers_of_one_node_hear_the_same() -> None:
    async with linked((0, 1)) as [a, b], b.subscribe(TOPIC) as one:
        async with b.subscribe(TOPIC) as two:
            await a.publish(TOPIC, b"x")
            assert await take(one, 1) == await take(two, 1) == [b"x"]
        await a.publish(TOPIC, b"y")
        assert await take(one, 1) == [b"y"]


async def test_the_router_is_tuned() -> None:
    async with open_libp2p(b"1" * 32) as node:
        router = node._pubsub.service
        assert isinstance(router, GuardedRouter)
        assert router.get_protocols() == [PROTOCOL_ID_V11]
        assert router.heartbeat_interval == 1
        assert router.degree_high > limits.LINKS  # pruning loses messages
        assert not router.adaptive_gossip_enabled
        assert not router.spam_protection_enabled
        assert not router.eclipse_protection_enabled
        assert node._pubsub.strict_signing


async def test_the_router_keeps_no_table_that_grows() -> None:
    async with linked((0, 1)) as [a, b], b.subscribe(TOPIC) as heard:
        await a.publish(TOPIC, b"x")
        await take(heard, 1)
        for node in (a, b):
            router = node._pubsub.service
            router._periodic_security_cleanup()
            assert not router.recent_message_deliveries
            assert not router.equivocation_detection


async def test_a_heartbeat_that_fails_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_libp2p(b"1" * 32) as node:
        beaten = trio.Event()
        calls = iter([ValueError("boo"), None])

        def mesh_heartbeat() -> None:
            if error := next(calls, None):
                raise error
            beaten.set()
            raise trio.BrokenResourceError

        monkeypatch.setattr(node._pubsub.service, "mesh_heartbeat", mesh_heartbeat)
        monkeypatch.setattr("gossipnode.net.libp2p.pubsub.HEARTBEAT_S", 0.01)
        with trio.fail_after(5):
            await beaten.wait()


# -- attacks ------------------------------------------------------------------------------------------------------


async def pubsub_stream(attacker: Libp2pTransport, victim: Libp2pTransport) -> INetStream:
    return await attacker._pubsub.host.new_stream(addresses.peer_id(victim.me), [PROTOCOL_ID_V11])


def message(origin: Libp2pTransport, data: bytes) -> rpc_pb2.Message:
    """Rightly signed."""
    pubsub = origin._pubsub
    made = rpc_pb2.Message(data=data, topicIDs=[TOPIC], from_id=pubsub.my_id.to_bytes(), seqno=pubsub._next_seqno())
    assert pubsub.sign_key is not None
    made.signature = pubsub.sign_key.sign(PUBSUB_SIGNING_PREFIX.encode() + made.SerializeToString())
    made.key = pubsub.host.get_public_key().serialize()
    return made


def rpc(*messages: rpc_pb2.Message, **fields: object) -> bytes:
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages, **fields).SerializeToString())  # type: ignore[arg-type]


async def still_talks(victim: Libp2pTransport, other: Libp2pTransport) -> None:
    """Gossip flows both ways between them, whatever happened. Streams may be reopening: said again until heard."""
    for speaker, hearer in ((victim, other), (other, victim)):
        async with hearer.subscribe(TOPIC) as heard, trio.open_nursery() as nursery:

            async def repeat(speaker: Libp2pTransport = speaker) -> None:
                while True:
                    await speaker.publish(TOPIC, b"still here")
                    await trio.sleep(0.05)

            nursery.start_soon(repeat)
            with trio.fail_after(5):
                while (await heard.receive()).origin != speaker.me:
                    pass
            nursery.cancel_scope.cancel()


async def test_a_rightly_signed_message_by_hand_is_heard() -> None:
    """So that the attacks below fail for what is wrong with them and nothing else."""
    async with linked((0, 1)) as [victim, attacker], victim.subscribe(TOPIC) as heard:
        stream = await pubsub_stream(attacker, victim)
        await stream.write(rpc(message(attacker, b"x")))
        assert await take(heard, 1) == [b"x"]


def anonymous(origin: bytes) -> rpc_pb2.Message:
    return rpc_pb2.Message(data=b"x", topicIDs=[TOPIC], from_id=origin, seqno=b"1", key=b"\xff", signature=b"s")


GARBAGE = {
    "protobuf": encode_varint_prefixed(b"\xff" * 40),
    "varint": b"\xff" * 11,
    "origin": rpc(anonymous(b"\x00")),
    "key": rpc(anonymous(b"\x12\x20" + b"a" * 32)),
    "record": rpc(senderRecord=b"\xff" * 50),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_reported_and_stops_nothing(kind: str) -> None:
    reports = Reports()
    async with linked((0, 1), (0, 2), reports=reports) as [victim, attacker, other]:
        stream = await pubsub_stream(attacker, victim)
        await stream.write(GARBAGE[kind])
        assert await reports.next() == (attacker.me, "garbage")
        await still_talks(victim, other)
        await still_talks(victim, attacker)


async def test_a_forged_origin_is_not_heard() -> None:
    async with linked((0, 1), (0, 2)) as [victim, attacker, other], victim.subscribe(TOPIC) as heard:
        stream = await pubsub_stream(attacker, victim)
        forged = message(attacker, b"forged")
        forged.from_id = other._pubsub.my_id.to_bytes()
        changed = message(attacker, b"good")
        changed.data = b"changed"
        await stream.write(rpc(forged, changed, message(attacker, b"good")))
        assert await take(heard, 1) == [b"good"]


async def test_too_long_a_message_is_its_origins_fault() -> None:
    reports = Reports()
    async with linked((0, 1), reports=reports) as [victim, attacker], victim.subscribe(TOPIC) as heard:
        stream = await pubsub_stream(attacker, victim)
        await stream.write(rpc(message(attacker, bytes(limits.GOSSIP_BYTES + 1))))
        assert await reports.next() == (attacker.me, "oversize-gossip")
        await stream.write(rpc(message(attacker, bytes(limits.GOSSIP_BYTES))))
        assert await take(heard, 1) == [bytes(limits.GOSSIP_BYTES)]
        with pytest.raises(AssertionError):
            await victim.publish(TOPIC, bytes(limits.GOSSIP_BYTES + 1))


async def test_an_rpc_beyond_a_mebibyte_is_reported_and_gossip_goes_on_at_once() -> None:
    """Another implementation may send one: the stream must open again without libp2p's ten seconds of backing off."""
    reports = Reports()
    async with linked((0, 1), reports=reports) as [victim, attacker]:
        stream = await pubsub_stream(attacker, victim)
        await stream.write(encode_uvarint(limits.MIB + 1))
        assert await reports.next() == (attacker.me, "oversize-gossip")
        await still_talks(victim, attacker)


async def test_a_peer_whose_stream_broke_is_still_subscribed() -> None:
    """libp2p forgets the subscriptions of a peer when our stream to it breaks, and the peer never repeats them."""
    async with linked((0, 1)) as [a, b]:
        raw = addresses.peer_id(b.me)
        await a._pubsub.peers[raw].reset()
        a._pubsub._handle_dead_peer(raw)
        await still_talks(a, b)


async def test_a_reset_of_our_stream_is_noticed_before_a_message_is_lost() -> None:
    async with linked((0, 1)) as [a, b], b.subscribe(TOPIC) as heard:
        former = a._pubsub.peers[addresses.peer_id(b.me)]
        [conn] = b._links._open[a.me]
        [theirs] = [stream for stream in conn.get_streams() if stream.get_protocol() == PROTOCOL_ID_V11 and
                    stream.muxed_stream.stream_id == former.muxed_stream.stream_id]  # fmt: skip
        await theirs.reset()
        with trio.fail_after(5):
            while a._pubsub.peers.get(addresses.peer_id(b.me)) in (None, former):  # noqa: ASYNC110  # libp2p's own dict
                await trio.sleep(0.005)
        await a.publish(TOPIC, b"after")
        assert await take(heard, 1) == [b"after"]


async def test_too_many_subscriptions_at_once_are_a_flood() -> None:
    reports = Reports()
    async with linked((0, 1), reports=reports) as [victim, attacker]:
        stream = await pubsub_stream(attacker, victim)
        await stream.write(rpc(subscriptions=[{"subscribe": True, "topicid": str(i)} for i in range(5001)]))
        assert await reports.next() == (attacker.me, "flood")
        await still_talks(victim, attacker)


async def test_noise_on_the_port_stops_nothing() -> None:
    async with linked((0, 1)) as [victim, other], AsyncExitStack() as stack:
        port = int(victim.addresses()[0].split("/")[4])
        for i in range(20):
            stranger = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            if i % 2:
                await stranger.send_all(bytes((i * j) % 256 for j in range(1000)))  # the even ones stay half open
        await still_talks(victim, other)


async def test_a_streams_failure_is_one_line_and_only_its_own(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    caplog.set_level(logging.INFO, "gossipnode.net")
    async with linked((0, 1), reports=reports) as [victim, attacker]:

        async def fail(stream: INetStream) -> None:
            await stream.read(1)
            raise ValueError("two\nlines")

        victim._pubsub.host.set_stream_handler("/fail/1", fail)
        for _ in range(3):
            stream = await attacker._pubsub.host.new_stream(addresses.peer_id(victim.me), ["/fail/1"])
            await stream.write(b"x")
            assert await reports.next() == (attacker.me, "garbage")
        await still_talks(victim, attacker)
    [record] = [record for record in caplog.records if record.name == "gossipnode.net"]  # three faults, one line
    assert record.getMessage() == f"garbage from {attacker.me}: ValueError two lines"
    assert record.exc_info is None


async def test_too_many_streams_at_once_are_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossipnode.net.libp2p.guards.STREAMS_PER_PEER", 4)
    reports = Reports()
    async with linked((0, 1), reports=reports) as [victim, attacker]:
        [conn] = attacker._links._open[victim.me]
        for _ in range(6):
            await conn.new_stream()  # and not a word about its protocol
        assert await reports.next() == (attacker.me, "flood")
        assert victim.peers() == {attacker.me}
