"""To whom a message need not be pushed, because it comes to them by another way: PlumTree (Leitao, Pereira, Rodrigues
2007), one tree for each origin, learned from GossipSub's own frames and so within its specification.

A neighbour that sends us a copy of what we have already heard has it without us: its origin's messages are not pushed
to it from then on. What was not pushed is announced (IHAVE), of each origin the newest only, and to a few neighbours;
whoever asks for one (IWANT) has lost its other way, and is pushed to again. That is said at the next heartbeat but one:
what is still on its way would be asked for in vain, and the tree torn by it.
In a burst two neighbours may each learn that a third hears without it, and what is sent until the heartbeat mends that
is lost to it: protocols ask for what they miss anyway.
Invariant: our own messages are pushed to all, and nothing is held back that is not announced. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

ORIGINS: Final = 1024  # remembered a neighbour: beyond the members of any swarm that trains by the second

Peer = TypeVar("Peer")
_Newest = defaultdict[Peer, dict[tuple[str, Peer], bytes]]  # ids by neighbour, then topic and origin


class Trees(Generic[Peer]):
    def __init__(self, me: Peer) -> None:
        self._me = me
        self._served: dict[Peer, OrderedDict[Peer, None]] = {}  # neighbour: origins that it hears without us
        self._withheld: _Newest[Peer] = defaultdict(dict)  # since the last heartbeat
        self._due: _Newest[Peer] = defaultdict(dict)  # before it

    def repeated(self, origin: Peer, neighbour: Peer) -> None:
        """The neighbour has sent what we had."""
        if origin == self._me:
            return
        served = self._served.setdefault(neighbour, OrderedDict())
        served[origin] = None
        served.move_to_end(origin)
        if len(served) > ORIGINS:
            served.popitem(last=False)

    def wanted(self, origin: Peer, neighbour: Peer) -> None:
        """The neighbour asks for what we did not push."""
        if neighbour in self._served:
            self._served[neighbour].pop(origin, None)

    def gone(self, neighbour: Peer) -> None:
        self._served.pop(neighbour, None)
        self._withheld.pop(neighbour, None)
        self._due.pop(neighbour, None)

    def pushed(self, origin: Peer, neighbours: Iterable[Peer], topics: Iterable[str], message_id: bytes) -> set[Peer]:
        """Those of the neighbours to whom this message must go; the others are told of it later."""
        neighbours = set(neighbours)
        served = {peer for peer in neighbours if origin in self._served.get(peer, ())}
        for peer in served:
            self._withheld[peer].update({(topic, origin): message_id for topic in topics})
        return neighbours - served

    def announcements(self) -> dict[Peer, dict[str, list[bytes]]]:
        """What each neighbour was not pushed between the last two calls: ids by topic, one an origin."""
        due, self._due, self._withheld = self._due, self._withheld, defaultdict(dict)
        found: dict[Peer, dict[str, list[bytes]]] = {}
        for peer, newest in due.items():
            for (topic, _), message_id in newest.items():
                found.setdefault(peer, {}).setdefault(topic, []).append(message_id)
        return found
