"""`gossipnode status`: finding the node, reading its report, drawing it; every failure is one helpful line."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from rich.console import Console

from gossipnode.errors import OperatorError
from gossipnode.status.http import serve_status
from gossipnode.status.report import Status, decode
from gossipnode.status.tables import BARS, SPARK_CHARS, render, size, span, sparkline
from gossipnode.status.view import TOKEN_VARIABLE, fetch_status, show_status, status_command, url_of_home


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@asynccontextmanager
async def node(report: Status, token: str | None = None) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_status, lambda: report, "127.0.0.1:0", token)
        nursery.cancel_scope.cancel()


async def fetched(url: str, token: str | None = None, history: int | None = None) -> Status:
    return await trio.to_thread.run_sync(partial(fetch_status, url, token, history=history))


def drawn(status: Status, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(render(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(status: Status, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- fetching ------------------------------------------------------------------------------------------------------


async def test_a_report_arrives_as_it_left(full_report: Status) -> None:
    async with node(full_report) as url:
        assert await fetched(url) == full_report
        assert await fetched(f"{url}/status") == full_report
        assert await fetched(f"{url.removeprefix('http://')}/") == full_report
        assert len((await fetched(url, history=3)).history) == 3


async def test_tokens(full_report: Status) -> None:
    async with node(full_report, "secret") as url:
        assert await fetched(url, "secret") == full_report
        with pytest.raises(OperatorError, match="wants a token: give --http-token"):
            await fetched(url)
        with pytest.raises(OperatorError, match="does not accept this token"):
            await fetched(url, "wrong")


def test_nobody_listens() -> None:
    with socket.socket() as reserved:  # bound, but it does not listen: the port refuses
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(OperatorError, match=r"no node answers at .* \(Connection refused\)"):
            fetch_status(f"http://127.0.0.1:{reserved.getsockname()[1]}", None)


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http:///status"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(OperatorError, match="is no URL of a node"):
        fetch_status(url, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://a b/", "http://x\n.example"])
def test_malformed_urls_are_operator_errors_too(url: str) -> None:
    with pytest.raises(OperatorError):
        fetch_status(url, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
async def test_something_else_answers(answer: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, speak, 0, host="127.0.0.1"))
        with pytest.raises(OperatorError) as caught:
            await fetched(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", "secret")
        assert "\n" not in str(caught.value)
        nursery.cancel_scope.cancel()


async def test_a_redirect_is_not_followed_so_that_the_token_stays_here() -> None:
    heard = []

    async def speak(stream: trio.SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive_some())
            await stream.send_all(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, speak, 0, host="127.0.0.1"))
        with pytest.raises(OperatorError, match="answered HTTP 302"):
            await fetched(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", "secret")
        nursery.cancel_scope.cancel()
    assert len(heard) == 1


def addresses(home: Path, **keys: object) -> Path:
    (home / "addresses.json").write_bytes(msgspec.json.encode(keys))
    return home


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_home_tells_where_its_node_serves(tmp_path: Path) -> None:
    assert (
        url_of_home(addresses(tmp_path, libp2p=[], http="http://127.0.0.1:1", pid=os.getpid())) == "http://127.0.0.1:1"
    )


def test_homes_without_a_node_to_ask(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"no node runs in .* gossipnode start --home"):
        url_of_home(tmp_path)
    with pytest.raises(OperatorError, match="serves no status"):
        url_of_home(addresses(tmp_path, http=None, pid=os.getpid()))
    with pytest.raises(OperatorError, match="is not running"):
        url_of_home(addresses(tmp_path, http="http://127.0.0.1:1", pid=gone()))
    (tmp_path / "addresses.json").write_text("{")
    with pytest.raises(OperatorError, match="damaged"):
        url_of_home(tmp_path)


# -- the command ---------------------------------------------------------------------------------------------------


async def run(command: Callable[[], int | None]) -> int | None:
    return await trio.to_thread.run_sync(command)


async def test_the_command_prints_json(full_report: Status, capsys: pytest.CaptureFixture[str]) -> None:
    async with node(full_report) as url:
        assert await run(lambda: status_command(url, None, as_json=True, watch=False)) == 0
    assert decode(capsys.readouterr().out.encode()) == full_report


async def test_the_command_draws(
    full_report: Status, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    async with node(full_report, "secret") as url:
        home = addresses(tmp_path, http=url, pid=os.getpid())
        assert await run(lambda: status_command(None, home, as_json=False, watch=False)) == 0
    assert "96.34 %" in capsys.readouterr().out


def test_the_command_fails_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for home in (tmp_path, None):
        assert status_command(None, home, as_json=False, watch=False) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert captured.err.startswith("error: ")


def stop_after(frames: int) -> Callable[[float], None]:
    """Stands in for time.sleep: Ctrl-C at the last frame."""
    left = [frames]

    def sleep(seconds: float) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return sleep


async def test_watching_redraws_until_interrupted(full_report: Status, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def snapshot() -> Status:
        asked.append(True)
        return full_report

    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_status, snapshot, "127.0.0.1:0", None)
        await run(lambda: show_status(url, None, as_json=False, watch=True, sleep=stop_after(3)))
        assert len(asked) == 3
        capsys.readouterr()
        await run(lambda: show_status(url, None, as_json=True, watch=True, sleep=stop_after(2)))
        nursery.cancel_scope.cancel()
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["progress"]["round"] for line in lines] == [31, 31]


# -- drawing -------------------------------------------------------------------------------------------------------


def test_the_drawing_holds_what_matters(full_report: Status) -> None:
    text = plain(full_report)
    for words in (
        "demo",
        "training",
        "96.34 %",
        "1 linked, 2 of 3 candidates",
        "quarantined",
        "one peer floods",
        "1.5 MB",
    ):
        assert words in text


def test_the_drawing_of_a_one_byte_run_tells_of_its_chain(chain_report: Status) -> None:
    text = plain(chain_report)
    for words in ("64 of 100", "8 members, this node is a member", "1600 sent, 230 bytes on the wire each", "1 left"):
        assert words in text
    assert "epsilon 1.25 spent" in text
    assert "step" in text
    chain = msgspec.structs.replace(chain_report.chain, final=False, dormant=True)
    text = plain(msgspec.structs.replace(chain_report, chain=chain))
    assert "not final" in text
    assert "this node is dormant" in text


def test_a_newborn_node_can_be_drawn(newborn_report: Status) -> None:
    assert "no manifest yet" in plain(newborn_report)


def test_text_of_peers_is_neither_markup_nor_terminal_control(full_report: Status) -> None:
    evil = msgspec.structs.replace(full_report.offences[0], detail="\x1b]0;owned\x07[blink]x[/blink]\u202e")
    text = drawn(msgspec.structs.replace(full_report, offences=[evil]))
    assert "\x1b]0;" not in text
    assert "\u202e" not in text
    assert "[blink]x[/blink]" in text


def test_it_fits_the_terminal_and_is_short(full_report: Status) -> None:
    many = msgspec.structs.replace(full_report, peers=full_report.peers * 500)
    lines = plain(many, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60
    assert "and 980 more" in plain(many)


@pytest.mark.parametrize(
    ("values", "bars"), [([], ""), ([0.5], BARS[0]), ([0, 1], BARS[0] + BARS[-1]), ([1, 1, 1], BARS[0] * 3)]
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars
    assert len(sparkline([*values, *range(1000)])) == SPARK_CHARS


def test_units() -> None:
    assert [size(n) for n in (0, 999, 1500, 2.5e6, 1e9, 1e12, 1e16)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "1.0 GB",
        "1.0 TB",
        "10000.0 TB",
    ]
    assert [span(s) for s in (0, 119, 120, 7200, 172_800)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]


def test_a_gossip_run_shows_ages_and_who_is_slow(gossip_report: Status) -> None:
    text = drawn(gossip_report)
    assert "30 trainings, median 30" in text
    assert "120 models in 28 merges, 1 refused" in text
    assert "4.5 s slow" in text
