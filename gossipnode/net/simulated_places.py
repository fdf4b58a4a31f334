"""Where simulated peers live and how they are connected there: regions of the world, and unequal lines.

Everything is drawn from the seed and the peer's own name, so that a peer is where it is whoever asks and whoever came
before it. The round trips between regions are those that IBM Cloud published for its data centres, the means of 27 July
to 25 August 2024; what lies between a region's exchange and a peer's own line is drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from typing import Final

from sampling.peers import PeerId

REGIONS: Final = (
    "dallas", "toronto", "washington", "frankfurt", "london", "madrid", "osaka", "sydney", "tokyo", "sao paulo",
)  # fmt: skip
HOME_MS: Final = 2  # round trip within a region
_ROUND_TRIPS_MS: Final = (  # from each region to those after it
    (34, 31, 123, 113, 119, 150, 186, 143, 146),
    (19, 93, 82, 108, 168, 215, 162, 129),
    (91, 75, 87, 172, 214, 164, 118),
    (13, 29, 232, 250, 233, 198),
    (27, 244, 261, 243, 188),
    (257, 275, 258, 209),
    (122, 9, 293),
    (115, 328),
    (284,),
    (),
)
LINE_S: Final = (0.001, 0.02)  # one way over a peer's own line, shortest and longest: fibre to mobile radio


def round_trip_ms(a: int, b: int) -> int:
    """Between two regions by index."""
    low, high = sorted((a, b))
    return HOME_MS if low == high else _ROUND_TRIPS_MS[low][high - low - 1]


def regions(seed: int) -> Callable[[PeerId, PeerId], float]:
    """One-way delays of peers strewn over the regions: half the regions' round trip and both peers' own lines."""
    homes: dict[PeerId, tuple[int, float]] = {}
    halves = [[round_trip_ms(a, b) / 2000 for b in range(len(REGIONS))] for a in range(len(REGIONS))]

    def home(peer: PeerId) -> tuple[int, float]:
        rng = random.Random(f"{seed}/home/{peer}")
        homes[peer] = found = rng.randrange(len(REGIONS)), _between(rng, *LINE_S)
        return found

    def one_way_s(source: PeerId, target: PeerId) -> float:
        a, a_line_s = homes.get(source) or home(source)
        b, b_line_s = homes.get(target) or home(target)
        return halves[a][b] + (a_line_s + b_line_s)  # so it is the same both ways

    return one_way_s


def region_of(seed: int, peer: PeerId) -> str:
    """Its name, for a report."""
    return REGIONS[random.Random(f"{seed}/home/{peer}").randrange(len(REGIONS))]


def unequal(seed: int, what: str, low: float, high: float) -> Callable[[PeerId], float]:
    """A figure for each peer between two bounds, as many in each octave: bandwidths or speeds a hundredfold apart."""

    @cache
    def figure(peer: PeerId) -> float:
        return _between(random.Random(f"{seed}/{what}/{peer}"), low, high)

    return figure


def _between(rng: random.Random, low: float, high: float) -> float:
    return low * math.exp(rng.random() * math.log(high / low))
