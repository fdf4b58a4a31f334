"""A toy network on which the chain's rules are attacked: discrete events, one seed, one trace. Not the real
conversation, but its outline: enter on a tip, propose in rank order after deadlines, ask others for what is missing.

`python tests/chain/arena.py [STEPS]` prints the longer table.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocols.chain.checkpoints import Promises
from protocols.chain.draws import HashChain, drawn, next_beacon
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Entry, Head, Here, Join, digest_of_ids, id_of, sign
from protocols.chain.plan import Missing, Step
from protocols.chain.rules import Rules
from protocols.chain.state import slots
from protocols.chain.tree import Chain
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

DEADLINE_S = 1.0
COMPUTE_S = 0.15
TICK_S = 0.25
SIGNERS = [Signer.from_seed(digest_of(b"arena %d" % index)) for index in range(16)]
LINKS = {signer.peer: HashChain(digest_of(signer.peer.encode()), 0, 4096) for signer in SIGNERS}

Said = Entry | Block | Join | Here


@dataclass(frozen=True)
class Ask:
    """What I lack, and where I am."""

    locator: tuple[Digest, ...]
    missing: Missing


@dataclass(frozen=True)
class Answer:
    said: tuple[Entry | Block, ...]
    bodies: tuple[tuple[Digest, tuple[Entry, ...]], ...]


class Arena:
    """The network and the clock."""

    def __init__(self, seed: int, nodes: int, *, loss: float = 0.0, epoch: int = 16, steps: int = 10_000) -> None:
        self.random = random.Random(seed)
        self.run_id = digest_of(b"arena %d" % seed)
        self.loss = loss
        self.now = 0.0
        self.rules = Rules(founders=tuple(s.peer for s in SIGNERS[:nodes]), steps=steps, probes=1, seats=8, epoch=epoch)
        self.cut: Callable[[PeerId, PeerId], bool] = lambda one, other: False
        self.players: dict[PeerId, Honest] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, act))

    def send(self, sender: PeerId, to: PeerId, what: Said | Ask | Answer, *, delay_s: float = 0.0) -> None:
        if self.random.random() < self.loss or self.cut(sender, to):
            return
        player = self.players[to]
        self.at(self.now + delay_s + self.random.uniform(0.01, 0.1), lambda: player.hear(sender, what))

    def tell(self, sender: PeerId, what: Said, to: Iterable[PeerId] | None = None, *, delay_s: float = 0.0) -> None:
        for peer in self.players if to is None else to:
            if peer != sender:
                self.send(sender, peer, what, delay_s=delay_s)

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        while self._events and not until() and self.now < limit_s:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def honest(self) -> list[Honest]:
        return [player for player in self.players.values() if type(player) is Honest and player.alive]

    def others(self, me: PeerId, count: int) -> list[PeerId]:
        alive = [peer for peer, player in self.players.items() if peer != me and player.alive]
        return self.random.sample(alive, min(count, len(alive)))


class Honest:
    """A member that follows the rules."""

    def __init__(self, arena: Arena, signer: Signer) -> None:
        self.arena, self.signer, self.me = arena, signer, signer.peer
        self.chain = Chain(arena.run_id, arena.rules, lambda peer: True)
        self.promises = Promises()
        self.alive = True
        self.seen = self.chain.tip  # the tip we last acted on
        self.since = 0.0  # when it became our tip
        self.made: list[Entry] = []
        self.certified: dict[int, Digest] = {}
        self.came: dict[bytes, float] = {}  # when a block was connected here
        self.at = self.chain.tip.digest  # the block whose A we have
        self.a = 0
        self.reorganised = 0
        self.asked = 0.0
        arena.players[self.me] = self
        arena.at(0.0, self.start)
        arena.at(arena.random.random() * TICK_S, self.tick)

    def start(self) -> None:
        self.say(sign(Join(0, Digest(LINKS[self.me].tip), b"", self.me, b""), self.signer, self.arena.run_id))
        self.arrived(self.chain.tip)

    # -- hearing --------------------------------------------------------------------------------------------------

    def hear(self, sender: PeerId, what: Said | Ask | Answer) -> None:
        if not self.alive:
            return
        if isinstance(what, Ask):
            self.answer(sender, what)
        elif isinstance(what, Answer):
            for each in what.said:
                self.take(each)
            for block, entries in what.bodies:
                self.chain.hear_body(block, entries)
            self.clock()
            self.look()
        else:
            self.take(what)
            self.look()
            if self.arena.now > self.asked + 0.1 and any(self.chain.missing()):
                self.asked = self.arena.now
                self.arena.send(self.me, sender, Ask(self.chain.locator(), self.chain.missing()))

    def take(self, what: Said) -> None:
        if isinstance(what, Entry):
            self.chain.hear_entry(what)
        elif isinstance(what, Block):
            self.chain.hear_block(what)
            self.clock()
        else:
            self.chain.hear_change(what)

    def clock(self) -> None:
        """A block of rank r counts for us r deadlines after its parent came: it buys nothing to be early."""
        for node in self.chain.take_connected():
            self.came[node.digest] = self.arena.now
            parent = node.parent.digest if node.parent is not None else b""
            ripe = self.came.get(parent, 0.0) + self.patience(node) * DEADLINE_S - 0.1
            if ripe <= self.arena.now:
                self.chain.ripen(node.digest)
            else:
                self.arena.at(ripe, lambda node=node: self.ripen(node))

    def ripen(self, node: Node) -> None:
        if self.alive:
            self.chain.ripen(node.digest)
            self.look()

    def patience(self, node: Node) -> int:
        return node.rank

    def answer(self, sender: PeerId, ask: Ask) -> None:
        said: list[Entry | Block] = []
        for digest in ask.missing.blocks:
            said += bundle(self.chain.node(digest))
        bodies = []
        for digest, places in ask.missing.entries:
            found = (self.chain.entry_at(digest, place) for place in places)
            bodies.append((digest, tuple(entry for entry in found if entry is not None)))
        for node in self.chain.after(ask.locator, 20):
            said += bundle(node)
        said += self.chain.countable()
        self.arena.send(self.me, sender, Answer(tuple(said), tuple(bodies)))

    # -- acting ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        if self.alive:
            self.ask(1)
            if self.me in self.chain.tip.state.dormant:
                self.say(sign(Here(self.chain.tip.height, self.me, b""), self.signer, self.arena.run_id))
        self.arena.at(self.arena.now + TICK_S, self.tick)

    def ask(self, count: int) -> None:
        for peer in self.arena.others(self.me, count):
            self.arena.send(self.me, peer, Ask(self.chain.locator(), self.chain.missing()))

    def look(self) -> None:
        tip = self.chain.tip
        if tip is not self.seen:
            self.arrived(tip)
        elif self.may_lead() and self.is_complete():
            self.propose(tip)

    def arrived(self, tip: Node) -> None:
        """A new tip: follow it, probe on it, and be ready to propose on it."""
        self.seen, self.since = tip, self.arena.now
        self.follow()
        self.certified[self.chain.certified.height] = self.chain.certified.digest
        self.arena.at(self.arena.now + COMPUTE_S * self.arena.random.uniform(0.5, 1.5), lambda: self.enter(tip))
        order = self.chain.proposers(tip)
        if self.me in order:
            rank = order.index(self.me)
            due = self.arena.now + DEADLINE_S * (rank + 1) - 0.3
            if rank:
                self.arena.at(due, lambda: self.ask(3) if self.chain.tip is tip and self.alive else None)
            self.arena.at(due + 0.3, lambda: self.propose(tip))

    def follow(self) -> None:
        plan = self.chain.plan(self.at)
        self.reorganised += bool(plan.subtract)
        for step in plan.subtract:
            self.a -= weigh(step)
        for step in plan.add:
            self.a += weigh(step)
            if step.checkpoint:
                self.chain.settle(step.block, digest_of(b"%d" % self.a))
        self.at = self.chain.tip.digest

    def enter(self, base: Node) -> None:
        if not self.alive or base is not self.chain.tip:
            return
        made = self.chain.enter(self.signer, self.scalars(base), base, self.promises)
        if made is not None:
            entry, self.promises = made
            self.made.append(entry)
            self.say_entry(entry)

    def scalars(self, base: Node) -> bytes:
        return bytes([1 + base.height % 100])

    def may_lead(self) -> bool:
        return self.chain.proposers()[:1] == (self.me,)

    def is_complete(self) -> bool:
        tip = self.chain.tip
        return len(self.chain.countable(tip)) >= len(tip.state.seats)

    def propose(self, parent: Node) -> None:
        if not self.alive or self.chain.tip is not parent:
            return
        reveal = LINKS[self.me].reveal(parent.height + 1)
        made = self.chain.propose(self.signer, reveal, self.promises, parent)
        if made is not None:
            block, self.promises = made
            self.say_block(block)

    def say(self, what: Said) -> None:
        self.take(what)
        self.arena.tell(self.me, what)

    def say_entry(self, entry: Entry) -> None:
        self.say(entry)
        self.look()

    def say_block(self, block: Block) -> None:
        self.take(block)
        self.arena.tell(self.me, block)
        self.look()


def bundle(node: Node | None) -> list[Entry | Block]:
    return [] if node is None or node.block is None else [*node.entries, node.block]


def weigh(step: Step) -> int:
    """A stand-in for A += coefficient * z(seed): exact, and different for every update."""
    return sum(update.seed * update.coefficient for update in step.updates)


# -- hostile members ----------------------------------------------------------------------------------------------


class Hostile(Honest):
    """Hostile members know each other at once and everything each of them hears."""

    def friends(self) -> list[PeerId]:
        return [peer for peer, player in self.arena.players.items() if isinstance(player, Hostile)]

    def marks(self) -> list[PeerId]:
        return [peer for peer, player in self.arena.players.items() if not isinstance(player, Hostile)]

    def patience(self, node: Node) -> int:
        return 0

    def scalars(self, base: Node) -> bytes:
        return bytes([0x7F])


class Silent(Hostile):
    """Withholding: signs nothing, so that its seats and turns are lost."""

    def say_entry(self, entry: Entry) -> None:
        pass

    def say_block(self, block: Block) -> None:
        pass


class Stale(Hostile):
    """Reveals saturated bytes as late as may still count, and some far later."""

    def say_entry(self, entry: Entry) -> None:
        late = 2.0 * DEADLINE_S if self.arena.random.random() < 0.7 else 20 * DEADLINE_S
        self.arena.at(self.arena.now + late, lambda: super(Stale, self).say_entry(entry))


class Late(Hostile):
    """Shows its blocks when the next rank has proposed, to half of the others first."""

    def say_block(self, block: Block) -> None:
        self.take(block)
        half = self.arena.random.sample(self.marks(), len(self.marks()) // 2)
        self.arena.tell(self.me, block, [*half, *self.friends()], delay_s=0.9 * DEADLINE_S)
        self.arena.tell(self.me, block, delay_s=1.6 * DEADLINE_S)


class Early(Hostile):
    """Proposes at once on every tip, whatever its rank."""

    def arrived(self, tip: Node) -> None:
        super().arrived(tip)
        self.arena.at(self.arena.now + 0.1, lambda: self.propose(tip))


class Equivocator(Hostile):
    """Two blocks of one height to the two halves of the others, two entries of one height likewise."""

    def say_entry(self, entry: Entry) -> None:
        other = sign(Entry(entry.height, entry.base, b"\x05", entry.vote, self.me, b""), self.signer, self.arena.run_id)
        self.split(entry, other)

    def say_block(self, block: Block) -> None:
        head = block.head
        empty = digest_of(b"")
        other = Head(head.parent, head.height, head.rank, head.reveal, (), empty, head.changes, self.me, b"")
        self.split(block, Block(sign(other, self.signer, self.arena.run_id), block.changes))

    def split(self, one: Said, other: Said) -> None:
        half = self.arena.random.sample(self.marks(), len(self.marks()) // 2)
        self.take(one)
        self.arena.tell(self.me, one, half)
        self.arena.tell(self.me, other, set(self.marks()) - set(half))


class Censor(Hostile):
    """Its blocks count hostile entries only."""

    def say_block(self, block: Block) -> None:
        head, state = block.head, self.chain.node(Digest(block.head.parent)).state
        found = slots(state, self.arena.rules, head.counted)
        kept = [
            (number, entry)
            for number, slot, entry in zip(head.counted, found, self.chain.countable(), strict=True)
            if slot.origin in self.friends()
        ]
        ids = digest_of_ids([id_of(entry) for _, entry in kept])
        numbers = tuple(number for number, _ in kept)
        only = Head(head.parent, head.height, head.rank, head.reveal, numbers, ids, head.changes, self.me, b"")
        super().say_block(Block(sign(only, self.signer, self.arena.run_id), block.changes))


class Grinder(Hostile):
    """At the last block of an epoch it keeps its reveal to itself if that gives its friends more first ranks."""

    def propose(self, parent: Node) -> None:
        rules, state = self.arena.rules, parent.state
        if rules.is_checkpoint(parent.height + 1) and self.may_lead():
            reveal = LINKS[self.me].reveal(parent.height + 1)
            if self.wins(next_beacon(state.beacon, reveal), parent) < 0.34 * rules.epoch:
                return
        super().propose(parent)

    def wins(self, beacon: Digest, parent: Node) -> int:
        members, hostile = tuple(parent.state.members), set(self.friends())
        first = parent.height + 1 + self.arena.rules.epoch + 1
        heights = range(first, first + self.arena.rules.epoch)
        return sum(drawn(members, self.arena.run_id, beacon, b"rank", height)[0] in hostile for height in heights)


class Private(Hostile):
    """All of them save their votes and turns for a branch that nobody else sees, and show it when it is longer than
    what the others have built since, or has grown old."""

    fork: Node | None = None
    head: Node | None = None
    said: list[Said]

    def enter(self, base: Node) -> None:
        pass

    def propose(self, parent: Node) -> None:
        pass

    def tick(self) -> None:
        if self.me == min(self.friends()) and self.alive:
            self.plot()
        super().tick()

    def plot(self) -> None:
        tip = self.chain.tip
        if self.fork is None or self.head is None:
            self.fork = self.head = tip
            self.said = []
        self.head = self.extend(self.head) or self.head
        ours, theirs = self.head.height - self.fork.height, tip.height - self.fork.height
        if theirs >= 3 and (ours > theirs or theirs > 12):
            for each in self.said:
                self.arena.tell(self.me, each, delay_s=self.arena.random.uniform(0.0, 0.3))
            self.fork = None

    def extend(self, base: Node) -> Node | None:
        gang = [player for player in self.arena.players.values() if isinstance(player, Private)]
        for player in gang:
            made = player.chain.enter(player.signer, b"\x7f", base, player.promises)
            if made is not None:
                entry, player.promises = made
                self.share(gang, entry)
        for player in sorted(gang, key=lambda player: player.chain.proposers(base).index(player.me)):
            reveal = LINKS[player.me].reveal(base.height + 1)
            proposed = player.chain.propose(player.signer, reveal, player.promises, base)
            if proposed is not None:
                block, player.promises = proposed
                self.share(gang, block)
                return self.chain.node(id_of(block.head))
        return None

    def share(self, gang: list[Private], what: Said) -> None:
        self.said.append(what)
        for friend in gang:
            friend.take(what)


class Balancer(Late):
    """Late blocks to one half, and votes for whichever branch is behind, to keep the others apart."""

    def enter(self, base: Node) -> None:
        rivals = [node for node in self.chain.leaves() if node.height >= base.height - 1 and node is not base]
        behind = max(rivals, key=lambda node: (node.weight, node.height), default=base)
        made = self.chain.enter(self.signer, self.scalars(base), behind, self.promises) if self.alive else None
        if made is not None:
            entry, self.promises = made
            self.made.append(entry)
            self.take(entry)
            self.arena.tell(self.me, entry, delay_s=self.arena.random.uniform(0.0, DEADLINE_S))


# -- attacks ------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What is left of an attack."""

    name: str
    height: int = 0
    certified: int = 0
    share: float = 0.0  # of the blocks, proposed by the hostile
    voided: float = 0.0  # of the honest entries
    stale: int = 0  # hostile entries that count though their base was too old
    left: int = 0  # certified blocks that some honest node left, or two that conflict
    tips: int = 0
    models: int = 0  # different A among those with one tip
    expelled: int = 0
    reorganised: int = 0
    virtual_s: float = 0.0

    def line(self) -> str:
        return (
            f"{self.name:28} {self.height:6} {self.certified:9} {self.share:6.1%} {self.voided:6.2%} {self.stale:5} "
            f"{self.left:4} {self.tips:4} {self.models:6} {self.expelled:8} {self.reorganised:5} "
            f"{self.virtual_s / max(1, self.height):8.2f}"
        )


