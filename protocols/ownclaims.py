"""What we have claimed and committed to of late, durable before anybody hears of it: two claims of one piece of work
expel, and so does a vote on another result than the one committed to.

A restart in the midst of a round trains again; where that gives other bytes (another device, another number of threads)
the second claim must not be made, nor the second vote. Invariant: one claim a round and parent, and one result of an
audit, in all the lives of a node, as far back as anyone may still audit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from protocols import limits
from protocols.chain.messages import Height, WrongBytes
from protocols.fields import Bytes32, Peer
from protocols.learner import LearnerError, Trained
from protocols.messages import Certificate, Proof
from sampling.peers import PeerId, Round
from verify.digest import Digest

KEPT = 4  # models: a claim is drawn within a round, and audited within a few


class OwnClaim(Struct, frozen=True, array_like=True):
    round: Round
    parent: bytes
    model: bytes
    samples: int


class Commitment(Struct, frozen=True, array_like=True):
    """What we have bound ourselves to, as an auditor of that claim."""

    claim: bytes
    commitment: bytes


class Convicted(Struct, frozen=True, array_like=True):
    """Whom a block has expelled for wrong bytes, and who were members when it did."""

    height: Height  # of the block
    block: Bytes32
    members: tuple[Peer, ...]
    wrong: WrongBytes


class Docket(Struct, frozen=True, array_like=True):
    """What of claims and audits outlives a restart."""

    claims: tuple[OwnClaim, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    proofs: tuple[Proof, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    candidates: tuple[PeerId, ...] = ()  # who could have audited, if there are certificates
    gossip: bytes = b""  # what gossip learning has claimed and found, in its own words
    convicted: tuple[Convicted, ...] = ()  # of a chain, which keeps the verdicts itself


class OwnClaims:
    def __init__(
        self, before: Sequence[OwnClaim], committed: Sequence[Commitment], save: Callable[[], Awaitable[None]]
    ) -> None:
        self._save = save
        self._made = {(each.round, each.parent): each for each in before}
        self._committed = {each.claim: each for each in committed}

    async def add(self, round: Round, parent: Digest, trained: Trained) -> None:
        """Raises LearnerError if we have claimed otherwise."""
        claim = OwnClaim(round, parent, trained.model, trained.samples)
        made = self._made.setdefault((round, parent), claim)
        if made != claim:
            raise LearnerError("trained again, this round gives another result than the one that was claimed before")
        while len(self._made) > limits.CLAIM_ROUNDS:
            del self._made[next(iter(self._made))]
        await self._save()

    async def commit(self, claim: Digest, commitment: Digest) -> None:
        """Raises LearnerError if we have committed otherwise."""
        self.stand_by(claim, commitment)
        self._committed[claim] = Commitment(claim, commitment)
        while len(self._committed) > limits.OPEN_CASES:
            del self._committed[next(iter(self._committed))]
        await self._save()

    def stand_by(self, claim: Digest, commitment: Digest) -> None:
        """Raises LearnerError if we have committed otherwise."""
        made = self._committed.get(claim)
        if made is not None and made.commitment != commitment:
            raise LearnerError("done again, this audit gives another result than the one that was committed to")

    def commitments(self) -> tuple[Commitment, ...]:
        return tuple(self._committed.values())

    def all(self) -> tuple[OwnClaim, ...]:
        return tuple(self._made.values())

    def models(self) -> list[Digest]:
        """The newest: an auditor may ask for them."""
        return [Digest(each.model) for each in self._made.values()][-KEPT:]
