"""The daemon: a home and a configuration in, one running node out. Reads top down as a node's life goes: identity,
transport, manifest, worker, node; then a signal, goodbyes, and out within 5 s.

What the operator can mend is an OperatorError, raised before anything is joined. After that nothing that peers or the
network do ends the process: only a signal does.
"""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
import trio

from gossipnode import newrun
from gossipnode.certificates import write_certificates
from gossipnode.compute.process import WorkerLearner, open_worker
from gossipnode.conduct import HONEST, Conduct
from gossipnode.config import Config
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.identity import Identity, load_identity, load_network_key
from gossipnode.journal import Journal
from gossipnode.lag import LoopLag
from gossipnode.learn.config import LearnerConfig
from gossipnode.net.libp2p.transport import ListenError, open_libp2p
from gossipnode.node import Node, Run, State
from gossipnode.recordlog import RecordLog
from gossipnode.snapshot import snapshot
from gossipnode.status.http import serve_status
from gossipnode.status.report import LoopLag as LagStatus
from gossipnode.status.report import NodeStatus, Status, StoreStatus
from gossipnode.store import FileBlobs
from gossipnode.toml import load_manifest, save_manifest
from protocols.amendments import SignedManifest, present, sign
from protocols.blobs import StoreFull
from protocols.desk import Desk
from protocols.learner import LearnerError
from protocols.onebyte.journal import BadJournal
from protocols.ownclaims import Docket
from protocols.transport import Transport
from sampling.peers import PeerId
from verify.digest import Digest

log = logging.getLogger(__name__)

GOODBYE_S = 2.0  # to tell the partners and save; the transport takes up to 3 s more


async def run_daemon(home: Home, config: Config, tables: newrun.Tables, conduct: Conduct = HONEST) -> None:
    """Until a signal comes. `tables` is what the operator said of a run to begin. Raises OperatorError."""
    identity = load_identity(home.identity)
    async with trio.open_nursery() as nursery:
        daemon = Daemon(home, config, identity, conduct)
        nursery.start_soon(daemon.lag.run)
        life = trio.CancelScope()  # inside the transport, which is still needed to say goodbye
        nursery.start_soon(_end_on_signal, life)
        async with daemon.open_transport() as transport:
            url = await nursery.start(serve_status, daemon.status, config.http, config.http_token or None)
            home.write_addresses(transport.addresses(), url)  # so that tools find us before the task is loaded
            log.info("%s listens at %s", identity.peer, ", ".join(transport.addresses()))
            log.info("status at %s", url)
            with life:
                async with daemon.open_node(tables) as node:
                    await _live(node, conduct)
        nursery.cancel_scope.cancel()


async def _live(node: Node, conduct: Conduct) -> None:
    """Run the node; when a signal ends it, say goodbye while the transport is still there."""
    try:
        await conduct.live(node)
    finally:
        with trio.CancelScope(deadline=trio.current_time() + GOODBYE_S, shield=True):
            await node.leave()
            log.info("said goodbye")


