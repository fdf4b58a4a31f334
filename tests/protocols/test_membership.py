"""Who is here: greetings, deltas and registrations between one real node's membership and peers that the test plays."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocols import limits, wire
from protocols.desk import Desk
from protocols.membership import TOUCHES, Membership
from protocols.messages import (
    AnyMessage,
    Exchange,
    Exchanged,
    Hello,
    Ping,
    Pong,
    Refused,
    Registered,
    Welcome,
)
from protocols.registration import sign_registration
from protocols.signatures import Signer
from protocols.transport import LinkUp, NoAnswer
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View
from verify.standing import OffenceKind

Links = Any  # conftest's
Court = Any

RUN, OTHER_RUN = bytes(32), bytes([1] * 32)
SIGNERS = [Signer.from_seed(index.to_bytes(32, "big")) for index in range(200)]
ME, PEER, THIRD = SIGNERS[0], SIGNERS[1], SIGNERS[2]


def record(signer: Signer, counter: int = 1, *, present: bool = True, round: int = 0, run: bytes = RUN) -> Registration:
    return sign_registration(
        signer, run, counter=counter, present=present, roles=[Role.TRAINER], round=Round(round), addresses=["/memory/1"]
    )


OPEN = Rules()


class Scene:
    def __init__(self, links: Links, court: Court, rules: Rules = OPEN, counter: int = 0) -> None:
        links.me = ME.peer
        self.links = links
        self.desk = Desk(links, court)
        self.view = View(limits.VIEW_PEERS, first_version=1000)
        self.membership = Membership(
            self.desk,
            self.view,
            rules,
            ME,
            RUN,
            roles=[Role.TRAINER],
            bootstrap=[],
            counter=counter,
            patience=Patience(0.25, 5.0),
            rng=random.Random(0),
        )

    async def asks(self, signer: Signer, question: AnyMessage) -> AnyMessage:
        return wire.decode(await self.desk.answer(signer.peer, wire.encode(question)))

    async def tells(self, signer: Signer, *records: Registration, activity: dict[PeerId, int] | None = None) -> None:
        active = tuple((peer, Round(round)) for peer, round in (activity or {}).items())
        answered = await self.asks(signer, Exchange(Round(0), Delta(records, active), 0))
        assert isinstance(answered, Exchanged)

    async def joined(self) -> Registration:
        self.membership.prepare()
        await self.membership.join()
        found = self.view.registration(ME.peer)
        assert found is not None
        return found


@pytest.fixture
def scene(links: Links, court: Court) -> Scene:
    return Scene(links, court)


# -- greetings --------------------------------------------------------------------------------------------------------


async def test_hello(scene: Scene) -> None:
    view = scene.membership.view
    welcome = Welcome(RUN, Round(0), view.seal, view.version)
    assert await scene.asks(PEER, Hello(RUN, Round(4))) == welcome
    assert scene.membership.partners() == [PEER.peer]


async def test_a_newcomer_without_a_run_is_welcome_but_no_partner(scene: Scene) -> None:
    assert isinstance(await scene.asks(PEER, Hello(b"", Round(0))), Welcome)
    assert scene.membership.partners() == []


async def test_another_run_is_refused_and_no_offence(scene: Scene, court: Court) -> None:
    assert isinstance(await scene.asks(PEER, Hello(OTHER_RUN, Round(0))), Refused)
    assert scene.membership.partners() == []
    assert court.accused == []


async def test_who_is_not_allowed_is_refused(links: Links, court: Court) -> None:
    scene = Scene(links, court, Rules(allow=frozenset({ME.peer})))
    assert isinstance(await scene.asks(PEER, Hello(RUN, Round(0))), Refused)


def at_home(question: AnyMessage) -> AnyMessage:
    match question:
        case Hello():
            return Welcome(RUN, Round(7))
        case Exchange():
            return Exchanged(Round(7), Delta(), 5)
        case Ping():
            return Pong(Round(7))
    return Refused("no")


async def test_a_greeting_that_is_lost_is_said_again(scene: Scene, links: Links, autojump_clock: MockClock) -> None:
    losses = 3

    def deaf_at_first(question: AnyMessage) -> AnyMessage | Exception:
        nonlocal losses
        if isinstance(question, Hello) and losses:
            losses -= 1
            return NoAnswer("lost")
        return at_home(question)

    links.says[PEER.peer] = deaf_at_first
    links.linked.add(PEER.peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.membership.run)
        await links.link_events.send(LinkUp(PEER.peer))
        with trio.fail_after(60):
            await scene.membership.acquainted.wait()
        nursery.cancel_scope.cancel()
    assert scene.membership.partners() == [PEER.peer]


async def test_a_peer_that_never_ends_its_news_does_not_hold_us(
    scene: Scene, links: Links, autojump_clock: MockClock
) -> None:
    news = Delta(tuple(record(signer) for signer in SIGNERS[3:8]))
    links.says[PEER.peer] = lambda question: (
        Exchanged(Round(0), news, 5) if isinstance(question, Exchange) else at_home(question)
    )
    links.linked.add(PEER.peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.membership.run)
        await links.link_events.send(LinkUp(PEER.peer))
        with trio.fail_after(60):
            await scene.membership.acquainted.wait()
        nursery.cancel_scope.cancel()


# -- registrations ----------------------------------------------------------------------------------------------------


async def test_what_holds_is_believed_and_can_be_dialled(scene: Scene, links: Links, court: Court) -> None:
    await scene.tells(PEER, record(THIRD), activity={THIRD.peer: 3})
    assert scene.view.registration(THIRD.peer) == record(THIRD)
    assert scene.view.last_active(THIRD.peer) == 3
    assert links.known[THIRD.peer] == ("/memory/1",)
    assert court.accused == []


@pytest.mark.parametrize(
    "false",
    [record(THIRD, run=OTHER_RUN), record(THIRD)._replace(present=False), record(THIRD)._replace(signature=b"")],
)
async def test_what_does_not_hold_is_the_senders_offence_once(scene: Scene, court: Court, false: Registration) -> None:
    await scene.tells(PEER, *[false] * 50)
    assert THIRD.peer not in scene.view
    assert court.verdicts == [(PEER.peer, OffenceKind.BAD_SIGNATURE)]  # nor are the other 49 checked


async def test_who_is_not_allowed_is_not_entered_but_may_be_known_to_others(links: Links, court: Court) -> None:
    scene = Scene(links, court, Rules(allow=frozenset({ME.peer, PEER.peer})))
    await scene.tells(PEER, record(THIRD), record(PEER))
    assert list(scene.view) == [PEER.peer]
    assert court.accused == []  # an amendment that we have not heard of


async def test_two_records_with_one_counter_end_alike_everywhere(scene: Scene, links: Links, court: Court) -> None:
    one, other = record(THIRD), record(THIRD, present=False)
    await scene.tells(PEER, one)
    await scene.tells(PEER, other)
    first = scene.view.registration(THIRD.peer)
    again = Scene(links, court)
    await again.tells(PEER, other)
    await again.tells(PEER, one)
    assert again.view.registration(THIRD.peer) == first


@pytest.mark.parametrize("ahead", [0, 1, 7])
async def test_a_record_of_ours_that_we_do_not_remember_is_outbid(links: Links, court: Court, ahead: int) -> None:
    # Restored from a backup: a former life of ours said more than we know of; with `ahead` 0, the very same counter.
    scene = Scene(links, court)
    mine = await scene.joined()
    lost = record(ME, mine.counter + ahead, present=False)
    await scene.tells(PEER, lost)
    now = scene.view.registration(ME.peer)
    assert now is not None
    if (lost.counter, lost.signature) > (mine.counter, mine.signature):
        assert scene.membership.outbid.is_set()
        await scene.joined()
        now = scene.view.registration(ME.peer)
    assert now is not None
    assert now.present
    assert (now.counter, now.signature) > (lost.counter, lost.signature)


async def test_a_newcomer_registers_at_the_round_its_partners_are_in(scene: Scene) -> None:
    for signer, round in ((PEER, 40), (THIRD, 41), (SIGNERS[3], 2**40)):
        await scene.asks(signer, Hello(RUN, Round(round)))
    assert (await scene.joined()).round == 41  # the liar's word does not count


async def test_joining_is_told(scene: Scene, links: Links) -> None:
    registration = await scene.joined()
    assert registration.counter == 1
    assert [message for _, message in links.published] == [Registered(registration)]


async def test_activity_beyond_all_rounds_is_not_believed(scene: Scene) -> None:
    scene.membership.advance(Round(5))
    await scene.tells(PEER, record(THIRD), activity={THIRD.peer: 5 + limits.ROUNDS_AHEAD + 1, PEER.peer: 3})
    assert scene.view.last_active(THIRD.peer) <= 5
    assert PEER.peer not in scene.view


# -- the size of news ---------------------------------------------------------------------------------------------


async def test_news_fits_a_frame_however_long_the_records(scene: Scene, links: Links) -> None:
    addresses = tuple("/" + "x" * (limits.ADDRESS_CHARS - 1) for _ in range(limits.ADDRESSES_PER_PEER))
    for signer in SIGNERS:
        scene.view.register(record(signer)._replace(addresses=addresses))
    have, heard = 0, View(limits.VIEW_PEERS)
    for _ in range(10):
        answer = await scene.asks(PEER, Exchange(Round(0), Delta(), have))
        assert isinstance(answer, Exchanged)
        heard.merge(answer.delta)
        have = answer.upto
    assert heard == scene.view
    delta, _ = scene.membership.exchanges.news_for(PEER.peer)
    assert len(wire.encode(Exchange(Round(0), delta, 0))) < limits.FRAME_BYTES - limits.GOSSIP_BYTES


# -- pings ------------------------------------------------------------------------------------------------------------


async def test_ping(scene: Scene, links: Links, autojump_clock: MockClock) -> None:
    links.says[PEER.peer] = at_home
    assert await scene.membership.ping(ME.peer)
    assert await scene.membership.ping(PEER.peer)
    assert not await scene.membership.ping(THIRD.peer)
    assert [peer for peer, _ in links.asked] == [PEER.peer, THIRD.peer]


async def test_a_partner_heard_of_just_now_is_alive_without_asking(
    scene: Scene, links: Links, autojump_clock: MockClock
) -> None:
    links.says[PEER.peer] = at_home
    await scene.asks(PEER, Hello(RUN, Round(0)))
    assert await scene.membership.ping(PEER.peer)
    assert links.asked == []
    await trio.sleep(30)
    assert await scene.membership.ping(PEER.peer)
    assert len(links.asked) == 1
    assert scene.membership.rtt_s(PEER.peer) == 0.0  # measured, and the scripted peer takes no time
    assert scene.membership.rtt_s(THIRD.peer) is None
    await wait_all_tasks_blocked()


# -- what need not be said twice --------------------------------------------------------------------------------------


async def test_a_peer_with_an_equal_view_is_told_nothing(scene: Scene) -> None:
    scene.view.register(record(THIRD))
    await scene.asks(PEER, Hello(RUN, Round(0), scene.view.seal, 7))
    assert scene.membership.exchanges.news_for(PEER.peer)[0] == Delta()


async def test_a_peer_with_another_view_is_told_when_the_views_were_compared(scene: Scene) -> None:
    scene.view.register(record(THIRD))
    await scene.asks(PEER, Hello(RUN, Round(0), scene.view.seal ^ 1, 7))
    assert scene.membership.exchanges.news_for(PEER.peer)[0] == Delta()
    await scene.asks(PEER, Exchange(Round(0), Delta(), 0, 9))
    assert scene.membership.exchanges.news_for(PEER.peer)[0].registrations == (record(THIRD),)


async def test_what_a_peer_has_just_told_us_is_not_told_back(scene: Scene) -> None:
    first = await scene.asks(PEER, Exchange(Round(0), Delta((record(PEER),)), 0))
    assert isinstance(first, Exchanged)
    second = await scene.asks(PEER, Exchange(Round(0), Delta(), first.upto))
    assert isinstance(second, Exchanged)
    assert second.delta.registrations == ()


async def test_a_sign_of_life_is_noted_in_steps(scene: Scene) -> None:
    scene.view.register(record(THIRD))
    step = scene.membership.rules.activity_window // TOUCHES
    for round in range(1, 3 * step):
        await scene.asks(THIRD, Ping(Round(round)))
    assert scene.view.last_active(THIRD.peer) == 2 * step
