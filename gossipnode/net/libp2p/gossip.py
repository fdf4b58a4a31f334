"""Our own subscriptions: one bounded channel a subscriber, which drops its oldest message and counts it.

A message id is delivered to a topic once, also when libp2p, which forgets ids after two minutes, hears it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from gossipnode.net.libp2p.sockets import Tally
from protocols import limits
from protocols.transport import Gossip
from sampling.peers import PeerId

RECENT: Final = 4096  # message ids remembered a topic: 40 s of 100 messages a second, or days of a quiet run


class Subscriber:
    def __init__(self) -> None:
        self._send, self.receive = trio.open_memory_channel[Gossip](limits.GOSSIP_QUEUE)
        self._oldest = self.receive.clone()

    def put(self, gossip: Gossip) -> int:
        """How many messages had to go for it: 0 or 1."""
        try:
            self._send.send_nowait(gossip)
        except trio.WouldBlock:
            self._oldest.receive_nowait()
            self._send.send_nowait(gossip)
            return 1
        return 0

    def close(self) -> None:
        for end in (self._send, self.receive, self._oldest):
            end.close()


class Topics:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._recent: dict[str, OrderedDict[bytes, None]] = {}

    def count(self, topic: str) -> int:
        return len(self._subscribers.get(topic, ()))

    @contextmanager
    def subscriber(self, topic: str) -> Iterator[Subscriber]:
        subscriber = Subscriber()
        self._subscribers.setdefault(topic, []).append(subscriber)
        try:
            yield subscriber
        finally:
            subscriber.close()
            self._subscribers[topic].remove(subscriber)
            if not self._subscribers[topic]:
                del self._subscribers[topic]
                self._recent.pop(topic, None)

    def deliver(self, topic: str, message_id: bytes, origin: PeerId, frame: bytes) -> None:
        if topic in self._subscribers and self._is_new(topic, message_id):
            for subscriber in self._subscribers[topic]:
                self._tally.gossip_dropped += subscriber.put(Gossip(origin, frame))

    def _is_new(self, topic: str, message_id: bytes) -> bool:
        recent = self._recent.setdefault(topic, OrderedDict())
        if message_id in recent:
            return False
        recent[message_id] = None
        if len(recent) > RECENT:
            recent.popitem(last=False)
        return True
