"""What members sign: entries, blocks, and changes of membership. Each says who signs it and what it commits to.

An id is the BLAKE2b-256 of what is signed without the signature, so that a second signature of the same content is no
second thing. Signatures are salted with the run and a domain of their own (`protocols.signatures`). Evidence holds the
short signed heads of blocks, never whole blocks: it does not nest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from protocols import limits as wire
from protocols.chain import limits
from protocols.fields import Bytes32, Peer
from protocols.signatures import SIGNATURE_BYTES, Signer, verify
from sampling.peers import PeerId
from verify.digest import DIGEST_BYTES, Digest, digest_of

Height = Annotated[int, Meta(ge=0, le=limits.HEIGHT)]
Signature = Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]
Optional32 = Annotated[bytes, Meta(max_length=DIGEST_BYTES)]


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all that is signed; the signature is the last field."""


class Vote(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """For the checkpoint at `height` on the branch of the entry's base, from the justified one at `source` (Casper
    FFG's link). `checkpoint` is the digest of a `Checkpoint`, so it commits to A as well."""

    source: Height
    height: Height
    checkpoint: Bytes32


class Entry(Signed, frozen=True, tag=1):
    """An origin with a seat: my projected gradients at the state that `base` leaves, one signed byte a probe. It is my
    vote for `base` as well, the only one that I give for this height. height = height of base + 1."""

    height: Height
    base: Bytes32
    scalars: Annotated[bytes, Meta(min_length=1, max_length=limits.PROBES)]
    vote: Vote | None
    origin: Peer
    signature: Signature


class Head(Signed, frozen=True, tag=2):
    """A proposer: the next block after `parent`. The only one that I propose for this height.

    `counted`: which entries count, oldest first, each as (base height - (height - window)) * seats + seat, so that who
    has seen them needs nothing else; `entries` is the digest of their ids, `changes` that of the `Changes`.
    """

    parent: Bytes32
    height: Height
    rank: Annotated[int, Meta(ge=0, lt=limits.MEMBERS)]
    reveal: Optional32  # the next link of my hash chain, empty while none of mine is in force
    counted: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=limits.COUNTED)]
    entries: Bytes32
    changes: Bytes32
    proposer: Peer
    signature: Signature


class Join(Signed, frozen=True, tag=3):
    """Anyone admitted: make me a member. From a member: here is a (new) hash chain of mine. `tip` is the link of height
    `height`; the link of a later height hashes to it in as many steps. `data`: the shard that I probe on from then on,
    as `protocols.claiming.public_data` has it, or empty if it is my own."""

    height: Height
    tip: Bytes32
    data: Annotated[bytes, Meta(max_length=wire.DATA_BYTES)]
    peer: Peer
    signature: Signature


class Leave(Signed, frozen=True, tag=4):
    """A member: I sign no entry and no block above `height` any more."""

    height: Height
    peer: Peer
    signature: Signature


class Here(Signed, frozen=True, tag=5):
    """A dormant member: I am back."""

    height: Height
    peer: Peer
    signature: Signature


class TwoEntries(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Evidence: two different entries of one origin and height, or with votes of which honest members give only one."""

    first: Entry
    second: Entry


class TwoHeads(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Evidence: two different blocks of one proposer and height."""

    first: Head
    second: Head


class Contradiction(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An auditor's vote against an entry, as `protocols.claiming.sign_vote` signs it: it has found `own` bytes, or none
    if what was claimed cannot be done."""

    auditor: Peer
    own: Annotated[bytes, Meta(max_length=limits.PROBES)]
    signature: Signature


class WrongBytes(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Evidence: more than a third of the members have done the entry's work again, and found other bytes."""

    entry: Entry
    votes: Annotated[tuple[Contradiction, ...], Meta(max_length=limits.CONTRADICTIONS)]


Evidence = TwoEntries | TwoHeads | WrongBytes


class Changes(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who comes, goes, is back, and is expelled, with the evidence: in force from the block that carries them."""

    joins: Annotated[tuple[Join, ...], Meta(max_length=limits.JOINS)] = ()
    leaves: Annotated[tuple[Leave, ...], Meta(max_length=limits.LEAVES)] = ()
    heres: Annotated[tuple[Here, ...], Meta(max_length=limits.HERES)] = ()
    expulsions: Annotated[tuple[Evidence, ...], Meta(max_length=limits.EXPULSIONS)] = ()


class Block(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """As it travels: the head and the changes. The entries travel by themselves, or are asked for."""

    head: Head
    changes: Changes = Changes()


REMEMBERED: Final = 8192  # 8 MB if every one is as long as it may be
Some = TypeVar("Some", bound=Signed)
_DOMAINS: Final[dict[type[Signed], bytes]] = {
    kind: b"gossipnode/" + kind.__name__.lower().encode() + b"/1" for kind in (Entry, Head, Join, Leave, Here)
}


def payload(signed: Signed) -> bytes:
    """What is signed and hashed: every field but the last, the signature."""
    values = [getattr(signed, name) for name in signed.__struct_fields__[:-1]]
    return msgspec.msgpack.encode(values)


@lru_cache(maxsize=REMEMBERED)
def id_of(signed: Signed) -> Digest:
    return digest_of(_DOMAINS[type(signed)] + b"\0" + payload(signed))


def signer_of(signed: Signed) -> PeerId:
    peer: PeerId = getattr(signed, signed.__struct_fields__[-2])
    return peer


def sign(unsigned: Some, signer: Signer, run: bytes) -> Some:
    assert signer_of(unsigned) == signer.peer
    signature = signer.sign(_DOMAINS[type(unsigned)], run, payload(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


@lru_cache(maxsize=REMEMBERED)
def genuine(signed: Signed, run: bytes) -> bool:
    """Whether who it names has signed it in this run. `signed` may be hostile. Heard again, it costs no second check;
    the nodes of a simulation share one."""
    return verify(signer_of(signed), _DOMAINS[type(signed)], run, payload(signed), signed_by(signed))


def signed_by(signed: Signed) -> bytes:
    signature: bytes = getattr(signed, signed.__struct_fields__[-1])
    return signature


def digest_of_ids(ids: list[Digest]) -> Digest:
    return digest_of(b"".join(ids))


def digest_of_changes(changes: Changes) -> Digest:
    return digest_of(msgspec.msgpack.encode(changes))
