"""Where a node's manifest comes from when its home has none: made here by the run's first node, or fetched from a peer.

A draft is what the operator said (a file, options, --set KEY=VALUE); the author, theta0 and the model's size are added
by the node itself. A fetched manifest never imports code: a task that is not built in must be named by this operator
too, and the source of the operator's own copy must be the one that the manifest was made with.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import trio

from gossipnode.compute.process import TaskInfo
from gossipnode.errors import OperatorError
from gossipnode.learn.names import BUILT_IN, task_source
from gossipnode.toml import require_known
from protocols.amendments import SignedManifest, open_signed, present
from protocols.desk import Desk
from protocols.manifest import BadManifest, Manifest, open_manifest, validated
from protocols.messages import AskManifest, ManifestIs
from protocols.transport import TransportError
from sampling.peers import PeerId
from verify.digest import DIGEST_BYTES

log = logging.getLogger(__name__)

ASK_S = 15.0  # for a manifest; its maker may still be loading its own task
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 10.0

FOUND = ("version", "author", "theta0", "model_bytes", "task_source")  # of a manifest: nobody's choice
OPTIONS = ("task", "protocol", "rounds")  # keys with an option of their own

Tables = dict[str, Any]


def settings_tables(settings: Sequence[str]) -> Tables:
    """`["modest.trainers=4", "name=demo"]` as nested tables. Raises OperatorError."""
    tables: Tables = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise OperatorError(f"--set {setting!r}: expected KEY=VALUE, as in --set modest.trainers=4")
        *path, last = key.strip().split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise OperatorError(f"--set {setting!r}: {part} is a value, not a table")
        table[last] = _value(text.strip())
    require_known(tables, Manifest, "--set")
    return tables


def _value(text: str) -> Any:  # noqa: ANN401  # any of TOML's values
    """As TOML would read it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def require_draft(tables: Mapping[str, Any]) -> None:
    """An operator says what is trained and how; who began it and its sizes are found out. Raises OperatorError."""
    require_known(tables, Manifest, "the new run")
    if found := next((key for key in FOUND if key in tables), None):
        raise OperatorError(
            f"{found} is found out by the node that begins the run: leave it out of --set and --manifest"
        )


def require_same(tables: Mapping[str, Any], signed: SignedManifest, whose: str) -> None:
    """What the operator said of a run holds in the one that this node takes part in. Raises OperatorError.

    A value that an amendment has changed since is right too: a node is restarted by the line that first started it.
    """
    first, present_now = (dict(_leaves(msgspec.to_builtins(each))) for each in (_first(signed), present(signed)))
    for key, wanted in _leaves(tables):
        if wanted not in (first.get(key), present_now.get(key)):
            option = f"--{key}" if key in OPTIONS else f"--set {key}"
            raise OperatorError(
                f"{option}: {wanted} was asked for, but the run of {whose} has {present_now.get(key)}; "
                f"leave the option out, or begin a run of your own in another --home"
            )


def _first(signed: SignedManifest) -> Manifest:
    return open_manifest(signed.manifest)


def _leaves(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merged(*layers: Mapping[str, Any]) -> Tables:
    """Later layers win, table by table."""
    whole: Tables = {}
    for layer in layers:
        for key, value in layer.items():
            known = whole.get(key)
            whole[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return whole


def draft(tables: Mapping[str, Any], author: PeerId, found: TaskInfo | None = None) -> Manifest:
    """Checked at once with stand-ins, then again with what the worker found. Raises OperatorError."""
    require_draft(tables)
    task = str(tables.get("task", ""))
    if not task:
        raise OperatorError("nothing to join and nothing to begin: give --peers ADDRESS, or --task to begin a run")
    own = {
        "author": author,
        "task_source": found.source if found else task_source(task),
        "theta0": found.theta0.hex() if found else "0" * 2 * DIGEST_BYTES,
        "model_bytes": found.blob_bytes(str(tables.get("protocol", "modest"))) if found else 1,
    }
    try:
        return validated({"name": task, "protocol": "modest", **tables, **own})
    except BadManifest as error:
        raise OperatorError(f"the new run's settings do not hold: {error}") from error


def checked_task(manifest: Manifest, own_task: str) -> str:
    """The task to load for a manifest that came from elsewhere. Raises OperatorError."""
    if manifest.task in BUILT_IN:
        return manifest.task
    if own_task != manifest.task:
        raise OperatorError(
            f"this run trains {manifest.task}, which is not built in: read its source, then give --task {manifest.task}"
        )
    if task_source(manifest.task) != manifest.task_source:
        raise OperatorError(f"your source of {manifest.task} is not the one that this run was made with")
    return manifest.task


async def fetched(desk: Desk, addresses: Sequence[str]) -> SignedManifest:
    """From the first of the addresses that has one; asks for ever, and says once what is wrong with each."""
    delay_s, said = RETRY_FIRST_S, dict[str, str]()
    while True:
        for address in addresses:
            try:
                peer = await desk.transport.dial(address)
                answer = await desk.ask(peer, AskManifest(), ManifestIs, ASK_S)
                return open_signed(answer.signed)
            except (TransportError, BadManifest) as error:
                level = logging.DEBUG if said.get(address) == str(error) else logging.WARNING
                said[address] = str(error)
                log.log(level, "no manifest from %s: %s; trying again for ever", address, error)
        await trio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_MOST_S)
