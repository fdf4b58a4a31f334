"""Links over real sockets: dialled once, noticed when they vanish, bounded, and closed in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from gossipnode.net.libp2p import guards, links, sockets, transport
from gossipnode.net.libp2p.transport import Heartbeat, Libp2pTransport, open_libp2p
from protocols import limits
from protocols.transport import BadAddress, Gossip, LinkDown, LinkUp, NoAnswer, Transport, Unreachable
from sampling.peers import PeerId
from verify.digest import Digest

BRISK = Heartbeat(ask_after_s=0.05, dead_after_s=0.3)
NOBODY = PeerId("12D3KooWL3hwtanTFomj8bT4KQEHukZW7QxNMqtopYFKae2cJ7Nr")


class Nothing:
    async def prove(self, digest: Digest) -> None:
        pass

    def size(self, digest: Digest) -> int | None:
        return None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        raise AssertionError


async def echo(peer: PeerId, frame: bytes) -> bytes:
    return frame


@asynccontextmanager
async def node(number: int, **options: object) -> AsyncIterator[Libp2pTransport]:
    async with open_libp2p(bytes([number]) * 32, **options) as opened:  # type: ignore[arg-type]
        opened.serve(echo, Nothing())
        yield opened


class Cable:
    """A TCP connection that can be made to carry nothing, as by a power cut: no FIN, no RST."""

    def __init__(self, nursery: trio.Nursery, target: str) -> None:
        self.unplugged = False
        self._nursery = nursery
        self._host, self._port = target.split("/")[2], int(target.split("/")[4])
        self._peer = target.rpartition("/p2p/")[2]

    async def plug(self) -> str:
        """The address by which the target is reached through this cable."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, self._carry, [listener])
        return f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{self._peer}"

    async def _carry(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(self._host, self._port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._one_way, near, far)
            nursery.start_soon(self._one_way, far, near)

    async def _one_way(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some():
                if not self.unplugged:
                    await sink.send_all(data)
            if not self.unplugged:
                await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def cable_to(target: Transport) -> AsyncIterator[tuple[Cable, str]]:
    async with trio.open_nursery() as nursery:
        cable = Cable(nursery, target.addresses()[0])
        yield cable, await cable.plug()
        nursery.cancel_scope.cancel()


async def until(check: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not check():  # noqa: ASYNC110  # what is waited for is libp2p's own state, which has no event
            await trio.sleep(0.005)


async def test_services_start_before_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that finds no service running ends a libp2p host, or is never told to pubsub."""
    steps: list[str] = []

    @asynccontextmanager
    async def noted(name: str, inner: AbstractAsyncContextManager[object]) -> AsyncIterator[None]:
        async with inner:
            steps.append(name)
            yield
            steps.append(name)

    background, run = transport.background_trio_service, transport.BasicHost.run
    monkeypatch.setattr(transport, "background_trio_service", lambda s: noted(type(s).__name__, background(s)))
    monkeypatch.setattr(transport.BasicHost, "run", lambda host, listen_addrs: noted("host", run(host, listen_addrs)))
    async with node(1):
        assert steps == ["GuardedPubsub", "GuardedRouter", "host"]


async def test_concurrent_dials_of_one_peer_are_one() -> None:
    async with node(1) as a, node(2) as b:
        b.know(a.me, a.addresses())
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(b.dial, a.addresses()[0])
                nursery.start_soon(lambda: b.request(a.me, b"?", timeout_s=5))
        assert len(b._links._open[a.me]) == 1


async def test_the_next_in_line_dials_when_the_first_gives_up() -> None:
    async with node(1) as a, node(2) as b:
        b.know(a.me, a.addresses())
        with trio.CancelScope() as impatient:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b._links.connect, a.me)
                await trio.testing.wait_all_tasks_blocked()
                impatient.cancel()
        await b._links.connect(a.me)
        assert b.peers() == {a.me}


async def test_a_dial_does_not_wait_for_a_second_address() -> None:
    """libp2p's own dial_peer takes 250 ms at least."""
    async with node(1) as a, node(2) as b:
        took_s = []
        for _ in range(3):
            began = trio.current_time()
            await b.dial(a.addresses()[0])
            took_s.append(trio.current_time() - began)
            await b.drop(a.me)
            await until(lambda: not a.peers())
        assert min(took_s) < 0.2


async def test_a_refusal_names_the_place_and_the_cause() -> None:
    async with node(1) as a:
        with pytest.raises(Unreachable, match=f"^{NOBODY} at /ip4/127.0.0.1/tcp/1: connection refused$"):
            await a.dial(f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}")
        a.know(NOBODY, ["/ip4/127.0.0.1/tcp/1/p2p/" + NOBODY])
        for _ in range(2):  # libp2p would hold the first failure against the peer for a minute
            with pytest.raises(Unreachable, match=r"connection refused$"):
                await a.request(NOBODY, b"?", timeout_s=5)


async def test_a_listener_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "DIAL_S", 0.05)
    async with node(1) as a:
        [mute] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with mute:
            port = mute.socket.getsockname()[1]
            with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
                await a.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}")


async def test_another_peer_at_the_address_is_a_bad_address() -> None:
    async with node(1) as a, node(2) as b:
        with pytest.raises(BadAddress, match="another peer answers there"):
            await b.dial(a.addresses()[0].replace(a.me, NOBODY))
        b.know(NOBODY, [a.addresses()[0].replace(a.me, NOBODY)])
        with pytest.raises(Unreachable, match="another peer answers there"):
            await b.request(NOBODY, b"?", timeout_s=5)


async def test_of_several_addresses_the_good_one_is_found() -> None:
    async with node(1) as a, node(2) as b:
        b.know(a.me, ["nonsense", f"/ip4/127.0.0.1/tcp/1/p2p/{a.me}", *a.addresses()])
        assert await b.request(a.me, b"?", timeout_s=5) == b"?"


async def test_two_connections_are_one_link_until_both_are_gone() -> None:
    async with node(1) as a, node(2) as b, a.links() as changes:
        await b.dial(a.addresses()[0])
        assert await changes.receive() == LinkUp(b.me)
        await b._links._swarm.dial_addr(_multiaddr(a), _raw(a))
        await until(lambda: len(a._links._open[b.me]) == 2)
        first, second = a._links._open[b.me]
        await links.close(first)
        assert a.peers() == {b.me}
        assert await b.request(a.me, b"still", timeout_s=5) == b"still"
        await links.close(second)
        assert await changes.receive() == LinkDown(b.me)
        with pytest.raises(trio.WouldBlock):
            changes.receive_nowait()


def _multiaddr(node: Libp2pTransport) -> object:
    return links.dialable(node.addresses()[0])[0].multiaddr


def _raw(node: Libp2pTransport) -> links.ID:  # type: ignore[name-defined]
    return links.peer_id(node.me)


def test_silence_is_first_asked_about_then_final() -> None:
    verdict = links.Links.verdict
    watcher = type("W", (), {"_heartbeat": Heartbeat(ask_after_s=5, dead_after_s=20)})()
    assert [verdict(watcher, silent_s) for silent_s in (0, 4.9, 5, 19.9, 20, 1e6)] == [
        "alive", "alive", "ask", "ask", "dead", "dead",
    ]  # fmt: skip


async def test_an_idle_link_is_kept_by_its_pings() -> None:
    async with node(1, heartbeat=BRISK) as a, node(2) as b:
        await b.dial(a.addresses()[0])
        await until(lambda: a.peers() == {b.me})
        [conn] = a._links._open[b.me]
        wire = sockets.wire_under(conn)
        before = wire.heard_at
        async with trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked(0.02)  # identify and gossip have said what they had to say
            wire.heard_at = before - 0.1
            a._links.beat(nursery)
        await until(lambda: wire.heard_at > before)
        assert a.peers() == {b.me}


async def test_our_own_sleep_is_not_held_against_peers() -> None:
    async with node(1) as a, node(2) as b, trio.open_nursery() as nursery:
        await b.dial(a.addresses()[0])
        await until(lambda: a.peers() == {b.me})
        [conn] = a._links._open[b.me]
        sockets.wire_under(conn).heard_at -= 100.0
        a._links.beat(nursery, late_s=99.0)
        assert not sockets.wire_under(conn).closed.is_set()
        sockets.wire_under(conn).heard_at -= 100.0
        a._links.beat(nursery)
        assert sockets.wire_under(conn).closed.is_set()


async def test_a_peer_that_vanishes_is_noticed_and_gossip_flows_again_when_it_is_back() -> None:
    """No FIN ever arrives; libp2p would go on writing to the dead connection's stream."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(1, heartbeat=BRISK))
        heard_at_a = await stack.enter_async_context(a.subscribe("t"))
        changes = await stack.enter_async_context(a.links())
        async with node(2) as b, cable_to(a) as [cable, address], b.subscribe("t"):
            await b.dial(address)
            assert await changes.receive() == LinkUp(b.me)
            cable.unplugged = True
        async with node(2) as b, b.subscribe("t") as heard_at_b:
            await b.dial(a.addresses()[0])
            await until(lambda: len(a._links._open.get(b.me, ())) == 1)
            await until(lambda: b._pubsub.peers.keys() == {_raw(a)} and a._pubsub.peers.keys() == {_raw(b)})
            await until(lambda: "t" in a._pubsub.peer_topics and "t" in b._pubsub.peer_topics)
            await a.publish("t", b"to b")
            await b.publish("t", b"to a")
            with trio.fail_after(5):
                assert await heard_at_b.receive() == Gossip(a.me, b"to b")
                assert await heard_at_a.receive() == Gossip(b.me, b"to a")


async def test_a_frozen_peer_is_closed_with_a_link_down() -> None:
    async with node(1, heartbeat=BRISK) as a, node(2) as b, cable_to(b) as [cable, address], a.links() as changes:
        await a.dial(address)
        assert await changes.receive() == LinkUp(b.me)
        cable.unplugged = True
        with trio.fail_after(5):
            assert await changes.receive() == LinkDown(b.me)
        with pytest.raises((NoAnswer, Unreachable)):
            await a.request(b.me, b"?", timeout_s=0.2)


async def test_leaving_does_not_wait_for_a_frozen_peer_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(node(2))
        cable, address = await stack.enter_async_context(cable_to(b))
        with trio.fail_after(10):
            async with node(1) as a, node(3) as c, a.subscribe("t"):
                await a.dial(address)
                await c.dial(a.addresses()[0])
                cable.unplugged = True
                left_at = trio.current_time()
            assert trio.current_time() - left_at < 3
    # pytest listens to libp2p's own logger as well, which nobody else does
    assert [record.getMessage() for record in caplog.records if not record.name.startswith("libp2p")] == []


async def test_a_link_is_closed_even_while_a_write_on_it_is_stuck() -> None:
    async with node(1) as a, node(2) as b:
        await a.dial(b.addresses()[0])
        [conn] = a._links._open[b.me]

        async def write() -> None:
            """To a peer that does not read: until the socket is closed."""
            async with conn.muxed_conn._write_lock:
                await sockets.wire_under(conn).closed.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(3):
                await a.drop(b.me)
        assert a.peers() == frozenset()


def test_libp2ps_log_is_ours_at_debug_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    guards.quieten()
    try:
        raise ValueError("a peer's doing")
    except ValueError:
        logging.getLogger("libp2p.host").exception("two\nlines")
    guards.swarm_connection.logging.warning("to the root logger")
    seen = [record for record in caplog.records if not record.name.startswith("libp2p")]
    assert [record.getMessage() for record in seen] == ["libp2p: two lines", "libp2p: to the root logger"]
    assert {(record.name, record.levelname, record.exc_info) for record in seen} == {("gossipnode.net", "DEBUG", None)}
    assert not logging.getLogger("libp2p").propagate


async def test_peers_learn_at_once_that_we_left() -> None:
    async with node(1) as a, a.links() as changes:
        async with node(2) as b:
            await b.dial(a.addresses()[0])
            assert await changes.receive() == LinkUp(b.me)
        with trio.fail_after(2):
            assert await changes.receive() == LinkDown(b.me)


async def test_no_more_links_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 2)
    async with node(1) as a, node(2) as b, node(3) as c, node(4) as d:
        await b.dial(a.addresses()[0])
        await c.dial(a.addresses()[0])
        await until(lambda: a.peers() == {b.me, c.me})
        with pytest.raises(Unreachable):
            await d.dial(a.addresses()[0])
        assert a.peers() == {b.me, c.me}


async def test_sockets_that_never_shake_hands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 1)
    monkeypatch.setattr(sockets, "HANDSHAKES", 2)
    async with node(1) as a, AsyncExitStack() as stack:
        port = int(a.addresses()[0].split("/")[4])
        mute = [await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(4)]
        with trio.fail_after(5):
            while await mute[0].receive_some():  # a multistream header; then the oldest gives way to the newest
                pass


async def test_half_open_sockets_do_not_take_the_places_of_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 2)
    async with node(1) as a, node(2) as b, AsyncExitStack() as stack:
        port = int(a.addresses()[0].split("/")[4])
        for _ in range(3):
            mute = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            assert await mute.receive_some()
        await b.dial(a.addresses()[0])
        assert await b.request(a.me, b"?", timeout_s=5) == b"?"


async def test_connections_that_came_and_went_leave_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """libp2p's inbound limiter counts every connection there ever was."""
    monkeypatch.setattr(limits, "LINKS", 2)
    monkeypatch.setattr(sockets, "HANDSHAKES", 0)
    async with node(1) as a, node(2) as b:
        for _ in range(4):
            await b.dial(a.addresses()[0])
            await b.drop(a.me)
            await until(lambda: not a.peers())
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(2):
            await b.dial(a.addresses()[0])
            await b.drop(a.me)
            await until(lambda: not a.peers())
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_one_peer_cannot_take_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LINKS_PER_PEER", 2)
    async with node(1) as a, node(2) as b:
        for _ in range(4):
            with trio.move_on_after(1):
                try:
                    await b._links._swarm.dial_addr(_multiaddr(a), _raw(a))
                except guards.SwarmException:
                    break
        await until(lambda: len(a._links._open[b.me]) == 2)


async def test_a_refused_peer_is_neither_dialled_nor_let_in() -> None:
    async with node(1) as a, node(2) as b:
        a.refuse(b.me)
        with pytest.raises(Unreachable, match="is refused by us"):
            await a.dial(b.addresses()[0])
        with suppress(Unreachable):  # it is shut out only after the handshake
            await b.dial(a.addresses()[0])
        await until(lambda: not b.peers())
        assert a.peers() == frozenset()


async def test_libp2p_dials_nobody_by_itself() -> None:
    async with node(1) as a, node(2) as b:
        swarm = b._links._swarm
        await b.dial(a.addresses()[0])
        await until(lambda: _raw(a) in swarm.peerstore.peer_ids())  # identify has told b about a
        await b.drop(a.me)
        await until(lambda: not b.peers())
        assert not swarm.auto_connector._recent_disconnects  # a line for everybody who ever left
        assert _raw(a) not in swarm.peerstore.peer_ids()
        swarm.peerstore.add_addrs(_raw(a), [_multiaddr(a)], 100)
        await swarm.auto_connector.maybe_connect()
        with pytest.raises(guards.SwarmException):
            await swarm.dial_peer(_raw(a))
        assert b.peers() == frozenset()


async def test_a_private_network_takes_only_those_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "DIAL_S", 0.5)
    async with node(1, psk=b"k" * 32) as a, node(2, psk=b"k" * 32) as b, node(3, psk=b"x" * 32) as c, node(4) as d:
        await b.dial(a.addresses()[0])
        assert await b.request(a.me, b"?", timeout_s=5) == b"?"
        for outsider in (c, d):
            with pytest.raises(Unreachable):
                await outsider.dial(a.addresses()[0])
        assert a.peers() == {b.me}


async def test_traffic_counts_what_the_sockets_carry() -> None:
    async with node(1) as a, node(2) as b:
        await b.dial(a.addresses()[0])
        await b.request(a.me, bytes(100_000), timeout_s=5)
        await until(lambda: a.traffic().wire_received == b.traffic().wire_sent)
        assert 200_000 > a.traffic().wire_received > 100_000
        assert a.traffic().blob_sent == 0
