"""The same signed things give the same chain in whatever order they arrive, and no schedule makes a late byte count."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.chain.checkpoints import Promises
from protocols.chain.evidence import holds
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Entry, id_of
from protocols.chain.plan import Step
from protocols.chain.tree import Chain
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest

World = Any  # conftest's
Worlds = Any

SEEDS = st.integers(0, 2**32)


def history(worlds: Worlds, rng: random.Random, turns: int = 14) -> World:
    """Branches, silence, late entries, equivocation and changes of membership, as chance has it."""
    world = worlds(count=rng.choice([4, 5]), seats=rng.choice([2, 4]), epoch=rng.choice([4, 8]))
    liar = world.rules.founders[0]
    outsider = list(world.signers)[-1]
    for turn in range(turns):
        nodes = sorted(world.chain.leaves(), key=lambda node: node.digest)
        base = world.chain.tip if rng.random() < 0.8 else rng.choice(nodes)
        if rng.random() < 0.15 and base.parent is not None:
            base = base.parent
        for peer in base.state.seats:
            if rng.random() < 0.8:
                enter(world, peer, base, forgetful=peer == liar and rng.random() < 0.2)
        if turn == turns // 3:
            world.join(outsider)
        order = world.chain.proposers(base)
        rank = rng.choice([0, 0, 0, len(order) - 1])
        if order[rank] == liar and rng.random() < 0.5:
            world.promises[liar] = Promises()
        world.block(base, rank)
        for node in world.chain.leaves():
            if world.rules.is_checkpoint(node.height):
                world.chain.settle(node.digest, Digest(node.digest))
    return world


def enter(world: World, peer: PeerId, base: Node, *, forgetful: bool) -> None:
    if forgetful:
        world.promises[peer] = Promises()
    seat = peer, base.height + 1
    held = [each for each in world.said if isinstance(each, Entry) and (each.origin, each.height) == seat]
    if len(held) < 2:
        world.entry(peer, base, scalar=1 + len(held))


def replayed(world: World, order: list[Entry | Block]) -> Chain:
    chain = world.fresh()
    for each in order:
        world.tell(chain, each)
    return chain


def sums(steps: tuple[Step, ...]) -> int:
    return sum(update.seed * update.coefficient for step in steps for update in step.updates)


@settings(max_examples=40)
@given(seed=SEEDS, shuffle=SEEDS)
def test_any_order_of_arrival_gives_the_same_tip_and_the_same_updates(worlds: Worlds, seed: int, shuffle: int) -> None:
    world = history(worlds, random.Random(seed))
    order = list(world.said)
    random.Random(shuffle).shuffle(order)
    chain, genesis = replayed(world, order), world.fresh().tip.digest
    assert chain.tip.digest == world.chain.tip.digest
    assert chain.plan(genesis) == world.chain.plan(genesis)
    assert chain.certified.digest == world.chain.certified.digest
    assert chain.equivocators == world.chain.equivocators
    assert not chain.missing().blocks
    assert not chain.missing().entries


@settings(max_examples=40)
@given(seed=SEEDS, shuffle=SEEDS)
def test_following_every_reorganisation_gives_the_same_sum_as_the_final_branch(
    worlds: Worlds, seed: int, shuffle: int
) -> None:
    world = history(worlds, random.Random(seed))
    order = list(world.said)
    random.Random(shuffle).shuffle(order)
    chain = world.fresh()
    genesis = at = chain.tip.digest
    total = 0
    for each in order:
        world.tell(chain, each)
        plan = chain.plan(at)
        total += sums(plan.add) - sums(plan.subtract)
        at = chain.tip.digest
    assert total == sums(chain.plan(genesis).add)


@settings(max_examples=40)
@given(seed=SEEDS)
def test_every_byte_counts_once_and_within_the_window(worlds: Worlds, seed: int) -> None:
    world = history(worlds, random.Random(seed))
    for leaf in world.chain.leaves():
        seen: set[tuple[str, int]] = set()
        node: Node | None = leaf
        while node is not None:
            for entry in node.entries:
                assert 0 <= node.height - entry.height < world.rules.window
                assert (entry.origin, entry.height) not in seen
                seen.add((entry.origin, entry.height))
            assert len(node.entries) <= 2 * world.rules.seats
            node = node.parent


@settings(max_examples=40)
@given(seed=SEEDS)
def test_only_who_signed_twice_is_expelled_and_the_evidence_holds(worlds: Worlds, seed: int) -> None:
    world = history(worlds, random.Random(seed))
    liar = world.rules.founders[0]
    assert world.chain.equivocators <= {liar}
    assert all(
        holds(fault.evidence, world.run, ()) for fault in world.chain.take_faults() if fault.evidence is not None
    )


def test_bytes_withheld_for_long_change_nothing_when_they_are_shown(world: World) -> None:
    """One member computes on every tip and shows it all at the end."""
    late = world.rules.founders[2]
    hidden: list[Entry] = []
    promises, shadow = Promises(), world.fresh()
    signer: Signer = world.signers[late]
    for _ in range(12):
        made = shadow.enter(signer, b"\x7f", world.chain.tip, promises)
        if made is not None:
            hidden.append(made[0])
            promises = made[1]
        world.grow(1, without=[late])
    genesis = shadow.tip.digest
    before = world.chain.plan(genesis)
    for entry in hidden[: -world.rules.window]:
        world.tell(world.chain, entry)
    assert world.chain.plan(genesis) == before
    world.grow(6, without=[late])
    steps = world.chain.plan(genesis).add
    counted = {id_of(entry) for step in steps for entry in node_entries(world.chain, step)}
    assert not counted & {id_of(entry) for entry in hidden[: -world.rules.window]}


def node_entries(chain: Chain, step: Step) -> tuple[Entry, ...]:
    node = chain.node(step.block)
    assert node is not None
    return node.entries
