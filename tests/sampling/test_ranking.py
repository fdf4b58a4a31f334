"""The hash order: golden vectors, for every version must draw the same committees; and that it favours nobody."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.peers import PeerId, Round
from sampling.ranking import rank, ticket

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ranking.json").read_text())


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_golden(vector: dict[str, Any]) -> None:
    salt, round = bytes.fromhex(vector["salt"]), Round(vector["round"])
    assert rank(vector["peers"], round, salt) == vector["order"]
    assert [ticket(peer, round, salt).hex() for peer in vector["order"]] == vector["tickets"]


def test_a_ticket_is_a_plain_sha256() -> None:
    salt, peer = bytes(range(32)), PeerId("12D3KooW")
    expected = hashlib.sha256(salt + (258).to_bytes(8, "big") + b"12D3KooW").digest()
    assert ticket(peer, Round(258), salt) == expected


@given(st.permutations([PeerId(name) for name in "abcdefgh"]), st.integers(0, 2**40))
def test_the_order_does_not_depend_on_how_peers_were_listed(peers: list[PeerId], round: int) -> None:
    assert rank(peers, Round(round), b"salt") == rank(sorted(peers), Round(round), b"salt")


@given(st.sets(st.text(min_size=1)), st.text(min_size=1), st.integers(0, 2**40))
def test_a_peer_more_or_less_leaves_the_others_in_order(names: set[str], extra: str, round: int) -> None:
    peers = {PeerId(name) for name in names}
    without = [peer for peer in rank(peers | {PeerId(extra)}, Round(round), b"s") if peer != extra]
    assert without == rank(peers - {PeerId(extra)}, Round(round), b"s")


def test_rounds_and_runs_draw_differently() -> None:
    peers = [PeerId(str(number)) for number in range(20)]
    orders = {tuple(rank(peers, Round(round), salt)) for round in range(50) for salt in (b"x", b"y")}
    assert len(orders) == 100


def test_nobody_is_favoured() -> None:
    # 2000 draws of 4 out of 20: 400 expected each, standard deviation 17.9; five of them either way.
    peers = [PeerId(str(number)) for number in range(20)]
    drawn = Counter(peer for round in range(2000) for peer in rank(peers, Round(round), b"salt")[:4])
    assert len(drawn) == 20
    assert all(abs(times - 400) < 90 for times in drawn.values())
