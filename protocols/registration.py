"""Signing what a peer says of itself, and believing it: the door through which registrations enter a view. Pure.

One signed record serves as address book entry and as MoDeST's join/leave counter, so nobody can announce another's
leave, move its counter or its addresses. The signature is salted with the run id: a record of another run is void here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from protocols import limits
from protocols.signatures import SIGNATURE_BYTES, Signer, verify
from sampling.peers import Role, Round
from sampling.view import Registration

EXAMINED = 2048  # records remembered: 5 MB if hostile peers make each as long as it may be
DOMAIN = b"gossipnode/registration/1"


def sign_registration(
    signer: Signer,
    run: bytes,
    *,
    counter: int,
    present: bool,
    roles: Sequence[Role],
    round: Round,
    addresses: Sequence[str],
) -> Registration:
    kept = tuple(filter(_is_address, addresses))[: limits.ADDRESSES_PER_PEER]
    unsigned = Registration(signer.peer, counter, present, tuple(roles), round, kept, b"")
    return unsigned._replace(signature=signer.sign(DOMAIN, run, _payload(unsigned)))


def examined(registration: Registration, run: bytes) -> tuple[Registration, str | None]:
    """The record and `doubt`'s answer. Heard again, it costs no second check of its signature and is the same object:
    the nodes of a simulation share one."""
    if (why := _out_of_bounds(registration)) is not None:  # first, for what is huge must not be remembered
        return registration, why
    return _examined(registration, run)


@lru_cache(maxsize=EXAMINED)
def _examined(registration: Registration, run: bytes) -> tuple[Registration, str | None]:
    return registration, doubt(registration, run)


def doubt(registration: Registration, run: bytes) -> str | None:
    """Why not to believe it; None if it holds. Nobody honest passes on what does not."""
    if (why := _out_of_bounds(registration)) is not None:
        return why
    if not verify(registration.peer, DOMAIN, run, _payload(registration), registration.signature):
        return "signature does not hold"
    return None


def _out_of_bounds(registration: Registration) -> str | None:
    if not 0 <= registration.counter <= limits.COUNTER or not 0 <= registration.round <= limits.ROUND:
        return "counter or round out of range"
    if len(registration.addresses) > limits.ADDRESSES_PER_PEER:
        return "too many addresses"
    if len(set(registration.roles)) < len(registration.roles):
        return "a role twice"
    if not all(map(_is_address, registration.addresses)):
        return "address too long or not plain text"
    if len(registration.signature) != SIGNATURE_BYTES or len(registration.peer) > limits.PEER_CHARS:
        return "signature does not hold"
    return None


def _is_address(text: str) -> bool:
    return len(text) <= limits.ADDRESS_CHARS and text.isascii() and text.isprintable()


def _payload(registration: Registration) -> bytes:
    return msgspec.msgpack.encode(tuple(registration)[:-1])
