"""SimHash of float32 vectors in one pass: a count sketch of rotated rows, then mixed (Charikar 2002; Charikar, Chen and
Farach-Colton 2004; Ailon and Chazelle 2006 for the mixing).

A row is 256 values. Each value gets a random sign, and the row is added to 256 bins, rotated by an offset of its own.
Two rounds of random signs and a Hadamard transform then spread what few bins hold over all: without them the bins that
two sparse vectors leave empty agree, and 8 non-zeros at a right angle look nearly parallel. A bit is the sign of a bin.
Invariant: the same bytes on every machine, with numba or without. Every sum runs in the order of the rows, in float32
over FLUSH rows and then in float64; products are exact (by a sign, or a float32 squared in float64), so that a fused
multiply-add changes nothing.
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
FLUSH: Final = 256  # rows: float32 sums of so many terms are good to six digits
ROUNDS: Final = 2  # of mixing: one leaves vectors of two non-zeros with a standard deviation of 0.2
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
        self._table = np.zeros((2, ROW), dtype=np.float64)
        self._partial = np.zeros((2, ROW), dtype=np.float32)  # of the table: what is yet to be flushed
        self._squares = np.zeros(ROW, dtype=np.float64)
        self._rest = NOTHING  # of the last row
        self._rows = 0

    @np.errstate(over="ignore", invalid="ignore")  # `signature` refuses what overflows
    def add(self, values: Floats, parent: Floats = NOTHING) -> None:
        """The next values, or what they are beyond those of `parent`; (n,) each."""
        assert values.dtype == np.float32
        assert len(parent) in (0, len(values))
        start = min(-len(self._rest) % ROW, len(values))
        if start:
            self._rest = np.concatenate([self._rest, _difference(values[:start], parent[:start])])
        if len(self._rest) == ROW:
            self._add(self._rest, NOTHING)
            self._rest = NOTHING
        if len(self._rest) == 0:
            end = len(values) - (len(values) - start) % ROW
            self._add(values[start:end], parent[start:end])
            self._rest = _difference(values[end:], parent[end:])

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused here, in one place
    def signature(self) -> Signature:
        """Raises ValueError if a value, or a sum of FLUSH of them, was beyond float32. Nothing can be added then."""
        padded = np.zeros(ROW, dtype=np.float32)
        padded[: len(self._rest)] = self._rest
        self._add(padded, NOTHING)
        self._table += self._partial
        bins, length2 = self._table[0] + self._table[1], math.fsum(self._squares)
        if not (math.isfinite(length2) and np.isfinite(bins).all()):
            raise ValueError("a value is not finite, or too large")
        bits = np.packbits(mixed(bins, self._mixing) > 0, bitorder="little")
        return Signature(bits.tobytes(), log_norm(length2)) if length2 else Signature(bytes(BITS // 8), NO_NORM)

    def _add(self, values: Floats, parent: Floats) -> None:
        self._add_rows(
            self._table.reshape(-1), self._partial.reshape(-1), self._squares, _fixed(values), _fixed(parent),
            self._signs, self._turns, self._rows,
        )  # fmt: skip
        self._rows += len(values) // ROW


def signature(values: Floats, seed: bytes, parent: Floats = NOTHING) -> Signature:
    """Of values - parent, or of values. Raises ValueError as `Sketch.signature` does."""
    sketch = Sketch(seed)
    sketch.add(values, parent)
    return sketch.signature()


def mixed(bins: Doubles, seed: np.uint64) -> Doubles:
    """ROUNDS times: random signs, then a Hadamard transform, as ROW = 2^8 butterflies in a fixed order. A scale that no
    sign depends on is left out."""
    for round in range(ROUNDS):
        words = np.array([_draw(int(seed), round * _WORDS + w) for w in range(_WORDS)], dtype="<u8")
        bins = bins * (np.unpackbits(words.view(np.uint8), bitorder="little") * 2.0 - 1.0)
        width = 1
        while width < ROW:
            pairs = bins.reshape(-1, 2, width)
            bins = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
            width *= 2
    return bins


def log_norm(length2: float) -> int:
    """floor(NORMS_PER_OCTAVE log2 sqrt(length2)), by comparison, since logarithms differ between machines."""
    fraction, exponent = math.frexp(length2)  # 1/2 <= fraction < 1
    return (exponent - 1) * len(_STEPS) + bisect_right(_STEPS, fraction) - 1


def _stream(seed: bytes, purpose: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(seed, digest_size=8, person=purpose).digest(), "little"))


def _fixed(values: Floats) -> Floats:
    """A view that cannot be written: numba compiles anew for each mix of arrays that can and cannot."""
    view = values.view()
    view.flags.writeable = False
    return view


def _difference(values: Floats, parent: Floats) -> Floats:
    return values - parent if len(parent) else values.copy()


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
def add_squares(squares: Doubles, row: Floats) -> None:
    for j in range(ROW):
        squares[j] += np.float64(row[j]) * np.float64(row[j])


@jit
def subtract(difference: Floats, row: Floats, parent: Floats) -> None:
    for j in range(ROW):
        difference[j] = row[j] - parent[j]


@jit
def flush(table: Doubles, partial: Floats) -> None:
    for j in range(2 * ROW):
        table[j] += np.float64(partial[j])
        partial[j] = np.float32(0)


@jit
def add_rows(
    table: Doubles, partial: Floats, squares: Doubles, values: Floats, parent: Floats,
    signs: np.uint64, turns: np.uint64, first: int,
) -> None:  # fmt: skip
    """values - parent, or values if parent is empty, as rows from number `first` on, all of them whole. table and
    partial are (2 ROW,): what lies beyond ROW belongs to bin 0 and on."""
    words = np.empty(_WORDS, dtype=np.uint64)
    difference = np.empty(ROW, dtype=np.float32)
    for r in range(len(values) // ROW):
        at, low = np.uint64(first + r), ROW * r
        for w in range(_WORDS):
            words[w] = drawn(signs, at * _FEW + np.uint64(w))
        turn = np.int64(drawn(turns, at) >> _S56)
        row = values[low : low + ROW]
        if len(parent):
            subtract(difference, row, parent[low : low + ROW])
            row = difference
        add_signed(partial[turn : turn + ROW], row, words.view(np.uint32))
        add_squares(squares, row)
        if (first + r + 1) % FLUSH == 0:
            flush(table, partial)


# -- the same in numpy, row by row ----------------------------------------------------------------------------------


def add_rows_plainly(
    table: Doubles, partial: Floats, squares: Doubles, values: Floats, parent: Floats,
    signs: np.uint64, turns: np.uint64, first: int,
) -> None:  # fmt: skip
    """What `add_rows` is held to, and what runs where numba is missing: a hundred times slower."""
    for r in range(len(values) // ROW):
        words = np.array([_draw(int(signs), (first + r) * _WORDS + w) for w in range(_WORDS)], dtype="<u8")
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        turn = _draw(int(turns), first + r) >> 56
        row = values[ROW * r : ROW * r + ROW]
        if len(parent):
            row = row - parent[ROW * r : ROW * r + ROW]
        partial[turn : turn + ROW] += row * (bits.view(np.int8) * np.int8(2) - np.int8(1))
        squares += row.astype(np.float64) ** 2
        if (first + r + 1) % FLUSH == 0:
            table += partial
            partial[:] = 0


def _draw(seed: int, index: int) -> int:
    """As `drawn`."""
    mask = 2**64 - 1
    x = (seed + (index + 1) * int(_GAMMA)) & mask
    x = (x ^ (x >> 30)) * int(_MIX1) & mask
    x = (x ^ (x >> 27)) * int(_MIX2) & mask
    return x ^ (x >> 31)
