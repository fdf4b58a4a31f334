"""Swarms of one-byte training on the simulated network: real desks, memberships and exchanges, a learner whose A has
eight elements, and a journal in memory that outlives a crash."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import Conditions, SimulatedNetwork, SimulatedTransport, simulate_network
from gossipnode.recordlog import MemoryLog
from protocols import limits
from protocols.chain.checkpoints import Promises
from protocols.chain.rules import Rules as ChainRules
from protocols.desk import Desk
from protocols.evidence import Judgement
from protocols.exchange import ModelExchange
from protocols.learner import Evaluation, LearnerError, Probed, Unfit
from protocols.manifest import Admission, Audit, Manifest, Timing, run_id
from protocols.membership import Membership
from protocols.messages import AnyMessage
from protocols.onebyte.conversation import OneByte
from protocols.onebyte.messages import NewBlock, NewEntry
from protocols.onebyte.parts import Hooks, Parts
from protocols.signatures import Signer
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role
from sampling.view import View
from verify.digest import Digest, digest_of
from verify.standing import Offence, OffenceKind, Standing

LENGTH = 8
A_BYTES = 4 * LENGTH
NOWHERE = "a shard that nobody can make"
SIGNERS = [Signer.from_seed(digest_of(b"onebyte %d" % index)) for index in range(16)]

A = NDArray[np.int64]


class ToyLearner:
    """Its loss is the distance from a point; a probe is exact, and takes `probe_s` of virtual time."""

    def __init__(self, blobs: MemoryBlobs, index: int) -> None:
        self._blobs, self._index = blobs, index
        self.a: A = np.zeros(LENGTH, dtype=np.int64)
        self.probe_s = 0.1
        self.fails = False  # the operator's task raises
        self.loses = 0  # so many times yet, `add` loses A
        self.restored: list[Digest | None] = []
        self.probed = 0
        self.reprobed = 0  # of others

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        before = self.a.copy()
        await trio.sleep(self.probe_s)
        if self.fails:
            raise LearnerError("KeyError: 'label'")
        assert (self.a == before).all(), "A was moved while it was being probed"
        self.probed += 1
        target = np.full(LENGTH, 1000)
        slopes = [int(np.sign((target - self.a) @ signs(each))) * 10 for each in seeds]
        return Probed(np.array(slopes, dtype=np.int8).tobytes(), 0.5, 0, self.probe_s)

    async def reprobe(self, seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
        if shard == NOWHERE:
            raise Unfit("there is no such shard")
        self.reprobed += 1
        return await self.probe(seeds, seed=seed)

    async def add(self, updates: Sequence[tuple[int, int]]) -> None:
        await trio.lowlevel.checkpoint()
        if self.loses:
            self.loses -= 1
            self.a += 12345
            raise LearnerError("the worker died")
        for seed, coefficient in updates:
            self.a += coefficient * signs(seed)

    async def digest(self) -> Digest:
        await trio.lowlevel.checkpoint()
        return self.now()

    def now(self) -> Digest:
        return digest_of(self.a.astype("<i4").tobytes())

    async def snapshot(self) -> Digest:
        return await self._blobs.put(self.a.astype("<i4").tobytes())

    async def restore(self, a: Digest | None) -> None:
        await trio.lowlevel.checkpoint()
        self.restored.append(a)
        data = bytes(A_BYTES) if a is None else await self._blobs.get(a)
        if len(data) != A_BYTES:
            raise Unfit("of another length")
        self.a = np.frombuffer(data, dtype="<i4").astype(np.int64)

    async def score(self) -> Evaluation:
        await trio.lowlevel.checkpoint()
        return Evaluation(self.now(), float(np.abs(1000 - self.a).mean()), 0.5, 10)


SIGNS = 2 * (np.arange(256)[:, None] >> np.arange(LENGTH) & 1) - 1


def signs(seed: int) -> A:
    found: A = SIGNS[seed % 256]
    return found


@dataclass
class Member:
    """One machine in one life."""

    index: int
    signer: Signer
    node: OneByte
    learner: Any
    blobs: MemoryBlobs
    log: MemoryLog
    scope: trio.CancelScope
    parts: Parts
    standing: Standing
    offences: list[tuple[PeerId, OffenceKind, str]] = field(default_factory=list)
    published: list[tuple[int, AnyMessage]] = field(default_factory=list)  # with the records that were in the log
    judgements: list[Judgement] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        return self.signer.peer

    @property
    def height(self) -> int:
        return self.node.height


MakeLearner = Callable[[MemoryBlobs, int], Any]


class Swarm:
    def __init__(
        self,
        network: SimulatedNetwork,
        nursery: trio.Nursery,
        *,
        founders: int = 8,
        make_learner: MakeLearner = ToyLearner,
        a_bytes: int = A_BYTES,
        seed: int = 1,
        allow: Sequence[PeerId] = (),
        audit: Audit | None = None,
        data: Callable[[int], bytes] = lambda index: b"",
        **rules: Any,  # noqa: ANN401  # each setting has its own type
    ) -> None:
        self.network, self._nursery, self._make_learner, self._seed = network, nursery, make_learner, seed
        self._a_bytes = a_bytes
        self.data = data  # what each member says that it probes on
        settings: dict[str, Any] = {"probes": 1, "seats": 4, "epoch": 8, "window": 3, "steps": 1000}
        chain = ChainRules(founders=tuple(signer.peer for signer in SIGNERS[:founders]), **settings | rules)
        self.manifest = Manifest(
            name="toy",
            protocol="onebyte",
            task="digits",
            author=SIGNERS[0].peer,
            theta0="ab" * 32,
            model_bytes=a_bytes,
            timing=Timing(round_floor_s=0.5, round_ceiling_s=20.0),
            admission=Admission(mode="allow", allow=tuple(allow)) if allow else Admission(),
            onebyte=chain,
            audit=audit or Audit(),
        )
        self.run_id = run_id(self.manifest)
        self.members: list[Member] = []
        self.equivocators: set[PeerId] = set()  # made to; everybody else who is accused of it is a failure

    async def start(self, count: int = 1) -> list[Member]:
        return [await self.begin(len(self.members)) for _ in range(count)]

    async def restart(self, member: Member, records: Iterable[bytes] | None = None, *, keep: bool = True) -> Member:
        """The machine is back, with its log, or with these records of it, and perhaps its blobs."""
        log = MemoryLog(member.log.kept if records is None else records)
        return await self.begin(member.index, log, member.blobs if keep else None)

    async def begin(self, index: int, log: MemoryLog | None = None, blobs: MemoryBlobs | None = None) -> Member:
        blobs = blobs or MemoryBlobs(64 * self._a_bytes)
        member = await self._nursery.start(self._live, index, log or MemoryLog(), blobs)
        assert isinstance(member, Member)
        if index < len(self.members):
            self.members[index] = member
        else:
            self.members.append(member)
        return member

    async def _live(self, index: int, log: MemoryLog, blobs: MemoryBlobs, task_status: trio.TaskStatus[Member]) -> None:
        signer = SIGNERS[index]
        with trio.CancelScope() as scope:
            async with self.network.join(signer.peer) as transport, trio.open_nursery() as nursery:
                member = self._build(index, signer, transport, log, blobs, scope)
                transport.serve(member.parts.desk.answer, blobs)
                nursery.start_soon(member.parts.desk.listen, member.parts.membership.topic)
                nursery.start_soon(member.parts.membership.run)
                nursery.start_soon(member.node.run)
                member.parts.membership.prepare()
                await member.parts.membership.join()
                task_status.started(member)

    def _build(
        self,
        index: int,
        signer: Signer,
        transport: SimulatedTransport,
        log: MemoryLog,
        blobs: MemoryBlobs,
        scope: trio.CancelScope,
    ) -> Member:
        standing, offences, published = Standing(), [], []

        def accuse(peer: PeerId, kind: OffenceKind, detail: str) -> None:
            offences.append((peer, kind, detail))
            standing.record(Offence(peer, kind, membership.round, detail))

        rng = random.Random(f"{self._seed}/{index}/{trio.current_time()}")
        desk = Desk(transport, accuse)
        timing = self.manifest.timing
        others = [member for member in self.members if self.network.alive(member.peer)]
        membership = Membership(
            desk,
            View(limits.VIEW_PEERS, first_version=rng.getrandbits(40)),
            Rules(frozenset(self.manifest.admission.allow) or None),
            signer,
            self.run_id,
            roles=[Role.TRAINER],
            bootstrap=others[0].parts.desk.transport.addresses() if others else (),
            counter=int(1000 * trio.current_time()),
            patience=Patience(timing.ping_floor_s, timing.ping_ceiling_s),
            rng=rng,
        )
        desk.known = membership.view.__contains__
        exchange = ModelExchange(transport, blobs, self.manifest.model_bytes, accuse, membership.ping)
        learner = self._make_learner(blobs, index)
        data = self.data(index)
        parts = Parts(desk, membership, exchange, learner, blobs, self.manifest, signer, log, rng, data)
        judgements: list[Judgement] = []
        node = OneByte(parts, Hooks(judged=judgements.append))
        desk.shunned = lambda peer: bool(judgements) and peer in judgements[-1].expelled
        tell = desk.tell

        async def told(topic: str, message: AnyMessage) -> None:
            published.append((len(log.kept), message))
            await tell(topic, message)

        desk.tell = told  # type: ignore[method-assign]  # to see what is published, and when
        return Member(index, signer, node, learner, blobs, log, scope, parts, standing, offences, published, judgements)

    def crash(self, *members: Member) -> None:
        for member in members:
            self.network.crash(member.peer)
            member.scope.cancel()

    def alive(self) -> list[Member]:
        return [member for member in self.members if self.network.alive(member.peer)]

    async def until(self, holds: Callable[[], bool], within_s: float = 300.0) -> None:
        with trio.move_on_after(within_s) as scope:
            while not holds():  # noqa: ASYNC110  # it is looked at from outside
                await trio.sleep(0.05)
        assert not scope.cancelled_caught, f"not within {within_s} virtual seconds: {self.heights()}"

    def heights(self) -> list[tuple[int, int, int]]:
        return [(each.index, each.height, each.node.certified_height) for each in self.alive()]

    async def until_height(self, height: int, within_s: float = 300.0) -> None:
        await self.until(lambda: min(each.height for each in self.alive()) >= height, within_s)

    async def until_one(self, within_s: float = 120.0) -> Digest:
        """Until all that are alive stand on one block with one A."""
        await self.until(self.is_one, within_s)
        return self.alive()[0].learner.now()  # type: ignore[no-any-return]  # a learner of any kind

    def is_one(self) -> bool:
        tips = {each.node.book.tip.digest for each in self.alive()}
        there = all(each.node.follower.is_there for each in self.alive())
        return len(tips) == 1 and there and len({each.learner.now() for each in self.alive()}) == 1

    def assert_honest(self) -> None:
        """Nobody is accused who was not made to offend, and nobody has contradicted itself."""
        accused = [each for member in self.members for each in member.offences if each[0] not in self.equivocators]
        assert not accused
        for member in self.members:
            assert member.node.book.chain.equivocators <= self.equivocators


def covered(promises: Promises, message: AnyMessage) -> bool:
    """Whoever promises this cannot sign anything that contradicts what it has published."""
    if isinstance(message, NewEntry):
        return promises.entry >= message.entry.height
    return not isinstance(message, NewBlock) or promises.block >= message.block.head.height


MakeSwarm = Callable[..., Swarm]


@asynccontextmanager
async def swarms(conditions: Conditions, seed: int = 1) -> AsyncIterator[MakeSwarm]:
    made: list[Swarm] = []
    async with simulate_network(conditions, seed=seed) as network, trio.open_nursery() as nursery:

        def make(**settings: Any) -> Swarm:  # noqa: ANN401  # each setting has its own type
            made.append(Swarm(network, nursery, **settings))
            return made[-1]

        yield make
        nursery.cancel_scope.cancel()
    for swarm in made:
        swarm.assert_honest()


@pytest.fixture
async def make_swarm() -> AsyncIterator[MakeSwarm]:
    """For virtual time the test itself must ask for `autojump_clock`."""
    async with swarms(Conditions(delay=0.02)) as make:
        yield make


@pytest.fixture
async def lossy_swarm() -> AsyncIterator[MakeSwarm]:
    """Three in ten of all messages are lost: gossip, questions, and answers."""
    async with swarms(Conditions(delay=0.02, gossip_loss=0.3, request_loss=0.3)) as make:
        yield make


@pytest.fixture
async def far_lossy_swarm() -> AsyncIterator[MakeSwarm]:
    """Likewise, and an answer takes longer than any haste."""
    async with swarms(Conditions(delay=0.15, gossip_loss=0.3, request_loss=0.3)) as make:
        yield make


@pytest.fixture(scope="session")
def is_covered() -> Callable[[Promises, AnyMessage], bool]:
    return covered
