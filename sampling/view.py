"""What a node knows of the swarm: one signed registration a peer, and the last round in which the peer was active.

MoDeST's registry and activity tables (arXiv 2302.13837, section 3.3) as one CRDT: registrations are last-writer-wins by
a counter that the peer keeps for life, activity is a maximum. Merging is commutative, associative and idempotent, so
any two views that have heard the same entries are equal. Deltas carry what changed since a version that the receiver is
known to hold. Signatures are checked at the door (`protocols.membership`), not here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

from sampling.peers import PeerId, Role, Round

LOOKED_AT = 16  # entries of a full view, for one that has fallen silent


class Registration(NamedTuple):
    """What a peer says of itself, signed by it. A later one (higher counter) replaces it."""

    peer: PeerId
    counter: int  # +1 with every join or leave, persistent
    present: bool  # True: joined, False: left
    roles: tuple[Role, ...]
    round: Round  # the round at which it said so
    addresses: tuple[str, ...]
    signature: bytes


class Delta(NamedTuple):
    """News of a view. Activity of peers whose registration the receiver lacks is ignored there."""

    registrations: tuple[Registration, ...] = ()
    activity: tuple[tuple[PeerId, Round], ...] = ()


class View:
    def __init__(self, capacity: int, first_version: int = 0) -> None:
        self._capacity = capacity
        self._first_version = first_version  # random in each life, so that versions of two lives are not confused
        self._registrations: dict[PeerId, Registration] = {}
        self._active: dict[PeerId, Round] = {}
        self._registered_at: dict[PeerId, int] = {}  # version of the last change, for deltas; the newest comes last
        self._active_at: dict[PeerId, int] = {}
        self._left: set[PeerId] = set()
        self._names: tuple[PeerId, ...] | None = None
        self.version = first_version
        self._hashes: dict[PeerId, int] = {}  # of the registrations
        self._places: dict[PeerId, int] = {}  # which bucket of however many
        self.seal = 0  # equal for equal registrations, whatever their order: the XOR of their hashes, 62 bits

    def __len__(self) -> int:
        return len(self._registrations)

    def __contains__(self, peer: object) -> bool:
        return peer in self._registrations

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self.names())

    def names(self) -> tuple[PeerId, ...]:
        """Sorted. Kept until a peer is added or forgotten."""
        if self._names is None:
            self._names = tuple(sorted(self._registrations))
        return self._names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and (self._registrations, self._active) == (other._registrations, other._active)

    __hash__ = None  # type: ignore[assignment]  # mutable, and mypy types the protocol's None as an override

    def registration(self, peer: PeerId) -> Registration | None:
        return self._registrations.get(peer)

    def last_active(self, peer: PeerId) -> Round:
        return self._active[peer]

    def present(self) -> list[PeerId]:
        return [peer for peer in self if self._registrations[peer].present]

    def register(self, new: Registration, quiet_since: int = 0) -> bool:
        """True if it was news. A full view makes room by forgetting the longest silent peer that has left, or if none
        has, one without a sign of life since the round `quiet_since`."""
        old = self._registrations.get(new.peer)
        if old is not None and (old.counter, old.signature) >= (new.counter, new.signature):
            return False
        if old is None and len(self) >= self._capacity and not self._forget_one(quiet_since):
            return False
        self.version += 1
        self._seal(new)
        if old is None:
            self._names = None
        self._registrations[new.peer] = new
        (self._left.discard if new.present else self._left.add)(new.peer)
        self._active[new.peer] = max(new.round, self._active.get(new.peer, new.round))
        # Both at once: told before the registration, activity would be ignored, and never be told again.
        _note(self._registered_at, new.peer, self.version)
        _note(self._active_at, new.peer, self.version)
        return True

    def touch(self, peer: PeerId, round: Round) -> bool:
        """The peer gave a sign of life in `round`."""
        if peer not in self._registrations or self._active.get(peer, -1) >= round:
            return False
        self.version += 1
        self._active[peer] = round
        _note(self._active_at, peer, self.version)
        return True

    def merge(self, delta: Delta) -> None:
        for registration in delta.registrations:
            self.register(registration)
        for peer, round in delta.activity:
            self.touch(peer, round)

    def delta(self, since: int, most: int) -> tuple[Delta, int]:
        """What changed after version `since`, oldest first, at most `most` of each; and the version it brings one to.

        A `since` that is no version of this life means everything.
        """
        since = since if self._first_version <= since <= self.version else self._first_version
        registered = _after(self._registered_at, since)[:most]
        active = _after(self._active_at, since)[:most]
        full = [at for at, chosen in ((registered, most), (active, most)) if len(at) == chosen]
        upto = min((at[-1][0] for at in full), default=self.version)
        return Delta(
            tuple(self._registrations[peer] for at, peer in registered if at <= upto),
            tuple((peer, self._active[peer]) for at, peer in active if at <= upto),
        ), upto

    # -- two views that know nothing of each other ---------------------------------------------------------------------

    def seals(self, buckets: int) -> tuple[int, ...]:
        """One seal for each of so many parts of the registrations: two views differ where their seals do."""
        found = [0] * buckets
        for peer, place in self._places.items():
            found[place % buckets] ^= self._hashes[peer]
        return tuple(found)

    def within(self, buckets: Collection[int], of: int) -> list[PeerId]:
        """Whose registrations lie in these of `of` buckets."""
        return [peer for peer, place in self._places.items() if place % of in buckets]

    def about(self, peers: Iterable[PeerId]) -> Delta:
        """All that is known of them."""
        known = sorted(peers)
        return Delta(
            tuple(self._registrations[peer] for peer in known), tuple((peer, self._active[peer]) for peer in known)
        )

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def _seal(self, new: Registration) -> None:
        sealed = _hash(new.signature)  # it covers all the rest
        self.seal ^= sealed ^ self._hashes.get(new.peer, 0)
        self._hashes[new.peer] = sealed
        if new.peer not in self._places:
            self._places[new.peer] = _hash(new.peer.encode())

    def _forget_one(self, quiet_since: int) -> bool:
        # Whose activity was noted longest ago stands first: looking at all would make each refusal cost a scan.
        quiet = [peer for peer in islice(self._active_at, LOOKED_AT) if self._active[peer] < quiet_since]
        if not (self._left or quiet):
            return False
        gone = min(self._left or quiet, key=lambda peer: (self._active[peer], peer))
        self.seal ^= self._hashes[gone]
        self._names = None
        tables: tuple[dict[PeerId, Any], ...] = (self._registrations, self._active, self._registered_at)
        for table in (*tables, self._active_at, self._hashes, self._places):
            table.pop(gone, None)
        self._left.discard(gone)
        return True


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 2


def _note(versions: dict[PeerId, int], peer: PeerId, version: int) -> None:
    versions.pop(peer, None)
    versions[peer] = version


def _after(versions: dict[PeerId, int], since: int) -> list[tuple[int, PeerId]]:
    """Oldest first; costs no more than it finds."""
    found = [(at, peer) for peer, at in takewhile(lambda each: each[1] > since, reversed(versions.items()))]
    found.reverse()
    return found
