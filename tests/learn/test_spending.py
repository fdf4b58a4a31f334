"""The count of private probes: what was spent is never forgotten, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossipnode.learn.accountant import Privacy, composed, epsilon
from gossipnode.learn.spending import DELTA, NAME, Spending
from protocols.learner import LearnerError

PRIVACY = Privacy(example_clip=1.0, sigma=2.0)


def test_it_adds_up_over_restarts_and_over_other_noise(tmp_path: Path) -> None:
    first = Spending(tmp_path, PRIVACY, 10, 100)
    assert first.epsilon() == 0.0
    first.count(16)
    first.count(16)
    again = Spending(tmp_path, PRIVACY, 10, 100)
    assert again.epsilon() == first.epsilon() == epsilon(rate=0.1, sigma=2.0, uses=32, delta=DELTA)
    other = Spending(tmp_path, Privacy(example_clip=1.0, sigma=1.0), 200, 100)
    assert other.epsilon() == first.epsilon()
    other.count(3)
    assert other.epsilon() == composed([(0.1, 2.0, 32), (1.0, 1.0, 3)], delta=DELTA) > first.epsilon()


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    Spending(tmp_path, PRIVACY, 10, 100).count(1)
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_a_damaged_count_is_not_a_count_of_zero(tmp_path: Path) -> None:
    for text in ("", "[", '[{"probes": 3}]', '[{"mechanism": {"batch": 1, "examples": 0, "sigma": 1}, "probes": -1}]'):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(LearnerError, match=r"privacy\.json cannot be read.*restore it from a backup"):
            Spending(tmp_path, PRIVACY, 10, 100)


def test_what_cannot_be_counted_is_not_counted(tmp_path: Path) -> None:
    spending = Spending(tmp_path / "gone", PRIVACY, 10, 100)
    with pytest.raises(LearnerError, match=r"cannot be counted in .*: No such file"):
        spending.count(5)
    assert spending.epsilon() == 0.0


def test_parts_of_one_mechanism_are_the_whole() -> None:
    parts = composed([(0.1, 2.0, 10), (0.1, 2.0, 22)], delta=1e-5)
    assert parts == pytest.approx(epsilon(rate=0.1, sigma=2.0, uses=32, delta=1e-5))
    assert composed([(0.1, 2.0, 10), (0.1, 0.0, 0)], delta=1e-5) == epsilon(rate=0.1, sigma=2.0, uses=10, delta=1e-5)
