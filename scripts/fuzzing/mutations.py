"""Bytes that are nearly right: valid examples, cut, flipped, repeated, spliced and sprinkled with awkward values.

A hypothesis strategy, so that what breaks a door is shrunk before it is shown and saved.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import strategies as st

LONGEST: Final = 300_000  # a little more than the largest frame
EDITS: Final = 6  # most at once
AWKWARD: Final = (
    b"", b"\0", b"\xff" * 8, b"\n", b"\r\n\r\n", b"/", b"..", b"-1", b"1e999", b"nan", b"true", b"\\u0000",
    "é".encode(),
    b"\xed\xa0\x80", b"\x91" * 2000, b"[" * 2000, b"{a=" * 500, b"A" * 5000, b"9" * 5000,
    struct.pack(">BQ", 0xCF, 2**63), struct.pack(">BQ", 0xCF, 2**64 - 1), struct.pack(">Bq", 0xD3, -1),
    b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc0",
    struct.pack(">Bd", 0xCB, float("nan")), struct.pack("<f", float("inf")), struct.pack(">Q", 2**64 - 1),
)  # fmt: skip

Edit = Callable[[bytes], bytes]


def _place(data: bytes, at: float) -> int:
    return int(at * len(data))


def _replaced(at: float, length: int, by: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        start = _place(data, at)
        return data[:start] + by + data[start + length :]

    return edit


def _flipped(at: float, bits: int) -> Edit:
    def edit(data: bytes) -> bytes:
        start = _place(data, at)
        return data[:start] + bytes(byte ^ bits for byte in data[start : start + 1]) + data[start + 1 :]

    return edit


def _repeated(at: float, length: int, times: int) -> Edit:
    def edit(data: bytes) -> bytes:
        start = _place(data, at)
        return data[:start] + data[start : start + length] * times + data[start + length :]

    return edit


def _cut(at: float) -> Edit:
    return lambda data: data[: _place(data, at)]


def nearly(examples: Sequence[bytes], tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """`tokens`: words of the door's own language."""
    at = st.floats(0.0, 1.0, allow_nan=False)
    length = st.integers(0, 64)
    word = st.sampled_from([*AWKWARD, *tokens])
    edit: st.SearchStrategy[Edit] = st.one_of(
        st.builds(_flipped, at, st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255])),
        st.builds(_replaced, at, length, word),
        st.builds(_replaced, at, length, st.binary(max_size=32)),
        st.builds(_replaced, at, st.just(0), st.sampled_from(list(examples))),
        st.builds(_repeated, at, length, st.sampled_from([0, 2, 3, 50, 1000])),
        st.builds(_cut, at),
    )
    return st.builds(_edited, st.sampled_from(list(examples)), st.lists(edit, max_size=EDITS))


def _edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    for edit in edits:
        data = edit(data)[:LONGEST]
    return data
