"""A testnet on this machine: real processes, real libp2p over loopback, no server. Shows a live table, writes a report.

Each node is `gossipnode start` in a home of its own; the first makes the manifest, the others are given its address and
find each other through it. On request some are killed, restarted or join in mid-run. Exit code 0: every node that is
alive at the end finished every round, and all hold the same model (in gossip, each has its own).
"""

from __future__ import annotations

import dataclasses
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import httpx
from lengths import length_of
from processes import POLL_S, STOP_S, Failed, Peer, check_alive, first_address, homes, kill, spawn, stop
from rich.console import Console
from rich.live import Live
from testnet_table import row, table

from gossipnode.adversaries.kinds import cast_of
from gossipnode.config import ranks_of, slowdowns_of
from gossipnode.errors import OperatorError
from gossipnode.events import Event, Join, Kill, Restart, option_events, require_possible
from gossipnode.home import Home
from gossipnode.identity import create_identity
from gossipnode.report import Report, agreed, report_of, require_writable, save, summary
from gossipnode.start import ADVERSARY
from gossipnode.status.report import HISTORY_ROUNDS

PROTOCOLS = ["modest", "onebyte", "gossip"]


@dataclasses.dataclass(frozen=True, slots=True)
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
    adversaries: tuple[str, ...]  # kinds of the last nodes
    events: Sequence[Event] = ()
    init: str | None = None  # of first models, in gossip
    slowdowns: Sequence[float] = (1.0,)  # of the nodes in turn, in gossip
    ranks: Sequence[int] = (0,)  # of what the nodes train of each adapter, in turn; 0: all
    minutes: float | None = None  # instead of rounds, in gossip

    def kind(self, index: int) -> str | None:
        """Of adversary; None: the node is honest."""
        hostile = index - self.nodes + len(self.adversaries)
        return self.adversaries[hostile] if 0 <= hostile < len(self.adversaries) else None


class Stopped(BaseException):
    """By a signal. Not an Exception: whatever is under way, it ends."""


def founders(root: Path, options: Options) -> list[str]:
    """All nodes of a one-byte run, so that each has a seat from the first step: their identities are made first."""
    homes = [Home(root / f"node-{index}") for index in range(options.nodes)]
    for home in homes:
        home.create()
    return [str(create_identity(home.identity).peer) for home in homes]


def start(root: Path, index: int, options: Options, peers: str | None) -> Peer:
    """Those that join later are given the data of an earlier one."""
    home = root / f"node-{index}"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "gossipnode", "start", "--home", str(home)]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0", "--threads", "1"]
    command += ["--shard", f"{index % options.nodes}/{options.nodes}", "--partition", options.partition]
    command += ["--slowdown", str(options.slowdowns[index % len(options.slowdowns)])]
    if rank := options.ranks[index % len(options.ranks)]:
        command += ["--rank", str(rank)]
    command += ["--peers", peers] if peers else _run_options(options)
    kind = options.kind(index)
    environment = {"OMP_NUM_THREADS": "1"} | ({} if kind is None else {ADVERSARY: kind})
    return Peer(f"node-{index}", home, spawn(home, command, signal.SIGTERM, **environment), kind=kind)


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


class Swarm:
    """The nodes that there are, and what is still to befall them."""

    def __init__(self, root: Path, options: Options, console: Console) -> None:
        self.peers: list[Peer] = []
        self._root = root
        self._options = options
        self._console = console
        self._due = sorted(options.events, key=lambda event: event.at_round or 0)
        self._rng = random.Random(options.seed)

    @property
    def living(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.killed]

    def begin(self) -> None:
        self.peers.append(start(self._root, 0, self._options, None))
        address = first_address(self.peers[0])
        self._console.print(f"first node at {address}", soft_wrap=True)
        self.peers += [start(self._root, index, self._options, address) for index in range(1, self._options.nodes)]

    def watch(self, timeout_s: float) -> None:
        """Until every node that is honest and alive has finished and evaluated the last model, or the minutes are
        over."""
        began = time.monotonic()
        with httpx.Client(timeout=5.0) as client, Live(console=self._console, refresh_per_second=4) as live:
            while True:
                for peer in self.living:
                    peer.poll(client)
                self._befall()
                elapsed_s = time.monotonic() - began
                live.update(table(self.peers, self._options, elapsed_s))
                if self._over(elapsed_s):
                    for peer in self.living:
                        peer.poll(client, HISTORY_ROUNDS)
                    return
                check_alive(self.living)
                if elapsed_s > timeout_s:
                    raise Failed(f"not finished after {timeout_s:.0f} s: {unfinished(self.living)}")
                time.sleep(POLL_S)

    def _over(self, elapsed_s: float) -> bool:
        if self._options.minutes is not None:
            return elapsed_s > 60 * self._options.minutes
        return not self._due and all(peer.done for peer in self.living if peer.kind is None)

    def _befall(self) -> None:
        reached = max((peer.status.progress.round for peer in self.living if peer.status), default=0)
        while self._due and (self._due[0].at_round or 0) <= reached:
            struck = self._strike(self._due.pop(0))
            self._console.print(f"round {reached}: {struck}")

    def _strike(self, event: Event) -> str:
        match event:
            case Kill():
                struck = self._rng.sample(self.living, min(self._count(event.nodes), len(self.living) - 1))
                kill(struck)
                for peer in struck:
                    peer.killed = True
                done = "killed"
            case Restart():
                away = [peer for peer in self.peers if peer.killed]
                struck = self._rng.sample(away, min(self._count(event.nodes), len(away)))
                for peer in struck:
                    peer.process, peer.killed = self._start(self.peers.index(peer)).process, False
                done = "restarted"
            case Join():
                struck = [self._start(len(self.peers) + number) for number in range(event.nodes)]
                self.peers += struck
                done = "joined"
            case _:
                raise AssertionError(f"no option makes a {event.kind}")
        return f"{done} {', '.join(peer.name for peer in struck)}"

    def _start(self, index: int) -> Peer:
        return start(self._root, index, self._options, first_address(self._rng.choice(self.living)))

    def _count(self, nodes: float) -> int:
        """A share of the living below 1."""
        return round(nodes * len(self.living)) if nodes < 1 else int(nodes)


