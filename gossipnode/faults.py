"""Carries out the events of a scenario on a simulated swarm, each at its time, and undoes those that last for a while.

Events of one moment happen in the order in which the scenario names them. Whom they strike is drawn from the seed.
Invariants: the last SURVIVORS living nodes are never struck, for no protocol outlives the death of everyone, nor is the
last one that somebody knows; and what happened is written down with the moment and the names, so that a report can be
read without its scenario.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

import msgspec
import trio

from gossipnode.events import Churn, Event, Freeze, Heal, Join, Kill, Leave, Partition, Restart, Slow, told
from gossipnode.members import Member, crash, leave
from gossipnode.net.simulated import SimulatedNetwork
from sampling.peers import PeerId, Round

SURVIVORS: Final = 2
DOORS: Final = 3  # living members whose addresses a newcomer is given: one may be too slow or about to die


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as the report tells it."""

    kind: str
    round: int  # the swarm's highest when it happened
    virtual_s: float
    nodes: list[str]
    scenario: dict[str, Any] = {}  # the event as the scenario has it


class Stage(Protocol):
    """The swarm, as far as events need it."""

    network: SimulatedNetwork
    members: list[Member]
    highest: Round

    async def reached(self, round: Round) -> None: ...

    async def start(self, member: Member) -> None: ...

    async def newcomer(self, bootstrap: Sequence[str]) -> Member: ...


