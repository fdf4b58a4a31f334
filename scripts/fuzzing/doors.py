"""Every door by which bytes from outside come in: what is valid there, how it is entered, and how it may refuse.

Beside not crashing, each door is held to what it promises of what it lets in: a frame says the same when it is written
again, two views that have heard the same are equal, a manifest is in canonical form.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import trio

from fuzzing.streams import ask_door, http_door, reply_door
from fuzzing.watch import Door
from gossipnode.config import load_config, save_config
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.identity import create_identity, load_identity
from gossipnode.journal import Journal
from gossipnode.learn.encoding import Encoding, Template, decode, encode
from gossipnode.net.libp2p.addresses import dialable, listenable
from gossipnode.net.simulated_links import parse_address
from gossipnode.node import State
from gossipnode.scenario import scenario_of, setting_of
from gossipnode.status import report
from gossipnode.status.http import parse_bind
from gossipnode.status.view import url_of_home
from gossipnode.toml import load_draft, load_manifest, manifest_text
from protocols import messages, wire
from protocols.amendments import amend, open_signed, present, sign
from protocols.learner import Unfit
from protocols.manifest import BadManifest, Manifest
from protocols.registration import doubt, examined, sign_registration
from protocols.signatures import Signer, public_key_of
from protocols.transport import BadAddress
from sampling.peers import PeerId, Role, Round
from sampling.view import Delta, Registration, View
from verify.digest import DIGEST_BYTES, Digest, digest_of

T = TypeVar("T")

SIGNER = Signer.from_seed(bytes(32))
RUN = bytes(range(DIGEST_BYTES))
MODEL = Digest(bytes(DIGEST_BYTES))
CAPACITY = 8  # of a view that is filled to the brim


def _registration(seed: int, **changes: Any) -> Registration:  # noqa: ANN401  # fields of all kinds
    fields: dict[str, Any] = {
        "counter": 1, "present": True, "roles": (Role.TRAINER,), "round": Round(3),
        "addresses": ("/ip4/127.0.0.1/tcp/4001/p2p/x",),
    }  # fmt: skip
    return sign_registration(Signer.from_seed(bytes([seed] * 32)), RUN, **(fields | changes))


def _messages() -> list[messages.AnyMessage]:
    known = [_registration(seed) for seed in range(10)]
    delta = Delta(tuple(known), tuple((each.peer, Round(5)) for each in known))
    inputs = (messages.Input(SIGNER.peer, MODEL, 40),)
    head = messages.Aggregate(Round(2), MODEL, MODEL, inputs, (SIGNER.peer,))
    return [
        messages.Hello(RUN, Round(1), 5, 6), messages.Refused("no"), messages.AskManifest(), messages.ManifestIs(b"x"),
        messages.Exchange(Round(1), delta, 0), messages.Exchanged(Round(1), delta, 9), messages.Ping(Round(1)),
        messages.Registered(known[0]), messages.Registered(_registration(1, present=False, counter=2)),
        messages.TrainedModel(Round(1), MODEL, MODEL, 10, Delta()), messages.Late(head),
        messages.Proposal(Round(1), MODEL, inputs, (SIGNER.peer,)), messages.Aggregated(head, 1, delta),
        messages.HeadIs(head), messages.Unable(Round(1)),
    ]  # fmt: skip


def _frames() -> list[bytes]:
    return [wire.encode(message) for message in _messages()]


def _enter_wire(frame: bytes) -> None:
    message = wire.decode(frame)
    assert wire.decode(wire.encode(message)) == message


def _enter_views(frame: bytes) -> None:
    """What a peer says of others, believed as `Membership.believe` does, into a view that is too small for it."""
    message = wire.decode(frame)
    delta = getattr(message, "delta", None)
    if isinstance(message, messages.Registered):
        delta = Delta((message.registration,))
    if delta is None:
        return
    for registration in delta.registrations:
        assert examined(registration, RUN)[1] == doubt(registration, RUN)
    one, other = View(CAPACITY), View(CAPACITY)
    one.merge(delta)
    one.merge(delta)
    assert len(one) <= CAPACITY
    assert set(one.names()) == {peer for peer in one.names() if peer in one}
    other.merge(one.delta(-1, 1000)[0])
    assert other == one
    assert other.seal == one.seal
    assert one.delta(one.version, 1000)[0] == Delta()


def _manifest() -> Manifest:
    return Manifest(
        task="digits", protocol="modest", author=SIGNER.peer, theta0=MODEL.hex(), model_bytes=19_000, name="a run"
    )


def _enter_signed(data: bytes) -> None:
    signed = open_signed(data)
    assert signed.encode() == data
    present(signed)


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _enter_addresses(data: bytes) -> None:
    """Each reader of such text has its own word for no."""
    text = _text_of(data)
    public_key_of(PeerId(text))
    for read, refusal in ((dialable, BadAddress), (listenable, BadAddress), (parse_bind, OperatorError)):
        _try(read, text, refusal)
    parse_address(text)


def _try(read: Callable[[T], object], what: T, refusal: type[Exception]) -> None:
    try:
        read(what)
    except refusal:
        return


def _blob_doors() -> list[Door]:
    return [_blob_door("float32"), _blob_door("bfloat16"), _blob_door("int8")]


def _blob_door(encoding: Encoding) -> Door:
    template = Template([("weight", (5, 60)), ("bias", (5,))], encoding)
    vector = np.linspace(-2, 2, template.parameters, dtype=np.float32)

    def enter(blob: bytes) -> None:
        assert np.isfinite(decode(blob, template)).all()

    return Door(f"blob-{encoding}", [encode(vector, template)], enter, (Unfit,), [struct.pack("<f", 3e38)])


class _Files:
    """Doors that read a file: what comes is written to it first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def door(self, name: str, examples: list[bytes], read: Callable[[Path], object], *tokens: bytes) -> Door:
        path = self.folder / name

        def enter(data: bytes) -> None:
            path.write_bytes(data)
            path.chmod(0o600)
            read(path)

        return Door(name, examples, enter, (OperatorError,), tokens, cost=2.0)

    def config(self) -> Door:
        example = self.folder / "config-example"
        save_config(example, load_config(Path("/nowhere")))
        ours = b'peers = ["/ip4/127.0.0.1/tcp/1/p2p/%s", "peers.txt"]\nhttp = "off"\n' % SIGNER.peer.encode()
        return self.door(
            "config", [example.read_bytes(), ours], load_config, b"psk = 'x\\u0000'", b"peers = ['\\u0000']"
        )

    def manifest(self) -> Door:
        signed = sign(_manifest(), SIGNER)
        amended = amend(signed, {"training.lr": 0.01, "rounds": 9}, SIGNER)
        texts = [manifest_text(each).encode() for each in (signed, amended)]
        return self.door("manifest-file", texts, load_manifest, b"[signed]", b"[[signed.amendments]]", b"1979-05-27")

    def draft(self) -> Door:
        example = b'name = "x"\ntask = "digits"\nprotocol = "modest"\n[modest]\ntrainers = 4\n[training]\nlr = 0.1\n'
        missing = {"author": SIGNER.peer, "theta0": MODEL.hex(), "model_bytes": 100}
        return self.door(
            "draft", [example], lambda path: load_draft(path, **missing), b"[admission]", b'mode = "allow"'
        )

    def scenario(self) -> Door:
        folder = Path(__file__).parents[2] / "scenarios"
        examples = [path.read_bytes() for path in sorted(folder.glob("*.toml"))]
        return self.door("scenario", examples, _enter_scenario, b"[[event]]", b"at_round = ", b"nodes = ", b"kind = ")

    def identity(self) -> Door:
        example = self.folder / "identity-example"
        create_identity(example)
        return self.door("identity", [example.read_bytes()], load_identity, b"-----BEGIN PRIVATE KEY-----")

    def journal(self) -> Door:
        folder = self.folder / "journal"
        journal = Journal(folder, State)
        held = messages.Aggregate(Round(2), MODEL, MODEL, (), ())
        state = State(counter=3, held=held, view=Delta((_registration(1),), ((SIGNER.peer, Round(1)),)))
        trio.run(journal.save, state)
        [path] = folder.iterdir()
        head, number = path.read_bytes()[:19], path.name

        def enter(data: bytes) -> None:
            """As it is; and as the payload of a file whose checksum is right."""
            count = bytes.fromhex(number.partition(".")[2])
            for content in (data, head + count + digest_of(count + data) + data):
                for old in folder.iterdir():
                    old.unlink()
                (folder / number).write_bytes(content)
                loaded = Journal(folder, State).load()
                assert loaded is None or isinstance(loaded, State)

        return Door("journal", [path.read_bytes(), msgspec.msgpack.encode(state)], enter, (), cost=10.0)


