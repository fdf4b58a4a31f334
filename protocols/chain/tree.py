"""The chain as one node holds it: entries and blocks in any order of arrival, the tip, and what follows from them.

`Chain` is the only mutable thing of this package. What it says is a function of the set of signed things it holds,
never of their order or of a clock: a block exists, and votes for it count, once it, its entries and its ancestors are
held and hold (`protocols.chain.validity`); the tip follows the votes (`protocols.chain.forks`); certified blocks are
never left.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from protocols.chain import limits, validity
from protocols.chain.archive import Archive, ancestor
from protocols.chain.checkpoints import Promises, Snapshot, vote_on
from protocols.chain.draws import Update, updates_of
from protocols.chain.entries import Entries
from protocols.chain.evidence import against, clash
from protocols.chain.forks import Forks, Node, subtree
from protocols.chain.messages import (
    Block,
    Entry,
    Evidence,
    Head,
    Here,
    Join,
    Leave,
    digest_of_changes,
    digest_of_ids,
    genuine,
    id_of,
    sign,
)
from protocols.chain.pool import Pool
from protocols.chain.rules import Rules
from protocols.chain.state import Ancestor, Slot, State, advance, initial, proposers, slots
from protocols.chain.validity import Refusal
from protocols.chain.waiting import Waiting
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest

_REJECTED: Final = 1024  # digests of blocks that do not hold, remembered
_MISSING: Final = 64  # named at once


class Step(NamedTuple):
    """What one block does to A. `checkpoint`: after it, hash A and tell `Chain.settle`."""

    block: Digest
    height: int
    updates: tuple[Update, ...]
    checkpoint: bool


class Plan(NamedTuple):
    """From one block's A to another's: subtract the first, newest first, then add the second, oldest first."""

    subtract: tuple[Step, ...]
    add: tuple[Step, ...]


class Missing(NamedTuple):
    """What others are to be asked for: blocks by digest, and of blocks the entries at these places of `counted`."""

    blocks: tuple[Digest, ...]
    entries: tuple[tuple[Digest, tuple[int, ...]], ...]


class Fault(NamedTuple):
    """A signer's fault, found when what it signed was looked at; with evidence it is an equivocation."""

    peer: PeerId
    refusal: Refusal | None
    evidence: Evidence | None = None


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
        self._justified = root
        self._entries = Entries()
        self._votes: dict[PeerId, dict[int, Entry]] = {}  # by the height voted for
        self._turns: dict[tuple[PeerId, int], list[Head]] = {}  # proposer and height
        self._reveals = validity.Reveals()
        self._early: Waiting[Entry] = Waiting(limits.ENTRIES_WAITING)
        self._orphans: Waiting[Block] = Waiting(limits.BLOCKS_WAITING)
        self._bodiless: dict[Digest, Block] = {}  # parent held, entries not
        self._bodiless_of: Counter[PeerId] = Counter()
        self._lacking: dict[tuple[PeerId, int], set[Digest]] = {}  # origin and height -> bodiless blocks
        self._ready: deque[tuple[Digest, Block]] = deque()
        self._rejected: dict[Digest, Refusal] = {}
        self._equivocators: dict[PeerId, Evidence] = {}
        self._pool = Pool(rules, admits)
        self._faults: list[Fault] = []
        self._connected: list[Node] = []

    # -- hearing --------------------------------------------------------------------------------------------------

    def hear_entry(self, entry: Entry, *, asked: bool = False) -> Refusal | None:
        """`asked`: it came in answer to `missing`."""
        digest = id_of(entry)
        if (refusal := self._doubt_entry(digest, entry, asked)) is not None:
            return refusal
        base = self._base(entry.base)
        if base is None:
            self._early.put(Digest(entry.base), digest, entry.origin, entry)
            return None
        refusal = self._take_entry(digest, entry, base)
        self._drain()
        return refusal

    def hear_block(self, block: Block, *, asked: bool = False) -> Refusal | None:
        digest = id_of(block.head)
        if (refusal := self._doubt_block(digest, block, asked)) is not None:
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

    def take_faults(self) -> list[Fault]:
        """Since the last call, each once: for `verify.standing`."""
        faults, self._faults = self._faults, []
        return faults

    def take_connected(self) -> list[Node]:
        """Blocks that exist here since the last call. One of rank r is to be `ripen`ed when r deadlines have passed since
        its parent was connected; before that it is followed only if more than a third of the electors voted for it."""
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
        return frozenset(self._equivocators)

    def __contains__(self, block: Digest) -> bool:
        return block in self._nodes

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

    def locator(self) -> tuple[Digest, ...]:
        """Blocks of our branch, ever farther apart from the tip down: who reads it finds where we part."""
        held = self._forks.path()
        places = {len(held) - 1 - 2**power for power in range(len(held).bit_length())} | {0, len(held) - 1}
        return tuple(held[place].digest for place in sorted(places, reverse=True) if place >= 0)

    def after(self, locator: Sequence[Digest], most: int) -> list[Node]:
        """The next blocks of our branch for somebody who holds those; from our lowest if it holds none of them."""
        path, known = self._forks.path(), set(locator)
        start = next((place for place in range(len(path) - 1, -1, -1) if path[place].digest in known), 0)
        return path[start + 1 : start + 1 + most]

    def countable(self, parent: Node | None = None) -> list[Entry]:
        """The entries that the block after `parent` (the tip) could count now: time to propose when all seats are in."""
        return self._entries.countable((parent or self.tip).state, self.rules, self._equivocators)[1]

    def missing(self) -> Missing:
        unknown = [each for each in (*self._orphans.awaited(), *self._early.awaited()) if each not in self._bodiless]
        blocks = tuple(islice((each for each in dict.fromkeys(unknown) if each not in self._orphans), _MISSING))
        lacking = ((digest, self._places_lacking(block)) for digest, block in self._bodiless.items())
        return Missing(blocks, tuple(islice(lacking, _MISSING)))

    def plan(self, since: Digest) -> Plan:
        """From the A of block `since`, which must be held (`prune` keeps it), to the tip's."""
        before, after = self._nodes[since], self.tip
        subtract, add = [], []
        while before is not after:
            if before.height > after.height:
                subtract.append(self._step(before))
                before = _parent(before)
            else:
                add.append(self._step(after))
                after = _parent(after)
        return Plan(tuple(subtract), tuple(reversed(add)))

    # -- taking part ----------------------------------------------------------------------------------------------

    def enter(self, signer: Signer, scalars: bytes, base: Node, promises: Promises) -> tuple[Entry, Promises] | None:
        """My entry on `base`, and what I promise by it: journal that before anybody hears the entry. None: no seat of
        mine, or I have promised otherwise."""
        height, me = base.height + 1, signer.peer
        if me not in base.state.seats or height <= promises.entry or not base.live:
            return None
        vote = vote_on(base.state, self.rules, self._archive.known, me, promises)
        entry = sign(Entry(height, base.digest, scalars, vote, me, b""), signer, self.run)
        return entry, Promises(height, promises.block, vote or promises.vote)

    def propose(
        self, signer: Signer, reveal: bytes, promises: Promises, parent: Node | None = None
    ) -> tuple[Block, Promises] | None:
        """The block after `parent` (the tip), with all that may count. `reveal`: my link for its height."""
        parent = parent or self.tip
        height, state, order = parent.height + 1, parent.state, self.proposers(parent)
        if signer.peer not in order or height <= promises.block or height > self.rules.steps:
            return None
        numbers, entries = self._entries.countable(state, self.rules, self._equivocators)
        changes = self._pool.changes(state, self._equivocators)
        force = validity.in_force(state.members[signer.peer], height)
        unsigned = Head(
            parent.digest,
            height,
            order.index(signer.peer),
            reveal if force else b"",
            tuple(numbers),
            digest_of_ids([id_of(entry) for entry in entries]),
            digest_of_changes(changes),
            signer.peer,
            b"",
        )
        block = Block(sign(unsigned, signer, self.run), changes)
        return block, Promises(promises.entry, height, promises.vote)

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
        if not applied.live or (root.parent is None and len(self._nodes) == len(subtree(root))):
            return
        self._archive.write()
        kept = {node.digest: node for node in subtree(root)}
        self._forks.forget_dead()
        root.parent = None
        self._nodes = kept
        self._entries.forget_below(root.height - self.rules.window + 2)
        self._turns = {key: heads for key, heads in self._turns.items() if key[1] > root.height}
        for votes in self._votes.values():
            for height in [height for height in votes if height < root.height]:
                del votes[height]
        self._archive.forget(kept, root)
        for digest, block in list(self._bodiless.items()):
            if block.head.height <= root.height or block.head.parent not in kept:
                self._drop(digest, block)

    # -- entries --------------------------------------------------------------------------------------------------

    def _doubt_entry(self, digest: Digest, entry: Entry, asked: bool) -> Refusal | None:
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
        if not asked and len(self._entries.at((entry.origin, entry.height))) >= limits.ENTRIES_PER_SEAT:
            return Refusal.FULL
        if self._base(entry.base) is None and not self._early.has_room(entry.origin):
            return Refusal.FULL
        return None if genuine(entry, self.run) else Refusal.FORGED

    def _take_entry(self, digest: Digest, entry: Entry, base: Ancestor) -> Refusal | None:
        if entry.height != base.height + 1:
            return self._blame(entry.origin, Refusal.WRONG_HEIGHT)
        if entry.origin not in base.seats:
            return self._blame(entry.origin, Refusal.NOT_SEATED)
        key = entry.origin, entry.height
        self._suspect(entry, self._entries.at(key))
        self._entries.add(digest, entry)
        self._take_vote(entry)
        if (node := self._nodes.get(Digest(entry.base))) is not None:
            self._forks.vote(entry.origin, entry.height, node)
        self._ready.extend((block, self._bodiless[block]) for block in self._lacking.get(key, ()))
        return None

    def _take_vote(self, entry: Entry) -> None:
        """Any two votes of one member must be free of Casper's clashes."""
        if entry.vote is not None:
            others = self._votes.setdefault(entry.origin, {})
            self._suspect(entry, (other for other in others.values() if clash(entry.vote, other.vote)))
            others.setdefault(entry.vote.height, entry)

    def _suspect(self, signed: Entry | Head, others: Iterable[Entry | Head]) -> None:
        """Of the two that exclude each other, whoever signed them: no votes any more, and out with the next block."""
        peer = signed.origin if isinstance(signed, Entry) else signed.proposer
        other = next(iter(others), None)
        if other is not None and peer not in self._equivocators:
            self._equivocators[peer] = against(signed, other)
            self._forks.ban(peer)
            self._faults.append(Fault(peer, None, self._equivocators[peer]))

    def _base(self, digest: bytes) -> Ancestor | None:
        """A block that an entry may name: held, or just below the lowest that is."""
        node = self._nodes.get(Digest(digest))
        if node is not None:
            return node.state.recent[-1]
        return next((each for each in self._archive.floor.state.recent if each.digest == digest), None)

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _doubt_block(self, digest: Digest, block: Block, asked: bool) -> Refusal | None:
        head = block.head
        if digest in self._nodes or digest in self._orphans or digest in self._bodiless or digest in self._rejected:
            return Refusal.KNOWN
        if validity.malformed_block(block, self.rules):
            return Refusal.MALFORMED
        if head.height <= self.certified.height:
            return self._reject(digest, Refusal.BELOW)
        if head.height > self.tip.height + limits.AHEAD:
            return Refusal.AHEAD
        if not self._may_sign(head.proposer):
            return Refusal.NOT_ADMITTED
        if not (asked or self._has_room(digest, head)):
            return Refusal.FULL
        return None if genuine(head, self.run) else Refusal.FORGED

    def _has_room(self, digest: Digest, head: Head) -> bool:
        """What others build on or vote for is always let in: one of an equivocator's many blocks may be the tip."""
        if self._orphans.awaits(digest) or self._early.awaits(digest):
            return True
        return (
            len(self._turns.get((head.proposer, head.height), ())) < limits.BLOCKS_PER_TURN
            and self._orphans.has_room(head.proposer)
            and self._bodiless_of[head.proposer] < limits.WAITING_PER_PEER
        )

    def _drain(self) -> None:
        while self._ready:
            self._attempt(*self._ready.popleft())

    def _attempt(self, digest: Digest, block: Block) -> None:
        """The parent is held: does the block hold, and are its entries here?"""
        head, parent = block.head, self._nodes.get(Digest(block.head.parent))
        if parent is None or digest in self._nodes or digest in self._rejected:
            return
        if digest not in self._bodiless and (refusal := self._doubt_head(block, parent.state)) is not None:
            self._blame(head.proposer, refusal)
            self._reject(digest, refusal)
            return
        found = slots(parent.state, self.rules, head.counted)
        assert found is not None
        entries = self._entries.rebuilt(head, found)
        if entries is None:
            self._lack(digest, block, found)
            return
        self._drop(digest, block)
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
        head = node.block.head
        self._nodes[node.digest] = node
        self._connected.append(node)
        self._forks.add(node)
        turns = self._turns.setdefault((head.proposer, head.height), [])
        self._suspect(head, turns)
        turns.append(head)
        self._judge(node)
        for digest, entry in self._early.take(node.digest):
            self._take_entry(digest, entry, node.state.recent[-1])
        self._ready.extend(self._orphans.take(node.digest))

    def _judge(self, node: Node) -> None:
        """Has a checkpoint become certified, or justified higher than any?"""
        judged = node.state.finality
        if not node.live:
            return
        if judged.certified.height > self.certified.height:
            certified = ancestor(node, judged.certified.height)
            assert certified is not None
            assert certified.live
            self._archive.certify(certified, node)
            self._forks.reroot(certified, frozenset(certified.state.members))
            self._justified = certified
            for each in subtree(certified):
                self._raise_justified(each)
            self._forks.start(self._justified)
        elif self._raise_justified(node):
            self._forks.start(self._justified)

    def _raise_justified(self, node: Node) -> bool:
        mark, best = node.state.finality.justified, self._justified
        if (mark.height, best.digest) <= (best.height, mark.block):  # of two of one height the lower digest
            return False
        found = ancestor(node, mark.height)
        assert found is not None
        self._justified = found
        return True

    # -- blocks whose entries are not here ------------------------------------------------------------------------

    def _lack(self, digest: Digest, block: Block, found: Sequence[Slot]) -> None:
        if digest not in self._bodiless:
            self._bodiless[digest] = block
            self._bodiless_of[block.head.proposer] += 1
            for slot in found:
                self._lacking.setdefault((slot.origin, slot.base.height + 1), set()).add(digest)

    def _drop(self, digest: Digest, block: Block) -> None:
        """It is whole now, or never will be."""
        if self._bodiless.pop(digest, None) is None:
            return
        self._bodiless_of[block.head.proposer] -= 1
        self._lacking = {seat: left for seat, blocks in self._lacking.items() if (left := blocks - {digest})}

    def _places_lacking(self, block: Block) -> tuple[int, ...]:
        found = slots(self._nodes[Digest(block.head.parent)].state, self.rules, block.head.counted)
        return self._entries.lacking(found or [])

    # -- small ----------------------------------------------------------------------------------------------------

    def _step(self, node: Node) -> Step:
        """Its updates are kept, for they are asked for again only when it is taken back."""
        assert node.parent is not None
        beacons = {base.digest: base.beacon for base in node.parent.state.recent}
        updates = tuple(
            update
            for entry in node.entries
            for update in updates_of(entry, self.run, beacons[entry.base], self.rules.multiplier(entry.height))
        )
        return Step(node.digest, node.height, updates, self.rules.is_checkpoint(node.height))

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


def _parent(node: Node) -> Node:
    assert node.parent is not None, "the plan starts below what is kept"
    return node.parent
