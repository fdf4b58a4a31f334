"""One node: membership and a protocol over the two seams. The daemon and the simulator build its parts and run this, so
that what is simulated is what runs.

`Node.run` starts everything, `leave` says goodbye; `gossipnode.snapshot` shows it to the operator.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import trio

from gossipnode.status.report import HISTORY_ROUNDS, Learning, RoundStatus
from gossipnode.trainings import AnyLearner, Ears, Finished, make
from protocols import limits, wire
from protocols.answering import Answering
from protocols.backoff import Backoff
from protocols.blobs import Blobs
from protocols.claiming import private_data, public_data
from protocols.desk import Desk
from protocols.evidence import Judgement
from protocols.exchange import ModelExchange
from protocols.head import Parts
from protocols.learner import Evaluation
from protocols.manifest import Manifest
from protocols.membership import Membership
from protocols.messages import Aggregate, AskManifest, ManifestIs, Refused
from protocols.onebyte.journal import Log
from protocols.ownclaims import Docket
from protocols.rates import Grant, Rates
from protocols.signatures import Signer
from protocols.training import Training
from protocols.transport import Transport
from sampling.admission import Rules
from sampling.patience import Patience
from sampling.peers import PeerId, Role
from sampling.sampler import Sampler
from sampling.view import Delta, View
from verify.digest import Digest
from verify.standing import Offence, OffenceKind, Past, Standing

log = logging.getLogger(__name__)

REMEMBER_FIRST_S, REMEMBER_MOST_S = 1.0, 300.0  # between two saves of whom we know, ever longer
TWIN_S = 300.0  # without a later record of ours at a peer: whoever made the last one has gone
TWIN_PAUSE_S = 8.0  # between two of them when the operator is told, four in a row: one is a lost state, two a race

FAULTS = {  # what the transport reports of a peer, as an offence
    "oversize-gossip": OffenceKind.OVERSIZE,
    "oversize-request": OffenceKind.OVERSIZE,
    "flood": OffenceKind.FLOOD,
}


class Hashed(msgspec.Struct, frozen=True, kw_only=True):
    """A of one-byte training, as this node once had it."""

    height: int
    block: bytes
    model: bytes


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must find again after a crash; the blob that `held` names is in the store."""

    counter: int = 0
    held: Aggregate | None = None
    view: Delta = Delta()
    past: Past = Past()  # of the peers' standing
    docket: Docket = Docket()  # of claims and audits
    hashed: Hashed | None = None  # the last time: for `gossipnode chain verify` to compare


