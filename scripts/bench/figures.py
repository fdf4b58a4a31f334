"""How a benchmark tells its figures: spreads, a line per aim, and a JSON file that says where they were taken.

No verdict by exit code: a figure depends on the machine and on what else runs there, so the load stands beside it, and
whether an aim was met is for a reader.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LIBRARIES = ("gossipnode", "libp2p", "trio", "torch", "msgspec", "cryptography")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of repeated measurements of one thing."""

    median: float
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises statistics.StatisticsError if there are none."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))

    def text(self, digits: int = 3) -> str:
        return f"{self.median:.{digits}f}  ({self.min:.{digits}f} to {self.max:.{digits}f}, {self.count} times)"


@dataclass(frozen=True, slots=True)
class Aim:
    """`figure` is to be at most (or, if `at_least`, at least) `bound`."""

    what: str
    figure: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def line(self) -> str:
        relation = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:>6}  {self.what}: {self.figure:.3g}, to be {relation} {self.bound:g}"


def environment() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
        "libraries": {library: version(library) for library in LIBRARIES},
        "load_before": os.getloadavg()[0],
    }


@dataclass(frozen=True, slots=True)
class Findings:
    """Of one benchmark. `rows` are for people, `figures` for programs."""

    benchmark: str
    rows: Sequence[tuple[str, str]]
    figures: dict[str, Any]
    aims: Sequence[Aim]


def tell(findings: Findings, where: dict[str, Any], console: Console, json_path: Path | None) -> None:
    """`where`: the environment, taken before the measurement."""
    where = {**where, "load_after": os.getloadavg()[0]}
    table = Table(title=f"bench_{findings.benchmark}", title_justify="left", show_header=False)
    for row in findings.rows:
        table.add_row(*row)
    console.print(table)
    for aim in findings.aims:
        console.print(aim.line(), highlight=False)
    load = f"load {where['load_before']:.1f} before, {where['load_after']:.1f} after"
    console.print(f"{where['cores']} cores, {load}, Python {where['python']}, {where['date']}", highlight=False)
    if json_path is not None:
        aims = [{**asdict(aim), "met": aim.met} for aim in findings.aims]
        whole = {"benchmark": findings.benchmark, "environment": where, "figures": findings.figures, "aims": aims}
        json_path.write_text(json.dumps(whole, indent=2) + "\n")
        console.print(f"figures in {json_path}")
