"""The chain as this member of it keeps it: what is heard is judged and entered, what is signed is journalled first.

Everything that changes the chain passes through here, so here are its two owners' rules: a fault is the signer's or the
sender's and becomes an offence, and nothing of ours is heard by anyone before its promise is on the disk.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from protocols import wire
from protocols.bell import Bell
from protocols.chain.checkpoints import Promises, Snapshot
from protocols.chain.forks import Node, ancestor, subtree
from protocols.chain.messages import Block, Entry, Here, Join, Leave, id_of, sign
from protocols.chain.state import State
from protocols.chain.suspects import Fault
from protocols.chain.tree import Chain
from protocols.chain.validity import SENDERS_FAULT, Refusal
from protocols.manifest import chain_rules
from protocols.messages import AnyMessage
from protocols.onebyte.journal import Departed, Held, Journal, Mine, Recalled, recall
from protocols.onebyte.links import Links
from protocols.onebyte.messages import ChainIs, NewBlock, NewChange, NewEntry
from protocols.onebyte.pace import Pace
from protocols.onebyte.parts import Parts
from sampling.peers import PeerId
from verify.digest import Digest
from verify.standing import OffenceKind

log = logging.getLogger(__name__)

Change = Join | Leave | Here
Said = Entry | Block | Change


class Book:
    def __init__(self, parts: Parts) -> None:
        """Raises BadJournal."""
        self.parts: Final = parts
        self.rules: Final = chain_rules(parts.manifest)
        self.run: Final = parts.membership.run_id
        self.bell: Final = Bell()  # rung when anything was heard
        timing = parts.manifest.timing
        self.pace: Final = Pace(timing.round_floor_s, timing.round_ceiling_s)
        self.links: Final = Links(parts.signer, self.run, self.rules, parts.data)
        self.journal: Final = Journal(parts.log)
        self.recalled: Final[Recalled] = recall(
            parts.log.records(), self.run, self.rules, parts.membership.rules.admits
        )
        self.chain = self.recalled.chain
        self.promises: Promises = self.recalled.promises
        self.departed = self.recalled.departed
        self.named: PeerId | None = None  # whoever last said something of which we lack what it rests on
        self.scalars_sent = 0
        self.bytes_sent = 0  # of entries and blocks, as frames
        self._unwritten: list[Held] = []

    @property
    def me(self) -> PeerId:
        return self.parts.signer.peer

    @property
    def tip(self) -> Node:
        return self.chain.tip

    @property
    def finished(self) -> bool:
        return self.tip.height >= self.rules.steps

    def follows(self, node: Node) -> bool:
        """It lies on our branch."""
        tip = self.tip
        return node.live and node.height <= tip.height and ancestor(tip, node.height) is node

    # -- hearing ------------------------------------------------------------------------------------------------------

    def hear(self, sender: PeerId, said: Said, *, live: bool = True) -> bool:
        """False if it is the sender's fault that it does not hold: it should have looked."""
        needs: Digest | None = None
        match said:
            case Entry():
                refusal, needs = self.chain.hear_entry(said), said.base
            case Block():
                refusal, needs = self.chain.hear_block(said), id_of(said.head)
            case _:
                refusal = self.chain.hear_change(said)
        if refusal is None and needs is not None and self.chain.node(needs) is None:
            self.named = sender
        self._entered(live=live)
        if refusal in SENDERS_FAULT:
            self._accuse(sender, refusal)
            return False
        return True

    async def take(self, sender: PeerId, answer: ChainIs) -> None:
        """All of an answer, or as much of it as holds: whoever sends rubbish makes us check one piece of it."""
        for body in answer.bodies:
            self.chain.hear_body(body.block, body.entries)
            self._entered(live=False)
            await trio.lowlevel.checkpoint()
        for whole in answer.blocks:
            said: tuple[Said, ...] = (*whole.entries, whole.block)
            if not all(self.hear(sender, each, live=False) for each in said):
                return
            await trio.lowlevel.checkpoint()
        for entry in answer.entries:
            if not self.hear(sender, entry, live=False):
                return

    def _entered(self, *, live: bool) -> None:
        now = trio.current_time()
        for fault in self.chain.take_faults():
            self._blame(fault)
        for node in self.chain.take_connected():
            assert node.block is not None
            self._unwritten.append(Held(node.block, node.entries))
            if self.pace.came(node, now, live=live):
                self.chain.ripen(node.digest)
        self.pace.look(self.chain, now)
        self.bell.ring()

    def _blame(self, fault: Fault) -> None:
        if fault.evidence is not None:
            self._accuse(fault.peer, None)
        else:
            self._accuse(fault.peer, fault.refusal)

    def _accuse(self, peer: PeerId, refusal: Refusal | None) -> None:
        """No refusal: it signed two things that exclude each other."""
        match refusal:
            case None:
                kind, detail = OffenceKind.EQUIVOCATION, "signed two things that exclude each other"
            case Refusal.FORGED:
                kind, detail = OffenceKind.BAD_SIGNATURE, "passed on what its signer has not signed"
            case Refusal.MALFORMED | Refusal.NOT_ADMITTED:
                kind, detail = OffenceKind.PROTOCOL, f"a step: {refusal}"
            case _:
                kind, detail = OffenceKind.UNFOUNDED, f"a step: {refusal}"
        self.parts.desk.accuse(peer, kind, detail)

    async def ripen(self) -> None:
        """Until cancelled: blocks of later ranks, when their turn has come."""
        while True:
            with trio.move_on_at(self.pace.next_s()):
                await self.bell.until(partial(self._ripens_before, self.pace.next_s()))
            for block in self.pace.due(trio.current_time()):
                self.chain.ripen(block)
                self.bell.ring()

    def _ripens_before(self, time_s: float) -> bool:
        return self.pace.next_s() < time_s

    async def write(self) -> None:
        """Until cancelled: what others signed goes to the journal behind us."""
        while True:
            await self.bell.until(lambda: bool(self._unwritten))
            while self._unwritten:
                await self.journal.append(self._unwritten.pop(0), durable=False)

    # -- signing ------------------------------------------------------------------------------------------------------

    def may_sign(self, state: State) -> bool:
        """Not above the height of my Leave, until I have joined again."""
        member = state.members.get(self.me)
        return member is not None and (self.departed is None or member.since > self.departed)

    def has_seat(self, base: Node) -> bool:
        """And nothing is promised that would speak against using it."""
        return (
            self.me in base.state.seats
            and self.promises.entry <= base.height < self.rules.steps
            and self.may_sign(base.state)
            and self._is_open(base)
        )

    def _is_open(self, base: Node) -> bool:
        """What the chain says that we probe on is what we do probe on. A founder's Join may be heard a little late."""
        said = base.state.members[self.me].data
        late = self.parts.manifest.audit.policy == "replay" and base.height >= self.rules.epoch
        return said == self.parts.data if said else not late

    async def enter(self, scalars: bytes, base: Node) -> bool:
        made = self.chain.enter(self.parts.signer, scalars, base, self.promises)
        if made is None:
            return False
        entry, self.promises = made  # at once: what else is signed while the disk is busy must know of it
        if not await self.journal.append(Mine(self.promises, (entry,)), durable=True):
            return False
        self.hear(self.me, entry)
        self.scalars_sent += len(scalars)
        await self.say(NewEntry.of(entry))
        return True

    async def propose(self, parent: Node) -> bool:
        if not self.may_sign(parent.state):
            return False
        entries = tuple(self.chain.countable(parent))
        made = self.chain.propose(self.parts.signer, self.links.reveal(parent.state), self.promises, parent)
        if made is None:
            return False
        block, self.promises = made
        if not await self.journal.append(Mine(self.promises, entries, block), durable=True):
            return False
        self.hear(self.me, block)
        await self.say(NewBlock.of(block))
        return True

    async def change(self, change: Change) -> None:
        self.hear(self.me, change)
        await self.say(NewChange(change))

    async def depart(self) -> None:
        """I sign nothing above what I have signed."""
        state = self.tip.state
        if not self.may_sign(state):
            return
        self.departed = max(state.height, self.promises.entry, self.promises.block)
        if await self.journal.append(Departed(self.departed), durable=True):
            await self.change(sign(Leave(self.departed, self.me, b""), self.parts.signer, self.run))

    async def say(self, message: AnyMessage) -> None:
        self.bytes_sent += len(wire.encode(message))
        await self.parts.desk.tell(self.parts.membership.topic, message)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    async def rebase(self, snapshot: Snapshot) -> bool:
        """The journal begins at this snapshot of ours from now on. True if it does."""
        root = self.chain.node(snapshot.checkpoint.block)
        assert root is not None
        self._unwritten.clear()
        held = [Held(node.block, node.entries) for node in subtree(root)[1:] if node.block is not None]
        return await self.journal.rewrite(self.promises, self.departed, snapshot, held)

    async def replace(self, snapshot: Snapshot) -> None:
        """Go on from where others are."""
        self.chain = Chain(self.run, self.rules, self.parts.membership.rules.admits, snapshot)
        self._unwritten.clear()
        self.pace.forget(self.chain)
        await self.journal.rewrite(self.promises, self.departed, snapshot, ())
        self.bell.ring()
