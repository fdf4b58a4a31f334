"""What a node costs that has nothing to do: the memory of its process tree, and its share of a core.

A swarm of real nodes trains two rounds together and idles, linked: gossip beats, views are exchanged, links are
watched. Then each tree (daemon and worker) is measured for some seconds without being asked anything.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from bench import swarm, usage
from bench.figures import Aim, Findings, Spread, environment, tell
from processes import Failed, Peer
from rich.console import Console

ROUNDS = 2
SETTLE_S = 5.0  # after the last round, unless so little is measured: evaluations end, garbage is collected
DAEMON, WORKER = "daemon", "worker"


@dataclass(frozen=True, slots=True)
class Idle:
    """One node. `core` is the share of a core that it used."""

    memory: dict[str, usage.Memory]  # of the daemon and of its worker
    core: dict[str, float]

    @property
    def whole(self) -> usage.Memory:
        return sum(self.memory.values(), usage.Memory())


def processes(peer: Peer) -> dict[str, list[int]]:
    """The daemon, and whatever else is below it."""
    daemon, *others = usage.tree(peer.process.pid)
    return {DAEMON: [daemon], WORKER: others}


def measured(nodes: int, task: str, seconds: float, console: Console) -> list[Idle]:
    settings = [f"modest.trainers={nodes}", f"start_peers={nodes}", f"rounds={ROUNDS}", "modest.pull_every=1"]
    with swarm.running(swarm.Plan(nodes, task, nodes, settings)) as peers:
        console.print(f"{nodes} nodes are starting")
        swarm.wait_until(lambda: all(peer.done for peer in peers), peers, peers, "finished")
        console.print(f"{ROUNDS} rounds done; measuring for {seconds:.0f} s")
        time.sleep(min(SETTLE_S, seconds))
        parts = [processes(peer) for peer in peers]
        before = [{name: usage.cpu_s(pids) for name, pids in part.items()} for part in parts]
        began = time.monotonic()
        time.sleep(seconds)
        lasted_s = time.monotonic() - began
        return [
            Idle(
                {name: usage.memory(pids) for name, pids in part.items()},
                {name: (usage.cpu_s(pids) - used[name]) / lasted_s for name, pids in part.items()},
            )
            for part, used in zip(parts, before, strict=True)
        ]


def findings(swarm_of: list[Idle], alone: Idle) -> Findings:
    core = Spread.of(100 * sum(each.core.values()) for each in swarm_of)
    pss = Spread.of(each.whole.pss for each in swarm_of)
    rows = [
        (f"{len(swarm_of)} nodes: CPU of one, % of a core", core.text(2)),
        *(
            (f"  {name}", f"{100 * Spread.of(each.core[name] for each in swarm_of).median:.2f}")
            for name in (DAEMON, WORKER)
        ),
        (f"{len(swarm_of)} nodes: PSS of one, MiB", pss.text(0)),
        *((f"  {name}", _memory(swarm_of[0].memory[name])) for name in (DAEMON, WORKER)),
        ("alone on the machine: PSS, MiB", f"{alone.whole.pss:.0f}"),
        *((f"  {name}", _memory(alone.memory[name])) for name in (DAEMON, WORKER)),
    ]
    figures = {
        "nodes": [asdict(each) for each in swarm_of],
        "alone": asdict(alone),
        "core_percent": core.median,
        "pss_mib": pss.median,
    }
    aims = [
        Aim("PSS of a node alone, MiB", alone.whole.pss, 450),
        Aim(f"PSS of one of {len(swarm_of)} nodes, MiB", pss.max, 450),
        Aim(f"CPU of one of {len(swarm_of)} idle nodes, % of a core", core.median, 5),
    ]
    return Findings("idle", rows, figures, aims)


def _memory(memory: usage.Memory) -> str:
    return f"{memory.pss:.0f}  (private {memory.private:.0f}, resident {memory.resident:.0f})"


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=8, type=click.IntRange(2, 64), help="processes in the idle swarm")
@click.option("--task", default="mnist-mlp", help="what they learned")
@click.option("--seconds", default=20.0, type=click.FloatRange(0.1), help="for how long their CPU time is measured")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(nodes: int, task: str, seconds: float, json_path: Path | None) -> None:
    """Measure idle nodes on this machine: a swarm of them, and one by itself."""
    console, where = Console(), environment()
    try:
        several = measured(nodes, task, seconds, console)
        [alone] = measured(1, task, min(seconds, 2.0), console)
    except Failed as failure:
        raise click.ClickException(str(failure)) from failure
    tell(findings(several, alone), where, console, json_path)


if __name__ == "__main__":
    main()
