"""One question, one answer, over libp2p's request/response helper: bounded in size, number, rate and time.

A peer that asks too much is reset and reported, which costs it more than us. What `answer` raises is our own bug: it is
logged with its trace here, and the asker learns only that its stream broke.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.request_response import RequestContext, RequestResponse, RequestResponseConfig
from libp2p.request_response.codec import RequestResponseCodec
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from gossipnode.net.libp2p.addresses import name_of, peer_id
from gossipnode.net.libp2p.faults import Faults, one_line
from gossipnode.net.libp2p.guards import BROKEN, finish, reset
from protocols import limits
from protocols.rates import Grant, Rates
from protocols.transport import Answer, NoAnswer
from sampling.peers import PeerId

log = logging.getLogger("gossipnode.net")

PROTOCOL: Final = TProtocol("/gossipnode/ask/1")
ANSWER_S: Final = 30.0  # for reading a question, answering and sending; no caller of ours waits that long
MARK: Final = b"\x00"


class Codec(RequestResponseCodec[bytes, bytes]):
    """A frame behind one byte: libp2p waits for ever for the body of an empty message."""

    def encode_request(self, request: bytes) -> bytes:
        return MARK + request

    def decode_request(self, payload: bytes) -> bytes:
        if not payload.startswith(MARK):
            raise ValueError("no frame")
        return payload[len(MARK) :]

    def encode_response(self, response: bytes) -> bytes:
        return self.encode_request(response)

    def decode_response(self, payload: bytes) -> bytes:
        return self.decode_request(payload)


class Busy(Exception):
    """This question exceeds a limit. Ends its stream only."""


class Admission:
    """At most so many at once a peer, and so many in all."""

    def __init__(self, per_peer: int, total: int) -> None:
        self._per_peer = per_peer
        self._total = total
        self._open: Counter[PeerId] = Counter()

    @contextmanager
    def admitted(self, peer: PeerId) -> Iterator[bool]:
        if self._open[peer] >= self._per_peer or self._open.total() >= self._total:
            yield False
            return
        self._open[peer] += 1
        try:
            yield True
        finally:
            self._open[peer] -= 1
            self._open += Counter()  # forget the zeros


class Questions:
    def __init__(self, host: BasicHost, faults: Faults) -> None:
        self._host = host
        self._rpc = RequestResponse(host)
        self._codec = Codec()
        self._faults = faults
        self._admission = Admission(limits.INBOUND_REQUESTS_PER_PEER, limits.INBOUND_REQUESTS)
        # Remembered beyond the link, so that reconnecting does not refill a peer's bucket.
        self._rates = Rates[PeerId](limits.REQUESTS_PER_PEER_PER_S, limits.REQUESTS_PER_S, remembered=2 * limits.LINKS)
        self.answer: Answer | None = None

    def serve(self, answer: Answer) -> None:
        self.answer = answer
        self._rpc.set_handler(PROTOCOL, self._reply, self._codec, _config(ANSWER_S))

    async def _reply(self, question: bytes, context: RequestContext) -> bytes:
        peer = name_of(context.peer_id)
        match self._rates.take(peer, trio.current_time()):
            case Grant.TOO_FAST:
                self._faults.note(peer, "flood", "too many questions a second")
                raise Busy
            case Grant.CROWDED:
                raise Busy
        with self._admission.admitted(peer) as admitted:
            if not admitted:
                self._faults.note(peer, "flood", "too many questions at once")
                raise Busy
            return await self._answer(peer, question)

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
            answer = await read_varint_prefixed_bytes_limited(stream, len(MARK) + limits.FRAME_BYTES)
        except BaseException:
            await reset(stream)
            raise
        await finish(stream)
        if not answer.startswith(MARK):
            raise ParseError("no frame")
        return answer[len(MARK) :]

    async def ask_myself(self, me: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        with trio.move_on_after(timeout_s):
            try:
                return await self._answer(me, frame)
            except Busy as error:
                raise NoAnswer("our own answer failed") from error
        raise NoAnswer("we did not answer ourselves in time")


def _config(timeout_s: float) -> RequestResponseConfig:
    return RequestResponseConfig(
        timeout=max(timeout_s, 1e-3),
        max_request_size=len(MARK) + limits.FRAME_BYTES,
        max_response_size=len(MARK) + limits.FRAME_BYTES,
        max_concurrent_inbound=limits.INBOUND_REQUESTS,
    )
