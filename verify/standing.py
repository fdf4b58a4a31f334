"""What a peer's faults amount to: the only place that judges a peer.

A fault is handed in as an `Offence`; strikes add up, are forgiven as rounds pass, and at QUARANTINE_STRIKES the peer is
neither heard nor sampled for QUARANTINE_ROUNDS. The judgement is local: nothing of it is told to others, so no liar can
use it against a third party. A lost message and a slow peer are no offence: there is no kind for them. Invariant: what
is not provable never quarantines by one kind in one round, however often it shows up there, because one honest fault (a
rotten disk, an old version) shows up as a burst of one kind. Pure: the round is the only clock.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sampling.peers import PeerId


class OffenceKind(enum.StrEnum):
    """What can be held against a peer."""

    MALFORMED_FRAME = "malformed-frame"  # bytes that are no message
    OVERSIZE = "oversize"  # more bytes than announced, or than any limit allows
    WRONG_DIGEST = "wrong-digest"  # a blob that does not hash to its name
    UNFIT_MODEL = "unfit-model"  # the digest is right, the content is no model of this run
    WRONG_RUN = "wrong-run"  # a message salted by another run's id
    FLOOD = "flood"  # more requests than the limits allow
    EQUIVOCATION = "equivocation"  # two signed statements that exclude each other
    BAD_SIGNATURE = "bad-signature"  # a signature that its key did not make
    BROKEN_PROMISE = "broken-promise"  # announced a blob, then refused it
    UNFOUNDED = "unfounded"  # signed what does not hold against what it is built on: no seat, no turn, a wrong sum
    FALSE_VOTE = (
        "false-vote"  # an auditor's word that a decision of others contradicts, or another than it committed to
    )
    FALSE_CLAIM = "false-claim"  # our own replay of the work that it has signed gives another model
    PROTOCOL = "protocol"  # a well-formed message that has no place here


# -- constants ----------------------------------------------------------------------------------------------------
QUARANTINE_STRIKES: Final = 12  # divides evenly by the weights below, so that each reads as "so many times"

WEIGHTS: Final[Mapping[OffenceKind, int]] = {
    # Even an honest peer does these: a race at a round's edge, a restart after announcing, a stale config.
    OffenceKind.PROTOCOL: 1,
    OffenceKind.BROKEN_PROMISE: 1,
    OffenceKind.WRONG_RUN: 1,
    # Links are authenticated, so the network cannot garble these: a peer of another version, or a hostile one.
    OffenceKind.FLOOD: 2,
    # Whoever holds the same block finds the same, so it is no race; a node with a damaged journal might do it once.
    OffenceKind.UNFOUNDED: 4,
    OffenceKind.MALFORMED_FRAME: 3,
    OffenceKind.OVERSIZE: 3,
    # One each can be a bad disk, bad memory or a diverged training; each wastes a whole model's transfer.
    OffenceKind.WRONG_DIGEST: 4,
    OffenceKind.UNFIT_MODEL: 4,
    # Our software never signs wrongly nor relays what it has not checked: three rounds of it are not an accident.
    OffenceKind.BAD_SIGNATURE: 4,
    # Bad memory makes an honest auditor wrong once; a liar is wrong each time that it is called.
    OffenceKind.FALSE_VOTE: 6,
    # Our memory, theirs, or hardware beyond the tolerance may do it once.
    OffenceKind.FALSE_CLAIM: 6,
    # Needs two signatures of the peer's own; no accident of the network makes them. Once is enough, if provable.
    OffenceKind.EQUIVOCATION: QUARANTINE_STRIKES,
}

BURST_STRIKES: Final = QUARANTINE_STRIKES // 2  # most that one unprovable kind adds in one round
MOST_STRIKES: Final = 2 * QUARANTINE_STRIKES  # more are not remembered, so that any past is forgiven in a bounded time
FORGIVE_ROUNDS: Final = 5  # rounds that forgive one strike: one mild fault every 5 rounds, for ever, is tolerated
QUARANTINE_ROUNDS: Final = QUARANTINE_STRIKES * FORGIVE_ROUNDS  # until its strikes are forgiven

OFFENCES_KEPT: Final = 1000  # newest offences, for the operator's eyes; about 0.5 kB each
PEERS_KEPT: Final = 10_000  # peers with a record, as many as a view holds; about 0.5 kB each
EVICTED: Final = PEERS_KEPT // 10  # at once, mildest first: a sort for every thousandth made-up identity only
DETAIL_CHARS: Final = 200  # a line of a log
PEERS_SAVED: Final = 1000  # worst first, across a restart: about 100 bytes each, with every checkpoint
OFFENCES_SAVED: Final = 100  # newest, likewise: about 200 bytes each


def one_line(text: str) -> str:
    """Peers choose parts of this text: no control characters reach a terminal, no line breaks a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:DETAIL_CHARS])


