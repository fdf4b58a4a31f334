"""The network seam. Everything above talks to this protocol; `gossipnode/net` implements it twice: over libp2p, and in
memory under virtual time. One contract suite runs on both.

What is promised, and what is not:
* `publish` is best effort: it may reach nobody, and twice the same peer. Nothing may depend on its arriving.
* `request` is one question and one answer over an authenticated, encrypted link: the peer that answers is `peer`.
* `fetch` streams the bytes of a blob; they are *not* checked here (`protocols.exchange` checks digests).
* Every failure is a TransportError. No other exception crosses the seam, cancellation apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from sampling.peers import PeerId
from verify.digest import Digest


class TransportError(Exception):
    """The network, or the peer at its other end, failed us. Its text is one line fit for a log."""


class Unreachable(TransportError):
    """No link to that peer, and none could be made."""


class NoAnswer(TransportError):
    """The peer did not answer in time, or broke off."""


class NotHeld(TransportError):
    """The peer answered that it does not hold the blob (or not from that offset)."""


class BadAddress(TransportError):
    """The address is malformed, names no peer, or another peer answered there."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """One message heard on a topic. `origin` signed it; whoever relayed it could not change it."""

    origin: PeerId
    frame: bytes


@dataclass(frozen=True, slots=True)
class LinkUp:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class LinkDown:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes since start. `wire_*` counts everything on the socket; `blob_*` only the payload of bulk streams."""

    wire_sent: int = 0
    wire_received: int = 0
    blob_sent: int = 0
    blob_received: int = 0
    gossip_dropped: int = 0  # messages, not bytes: heard, but the subscriber was too slow


class BlobSource(Protocol):
    """What bulk streams are served from."""

    async def prove(self, digest: Digest) -> None:
        """Drop the blob unless its bytes are what its name says. Costs a hash once in a process's life, or nothing."""

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob, or None if it is not held."""

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; b"" at the end or if the blob has gone meanwhile."""


class BlobStream(Protocol):
    """A blob on its way. `size` is what the sender claims the whole blob measures, known before any byte is read."""

    @property
    def size(self) -> int: ...

    async def receive_some(self) -> bytes:
        """The next bytes, at most CHUNK_BYTES; b"" at the end. Raises NoAnswer if the stream breaks or stalls."""


Answer = Callable[[PeerId, bytes], Awaitable[bytes]]
MayFetch = Callable[[PeerId, Digest], bool]  # whether a blob of ours is for that peer


def to_anybody(peer: PeerId, digest: Digest) -> bool:
    return True


class Transport(Protocol):
    """One node's access to the swarm. Made by an async context manager; usable until that exits."""

    @property
    def me(self) -> PeerId: ...

    def addresses(self) -> Sequence[str]:
        """Full multiaddresses (with /p2p/<me>) at which peers can reach us, real ports filled in."""

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Remember where a peer can be dialled; `request` and `fetch` then connect on demand."""

    def serve(self, answer: Answer, blobs: BlobSource, may_fetch: MayFetch = to_anybody) -> None:
        """Answer questions with `answer` and bulk streams from `blobs`, as if those were not held that a peer may not
        fetch. Called once, before the first dial.

        `answer` gets the authenticated sender; whatever it raises (never expected) is logged, counted and closes
        that one stream.
        """

    async def publish(self, topic: str, frame: bytes) -> None:
        """Best effort, small (limits.GOSSIP_BYTES). Our own subscription does not hear it."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Gossip]]:
        """Gossip of a topic through a bounded channel (limits.GOSSIP_QUEUE); what it must drop it counts."""

    async def request(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        """Raises Unreachable or NoAnswer. A peer asks itself without the network."""

    def fetch(self, peer: PeerId, digest: Digest, *, offset: int = 0) -> AbstractAsyncContextManager[BlobStream]:
        """Raises Unreachable, NoAnswer or NotHeld on entry."""

    async def dial(self, address: str) -> PeerId:
        """Connect to a full multiaddress. Raises BadAddress or Unreachable."""

    async def drop(self, peer: PeerId) -> None:
        """Close every link to the peer. It may come back, unless it is refused."""

    def refuse(self, peer: PeerId) -> None:
        """Neither accept nor dial this peer again (an expelled peer, another run). In memory only."""

    def peers(self) -> frozenset[PeerId]:
        """Peers with a live link."""

    def links(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        """Link changes from now on; first, a LinkUp for every link there is."""

    def traffic(self) -> Traffic: ...
