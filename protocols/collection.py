"""What an aggregator has gathered for one round, and when that is enough. Pure.

Models count only with others that were trained from the same parent; the largest such group is what can be merged. The
weight of a model is the number of examples its trainer claims, capped at CAP times the group's median so that one claim
cannot drown the others; and a model whose values are absurdly larger than those of the others is not merged at all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from protocols.messages import Input, TrainedModel, Twice
from sampling.peers import PeerId, Round
from verify.digest import Digest

CAP = 10  # honest shards differ by a few times; a claim beyond ten medians is a mistake or an attack

# A model whose largest value is so many times the others' is unfit: it would turn the mean into one that nobody can
# train from. Honest ones differ by far less, but by more than one would think: a learning rate a hundred times larger
# than the others' was measured to make it 300,000 times as large, and such data 500,000 (tests/learn/test_sgd.py).
ABSURD = 1e9
MODEST_VALUE = 1.0  # no model is judged against smaller ones: theta0 may be all zeros, and so may a liar's


class Collection:
    def __init__(self, round: Round, opened_at: float, most: int) -> None:
        """`most`: trainers of a round; an aggregate of more is refused by everyone."""
        self.round = round
        self._most = most
        self.opened_at = opened_at
        self.latest_at = opened_at
        self._ready: dict[PeerId, tuple[Digest, Input]] = {}  # parent, input
        self.excused: set[PeerId] = set()  # said that they cannot train this round
        self.expelled: set[PeerId] = set()  # offered what is unfit: no part in this round any more
        self.offered: dict[PeerId, Digest] = {}  # being fetched and checked, or ready
        self._largest: dict[PeerId, float] = {}  # value of the model that is ready

    def ready(self, trainer: PeerId, parent: Digest, update: Input, largest: float, now: float) -> None:
        self._ready[trainer] = (parent, update)
        self._largest[trainer] = largest
        self.latest_at = now

    def twice(self, trainer: PeerId, offer: TrainedModel) -> Twice | None:
        """Proof, if what it offers and what is ready of it are two results of one piece of work."""
        parent, ready = self._ready.get(trainer, (None, None))
        if ready is None or parent != offer.parent:
            return None
        other = Input(trainer, offer.model, offer.samples, offer.data, offer.signature)
        return Twice(self.round, offer.parent, ready, other)

    def fetching(self, trainer: PeerId) -> bool:
        return trainer in self.offered and trainer not in self._ready

    def withdraw(self, trainer: PeerId) -> None:
        """It could not be fetched or is unfit; the trainer may offer again."""
        self.offered.pop(trainer, None)
        self._ready.pop(trainer, None)

    def expel(self, trainer: PeerId) -> None:
        """Another trains in its place, as if it had said that it cannot."""
        self.withdraw(trainer)
        self.expelled.add(trainer)
        self.excused.add(trainer)

    def absurd(self) -> list[PeerId]:
        """Those of `inputs` whose models are not to be merged with the others."""
        return absurd({each.trainer: self._largest[each.trainer] for each in self.inputs()})

    def parent(self) -> Digest | None:
        """That of the largest group; on a tie the lowest digest, so that aggregators agree."""
        parents = [parent for parent, _ in self._ready.values()]
        return min(set(parents), key=lambda parent: (-parents.count(parent), parent), default=None)

    def inputs(self) -> tuple[Input, ...]:
        """The first of the largest group, sorted by trainer: what the mean is made of, in this order."""
        best = self.parent()
        group = [update for parent, update in self._ready.values() if parent == best]
        return tuple(sorted(group[: self._most], key=lambda update: update.trainer))


def absurd(largest: Mapping[PeerId, float]) -> list[PeerId]:
    """Given each model's largest absolute value. A pure function of the models, so that aggregators agree."""
    if not largest:
        return []
    # Of two the smaller: that one is harmless, whoever lies.
    usual = max(MODEST_VALUE, statistics.median_low(largest.values()))
    return sorted(peer for peer, value in largest.items() if value > ABSURD * usual)


def quorum(live: int, candidates: int, success_fraction: float) -> int:
    """Models that make a round: the success fraction of the live sample, and never a single one where more peers are
    known, for a mean of one model is no agreement."""
    return max(math.ceil(success_fraction * live - 1e-9), min(2, candidates), 1)


def weights(inputs: Iterable[Input]) -> list[int]:
    return capped([each.samples for each in inputs])


def capped(samples: Sequence[int], beside: Sequence[int] = ()) -> list[int]:
    """At CAP times the median of all, those `beside` among them."""
    cap = max(1, math.floor(CAP * statistics.median([*samples, *beside])))
    return [min(each, cap) for each in samples]
