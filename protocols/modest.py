"""MoDeST (arXiv 2302.13837): rounds of s trainers and a aggregators, drawn afresh for each round from the hash order.

    trainers(k)    = first s live peers of SAMPLE(k)      each trains theta_{k-1} on its own data        trainer.py
    aggregators(k) = first a live peers of SAMPLE(k + 1)  their mean of the trainers' models is theta_k  aggregator.py

Trainers of round k + 1 come from the same sample as the aggregators of round k, so theta_k need not travel to whoever
made it. This file ties the two together: what others tell and ask, which aggregates are fetched outside the committee,
and the watch that starts the first round and restarts the last one when all who were to carry it on are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from protocols.aggregator import Aggregator
from protocols.audit import Auditor
from protocols.blobs import StoreFull
from protocols.evidence import Judgement
from protocols.exchange import NotFetched
from protocols.head import Head, Parts
from protocols.learner import Evaluation, LearnerError, Unfit
from protocols.limits import ATTEMPTS, LINKS
from protocols.messages import (
    Ack,
    Aggregate,
    Aggregated,
    AnyMessage,
    AskHead,
    HeadIs,
    Held,
    Late,
    Settled,
)
from protocols.ownclaims import Docket, OwnClaims
from protocols.trainer import Assignment, Trainer
from protocols.training import AuditFigures, ChainFigures, Committee, Phase
from protocols.withheld import Withheld
from sampling.patience import Patience
from sampling.peers import PeerId, Round
from verify.digest import Digest, short

log = logging.getLogger(__name__)

FIRST_ROUND_S = 5.0  # patience with a round before any has been measured; what it makes us repeat is cheap
LOOK_BACK_S = 30.0  # between two looks of a node that has finished at how others did
LOOKS = 4  # in the shortest time of a round, at who is here before the first
LEISURE = 2  # learned round deadlines over which the pulls of a swarm spread that has more nodes than one has links
STALL = 3  # learned round deadlines without news before a node asks around and takes the round up itself


NOTHING = Docket()


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the node wants to hear of."""

    began: Callable[[], None]  # enough peers are here, the first round (or the one after a resume) begins
    held: Callable[[Aggregate], Awaitable[None]]  # newer bytes are in the store: save a checkpoint
    learnt: Callable[[Aggregate], None]  # a newer aggregate is believed
    turned: Callable[[Aggregate], None]  # or one that is no newer, in the place of what was believed
    evaluated: Callable[[Round, Evaluation], None]
    claimed: Callable[[], Awaitable[None]]  # a claim of ours is to be saved before it is made
    judged: Callable[[Judgement], None]  # what the evidence amounts to


