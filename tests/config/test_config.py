"""One node's settings: the file, the command line over it, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossipnode.config import Config, load_config, peers_from, save_config
from gossipnode.errors import OperatorError
from gossipnode.identity import load_network_key
from gossipnode.learn.shard import Shard
from gossipnode.toml import described
from protocols.manifest import Manifest
from protocols.signatures import Signer
from sampling.peers import Role

PEER = Signer.from_seed(bytes(32)).peer
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}"
OTHER = f"/dns4/node.example.org/tcp/4002/p2p/{PEER}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def line_of(caught: pytest.ExceptionInfo[OperatorError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_file_the_defaults_hold(path: Path) -> None:
    assert load_config(path) == Config()


def test_the_written_file_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    config = Config(peers=(ADDRESS,), roles=(Role.TRAINER, Role.AUDITOR), data=str(tmp_path / "d"), log_json=True)
    save_config(path, config)
    assert load_config(path) == config
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_setting_is_explained_in_the_file(path: Path) -> None:
    save_config(path, Config())
    lines = path.read_text().splitlines()
    for key, text in described(Config).items():
        assert text
        assert f"# {text}" in lines
        assert any(line.startswith(f"{key} = ") for line in lines)


def test_the_command_line_wins_where_it_says_anything(path: Path) -> None:
    path.write_text('shard = "1/4"\nthreads = 2\n')
    config = load_config(path, {"threads": 3, "shard": None, "roles": ("auditor",)})
    assert (config.threads, config.shard, config.roles) == (3, "1/4", (Role.AUDITOR,))
    assert config.shard_of(7) == Shard(index=1, count=4, partition="iid", seed=7)


def test_paths_in_the_file_are_relative_to_it(path: Path) -> None:
    (path.parent / "friends").write_text(OTHER)
    path.write_text(f'data = "d"\npsk = "/etc/swarm.key"\npeers = ["friends", "{ADDRESS}"]\n')
    config = load_config(path)
    assert config.data == str(path.parent / "d")
    assert config.psk == "/etc/swarm.key"
    assert config.peers == (OTHER, ADDRESS)
    assert load_config(path, {"data": Path("d"), "peers": ()}).data == "d"
    assert load_config(path, {"peers": (OTHER, OTHER)}).peers == (OTHER,)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("thraeds = 1", "unknown key `thraeds`; did you mean `threads`?"),
        ("threads = 0", "threads: expected int >= 1"),
        ('device = "tpu"', "device: invalid enum value 'tpu'"),
        ('shard = "4/4"', "shard 4/4: expected INDEX/COUNT, INDEX from 0 to COUNT - 1"),
        ('shard = "-1/4"', "shard -1/4: expected INDEX/COUNT"),
        ('http = "8080"', "http 8080: expected HOST:PORT, as 127.0.0.1:8080"),
        ('http = "127.0.0.1:65536"', "http 127.0.0.1:65536: expected HOST:PORT"),
        ('listen = "0.0.0.0:4001"', "listen 0.0.0.0:4001: expected /ip4/HOST/tcp/PORT"),
        ('listen = "/ip4/0.0.0.256/tcp/1"', "listen /ip4/0.0.0.256/tcp/1: expected"),
        ('listen = "/ip6/0.0.0.0/tcp/1"', "listen /ip6/0.0.0.0/tcp/1: expected"),
        ('listen = "/ip4/0.0.0.0/tcp/65536"', "listen /ip4/0.0.0.0/tcp/65536: expected"),
        ("roles = []", "roles: expected array of length >= 1"),
        ('roles = ["king"]', "roles[0]: invalid enum value 'king'"),
        ('roles = ["observer", "trainer"]', "roles: an observer only follows"),
        ('peers = ["absent"]', "peers "),
        ('http_token = "a\\u001b"', "http_token: expected printable"),
        ("store_max_bytes = 1000", "store_max_bytes: expected int >= 1048576"),
    ],
)
def test_one_line_for_a_wrong_setting(path: Path, text: str, line: str) -> None:
    path.write_text(text)
    with pytest.raises(OperatorError) as caught:
        load_config(path)
    assert line_of(caught).startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"threads": 0}, "--threads 0: expected int >= 1"),
        ({"rank": 10_000}, "--rank 10000: expected int <= 9999"),
        ({"store_max_bytes": 1}, "--store-max-bytes 1: expected int >= 1048576"),
        ({"shard": "3"}, "--shard 3: expected INDEX/COUNT"),
        ({"listen": "x"}, "--listen x: expected /ip4/HOST/tcp/PORT"),
    ],
)
def test_one_line_for_a_wrong_option(path: Path, options: dict[str, object], line: str) -> None:
    with pytest.raises(OperatorError) as caught:
        load_config(path, options)
    assert line_of(caught).startswith(line)


@pytest.mark.parametrize("http", ["localhost:0", "[::1]:8080", "0.0.0.0:80"])
@pytest.mark.parametrize("listen", ["/ip6/::/tcp/0", "/dns4/localhost/tcp/1", "/ip4/127.0.0.1/tcp/65535"])
def test_usual_addresses_pass(path: Path, http: str, listen: str) -> None:
    assert load_config(path, {"http": http, "listen": listen}).http == http


def test_peers_come_from_values_and_files_each_once(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_text(f"# friends\n\n{OTHER}  # at home\n{ADDRESS}\n")
    assert peers_from([ADDRESS, str(file), ADDRESS]) == (ADDRESS, OTHER)
    assert peers_from([]) == ()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001: expected an address like /ip4/HOST/tcp/PORT/p2p/PEER_ID"),
        (f"/ip4/192.0.2.1/udp/1/quic-v1/p2p/{PEER}", "expected an address like"),
        (f"/ip4/192.0.2.999/tcp/4001/p2p/{PEER}", "expected /ip4/HOST/tcp/PORT"),
        (f"/ip4/192.0.2.1/tcp/99999/p2p/{PEER}", "expected /ip4/HOST/tcp/PORT"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER[:-1]}", "is no peer id"),
        (f"{ADDRESS}\n", "expected an address like"),
        (f"/p2p/{PEER}", "expected an address like"),
        ("192.0.2.1:4001", "--peers 192.0.2.1:4001: neither an address like /ip4/HOST/tcp/PORT/p2p/PEER_ID nor a file"),
        ("/", "nor a file of them: Is a directory"),
        ("", "nor a file of them"),
    ],
)
def test_a_malformed_peer_is_named(value: str, line: str) -> None:
    with pytest.raises(OperatorError) as caught:
        peers_from([value])
    assert line in line_of(caught)
    assert str(caught.value).startswith("--peers")


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_text(f"{ADDRESS}\n# fine\nnonsense\n")
    with pytest.raises(OperatorError) as caught:
        peers_from([str(file)])
    assert line_of(caught).startswith(f"--peers {file}: line 3: nonsense: expected an address like")
    file.write_text("# nobody\n")
    with pytest.raises(OperatorError, match="names no peer"):
        peers_from([str(file)])
    file.write_bytes(b"\xff\n")
    with pytest.raises(OperatorError, match="not a text file"):
        peers_from([str(file)])


def test_a_swarm_key_is_read_as_libp2p_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "swarm.key"
    file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{'0aF' * 21}f")
    file.chmod(0o600)
    assert load_network_key(file).hex() == "0af" * 21 + "f"
    file.chmod(0o644)
    with pytest.raises(OperatorError, match=f"chmod 600 {file}"):
        load_network_key(file)


HEAD = "/key/swarm/psk/1.0.0/\n"


@pytest.mark.parametrize("text", ["", "ab" * 32, f"{HEAD}/base64/\n{'ab' * 32}", f"{HEAD}/base16/\nab"])
def test_another_swarm_key_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "swarm.key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(OperatorError, match="must have three lines"):
        load_network_key(file)


def test_a_shard_is_public_where_others_can_draw_from_it_again() -> None:
    model = {"model_bytes": 8, "theta0": "ab" * 32, "author": Signer.from_seed(bytes(32)).peer}
    run = Manifest(name="toy", protocol="onebyte", task="digits", **model)
    assert Config(shard="3/8").public_shard(run) == "3/8 iid 0"
    assert Config(shard="3/8", rank=2).public_shard(run) == "3/8 iid 0 rank 2"
    assert Config(shard="3/8", data="mine.npz").public_shard(run) == ""
    assert Config(shard="3/8", privacy_clip=1.0, privacy_noise=0.5).public_shard(run) == ""
