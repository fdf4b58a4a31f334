"""One node's own settings: what the run does not fix. Read from the home's config.toml, overlaid by the command line.

Everything is checked here, once, before anything starts: whatever the operator got wrong is one line that names the key
or the option and the right form. Relative paths in the file are relative to the file; on the command line, to where the
command runs. The descriptions are the comments of the file that `gossipnode init` writes, and the text of `--help`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from gossipnode.learn.accountant import Privacy
from gossipnode.learn.names import BUILT_IN
from gossipnode.learn.shard import RANK, Shard
from gossipnode.toml import annotated, read_tables, typed
from protocols.limits import ADDRESS_CHARS, DATA_BYTES, MIB, ROUND
from protocols.manifest import Manifest
from protocols.signatures import public_key_of
from sampling.peers import PeerId, Role

ADDRESS_FORM: Final = "/ip4/HOST/tcp/PORT/p2p/PEER_ID"
_ADDRESS: Final = re.compile(r"(/(?:ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/[0-9]{1,5})/p2p/([^/\s]+)")
_LISTEN: Final = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/([0-9]{1,5})")
_SHARD: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_HTTP: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_PARTITION: Final = re.compile(r"iid|labels|dirichlet:[0-9.e+-]+")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_LOOKS_LIKE_ADDRESS: Final = re.compile(r"/(ip4|ip6|dns|dns4|dns6|dnsaddr|p2p)(/|$)")
SLOWEST: Final = 1000.0  # slowdown: a training of a second takes a quarter of an hour
_PEERS_FILE_BYTES: Final = MIB


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one node."""

    listen: Annotated[str, Meta(description="address to listen on, for peers")] = "/ip4/0.0.0.0/tcp/4001"
    peers: Annotated[
        tuple[str, ...],
        Meta(description=f"where to find the run: addresses {ADDRESS_FORM}, or files with one address a line"),
    ] = ()
    http: Annotated[str, Meta(description="HOST:PORT of the status page and API; port 0: any free one")] = "127.0.0.1:0"
    http_token: Annotated[str, Meta(description="bearer token that HTTP requests must carry; empty: none")] = ""
    roles: Annotated[
        tuple[Role, ...], Meta(min_length=1, description="trainer (has data), auditor (may have none), or observer")
    ] = (Role.TRAINER,)
    task: Annotated[
        str, Meta(description="your own task, package.module:attribute, for a run whose task is not built in")
    ] = ""
    data: Annotated[str, Meta(description="path to the task's data; empty: the task's own")] = ""
    shard: Annotated[
        str, Meta(description="INDEX/COUNT: which piece of the data is this node's, counted from 0; 0/1 is all of it")
    ] = "0/1"
    partition: Annotated[str, Meta(description="how data is cut into shards: iid, labels or dirichlet:ALPHA")] = "iid"
    threads: Annotated[int, Meta(ge=1, le=1024, description="CPU threads for training")] = 1
    device: Annotated[Literal["cpu", "cuda", "auto"], Meta(description="where to train: cpu, cuda or auto")] = "cpu"
    privacy_clip: Annotated[
        float, Meta(ge=0.0, le=1e6, description="one-byte runs: most that one example's slope may count for; 0: any")
    ] = 0.0
    privacy_noise: Annotated[
        float,
        Meta(ge=0.0, le=1e6, description="with privacy_clip: noise in what is revealed, in units of it; 0: none"),
    ] = 0.0
    rank: Annotated[
        int, Meta(ge=0, le=RANK, description="tasks with adapters: train only so many components of each; 0: all")
    ] = 0
    slowdown: Annotated[
        float,
        Meta(
            ge=1.0,
            le=SLOWEST,
            description="gossip runs: rest after each training until so many times as long has passed, to spare the "
            "machine",
        ),
    ] = 1.0
    store_max_bytes: Annotated[
        int, Meta(ge=MIB, le=2**60, description="disk space for models; the least recently used go first")
    ] = 10 * 1024 * MIB
    evaluate_every: Annotated[
        int, Meta(ge=0, le=ROUND, description="rounds between evaluations on this node's held-out data; 0: never")
    ] = 5
    answers: Annotated[
        bool, Meta(description="answer anybody's questions to the model (gossipnode ask); each costs a forward pass")
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
    ] = "info"
    log_json: Annotated[bool, Meta(description="log lines as JSON")] = False
    psk: Annotated[str, Meta(description="swarm key file of a private network; empty: none")] = ""

    @property
    def privacy(self) -> Privacy | None:
        """For one-byte training; None: bytes reveal what they reveal."""
        return Privacy(example_clip=self.privacy_clip, sigma=self.privacy_noise) if self.privacy_noise else None

    def public_shard(self, manifest: Manifest) -> str:
        """Our shard, if other nodes can make it too: claims then name it, and are replayed. Else ""."""
        open_to_all = manifest.task in BUILT_IN or manifest.audit.policy == "replay"
        text = self.shard_of(manifest.seed).text
        own = bool(self.data) or self.privacy is not None  # noise that hides examples cannot be drawn again
        return text if open_to_all and not own and len(text) < DATA_BYTES else ""

    def shard_of(self, seed: int) -> Shard:
        """`seed`: the run's, so that all its nodes cut alike."""
        index, _, count = self.shard.partition("/")
        return Shard(index=int(index), count=int(count), partition=self.partition, seed=seed, rank=self.rank)


