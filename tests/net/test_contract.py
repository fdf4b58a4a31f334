"""What `protocols.transport.Transport` promises, tried on both networks that keep the promise.

Every test names `clock` among its own arguments, because that is where pytest-trio looks for virtual time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
import trio

from gossipnode.net.simulated_conditions import REQUEST_OVERHEAD_BYTES
from protocols import limits
from protocols.transport import (
    BadAddress,
    BlobSource,
    BlobStream,
    Gossip,
    LinkDown,
    LinkUp,
    NoAnswer,
    NotHeld,
    Transport,
    TransportError,
    Unreachable,
)
from sampling.peers import PeerId
from verify.digest import digest_of

BLOB = random.Random(3).randbytes(3 * limits.MIB)
TOPIC = "news"
ENOUGH_S = 10.0  # for anything that is expected to succeed
QUIET_S = 0.3  # in which a second copy of something would have come

Shelf = Callable[..., BlobSource]


class Swarm(Protocol):
    """As conftest.py makes it."""

    nowhere: str
    stranger: PeerId

    def __call__(self, n: int, **how: object) -> AbstractAsyncContextManager[list[Transport]]: ...


# -- questions --------------------------------------------------------------------------------------------------------
async def test_a_question_is_answered_both_ways_by_who_it_was_put_to(swarm: Swarm, clock: object) -> None:
    async def introduce(peer: PeerId, frame: bytes) -> bytes:
        return frame + b" from " + peer.encode()

    async with swarm(2, answer=introduce) as [a, b]:
        assert await a.request(b.me, b"hello", timeout_s=ENOUGH_S) == b"hello from " + a.me.encode()
        assert await b.request(a.me, b"", timeout_s=ENOUGH_S) == b" from " + b.me.encode()


async def test_a_node_asks_itself_without_the_network(swarm: Swarm, clock: object) -> None:
    async with swarm(1) as [a]:
        before = a.traffic()
        assert await a.request(a.me, b"x", timeout_s=ENOUGH_S) == b"x"
        assert a.traffic() == before


async def test_a_slow_answer_does_not_delay_the_next(swarm: Swarm, clock: object) -> None:
    later = trio.Event()

    async def answer(peer: PeerId, frame: bytes) -> bytes:
        if frame == b"slow":
            await later.wait()
        return frame

    async with swarm(2, answer=answer) as [a, b]:
        answers: list[bytes] = []

        async def ask(frame: bytes) -> None:
            answers.append(await a.request(b.me, frame, timeout_s=ENOUGH_S))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, b"slow")
            await ask(b"quick")
            later.set()
        assert answers == [b"quick", b"slow"]


async def test_no_answer_in_time_is_no_answer(swarm: Swarm, clock: object) -> None:
    async def never(peer: PeerId, frame: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with swarm(2, answer=never) as [a, b]:
        start = trio.current_time()
        with pytest.raises(NoAnswer):
            await a.request(b.me, b"?", timeout_s=0.4)
        assert 0.4 <= trio.current_time() - start < 2.0
        with pytest.raises(NoAnswer):
            await a.request(a.me, b"?", timeout_s=0.1)


async def test_a_stranger_is_unreachable(swarm: Swarm, clock: object) -> None:
    async with swarm(1) as [a]:
        with pytest.raises(Unreachable):
            await a.request(swarm.stranger, b"?", timeout_s=ENOUGH_S)
        with pytest.raises(Unreachable):
            async with a.fetch(swarm.stranger, digest_of(BLOB)):
                pass
        a.know(swarm.stranger, [swarm.nowhere])
        with pytest.raises(Unreachable):
            await a.request(swarm.stranger, b"?", timeout_s=ENOUGH_S)


async def test_a_known_peer_is_dialled_on_demand(swarm: Swarm, clock: object) -> None:
    async with swarm(2, linked=False) as [a, b]:
        assert a.peers() == b.peers() == frozenset()
        a.know(b.me, [swarm.nowhere, *b.addresses()])
        assert await a.request(b.me, b"x", timeout_s=ENOUGH_S) == b"x"
        assert a.peers() == {b.me}


async def test_an_address_that_was_dialled_is_not_thereby_known(swarm: Swarm, clock: object) -> None:
    async with swarm(2) as [a, b]:
        await a.drop(b.me)
        with pytest.raises(Unreachable):
            await a.request(b.me, b"?", timeout_s=ENOUGH_S)
        a.know(b.me, b.addresses())
        assert await a.request(b.me, b"x", timeout_s=ENOUGH_S) == b"x"


async def test_an_answer_that_raises_closes_its_own_stream_only(
    swarm: Swarm, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(peer: PeerId, frame: bytes) -> bytes:
        if frame == b"bad":
            raise ValueError("our own bug")
        return frame

    async with swarm(2, answer=answer) as [a, b]:
        with pytest.raises(NoAnswer):
            await a.request(b.me, b"bad", timeout_s=ENOUGH_S)
        with pytest.raises(NoAnswer):
            await a.request(a.me, b"bad", timeout_s=ENOUGH_S)
        assert await a.request(b.me, b"good", timeout_s=ENOUGH_S) == b"good"
    assert "our own bug" in caplog.text


async def test_the_longest_frame_passes_and_a_longer_one_is_our_own_bug(swarm: Swarm, clock: object) -> None:
    frame = bytes(limits.FRAME_BYTES)
    async with swarm(2) as [a, b]:
        assert await a.request(b.me, frame, timeout_s=ENOUGH_S) == frame
        with pytest.raises(AssertionError):
            await a.request(b.me, frame + b"!", timeout_s=ENOUGH_S)
        with pytest.raises(AssertionError):
            await a.publish(TOPIC, bytes(limits.GOSSIP_BYTES + 1))
        assert await a.request(b.me, b"still here", timeout_s=ENOUGH_S) == b"still here"


async def test_an_answer_that_is_too_long_is_no_answer(swarm: Swarm, clock: object) -> None:
    async def answer(peer: PeerId, frame: bytes) -> bytes:
        return bytes(limits.FRAME_BYTES + 1) if frame == b"long" else frame

    async with swarm(2, answer=answer) as [a, b]:
        with pytest.raises(NoAnswer):
            await a.request(b.me, b"long", timeout_s=ENOUGH_S)
        assert await a.request(b.me, b"short", timeout_s=ENOUGH_S) == b"short"


async def test_questions_beyond_the_limit_are_cut_off_and_the_rest_answered(swarm: Swarm, clock: object) -> None:
    full, cut_off, asked = trio.Event(), trio.Event(), 4 * limits.INBOUND_REQUESTS_PER_PEER
    results: Counter[str] = Counter()
    answering = 0

    async def answer(peer: PeerId, frame: bytes) -> bytes:
        nonlocal answering
        answering += 1
        if answering == limits.INBOUND_REQUESTS_PER_PEER:
            full.set()
        await cut_off.wait()
        return frame

    async with swarm(2, answer=answer) as [a, b]:

        async def ask() -> None:
            try:
                await a.request(b.me, b"x", timeout_s=ENOUGH_S)
            except NoAnswer:
                results["cut off"] += 1
            else:
                results["answered"] += 1
            if results["cut off"] == asked - limits.INBOUND_REQUESTS_PER_PEER:
                cut_off.set()

        async with trio.open_nursery() as nursery:
            for _ in range(asked):
                nursery.start_soon(ask)
            await full.wait()
        assert results == {
            "answered": limits.INBOUND_REQUESTS_PER_PEER,
            "cut off": asked - limits.INBOUND_REQUESTS_PER_PEER,
        }
        assert await a.request(b.me, b"still here", timeout_s=ENOUGH_S) == b"still here"


# -- addresses and links ----------------------------------------------------------------------------------------------
async def test_dialling_tells_who_answers(swarm: Swarm, clock: object) -> None:
    async with swarm(2, linked=False) as [a, b]:
        assert b.addresses()[0].endswith(f"/p2p/{b.me}")
        assert await a.dial(b.addresses()[0]) == b.me
        assert await a.dial(b.addresses()[0]) == b.me  # a second time is no error
        assert a.peers() == {b.me}


async def test_bad_addresses(swarm: Swarm, clock: object) -> None:
    async with swarm(3, linked=False) as [a, b, c]:
        address = b.addresses()[0]
        nobody = address.removesuffix(f"/p2p/{b.me}")
        someone_else = address.replace(b.me, c.me)
        for bad in ("", "nonsense", "/", "/ip4/1.2.3/tcp/x", nobody, someone_else, address + "\0"):
            with pytest.raises(BadAddress):
                await a.dial(bad)
        with pytest.raises(Unreachable):
            await a.dial(swarm.nowhere)
        assert a.peers() == frozenset()


async def test_link_events_follow_the_snapshot(swarm: Swarm, clock: object) -> None:
    async with swarm(2, linked=False) as [a, b], a.links() as at_a, b.links() as at_b:
        await a.dial(b.addresses()[0])
        assert await at_a.receive() == LinkUp(b.me)
        assert await at_b.receive() == LinkUp(a.me)
        async with a.links() as snapshot:
            assert await snapshot.receive() == LinkUp(b.me)
        await a.drop(b.me)
        assert await at_a.receive() == LinkDown(b.me)
        assert await at_b.receive() == LinkDown(a.me)
        assert a.peers() == b.peers() == frozenset()


async def test_a_dropped_peer_may_come_back(swarm: Swarm, clock: object) -> None:
    async with swarm(2) as [a, b], b.links() as at_b:
        assert await at_b.receive() == LinkUp(a.me)
        await a.drop(b.me)
        assert await at_b.receive() == LinkDown(a.me)
        await b.dial(a.addresses()[0])
        assert await at_b.receive() == LinkUp(a.me)
        assert await b.request(a.me, b"x", timeout_s=ENOUGH_S) == b"x"


async def test_a_refused_peer_may_not(swarm: Swarm, clock: object) -> None:
    async with swarm(2) as [a, b], b.links() as at_b:
        assert await at_b.receive() == LinkUp(a.me)
        a.refuse(b.me)
        await a.drop(b.me)
        assert await at_b.receive() == LinkDown(a.me)
        with pytest.raises(TransportError):
            await b.request(a.me, b"let me in", timeout_s=2.0)
        a.know(b.me, b.addresses())
        with pytest.raises(Unreachable):
            await a.request(b.me, b"?", timeout_s=2.0)
        with pytest.raises(Unreachable):
            await a.dial(b.addresses()[0])
        assert a.peers() == frozenset()


async def test_dropping_a_peer_ends_what_it_was_asked(swarm: Swarm, clock: object) -> None:
    asked = trio.Event()

    async def never(peer: PeerId, frame: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async with swarm(2, answer=never) as [a, b], trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(NoAnswer):
                await a.request(b.me, b"?", timeout_s=600.0)

        nursery.start_soon(ask)
        await asked.wait()
        await a.drop(b.me)


# -- blobs ------------------------------------------------------------------------------------------------------------
async def read(stream: BlobStream) -> bytes:
    data = bytearray()
    while piece := await stream.receive_some():
        assert len(piece) <= limits.CHUNK_BYTES
        data += piece
    return bytes(data)


@pytest.mark.parametrize("offset", [0, 1_234_567, len(BLOB)])
async def test_a_blob_arrives_whole_from_any_offset(swarm: Swarm, clock: object, shelf: Shelf, offset: int) -> None:
    async with swarm(2, blobs=shelf(BLOB)) as [a, b]:
        async with a.fetch(b.me, digest_of(BLOB), offset=offset) as stream:
            assert stream.size == len(BLOB)
            assert await read(stream) == BLOB[offset:]
            assert await stream.receive_some() == b""
        moved = len(BLOB) - offset
        assert (a.traffic().blob_received, b.traffic().blob_sent) == (moved, moved)
        assert a.traffic().wire_received >= moved
        assert b.traffic().wire_sent >= moved


async def test_a_node_fetches_from_itself(swarm: Swarm, clock: object, shelf: Shelf) -> None:
    async with swarm(1, blobs=shelf(BLOB)) as [a]:
        async with a.fetch(a.me, digest_of(BLOB), offset=7) as stream:
            assert await read(stream) == BLOB[7:]
        with pytest.raises(NotHeld):
            async with a.fetch(a.me, digest_of(b"another")):
                pass


async def test_what_is_not_held_is_said_so(swarm: Swarm, clock: object, shelf: Shelf) -> None:
    async with swarm(2, blobs=shelf(b"small")) as [a, b]:
        with pytest.raises(NotHeld):
            async with a.fetch(b.me, digest_of(b"another")):
                pass
        with pytest.raises(NotHeld):
            async with a.fetch(b.me, digest_of(b"small"), offset=6):
                pass
        async with a.fetch(b.me, digest_of(b"small")) as stream:
            assert await read(stream) == b"small"


async def test_a_blob_that_vanishes_ends_early(swarm: Swarm, clock: object, shelf: Shelf) -> None:
    cut_at = limits.MIB + 5
    async with swarm(2, blobs=shelf(BLOB, cut_at=cut_at)) as [a, b]:
        async with a.fetch(b.me, digest_of(BLOB)) as stream:
            data = bytearray()
            try:
                while piece := await stream.receive_some():
                    data += piece
            except NoAnswer:
                pass
            assert stream.size == len(BLOB)
            assert data == BLOB[: len(data)]
            assert len(data) <= cut_at
        assert await a.request(b.me, b"still here", timeout_s=ENOUGH_S) == b"still here"


async def test_a_fetch_left_early_frees_its_place(swarm: Swarm, clock: object, shelf: Shelf) -> None:
    async with swarm(2, blobs=shelf(BLOB)) as [a, b]:
        for _ in range(limits.INBOUND_FETCHES_PER_PEER):
            async with a.fetch(b.me, digest_of(BLOB)) as stream:
                assert await stream.receive_some()
            assert await a.request(b.me, b"x", timeout_s=ENOUGH_S) == b"x"
        async with a.fetch(b.me, digest_of(BLOB)) as stream:
            assert await read(stream) == BLOB


async def test_blobs_and_questions_share_a_link(swarm: Swarm, clock: object, shelf: Shelf) -> None:
    async with swarm(2, blobs=shelf(BLOB)) as [a, b]:
        blobs: list[bytes] = []

        async def fetch() -> None:
            async with a.fetch(b.me, digest_of(BLOB)) as stream:
                blobs.append(await read(stream))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch)
            assert await a.request(b.me, b"meanwhile", timeout_s=ENOUGH_S) == b"meanwhile"
        assert blobs == [BLOB] * 3


# -- gossip -----------------------------------------------------------------------------------------------------------
Channel = trio.MemoryReceiveChannel[Gossip]


async def until_heard(publisher: Transport, channels: list[Channel]) -> None:
    """Publish until every subscriber has heard something: a real mesh takes a moment to form."""
    for channel in channels:
        heard = False
        while not heard:
            await publisher.publish(TOPIC, b"probe")
            with trio.move_on_after(QUIET_S):
                await channel.receive()
                heard = True
    for channel in channels:
        await rest_of(channel)


async def rest_of(channel: Channel) -> list[Gossip]:
    """What still comes until it has been quiet for a while."""
    heard: list[Gossip] = []
    quiet = False
    while not quiet:
        with trio.move_on_after(QUIET_S) as scope:
            heard.append(await channel.receive())
        quiet = scope.cancelled_caught
    return heard


async def test_gossip_reaches_each_subscriber_once_but_not_ourselves(swarm: Swarm, clock: object) -> None:
    async with (
        swarm(3) as [a, b, c],
        a.subscribe(TOPIC) as at_a,
        b.subscribe(TOPIC) as at_b,
        c.subscribe(TOPIC) as at_c,
        c.subscribe("other") as elsewhere,
    ):
        await until_heard(a, [at_b, at_c])
        before = a.traffic()
        for number in range(3):
            await a.publish(TOPIC, b"message %d" % number)
        expected = {Gossip(a.me, b"message %d" % number) for number in range(3)}
        for channel in (at_b, at_c):
            heard = await rest_of(channel)
            assert len(heard) == 3
            assert set(heard) == expected
        for silent in (at_a, elsewhere):
            with pytest.raises(trio.WouldBlock):
                silent.receive_nowait()
        assert a.traffic().wire_sent > before.wire_sent + 3 * len(b"message 0")


async def test_relayed_gossip_keeps_its_origin(swarm: Swarm, clock: object) -> None:
    async with (
        swarm(3, linked=False) as [a, b, c],
        b.subscribe(TOPIC),
        c.subscribe(TOPIC) as at_c,
        a.subscribe(TOPIC),
    ):
        await a.dial(b.addresses()[0])
        await c.dial(b.addresses()[0])
        await until_heard(a, [at_c])
        await a.publish(TOPIC, b"by way of b")
        assert await at_c.receive() == Gossip(a.me, b"by way of b")
        assert c.peers() == {b.me}


async def test_a_slow_subscriber_loses_the_oldest_and_it_is_counted(swarm: Swarm, clock: object) -> None:
    async with swarm(2) as [a, b], b.subscribe(TOPIC) as slow, b.subscribe(TOPIC) as quick:
        await until_heard(a, [quick])
        await rest_of(slow)
        before = b.traffic().gossip_dropped
        for number in range(limits.GOSSIP_QUEUE + 3):
            heard = False
            while not heard:  # one after the other, and again if the network has lost it
                await a.publish(TOPIC, b"%d" % number)
                with trio.move_on_after(2.0):
                    await quick.receive()
                    heard = True
        dropped = b.traffic().gossip_dropped - before
        assert dropped >= 3
        assert int((await slow.receive()).frame) >= 3


# -- traffic ----------------------------------------------------------------------------------------------------------
async def test_questions_cost_what_they_carry(swarm: Swarm, clock: object) -> None:
    async with swarm(2) as [a, b]:
        before_a, before_b = a.traffic(), b.traffic()
        await a.request(b.me, bytes(10_000), timeout_s=ENOUGH_S)
        after_a, after_b = a.traffic(), b.traffic()
        assert 10_000 < after_a.wire_sent - before_a.wire_sent < 20_000
        assert 10_000 < after_a.wire_received - before_a.wire_received < 20_000
        assert 10_000 < after_b.wire_sent - before_b.wire_sent < 20_000
        assert after_a.blob_sent == after_a.blob_received == 0


async def test_a_questions_overhead_is_what_the_simulation_charges(swarm: Swarm, clock: object) -> None:
    """Within what a gossip heartbeat or the rest of a handshake may add meanwhile."""
    async with swarm(2) as [a, b]:
        await a.request(b.me, b"warm", timeout_s=ENOUGH_S)
        before, times = a.traffic(), 20
        for _ in range(times):
            await a.request(b.me, bytes(100), timeout_s=ENOUGH_S)
        after = a.traffic()
        for sent in (after.wire_sent - before.wire_sent, after.wire_received - before.wire_received):
            assert REQUEST_OVERHEAD_BYTES - 75 < sent / times - 100 < REQUEST_OVERHEAD_BYTES + 225
