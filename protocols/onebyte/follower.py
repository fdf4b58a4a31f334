"""A of this node: at the tip's at all times, exactly, by adding and subtracting; and probed there when we have a seat.

One task owns the learner, so that what is probed is what the entry names as its base. At every checkpoint A is kept as
a blob until it is certified or void: from the newest one that was certified we begin again after a crash, and joiners.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from protocols.blobs import StoreFull
from protocols.chain.checkpoints import Snapshot
from protocols.chain.draws import Update
from protocols.chain.forks import Node, ancestor
from protocols.chain.plan import Plan, Step
from protocols.exchange import NotFetched
from protocols.learner import LearnerError, Probed, Unfit
from protocols.messages import Held
from protocols.onebyte.book import Book
from protocols.onebyte.cases import batch_seed, seeds_of
from protocols.onebyte.parts import Hooks, Parts
from sampling.peers import Round
from verify.digest import Digest

log = logging.getLogger(__name__)

ASKED = 64  # entries of others that wait to be probed again
AT_ONCE = 4096  # updates in one call of the learner: a call costs a millisecond to the worker and back
AGAIN_S = 1.0  # between two attempts at what failed
OWNER = "onebyte"


@dataclass(eq=False)
class Again:
    """Another's probes, to be done again at the A of `base`."""

    base: Node
    seeds: Sequence[int]
    batch_seed: int
    shard: str
    done: trio.Event = field(default_factory=trio.Event)
    outcome: bytes | Unfit | LearnerError = field(default_factory=lambda: LearnerError("it was given up"))

    def end(self, outcome: bytes | Unfit | LearnerError) -> None:
        self.outcome = outcome
        self.done.set()


