"""Who signed two things that exclude each other, among all that is held, or what others prove wrong; with the
evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocols.chain.evidence import against, clash
from protocols.chain.messages import Entry, Evidence, Head, WrongBytes, signer_of
from protocols.chain.validity import Refusal
from sampling.peers import PeerId


class Fault(NamedTuple):
    """A signer's fault, found when what it signed was looked at; with evidence it is an equivocation."""

    peer: PeerId
    refusal: Refusal | None
    evidence: Evidence | None = None


class Suspects:
    def __init__(self) -> None:
        self.guilty: dict[PeerId, Evidence] = {}
        self._heads: dict[tuple[PeerId, int], list[Head]] = {}  # proposer and height
        self._votes: dict[PeerId, dict[int, Entry]] = {}  # by the height voted for

    def turns(self, proposer: PeerId, height: int) -> int:
        """How many blocks it made for this height."""
        return len(self._heads.get((proposer, height), ()))

    def hear_entry(self, entry: Entry, others: Iterable[Entry]) -> Evidence | None:
        """`others`: those of the same origin and height. New evidence, if this is some."""
        found = self._convict(entry, others)
        if entry.vote is not None:
            votes = self._votes.setdefault(entry.origin, {})
            found = found or self._convict(entry, (other for other in votes.values() if clash(entry.vote, other.vote)))
            votes.setdefault(entry.vote.height, entry)
        return found

    def hear_head(self, head: Head) -> Evidence | None:
        heads = self._heads.setdefault((head.proposer, head.height), [])
        found = self._convict(head, heads)
        heads.append(head)
        return found

    def forget_below(self, height: int) -> None:
        self._heads = {turn: heads for turn, heads in self._heads.items() if turn[1] > height}
        for votes in self._votes.values():
            for voted in [voted for voted in votes if voted < height]:
                del votes[voted]

    def accuse(self, wrong: WrongBytes) -> None:
        """Two signatures are the better proof, and newer votes count where older ones may not."""
        if isinstance(self.guilty.get(wrong.entry.origin), WrongBytes | None):
            self.guilty[wrong.entry.origin] = wrong

    def _convict(self, signed: Entry | Head, others: Iterable[Entry | Head]) -> Evidence | None:
        other, peer = next(iter(others), None), signer_of(signed)
        if other is None or not isinstance(self.guilty.get(peer), WrongBytes | None):
            return None
        self.guilty[peer] = against(signed, other)
        return self.guilty[peer]
