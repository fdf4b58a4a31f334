"""Hashes of token sequences: greedy decoding gives equal tokens on honest machines, but where two tokens are nearly
equally likely, another machine's last bits may choose the other.

So a verifier decodes with a beam search of n and accepts whatever is among its n best ("Generative Artificial
Intelligence Consensus in a Trustless Network", arXiv 2307.01898: n-way beam search reached full consensus). Only the
digest of the claimed sequence is needed, so it can be accepted or not before it is revealed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from verify.digest import Digest, digest_of


def digest_of_tokens(tokens: Sequence[int]) -> Digest:
    """Of the tokens as little-endian uint32. Raises ValueError unless each is one."""
    try:
        return digest_of(struct.pack(f"<{len(tokens)}I", *tokens))
    except struct.error as error:
        raise ValueError(f"a token is a number from 0 to {2**32 - 1}") from error


def among_beams(claimed: Digest, beams: Iterable[Sequence[int]]) -> bool:
    """Whether the claim is one of the verifier's own n best sequences. A wider beam forgives more."""
    return any(digest_of_tokens(beam) == claimed for beam in beams)
