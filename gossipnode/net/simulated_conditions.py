"""What a simulated network is like: how far, how wide, how unreliable; and what a message costs beside its own bytes.

Every option is a figure or a pure function of the peers' names, so that one seed and one set of conditions give one
trace. The defaults are a fast and faultless wide-area network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocols.limits import KIB
from sampling.peers import PeerId

Delay = float | Mapping[tuple[PeerId, PeerId], float] | Callable[[PeerId, PeerId], float]
Bandwidth = float | Mapping[PeerId, float] | Callable[[PeerId], float]

# What a message costs on the socket beside its payload, as the real transport counts it over loopback (py-libp2p 0.8.1,
# noise and yamux; TCP and IP are not counted). Every layer has its part: noise 18 B a write, yamux 12 B a frame and its
# window updates, multistream-select some 60 B whenever a stream opens.
REQUEST_OVERHEAD_BYTES: Final = 190  # measured 191; a stream of its own each, negotiated in both directions
ANSWER_OVERHEAD_BYTES: Final = 190  # the same
GOSSIP_OVERHEAD_BYTES: Final = 186  # measured 185 and 186 a copy: topic of 30 B, signature, origin, sequence number
ID_BYTES: Final = 48  # of a message, in an announcement (IHAVE)
IHAVE_BYTES: Final = 88  # of the frame around the ids of one topic
ANNOUNCED_TO: Final = 2  # neighbours a heartbeat, as in `libp2p.pubsub`
CHUNK_OVERHEAD_BYTES: Final = 36  # measured 1,730 B beside 3 MiB, which is 36 B for each 64 KiB
HANDSHAKE_BYTES: Final = 2100  # measured 2,097 to 2,099 B each way: noise, muxer, identify, gossip's greeting
FAREWELL_BYTES: Final = 40  # yamux GO_AWAY, or the reset of one stream

DEFAULT_DELAY_S: Final = 0.05  # of pairs that a delay table does not name


@dataclass(frozen=True, slots=True)
class Conditions:
    """The weather. Chances are per message and 0..1; a lost request or answer is felt as silence until the time-out."""

    delay: Delay = DEFAULT_DELAY_S  # one way, seconds; a table may name a pair in either order
    jitter: float = 0.1  # each packet's delay is stretched by a factor drawn from 1 .. 1 + jitter
    bandwidth: Bandwidth = math.inf  # bytes/s of a node's uplink
    downlink: Bandwidth | None = None  # bytes/s; None: as much as the uplink
    request_loss: float = 0.0  # of a question, and again of its answer
    request_duplication: float = 0.0  # the peer answers twice; the asker hears the first answer
    request_reordering: float = 0.0  # a question or answer is held back by up to `reorder_s`
    gossip_loss: float = 0.0  # a subscriber never hears a message, though it passes it on
    gossip_duplication: float = 0.0  # a subscriber hears a message twice
    gossip_reordering: float = 0.0  # a copy is held back by up to `reorder_s`
    reorder_s: float = 1.0
    gossip_degree: int = 8  # copies of a message that a node sends on, as the mesh degree D of GossipSub
    gossip_heartbeat_s: float = 1.0  # what the mesh missed is announced (IHAVE) and asked for within this time
    # The real transport's own time-outs. It gives up a wire that it has not heard for 20 to 22.5 s, and an idle one may
    # have been silent for 7.5 s when its peer vanishes.
    detection_s: float = 12.5
    detection_spread_s: float = 10.0  # detection takes up to this much longer
    dial_timeout_s: float = 8.0
    # A peer that restarts and dials before its death was noticed. False, as on the real transport: the new link takes
    # the old one's place and nobody is told; what was asked over the old one breaks after `replaced_s`. True: LinkDown,
    # then LinkUp.
    restart_seen: bool = False
    replaced_s: float = 5.0
    answer_s: float = 30.0  # an answer that takes longer is given up by who should give it
    open_s: float = 5.0  # until the size of a blob is known
    stall_s: float = 10.0  # a bulk stream without a byte for this long is broken
    chunk_bytes: int = 64 * KIB  # bulk data shares a link with frames in turns of this size
    window_bytes: int = 1024 * KIB  # bulk data sent but not yet read by the receiver

    def one_way_s(self, source: PeerId, target: PeerId) -> float:
        """The delay of the way itself, without jitter."""
        if isinstance(self.delay, (int, float)):
            return self.delay
        if isinstance(self.delay, Mapping):
            back = self.delay.get((target, source), DEFAULT_DELAY_S)
            return self.delay.get((source, target), back)
        return self.delay(source, target)

    def bytes_per_s(self, peer: PeerId) -> tuple[float, float]:
        """Up and down."""
        up = _figure(self.bandwidth, peer)
        return up, up if self.downlink is None else _figure(self.downlink, peer)


def _figure(bandwidth: Bandwidth, peer: PeerId) -> float:
    if isinstance(bandwidth, (int, float)):
        return bandwidth
    if isinstance(bandwidth, Mapping):
        return bandwidth.get(peer, math.inf)
    return bandwidth(peer)


def scattered(seed: int, *, near_s: float = 0.005, far_s: float = 0.15) -> Callable[[PeerId, PeerId], float]:
    """Peers strewn over a square, delay growing with distance: the triangle inequality holds, as it mostly does."""
    places: dict[PeerId, complex] = {}

    def place(peer: PeerId) -> complex:
        if peer not in places:
            rng = random.Random(f"{seed}/place/{peer}")
            places[peer] = complex(rng.random(), rng.random())
        return places[peer]

    return lambda a, b: near_s + (far_s - near_s) * abs(place(a) - place(b)) / math.sqrt(2)
