"""A swarm in one process, over real libp2p or the simulated network, and its bytes: for what, and what they bought.

The nodes are the daemon's own; only the compute is inline, so that eight of them fit two cores. Over libp2p (loopback
TCP, noise, yamux, GossipSub) wire bytes are counted by the sockets; a pubsub frame is told apart by the kind of its
messages, and what is left over is questions, links and framing. The simulated network charges what was measured there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from msgspec import structs

from gossipnode.compute.inline import Cost, InlineLearner, InlineSwarm
from gossipnode.compute.process import TaskInfo
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import task_source
from gossipnode.learn.shard import Shard
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.libp2p.transport import Libp2pTransport, open_libp2p
from gossipnode.net.simulated import SimulatedNetwork, SimulatedTransport
from gossipnode.newrun import draft
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import MemoryLog
from protocols import wire
from protocols.amendments import SignedManifest, present, sign
from protocols.messages import Aggregate
from protocols.onebyte.conversation import OneByte
from protocols.signatures import Signer
from protocols.transport import Transport
from verify.digest import Digest, digest_of

MODELS_KEPT = 64
FRAME_BYTES = 18 + 12  # a noise message's length and tag, and yamux's header, beside each pubsub frame
FREE = Cost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # it takes the time that it takes
LOOK_S = 0.02  # between two looks at where the swarm is


AnyTransport = Libp2pTransport | SimulatedTransport


@dataclass(frozen=True, slots=True)
class Reached:
    """When a model of the first node was first that accurate."""

    round: int
    wire_bytes: int
    scalars: int
    accuracy: float


@dataclass(slots=True)
class Spent:
    """Bytes by kind, between two rounds."""

    kinds: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)

    def note(self, rpc: rpc_pb2.RPC) -> None:
        kinds = sorted({type(wire.decode(each.data)).__name__ for each in rpc.publish}) or ["control"]
        self.kinds["+".join(kinds)] += rpc.ByteSize() + FRAME_BYTES
        self.messages["+".join(kinds)] += max(1, len(rpc.publish))


@contextmanager
def counted(spent: Spent) -> Iterator[None]:
    """Every pubsub frame that any host of this process writes."""
    write = Pubsub.write_msg

    async def noted(self: Pubsub, stream: INetStream, rpc: rpc_pb2.RPC) -> bool:
        spent.note(rpc)
        return await write(self, stream, rpc)

    setattr(Pubsub, "write_msg", noted)  # noqa: B010  # a library's method, wrapped on purpose
    try:
        yield
    finally:
        setattr(Pubsub, "write_msg", write)  # noqa: B010  # as above


OpenTransport = Callable[[int], AbstractAsyncContextManager[AnyTransport]]


class Carried:
    def __init__(self, tables: Mapping[str, Any], count: int, seed: int, open_transport: OpenTransport) -> None:
        self._tables, self._count, self._seed, self._open = tables, count, seed, open_transport
        self._author = Signer.from_seed(identity_of(seed, 0))
        self.compute = InlineSwarm(structs.replace(LearnerConfig.of(draft(tables, self._author.peer)), theta0=b""))
        self.transports: list[Transport] = []
        self.nodes: list[Node] = []
        self.learners: list[InlineLearner] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        signed = await self._manifest()
        async with AsyncExitStack() as stack:
            for index in range(self._count):
                transport = await stack.enter_async_context(self._open(index))
                self._add(index, transport, signed)
            async with trio.open_nursery() as nursery:
                for node in self.nodes:
                    nursery.start_soon(node.run)
                yield
                nursery.cancel_scope.cancel()

    def _add(self, index: int, transport: AnyTransport, signed: SignedManifest) -> None:
        first = self.transports[0].addresses() if index else ()
        run = Run(signed.run, present(signed), signed.encode(), bootstrap=first, evaluate_every=1_000_000)
        blobs = MemoryBlobs(MODELS_KEPT * run.manifest.model_bytes)
        learner = self.compute.learner(self._shard(index), blobs, FREE)

        async def save(state: State) -> None:
            await trio.lowlevel.checkpoint()

        node = Node(
            run,
            transport,
            learner,
            blobs,
            Signer.from_seed(identity_of(self._seed, index)),
            state=State(),
            save=save,
            log=MemoryLog(),
            rng=random.Random(f"{self._seed}/{index}"),
        )
        transport.serve(node.answer, blobs)
        self.transports.append(transport)
        self.nodes.append(node)
        self.learners.append(learner)

    def _shard(self, index: int) -> Shard:
        return Shard(index=index, count=self._count, partition="iid", seed=self._seed)

    async def _manifest(self) -> SignedManifest:
        blobs = MemoryBlobs(2**40)
        theta0 = await self.compute.learner(self._shard(0), blobs).initial()
        size = blobs.size(theta0)
        assert size is not None
        source = task_source(str(self._tables["task"]))
        found = TaskInfo(0, size, 0, theta0, source, self.compute.engine.sum_bytes)
        return sign(draft(self._tables, self._author.peer, found), self._author)

    @property
    def wire_bytes(self) -> int:
        return sum(transport.traffic().wire_sent for transport in self.transports)

    @property
    def round(self) -> int:
        return max(node.protocol.round for node in self.nodes)

    @property
    def scalars(self) -> int:
        return sum(node.protocol.chain.scalars_sent for node in self.nodes if isinstance(node.protocol, OneByte))

    async def until(self, round: int) -> None:
        while self.round < round:  # noqa: ASYNC110  # nodes are looked at from outside
            await trio.sleep(LOOK_S)

    async def until_accurate(self, accuracy: float, every: int, most: int) -> Reached | None:
        """The model is looked at every so many rounds. None: it was not within `most`."""
        for round in range(every, most + 1, every):
            await self.until(round)
            at, spent, scalars = self.round, self.wire_bytes, self.scalars
            if (found := await self._accuracy()) >= accuracy:
                return Reached(at, spent, scalars, found)
        return None

    async def _accuracy(self) -> float:
        """On the test split, of the newest model that is held by anybody."""
        if isinstance(self.nodes[0].protocol, OneByte):
            return (await self.learners[0].score()).accuracy
        held = [(each.round, Digest(each.model), index) for index, each in enumerate(self._held()) if each is not None]
        _, model, index = max(held)
        return (await self.learners[index].evaluate(model)).accuracy

    def _held(self) -> list[Aggregate | None]:
        return [node.protocol.held for node in self.nodes]


def over_libp2p(seed: int) -> OpenTransport:
    return lambda index: open_libp2p(identity_of(seed, index))


def over_simulation(network: SimulatedNetwork, seed: int) -> OpenTransport:
    return lambda index: network.join(Signer.from_seed(identity_of(seed, index)).peer)


def identity_of(seed: int, index: int) -> bytes:
    return digest_of(f"{seed}/identity/{index}".encode())
