"""What chance decides: seeds of the probes, who sits, who proposes; and the beacon they are drawn from. Pure.

beacon(h) = H(beacon(h-1), reveal), the reveal being the link for height h of a hash chain that the proposer committed
to before anyone could know what it would be worth: at each height it has that one value or keeps silent. Seats and
ranks of an epoch come from the beacon of the checkpoint one whole epoch before it, seeds from the beacon of the
entry's base. Nothing is drawn from a digest that a proposer could grind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from protocols.chain import limits
from protocols.chain.messages import Entry
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

_HEIGHT_BYTES = 8


class Update(NamedTuple):
    """A += coefficient * z(seed)."""

    seed: int  # 64 bits
    coefficient: int


def genesis(run: bytes) -> Digest:
    """The id of height 0, which nobody proposed."""
    return digest_of(b"gossipnode/genesis/1\0" + run)


def first_beacon(run: bytes) -> Digest:
    return digest_of(b"gossipnode/beacon/1\0" + run)


def next_beacon(beacon: bytes, reveal: bytes) -> Digest:
    return digest_of(beacon + reveal)


def seed64(run: bytes, beacon: bytes, height: int, origin: PeerId, probe: int) -> int:
    """`beacon`: that of the entry's base. 64-bit BLAKE2b, little-endian."""
    data = run + beacon + height.to_bytes(_HEIGHT_BYTES, "big") + probe.to_bytes(2, "big") + origin.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"gossipnode/seed").digest(), "little")


def updates_of(entry: Entry, run: bytes, beacon: bytes, multiplier: int) -> tuple[Update, ...]:
    """One for each probe that is not zero. `beacon`: that of its base; `multiplier`: that of its height."""
    return tuple(
        Update(seed64(run, beacon, entry.height, entry.origin, probe), multiplier * scalar)
        for probe, scalar in enumerate(scalars_of(entry.scalars))
        if scalar
    )


def scalars_of(data: bytes) -> list[int]:
    return [byte - 256 if byte > 127 else byte for byte in data]


@lru_cache(maxsize=256)
def drawn(peers: tuple[PeerId, ...], run: bytes, beacon: bytes, purpose: bytes, number: int) -> tuple[PeerId, ...]:
    """All of them, in the order of a draw."""
    salt = run + beacon + purpose + number.to_bytes(_HEIGHT_BYTES, "big")
    return tuple(sorted(peers, key=lambda peer: hashlib.blake2b(salt + peer.encode(), digest_size=16).digest()))


def slice_of(order: Sequence[PeerId], step: int, seats: int) -> tuple[PeerId, ...]:
    """The `step`-th group of `seats`, going round: everyone sits equally often in an epoch."""
    if len(order) <= seats:
        return tuple(order)
    return tuple(order[(step * seats + index) % len(order)] for index in range(seats))


# -- hash chains --------------------------------------------------------------------------------------------------


def unwind(link: bytes, steps: int) -> bytes:
    """The link of `steps` heights before. A second person string keeps links apart from every other digest."""
    for _ in range(steps):
        link = hashlib.blake2b(link, digest_size=32, person=b"gossipnode/link").digest()
    return link


class HashChain:
    """A member's own links, one a height from `start` on, made from a secret of 32 bytes."""

    __slots__ = ("_links", "start")

    def __init__(self, secret: bytes, start: int, length: int = limits.LINKS) -> None:
        links = [unwind(secret, 1)]
        while len(links) < length:
            links.append(unwind(links[-1], 1))
        links.reverse()
        self._links, self.start = links, start

    @property
    def tip(self) -> Digest:
        """What a `Join` of height `start` commits to."""
        return Digest(self._links[0])

    def reveal(self, height: int) -> bytes:
        """For a block. Empty when the chain is used up: commit to a new one in time."""
        index = height - self.start
        return self._links[index] if 0 < index < len(self._links) else b""
