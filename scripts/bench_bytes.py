"""What one-byte training costs on the wire: bytes per scalar over real libp2p, and bytes to an accuracy beside MoDeST.

The first is counted by the sockets of eight nodes in one process, from the tenth step on. The second runs both
protocols as full nodes over the simulated network, whose charges are measured ones, on digits by ever broader
perceptrons, until the test accuracy is reached: it depends on nothing but the seed. Start-up, views and pulls count.
The multipliers of a broader model are smaller by the root of the factor by which it is broader (`Row`): the noise that
each byte brings grows with the number of parameters. They were set once and not tuned; MoDeST keeps its defaults.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import trio
from bench.carried import Carried, Reached, Spent, counted, identity_of, over_libp2p, over_simulation
from bench.figures import Findings, environment, tell
from rich.console import Console

from gossipnode.learn.task import load_task
from gossipnode.net.simulated import Conditions, simulate_network
from gossipnode.net.virtual_time import run_deterministic
from protocols.chain.rules import Rules
from protocols.signatures import Signer

NODES: Final = 8
WARM: Final = 10  # steps before bytes are counted: the nodes have met, and gossip has learned its trees
STEPS: Final = 500  # of a one-byte run, at most
ROUNDS: Final = 200  # of MoDeST, at most


@dataclass(frozen=True, slots=True)
class Row:
    hidden: int
    share: float  # of the manifest's multipliers

    @property
    def task(self) -> str:
        return f"bench.broad:W{self.hidden}"


ROWS: Final = (Row(64, 1.0), Row(256, 0.5), Row(1024, 0.25))


def onebyte(task: str, probes: int, share: float = 1.0) -> dict[str, Any]:
    rules = Rules()
    per_byte = share * rules.probes / probes
    schedule = [max(1, round(per_byte * each)) for each in rules.schedule]
    founders = [Signer.from_seed(identity_of(0, index)).peer for index in range(NODES)]
    own = {"probes": probes, "seats": NODES, "steps": STEPS, "schedule": schedule, "founders": founders}
    return {"task": task, "protocol": "onebyte", "start_peers": NODES, "onebyte": own}


def modest(task: str) -> dict[str, Any]:
    return {"task": task, "protocol": "modest", "start_peers": NODES, "rounds": ROUNDS}


async def per_scalar(probes: int, steps: int) -> dict[str, Any]:
    spent, swarm = Spent(), Carried(onebyte("digits", probes), NODES, 0, over_libp2p(0))
    async with swarm.running():
        await swarm.until(WARM)
        wire, scalars, began, began_s = swarm.wire_bytes, swarm.scalars, swarm.round, trio.current_time()
        with counted(spent):
            await swarm.until(WARM + steps)
        wire, scalars = swarm.wire_bytes - wire, swarm.scalars - scalars
        step_s = (trio.current_time() - began_s) / (swarm.round - began)
    by_kind = {kind: count / scalars for kind, count in spent.kinds.items()}
    by_kind["questions and links"] = wire / scalars - sum(by_kind.values())
    return {
        "probes": probes,
        "whole": wire / scalars,
        "by_kind": by_kind,
        "messages": dict(spent.messages),
        "step_s": step_s,
    }


def to_accuracy(tables: dict[str, Any], accuracy: float, seed: int) -> Reached | None:
    async def run() -> Reached | None:
        async with simulate_network(Conditions(delay=0.02), seed=seed) as network:
            swarm = Carried({**tables, "seed": seed}, NODES, 0, over_simulation(network, 0))
            async with swarm.running():
                is_chain = tables["protocol"] == "onebyte"
                return await swarm.until_accurate(accuracy, 5 if is_chain else 1, STEPS if is_chain else ROUNDS)

    return run_deterministic(run, seed=seed)


def compared(row: Row, probes: list[int], accuracy: float, seeds: int) -> dict[str, Any]:
    model = load_task(row.task).model(0)
    runs = {"modest": modest(row.task)} | {f"onebyte, K={k}": onebyte(row.task, k, row.share) for k in probes}
    numbers = range(1, 1 + seeds)
    found = {name: [to_accuracy(tables, accuracy, seed) for seed in numbers] for name, tables in runs.items()}
    spent = {name: [each.wire_bytes if each else math.inf for each in runs] for name, runs in found.items()}
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "runs": {name: [each and asdict(each) for each in runs] for name, runs in found.items()},
        "bytes": {name: median(each) for name, each in spent.items()},
    }


def lines_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for name, runs in row["runs"].items():
        rounds = [each["round"] if each else None for each in runs]
        figure = f"{row['bytes'][name] / 1e6:.2f} MB; rounds {rounds}"
        lines.append((f"{row['parameters']:,} parameters, {name}", figure))
    return lines


@click.command(context_settings={"show_default": True})
@click.option("--probes", default=[16, 64], multiple=True, type=click.IntRange(1, 256), help="K, once or more")
@click.option("--steps", default=50, type=click.IntRange(1), help="over which bytes per scalar are counted; 0: not")
@click.option("--hidden", default=[row.hidden for row in ROWS], multiple=True, help="units of the perceptrons")
@click.option("--accuracy", default=0.9, help="to be reached")
@click.option("--seeds", default=1, type=click.IntRange(1), help="of each comparison")
@click.option("--only", type=click.Choice(["scalars", "accuracy"]), help="one of the two halves")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(
    probes: tuple[int, ...],
    steps: int,
    hidden: tuple[int, ...],
    accuracy: float,
    seeds: int,
    only: str | None,
    json_path: Path | None,
) -> None:
    """Count what bytes cost on the wire."""
    console, where = Console(), environment()
    sys.path.append(str(Path(__file__).parent))
    rows: list[tuple[str, str]] = []
    figures: dict[str, Any] = {"scalars": [], "accuracy": []}
    for k in probes if only != "accuracy" else ():
        figures["scalars"].append(found := trio.run(per_scalar, k, steps))
        kinds = ", ".join(f"{kind} {each:.1f}" for kind, each in sorted(found["by_kind"].items()))
        rows.append((f"K={k}: wire bytes per scalar", f"{found['whole']:.0f}: {kinds}; {found['step_s']:.2f} s a step"))
        console.print(*rows[-1])
    for row in (row for row in ROWS if row.hidden in hidden) if only != "scalars" else ():
        figures["accuracy"].append(found := compared(row, list(probes), accuracy, seeds))
        rows += lines_of(found)
        console.print(*lines_of(found), sep="\n")
    tell(Findings("bytes", rows, figures, []), where, console, json_path)


if __name__ == "__main__":
    main()
