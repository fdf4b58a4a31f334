"""What makes an update suspect beside another of the same parent."""

from __future__ import annotations

import numpy as np
import pytest

from verify.lsh import NO_NORM, NORMS_PER_OCTAVE, Signature
from verify.probe import LONGER, OPPOSED, suspects
from verify.simhash import signature

SEED = bytes(range(32))
DRAW = np.random.default_rng(0)
OWN = DRAW.standard_normal(2000).astype(np.float32)
ASIDE = DRAW.standard_normal(2000).astype(np.float32)


def at(cosine: float, length: float = 1.0) -> Signature:
    """Of an update at that angle to OWN."""
    update = length * (cosine * OWN + np.sqrt(1.0 - cosine**2) * ASIDE)
    return signature(update.astype(np.float32), SEED)


@pytest.mark.parametrize(("cosine", "suspect"), [(1.0, False), (0.0, False), (-0.2, False), (-0.6, True), (-1.0, True)])
def test_who_goes_the_other_way(cosine: float, suspect: bool) -> None:
    assert suspects(at(1.0), at(cosine)) is suspect


@pytest.mark.parametrize(("length", "suspect"), [(0.01, False), (1.0, False), (3.0, False), (5.0, True), (10.0, True)])
def test_who_goes_much_further(length: float, suspect: bool) -> None:
    assert suspects(at(1.0), at(0.5, length)) is suspect


def bits(count: int, norm: int = 0) -> Signature:
    return Signature(((1 << count) - 1).to_bytes(32, "little"), norm)


def test_the_bounds_themselves_are_honest() -> None:
    own = bits(0)
    assert not suspects(own, bits(OPPOSED, LONGER))
    assert suspects(own, bits(OPPOSED + 1))
    assert suspects(own, bits(0, LONGER + 1))
    assert not suspects(own, bits(0, -10 * NORMS_PER_OCTAVE))  # a short step harms nobody


def test_nothing_at_all_is_suspect_unless_there_was_nothing_to_learn() -> None:
    nothing = bits(0, NO_NORM)
    assert suspects(bits(0), nothing)
    assert not suspects(nothing, nothing)
    assert not suspects(nothing, bits(256, 1000))  # an auditor that finds nothing has nothing to compare with
