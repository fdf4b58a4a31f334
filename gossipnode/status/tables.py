"""A `Status` as a rich renderable: one screen, the important first, dim where nothing is to be seen.

Pure: a report in, a renderable out. Invariant: every string of the report becomes a `Text` of printable characters, so
neither rich's markup nor the terminal's escapes in a peer's words have any effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gossipnode.status.report import (
    AuditStatus,
    ChainStatus,
    GossipStatus,
    Neighbour,
    OffenceStatus,
    PeerStatus,
    RoundStatus,
    Status,
)

PEERS_SHOWN: Final = 20
ROUNDS_SHOWN: Final = 8
OFFENCES_SHOWN: Final = 5
SPARK_CHARS: Final = 60
UNKNOWN: Final = "-"
BARS: Final = "▁▂▃▄▅▆▇█"
STYLES: Final = {
    "good": "green",
    "suspect": "yellow",
    "quarantined": "red",
    "suspended": "red",
    "expelled": "red",
    "training": "bold green",
    "aggregating": "bold green",
    "finished": "bold cyan",
    "stalled": "bold red",
    "waiting": "bold yellow",
}


def safe(text: str, style: str = "") -> Text:
    return Text("".join(c if c.isprintable() else "?" for c in text), style)


def short_peer(peer: str) -> str:
    """Every Ed25519 peer id begins alike: the end tells them apart."""
    return peer if len(peer) <= 12 else f"…{peer[-8:]}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.2f} %"


def sparkline(values: Sequence[float]) -> str:
    """The newest SPARK_CHARS values between their own lowest and highest."""
    shown = values[-SPARK_CHARS:]
    if not shown:
        return ""
    low, reach = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(BARS[round((value - low) / reach * (len(BARS) - 1))] for value in shown)


def facts(status: Status) -> Table:
    """Label and value, in two columns of pairs."""
    progress, node, traffic, store = status.progress, status.node, status.traffic, status.store
    learning, rounds = progress.learning, status.run.rounds if status.run else 0
    linked = sum(peer.linked for peer in status.peers)
    unit = "round" if status.chain is None else "step"
    saved = "not yet" if store.checkpoint_round is None else f"{unit} {store.checkpoint_round}"
    pairs = [
        (unit, f"{progress.round} of {rounds}" if rounds else f"{progress.round}"),
        (f"last {unit}", UNKNOWN if progress.last_round_s is None else f"{progress.last_round_s:.2f} s"),
        ("accuracy", f"{percent(learning.accuracy)} ({unit} {learning.evaluated_round})" if learning else UNKNOWN),
        ("loss", f"{learning.loss:.4f}" if learning and learning.loss is not None else UNKNOWN),
        ("peers", f"{linked} linked, {status.view.candidates} of {status.view.members} candidates"),
        ("model", progress.head[:12] if progress.head else UNKNOWN),
        ("sent", f"{size(traffic.wire_sent)} (models {size(traffic.blob_sent)})"),
        ("received", f"{size(traffic.wire_received)} (models {size(traffic.blob_received)})"),
        ("store", f"{size(store.bytes)} of {size(store.max_bytes)}, {store.blobs} blobs, saved: {saved}"),
        ("memory", f"{size(node.rss_bytes)}, loop lag p99 {node.loop_lag.p99_ms:.1f} ms"),
    ]
    if status.chain is not None:
        pairs += chain_facts(status.chain)
    if status.audits is not None:
        pairs += audit_facts(status.audits)
    if status.gossip is not None:
        pairs += gossip_facts(status.gossip)
    if node.epsilon is not None:
        pairs += [("privacy", f"epsilon {node.epsilon:.2f} spent"), ("", "")]
    table = Table.grid(padding=(0, 2))
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        table.add_row(Text(left[0], "dim"), safe(left[1]), Text(right[0], "dim"), safe(right[1]))
    return table


def audit_facts(audits: AuditStatus) -> list[tuple[str, str]]:
    stages = [each.stage for each in audits.verdicts]
    found = f"{stages.count('expelled')} expulsions, {stages.count('suspended')} suspensions"
    return [
        ("audits", f"{audits.audited} done, {audits.doubted} doubts, {audits.unable} could not be done"),
        ("verdicts", f"{len(audits.verdicts)} claims doubted, {found}"),
    ]


def verdict_lines(audits: AuditStatus | None) -> list[RenderableType]:
    return [
        Text.assemble(
            Text(f"round {each.round} ", "dim"),
            safe(f"{short_peer(each.peer)} "),
            safe(f"{each.stage} ", "red" if each.stage in ("expelled", "suspended") else "yellow"),
            safe(f"{each.kind}: {each.contradict} of {each.agree + each.contradict} auditors contradict it"),
        )
        for each in reversed((audits.verdicts if audits else [])[-OFFENCES_SHOWN:])
    ]


def chain_facts(chain: ChainStatus) -> list[tuple[str, str]]:
    role = "expelled" if chain.expelled else "dormant" if chain.dormant else "a member" if chain.is_member else "none"
    cost = UNKNOWN if chain.wire_per_scalar is None else f"{chain.wire_per_scalar:.0f} bytes on the wire each"
    return [
        ("certified", f"{chain.certified_height} of {chain.height}" + ("" if chain.final else ", not final")),
        ("chain", f"{chain.members} members, this node is {role}"),
        ("scalars", f"{chain.scalars_sent} sent, {cost}"),
        ("branches", f"{chain.reorganisations} left"),
    ]


def gossip_facts(gossip: GossipStatus) -> list[tuple[str, str]]:
    slow = sum(each.slow for each in gossip.neighbours)
    oldest_s = max((each.heard_s for each in gossip.neighbours), default=0.0)
    return [
        ("age", f"{gossip.age} trainings, median {gossip.median_age}"),
        ("pace", f"{gossip.seconds_per_training:.1f} s a training"),
        ("merged", f"{gossip.models_merged} models in {gossip.merges} merges, {gossip.models_refused} refused"),
        ("neighbours", f"{len(gossip.neighbours)} heard of, up to {oldest_s:.0f} s ago; {slow} slow"),
    ]


def neighbour_table(neighbours: Sequence[Neighbour]) -> Table:
    table = grid("neighbour", "age", "behind", "pace", "heard", right=frozenset({"age", "behind", "pace", "heard"}))
    for each in neighbours[:PEERS_SHOWN]:
        pace = f"{each.seconds_per_training:.1f} s" + (" slow" if each.slow else "")
        row = str(each.age), f"{each.behind:.0f}", pace, f"{each.heard_s:.0f} s ago"
        table.add_row(safe(short_peer(each.peer)), *row, style="yellow" if each.slow else "")
    return table


def headline(status: Status) -> Text:
    name = status.run.name if status.run else "no manifest yet"
    what = f"{status.run.protocol}, {status.run.task}" if status.run else "waiting for a peer that has one"
    state = status.progress.state
    head = Text.assemble(safe(name, "bold"), "  ", safe(state, STYLES.get(state, "dim")), "  ", safe(what, "dim"))
    return head.append_text(Text(f"  up {span(status.node.uptime_s)}", "dim"))


def grid(*columns: str, right: frozenset[str] = frozenset(), wide: frozenset[str] = frozenset()) -> Table:
    """`wide` columns give way first where the terminal is narrow."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=column not in wide, overflow="ellipsis")
    return table


