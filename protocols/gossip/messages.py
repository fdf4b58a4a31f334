"""What nodes of a gossip run say to each other: who has trained, and which model is one's newest.

An announcement is signed by its origin (pubsub does that). It may be lost, and then the next one says as much. A small
model rides inside; larger ones are fetched by digest, as everywhere else.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from protocols import limits
from protocols.fields import Bytes32, Data, Message, Peer, RoundNumber, Signature
from protocols.gossip.rules import INLINE_BYTES, MERGED
from protocols.pieces import FRAGMENTS
from verify.digest import DIGEST_BYTES

TRAIN_MS: Final = 2**32  # that a training may claim to take: fifty days
WEIGHT: Final = 2**53  # of a model in a merge: sums of them are exact enough


class Offer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node's newest model by name. All but the name is the node's own word; where the run audits, it is signed."""

    model: Bytes32
    age: RoundNumber  # trainings that the node has done
    samples: Annotated[int, Meta(ge=1, le=limits.SAMPLES)]  # it trains on
    train_ms: Annotated[int, Meta(ge=0, le=TRAIN_MS)]  # from one training to the next
    work: Annotated[bytes, Meta(max_length=DIGEST_BYTES)] = b""  # digest of the Work that it was trained from
    data: Data = b""  # what it was trained on
    signature: Signature = b""  # of the claim that these make
    pieces: Annotated[tuple[Bytes32, ...], Meta(max_length=FRAGMENTS)] = ()  # by name, where the run cuts its models


class Part(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A model in a merge, or a piece of one: whose it is, by its maker's own signed claim."""

    maker: Peer
    offer: Offer
    weight: Annotated[int, Meta(ge=1, le=WEIGHT)]
    piece: Annotated[int, Meta(ge=0, le=FRAGMENTS)] = 0  # which one of it, counted from 1; 0: the whole


class Work(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a model was trained from: the merge of these, in order; of none: the run's first model."""

    parts: Annotated[tuple[Part, ...], Meta(max_length=MERGED + 1)] = ()


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


class AskWork(Message, frozen=True, tag=53):
    """An auditor to the maker of a model that it has lately offered: what was it trained from? Answered by WorkIs, or
    Refused if that was too long ago."""

    model: Bytes32


class WorkIs(Message, frozen=True, tag=54):
    """Answer to AskWork. The models named are there to be fetched, and so is the one that was made of them."""

    work: Work


class Doubted(Message, frozen=True, tag=55):
    """Gossip: I have done this work again and it gives another model. Nobody believes it, but whoever hears it does the
    work too; all models of it can be had from the sender."""

    maker: Peer
    offer: Offer
    work: Work
