"""What the votes on one claim amount to: one auditor first, three if one of them doubts it, a committee for the appeal.

Majority of three as in Generative AI Consensus (arXiv 2307.01898); but three of twenty peers with six liars have a
lying majority 22 % of the time, so three only call an appeal, whose majority expels or acquits.
Invariant: a pure function of the auditors' order and the set of votes, whatever order they came in. Only the first
votes by rank count, so that more votes by more distant ranks change nothing; who votes both ways does not vote.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sampling.peers import PeerId

PANEL: Final = 3  # votes that call the appeal, by majority
LARGEST: Final = 31  # votes of an appeal, unless the caller wants more: they are 8 KB of a certificate


class Stage(enum.StrEnum):
    OPEN = "open"  # nobody has voted
    CLEARED = "cleared"
    ACCUSED = "accused"  # somebody doubts it, and the panel has no majority yet
    APPEALED = "appealed"  # the panel doubts it; the appeal is under way, and nobody is out yet
    EXPELLED = "expelled"
    SUSPENDED = "suspended"  # for a while: the appeal went by probes, which are no proof
    ACQUITTED = "acquitted"  # on appeal


DECIDED: Final = frozenset({Stage.CLEARED, Stage.EXPELLED, Stage.SUSPENDED, Stage.ACQUITTED})


@dataclass(frozen=True, slots=True)
class Verdict:
    stage: Stage
    contradicted: tuple[PeerId, ...] = ()  # auditors whose votes a decision of the panel or the appeal contradicts


def bench(auditors: int, appeal: int) -> int:
    """Votes that decide an appeal by majority: `appeal` of them or more, as many as there are, and an odd number. Of up
    to 46 members (auditors and accused) the majority is more than a third: so many are never all hostile."""
    third = min(2 * ((auditors + 1) // 3) + 1, LARGEST)
    size = min(auditors, max(appeal, third))
    return size if size % 2 else size - 1


def reach(auditors: int, appeal: int) -> int:
    """Ranks that may vote at all: half as many again as the bench, in place of those that are silent."""
    size = max(PANEL, bench(auditors, appeal))
    return size + size // 2


def wanted(stage: Stage, auditors: int, appeal: int) -> int:
    """Votes that are needed for the next stage."""
    match stage:
        case Stage.OPEN:
            return 1
        case Stage.ACCUSED:
            return PANEL
        case Stage.APPEALED:
            return max(PANEL, bench(auditors, appeal))
    return 0


def tally(order: Sequence[PeerId], votes: Mapping[PeerId, frozenset[bool]], appeal: int) -> Verdict:
    """`votes`: True for a match; of both kinds if the auditor has signed both."""
    eligible = order[: reach(len(order), appeal)]
    counted = {peer: next(iter(votes[peer])) for peer in eligible if len(votes.get(peer, ())) == 1}
    panel = dict(islice(counted.items(), PANEL))
    if not panel:
        return Verdict(Stage.OPEN)
    if all(panel.values()):
        return Verdict(Stage.CLEARED)
    matches = sum(panel.values())
    if 2 * matches > PANEL:
        return Verdict(Stage.CLEARED, _contradicted(panel, decision=True))
    if 2 * (len(panel) - matches) < PANEL or len(order) < PANEL:
        return Verdict(Stage.ACCUSED)
    return _appealed(counted, max(PANEL, bench(len(order), appeal)))


def of_probes(verdict: Verdict) -> Verdict:
    """The same where each auditor went by its own data: nobody is expelled for that, and the outvoted did not lie."""
    return Verdict(Stage.SUSPENDED if verdict.stage is Stage.EXPELLED else verdict.stage)


def _appealed(counted: Mapping[PeerId, bool], size: int) -> Verdict:
    heard = dict(islice(counted.items(), size))
    matches = sum(heard.values())
    if 2 * (len(heard) - matches) > size:
        return Verdict(Stage.EXPELLED, _contradicted(heard, decision=False))
    if 2 * matches > size:
        return Verdict(Stage.ACQUITTED, _contradicted(heard, decision=True))
    return Verdict(Stage.APPEALED)


def _contradicted(votes: Mapping[PeerId, bool], *, decision: bool) -> tuple[PeerId, ...]:
    return tuple(peer for peer, vote in votes.items() if vote != decision)