def peer_table(peers: Sequence[PeerStatus]) -> RenderableType:
    columns = ("peer", "link", "active", "rtt", "roles", "standing", "address")
    table = grid(*columns, right=frozenset({"active", "rtt"}), wide=frozenset({"address"}))
    ordered = sorted(peers, key=lambda peer: (not peer.linked, -peer.last_active_round, peer.peer))
    for peer in ordered[:PEERS_SHOWN]:
        table.add_row(
            safe(short_peer(peer.peer)),
            Text("linked", "green") if peer.linked else Text(UNKNOWN, "dim"),
            str(peer.last_active_round),
            UNKNOWN if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms",
            safe(" ".join(peer.roles), "" if peer.eligible else "dim"),
            safe(peer.standing, STYLES[peer.standing]),
            safe(peer.addresses[0].partition("/p2p/")[0] if peer.addresses else UNKNOWN, "dim"),
        )
    left_out = len(peers) - PEERS_SHOWN
    return Group(table, Text(f"and {left_out} more (--json)", "dim")) if left_out > 0 else table


def round_table(history: Sequence[RoundStatus]) -> Table:
    columns = ("round", "model", "time", "accuracy", "trainers", "aggregators")
    wide = frozenset({"trainers", "aggregators"})
    table = grid(*columns, right=frozenset({"round", "time", "accuracy"}), wide=wide)
    for done in reversed(history[-ROUNDS_SHOWN:]):
        table.add_row(
            str(done.round),
            safe(done.digest[:12], "dim"),
            f"{done.seconds:.2f} s",
            percent(done.accuracy),
            safe(" ".join(map(short_peer, done.trainers))),
            safe(" ".join(map(short_peer, done.aggregators))),
        )
    return table


def offence_lines(offences: Sequence[OffenceStatus]) -> list[RenderableType]:
    return [
        Text.assemble(
            Text(f"round {fault.round} ", "dim"),
            safe(f"{short_peer(fault.peer)} "),
            safe(f"{fault.kind} ", "red"),
            safe(fault.detail),
        )
        for fault in reversed(offences[-OFFENCES_SHOWN:])
    ]


def render(status: Status) -> RenderableType:
    parts: list[RenderableType] = [facts(status)]
    curve = [done.accuracy for done in status.history if done.accuracy is not None]
    if curve:
        parts.append(Text.assemble(("\naccuracy  ", "dim"), (sparkline(curve), "cyan"), f"  {percent(curve[-1])}"))
    parts += [safe(f"! {warning}", "yellow") for warning in status.warnings]
    if status.peers:
        parts.append(peer_table(status.peers))
    if status.gossip is not None and status.gossip.neighbours:
        parts.append(neighbour_table(status.gossip.neighbours))
    if status.history:
        parts.append(round_table(status.history))
    parts += verdict_lines(status.audits)
    parts += offence_lines(status.offences)
    footer = safe(status.node.peer, "dim")
    return Panel(Group(*parts), title=headline(status), title_align="left", subtitle=footer, subtitle_align="left")
