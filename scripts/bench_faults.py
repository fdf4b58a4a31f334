"""What a fault costs: the rounds after one of five real nodes has died or frozen, and the wait of one that joins late.

A frozen peer is the nastier one: its links stay up and nothing comes over them. Beside the rounds stands the deadline
that a node learns from the rounds before (RFC 6298, `sampling.patience`): the most that one silent peer should cost.
The late joiner fetches a model of 44 MB over loopback, from a run that is over; its wait is told as a whole, and from
when its worker was loaded.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import httpx
from bench import swarm
from bench.figures import Aim, Findings, Spread, environment, tell
from bench.swarm import Plan, round_of, start_one, wait_until
from processes import Failed, Peer, check_alive, first_address, kill
from rich.console import Console

from gossipnode.status.report import RoundStatus
from protocols.manifest import Timing
from sampling.patience import Patience

TRAINERS = 4
FIRST = 10  # rounds after the fault in which it may still be felt
WIDE = "bench.wide:TASK"
POLL_S = 0.01
LOADED_S = 120.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Seconds of the rounds around one. `deadline_s`: learned by then."""

    kind: str
    before: list[float]
    first: list[float]
    later: list[float]
    deadline_s: float

    @property
    def usual_s(self) -> float:
        return statistics.median(self.before)

    @property
    def cost_s(self) -> float:
        """What the worst of the first rounds took beyond the usual."""
        return max(self.first) - self.usual_s

    @property
    def later_s(self) -> float:
        """Median; if the patience was over before there was a later round, what the first ones came to."""
        return statistics.median(self.later or self.first)


@dataclass(frozen=True, slots=True)
class Joined:
    """Seconds of a late joiner: from its start, from its worker's being loaded, and from its first greeted peer."""

    whole_s: float
    loaded_s: float
    linked_s: float


# -- one dead peer ----------------------------------------------------------------------------------------------------


