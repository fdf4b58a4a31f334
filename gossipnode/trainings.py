"""The protocol of a run, made from a node's parts: the one place in the daemon that knows which protocols there are.

Each is given what it is built of, and tells the node in the same words what it learnt. Invariant: what a protocol needs
beside the common parts (a journal, theta0) is seen to here, so that `gossipnode.node` runs any of them alike.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from protocols.blobs import StoreFull
from protocols.chain.forks import Node as Block
from protocols.claiming import shard_of
from protocols.evidence import Judgement
from protocols.exchange import NotFetched
from protocols.gossip.conversation import Gossip
from protocols.gossip.trainer import Hooks as GossipHooks
from protocols.gossip.trainer import Merged
from protocols.head import Parts
from protocols.learner import Evaluation, Learner, LearnerError, StepLearner
from protocols.lineage import theta0
from protocols.messages import Aggregate
from protocols.modest import Hooks, Modest
from protocols.onebyte import parts as onebyte
from protocols.onebyte.conversation import OneByte
from protocols.onebyte.journal import Log
from protocols.ownclaims import Docket
from protocols.signatures import Signer
from protocols.training import Training
from sampling.peers import PeerId
from verify.digest import Digest, short

_log = logging.getLogger(__name__)

AGAIN_S = 2.0  # between two attempts to have theta0 here


class AnyLearner(Learner, StepLearner, Protocol):
    """For whichever protocol the run has."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A round or a step that is over."""

    round: int
    trainers: Sequence[PeerId]  # whose work is in it
    aggregators: Sequence[PeerId]
    digest: Digest  # of the aggregate; of the block
    parent: Digest  # what it was made from


@dataclass(frozen=True, slots=True)
class Ears:
    """What the node wants to hear of."""

    began: Callable[[], None]
    save: Callable[[], Awaitable[None]]  # durable when it returns
    save_soon: Callable[[], None]
    learnt: Callable[[Finished], None]
    turned: Callable[[Finished], None]  # what is believed now is no newer, but something else
    evaluated: Callable[[int, Evaluation], None]
    hashed: Callable[[int, Digest, Digest], None]  # A at the block of this height
    judged: Callable[[Judgement], None]  # what the evidence of the run amounts to


@dataclass(frozen=True, slots=True)
class Made:
    training: Training
    beside: Sequence[Callable[[], Awaitable[None]]] = ()  # tasks that run as long as it does, or end earlier


def make(
    parts: Parts,
    learner: AnyLearner,
    signer: Signer,
    log: Log,
    *,
    ears: Ears,
    held: Aggregate | None,
    docket: Docket,
    trains: bool,
    evaluate_every: int,
    slowdown: float = 1.0,
) -> Made:
    """`log` is of the chain, `held` and `docket` of the checkpoint. Raises BadJournal."""
    match parts.manifest.protocol:
        case "modest":
            return Made(_modest(parts, ears, held, docket, evaluate_every))
        case "gossip":
            at = _gossip(parts, ears, held, docket, trains=trains, evaluate_every=evaluate_every, slowdown=slowdown)
            return Made(at)
    training = _onebyte(parts, learner, signer, log, ears=ears, trains=trains, evaluate_every=evaluate_every)
    return Made(training, [partial(have_theta0, parts)])


# -- MoDeST -----------------------------------------------------------------------------------------------------------


def _modest(parts: Parts, ears: Ears, held: Aggregate | None, docket: Docket, evaluate_every: int) -> Modest:
    async def keep(aggregate: Aggregate) -> None:
        await ears.save()

    hooks = Hooks(
        began=ears.began,
        held=keep,
        learnt=lambda known: ears.learnt(finished_of(known)),
        turned=lambda known: ears.turned(finished_of(known)),
        evaluated=ears.evaluated,
        claimed=ears.save,
        judged=ears.judged,
    )
    return Modest(parts, held or theta0(parts.manifest), hooks, evaluate_every, docket)


def finished_of(known: Aggregate) -> Finished:
    trainers = [each.trainer for each in known.inputs]
    return Finished(known.round, trainers, known.aggregators, Digest(known.model), Digest(known.parent))


