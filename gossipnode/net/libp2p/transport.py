"""Opens a node's real transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from protocols.transport import Transport
from sampling.peers import PeerId

OnFault = Callable[[PeerId | None, str], None]


class ListenError(Exception):
    """No socket could be bound. Its text is one line for the operator."""


@asynccontextmanager
async def open_libp2p(
    identity_seed: bytes,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    *,
    psk: bytes | None = None,
    on_fault: OnFault | None = None,
) -> AsyncIterator[Transport]:
    """Open a transport."""
    raise NotImplementedError
    yield
