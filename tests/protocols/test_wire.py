"""Bytes to message and back: every message, golden frames, and whatever a hostile peer may send instead."""

from __future__ import annotations

import importlib.util
import json
import math
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import limits, wire
from protocols.messages import (
    Ack,
    Aggregate,
    AnyMessage,
    Computed,
    Exchange,
    HeadIs,
    Hello,
    Input,
    Ping,
    Proposal,
    Refused,
    Registered,
    TrainedModel,
    Welcome,
)
from protocols.wire import MalformedFrame, OtherVersion, decode, encode
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration
from verify.digest import Digest

ROOT = Path(__file__).parents[2]
GOLDEN: dict[str, str] = json.loads((ROOT / "tests" / "golden" / "wire.json").read_text())
KINDS: tuple[type[msgspec.Struct], ...] = get_args(AnyMessage)
VERSION = b"\x01"


def golden_messages() -> dict[str, AnyMessage]:
    spec = importlib.util.spec_from_file_location("regenerate_golden", ROOT / "scripts" / "regenerate_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    messages: dict[str, AnyMessage] = module.MESSAGES
    return messages


MESSAGES = golden_messages()


def frame_of(*fields: object) -> bytes:
    return VERSION + msgpack.packb(fields)


# -- what is sent is what arrives ---------------------------------------------------------------------------------

peers = st.text("123ABCabc", max_size=limits.PEER_CHARS).map(PeerId)
rounds = st.integers(0, limits.ROUND).map(Round)
digests = st.binary(min_size=32, max_size=32).map(Digest)
registrations = st.builds(
    Registration,
    peers,
    st.integers(0, limits.COUNTER),
    st.booleans(),
    st.lists(st.sampled_from(Role), max_size=3).map(tuple),
    rounds,
    st.lists(st.text(max_size=20), max_size=3).map(tuple),
    st.binary(max_size=64),
)
deltas = st.builds(
    Delta, st.lists(registrations, max_size=2).map(tuple), st.lists(st.tuples(peers, rounds), max_size=3).map(tuple)
)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {Delta: deltas, Registration: registrations, PeerId: peers, Round: rounds}


def strategy_of(kind: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 - any field's type
    """Values of a field's type that respect its msgspec constraints."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = msgspec.structs.fields(kind)
        return st.builds(kind, *(strategy_of(field.type) for field in hints))
    if kind in FIELDS:
        return FIELDS[kind]
    meta = msgspec.Meta()
    if isinstance(kind, types.UnionType):
        return st.one_of(*map(strategy_of, get_args(kind)))
    if kind in (types.NoneType, bool):
        return st.booleans() if kind is bool else st.none()
    if hasattr(kind, "__metadata__"):
        (meta,) = kind.__metadata__
        kind = kind.__origin__
    kind = getattr(kind, "__supertype__", kind)
    if kind is int:
        most = meta.le if meta.le is not None else (meta.lt or 2**63) - 1
        return st.integers(int(meta.ge or 0), int(most))
    if kind is bytes:
        return st.binary(min_size=meta.min_length or 0, max_size=min(meta.max_length or 64, 64))
    if kind is str:
        return st.text(max_size=meta.max_length)
    if hasattr(kind, "_fields"):
        return st.builds(kind, *(strategy_of(each) for each in get_type_hints(kind, include_extras=True).values()))
    assert kind.__origin__ is tuple
    return st.lists(strategy_of(get_args(kind)[0]), max_size=4).map(tuple)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=30)
    @given(strategy_of(kind))
    def check(message: AnyMessage) -> None:
        frame = encode(message)
        assert decode(frame) == message
        assert encode(decode(frame)) == frame  # one message has one encoding

    check()


def test_tags_are_unique() -> None:
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)


# -- the format is fixed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    assert encode(MESSAGES[name]).hex() == GOLDEN[name]
    assert decode(bytes.fromhex(GOLDEN[name])) == MESSAGES[name]


def test_there_is_a_golden_frame_of_every_kind() -> None:
    assert GOLDEN.keys() == MESSAGES.keys()
    assert {type(message) for message in MESSAGES.values()} == set(KINDS)


def test_a_frame_by_hand() -> None:
    assert encode(Ping(Round(5))) == b"\x01\x92\x08\x05"
    assert decode(b"\x01\x92\x08\x05") == Ping(Round(5))


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def refused(frame: bytes) -> str:
    with pytest.raises(MalformedFrame) as caught:
        decode(frame)
    assert len(str(caught.value)) <= limits.DETAIL_CHARS
    return str(caught.value)


def survives(frame: bytes) -> None:
    """A message or MalformedFrame; nothing else."""
    try:
        message = decode(frame)
    except MalformedFrame:
        return
    assert isinstance(message, KINDS)


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(VERSION + data)


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(), st.lists))
def test_random_msgpack(value: object) -> None:
    survives(frame_of(*value) if isinstance(value, list) else VERSION + msgpack.packb(value))


@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_bent_frames(name: str, data: st.DataObject) -> None:
    frame = bytearray.fromhex(GOLDEN[name])
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    survives(bytes(frame))


@pytest.mark.parametrize("name", GOLDEN)
def test_cut_and_lengthened_frames(name: str) -> None:
    frame = bytes.fromhex(GOLDEN[name])
    for end in range(len(frame)):
        refused(frame[:end])
    refused(frame + b"\xc0")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # never used
        b"\x05",
        b"\xa5hello",
        b"\x90",
        b"\x91\x7f",  # no such tag
        b"\x91\xa4ping",
        b"\x80",  # a map
        b"\x81\xa5round\x05",
        b"\x92\x08\x81\x01\x02",
        b"\x92\x08\xd4\x01\x00",  # an extension
        b"\x92\x08\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x92\x08\xc7\x00\x05",
        b"\x93\x08\x05\x06",  # a field too many
        b"\x91\x08",  # a field too few
        b"\x92\x03\xa1\xff",  # no UTF-8
        b"\x92\x03\xa3\xed\xa0\x80",  # a surrogate
        b"\x92\xcb" + b"\x40\x20" + bytes(6) + b"\x05",  # the tag 8.0
    ],
    ids=bytes.hex,
)
def test_what_is_no_message(body: bytes) -> None:
    refused(VERSION + body)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version(version: int) -> None:
    with pytest.raises(OtherVersion, match=f"wire version {version}"):
        decode(bytes([version]) + encode(Ack())[1:])


def test_no_bytes_and_too_many() -> None:
    refused(b"")
    frame = frame_of(5, bytes(limits.FRAME_BYTES - 9))
    assert len(frame) <= limits.FRAME_BYTES
    refused(frame)  # msgpack and fit, but a manifest is smaller
    refused(frame + bytes(100))


def nested(opener: bytes, depth: int) -> bytes:
    return opener * depth + b"\xc0"


LIARS = {
    "5,000 arrays in one another": nested(b"\x91", 5000),
    "as many as fit": b"\x91" * (limits.FRAME_BYTES - 1),
    "1,000 arrays that claim 10,000 elements each": nested(b"\xdc\x27\x10", 1000),
    "1,000 arrays that claim 500 elements each": nested(b"\xdc\x01\xf4", 1000),
    "an array of 2^31": b"\xdd\x80\x00\x00\x00\x01",
    "an array of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "a delta of 2^31 registrations": b"\x94\x06\x05\x92\xdd\x80\x00\x00\x00",
    "a string of 2^31": b"\xdb\x80\x00\x00\x00abc",
    "a binary of 2^31": b"\xc6\x80\x00\x00\x00abc",
    "an extension of 2^31": b"\xc9\x80\x00\x00\x00\x01abc",
    "a map of 2^31": b"\xdf\x80\x00\x00\x00\x01\x02",
    "5,000 maps in one another": nested(b"\x81\x01", 5000),
}


@pytest.mark.parametrize("body", LIARS.values(), ids=LIARS)
def test_what_a_frame_claims_is_not_allocated(body: bytes) -> None:
    refused(VERSION + body)  # once before measuring: the first exception imports and caches
    tracemalloc.start()
    try:
        refused(VERSION + body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * limits.FRAME_BYTES


def test_the_text_of_a_refusal_holds_nothing_long() -> None:
    delta = ((("p", 1, True, ("x" * 5000,), 0, (), b""),), ())
    assert len(refused(frame_of(6, 0, delta, 0))) <= limits.DETAIL_CHARS


# -- values out of range ----------------------------------------------------------------------------------------------

D = bytes(32)
AGGREGATE: list[Any] = [1, D, D, [["t", D, 1]], ["a"]]


def with_field(base: list[Any], index: int, value: object) -> list[Any]:
    return [value if at == index else field for at, field in enumerate(base)]


@pytest.mark.parametrize("round", [-1, limits.ROUND + 1, 2**63, 2**64 - 1, 1.0, math.nan, math.inf, True, None, "1"])
def test_a_round_is_an_integer_in_range(round: object) -> None:
    refused(frame_of(8, round))
    refused(frame_of(28, with_field(AGGREGATE, 0, round)))


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "x" * 32, "A" * 43 + "=", None, [0] * 32])
def test_a_digest_has_32_bytes(digest: object) -> None:
    refused(frame_of(24, digest))
    refused(frame_of(28, with_field(AGGREGATE, 1, digest)))
    refused(frame_of(28, with_field(AGGREGATE, 3, [["t", digest, 1]])))


@pytest.mark.parametrize("samples", [0, -1, limits.SAMPLES + 1, 1.0, math.nan, math.inf])
def test_samples_are_counted(samples: object) -> None:
    refused(frame_of(20, 1, D, D, samples, ((), ())))
    refused(frame_of(28, with_field(AGGREGATE, 3, [["t", D, samples]])))


FULL = limits.COMMITTEE


@pytest.mark.parametrize(
    ("most", "too_many"),
    [
        (frame_of(3, "x" * limits.DETAIL_CHARS), frame_of(3, "x" * (limits.DETAIL_CHARS + 1))),
        (frame_of(5, bytes(limits.MANIFEST_BYTES)), frame_of(5, bytes(limits.MANIFEST_BYTES + 1))),
        (frame_of(1, bytes(32), 0), frame_of(1, bytes(33), 0)),
        (frame_of(2, bytes(32), 0), frame_of(2, bytes(33), 0)),
        (
            frame_of(28, with_field(AGGREGATE, 4, ["p"] * FULL)),
            frame_of(28, with_field(AGGREGATE, 4, ["p"] * (FULL + 1))),
        ),
        (
            frame_of(28, with_field(AGGREGATE, 3, [["t", D, 1]] * FULL)),
            frame_of(28, with_field(AGGREGATE, 3, [["t", D, 1]] * (FULL + 1))),
        ),
        (frame_of(28, AGGREGATE), frame_of(28, with_field(AGGREGATE, 2, bytes(33)))),
        (
            frame_of(28, with_field(AGGREGATE, 4, ["p" * limits.PEER_CHARS])),
            frame_of(28, with_field(AGGREGATE, 4, ["p" * (limits.PEER_CHARS + 1)])),
        ),
        (
            frame_of(28, with_field(AGGREGATE, 3, [["p" * limits.PEER_CHARS, D, 1]])),
            frame_of(28, with_field(AGGREGATE, 3, [["p" * (limits.PEER_CHARS + 1), D, 1]])),
        ),
        (frame_of(25, AGGREGATE, limits.ATTEMPTS, ((), ())), frame_of(25, AGGREGATE, limits.ATTEMPTS + 1, ((), ()))),
        (frame_of(6, 0, ((), ()), 2**62), frame_of(6, 0, ((), ()), 2**62 + 1)),
        (
            frame_of(6, 0, ((), [("p", 1)] * limits.REGISTRATIONS_PER_FRAME), 0),
            frame_of(6, 0, ((), [("p", 1)] * (limits.REGISTRATIONS_PER_FRAME + 1)), 0),
        ),
    ],
    ids=[
        "reason",
        "manifest",
        "run of hello",
        "run of welcome",
        "aggregators",
        "inputs",
        "parent",
        "aggregator's name",
        "trainer's name",
        "attempt",
        "version",
        "activity",
    ],
)
def test_maxima(most: bytes, too_many: bytes) -> None:
    decode(most)
    refused(too_many)


@pytest.mark.parametrize(
    "registration",
    [
        ("p", 1, True, ("emperor",), 0, (), b""),
        ("p", 1, 1, (), 0, (), b""),
        ("p", 1.0, True, (), 0, (), b""),
        ("p", 1, True, (), 0, (b"raw",), b""),
        ("p", 1, True, (), 0, (), "text"),
        (b"p", 1, True, (), 0, (), b""),
        ("p", 1, True, (), 0, ()),
        ("p", 1, True, (), 0, (), b"", 0),
        ("p", 2**64 - 1, True, (), math.nan, (), b""),
        ("p",),
        (),
    ],
    ids=str,
)
def test_malformed_registrations(registration: tuple[object, ...]) -> None:
    refused(frame_of(10, registration))


# -- our own largest messages fit ---------------------------------------------------------------------------------


def widest(letter: str, index: int) -> PeerId:
    return PeerId(f"{letter}{index:05}".ljust(limits.PEER_CHARS, "x"))


def largest_aggregate() -> Aggregate:
    inputs = tuple(Input(widest("t", index), Digest(D), limits.SAMPLES) for index in range(limits.COMMITTEE))
    aggregators = tuple(widest("a", index) for index in range(limits.COMMITTEE))
    return Aggregate(Round(limits.ROUND), Digest(D), D, inputs, aggregators)


def test_the_largest_aggregate_fits_gossip() -> None:
    assert len(encode(HeadIs(largest_aggregate()))) <= limits.GOSSIP_BYTES


def test_the_largest_registration_fits_gossip() -> None:
    addresses = tuple("/" + "x" * (limits.ADDRESS_CHARS - 1) for _ in range(limits.ADDRESSES_PER_PEER))
    registration = Registration(
        widest("p", 0), limits.COUNTER, True, tuple(Role), Round(limits.ROUND), addresses, bytes(64)
    )
    assert len(encode(Registered(registration))) <= limits.GOSSIP_BYTES


Make = Callable[[], AnyMessage]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hello(bytes(32), Round(0)),
        lambda: Welcome(b"", Round(0)),
        lambda: Computed(Digest(D)),
        lambda: Refused("x" * limits.DETAIL_CHARS),
        lambda: Exchange(Round(0), Delta(), 2**62),
        lambda: Proposal(Round(1), Digest(D), (), ()),
        lambda: TrainedModel(Round(1), Digest(D), Digest(D), 1, Delta()),
    ],
)
def test_extremes_round_trip(make: Make) -> None:
    assert decode(encode(make())) == make()


def test_our_own_oversize_is_a_bug_of_ours() -> None:
    delta = Delta((), ((PeerId("x" * limits.FRAME_BYTES), Round(0)),))
    with pytest.raises(AssertionError, match="Exchange of"):
        wire.encode(Exchange(Round(0), delta, 0))
