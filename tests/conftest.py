"""What every test run shares: one torch thread a worker (pytest-xdist has one a core) and examples that do not vary."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from gossipnode.net.virtual_time import seeded_scheduler

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch; inherited by the processes tests start

# Derandomised, so that a run that was green stays green; no deadline, because a shared machine may stall any example.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _same_order() -> Iterator[None]:
    """trio runs ready tasks in a random order: drawn from a seed, a test of virtual time is the same each time."""
    with seeded_scheduler(0):
        yield


@pytest.fixture(autouse=True)
def _log_left_alone() -> Iterator[None]:
    """Commands set up the log for a process of their own; some tests run them in theirs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
