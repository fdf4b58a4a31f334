"""One node of a soak: a process that is killed, frozen and started again in the same home, and watched all the while.

A member says of itself what is being done to it (`fault`); while that is nothing, its process must be there and answer.
Whoever breaks that promise is a finding, not an exception. Logs of all its lives are one file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import trio
from processes import spawn

from bench import usage
from gossipnode.status.report import Status, decode

HISTORY = 60  # newest rounds asked for with each status: more than pass between two of them
STOP_S = 8.0  # a node promises to stop within 5, but has not promised a quiet machine
ORPHAN_S = 5.0  # for a worker to see that its daemon is gone


@dataclass(frozen=True, slots=True)
class Sample:
    """What a member's process tree used at a moment of its life."""

    member: str
    life: int
    at_s: float  # since the soak began
    age_s: float  # since this life began
    private_mib: float
    pss_mib: float
    descriptors: int
    threads: int
    disk_mib: float


@dataclass(slots=True, eq=False)
class Member:
    name: str
    home: Path
    options: Sequence[str]  # of `gossipnode start`, beside --home and --peers
    fault: str = ""
    lives: int = 0
    process: subprocess.Popen[bytes] | None = None
    began_at: float = 0.0  # trio's clock, this life
    status: Status | None = None  # of this life
    lag: int = 0  # rounds behind the highest that was known before it was last asked
    sample: Sample | None = None
    orphans: list[int] = field(default_factory=list)  # workers that outlived their daemon

    # -- life and death -----------------------------------------------------------------------------------------------

    def start(self, peers: Sequence[str]) -> None:
        command = [sys.executable, "-m", "gossipnode", "start", "--home", str(self.home), *self.options]
        command += [word for address in peers for word in ("--peers", address)]
        # SIGKILL: if the soak itself is killed, a frozen node would not obey anything else.
        self.process = spawn(self.home, command, signal.SIGKILL, OMP_NUM_THREADS="1")
        self.status = None
        self.lives += 1
        self.began_at = trio.current_time()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals, *, tree: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if tree else os.kill)(self.pid, number)

    async def kill(self, below: Sequence[int] | None = None) -> None:
        """The daemon only: its worker (`below`, if it is known already) has to notice by itself."""
        below = usage.tree(self.pid)[1:] if below is None else below
        self.signal(signal.SIGKILL)
        await self.ended(STOP_S)
        with trio.move_on_after(ORPHAN_S):
            while any(map(_lives, below)):  # noqa: ASYNC110 - another process's end is no event of ours
                await trio.sleep(0.05)
        self.orphans += [pid for pid in below if _lives(pid)]

    async def ended(self, within_s: float) -> int | None:
        """Its exit code, or None if it lives on."""
        with trio.move_on_after(within_s):
            while self.alive:  # noqa: ASYNC110 - likewise
                await trio.sleep(0.02)
        return None if self.process is None else self.process.poll()

    def destroy(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL, tree=True)
            self.process.wait()

    # -- what it says -------------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, str] | None:
        """Of this life: for peers, and for us."""
        try:
            found = json.loads((self.home / "addresses.json").read_text())
            return (found["libp2p"][0], found["http"]) if found["pid"] == self.pid else None
        except (OSError, ValueError, KeyError, IndexError):
            return None

    async def poll(self, client: httpx.AsyncClient) -> Status | None:
        """A fresh status, or None."""
        life, found = self.lives, self.addresses()
        if found is None:
            return None
        try:
            status = decode((await client.get(f"{found[1]}/status?history={HISTORY}")).content)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None
        if life == self.lives:
            self.status = status
        return status

    @property
    def round(self) -> int:
        return self.status.progress.round if self.status and self.status.node.joined else -1

    def log(self) -> str:
        try:
            return (self.home / "log.txt").read_text(errors="replace")
        except OSError:
            return ""

    # -- what it uses -------------------------------------------------------------------------------------------------

    def measure(self, now: float, began: float) -> Sample | None:
        """Blocks for some milliseconds."""
        pids = usage.tree(self.pid)
        if not self.alive:
            return None
        memory = usage.memory(pids)
        self.sample = Sample(
            self.name,
            self.lives,
            now - began,
            now - self.began_at,
            memory.private,
            memory.pss,
            sum(map(usage.descriptors, pids)),
            sum(map(usage.threads, pids)),
            _bytes_below(self.home) / 2**20,
        )
        return self.sample


def _lives(pid: int) -> bool:
    """Not even a zombie counts: it is only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _bytes_below(home: Path) -> int:
    """Of the node's own files; the log is ours."""
    found = 0
    for folder, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):
                found += 0 if name == "log.txt" else (Path(folder) / name).stat().st_size
    return found
