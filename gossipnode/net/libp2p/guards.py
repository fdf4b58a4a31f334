"""A libp2p host that peers cannot kill, and that does nothing of its own accord.

In py-libp2p 0.8.1 any exception in a stream handler ends the whole host; the swarm dials peers it has heard of, keeps a
slot for every inbound connection it ever had, and remembers failures for a minute. Here a stream's failure ends that
stream, only `links` dials, and a peer that is refused, or has no Ed25519 name, gets no connection. Its own logging goes
to `gossipnode.net` at DEBUG, one line each.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.io.exceptions import IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader

from gossipnode.net.libp2p.addresses import name_of, peer_id
from gossipnode.net.libp2p.faults import Faults, one_line
from gossipnode.net.libp2p.quick import QuickYamux, QuickYamuxStream, quicken
from gossipnode.net.libp2p.sockets import Tcp
from protocols import limits
from protocols.rates import Grant, Rates
from sampling.peers import PeerId

log = logging.getLogger("gossipnode.net")

# What a stream raises when its connection, or the peer, has gone: nobody's fault.
BROKEN: Final = (
    IOException,
    MuxedConnError,
    MuxedStreamError,
    RawConnError,
    StreamError,
    StreamFailure,
    SwarmException,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
LINKS_PER_PEER: Final = 4  # two when both dial at once, and as many again that a restarted peer left half open
STREAMS_PER_PEER: Final = 64  # inbound and not yet finished: requests, fetches, pubsub and identify need under 32
STREAMS_CROWDED: Final = 1024  # of all peers; each may have a window of 256 KiB unread
STREAMS_IN_A_CROWD: Final = 8  # a peer's then: enough for its questions, a fetch and gossip
OPEN_S: Final = 5.0  # for a new stream's first frame to leave, and a place among the 256 that yamux grants
HANDSHAKE_S: Final = 10.0  # for TLS-like upgrades and for negotiating a stream's protocol; libp2p's own default
RESET_S: Final = 1.0  # a reset is a twelve-byte frame; it waits only behind a peer that does not read


class Dormant(AutoConnector):
    """Membership decides whom we dial, nobody else."""

    async def maybe_connect(self) -> None:
        await trio.lowlevel.checkpoint()

    def record_disconnect(self, peer_id: ID) -> None:
        pass


class GuardedSwarm(Swarm):
    refused: set[PeerId]

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        await trio.lowlevel.checkpoint()
        raise SwarmException(f"no link to {peer_id}")

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        if problem := self._objection(muxed_conn.peer_id):
            await muxed_conn.close()
            raise SwarmException(problem)
        return await super().add_conn(muxed_conn, direction)

    def _objection(self, raw: ID) -> str:
        try:
            peer = name_of(peer_id(str(raw)))
        except ValueError:
            return "its name holds no Ed25519 key"
        if raw == self.get_peer_id():
            return "it is this node itself"
        if peer in self.refused:
            return "it is refused"
        return "it has too many links" if len(self.get_connections(raw)) >= LINKS_PER_PEER else ""


class GuardedHost(BasicHost):
    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Raises one of BROKEN. Whoever is cancelled leaves no stream behind: the peer would count it against us, and
        the 256th would be our last to it."""
        stream: INetStream | None = None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + OPEN_S):
            stream = await self._network.new_stream(peer_id)
        if stream is None:
            raise StreamFailure(f"no stream to {peer_id} within {OPEN_S:g} s")
        try:
            chosen = await self.multiselect_client.select_one_of(
                protocol_ids, MultiselectCommunicator(stream), int(HANDSHAKE_S)
            )
        except MultiselectClientError as error:
            await reset(stream)
            raise StreamFailure(f"no stream to {peer_id}: {one_line(error)}") from error
        except BaseException:
            await reset(stream)
            raise
        stream.set_protocol(chosen)
        return stream


