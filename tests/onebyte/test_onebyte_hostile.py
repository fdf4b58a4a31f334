"""Members and strangers that do not follow the rules: an offence each, bounded work, and one A among the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.net.simulated import SimulatedTransport
from protocols import limits, wire
from protocols.chain import limits as chain_limits
from protocols.chain.checkpoints import encode_snapshot
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Changes, Entry, Head, Join, digest_of_changes, sign
from protocols.messages import AnyMessage, Hello, Ping, Pong, Refused, Welcome
from protocols.onebyte.messages import (
    AskChain,
    AskSnapshot,
    ChainIs,
    Lacking,
    NewBlock,
    NewChange,
    NewEntry,
    SnapshotIs,
)
from protocols.signatures import Signer
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of
from verify.standing import OffenceKind

STRANGER = Signer.from_seed(digest_of(b"stranger"))


def offences(member: Any) -> Counter[tuple[str, OffenceKind]]:  # noqa: ANN401
    return Counter((peer, kind) for peer, kind, _ in member.offences)


async def test_an_equivocator_is_expelled(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=5)
    members = await swarm.start(5)
    await swarm.until_height(8)
    bad = members[4]
    swarm.equivocators.add(bad.peer)
    book, enter = bad.node.book, bad.node.book.enter

    async def twice(scalars: bytes, base: Node) -> bool:
        other = sign(Entry(base.height + 1, base.digest, b"\x7f", None, bad.peer, b""), bad.signer, swarm.run_id)
        await book.say(NewEntry(other))
        return bool(await enter(scalars, base))

    book.enter = twice
    honest = members[:4]
    await swarm.until(lambda: all(bad.peer in each.node.book.tip.state.expelled for each in honest))
    await swarm.until(lambda: all((bad.peer, OffenceKind.EQUIVOCATION) in offences(each) for each in honest))
    height = honest[0].height
    await swarm.until(lambda: min(each.height for each in honest) > height + 20)
    assert bad.node.chain.expelled
    assert bad.node.troubles
    await swarm.until_one()


def block_on(tip: Node, signer: Signer, run: bytes, **changes: Any) -> Block:  # noqa: ANN401
    """Whatever may be wrong with it, it is signed."""
    head = Head(
        parent=tip.digest,
        height=tip.height + 1,
        rank=0,
        reveal=b"",
        counted=(),
        entries=digest_of(b""),
        changes=digest_of_changes(Changes()),
        proposer=signer.peer,
        signature=b"",
    )
    return Block(sign(replace(head, **changes), signer, run), Changes())


def entry_on(tip: Node, signer: Signer, run: bytes, **changes: Any) -> Entry:  # noqa: ANN401
    entry = Entry(tip.height + 1, tip.digest, b"\x05", None, signer.peer, b"")
    return sign(replace(entry, **changes), signer, run)


def unsigned(message: NewEntry | NewBlock) -> NewEntry | NewBlock:
    if isinstance(message, NewEntry):
        return NewEntry(replace(message.entry, signature=bytes(64)))
    return NewBlock(Block(replace(message.block.head, signature=bytes(64))))


Rubbish = Callable[[Node, Signer, bytes], AnyMessage]
NOWHERE = Digest(bytes(32))
RUBBISH: dict[str, tuple[Rubbish, OffenceKind | None]] = {
    "forged entry": (lambda *at: unsigned(NewEntry(entry_on(*at))), OffenceKind.BAD_SIGNATURE),
    "entry of two bytes": (lambda *at: NewEntry(entry_on(*at, scalars=b"ab")), OffenceKind.PROTOCOL),
    "entry of -128": (lambda *at: NewEntry(entry_on(*at, scalars=b"\x80")), OffenceKind.PROTOCOL),
    "wrong height": (lambda *at: NewEntry(entry_on(*at, height=at[0].height + 2)), OffenceKind.UNFOUNDED),
    "unknown base": (lambda *at: NewEntry(entry_on(*at, base=NOWHERE)), None),
    "far ahead": (lambda *at: NewEntry(entry_on(*at, height=chain_limits.HEIGHT)), None),
    "forged block": (lambda *at: unsigned(NewBlock(block_on(*at))), OffenceKind.BAD_SIGNATURE),
    "out of turn": (lambda *at: NewBlock(block_on(*at, rank=900)), OffenceKind.UNFOUNDED),
    "wrong changes": (lambda *at: NewBlock(block_on(*at, changes=NOWHERE)), OffenceKind.PROTOCOL),
    "orphan": (lambda *at: NewBlock(block_on(*at, parent=NOWHERE)), None),
    "forged join": (
        lambda *at: NewChange(Join(at[0].height, NOWHERE, b"", at[1].peer, bytes(64))),
        OffenceKind.BAD_SIGNATURE,
    ),
}


@pytest.mark.parametrize("what", RUBBISH)
async def test_rubbish_is_an_offence_and_nothing_else(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
    what: str,
) -> None:
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    bad, honest = members[3], members[:3]
    swarm.equivocators.add(bad.peer)
    make, kind = RUBBISH[what]
    height = members[0].height
    said = make(members[0].node.book.tip, bad.signer, swarm.run_id)
    await bad.parts.desk.transport.publish(bad.parts.membership.topic, wire.encode(said))
    await swarm.until_height(height + 10)
    for each in honest:
        assert offences(each) == ({} if kind is None else {(bad.peer, kind): 1})
    await swarm.until_one()


class Liar:
    """On the network and in nobody's run: it answers questions of one-byte training as the test wants."""

    def __init__(self, swarm: Any, transport: SimulatedTransport) -> None:  # noqa: ANN401
        self.swarm, self.transport = swarm, transport
        self.asked: Counter[type] = Counter()
        self.says: Callable[[AnyMessage], AnyMessage] = lambda question: Refused("no")

    async def answer(self, sender: PeerId, frame: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        question = wire.decode(frame)
        self.asked[type(question)] += 1
        match question:
            case Hello():
                return wire.encode(Welcome(self.swarm.run_id, question.round, question.seal, 0))
            case Ping():
                return wire.encode(Pong(question.round))
        return wire.encode(self.says(question))

    async def meet(self, *victims: Any) -> None:  # noqa: ANN401
        for victim in victims:
            port = self.swarm.network._ports.index(victim.peer)
            await self.transport.dial(f"/memory/{port}/p2p/{victim.peer}")
            hello = wire.encode(Hello(self.swarm.run_id, Round(0), 0, 0))
            await self.transport.request(victim.peer, hello, timeout_s=5.0)


@asynccontextmanager
async def liar_in(swarm: Any) -> AsyncIterator[Liar]:  # noqa: ANN401
    async with swarm.network.join(STRANGER.peer) as transport:
        liar = Liar(swarm, transport)
        transport.serve(liar.answer, MemoryBlobs(100))
        swarm.equivocators.add(STRANGER.peer)
        yield liar


async def test_an_answer_full_of_rubbish_is_read_no_further(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    victim = members[0]
    checked = 0

    def lie(question: AnyMessage) -> AnyMessage:
        nonlocal checked
        if not isinstance(question, AskChain):
            return Refused("no")
        tip = victim.node.book.tip
        forged = replace(entry_on(tip, STRANGER, swarm.run_id), signature=bytes(64), origin=members[1].peer)
        checked += 1
        return ChainIs(
            tip.digest, tip.height, tip.height, entries=tuple(replace(forged, scalars=bytes([i])) for i in range(99))
        )

    async with liar_in(swarm) as liar:
        liar.says = lie
        await liar.meet(victim)
        await swarm.until(lambda: checked >= 3)
        await trio.sleep(1.0)
        assert offences(victim)[STRANGER.peer, OffenceKind.BAD_SIGNATURE] in (checked, checked - 1)  # one each
    await swarm.until_one()


@pytest.mark.parametrize(
    "kind", ["nonsense", "of another run", "parts that do not fit", "empty part", "another digest"]
)
async def test_a_snapshot_that_lies_is_an_offence(make_swarm: Any, autojump_clock: MockClock, kind: str) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(40)
    victim = members[0]
    snapshot = victim.node.book.chain.snapshot()
    data = encode_snapshot(snapshot) if kind == "of another run" else b"nonsense" * 10
    digest = digest_of(data)

    def lie(question: AnyMessage) -> AnyMessage:
        if isinstance(question, AskChain):  # far above everybody, where they cannot follow
            return ChainIs(Digest(b"\x01" * 32), 10_000, 10_000)
        if not isinstance(question, AskSnapshot):
            return Refused("no")
        if kind == "parts that do not fit":
            return SnapshotIs(digest_of(bytes([question.offset % 256])), len(data), data[question.offset :][:16])
        if kind == "empty part":
            return SnapshotIs(digest, len(data), b"")
        if kind == "another digest":
            return SnapshotIs(digest_of(b"other"), len(data), data)
        return SnapshotIs(digest, len(data), data)

    if kind == "of another run":  # a swarm of the same founders under another seed of everything
        data = data[:-1] + bytes([data[-1] ^ 1])
        digest = digest_of(data)
    async with liar_in(swarm) as liar:
        liar.says = lie
        await liar.meet(victim)
        await swarm.until(lambda: liar.asked[AskSnapshot] >= 2)
        height = victim.height
        await swarm.until_height(height + 30)
        assert offences(victim)[STRANGER.peer, OffenceKind.UNFOUNDED] >= 1
        assert liar.asked[AskSnapshot] <= 40  # a claim makes us ask every other second at most
    await swarm.until_one()


async def test_questions_of_every_size_are_answered_within_a_frame(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
) -> None:
    """64 blocks of 4 seats with 256 bytes each, asked for twice, do not fit into one answer, but into a few."""
    swarm = make_swarm(founders=4, probes=256, epoch=200)
    members = await swarm.start(4)
    await swarm.until_height(70)
    (late,) = await swarm.start(1)
    await swarm.until(lambda: late.height >= 70)
    node = members[0].node.book.chain.node(members[0].node.book.chain.locator()[-1])
    path = members[0].node.book.chain.after([node.digest], 64)
    greedy = AskChain((node.digest,), (), (), tuple(Lacking(each.digest, tuple(range(128))) for each in path), True)
    answer = await members[0].node.asker._on_ask(late.peer, greedy)
    assert limits.FRAME_BYTES // 2 < len(wire.encode(answer)) <= limits.FRAME_BYTES
    assert answer.more


async def test_a_flood_of_bases_that_do_not_exist_is_bounded(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    bad, victim = members[3], members[0]
    swarm.equivocators.add(bad.peer)
    for number in range(200):
        said = NewEntry(entry_on(victim.node.book.tip, bad.signer, swarm.run_id, base=digest_of(b"%d" % number)))
        await bad.parts.desk.transport.publish(bad.parts.membership.topic, wire.encode(said))
        await trio.sleep(0.01)
    assert len(victim.node.book.chain.missing().blocks) <= chain_limits.WAITING_PER_PEER
    asked_before = victim.parts.desk.transport.traffic().wire_sent
    height, began_s = victim.height, trio.current_time()
    await swarm.until_height(height + 40)
    spent = (victim.parts.desk.transport.traffic().wire_sent - asked_before) / (trio.current_time() - began_s)
    assert spent < 200_000  # bytes a second: questions that lead nowhere grow rarer
    await swarm.until_one()
