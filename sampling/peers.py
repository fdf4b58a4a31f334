"""The words everything else is said in: who a peer is, which round it is, what a peer does.

A PeerId is libp2p's own text form (base58 of the multihash that holds an Ed25519 public key), so the key that checks a
peer's signature can always be read back from its name.
"""

from __future__ import annotations

import enum
from typing import NewType

PeerId = NewType("PeerId", str)
Round = NewType("Round", int)


class Role(enum.StrEnum):
    """What a peer offers the run."""

    TRAINER = "trainer"  # has data; sampled into committees
    AUDITOR = "auditor"  # re-checks claims; may have no data
    OBSERVER = "observer"  # follows the model only
