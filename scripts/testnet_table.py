"""How the nodes of a testnet do, as a table for its terminal: a row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:  # it shows this table
    from processes import Peer
    from testnet import Options


def table(peers: Sequence[Peer], options: Options, elapsed_s: float) -> Table:
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
        "killed" if peer.killed else status.progress.state,
        f"{status.progress.round}/{rounds}",
        (status.progress.head or "")[:8],
        accuracy,
        f"{status.traffic.wire_sent / 1e6:.1f}",
        str(sum(each.linked for each in status.peers)),
    ]
