"""Any file of a home is torn or edited while no node runs there: the next start goes on, or ends in one clear line.

What starts is the daemon itself, from the command's options to its goodbye; only libp2p, the worker and HTTP are
replaced: the network is the simulated one, a model is one number, and whoever would serve the status ends the node.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gossipnode import daemon
from gossipnode.compute.process import TaskInfo
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.identity import Identity, load_identity
from gossipnode.journal import Journal
from gossipnode.net.simulated import simulate_network
from gossipnode.node import State
from gossipnode.start import start_node
from gossipnode.status.report import Status
from gossipnode.store import FileBlobs
from protocols.blobs import Blobs
from protocols.learner import Evaluation, LearnerError, Trained
from protocols.messages import Aggregate
from protocols.transport import Transport
from sampling.peers import Round
from verify.digest import Digest, digest_of

MODEL = struct.Struct("<d")
OPTIONS: dict[str, object] = dict.fromkeys(("protocol", "manifest", "peers", "roles", "data", "psk", "task"), None)
OPTIONS |= {"rounds": None, "settings": ()}
BEGIN = OPTIONS | {
    "task": "digits",
    "settings": ("start_peers=1", "timing.round_floor_s=0.05", "timing.round_ceiling_s=0.1", "audit.fraction=0"),
}
ROUNDS = 4  # of the first life


class Numbers:
    """A learner whose models are one number each."""

    pid = None

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def blob_bytes(self, protocol: str) -> int:
        return MODEL.size

    def spent(self) -> float | None:
        return None

    async def describe(self) -> TaskInfo:
        return TaskInfo(1, MODEL.size, 1, await self.initial(), "", 0)

    async def initial(self) -> Digest:
        return await self._blobs.put(MODEL.pack(0.0))

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        (value,) = MODEL.unpack(await self._value(parent))
        return Trained(await self._blobs.put(MODEL.pack(value + 1)), 1, 1, 0.5, 0.1)

    async def merge(self, models: Sequence[Digest], weights: Sequence[int]) -> Digest:
        return await self._blobs.put(await self._value(models[0]))

    async def check(self, model: Digest) -> float:
        (value,) = MODEL.unpack(await self._value(model))
        return abs(float(value))

    async def evaluate(self, model: Digest) -> Evaluation:
        return Evaluation(model, 0.1, 0.9, 1)

    async def _value(self, model: Digest) -> bytes:
        try:
            return await self._blobs.get(model)
        except KeyError as error:
            raise LearnerError("the model is gone") from error


@dataclass
class Stage:
    """How far a life is to come, and what it showed last."""

    enough: Callable[[Status], bool]
    status: Status | None = None
    log: list[logging.LogRecord] = field(default_factory=list)

    @asynccontextmanager
    async def network(self, seed: bytes, *_: object, on_fault: object, **__: object) -> AsyncIterator[Transport]:
        async with simulate_network() as network, network.join(Identity.of(_key(seed)).peer) as transport:
            yield transport

    @asynccontextmanager
    async def worker(self, config: object, adopt: object) -> AsyncIterator[Numbers]:
        assert self.blobs is not None
        yield Numbers(self.blobs)

    blobs: FileBlobs | None = None

    def store(self, directory: Path, max_bytes: int) -> FileBlobs:
        self.blobs = FileBlobs(directory, max_bytes)
        return self.blobs

    async def serve(self, status: Callable[[], Status], *_: object, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("http://127.0.0.1:1")
        with trio.move_on_after(5.0):
            while not self.enough(status()):  # noqa: ASYNC110 - as an operator would look
                await trio.sleep(0.002)
        self.status = status()
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()


def _key(seed: bytes) -> object:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


class Listener(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def _nothing(_: object) -> None: ...


class OncePerRound(Journal[State]):
    """Skips saves of what else has changed, so that the two copies in the journal are of two rounds."""

    held: Aggregate | None = None

    async def save(self, state: State) -> None:
        if state.held != self.held:
            await super().save(state)
            self.held = state.held


def life(home: Path, options: dict[str, object], enough: Callable[[Status], bool], *, killed: bool = False) -> Stage:
    """One, from its start to its goodbye, or until it is killed. Raises OperatorError."""
    stage = Stage(enough)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "open_libp2p", stage.network)
        patch.setattr(daemon, "open_worker", stage.worker)
        patch.setattr(daemon, "serve_status", stage.serve)
        patch.setattr(daemon, "FileBlobs", stage.store)
        if killed:
            patch.setattr("gossipnode.node.Node.leave", _nothing)
            patch.setattr(daemon, "Journal", OncePerRound)
        patch.setattr("gossipnode.start.set_up_log", lambda *_, **__: None)
        root, listener = logging.getLogger(), Listener(stage.log)
        root.addHandler(listener)
        try:
            start_node(home, options)
        finally:
            root.removeHandler(listener)
            if stage.blobs is not None:
                stage.blobs.close()
    return stage


def joined(status: Status) -> bool:
    return status.node.joined


def kept(status: Status) -> int:
    return status.store.checkpoint_round or 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a node was killed: every kind of file is there."""
    home = tmp_path_factory.mktemp("sound") / "home"
    stage = life(home, BEGIN, lambda status: kept(status) >= ROUNDS, killed=True)
    assert stage.status is not None
    assert stage.status.progress.round >= ROUNDS
    (home / "partial" / digest_of(b"unfinished").hex()).write_bytes(b"unfin")
    (home / "addresses.json").write_bytes(b'{"libp2p":["/memory/x"],"http":"http://127.0.0.1:1","pid":1}')
    (home / "config.toml").write_bytes(
        b'listen = "/ip4/127.0.0.1/tcp/0"\nhttp = "127.0.0.1:0"\nstore_max_bytes = 1073741824\n'
    )
    return home


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    serial = iter(range(10**6))

    def make() -> Path:
        return Path(shutil.copytree(sound, tmp_path / str(next(serial))))

    yield make
    shutil.rmtree(tmp_path)


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Harm:
    """`where`: how far into which of the home's files, as fractions."""

    kind: str
    file: float
    where: float
    bit: int

    def do(self, home: Path) -> str:
        name = files(home)[int(self.file * len(files(home)))]
        path = home / name
        data = bytearray(path.read_bytes())
        at = int(self.where * len(data))
        if self.kind == "cut":
            del data[at:]
        elif self.kind == "flip" and data:
            data[at] ^= 1 << self.bit
        elif self.kind == "zeros":
            data[at:] = bytes(len(data) - at)
        elif self.kind == "more":
            data += os.urandom(1) * 100
        path.write_bytes(bytes(data))
        if self.kind == "gone":
            path.unlink()
        return name


