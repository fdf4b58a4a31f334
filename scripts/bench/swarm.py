"""A swarm of real nodes to be measured: `gossipnode start` in homes of their own, over libp2p and loopback.

The processes are those of `testnet`; here they are started with shards and settings of the benchmark's choosing, asked
for their status, and stopped whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from processes import Failed, Peer, check_alive, first_address, homes, spawn, stop

from gossipnode.status.report import HISTORY_ROUNDS

WAIT_S = 120.0
POLL_S = 0.25
SCRIPTS = str(Path(__file__).parent.parent)
GOSSIPNODE = (sys.executable, "-m", "gossipnode")


@dataclass(frozen=True, slots=True)
class Plan:
    """`shards`: into how many parts the task's data is cut, of which node i takes the i-th."""

    nodes: int
    task: str
    shards: int
    settings: Sequence[str] = ()  # of the manifest, KEY=VALUE
    threads: int = 1
    joining: Sequence[str] = ()  # options of `start` for all but the first


@contextlib.contextmanager
def running(plan: Plan, traces: Path | None = None) -> Iterator[list[Peer]]:
    """Started, each with its home; the first has an address. With `traces`, nodes write there when things happened."""
    peers: list[Peer] = []
    with homes(None) as root:
        try:
            peers.append(start_one(root, 0, plan, traces, ["--task", plan.task, *_set(plan.settings)]))
            to_first = ["--peers", first_address(peers[0]), *plan.joining]
            peers += [start_one(root, index, plan, traces, to_first) for index in range(1, plan.nodes)]
            yield peers
        finally:
            late = stop(peers)
            if late:
                raise Failed(f"{', '.join(late)} did not stop when told")


def start_one(root: Path, index: int, plan: Plan, traces: Path | None, options: Sequence[str]) -> Peer:
    home = root / f"node-{index}"
    home.mkdir()
    traced = (sys.executable, str(Path(__file__).parent / "traced.py"), str(traces and traces / f"{home.name}.json"))
    command = [*(traced if traces else GOSSIPNODE), "start", "--home", str(home), "--http", "127.0.0.1:0"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--threads", str(plan.threads)]
    command += ["--shard", f"{index}/{plan.shards}", *options]
    path = os.pathsep.join(filter(None, (SCRIPTS, os.environ.get("PYTHONPATH"))))  # where bench's own tasks are
    return Peer(home.name, home, spawn(home, command, PYTHONPATH=path))


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def wait_until(
    holds: Callable[[], bool],
    peers: list[Peer],
    watched: list[Peer],
    what: str,
    poll_s: float = POLL_S,
    within_s: float = WAIT_S,
) -> None:
    """Ask the `watched` for their status until `holds()`. Raises Failed if that takes too long or a node has ended."""
    deadline = time.monotonic() + within_s
    with httpx.Client(timeout=5.0) as client:
        while True:
            for peer in watched:
                peer.poll(client, HISTORY_ROUNDS)
            if holds():
                return
            check_alive(peers)
            if time.monotonic() > deadline:
                raise Failed(f"not {what} after {within_s:.0f} s")
            time.sleep(poll_s)


def round_of(peer: Peer) -> int:
    return peer.status.progress.round if peer.status else 0
