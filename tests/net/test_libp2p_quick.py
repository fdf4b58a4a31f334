"""The parts of libp2p that are replaced for speed keep its promises: order, windows, an end for writers that stall."""

from __future__ import annotations

import os
import struct
from typing import cast

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    HEADER_SIZE,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
)

from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.libp2p import quick
from gossipnode.net.libp2p.transport import open_libp2p
from protocols.transport import NoAnswer
from sampling.peers import PeerId


class Frames:
    """In place of a yamux connection: what is written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.stream_buffers = {1: bytearray()}

    async def _write_frame(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written.append(data)

    def rtt(self) -> float:
        return 0.0

    def payloads(self) -> list[int]:
        return [len(frame) - HEADER_SIZE for frame in self.written]


@pytest.fixture
def frames() -> Frames:
    return Frames()


@pytest.fixture
def stream(frames: Frames) -> quick.QuickYamuxStream:
    return quick.QuickYamuxStream(1, cast("Yamux", frames), True)


async def test_a_free_lock_is_taken_without_a_turn() -> None:
    lock = quick.Lock()
    with trio.testing.assert_no_checkpoints():
        async with lock:
            pass


async def test_whoever_takes_locks_without_end_lets_others_run() -> None:
    lock = quick.Lock()
    with trio.testing.assert_checkpoints():
        for _ in range(quick.YIELD_EVERY):
            async with lock:
                pass


async def test_a_lock_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    lock, order = quick.Lock(), []

    async def take(number: int) -> None:
        async with lock:
            order.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, lock:
        for number in range(5):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]


async def test_a_frame_fills_one_noise_message(frames: Frames, stream: quick.QuickYamuxStream) -> None:
    await stream.write(bytes(100_000))
    assert frames.payloads() == [quick.PAYLOAD_BYTES, 100_000 - quick.PAYLOAD_BYTES]
    assert len(frames.written[0]) == 65_535 - 16


async def test_a_writer_goes_on_the_moment_its_window_opens(
    frames: Frames, stream: quick.QuickYamuxStream, autojump_clock: trio.testing.MockClock
) -> None:
    stream.send_window = 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, bytes(30))
        await trio.sleep(0.01)
        assert frames.payloads() == [10]
        stream.send_window += 100
        began = trio.current_time()
    assert frames.payloads() == [10, 20]
    assert trio.current_time() == began
    assert stream.send_window == 80


async def test_writers_take_turns(frames: Frames, stream: quick.QuickYamuxStream) -> None:
    async with trio.open_nursery() as nursery:
        for letter in (b"a", b"b"):
            nursery.start_soon(stream.write, letter * 70_000)
    whole = b"".join(frame[HEADER_SIZE:] for frame in frames.written)
    assert whole in (b"a" * 70_000 + b"b" * 70_000, b"b" * 70_000 + b"a" * 70_000)


async def test_a_peer_that_reads_nothing_ends_the_write(
    stream: quick.QuickYamuxStream, autojump_clock: trio.testing.MockClock
) -> None:
    stream.send_window = 0
    with pytest.raises(MuxedStreamError, match="window"):
        await stream.write(b"never")
    assert trio.current_time() == pytest.approx(quick.STALL_S)


async def test_a_stream_that_is_closed_ends_the_write(
    stream: quick.QuickYamuxStream, autojump_clock: trio.testing.MockClock
) -> None:
    stream.send_window = 0
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(MuxedStreamError, match="closed"):
                await stream.write(b"too late")

        nursery.start_soon(write)
        await trio.sleep(1)
        stream.closed = True
    assert trio.current_time() < 1 + 2 * quick.LOOK_S


async def test_the_sender_is_told_of_every_half_window_that_was_read(
    frames: Frames, stream: quick.QuickYamuxStream
) -> None:
    read = 0
    while not frames.written:
        read += 1000
        stream.recv_window -= 1000
        await stream._auto_tune_and_send_window_update(bytes_read=1000)
    assert DEFAULT_WINDOW_SIZE // 2 <= read < DEFAULT_WINDOW_SIZE // 2 + 1000
    _, kind, _, _, granted = struct.unpack(YAMUX_HEADER_FORMAT, frames.written[0])
    assert kind == TYPE_WINDOW_UPDATE
    assert granted >= read


async def test_the_transport_is_made_of_these_parts() -> None:
    """libp2p looks its classes up by name; if it stops doing so, this fails and not just the speed."""

    async def answer(sender: PeerId, frame: bytes) -> bytes:
        return frame

    async with open_libp2p(os.urandom(32)) as a, open_libp2p(os.urandom(32)) as b:
        a.serve(answer, MemoryBlobs(10**6))
        b.serve(answer, MemoryBlobs(10**6))
        await a.dial(b.addresses()[0])
        [conn] = a._links._open[b.me]
        stream = await conn.new_stream()
        assert isinstance(conn.muxed_conn, quick.QuickYamux)
        assert isinstance(stream, quick.QuickStream)
        assert isinstance(stream.muxed_stream, quick.QuickYamuxStream)
        await stream.reset()


async def test_a_question_whose_time_ran_out_while_linking_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_the_last_moment(peer: PeerId) -> None:
        pass

    async with open_libp2p(os.urandom(32)) as asker, open_libp2p(os.urandom(32)) as other:
        monkeypatch.setattr(asker._links, "connect", at_the_last_moment)
        with pytest.raises(NoAnswer):
            await asker.request(other.me, b"?", timeout_s=0.0)
