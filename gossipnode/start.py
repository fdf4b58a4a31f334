"""`gossipnode init` and `gossipnode start`: from what was typed to a home, a configuration and a running daemon."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from gossipnode.conduct import HONEST, Conduct
from gossipnode.config import Config, load_config, peers_from, save_config
from gossipnode.daemon import run_daemon
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.identity import create_identity, load_identity
from gossipnode.log import set_up_log
from gossipnode.newrun import Tables, draft, merged, require_draft, require_same, settings_tables
from gossipnode.toml import load_manifest, read_tables
from protocols.amendments import present

log = logging.getLogger(__name__)

ADVERSARY: Final = "GOSSIPNODE_ADVERSARY"  # for tests of a swarm: this node is to be of that kind
NEW_RUN = (
    "protocol",
    "rounds",
    "steps",
    "manifest",
    "settings",
)  # options about a run to begin; all others are the node's own


def init_home(path: Path) -> str:
    """What it made, in words. What is there already is kept."""
    home = Home(path)
    home.create()
    fresh = not home.identity.exists()
    identity = create_identity(home.identity) if fresh else load_identity(home.identity)
    if not home.config.exists():
        save_config(home.config, Config())
    return f"{'made' if fresh else 'found'} {home.identity}\nsettings in {home.config}\npeer id {identity.peer}"


def start_node(path: Path, options: Mapping[str, Any]) -> None:
    """Returns when a signal has ended the node. Raises OperatorError."""
    home = Home(path)
    home.create()
    config = _config(home, options)
    if config.data and not Path(config.data).exists():
        raise OperatorError(f"--data {config.data}: there is no such file or folder")
    set_up_log(config.log_level, as_json=config.log_json)
    tables = _draft(options, config)
    conduct = _conduct()
    with home.lock():
        home.forget_addresses()  # of a node that was killed here
        identity = load_identity(home.identity) if home.identity.exists() else create_identity(home.identity)
        # What is wrong with what was said of the run is told before anything is started.
        if home.manifest.exists():
            signed = load_manifest(home.manifest)
            require_same(tables, signed, f"the home {home.path}")
            _require_unit(options, present(signed).protocol)
        elif not config.peers:
            _require_unit(options, draft(tables, identity.peer).protocol)
        elif (protocol := tables.get("protocol")) is not None:
            _require_unit(options, str(protocol))
        try:
            trio.run(run_daemon, home, config, tables, conduct)
        except* OperatorError as errors:
            raise _first(errors) from None
        finally:
            home.forget_addresses()


def _conduct() -> Conduct:
    """Raises OperatorError."""
    name = os.environ.get(ADVERSARY, "")
    if not name:
        return HONEST
    from gossipnode.adversaries.bent import Gang
    from gossipnode.adversaries.kinds import kind_of  # numpy comes with it

    kind = kind_of(name, ADVERSARY)
    log.warning("%s=%s: this node works AGAINST its run, which is for tests only", ADVERSARY, name)
    return kind(Gang(random.Random()))  # its chance is nobody's secret


def _config(home: Home, options: Mapping[str, Any]) -> Config:
    own = {key: _plain(value) for key, value in options.items() if key not in NEW_RUN}
    config = load_config(home.config, own)
    return load_config(home.config, {**own, "peers": peers_from(config.peers)})


def _plain(value: object) -> object:
    """As the configuration file would have it; what was not given is None."""
    if isinstance(value, Path):
        return str(value)
    return value if value != () else None


def _draft(options: Mapping[str, Any], config: Config) -> Tables:
    file = read_tables(options["manifest"]) if options["manifest"] else {}
    given = {key: options[key] for key in ("protocol", "rounds") if options[key] is not None}
    steps = {"onebyte": {"steps": options["steps"]}} if options.get("steps") else {}
    task = {"task": config.task} if config.task else {}
    tables = merged(file, task, given, steps, settings_tables(options["settings"]))
    require_draft(tables)
    return tables


def _require_unit(options: Mapping[str, Any], protocol: str) -> None:
    """One protocol counts rounds, the other steps. Raises OperatorError."""
    rounds, steps = options.get("rounds"), options.get("steps")
    if protocol == "onebyte" and rounds is not None:
        raise OperatorError(f"--rounds {rounds}: one-byte runs count steps: give --steps instead")
    if protocol != "onebyte" and steps is not None:
        raise OperatorError(f"--steps {steps}: {protocol} runs count rounds: give --rounds, or --protocol onebyte")


def _first(errors: BaseExceptionGroup[BaseException]) -> OperatorError:
    """Nurseries wrap errors in groups; the operator wants the line."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperatorError)
    return error