# -- gossip -----------------------------------------------------------------------------------------------------------


def _gossip(
    parts: Parts,
    ears: Ears,
    held: Aggregate | None,
    docket: Docket,
    *,
    trains: bool,
    evaluate_every: int,
    slowdown: float,
) -> Gossip:
    def merged(made: Merged) -> None:
        ears.learnt(Finished(made.age, [parts.desk.me, *made.others], [parts.desk.me], made.model, made.parent))

    async def begin() -> None:
        if parts.manifest.gossip.init == "common":
            await have_theta0(parts)

    hooks = GossipHooks(began=ears.began, save=ears.save, merged=merged, evaluated=ears.evaluated)
    return Gossip(
        parts,
        held,
        hooks,
        docket=docket,
        judged=ears.judged,
        begin=begin,
        trains=trains,
        evaluate_every=evaluate_every,
        slowdown=slowdown,
    )


# -- one byte ---------------------------------------------------------------------------------------------------------


def _onebyte(
    parts: Parts,
    learner: AnyLearner,
    signer: Signer,
    log: Log,
    *,
    ears: Ears,
    trains: bool,
    evaluate_every: int,
) -> OneByte:
    def advanced(height: int) -> None:
        at = training.follower.at
        if at is not None and (block := training.book.chain.node(at)) is not None:
            diary.write(block)

    def evaluated(height: int, found: Evaluation) -> None:
        ears.evaluated(height, found)
        if (at := training.follower.at) is not None:
            ears.hashed(height, at, found.model)
        if training.finished:
            ears.save_soon()

    hooks = onebyte.Hooks(advanced=advanced, evaluated=evaluated, judged=ears.judged)
    own = onebyte.Parts(
        parts.desk,
        parts.membership,
        parts.exchange,
        learner,
        parts.blobs,
        parts.manifest,
        signer,
        log,
        parts.rng,
        parts.data if shard_of(parts.data) is not None else b"",
    )
    training = OneByte(own, hooks, trains=trains, evaluate_every=evaluate_every)
    diary = Diary(training, ears)
    return training


class Diary:
    """Tells of each height once, as the branch that we follow has it."""

    def __init__(self, training: OneByte, ears: Ears) -> None:
        self._ears = ears
        self._told: int = training.round
        self._saved = training.clock
        self._training = training

    def write(self, newest: Block) -> None:
        """`newest`: A is at it."""
        fresh: list[Finished] = []
        block: Block | None = newest
        while block is not None and block.block is not None and block.height > self._told:
            origins = list(dict.fromkeys(entry.origin for entry in block.entries))
            head = block.block.head
            fresh.append(Finished(block.height, origins, [head.proposer], block.digest, Digest(head.parent)))
            block = block.parent
        for finished in reversed(fresh):
            self._ears.learnt(finished)
        self._told = max(self._told, newest.height)
        if self._training.clock > self._saved:  # whom to find again after a crash: the rest is in the chain's journal
            self._saved = self._training.clock
            self._ears.save_soon()


async def have_theta0(parts: Parts) -> None:
    """What A is relative to is in the store when this returns, and stays: as our own seed makes it, or, where another
    machine or version made it otherwise, from a peer."""
    wanted = theta0(parts.manifest).model
    parts.exchange.keep("theta0", [Digest(wanted)])
    while True:
        try:
            return await _obtain_theta0(parts, Digest(wanted))
        except (NotFetched, StoreFull, LearnerError) as error:
            _log.error("theta0 is not here: %s; trying again", error)
        await trio.sleep(AGAIN_S)


async def _obtain_theta0(parts: Parts, wanted: Digest) -> None:
    """Raises NotFetched, StoreFull, LearnerError."""
    await parts.blobs.prove(wanted)
    if wanted in parts.blobs:
        return
    made = await parts.learner.initial()
    if made == wanted:
        return
    size = parts.blobs.size(made)  # of any theta0 of this task
    assert size is not None
    _log.warning("this machine's theta0 is %s, the run's is %s: asking peers for it", short(made), short(wanted))
    partners = parts.membership.partners()
    await parts.exchange.of_size(size).obtain(wanted, parts.rng.sample(partners, len(partners)))
