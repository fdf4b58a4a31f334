"""Who comes, goes, falls asleep, wakes up and is thrown out: all by the chain itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

from protocols.chain.checkpoints import Promises
from protocols.chain.messages import Here, Join, Leave, TwoEntries, sign
from protocols.chain.state import proposers
from protocols.chain.validity import Refusal

World = Any  # conftest's
Worlds = Any


def test_a_newcomer_sits_once_the_draw_is_one_it_could_not_know(world: World) -> None:
    newcomer = list(world.signers)[7]
    world.grow(3)
    world.join(newcomer)
    world.grow(1)
    state = world.chain.tip.state
    assert state.members[newcomer].sits == 2 * world.rules.epoch + 1
    assert newcomer not in proposers(state, world.rules, world.run)
    world.grow(2 * world.rules.epoch - state.height)
    assert newcomer in proposers(world.chain.tip.state, world.rules, world.run)
    assert newcomer not in world.chain.tip.parent.state.seats


def test_everybody_sits_equally_often(worlds: Worlds) -> None:
    world = worlds(count=8, seats=2, epoch=8)
    sat: Counter[str] = Counter()
    for _ in range(16):
        sat.update(world.chain.tip.state.seats)
        world.grow(1)
    assert set(sat.values()) == {4}


def test_a_member_that_misses_its_seats_sleeps_until_it_says_that_it_is_here(world: World) -> None:
    dead = world.rules.founders[1]
    world.grow(world.rules.dormant_after + world.rules.window, without=[dead])
    assert dead in world.chain.tip.state.dormant
    assert dead not in world.chain.tip.state.seats
    assert world.chain.proposers()[-1] == dead
    world.here(dead)
    world.grow(1, without=[dead])
    assert dead not in world.chain.tip.state.dormant
    assert dead in world.chain.tip.state.seats


def test_an_old_here_does_not_wake_anybody(world: World) -> None:
    dead = world.rules.founders[1]
    world.grow(9, without=[dead])
    old = world.chain.tip.state.dormant[dead] - 1
    assert world.chain.hear_change(sign(Here(old, dead, b""), world.signers[dead], world.run)) is Refusal.KNOWN


def test_who_leaves_has_no_seat_and_no_turn(world: World) -> None:
    leaver = world.rules.founders[3]
    world.grow(2)
    world.leave(leaver)
    world.grow(1)
    state = world.chain.tip.state
    assert leaver not in state.members
    assert leaver not in state.seats
    assert leaver not in world.chain.proposers()
    assert leaver not in state.finality.electors[0]


def test_a_join_said_before_the_leave_does_not_bring_it_back(world: World) -> None:
    peer = list(world.signers)[6]
    world.grow(1)
    old = sign(Join(1, world.links[peer].tip, b"", peer, b""), world.signers[peer], world.run)
    assert world.chain.hear_change(old) is None
    world.grow(2)
    world.leave(peer)
    world.grow(1)
    assert peer not in world.chain.tip.state.members
    assert world.chain.hear_change(old) is Refusal.KNOWN
    world.join(peer)
    world.grow(1)
    assert peer in world.chain.tip.state.members


def test_a_change_that_another_signed_is_forged(world: World) -> None:
    peer, other = list(world.signers)[6:8]
    forged = sign(Leave(0, other, b""), world.signers[other], world.run)
    forged = Leave(0, world.rules.founders[0], forged.signature)
    assert world.chain.hear_change(forged) is Refusal.FORGED
    assert peer not in world.chain.tip.state.members


def test_who_signs_two_entries_is_expelled_and_its_older_bytes_stay(world: World) -> None:
    liar = world.rules.founders[2]
    world.grow(3)
    tip, genesis = world.chain.tip, world.fresh().tip.digest
    before = world.chain.plan(genesis).add
    for scalar in (1, 2):
        world.promises[liar] = Promises()
        world.entry(liar, tip, scalar)
    assert world.chain.equivocators == {liar}
    fault = world.chain.take_faults()[0]
    assert fault.peer == liar
    assert isinstance(fault.evidence, TwoEntries)
    world.grow(1, without=[liar])
    assert liar in world.chain.tip.state.expelled
    assert liar not in world.chain.tip.state.members
    assert world.chain.plan(genesis).add[:3] == before
    assert all(entry.origin != liar for entry in world.chain.tip.entries)


def test_an_expelled_member_cannot_join_again(world: World) -> None:
    liar = world.rules.founders[2]
    world.grow(2)
    for scalar in (1, 2):
        world.promises[liar] = Promises()
        world.entry(liar, world.chain.tip, scalar)
    world.grow(1, without=[liar])
    join = sign(Join(3, world.links[liar].tip, b"", liar, b""), world.signers[liar], world.run)
    assert world.chain.hear_change(join) is Refusal.KNOWN


def test_the_chain_goes_on_when_only_one_is_left(world: World) -> None:
    alive = world.rules.founders[0]
    world.grow(4)
    world.grow(30, without=world.rules.founders[1:])
    assert world.chain.tip.height == 34
    assert world.chain.tip.state.seats == (alive,)
    assert world.chain.certified.height == 0  # a majority is missing: not final
