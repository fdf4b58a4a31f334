"""What `gossipnode simulate` is asked for: options and a scenario file, combined and checked before anything runs.

The file has a key for every option, `[manifest]` for the settings of the run, and `[[event]]` for what befalls the
swarm. Options win over the file key by key; events of both happen. Invariant: one `Setting` and one seed are one run,
so that a sweep can name a failing run by its command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gossipnode.adversaries.kinds import cast_of
from gossipnode.compute.inline import Cost
from gossipnode.config import ranks_of, slowdowns_of
from gossipnode.errors import OperatorError
from gossipnode.events import Event, event_of, require_possible, told
from gossipnode.net.simulated import Conditions, regions
from gossipnode.newrun import merged, require_draft
from gossipnode.random_faults import random_events, random_loss
from gossipnode.simulation import Scenario, signer_of
from gossipnode.toml import read_tables, typed

LAN_S: Final = 0.0005  # one way
BYTES_PER_MB: Final = 1_000_000
TRAINERS: Final = 4  # of a round, unless the settings say otherwise or there are fewer nodes

Share = Annotated[float, Meta(ge=0.0, le=0.9)]


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key for every option of the command; the defaults are those of the command without options."""

    nodes: Annotated[int, Meta(ge=1, le=10_000, description="how many there are at the start")] = 20
    protocol: Annotated[str, Meta(description="how they train together")] = "modest"
    task: Annotated[str, Meta(description="what they train")] = "digits"
    rounds: Annotated[int, Meta(ge=1, description="rounds to train, or steps with onebyte")] = 20
    seed: Annotated[int, Meta(ge=0, le=2**62, description="one seed gives one trace")] = 7
    partition: Annotated[str, Meta(description="of the data: iid, labels or dirichlet:ALPHA")] = "iid"
    latency: Annotated[Literal["lan", "wan"], Meta(description="distances between nodes")] = "wan"
    loss: Annotated[Share, Meta(description="share of messages lost")] = 0.0
    bandwidth: Annotated[float, Meta(ge=0.0, description="MB/s of each node's link; 0: unlimited")] = 0.0
    speed: Annotated[
        str, Meta(description="with gossip: how fast the nodes are beside each other, in turn, as 1,1,2,4")
    ] = "1"
    rank: Annotated[
        str, Meta(description="how many components of each adapter the nodes train, in turn, as 2,4,8; empty: all")
    ] = ""
    batch_s: Annotated[float, Meta(gt=0.0, description="virtual seconds of a step of SGD")] = Cost().batch_s
    limit_s: Annotated[float, Meta(gt=0.0, description="virtual seconds after which it has failed")] = 86_400.0
    init: Annotated[
        Literal["common", "different"] | None, Meta(description="first models of the nodes, with gossip")
    ] = None
    progress_s: Annotated[
        float, Meta(gt=0.0, description="virtual seconds without a fault or a round that are too many")
    ] = 900.0
    random_faults: Annotated[bool, Meta(description="the seed draws faults too")] = False
    adversary: Annotated[tuple[str, ...], Meta(description="hostile nodes, as KIND:COUNT; they are the last")] = ()
    manifest: Annotated[dict[str, Any], Meta(description="settings of the run")] = {}
    event: Annotated[
        tuple[dict[str, Any], ...], Meta(description="what befalls the swarm, in no particular order")
    ] = ()

    @property
    def last_round(self) -> int:
        """Or step."""
        return int(self.manifest.get("onebyte", {}).get("steps", self.rounds)) if self.is_chain else self.rounds

    @property
    def is_chain(self) -> bool:
        return self.protocol == "onebyte"

    @property
    def events(self) -> list[Event]:
        """Raises OperatorError."""
        return [event_of(table, f"event {number}") for number, table in enumerate(self.event, start=1)]


def setting_of(path: Path | None, options: Mapping[str, Any], manifest: Mapping[str, Any]) -> Setting:
    """`options` by key, None for those not given; `manifest`: of --set. Raises OperatorError."""
    tables = read_tables(path) if path is not None else {}
    source = str(path) if path is not None else "simulate"
    for number, table in enumerate(_list(tables, "event", source), start=1):
        event_of(table, f"{source}: event {number}")
    _require_table(tables, source)
    given = {key: value for key, value in options.items() if value is not None}
    setting = typed({**tables, **given}, Setting, source)
    setting = msgspec.structs.replace(setting, manifest=merged(setting.manifest, manifest))
    require_draft(setting.manifest)
    require_possible(setting.events, source, setting.last_round)
    return setting


def _list(tables: Mapping[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    value = tables.get(key, [])
    if not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise OperatorError(f"{source}: write each {key} as a table [[{key}]]")
    return value


def _require_table(tables: Mapping[str, Any], source: str) -> None:
    if not isinstance(tables.get("manifest", {}), dict):
        raise OperatorError(f"{source}: write the settings of the run as a table [manifest]")


def with_seed(setting: Setting, seed: int) -> Setting:
    return msgspec.structs.replace(setting, seed=seed)


def with_events(setting: Setting, events: Sequence[Event], source: str) -> Setting:
    """Those of the command line too. Raises OperatorError."""
    require_possible(events, source, setting.last_round)
    return msgspec.structs.replace(setting, event=(*setting.event, *map(told, events)))


def with_adversaries(setting: Setting, asked: Sequence[str]) -> Setting:
    """Those of the command line too. Raises OperatorError."""
    adversary = (*setting.adversary, *asked)
    cast_of(adversary, setting.nodes, setting.protocol)
    return msgspec.structs.replace(setting, adversary=adversary)


def scenario_of(setting: Setting) -> Scenario:
    """Raises OperatorError."""
    asked = {key: getattr(setting, key) for key in ("task", "protocol", "rounds", "seed")}
    asked["start_peers"] = setting.nodes
    events = setting.events
    loss = setting.loss
    if setting.random_faults:
        events += random_events(setting.seed, setting.nodes, setting.last_round)
        loss = loss or random_loss(setting.seed)
    conditions = Conditions(
        delay=regions(setting.seed) if setting.latency == "wan" else LAN_S,
        bandwidth=setting.bandwidth * BYTES_PER_MB or math.inf,
        request_loss=loss,
        gossip_loss=loss,
    )
    own = _chain_of(setting) if setting.is_chain else {"modest": {"trainers": min(TRAINERS, setting.nodes)}}
    if setting.init is not None:
        own = {"gossip": {"init": setting.init}}
    return Scenario(
        nodes=setting.nodes,
        seed=setting.seed,
        tables=merged(asked, own, setting.manifest),
        partition=setting.partition,
        conditions=conditions,
        limit_s=setting.limit_s,
        events=events,
        progress_s=setting.progress_s,
        adversaries=cast_of(setting.adversary, setting.nodes, setting.protocol),
        slowdowns=slowdowns_of(setting.speed),
        ranks=ranks_of(setting.rank),
        batch_s=setting.batch_s,
    )


def _chain_of(setting: Setting) -> dict[str, Any]:
    """Who is there at the start founds the chain, as a run of machines that are known beforehand would have it."""
    founders = [signer_of(setting.seed, index).peer for index in range(setting.nodes)]
    return {"onebyte": {"steps": setting.rounds, "founders": founders}}
