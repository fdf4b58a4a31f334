"""The home directory of a node: where each file lies, one node at a time in it, and where a running one can be reached.

    identity.pem    who the node is                        config.toml   its own settings
    manifest.toml   the run, signed by its author          blobs/ partial/   models, by digest
    state/          the node's state: counter, view, newest model
    addresses.json  where the running node listens         lock          held while a node runs
    privacy.json    private probes answered so far         chain.log     promises and blocks of one-byte training
    certificates/   claims that were doubted, and the votes on them, for `gossipnode audit`

Everything is written whole; what is torn or edited is named in a log line and treated as absent, except the identity,
the config and the manifest, which are the operator's and are refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole


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
    def blobs(self) -> Path:
        """Each under its digest in hex."""
        return self.store / "blobs"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def chain(self) -> Path:
        """The journal of one-byte training."""
        return self.path / "chain.log"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates"

    @property
    def addresses(self) -> Path:
        return self.path / "addresses.json"

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
