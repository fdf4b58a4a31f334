"""Joins, leaves and returns that were heard and no block carries yet: the newest of each peer and kind, bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TypeVar

from protocols.chain import limits
from protocols.chain.evidence import culprit, within
from protocols.chain.messages import Changes, Evidence, Here, Join, Leave, WrongBytes
from protocols.chain.rules import Rules
from protocols.chain.state import State
from protocols.chain.validity import change_fits
from sampling.peers import PeerId

Change = Join | Leave | Here
One = TypeVar("One", Join, Leave, Here)


class Pool:
    def __init__(self, rules: Rules, admits: Callable[[PeerId], bool]) -> None:
        self._rules, self._admits = rules, admits
        self._heard: dict[type[Change], dict[PeerId, Change]] = {Join: {}, Leave: {}, Here: {}}

    def wants(self, change: Change, tip: State) -> bool:
        """It says something new. Made at another's tip, it may be a little ahead of ours."""
        heard = self._heard[type(change)]
        known = heard.get(change.peer)
        if known is not None and known.height >= change.height:
            return False
        if len(heard) >= limits.CHANGES_KEPT:
            self._drop_stale(tip)
        return len(heard) < limits.CHANGES_KEPT and (self._is_ahead(change, tip) or self._fits(change, tip))

    def add(self, change: Change) -> None:
        self._heard[type(change)][change.peer] = change

    def changes(self, state: State, guilty: Mapping[PeerId, Evidence]) -> Changes:
        """What the next block on `state` can carry: one change a peer, an expulsion before a leave before a join."""
        expulsions = _expulsions(state, guilty)
        taken = set(map(culprit, expulsions))
        leaves = self._fitting(Leave, state, taken, limits.LEAVES)
        joins = self._fitting(Join, state, taken, min(limits.JOINS, limits.MEMBERS - len(state.members)))
        return Changes(joins, leaves, self._fitting(Here, state, taken, limits.HERES), expulsions)

    def _fitting(self, kind: type[One], state: State, taken: set[PeerId], most: int) -> tuple[One, ...]:
        heard = (c for c in self._heard[kind].values() if isinstance(c, kind) and c.peer not in taken)
        fit = tuple(islice((change for change in heard if self._fits(change, state)), most))
        taken.update(change.peer for change in fit)
        return fit

    def _fits(self, change: Change, state: State) -> bool:
        return change_fits(change, state, self._rules, self._admits)

    def _is_ahead(self, change: Change, tip: State) -> bool:
        known = self._admits(change.peer) if isinstance(change, Join) else change.peer in tip.members
        return known and tip.height < change.height <= tip.height + self._rules.epoch

    def _drop_stale(self, tip: State) -> None:
        for heard in self._heard.values():
            for peer, change in list(heard.items()):
                if not (self._is_ahead(change, tip) or self._fits(change, tip)):
                    del heard[peer]


def _expulsions(state: State, guilty: Mapping[PeerId, Evidence]) -> tuple[Evidence, ...]:
    """Of those who are members yet, with as much evidence by votes as a block may carry."""
    proofs = [within(proof, state.members) for peer, proof in guilty.items() if peer in state.members]
    wrong = [proof for proof in proofs if isinstance(proof, WrongBytes)][: limits.CONVICTIONS]
    twice = [proof for proof in proofs if proof is not None and not isinstance(proof, WrongBytes)]
    return tuple([*wrong, *twice][: limits.EXPULSIONS])
