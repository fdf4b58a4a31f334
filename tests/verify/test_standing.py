"""Standing: bounded, monotone, forgiving, and never a quarantine for one honest fault."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.peers import PeerId
from verify import standing
from verify.standing import Offence, OffenceKind, Past, Repute, Standing, Suspension

PEERS = [PeerId(name) for name in "ABC"]
ALICE, BOB, _ = PEERS

offences = st.builds(
    Offence,
    peer=st.sampled_from(PEERS),
    kind=st.sampled_from(OffenceKind),
    round=st.integers(0, 300),
    detail=st.text(max_size=300),
    provable=st.booleans(),
)


def fill(record: list[Offence]) -> Standing:
    judge = Standing()
    for offence in record:
        judge.record(offence)
    return judge


def test_every_kind_has_a_weight_that_one_burst_cannot_turn_into_quarantine() -> None:
    assert set(standing.WEIGHTS) == set(OffenceKind)
    assert all(1 <= weight <= standing.QUARANTINE_STRIKES for weight in standing.WEIGHTS.values())
    assert standing.BURST_STRIKES < standing.QUARANTINE_STRIKES


@pytest.mark.parametrize("kind", OffenceKind)
@pytest.mark.parametrize("times", [1, 50])
def test_one_unprovable_fault_never_quarantines_however_often_it_shows_up_in_a_round(
    kind: OffenceKind, times: int
) -> None:
    judge = fill([Offence(ALICE, kind, 7)] * times)
    assert judge.repute(ALICE, 7) is Repute.SUSPECT
    assert judge.repute(BOB, 7) is Repute.GOOD


@pytest.mark.parametrize("kind", sorted(set(OffenceKind) - {OffenceKind.EQUIVOCATION}))
def test_one_provable_fault_of_any_other_kind_does_not_quarantine_either(kind: OffenceKind) -> None:
    assert not Standing().record(Offence(ALICE, kind, 7, provable=True)).quarantined


def test_a_fault_that_goes_on_for_rounds_quarantines() -> None:
    judge = Standing()
    verdicts = [judge.record(Offence(ALICE, OffenceKind.WRONG_DIGEST, round)) for round in (1, 2, 3)]
    assert [verdict.quarantined for verdict in verdicts] == [False, False, True]
    assert verdicts[-1].fresh
    assert not judge.record(Offence(ALICE, OffenceKind.WRONG_DIGEST, 3)).fresh


def test_two_kinds_of_burst_in_one_round_quarantine() -> None:
    record = [Offence(ALICE, kind, 1) for kind in (OffenceKind.FLOOD, OffenceKind.OVERSIZE) for _ in range(9)]
    assert fill(record).quarantined(ALICE, 1)


def test_proven_equivocation_quarantines_at_once_and_for_the_stated_rounds() -> None:
    judge = Standing()
    verdict = judge.record(Offence(ALICE, OffenceKind.EQUIVOCATION, 10, provable=True))
    assert verdict.quarantined
    assert verdict.fresh
    last = 10 + standing.QUARANTINE_ROUNDS - 1
    assert judge.repute(ALICE, last) is Repute.QUARANTINED
    assert judge.repute(ALICE, last + 1) is Repute.GOOD


def test_mild_faults_now_and_then_are_tolerated_for_ever() -> None:
    judge = Standing()
    for round in range(0, 5000, standing.FORGIVE_ROUNDS):
        assert not judge.record(Offence(ALICE, OffenceKind.BROKEN_PROMISE, round)).quarantined


def test_new_faults_do_not_stop_old_ones_from_being_forgiven() -> None:
    judge = Standing()
    rounds = range(0, standing.QUARANTINE_STRIKES * 4, standing.FORGIVE_ROUNDS - 1)
    for round in rounds:
        judge.record(Offence(ALICE, OffenceKind.BROKEN_PROMISE, round))
    assert judge.strikes(ALICE, rounds[-1]) < len(rounds) / 2


def test_mild_faults_every_round_are_not() -> None:
    judge = Standing()
    assert any(judge.record(Offence(ALICE, OffenceKind.BROKEN_PROMISE, r)).quarantined for r in range(30))


def test_an_offence_reported_late_is_judged_as_of_now() -> None:
    judge = fill([Offence(ALICE, OffenceKind.EQUIVOCATION, 500, provable=True)])
    judge.record(Offence(BOB, OffenceKind.EQUIVOCATION, 3, provable=True))
    assert judge.quarantined(BOB, 500)


def test_detail_is_one_short_printable_line() -> None:
    offence = Offence(ALICE, OffenceKind.PROTOCOL, 1, "x\n\x1b[31m" + "y" * 1000)
    assert offence.detail.startswith("x??[31my")
    assert len(offence.detail) == standing.DETAIL_CHARS


def test_memory_is_bounded_and_the_gravest_records_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "PEERS_KEPT", 100)
    monkeypatch.setattr(standing, "EVICTED", 10)
    judge = fill([Offence(ALICE, OffenceKind.EQUIVOCATION, 1, provable=True)])
    for n in range(3000):
        judge.record(Offence(PeerId(f"sybil{n}"), OffenceKind.PROTOCOL, 1))
        assert judge.summary().peers <= 100
    assert len(judge.offences()) == standing.OFFENCES_KEPT
    assert judge.summary().quarantined == (ALICE,)
    assert judge.summary().total == 3001


def test_summary_counts() -> None:
    judge = fill([Offence(ALICE, OffenceKind.FLOOD, 1)] * 3 + [Offence(BOB, OffenceKind.PROTOCOL, 2)])
    assert judge.summary().by_kind == {OffenceKind.FLOOD: 3, OffenceKind.PROTOCOL: 1}
    assert judge.count(ALICE, OffenceKind.FLOOD) == 3
    assert judge.count(BOB, OffenceKind.FLOOD) == 0


@given(st.lists(offences, max_size=60), offences)
def test_one_more_offence_never_helps_the_offender_nor_touches_another(record: list[Offence], more: Offence) -> None:
    judge = fill(record)
    now = max(o.round for o in [*record, more])
    before = {peer: (judge.strikes(peer, now), judge.quarantined(peer, now)) for peer in PEERS}
    judge.record(more)
    after = {peer: (judge.strikes(peer, now), judge.quarantined(peer, now)) for peer in PEERS}
    assert after[more.peer] >= before[more.peer]
    assert after[more.peer][1] >= before[more.peer][1]
    assert all(after[peer] == before[peer] for peer in PEERS if peer != more.peer)


@given(st.lists(offences, max_size=60), st.sampled_from(PEERS))
def test_rounds_without_offences_only_forgive_and_forgive_all(record: list[Offence], peer: PeerId) -> None:
    judge = fill(record)
    now = max((o.round for o in record), default=0)
    horizon = now + standing.MOST_STRIKES * standing.FORGIVE_ROUNDS + standing.QUARANTINE_ROUNDS
    strikes = [judge.strikes(peer, r) for r in range(now, horizon)]
    held = [judge.quarantined(peer, r) for r in range(now, horizon)]
    assert strikes == sorted(strikes, reverse=True)
    assert held == sorted(held, reverse=True)
    assert strikes[0] <= standing.MOST_STRIKES
    assert judge.repute(peer, horizon) is Repute.GOOD


@given(st.lists(offences, max_size=60))
def test_a_verdict_says_what_the_judge_says(record: list[Offence]) -> None:
    judge = Standing()
    now = 0
    for offence in record:
        now = max(now, offence.round)
        was = judge.quarantined(offence.peer, now)
        verdict = judge.record(offence)
        assert verdict.strikes == judge.strikes(offence.peer, now)
        assert verdict.quarantined == judge.quarantined(offence.peer, now)
        assert verdict.fresh == (verdict.quarantined and not was)


# -- across a restart -------------------------------------------------------------------------------------------------


def reborn(judge: Standing) -> Standing:
    """By way of the disk."""
    return Standing(msgspec.msgpack.decode(msgspec.msgpack.encode(judge.past()), type=Past))


@given(st.lists(offences, max_size=30), st.lists(offences, max_size=10))
def test_a_restart_changes_no_judgement(before: list[Offence], after: list[Offence]) -> None:
    one = fill(before)
    other = reborn(one)
    assert other.summary() == one.summary()
    for offence in after:
        assert other.record(offence) == one.record(offence)
    assert other.summary() == one.summary()
    assert other.offences() == one.offences()


def test_what_is_saved_is_bounded_and_the_worst_of_it() -> None:
    judge = Standing()
    for number in range(standing.PEERS_SAVED + 50):
        judge.record(Offence(PeerId(f"mild {number}"), OffenceKind.PROTOCOL, 1, "x" * 500))
    judge.record(Offence(ALICE, OffenceKind.EQUIVOCATION, 1, provable=True))
    judge.record(Offence(PeerId("last"), OffenceKind.PROTOCOL, 1))
    past = judge.past()
    assert len(past.marks) == standing.PEERS_SAVED
    assert len(past.offences) == standing.OFFENCES_SAVED
    assert past.offences[-1].peer == "last"
    assert reborn(judge).quarantined(ALICE, 2)
    assert len(msgspec.msgpack.encode(past)) < 400_000


def test_a_suspension_lapses_by_itself_and_an_expulsion_does_not() -> None:
    judge = Standing()
    assert judge.sentence({BOB: "its update"}, {ALICE: Suspension(70, "a probe")}) == sorted([ALICE, BOB])
    assert (judge.why(ALICE), judge.why(BOB), dict(judge.expelled)) == ("a probe", "its update", {BOB: "its update"})
    assert [judge.repute(ALICE, round) for round in (10, 69, 70)] == [Repute.SUSPENDED, Repute.SUSPENDED, Repute.GOOD]
    assert [judge.quarantined(peer, 69) for peer in (ALICE, BOB)] == [True, True]
    assert [judge.quarantined(peer, 70) for peer in (ALICE, BOB)] == [False, True]
    assert judge.sentence({BOB: "its update"}, {ALICE: Suspension(90, "another")}) == []
    assert judge.sentence({BOB: "", ALICE: "proof"}, {}) == []  # it was out before
    assert judge.repute(ALICE, 100) is Repute.EXPELLED


def test_who_is_suspended_for_one_thing_keeps_its_strikes_for_another() -> None:
    judge = Standing()
    for round in (1, 2, 3):
        judge.record(Offence(ALICE, OffenceKind.WRONG_DIGEST, round))
    judge.sentence({}, {ALICE: Suspension(5, "a probe")})
    assert judge.repute(ALICE, 5) is Repute.QUARANTINED
