"""From the marks of traced nodes to where a round's time goes: its critical path, cut at the last of each step.

    merged(k-1) .. hand out .. last trainer told .. fetch .. last one holds the aggregate .. train ..
        last one has trained .. hand in .. last model needed is fetched and checked .. merge .. merged(k)

The five pieces of a round add up to the round exactly. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

PIECES = ("hand out", "fetch", "train", "hand in", "merge")


def pieces(nodes: Sequence[dict[str, Any]], skip: int = 1) -> dict[str, float]:
    """The median seconds of each piece over the rounds after the first `skip`; `nodes` as `traced` writes them."""
    rounds = [_round(nodes, round) for round in sorted(_times(nodes, "merged")) if round > skip + 1]
    return {piece: statistics.median(each[piece] for each in rounds if each) for piece in PIECES} if any(rounds) else {}


def _round(nodes: Sequence[dict[str, Any]], round: int) -> dict[str, float] | None:
    """None if a step of it was not seen."""
    merged, held = _times(nodes, "merged"), _firsts(nodes, "held", round - 1)
    if round - 1 not in merged or not held:
        return None
    marks = [
        merged[round - 1],
        max(_firsts(nodes, "assigned", round), default=0.0),
        max(held),
        max(_firsts(nodes, "trained", round), default=0.0),
        max(_all(nodes, "gathered", round), default=0.0),
        merged[round],
    ]
    later = [max(marks[: place + 1]) for place in range(len(marks))]  # a step may be over before the one before it
    return {piece: end - start for piece, start, end in zip(PIECES, later, later[1:], strict=False)}


def _all(nodes: Sequence[dict[str, Any]], what: str, round: int) -> list[float]:
    return [at for node in nodes for name, when, at in node["steps"] if (name, when) == (what, round)]


def _firsts(nodes: Sequence[dict[str, Any]], what: str, round: int) -> list[float]:
    """When each node did it for the first time."""
    each = (_all([node], what, round) for node in nodes)
    return [min(times) for times in each if times]


def _times(nodes: Sequence[dict[str, Any]], what: str) -> dict[int, float]:
    """When it was first done in each round, by whichever node."""
    found: dict[int, float] = {}
    for name, round, at in (step for node in nodes for step in node["steps"]):
        if name == what:
            found[round] = min(at, found.get(round, at))
    return found


def said(nodes: Iterable[dict[str, Any]], rounds: int) -> list[tuple[str, float, float]]:
    """Kinds of message, most bytes first: how many, and how many bytes of frames, a round in the whole swarm."""
    totals: dict[str, list[int]] = {}
    for node in nodes:
        for kind, (count, size) in node["said"].items():
            total = totals.setdefault(kind, [0, 0])
            total[0] += count
            total[1] += size
    ranked = sorted(totals.items(), key=lambda item: -item[1][1])
    return [(kind, count / rounds, size / rounds) for kind, (count, size) in ranked]
