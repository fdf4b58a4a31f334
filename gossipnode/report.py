"""The report of a run: the same keys whether real processes or a simulated swarm took part, and whatever the protocol.

`minimum_per_round` is what the rounds themselves cannot do without: each trainer's model to each aggregator, and the
aggregate to each trainer of the next round, where sender and receiver are different nodes; in one-byte training, each
scalar's byte to each other node; gossip, in which each node has rounds of its own, has none. Everything else
(handshakes, views, gossip, framing, encryption, what nodes outside the committee fetch) is overhead and shows in
`ratio`.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict

import msgspec

from gossipnode.errors import OperatorError, reason
from gossipnode.status.report import OffenceStatus, RoundStatus, Status

SHUNNED: Final = ("quarantined", "suspended", "expelled")


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Of the final model, on each node's held-out data."""

    mean: float
    min: float
    max: float
    per_node: dict[str, float]
    central: float | None = None  # the same task trained in one place on all the data, if that was asked for


class Bytes(msgspec.Struct, frozen=True, kw_only=True):
    wire_total: int  # sent by all nodes, start-up included
    model_payload: int  # of them, model bytes
    per_round: float  # wire bytes of an average round after the first
    minimum_per_round: float
    ratio: float  # per_round / minimum_per_round
    scalars: int | None = None  # one-byte training: projected gradients that all nodes published, a byte each
    per_scalar: float | None = None  # wire_total for each of them


class Digests(msgspec.Struct, frozen=True, kw_only=True):
    """Of the models that the nodes hold at the end."""

    agreeing: int  # nodes that hold the most common one
    distinct: int


class ChainOf(msgspec.Struct, frozen=True, kw_only=True):
    """Of one-byte training: the least of what the nodes have, and the sum of what they did."""

    height: int
    certified_height: int
    final: int  # nodes whose status says that certification keeps up
    reorganisations: int
    dropped: dict[str, str]  # by node: the last branch that it left, in words


