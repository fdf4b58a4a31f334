"""Gossip as GossipSub spreads it, at one delivery per subscriber instead of one per copy.

A node that hears a rumour passes it to up to `gossip_degree` linked subscribers that nobody has yet claimed; depth and
delay come out as in a mesh of that degree. For the first rumour of an origin over a link it pays in bytes for the
redundant copy that teaches the mesh its tree (`libp2p.trees`), and after that for announcing what it does not pass on.
Whoever is still unclaimed a heartbeat later gets it then, as from IHAVE and IWANT. Subscriptions are known to all at
once.
Invariant: a message travels over links only, and each subscriber is claimed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio

from gossipnode.net.simulated_conditions import ANNOUNCED_TO, GOSSIP_OVERHEAD_BYTES, ID_BYTES, IHAVE_BYTES
from gossipnode.net.simulated_links import Bounded, Carried, Endpoint, Link
from protocols import limits
from protocols.transport import Gossip
from sampling.peers import PeerId


class Topics:
    """Who subscribes to what, in the order of subscribing. One for the whole network."""

    def __init__(self) -> None:
        self.version = 0
        self._subscribers: dict[str, dict[PeerId, None]] = {}

    def of(self, topic: str) -> dict[PeerId, None]:
        return self._subscribers.get(topic, {})

    def add(self, topic: str, peer: PeerId) -> None:
        self.version += 1
        self._subscribers.setdefault(topic, {})[peer] = None

    def remove(self, topic: str, peer: PeerId) -> None:
        self.version += 1
        self.of(topic).pop(peer, None)


class Rumour:
    """One published message on its way to everyone."""

    __slots__ = ("gossip", "size", "topic", "unclaimed")

    def __init__(self, topic: str, gossip: Gossip, unclaimed: set[PeerId]) -> None:
        self.topic = topic
        self.gossip = gossip
        self.size = len(gossip.frame) + GOSSIP_OVERHEAD_BYTES
        self.unclaimed = unclaimed  # asked and taken from only: its order is never used


class Copy(Carried):
    __slots__ = ("heard", "relayed", "rumour")
    kind = "gossip"

    def __init__(
        self, link: Link, sender: Endpoint, rumour: Rumour, *, heard: bool = True, relayed: bool = True
    ) -> None:
        super().__init__(link, sender, rumour.size)
        self.rumour = rumour
        self.heard = heard  # False: lost on the last step to the application
        self.relayed = relayed  # False: a second delivery of the same message

    def lost(self) -> None:
        if self.relayed:
            self.rumour.unclaimed.add(self.target.peer)


class Mesh:
    """One node's part in gossip."""

    def __init__(self, endpoint: Endpoint, topics: Topics) -> None:
        self.dropped = 0  # messages for which a subscriber was too slow
        self._endpoint = endpoint
        self._conditions = endpoint.wire.conditions
        self._topics = topics
        self._channels: dict[str, list[Bounded[Gossip]]] = {}
        self._audiences: dict[str, tuple[int, int, list[PeerId]]] = {}
        self._learned: dict[PeerId, int] = {}  # origin: of how many neighbours we know that they hear it without us
        self._announced: set[PeerId] = set()  # origins, in this heartbeat
        self._beat = -1
        endpoint.on(Copy, self._heard)

    # -- subscribing --------------------------------------------------------------------------------------------------
    @contextmanager
    def subscribe(self, topic: str) -> Iterator[trio.MemoryReceiveChannel[Gossip]]:
        channel = Bounded[Gossip](limits.GOSSIP_QUEUE)
        channels = self._channels.setdefault(topic, [])
        channels.append(channel)
        self._topics.add(topic, self._endpoint.me)
        try:
            yield channel.receive
        finally:
            channels.remove(channel)
            if not channels and self._endpoint.host.alive:
                self._topics.remove(topic, self._endpoint.me)
            channel.close()
            channel.receive.close()

    def close(self) -> None:
        for topic, channels in self._channels.items():
            self._topics.remove(topic, self._endpoint.me)
            for channel in channels:
                channel.close()

    # -- spreading ----------------------------------------------------------------------------------------------------
    def publish(self, topic: str, frame: bytes) -> None:
        assert len(frame) <= limits.GOSSIP_BYTES, f"gossip of {len(frame)} bytes"
        me = self._endpoint.me
        unclaimed = set(self._topics.of(topic))
        unclaimed.discard(me)
        self._relay(Rumour(topic, Gossip(me, frame), unclaimed), self._conditions.gossip_degree)

    def _heard(self, copy: Copy) -> None:
        rumour = copy.rumour
        if copy.heard:
            for channel in self._channels.get(rumour.topic, ()):
                self.dropped += not channel.put(rumour.gossip)
        if copy.relayed:
            self._relay(rumour, self._conditions.gossip_degree - 1)  # not back to where it came from

    def _relay(self, rumour: Rumour, degree: int) -> None:
        audience = self._audience(rumour.topic)
        fresh = self._fresh(rumour, audience)
        chosen = fresh if len(fresh) <= degree else self._endpoint.host.rng.sample(fresh, degree)
        for peer in chosen:
            self._send_copy(rumour, peer)
        self._pay(rumour, len(chosen), max(0, min(degree, len(audience))))
        if len(fresh) > len(chosen):
            heartbeat_s = self._endpoint.host.rng.random() * self._conditions.gossip_heartbeat_s
            self._endpoint.wire.at(
                trio.current_time() + heartbeat_s, self._endpoint.host, partial(self._repair, rumour)
            )

    def _pay(self, rumour: Rumour, chosen: int, width: int) -> None:
        """For what a real node sends beside the copies that are delivered: redundant copies over `width` links less
        those that it has learned to spare, and announcements of what it spares."""
        origin, occupy = rumour.gossip.origin, self._endpoint.wire.occupy
        if origin == self._endpoint.me:
            return  # to all, always
        untried = max(0, width - chosen - self._learned.get(origin, 0))
        self._learned[origin] = max(width - chosen, self._learned.get(origin, 0))
        occupy(self._endpoint.host, untried * rumour.size, untried * rumour.size)
        told = min(ANNOUNCED_TO, width - chosen - untried)
        if told > 0 and (size := self._announcement_bytes(origin)):
            occupy(self._endpoint.host, told * size, told * size)

    def _announcement_bytes(self, origin: PeerId) -> int:
        """To one neighbour: an id for each origin that was heard since the last heartbeat, in one frame."""
        beat = int(trio.current_time() / self._conditions.gossip_heartbeat_s)
        if beat != self._beat:
            self._beat = beat
            self._announced.clear()
        if origin in self._announced:
            return 0
        first = not self._announced
        self._announced.add(origin)
        return ID_BYTES + first * IHAVE_BYTES

    def _repair(self, rumour: Rumour) -> None:
        for peer in self._fresh(rumour, self._audience(rumour.topic)):
            self._send_copy(rumour, peer)

    def _audience(self, topic: str) -> list[PeerId]:
        """Linked subscribers. Kept until a link or a subscription changes."""
        links, subscriptions = self._endpoint.version, self._topics.version
        kept = self._audiences.get(topic)
        if kept is not None and kept[:2] == (links, subscriptions):
            return kept[2]
        subscribers = self._topics.of(topic)
        audience = [peer for peer in self._endpoint.links if peer in subscribers]
        self._audiences[topic] = (links, subscriptions, audience)
        return audience

    def _fresh(self, rumour: Rumour, audience: list[PeerId]) -> list[PeerId]:
        if not rumour.unclaimed:
            return []
        if not self._endpoint.wire.divided:
            return [peer for peer in audience if peer in rumour.unclaimed]
        blocked = self._endpoint.wire.blocked
        return [peer for peer in audience if peer in rumour.unclaimed and not blocked(self._endpoint.me, peer)]

    def _send_copy(self, rumour: Rumour, peer: PeerId) -> None:
        rumour.unclaimed.discard(peer)
        link, conditions = self._endpoint.links[peer], self._conditions
        heard = not self._happens(conditions.gossip_loss)
        self._send(Copy(link, self._endpoint, rumour, heard=heard))
        if self._happens(conditions.gossip_duplication):
            self._send(Copy(link, self._endpoint, rumour, relayed=False))

    def _send(self, copy: Copy) -> None:
        wire, host = self._endpoint.wire, self._endpoint.host
        if self._happens(self._conditions.gossip_reordering):
            held_s = host.rng.random() * self._conditions.reorder_s
            copy.delay_s = wire.draw_delay_s(host, copy.target.peer) + held_s
        wire.send(copy)

    def _happens(self, chance: float) -> bool:
        return chance > 0.0 and self._endpoint.host.rng.random() < chance
