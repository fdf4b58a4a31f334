"""Files that are whole or absent: how everything the node must find again is written, and how secrets are read.

A file appears under its name only by rename or link, after its bytes were flushed to the disk; a crash at any step
leaves the former file, or none. Everything here blocks, so a running node calls it in a thread.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from typing import TYPE_CHECKING, Final

from gossipnode.errors import OperatorError, reason

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES: Final = 16 * 1024  # the largest key file worth reading: a PEM key has 119 bytes, a swarm key 95
_serial: Final = itertools.count()


def write_whole(path: Path, *parts: bytes | memoryview, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` by the parts. Raises OSError, and then `path` is what it was before.

    What is not durable survives a crash of this process, not one of the machine, which may leave any bytes under the
    name: whoever reads it has to check it.
    """
    temporary = _write_temporary(path, parts, mode, durable=durable)
    try:
        os.replace(temporary, path)
    except OSError:
        _forget(temporary)
        raise
    if durable:
        sync_directory(path.parent)


def create_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Like `write_whole`, but FileExistsError if there is such a file: a key is never overwritten."""
    temporary = _write_temporary(path, (data,), mode, durable=True)
    try:
        os.link(temporary, path)
    finally:
        _forget(temporary)
    sync_directory(path.parent)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(directory: Path) -> None:
    """Make renames and removals in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path, what: str) -> bytes:
    """A small file that only its owner may read. Raises OperatorError, FileNotFoundError included."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe must not wait for its writer
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OperatorError(f"the {what} {path} is not a regular file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise OperatorError(f"the {what} {path} is open to others; run: chmod 600 {path}")
            return os.read(descriptor, SECRET_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OperatorError(f"cannot read the {what} {path}: {reason(error)}") from error


def _write_temporary(path: Path, parts: tuple[bytes | memoryview, ...], mode: int, *, durable: bool) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_serial)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            for part in parts:
                write_all(descriptor, part)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        _forget(temporary)
        raise
    return temporary


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
