"""The newest aggregate: which one we believe in (`known`), and which one's bytes we hold (`held`).

An aggregate of the next round or two is believed when a majority of the aggregators that we sample for it ourselves
have named it. A node that has fallen further behind believes what two of several peers say alike: one liar cannot move
us.
Invariant: `held.round <= known.round`, and both only grow; but when a model has died with all who held it, or cannot be
trained from, `known` goes back to the newest that is fit and that somebody still has.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from protocols import limits
from protocols.bell import Bell
from protocols.blobs import Blobs, StoreFull
from protocols.branches import better_branch
from protocols.claiming import whole
from protocols.collection import weights
from protocols.desk import Desk
from protocols.exchange import ModelExchange, NotFetched
from protocols.fitness import Fitness
from protocols.learner import Learner, LearnerError, Unfit
from protocols.lineage import Place, before, line, place, tainted, theta0
from protocols.manifest import Manifest
from protocols.membership import Membership
from protocols.merging import CENTRED, settled
from protocols.messages import Aggregate, AskHead, HeadIs, Input
from protocols.signatures import Signer
from protocols.transport import TransportError
from sampling.patience import Patience
from sampling.peers import PeerId, Round
from sampling.sampler import Sampler
from verify.digest import Digest, short
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

ASKED = 3  # peers asked for their head when we may have fallen behind
SPARE = 4  # times as many are looked at for a sign of life: four in five may be dead
ASKED_TO_REUNITE = 16  # peers asked which branch they are on: a third of them is a crowd, not a chance
REUNITE_S = 2.0  # at most so often: whoever names another branch makes us ask
ASKED_AGAIN = 3  # times, while rounds pass so quickly that no two agree
OVERDUE = 3.0  # times the learned time of a round: when trainers pass an aggregator over that took their models
ACCEPTED = 2.0  # likewise, but when everybody else accepts that: clocks and learned times differ
PASSED_OVER = 8  # live aggregators of one round at most: by then a third of the swarm would have to be hostile
REMEMBERED = 32  # past aggregates that a retreat may go back to; at most 25 KB each
LEAP = 2  # rounds ahead for which votes count: far ahead only those are candidates who claim to be active there


@dataclass(frozen=True)
class Parts:
    """What a protocol is made of; the daemon and the simulator build it."""

    desk: Desk
    membership: Membership
    sampler: Sampler
    exchange: ModelExchange
    learner: Learner
    blobs: Blobs
    manifest: Manifest
    rng: random.Random
    signer: Signer
    data: bytes = b""  # what our claims say that we train on


class Head:
    def __init__(self, parts: Parts, start: Aggregate, held: Callable[[Aggregate], Awaitable[None]]) -> None:
        """`held` is awaited each time newer bytes are in the store: the place to save a checkpoint."""
        self.known = start
        self.held: Aggregate | None = None
        self.retreats = 0  # times we went back from a model that nobody could give us, or train from
        self.dropped: tuple[Aggregate, Aggregate] | None = None  # the last branch we left, and for which one
        self.turned: Callable[[], None] = lambda: None  # told after `known` went back, or to another branch
        self._looked_at = -math.inf  # when we last asked who else is on our branch
        self.bell = Bell()  # rung when `known` or `held` moved
        self._start = start
        self._past: deque[Aggregate] = deque(maxlen=REMEMBERED)  # what we believed before, the oldest first
        self._lost: dict[Digest, Aggregate] = {}  # known by name, but nobody could give us the bytes
        self._tainted: set[Place] = set()  # proved wrong, and what descends from them
        self.fitness = Fitness(parts.learner)
        self._parts = parts
        self._on_held = held
        self._votes: dict[Round, dict[PeerId, Aggregate]] = {}  # of rounds that are still to come; each voter's last
        timing = parts.manifest.timing
        self._pace = Patience(timing.round_floor_s, timing.round_ceiling_s)  # from one aggregate to the next
        self._since = trio.current_time()  # when `known` came

    @property
    def finished(self) -> bool:
        """The run's last aggregate is known."""
        return 0 < self._parts.manifest.rounds <= self.known.round

    @property
    def votes(self) -> int:
        """How many are kept, of all rounds."""
        return sum(map(len, self._votes.values()))

    async def aggregators(self, round: Round, expected: PeerId) -> list[PeerId]:
        """The live aggregators of `round`: the first a of sample k+1. If `expected` is among the first a anyway, nobody
        is asked: whoever ranks before it is not thereby dead, but it is no impostor."""
        a = self._parts.manifest.modest.aggregators + self.passed_over(round, ACCEPTED)
        first = self._parts.sampler.first(Round(round + 1), a)
        return first if expected in first else await self._parts.sampler.sample(Round(round + 1), a)

    def passed_over(self, round: Round, patience: float = OVERDUE) -> int:
        """How many live aggregators have had their chance: one that answers but never merges must not stop the run, so
        each time the round is overdue, one more of the sample may settle it. By our own clock: nobody's word."""
        if round != self.known.round + 1:
            return 0
        return min(PASSED_OVER, int((trio.current_time() - self._since) / (patience * self._pace.deadline_s)))

    async def vote(self, voter: PeerId, aggregate: Aggregate) -> bool:
        """An aggregator names an aggregate. True if that makes, or has made, it `known`."""
        if aggregate.round <= self.known.round:
            if aggregate.round == self.known.round and aggregate.model != self.known.model:
                await self.reunite()
            return aggregate.model == self.known.model
        if not self._plausible(voter, aggregate):
            self._parts.desk.accuse(voter, OffenceKind.PROTOCOL, f"implausible aggregate of round {aggregate.round}")
            return False
        if aggregate.round > self.known.round + LEAP:
            await self.catch_up()
        if self.known.round < aggregate.round <= self.known.round + LEAP:
            await self._count(voter, aggregate)
        return self.known.model == aggregate.model

    async def _count(self, voter: PeerId, aggregate: Aggregate) -> None:
        committee = await self.aggregators(aggregate.round, voter)
        if voter not in committee:
            return log.info("%s is no aggregator of round %d as we see it", voter, aggregate.round)
        votes = self._votes.setdefault(aggregate.round, {})
        votes[voter] = aggregate
        size = min(len(committee), self._parts.manifest.modest.aggregators)
        if 2 * sum(votes.get(peer) == aggregate for peer in committee) > size:
            self.learn(aggregate)
        return None

    def learn(self, aggregate: Aggregate) -> None:
        """Believe it."""
        if before(aggregate) in self._tainted:
            self._tainted.add(place(aggregate))
        if aggregate.round <= self.known.round or self._given_up(aggregate):
            return
        now = trio.current_time()
        if aggregate.round == self.known.round + 1 > 1:  # the first waits for peers
            # Capped: whoever delays rounds on purpose must not teach us to wait longer and longer.
            self._pace.heard(min(now - self._since, self._pace.deadline_s))
        self._past.append(self.known)
        self.known, self._since = aggregate, now
        self._lost = {model: lost for model, lost in self._lost.items() if lost.round > aggregate.round}
        self._votes = {round: votes for round, votes in self._votes.items() if round > aggregate.round}
        self._parts.membership.advance(aggregate.round)
        self.bell.ring()

    async def reach(self, round: Round) -> None:
        """Returns once an aggregate of `round` or later is known."""
        await self.bell.until(lambda: self.known.round >= round)

    async def known_other_than(self, aggregate: Aggregate) -> Aggregate:
        await self.bell.until(lambda: self.known != aggregate)
        return self.known

    async def held_other_than(self, aggregate: Aggregate | None) -> Aggregate:
        """The newest aggregate whose bytes are here, once it is another than that."""
        await self.bell.until(lambda: self.held is not None and self.held != aggregate)
        assert self.held is not None
        return self.held

    async def hold(self, aggregate: Aggregate, *, spread: bool = False) -> None:
        """Fetch and check its bytes. `spread`: not all from who made it. Raises NotFetched, StoreFull; Unfit after
        accusing those who made it."""
        await self.obtain(aggregate, spread=spread)
        try:
            await self._parts.learner.check(aggregate.model)
        except Unfit as error:
            for peer in aggregate.aggregators:
                self._parts.desk.accuse(peer, OffenceKind.UNFIT_MODEL, f"aggregate of round {aggregate.round}: {error}")
            raise
        rival = self.held is not None and aggregate == self.known and aggregate.round == self.held.round != 0
        if self.held is None or aggregate.round > self.held.round or (rival and aggregate != self.held):
            self.held = aggregate
            self._parts.exchange.keep("head", [aggregate.model])
            await self._on_held(aggregate)
            self.bell.ring()

    async def retreat(self) -> bool:
        """For a run that stands still: if nobody can give us the newest model, or it cannot be trained from, go back to
        the newest that we believed in before and that is neither; else all wait for ever. True if we did."""
        last = self.known
        if last.round == 0 or await self._sound(last):
            return False
        back = await self._newest_sound(last.round)
        if self.known != last:
            return False
        unfit = self.fitness.unfit(last.model)
        if not unfit:
            self._lost[last.model] = last
        if unfit:
            self._draw_anew(last)
        await self._return(last, back, "cannot be trained from" if unfit else "is lost", rid=unfit)
        return True

    async def _return(self, last: Aggregate, back: Aggregate, why: str, *, rid: bool) -> None:
        """`rid`: what we leave is not what a restart is to begin with either."""
        self.retreats += 1
        self.known = back
        self._since = trio.current_time()
        log.warning("the model of round %d %s: going on from round %d", last.round, why, back.round)
        if rid and self.held is not None and self.held.round > back.round:
            self.held = back
            self._parts.exchange.keep("head", [back.model])
            await self._on_held(back)
        self.bell.ring()
        self.turned()

    def _draw_anew(self, unfit: Aggregate) -> None:
        """Its round, so that whoever spoilt it does not do so for ever. Who of them did is not known: an honest
        aggregator cannot see what was wrong with the models it was given."""
        sampler = self._parts.sampler
        sampler.set_back(unfit.round, [each.trainer for each in unfit.inputs])
        sampler.set_back(Round(unfit.round + 1), unfit.aggregators)

    async def _sound(self, aggregate: Aggregate) -> bool:
        return await self._obtainable(aggregate) and await self.fitness.fit(aggregate.model)

    def _given_up(self, aggregate: Aggregate) -> bool:
        doomed = bool(self._tainted & {place(aggregate), before(aggregate)})
        return doomed or aggregate.model in self._lost or self.fitness.unfit(aggregate.model)

    async def convict(self, wrong: Iterable[Aggregate]) -> None:
        """These were proved wrong: go back to the newest that we believed in and that comes of none of them."""
        self._tainted |= tainted([*map(place, wrong), *self._tainted], [*self._past, self.known])
        while place(last := self.known) in self._tainted:
            first = min(each.round for each in self.line() if place(each) in self._tainted)
            back = await self._newest_sound(first)
            if self.known == last:
                await self._return(last, back, "comes of an aggregate that was proved wrong", rid=True)

    def line(self) -> list[Aggregate]:
        """From the oldest ancestor that we remember to `known`."""
        return line(self._past, self.known)

    def remembered(self, model: Digest) -> Aggregate | None:
        return next((each for each in [self.known, *self._past, self._start] if each.model == model), None)

    async def _newest_sound(self, before: Round) -> Aggregate:
        """All who followed the run find the same one, whoever holds it."""
        held = self.held or self._start
        before_now = dict.fromkeys([*reversed(self._past), held])  # of one round, what we believed last comes first
        for aggregate in sorted(before_now, key=lambda each: each.round, reverse=True):
            if aggregate.round < before and not self._given_up(aggregate) and await self._sound(aggregate):
                return aggregate
        return theta0(self._parts.manifest)

    async def _recover(self) -> None:
        """What was lost may have turned up with a peer that was away."""
        for lost in sorted(self._lost.values(), key=lambda lost: lost.round):
            if await self._obtainable(lost):
                self._lost.pop(lost.model, None)
                self.learn(lost)

    async def _obtainable(self, aggregate: Aggregate) -> bool:
        try:
            await self.obtain(aggregate)
        except NotFetched:
            return False
        except StoreFull as error:
            log.error("the model of round %d does not fit here: %s", aggregate.round, error)
        return True

    async def catch_up(self) -> bool:
        """Ask a few peers how far the run is. True if that was news."""
        before = self.known.round
        await self._recover()
        for _ in range(ASKED_AGAIN):
            heads, silent = await self._ask_around(ASKED)
            if self._believe(heads, silent):
                break
        if any(head.round == self.known.round and head.model != self.known.model for head in heads):
            await self.reunite()
        return self.known.round > before

    async def reunite(self) -> None:
        """Somebody is on another branch: after a partition, or two aggregators of one round. Find the better one."""
        if trio.current_time() - self._looked_at < REUNITE_S:
            return
        self._looked_at = trio.current_time()
        heads, _ = await self._ask_around(ASKED_TO_REUNITE)
        known = self.known
        better = better_branch(known, [head for head in heads if not self._given_up(head)])
        if better is not None and known.round > 0:
            left, found = short(known.model), short(better.model)
            log.warning("round %d: leaving %s for the better branch %s", known.round, left, found)
            self.dropped, self.known = (known, better), better
            self._since = trio.current_time()
            self.bell.ring()
            self.turned()

    async def _ask_around(self, most: int) -> tuple[list[Aggregate], int]:
        """What random partners name as the newest aggregate, and how many fewer answered than were to be asked."""
        partners = self._parts.membership.partners()
        some = self._parts.rng.sample(partners, min(SPARE * most, len(partners)))
        live = await self._parts.sampler.alive(some)  # a dead one costs a ping's deadline once, not a question's
        heads: list[Aggregate] = []
        async with trio.open_nursery() as nursery:
            for peer in live[:most]:
                nursery.start_soon(self._ask_head, peer, heads)
        return heads, min(most, len(some)) - len(heads)

    def _believe(self, heads: list[Aggregate], silent: int) -> bool:
        """What two say alike; or the only one to say anything, if nobody kept silent. Who is at theta0 does not count:
        one that joins a run may know only others that join. False if it is worth asking again."""
        said = Counter(head for head in heads if head.round > 0 and not self._given_up(head))
        enough = 1 if said.total() + silent == 1 else 2
        agreed = [head for head, times in said.items() if times >= enough]
        if agreed:
            self.learn(max(agreed, key=lambda head: head.round))
        return bool(agreed) or said.total() < 2

    async def _ask_head(self, peer: PeerId, heads: list[Aggregate]) -> None:
        deadline_s = self._parts.manifest.timing.ping_ceiling_s
        try:
            answer = await self._parts.desk.ask(peer, AskHead(), HeadIs, deadline_s)
        except TransportError:
            return
        if answer.head.round == 0 or self._plausible(None, answer.head):
            heads.append(answer.head)

    def _plausible(self, voter: PeerId | None, aggregate: Aggregate) -> bool:
        rounds = self._parts.manifest.rounds or limits.ROUND
        trainers = [each.trainer for each in aggregate.inputs]
        return (
            0 < aggregate.round <= rounds
            and len(aggregate.parent) == len(aggregate.model)
            and 0 < len(trainers) <= self._parts.manifest.modest.trainers
            and len(set(trainers)) == len(trainers)
            and 0 < len(aggregate.aggregators) <= self._parts.manifest.modest.aggregators
            and (voter is None or voter in aggregate.aggregators)
            and (not self._parts.manifest.audit.fraction or whole(aggregate, self._parts.membership.run_id))
        )

    async def obtain(self, aggregate: Aggregate, *, spread: bool = False) -> None:
        if aggregate.round == 0 and await self._parts.learner.initial() == aggregate.model:
            return
        silent = self._parts.membership.liveness.silent
        first = list(aggregate.aggregators)
        if spread:
            first += self._trainers_from(aggregate)
            self._parts.rng.shuffle(first)
        with contextlib.suppress(NotFetched):
            return await self._parts.exchange.obtain(aggregate.model, [peer for peer in first if not silent(peer)])
        try:
            await self._parts.exchange.obtain(aggregate.model, await self._others(aggregate))
        except NotFetched:
            if not await self._remade(aggregate):
                raise

    async def _remade(self, aggregate: Aggregate) -> bool:
        """It died with its makers, or they keep it to themselves: those who trained still hold what it was made of."""
        wanted = [(each.model, [each.trainer]) for each in aggregate.inputs]
        trainers = [each.trainer for each in aggregate.inputs]
        if await self._parts.sampler.alive(trainers) != trainers:
            return False
        try:
            await self._parts.exchange.obtain_all(wanted)
            return await self.merged(Digest(aggregate.parent), aggregate.inputs) == aggregate.model
        except (NotFetched, StoreFull, Unfit, LearnerError) as error:
            log.info("the model of round %d cannot be made again: %s", aggregate.round, error)
            return False

    async def merged(self, parent: Digest, inputs: Sequence[Input]) -> Digest:
        """What a round's inputs, all held here, make. Raises NotFetched, StoreFull, Unfit, LearnerError."""
        models, learner = [each.model for each in inputs], self._parts.learner
        if settled(self._parts.manifest.merging).rule not in CENTRED:
            return await learner.merge(models, weights(inputs))
        await self._parts.exchange.obtain(parent, [each.trainer for each in inputs])
        return await learner.merge(models, weights(inputs), parent)

    async def _others(self, aggregate: Aggregate) -> Sequence[PeerId]:
        """Who else may have it: anyone in random order, so that the load spreads, then those who train from it. Only
        those that answer, asked all at once: most of a swarm may be dead, and each would cost its time-out."""
        partners = self._parts.membership.partners()
        others = self._parts.rng.sample(partners, len(partners))
        return await self._parts.sampler.alive(list(dict.fromkeys([*others, *self._trainers_from(aggregate)])))

    def _trainers_from(self, aggregate: Aggregate) -> list[PeerId]:
        return self._parts.sampler.first(Round(aggregate.round + 1), self._parts.manifest.modest.trainers)
