"""Audits without rounds: a node does some of the work that it pulls again, and believes nobody's replay but its own.

After a training of its own, with the chance `audit.fraction`, one of the next models that come is audited: what it was
made of is asked for and fetched, merged and trained again (proof of learning, arXiv 2103.05633), the result compared by
signature (`verify.lsh`). Which one, only the node's own dice know, so no beacon is needed. Who finds a claim false says
so to all; each who hears that does the work too, for a doubt is a hint and no evidence. Invariants: at most one audit
is begun for each training of ours, and done between two of them; two falsehoods (claims or doubts), both found by
replays here, expel a peer at this node; nobody else's word does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from protocols.bell import Bell
from protocols.blobs import StoreFull
from protocols.claiming import shard_of
from protocols.evidence import Judgement
from protocols.exchange import NotFetched
from protocols.gossip import claims
from protocols.gossip.messages import AskWork, Doubted, Offer, Work, WorkIs
from protocols.head import Parts
from protocols.learner import LearnerError, Unfit
from protocols.merging import CENTRED, settled
from protocols.training import AuditFigures, AuditVerdict
from protocols.transport import TransportError
from sampling.peers import PeerId, Round
from verify.digest import Digest
from verify.lsh import SEED_BYTES, Tolerance, agrees
from verify.standing import OffenceKind
from verify.tally import Stage

log = logging.getLogger(__name__)

FALSE: Final = 2  # claims or doubts that we must have found false ourselves: one may be bad memory, ours or theirs
WAITING: Final = 8  # audits not yet begun; more doubts than that are not heard
DONE: Final = 1024  # claims remembered that were audited here, and peers that all were told to look at
OUT: Final = 1000  # peers remembered that were expelled here
ASK_S: Final = 5.0  # for a work
OWN_PARENT: Final = 0.5  # chance that the maker's model before is audited instead: it may never have been offered
OWNER: Final = "audit"

Judged = Callable[[Judgement], None]


@dataclass(frozen=True, slots=True)
class Case:
    """A claim to be audited. `work`: if it is known already; `teller`: whose doubt it is, None: our own choice."""

    maker: PeerId
    offer: Offer
    blob: bytes = b""  # of the model, where it came inside its announcement
    work: Work | None = None
    teller: PeerId | None = None

    @property
    def claim(self) -> Digest:
        return claims.claim_of(self.maker, self.offer).statement


class CannotAudit(Exception):
    """Not here, not now. One line fit for a log."""


class Auditor:
    def __init__(self, parts: Parts, before: claims.Memory, judged: Judged) -> None:
        self._parts, self._judged = parts, judged
        audit = parts.manifest.audit
        self.on = audit.fraction > 0
        self._audit, self._tolerance = audit, Tolerance(audit.tolerance_bits, audit.tolerance_norm)
        self._merging = settled(parts.manifest.merging, "gossip")
        self._run = parts.membership.run_id
        self._skipped: int | None = None  # models yet to come before the one that is audited; None: none is
        self._waiting: dict[tuple[PeerId, PeerId | None], Case] = {}  # by maker and teller
        self._idle = True  # no case was begun since our last training
        self._gathering = False  # what one takes
        self._ready: Case | None = None  # all that it takes is in the store
        self._bell = Bell()  # rung when a case is added or done with
        self._done: dict[Digest, bool] = {}  # claims audited here: whether they held
        self._false: dict[PeerId, list[Digest]] = {}  # claims of which a peer said wrong, since one of its own held
        self._owing: set[PeerId] = set()  # peers that could not show how their model was made
        self._out = {peer: (round, claim) for peer, round, claim in before.out}
        self._spread: dict[PeerId, set[Digest]] = {}  # what all have been told to look at
        self.audited = self.doubted = self.unable = self.refused = 0

    def trusts(self, peer: PeerId) -> bool:
        """Its models are merged: nothing of what it said was found false or hidden that a later claim of its has not
        made good."""
        return peer not in self._false and peer not in self._owing

    def holds(self, maker: PeerId, offer: Offer) -> bool:
        """It has signed what it offers: or that is its offence. Claims on private data nobody can do again, and
        those on more than `audit.examples` would take too long."""
        if not self.on:
            return True
        if not claims.holds(maker, offer, self._run):
            self._parts.desk.accuse(maker, OffenceKind.BAD_SIGNATURE, "an offer that its maker has not signed")
            return False
        if shard_of(offer.data) is None:
            return self._audit.policy != "replay"
        return offer.samples <= self._audit.examples

    # -- what is audited ----------------------------------------------------------------------------------------------

    def trained(self) -> None:
        """After each training of ours."""
        if self.on and self._skipped is None and self._parts.rng.random() < self._audit.fraction:
            self._skipped = self._parts.rng.randrange(self._parts.manifest.gossip.neighbours)
        if self._out and self._audit.readmit_rounds:
            self.judge()

    def came(self, maker: PeerId, offer: Offer, blob: bytes = b"") -> None:
        """A model that has just come. What its maker has made is shown for a while only: our own choice is looked at
        now or not at all, and of whom we do not trust the newest waits."""
        case = Case(maker, offer, blob)
        if not self.on or self._unfit(case):
            return
        if not self.trusts(maker):
            self._add((maker, None), case)
        elif self._skipped is not None and self._idle and not self._waiting:
            if self._skipped == 0:
                self._add((maker, None), case)
            self._skipped = self._skipped - 1 if self._skipped else None

    async def on_doubted(self, teller: PeerId, doubt: Doubted) -> None:
        """A hint. One that does not hold costs its teller."""
        maker = doubt.maker
        case = Case(maker, doubt.offer, work=doubt.work, teller=teller)
        if not self.on or maker in (self._parts.desk.me, teller) or maker in self._out:
            return
        if self._unfit(case) or any(each.teller == teller for each in self._waiting.values()):
            return  # before its signatures are looked at: each takes a tenth of a millisecond
        why = claims.why_not(doubt.work, doubt.offer, self._run, self._parts.membership.rules.admits)
        if why is not None or not claims.holds(maker, doubt.offer, self._run):
            self.refused += 1
            self._parts.desk.accuse(teller, OffenceKind.BAD_SIGNATURE, f"a doubt of no claim: {why or 'not signed'}")
            return
        self._is_news(case)
        self._add((maker, teller), case)

    def _unfit(self, case: Case) -> bool:
        """Done already; or on private data, which nobody else can train on."""
        return case.claim in self._done or shard_of(case.offer.data) is None

    def _add(self, key: tuple[PeerId, PeerId | None], case: Case) -> None:
        if key in self._waiting or len(self._waiting) < WAITING:
            self._waiting[key] = case
            self._bell.ring()

    # -- what it takes ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: has all that the next case takes at hand."""
        while True:
            await self._bell.until(lambda: self._idle and bool(self._waiting))
            case = self._waiting.pop(next(iter(self._waiting)))
            self._idle, self._gathering = False, True
            try:
                self._ready = await self._gathered(case)
            except CannotAudit as error:
                self._unable(case, error)
            self._gathering = False

    def _unable(self, case: Case, error: Exception) -> None:
        self.unable += 1
        log.info("the claim of %s at age %d cannot be audited here: %s", case.maker, case.offer.age, error)

    async def _gathered(self, case: Case) -> Case:
        """Its work is known, and all its models are in the store. Raises CannotAudit."""
        near = [case.teller] if case.teller is not None else []
        try:
            case = await self._chosen(await self._with_work(case))
            assert case.work is not None
            named = [(case.maker, case.offer), *((part.maker, part.offer) for part in case.work.parts)]
            self._parts.exchange.keep(OWNER, [Digest(offer.model) for _, offer in named])
            if case.blob:
                await self._parts.blobs.put(case.blob)
            await self._parts.exchange.obtain_all(
                (Digest(offer.model), [*near, case.maker, maker]) for maker, offer in named
            )
        except StoreFull as error:
            raise CannotAudit(str(error)) from error
        except (TransportError, NotFetched) as error:
            if case.teller is None:
                self._owing.add(case.maker)
            raise CannotAudit(str(error)) from error
        return case

    async def _with_work(self, case: Case) -> Case:
        """Raises CannotAudit, TransportError."""
        if case.work is not None:
            return case
        work = (await self._parts.desk.ask(case.maker, AskWork(case.offer.model), WorkIs, ASK_S)).work
        why = claims.why_not(work, case.offer, self._run, self._parts.membership.rules.admits)
        if why is not None:
            self._owing.add(case.maker)
            self._parts.desk.accuse(case.maker, OffenceKind.UNFOUNDED, f"its model of age {case.offer.age}: {why}")
            raise CannotAudit(why)
        return replace(case, work=work)

    async def _chosen(self, case: Case) -> Case:
        """It, or its maker's own model before, which it may never have offered to anybody. Raises as `_with_work`."""
        assert case.work is not None
        own = next((part.offer for part in case.work.parts if part.maker == case.maker), None)
        before = None if own is None or case.teller is not None else Case(case.maker, own)
        if before is None or before.claim in self._done or self._parts.rng.random() >= OWN_PARENT:
            return case
        if self._unfit(before):
            self._owing.add(case.maker)
            raise CannotAudit("it follows its own work on private data")
        return await self._with_work(before)

    # -- the work -----------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """One audit, if there is one to be done; between two trainings of ours."""
        case, self._ready = self._ready, None
        if case is not None:
            try:
                holds = await self._replayed(case)
            except (LearnerError, StoreFull) as error:
                self._unable(case, error)
            else:
                await self._found(case, holds=holds)
        self._idle = not self._gathering
        self._bell.ring()

    async def _replayed(self, case: Case) -> bool:
        """Merged and trained as it says. Raises LearnerError, StoreFull."""
        learner, offer, shard = self._parts.learner, case.offer, shard_of(case.offer.data)
        assert case.work is not None
        assert shard is not None
        seed = claims.seed_of(case.maker, offer.age, offer.work, self._run)
        try:
            start = await self._start(case.maker, case.work)
            own = await learner.replay(start, offer.age, seed=seed, shard=shard, samples=offer.samples)
            if own.model == offer.model:
                return True
            draw = self._parts.rng.randbytes(SEED_BYTES)
            mine, theirs = [await learner.signature(model, start, draw) for model in (own.model, Digest(offer.model))]
        except Unfit as error:  # whoever did that work would have had to see it
            log.info("%s claims what cannot be done: %s", case.maker, error)
            return False
        return agrees(mine, theirs, self._tolerance)

    async def _start(self, maker: PeerId, work: Work) -> Digest:
        """What it was trained from. Raises Unfit, LearnerError, StoreFull."""
        models = [Digest(offer.model) for offer in _offers(work)]
        if not models:
            return await claims.first_model(self._parts, maker)
        if len(models) == 1:
            return models[0]
        centre = models[0] if self._merging.rule in CENTRED else None
        return await self._parts.learner.merge(models, [part.weight for part in work.parts], centre)

    # -- what follows -------------------------------------------------------------------------------------------------

    async def _found(self, case: Case, *, holds: bool) -> None:
        self.audited += 1
        self._done[case.claim] = holds
        _trim(self._done)
        self._owing.discard(case.maker)
        if not holds:
            self.doubted += 1
            detail = f"its model of age {case.offer.age}: our own replay gives another"
            self._falsehood(case.maker, case.claim, OffenceKind.FALSE_CLAIM, detail)
            return await self._tell(case)
        self._false.pop(case.maker, None)
        if case.teller is not None:
            detail = f"our replay bears out what it doubts: {case.maker} at age {case.offer.age}"
            self._falsehood(case.teller, case.claim, OffenceKind.FALSE_VOTE, detail)

    def _falsehood(self, peer: PeerId, claim: Digest, kind: OffenceKind, detail: str) -> None:
        self._parts.desk.accuse(peer, kind, detail)
        self._false.setdefault(peer, []).append(claim)
        if len(self._false[peer]) >= FALSE and len(self._out) < OUT:
            self._out[peer] = self._parts.membership.round, claim
            self.judge()

    async def _tell(self, case: Case) -> None:
        """Of each peer what it takes to expel it: it may show nothing to some of those who hear."""
        assert case.work is not None
        if self._is_news(case):
            doubt = Doubted(case.maker, case.offer, case.work)
            await self._parts.desk.tell(self._parts.membership.topic, doubt)

    def _is_news(self, case: Case) -> bool:
        """All have not been told of it, nor of as many claims of its maker as it takes. They have from now on."""
        told = self._spread.setdefault(case.maker, set())
        news = len(told) < FALSE and case.claim not in told
        if news:
            told.add(case.claim)
        _trim(self._spread)
        return news

    def judge(self) -> None:
        """Whom we have expelled, for the node; an expulsion lapses when the manifest says so."""
        lasts, now = self._audit.readmit_rounds, self._parts.membership.round
        self._out = {peer: out for peer, out in self._out.items() if not lasts or now < out[0] + lasts}
        why = f"{FALSE} of its claims or doubts were false: replayed here"
        self._judged(Judgement(expelled=dict.fromkeys(self._out, why)))

    @property
    def out(self) -> tuple[tuple[PeerId, Round, bytes], ...]:
        return tuple((peer, round, claim) for peer, (round, claim) in self._out.items())

    @property
    def figures(self) -> AuditFigures:
        """Votes are our own replays."""
        found = [(peer, Round(0), Stage.ACCUSED, false[-1], len(false)) for peer, false in self._false.items()]
        found = [each for each in found if each[0] not in self._out]
        found += [(peer, round, Stage.EXPELLED, Digest(claim), FALSE) for peer, round, claim in self.out]
        verdicts = tuple(
            AuditVerdict(peer, True, round, stage, claim, 0, against) for peer, round, stage, claim, against in found
        )
        return AuditFigures(self.audited, self.doubted, self.unable, self.refused, verdicts)


def _trim(kept: dict[Any, Any]) -> None:
    """The oldest go."""
    while len(kept) > DONE:
        del kept[next(iter(kept))]


def _offers(work: Work) -> list[Offer]:
    return [part.offer for part in work.parts]
