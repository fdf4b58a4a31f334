"""Who is here: links kept up, views exchanged, join and leave said aloud. MoDeST (arXiv 2302.13837) section 3.3.

* One address is enough: the first peer's view names the others, each with a signed record of its addresses.
* Links that break are dialled again for ever, with jittered backoff; a node keeps about DEGREE of them and lets the
  transport dial anyone else on demand.
* Gossip only speeds things up. What repairs is the exchange of deltas with one random linked peer at a time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import trio

from protocols import limits
from protocols.backoff import BACKOFF_FIRST_S, BACKOFF_MOST_S, Backoff
from protocols.desk import Declined, Desk
from protocols.exchanges import Exchanges, Partner
from protocols.liveness import FRESH_S, Liveness
from protocols.messages import (
    AnyMessage,
    Hello,
    Ping,
    Pong,
    Refused,
    Registered,
    Welcome,
)
from protocols.rates import Grant, Rates
from protocols.registration import examined, sign_registration
from protocols.signatures import Signer
from protocols.transport import BadAddress, LinkDown, LinkUp, TransportError
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

DEGREE = 8  # links kept up: GossipSub's mesh wants about 6, and 8 random links connect any swarm we can hold a view of
EXCHANGE_S = 2.0  # between exchanges, jittered by half; a view of n peers is known to all after about log2(n) of them
DIAL_TICK_S = 0.5  # how often missing links are looked for
ACROSS_S = 20.0  # so often one more member is linked: two sides of a partition have links enough of their own
TOUCHES = 3  # times in an activity window that a live peer is noted: each note travels to everybody
TOPIC_CHARS = 16  # of the run's name: the topic is in each copy of each gossip, and what is signed names the run whole
HELLO_S = 10.0  # includes the other side's start-up on a busy machine
GOODBYE_S = 1.0  # of the 5 s in which a node must stop


class Membership:
    def __init__(
        self,
        desk: Desk,
        view: View,
        rules: Rules,
        signer: Signer,
        run: bytes,
        *,
        roles: Sequence[Role],
        bootstrap: Sequence[str],
        counter: int,
        patience: Patience,
        rng: random.Random,
    ) -> None:
        self.desk = desk
        self.view = view
        self.rules = rules
        self.run_id = run
        self.topic = f"/gossipnode/1/{run.hex()[:TOPIC_CHARS]}"
        self.round = Round(0)
        self._checks = Rates[PeerId](
            limits.CHECKS_PER_PEER_PER_S,
            limits.CHECKS_PER_S,
            burst_s=limits.CHECKS_BURST_S,
            remembered=limits.VIEW_PEERS,
        )
        self.liveness = Liveness(desk, patience, rng, lambda: self.round, self._ponged)
        self.counter = counter
        self._signer = signer
        self._roles = tuple(roles)
        self._bootstrap: dict[str, PeerId | None] = dict.fromkeys(bootstrap)
        self._partners: dict[PeerId, Partner] = {}
        self.exchanges = Exchanges(desk, view, self._partners, self)
        self._strangers: set[PeerId] = set()  # of another run or version: told so, left alone
        self._backoffs: dict[str, Backoff] = {}  # by bootstrap address or peer
        self._rng = rng
        self._across_at = 0.0
        self.outbid = trio.Event()  # somebody knows a later record of us than we do: join again
        self.acquainted = trio.Event()  # a first peer of this run has answered
        desk.heard = self._heard
        desk.alive = self.ping
        desk.on(Hello, self._on_hello)
        desk.on(Ping, self._on_ping)
        desk.on_gossip(Registered, self._on_registered)

    # -- for the protocols ---------------------------------------------------------------------------------------------

    @property
    def me(self) -> PeerId:
        return self.desk.me

    def advance(self, round: Round) -> None:
        """We know that the run has come this far; that is our own sign of life."""
        self.round = max(self.round, round)
        self._touch(self.me, self.round)

    def partners(self) -> list[PeerId]:
        return sorted(self._partners)

    async def ping(self, peer: PeerId) -> bool:
        """Is it alive? Asked of the peer itself unless it has been heard from within FRESH_S."""
        if peer == self.me:
            return True
        partner = self._partners.get(peer)
        if partner is not None and trio.current_time() - partner.heard_at < FRESH_S:
            return True
        return await self.liveness.is_alive(peer)

    def _ponged(self, peer: PeerId, pong: Pong, duration_s: float) -> None:
        self.timed(peer, duration_s)
        self.note_round(peer, pong.round)

    def rtt_s(self, peer: PeerId) -> float | None:
        partner = self._partners.get(peer)
        return partner.rtt_s if partner else None

    def timed(self, peer: PeerId, duration_s: float) -> None:
        if partner := self._partners.get(peer):
            before_s = duration_s if partner.rtt_s is None else partner.rtt_s
            partner.rtt_s = before_s + (duration_s - before_s) / 8

    def believe(self, sender: PeerId, delta: Delta) -> None:
        """Merge what holds; what does not is the sender's offence, for it should have checked."""
        for registration in delta.registrations:
            if not self._register(sender, registration):
                return
        horizon = self._horizon()
        for peer, round in delta.activity:
            if 0 <= round <= horizon:
                self.view.touch(peer, round)

    # -- the conversations --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_links, nursery)
            nursery.start_soon(self._keep_links, nursery)
            nursery.start_soon(self._exchange_for_ever)
            nursery.start_soon(self.liveness.run)

    def prepare(self) -> None:
        """Move the counter on; the caller makes it durable before `join` or `leave` says it: none is said twice."""
        self.counter += 1

    async def join(self) -> None:
        await self._announce(present=True)

    async def leave(self) -> None:
        """Tell every partner directly: gossip may not get out before we are gone."""
        await self._announce(present=False)
        with trio.move_on_after(GOODBYE_S):
            async with trio.open_nursery() as nursery:
                for peer in self.partners():
                    nursery.start_soon(self.exchanges.exchange_with, peer)

    async def _announce(self, *, present: bool) -> None:
        registration = sign_registration(
            self._signer,
            self.run_id,
            counter=self.counter,
            present=present,
            roles=self._roles,
            round=self._present_round(),
            addresses=self.desk.transport.addresses(),
        )
        self.view.register(registration)
        await self.desk.tell(self.topic, Registered(registration))

    async def _follow_links(self, nursery: trio.Nursery) -> None:
        async with self.desk.transport.links() as links:
            async for link in links:
                match link:
                    case LinkUp(peer):
                        nursery.start_soon(self._greet, peer)
                    case LinkDown(peer):
                        self._partners.pop(peer, None)

    async def _greet(self, peer: PeerId) -> None:
        """Until it has answered, for as long as the link is up: messages are lost."""
        backoff_s = BACKOFF_FIRST_S
        while peer in self.desk.transport.peers():
            try:
                welcome = await self.desk.ask(peer, self._hello(), Welcome, HELLO_S)
                return await self._greeted(peer, welcome)
            except Declined as refusal:
                return await self._leave_alone(peer, str(refusal))
            except TransportError as error:
                log.info("%s did not greet us: %s", peer, error)
            await trio.sleep(backoff_s * self._rng.uniform(0.5, 1.5))
            backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)

    async def _greeted(self, peer: PeerId, welcome: Welcome) -> None:
        if welcome.run != self.run_id:
            return await self._leave_alone(peer, "it is in another run")
        self._meet(peer, welcome)
        # One of the two begins, and whoever is new, for it waits for what it is told.
        if welcome.seal != self.view.seal and (self.me < peer or not self.acquainted.is_set()):
            await self.exchanges.exchange_with(peer)
        self.acquainted.set()

    def _hello(self) -> Hello:
        return Hello(self.run_id, self.round, self.view.seal, self.view.version)

    def _meet(self, peer: PeerId, greeting: Hello | Welcome) -> None:
        """A linked peer of our run. If it knows the same registrations, neither needs to tell the other its view."""
        self._strangers.discard(peer)
        partner = self._partners.setdefault(peer, Partner())
        if greeting.seal == self.view.seal:
            partner.acknowledged, partner.have = self.view.version, greeting.version
        self.note_round(peer, greeting.round)

    async def _leave_alone(self, peer: PeerId, why: str) -> None:
        if peer not in self._strangers:
            log.warning("%s and we do not belong together: %s", peer, why)
            self._strangers.add(peer)
        await self.desk.transport.drop(peer)

    async def _exchange_for_ever(self) -> None:
        while True:
            await trio.sleep(EXCHANGE_S * self._rng.uniform(0.5, 1.5))
            if partners := self.partners():
                await self.exchanges.exchange_with(self._rng.choice(partners))

    async def _keep_links(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            for target, peer in self._missing():
                backoff = self._backoffs.setdefault(target, Backoff())
                if not backoff.busy and now >= backoff.next_at:
                    backoff.busy = True
                    nursery.start_soon(self._dial, target, peer, backoff)
            await trio.sleep(DIAL_TICK_S * self._rng.uniform(0.5, 1.5))

    def _missing(self) -> list[tuple[str, PeerId | None]]:
        """Whom to dial: the bootstrap addresses that are not linked, and random members up to DEGREE links."""
        linked = self.desk.transport.peers()
        # A bootstrap peer that has too many links closes ours: there is no need for it while there are others.
        idle = len(linked) >= DEGREE
        unlinked = [(at, None) for at, peer in self._bootstrap.items() if peer is None or not (idle or peer in linked)]
        room = DEGREE - len(linked) - sum(backoff.busy for backoff in self._backoffs.values())
        if trio.current_time() >= self._across_at:
            self._across_at = trio.current_time() + ACROSS_S * self._rng.uniform(0.5, 1.5)
            room = max(room, 1)
        chosen = self._unlinked(linked, room) if room > 0 else []
        return [*unlinked, *((str(peer), peer) for peer in chosen)]

    def _unlinked(self, linked: frozenset[PeerId], most: int) -> list[PeerId]:
        """Random members without a link."""
        known = linked | self._strangers | {self.me}
        others = [peer for peer in self.view.present() if peer not in known and not self.desk.shunned(peer)]
        return self._rng.sample(others, min(most, len(others)))

    async def _dial(self, target: str, peer: PeerId | None, backoff: Backoff) -> None:
        try:
            if peer is None:
                self._bootstrap[target] = await self.desk.transport.dial(target)
            else:
                await self.desk.ask(peer, self._hello(), Welcome, HELLO_S)
            backoff.succeeded()
            if self._bootstrap.get(target) in self._strangers:
                backoff.next_at = trio.current_time() + BACKOFF_MOST_S  # it may come to belong to us
        except (TransportError, BadAddress) as error:
            level = logging.WARNING if peer is None and backoff.first else logging.DEBUG
            log.log(level, "cannot reach %s: %s; trying again for ever", target, error)
            backoff.failed(trio.current_time(), self._rng)
        finally:
            backoff.busy = False

    # -- what others ask ----------------------------------------------------------------------------------------------

    async def _on_hello(self, sender: PeerId, hello: Hello) -> AnyMessage:
        if hello.run and hello.run != self.run_id:
            return Refused(f"this is run {self.run_id.hex()[:12]}, not {hello.run.hex()[:12]}")
        if not self.rules.admits(sender):
            return Refused("you are not on this run's allow-list")
        self._strangers.discard(sender)
        if hello.run:
            self._meet(sender, hello)
        return Welcome(self.run_id, self.round, self.view.seal, self.view.version)

    async def _on_ping(self, sender: PeerId, ping: Ping) -> AnyMessage:
        self.note_round(sender, ping.round)
        return Pong(self.round)

    async def _on_registered(self, origin: PeerId, registered: Registered) -> None:
        self._register(origin, registered.registration)

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def _present_round(self) -> Round:
        """How far the run is: as our partners' median has it, for a newcomer has seen no aggregate yet."""
        rounds = sorted(partner.round for partner in self._partners.values())
        return max(self.round, Round(rounds[(len(rounds) - 1) // 2])) if rounds else self.round

    def _register(self, sender: PeerId, registration: Registration) -> bool:
        """False if it is the sender's lie."""
        known = self.view.registration(registration.peer)
        if known is not None and (known.counter, known.signature) >= (registration.counter, registration.signature):
            return True  # nothing new, so nothing to check
        if not self.rules.admits(registration.peer) or registration.round > self._horizon():
            return True  # the sender may know an amendment that we do not, or be far ahead of us
        if sender != self.me and self._checks.take(sender, trio.current_time()) is not Grant.YES:
            return True  # a signature costs 0.1 ms: what is new beyond that is heard another time
        registration, why = examined(registration, self.run_id)
        if why is not None:
            self.desk.accuse(sender, OffenceKind.BAD_SIGNATURE, f"registration of {registration.peer}: {why}")
            return False
        if registration.peer == self.me and registration.counter >= self.counter and sender != self.me:
            # A record of ours that we do not remember: our state was lost, or restored from a backup. Outbid it.
            self.counter = registration.counter
            self.outbid.set()
        elif self.view.register(registration, quiet_since=self.round - self.rules.activity_window):
            self.desk.transport.know(registration.peer, registration.addresses)
            log.debug("%s %s", registration.peer, "joined" if registration.present else "left")
        return True

    def _horizon(self) -> int:
        """The farthest round that may be true: until we know one, any."""
        return self.round + limits.ROUNDS_AHEAD if self.round else limits.ROUND

    def _heard(self, peer: PeerId) -> None:
        self._touch(peer, self.round)
        self.liveness.heard(peer)
        if partner := self._partners.get(peer):
            partner.heard_at = trio.current_time()

    def note_round(self, peer: PeerId, round: Round) -> None:
        self._touch(peer, min(round, Round(self.round + limits.ROUNDS_AHEAD)))
        if partner := self._partners.get(peer):
            partner.round = round

    def _touch(self, peer: PeerId, round: Round) -> None:
        """A sign of life; noted in steps of a third of the activity window."""
        if peer in self.view and round - self.view.last_active(peer) >= self.rules.activity_window // TOUCHES:
            self.view.touch(peer, round)
