"""Questions, answers and gossip: who is answered, who is refused, and what counts as an offence."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocols import limits, wire
from protocols.desk import Declined, Desk
from protocols.messages import (
    Ack,
    Aggregate,
    AnyMessage,
    AskHead,
    HeadIs,
    Late,
    Ping,
    Pong,
    Refused,
    Registered,
)
from protocols.transport import Gossip, NoAnswer, TransportError, Unreachable
from sampling.peers import PeerId, Round
from sampling.view import Registration
from verify.digest import Digest
from verify.standing import OffenceKind

Links = Any  # conftest's
Court = Any

PEER = PeerId("peer")
AGGREGATE = Aggregate(Round(1), Digest(bytes(32)), bytes(32), (), ())
HEAD = HeadIs(AGGREGATE)
REGISTERED = Registered(Registration(PEER, 1, True, (), Round(0), (), b""))
GARBAGE = b"\x02\xc1"


@pytest.fixture
def desk(links: Links, court: Court) -> Desk:
    return Desk(links, court)


async def asked(desk: Desk, question: AnyMessage | bytes) -> AnyMessage:
    return wire.decode(await desk.answer(PEER, question if isinstance(question, bytes) else wire.encode(question)))


async def pong(sender: PeerId, ping: Ping) -> AnyMessage:
    assert sender == PEER
    return Pong(ping.round)


async def test_a_question_goes_to_who_registered_for_it(desk: Desk, court: Court) -> None:
    signs: list[PeerId] = []
    desk.heard = signs.append
    desk.on(Ping, pong)
    assert await asked(desk, Ping(Round(7))) == Pong(Round(7))
    assert signs == [PEER]
    assert court.accused == []


async def test_what_nobody_answers_is_refused(desk: Desk, court: Court) -> None:
    assert await asked(desk, AskHead()) == Refused("AskHead is not answered here")
    assert court.accused == []


async def test_a_malformed_question_is_an_offence(desk: Desk, court: Court) -> None:
    signs: list[PeerId] = []
    desk.heard = signs.append
    assert await asked(desk, GARBAGE) == Refused("malformed frame")
    assert court.verdicts == [(PEER, OffenceKind.MALFORMED_FRAME)]
    assert signs == []


async def test_another_version_is_no_offence(desk: Desk, court: Court) -> None:
    assert await asked(desk, b"\x01\x91\x15") == Refused("wire version 1, ours is 2")
    assert court.accused == []


async def test_the_shunned_are_refused_whatever_they_ask(desk: Desk, court: Court) -> None:
    desk.on(Ping, pong)
    desk.shunned = lambda peer: peer == PEER
    for question in (Ping(Round(1)), GARBAGE):
        assert isinstance(await asked(desk, question), Refused)
    assert court.accused == []


def test_a_kind_has_one_owner(desk: Desk) -> None:
    desk.on(Ping, pong)
    with pytest.raises(AssertionError, match="Ping is answered twice"):
        desk.on(Ping, pong)


async def test_asking(desk: Desk, links: Links, court: Court) -> None:
    signs: list[PeerId] = []
    desk.heard = signs.append
    links.says[PEER] = lambda question: Pong(Round(3))
    assert await desk.ask(PEER, Ping(Round(1)), Pong, 1.0) == Pong(Round(3))
    assert links.asked == [(PEER, Ping(Round(1)))]
    assert signs == [PEER]


async def test_one_of_several_answers_will_do(desk: Desk, links: Links) -> None:
    links.says[PEER] = lambda question: Late(AGGREGATE)
    assert await desk.ask(PEER, AskHead(), (Ack, Late), 1.0) == Late(AGGREGATE)


async def test_a_refusal_is_no_offence_and_one_line(desk: Desk, links: Links, court: Court) -> None:
    links.says[PEER] = lambda question: Refused("no\nERROR the disk is full \x1b[31m")
    with pytest.raises(Declined) as caught:
        await desk.ask(PEER, Ping(Round(1)), Pong, 1.0)
    assert str(caught.value).isprintable()
    assert court.accused == []


async def test_an_answer_that_does_not_fit_is_an_offence(desk: Desk, links: Links, court: Court) -> None:
    links.says[PEER] = lambda question: Ack()
    with pytest.raises(NoAnswer, match="Ack in answer to Ping"):
        await desk.ask(PEER, Ping(Round(1)), Pong, 1.0)
    assert court.verdicts == [(PEER, OffenceKind.PROTOCOL)]


async def test_an_answer_in_another_version_is_no_offence(desk: Desk, links: Links, court: Court) -> None:
    links.says[PEER] = lambda question: b"\x01\x92\x03\xa2no"
    with pytest.raises(NoAnswer, match="wire version 1"):
        await desk.ask(PEER, Ping(Round(1)), Pong, 1.0)
    assert court.accused == []


@pytest.mark.parametrize("said", [GARBAGE, b"", b"\x01" * (limits.FRAME_BYTES + 1)])
async def test_a_malformed_answer_is_an_offence(desk: Desk, links: Links, court: Court, said: bytes) -> None:
    signs: list[PeerId] = []
    desk.heard = signs.append
    links.says[PEER] = lambda question: said
    with pytest.raises(NoAnswer):
        await desk.ask(PEER, Ping(Round(1)), Pong, 1.0)
    assert court.verdicts == [(PEER, OffenceKind.MALFORMED_FRAME)]
    assert signs == []


async def test_silence_is_no_offence(desk: Desk, court: Court) -> None:
    with pytest.raises(Unreachable):
        await desk.ask(PEER, Ping(Round(1)), Pong, 1.0)
    assert issubclass(Declined, TransportError)
    assert court.accused == []


# -- gossip -----------------------------------------------------------------------------------------------------------


async def hear(desk: Desk, links: Links, *frames: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.listen, "topic")
        for frame in frames:
            await links.gossip.send(Gossip(PEER, frame))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_gossip_goes_to_its_listener(desk: Desk, links: Links, court: Court) -> None:
    heard: list[AnyMessage] = []
    signs: list[PeerId] = []
    desk.heard = signs.append

    async def listener(origin: PeerId, message: AnyMessage) -> None:
        assert origin == PEER
        heard.append(message)

    desk.on_gossip(HeadIs, listener)
    await hear(desk, links, wire.encode(HEAD), wire.encode(HEAD))
    assert heard == [HEAD, HEAD]
    assert signs == [PEER, PEER]
    assert court.accused == []


async def test_gossip_that_nobody_listens_to_yet_is_no_offence(desk: Desk, links: Links, court: Court) -> None:
    await hear(desk, links, wire.encode(HEAD), wire.encode(REGISTERED))
    assert court.accused == []


@pytest.mark.parametrize(
    ("frame", "kinds"),
    [
        (GARBAGE, [OffenceKind.MALFORMED_FRAME]),
        (wire.encode(Ping(Round(1))), [OffenceKind.PROTOCOL]),
        (b"\x01\x91\x15", []),
    ],
)
async def test_what_is_no_gossip(
    desk: Desk, links: Links, court: Court, frame: bytes, kinds: list[OffenceKind]
) -> None:
    await hear(desk, links, frame)
    assert court.verdicts == [(PEER, kind) for kind in kinds]


async def test_the_shunned_are_not_listened_to(desk: Desk, links: Links, court: Court) -> None:
    desk.shunned = lambda peer: True
    await hear(desk, links, GARBAGE)
    assert court.accused == []


async def test_telling(desk: Desk, links: Links) -> None:
    await desk.tell("topic", HEAD)
    assert links.published == [("topic", HEAD)]


async def test_a_question_that_is_lost_is_asked_again(desk: Desk, links: Links) -> None:
    silent = iter([True, True, False])

    def forgetful(question: AnyMessage) -> AnyMessage:
        if next(silent):
            raise NoAnswer("lost")
        return Ack()

    links.says[PEER] = forgetful
    assert await desk.insist(PEER, AskHead(), Ack) == Ack()
    assert len(links.asked) == 3


async def test_a_question_is_not_asked_for_ever(desk: Desk, links: Links) -> None:
    def silent(question: AnyMessage) -> AnyMessage:
        raise NoAnswer("lost")

    links.says[PEER] = silent
    with pytest.raises(NoAnswer):
        await desk.insist(PEER, AskHead(), Ack)
    assert len(links.asked) == 3


async def test_a_refusal_and_an_absence_are_believed_at_once(desk: Desk, links: Links) -> None:
    links.says[PEER] = lambda question: Refused("no")
    with pytest.raises(Declined):
        await desk.insist(PEER, AskHead(), Ack)
    with pytest.raises(Unreachable):
        await desk.insist(PeerId("nobody"), AskHead(), Ack)
    assert len(links.asked) == 2
