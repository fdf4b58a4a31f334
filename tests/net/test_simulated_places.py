"""Regions, unequal lines, and bandwidth that differs between the two directions."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from gossipnode.net.simulated import Conditions, SimulatedTransport, regions, simulate_network, unequal
from gossipnode.net.simulated_places import LINE_S, REGIONS, region_of, round_trip_ms
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

BLOB = bytes(1_000_000)
NAMES = [PeerId(f"n{i}") for i in range(400)]


class OneBlob:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int:
        return len(BLOB)

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        return BLOB[offset : offset + length]


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


def test_the_table_of_regions_is_complete() -> None:
    for a, region in enumerate(REGIONS):
        for b in range(len(REGIONS)):
            assert round_trip_ms(a, b) == round_trip_ms(b, a)
            assert 2 <= round_trip_ms(a, b) <= 330, region
    assert round_trip_ms(REGIONS.index("tokyo"), REGIONS.index("london")) == 243


def test_peers_live_where_the_seed_puts_them() -> None:
    one, same, other = regions(1), regions(1), regions(2)
    names = NAMES[:30]
    for a in names:
        for b in names:
            assert one(a, b) == one(b, a) == same(b, a)
            way_ms = round_trip_ms(REGIONS.index(region_of(1, a)), REGIONS.index(region_of(1, b))) / 2
            assert way_ms / 1000 + 2 * LINE_S[0] <= one(a, b) <= way_ms / 1000 + 2 * LINE_S[1]
    assert any(one(a, b) != other(a, b) for a in names for b in names)


def test_every_region_has_its_share() -> None:
    found = Counter(region_of(3, peer) for peer in NAMES)
    assert set(found) == set(REGIONS)
    assert min(found.values()) > len(NAMES) / len(REGIONS) / 2


def test_lines_differ_a_hundredfold() -> None:
    speeds = [unequal(1, "bandwidth", 1e5, 1e7)(peer) for peer in NAMES]
    assert 1e5 <= min(speeds) < 1.2e5
    assert 0.8e7 < max(speeds) <= 1e7
    assert math.exp(sum(map(math.log, speeds)) / len(speeds)) == pytest.approx(1e6, rel=0.3)
    assert speeds == [unequal(1, "bandwidth", 1e5, 1e7)(peer) for peer in NAMES]
    assert speeds != [unequal(1, "compute", 1e5, 1e7)(peer) for peer in NAMES]


async def test_a_line_that_is_wide_one_way_only(autojump_clock: MockClock) -> None:
    conditions = Conditions(delay=0.0, jitter=0.0, bandwidth=1e5, downlink={NAMES[0]: 1e6, NAMES[1]: 1e6})
    async with simulate_network(conditions) as network, network.join(NAMES[0]) as a, network.join(NAMES[1]) as b:
        for node in (a, b):
            node.serve(echo, OneBlob())
        network.link(a.me, b.me)
        await _fetch_takes(a, b, 10.0)  # the uplink of the other holds it up
        network.slow(a.me, latency=1.0, bandwidth=100.0)
        await _fetch_takes(a, b, 100.0)  # now our own downlink does
        network.slow(a.me, latency=1.0, bandwidth=1.0)
        await _fetch_takes(a, b, 10.0)


async def _fetch_takes(receiver: SimulatedTransport, sender: SimulatedTransport, seconds: float) -> None:
    start = trio.current_time()
    async with receiver.fetch(sender.me, digest_of(BLOB)) as stream:
        while await stream.receive_some():
            pass
    assert trio.current_time() - start == pytest.approx(seconds, rel=0.03)
