"""Which entries are audited, by whom, and what the votes on them amount to: a function of the branch and the votes.

An entry claims that its bytes are what the shard that its origin has named gives at its base. The beacon of the first
block that can count no entry on that base draws which of those that counted are audited, and the order of the auditors:
whoever signed could not know it. `verify.tally` says what votes amount to; the appeal is so large that a majority of it
is more than a third of the members, which is what a block needs to expel (`protocols.chain.evidence`). Invariant: a
vote that its own figures do not bear out, or that its auditor has not signed, is never counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols import limits
from protocols.chain.draws import seed64
from protocols.chain.evidence import wrong_bytes
from protocols.chain.forks import Node
from protocols.chain.messages import Entry, WrongBytes, id_of
from protocols.chain.rules import Rules
from protocols.chain.state import State
from protocols.claiming import shard_of, vote_holds
from protocols.evidence import FORGED, UNKNOWN, Doubt
from protocols.manifest import Audit
from protocols.onebyte.messages import PREFIX_BYTES
from sampling.peers import PeerId, Round
from verify import scalars
from verify.ballot import Ballot
from verify.claims import Vote, auditors, is_drawn, training_seed
from verify.digest import Digest
from verify.tally import Verdict, reach, tally


@dataclass(eq=False)
class Case:
    """One entry that was drawn, and what was said of it."""

    entry: Entry
    base: Node
    drawn: Node  # the block whose beacon drew it
    claim: Digest = field(init=False)
    ballot: Ballot = field(default_factory=Ballot)

    def __post_init__(self) -> None:
        self.claim = id_of(self.entry)

    @property
    def accused(self) -> PeerId:
        return self.entry.origin

    @property
    def shard(self) -> str | None:
        """What it was probed on, by its origin's own word before; None: nobody else can."""
        member = self.base.state.members.get(self.accused)
        return None if member is None else shard_of(member.data)


def seeds_of(run: bytes, base: State, origin: PeerId, probes: int) -> list[int]:
    """Of the directions in which the origin probes at this base."""
    return [seed64(run, base.beacon, base.height + 1, origin, probe) for probe in range(probes)]


def batch_seed(run: bytes, base: Node, origin: PeerId) -> int:
    """Of the batches that an origin whose shard is public draws there, so that others can draw them again."""
    return training_seed(run, Round(base.height + 1), base.digest, origin)


def drawn_by(node: Node, rules: Rules, fraction: float) -> Iterator[Case]:
    """Entries on the newest base that no block from `node` on may count any more."""
    below: list[Node] = []
    step = node.parent
    while step is not None and len(below) < rules.window:
        below.append(step)
        step = step.parent
    base = step
    if base is None:
        return
    for entry in (entry for each in reversed(below) for entry in each.entries if entry.base == base.digest):
        if is_drawn(node.state.beacon, id_of(entry), fraction):
            yield Case(entry, base, node)


class Cases:
    """Those of the branch that we follow; the oldest first. Bounded by limits.EVIDENCE."""

    def __init__(self, run: bytes, rules: Rules, audit: Audit) -> None:
        self._run, self._rules, self._audit = run, rules, audit
        self._cases: dict[Digest, Case] = {}
        self.refused = 0  # votes

    def get(self, claim: bytes) -> Case | None:
        return self._cases.get(Digest(claim))

    def all(self) -> list[Case]:
        return list(self._cases.values())

    def open(self, node: Node) -> list[Case]:
        """What this new block of our branch draws. An entry that another branch drew too keeps its votes."""
        found = []
        for case in drawn_by(node, self._rules, self._audit.fraction):
            before = self._cases.pop(case.claim, None)
            case.ballot = before.ballot if before is not None else case.ballot
            self._cases[case.claim] = case
            found.append(case)
        while len(self._cases) > limits.EVIDENCE:
            del self._cases[next(iter(self._cases))]
        return found

    def order(self, case: Case, state: State) -> tuple[PeerId, ...]:
        """Members that sat or could have sat when it was signed, and are there, in the order in which they are called.
        Nobody has joined since for being drawn."""
        there = (
            peer
            for peer, member in state.members.items()
            if member.sits <= case.entry.height and peer not in state.dormant and peer != case.accused
        )
        return auditors(there, case.drawn.state.beacon, case.claim)

    def appeal(self, state: State) -> int:
        """Auditors: a majority of so many is more than a third of the members."""
        return max(self._audit.appeal, 2 * (len(state.members) // 3) + 1)

    def bench(self, case: Case, state: State) -> tuple[PeerId, ...]:
        """Those who may vote."""
        order = self.order(case, state)
        return order[: reach(len(order), self.appeal(state))]

    def verdict(self, case: Case, state: State) -> Verdict:
        return tally(self.order(case, state), case.ballot.kinds, self.appeal(state))

    def vote(self, case: Case, vote: Vote, state: State) -> Doubt:
        """Adds it. UNKNOWN if it may hold but not as we see the chain."""
        if vote in case.ballot:
            return None
        doubt = ill_voted(case, vote, self._run)
        if doubt is None and vote.auditor not in self.bench(case, state):
            doubt = UNKNOWN
        if doubt is not None:
            self.refused += 1
            return doubt
        case.ballot.add(vote)
        return None

    def proof(self, case: Case, state: State) -> WrongBytes | None:
        """For a block on `state`; None: there are not enough votes for one. Who votes both ways does not vote."""
        kinds = case.ballot.kinds
        single = [vote for vote in case.ballot if len(kinds[vote.auditor]) == 1]
        return wrong_bytes(case.entry, single, state.members)

    def lacking(self, have: frozenset[bytes]) -> list[Vote]:
        """Votes on doubted entries that a peer which has those lacks."""
        doubted = (case for case in self._cases.values() if case.ballot.doubted)
        return [vote for case in doubted for vote in case.ballot if vote.statement[:PREFIX_BYTES] not in have]

    def have(self) -> tuple[bytes, ...]:
        """Prefixes of the votes on doubted entries that we hold, the newest at the end."""
        return tuple(vote.statement[:PREFIX_BYTES] for vote in self.lacking(frozenset()))[-limits.EVIDENCE :]


def ill_voted(case: Case, vote: Vote, run: bytes) -> Doubt:
    """Why it is no vote on this case."""
    entry = case.entry
    if vote.claim != case.claim or vote.auditor == entry.origin or vote.claimed or vote.nonce:
        return "a vote on something else"
    if len(vote.own) not in (0, len(entry.scalars)):
        return "a vote without figures"
    if vote.agrees != agree(vote.own, entry.scalars):
        return "a vote that its own figures do not bear out"
    return None if vote_holds(vote, run) else FORGED


def agree(own: bytes, claimed: bytes) -> bool:
    """`own` is empty where the work cannot be done at all."""
    return bool(own) and not scalars.differ(own, claimed)
