"""What nodes of a gossip run say to each other: who has trained, and which model is one's newest.

An announcement is signed by its origin (pubsub does that). It may be lost, and then the next one says as much. A small
model rides inside; larger ones are fetched by digest, as everywhere else.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from protocols import limits
from protocols.fields import Bytes32, Message, RoundNumber
from protocols.gossip.rules import INLINE_BYTES, MERGED

TRAIN_MS: Final = 2**32  # that a training may claim to take: fifty days


class Offer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node's newest model by name. All but the name is the node's own word."""

    model: Bytes32
    age: RoundNumber  # trainings that the node has done
    samples: Annotated[int, Meta(ge=1, le=limits.SAMPLES)]  # it trains on
    train_ms: Annotated[int, Meta(ge=0, le=TRAIN_MS)]  # from one training to the next
    parents: Annotated[
        tuple[Bytes32, ...], Meta(max_length=MERGED + 1)
    ] = ()  # what was merged into what it was trained from


class NewModel(Message, frozen=True, tag=50):
    """Gossip: I have trained, or am still here. `blob`: the model itself, or nothing."""

    offer: Offer
    blob: Annotated[bytes, Meta(max_length=INLINE_BYTES)] = b""


class AskNewest(Message, frozen=True, tag=51):
    """Whoever is about to merge, to a peer drawn at random: what is your newest model? Answered by NewestIs, or Refused
    by a node that has not trained yet."""


class NewestIs(Message, frozen=True, tag=52):
    """Answer to AskNewest; the model is there to be fetched."""

    offer: Offer
