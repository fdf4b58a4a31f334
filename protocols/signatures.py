"""Ed25519 signatures, and the two-way road between a public key and libp2p's peer id.

What is signed is domain || 0 || run id || payload: a signature made for one kind of message, or in one run, is void in
every other. The domain is a constant of ours without a zero byte and the run id has a fixed length, so no two different
triples give the same bytes. Nothing here raises on what a peer sent: a malformed peer id or signature is not valid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols import limits
from sampling.peers import PeerId
from verify.digest import DIGEST_BYTES

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
# Identity multihash (code 0, 0x24 bytes) of libp2p's PublicKey protobuf: field 1 = 1 (Ed25519), field 2 = the key.
_PREFIX: Final = bytes.fromhex("002408011220")
_PEER_CHARS: Final = 52  # every Ed25519 peer id has as many: its 37 bytes after the zero start with 0x24


class Signer:
    """The private key of one peer; the key itself cannot be read back from here."""

    __slots__ = ("_key", "peer")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer: Final = peer_of(key.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """`seed`: the 32 bytes that RFC 8032 calls the private key."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, domain: bytes, run: bytes, payload: bytes) -> bytes:
        return self._key.sign(_signed_bytes(domain, run, payload))

    def __repr__(self) -> str:
        return f"Signer({self.peer})"


def verify(peer: PeerId, domain: bytes, run: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether `peer` signed `payload` in this domain and run. `peer`, `payload` and `signature` may be hostile."""
    key = _key_of(peer) if len(peer) == _PEER_CHARS else None
    if key is None:
        return False
    try:
        key.verify(signature, _signed_bytes(domain, run, payload))
    except InvalidSignature:
        return False
    return True


def peer_of(public_key: bytes) -> PeerId:
    """libp2p's text form of an Ed25519 public key: `12D3KooW...`."""
    assert len(public_key) == KEY_BYTES
    return PeerId(base58.b58encode(_PREFIX + public_key).decode("ascii"))


def public_key_of(peer: PeerId) -> bytes | None:
    """The key inside a peer id, or None if the id is malformed, not canonical, or of another key type."""
    key = _key_of(peer) if len(peer) == _PEER_CHARS else None  # the length first: long garbage must not fill the cache
    return None if key is None else key.public_bytes_raw()


@lru_cache(maxsize=limits.VIEW_PEERS)
def _key_of(peer: PeerId) -> Ed25519PublicKey | None:
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        return None
    # base58 forgives trailing spaces, but 51 characters cannot give these 38 bytes: one peer has one name.
    if not raw.startswith(_PREFIX) or len(raw) != len(_PREFIX) + KEY_BYTES:
        return None
    return Ed25519PublicKey.from_public_bytes(raw[len(_PREFIX) :])


def _signed_bytes(domain: bytes, run: bytes, payload: bytes) -> bytes:
    assert domain
    assert b"\0" not in domain
    assert len(run) == DIGEST_BYTES
    return domain + b"\0" + run + payload
