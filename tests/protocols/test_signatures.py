"""Signatures: the libp2p peer id, separation of runs and kinds of message, and hostile input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.signatures import Signer, peer_of, public_key_of, verify
from sampling.peers import PeerId

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "signatures.json").read_text())
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
RUN, OTHER_RUN = bytes(32), bytes([1] * 32)
SIGNER = Signer.from_seed(bytes(range(32)))


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_golden(vector: dict[str, str]) -> None:
    signer = Signer.from_seed(bytes.fromhex(vector["seed"]))
    arguments = (vector["domain"].encode(), bytes.fromhex(vector["run"]), bytes.fromhex(vector["payload"]))
    assert signer.peer == vector["peer"]
    assert public_key_of(signer.peer) == bytes.fromhex(vector["public_key"])
    assert signer.sign(*arguments).hex() == vector["signature"]
    assert verify(signer.peer, *arguments, bytes.fromhex(vector["signature"]))


def test_the_peer_id_is_the_one_libp2p_makes() -> None:
    ed25519 = pytest.importorskip("libp2p.crypto.ed25519")
    ids = pytest.importorskip("libp2p.peer.id")
    pair = ed25519.create_new_key_pair(bytes(range(32)))
    assert ids.ID.from_pubkey(pair.public_key).to_string() == SIGNER.peer
    assert ids.ID.from_string(SIGNER.peer).extract_public_key().to_bytes() == public_key_of(SIGNER.peer)


def test_a_signature_holds_for_its_peer_domain_run_and_payload_only() -> None:
    signature = SIGNER.sign(b"claim", RUN, b"payload")
    assert verify(SIGNER.peer, b"claim", RUN, b"payload", signature)
    assert not verify(SIGNER.peer, b"offer", RUN, b"payload", signature)
    assert not verify(SIGNER.peer, b"claim", OTHER_RUN, b"payload", signature)
    assert not verify(SIGNER.peer, b"claim", RUN, b"payload ", signature)
    assert not verify(Signer.from_seed(bytes(32)).peer, b"claim", RUN, b"payload", signature)
    assert not verify(SIGNER.peer, b"claim", RUN, b"payload", signature[:-1] + bytes([signature[-1] ^ 1]))


def test_a_domain_is_never_a_prefix_of_another() -> None:
    with pytest.raises(AssertionError):
        SIGNER.sign(b"a\0", RUN, b"")
    with pytest.raises(AssertionError):
        SIGNER.sign(b"", RUN, b"")
    with pytest.raises(AssertionError):
        SIGNER.sign(b"a", RUN[:-1], b"")


@given(st.binary(min_size=32, max_size=32))
def test_key_to_peer_and_back(key: bytes) -> None:
    peer = peer_of(key)
    assert peer.startswith("12D3KooW")
    assert len(peer) == 52
    assert public_key_of(peer) == key


@given(st.text(max_size=80) | st.text(BASE58, min_size=52, max_size=52))
def test_a_malformed_peer_id_has_no_key(text: str) -> None:
    assert public_key_of(PeerId(text)) is None
    assert not verify(PeerId(text), b"claim", RUN, b"payload", bytes(64))


@pytest.mark.parametrize(
    "change",
    [
        lambda peer: peer + "\n",
        lambda peer: peer + " ",
        lambda peer: " " + peer,
        lambda peer: peer[:-1] + "\n",
        lambda peer: "1" + peer[:-1],
        lambda peer: peer.lower(),
        lambda peer: peer[:-1],
        lambda peer: "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's
    ],
)
def test_one_peer_has_one_name(change: object) -> None:
    assert public_key_of(change(SIGNER.peer)) is None  # type: ignore[operator]  # a list of lambdas


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_no_signature_raises(payload: bytes, signature: bytes) -> None:
    assert not verify(SIGNER.peer, b"claim", RUN, payload, signature)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_no_key_raises(key: bytes, signature: bytes) -> None:
    verify(peer_of(key), b"claim", RUN, b"payload", signature)  # most keys are no point of the curve


def test_the_key_stays_out_of_the_repr() -> None:
    assert repr(SIGNER) == f"Signer({SIGNER.peer})"
