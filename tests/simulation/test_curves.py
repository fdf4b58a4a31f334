"""Curves: when a target was reached, and the picture."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gossipnode.curves import Point, plot, reached
from gossipnode.errors import OperatorError

CURVE = [
    Point(round=k, virtual_s=2.0 * k, wire_bytes=10**k, accuracy=accuracy)
    for k, accuracy in ((0, 0.1), (1, 0.8), (2, 0.7))
]
ROOT = Path(__file__).parent.parent.parent
REPORTS: dict[str, dict[str, Any]] = {f"run {n}": {"curve": msgspec.to_builtins(CURVE)} for n in range(9)}


def test_the_first_point_at_the_target_counts() -> None:
    assert reached(CURVE, 0.75) is CURVE[1]
    assert reached(CURVE, 0.8) is CURVE[1]
    assert reached(CURVE, 0.9) is None


def test_a_picture_of_reports_with_and_without_a_curve(tmp_path: Path) -> None:
    reports = {
        **REPORTS,
        "nothing": {"curve": []},
        "older": {},
        "from zero": {"curve": [{**REPORTS["run 0"]["curve"][0], "wire_bytes": 0}]},
    }
    plot(reports, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_no_reports_are_no_crash(tmp_path: Path) -> None:
    plot({}, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"--plot .*: cannot be written: No such file"):
        plot(REPORTS, tmp_path / "missing" / "curves.png")
    with pytest.raises(OperatorError, match=r"--plot .*curves\.doc: cannot be written: Format 'doc' is not supported"):
        plot(REPORTS, tmp_path / "curves.doc")


def test_matplotlib_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        OperatorError, match=r"--plot needs matplotlib, which is missing: pip install .gossipnode\[plot\]"
    ):
        plot(REPORTS, tmp_path / "curves.png")


def test_the_extra_that_draws_is_named_in_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(each.startswith("matplotlib") for each in extras["plot"])
