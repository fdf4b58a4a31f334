"""How long commands take to begin: `--help`, a node until it listens, until it has joined, and a second one likewise.

Each is a process of its own and is timed from its start. "Listens" is when the home names its addresses; "joined" when
its status says so: for the first node the worker has loaded torch and the task by then, for a second one it has also
fetched the manifest.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
from bench.figures import Aim, Findings, Spread, environment, tell
from bench.swarm import GOSSIPNODE, WAIT_S, Plan, start_one
from processes import Failed, Peer, check_alive, first_address, homes, stop
from rich.console import Console

POLL_S = 0.005
Timings = dict[str, list[float]]


def help_s() -> float:
    began = time.monotonic()
    subprocess.run([*GOSSIPNODE, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def node_s(peer: Peer, began: float) -> tuple[float, float]:
    """Until it listens, and until it has joined."""
    _until(lambda: bool((peer.addresses() or {}).get("http")), peer)
    listens_s = time.monotonic() - began
    with httpx.Client(timeout=5.0) as client:

        def joined() -> bool:
            peer.poll(client)
            return peer.status is not None and peer.status.node.joined

        _until(joined, peer)
    return listens_s, time.monotonic() - began


def _until(holds: Callable[[], bool], peer: Peer) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        check_alive([peer])
        if time.monotonic() > deadline:
            raise Failed(f"{peer.name} has not started after {WAIT_S:.0f} s")
        time.sleep(POLL_S)


def once(task: str) -> dict[str, float]:
    """Seconds of each kind of beginning."""
    peers: list[Peer] = []
    plan = Plan(2, task, 2, ["start_peers=2"])
    with homes(None) as root:
        try:
            began = time.monotonic()
            peers.append(start_one(root, 0, plan, None, ["--task", task, "--set", "start_peers=2"]))
            first = node_s(peers[0], began)
            began = time.monotonic()
            peers.append(start_one(root, 1, plan, None, ["--peers", first_address(peers[0])]))
            second = node_s(peers[1], began)
        finally:
            stop(peers)
    return {
        "first node listens": first[0],
        "first node has joined": first[1],
        "second node listens": second[0],
        "second node has joined": second[1],
    }


def measured(task: str, repeats: int, console: Console) -> Timings:
    found: Timings = {}
    warm_up = repeats > 1  # of the file cache
    for turn in range(repeats + warm_up):
        timings = {"--help": help_s(), **once(task)}
        console.print(f"turn {turn} of {repeats}: " + ", ".join(f"{what} {s:.2f} s" for what, s in timings.items()))
        for what, seconds in timings.items() if turn or not warm_up else ():
            found.setdefault(what, []).append(seconds)
    return found


def findings(timings: Timings) -> Findings:
    spreads = {what: Spread.of(seconds) for what, seconds in timings.items()}
    rows = [(f"{what}, s", spread.text(2)) for what, spread in spreads.items()]
    aims = [
        Aim("--help, s", spreads["--help"].median, 0.3),
        Aim("start to listening, s", spreads["first node listens"].median, 2.0),
        Aim("start to joined, s", spreads["second node has joined"].median, 5.0),
    ]
    return Findings("start", rows, {"seconds": timings}, aims)


@click.command(context_settings={"show_default": True})
@click.option("--task", default="mnist-mlp", help="what the nodes load")
@click.option("--repeats", default=5, type=click.IntRange(1), help="turns, after one to warm up if there are several")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write the figures")
def main(task: str, repeats: int, json_path: Path | None) -> None:
    """Measure how long nodes take to begin on this machine."""
    console, where = Console(), environment()
    try:
        timings = measured(task, repeats, console)
    except Failed as failure:
        raise click.ClickException(str(failure)) from failure
    tell(findings(timings), where, console, json_path)


if __name__ == "__main__":
    main()
