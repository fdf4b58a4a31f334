"""Expulsion for wrong bytes: what a block may carry, that it takes effect, and that a joiner believes what follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from protocols.chain import evidence
from protocols.chain.checkpoints import BadSnapshot, encode_snapshot, open_snapshot
from protocols.chain.messages import Contradiction, Entry, WrongBytes, id_of
from protocols.claiming import sign_vote
from protocols.signatures import Signer
from verify.claims import Vote

World = Any  # conftest's
Worlds = Any

OTHER = b"\x40"  # bytes far from those that the world's members sign


def entry_by(world: World, liar: str) -> Entry:
    while liar not in world.chain.tip.state.seats:
        world.grow(1)
    found = world.entry(liar, world.chain.tip)
    assert isinstance(found, Entry)
    return found


def vote_by(signer: Signer, run: bytes, entry: Entry, own: bytes = OTHER, *, agrees: bool = False) -> Vote:
    return sign_vote(signer, run, Vote(signer.peer, id_of(entry), agrees, own, b"", b"", b""))


def wrong_of(world: World, entry: Entry, auditors: Sequence[str], own: bytes = OTHER) -> WrongBytes:
    votes = [vote_by(world.signers[peer], world.run, entry, own) for peer in auditors]
    return WrongBytes(entry, tuple(Contradiction(vote.auditor, vote.own, vote.signature) for vote in votes))


@pytest.fixture
def accused(worlds: Worlds) -> tuple[World, str, Entry, list[str]]:
    world = worlds(count=7)
    liar, *others = world.rules.founders
    return world, liar, entry_by(world, liar), others


def test_more_than_a_third_of_the_members_expel(accused: tuple[World, str, Entry, list[str]]) -> None:
    world, liar, entry, others = accused
    assert not world.chain.convict(wrong_of(world, entry, others[:2]))
    assert world.chain.convict(wrong_of(world, entry, others[:3]))
    world.grow(1)
    assert liar not in world.chain.tip.state.members
    assert liar in world.chain.tip.state.expelled
    assert len(world.chain.tip.block.changes.expulsions) == 1


def test_a_node_without_the_votes_follows_the_block(accused: tuple[World, str, Entry, list[str]]) -> None:
    world, liar, entry, others = accused
    assert world.chain.convict(wrong_of(world, entry, others[:3]))
    world.grow(1)
    late = world.fresh()
    for said in world.said:
        world.tell(late, said)
    assert late.tip.digest == world.chain.tip.digest
    assert liar in late.tip.state.expelled


@pytest.mark.parametrize("flaw", ["stranger", "twice", "itself", "near", "forged", "long", "of another entry"])
def test_what_proves_nothing_expels_nobody(accused: tuple[World, str, Entry, list[str]], flaw: str) -> None:
    world, liar, entry, others = accused
    stranger = next(peer for peer in world.signers if peer not in world.rules.founders)
    good = wrong_of(world, entry, others[:3])
    wrong = {
        "stranger": wrong_of(world, entry, [*others[:2], stranger]),
        "twice": wrong_of(world, entry, [*others[:2], others[0]]),
        "itself": wrong_of(world, entry, [*others[:2], liar]),
        "near": wrong_of(world, entry, others[:3], own=bytes([entry.scalars[0] + 2])),
        "forged": WrongBytes(entry, (*good.votes[:2], msgspec.structs.replace(good.votes[2], signature=bytes(64)))),
        "long": wrong_of(world, entry, others[:3], own=OTHER * 2),
        "of another entry": WrongBytes(msgspec.structs.replace(entry, scalars=b"\x02"), good.votes),
    }[flaw]
    assert evidence.holds(good, world.run, world.rules.founders)
    assert not evidence.holds(wrong, world.run, world.rules.founders)
    assert not world.chain.convict(wrong)
    world.grow(1)
    assert not world.chain.tip.state.expelled


def test_a_block_carries_one_conviction_by_votes(worlds: Worlds) -> None:
    world = worlds(count=7, seats=7)
    first, second, *others = world.rules.founders
    for liar in (first, second):
        assert world.chain.convict(wrong_of(world, entry_by(world, liar), others[:3]))
    world.grow(1)
    assert len(world.chain.tip.state.expelled) == 1
    world.grow(1)
    assert world.chain.tip.state.expelled == {first, second}


def test_of_four_one_needs_two_and_of_three_nobody_is_expelled() -> None:
    assert not evidence.enough(1, 4)
    assert evidence.enough(2, 4)
    assert not evidence.enough(3, 3)


def test_too_few_votes_make_no_evidence(accused: tuple[World, str, Entry, list[str]]) -> None:
    world, _, entry, others = accused
    votes = [vote_by(world.signers[peer], world.run, entry) for peer in others]
    friends = [vote_by(world.signers[peer], world.run, entry, entry.scalars, agrees=True) for peer in others]
    members = world.rules.founders
    assert evidence.wrong_bytes(entry, votes[:2] + friends[2:], members) is None
    found = evidence.wrong_bytes(entry, votes, members)
    assert found is not None
    assert len(found.votes) == 3
    assert evidence.holds(found, world.run, members)
    left = {vote.auditor for vote in found.votes[1:]}
    assert evidence.within(found, [peer for peer in members if peer not in left]) is None


def test_a_joiner_leaves_out_of_the_electorate_whom_a_third_of_it_accuses(worlds: Worlds) -> None:
    """Two of seven are expelled and one is dead: four vote, which are two thirds of five but not of seven."""
    world = worlds(count=7, seats=7)
    first, second, dead, *alive = world.rules.founders
    for liar in (first, second):
        assert world.chain.convict(wrong_of(world, entry_by(world, liar), alive[:3]))
    world.grow(5 * world.epoch, without=[dead])
    snapshot = world.chain.snapshot()
    assert snapshot is not None
    assert snapshot.checkpoint.height >= 2 * world.epoch
    data = encode_snapshot(snapshot)
    assert open_snapshot(data, world.rules, world.run).checkpoint == snapshot.checkpoint
    bare = [msgspec.structs.replace(each, expulsions=()) for each in snapshot.certificates]
    with pytest.raises(BadSnapshot, match="two thirds"):
        open_snapshot(
            encode_snapshot(msgspec.structs.replace(snapshot, certificates=tuple(bare))), world.rules, world.run
        )
