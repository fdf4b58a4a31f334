"""A node's own work in gossip learning: train, offer the new model, merge whatever has come meanwhile, train again.

After a pause, and at the start, it first looks whether the others are ahead; if most of those that it sees are, it goes
on from their models instead of its own. Invariants: training never waits for the network (but for that look, which is
bounded); a merge that fails, or from which nobody can train, costs that merge and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from protocols.blobs import StoreFull
from protocols.gossip import weights
from protocols.gossip.audit import Auditor
from protocols.gossip.claims import Making, first_model
from protocols.gossip.fragments import Fragments
from protocols.gossip.inbox import Came, Inbox
from protocols.gossip.neighbours import Neighbours, median_age
from protocols.gossip.puller import Puller
from protocols.gossip.sieve import Sieve
from protocols.head import Parts
from protocols.learner import Cut, Evaluation, LearnerError, Trained, Unfit
from protocols.merging import CENTRED, settled
from protocols.messages import Aggregate, Held
from protocols.training import Phase
from sampling.peers import PeerId, Round
from verify.digest import Digest, short

log = logging.getLogger(__name__)

AGAIN_S = 2.0  # after training failed
AWAY = 10.0  # usual turns, and AWAY_S more, without one: we were stopped, or our machine slept
AWAY_S = 10.0
CATCH_UP_S = 30.0  # most that a look at the others takes
LOOKS = 3  # pulls of one look
BEHIND = 5  # trainings: who is less behind than that mends it by merging, and keeps what it began with
SAVE_S = 5.0  # between two checkpoints


@dataclass(frozen=True, slots=True)
class Merged:
    """What a turn ended with: the model to train from next."""

    age: Round
    model: Digest
    parent: Digest  # what the node itself put in
    others: Sequence[PeerId]


def _unheard(*what: object) -> None:
    pass


async def _unsaved() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the node wants to hear of."""

    began: Callable[[], None] = _unheard
    save: Callable[[], Awaitable[None]] = _unsaved  # the checkpoint has moved
    merged: Callable[[Merged], None] = _unheard
    evaluated: Callable[[int, Evaluation], None] = _unheard


@dataclass(slots=True)
class Counts:
    merges: int = 0
    models: int = 0  # of others, in them
    refused: int = 0  # models that came and were not fit to be merged
    caught_up: int = 0  # times that we went on from the others' models


