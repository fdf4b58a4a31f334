"""The status server over real loopback sockets: who is answered, what it costs, how it stops."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from gossipnode.errors import OperatorError
from gossipnode.status import http
from gossipnode.status.app import build_app, host_of
from gossipnode.status.http import Bind, Client, parse_bind, serve_status
from gossipnode.status.report import HISTORY_ROUNDS, NodeStatus, Snapshot, Status, decode

TOKEN = "correct-horse"


def nothing() -> Status:
    return Status(node=NodeStatus(peer="me"))


@asynccontextmanager
async def served(snapshot: Snapshot, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_status, snapshot, "127.0.0.1:0", token)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw(client: httpx.AsyncClient) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0) as stream:
        yield stream


async def test_status_is_the_report(full_report: Status) -> None:
    async with served(lambda: full_report) as client:
        answer = await client.get("/status")
    assert answer.headers["content-type"] == "application/json"
    assert decode(answer.content) == full_report


async def test_status_of_a_node_that_knows_nothing_yet(newborn_report: Status) -> None:
    async with served(lambda: newborn_report) as client:
        assert json.loads((await client.get("/status")).content)["run"] is None


@pytest.mark.parametrize(
    ("wanted", "rounds"), [("0", []), ("2", [29, 30]), ("40", list(range(1, 31))), ("1000", list(range(1, 31)))]
)
async def test_history_can_be_cut(full_report: Status, wanted: str, rounds: list[int]) -> None:
    async with served(lambda: full_report) as client:
        status = decode((await client.get("/status", params={"history": wanted})).content)
    assert [done.round for done in status.history] == rounds


@pytest.mark.parametrize("wanted", ["-1", "x", "", str(HISTORY_ROUNDS + 1), "9" * 5000])
async def test_a_bad_history_is_refused(full_report: Status, wanted: str) -> None:
    async with served(lambda: full_report) as client:
        assert (await client.get("/status", params={"history": wanted})).status_code == 400


async def test_ready_only_with_a_manifest_and_joined(full_report: Status, newborn_report: Status) -> None:
    unjoined = msgspec.structs.replace(full_report, node=msgspec.structs.replace(full_report.node, joined=False))
    for report, code, text in [
        (newborn_report, 503, "no manifest"),
        (unjoined, 503, "not joined"),
        (full_report, 200, "ready"),
    ]:
        async with served(lambda report=report: report) as client:  # type: ignore[misc]  # mypy: default of a lambda
            answer = await client.get("/readyz")
            assert (answer.status_code, (await client.get("/healthz")).status_code) == (code, 200)
            assert text in answer.text


async def test_every_answer_is_sealed_and_nothing_can_be_changed() -> None:
    async with served(nothing) as client:
        for path in ("/", "/healthz", "/readyz", "/status", "/metrics", "/nowhere"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers
            assert (await client.post(path, content=b"x")).status_code in {404, 405}


async def test_a_rebound_name_is_turned_away_from_a_loopback_bind() -> None:
    async with served(nothing) as client:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
            assert (await client.get("/status", headers={"Host": host})).status_code == 421
        for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:80"):
            assert (await client.get("/status", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("header", "host"), [("a:1", "a"), ("A", "a"), ("[::1]:8", "::1"), ("[::1]", "::1"), ("", ""), ("[", ""), (":", "")]
)
def test_host_of(header: str, host: str) -> None:
    assert host_of(header) == host


async def test_with_a_token_only_the_empty_page_and_health_are_open() -> None:
    async with served(nothing, TOKEN) as client:
        for path, code in {"/": 200, "/healthz": 200, "/readyz": 401, "/status": 401, "/metrics": 401}.items():
            assert (await client.get(path)).status_code == code
        for value in ("", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"bearer {TOKEN}", TOKEN, "Bearer \xff"):
            answer = await client.get("/status", headers=[(b"authorization", value.encode("latin-1"))])
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/status", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200


async def test_a_public_bind_with_a_token_answers_to_any_name() -> None:
    transport = httpx.ASGITransport(build_app(nothing, hosts=None, token=TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url="http://node.example") as client:
        assert (await client.get("/status")).status_code == 401
        assert (await client.get("/status", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
@pytest.mark.parametrize("token", [None, ""])
async def test_a_public_bind_without_a_token_is_refused(bind: str, token: str | None) -> None:
    with pytest.raises(OperatorError, match="--http-token"):
        await serve_status(nothing, bind, token)


@pytest.mark.parametrize("token", ["with space", "ümlaut", "line\nbreak"])
async def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(OperatorError, match="--http-token"):
        await serve_status(nothing, "127.0.0.1:0", token)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8642", Bind("127.0.0.1", 8642)),
        ("localhost:0", Bind("127.0.0.1", 0)),
        ("[::1]:1", Bind("::1", 1)),
        ("0.0.0.0:65535", Bind("0.0.0.0", 65_535)),
    ],
)
def test_parse_bind(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize("text", ["", "8642", ":8642", "localhost", "host.example:1", "127.0.0.1:x", "127.0.0.1:65536"])
def test_a_bad_bind_names_the_option(text: str) -> None:
    with pytest.raises(OperatorError, match="--http wants ADDRESS:PORT"):
        parse_bind(text)


async def test_a_port_in_use_is_one_line_that_names_the_option() -> None:
    async with served(nothing) as client:
        with pytest.raises(OperatorError, match=r"--http 127.0.0.1:\d+ cannot be bound") as caught:
            await serve_status(nothing, f"127.0.0.1:{client.base_url.port}", None)
    assert "\n" not in str(caught.value)


async def test_metrics_are_prometheus_text(full_report: Status) -> None:
    async with served(lambda: full_report) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        "gossipnode_round 31.0",
        'gossipnode_state{state="training"} 1.0',
        'gossipnode_state{state="idle"} 0.0',
        'gossipnode_offences_total{kind="flood"} 7.0',
        'gossipnode_peers{standing="quarantined"} 1.0',
        "gossipnode_wire_sent_bytes_total 1.5e+06",
        "# TYPE gossipnode_wire_sent_bytes_total counter",
        "gossipnode_accuracy 0.9634",
    ):
        assert line in lines


async def test_metrics_say_nothing_of_what_is_not_known() -> None:
    async with served(nothing) as client:
        text = (await client.get("/metrics")).text
    assert "gossipnode_round 0.0" in text
    assert "gossipnode_accuracy" not in text
    assert "python_info" not in text


async def test_a_bug_in_the_snapshot_is_a_500_and_one_log_entry_in_full(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Status:
        raise ZeroDivisionError("ours")

    with caplog.at_level(logging.INFO):
        async with served(broken) as client:
            assert (await client.get("/status")).status_code == 500
            assert (await client.get("/healthz")).status_code == 200
    (record,) = [record for record in caplog.records if record.name.startswith("gossipnode")]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_serving_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with served(nothing) as client:
            await client.get("/status")
    assert not [record for record in caplog.records if not record.name.startswith("http")]  # httpx logs its requests


GARBAGE = [
    b"\x00" * 4096,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /status HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * (http.REQUEST_HEAD_BYTES + 1) + b"\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: upgrade\r\nHTTP2-Settings: @@@\r\n\r\n",
]


@pytest.mark.parametrize("sent", GARBAGE)
async def test_garbage_costs_the_client_its_connection_and_nobody_else(sent: bytes) -> None:
    with trio.fail_after(5):
        async with served(nothing) as client, raw(client) as stream:
            await stream.send_all(sent)
            await stream.send_eof()
            if b"h2c" not in sent:  # hypercorn leaves that one to CONNECTION_S
                await read_to_the_end(stream)
            assert (await client.get("/status")).status_code == 200


async def read_to_the_end(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):  # reset: just as well
        while await stream.receive_some(65_536):
            pass


async def test_connections_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS", 2)
    async with served(nothing) as client, raw(client) as first, raw(client), raw(client) as third:
        with trio.fail_after(5):
            assert await third.receive_some() == b""
        await first.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_write_to_a_client_that_does_not_read_ends(autojump_clock: MockClock) -> None:
    async def send_all(data: bytes) -> None:
        await trio.sleep_forever()

    stuck = SimpleNamespace(socket=None, receive_some=None, send_eof=None, aclose=None, send_all=send_all)
    with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError):
        await Client(stuck).send_all(b"x")  # type: ignore[arg-type]  # as much of a SocketStream as it touches
    assert trio.current_time() == pytest.approx(http.SEND_S)


def huge(report: Status) -> Callable[[], Status]:
    """More than any socket buffer holds."""
    big = msgspec.structs.replace(report, warnings=["x" * 1_000_000] * 32)
    return lambda: big


async def test_it_stops_within_a_second_whatever_clients_do(full_report: Status) -> None:
    async with AsyncExitStack() as clients, trio.open_nursery() as nursery:
        url = await nursery.start(serve_status, huge(full_report), "127.0.0.1:0", None)
        port = int(url.rpartition(":")[2])
        idle, halfway, stuck = [
            await clients.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(3)
        ]
        await idle.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await halfway.send_all(b"GET /sta")
        await stuck.send_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await idle.receive_some(1) == await stuck.receive_some(1) == b"H"
        before = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 1.0