def slowdowns_of(speeds: str) -> list[float]:
    """For nodes that are so fast beside each other, as "1,1,2,4": `slowdown` of each. Raises OperatorError."""
    try:
        found = [float(each) for each in speeds.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0 or not max(found) / min(found) <= SLOWEST:
        raise OperatorError(f"--speed {speeds}: expected numbers above 0, as 1,1,2,4, within a factor of {SLOWEST:g}")
    return [max(found) / each for each in found]


def ranks_of(text: str) -> list[int]:
    """`rank` of each node in turn, as "2,4,8"; "": all of them train all. Raises OperatorError."""
    found = text.split(",") if text else ["0"]
    if text and not all(re.fullmatch("[1-9][0-9]{0,3}", each) for each in found):
        raise OperatorError(f"--rank {text}: expected whole numbers from 1 to {RANK}, as 2,4,8")
    return [int(each) for each in found]


def load_config(path: Path, options: Mapping[str, Any] | None = None) -> Config:
    """The file if there is one, then the options by field name; None and () are options not given.

    `peers` of what is returned are addresses only. Raises OperatorError.
    """
    config = _from_file(path) if path.exists() else Config()
    for key, value in (options or {}).items():
        if value is not None and value != ():
            config = _overlaid(config, key, value)
    _check(config, _option)
    return config


def save_config(path: Path, config: Config) -> None:
    """Private, since it may hold the token. Raises OperatorError."""
    try:
        write_whole(path, annotated(config).encode(), mode=0o600)
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {reason(error)}") from error


def peers_from(values: Iterable[str], source: str = "--peers") -> tuple[str, ...]:
    """Addresses, each once, in order; a value that names a file stands for its lines. Raises OperatorError."""
    found: dict[str, None] = {}
    for value in values:
        if _LOOKS_LIKE_ADDRESS.match(value):
            found[_address(value, source)] = None
        else:
            found.update(dict.fromkeys(_addresses_in(Path(value), source)))
    return tuple(found)


def _from_file(path: Path) -> Config:
    config = typed(read_tables(path), Config, str(path))
    _check(config, lambda key: f"{path}: {key}")
    here = path.absolute().parent
    peers = (peer if _LOOKS_LIKE_ADDRESS.match(peer) else str(here / peer) for peer in config.peers)
    return msgspec.structs.replace(
        config,
        data=str(here / config.data) if config.data else "",
        psk=str(here / config.psk) if config.psk else "",
        peers=peers_from(peers, f"{path}: peers"),
    )


def _overlaid(config: Config, key: str, value: Any) -> Config:  # noqa: ANN401 - as click gave it; it gets its type here
    option = _option(key)
    stated = peers_from(value) if key == "peers" else str(value) if isinstance(value, Path) else value
    try:
        overlaid = msgspec.convert({**msgspec.to_builtins(config), key: stated}, Config)
    except msgspec.ValidationError as error:
        text = str(error).partition(" - at ")[0].replace("`", "")
        raise OperatorError(f"{option} {value}: {text[:1].lower()}{text[1:]}") from error
    return overlaid


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


# -- what no single field's type can say ------------------------------------------------------------------------------


def _check(config: Config, named: Callable[[str], str]) -> None:
    _require_listen(config.listen, named("listen"))
    host_port = _HTTP.fullmatch(config.http)
    if host_port is None or int(host_port[2]) > 65535:
        raise OperatorError(f"{named('http')} {config.http}: expected HOST:PORT, as 127.0.0.1:8080")
    piece = _SHARD.fullmatch(config.shard)
    if piece is None or int(piece[1]) >= int(piece[2]):
        raise OperatorError(f"{named('shard')} {config.shard}: expected INDEX/COUNT, INDEX from 0 to COUNT - 1")
    if _PARTITION.fullmatch(config.partition) is None:
        raise OperatorError(f"{named('partition')} {config.partition}: expected iid, labels or dirichlet:ALPHA")
    if Role.OBSERVER in config.roles and len(config.roles) > 1:
        raise OperatorError(f"{named('roles')}: an observer only follows; leave the other roles out")
    if (config.privacy_clip > 0) != (config.privacy_noise > 0):
        raise OperatorError(f"{named('privacy_clip')}, {named('privacy_noise')}: give both or neither")
    if not config.http_token.isprintable():
        raise OperatorError(f"{named('http_token')}: expected printable characters only")


def _require_listen(address: str, named: str) -> None:
    match = _LISTEN.fullmatch(address)
    if match is None or not _is_host(match[1], match[2]) or int(match[3]) > 65535:
        raise OperatorError(f"{named} {address}: expected /ip4/HOST/tcp/PORT, as /ip4/0.0.0.0/tcp/4001")


def _address(text: str, source: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or len(text) > ADDRESS_CHARS:
        raise OperatorError(f"{source} {text[:ADDRESS_CHARS]}: expected an address like {ADDRESS_FORM}")
    _require_listen(match[1], source)
    if public_key_of(PeerId(match[2])) is None:
        raise OperatorError(
            f"{source} {text}: {match[2]} is no peer id (12D3KooW...); `gossipnode init` prints a node's"
        )
    return text


def _addresses_in(path: Path, source: str) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_PEERS_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise OperatorError(
            f"{source} {path}: neither an address like {ADDRESS_FORM} nor a file of them: {reason(error)}"
        ) from error
    except UnicodeDecodeError as error:
        raise OperatorError(f"{source} {path}: not a text file of addresses, one a line") from error
    lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1))
    found = [_address(line, f"{source} {path}: line {number}:") for number, line in lines if line]
    if not found:
        raise OperatorError(f"{source} {path}: names no peer; put one address like {ADDRESS_FORM} a line")
    return found


def _is_host(kind: str, host: str) -> bool:
    if kind.startswith("dns"):
        return _HOST_NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == int(kind[2:])
    except ValueError:
        return False