class CommitteeOf(msgspec.Struct, frozen=True, kw_only=True):
    round: int
    trainers: list[str]  # whose models were merged
    aggregators: list[str]


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    """An adversary that honest nodes hold in quarantine or have expelled."""

    peer: str
    kind: str  # of adversary
    round: int  # of the first claim, or offence, that speaks against it
    evidence: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy, digests and offences are those of the honest nodes, all others of every node."""

    protocol: str
    task: str
    nodes: int
    rounds: int
    seconds: float  # from the first round's start to the last one's end
    seconds_per_round: float  # median
    accuracy: Accuracy
    bytes: Bytes
    digests: Digests
    committees: list[CommitteeOf]
    offences: list[OffenceStatus]
    adversaries: dict[str, str] = {}  # kind by peer
    caught: list[Caught] = []
    expelled: list[str] = []  # peers that every honest node who knows them has expelled
    falsely_expelled: list[str] = []  # honest peers that some honest node has expelled
    missed: list[str] = []  # adversaries that are not caught


def report_of(
    statuses: Mapping[str, Status],
    seconds: float,
    central: float | None = None,
    adversaries: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """`statuses` by node name, taken when the run was over; `adversaries`: their kinds by node name. Raises ValueError
    if no node knows of a run."""
    honest = {name: status for name, status in statuses.items() if name not in adversaries}
    hostile = {statuses[name].node.peer: kind for name, kind in adversaries.items() if name in statuses}
    runs = [status.run for status in statuses.values() if status.run is not None]
    if not runs:
        raise ValueError("no node has joined a run")
    rounds = _rounds(statuses.values())
    durations = [each.seconds for status in statuses.values() for each in status.history if each.seconds > 0]
    return Report(
        protocol=runs[0].protocol,
        task=runs[0].task,
        nodes=len(statuses),
        rounds=max(rounds, default=0),
        seconds=seconds,
        seconds_per_round=statistics.median(durations) if durations else seconds,
        accuracy=_accuracy(honest, central),
        bytes=_bytes(
            list(statuses.values()),
            rounds,
            runs[0].manifest["model_bytes"],
            in_rounds=runs[0].protocol != "gossip",
        ),
        digests=_digests([status.progress.head for status in honest.values()]),
        committees=[_committee(each) for each in rounds.values()],
        offences=[offence for status in honest.values() for offence in status.offences],
        adversaries=hostile,
        **_judged(list(honest.values()), hostile),
    )


def chain_of(statuses: Mapping[str, Status]) -> ChainOf | None:
    chains = {name: status.chain for name, status in statuses.items() if status.chain is not None}
    if not chains:
        return None
    return ChainOf(
        height=min(chain.height for chain in chains.values()),
        certified_height=min(chain.certified_height for chain in chains.values()),
        final=sum(chain.final for chain in chains.values()),
        reorganisations=sum(chain.reorganisations for chain in chains.values()),
        dropped={name: chain.dropped_branch for name, chain in chains.items() if chain.dropped_branch is not None},
    )


def summary(report: Report) -> list[str]:
    """For a person, a line each."""
    accuracy, data, digests = report.accuracy, report.bytes, report.digests
    honest = report.nodes - len(report.adversaries)
    central = [] if accuracy.central is None else [f"central training  {accuracy.central:.4f} on the same data"]
    ratio = f", {data.ratio:.2f} of the minimum" if math.isfinite(data.ratio) else ""
    return [
        f"rounds            {report.rounds} in {report.seconds:.1f} s, {report.seconds_per_round:.2f} s each (median)",
        f"accuracy          mean {accuracy.mean:.4f}, min {accuracy.min:.4f}, max {accuracy.max:.4f}",
        *central,
        *_scalars(data),
        f"traffic           {data.wire_total / 1e6:.1f} MB in all; {data.per_round / 1e6:.3f} MB a round{ratio}",
        f"models            {digests.agreeing} of {honest} nodes hold the same, {digests.distinct} distinct",
        f"offences          {len(report.offences)}",
        *_adversaries(report),
    ]


def _adversaries(report: Report) -> list[str]:
    if not report.adversaries:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(report.adversaries.values()).items()))
    caught = f"{len(report.caught)} caught, {len(set(report.expelled) & report.adversaries.keys())} expelled"
    return [f"adversaries       {kinds}: {caught}, {len(report.falsely_expelled)} honest expelled"]


def _scalars(data: Bytes) -> list[str]:
    if data.scalars is None or data.per_scalar is None:
        return []
    return [f"scalars           {data.scalars}, {data.per_scalar:.1f} bytes on the wire for each"]


def agreed(report: Report) -> bool:
    """Every honest node holds the same model."""
    return report.digests.distinct == 1 and report.digests.agreeing == report.nodes - len(report.adversaries)


def require_writable(path: Path | None, option: str = "--json") -> None:
    """Said before the run, not after it. Raises OperatorError."""
    if path is not None and not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise OperatorError(f"{option} {path}: no file can be written there")


def save(report: Report, path: Path) -> None:
    """Raises OperatorError."""
    try:
        path.write_bytes(encode(report))
    except OSError as error:
        raise OperatorError(f"--json {path}: cannot be written: {reason(error)}") from error


def encode(report: Report) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _rounds(statuses: Iterable[Status]) -> dict[int, RoundStatus]:
    found = {each.round: each for status in statuses for each in status.history}
    return dict(sorted(found.items()))


def _accuracy(statuses: Mapping[str, Status], central: float | None) -> Accuracy:
    learned = {name: status.progress.learning for name, status in statuses.items()}
    per_node = {name: each.accuracy for name, each in learned.items() if each and each.accuracy is not None}
    values = list(per_node.values()) or [math.nan]
    return Accuracy(mean=statistics.fmean(values), min=min(values), max=max(values), per_node=per_node, central=central)


def _bytes(
    statuses: Sequence[Status], rounds: Mapping[int, RoundStatus], model_bytes: int, *, in_rounds: bool
) -> Bytes:
    later = [each.bytes for status in statuses for each in status.history if each.round > 1]
    per_round = sum(later) / 2 / max(1, len(rounds) - 1)  # each byte was sent by one node and received by another
    minimum = statistics.fmean(_transfers(rounds)) * model_bytes if len(rounds) > 1 and in_rounds else 0.0
    wire_total = sum(status.traffic.wire_sent for status in statuses)
    chains = [status.chain for status in statuses if status.chain is not None]
    scalars = sum(chain.scalars_sent for chain in chains)
    if chains:
        minimum = scalars * (len(statuses) - 1) / max(1, len(rounds))
    return Bytes(
        wire_total=wire_total,
        scalars=scalars if chains else None,
        per_scalar=wire_total / scalars if scalars else None,
        model_payload=sum(status.traffic.blob_sent for status in statuses),
        per_round=per_round,
        minimum_per_round=minimum,
        ratio=per_round / minimum if minimum else math.nan,
    )


def _transfers(rounds: Mapping[int, RoundStatus]) -> list[int]:
    """Models that rounds 2, 3, ... had to move: the last aggregate to trainers, their models to aggregators."""
    moved = []
    for number, each in rounds.items():
        if before := rounds.get(number - 1):
            fetched = sum(trainer not in before.aggregators for trainer in each.trainers)
            handed_in = sum(trainer != aggregator for trainer in each.trainers for aggregator in each.aggregators)
            moved.append(fetched + handed_in)
    return moved or [0]


def _digests(heads: Sequence[str | None]) -> Digests:
    counts = Counter(head for head in heads if head is not None)
    return Digests(agreeing=max(counts.values(), default=0), distinct=len(counts))


class _Judged(TypedDict):
    caught: list[Caught]
    expelled: list[str]
    falsely_expelled: list[str]
    missed: list[str]


def _judged(honest: Sequence[Status], hostile: Mapping[str, str]) -> _Judged:
    """By what the honest nodes say of whom they know."""
    views: list[dict[str, str]] = [{each.peer: each.standing for each in status.peers} for status in honest]
    shunned = {peer for view in views for peer, standing in view.items() if standing in SHUNNED}
    named = {peer for view in views for peer, standing in view.items() if standing == "expelled"}
    expelled = [peer for peer in sorted(named) if all(view.get(peer, "expelled") == "expelled" for view in views)]
    caught = [_caught(peer, kind, honest) for peer, kind in hostile.items() if peer in shunned]
    own = {status.node.peer for status in honest}
    return _Judged(
        caught=caught,
        expelled=expelled,
        falsely_expelled=sorted(named & own),
        missed=[peer for peer in hostile if peer not in shunned],
    )


def _caught(peer: str, kind: str, honest: Sequence[Status]) -> Caught:
    """With what the verdict says, if there was one; else by the first offence."""
    why = next((each.why for status in honest for each in status.peers if each.peer == peer and each.why), "")
    verdicts = [each for status in honest if status.audits for each in status.audits.verdicts if each.peer == peer]
    found = [(each.round, why) for each in verdicts if each.stage in ("expelled", "suspended")]
    offences = [offence for status in honest for offence in status.offences if offence.peer == peer]
    found = found or [(each.round, f"{each.kind}: {each.detail}") for each in offences]
    round, evidence = min(found, default=(0, why))
    return Caught(peer=peer, kind=kind, round=round, evidence=evidence)


def _committee(each: RoundStatus) -> CommitteeOf:
    return CommitteeOf(round=each.round, trainers=each.trainers, aggregators=each.aggregators)
