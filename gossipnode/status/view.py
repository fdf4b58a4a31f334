"""`gossipnode status`: asks a running node over HTTP and shows its report in the terminal.

It decides where to ask (a URL, or the `addresses.json` that a running node leaves in its home) and turns whatever goes
wrong on the way into one line that says what to do. Invariant: text that came from peers is shown as text, never as
terminal control or markup; the token goes to the named URL and nowhere else (no redirects, no proxies).
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import msgspec
from rich.console import Console, RenderableType

from gossipnode.errors import OperatorError, reason
from gossipnode.status.report import Status, decode, encode
from gossipnode.status.tables import render

TIMEOUT_S: Final = 5.0
REPORT_BYTES: Final = 64 * 2**20  # a full history of the largest committees is half of it
HISTORY_SHOWN: Final = 200  # rounds asked for when drawing; --json gets all
REFRESH_S: Final = 2.0
TOKEN_VARIABLE: Final = "GOSSIPNODE_HTTP_TOKEN"


class Addresses(msgspec.Struct, frozen=True):
    """`addresses.json`: where the node of a home can be reached while it runs."""

    libp2p: list[str] = []
    http: str | None = None  # None: started without a status server
    pid: int = 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The node never redirects; following one would carry the token elsewhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def url_of_home(home: Path) -> str:
    """Where the node of this home serves its status. Raises OperatorError."""
    path = home / "addresses.json"
    try:
        addresses = msgspec.json.decode(path.read_bytes(), type=Addresses)
    except FileNotFoundError:
        raise OperatorError(f"no node runs in {home}: start one with gossipnode start --home {home}") from None
    except OSError as error:
        raise OperatorError(f"{path} cannot be read ({reason(error)})") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} is damaged ({error}): restart the node") from None
    if addresses.pid > 0 and not _alive(addresses.pid):
        raise OperatorError(
            f"the node of {home} is not running (process {addresses.pid} has gone): "
            f"start it with gossipnode start --home {home}"
        )
    if addresses.http is None:
        raise OperatorError(f"the node of {home} serves no status: restart it with --http 127.0.0.1:0")
    return addresses.http


def _request(url: str, token: str | None, history: int | None) -> urllib.request.Request:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise OperatorError(f"{url!r} is no URL of a node: expected such as http://127.0.0.1:8642")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/status')}"
    query = "" if history is None else f"?history={history}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return urllib.request.Request(f"{base}/status{query}", headers=headers)  # the scheme was checked above


def _refusal(url: str, code: int, token: str | None) -> str:
    if code == 401 and token:
        return f"{url} does not accept this token: give the node's own --http-token"
    if code == 401:
        return f"{url} wants a token: give --http-token, or set {TOKEN_VARIABLE}"
    return f"{url} answered HTTP {code}: is it a gossipnode?"


def fetch_status(url: str, token: str | None, *, history: int | None = None) -> Status:
    """The node's report, with at most `history` rounds. Raises OperatorError, whatever goes wrong."""
    try:
        with _opener.open(_request(url, token, history), timeout=TIMEOUT_S) as answer:
            body = answer.read(REPORT_BYTES)
        return decode(body)
    except urllib.error.HTTPError as error:
        with error:
            raise OperatorError(_refusal(url, error.code, token)) from None
    except urllib.error.URLError as error:
        why = reason(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
        raise OperatorError(f"no node answers at {url} ({why}): is it running?") from None
    except (OSError, HTTPException, UnicodeError, ValueError) as error:
        raise OperatorError(f"{url} did not answer as a node does ({error})") from None


def _pretty(status: Status) -> str:
    return msgspec.json.format(encode(status), indent=2).decode()


def _watch(frame: Callable[[], RenderableType], console: Console, sleep: Callable[[float], None]) -> None:
    """Redraws until Ctrl-C. The first answer must succeed; after that a silent node is waited for."""
    from rich.live import Live  # only --watch needs it

    with Live(frame(), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            sleep(REFRESH_S)
            try:
                live.update(frame(), refresh=True)
            except OperatorError as error:
                live.update(f"{error}\nwaiting for it ...", refresh=True)


def _stream_json(url: str, token: str | None, sleep: Callable[[float], None]) -> None:
    """One line a report, for `jq` and the like."""
    while True:
        print(encode(fetch_status(url, token, history=1)).decode(), flush=True)
        sleep(REFRESH_S)


def show_status(
    url: str, token: str | None, *, as_json: bool, watch: bool, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Raises OperatorError; with `watch`, returns on Ctrl-C only."""
    console = Console()
    try:
        if as_json and watch:
            _stream_json(url, token, sleep)
        elif as_json:
            print(_pretty(fetch_status(url, token)))
        elif watch:
            _watch(lambda: render(fetch_status(url, token, history=HISTORY_SHOWN)), console, sleep)
        else:
            console.print(render(fetch_status(url, token, history=HISTORY_SHOWN)))
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # `gossipnode status | head`: the reader has what it wanted. Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def status_command(url: str | None, home: Path | None, as_json: bool, watch: bool, *, token: str | None = None) -> int:
    """The exit code: 0, or 2 after one line on stderr. `url` wins over `home`; TOKEN_VARIABLE may hold the token."""
    try:
        if url is None and home is None:
            raise OperatorError("name a node: gossipnode status URL, or --home DIR")
        where = url or url_of_home(home or Path())
        show_status(where, token or os.environ.get(TOKEN_VARIABLE), as_json=as_json, watch=watch)
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
