"""One worker process from its start to its end: calls and answers over its pipes, interrupts, and its last words.

A call that is cancelled interrupts the worker; if it does not stop within `grace_s` it is killed. What the worker
writes to stderr goes to the log, line by line. Invariant: every call has an outcome once the process has ended.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import msgspec
import trio

from gossipnode.compute import calls
from gossipnode.compute.calls import Ask, Call, Failed, Interrupt, Reply
from protocols.blobs import StoreFull
from protocols.learner import LearnerError
from verify.digest import Digest, short

_log = logging.getLogger(__name__)

Adopt = Callable[[Digest], None]  # FileBlobs.adopt: count a file that the worker wrote. Raises KeyError, StoreFull

DRAIN_S = 0.5  # for a dead worker's last words, if a process that it started still holds its pipes
LINE_BYTES = 4096  # of stderr; what is longer is logged in pieces


@dataclass(slots=True)
class _Pending:
    """A call under way; `outcome` is there once `done` is set."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: Reply | Exception | None = None


class Child:
    """One worker process from its start to its end."""

    def __init__(self, process: trio.Process, adopt: Adopt) -> None:
        self.process = process
        self.ended = trio.Event()
        self._adopt = adopt
        self._numbers = count()
        self._pending: dict[int, _Pending] = {}
        self._sending = trio.Lock()  # calls of both lanes and interrupts share the pipe
        self._last_words = ""
        self._verdict = ""  # why we killed it, if we did

    async def attend(self) -> None:
        """Until it has ended; if cancelled, that is at once."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_replies)
                nursery.start_soon(self._hear_words)
                await self.process.wait()
                nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
        finally:
            self.process.kill()
            with trio.CancelScope(shield=True):
                await self.process.wait()
            self._fail_all()

    async def call(self, ask: Ask, grace_s: float) -> Reply:
        """Raises what the worker answered with, LearnerError if it died, or Cancelled once it has stopped."""
        number = next(self._numbers)
        pending = self._pending[number] = _Pending()
        try:
            await self._send(Call(number, ask))
            await pending.done.wait()
        except trio.Cancelled:
            await self._interrupt(number, pending, grace_s)
            raise
        finally:
            self._pending.pop(number, None)
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        assert pending.outcome is not None
        return pending.outcome

    async def close(self) -> None:
        """Without its pipe it ends by itself; `attend` sees to the rest."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.move_on_after(DRAIN_S):
            await self.ended.wait()

    async def kill(self) -> None:
        self.process.kill()
        with trio.CancelScope(shield=True):
            await self.ended.wait()

    async def _send(self, call: Call) -> None:
        assert self.process.stdin is not None
        with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._sending:
                await self.process.stdin.send_all(calls.framed(call))  # broken: `attend` is about to fail the call
        if self.ended.is_set():
            raise LearnerError(self._epitaph())

    async def _interrupt(self, number: int, pending: _Pending, grace_s: float) -> None:
        with trio.CancelScope(shield=True):
            with contextlib.suppress(LearnerError):  # it died meanwhile
                await self._send(Call(number, Interrupt()))
            with trio.move_on_after(grace_s):
                await pending.done.wait()
                return
            self._verdict = f"was killed because it did not stop within {grace_s:g} s"
            if grace_s:
                _log.warning("the worker %s", self._verdict)
            await self.kill()

    async def _hear_replies(self) -> None:
        assert self.process.stdout is not None
        decoder = msgspec.msgpack.Decoder(Reply)
        buffer = bytearray()
        async for data in self.process.stdout:
            buffer += data
            while (end := calls.PREFIX_BYTES + int.from_bytes(buffer[: calls.PREFIX_BYTES], "little")) <= len(buffer):
                self._heard(decoder.decode(buffer[calls.PREFIX_BYTES : end]))
                del buffer[:end]

    def _heard(self, reply: Reply) -> None:
        outcome: Reply | Exception = reply
        if isinstance(reply.answer, Failed):
            outcome = calls.FAILURES[reply.answer.kind](reply.answer.line)
        elif reply.stored:
            outcome = self._adopted(reply)
        if pending := self._pending.get(reply.number):
            pending.outcome = outcome
            pending.done.set()

    def _adopted(self, reply: Reply) -> Reply | Exception:
        try:
            self._adopt(Digest(reply.stored))
        except StoreFull as error:
            return error
        except KeyError:
            return LearnerError(
                f"model {short(reply.stored)} was evicted before it could be used: the store is too small"
            )
        return reply

    async def _hear_words(self) -> None:
        assert self.process.stderr is not None
        buffer = b""
        async for data in self.process.stderr:
            *lines, buffer = (buffer + data).split(b"\n")
            if len(buffer) > LINE_BYTES:
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                self._word(line)
        self._word(buffer)

    def _word(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._last_words = text.strip()[:200]
            _log.info("%s", text)

    def _fail_all(self) -> None:
        self.ended.set()
        for pending in self._pending.values():
            if not pending.done.is_set():
                pending.outcome = LearnerError(self._epitaph())
                pending.done.set()

    def _epitaph(self) -> str:
        words = f"; its last line: {self._last_words}" if self._last_words and not self._verdict else ""
        return f"the worker process {self._verdict or _how_it_ended(self.process.returncode)}{words}"


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was ended by {name}" + (" (so the kernel does when memory runs out)" if name == "SIGKILL" else "")