@dataclass(frozen=True, slots=True)
class Offence:
    """A fault we saw ourselves, in our own round. Provable: anyone can recompute it from what the peer signed."""

    peer: PeerId
    kind: OffenceKind
    round: int
    detail: str = ""
    provable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", one_line(self.detail))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the peer stands after an offence."""

    peer: PeerId
    strikes: int
    quarantined: bool
    fresh: bool  # this very offence began the quarantine: drop the links now


class Repute(enum.StrEnum):
    """A peer's standing in one word."""

    GOOD = "good"  # nothing that is not forgiven
    SUSPECT = "suspect"  # strikes, but heard and sampled as any other
    QUARANTINED = "quarantined"
    SUSPENDED = "suspended"  # likewise, by evidence that everybody shares and that is no proof
    EXPELLED = "expelled"  # by evidence that everybody shares


@dataclass(frozen=True, slots=True)
class Suspension:
    """A quarantine by evidence that everybody shares, which lapses by itself."""

    until: int  # first round after it
    why: str


@dataclass(frozen=True, slots=True)
class Summary:
    """All that was recorded, for the operator. Counts go on when the offences themselves are no longer kept."""

    total: int
    by_kind: Mapping[OffenceKind, int]
    peers: int  # with a record
    quarantined: tuple[PeerId, ...]  # as of the latest round an offence was recorded in


@dataclass(frozen=True, slots=True)
class Mark:
    """One peer's record, as it is saved. The burst too: a restart in its midst must not make it two."""

    peer: PeerId
    round: int
    strikes: int
    until: int
    counts: dict[OffenceKind, int]
    burst: dict[OffenceKind, int]
    burst_round: int


