"""One question, one answer: libp2p's request/response wire format, bounded in size, number, rate and time.

Its own helper grants the same thirty seconds to a question that drips in as to our answer, counts a question from its
first byte, so that four peers could stop everybody's, and leaves streams open when it is cancelled. A peer that asks
too much is reset and reported, which costs it more than us. What `answer` raises is our own bug: it is logged with its
trace here, and the asker learns only that its stream broke.
"""

from __future__ import annotations

import logging
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from gossipnode.net.libp2p.addresses import name_of, peer_id
from gossipnode.net.libp2p.faults import Faults, one_line
from gossipnode.net.libp2p.guards import BROKEN, finish, reset
from protocols import limits
from protocols.rates import Admission, Grant, Rates
from protocols.transport import Answer, NoAnswer
from sampling.peers import PeerId

log = logging.getLogger("gossipnode.net")

PROTOCOL: Final = TProtocol("/gossipnode/ask/1")
READ_S: Final = 5.0  # for a question to come in: one that drips holds its stream no longer
ANSWER_S: Final = 30.0  # for answering and sending; no caller of ours waits that long
MARK: Final = b"\x00"  # before every frame: libp2p waits for ever for the body of an empty message


class Busy(Exception):
    """This question exceeds a limit. Ends its stream only."""


class Questions:
    def __init__(self, host: BasicHost, faults: Faults) -> None:
        self._host = host
        self._faults = faults
        self._admission = Admission[PeerId](limits.INBOUND_REQUESTS_PER_PEER, limits.INBOUND_REQUESTS)
        # Remembered beyond the link, so that reconnecting does not refill a peer's bucket.
        self._rates = Rates[PeerId](limits.REQUESTS_PER_PEER_PER_S, limits.REQUESTS_PER_S, remembered=2 * limits.LINKS)
        self.answer: Answer | None = None

    def serve(self, answer: Answer) -> None:
        self.answer = answer
        self._host.set_stream_handler(PROTOCOL, self._serve)

    async def _serve(self, stream: INetStream) -> None:
        peer = name_of(stream.muxed_conn.peer_id)
        try:
            with trio.fail_after(READ_S):
                question = await _read(stream)
            with trio.fail_after(ANSWER_S):
                await stream.write(encode_varint_prefixed(MARK + await self._reply(peer, question)))
            await finish(stream)
        except (trio.TooSlowError, Busy, *BROKEN) as error:
            log.debug("a question of %s was not answered: %s", peer, one_line(error))
            await reset(stream)

    async def _reply(self, peer: PeerId, question: bytes) -> bytes:
        self._judge(peer, self._rates.take(peer, trio.current_time()), "a second")
        with self._admission.admitted(peer) as admitted:
            self._judge(peer, admitted, "at once")
            return await self._answer(peer, question)

    def _judge(self, peer: PeerId, grant: Grant, how: str) -> None:
        """Raises Busy. Only what is a peer's own doing is held against it."""
        if grant is Grant.TOO_FAST:
            self._faults.note(peer, "flood", f"too many questions {how}")
        if grant is not Grant.YES:
            raise Busy(f"too many questions {how}")

    async def _answer(self, peer: PeerId, question: bytes) -> bytes:
        assert self.answer is not None, "serve() comes first"
        try:
            frame = await self.answer(peer, question)
            assert len(frame) <= limits.FRAME_BYTES, f"an answer of {len(frame)} bytes"
        except Exception:  # never expected; it must not take the host with it
            log.exception("our answer to %s failed", peer)
            raise Busy from None
        return frame

    async def ask(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        """Over an existing link. Raises NoAnswer."""
        with trio.move_on_after(timeout_s):
            try:
                stream = await self._host.new_stream(peer_id(peer), [PROTOCOL])
                return await self._exchange(stream, frame)
            except StreamFailure as error:
                raise NoAnswer(f"{peer} takes no questions: {one_line(error.__cause__ or error)}") from error
            except (ParseError, *BROKEN) as error:
                raise NoAnswer(f"{peer} broke off: {one_line(error.__cause__ or error)}") from error
        raise NoAnswer(f"{peer} did not answer in time")

    async def _exchange(self, stream: INetStream, frame: bytes) -> bytes:
        """As libp2p's own asking side, which leaves the stream open when it is cancelled."""
        try:
            await stream.write(encode_varint_prefixed(MARK + frame))
            answer = await _read(stream)
        except BaseException:
            await reset(stream)
            raise
        await finish(stream)
        return answer

    async def ask_myself(self, me: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        with trio.move_on_after(timeout_s):
            try:
                return await self._answer(me, frame)
            except Busy as error:
                raise NoAnswer("our own answer failed") from error
        raise NoAnswer("we did not answer ourselves in time")


async def _read(stream: INetStream) -> bytes:
    """Raises ParseError, which whoever serves reports as garbage, or one of BROKEN."""
    framed = await read_varint_prefixed_bytes_limited(stream, len(MARK) + limits.FRAME_BYTES)
    if not framed.startswith(MARK):
        raise ParseError("no frame")
    return framed[len(MARK) :]
