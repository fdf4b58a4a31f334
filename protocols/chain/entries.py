"""The entries that are held, found by origin and height: rebuilding a block from its numbers, and making a new one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice, product

from protocols.chain import limits
from protocols.chain.messages import Entry, Head, digest_of_ids, id_of
from protocols.chain.rules import Rules
from protocols.chain.state import Ancestor, Slot, State, number_of
from sampling.peers import PeerId
from verify.digest import Digest

Seat = tuple[PeerId, int]  # origin and height


class Entries:
    def __init__(self) -> None:
        self._by_id: dict[Digest, Entry] = {}
        self._by_seat: dict[Seat, dict[Digest, Entry]] = {}

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def at(self, seat: Seat) -> Collection[Entry]:
        return self._by_seat.get(seat, {}).values()

    def add(self, digest: Digest, entry: Entry) -> None:
        self._by_id[digest] = entry
        self._by_seat.setdefault((entry.origin, entry.height), {})[digest] = entry

    def forget_below(self, height: int) -> None:
        self._by_id = {digest: entry for digest, entry in self._by_id.items() if entry.height >= height}
        self._by_seat = {seat: held for seat, held in self._by_seat.items() if seat[1] >= height}

    def rebuilt(self, head: Head, found: Sequence[Slot], given: Sequence[Entry] = ()) -> tuple[Entry, ...] | None:
        """The entries it counts, from those `given` and those we hold. There is more than one choice only where
        somebody equivocated."""
        extra = {(entry.origin, entry.base): [(id_of(entry), entry)] for entry in given}
        choices = [
            extra.get((slot.origin, slot.base.digest), []) + self._candidates(slot.origin, slot.base) for slot in found
        ]
        for entries in islice(product(*choices), limits.REBUILDS):
            if digest_of_ids([digest for digest, _ in entries]) == head.entries:
                return tuple(entry for _, entry in entries)
        return None

    def lacking(self, found: Sequence[Slot]) -> tuple[int, ...]:
        """Which of them to ask for: all, if we have something for each but it does not fit."""
        absent = tuple(i for i, slot in enumerate(found) if not self._candidates(slot.origin, slot.base))
        return absent or tuple(range(len(found)))

    def countable(self, state: State, rules: Rules, shunned: Collection[PeerId]) -> tuple[list[int], list[Entry]]:
        """What the next block may count, oldest first: its numbers and entries."""
        numbers, entries = [], []
        for base in state.recent:
            for seat, origin in enumerate(base.seats):
                held = self._candidates(origin, base) if Slot(base, seat).free and origin not in shunned else []
                if held and origin in state.members:
                    numbers.append(number_of(state, rules, base, seat))
                    entries.append(min(held)[1])
        return numbers[: 2 * rules.seats], entries[: 2 * rules.seats]

    def _candidates(self, origin: PeerId, base: Ancestor) -> list[tuple[Digest, Entry]]:
        held = self._by_seat.get((origin, base.height + 1), {})
        return [(digest, entry) for digest, entry in held.items() if entry.base == base.digest]
