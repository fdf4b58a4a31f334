"""Sources that drip: each byte keeps the idle limit satisfied, so it is the speed that is judged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gossipnode.memoryblobs import MemoryBlobs
from protocols import limits
from protocols.exchange import ModelExchange, NotFetched
from protocols.pace import Usual, Watch
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

Links = Any  # conftest's
Court = Any

A, B = PeerId("a"), PeerId("b")
MODEL = bytes(10 * limits.MIB)
DIGEST = digest_of(MODEL)


class Drip:
    size = len(MODEL)

    def __init__(self, at: int, step: int, every_s: float) -> None:
        self._at, self._step, self._every_s = at, step, every_s

    async def receive_some(self) -> bytes:
        await trio.sleep(self._every_s)
        data = MODEL[self._at : self._at + self._step]
        self._at += len(data)
        return data


@pytest.fixture
def lines(links: Links, monkeypatch: pytest.MonkeyPatch) -> dict[PeerId, tuple[int, float]]:
    """What each peer sends at once, and how often."""
    speeds: dict[PeerId, tuple[int, float]] = {}

    @asynccontextmanager
    async def fetch(peer: PeerId, digest: Digest, *, offset: int = 0) -> AsyncIterator[Drip]:
        await trio.lowlevel.checkpoint()
        yield Drip(offset, *speeds[peer])

    monkeypatch.setattr(links, "fetch", fetch)
    return speeds


@pytest.fixture
def exchange(links: Links, court: Court) -> ModelExchange:
    return ModelExchange(links, MemoryBlobs(10 * len(MODEL)), len(MODEL), court)


async def test_a_byte_every_nine_seconds_costs_two_of_them(
    autojump_clock: MockClock, exchange: ModelExchange, lines: dict[PeerId, tuple[int, float]], court: Court
) -> None:
    lines |= {A: (1, 9.0), B: (limits.MIB, 0.1)}
    await exchange.obtain(DIGEST, [A, B])
    assert trio.current_time() < 25
    assert court.accused == []


async def test_a_drip_alone_is_given_up(
    autojump_clock: MockClock, exchange: ModelExchange, lines: dict[PeerId, tuple[int, float]]
) -> None:
    lines[A] = (100, 1.0)
    with pytest.raises(NotFetched, match="too few"):
        await exchange.obtain(DIGEST, [A])
    assert trio.current_time() < 60


async def test_a_slow_source_alone_is_borne(
    autojump_clock: MockClock, exchange: ModelExchange, lines: dict[PeerId, tuple[int, float]]
) -> None:
    lines[A] = (20 * limits.KIB, 1.0)
    await exchange.obtain(DIGEST, [A])
    assert trio.current_time() > 500


async def test_who_is_much_slower_than_usual_comes_last(
    autojump_clock: MockClock, links: Links, court: Court, lines: dict[PeerId, tuple[int, float]]
) -> None:
    lines |= {A: (limits.MIB, 1.0), B: (20 * limits.KIB, 1.0)}
    exchange = ModelExchange(links, blobs := MemoryBlobs(10 * len(MODEL)), len(MODEL), court)
    await exchange.obtain(DIGEST, [A])
    blobs.pin([])
    fresh = ModelExchange(links, MemoryBlobs(10 * len(MODEL)), len(MODEL), court)
    fresh._usual = exchange._usual
    began = trio.current_time()
    await fresh.obtain(DIGEST, [B, A])
    assert trio.current_time() - began < 25  # ten seconds of the slow one, then the rest from the fast


async def test_where_all_are_slow_the_slow_will_do(
    autojump_clock: MockClock, exchange: ModelExchange, lines: dict[PeerId, tuple[int, float]]
) -> None:
    exchange._usual.bytes_per_s = 100.0 * limits.MIB
    lines |= {A: (20 * limits.KIB, 1.0), B: (30 * limits.KIB, 1.0)}
    await exchange.obtain(DIGEST, [A, B])


def test_a_fast_last_second_does_not_excuse_the_look() -> None:
    watch = Watch(1000.0)
    assert all(watch.came(1, 1.0) for _ in range(9))
    assert not watch.came(1, 1.0)
    assert watch.came(10**6, 1.0)


def test_small_blobs_say_nothing_of_a_line() -> None:
    usual = Usual()
    usual.measured(100, 0.5)
    assert usual.bytes_per_s is None
    usual.measured(limits.MIB, 0.5)
    assert usual.least(others=True) == 2 * limits.MIB / limits.FETCH_SLOWER
    assert usual.least(others=False) == limits.FETCH_BYTES_PER_S
