"""The swarms of `tests/protocols`, and strangers on the same network: peers with a key and a transport, but none of our
code, that say and serve whatever the attack wants."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from gossipnode.net.simulated import SimulatedTransport
from protocols import wire
from protocols.membership import TOPIC_CHARS
from protocols.messages import Ack, AnyMessage, Exchange, Exchanged, Hello, Ping, Pong, Registered, Welcome
from protocols.registration import sign_registration
from protocols.signatures import Signer
from protocols.transport import TransportError
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration
from verify.digest import Digest


def _load(name: str, path: Path) -> Any:  # noqa: ANN401  # a module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


_protocols = _load("tests_protocols_conftest", Path(__file__).parent.parent / "protocols" / "conftest.py")
make_swarm, links, court = _protocols.make_swarm, _protocols.links, _protocols.court


class Stranger:
    """On the simulated network. `says` answers what it is asked; by default as a polite peer that does no work."""

    def __init__(self, swarm: Any, signer: Signer, transport: SimulatedTransport) -> None:  # noqa: ANN401  # conftest's
        self.swarm = swarm
        self.signer = signer
        self.transport = transport
        self.peer = signer.peer
        self.asked: list[tuple[PeerId, AnyMessage]] = []
        self.blobs: dict[Digest, bytes] = {}
        self.says: Callable[[PeerId, AnyMessage], AnyMessage | None] = self.polite
        transport.serve(self._answer, self)

    async def _answer(self, sender: PeerId, frame: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        question = wire.decode(frame)
        self.asked.append((sender, question))
        answer = self.says(sender, question)
        if answer is None:
            await trio.sleep_forever()
        assert answer is not None
        return wire.encode(answer)

    def polite(self, sender: PeerId, question: AnyMessage) -> AnyMessage:
        match question:
            case Hello():
                return Welcome(self.swarm.run_id, question.round, question.seal, 0)
            case Ping():
                return Pong(question.round)
            case Exchange():
                return Exchanged(question.round, Delta(), question.have)
        return Ack()

    # -- blobs --------------------------------------------------------------------------------------------------------
    async def prove(self, digest: Digest) -> None:
        await trio.lowlevel.checkpoint()

    def size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        return self.blobs[digest][offset : offset + length]

    # -- what it does -------------------------------------------------------------------------------------------------
    def registration(self, counter: int = 1, **changes: Any) -> Registration:  # noqa: ANN401  # each its own type
        fields: dict[str, Any] = {
            "present": True,
            "roles": [Role.TRAINER],
            "round": Round(0),
            "addresses": self.transport.addresses(),
        }
        return sign_registration(self.signer, self.swarm.run_id, counter=counter, **fields | changes)

    async def meet(self, victim: PeerId) -> None:
        await self.say(victim, Hello(self.swarm.run_id, Round(0), 0, 0))

    async def join(self, *victims: PeerId) -> None:
        """Link to them and be in their views."""
        for victim in victims:
            await self.transport.dial(f"/memory/{self.swarm.network._ports.index(victim)}/p2p/{victim}")
            await self.meet(victim)
            await self.say(victim, Exchange(Round(0), Delta((self.registration(),)), 0))

    async def say(self, victim: PeerId, message: AnyMessage | bytes, timeout_s: float = 5.0) -> AnyMessage | None:
        """None if no answer comes."""
        frame = message if isinstance(message, bytes) else wire.encode(message)
        try:
            return wire.decode(await self.transport.request(victim, frame, timeout_s=timeout_s))
        except TransportError:
            return None

    async def shout(self, message: AnyMessage | bytes) -> None:
        frame = message if isinstance(message, bytes) else wire.encode(message)
        await self.transport.publish(f"/gossipnode/1/{self.swarm.run_id.hex()[:TOPIC_CHARS]}", frame)

    async def announce(self) -> None:
        await self.shout(Registered(self.registration()))


MakeStranger = Callable[..., Awaitable[Stranger]]


@pytest.fixture
async def make_stranger() -> AsyncIterator[MakeStranger]:
    """`await make_stranger(swarm, 0)`: the stranger of that number."""
    async with AsyncExitStack() as stack:

        async def make(swarm: Any, number: int = 0) -> Stranger:  # noqa: ANN401  # conftest's
            signer = Signer.from_seed(number.to_bytes(4, "big") * 7 + b"evil")
            transport = await stack.enter_async_context(swarm.network.join(signer.peer))
            return Stranger(swarm, signer, transport)

        yield make


async def founded(swarm: Any, count: int, **learner: object) -> Sequence[Any]:  # noqa: ANN401  # conftest's
    members: Sequence[Any] = await swarm.start(count, **learner)
    await swarm.see_everyone()
    return members


@pytest.fixture
def found() -> Any:  # noqa: ANN401  # a function of conftest's own types
    return founded
