"""TRAIN(k) of MoDeST (arXiv 2302.13837, Algorithm 4): train from the aggregate of round k-1, hand the update to the
aggregators of sample k+1, and see to it that one of them settles the round.

A newer assignment pre-empts the one under way. Handing in is repeated with a fresh sample until the round is known to
be over, so an aggregator that dies is replaced and nothing that was trained is lost with it.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import trio

from protocols.blobs import StoreFull
from protocols.claiming import sign_claim
from protocols.exchange import NotFetched
from protocols.head import Head, Parts
from protocols.learner import LearnerError, Trained, Unfit
from protocols.messages import Ack, Aggregate, Late, TrainedModel, Unable
from protocols.ownclaims import OwnClaims
from protocols.transport import TransportError
from protocols.withheld import Withheld
from sampling.patience import Patience
from sampling.peers import PeerId, Round
from sampling.view import Delta
from verify.claims import Claim, training_seed
from verify.digest import Digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    parent: Aggregate
    attempt: int = 0

    @property
    def round(self) -> Round:
        return Round(self.parent.round + 1)

    def supersedes(self, other: Assignment | None) -> bool:
        return other is None or (self.round, self.attempt) > (other.round, other.attempt)


class Trainer:
    def __init__(self, parts: Parts, head: Head, settling: Patience, withheld: Withheld, claims: OwnClaims) -> None:
        self._parts = parts
        self._head = head
        self._withheld = withheld
        self._claims = claims
        self._settling = settling  # from handing in to the round's end
        self._assignment: Assignment | None = None
        self._begun: Assignment | None = None
        self._scope = trio.CancelScope()
        self._last: tuple[Aggregate, Trained] | None = None  # our newest update and what it was trained from
        self.training = False
        self.last_loss: float | None = None
        self.failure: str | None = None  # the operator's task failed, and how
        self._suspect: tuple[Digest, str] | None = None  # a model that we could not train from, and why

    @property
    def busy(self) -> bool:
        """Training, or about to."""
        return self.training or (self._assignment is not None and self._assignment is not self._begun)

    def assign(self, assignment: Assignment) -> None:
        rounds = self._parts.manifest.rounds
        if (rounds and assignment.round > rounds) or not assignment.supersedes(self._assignment):
            return
        under_way = self._assignment
        self._assignment = assignment
        if self.training and under_way is not None and under_way.parent == assignment.parent:
            return  # asked again for what we are training already
        self._scope.cancel()
        self._head.bell.ring()

    def forget(self) -> None:
        """The run has gone back to an earlier round: what we were assigned is void."""
        self._assignment = None
        self._scope.cancel()

    async def run(self) -> None:
        """Until cancelled."""
        done: Assignment | None = None
        while True:
            done = await self._next(done)
            self._begun = done
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._preempt, done.round)
                    # Whoever will aggregate is found, and linked, while we train.
                    nursery.start_soon(self._committee, done.round)
                    await self._train(done)
                    nursery.cancel_scope.cancel()
            await self._judge()  # not to be pre-empted: in a quick swarm a slow node would never find out

    async def _next(self, done: Assignment | None) -> Assignment:
        await self._head.bell.until(lambda: self._assignment is not None and self._assignment is not done)
        assert self._assignment is not None
        return self._assignment

    async def _preempt(self, round: Round) -> None:
        """Somebody has finished that round without us."""
        await self._head.reach(round)
        self._scope.cancel()

    async def _train(self, assignment: Assignment) -> None:
        try:
            trained = await self._update(assignment.parent, assignment.round)
        except StoreFull as error:
            log.warning("round %d: not trained: %s", assignment.round, error)
        except Unfit as error:
            log.warning("round %d: cannot be trained: %s", assignment.round, error)
            self._suspect = assignment.parent.model, str(error)
            await self._excuse(assignment.round)
        except LearnerError as error:
            self.failure = str(error)
            log.error("round %d: the task failed: %s", assignment.round, error)
            await self._excuse(assignment.round)
        else:
            self.failure = None
            await self._hand_in(assignment, trained)

    async def _judge(self) -> None:
        """The model that could not be trained from is unfit, or our own data are, and the operator must know."""
        if self._suspect is None:
            return
        (model, problem), self._suspect = self._suspect, None
        await self._head.fitness.judge(model, problem)
        self.failure = self._head.fitness.own_fault
        if self.failure is not None:
            log.error("this node cannot train: %s", self.failure)

    async def _committee(self, round: Round) -> list[PeerId]:
        """Those who are to aggregate it."""
        aggregators = self._parts.manifest.modest.aggregators + self._head.passed_over(round)
        return await self._parts.sampler.sample(Round(round + 1), aggregators)

    async def _excuse(self, round: Round) -> None:
        async with trio.open_nursery() as nursery:
            for peer in await self._committee(round):
                nursery.start_soon(self._excuse_to, peer, round)

    async def _excuse_to(self, peer: PeerId, round: Round) -> None:
        try:
            await self._parts.desk.insist(peer, Unable(round), (Ack, Late))
        except TransportError as error:
            log.info("round %d: %s does not hear that we cannot train: %s", round, peer, error)

    async def _update(self, parent: Aggregate, round: Round) -> Trained:
        if self._last is not None and self._last[0] == parent:
            return self._last[1]
        self.training = True
        try:
            await self._hold(parent)
            seed = training_seed(self._parts.membership.run_id, round, parent.model, self._parts.desk.me)
            trained = await self._head.fitness.train(parent.model, round, seed=seed)
            await self._claims.add(round, parent.model, trained)
        finally:
            self.training = False
            self._head.bell.ring()  # audits wait for it
        self._last, self.last_loss = (parent, trained), trained.loss
        self._withheld.withhold(trained.model, round)
        self._parts.exchange.keep("trained", self._claims.models())
        return trained

    async def _hold(self, parent: Aggregate) -> None:
        """Whoever has it may come back: ask until it is here, or the run goes on without it, if need be from before."""
        since = trio.current_time()
        while True:
            try:
                return await self._head.hold(parent)
            except NotFetched as error:
                log.warning("round %d: not trained yet: %s", parent.round + 1, error)
            if trio.current_time() - since > self._settling.deadline_s:
                await self._head.retreat()
            await trio.sleep(self._settling.floor_s)

    async def _hand_in(self, assignment: Assignment, trained: Trained) -> None:
        round = assignment.round
        start = trio.current_time()
        for tries in itertools.count():
            committee = await self._committee(round)
            taken: list[PeerId] = []
            async with trio.open_nursery() as nursery:
                for peer in committee:
                    nursery.start_soon(self._hand_to, peer, assignment, trained, taken)
            # Whoever takes it will settle it; if nobody does (views still differ, say), there is nothing to wait for.
            with trio.move_on_after(self._settling.after(tries) if taken else self._settling.floor_s):
                await self._head.reach(round)
                self._settling.heard(trio.current_time() - start)
                return
            log.info("round %d: not settled by %s; sampling again", round, ", ".join(committee) or "anybody")

    def _offer(self, assignment: Assignment, trained: Trained, delta: Delta) -> TrainedModel:
        parts, round, parent = self._parts, assignment.round, assignment.parent.model
        claim = Claim(parts.desk.me, round, parent, parts.data, trained.model, trained.samples)
        signature = sign_claim(parts.signer, parts.membership.run_id, claim)
        return TrainedModel(round, parent, trained.model, trained.samples, delta, parts.data, signature)

    async def _hand_to(self, peer: PeerId, assignment: Assignment, trained: Trained, taken: list[PeerId]) -> None:
        delta, upto = self._parts.membership.exchanges.news_for(peer)
        message = self._offer(assignment, trained, delta)
        self._withheld.grant(peer, [trained.model])
        try:
            answer = await self._parts.desk.insist(peer, message, (Ack, Late))
        except TransportError as error:
            return log.info("round %d: %s did not take our model: %s", assignment.round, peer, error)
        self._parts.membership.exchanges.told(peer, upto)
        if isinstance(answer, Ack):
            taken.append(peer)
        elif isinstance(answer, Late):
            # From one of its makers it is a vote; anyone else only tells us that we are late.
            voter = peer in answer.head.aggregators
            if not (voter and await self._head.vote(peer, answer.head)):
                await self._head.catch_up()
