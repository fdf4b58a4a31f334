"""What the tests of conversations share: a transport without a network, where what each peer answers and serves is
written down by the test; and whole swarms on the simulated network, with a learner that is quick to compute.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from gossipnode.checkers import Belief, Checks, Finding, Seen, World
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.modest_checkers import modest_checkers
from gossipnode.net.simulated import Conditions, SimulatedNetwork, simulate_network
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import MemoryLog
from gossipnode.trainings import finished_of
from protocols import wire
from protocols.head import Head
from protocols.learner import Evaluation, LearnerError, Trained, Unfit
from protocols.manifest import Manifest, Modest, Timing, run_id
from protocols.messages import Aggregate, AnyMessage
from protocols.signatures import Signer
from protocols.transport import (
    Answer,
    BlobSource,
    Gossip,
    LinkDown,
    LinkUp,
    MayFetch,
    NoAnswer,
    NotHeld,
    Traffic,
    Unreachable,
    to_anybody,
)
from sampling.peers import PeerId, Role, Round
from verify.digest import Digest, digest_of
from verify.lsh import NO_NORM, NORMS_PER_OCTAVE, Signature
from verify.standing import OffenceKind

Said = AnyMessage | bytes | Exception
Says = Callable[[AnyMessage], Said]


@dataclass
class Source:
    """A peer's side of a blob. `cuts[n]`: where the n-th stream breaks, in bytes from the blob's start."""

    data: bytes
    size: int | None = None  # what it claims, if not the truth
    cuts: list[int] = field(default_factory=list)
    step: int = 10
    offsets: list[int] = field(default_factory=list)  # from where it was asked
    gate: trio.Event | None = None  # streams wait for it


class Stream:
    def __init__(self, source: Source, offset: int, cut: int | None) -> None:
        self._source, self._at, self._cut = source, offset, cut
        self.size = len(source.data) if source.size is None else source.size

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._source.gate is not None:
            await self._source.gate.wait()
        end = self._at + self._source.step
        if self._cut is not None:
            if self._at >= self._cut:
                raise NoAnswer("the stream broke")
            end = min(end, self._cut)
        data = self._source.data[self._at : end]
        self._at += len(data)
        return data


class Links:
    """`protocols.transport.Transport`, as far as the conversations use it."""

    def __init__(self, me: PeerId) -> None:
        self.me = me
        self.says: dict[PeerId, Says] = {}
        self.asked: list[tuple[PeerId, AnyMessage]] = []
        self.published: list[tuple[str, AnyMessage]] = []
        self.holds: dict[tuple[PeerId, Digest], Source] = {}
        self.linked: set[PeerId] = set()
        self.dropped: list[PeerId] = []
        self.known: dict[PeerId, Sequence[str]] = {}
        self.gossip, self._heard = trio.open_memory_channel[Gossip](100)
        self.link_events, self._links = trio.open_memory_channel[LinkUp | LinkDown](100)

    def holding(self, peer: PeerId, data: bytes, *, named: bytes | None = None, **more: object) -> Source:
        """`peer` serves `data` under the digest of `named`."""
        source = Source(data, **more)  # type: ignore[arg-type]  # the tests' own keywords
        self.holds[peer, digest_of(data if named is None else named)] = source
        return source

    def addresses(self) -> Sequence[str]:
        return ("/memory/" + self.me,)

    def know(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self.known[peer] = addresses

    def serve(self, answer: Answer, blobs: BlobSource, may_fetch: MayFetch = to_anybody) -> None: ...

    def refuse(self, peer: PeerId) -> None: ...

    async def publish(self, topic: str, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.published.append((topic, wire.decode(frame)))

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        yield self._heard

    async def request(self, peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        question = wire.decode(frame)
        self.asked.append((peer, question))
        if peer not in self.says:
            raise Unreachable("nobody there")
        said = self.says[peer](question)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, bytes) else wire.encode(said)

    @asynccontextmanager
    async def fetch(self, peer: PeerId, digest: Digest, *, offset: int = 0) -> AsyncIterator[Stream]:
        await trio.lowlevel.checkpoint()
        source = self.holds.get((peer, digest))
        if source is None:
            raise NotHeld("not held")
        source.offsets.append(offset)
        yield Stream(source, offset, source.cuts.pop(0) if source.cuts else None)

    async def dial(self, address: str) -> PeerId:
        raise Unreachable("nobody there")

    async def drop(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self.dropped.append(peer)
        self.linked.discard(peer)

    def peers(self) -> frozenset[PeerId]:
        return frozenset(self.linked)

    @asynccontextmanager
    async def links(self) -> AsyncIterator[trio.MemoryReceiveChannel[LinkUp | LinkDown]]:
        yield self._links

    def traffic(self) -> Traffic:
        return Traffic()

    def close(self) -> None:
        for end in (self.gossip, self._heard, self.link_events, self._links):
            end.close()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links(PeerId("me"))
    yield made
    made.close()


class Court:
    """Every accusation that was made."""

    def __init__(self) -> None:
        self.accused: list[tuple[PeerId, OffenceKind, str]] = []

    def __call__(self, peer: PeerId, kind: OffenceKind, detail: str) -> None:
        self.accused.append((peer, kind, detail))

    @property
    def verdicts(self) -> list[tuple[PeerId, OffenceKind]]:
        return [(peer, kind) for peer, kind, _ in self.accused]


@pytest.fixture
def court() -> Court:
    return Court()


# -- a swarm of whole nodes on the simulated network, with models of a few bytes -----------------------------------


class ToyLearner:
    """A model is one number and who made it. Training adds `step` and takes `train_s` of virtual time."""

    MODEL = struct.Struct("<d8s")
    samples = 10
    TRAINABLE = 1e4  # from larger ones the loss is not finite

    def __init__(self, blobs: MemoryBlobs, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self.train_s = 1.0
        self.step = 1.0  # from theta0 it is always 1
        self.fails = False  # the operator's task raises
        self.poison = False  # it hands out what is not finite
        self.hands_in: float | None = None  # whatever it was to train from
        self.own_data_broken = False  # non-finite numbers, whatever the model
        self.blind = False  # it merges whatever is handed in
        self.bias = 0.0  # it merges wrongly
        self.answers = False  # its node takes questions; a test says what it answers
        self.trained: list[int] = []  # rounds
        self.begun: list[int] = []
        self.evaluated: list[Digest] = []
        self.replayed: list[tuple[int, str]] = []

    async def _put(self, value: float, maker: str) -> Digest:
        return await self._blobs.put(self.MODEL.pack(value, maker.encode()[-8:]))

    async def value(self, model: Digest) -> float:
        found: float = self.MODEL.unpack(await self._blobs.get(model))[0]
        return found

    async def initial(self) -> Digest:
        return await self._put(0.0, "theta0")

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        value = await self.value(parent)
        self.begun.append(round)
        began = trio.current_time()
        while (left_s := began + self.train_s - trio.current_time()) > 0:  # noqa: ASYNC110 - a test may change it meanwhile
            await trio.sleep(min(left_s, 0.5))
        if self.fails:
            raise LearnerError("KeyError: 'label'")
        if self.own_data_broken or (self.hands_in is None and abs(value) > self.TRAINABLE):
            raise Unfit("the loss became nan")
        self.trained.append(round)
        value = float("nan") if self.poison else value + (self.step if value else 1.0)
        value = value if self.hands_in is None else self.hands_in
        return Trained(await self._put(value, f"{self._name}{round}"), self.samples, 1, 0.5, self.train_s)

    async def replay(self, parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
        """An honest one of that node's."""
        self.replayed.append((round, shard))
        await trio.sleep(self.train_s)
        index = shard.partition("/")[0]
        model = await self._put(await self.value(parent) + 1, f"{index}/{round}")
        return Trained(model, ToyLearner.samples, 1, 0.5, self.train_s)

    async def signature(self, model: Digest, parent: Digest | None, seed: bytes) -> Signature:
        """Far apart, but not opposed, for updates that differ."""
        update = await self.value(model) - (await self.value(parent) if parent else 0.0)
        norm = round(NORMS_PER_OCTAVE * math.log2(abs(update))) if update else NO_NORM
        return Signature(digest_of(seed + struct.pack("<d", update)), norm)

    async def merge(self, models: Sequence[Digest], weights: Sequence[int]) -> Digest:
        values = [await self.value(model) for model in models]
        mean = sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
        # The digests too, so that the means of different models differ.
        return await self._put(mean + self.bias, digest_of(b"".join(models)).hex())

    async def check(self, model: Digest) -> float:
        await trio.lowlevel.checkpoint()
        if not math.isfinite(value := await self.value(model)):
            raise Unfit("not finite")
        return 0.0 if self.blind else abs(value)

    async def evaluate(self, model: Digest) -> Evaluation:
        self.evaluated.append(model)
        return Evaluation(model, 0.1, 0.9, 10)


