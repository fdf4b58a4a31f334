"""Whether peers that were asked one question give one answer: which of their outputs agree, and whether most do.

Honest hardware differs in the last bits, so outputs are compared by their signatures (`verify.lsh`) within the run's
tolerance, and by the class that each names ("Generative Artificial Intelligence Consensus in a Trustless Network",
arXiv 2307.01898: a majority of three). Where each has a model of its own, classes are all there is to
compare. The seed must be drawn after the outputs are known. Pure.
Invariant: outputs that agree with at least one other are a majority only together with it; of several the largest
group counts, and a tie is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verify.lsh import Tolerance, agrees
from verify.simhash import Floats, signature


def scores_of(output: bytes, rows: int) -> Floats | None:
    """(rows, C), or None if these bytes are no finite scores of so many examples."""
    if not output or len(output) % (4 * rows):
        return None
    scores = np.frombuffer(output, dtype="<f4").astype(np.float32).reshape(rows, -1)
    return scores if np.isfinite(scores).all() else None


def same(a: Floats, b: Floats, seed: bytes, tolerance: Tolerance | None) -> bool:
    """The same class of every example and, if there is a tolerance, near enough as vectors."""
    if a.shape != b.shape or (a.argmax(1) != b.argmax(1)).any():
        return False
    if tolerance is None:
        return True
    try:
        return agrees(signature(a.ravel(), seed), signature(b.ravel(), seed), tolerance)
    except ValueError:  # beyond what a signature can hold: nobody honest gives such scores
        return False


def majority(outputs: Sequence[Floats | None], panel: int, seed: bytes, tolerance: Tolerance | None) -> tuple[int, ...]:
    """Those of the outputs that agree with one of them, it first, if they are more than half of the panel; else ()."""
    best: tuple[int, ...] = ()
    for index, mine in enumerate(outputs):
        near = [
            other
            for other, theirs in enumerate(outputs)
            if other != index and mine is not None and theirs is not None and same(mine, theirs, seed, tolerance)
        ]
        if len(near) + 1 > max(len(best), panel // 2):
            best = (index, *near)
    return best
