"""What each kind of adversary does to a simulated swarm, one kind at a time, beside the same swarm without any.

A line for each seed as it ends, then a table in Markdown: of each kind the worst of its seeds. `left`: findings that a
certified block was left, or two histories certified; `blocks`: the share that the hostile proposed; `voided`: of honest
entries, those that count for nothing in certified history; `points`: accuracy lost beside the clean run of that seed;
`s/round`: virtual seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from gossipnode.adversaries.kinds import kinds_for
from gossipnode.errors import OperatorError
from gossipnode.newrun import settings_tables
from gossipnode.scenario import scenario_of, setting_of
from gossipnode.simulated_log import logged
from gossipnode.simulation import Outcome, simulate
from gossipnode.sweep import seeds_of

CLEAN = "none"
LEFT = ("CertifiedStays", "OneHistory")


@dataclass(frozen=True, slots=True)
class Row:
    kind: str
    seed: int
    rounds: int
    accuracy: float
    left: int
    blocks: float  # of a chain
    voided: float
    caught: int
    expelled: int
    falsely: int
    broken: tuple[str, ...]
    step_s: float  # virtual
    wall_s: float

    def line(self) -> str:
        return (
            f"{self.kind:16} seed {self.seed:3} rounds {self.rounds:4} accuracy {self.accuracy:.4f} left {self.left} "
            f"blocks {self.blocks:6.1%} voided {self.voided:6.2%} caught {self.caught} expelled {self.expelled} "
            f"falsely {self.falsely} s/round {self.step_s:.2f} broken {','.join(self.broken) or '-'} "
            f"({self.wall_s:.0f} s)"
        )


def row_of(kind: str, seed: int, outcome: Outcome) -> Row:
    report, found = outcome.report, [finding.checker for finding in outcome.report.broken]
    makers = [each.aggregators[0] for each in report.committees if each.aggregators]
    hostile = sum(maker in report.adversaries for maker in makers)
    return Row(
        kind=kind,
        seed=seed,
        rounds=report.rounds,
        accuracy=report.accuracy.mean,
        left=sum(name in LEFT for name in found),
        blocks=hostile / max(1, len(makers)),
        voided=report.void / max(1, report.entries),
        caught=len(report.caught),
        expelled=len(set(report.expelled) & set(report.adversaries)),
        falsely=len(report.falsely_expelled),
        broken=tuple(sorted({*found, *(() if outcome.succeeded else ["not succeeded"])})),
        step_s=report.seconds / max(1, report.rounds),
        wall_s=outcome.wall_s,
    )


def table(rows: Sequence[Row]) -> list[str]:
    clean = {row.seed: row.accuracy for row in rows if row.kind == CLEAN}
    lines = [
        "| kind | seeds | rounds | left | blocks | voided | points | caught | expelled | falsely | s/round |",
        "|---" * 11 + "|",
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        some = [row for row in rows if row.kind == kind]
        lost = max(100 * (clean[row.seed] - row.accuracy) for row in some) if clean else float("nan")
        lines.append(
            f"| {kind} | {len(some)} | {min(row.rounds for row in some)} | {sum(row.left for row in some)} | "
            f"{max(row.blocks for row in some):.1%} | {max(row.voided for row in some):.2%} | {lost:+.1f} | "
            f"{min(row.caught for row in some)} | {min(row.expelled for row in some)} | "
            f"{max(row.falsely for row in some)} | {max(row.step_s for row in some):.2f} |"
        )
    return lines


@click.command(context_settings={"show_default": True})
@click.option("--protocol", default="onebyte", type=click.Choice(["modest", "onebyte", "gossip"]))
@click.option("--nodes", default=16, type=click.IntRange(3))
@click.option("--hostile", default=5, type=click.IntRange(1), help="of the nodes")
@click.option("--kinds", default="", help="comma-separated; all that the protocol has, if not given")
@click.option("--seeds", default="0:1", help="A:B")
@click.option("--task", default="digits")
@click.option("--rounds", default=100, help="or steps")
@click.option("--join", default=0, help="so many newcomers at two thirds of the rounds")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
def main(
    protocol: str,
    nodes: int,
    hostile: int,
    kinds: str,
    seeds: str,
    task: str,
    rounds: int,
    join: int,
    settings: tuple[str, ...],
) -> None:
    """Play every kind with every seed."""
    rows = []
    joins = [{"kind": "join", "nodes": join, "at_round": 2 * rounds // 3}] if join else []
    chosen = kinds.split(",") if kinds else kinds_for(protocol)
    for kind in dict.fromkeys([CLEAN, *chosen]):
        for seed in seeds_of(seeds):
            adversary = [] if kind == CLEAN else [f"{kind}:{hostile}"]
            asked = {"protocol": protocol, "nodes": nodes, "task": task, "seed": seed, "adversary": adversary}
            try:
                setting = setting_of(None, {**asked, "rounds": rounds, "event": joins}, settings_tables(settings))
                with logged(None):
                    rows.append(row_of(kind, seed, simulate(scenario_of(setting))))
            except OperatorError as error:
                raise click.ClickException(str(error)) from error
            print(rows[-1].line(), flush=True)
    print("\n".join(table(rows)))
    sys.exit(1 if any(row.broken for row in rows) else 0)


if __name__ == "__main__":
    main()
