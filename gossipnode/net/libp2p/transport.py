"""The real network, put together: py-libp2p 0.8.1 behind `protocols.transport.Transport`.

Start here. `sockets` counts and bounds what comes in, `guards` builds a host that peers cannot kill, `links` dials and
buries, `pubsub` and `gossip` publish and hear, `questions` asks and answers, `bulk` moves blobs, `faults` reports.
The order of starting (services, then the host) and of stopping (connections, then the host) is libp2p's trap: any other
loses gossip or leaves peers with a connection to nobody.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

# For libp2p's yamux, before it is imported: it sends three window updates for each frame otherwise.
os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no stubs

from gossipnode.net.libp2p.addresses import advertised, name_of
from gossipnode.net.libp2p.bulk import Bulk
from gossipnode.net.libp2p.faults import Faults, OnFault
from gossipnode.net.libp2p.gossip import Topics
from gossipnode.net.libp2p.guards import new_host, quieten
from gossipnode.net.libp2p.links import Heartbeat, Links
from gossipnode.net.libp2p.pubsub import new_pubsub
from gossipnode.net.libp2p.questions import Questions
from gossipnode.net.libp2p.sockets import ListenError, Tally, Tcp, bind
from protocols import limits
from protocols.transport import (
    Answer,
    BlobSource,
    BlobStream,
    Gossip,
    LinkDown,
    LinkUp,
    MayFetch,
    Traffic,
    Unreachable,
    to_anybody,
)
from sampling.peers import PeerId
from verify.digest import Digest

__all__ = ["Heartbeat", "Libp2pTransport", "ListenError", "open_libp2p"]

log = logging.getLogger("gossipnode.net")

SEED_BYTES: Final = 32
STOP_S: Final = 2.0  # for everything after the last connection is closed
PACE_POLL_S: Final = 0.002  # about the time in which an idle peer's queue shrinks by one
PACE_S: Final = 1.0  # one peer that does not read must not silence us for longer


class Libp2pTransport:
    """See `protocols.transport.Transport` for what each method promises."""

    def __init__(self, host: BasicHost, tcp: Tcp, tally: Tally, faults: Faults, heartbeat: Heartbeat) -> None:
        self._me = name_of(host.get_id())
        self._tally = tally
        self._topics = Topics(tally)
        self._subscribing = trio.Lock()
        self._pubsub = new_pubsub(host, faults, self._topics)
        self._links = Links(host, heartbeat)
        self._questions = Questions(host, faults)
        self._bulk = Bulk(host, tally, faults)
        self._bound = [Multiaddr(address) for address in tcp.bound]
        self._addresses = advertised(tcp.endpoints(), self._me)
        host.get_network().register_notifee(self._links)

    @property
    def me(self) -> PeerId:
        return self._me

    def addresses(self) -> Sequence[str]:
        return self._addresses

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._links.know(peer, addresses)

    def serve(self, answer: Answer, blobs: BlobSource, may_fetch: MayFetch = to_anybody) -> None:
        async def reply(peer: PeerId, frame: bytes) -> bytes:
            self._links.used(peer)
            return await answer(peer, frame)

        self._questions.serve(reply)
        self._bulk.serve(blobs, may_fetch)

    # -- gossip -------------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, frame: bytes) -> None:
        assert len(frame) <= limits.GOSSIP_BYTES, f"a gossip of {len(frame)} bytes"
        with trio.move_on_after(PACE_S):
            while self._pubsub.is_congested():  # noqa: ASYNC110  # libp2p's queues have no event for "shorter"
                await trio.sleep(PACE_POLL_S)
        await self._pubsub.publish(topic, frame)
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        with self._topics.subscriber(topic) as subscriber:
            async with self._subscribing:
                await self._pubsub.subscribe(topic)
            try:
                yield subscriber.receive
            finally:
                await self._unsubscribe(topic)

    async def _unsubscribe(self, topic: str) -> None:
        """If we were the last to hear it. Tells the peers, so not while they are being left."""
        with trio.CancelScope(shield=True):
            async with self._subscribing:
                if self._topics.count(topic) == 1 and self._pubsub.manager.is_running:
                    await self._pubsub.unsubscribe(topic)

    # -- one peer -----------------------------------------------------------------------------------------------------

    async def request(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        assert len(frame) <= limits.FRAME_BYTES, f"a question of {len(frame)} bytes"
        if peer == self._me:
            return await self._questions.ask_myself(self._me, frame, timeout_s=timeout_s)
        deadline = trio.current_time() + timeout_s
        await self._connect(peer, timeout_s)
        self._links.used(peer)
        left_s = max(0.0, deadline - trio.current_time())  # a slow machine may link at the last moment
        return await self._questions.ask(peer, frame, timeout_s=left_s)

    async def _connect(self, peer: PeerId, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self._links.connect(peer)
            return
        raise Unreachable(f"{peer} could not be connected within {timeout_s:g} s")

    @asynccontextmanager
    async def fetch(self, peer: PeerId, digest: Digest, *, offset: int = 0) -> AsyncIterator[BlobStream]:
        assert offset >= 0
        if peer == self._me:
            async with self._bulk.fetch_my_own(digest, offset) as blob:
                yield blob
            return
        await self._links.connect(peer)
        self._links.used(peer)
        async with self._bulk.fetch(peer, digest, offset) as blob:
            yield blob
            self._links.used(peer)

    async def dial(self, address: str) -> PeerId:
        return await self._links.dial(address)

    async def drop(self, peer: PeerId) -> None:
        await self._links.drop(peer)

    def refuse(self, peer: PeerId) -> None:
        self._links.refused.add(peer)

    def peers(self) -> frozenset[PeerId]:
        return self._links.peers()

    def links(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        return self._links.events()

    def traffic(self) -> Traffic:
        return self._tally.traffic()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self, host: BasicHost, ready: trio.Event) -> None:
        """Until cancelled. Services first: a connection that finds none running would end the host."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(background_trio_service(self._pubsub))
            await stack.enter_async_context(background_trio_service(self._pubsub.service))
            await self._pubsub.wait_until_ready()
            await stack.enter_async_context(host.run(listen_addrs=self._bound))
            ready.set()
            await self._links.watch()

    async def stop(self) -> None:
        """Close every link: a peer that is not told keeps ours, and would send to it after we are back."""
        async with trio.open_nursery() as nursery:
            for peer in self.peers():
                nursery.start_soon(self.drop, peer)


@asynccontextmanager
async def open_libp2p(
    identity_seed: bytes,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    *,
    psk: bytes | None = None,
    on_fault: OnFault | None = None,
    heartbeat: Heartbeat = Heartbeat(),  # noqa: B008  # frozen
) -> AsyncIterator[Libp2pTransport]:
    """`psk`: 32 bytes that all nodes of a private network share. Raises ListenError."""
    assert len(identity_seed) == SEED_BYTES
    quieten()
    tally = Tally()
    bound = await bind(listen)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        tcp = Tcp(bound, tally, nursery)
        host = new_host(create_new_key_pair(identity_seed), tcp, psk, faults := Faults(on_fault))
        transport = Libp2pTransport(host, tcp, tally, faults, heartbeat)
        ready = trio.Event()
        nursery.start_soon(transport.run, host, ready)
        await ready.wait()
        try:
            yield transport
        except Exception as error:  # handed on below, outside the nursery, so that callers see no group
            failure = error
        finally:
            with trio.CancelScope(deadline=trio.current_time() + STOP_S, shield=True):
                await transport.stop()
            tcp.cut_all()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
