"""A question put to simulated swarms: whoever lies is outvoted and shown, whoever is silent is replaced."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from protocols import limits, wire
from protocols.answering import answer_holds
from protocols.desk import Desk
from protocols.learner import LearnerError, Unanswerable
from protocols.messages import AnswerIs, AnyMessage, AskAnswer, Held, Hello, Refused, Welcome
from protocols.questions import ASKED, PANEL, Asker, Poll, Terms, shared
from protocols.signatures import Signer
from sampling.peers import PeerId, Round
from verify.claims import ANSWERED, Answered, answerers
from verify.digest import Digest, digest_of
from verify.lsh import Tolerance

MakeSwarm = Any  # conftest's
Member = Any
Swarm = Any
Links = Any

QUESTION = b"what is this?"
TERMS = Terms(rows=1, tolerance=Tolerance(8, 2), slack=40, seed=lambda: bytes(range(32)))
NEVER = 10**9


@dataclass
class Mouth:
    """What a member's learner answers. `value` of the model, and then however it lies."""

    member: Member
    lie: float | None = None
    error: Exception | None = None
    takes_s: float = 0.0
    asked: int = 0

    async def __call__(self, model: Digest, question: bytes) -> bytes:
        self.asked += 1
        await trio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        value = await self.member.learner.value(model)
        return struct.pack("<3f", 1.0, 2.0, value if self.lie is None else self.lie)


async def answering(make_swarm: MakeSwarm, count: int = 5, **tables: object) -> tuple[Swarm, dict[PeerId, Mouth]]:
    swarm = make_swarm(**{"trainers": 3, "rounds": 3} | tables)
    await swarm.start(count, answers=True)
    mouths = {member.peer: Mouth(member) for member in swarm.members}
    for member in swarm.members:
        member.learner.answer = mouths[member.peer]
    return swarm, mouths


def order_of(swarm: Swarm) -> list[PeerId]:
    return answerers([member.peer for member in swarm.members], b"draw", digest_of(QUESTION))


async def asked(swarm: Swarm, question: bytes = QUESTION, terms: Terms = TERMS) -> Poll:
    """By somebody who is no member."""

    async def greeted(sender: PeerId, hello: Hello) -> Welcome:
        return Welcome(swarm.run_id, Round(0))

    signer = Signer.from_seed(b"a passer-by who asks a question.")
    async with swarm.network.join(signer.peer) as transport:
        desk = Desk(transport, lambda peer, kind, detail: None)
        desk.on(Hello, greeted)
        transport.serve(desk.answer, swarm.members[0].blobs)
        for member in swarm.alive():
            transport.know(member.peer, member.node.parts.desk.transport.addresses())
        return await Asker(desk, swarm.run_id, question, terms).ask(order_of(swarm))


