"""What a node says about itself: the types behind `/status`, `/metrics`, the page and `gossipnode status`.

The node fills a `Status` on request; nothing here computes. The JSON keys are the field names and are an interface:
adding one is free (readers ignore unknown keys, so an older `gossipnode status` reads a newer node), renaming one is
not. `docs/status.md` describes every key and a test holds it to these types. Units stand in the names.
Invariant: what cannot be known yet is None, never a made-up zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from protocols.training import Phase

HISTORY_ROUNDS = 1000  # rounds kept in `Status.history`: about 0.5 MB of JSON with committees of ten
NEIGHBOURS_SHOWN = 50  # in `GossipStatus.neighbours`
OFFENCES_SHOWN = 100  # newest offences in `Status.offences`

Stage = Literal["open", "cleared", "accused", "appealed", "expelled", "suspended", "acquitted"]
Repute = Literal["good", "suspect", "quarantined", "suspended", "expelled"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the report."""


class LoopLag(Part, frozen=True, kw_only=True):
    """How late the event loop woke, over the last minute."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class NodeStatus(Part, frozen=True, kw_only=True):
    """This process."""

    peer: str  # our peer id
    addresses: list[str] = []  # full multiaddresses at which we listen
    version: str = ""
    roles: list[str] = []  # trainer, auditor, observer
    joined: bool = False  # a manifest is held and membership runs
    uptime_s: float = 0.0
    loop_lag: LoopLag = LoopLag()
    rss_bytes: int = 0  # resident memory of the daemon, without its worker
    worker_rss_bytes: int | None = None  # of the compute worker; None: it does not run
    epsilon: float | None = None  # spent by all private probes of this home; None: not with the privacy option


class RunStatus(Part, frozen=True, kw_only=True):
    """What everybody in the run agreed on."""

    run_id: str  # 64 hex digits
    name: str
    protocol: str
    task: str
    rounds: int  # the run ends after this many; 0: never
    manifest: dict[str, Any]  # the whole manifest, key by key


class Committee(Part, frozen=True, kw_only=True):
    """Who does this round's work, as far as we know."""

    trainers: list[str] = []
    aggregators: list[str] = []


class Learning(Part, frozen=True, kw_only=True):
    """Our latest evaluation of the shared model, on our own held-out data."""

    loss: float | None  # None: not a finite number (JSON has none such)
    accuracy: float | None  # 0..1, or the task's main metric
    samples: int
    evaluated_round: int


class ProgressStatus(Part, frozen=True, kw_only=True):
    """Where training is."""

    round: int = 0
    state: Phase = "waiting"
    head: str | None = None  # digest of the newest model we hold, 64 hex digits
    committee: Committee = Committee()
    last_round_s: float | None = None  # duration of the last complete round
    learning: Learning | None = None  # None: not evaluated yet


class ChainStatus(Part, frozen=True, kw_only=True):
    """One-byte training: the chain of steps, and our part in it since this process started."""

    height: int  # of the newest block that we follow
    certified_height: int  # blocks up to here are never left
    final: bool  # certification keeps up with the height
    members: int  # of the chain: they probe, propose and vote
    is_member: bool  # we are one
    dormant: bool  # we missed our seats, and get none until a block says that we are back
    expelled: bool  # a block says so: we signed two things that exclude each other, or wrong bytes
    scalars_sent: int  # projected gradients, one byte each
    bytes_sent: int  # of our own entries, blocks and changes, before the mesh multiplies them
    bytes_per_scalar: float | None  # bytes_sent for each scalar
    wire_per_scalar: float | None  # all that we sent on sockets, for each scalar of ours
    reorganisations: int  # times that we left a branch
    dropped_branch: str | None  # the last one, in words


class VerdictStatus(Part, frozen=True, kw_only=True):
    """A claim that some auditor doubts, and how that stands."""

    peer: str  # whose claim
    kind: Literal["update", "aggregate"]
    round: int
    stage: Stage
    claim: str  # 64 hex digits; its first twelve are in the name of the certificate's file
    agree: int  # auditors
    contradict: int


class AuditStatus(Part, frozen=True, kw_only=True):
    """Audits, since this process started; verdicts of former lives are among them."""

    audited: int = 0  # claims, by us
    doubted: int = 0  # of those
    unable: int = 0  # audits that could not be done here
    refused: int = 0  # votes and certificates that do not hold
    verdicts: list[VerdictStatus] = []


