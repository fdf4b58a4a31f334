"""Somebody with links to a run and no part in it: what it needs to know before it can ask the members something.

It greets whoever greets it, so that its links are kept, and answers nothing else. Invariant: it signs nothing, is in no
view, and believes only signed records of members; whom it is not told of by anybody it was pointed at, it cannot know.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from gossipnode.errors import OperatorError
from gossipnode.memoryblobs import MemoryBlobs
from protocols import limits
from protocols.amendments import SignedManifest, open_signed
from protocols.desk import Desk
from protocols.manifest import BadManifest
from protocols.messages import AskManifest, Exchange, Exchanged, Hello, ManifestIs, Welcome
from protocols.registration import examined
from protocols.transport import Transport, TransportError
from sampling.peers import PeerId, Round
from sampling.view import Delta, View
from verify.standing import OffenceKind, one_line

log = logging.getLogger(__name__)

MANIFEST_S = 10.0
EXCHANGE_S = 10.0
EXCHANGES = limits.VIEW_PEERS // limits.REGISTRATIONS_PER_FRAME  # a full view fits; a peer that never ends is left


class Visitor:
    """Somebody with a link and no part in the run."""

    def __init__(self, transport: Transport) -> None:
        self.desk = Desk(transport, _noted)
        self._run: bytes | None = None
        self._known = trio.Event()  # the run
        self._reached: list[PeerId] = []
        self.desk.on(Hello, self._on_hello)
        transport.serve(self.desk.answer, MemoryBlobs(0))

    async def meet(self, addresses: Sequence[str]) -> SignedManifest:
        """The manifest of the first that has one, and a link to all that are of its run. Raises OperatorError."""
        if not addresses:
            raise OperatorError("--peers: give the address of a node of the run")
        found: SignedManifest | None = None
        faults: list[str] = []
        for address in addresses:
            try:
                peer = await self.desk.transport.dial(address)
                answer = await self.desk.ask(peer, AskManifest(), ManifestIs, MANIFEST_S)
                signed = open_signed(answer.signed)
            except (TransportError, BadManifest) as error:
                faults.append(f"{address}: {one_line(str(error))}")
                continue
            if found is None or found.run == signed.run:
                self._reached.append(peer)
                found = found or signed
        if found is None:
            raise OperatorError(f"--peers: nobody could be reached: {'; '.join(faults)}")
        self._run = found.run
        self._known.set()
        return found

    async def members(self, run: bytes) -> list[PeerId]:
        """All that those whom we met know to be present. Their records are signed; who lacks is not."""
        view = View(limits.VIEW_PEERS)
        for peer in self._reached:
            await self._learn(view, peer, run)
        for peer in (present := view.present()):
            if (registration := view.registration(peer)) is not None:
                self.desk.transport.know(peer, registration.addresses)
        return [peer for peer in present if peer != self.desk.me]

    async def _learn(self, view: View, peer: PeerId, run: bytes) -> None:
        have = 0
        for _ in range(EXCHANGES):
            try:
                news = await self.desk.ask(peer, Exchange(Round(0), Delta(), have), Exchanged, EXCHANGE_S)
            except TransportError as error:
                return log.warning("%s does not say who is there: %s", peer, error)
            for each in news.delta.registrations:
                registration, doubt = examined(each, run)
                if doubt is None:
                    view.register(registration)
            if news.upto <= have or not news.delta.registrations:
                return None
            have = news.upto
        return None

    async def _on_hello(self, sender: PeerId, hello: Hello) -> Welcome:
        """Else the link would be closed: whoever is linked is greeted."""
        await self._known.wait()
        assert self._run is not None
        return Welcome(self._run, Round(0))


def _noted(peer: PeerId, kind: OffenceKind, detail: str) -> None:
    log.warning("%s: %s: %s", peer, kind, detail)
