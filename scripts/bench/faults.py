"""What is done to the members of a soak, drawn from one seed: who, what and for how long.

Each kind is one short conversation that ends when the member has been started, thawed or left alone again; whether it
then comes back is for the soak to see. The draw depends on the seed and on who is free only.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from bench import usage
from bench.member import STOP_S, Member

AWAY_S: Final = (0.0, 10.0)  # between a death and the restart
FROZEN_S: Final = (1.0, 15.0)
CHECKPOINT_S: Final = 5.0  # how long a write of a checkpoint is lain in wait for

Peers = Callable[[Member], Sequence[str]]  # what a member is told of the others when it is started again
Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Draw:
    kind: str
    victims: tuple[Member, ...]
    seconds: tuple[float, ...]  # away or frozen, one for each victim


def draw(rng: random.Random, free: Sequence[Member], room: int) -> Draw | None:
    """None if nobody more may be down now."""
    kinds = [kind for kind in KINDS if (2 if kind == "kill two" else 1) <= min(room, len(free))]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    victims = tuple(rng.sample(list(free), 2 if kind == "kill two" else 1))
    bounds = FROZEN_S if kind == "freeze" else AWAY_S
    return Draw(kind, victims, tuple(rng.uniform(*bounds) for _ in victims))


async def _kill(member: Member, away_s: float, peers: Peers, complain: Complain) -> None:
    await member.kill()
    await trio.sleep(away_s)
    member.start(peers(member))


async def _kill_at_checkpoint(member: Member, away_s: float, peers: Peers, complain: Complain) -> None:
    """As soon as the temporary file of one is there; or, if none is seen, at any other moment."""
    below = usage.tree(member.pid)[1:]
    await trio.to_thread.run_sync(_lie_in_wait, member.home / "state", member.pid)
    await member.kill(below)
    await trio.sleep(away_s)
    member.start(peers(member))


def _lie_in_wait(state: Path, pid: int) -> None:
    deadline = time.monotonic() + CHECKPOINT_S
    while time.monotonic() < deadline:
        if any(name.endswith(".tmp") for name in os.listdir(state)):
            return os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)  # a write with its flush takes several of these
    return None


async def _freeze(member: Member, frozen_s: float, peers: Peers, complain: Complain) -> None:
    member.signal(signal.SIGSTOP, tree=True)
    try:
        await trio.sleep(frozen_s)
    finally:
        member.signal(signal.SIGCONT, tree=True)


async def _kill_worker(member: Member, away_s: float, peers: Peers, complain: Complain) -> None:
    for pid in usage.tree(member.pid)[1:]:
        os.kill(pid, signal.SIGKILL)
    await trio.sleep(0.5)  # until the daemon has seen it


async def _goodbye(member: Member, away_s: float, peers: Peers, complain: Complain) -> None:
    member.signal(signal.SIGTERM)
    code = await member.ended(STOP_S)
    if code is None:
        complain(f"{member.name} did not stop within {STOP_S:.0f} s of SIGTERM")
    elif code:
        complain(f"{member.name} ended with exit code {code} when told to stop")
    member.destroy()
    await trio.sleep(away_s)
    member.start(peers(member))


Conversation = Callable[[Member, float, Peers, Complain], Awaitable[None]]
KINDS: Final[Mapping[str, Conversation]] = {
    "kill": _kill,
    "freeze": _freeze,
    "kill worker": _kill_worker,
    "goodbye": _goodbye,
    "kill two": _kill,
    "kill at checkpoint": _kill_at_checkpoint,
}