@dataclass(frozen=True, slots=True)
class Past:
    """What outlives a restart. Bounded: PEERS_SAVED marks, OFFENCES_SAVED offences."""

    round: int = 0
    marks: tuple[Mark, ...] = ()
    offences: tuple[Offence, ...] = ()
    by_kind: dict[OffenceKind, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Record:
    """One peer's. `strikes` are as of `round`; later rounds forgive."""

    round: int
    strikes: int = 0
    until: int = 0  # first round after the quarantine
    counts: Counter[OffenceKind] = field(default_factory=Counter)
    burst: Counter[OffenceKind] = field(default_factory=Counter)  # strikes by kind in `burst_round`
    burst_round: int = -1

    @classmethod
    def of(cls, mark: Mark) -> _Record:
        counts, burst = Counter(mark.counts), Counter(mark.burst)
        return cls(mark.round, mark.strikes, mark.until, counts, burst, mark.burst_round)

    def mark(self, peer: PeerId) -> Mark:
        counts, burst = dict(self.counts), dict(self.burst)
        return Mark(peer, self.round, self.strikes, self.until, counts, burst, self.burst_round)

    def strikes_at(self, round: int) -> int:
        return max(0, self.strikes - max(0, round - self.round) // FORGIVE_ROUNDS)

    def severity(self, round: int) -> tuple[int, int, int]:
        """Mildest first: quarantine, then strikes, then how lately it was heard of."""
        return (max(0, self.until - round), self.strikes_at(round), self.round)

    def forgive(self, round: int) -> None:
        """Move `round` on by whole terms only, so that a fault does not restart the count towards forgiveness."""
        terms = max(0, round - self.round) // FORGIVE_ROUNDS
        self.strikes = max(0, self.strikes - terms)
        self.round = round if not self.strikes else self.round + terms * FORGIVE_ROUNDS

    def charge(self, offence: Offence, round: int) -> None:
        self.forgive(round)
        self.counts[offence.kind] += 1
        self.strikes = min(MOST_STRIKES, self.strikes + self._weight(offence, round))
        if self.strikes >= QUARANTINE_STRIKES:
            self.until = round + QUARANTINE_ROUNDS

    def _weight(self, offence: Offence, round: int) -> int:
        weight = WEIGHTS[offence.kind]
        if offence.provable:
            return weight
        if self.burst_round != round:
            self.burst_round, self.burst = round, Counter()
        weight = min(weight, BURST_STRIKES - self.burst[offence.kind])
        self.burst[offence.kind] += weight
        return weight


class Standing:
    """Every peer's record. Bounded: PEERS_KEPT records, OFFENCES_KEPT offences, whatever peers do."""

    def __init__(self, past: Past | None = None) -> None:
        past = past or Past()
        self._records: dict[PeerId, _Record] = {mark.peer: _Record.of(mark) for mark in past.marks}
        self._offences: deque[Offence] = deque(past.offences, maxlen=OFFENCES_KEPT)
        self._by_kind: Counter[OffenceKind] = Counter(past.by_kind)
        self._expelled: Mapping[PeerId, str] = {}
        self._suspended: Mapping[PeerId, Suspension] = {}
        self._round = past.round  # the latest heard of: an offence reported late is judged as of now, never backwards

    def record(self, offence: Offence) -> Verdict:
        self._round = max(self._round, offence.round)
        self._offences.append(offence)
        self._by_kind[offence.kind] += 1
        before = self.quarantined(offence.peer, self._round)
        record = self._records.setdefault(offence.peer, _Record(self._round))
        record.charge(offence, self._round)
        after = self._round < record.until
        self._evict()
        return Verdict(offence.peer, record.strikes, after, fresh=after and not before)

    def sentence(self, expelled: Mapping[PeerId, str], suspended: Mapping[PeerId, Suspension]) -> list[PeerId]:
        """What the shared evidence amounts to, and why; replaces what it amounted to before. Returns whom it adds."""
        before = self._expelled.keys() | self._suspended.keys()
        self._expelled, self._suspended = dict(expelled), dict(suspended)
        return sorted((expelled.keys() | suspended.keys()) - before)

    def why(self, peer: PeerId) -> str:
        """It was expelled or suspended; "" if it was not."""
        suspended = self._suspended.get(peer)
        return self._expelled.get(peer, suspended.why if suspended else "")

    @property
    def expelled(self) -> Mapping[PeerId, str]:
        return self._expelled

    def strikes(self, peer: PeerId, round: int) -> int:
        record = self._records.get(peer)
        return record.strikes_at(round) if record else 0

    def quarantined(self, peer: PeerId, round: int) -> bool:
        """True: neither hear nor sample this peer in this round."""
        if peer in self._expelled or self.suspended(peer, round):
            return True
        record = self._records.get(peer)
        return record is not None and round < record.until

    def suspended(self, peer: PeerId, round: int) -> bool:
        return peer in self._suspended and round < self._suspended[peer].until

    def repute(self, peer: PeerId, round: int) -> Repute:
        if peer in self._expelled:
            return Repute.EXPELLED
        if self.suspended(peer, round):
            return Repute.SUSPENDED
        if self.quarantined(peer, round):
            return Repute.QUARANTINED
        return Repute.SUSPECT if self.strikes(peer, round) else Repute.GOOD

    def count(self, peer: PeerId, kind: OffenceKind) -> int:
        record = self._records.get(peer)
        return record.counts[kind] if record else 0

    def offences(self) -> tuple[Offence, ...]:
        """The newest OFFENCES_KEPT, oldest first."""
        return tuple(self._offences)

    def summary(self) -> Summary:
        quarantined = tuple(sorted(p for p, r in self._records.items() if self._round < r.until))
        return Summary(self._by_kind.total(), dict(self._by_kind), len(self._records), quarantined)

    def past(self) -> Past:
        """For the next life."""
        worst = self._mildest()[-PEERS_SAVED:] if len(self._records) > PEERS_SAVED else self._records
        marks = tuple(self._records[peer].mark(peer) for peer in worst)
        return Past(self._round, marks, tuple(self._offences)[-OFFENCES_SAVED:], dict(self._by_kind))

    def _mildest(self) -> list[PeerId]:
        """First, the worst last."""
        return sorted(self._records, key=lambda peer: self._records[peer].severity(self._round))

    def _evict(self) -> None:
        if len(self._records) > PEERS_KEPT:
            for peer in self._mildest()[:EVICTED]:
                del self._records[peer]
