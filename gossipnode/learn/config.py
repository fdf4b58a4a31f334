"""What a learner must be told: what the run fixes (task, seed, encoding, training), and what is this node's own.

Imports neither torch nor numpy: the daemon builds it, and sends it to its worker as msgpack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gossipnode.learn.accountant import Privacy
from gossipnode.learn.rules import Rules, rules_of
from gossipnode.learn.shard import Shard
from protocols.manifest import Manifest, Training
from protocols.merging import Merging, settled


class LearnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    task: str
    seed: int = 0
    encoding: Literal["float32", "bfloat16", "int8"] = "float32"
    training: Training = Training()
    merging: Merging = Merging()
    fragments: int = 1  # in which models travel, in gossip
    rules: Rules | None = None  # of one-byte training; None: the run is another kind
    theta0: bytes = b""  # digest of what A is relative to; b"": as the seed makes it here

    privacy: Privacy | None = None  # in one-byte training
    shard: Shard = Shard()
    data: str = ""  # path given to the task; "": the task's own data
    store: str = ""  # of the node: a worker reads and writes blobs/ there, and privacy.json; unused inline
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    @property
    def data_path(self) -> Path | None:
        return Path(self.data) if self.data else None

    @classmethod
    def of(cls, manifest: Manifest) -> LearnerConfig:
        """For a run that exists; `msgspec.structs.replace` adds what is this node's own."""
        config = cls(
            task=manifest.task,
            seed=manifest.seed,
            encoding=manifest.encoding,
            training=manifest.training,
            merging=settled(manifest.merging, manifest.protocol),
            fragments=manifest.gossip.fragments if manifest.protocol == "gossip" else 1,
        )
        if manifest.protocol != "onebyte":
            return config
        return msgspec.structs.replace(config, rules=rules_of(manifest.onebyte), theta0=bytes.fromhex(manifest.theta0))
