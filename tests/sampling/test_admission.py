"""Who may be sampled, rule by rule."""

from __future__ import annotations

import pytest

from sampling.admission import Rules
from sampling.peers import PeerId, Role, Round
from sampling.view import Registration

A, B = PeerId("a"), PeerId("b")


def registered(round: int, *, present: bool = True, roles: tuple[Role, ...] = (Role.TRAINER,)) -> Registration:
    return Registration(A, 1, present, roles, Round(round), (), b"")


def eligible(rules: Rules, registration: Registration, *, at: int, active: int | None = None) -> bool:
    return rules.eligible(registration, Round(at if active is None else active), Round(at))


def test_open_rules_admit_anyone_at_once() -> None:
    assert Rules().admits(A)
    assert eligible(Rules(), registered(7), at=7)


def test_the_allow_list() -> None:
    rules = Rules(allow=frozenset({A}))
    assert rules.admits(A)
    assert not rules.admits(B)
    assert eligible(rules, registered(0), at=1)
    assert not eligible(Rules(allow=frozenset({B})), registered(0), at=1)
    assert not Rules(allow=frozenset()).admits(A)


@pytest.mark.parametrize(("at", "is_eligible"), [(10, False), (14, False), (15, True), (16, True)])
def test_a_newcomer_waits_out_the_delay(at: int, is_eligible: bool) -> None:
    assert eligible(Rules(delay_rounds=5), registered(10), at=at) == is_eligible


def test_a_run_that_goes_back_behind_its_members_registrations_keeps_them() -> None:
    assert eligible(Rules(), registered(10), at=1)
    assert eligible(Rules(delay_rounds=5), registered(10), at=9)


def test_founders_do_not_wait() -> None:
    assert eligible(Rules(delay_rounds=5), registered(0), at=1)


@pytest.mark.parametrize(("at", "is_eligible"), [(50, True), (51, False), (1000, False)])
def test_the_silent_drop_out_of_the_window(at: int, is_eligible: bool) -> None:
    assert eligible(Rules(activity_window=50), registered(0), at=at, active=0) == is_eligible


def test_who_left_is_not_eligible() -> None:
    assert not eligible(Rules(), registered(0, present=False), at=1)


@pytest.mark.parametrize(
    ("roles", "is_eligible"),
    [((), False), ((Role.OBSERVER,), False), ((Role.AUDITOR,), False), ((Role.AUDITOR, Role.TRAINER), True)],
)
def test_only_trainers_are_eligible(roles: tuple[Role, ...], is_eligible: bool) -> None:
    assert eligible(Rules(), registered(0, roles=roles), at=1) == is_eligible
