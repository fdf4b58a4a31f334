"""`gossipnode start` with something wrong: exit code 2 and one line that names what and the remedy, in this process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossipnode.cli import main
from gossipnode.home import Home
from gossipnode.identity import load_identity
from gossipnode.newrun import draft
from gossipnode.start import init_home
from gossipnode.toml import save_manifest
from protocols.amendments import sign

PEER = "12D3KooWL3hwtanTFomj8bT4KQEHukZW7QxNMqtopYFKae2cJ7Nr"
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    init_home(tmp_path / "home")
    return Home(tmp_path / "home")


def refusal(home: Home, *options: str) -> str:
    """The one line."""
    done = CliRunner().invoke(main, ["start", "--home", str(home.path), *options])
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.output
    assert "Traceback" not in done.output
    return errors[0].removeprefix("error: ")


NEW = ("--task", "digits")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "nothing to join and nothing to begin: give --peers ADDRESS, or --task to begin a run"),
        (("--peers", "garbage"), "--peers garbage: neither an address like /ip4/HOST/tcp/PORT/p2p/PEER_ID nor a file"),
        (("--peers", "/ip4/127.0.0.1/tcp/4001"), "--peers /ip4/127.0.0.1/tcp/4001: expected an address like"),
        (("--peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3"), "12D3 is no peer id (12D3KooW...); `gossipnode init` prints"),
        (("--peers", f"/ip4/127.0.0.1/tcp/70000/p2p/{PEER}"), "expected /ip4/HOST/tcp/PORT"),
        ((*NEW, "--listen", "4001"), "--listen 4001: expected /ip4/HOST/tcp/PORT, as /ip4/0.0.0.0/tcp/4001"),
        ((*NEW, "--listen", "/dns4/localhost/tcp/0"), "cannot be listened on: give an IP address"),
        ((*NEW, *LOOPBACK, "--http", "0.0.0.0:0"), "lets other machines read this node: give --http-token too, or"),
        ((*NEW, "--http", "8642"), "--http 8642: expected HOST:PORT, as 127.0.0.1:8080"),
        (("--task", "digitz"), "unknown task 'digitz': did you mean 'digits'?"),
        (("--task", "nowhere_to_be:FOUND"), "no module nowhere_to_be in"),
        ((*NEW, "--shard", "8/8"), "--shard 8/8: expected INDEX/COUNT, INDEX from 0 to COUNT - 1"),
        ((*NEW, "--partition", "dirichlet"), "--partition dirichlet: expected iid, labels or dirichlet:ALPHA"),
        ((*NEW, "--data", "/nowhere"), "--data /nowhere: there is no such file or folder"),
        ((*NEW, "--psk", "/nowhere"), "cannot read the swarm key /nowhere: No such file or directory"),
        ((*NEW, "--manifest", "/nowhere"), "cannot read /nowhere: No such file or directory"),
        ((*NEW, "--set", "modest.trainer=4"), "unknown key `modest.trainer`; did you mean `modest.trainers`?"),
        ((*NEW, "--set", "trainers=4"), "unknown key `trainers`; did you mean `modest.trainers`?"),
        ((*NEW, "--set", "modest.trainers=400"), "modest.trainers: expected int <= 256"),
        ((*NEW, "--set", "modest.trainers=four"), "modest.trainers: expected int, got str"),
        ((*NEW, "--set", "rounds.x=1"), "rounds: expected int, got object"),
        ((*NEW, "--set", "modest.trainers"), "expected KEY=VALUE, as in --set modest.trainers=4"),
        ((*NEW, "--steps", "5"), "--steps 5: modest runs count rounds: give --rounds, or --protocol onebyte"),
        ((*NEW, "--protocol", "modest", "--steps", "5"), "--steps 5: modest runs count rounds: give --rounds"),
        ((*NEW, "--protocol", "onebyte", "--rounds", "5"), "--rounds 5: one-byte runs count steps: give --steps"),
        ((*NEW, *LOOPBACK, "--privacy-clip", "1"), "--privacy-clip, --privacy-noise: give both or neither"),
        ((*NEW, *LOOPBACK, "--privacy-clip", "1", "--privacy-noise", "1"), "only one-byte runs (--protocol onebyte)"),
        ((*NEW, *LOOPBACK, "--rank", "2"), "--rank 2: task 'digits' has no adapters; leave it out"),
        ((*NEW, *LOOPBACK, "--set", "merging.rule=flora"), "merging.rule: flora needs a task with adapters, and"),
        ((*NEW, "--set", "theta0=0"), "theta0 is found out by the node that begins the run"),
        ((*NEW, "--roles", "observer", "--roles", "trainer"), "--roles: an observer only follows"),
    ],
)
def test_options(home: Home, options: tuple[str, ...], line: str) -> None:
    assert line in refusal(home, *options)


@pytest.mark.parametrize(("option", "form"), [("--http", "127.0.0.1:{}"), ("--listen", "/ip4/127.0.0.1/tcp/{}")])
def test_a_port_in_use(home: Home, option: str, form: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = form.format(taken.getsockname()[1])
        line = refusal(home, *NEW, *(LOOPBACK if option == "--http" else ()), option, where)
    assert option in line
    assert "address already in use" in line.lower()
    assert not home.addresses.exists()


def test_a_key_that_others_can_read(home: Home) -> None:
    home.identity.chmod(0o644)
    assert refusal(home, *NEW) == f"the identity {home.identity} is open to others; run: chmod 600 {home.identity}"


def test_a_key_that_is_none(home: Home) -> None:
    home.identity.write_bytes(b"torn")
    line = refusal(home, *NEW)
    assert line.startswith(f"the identity {home.identity} is not a private key in PEM; restore it from a copy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_we_cannot_read(home: Home) -> None:
    home.identity.chmod(0)
    assert refusal(home, *NEW) == f"cannot read the identity {home.identity}: Permission denied"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listen = ", "is not TOML"),
        ("lissten = 'x'", "unknown key `lissten`; did you mean `listen`?"),
        ("threads = 0", "threads: expected int >= 1"),
        ("peers = ['nothing.txt']", "nothing.txt: neither an address like"),
    ],
)
def test_a_damaged_configuration(home: Home, text: str, line: str) -> None:
    home.config.write_text(text)
    found = refusal(home, *NEW)
    assert str(home.config) in found
    assert line in found


def begun(home: Home, **tables: object) -> None:
    """As if a run had been begun here."""
    identity = load_identity(home.identity)
    save_manifest(home.manifest, sign(draft({"task": "digits", **tables}, identity.peer), identity.signer))


def test_an_edited_manifest(home: Home) -> None:
    begun(home, rounds=20)
    home.manifest.write_text(home.manifest.read_text().replace("rounds = 20", "rounds = 30"))
    assert f"{home.manifest}: no longer matches its author's signature" in refusal(home)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--task", "mnist"), "--task: mnist was asked for, but the run of the home {home} has digits"),
        (("--rounds", "30"), "--rounds: 30 was asked for, but the run of the home {home} has 20"),
        (
            ("--set", "modest.trainers=5"),
            "--set modest.trainers: 5 was asked for, but the run of the home {home} has 4",
        ),
    ],
)
def test_a_run_is_not_what_was_asked_for(home: Home, options: tuple[str, ...], line: str) -> None:
    begun(home, rounds=20)
    found = refusal(home, *options)
    assert line.format(home=home.path) in found
    assert found.endswith("leave the option out, or begin a run of your own in another --home")


def test_a_model_of_another_size(home: Home) -> None:
    begun(home)  # its manifest says that a model has one byte
    assert "digits makes models of" in refusal(home, *LOOPBACK)


def test_another_node_in_the_home(home: Home) -> None:
    with home.lock():
        assert f"another gossipnode runs in {home.path} (pid {os.getpid()})" in refusal(home, *NEW)
    assert home.addresses.exists() is False


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot make the home" in refusal(Home(tmp_path / "file" / "home"), *NEW)


def test_an_unknown_adversary_is_named_with_those_there_are(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSIPNODE_ADVERSARY", "sign-flop")
    line = refusal(home, *LOOPBACK, "--task", "digits")
    assert line.startswith("GOSSIPNODE_ADVERSARY: no adversary is called 'sign-flop': did you mean 'sign-flip'?")
