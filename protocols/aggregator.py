"""AGGREGATE(k) of MoDeST (arXiv 2302.13837, Algorithm 4): gather the trainers' models, merge them, hand the mean to
the trainers of the next round, and tell those whose work went into it.

With several aggregators the first in rank proposes the sorted list of inputs and the others recompute the mean from it,
so that equal digests can be counted by whoever receives them. A round that starves is asked for again, from live
trainers in place of the dead; it is never reported as done with fewer models than its quorum.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from protocols import limits
from protocols.blobs import StoreFull
from protocols.claiming import claim_holds, shard_of, signed, whole
from protocols.collection import Collection, absurd, quorum
from protocols.exchange import NotFetched
from protocols.head import ACCEPTED, Head, Parts
from protocols.learner import LearnerError, Unfit
from protocols.messages import (
    Ack,
    Aggregate,
    Aggregated,
    AnyMessage,
    Computed,
    HeadIs,
    Input,
    Late,
    Proof,
    Proposal,
    Refused,
    Settled,
    TrainedModel,
    Unable,
)
from protocols.transport import TransportError
from protocols.withheld import Withheld
from sampling.patience import Patience
from sampling.peers import PeerId, Round
from verify.claims import Claim
from verify.digest import Digest
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

RECOMPUTE_S = 10.0  # for another aggregator to fetch what it lacks of a round's models, and to merge them
Caught = Callable[[Proof], Awaitable[None]]
OPEN_COLLECTIONS = 4  # rounds gathered at once; honest swarms need two, a forked one three


class Aggregator:
    def __init__(
        self, parts: Parts, head: Head, spread: Patience, nursery: trio.Nursery, withheld: Withheld, caught: Caught
    ) -> None:
        """`caught` is awaited when a trainer hands in two results of one piece of work."""
        self._parts = parts
        self._head = head
        self._spread = spread  # from the first model of a round to the last one needed
        self._nursery = nursery
        self._withheld, self._caught = withheld, caught
        self._collections: dict[Round, Collection] = {}
        parts.desk.on(TrainedModel, self._on_trained)
        parts.desk.on(Unable, self._on_unable)
        parts.desk.on(Proposal, self._on_proposal)

    @property
    def busy(self) -> bool:
        return bool(self._collections)

    @property
    def open(self) -> int:
        """How many rounds are being gathered."""
        return len(self._collections)

    # -- gathering ----------------------------------------------------------------------------------------------------

    async def _on_trained(self, sender: PeerId, offer: TrainedModel) -> AnyMessage:
        self._parts.membership.believe(sender, offer.delta)
        if offer.round <= self._head.known.round:
            return Late(self._head.known)
        if (refusal := await self._unwanted(sender, offer.round)) is not None:
            return Refused(refusal)
        if (refusal := self._unclaimed(sender, offer)) is not None:
            return Refused(refusal)
        if offer.round == self._head.known.round + 1 and offer.parent != self._head.known.model:
            self._nursery.start_soon(self._head.reunite)
        collection = self._open(offer.round)
        if collection is None:
            return Refused(f"gathering {OPEN_COLLECTIONS} nearer rounds than {offer.round}")
        set_back = self._parts.sampler.is_set_back(offer.round, sender)
        if set_back and sender not in await self._live_trainers(collection):
            return Refused(f"round {offer.round} went wrong with you: others train it now")
        if sender in collection.expelled:
            return Refused("what you offered for this round is unfit")
        if collection.offered.get(sender) != offer.model:
            if (twice := collection.twice(sender, offer)) is not None:
                self._nursery.start_soon(self._caught, twice)
            if collection.fetching(sender):
                return Refused("still fetching what you offered before")
            collection.offered[sender] = offer.model
            self._nursery.start_soon(self._fetch, collection, sender, offer)
        return Ack()

    async def _on_unable(self, sender: PeerId, excuse: Unable) -> AnyMessage:
        if excuse.round <= self._head.known.round:
            return Late(self._head.known)
        if (refusal := await self._unwanted(sender, excuse.round)) is not None:
            return Refused(refusal)
        collection = self._open(excuse.round)
        if collection is None or len(collection.excused) >= self._parts.manifest.modest.trainers:
            return Refused("too many cannot train")
        collection.excused.add(sender)
        self._head.bell.ring()
        return Ack()

    def _unclaimed(self, sender: PeerId, offer: TrainedModel) -> str | None:
        """Why it is no claim that others could hold its trainer to."""
        audit, run = self._parts.manifest.audit, self._parts.membership.run_id
        if not audit.fraction:
            return None
        if audit.policy == "replay" and shard_of(offer.data) is None:
            return "this run is for data that others can make again (audit.policy = replay)"
        if audit.policy == "probe" and shard_of(offer.data) is not None:
            return "in this run nobody says what others could train on too (audit.policy = probe)"
        if shard_of(offer.data) is not None and offer.samples > audit.examples:
            return f"{offer.samples} examples are more than an auditor has to train on (audit.examples)"
        claim = Claim(sender, offer.round, offer.parent, offer.data, offer.model, offer.samples)
        if not claim_holds(claim, offer.signature, run):
            self._parts.desk.accuse(sender, OffenceKind.BAD_SIGNATURE, f"its claim of round {offer.round}")
            return "signature does not hold"
        return None

    async def _unwanted(self, sender: PeerId, round: Round) -> str | None:
        rounds = self._parts.manifest.rounds or limits.ROUND
        if round > min(rounds, self._head.known.round + limits.ROUNDS_AHEAD):
            return f"round {round} is too far ahead of {self._head.known.round}"
        if sender not in self._parts.sampler.candidates(round):
            return f"you are no candidate for round {round}"
        if self._parts.desk.me not in await self._head.aggregators(round, self._parts.desk.me):
            return f"round {round} has live aggregators that rank before me"
        return None

    def _open(self, round: Round) -> Collection | None:
        """None if only nearer rounds are gathered: the farthest gives way, so that nobody crowds out the next one."""
        if round not in self._collections:
            if len(self._collections) >= OPEN_COLLECTIONS:
                if (farthest := max(self._collections)) < round:
                    return None
                del self._collections[farthest]
                self._head.bell.ring()
            most = self._parts.manifest.modest.trainers
            collection = self._collections[round] = Collection(round, trio.current_time(), most)
            self._nursery.start_soon(self._conclude, collection)
        return self._collections[round]

    async def _fetch(self, collection: Collection, trainer: PeerId, offer: TrainedModel) -> None:
        try:
            await self._parts.exchange.obtain(offer.model, [trainer])
            largest = await self._parts.learner.check(offer.model)
        except Unfit as error:
            return self._expel(collection, trainer, str(error))
        except (NotFetched, StoreFull, LearnerError) as error:
            log.info("round %d: the model of %s is not merged: %s", offer.round, trainer, error)
            return collection.withdraw(trainer)
        update = Input(trainer, offer.model, offer.samples, offer.data, offer.signature)
        self._withheld.withhold(offer.model, offer.round)
        collection.ready(trainer, offer.parent, update, largest, trio.current_time())
        self._keep()
        self._head.bell.ring()

    def _expel(self, collection: Collection, trainer: PeerId, problem: str) -> None:
        self._parts.desk.accuse(trainer, OffenceKind.UNFIT_MODEL, f"round {collection.round}: {problem}")
        collection.expel(trainer)
        self._head.bell.ring()

    def _expelled(self, collection: Collection) -> bool:
        """True if some of what was gathered is not to be merged with the rest."""
        found = collection.absurd()
        for trainer in found:
            self._expel(collection, trainer, "its values are absurdly larger than the others'")
        return bool(found)

    def _keep(self) -> None:
        gathered = self._collections.values()
        self._parts.exchange.keep("gathered", {each.model for some in gathered for each in some.inputs()})

    # -- concluding ---------------------------------------------------------------------------------------------------

    async def _conclude(self, collection: Collection) -> None:
        """From the first model of a round to its aggregate, unless somebody else is faster."""
        aggregate: Aggregate | None = None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._overtaken, collection, scope)
                # The next trainers are found, and linked, while this round's models come in.
                nursery.start_soon(self._next_trainers, collection.round)
                await self._gather(collection)
                aggregate = await self._merge(collection)
                nursery.cancel_scope.cancel()
        if self._collections.get(collection.round) is collection:
            del self._collections[collection.round]
        if aggregate is not None and self._head.known.round < collection.round:
            await self._propose(aggregate)
            await self._vouch(aggregate)
        self._keep()

    async def _overtaken(self, collection: Collection, scope: trio.CancelScope) -> None:
        """Somebody else was faster, or a nearer round took its place."""
        round, held = collection.round, self._collections
        await self._head.bell.until(lambda: self._head.known.round >= round or held.get(round) is not collection)
        scope.cancel()

    async def _gather(self, collection: Collection) -> None:
        """Returns with a quorum. When a trainer cannot train, and each time the deadline passes, others are asked."""
        modest, ceiling_s = self._parts.manifest.modest, self._parts.manifest.timing.round_ceiling_s
        candidates = len(self._parts.sampler.candidates(collection.round))
        need = quorum(min(modest.trainers, candidates), candidates, modest.success_fraction)
        attempt = 0
        while True:
            if await self._gathered(collection, need, attempt) and not self._expelled(collection):
                return self._spread.heard(collection.latest_at - collection.opened_at)
            attempt += 1
            live = await self._live_trainers(collection)
            candidates = len(self._parts.sampler.candidates(collection.round))  # some may have left
            patient = trio.current_time() - collection.opened_at < ceiling_s
            need = quorum(len(live), candidates, modest.success_fraction) if patient else min(2, candidates)
            if len(collection.inputs()) < need:
                await self._recruit(collection, live, min(attempt, limits.ATTEMPTS))

    async def _gathered(self, collection: Collection, need: int, attempt: int) -> bool:
        """False when the deadline has passed, or another trainer has said that it cannot train."""
        excused = len(collection.excused)
        with trio.move_on_after(self._spread.after(attempt)):
            await self._head.bell.until(lambda: len(collection.inputs()) >= need or len(collection.excused) > excused)
        return len(collection.inputs()) >= need

    async def _live_trainers(self, collection: Collection) -> list[PeerId]:
        trainers = self._parts.manifest.modest.trainers
        live = await self._parts.sampler.sample(collection.round, trainers + len(collection.excused))
        return [peer for peer in live if peer not in collection.excused][:trainers]

    async def _recruit(self, collection: Collection, live: list[PeerId], attempt: int) -> None:
        if self._head.known.round < collection.round - 1:
            await self._head.catch_up()
        parent = self._head.known
        if parent.round != collection.round - 1:
            return log.warning("round %d starves and its parent is not known here", collection.round)
        missing = [peer for peer in live if peer not in collection.offered]
        log.info("round %d starves: asking %d more trainers", collection.round, len(missing))
        await self._hand_out(parent, missing, attempt)

    async def _merge(self, collection: Collection) -> Aggregate | None:
        """None if it is for others to propose, or our own worker failed."""
        round, parent, inputs = collection.round, collection.parent(), collection.inputs()
        assert parent is not None
        a, me = self._parts.manifest.modest.aggregators, self._parts.desk.me
        live = await self._parts.sampler.sample(Round(round + 1), a + self._head.passed_over(round, ACCEPTED))
        if me not in live:
            log.info("round %d: others aggregate it", round)
            return None
        rank = live.index(me)
        committee = live[:a] if rank < a else live[rank + 1 - a : rank + 1]
        committee.sort(key=lambda peer: peer != me)  # who signs comes first
        if 0 < rank < a:
            await trio.sleep(self._spread.deadline_s + RECOMPUTE_S)  # the first in rank proposes and overtakes us
        try:
            mean = await self._mean(round, parent, inputs, committee)
            return signed(mean, self._parts.signer, self._parts.membership.run_id)
        except (NotFetched, Unfit, LearnerError, StoreFull) as error:  # checked on arrival: our own store or worker
            log.error("round %d: merging failed: %s", round, error)
            return None

    async def _mean(
        self, round: Round, parent: Digest, inputs: tuple[Input, ...], committee: Sequence[PeerId]
    ) -> Aggregate:
        model = await self._head.merged(parent, inputs)
        self._parts.exchange.keep("merged", [model])
        return Aggregate(round, model, parent, inputs, tuple(committee))

    # -- several aggregators ------------------------------------------------------------------------------------------

    async def _propose(self, aggregate: Aggregate) -> None:
        """Let the other aggregators recompute: an equal digest is their vote."""
        parent, models = Digest(aggregate.parent), [each.model for each in aggregate.inputs]
        proposal = Proposal(aggregate.round, parent, aggregate.inputs, aggregate.aggregators, aggregate.signature)
        async with trio.open_nursery() as nursery:
            for peer in aggregate.aggregators:
                if peer != self._parts.desk.me:
                    self._withheld.grant(peer, models)
                    nursery.start_soon(self._propose_to, peer, proposal, aggregate)

    async def _propose_to(self, peer: PeerId, proposal: Proposal, aggregate: Aggregate) -> None:
        try:
            answer = await self._parts.desk.ask(peer, proposal, (Computed, Late), RECOMPUTE_S)
        except TransportError as error:
            return log.info("round %d: %s did not recompute: %s", proposal.round, peer, error)
        if isinstance(answer, Computed) and answer.model == aggregate.model:
            await self._head.vote(peer, aggregate)
        elif isinstance(answer, Computed):
            log.warning("round %d: %s computes another mean than we do", proposal.round, peer)

    async def _on_proposal(self, sender: PeerId, proposal: Proposal) -> AnyMessage:
        if proposal.round <= self._head.known.round:
            return Late(self._head.known)
        trainers = {each.trainer for each in proposal.inputs}
        if not 0 < len(trainers) == len(proposal.inputs) <= self._parts.manifest.modest.trainers:
            return Refused("not the inputs of a round")
        committee = await self._head.aggregators(proposal.round, sender)
        ours = proposal.committee[:1] == (sender,) and self._parts.desk.me in proposal.committee
        if sender not in committee or not ours:
            return Refused(f"not the committee of round {proposal.round} as I see it")
        try:
            await self._parts.exchange.obtain_all((each.model, [each.trainer, sender]) for each in proposal.inputs)
            largest = {each.trainer: await self._parts.learner.check(each.model) for each in proposal.inputs}
            if found := absurd(largest):
                return Refused(f"what {found[0]} made is absurdly larger than the others")
            mean = await self._mean(proposal.round, proposal.parent, proposal.inputs, proposal.committee)
        except (NotFetched, StoreFull, Unfit, LearnerError) as error:
            return Refused(f"cannot recompute: {error}"[: limits.DETAIL_CHARS])
        aggregate = msgspec.structs.replace(mean, signature=proposal.signature)
        if not self._parts.manifest.audit.fraction or whole(aggregate, self._parts.membership.run_id):
            self._nursery.start_soon(self._vouch, aggregate)
        return Computed(mean.model)

    # -- telling ------------------------------------------------------------------------------------------------------

    async def _vouch(self, aggregate: Aggregate) -> None:
        """Our vote, then everybody else's news of it."""
        await self._head.vote(self._parts.desk.me, aggregate)
        await self._tell(aggregate)

    async def _tell(self, aggregate: Aggregate) -> None:
        me = self._parts.desk.me
        last = aggregate.round == self._parts.manifest.rounds
        trainers = [] if last else await self._next_trainers(aggregate.round)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_out, aggregate, trainers, 0)
            for peer in sorted(
                {*(each.trainer for each in aggregate.inputs), *aggregate.aggregators} - {*trainers, me}
            ):
                nursery.start_soon(self._settle, peer, aggregate)
            nursery.start_soon(self._parts.desk.tell, self._parts.membership.topic, HeadIs(aggregate))

    async def _next_trainers(self, round: Round) -> list[PeerId]:
        return await self._parts.sampler.sample(Round(round + 1), self._parts.manifest.modest.trainers)

    async def _hand_out(self, aggregate: Aggregate, trainers: list[PeerId], attempt: int) -> None:
        async with trio.open_nursery() as nursery:
            for peer in trainers:
                nursery.start_soon(self._hand_to, peer, aggregate, attempt)

    async def _hand_to(self, peer: PeerId, aggregate: Aggregate, attempt: int) -> None:
        delta, upto = self._parts.membership.exchanges.news_for(peer)
        try:
            answer = await self._parts.desk.insist(peer, Aggregated(aggregate, attempt, delta), (Ack, Late))
        except TransportError as error:
            return log.info("round %d: %s was not handed the aggregate: %s", aggregate.round, peer, error)
        self._parts.membership.exchanges.told(peer, upto)
        if isinstance(answer, Late):
            self._nursery.start_soon(self._head.catch_up)

    async def _settle(self, peer: PeerId, aggregate: Aggregate) -> None:
        try:
            await self._parts.desk.insist(peer, Settled(aggregate), Ack)
        except TransportError as error:
            log.debug("round %d: %s was not told that it is settled: %s", aggregate.round, peer, error)
