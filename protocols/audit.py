"""The conversation of an audit: draw, work, commit, compare, vote; and evidence passed on until all have it.

Every node draws alike once the next aggregate is known. The first auditor in rank does the claimed work itself, commits
to its result, is only then given the claimed bytes, and publishes its vote. A doubt calls the next two, a panel that
doubts calls the appeal; who is silent for a learned deadline is replaced by the next in rank. Source: Generative AI
Consensus (arXiv 2307.01898), `verify.tally`. Invariant: audits run one at a time and give way to training, and what
cannot be had or done is no vote.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import trio

from protocols import limits
from protocols.auditing import PREEMPTED, Auditing, CannotAudit, Work
from protocols.evidence import FORGED, UNKNOWN, Case, Doubt, Evidence, Judgement
from protocols.head import Head, Parts
from protocols.lineage import Place, place
from protocols.messages import (
    Ack,
    AnyMessage,
    AskEvidence,
    Broken,
    Certificate,
    Committed,
    EvidenceIs,
    Proof,
    Refused,
    Voted,
)
from protocols.ownclaims import OwnClaims
from protocols.signatures import verify
from protocols.training import AuditFigures, AuditVerdict
from protocols.transport import TransportError
from protocols.turns import Closed, Look, until_called
from protocols.withheld import Withheld
from sampling.patience import Patience
from sampling.peers import PeerId, Role
from verify.claims import COMMITTED, UNBOUND, Vote, bound
from verify.digest import Digest, short
from verify.standing import OffenceKind
from verify.tally import DECIDED

log = logging.getLogger(__name__)

FIRST_AUDIT_S: Final = 10.0  # patience with an auditor before any has been measured
SHARE_S: Final = 15.0  # between two looks, jittered by half, at what evidence a random partner has
ASK_S: Final = 10.0  # for an answer to that
VOUCHERS: Final = 2  # peers that must tell us alike of a history that we have not seen
VOUCHED: Final = 1024  # things remembered of which one peer has told
COMMITMENTS: Final = 1024  # of auditors, remembered until they vote
COMMITTEES_OWED: Final = 3  # whose models are kept for audits at most: a store has room for so many and a few more


Busy = Callable[[], bool]
Judged = Callable[[Judgement], None]


class Auditor:
    def __init__(
        self, parts: Parts, head: Head, withheld: Withheld, claims: OwnClaims, busy: Busy, judged: Judged
    ) -> None:
        """`busy`: training goes first. `judged` is told whenever the evidence amounts to something else."""
        self._parts, self._head, self._withheld, self._busy, self._judged = parts, head, withheld, busy, judged
        run, timing = parts.membership.run_id, parts.manifest.timing
        self.evidence = Evidence(run, parts.manifest.audit, self.candidates)
        self.judgement = Judgement()
        self.audited = self.doubted = self.unable = 0
        self._auditing = Auditing(parts, head, claims)
        self._patience = Patience(timing.round_floor_s, timing.round_ceiling_s, FIRST_AUDIT_S)
        self._one = trio.Lock()  # audit at a time
        self._attended: set[Digest] = set()  # cases with a task of ours
        self._drawn: set[Place] = set()  # aggregates by which those before them were drawn
        self._vouchers: dict[Digest, set[PeerId]] = {}
        self._commitments: dict[tuple[Digest, PeerId], Committed] = {}
        self._struck: set[tuple[PeerId, Digest]] = set()  # auditors, for which contradicted votes

    @property
    def figures(self) -> AuditFigures:
        verdicts = tuple(
            AuditVerdict(
                case.accused, case.made is not None, case.round, verdict.stage, case.claim, *case.ballot.counts
            )
            for case, verdict in ((case, self.evidence.verdict(case)) for case in self.evidence.doubted())
        )
        return AuditFigures(self.audited, self.doubted, self.unable, self.evidence.refused, verdicts)

    def certificates(self) -> tuple[Certificate, ...]:
        return tuple(case.certificate() for case in self.evidence.doubted())

    async def run(self) -> None:
        """Until cancelled."""
        if not self.evidence.audit.fraction:
            return
        desk = self._parts.desk
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            desk.on(Committed, self._on_committed)
            desk.on(AskEvidence, self._on_ask_evidence)
            desk.on_gossip(Voted, self._on_voted)
            desk.on_gossip(EvidenceIs, self._on_evidence)
            self.judge()
            nursery.start_soon(self._share)
            await self._follow()

    def candidates(self) -> Sequence[PeerId]:
        """Who could be an auditor, by what is known to all: not by whom we ourselves trust."""
        view, rules = self._parts.membership.view, self._parts.membership.rules
        return [peer for peer in view.present() if rules.admits(peer) and self._has_data(peer)]

    def _has_data(self, peer: PeerId) -> bool:
        registration = self._parts.membership.view.registration(peer)
        return registration is not None and Role.OBSERVER not in registration.roles

    # -- drawing ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        known = self._head.known
        while True:
            self._draw()
            self.judge()  # a suspension may have lapsed, and other models are owed
            known = await self._head.known_other_than(known)

    def _draw(self) -> None:
        line = self._head.line()
        for aggregate, successor in itertools.pairwise(line):
            if place(successor) in self._drawn or successor.round <= self._head.known.round - limits.CLAIM_ROUNDS:
                continue
            self._drawn.add(place(successor))
            if aggregate.round > 0:
                for case in self.evidence.open(aggregate, successor):
                    if case.made is not None:
                        self._withheld.withhold(case.made.model, case.round)
                    self._attend(case)
        self._drawn &= {place(each) for each in line}

    # -- attending to a case ------------------------------------------------------------------------------------------

    def _attend(self, case: Case) -> None:
        """If we may be called."""
        me = self._parts.desk.me
        idle = case.claim not in self._attended and me not in case.ballot.kinds
        if idle and me in self.evidence.bench(case):
            self._attended.add(case.claim)
            self._nursery.start_soon(self._see_to, case)

    async def _see_to(self, case: Case) -> None:
        try:
            me, bell = self._parts.desk.me, self._head.bell
            await until_called(me, bell, self._patience, lambda: self._stands(case), lambda: case.digest)
            since = trio.current_time()
            vote = await self._in_peace(case)
            self._patience.heard(trio.current_time() - since)  # others take about as long
            await self._publish(case, vote)
        except Closed:
            pass
        except CannotAudit as error:
            self.unable += 1
            log.info("the claim of %s of round %d cannot be audited here: %s", case.accused, case.round, error)
        finally:
            self._attended.discard(case.claim)

    def _stands(self, case: Case) -> Look:
        """Raises Closed."""
        if self._is_over(case):
            raise Closed
        return Look(self.evidence.verdict(case).stage, self.evidence.order(case), self.evidence.audit.appeal)

    def _is_over(self, case: Case) -> bool:
        """Decided; or of who is out already, whose bytes are slow to come. But what follows of an aggregate matters."""
        is_out = case.made is not None and case.accused in self.judgement.expelled
        return is_out or self.evidence.verdict(case).stage in DECIDED

    async def _in_peace(self, case: Case) -> Vote:
        """Training goes first: what it interrupts is begun again, but not for ever. Raises CannotAudit, Closed."""
        async with self._one:
            for _ in range(PREEMPTED):
                await self._head.bell.until(lambda: not self._busy())
                if self._is_over(case):
                    raise Closed
                if (work := await self._unless_busy(case)).done:
                    return work.result()
            return await self._auditing.audit(case)

    async def _unless_busy(self, case: Case) -> Work:
        work = Work()

        async def do(scope: trio.CancelScope) -> None:
            try:
                work.vote = await self._auditing.audit(case)
            except CannotAudit as error:
                work.error = error
            work.done = True
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(do, nursery.cancel_scope)
            await self._head.bell.until(self._busy)
            nursery.cancel_scope.cancel()
        return work

    async def _publish(self, case: Case, vote: Vote) -> None:
        """Raises Closed if others have come to stand before us meanwhile, or we leave."""
        doubt = self.evidence.vote(case, vote)
        assert doubt in (None, UNKNOWN), f"our own vote: {doubt}"
        if doubt is not None:
            raise Closed
        self.audited += 1
        if not vote.agrees:
            self.doubted += 1
            log.warning("round %d: what %s claims does not hold here", case.round, case.accused)
        self._voted(case)
        await self._parts.desk.tell(self._parts.membership.topic, Voted(case.round, vote))

    def _voted(self, case: Case) -> None:
        """Somebody has: others may be called now, and it may be decided."""
        self.judge()
        self._head.bell.ring()
        if self.evidence.verdict(case).stage not in DECIDED:
            self._attend(case)

    # -- what others tell and ask -------------------------------------------------------------------------------------

    async def _on_committed(self, sender: PeerId, message: Committed) -> AnyMessage:
        case = self.evidence.cases.get(message.claim)
        if case is None or sender not in self.evidence.bench(case):
            return Refused("not a claim that you audit, as far as I know")
        run = self._parts.membership.run_id
        if not verify(sender, COMMITTED, run, bound(case.round, case.claim, message.commitment), message.signature):
            self._parts.desk.accuse(sender, OffenceKind.BAD_SIGNATURE, "a commitment that it did not sign")
            return Refused("signature does not hold")
        if message.commitment == UNBOUND and case.made is not None:
            return Refused("do the work first, and commit to what it gives")
        before = self._commitments.setdefault((case.claim, sender), message)
        while len(self._commitments) > COMMITMENTS:
            del self._commitments[next(iter(self._commitments))]
        if before.commitment != message.commitment:
            return Refused("you have committed to another result")
        self._withheld.grant(sender, case.needed())
        return Ack()

    async def _on_voted(self, origin: PeerId, message: Voted) -> None:
        await trio.lowlevel.checkpoint()
        vote, case = message.vote, self.evidence.cases.get(Digest(message.vote.claim))
        if case is None:
            return None  # of a round that we do not know yet, or no more: evidence is asked for now and then
        doubt = self.evidence.vote(case, vote)
        if doubt is not None:
            return self._blame(origin, doubt)
        self._voted(case)
        await self._compare(case, vote)
        return None

    async def _compare(self, case: Case, vote: Vote) -> None:
        """With what its auditor had committed to, here."""
        made = self._commitments.get((case.claim, vote.auditor))
        if made is not None and made.commitment not in (UNBOUND, vote.commitment):
            await self.prove(Broken(case.round, made.commitment, made.signature, vote))

    async def _on_evidence(self, origin: PeerId, message: EvidenceIs) -> None:
        await trio.lowlevel.checkpoint()
        self._told(origin, message)

    async def _on_ask_evidence(self, sender: PeerId, question: AskEvidence) -> AnyMessage:
        lacking, size = self.evidence.lacking(question.have), 0
        told: list[Certificate | Proof] = []
        for each in lacking[: limits.EVIDENCE]:
            size += len(msgspec.msgpack.encode(each))
            if size > limits.EVIDENCE_BYTES:
                break
            told.append(each)
        certificates = tuple(each for each in told if isinstance(each, Certificate))
        return EvidenceIs(certificates, tuple(each for each in told if not isinstance(each, Certificate)))

    def _blame(self, sender: PeerId, doubt: Doubt) -> None:
        """Who passes on what does not hold should have checked; what we cannot check may be true."""
        if doubt is not None and doubt != UNKNOWN:
            kind = OffenceKind.BAD_SIGNATURE if doubt == FORGED else OffenceKind.PROTOCOL
            self._parts.desk.accuse(sender, kind, f"evidence: {doubt}")

    # -- evidence, until all have it ----------------------------------------------------------------------------------

    async def _share(self) -> None:
        asked: set[PeerId] = set()
        while True:
            partners = self._parts.membership.partners()
            fresh = [peer for peer in partners if peer not in asked]
            if partners:
                peer = fresh[0] if fresh else self._parts.rng.choice(partners)
                await self._ask(peer)
                asked = {*asked, peer} & set(partners)
            self.judge()  # the view may have changed, and with it who could have been an auditor
            await trio.sleep((1.0 if len(fresh) > 1 else SHARE_S) * self._parts.rng.uniform(0.5, 1.5))

    async def _ask(self, peer: PeerId) -> None:
        try:
            answer = await self._parts.desk.ask(peer, AskEvidence(self.evidence.have()), EvidenceIs, ASK_S)
        except TransportError:
            return
        self._told(peer, answer)

    def _told(self, sender: PeerId, message: EvidenceIs) -> None:
        for doubt in self._doubts(sender, message):
            self._blame(sender, doubt)
            if doubt == FORGED:
                break  # whoever forges one thing is not worth the checking of the rest
        for case in self.evidence.doubted():
            if self.evidence.undecided(case):
                self._attend(case)
        self.judge()
        self._head.bell.ring()

    def _doubts(self, sender: PeerId, message: EvidenceIs) -> Iterator[Doubt]:
        """Of each thing that it tells, as it is added to what we hold."""
        for proof in message.proofs:
            yield self.evidence.prove(proof)
        for certificate in message.certificates:
            if self._history(sender, certificate):
                yield self.evidence.certify(certificate)

    def _history(self, sender: PeerId, certificate: Certificate) -> bool:
        """Is its beacon what the swarm drew by? By our own memory, or by what two tell us alike of what was before."""
        beacon = certificate.beacon
        known = [each for each in self._head.line() if each.round == beacon.round]
        if known:
            return any(each.model == beacon.model for each in known)
        if beacon.round > self._head.known.round:
            return False
        vouchers = self._vouchers.setdefault(beacon.model, set())
        vouchers.add(sender)
        while len(self._vouchers) > VOUCHED:
            del self._vouchers[next(iter(self._vouchers))]
        return len(vouchers) >= min(VOUCHERS, len(self._parts.membership.partners()))

    async def prove(self, proof: Proof) -> None:
        """Somebody has signed to us what excludes each other."""
        if self.evidence.prove(proof) is None:
            self.judge()
            await self._parts.desk.tell(self._parts.membership.topic, EvidenceIs((), (proof,)))

    # -- what follows -------------------------------------------------------------------------------------------------

    def _owed(self) -> list[Digest]:
        """Updates that we have and that may be asked for: of the newest round, which is yet to be drawn from, and of
        those that were drawn and are not decided, the newest first."""
        known = self._head.known
        recent = [case for case in self.evidence.cases.values() if case.round + limits.CLAIM_ROUNDS > known.round]
        drawn = [case for case in sorted(recent, key=lambda each: -each.round) if self.evidence.undecided(case)]
        models = [*(each.model for each in known.inputs), *(model for case in drawn for model in case.needed())]
        held = dict.fromkeys(Digest(model) for model in models if model in self._parts.blobs)
        return list(held)[: COMMITTEES_OWED * self._parts.manifest.modest.trainers]

    def judge(self) -> None:
        found = self.evidence.judgement(self._head.known.round)
        self._parts.exchange.keep("audits", [*found.undecided, *self._owed()])
        for auditor, claim in found.contradicted:
            if (auditor, claim) not in self._struck and auditor != self._parts.desk.me:
                self._struck.add((auditor, claim))
                detail = f"its vote on claim {short(claim)} is contradicted"
                self._parts.desk.accuse(auditor, OffenceKind.FALSE_VOTE, detail)
        if found != self.judgement:
            self.judgement = found
            self._judged(found)
