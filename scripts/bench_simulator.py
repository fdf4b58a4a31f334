"""What a simulated swarm costs: events a second, wall time, memory a node, and where the time goes.

One swarm of MoDeST nodes trains the digits for some rounds under virtual time, over regions of the world. Memory a node
is what the process has grown by since the run's task was loaded, divided by the nodes. `--profile` runs it again under
cProfile and sums its own time by part of the house.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from bench.figures import Aim, Findings, environment, tell
from rich.console import Console

from gossipnode.net.simulated import Conditions, regions
from gossipnode.simulation import Outcome, Scenario, Tick, simulate

KIB: Final = 1024
AIM_NODES, AIM_ROUNDS = 1000, 100
AIM_S, AIM_MIB = 600.0, 4096.0
PARTS: Final = (
    "gossipnode/net/", "gossipnode/compute/", "gossipnode/learn/", "gossipnode/checkers", "gossipnode/", "protocols/",
    "sampling/", "verify/", "/trio/", "/torch/", "/msgspec/", "/cryptography/",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    outcome: Outcome
    cpu_s: float
    began_mib: float  # resident when the first node was about to start
    peak_mib: float
    started_s: float  # wall time until the first round was known


class Watch:
    """Notes, as the swarm ticks, how far it is."""

    def __init__(self, console: Console) -> None:
        self.began = time.perf_counter()
        self.began_mib = 0.0
        self.started_s = 0.0
        self._console = console
        self._shown = 0

    def tick(self, tick: Tick) -> None:
        self.began_mib = self.began_mib or resident_mib()
        if tick.round and not self.started_s:
            self.started_s = time.perf_counter() - self.began
        if tick.round >= self._shown + 10:
            self._shown = tick.round
            passed_s = time.perf_counter() - self.began
            self._console.print(
                f"round {tick.round}: {passed_s:.0f} s, {tick.virtual_s:.0f} virtual s", highlight=False
            )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / KIB**2


def scenario(nodes: int, rounds: int, task: str, trainers: int, seed: int) -> Scenario:
    tables = {
        "task": task, "protocol": "modest", "rounds": rounds, "seed": seed, "start_peers": nodes,
        "modest": {"trainers": min(trainers, nodes)},
    }  # fmt: skip
    return Scenario(nodes, seed, tables, conditions=Conditions(delay=regions(seed)), curve=False)


def measured(what: Scenario, console: Console) -> Run:
    watch, cpu_s = Watch(console), time.process_time()
    outcome = simulate(what, watch.tick)
    cpu_s = time.process_time() - cpu_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB
    return Run(outcome, cpu_s, watch.began_mib, peak_mib, watch.started_s)


def profiled(what: Scenario) -> dict[str, float]:
    """Share of the time spent in each part itself."""
    profiler = cProfile.Profile()
    profiler.runcall(simulate, what)
    spent: defaultdict[str, float] = defaultdict(float)
    entries: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # not in its stubs
    for (file, _, _), (_, _, own_s, _, _) in entries.items():
        spent[next((part for part in PARTS if part in file), "other")] += own_s
    whole_s = sum(spent.values())
    return {part.strip("/"): spent[part] / whole_s for part in sorted(spent, key=lambda part: -spent[part])}


def findings(nodes: int, rounds: int, run: Run, where: dict[str, float]) -> Findings:
    outcome = run.outcome
    events, per_node_kib = outcome.deliveries, KIB * (run.peak_mib - run.began_mib) / nodes
    rows = [
        ("nodes, rounds", f"{nodes}, {rounds}" + ("" if outcome.finished else " (NOT FINISHED)")),
        ("wall, s", f"{outcome.wall_s:.1f}  (CPU {run.cpu_s:.1f})"),
        ("  until the first round, s", f"{run.started_s:.1f}"),
        ("virtual, s", f"{outcome.virtual_s:.0f}"),
        ("packets delivered", f"{events}"),
        ("packets a second", f"{events / outcome.wall_s:.0f}"),
        ("peak resident, MiB", f"{run.peak_mib:.0f}  (before the first node {run.began_mib:.0f})"),
        ("memory a node, KiB", f"{per_node_kib:.0f}"),
        *((f"  in {part}", f"{100 * share:.0f} %") for part, share in where.items()),
    ]
    figures = {
        "nodes": nodes, "rounds": rounds, "finished": outcome.finished, "wall_s": outcome.wall_s, "cpu_s": run.cpu_s,
        "started_s": run.started_s, "virtual_s": outcome.virtual_s, "packets": events,
        "packets_per_s": events / outcome.wall_s, "peak_mib": run.peak_mib, "node_kib": per_node_kib, "where": where,
        "trace": outcome.trace,
    }  # fmt: skip
    aims = [
        Aim(f"wall seconds of {nodes} nodes, {rounds} rounds", outcome.wall_s, AIM_S),
        Aim("peak resident, MiB", run.peak_mib, AIM_MIB),
    ]
    return Findings("simulator", rows, figures, aims)


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=AIM_NODES, type=click.IntRange(2, 10_000), help="in the swarm")
@click.option("--rounds", default=AIM_ROUNDS, type=click.IntRange(1), help="to train")
@click.option("--task", default="digits", help="what they learn")
@click.option("--trainers", default=10, type=click.IntRange(1), help="of a round")
@click.option("--seed", default=1, type=click.IntRange(0), help="one seed gives one trace")
@click.option("--profile", is_flag=True, help="run it again, to see where the time goes")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(nodes: int, rounds: int, task: str, trainers: int, seed: int, profile: bool, json_path: Path | None) -> None:
    """Measure a simulated swarm on this machine."""
    console, where = Console(), environment()
    what = scenario(nodes, rounds, task, trainers, seed)
    run = measured(what, console)
    tell(findings(nodes, rounds, run, profiled(what) if profile else {}), where, console, json_path)


if __name__ == "__main__":
    main()
