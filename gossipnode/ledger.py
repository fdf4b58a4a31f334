"""Who may take how much of a store's space, and how far each blob on its way has come. Pure; both stores use it.

Space is claimed before a byte is written, so what is held and what is arriving together never exceed the bound. The
least recently used goes first; what is pinned or in somebody's hands never goes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from protocols.blobs import StoreFull
from verify.digest import DIGEST_BYTES, Digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Ledger:
    """How many bytes each digest has claimed, least recently used first, and who must go to make room."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes: Final = max_bytes
        self._claims: OrderedDict[Digest, int] = OrderedDict()
        self._pinned: frozenset[Digest] = frozenset()
        self.total = 0

    def pin(self, digests: Iterable[Digest]) -> None:
        self._pinned = frozenset(digests)

    def touch(self, digest: Digest) -> None:
        self._claims.move_to_end(digest)

    def enter(self, digest: Digest, size: int) -> None:
        """Count what is already there, as the most recently used, whether or not it fits."""
        self.release(digest)
        self._claims[digest] = size
        self.total += size

    def claim(self, digest: Digest, size: int, busy: Collection[Digest]) -> list[Digest]:
        """Make `size` the claim of `digest`. Those returned have lost theirs. Raises StoreFull, changing nothing."""
        excess = self.total - self._claims.get(digest, 0) + size - self._max_bytes
        victims = []
        for other, held in self._claims.items():
            if excess <= 0:
                break
            if other != digest and other not in self._pinned and other not in busy:
                victims.append(other)
                excess -= held
        if excess > 0:
            raise StoreFull(f"no room for {size} bytes: store_max_bytes is {self._max_bytes}, {excess} too few")
        for victim in victims:
            self.release(victim)
        self.enter(digest, size)
        return victims

    def release(self, digest: Digest) -> None:
        self.total -= self._claims.pop(digest, 0)


class Arrival:
    """How far a blob has come. It outlives the Partial that a fetch holds, so that the next fetch resumes."""

    __slots__ = ("hash", "offset", "size")

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self.offset = 0
        self.hash: Final = hashlib.blake2b(digest_size=DIGEST_BYTES)

    @classmethod
    def complete(cls, size: int) -> Arrival:
        """Of a blob that is held already."""
        arrival = cls(size)
        arrival.skip(size)
        return arrival

    def take(self, data: bytes) -> None:
        self.hash.update(data)
        self.offset += len(data)

    def skip(self, count: int) -> None:
        """The blob came whole by another way: what is still sent need not be looked at."""
        self.offset += count
