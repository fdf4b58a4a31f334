"""The simulated wire: moves packets between hosts under virtual time, and knows nothing of what they mean.

One task delivers everything from one heap of (time, sequence, packet). A packet leaves when the sender's uplink is
free, travels, and arrives when the receiver's downlink is free; a slow sender does not occupy a fast receiver. What is
sent to or by a paused host waits; what is sent to a dead host, or across a partition, is lost.
Invariant: everything that happens is a function of the seed, the conditions and the order of calls.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import ClassVar

import trio

from gossipnode.net.simulated_conditions import Conditions
from gossipnode.net.virtual_time import Leap, Sleeper, Trace
from sampling.peers import PeerId


@dataclass(slots=True, eq=False)
class Host:
    """A machine as the wire sees it. A peer that restarts is a new host of the same name."""

    peer: PeerId
    port: int
    rng: random.Random
    up_bytes_per_s: float
    down_bytes_per_s: float
    alive: bool = True
    silent: bool = False  # died without its kernel closing anything: a power cut
    paused: bool = False
    inbox: list[Packet] = field(default_factory=list)  # arrived while paused
    outbox: list[Packet] = field(default_factory=list)  # sent while paused
    up_free_s: float = 0.0  # when the uplink has sent all it was given
    down_free_s: float = 0.0
    sent: int = 0  # bytes
    received: int = 0


class Packet:
    """Something on its way. Subclasses say what it does where it arrives, and what its loss means."""

    __slots__ = ("delay_s", "last_byte_s", "size", "source", "target")
    kind: ClassVar[str]

    def __init__(self, source: Host, target: Host, size: int) -> None:
        self.source = source
        self.target = target
        self.size = size
        self.delay_s: float | None = None  # drawn by the wire unless set
        self.last_byte_s = 0.0

    @abstractmethod
    def arrive(self) -> None: ...

    def lost(self) -> None:
        """The wire could not deliver it."""


class _Alarm(Packet):
    """Not a packet but a call at a time. It waits while its host is paused, and is forgotten when its host dies."""

    __slots__ = ("call",)
    kind = "alarm"

    def __init__(self, host: Host, call: Callable[[], None]) -> None:
        super().__init__(host, host, 0)
        self.call = call

    def arrive(self) -> None:
        self.call()


class Wire:
    def __init__(self, conditions: Conditions, trace: Trace | None) -> None:
        self.conditions = conditions
        self.deliveries = 0  # packets that arrived
        self.lost = 0  # bytes that were sent and will not arrive
        self.modelled_sent = 0  # bytes of `occupy`: they are no packets
        self.modelled_received = 0
        self.slowness: dict[PeerId, float] = {}  # how many times longer the ways to and from a peer are
        self._trace = trace
        self._heap: list[tuple[float, int, bool, Packet]] = []  # (time, sequence, wholly received, packet)
        self._sequence = 0
        self._sleep = trio.CancelScope()
        self._sleeper = Sleeper()  # instead of `_sleep`, where time leaps
        self._groups: dict[PeerId, int] = {}
        self._cuts: list[tuple[frozenset[PeerId], frozenset[PeerId]]] = []

    # -- time ---------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Deliver for ever."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, Leap):
            with clock.sleeper() as self._sleeper:
                await self._run_leaping()
        while True:
            self._deliver_due(trio.current_time())
            with trio.CancelScope() as self._sleep:
                self._sleep.deadline = self._heap[0][0] if self._heap else math.inf
                await trio.sleep_forever()

    async def _run_leaping(self) -> None:
        while True:
            self._deliver_due(trio.current_time())
            self._sleeper.due_s = self._heap[0][0] if self._heap else math.inf
            await self._sleeper.sleep()

    def _deliver_due(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, whole, packet = heappop(heap)
            if whole:
                self._deliver(packet, now)
            else:
                self._receive(packet, now)

    def _push(self, time_s: float, whole: bool, packet: Packet) -> None:
        self._sequence += 1
        heappush(self._heap, (time_s, self._sequence, whole, packet))
        if time_s < self._sleeper.due_s:
            self._sleeper.due_s = time_s
            self._sleeper.wake_if_due(trio.current_time())
        if time_s < self._sleep.deadline:
            self._sleep.deadline = time_s

    def at(self, time_s: float, host: Host, call: Callable[[], None]) -> None:
        self._push(time_s, True, _Alarm(host, call))

    # -- packets ------------------------------------------------------------------------------------------------------
    def send(self, packet: Packet) -> float:
        """Put it on the sender's uplink. Returns when its last byte will have left."""
        now = trio.current_time()
        source, target = packet.source, packet.target
        if source.paused:
            source.outbox.append(packet)
            return now
        if not source.alive:
            return now
        start = max(now, source.up_free_s)
        source.up_free_s = left = start + packet.size / source.up_bytes_per_s
        source.sent += packet.size
        if self.blocked(source.peer, target.peer):
            self._lose(packet, now)
            return left
        delay = packet.delay_s if packet.delay_s is not None else self.draw_delay_s(source, target.peer)
        packet.last_byte_s = left + delay
        self._push(start + delay, False, packet)
        return left

    def occupy(self, host: Host, sent: int, received: int) -> None:
        """Bytes that cost the host time and traffic without being delivered one by one."""
        now = trio.current_time()
        host.sent += sent
        host.received += received
        self.modelled_sent += sent
        self.modelled_received += received
        host.up_free_s = max(now, host.up_free_s) + sent / host.up_bytes_per_s
        host.down_free_s = max(now, host.down_free_s) + received / host.down_bytes_per_s

    def draw_delay_s(self, source: Host, target: PeerId) -> float:
        way_s = self.conditions.one_way_s(source.peer, target)
        if self.slowness:
            way_s *= max(self.slowness.get(source.peer, 1.0), self.slowness.get(target, 1.0))
        return way_s * (1.0 + self.conditions.jitter * source.rng.random())

    def _receive(self, packet: Packet, now: float) -> None:
        """The first byte is here; the last one comes when the sender has sent it and the downlink has carried it."""
        target = packet.target
        if not target.alive or self.blocked(packet.source.peer, target.peer):
            self._lose(packet, now)
            return
        target.down_free_s = max(now, target.down_free_s) + packet.size / target.down_bytes_per_s
        whole_s = max(packet.last_byte_s, target.down_free_s)
        if whole_s > now:
            self._push(whole_s, True, packet)
        else:
            self._deliver(packet, now)

    def _deliver(self, packet: Packet, now: float) -> None:
        target = packet.target
        if not target.alive:
            self._lose(packet, now)
        elif target.paused:
            target.inbox.append(packet)
        elif isinstance(packet, _Alarm):
            packet.arrive()
        else:
            target.received += packet.size
            self.deliveries += 1
            if self._trace is not None:
                self._trace.record(now, packet.kind, packet.source.peer, target.peer, packet.size)
            packet.arrive()

    def flying(self) -> int:
        """Bytes of packets under way."""
        return sum(packet.size for _, _, _, packet in self._heap)

    def _lose(self, packet: Packet, now: float) -> None:
        self.lost += packet.size
        if self._trace is not None and not isinstance(packet, _Alarm):
            self._trace.record(now, f"lost {packet.kind}", packet.source.peer, packet.target.peer, packet.size)
        packet.lost()

    # -- faults -------------------------------------------------------------------------------------------------------
    def blocked(self, source: PeerId, target: PeerId) -> bool:
        """Nothing gets through from `source` to `target`."""
        if not self.divided:
            return False
        if source in self._groups and self._groups.get(target, self._groups[source]) != self._groups[source]:
            return True
        return any(source in senders and target in receivers for senders, receivers in self._cuts)

    @property
    def divided(self) -> bool:
        """There is a partition or a cut."""
        return bool(self._groups or self._cuts)

    def partition(self, groups: Sequence[Collection[PeerId]]) -> None:
        self._groups = {peer: number for number, group in enumerate(groups) for peer in group}

    def cut(self, senders: Collection[PeerId], receivers: Collection[PeerId]) -> None:
        self._cuts.append((frozenset(senders), frozenset(receivers)))

    def heal(self) -> None:
        self._groups = {}
        self._cuts = []

    def resume(self, host: Host) -> None:
        """What waited for the host is delivered now, in order; then what it had to say is sent."""
        host.paused = False
        inbox, host.inbox = host.inbox, []
        outbox, host.outbox = host.outbox, []
        now = trio.current_time()
        for packet in inbox:
            self._push(now, True, packet)
        for packet in outbox:
            self.send(packet)
