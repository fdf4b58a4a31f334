"""A disk that takes no more, as a limit on the size of files makes it: for a real node, and lifted while it runs.

The models of the task are smaller than a checkpoint, so between their sizes lies the disk that takes the one and not
the other.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossipnode.status.report import Status

Start = Callable[..., Any]  # the fixture of conftest.py
OWN_TASK = "slow_task:TASK"
NOTHING = 0
MODELS_ONLY = 400  # bytes; a model has about 200, a checkpoint with its view some 500

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")


def limit(node: Any, most: int) -> None:  # noqa: ANN401 - conftest's Daemon
    """The biggest file that the daemon and its worker may write; what is longer fails with EFBIG."""
    tasks = Path(f"/proc/{node.process.pid}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert children
    for pid in (node.process.pid, *children):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def round_of(status: Status) -> int:
    return status.progress.round


def saved(status: Status) -> int:
    return status.store.checkpoint_round or 0


def test_without_room_for_checkpoints_training_goes_on_and_says_so(start: Start) -> None:
    node = start("a", "--task", OWN_TASK)
    node.shows(lambda status: saved(status) >= 2)
    limit(node, MODELS_ONLY)
    full = node.shows(lambda status: status.warnings and status.store.checkpoint_error)
    assert "checkpoints cannot be saved: " in full.warnings[0]
    assert "File too large" in full.warnings[0]
    later = node.shows(lambda status: round_of(status) >= round_of(full) + 3)  # on it trains
    assert saved(later) == saved(full)  # and does not claim to have saved what it has not
    limit(node, resource.RLIM_INFINITY)
    node.shows(lambda status: saved(status) > round_of(later) and not status.warnings)
    assert node.saved().held.round > round_of(later)


def test_without_room_for_anything_a_node_waits_and_goes_on_when_there_is_some(start: Start) -> None:
    node = start("a", "--task", OWN_TASK, "--set", "timing.round_ceiling_s=1.0")
    before = node.shows(lambda status: saved(status) >= 2)
    limit(node, NOTHING)
    stuck = node.shows(lambda status: status.warnings)
    assert node.get("/healthz")[0] == 200
    limit(node, resource.RLIM_INFINITY)
    node.shows(lambda status: round_of(status) > round_of(stuck) >= round_of(before) and not status.warnings)
    node.process.kill()
    node.process.wait()
    again = start("a", "--task", OWN_TASK)
    again.shows(lambda status: round_of(status) > round_of(stuck))
