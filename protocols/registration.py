"""Signing what a peer says of itself, and believing it: the door through which registrations enter a view. Pure.

One signed record serves as address book entry and as MoDeST's join/leave counter, so nobody can announce another's
leave, move its counter or its addresses. The signature is salted with the run id: a record of another run is void here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from protocols import limits
from protocols.signatures import Signer, verify
from sampling.peers import Role, Round
from sampling.view import Registration

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


def doubt(registration: Registration, run: bytes) -> str | None:
    """Why not to believe it; None if it holds. Nobody honest passes on what does not."""
    if not 0 <= registration.counter <= limits.COUNTER or not 0 <= registration.round <= limits.ROUND:
        return "counter or round out of range"
    if len(registration.addresses) > limits.ADDRESSES_PER_PEER:
        return "too many addresses"
    if len(set(registration.roles)) < len(registration.roles):
        return "a role twice"
    if not all(map(_is_address, registration.addresses)):
        return "address too long or not plain text"
    if not verify(registration.peer, DOMAIN, run, _payload(registration), registration.signature):
        return "signature does not hold"
    return None


def _is_address(text: str) -> bool:
    return len(text) <= limits.ADDRESS_CHARS and text.isascii() and text.isprintable()


def _payload(registration: Registration) -> bytes:
    return msgspec.msgpack.encode(tuple(registration)[:-1])
