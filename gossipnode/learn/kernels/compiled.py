"""The kernels as numba compiles them: loops over the words of a block, so that vector instructions run across words.

LLVM makes them fast, on whatever vector unit there is; integers make them exact. numba computes int64 with uint64 as
float64, so every constant here has its type. Nothing allocates but `add_batch`, once a call, its scratch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.learn.kernels.plan import GENERATE, ROWS, SLOTS, Operations
from gossipnode.learn.kernels.signs import GAMMA, MIX1, MIX2, Accumulated, Bytes, Floats, Words
from verify.jit import jit

BLOCK: Final = 256  # words: a row is 2 KB, and the seventy or so that are in use fit a second-level cache
_GAMMA: Final = np.uint64(GAMMA)
_MIX1: Final = np.uint64(MIX1)
_MIX2: Final = np.uint64(MIX2)
_S27: Final = np.uint64(27)
_S30: Final = np.uint64(30)
_S31: Final = np.uint64(31)
_ONE: Final = np.uint64(1)
_U1, _U2, _U4 = np.uint64(1), np.uint64(2), np.uint64(4)
_U8, _U16, _U32 = np.uint64(8), np.uint64(16), np.uint64(32)
_BITS1: Final = np.uint64(0x5555555555555555)
_BITS2: Final = np.uint64(0x3333333333333333)
_BITS4: Final = np.uint64(0x0F0F0F0F0F0F0F0F)
_BITS8: Final = np.uint64(0x00FF00FF00FF00FF)
_BITS16: Final = np.uint64(0x0000FFFF0000FFFF)
_BITS32: Final = np.uint64(0x00000000FFFFFFFF)
_I1, _TWO, _I8, _I16 = np.int32(1), np.int32(2), np.int32(8), np.int32(16)


@jit
def mixed(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@jit
def generate(row: Words, seed: np.uint64, first: np.uint64, flip: np.uint64, count: int) -> None:
    start = seed + (first + _ONE) * _GAMMA
    for w in range(count):
        row[w] = mixed(start + np.uint64(w) * _GAMMA) ^ flip


@jit
def add1(p0: Words, carry: Words, a: Words, count: int) -> None:
    for w in range(count):
        carry[w] = p0[w] & a[w]
        p0[w] ^= a[w]


@jit
def add2(p0: Words, carry: Words, a: Words, b: Words, count: int) -> None:
    for w in range(count):
        x = p0[w] ^ a[w]
        carry[w] = (p0[w] & a[w]) | (x & b[w])
        p0[w] = x ^ b[w]


@jit
def add4(p0: Words, p1: Words, carry: Words, a: Words, b: Words, c: Words, d: Words, count: int) -> None:
    for w in range(count):
        x = p0[w] ^ a[w]
        two = (p0[w] & a[w]) | (x & b[w])
        one = x ^ b[w]
        x = one ^ c[w]
        other = (one & c[w]) | (x & d[w])
        p0[w] = x ^ d[w]
        x = p1[w] ^ two
        carry[w] = (p1[w] & two) | (x & other)
        p1[w] = x ^ other


@jit
def add8(
    p0: Words, p1: Words, p2: Words, carry: Words,
    a: Words, b: Words, c: Words, d: Words, e: Words, f: Words, g: Words, h: Words, count: int,
) -> None:  # fmt: skip
    for w in range(count):
        x = p0[w] ^ a[w]
        two1 = (p0[w] & a[w]) | (x & b[w])
        one = x ^ b[w]
        x = one ^ c[w]
        two2 = (one & c[w]) | (x & d[w])
        one = x ^ d[w]
        x = one ^ e[w]
        two3 = (one & e[w]) | (x & f[w])
        one = x ^ f[w]
        x = one ^ g[w]
        two4 = (one & g[w]) | (x & h[w])
        p0[w] = x ^ h[w]
        x = p1[w] ^ two1
        four1 = (p1[w] & two1) | (x & two2)
        two = x ^ two2
        x = two ^ two3
        four2 = (two & two3) | (x & two4)
        p1[w] = x ^ two4
        x = p2[w] ^ four1
        carry[w] = (p2[w] & four1) | (x & four2)
        p2[w] = x ^ four2


@jit
def run(
    operations: Operations, rows: NDArray[np.uint64], seeds: Words, flips: Words, first: np.uint64, count: int
) -> None:
    """Fill planes 0 .. PLANES of one block of `count` words; scratch `rows` (ROWS + SLOTS, BLOCK)."""
    rows[:ROWS] = np.uint64(0)
    for o in range(len(operations)):
        at = operations[o]
        inputs, k, carry = at[0], at[1], rows[at[2]]
        if inputs == GENERATE:
            generate(carry, seeds[k], first, flips[k], count)
        elif inputs == 8:
            add8(
                rows[k], rows[k + 1], rows[k + 2], carry, rows[at[3]], rows[at[4]], rows[at[5]], rows[at[6]],
                rows[at[7]], rows[at[8]], rows[at[9]], rows[at[10]], count,
            )  # fmt: skip
        elif inputs == 4:
            add4(rows[k], rows[k + 1], carry, rows[at[3]], rows[at[4]], rows[at[5]], rows[at[6]], count)
        elif inputs == 2:
            add2(rows[k], carry, rows[at[3]], rows[at[4]], count)
        else:
            add1(rows[k], carry, rows[at[3]], count)


@jit
def swapped(a: np.uint64, b: np.uint64, shift: np.uint64, mask: np.uint64) -> tuple[np.uint64, np.uint64]:
    x = ((a >> shift) ^ b) & mask
    return a ^ (x << shift), b ^ x


@jit
def transpose(p: NDArray[np.uint64], t: NDArray[np.uint64], count: int) -> None:
    """Eight planes to bytes: byte i of t[m, w] is made of bit 8 m + i of each plane's word w."""
    for w in range(count):
        a, b, c, d = p[0, w], p[1, w], p[2, w], p[3, w]
        e, f, g, h = p[4, w], p[5, w], p[6, w], p[7, w]
        # Bits, within each group of eight across the words: neighbours, then pairs, then fours.
        a, b = swapped(a, b, _U1, _BITS1)
        c, d = swapped(c, d, _U1, _BITS1)
        e, f = swapped(e, f, _U1, _BITS1)
        g, h = swapped(g, h, _U1, _BITS1)
        a, c = swapped(a, c, _U2, _BITS2)
        b, d = swapped(b, d, _U2, _BITS2)
        e, g = swapped(e, g, _U2, _BITS2)
        f, h = swapped(f, h, _U2, _BITS2)
        a, e = swapped(a, e, _U4, _BITS4)
        b, f = swapped(b, f, _U4, _BITS4)
        c, g = swapped(c, g, _U4, _BITS4)
        d, h = swapped(d, h, _U4, _BITS4)
        # Bytes, likewise, so that each word holds eight parameters that follow each other.
        a, b = swapped(a, b, _U8, _BITS8)
        c, d = swapped(c, d, _U8, _BITS8)
        e, f = swapped(e, f, _U8, _BITS8)
        g, h = swapped(g, h, _U8, _BITS8)
        a, c = swapped(a, c, _U16, _BITS16)
        b, d = swapped(b, d, _U16, _BITS16)
        e, g = swapped(e, g, _U16, _BITS16)
        f, h = swapped(f, h, _U16, _BITS16)
        t[0, w], t[4, w] = swapped(a, e, _U32, _BITS32)
        t[1, w], t[5, w] = swapped(b, f, _U32, _BITS32)
        t[2, w], t[6, w] = swapped(c, g, _U32, _BITS32)
        t[3, w], t[7, w] = swapped(d, h, _U32, _BITS32)


