"""Real nodes: processes with homes of their own, over loopback. A step waits for what it wants to see, not for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from gossipnode.journal import Journal
from gossipnode.node import State
from gossipnode.status.report import Status, decode

PATIENCE_S = 60.0  # for anything at all: two cores may be shared by many
POLL_S = 0.05
OWN_TASK = "slow_task:TASK"
T = TypeVar("T")


def eventually(what: Callable[[], T | None], why: str = "") -> T:
    """The first true thing that `what` gives."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"never: {why or what}")


@dataclass
class Daemon:
    home: Path
    process: subprocess.Popen[bytes]
    log_path: Path
    all: list[Daemon]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def addresses(self) -> dict[str, object] | None:
        try:
            found = dict(json.loads((self.home / "addresses.json").read_text()))
            return found if found["pid"] == self.process.pid else None  # else of one that was killed here
        except (OSError, ValueError):
            assert self.process.poll() is None, self.log
            return None

    @property
    def address(self) -> str:
        found = eventually(self.addresses)["libp2p"]
        assert isinstance(found, list)
        return str(found[0])

    @property
    def url(self) -> str:
        return str(eventually(self.addresses)["http"])

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def status(self) -> Status:
        return decode(self.get("/status")[1])

    def shows(self, what: Callable[[Status], object]) -> Status:
        """The first status of which that is true."""

        def look() -> Status | None:
            self.nobody_fell()
            status = self.status()
            return status if what(status) else None

        try:
            return eventually(look)
        except AssertionError as error:
            raise AssertionError(f"{self.status()}\n{self.log}") from error

    def says(self, words: str) -> str:
        """The first line of the log with these words."""

        def look() -> str | None:
            self.nobody_fell()
            return next((line for line in self.log.splitlines() if words in line), None)

        try:
            return eventually(look, words)
        except AssertionError as error:
            raise AssertionError(f"{words!r} is not in:\n{self.log}") from error

    def nobody_fell(self) -> None:
        for each in self.all:
            assert each.process.poll() in (None, 0, -signal.SIGKILL), each.log

    def ends(self, number: signal.Signals) -> tuple[int, float]:
        """Exit code, and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S), time.monotonic() - began

    def saved(self) -> State:
        state = Journal(self.home / "state", State).load()
        assert state is not None
        return state


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("a", "--task", "digits", ...)` in the home `a`."""
    started: list[Daemon] = []
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[2])))  # the task, and this checkout
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GOSSIPNODE_HTTP_TOKEN": ""}

    def begin(home: str, *options: str) -> Daemon:
        command = [sys.executable, "-m", "gossipnode", "start", "--home", str(tmp_path / home), *options]
        if "--listen" not in options:
            command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        log_path = tmp_path / f"{home}.{len(started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **own}, cwd=tmp_path
            )
        started.append(Daemon(tmp_path / home, process, log_path, started))
        return started[-1]

    try:
        yield begin
    finally:
        for daemon in started:
            daemon.process.kill()
            daemon.process.wait()