async def test_three_agree(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, _ = await answering(make_swarm)
    last = await swarm.until_finished()
    poll = await asked(swarm)
    assert sorted(poll.agreed) == sorted(poll.panel) == sorted(order_of(swarm)[:PANEL])
    assert poll.source == Held(last.round, last.model)
    assert poll.silent == {}
    for peer, answer in poll.panel.items():
        assert answer_holds(peer, QUESTION, answer, swarm.run_id)
        assert not answer_holds(peer, b"another question", answer, swarm.run_id)
        assert not answer_holds(peer, QUESTION, answer, digest_of(b"another run"))


@pytest.mark.parametrize("place", range(PANEL))
async def test_one_that_lies_is_outvoted_and_shown(
    autojump_clock: MockClock, make_swarm: MakeSwarm, place: int
) -> None:
    swarm, mouths = await answering(make_swarm)
    await swarm.until_finished()
    liar = order_of(swarm)[place]
    mouths[liar].lie = -50.0
    poll = await asked(swarm)
    assert set(poll.panel) - set(poll.agreed) == {liar}
    assert len(poll.agreed) == 2


async def test_three_that_all_differ_agree_on_nothing(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm)
    last = await swarm.until_finished()
    for lie, peer in zip((-50.0, 0.5, 90.0), order_of(swarm), strict=False):
        mouths[peer].lie = lie
    poll = await asked(swarm)
    assert poll.agreed == ()
    assert len(poll.panel) == PANEL
    assert poll.source is not None
    assert last.round > poll.source.round > 0  # every model that they share was tried


async def test_who_is_silent_or_refuses_is_replaced(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm)
    await swarm.until_finished()
    first, second, *rest = order_of(swarm)
    (gone,) = swarm.named([first])
    swarm.crash(gone)
    mouths[second].error = LearnerError("the worker died")
    poll = await asked(swarm)
    assert set(poll.panel) == set(poll.agreed) == set(rest)
    assert set(poll.silent) == {first, second}
    assert poll.silent[second] == "declined: the worker died"


async def test_who_trains_for_long_refuses_in_time(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm)
    await swarm.until_finished()
    busy = order_of(swarm)[0]
    mouths[busy].takes_s = NEVER
    poll = await asked(swarm)
    assert poll.silent[busy] == "declined: busy training: ask again later"
    assert len(poll.agreed) == PANEL


async def test_too_few_answer(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm, count=4)
    await swarm.until_finished()
    for peer in order_of(swarm)[:2]:
        mouths[peer].error = Unanswerable("no image of 8 x 8")
    poll = await asked(swarm)
    assert len(poll.panel) == 2
    assert set(poll.silent.values()) == {"declined: no image of 8 x 8"}


async def test_nobody_answers_unasked_or_before_it_has_learnt(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm = make_swarm(trainers=3, rounds=3, start_peers=9)
    await swarm.start(1)
    await swarm.start(1, answers=True)
    poll = await asked(swarm)
    assert poll.panel == {}
    assert set(poll.silent.values()) == {
        "declined: AskAnswer is not answered here",
        "declined: no trained model is held here yet",
    }


async def test_while_the_run_goes_on_they_answer_from_one_model(
    autojump_clock: MockClock, make_swarm: MakeSwarm
) -> None:
    swarm, _ = await answering(make_swarm, count=8, rounds=60, pull_every=4)
    compared = []
    for round in (9, 15, 22, 31):
        await swarm.until_round(round)
        poll = await asked(swarm)
        assert len(poll.agreed) >= 2
        assert {poll.panel[peer].source for peer in poll.agreed} == {poll.source}
        assert poll.source is not None
        assert round - 8 <= poll.source.round
        compared.append(len(poll.agreed))
    assert max(compared) == PANEL


# -- which model ------------------------------------------------------------------------------------------------------


def held(*rounds: int) -> AnswerIs:
    names = [Held(Round(round), digest_of(bytes([round]))) for round in rounds]
    return AnswerIs(names[0], b"", tuple(names), b"")


@pytest.mark.parametrize(
    ("answers", "order"),
    [
        ([held(9), held(9), held(9)], [9]),
        ([held(9, 8), held(8), held(9, 8, 7)], [8, 9]),  # all three rather than the newest
        ([held(90, 8), held(8), held(90, 8)], [90, 8]),  # but not what is so much older
        ([held(9, 8), held(8), held(9)], [9, 8]),
        ([held(9), held(8), held(7)], []),
        ([held(9)], []),
    ],
)
def test_models_to_compare_on(answers: Sequence[AnswerIs], order: list[int]) -> None:
    assert [each.round for each in shared(answers, slack=40)] == order


# -- liars with a mouth of their own ----------------------------------------------------------------------------------

RUN = digest_of(b"run")
SIGNERS = [Signer.from_seed(bytes([number]) * 32) for number in range(6)]
NEW, OLD = (Held(Round(round), digest_of(bytes([round]))) for round in (9, 8))
OUTPUT = struct.pack("<3f", 1, 2, 3)
Says = Callable[[Signer, AskAnswer], AnyMessage]


def signed(signer: Signer, question: bytes, source: Held, output: bytes, *others: Held) -> AnswerIs:
    claim = Answered(signer.peer, source.round, source.model, digest_of(question), digest_of(output))
    return AnswerIs(source, output, others, signer.sign(ANSWERED, RUN, claim.statement))


def honest(
    signer: Signer, asked: AskAnswer, *, holds: Iterable[Held] = (NEW, OLD), output: bytes = OUTPUT
) -> AnyMessage:
    holds = tuple(holds)
    source = next((each for each in holds if asked.model in (b"", each.model)), None)
    if source is None:
        return Refused("that model is not held here")
    return signed(signer, asked.question, source, output, *holds)


async def polled(links: Links, court: Any, *says: Says, terms: Terms = TERMS) -> Poll:  # noqa: ANN401  # conftest's
    for signer, each in zip(SIGNERS, says, strict=False):
        links.says[signer.peer] = lambda asked, signer=signer, each=each: each(signer, asked)
    return await Asker(Desk(links, court), RUN, QUESTION, terms).ask([signer.peer for signer in SIGNERS])


async def test_a_signature_that_does_not_hold_is_no_answer(links: Links, court: Any) -> None:  # noqa: ANN401
    def forger(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return msgspec.structs.replace(signed(signer, asked.question, NEW, OUTPUT), output=bytes(12))

    def copycat(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return signed(SIGNERS[5], asked.question, NEW, OUTPUT)

    poll = await polled(links, court, forger, copycat, honest, honest, honest)
    assert set(poll.agreed) == {signer.peer for signer in SIGNERS[2:5]}
    assert [poll.silent[signer.peer] for signer in SIGNERS[:2]] == ["its signature does not hold"] * 2


async def test_a_liar_cannot_choose_with_whom_it_sits(links: Links, court: Any) -> None:  # noqa: ANN401
    """It holds only the newest model, which one of the honest lacks; its friend comes fourth and is never heard."""
    lie = struct.pack("<3f", 9, 2, 3)

    def liar(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return honest(signer, asked, holds=[NEW], output=lie)

    def behind(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return honest(signer, asked, holds=[OLD])

    poll = await polled(links, court, liar, honest, behind, liar, liar)
    assert poll.agreed == (SIGNERS[1].peer, SIGNERS[2].peer)
    assert poll.source == OLD
    assert set(poll.panel) == {signer.peer for signer in SIGNERS[:3]}


async def test_who_answers_from_another_model_than_it_was_asked_to(links: Links, court: Any) -> None:  # noqa: ANN401
    def stubborn(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return signed(signer, asked.question, NEW, OUTPUT, OLD)

    def behind(signer: Signer, asked: AskAnswer) -> AnyMessage:
        return honest(signer, asked, holds=[OLD])

    poll = await polled(links, court, stubborn, behind, behind)
    assert poll.agreed == (SIGNERS[1].peer, SIGNERS[2].peer)
    assert poll.silent[SIGNERS[0].peer] == "it answered from another model than it was asked to"


@pytest.mark.parametrize(("said", "agree"), [((0, 0, 2), {0, 1}), ((1, 1, 1), {0, 1, 2}), ((0, 1, 2), set())])
async def test_where_each_has_a_model_of_its_own_they_agree_by_class(
    links: Links,
    court: Any,  # noqa: ANN401
    said: tuple[int, ...],
    agree: set[int],
) -> None:
    def owner(index: int, signer: Signer, asked: AskAnswer) -> AnyMessage:
        scores = [0.0, 0.0, 0.0]
        scores[said[index]] = 1.0 + index  # as sure as its own model is
        return honest(
            signer, asked, holds=[Held(Round(index), digest_of(bytes([index])))], output=struct.pack("<3f", *scores)
        )

    terms = replace(TERMS, tolerance=None)
    poll = await polled(links, court, *(partial(owner, index) for index in range(3)), terms=terms)
    assert set(poll.agreed) == {SIGNERS[index].peer for index in agree}
    assert poll.source is None


async def test_only_so_many_are_asked(links: Links, court: Any) -> None:  # noqa: ANN401
    crowd = [Signer.from_seed(number.to_bytes(32, "big")).peer for number in range(2 * ASKED)]
    poll = await Asker(Desk(links, court), RUN, QUESTION, TERMS).ask(crowd)
    assert poll.silent.keys() == set(crowd[:ASKED])


# -- at the door ------------------------------------------------------------------------------------------------------


async def test_questions_are_rationed(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm, count=2)
    await swarm.until_finished()
    node, peer = swarm.members[0].node, SIGNERS[0].peer
    answers = [wire.decode(await node.answer(peer, wire.encode(AskAnswer(b"?")))) for _ in range(30)]
    answered = [each for each in answers if isinstance(each, AnswerIs)]
    assert len(answered) == mouths[node.parts.desk.me].asked == 10
    assert set(answers) - set(answered) == {Refused("too many questions to the model: ask again later")}
    assert node.standing.offences() == ()


async def test_few_wait_at_once(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, mouths = await answering(make_swarm, count=2)
    await swarm.until_finished()
    node = swarm.members[0].node
    mouths[node.parts.desk.me].takes_s = NEVER
    said = []

    async def ask() -> None:
        said.append(wire.decode(await node.answer(SIGNERS[0].peer, wire.encode(AskAnswer(b"?")))))

    async with trio.open_nursery() as nursery:
        for _ in range(limits.ANSWERS_WAITING + 1):
            nursery.start_soon(ask)
    assert mouths[node.parts.desk.me].asked == limits.ANSWERS_WAITING
    assert said[0] == Refused("too many questions to the model: ask again later")
    assert set(said[1:]) == {Refused("busy training: ask again later")}


async def test_an_answer_that_is_too_long_is_refused(autojump_clock: MockClock, make_swarm: MakeSwarm) -> None:
    swarm, _ = await answering(make_swarm, count=2)
    await swarm.until_finished()
    member = swarm.members[0]

    async def long(model: Digest, question: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return bytes(limits.OUTPUT_BYTES + 4)

    member.learner.answer = long
    said = wire.decode(await member.node.answer(SIGNERS[0].peer, wire.encode(AskAnswer(b"?"))))
    assert isinstance(said, Refused)
    assert "ask about fewer examples" in said.reason


def test_a_question_that_is_too_long_is_no_message() -> None:
    frame = wire.encode(AskAnswer(bytes(limits.QUESTION_BYTES)))
    assert len(frame) <= limits.FRAME_BYTES
    with pytest.raises(wire.MalformedFrame):
        wire.decode(wire.encode(AskAnswer(bytes(limits.QUESTION_BYTES + 1))))
