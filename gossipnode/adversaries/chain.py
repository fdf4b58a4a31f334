"""Members of a one-byte run who do not follow the rules of the chain, in the full conversation.

* withholding: takes its seats and turns and signs nothing. late-reveal: its bytes come two or twenty deadlines late,
  its blocks when the next rank is about to propose. double-sign: two entries and two blocks of each height.
* censor: its blocks count hostile entries only. grinder: of the blocks that it could make on its turn it publishes
  the one of lowest digest; at an epoch's end none, if its reveal gave its gang fewer first ranks than their share.

Their bytes are honest ones, so that what is seen is what the strategy does; bad bytes are `vectors`' and `shirking`'s.
They journal no promises: an adversary that crashes begins with what the others tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import trio

from gossipnode.adversaries.bent import Gang, bend
from gossipnode.conduct import Conduct
from gossipnode.node import Node as Member
from protocols.chain.draws import drawn, next_beacon
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Entry, digest_of_ids, id_of, sign
from protocols.chain.state import slots
from protocols.onebyte.book import Book
from protocols.onebyte.conversation import OneByte
from protocols.onebyte.messages import NewBlock, NewEntry
from sampling.peers import PeerId
from verify.digest import Digest

Deviate = Callable[[Book, Gang, trio.Nursery], None]

SOON, LATE = 2.0, 20.0  # deadlines; what comes that late may still count, or never
IN_TIME = 0.7  # of the entries of late-reveal
HELD_BACK = 0.9  # of a deadline, by its blocks
VARIANTS = 16  # blocks that a grinder chooses from: each leaves one entry out


def conduct_of(gang: Gang, deviate: Deviate) -> Conduct:
    async def live(member: Member) -> None:
        assert isinstance(member.protocol, OneByte), "a strategy of one-byte training"
        gang.nodes.append(member)
        async with trio.open_nursery() as nursery:
            deviate(member.protocol.book, gang, nursery)
            nursery.start_soon(member.run)

    return Conduct(live=live)


def friends(gang: Gang) -> set[PeerId]:
    return {node.parts.desk.me for node in gang.nodes}


def entry_by(book: Book, scalars: bytes, base: Node) -> Entry | None:
    made = book.chain.enter(book.parts.signer, scalars, base, book.promises)
    if made is None:
        return None
    entry, book.promises = made
    return entry


def block_by(book: Book, parent: Node) -> Block | None:
    made = book.chain.propose(book.parts.signer, book.links.reveal(parent.state), book.promises, parent)
    if made is None:
        return None
    block, book.promises = made
    return block


def counting(book: Book, block: Block, kept: Sequence[int]) -> Block:
    """The same, with only those of its entries; just made, so that they are what could count."""
    parent = book.chain.node(Digest(block.head.parent))
    assert parent is not None
    entries = book.chain.countable(parent)
    ids = digest_of_ids([id_of(entries[index]) for index in kept])
    numbers = tuple(block.head.counted[index] for index in kept)
    head = msgspec.structs.replace(block.head, counted=numbers, entries=ids, signature=b"")
    return Block(sign(head, book.parts.signer, book.run), block.changes)


async def publish(book: Book, what: Entry | Block, after_s: float = 0.0) -> None:
    await trio.sleep(after_s)
    book.hear(book.me, what)
    await book.say(NewEntry(what) if isinstance(what, Entry) else NewBlock(what))


# -- the strategies ---------------------------------------------------------------------------------------------------


def withhold(book: Book, gang: Gang, nursery: trio.Nursery) -> None:
    async def nothing(*what: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    bend(book, enter=nothing, propose=nothing)


def reveal_late(book: Book, gang: Gang, nursery: trio.Nursery) -> None:
    async def enter(scalars: bytes, base: Node) -> bool:
        late = SOON if gang.rng.random() < IN_TIME else LATE
        if (entry := entry_by(book, scalars, base)) is not None:
            nursery.start_soon(publish, book, entry, late * book.pace.deadline_s)
        await trio.lowlevel.checkpoint()
        return True

    async def propose(parent: Node) -> bool:
        if (block := block_by(book, parent)) is not None:
            nursery.start_soon(publish, book, block, HELD_BACK * book.pace.deadline_s)
        await trio.lowlevel.checkpoint()
        return True

    bend(book, enter=enter, propose=propose)


def sign_twice(book: Book, gang: Gang, nursery: trio.Nursery) -> None:
    async def enter(scalars: bytes, base: Node) -> bool:
        if (entry := entry_by(book, scalars, base)) is not None:
            changed = bytes([5 if scalars[0] != 5 else 6]) + scalars[1:]
            other = msgspec.structs.replace(entry, scalars=changed, signature=b"")
            await both(entry, sign(other, book.parts.signer, book.run))
        return True

    async def propose(parent: Node) -> bool:
        if (block := block_by(book, parent)) is not None:
            await both(block, counting(book, block, ()))
        return True

    async def both(one: Entry | Block, other: Entry | Block) -> None:
        for each in gang.rng.sample([one, other], 2):
            await publish(book, each)

    bend(book, enter=enter, propose=propose)


def censor_others(book: Book, gang: Gang, nursery: trio.Nursery) -> None:
    async def propose(parent: Node) -> bool:
        if (block := block_by(book, parent)) is None:
            return False
        found = slots(parent.state, book.rules, block.head.counted)
        assert found is not None
        own = [index for index, slot in enumerate(found) if slot.origin in friends(gang)]
        await publish(book, counting(book, block, own))
        return True

    bend(book, propose=propose)


def grind(book: Book, gang: Gang, nursery: trio.Nursery) -> None:
    async def propose(parent: Node) -> bool:
        await trio.lowlevel.checkpoint()
        if book.rules.is_checkpoint(parent.height + 1) and _share_of_ranks(book, parent, gang) < _share(book, gang):
            return False
        if (block := block_by(book, parent)) is None:
            return False
        count = len(block.head.counted)
        left_out = [[other for other in range(count) if other != index] for index in range(min(count, VARIANTS))]
        variants = [block, *(counting(book, block, kept) for kept in left_out)]
        await publish(book, min(variants, key=lambda each: id_of(each.head)))
        return True

    bend(book, propose=propose)


def _share(book: Book, gang: Gang) -> float:
    return len(friends(gang)) / max(1, len(book.tip.state.members))


def _share_of_ranks(book: Book, parent: Node, gang: Gang) -> float:
    """Of the first ranks of the epoch that would be drawn from the beacon with our reveal, the gang's."""
    beacon = next_beacon(parent.state.beacon, book.links.reveal(parent.state))
    first, members, hostile = parent.height + 2 + book.rules.epoch, tuple(parent.state.members), friends(gang)
    heights = range(first, first + book.rules.epoch)
    return sum(drawn(members, book.run, beacon, b"rank", height)[0] in hostile for height in heights) / len(heights)


def strategy(deviate: Deviate) -> Callable[[Gang], Conduct]:
    return partial(conduct_of, deviate=deviate)


withholding, late_reveal, double_sign = strategy(withhold), strategy(reveal_late), strategy(sign_twice)
censor, grinder = strategy(censor_others), strategy(grind)
