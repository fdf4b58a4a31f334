"""Models by digest: one fetch for many, resumed when it breaks, and the right peer blamed when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gossipnode.memoryblobs import MemoryBlobs
from protocols.blobs import StoreFull
from protocols.exchange import TRIES_PER_SOURCE, ModelExchange, NotFetched
from sampling.peers import PeerId
from verify.digest import digest_of
from verify.standing import OffenceKind

Links = Any  # conftest's
Court = Any

A, B, C, ME = PeerId("a"), PeerId("b"), PeerId("c"), PeerId("me")
MODEL = bytes(range(100))
FALSE = bytes(reversed(MODEL))
DIGEST = digest_of(MODEL)


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs(1000)


@pytest.fixture
def exchange(links: Links, blobs: MemoryBlobs, court: Court) -> ModelExchange:
    return ModelExchange(links, blobs, len(MODEL), court)


async def test_it_fetches_from_the_first_source(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court
) -> None:
    links.holding(A, MODEL)
    spare = links.holding(B, MODEL)
    await exchange.obtain(DIGEST, [A, B])
    assert await blobs.get(DIGEST) == MODEL
    assert spare.offsets == []
    assert court.accused == []


async def test_what_is_held_is_not_fetched(exchange: ModelExchange, links: Links, blobs: MemoryBlobs) -> None:
    await blobs.put(MODEL)
    source = links.holding(A, MODEL)
    await exchange.obtain(DIGEST, [A])
    assert source.offsets == []


async def test_many_want_it_and_it_is_fetched_once(exchange: ModelExchange, links: Links) -> None:
    source = links.holding(A, MODEL)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(exchange.obtain, DIGEST, [A])
    assert source.offsets == [0]


async def test_when_the_first_is_cancelled_another_goes_on(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs
) -> None:
    gate = trio.Event()
    source = links.holding(A, MODEL, gate=gate)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await exchange.obtain(DIGEST, [A])

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(exchange.obtain, DIGEST, [A])
        await wait_all_tasks_blocked()
        assert source.offsets == [0]
        scope.cancel()
        gate.set()
    assert DIGEST in blobs
    assert source.offsets == [0, 0]


async def test_when_the_first_fails_another_tries_its_own_sources(exchange: ModelExchange, links: Links) -> None:
    links.holding(B, MODEL)
    outcomes: list[str] = []

    async def want(source: PeerId) -> None:
        try:
            await exchange.obtain(DIGEST, [source])
            outcomes.append(f"{source}: got it")
        except NotFetched:
            outcomes.append(f"{source}: failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want, A)
        nursery.start_soon(want, B)
    assert "b: got it" in outcomes


async def test_a_broken_stream_is_resumed(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court
) -> None:
    source = links.holding(A, MODEL, cuts=[35, 70])
    await exchange.obtain(DIGEST, [A])
    assert source.offsets == [0, 35, 70]
    assert await blobs.get(DIGEST) == MODEL
    assert court.accused == []


async def test_it_is_resumed_from_another_source(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court
) -> None:
    broken = links.holding(A, MODEL, cuts=[30, 30, 30])
    links.holding(B, MODEL)
    await exchange.obtain(DIGEST, [A, B])
    assert broken.offsets == [0, 30, 30]
    assert links.holds[B, DIGEST].offsets == [30]
    assert await blobs.get(DIGEST) == MODEL
    assert court.accused == []


async def test_a_source_is_given_up_after_a_few_tries(exchange: ModelExchange, links: Links, court: Court) -> None:
    source = links.holding(A, MODEL, cuts=[10] * 10)
    with pytest.raises(NotFetched, match="the stream broke"):
        await exchange.obtain(DIGEST, [A])
    assert len(source.offsets) == TRIES_PER_SOURCE
    assert court.accused == []


async def test_a_stream_that_ends_early_is_a_broken_one(exchange: ModelExchange, links: Links, court: Court) -> None:
    links.holding(A, MODEL[:50], named=MODEL, size=len(MODEL))
    with pytest.raises(NotFetched, match="ended at 50 of 100 bytes"):
        await exchange.obtain(DIGEST, [A])
    assert court.accused == []


@pytest.mark.parametrize(
    ("size", "kind"), [(101, OffenceKind.OVERSIZE), (2**60, OffenceKind.OVERSIZE), (99, OffenceKind.UNFIT_MODEL)]
)
async def test_another_size_than_the_runs_is_an_offence_before_a_byte_flows(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court, size: int, kind: OffenceKind
) -> None:
    links.holding(A, MODEL, size=size)
    with pytest.raises(NotFetched):
        await exchange.obtain(DIGEST, [A])
    assert court.verdicts == [(A, kind)]
    assert (await blobs.receive(DIGEST, len(MODEL))).offset == 0


async def test_more_bytes_than_announced_are_an_offence(exchange: ModelExchange, links: Links, court: Court) -> None:
    links.holding(A, MODEL + b"more", named=MODEL, size=len(MODEL), step=95)
    links.holding(B, MODEL)
    await exchange.obtain(DIGEST, [A, B])
    assert court.verdicts == [(A, OffenceKind.OVERSIZE)]


async def test_a_wrong_blob_is_its_senders_offence(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court
) -> None:
    liar = links.holding(A, FALSE, named=MODEL)
    links.holding(B, MODEL)
    await exchange.obtain(DIGEST, [A, B])
    assert court.verdicts == [(A, OffenceKind.WRONG_DIGEST)]
    assert liar.offsets == [0]  # not asked again
    assert links.holds[B, DIGEST].offsets == [0]  # nothing of the lie was kept
    assert await blobs.get(DIGEST) == MODEL


@pytest.mark.parametrize("cuts", [[40] * 9, [1] * 9, [99] * 9])
async def test_who_finishes_a_poisoned_beginning_is_not_blamed(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court, cuts: list[int]
) -> None:
    links.holding(A, FALSE, named=MODEL, cuts=cuts)
    links.holding(B, MODEL)
    await exchange.obtain(DIGEST, [A, B])
    assert links.holds[B, DIGEST].offsets == [cuts[0], 0]
    assert await blobs.get(DIGEST) == MODEL
    assert B not in [peer for peer, _ in court.verdicts]


async def test_an_honest_source_with_a_bad_line_survives_a_poisoned_beginning(
    exchange: ModelExchange, links: Links, blobs: MemoryBlobs, court: Court
) -> None:
    links.holding(A, FALSE, named=MODEL, cuts=[40] * 9)
    links.holding(B, MODEL, cuts=[100, 60])
    await exchange.obtain(DIGEST, [A, B])
    assert await blobs.get(DIGEST) == MODEL
    assert B not in [peer for peer, _ in court.verdicts]


async def test_what_is_not_held_is_sought_elsewhere(exchange: ModelExchange, links: Links, court: Court) -> None:
    links.holding(C, MODEL)
    await exchange.obtain(DIGEST, [A, B, C])
    assert court.accused == []


async def test_nobody_to_ask(exchange: ModelExchange) -> None:
    for sources in ([], [ME]):
        with pytest.raises(NotFetched, match="nobody to ask"):
            await exchange.obtain(DIGEST, sources)


async def test_a_failure_says_what_each_source_did(exchange: ModelExchange, links: Links) -> None:
    links.holding(B, FALSE, named=MODEL)
    with pytest.raises(NotFetched) as caught:
        await exchange.obtain(DIGEST, [A, B])
    assert "a: not held" in str(caught.value)
    assert "b: " in str(caught.value)
    with pytest.raises(NotFetched):  # and it can be asked for again
        await exchange.obtain(DIGEST, [A])


async def test_a_store_too_small(links: Links, court: Court) -> None:
    links.holding(A, MODEL)
    small = ModelExchange(links, MemoryBlobs(50), len(MODEL), court)
    with pytest.raises(StoreFull):
        await small.obtain(DIGEST, [A])
    assert court.accused == []


async def test_what_an_owner_keeps_is_not_evicted(links: Links, court: Court) -> None:
    blobs = MemoryBlobs(250)
    exchange = ModelExchange(links, blobs, 100, court)
    one, two = await blobs.put(b"1" * 100), await blobs.put(b"2" * 100)
    exchange.keep("head", [one])
    exchange.keep("gathered", [one, two])
    with pytest.raises(StoreFull):
        await blobs.put(b"3" * 100)
    exchange.keep("gathered", [])
    three = await blobs.put(b"3" * 100)
    assert one in blobs
    assert two not in blobs
    exchange.keep("head", [three])
    await blobs.put(b"4" * 100)
    assert one not in blobs
    assert three in blobs
