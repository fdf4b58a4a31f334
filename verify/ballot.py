"""The votes on one claim: a set that only grows, so that merging is union and the order in which they came is nothing.

Of each auditor one vote of each kind is kept: who votes both ways is seen to (`verify.tally` counts neither).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sampling.peers import PeerId
from verify.claims import Vote


class Ballot:
    def __init__(self) -> None:
        self._votes: dict[PeerId, dict[bool, Vote]] = {}

    def add(self, vote: Vote) -> None:
        self._votes.setdefault(vote.auditor, {}).setdefault(vote.agrees, vote)

    def __contains__(self, vote: Vote) -> bool:
        """Or another of its auditor that says the same."""
        return vote.agrees in self._votes.get(vote.auditor, {})

    def __iter__(self) -> Iterator[Vote]:
        """By auditor, whoever came first."""
        return (vote for peer in sorted(self._votes) for _, vote in sorted(self._votes[peer].items()))

    @property
    def kinds(self) -> Mapping[PeerId, frozenset[bool]]:
        """What each auditor has said."""
        return {peer: frozenset(votes) for peer, votes in self._votes.items()}

    @property
    def counts(self) -> tuple[int, int]:
        """Auditors that agree, and that contradict."""
        said = [kind for votes in self._votes.values() for kind in votes]
        return said.count(True), said.count(False)

    @property
    def doubted(self) -> bool:
        return any(False in votes for votes in self._votes.values())
