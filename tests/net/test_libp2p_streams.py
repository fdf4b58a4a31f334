"""Questions and blobs over real sockets, against peers that stall, lie, break off and ask too much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from libp2p.abc import INetStream

from gossipnode.net.libp2p import addresses, bulk, questions
from gossipnode.net.libp2p.guards import BROKEN
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from protocols import limits
from protocols.rates import Admission, Grant, Rates
from protocols.transport import NoAnswer, NotHeld
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

A, B = PeerId("a"), PeerId("b")


class Shelf:
    """Blobs in memory. Those with a `cut_at` vanish there while they are read."""

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


Handler = Callable[[INetStream], Awaitable[None]]


@asynccontextmanager
async def pair(
    shelf: Shelf | None = None, *, on_fault: Callable[[PeerId | None, str], None] | None = None
) -> AsyncIterator[tuple[Libp2pTransport, Libp2pTransport]]:
    """An asker, whose faults are reported, linked to who answers it from the shelf."""
    async with open_libp2p(b"1" * 32, on_fault=on_fault) as asker, open_libp2p(b"2" * 32, on_fault=on_fault) as other:
        for node in (asker, other):
            node.serve(echo, shelf or Shelf())
        await asker.dial(other.addresses()[0])
        yield asker, other


def instead(node: Libp2pTransport, protocol: str, handler: Handler) -> None:
    node._pubsub.host.set_stream_handler(protocol, handler)


async def read_all(asker: Libp2pTransport, peer: PeerId, digest: Digest, offset: int = 0) -> bytes:
    async with asker.fetch(peer, digest, offset=offset) as blob:
        parts = []
        while data := await blob.receive_some():
            parts.append(data)
        assert await blob.receive_some() == b""
        return b"".join(parts)


# -- limits, without a network ----------------------------------------------------------------------------------------


def test_admission_counts_a_peers_and_everybodys() -> None:
    admission = Admission[PeerId](per_peer=2, total=5)
    with admission.admitted(A) as one, admission.admitted(A) as two, admission.admitted(A) as three:
        assert (one, two, three) == (Grant.YES, Grant.YES, Grant.TOO_FAST)
        with admission.admitted(B) as four, admission.admitted(B) as five:
            assert (four, five) == (Grant.YES, Grant.CROWDED)  # half are taken
    with admission.admitted(A) as again:
        assert again is Grant.YES


def test_admission_ends_where_all_are_taken() -> None:
    admission = Admission[PeerId](per_peer=1, total=1)
    with admission.admitted(A) as one, admission.admitted(B) as two:
        assert (one, two) == (Grant.YES, Grant.CROWDED)


# -- questions ----------------------------------------------------------------------------------------------------


async def test_a_flood_of_questions_is_cut_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[tuple[PeerId | None, str]] = []
    async with pair(on_fault=lambda peer, kind: faults.append((peer, kind))) as (asker, other):
        rates = Rates[PeerId](3, 100, remembered=10)
        monkeypatch.setattr(other._questions, "_rates", rates)
        monkeypatch.setattr(rates, "take", lambda peer, now: Rates.take(rates, peer, 0.0))
        for i in range(3):
            assert await asker.request(other.me, b"%d" % i, timeout_s=5) == b"%d" % i
        with pytest.raises(NoAnswer, match="broke off"):
            await asker.request(other.me, b"one too many", timeout_s=5)
        assert faults == [(asker.me, "flood")]
        assert await other.request(asker.me, b"the other way", timeout_s=5) == b"the other way"


async def test_an_answer_beyond_the_limit_is_not_read() -> None:
    async with pair() as (asker, other):

        async def boast(stream: INetStream) -> None:
            await stream.write(b"\xff\xff\xff\x7f" + bytes(1000))

        instead(other, questions.PROTOCOL, boast)
        with pytest.raises(NoAnswer, match="broke off"):
            await asker.request(other.me, b"?", timeout_s=5)


async def test_a_peer_that_takes_no_questions_says_so() -> None:
    async with open_libp2p(b"1" * 32) as asker, open_libp2p(b"2" * 32) as mute:
        await asker.dial(mute.addresses()[0])
        with pytest.raises(NoAnswer, match="takes no questions"):
            await asker.request(mute.me, b"?", timeout_s=5)


async def test_a_question_cut_short_does_no_harm() -> None:
    async with pair() as (asker, other):
        raw = addresses.peer_id(other.me)
        for part in (b"", b"\x05", b"\x05ab", b"\x02\x07x"):  # nothing, no body, half a body, no frame
            stream = await asker._pubsub.host.new_stream(raw, [questions.PROTOCOL])
            await stream.write(part)
            await stream.reset()
        assert await asker.request(other.me, b"whole", timeout_s=5) == b"whole"


async def test_a_link_lost_meanwhile_is_no_answer() -> None:
    asked = trio.Event()

    async def dawdle(peer: PeerId, frame: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()

    async with open_libp2p(b"1" * 32) as asker, open_libp2p(b"2" * 32) as other, trio.open_nursery() as nursery:
        other.serve(dawdle, Shelf())
        await asker.dial(other.addresses()[0])

        async def part() -> None:
            await asked.wait()
            await other.drop(asker.me)

        nursery.start_soon(part)
        with trio.fail_after(5), pytest.raises(NoAnswer, match="broke off"):
            await asker.request(other.me, b"?", timeout_s=60)


# -- blobs --------------------------------------------------------------------------------------------------------


async def test_a_blob_of_many_windows_arrives_and_is_counted() -> None:
    blob = bytes(range(256)) * 20_000
    async with pair(Shelf(blob)) as (asker, other):
        assert await read_all(asker, other.me, digest_of(blob)) == blob
        assert await read_all(asker, other.me, digest_of(blob), len(blob) - 3) == blob[-3:]
        assert asker.traffic().blob_received == other.traffic().blob_sent == len(blob) + 3
        assert other.traffic().wire_sent > len(blob)


async def test_a_peer_can_fetch_from_itself() -> None:
    async with pair(Shelf(b"mine")) as (asker, _):
        assert await read_all(asker, asker.me, digest_of(b"mine"), 1) == b"ine"
        with pytest.raises(NotHeld):
            await read_all(asker, asker.me, digest_of(b"other"))
        assert asker.traffic().blob_received == 0


async def test_a_sender_that_loses_the_blob_halfway_is_no_answer() -> None:
    blob = bytes(3 * limits.MIB)
    async with pair(Shelf(blob, cut_at=limits.MIB)) as (asker, other):
        with pytest.raises(NoAnswer, match="broke off"):
            await read_all(asker, other.me, digest_of(blob))


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_sender_that_ends_early_is_no_answer(half_close: bool) -> None:
    async with pair() as (asker, other):

        async def end_early(stream: INetStream) -> None:
            await stream.write(bulk.REPLY.pack(bulk.Status.HELD, 100) + b"only this")
            await (stream.close_write() if half_close else stream.close())
            await trio.sleep_forever()

        instead(other, bulk.PROTOCOL, end_early)
        with pytest.raises(NoAnswer, match="broke off with 91 bytes to go"):
            await read_all(asker, other.me, digest_of(b""))


async def test_a_sender_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IDLE_S", 0.05)
    async with pair() as (asker, other):

        async def stall(stream: INetStream) -> None:
            await stream.write(bulk.REPLY.pack(bulk.Status.HELD, 100) + b"x")
            await trio.sleep_forever()

        instead(other, bulk.PROTOCOL, stall)
        with pytest.raises(NoAnswer, match=r"sent nothing for 0\.05 s"):
            await read_all(asker, other.me, digest_of(b""))


async def test_a_sender_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "OPEN_S", 0.05)

    async def stall(stream: INetStream) -> None:
        await trio.sleep_forever()

    async with pair() as (asker, other):
        instead(other, bulk.PROTOCOL, stall)
        with pytest.raises(NoAnswer, match=r"did not answer within 0\.05 s"):
            await read_all(asker, other.me, digest_of(b""))


@pytest.mark.parametrize("reply", [(9, 0), (bulk.Status.HELD, limits.BLOB_BYTES + 1), (bulk.Status.HELD, 4)])
async def test_nonsense_for_an_answer_is_reported(reply: tuple[int, int]) -> None:
    faults: list[tuple[PeerId | None, str]] = []
    async with pair(on_fault=lambda peer, kind: faults.append((peer, kind))) as (asker, other):

        async def lie(stream: INetStream) -> None:
            await stream.write(bulk.REPLY.pack(*reply))

        instead(other, bulk.PROTOCOL, lie)
        with pytest.raises(NoAnswer, match="nonsense"):
            await read_all(asker, other.me, digest_of(b""), 5)
        assert faults == [(other.me, "garbage")]


async def test_receivers_that_do_not_read_take_only_their_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK_S", 0.3)
    blob = bytes(20 * limits.MIB)
    async with pair(Shelf(blob)) as (asker, other):
        digest = digest_of(blob)
        async with AsyncExitStack() as stack:
            for _ in range(limits.INBOUND_FETCHES_PER_PEER):
                await stack.enter_async_context(asker.fetch(other.me, digest))
            with pytest.raises(NoAnswer, match="is busy"):
                await read_all(asker, other.me, digest)
            assert await asker.request(other.me, b"still", timeout_s=5) == b"still"
            with trio.fail_after(5):  # the stalled ones are cut without a word from the receiver
                while other._bulk._admission._open:  # noqa: ASYNC110  # a counter, which has no event
                    await trio.sleep(0.01)
        assert len(await read_all(asker, other.me, digest)) == len(blob)


async def test_ten_bytes_of_a_question_for_a_blob_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "OPEN_S", 0.2)
    async with pair(Shelf(b"x")) as (asker, other):
        raw = addresses.peer_id(other.me)
        stream = await asker._pubsub.host.new_stream(raw, [bulk.PROTOCOL])
        await stream.write(bytes(10))
        with trio.fail_after(5), suppress(*BROKEN):
            while await stream.read(1):
                raise AssertionError("an answer to half a question")
        assert await read_all(asker, other.me, digest_of(b"x")) == b"x"
