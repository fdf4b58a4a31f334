"""A transport without a network: what each peer answers and serves is written down by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from protocols import wire
from protocols.messages import AnyMessage
from protocols.transport import Answer, BlobSource, Gossip, LinkDown, LinkUp, NoAnswer, NotHeld, Traffic, Unreachable
from sampling.peers import PeerId
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

Said = AnyMessage | bytes | Exception
Says = Callable[[AnyMessage], Said]


@dataclass
class Source:
    """A peer's side of a blob. `cuts[n]`: where the n-th stream breaks, in bytes from the blob's start."""

    data: bytes
    size: int | None = None  # what it claims, if not the truth
    cuts: list[int] = field(default_factory=list)
    step: int = 10
    offsets: list[int] = field(default_factory=list)  # from where it was asked
    gate: trio.Event | None = None  # streams wait for it


class Stream:
    def __init__(self, source: Source, offset: int, cut: int | None) -> None:
        self._source, self._at, self._cut = source, offset, cut
        self.size = len(source.data) if source.size is None else source.size

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._source.gate is not None:
            await self._source.gate.wait()
        end = self._at + self._source.step
        if self._cut is not None:
            if self._at >= self._cut:
                raise NoAnswer("the stream broke")
            end = min(end, self._cut)
        data = self._source.data[self._at : end]
        self._at += len(data)
        return data


class Links:
    """`protocols.transport.Transport`, as far as the conversations use it."""

    def __init__(self, me: PeerId) -> None:
        self.me = me
        self.says: dict[PeerId, Says] = {}
        self.asked: list[tuple[PeerId, AnyMessage]] = []
        self.published: list[tuple[str, AnyMessage]] = []
        self.holds: dict[tuple[PeerId, Digest], Source] = {}
        self.linked: set[PeerId] = set()
        self.dropped: list[PeerId] = []
        self.known: dict[PeerId, Sequence[str]] = {}
        self.gossip, self._heard = trio.open_memory_channel[Gossip](100)
        self.link_events, self._links = trio.open_memory_channel[LinkUp | LinkDown](100)

    def holding(self, peer: PeerId, data: bytes, *, named: bytes | None = None, **more: object) -> Source:
        """`peer` serves `data` under the digest of `named`."""
        source = Source(data, **more)  # type: ignore[arg-type]  # the tests' own keywords
        self.holds[peer, digest_of(data if named is None else named)] = source
        return source

    def addresses(self) -> Sequence[str]:
        return ("/memory/" + self.me,)

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self.known[peer] = addresses

    def serve(self, answer: Answer, blobs: BlobSource) -> None: ...

    def refuse(self, peer: PeerId) -> None: ...

    async def publish(self, topic: str, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.published.append((topic, wire.decode(frame)))

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        yield self._heard

    async def request(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        question = wire.decode(frame)
        self.asked.append((peer, question))
        if peer not in self.says:
            raise Unreachable("nobody there")
        said = self.says[peer](question)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, bytes) else wire.encode(said)

    @asynccontextmanager
    async def fetch(self, peer: PeerId, digest: Digest, *, offset: int = 0) -> AsyncIterator[Stream]:
        await trio.lowlevel.checkpoint()
        source = self.holds.get((peer, digest))
        if source is None:
            raise NotHeld("not held")
        source.offsets.append(offset)
        yield Stream(source, offset, source.cuts.pop(0) if source.cuts else None)

    async def dial(self, address: str) -> PeerId:
        raise Unreachable("nobody there")

    async def drop(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self.dropped.append(peer)
        self.linked.discard(peer)

    def peers(self) -> frozenset[PeerId]:
        return frozenset(self.linked)

    @asynccontextmanager
    async def links(self) -> AsyncIterator[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        yield self._links

    def traffic(self) -> Traffic:
        return Traffic()

    def close(self) -> None:
        for end in (self.gossip, self._heard, self.link_events, self._links):
            end.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links(PeerId("me"))
    yield made
    made.close()


class Court:
    """Every accusation that was made."""

    def __init__(self) -> None:
        self.accused: list[tuple[PeerId, OffenceKind, str]] = []

    def __call__(self, peer: PeerId, kind: OffenceKind, detail: str) -> None:
        self.accused.append((peer, kind, detail))

    @property
    def verdicts(self) -> list[tuple[PeerId, OffenceKind]]:
        return [(peer, kind) for peer, kind, _ in self.accused]


@pytest.fixture
def court() -> Court:
    return Court()
