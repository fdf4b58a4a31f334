"""What a block leaves behind: who is a member, who sits next, what still may count, which checkpoints are certified.

A State is a pure function of the blocks below it, and small: the blocks that came before may be forgotten once a
checkpoint above them is certified, and a joiner is given this and nothing older. `advance` assumes a block that
`protocols.chain.validity` has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocols.chain import finality
from protocols.chain.draws import drawn, first_beacon, genesis, next_beacon, slice_of
from protocols.chain.evidence import culprit
from protocols.chain.finality import Finality
from protocols.chain.messages import Changes, Entry, Head, Height, Join
from protocols.chain.rules import Rules
from protocols.fields import Bytes32, Peer
from sampling.peers import PeerId
from verify.digest import Digest

FRESH_EPOCHS: Final = 2  # a Join is void after so many: what it could replay is remembered as long


class Member(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`since`: height of its newest Join; `sits`: first height it may sit at or propose; `reveals`: first height its
    hash chain counts at, so late that nobody can choose a chain by what it would draw. `data`: what it probes on, as
    its newest Join has it."""

    since: Height
    sits: Height
    reveals: Height = 0
    tip: bytes = b""
    data: bytes = b""


class Ancestor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block that entries may still name as their base. `counted`: bit i is set once the entry of seats[i] counts."""

    digest: Bytes32
    height: Height
    beacon: Bytes32
    seats: tuple[Peer, ...]
    counted: int = 0


class State(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """After the block `recent[-1]`. `draws`: beacons of the last two checkpoints; the older is in force."""

    draws: tuple[Bytes32, Bytes32]
    members: dict[Peer, Member]
    left: dict[Peer, Height]
    expelled: frozenset[Peer]
    misses: dict[Peer, Annotated[int, Meta(ge=1)]]  # seats in a row, of those who have any
    dormant: dict[Peer, Height]  # since when
    recent: tuple[Ancestor, ...]  # the last `window`, oldest first
    finality: Finality

    @property
    def height(self) -> int:
        return self.recent[-1].height

    @property
    def beacon(self) -> bytes:
        return self.recent[-1].beacon

    @property
    def seats(self) -> tuple[PeerId, ...]:
        """Whose entries the next height may count, in the order of their seats."""
        return self.recent[-1].seats


class Slot(Struct, frozen=True):
    """One place of `Head.counted`: the entry that `origin` makes on `base`."""

    base: Ancestor
    seat: int

    @property
    def origin(self) -> PeerId:
        return self.base.seats[self.seat]

    @property
    def free(self) -> bool:
        return not self.base.counted >> self.seat & 1


def initial(rules: Rules, run: bytes) -> State:
    beacon = first_beacon(run)
    members = {peer: Member(0, 1) for peer in rules.founders}
    bare = State(
        (beacon, beacon), members, {}, frozenset(), {}, {}, (), finality.initial(frozenset(members), genesis(run))
    )
    return _seated(rules, run, bare, Ancestor(genesis(run), 0, beacon, ()))


# -- who is next --------------------------------------------------------------------------------------------------


def proposers(state: State, rules: Rules, run: bytes) -> tuple[PeerId, ...]:
    """Of the next height, first rank first: everybody, so that it has a block however many are dead."""
    height = state.height + 1
    order = drawn(_eligible(state.members, height), run, state.draws[0], b"rank", height)
    if not state.dormant:
        return order
    return tuple(sorted(order, key=lambda peer: peer in state.dormant))


def slots(state: State, rules: Rules, counted: Sequence[int]) -> list[Slot] | None:
    """What the numbers of a block on top of this one mean; None if they are not ascending, or mean nothing."""
    if any(one >= other for one, other in pairwise(counted)):
        return None
    found = [slot_of(state, rules, number) for number in counted]
    return None if None in found else [slot for slot in found if slot is not None]


def slot_of(state: State, rules: Rules, number: int) -> Slot | None:
    age, seat = divmod(number, rules.seats)
    index = age - rules.window + len(state.recent)  # near the start there are fewer ancestors than the window has room
    if not 0 <= index < len(state.recent) or seat >= len(state.recent[index].seats):
        return None
    return Slot(state.recent[index], seat)


def number_of(state: State, rules: Rules, base: Ancestor, seat: int) -> int:
    return (base.height - (state.height + 1 - rules.window)) * rules.seats + seat


# -- a block on top -----------------------------------------------------------------------------------------------


def advance(
    state: State, rules: Rules, run: bytes, *, digest: Digest, head: Head, changes: Changes, entries: Sequence[Entry]
) -> State:
    state = _counted(state, rules, head, entries)
    state = _changed(state, rules, changes, head.height)
    state, recent = _aged(state, rules, head.height)
    beacon = next_beacon(state.beacon, head.reveal)
    if rules.is_checkpoint(head.height):
        marked = finality.marked(state.finality, head.height, digest, frozenset(state.members))
        left = {peer: at for peer, at in state.left.items() if at >= head.height - FRESH_EPOCHS * rules.epoch}
        state = msgspec.structs.replace(state, draws=(state.draws[1], beacon), finality=marked, left=left)
    state = msgspec.structs.replace(state, recent=recent)
    return _seated(rules, run, state, Ancestor(digest, head.height, Digest(beacon), ()))


def _seated(rules: Rules, run: bytes, state: State, newest: Ancestor) -> State:
    """Append the newest ancestor with the seats on it: a slice of the epoch's order, the dormant left out."""
    epoch, step = divmod(newest.height, rules.epoch)
    order = drawn(_eligible(state.members, newest.height + 1), run, state.draws[0], b"seat", epoch)
    awake = [peer for peer in order if peer not in state.dormant] if state.dormant else order
    seats = slice_of(awake, step, rules.seats)
    return msgspec.structs.replace(
        state, recent=(*state.recent, msgspec.structs.replace(newest, seats=seats))[-rules.window :]
    )


