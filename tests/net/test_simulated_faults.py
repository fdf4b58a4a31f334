"""Crash, pause, partition and departure, as the other nodes notice them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from gossipnode.net.simulated import Conditions, SimulatedNetwork, SimulatedTransport, simulate_network
from protocols.transport import LinkDown, LinkUp, NoAnswer, Unreachable
from sampling.peers import PeerId

QUICK = Conditions(delay=0.01, jitter=0.0)
A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


class Empty:
    async def prove(self, digest: bytes) -> None:
        pass

    def size(self, digest: bytes) -> None:
        return None

    def read(self, digest: bytes, offset: int, length: int) -> bytes:
        raise AssertionError


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


@asynccontextmanager
async def trio_of_nodes(
    conditions: Conditions = QUICK,
) -> AsyncIterator[tuple[SimulatedNetwork, list[SimulatedTransport]]]:
    async with simulate_network(conditions) as network, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.join(peer)) for peer in (A, B, C)]
        for node in nodes:
            node.serve(echo, Empty())
        for one, other in ((A, B), (A, C), (B, C)):
            network.link(one, other)
        yield network, nodes


def detected(conditions: Conditions, since_s: float) -> bool:
    silence_s = trio.current_time() - since_s
    return conditions.detection_s <= silence_s <= conditions.detection_s + conditions.detection_spread_s


async def test_a_crashed_peer_is_silent_until_its_silence_is_noticed(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, b, _]), a.links() as changes:
        network.crash(B)
        start = trio.current_time()
        with pytest.raises(NoAnswer):
            await a.request(B, b"?", timeout_s=2.0)
        assert trio.current_time() - start == pytest.approx(2.0)
        assert B in a.peers()
        while await changes.receive() != LinkDown(B):
            pass
        assert detected(QUICK, start)
        with pytest.raises(Unreachable):
            await a.request(B, b"?", timeout_s=60.0)
        assert a.peers() == {C}
        assert b.peers() == frozenset()


async def test_a_peer_that_leaves_closes_its_links_at_once(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, _, c]), a.links() as changes:
        start = trio.current_time()
        network.leave(C)
        while await changes.receive() != LinkDown(C):
            pass
        assert trio.current_time() - start == pytest.approx(0.01)
        a.know(C, c.addresses())
        with pytest.raises(Unreachable):  # its machine answers that nobody listens
            await a.request(C, b"?", timeout_s=5.0)
        assert trio.current_time() - start < 0.2


async def test_a_crash_breaks_what_was_being_answered(autojump_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def slow(peer: PeerId, frame: bytes) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with simulate_network(QUICK) as network, network.join(A) as a, network.join(B) as b:
        b.serve(slow, Empty())
        network.link(A, B)

        async def crash_soon() -> None:
            await trio.sleep(1.0)
            network.crash(B)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_soon)
            with pytest.raises(NoAnswer):  # broken off when the link is given up, long before the time-out
                await a.request(B, b"?", timeout_s=600.0)
        assert trio.current_time() < 1.0 + QUICK.detection_s + QUICK.detection_spread_s + 0.1
        assert cancelled.is_set()


@pytest.mark.parametrize("seen", [False, True], ids=["quietly", "seen"])
async def test_a_peer_that_restarts_keeps_its_address(seen: bool, autojump_clock: MockClock) -> None:
    quick = replace(QUICK, restart_seen=seen)
    async with simulate_network(quick) as network, network.join(A) as a, a.links() as changes:
        async with network.join(B) as first:
            address = first.addresses()[0]
            await a.dial(address)
            network.crash(B)
        async with network.join(B) as second:
            second.serve(echo, Empty())
            await second.dial(a.addresses()[0])  # long before a would have noticed the crash
            for told in (LinkUp(B), *((LinkDown(B), LinkUp(B)) if seen else ())):
                assert await changes.receive() == told
            assert second.addresses() == (address,)
            assert await a.request(B, b"x", timeout_s=1.0) == b"x"
            await trio.sleep(60.0)  # the old link's silence is nobody's concern any more
            assert a.peers() == {B}
            with pytest.raises(trio.WouldBlock):
                changes.receive_nowait()


@pytest.mark.parametrize(("seen", "broken_after_s"), [(False, QUICK.replaced_s), (True, 0.0)], ids=["quietly", "seen"])
async def test_what_was_asked_before_a_restart_is_broken_off(
    seen: bool, broken_after_s: float, autojump_clock: MockClock
) -> None:
    quick = replace(QUICK, restart_seen=seen)
    async with simulate_network(quick) as network, network.join(A) as a, trio.open_nursery() as nursery:
        async with network.join(B) as first:
            first.serve(echo, Empty())
            await a.dial(first.addresses()[0])
            network.crash(B)
        broken_at: list[float] = []

        async def ask() -> None:
            with pytest.raises(NoAnswer):
                await a.request(B, b"?", timeout_s=600.0)
            broken_at.append(trio.current_time())

        nursery.start_soon(ask)
        await trio.sleep(1.0)
        async with network.join(B) as second:
            start = trio.current_time()
            await second.dial(a.addresses()[0])
            await trio.sleep(10.0)
        assert broken_at[0] - start == pytest.approx(broken_after_s, abs=0.1)


async def test_a_short_pause_delays_and_loses_nothing(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, b, _]), a.links() as changes, a.subscribe("t") as heard:
        network.pause(B)
        with pytest.raises(NoAnswer):
            await a.request(B, b"?", timeout_s=1.0)
        await b.publish("t", b"said while stopped")
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await a.request(B, b"late", timeout_s=10.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(4.0)
            with pytest.raises(trio.WouldBlock):
                heard.receive_nowait()
            network.resume(B)
        assert answers == [b"late"]
        assert (await heard.receive()).frame == b"said while stopped"
        await trio.sleep(100.0)
        assert [changes.receive_nowait() for _ in range(2)] == [LinkUp(B), LinkUp(C)]
        with pytest.raises(trio.WouldBlock):
            changes.receive_nowait()


async def test_a_long_pause_costs_the_links(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, b, c]):
        network.pause(B)
        await trio.sleep(100.0)
        assert a.peers() == {C}
        assert b.peers() == {A, C}  # it has noticed nothing
        network.resume(B)
        await trio.sleep(1.0)
        assert b.peers() == frozenset()
        await b.dial(c.addresses()[0])
        assert await c.request(B, b"x", timeout_s=1.0) == b"x"


async def test_a_partition_that_heals_in_time_keeps_the_links(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, _, _]):
        network.partition([{A}, {B}])
        with pytest.raises(NoAnswer):
            await a.request(B, b"?", timeout_s=5.0)
        assert await a.request(C, b"x", timeout_s=5.0) == b"x"  # in no group
        network.heal()
        assert await a.request(B, b"x", timeout_s=5.0) == b"x"
        await trio.sleep(100.0)
        assert a.peers() == {B, C}


async def test_a_partition_that_lasts_takes_the_links_down_at_both_ends(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, b, c]):
        network.partition([{A}, {B, C}])
        await trio.sleep(QUICK.detection_s + QUICK.detection_spread_s)
        assert a.peers() == frozenset()
        assert b.peers() == {C}
        assert c.peers() == {B}
        a.know(B, b.addresses())
        with pytest.raises(Unreachable):
            await a.request(B, b"?", timeout_s=60.0)
        network.heal()
        await trio.sleep(100.0)
        assert a.peers() == frozenset()  # nobody has dialled
        assert await a.request(B, b"x", timeout_s=5.0) == b"x"


async def test_a_one_way_cut_loses_the_answers(autojump_clock: MockClock) -> None:
    asked: list[bytes] = []

    async def remember(peer: PeerId, frame: bytes) -> bytes:
        asked.append(frame)
        return frame

    async with simulate_network(QUICK) as network, network.join(A) as a, network.join(B) as b:
        for node in (a, b):
            node.serve(remember, Empty())
        network.link(A, B)
        network.cut({B}, {A})
        with pytest.raises(NoAnswer):
            await a.request(B, b"got there", timeout_s=1.0)
        with pytest.raises(NoAnswer):
            await b.request(A, b"did not", timeout_s=1.0)
        assert asked == [b"got there"]
        await trio.sleep(30.0)
        assert a.peers() == b.peers() == frozenset()


async def test_a_farewell_that_is_lost_leaves_no_half_open_link(autojump_clock: MockClock) -> None:
    async with trio_of_nodes() as (network, [a, b, _]):
        network.cut({A}, {B})
        await a.drop(B)
        network.heal()
        assert A in b.peers()
        await trio.sleep(30.0)
        assert A not in b.peers()


async def test_two_that_dial_each_other_at_once_share_one_link(autojump_clock: MockClock) -> None:
    async with simulate_network(QUICK) as network, network.join(A) as a, network.join(B) as b:
        b.serve(echo, Empty())
        a.serve(echo, Empty())
        async with a.links() as at_a, b.links() as at_b, trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, b.addresses()[0])
            nursery.start_soon(b.dial, a.addresses()[0])
            assert await at_a.receive() == LinkUp(B)
            assert await at_b.receive() == LinkUp(A)
            await trio.sleep(30.0)
            assert await a.request(B, b"x", timeout_s=1.0) == b"x"
            assert await b.request(A, b"x", timeout_s=1.0) == b"x"
            for channel in (at_a, at_b):
                with pytest.raises(trio.WouldBlock):
                    channel.receive_nowait()


async def test_a_call_whose_caller_has_hung_up_leaves_no_half_open_link(autojump_clock: MockClock) -> None:
    """b is far and calls a; a calls b meanwhile and is answered, so b hangs up before its own call comes in."""
    far = Conditions(delay=lambda source, target: 0.5 if source == B else 0.01, jitter=0.0)
    async with simulate_network(far) as network, AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(network.join(peer)) for peer in (A, B)]
        for node, other in ((a, b), (b, a)):
            node.serve(echo, Empty())
            node.know(other.me, other.addresses())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.dial, a.addresses()[0])
            await trio.sleep(0.001)
            nursery.start_soon(a.dial, b.addresses()[0])
        await trio.sleep(5)
        assert await a.request(B, b"here?", timeout_s=2) == b"here?"
        assert await b.request(A, b"here?", timeout_s=2) == b"here?"
