"""What an aggregator has gathered for one round, and when that is enough. Pure.

Models count only with others that were trained from the same parent; the largest such group is what can be merged. The
weight of a model is the number of examples its trainer claims, capped at CAP times the group's median so that one claim
cannot drown the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from protocols.messages import Input
from sampling.peers import PeerId, Round
from verify.digest import Digest

CAP = 10  # honest shards differ by a few times; a claim beyond ten medians is a mistake or an attack


class Collection:
    def __init__(self, round: Round, opened_at: float, most: int) -> None:
        """`most`: trainers of a round; an aggregate of more is refused by everyone."""
        self.round = round
        self._most = most
        self.opened_at = opened_at
        self.latest_at = opened_at
        self._ready: dict[PeerId, tuple[Digest, Input]] = {}  # parent, input
        self.excused: set[PeerId] = set()  # said that they cannot train this round
        self.offered: dict[PeerId, Digest] = {}  # being fetched and checked, or ready

    def ready(self, trainer: PeerId, parent: Digest, update: Input, now: float) -> None:
        self._ready[trainer] = (parent, update)
        self.latest_at = now

    def fetching(self, trainer: PeerId) -> bool:
        return trainer in self.offered and trainer not in self._ready

    def withdraw(self, trainer: PeerId) -> None:
        """It could not be fetched or is unfit; the trainer may offer again."""
        self.offered.pop(trainer, None)
        self._ready.pop(trainer, None)

    def parent(self) -> Digest | None:
        """That of the largest group; on a tie the lowest digest, so that aggregators agree."""
        parents = [parent for parent, _ in self._ready.values()]
        return min(set(parents), key=lambda parent: (-parents.count(parent), parent), default=None)

    def inputs(self) -> tuple[Input, ...]:
        """The first of the largest group, sorted by trainer: what the mean is made of, in this order."""
        best = self.parent()
        group = [update for parent, update in self._ready.values() if parent == best]
        return tuple(sorted(group[: self._most], key=lambda update: update.trainer))


def quorum(live: int, candidates: int, success_fraction: float) -> int:
    """Models that make a round: the success fraction of the live sample, and never a single one where more peers are
    known, for a mean of one model is no agreement."""
    return max(math.ceil(success_fraction * live - 1e-9), min(2, candidates), 1)


def weights(inputs: Iterable[Input]) -> list[int]:
    samples = [each.samples for each in inputs]
    cap = max(1, math.floor(CAP * statistics.median(samples)))
    return [min(each, cap) for each in samples]
