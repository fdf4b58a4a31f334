"""What every protocol shows of itself, so that a node, its checkpoint and its status need not know which one they run.

Units differ and are the protocol's own: `round` counts MoDeST's rounds or a chain's steps, `clock` what membership and
standing measure time in. Invariant: reading any of it costs little and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from protocols.messages import Aggregate, Held
from protocols.ownclaims import Docket
from sampling.peers import PeerId, Round
from verify.digest import Digest
from verify.tally import Stage

Phase = Literal["waiting", "training", "aggregating", "idle", "finished", "stalled"]


@dataclass(frozen=True, slots=True)
class Committee:
    """Who does the present round's work, as far as we know."""

    trainers: tuple[PeerId, ...] = ()
    aggregators: tuple[PeerId, ...] = ()  # in one-byte training: the proposer whose turn it is


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """A claim that somebody doubts, and how that stands."""

    peer: PeerId  # whose claim
    trained: bool  # an update; else an aggregate
    round: Round
    stage: Stage
    claim: Digest
    agree: int  # auditors
    contradict: int


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """Since this process started; verdicts of former lives are among them."""

    audited: int  # by us
    doubted: int  # of those
    unable: int  # audits that could not be done here
    refused: int  # votes and certificates that do not hold
    verdicts: tuple[AuditVerdict, ...]


@dataclass(frozen=True, slots=True)
class ChainFigures:
    """Of a protocol whose rounds form a chain."""

    height: int
    certified_height: int
    final: bool  # certification keeps up
    members: int
    is_member: bool
    dormant: bool
    expelled: bool
    expelled_peers: frozenset[PeerId]
    scalars_sent: int
    bytes_sent: int  # of own entries, blocks and changes, as frames
    reorganisations: int
    dropped: str | None  # the last branch that was left, in words


class Training(Protocol):
    async def run(self) -> None:
        """Until cancelled. A finished run goes on serving."""

    async def leave(self) -> None:
        """Say what must be said before we go; `run` has ended."""

    @property
    def round(self) -> Round:
        """Of the newest aggregate or block that we follow."""

    @property
    def clock(self) -> Round: ...

    @property
    def finished(self) -> bool: ...

    @property
    def state(self) -> Phase: ...

    @property
    def troubles(self) -> list[str]:
        """What the operator should look at, one line each."""

    @property
    def committee(self) -> Committee: ...

    @property
    def model(self) -> Digest | None:
        """What we hold: a model, or A."""

    @property
    def models(self) -> list[Held]:
        """From which questions can be answered, the newest first; never theta0, which has learnt nothing."""

    @property
    def held(self) -> Aggregate | None:
        """For the checkpoint; None where the protocol has a journal of its own."""

    @property
    def docket(self) -> Docket:
        """For the checkpoint."""

    @property
    def audits(self) -> AuditFigures | None:
        """None where the protocol has none."""

    def may_fetch(self, peer: PeerId, model: Digest) -> bool:
        """Is this blob of ours for that peer?"""

    @property
    def chain(self) -> ChainFigures | None: ...
