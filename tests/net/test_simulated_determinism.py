"""One seed, one trace: whatever the hash seed, and in another process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from gossipnode.net.simulated import Conditions, Trace, scattered, simulate_network
from gossipnode.net.virtual_time import Leap, Sleeper, run_deterministic
from protocols.transport import TransportError
from sampling.peers import PeerId
from verify.digest import Digest

BLOB = bytes(200_000)
ROOT = Path(__file__).parents[2]


class OneBlob:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int:
        return len(BLOB)

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        return BLOB[offset : offset + length]


async def busy_swarm(seed: int, n: int = 12) -> tuple[str, int]:
    """Everything at once: dials, questions, blobs, gossip, loss, a crash, a partition. Gives digest and events."""
    trace = Trace()
    conditions = Conditions(
        delay=scattered(seed), bandwidth=1e6, request_loss=0.05, gossip_loss=0.05, gossip_duplication=0.1,
        request_reordering=0.1, gossip_degree=3,
    )  # fmt: skip
    async with simulate_network(conditions, seed=seed, trace=trace) as network, trio.open_nursery() as nursery:
        addresses: dict[int, str] = {}

        async def node(i: int) -> None:
            async with network.join(PeerId(f"n{i}")) as me, me.subscribe("t") as channel:
                addresses[i] = me.addresses()[0]

                async def answer(peer: PeerId, frame: bytes) -> bytes:
                    await trio.sleep(0.01)
                    return frame

                me.serve(answer, OneBlob())
                await trio.sleep(0.1)
                for step in (1, 3):
                    await me.dial(addresses[(i + step) % n])
                for turn in range(6):
                    await me.publish("t", b"%d" % turn)
                    for peer in sorted(me.peers()):
                        try:
                            await me.request(peer, bytes(turn * 50), timeout_s=1.0)
                            async with me.fetch(peer, Digest(bytes(32)), offset=150_000) as stream:
                                while await stream.receive_some():
                                    pass
                        except TransportError:
                            await me.drop(peer)
                    while True:
                        try:
                            channel.receive_nowait()
                        except (trio.WouldBlock, trio.EndOfChannel):
                            break

        for i in range(n):
            nursery.start_soon(node, i)
        with trio.move_on_after(60.0):
            await trio.sleep(2.0)
            network.crash(PeerId("n3"))
            await trio.sleep(2.0)
            network.partition([{PeerId(f"n{i}") for i in range(5)}, {PeerId(f"n{i}") for i in range(5, n)}])
            await trio.sleep(20.0)
            network.heal()
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    return trace.digest(), trace.events


def digest_in_another_process(seed: int, hash_seed: int) -> str:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    code = f"import {Path(__file__).stem} as t; print(t.run_deterministic(t.busy_swarm, {seed}, seed={seed})[0])"
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_one_seed_gives_one_trace_in_any_process() -> None:
    assert digest_in_another_process(7, 1) == digest_in_another_process(7, 4242)


def test_one_seed_gives_one_trace_and_another_another() -> None:
    one, events = run_deterministic(busy_swarm, 7, seed=7)
    assert events > 500
    assert run_deterministic(busy_swarm, 7, seed=7) == (one, events)
    assert run_deterministic(busy_swarm, 8, seed=8)[0] != one


def test_virtual_time_costs_no_time() -> None:
    start = time.monotonic()
    assert run_deterministic(trio.sleep, 1e6, seed=0) is None
    assert time.monotonic() - start < 10.0


def test_the_scheduler_is_left_as_it_was_found() -> None:
    import trio._core._run as scheduler

    before = scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    run_deterministic(trio.sleep, 1, seed=5)
    with pytest.raises(ValueError, match="five"):
        run_deterministic(fail, seed=5)
    assert (scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING) == before


async def fail() -> None:
    raise ValueError("five")


def test_a_trace_tells_events_apart() -> None:
    traces = [Trace() for _ in range(4)]
    a, b = PeerId("a"), PeerId("b")
    traces[0].record(1.0, "question", a, b, 5)
    traces[1].record(1.0, "question", b, a, 5)
    traces[2].record(1.5, "question", a, b, 5)
    assert len({trace.digest() for trace in traces}) == 4


def test_time_leaps_to_the_next_deadline_and_stands_still_between() -> None:
    async def sleepers() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []

        async def sleeper(number: int) -> None:
            for _ in range(3):
                await trio.sleep(number * 0.5)
                woken.append((trio.current_time(), number))

        async with trio.open_nursery() as nursery:
            for number in (3, 1, 2):
                nursery.start_soon(sleeper, number)
            before = trio.current_time()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert trio.current_time() == before
        return woken

    woken = run_deterministic(sleepers, seed=0)
    assert [time for time, _ in woken] == [0.5, 1.0, 1.0, 1.5, 1.5, 2.0, 3.0, 3.0, 4.5]
    assert sorted(woken) == sorted((number * turn * 0.5, number) for number in (1, 2, 3) for turn in (1, 2, 3))


def test_a_sleeper_is_woken_when_its_time_is_brought_forward() -> None:
    async def woken_at() -> list[float]:
        times: list[float] = []
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, Leap)

        async def doze(sleeper: Sleeper, *due_s: float) -> None:
            for each_s in due_s:
                sleeper.due_s = each_s
                await sleeper.sleep()
                times.append(trio.current_time())

        with clock.sleeper() as sleeper, trio.move_on_after(100.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(doze, sleeper, 1.0, 50.0, math.inf)
                await trio.sleep(2.0)
                sleeper.due_s = 5.0
                await trio.sleep(10.0)
        return times

    assert run_deterministic(woken_at, seed=0) == [1.0, 5.0]
