"""Whom the bytes of an update are given to: the aggregators of its round, and auditors who have committed to a result.

A lazy auditor has nothing to copy from then. An update is free once its round is so old that it is no longer audited,
and when the run stands still: an aggregate that died with its makers is made again from what it was made of. Invariant:
aggregates and theta0 are anybody's, also when a trainer hands one in as its own update, or an aggregator an update as
the mean: the run would stand still for the lie of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocols import limits
from sampling.peers import PeerId, Round
from verify.digest import Digest

KEPT = 4096  # updates remembered: of the largest committee, the rounds that are still audited


class Withheld:
    def __init__(
        self, now: Callable[[], Round], overdue: Callable[[], bool], is_aggregate: Callable[[Digest], bool]
    ) -> None:
        """`overdue`: the run stands still."""
        self._now, self._overdue, self._is_aggregate = now, overdue, is_aggregate
        self._granted: dict[Digest, tuple[Round, set[PeerId]]] = {}

    def withhold(self, model: Digest, round: Round) -> None:
        """From all but those who are granted it."""
        self._granted.setdefault(model, (round, set()))
        while len(self._granted) > KEPT:
            del self._granted[next(iter(self._granted))]

    def grant(self, peer: PeerId, models: Iterable[Digest]) -> None:
        for model in models:
            if model in self._granted:
                self._granted[model][1].add(peer)

    def may_fetch(self, peer: PeerId, model: Digest) -> bool:
        if model not in self._granted:
            return True
        round, granted = self._granted[model]
        free = self._is_aggregate(model) or self._overdue()
        return free or peer in granted or self._now() > round + limits.CLAIM_ROUNDS
