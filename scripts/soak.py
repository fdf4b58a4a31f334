"""A soak: real nodes train for a long time while they are killed, frozen, restarted and robbed of their workers.

Every --kill-every seconds one seeded fault befalls nodes that are well at the time, never more than --down of them at
once. It ends with a verdict, one line a promise (`bench.verdict`), and its exit code: 0 if none was broken. Ctrl-C ends
it early with the verdict so far. However it ends, its nodes end with it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import httpx
import trio
from bench import faults
from bench.figures import environment
from bench.member import Member
from bench.verdict import NEAR, Check, Return, Seen, checks
from processes import Failed, homes
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gossipnode.status.report import Status

ROUNDS = 10**9  # more than any soak sees
POLL_S = 0.4  # each member is asked so often how far it is
SAMPLE_S = 5.0
START_S = 180.0  # for all to have joined at first
RETURN_S = 90.0  # for one that comes back
STORE_BYTES = 32 * 2**20  # small, so that eviction is at work and the disk is full of models soon
TOLD = 2  # peers whose addresses a restarted node is given, if any


@dataclass(frozen=True, slots=True)
class Options:
    nodes: int
    minutes: float
    kill_every: float
    down: float
    task: str
    seed: int
    pause: float
    settings: tuple[str, ...]

    @property
    def most_down(self) -> int:
        return int(self.nodes * self.down + 1e-9)


@dataclass(slots=True, eq=False)
class Soak:
    options: Options
    members: list[Member]
    console: Console
    rng: random.Random
    seen: Seen = field(default_factory=Seen)
    began_at: float = 0.0
    last: str = ""

    @property
    def now_s(self) -> float:
        return trio.current_time() - self.began_at

    # -- the course of it ---------------------------------------------------------------------------------------------

    async def run(self) -> list[Check]:
        async with trio.open_nursery() as nursery, httpx.AsyncClient(timeout=5.0) as client:
            over = trio.CancelScope()
            nursery.start_soon(self._until_signal, over)
            nursery.start_soon(self._show)
            with over:
                await self._begin(client)
                for member in self.members:
                    nursery.start_soon(self._follow, member, client)
                nursery.start_soon(self._measure)
                await self._suffer()
                await self._all_well()
            lags = {member.name: member.lag for member in self.members if not member.fault}
            lasted_s = self.now_s
            if not over.cancelled_caught:
                await self._end()
            nursery.cancel_scope.cancel()
        return checks(self.seen, lags, self._tracebacks(), self.options.pause, lasted_s)

    async def _begin(self, client: httpx.AsyncClient) -> None:
        """All have joined; the clock starts then."""
        first, *others = self.members
        first.start([])
        with trio.move_on_after(START_S):
            while (found := first.addresses()) is None:
                self._require_alive(first)
                await trio.sleep(0.1)
            for member in others:
                member.start([found[0]])
            while not all([(await each.poll(client)) is not None and each.round >= 0 for each in self.members]):
                for member in self.members:
                    self._require_alive(member)
                await trio.sleep(POLL_S)
            self.began_at = trio.current_time()
            return
        raise Failed(f"not all nodes have joined after {START_S:.0f} s")

    def _require_alive(self, member: Member) -> None:
        if not member.alive:
            raise Failed(f"{member.name} ended at its start: {(member.log().splitlines() or ['it said nothing'])[-1]}")

    async def _suffer(self) -> None:
        """Faults until the time is over. Each is waited for in a task of its own."""
        with trio.move_on_after(60 * self.options.minutes):
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(self.options.kill_every)
                    while (drawn := self._draw()) is None:  # noqa: ASYNC110 - polls are our only events
                        await trio.sleep(POLL_S)
                    self.seen.faults[drawn.kind] = self.seen.faults.get(drawn.kind, 0) + 1
                    self._say(f"{drawn.kind}: {', '.join(each.name for each in drawn.victims)}")
                    for member, seconds in zip(drawn.victims, drawn.seconds, strict=True):
                        member.fault = drawn.kind
                        nursery.start_soon(self._befall, member, drawn.kind, seconds)

    def _draw(self) -> faults.Draw | None:
        well = [member for member in self.members if not member.fault]
        return faults.draw(self.rng, well, self.options.most_down - (len(self.members) - len(well)))

    async def _befall(self, member: Member, kind: str, seconds: float) -> None:
        with trio.CancelScope(shield=True):  # a fault that has begun is seen to its end
            await faults.KINDS[kind](member, seconds, self._peers, self.seen.findings.append)
            await self._returned(member, kind)
            member.fault = ""

    def _peers(self, member: Member) -> Sequence[str]:
        """Half of those who come back are told where others are, the other half have to remember."""
        known = [
            found[0] for each in self.members if each is not member and not each.fault and (found := each.addresses())
        ]
        remembers = (member.home / "manifest.toml").exists() and any((member.home / "state").glob("state.*"))
        return [] if remembers and self.rng.random() < 0.5 else self.rng.sample(known, min(TOLD, len(known)))

    async def _returned(self, member: Member, kind: str) -> None:
        """Until it is current again; how many rounds went by meanwhile is written down."""
        began = trio.current_time()
        with trio.move_on_after(RETURN_S):
            await self._word_of(member)
            first_at, first = trio.current_time(), self.seen.highest
            while True:
                before = self.seen.highest
                if (await self._word_of(member)).progress.round >= before - NEAR:
                    break
            took_s, start_s = trio.current_time() - first_at, first_at - began
            return self.seen.returns.append(Return(member.name, kind, before - first, took_s, start_s))
        self.seen.findings.append(f"{member.name} was not current {RETURN_S:.0f} s after its return ({kind})")

    async def _word_of(self, member: Member) -> Status:
        """Its next status, once it has joined."""
        member.status = None
        while member.status is None or not member.status.node.joined:  # noqa: ASYNC110 - likewise
            await trio.sleep(POLL_S / 4)
        return member.status

    async def _all_well(self) -> None:
        """No more faults: whoever was down is back. Then each is asked once more."""
        for member in self.members:
            member.status = None
        with trio.move_on_after(RETURN_S):
            while any(member.status is None or member.lag > NEAR for member in self.members):  # noqa: ASYNC110 - likewise
                await trio.sleep(POLL_S)

    async def _end(self) -> None:
        """A soak that ran its time asks each node to stop, and looks how it does."""
        for member in self.members:
            member.fault = member.fault or "the end"
            member.signal(signal.SIGINT)
        for member in self.members:
            if (code := await member.ended(10.0)) != 0:
                self.seen.findings.append(
                    f"{member.name} " + ("did not stop" if code is None else f"ended with {code}")
                )

    async def _until_signal(self, over: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for _ in signals:
                if over.cancel_called:
                    raise Failed("stopped, and every node with it")
                self._say("stopping; once more for no verdict")
                over.cancel()

    # -- watching -----------------------------------------------------------------------------------------------------

    async def _follow(self, member: Member, client: httpx.AsyncClient) -> None:
        while True:
            before = self.seen.highest
            if member.alive and await member.poll(client) is not None:
                self._note(member)
            member.lag = max(0, before - member.round)
            self.seen.advanced(max(before, member.round), self.now_s, self._afflicted())
            if not member.alive and not member.fault:
                await self._fell(member)
            await trio.sleep(POLL_S * self.rng.uniform(0.8, 1.2))

    def _note(self, member: Member) -> None:
        status = member.status
        assert status is not None
        for entry in status.history:
            self.seen.learnt(member.name, entry.round, entry.digest)
        self.seen.offences |= {
            f"{each.peer[-6:]}: {each.kind}: {each.detail} (says {member.name})" for each in status.offences
        }
        for warning in status.warnings:
            self.seen.warnings[warning] = self.seen.warnings.get(warning, 0) + 1

    async def _fell(self, member: Member) -> None:
        """A node that ended though nobody touched it: a finding, and the soak goes on."""
        assert member.process is not None
        last = (member.log().splitlines() or ["nothing"])[-1]
        self.seen.findings.append(f"{member.name} ended with {member.process.poll()}, saying: {last[:200]}")
        member.fault = "fell"
        member.start(self._peers(member))
        await trio.sleep(5.0)
        member.fault = ""

    def _afflicted(self) -> str:
        return ", ".join(f"{each.name} {each.fault}" for each in self.members if each.fault)

    async def _measure(self) -> None:
        while True:
            for member in self.members:
                if member.alive and not member.fault:
                    now = trio.current_time()
                    sample = await trio.to_thread.run_sync(member.measure, now, self.began_at)
                    self.seen.samples += [sample] if sample else []
            await trio.sleep(SAMPLE_S)

    def _tracebacks(self) -> list[str]:
        found = [f"{each.name}: {each.home / 'log.txt'}" for each in self.members if "Traceback (most" in each.log()]
        return found + [f"{each.name} left workers behind: {each.orphans}" for each in self.members if each.orphans]

    # -- telling ------------------------------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        self.last = f"{self.now_s:6.0f} s  {line}" if self.began_at else line
        if not self.console.is_terminal:
            self.console.print(f"{self.last}  [round {self.seen.highest}]", markup=False, highlight=False)

    async def _show(self) -> None:
        if not self.console.is_terminal:
            return
        with Live(console=self.console, auto_refresh=False) as live:
            while True:
                live.update(self.table(), refresh=True)
                await trio.sleep(0.5)

    def table(self) -> Table:
        at = f"{self.now_s:.0f} of {60 * self.options.minutes:.0f} s" if self.began_at else "starting"
        title = (
            f"soak · {self.options.task} · {at} · round {self.seen.highest} · longest pause {self.seen.pause_s:.1f} s"
        )
        view = Table(title=title, title_justify="left", caption=self.last, caption_justify="left")
        for heading in ("node", "fault", "life", "round", "private MiB", "PSS MiB", "files", "threads", "disk MiB"):
            view.add_column(heading, justify="left" if heading in ("node", "fault") else "right", no_wrap=True)
        for member in self.members:
            view.add_row(*_row(member))
        return view


def _row(member: Member) -> list[str]:
    row = [member.name, member.fault, str(member.lives), str(member.round) if member.round >= 0 else ""]
    if (sample := member.sample) is None:
        return [*row, "", "", "", "", ""]
    used = [f"{sample.private_mib:.0f}", f"{sample.pss_mib:.0f}", str(sample.descriptors), str(sample.threads)]
    return [*row, *used, f"{sample.disk_mib:.1f}"]


def made(root: Path, options: Options) -> list[Member]:
    members = []
    for index in range(options.nodes):
        home = root / f"node-{index}"
        home.mkdir()
        (home / "config.toml").write_text(f"store_max_bytes = {STORE_BYTES}\n")
        own = ["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0", "--shard", f"{index}/{options.nodes}"]
        settings = [f"seed={options.seed}", f"start_peers={options.nodes}", *options.settings]
        run = ["--task", options.task, "--rounds", str(ROUNDS), *(w for each in settings for w in ("--set", each))]
        members.append(Member(f"node-{index}", home, [*own, *run] if index == 0 else own))
    return members


def soaked(options: Options, keep: Path | None, console: Console) -> tuple[Soak, list[Check]]:
    with homes(keep) as root:
        members = made(root, options)
        soak = Soak(options, members, console, random.Random(options.seed))
        try:
            found = trio.run(soak.run)
        except* Failed as failures:
            raise Failed(str(failures.exceptions[0])) from None
        finally:
            for member in members:
                member.destroy()
        return soak, found


def tell(soak: Soak, found: list[Check], console: Console) -> None:
    verdict = Table(title="verdict", title_justify="left", show_header=False)
    for each in found:
        verdict.add_row({True: "kept", False: "BROKEN", None: "unknown"}[each.held], each.promise, each.line)
    console.print(verdict)
    befallen = ", ".join(f"{count} x {kind}" for kind, count in sorted(soak.seen.faults.items()))
    console.print(f"faults: {befallen or 'none'}; {len(soak.seen.returns)} returns", highlight=False)
    for warning, times in sorted(soak.seen.warnings.items()):
        console.print(f"seen {times} times: {warning}", markup=False, highlight=False)


def save(soak: Soak, found: list[Check], path: Path) -> None:
    seen = soak.seen
    whole = {
        "soak": asdict(soak.options),
        "environment": {**environment(), "load_after": os.getloadavg()[0]},
        "checks": [asdict(each) for each in found],
        "faults": seen.faults,
        "returns": [asdict(each) for each in seen.returns],
        "warnings": seen.warnings,
        "samples": [asdict(each) for each in seen.samples],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=8, type=click.IntRange(3, 64), help="processes to start")
@click.option("--minutes", default=30.0, type=click.FloatRange(0, min_open=True), help="how long faults go on")
@click.option("--kill-every", default=20.0, type=click.FloatRange(0.1), help="seconds between two faults")
@click.option("--down", default=1 / 3, type=click.FloatRange(0, 1), help="most that may be faulty at once, as a share")
@click.option("--task", default="mnist-mlp", help="what they learn")
@click.option("--seed", default=1, type=click.IntRange(0), help="of the faults and of the training")
@click.option("--pause", default=60.0, type=click.FloatRange(0), help="longest time without a round that is allowed, s")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="where to write what was seen"
)
@click.option("--keep", type=click.Path(path_type=Path), help="keep the homes and logs in this new folder")
def main(
    nodes: int,
    minutes: float,
    kill_every: float,
    down: float,
    task: str,
    seed: int,
    pause: float,
    settings: tuple[str, ...],
    json_path: Path | None,
    keep: Path | None,
) -> None:
    """Let real nodes suffer on this machine, and judge what becomes of them."""
    console = Console()
    options = Options(nodes, minutes, kill_every, down, task, seed, pause, settings)
    try:
        soak, found = soaked(options, keep, console)
    except Failed as failure:
        raise click.ClickException(str(failure)) from failure
    tell(soak, found, console)
    if json_path is not None:
        save(soak, found, json_path)
    sys.exit(any(each.held is False for each in found))


if __name__ == "__main__":
    main()
