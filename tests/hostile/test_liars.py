"""What a peer may claim: rounds far ahead, counters at the end of their range, records that are forged or stolen, old
words said again, work that is never done. Nobody believes it, and the honest finish their rounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols import limits
from protocols.messages import (
    Aggregate,
    Aggregated,
    AnyMessage,
    Computed,
    Exchange,
    Exchanged,
    HeadIs,
    Hello,
    Input,
    Late,
    Ping,
    Pong,
    Registered,
    Settled,
    Welcome,
)
from protocols.registration import sign_registration
from protocols.signatures import Signer
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration
from verify.digest import digest_of
from verify.standing import OffenceKind

MakeSwarm = Any  # conftest's
MakeStranger = Any
Found = Any
Stranger = Any

ABSENT = digest_of(b"nobody holds this")
FAR = Round(limits.ROUND)
RUN_S = 600.0  # virtual seconds within which the honest finish five rounds, whatever others try


def invented(round: int, maker: PeerId) -> Aggregate:
    return Aggregate(Round(round), ABSENT, ABSENT, (Input(maker, ABSENT, 1),), (maker,))


# -- rounds far ahead, by every door -----------------------------------------------------------------------------------


async def by_settled(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Settled(invented(FAR, stranger.peer)))


async def by_aggregated(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Aggregated(invented(FAR, stranger.peer), 0, Delta()))
    await stranger.say(victim, Aggregated(invented(FAR - 1, stranger.peer), limits.ATTEMPTS, Delta()))


async def by_gossip(stranger: Stranger, victim: PeerId) -> None:
    await stranger.shout(HeadIs(invented(FAR, stranger.peer)))


async def by_ping(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Ping(FAR))


async def by_hello(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Hello(stranger.swarm.run_id, FAR, 2**62, 2**62))


async def by_exchange(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Exchange(FAR, Delta((), ((victim, FAR), (stranger.peer, FAR))), 2**62))


async def by_registration(stranger: Stranger, victim: PeerId) -> None:
    await stranger.say(victim, Exchange(FAR, Delta((stranger.registration(counter=limits.COUNTER, round=FAR),)), 0))


Door = Callable[[Stranger, PeerId], Awaitable[None]]
DOORS: list[Door] = [by_settled, by_aggregated, by_gossip, by_ping, by_hello, by_exchange, by_registration]


def far_ahead(stranger: Stranger) -> Callable[[PeerId, AnyMessage], AnyMessage]:
    """What one answers that claims to live at the end of time."""

    def says(sender: PeerId, question: AnyMessage) -> AnyMessage:
        match question:
            case Hello():
                return Welcome(stranger.swarm.run_id, FAR, 1, 2**62)
            case Ping():
                return Pong(FAR)
            case Exchange():
                return Exchanged(FAR, Delta(), 2**62)
        return Late(invented(FAR, stranger.peer))

    return says


@pytest.mark.parametrize("door", DOORS)
async def test_the_end_of_time_moves_nobody(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found, door: Door
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=5)
    members = await found(swarm, 5)
    stranger = await make_stranger(swarm)
    stranger.says = far_ahead(stranger)
    await stranger.join(*(member.peer for member in members))
    async with trio.open_nursery() as nursery:

        async def insist() -> None:
            while True:
                for member in members:
                    await door(stranger, member.peer)
                await trio.sleep(0.5)

        nursery.start_soon(insist)
        assert (await swarm.until_finished(RUN_S)).round == 5
        nursery.cancel_scope.cancel()
    assert all(member.node.parts.membership.round == 5 for member in members)


# -- records -----------------------------------------------------------------------------------------------------------


def someone(number: int) -> Signer:
    return Signer.from_seed(number.to_bytes(4, "big") * 8)


def record(signer: Signer, run: bytes, counter: int = 1, **changes: Any) -> Registration:  # noqa: ANN401
    fields: dict[str, Any] = {
        "present": True,
        "roles": [Role.TRAINER],
        "round": Round(0),
        "addresses": [f"/memory/9999/p2p/{signer.peer}"],
    }
    return sign_registration(signer, run, counter=counter, **fields | changes)


FORGERIES: dict[str, Callable[[Registration], Registration]] = {
    "its addresses are ours": lambda honest: honest._replace(addresses=("/memory/77/p2p/" + honest.peer,), counter=9),
    "it has left": lambda honest: honest._replace(present=False, counter=honest.counter + 1),
    "its counter is at the end": lambda honest: honest._replace(counter=limits.COUNTER),
    "it is no trainer": lambda honest: honest._replace(roles=(Role.OBSERVER,), counter=9),
    "another signs for it": lambda honest: record(someone(1), bytes(32), counter=9)._replace(peer=honest.peer),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_record_is_its_tellers_offence_and_changes_nothing(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    forgery: Callable[[Registration], Registration],
) -> None:
    swarm = make_swarm(trainers=3, start_peers=9)
    victim, honest = await found(swarm, 2)
    stranger = await make_stranger(swarm)
    await stranger.join(victim.peer)
    view = victim.node.parts.membership.view
    before = view.registration(honest.peer)
    await stranger.say(victim.peer, Exchange(Round(0), Delta((forgery(before),)), 0))
    assert view.registration(honest.peer) == before
    assert (stranger.peer, OffenceKind.BAD_SIGNATURE) in victim.offences()


async def test_a_stolen_record_leads_to_nobody_but_its_owner(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    # A rightly signed record that points at another's address: whoever dials it finds that the key is another.
    swarm = make_swarm(trainers=3, start_peers=9)
    victim, honest = await found(swarm, 2)
    stranger = await make_stranger(swarm)
    thief = someone(5)
    (port,) = (honest.node.parts.desk.transport.endpoint.host.port,)
    stolen = record(thief, swarm.run_id, addresses=[f"/memory/{port}/p2p/{thief.peer}"])
    await stranger.join(victim.peer)
    await stranger.say(victim.peer, Exchange(Round(0), Delta((stolen,)), 0))
    assert thief.peer in victim.node.parts.membership.view
    assert not await victim.node.parts.membership.ping(thief.peer)
    assert honest.peer in victim.node.parts.desk.transport.peers()


async def test_old_words_said_again_change_nothing(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=5)
    members = await found(swarm, 4)
    leaver = members[3]
    old = leaver.node.parts.membership.view.registration(leaver.peer)
    await swarm.until_round(2)
    await leaver.node.leave()
    swarm.crash(leaver)
    stranger = await make_stranger(swarm)
    honest = members[:3]
    await stranger.join(*(member.peer for member in honest))
    settled = swarm.settled(1)
    for member in honest:
        await stranger.say(member.peer, Exchange(Round(1), Delta((old,), ((leaver.peer, Round(1)),)), 0))
        await stranger.say(member.peer, Settled(settled))
        await stranger.say(member.peer, Aggregated(settled, 0, Delta()))
    await stranger.shout(Registered(old))
    await stranger.shout(HeadIs(settled))
    assert (await swarm.until_finished(RUN_S)).round == 5
    for member in honest:
        assert leaver.peer not in member.node.parts.membership.view.present()


async def test_two_records_with_one_counter_end_alike_everywhere(
    autojump_clock: MockClock, make_swarm: MakeSwarm, make_stranger: MakeStranger, found: Found
) -> None:
    swarm = make_swarm(trainers=3, start_peers=5, rounds=4)
    members = await found(swarm, 5)
    stranger = await make_stranger(swarm)
    await stranger.join(*(member.peer for member in members))
    for index, member in enumerate(members):
        mine = stranger.registration(
            counter=7, addresses=[f"/memory/{index}/p2p/{stranger.peer}"], present=index % 2 == 0
        )
        await stranger.say(member.peer, Exchange(Round(0), Delta((mine,)), 0))
    assert (await swarm.until_finished(RUN_S)).round == 4
    await trio.sleep(30)
    assert len({member.node.parts.membership.view.registration(stranger.peer) for member in members}) == 1


# -- those who take part and do nothing ------------------------------------------------------------------------------


def never_trains(stranger: Stranger) -> Callable[[PeerId, AnyMessage], AnyMessage | None]:
    return lambda sender, question: stranger.polite(sender, question)  # acknowledges every hand-out


def only_pings(stranger: Stranger) -> Callable[[PeerId, AnyMessage], AnyMessage | None]:
    return lambda sender, question: (
        stranger.polite(sender, question) if isinstance(question, Ping | Hello | Exchange) else None
    )


def agrees_to_nonsense(stranger: Stranger) -> Callable[[PeerId, AnyMessage], AnyMessage | None]:
    def says(sender: PeerId, question: AnyMessage) -> AnyMessage | None:
        return Computed(ABSENT) if type(question).__name__ == "Proposal" else stranger.polite(sender, question)

    return says


Idler = Callable[[Stranger], Callable[[PeerId, AnyMessage], AnyMessage | None]]
IDLERS: dict[str, Idler] = {
    "takes every model and does nothing": never_trains,
    "answers pings only": only_pings,
    "lies": agrees_to_nonsense,
}


@pytest.mark.parametrize("aggregators", [1, 3])
@pytest.mark.parametrize("idler", IDLERS.values(), ids=IDLERS)
async def test_idlers_do_not_stop_the_rounds(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    idler: Idler,
    aggregators: int,
) -> None:
    swarm = make_swarm(trainers=4, aggregators=aggregators, start_peers=6, rounds=6, success_fraction=0.6)
    members = await found(swarm, 6)
    for number in range(2):
        stranger = await make_stranger(swarm, number)
        stranger.says = idler(stranger)
        await stranger.join(*(member.peer for member in members))
    assert (await swarm.until_finished(3600.0)).round == 6
    assert all(stats.round == 6 for stats in (member.head.known for member in members))


# -- the same identity twice ------------------------------------------------------------------------------------------


async def test_a_record_of_ours_that_is_lost_is_outbid_once(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    caplog: pytest.LogCaptureFixture,
) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=4)
    members = await found(swarm, 4)
    twin = Signer.from_seed(bytes([1] * 32))  # conftest's second node
    assert twin.peer == members[1].peer
    stranger = await make_stranger(swarm)
    await stranger.join(members[0].peer)
    elsewhere = record(twin, swarm.run_id, counter=50)
    await stranger.say(members[0].peer, Exchange(Round(0), Delta((elsewhere,)), 0))
    assert (await swarm.until_finished(RUN_S)).round == 4
    await swarm.until(lambda: members[0].node.parts.membership.view.registration(twin.peer).counter > 50)
    assert "identity" not in caplog.text


async def test_two_with_one_identity_do_not_outbid_each_other_without_end(
    autojump_clock: MockClock,
    make_swarm: MakeSwarm,
    make_stranger: MakeStranger,
    found: Found,
    caplog: pytest.LogCaptureFixture,
) -> None:
    swarm = make_swarm(trainers=3, start_peers=4, rounds=4)
    members = await found(swarm, 4)
    victim = members[1]
    signer = Signer.from_seed(bytes([1] * 32))
    stranger = await make_stranger(swarm)
    await stranger.join(*(member.peer for member in members))
    said = 0
    async with trio.open_nursery() as nursery:

        async def outbid() -> None:
            """The other process: it never lets a later record of its own stand."""
            nonlocal said
            while True:
                counter = victim.node.parts.membership.counter
                await stranger.shout(Registered(record(signer, swarm.run_id, counter=counter + 1)))
                await stranger.say(
                    victim.peer, Exchange(Round(0), Delta((record(signer, swarm.run_id, counter + 1),)), 0)
                )
                said += 1
                await trio.sleep(0.2)

        nursery.start_soon(outbid)
        assert (await swarm.until_finished(RUN_S)).round == 4
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    assert said > 100
    assert len(victim.saved) < 50
    assert caplog.text.count("another process has this node's identity") == 1
