"""What we have claimed of late, durable before anybody hears of it: two claims of one piece of work are an offence.

A restart in the midst of a round trains again; where that gives other bytes (another device, another number of threads)
the second claim must not be made. Invariant: one claim a round and parent in all the lives of a node, as far back as
anyone may still audit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from protocols import limits
from protocols.chain.messages import Height, WrongBytes
from protocols.fields import Bytes32, Peer
from protocols.learner import LearnerError, Trained
from protocols.messages import Certificate, Twice
from sampling.peers import PeerId, Round
from verify.digest import Digest

KEPT = 4  # models: a claim is drawn within a round, and audited within a few


class OwnClaim(Struct, frozen=True, array_like=True):
    round: Round
    parent: bytes
    model: bytes
    samples: int


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
    twice: tuple[Twice, ...] = ()
    candidates: tuple[PeerId, ...] = ()  # who could have audited, if there are certificates
    gossip: bytes = b""  # what gossip learning has claimed and found, in its own words
    convicted: tuple[Convicted, ...] = ()  # of a chain, which keeps the verdicts itself


class OwnClaims:
    def __init__(self, before: Sequence[OwnClaim], save: Callable[[], Awaitable[None]]) -> None:
        self._save = save
        self._made = {(each.round, each.parent): each for each in before}

    async def add(self, round: Round, parent: Digest, trained: Trained) -> None:
        """Raises LearnerError if we have claimed otherwise."""
        claim = OwnClaim(round, parent, trained.model, trained.samples)
        made = self._made.setdefault((round, parent), claim)
        if made != claim:
            raise LearnerError("trained again, this round gives another result than the one that was claimed before")
        while len(self._made) > limits.CLAIM_ROUNDS:
            del self._made[next(iter(self._made))]
        await self._save()

    def all(self) -> tuple[OwnClaim, ...]:
        return tuple(self._made.values())

    def models(self) -> list[Digest]:
        """The newest: an auditor may ask for them."""
        return [Digest(each.model) for each in self._made.values()][-KEPT:]
