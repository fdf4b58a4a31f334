"""GossipSub v1.1, tuned, and with the seams through which a peer could stop or starve it closed.

One task reads each peer and finishes a message before it takes the next: order is kept, and a fast peer is slowed down
rather than queued without end. Validation never yields, so that no message is delivered twice. What arrives goes at
once into our own bounded channels (`gossip.Topics`). Message ids are GossipSub's default
(origin || seqno), as other implementations expect. A frame carries nothing that its reader knows already: no key beside
an id that contains it, no record of the sender, and no message to who hears it from others (`trees`).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.exceptions import ValidationError
from libp2p.io.exceptions import MessageTooLarge
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.utils import maybe_consume_signed_record, safe_bytes_from_hex
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from gossipnode.net.libp2p.addresses import name_of
from gossipnode.net.libp2p.faults import Faults, one_line
from gossipnode.net.libp2p.gossip import Topics
from gossipnode.net.libp2p.guards import BROKEN, reset
from gossipnode.net.libp2p.trees import Trees
from protocols import limits
from protocols.rates import Bucket, Grant, Rates

log = logging.getLogger("gossipnode.net")

HEARTBEAT_S: Final = 1  # libp2p's 120 s would leave a restarted peer out of the mesh for two minutes
DEGREE: Final = 8
DEGREE_LOW: Final = 6  # a swarm of eight has hardly a neighbour outside the mesh, to be told of every message
DEGREE_HIGH: Final = 2 * limits.LINKS  # never reached: pruning loses messages; how many we dial bounds the degree
OUTBOUND_RPCS: Final = 256  # a peer's outbound queue; libp2p drops silently beyond its 32
ANNOUNCED_TO: Final = 2  # neighbours a heartbeat: of six that tell two of seven each, one in eight is told by none
SEQNO_BYTES: Final = 8  # at the end of a message's id
PACE_RPCS: Final = 16  # we publish only while every such queue is shorter


class GuardedRouter(GossipSub):
    """GossipSub without its tables of whole messages and with failures that end one step, not the service."""

    trees: Trees[ID]

    def attach(self, pubsub: Pubsub) -> None:
        super().attach(pubsub)
        self.trees = Trees(pubsub.my_id)

    async def heartbeat(self) -> None:
        while True:
            try:
                await super().heartbeat()
            except Exception as error:  # a heartbeat that trips over what a peer sent must beat again
                log.warning("a gossip heartbeat failed: %s", one_line(error))
            await trio.sleep(HEARTBEAT_S)

    async def flush_pending_messages(self, peer_id: ID) -> None:
        try:
            await super().flush_pending_messages(peer_id)
        except Exception as error:  # runs as a bare task: what it raises would end the service
            log.debug("flushing to %s failed: %s", peer_id, one_line(error))

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        try:
            await super().on_peer_subscribed(peer_id, topic)
        except Exception as error:  # runs as a bare task: what it raises would end the service
            log.debug("grafting %s failed: %s", peer_id, one_line(error))

    # Nobody is pruned here for having too many neighbours: a PRUNE means that a node has left. It may be back at once,
    # and would be shut out for 60 s if it grafted within 10, so there is no back-off, and no GRAFT comes too soon.

    def _check_back_off(self, peer: ID, topic: str) -> bool:
        return False

    def _check_graft_flood_protection(self, peer_id: ID, topic: str) -> bool:
        return True

    def _get_peers_to_send(
        self, topic_ids: Iterable[str], msg_forwarder: ID, origin: ID, msg_id: bytes | None = None
    ) -> Iterable[ID]:
        """Also to subscribers that are not grafted yet: what passes just before a graft is never offered again. Not to
        those who hear it from others."""
        topic_ids = list(topic_ids)
        known = set(super()._get_peers_to_send(topic_ids, msg_forwarder, origin, msg_id))
        assert self.pubsub is not None
        subscribed = {peer for topic in topic_ids for peer in self.pubsub.peer_topics.get(topic, ())}
        others = subscribed - known - {msg_forwarder, origin}
        audience = known | set(islice(others, max(0, DEGREE_LOW - len(known))))
        return audience if msg_id is None else self.trees.pushed(origin, audience, topic_ids, msg_id)

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """And to a few what they were not sent."""
        gossip = super().gossip_heartbeat()
        withheld = self.trees.announcements()
        for peer in self.select_from_minus(ANNOUNCED_TO, withheld, ()):
            for topic, ids in withheld[peer].items():
                gossip[peer].setdefault(topic, []).extend(ids)
        return gossip

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        for wanted in iwant_msg.messageIDs:
            if (message_id := safe_bytes_from_hex(wanted)) is not None:
                self.trees.wanted(ID(message_id[:-SEQNO_BYTES]), sender_peer_id)
        await super().handle_iwant(iwant_msg, sender_peer_id)

    def remove_peer(self, peer_id: ID) -> None:
        super().remove_peer(peer_id)
        self.trees.gone(peer_id)

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True  # the table would keep a thousand whole messages; a repeated id is dropped as seen anyway

    def _periodic_security_cleanup(self) -> None:
        super()._periodic_security_cleanup()
        self.recent_message_deliveries.clear()  # nobody else does while adaptive gossip is off: eight bytes a message
        self.recent_peer_connections.clear()
        self.recent_peer_disconnections.clear()


class GuardedPubsub(Pubsub):
    def __init__(self, host: IHost, router: GuardedRouter, faults: Faults, topics: Topics) -> None:
        super().__init__(host, router)
        self.service = router  # to be run beside this one
        # Nanoseconds: seconds plus a message a step is behind itself after a restart, and peers drop us as seen.
        self.counter = time.time_ns()
        self._topics = topics
        self._faults = faults
        self._rates = Rates[ID](
            limits.GOSSIP_PER_PEER_PER_S,
            limits.GOSSIP_PER_S,
            burst_s=limits.GOSSIP_BURST_S,
            remembered=limits.VIEW_PEERS,
        )
        self._records: dict[ID, bytes] = {}  # each peer's last verified record: it comes with every RPC

    # -- reading ------------------------------------------------------------------------------------------------------

    async def stream_handler(self, stream: INetStream) -> None:
        """Until the stream ends. What garbage raises (half a dozen kinds) is `guards.guarded`'s to report."""
        raw = stream.muxed_conn.peer_id
        try:
            await self.continuously_read_stream(stream)
        except MessageTooLarge as error:
            # Begin again at once: the peer may be honest and another implementation at fault.
            self._faults.note(name_of(raw), "oversize-gossip", error)
            self._handle_dead_peer(raw)
        finally:
            self._records.pop(raw, None)
            await reset(stream)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        raw, per_s = stream.muxed_conn.peer_id, limits.GOSSIP_PER_LINK_PER_S
        pace = Bucket(per_s, per_s * limits.GOSSIP_BURST_S, trio.current_time())
        while self.manager.is_running:
            frame = await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(frame)
            await self._take(raw, rpc)
            # Who sends faster is read no faster: what it has queued is its own, and the others' turn comes first.
            await trio.sleep(pace.owe(cost_of(rpc), trio.current_time()))

    async def _take(self, raw: ID, rpc: rpc_pb2.RPC) -> None:
        if not self._is_record_valid(raw, rpc):
            self._faults.note(name_of(raw), "garbage", "a peer record that is not its own")
            return
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message):
                if self._is_msg_seen(message):
                    self.service.trees.repeated(ID(message.from_id), raw)
                else:
                    await self.push_msg(raw, message)
        if len(rpc.subscriptions) > self.max_subscriptions_per_rpc:
            self._faults.note(name_of(raw), "flood", "too many subscriptions at once")
        else:
            for subscription in rpc.subscriptions:
                self.handle_subscription(raw, subscription)
        if rpc.HasField("control"):
            rpc.ClearField("senderRecord")  # verified above; the router would verify it again
            await self.router.handle_rpc(rpc, raw)

    def _is_record_valid(self, raw: ID, rpc: rpc_pb2.RPC) -> bool:
        if not rpc.HasField("senderRecord") or self._records.get(raw) == rpc.senderRecord:
            return True
        if not maybe_consume_signed_record(rpc, self.host, raw):
            return False
        self._records[raw] = rpc.senderRecord
        return True

    async def validate_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """After the signature and before delivery; without a checkpoint, or copies from two neighbours both pass."""
        if len(msg.data) > limits.GOSSIP_BYTES:
            self._faults.note(name_of(ID(msg.from_id)), "oversize-gossip", f"{len(msg.data)} bytes")
            raise ValidationError("too long")
        origin = ID(msg.from_id)
        if origin == self.my_id:
            return
        grant = self._rates.take(origin, trio.current_time())
        if grant is Grant.YES:
            return
        if grant is Grant.TOO_FAST and msg_forwarder == origin:  # any other may be saying old words again
            self._faults.note(name_of(origin), "flood", "too much gossip of its own")
        raise ValidationError("too many")

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Straight into our own channels: libp2p's hold 32 and drop the newest."""
        origin = ID(publish_message.from_id)
        if origin == self.my_id:
            return
        message_id = self.get_message_id(publish_message)
        for topic in publish_message.topicIDs:
            self._topics.deliver(topic, message_id, name_of(origin), publish_message.data)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        if msg_forwarder == self.my_id:
            msg.ClearField("key")  # an Ed25519 id contains it; go-libp2p leaves it out as well
        await super().push_msg(msg_forwarder, msg)

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        rpc_msg.ClearField("senderRecord")  # py-libp2p's own addition, 200 bytes with every frame: identify has told it
        return await super().write_msg(stream, rpc_msg)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        queue._queue.max_size = OUTBOUND_RPCS
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, peer_id, stream)
                await super().handle_sending_messages(peer_id, stream, queue)
                nursery.cancel_scope.cancel()
        except Exception as error:  # runs as a bare task: what it raises would end the service
            log.debug("sending gossip to %s ended: %s", peer_id, one_line(error))

    async def _watch(self, peer_id: ID, stream: INetStream) -> None:
        """Nothing comes back on our outbound stream, except its reset: learn it now, not when a message is lost."""
        try:
            while await stream.read(1):
                pass
        except BROKEN:
            if is_half_closed(stream):
                return  # its writing end only: we may still write
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """The peer's outbound stream is gone. While it is linked, it stays subscribed: it will not say so again."""
        stream = self.peers.get(peer_id)
        topics = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        super()._handle_dead_peer(peer_id)
        if self._peer_is_connected(peer_id):
            for topic in topics:
                self.peer_topics.setdefault(topic, set()).add(peer_id)
            self._peer_subscription_count[peer_id] = len(topics)
        if stream is not None and self.manager.is_running:
            self.manager.run_task(reset, stream)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        await super()._handle_new_peer(peer_id)
        if peer_id in self.peers:
            for topic in [topic for topic, peers in self.peer_topics.items() if peer_id in peers]:
                await self.router.on_peer_subscribed(peer_id, topic)

    def is_congested(self) -> bool:
        return any(len(queue) >= PACE_RPCS for queue in self.peer_queues.values())