class Faults:
    def __init__(self, stage: Stage, events: Sequence[Event], seed: int) -> None:
        self.happened: list[Happened] = []
        self._events = events
        self.latest_s = 0.0  # when the last fault struck or ended
        self._pending = len(self._moments())  # moments that are still to come, and faults that are to end by themselves
        self._partitioned = False
        self._blocking = 0  # faults in force beside partitions during which nobody is expected to progress
        self._stage = stage
        self._rng = random.Random(f"{seed}/faults")
        self._nursery: trio.Nursery | None = None

    @property
    def over(self) -> bool:
        """Everything has happened and is undone."""
        return self._pending == 0

    @property
    def calm_since(self) -> float | None:
        """When the last fault struck or ended; None while one is in force that may hold up everybody."""
        return None if self._partitioned or self._blocking else self.latest_s

    async def run(self) -> None:
        """Until all has happened."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for (at_round, at_s), events in self._moments().items():
                nursery.start_soon(self._moment, at_round, at_s, events)

    def _moments(self) -> dict[tuple[int | None, float | None], list[Event]]:
        moments: dict[tuple[int | None, float | None], list[Event]] = {}
        for event in self._events:
            moments.setdefault((event.at_round, event.at_s), []).append(event)
        return moments

    async def _moment(self, at_round: int | None, at_s: float | None, events: Sequence[Event]) -> None:
        if at_round is not None:
            await self._stage.reached(Round(at_round))
        else:
            assert at_s is not None, "scenarios are checked"
            await trio.sleep_until(at_s)
        for event in events:
            await self._carry_out(event)
        self._pending -= 1

    async def _carry_out(self, event: Event) -> None:
        match event:
            case Kill() | Leave():
                await self._strike_down(event)
            case Restart():
                await self._come_back(self._drawn(self._away(), event.nodes), event)
            case Join():
                await self._join(event)
            case Partition():
                self._divide(event)
            case Heal():
                self._heal(event)
            case Slow():
                self._slow(event)
            case Freeze():
                self._freeze(event)
            case Churn():
                self._later(self._churn(event), blocking=True)

    def _later(self, task: Coroutine[Any, Any, None], *, blocking: bool = False) -> None:
        """The run is not over before it is done."""
        assert self._nursery is not None, "run() has begun"
        self._pending += 1
        self._blocking += blocking
        self._nursery.start_soon(self._to_its_end, task, blocking)

    async def _to_its_end(self, task: Coroutine[Any, Any, None], blocking: bool) -> None:
        await task
        self._pending -= 1
        self._blocking -= blocking

    # -- who ----------------------------------------------------------------------------------------------------------

    def _living(self) -> list[Member]:
        return [member for member in self._stage.members if member.alive and not member.gone]

    def _away(self) -> list[Member]:
        return [member for member in self._stage.members if member.gone and not member.alive]

    def _drawn(self, among: Sequence[Member], amount: float) -> list[Member]:
        """So many of them, or that share; at least one if there is one."""
        count = max(1, round(amount * len(among))) if amount < 1 else int(amount)
        chosen = self._rng.sample(range(len(among)), min(count, len(among)))
        return [among[index] for index in sorted(chosen)]

    def _victims(self, amount: float) -> list[Member]:
        living = self._living()
        count = max(1, round(amount * len(living))) if amount < 1 else int(amount)
        doors = self._doors(living, count)
        others = [member for member in living if member.peer not in doors]
        return self._drawn(others, max(1, min(count, len(living) - SURVIVORS))) if len(living) > SURVIVORS else []

    def _doors(self, living: Sequence[Member], count: int) -> set[PeerId]:
        """One living machine for each that knows so few, those away included: who knows nobody any more needs its
        operator, and no protocol."""
        doors = set()
        for member in self._stage.members:
            state = member.journal.load()
            named = {each.peer for each in state.view.registrations} if state is not None else set()
            known = [
                each.peer
                for each in living
                if each is not member and (each.peer in named or set(each.addresses()) & set(member.run.bootstrap))
            ]
            if 0 < len(known) <= count:
                doors.add(known[0])
        return doors

    def _write_down(self, kind: str, members: Sequence[Member], event: Event | None = None) -> None:
        now = trio.current_time()
        self.latest_s = now
        names = [member.name for member in members]
        scenario = told(event) if event is not None else {}
        self.happened.append(
            Happened(kind=kind, round=self._stage.highest, virtual_s=now, nodes=names, scenario=scenario)
        )

    # -- coming and going ---------------------------------------------------------------------------------------------

    async def _strike_down(self, event: Kill | Leave) -> None:
        victims = self._victims(event.nodes)
        self._write_down(event.kind, victims, event)
        if isinstance(event, Kill):
            for member in victims:
                crash(self._stage.network, member)
        else:
            async with trio.open_nursery() as nursery:
                for member in victims:
                    nursery.start_soon(leave, self._stage.network, member)
        if event.for_s is not None:
            self._later(self._return(victims, event.for_s))

    async def _return(self, members: Sequence[Member], after_s: float) -> None:
        await trio.sleep(after_s)
        await self._come_back(members)

    async def _come_back(self, members: Sequence[Member], event: Event | None = None) -> None:
        members = [member for member in members if member.gone and not member.alive]
        self._write_down("restart", members, event)
        for member in members:
            member.gone = False  # at once, lest another event starts it too
        for member in members:
            await self._stage.start(member)

    async def _join(self, event: Join) -> None:
        members = []
        for _ in range(event.nodes):
            living = self._living()
            known = self._rng.sample(living, min(DOORS, len(living)))
            members.append(await self._stage.newcomer([each.addresses()[0] for each in known]))
        self._write_down("join", members, event)

    async def _churn(self, event: Churn) -> None:
        end_s, down = trio.current_time() + event.for_s, list[Member]()
        while trio.current_time() < end_s:
            if down:
                await self._come_back([down.pop(0)])
            victims = self._victims(1)
            self._write_down("kill", victims, event)
            for member in victims:
                crash(self._stage.network, member)
            down += victims
            await trio.sleep(event.every_s)
        await self._come_back(down)

    # -- the network --------------------------------------------------------------------------------------------------

    def _divide(self, event: Partition) -> None:
        living = self._living()
        order, shares = self._rng.sample(living, len(living)), list(event.groups)
        if sum(shares) < 1 - 1e-9:
            shares.append(1 - sum(shares))
        cuts = [round(sum(shares[:end]) * len(order)) for end in range(len(shares) + 1)]
        groups = [order[start:end] for start, end in itertools.pairwise(cuts)]
        named = [[member.peer for member in group] for group in groups]
        self._write_down("partition", groups[0], event)
        if event.one_way:
            self._stage.network.cut(named[0], [peer for group in named[1:] for peer in group])
        else:
            self._stage.network.partition(named)
        self._partitioned = True
        if event.for_s is not None:
            self._later(self._heal_after(event.for_s))

    async def _heal_after(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self._heal(None)

    def _heal(self, event: Event | None) -> None:
        """All partitions at once: links that were given up are dialled again."""
        self._stage.network.heal()
        self._partitioned = False
        self._write_down("heal", [], event)

    def _slow(self, event: Slow) -> None:
        members = self._drawn(self._living(), event.nodes)
        self._write_down("slow", members, event)
        for member in members:
            self._stage.network.slow(member.peer, latency=event.latency, bandwidth=event.bandwidth)
        if event.for_s is not None:
            self._later(self._quicken(members, event.for_s))

    async def _quicken(self, members: Sequence[Member], after_s: float) -> None:
        await trio.sleep(after_s)
        self._write_down("quick again", members)
        for member in members:
            self._stage.network.slow(member.peer, latency=1.0, bandwidth=1.0)

    def _freeze(self, event: Freeze) -> None:
        members = [member for member in self._victims(event.nodes) if not member.frozen]
        self._write_down("freeze", members, event)
        for member in members:
            self._stage.network.pause(member.peer)
            member.frozen = True
        self._later(self._thaw(members, event.for_s), blocking=True)

    async def _thaw(self, members: Sequence[Member], after_s: float) -> None:
        lives = [(member, member.lives[-1]) for member in members]
        await trio.sleep(after_s)
        still = [member for member, life in lives if member.alive and member.lives[-1] is life]
        for member in still:
            self._stage.network.resume(member.peer)
            member.frozen = False
        self._write_down("thaw", still)
