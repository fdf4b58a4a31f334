"""The chain as one node holds it: entries and blocks in any order of arrival, the tip, and what follows from them.

`Chain` is the only mutable thing of this package. What it says is a function of the set of signed things it holds,
never of their order or of a clock: a block exists, and votes for it count, once it, its entries and its ancestors are
held and hold (`protocols.chain.validity`); the tip follows the votes (`protocols.chain.forks`); certified blocks are
never left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from protocols.chain import evidence, limits, validity
from protocols.chain.archive import Archive
from protocols.chain.bodies import Bodies
from protocols.chain.checkpoints import Promises, Snapshot, vote_on
from protocols.chain.entries import Entries
from protocols.chain.forks import Forks, Node, ancestor, subtree
from protocols.chain.messages import Block, Entry, Evidence, Head, Here, Join, Leave, WrongBytes, genuine, id_of
from protocols.chain.plan import Missing, Plan, beyond, locator_of, plan_between
from protocols.chain.pool import Pool
from protocols.chain.rules import Rules
from protocols.chain.signing import block_on, entry_on
from protocols.chain.state import Ancestor, State, advance, initial, proposers, slots
from protocols.chain.suspects import Fault, Suspects
from protocols.chain.validity import Refusal
from protocols.chain.waiting import Waiting
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest

_REJECTED: Final = 1024  # digests of blocks that do not hold, remembered
_MISSING: Final = 64  # named at once


class Chain:
    def __init__(
        self, run: bytes, rules: Rules, admits: Callable[[PeerId], bool], snapshot: Snapshot | None = None
    ) -> None:
        """`admits`: who may join, founders aside. `snapshot`: from `open_snapshot`, to begin there."""
        self.run: Final = run
        self.rules: Final = rules
        self._admits: Final = admits
        state = initial(rules, run) if snapshot is None else snapshot.state
        root = Node(Digest(state.recent[-1].digest), state, None, None, ())
        self._archive = Archive(rules, run, root, snapshot)
        self._nodes: dict[Digest, Node] = {root.digest: root}
        self._forks = Forks(root, frozenset(state.members))
        self._entries = Entries()
        self._suspects = Suspects()
        self._reveals = validity.Reveals()
        self._early: Waiting[Entry] = Waiting(limits.ENTRIES_WAITING)
        self._orphans: Waiting[Block] = Waiting(limits.BLOCKS_WAITING)
        self._bodies = Bodies()
        self._ready: deque[tuple[Digest, Block]] = deque()
        self._rejected: dict[Digest, Refusal] = {}
        self._pool = Pool(rules, admits)
        self._faults: list[Fault] = []
        self._connected: list[Node] = []

    # -- hearing --------------------------------------------------------------------------------------------------

    def hear_entry(self, entry: Entry) -> Refusal | None:
        digest = id_of(entry)
        if (refusal := self._doubt_entry(digest, entry)) is not None:
            return refusal
        base = self._base(entry.base)
        if base is None:
            self._early.put(Digest(entry.base), digest, entry.origin, entry)
            return None
        refusal = self._take_entry(digest, entry, base)
        self._drain()
        return refusal

    def hear_body(self, block: Digest, entries: Sequence[Entry]) -> None:
        """Entries of a block that were `missing`. Where its origins signed many, only these will do, however many
        others are held: they are taken if they are what the block commits to."""
        for entry in entries:
            self.hear_entry(entry)
        waiting = self._bodies.get(block)
        if waiting is not None and (whole := self._entries.rebuilt(waiting[0].head, waiting[1], entries)) is not None:
            for entry, slot in zip(whole, waiting[1], strict=True):
                if id_of(entry) not in self._entries and self._is_sound(entry):
                    self._take_entry(id_of(entry), entry, slot.base)
            self._drain()

    def hear_block(self, block: Block) -> Refusal | None:
        digest = id_of(block.head)
        if (refusal := self._doubt_block(digest, block)) is not None:
            return refusal
        if block.head.parent not in self._nodes:
            self._orphans.put(Digest(block.head.parent), digest, block.head.proposer, block)
            return None
        self._ready.append((digest, block))
        self._drain()
        return self._rejected.get(digest)

    def hear_change(self, change: Join | Leave | Here) -> Refusal | None:
        """Kept until a block carries it; said again if none does within two epochs."""
        if not self._pool.wants(change, self.tip.state):
            return Refusal.KNOWN
        if not genuine(change, self.run):
            return Refusal.FORGED
        self._pool.add(change)
        return None

    def convict(self, wrong: WrongBytes) -> bool:
        """Wrong bytes that enough members have signed against: its origin is out with the next block of ours."""
        holds = evidence.holds(wrong, self.run, self.tip.state.members)
        if holds:
            self._suspects.accuse(wrong)
        return holds

    def take_faults(self) -> list[Fault]:
        """Since the last call, each once: for `verify.standing`."""
        faults, self._faults = self._faults, []
        return faults

    def take_connected(self) -> list[Node]:
        """Blocks that exist here since the last call. One of rank r is to be `ripen`ed when r deadlines have passed
        since its parent was connected; before that it is followed only if more than a third of the electors voted for
        it."""
        connected, self._connected = self._connected, []
        return connected

    def ripen(self, block: Digest) -> None:
        if block in self._nodes:
            self._forks.ripen(self._nodes[block])

    # -- where it stands ------------------------------------------------------------------------------------------

    @property
    def tip(self) -> Node:
        return self._forks.tip

    @property
    def certified(self) -> Node:
        return self._forks.root

    @property
    def equivocators(self) -> frozenset[PeerId]:
        return frozenset(self._suspects.guilty)

    def node(self, block: Digest) -> Node | None:
        return self._nodes.get(block)

    def proposers(self, parent: Node | None = None) -> tuple[PeerId, ...]:
        """Of the block after `parent` (the tip), first rank first."""
        return proposers((parent or self.tip).state, self.rules, self.run)

    def entry_at(self, block: Digest, place: int) -> Entry | None:
        """To answer those who lack it."""
        node = self._nodes.get(block)
        return node.entries[place] if node is not None and place < len(node.entries) else None

    def leaves(self) -> list[Node]:
        """Of all branches that may still become the tip's."""
        return [node for node in self._nodes.values() if node.live and not node.children]

    def sizes(self) -> tuple[int, int, int, int]:
        """How many blocks and entries are held, and how many of each wait for what they rest on."""
        return len(self._nodes), len(self._entries), len(self._orphans) + len(self._bodies), len(self._early)

    def locator(self) -> tuple[Digest, ...]:
        """Where our branch runs, for others to find what we lack of theirs."""
        return locator_of(self._forks.path())

    def after(self, locator: Sequence[Digest], most: int) -> list[Node]:
        """The next blocks of our branch for who sent that."""
        return beyond(self._forks.path(), locator, most)

    def countable(self, parent: Node | None = None) -> list[Entry]:
        """What the block after `parent` (the tip) could count now: time to propose when all seats are in."""
        return self._entries.countable((parent or self.tip).state, self.rules, self._suspects.guilty)[1]

    def missing(self) -> Missing:
        unknown = [each for each in (*self._orphans.awaited(), *self._early.awaited()) if each not in self._bodies]
        blocks = tuple(islice((each for each in dict.fromkeys(unknown) if each not in self._orphans), _MISSING))
        lacking = ((digest, self._entries.lacking(found)) for digest, _, found in self._bodies)
        return Missing(blocks, tuple(islice(lacking, _MISSING)))

    def plan(self, since: Digest) -> Plan:
        """From the A of block `since`, which must be held (`prune` keeps it), to the tip's."""
        return plan_between(self._nodes[since], self.tip, self.rules, self.run)

    # -- taking part ----------------------------------------------------------------------------------------------

    def enter(self, signer: Signer, scalars: bytes, base: Node, promises: Promises) -> tuple[Entry, Promises] | None:
        """My entry on `base`, and what I promise by it: journal that before anybody hears the entry. None: no seat of
        mine, or I have promised otherwise."""
        if not base.live:
            return None
        vote = vote_on(base.state, self.rules, self._archive.known, signer.peer, promises)
        return entry_on(base.state, self.rules, self.run, signer=signer, scalars=scalars, vote=vote, promises=promises)

    def propose(
        self, signer: Signer, reveal: bytes, promises: Promises, parent: Node | None = None
    ) -> tuple[Block, Promises] | None:
        """My block after `parent` (the tip) with all that may count, likewise. `reveal`: my link for its height."""
        state, guilty = (parent or self.tip).state, self._suspects.guilty
        return block_on(
            state,
            self.rules,
            self.run,
            signer=signer,
            reveal=reveal,
            counted=self._entries.countable(state, self.rules, guilty),
            changes=self._pool.changes(state, guilty),
            promises=promises,
        )

    def settle(self, block: Digest, model: Digest) -> None:
        """The digest of A at a checkpoint of ours, as `Step.checkpoint` asks for it."""
        node = self._nodes.get(block)
        if node is not None:
            self._archive.settle(node, model)

    def snapshot(self) -> Snapshot | None:
        """For a joiner: at the newest certified checkpoint whose A was settled here. None before there is one."""
        return self._archive.snapshot()

    def prune(self, at: Digest) -> None:
        """Forget what lies below the certified checkpoint, once our A (`at`) is above it, and the branches without
        it."""
        root, applied = self.certified, self._nodes[at]
        if root is self._archive.floor or not applied.live or not self._archive.may_forget(applied):
            return
        kept = {node.digest: node for node in subtree(root)}
        self._forks.forget_dead()
        root.parent = None
        self._nodes = kept
        self._entries.forget_below(root.height - self.rules.window + 2)
        self._suspects.forget_below(root.height)
        self._archive.forget(kept, root)
        self._early.keep(lambda entry: entry.height > root.height)
        self._orphans.keep(lambda block: block.head.height > root.height)
        for digest, block, _ in list(self._bodies):
            if block.head.height <= root.height or block.head.parent not in kept:
                self._bodies.drop(digest)

    # -- entries --------------------------------------------------------------------------------------------------

    def _doubt_entry(self, digest: Digest, entry: Entry) -> Refusal | None:
        """Cheapest first, the signature last."""
        if digest in self._entries or digest in self._early:
            return Refusal.KNOWN
        if validity.malformed_entry(entry, self.rules):
            return Refusal.MALFORMED
        if entry.height <= self.certified.height - self.rules.window + 1 or entry.base in self._rejected:
            return Refusal.BELOW
        if entry.height > self.tip.height + limits.AHEAD:
            return Refusal.AHEAD
        if not self._may_sign(entry.origin):
            return Refusal.NOT_ADMITTED
        if len(self._entries.at((entry.origin, entry.height))) >= limits.ENTRIES_PER_SEAT:
            return Refusal.FULL
        if self._base(entry.base) is None and not self._early.has_room(entry.origin):
            return Refusal.FULL
        return None if genuine(entry, self.run) else Refusal.FORGED

    def _is_sound(self, entry: Entry) -> bool:
        return not validity.malformed_entry(entry, self.rules) and genuine(entry, self.run)

    def _take_entry(self, digest: Digest, entry: Entry, base: Ancestor) -> Refusal | None:
        if entry.height != base.height + 1:
            return self._blame(entry.origin, Refusal.WRONG_HEIGHT)
        if entry.origin not in base.seats:
            return self._blame(entry.origin, Refusal.NOT_SEATED)
        key = entry.origin, entry.height
        self._convict(self._suspects.hear_entry(entry, self._entries.at(key)))
        self._entries.add(digest, entry)
        if (node := self._nodes.get(Digest(entry.base))) is not None:
            self._forks.vote(entry.origin, entry.height, node)
        self._ready.extend(self._bodies.waiting_for(key))
        return None

    def _convict(self, proof: Evidence | None) -> None:
        """It has no votes any more, and is out with the next block."""
        if proof is not None:
            self._forks.ban(evidence.culprit(proof))
            self._faults.append(Fault(evidence.culprit(proof), None, proof))

    def _base(self, digest: bytes) -> Ancestor | None:
        """A block that an entry may name: held, or just below the lowest that is."""
        node = self._nodes.get(Digest(digest))
        if node is not None:
            return node.state.recent[-1]
        return next((each for each in self._archive.floor.state.recent if each.digest == digest), None)

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _doubt_block(self, digest: Digest, block: Block) -> Refusal | None:
        head = block.head
        if digest in self._nodes or digest in self._orphans or digest in self._bodies or digest in self._rejected:
            return Refusal.KNOWN
        if validity.malformed_block(block, self.rules):
            return Refusal.MALFORMED
        if head.height <= self.certified.height:
            return self._reject(digest, Refusal.BELOW)
        if head.height > self.tip.height + limits.AHEAD:
            return Refusal.AHEAD
        if not self._may_sign(head.proposer):
            return Refusal.NOT_ADMITTED
        if not self._has_room(digest, head):
            return Refusal.FULL
        return None if genuine(head, self.run) else Refusal.FORGED

    def _has_room(self, digest: Digest, head: Head) -> bool:
        """However many blocks an equivocator made for one height, one that others build on or vote for is let in."""
        awaited = self._orphans.awaits(digest) or self._early.awaits(digest)
        if not awaited and self._suspects.turns(head.proposer, head.height) >= limits.BLOCKS_PER_TURN:
            return False
        if head.parent in self._nodes:
            return awaited or self._bodies.of[head.proposer] < limits.WAITING_PER_PEER
        return self._orphans.has_room(head.proposer)

    def _drain(self) -> None:
        while self._ready:
            self._attempt(*self._ready.popleft())

    def _attempt(self, digest: Digest, block: Block) -> None:
        """The parent is held: does the block hold, and are its entries here?"""
        head, parent = block.head, self._nodes.get(Digest(block.head.parent))
        if parent is None or digest in self._nodes or digest in self._rejected:
            return
        if digest not in self._bodies and (refusal := self._doubt_head(block, parent.state)) is not None:
            self._blame(head.proposer, refusal)
            self._reject(digest, refusal)
            return
        found = slots(parent.state, self.rules, head.counted)
        assert found is not None
        entries = self._entries.rebuilt(head, found)
        if entries is None:
            self._bodies.put(digest, block, found)
            return
        self._bodies.drop(digest)
        state = advance(
            parent.state, self.rules, self.run, digest=digest, head=head, changes=block.changes, entries=entries
        )
        self._connect(Node(digest, state, parent, block, entries))

    def _doubt_head(self, block: Block, parent: State) -> Refusal | None:
        if (refusal := validity.doubt_block(block, parent, self.rules, self.run, self._admits)) is not None:
            return refusal
        member = parent.members[block.head.proposer]
        return None if self._reveals.holds(block.head, member) else Refusal.WRONG_REVEAL

    def _connect(self, node: Node) -> None:
        assert node.block is not None
        self._nodes[node.digest] = node
        self._connected.append(node)
        self._forks.add(node)
        self._convict(self._suspects.hear_head(node.block.head))
        self._judge(node)
        for digest, entry in self._early.take(node.digest):
            self._take_entry(digest, entry, node.state.recent[-1])
        self._ready.extend(self._orphans.take(node.digest))

    def _judge(self, node: Node) -> None:
        """Has a checkpoint become certified, or justified higher than any?"""
        judged, fresh = node.state.finality, [node]
        if not node.live:
            return
        if judged.certified.height > self.certified.height:
            certified = ancestor(node, judged.certified.height)
            self._archive.certify(certified, node)
            self._forks.reroot(certified, frozenset(certified.state.members))
            fresh = subtree(certified)
        for each in fresh:
            self._forks.justify(each)

    # -- small ----------------------------------------------------------------------------------------------------

    def _may_sign(self, peer: PeerId) -> bool:
        return peer in self.rules.founders or self._admits(peer)

    def _blame(self, peer: PeerId, refusal: Refusal) -> Refusal:
        if refusal in validity.SIGNERS_FAULT:
            self._faults.append(Fault(peer, refusal))
        return refusal

    def _reject(self, digest: Digest, refusal: Refusal) -> Refusal:
        """And all that waits for it, for it will never exist here."""
        doomed = [digest]
        for each in doomed:
            self._rejected[each] = refusal
            self._early.take(each)
            doomed.extend(child for child, _ in self._orphans.take(each))
        while len(self._rejected) > _REJECTED:
            del self._rejected[next(iter(self._rejected))]
        return refusal
