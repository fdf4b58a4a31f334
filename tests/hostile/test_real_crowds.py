"""Crowds on real sockets: connections by the thousand, questions that drip in, gossip without end. Whoever is linked is
answered meanwhile, a newcomer gets in, and this process grows by no more than a named bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest
import trio

from gossipnode.net.libp2p import addresses, sockets
from gossipnode.net.libp2p.questions import PROTOCOL as ASK
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from gossipnode.net.trimming import surplus
from protocols import limits
from protocols.transport import LinkDown, LinkUp, Unreachable
from sampling.peers import PeerId
from verify.digest import Digest

Faults = list[tuple[PeerId | None, str]]

GROWTH_BYTES = 100 * limits.MIB  # of this process, which holds both sides of every attack


class Nothing:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        raise AssertionError("nothing is held")


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


@asynccontextmanager
async def nodes(
    count: int, faults: list[tuple[PeerId | None, str]] | None = None
) -> AsyncIterator[list[Libp2pTransport]]:
    """The first one's faults are noted. None is linked."""

    def note(peer: PeerId | None, kind: str) -> None:
        if faults is not None:
            faults.append((peer, kind))

    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            made = [
                await stack.enter_async_context(open_libp2p(bytes([i]) * 32, on_fault=None if i > 1 else note))
                for i in range(1, count + 1)
            ]
            for each in made:
                each.serve(echo, Nothing())
            yield made


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


async def test_a_thousand_mute_connections_keep_nobody_out() -> None:
    before = resident()
    async with nodes(3) as [victim, friend, newcomer], AsyncExitStack() as stack:
        await friend.dial(victim.addresses()[0])
        port = int(victim.addresses()[0].split("/")[4])
        for _ in range(1000):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        assert await friend.request(victim.me, b"still", timeout_s=5) == b"still"
        with trio.fail_after(10):
            while True:  # the ration of this address has to refill first
                try:
                    await newcomer.dial(victim.addresses()[0])
                    break
                except Unreachable:
                    await trio.sleep(0.02)
        assert await newcomer.request(victim.me, b"hello", timeout_s=5) == b"hello"
    assert resident() - before < GROWTH_BYTES


async def test_the_longest_handshake_gives_way_to_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 1)
    monkeypatch.setattr(sockets, "HANDSHAKES", 3)
    async with nodes(2) as [victim, newcomer], AsyncExitStack() as stack:
        port = int(victim.addresses()[0].split("/")[4])
        for _ in range(10):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        await newcomer.dial(victim.addresses()[0])
        assert await newcomer.request(victim.me, b"in", timeout_s=5) == b"in"


async def test_questions_that_drip_in_keep_nobody_from_asking() -> None:
    async with nodes(3) as [victim, slow, friend]:
        for each in (slow, friend):
            await each.dial(victim.addresses()[0])
        for _ in range(60):
            stream = await slow._pubsub.host.new_stream(addresses.peer_id(victim.me), [ASK])
            await stream.write(b"\xff\x01\x00half a question")
        with trio.fail_after(5):
            for _ in range(5):
                assert await friend.request(victim.me, b"mine", timeout_s=5) == b"mine"


async def test_gossip_without_end_is_its_authors_flood_and_others_are_heard() -> None:
    faults: Faults = []
    before = resident()
    async with nodes(3, faults) as [victim, loud, friend], victim.subscribe("t") as heard:
        for each in (loud, friend):
            await each.dial(victim.addresses()[0])
            await each._pubsub.wait_for_peer(addresses.peer_id(victim.me))
        async with trio.open_nursery() as nursery:

            async def shout() -> None:
                while True:
                    await loud.publish("t", bytes(10_000))

            async def say() -> None:
                while True:
                    await friend.publish("t", b"friend")
                    await trio.sleep(0.05)

            nursery.start_soon(shout)
            nursery.start_soon(say)
            while (loud.me, "flood") not in faults:
                await heard.receive()
            while (await heard.receive()).origin != friend.me:
                pass
            nursery.cancel_scope.cancel()
    assert resident() - before < GROWTH_BYTES


async def test_links_that_nobody_uses_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS_KEPT", 2)
    async with nodes(5) as [hub, *others], trio.open_nursery() as nursery, hub.links() as changes:
        await hub.dial(others[0].addresses()[0])  # the operator's own word: kept
        for each in others[1:]:
            await each.dial(hub.addresses()[0])
        for _ in others:
            assert isinstance(await changes.receive(), LinkUp)
        hub._links._used_at = {each.me: -1e9 * (i + 1) for i, each in enumerate(others)}
        await others[1].request(hub.me, b"in use", timeout_s=5)
        hub._links.trim(nursery)
        assert {await changes.receive(), await changes.receive()} == {LinkDown(others[2].me), LinkDown(others[3].me)}


A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


@pytest.mark.parametrize(
    ("idle_s", "wanted", "closed"),
    [
        ({A: 100.0, B: 200.0}, (), []),  # as many as are kept
        ({A: 100.0, B: 200.0, C: 300.0}, (), [C]),
        ({A: 100.0, B: 200.0, C: 300.0}, (C,), [B]),
        ({A: 1.0, B: 2.0, C: 3.0}, (), []),  # all in use
        ({PeerId(str(i)): 20.0 for i in range(7)}, (), ["0", "1", "2", "3", "4"]),  # a crowd: sooner
    ],
)
def test_the_longest_idle_of_the_unwanted_give_way(
    monkeypatch: pytest.MonkeyPatch, idle_s: dict[PeerId, float], wanted: tuple[PeerId, ...], closed: list[PeerId]
) -> None:
    monkeypatch.setattr(limits, "LINKS_KEPT", 2)
    monkeypatch.setattr(limits, "LINKS_CROWDED", 6)
    assert surplus(idle_s, wanted) == closed
