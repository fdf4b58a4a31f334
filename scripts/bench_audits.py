"""What audits cost a swarm in which everybody is honest: trainings, merges and bytes beside those of the rounds.

Every seed is played twice on the simulated network, with `audit.fraction` as asked and with 0. Compute is counted
(trainings, merges, signatures, each times the seconds that one takes here, medians of all), because the time of a whole
simulation is mostly that of twenty nodes' talk, which is given too. Bytes are those that the simulated network charges,
start-up included; by kind: frames as they are sent, each times its receivers, without what the transport adds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, TypeVar

import click
import msgspec
from bench.figures import Aim, Findings, environment, tell
from rich.console import Console

from gossipnode.adversaries.bent import bend, bent
from gossipnode.conduct import Conduct
from gossipnode.members import Member
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.newrun import settings_tables
from gossipnode.scenario import Setting, scenario_of, setting_of
from gossipnode.simulated_log import logged
from gossipnode.simulation import Swarm
from gossipnode.sweep import seeds_of
from protocols import wire
from protocols.transport import Transport
from sampling.peers import PeerId

T = TypeVar("T")
WORK: Final = ("train", "merge", "signature")  # of an engine


@dataclass(slots=True)
class Spent:
    """By one run."""

    rounds: int = 0
    calls: Counter[str] = field(default_factory=Counter)  # of the engine; "replay" is part of "train"
    took_s: dict[str, list[float]] = field(default_factory=lambda: {what: [] for what in WORK})  # CPU, each
    frames: Counter[str] = field(default_factory=Counter)  # bytes by kind
    audits: int = 0
    wire: int = 0
    models: int = 0  # of `wire`, model bytes
    process_s: float = 0.0  # CPU

    def timed(self, what: str, work: Callable[..., T]) -> Callable[..., T]:
        def run(*args: Any, **named: Any) -> T:  # noqa: ANN401 - whatever it takes
            began = time.process_time()
            result = work(*args, **named)
            self.took_s[what].append(time.process_time() - began)
            self.calls[what] += 1
            return result

        return run

    def counted(self, what: str, work: Callable[..., T]) -> Callable[..., T]:
        def run(*args: Any) -> T:  # noqa: ANN401 - as above
            self.calls[what] += 1
            return work(*args)

        return run

    def note(self, frame: bytes, receivers: int = 1) -> None:
        self.frames[type(wire.decode(frame)).__name__] += len(frame) * receivers


class Weighed(Swarm):
    """A swarm whose work and words are counted."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(scenario_of(setting), lambda tick: None)
        self.spent, engine = Spent(), self.compute.engine
        bend(engine, **{what: self.spent.timed(what, getattr(engine, what)) for what in WORK})
        bend(self.compute, others=self.spent.counted("replay", self.compute.others))

    def _machine(self, index: int, bootstrap: Sequence[str]) -> Member:
        member = super()._machine(index, bootstrap)
        member.conduct = Conduct(transport=self._listened)
        return member

    def _listened(self, honest: Transport) -> Transport:
        async def publish(topic: str, frame: bytes) -> None:
            self.spent.note(frame, len(self.members) - 1)
            await honest.publish(topic, frame)

        async def request(peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
            self.spent.note(frame)
            answer = await honest.request(peer, frame, timeout_s=timeout_s)
            self.spent.note(answer)
            return answer

        return bent(honest, publish=publish, request=request)


def spent(setting: Setting) -> Spent:
    began = time.process_time()
    swarm = Weighed(setting)
    with logged(None):
        report, _ = run_deterministic(swarm.run, seed=setting.seed)
    found = swarm.spent
    found.rounds, found.wire, found.models = report.rounds, report.bytes.wire_total, report.bytes.model_payload
    found.process_s = time.process_time() - began
    figures = [life.node.protocol.audits for member in swarm.members for life in member.lives]
    found.audits = sum(each.audited for each in figures if each is not None)
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """One seed, with audits and without."""

    seed: int
    audited: Spent
    plain: Spent

    def compute(self, one_s: dict[str, float]) -> float:
        """More than without audits."""
        work = [sum(each.calls[what] * one_s[what] for what in WORK) for each in (self.audited, self.plain)]
        return work[0] / work[1] - 1

    @property
    def bytes(self) -> float:
        return self.audited.wire / self.plain.wire - 1

    def line(self) -> str:
        calls, before = self.audited.calls, self.plain.calls
        return (
            f"seed {self.seed}: {self.audited.audits} audits: {calls['replay']} replays beside {before['train']} "
            f"trainings, {calls['merge'] - before['merge']:+} merges beside {before['merge']}; "
            f"bytes {self.bytes:+.1%} (models {self.audited.models / self.plain.models - 1:+.1%}, all else "
            f"{(self.audited.wire - self.audited.models) / (self.plain.wire - self.plain.models) - 1:+.1%})"
        )


def by_kind(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Where the bytes go: a round's, of all nodes, with audits and without."""
    rounds = sum(pair.audited.rounds for pair in pairs)
    totals = [sum((each.frames for each in some), Counter[str]()) for some in _both(pairs)]
    totals[0]["model bytes"], totals[1]["model bytes"] = [sum(each.models for each in some) for some in _both(pairs)]
    most = sorted(totals[0], key=lambda kind: -abs(totals[0][kind] - totals[1][kind]))[:8]
    return [
        (kind, f"{totals[0][kind] / rounds:,.0f} bytes a round, without {totals[1][kind] / rounds:,.0f}")
        for kind in most
    ]


def _both(pairs: Sequence[Pair]) -> tuple[list[Spent], list[Spent]]:
    return [pair.audited for pair in pairs], [pair.plain for pair in pairs]


def findings(pairs: Sequence[Pair], name: str) -> Findings:
    timed = {
        what: [s for pair in pairs for some in (pair.audited, pair.plain) for s in some.took_s[what]] for what in WORK
    }
    one_s = {what: median(took) if took else 0.0 for what, took in timed.items()}
    compute, wire_bytes = [pair.compute(one_s) for pair in pairs], [pair.bytes for pair in pairs]
    process = [1000 * sum(each.process_s for each in some) / sum(each.rounds for each in some) for some in _both(pairs)]
    rows = [
        *((f"one {what}", f"{1000 * took:.2f} ms") for what, took in one_s.items()),
        ("compute of each seed", ", ".join(f"{each:+.1%}" for each in compute)),
        ("bytes of each seed", ", ".join(f"{each:+.1%}" for each in wire_bytes)),
        ("CPU of all nodes for a round, talk and all", f"{process[0]:.1f} ms, without {process[1]:.1f}"),
        *by_kind(pairs),
    ]
    figures = {"one_s": one_s, "compute": compute, "bytes": wire_bytes, "pairs": msgspec.to_builtins(pairs)}
    aims = [
        Aim(f"{name}: more compute, mean of the seeds", fmean(compute), 0.10),
        Aim(f"{name}: more bytes, mean of the seeds", fmean(wire_bytes), 0.05),
    ]
    return Findings("audits", rows, figures, aims)


@click.command(context_settings={"show_default": True})
@click.option("--nodes", default=20)
@click.option("--rounds", default=60)
@click.option("--seeds", default="0:5", help="A:B")
@click.option("--task", default="digits", help="bench.broad:W1024 has 76,810 parameters in place of 4,810")
@click.option("--fraction", default=0.04, help="of claims that are audited")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(seeds: str, fraction: float, settings: tuple[str, ...], json_path: Path | None, **asked: object) -> None:
    """Play every seed with audits and without."""
    where, pairs = environment(), []
    spent(setting_of(None, {**asked, "rounds": 2}, settings_tables((*settings, "audit.fraction=1"))))  # warms up
    for seed in seeds_of(seeds):
        some = [
            spent(setting_of(None, {**asked, "seed": seed}, settings_tables((*settings, f"audit.fraction={each}"))))
            for each in (fraction, 0.0)
        ]
        pairs.append(Pair(seed, *some))
        print(pairs[-1].line(), flush=True)
    tell(findings(pairs, str(asked["task"])), where, Console(soft_wrap=True), json_path)


if __name__ == "__main__":
    main()
