"""The same kernels in numpy, for machines without numba: the same plan, and to the last bit the same sums.

An operation runs over a whole block at once, in place, so blocks are larger here than the compiled ones: a call of
numpy costs as much as a thousand words.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gossipnode.learn.kernels.plan import GENERATE, ROWS, SLOTS, Operations
from gossipnode.learn.kernels.signs import GAMMA, MASK, WORD, Accumulated, Floats, Words, mixed

BLOCK: Final = 2048  # words
_GAMMAS: Final = np.arange(BLOCK, dtype=np.uint64) * np.uint64(GAMMA)
_ROUNDS: Final = (  # of the transposition: shift, mask, and the pairs of rows that swap
    (1, 0x5555555555555555, ((0, 1), (2, 3), (4, 5), (6, 7))),
    (2, 0x3333333333333333, ((0, 2), (1, 3), (4, 6), (5, 7))),
    (4, 0x0F0F0F0F0F0F0F0F, ((0, 4), (1, 5), (2, 6), (3, 7))),
    (8, 0x00FF00FF00FF00FF, ((0, 1), (2, 3), (4, 5), (6, 7))),
    (16, 0x0000FFFF0000FFFF, ((0, 2), (1, 3), (4, 6), (5, 7))),
    (32, 0x00000000FFFFFFFF, ((0, 4), (1, 5), (2, 6), (3, 7))),
)


def add_batch(a: Accumulated, operations: Operations, seeds: Words, flips: Words, total: int, begin: int) -> None:
    """As in `compiled`."""
    rows = np.empty((ROWS + SLOTS, BLOCK), dtype=np.uint64)
    steps, keys, turned = operations.tolist(), seeds.tolist(), flips.tolist()
    for at in range(0, len(a), WORD * BLOCK):
        piece = a[at : at + WORD * BLOCK]
        count = -(-len(piece) // WORD)
        _run(steps, rows[:, :count], keys, turned, begin + at // WORD)
        piece -= np.int32(total)
        for group in range(3):
            if total >> (8 * group):
                counts = _bytes(rows[8 * group : 8 * group + 8, :count])[: len(piece)].astype(np.int32)
                counts <<= 8 * group + 1
                piece += counts


def add_one(a: Accumulated, seed: np.uint64, coefficient: np.int32, begin: int) -> None:
    """As in `compiled`."""
    for at in range(0, len(a), WORD * BLOCK):
        piece = a[at : at + WORD * BLOCK]
        piece += _signs(int(seed), begin + at // WORD, len(piece)) * coefficient


def perturb(
    out: Floats, theta0: Floats, a: Accumulated, quantum: np.float32, seed: np.uint64, eps: np.float32, begin: int
) -> None:
    """As in `compiled`."""
    for at in range(0, len(a), WORD * BLOCK):
        piece = slice(at, at + WORD * BLOCK)
        materialise(out[piece], theta0[piece], a[piece], quantum)
        z = _signs(int(seed), begin + at // WORD, len(a[piece]))
        out[piece] += z.astype(np.float32) * eps


def materialise(out: Floats, theta0: Floats, a: Accumulated, quantum: np.float32) -> None:
    """As in `compiled`."""
    np.multiply(a, quantum, out=out, dtype=np.float32, casting="unsafe")
    out += theta0


def _signs(seed: int, first: int, length: int) -> Accumulated:
    row = np.empty(-(-length // WORD), dtype=np.uint64)
    _generate(row, seed, first, 0)
    bits = np.unpackbits(row.astype("<u8", copy=False).view(np.uint8), bitorder="little")[:length]
    return (bits.view(np.int8) * np.int8(2) - np.int8(1)).astype(np.int32)


def _generate(row: Words, seed: int, first: int, flip: int) -> None:
    np.add(_GAMMAS[: len(row)], np.uint64((seed + (first + 1) * GAMMA) & MASK), out=row)
    mixed(row)
    if flip:
        np.invert(row, out=row)


def _run(steps: list[list[int]], rows: Words, seeds: list[int], flips: list[int], first: int) -> None:
    """rows: (ROWS + SLOTS, count)."""
    rows[:ROWS] = 0
    scratch = (np.empty_like(rows[0]), np.empty_like(rows[0]))
    for inputs, weight, carry, *slots in steps:
        if inputs == GENERATE:
            _generate(rows[carry], seeds[weight], first, flips[weight])
        else:
            _add([rows[slot] for slot in slots[:inputs]], rows, weight, rows[carry], scratch)


def _add(entering: list[Words], rows: Words, weight: int, carry: Words, scratch: tuple[Words, Words]) -> None:
    """Pairs of one weight leave carries of the next, where they are pairs again. What has entered is used up only
    where it is itself a carry: the first row's inputs may be read by other adders."""
    while len(entering) > 2:
        pairs = zip(entering[::2], entering[1::2], strict=True)
        entering = [_full(rows[weight], a, b, np.empty_like(carry), scratch) for a, b in pairs]
        weight += 1
    if len(entering) == 2:
        _full(rows[weight], entering[0], entering[1], carry, scratch)
    else:
        np.bitwise_and(rows[weight], entering[0], out=carry)
        rows[weight] ^= entering[0]


def _full(plane: Words, a: Words, b: Words, carry: Words, scratch: tuple[Words, Words]) -> Words:
    """plane + a + b = plane' + 2 carry, bit by bit."""
    x, y = scratch
    np.bitwise_xor(plane, a, out=x)
    np.bitwise_and(plane, a, out=y)
    np.bitwise_and(x, b, out=carry)
    carry |= y
    np.bitwise_xor(x, b, out=plane)
    return carry


def _bytes(planes: Words) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Eight planes (8, count) to one byte a parameter, (64 count,). Uses up the planes."""
    for shift, mask, pairs in _ROUNDS:
        for i, j in pairs:
            a, b = planes[i], planes[j]
            x = ((a >> np.uint64(shift)) ^ b) & np.uint64(mask)
            b ^= x
            x <<= np.uint64(shift)
            a ^= x
    return np.ascontiguousarray(planes.T).astype("<u8", copy=False).view(np.uint8).reshape(-1)
