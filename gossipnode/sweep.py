"""Many seeds of one scenario, a process for each core; a failure is named with the one line that replays it.

A seed has failed if the swarm did not finish, did not agree, broke an invariant, or raised: an exception of our own
code in one seed must not hide what the other seeds find.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gossipnode.baselines import run
from gossipnode.errors import OperatorError
from gossipnode.learn.names import last_line
from gossipnode.report import agreed
from gossipnode.scenario import Setting, scenario_of, with_seed
from gossipnode.simulated_log import logged
from gossipnode.simulation import Outcome


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    faults: tuple[str, ...]  # none: it went well
    rounds: int = 0
    events: int = 0
    accuracy: float = 0.0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    trace: str = ""


def seeds_of(text: str) -> range:
    """`A:B`, from A up to and without B. Raises OperatorError."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    seeds = range(int(found[1]), int(found[2])) if found else range(0)
    if not seeds:
        raise OperatorError(f"--seeds {text}: expected FROM:TO, the last one not included, as in --seeds 0:100")
    return seeds


def sweep(setting: Setting, seeds: range, replay: str, console: Console) -> int:
    """The exit code: 0 if every seed went well. Raises OperatorError, KeyboardInterrupt."""
    scenario_of(with_seed(setting, seeds[0]))  # what is wrong with it is said once, here
    began, results = time.perf_counter(), list[Result]()
    columns = (TextColumn("seeds"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[failed]} failed"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("seeds", total=len(seeds), failed=0)
        for result in _results(setting, seeds):
            results.append(result)
            if result.faults:
                progress.console.print(f"FAILED {replay} --seed {result.seed}", soft_wrap=True, highlight=False)
                for fault in result.faults:
                    progress.console.print(f"       {fault}", soft_wrap=True, highlight=False, markup=False)
            progress.update(bar, advance=1, failed=sum(bool(each.faults) for each in results))
    for line in table(sorted(results, key=lambda each: each.seed), time.perf_counter() - began):
        console.print(line, highlight=False)
    return 1 if any(result.faults for result in results) else 0


def _results(setting: Setting, seeds: range) -> Iterable[Result]:
    """In the order in which they are done. Each process starts afresh: forking torch's threads is not safe."""
    settings = [with_seed(setting, seed) for seed in seeds]
    workers = min(os.cpu_count() or 1, len(settings))
    if workers == 1:
        yield from map(tried, settings)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _leave_to_the_parent) as pool:  # leaving it ends them
        yield from pool.imap_unordered(tried, settings)


def _leave_to_the_parent() -> None:
    """A terminal's Ctrl-C reaches every process; one line about it is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tried(setting: Setting) -> Result:
    """One seed."""
    try:
        with logged(None):
            outcome = run(scenario_of(setting))
    except OperatorError:
        raise
    except Exception as error:  # our own bug, in one seed: it is that seed's result
        return Result(setting.seed, (f"raised {last_line(_first(error))}",))
    report = outcome.report
    return Result(
        setting.seed,
        tuple(faults_of(outcome)),
        report.rounds,
        len(report.events),
        report.accuracy.mean,
        outcome.virtual_s,
        outcome.wall_s,
        outcome.trace,
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def faults_of(outcome: Outcome) -> list[str]:
    report, found = outcome.report, []
    if not outcome.finished:
        found.append(f"not finished after {outcome.virtual_s:,.0f} virtual seconds, at round {report.rounds}")
    elif outcome.one_model and not agreed(report):
        found.append(f"{report.digests.distinct} distinct models at the end")
    by_checker = {each.checker: each for each in reversed(report.broken)}  # the first of each
    found += [
        f"{name}: {each.what} (round {each.round}, {each.virtual_s:,.0f} virtual s, {', '.join(each.nodes)})"
        for name, each in sorted(by_checker.items())
    ]
    return found


def table(results: list[Result], wall_s: float) -> list[str]:
    """For a person."""
    failed = [result for result in results if result.faults]
    lines = [f"{'seed':>6} {'rounds':>6} {'events':>6} {'accuracy':>8} {'virtual s':>10} {'wall s':>7}  trace"]
    shown = results if len(results) <= 40 else failed
    lines += [
        f"{each.seed:>6} {each.rounds:>6} {each.events:>6} {each.accuracy:>8.4f} {each.virtual_s:>10,.0f} "
        f"{each.wall_s:>7.1f}  {each.trace[:16]}{'  FAILED' if each.faults else ''}"
        for each in shown
    ]
    return [*lines, f"{len(results) - len(failed)} of {len(results)} seeds went well, in {wall_s:.0f} s"]
