"""Questions and answers over the transport, typed: `ask` sends one message and insists on the kind of answer it wants;
`answer` hands what peers ask to the conversation that registered for it.

A peer that sends what is no message, or an answer that does not fit the question, has committed an offence: it is
reported and the conversation sees NoAnswer, as if the peer were silent. So is one that asks more than its ration of
what makes us ask or fetch from others; gossip beyond its ration is dropped without blame, for whoever relays old
messages could make their author look like a flood.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import trio

from protocols import limits, wire
from protocols.gossip.messages import AskNewest, AskWork
from protocols.messages import (
    GOSSIP,
    Aggregated,
    AnyMessage,
    AskAnswer,
    AskEvidence,
    Committed,
    Compare,
    Exchange,
    Hello,
    Proposal,
    Refused,
    Settled,
    TrainedModel,
    Unable,
)
from protocols.onebyte.messages import AskChain, AskSnapshot
from protocols.rates import Grant, Rates
from protocols.transport import NoAnswer, Transport, Unreachable
from sampling.peers import PeerId
from verify.standing import OffenceKind, one_line

log = logging.getLogger(__name__)

# An answer takes milliseconds; where training has all the cores, seconds. A lost question costs the first wait.
INSIST_S = (1.0, 3.0, 6.0)

# On these we ask or fetch from others, check signatures, answer at length, or a fetch follows: they may cost a thousand
# times what it costs to ask.
ACTING = (
    Aggregated,
    AskAnswer,
    AskChain,
    AskEvidence,
    AskNewest,
    AskSnapshot,
    AskWork,
    Committed,
    Compare,
    Exchange,
    Proposal,
    Settled,
    TrainedModel,
    Unable,
)

M = TypeVar("M", bound=AnyMessage)
A = TypeVar("A", bound=AnyMessage)
Accuse = Callable[[PeerId, OffenceKind, str], None]  # peer, kind, detail
Reply = Callable[[PeerId, Any], Awaitable[AnyMessage]]
Listener = Callable[[PeerId, Any], Awaitable[None]]


class Declined(NoAnswer):
    """The peer answered that it will not, and why."""


async def _presumed(peer: PeerId) -> bool:
    return True


class Desk:
    def __init__(self, transport: Transport, accuse: Accuse) -> None:
        self.transport = transport
        self.accuse = accuse
        self._replies: dict[type, Reply] = {}
        self._listeners: dict[type, Listener] = {}
        self._acts = Rates[PeerId](
            limits.ACTS_PER_PEER_PER_S, limits.ACTS_PER_S, burst_s=limits.ACTS_BURST_S, remembered=limits.VIEW_PEERS
        )
        self._gossip = Rates[PeerId](
            limits.GOSSIP_PER_PEER_PER_S,
            limits.GOSSIP_PER_S,
            burst_s=limits.GOSSIP_BURST_S,
            remembered=limits.VIEW_PEERS,
        )
        self.gossip_rationed = 0  # messages heard and not listened to
        self.known: Callable[[PeerId], bool] = lambda peer: False  # a member: the last rations are kept for them
        self.shunned: Callable[[PeerId], bool] = lambda peer: False  # quarantined: not answered, not listened to
        self.heard: Callable[[PeerId], None] = lambda peer: None  # told of every sign of life
        self.alive: Callable[[PeerId], Awaitable[bool]] = _presumed  # asked of who did not answer
        self.leaving = False  # then only who is here is talked about, no longer the work

    @property
    def me(self) -> PeerId:
        return self.transport.me

    def on(self, kind: type[M], reply: Callable[[PeerId, M], Awaitable[AnyMessage]]) -> None:
        assert kind not in self._replies, f"{kind.__name__} is answered twice"
        self._replies[kind] = reply

    def on_gossip(self, kind: type[M], listener: Callable[[PeerId, M], Awaitable[None]]) -> None:
        assert kind not in self._listeners, f"{kind.__name__} is listened to twice"
        self._listeners[kind] = listener

    async def answer(self, sender: PeerId, frame: bytes) -> bytes:
        return wire.encode(await self._reply(sender, frame))

    async def _reply(self, sender: PeerId, frame: bytes) -> AnyMessage:
        if self.shunned(sender):
            return Refused("you are in quarantine here")
        try:
            question = wire.decode(frame)
        except wire.OtherVersion as error:
            return Refused(str(error))
        except wire.MalformedFrame as error:
            self.accuse(sender, OffenceKind.MALFORMED_FRAME, str(error))
            return Refused("malformed frame")
        reply = self._replies.get(type(question))
        if self.leaving and not isinstance(question, Exchange | Hello):
            return Refused("we are leaving")
        if reply is None:
            return Refused(f"{type(question).__name__} is not answered here")
        if isinstance(question, ACTING) and (refusal := self._rationed(sender)) is not None:
            return refusal
        self.heard(sender)
        return await reply(sender, question)

    def _rationed(self, sender: PeerId) -> Refused | None:
        if sender == self.me:
            return None
        match self._acts.take(sender, trio.current_time(), known=self.known(sender)):
            case Grant.YES:
                return None
            case Grant.TOO_FAST:
                self.accuse(
                    sender, OffenceKind.FLOOD, f"more than {limits.ACTS_PER_PEER_PER_S} such questions a second"
                )
                return Refused("too many questions")
            case Grant.CROWDED:
                return Refused("too many ask at once")

    async def ask(self, peer: PeerId, question: AnyMessage, want: type[A] | tuple[type[A], ...], timeout_s: float) -> A:
        """Raises TransportError (Declined if the peer says no)."""
        answer = self._decoded(peer, await self.transport.request(peer, wire.encode(question), timeout_s=timeout_s))
        self.heard(peer)
        if isinstance(answer, want):
            return cast("A", answer)
        if isinstance(answer, Refused):
            raise Declined(f"declined: {one_line(answer.reason)}")
        detail = f"{type(answer).__name__} in answer to {type(question).__name__}"
        self.accuse(peer, OffenceKind.PROTOCOL, detail)
        raise NoAnswer(detail)

    def _decoded(self, peer: PeerId, frame: bytes) -> AnyMessage:
        try:
            return wire.decode(frame)
        except wire.OtherVersion as error:
            raise NoAnswer(str(error)) from None
        except wire.MalformedFrame as error:
            self.accuse(peer, OffenceKind.MALFORMED_FRAME, str(error))
            raise NoAnswer(f"malformed answer: {error}") from None

    async def insist(self, peer: PeerId, question: AnyMessage, want: type[A] | tuple[type[A], ...]) -> A:
        """Ask up to three times, each time waiting longer, unless it has fallen silent: for what may be heard twice.
        Raises as `ask` does."""
        for timeout_s in INSIST_S[:-1]:
            try:
                return await self.ask(peer, question, want, timeout_s)
            except (Declined, Unreachable):
                raise
            except NoAnswer:
                if not await self.alive(peer):
                    raise
        return await self.ask(peer, question, want, INSIST_S[-1])

    async def tell(self, topic: str, message: AnyMessage) -> None:
        await self.transport.publish(topic, wire.encode(message))

    async def listen(self, topic: str) -> None:
        """Hand gossip to its listeners, one message after another, until cancelled."""
        async with self.transport.subscribe(topic) as gossip:
            async for message in gossip:
                await self._overhear(message.origin, message.frame)

    async def _overhear(self, origin: PeerId, frame: bytes) -> None:
        if self.shunned(origin):
            return None
        if self._gossip.take(origin, trio.current_time(), known=self.known(origin)) is not Grant.YES:
            self.gossip_rationed += 1
            return None
        try:
            message = wire.decode(frame)
        except wire.OtherVersion:
            return None
        except wire.MalformedFrame as error:
            return self.accuse(origin, OffenceKind.MALFORMED_FRAME, f"gossip: {error}")
        if not isinstance(message, GOSSIP):
            return self.accuse(origin, OffenceKind.PROTOCOL, f"gossip: {type(message).__name__} is no gossip")
        self.heard(origin)
        if (listener := self._listeners.get(type(message))) is not None:  # None: still starting
            await listener(origin, message)
        return None
