"""What audits catch in simulated MoDeST swarms, one kind of liar at a time, beside the same swarm without any.

Each run is a line of JSON in a file, so what is there is not played again: a sweep goes on where it stopped. Then a
table in Markdown. `per lie`: convictions / lies told, to be compared with the audit fraction f; a liar that has told n
lies is still there with probability (1 - f)^n, whatever n was, so the two agree up to chance (Clopper-Pearson, 95 %).
`rounds`: until the first honest node no longer hears a liar, median and 90th percentile of all liars.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from bench.witness import Told, told

from gossipnode.adversaries.kinds import kinds_for
from gossipnode.errors import OperatorError
from gossipnode.newrun import settings_tables
from gossipnode.scenario import setting_of
from gossipnode.sweep import seeds_of
from verify.binomial import bounds

CLEAN: Final = "none"


def read(path: Path) -> list[Told]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Told) for line in lines]


def percentile(values: Iterable[float], share: float) -> float:
    """The least that so large a share of them does not exceed."""
    every = sorted(values)
    return every[max(0, math.ceil(share * len(every)) - 1)]


def rate(successes: int, trials: int) -> str:
    if not trials:
        return "-"
    low, high = bounds(successes, trials)
    return f"{successes / trials:.3f} ({low:.3f} to {high:.3f})"


def line_of(kind: str, runs: Sequence[Told], clean: dict[int, float]) -> str:
    liars = [liar for run in runs for liar in run.liars]
    lies, drawn = sum(liar.lies for liar in liars), sum(liar.drawn for liar in liars)
    convicted, caught = sum(liar.convicted for liar in liars), sum(liar.shunned is not None for liar in liars)
    gone = sum(liar.expelled is not None for liar in liars)
    lost = [100 * (clean[run.seed] - run.accuracy) for run in runs if run.seed in clean] or [math.nan]
    rounds = [math.inf if liar.shunned is None else liar.shunned for liar in liars] or [math.nan]
    cells = [
        kind,
        f"{len(runs)}",
        f"{caught}, {gone} of {len(liars)}",
        f"{_round(percentile(rounds, 0.5))}, {_round(percentile(rounds, 0.9))}",
        f"{lies}",
        rate(convicted, lies),
        f"{convicted} of {drawn}",
        f"{sum(run.suspended for run in runs)}, {sum(run.expelled for run in runs)}",
        f"{sum(lost) / len(lost):+.1f} ({max(lost):+.1f})",
    ]
    return "| " + " | ".join(cells) + " |"


def _round(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def table(runs: Sequence[Told]) -> list[str]:
    clean = {run.seed: run.accuracy for run in runs if run.kind == CLEAN}
    lines = [
        "| kind | seeds | shunned, expelled | rounds | lies | per lie | convicted of drawn "
        "| honest suspended, expelled | points lost (worst) |",
        "|---" * 9 + "|",
    ]
    return lines + [
        line_of(kind, [run for run in runs if run.kind == kind], clean)
        for kind in dict.fromkeys(run.kind for run in runs)
    ]


def honest(runs: Sequence[Told]) -> list[str]:
    """Of the runs without liars."""
    chosen = [run for run in runs if not run.liars]
    expelled, audited = sum(run.expelled > 0 for run in chosen), sum(run.audited for run in chosen)
    verdicts = sum((Counter(run.verdicts) for run in chosen), Counter[str]())
    accused = sum((Counter(run.accused) for run in chosen), Counter[str]())
    return [
        f"{len(chosen)} runs without liars: {audited} audits, {sum(run.unable for run in chosen)} not possible; "
        f"doubted claims {dict(verdicts)}; offences {dict(accused)}; "
        f"{sum(run.suspended for run in chosen)} peers suspended; "
        f"share of the runs that expelled somebody {rate(expelled, len(chosen))}",
        *(f"seed {run.seed}: {'; '.join(run.broken)}" for run in chosen if run.broken),
    ]


@click.command(context_settings={"show_default": True})
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--nodes", default=20, type=click.IntRange(3))
@click.option("--hostile", default=6, type=click.IntRange(1), help="of the nodes")
@click.option("--kinds", default=",".join([CLEAN, *kinds_for("modest")]), help="comma-separated")
@click.option("--seeds", default="0:10", help="A:B")
@click.option("--task", default="digits")
@click.option("--rounds", default=60)
@click.option("--faults-every", default=0, help="each n-th seed draws loss and churn too; 0: none does")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
@click.option("--only-table", is_flag=True, help="of what there is")
def main(
    path: Path,
    hostile: int,
    kinds: str,
    seeds: str,
    faults_every: int,
    settings: tuple[str, ...],
    only_table: bool,
    **asked: object,
) -> None:
    """Play every seed with every kind, adding to the file PATH."""
    runs = read(path)
    tables = settings_tables(settings)
    there = {(run.kind, run.seed) for run in runs}
    wanted = [(kind, seed) for seed in seeds_of(seeds) for kind in kinds.split(",")]
    for kind, seed in [] if only_table else [each for each in wanted if each not in there]:
        adversary = () if kind == CLEAN else (f"{kind}:{hostile}",)
        faults = faults_every > 0 and seed % faults_every == 0
        options = {**asked, "protocol": "modest", "seed": seed, "adversary": adversary, "random_faults": faults}
        try:
            runs.append(told(setting_of(None, options, tables), kind))
        except OperatorError as error:
            raise click.ClickException(str(error)) from error
        with path.open("ab") as file:
            file.write(msgspec.json.encode(runs[-1]) + b"\n")
    print("\n".join([*table(runs), *honest(runs)]))
    sys.exit(1 if any(run.expelled for run in runs) else 0)


if __name__ == "__main__":
    main()
