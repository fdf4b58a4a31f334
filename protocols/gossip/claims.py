"""What a node of a gossip run claims: trained by that seed on that data from the merge of exactly these, signed models.

The claim of rounds (`verify.claims`), with the node's age for the round and the digest of its Work for the parent; the
seed of local training follows from it, so anyone who has the models can do the work again. Each model merged is named
by its maker's own claim, or a poison could be called somebody's honest work. Invariant: a claim holds only with its
maker's signature; what a work says of weights is its maker's choice, for merging has no one right answer here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Final

import msgspec

from protocols.claiming import claim_holds, sign_claim
from protocols.gossip.messages import Offer, Part, Work
from protocols.head import Parts
from protocols.learner import Trained
from protocols.signatures import Signer
from sampling.peers import PeerId, Round
from verify.claims import Claim, sealed, training_seed
from verify.digest import Digest, digest_of

GENERATIONS: Final = 3  # of our own models whose making we can still show: an auditor asks within a training or two
SEED_BYTES: Final = 8  # of an initial model's seed, of which the lowest 62 bits are used


def claim_of(maker: PeerId, offer: Offer) -> Claim:
    return Claim(maker, offer.age, offer.work, offer.data, offer.model, offer.samples)


def digest(work: Work) -> Digest:
    """Of the claims in it, each with its weight."""
    return sealed(*(claim_of(each.maker, each.offer).statement + _share(each) for each in work.parts))


def _share(part: Part) -> bytes:
    return b"%d/%d" % (part.weight, part.piece) if part.piece else b"%d" % part.weight


def holds(maker: PeerId, offer: Offer, run: bytes) -> bool:
    return bool(offer.signature) and claim_holds(claim_of(maker, offer), offer.signature, run)


def why_not(work: Work, offer: Offer, run: bytes, admits: Callable[[PeerId], bool]) -> str | None:
    """Why it cannot be what the offer was trained from; None: it can."""
    if digest(work) != offer.work:
        return "another work than it has signed"
    for part in work.parts:
        if not admits(part.maker) or not holds(part.maker, part.offer, run):
            return "a model in it that no member has claimed"
    return None


def seed_of(maker: PeerId, age: Round, work: bytes, run: bytes) -> int:
    return training_seed(run, age, work, maker)


async def first_model(parts: Parts, peer: PeerId) -> Digest:
    """What a node begins with. Raises LearnerError, StoreFull."""
    if parts.manifest.gossip.init == "common":
        return Digest(bytes.fromhex(parts.manifest.theta0))  # seen to before we run
    return await parts.learner.initial(own_seed(parts.manifest.seed, peer))


def own_seed(seed: int, peer: PeerId) -> int:
    """Of a node's own first model, where the manifest wants them different."""
    return int.from_bytes(digest_of(f"{seed}/{peer}".encode())[:SEED_BYTES], "little") >> 2


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """What of this outlives a restart."""

    newest: Offer | None = None
    work: Work | None = None  # of the checkpoint's model; None: unknown
    out: tuple[tuple[PeerId, Round, bytes], ...] = ()  # whom we expelled, at which round of the swarm's, the last claim


class Making:
    """How our own present model came to be, and what we tell of the last ones."""

    def __init__(self, me: PeerId, signer: Signer, run: bytes, data: bytes, before: Memory) -> None:
        self._me, self._signer, self._run, self._data = me, signer, run, data
        self.known = before.work is not None  # how the checkpoint's model came to be: else it is of no use
        self.work = before.work or Work()
        self.newest = before.newest
        self._given: dict[Digest, Work] = {}  # by model: the newest GENERATIONS

    def seed(self, age: Round) -> int:
        """Of the training that comes."""
        return seed_of(self._me, age, digest(self.work), self._run)

    def trained(self, trained: Trained, age: Round, train_ms: int, pieces: Iterable[Digest] = ()) -> Offer:
        """Signed. From now on that model is what we have."""
        offer = Offer(trained.model, age, max(1, trained.samples), train_ms, digest(self.work), self._data)
        signature = sign_claim(self._signer, self._run, claim_of(self._me, offer))
        self.newest = msgspec.structs.replace(offer, signature=signature, pieces=tuple(pieces))
        self._given.pop(trained.model, None)
        self._given[trained.model] = self.work
        while len(self._given) > GENERATIONS:
            del self._given[next(iter(self._given))]
        self.alone()
        return self.newest

    def alone(self) -> None:
        """The present model is what we trained last."""
        assert self.newest is not None
        self.merged([self._me], [self.newest], [1])

    def began(self) -> None:
        """The present model is the first one."""
        self.work = Work()

    def merged(
        self, makers: Sequence[PeerId], offers: Sequence[Offer], weights: Sequence[int], pieces: Iterable[int] = ()
    ) -> None:
        """The present model is the merge of these; `pieces` as in Part, of all where nothing else is said. In those
        that nothing came of it is our own."""
        named = (msgspec.structs.replace(offer, pieces=()) for offer in offers)
        self.work = Work(tuple(map(Part, makers, named, weights, chain(pieces, repeat(0)))))

    def of(self, model: Digest) -> Work | None:
        return self._given.get(model)

    def models(self) -> list[Digest]:
        """That an auditor may ask us for."""
        parts = (Digest(part.offer.model) for work in self._given.values() for part in work.parts)
        return list(dict.fromkeys([*self._given, *parts]))
