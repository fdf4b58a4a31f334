"""What was heard before what it needs: a bounded room, in all and for each signer, keyed by what is awaited.

Invariant: a signer cannot fill the room of others, and what is thrown out was never part of the chain.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, TypeVar

from protocols.chain import limits
from sampling.peers import PeerId
from verify.digest import Digest

T = TypeVar("T")


class Waiting(Generic[T]):
    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._for: dict[Digest, dict[Digest, tuple[PeerId, T]]] = {}  # awaited -> id -> (signer, what waits)
        self._needs: dict[Digest, Digest] = {}
        self._of: Counter[PeerId] = Counter()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._needs

    def __len__(self) -> int:
        return len(self._needs)

    def awaited(self) -> list[Digest]:
        return list(self._for)

    def awaits(self, digest: Digest) -> bool:
        return digest in self._for

    def has_room(self, signer: PeerId) -> bool:
        return len(self._needs) < self._most and self._of[signer] < limits.WAITING_PER_PEER

    def put(self, needs: Digest, digest: Digest, signer: PeerId, what: T) -> None:
        self._for.setdefault(needs, {})[digest] = signer, what
        self._needs[digest] = needs
        self._of[signer] += 1

    def take(self, needs: Digest) -> list[tuple[Digest, T]]:
        """All that awaited it, no longer here."""
        taken = self._for.pop(needs, {})
        for digest, (signer, _) in taken.items():
            del self._needs[digest]
            self._of[signer] -= 1
        return [(digest, what) for digest, (_, what) in taken.items()]

    def peek(self, needs: Digest) -> list[tuple[Digest, T]]:
        return [(digest, what) for digest, (_, what) in self._for.get(needs, {}).items()]
