"""What every test run shares: one torch thread a worker (pytest-xdist has one a core) and examples that do not vary."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch; inherited by the processes tests start

# Derandomised, so that a run that was green stays green; no deadline, because a shared machine may stall any example.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")
