"""The attacks of the arena, short: no certified block is ever left, all end on one tip and one A, nobody wins by
cheating.

`python tests/chain/arena.py` plays them longer.
"""

from __future__ import annotations

from typing import Any

import pytest

Arena = Any  # the module arena.py
STEPS = 48
SHARE = 5 / 16 + 0.2  # of the hostile members, and what chance adds in so few blocks
ATTACKS = (
    "withholding",
    "late reveal of bytes",
    "late reveal of blocks",
    "proposing at once",
    "equivocation",
    "censoring proposer",
    "private branch",
    "balancing",
    "withheld reveals",
)


def sound(outcome: Any) -> None:  # noqa: ANN401 - an Outcome of arena.py
    assert outcome.left == 0, outcome.line()
    assert (outcome.tips, outcome.models) == (1, 1), outcome.line()
    assert outcome.stale == 0, outcome.line()


@pytest.mark.parametrize("name", ATTACKS)
def test_five_of_sixteen_hostile(arena: Arena, name: str) -> None:
    outcome = arena.play(name, arena.HOSTILE[name], STEPS, seed=1, epoch=8)
    sound(outcome)
    assert outcome.height >= STEPS
    assert outcome.certified >= 16
    assert outcome.share <= SHARE
    assert outcome.voided <= 0.04  # <= 0.02 over more blocks


def test_equivocators_are_out(arena: Arena) -> None:
    assert arena.play("equivocation", arena.HOSTILE["equivocation"], STEPS, seed=2, epoch=8).expelled == 5


def test_eight_with_a_third_of_all_messages_lost(arena: Arena) -> None:
    outcome = arena.play("30 % loss", arena.Honest, STEPS, seed=1, nodes=8, bad=0, loss=0.3, epoch=8)
    sound(outcome)
    assert outcome.voided <= 0.02


def test_steps_go_on_when_eighty_percent_are_dead_and_nothing_is_certified_by_the_rest(arena: Arena) -> None:
    outcome = arena.killed(STEPS, seed=1, epoch=8)
    sound(outcome)
    assert outcome.height >= STEPS
    assert outcome.certified <= STEPS // 3


@pytest.mark.parametrize("smaller", [5, 8])
def test_a_partition_heals_to_one_branch_that_goes_on_to_be_certified(arena: Arena, smaller: int) -> None:
    steps = 78
    outcome = arena.parted(steps, 1, smaller, epoch=8)
    sound(outcome)
    assert outcome.certified >= 2 * steps // 3  # when they met


def test_one_seed_is_one_trace(arena: Arena) -> None:
    one, two = (arena.play("again", arena.HOSTILE["balancing"], 12, seed=3) for _ in range(2))
    assert one == two
