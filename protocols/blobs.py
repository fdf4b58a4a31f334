"""Where blobs are kept, as the conversations see it. `gossipnode/store.py` implements it on disk and in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from protocols.transport import BlobSource
from verify.digest import Digest


class StoreFull(Exception):
    """The blob does not fit beside what is pinned, or the disk is full. One line fit for a log."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some bytes of a blob."""

    whole: Digest
    start: int
    size: int


class Partial(Protocol):
    """A blob being received. Survives a broken connection (and, on disk, a restart), so a fetch resumes at `offset`."""

    @property
    def offset(self) -> int: ...

    async def append(self, data: bytes) -> None:
        """Write and hash the next bytes. Raises StoreFull; asserts that they do not exceed the announced size."""

    async def commit(self) -> bool:
        """All bytes are here: True and visible if they hash to the digest, else False and the bytes are gone."""

    async def discard(self) -> None: ...


class Blobs(BlobSource, Protocol):
    """A bounded, content-addressed store. Evicts the blobs least recently used, never a pinned one."""

    def __contains__(self, digest: object) -> bool: ...

    async def put(self, data: bytes) -> Digest:
        """Visible when it returns. Raises StoreFull."""

    async def get(self, digest: Digest) -> bytes:
        """The whole blob, its digest checked. Raises KeyError if it is not (or no longer) held intact."""

    async def receive(self, digest: Digest, size: int) -> Partial:
        """Begin, or resume, to receive a blob of exactly `size` bytes. Raises StoreFull."""

    def pin(self, digests: Iterable[Digest]) -> None:
        """Exactly these digests are kept whatever happens; the set replaces the former one."""

    def slice(self, slices: Mapping[Digest, Slice]) -> None:
        """Serve exactly these parts of blobs under names of their own, while the whole ones are held; they take no
        space. The mapping replaces the former one."""
