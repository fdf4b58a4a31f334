"""The watch over a door: whatever comes, it says yes, or no in the words it has declared; soon, and in little memory.

Anything else is Broken: another exception, more than SECONDS of CPU, or an allocation beyond what the door may take.
The corpus is a folder of files, one an input, named by digest; every run replays all of them.
"""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verify.digest import digest_of

SECONDS: Final = 1.0
ALLOCATION_BYTES: Final = 16 * 1024 * 1024
CORPUS: Final = Path(__file__).parents[2] / "tests" / "fuzz" / "corpus"


class Broken(Exception):
    """A door did what it may not."""


@dataclass(frozen=True)
class Door:
    """`enter` raises one of `refusals`, or returns; AssertionError if what it let in is not what it should be."""

    name: str
    examples: Sequence[bytes]  # valid ones
    enter: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    tokens: Sequence[bytes] = ()
    cost: float = 1.0  # of one input, in those of `wire`: how many fewer of them a counted run makes


@contextmanager
def watching() -> Iterator[None]:
    """Allocations are counted only within."""
    tracemalloc.start(1)
    try:
        yield
    finally:
        tracemalloc.stop()


def enter(door: Door, data: bytes) -> str:
    """What the door said, without figures and names. Raises Broken."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    began = time.thread_time()
    said = _said(door, data)
    took_s = time.thread_time() - began
    peak = tracemalloc.get_traced_memory()[1] - before
    if took_s > SECONDS:
        raise Broken(f"{door.name} took {took_s:.1f} s over {len(data)} bytes")
    if peak > ALLOCATION_BYTES:
        raise Broken(f"{door.name} allocated {peak} bytes over {len(data)} bytes")
    return said


def _said(door: Door, data: bytes) -> str:
    try:
        door.enter(data)
    except door.refusals as refusal:
        return f"{type(refusal).__name__} {_gist(str(refusal))}"
    except Exception as error:  # what a fuzzer looks for
        raise Broken(f"{door.name} raised {type(error).__name__}: {error}"[:300]) from error
    return "accepted"


def _gist(text: str) -> str:
    """Without what was quoted, figures and names of files."""
    return re.sub(r"[^a-zA-Z ]+", "#", re.sub(r"'.*'|\"[^\"]*\"|\S*/\S*", "", text, flags=re.DOTALL))[:60]


def corpus(door: str) -> dict[str, bytes]:
    """By file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / door).glob("*"))}


def save(door: str, data: bytes, kind: str) -> Path:
    """`kind`: `broken` or `said`."""
    folder = CORPUS / door
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{digest_of(data).hex()[:16]}"
    path.write_bytes(data)
    return path
