"""What makes an update suspect beside another of the same parent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.lsh import NO_NORM, NORMS_PER_OCTAVE, Signature
from verify.probe import LEARNED, LONGER, OPPOSED, suspects, suspicious
from verify.simhash import signature

SEED = bytes(range(32))
DRAW = np.random.default_rng(0)
OWN = DRAW.standard_normal(2000).astype(np.float32)
ASIDE = DRAW.standard_normal(2000).astype(np.float32)
FIRST = signature(OWN, SEED).norm


def at(cosine: float, length: float = 1.0) -> Signature:
    """Of an update at that angle to OWN."""
    update = length * (cosine * OWN + np.sqrt(1.0 - cosine**2) * ASIDE)
    return signature(update.astype(np.float32), SEED)


@pytest.mark.parametrize(("cosine", "suspect"), [(1.0, False), (0.0, False), (-0.3, False), (-0.7, True), (-1.0, True)])
def test_who_goes_the_other_way(cosine: float, suspect: bool) -> None:
    assert suspects(at(1.0), at(cosine), FIRST) is suspect


@pytest.mark.parametrize(("length", "suspect"), [(0.01, False), (1.0, False), (3.0, False), (5.0, True), (10.0, True)])
def test_who_goes_much_further(length: float, suspect: bool) -> None:
    assert suspects(at(1.0), at(0.5, length), FIRST) is suspect


def bits(count: int, norm: int = 0) -> Signature:
    return Signature(((1 << count) - 1).to_bytes(32, "little"), norm)


def test_the_bounds_themselves_are_honest() -> None:
    own = bits(0)
    assert not suspects(own, bits(OPPOSED, LONGER), 0)
    assert suspects(own, bits(OPPOSED + 1), 0)
    assert suspects(own, bits(0, LONGER + 1), 0)
    assert not suspects(own, bits(0, -10 * NORMS_PER_OCTAVE), 0)  # a short step harms nobody


def test_whose_own_data_are_learned_has_no_say_on_who_still_learns() -> None:
    """On mnist honest updates were 180 times as long as those of auditors whose own data were learned."""
    learned, first = bits(0, -6 * NORMS_PER_OCTAVE), 0
    assert not suspects(learned, bits(OPPOSED + 1, LONGER), first)
    assert suspects(learned, bits(0, LONGER + 1), first)
    assert suspects(bits(0, -LEARNED), bits(OPPOSED + 1), first)
    assert not suspects(bits(0, -LEARNED - 1), bits(OPPOSED + 1), first)


def test_with_uneven_data_an_update_may_be_longer_than_the_first() -> None:
    assert not suspects(bits(0, LONGER), bits(0, 2 * LONGER), 0)


def test_who_claims_more_steps_may_go_further_for_them() -> None:
    assert not suspects(bits(0), bits(0, LONGER + NORMS_PER_OCTAVE), 0, times=2.0)
    assert suspects(bits(0), bits(0, LONGER + NORMS_PER_OCTAVE + 1), 0, times=2.0)
    assert not suspects(bits(0), bits(0, LONGER), 0, times=0.1)


@given(
    st.builds(bits, st.integers(0, 256), st.integers(-500, 500) | st.just(NO_NORM)),
    st.builds(bits, st.integers(0, 256), st.integers(-500, 500) | st.just(NO_NORM)),
    st.integers(-500, 500) | st.just(NO_NORM),
    st.floats(0.0, 1e6),
)
def test_what_somebody_suspects_could_be_suspected(
    own: Signature, claimed: Signature, first: int, times: float
) -> None:
    """So a vote that is honest is always borne out by what it publishes."""
    assert not suspects(own, claimed, first, times) or suspicious(own, claimed)


def test_nothing_at_all_is_suspect_unless_there_was_nothing_to_learn() -> None:
    nothing = bits(0, NO_NORM)
    assert suspects(bits(0), nothing, 0)
    assert not suspects(nothing, nothing, 0)
    assert not suspects(nothing, bits(256, LONGER), 0)  # an auditor that finds nothing has no direction
