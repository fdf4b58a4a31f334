"""How to add many sign vectors at once: a list of bit-sliced operations, the same for every block of parameters.

With b the bits of a stream (flipped if c < 0), sum c z = 2 sum |c| b - sum |c|. The sum over b is kept as bit planes:
bit j of word w of plane k has weight 2^k in the count of parameter 64 w + j. Each set bit k of each |c| is one input of
weight 2^k; carry-save adders take 8 (at the end 4, 2 or 1) inputs of one weight into the planes and leave one carry.
This is Harley and Seal's population count, turned by 90 degrees. A plan is made once a batch, and costs nothing beside
its execution in all the blocks.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from verify.jit import jit

Operations: TypeAlias = NDArray[np.int32]  # (n, COLUMNS)
Ints: TypeAlias = NDArray[np.int32]

PLANES: Final = 24  # bits of a count: sum |c| of a batch stays below 2^24
INPUTS: Final = 8  # of the widest adder
ROWS: Final = PLANES + 3  # an adder of 8 names two planes above its own, which stay zero there
SLOTS: Final = INPUTS * ROWS  # rows for what waits: at most 7 of each weight, one just made, one carry
COLUMNS: Final = 3 + INPUTS  # inputs, weight, slot of the carry, slots of the inputs; or GENERATE, record, slot
GENERATE: Final = 0


def room(records: int) -> Operations:
    """For a plan: a word for each record, and an adder for every 7 of its at most 24 inputs."""
    return np.empty((5 * records + 4 * ROWS, COLUMNS), dtype=np.int32)


@jit
def plan(magnitudes: NDArray[np.int64], operations: Operations) -> int:
    """Fill `operations` for |c| (n,); how many. Slots are rows ROWS .. ROWS + SLOTS of a block's scratch."""
    waiting = np.zeros((ROWS + 3, INPUTS + 1), dtype=np.int32)  # by weight: how many, and their slots
    uses = np.zeros(ROWS + SLOTS, dtype=np.int32)
    free = np.arange(ROWS + SLOTS, ROWS - 1, -1).astype(np.int32)  # a stack, so that few slots stay in the cache;
    free[0] = SLOTS  # its height comes first
    count = 0
    for record in range(len(magnitudes)):
        if magnitudes[record] == 0:
            continue
        slot = _take(free)
        operations[count, 0] = GENERATE
        operations[count, 1] = record
        operations[count, 2] = slot
        count += 1
        uses[slot] = 1  # for as long as it enters: the first adder must not free it
        for weight in range(PLANES):
            if (magnitudes[record] >> weight) & 1:
                uses[slot] += 1
                count = _enter(slot, weight, operations, count, waiting, uses, free)
        _release(slot, uses, free)
    for weight in range(ROWS):
        for inputs in (4, 2, 1):
            if waiting[weight, 0] >= inputs:
                count = _add(inputs, weight, operations, count, waiting, uses, free)
                carry = operations[count - 1, 2]
                count = _enter(carry, weight + _carried(inputs), operations, count, waiting, uses, free)
    return count


@jit
def _enter(slot: int, weight: int, operations: Operations, count: int, waiting: Ints, uses: Ints, free: Ints) -> int:
    """Eight of one weight make a carry, which may be the eighth of its own weight."""
    while True:
        if weight >= PLANES:  # the sum has no such bit: the carry is zero
            _release(slot, uses, free)
            return count
        waiting[weight, 0] += 1
        waiting[weight, waiting[weight, 0]] = slot
        if waiting[weight, 0] < INPUTS:
            return count
        count = _add(INPUTS, weight, operations, count, waiting, uses, free)
        slot = operations[count - 1, 2]
        weight += _carried(INPUTS)


@jit
def _add(inputs: int, weight: int, operations: Operations, count: int, waiting: Ints, uses: Ints, free: Ints) -> int:
    """An adder of the last inputs of a weight."""
    carry = _take(free)  # before the inputs are released: an adder must not write what it reads
    uses[carry] = 1
    operations[count, 0] = inputs
    operations[count, 1] = weight
    operations[count, 2] = carry
    for i in range(inputs):
        slot = waiting[weight, waiting[weight, 0]]
        operations[count, 3 + i] = slot
        waiting[weight, 0] -= 1
        _release(slot, uses, free)
    return count + 1


@jit
def _carried(inputs: int) -> int:
    """How many weights above its inputs an adder's carry is: it has a plane for each in between."""
    if inputs == 8:
        return 3
    return 2 if inputs == 4 else 1


@jit
def _take(free: Ints) -> int:
    slot: int = free[free[0]]
    free[0] -= 1
    return slot


@jit
def _release(slot: int, uses: Ints, free: Ints) -> None:
    uses[slot] -= 1
    if uses[slot] == 0:
        free[0] += 1
        free[free[0]] = slot
