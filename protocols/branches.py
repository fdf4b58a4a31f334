"""Which of two aggregates of one round to go on from, when a swarm was divided and has met again. Pure.

Each side has followed MoDeST's rules and has an aggregate of its own. All must choose alike from what each hears, so a
branch counts only with support (a third of those who answered, at least two), and between two that have it, or if none
has, the one made of more models is better, then the lower digest. Who is on a branch without support leaves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from protocols.messages import Aggregate
from verify.digest import Digest


def better_branch(mine: Aggregate, heads: Sequence[Aggregate]) -> Aggregate | None:
    """The branch to change to, or None to stay. `heads`: what others named as theirs, one each."""
    rivals = {head.model: head for head in heads if head.round == mine.round}
    support: Counter[Digest] = Counter(head.model for head in heads if head.round == mine.round)
    support[mine.model] += 1
    enough = max(2, support.total() / 3)
    rivals.pop(mine.model, None)
    supported = [head for model, head in rivals.items() if support[model] >= enough]
    if supported and support[mine.model] < enough:
        return max(supported, key=_merit)
    # None has support where two nodes are left, or ten are on ten branches: then merit alone decides.
    choice = [mine, *(supported if support[mine.model] >= enough else rivals.values())]
    best = max(choice, key=_merit)
    return None if best is mine else best


def _merit(aggregate: Aggregate) -> tuple[int, int]:
    return len(aggregate.inputs), -int.from_bytes(aggregate.model, "big")
