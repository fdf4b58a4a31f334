"""Claims as they travel: made of messages, signed, and checked. `verify.claims` says what they bind.

A trainer's claim rides in the aggregate that was made of it, so whoever hears of an aggregate holds all that its makers
are accountable for. Invariant: an aggregate with a claim that its trainer did not sign, or that its first aggregator
did not sign as a whole, is nobody's word and is not believed. Pure.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from protocols.messages import Aggregate, Broken, Input, Link, Proof, Twice
from protocols.signatures import Signer, verify
from sampling.peers import PeerId, Round
from verify.claims import (
    COMMITTED,
    MERGED,
    TRAINED,
    UNBOUND,
    VOTED,
    Claim,
    Merged,
    Vote,
    bound,
    equivocate,
    inputs_digest,
    sealed,
)
from verify.digest import DIGEST_BYTES, Digest

CHECKED = 1024  # aggregates remembered: one is heard again and again, and the nodes of a simulation share them
PUBLIC, PRIVATE = b"s", b"p"  # the first byte of a claim's data: a shard's description, or a salted digest
SALT = b"gossipnode/data/1"


# -- what a trainer says of its data ----------------------------------------------------------------------------------


def public_data(shard: str) -> bytes:
    """Data that others can make again."""
    return PUBLIC + shard.encode()


def private_data(signer: Signer, run: bytes) -> bytes:
    """The same in every life of a node, or two claims of one round would differ; and nobody else can make it."""
    return PRIVATE + sealed(signer.sign(SALT, run, b""))


def shard_of(data: bytes) -> str | None:
    """The description of a shard, if the claim gives one."""
    return data[1:].decode("ascii", "replace") if data[:1] == PUBLIC else None


# -- claims -----------------------------------------------------------------------------------------------------------


def claim_of(round: Round, parent: bytes, made: Input) -> Claim:
    return Claim(made.trainer, round, parent, made.data, made.model, made.samples)


def merged_of(aggregate: Aggregate) -> Merged:
    statements = (claim_of(aggregate.round, aggregate.parent, each).statement for each in aggregate.inputs)
    maker = aggregate.aggregators[0]
    return Merged(maker, aggregate.round, aggregate.parent, inputs_digest(statements), aggregate.model)


def link_of(aggregate: Aggregate) -> Link:
    merged = merged_of(aggregate)
    parent, inputs = Digest(merged.parent), Digest(merged.inputs)
    return Link(aggregate.round, aggregate.model, parent, inputs, merged.aggregator, aggregate.signature)


def sign_claim(signer: Signer, run: bytes, claim: Claim) -> bytes:
    return signer.sign(TRAINED, run, claim.statement)


def claim_holds(claim: Claim, signature: bytes, run: bytes) -> bool:
    return verify(claim.trainer, TRAINED, run, claim.statement, signature)


def signed(aggregate: Aggregate, signer: Signer, run: bytes) -> Aggregate:
    """By its first aggregator, which is us."""
    assert aggregate.aggregators[0] == signer.peer
    statement = merged_of(aggregate).statement
    return msgspec.structs.replace(aggregate, signature=signer.sign(MERGED, run, statement))


def whole(aggregate: Aggregate, run: bytes) -> bool:
    """Its maker signed it, and each trainer its claim. Such an aggregate has a maker, inputs and a parent."""
    return _whole(aggregate, aggregate.aggregators[:1], aggregate.signature, run)


@lru_cache(maxsize=CHECKED)
def _whole(aggregate: Aggregate, maker: tuple[PeerId, ...], signature: bytes, run: bytes) -> bool:
    """`maker` and `signature` are its own: equal aggregates may differ in them."""
    if not aggregate.aggregators or not aggregate.inputs or len(aggregate.parent) != DIGEST_BYTES:
        return False
    merged = merged_of(aggregate)
    return verify(merged.aggregator, MERGED, run, merged.statement, aggregate.signature) and all(
        claim_holds(claim_of(aggregate.round, aggregate.parent, each), each.signature, run) for each in aggregate.inputs
    )


@lru_cache(maxsize=CHECKED)
def link_holds(link: Link, run: bytes) -> bool:
    merged = Merged(link.aggregator, link.round, link.parent, link.inputs, link.model)
    return verify(link.aggregator, MERGED, run, merged.statement, link.signature)


def sign_vote(signer: Signer, run: bytes, vote: Vote) -> Vote:
    return vote._replace(signature=signer.sign(VOTED, run, vote.statement))


@lru_cache(maxsize=CHECKED)
def vote_holds(vote: Vote, run: bytes) -> bool:
    return verify(vote.auditor, VOTED, run, vote.statement, vote.signature)


# -- what proves a lie by the liar's own signatures -------------------------------------------------------------------


def culprit(proof: Proof) -> PeerId:
    return proof.first.trainer if isinstance(proof, Twice) else proof.vote.auditor


def proof_holds(proof: Proof, run: bytes) -> bool:
    return _twice_holds(proof, run) if isinstance(proof, Twice) else _broken_holds(proof, run)


def _broken_holds(broken: Broken, run: bytes) -> bool:
    """It voted on another result than the one it had committed itself to before it was given the claimed bytes."""
    vote = broken.vote
    if broken.commitment in (UNBOUND, vote.commitment):
        return False
    statement = bound(broken.round, vote.claim, broken.commitment)
    return verify(vote.auditor, COMMITTED, run, statement, broken.signature) and vote_holds(vote, run)


def _twice_holds(twice: Twice, run: bytes) -> bool:
    """The trainer of both claimed two results of one piece of work."""
    claims = [claim_of(twice.round, twice.parent, each) for each in (twice.first, twice.second)]
    both = zip(claims, (twice.first, twice.second), strict=True)
    return equivocate(*claims) and all(claim_holds(claim, each.signature, run) for claim, each in both)
