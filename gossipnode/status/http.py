"""The status server: hypercorn's trio connections inside our own nursery, with limits that hypercorn lacks.

It decides where to listen and how much a client may cost us: CONNECTIONS at once, CONNECTION_S each, SEND_S without
progress. hypercorn shields its sends from cancellation, so without the last a client that never reads could keep the
daemon from stopping. Invariants: a bind that others can reach has a token; whatever a client sends, nothing but our own
cancellation leaves `serve_status`; it stops within GRACE_S.

Importing this costs about 0.1 s and 10 MB (measured: Starlette 4 MB, hypercorn 4 MB, prometheus-client 1 MB), so the
daemon imports it only when the status server is on.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from gossipnode.errors import OperatorError, reason
from gossipnode.status.app import LOOPBACK_NAMES, build_app
from gossipnode.status.report import Snapshot

log = logging.getLogger(__name__)

CONNECTIONS: Final = 64  # at once: a dashboard, a scraper, and room; each costs about 50 kB
CONNECTION_S: Final = 60.0  # a connection's whole life: whoever wants more connects anew
SEND_S: Final = 10.0  # for one write: a client that does not read is cut off
GRACE_S: Final = 0.3  # on shutdown, for answers on their way
REQUEST_HEAD_BYTES: Final = 16 * 1024  # request line and headers; no route reads a body


class Started(Protocol):
    """trio.TaskStatus[str], which the stubs that libp2p brings along do not know."""

    def started(self, value: str, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Bind:
    """Where to listen. `host` is an address, never a name to look up."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def url(self, port: int) -> str:
        return f"http://[{self.host}]:{port}" if ":" in self.host else f"http://{self.host}:{port}"


def parse_bind(text: str) -> Bind:
    """`127.0.0.1:8642`, `[::1]:0`, `localhost:8642`. Raises OperatorError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(port)
    except ValueError:
        raise OperatorError(f"--http wants ADDRESS:PORT, such as 127.0.0.1:8642, not {text!r}") from None
    return Bind(str(address), int(port))


def checked(bind: Bind, token: str | None) -> None:
    if not bind.loopback and not token:
        raise OperatorError(
            f"--http {bind.host} lets other machines read this node: give --http-token too, or bind to 127.0.0.1"
        )
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise OperatorError("--http-token wants printable ASCII without spaces: it travels in an HTTP header")


async def listen(bind: Bind) -> Sequence[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(bind.port, host=bind.host)
    except OSError as error:
        raise OperatorError(
            f"--http {bind.host}:{bind.port} cannot be bound ({reason(error)}): name another port, or 0"
        ) from None


def quiet_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log  # an exception in our own pages; clients' faults hypercorn does not log
    config.include_server_header = False
    config.h11_max_incomplete_size = REQUEST_HEAD_BYTES
    config.h2_max_header_list_size = REQUEST_HEAD_BYTES
    config.h2_max_concurrent_streams = 4
    config.read_timeout = int(CONNECTION_S)
    return config


class Client:
    """A client's stream as hypercorn sees it, but every write ends: sent, or cut off."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(SEND_S) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")


class StatusServer:
    """The connections being served. Shielded from cancellation, so that shutdown can let answers out; see `stop`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # hypercorn and Starlette type ASGI messages differently
        self._config = quiet_config()
        self._context = WorkerContext(max_requests=None)
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        self._drained = trio.Event()  # the last connection of a stopping server is gone

    async def handle(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= CONNECTIONS or self._stopping:
            stream.socket.close()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CONNECTION_S) as scope:
            self._open[stream] = scope
            try:
                await self._converse(stream)
            except Exception:
                # Whatever a client provokes in hypercorn must cost that client its connection, not the node its life.
                log.exception("status connection failed")
            finally:
                del self._open[stream]
                stream.socket.close()
                if self._stopping and not self._open:
                    self._drained.set()

    @property
    def _stopping(self) -> bool:
        return self._context.terminated.is_set()

    async def _converse(self, stream: trio.SocketStream) -> None:
        client: Any = Client(stream)  # hypercorn annotates an SSL stream, and takes any
        await TCPServer(self._app, self._config, self._context, ConnectionState({}), client).run()

    async def stop(self) -> None:
        """Idle connections close at once; busy ones have GRACE_S, then their sockets are closed under them."""
        await self._context.terminated.set()
        if self._open:
            with trio.CancelScope(deadline=trio.current_time() + GRACE_S, shield=True):
                await self._drained.wait()
        for stream, scope in list(self._open.items()):
            scope.cancel()
            stream.socket.close()  # wakes the shielded send that the scope cannot


async def serve_status(
    snapshot: Snapshot,
    bind: str,
    token: str | None,
    *,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Started with `nursery.start`, which returns the URL. Raises OperatorError before that."""
    where = parse_bind(bind)
    checked(where, token)
    hosts = LOOPBACK_NAMES | {where.host} if where.loopback else None
    server = StatusServer(build_app(snapshot, hosts=hosts, token=token or None))
    listeners = await listen(where)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as connections:
        task_status.started(where.url(port))
        try:
            await trio.serve_listeners(server.handle, listeners, handler_nursery=connections)
        finally:
            await server.stop()
