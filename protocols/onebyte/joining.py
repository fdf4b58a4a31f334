"""Going on from a snapshot, for whoever is new or so far behind that others have forgotten the blocks between.

Three peers are asked; each snapshot must prove itself (`protocols.chain.checkpoints`), and none is taken if two of them
conflict, or one conflicts with what is certified here: then keys were stolen or a third of the members are hostile, and
the operator must know. A itself comes by digest.
"""

from __future__ import annotations

import logging
from itertools import combinations

import trio

from protocols.blobs import StoreFull
from protocols.chain import limits
from protocols.chain.checkpoints import BadSnapshot, Snapshot, anchored, conflict, encode_snapshot, open_snapshot
from protocols.exchange import NotFetched
from protocols.learner import LearnerError
from protocols.messages import AnyMessage, Refused
from protocols.onebyte.asking import BREATH_S, Asker
from protocols.onebyte.book import Book
from protocols.onebyte.follower import Follower
from protocols.onebyte.messages import PART_BYTES, AskSnapshot, SnapshotIs
from protocols.onebyte.parts import Parts
from protocols.transport import TransportError
from sampling.peers import PeerId
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

ASKED = 3
AGAIN_S = (2.0, 60.0)  # at most so often, and more rarely if it brings nothing: whoever claims to be ahead makes us ask
SERVED = 2  # snapshots kept as bytes, so that a download ends with the one it began with


class Joiner:
    def __init__(self, parts: Parts, book: Book, asker: Asker, follower: Follower) -> None:
        self._parts, self._book, self._asker, self._follower = parts, book, asker, follower
        self._served: dict[Digest, bytes] = {}
        self._served_height = 0
        self.conflict: str | None = None  # two histories are both certified: the operator must choose
        parts.desk.on(AskSnapshot, self._on_ask)

    async def run(self) -> None:
        """Until cancelled."""
        again_s = AGAIN_S[0]
        while True:
            await self._book.bell.until(lambda: bool(self._asker.beyond) and self._follower.offered is None)
            before = self._book.chain
            try:
                await self._join()
            except (NotFetched, StoreFull, LearnerError) as error:
                log.info("A of the certified checkpoint is not here: %s", error)
            self._asker.beyond.clear()  # whoever still is beyond says so again
            again_s = AGAIN_S[0] if self._book.chain is not before else min(2 * again_s, AGAIN_S[1])
            await trio.sleep(again_s * self._parts.rng.uniform(0.5, 1.5))

    async def _join(self) -> None:
        """Raises NotFetched, StoreFull, LearnerError."""
        found = await self._ask_around()
        newest = max(found, key=lambda snapshot: snapshot.checkpoint.height, default=None)
        certified = self._book.chain.certified
        if newest is None or newest.checkpoint.height <= certified.height:
            return
        known = certified.height, certified.digest
        if any(conflict(one, other) for one, other in combinations(found, 2)) or not anchored(newest, known):
            self.conflict = f"two histories are certified, up to height {newest.checkpoint.height}: taking neither"
            return log.error("%s", self.conflict)
        self.conflict = None
        self._parts.exchange.keep("onebyte/joining", [newest.checkpoint.model])
        try:
            await self._follower.obtain(newest.checkpoint.model)
            self._follower.offered = newest
            self._book.bell.ring()
            await self._book.bell.until(lambda: self._follower.offered is None)
        finally:
            self._parts.exchange.keep("onebyte/joining", [])

    async def _ask_around(self) -> list[Snapshot]:
        ahead = sorted(self._asker.beyond)
        others = [peer for peer in self._parts.membership.partners() if peer not in ahead]
        chosen = self._parts.rng.sample(ahead, min(ASKED, len(ahead)))
        chosen += self._parts.rng.sample(others, min(ASKED - len(chosen), len(others)))
        found: list[Snapshot] = []
        async with trio.open_nursery() as nursery:
            for peer in chosen:
                nursery.start_soon(self._ask, peer, found)
        return found

    async def _ask(self, peer: PeerId, found: list[Snapshot]) -> None:
        try:
            data = await self._download(peer)
            found.append(open_snapshot(data, self._book.rules, self._book.run))
        except TransportError as error:
            log.debug("%s gave no snapshot: %s", peer, error)
        except BadSnapshot as error:
            self._parts.desk.accuse(peer, OffenceKind.UNFOUNDED, f"snapshot: {error}")

    async def _download(self, peer: PeerId) -> bytes:
        """Raises TransportError, BadSnapshot."""
        data, digest = bytearray(), b""
        for _ in range(-(-limits.SNAPSHOT_BYTES // PART_BYTES)):
            part = await self._parts.desk.insist(peer, AskSnapshot(digest, len(data)), SnapshotIs)
            data += part.data
            if digest not in (b"", part.digest) or not part.data or len(data) > part.size:
                raise BadSnapshot("its parts do not fit together")
            digest = part.digest
            if len(data) == part.size:
                break
            await trio.sleep(BREATH_S)
        if digest_of(data) != digest:
            raise BadSnapshot("its parts do not hash to its name")
        return bytes(data)

    async def _on_ask(self, sender: PeerId, question: AskSnapshot) -> AnyMessage:
        self._serve_newest()
        digest = Digest(question.digest) if question.digest else next(reversed(self._served), None)
        data = None if digest is None else self._served.get(digest)
        if digest is None or data is None:
            return Refused("no such snapshot here")
        return SnapshotIs(digest, len(data), data[question.offset : question.offset + PART_BYTES])

    def _serve_newest(self) -> None:
        """Only if its A is here too, for who asks for the one wants the other."""
        snapshot = self._book.chain.snapshot()
        if snapshot is None or snapshot.checkpoint.height <= self._served_height:
            return
        if snapshot.checkpoint.model not in self._parts.blobs:
            return
        data = encode_snapshot(snapshot)
        self._served[digest_of(data)] = data
        self._served_height = snapshot.checkpoint.height
        for old in list(self._served)[:-SERVED]:
            del self._served[old]
