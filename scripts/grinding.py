"""What grinding buys a liar: the share of its claims that an audit found out, by who merged the round that drew them.

A claim of round k is drawn by the model of round k + 1. For each kind, over all seeds: the claims of the liars up to
the first one that spoke against them, and how many did; apart for rounds whose successor a liar merged. Bounds of 95 %
are Clopper and Pearson's. The last round draws nothing and is not counted. A kind whose grinding buys nothing is found
out at the rate of `sign-flip`, which is the audit fraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from gossipnode.errors import OperatorError
from gossipnode.newrun import settings_tables
from gossipnode.scenario import scenario_of, setting_of
from gossipnode.simulated_log import logged
from gossipnode.simulation import SimulationReport, simulate
from gossipnode.sweep import seeds_of
from verify.binomial import bounds

KINDS = ("sign-flip", "claim-grinder", "beacon-grinder")


@dataclass(slots=True)
class Lot:
    """Of one kind: claims, and those found out, by whether a liar merged the next round."""

    claims: Counter[bool] = field(default_factory=Counter)
    found: Counter[bool] = field(default_factory=Counter)
    liars: int = 0
    expelled: int = 0
    falsely: int = 0
    accuracy: list[float] = field(default_factory=list)

    def count(self, report: SimulationReport) -> None:
        evidence = {each.peer: each.round for each in report.caught if each.peer in report.expelled}
        makers = {each.round: each.aggregators[0] for each in report.committees if each.aggregators}
        for each in report.committees:
            for liar in set(each.trainers) & set(report.adversaries):
                if each.round + 1 in makers and each.round <= evidence.get(liar, each.round):
                    friend = makers[each.round + 1] in report.adversaries
                    self.claims[friend] += 1
                    self.found[friend] += each.round == evidence.get(liar)
        self.liars += len(report.adversaries)
        self.expelled += len(evidence)
        self.falsely += len(report.falsely_expelled)
        self.accuracy.append(report.accuracy.mean)


def rate(found: int, claims: int) -> str:
    if not claims:
        return "-"
    low, high = bounds(found, claims)
    return f"{found} of {claims}: {found / claims:.1%} ({low:.1%}-{high:.1%})"


def table(lots: dict[str, Lot]) -> list[str]:
    lines = [
        "| kind | found out, of all claims | next round merged by an honest peer | by a liar | expelled | falsely |"
    ]
    lines.append("|---" * 6 + "|")
    for kind, lot in lots.items():
        rates = [rate(lot.found[who], lot.claims[who]) for who in (False, True)]
        whole = rate(lot.found.total(), lot.claims.total())
        lines.append(
            f"| `{kind}` | {whole} | {rates[0]} | {rates[1]} | {lot.expelled} of {lot.liars} | {lot.falsely} |"
        )
    return lines


@click.command(context_settings={"show_default": True}, help=__doc__)
@click.option("--nodes", default=20, type=click.IntRange(4))
@click.option("--hostile", default=6, type=click.IntRange(1))
@click.option("--rounds", default=60)
@click.option("--fraction", default=0.3, help="of the claims, that is audited")
@click.option("--seeds", default="0:10", help="A:B")
@click.option("--kinds", default=",".join(KINDS))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
def main(
    nodes: int, hostile: int, rounds: int, fraction: float, seeds: str, kinds: str, settings: Sequence[str]
) -> None:
    lots = {kind: Lot() for kind in kinds.split(",")}
    tables = settings_tables((f"audit.fraction={fraction}", *settings))
    for seed in seeds_of(seeds):
        for kind, lot in lots.items():
            asked = {"protocol": "modest", "nodes": nodes, "task": "digits", "seed": seed, "rounds": rounds}
            try:
                setting = setting_of(None, {**asked, "adversary": [f"{kind}:{hostile}"]}, tables)
                with logged(None):
                    outcome = simulate(scenario_of(setting))
            except OperatorError as error:
                raise click.ClickException(str(error)) from error
            lot.count(outcome.report)
            print(f"{kind} seed {seed}: {lot.found} of {lot.claims}, accuracy {lot.accuracy[-1]:.4f}", flush=True)
    print("\n".join(table(lots)))


if __name__ == "__main__":
    main()
