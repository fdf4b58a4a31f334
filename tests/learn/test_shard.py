from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.learn.names import TaskError
from gossipnode.learn.shard import Shard, partition

partitions = st.sampled_from(["iid", "labels", "dirichlet:0.1", "dirichlet:1000", "dirichlet:0.001"])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), partitions, st.integers(0, 2**63 - 1), st.data())
def test_shards_are_disjoint_cover_everything_and_none_is_empty(
    labels: list[int], kind: str, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(labels)))
    shards = partition(np.array(labels), Shard(count=count, partition=kind, seed=seed))
    assert len(shards) == count
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(labels)))
    assert all(len(rows) > 0 for rows in shards)


@given(partitions, st.integers(0, 1000))
def test_every_node_computes_the_same_partition(kind: str, seed: int) -> None:
    labels = np.arange(100) % 10
    shards = partition(labels, Shard(count=7, partition=kind, seed=seed))
    again = [Shard(index=i, count=7, partition=kind, seed=seed).rows(labels) for i in range(7)]
    assert [rows.tolist() for rows in shards] == [rows.tolist() for rows in again]


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("iid", "b29e152d593f748b"), ("labels", "e66eef71e8b17d21"), ("dirichlet:0.5", "1241146a4d2f16ac")],
)
def test_partitions_are_what_they_were(kind: str, digest: str) -> None:
    shards = partition(np.arange(4000) % 10, Shard(count=8, partition=kind, seed=5))
    text = ";".join(",".join(map(str, rows.tolist())) for rows in shards)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_kinds_differ_in_how_labels_are_spread() -> None:
    labels = np.sort(np.arange(4000) % 10)

    def kinds(name: str) -> list[int]:
        return [len(np.unique(labels[rows])) for rows in partition(labels, Shard(count=20, partition=name))]

    assert min(kinds("iid")) == 10
    assert max(kinds("labels")) <= 4
    assert np.mean(kinds("dirichlet:0.1")) < np.mean(kinds("dirichlet:10"))


@pytest.mark.parametrize(
    ("shard", "line"),
    [
        (Shard(partition="random"), "unknown partition 'random'"),
        (Shard(partition="iid:3"), "unknown partition"),
        (Shard(partition="dirichlet:"), "ALPHA is a number"),
        (Shard(partition="dirichlet:nan"), "ALPHA is a number"),
        (Shard(partition="dirichlet:-1"), "ALPHA is a number"),
        (Shard(index=3, count=3), "shard 3 of 3 does not exist"),
        (Shard(count=50), "cannot be cut into 50"),
    ],
)
def test_errors_are_one_clear_line(shard: Shard, line: str) -> None:
    with pytest.raises(TaskError, match=line) as caught:
        shard.rows(np.zeros(10, dtype=np.int64))
    assert "\n" not in str(caught.value)
