"""The node's state across restarts: any msgspec struct, written whole each round, the two latest copies kept.

A copy is a numbered file: magic and format version, number, BLAKE2b-256 of number and payload, payload (msgpack,
fields by name, so that a newer version may add fields with defaults). A copy that is torn, edited or of another format
is named in one log line, set aside as `.bad`, and the one before it used: a crash within a write costs that write only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
import trio

from gossipnode.files import write_whole
from verify.digest import DIGEST_BYTES, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T", bound=msgspec.Struct)

_log = logging.getLogger(__name__)
_MAGIC: Final = b"gossipnode state 1\n"
_NUMBER: Final = struct.Struct(">Q")
_KEPT: Final = 2


class Journal(Generic[T]):
    """One owner, one writer. `load` once at the start, then `save`."""

    def __init__(self, directory: Path, state: type[T], name: str = "state") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory: Final = directory
        self._state: Final = state
        self._name: Final = re.compile(re.escape(name) + r"\.([0-9a-f]{16})")
        self._stem: Final = name
        self._number = max((number for number, _ in self._copies()), default=0)

    def load(self) -> T | None:
        """The latest intact state, or None if there is none. Blocks briefly; sets damaged copies aside."""
        return next(iter(self.intact()), None)

    def intact(self) -> Iterator[T]:
        """The states that are intact, latest first. As `load`, as far as it is read."""
        for number, path in sorted(self._copies(), reverse=True):
            try:
                yield self._decode(number, path.read_bytes())
            except (OSError, ValueError) as error:  # ValueError: ours below, and msgspec's
                _log.warning("%s is damaged (%s); set aside, using the state before it", path, error)
                with contextlib.suppress(OSError):
                    os.replace(path, path.with_name(path.name + ".bad"))

    async def save(self, state: T) -> None:
        """Durable when it returns. Raises OSError, and then the former states are still there."""
        self._number += 1
        await trio.to_thread.run_sync(self._write, self._number, msgspec.msgpack.encode(state))

    def _write(self, number: int, payload: bytes) -> None:
        digest = digest_of(_NUMBER.pack(number) + payload)
        path = self._directory / f"{self._stem}.{number:016x}"
        write_whole(path, _MAGIC + _NUMBER.pack(number) + digest, payload, mode=0o600)
        for _, old in sorted(self._copies(), reverse=True)[_KEPT:]:
            old.unlink(missing_ok=True)

    def _decode(self, number: int, data: bytes) -> T:
        if not data.startswith(_MAGIC):
            raise ValueError("not of this format version")
        head, digest, payload = _split(data[len(_MAGIC) :])
        if digest_of(head + payload) != digest or head != _NUMBER.pack(number):
            raise ValueError("its checksum does not match")
        return msgspec.msgpack.decode(payload, type=self._state)

    def _copies(self) -> list[tuple[int, Path]]:
        named = ((self._name.fullmatch(path.name), path) for path in self._directory.iterdir())
        return [(int(match[1], 16), path) for match, path in named if match]


class MemoryJournal(Generic[T]):
    """The same without files or threads, for simulation: what a crashed and restarted node finds again."""

    def __init__(self, state: type[T]) -> None:
        self._state: Final = state
        self._payload: bytes | None = None

    def load(self) -> T | None:
        return None if self._payload is None else msgspec.msgpack.decode(self._payload, type=self._state)

    async def save(self, state: T) -> None:
        self._payload = msgspec.msgpack.encode(state)


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    end = _NUMBER.size + DIGEST_BYTES
    return data[: _NUMBER.size], data[_NUMBER.size : end], data[end:]
