"""The home directory: one node at a time, and files that are whole or treated as absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gossipnode.errors import OperatorError
from gossipnode.home import Addresses, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_it_is_private_and_made_once(home: Home) -> None:
    assert home.path.stat().st_mode & 0o777 == 0o700
    home.create()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match=r"cannot make the home .*file/home: Not a directory; name one with --home"):
        Home(tmp_path / "file" / "home").create()


def test_one_node_at_a_time(home: Home) -> None:
    with home.lock(), pytest.raises(OperatorError) as caught, home.lock():
        pass
    assert str(caught.value).startswith(f"another gossipnode runs in {home.path} (pid {os.getpid()})")
    with home.lock():
        pass


def test_a_node_that_was_killed_holds_no_lock(home: Home) -> None:
    code = (
        "import os, sys, pathlib; from gossipnode.home import Home\n"
        "with Home(pathlib.Path(sys.argv[1])).lock(): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, home.path], check=False).returncode == 9
    with home.lock():
        pass


def test_no_home_to_lock(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot lock the home"), Home(tmp_path / "absent").lock():
        pass


def test_addresses_of_the_running_node(home: Home) -> None:
    with pytest.raises(OperatorError, match="no node runs in"):
        home.read_addresses()
    home.write_addresses(["/ip4/127.0.0.1/tcp/1"], "http://127.0.0.1:2")
    assert home.read_addresses() == Addresses(
        libp2p=("/ip4/127.0.0.1/tcp/1",), http="http://127.0.0.1:2", pid=os.getpid()
    )
    home.addresses.write_bytes(b"{torn")
    with pytest.raises(OperatorError, match="is damaged"):
        home.read_addresses()
    home.forget_addresses()
    home.forget_addresses()
    with pytest.raises(OperatorError, match="no node runs in"):
        home.read_addresses()


def test_every_file_lies_inside(home: Home) -> None:
    files = [home.identity, home.config, home.manifest, home.state, home.addresses]
    assert {file.parent for file in files} == {home.path}
    assert len(set(files)) == len(files)