def _enter_scenario(path: Path) -> None:
    scenario_of(setting_of(path, {}, {}))


def _enter_status(data: bytes) -> None:
    status = report.decode(data)
    assert report.decode(msgspec.json.encode(status)) == status


def _enter_home(folder: Path) -> Callable[[bytes], None]:
    home = Home(folder)

    def enter(data: bytes) -> None:
        home.addresses.write_bytes(data)
        _try(url_of_home, folder, OperatorError)
        home.read_addresses()

    return enter


def all_doors() -> dict[str, Door]:
    """By name. Files lie in a temporary folder until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="gossipnode-fuzz-"))
    files = _Files(folder)
    signed = sign(_manifest(), SIGNER)
    signed_bytes = [signed.encode(), amend(signed, {"rounds": 9}, SIGNER).encode()]
    addresses = [
        f"/ip4/127.0.0.1/tcp/4001/p2p/{SIGNER.peer}".encode(), b"/ip6/::/tcp/0", b"/dns/example.org/tcp/1/p2p/Qm",
        f"/memory/3/p2p/{SIGNER.peer}".encode(), b"127.0.0.1:8642", b"[::1]:0", SIGNER.peer.encode(),
    ]  # fmt: skip
    status = msgspec.json.encode(report.Status(node=report.NodeStatus(peer="me")))
    found = [
        Door("wire", _frames(), _enter_wire, (wire.MalformedFrame,)),
        Door("views", _frames(), _enter_views, (wire.MalformedFrame,), cost=2.0),
        Door("manifest", signed_bytes, _enter_signed, (BadManifest,)),
        Door("address", addresses, _enter_addresses, (BadAddress,), [b"/p2p/", b"/tcp/", b"/ip4/", b"::", b"%eth0"]),
        Door("status-report", [status], _enter_status, (msgspec.MsgspecError,), [b'"history":[', b"null"]),
        Door("home", [b'{"pid":1,"libp2p":[],"http":""}'], _enter_home(folder), (OperatorError,)),
        *_blob_doors(),
        *(files.config(), files.manifest(), files.draft(), files.scenario(), files.identity(), files.journal()),
        *(ask_door(), reply_door(), http_door()),
    ]
    return {door.name: door for door in found}
