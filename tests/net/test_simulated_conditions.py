"""Delay, bandwidth, loss, duplication, reordering, gossip's spread and the limits, on the simulated network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from gossipnode.net.simulated import Conditions, SimulatedNetwork, SimulatedTransport, scattered, simulate_network
from gossipnode.net.simulated_conditions import (
    ANNOUNCED_TO,
    ANSWER_OVERHEAD_BYTES,
    GOSSIP_OVERHEAD_BYTES,
    HANDSHAKE_BYTES,
    ID_BYTES,
    IHAVE_BYTES,
    REQUEST_OVERHEAD_BYTES,
    Delay,
)
from protocols import limits
from protocols.transport import Answer, Gossip, NoAnswer
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

BLOB = bytes(1_000_000)


class OneBlob:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int:
        return len(BLOB)

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        return BLOB[offset : offset + length]


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


@asynccontextmanager
async def nodes_under(
    conditions: Conditions,
    n: int = 2,
    seed: int = 0,
    *,
    answer: Answer = echo,
    on_fault: Callable[[PeerId | None, str], None] | None = None,
) -> AsyncIterator[tuple[SimulatedNetwork, list[SimulatedTransport]]]:
    """In a ring; of two, simply linked."""
    async with simulate_network(conditions, seed=seed) as network, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.join(PeerId(f"n{i}"), on_fault=on_fault)) for i in range(n)]
        for i, node in enumerate(nodes):
            node.serve(answer, OneBlob())
            if node is not nodes[i - 1]:
                network.link(node.me, nodes[i - 1].me)
        yield network, nodes


async def ask_often(a: SimulatedTransport, b: SimulatedTransport, times: int) -> int:
    answered = 0
    for number in range(times):
        try:
            await a.request(b.me, b"%d" % number, timeout_s=1.0)
        except NoAnswer:
            continue
        answered += 1
    return answered


@pytest.mark.parametrize(
    "delay",
    [0.2, {(PeerId("n0"), PeerId("n1")): 0.2}, {(PeerId("n1"), PeerId("n0")): 0.2}, lambda a, b: 0.2],
    ids=["figure", "table", "table the other way", "function"],
)
async def test_a_round_trip_takes_two_delays(autojump_clock: MockClock, delay: Delay) -> None:
    async with nodes_under(Conditions(delay=delay, jitter=0.0)) as (_, [a, b]):
        await a.request(b.me, b"x", timeout_s=1.0)
        assert trio.current_time() == pytest.approx(0.4)


async def test_jitter_stretches_the_delay_within_its_bounds(autojump_clock: MockClock) -> None:
    trips: list[float] = []
    async with nodes_under(Conditions(delay=0.1, jitter=0.5)) as (_, [a, b]):
        for _ in range(50):
            start = trio.current_time()
            await a.request(b.me, b"x", timeout_s=1.0)
            trips.append(trio.current_time() - start)
    assert 0.2 <= min(trips) < 0.22
    assert 0.28 < max(trips) <= 0.3


async def test_bytes_cost_time_on_the_slower_of_two_links(autojump_clock: MockClock) -> None:
    speeds = {PeerId("n0"): 100_000.0, PeerId("n1"): 1_000_000.0}
    async with nodes_under(Conditions(delay=0.05, jitter=0.0, bandwidth=speeds)) as (_, [slow, fast]):
        for receiver, sender in ((slow, fast), (fast, slow)):
            start = trio.current_time()
            async with receiver.fetch(sender.me, digest_of(BLOB)) as stream:
                while await stream.receive_some():
                    pass
            assert trio.current_time() - start == pytest.approx(10.1, rel=0.02)


async def test_two_downloads_share_the_sources_uplink(autojump_clock: MockClock) -> None:
    took: list[float] = []

    async def download(receiver: SimulatedTransport, sender: SimulatedTransport) -> None:
        async with receiver.fetch(sender.me, digest_of(BLOB)) as stream:
            while await stream.receive_some():
                pass
        took.append(trio.current_time())

    conditions = Conditions(delay=0.01, bandwidth=1e6)
    async with nodes_under(conditions, 3) as (_, [a, b, c]), trio.open_nursery() as nursery:
        nursery.start_soon(download, b, a)
        nursery.start_soon(download, c, a)
        start = trio.current_time()
        await b.request(a.me, b"small", timeout_s=5.0)
        assert trio.current_time() - start < 0.3  # a frame waits for a few chunks, not for the blobs
    assert min(took) > 1.8
    assert max(took) == pytest.approx(2.0, rel=0.05)


async def test_a_reader_that_stops_stops_the_sender(autojump_clock: MockClock) -> None:
    conditions = Conditions(window_bytes=200_000)
    async with nodes_under(conditions) as (_, [a, b]), a.fetch(b.me, digest_of(BLOB)) as stream:
        await trio.sleep(100.0)
        assert b.traffic().blob_sent < 200_000 + conditions.chunk_bytes
        received = 0
        while piece := await stream.receive_some():
            received += len(piece)
        assert received == len(BLOB)


async def test_lost_questions_stay_unanswered(autojump_clock: MockClock) -> None:
    async with nodes_under(Conditions(request_loss=0.3)) as (_, [a, b]):
        assert await ask_often(a, b, 400) / 400 == pytest.approx(0.7**2, abs=0.08)


async def test_repeated_questions_are_answered_once_to_the_asker(autojump_clock: MockClock) -> None:
    asked: Counter[bytes] = Counter()

    async def count(peer: PeerId, frame: bytes) -> bytes:
        asked[frame] += 1
        return frame

    async with nodes_under(Conditions(request_duplication=0.5), answer=count) as (_, [a, b]):
        assert await ask_often(a, b, 100) == 100
    assert set(asked.values()) == {1, 2}


async def test_reordering_lets_later_questions_overtake(autojump_clock: MockClock) -> None:
    seen: list[bytes] = []

    async def remember(peer: PeerId, frame: bytes) -> bytes:
        seen.append(frame)
        return frame

    conditions = Conditions(jitter=0.0, request_reordering=0.3)
    async with nodes_under(conditions, answer=remember) as (_, [a, b]), trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            await a.request(b.me, b"%02d" % number, timeout_s=5.0)

        for number in range(16):
            nursery.start_soon(ask, number)
            await trio.sleep(0.1)
    assert len(seen) == 16
    assert seen != sorted(seen)


# -- gossip -----------------------------------------------------------------------------------------------------------
async def spread(conditions: Conditions, n: int, messages: int, seed: int = 0) -> tuple[list[list[float]], int]:
    """When each of n subscribers in a ring with chords heard each message, and the bytes the first node received."""
    heard: list[list[float]] = [[] for _ in range(n)]
    async with nodes_under(conditions, n, seed) as (network, nodes), trio.open_nursery() as nursery:
        for i in range(n):
            for step in (7, 19, 43, 67):
                network.link(nodes[i].me, nodes[(i + step) % n].me)

        async def listen(i: int, ready: trio.Event) -> None:
            async with nodes[i].subscribe("t") as channel:
                ready.set()
                async for _ in channel:
                    heard[i].append(trio.current_time())

        for i in range(1, n):
            nursery.start_soon(listen, i, ready := trio.Event())
            await ready.wait()
        for _ in range(messages):
            await nodes[0].publish("t", bytes(100))
            await trio.sleep(10.0)
        nursery.cancel_scope.cancel()
    return heard[1:], nodes[1].traffic().wire_received


async def test_gossip_reaches_all_in_a_few_hops_and_costs_about_degree_copies_once(autojump_clock: MockClock) -> None:
    conditions = Conditions(delay=0.1, jitter=0.0, gossip_degree=8)
    times, received = await spread(conditions, 100, 10)
    assert all(len(each) == 10 for each in times)
    hops = max(each[0] for each in times) / 0.1
    assert math.log(100) / math.log(7) <= hops <= 6.0 + conditions.gossip_heartbeat_s / 0.1
    size = 100 + GOSSIP_OVERHEAD_BYTES
    announced = 10 * ANNOUNCED_TO * (ID_BYTES + IHAVE_BYTES)
    assert (6 + 9) * size <= received <= (8 + 9) * size + announced


async def test_lost_gossip_is_lost_to_one_subscriber_only(autojump_clock: MockClock) -> None:
    times, _ = await spread(Conditions(gossip_loss=0.2), 100, 20)
    heard = [len(each) for each in times]
    assert sum(heard) / (20 * 99) == pytest.approx(0.8, abs=0.03)
    assert min(heard) > 5


async def test_repeated_gossip_comes_twice(autojump_clock: MockClock) -> None:
    times, _ = await spread(Conditions(gossip_duplication=0.2), 100, 10)
    assert sum(len(each) for each in times) / (10 * 99) == pytest.approx(1.2, abs=0.05)


async def test_a_hub_passes_gossip_to_more_than_its_degree(autojump_clock: MockClock) -> None:
    conditions = Conditions(delay=0.05, gossip_degree=4)
    async with simulate_network(conditions) as network, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.join(PeerId(f"n{i}"))) for i in range(30)]
        channels = [await stack.enter_async_context(node.subscribe("t")) for node in nodes]
        for node in nodes[1:]:
            network.link(nodes[0].me, node.me)
        await nodes[1].publish("t", b"x")
        await trio.sleep(3.0)
        for i, channel in enumerate(channels):
            if i != 1:
                assert channel.receive_nowait() == Gossip(nodes[1].me, b"x")


async def test_gossip_does_not_cross_a_partition_but_goes_round_a_dead_node(autojump_clock: MockClock) -> None:
    async with nodes_under(Conditions(delay=0.05), 5) as (network, nodes), AsyncExitStack() as stack:
        heard = [await stack.enter_async_context(node.subscribe("t")) for node in nodes]
        network.crash(nodes[1].me)
        await nodes[0].publish("t", b"the other way round")
        await trio.sleep(3.0)
        for channel in heard[2:]:
            assert channel.receive_nowait().frame == b"the other way round"
        network.partition([{nodes[0].me, nodes[4].me}, {nodes[2].me, nodes[3].me}])
        await nodes[0].publish("t", b"halved")
        await trio.sleep(3.0)
        assert heard[4].receive_nowait().frame == b"halved"
        for channel in heard[2:4]:
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()


# -- limits and accounts ----------------------------------------------------------------------------------------------
async def test_a_flood_of_questions_is_cut_off_and_reported(autojump_clock: MockClock) -> None:
    faults: list[tuple[PeerId | None, str]] = []
    async with nodes_under(Conditions(delay=0.001), on_fault=lambda *fault: faults.append(fault)) as (_, [a, b]):
        answered = await ask_often(a, b, 2 * limits.REQUESTS_PER_PEER_PER_S)
        taken_s = trio.current_time()
        assert answered <= limits.REQUESTS_PER_PEER_PER_S * (1 + taken_s) + 1
        assert faults == [(a.me, "flood")] * (2 * limits.REQUESTS_PER_PEER_PER_S - answered)
        assert faults
        await trio.sleep(1.0)
        assert await a.request(b.me, b"x", timeout_s=1.0) == b"x"


async def test_a_flood_gets_no_slow_peer_refused_or_accused(autojump_clock: MockClock) -> None:
    faults: list[tuple[PeerId | None, str]] = []
    answers: list[bytes] = []
    gate = trio.Event()

    async def slowly(peer: PeerId, frame: bytes) -> bytes:
        await gate.wait()
        return frame

    def note(peer: PeerId | None, kind: str) -> None:
        faults.append((peer, kind))

    conditions = Conditions(delay=0.001, answer_s=100.0)
    async with nodes_under(conditions, 3, answer=slowly, on_fault=note) as (network, [victim, slow, flooder]):
        network.slow(slow.me, latency=100.0, bandwidth=100.0)

        async def pester(node: SimulatedTransport) -> None:
            with suppress(NoAnswer):
                await node.request(victim.me, b"flood", timeout_s=50.0)

        async def ask(node: SimulatedTransport) -> None:
            answers.append(await node.request(victim.me, b"honest", timeout_s=50.0))

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(pester, flooder)
            await trio.sleep(1.0)
            for _ in range(2):
                nursery.start_soon(ask, slow)
            await trio.sleep(5.0)
            gate.set()
        assert answers == [b"honest"] * 2
        assert {peer for peer, _ in faults} == {flooder.me}


async def test_where_all_ask_at_once_nobody_is_accused(autojump_clock: MockClock) -> None:
    faults: list[tuple[PeerId | None, str]] = []

    async def never(peer: PeerId, frame: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("not reached")

    conditions, count = Conditions(delay=0.001, answer_s=100.0), limits.INBOUND_REQUESTS + 20
    nodes = nodes_under(conditions, count, answer=never, on_fault=lambda *fault: faults.append(fault))
    async with nodes as (network, [victim, *others]):
        for node in others[1:-1]:
            network.link(victim.me, node.me)
        outcomes: Counter[str] = Counter()

        async def ask(node: SimulatedTransport) -> None:
            with pytest.raises(NoAnswer) as caught:
                await node.request(victim.me, b"x", timeout_s=5.0)
            outcomes["refused" if "broke off" in str(caught.value) else "waits"] += 1

        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(ask, node)
        assert outcomes == {"waits": limits.INBOUND_REQUESTS, "refused": 19}
        assert faults == []


async def test_what_is_remembered_of_those_who_asked_is_bounded(autojump_clock: MockClock) -> None:
    async with nodes_under(Conditions(delay=0.001)) as (network, [_, b]):
        for i in range(2 * limits.LINKS + 50):
            async with network.join(PeerId(f"passer-by {i}")) as passer_by:
                network.link(passer_by.me, b.me)
                assert await passer_by.request(b.me, b"x", timeout_s=1.0) == b"x"
        assert len(b._questions._rates) == 2 * limits.LINKS


async def test_more_blobs_at_once_than_allowed_are_cut_off(autojump_clock: MockClock) -> None:
    async with nodes_under(Conditions(window_bytes=1)) as (_, [a, b]), AsyncExitStack() as stack:
        for _ in range(limits.INBOUND_FETCHES_PER_PEER):
            await stack.enter_async_context(a.fetch(b.me, digest_of(BLOB)))
        with pytest.raises(NoAnswer):
            async with a.fetch(b.me, digest_of(BLOB)):
                pass


async def test_traffic_is_frames_and_the_stated_overhead(autojump_clock: MockClock) -> None:
    async with nodes_under(Conditions(), 2) as (_, [a, b]):
        await a.request(b.me, bytes(1000), timeout_s=1.0)
        assert a.traffic().wire_sent == b.traffic().wire_received == 1000 + REQUEST_OVERHEAD_BYTES
        assert a.traffic().wire_received == b.traffic().wire_sent == 1000 + ANSWER_OVERHEAD_BYTES
    async with simulate_network() as network, network.join(PeerId("a")) as a, network.join(PeerId("b")) as b:
        await a.dial(b.addresses()[0])
        assert a.traffic().wire_sent == HANDSHAKE_BYTES


def test_scattered_peers_have_fixed_and_symmetric_delays() -> None:
    names = [PeerId(f"n{i}") for i in range(20)]
    one, same, other = scattered(1), scattered(1), scattered(2)
    for a in names:
        for b in names:
            assert one(a, b) == one(b, a) == same(b, a)
            assert 0.005 <= one(a, b) <= 0.15
    assert one(names[0], names[1]) != other(names[0], names[1])
