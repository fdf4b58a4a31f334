"""What was heard before what it needs: a bounded room, in all and for each signer, keyed by what is awaited.

Invariant: a signer cannot fill the room of others, and what is thrown out was never part of the chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from protocols.chain import limits
from sampling.peers import PeerId
from verify.digest import Digest

T = TypeVar("T")


class Waiting(Generic[T]):
    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._for: dict[Digest, dict[Digest, tuple[PeerId, T]]] = {}  # awaited -> id -> (signer, what waits)
        self._held: set[Digest] = set()
        self._of: Counter[PeerId] = Counter()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._held

    def __len__(self) -> int:
        return len(self._held)

    def awaited(self) -> list[Digest]:
        return list(self._for)

    def awaits(self, digest: Digest) -> bool:
        return digest in self._for

    def has_room(self, signer: PeerId) -> bool:
        return len(self._held) < self._most and self._of[signer] < limits.WAITING_PER_PEER

    def put(self, needs: Digest, digest: Digest, signer: PeerId, what: T) -> None:
        self._for.setdefault(needs, {})[digest] = signer, what
        self._held.add(digest)
        self._of[signer] += 1

    def keep(self, worth: Callable[[T], bool]) -> None:
        """Throw out what is not worth its room any more."""
        for needs, waiting in list(self._for.items()):
            for digest, (signer, what) in list(waiting.items()):
                if not worth(what):
                    self._drop(needs, digest, signer)

    def take(self, needs: Digest) -> list[tuple[Digest, T]]:
        """All that awaited it, no longer here."""
        taken = list(self._for.get(needs, {}).items())
        for digest, (signer, _) in taken:
            self._drop(needs, digest, signer)
        return [(digest, what) for digest, (_, what) in taken]

    def _drop(self, needs: Digest, digest: Digest, signer: PeerId) -> None:
        del self._for[needs][digest]
        if not self._for[needs]:
            del self._for[needs]
        self._held.discard(digest)
        self._of[signer] -= 1
        if not self._of[signer]:
            del self._of[signer]
