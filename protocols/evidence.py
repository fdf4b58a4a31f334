"""The evidence of a run: claims under audit and the votes on them, proofs of other lies, and what follows.

A CRDT: votes are only ever added, so merging is union, and the judgement is a pure function of what is held and of who
could have been an auditor. Everything is checked at the door: claims, beacon, draw, that the voter may vote, and that
its vote says what its own figures say. Source: `verify.tally`. Invariant: nobody is judged by less than what
`gossipnode audit` would confirm from the same certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols import limits
from protocols.claiming import (
    claim_of,
    culprit,
    link_holds,
    link_of,
    merged_of,
    proof_holds,
    shard_of,
    vote_holds,
    whole,
)
from protocols.manifest import Audit
from protocols.messages import Aggregate, Certificate, Input, Link, Proof, Twice
from sampling.peers import PeerId, Round
from verify.ballot import Ballot
from verify.chance import Figures, explains
from verify.claims import NONCE_BYTES, Vote, auditors, is_drawn, projection_seed, sealed
from verify.digest import DIGEST_BYTES, Digest
from verify.lsh import SIGNATURE_BYTES, Signature, Tolerance, agrees
from verify.probe import suspicious
from verify.standing import QUARANTINE_ROUNDS, Suspension
from verify.tally import DECIDED, Stage, Verdict, of_probes, reach, tally

Doubt = str | None  # why not to believe it
FORGED: Final = "a signature in it does not hold"
UNKNOWN: Final = "of a history that we do not know"


@dataclass(eq=False)
class Case:
    """One claim that was drawn for an audit, and what was said of it."""

    aggregate: Aggregate
    beacon: Link
    made: Input | None  # the trainer's part; None: the aggregate as a whole
    claim: Digest = field(init=False)
    ballot: Ballot = field(default_factory=Ballot)
    _ranked: tuple[tuple[PeerId, ...], tuple[PeerId, ...]] | None = None  # auditors as they came, and in order

    def __post_init__(self) -> None:
        of = self.aggregate
        self.claim = (merged_of(of) if self.made is None else claim_of(of.round, of.parent, self.made)).statement

    @property
    def accused(self) -> PeerId:
        return self.aggregate.aggregators[0] if self.made is None else self.made.trainer

    @property
    def round(self) -> Round:
        return self.aggregate.round

    @property
    def model(self) -> Digest:
        return self.aggregate.model if self.made is None else self.made.model

    @property
    def probed(self) -> bool:
        """Nobody else has the data: each auditor compares it with what its own give."""
        return self.made is not None and shard_of(self.made.data) is None

    def seed(self, auditor: PeerId) -> Digest:
        """Of the projection that this auditor signs under."""
        return projection_seed(self.beacon.model, self.claim, auditor)

    def needed(self) -> list[Digest]:
        """Updates that an audit looks at."""
        return [each.model for each in (self.aggregate.inputs if self.made is None else [self.made])]

    def order(self, candidates: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """All of them but the accused, in the order in which they are called: a hash each, so the last is kept."""
        others = tuple(peer for peer in candidates if peer != self.accused)
        if self._ranked is None or self._ranked[0] != others:
            self._ranked = others, auditors(others, self.beacon.model, self.claim)
        return self._ranked[1]

    def seen_by(self) -> list[PeerId]:
        """Auditors who have had the claimed bytes: the accused may be cut off by now, or keep them to itself."""
        return [vote.auditor for vote in self.ballot if vote.claimed and not vote.agrees]

    def certificate(self) -> Certificate:
        votes = tuple(self.ballot)[: limits.VOTES]
        return Certificate(self.aggregate, self.accused, self.made is not None, self.beacon, votes)

    @property
    def digest(self) -> Digest:
        """Of all that is known of it."""
        return sealed(self.claim, *(vote.statement for vote in self.ballot))

    def by_chance(self, auditor: PeerId) -> bool:
        """May it and those who voted otherwise all be honest? A mean leaves nothing to chance: it is what it is."""
        votes = [vote for vote in self.ballot if self.made is not None and vote.own and vote.claimed]
        found = {vote.auditor: Figures.of(Signature.of(vote.own), Signature.of(vote.claimed)) for vote in votes}
        own = found.pop(auditor, None)
        return own is not None and explains(own, list(found.values()))


def opened(certificate: Certificate) -> Case | None:
    """The case that it is of, without its votes; None if it names no claim of its aggregate."""
    aggregate = certificate.aggregate
    if not certificate.trained:
        mine = aggregate.aggregators[:1] == (certificate.accused,)
        return Case(aggregate, certificate.beacon, None) if mine else None
    made = next((each for each in aggregate.inputs if each.trainer == certificate.accused), None)
    return Case(aggregate, certificate.beacon, made) if made is not None else None


def is_audited(case: Case, audit: Audit) -> bool:
    """Are claims of this kind, in this run?"""
    return case.made is None or audit.policy != "recompute"


def ill_drawn(case: Case, run: bytes, audit: Audit) -> Doubt:
    """Why its claim was not drawn for an audit, by its own bytes."""
    aggregate, beacon = case.aggregate, case.beacon
    if not is_audited(case, audit):
        return "claims of this kind are not audited in this run"
    if (beacon.round, beacon.parent) != (aggregate.round + 1, aggregate.model):
        return "its beacon is not of the next round"
    if not is_drawn(beacon.model, case.claim, audit.fraction):
        return "the claim was not drawn for an audit"
    if not whole(aggregate, run) or not link_holds(beacon, run):
        return FORGED
    return None


def ill_voted(case: Case, vote: Vote, run: bytes, audit: Audit) -> Doubt:
    """Why it is no vote on this case."""
    if vote.claim != case.claim or vote.auditor == case.accused or len(vote.nonce) != NONCE_BYTES:
        return "a vote on something else"
    size = DIGEST_BYTES if case.made is None else SIGNATURE_BYTES
    if len(vote.own) not in (0, size) or len(vote.claimed) not in (0, size):
        return "a vote without figures"
    if case.probed and not vote.own:
        return "a probe without a result of its own"
    if not _borne_out(case, vote, audit):
        return "a vote that its own figures do not bear out"
    return None if vote_holds(vote, run) else FORGED


def _borne_out(case: Case, vote: Vote, audit: Audit) -> bool:
    if case.made is None:
        return vote.agrees == (vote.own == vote.claimed == case.aggregate.model)
    if not vote.own or not vote.claimed:
        return not vote.agrees
    own, claimed = Signature.of(vote.own), Signature.of(vote.claimed)
    if case.probed:
        return vote.agrees or suspicious(own, claimed)  # who agrees may go by a longer update of its own
    return vote.agrees == agrees(own, claimed, tolerance_of(audit))


def tolerance_of(audit: Audit) -> Tolerance:
    return Tolerance(audit.tolerance_bits, audit.tolerance_norm)


@dataclass(frozen=True)
class Judgement:
    """What the evidence amounts to."""

    expelled: dict[PeerId, str] = field(default_factory=dict)  # and why
    wrong: dict[Digest, Aggregate] = field(default_factory=dict)  # by claim: those whose maker was expelled for them
    suspended: dict[PeerId, Suspension] = field(default_factory=dict)  # by probes
    contradicted: tuple[tuple[PeerId, Digest], ...] = ()  # auditors, and the claims on which they were, not by chance
    undecided: tuple[Digest, ...] = field(default=(), compare=False)  # doubted models that may still be asked for


class Evidence:
    def __init__(self, run: bytes, audit: Audit, candidates: Callable[[], Sequence[PeerId]]) -> None:
        """`candidates`: who could be an auditor at all, as we see it."""
        self.run, self.audit = run, audit
        self.cases: dict[Digest, Case] = {}  # the oldest first
        self.proofs: dict[PeerId, Proof] = {}  # by whom they convict
        self.refused = 0  # of what was told us
        self._candidates = candidates

    # -- what comes in ------------------------------------------------------------------------------------------------

    def restore(self, certificates: Sequence[Certificate], proofs: Sequence[Proof]) -> None:
        """What we held in a former life."""
        for certificate in certificates:
            self.certify(certificate)
        for each in proofs:
            self.prove(each)

    def open(self, aggregate: Aggregate, successor: Aggregate) -> list[Case]:
        """The claims of `aggregate` that are audited, now that its successor is there."""
        beacon = link_of(successor)
        every = [Case(aggregate, beacon, made) for made in (*aggregate.inputs, None)]
        drawn = (case for case in every if is_drawn(beacon.model, case.claim, self.audit.fraction))
        return [self._kept(case) for case in drawn if is_audited(case, self.audit)]

    def vote(self, case: Case, vote: Vote) -> Doubt:
        """Adds it. UNKNOWN if it may hold but not as we see the swarm."""
        if vote in case.ballot:
            return None
        if (doubt := ill_voted(case, vote, self.run, self.audit)) is None and vote.auditor not in self.bench(case):
            doubt = UNKNOWN
        if doubt is not None:
            self.refused += 1
            return doubt
        case.ballot.add(vote)
        return None

    def certify(self, certificate: Certificate) -> Doubt:
        """Adds what it says. Its beacon is for the caller to believe."""
        case = opened(certificate)
        if case is None:
            return "it names no claim"
        case = self.cases.get(case.claim, case)
        if case.beacon.model != certificate.beacon.model:
            return UNKNOWN
        if case.claim not in self.cases and (doubt := ill_drawn(case, self.run, self.audit)) is not None:
            self.refused += 1
            return doubt
        doubt = self._votes(case, certificate.votes)
        if case.ballot.doubted:
            self._kept(case)
        return doubt or (None if case.ballot.doubted else "nobody doubts it")

    def _votes(self, case: Case, votes: Sequence[Vote]) -> Doubt:
        """The first doubt of them. None is looked at after a forged one: a flood of them must cost us little."""
        first: Doubt = None
        for vote in votes:
            doubt = self.vote(case, vote)
            first = first or doubt
            if doubt == FORGED:
                break
        return first

    def prove(self, proof: Proof) -> Doubt:
        if not proof_holds(proof, self.run):
            self.refused += 1
            return FORGED
        if len(self.proofs) < limits.EVIDENCE:
            self.proofs.setdefault(culprit(proof), proof)
        return None

    def _kept(self, case: Case) -> Case:
        kept = self.cases.setdefault(case.claim, case)
        idle = (each for each in self.cases.values() if not each.ballot.doubted)
        if len(self.cases) > limits.EVIDENCE + limits.OPEN_CASES:
            oldest = next(idle, None) or min(self.cases.values(), key=lambda each: each.round)
            del self.cases[oldest.claim]
        return kept

    # -- what follows -------------------------------------------------------------------------------------------------

    def order(self, case: Case) -> tuple[PeerId, ...]:
        """All who could audit it, in the order in which they are called."""
        return case.order(self._candidates())

    def bench(self, case: Case) -> tuple[PeerId, ...]:
        """Those of them who may vote."""
        order = self.order(case)
        return order[: reach(len(order), self.audit.appeal)]

    def verdict(self, case: Case) -> Verdict:
        verdict = tally(self.order(case), case.ballot.kinds, self.audit.appeal)
        return of_probes(verdict) if case.probed else verdict

    def judgement(self, now: Round) -> Judgement:
        """Of all that is held; expulsions lapse when the manifest says so."""
        found = Judgement()
        contradicted: list[tuple[PeerId, Digest]] = []
        undecided: list[Case] = []
        for peer, proof in self.proofs.items():
            if self._lasts(proof.round, now):
                found.expelled[peer] = _lie(proof)
        for case in sorted(self.doubted(), key=lambda each: (each.round, each.claim)):
            verdict = self.verdict(case)
            outvoted = [peer for peer in verdict.contradicted if peer not in found.expelled]
            contradicted += [(peer, case.claim) for peer in outvoted if not case.by_chance(peer)]
            if verdict.stage not in DECIDED:
                undecided.append(case)
            if verdict.stage is Stage.EXPELLED:
                self._expel(case, found, now)
            elif verdict.stage is Stage.SUSPENDED and now < case.round + QUARANTINE_ROUNDS:
                found.suspended[case.accused] = _suspension(case)  # later rounds come later, and last longer
        needed = tuple(case.model for case in undecided if case.made is None or case.accused not in found.expelled)
        return Judgement(found.expelled, found.wrong, found.suspended, tuple(contradicted), needed)

    def _expel(self, case: Case, found: Judgement, now: Round) -> None:
        if case.made is None:
            found.wrong[case.claim] = case.aggregate
        if self._lasts(case.round, now):
            agree, contradict = case.ballot.counts
            found.expelled.setdefault(
                case.accused, f"{_of(case)}: {contradict} of {agree + contradict} auditors contradict it"
            )

    def _lasts(self, since: Round, now: Round) -> bool:
        return not self.audit.readmit_rounds or now < since + self.audit.readmit_rounds

    def doubted(self) -> list[Case]:
        return [case for case in self.cases.values() if case.ballot.doubted]

    def undecided(self, case: Case) -> bool:
        return self.verdict(case).stage not in DECIDED

    # -- what goes out ------------------------------------------------------------------------------------------------

    def have(self) -> tuple[Digest, ...]:
        return tuple(digest for digest, _ in self._told())[-limits.EVIDENCE :]

    def lacking(self, have: Sequence[bytes]) -> list[Certificate | Proof]:
        """What a peer that has those lacks."""
        known = frozenset(have)
        return [what for digest, what in self._told() if digest not in known]

    def _told(self) -> Iterator[tuple[Digest, Certificate | Proof]]:
        for peer, proof in self.proofs.items():
            yield sealed(peer.encode()), proof
        for case in self.doubted():
            yield case.digest, case.certificate()


def _lie(proof: Proof) -> str:
    if isinstance(proof, Twice):
        return f"claimed two results of round {proof.round}"
    return f"voted on another result than it had committed to, as an auditor of round {proof.round}"


def _suspension(case: Case) -> Suspension:
    agree, contradict = case.ballot.counts
    why = f"{_of(case)}: {contradict} of {agree + contradict} auditors suspect it, which is no proof"
    return Suspension(case.round + QUARANTINE_ROUNDS, f"suspended for {QUARANTINE_ROUNDS} rounds for {why}")


def _of(case: Case) -> str:
    return f"its {'aggregate' if case.made is None else 'update'} of round {case.round}"