def new_host(keys: KeyPair, tcp: Tcp, psk: bytes | None, faults: Faults) -> BasicHost:
    """Noise and yamux over our own TCP. No resource manager: its counters leak, and the limits here are ours."""
    quicken()
    me = ID.from_pubkey(keys.public_key)
    store = PeerStore()
    store.add_key_pair(me, keys)
    upgrader = TransportUpgrader(
        {NOISE: Noise(keys, noise_privkey=new_noise_key_pair().private_key)}, {TProtocol(YAMUX): QuickYamux}
    )
    swarm = GuardedSwarm(
        me,
        store,
        upgrader,
        transports=[tcp],
        retry_config=RetryConfig(max_retries=0),
        connection_config=_connection_config(),
        psk=None if psk is None else psk.hex(),
    )
    swarm.refused = set()
    swarm.auto_connector = Dormant(swarm)
    swarm._inbound_limiter = trio.CapacityLimiter(math.inf)  # it counts handshakes as links; `Tcp.take` does not
    host = GuardedHost(network=swarm, disable_identify_address_discovery=True)
    swarm.set_stream_handler(guarded(swarm.common_stream_handler, faults))
    return host


def _connection_config() -> ConnectionConfig:
    return ConnectionConfig(
        max_connections=limits.LINKS,
        min_connections=0,
        low_watermark=0,
        high_watermark=limits.LINKS,
        max_connections_per_peer=LINKS_PER_PEER,
        inbound_upgrade_timeout=HANDSHAKE_S,
        outbound_upgrade_timeout=HANDSHAKE_S,
    )


StreamTask = Callable[[INetStream], Awaitable[None]]


def guarded(inner: StreamTask, faults: Faults) -> StreamTask:
    """The swarm's handler of inbound streams: whatever one of them raises ends that one."""
    unfinished: Counter[ID] = Counter()
    rates = Rates[ID](limits.STREAMS_PER_PEER_PER_S, 2 * limits.REQUESTS_PER_S, remembered=limits.LINKS)

    async def guard(stream: INetStream) -> None:
        raw = stream.muxed_conn.peer_id
        in_time = rates.take(raw, trio.current_time())
        crowded = unfinished.total() >= STREAMS_CROWDED and unfinished[raw] >= STREAMS_IN_A_CROWD
        if in_time is not Grant.YES or unfinished[raw] >= STREAMS_PER_PEER or crowded:
            if in_time is Grant.TOO_FAST or unfinished[raw] >= STREAMS_PER_PEER:
                faults.note(name_of(raw), "flood", "too many streams at once")
            await reset(stream)
            return
        unfinished[raw] += 1
        try:
            await inner(stream)
        except BROKEN as error:
            log.debug("a stream of %s broke: %s", raw, one_line(error))
            await reset(stream)
        except Exception as error:  # whatever a peer's bytes provoke in a handler must not leave this stream
            faults.note(name_of(raw), "garbage", error)
            await reset(stream)
        finally:
            unfinished[raw] -= 1
            if not unfinished[raw]:
                del unfinished[raw]
            await forget(stream)

    return guard


async def reset(stream: INetStream) -> None:
    """Best effort, and never waits for the peer."""
    try:
        with trio.CancelScope(deadline=trio.current_time() + RESET_S, shield=True):
            await stream.reset()
    except BROKEN:
        pass
    await forget(stream)


async def finish(stream: INetStream) -> None:
    """Close what was read to its end; whoever is cancelled meanwhile, it is closed."""
    try:
        with trio.CancelScope(deadline=trio.current_time() + OPEN_S, shield=True):
            await stream.close()
    except BROKEN as error:
        log.debug("closing a stream failed: %s", one_line(error))
    await forget(stream)


async def forget(stream: INetStream) -> None:
    """Yamux keeps a closed stream's unread bytes for a minute, and one that the peer does not close for ever."""
    muxed = getattr(stream, "muxed_stream", None)  # not in the interface, but in every stream there is
    if isinstance(muxed, QuickYamuxStream):
        with trio.CancelScope(shield=True):
            await muxed.forget()


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("libp2p: %s", one_line(record.getMessage()))


def quieten() -> None:
    """libp2p logs peers' faults at every level, partly to the root logger, and with tracebacks."""
    theirs = logging.getLogger("libp2p")
    theirs.propagate = False
    theirs.setLevel(logging.WARNING)
    if not any(isinstance(handler, _OneLine) for handler in theirs.handlers):
        theirs.handlers[:] = [_OneLine()]
    # It logs to the root logger, by these two functions of the module.
    setattr(swarm_connection, "logging", logging.getLogger("libp2p.network.connection"))  # noqa: B010  # not exported
