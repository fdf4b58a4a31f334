"""The pages themselves: a Starlette app over a `Snapshot`, and the guard in front of it.

The guard decides who is answered. Bound to loopback, a request must name a loopback host, else a web page whose name
was rebound to 127.0.0.1 could read the node. With a token, every request that shows data must carry it; `/healthz` and
the empty page do not need it, because they show none. Invariant: reads only; no route changes anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gossipnode.status.metrics import exposition
from gossipnode.status.report import HISTORY_ROUNDS, Snapshot, Status, encode

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS: Final = frozenset({"/", "/healthz"})  # shown to anyone: they hold nothing of the node
PAGE: Final = resources.files("gossipnode.status").joinpath("page.html").read_text("utf-8")


def _hashes(tag: str) -> str:
    """The page's own inline blocks are all that a browser may run: whatever peers put into a name stays text."""
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in blocks)


SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def unready(status: Status) -> str | None:
    """Why the node is not ready yet, or None."""
    if status.run is None:
        return "no manifest yet: no peer has answered with one"
    if not status.node.joined:
        return "not joined yet"
    return None


def trimmed(status: Status, history: str | None) -> Status:
    """With only the newest `history` rounds. Raises ValueError for what is no such number."""
    if history is None:
        return status
    rounds = int(history)
    if not 0 <= rounds <= HISTORY_ROUNDS:
        raise ValueError(history)
    return msgspec.structs.replace(status, history=status.history[-rounds:] if rounds else [])


class Pages:
    """One method a route; each takes a fresh snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    async def page(self, request: Request) -> Response:
        return Response(PAGE, media_type="text/html")

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        why = unready(self._snapshot())
        return PlainTextResponse(f"{why or 'ready'}\n", status_code=503 if why else 200)

    async def status(self, request: Request) -> Response:
        try:
            status = trimmed(self._snapshot(), request.query_params.get("history"))
        except ValueError:
            return PlainTextResponse(f"history wants a number from 0 to {HISTORY_ROUNDS}\n", status_code=400)
        return Response(encode(status), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        return Response(exposition(self._snapshot), media_type=CONTENT_TYPE_LATEST)


def host_of(header: str) -> str:
    """`localhost:8642` -> `localhost`, `[::1]:8642` -> `::1`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class Guard:
    """Turns away whoever may not look, and seals every answer with SECURITY_HEADERS."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = hosts  # None: any name will do, the token protects
        self._bearer = f"Bearer {token}".encode() if token else None

    def refusal(self, path: str, headers: Headers) -> Response | None:
        if self._hosts is not None and host_of(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this node answers to localhost only\n", status_code=421)
        if self._bearer is None or path in OPEN_PATHS:
            return None
        if hmac.compare_digest(headers.get("authorization", "").encode(), self._bearer):
            return None
        challenge = {"WWW-Authenticate": 'Bearer realm="gossipnode"'}
        return PlainTextResponse("a token is needed (--http-token)\n", status_code=401, headers=challenge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks websockets
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        answer = self.refusal(scope["path"], Headers(scope=scope)) or self._app
        await answer(scope, receive, sealed)


def build_app(
    snapshot: Snapshot, *, hosts: frozenset[str] | None = LOOPBACK_NAMES, token: str | None = None
) -> ASGIApp:
    pages = Pages(snapshot)
    routes = [
        Route("/", pages.page),
        Route("/healthz", pages.healthz),
        Route("/readyz", pages.readyz),
        Route("/status", pages.status),
        Route("/metrics", pages.metrics),
    ]
    return Guard(Starlette(routes=routes), hosts=hosts, token=token)
