"""What trainers, aggregators and answerers claim, what auditors vote, who checks whom: what is signed, and the draw.

Source: Generative AI Consensus (arXiv 2307.01898) for commit and reveal; proof of learning (2103.05633) for what a
training claim must bind. The beacon of a round is the model of the next one, which is made of claims made later: nobody
can shape a claim against its audit. A trainer's seed is a function of its claim, so that anyone can do its work again.
Invariant: whoever holds the same bytes draws the same auditors and the same seeds. Pure; whether a signature holds is
for the caller to check, over `statement`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from sampling.peers import PeerId, Round
from verify.digest import DIGEST_BYTES, Digest

TRAINED: Final = b"gossipnode/trained/1"  # domains of signatures
MERGED: Final = b"gossipnode/merged/1"
COMMITTED: Final = b"gossipnode/committed/1"
VOTED: Final = b"gossipnode/voted/1"
ANSWERED: Final = b"gossipnode/answered/1"

NONCE_BYTES: Final = 16
UNBOUND: Final = Digest(bytes(DIGEST_BYTES))  # the commitment of who cannot have a result yet: it binds to nothing


class Claim(NamedTuple):
    """A trainer's: trained from `parent` on `data`, which is a shard's description, or a salted digest that opens
    nothing."""

    trainer: PeerId
    round: Round
    parent: bytes
    data: bytes
    model: bytes
    samples: int

    @property
    def statement(self) -> Digest:
        return sealed(
            self.trainer.encode(), _number(self.round), self.parent, self.data, self.model, _number(self.samples)
        )


class Merged(NamedTuple):
    """An aggregator's: the mean of exactly these inputs is `model`."""

    aggregator: PeerId
    round: Round
    parent: bytes
    inputs: bytes  # digest of the claims, in order
    model: bytes

    @property
    def statement(self) -> Digest:
        return sealed(self.aggregator.encode(), _number(self.round), self.parent, self.inputs, self.model)


class Vote(NamedTuple):
    """An auditor's. `own` and `claimed`: signatures of its own result and of the claimed bytes, under its own seed; for
    an aggregate the digests themselves. `own` is empty where the work cannot be done at all."""

    auditor: PeerId
    claim: bytes  # the statement that was audited
    agrees: bool
    own: bytes
    claimed: bytes
    nonce: bytes
    signature: bytes

    @property
    def statement(self) -> Digest:
        agrees = b"\1" if self.agrees else b"\0"
        return sealed(self.auditor.encode(), self.claim, agrees, self.own, self.claimed, self.nonce)

    @property
    def commitment(self) -> Digest:
        return commitment(self.auditor, self.claim, self.own, self.nonce)


class Answered(NamedTuple):
    """An answerer's: that model, which is of that round, makes this output of that input; all by digest."""

    answerer: PeerId
    round: Round
    model: bytes
    question: bytes
    output: bytes

    @property
    def statement(self) -> Digest:
        return sealed(self.answerer.encode(), _number(self.round), self.model, self.question, self.output)


def commitment(auditor: PeerId, claim: bytes, own: bytes, nonce: bytes) -> Digest:
    """Said before the claimed bytes are asked for: who has nothing to commit to gets nothing to copy."""
    return sealed(auditor.encode(), claim, own, nonce)


def bound(round: Round, claim: bytes, commitment: bytes) -> Digest:
    """What an auditor signs when it commits."""
    return sealed(_number(round), claim, commitment)


def inputs_digest(statements: Iterable[bytes]) -> Digest:
    return sealed(*statements)


def equivocate(a: Claim, b: Claim) -> bool:
    """Two results of one piece of work, which has one. A round that is trained anew from another parent is another."""
    same_work = (a.trainer, a.round, a.parent) == (b.trainer, b.round, b.parent)
    return same_work and a.statement != b.statement


# -- the draw ---------------------------------------------------------------------------------------------------------


def training_seed(run: bytes, round: Round, parent: bytes, trainer: PeerId) -> int:
    """63 bits: of batches and dropout."""
    return int.from_bytes(sealed(b"train", run, _number(round), parent, trainer.encode())[:8], "big") >> 1


def is_drawn(beacon: bytes, claim: bytes, fraction: float) -> bool:
    """Is this claim audited?"""
    return int.from_bytes(sealed(b"draw", beacon, claim)[:8], "big") < fraction * 2**64


def auditors(candidates: Iterable[PeerId], beacon: bytes, claim: bytes) -> tuple[PeerId, ...]:
    """In the order in which they are called."""
    return tuple(sorted(candidates, key=lambda peer: sealed(b"auditor", beacon, claim, peer.encode())))


def answerers(candidates: Iterable[PeerId], draw: bytes, question: bytes) -> list[PeerId]:
    """In the order in which they are asked. `draw`: the asker's own chance, so that nobody can make itself a name that
    ranks first for an input that it knows."""
    return sorted(candidates, key=lambda peer: sealed(b"answerer", draw, question, peer.encode()))


def projection_seed(beacon: bytes, claim: bytes, auditor: PeerId) -> Digest:
    """Each auditor's own: with one seed for all, the second could repeat what the first has published."""
    return sealed(b"project", beacon, claim, auditor.encode())


def sealed(*parts: bytes) -> Digest:
    """A digest of the parts: no other parts give the same bytes, for each is headed by its length."""
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return Digest(whole.digest())


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
