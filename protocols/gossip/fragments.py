"""Models in pieces (DivShare, arXiv 2410.12918): which one to pull, and what it is merged with.

Every offer names its model's pieces, and whoever pulls takes one of them, drawn by its own dice. Invariants: before a
merge all pieces are pulled about equally often, and no maker knows which; a piece is merged with at least as many
others as the manifest's liars need, or stays as it is. In a run of whole models there is one piece, the model.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final

from protocols.blobs import Slice
from protocols.gossip import weights
from protocols.gossip.claims import GENERATIONS
from protocols.gossip.inbox import Came
from protocols.gossip.messages import Offer
from protocols.head import Parts
from protocols.learner import Cut, Gathered
from protocols.pieces import spans
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind


class Fragments:
    def __init__(self, parts: Parts) -> None:
        manifest = parts.manifest
        self._parts, self._rules = parts, manifest.gossip
        self._spans: Final = spans(manifest.model_bytes, manifest.gossip.fragments)
        self._needed = max(1, 2 * manifest.merging.byzantine)
        self._whole: Final = manifest.model_bytes
        # One for each size, or two fetches of one blob would not know of each other.
        of_pieces = {span.size: parts.exchange.of_size(span.size) for span in self._spans}
        self._exchanges = {**of_pieces, self._whole: parts.exchange}
        self._offered: deque[Offer] = deque(maxlen=GENERATIONS)  # of ours, whose pieces others may be fetching

    @property
    def on(self) -> bool:
        return len(self._spans) > 1

    # -- our own ------------------------------------------------------------------------------------------------------

    async def cut(self, model: Digest) -> Sequence[Cut]:
        """What an offer of it names. Raises as `Learner.cut`."""
        cuts = await self._parts.learner.cut(model) if self.on else ()
        assert len(cuts) == self._named, "learner and manifest cut differently"
        return cuts

    def offer(self, offer: Offer) -> None:
        """Its pieces can be fetched from now on, out of the whole model."""
        self._offered.append(offer)
        self._parts.blobs.slice(
            {
                Digest(name): Slice(Digest(each.model), span.start, span.size)
                for each in self._offered
                for name, span in zip(each.pieces, self._spans, strict=bool(each.pieces))
            }
        )

    # -- of others ----------------------------------------------------------------------------------------------------

    @property
    def _named(self) -> int:
        """Pieces in an offer."""
        return len(self._spans) if self.on else 0

    def are_in(self, offer: Offer) -> bool:
        """All of them."""
        return len(offer.pieces) == self._named

    def are_named(self, maker: PeerId, offer: Offer) -> bool:
        """Or that is its offence."""
        if self.are_in(offer):
            return True
        detail = f"an offer of {len(offer.pieces)} pieces where this run's have {self._named}"
        self._parts.desk.accuse(maker, OffenceKind.UNFIT_MODEL, detail)
        return False

    def drawn(self, waiting: Counter[int | None], rng: random.Random) -> int:
        """First what others of its kind wait for, lest they came in vain; else one of those that we have least of."""
        begun = [at for at in range(len(self._spans)) if 0 < waiting[at] < self._needed]
        fewest = min(waiting[at] for at in range(len(self._spans)))
        return rng.choice(begun or [at for at in range(len(self._spans)) if waiting[at] == fewest])

    def size(self, piece: int | None) -> int:
        return self._whole if piece is None else self._spans[piece].size

    async def obtain(self, came: Came) -> None:
        """From its maker. Raises NotFetched, StoreFull."""
        await self._exchanges[self.size(came.piece)].obtain(came.name, [came.origin])

    async def check(self, came: Came) -> float:
        """Its largest absolute value. Raises Unfit, LearnerError."""
        learner = self._parts.learner
        return await (learner.check(came.name) if came.piece is None else learner.check_piece(came.name, came.piece))

    # -- merging ------------------------------------------------------------------------------------------------------

    def gathered(self, came: Sequence[Came], counts: Mapping[PeerId, int], own_samples: int) -> list[Gathered]:
        """By piece; a whole model is one of each."""
        return [self._of(at, came, counts, own_samples) for at in range(len(self._spans))]

    def _of(self, piece: int, came: Sequence[Came], counts: Mapping[PeerId, int], own_samples: int) -> Gathered:
        others = [each for each in came if each.piece in (None, piece)]
        if len(others) < self._needed:
            return Gathered((), ())
        shares = weights.with_own(self._rules.beta, own_samples, [counts[each.origin] for each in others])
        return Gathered([each.name for each in others], shares)
