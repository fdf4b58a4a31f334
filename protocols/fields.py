"""What messages are made of: fields with their bounds, and the base of all messages. Beside `protocols.messages`, so
that a protocol's own vocabulary can be built from it and be a part of that one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocols import limits
from protocols.signatures import SIGNATURE_BYTES
from sampling.peers import PeerId, Round
from verify.digest import DIGEST_BYTES, Digest

RoundNumber = Annotated[Round, Meta(ge=0, le=limits.ROUND)]
Bytes32 = Annotated[Digest, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Version = Annotated[int, Meta(ge=0, le=2**62)]
Bucket = Annotated[int, Meta(ge=0, lt=limits.BUCKETS)]
Run = Annotated[bytes, Meta(max_length=DIGEST_BYTES)]
Peer = Annotated[PeerId, Meta(max_length=limits.PEER_CHARS)]
Data = Annotated[bytes, Meta(max_length=limits.DATA_BYTES)]  # what a claim says it was trained on
Signature = Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]
Peers = Annotated[tuple[Peer, ...], Meta(max_length=limits.COMMITTEE)]


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all: an array on the wire, unknown trailing fields refused."""
