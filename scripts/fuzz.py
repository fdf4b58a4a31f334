"""Fuzz the doors for as long as you like: `python scripts/fuzz.py --minutes 60`, or one of them with `--door wire`.

Each door in turn is offered mutations of its valid examples and of its corpus, which grows: what breaks it is shrunk
and saved, and so is an input that makes it say something new. Tests replay the corpus and try a counted number more.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field

import click
from fuzzing.doors import all_doors
from fuzzing.mutations import nearly
from fuzzing.watch import Broken, Door, corpus, enter, save, watching
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console

BATCH = 500  # inputs, in those of the cheapest door
LONGEST_KEPT = 4096  # bytes; a longer input is no example to learn from
KEPT = 60  # files of a door's corpus that are no failures


@dataclass
class Tally:
    inputs: int = 0
    said: dict[str, bytes] = field(default_factory=dict)  # by what the door said, the shortest input that made it
    broken: list[str] = field(default_factory=list)


def replay(door: Door, tally: Tally) -> None:
    for data in (*door.examples, *corpus(door.name).values()):
        try:
            tally.said.setdefault(enter(door, data), data)
        except Broken as failure:
            tally.broken.append(str(failure))
        tally.inputs += 1


def batch(door: Door, tally: Tally, seed_bytes: list[bytes]) -> None:
    fresh: dict[str, bytes] = {}
    last = b""

    @settings(
        max_examples=max(5, round(BATCH / door.cost)), deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(nearly(seed_bytes, door.tokens))
    def offer(data: bytes) -> None:
        nonlocal last
        last = data
        tally.inputs += 1
        said = enter(door, data)
        if said not in tally.said and len(data) < len(fresh.get(said, bytes(LONGEST_KEPT))):
            fresh[said] = data

    try:
        offer()
    except Broken as failure:
        tally.broken.append(f"{failure}\n    input in {save(door.name, last, 'broken')}")
    _keep(door, tally, fresh)


def _keep(door: Door, tally: Tally, fresh: dict[str, bytes]) -> None:
    tally.said |= fresh
    room = KEPT - sum(name.startswith("said") for name in corpus(door.name))
    for data in list(fresh.values())[: max(0, room)]:
        save(door.name, data, "said")


@click.command(context_settings={"show_default": True})
@click.option("--minutes", default=1.0, type=click.FloatRange(min=0.0, min_open=True), help="for how long")
@click.option("--door", "names", multiple=True, help="only this one; may be repeated")
def main(minutes: float, names: tuple[str, ...]) -> None:
    """Exit code 1 if a door has broken."""
    logging.disable(logging.ERROR)  # refusals are what most inputs get, and some of them are logged
    doors = all_doors()
    if unknown := set(names) - doors.keys():
        raise click.ClickException(f"no door {', '.join(sorted(unknown))}; there are {', '.join(doors)}")
    chosen = [doors[name] for name in names] or list(doors.values())
    tallies = {door.name: Tally() for door in chosen}
    end = time.monotonic() + 60 * minutes
    console = Console(highlight=False)
    with watching():
        for door in chosen:
            replay(door, tallies[door.name])
        while time.monotonic() < end:
            for door in chosen:
                batch(door, tallies[door.name], [*door.examples, *corpus(door.name).values()])
    for name, tally in tallies.items():
        console.print(f"{name:14} {tally.inputs:8} inputs, {len(tally.said):3} kinds of answer")
        for failure in dict.fromkeys(tally.broken):
            console.print(f"  BROKEN {failure}", markup=False)
    sys.exit(any(tally.broken for tally in tallies.values()))


if __name__ == "__main__":
    main()
