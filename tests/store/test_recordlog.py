"""The journal of one-byte training on disk: whole records, whatever moment the machine died at."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from gossipnode.recordlog import RecordLog

RECORDS = [b"one", b"", b"three" * 100, bytes(range(256))]


async def written(path: Path, records: list[bytes]) -> RecordLog:
    log = RecordLog(path)
    for index, record in enumerate(records):
        await log.append(record, durable=index % 2 == 0)
    return log


async def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    await written(tmp_path / "a" / "chain", RECORDS)
    log = RecordLog(tmp_path / "a" / "chain")
    assert list(log.records()) == RECORDS
    await log.append(b"more", durable=True)
    assert list(RecordLog(tmp_path / "a" / "chain").records()) == [*RECORDS, b"more"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert list(RecordLog(tmp_path / "chain").records()) == []


async def test_a_torn_tail_is_cut_wherever_it_is_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await written(tmp_path / "whole", RECORDS[:2])
    intact = (tmp_path / "whole").read_bytes()
    await written(tmp_path / "longer", RECORDS[:3])
    longer = (tmp_path / "longer").read_bytes()
    path = tmp_path / "chain"
    for end in range(len(intact), len(longer)):
        path.write_bytes(longer[:end])
        assert list(RecordLog(path).records()) == RECORDS[:2]
        assert path.read_bytes() == intact
    assert "cut off" in caplog.text


async def test_a_damaged_record_ends_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chain"
    await written(path, RECORDS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    log = RecordLog(path)
    assert list(log.records()) == RECORDS[:3]
    await log.append(b"more", durable=True)
    assert list(RecordLog(path).records()) == [*RECORDS[:3], b"more"]


async def test_a_file_of_another_format_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chain"
    path.write_bytes(b"something else entirely")
    with caplog.at_level(logging.WARNING):
        assert list(RecordLog(path).records()) == []
    assert (tmp_path / "chain.bad").read_bytes() == b"something else entirely"
    await RecordLog(path).append(b"new", durable=True)
    assert list(RecordLog(path).records()) == [b"new"]


async def test_a_rewrite_replaces_all(tmp_path: Path) -> None:
    path = tmp_path / "chain"
    log = await written(path, RECORDS)
    await log.rewrite([b"base", b"block"])
    await log.append(b"after", durable=True)
    assert list(RecordLog(path).records()) == [b"base", b"block", b"after"]
    assert os.listdir(tmp_path) == ["chain"]


async def test_half_a_record_is_taken_back_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chain"
    log = await written(path, RECORDS[:1])
    before = path.read_bytes()

    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("gossipnode.recordlog.write_all", full)
        with pytest.raises(OSError, match="No space left"):
            await log.append(b"two", durable=True)
    assert path.read_bytes() == before
    await log.append(b"three", durable=True)
    assert list(RecordLog(path).records()) == [RECORDS[0], b"three"]