@dataclass
class Member:
    node: Node
    learner: ToyLearner
    blobs: MemoryBlobs
    peer: PeerId
    index: int
    scope: trio.CancelScope
    saved: list[State]

    @property
    def head(self) -> Head:
        return self.node.protocol.head

    @property
    def round(self) -> int:
        return self.head.known.round

    def offences(self) -> list[tuple[PeerId, OffenceKind]]:
        return [(each.peer, each.kind) for each in self.node.standing.offences()]


class Swarm:
    """Nodes of one run; `tables` are the manifest's. Every aggregate that anybody came to believe is kept."""

    def __init__(self, network: SimulatedNetwork, nursery: trio.Nursery, modest: Modest, **tables: object) -> None:
        self.network = network
        self._nursery = nursery
        self.members: list[Member] = []
        settings: dict[str, Any] = {
            "rounds": 5,
            "timing": Timing(round_floor_s=1.0, round_ceiling_s=60.0),
            "model_bytes": ToyLearner.MODEL.size,
            "theta0": digest_of(ToyLearner.MODEL.pack(0.0, b"theta0")).hex(),
            "author": signer_of(0).peer,
        }
        self.manifest = Manifest(name="toy", protocol="modest", task="digits", modest=modest, **settings | tables)
        self.run_id = run_id(self.manifest)
        self.believed: list[Aggregate] = []
        self.checks = Checks(modest_checkers(progress_s=600.0))
        self.liars: set[PeerId] = set()  # what they believe, and what is held against them, is no finding
        self.convicted: frozenset[Digest] = frozenset()
        self.disturbed_s = 0.0  # when a test last did something that a node cannot help
        self._last_known: dict[tuple[PeerId, int], Aggregate] = {}
        self._checked_s = -1.0

    async def start(
        self, count: int = 1, *, roles: Sequence[Role] = (Role.TRAINER,), **learner: object
    ) -> list[Member]:
        """Returns when they have joined. `learner`: settings of theirs."""
        return [await self._start(len(self.members), roles, State(), learner) for _ in range(count)]

    async def restart(self, member: Member) -> Member:
        """The machine is back, with what was saved on it: it may not know what the others did last."""
        self.disturbed_s = trio.current_time()
        return await self._start(member.index, [Role.TRAINER], member.saved[-1], {}, member.blobs)

    async def _start(
        self,
        index: int,
        roles: Sequence[Role],
        state: State,
        settings: Mapping[str, object],
        blobs: MemoryBlobs | None = None,
    ) -> Member:
        blobs = blobs or MemoryBlobs(64 * ToyLearner.MODEL.size)
        learner = ToyLearner(blobs, f"{index}/")
        for name, value in settings.items():
            setattr(learner, name, value)
        member = await self._nursery.start(self._live, index, roles, state, learner, blobs)
        assert isinstance(member, Member)
        if index < len(self.members):
            self.members[index] = member
        else:
            self.members.append(member)
        await member.node.joined.wait()
        return member

    async def _live(
        self,
        index: int,
        roles: Sequence[Role],
        state: State,
        learner: ToyLearner,
        blobs: MemoryBlobs,
        task_status: trio.TaskStatus[Member],
    ) -> None:
        signer = signer_of(index)
        others = [member for member in self.members if self.network.alive(member.peer)]
        bootstrap = others[0].node.parts.desk.transport.addresses() if others else ()
        saved: list[State] = []

        async def save(state: State) -> None:
            await trio.lowlevel.checkpoint()
            saved.append(state)

        run = Run(
            self.run_id,
            self.manifest,
            b"signed",
            roles=roles,
            bootstrap=bootstrap,
            evaluate_every=0,
            shard=f"{index}/99",
            answers=learner.answers,
        )
        with trio.CancelScope() as scope:
            built: list[Node] = []

            def on_fault(peer: PeerId | None, kind: str) -> None:
                built[0].fault(peer, kind)

            async with self.network.join(signer.peer, on_fault=on_fault) as transport:
                rng = random.Random(f"test/{index}/{trio.current_time()}")
                node = Node(run, transport, learner, blobs, signer, state=state, save=save, log=MemoryLog(), rng=rng)
                built.append(node)
                transport.serve(node.answer, blobs, node.may_fetch)
                task_status.started(Member(node, learner, blobs, signer.peer, index, scope, saved))
                await node.run()

    def crash(self, *members: Member) -> None:
        self.disturbed_s = trio.current_time()
        for member in members:
            self.network.crash(member.peer)
            member.scope.cancel()

    def alive(self) -> list[Member]:
        return [member for member in self.members if self.network.alive(member.peer)]

    def named(self, peers: Iterable[PeerId]) -> list[Member]:
        """In the order of `peers`."""
        members = {member.peer: member for member in self.members}
        return [members[peer] for peer in peers]

    def trainers(self, round: int) -> list[Member]:
        """As those alive would sample them, were all alive."""
        order = self.alive()[0].node.parts.sampler.order(Round(round))
        return self.named(order[: self.manifest.modest.trainers])

    def aggregators(self, round: int) -> list[Member]:
        return self.trainers(round + 1)[: self.manifest.modest.aggregators]

    async def until(self, holds: Callable[[], bool], within_s: float = 600.0) -> None:
        with trio.move_on_after(within_s) as scope:
            while True:
                self._observe()
                if holds():
                    return
                await trio.sleep(0.05)
        assert not scope.cancelled_caught, f"not within {within_s} virtual seconds: rounds {self.rounds()}"

    def rounds(self) -> list[int]:
        return [member.round for member in self.alive()]

    async def until_round(self, round: int, within_s: float = 600.0) -> None:
        """Until everyone alive knows it."""
        await self.until(lambda: min(self.rounds()) >= round, within_s)

    async def until_finished(self, within_s: float = 600.0) -> Aggregate:
        """Until everyone alive holds the same last model, and has evaluated it."""
        await self.until(lambda: all(map(_is_done, self.alive())), within_s)
        (last,) = {member.head.known for member in self.alive()}
        return last

    async def see_everyone(self) -> None:
        """Until all views hold all that are alive."""
        await self.until(
            lambda: all(len(each.node.parts.membership.view) >= len(self.alive()) for each in self.alive())
        )

    def _observe(self) -> None:
        for member in self.alive():
            if member.round > 0 and member.head.known not in self.believed:
                self.believed.append(member.head.known)

        self.check()

    def check(self) -> None:
        """Once a virtual second."""
        if trio.current_time() >= self._checked_s + 1.0:
            self._checked_s = trio.current_time()
            self.checks.look(self.world())

    def world(self) -> World:
        honest = [member for member in self.alive() if member.peer not in self.liars]
        return World(
            now_s=trio.current_time(),
            calm_since_s=self.disturbed_s,
            nodes=[Seen(str(member.index), member.node, member.blobs, id(member.node)) for member in honest],
            names={member.peer: str(member.index) for member in self.members if member.peer not in self.liars},
            news=[belief for member in honest for belief in self._news(member)],
            unaccounted_bytes=self.network.unaccounted(),
            convicted=self.convicted,
        )

    def _news(self, member: Member) -> Iterator[Belief]:
        life, known = (member.peer, id(member.node)), member.head.known
        if self._last_known.setdefault(life, known) != known:
            self._last_known[life] = known
            yield Belief(str(member.index), finished_of(known), trio.current_time())

    def settled(self, round: int) -> Aggregate:
        """The one aggregate of that round; two would be a fork."""
        (found,) = [aggregate for aggregate in self.believed if aggregate.round == round]
        return found


def _is_done(member: Member) -> bool:
    last = member.head.known
    return member.head.finished and member.head.held == last and last.model in member.learner.evaluated


def signer_of(index: int) -> Signer:
    return Signer.from_seed(bytes([index] * 32))


MakeSwarm = Callable[..., Swarm]


def assert_nothing_found(findings: Sequence[Finding]) -> None:
    assert not findings, "\n".join(map(str, findings))


@pytest.fixture
async def make_swarm() -> AsyncIterator[MakeSwarm]:
    """`make_swarm(trainers=3, ...)`: settings of modest by name, and other tables of the manifest. For virtual time the
    test itself must ask for `autojump_clock`."""
    async with simulate_network(Conditions(delay=0.02), seed=1) as network, trio.open_nursery() as nursery:
        swarms: list[Swarm] = []

        def make(**settings: Any) -> Swarm:  # noqa: ANN401 - each setting has its own type
            modest = {name: settings.pop(name) for name in list(settings) if name in Modest.__struct_fields__}
            swarms.append(Swarm(network, nursery, Modest(**modest), **settings))
            return swarms[-1]

        yield make
        assert_nothing_found([finding for swarm in swarms for finding in swarm.checks.findings])
        nursery.cancel_scope.cancel()
