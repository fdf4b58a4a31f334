"""Three outputs, and which of them are most."""

from __future__ import annotations

import numpy as np
import pytest

from verify.answers import Floats, majority, scores_of
from verify.lsh import Tolerance

SEED = bytes(range(32))
TOLERANCE = Tolerance(8, 2)
HONEST = np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
NEAR = HONEST * np.float32(1.00001)


def most(*outputs: Floats | None, panel: int = 3) -> tuple[int, ...]:
    return majority(outputs, panel, SEED, TOLERANCE)


def swapped() -> Floats:
    """The same vector but for which of two scores is the larger: 1 in 10^6 of its length."""
    scores = HONEST.copy()
    first, second = scores[0].argsort()[::-1][:2]
    scores[0, second] = scores[0, first] = (scores[0, first] + scores[0, second]) / 2
    scores[0, second] += np.float32(1e-6)
    return scores


@pytest.mark.parametrize(
    ("outputs", "agree"),
    [
        ((HONEST, NEAR, HONEST), (0, 1, 2)),
        ((HONEST, -HONEST, NEAR), (0, 2)),
        ((-HONEST, HONEST, NEAR), (1, 2)),
        ((HONEST, HONEST * 3, NEAR), (0, 2)),  # a signature sees length, too
        ((HONEST, None, NEAR), (0, 2)),
        ((HONEST, HONEST[:2], NEAR), (0, 2)),  # of another shape
        ((HONEST, NEAR), (0, 1)),  # the third lacks the model
        ((HONEST, -HONEST, HONEST[:, ::-1]), ()),
        ((HONEST, None, None), ()),
        ((HONEST, -HONEST), ()),
        ((), ()),
    ],
)
def test_who_agrees(outputs: tuple[Floats | None, ...], agree: tuple[int, ...]) -> None:
    assert most(*outputs) == agree


def test_another_class_of_one_example_is_another_answer() -> None:
    a = swapped()
    b = a.copy()
    first, second = a[0].argsort()[::-1][:2]
    b[0, [first, second]] = a[0, [second, first]]
    assert float(np.abs(a - b).max()) < 1e-5
    assert most(a, b, panel=2) == ()
    assert most(a, a, panel=2) == (0, 1)


def test_of_several_models_only_the_classes_are_compared() -> None:
    outputs = (HONEST, HONEST * 3, HONEST[:, ::-1], HONEST[:2])
    assert majority(outputs, 3, SEED, None) == (0, 1)


def test_one_alone_is_no_majority_of_three() -> None:
    assert most(HONEST) == ()


@pytest.mark.parametrize(
    "output", [b"", bytes(7), bytes(4), np.full(2, np.nan, "<f4").tobytes(), np.full(2, np.inf, "<f4").tobytes()]
)
def test_what_is_no_output_of_two_examples(output: bytes) -> None:
    assert scores_of(output, 2) is None


def test_rows_come_in_their_order() -> None:
    scores = scores_of(np.arange(6, dtype="<f4").tobytes(), 2)
    assert scores is not None
    assert scores.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_scores_beyond_what_has_a_signature_agree_with_nobody() -> None:
    huge = np.full((300, 300), 3e38, dtype=np.float32)
    assert most(huge, huge) == ()