class Trainer:
    def __init__(
        self,
        parts: Parts,
        neighbours: Neighbours,
        inbox: Inbox,
        puller: Puller,
        hooks: Hooks,
        making: Making,
        auditor: Auditor,
        fragments: Fragments,
        *,
        checkpoint: Aggregate | None,
        trains: bool,
        slowdown: float,
        evaluate_every: int,
    ) -> None:
        self.age = Round(checkpoint.round) if checkpoint else Round(0)
        self.model: Digest | None = Digest(checkpoint.model) if checkpoint and making.known else None
        self.checkpoint = checkpoint
        self.shown: Held | None = None  # what people get: see `_show`
        self._shown = making.work  # how that came to be
        self.saved = making.work if making.known else None  # and how the checkpoint's model did
        newest = making.newest
        held = newest is not None and newest.model in parts.blobs and fragments.are_in(newest)
        self.newest = newest if held else None  # what others may have of us; its blob is in the store
        self.over = False
        self.phase: Phase = "waiting"
        self.failure: str | None = None
        self.counts = Counts()
        self._parts, self._rules = parts, parts.manifest.gossip
        self._merging = settled(parts.manifest.merging, "gossip")
        self._inbox, self._puller, self._hooks = inbox, puller, hooks
        self._making, self._auditor, self._fragments = making, auditor, fragments
        self._sieve = Sieve(parts, neighbours, inbox, auditor, fragments, self._refused)
        self._cuts: Sequence[Cut] = ()  # of our newest
        self._puller.whole = not trains
        if self.newest is not None:
            fragments.offer(self.newest)
        self._parts.exchange.keep("checkpoint", [Digest(checkpoint.model)] if checkpoint else [])
        self._trains, self._slowdown, self._evaluate_every = trains, slowdown, evaluate_every
        self._fallback: Digest | None = None  # what we trained last, if it can be trained from
        self._samples = 1
        self._turned_at = trio.current_time()  # when we last trained
        self.turn_s = self._rules.every_s
        self._merged_at = trio.current_time()
        self._saved_at = trio.current_time()
        self._evaluated = -1
        if self.model is not None:
            self._show()
        self._keep()

    async def run(self) -> None:
        """Until the last training is done, then returns."""
        if self.model is None:
            self.model = await self._initial()
            self._show()
        self._hooks.began()
        if self._trains:
            await self._catch_up()
        self._turned_at = trio.current_time()
        while not self._done:
            await (self._train_once() if self._trains else self._follow())
        await self._finish()

    async def _train_once(self) -> None:
        began_s = trio.current_time()
        await self._auditor.work()
        trained = await self._train()
        if trained is not None:
            await self._turn(began_s, trained)

    async def _follow(self) -> None:
        """Without data: have what the others have."""
        self.phase = "idle"
        if ahead := await self._catch_up(behind=1):
            self.age = median_age(came.offer.age for came in ahead)
            assert self.model is not None
            self._hooks.merged(Merged(self.age, self.model, self.model, [came.origin for came in ahead]))
            await self._settle()
        await trio.sleep(self._rules.every_s)

    @property
    def _done(self) -> bool:
        return 0 < self._parts.manifest.rounds <= self.age

    # -- training -----------------------------------------------------------------------------------------------------

    async def _initial(self) -> Digest:
        while True:
            try:
                first = await first_model(self._parts, self._parts.desk.me)
                self._making.began()
                return first
            except (LearnerError, StoreFull) as error:
                self._failed(error)
            await trio.sleep(AGAIN_S)

    async def _train(self) -> Trained | None:
        assert self.model is not None
        self.phase = "training"
        try:
            age = Round(self.age + 1)
            trained = await self._parts.learner.train(self.model, age, seed=self._making.seed(age))
            self._cuts = await self._fragments.cut(trained.model)
        except Unfit as error:
            await self._retreat(error)
            self._show()
        except (LearnerError, StoreFull) as error:
            self._failed(error)
            await trio.sleep(AGAIN_S)
        else:
            self.failure = None
            return trained
        return None

    async def _retreat(self, error: Unfit) -> None:
        """From a merge that nobody can train from to our own model; from that one to the first."""
        log.warning("training %d: %s cannot be trained from: %s", self.age + 1, short(self.model or b""), error)
        if self._fallback is not None and self._fallback != self.model:
            self.model = self._fallback
            self._making.alone()
            return
        before, self.model = self.model, await self._initial()
        self._fallback = None
        if self.model == before:
            self._failed(f"whatever the model, so this node's own data are to be looked at: {error}")
            await trio.sleep(AGAIN_S)

    def _failed(self, error: object) -> None:
        self.failure = str(error)
        log.error("training %d failed: %s", self.age + 1, error)

    async def _rest(self, began_s: float, trained: Trained) -> None:
        """No training takes less than the manifest says, nor less than this node was told to take."""
        self.phase = "idle"
        await trio.sleep_until(began_s + max(self._rules.every_s, trained.seconds) * self._slowdown)

    async def _turn(self, began_s: float, trained: Trained) -> None:
        """Offered at once, and merged after the rest: what others have is fresher then, and ours for them."""
        away = self._was_away()
        if not away:
            self.turn_s = max(self._rules.every_s, trio.current_time() - self._turned_at)
        self._turned_at = trio.current_time()
        self.age, self.model, self._samples = Round(self.age + 1), trained.model, trained.samples
        self._fallback = trained.model
        pieces = [cut.name for cut in self._cuts]
        self.newest = self._making.trained(trained, self.age, self._turn_ms(), pieces)
        self._fragments.offer(self.newest)
        self._auditor.trained()
        self._keep()
        self._inbox.bell.ring()
        await self._rest(began_s, trained)
        if not (away and await self._catch_up()):  # what it goes on from then is nobody's own
            await self._merge()
        await self._settle()

    def _turn_ms(self) -> int:
        return round(1000 * self.turn_s)

    async def _settle(self) -> None:
        """A turn is over."""
        self._show()
        if self._evaluate_every and self.age % self._evaluate_every == 0:
            await self._evaluate()
        if trio.current_time() - self._saved_at > SAVE_S:
            await self.save()

    def _show(self) -> None:
        """What we go on from. Not what a training has just made: until it is merged that knows our own data best."""
        assert self.model is not None
        self.shown, self._shown = Held(self.age, self.model), self._making.work
        self._keep()

    async def _finish(self) -> None:
        """What others still ask for is served; nothing moves here any more."""
        self._puller.stopped = True
        await self.save()
        while self._evaluated != self.age:
            await self._evaluate()
            if self._evaluated != self.age:
                await trio.sleep(AGAIN_S)
        self.over = True
        self.phase = "finished"

    # -- merging ------------------------------------------------------------------------------------------------------

    async def _merge(self) -> None:
        """What has come, and our own; if anything came."""
        assert self.model is not None
        own = self.model
        others: list[Came] = []
        if self._inbox.holds(max(1, 2 * self._merging.byzantine)):
            window_s, self._merged_at = trio.current_time() - self._merged_at, trio.current_time()
            others = await self._merged(own, await self._sieve.fit(own, self._cuts), window_s)
        self._hooks.merged(Merged(self.age, self.model, own, [came.origin for came in others]))

    async def _merged(self, own: Digest, came: list[Came], window_s: float) -> list[Came]:
        """Those that our model is now merged of, beside our own."""
        counts = weights.of_others([each.offer for each in came], self._samples, self._rules, window_s)
        if self._fragments.on:
            came, counts = await self._by_piece(own, came, counts)
        elif not await self._whole([own, *(each.name for each in came)], self._with_own(counts)):
            came = []
        if came:
            makers, offers = [each.origin for each in came], [each.offer for each in came]
            me, ours = self._parts.desk.me, self._making.newest
            assert ours is not None
            pieces = [0, *(0 if each.piece is None else each.piece + 1 for each in came)]
            self._making.merged([me, *makers], [ours, *offers], self._with_own(counts), pieces)
        return came

    def _with_own(self, counts: Sequence[int]) -> list[int]:
        return weights.with_own(self._rules.beta, self._samples, counts)

    async def _by_piece(self, own: Digest, came: list[Came], counts: list[int]) -> tuple[list[Came], list[int]]:
        """Those that were merged, and how much they count."""
        shares = {each.origin: count for each, count in zip(came, counts, strict=True)}
        gathered = self._fragments.gathered(came, shares, self._samples)
        names = {name for each in gathered for name in each.others}
        used = [each for each in came if each.name in names]
        if not used or not await self._made(self._parts.learner.merge_pieces(own, gathered), len(used)):
            return [], []
        return used, [shares[each.origin] for each in used]

    async def _whole(self, models: Sequence[Digest], counts: Sequence[int]) -> bool:
        """The first of `models` is what rules that need a centre look from."""
        if len(models) < max(2, 2 * self._merging.byzantine + 1):
            return False
        centre = models[0] if self._merging.rule in CENTRED else None
        return await self._made(self._parts.learner.merge(models, counts, centre), len(models) - 1)

    async def _made(self, merged: Awaitable[Digest], others: int) -> bool:
        self.phase = "aggregating"
        try:
            self.model = await merged
        except (Unfit, LearnerError, StoreFull) as error:
            log.warning("training %d: not merged: %s", self.age, error)
            return False
        self.counts.merges += 1
        self.counts.models += others
        self._keep()
        return True

    def _refused(self) -> None:
        self.counts.refused += 1

    # -- after a pause ------------------------------------------------------------------------------------------------

    def _was_away(self) -> bool:
        """By our own clock alone: nobody's word."""
        return trio.current_time() - self._turned_at > AWAY * self.turn_s + AWAY_S

    async def _catch_up(self, behind: int = BEHIND) -> list[Came]:
        """Pull first; where most of what came is so far ahead of our own model, go on from that. What that was."""
        looks, self._puller.whole = self._puller.looks, True
        with trio.move_on_after(CATCH_UP_S):
            await self._inbox.bell.until(lambda: self._inbox.full or self._puller.looks >= looks + LOOKS)
        self._puller.whole = not self._trains
        came = [each for each in await self._sieve.fit(None) if each.piece is None]
        if not came or median_age(each.offer.age for each in came) < self.age + behind:
            return []
        makers, offers = [each.origin for each in came], [each.offer for each in came]
        counts = weights.of_others(offers, self._samples, self._rules, self.turn_s)
        if len(offers) == 1 or not await self._whole([offer.model for offer in offers], counts):
            self.model, makers, offers, counts = offers[0].model, makers[:1], offers[:1], [1]
        self._making.merged(makers, offers, counts)
        self._show()
        self.counts.caught_up += 1
        age = median_age(each.offer.age for each in came)
        log.info("went on from the models of %d others, after about %d trainings of theirs", len(came), age)
        self._turned_at = trio.current_time()
        return came

    # -- what lasts ---------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        digests = {self.model, self._fallback, self.newest.model if self.newest else None}
        digests |= {Digest(self.shown.model) if self.shown else None, *self._making.models()}
        self._parts.exchange.keep("gossip", sorted(digest for digest in digests if digest is not None))

    async def save(self) -> None:
        """The checkpoint is what a crash does not take: kept in the store together with the one before it."""
        assert self.shown is not None
        self._saved_at = trio.current_time()
        before, self.checkpoint = self.checkpoint, Aggregate(self.shown.round, self.shown.model, b"", (), ())
        self.saved = self._shown
        kept = [self.checkpoint, *([before] if before else [])]
        self._parts.exchange.keep("checkpoint", [Digest(each.model) for each in kept])
        await self._hooks.save()

    async def _evaluate(self) -> None:
        assert self.model is not None
        try:
            self._hooks.evaluated(self.age, await self._parts.learner.evaluate(self.model))
            self._evaluated = self.age
        except (LearnerError, Unfit) as error:
            self._failed(error)
