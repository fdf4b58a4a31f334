"""SAMPLE(k, count) under virtual time: the first live of the hash order, and what the dead cost."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sampling.admission import Rules
from sampling.peers import PeerId, Role, Round
from sampling.ranking import rank
from sampling.sampler import SET_BACK_ROUNDS, Sampler
from sampling.view import Registration, View

SALT = b"run"
PEERS = [PeerId(f"peer{number}") for number in range(10)]
ANSWER_S, DEADLINE_S = 0.1, 1.0


def view_of(peers: Collection[PeerId]) -> View:
    view = View(100)
    for peer in peers:
        view.register(Registration(peer, 1, True, (Role.TRAINER,), Round(0), (), b""))
    return view


class Pings:
    """Peers that answer after ANSWER_S, or are given up after DEADLINE_S."""

    def __init__(self, dead: Collection[PeerId] = ()) -> None:
        self.dead = frozenset(dead)
        self.asked: list[PeerId] = []

    async def __call__(self, peer: PeerId) -> bool:
        self.asked.append(peer)
        await trio.sleep(DEADLINE_S if peer in self.dead else ANSWER_S)
        return peer not in self.dead


def sampler(ping: Pings, peers: Collection[PeerId] = PEERS, **more: Callable[[PeerId], bool]) -> Sampler:
    return Sampler(view_of(peers), Rules(), SALT, ping, **more)


async def test_all_alive(autojump_clock: MockClock) -> None:
    ping = Pings()
    drawn = sampler(ping)
    order = drawn.order(Round(3))
    assert await drawn.sample(Round(3), 4) == order[:4]
    assert sorted(ping.asked) == sorted(order[:4])  # nobody else is bothered
    assert trio.current_time() == pytest.approx(ANSWER_S, abs=1e-6)  # all at once


@pytest.mark.parametrize("count", [0, 1, 4, 10, 11])
def test_the_first_are_the_beginning_of_the_order(count: int) -> None:
    drawn = sampler(Pings(), trusted=lambda peer: peer != PEERS[3])
    assert drawn.first(Round(5), count) == drawn.order(Round(5))[:count]
    assert drawn.order(Round(5)) == rank(drawn.candidates(Round(5)), Round(5), SALT)


async def test_each_silent_peer_is_replaced_by_the_next(autojump_clock: MockClock) -> None:
    order = sampler(Pings()).order(Round(3))
    ping = Pings(dead=[order[0], order[2], order[5]])
    start = trio.current_time()
    assert await sampler(ping).sample(Round(3), 4) == [order[1], order[3], order[4], order[6]]
    assert len(ping.asked) == 8
    # 0 and 2 fall silent together, 4 and 5 replace them, 6 and 7 replace 5.
    assert trio.current_time() - start == pytest.approx(2 * DEADLINE_S + ANSWER_S)


async def test_fewer_when_there_are_no_more(autojump_clock: MockClock) -> None:
    assert await sampler(Pings(dead=PEERS[2:])).sample(Round(1), 4) == [
        peer for peer in sampler(Pings()).order(Round(1)) if peer in PEERS[:2]
    ]
    assert await sampler(Pings(dead=PEERS)).sample(Round(1), 4) == []
    assert await sampler(Pings(), peers=[]).sample(Round(1), 4) == []


async def test_the_distrusted_are_no_candidates(autojump_clock: MockClock) -> None:
    ping = Pings()
    drawn = sampler(ping, trusted=lambda peer: peer != PEERS[0])
    assert PEERS[0] not in drawn.candidates(Round(1))
    assert PEERS[0] not in await drawn.sample(Round(1), 10)
    assert PEERS[0] not in ping.asked


async def test_a_ping_that_is_cancelled_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    with trio.move_on_after(DEADLINE_S / 2) as scope:
        await sampler(Pings(dead=PEERS)).sample(Round(1), 4)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(DEADLINE_S / 2)


def test_candidates_are_sorted_and_of_the_round() -> None:
    view = view_of(PEERS)
    view.register(Registration(PEERS[3], 2, False, (Role.TRAINER,), Round(0), (), b""))
    view.touch(PEERS[4], Round(30))
    drawn = Sampler(view, Rules(activity_window=10), SALT, Pings())
    assert drawn.candidates(Round(5)) == [peer for peer in sorted(PEERS) if peer != PEERS[3]]
    assert drawn.candidates(Round(40)) == [PEERS[4]]


@given(st.sets(st.sampled_from(PEERS)), st.integers(0, 12), st.integers(0, 1000))
async def test_it_is_the_live_prefix_of_the_order(
    dead: set[PeerId], count: int, round: int
) -> None:  # instant pings: no clock needed
    async def ping(peer: PeerId) -> bool:
        await trio.lowlevel.checkpoint()
        return peer not in dead

    drawn = Sampler(view_of(PEERS), Rules(), SALT, ping)
    live = [peer for peer in drawn.order(Round(round)) if peer not in dead]
    assert await drawn.sample(Round(round), count) == live[:count]


async def test_equal_views_draw_equal_samples(autojump_clock: MockClock) -> None:
    one, other = view_of(PEERS), View(100)
    other.merge(one.delta(-1, 100)[0])
    for round in range(20):
        samples = [await Sampler(view, Rules(), SALT, Pings()).sample(Round(round), 3) for view in (one, other)]
        assert samples[0] == samples[1]


async def test_many_dead_cost_few_deadlines(autojump_clock: MockClock) -> None:
    crowd = [PeerId(f"peer {number:03}") for number in range(200)]
    order = sampler(Pings(), peers=crowd).order(Round(3))
    ping = Pings(dead=order[:190])
    start = trio.current_time()
    assert await sampler(ping, peers=crowd).sample(Round(3), 4) == order[190:194]
    assert trio.current_time() - start < 9 * DEADLINE_S


async def test_those_set_back_come_last_the_most_often_set_back_at_the_very_end(autojump_clock: MockClock) -> None:
    drawn = sampler(Pings())
    before = drawn.order(Round(3))
    drawn.set_back(Round(3), before[:3])
    assert drawn.order(Round(3)) == before[3:] + before[:3]
    drawn.set_back(Round(3), [before[0], before[4]])
    assert drawn.order(Round(3)) == [before[3], *before[5:], *before[1:3], before[4], before[0]]
    assert await drawn.sample(Round(3), 2) == [before[3], before[5]]
    assert drawn.order(Round(4)) == sampler(Pings()).order(Round(4))
    assert drawn.is_set_back(Round(3), before[0])
    assert not drawn.is_set_back(Round(4), before[0])


@pytest.mark.parametrize("count", [3, 8])
def test_who_is_always_among_those_set_back_is_left_out_in_the_end(count: int) -> None:
    drawn, liar = sampler(Pings()), PEERS[4]
    for _ in range(len(PEERS)):
        if liar not in (chosen := drawn.first(Round(7), count)):
            return
        drawn.set_back(Round(7), chosen)
    pytest.fail("it is drawn again and again")


def test_of_old_rounds_nothing_is_remembered() -> None:
    drawn = sampler(Pings())
    for round in range(2 * SET_BACK_ROUNDS):
        drawn.set_back(Round(round), PEERS[:1])
    assert sum(drawn.is_set_back(Round(round), PEERS[0]) for round in range(2 * SET_BACK_ROUNDS)) == SET_BACK_ROUNDS
