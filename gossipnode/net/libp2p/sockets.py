"""TCP below libp2p: our listeners, our dialler, and a wire that counts bytes and knows when it last heard the peer.

We bring our own because py-libp2p's listener sets SO_REUSEPORT (two daemons would silently share a port), hides why it
could not bind, keeps a task and a slot for every connection that ever came in, and resolves names past /etc/hosts.
A closed wire takes its accepting task with it, and closing a wire never waits for the peer.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no stubs

from gossipnode.errors import OperatorError
from gossipnode.net.libp2p.addresses import Endpoint, listenable
from gossipnode.net.libp2p.quick import tcp_stream
from protocols import limits
from protocols.rates import Grant, Rates
from protocols.transport import BadAddress, Traffic

log = logging.getLogger("gossipnode.net")

READ_AHEAD_BYTES: Final = 256 * limits.KIB  # libp2p asks for two bytes, then a frame: one system call serves several
HANDSHAKES: Final = 64  # sockets beyond LINKS that may be shaking hands; each ends or is cut within 10 s


class ListenError(OperatorError):
    """No socket could be bound. Its text is one line for the operator."""


class Tally:
    """Bytes and drops since start; one per transport."""

    def __init__(self) -> None:
        self.wire_sent = self.wire_received = self.blob_sent = self.blob_received = self.gossip_dropped = 0

    def traffic(self) -> Traffic:
        return Traffic(
            wire_sent=self.wire_sent,
            wire_received=self.wire_received,
            blob_sent=self.blob_sent,
            blob_received=self.blob_received,
            gossip_dropped=self.gossip_dropped,
        )


class Wire:
    """A connected socket, as libp2p's TrioTCPStream wants it."""

    def __init__(self, stream: trio.SocketStream, tally: Tally, wires: set[Wire]) -> None:
        self.socket = stream.socket
        self.closed = trio.Event()
        self.linked = False  # its handshakes are done
        self.heard_at = trio.current_time()
        self._stream = stream
        self._tally = tally
        self._wires = wires
        self._ahead = memoryview(b"")
        wires.add(self)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)
        self._tally.wire_sent += len(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(await self._stream.receive_some(READ_AHEAD_BYTES))
            self._tally.wire_received += len(self._ahead)
            self.heard_at = trio.current_time()
        taken = bytes(self._ahead[:max_bytes])
        self._ahead = self._ahead[len(taken) :]
        return taken

    def cut(self) -> None:
        """Close at once, whoever is reading or writing; they learn it as a closed resource."""
        self.socket.close()
        self._wires.discard(self)
        self.closed.set()

    async def aclose(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()


LAYERS: Final = ("muxed_conn", "secured_conn", "conn", "read_writer", "read_write_closer", "_conn", "stream")


def wire_under(layer: object) -> Wire:
    """The wire below a libp2p connection: swarm, yamux, noise, message framing, private network, raw, TCP."""
    while not isinstance(layer, Wire):
        layer = next(getattr(layer, name) for name in LAYERS if hasattr(layer, name))
    return layer


async def bind(addresses: Sequence[str]) -> dict[str, list[trio.SocketListener]]:
    """Bound sockets by the address asked for. Raises ListenError."""
    bound: dict[str, list[trio.SocketListener]] = {}
    try:
        for address in addresses:
            bound[str(listenable(address).multiaddr)] = await _bind_one(address)
    except BaseException:
        for listener in (each for listeners in bound.values() for each in listeners):
            listener.socket.close()
        raise
    return bound


async def _bind_one(address: str) -> list[trio.SocketListener]:
    try:
        endpoint = listenable(address)
        return list(await trio.open_tcp_listeners(endpoint.port, host=endpoint.host))
    except BadAddress as error:
        raise ListenError(f"cannot listen: {error}") from error
    except (OSError, OverflowError) as error:
        raise ListenError(f"cannot listen on {address}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why a socket call failed, in the operating system's words: `address already in use`, `connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return os.strerror(cause.errno).lower()
        error, cause = cause, cause.__cause__
    return str(error)


Accept = Callable[[TrioTCPStream], Awaitable[None]]


class Tcp(ITransport):
    """libp2p's view of this node's sockets. Runs its listeners in the nursery it is given."""

    def __init__(self, bound: dict[str, list[trio.SocketListener]], tally: Tally, nursery: trio.Nursery) -> None:
        self.bound = bound
        self.tally = tally
        self.nursery = nursery
        self.wires: set[Wire] = set()
        self._strangers: dict[Wire, None] = {}  # that came in and have not been linked yet, oldest first
        self._accepts = Rates[str](
            limits.ACCEPTS_PER_HOST_PER_S,
            limits.ACCEPTS_PER_S,
            burst_s=limits.ACCEPTS_BURST_S,
            remembered=limits.LINKS,
        )

    def adopt(self, stream: trio.SocketStream) -> Wire:
        return Wire(stream, self.tally, self.wires)

    def take(self, stream: trio.SocketStream) -> Wire | None:
        """A socket that has come in. None: too many come from there, or at all.

        Where there is no room, whoever has been shaking hands for longest gives way: an honest peer needs half a
        second, one that only holds the place has no better claim to it than the next.
        """
        if self._accepts.take(host_of(stream), trio.current_time()) is not Grant.YES:
            return None
        self._strangers = {wire: None for wire in self._strangers if wire in self.wires and not wire.linked}
        if len(self.wires) >= limits.LINKS + HANDSHAKES:
            if not self._strangers:
                return None
            next(iter(self._strangers)).cut()
        wire = self.adopt(stream)
        self._strangers[wire] = None
        return wire

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        host = next(p.name for p in maddr.protocols())
        try:
            stream = await trio.open_tcp_stream(maddr.value_for_protocol(host), int(maddr.value_for_protocol("tcp")))
        except OSError as error:
            raise OpenConnectionError(reason(error)) from error
        return RawConnection(tcp_stream(self.adopt(stream)), True)

    def create_listener(self, handler_function: Accept) -> IListener:
        return Listener(self, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        return "tcp" in {p.name for p in maddr.protocols()}

    can_listen = can_dial

    def protocols(self) -> list[str]:
        return ["tcp"]

    def cut_all(self) -> None:
        for wire in tuple(self.wires):
            wire.cut()

    def endpoints(self) -> list[Endpoint]:
        return [_endpoint(listener) for listeners in self.bound.values() for listener in listeners]


def host_of(stream: trio.SocketStream) -> str:
    """Whose socket it is: the address, of IPv6 the half that the provider gives out whole."""
    try:
        host = str(stream.socket.getpeername()[0])
    except OSError:  # it has gone already
        return ""
    return host if "." in host else str(ipaddress.IPv6Network((host.partition("%")[0], 64), strict=False))


def _endpoint(listener: trio.SocketListener) -> Endpoint:
    host, port = listener.socket.getsockname()[:2]
    return Endpoint(host, port, "ip6" if ":" in host else "ip4")


class Listener(IListener):
    """Serves sockets that are bound already."""

    def __init__(self, tcp: Tcp, accept: Accept) -> None:
        self._tcp = tcp
        self._accept = accept
        self._scope = trio.CancelScope()
        self._listeners: list[trio.SocketListener] = []

    async def listen(self, maddr: Multiaddr) -> None:
        self._listeners = self._tcp.bound[str(maddr)]
        self._tcp.nursery.start_soon(self._serve)
        await trio.lowlevel.checkpoint()

    async def _serve(self) -> None:
        with self._scope:
            await trio.serve_listeners(self._greet, self._listeners)

    async def _greet(self, stream: trio.SocketStream) -> None:
        wire = self._tcp.take(stream)
        if wire is None:
            await stream.aclose()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upgrade, wire)
            # libp2p's handler of a connection returns only when the whole host stops: let the wire's end end it.
            await wire.closed.wait()
            nursery.cancel_scope.cancel()

    async def _upgrade(self, wire: Wire) -> None:
        try:
            await self._accept(tcp_stream(wire))
        except Exception as error:  # whatever a stranger's first bytes provoke ends that socket only
            log.debug("a connection was not taken: %s", error)
        finally:
            wire.cut()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(_endpoint(listener).multiaddr for listener in self._listeners)

    async def close(self) -> None:
        self._scope.cancel()
        for listener in self._listeners:
            listener.socket.close()
        await trio.lowlevel.checkpoint()
