"""The hash order of a round: SHA-256 of (salt, round, peer), so that equal views draw equal committees.

MoDeST (arXiv 2302.13837) section 3.2, with SHA-256 in place of MD5 and the run id as salt: two runs draw differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sampling.peers import PeerId, Round

RANKINGS: Final = 64  # remembered; of 10,000 peers each is 160 kB


def ticket(peer: PeerId, round: Round, salt: bytes) -> bytes:
    """32 bytes; the lowest tickets of a round are its committee."""
    return hashlib.sha256(salt + round.to_bytes(8, "big") + peer.encode()).digest()


def rank(peers: Iterable[PeerId], round: Round, salt: bytes) -> list[PeerId]:
    return sorted(peers, key=lambda peer: (ticket(peer, round, salt), peer))


@lru_cache(maxsize=RANKINGS)
def ranking(peers: tuple[PeerId, ...], round: Round, salt: bytes) -> tuple[PeerId, ...]:
    """`rank`, remembered: committees are drawn several times in their round from one view, in a simulation by every
    node."""
    return tuple(rank(peers, round, salt))
