from __future__ import annotations

import pytest

from verify.tokens import among_beams, digest_of_tokens

BEAMS = [[5, 9, 2], [5, 9, 3], [5, 8]]


@pytest.mark.parametrize("beam", BEAMS)
def test_whatever_is_among_the_best_is_accepted(beam: list[int]) -> None:
    assert among_beams(digest_of_tokens(beam), BEAMS)


@pytest.mark.parametrize("other", [[], [5], [5, 9], [9, 5, 2], [5, 9, 2, 0], [5 + 9 * 2**8, 2]])
def test_anything_else_is_not(other: list[int]) -> None:
    assert not among_beams(digest_of_tokens(other), BEAMS)


def test_a_narrower_beam_forgives_less() -> None:
    assert not among_beams(digest_of_tokens(BEAMS[1]), BEAMS[:1])


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token(token: int) -> None:
    with pytest.raises(ValueError, match="a token is a number from 0"):
        digest_of_tokens([1, token])