class Follower:
    def __init__(self, parts: Parts, book: Book, hooks: Hooks, evaluate_every: int) -> None:
        self._parts, self._book, self._hooks = parts, book, hooks
        self._evaluate_every = evaluate_every
        self._evaluated = -1  # the last height
        self.hashed: Digest | None = None  # the block whose A was last evaluated, or hashed at the end
        snapshot = book.recalled.snapshot
        begin = ancestor(book.chain.certified, 0 if snapshot is None else snapshot.checkpoint.height)
        self._blobs: dict[Digest, Digest | None] = {begin.digest: snapshot.checkpoint.model if snapshot else None}
        self._based_at = 0 if snapshot is None else snapshot.checkpoint.height  # where the journal begins
        self._base_block, self._base = begin.digest, self._blobs[begin.digest]
        self.at: Digest | None = None  # the block whose A the learner has; None: unknown
        self.model: Digest | None = None  # digest of A when it was last hashed
        self.offered: Snapshot | None = None  # to go on from; its A is in the store
        self.probed: Probed | None = None
        self.failure: str | None = None  # what the operator's task, or the store, could not do
        self.reorganisations = 0
        self.dropped: tuple[Node, Node] | None = None  # the last branch we left, and for which one
        self._recalled_tip = book.tip.digest
        self._asked: deque[Again] = deque()
        self._keep()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
                await self._take_part()
            except (LearnerError, StoreFull) as error:
                self._failed(error)
                self.at = None
                await trio.sleep(AGAIN_S)

    @property
    def is_there(self) -> bool:
        return self.at == self._book.tip.digest

    # -- following ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """A is the tip's when this returns. Raises LearnerError, StoreFull."""
        book = self._book
        while self.offered is not None or not self.is_there:
            if self.offered is not None:
                await self._begin_at(self.offered)
            if self.at is None or book.chain.node(self.at) is None:
                await self._restore()
            assert self.at is not None
            await self._apply(book.chain.plan(self.at), book.tip)
        await self._tidy()
        self._parts.membership.advance(Round(book.tip.height // book.rules.epoch))
        self._hooks.advanced(book.tip.height)
        await self._evaluate()

    async def _apply(self, plan: Plan, tip: Node) -> None:
        """As far as it goes before there is another tip."""
        if plan.subtract:
            self.reorganisations += 1
            left = self._book.chain.node(plan.subtract[0].block)
            assert left is not None
            self.dropped = left, tip
            log.warning("%d blocks are void: leaving %r for %r", len(plan.subtract), left, tip)
        for step in plan.subtract:
            node = self._book.chain.node(step.block)
            assert node is not None
            assert node.parent is not None
            await self._add([Update(each.seed, -each.coefficient) for each in step.updates], node.parent.digest)
        for batch in _batches(plan.add):
            await self._add([update for step in batch for update in step.updates], batch[-1].block)
            if batch[-1].checkpoint:
                await self._settle(batch[-1].block)
            if self._book.tip is not tip:
                return

    async def _add(self, updates: Sequence[Update], then_at: Digest) -> None:
        self.at = None  # if it fails, or is cancelled
        if updates:
            await self._parts.learner.add(updates)
        self.at = then_at

    async def _settle(self, block: Digest) -> None:
        try:
            self.model = await self._parts.learner.snapshot()
            self._blobs[block] = self.model
            self._keep()
        except StoreFull as error:
            log.error("A of a checkpoint cannot be kept: %s", error)
            self.model = await self._parts.learner.digest()
        self._book.chain.settle(block, self.model)

    async def _tidy(self) -> None:
        """What lies below the certified checkpoint is needed no more, once the journal begins there."""
        book = self._book
        assert self.at is not None
        book.chain.prune(self.at)
        snapshot = book.chain.snapshot()
        if snapshot is None or snapshot.checkpoint.height <= self._based_at:
            return
        checkpoint = snapshot.checkpoint
        held = self._blobs.get(Digest(checkpoint.block)) == checkpoint.model
        if held and await book.rebase(snapshot):
            self._based_at, self._base_block, self._base = checkpoint.height, Digest(checkpoint.block), checkpoint.model
        book.pace.forget(book.chain)
        self._keep()

    def _keep(self) -> None:
        """A of the checkpoints that may still be certified, and of where the journal begins."""
        chain = self._book.chain
        marks = {Digest(mark.block) for leaf in chain.leaves() for mark in leaf.state.finality.marks}
        marks |= {chain.certified.digest, self._base_block}  # after a restart the journal may begin below
        self._blobs = {block: a for block, a in self._blobs.items() if block in marks and chain.node(block) is not None}
        self._parts.exchange.keep(OWNER, {a for a in (*self._blobs.values(), self._base) if a is not None})

    def kept(self) -> list[Held]:
        """A of the checkpoints that we have it of, the newest first."""
        nodes = ((self._book.chain.node(block), a) for block, a in self._blobs.items() if a is not None)
        found = [Held(Round(node.height), a) for node, a in nodes if node is not None and a in self._parts.blobs]
        return sorted(found, key=lambda each: each.round, reverse=True)

    # -- beginning anew -----------------------------------------------------------------------------------------------

    async def _begin_at(self, snapshot: Snapshot) -> None:
        self.offered = None
        before, checkpoint = self._book.tip, snapshot.checkpoint
        if checkpoint.height <= self._book.chain.certified.height:
            return  # it was certified here meanwhile
        await self._book.replace(snapshot)
        self._blobs = {Digest(checkpoint.block): checkpoint.model}
        self._based_at, self._base_block, self._base = checkpoint.height, Digest(checkpoint.block), checkpoint.model
        self.at, self.model = None, checkpoint.model
        self._keep()
        if before.digest != self._recalled_tip:  # what was read back, and nothing since, is most likely of this branch
            self.dropped = before, self._book.tip
        log.info("going on from the certified checkpoint of height %d", checkpoint.height)

    async def _restore(self) -> None:
        """A of the newest checkpoint that we have it of. Raises LearnerError, StoreFull."""
        chain = self._book.chain
        held = [(node, a) for block, a in self._blobs.items() if (node := chain.node(block)) is not None]
        if not held:
            raise LearnerError("A of no checkpoint that the chain still has is held here")
        node, a = max(held, key=lambda each: (self._book.follows(each[0]), each[0].height))
        try:
            await self.obtain(a)
            await self._parts.learner.restore(a)
        except (NotFetched, Unfit) as error:
            raise LearnerError(f"A of height {node.height} is not to be had: {error}") from error
        self.at, self.failure = node.digest, None

    async def obtain(self, a: Digest | None) -> None:
        """A blob of A is in the store when this returns. Raises NotFetched, StoreFull, LearnerError."""
        blobs, partners = self._parts.blobs, self._parts.membership.partners()
        if a is None:
            return
        await blobs.prove(a)
        if a not in blobs:
            await self._parts.exchange.obtain(a, self._parts.rng.sample(partners, len(partners)))

    # -- taking part --------------------------------------------------------------------------------------------------

    async def _take_part(self) -> None:
        """Probe if we have a seat on the tip, then wait for another."""
        book = self._book
        base = book.tip
        if base.digest == self.at and book.has_seat(base):
            await self._probe(base)
        await book.bell.until(lambda: self.offered is not None or not self.is_there or bool(self._asked))
        if self._asked and self.is_there and self.offered is None:
            await self._do_again(self._asked.popleft())

    async def _probe(self, base: Node) -> None:
        book = self._book
        seeds = seeds_of(book.run, base.state, book.me, book.rules.probes)
        # Where others may draw the same batches again, they must be able to.
        seed = batch_seed(book.run, base, book.me) if self._parts.data else self._parts.rng.getrandbits(63)
        try:
            self.probed = await self._parts.learner.probe(seeds, seed=seed)
        except LearnerError as error:
            return self._failed(error)
        self.failure = None
        if book.follows(base) and book.tip.height < base.height + book.rules.window:
            await book.enter(self.probed.scalars, base)
        return None

    # -- doing others' work again -------------------------------------------------------------------------------------

    async def again(self, base: Node, seeds: Sequence[int], batch_seed: int, shard: str) -> bytes:
        """The bytes of who probed so at `base`, once our own are done. Raises Unfit, LearnerError."""
        if len(self._asked) >= ASKED:
            raise LearnerError("too many others wait to be audited")
        job = Again(base, seeds, batch_seed, shard)
        self._asked.append(job)
        self._book.bell.ring()
        await job.done.wait()
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return job.outcome

    async def _do_again(self, job: Again) -> None:
        """A goes back to the base; what came since is added again by whoever follows the tip next. Raises LearnerError
        if A is lost."""
        book = self._book
        if not book.follows(job.base):
            return job.end(LearnerError("its base is no block of ours any more"))
        since = [update for step in book.chain.plan(job.base.digest).add for update in step.updates]
        try:
            await self._add([Update(each.seed, -each.coefficient) for each in since], job.base.digest)
            found = await self._parts.learner.reprobe(job.seeds, seed=job.batch_seed, shard=job.shard)
            job.end(found.scalars)
        except (Unfit, LearnerError) as error:
            job.end(error)
        return None

    async def _evaluate(self) -> None:
        assert self.at is not None
        node, every = self._book.chain.node(self.at), self._evaluate_every
        assert node is not None
        height = node.height
        passed = every > 0 and height // every > self._evaluated // every
        ended = height >= self._book.rules.steps and self.hashed != self.at
        if every and (passed or ended):
            found = await self._parts.learner.score()
            self._evaluated, self.hashed, self.model = height, self.at, found.model
            self._hooks.evaluated(height, found)
        elif ended:
            self.model, self.hashed = await self._parts.learner.digest(), self.at

    def _failed(self, error: Exception) -> None:
        if str(error) != self.failure:
            log.error("one-byte training: %s", error)
        self.failure = str(error)


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    """Up to a checkpoint each, or as many as one call is worth."""
    batches: list[list[Step]] = []
    batch: list[Step] = []
    for step in steps:
        batch.append(step)
        if step.checkpoint or sum(len(each.updates) for each in batch) >= AT_ONCE:
            batches.append(batch)
            batch = []
    return [*batches, batch] if batch else batches
