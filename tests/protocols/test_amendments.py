"""Signed manifests: the author's chain of amendments, and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.amendments import (
    AMENDABLE,
    AMENDMENT_DOMAIN,
    Amendment,
    SignedManifest,
    Value,
    amend,
    later,
    open_signed,
    present,
    sign,
)
from protocols.manifest import BadManifest, Manifest, canonical, run_id, validated
from protocols.signatures import Signer
from verify.digest import digest_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "manifest.json").read_text())
AUTHOR, OTHER = Signer.from_seed(bytes(32)), Signer.from_seed(bytes([1] * 32))
MANIFEST = Manifest(
    name="digits", protocol="modest", task="digits", author=AUTHOR.peer, theta0="ab" * 32, model_bytes=1000
)
SIGNED = sign(MANIFEST, AUTHOR)
TWICE = amend(amend(SIGNED, {"training.lr": 0.5, "rounds": 10}, AUTHOR), {"training.lr": 0.25}, AUTHOR)


def refusal(signed: SignedManifest | bytes) -> str:
    with pytest.raises(BadManifest) as caught:
        open_signed(signed if isinstance(signed, bytes) else signed.encode())
    assert str(caught.value).isprintable()
    return str(caught.value)


def with_amendments(*amendments: Amendment) -> SignedManifest:
    return msgspec.structs.replace(SIGNED, amendments=amendments)


def amendment(
    number: int = 1,
    previous: bytes = SIGNED.run,
    changes: dict[str, Value] | None = None,
    signer: Signer = AUTHOR,
    run: bytes = SIGNED.run,
) -> Amendment:
    draft = Amendment(number, previous, {"training.lr": 0.5} if changes is None else changes, b"")
    return msgspec.structs.replace(draft, signature=signer.sign(AMENDMENT_DOMAIN, run, draft.signed_bytes()))


def test_golden() -> None:
    vector = GOLDEN["signed"]
    signed = open_signed(bytes.fromhex(vector["encoded"]))
    assert signed == TWICE
    assert signed.run.hex() == vector["run"]
    assert present(signed) == validated(vector["present"])


def test_signing_and_opening() -> None:
    assert open_signed(SIGNED.encode()) == SIGNED
    assert present(SIGNED) == MANIFEST
    assert SIGNED.run == run_id(MANIFEST)


def test_amendments_apply_in_order_and_the_run_stays() -> None:
    opened = open_signed(TWICE.encode())
    assert opened == TWICE
    assert present(opened).training.lr == 0.25
    assert present(opened).rounds == 10
    assert opened.run == SIGNED.run
    assert run_id(present(opened)) != opened.run


def test_the_order_in_which_changes_are_stated_does_not_matter() -> None:
    one = amend(SIGNED, {"rounds": 10, "training.lr": 0.5}, AUTHOR)
    assert one.encode() == amend(SIGNED, {"training.lr": 0.5, "rounds": 10}, AUTHOR).encode()


def test_only_the_author_signs() -> None:
    with pytest.raises(BadManifest, match="the key at hand"):
        sign(MANIFEST, OTHER)
    with pytest.raises(BadManifest, match="the key at hand"):
        amend(SIGNED, {"training.lr": 0.5}, OTHER)


def test_an_invalid_manifest_is_not_signed() -> None:
    with pytest.raises(BadManifest, match="rounds: expected int >= 0"):
        sign(msgspec.structs.replace(MANIFEST, rounds=-1), AUTHOR)


@pytest.mark.parametrize(
    "key",
    [
        *("task", "task_source", "seed", "theta0", "protocol", "author", "name", "encoding", "version", "model_bytes"),
        *("training", "admission", "", ".", "training.", "training.lr.x", "x.y", ".rounds", "\x1b"),
    ],
)
def test_what_makes_the_run_cannot_be_amended(key: str) -> None:
    with pytest.raises(BadManifest, match="cannot be amended"):
        amend(SIGNED, {key: 1}, AUTHOR)
    assert "cannot be amended" in refusal(with_amendments(amendment(changes={key: 1})))


def test_what_can_be_amended() -> None:
    assert {"rounds", "start_peers", "training.lr", "modest.trainers", "admission.allow"} <= AMENDABLE
    amended = amend(SIGNED, {"admission.mode": "allow", "admission.allow": (AUTHOR.peer, OTHER.peer)}, AUTHOR)
    assert present(open_signed(amended.encode())).admission.allow == (AUTHOR.peer, OTHER.peer)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training.lr": -1.0}, "amendment 1: training.lr: expected float > 0.0"),
        ({"training.lr": float("nan")}, "amendment 1: training.lr: expected float > 0.0"),
        ({"training.lr": True}, "amendment 1: training.lr: expected float, got bool"),
        ({"rounds": 1.5}, "amendment 1: rounds: expected int, got float"),
        ({"modest.aggregators": 9}, "amendment 1: modest.aggregators: 9 are more than the 4 trainers"),
        ({}, "amendment 1 changes nothing"),
    ],
)
def test_what_an_amendment_gives_must_be_valid(changes: dict[str, Any], line: str) -> None:
    assert refusal(with_amendments(amendment(changes=changes))) == line
    with pytest.raises(BadManifest, match=r"^amendment 1"):
        amend(SIGNED, changes, AUTHOR)


def test_values_that_are_valid_only_together() -> None:
    amend(SIGNED, {"modest.aggregators": 9, "modest.trainers": 9}, AUTHOR)


def test_forgeries() -> None:
    first, second = TWICE.amendments
    forged = msgspec.structs.replace
    assert refusal(forged(SIGNED, signature=bytes(64))) == "manifest is not signed by its author"
    assert refusal(forged(SIGNED, signature=b"")) == "manifest is not signed by its author"
    other = canonical(msgspec.structs.replace(MANIFEST, seed=1))
    assert refusal(forged(SIGNED, manifest=other)) == "manifest is not signed by its author"
    theirs = canonical(msgspec.structs.replace(MANIFEST, author=OTHER.peer))
    assert refusal(forged(SIGNED, manifest=theirs)) == "manifest is not signed by its author"
    assert refusal(with_amendments(amendment(signer=OTHER))) == "amendment 1 is not signed by the author"
    assert refusal(with_amendments(amendment(run=bytes(32)))) == "amendment 1 is not signed by the author"
    assert refusal(with_amendments(forged(first, changes={"rounds": 9}))) == "amendment 1 is not signed by the author"
    assert refusal(with_amendments(first, forged(second, signature=first.signature))).startswith("amendment 2 is not")


def test_broken_chains() -> None:
    first, second = TWICE.amendments
    assert refusal(with_amendments(second)) == "amendment 1 does not follow from what is before it"
    assert refusal(with_amendments(second, first)) == "amendment 1 does not follow from what is before it"
    assert refusal(with_amendments(first, first)) == "amendment 2 does not follow from what is before it"
    assert refusal(with_amendments(first, second, second)) == "amendment 3 does not follow from what is before it"
    assert refusal(with_amendments(amendment(number=0))) == "amendment 1 does not follow from what is before it"
    skipped = amendment(number=2, previous=SIGNED.run)
    assert refusal(with_amendments(first, skipped)) == "amendment 2 does not follow from what is before it"


def test_bounds() -> None:
    assert refusal(bytes(limits.MANIFEST_BYTES + 1)) == "signed manifest of 65537 bytes; at most 65536 are allowed"
    many = [amendment() for _ in range(limits.AMENDMENTS + 1)]
    assert refusal(with_amendments(*many)) == "65 amendments; at most 64 are allowed"


def test_every_peer_keeps_the_same_chain() -> None:
    once = amend(SIGNED, {"training.lr": 0.5}, AUTHOR)
    contradiction = amend(SIGNED, {"training.lr": 0.75}, AUTHOR)
    assert later(SIGNED, once) == later(once, SIGNED) == once
    assert later(once, contradiction) == later(contradiction, once)
    assert later(contradiction, TWICE) == TWICE


def test_bytes_that_are_not_canonical() -> None:
    first = TWICE.amendments[0]
    backwards = msgspec.msgpack.encode(
        [SIGNED.manifest, SIGNED.signature, [[1, first.previous, {"training.lr": 0.5, "rounds": 10}, first.signature]]]
    )
    assert open_signed(with_amendments(first).encode())
    assert refusal(backwards) == "signed manifest is not in canonical form"
    assert refusal(SIGNED.encode() + b"\0").startswith("signed manifest is not msgpack")
    assert refusal(msgspec.msgpack.encode([SIGNED.manifest, SIGNED.signature])).endswith("canonical form")


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    refusal(data)


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
KEYS = st.text(max_size=5) | st.integers(0, 9)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


@given(VALUES, st.integers(0, 6))
def test_one_hostile_value_is_refused(value: object, position: int) -> None:
    first = TWICE.amendments[0]
    link = [first.number, first.previous, first.changes, first.signature]
    signed: list[object] = [SIGNED.manifest, SIGNED.signature, [link]]
    if position < 3:
        signed[position] = value
    else:
        link[position - 3] = value  # type: ignore[call-overload]  # hostile on purpose
    if value in ([], [link]) and position == 2:
        return  # no amendment is a valid chain too
    refusal(msgspec.msgpack.encode(signed))


STATED = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.tuples(st.text())


@given(st.sampled_from(sorted(AMENDABLE)), STATED)
def test_what_the_author_signs_is_opened_or_refused_alike(key: str, value: Value) -> None:
    signed = with_amendments(amendment(changes={key: value}))
    try:
        opened = open_signed(signed.encode())
    except BadManifest:
        return
    present(opened)
    assert open_signed(opened.encode()) == opened


def test_amending_from_an_opened_chain_continues_it() -> None:
    opened = open_signed(TWICE.encode())
    third = amend(opened, {"start_peers": 2}, AUTHOR)
    assert third.amendments[2].number == 3
    assert third.amendments[2].previous == digest_of(TWICE.amendments[1].signed_bytes())