fractions = st.floats(0.0, 1.0, exclude_max=True)
harms = st.builds(
    Harm,
    kind=st.sampled_from(["cut", "flip", "zeros", "more", "gone"]),
    file=fractions,
    where=fractions,
    bit=st.integers(0, 7),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harm=harms)
@example(harm=Harm("gone", 0.0, 0.0, 0))
def test_whatever_is_damaged_the_start_goes_on_or_says_why(copy: Callable[[], Path], harm: Harm) -> None:
    home = copy()
    before = load_identity(Home(home).identity).peer
    name = harm.do(home)
    kept = (home / "identity.pem").read_bytes() if (home / "identity.pem").exists() else None
    try:
        stage = life(home, OPTIONS, joined)
    except OperatorError as error:
        line = str(error)
        assert Path(name).name in line or "start_peers" in line or "--task" in line or "--peers" in line, (name, line)
        assert "\n" not in line
    else:
        assert stage.status is not None
        assert stage.status.node.joined, (name, stage.status)
        assert all(record.exc_info is None for record in stage.log), name
        if name != "identity.pem" or harm.kind != "gone":  # removed: its operator wants another
            assert stage.status.node.peer == before
    if kept is not None:
        assert (home / "identity.pem").read_bytes() == kept


@pytest.mark.parametrize("kind", ["cut", "flip", "zeros"])
def test_the_state_before_the_damaged_one_is_used(copy: Callable[[], Path], kind: str) -> None:
    home = copy()
    newest = max((home / "state").glob("state.*"))
    before, _ = _states(home)
    data = newest.read_bytes()
    newest.write_bytes({"cut": data[:-5], "flip": data[:-1] + bytes([data[-1] ^ 1]), "zeros": bytes(len(data))}[kind])
    stage = life(home, OPTIONS, joined)
    assert [newest.name in record.getMessage() for record in stage.log].count(True) == 1  # named, in one line
    assert stage.status is not None
    assert before.held is not None
    assert stage.status.progress.round >= before.held.round
    assert newest.with_name(newest.name + ".bad").exists()
    assert _states(home)[-1].counter > before.counter


def _states(home: Path) -> list[State]:
    journal = Journal(home / "state", State)
    return [journal._decode(number, path.read_bytes()) for number, path in sorted(journal._copies())]


def test_without_the_newest_model_it_goes_on_from_the_one_before(copy: Callable[[], Path]) -> None:
    home = copy()
    before, last = _states(home)
    assert before.held is not None
    assert last.held is not None
    assert before.held != last.held
    FileBlobs(home, 10**6).path(last.held.model).write_bytes(b"\xff" * MODEL.size)
    stage = life(home, OPTIONS, lambda status: bool(status.history))
    assert stage.status is not None
    assert stage.status.history[0].round == before.held.round + 1  # nobody else could have given it the last one
    assert any("damaged" in record.getMessage() for record in stage.log)
    assert _states(home)[-1].counter > last.counter
