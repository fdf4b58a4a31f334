"""The work of one audit: replay an update, probe one that nobody else can make, or recompute an aggregate.

The auditor has a result of its own before it sees the claimed bytes: it commits to that result, under its own seed, to
whoever holds them. Replay in the sense of proof of learning (arXiv 2103.05633), with the seed fixed by the claim; a
probe trains from the same parent on the auditor's own data (`verify.probe`).
Invariant: a vote is about what was claimed; when something cannot be had here (parent, bytes, a working task) there is
none, and only a claim whose work cannot be done by anybody is contradicted without its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from protocols import limits
from protocols.blobs import StoreFull
from protocols.claiming import shard_of, sign_vote
from protocols.desk import Declined
from protocols.evidence import Case, tolerance_of
from protocols.exchange import NotFetched
from protocols.head import Head, Parts
from protocols.learner import LearnerError, Trained, Unfit
from protocols.messages import Ack, Committed, Input
from protocols.ownclaims import OwnClaims
from protocols.transport import TransportError
from sampling.peers import PeerId, Round
from verify.claims import COMMITTED, NONCE_BYTES, UNBOUND, Vote, bound, commitment, training_seed
from verify.digest import Digest, digest_of
from verify.lsh import SEED_BYTES, Signature, agrees
from verify.probe import suspects
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

_NONCE: Final = b"gossipnode/nonce/1"
BEHIND_S: Final = (1.0, 2.0, 4.0)  # pauses, until who holds the claimed bytes has heard of the draw as well
PREEMPTED: Final = 3  # times an audit gives way to training before it is done regardless


class CannotAudit(Exception):
    """Not here, not now. One line fit for a log."""


@dataclass(slots=True)
class Work:
    """What came of an audit that gives way to training."""

    done: bool = False
    vote: Vote | None = None
    error: CannotAudit | None = None

    def result(self) -> Vote:
        if self.vote is None:
            assert self.error is not None, "an audit ends in a vote or without one"
            raise self.error
        return self.vote


@dataclass(frozen=True, slots=True)
class First:
    """Our update of the run's first model, beside which others' are probed."""

    norm: int
    samples: int


class Auditing:
    def __init__(self, parts: Parts, head: Head, claims: OwnClaims) -> None:
        self._parts, self._head, self._claims = parts, head, claims
        self._first: First | None = None

    async def audit(self, case: Case) -> Vote:
        """Our vote. Raises CannotAudit."""
        try:
            if case.probed:
                await self._measure_first(case)
            self._pin_for(case)
            if case.made is None:
                return await self._recomputed(case)
            vote = await self._compared(case, case.made)
            self._claims.stand_by(case.claim, vote.commitment)
            return vote
        except (NotFetched, StoreFull, LearnerError, Unfit) as error:
            raise CannotAudit(str(error)) from error
        finally:
            self._pin()

    def _pin_for(self, case: Case, *more: Digest) -> None:
        self._pin(Digest(case.aggregate.parent), *case.needed(), *more)

    def _pin(self, *models: Digest) -> None:
        """What an audit looks at must not make room for other models meanwhile."""
        self._parts.exchange.keep("audited", models)

    # -- replay and probe ---------------------------------------------------------------------------------------------

    async def _compared(self, case: Case, made: Input) -> Vote:
        """With an update of our own. Equal bytes need not be fetched."""
        parent = Digest(case.aggregate.parent)
        await self._have_parent(case)
        trained = await (self._trained(parent, case.round) if case.probed else self._again(case, made, parent))
        if trained is None:
            return self._vote(case, b"", b"", self._nonce(case), agrees=False)
        own = trained.model
        self._pin_for(case, own)
        if own == made.model:
            result = await self._signature(case, own)
            return self._vote(case, bytes(result), bytes(result), self._nonce(case), agrees=True)
        result, nonce = await self._signature(case, own), self._nonce(case)
        await self._claimed_bytes(case, [made], bytes(result), nonce)
        try:
            claimed = await self._signature(case, made.model)
        except Unfit:
            return self._vote(case, bytes(result), b"", nonce, agrees=False)
        agreed = self._agrees(case, made, result, claimed)
        return self._vote(case, bytes(result), bytes(claimed), nonce, agrees=agreed)

    def _agrees(self, case: Case, made: Input, own: Signature, claimed: Signature) -> bool:
        manifest, first = self._parts.manifest, self._first
        if not case.probed:
            return agrees(own, claimed, tolerance_of(manifest.audit))
        assert first is not None, "measured before anything is probed"
        times = manifest.training.batches(made.samples) / max(manifest.training.batches(first.samples), 1)
        return not suspects(own, claimed, first.norm, times)

    async def _measure_first(self, case: Case) -> None:
        """What our data make of theta0: once."""
        if self._first is None:
            theta0 = await self._parts.learner.initial()
            self._pin_for(case, theta0)
            made = await self._trained(theta0, Round(0))
            self._pin_for(case, theta0, made.model)
            norm = (await self._parts.learner.signature(made.model, theta0, bytes(SEED_BYTES))).norm
            self._first = First(norm, made.samples)

    async def _trained(self, parent: Digest, round: Round) -> Trained:
        """On our own data."""
        seed = training_seed(self._parts.membership.run_id, round, parent, self._parts.desk.me)
        return await self._parts.learner.train(parent, round, seed=seed)

    async def _again(self, case: Case, made: Input, parent: Digest) -> Trained | None:
        """As it was claimed. None: nobody can do that work."""
        run, shard = self._parts.membership.run_id, shard_of(made.data)
        assert shard is not None
        seed = training_seed(run, case.round, parent, made.trainer)
        try:
            return await self._parts.learner.replay(parent, case.round, seed=seed, shard=shard, samples=made.samples)
        except Unfit as error:
            log.info("%s claims what cannot be done: %s", made.trainer, error)
            return None

    async def _have_parent(self, case: Case) -> None:
        parent = self._head.remembered(Digest(case.aggregate.parent))
        if parent is not None:
            return await self._head.obtain(parent)
        partners = self._parts.membership.partners()
        await self._parts.exchange.obtain(Digest(case.aggregate.parent), await self._parts.sampler.alive(partners))

    async def _signature(self, case: Case, model: Digest) -> Signature:
        seed = case.seed(self._parts.desk.me)
        return await self._parts.learner.signature(model, Digest(case.aggregate.parent), seed)

    # -- recompute ----------------------------------------------------------------------------------------------------

    async def _recomputed(self, case: Case) -> Vote:
        """What the inputs make by the manifest's rule, bit for bit."""
        inputs, nonce = case.aggregate.inputs, self._nonce(case)
        await self._claimed_bytes(case, inputs, b"", nonce)
        try:
            own = await self._head.merged(Digest(case.aggregate.parent), inputs)
        except Unfit:  # whoever merged it had to look
            return self._vote(case, b"", case.model, nonce, agrees=False)
        return self._vote(case, own, case.model, nonce, agrees=own == case.model)

    # -- the claimed bytes --------------------------------------------------------------------------------------------

    async def _claimed_bytes(self, case: Case, inputs: Sequence[Input], own: bytes, nonce: bytes) -> None:
        """Commit to those who hold them, then fetch. Raises NotFetched, StoreFull, LearnerError."""
        result = commitment(self._parts.desk.me, case.claim, own, nonce) if own else UNBOUND
        if own:
            await self._claims.commit(case.claim, result)
        run, others = self._parts.membership.run_id, [*case.seen_by(), *case.aggregate.aggregators]
        signature = self._parts.signer.sign(COMMITTED, run, bound(case.round, case.claim, result))
        message = Committed(case.round, case.claim, result, signature)
        for pause_s in (*BEHIND_S, None):
            lacking = [each for each in inputs if each.model not in self._parts.blobs]
            declined = await self._commit_to(
                [*(each.trainer for each in lacking), *(others if lacking else ())], message
            )
            try:
                return await self._parts.exchange.obtain_all((each.model, [*others, each.trainer]) for each in inputs)
            except NotFetched as error:
                if pause_s is None or not declined:
                    self._blame(case, error)
                    raise
            await trio.sleep(pause_s)

    def _blame(self, case: Case, error: NotFetched) -> None:
        """Whoever owes the update, as long as it does."""
        if case.made is not None and self._head.known.round <= case.round + limits.CLAIM_ROUNDS:
            detail = f"its update of round {case.round} cannot be had: {error}"
            self._parts.desk.accuse(case.accused, OffenceKind.BROKEN_PROMISE, detail)

    async def _commit_to(self, peers: Sequence[PeerId], message: Committed) -> bool:
        """Is there one that declines? It may not have heard of the draw yet."""
        declined = False

        async def commit(peer: PeerId) -> None:
            nonlocal declined
            try:
                await self._parts.desk.insist(peer, message, Ack)
            except TransportError as error:
                declined = declined or isinstance(error, Declined)
                log.info("round %d: %s does not take our commitment: %s", message.round, peer, error)

        async with trio.open_nursery() as nursery:
            for peer in dict.fromkeys(peers):
                nursery.start_soon(commit, peer)
        return declined

    def _nonce(self, case: Case) -> bytes:
        """Ours alone, and the same again: an audit that was given up for training, or by a crash, commits alike."""
        return digest_of(self._parts.signer.sign(_NONCE, self._parts.membership.run_id, case.claim))[:NONCE_BYTES]

    def _vote(self, case: Case, own: bytes, claimed: bytes, nonce: bytes, *, agrees: bool) -> Vote:
        unsigned = Vote(self._parts.desk.me, case.claim, agrees, own, claimed, nonce, b"")
        return sign_vote(self._parts.signer, self._parts.membership.run_id, unsigned)
