"""Blocks whose parent is held and some of whose entries are not: they wait for those, and say which they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from protocols.chain.entries import Seat
from protocols.chain.messages import Block
from protocols.chain.state import Slot
from sampling.peers import PeerId
from verify.digest import Digest


class Bodies:
    def __init__(self) -> None:
        self._blocks: dict[Digest, tuple[Block, Sequence[Slot]]] = {}
        self._lacking: dict[Seat, set[Digest]] = {}
        self.of: Counter[PeerId] = Counter()  # by proposer

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[tuple[Digest, Block, Sequence[Slot]]]:
        return ((digest, block, found) for digest, (block, found) in self._blocks.items())

    def get(self, digest: Digest) -> tuple[Block, Sequence[Slot]] | None:
        return self._blocks.get(digest)

    def put(self, digest: Digest, block: Block, found: Sequence[Slot]) -> None:
        if digest not in self._blocks:
            self._blocks[digest] = block, found
            self.of[block.head.proposer] += 1
            for seat in _seats(found):
                self._lacking.setdefault(seat, set()).add(digest)

    def drop(self, digest: Digest) -> None:
        """It is whole now, or never will be."""
        if digest not in self._blocks:
            return
        block, found = self._blocks.pop(digest)
        self.of[block.head.proposer] -= 1
        for seat in _seats(found):
            self._lacking[seat].discard(digest)
            if not self._lacking[seat]:
                del self._lacking[seat]

    def waiting_for(self, seat: Seat) -> list[tuple[Digest, Block]]:
        return [(digest, self._blocks[digest][0]) for digest in sorted(self._lacking.get(seat, ()))]


def _seats(found: Iterable[Slot]) -> Iterator[Seat]:
    return ((slot.origin, slot.base.height + 1) for slot in found)
