"""The processes of a swarm of real nodes on this machine: begun, looked at over their status, stopped and killed.

Invariant: however the program ends that started them, its nodes end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import msgspec

from gossipnode.status.report import Status, decode

POLL_S = 0.5
START_S = 120.0  # for a node to answer at all: eight import torch on two cores
STOP_S = 10.0  # a node promises to stop within 5
PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(slots=True)
class Peer:
    """One node: its process, its home, and the last status it gave."""

    name: str
    home: Path
    process: subprocess.Popen[bytes]
    status: Status | None = None
    kind: str | None = None  # of adversary
    killed: bool = False
    url: str | None = field(default=None)

    def addresses(self) -> dict[str, object] | None:
        try:
            return dict(json.loads((self.home / "addresses.json").read_text()))
        except (OSError, ValueError):
            return None

    def poll(self, client: httpx.Client, history: int = 0) -> None:
        found = self.addresses()
        if found and found.get("http"):
            self.url = str(found["http"])
        if self.url:
            with contextlib.suppress(httpx.HTTPError, msgspec.MsgspecError):
                self.status = decode(client.get(f"{self.url}/status?history={history}").content)

    @property
    def done(self) -> bool:
        status = self.status
        if status is None or status.run is None or status.progress.state != "finished":
            return False
        learning = status.progress.learning
        return learning is not None and learning.evaluated_round == status.progress.round

    def last_words(self) -> str:
        lines = (self.home / "log.txt").read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]


class Failed(Exception):
    """The testnet did not do what it should. One line."""


def end_with_parent(ending: signal.Signals) -> None:
    """Runs in a node's process before the node: if we are killed, Linux sends it that signal."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere a testnet that is killed leaves its nodes running
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(ending))


def spawn(
    home: Path, command: Sequence[str], ending: signal.Signals = signal.SIGTERM, **environment: str
) -> subprocess.Popen[bytes]:
    """A node that ends with us, its log in its home, after what was said there before."""
    with (home / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for us; we pass it on
            preexec_fn=partial(end_with_parent, ending),
        )


def first_address(peer: Peer) -> str:
    """Where the others find the first node."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (found := peer.addresses()) and found.get("libp2p"):
            addresses = found["libp2p"]
            assert isinstance(addresses, list)
            return str(addresses[0])
        check_alive([peer])
        time.sleep(POLL_S / 5)
    raise Failed(f"{peer.name} has not started after {START_S:.0f} s; see {peer.home / 'log.txt'}")


def check_alive(peers: list[Peer]) -> None:
    for peer in peers:
        if (code := peer.process.poll()) is not None:
            raise Failed(f"{peer.name} ended with exit code {code}: {peer.last_words()}")


def stop(peers: list[Peer]) -> list[str]:
    """Ctrl-C to each; whoever does not stop in time is killed and named. A second signal to us kills at once."""
    for peer in peers:
        if peer.process.poll() is None:
            peer.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_S
    try:
        return [peer.name for peer in peers if not ended(peer, deadline - time.monotonic())]
    finally:
        kill(peers)


def ended(peer: Peer, within_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        peer.process.wait(max(0.1, within_s))
    return peer.process.returncode is not None


def kill(peers: list[Peer]) -> None:
    for peer in peers:
        if peer.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(peer.process.pid, signal.SIGKILL)  # its worker too
            peer.process.wait()


@contextlib.contextmanager
def homes(keep: Path | None) -> Iterator[Path]:
    """A folder for them all. One that we made ourselves is kept if something failed: the logs are there."""
    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except OSError as error:
            raise Failed(f"--keep {keep}: {error.strerror}; name a new folder") from error
        yield keep
        return
    root = Path(tempfile.mkdtemp(prefix="testnet-"))
    try:
        yield root
    except Failed as failure:
        raise Failed(f"{failure}; the homes with their logs are in {root}") from failure
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    shutil.rmtree(root, ignore_errors=True)
