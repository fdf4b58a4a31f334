"""The steps on disk that a store of blobs is made of; each blocks, and leaves the folders valid wherever it breaks off.

A whole blob lies under its digest in hex in `blobs/`, a prefix of one likewise in `partial/`. The compute worker writes
whole blobs with `write_blob`, and the daemon's store then adopts them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from typing import TYPE_CHECKING, Final

import trio

from gossipnode.errors import reason
from gossipnode.files import sync_directory, write_whole
from gossipnode.ledger import Arrival
from protocols.blobs import StoreFull
from protocols.limits import MIB
from verify.digest import Digest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_FREED_BESIDE_BYTES: Final = 16 * MIB
_serial: Final = itertools.count()
_HEX: Final = re.compile(r"[0-9a-f]{64}")


def write_blob(blobs: Path, data: bytes | memoryview) -> Digest:
    """Put a blob into a store's `blobs` folder from outside; the store counts it once it is told to `adopt` it."""
    digest = digest_of(data)
    write_whole(blobs / digest.hex(), data, durable=False)
    return digest


def tidy(directory: Path) -> list[tuple[Digest, int]]:
    """Digests and sizes of the blobs in it, least recently written first. What a crash left behind is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for entry in os.scandir(directory):
        if not entry.is_file(follow_symlinks=False):
            continue  # not ours; and it cannot be mistaken for a blob
        if _HEX.fullmatch(entry.name):
            status = entry.stat()
            found.append((status.st_mtime_ns, Digest(bytes.fromhex(entry.name)), status.st_size))
        else:
            remove(directory / entry.name)
    return [(digest, size) for _, digest, size in sorted(found)]


def read_checked(path: Path, digest: Digest) -> bytes | None:
    """The blob, or None if it is gone, unreadable or not what its name says. Raises OSError for a shortage of ours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        if is_shortage(error):
            raise
        return None
    return data if digest_of(data) == digest else None


def resume(path: Path, size: int) -> Arrival | None:
    """Read what there is of a blob of `size` bytes again, to go on from there. None: begin anew."""
    arrival = Arrival(size)
    try:
        with path.open("rb") as file:
            while data := file.read(MIB):
                arrival.take(data)
    except OSError:
        return None
    return arrival if arrival.offset <= size else None


def append(path: Path, arrival: Arrival, data: bytes) -> None:
    """Write, then count: after a failure the same bytes can be appended again at the same offset."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        view, offset = memoryview(data), arrival.offset
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)
    arrival.take(data)


def promote(partial: Path, blob: Path) -> None:
    """A finished partial becomes a blob."""
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644))  # an empty blob was never appended to
    os.replace(partial, blob)


def sync(blob: Path) -> None:
    """The bytes reach the disk, then the name does."""
    descriptor = os.open(blob, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(blob.parent)


def remove(path: Path) -> None:
    """What cannot be removed now is found, and removed or counted, at the next start."""
    with contextlib.suppress(OSError):
        path.unlink()


def evict(path: Path, size: int) -> None:
    """Gone at once under its name; the blocks of a big file (0.2 s a GiB) are freed in a thread."""
    if size < _FREED_BESIDE_BYTES:
        return remove(path)
    doomed = path.with_name(f".{path.name}.{next(_serial)}.gone")
    with contextlib.suppress(OSError):
        os.replace(path, doomed)
        trio.lowlevel.start_thread_soon(lambda: remove(doomed), lambda _: None, name="free a blob")


@contextlib.contextmanager
def failing_disk() -> Iterator[None]:
    """Whatever keeps us from writing becomes StoreFull: no disk may end the daemon."""
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno in _FULL else "the disk does not take it"
        raise StoreFull(f"{what}: {reason(error)}") from error


def is_shortage(error: OSError) -> bool:
    """Of our own means: it says nothing about the file, which must not be taken for damaged."""
    return error.errno in _SHORT
