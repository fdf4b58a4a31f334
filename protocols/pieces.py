"""Where a large model is cut, so that a peer need not be sent all of it (DivShare, arXiv 2410.12918).

A blob of the run is cut into pieces that follow each other, as even as whole values allow; the first has the header
too. Each is named by the digest of its bytes and fetched as a blob of its own. Invariant: the cut is a pure function
of the manifest, so that a piece has one right size everywhere, and the pieces joined are the blob.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocols import limits

FRAGMENTS: Final = 64  # of a model: their digests take 2 KiB of an announcement
LEAST_BYTES: Final = limits.KIB  # of a piece: the question before it and its digest take some hundred
ALIGNED: Final = 8  # bytes: a header's multiple (safetensors), so that no value is cut in two


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes start .. end - 1 of a blob."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def spans(size: int, fragments: int) -> tuple[Span, ...]:
    """Of the pieces of a blob of `size` bytes: as many as asked for, or fewer where these would be too small."""
    count = max(1, min(fragments, size // LEAST_BYTES))
    cuts = [size // ALIGNED * index // count * ALIGNED for index in range(count)]
    return tuple(map(Span, cuts, [*cuts[1:], size]))
