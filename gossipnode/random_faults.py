"""A random scenario from a seed: what `--random-faults` and `make sim-sweep` let loose on a swarm.

Only faults that an honest majority must survive are drawn: whatever is killed, cut or frozen, at some moment afterwards
enough nodes are alive and connected for the run to go on. Pure: the same seed draws the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from gossipnode.events import Churn, Event, Freeze, Join, Kill, Leave, Partition, Restart, Slow

FAULTS: Final = 4  # most at once in one run
KILLED: Final = 0.6  # most of the swarm at one blow; the 0.8 has a scenario of its own
LASTING_S: Final = (5.0, 20.0, 60.0, 300.0)  # seconds that a fault lasts
LOSSES: Final = (0.0, 0.0, 0.01, 0.05, 0.1)


def random_loss(seed: int) -> float:
    return _rng(seed, "loss").choice(LOSSES)


def random_events(seed: int, nodes: int, rounds: int) -> list[Event]:
    """Between one and FAULTS of them, in the first four fifths of the run, once `start_peers` have met."""
    rng = _rng(seed, "events")
    drawn = [
        rng.choice(_DRAWS)(rng, rng.randint(1, max(1, rounds * 4 // 5)), nodes) for _ in range(rng.randint(1, FAULTS))
    ]
    return [_within(event, rounds) for events in drawn for event in events]


def _within(event: Event, rounds: int) -> Event:
    assert event.at_round is not None
    return msgspec.structs.replace(event, at_round=min(event.at_round, rounds))


def _rng(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed}/random-faults/{what}")


def _share(rng: random.Random, most: float) -> float:
    return round(rng.uniform(0.05, most), 2)


def _kill(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Kill(at_round=at, nodes=_share(rng, KILLED))]


def _kill_and_restart(rng: random.Random, at: int, nodes: int) -> list[Event]:
    later = at + rng.randint(0, 3)
    return [Kill(at_round=at, nodes=_share(rng, KILLED)), Restart(at_round=later, nodes=_share(rng, 1.0))]


def _away(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Kill(at_round=at, nodes=_share(rng, KILLED), for_s=rng.choice(LASTING_S))]


def _leave(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Leave(at_round=at, nodes=_share(rng, 0.3), for_s=rng.choice((None, *LASTING_S)))]


def _join(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Join(at_round=at, nodes=rng.randint(1, nodes))]


def _partition(rng: random.Random, at: int, nodes: int) -> list[Event]:
    groups = (_share(rng, 0.5),) if rng.random() < 0.7 else (0.3, 0.3)
    return [Partition(at_round=at, groups=groups, one_way=rng.random() < 0.3, for_s=rng.choice(LASTING_S))]


def _slow(rng: random.Random, at: int, nodes: int) -> list[Event]:
    latency = rng.choice((3.0, 10.0))  # beyond, a ping takes longer than its ceiling
    factors = {"latency": latency, "bandwidth": rng.choice((1.0, 10.0, 100.0))}
    return [Slow(at_round=at, nodes=_share(rng, 0.5), for_s=rng.choice((None, *LASTING_S)), **factors)]


def _freeze(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Freeze(at_round=at, nodes=_share(rng, KILLED), for_s=rng.choice(LASTING_S))]


def _churn(rng: random.Random, at: int, nodes: int) -> list[Event]:
    return [Churn(at_round=at, every_s=rng.choice((2.0, 10.0, 30.0)), for_s=rng.choice(LASTING_S[2:]))]


Draw = Callable[[random.Random, int, int], list[Event]]

_DRAWS: Final[tuple[Draw, ...]] = (
    _kill,
    _kill_and_restart,
    _away,
    _leave,
    _join,
    _partition,
    _slow,
    _freeze,
    _churn,
)
