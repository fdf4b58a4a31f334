"""Which training examples are whose: a pure function of (labels, shard), the same on every machine.

The shards of one partition are disjoint, cover every example, and none is empty. Random numbers come from numpy's
legacy RandomState, whose streams are frozen for good, seeded by a BLAKE2b of the partition's name and seed.

* `iid`: a shuffle dealt round-robin; sizes differ by one at most.
* `dirichlet:ALPHA`: each class is divided in proportions drawn from Dirichlet(ALPHA) (Hsu et al., arXiv 1909.06335).
* `labels`: sorted by label, cut in two pieces a node, dealt at random: about two labels each (arXiv 1602.05629).
"""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from gossipnode.learn.names import TaskError

if TYPE_CHECKING:  # numpy costs the daemon 20 MB, and the daemon only passes shards on
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


RANK = 9_999  # of an adapter, at most
_TEXT = re.compile(r"(\d{1,9})/(\d{1,9}) ([a-z:.0-9]{1,30}) (\d{1,19})(?: rank ([1-9]\d{0,3}))?")


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Piece `index` of `count`. The default is everything: a node with data of its own has no need to cut it. `rank` is
    of what is trained on it, in tasks with adapters, so that who does the work again does the same; 0: of the run."""

    index: Annotated[int, Meta(ge=0)] = 0
    count: Annotated[int, Meta(ge=1)] = 1
    partition: str = "iid"
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    rank: Annotated[int, Meta(ge=0, le=RANK)] = 0

    @property
    def text(self) -> str:
        """As a claim has it; `shard_named` reads it."""
        rank = f" rank {self.rank}" if self.rank else ""
        return f"{self.index}/{self.count} {self.partition} {self.seed}{rank}"

    def rows(self, labels: NDArray[np.integer[Any]]) -> Rows:
        """Ascending indices of this shard's examples. Raises TaskError."""
        if self.index >= self.count:
            raise TaskError(f"shard {self.index} of {self.count} does not exist: the last is {self.count - 1}")
        whole = msgspec.structs.replace(self, index=0, rank=0)
        return _partition(labels.tobytes(), labels.dtype.str, whole)[self.index]


def shard_named(text: str) -> Shard:
    """Of its `text`, which may be a peer's. Raises TaskError."""
    found = _TEXT.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]) or int(found[4]) >= 2**63:
        raise TaskError(f"there is no shard {text!r}")
    rank = int(found[5] or 0)
    return Shard(index=int(found[1]), count=int(found[2]), partition=found[3], seed=int(found[4]), rank=rank)


def partition(labels: NDArray[np.integer[Any]], shard: Shard) -> list[Rows]:
    """The rows of every shard of the partition that `shard` belongs to. Raises TaskError."""
    import numpy as np  # not at the top: the daemon imports this module for `Shard` alone

    if shard.count > len(labels):
        raise TaskError(f"{len(labels)} training examples cannot be cut into {shard.count} shards: none may be empty")
    draw = np.random.RandomState(_seed(shard))
    kind, _, argument = shard.partition.partition(":")
    if kind == "iid" and not argument:
        shards = _iid(len(labels), shard.count, draw)
    elif kind == "labels" and not argument:
        shards = _labels(labels, shard.count, draw)
    elif kind == "dirichlet":
        shards = _dirichlet(labels, shard.count, _alpha(argument), draw)
    else:
        raise TaskError(f"unknown partition {shard.partition!r}: iid, labels or dirichlet:ALPHA, as in dirichlet:0.5")
    return [np.sort(rows) for rows in _none_empty(shards)]


@lru_cache(maxsize=1)  # hundreds of nodes in one process ask for a shard each of the same partition
def _partition(labels: bytes, dtype: str, shard: Shard) -> list[Rows]:
    import numpy as np  # as in `partition`

    return partition(np.frombuffer(labels, dtype=dtype), shard)


def _seed(shard: Shard) -> list[int]:
    name = f"gossipnode partition {shard.partition} {shard.count} {shard.seed}".encode()
    digest = hashlib.blake2b(name, digest_size=32).digest()
    return [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 32, 4)]


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 1e-3 <= alpha <= 1e6:  # below, a draw of all zeros becomes likely; above, it is iid
        raise TaskError(f"partition dirichlet:{text}: ALPHA is a number from 0.001 to 1000000, as in dirichlet:0.5")
    return alpha


def _iid(examples: int, count: int, draw: np.random.RandomState) -> list[Rows]:
    order = draw.permutation(examples)
    return [order[index::count] for index in range(count)]


def _labels(labels: NDArray[np.integer[Any]], count: int, draw: np.random.RandomState) -> list[Rows]:
    import numpy as np  # as in `partition`

    pieces = np.array_split(np.argsort(labels, kind="stable"), 2 * count)
    dealt = draw.permutation(2 * count)
    return [np.concatenate([pieces[dealt[2 * i]], pieces[dealt[2 * i + 1]]]) for i in range(count)]


def _dirichlet(labels: NDArray[np.integer[Any]], count: int, alpha: float, draw: np.random.RandomState) -> list[Rows]:
    import numpy as np  # as in `partition`

    shards: list[list[Rows]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        weights = draw.standard_gamma(alpha, size=count)
        share = weights / max(weights.sum(), np.finfo(float).tiny)
        cuts = np.floor(np.cumsum(share)[:-1] * len(rows)).astype(np.int64)
        for shard, piece in zip(shards, np.split(rows, np.minimum(cuts, len(rows))), strict=True):
            shard.append(piece)
    return [np.concatenate(pieces) for pieces in shards]


def _none_empty(shards: list[Rows]) -> list[Rows]:
    """An empty shard takes one example of the largest: a trainer without data could never be sampled usefully."""
    for index, rows in enumerate(shards):
        if len(rows) == 0:
            largest = max(range(len(shards)), key=lambda other: len(shards[other]))
            shards[index], shards[largest] = shards[largest][:1], shards[largest][1:]
    return shards
