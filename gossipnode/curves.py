"""Accuracy against rounds, virtual time and bytes: the points of a curve, when a target was reached, and a picture.

Every protocol writes the same points into its report, so that curves can lie in one picture. Bytes have a logarithmic
axis: protocols differ by orders of magnitude there. matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gossipnode.errors import OperatorError, reason

# Okabe and Ito's colours, which the colour-blind tell apart too; the line's style tells repetitions of the cycle apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
AXES = (("round", "round", "linear"), ("virtual_s", "virtual seconds", "linear"), ("wire_bytes", "bytes sent", "log"))
INCHES = (13.5, 4.2)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a round."""

    round: int
    virtual_s: float
    wire_bytes: int  # sent by all nodes since the start
    accuracy: float | None  # mean over some fixed nodes' held-out data; None: no living node holds the model


def reached(curve: Sequence[Point], target: float) -> Point | None:
    """The first point at or above the target."""
    return next((point for point in curve if point.accuracy is not None and point.accuracy >= target), None)


def plot(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """`reports` by label, each with a `curve` of points as in JSON; one line a report. Raises OperatorError."""
    try:
        from matplotlib.figure import Figure  # 0.3 s and 60 MB, which only a picture is worth
    except ImportError as error:
        raise OperatorError("--plot needs matplotlib, which is missing: pip install 'gossipnode[plot]'") from error
    figure = Figure(figsize=INCHES, layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (key, label, scale) in zip(panels, AXES, strict=True):
        for number, (name, report) in enumerate(reports.items()):
            known = [point for point in report.get("curve") or () if point["accuracy"] is not None]
            points = [point for point in known if scale == "linear" or point[key] > 0]
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            drawn = [point[key] for point in points], [point["accuracy"] for point in points]
            panel.plot(*drawn, style, color=COLOURS[number % len(COLOURS)], label=name, marker=".", markersize=3)
        panel.set_xscale(scale)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy")
    if reports:
        panels[-1].legend(fontsize="small")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that matplotlib has no format for
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise OperatorError(f"--plot {path}: cannot be written: {text}") from error