@jit
def interleave(t: NDArray[np.uint64], bytes_: Words, count: int) -> None:
    """bytes_[8 w + m] = t[m, w]: parameter i of the block is byte i."""
    for w in range(count):
        for m in range(8):
            bytes_[8 * w + m] = t[m, w]


@jit
def widen1(a: Accumulated, b0: Bytes, total: np.int32) -> None:
    for i in range(len(a)):
        a[i] += np.int32(b0[i]) * _TWO - total


@jit
def widen2(a: Accumulated, b0: Bytes, b1: Bytes, total: np.int32) -> None:
    for i in range(len(a)):
        a[i] += (np.int32(b0[i]) | (np.int32(b1[i]) << _I8)) * _TWO - total


@jit
def widen3(a: Accumulated, b0: Bytes, b1: Bytes, b2: Bytes, total: np.int32) -> None:
    for i in range(len(a)):
        a[i] += (np.int32(b0[i]) | (np.int32(b1[i]) << _I8) | (np.int32(b2[i]) << _I16)) * _TWO - total


@jit
def add_batch(a: Accumulated, operations: Operations, seeds: Words, flips: Words, total: int, begin: int) -> None:
    """a[i] += sum c z for a piece of A that begins with word `begin`. `total` is sum |c| < 2^PLANES."""
    rows = np.empty((ROWS + SLOTS, BLOCK), dtype=np.uint64)
    t = np.empty((8, BLOCK), dtype=np.uint64)
    words = np.empty((3, 8 * BLOCK), dtype=np.uint64)
    counts = words.view(np.uint8)
    sum32 = np.int32(total)
    for at in range(0, len(a), 64 * BLOCK):
        piece = a[at : at + 64 * BLOCK]
        count = (len(piece) + 63) // 64
        run(operations, rows, seeds, flips, np.uint64(begin + at // 64), count)
        for group in range(3):
            if group == 0 or total >> (8 * group):
                transpose(rows[8 * group : 8 * group + 8], t, count)
                interleave(t, words[group], count)
        if total < 1 << 8:
            widen1(piece, counts[0], sum32)
        elif total < 1 << 16:
            widen2(piece, counts[0], counts[1], sum32)
        else:
            widen3(piece, counts[0], counts[1], counts[2], sum32)


@jit
def add_one(a: Accumulated, seed: np.uint64, coefficient: np.int32, begin: int) -> None:
    """a[i] += c z for a piece of A that begins with word `begin`."""
    row = np.empty(BLOCK, dtype=np.uint64)
    halves = row.view(np.uint32)
    double = np.int32(2) * coefficient
    for at in range(0, len(a), 64 * BLOCK):
        piece = a[at : at + 64 * BLOCK]
        generate(row, seed, np.uint64(begin + at // 64), np.uint64(0), (len(piece) + 63) // 64)
        whole = len(piece) // 32
        for half in range(whole):
            bits = np.int32(halves[half])
            part = piece[32 * half : 32 * half + 32]
            for j in range(32):
                part[j] += (-((bits >> np.int32(j)) & _I1) & double) - coefficient
        for j in range(len(piece) - 32 * whole):
            bits = np.int32(halves[whole])
            piece[32 * whole + j] += (-((bits >> np.int32(j)) & _I1) & double) - coefficient


@jit
def perturb(
    out: Floats, theta0: Floats, a: Accumulated, quantum: np.float32, seed: np.uint64, eps: np.float32, begin: int
) -> None:
    """out = theta0 + quantum A + eps z, of a piece that begins with word `begin`. quantum is a power of two, so the
    product is exact and a fused multiply-add rounds as two operations do."""
    row = np.empty(BLOCK, dtype=np.uint64)
    halves = row.view(np.uint32)
    for at in range(0, len(a), 64 * BLOCK):
        n = min(len(a) - at, 64 * BLOCK)
        o, t, p = out[at : at + n], theta0[at : at + n], a[at : at + n]
        generate(row, seed, np.uint64(begin + at // 64), np.uint64(0), (n + 63) // 64)
        whole = n // 32
        for half in range(whole):
            bits = np.int32(halves[half])
            lo = 32 * half
            oo, tt, pp = o[lo : lo + 32], t[lo : lo + 32], p[lo : lo + 32]
            for j in range(32):
                sign = np.float32(np.int32(((bits >> np.int32(j)) & _I1) * _TWO) - _I1)
                oo[j] = tt[j] + quantum * np.float32(pp[j]) + eps * sign
        for j in range(32 * whole, n):
            bits = np.int32(halves[whole])
            sign = np.float32(np.int32(((bits >> np.int32(j - 32 * whole)) & _I1) * _TWO) - _I1)
            o[j] = t[j] + quantum * np.float32(p[j]) + eps * sign


@jit
def materialise(out: Floats, theta0: Floats, a: Accumulated, quantum: np.float32) -> None:
    """out = theta0 + quantum A."""
    for i in range(len(a)):
        out[i] = theta0[i] + quantum * np.float32(a[i])
