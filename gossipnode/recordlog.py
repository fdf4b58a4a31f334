"""Records that outlive a crash, in the order of appending: `protocols.onebyte.journal` is written into one.

One file: magic and format version, then for each record its length, BLAKE2b-128 and bytes. What does not check out at
the end of the file was being written when the machine died: it is cut off and named in one log line. A rewrite appears
by rename, whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import trio

from gossipnode.files import write_all, write_whole

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
_MAGIC: Final = b"gossipnode records 1\n"
_HEAD: Final = struct.Struct(">I16s")
RECORD_BYTES: Final = 64 * 1024 * 1024  # a snapshot is the longest


class RecordLog:
    """One owner, one writer. `records` once, at the start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path: Final = path
        self._writing = trio.Lock()

    def records(self) -> Iterator[bytes]:
        """Those that are intact. Blocks briefly; cuts a damaged tail off. Raises OSError."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        at = 0
        for record, end in _records(data):
            at = end
            if record is not None:
                yield record
        if at < len(data):
            self._cut(at, len(data))

    def _cut(self, at: int, end: int) -> None:
        if at == 0:
            log.warning("%s is not a log of this format; set aside", self._path)
            os.replace(self._path, self._path.with_name(self._path.name + ".bad"))
            return
        log.warning("%s: the last %d bytes are damaged, as by a crash in writing; cut off", self._path, end - at)
        os.truncate(self._path, at)

    async def append(self, record: bytes, *, durable: bool) -> None:
        async with self._writing:
            await trio.to_thread.run_sync(self._append, record, durable)

    def _append(self, record: bytes, durable: bool) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            end = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, _framed(record) if end else _MAGIC + _framed(record))
                if durable:
                    os.fsync(descriptor)
            except OSError:
                os.truncate(descriptor, end)  # half a record would hide those after it
                raise
        finally:
            os.close(descriptor)

    async def rewrite(self, records: Iterable[bytes]) -> None:
        parts = [_MAGIC, *map(_framed, records)]
        async with self._writing:
            await trio.to_thread.run_sync(lambda: write_whole(self._path, *parts, mode=0o600))


class MemoryLog:
    """The same without files or threads, for simulation: what a crashed and restarted node finds again."""

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        self.kept: list[bytes] = list(records)

    def records(self) -> Iterator[bytes]:
        return iter(list(self.kept))

    async def append(self, record: bytes, *, durable: bool) -> None:
        self.kept.append(record)
        await trio.lowlevel.checkpoint()

    async def rewrite(self, records: Iterable[bytes]) -> None:
        self.kept = list(records)
        await trio.lowlevel.checkpoint()


def read_records(path: Path) -> Iterator[bytes]:
    """Those that are intact, of a file that somebody else may be writing: nothing is cut off. Raises OSError."""
    return (record for record, _ in _records(path.read_bytes()) if record is not None)


def _records(data: bytes) -> Iterator[tuple[bytes | None, int]]:
    """Each with where it ends; first None, with where they begin."""
    at = len(_MAGIC) if data.startswith(_MAGIC) else 0
    yield None, at
    while at and (record := _record(data, at)) is not None:
        at += _HEAD.size + len(record)
        yield record, at


def _framed(record: bytes) -> bytes:
    assert len(record) <= RECORD_BYTES
    return _HEAD.pack(len(record), _seal(record)) + record


def _record(data: bytes, at: int) -> bytes | None:
    """The record that begins there, if it is whole."""
    if at + _HEAD.size > len(data):
        return None
    length, seal = _HEAD.unpack_from(data, at)
    record = data[at + _HEAD.size : at + _HEAD.size + length]
    return record if len(record) == length and _seal(record) == seal else None


def _seal(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=16).digest()
