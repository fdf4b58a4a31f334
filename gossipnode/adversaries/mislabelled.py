"""Any task, with its training labels turned round: label l becomes (most - l). What is held out keeps its own.

A worker imports a task by name, so `spec_of` names the honest one within a name of this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gossipnode.adversaries.bent import bent

if TYPE_CHECKING:  # with it comes torch, which only the worker loads
    from gossipnode.learn.task import Data, Shard, Task

_PREFIX = "of_"


def spec_of(honest: str) -> str:
    return f"{__name__}:{_PREFIX}{honest.encode().hex()}"


def __getattr__(name: str) -> Task:
    if not name.startswith(_PREFIX):
        raise AttributeError(name)
    from gossipnode.learn.task import load_task

    return mislabelled(load_task(bytes.fromhex(name.removeprefix(_PREFIX)).decode()))


def mislabelled(task: Task) -> Task:
    def data(shard: Shard, path: Path | None) -> Data:
        found = task.data(shard, path)
        *inputs, labels = found.pool
        return type(found)((*inputs, labels.max() - labels), found.rows, found.test)

    return bent(task, data=data)
