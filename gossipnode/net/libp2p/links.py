"""Who is linked to us, how a link comes about, and how it is noticed that a peer has vanished.

Only this module dials. Callers that want the same peer share one attempt. A peer that goes without a FIN (power cut,
SIGSTOP) keeps its TCP connection for many minutes, and a libp2p that has not noticed sends its gossip there even after
the peer is back: so a silent wire is asked for a sign of life, and cut when none comes. Several connections to one peer
are one link.
"""

from __future__ import annotations

import logging
import struct
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT
from libp2p.transport.exceptions import OpenConnectionError

from gossipnode.net.libp2p.addresses import Endpoint, dialable, name_of, peer_id
from gossipnode.net.libp2p.faults import one_line
from gossipnode.net.libp2p.guards import BROKEN, GuardedSwarm
from gossipnode.net.libp2p.sockets import Wire, wire_under
from gossipnode.net.trimming import surplus
from protocols import limits
from protocols.transport import BadAddress, LinkDown, LinkUp, Unreachable
from sampling.peers import PeerId

log = logging.getLogger("gossipnode.net")

DIAL_S: Final = 8.0  # a handshake takes four round trips: eight seconds serve links of a second on a busy machine
STAGGER_S: Final = 0.1  # between the addresses of one peer, so that the first listed usually wins


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Silence of a wire, in seconds. Twelve bytes each way a ping, so it costs nothing worth saving."""

    ask_after_s: float = 5.0  # about four pings before the verdict: one lost segment is not a death
    dead_after_s: float = 20.0  # a peer may stall some seconds under load; membership waits longer than this anyway


@dataclass(slots=True)
class Attempt:
    done: trio.Event = field(default_factory=trio.Event)
    failure: Unreachable | None = None


class WrongPeer(Exception):
    """Somebody answered, but not the peer that was dialled."""


class Links(INotifee):
    def __init__(self, host: BasicHost, heartbeat: Heartbeat) -> None:
        self._host = host
        self._swarm = host.get_network()
        assert isinstance(self._swarm, GuardedSwarm)
        self.refused: set[PeerId] = self._swarm.refused
        self._me = name_of(host.get_id())
        self._heartbeat = heartbeat
        self._open: dict[PeerId, set[INetConn]] = {}
        self._listeners: list[trio.MemorySendChannel[LinkUp | LinkDown]] = []
        self._known: OrderedDict[PeerId, tuple[Endpoint, ...]] = OrderedDict()
        self._attempts: dict[PeerId, Attempt] = {}
        self._used_at: dict[PeerId, float] = {}  # when anything was last asked over the link, either way
        self._named: dict[PeerId, None] = {}  # dialled by address: the operator's, or tried as such

    # -- what is up ---------------------------------------------------------------------------------------------------

    def peers(self) -> frozenset[PeerId]:
        return frozenset(self._open)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        send, receive = trio.open_memory_channel[LinkUp | LinkDown](limits.LINK_EVENT_QUEUE)
        for peer in self._open:
            send.send_nowait(LinkUp(peer))
        self._listeners.append(send)
        try:
            yield receive
        finally:
            self._listeners.remove(send)
            send.close()
            receive.close()

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        await trio.lowlevel.checkpoint()
        if conn.is_closed:
            return
        peer = name_of(conn.muxed_conn.peer_id)
        former = set(self._open.get(peer, ()))
        self._open.setdefault(peer, set()).add(conn)
        wire_under(conn).linked = True
        self.used(peer)
        if not former:
            self._tell(LinkUp(peer))
        for old in former:  # a peer that dials again may have lost them without our noticing
            wire = wire_under(old)
            wire.heard_at = min(wire.heard_at, trio.current_time() - self._heartbeat.dead_after_s + DIAL_S)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        await trio.lowlevel.checkpoint()
        raw = conn.muxed_conn.peer_id
        peer = name_of(raw)
        conns = self._open.get(peer)
        if conns is None or conn not in conns:
            return
        conns.discard(conn)
        if not conns:
            del self._open[peer]
            del self._used_at[peer]
            with suppress(PeerStoreError):  # nothing was kept
                self._host.get_peerstore().clear_peerdata(raw)  # or it keeps what every stranger ever said of itself
            self._tell(LinkDown(peer))

    def used(self, peer: PeerId) -> None:
        """Something was asked or fetched over the link: it is of use."""
        if peer in self._open:
            self._used_at[peer] = trio.current_time()

    def trim(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for peer in surplus({peer: now - at for peer, at in self._used_at.items()}, self._named):
            log.debug("%s: the link is idle, and there are many", peer)
            nursery.start_soon(self.drop, peer)

    def _tell(self, event: LinkUp | LinkDown) -> None:
        log.debug("%s", event)
        for listener in self._listeners:
            try:
                listener.send_nowait(event)
            except trio.WouldBlock:
                log.warning("nobody reads link events: %s was lost", event)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: object) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: object) -> None:
        pass

    # -- signs of life ------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                slept_from = trio.current_time()
                await trio.sleep(self._heartbeat.ask_after_s / 2)
                late_s = trio.current_time() - slept_from - self._heartbeat.ask_after_s / 2
                self.beat(nursery, late_s=late_s)
                self.trim(nursery)

    def beat(self, nursery: trio.Nursery, *, late_s: float = 0.0) -> None:
        """Judge every wire by how long it has been silent. `late_s`: we slept through that much ourselves."""
        for conn in [conn for conns in self._open.values() for conn in conns]:
            wire = wire_under(conn)
            wire.heard_at += late_s
            match self.verdict(trio.current_time() - wire.heard_at):
                case "ask":
                    nursery.start_soon(ping, conn, self._heartbeat.ask_after_s)
                case "dead":
                    log.info("%s has been silent for too long: link closed", name_of(conn.muxed_conn.peer_id))
                    wire.cut()

    def verdict(self, silent_s: float) -> Literal["alive", "ask", "dead"]:
        if silent_s < self._heartbeat.ask_after_s:
            return "alive"
        return "ask" if silent_s < self._heartbeat.dead_after_s else "dead"

    # -- connecting ---------------------------------------------------------------------------------------------------

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        endpoints: list[Endpoint] = []
        for address in addresses[: limits.ADDRESSES_PER_PEER]:
            try:
                endpoint, named = dialable(address)
            except BadAddress as error:
                log.debug("an address of %s is of no use: %s", peer, error)
                continue
            if named == peer:
                endpoints.append(endpoint)
        self._known[peer] = tuple(endpoints)
        self._known.move_to_end(peer)
        if len(self._known) > limits.VIEW_PEERS:
            self._known.popitem(last=False)

    async def connect(self, peer: PeerId) -> None:
        """Return with a link, made from what we know if there is none. Raises Unreachable."""
        while peer not in self._open:
            if (attempt := self._attempts.get(peer)) is None:
                with self._attempt(peer):
                    await self._dial_known(peer)
                continue
            await attempt.done.wait()
            if attempt.failure is not None:
                raise Unreachable(str(attempt.failure))
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _attempt(self, peer: PeerId) -> Iterator[None]:
        """Make the attempt that others wait for. If it is cancelled, one of them makes its own."""
        attempt = self._attempts[peer] = Attempt()
        try:
            yield
        except Unreachable as error:
            attempt.failure = error
            raise
        finally:
            del self._attempts[peer]
            attempt.done.set()

    async def _dial_known(self, peer: PeerId) -> None:
        if not (endpoints := self._known.get(peer)):
            raise Unreachable(f"{peer} is not linked and none of its addresses is known")
        failures: list[str] = []
        async with trio.open_nursery() as nursery:

            async def race(endpoint: Endpoint, wait_s: float) -> None:
                await trio.sleep(wait_s)
                try:
                    await self._reach(endpoint, peer)
                    nursery.cancel_scope.cancel()
                except (Unreachable, WrongPeer) as error:
                    failures.append(str(error))

            for place, endpoint in enumerate(endpoints):
                nursery.start_soon(race, endpoint, place * STAGGER_S)
        if peer not in self._open:
            raise Unreachable("; ".join(failures) or f"{peer} closed the link at once")

    async def dial(self, address: str) -> PeerId:
        """Raises BadAddress or Unreachable."""
        endpoint, peer = dialable(address)
        if peer == self._me:
            raise BadAddress(f"{address} is this node's own address")
        self._named[peer] = None
        while peer not in self._open:
            if (attempt := self._attempts.get(peer)) is not None:
                await attempt.done.wait()
                continue
            try:
                with self._attempt(peer):
                    await self._reach(endpoint, peer)
            except WrongPeer as error:
                raise BadAddress(str(error)) from error
        await trio.lowlevel.checkpoint()
        return peer

    async def _reach(self, endpoint: Endpoint, peer: PeerId) -> None:
        """One attempt at one address. Raises Unreachable or WrongPeer, each with the address and the cause."""
        place = f"{peer} at {endpoint.multiaddr}"
        if peer in self.refused:
            raise Unreachable(f"{place} is refused by us")
        try:
            # dial_addr, not dial_peer: that waits 250 ms for a second address and holds failures against a peer
            with trio.fail_after(DIAL_S):
                conn = await self._swarm.dial_addr(endpoint.multiaddr, peer_id(peer))
        except trio.TooSlowError as error:
            raise Unreachable(f"{place}: no answer within {DIAL_S:g} s") from error
        except SwarmException as error:
            cause = first_cause(error)
            if isinstance(cause, PeerIDMismatchesPubkey):
                raise WrongPeer(f"{place}: another peer answers there") from error
            raise Unreachable(f"{place}: {said_of(cause)}") from error
        if conn.is_closed:
            raise Unreachable(f"{place} closed the link at once")

    async def drop(self, peer: PeerId) -> None:
        async with trio.open_nursery() as nursery:
            for conn in tuple(self._open.get(peer, ())):
                nursery.start_soon(close, conn)


async def ping(conn: INetConn, timeout_s: float) -> None:
    """Yamux's own ping: every implementation answers it, without a stream. The answer shows on the wire."""
    muxed = conn.muxed_conn
    with trio.move_on_after(timeout_s):
        try:
            await muxed._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 0))  # type: ignore[attr-defined]  # yamux is the only muxer we offer
        except BROKEN:
            return
        muxed._ping_sent_time = trio.current_time()  # type: ignore[attr-defined]  # or yamux takes our echo for a slow one


CLOSE_S: Final = 0.5  # for a GO_AWAY; a peer that does not read gets none


async def close(conn: INetConn) -> None:
    """Politely if the peer reads, and in any case: its LinkDown has been told when this returns."""
    wire = wire_under(conn)
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_later, wire)
            try:
                await conn.close()
            except BROKEN as error:
                log.debug("closing a link failed: %s", error)
            nursery.cancel_scope.cancel()
    wire.cut()


async def _cut_later(wire: Wire) -> None:
    await trio.sleep(CLOSE_S)
    wire.cut()


def first_cause(error: BaseException) -> BaseException:
    """The first in the chain that says something to an operator, or else the last."""
    while error.__cause__ is not None and not isinstance(error, (OpenConnectionError, PeerIDMismatchesPubkey)):
        error = error.__cause__
    return error


def said_of(cause: BaseException) -> str:
    if isinstance(cause, (OpenConnectionError, SwarmException)):
        return one_line(cause.args[0] if cause.args else cause)
    return f"it does not speak our protocol, or not with our key ({one_line(cause)})"
