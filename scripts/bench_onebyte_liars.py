"""Audits of one-byte training in simulated swarms: which liars are caught, when, and what the audits cost.

Each kind of liar with each seed, beside the same swarm without any and without audits. A line for each run: steps at
which a block expelled, honest accuracy, whether the honest ended with one A, probes done again beside probes done, and
bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import click

from gossipnode.errors import OperatorError
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.newrun import settings_tables
from gossipnode.scenario import scenario_of, setting_of
from gossipnode.simulated_log import logged
from gossipnode.simulation import Swarm
from gossipnode.sweep import seeds_of
from protocols.onebyte.conversation import OneByte

KINDS: Final = "sign-flip,lazy,noise,free-rider,stale,label-flip,wrong-shard"
CLEAN, BARE = "none", "no audits"


@dataclass(frozen=True, slots=True)
class Ran:
    kind: str
    seed: int
    expelled_at: tuple[int, ...]  # blocks
    missed: int
    falsely: int
    accuracy: float
    models: int  # of the honest at the end
    again: float  # probes for audits beside probes for steps
    wire: int  # bytes
    broken: tuple[str, ...]

    def line(self) -> str:
        when = " ".join(map(str, self.expelled_at)) or "-"
        return (
            f"{self.kind:12} seed {self.seed:2} expelled at {when:24} missed {self.missed} falsely {self.falsely} "
            f"accuracy {self.accuracy:.4f} models {self.models} again {self.again:6.2%} "
            f"wire {self.wire:11,d} broken {','.join(self.broken) or '-'}"
        )


def ran(kind: str, seed: int, nodes: int, hostile: int, rounds: int, tables: list[str]) -> Ran:
    """Raises OperatorError."""
    adversary = [] if kind in (CLEAN, BARE) else [f"{kind}:{hostile}"]
    asked = {"protocol": "onebyte", "nodes": nodes, "task": "digits", "seed": seed, "adversary": adversary}
    settings = [*tables, *(["audit.fraction=0.0"] if kind == BARE else [])]
    whole = scenario_of(setting_of(None, {**asked, "rounds": rounds}, settings_tables(settings)))
    scenario = replace(whole, curve=False)
    swarm = Swarm(scenario, lambda tick: None)
    with logged(None):
        report, _ = run_deterministic(swarm.run, seed=scenario.seed)
    honest = [member for member in swarm.members if member.honest]
    protocols = [member.node.protocol for member in honest if isinstance(member.node.protocol, OneByte)]
    own = {member.peer for member in honest}
    convicted = {peer: found.height for each in protocols for peer, found in each.auditor.convicted.items()}
    probes = sum(each.book.scalars_sent for each in protocols)
    return Ran(
        kind=kind,
        seed=seed,
        expelled_at=tuple(sorted(convicted.values())),
        missed=len(scenario.adversaries) - len(convicted),
        falsely=len(own & convicted.keys()) + len(report.falsely_expelled),
        accuracy=report.accuracy.mean,
        models=len({each.model for each in protocols}),
        again=sum(each.auditor.probes for each in protocols) / max(1, probes),
        wire=swarm.wire_bytes(),
        broken=tuple(sorted({found.checker for found in report.broken})),
    )


def summary(rows: list[Ran]) -> Iterator[str]:
    """In Markdown: of each kind all seeds together."""
    clean = {row.seed: row.accuracy for row in rows if row.kind == CLEAN}
    bare = {row.seed: row.wire for row in rows if row.kind == BARE}
    yield "| kind | expelled | at step: first, median, last | honest expelled | accuracy | points | A | again | bytes |"
    yield "|---" * 9 + "|"
    for kind in dict.fromkeys(row.kind for row in rows):
        some = [row for row in rows if row.kind == kind]
        at = sorted(height for row in some for height in row.expelled_at)
        when = f"{at[0]}, {at[len(at) // 2]}, {at[-1]}" if at else ""
        lost = [100 * (row.accuracy - clean[row.seed]) for row in some]
        more = sum(row.wire / bare[row.seed] - 1 for row in some) / len(some) if bare else 0.0
        yield (
            f"| {kind} | {len(at)} of {len(at) + sum(row.missed for row in some)} | {when} | "
            f"{sum(row.falsely for row in some)} | {sum(row.accuracy for row in some) / len(some):.3f} | "
            f"{min(lost):+.1f} to {max(lost):+.1f} | {max(row.models for row in some)} | "
            f"{sum(row.again for row in some) / len(some):.1%} | {more:+.1%} |"
        )


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=16, type=click.IntRange(4))
@click.option("--hostile", default=5, type=click.IntRange(1), help="of the nodes")
@click.option("--kinds", default=KINDS, help="comma-separated")
@click.option("--seeds", default="0:1", help="A:B")
@click.option("--rounds", default=200, help="steps")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
def main(nodes: int, hostile: int, kinds: str, seeds: str, rounds: int, settings: tuple[str, ...]) -> None:
    """Play every kind with every seed."""
    rows = []
    for seed in seeds_of(seeds):
        for kind in (BARE, CLEAN, *filter(None, kinds.split(","))):
            try:
                rows.append(ran(kind, seed, nodes, hostile, rounds, list(settings)))
            except OperatorError as error:
                raise click.ClickException(str(error)) from error
            print(rows[-1].line(), flush=True)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
