"""What a peer says of itself: signed, bound to the run, and bounded in everything that the peer controls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.registration import EXAMINED, _examined, doubt, examined, sign_registration
from protocols.signatures import Signer
from sampling.peers import PeerId, Role, Round
from sampling.view import Registration

SIGNER, OTHER = Signer.from_seed(bytes(32)), Signer.from_seed(bytes([1] * 32))
RUN, OTHER_RUN = bytes(32), bytes([1] * 32)


def signed(
    signer: Signer = SIGNER,
    run: bytes = RUN,
    *,
    counter: int = 1,
    present: bool = True,
    roles: tuple[Role, ...] = (Role.TRAINER,),
    round: int = 0,
    addresses: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/4001",),
) -> Registration:
    return sign_registration(
        signer, run, counter=counter, present=present, roles=roles, round=Round(round), addresses=addresses
    )


def test_an_honest_one() -> None:
    registration = signed()
    assert registration.peer == SIGNER.peer
    assert doubt(registration, RUN) is None
    assert doubt(signed(counter=limits.COUNTER, round=limits.ROUND, roles=tuple(Role), addresses=()), RUN) is None


def test_what_was_examined_before_is_remembered_and_shared() -> None:
    first, again = signed(counter=77), signed(counter=77)
    assert first is not again
    assert examined(first, RUN) == (first, None)
    assert examined(again, RUN)[0] is first
    assert examined(first._replace(counter=78), RUN)[1] == "signature does not hold"
    assert examined(first, OTHER_RUN)[1] == "signature does not hold"


def test_what_is_huge_is_not_remembered() -> None:
    _examined.cache_clear()
    before = _examined.cache_info().currsize
    for number in range(5):
        huge = signed(counter=number)._replace(signature=bytes(100_000))
        assert examined(huge, RUN)[1] == "signature does not hold"
    assert _examined.cache_info().currsize == before < EXAMINED


def test_another_runs_is_void() -> None:
    assert doubt(signed(run=OTHER_RUN), RUN) == "signature does not hold"


CHANGES: dict[str, Callable[[Registration], Registration]] = {
    "peer": lambda known: known._replace(peer=OTHER.peer),
    "counter": lambda known: known._replace(counter=2),
    "present": lambda known: known._replace(present=False),
    "roles": lambda known: known._replace(roles=(Role.AUDITOR,)),
    "round": lambda known: known._replace(round=Round(1)),
    "addresses": lambda known: known._replace(addresses=("/ip4/10.0.0.1/tcp/1",)),
    "signature": lambda known: known._replace(signature=OTHER.sign(b"x", RUN, b"")),
    "no signature": lambda known: known._replace(signature=b""),
    "long signature": lambda known: known._replace(signature=known.signature + b"\0"),
    "huge signature": lambda known: known._replace(signature=bytes(100_000)),
    "no peer": lambda known: known._replace(peer=PeerId("")),
    "no peer id": lambda known: known._replace(peer=PeerId("nobody")),
    "long peer": lambda known: known._replace(peer=PeerId(known.peer * 1000)),
    "padded peer": lambda known: known._replace(peer=PeerId(known.peer + " ")),
    "peer beyond ASCII": lambda known: known._replace(peer=PeerId("é" * 52)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nobody_can_change_it(change: Callable[[Registration], Registration]) -> None:
    assert doubt(change(signed()), RUN) == "signature does not hold"


# A hostile peer signs its own nonsense: the signature holds, the bounds must.
@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        ({"counter": -1}, "out of range"),
        ({"counter": limits.COUNTER + 1}, "out of range"),
        ({"round": -1}, "out of range"),
        ({"round": limits.ROUND + 1}, "out of range"),
        ({"roles": (Role.TRAINER, Role.TRAINER)}, "a role twice"),
    ],
)
def test_bounds(nonsense: dict[str, int], why: str) -> None:
    assert why in str(doubt(signed(**nonsense), RUN))  # type: ignore[arg-type]  # one keyword at a time


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        (("/a",) * (limits.ADDRESSES_PER_PEER + 1), "too many addresses"),
        (("x" * (limits.ADDRESS_CHARS + 1),), "address too long"),
        (("/ip4/\n1.2.3.4",), "not plain text"),
        (("/dns/bücher.example/tcp/1",), "not plain text"),
    ],
)
def test_bounds_of_addresses(addresses: tuple[str, ...], why: str) -> None:
    unsigned = signed(addresses=())._replace(addresses=addresses, signature=b"")
    assert why in str(doubt(unsigned, RUN))  # found before any signature is checked


def test_we_sign_only_addresses_that_are_believed() -> None:
    registration = signed(addresses=("x" * 300, "/a\n", *(f"/ip4/10.0.0.{host}/tcp/1" for host in range(20))))
    assert len(registration.addresses) == limits.ADDRESSES_PER_PEER
    assert doubt(registration, RUN) is None


@given(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.sampled_from(Role), max_size=4),
    st.lists(st.text(max_size=10), max_size=10),
    st.binary(max_size=70),
    st.text(max_size=60),
)
def test_it_never_raises(
    counter: int, round: int, roles: list[Role], addresses: list[str], signature: bytes, peer: str
) -> None:
    made = Registration(PeerId(peer), counter, True, tuple(roles), Round(round), tuple(addresses), signature)
    assert doubt(made, RUN) is not None
