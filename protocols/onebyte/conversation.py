"""One-byte training (after "Just One Byte", SPSA with shared randomness): what a member says and does, as six tasks
over one `Book`. Each reads straight through: `follower` keeps A at the tip's and probes, `leader` proposes, `asking`
repairs what gossip lost, `joining` goes on from a snapshot, `auditor` does others' work again, and `_stay` keeps us a
member.

The chain (`protocols.chain`) decides what counts; nothing here does, so nothing here must be the same everywhere.
"""

from __future__ import annotations

from functools import partial

import trio

from protocols.chain.messages import Here, Join, sign
from protocols.messages import Aggregate, Held
from protocols.onebyte.asking import Asker
from protocols.onebyte.auditor import Auditor
from protocols.onebyte.book import Book, Change
from protocols.onebyte.follower import Follower
from protocols.onebyte.joining import Joiner
from protocols.onebyte.leader import Leader
from protocols.onebyte.links import RENEW_AT
from protocols.onebyte.messages import NewBlock, NewChange, NewEntry
from protocols.onebyte.parts import Hooks, Parts
from protocols.ownclaims import Docket
from protocols.training import AuditFigures, ChainFigures, Committee, Phase
from sampling.peers import PeerId, Round
from verify.digest import Digest

SAY_AGAIN = 4.0  # deadlines until a change that no block carries yet is said again
STALLED = 20.0  # deadlines without a step before the status says so