def suffered(kind: str, nodes: int, task: str, rounds: int, most_s: float) -> Fault:
    """`rounds`: to measure before the fault, and again after the first ones behind it, for at most so long."""
    settings = [f"modest.trainers={min(TRAINERS, nodes)}", f"start_peers={nodes}"]
    with swarm.running(Plan(nodes, task, nodes, settings)) as peers:
        watcher, victim = peers[0], peers[-1]
        wait_until(lambda: round_of(watcher) > 2 * rounds, peers, [watcher], "warm")
        at = round_of(watcher)
        if kind == "kill":
            kill([victim])
        else:
            os.killpg(victim.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            peers.remove(victim)

            def enough() -> bool:
                return round_of(watcher) > at + FIRST + rounds or time.monotonic() > began + most_s

            wait_until(enough, peers, [watcher], "past the fault", within_s=2 * most_s)
        finally:
            kill([victim])
        assert watcher.status is not None
        return _around(kind, watcher.status.history, at, rounds, time.monotonic() - began)


def _around(kind: str, history: Sequence[RoundStatus], at: int, rounds: int, lasted_s: float) -> Fault:
    """Round `at` was the last to be known before the fault; a round that never ended took `lasted_s` at least."""
    seconds = {each.round: each.seconds for each in history if each.seconds}
    before = [seconds[round] for round in range(at - rounds, at + 1) if round in seconds]
    first = [seconds[round] for round in range(at + 1, at + FIRST + 1) if round in seconds]
    later = [seconds[round] for round in range(at + FIRST + 1, at + FIRST + rounds + 1) if round in seconds]
    timing = Timing()
    patience = Patience(timing.round_floor_s, timing.round_ceiling_s)
    for each in before:
        patience.heard(each)
    return Fault(kind, before, first or [lasted_s], later, patience.deadline_s)


# -- a late joiner ----------------------------------------------------------------------------------------------------


def joined(task: str) -> Joined:
    own = ["--task", task] if ":" in task else []
    plan = Plan(2, task, 3, ["start_peers=2", "rounds=2", "modest.trainers=2"], joining=own)
    with swarm.running(plan) as peers:
        wait_until(lambda: all(_finished(peer) for peer in peers), peers, peers, "finished")
        assert peers[0].status is not None
        head, address = peers[0].status.progress.head, first_address(peers[0])
        began = time.monotonic()
        peers.append(start_one(peers[0].home.parent, 2, plan, None, ["--peers", address, *own]))
        return _waited(peers[-1], str(head), began)


def _finished(peer: Peer) -> bool:
    return peer.status is not None and peer.status.progress.state == "finished"


def _waited(peer: Peer, head: str, began: float) -> Joined:
    loaded = linked = None
    with httpx.Client(timeout=5.0) as client:
        while time.monotonic() < began + LOADED_S:
            peer.poll(client)
            now, status = time.monotonic(), peer.status
            if status is not None and status.run is not None:
                loaded = loaded or now
                linked = linked or (now if any(each.linked for each in status.peers) else None)
                if status.progress.head == head:
                    return Joined(now - began, now - loaded, now - (linked or now))
            check_alive([peer])
            time.sleep(POLL_S)
    raise Failed(f"the late joiner does not hold the model after {LOADED_S:.0f} s")


# -- telling ----------------------------------------------------------------------------------------------------------


def findings(faults: Sequence[Fault], late: Sequence[Joined], nodes: int) -> Findings:
    rows, aims = [], []
    for kind in dict.fromkeys(fault.kind for fault in faults):
        those = [fault for fault in faults if fault.kind == kind]
        usual, later = Spread.of(f.usual_s for f in those), Spread.of(f.later_s for f in those)
        cost, deadline = Spread.of(f.cost_s for f in those), Spread.of(f.deadline_s for f in those)
        rows += [
            (f"{kind}: seconds a round before", usual.text()),
            (f"{kind}: worst of the {FIRST} rounds after, beyond that", cost.text()),
            (f"{kind}: learned deadline, s", deadline.text()),
            (f"{kind}: seconds a round later", later.text()),
        ]
        worst = max(fault.cost_s / fault.deadline_s for fault in those)
        ratio = Spread.of(fault.later_s / fault.usual_s for fault in those).median
        aims += [
            Aim(f"{kind}: cost of the worst round / learned deadline", worst, 1.0),
            Aim(f"{kind}: a round later / before", ratio, 1.2),
        ]
    whole, loaded = Spread.of(each.whole_s for each in late), Spread.of(each.loaded_s for each in late)
    rows += [
        ("late joiner: from start to model held, s", whole.text(2)),
        ("late joiner: from worker loaded to model held, s", loaded.text(2)),
        ("late joiner: from first peer greeted to model held, s", Spread.of(each.linked_s for each in late).text(2)),
    ]
    aims.append(Aim("late joiner: from worker loaded to model held, s", loaded.median, 1.0))
    figures = {"nodes": nodes, "faults": [asdict(f) for f in faults], "late": [asdict(each) for each in late]}
    return Findings("faults", rows, figures, aims)


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=5, type=click.IntRange(3, 64), help="processes, of which one suffers")
@click.option("--task", default="mnist-mlp", help="what they learn meanwhile")
@click.option("--rounds", default=30, type=click.IntRange(3), help="to measure before the fault, and after it")
@click.option("--repeats", default=3, type=click.IntRange(1), help="swarms for each kind of fault, and late joiners")
@click.option("--most", "most_s", default=120.0, type=click.FloatRange(1), help="seconds to watch after a fault")
@click.option("--late-task", default=WIDE, help="what the late joiner fetches a model of")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(
    nodes: int, task: str, rounds: int, repeats: int, most_s: float, late_task: str, json_path: Path | None
) -> None:
    """Measure what one dead or frozen node costs the others, and how long a newcomer waits for a big model."""
    console, where = Console(), environment()
    try:
        faults = []
        for kind in ["kill", "freeze"] * repeats:
            faults.append(fault := suffered(kind, nodes, task, rounds, most_s))
            console.print(f"{kind}: {fault.usual_s:.2f} s a round, worst after {fault.cost_s + fault.usual_s:.2f} s")
        late = []
        for _ in range(repeats):
            late.append(joined(late_task))
            console.print(f"late joiner: {late[-1].whole_s:.2f} s, {late[-1].loaded_s:.2f} s of it once loaded")
    except Failed as failure:
        raise click.ClickException(str(failure)) from failure
    tell(findings(faults, late, nodes), where, console, json_path)


if __name__ == "__main__":
    main()