def _eligible(members: Mapping[PeerId, Member], height: int) -> tuple[PeerId, ...]:
    return tuple(peer for peer, member in members.items() if member.sits <= height)


def _counted(state: State, rules: Rules, head: Head, entries: Sequence[Entry]) -> State:
    if not entries:
        return state
    recent, judged = list(state.recent), state.finality
    for number, entry in zip(head.counted, entries, strict=True):
        index = number // rules.seats - rules.window + len(recent)
        base = recent[index]
        recent[index] = msgspec.structs.replace(base, counted=base.counted | 1 << number % rules.seats)
        if entry.vote is not None:
            judged = finality.counted(judged, rules, entry.vote, entry.origin, base.height)
    return msgspec.structs.replace(state, recent=tuple(recent), finality=judged)


def _aged(state: State, rules: Rules, height: int) -> tuple[State, tuple[Ancestor, ...]]:
    """Drop the ancestor whose entries can count no more; who did not make one there has missed a seat."""
    if len(state.recent) < rules.window:
        return state, state.recent
    oldest, rest = state.recent[0], state.recent[1:]
    missed = [peer for seat, peer in enumerate(oldest.seats) if not oldest.counted >> seat & 1]
    if not missed and not state.misses:
        return state, rest
    misses, dormant = dict(state.misses), dict(state.dormant)
    for seat, peer in enumerate(oldest.seats):
        if oldest.counted >> seat & 1:
            misses.pop(peer, None)
        elif peer in state.members and peer not in dormant:
            misses[peer] = misses.get(peer, 0) + 1
            if misses[peer] >= rules.dormant_after:
                del misses[peer]
                dormant[peer] = height
    return msgspec.structs.replace(state, misses=misses, dormant=dormant), rest


def _changed(state: State, rules: Rules, changes: Changes, height: int) -> State:
    if not (changes.joins or changes.leaves or changes.heres or changes.expulsions):
        return state
    members, left, dormant = dict(state.members), dict(state.left), dict(state.dormant)
    gone = frozenset(leave.peer for leave in changes.leaves)
    left.update({leave.peer: leave.height for leave in changes.leaves})
    expelled = frozenset(map(culprit, changes.expulsions))
    for here in changes.heres:
        dormant.pop(here.peer, None)
    for join in changes.joins:
        members[join.peer] = joined(members.get(join.peer), join, rules, height)
    for peer in gone | expelled:
        members.pop(peer, None)
        dormant.pop(peer, None)
    return msgspec.structs.replace(
        state,
        members=members,
        left=left,
        dormant=dormant,
        misses={peer: count for peer, count in state.misses.items() if peer in members},
        expelled=state.expelled | expelled,
        finality=finality.departed(state.finality, gone | expelled),
    )


def joined(member: Member | None, join: Join, rules: Rules, height: int) -> Member:
    """A newcomer waits until the draw comes from a beacon that was not known when it joined; so does a hash chain."""
    first = ((height - 1) // rules.epoch + 2) * rules.epoch + 1
    return Member(join.height, first if member is None else member.sits, first, join.tip, join.data)
