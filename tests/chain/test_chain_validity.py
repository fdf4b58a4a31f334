"""Every refusal, and who is to blame for it. Nothing that is refused changes the chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocols.chain import limits
from protocols.chain.draws import HashChain, unwind
from protocols.chain.messages import Block, Changes, Entry, Head, Here, Vote, digest_of_changes, id_of, sign
from protocols.chain.rules import INT32, Rules, faults, largest_a
from protocols.chain.validity import SENDERS_FAULT, SIGNERS_FAULT, Refusal
from protocols.signatures import Signer
from verify.digest import Digest, digest_of

World = Any  # conftest's
Worlds = Any


def entry_of(world: World, **changes: Any) -> Entry:  # noqa: ANN401 - any field
    """What a member could sign now, but for the changes."""
    tip = world.chain.tip
    signer = world.signers[changes.pop("by", tip.state.seats[0])]
    plain = Entry(tip.height + 1, tip.digest, b"\x01" * world.probes, None, signer.peer, b"")
    return sign(msgspec.structs.replace(plain, **changes), signer, world.run)


def block_of(world: World, rank: int = 0, changes: Changes | None = None, **fields: Any) -> Block:  # noqa: ANN401
    tip = world.chain.tip
    by = fields.pop("by", None) or world.chain.proposers()[rank]
    signer: Signer = world.signers[by]
    changes = changes or Changes()
    plain = Head(
        tip.digest, tip.height + 1, rank, b"", (), digest_of(b""), digest_of_changes(changes), signer.peer, b""
    )
    return Block(sign(msgspec.structs.replace(plain, **fields), signer, world.run), changes)


def unheard(world: World) -> str:
    return next(peer for peer in world.signers if peer not in world.rules.founders)


ENTRIES: dict[str, tuple[Refusal, Callable[[World], Entry]]] = {
    "too many scalars": (Refusal.MALFORMED, lambda world: entry_of(world, scalars=b"\x01\x02")),
    "-128": (Refusal.MALFORMED, lambda world: entry_of(world, scalars=b"\x80")),
    "a vote for no checkpoint": (
        Refusal.MALFORMED,
        lambda world: entry_of(world, vote=Vote(0, 1, digest_of(b"no"))),
    ),
    "a vote backwards": (Refusal.MALFORMED, lambda world: entry_of(world, vote=Vote(8, 0, digest_of(b"no")))),
    "the wrong height": (Refusal.WRONG_HEIGHT, lambda world: entry_of(world, height=9)),
    "no seat": (Refusal.NOT_SEATED, lambda world: entry_of(world, by=unheard(world))),
    "far ahead": (Refusal.AHEAD, lambda world: entry_of(world, height=limits.AHEAD + 10)),
    "another's signature": (
        Refusal.FORGED,
        lambda world: msgspec.structs.replace(entry_of(world), signature=bytes(64)),
    ),
    "another run": (
        Refusal.FORGED,
        lambda world: sign(entry_of(world), world.signers[world.chain.tip.state.seats[0]], bytes(32)),
    ),
}

BLOCKS: dict[str, tuple[Refusal, Callable[[World], Block]]] = {
    "the wrong height": (Refusal.WRONG_HEIGHT, lambda world: block_of(world, height=9)),
    "another's rank": (Refusal.OUT_OF_TURN, lambda world: block_of(world, rank=1, by=world.chain.proposers()[0])),
    "a rank beyond all": (Refusal.OUT_OF_TURN, lambda world: block_of(world, rank=999, by=world.chain.proposers()[0])),
    "a reveal that was never committed to": (Refusal.WRONG_REVEAL, lambda world: block_of(world, reveal=b"x" * 32)),
    "numbers that mean nothing": (Refusal.WRONG_COUNT, lambda world: block_of(world, counted=(0,))),
    "numbers that descend": (Refusal.WRONG_COUNT, lambda world: block_of(world, counted=(9, 8))),
    "too many numbers": (Refusal.MALFORMED, lambda world: block_of(world, counted=tuple(range(99)))),
    "changes it did not sign": (
        Refusal.MALFORMED,
        lambda world: msgspec.structs.replace(block_of(world), changes=here_of(world)),
    ),
    "a member that is back without having been away": (
        Refusal.WRONG_CHANGES,
        lambda world: block_of(world, changes=here_of(world)),
    ),
    "another's signature": (
        Refusal.FORGED,
        lambda world: Block(msgspec.structs.replace(block_of(world).head, signature=bytes(64))),
    ),
}


def here_of(world: World) -> Changes:
    peer = world.rules.founders[0]
    return Changes(heres=(sign(Here(0, peer, b""), world.signers[peer], world.run),))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_refused(world: World, name: str) -> None:
    refusal, make = ENTRIES[name]
    assert world.tell(world.chain, make(world)) is refusal
    blamed(world, refusal)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_refused(world: World, name: str) -> None:
    refusal, make = BLOCKS[name]
    assert world.tell(world.chain, make(world)) is refusal
    assert world.chain.tip.height == 0
    blamed(world, refusal)


def blamed(world: World, refusal: Refusal) -> None:
    faults = world.chain.take_faults()
    assert [fault.refusal for fault in faults] == ([refusal] if refusal in SIGNERS_FAULT else [])
    assert not SIGNERS_FAULT & SENDERS_FAULT


def test_who_is_not_admitted_is_not_heard(world: World) -> None:
    closed = type(world.chain)(world.run, world.rules, lambda peer: False)
    assert closed.hear_entry(entry_of(world, by=unheard(world))) is Refusal.NOT_ADMITTED
    assert closed.hear_block(block_of(world, by=unheard(world))) is Refusal.NOT_ADMITTED


def test_an_entry_counts_once(world: World) -> None:
    world.grow(2)
    tip = world.chain.tip
    counted = tip.block.head.counted
    again = tuple(number - world.rules.seats for number in counted)  # the same entries, one block later
    assert world.tell(world.chain, block_of(world, counted=again)) is Refusal.WRONG_COUNT


def test_an_entry_beyond_the_window_cannot_be_numbered(world: World) -> None:
    late = entry_of(world)
    world.grow(world.rules.window + 1, without=[late.origin])
    assert world.tell(world.chain, late) is None  # heard, held as evidence, and void
    assert late not in world.chain.countable()


def test_a_block_of_rubbish_takes_what_waits_for_it_along(world: World) -> None:
    rubbish = block_of(world, reveal=b"x" * 32)
    child = block_of(world)
    parent = id_of(rubbish.head)
    signer = world.signers[child.head.proposer]
    child = Block(sign(msgspec.structs.replace(child.head, parent=parent, height=2), signer, world.run))
    assert world.tell(world.chain, child) is None
    assert world.chain.missing().blocks == (parent,)
    assert world.tell(world.chain, rubbish) is Refusal.WRONG_REVEAL
    assert world.chain.missing().blocks == ()
    assert world.tell(world.chain, child) is Refusal.KNOWN


def test_what_waits_is_bounded_for_each_signer(world: World) -> None:
    peer = world.rules.founders[0]
    heard = [
        world.tell(world.chain, entry_of(world, by=peer, height=2 + number, base=digest_of(b"%d" % number)))
        for number in range(limits.WAITING_PER_PEER + 2)
    ]
    assert heard[-3:] == [None, Refusal.FULL, Refusal.FULL]
    other = world.rules.founders[1]
    assert world.tell(world.chain, entry_of(world, by=other, height=2, base=digest_of(b"x"))) is None


def test_a_block_waits_for_its_entries_and_names_them(world: World) -> None:
    quiet = world.fresh()
    tip = world.chain.tip
    entries = [world.entry(peer, tip) for peer in tip.state.seats]
    block = world.block(tip)
    world.tell(quiet, entries[0])
    world.tell(quiet, block)
    assert quiet.tip.height == 0
    ((digest, places),) = quiet.missing().entries
    assert len(places) == 3
    quiet.hear_body(digest, [world.chain.entry_at(digest, place) for place in places])
    assert quiet.tip.digest == digest
    assert quiet.missing().entries == ()


def test_however_many_entries_an_origin_signs_the_ones_that_count_are_taken(world: World) -> None:
    quiet, tip = world.fresh(), world.chain.tip
    liar = tip.state.seats[0]
    for scalar in (2, 3):
        world.tell(quiet, entry_of(world, by=liar, scalars=bytes([scalar])))
    counted = entry_of(world, by=liar, scalars=b"\x09")
    world.tell(world.chain, counted)
    block = world.block(tip, next(r for r, peer in enumerate(world.chain.proposers()) if peer != liar))
    assert world.tell(quiet, counted) is Refusal.FULL
    world.tell(quiet, block)
    ((digest, places),) = quiet.missing().entries
    quiet.hear_body(digest, [world.chain.entry_at(digest, place) for place in places])
    assert quiet.tip.digest == digest


def test_a_body_that_is_none_changes_nothing(world: World) -> None:
    quiet, tip = world.fresh(), world.chain.tip
    world.entry(tip.state.seats[0], tip)
    world.tell(quiet, world.block(tip))
    ((digest, _),) = quiet.missing().entries
    quiet.hear_body(digest, [msgspec.structs.replace(entry_of(world), signature=bytes(64))])
    quiet.hear_body(digest_of(b"nothing"), [])
    assert quiet.tip.height == 0
    assert quiet.missing().entries


def test_the_run_ends(worlds: Worlds) -> None:
    world = worlds(steps=3)
    world.grow(3)
    tip = world.chain.tip
    assert world.entry(tip.state.seats[0], tip) is None
    assert world.block(tip) is None
    assert world.tell(world.chain, block_of(world)) is Refusal.WRONG_HEIGHT


def test_a_reveal_is_the_link_of_its_height(world: World) -> None:
    world.join(*world.rules.founders)
    world.grow(2 * world.rules.epoch)
    tip = world.chain.tip
    proposer = world.chain.proposers()[0]
    right = world.links[proposer].reveal(tip.height + 1)
    for wrong in (b"", bytes(32), world.links[proposer].reveal(tip.height)):
        assert world.tell(world.chain, block_of(world, reveal=wrong)) is Refusal.WRONG_REVEAL
    assert world.tell(world.chain, block_of(world, reveal=right)) is None


def test_a_hash_chain_unwinds() -> None:
    chain = HashChain(bytes(32), start=5, length=10)
    assert chain.reveal(5) == b""
    assert unwind(chain.reveal(8), 3) == chain.tip
    assert chain.reveal(15) == b""


# -- rules --------------------------------------------------------------------------------------------------------

FOUNDERS = tuple(Signer.from_seed(bytes([number] * 32)).peer for number in range(6))
FOUNDER = Signer.from_seed(bytes(32)).peer


def rules(**changes: Any) -> Rules:  # noqa: ANN401 - any field
    return Rules(**{"founders": (FOUNDER,), "steps": 1000, "probes": 4, "schedule": (1,), "stage": 1, **changes})


def test_rules_that_hold_have_no_fault() -> None:
    assert list(faults(rules())) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"window": 8, "epoch": 8}, "onebyte.window"),
        ({"founders": FOUNDERS, "seats": 1, "epoch": 5}, "onebyte.epoch"),
        ({"founders": (FOUNDER, FOUNDER)}, "onebyte.founders: names"),
        ({"founders": ("nobody",)}, "onebyte.founders: 'nobody'"),
        ({"schedule": (1000,), "steps": 10**6}, "onebyte.schedule"),
    ],
)
def test_rules_that_do_not_hold_name_the_key(changes: dict[str, Any], key: str) -> None:
    assert [fault[: len(key)] for fault in faults(rules(**changes))] == [key]


@pytest.mark.parametrize("steps", [1, 5, 10, 11, 29, 30, 31, 100])
def test_the_largest_a_is_the_sum_over_all_heights(steps: int) -> None:
    staged = rules(steps=steps, schedule=(7, 3, 2), stage=10, probes=2, seats=3)
    assert largest_a(staged) == 127 * 2 * 3 * sum(staged.multiplier(height) for height in range(1, steps + 1))


def test_the_bound_is_exact() -> None:
    most = (INT32 - 1) // (127 * 4 * 8)
    assert list(faults(rules(steps=most))) == []
    assert list(faults(rules(steps=most + 1))) != []


def test_no_valid_sequence_leaves_int32(world: World) -> None:
    """Every seat counts once, so the sum of |coefficients| stays below the bound."""
    world.grow(20)
    steps = world.chain.plan(world.fresh().tip.digest).add
    moved = sum(abs(update.coefficient) for step in steps for update in step.updates)
    assert moved <= 127 * world.rules.probes * world.rules.seats * 20


def test_an_id_does_not_depend_on_the_signature(world: World) -> None:
    entry = entry_of(world)
    assert id_of(entry) == id_of(msgspec.structs.replace(entry, signature=b"other"))
    assert id_of(entry) != Digest(id_of(entry_of(world, scalars=b"\x02")))
