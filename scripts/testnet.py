"""A testnet on this machine: real processes, real libp2p over loopback, no server. Shows a live table, writes a report.

Each node is `gossipnode start` in a home of its own; the first makes the manifest, the others are given its address and
find each other through it. Exit code 0: every node finished every round and all hold the same model. However this
program ends, its nodes end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import httpx
import msgspec
from lengths import length_of
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gossipnode.config import slowdowns_of
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.identity import create_identity
from gossipnode.report import Report, agreed, report_of, require_writable, save, summary
from gossipnode.status.report import HISTORY_ROUNDS, Status, decode

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


@dataclass(frozen=True, slots=True)
class Options:
    nodes: int
    rounds: int  # or steps
    protocol: str
    task: str
    seed: int
    trainers: int
    aggregators: int
    partition: str
    encoding: str
    set: tuple[str, ...]
    init: str | None = None  # of first models, in gossip
    slowdowns: tuple[float, ...] = (1.0,)  # of the nodes in turn, in gossip
    minutes: float | None = None  # instead of rounds, in gossip


class Failed(Exception):
    """The testnet did not do what it should. One line."""


class Stopped(BaseException):
    """By a signal. Not an Exception: whatever is under way, it ends."""


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


def founders(root: Path, options: Options) -> list[str]:
    """All nodes of a one-byte run, so that each has a seat from the first step: their identities are made first."""
    homes = [Home(root / f"node-{index}") for index in range(options.nodes)]
    for home in homes:
        home.create()
    return [str(create_identity(home.identity).peer) for home in homes]


def start(root: Path, index: int, options: Options, peers: str | None) -> Peer:
    home = root / f"node-{index}"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "gossipnode", "start", "--home", str(home)]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0", "--threads", "1"]
    command += ["--shard", f"{index}/{options.nodes}", "--partition", options.partition]
    command += ["--slowdown", str(options.slowdowns[index % len(options.slowdowns)])]
    command += ["--peers", peers] if peers else _run_options(options)
    return Peer(f"node-{index}", home, spawn(home, command, OMP_NUM_THREADS="1"))


def _run_options(options: Options) -> list[str]:
    settings = [
        f"seed={options.seed}",
        f"start_peers={options.nodes}",
        f"encoding={options.encoding}",
        *options.set,
    ]
    if options.init is not None:
        settings += [f"gossip.init={options.init}"]
    if options.protocol == "modest":
        settings += [f"modest.trainers={options.trainers}", f"modest.aggregators={options.aggregators}"]
    length = "--steps" if options.protocol == "onebyte" else "--rounds"
    command = ["--task", options.task, "--protocol", options.protocol, length, str(options.rounds)]
    return command + [word for setting in settings for word in ("--set", setting)]


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


def watch(peers: list[Peer], options: Options, timeout_s: float, console: Console) -> None:
    """Until every node has finished and evaluated the last model."""
    began = time.monotonic()
    with httpx.Client(timeout=5.0) as client, Live(console=console, refresh_per_second=4) as live:
        while True:
            for peer in peers:
                peer.poll(client)
            elapsed_s = time.monotonic() - began
            live.update(table(peers, options, elapsed_s))
            over = options.minutes is not None and elapsed_s > 60 * options.minutes
            if over or all(peer.done for peer in peers):
                for peer in peers:
                    peer.poll(client, HISTORY_ROUNDS)
                return
            check_alive(peers)
            if elapsed_s > timeout_s:
                raise Failed(f"not finished after {timeout_s:.0f} s: {unfinished(peers)}")
            time.sleep(POLL_S)


def unfinished(peers: list[Peer]) -> str:
    late = [peer for peer in peers if not peer.done]
    return ", ".join(f"{peer.name} {row(peer, 0)[2]}" for peer in late)


def table(peers: list[Peer], options: Options, elapsed_s: float) -> Table:
    title = f"{options.protocol} · {options.task} · {options.nodes} nodes · {elapsed_s:.0f} s"
    view = Table(title=title, title_justify="left")
    for heading in ("node", "peer", "state", "round", "model", "accuracy", "sent MB", "links"):
        right = heading in ("round", "accuracy", "sent MB", "links")
        view.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for peer in peers:
        view.add_row(*row(peer, options.rounds))
    return view


def row(peer: Peer, rounds: int) -> list[str]:
    status = peer.status
    if status is None:
        return [peer.name, "", "starting", "", "", "", "", ""]
    learning = status.progress.learning
    accuracy = f"{learning.accuracy:.4f}" if learning and learning.accuracy is not None else ""
    return [
        peer.name,
        f"…{status.node.peer[-6:]}",
        status.progress.state,
        f"{status.progress.round}/{rounds}",
        (status.progress.head or "")[:8],
        accuracy,
        f"{status.traffic.wire_sent / 1e6:.1f}",
        str(sum(each.linked for each in status.peers)),
    ]


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


def duration_s(peers: list[Peer]) -> float:
    """Of all rounds, as the node that saw the most of them measured it."""
    return max((sum(each.seconds for each in peer.status.history) for peer in peers if peer.status), default=0.0)


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


def run(options: Options, keep: Path | None, timeout_s: float, central: bool, console: Console) -> Report:
    peers: list[Peer] = []
    with homes(keep) as root:
        if options.protocol == "onebyte":
            named = ",".join(f'"{peer}"' for peer in founders(root, options))
            options = dataclasses.replace(options, set=(f"onebyte.founders=[{named}]", *options.set))
        try:
            peers.append(start(root, 0, options, None))
            address = first_address(peers[0])
            console.print(f"first node at {address}", soft_wrap=True)
            peers.extend(start(root, index, options, address) for index in range(1, options.nodes))
            watch(peers, options, timeout_s, console)
        finally:
            if not console.is_terminal:
                console.print()  # the table has not ended its line
            late = stop(peers)
        if late:
            raise Failed(f"{', '.join(late)} did not stop within {STOP_S:.0f} s of Ctrl-C")
        statuses = {peer.name: peer.status for peer in peers if peer.status is not None}
        if not central:
            return report_of(statuses, duration_s(peers))
        from reference import central_accuracy  # torch is large

        return report_of(statuses, duration_s(peers), central_accuracy(statuses["node-0"]))


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=8, type=click.IntRange(1, 64), help="processes to start")
@click.option("--rounds", type=click.IntRange(1), help="rounds to train, with modest  [default: 30]")
@click.option("--steps", type=click.IntRange(1), help="steps to train, with onebyte  [default: 500]")
@click.option(
    "--protocol", default="modest", type=click.Choice(["modest", "onebyte", "gossip"]), help="how they train together"
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="with gossip, instead of --rounds")
@click.option("--init", type=click.Choice(["common", "different"]), help="with gossip: the nodes' first models")
@click.option("--speed", default="1", help="with gossip: how fast the nodes are, in turn, as 1,1,2,4")
@click.option("--task", default="mnist", help="what they learn")
@click.option("--seed", default=1, type=click.IntRange(0), help="of the initial model and the batch orders")
@click.option("--trainers", default=4, type=click.IntRange(1), help="trainers of a round")
@click.option("--aggregators", default=1, type=click.IntRange(1), help="aggregators of a round")
@click.option("--partition", default="iid", help="iid, dirichlet:ALPHA or labels")
@click.option("--encoding", default="float32", type=click.Choice(["float32", "bfloat16", "int8"]), help="of models")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any other key of the manifest")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="where to write the report")
@click.option("--keep", type=click.Path(path_type=Path), help="keep the homes and logs in this new folder")
@click.option("--timeout", "timeout_s", default=1200.0, help="seconds after which it has failed")
@click.option("--central/--no-central", default=True, help="train centrally on the same data for comparison")
def main(
    nodes: int,
    rounds: int | None,
    steps: int | None,
    protocol: str,
    minutes: float | None,
    init: str | None,
    speed: str,
    task: str,
    seed: int,
    trainers: int,
    aggregators: int,
    partition: str,
    encoding: str,
    settings: tuple[str, ...],
    json_path: Path | None,
    keep: Path | None,
    timeout_s: float,
    central: bool,
) -> None:
    """Run a swarm of real nodes on this machine and report on it."""
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stopped)
    sampled, most = min(trainers, nodes), min(trainers, nodes, aggregators)
    try:
        length, slowdowns = length_of(protocol, rounds, steps, minutes), tuple(slowdowns_of(speed))
        options = Options(
            nodes, length, protocol, task, seed, sampled, most, partition, encoding, settings, init, slowdowns, minutes
        )
        require_writable(json_path)
        report = run(options, keep, timeout_s, central, console)
        if json_path is not None:
            save(report, json_path)
    except (Failed, OperatorError) as failure:
        raise click.ClickException(str(failure)) from failure
    except Stopped as signalled:
        console.print("stopped, and every node with it")
        sys.exit(128 + signalled.args[0])
    for line in summary(report):
        console.print(line)
    if json_path is not None:
        console.print(f"report            {json_path}", soft_wrap=True)
    if protocol != "gossip" and not agreed(report):
        raise click.ClickException("the nodes do not hold the same model")


def stopped(number: int, frame: object) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    main()