def measure(name: str, arena: Arena) -> Outcome:
    """After the noise: everybody catches up without loss, then all are compared."""
    honest = arena.honest()
    arena.loss, arena.cut = 0.0, lambda one, other: False
    for player in arena.players.values():
        if not isinstance(player, Honest) or type(player) is not Honest:
            player.alive = False
        player.promises = Promises(10**9, 10**9, None)  # nothing new
    arena.run(lambda: False, arena.now + 15.0)
    best = honest[0].chain.tip
    path = lineage(best)
    counted = {id_of(entry) for node in path for entry in node.entries}
    made = [entry for player in honest for entry in player.made if entry.height <= best.height - 5]
    lost = sum(id_of(entry) not in counted for entry in made)
    blocks = [node.block.head.proposer for node in path if node.block is not None]
    bad = {peer for peer, player in arena.players.items() if type(player) is not Honest}
    where = {node.height: node.digest for node in path}
    return Outcome(
        name,
        best.height,
        min(player.chain.certified.height for player in honest),
        sum(peer in bad for peer in blocks) / max(1, len(blocks)),
        lost / max(1, len(made)),
        sum(node.height - entry.height >= arena.rules.window for node in path for entry in node.entries),
        sum(where[height] != block for player in honest for height, block in player.certified.items()),
        len({player.chain.tip.digest for player in honest}),
        len({player.a for player in honest}),
        len(best.state.expelled),
        sum(player.reorganised for player in honest),
        arena.now - 15.0,
    )


