"""From one block's A to another's: what to subtract and what to add, exactly, so that nothing is ever replayed; and
from one node's branch to another's: what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from protocols.chain.draws import Update, updates_of
from protocols.chain.forks import Node
from protocols.chain.rules import Rules
from verify.digest import Digest


class Step(NamedTuple):
    """What one block does to A. `checkpoint`: after adding it, hash A and tell `Chain.settle`."""

    block: Digest
    height: int
    updates: tuple[Update, ...]
    checkpoint: bool


class Plan(NamedTuple):
    """Subtract the first, newest first, then add the second, oldest first."""

    subtract: tuple[Step, ...]
    add: tuple[Step, ...]


def plan_between(before: Node, after: Node, rules: Rules, run: bytes) -> Plan:
    subtract, add = [], []
    while before is not after:
        if before.height > after.height:
            subtract.append(step_of(before, rules, run))
            before = _parent(before)
        else:
            add.append(step_of(after, rules, run))
            after = _parent(after)
    return Plan(tuple(subtract), tuple(reversed(add)))


def step_of(node: Node, rules: Rules, run: bytes) -> Step:
    beacons = {base.digest: base.beacon for base in _parent(node).state.recent}
    updates = tuple(
        update
        for entry in node.entries
        for update in updates_of(entry, run, beacons[entry.base], rules.multiplier(entry.height))
    )
    return Step(node.digest, node.height, updates, rules.is_checkpoint(node.height))


def _parent(node: Node) -> Node:
    assert node.parent is not None, "the plan starts below what is kept"
    return node.parent


# -- catching up --------------------------------------------------------------------------------------------------


class Missing(NamedTuple):
    """What others are to be asked for: blocks by digest, and of blocks the entries at these places of `counted`."""

    blocks: tuple[Digest, ...]
    entries: tuple[tuple[Digest, tuple[int, ...]], ...]


def locator_of(path: Sequence[Node]) -> tuple[Digest, ...]:
    """Blocks of a branch, ever farther apart from the tip down: who reads it finds where it parts from another."""
    newest = len(path) - 1
    places = {newest - 2**power for power in range(newest.bit_length())} | {0, newest}
    return tuple(path[place].digest for place in sorted(places, reverse=True) if place >= 0)


def beyond(path: Sequence[Node], locator: Sequence[Digest], most: int) -> list[Node]:
    """The next blocks of `path` for somebody who holds those; from its start if they hold none of it."""
    known = set(locator)
    start = next((place for place in range(len(path) - 1, -1, -1) if path[place].digest in known), 0)
    return list(path[start + 1 : start + 1 + most])
