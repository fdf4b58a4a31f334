"""Multiaddresses: what can be dialled, what can be listened on, and what to tell others.

We speak TCP only, so an address is one host, one port and, to be dialled, one peer. Whatever else a string holds is
refused with a line that shows it and the right form; nothing is guessed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from libp2p.peer.id import ID
from libp2p.utils.address_validation import get_available_interfaces
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no stubs

from protocols import limits
from protocols.transport import BadAddress
from sampling.peers import PeerId

DIAL_FORM: Final = "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooW..."
LISTEN_FORM: Final = "/ip4/0.0.0.0/tcp/4001"
HOSTS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
ED25519_PREFIX: Final = bytes.fromhex("002408011220")  # identity multihash of a 36-byte protobuf with an Ed25519 key
ED25519_ID_BYTES: Final = len(ED25519_PREFIX) + 32


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a socket is, and, when it is to be dialled, who must answer there."""

    host: str
    port: int
    family: str  # one of HOSTS
    peer: PeerId | None = None

    @property
    def multiaddr(self) -> Multiaddr:
        return Multiaddr(f"/{self.family}/{self.host}/tcp/{self.port}")


def peer_id(name: str) -> ID:
    """libp2p's id of a peer. Raises ValueError unless the name holds an Ed25519 key (all of ours do)."""
    raw = ID.from_base58(name)
    if len(raw.to_bytes()) != ED25519_ID_BYTES or not raw.to_bytes().startswith(ED25519_PREFIX):
        raise ValueError("not the name of an Ed25519 key")
    return raw


def name_of(raw: ID) -> PeerId:
    return PeerId(raw.to_base58())


def dialable(address: str) -> tuple[Endpoint, PeerId]:
    """Raises BadAddress."""
    endpoint = _parse(address, DIAL_FORM)
    if endpoint.peer is None:
        raise BadAddress(f"{_shown(address)} names no peer: end it with /p2p/<peer id>, as in {DIAL_FORM}")
    return endpoint, endpoint.peer


def listenable(address: str) -> Endpoint:
    """Raises BadAddress."""
    endpoint = _parse(address, LISTEN_FORM)
    if endpoint.family not in ("ip4", "ip6"):
        raise BadAddress(f"{_shown(address)} cannot be listened on: give an IP address, as in {LISTEN_FORM}")
    return endpoint


def _parse(address: str, form: str) -> Endpoint:
    wrong = BadAddress(f"{_shown(address)} is not an address: write it as {form}")
    if len(address) > limits.ADDRESS_CHARS:
        raise wrong
    match address.split("/"):
        case ["", str(family), str(host), "tcp", str(port)]:
            peer = None
        case ["", str(family), str(host), "tcp", str(port), "p2p" | "ipfs", str(peer)]:
            pass
        case _:
            raise wrong
    try:
        Multiaddr(address)  # its own checks of hosts and ports
        if family not in HOSTS:
            raise wrong
        return Endpoint(host, int(port), family, None if peer is None else name_of(peer_id(peer)))
    except Exception as error:  # multiaddr and base58 raise kinds of their own, ValueError and KeyError among them
        raise wrong from error


def _shown(address: str) -> str:
    return repr(address[: limits.ADDRESS_CHARS])


def advertised(endpoints: Iterable[Endpoint], me: PeerId) -> tuple[str, ...]:
    """What to tell others: wildcards expanded to this machine's addresses, loopback only if there is nothing else."""
    hosts = [concrete for endpoint in endpoints for concrete in _expand(endpoint)]
    unique = list(dict.fromkeys(f"{host.multiaddr}/p2p/{me}" for host in hosts))
    return tuple(unique[: limits.ADDRESSES_PER_PEER])


def _expand(endpoint: Endpoint) -> Sequence[Endpoint]:
    if not ipaddress.ip_address(endpoint.host).is_unspecified:
        return [endpoint]
    hosts = [maddr.value_for_protocol(endpoint.family) for maddr in _interfaces(endpoint)]
    far = [host for host in hosts if host is not None and _is_reachable(host)]
    loopback = "127.0.0.1" if endpoint.family == "ip4" else "::1"
    return [Endpoint(host, endpoint.port, endpoint.family) for host in far or [loopback]]


def _interfaces(endpoint: Endpoint) -> list[Multiaddr]:
    found = get_available_interfaces(endpoint.port)
    return [maddr for maddr in found if str(maddr).startswith(f"/{endpoint.family}/")]


def _is_reachable(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return not (address.is_loopback or address.is_link_local)
