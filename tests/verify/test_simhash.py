from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from verify.lsh import BITS, NO_NORM, SIGNATURE_BYTES, Signature, Tolerance, agrees, distance
from verify.simhash import Floats, Sketch, log_norm, signature

SEED = bytes(range(32))


def normal(length: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def rotated(x: Floats, radians: float, seed: int = 1) -> Floats:
    """A vector of the same length at that angle."""
    one = x.astype(np.float64)
    other = np.random.default_rng(seed).standard_normal(len(x))
    other -= one * (other @ one) / (one @ one)
    other *= np.linalg.norm(one) / np.linalg.norm(other)
    return (math.cos(radians) * one + math.sin(radians) * other).astype(np.float32)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 4_810, 100_003])
def test_numba_and_numpy_agree_to_the_bit(length: int) -> None:
    x, parent = normal(length), normal(length, 1)
    found = []
    for compiled in (True, False):
        sketch = Sketch(SEED, compiled=compiled)
        sketch.add(x, parent)
        found.append(sketch.signature())
    assert found[0] == found[1]


@pytest.mark.parametrize("cuts", [[1], [255, 256], [256, 300, 301, 5_000], [70_000], [0, 0, 99_999]])
def test_how_a_vector_is_cut_does_not_matter(cuts: list[int]) -> None:
    x, parent = normal(100_003), normal(100_003, 1)
    sketch = Sketch(SEED)
    for low, high in pairwise([0, *cuts, len(x)]):
        sketch.add(x[low:high], parent[low:high])
    assert sketch.signature() == signature(x, SEED, parent)


def test_an_update_is_the_difference() -> None:
    x, parent = normal(1_000), normal(1_000, 1)
    assert signature(x, SEED, parent) == signature(x - parent, SEED)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5, 0.75])
def test_distance_measures_the_angle(share: float) -> None:
    x = normal(20_000)
    y = rotated(x, share * math.pi)
    seeds = [bytes([number] * 32) for number in range(40)]
    found = [distance(signature(x, seed), signature(y, seed)) / BITS for seed in seeds]
    deviation = math.sqrt(share * (1 - share) / BITS / len(seeds))
    assert abs(np.mean(found) - share) < 5 * deviation


@pytest.mark.parametrize(("count", "error"), [(2, 0.03), (8, 0.02), (64, 0.02), (1_000, 0.02)])
def test_sparse_vectors_at_a_right_angle_look_so(count: int, error: float) -> None:
    found = []
    for draw in range(60):
        rng = np.random.default_rng([count, draw])
        x, y = np.zeros((2, 65_536), dtype=np.float32)
        for vector in (x, y):
            vector[rng.choice(65_536, count, replace=False)] = rng.standard_normal(count)
        seed = rng.bytes(32)
        found.append(distance(signature(x, seed), signature(y, seed)) / BITS)
    assert abs(np.mean(found) - 0.5) < error


def test_negated_scaled_and_equal() -> None:
    x = normal(5_000)
    one = signature(x, SEED)
    assert distance(one, signature(-x, SEED)) == BITS
    tenfold = signature(x * 10, SEED)
    assert distance(one, tenfold) == 0
    assert tenfold.norm - one.norm == pytest.approx(64 * math.log2(10), abs=1)
    assert agrees(one, one, Tolerance(0, 1))
    assert not agrees(one, tenfold, Tolerance(256, 100))


def test_no_update_at_all_agrees_with_nothing_else() -> None:
    nothing, little = signature(np.zeros(300, dtype=np.float32), SEED), signature(normal(300) * 1e-30, SEED)
    assert nothing == Signature(bytes(32), NO_NORM)
    assert agrees(nothing, nothing, Tolerance(0, 1))
    assert not agrees(nothing, little, Tolerance(256, 2**16))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 256, 999])
def test_what_is_not_finite_is_refused(bad: float, at: int) -> None:
    x = normal(1_000)
    x[at] = bad
    with pytest.raises(ValueError, match="finite"):
        signature(x, SEED)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_difference_beyond_float32_is_refused(compiled: bool) -> None:
    x = np.full(600, 3e38, dtype=np.float32)
    sketch = Sketch(SEED, compiled=compiled)
    sketch.add(x, -x)
    with pytest.raises(ValueError, match="finite"):
        sketch.signature()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_every_size_has_a_norm(size: float) -> None:
    x = (normal(2_000).astype(np.float64) * size).astype(np.float32)
    assert signature(x, SEED).norm == math.floor(64 * math.log2(np.linalg.norm(x.astype(np.float64))))


def test_log_norm() -> None:
    assert [log_norm(4.0**k) for k in range(-3, 4)] == [-192, -128, -64, 0, 64, 128, 192]
    assert log_norm(math.nextafter(1.0, 0.0)) == -1
    assert log_norm(2.0) == 32


def test_a_signature_as_bytes() -> None:
    one = signature(normal(700) * 1e-3, SEED)
    assert Signature.of(bytes(one)) == one
    assert len(bytes(one)) == SIGNATURE_BYTES
    with pytest.raises(ValueError, match="33 bytes"):
        Signature.of(bytes(33))
