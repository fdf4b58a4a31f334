"""A model as bytes: safetensors, in one of three encodings, with a header that is a pure function of the task's shapes.

All blobs of a run therefore begin with the same bytes and have the same size, and a blob fits exactly if its header
is byte for byte the template's; nothing a peer wrote is ever parsed. In memory a model is one float32 vector: the
tensors of the layout one after the other. Everything here is numpy's correctly rounded elementwise arithmetic, so that
encoding gives the same bytes on every machine.

* float32: exact.
* bfloat16: rounded to nearest even; relative error at most 2^-8.
* int8: blocks of 256 values of a tensor, each with a float32 scale = max|x| / 127; absolute error at most max|x| / 254.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.learner import Unfit

Encoding: TypeAlias = Literal["float32", "bfloat16", "int8"]
Vector: TypeAlias = NDArray[np.float32]
Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK = 256  # values per scale: 1.6 % more bytes than bare int8, and one outlier coarsens 255 others only
LEVELS = 127  # -128 is never written, so that the code is symmetric
ALIGNMENT = 8  # of the first tensor in the file, as safetensors asks
_DTYPES: Mapping[Encoding, tuple[str, int]] = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "int8": ("I8", 1)}


class Template:
    """What every blob of a run looks like: names, shapes and encoding, and the header that they determine."""

    def __init__(self, layout: Sequence[tuple[str, Sequence[int]]], encoding: Encoding) -> None:
        self.layout = tuple((name, tuple(shape)) for name, shape in layout)
        self.encoding: Encoding = encoding
        self.lengths = tuple(math.prod(shape) for _, shape in self.layout)
        assert self.lengths, "a model without tensors"
        assert all(self.lengths), "an empty tensor"

    @property
    def parameters(self) -> int:
        return sum(self.lengths)

    @property
    def size(self) -> int:
        """Bytes of every blob."""
        return len(self.header) + self._scale_bytes + self.parameters * _DTYPES[self.encoding][1]

    @cached_property
    def header(self) -> bytes:
        """Eight bytes of length, then JSON padded with spaces. Scales, if any, come first: they need alignment."""
        dtype, width = _DTYPES[self.encoding]
        table: dict[str, Any] = {}
        at = 0
        if self.encoding == "int8":
            for (name, _), length in zip(self.layout, self.lengths, strict=True):
                at = _place(table, f"{name}.scale", "F32", [-(-length // BLOCK)], at, 4)
        for name, shape in self.layout:
            at = _place(table, name, dtype, list(shape), at, width)
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    def value_at(self, byte: int) -> int:
        """Values that begin before that byte of a blob, where no scales do."""
        assert self.encoding != "int8"
        return max(0, byte - len(self.header)) // _DTYPES[self.encoding][1]

    @cached_property
    def block_starts(self) -> NDArray[np.int64]:
        """Where in the vector each block begins; no block reaches over the end of its tensor."""
        ends = np.cumsum(self.lengths)
        pieces = [np.arange(end - n, end, BLOCK) for end, n in zip(ends, self.lengths, strict=True)]
        return np.concatenate(pieces).astype(np.int64)

    @cached_property
    def block_lengths(self) -> NDArray[np.int64]:
        return np.diff(self.block_starts, append=self.parameters)

    @property
    def _scale_bytes(self) -> int:
        return 4 * len(self.block_starts) if self.encoding == "int8" else 0


def _place(table: dict[str, Any], name: str, dtype: str, shape: list[int], at: int, width: int) -> int:
    assert name not in table, f"two tensors are called {name}"
    end = at + math.prod(shape) * width
    table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
    return end


def encode(vector: Vector, template: Template) -> bytes:
    """The blob of a model. Raises ValueError if a value is not finite, or not once it is rounded."""
    assert vector.shape == (template.parameters,)
    if not np.isfinite(vector).all():
        raise ValueError("a value is not finite")
    match template.encoding:
        case "float32":
            parts: list[NDArray[Any]] = [np.ascontiguousarray(vector, dtype="<f4")]
        case "bfloat16":
            parts = [_to_bfloat16(vector)]
        case "int8":
            parts = list(_to_int8(vector, template))
    return b"".join([template.header, *(part.data for part in parts)])


def decode(blob: Buffer, template: Template) -> Vector:
    """The model in a blob, read-only; if float32, not a copy. Whatever the bytes, it raises Unfit and nothing else."""
    view = memoryview(blob)
    if len(view) != template.size:
        raise Unfit(f"{len(view)} bytes where every model of this run has {template.size}")
    start = len(template.header)
    if view[:start] != template.header:
        raise Unfit("names, shapes or types of its tensors are not those of this run")
    return finite(view[start:], template)


def finite(body: memoryview, template: Template) -> Vector:
    """Read-only. Raises Unfit."""
    vector = _vector(body, template)
    if not np.isfinite(vector).all():
        raise Unfit("a value is not finite")
    vector.flags.writeable = False
    return vector


def opened(blob: Buffer, template: Template) -> Vector | Coded:
    """Checked as `decode` does; but what is not float32 is decoded again where it is read, and not held in memory."""
    vector = decode(blob, template)
    return vector if template.encoding == "float32" else Coded(memoryview(blob)[len(template.header) :], template)


@dataclass(frozen=True)
class Coded:
    """The values of a checked blob, decoded slice by slice to the bits that `decode` gives."""

    body: memoryview
    template: Template

    def __len__(self) -> int:
        return self.template.parameters

    def __getitem__(self, part: slice, /) -> Vector:
        low, high, _ = part.indices(len(self))
        if self.template.encoding == "bfloat16":
            return _vector(self.body[2 * low : 2 * high], self.template)
        starts, cut = self.template.block_starts, 4 * len(self.template.block_starts)
        first, last = np.searchsorted(starts, low, "right") - 1, np.searchsorted(starts, high, "left")
        counts = np.diff(np.append(starts[first:last], high).clip(low, high))
        scales = np.frombuffer(self.body[:cut], dtype="<f4")[first:last]
        values: Vector = np.frombuffer(self.body[cut + low : cut + high], dtype=np.int8) * np.repeat(scales, counts)
        return values


def _vector(body: memoryview, template: Template) -> Vector:
    match template.encoding:
        case "float32":
            return np.frombuffer(body, dtype="<f4")
        case "bfloat16":
            return (np.frombuffer(body, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
        case "int8":
            return _from_int8(body, template)


def _to_bfloat16(vector: Vector) -> NDArray[np.uint16]:
    """Round to nearest even in integers: add half a unit (less one if the kept part is even), then cut."""
    bits = np.ascontiguousarray(vector).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise ValueError("a value is too large for bfloat16")
    return rounded


def _to_int8(vector: Vector, template: Template) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    largest = np.maximum.reduceat(np.abs(vector), template.block_starts)
    scales = (largest / np.float32(LEVELS)).astype("<f4")
    divisors = np.where(scales > 0, scales, np.float32(1))  # all below 1e-43: the block is written as zeros
    levels = np.rint(vector / np.repeat(divisors, template.block_lengths))
    levels *= np.repeat(scales > 0, template.block_lengths)
    return scales, np.clip(levels, -LEVELS, LEVELS).astype(np.int8)


def _from_int8(body: memoryview, template: Template) -> Vector:
    cut = 4 * len(template.block_starts)
    scales = np.frombuffer(body[:cut], dtype="<f4")
    levels = np.frombuffer(body[cut:], dtype=np.int8)
    if not np.isfinite(scales).all() or (scales < 0).any() or (levels < -LEVELS).any():
        raise Unfit("a scale is not finite or negative, or a level is -128")
    with np.errstate(over="ignore"):  # an overflow gives an infinity, which `decode` refuses
        vector: Vector = levels * np.repeat(scales, template.block_lengths)
    return vector
