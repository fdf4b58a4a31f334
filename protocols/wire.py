"""Bytes to message and back. No byte string makes `decode` raise anything but MalformedFrame, or take more than a few
megabytes: length is checked first, msgpack's own maxima are all set, it does not recurse (1024 open arrays are its
most), and the loose result is then converted strictly into one typed message.

A frame is a version byte, then one msgpack array [tag, field, ...].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, cast

import msgpack
import msgspec

from protocols import limits
from protocols.messages import WIRE_VERSION, AnyMessage

_VERSION_BYTE = bytes([WIRE_VERSION])
_NATIVE = (bytes,)  # else text would do for bytes, as base64
SHORT_BYTES: Final = 2048
SHORT_FRAMES: Final = 1024  # remembered: 2 MB at most, and as much again decoded
_encoder = msgspec.msgpack.Encoder()


class MalformedFrame(Exception):
    """The frame is not a message of this version. Its text is short and safe to log."""


class OtherVersion(MalformedFrame):
    """A peer that speaks another wire version."""


def encode(message: AnyMessage) -> bytes:
    frame = _VERSION_BYTE + _encoder.encode(message)
    assert len(frame) <= limits.FRAME_BYTES, f"{type(message).__name__} of {len(frame)} bytes"
    return frame


def decode(frame: bytes) -> AnyMessage:
    """Raises MalformedFrame."""
    if len(frame) > limits.FRAME_BYTES:
        raise MalformedFrame(f"{len(frame)} bytes, more than {limits.FRAME_BYTES}")
    if not frame:
        raise MalformedFrame("empty")
    if frame[:1] != _VERSION_BYTE:
        raise OtherVersion(f"wire version {frame[0]}, ours is {WIRE_VERSION}")
    return _short(frame) if len(frame) <= SHORT_BYTES else _typed(_unpack(frame[1:]))


@lru_cache(maxsize=SHORT_FRAMES)
def _short(frame: bytes) -> AnyMessage:
    """Gossip comes again and again; to the nodes of a simulation as the same bytes. Messages cannot be changed."""
    return _typed(_unpack(frame[1:]))


def _unpack(body: bytes) -> Any:  # noqa: ANN401  # what msgpack holds is untyped until `_typed`
    try:
        return msgpack.unpackb(
            body,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_str_len=limits.FRAME_BYTES,
            max_bin_len=limits.FRAME_BYTES,
            max_array_len=limits.REGISTRATIONS_PER_FRAME,  # our longest; msgpack reserves what each array claims
            max_map_len=0,  # the vocabulary has no maps
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise MalformedFrame(f"not msgpack: {type(error).__name__}") from None


def _typed(loose: object) -> AnyMessage:
    try:
        return cast("AnyMessage", msgspec.convert(loose, AnyMessage, strict=True, builtin_types=_NATIVE))
    except (msgspec.ValidationError, RecursionError) as error:
        raise MalformedFrame(str(error)[: limits.DETAIL_CHARS]) from None
