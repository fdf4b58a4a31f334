"""Addresses as operators and peers write them: taken in the one form we speak, refused with a line that helps."""

from __future__ import annotations

import pytest

from gossipnode.net.libp2p.addresses import Endpoint, advertised, dialable, listenable
from gossipnode.net.libp2p.sockets import ListenError, bind
from gossipnode.net.libp2p.transport import open_libp2p
from protocols import limits
from protocols.transport import BadAddress
from sampling.peers import PeerId

PEER = PeerId("12D3KooWL3hwtanTFomj8bT4KQEHukZW7QxNMqtopYFKae2cJ7Nr")
RSA = "QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ"


@pytest.mark.parametrize("host", ["ip4/10.0.0.1", "ip6/::1", "dns/example.org", "dns4/example.org", "dns6/example.org"])
def test_every_kind_of_host_can_be_dialled(host: str) -> None:
    endpoint, peer = dialable(f"/{host}/tcp/4001/p2p/{PEER}")
    assert (f"{endpoint.family}/{endpoint.host}", endpoint.port, peer) == (host, 4001, PEER)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "10.0.0.1:4001",
        "/ip4/10.0.0.1/udp/4001/p2p/" + PEER,
        "/ip4/300.0.0.1/tcp/4001/p2p/" + PEER,
        "/ip4/10.0.0.1/tcp/70000/p2p/" + PEER,
        "/ip4/10.0.0.1/tcp/4001/p2p/" + PEER[:-1],
        "/ip4/10.0.0.1/tcp/4001/p2p/" + RSA,
        "/ip4/10.0.0.1/tcp/4001/ws/p2p/" + PEER,
        "/unix/a/tcp/4001/p2p/" + PEER,
        "/dns/" + "a" * limits.ADDRESS_CHARS + "/tcp/4001/p2p/" + PEER,
    ],
)
def test_a_malformed_address_is_shown_beside_the_right_form(address: str) -> None:
    with pytest.raises(BadAddress, match="write it as /ip4/") as caught:
        dialable(address)
    assert repr(address[: limits.ADDRESS_CHARS]) in str(caught.value)


def test_an_address_without_a_peer_says_what_is_missing() -> None:
    with pytest.raises(BadAddress, match="names no peer: end it with /p2p/"):
        dialable("/ip4/10.0.0.1/tcp/4001")


def test_only_ip_addresses_are_listened_on() -> None:
    assert listenable("/ip4/0.0.0.0/tcp/0").port == 0
    with pytest.raises(BadAddress, match="give an IP address"):
        listenable("/dns/example.org/tcp/1")


def test_a_wildcard_is_told_as_this_machines_addresses() -> None:
    told = advertised([Endpoint("0.0.0.0", 4001, "ip4"), Endpoint("10.0.0.1", 4002, "ip4")], PEER)
    assert f"/ip4/10.0.0.1/tcp/4002/p2p/{PEER}" in told
    assert not any("0.0.0.0" in address for address in told)
    assert all(dialable(address)[1] == PEER for address in told)
    assert len(told) >= 2


async def test_port_zero_is_filled_in() -> None:
    async with open_libp2p(b"1" * 32) as node:
        [(endpoint, peer)] = [dialable(address) for address in node.addresses()]
        assert endpoint.port > 0
        assert peer == node.me


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with open_libp2p(b"1" * 32) as node:
        taken = node.addresses()[0].rpartition("/p2p/")[0]
        with pytest.raises(ListenError, match=f"^cannot listen on {taken}: address already in use$"):
            async with open_libp2p(b"2" * 32, [taken]):
                raise AssertionError("two nodes share a port")


async def test_nothing_stays_bound_when_a_later_address_fails() -> None:
    with pytest.raises(ListenError, match="cannot listen: 'nonsense' is not an address"):
        await bind(["/ip4/127.0.0.1/tcp/0", "nonsense"])  # a socket left open would be a ResourceWarning
