"""The home directory of a node: where each file lies, one node at a time in it, and where a running one can be reached.

    identity.pem    who the node is                        config.toml   its own settings
    manifest.toml   the run, signed by its author          blobs/ partial/   models, by digest
    state/          the journal of the node's state        peers.json    addresses of peers met, to find the run again
    addresses.json  where the running node listens         lock          held while a node runs

Everything is written whole; what is torn or edited is named in a log line and treated as absent, except the identity,
the config and the manifest, which are the operator's and are refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from protocols.limits import ADDRESS_CHARS, ADDRESSES_PER_PEER
from protocols.signatures import public_key_of
from sampling.peers import PeerId

_log = logging.getLogger(__name__)
_PEERS_KEPT: Final = 1000  # more than any restart needs to find one that lives
_Address = Annotated[str, Meta(max_length=ADDRESS_CHARS)]


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running node can be reached: full multiaddresses for peers, a URL for the operator."""

    libp2p: tuple[str, ...]
    http: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def identity(self) -> Path:
        return self.path / "identity.pem"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.toml"

    @property
    def store(self) -> Path:
        """The folder of `blobs/` and `partial/`."""
        return self.path

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def addresses(self) -> Path:
        return self.path / "addresses.json"

    @property
    def peers(self) -> Path:
        return self.path / "peers.json"

    def create(self) -> None:
        """Make the directory, private, if it is not there. Raises OperatorError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OperatorError(f"cannot make the home {self.path}: {reason(error)}; name one with --home") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the one node of this home; the kernel frees it however that node ends. Raises OperatorError."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OperatorError(f"cannot lock the home {self.path}: {reason(error)}") from error
        try:
            _take(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)

    def write_addresses(self, libp2p: Sequence[str], http: str) -> None:
        """Raises OperatorError."""
        addresses = Addresses(libp2p=tuple(libp2p), http=http, pid=os.getpid())
        try:
            write_whole(self.addresses, msgspec.json.encode(addresses))
        except OSError as error:
            raise OperatorError(f"cannot write {self.addresses}: {reason(error)}") from error

    def forget_addresses(self) -> None:
        """The node has stopped."""
        with contextlib.suppress(OSError):
            self.addresses.unlink()

    def read_addresses(self) -> Addresses:
        """Of the node that runs here. Raises OperatorError."""
        try:
            return msgspec.json.decode(self.addresses.read_bytes(), type=Addresses)
        except FileNotFoundError as error:
            raise OperatorError(f"no node runs in {self.path}; start one, or name its home with --home") from error
        except OSError as error:
            raise OperatorError(f"cannot read {self.addresses}: {reason(error)}") from error
        except ValueError as error:
            raise OperatorError(f"{self.addresses} is damaged; restart the node that runs there") from error

    def write_peers(self, peers: Mapping[PeerId, Sequence[str]]) -> None:
        """Addresses of peers met, most useful first: beyond a bound the rest is left out. Raises OSError."""
        kept = {peer: addresses[:ADDRESSES_PER_PEER] for peer, addresses in list(peers.items())[:_PEERS_KEPT]}
        write_whole(self.peers, msgspec.json.encode(kept))

    def read_peers(self) -> dict[PeerId, tuple[str, ...]]:
        """Empty if there is no such file, or it is damaged."""
        try:
            found = msgspec.json.decode(self.peers.read_bytes(), type=dict[str, tuple[_Address, ...]])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _log.warning("%s is damaged and not used: %s", self.peers, error)
            return {}
        return {PeerId(peer): addresses for peer, addresses in found.items() if public_key_of(PeerId(peer))}


def _take(descriptor: int, home: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise OperatorError(f"another gossipnode runs in {home} (pid {pid}); stop it, or use another --home") from error
    except OSError as error:
        raise OperatorError(f"cannot lock the home {home}: {reason(error)}") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
