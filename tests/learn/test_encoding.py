from __future__ import annotations

import json
import tracemalloc
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossipnode.learn.encoding import BLOCK, Encoding, Template, Vector, decode, encode
from gossipnode.learn.merge import mean
from gossipnode.learn.models import Models
from protocols.learner import Unfit

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
LAYOUT = [("conv.weight", (4, 3, 5)), ("conv.bias", (4,)), ("head", (300, 2)), ("scale", ())]
LENGTH = 60 + 4 + 600 + 1
BOUND = 1.5 * 2.0**100  # of hypothesis' floats: bfloat16 rounds the very largest float32 to infinity


def values(length: int = LENGTH) -> st.SearchStrategy[Vector]:
    return hnp.arrays(np.float32, length, elements=st.floats(-BOUND, BOUND, width=32))


def some(seed: int = 0) -> Vector:
    return np.random.RandomState(seed).standard_normal(LENGTH).astype(np.float32)


@given(values())
def test_float32_is_exact(vector: Vector) -> None:
    template = Template(LAYOUT, "float32")
    assert decode(encode(vector, template), template).tobytes() == vector.tobytes()


@given(values())
def test_bfloat16_rounds_to_the_nearest(vector: Vector) -> None:
    template = Template(LAYOUT, "bfloat16")
    coded = decode(encode(vector, template), template).astype(np.float64)
    assert (np.abs(coded - vector) <= np.abs(vector.astype(np.float64)) * 2.0**-8 + 2.0**-134).all()
    assert decode(encode(coded.astype(np.float32), template), template).tolist() == coded.tolist()


@given(values())
def test_int8_keeps_the_error_bound_it_states(vector: Vector) -> None:
    template = Template(LAYOUT, "int8")
    coded = decode(encode(vector, template), template).astype(np.float64)
    largest = np.repeat(np.maximum.reduceat(np.abs(vector), template.block_starts), template.block_lengths)
    assert (np.abs(coded - vector) <= largest.astype(np.float64) / 254 * (1 + 2**-15) + 2.0**-126).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_file_is_safetensors_with_the_names_and_shapes_of_the_task(encoding: Encoding) -> None:
    template = Template(LAYOUT, encoding)
    blob = encode(some(), template)
    assert len(blob) == template.size
    table = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    assert {name: tuple(table[name]["shape"]) for name, _ in LAYOUT} == dict(LAYOUT)
    dtypes = {"float32": {"F32"}, "bfloat16": {"BF16"}, "int8": {"I8"}}[encoding]
    assert {table[name]["dtype"] for name, _ in LAYOUT} == dtypes
    tensors = {} if encoding == "bfloat16" else safetensors.numpy.load(blob)  # numpy has no bfloat16
    if encoding == "float32":
        assert np.concatenate([tensors[name].ravel() for name, _ in LAYOUT]).tobytes() == some().tobytes()
    if encoding == "int8":
        assert tensors["head.scale"].shape == (-(-600 // BLOCK),)


def test_torch_reads_bfloat16_as_we_do() -> None:
    import safetensors.torch
    import torch

    template = Template(LAYOUT, "bfloat16")
    tensors = safetensors.torch.load(encode(some(), template))
    ours = decode(encode(some(), template), template)
    theirs = torch.cat([tensors[name].float().reshape(-1) for name, _ in LAYOUT]).numpy()
    assert theirs.tobytes() == ours.tobytes()
    assert theirs.tobytes() == torch.from_numpy(some()).bfloat16().float().numpy().tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(hostile=st.binary(max_size=4000))
def test_hostile_bytes_are_unfit(encoding: Encoding, hostile: bytes) -> None:
    with pytest.raises(Unfit):
        decode(hostile, Template(LAYOUT, encoding))


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data())
def test_one_changed_byte_gives_finite_values_or_unfit(encoding: Encoding, data: st.DataObject) -> None:
    template = Template(LAYOUT, encoding)
    blob = bytearray(encode(some(), template))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(blob, template)
    except Unfit:
        return
    assert at >= len(template.header)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_blob_of_another_run_is_unfit(encoding: Encoding) -> None:
    template = Template(LAYOUT, encoding)
    renamed = Template([("other", (4, 3, 5)), *LAYOUT[1:]], encoding)
    turned = Template([("conv.weight", (3, 4, 5)), *LAYOUT[1:]], encoding)
    for other in (renamed, turned, *(Template(LAYOUT, e) for e in ENCODINGS if e != encoding)):
        with pytest.raises(Unfit):
            decode(encode(some(), other), template)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_unfit(value: float) -> None:
    template = Template(LAYOUT, "float32")
    blob = bytearray(encode(some(), template))
    blob[-4:] = np.float32(value).tobytes()
    with pytest.raises(Unfit, match="finite"):
        decode(blob, template)
    vector = some()
    vector[3] = value
    for encoding in ENCODINGS:
        with pytest.raises(ValueError, match="finite"):
            encode(vector, Template(LAYOUT, encoding))


def test_int8_scales_that_overflow_are_unfit() -> None:
    template = Template(LAYOUT, "int8")
    blob = bytearray(encode(some(), template))
    start = len(template.header)
    for scale in (np.float32(3e38), np.float32(-1.0), np.float32(np.nan)):
        blob[start : start + 4] = scale.tobytes()
        with pytest.raises(Unfit):
            decode(blob, template)


def test_a_blob_of_the_wrong_size_is_refused_before_memory_is_taken() -> None:
    template = Template([("huge", (1 << 32,))], "float32")
    tracemalloc.start()
    try:
        with pytest.raises(Unfit):
            decode(template.header + bytes(1000), template)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(st.lists(values(50), min_size=1, max_size=5), st.data())
def test_the_mean_is_weighted_and_lies_between_its_models(models: list[Vector], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 10**9), min_size=len(models), max_size=len(models)))
    found = mean(Models.of(models), weights).astype(np.float64)
    exact = sum(w * m.astype(np.float64) for w, m in zip(weights, models, strict=True)) / sum(weights)
    largest = np.max([np.abs(model) for model in models], axis=0).astype(np.float64)
    assert (np.abs(found - exact) <= largest * 2.0**-23 + 2.0**-140).all()


def test_the_mean_is_the_same_bits_as_ever() -> None:
    """A golden value: aggregators of different versions must agree."""
    models = [some(seed) for seed in range(4)]
    merged = mean(Models.of(models), [7, 11, 13, 500])
    assert merged.tobytes() == sum_in_python(models, [7, 11, 13, 500]).tobytes()


def sum_in_python(models: list[Vector], weights: list[int]) -> Vector:
    mean = []
    for column in zip(*(model.tolist() for model in models), strict=True):
        total = column[0] * weights[0]
        for value, weight in zip(column[1:], weights[1:], strict=True):
            total += value * weight
        mean.append(total / sum(weights))
    return np.array(mean, dtype=np.float32)