class Modest:
    def __init__(
        self, parts: Parts, start: Aggregate, hooks: Hooks, evaluate_every: int, docket: Docket = NOTHING
    ) -> None:
        """`docket`: of a former life."""
        timing = parts.manifest.timing
        self._parts = parts
        self._hooks = hooks
        self._evaluate_every = evaluate_every
        self._settling = Patience(timing.round_floor_s, timing.round_ceiling_s, FIRST_ROUND_S)
        self._spread = Patience(timing.round_floor_s, timing.round_ceiling_s, FIRST_ROUND_S)
        self.head = Head(parts, start, hooks.held)
        self.head.turned = self._turn
        self.withheld = Withheld(
            lambda: self.head.known.round,
            lambda: self._overdue,
            lambda model: self.head.remembered(model) is not None,
        )
        self.claims = OwnClaims(docket.claims, docket.commitments, hooks.claimed)
        self.trainer = Trainer(parts, self.head, self._settling, self.withheld, self.claims)
        self.auditor = Auditor(parts, self.head, self.withheld, self.claims, lambda: self.trainer.busy, self._judged)
        self._before = docket
        self.aggregator: Aggregator | None = None
        self.stalled = False
        self.evaluation_failure: str | None = None  # the operator's task could not evaluate the newest model, and why

    async def run(self) -> None:
        """Until cancelled. A finished run goes on serving its last model."""
        desk = self._parts.desk
        async with trio.open_nursery() as nursery:
            caught = self.auditor.prove
            self.aggregator = Aggregator(self._parts, self.head, self._spread, nursery, self.withheld, caught)
            self._nursery = nursery
            desk.on(Aggregated, self._on_aggregated)
            desk.on(Settled, self._on_settled)
            desk.on(AskHead, self._on_ask_head)
            desk.on_gossip(HeadIs, self._on_announced)
            nursery.start_soon(self.trainer.run)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._evaluate)
            nursery.start_soon(self._watch)
            self.auditor.evidence.restore(self._before.certificates, self._before.proofs)
            nursery.start_soon(self.auditor.run)

    async def leave(self) -> None:
        """Membership's goodbye says it all."""

    # -- what the node is shown ---------------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        return self.head.known.round

    @property
    def clock(self) -> Round:
        return self.head.known.round

    @property
    def finished(self) -> bool:
        return self.head.finished

    @property
    def state(self) -> Phase:
        head = self.head
        if head.finished:
            return "finished" if head.held == head.known else "idle"
        if self.stalled:
            return "stalled"
        if self.trainer.training:
            return "training"
        if self.aggregator is not None and self.aggregator.busy:
            return "aggregating"
        return "idle" if head.known.round else "waiting"

    @property
    def committee(self) -> Committee:
        """Of the newest aggregate."""
        known = self.head.known
        return Committee(tuple(each.trainer for each in known.inputs), tuple(known.aggregators))

    @property
    def model(self) -> Digest | None:
        return self.head.held.model if self.head.held else None

    @property
    def models(self) -> list[Held]:
        believed = [*([self.head.held] if self.head.held else []), *self.head.line()]
        held = {each.round: each.model for each in believed if each.round and each.model in self._parts.blobs}
        return [Held(round, held[round]) for round in sorted(held, reverse=True)]

    @property
    def held(self) -> Aggregate | None:
        return self.head.held

    @property
    def chain(self) -> ChainFigures | None:
        return None

    @property
    def troubles(self) -> list[str]:
        found, failure = [], self.trainer.failure
        if failure:
            found.append(f"the task fails: {failure}")
        if self.evaluation_failure:
            found.append(f"the model cannot be evaluated: {self.evaluation_failure}")
        if self.stalled:
            found.append(f"no round has finished for several deadlines{'' if failure else ': too few peers answer'}")
        if self.head.dropped is not None:
            left, better = self.head.dropped
            found.append(
                f"round {left.round}: {short(left.model)} was dropped for the better branch {short(better.model)}"
            )
        return found

    # -- audits -------------------------------------------------------------------------------------------------------

    @property
    def docket(self) -> Docket:
        certificates = self.auditor.certificates() if self.aggregator else self._before.certificates
        candidates = tuple(self.auditor.candidates()) if certificates else ()
        proofs = tuple(self.auditor.evidence.proofs.values())
        return Docket(self.claims.all(), certificates, proofs, self.claims.commitments(), candidates)

    @property
    def audits(self) -> AuditFigures | None:
        return self.auditor.figures

    def may_fetch(self, peer: PeerId, model: Digest) -> bool:
        return self.withheld.may_fetch(peer, model)

    @property
    def _overdue(self) -> bool:
        """The run stands still: what was made may have to be made again."""
        return self.stalled or self.head.passed_over(Round(self.head.known.round + 1)) > 0

    def _judged(self, judgement: Judgement) -> None:
        self._hooks.judged(judgement)
        if judgement.wrong:
            self._nursery.start_soon(self.head.convict, judgement.wrong.values())

    # -- what others tell and ask -------------------------------------------------------------------------------------

    async def _on_aggregated(self, sender: PeerId, message: Aggregated) -> AnyMessage:
        self._parts.membership.believe(sender, message.delta)
        if message.aggregate.round < self.head.known.round:
            return Late(self.head.known)
        if message.attempt:
            self._nursery.start_soon(self._recruited, sender, message)
        else:
            self._nursery.start_soon(self._appointed, sender, message.aggregate)
        return Ack()

    async def _appointed(self, sender: PeerId, aggregate: Aggregate) -> None:
        if await self.head.vote(sender, aggregate):
            self.trainer.assign(Assignment(self.head.known))  # not the sender's: of theirs only the model is checked

    async def _recruited(self, sender: PeerId, message: Aggregated) -> None:
        """The round after this aggregate starves, and its aggregator asks us in place of a dead trainer."""
        parent = message.aggregate
        if sender not in await self.head.aggregators(Round(parent.round + 1), sender):
            return log.info("%s recruits for round %d but is not its aggregator", sender, parent.round + 1)
        if self.head.known.round < parent.round:
            await self.head.catch_up()
        if self.head.known.model == parent.model:
            self.trainer.assign(Assignment(self.head.known, message.attempt))

    async def _on_settled(self, sender: PeerId, message: Settled) -> AnyMessage:
        self._nursery.start_soon(self.head.vote, sender, message.aggregate)
        return Ack()

    async def _on_ask_head(self, sender: PeerId, question: AskHead) -> AnyMessage:
        return HeadIs(self.head.known)

    async def _on_announced(self, origin: PeerId, message: HeadIs) -> None:
        self._nursery.start_soon(self.head.vote, origin, message.head)

    # -- outside the committee ----------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Hold every R-th aggregate and the last, so that every node can serve it; and any that is here already."""
        known = self.head.known
        self._pull_if_due(known)
        while True:
            before, known = known, await self.head.known_other_than(known)
            (self._hooks.learnt if known.round > before.round else self._hooks.turned)(known)
            self._pull_if_due(known)

    def _pull_if_due(self, aggregate: Aggregate) -> None:
        if self._due(aggregate):
            self._nursery.start_soon(self._pull, aggregate)

    def _due(self, aggregate: Aggregate) -> bool:
        every = self._parts.manifest.modest.pull_every
        return aggregate.model in self._parts.blobs or aggregate.round % every == 0 or self.head.finished

    async def _pull(self, aggregate: Aggregate) -> None:
        """The last model is asked for until it is here; others only once, the next will do, and at leisure: a whole
        swarm at once would keep those who made it from the next round."""
        leisurely = not (self.head.finished or aggregate.model in self._parts.blobs)
        if leisurely:
            crowd = min(1.0, len(self._parts.membership.view) / LINKS)
            await trio.sleep(self._parts.rng.uniform(0.0, LEISURE * crowd * self._settling.deadline_s))
        while True:
            try:
                return await self.head.hold(aggregate, spread=leisurely)
            except (NotFetched, StoreFull, Unfit, LearnerError) as error:
                log.info("the model of round %d is not here: %s", aggregate.round, error)
            if not self.head.finished:
                return None
            await trio.sleep(self._settling.floor_s)

    async def _evaluate(self) -> None:
        held: Aggregate | None = None
        while True:
            held = await self.head.held_other_than(held)
            last = self.head.finished and held == self.head.known
            if last or (self._evaluate_every and held.round % self._evaluate_every == 0):
                await self._evaluate_one(held)

    async def _evaluate_one(self, held: Aggregate) -> None:
        try:
            self._hooks.evaluated(held.round, await self._parts.learner.evaluate(held.model))
            self.evaluation_failure = None
        except (LearnerError, Unfit) as error:
            self.evaluation_failure = str(error)
            log.error("the model of round %d could not be evaluated: %s", held.round, error)

    # -- the watch ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await self._enough_peers()
        await self.head.catch_up()
        self._hooks.began()
        stalls = 0
        while not self.head.finished:
            await self._take_up(min(stalls, ATTEMPTS))
            self.stalled = not await self._rounds_come()
            stalls = stalls + 1 if self.stalled else 0
            if not await self.head.catch_up() and self.stalled:
                await self.head.retreat()
        while True:  # two sides of a partition may both have finished, each with another model
            await trio.sleep(LOOK_BACK_S * self._parts.rng.uniform(0.5, 1.5))
            await self.head.catch_up()

    def _turn(self) -> None:
        """We have gone back, or left our branch for another of the same round."""
        self.trainer.forget()
        self._nursery.start_soon(self._take_up, 0)

    async def _rounds_come(self) -> bool:
        """Returns when no round has come for several deadlines; True if there was one before that."""
        first = before = self.head.known.round
        while not self.head.finished:  # the last may have come while we pinged
            with trio.move_on_after(STALL * self._settling.deadline_s * self._parts.rng.uniform(1.0, 1.5)):
                await self.head.reach(Round(before + 1))
            if self.head.known.round == before:
                return before > first
            self.stalled = False
            before = self.head.known.round
        return True

    async def _enough_peers(self) -> None:
        """The first round waits for the peers that the manifest wants to see."""
        needed = max(1, self._parts.manifest.start_peers)
        looks = 0
        while self.head.known.round == 0 and not self._here(needed):
            await trio.sleep(self._settling.floor_s / LOOKS)
            looks += 1
            if looks % LOOKS == 0:  # the run may have begun, or even ended, with more peers than are here now
                await self.head.catch_up()

    def _here(self, needed: int) -> bool:
        known = len(self._parts.membership.view) >= needed  # costs nothing, and who is not known is no candidate
        return known and len(self._parts.sampler.candidates(Round(1))) >= needed

    async def _take_up(self, attempt: int) -> None:
        """Train if we are of the next round's sample: at the start, after a resume, and when a round has died."""
        known = self.head.known
        sample = await self._parts.sampler.sample(Round(known.round + 1), self._parts.manifest.modest.trainers)
        if self._parts.desk.me in sample and self.head.known == known:
            self.trainer.assign(Assignment(known, attempt))
