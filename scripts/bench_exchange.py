"""How fast a model moves by digest between two processes, against a bare libp2p stream and a bare TCP connection.

Four ways take turns, each between two processes: our exchange (asked by digest, hashed, written), our
stream alone (its bytes dropped), a stock libp2p host's noise + yamux stream, and raw TCP. Ratios are of medians.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import trio
from bench.figures import Aim, Findings, Spread, environment, tell
from bench.streams import ways
from rich.console import Console

MB = 1e6
NAMES = ("exchange", "our stream", "bare stream", "raw TCP")


def compare(size: int, repeats: int, say: Callable[[str], None]) -> Findings:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return findings(size, *trio.run(measured, Path(folder), size, repeats, say))


async def measured(
    folder: Path, size: int, repeats: int, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each way, after one turn to warm up; and the CPU seconds of this side an exchange."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    cpu_s = 0.0
    async with ways(folder, size) as each:
        for turn in range(repeats + 1):
            for name, way in each.items():
                began_cpu = time.process_time()
                seconds = await way()
                if turn:
                    found[name].append(seconds)
                    cpu_s += (time.process_time() - began_cpu) / repeats if name == "exchange" else 0.0
            latest = ", ".join(f"{name} {size / MB / times[-1]:.0f}" for name, times in found.items() if times)
            say(f"turn {turn} of {repeats}: {latest + ' MB/s' if latest else 'warming up'}")
    return found, cpu_s


def findings(size: int, seconds: dict[str, list[float]], cpu_s: float) -> Findings:
    rates = {name: Spread.of(size / MB / each for each in times) for name, times in seconds.items()}
    medians = {name: Spread.of(times).median for name, times in seconds.items()}
    ratio = medians["bare stream"] / medians["exchange"]
    rows = [
        ("bytes", f"{size:,}"),
        *((f"{name}, MB/s", rate.text(0)) for name, rate in rates.items()),
        ("exchange / bare stream", f"{ratio:.2f}"),
        ("our stream / bare stream", f"{medians['bare stream'] / medians['our stream']:.2f}"),
        ("exchange / raw TCP", f"{medians['raw TCP'] / medians['exchange']:.3f}"),
        ("receiver's CPU seconds an exchange", f"{cpu_s:.3f}"),
    ]
    figures = {"bytes": size, "seconds": seconds, "ratio_to_bare_stream": ratio, "receiver_cpu_s": cpu_s}
    return Findings("exchange", rows, figures, [Aim("exchange / bare stream", ratio, 0.8, at_least=True)])


@click.command(context_settings={"show_default": True})
@click.option("--megabytes", default=50.0, type=click.FloatRange(0.001, 10_000), help="size of the blob, in 10^6 bytes")
@click.option("--repeats", default=10, type=click.IntRange(1), help="turns that each way gets")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(megabytes: float, repeats: int, json_path: Path | None) -> None:
    """Measure how fast models move between two processes on this machine."""
    console, where, size = Console(), environment(), round(megabytes * MB)
    tell(compare(size, repeats, console.print), where, console, json_path)


if __name__ == "__main__":
    main()