Save = Callable[[State], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Run:
    """The run, and this node's place in it."""

    run_id: bytes
    manifest: Manifest
    signed: bytes  # what newcomers are given
    roles: Sequence[Role] = (Role.TRAINER,)
    bootstrap: Sequence[str] = ()
    evaluate_every: int = 5
    answers: bool = False  # questions to the model
    shard: str = ""  # of our data, if others can make it again; "": they are our own
    slowdown: float = 1.0


class Node:
    def __init__(
        self,
        run: Run,
        transport: Transport,
        learner: AnyLearner,
        blobs: Blobs,
        signer: Signer,
        *,
        state: State,
        save: Save,
        log: Log,
        rng: random.Random,
    ) -> None:
        """`log`: of the chain, if the run has one. Raises BadJournal."""
        self.run_info = run
        self.standing = Standing(state.past)
        self.history: deque[RoundStatus] = deque(maxlen=HISTORY_ROUNDS)
        self.learning: Learning | None = None
        self.checkpoint_round: int | None = None
        self.checkpoint_error: str | None = None
        self.joined = trio.Event()
        self.believed: Callable[[Finished], None] = _unheard  # a simulation hears of every round it believes to be over
        # Offences that one peer may commit before its link is closed, whatever they weigh; and lines of the log on it.
        self._borne = Rates[PeerId](
            limits.FLOODS_PER_S, limits.REQUESTS_PER_S, burst_s=limits.FLOODS_BURST_S, remembered=limits.VIEW_PEERS
        )
        self._told = Rates[PeerId](
            limits.LINES_PER_S, limits.LINES_PER_S * 10, burst_s=limits.LINES_BURST_S, remembered=limits.VIEW_PEERS
        )
        self._transport = transport
        self._save = save
        self._state = state
        self._hashed = state.hashed
        self._saving = trio.Lock()
        self._round_began_at: float | None = None
        self._traffic_before = 0
        self.parts = self._build(run, transport, learner, blobs, signer, rng)
        self._nursery: trio.Nursery | None = None
        made = make(
            self.parts,
            learner,
            signer,
            log,
            ears=self._ears(),
            held=state.held,
            docket=state.docket,
            trains=Role.TRAINER in run.roles,
            evaluate_every=run.evaluate_every,
            slowdown=run.slowdown,
        )
        self.protocol: Training = made.training
        self._beside = made.beside
        if run.answers:
            Answering(self.parts, self.protocol)
        self._answering: dict[trio.CancelScope, None] = {}  # in order, so that a simulation can be repeated

    def _build(
        self, run: Run, transport: Transport, learner: AnyLearner, blobs: Blobs, signer: Signer, rng: random.Random
    ) -> Parts:
        manifest = run.manifest
        rules = rules_of(manifest)
        view = View(limits.VIEW_PEERS, first_version=rng.getrandbits(40) << 20)
        desk = Desk(transport, self.accuse)
        desk.shunned, desk.known = self._shunned, view.__contains__
        desk.on(AskManifest, self._on_ask_manifest)
        timing = manifest.timing
        membership = Membership(
            desk,
            view,
            rules,
            signer,
            run.run_id,
            roles=run.roles,
            bootstrap=run.bootstrap,
            counter=self._state.counter,
            patience=Patience(timing.ping_floor_s, timing.ping_ceiling_s),
            rng=rng,
        )
        membership.believe(transport.me, self._state.view)
        sampler = Sampler(view, rules, run.run_id, membership.ping, lambda peer: not self._shunned(peer))
        exchange = ModelExchange(transport, blobs, manifest.model_bytes, self.accuse, membership.ping)
        named = run.shard if manifest.audit.policy != "probe" else ""  # then nobody says what others could replay
        data = public_data(named) if named else private_data(signer, run.run_id)
        return Parts(desk, membership, sampler, exchange, learner, blobs, manifest, rng, signer, data)

    def _ears(self) -> Ears:
        return Ears(
            began=self._began,
            save=self.save,
            save_soon=self._save_soon,
            learnt=self._learnt,
            turned=self._turned,
            evaluated=self._evaluated,
            hashed=self._hash,
            judged=self._judged,
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        membership, desk = self.parts.membership, self.parts.desk
        membership.advance(self.protocol.clock)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._until_over)
            nursery.start_soon(desk.listen, membership.topic)
            nursery.start_soon(membership.run)
            if self.run_info.bootstrap:
                with trio.move_on_after(limits.ACQUAINTED_S):  # to join with the present round, not with ours of old
                    await membership.acquainted.wait()
            await self._join()
            nursery.start_soon(self._stay_joined)
            nursery.start_soon(self._remember_peers)
            nursery.start_soon(self.protocol.run)
            for task in self._beside:
                nursery.start_soon(task)
            self.joined.set()

    async def answer(self, sender: PeerId, frame: bytes) -> bytes:
        """What peers ask; the transport is to serve it from the start, and still does while we leave."""
        with trio.CancelScope() as scope:
            self._answering[scope] = None
            try:
                return await self.parts.desk.answer(sender, frame)
            finally:
                del self._answering[scope]
        return wire.encode(Refused("we are leaving"))

    async def _until_over(self) -> None:
        """Ends with the first of our tasks: an answer under way must not find the nurseries closed that it needs."""
        try:
            await trio.sleep_forever()
        finally:
            self.parts.desk.leaving, self._nursery = True, None
            for scope in self._answering:
                scope.cancel()

    async def _join(self) -> None:
        membership = self.parts.membership
        membership.prepare()
        await self.save()  # before anyone hears it: a counter is never said twice
        await membership.join()

    async def _stay_joined(self) -> None:
        """Outbid once, a lost state is behind us. Outbid again and again, somebody else lives under our name."""
        membership, backoff = self.parts.membership, Backoff()
        while True:
            waited_from = trio.current_time()
            await membership.outbid.wait()
            membership.outbid = trio.Event()
            await self._join()
            if trio.current_time() - waited_from > TWIN_S:
                backoff.succeeded()
            backoff.failed(trio.current_time(), self.parts.rng)
            if backoff.delay_s == TWIN_PAUSE_S:
                log.error("another process has this node's identity: stop one of them, or give it a home of its own")
            await trio.sleep_until(backoff.next_at)

    async def _remember_peers(self) -> None:
        """Whoever we have met must be found again after a crash: the node that we were pointed at may be gone then."""
        pause_s = REMEMBER_FIRST_S
        while True:
            await trio.sleep(pause_s * self.parts.rng.uniform(0.5, 1.5))
            await self.save()
            pause_s = min(2 * pause_s, REMEMBER_MOST_S)

    async def leave(self) -> None:
        """Say goodbye and save; quick, for the operator waits."""
        await self.protocol.leave()
        self.parts.membership.prepare()
        await self.save()
        await self.parts.membership.leave()

    async def save(self) -> None:
        """A failed save is told in the status, and training goes on."""
        async with self._saving:
            state = self._state_now()
            try:
                await self._save(state)
            except OSError as error:
                self.checkpoint_error = str(error)
                return log.error("the checkpoint could not be saved: %s", error)
            self.checkpoint_error = None
            self.checkpoint_round = state.held.round if state.held else self._certified()
        return None

    def _save_soon(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.save)

    def _certified(self) -> int | None:
        """A chain's journal begins there."""
        return None if self.protocol.chain is None else self.protocol.chain.certified_height

    def _state_now(self) -> State:
        membership = self.parts.membership
        held = self.protocol.held or self._state.held
        view, _ = membership.view.delta(-1, limits.VIEW_PEERS)
        past, docket = self.standing.past(), self.protocol.docket
        return State(counter=membership.counter, held=held, view=view, past=past, docket=docket, hashed=self._hashed)

    # -- what the parts tell us ---------------------------------------------------------------------------------------

    def accuse(self, peer: PeerId, kind: OffenceKind, detail: str) -> None:
        """A peer's fault: record it, and part from a peer that has too many."""
        if peer == self._transport.me:
            return log.error("we would accuse ourselves of %s: %s", kind, detail)
        offence = Offence(peer, kind, self.parts.membership.round, detail)
        verdict = self.standing.record(offence)
        now = trio.current_time()
        level = logging.WARNING if self._told.take(peer, now) is Grant.YES else logging.DEBUG
        log.log(level, "offence of %s: %s: %s", peer, kind, offence.detail)
        borne = self._borne.take(peer, now) is not Grant.TOO_FAST
        if self._nursery is None:
            return None
        if verdict.fresh:
            log.warning("%s is in quarantine", peer)
            self._nursery.start_soon(self.save)  # a crash now must not be its acquittal
        if verdict.fresh or (not borne and peer in self._transport.peers()):
            self._nursery.start_soon(self._transport.drop, peer)
        return None

    def may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        """For the transport: is this blob of ours for that peer?"""
        return self.protocol.may_fetch(peer, blob)

    def _judged(self, judgement: Judgement) -> None:
        """Evidence that all share has changed: whoever it expels is neither linked nor sampled from now on."""
        for peer in self.standing.sentence(judgement.expelled, judgement.suspended):
            if peer == self._transport.me:
                log.error("the swarm believes that this node lies: %s", self.standing.why(peer))
                continue
            log.warning("%s is out: %s", peer, self.standing.why(peer))
            if self._nursery is not None:
                self._nursery.start_soon(self._transport.drop, peer)
        self._save_soon()

    def fault(self, peer: PeerId | None, kind: str) -> None:
        """The transport's word on a peer (its `on_fault`)."""
        if peer is not None:
            self.accuse(peer, FAULTS.get(kind, OffenceKind.MALFORMED_FRAME), kind)

    def _shunned(self, peer: PeerId) -> bool:
        return self.standing.quarantined(peer, self.parts.membership.round)

    async def _on_ask_manifest(self, sender: PeerId, question: AskManifest) -> ManifestIs:
        return ManifestIs(self.run_info.signed)

    def _began(self) -> None:
        self._round_began_at, self._traffic_before = trio.current_time(), self._wire()

    def _learnt(self, finished: Finished) -> None:
        now, wire = trio.current_time(), self._wire()
        began, self._round_began_at = self._round_began_at, now
        used, self._traffic_before = wire - self._traffic_before, wire
        entry = RoundStatus(
            round=finished.round,
            trainers=list(finished.trainers),
            aggregators=list(finished.aggregators),
            digest=finished.digest.hex(),
            seconds=0.0 if began is None else now - began,
            bytes=used,
        )
        self.history.append(entry)
        if self.protocol.chain is None:
            log.info("round %d: %d models merged", entry.round, len(entry.trainers))
        else:  # there are many more steps than rounds
            log.debug("step %d: the bytes of %d count", entry.round, len(entry.trainers))
        self.believed(finished)

    def _turned(self, finished: Finished) -> None:
        self.believed(finished)

    def _evaluated(self, round: int, found: Evaluation) -> None:
        self.learning = Learning(loss=found.loss, accuracy=found.accuracy, samples=found.samples, evaluated_round=round)
        unit = "round" if self.protocol.chain is None else "step"
        log.info("%s %d: accuracy %.4f, loss %.4f", unit, round, found.accuracy, found.loss)
        for index in range(len(self.history) - 1, -1, -1):
            if self.history[index].round == round:
                self.history[index] = msgspec.structs.replace(self.history[index], accuracy=found.accuracy)
                break

    def _hash(self, height: int, block: Digest, model: Digest) -> None:
        self._hashed = Hashed(height=height, block=block, model=model)

    def _wire(self) -> int:
        traffic = self._transport.traffic()
        return traffic.wire_sent + traffic.wire_received


def _unheard(finished: Finished) -> None:
    pass


def rules_of(manifest: Manifest) -> Rules:
    admission = manifest.admission
    return Rules(
        allow=frozenset(admission.allow) if admission.mode == "allow" else None,
        delay_rounds=admission.delay_rounds,
        activity_window=manifest.modest.activity_window,
    )
