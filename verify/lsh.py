"""Locality-sensitive hashes of what peers compute: equal work, done on other hardware, gives a near hash.

A Signature of a vector is SimHash (Charikar 2002): 256 bits, each the side of a hidden plane on which the vector lies,
so that two vectors at an angle of t radians differ in 256 t / pi of them, within sqrt(256 p (1 - p)); and the
logarithm of its length, because the bits do not see magnitude. `verify.simhash` makes them. Both sides must use one
seed, and that seed must be drawn after the vector was committed to: with a known seed anyone can craft a near hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BITS: Final = 256
NORMS_PER_OCTAVE: Final = 64  # a step of the norm is 1.1 %; coarser steps are what a Tolerance is for
NO_NORM: Final = -(2**15)  # of a vector of zeros, which has no direction either: all its bits are 0
SIGNATURE_BYTES: Final = BITS // 8 + 2
SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Signature:
    """Of a vector, under a seed that whoever compares it knows."""

    bits: bytes
    norm: int  # floor(64 log2 |x|), or NO_NORM

    def __bytes__(self) -> bytes:
        return self.bits + self.norm.to_bytes(2, "little", signed=True)

    @classmethod
    def of(cls, data: bytes) -> Signature:
        """Raises ValueError unless there are SIGNATURE_BYTES. All of those are a signature of something."""
        if len(data) != SIGNATURE_BYTES:
            raise ValueError(f"a signature of {len(data)} bytes, where all have {SIGNATURE_BYTES}")
        return cls(data[:-2], int.from_bytes(data[-2:], "little", signed=True))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart honest results may be: calibrated for a task, never guessed."""

    bits: int
    norm: int  # steps; 1 at least, since equal norms may lie on two sides of a step


def distance(a: Signature, b: Signature) -> int:
    """The bits that differ, 0..256."""
    return (int.from_bytes(a.bits, "little") ^ int.from_bytes(b.bits, "little")).bit_count()


def agrees(a: Signature, b: Signature, tolerance: Tolerance) -> bool:
    """A vector of zeros agrees with nothing else: it is what a node sends that did no work."""
    if NO_NORM in (a.norm, b.norm):
        return a.norm == b.norm
    return distance(a, b) <= tolerance.bits and abs(a.norm - b.norm) <= tolerance.norm
