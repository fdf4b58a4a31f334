"""The command `gossipnode simulate`: options in; progress, a summary and a report out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gossipnode.net.simulated import Conditions, scattered
from gossipnode.newrun import merged, settings_tables
from gossipnode.report import agreed, require_writable, save, summary
from gossipnode.simulation import Outcome, Scenario, Tick, simulate

LAN_S = 0.0005  # one way
BYTES_PER_MB = 1_000_000
INTERRUPTED = 130  # the exit code that a shell gives to Ctrl-C


def simulate_command(
    *,
    nodes: int,
    protocol: str,
    task: str,
    rounds: int,
    seed: int,
    partition: str,
    latency: str,
    loss: float,
    bandwidth: float,
    settings: Sequence[str],
    limit_s: float,
    json_path: Path | None,
) -> int:
    """The exit code: 0 if every node finished, all with one model. Raises OperatorError."""
    require_writable(json_path)
    asked = {"task": task, "protocol": protocol, "rounds": rounds, "seed": seed, "start_peers": nodes}
    conditions = Conditions(
        delay=scattered(seed) if latency == "wan" else LAN_S,
        bandwidth=bandwidth * BYTES_PER_MB or math.inf,
        request_loss=loss,
        gossip_loss=loss,
    )
    scenario = Scenario(
        nodes=nodes,
        seed=seed,
        tables=merged(asked, {"modest": {"trainers": min(4, nodes)}}, settings_tables(settings)),
        partition=partition,
        conditions=conditions,
        limit_s=limit_s,
    )
    console = Console()
    outcome = _with_progress(scenario, rounds, console)
    if outcome is None:
        return INTERRUPTED
    _tell(outcome, console)
    if json_path is not None:
        save(outcome.report, json_path)
        console.print(f"report            {json_path}")
    return 0 if outcome.finished and agreed(outcome.report) else 1


def _with_progress(scenario: Scenario, rounds: int, console: Console) -> Outcome | None:
    """None: Ctrl-C."""
    columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[virtual]}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("of wall time"), console=console) as progress:
        bar = progress.add_task("rounds", total=rounds, virtual="")

        def tell(tick: Tick) -> None:
            progress.update(bar, completed=tick.round, virtual=f"{tick.virtual_s:,.0f} virtual s")

        try:
            return simulate(scenario, tell)
        except* KeyboardInterrupt:  # trio's nurseries wrap it
            console.print("interrupted")
    return None


def _tell(outcome: Outcome, console: Console) -> None:
    for line in summary(outcome.report):
        console.print(line)
    console.print(f"trace             {outcome.trace[:16]} (equal for equal seeds and options)")
    if not outcome.finished:
        console.print(f"not finished after {outcome.virtual_s:,.0f} virtual seconds")
