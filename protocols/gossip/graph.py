"""Whom a node may merge from: anybody, or its neighbours in a random graph that stays (`gossip.graph`).

Fixed, as in Vanishing Variance (arXiv 2404.04616): the union of rings, each through all trainers that are present in an
order of its own by hash (random regular graphs as unions of Hamiltonian cycles: Law and Siu, INFOCOM 2003). Two rings
may share an edge, so a degree is at most, and in large swarms nearly always, what was asked for. Invariants: equal
views have one graph, symmetric and connected; who comes or goes changes one neighbour a ring of two others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from protocols.gossip.rules import Rules
from sampling.peers import PeerId, Role, Round
from sampling.ranking import rank
from sampling.view import View

RINGS: Final = 64  # remembered, each of some swarm: in a simulation all nodes share them


class Graph:
    def __init__(self, rules: Rules, me: PeerId, view: View, run: bytes) -> None:
        self._rings = rules.neighbours // 2 if rules.graph == "fixed" else 0
        self._me, self._view, self._run = me, view, run
        self._drawn_of = -1  # the view's registrations, by their seal
        self._near: frozenset[PeerId] = frozenset()

    def joins(self, peer: PeerId) -> bool:
        """It and us."""
        if self._rings == 0:
            return True
        if self._drawn_of != self._view.seal:
            self._drawn_of = self._view.seal
            self._near = neighbours_of(self._me, _trainers(self._view), self._rings, self._run)
        return peer in self._near


def neighbours_of(me: PeerId, members: Iterable[PeerId], rings: int, run: bytes) -> frozenset[PeerId]:
    """Before and after us in each ring of them and ourselves."""
    among = tuple(sorted({me, *members}))
    found = set()
    for number in range(rings):
        ring = _ring(among, number, run)
        place = ring.index(me)
        found |= {ring[place - 1], ring[(place + 1) % len(ring)]}
    return frozenset(found - {me})


@lru_cache(maxsize=RINGS)
def _ring(members: tuple[PeerId, ...], number: int, run: bytes) -> tuple[PeerId, ...]:
    return tuple(rank(members, Round(number), run))


def _trainers(view: View) -> list[PeerId]:
    """Observers have no models to give."""
    registered = (view.registration(peer) for peer in view.present())
    return [each.peer for each in registered if each is not None and Role.TRAINER in each.roles]
