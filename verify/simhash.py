"""SimHash of float32 vectors in one pass: a count sketch of rotated rows, then mixed (Charikar 2002; Charikar, Chen and
Farach-Colton 2004; Ailon and Chazelle 2006 for the mixing).

A row is 256 values. Each value gets a random sign, and the row is added to 256 bins, rotated by an offset of its own.
Two rounds of random signs and a Hadamard transform then spread what few bins hold over all: without them the bins that
two sparse vectors leave empty agree, and 8 non-zeros at a right angle look nearly parallel. A bit is the sign of a bin,
and the bins together are as long as the vector, within 4.4 % (that is one standard deviation, or less).
Invariant: the same bytes on every machine, with numba or without. Every sum runs in the order of the rows, in float32
over a block and then in float64; the only products are by a sign, so that a fused multiply-add changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.jit import COMPILES, jit
from verify.lsh import BITS, NO_NORM, NORMS_PER_OCTAVE, SEED_BYTES, Signature

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]
Halves: TypeAlias = NDArray[np.uint32]

ROW: Final = BITS
ROWS: Final = 256  # in a block: float32 sums of so many terms are good to six digits
BLOCK: Final = ROW * ROWS
ROUNDS: Final = 2  # of mixing: one leaves vectors of two non-zeros with a standard deviation of 0.2
WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # of the butterflies of a Hadamard transform of ROW
_WORDS: Final = ROW // 64  # of random signs, a row
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)  # splitmix64 (Steele, Lea, Flood 2014): 2^64 / golden ratio
_MIX1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX2: Final = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S56 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(56)
_ONE: Final = np.uint64(1)
_FEW: Final = np.uint64(_WORDS)
_I1, _I2 = np.int32(1), np.int32(2)
NOTHING: Final = np.zeros(0, dtype=np.float32)
_STEPS: Final = tuple(2.0 ** (2 * step / NORMS_PER_OCTAVE) / 2 for step in range(NORMS_PER_OCTAVE // 2))


class Sketch:
    """Of one vector, handed in piece by piece; how it is cut does not matter."""

    def __init__(self, seed: bytes, *, compiled: bool = COMPILES) -> None:
        assert len(seed) == SEED_BYTES
        self._signs, self._turns = _stream(seed, b"signs"), _stream(seed, b"turns")
        self._mixing = _stream(seed, b"mixing")
        self._add_rows = add_rows if compiled else add_rows_plainly
        self._bins = np.zeros(2 * ROW, dtype=np.float64)  # what is rotated beyond ROW belongs to bin 0 and on
        self._block = np.zeros(BLOCK, dtype=np.float32)
        self._filled = 0  # of the block
        self._blocks = 0  # before it

    @np.errstate(over="ignore", invalid="ignore")  # `signature` refuses what overflows
    def add(self, values: Floats, parent: Floats = NOTHING) -> None:
        """The next values, or what they are beyond those of `parent`; (n,) each."""
        assert values.dtype == np.float32
        assert len(parent) in (0, len(values))
        at = 0
        while at < len(values):
            end = min(at + BLOCK - self._filled, len(values))
            self._fill(values[at:end], parent[at:end])
            at = end

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused here, in one place
    def signature(self) -> Signature:
        """Raises ValueError if a value, or a sum of a block's, was beyond float32. Nothing can be added then."""
        self._block[self._filled :] = 0
        self._add(self._block[: -(-self._filled // ROW) * ROW])
        bins = self._bins[:ROW] + self._bins[ROW:]
        if not np.isfinite(bins).all():
            raise ValueError("a value is not finite, or too large")
        if not bins.any():
            return Signature(bytes(BITS // 8), NO_NORM)
        bits = np.packbits(mixed(bins, self._mixing) > 0, bitorder="little")
        return Signature(bits.tobytes(), log_norm(math.fsum(bins * bins)))

    def _fill(self, values: Floats, parent: Floats) -> None:
        """As many as the block still needs, or the last ones."""
        if len(values) == BLOCK and len(parent) == 0:
            self._add(values)  # as they are: nothing is copied
            return
        part = self._block[self._filled : self._filled + len(values)]
        np.subtract(values, parent if len(parent) else np.float32(0), out=part)
        self._filled = (self._filled + len(values)) % BLOCK
        if self._filled == 0:
            self._add(self._block)

    def _add(self, block: Floats) -> None:
        sums, block = np.zeros(2 * ROW, dtype=np.float32), block.view()
        block.flags.writeable = False  # numba compiles once for arrays that can be written, and once for others
        self._add_rows(sums, block, self._signs, self._turns, self._blocks * ROWS)
        self._bins += sums
        self._blocks += 1


def signature(values: Floats, seed: bytes, parent: Floats = NOTHING) -> Signature:
    """Of values - parent, or of values. Raises ValueError as `Sketch.signature` does."""
    sketch = Sketch(seed)
    sketch.add(values, parent)
    return sketch.signature()


def mixed(bins: Doubles, seed: np.uint64) -> Doubles:
    """ROUNDS times: random signs, then a Hadamard transform, as ROW = 2^8 butterflies in a fixed order. A scale that no
    sign depends on is left out."""
    for round in range(ROUNDS):
        bins = bins * _signs(seed, round * _WORDS)
        for width in WIDTHS:
            before, bins = bins.reshape(-1, 2, width), np.empty_like(bins)
            after = bins.reshape(-1, 2, width)
            np.add(before[:, 0], before[:, 1], out=after[:, 0])
            np.subtract(before[:, 0], before[:, 1], out=after[:, 1])
    return bins


def log_norm(length2: float) -> int:
    """floor(NORMS_PER_OCTAVE log2 sqrt(length2)), by comparison, since logarithms differ between machines."""
    fraction, exponent = math.frexp(length2)  # 1/2 <= fraction < 1
    return (exponent - 1) * len(_STEPS) + bisect_right(_STEPS, fraction) - 1


def _stream(seed: bytes, purpose: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(seed, digest_size=8, person=purpose).digest(), "little"))


# -- the pass over the values, as numba compiles it -----------------------------------------------------------------


@jit
def drawn(seed: np.uint64, index: np.uint64) -> np.uint64:
    """Number `index` of a stream, as splitmix64 makes it."""
    x = seed + (index + _ONE) * _GAMMA
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@jit
def add_signed(bins: Floats, row: Floats, signs: Halves) -> None:
    for half in range(2 * _WORDS):
        bits, low = np.int32(signs[half]), 32 * half
        to, values = bins[low : low + 32], row[low : low + 32]
        for j in range(32):
            to[j] += values[j] * np.float32(np.int32(((bits >> np.int32(j)) & _I1) * _I2) - _I1)


@jit
def add_rows(sums: Floats, values: Floats, signs: np.uint64, turns: np.uint64, first: int) -> None:
    """sums (2 ROW,) += the values as rows from number `first` on, each rotated."""
    words = np.empty(_WORDS, dtype=np.uint64)
    halves = words.view(np.uint32)
    for r in range(len(values) // ROW):
        at = np.uint64(first + r)
        for w in range(_WORDS):
            words[w] = drawn(signs, at * _FEW + np.uint64(w))
        turn = np.int64(drawn(turns, at) >> _S56)
        add_signed(sums[turn : turn + ROW], values[ROW * r : ROW * r + ROW], halves)


# -- the same in numpy, row by row ----------------------------------------------------------------------------------


def add_rows_plainly(sums: Floats, values: Floats, signs: np.uint64, turns: np.uint64, first: int) -> None:
    """What `add_rows` is held to, and what runs where numba is missing: a hundred times slower."""
    for r in range(len(values) // ROW):
        turn = _draw(int(turns), first + r) >> 56
        sums[turn : turn + ROW] += values[ROW * r : ROW * r + ROW] * _signs(signs, (first + r) * _WORDS)


def _signs(seed: np.uint64, first: int) -> Floats:
    """-1 or 1, (ROW,)."""
    words = np.array([_draw(int(seed), first + w) for w in range(_WORDS)], dtype="<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little") * np.float32(2) - np.float32(1)


def _draw(seed: int, index: int) -> int:
    """As `drawn`."""
    mask = 2**64 - 1
    x = (seed + (index + 1) * int(_GAMMA)) & mask
    x = (x ^ (x >> 30)) * int(_MIX1) & mask
    x = (x ^ (x >> 27)) * int(_MIX2) & mask
    return x ^ (x >> 31)
