"""Disagreement by chance is told from disagreement by lying."""

from __future__ import annotations

import numpy as np
import pytest

from verify.chance import Figures, explains
from verify.lsh import SEED_BYTES
from verify.simhash import signature


def figures(*bits: int) -> list[Figures]:
    return [Figures(each, 0) for each in bits]


@pytest.mark.parametrize("bits", [(9, 7, 8), (12, 6, 7), (3, 8, 9), (14, 8, 7, 9, 6), (0, 0, 0), (1, 0, 0)])
def test_near_figures_are_chance(bits: tuple[int, ...]) -> None:
    one, *others = figures(*bits)
    assert explains(one, others)


@pytest.mark.parametrize("bits", [(60, 0, 0), (0, 60, 70), (40, 8, 7, 9), (130, 128, 0, 0), (20, 0, 1)])
def test_far_figures_are_not(bits: tuple[int, ...]) -> None:
    one, *others = figures(*bits)
    assert not explains(one, others)


def test_a_length_that_the_others_did_not_find_is_not_chance() -> None:
    assert explains(Figures(1, 2), figures(1, 0))
    assert not explains(Figures(1, 5), figures(1, 0))
    assert explains(Figures(9, 5), figures(8, 7))  # directions that differ make lengths uncertain


def test_one_alone_is_explained_by_nobody() -> None:
    assert not explains(Figures(0, 0), [])


@pytest.mark.parametrize("size", [0.02, 0.1, 0.2])
def test_honest_auditors_of_a_deviation_of_any_size_explain_each_other(size: float) -> None:
    draw = np.random.default_rng(7)
    update, other = (draw.standard_normal(3000).astype(np.float32) for _ in range(2))
    found = []
    for _ in range(330):
        seed = draw.bytes(SEED_BYTES)
        found.append(Figures.of(signature(update, seed), signature(update + np.float32(size) * other, seed)))
    panels = [found[start : start + 3] for start in range(0, len(found), 3)]
    unexplained = [not explains(panel[0], panel[1:]) for panel in panels]
    assert sum(unexplained) <= 1  # of 110, at ERROR each
