"""Questions and answers between simulated peers, and the limits on what one peer may ask.

The limits are those of the real transport: what is too big, too fast or too many at once breaks that one stream, and
what is its sender's own doing is reported as its fault; what all ask together is nobody's. Invariant: a question is
settled once, by its first answer or by the end of its link.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from gossipnode.net.simulated_conditions import ANSWER_OVERHEAD_BYTES, FAREWELL_BYTES, REQUEST_OVERHEAD_BYTES
from gossipnode.net.simulated_links import Carried, Endpoint, Link
from protocols import limits
from protocols.rates import Admission, Grant, Rates
from protocols.transport import Answer, NoAnswer, Unreachable
from sampling.peers import PeerId

OnFault = Callable[[PeerId | None, str], None]

log = logging.getLogger(__name__)


class Question(Carried):
    __slots__ = ("frame", "number")
    kind = "question"

    def __init__(self, link: Link, sender: Endpoint, number: int, frame: bytes) -> None:
        super().__init__(link, sender, len(frame) + REQUEST_OVERHEAD_BYTES)
        self.number = number
        self.frame = frame


class Reply(Carried):
    """An answer, or None: the stream was reset."""

    __slots__ = ("frame", "number")
    kind = "answer"

    def __init__(self, link: Link, sender: Endpoint, number: int, frame: bytes | None) -> None:
        super().__init__(link, sender, FAREWELL_BYTES if frame is None else len(frame) + ANSWER_OVERHEAD_BYTES)
        self.number = number
        self.frame = frame


class _Pending:
    __slots__ = ("answer", "link", "settled")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.answer: bytes | None = None
        self.settled = trio.Event()


class Questions:
    def __init__(self, endpoint: Endpoint, tasks: trio.Nursery, on_fault: OnFault) -> None:
        self._endpoint = endpoint
        self._conditions = endpoint.wire.conditions
        self._tasks = tasks
        self._on_fault = on_fault
        self._answer: Answer | None = None
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._admission = Admission[PeerId](limits.INBOUND_REQUESTS_PER_PEER, limits.INBOUND_REQUESTS)
        # Remembered beyond the link, so that reconnecting does not refill a peer's bucket.
        self._rates = Rates[PeerId](limits.REQUESTS_PER_PEER_PER_S, limits.REQUESTS_PER_S, remembered=2 * limits.LINKS)
        endpoint.on(Question, self._asked)
        endpoint.on(Reply, self._answered)
        endpoint.on_down(self._broken)

    def serve(self, answer: Answer) -> None:
        assert self._answer is None, "serve() is called once"
        self._answer = answer

    # -- asking -------------------------------------------------------------------------------------------------------
    async def ask(self, peer: PeerId, frame: bytes, timeout_s: float) -> bytes:
        assert len(frame) <= limits.FRAME_BYTES, f"a question of {len(frame)} bytes"
        link: Link | None = None
        with trio.move_on_after(timeout_s):
            if peer == self._endpoint.me:
                return await self._ask_ourselves(frame)
            link = await self._endpoint.link_to(peer)
            return await self._exchange(link, frame)
        if link is None and peer != self._endpoint.me:
            raise Unreachable(f"{peer} could not be connected within {timeout_s:g} s")
        raise NoAnswer(f"no answer from {peer} within {timeout_s:g} s")

    async def _ask_ourselves(self, frame: bytes) -> bytes:
        answer = await self._answer_to(self._endpoint.me, frame)
        if answer is None:
            raise NoAnswer("our own answer failed")
        return answer

    async def _exchange(self, link: Link, frame: bytes) -> bytes:
        self._number += 1
        number, pending = self._number, _Pending(link)
        self._pending[number] = pending
        try:
            self._send(Question(link, self._endpoint, number, frame))
            if self._happens(self._conditions.request_duplication):
                self._send(Question(link, self._endpoint, number, frame))
            await pending.settled.wait()
        finally:
            del self._pending[number]
        if pending.answer is None:
            raise NoAnswer(f"{link.far(self._endpoint).me} broke off")
        return pending.answer

    def _answered(self, reply: Reply) -> None:
        pending = self._pending.get(reply.number)
        if pending is not None and not pending.settled.is_set():
            pending.answer = reply.frame
            pending.settled.set()

    def _broken(self, link: Link) -> None:
        for pending in self._pending.values():
            if pending.link is link:
                pending.settled.set()

    # -- answering ----------------------------------------------------------------------------------------------------
    def _asked(self, question: Question) -> None:
        peer = question.source.peer
        if len(question.frame) > limits.FRAME_BYTES:
            self._on_fault(peer, "garbage")
        elif self._answer is not None and self._granted(peer):
            self._tasks.start_soon(self._reply_to, question)
            return
        self._reply(question, None)

    def _granted(self, peer: PeerId) -> bool:
        """If so, `_reply_to` is to follow. Only what is a peer's own doing is held against it."""
        grant = self._rates.take(peer, trio.current_time())
        if grant is Grant.YES:
            grant = self._admission.enter(peer)
        if grant is Grant.TOO_FAST:
            self._on_fault(peer, "flood")
        return grant is Grant.YES

    async def _reply_to(self, question: Question) -> None:
        answer: bytes | None = None
        try:
            with trio.move_on_after(self._conditions.answer_s):
                answer = await self._answer_to(question.source.peer, question.frame)
            self._reply(question, answer)
        finally:
            self._admission.leave(question.source.peer)

    async def _answer_to(self, peer: PeerId, frame: bytes) -> bytes | None:
        if self._answer is None:
            return None
        try:
            answer = await self._answer(peer, frame)
        except Exception:  # the seam promises that whatever it raises ends this one stream
            log.exception("answering %s failed", peer)
            return None
        if len(answer) > limits.FRAME_BYTES:
            log.error("an answer to %s of %d bytes is too long to send", peer, len(answer))
            return None
        return answer

    def _reply(self, question: Question, frame: bytes | None) -> None:
        self._send(Reply(question.link, self._endpoint, question.number, frame))

    # -- the weather --------------------------------------------------------------------------------------------------
    def _happens(self, chance: float) -> bool:
        return chance > 0.0 and self._endpoint.host.rng.random() < chance

    def _send(self, packet: Carried) -> None:
        wire, host = self._endpoint.wire, self._endpoint.host
        if self._happens(self._conditions.request_loss):
            wire.occupy(host, packet.size, 0)
            return
        if self._happens(self._conditions.request_reordering):
            held_s = host.rng.random() * self._conditions.reorder_s
            packet.delay_s = wire.draw_delay_s(host, packet.target.peer) + held_s
        wire.send(packet)
