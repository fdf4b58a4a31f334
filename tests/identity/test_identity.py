"""The identity file: made once, whole and private; refused in one line when anything is wrong with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from gossipnode.errors import OperatorError
from gossipnode.identity import create_identity, load_identity
from protocols.signatures import Signer, verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.pem"


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


def refusal(path: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        load_identity(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_what_is_created_is_loaded(path: Path) -> None:
    created = create_identity(path)
    loaded = load_identity(path)
    assert loaded.peer == created.peer
    assert loaded.seed == created.seed
    assert Signer.from_seed(loaded.seed).peer == loaded.peer
    assert verify(loaded.peer, b"claim", bytes(32), b"x", created.signer.sign(b"claim", bytes(32), b"x"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_mode_does_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        create_identity(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_identities_differ(tmp_path: Path) -> None:
    assert create_identity(tmp_path / "a").peer != create_identity(tmp_path / "b").peer


def test_an_identity_is_never_overwritten(path: Path) -> None:
    peer = create_identity(path).peer
    with pytest.raises(OperatorError, match="exists already"):
        create_identity(path)
    assert load_identity(path).peer == peer


def test_no_folder_to_create_it_in(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot create the identity .*No such file"):
        create_identity(tmp_path / "absent" / "identity.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_others_must_not_read_it(path: Path, mode: int) -> None:
    create_identity(path)
    path.chmod(mode)
    assert f"chmod 600 {path}" in refusal(path)


def test_absent(path: Path) -> None:
    assert "No such file" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(path: Path) -> None:
    create_identity(path)
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", bytes(200), b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_garbage(path: Path, data: bytes) -> None:
    write(path, data)
    assert "not a private key" in refusal(path)


def test_torn(path: Path) -> None:
    create_identity(path)
    write(path, path.read_bytes()[:60])
    assert "not a private key" in refusal(path)


def test_another_kind_of_key(path: Path) -> None:
    write(path, generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "not an Ed25519 key" in refusal(path)


def test_encrypted(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert "encrypted" in refusal(path)


def test_a_folder_and_a_pipe_are_no_identities(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    assert "not a regular file" in refusal(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "not a regular file" in refusal(pipe)


def test_the_seed_stays_out_of_the_repr(path: Path) -> None:
    identity = create_identity(path)
    assert repr(identity) == f"Identity({identity.peer})"
    assert identity.seed.hex() not in repr(identity)
