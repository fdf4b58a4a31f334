"""The manifest: everything the peers of one run must agree on, fixed by its author.

The run id is the BLAKE2b-256 of the first manifest's canonical msgpack (structs as arrays, in field order); it salts every
topic, ranking, seed and signature, so that two runs never mix. Amendments are signed by the same author, each naming the
digest of what it amends, so every peer that holds the chain computes the same present manifest.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocols import limits
from sampling.peers import PeerId

Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Committee = Annotated[int, Meta(ge=1, le=limits.COMMITTEE)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Rounds = Annotated[int, Meta(ge=0, le=limits.ROUND)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the manifest. Unknown keys are errors: a typo must not silently mean the default."""


class Training(Section, frozen=True, kw_only=True):
    """Local work of one trainer in one round: SGD with momentum."""

    lr: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.05
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    batch: Annotated[int, Meta(ge=1, le=65_536)] = 20
    epochs: Annotated[int, Meta(ge=0, le=1000)] = 1  # passes over the shard; 0: use `steps`
    steps: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # batches a round, when epochs = 0


class Modest(Section, frozen=True, kw_only=True):
    """MoDeST (arXiv 2302.13837): s trainers, a aggregators, success fraction sf, activity window dk."""

    trainers: Committee = 4
    aggregators: Committee = 1
    success_fraction: Fraction = 1.0  # of the trainers' models that an aggregator waits for
    activity_window: Annotated[int, Meta(ge=1, le=limits.ROUND)] = 50  # rounds without a sign of life before a peer is no candidate
    pull_every: Annotated[int, Meta(ge=1, le=limits.ROUND)] = 5  # nodes outside the committee fetch every R-th aggregate


class Timing(Section, frozen=True, kw_only=True):
    """Bounds of the deadlines that nodes learn from measured round trips."""

    ping_floor_s: Seconds = 0.25
    ping_ceiling_s: Seconds = 5.0
    round_floor_s: Seconds = 1.0
    round_ceiling_s: Seconds = 300.0


class Admission(Section, frozen=True, kw_only=True):
    """Who may take part. `open` admits anyone and is for experiments; `allow` names the peers."""

    mode: Literal["open", "allow"] = "open"
    allow: Annotated[tuple[PeerId, ...], Meta(max_length=1000)] = ()
    delay_rounds: Annotated[int, Meta(ge=0, le=limits.ROUND)] = 0  # rounds between joining and first being sampled


class Manifest(Section, frozen=True, kw_only=True):
    """Shapes and units as commented; the defaults are those of `gossipnode start` without options."""

    version: Literal[1] = 1
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    protocol: Literal["modest"]
    task: Annotated[str, Meta(min_length=1, max_length=200)]  # built-in name, or package.module:attribute
    task_source: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""  # BLAKE2b-256 of the task's source, unless built in
    author: PeerId
    seed: Annotated[int, Meta(ge=0, lt=2**63)] = 0
    theta0: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # digest of the initial model's blob
    model_bytes: Annotated[int, Meta(ge=1, le=limits.BLOB_BYTES)]  # size of every model blob of this run
    encoding: Literal["float32", "bfloat16", "int8"] = "float32"
    rounds: Rounds = 0  # the run ends after this many; 0: never
    start_peers: Annotated[int, Meta(ge=1, le=limits.VIEW_PEERS)] = 1  # trainers that must be known before round 1
    training: Training = Training()
    modest: Modest = Modest()
    timing: Timing = Timing()
    admission: Admission = Admission()
