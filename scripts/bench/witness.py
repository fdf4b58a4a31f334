"""What became of the liars and of the honest in one simulated MoDeST swarm, as somebody sees it who knows who lies.

Each aggregate that an honest node believes is written down as it comes, with the claims in it, and whom each honest
node shuns. A lie is a claim of the kind that this adversary makes falsely; the draw is computed here anew, from claim
and beacon. Invariant: it only reads, so the run has the trace that it would have without it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from gossipnode.adversaries.lying import hash_bit
from gossipnode.modest_checkers import head_of
from gossipnode.net.virtual_time import run_deterministic
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulated_log import logged
from gossipnode.simulation import Outcome, Swarm
from gossipnode.sweep import faults_of
from protocols.claiming import claim_of, merged_of
from protocols.lineage import Place, before, place
from protocols.messages import Aggregate, Input
from protocols.modest import Modest
from sampling.peers import PeerId
from verify.claims import is_drawn
from verify.digest import Digest
from verify.tally import Stage

HONEST_CLAIMS = {"lying-auditor", "lazy-auditor", "garbage", "false-answer"}  # they lie elsewhere
GUILTY = {Stage.EXPELLED, Stage.SUSPENDED}
SECOND_HAND = {"stale", "copycat"}  # what they hand in is a lie if it was there before; else they have trained it


class Liar(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of rounds are of the swarm's highest."""

    lies: int  # claims, up to the one that convicted it, or all
    drawn: int  # of them, for an audit
    convicted: bool  # by one of them
    shunned: int | None  # round in which the first honest node no longer heard it
    expelled: int | None  # round in which every honest node had expelled it


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    kind: str
    seed: int
    rounds: int
    accuracy: float
    liars: list[Liar]
    audited: int  # votes cast by honest auditors
    unable: int
    verdicts: dict[str, int]  # claims that somebody doubts, by stage, as an honest node that never restarted has it
    suspended: int  # honest peers that some honest node has had in quarantine
    expelled: int  # honest peers that some honest node has expelled
    accused: dict[str, int]  # offences of honest peers that honest nodes have recorded, by kind
    broken: list[str]
    seconds: float  # virtual


@dataclass
class Witness:
    """Call `look` now and then."""

    aggregates: dict[Place, Aggregate] = field(default_factory=dict)  # as they came to be believed
    shunned: dict[PeerId, int] = field(default_factory=dict)  # and since which round
    expelled: dict[PeerId, int] = field(default_factory=dict)  # by some honest node
    everywhere: dict[PeerId, int] = field(default_factory=dict)  # by all

    def look(self, swarm: Swarm) -> None:
        living = [member.node for member in swarm.members if member.honest and member.alive]
        for node in living:
            for aggregate in reversed(head_of(node).line()):
                if place(aggregate) in self.aggregates:
                    break
                self.aggregates[place(aggregate)] = aggregate
        gone = [set(node.standing.expelled) for node in living]
        for peer in set[PeerId]().union(*gone):
            self.expelled.setdefault(peer, swarm.highest)
        for peer in set.intersection(*gone) if gone else ():
            self.everywhere.setdefault(peer, swarm.highest)
        for member in swarm.members:
            peers = (node for node in living if node.standing.quarantined(member.peer, node.protocol.clock))
            if member.peer not in self.shunned and any(peers):
                self.shunned[member.peer] = swarm.highest

    def beacons(self) -> dict[Place, list[Digest]]:
        """By the aggregate that they are the next of."""
        found: dict[Place, list[Digest]] = {}
        for each in self.aggregates.values():
            found.setdefault(before(each), []).append(Digest(each.model))
        return found

    def lies(self, peer: PeerId, kind: str) -> list[tuple[Digest, Aggregate]]:
        """Claims, each with the aggregate that it is in, the earliest round first."""
        found: dict[Digest, Aggregate] = {}
        there = set[bytes]()
        for each in sorted(self.aggregates.values(), key=lambda each: each.round):
            if kind == "false-aggregate":
                if each.aggregators[:1] == (peer,):
                    found.setdefault(merged_of(each).statement, each)
            elif kind not in HONEST_CLAIMS:
                mine = [made for made in each.inputs if made.trainer == peer and _is_lie(kind, made, each, there)]
                found.update({claim_of(each.round, each.parent, made).statement: each for made in mine})
            there |= {each.model, *(made.model for made in each.inputs)}
        return list(found.items())


def _is_lie(kind: str, made: Input, of: Aggregate, there: set[bytes]) -> bool:
    """The equivocator's better half is told to every second aggregator."""
    if kind == "equivocator":
        return hash_bit(of.aggregators[0])
    return kind not in SECOND_HAND or made.model in there


def told(setting: Setting, kind: str) -> Told:
    """Plays it. Raises OperatorError."""
    witness = Witness()
    swarm = Swarm(scenario_of(setting), lambda tick: witness.look(swarm))
    with logged(None):
        report, finished = run_deterministic(swarm.run, seed=setting.seed)
    witness.look(swarm)
    honest = {member.peer for member in swarm.members if member.honest}
    protocols = [life.node.protocol for member in swarm.members if member.honest for life in member.lives]
    figures = [each.auditor.figures for each in protocols if isinstance(each, Modest)]
    accused = Counter(each.kind for each in report.offences if each.peer in honest)
    return Told(
        kind=kind,
        seed=setting.seed,
        rounds=report.rounds,
        accuracy=report.accuracy.mean,
        liars=[_liar(member.peer, kind, swarm, witness) for member in swarm.members if not member.honest],
        audited=sum(each.audited for each in figures),
        unable=sum(each.unable for each in figures),
        verdicts=dict(Counter(verdict.stage for verdict in figures[0].verdicts)),
        suspended=len(honest & witness.shunned.keys()),
        expelled=len(honest & witness.expelled.keys()),
        accused=dict(accused),
        broken=faults_of(Outcome(report, report.trace, report.virtual_s, 0.0, finished)),
        seconds=report.virtual_s,
    )


def _liar(peer: PeerId, kind: str, swarm: Swarm, witness: Witness) -> Liar:
    claims = witness.lies(peer, kind)
    protocol = swarm.members[0].node.protocol
    assert isinstance(protocol, Modest)
    evidence, beacons = protocol.auditor.evidence, witness.beacons()
    guilty = {case.claim for case in evidence.doubted() if evidence.verdict(case).stage in GUILTY}
    last = next((index for index, (claim, _) in enumerate(claims, start=1) if claim in guilty), None)
    told = claims[:last]
    fraction = evidence.audit.fraction
    drawn = [any(is_drawn(each, claim, fraction) for each in beacons.get(place(of), ())) for claim, of in told]
    return Liar(
        lies=len(told),
        drawn=sum(drawn),
        convicted=last is not None,
        shunned=witness.shunned.get(peer),
        expelled=witness.everywhere.get(peer),
    )
