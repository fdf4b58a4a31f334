"""A swarm in memory: hundreds of nodes in one process under virtual time, each with its own `Transport`.

Start at `simulate_network`; `SimulatedNetwork.join` gives a node its transport, and the other methods are the faults
that may strike it. What a packet costs and suffers is in `simulated_wire`, what a link is in `simulated_links`.
Invariant: no fault is announced to anyone; nodes find out as they would on a real network.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from gossipnode.net.simulated_bulk import Bulk
from gossipnode.net.simulated_conditions import Conditions, scattered
from gossipnode.net.simulated_gossip import Mesh, Topics
from gossipnode.net.simulated_links import End, Endpoint, Link
from gossipnode.net.simulated_places import regions, unequal
from gossipnode.net.simulated_questions import OnFault, Questions
from gossipnode.net.simulated_wire import Host, Wire
from gossipnode.net.virtual_time import Trace
from protocols.transport import Answer, BlobSource, BlobStream, Gossip, LinkDown, LinkUp, MayFetch, Traffic, to_anybody
from sampling.peers import PeerId
from verify.digest import Digest

__all__ = [
    "Conditions",
    "SimulatedNetwork",
    "SimulatedTransport",
    "Trace",
    "regions",
    "scattered",
    "simulate_network",
    "unequal",
]


class SimulatedTransport:
    """`protocols.transport.Transport` over a simulated wire."""

    def __init__(self, endpoint: Endpoint, topics: Topics, tasks: trio.Nursery, on_fault: OnFault) -> None:
        self.endpoint = endpoint
        self.tasks = tasks  # in which this node's questions are answered
        self._mesh = Mesh(endpoint, topics)
        self._questions = Questions(endpoint, tasks, on_fault)
        self._bulk = Bulk(endpoint)

    @property
    def me(self) -> PeerId:
        return self.endpoint.me

    def addresses(self) -> Sequence[str]:
        return (self.endpoint.address,)

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self.endpoint.know(peer, addresses)

    def serve(self, answer: Answer, blobs: BlobSource, may_fetch: MayFetch = to_anybody) -> None:
        self._questions.serve(answer)
        self._bulk.serve(blobs, may_fetch)

    async def publish(self, topic: str, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._mesh.publish(topic, frame)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        await trio.lowlevel.checkpoint()
        with self._mesh.subscribe(topic) as channel:
            yield channel

    async def request(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        return await self._questions.ask(peer, frame, timeout_s)

    @asynccontextmanager
    async def fetch(self, peer: PeerId, digest: Digest, *, offset: int = 0) -> AsyncIterator[BlobStream]:
        if peer == self.me:
            yield self._bulk.own(digest, offset)
            return
        link = await self.endpoint.link_to(peer)
        async with self._bulk.fetch(link, digest, offset) as stream:
            yield stream

    async def dial(self, address: str) -> PeerId:
        return await self.endpoint.dial(address)

    async def drop(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self.endpoint.drop(peer)

    def refuse(self, peer: PeerId) -> None:
        self.endpoint.refuse(peer)

    def peers(self) -> frozenset[PeerId]:
        return self.endpoint.peers()

    @asynccontextmanager
    async def links(self) -> AsyncIterator[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        await trio.lowlevel.checkpoint()
        with self.endpoint.watch() as channel:
            yield channel

    def traffic(self) -> Traffic:
        host = self.endpoint.host
        return Traffic(host.sent, host.received, self._bulk.sent, self._bulk.received, self._mesh.dropped)

    def close(self, *, silent: bool) -> None:
        """The process ends. `silent`: with its machine, so that no link is closed."""
        host = self.endpoint.host
        self._mesh.close()
        if silent:
            host.alive, host.silent = False, True
        self.endpoint.close()
        host.alive = False
        self.tasks.cancel_scope.cancel()


class SimulatedNetwork:
    """The swarm as one who stands outside sees it. Faults take effect at once."""

    def __init__(self, conditions: Conditions, seed: int, nursery: trio.Nursery, trace: Trace | None) -> None:
        self.conditions = conditions
        self.trace = trace
        self._seed = seed
        self._nursery = nursery
        self._wire = Wire(conditions, trace)
        self._topics = Topics()
        self._nodes: dict[PeerId, SimulatedTransport] = {}  # the newest of each name, dead or alive
        self._narrowness: dict[PeerId, float] = {}
        self._past: list[Host] = []  # of those that have restarted
        self._ports: list[PeerId] = []  # a peer keeps its port when it restarts

    @property
    def deliveries(self) -> int:
        """Packets delivered since the start."""
        return self._wire.deliveries

    def unaccounted(self) -> int:
        """Bytes sent that were neither received nor lost and are not under way."""
        hosts, wire = [*self._past, *(node.endpoint.host for node in self._nodes.values())], self._wire
        sent = sum(host.sent for host in hosts) - wire.modelled_sent
        received = sum(host.received for host in hosts) - wire.modelled_received
        waiting = sum(packet.size for host in hosts for packet in host.inbox)
        return sent - received - wire.lost - wire.flying() - waiting

    async def run(self) -> None:
        await self._wire.run()

    # -- joining and leaving ------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def join(self, peer: PeerId, *, on_fault: OnFault | None = None) -> AsyncIterator[SimulatedTransport]:
        """A node's transport. A peer that has crashed or left may join again, as a process that restarts."""
        assert not self.alive(peer), f"{peer} is here already"
        node = SimulatedTransport(
            self._endpoint(peer), self._topics, await self._nursery.start(_hold_tasks), on_fault or _no_concern
        )
        if peer in self._nodes:
            self._past.append(self._nodes[peer].endpoint.host)
        self._nodes[peer] = node
        try:
            yield node
        finally:
            if node.endpoint.host.alive:
                node.close(silent=False)

    def _endpoint(self, peer: PeerId) -> Endpoint:
        if peer not in self._ports:
            self._ports.append(peer)
        life = f"{self._seed}/{peer}"
        if peer in self._nodes:
            life += f"/{trio.current_time()!r}"
        host = Host(peer, self._ports.index(peer), random.Random(life), *self._speeds(peer))
        return Endpoint(host, self._wire, self._at_port)

    def _at_port(self, port: int) -> Endpoint | None:
        return self._nodes[self._ports[port]].endpoint if port < len(self._ports) else None

    def alive(self, peer: PeerId) -> bool:
        return peer in self._nodes and self._nodes[peer].endpoint.host.alive

    def link(self, a: PeerId, b: PeerId) -> None:
        """Link two nodes at once, for tests that are not about dialling."""
        near, far = self._nodes[a].endpoint, self._nodes[b].endpoint
        if b not in near.links:
            link = Link(near, far)
            far.up(link)
            near.up(link)

    def leave(self, peer: PeerId) -> None:
        """The node's process ends, as by kill -9: its kernel closes the links. Its tasks are the caller's to cancel."""
        self._nodes[peer].close(silent=False)

    # -- faults -------------------------------------------------------------------------------------------------------
    def crash(self, peer: PeerId) -> None:
        """The machine is gone: questions to it stay unanswered, and its links go down when their silence is noticed.

        Its tasks are the caller's to cancel; what they send meanwhile goes nowhere.
        """
        self._nodes[peer].close(silent=True)

    def pause(self, peer: PeerId) -> None:
        """As SIGSTOP: it neither sends nor reads, and what comes in waits."""
        endpoint = self._nodes[peer].endpoint
        endpoint.host.paused = True
        self._review(endpoint)

    def resume(self, peer: PeerId) -> None:
        endpoint = self._nodes[peer].endpoint
        self._wire.resume(endpoint.host)
        self._review(endpoint, renew=True)

    def slow(self, peer: PeerId, *, latency: float, bandwidth: float) -> None:
        """From now on the ways to and from the peer are so many times longer, and its link narrower, than made."""
        self._wire.slowness[peer] = latency
        self._narrowness[peer] = bandwidth
        host = self._nodes[peer].endpoint.host
        host.up_bytes_per_s, host.down_bytes_per_s = self._speeds(peer)

    def _speeds(self, peer: PeerId) -> tuple[float, float]:
        up, down = self.conditions.bytes_per_s(peer)
        narrowness = self._narrowness.get(peer, 1.0)
        return up / narrowness, down / narrowness

    def partition(self, groups: Sequence[Collection[PeerId]]) -> None:
        """Peers of different groups cannot reach each other; peers in no group reach all. Replaces the last one."""
        self._wire.partition(groups)
        self._review_all()

    def cut(self, senders: Collection[PeerId], receivers: Collection[PeerId]) -> None:
        """Nothing gets from the senders to the receivers; the way back stays open. Adds to what is cut."""
        self._wire.cut(senders, receivers)
        self._review_all()

    def heal(self) -> None:
        """Undo every partition and cut. Links given up meanwhile stay down until somebody dials."""
        self._wire.heal()
        self._review_all()

    def _review_all(self) -> None:
        for node in self._nodes.values():
            self._review(node.endpoint)

    def _review(self, endpoint: Endpoint, *, renew: bool = False) -> None:
        for link in endpoint.links.values():
            if link.state[endpoint] is End.UP:
                link.review(renew=renew)


class _Started(Protocol):
    """trio.TaskStatus[trio.Nursery], which the stubs that libp2p brings along do not know."""

    def started(self, value: trio.Nursery) -> None: ...


async def _hold_tasks(task_status: _Started) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


def _no_concern(peer: PeerId | None, kind: str) -> None:
    """Where nobody judges the peers."""


@asynccontextmanager
async def simulate_network(
    conditions: Conditions | None = None, *, seed: int = 0, trace: Trace | None = None
) -> AsyncIterator[SimulatedNetwork]:
    """An empty network, delivering until the block is left. `trace` records every delivery and every loss."""
    async with trio.open_nursery() as nursery:
        network = SimulatedNetwork(conditions or Conditions(), seed, nursery, trace)
        nursery.start_soon(network.run)
        try:
            yield network
        finally:
            nursery.cancel_scope.cancel()