def unfinished(peers: list[Peer]) -> str:
    late = [peer for peer in peers if not peer.done and peer.kind is None]
    return ", ".join(f"{peer.name} {row(peer, 0)[2]}" for peer in late)


def duration_s(peers: list[Peer]) -> float:
    """Of all rounds, as the node that saw the most of them measured it."""
    return max((sum(each.seconds for each in peer.status.history) for peer in peers if peer.status), default=0.0)


def run(options: Options, keep: Path | None, timeout_s: float, central: bool, console: Console) -> Report:
    with homes(keep) as root:
        if options.protocol == "onebyte":
            named = ",".join(f'"{peer}"' for peer in founders(root, options))
            options = dataclasses.replace(options, set=(f"onebyte.founders=[{named}]", *options.set))
        swarm = Swarm(root, options, console)
        try:
            swarm.begin()
            swarm.watch(timeout_s)
        finally:
            if not console.is_terminal:
                console.print()  # the table has not ended its line
            late = stop(swarm.peers)
        if late:
            raise Failed(f"{', '.join(late)} did not stop within {STOP_S:.0f} s of Ctrl-C")
        statuses = {peer.name: peer.status for peer in swarm.living if peer.status is not None}
        reference = None
        if central:
            from reference import central_accuracy  # torch is large

            reference = central_accuracy(next(iter(statuses.values())))
        hostile = {peer.name: peer.kind for peer in swarm.living if peer.kind is not None}
        return report_of(statuses, duration_s(swarm.living), reference, hostile)


def end_on_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stopped)


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=8, type=click.IntRange(1, 64), help="processes to start")
@click.option("--rounds", type=click.IntRange(1), help="rounds to train, with modest  [default: 30]")
@click.option("--steps", type=click.IntRange(1), help="steps to train, with onebyte  [default: 500]")
@click.option("--protocol", default="modest", type=click.Choice(PROTOCOLS), help="how they train together")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="with gossip, instead of --rounds")
@click.option("--init", type=click.Choice(["common", "different"]), help="with gossip: the nodes' first models")
@click.option("--speed", default="1", help="with gossip: how fast the nodes are, in turn, as 1,1,2,4")
@click.option(
    "--rank", default="", show_default="all", help="how much of each adapter the nodes train, in turn, as 2,4,8"
)
@click.option("--task", default="mnist", help="what they learn")
@click.option("--seed", default=1, type=click.IntRange(0), help="of the initial model and the batch orders")
@click.option("--trainers", default=4, type=click.IntRange(1), help="trainers of a round")
@click.option("--aggregators", default=1, type=click.IntRange(1), help="aggregators of a round")
@click.option("--partition", default="iid", help="iid, dirichlet:ALPHA or labels")
@click.option("--encoding", default="float32", type=click.Choice(["float32", "bfloat16", "int8"]), help="of models")
@click.option("--kill", multiple=True, metavar="NODES@ROUND", help="kill so many (or a share below 1) then")
@click.option("--restart", multiple=True, metavar="NODES@ROUND", help="so many of the killed come back then")
@click.option("--join", multiple=True, metavar="NODES@ROUND", help="so many new ones join then")
@click.option("--adversary", "adversaries", multiple=True, metavar="KIND:N", help="so many of the nodes are hostile")
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
    rank: str,
    task: str,
    seed: int,
    trainers: int,
    aggregators: int,
    partition: str,
    encoding: str,
    kill: tuple[str, ...],
    restart: tuple[str, ...],
    join: tuple[str, ...],
    adversaries: tuple[str, ...],
    settings: tuple[str, ...],
    json_path: Path | None,
    keep: Path | None,
    timeout_s: float,
    central: bool,
) -> None:
    """Run a swarm of real nodes on this machine and report on it."""
    console = Console()
    end_on_signals()
    length = length_of(protocol, rounds, steps, minutes)
    try:
        events = option_events(kill, join, restart)
        require_possible(events, "the testnet", length)
        require_writable(json_path)
        options = Options(
            nodes=nodes,
            rounds=length,
            protocol=protocol,
            task=task,
            seed=seed,
            trainers=min(trainers, nodes),
            aggregators=min(aggregators, trainers, nodes),
            partition=partition,
            encoding=encoding,
            set=settings,
            adversaries=cast_of(adversaries, nodes, protocol) if adversaries else (),
            events=events,
            init=init,
            slowdowns=slowdowns_of(speed),
            ranks=ranks_of(rank),
            minutes=minutes,
        )
        report = run(options, keep, timeout_s, central, console)
        if json_path is not None:
            save(report, json_path)
    except (Failed, OperatorError) as failure:
        raise click.ClickException(str(failure)) from failure
    except Stopped as signalled:
        console.print("stopped, and every node with it")
        sys.exit(128 + signalled.args[0])
    conclude(report, protocol, json_path, console)


def conclude(report: Report, protocol: str, json_path: Path | None, console: Console) -> None:
    for line in summary(report):
        console.print(line)
    if json_path is not None:
        console.print(f"report            {json_path}", soft_wrap=True)
    if protocol != "gossip" and not agreed(report):
        raise click.ClickException("the honest nodes do not hold the same model")


def stopped(number: int, frame: object) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    main()
