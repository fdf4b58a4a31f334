"""What a task fetches: which bytes are taken, and the one line for whatever goes wrong. No index is asked."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from gossipnode.learn.names import TaskError
from gossipnode.learn.tasks import pinned
from gossipnode.learn.tasks.pinned import Archive, Pinned, fetch

CONTENT = b"what is wanted"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel() -> bytes:
    """The same bytes whenever it is made: a ZipInfo without a date is of 1980."""
    files = {
        "thing/data.txt": CONTENT.decode(),
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def wanted(archive: Archive, *member: str, sha: str = sha256(CONTENT)) -> Pinned:
    return Pinned("thing-data.txt", sha, archive, member or ("thing/data.txt",))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(pinned.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_by_pip_and_opened(cache: Path, index: Path) -> None:
    (index / "thing-1.0-py3-none-any.whl").write_bytes(wheel())
    file = wanted(Archive("thing==1.0", sha256(wheel())))
    fetch((file,))
    assert file.path() == cache / "thing-data.txt"
    assert file.read("demo") == CONTENT


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (False, r"^cannot fetch thing==1.0 with pip: No matching distribution found for thing==1.0"),
        (True, r"^cannot fetch thing==1.0 with pip: .*"),
    ],
)
def test_what_pip_refuses_is_one_line(there: bool, line: str, cache: Path, index: Path) -> None:
    if there:
        (index / "thing-1.0-py3-none-any.whl").write_bytes(wheel())
    with pytest.raises(TaskError, match=line) as caught:
        fetch((wanted(Archive("thing==1.0", sha256(b"another"))),))
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def answered(monkeypatch: pytest.MonkeyPatch, packed: bytes) -> list[list[str]]:
    """Stand in for pip, which must build what it finds in a source distribution; returns what it is asked."""
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "got.tar.gz").write_bytes(packed)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_an_archive_inside_a_source_distribution(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tarred("thing-1.0/inner.tar.gz", tarred("inner/data.txt", CONTENT))
    asked = answered(monkeypatch, packed)
    archive = Archive("thing==1.0", sha256(packed), source=True)
    file = wanted(archive, "thing-1.0/inner.tar.gz", "inner/data.txt")
    fetch((file, file))
    assert file.read("demo") == CONTENT
    fetch((file,))
    assert len(asked) == 1, "what is here is not fetched again, and an archive only once"
    assert {"--no-binary", "--require-hashes", "--no-deps"} <= set(asked[0])


def test_an_archive_without_the_file_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, wheel())
    with pytest.raises(TaskError, match=r"cannot take thing/no.txt out of its archive: KeyError"):
        fetch((wanted(Archive("thing==1.0", sha256(wheel())), "thing/no.txt"),))


def test_what_is_missing_names_the_command(cache: Path) -> None:
    with pytest.raises(TaskError, match=r"^task demo: thing-data.txt is not here; run once: gossipnode prepare demo$"):
        wanted(Archive("thing==1.0", "")).read("demo")


def test_a_changed_file_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "thing-data.txt").write_bytes(CONTENT + b"!")
    with pytest.raises(TaskError, match=r"thing-data.txt is not the file that is pinned; remove it and run") as caught:
        wanted(Archive("thing==1.0", "")).read("demo")
    assert "\n" not in str(caught.value)


def test_an_installed_package_serves_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipping_package").mkdir()
    (tmp_path / "shipping_package" / "__init__.py").touch()
    (tmp_path / "shipping_package" / "data.txt").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    file = Pinned("thing-data.txt", sha256(CONTENT), Archive("thing==1.0", ""), (), "shipping_package", "data.txt")
    assert file.read("demo") == CONTENT
    fetch((file,))
    assert not cache.exists()


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(pinned.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(TaskError, match=r"cannot write to the cache .*: Not a directory; name another .* GOSSIPNODE_"):
        pinned.made_cache_folder()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pinned.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert pinned.cache_folder() == Path("/var/caches/gossipnode")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert pinned.cache_folder() == Path.home() / ".cache" / "gossipnode"
