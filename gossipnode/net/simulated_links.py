"""Links between simulated peers: dialling, accepting, refusing, closing, and noticing that the other end has vanished.

A link is one object with two ends, each opening, up or down by itself: after a fault one end may believe in a link that
the other has given up. No heartbeat is sent; instead every fault that a heartbeat would notice puts the link in doubt,
and a doubt that lasts for the detection time brings each end down.
Invariant: a packet is delivered only to an end that is up on the very link that carried it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

import trio

from gossipnode.net.simulated_conditions import FAREWELL_BYTES, HANDSHAKE_BYTES
from gossipnode.net.simulated_wire import Host, Packet, Wire
from gossipnode.net.trimming import surplus
from protocols import limits
from protocols.transport import BadAddress, LinkDown, LinkUp, Unreachable
from sampling.peers import PeerId

TRIM_S: Final = 1.0  # at most so often
USES: Final = frozenset({"question", "want"})  # packets that show that somebody has use for the link
HANDSHAKE_ROUND_TRIPS: Final = 4  # TCP, the choice of security, noise, the choice of muxer

T = TypeVar("T")


class Bounded(Generic[T]):
    """A channel in which the newest item displaces the oldest."""

    def __init__(self, capacity: int) -> None:
        self._send, self.receive = trio.open_memory_channel[T](capacity)

    def put(self, item: T) -> bool:
        """False if an item had to go."""
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(item)
            return False
        except trio.BrokenResourceError:  # its reader has closed it, and is about to leave
            pass
        return True

    def close(self) -> None:
        self._send.close()


class End(enum.Enum):
    OPENING = enum.auto()
    UP = enum.auto()
    DOWN = enum.auto()


class Link:
    __slots__ = ("_doubted", "_doubts", "acceptor", "dialler", "state")

    def __init__(self, dialler: Endpoint, acceptor: Endpoint) -> None:
        self.dialler = dialler
        self.acceptor = acceptor
        self.state = {dialler: End.OPENING, acceptor: End.OPENING}
        self._doubted = False
        self._doubts = 0  # how often doubt has begun or ended: tells a standing doubt from a former one

    def far(self, near: Endpoint) -> Endpoint:
        return self.acceptor if near is self.dialler else self.dialler

    def healthy(self) -> bool:
        """A probe sent now would be answered."""
        a, b = self.dialler, self.acceptor
        if End.DOWN in self.state.values() or not (a.host.alive and b.host.alive) or a.host.paused or b.host.paused:
            return False
        return not (a.wire.blocked(a.me, b.me) or a.wire.blocked(b.me, a.me))

    def review(self, *, renew: bool = False) -> None:
        """Called when something has changed that a heartbeat would notice. `renew` begins the detection anew."""
        healthy = self.healthy()
        if not healthy and self._doubted and not renew:
            return
        self._doubts += 1
        self._doubted = not healthy
        if not healthy:
            self._await_probes(self.dialler)
            self._await_probes(self.acceptor)

    def _await_probes(self, end: Endpoint) -> None:
        conditions = end.wire.conditions
        silence_s = conditions.detection_s + conditions.detection_spread_s * end.host.rng.random()
        end.wire.at(trio.current_time() + silence_s, end.host, partial(self._give_up, end, self._doubts))

    def _give_up(self, end: Endpoint, doubts: int) -> None:
        if self._doubts == doubts and self.state[end] is End.UP:
            end.down(self)


class Carried(Packet):
    """A packet on a link."""

    __slots__ = ("link", "receiver")

    def __init__(self, link: Link, sender: Endpoint, size: int) -> None:
        self.link = link
        self.receiver = link.far(sender)
        super().__init__(sender.host, self.receiver.host, size)

    def arrive(self) -> None:
        if self.link.state[self.receiver] is End.OPENING:  # overtook the acceptance, which it implies
            self.receiver.up(self.link)
        if self.link.state[self.receiver] is End.UP:
            self.receiver.receive(self)
        else:
            self.lost()


class Accept(Carried):
    __slots__ = ()
    kind = "accept"


class Farewell(Carried):
    __slots__ = ()
    kind = "farewell"

    def lost(self) -> None:
        self.link.review()


class Dial(Packet):
    __slots__ = ("link",)
    kind = "dial"

    def __init__(self, link: Link) -> None:
        super().__init__(link.dialler.host, link.acceptor.host, HANDSHAKE_BYTES)
        self.link = link
        way_s = link.dialler.wire.draw_delay_s(self.source, self.target.peer)
        self.delay_s = way_s * (2 * HANDSHAKE_ROUND_TRIPS - 1)

    def arrive(self) -> None:
        self.link.acceptor.dialled(self.link)

    def lost(self) -> None:
        """The machine of a process that has ended says so at once; a partition or a dead machine says nothing."""
        dialler, target = self.link.dialler, self.target
        if target.alive or target.silent or dialler.wire.blocked(target.peer, dialler.me):
            return
        arrival_s = trio.current_time() + dialler.wire.draw_delay_s(target, dialler.me)
        dialler.wire.at(arrival_s, dialler.host, partial(dialler.abandon, self.link))


class Refusal(Packet):
    __slots__ = ("link",)
    kind = "refusal"

    def __init__(self, link: Link) -> None:
        super().__init__(link.acceptor.host, link.dialler.host, FAREWELL_BYTES)
        self.link = link

    def arrive(self) -> None:
        self.link.dialler.abandon(self.link)


class _Attempt:
    """A dial that several callers may be waiting for."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.settled = trio.Event()


