"""What z(seed) is: the definition that every other implementation is held to, in plain numpy.

z is a vector of -1 and +1. Word i of its stream is the (i+1)-th output of splitmix64 (Steele, Lea, Flood 2014) started
from the seed, so any part of z can be made without the rest; bit j of word i, 1 for +1, is the sign of parameter
64 i + j. Seeds must come from a hash: seeds that differ by a small multiple of GAMMA give shifted copies of one stream.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Accumulated: TypeAlias = NDArray[np.int32]
Signs: TypeAlias = NDArray[np.int8]
Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

WORD: Final = 64  # signs in a word
GAMMA: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the step of the counter
MIX1: Final = 0xBF58476D1CE4E5B9
MIX2: Final = 0x94D049BB133111EB
MASK: Final = 2**64 - 1


def words(seed: int, first: int, count: int) -> Words:
    """Words first .. first + count of the stream, (count,)."""
    start = np.uint64((seed + (first + 1) * GAMMA) & MASK)
    return mixed(start + np.arange(count, dtype=np.uint64) * np.uint64(GAMMA))


def mixed(x: Words) -> Words:
    """splitmix64's output function; in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(MIX1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(MIX2)
    x ^= x >> np.uint64(31)
    return x


def signs(seed: int, length: int) -> Signs:
    """z, (length,)."""
    stream = words(seed, 0, -(-length // WORD)).astype("<u8")
    bits = np.unpackbits(stream.view(np.uint8), bitorder="little")[:length]
    return bits.view(np.int8) * np.int8(2) - np.int8(1)


def reference_sum(seeds: Words, coefficients: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Sum of c z(seed), one term after the other, in 64 bits. What the kernels are tested against."""
    total = np.zeros(length, dtype=np.int64)
    for seed, coefficient in zip(seeds.tolist(), coefficients.tolist(), strict=True):
        total += coefficient * signs(seed, length).astype(np.int64)
    return total
