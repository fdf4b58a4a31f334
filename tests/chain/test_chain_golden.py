"""What two versions must agree on to be in one run: signed bytes, ids, seeds, draws, states. From
tests/golden/chain.json, which scripts/regenerate_golden.py writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.chain.checkpoints import digest_of_state
from protocols.chain.draws import HashChain, drawn, first_beacon, genesis, next_beacon, seed64, slice_of, updates_of
from protocols.chain.messages import Entry, Head, Here, Join, Leave, Vote, id_of, payload, sign
from protocols.chain.rules import Rules
from protocols.chain.state import initial
from protocols.signatures import Signer
from verify.digest import digest_of

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "chain.json").read_text())
RUN = digest_of(b"run")
SIGNERS = [Signer.from_seed(bytes([number] * 32)) for number in range(5)]
PEERS = tuple(signer.peer for signer in SIGNERS)
ONE, TWO = digest_of(b"one"), digest_of(b"two")
ENTRY = Entry(9, ONE, b"\x01\xff\x00\x7f", Vote(0, 8, TWO), PEERS[0], b"")
SIGNED = {
    "entry": ENTRY,
    "entry without a vote": Entry(1, ONE, b"\x81", None, PEERS[0], b""),
    "head": Head(ONE, 70_000, 3, bytes(32), (0, 8, 15), TWO, ONE, PEERS[0], b""),
    "join": Join(7, TWO, b"s3/8 iid 7", PEERS[0], b""),
    "leave": Leave(2**40, PEERS[0], b""),
    "here": Here(0, PEERS[0], b""),
}


@pytest.mark.parametrize("name", SIGNED)
def test_signed_things(name: str) -> None:
    signed, golden = sign(SIGNED[name], SIGNERS[0], RUN), GOLDEN["signed"][name]
    assert payload(signed).hex() == golden["payload"]
    assert id_of(signed).hex() == golden["id"]
    assert signed.signature.hex() == golden["signature"]


def test_seeds_and_updates() -> None:
    assert seed64(RUN, ONE, 9, PEERS[0], 3) == int(GOLDEN["seed64"], 16)
    assert [[f"{seed:016x}", move] for seed, move in updates_of(ENTRY, RUN, ONE, 5)] == GOLDEN["updates"]


def test_draws() -> None:
    order = drawn(PEERS, RUN, first_beacon(RUN), b"rank", 7)
    assert [PEERS.index(peer) for peer in order] == GOLDEN["drawn"]
    assert [[PEERS.index(peer) for peer in slice_of(order, step, 2)] for step in range(6)] == GOLDEN["slices"]
    assert genesis(RUN).hex() == GOLDEN["genesis"]
    assert next_beacon(first_beacon(RUN), b"reveal").hex() == GOLDEN["beacon"]
    chain = HashChain(bytes(32), 5, 10)
    assert [chain.tip.hex(), chain.reveal(7).hex()] == GOLDEN["hash chain"]


def test_the_first_state() -> None:
    rules = Rules(founders=PEERS, steps=1000, seats=3)
    assert digest_of_state(initial(rules, RUN)).hex() == GOLDEN["state"]