class Endpoint:
    """One host's links. What arrives on them goes to whoever has registered for its kind of packet."""

    def __init__(self, host: Host, wire: Wire, at_port: Callable[[int], Endpoint | None]) -> None:
        self.host = host
        self.me = host.peer
        self.wire = wire
        self.links: dict[PeerId, Link] = {}  # up at our end
        self._used_at: dict[PeerId, float] = {}  # when anything was last asked over the link, either way
        self._trimmed_at = -math.inf
        self.version = 0  # counts changes of `links`
        self._peers = 0, frozenset[PeerId]()  # as of that version
        self.address = f"/memory/{host.port}/p2p/{host.peer}"
        self._at_port = at_port
        self._known: dict[PeerId, tuple[str, ...]] = {}
        self._refused: set[PeerId] = set()
        self._dialling: dict[PeerId, _Attempt] = {}
        self._watchers: list[Bounded[LinkUp | LinkDown]] = []
        self._receivers: dict[type[Carried], Callable[[Any], None]] = {Accept: lambda _: None, Farewell: self._left}
        self._on_down: list[Callable[[Link], None]] = []

    # -- for the layers above -----------------------------------------------------------------------------------------
    def on(self, kind: type[Carried], receiver: Callable[[Any], None]) -> None:
        self._receivers[kind] = receiver

    def on_down(self, call: Callable[[Link], None]) -> None:
        self._on_down.append(call)

    def receive(self, packet: Carried) -> None:
        if packet.kind in USES:
            self._used_at[packet.source.peer] = trio.current_time()
        self._receivers[type(packet)](packet)

    def peers(self) -> frozenset[PeerId]:
        if self._peers[0] != self.version:
            self._peers = self.version, frozenset(self.links)
        return self._peers[1]

    async def link_to(self, peer: PeerId) -> Link:
        """The link to the peer, dialled if need be. Raises Unreachable."""
        if peer in self.links:
            self._used_at[peer] = trio.current_time()
            return self.links[peer]
        for address in self._known.get(peer, ()):
            try:
                await self.dial(address)
            except (BadAddress, Unreachable):
                continue
            if peer in self.links:
                return self.links[peer]
        raise Unreachable(f"no link to {peer}, and none of {len(self._known.get(peer, ()))} addresses answers")

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        watcher = Bounded[LinkUp | LinkDown](limits.LINK_EVENT_QUEUE)
        for peer in self.links:
            watcher.put(LinkUp(peer))
        self._watchers.append(watcher)
        try:
            yield watcher.receive
        finally:
            self._watchers.remove(watcher)
            watcher.close()
            watcher.receive.close()

    # -- dialling -----------------------------------------------------------------------------------------------------
    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._known[peer] = tuple(addresses[: limits.ADDRESSES_PER_PEER])

    async def dial(self, address: str) -> PeerId:
        port, peer = parse_address(address)
        far = self._at_port(port)
        if peer in self._refused or far is None:
            await trio.lowlevel.checkpoint()
            raise Unreachable(f"{peer} is refused here" if peer in self._refused else f"nothing listens at {address}")
        if far.me != peer or peer == self.me:
            await trio.sleep(self.wire.draw_delay_s(self.host, far.me) * 2)
            raise BadAddress(f"{far.me} answers at {address}")
        if peer not in self.links:
            await self._connect(far)
        return peer

    async def _connect(self, far: Endpoint) -> None:
        if len(self.links) >= limits.LINKS:
            await trio.lowlevel.checkpoint()
            raise Unreachable(f"{limits.LINKS} links are open, no room for {far.me}")
        attempt = self._dialling.get(far.me)
        if attempt is None:
            attempt = self._dialling[far.me] = _Attempt(Link(self, far))
            self.wire.send(Dial(attempt.link))
            deadline_s = trio.current_time() + self.wire.conditions.dial_timeout_s
            self.wire.at(deadline_s, self.host, partial(self.abandon, attempt.link))
        await attempt.settled.wait()
        if far.me not in self.links:
            raise Unreachable(f"{far.me} does not let us connect")

    def abandon(self, link: Link) -> None:
        """The dial has failed, unless it has succeeded."""
        if link.state[self] is End.OPENING:
            link.state[self] = End.DOWN
            self.wire.send(Farewell(link, self, FAREWELL_BYTES))
            self._settle(link)

    def _settle(self, link: Link) -> None:
        attempt = self._dialling.pop(link.far(self).me, None)
        if attempt is not None:
            attempt.settled.set()

    def dialled(self, link: Link) -> None:
        """The dialler's call has come in."""
        peer = link.dialler.me
        if peer in self._refused or len(self.links) >= limits.LINKS:
            self.wire.send(Refusal(link))
            return
        if peer in self._dialling and self.me < peer:
            return  # both dial at once: the call of the lower name stands
        if link.state[link.dialler] is End.DOWN:
            return  # the caller has hung up meanwhile, having taken our own call
        if peer in self.links:  # who dials has lost the old link
            self._replace(self.links[peer], link)
        else:
            self.up(link)
        self.wire.send(Accept(link, self, HANDSHAKE_BYTES))

    # -- up and down --------------------------------------------------------------------------------------------------
    def up(self, link: Link) -> None:
        self._take(link)
        self._tell(LinkUp(link.far(self).me))
        self._trim()

    def _trim(self) -> None:
        """As the real transport does. Who names an address is not known here, so that none is spared."""
        now = trio.current_time()
        if len(self.links) > limits.LINKS_KEPT and now >= self._trimmed_at + TRIM_S:
            self._trimmed_at = now
            for peer in surplus({peer: now - self._used_at[peer] for peer in self.links}, ()):
                self.down(self.links[peer])

    def _take(self, link: Link) -> None:
        """From now on this is the link to that peer."""
        far = link.far(self)
        attempt = self._dialling.get(far.me)
        if attempt is not None and attempt.link is not link:
            attempt.link.state[self] = End.DOWN  # ours gives way
        old = self.links.get(far.me)
        if old is not None and old is not link:
            old.state[self] = End.DOWN  # lest it is given up later, and takes this one with it
            old.review()
        link.state[self] = End.UP
        self.links[far.me] = link
        self._used_at[far.me] = trio.current_time()
        self.version += 1
        self._settle(link)
        link.review(renew=True)

    def _replace(self, old: Link, new: Link) -> None:
        if self.wire.conditions.restart_seen:
            self.down(old)
            return self.up(new)
        old.state[self] = End.DOWN
        self._take(new)
        noticed_s = trio.current_time() + self.wire.conditions.replaced_s
        return self.wire.at(noticed_s, self.host, partial(self._break, old))

    def _break(self, link: Link) -> None:
        for call in self._on_down:
            call(link)

    def down(self, link: Link, *, farewell: bool = True) -> None:
        far = link.far(self)
        link.state[self] = End.DOWN
        del self.links[far.me]
        del self._used_at[far.me]
        self.version += 1
        self._break(link)
        self._tell(LinkDown(far.me))
        if farewell:
            self.wire.send(Farewell(link, self, FAREWELL_BYTES))

    def _left(self, farewell: Farewell) -> None:
        self.down(farewell.link, farewell=False)

    def _tell(self, change: LinkUp | LinkDown) -> None:
        for watcher in self._watchers:
            watcher.put(change)

    def drop(self, peer: PeerId) -> None:
        if peer in self.links:
            self.down(self.links[peer])

    def refuse(self, peer: PeerId) -> None:
        self._refused.add(peer)

    def close(self) -> None:
        """End every link as a process that exits does; if its machine is gone, nobody is told."""
        for link in list(self.links.values()):
            if self.host.alive:
                self.down(link)
            else:
                link.state[self] = End.DOWN
                link.review()
        self.links.clear()
        self._used_at.clear()
        self.version += 1
        for watcher in self._watchers:
            watcher.close()


def parse_address(address: str) -> tuple[int, PeerId]:
    """Port and peer of /memory/<port>/p2p/<peer>. Raises BadAddress."""
    parts = address.split("/")
    if len(parts) != 5 or parts[0] or parts[1] != "memory" or parts[3] != "p2p" or not parts[4]:
        raise BadAddress(f"not an address of the simulated network: {address[: limits.ADDRESS_CHARS]!r}")
    if not (parts[2].isascii() and parts[2].isdigit()):
        raise BadAddress(f"not a port: {parts[2][: limits.ADDRESS_CHARS]!r}")
    return int(parts[2]), PeerId(parts[4])