class OneByte:
    def __init__(self, parts: Parts, hooks: Hooks, *, trains: bool = True, evaluate_every: int = 0) -> None:
        """`trains`: has data, so becomes a member. Raises BadJournal."""
        self._parts = parts
        self._trains = trains
        self._said: Join | None = None
        self._leaving = False
        self.book = Book(parts)
        self.follower = Follower(parts, self.book, hooks, evaluate_every)
        self.asker = Asker(parts, self.book)
        self.joiner = Joiner(parts, self.book, self.asker, self.follower)
        self.auditor = Auditor(parts, self.book, self.follower, hooks.judged)
        self._leader = Leader(self.book, self.asker)

    async def run(self) -> None:
        """Until cancelled. A finished run goes on answering."""
        desk = self._parts.desk
        desk.on_gossip(NewEntry, self._on_entry)
        desk.on_gossip(NewBlock, self._on_block)
        desk.on_gossip(NewChange, self._on_change)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.book.ripen)
            nursery.start_soon(self.book.write)
            nursery.start_soon(self.asker.run)
            nursery.start_soon(self.follower.run)
            nursery.start_soon(self.joiner.run)
            nursery.start_soon(self.auditor.run)
            if self._trains:
                nursery.start_soon(self._leader.run)
                nursery.start_soon(self._stay)

    async def leave(self) -> None:
        """For good, or until the next start: nothing is signed any more, and the others need not wait for us."""
        self._leaving = True
        if self._trains:
            await self.book.depart()

    # -- what others say ----------------------------------------------------------------------------------------------

    async def _on_entry(self, origin: PeerId, message: NewEntry) -> None:
        self.book.hear(origin, message.by(origin))

    async def _on_block(self, origin: PeerId, message: NewBlock) -> None:
        self.book.hear(origin, message.by(origin))

    async def _on_change(self, origin: PeerId, message: NewChange) -> None:
        self.book.hear(origin, message.change)

    # -- staying a member ---------------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        """Commit to a hash chain, renew it in time, and say that we are here when the others think we are not: again
        and again until it is in a block."""
        while True:
            await self.book.bell.until(lambda: self._wanted() is not None)
            if (change := self._change()) is not None:
                await self.book.change(change)
            with trio.move_on_after(SAY_AGAIN * self.book.pace.deadline_s * self._parts.rng.uniform(0.5, 1.5)):
                await self.book.bell.until(partial(self._is_stale, change))

    def _wanted(self) -> type[Change] | None:
        state, me = self.book.tip.state, self.book.me
        member = state.members.get(me)
        if self._leaving or self.book.finished or me in state.expelled or not self.follower.is_there:
            return None
        if member is None or not member.tip or not self.book.may_sign(state) or member.data != self._parts.data:
            return Join
        if state.height >= member.since + RENEW_AT:
            return Join
        return Here if me in state.dormant and self.follower.failure is None else None

    def _change(self) -> Change | None:
        wanted, tip = self._wanted(), self.book.tip
        if wanted is Here:
            return sign(Here(tip.height, self.book.me, b""), self._parts.signer, self.book.run)
        if wanted is None:
            return None
        if self._said is None or self._is_stale(self._said):
            self._said = self.book.links.join(max(tip.height, self._joins_after() + 1))
        return self._said

    def _is_stale(self, change: Change | None) -> bool:
        """A Join that no block can carry, or soon none: it was made before we had caught up, say."""
        oldest = max(self.book.tip.height - self.book.rules.epoch, self._joins_after() + 1)
        return isinstance(change, Join) and change.height < oldest

    def _joins_after(self) -> int:
        return -1 if self.book.departed is None else self.book.departed

    # -- what the node is shown ---------------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        return Round(self.book.tip.height)

    @property
    def clock(self) -> Round:
        """Epochs, as the follower tells membership."""
        return Round(self.book.tip.height // self.book.rules.epoch)

    @property
    def height(self) -> int:
        return self.book.tip.height

    @property
    def certified_height(self) -> int:
        return self.book.chain.certified.height

    @property
    def finished(self) -> bool:
        """The last block is here, A is its, and its digest is known."""
        return self.book.finished and self.follower.is_there and self.follower.hashed == self.follower.at

    @property
    def state(self) -> Phase:
        if self.finished:
            return "finished"
        if self.stalled:
            return "stalled"
        if self._trains and self.follower.is_there and self.book.has_seat(self.book.tip):
            return "training"
        return "idle" if self.height else "waiting"

    @property
    def committee(self) -> Committee:
        """Who probes on the tip, and who is to propose."""
        return Committee(self.book.tip.state.seats, self.book.chain.proposers()[:1])

    @property
    def model(self) -> Digest | None:
        """Of A, when it was last hashed: at a checkpoint, an evaluation or the end."""
        return self.follower.model

    @property
    def models(self) -> list[Held]:
        """Of the newest checkpoints: between two of them, A differs from step to step and from node to node."""
        return self.follower.kept()

    @property
    def held(self) -> Aggregate | None:
        return None

    @property
    def docket(self) -> Docket:
        """Verdicts are in the chain: this is for who wants to check them by themselves."""
        return Docket(convicted=tuple(self.auditor.convicted.values()))

    @property
    def audits(self) -> AuditFigures | None:
        return self.auditor.figures if self._parts.manifest.audit.fraction else None

    def may_fetch(self, peer: PeerId, model: Digest) -> bool:
        return True

    @property
    def chain(self) -> ChainFigures:
        state, me = self.book.tip.state, self.book.me
        return ChainFigures(
            height=self.height,
            certified_height=self.certified_height,
            final=self.final,
            members=len(state.members),
            is_member=self.book.may_sign(state),
            dormant=me in state.dormant,
            expelled=me in state.expelled,
            expelled_peers=state.expelled,
            scalars_sent=self.book.scalars_sent,
            bytes_sent=self.book.bytes_sent,
            reorganisations=self.follower.reorganisations,
            dropped=self._dropped(),
        )

    def _dropped(self) -> str | None:
        if self.follower.dropped is None:
            return None
        left, found = self.follower.dropped
        return f"the branch up to height {left.height} was left for another, then at height {found.height}"

    @property
    def final(self) -> bool:
        """Certification keeps up: two phases, each of an epoch and the depth of a vote."""
        rules = self.book.rules
        return self.height - self.certified_height <= 3 * rules.epoch + 2 * rules.window

    @property
    def stalled(self) -> bool:
        """No step for a long time."""
        waited_s = trio.current_time() - max(self.book.pace.came_at(self.book.tip), self.asker.began_s)
        return not self.book.finished and waited_s > STALLED * self.book.pace.deadline_s

    @property
    def troubles(self) -> list[str]:
        journal = self.book.journal.error
        found = [self.follower.failure, self.joiner.conflict, self._dropped()]
        if journal is not None:
            found.append(f"nothing is signed while the journal of the chain cannot be written: {journal}")
        if self.book.me in self.book.tip.state.expelled:
            found.append(f"this node was expelled: {self.auditor.why(self.book.me)}")
        if self._trains and not self._parts.data and self._parts.manifest.audit.policy == "replay":
            found.append("audit.policy is replay, and others cannot make this node's data: its bytes are kept back")
        if self.stalled:
            found.append("no step has come for many deadlines: too few peers answer")
        if not self.final:
            found.append("not final: too few members vote, so that none of the newest blocks is certified")
        return [each for each in found if each is not None]
