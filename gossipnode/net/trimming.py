"""Which links to give up when there are more than a node has use for. Pure.

Membership keeps up about eight links; whoever it samples is dialled on demand, and so are we: in a big swarm the
links add up until no newcomer finds a place. What a link is worth is how lately anything was asked or fetched over it:
committees are in use, and the addresses that the operator named are never given up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protocols import limits
from sampling.peers import PeerId


def surplus(idle_s: Mapping[PeerId, float], wanted: Collection[PeerId]) -> list[PeerId]:
    """The links to close, longest idle first. `wanted` are kept in any case."""
    patience_s = limits.LINK_IDLE_CROWDED_S if len(idle_s) >= limits.LINKS_CROWDED else limits.LINK_IDLE_S
    useless = [peer for peer, idle in idle_s.items() if idle >= patience_s and peer not in wanted]
    useless.sort(key=lambda peer: (-idle_s[peer], peer))
    return useless[: max(0, len(idle_s) - limits.LINKS_KEPT)]
