"""The command `gossipnode simulate`: options in; progress, a summary, a report and perhaps a picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gossipnode.baselines import run
from gossipnode.events import option_events
from gossipnode.newrun import settings_tables
from gossipnode.report import encode, require_writable, save, summary
from gossipnode.scenario import Setting, scenario_of, setting_of, with_adversaries, with_events
from gossipnode.simulated_log import logged
from gossipnode.simulation import Outcome, Scenario, SimulationReport, Tick
from gossipnode.sweep import seeds_of, sweep

INTERRUPTED = 130  # the exit code that a shell gives to Ctrl-C
FINDINGS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line beside the keys of a scenario."""

    scenario: Path | None
    kill: Sequence[str]
    join: Sequence[str]
    restart: Sequence[str]
    adversary: Sequence[str]
    settings: Sequence[str]
    seeds: str | None
    json_path: Path | None
    plot: Path | None
    log_level: str | None


def simulate_command(asked: Asked, options: Mapping[str, Any]) -> int:
    """The exit code: 0 if all went well. Raises OperatorError."""
    require_writable(asked.json_path)
    require_writable(asked.plot, "--plot")
    setting = setting_of(asked.scenario, options, settings_tables(asked.settings))
    setting = with_events(setting, option_events(asked.kill, asked.join, asked.restart), "simulate")
    setting = with_adversaries(setting, asked.adversary)
    console = Console()
    try:
        if asked.seeds is not None:
            return sweep(setting, seeds_of(asked.seeds), replay(asked, options), console)
        with logged(asked.log_level):
            return _run(setting, asked, console)
    except* KeyboardInterrupt:  # trio's nurseries wrap it
        console.print("interrupted")
    return INTERRUPTED


def replay(asked: Asked, options: Mapping[str, Any]) -> str:
    """The command line of this run without a seed."""
    words = ["gossipnode simulate", *([f"--scenario {asked.scenario}"] if asked.scenario else [])]
    for key, value in options.items():
        if key != "seed" and value is not None:
            option = "--" + key.removesuffix("_s").replace("_", "-")
            words.append(option if value is True else f"{option} {value}")
    given = (
        ("--kill", asked.kill),
        ("--join", asked.join),
        ("--restart", asked.restart),
        ("--adversary", asked.adversary),
    )
    for option, texts in given:
        words += [f"{option} {text}" for text in texts]
    words += [f"--set '{text}'" for text in asked.settings]
    return " ".join(words)


def _run(setting: Setting, asked: Asked, console: Console) -> int:
    outcome = _with_progress(scenario_of(setting), setting.last_round, console)
    _tell(outcome, console)
    if asked.json_path is not None:
        save(outcome.report, asked.json_path)
        console.print(f"report            {asked.json_path}")
    if asked.plot is not None:
        _plot(outcome.report, asked.plot)
        console.print(f"picture           {asked.plot}")
    return 0 if outcome.succeeded else 1


def _plot(report: SimulationReport, path: Path) -> None:
    from gossipnode.curves import plot  # matplotlib is large, and only some have it

    plot({report.protocol: msgspec.json.decode(encode(report))}, path)


def _with_progress(scenario: Scenario, rounds: int, console: Console) -> Outcome:
    columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[virtual]}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("of wall time"), console=console) as progress:
        bar = progress.add_task("rounds", total=rounds, virtual="")

        def tell(tick: Tick) -> None:
            progress.update(bar, completed=tick.round, virtual=f"{tick.virtual_s:,.0f} virtual s")

        return run(scenario, tell)


def _chain_lines(report: SimulationReport) -> list[str]:
    chain = report.chain
    if chain is None:
        return []
    lines = [
        f"chain             height {chain.height}, certified up to {chain.certified_height}, "
        f"final at {chain.final} of {report.nodes} nodes, {chain.reorganisations} reorganisations"
    ]
    if report.entries:
        lines.append(f"entries           {report.void} of {report.entries} signed undisturbed count for nothing")
    return lines + [f"dropped           {node}: {what}" for node, what in chain.dropped.items()]


def _tell(outcome: Outcome, console: Console) -> None:
    report = outcome.report
    for line in summary(report):
        console.print(line)
    for line in _chain_lines(report):
        console.print(line)
    for event in report.events:
        struck = f"{len(event.nodes)} nodes" if event.nodes else ""
        console.print(f"{event.kind:<17} at round {event.round}, {event.virtual_s:,.0f} virtual s  {struck}")
    console.print(f"trace             {outcome.trace[:16]} (equal for equal seeds and options)")
    for finding in report.broken[:FINDINGS_SHOWN]:
        nodes = ", ".join(finding.nodes)
        where = f"round {finding.round}, {finding.virtual_s:,.0f} virtual s, {nodes}"
        console.print(f"broken            {finding.checker}: {finding.what} ({where})", soft_wrap=True)
    if len(report.broken) > FINDINGS_SHOWN:
        console.print(f"                  and {len(report.broken) - FINDINGS_SHOWN} more")
    if not outcome.finished:
        console.print(f"not finished after {outcome.virtual_s:,.0f} virtual seconds")
