"""Where models are cut: the pieces join to the whole, are as even as can be, and cut no value in two."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocols.pieces import ALIGNED, FRAGMENTS, LEAST_BYTES, spans


@given(size=st.integers(1, 10**12), fragments=st.integers(1, FRAGMENTS))
def test_pieces_join_to_the_whole_and_none_is_too_small(size: int, fragments: int) -> None:
    found = spans(size, fragments)
    assert (found[0].start, found[-1].end) == (0, size)
    assert all(before.end == after.start for before, after in pairwise(found))
    assert all(span.start % ALIGNED == 0 for span in found)
    assert len(found) == max(1, min(fragments, size // LEAST_BYTES))
    if len(found) > 1:
        sizes = [span.size for span in found]
        assert max(sizes) - min(sizes) <= 2 * ALIGNED
        assert min(sizes) > LEAST_BYTES - ALIGNED


def test_where_they_are_cut_is_fixed() -> None:
    assert [(span.start, span.end) for span in spans(4100, 4)] == [(0, 1024), (1024, 2048), (2048, 3072), (3072, 4100)]
    assert len(spans(2047, 64)) == 1