def lineage(tip: Node) -> list[Node]:
    found: list[Node] = []
    node: Node | None = tip
    while node is not None:
        found.append(node)
        node = node.parent
    return found


def play(
    name: str,
    kind: type[Honest],
    steps: int,
    seed: int,
    *,
    nodes: int = 16,
    bad: int = 5,
    loss: float = 0.05,
    epoch: int = 16,
) -> Outcome:
    arena = Arena(seed, nodes, loss=loss, epoch=epoch)
    chosen = set(arena.random.sample(range(nodes), bad))
    for index, signer in enumerate(SIGNERS[:nodes]):
        (kind if index in chosen else Honest)(arena, signer)
    first = arena.honest()[0]
    arena.run(lambda: first.chain.tip.height >= steps, steps * 20.0)
    return measure(name, arena)


def killed(steps: int, seed: int, *, epoch: int = 16) -> Outcome:
    """80 % die at a third of the way."""
    arena = Arena(seed, 16, loss=0.05, epoch=epoch)
    players = [Honest(arena, signer) for signer in SIGNERS]
    arena.run(lambda: players[0].chain.tip.height >= steps // 3, steps * 20.0)
    for player in players[3:]:
        player.alive = False
    arena.run(lambda: players[0].chain.tip.height >= steps, steps * 200.0)
    return measure("80 % killed", arena)


def parted(steps: int, seed: int, smaller: int, *, epoch: int = 16) -> Outcome:
    """Two parts train apart for a third of the way, then meet."""
    arena = Arena(seed, 16, loss=0.05, epoch=epoch)
    players = [Honest(arena, signer) for signer in SIGNERS]
    few = {player.me for player in players[:smaller]}
    arena.run(lambda: players[-1].chain.tip.height >= steps // 3, steps * 20.0)
    arena.cut = lambda one, other: (one in few) != (other in few)
    arena.run(lambda: players[-1].chain.tip.height >= 2 * steps // 3, steps * 200.0)
    arena.cut = lambda one, other: False
    arena.run(lambda: players[-1].chain.tip.height >= steps, steps * 200.0)
    return measure(f"partition {smaller} / {16 - smaller}, healed", arena)


HOSTILE: dict[str, type[Honest]] = {
    "none hostile": Honest,
    "withholding": Silent,
    "late reveal of bytes": Stale,
    "late reveal of blocks": Late,
    "proposing at once": Early,
    "equivocation": Equivocator,
    "censoring proposer": Censor,
    "private branch": Private,
    "balancing": Balancer,
    "withheld reveals": Grinder,
}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    games: dict[str, Callable[[int], Outcome]] = {
        name: (lambda seed, name=name, kind=kind: play(name, kind, steps, seed)) for name, kind in HOSTILE.items()
    }
    games["30 % loss among 8"] = lambda seed: play("30 % loss among 8", Honest, steps, seed, nodes=8, bad=0, loss=0.3)
    games["80 % killed"] = lambda seed: killed(steps, seed)
    games["partition 6"] = lambda seed: parted(steps, seed, 6)
    games["partition 8"] = lambda seed: parted(steps, seed, 8)
    print(f"{'':28} height certified  share voided stale left tips models expelled reorg  s/block")
    for name, game in games.items():
        for seed in seeds:
            if only in name:
                o = game(seed)
                print(o.line(), flush=True)


if __name__ == "__main__":
    main()
