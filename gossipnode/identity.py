"""Who this node is: one Ed25519 key in a PKCS#8 PEM file that only its owner may read.

The key is the peer id, so losing the file loses the node's place in the swarm, and two nodes with one file are one
equivocating peer. It is created once, whole, and never overwritten. Below the key it names the peer: any 32 bytes are a
key, so without that a flipped bit would make another peer of us. The key of a private network is read under the same
rules, from libp2p's own file format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gossipnode.errors import OperatorError, reason
from gossipnode.files import create_whole, read_secret
from protocols.signatures import Signer

if TYPE_CHECKING:
    from pathlib import Path

    from sampling.peers import PeerId

_SWARM_KEY: Final = re.compile(rb"\s*/key/swarm/psk/1\.0\.0/\s+/base16/\s+([0-9a-fA-F]{64})\s*")
_PEER: Final = re.compile(rb"^peer (.*)$", re.MULTILINE)
_REMEDY: Final = "restore it from a copy, or remove it to become a new peer"


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """`seed` (32 bytes) is the secret itself, for libp2p's key pair; it is kept out of every repr."""

    signer: Signer
    seed: bytes

    @classmethod
    def of(cls, key: Ed25519PrivateKey) -> Identity:
        return cls(Signer(key), key.private_bytes_raw())

    @property
    def peer(self) -> PeerId:
        return self.signer.peer

    def __repr__(self) -> str:
        return f"Identity({self.peer})"


def load_identity(path: Path) -> Identity:
    """Raises OperatorError unless the file holds an Ed25519 key that only its owner may read."""
    pem = read_secret(path, "identity")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:  # so `cryptography` says that the key is encrypted
        raise OperatorError(f"the identity {path} is encrypted; gossipnode needs it without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OperatorError(f"the identity {path} is not a private key in PEM; {_REMEDY}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OperatorError(f"the identity {path} is not an Ed25519 key; {_REMEDY}")
    identity = Identity.of(key)
    if (named := _PEER.search(pem)) is not None and named[1].decode("ascii", "replace").strip() != identity.peer:
        raise OperatorError(f"the identity {path} is damaged: its key is not that of the peer it names; {_REMEDY}")
    return identity


def create_identity(path: Path) -> Identity:
    """A new key, durable on disk with mode 0600. Raises OperatorError, also if the file exists."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        create_whole(path, pem + f"peer {Identity.of(key).peer}\n".encode(), mode=0o600)
    except FileExistsError as error:
        raise OperatorError(f"the identity {path} exists already; it is never overwritten") from error
    except OSError as error:
        raise OperatorError(f"cannot create the identity {path}: {reason(error)}") from error
    return Identity.of(key)


def load_network_key(path: Path) -> bytes:
    """The 32 bytes that every node of a private network shares. Raises OperatorError."""
    match = _SWARM_KEY.fullmatch(read_secret(path, "swarm key"))
    if match is None:
        raise OperatorError(
            f"the swarm key {path} must have three lines: /key/swarm/psk/1.0.0/, /base16/ and 64 hex digits"
        )
    return bytes.fromhex(match[1].decode("ascii"))
