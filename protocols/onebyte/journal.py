"""What a member of the chain must find again after a crash: its promises above all, then the blocks it held.

One append-only log. A promise is durable before anything that it covers is heard by anybody; what others signed may be
lost, they are asked again. At a new certified checkpoint the log is rewritten: a snapshot, and the blocks since.
Invariant: whatever prefix of the log is read back, the member never contradicts what it has published by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec import Struct

from protocols.chain.checkpoints import BadSnapshot, Promises, Snapshot, encode_snapshot, open_snapshot
from protocols.chain.messages import Block, Entry
from protocols.chain.rules import Rules
from protocols.chain.tree import Chain
from sampling.peers import PeerId

log = logging.getLogger(__name__)


class Log(Protocol):
    """Bytes that outlive the process: whole records in the order of appending, at most the last ones lost."""

    def records(self) -> Iterator[bytes]:
        """Read once, at the start."""

    async def append(self, record: bytes, *, durable: bool) -> None:
        """`durable`: it is on the disk, and all before it, when this returns. Raises OSError."""

    async def rewrite(self, records: Iterable[bytes]) -> None:
        """All of them in place of all there were, or none. Raises OSError."""


class BadJournal(Exception):
    """Not a journal of this run and version. One line for the operator."""


class Base(Struct, frozen=True, array_like=True, tag=1):
    """The log begins here: what was promised so far, and a snapshot as `encode_snapshot` writes it, if any."""

    promises: Promises
    departed: int | None
    snapshot: bytes = b""


class Mine(Struct, frozen=True, array_like=True, tag=2):
    """What I have signed, and promise by it. A block comes with its entries."""

    promises: Promises
    entries: tuple[Entry, ...]
    block: Block | None = None


class Held(Struct, frozen=True, array_like=True, tag=3):
    """A block that exists here, with its entries."""

    block: Block
    entries: tuple[Entry, ...]


class Departed(Struct, frozen=True, array_like=True, tag=4):
    """I have signed a Leave of this height: nothing above it until a newer Join of mine is in the chain."""

    height: int


Record = Base | Mine | Held | Departed


@dataclass
class Recalled:
    chain: Chain
    snapshot: Snapshot | None = None  # at which the chain begins
    promises: Promises = field(default_factory=Promises)
    departed: int | None = None


def recall(records: Iterable[bytes], run: bytes, rules: Rules, admits: Callable[[PeerId], bool]) -> Recalled:
    """Raises BadJournal."""
    found = Recalled(Chain(run, rules, admits))
    for data in records:
        try:
            record = msgspec.msgpack.decode(data, type=Record)
            if isinstance(record, Base) and record.snapshot:
                found.snapshot = open_snapshot(record.snapshot, rules, run)
                found.chain = Chain(run, rules, admits, found.snapshot)
        except (ValueError, BadSnapshot) as error:
            raise BadJournal(f"the journal of the chain is not of this run: {error}") from error
        _replay(record, found)
    return found


def signed_in(record: bytes) -> tuple[Entry, ...]:
    """The entry that its owner signed, if this record is of one."""
    found = msgspec.msgpack.decode(record, type=Record)
    return found.entries if isinstance(found, Mine) and found.block is None else ()


def _replay(record: Record, found: Recalled) -> None:
    match record:
        case Base(promises, departed, _):
            found.promises, found.departed = promises, departed
        case Mine(promises, entries, block):
            found.promises = promises
            _hear(found.chain, entries, block)
        case Held(block, entries):
            _hear(found.chain, entries, block)
        case Departed(height):
            found.departed = height


def _hear(chain: Chain, entries: Iterable[Entry], block: Block | None) -> None:
    """Its turn had come when it was written."""
    for entry in entries:
        chain.hear_entry(entry)
    if block is not None:
        chain.hear_block(block)
    for node in chain.take_connected():
        chain.ripen(node.digest)
    chain.take_faults()  # told before


class Journal:
    """Writes. A record that cannot be written is told, and what it promises is not published."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.error: str | None = None

    async def append(self, record: Record, *, durable: bool) -> bool:
        try:
            await self._log.append(msgspec.msgpack.encode(record), durable=durable)
        except OSError as error:
            return self._failed(error)
        self.error = None
        return True

    async def rewrite(self, promises: Promises, departed: int | None, snapshot: Snapshot, held: Iterable[Held]) -> bool:
        base = Base(promises, departed, encode_snapshot(snapshot))
        try:
            await self._log.rewrite([msgspec.msgpack.encode(base), *map(msgspec.msgpack.encode, held)])
        except OSError as error:
            return self._failed(error)
        self.error = None
        return True

    def _failed(self, error: OSError) -> bool:
        if self.error is None:
            log.error("the journal of the chain cannot be written, so nothing is signed: %s", error)
        self.error = str(error)
        return False
