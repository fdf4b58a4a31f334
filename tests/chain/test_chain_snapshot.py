"""A joiner believes a snapshot for what is signed in it, never for who serves it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocols.chain.checkpoints import (
    BadSnapshot,
    Checkpoint,
    Snapshot,
    checkpoint_id,
    conflict,
    digest_of_state,
    encode_snapshot,
    open_snapshot,
)
from protocols.chain.messages import Entry, Vote, sign
from protocols.chain.tree import Chain
from verify.digest import digest_of

World = Any  # conftest's
Worlds = Any


@pytest.fixture(scope="module")
def grown(worlds: Worlds) -> World:
    """Two members come and one goes while checkpoints are certified."""
    world = worlds(count=7, seats=7, epoch=8)
    world.grow(4)
    world.join(*list(world.signers)[7:9])
    world.grow(36)
    world.leave(world.rules.founders[0])
    world.grow(28)
    return world


def served(world: World) -> Snapshot:
    snapshot = world.chain.snapshot()
    assert snapshot is not None
    return open_snapshot(encode_snapshot(snapshot), world.rules, world.run)


def refused(world: World, snapshot: Snapshot, why: str) -> None:
    with pytest.raises(BadSnapshot, match=why):
        open_snapshot(encode_snapshot(snapshot), world.rules, world.run)


def with_last(snapshot: Snapshot, **changes: Any) -> Snapshot:  # noqa: ANN401 - any field of a certificate
    last = msgspec.structs.replace(snapshot.certificates[-1], **changes)
    return msgspec.structs.replace(snapshot, certificates=(*snapshot.certificates[:-1], last))


def test_it_names_the_newest_certified_checkpoint_and_is_small(grown: World) -> None:
    snapshot = served(grown)
    assert snapshot.checkpoint.block == grown.chain.certified.digest
    assert snapshot.checkpoint.model == grown.model_at(grown.chain.certified)
    assert snapshot.checkpoint.height > 4 * grown.rules.epoch
    assert len(encode_snapshot(snapshot)) < 40_000


def test_a_joiner_goes_on_from_it_and_ends_where_the_others_are(grown: World) -> None:
    joiner = Chain(grown.run, grown.rules, lambda peer: True, served(grown))
    root = joiner.tip.digest
    for each in grown.said:
        grown.tell(joiner, each)
    assert joiner.tip.digest == grown.chain.tip.digest
    assert joiner.plan(root) == grown.chain.plan(root)


def test_a_joiner_can_serve_the_next_snapshot(worlds: Worlds) -> None:
    world = worlds()
    world.grow(26)
    joiner = Chain(world.run, world.rules, lambda peer: True, served(world))
    start = joiner.tip.height
    world.grow(24)
    for each in world.said:
        world.tell(joiner, each)
        if joiner.tip.height > start and world.rules.is_checkpoint(joiner.tip.height):
            joiner.settle(joiner.tip.digest, world.model_at(joiner.tip))
    snapshot = joiner.snapshot()
    assert snapshot is not None
    assert snapshot.checkpoint.height > start
    assert open_snapshot(encode_snapshot(snapshot), world.rules, world.run) == snapshot


def test_pruning_changes_neither_the_tip_nor_the_snapshot(worlds: Worlds) -> None:
    world = worlds()
    pruned = world.fresh()
    world.grow(40)
    at = pruned.tip.digest
    for each in world.said:
        world.tell(pruned, each)
        for step in pruned.plan(at).add:
            if step.checkpoint:
                node = pruned.node(step.block)
                pruned.settle(step.block, world.model_at(node))
        at = pruned.tip.digest
        pruned.prune(at)
    assert pruned.tip.digest == world.chain.tip.digest
    assert pruned.node(world.fresh().tip.digest) is None
    assert len(pruned.after((), 1000)) < 3 * world.rules.epoch
    assert pruned.snapshot() == world.chain.snapshot()


def test_another_state_is_refused(grown: World) -> None:
    snapshot = served(grown)
    richer = {**snapshot.state.members, grown.rules.founders[0]: next(iter(snapshot.state.members.values()))}
    lie = msgspec.structs.replace(snapshot.state, members=richer)
    refused(grown, msgspec.structs.replace(snapshot, state=lie), "state is not the one")


def test_another_model_is_refused(grown: World) -> None:
    snapshot = served(grown)
    lie = msgspec.structs.replace(snapshot.checkpoint, model=digest_of(b"poison"))
    refused(grown, with_last(snapshot, checkpoint=lie), "does not fit together")


def test_other_members_are_refused(grown: World) -> None:
    snapshot = served(grown)
    refused(grown, with_last(snapshot, members=snapshot.certificates[-1].members[:3]), "does not fit together")


def test_too_few_votes_are_refused_however_often_they_are_repeated(grown: World) -> None:
    snapshot = served(grown)
    few = snapshot.certificates[-1].votes[:4] * 5
    refused(grown, with_last(snapshot, votes=few), "less than two thirds")


def test_votes_for_something_else_are_refused(grown: World) -> None:
    snapshot = served(grown)
    votes = list(snapshot.certificates[-1].votes)
    votes[0] = msgspec.structs.replace(votes[0], vote=Vote(0, 8, digest_of(b"other")))
    refused(grown, with_last(snapshot, votes=tuple(votes)), "does not hold")


def test_a_forged_leave_is_refused(grown: World) -> None:
    snapshot = served(grown)
    leaves = [leave for certificate in snapshot.certificates for leave in certificate.leaves]
    assert leaves
    lie = msgspec.structs.replace(leaves[0], peer=grown.rules.founders[1])
    refused(grown, with_last(snapshot, leaves=(lie,)), "leave or an expulsion")


def test_a_skipped_electorate_is_refused(grown: World) -> None:
    """Members who joined later cannot speak for the founders."""
    snapshot = served(grown)
    assert len(snapshot.certificates) > 2
    lie = msgspec.structs.replace(snapshot, certificates=snapshot.certificates[::-1])
    refused(grown, lie, "out of order")


def test_garbage_is_refused(grown: World) -> None:
    for data in (b"", b"\x00", b"\xff" * 100, encode_snapshot(served(grown))[:-1]):
        with pytest.raises(BadSnapshot):
            open_snapshot(data, grown.rules, grown.run)


def forged_history(world: World, forgers: int) -> Snapshot:
    """A long-range attack: so many founders sign another past, with themselves as the only members."""
    signers = [world.signers[peer] for peer in world.rules.founders[:forgers]]
    state = world.fresh().tip.state
    members = tuple(sorted((signer.peer, 0) for signer in signers))
    digest = digest_of(msgspec.msgpack.encode(members))
    one = Checkpoint(8, digest_of(b"fork"), digest_of(b"past"), digest_of_state(state), digest, digest_of(b"poison"))
    two = Checkpoint(16, digest_of(b"fork 2"), checkpoint_id(one), digest_of(b"state"), digest, digest_of(b"poison"))
    vote = Vote(8, 16, checkpoint_id(two))
    votes = tuple(
        sign(Entry(20, digest_of(b"base"), b"\x01", vote, signer.peer, b""), signer, world.run) for signer in signers
    )
    certificate = msgspec.structs.replace(
        served(world).certificates[0], checkpoint=one, child=two, votes=votes, members=members, leaves=(), expulsions=()
    )
    return Snapshot((certificate,), state)


def test_two_thirds_are_not_enough_to_forge_a_history(grown: World) -> None:
    refused(grown, forged_history(grown, 4), "less than two thirds")  # of seven


def test_stolen_keys_of_more_are_seen_by_who_asks_several_and_stopped_by_an_anchor(grown: World) -> None:
    """What no signature can tell: a former two thirds whose keys were stolen."""
    forged = encode_snapshot(forged_history(grown, 5))
    believed = open_snapshot(forged, grown.rules, grown.run)
    assert conflict(believed, forged_history(grown, 6)) is False  # they tell the same lie
    honest = served(grown)
    assert not conflict(honest, honest)
    anchor = honest.checkpoint.height, honest.checkpoint.block
    with pytest.raises(BadSnapshot, match="must contain"):
        open_snapshot(forged, grown.rules, grown.run, anchor)
    assert open_snapshot(encode_snapshot(honest), grown.rules, grown.run, anchor) == honest


def test_snapshots_of_two_histories_conflict(grown: World) -> None:
    honest, lie = served(grown), forged_history(grown, 5)
    first = honest.certificates[0].checkpoint.height
    moved = msgspec.structs.replace(lie.certificates[0].checkpoint, height=first)
    assert conflict(honest, with_last(lie, checkpoint=moved))