def cost_of(rpc: rpc_pb2.RPC) -> float:
    """In messages to be checked; an id in a list of them is looked up, and a hundred make a message's work."""
    control = rpc.control
    ids = sum(len(each.messageIDs) for each in control.ihave) + sum(len(each.messageIDs) for each in control.iwant)
    entries = len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
    return 1.0 + len(rpc.publish) + entries + ids / 100


def is_half_closed(stream: INetStream) -> bool:
    """Yamux raises the same StreamEOF for a reset."""
    muxed = getattr(stream, "muxed_stream")  # noqa: B009  # not in the interface, but in every stream there is
    return bool(muxed.recv_closed and not muxed.closed)


def new_pubsub(host: IHost, faults: Faults, topics: Topics) -> GuardedPubsub:
    router = GuardedRouter(
        protocols=[PROTOCOL_ID_V11],  # 1.2 answers every message, however small, with one of its own
        degree=DEGREE,
        degree_low=DEGREE_LOW,
        degree_high=DEGREE_HIGH,
        heartbeat_interval=HEARTBEAT_S,
        gossip_window=1,  # an id is announced once: it is lost only with the link
        adaptive_gossip_enabled=False,  # it slows the heartbeat down when the network is unwell
        spam_protection_enabled=False,  # it drops honest relays beyond ten messages a second
        eclipse_protection_enabled=False,  # it wants three IP addresses in every mesh
    )
    return GuardedPubsub(host, router, faults, topics)
