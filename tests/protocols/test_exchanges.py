"""Two views become one, at the cost of what differs and not of what they hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits, wire
from protocols.desk import Desk
from protocols.exchanges import Exchanges, Partner
from protocols.messages import AnyMessage, Compare, Exchange, Refused
from protocols.transport import NoAnswer
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View

ONE, TWO = PeerId("one"), PeerId("two")


def record(number: int, counter: int = 1, size: int = 0) -> Registration:
    signature = f"{number}/{counter}".encode().ljust(64)
    return Registration(PeerId(f"peer{number:05}"), counter, True, (Role.TRAINER,), Round(0), ("x" * size,), signature)


class Side:
    """One of two nodes; the desk hands its questions to the other, encoded."""

    def __init__(self, me: PeerId, first_version: int) -> None:
        self.me = me
        self.round = Round(0)
        self.view = View(10_000, first_version)
        self.partners: dict[PeerId, Partner] = {}
        self.handlers: dict[type, Callable[..., Awaitable[AnyMessage]]] = {}
        self.other: Side | None = None
        self.said: list[tuple[type, int]] = []
        self.asked = 0
        self.lost: set[int] = set()  # which questions are
        self.exchanges = Exchanges(cast("Desk", self), self.view, self.partners, self)

    def knows(self, *records: Registration) -> None:
        for each in records:
            self.view.register(each)

    def believe(self, sender: PeerId, delta: Delta) -> None:
        self.view.merge(delta)

    def note_round(self, peer: PeerId, round: Round) -> None: ...

    def timed(self, peer: PeerId, duration_s: float) -> None: ...

    def on(self, kind: type, handler: Callable[..., Awaitable[AnyMessage]]) -> None:
        self.handlers[kind] = handler

    async def ask(self, peer: PeerId, question: AnyMessage, kind: Any, timeout_s: float) -> AnyMessage:  # noqa: ANN401
        assert self.other is not None
        self.asked += 1
        if self.asked - 1 in self.lost:
            raise NoAnswer("lost")
        frame = wire.encode(question)
        answer = await self.other.handlers[type(question)](self.me, wire.decode(frame))
        back = wire.encode(answer)
        self.said += [(type(question), len(frame)), (type(answer), len(back))]
        return wire.decode(back)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.said)


@pytest.fixture
async def sides() -> tuple[Side, Side]:
    one, two = Side(ONE, 1000), Side(TWO, 5000)
    one.other, two.other = two, one
    one.partners[TWO], two.partners[ONE] = Partner(), Partner()
    return one, two


async def test_what_is_alike_is_not_told(sides: tuple[Side, Side]) -> None:
    one, two = sides
    shared = [record(number, size=150) for number in range(400)]
    one.knows(*shared, record(1000), record(7, counter=3))
    two.knows(record(2000), record(8, counter=3), *reversed(shared))
    await one.exchanges.exchange_with(TWO)
    assert one.view == two.view
    assert one.view.seal == two.view.seal
    assert one.bytes < 0.25 * len(wire.encode(Exchange(Round(0), one.view.about(list(one.view)), 0)))


async def test_afterwards_both_know_what_the_other_holds(sides: tuple[Side, Side]) -> None:
    one, two = sides
    one.knows(*map(record, range(50)))
    two.knows(*map(record, range(20, 70)))
    await one.exchanges.exchange_with(TWO)
    one.said.clear()
    await two.exchanges.exchange_with(ONE)
    await one.exchanges.exchange_with(TWO)
    assert two.bytes + one.bytes < 200
    one.knows(record(99))
    delta, _ = one.exchanges.news_for(TWO)
    assert delta.registrations == (record(99),)


@pytest.mark.parametrize("empty", [0, 1])
async def test_a_newcomer_is_told_all_however_much_it_is(sides: tuple[Side, Side], empty: int) -> None:
    full = sides[1 - empty]
    full.knows(*(record(number, size=50) for number in range(2 * limits.REGISTRATIONS_PER_FRAME + 3)))
    await sides[0].exchanges.exchange_with(TWO)
    assert sides[0].view == sides[1].view


@pytest.mark.parametrize("lost", [0, 1])
async def test_after_a_loss_nothing_is_taken_for_told(sides: tuple[Side, Side], lost: int) -> None:
    one, two = sides
    one.knows(*map(record, range(5)))
    two.knows(*map(record, range(3, 9)))
    one.lost = {lost}
    for _ in range(3):
        await one.exchanges.exchange_with(TWO)
    assert one.view == two.view


async def test_no_seals_are_refused(sides: tuple[Side, Side]) -> None:
    answer = await sides[0].handlers[Compare](TWO, Compare(Round(0), ()))
    assert isinstance(answer, Refused)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3))),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3))),
    st.integers(1, 64),
)
def test_views_differ_where_their_seals_do(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]], buckets: int
) -> None:
    one, two = View(100), View(100, 77)
    for view, known in ((one, ours), (two, theirs)):
        for number, counter in known:
            view.register(record(number, counter))
    pairs = enumerate(zip(one.seals(buckets), two.seals(buckets), strict=True))
    differing = {bucket for bucket, (a, b) in pairs if a != b}
    same = [peer for peer in {*one, *two} if one.registration(peer) != two.registration(peer)]
    assert set(same) <= {*one.within(differing, buckets), *two.within(differing, buckets)}
    two.merge(one.about(one.within(differing, buckets)))
    one.merge(two.about(two.within(differing, buckets)))
    assert one.seal == two.seal
