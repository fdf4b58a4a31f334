"""Whole swarms of one-byte training under virtual time: whatever befalls them, one chain and one A, and nobody who
follows the rules is accused of anything."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.onebyte.journal import recall


async def test_eight_nodes_go_on_with_one_a(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm()
    await swarm.start(8)
    await swarm.until_height(60)
    await swarm.until_one()
    assert min(member.node.certified_height for member in swarm.members) >= 32
    assert all(member.node.final for member in swarm.members)
    assert all(member.node.chain.is_member and member.node.chain.scalars_sent > 10 for member in swarm.members)
    assert not any(member.node.troubles for member in swarm.members)


async def test_a_run_ends_at_its_last_step(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4, steps=20)
    await swarm.start(4)
    await swarm.until(lambda: all(member.node.finished for member in swarm.members))
    a = await swarm.until_one()
    await trio.sleep(60)
    assert {member.height for member in swarm.members} == {20}
    assert await swarm.until_one() == a


async def test_the_author_alone_begins_and_others_join(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=0)
    (author,) = await swarm.start(1)
    await swarm.until_height(20)
    await swarm.start(3)
    await swarm.until(lambda: author.node.chain.members == 4)
    await swarm.until(lambda: all(member.learner.probed > 3 for member in swarm.members))
    await swarm.until_one()


async def test_three_in_ten_messages_are_lost(lossy_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = lossy_swarm(steps=40)
    await swarm.start(8)
    await swarm.until(lambda: all(member.node.finished for member in swarm.members), within_s=400)
    await swarm.until_one()
    assert min(member.node.certified_height for member in swarm.members) >= 16


async def test_losses_far_away_do_not_make_anybody_ask_ever_more_rarely(
    far_lossy_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
) -> None:
    """An answer that came late was taken for none: questions became rare, and the deadline learned from that long."""
    swarm = far_lossy_swarm(seats=8)
    await swarm.start(8)
    await swarm.until_height(30, within_s=150)
    assert median(member.node.book.pace.deadline_s for member in swarm.members) < 6


async def test_one_is_killed_and_one_joins(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=7)
    members = await swarm.start(7)
    await swarm.until_height(40)
    swarm.crash(members[3])
    (newcomer,) = await swarm.start(1)
    await swarm.until(lambda: newcomer.learner.probed >= 3)
    await swarm.until_height(newcomer.height + 40)
    await swarm.until_one()
    assert newcomer.learner.restored[-1] is not None  # from a snapshot, not from the beginning
    assert members[3].peer in swarm.alive()[0].node.book.tip.state.dormant


async def test_a_journal_that_begins_below_what_it_certifies(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    """It was killed before it could write its journal anew: A is held of where that begins, and of nothing later."""
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    members[3].node.book.rebase = not_now
    await swarm.until(lambda: members[3].node.certified_height > 0)
    swarm.crash(members[3])
    back = await swarm.restart(members[3])
    assert back.node.certified_height > 0
    await swarm.until_height(back.height + 10)
    await swarm.until_one()


async def not_now(snapshot: object) -> bool:
    return False


async def test_most_are_killed_and_the_rest_go_on(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm()
    members = await swarm.start(8)
    await swarm.until_height(20)
    swarm.crash(*members[2:])
    await swarm.until_height(60, within_s=600)
    await swarm.until_one()
    assert not members[0].node.final  # nothing can be certified, and the status says so
    assert members[0].node.certified_height <= 24


async def test_who_was_away_says_that_it_is_here(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    swarm.crash(members[3])
    await swarm.until(lambda: members[3].peer in members[0].node.book.tip.state.dormant)
    back = await swarm.restart(members[3])
    assert back.height > 0  # as far as its journal says
    await swarm.until(lambda: back.learner.probed > 2)
    assert not back.node.chain.dormant
    await swarm.until_one()


@pytest.mark.parametrize("smaller", [2, 4])
async def test_a_partition_heals(make_swarm: Any, autojump_clock: MockClock, smaller: int) -> None:  # noqa: ANN401
    """2: the others certify meanwhile, and the two begin again from there. 4: neither side can."""
    swarm = make_swarm()
    members = await swarm.start(8)
    await swarm.until_height(20)
    peers = [member.peer for member in members]
    swarm.network.partition([peers[:smaller], peers[smaller:]])
    await swarm.until(lambda: members[0].height >= 36 and members[7].height >= 60)
    assert members[0].node.book.tip.digest != members[7].node.book.tip.digest
    certified = members[7].node.certified_height
    swarm.network.heal()
    await swarm.until_one()
    await swarm.until_height(max(member.height for member in members) + 20)
    await swarm.until_one()
    assert min(member.node.certified_height for member in members) >= certified
    assert any(member.node.chain.dropped for member in members)
    if smaller == 2:
        assert certified > 30
        assert not members[7].node.chain.dropped  # what is certified is not left
        assert members[0].learner.restored[-1] is not None  # from a snapshot: the blocks between are forgotten


async def test_who_loses_a_goes_on_from_a_checkpoint(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(30)
    members[1].learner.loses = 2
    await swarm.until(lambda: not members[1].learner.loses and members[1].learner.restored)
    await swarm.until_height(50)
    await swarm.until_one()
    assert members[1].learner.restored[-1] is not None
    assert not members[1].node.troubles


async def test_a_task_that_fails_stops_nobody_else(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    members[2].learner.fails = True
    await swarm.until_height(40)
    assert members[2].node.chain.dormant
    assert members[2].node.troubles == ["KeyError: 'label'"]
    members[2].learner.fails = False
    await swarm.until_one()


async def test_who_leaves_is_no_member_and_may_come_back(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)
    await members[3].node.leave()
    await swarm.until(lambda: members[0].node.chain.members == 3)
    swarm.crash(members[3])
    height = members[0].height
    back = await swarm.restart(members[3])
    await swarm.until(lambda: back.node.chain.is_member and back.learner.probed > 1)
    assert back.node.book.tip.state.members[back.peer].since >= height - 1
    await swarm.until_one()


async def test_killed_again_and_again_it_never_contradicts_itself(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
) -> None:
    """At every record that it writes, for a while; the others would convict it."""
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(6)
    victim = members[1]
    for _ in range(40):
        records = len(victim.log.kept)
        await swarm.until(lambda victim=victim, records=records: len(victim.log.kept) != records)  # type: ignore[misc]
        swarm.crash(victim)
        victim = await swarm.restart(victim)
    await swarm.until_height(members[0].height + 10)
    await swarm.until_one()
    assert victim.learner.probed > 0


async def test_every_prefix_of_the_journal_covers_what_was_published(
    make_swarm: Any,  # noqa: ANN401
    autojump_clock: MockClock,
    is_covered: Any,  # noqa: ANN401
) -> None:
    swarm = make_swarm(founders=4, epoch=100)  # so that nothing is rewritten
    members = await swarm.start(4)
    await swarm.until_height(25)
    member, book = members[2], members[2].node.book
    for kept in range(len(member.log.kept) + 1):
        recalled = recall(member.log.kept[:kept], swarm.run_id, book.rules, lambda peer: True)
        said = [message for records, message in member.published if records <= kept]
        assert all(is_covered(recalled.promises, message) for message in said)
    assert recalled.chain.tip.height >= book.tip.height - 1


async def test_what_cannot_be_journalled_is_not_published(make_swarm: Any, autojump_clock: MockClock) -> None:  # noqa: ANN401
    swarm = make_swarm(founders=4)
    members = await swarm.start(4)
    await swarm.until_height(10)

    async def full(record: bytes, *, durable: bool) -> None:
        raise OSError(28, "No space left on device")

    append, members[3].log.append = members[3].log.append, full
    await trio.sleep(1)
    said = len(members[3].published)
    await swarm.until_height(30)
    assert [m for _, m in members[3].published[said:] if type(m).__name__ != "NewChange"] == []
    assert "No space left" in members[3].node.troubles[0]
    members[3].log.append = append
    await swarm.until(lambda: not members[3].node.troubles)
    await swarm.until_one()
