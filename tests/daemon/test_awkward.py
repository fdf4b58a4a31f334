"""What goes wrong around a real node: no peer, foreign peers, a task that fails, lies. Told, and lived through."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from gossipnode.home import Home
from gossipnode.identity import load_identity
from gossipnode.net.libp2p.transport import open_libp2p
from gossipnode.start import init_home
from gossipnode.status.report import Status
from protocols import wire
from protocols.messages import AskManifest
from protocols.transport import TransportError
from sampling.peers import PeerId

Start = Callable[..., Any]  # the fixture of conftest.py
T = TypeVar("T")
OWN_TASK = "slow_task:TASK"


def round_of(status: Status) -> int:
    return status.progress.round


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


def test_it_waits_for_its_peers_and_leaves_foreign_runs_alone(start: Start, tmp_path: Path) -> None:
    port = free_port()
    init_home(tmp_path / "a")
    name = load_identity(Home(tmp_path / "a").identity).peer
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{name}"
    second = start("b", "--peers", address, "--task", OWN_TASK, "--shard", "1/2")
    second.says(f"no manifest from {address}: ")
    assert second.get("/healthz")[0] == 200
    assert second.get("/readyz")[0] == 503
    waiting = second.status()
    assert (waiting.run, waiting.progress.state) == (None, "waiting")
    assert waiting.warnings == ["no peer of --peers has answered with a manifest yet"]

    first = start("a", "--task", OWN_TASK, "--shard", "0/2", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
    joined = second.shows(lambda status: status.node.joined)
    assert joined.run.run_id == first.shows(lambda status: status.run is not None).run.run_id
    assert joined.warnings == []
    assert second.log.count("no manifest from") <= 2  # refused, then perhaps asked while it still loaded its task

    # Another run's node that is pointed here: told so in one line on its side, and left alone.
    foreign = start("c", "--task", "digits", "--rounds", "3", "--set", "start_peers=1")
    foreign.says("began run")
    assert foreign.ends(signal.SIGINT)[0] == 0
    again = start("c", "--peers", first.address, "--peers", second.address)
    line = again.says("do not belong together")
    assert f"this is run {joined.run.run_id[:12]}" in line
    assert again.status().peers == []
    me = again.status().node.peer
    for node in (first, second):
        assert me not in {each.peer for each in node.status().peers}
        assert node.status().offences == []
    assert again.log.count("do not belong together") <= 2  # once for each of them
    assert "Traceback" not in first.log + second.log + again.log


def test_a_private_run_is_for_its_members(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "swarm.key"
    key.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{'5a' * 32}\n")
    key.chmod(0o600)
    names = [init_home(tmp_path / home).rsplit(maxsplit=1)[-1] for home in ("a", "b")]
    (tmp_path / "run.toml").write_text(
        f"task = 'digits'\nrounds = 3\nstart_peers = 2\n[admission]\nmode = 'allow'\nallow = {names}\n"
    )
    first = start("a", "--manifest", "run.toml", "--psk", str(key), "--shard", "0/2")
    options = ("--psk", str(key), "--shard", "1/2", "--peers", first.address)
    second, unnamed = start("b", *options), start("c", *options)
    keyless = start("d", "--peers", first.address)
    ends = [node.shows(lambda status: status.progress.state == "finished") for node in (first, second)]
    assert ends[0].progress.head == ends[1].progress.head
    assert {status.node.peer for status in ends} == set(names)
    unnamed.says("you are not on this run's allow-list")
    unnamed.shows(lambda status: "allow-list does not name this node" in "".join(status.warnings))
    keyless.says("no manifest from")
    assert keyless.status().run is None
    assert [len(node.status().peers) for node in (first, second)] == [1, 1]


@asynccontextmanager
async def vandal(victim: str) -> AsyncIterator[PeerId]:
    """A peer that says hello to nobody and sends frames that are none, until it is thrown out."""

    async def smash() -> None:
        while True:
            with suppress(TransportError):
                await transport.dial(victim)
                await transport.request(peer, wire.encode(AskManifest()) + b"and more", timeout_s=2)
            await trio.sleep(0.1)

    async with open_libp2p(bytes(31) + b"\1") as transport, trio.open_nursery() as nursery:
        peer = await transport.dial(victim)
        nursery.start_soon(smash)
        yield transport.me
        nursery.cancel_scope.cancel()


async def test_a_task_that_fails_and_a_peer_that_sends_garbage(start: Start, tmp_path: Path) -> None:
    mood = tmp_path / "mood"
    mood.write_text("raise")
    own = ("--task", OWN_TASK, "--data", str(mood), "--set", "timing.round_ceiling_s=1.0")
    node = await aside(start, "a", *own)
    failing = await aside(node.shows, lambda status: status.warnings)
    assert failing.warnings == ["the task fails: task 'slow_task:TASK' failed in loss(): ValueError: the batch is odd"]
    mood.write_text("nan")
    await aside(node.shows, lambda status: "the loss became nan" in "".join(status.warnings))
    mood.write_text("unmeasured")
    await aside(node.shows, lambda status: "the model cannot be evaluated: " in "".join(status.warnings))
    mood.write_text("")
    await aside(node.shows, lambda status: round_of(status) >= 2 and not status.warnings)

    async with vandal(node.address) as peer:
        await aside(node.says, f"{peer} is in quarantine")
        seen = await aside(node.status)
        assert {each.peer for each in seen.offences} == {peer}
        assert {"malformed-frame"} == seen.offence_counts.keys()
        await aside(node.shows, lambda status: round_of(status) > round_of(seen))  # it trains on

    assert (await aside(node.ends, signal.SIGTERM))[0] == 0


async def aside(work: Callable[..., T], *words: object) -> T:
    """The process is watched from a thread, so that our own peer can act meanwhile."""
    return await trio.to_thread.run_sync(partial(work, *words))
