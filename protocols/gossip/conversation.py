"""Gossip learning (Vanishing Variance, arXiv 2404.04616; Epidemic Learning, 2310.01972): no committee, no rounds.

    for ever:  train;  announce the new model;  rest;  merge what has come meanwhile   trainer.py
    beside it: draw a peer, pull its newest model, hold it until the next merge        puller.py

This file ties the two together: it announces, hears the announcements of others, answers who asks, and shows the node
how it goes. Invariant: what all announcements cost a node does not grow with the swarm; each is heard more rarely.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from protocols import wire
from protocols.gossip.audit import Auditor, Judged
from protocols.gossip.claims import Making, Memory
from protocols.gossip.fragments import Fragments
from protocols.gossip.graph import Graph
from protocols.gossip.inbox import Came, Inbox
from protocols.gossip.messages import AskNewest, AskWork, Doubted, NewestIs, NewModel, Offer, WorkIs
from protocols.gossip.neighbours import Heard, Neighbours
from protocols.gossip.puller import Puller
from protocols.gossip.trainer import Counts, Hooks, Trainer
from protocols.head import Parts
from protocols.messages import Aggregate, AnyMessage, Held, Refused
from protocols.ownclaims import Docket
from protocols.training import AuditFigures, ChainFigures, Committee, Phase
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

STILL_HERE_S: Final = 10.0  # between two announcements of the same model
LOOK_S: Final = 0.25  # at who is here before the first training
_MEMORY: Final = msgspec.msgpack.Decoder(Memory)


@dataclass(frozen=True, slots=True)
class GossipFigures:
    """For the status."""

    age: int
    counts: Counts
    pulled: int
    waiting: int  # models that came and are to be merged
    turn_s: float  # between two trainings of ours
    interval_s: float  # between two announcements of ours
    heard: dict[PeerId, Heard]


class Gossip:
    def __init__(
        self,
        parts: Parts,
        checkpoint: Aggregate | None,
        hooks: Hooks,
        *,
        docket: Docket,
        judged: Judged,
        begin: Callable[[], Awaitable[None]],
        trains: bool = True,
        slowdown: float = 1.0,
        evaluate_every: int = 0,
    ) -> None:
        """`begin`: what there is to begin with is in the store when it returns; `trains`: has data; `slowdown`: this
        node's trainings take so many times as long."""
        rules = parts.manifest.gossip
        self._parts, self._rules, self._begin = parts, rules, begin
        graph = Graph(rules, parts.desk.me, parts.membership.view, parts.membership.run_id)
        self.neighbours = Neighbours(digest_of(parts.desk.me.encode()), graph.joins)
        self.inbox = Inbox(rules.neighbours, parts.rng)
        before = _MEMORY.decode(docket.gossip) if docket.gossip else Memory()
        self.making = Making(parts.desk.me, parts.signer, parts.membership.run_id, parts.data, before)
        self.auditor = Auditor(parts, before, judged)
        self.fragments = Fragments(parts)
        self.puller = Puller(parts, self.neighbours, self.inbox, self.auditor, self.fragments)
        self.trainer = Trainer(
            parts,
            self.neighbours,
            self.inbox,
            self.puller,
            hooks,
            self.making,
            self.auditor,
            self.fragments,
            checkpoint=checkpoint,
            trains=trains,
            slowdown=slowdown,
            evaluate_every=evaluate_every,
        )

    async def run(self) -> None:
        """Until cancelled. A finished node goes on serving its last model."""
        desk = self._parts.desk
        desk.on(AskNewest, self._on_ask_newest)
        desk.on(AskWork, self._on_ask_work)
        desk.on_gossip(NewModel, self._on_model)
        desk.on_gossip(Doubted, self.auditor.on_doubted)
        self.auditor.judge()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            await self._begin()
            await self._enough_peers()
            nursery.start_soon(self.puller.run)
            nursery.start_soon(self.auditor.run)
            nursery.start_soon(self.trainer.run)

    async def leave(self) -> None:
        """Membership's goodbye says it all; what we have is saved."""
        if self.trainer.shown is not None:
            await self.trainer.save()

    async def _enough_peers(self) -> None:
        """A run begins with those that the manifest wants to see; who comes later, or again, waits for nobody."""
        while True:  # nothing tells of the view's growth
            if self._may_begin():
                return
            await trio.sleep(LOOK_S)

    def _may_begin(self) -> bool:
        known = len(self._parts.membership.view.present())
        return self.round > 0 or len(self.neighbours) > 0 or known >= self._parts.manifest.start_peers

    # -- announcements ------------------------------------------------------------------------------------------------

    async def _announce(self) -> None:
        said: Offer | None = None
        while True:
            offer = await self._next_offer(said)
            message = await self._announcement(offer, fresh=offer != said)
            said = offer
            await self._parts.desk.tell(self._parts.membership.topic, message)
            self._parts.membership.advance(self.clock)
            await trio.sleep(self._interval_s(len(wire.encode(message))) * self._parts.rng.uniform(0.8, 1.2))

    async def _next_offer(self, said: Offer | None) -> Offer:
        """Another than that; or the same again, when it is time to say that we are still here."""
        with trio.move_on_after(math.inf if said is None else STILL_HERE_S):
            await self.inbox.bell.until(lambda: self.trainer.newest not in (None, said))
        assert self.trainer.newest is not None
        return self.trainer.newest

    async def _announcement(self, offer: Offer, *, fresh: bool) -> NewModel:
        """With the model inside if every one of ours may be announced so: else names come too late for pulls."""
        whole = self._parts.manifest.model_bytes
        if not fresh or whole > self._rules.inline_bytes or self._interval_s(whole) > self.trainer.turn_s:
            return NewModel(offer)
        try:
            return NewModel(offer, await self._parts.blobs.get(offer.model))
        except KeyError:  # evicted, or damaged on disk
            return NewModel(offer)

    def _interval_s(self, frame_bytes: int) -> float:
        """So that all announcements together stay within the manifest's rate."""
        return len(self._parts.membership.view.present()) * frame_bytes / self._rules.announce_bytes_s

    async def _on_model(self, origin: PeerId, message: NewModel) -> None:
        if origin == self._parts.desk.me or not self.fragments.are_named(origin, message.offer):
            return
        if message.blob and not (self._is_sound(origin, message) and self.auditor.holds(origin, message.offer)):
            return
        named_s = self._interval_s(len(wire.encode(NewModel(message.offer))))
        self.neighbours.hear(origin, message.offer, trio.current_time(), named_s)
        if message.blob and self.neighbours.joins(origin) and not self.puller.stopped:
            self.puller.remember(origin, message.offer.model)
            self.inbox.tell(Came(origin, message.offer, message.blob))
            self.auditor.came(origin, message.offer, message.blob)

    def _is_sound(self, origin: PeerId, message: NewModel) -> bool:
        """What rides inside is what its name says, and may ride there."""
        size, whole = len(message.blob), self._parts.manifest.model_bytes
        kind: OffenceKind | None = None
        if size != whole or whole > self._rules.inline_bytes:
            kind = OffenceKind.OVERSIZE if size > whole else OffenceKind.UNFIT_MODEL
        elif digest_of(message.blob) != message.offer.model:
            kind = OffenceKind.WRONG_DIGEST
        if kind is not None:
            self._parts.desk.accuse(origin, kind, f"{size} bytes inside an announcement, the run's models have {whole}")
        return kind is None

    # -- questions ----------------------------------------------------------------------------------------------------

    async def _on_ask_newest(self, sender: PeerId, question: AskNewest) -> AnyMessage:
        newest = self.trainer.newest
        return Refused("nothing trained yet") if newest is None else NewestIs(newest)

    async def _on_ask_work(self, sender: PeerId, question: AskWork) -> AnyMessage:
        work = self.making.of(question.model)
        return Refused("not of the last models here") if work is None else WorkIs(work)

    # -- what the node is shown ---------------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        """Trainings of our own."""
        return self.trainer.age

    @property
    def clock(self) -> Round:
        """The swarm's, for nodes train at different speeds."""
        return self.neighbours.clock(self.trainer.age)

    @property
    def finished(self) -> bool:
        return self.trainer.over

    @property
    def state(self) -> Phase:
        return self.trainer.phase

    @property
    def committee(self) -> Committee:
        return Committee((self._parts.desk.me,), ())

    @property
    def model(self) -> Digest | None:
        shown = self.trainer.shown
        return Digest(shown.model) if shown else None

    @property
    def models(self) -> list[Held]:
        """Nobody else has it: answers from it agree with no other node's."""
        shown = self.trainer.shown
        return [shown] if shown and shown.round and shown.model in self._parts.blobs else []

    @property
    def held(self) -> Aggregate | None:
        return self.trainer.checkpoint

    @property
    def docket(self) -> Docket:
        return Docket(gossip=msgspec.msgpack.encode(Memory(self.making.newest, self.trainer.saved, self.auditor.out)))

    @property
    def audits(self) -> AuditFigures | None:
        return self.auditor.figures if self.auditor.on else None

    def may_fetch(self, peer: PeerId, model: Digest) -> bool:
        return True

    @property
    def chain(self) -> ChainFigures | None:
        return None

    @property
    def troubles(self) -> list[str]:
        found = []
        if self.trainer.failure is not None:
            found.append(f"the task fails: {self.trainer.failure}")
        if len(self._parts.membership.view.present()) > 1 and not self.neighbours.fresh(trio.current_time()):
            found.append("no other node was heard of lately: this one trains alone")
        return found

    @property
    def figures(self) -> GossipFigures:
        newest = self.trainer.newest
        return GossipFigures(
            age=self.trainer.age,
            counts=self.trainer.counts,
            pulled=self.puller.pulled,
            waiting=len(self.inbox),
            turn_s=self.trainer.turn_s,
            interval_s=self._interval_s(len(wire.encode(NewModel(newest)))) if newest else 0.0,
            heard=self.neighbours.heard(),
        )
