"""Brings other nodes' newest models, beside the training and never in its way.

Each pull asks a peer drawn at random for its newest, fetches it, or one piece of it, and checks that. Pulls begin so
far apart that what they fetch stays below the manifest's rate; a few may be under way at once, for small models spend
their time travelling. When as many wait, or are under way, as a merge takes, it waits too. So a slow link means fewer
merges, and a slow trainer fewer pulls.
"""

from __future__ import annotations

import logging
import random
from collections import Counter

import trio

from protocols.blobs import StoreFull
from protocols.desk import Declined, Desk
from protocols.exchange import NotFetched
from protocols.gossip.audit import Auditor
from protocols.gossip.fragments import Fragments
from protocols.gossip.inbox import Came, Inbox
from protocols.gossip.messages import AskNewest, NewestIs, Offer
from protocols.gossip.neighbours import Neighbours
from protocols.head import Parts
from protocols.learner import LearnerError, Unfit
from protocols.transport import TransportError
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

ASK_S = 5.0  # for a name: whoever is slower has better things to do
AT_ONCE = 4  # pulls under way
PAUSE_S = 0.05  # between two pulls, however small the models
IDLE_S = 1.0  # after a pull that failed
NOT_YET_S = 0.1  # after a peer had nothing new
AGAIN = 0.25  # of its turn: then a peer that had nothing new is asked again
OWNER = "pulled"
REMEMBERED = 1024  # origins whose last model is known: it is not fetched twice


class Puller:
    def __init__(
        self, parts: Parts, neighbours: Neighbours, inbox: Inbox, auditor: Auditor, fragments: Fragments
    ) -> None:
        self.looks = 0  # pulls that are over, and times that nobody was there to be asked
        self.pulled = 0  # models brought, or pieces of them
        self.stopped = False  # nothing will be merged any more
        self.whole = False  # whole models are wanted, where others would do with a piece
        self._neighbours, self._inbox, self._auditor, self._fragments = neighbours, inbox, auditor, fragments
        self._parts = parts
        self._desk: Desk = parts.desk
        self._rng: random.Random = parts.rng
        self._last: dict[PeerId, Digest] = {}
        self._asked: set[PeerId] = set()  # pulls under way
        self._fetching: Counter[int | None] = Counter()  # of these, by piece
        self._free_at = trio.current_time()  # when the next pull may begin

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._inbox.bell.until(self._has_room)
                peer = self._drawn()
                if peer is not None:
                    self._asked.add(peer)
                    nursery.start_soon(self._pull_one, peer)
                elif not self._asked:
                    self._looked()
                    self._wait(NOT_YET_S if self._neighbours else IDLE_S)
                await trio.sleep(PAUSE_S)
                await trio.sleep_until(self._free_at)

    def _has_room(self) -> bool:
        waiting = len(self._inbox) + len(self._asked)
        return not self.stopped and len(self._asked) < AT_ONCE and waiting < self._parts.manifest.gossip.neighbours

    async def _pull_one(self, peer: PeerId) -> None:
        try:
            self._wait(await self._pull(peer))
        finally:
            self._asked.discard(peer)
        self._looked()

    def _pause(self, seconds: float) -> None:
        """No pull begins before: pauses add up, so that the rate holds however many are under way."""
        self._free_at = max(self._free_at, trio.current_time()) + seconds * self._rng.uniform(0.5, 1.5)

    def _wait(self, seconds: float) -> None:
        """Likewise; but of several peers at once that had nothing, one wait is enough."""
        self._free_at = max(self._free_at, trio.current_time() + seconds * self._rng.uniform(0.5, 1.5))

    def _looked(self) -> None:
        self.looks += 1
        self._inbox.bell.ring()

    def _drawn(self) -> PeerId | None:
        """Of the fresh ones; before anybody was heard of, of all members."""
        known = self._neighbours.fresh(trio.current_time())
        fresh = [peer for peer in known if self._is_new(peer)]
        among = fresh if known else self._parts.membership.view.present()
        unfit = {self._desk.me, *self._asked}
        others = [peer for peer in among if self._neighbours.joins(peer) and peer not in unfit]
        others = [peer for peer in others if not self._desk.shunned(peer)]
        return self._rng.choice(others) if others else None

    def _is_new(self, peer: PeerId) -> bool:
        """It has, or will by now have made, a model that we have not had."""
        heard = self._neighbours.last(peer)
        if peer in self._inbox or heard is None:
            return False
        if heard.offer.model != self._last.get(peer) or self._is_last(heard.offer):
            return True
        turn_s = heard.offer.train_ms / 1000
        return trio.current_time() >= max(heard.first_s + turn_s, heard.at_s + turn_s * AGAIN)

    def _is_last(self, offer: Offer) -> bool:
        """Its maker has finished: who trains on merges it again and again, lest it drift away from the others."""
        return 0 < self._parts.manifest.rounds <= offer.age

    async def _pull(self, peer: PeerId) -> float:
        """Its newest model, or a piece of it, unless we have had it. Seconds to wait at least before another pull."""
        try:
            offer = (await self._desk.ask(peer, AskNewest(), NewestIs, ASK_S)).offer
            if not self._fragments.are_named(peer, offer):
                self._neighbours.forget(peer)
                return IDLE_S
            self._neighbours.hear(peer, offer, trio.current_time())
            had = offer.model == self._last.get(peer) and not self._is_last(offer)
            if had or not self._auditor.holds(peer, offer):
                return NOT_YET_S
            came = await self._fetched(peer, offer)
        except Declined as refusal:
            log.debug("%s has no model for us: %s", peer, refusal)
        except Unfit as error:
            self._desk.accuse(peer, OffenceKind.UNFIT_MODEL, str(error))
            self._neighbours.forget(peer)
        except (TransportError, NotFetched) as error:
            log.info("nothing pulled from %s: %s", peer, error)
            self._neighbours.forget(peer)
        except (StoreFull, LearnerError) as error:
            log.warning("nothing pulled from %s: %s", peer, error)
        else:
            self._came(came)
            return 0.0
        return IDLE_S

    async def _fetched(self, peer: PeerId, offer: Offer) -> Came:
        """In the store, and checked. Raises what `_pull` sees to."""
        piece = None
        if self._fragments.on and not self.whole:
            piece = self._fragments.drawn(self._inbox.waiting + self._fetching, self._rng)
        came = Came(peer, offer, piece=piece)
        self._pause(self._fragments.size(piece) / self._parts.manifest.gossip.pull_bytes_s)
        self._fetching[piece] += 1
        try:
            await self._fragments.obtain(came)
            await self._fragments.check(came)
        finally:
            self._fetching[piece] -= 1
        return came

    def _came(self, came: Came) -> None:
        self.remember(came.origin, came.offer.model)
        self.pulled += 1
        self._inbox.put(came)
        self._auditor.came(came.origin, came.offer)
        self._parts.exchange.keep(OWNER, self._inbox.stored)

    def remember(self, peer: PeerId, model: Digest) -> None:
        """Not to be fetched again."""
        self._last.pop(peer, None)
        self._last[peer] = model
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
