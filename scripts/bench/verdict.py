"""What a soak has seen, and whether that is what a swarm owes: one line a promise. Pure: times are arguments.

Growth is judged by a line fitted to what each life of a node used in the soak's last half, all lives together, each
about its own mean: a node that is started again begins small, and that is no decrease. A life's first WARM_S count for
nothing, for then libraries load and caches fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.figures import Spread
from bench.member import Sample

WARM_S: Final = 45.0
ENOUGH: Final = 60  # samples for a slope to mean anything
NEAR: Final = 2  # rounds behind the highest that count as current
CATCH_UP: Final = 3  # rounds that a node which comes back may take,
CATCH_UP_S: Final = 2.0  # or so long, where rounds take milliseconds
ROUNDS_KEPT: Final = 5000  # of digests

# Most that may be gained a minute. A node keeps the history of a thousand rounds, a kB or two each, so a young one
# gains what some hundred rounds take; and its links are few at first.
TOLERANCES: Final = {"memory, MiB": 1.0, "descriptors": 1.0, "threads": 0.5, "disk, MiB": 0.5}
USES: Final[dict[str, Callable[[Sample], float]]] = {
    "memory, MiB": lambda sample: sample.private_mib,
    "descriptors": lambda sample: sample.descriptors,
    "threads": lambda sample: sample.threads,
    "disk, MiB": lambda sample: sample.disk_mib,
}


@dataclass(frozen=True, slots=True)
class Return:
    """A member that came back. Rounds and seconds from its first word to its being current."""

    member: str
    fault: str
    rounds: int
    seconds: float
    start_s: float  # from its start to its first word: loading, mostly

    @property
    def in_time(self) -> bool:
        return self.rounds <= CATCH_UP or self.seconds <= CATCH_UP_S


@dataclass(slots=True)
class Seen:
    """All that a soak remembers."""

    highest: int = 0
    advanced_at: float = 0.0
    pause_s: float = 0.0  # longest without a new round
    pause_at: float = 0.0
    pause_why: str = ""  # what was being done to whom in it
    digests: dict[int, dict[str, str]] = field(default_factory=dict)  # by round, then member
    offences: set[str] = field(default_factory=set)
    warnings: dict[str, int] = field(default_factory=dict)
    returns: list[Return] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)  # promises broken on the way
    samples: list[Sample] = field(default_factory=list)

    def advanced(self, round: int, now_s: float, faults: str) -> None:
        """Somebody says that the run has come so far; `faults`: what is being done to whom."""
        if now_s - self.advanced_at > self.pause_s:
            self.pause_s, self.pause_at, self.pause_why = now_s - self.advanced_at, self.advanced_at, faults
        if round > self.highest:
            self.highest, self.advanced_at = round, now_s

    def learnt(self, member: str, round: int, digest: str) -> None:
        self.digests.setdefault(round, {})[member] = digest
        if len(self.digests) > ROUNDS_KEPT:
            del self.digests[min(self.digests)]

    def forks(self) -> list[int]:
        return sorted(round for round, by_member in self.digests.items() if len(set(by_member.values())) > 1)


@dataclass(frozen=True, slots=True)
class Check:
    """A promise. `held` is None where too little was seen to say."""

    promise: str
    held: bool | None
    line: str


def checks(seen: Seen, lags: dict[str, int], tracebacks: Sequence[str], pause_s: float, lasted_s: float) -> list[Check]:
    """`lags`: rounds behind the highest, of each survivor at the end. `pause_s`: the longest allowed."""
    behind = {name: lag for name, lag in lags.items() if lag > NEAR}
    return [
        Check(
            "every survivor is current",
            not behind,
            _named(behind, "behind") or f"all {len(lags)} within {NEAR} rounds of {seen.highest}",
        ),
        _agreement(seen, set(lags)),
        Check("rounds keep coming", seen.highest > 0 and seen.pause_s <= pause_s, _pause(seen)),
        _catching_up(seen.returns),
        *(_flat(seen.samples, what, lasted_s) for what in TOLERANCES),
        Check("no traceback", not tracebacks, _few(tracebacks) or "in no log"),
        Check("no offences among the honest", not seen.offences, _few(sorted(seen.offences)) or "none"),
        Check(
            "nothing else broke",
            not seen.findings,
            _few(seen.findings) or "no node ended, hung or left a worker behind",
        ),
    ]


def _agreement(seen: Seen, members: set[str]) -> Check:
    """The last round of which every survivor has named its digest, and how often two differed on the way."""
    common = max((round for round, named in seen.digests.items() if members <= named.keys()), default=None)
    forks = seen.forks()
    if common is None:
        return Check("same model", None, "no round that every survivor has named")
    held = {seen.digests[common][name] for name in members}
    on_the_way = f"; {len(forks)} of {len(seen.digests)} rounds had two" + (f", {forks[0]} first" if forks else "")
    return Check("same model", len(held) == 1, f"round {common}: {len(held)} distinct{on_the_way}")


def _pause(seen: Seen) -> str:
    why = f" ({seen.pause_why})" if seen.pause_why else ""
    return f"{seen.highest} rounds; longest pause {seen.pause_s:.1f} s, {seen.pause_at:.0f} s after the start{why}"


def _catching_up(returns: Sequence[Return]) -> Check:
    if not returns:
        return Check("whoever returns catches up", None, "nobody returned")
    rounds = Spread.of(each.rounds for each in returns)
    seconds = Spread.of(each.seconds for each in returns)
    late = [f"{each.member} after {each.fault}: {each.rounds} rounds" for each in returns if not each.in_time]
    line = f"rounds {rounds.text(0)}; seconds {seconds.text(1)}" + (f"; {_few(late)}" if late else "")
    return Check("whoever returns catches up", not late, line)


def _flat(samples: Iterable[Sample], what: str, lasted_s: float) -> Check:
    late = [sample for sample in samples if sample.at_s > lasted_s / 2 and sample.age_s > WARM_S]
    promise = f"{what.partition(',')[0]} is flat"
    if len(late) < ENOUGH:
        return Check(promise, None, f"{len(late)} samples of warm nodes in the last half, {ENOUGH} are needed")
    use = USES[what]
    gained, most = 60 * slope(late, use), TOLERANCES[what]
    spread = Spread.of(map(use, late))
    return Check(
        promise,
        gained <= most,
        f"{gained:+.3f} a minute, at most {most:g} allowed; {spread.text(0)} {what.partition(', ')[2]}",
    )


def slope(samples: Sequence[Sample], use: Callable[[Sample], float]) -> float:
    """Gained a second, by least squares, each life about its own mean. 0 if no life was seen twice."""
    lives: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        lives.setdefault((sample.member, sample.life), []).append(sample)
    above = below = 0.0
    for life in lives.values():
        middle = sum(each.age_s for each in life) / len(life)
        mean = sum(map(use, life)) / len(life)
        above += sum((each.age_s - middle) * (use(each) - mean) for each in life)
        below += sum((each.age_s - middle) ** 2 for each in life)
    return above / below if below else 0.0


def _named(of: dict[str, int], word: str) -> str:
    return ", ".join(f"{name} {count} {word}" for name, count in sorted(of.items()))


def _few(lines: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
