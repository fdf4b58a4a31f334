"""Content addresses: BLAKE2b-256 of the exact bytes. What a peer names by digest can be checked whoever sends it."""

from __future__ import annotations

import hashlib
from typing import NewType

Digest = NewType("Digest", bytes)

DIGEST_BYTES = 32


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    return Digest(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())


def short(digest: bytes) -> str:
    """Twelve hex digits for logs and tables: 48 bits tell apart every model of a run."""
    return digest.hex()[:12]