class Neighbour(Part, frozen=True, kw_only=True):
    """A node that we heard of, by its own word."""

    peer: str
    age: int  # trainings it has done
    behind: float  # trainings behind the median age; negative: ahead of it
    seconds_per_training: float
    heard_s: float  # seconds since its last announcement
    slow: bool  # it takes more than twice as long as the median


class GossipStatus(Part, frozen=True, kw_only=True):
    """Gossip learning: how this node's model grows, and what it knows of the others'."""

    age: int  # trainings of our own
    median_age: int  # of all that we heard of, ourselves included
    seconds_per_training: float
    merges: int  # since this process started, as all counts here
    models_merged: int  # of others, in them
    models_pulled: int
    models_refused: int  # came, and were not fit to be merged
    models_waiting: int  # for the next merge
    caught_up: int  # times that we went on from the others' models after a pause
    announced_every_s: float  # what the manifest's rate allows
    neighbours: list[Neighbour] = []  # at most NEIGHBOURS_SHOWN, those heard last first


class PeerStatus(Part, frozen=True, kw_only=True):
    """One other peer of the view."""

    peer: str
    linked: bool  # a connection is open
    last_active_round: int  # the last round with a sign of life
    roles: list[str] = []
    eligible: bool = False  # could be sampled into the next committee
    rtt_ms: float | None = None  # smoothed round trip of pings
    standing: Repute = "good"
    why: str = ""  # it was expelled or suspended
    addresses: list[str] = []


class ViewStatus(Part, frozen=True, kw_only=True):
    """How big the swarm looks from here, ourselves included."""

    members: int = 0  # joined and not left
    candidates: int = 0  # of them, active within the window and eligible


class TrafficStatus(Part, frozen=True, kw_only=True):
    """Bytes since start. wire_*: everything on sockets; blob_*: payload of bulk streams only."""

    wire_sent: int = 0
    wire_received: int = 0
    blob_sent: int = 0
    blob_received: int = 0
    gossip_dropped: int = 0  # messages: heard, but the subscriber was too slow


class StoreStatus(Part, frozen=True, kw_only=True):
    """Models on disk."""

    bytes: int = 0
    blobs: int = 0
    max_bytes: int = 0
    checkpoint_round: int | None = None  # the newest round that would survive a crash
    checkpoint_error: str | None = None  # why the last attempt to save failed


class OffenceStatus(Part, frozen=True, kw_only=True):
    """A fault of a peer, as we saw it."""

    peer: str
    kind: str
    round: int
    detail: str = ""


class RoundStatus(Part, frozen=True, kw_only=True):
    """One finished round, as we saw it."""

    round: int
    trainers: list[str]
    aggregators: list[str]
    digest: str  # the aggregate, 64 hex digits
    seconds: float
    accuracy: float | None = None  # ours, if this round's model was evaluated
    bytes: int = 0  # sent and received in this round


class Status(Part, frozen=True, kw_only=True):
    """All of it. `run` is None until a manifest is held."""

    node: NodeStatus
    run: RunStatus | None = None
    progress: ProgressStatus = ProgressStatus()
    chain: ChainStatus | None = None  # None: the run's protocol has none
    audits: AuditStatus | None = None  # None: the run's protocol has none
    gossip: GossipStatus | None = None  # None: likewise
    peers: list[PeerStatus] = []
    view: ViewStatus = ViewStatus()
    traffic: TrafficStatus = TrafficStatus()
    store: StoreStatus = StoreStatus()
    offences: list[OffenceStatus] = []  # newest last, at most OFFENCES_SHOWN
    offence_counts: dict[str, int] = {}  # by kind; those of former lives count too
    history: list[RoundStatus] = []  # newest last, at most HISTORY_ROUNDS
    warnings: list[str] = []  # what the operator should look at, one line each


Snapshot = Callable[[], Status]
"""Quick and without side effects: it is called for every request, on the event loop."""


def encode(status: Status) -> bytes:
    """JSON. Non-finite numbers become null: JSON has none."""
    return msgspec.json.encode(status)


def decode(data: bytes) -> Status:
    """Raises msgspec.ValidationError or DecodeError, both msgspec.MsgspecError."""
    try:
        return msgspec.json.decode(data, type=Status)
    except UnicodeDecodeError as error:  # msgspec lets it through
        raise msgspec.DecodeError(f"not UTF-8: {error.reason}") from error