async def _end_on_signal(life: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("%s: stopping", signal.Signals(number).name)
            life.cancel()
            break
        async for _ in signals:
            os._exit(130)  # asked twice: the state on disk is whole at any moment


class Daemon:
    """What must be reachable before there is a node: the status, and the peers' first questions."""

    def __init__(self, home: Home, config: Config, identity: Identity, conduct: Conduct = HONEST) -> None:
        self.lag = LoopLag()
        self._home = home
        self._config = config
        self._identity = identity
        self._conduct = conduct
        self._blobs = FileBlobs(home.store, config.store_max_bytes)
        self._began = trio.current_time()
        self._transport: Transport | None = None
        self._worker: WorkerLearner | None = None
        self._node: Node | None = None
        self._node_made = trio.Event()
        self._waiting: list[str] = []  # why there is no node yet, for the status

    # -- building -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_transport(self) -> AsyncIterator[Transport]:
        config = self._config
        psk = load_network_key(Path(config.psk)) if config.psk else None
        try:
            async with open_libp2p(self._identity.seed, [config.listen], psk=psk, on_fault=self._fault) as own:
                it = self._conduct.transport(own)
                it.serve(self._answer, self._blobs, self._may_fetch)
                self._transport = it
                yield it
        except ListenError as error:
            raise OperatorError(f"--listen: {error}") from error

    @asynccontextmanager
    async def open_node(self, tables: newrun.Tables) -> AsyncIterator[Node]:
        assert self._transport is not None
        signed = await self._known_manifest(tables)
        manifest = newrun.draft(tables, self._identity.peer) if signed is None else present(signed)
        task = manifest.task if signed is None else newrun.checked_task(manifest, self._config.task)
        learner = LearnerConfig.of(manifest)
        if signed is None:
            learner = msgspec.structs.replace(learner, theta0=b"")  # it is this worker that makes it
        async with self._open_worker(learner, task) as worker:
            if signed is None:
                signed = await self._begin(tables, worker)
            elif (size := worker.blob_bytes(manifest.protocol)) != manifest.model_bytes:
                raise OperatorError(
                    f"{task} makes models of {size} bytes here, those of the run have "
                    f"{manifest.model_bytes}: install the version of the task that the run was made with"
                )
            journal = Journal(self._home.state, State)
            yield self._make_node(signed, worker, journal, await self._remembered(journal))

    @asynccontextmanager
    async def _open_worker(self, learner: LearnerConfig, task: str) -> AsyncIterator[WorkerLearner]:
        """A worker that cannot even start is the operator's to mend; one that dies later is not."""
        started = False
        try:
            async with open_worker(
                self._conduct.config(self._learner_config(learner, task)), self._blobs.adopt
            ) as worker:
                started = True
                yield worker
        except LearnerError as error:
            if started:
                raise
            raise OperatorError(f"task {task} cannot be started: {error}") from error

    async def _begin(self, tables: newrun.Tables, worker: WorkerLearner) -> SignedManifest:
        """A run of our own: theta0 and its size are the worker's to say."""
        assert self._transport is not None
        try:
            found = await worker.describe()
        except (LearnerError, StoreFull) as error:
            raise OperatorError(f"the initial model cannot be made: {error}") from error
        signed = sign(newrun.draft(tables, self._identity.peer, found), self._identity.signer)
        save_manifest(self._home.manifest, signed)
        log.info("began run %s; others join it with --peers %s", signed.run.hex()[:12], self._transport.addresses()[0])
        return signed

    async def _known_manifest(self, tables: newrun.Tables) -> SignedManifest | None:
        """Of this home, or of the peers that we were pointed at; None if this node is to begin the run."""
        assert self._transport is not None
        if self._home.manifest.exists():
            return load_manifest(self._home.manifest)
        if not self._config.peers:
            return None
        desk = Desk(self._transport, lambda peer, kind, detail: log.warning("%s: %s: %s", peer, kind, detail))
        self._waiting = ["no peer of --peers has answered with a manifest yet"]
        signed = await newrun.fetched(desk, self._config.peers)
        self._waiting = []
        newrun.require_same(tables, signed, "--peers")
        manifest = present(signed)
        log.info(
            "joining run %s (%s): %s on %s", signed.run.hex()[:12], manifest.name, manifest.protocol, manifest.task
        )
        save_manifest(self._home.manifest, signed)
        return signed

    def _learner_config(self, learner: LearnerConfig, task: str) -> LearnerConfig:
        config = self._config
        if config.privacy is not None and learner.rules is None:
            raise OperatorError("--privacy-noise: only one-byte runs (--protocol onebyte) have it; leave it out")
        return msgspec.structs.replace(
            learner,
            task=task,
            shard=config.shard_of(learner.seed),
            data=config.data,
            store=str(self._home.store),
            threads=config.threads,
            device=config.device,
            privacy=config.privacy,
        )

    async def _remembered(self, journal: Journal[State]) -> State:
        """The latest state; with the model of the one before if its own is damaged: peers may not have that either."""
        states = list(journal.intact()) or [State()]
        for state in states:
            if state.held is not None:
                await self._blobs.prove(state.held.model)
                if state.held.model in self._blobs:
                    return msgspec.structs.replace(states[0], held=state.held)
        return states[0]

    def _make_node(self, signed: SignedManifest, worker: WorkerLearner, journal: Journal[State], state: State) -> Node:
        assert self._transport is not None
        config = self._config
        run = Run(
            run_id=signed.run,
            manifest=present(signed),
            signed=signed.encode(),
            roles=config.roles,
            bootstrap=config.peers,
            evaluate_every=config.evaluate_every,
            answers=config.answers,
            shard=config.public_shard(present(signed)),
            slowdown=config.slowdown,
        )

        filed = Docket()

        async def save(state: State) -> None:
            nonlocal filed
            if state.held is not None and state.held.model in self._blobs:
                await self._blobs.sync(state.held.model)
            await journal.save(state)
            evidence = msgspec.structs.replace(state.docket, claims=(), commitments=())
            if evidence != filed:
                write_certificates(self._home.certificates, signed, evidence)
                filed = evidence

        self._worker = worker
        try:
            self._node = Node(
                run,
                self._transport,
                self._conduct.learner(worker, self._blobs),
                self._blobs,
                self._identity.signer,
                state=state,
                save=save,
                log=RecordLog(self._home.chain),
                rng=random.Random(),  # jitter and choices of peers: no secret
            )
        except (BadJournal, OSError) as error:
            raise OperatorError(f"{self._home.chain}: {error}; restore it, or begin anew in another --home") from error
        self._node_made.set()
        return self._node

    # -- what peers say before and after there is a node --------------------------------------------------------------

    async def _answer(self, sender: PeerId, frame: bytes) -> bytes:
        await self._node_made.wait()
        assert self._node is not None
        return await self._node.answer(sender, frame)

    def _may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        return self._node is None or self._node.may_fetch(peer, blob)

    def _fault(self, peer: PeerId | None, kind: str) -> None:
        if self._node is not None:
            self._node.fault(peer, kind)

    # -- status -------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        process, store = self._process(), self._store()
        if self._node is None:
            return Status(node=process, store=store, warnings=list(self._waiting))
        return snapshot(self._node, process, store)

    def _process(self) -> NodeStatus:
        lag = self.lag.figures()
        worker = self._worker.pid if self._worker else None
        return NodeStatus(
            peer=self._identity.peer,
            addresses=list(self._transport.addresses()) if self._transport else [],
            version=version("gossipnode"),
            roles=[str(role) for role in self._config.roles],
            joined=self._node is not None and self._node.joined.is_set(),
            uptime_s=trio.current_time() - self._began,
            loop_lag=LagStatus(p50_ms=1e3 * lag.p50_s, p99_ms=1e3 * lag.p99_s, max_ms=1e3 * lag.max_s),
            rss_bytes=resident_bytes(os.getpid()) or 0,
            worker_rss_bytes=resident_bytes(worker) if worker else None,
            epsilon=self._worker.spent() if self._worker else None,
        )

    def _store(self) -> StoreStatus:
        node = self._node
        return StoreStatus(
            bytes=self._blobs.held_bytes,
            blobs=len(self._blobs),
            max_bytes=self._config.store_max_bytes,
            checkpoint_round=node.checkpoint_round if node else None,
            checkpoint_error=node.checkpoint_error if node else None,
        )


def resident_bytes(pid: int) -> int | None:
    """From /proc; None where there is none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
