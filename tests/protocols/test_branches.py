"""After a division all end on one branch, whoever asks first and whoever is asked."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from protocols.branches import better_branch
from protocols.messages import Aggregate, Input
from sampling.peers import PeerId, Round
from verify.digest import digest_of


def branch(name: str, inputs: int, round: int = 5) -> Aggregate:
    made_of = tuple(Input(PeerId(f"peer{each}"), digest_of(bytes([each])), 1) for each in range(inputs))
    return Aggregate(Round(round), digest_of(name.encode()), digest_of(b"parent"), made_of, (PeerId("maker"),))


BIG, SMALL = branch("big", 4), branch("small", 2)


def test_the_one_of_more_models_is_better() -> None:
    assert better_branch(SMALL, [SMALL, SMALL, BIG, BIG, BIG]) == BIG
    assert better_branch(BIG, [SMALL, SMALL, SMALL, BIG, BIG]) is None


def test_of_equals_the_lower_digest() -> None:
    first, second = sorted((branch("one", 3), branch("two", 3)), key=lambda each: each.model)
    assert better_branch(second, [first, first, second]) == first
    assert better_branch(first, [second, second, first]) is None


def test_a_lone_voice_moves_nobody() -> None:
    assert better_branch(SMALL, [BIG, SMALL, SMALL]) is None
    assert better_branch(SMALL, [BIG, *[SMALL] * 10]) is None
    assert better_branch(SMALL, [BIG, BIG, *[SMALL] * 10]) is None  # two of thirteen are no third


def test_who_is_alone_on_its_branch_leaves_it_even_for_a_lesser_one() -> None:
    assert better_branch(BIG, [SMALL, SMALL, SMALL]) == SMALL


def test_of_two_nodes_one_moves() -> None:
    assert better_branch(SMALL, [BIG]) == BIG
    assert better_branch(BIG, [SMALL]) is None


def test_other_rounds_are_no_rivals() -> None:
    assert better_branch(SMALL, [branch("big", 4, round=6)] * 3) is None
    assert better_branch(SMALL, []) is None


@given(st.lists(st.integers(0, 2), min_size=2, max_size=16), st.integers(0, 2**32))
def test_all_end_on_one_branch(sides: list[int], seed: int) -> None:
    branches = [branch("a", 3), branch("b", 3), branch("c", 2)]
    nodes = [branches[side] for side in sides]
    rng = random.Random(seed)
    for _ in range(20 * len(nodes)):
        if len({node.model for node in nodes}) == 1:
            return
        turn = rng.randrange(len(nodes))
        others = [node for index, node in enumerate(nodes) if index != turn]
        nodes[turn] = better_branch(nodes[turn], others) or nodes[turn]
    assert len({node.model for node in nodes}) == 1
