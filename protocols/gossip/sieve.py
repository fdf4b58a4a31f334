"""Of the models that have come, those that may be merged: finite, of this run, of a size like the others'.

What is not is its maker's offence and costs that one model. Invariant: what a maker sends is judged beside what came of
the same piece and our own of it, so that small values are not held to the measure of large ones elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from protocols.blobs import StoreFull
from protocols.collection import absurd
from protocols.gossip.audit import Auditor
from protocols.gossip.fragments import Fragments
from protocols.gossip.inbox import Came, Inbox
from protocols.gossip.neighbours import Neighbours
from protocols.gossip.puller import OWNER as PULLED
from protocols.head import Parts
from protocols.learner import Cut, LearnerError, Unfit
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind

log = logging.getLogger(__name__)


class Sieve:
    def __init__(
        self,
        parts: Parts,
        neighbours: Neighbours,
        inbox: Inbox,
        auditor: Auditor,
        fragments: Fragments,
        refused: Callable[[], None],
    ) -> None:
        """`refused` is called for each that is not."""
        self._parts, self._neighbours, self._inbox = parts, neighbours, inbox
        self._auditor, self._fragments, self._refused = auditor, fragments, refused

    async def fit(self, own: Digest | None, cuts: Sequence[Cut] = ()) -> list[Came]:
        """All that has come and is fit, in the store. `own`: that it is to be merged with, and its pieces."""
        came = self._inbox.take()
        self._parts.exchange.keep("merging", [each.name for each in came])
        self._parts.exchange.keep(PULLED, self._inbox.stored)
        largest: dict[PeerId, float] = {}
        for each in came:
            if self._auditor.trusts(each.origin) and (value := await self._largest(each)) is not None:
                largest[each.origin] = value
        for piece in dict.fromkeys(each.piece for each in came):
            group = {
                each.origin: largest[each.origin] for each in came if each.piece == piece and each.origin in largest
            }
            ours = await self._own_largest(own) if piece is None else cuts[piece].largest if cuts else None
            for peer in absurd(group if ours is None else {**group, self._parts.desk.me: ours}):
                if peer != self._parts.desk.me:
                    del largest[peer]
                    self._accuse(peer, "its values are absurdly larger than those of the others")
        return [each for each in came if each.origin in largest]

    async def _own_largest(self, own: Digest | None) -> float | None:
        try:
            return None if own is None else await self._parts.learner.check(own)
        except (Unfit, LearnerError) as error:  # nothing to compare with, and the merge will say the same
            log.warning("our own model cannot be checked: %s", error)
            return None

    async def _largest(self, came: Came) -> float | None:
        try:
            if came.blob:
                await self._parts.blobs.put(came.blob)
            return await self._fragments.check(came)
        except Unfit as error:
            self._accuse(came.origin, str(error))
        except (LearnerError, StoreFull) as error:
            log.warning("a model of %s is not merged: %s", came.origin, error)
        return None

    def _accuse(self, peer: PeerId, detail: str) -> None:
        self._refused()
        self._neighbours.forget(peer)
        self._parts.desk.accuse(peer, OffenceKind.UNFIT_MODEL, detail)
