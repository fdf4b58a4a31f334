"""How long a testnet trains, in its protocol's own unit: rounds, steps, trainings of each node, or minutes."""

from __future__ import annotations

import click


def length_of(protocol: str, rounds: int | None, steps: int | None, minutes: float | None) -> int:
    """Rounds or steps; 0: until the minutes are over. Raises UsageError."""
    given = {"--rounds": rounds, "--steps": steps, "--minutes": minutes}
    right = {"modest": ["--rounds"], "onebyte": ["--steps"], "gossip": ["--rounds", "--minutes"]}[protocol]
    for option, value in given.items():
        if value is not None and option not in right:
            raise click.UsageError(f"{option}: a {protocol} run is measured otherwise: give {' or '.join(right)}")
    if minutes is not None:
        if rounds is not None:
            raise click.UsageError("--minutes: give it or --rounds, not both")
        return 0
    return (steps or 500) if protocol == "onebyte" else (rounds or 30)
