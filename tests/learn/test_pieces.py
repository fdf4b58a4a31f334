"""Models in pieces: cut, checked and merged each where it belongs, whatever its size and whatever a peer sends."""

from __future__ import annotations

import contextlib
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.learn.encoding import Template, Vector, decode, encode
from gossipnode.learn.merge import Shape, merged
from gossipnode.learn.models import Models
from gossipnode.learn.pieces import Cutting, largest
from protocols.learner import Unfit
from protocols.merging import Merging, Rule
from verify.digest import digest_of

LAYOUT = [("a", (3, 400)), ("b", (7,)), ("c", (901,)), ("d.mean", (5,))]
LEARNED = 1200 + 7 + 901
TEMPLATE = Template(LAYOUT, "float32")
SHAPE = Shape(TEMPLATE.lengths, LEARNED)
Float = Literal["float32", "bfloat16"]


def some(n: int, d: int = TEMPLATE.parameters, seed: int = 0) -> Vector:
    return np.random.RandomState(seed).standard_normal((n, d)).astype(np.float32)


def parts(cutting: Cutting, blob: bytes) -> list[bytes]:
    return [blob[piece.span.start : piece.span.end] for piece in cutting.pieces]


@pytest.mark.parametrize("encoding", ["float32", "bfloat16"])
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=5), fragments=st.integers(1, 64))
def test_the_pieces_of_a_model_are_named_and_read_back_whatever_its_shape(
    encoding: Float, lengths: list[int], fragments: int
) -> None:
    template = Template([(f"t{at}", (length,)) for at, length in enumerate(lengths)], encoding)
    cutting, blob = Cutting(template, fragments), encode(some(1, template.parameters)[0], template)
    pieces, vector = parts(cutting, blob), decode(blob, template)
    assert b"".join(pieces) == blob
    assert [name for name, _ in cutting.cut(blob)] == [digest_of(piece) for piece in pieces]
    values = [cutting.read(piece, at) for at, piece in enumerate(pieces)]
    assert np.concatenate(values).tobytes() == vector.tobytes()
    assert [size for _, size in cutting.cut(blob)] == [largest(each) for each in values]


@pytest.mark.parametrize("encoding", ["float32", "bfloat16"])
def test_a_header_may_be_longer_than_a_piece(encoding: Float) -> None:
    template = Template([(f"tensor {at}", (1,)) for at in range(99)], encoding)
    cutting, rows = Cutting(template, 64), some(2, 99)
    own, other = [encode(row, template) for row in rows]
    pieces = parts(cutting, other)
    assert len(template.header) > 3 * len(pieces[0])
    assert [len(cutting.read(piece, at)) for at, piece in enumerate(pieces)][:3] == [0, 0, 0]
    after = cutting.merged(own, [([piece], [1, 1]) for piece in pieces], Merging(rule="median"), Shape([1] * 99, 99))
    expected = merged(
        Models.of([decode(own, template), decode(other, template)]), [1, 1], Merging(rule="median"), Shape([1] * 99, 99)
    )
    assert after == encode(expected, template)


@given(junk=st.binary(max_size=3000), index=st.integers(0, 3))
def test_whatever_a_peer_sends_for_a_piece_is_finite_or_unfit(junk: bytes, index: int) -> None:
    cutting = Cutting(TEMPLATE, 4)
    size = cutting.pieces[index].span.size
    for blob in (junk, junk[:size].ljust(size, b"\xff"), junk[:size].ljust(size, b"\0")):
        with contextlib.suppress(Unfit):
            assert np.isfinite(cutting.read(blob, index)).all()


def test_a_piece_of_another_place_another_size_or_with_a_nan_is_unfit() -> None:
    cutting, vector = Cutting(TEMPLATE, 4), some(1)[0]
    pieces = parts(cutting, encode(vector, TEMPLATE))
    for blob in (pieces[1], pieces[0][:-4], pieces[0] + b"\0\0\0\0"):
        with pytest.raises(Unfit):
            cutting.read(blob, 0)
    with pytest.raises(Unfit, match="not finite"):
        cutting.read(b"\0\0\xc0\x7f" + pieces[2][4:], 2)


# -- merging ----------------------------------------------------------------------------------------------------------


def by_piece(rows: Vector, weights: list[int], rule: Rule, fragments: int, whole: bool = False) -> Vector:
    """The first is our own; of each other every piece came, or all of it at once."""
    cutting = Cutting(TEMPLATE, fragments)
    own, *others = [encode(row, TEMPLATE) for row in rows]
    came = [([each if whole else parts(cutting, each)[at] for each in others], weights) for at in range(fragments)]
    return decode(cutting.merged(own, came, Merging(rule=rule), SHAPE), TEMPLATE)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_with_every_piece_of_all_it_is_the_merge_of_whole_models(rule: Rule, whole: bool) -> None:
    rows, weights = some(5), [1, 2, 3, 4, 5]
    expected = merged(Models.of(rows), weights, Merging(rule=rule), SHAPE)
    assert by_piece(rows, weights, rule, 4, whole).tobytes() == expected.tobytes()


@pytest.mark.parametrize("rule", ["mean", "corrected", "geometric-median", "centred-clipping", "flag"])
def test_only_what_came_moves_and_the_rest_keeps_its_bits(rule: Rule) -> None:
    cutting, rows = Cutting(TEMPLATE, 4), some(3)
    own, *others = [encode(row, TEMPLATE) for row in rows]
    came = [([parts(cutting, each)[at] for each in others], [1, 1, 1]) if at == 2 else ([], []) for at in range(4)]
    after = decode(cutting.merged(own, came, Merging(rule=rule), SHAPE), TEMPLATE)
    low, high = cutting.pieces[2].low, cutting.pieces[2].high
    assert (after != rows[0]).nonzero()[0].min() >= low
    assert (after != rows[0]).nonzero()[0].max() < high
    assert np.count_nonzero(after[low:high] != rows[0][low:high]) > (high - low) / 2


def test_the_variance_is_mended_within_each_part_of_a_tensor() -> None:
    rows = some(9) + some(1, seed=1)  # alike enough, that no stretch meets its bound
    rows[:, :1200] *= 5
    after = by_piece(rows, [1] * 9, "corrected", 4)
    cutting = Cutting(TEMPLATE, 4)
    for piece in cutting.pieces:
        for low, high in ((piece.low, min(piece.high, 1200)), (max(piece.low, 1207), min(piece.high, LEARNED))):
            if high - low > 50:
                expected = np.median(rows[:, low:high].var(axis=1))
                assert after[low:high].var() == pytest.approx(expected, rel=1e-4)


def test_a_part_of_a_shape_has_the_parts_of_its_tensors() -> None:
    assert Shape((4, 3, 5), 7).part(2, 9) == Shape([2, 3, 2], 5)
    assert Shape((4, 3, 5), 7).part(8, 10) == Shape([2], 0)
    assert Shape((4, 3, 5), 7).part(4, 7) == Shape([3], 3)
