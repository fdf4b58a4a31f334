"""Two views brought together: by what changed since a version that the other is known to hold; between two that know
nothing of each other, by comparing seals of parts of both and telling each other only the parts that differ.

MoDeST (arXiv 2302.13837, section 3.3) sends whole views; here a message carries news. Whatever is lost is asked for
again, for what a peer holds is believed only once it has said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import trio

from protocols import limits
from protocols.desk import Desk
from protocols.messages import AnyMessage, Compare, Compared, Exchange, Exchanged, Refused
from protocols.transport import TransportError
from sampling.peers import PeerId, Round
from sampling.view import Delta, View

EXCHANGES_AT_ONCE = 100  # a full view fits into half as many
LEAST_BUCKETS = 16
LONGEST_RECORD = limits.ADDRESSES_PER_PEER * (limits.ADDRESS_CHARS + 3) + limits.PEER_CHARS + 150  # bytes as msgpack
LONGEST_NOTE = limits.PEER_CHARS + 12
EXCHANGE_S = 10.0  # for an answer; includes the other side's start-up on a busy machine


@dataclass(slots=True)
class Partner:
    """A linked peer of the same run: which version of our view it holds, and we of its."""

    acknowledged: int = -1
    have: int = 0
    round: int = 0  # how far it says the run is
    heard_at: float = field(default_factory=trio.current_time)
    rtt_s: float | None = None  # of a small question, smoothed; None until measured

    @property
    def unknown(self) -> bool:
        return self.acknowledged < 0 and not self.have


class Owner(Protocol):
    """Whose views these are: `protocols.membership`."""

    round: Round

    def believe(self, sender: PeerId, delta: Delta) -> None: ...
    def note_round(self, peer: PeerId, round: Round) -> None: ...
    def timed(self, peer: PeerId, duration_s: float) -> None: ...


class Exchanges:
    def __init__(self, desk: Desk, view: View, partners: Mapping[PeerId, Partner], owner: Owner) -> None:
        self._desk = desk
        self._view = view
        self._partners = partners
        self._owner = owner
        desk.on(Exchange, self._on_exchange)
        desk.on(Compare, self._on_compare)

    # -- news that rides with other messages --------------------------------------------------------------------------

    def news_for(self, peer: PeerId) -> tuple[Delta, int]:
        """What that peer may not know of our view yet; call `told` with the version once it has answered. Nothing for
        one whose view we have not compared with ours: it would be everything."""
        partner = self._partners.get(peer)
        return (Delta(), -1) if partner is None or partner.unknown else self._news(partner.acknowledged)

    def told(self, peer: PeerId, upto: int) -> None:
        if partner := self._partners.get(peer):
            partner.acknowledged = max(partner.acknowledged, upto)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def exchange_with(self, peer: PeerId) -> None:
        """Until both have all that the other had when we began; a peer that never ends is left for the next turn."""
        goal = self._view.version
        try:
            for _ in range(EXCHANGES_AT_ONCE):
                if (partner := self._partners.get(peer)) is None:
                    return
                fresh = await self._compare(peer, partner) if partner.unknown else None
                delta, upto = fresh or self._news(partner.acknowledged)
                answer = await self._exchange(peer, partner, delta, upto)
                if upto >= goal and len(answer.delta.registrations) < limits.REGISTRATIONS_PER_FRAME:
                    return
        except TransportError:
            return  # it is asked again, and others are

    async def _exchange(self, peer: PeerId, partner: Partner, delta: Delta, upto: int) -> Exchanged:
        """Raises TransportError."""
        start = trio.current_time()
        question = Exchange(self._owner.round, delta, partner.have, upto)
        answer = await self._desk.ask(peer, question, Exchanged, EXCHANGE_S)
        self._owner.timed(peer, trio.current_time() - start)
        partner.have = answer.upto
        self.told(peer, self._believed(peer, answer.delta, upto))
        self._owner.note_round(peer, answer.round)
        return answer

    async def _compare(self, peer: PeerId, partner: Partner) -> tuple[Delta, int] | None:
        """What it lacks of our view, having merged what we lack of its. None: too much. Raises TransportError."""
        buckets = min(limits.BUCKETS, max(LEAST_BUCKETS, 1 << len(self._view).bit_length()))
        question = Compare(self._owner.round, self._view.seals(buckets))
        answer = await self._desk.ask(peer, question, Compared, EXCHANGE_S)
        if not answer.upto:
            return None
        self._owner.believe(peer, answer.delta)
        partner.have = answer.upto
        told, view = set(answer.delta.registrations), self._view
        differing = view.within({bucket for bucket in answer.differing if bucket < buckets}, buckets)
        lacking = view.about(each for each in differing if view.registration(each) not in told)
        return (lacking, view.version) if _fits(lacking) else None

    def _believed(self, peer: PeerId, delta: Delta, upto: int) -> int:
        """Merge a peer's news; the version of ours that it now holds. If nothing else has changed since the one it was
        told (`upto`), that includes what it has just told us: it need not hear that again."""
        complete = upto == self._view.version
        self._owner.believe(peer, delta)
        return self._view.version if complete else upto

    # -- answering ----------------------------------------------------------------------------------------------------

    async def _on_exchange(self, sender: PeerId, exchange: Exchange) -> AnyMessage:
        delta, upto = self._news(exchange.have)
        upto = self._believed(sender, exchange.delta, upto)
        if partner := self._partners.get(sender):
            partner.have = max(partner.have, exchange.upto)
            certain = upto if delta == Delta() else exchange.have  # the answer may be lost
            if certain <= self._view.version:
                partner.acknowledged = max(partner.acknowledged, certain)
        self._owner.note_round(sender, exchange.round)
        return Exchanged(self._owner.round, delta, upto)

    async def _on_compare(self, sender: PeerId, compare: Compare) -> AnyMessage:
        if not compare.seals:
            return Refused("no seals to compare")
        self._owner.note_round(sender, compare.round)
        pairs = zip(compare.seals, self._view.seals(len(compare.seals)), strict=True)
        differing = tuple(bucket for bucket, (theirs, ours) in enumerate(pairs) if theirs != ours)
        delta = self._view.about(self._view.within(set(differing), len(compare.seals)))
        if not _fits(delta):
            return Compared(self._owner.round, (), Delta(), 0)
        return Compared(self._owner.round, differing, delta, self._view.version)

    def _news(self, since: int) -> tuple[Delta, int]:
        """What is new in our view since that version, as much as fits: a record may be ten times as long as another."""
        most = limits.REGISTRATIONS_PER_FRAME
        while True:
            delta, upto = self._view.delta(since, most)
            if most == 1 or _fits(delta):
                return delta, upto
            most //= 2


def _fits(delta: Delta) -> bool:
    if len(delta.registrations) > limits.REGISTRATIONS_PER_FRAME:
        return False
    at_most = LONGEST_RECORD * len(delta.registrations) + LONGEST_NOTE * len(delta.activity)
    return at_most <= limits.DELTA_BYTES or len(msgspec.msgpack.encode(delta)) <= limits.DELTA_BYTES
